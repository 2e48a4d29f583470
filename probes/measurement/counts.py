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


def tally_test(
    plan: Plan,
    probes: Fitted,
    baselines: Baselines | None,
    broken_down: Collection[Target],
    breakdowns: Breakdowns | None,
) -> TestCounts:
    """Read the test programs with every probe and baseline."""
    test = plan.examples.fold("test")
    clusters = clusters_of(test.skeletons, len(test))
    tallies: _Tallies | None = None
    begin = 0
    for _, part, labels in plan.parts("read test programs", "test"):
        breakdown = breakdowns(part, labels) if breakdowns and broken_down else Breakdown.none(part.where.shape)
        if tallies is None:
            tallies = _Tallies(plan, baselines, int(clusters.max()) + 1, breakdown.groups, broken_down)
        tallies.value_table |= labels.value_table()
        program_clusters = clusters[begin : begin + len(part)]
        for batches in plan.batches(part, *plan.models):
            at = batches[TRAINED].programs, batches[TRAINED].positions
            truth = Truth(*labels.at(*at), program_clusters[at[0]], breakdown.codes[at])
            tallies.add_truth(truth)
            tallies.add_probes(probes, batches, truth)
            tallies.add_baselines(part, *at, truth)
        begin += len(part)
    assert tallies is not None  # no measurement is without test programs
    return tallies.counted(len(test))


class _Tallies:
    """The tallies of everything that reads the test programs."""

    def __init__(
        self,
        plan: Plan,
        baselines: Baselines | None,
        n_clusters: int,
        groups: tuple[Group, ...],
        broken_down: Collection[Target],
    ):
        self.plan, self.baselines, self.groups = plan, baselines, groups

        def tally(targets: np.ndarray) -> Tally:
            return Tally(plan.targets[targets], n_clusters, len(groups), broken_down)

        self.counts = tally(plan.targets_of(TRAINED))
        self.moments = Tally(plan.targets, n_clusters), Tally(plan.targets, n_clusters)
        self.by_site = {(model, site): tally(plan.targets_of(model)) for model in plan.models for site in plan.sites}
        self.by_baseline = {name: tally(plan.targets.own) for name in (baselines.names if baselines else ())}
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

    def add_probes(self, probes: Fitted, batches: Mapping[str, Batch], truth: Truth) -> None:
        """Count what the probes of every model and site predict."""
        truths = {model: truth.select(self.plan.targets_of(model)) for model in self.plan.models}
        tasks = [
            (probes[model, site], batches[model].activations[site], truths[model], tally)
            for (model, site), tally in self.by_site.items()
        ]
        _with_probes(_predict_and_count, tasks)

    def add_baselines(self, part: Examples, programs: np.ndarray, positions: np.ndarray, truth: Truth) -> None:
        """Count what the baselines predict."""
        if self.baselines is not None:
            own = truth.select(self.plan.targets.own)
            for name, predicted in self.baselines.predict(part, programs, positions, own.mask):
                self.by_baseline[name].add(predicted, own)

    def counted(self, n_programs: int) -> TestCounts:
        """The result, once all programs were added."""
        return TestCounts(
            groups=self.groups,
            counts=self.counts,
            moments=self.moments,
            tallies=self.by_site,
            baselines=self.by_baseline,
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
