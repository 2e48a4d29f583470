"""The passes over programs that read them: the share that probes get right of the validation programs, and everything
that is counted in the test programs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cadmus.runtime.threads import on_threads
from probes.controls.input_baselines import Baselines
from probes.data.activations import Batch
from probes.data.examples import Examples, Labelled
from probes.data.targets import Target
from probes.measurement.networks import HALF, Networks
from probes.measurement.plan import TRAINED, Plan
from probes.measurement.tally import Breakdown, Group, Tally, Truth, clusters_of
from probes.solvers.bank import CLASSES
from probes.solvers.site_probes import FittedProbes

Breakdowns = Callable[[Examples, Labelled], Breakdown]
Fitted = Mapping[tuple[str, str], FittedProbes]  # by model and site


@dataclass(frozen=True, repr=False)
class TestCounts:
    """What is read of the test programs, counted by cluster."""

    __test__ = False  # no test case, whatever its name

    groups: tuple[Group, ...]
    """The groups of tokens, the first of them all."""

    counts: Tally
    """Tokens per cluster: what a reader that is always right would count."""

    moments: tuple[Tally, Tally]
    """Sums of y^2 and of (y - 1)^2 per cluster, from which R^2 is computed."""

    tallies: dict[tuple[str, str], Tally]
    """Of the probes, by model (TRAINED or UNTRAINED) and site; of the untrained model's own targets only."""

    baselines: dict[str, Tally]
    """Of the machine's own targets, by the baseline's name."""

    networks: dict[str, Tally]
    """Of networks on activations, each target at its site, by the model; of the machine's own targets."""

    halves: dict[str | tuple[str, str], Tally]
    """Of the controls as fitted to half of the training programs: the baselines by name, the probes of activations that
    are controls by model and site, the untrained model's networks as `networks.HALF`. Of the machine's own targets, all
    programs counted as one cluster."""

    differing: np.ndarray
    """The share of an alternative machine's labels that the true machine's are not: float64 [targets]."""

    value_table: np.ndarray
    """Which values the targets take there: bool [targets, 199]."""

    n_programs: int
    """How many test programs there are."""

    def __repr__(self) -> str:
        return (
            f"TestCounts({self.n_programs:,} programs, {len(self.counts.targets)} targets, {len(self.groups)} groups)"
        )


def validate(plan: Plan, probes: Fitted) -> dict[str, np.ndarray]:
    """The share of the validation tokens that each probe of the model predicts correctly, by site: [targets]."""
    correct = {site: np.zeros(len(plan.targets)) for site in plan.sites}
    n = np.zeros(len(plan.targets))
    for _, part, labels in plan.parts("read validation programs", "validation"):
        for batches in plan.batches(part, TRAINED):
            batch = batches[TRAINED]
            values, mask = labels.at(batch.programs, batch.positions)
            n += mask.sum(0)
            tasks = [(probes[TRAINED, site], x, values, mask) for site, x in batch.activations.items()]
            for site, count in zip(batch.activations, _with_probes(_count_correct, tasks), strict=True):
                correct[site] += count
    return {site: count / np.maximum(n, 1) for site, count in correct.items()}


@dataclass(frozen=True)
class Readers:
    """Everything that reads the test programs."""

    probes: Fitted
    """By model and site."""

    halves: Fitted
    """Those that are controls, fitted to half of the training programs: of the machine's own targets."""

    baselines: Baselines | None
    """What reads the input."""

    networks: Networks | None
    """The nonlinear reference."""


def tally_test(
    plan: Plan, readers: Readers, broken_down: Collection[Target], breakdowns: Breakdowns | None
) -> TestCounts:
    """Read the test programs with every probe, baseline and network."""
    test = plan.examples.fold("test")
    clusters = clusters_of(test.skeletons, len(test))
    tallies: _Tallies | None = None
    begin = 0
    for _, part, labels in plan.parts("read test programs", "test"):
        breakdown = breakdowns(part, labels) if breakdowns and broken_down else Breakdown.none(part.where.shape)
        if tallies is None:
            tallies = _Tallies(plan, readers, int(clusters.max()) + 1, breakdown.groups, broken_down)
        tallies.value_table |= labels.value_table()
        program_clusters = clusters[begin : begin + len(part)]
        for batches in plan.batches(part, *plan.models):
            at = batches[TRAINED].programs, batches[TRAINED].positions
            truth = Truth(*labels.at(*at), program_clusters[at[0]], breakdown.codes[at])
            tallies.add_truth(truth)
            tallies.add_probes(batches, truth)
            own = truth.select(plan.targets.own)
            tallies.add_baselines(part, *at, own)
            tallies.add_networks(batches, own)
        begin += len(part)
    assert tallies is not None  # no measurement is without test programs
    return tallies.counted(len(test))


class _Tallies:
    """The tallies of everything that reads the test programs."""

    def __init__(
        self,
        plan: Plan,
        readers: Readers,
        n_clusters: int,
        groups: tuple[Group, ...],
        broken_down: Collection[Target],
    ):
        self.plan, self.readers, self.groups = plan, readers, groups
        own = plan.targets.own

        def tally(targets: np.ndarray, n_clusters: int = n_clusters) -> Tally:
            return Tally(plan.targets[targets], n_clusters, len(groups), broken_down)

        names = readers.baselines.names if readers.baselines else ()
        networks = readers.networks.readers if readers.networks else ()
        self.counts = tally(plan.targets_of(TRAINED))
        self.moments = Tally(plan.targets, n_clusters), Tally(plan.targets, n_clusters)
        self.by_site = {(model, site): tally(plan.targets_of(model)) for model in plan.models for site in plan.sites}
        self.by_baseline = {name: tally(own) for name in names}
        self.by_network = {name: tally(own) for name in networks if name != HALF}
        halves = (*names, *readers.halves, *(name for name in networks if name == HALF))
        self.by_half: dict[str | tuple[str, str], Tally] = {name: tally(own, 1) for name in halves}
        self.value_table = np.zeros((len(plan.targets), CLASSES), np.bool_)
        self.n_labels, self.n_differing = np.zeros(len(plan.targets)), np.zeros(len(plan.targets))

    def add_truth(self, truth: Truth) -> None:
        """Count the tokens, what R^2 needs of their values, and the labels that the true machine's are not."""
        values, mask = truth.values, truth.mask
        self.counts.add(values, truth)
        for constant, moment in enumerate(self.moments):  # squared errors of predicting 0, and 1, everywhere
            moment.add(np.full(values.shape, constant), truth)
        true = self.plan.targets.counterparts
        self.n_differing += (mask & ((values != values[:, true]) | ~mask[:, true])).sum(0)
        self.n_labels += mask.sum(0)

    def add_probes(self, batches: Mapping[str, Batch], truth: Truth) -> None:
        """Count what the probes of every model and site predict, and those that half of the programs made."""
        truths = {model: truth.select(self.plan.targets_of(model)) for model in self.plan.models}
        tasks: list[tuple] = [
            (self.readers.probes[model, site], batches[model].activations[site], truths[model], tally)
            for (model, site), tally in self.by_site.items()
        ]
        pooled = truth.select(self.plan.targets.own).pooled()
        tasks += [
            (probes, batches[model].activations[site], pooled, self.by_half[model, site])
            for (model, site), probes in self.readers.halves.items()
        ]
        _with_probes(_predict_and_count, tasks)

    def add_baselines(self, part: Examples, programs: np.ndarray, positions: np.ndarray, own: Truth) -> None:
        """Count what the baselines predict."""
        if self.readers.baselines is None:
            return
        at = part, programs, positions, own.mask
        for name, predicted in self.readers.baselines.predict(*at):
            self.by_baseline[name].add(predicted, own)
        for name, predicted in self.readers.baselines.predict(*at, half=True):
            self.by_half[name].add(predicted, own.pooled())

    def add_networks(self, batches: Mapping[str, Batch], own: Truth) -> None:
        """Count what the networks predict."""
        if self.readers.networks is None:
            return
        for name in self.readers.networks.readers:
            predicted = self.readers.networks.predict(name, batches, own.mask)
            if name == HALF:
                self.by_half[name].add(predicted, own.pooled())
            else:
                self.by_network[name].add(predicted, own)

    def counted(self, n_programs: int) -> TestCounts:
        """The result, once all programs were added."""
        return TestCounts(
            groups=self.groups,
            counts=self.counts,
            moments=self.moments,
            tallies=self.by_site,
            baselines=self.by_baseline,
            networks=self.by_network,
            halves=self.by_half,
            differing=self.n_differing / np.maximum(self.n_labels, 1),
            value_table=self.value_table,
            n_programs=n_programs,
        )


def _with_probes(work: Callable[..., Any], tasks: list[tuple]) -> Iterable[Any]:
    """Run `work` on each tuple of arguments, the first of which are the probes of a site: on threads, unless some
    probes may not be thread-safe."""
    if all(probes.thread_safe for probes, *_ in tasks):
        return on_threads(work, tasks)
    return [work(*task) for task in tasks]


def _count_correct(probes: FittedProbes, x: np.ndarray, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """How many rows are predicted correctly: int64 [targets]."""
    return ((np.rint(probes.predict(x, mask)) == values) & mask).sum(0)


def _predict_and_count(probes: FittedProbes, x: np.ndarray, truth: Truth, tally: Tally) -> None:
    tally.add(probes.predict(x, truth.mask), truth)
