"""The passes over programs that fit probes: gather sums and solve, or take a sample of tokens and fit to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cadmus.runtime.threads import on_threads
from probes.controls.codelength import online_code_length
from probes.controls.input_baselines import Baselines
from probes.data.examples import Examples
from probes.measurement.plan import HALVES, TRAINED, Plan
from probes.solvers import site_probes
from probes.solvers.bank import CLASSES, Bank
from probes.solvers.custom import CustomSiteProbes, Probe
from probes.solvers.rows import BatchLabels
from probes.solvers.site_probes import FittedProbes, SiteProbes

SAMPLE_ROWS = 8_192  # training tokens that code length, and probes that need rows, are given

Banks = dict[tuple[str, str, str], Bank]  # by fold, model and site
Halves = dict[tuple[str, str], FittedProbes]  # by model and site: controls as fitted to half of the training programs
Keep = Callable[[str, str, Bank, Bank], Any]  # keep(site, model, training bank, validation bank) -> what is kept


# --- from sums -------------------------------------------------------------------------------------------------------


def gather(
    plan: Plan, banks: Banks | None, baselines: Baselines | None, controls: bool = False
) -> tuple[np.ndarray, np.ndarray, Halves]:
    """Fill the banks and the baselines from the validation and training programs.

    Returns how many labels are left out as too large, int64 [targets]; which values training has, bool [targets, 199];
    and, with controls, the probes that are controls as the first half of the training programs alone makes them.
    """
    outside = np.zeros(len(plan.targets), np.int64)
    train_values = np.zeros((len(plan.targets), CLASSES), np.bool_)
    halves: Halves = {}
    for half, part, labels in plan.parts("gather activations", "validation", *HALVES):
        fold = "train" if half in HALVES else half
        outside += labels.outside
        if fold == "train":
            train_values |= labels.value_table()
        if baselines is not None:
            baselines.add(part, labels, fold)
        if banks is None:
            continue
        if half == HALVES[1] and controls and not halves:
            halves = _fit_halves(plan, banks)
        for batches in plan.batches(part, *plan.models):
            rows = BatchLabels.at(labels, batches[TRAINED].programs, batches[TRAINED].positions)
            updates = []
            for model, batch in batches.items():
                model_rows = rows.select(plan.targets_of(model))
                for site, x in batch.activations.items():
                    if (fold, model, site) not in banks:
                        banks[fold, model, site] = Bank.of(model_rows, x.shape[1])
                    updates.append((banks[fold, model, site], x, model_rows))
            on_threads(Bank.update, updates)
    return outside, train_values, halves


def _fit_halves(plan: Plan, banks: Banks) -> Halves:
    """The probes of the sites that are controls, fitted to the banks as they are: of half of the training programs."""
    keys = [key for key in plan.control_sites if ("train", *key) in banks and ("validation", *key) in banks]

    def fit_site(model: str, site: str) -> SiteProbes:
        train, validation = banks["train", model, site], banks["validation", model, site]
        if model == TRAINED:
            train, validation = train.select(plan.targets.own), validation.select(plan.targets.own)
        return site_probes.fit(train, validation, plan.targets[plan.targets.own])

    return dict(zip(keys, on_threads(fit_site, keys), strict=True))


def fit(
    plan: Plan, banks: Banks, keep: Keep | None
) -> tuple[dict[tuple[str, str], SiteProbes], dict[tuple[str, str], Any]]:
    """The probes, and what `keep` returns, of every model and site; a bank is dropped once it was used."""

    def fit_site(model: str, site: str) -> tuple[SiteProbes, Any]:
        train, validation = banks.pop(("train", model, site)), banks.pop(("validation", model, site))
        kept_value = None if keep is None else keep(site, model, train, validation)
        return site_probes.fit(train, validation, plan.targets[plan.targets_of(model)]), kept_value

    keys = [(model, site) for model in plan.models for site in plan.sites]
    results = dict(zip(keys, on_threads(fit_site, keys, "fit probes", plan.progress), strict=True))
    probes = {key: fitted for key, (fitted, _) in results.items()}
    return probes, {key: kept_value for key, (_, kept_value) in results.items()} if keep is not None else {}


# --- from a sample ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """Training tokens, program after program."""

    examples: Examples
    """The programs."""

    programs: np.ndarray
    """The program of each token: int64 [rows]."""

    values: np.ndarray
    """int32 [rows, targets]."""

    mask: np.ndarray
    """bool [rows, targets]."""

    @classmethod
    def of(cls, plan: Plan) -> Sample:
        """Take the first training programs (their order is random) up to about `SAMPLE_ROWS` tokens."""
        train = plan.examples.fold("train")
        ends = train.where.sum(1).cumsum()
        part = train[: max(1, int(np.searchsorted(ends, SAMPLE_ROWS, "right")))]
        labels = plan.labels(part)
        return cls(part, np.nonzero(part.where)[0], labels.values, labels.mask)

    def activations(self, plan: Plan, model: str) -> dict[str, np.ndarray]:
        """One model's activations at these tokens: {site: float32 [rows, features]}."""
        batches = [batch[model] for batch in plan.batches(self.examples, model)]
        programs = np.concatenate([batch.programs for batch in batches])
        positions = np.concatenate([batch.positions for batch in batches])
        order = np.lexsort((positions, programs))
        return {site: np.concatenate([batch.activations[site] for batch in batches])[order] for site in plan.sites}


def fit_custom(
    plan: Plan, probe: Probe, sample: Sample, controls: bool
) -> tuple[dict[tuple[str, str], CustomSiteProbes], Halves]:
    """A user's probes of every model and site, one after another: custom probes may not be thread-safe; and, with
    controls, those that are controls, fitted to half of the tokens."""
    probes: dict[tuple[str, str], CustomSiteProbes] = {}
    halves: Halves = {}
    half = len(sample.programs) // 2
    for model in plan.models:
        targets, own = plan.targets_of(model), plan.targets.own
        for site, x in sample.activations(plan, model).items():
            probes[model, site] = CustomSiteProbes.fit(probe, x, sample.values[:, targets], sample.mask[:, targets])
            if controls and (model, site) in plan.control_sites:
                few = sample.values[:half, own], sample.mask[:half, own]
                halves[model, site] = CustomSiteProbes.fit(probe, x[:half], *few)
            plan.progress("fit probes", len(probes) / (len(plan.models) * len(plan.sites)), "")
    return probes, halves


def code_lengths(plan: Plan, sample: Sample) -> dict[str, np.ndarray]:
    """Bits per label of the machine's present states, real and permuted, by site: float64 [targets, (told the
    activations, told nothing)], NaN for other targets."""

    def code(x: np.ndarray) -> np.ndarray:
        bits = np.full((len(plan.targets), 2), np.nan)
        finite = np.isfinite(x).all(1)
        values, mask = sample.values[finite], sample.mask[finite]
        coded = [k for k in plan.targets.own_states if len(np.unique(values[mask[:, k], k])) > 1]
        if coded:
            length = online_code_length(x[finite], values[:, coded], mask[:, coded], sample.programs[finite])
            bits[coded] = np.stack([length.bits, length.by_frequency], 1)
        return bits

    activations = sample.activations(plan, TRAINED)
    bits = on_threads(code, [(x,) for x in activations.values()], "code length", plan.progress)
    return dict(zip(activations, bits, strict=True))
