"""Read every target at every site, beside everything a score is held against, in two passes over the programs.

The first pass gathers what the probes are fitted from (training and validation programs), of the model and of its
untrained twin; the second reads the validation and the test programs and tallies what was right. Activations and
labels are held batch by batch; what grows with the programs is a tally of counts per skeleton.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from cadmus.machine import vm
from cadmus.states.variables import MAX_ABS_VALUE
from probes.controls.input_baselines import Baselines
from probes.data.activations import token_rows
from probes.data.examples import Examples, Labelled, Target
from probes.data.folds import check_no_leak
from probes.measurement import passes
from probes.measurement.passes import TRAINED, UNTRAINED, Plan, Progress
from probes.measurement.tally import Breakdown, Tally
from probes.solvers.bank import Bank
from probes.solvers.custom import CustomSiteProbes, Probe
from probes.solvers.site_probes import SiteProbes


@dataclass(frozen=True)
class Measurement:
    """What was read, over the test programs' clusters.

    groups: the names of those that the detailed targets are broken down by. tallies by (TRAINED or UNTRAINED, site),
    baselines by name: of all targets where the model is the trained one, elsewhere of the machine's own (`own`).
    counts: as if all were right, so that `right_all` is the number of tokens; moments: as if 0, and 1, were read
    everywhere, so that `error_all` is the sum of (y - 0)², (y - 1)². validation [targets] by site: the share right in
    validation programs. bits [targets, 2] by site: online code length per label, with the activations and without.
    outside [targets]: tokens left out of training, |value| > 99. unseen, by target: values of test tokens that no
    training token has. differing [targets]: of an alternative machine's labels, the share that the true machine's are
    not. programs: tested.
    """

    targets: tuple[Target, ...]
    sites: tuple[str, ...]
    groups: tuple[tuple[str, str], ...]
    counts: Tally
    moments: tuple[Tally, Tally]
    tallies: dict[tuple[str, str], Tally]
    baselines: dict[str, Tally]
    readouts: dict[tuple[str, str], SiteProbes | CustomSiteProbes]
    validation: dict[str, np.ndarray]
    bits: dict[str, np.ndarray]
    outside: np.ndarray
    unseen: tuple[tuple[int, ...], ...]
    differing: np.ndarray
    programs: int

    @property
    def own(self) -> list[int]:
        """The places of the machine's own variables among the targets: no controls, no alternative machines."""
        return passes.own_targets(self.targets)


def measure(
    model: Any,
    examples: Examples,
    targets: Sequence[Target],
    sites: Sequence[str],
    *,
    twin: Any = None,
    machines: Mapping[str, vm.Semantics] | None = None,
    detailed: Sequence[int] = (),
    breakdowns: Callable[[Examples, Labelled], Breakdown] | None = None,
    probe: Probe | None = None,
    inspect: Callable[[str, str, Bank, Bank], None] | None = None,
    controls: bool = True,
    seed: int = 0,
    progress: Progress = lambda stage, share: None,
) -> Measurement:
    """Fit a probe per (site, target) and tally what it reads in the test programs.

    model, and twin, its untrained twin: of any kind that `probes` runs on; machines: semantics of the targets' machines
    by name; detailed: targets (their places) that are broken down by `breakdowns`, which is asked part by part and must
    name the same groups each time; probe: an estimator in place of the ridge and discriminant probes; inspect: told
    the model (TRAINED or UNTRAINED; the twin's banks are of the targets in `Measured.own`, in that order) and the site,
    and shown its training and validation banks before they are dropped; controls: False leaves out the baselines and
    the code length. What cannot be fitted is told in `readouts`, and the rest is measured.
    Raises ValueError where a skeleton is in two folds, a fold has no token to probe, no target is given or a site does
    not exist.
    """
    models = {TRAINED: model} if twin is None else {TRAINED: model, UNTRAINED: twin}
    task = Plan(models, examples, tuple(targets), tuple(sites), dict(machines or {}), seed, progress)
    _check(task)
    baselines = Baselines(task.targets, task.own) if controls else None
    sample = passes.Sample.of(task)
    if probe is None:
        readouts = {}
        groups = passes.site_groups(task)
        for k, group in enumerate(groups):  # a pass each, so that memory stays bounded
            banks: passes.Banks = {}
            part = replace(task, sites=group, progress=_share_of(progress, k, len(groups)))
            outside, known = passes.gather(part, banks, baselines if k == 0 else None)
            readouts |= passes.fit(part, banks, inspect)
    else:
        outside, known = passes.gather(task, None, baselines)
        readouts = passes.fit_custom(task, probe, sample)
    bits = passes.code_lengths(task, sample) if controls else {}
    if baselines is not None:
        baselines.fit(seed, partial(progress, "fit controls"))
    validation = passes.validate(task, readouts)
    found = passes.tally_test(task, readouts, baselines, list(detailed), breakdowns)
    return Measurement(
        targets=task.targets,
        sites=task.sites,
        groups=found.groups,
        counts=found.counts,
        moments=found.moments,
        tallies=found.tallies,
        baselines=found.baselines,
        readouts=readouts,
        validation=validation,
        bits=bits,
        outside=outside,
        unseen=tuple(tuple((np.flatnonzero(row) - MAX_ABS_VALUE).tolist()) for row in found.taken & ~known),
        differing=found.differing,
        programs=len(examples.fold("test")),
    )


def _share_of(progress: Progress, k: int, n: int) -> Progress:
    """The progress of the k-th of n rounds, as a share of all."""
    return lambda stage, share: progress(stage, (k + share) / n)


def _check(task: Plan) -> None:
    if not task.targets:
        raise ValueError("no target is given; name a variable or more")
    train, validation, test = (task.examples.fold(name) for name in ("train", "validation", "test"))
    check_no_leak(train.skeletons, validation.skeletons)
    check_no_leak(np.concatenate([train.skeletons, validation.skeletons]), test.skeletons)
    for name, part in (("training", train), ("validation", validation), ("test", test)):
        if not part.where.any():
            raise ValueError(f"the {len(part)} {name} programs have no token to probe; give more programs")
    for model in task.models.values():
        token_rows(model, train.programs[:0], task.sites)  # runs nothing, but says which site does not exist
