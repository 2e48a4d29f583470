"""The passes over programs that `probes.measurement.measure` makes: gather sums and fit, take a sample, read and
tally."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from cadmus.machine import vm
from cadmus.runtime.threads import on_threads
from probes.controls.codelength import online_code_length
from probes.controls.input_baselines import Baselines
from probes.data.activations import Batch, token_rows
from probes.data.examples import TRUE_MACHINE, Examples, Labelled, Target, labelled
from probes.measurement.tally import Breakdown, Tally, clusters_of
from probes.solvers import site_probes
from probes.solvers.bank import CLASSES, Bank
from probes.solvers.custom import CustomSiteProbes, Probe
from probes.solvers.rows import BatchLabels
from probes.solvers.site_probes import SiteProbes

TRAINED, UNTRAINED = "trained", "untrained"
BANK_BYTES = 6e9  # of memory that banks take together, at most
SAMPLE_ROWS = 8_192  # training tokens that code length, and probes that need rows, are given

Progress = Callable[[str, float], None]  # told the stage and the share of it done
Banks = dict[tuple[str, str, str], Bank]  # by fold, model and site
Fitted = Mapping[tuple[str, str], SiteProbes | CustomSiteProbes]  # by model and site


def own_targets(targets: Sequence[Target]) -> list[int]:
    """The places of the machine's own variables among targets: no controls, no alternative machines."""
    return [k for k, target in enumerate(targets) if target.machine == TRUE_MACHINE and not target.permuted]


@dataclass(frozen=True)
class Plan:
    """What is to be read in which models, TRAINED and perhaps UNTRAINED."""

    models: Mapping[str, Any]
    examples: Examples
    targets: tuple[Target, ...]
    sites: tuple[str, ...]
    machines: Mapping[str, vm.Semantics]
    seed: int
    progress: Progress

    @cached_property
    def own(self) -> np.ndarray:
        """`own_targets` of the targets: int64 [own]."""
        return np.array(own_targets(self.targets), int)

    def read_in(self, name: str) -> np.ndarray:
        """The places of the targets that are read in a model: of the twin the machine's own only."""
        return np.arange(len(self.targets)) if name == TRAINED else self.own

    def labels(self, part: Examples) -> Labelled:
        """Of all targets."""
        return labelled(part, self.targets, self.machines, self.seed)

    def parts(self, stage: str, *folds: str) -> Iterator[tuple[str, Examples, Labelled]]:
        """(fold, examples, their labels) part by part, `progress` being told of each."""
        done, total = 0, len(self.examples.fold(*folds))
        for fold in folds:
            for part in self.examples.fold(fold).chunks():
                yield fold, part, self.labels(part)
                done += len(part)
                self.progress(stage, done / total)

    def batches(self, part: Examples, *names: str) -> Iterator[dict[str, Batch]]:
        """The same tokens of several models, batch by batch."""
        streams = [token_rows(self.models[name], part.programs, self.sites, where=part.where) for name in names]
        for batches in zip(*streams, strict=True):
            yield dict(zip(names, batches, strict=True))


def site_groups(task: Plan) -> list[tuple[str, ...]]:
    """The sites in groups whose banks, of both folds and all models, fit into `BANK_BYTES` together; a site that alone
    does not is a group of its own."""
    one = task.examples.fold("train")[:1]
    (widths,) = token_rows(task.models[TRAINED], one.programs, task.sites)
    masks, groups, size = task.labels(one).defined.shape[-1], [], 0.0
    for site in task.sites:
        features = widths.activations[site].shape[1]
        bank = 8 * features * (masks * features + len(task.targets) * CLASSES)
        if not groups or size + 2 * len(task.models) * bank > BANK_BYTES:
            groups.append(())
            size = 0.0
        groups[-1] += (site,)
        size += 2 * len(task.models) * bank
    return groups


# --- fit -------------------------------------------------------------------------------------------------------------


def gather(task: Plan, banks: Banks | None, baselines: Baselines | None) -> tuple[np.ndarray, np.ndarray]:
    """Fill the banks and the baselines from the training and validation programs; returns how many labels are left out
    as too large, [targets], and which values training has, bool [targets, 199]."""
    outside, known = np.zeros(len(task.targets), np.int64), False
    for fold, part, labels in task.parts("gather activations", "train", "validation"):
        outside += labels.outside
        known = known | labels.taken() if fold == "train" else known
        if baselines is not None:
            baselines.add(part, labels, fold)
        for batches in task.batches(part, *task.models) if banks is not None else ():
            values, defined = labels.at(batches[TRAINED].programs, batches[TRAINED].positions)
            rows, updates = BatchLabels.of(values, defined, labels.mask_of), []
            for name, batch in batches.items():
                chosen = task.read_in(name)
                wanted = replace(rows, codes=np.ascontiguousarray(rows.codes[:, chosen]))
                for site, x in batch.activations.items():
                    if (fold, name, site) not in banks:
                        banks[fold, name, site] = Bank(x.shape[1], labels.mask_of[chosen], masks=defined.shape[1])
                    updates.append((banks[fold, name, site], x, wanted))
            on_threads(Bank.update, updates)
    return outside, known


def fit(
    task: Plan, banks: Banks, inspect: Callable[[str, str, Bank, Bank], None] | None
) -> dict[tuple[str, str], SiteProbes]:
    """The probes of every model and site; a bank is dropped once it was used."""

    def one(name: str, site: str) -> SiteProbes:
        pair = banks.pop(("train", name, site)), banks.pop(("validation", name, site))
        if inspect is not None:
            inspect(name, site, *pair)
        return site_probes.fit(*pair, [task.targets[k] for k in task.read_in(name)])

    keys = [(name, site) for name in task.models for site in task.sites]
    return dict(zip(keys, on_threads(one, keys, partial(task.progress, "fit probes")), strict=True))


# --- sample ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """Training tokens, program after program: programs int64 [rows]; values int32 and shown bool [rows, targets]."""

    examples: Examples
    programs: np.ndarray
    values: np.ndarray
    shown: np.ndarray

    @classmethod
    def of(cls, task: Plan) -> Sample:
        """Of the first programs, whose order is random, that have about `SAMPLE_ROWS` tokens."""
        train = task.examples.fold("train")
        ends = train.where.sum(1).cumsum()
        chosen = train[: max(1, int(np.searchsorted(ends, SAMPLE_ROWS, "right")))]
        labels = task.labels(chosen)
        return cls(chosen, np.nonzero(chosen.where)[0], labels.values, labels.defined[:, labels.mask_of])

    def activations(self, task: Plan, name: str) -> dict[str, np.ndarray]:
        """Of a model: float32 [rows, features] by site."""
        batches = [batch[name] for batch in task.batches(self.examples, name)]
        programs, positions = (np.concatenate([getattr(b, a) for b in batches]) for a in ("programs", "positions"))
        order = np.lexsort((positions, programs))
        return {site: np.concatenate([b.activations[site] for b in batches])[order] for site in task.sites}


def fit_custom(task: Plan, probe: Probe, sample: Sample) -> dict[tuple[str, str], CustomSiteProbes]:
    readouts = {}
    for name in task.models:
        chosen = task.read_in(name)
        for site, x in sample.activations(task, name).items():
            readouts[name, site] = CustomSiteProbes.fit(probe, x, sample.values[:, chosen], sample.shown[:, chosen])
            task.progress("fit probes", len(readouts) / (len(task.models) * len(task.sites)))
    return readouts


def code_lengths(task: Plan, sample: Sample) -> dict[str, np.ndarray]:
    """Bits per label of the machine's present states, real and permuted, by site: [targets, (told the activations, told
    nothing)], NaN for others."""
    present = [k for k, t in enumerate(task.targets) if (t.offset, t.machine, t.as_number) == (0, TRUE_MACHINE, False)]

    def one(x: np.ndarray) -> np.ndarray:
        bits = np.full((len(task.targets), 2), np.nan)
        finite = np.isfinite(x).all(1)
        values, shown = sample.values[finite], sample.shown[finite]
        coded = [k for k in present if len(np.unique(values[shown[:, k], k])) > 1]
        if coded:
            length = online_code_length(x[finite], values[:, coded], shown[:, coded], sample.programs[finite])
            bits[coded] = np.stack([length.bits, length.by_frequency], 1)
        return bits

    activations = sample.activations(task, TRAINED)
    bits = on_threads(one, [(x,) for x in activations.values()], partial(task.progress, "code length"))
    return dict(zip(activations, bits, strict=True))


# --- read ------------------------------------------------------------------------------------------------------------


def validate(task: Plan, readouts: Fitted) -> dict[str, np.ndarray]:
    """The share of the validation tokens that each probe of the model reads rightly, by site: [targets]."""
    right, n = {site: np.zeros(len(task.targets)) for site in task.sites}, np.zeros(len(task.targets))
    for _, part, labels in task.parts("read validation programs", "validation"):
        for batches in task.batches(part, TRAINED):
            batch = batches[TRAINED]
            values, defined = labels.at(batch.programs, batch.positions)
            shown = defined[:, labels.mask_of]
            n += shown.sum(0)
            found = _at_each(
                _count_correct, [(readouts[TRAINED, site], x, values, shown) for site, x in batch.activations.items()]
            )
            right = {site: right[site] + more for site, more in zip(batch.activations, found, strict=True)}
    return {site: found / np.maximum(n, 1) for site, found in right.items()}


def _at_each(work: Callable[..., Any], arguments: list[tuple]) -> list[Any]:
    """`work` of each tuple of arguments, which begins with the readouts of a site. Ours read on threads; a probe of
    somebody else's may not be made for that."""
    if all(isinstance(readouts, SiteProbes) for readouts, *_ in arguments):
        return on_threads(work, arguments)
    return [work(*one) for one in arguments]


def _count_correct(
    readouts: SiteProbes | CustomSiteProbes, x: np.ndarray, values: np.ndarray, shown: np.ndarray
) -> np.ndarray:
    """How many rows are read rightly: [targets]."""
    return ((np.rint(readouts.predict(x, shown)) == values) & shown).sum(0)


def _add_reading(
    readouts: SiteProbes | CustomSiteProbes, tally: Tally, x: np.ndarray, values: np.ndarray, shown: np.ndarray, *about
) -> None:
    tally.add(readouts.predict(x, shown), values, shown, *about)


@dataclass(frozen=True)
class TestCounts:
    """What the test programs show; `probes.measurement.measure.Measurement` says what the fields are. taken: which
    values the targets have there, bool [targets, 199]."""

    groups: tuple[tuple[str, str], ...]
    counts: Tally
    moments: tuple[Tally, Tally]
    tallies: dict[tuple[str, str], Tally]
    baselines: dict[str, Tally]
    differing: np.ndarray
    taken: np.ndarray


def tally_test(
    task: Plan,
    readouts: Fitted,
    baselines: Baselines | None,
    detailed: list[int],
    breakdowns: Callable[[Examples, Labelled], Breakdown] | None,
) -> TestCounts:
    """Read the test programs with every probe and baseline."""
    test = task.examples.fold("test")
    clusters = clusters_of(test.skeletons, len(test))
    rank = np.full(len(task.targets), -1)
    rank[detailed] = np.arange(len(detailed))

    def grouped(part: Examples, labels: Labelled) -> Breakdown:
        return breakdowns(part, labels) if breakdowns and detailed else Breakdown.none(part.where.shape)

    names = grouped(test[:1], task.labels(test[:1])).names

    def tally(rank: np.ndarray) -> Tally:
        return Tally(int(clusters.max()) + 1, rank, len(names))

    tallies = {(name, site): tally(rank[task.read_in(name)]) for name in task.models for site in task.sites}
    held = {name: tally(rank[task.own]) for name in (baselines.names if baselines else ())}
    counts, moments = tally(rank), (tally(np.full_like(rank, -1)), tally(np.full_like(rank, -1)))
    differing, taken, begin = _Differing.of(task.targets), False, 0
    for _, part, labels in task.parts("read test programs", "test"):
        taken = taken | labels.taken()
        codes = grouped(part, labels).codes
        for batches in task.batches(part, *task.models):
            at = batches[TRAINED].programs, batches[TRAINED].positions
            values, defined = labels.at(*at)
            shown = defined[:, labels.mask_of]
            about = clusters[begin + at[0]], codes[at]
            counts.add(values, values, shown, *about)
            differing.add(values, shown)
            for said, moment in enumerate(moments):  # squared errors of reading 0, and 1, everywhere
                moment.add(np.full(values.shape, said), values, shown, *about)
            asked = {name: (values[:, task.read_in(name)], shown[:, task.read_in(name)]) for name in task.models}
            _at_each(
                _add_reading,
                [
                    (readouts[name, site], found, batches[name].activations[site], *asked[name], *about)
                    for (name, site), found in tallies.items()
                ],
            )
            for name, predicted in baselines.predict(part, *at, shown[:, task.own]) if baselines else ():
                held[name].add(predicted, values[:, task.own], shown[:, task.own], *about)
        begin += len(part)
    return TestCounts(names, counts, moments, tallies, held, differing.share, taken)


class _Differing:
    """How many labels of alternative machines are others than the true machine's, or where it has none."""

    def __init__(self, true: np.ndarray):
        self.true, self.other, self.n = true, np.zeros(len(true)), np.zeros(len(true))

    @classmethod
    def of(cls, targets: Sequence[Target]) -> _Differing:
        """A target that the true machine's is not asked beside differs from itself, nowhere."""
        asked = [replace(target, machine=TRUE_MACHINE, permuted=False) for target in targets]
        return cls(np.array([targets.index(t) if t in targets else k for k, t in enumerate(asked)]))

    def add(self, values: np.ndarray, shown: np.ndarray) -> None:
        self.other += (shown & ((values != values[:, self.true]) | ~shown[:, self.true])).sum(0)
        self.n += shown.sum(0)

    @property
    def share(self) -> np.ndarray:
        return self.other / np.maximum(self.n, 1)
