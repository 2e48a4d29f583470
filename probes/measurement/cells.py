"""The cells of the table of scores: a target and a group of tokens at a site, as a probe or a network reads it, beside
the controls of its own class and all others.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from cadmus.states import variables
from probes.data.targets import Target
from probes.measurement.measure import Measurement
from probes.measurement.networks import HALF
from probes.measurement.plan import EMBEDDING, TRAINED, UNTRAINED
from probes.measurement.tally import Group, Tally
from probes.solvers.site_probes import SiteProbes

CONTROLS = ("majority", "by token", "n-gram", "input, linear", "input, nonlinear", "embedding", "untrained")
CONTROLS_OF_CLASS = {  # of probes, and the controls of each: what computes no more than such a probe can
    "linear": ("majority", "by token", "n-gram", "input, linear", "embedding", "untrained"),
    "network": ("majority", "by token", "n-gram", "input, nonlinear", "untrained"),
    "any": CONTROLS,  # a user's probe may compute anything
}
_MIN_TOKENS = 20  # tokens that a score rests on


@dataclass(frozen=True)
class Cell:
    """A target and a group of tokens at a site."""

    target: int
    """The target's index."""

    group: int
    """The group's index; 0 is every token."""

    correct: np.ndarray
    """Tokens predicted correctly by the probe: float32 [clusters]."""

    control_correct: np.ndarray
    """The same of the best control of the probe's class."""

    best_correct: np.ndarray
    """The same of the best of all controls."""

    n: np.ndarray
    """All tokens: float32 [clusters]."""

    controls: dict[str, float]
    """The scores of the controls that read the target."""

    kind: str
    """The probe's class, of `CONTROLS_OF_CLASS`."""

    best_control: str
    """The control of that class with the highest score; empty where there is none."""

    best_of_all: str
    """The one with the highest score of all."""

    rise: float
    """What the best control of the class would gain, had each gained once more what half of the programs brought."""

    rise_of_all: float
    """The same of all controls."""

    problem: str
    """Why there is no score; empty where there is one."""

    network: bool = False
    """Whether it is the network that reads, in place of the probe."""

    number: int | None = None
    """The cell's number among those of the site that have a score."""


def numbered(cells: Iterable[Cell]) -> list[Cell]:
    """Number the cells that have a score."""
    numbers = itertools.count()
    return [cell if cell.problem else replace(cell, number=next(numbers)) for cell in cells]


def cells_of(measured: Measurement, site: str, k: int) -> Iterator[Cell]:
    """Yield the cells of the probe: the one over all tokens and, if that has no problem, one per group with enough
    tokens; then those of the network, where it reads the target at this site."""
    target, tested = measured.targets[k], measured.tested
    for network in (False, True):
        if network and measured.network_sites.get(k) != site:
            continue
        n_groups = len(tested.groups) if tested.counts.breaks_down(target) else 1
        for group in range(n_groups):
            if not may_break_down(target.name, tested.groups[group]):
                continue
            cell = _cell(measured, site, k, group, network)
            if not cell.problem or not (group or network):
                yield cell
            if cell.problem and not group:
                return


def _cell(measured: Measurement, site: str, k: int, group: int, network: bool) -> Cell:
    """A target and a group of tokens, as the probe of a site reads it, or the network."""
    target, tested = measured.targets[k], measured.tested
    controls = controls_that_read(measured, site, k, network)
    n = tested.counts.of(target, group)
    total = float(n.sum())
    correct_of = {name: control.tally.of(target, group) for name, control in controls.items()}
    scores = {name: float(correct.sum()) / max(total, 1) for name, correct in correct_of.items()}
    halves = {
        name: float(control.half.of(target, group).sum()) / max(total, 1)
        for name, control in controls.items()
        if control.half is not None and _reads(control.half, target)
    }
    kind = "network" if network else _class(measured, site)
    best, rise = _strongest(scores, halves, CONTROLS_OF_CLASS[kind])
    best_of_all, rise_of_all = _strongest(scores, halves, CONTROLS)
    problem = measured.site_probes[TRAINED, site].problems.get(k, "")
    if not problem and total < _MIN_TOKENS:
        problem = f"{int(total)} test tokens; a score needs {_MIN_TOKENS}"
    if not problem and not best:
        problem = "no control reads it"
    nothing = np.zeros_like(n)
    reader = tested.networks[TRAINED] if network else tested.tallies[TRAINED, site]
    return Cell(
        target=k,
        group=group,
        correct=reader.of(target, group),
        control_correct=correct_of.get(best, nothing),
        best_correct=correct_of.get(best_of_all, nothing),
        n=n,
        controls=scores,
        kind=kind,
        best_control=best,
        best_of_all=best_of_all,
        rise=rise,
        rise_of_all=rise_of_all,
        problem=problem,
        network=network,
    )


def _class(measured: Measurement, site: str) -> str:
    """The class of the probe of a site: ours are linear."""
    return "linear" if isinstance(measured.site_probes[TRAINED, site], SiteProbes) else "any"


def _strongest(scores: Mapping[str, float], halves: Mapping[str, float], names: Collection[str]) -> tuple[str, float]:
    """The best of the named controls, and by how much the best would be better, had each gained once more what it did
    from half of the programs to all; NaN where that of the best is not known, and "" where there is none."""
    there = [name for name in names if name in scores]
    if not there:
        return "", float("nan")
    best = max(there, key=lambda name: scores[name])
    gains = {name: scores[name] - halves[name] for name in there if name in halves}
    if best not in gains:
        return best, float("nan")
    risen = max(scores[name] + gain for name, gain in gains.items())
    return best, risen - scores[best]


def may_break_down(variable: str, group: Group) -> bool:
    """Whether a variable is broken down by a group's breakdown: how soon a register is read again is of interest for
    that register's values; and no variable by itself, whose label would then be the same in all of a group."""
    if group.register:
        return variable.startswith(f"reg.{group.register}.") and not variables.depends_on_future(variable)
    return not (group.breakdown == "stack depth" and variable.split(".")[0] == "depth")


class _Control(NamedTuple):
    """What one control reads."""

    tally: Tally
    """As it is."""

    half: Tally | None
    """As half of the training programs made it; None where they could not."""


def controls_that_read(measured: Measurement, site: str, k: int, network: bool = False) -> dict[str, _Control]:
    """The controls that read target k: those of the probe of a site, or of the network there."""
    target, tested = measured.targets[k], measured.tested
    names = [name for name in CONTROLS if name in tested.baselines]
    controls = {name: _Control(tested.baselines[name], tested.halves.get(name)) for name in names}
    if network:
        if UNTRAINED in tested.networks:
            controls["untrained"] = _Control(tested.networks[UNTRAINED], tested.halves.get(HALF))
        return {name: control for name, control in controls.items() if _reads(control.tally, target)}
    for name, key in (("embedding", (TRAINED, EMBEDDING)), ("untrained", (UNTRAINED, site))):
        if key in tested.tallies and key != (TRAINED, site):
            tally = tested.tallies[key]
            if tally.targets.index(target) not in measured.site_probes[key].problems:
                controls[name] = _Control(tally, tested.halves.get(key))
    return {name: control for name, control in controls.items() if _reads(control.tally, target)}


def _reads(tally: Tally, target: Target) -> bool:
    return bool(tally.n_predicted[tally.targets.index(target)])
