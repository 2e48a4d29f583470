"""The nonlinear reference: networks on activations, each at the site where the linear probe of its target reads best.

A network computes from its input what no linear probe can, so that it is held against networks: one on the input
(`probes.controls.input_network`), and one of equal size, fitted to as many rows, on the untrained model's activations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from cadmus.runtime.threads import on_threads
from probes.data.activations import Batch
from probes.measurement.plan import HALVES, TRAINED, UNTRAINED, Plan
from probes.solvers.mlp import MLPClassifierProbe
from probes.solvers.site_probes import MIN_OF_CLASS, MIN_ROWS, FittedProbes

HALF = "half of untrained"  # the untrained model's networks as fitted to half of the programs
MAX_ROWS = 15_000  # training tokens of a target, at most
_MAX_VALIDATION_ROWS = 4_000
_HIDDEN, _PATIENCE = 128, 4
_STEPS, _MIN_EPOCHS, _MAX_EPOCHS = 800, 8, 40
_MIN_BATCH, _MAX_BATCH = 64, 512  # rows in a step: a hundredth of all, between these

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]  # x float32 [rows, features], y int64 [rows], programs int64 [rows]


@dataclass(frozen=True, repr=False)
class Networks:
    """The networks of the machine's own present states, `plan.targets.own`, numbered as these."""

    targets: int
    """How many targets there are, those without a network included."""

    sites: dict[int, str]
    """The site at which a target's network reads."""

    fitted: dict[tuple[str, int], MLPClassifierProbe]
    """By reader (TRAINED, UNTRAINED or HALF) and target."""

    def __repr__(self) -> str:
        return f"Networks({len(self.sites)} of {self.targets} targets)"

    @property
    def readers(self) -> tuple[str, ...]:
        """The readers that there are."""
        return tuple(dict.fromkeys(reader for reader, _ in self.fitted))

    def predict(self, reader: str, batches: Mapping[str, Batch], mask: np.ndarray) -> np.ndarray:
        """What the networks of a reader predict where mask bool [rows, targets] is True: float32 [rows, targets]."""
        activations = batches[TRAINED if reader == TRAINED else UNTRAINED].activations
        predicted = np.full(mask.shape, np.nan, np.float32)
        fitted = {k: network for (name, k), network in self.fitted.items() if name == reader}

        def predict(k: int, network: MLPClassifierProbe) -> tuple[int, np.ndarray, np.ndarray]:
            x = activations[self.sites[k]]
            rows = np.flatnonzero(mask[:, k])
            rows = rows[np.isfinite(x[rows]).all(1)]
            return k, rows, network.predict(x[rows]) if len(rows) else np.zeros(0)

        for k, rows, values in on_threads(predict, list(fitted.items())):
            predicted[rows, k] = values
        return predicted


def best_sites(plan: Plan, probes: Mapping[tuple[str, str], FittedProbes], validation: dict) -> dict[int, str]:
    """The site at which the linear probe of each present state of the machine's own reads most on the validation
    programs, by its number among `plan.targets.own`."""
    sites: dict[int, str] = {}
    for number, k in enumerate(plan.targets.own):
        target = plan.targets[k]
        fitted = [site for site in plan.sites if k not in probes[TRAINED, site].problems]
        if fitted and target.offset == 0 and not target.regression:
            sites[number] = max(fitted, key=lambda site: validation[site][k])
    return sites


def fit(plan: Plan, sites: dict[int, str]) -> Networks:
    """Fit the networks of the targets in `sites`, of every model of the plan, and of the untrained one to half of the
    programs, too."""
    fitted: dict[tuple[str, int], MLPClassifierProbe] = {}
    for done, model in enumerate(plan.models):
        readers = [TRAINED] if model == TRAINED else [UNTRAINED, HALF]
        train = _rows(plan, model, sites, HALVES, MAX_ROWS)
        validation = _rows(plan, model, sites, ("validation",), _MAX_VALIDATION_ROWS)
        keys = [(reader, k) for reader in readers for k in sites]
        networks = on_threads(
            _fit_network, [(train[k], validation[k], reader == HALF, plan.seed) for reader, k in keys]
        )
        fitted |= {key: network for key, network in zip(keys, networks, strict=True) if network is not None}
        plan.progress("fit networks", (done + 1) / len(plan.models), "")
    return Networks(len(plan.targets.own), {k: site for k, site in sites.items() if (TRAINED, k) in fitted}, fitted)


def _fit_network(train: Rows, validation: Rows, half: bool, seed: int) -> MLPClassifierProbe | None:
    """The network of one target; half: fitted to every other program. None where there is too little to fit it to."""
    x, y, programs = train
    if half:
        x, y = x[programs % 2 == 0], y[programs % 2 == 0]
    values, counts = np.unique(y, return_counts=True)
    frequent = np.isin(y, values[counts >= MIN_OF_CLASS])
    x, y = x[frequent], y[frequent]
    if len(y) < MIN_ROWS or len(np.unique(y)) < 2 or not np.isin(validation[1], y).any():
        return None
    batch_size = int(np.clip(len(y) // 100, _MIN_BATCH, _MAX_BATCH))
    network = MLPClassifierProbe(
        hidden=_HIDDEN,
        epochs=int(np.clip(_STEPS * batch_size // len(y), _MIN_EPOCHS, _MAX_EPOCHS)),
        patience=_PATIENCE,
        batch_size=batch_size,
        seed=seed,
    )
    return network.fit(x, y, validation=validation[:2])


def _rows(plan: Plan, model: str, sites: dict[int, str], folds: tuple[str, ...], limit: int) -> dict[int, Rows]:
    """The first `limit` tokens of each target (the order of the programs is random), with the activations at its site.

    A program is run only where some target still lacks tokens.
    """
    if not sites:
        return {}
    plan = replace(plan, sites=tuple(dict.fromkeys(sites.values())), progress=lambda *_: None)
    targets = plan.targets.own
    n_rows = dict.fromkeys(sites, 0)
    parts: dict[int, list[Rows]] = {k: [] for k in sites}
    begin = 0
    for _, part, labels in plan.parts("", *folds):
        picks = np.zeros((len(labels.values), len(targets)), np.bool_)
        for k in sites:
            rows = np.flatnonzero(labels.masks[:, labels.mask_of[targets[k]]])[: limit - n_rows[k]]
            picks[rows, k] = True
            n_rows[k] += len(rows)
        where = np.zeros(part.where.shape, np.bool_)
        where[part.where] = picks.any(1)
        some = np.flatnonzero(where.any(1))
        needed = replace(part[some], where=where[some])
        for batches in plan.batches(needed, model):
            batch = batches[model]
            rows = labels.rows_at(some[batch.programs], batch.positions)
            for k, site in sites.items():
                of_target = picks[rows, k] & np.isfinite(batch.activations[site]).all(1)
                values = labels.values[rows[of_target], targets[k]].astype(np.int64)
                programs = begin + some[batch.programs[of_target]]
                parts[k].append((batch.activations[site][of_target], values, programs))
        begin += len(part)
    return {k: _joined(pieces) for k, pieces in parts.items()}


def _joined(pieces: list[Rows]) -> Rows:
    if not pieces:
        return np.zeros((0, 0), np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64)
    x, y, programs = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    return x, y, programs
