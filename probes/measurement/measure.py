"""Read every target at every site, beside everything a score is held against, in two stages: fit, then count.

The first pass gathers what the probes are fitted from (training and validation programs), of the model and of its
untrained twin; the second reads the validation and the test programs and counts what was predicted correctly. Controls
are fitted to half of the training programs as well, so that the table says which of them still rise.
Activations and labels are held batch by batch; what grows with the programs is a tally of counts per skeleton.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cadmus.machine import vm
from cadmus.models.hooks import NamesFilter
from cadmus.runtime.progress import Progress, no_progress
from cadmus.states.variables import MAX_ABS_VALUE
from probes.controls.input_baselines import Baselines
from probes.data.activations import check_sites
from probes.data.examples import Examples
from probes.data.folds import check_no_leak
from probes.data.targets import Target, Targets, Variable
from probes.data.token_map import TokenMap
from probes.measurement import counts, networks, passes
from probes.measurement.counts import Breakdowns, Fitted, TestCounts
from probes.measurement.plan import TRAINED, UNTRAINED, Plan, site_groups
from probes.solvers.custom import Probe
from probes.solvers.site_probes import FittedProbes


@dataclass(frozen=True, repr=False)
class Measurement:
    """What was measured, target by target: every array [targets] is in the order of `targets`."""

    targets: Targets
    """What was read in the model; in its untrained twin and off the input only the machine's own, `targets.own`."""

    sites: tuple[str, ...]
    """Hook names."""

    tested: TestCounts
    """What is read of the test programs, by cluster."""

    site_probes: Fitted
    """The fitted probes, by model (TRAINED or UNTRAINED) and site. `problems` of each says which targets have none, and
    why."""

    kept_values: dict[tuple[str, str], Any]
    """What `keep` returned, by model and site."""

    validation: dict[str, np.ndarray]
    """The share of the validation tokens that is predicted correctly in the model, by site: float64 [targets]."""

    bits: dict[str, np.ndarray]
    """Online code length per label by site, with the activations and without: float64 [targets, 2], NaN where nothing
    is coded."""

    outside: np.ndarray
    """Tokens left out of training because |value| > 99: int64 [targets]."""

    unseen: tuple[tuple[int, ...], ...]
    """By target, the values of test tokens that no training token has."""

    network_sites: dict[int, str] = field(default_factory=dict)
    """The site at which the network of a target reads, by target; empty without `nonlinear`."""

    def __repr__(self) -> str:
        return f"Measurement({len(self.targets)} targets, {len(self.sites)} sites, {self.tested.n_programs:,} programs)"


def measure(
    model: Any,
    examples: Examples,
    targets: Sequence[Target | str | Variable],
    sites: NamesFilter,
    *,
    untrained: Any = None,
    machines: Mapping[str, vm.Semantics] | None = None,
    broken_down: Collection[Target | str | Variable] = (),
    breakdowns: Breakdowns | None = None,
    probe: Probe | None = None,
    keep: passes.Keep | None = None,
    controls: bool = True,
    nonlinear: bool = False,
    token_map: TokenMap | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Measurement:
    """Fit a probe per (site, target), and count what it predicts correctly in the test programs.

    A target that cannot be fitted is skipped; `site_probes[...].problems` says why.

    Args:
        model: The trained model, of any backend (`cadmus.models.backends`); with `token_map`, any of TransformerLens.
        examples: The programs of all folds, no skeleton in two of them.
        targets: What is read: a `Target` each, or a variable's name or function.
        sites: Hook names of activations with a row per token: one, several, or a predicate on names.
        untrained: The model's untrained twin, in which the machine's own targets are read as well.
        machines: The semantics of the targets' machines, by name.
        broken_down: The targets whose counts are broken down by groups of tokens.
        breakdowns: Gives the groups of the tokens of some test programs; called part by part, it must name the same
            groups each time.
        probe: An estimator in place of the ridge and discriminant probes. It is fitted to a sample of tokens, so that
            there are no banks.
        keep: `keep(site, model, train, validation)`, whose value is stored as `kept_values[model, site]`: of the
            training and validation banks of a site, which are dropped then. `model` is TRAINED or UNTRAINED; the banks
            of the untrained model are of the targets `targets.own`. It is called on several threads.
        controls: Whether the baselines and the code length are measured, too.
        nonlinear: Whether networks read the present states as well, each at the site that is best on validation
            programs: the nonlinear reference, beside the network on the input.
        token_map: What a model that is not ours reads for a program, and at which of its positions the state after a
            token is read (`probes.data.token_map`); `untrained` reads the same. Tokens without a position are left out.
        seed: Of permutations and baselines.
        progress: Is told how far each stage is.

    Returns:
        Everything that `probes.measurement.scores` computes its tables from.

    Raises:
        ValueError: Where untrained is of another shape, both probe and keep, or probe and nonlinear are given, a
            skeleton is in two folds, a fold has no token to probe, no target is given, one that is broken down is not
            among them, or a site does not exist.
    """
    if keep is not None and probe is not None:
        raise ValueError("keep= is given the banks of our own probes, and a probe of one's own has none; leave out one")
    if nonlinear and probe is not None:
        raise ValueError("nonlinear=True adds networks to our own probes; leave it out with a probe of your own")
    if untrained is not None:
        _check_untrained(model, untrained)
    models = {TRAINED: model} if untrained is None else {TRAINED: model, UNTRAINED: untrained}
    targets, broken_down = Targets(targets), Targets(broken_down, "broken_down")
    names = tuple(check_sites(model, sites, token_map))
    if token_map is not None:
        examples = _aligned(examples, token_map, models.values())
    plan = Plan(models, examples, targets, names, dict(machines or {}), seed, progress, token_map)
    _check(plan, broken_down)
    baselines = Baselines(plan.targets) if controls else None
    sample = passes.Sample.of(plan)
    site_probes: Fitted
    kept_values: dict[tuple[str, str], Any] = {}
    if probe is None:
        site_probes, kept_values, outside, train_values, halves = _fit_from_sums(plan, baselines, keep)
    else:
        outside, train_values, _ = passes.gather(plan, None, baselines)
        site_probes, halves = passes.fit_custom(plan, probe, sample, controls)
    bits = passes.code_lengths(plan, sample) if controls else {}
    if baselines is not None:
        baselines.fit(seed, progress)
    validation = counts.validate(plan, site_probes)
    reference = networks.fit(plan, networks.best_sites(plan, site_probes, validation)) if nonlinear else None
    readers = counts.Readers(site_probes, halves, baselines, reference)
    tested = counts.tally_test(plan, readers, broken_down, breakdowns)
    unseen = tuple(tuple((np.flatnonzero(row) - MAX_ABS_VALUE).tolist()) for row in tested.value_table & ~train_values)
    return Measurement(
        targets=plan.targets,
        sites=plan.sites,
        tested=tested,
        site_probes=site_probes,
        kept_values=kept_values,
        validation=validation,
        bits=bits,
        outside=outside,
        unseen=unseen,
        network_sites={} if reference is None else {int(plan.targets.own[k]): s for k, s in reference.sites.items()},
    )


def _aligned(examples: Examples, token_map: TokenMap, models: Collection[Any]) -> Examples:
    """The examples at the tokens that the models have a position for; ValueError where what they read does not fit."""
    inputs = token_map.inputs(examples.programs)
    where = examples.where & inputs.readable
    for model in models:
        inputs.check(model, where)
    return replace(examples, where=where)


def _fit_from_sums(
    plan: Plan, baselines: Baselines | None, keep: passes.Keep | None
) -> tuple[Fitted, dict[tuple[str, str], Any], np.ndarray, np.ndarray, passes.Halves]:
    """Fit from banks, a pass for each group of sites, so that memory stays bounded: the probes, what is kept, and what
    `passes.gather` returns."""
    halves: passes.Halves = {}
    site_probes: dict[tuple[str, str], FittedProbes] = {}
    kept_values: dict[tuple[str, str], Any] = {}
    groups = site_groups(plan)
    for k, sites in enumerate(groups):
        banks: passes.Banks = {}
        part = replace(plan, sites=sites, progress=_round_progress(plan.progress, k, len(groups)))
        outside, train_values, some = passes.gather(part, banks, baselines if k == 0 else None, baselines is not None)
        halves |= some
        fitted, values = passes.fit(part, banks, keep)
        site_probes |= fitted
        kept_values |= values
    return site_probes, kept_values, outside, train_values, halves


def _round_progress(progress: Progress, k: int, n: int) -> Progress:
    """The progress of the k-th of n rounds, as a fraction of all."""
    return lambda stage, fraction, note: progress(stage, (k + fraction) / n, note)


def _check_untrained(model: Any, untrained: Any) -> None:
    """Raise ValueError for a control that is of another shape than the model."""
    for name in ("n_layers", "d_model", "n_heads"):
        own, other = (getattr(getattr(each, "cfg", None), name, None) for each in (model, untrained))
        if own != other:
            raise ValueError(
                f"untrained has {name} = {other}, the model {own}; its twin is Model(model.cfg, seed=...), untrained"
            )


def _check(plan: Plan, broken_down: Collection[Target]) -> None:
    if not plan.targets:
        raise ValueError("no target is given; name a variable or more")
    for target in broken_down:
        plan.targets.index(target)  # ValueError for one that is not read
    train, validation, test = (plan.examples.fold(name) for name in ("train", "validation", "test"))
    check_no_leak(train.skeletons, validation.skeletons)
    check_no_leak(np.concatenate([train.skeletons, validation.skeletons]), test.skeletons)
    for name, part in (("training", train), ("validation", validation), ("test", test)):
        if not part.where.any():
            raise ValueError(f"the {len(part)} {name} programs have no token to probe; give more programs")
    for model in plan.models.values():
        check_sites(model, plan.sites, plan.token_map)
