"""Machine state in the residual stream: what each register holds, by layer and by the class of the current token.

A ridge probe per (site, token class, register): regress, round, and count exact matches, beside R², the best constants
and the same probe on the untrained model. Stores and loads are told apart by whether they name the probed register.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cadmus import corpus, kernel, labels, tokens, vm
from cadmus.families import Register
from cadmus.model import Model
from probes import stats
from probes.bank import RidgeFitter, RidgeProbe
from probes.controls import Majority
from probes.harvest import FOLDS, harvest, residual_sites, skeleton_folds, skeleton_ids

VARIABLES = tuple(f"reg.{register}.value" for register in vm.REGISTERS)
ALL = "all registers"
CLASSES = ("digit", "store, this register", "store, another", "load, this register", "load, another")
CLASSES = (*CLASSES, "operator", "comparison", "end")
FEWEST_ROWS = 200  # of probe training; a (token class, register) with fewer is left out


@dataclass(frozen=True)
class _Labels:
    """What is probed at every position: arrays [n, positions, register], beside the tokens [n, positions].

    `group` indexes CLASSES (as seen from that register); -1 where there is nothing to read: padding, the marker, a
    register that holds no Int.
    """

    programs: np.ndarray
    tokens: np.ndarray
    values: np.ndarray
    group: np.ndarray
    folds: np.ndarray
    skeletons: np.ndarray

    def fold(self, name: str) -> _Labels:
        chosen = self.folds == FOLDS.index(name)
        arrays = (self.programs, self.tokens, self.values, self.group, self.folds, self.skeletons)
        return _Labels(*(array[chosen] for array in arrays))


def registers(
    models: dict[str, Model],
    family: Register,
    *,
    programs: int = 4000,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> pd.DataFrame:
    """Two rows (exact match, R²) per (model, site, token class, register), and for the registers together.

    Probes are fitted and tested where the register holds an Int, on `register` programs whose skeletons training never
    saw, split by skeleton. `majority` is the best constant, `by_token` the best constant given the current token, both
    learned from the probe's training programs. `progress` is told the share done.
    """
    data = _label(corpus.held_out(family, "test_skeleton", programs, seed), family)
    rows = []
    for done, (name, model) in enumerate(models.items()):
        rows += _probe_model(name, model, data, seed)
        if progress is not None:
            progress((done + 1) / len(models))
    return pd.DataFrame(rows)


def _label(programs: np.ndarray, family: Register) -> _Labels:
    traces = kernel.traces(programs)
    read = [labels.read(traces, name) for name in VARIABLES]
    values, defined = np.stack([r.values for r in read], 2), np.stack([r.defined for r in read], 2)
    sequences = tokens.sequences(programs)
    names = np.array(list(tokens.TOKEN_CLASSES))[tokens.classes(sequences)]
    group = np.full(values.shape, -1)
    for k, register in enumerate(vm.REGISTERS):
        if register not in family.registers:
            continue
        this = np.isin(sequences, [vm.VOCAB.index(register), vm.VOCAB.index(register.upper())])
        for code, label in enumerate(CLASSES):
            token_class, _, which = label.partition(", ")
            at = names == token_class
            if which:
                at &= this if which == "this register" else ~this
            group[at, k] = code
    inside = np.arange(sequences.shape[1]) <= tokens.lengths(programs)[:, None] + 1  # through the program's own `.`
    group[~(defined & inside[:, :, None])] = -1
    group[:, 0] = -1
    return _Labels(programs, sequences, values, group, skeleton_folds(programs), skeleton_ids(programs))


def _probe_model(name: str, model: Model, data: _Labels, seed: int) -> list[dict]:
    sites = residual_sites(model)
    train, test = data.fold("train"), data.fold("test")
    groups = [group for group in range(len(CLASSES)) if _enough(data, train, group)]
    probes = _fit(model, data, sites, groups)
    predicted = _predict(model, test, sites, groups, probes)
    program = np.broadcast_to(np.arange(len(test.programs))[:, None, None], test.group.shape)
    rows = []
    for group in groups:
        majority, by_token = np.zeros(test.group.shape, bool), np.zeros(test.group.shape, bool)
        for k in range(len(VARIABLES)):
            at, seen = test.group[:, :, k] == group, train.group[:, :, k] == group
            if seen.any():
                guess = Majority(train.values[:, :, k][seen], train.tokens[seen])
                majority[at, k] = guess.overall == test.values[:, :, k][at]
                by_token[at, k] = guess.predict(test.tokens[at]) == test.values[:, :, k][at]
        for layer, site in enumerate(sites):
            for variable, registers_ in [*((v, [k]) for k, v in enumerate(VARIABLES)), (ALL, range(len(VARIABLES)))]:
                mask = (test.group == group) & np.isin(np.arange(len(VARIABLES)), registers_)
                if not mask.any():
                    continue
                y, guess = test.values[mask], predicted[site][mask]
                clusters = (test.skeletons[program[mask]], program[mask], seed)
                about = {
                    "model": name,
                    "site": site,
                    "layer": layer,
                    "token_class": CLASSES[group],
                    "variable": variable,
                    "majority": majority[mask].mean(),
                    "by_token": by_token[mask].mean(),
                    "programs": len(np.unique(program[mask])),
                    "rows": len(y),
                    "seed": seed,
                }
                match = stats.accuracy(np.rint(guess) == y, *clusters)
                rows.append({**about, **stats.columns("ridge", "exact match", match)})
                rows.append({**about, **stats.columns("ridge", "R2", stats.r_squared(y, guess, *clusters))})
    return rows


def _enough(data: _Labels, train: _Labels, group: int) -> bool:
    """Whether every register that has this token class at all has it often enough to fit a probe."""
    anywhere, fitted = (data.group == group).any((0, 1)), (train.group == group).sum((0, 1))
    return anywhere.any() and bool((fitted[anywhere] >= FEWEST_ROWS).all())


def _fit(model: Model, data: _Labels, sites: list[str], groups: list[int]) -> dict[tuple[str, int, int], RidgeProbe]:
    """One probe per (site, token class, register); the penalty is chosen on validation."""
    keys = [(site, group, k) for site in sites for group in groups for k in range(len(VARIABLES))]
    keys = [key for key in keys if (data.group[:, :, key[2]] == key[1]).any()]
    fitters = {fold: {key: RidgeFitter(model.cfg.d_model, 1) for key in keys} for fold in ("train", "validation")}
    for fold, gathered in fitters.items():
        part = data.fold(fold)
        for batch, cache in harvest(model, part.programs, sites):
            for site in sites:
                activations = cache[site].cpu().numpy()
                for key in (key for key in keys if key[0] == site):
                    at = part.group[batch, :, key[2]] == key[1]
                    gathered[key].update(activations[at], part.values[batch, :, key[2]][at][:, None])
    return {key: fitters["train"][key].fit(validation=fitters["validation"][key]) for key in keys}


def _predict(
    model: Model, test: _Labels, sites: list[str], groups: list[int], probes: dict[tuple[str, int, int], RidgeProbe]
) -> dict[str, np.ndarray]:
    """What the probes read at every position of the test programs: {site: float [n, positions, register]}."""
    predicted = {site: np.zeros(test.group.shape) for site in sites}
    for batch, cache in harvest(model, test.programs, sites):
        for (site, group, k), probe in probes.items():
            at = test.group[batch, :, k] == group
            predicted[site][batch, :, k][at] = probe.predict(cache[site].cpu().numpy()[at])[:, 0]
    return predicted
