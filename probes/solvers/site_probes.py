"""Fit the probes of a site from its banks, for every target at once, and predict with them.

A target is read by the discriminant classifier over its values, or, where it asks for `regression`, by ridge
regression, which counts where it rounds to the value. Targets that cannot be fitted are reported in `problems`; the
others are fitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np

from cadmus.states.variables import MAX_ABS_VALUE
from probes.data.targets import Target, Targets
from probes.solvers.bank import Bank
from probes.solvers.linear import SHRINKAGES, Linear, discriminant, ridge
from probes.solvers.moments import Moments

MIN_ROWS = 50  # of training and of validation, for a probe
MIN_OF_CLASS = 5  # training rows of a value that a classifier is to tell


class FittedProbes(Protocol):
    """The fitted probes of one site, whichever they are: ours (`SiteProbes`), or a user's (`CustomSiteProbes`)."""

    thread_safe: ClassVar[bool]
    """Whether `predict` may run on several threads at once."""

    @property
    def problems(self) -> dict[int, str]:
        """Why a target has no probe, by target."""

    @property
    def notes(self) -> dict[int, str]:
        """What the reader of a score should know, by target."""

    def predict(self, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Predict from x [rows, features], where mask bool [rows, targets] is True: float32 [rows, targets]."""

    def penalty(self, target: int) -> float:
        """The penalty that was chosen; NaN where there is none."""

    def probe_name(self, target: Target) -> str:
        """What kind of probe reads the target."""


@dataclass(frozen=True, repr=False)
class SiteProbes:
    """The fitted linear probes of one site."""

    thread_safe: ClassVar[bool] = True
    """`predict` may run on several threads at once."""

    targets: int
    """How many targets there are."""

    numbers: Linear | None
    """The regressions of `number_targets`, an output each."""

    number_targets: np.ndarray
    """The targets that are read by regression: int [regressions]."""

    classifiers: tuple[tuple[int, Linear, np.ndarray], ...]
    """(target, map, values int [classes]) of each target that is read by a classifier; the map's outputs are its
    values' log posteriors."""

    problems: dict[int, str] = field(default_factory=dict)
    """Why a target has no probe, by target."""

    notes: dict[int, str] = field(default_factory=dict)
    """What the reader of a score should know, by target."""

    def __repr__(self) -> str:
        return f"SiteProbes({self.targets - len(self.problems)} of {self.targets} targets fitted)"

    def predict(self, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Predict all targets from x [rows, features]: float32 [rows, targets].

        NaN for a target without a probe and for a row with activations that are not finite. Where mask, bool [rows,
        targets], is False classifiers are not evaluated (NaN): most variables are defined at few tokens.
        """
        x = np.asarray(x, np.float32)
        finite = np.isfinite(x).all(1)
        if not finite.all():
            x = np.where(finite[:, None], x, 0)
        predicted = np.full((len(x), self.targets), np.nan, np.float32)
        if self.numbers is not None:
            predicted[:, self.number_targets] = self.numbers(x)
        for target, linear, classes in self.classifiers:
            rows: slice | np.ndarray = slice(None)
            if mask is not None and not mask[:, target].all():
                rows = np.flatnonzero(mask[:, target])
            predicted[rows, target] = classes[linear(x[rows]).argmax(1)]
        predicted[~finite] = np.nan
        return predicted

    def penalty(self, target: int) -> float:
        """The ridge penalty or the shrinkage that was chosen; NaN without a probe."""
        at = np.flatnonzero(self.number_targets == target)
        if self.numbers is not None and len(at):
            return float(self.numbers.penalty[at[0]])
        return next((float(linear.penalty[0]) for t, linear, _ in self.classifiers if t == target), float("nan"))

    def probe_name(self, target: Target) -> str:
        """`ridge` or `discriminant`."""
        return "ridge" if target.regression else "discriminant"


def fit(train: Bank, validation: Bank, targets: Sequence[Target]) -> SiteProbes:
    """Fit the probes of all targets of the banks, each with the penalty that `validation` prefers."""
    targets = Targets(targets)
    problems: dict[int, str] = {}
    notes: dict[int, str] = {}
    classifiers = []
    by_mask: dict[int, list[int]] = {}  # targets of one mask are regressed together
    shrinkages: dict[int, float] = {}  # chosen once per mask: the covariance is nearly the same
    for k, target in enumerate(targets):
        mask, values = int(train.mask_of[k]), _frequent_values(train, k)
        problem = _problem(train, validation, k, values, target)
        if not problem and target.regression:
            by_mask.setdefault(mask, []).append(k)
        elif not problem:
            try:
                linear = _classifier(train.moments(k, values), validation.moments(k, values), shrinkages.get(mask))
                shrinkages.setdefault(mask, float(linear.penalty[0]))
                classifiers.append((k, linear, values))
            except (ValueError, np.linalg.LinAlgError) as error:
                problem = str(error)
        if problem:
            problems[k] = problem
        else:
            notes[k] = _note(train, k, values, target)
    numbers, number_targets, regression_problems = _regressions(train, validation, by_mask.values())
    problems |= regression_problems
    notes = {k: note for k, note in notes.items() if note and k not in problems}
    return SiteProbes(len(targets), numbers, number_targets, tuple(classifiers), problems, notes)


def _frequent_values(train: Bank, target: int) -> np.ndarray:
    """The values that training has often enough for a classifier: int [classes]."""
    classes = train.classes(target)
    return classes[train.counts[target, classes + MAX_ABS_VALUE] >= MIN_OF_CLASS]


def _classifier(train: Moments, validation: Moments, shrinkage: float | None) -> Linear:
    if shrinkage is not None:
        try:
            return discriminant(train, (shrinkage,))
        except ValueError:  # too little for this target
            pass
    return discriminant(train, SHRINKAGES, validation)


def _regressions(
    train: Bank, validation: Bank, groups: Iterable[list[int]]
) -> tuple[Linear | None, np.ndarray, dict[int, str]]:
    """The regressions of all groups of targets of one mask, their targets int [regressions], and the problems."""
    parts: list[Linear] = []
    targets: list[int] = []
    problems: dict[int, str] = {}
    for group in groups:
        try:
            parts.append(ridge(train.numbers(group), validation=validation.numbers(group)))
            targets += group
        except (ValueError, np.linalg.LinAlgError) as error:
            problems |= dict.fromkeys(group, str(error))
    return Linear.concatenate(parts) if parts else None, np.array(targets, int), problems


# --- what to say of a target -----------------------------------------------------------------------------------------


def constant_problem(value: int) -> str:
    """Say that a target has one value only."""
    return f"constant ({value}) on the training tokens"


def left_out_note(n_rows: int) -> str:
    """Say how many training rows were left out; nothing, where none was."""
    return f"{n_rows} training tokens left out: activations not finite" if n_rows else ""


def few_rows_note(n_rows: int, features: int) -> str:
    """Say that there are fewer training rows than dimensions; nothing, where there are not."""
    return f"{n_rows} training tokens for {features} dimensions" if n_rows < features else ""


def joined(*notes: str) -> str:
    """Several notes as one; the empty ones are left out."""
    return "; ".join(filter(None, notes))


def _problem(train: Bank, validation: Bank, k: int, values: np.ndarray, target: Target) -> str:
    """Why target k has no probe, of whose values these are frequent enough; nothing, where it may have one."""
    if train.rows(k) < MIN_ROWS or validation.rows(k) < MIN_ROWS:
        n_left_out = train.n_not_finite + validation.n_not_finite
        return (
            f"{train.rows(k)} training and {validation.rows(k)} validation tokens; a probe needs {MIN_ROWS} of each"
            + (f" ({n_left_out} tokens left out: activations not finite)" if n_left_out else "")
        )
    classes = train.classes(k)
    if len(classes) == 1:
        return constant_problem(classes[0])
    if target.regression:
        return ""
    if len(values) < 2:
        return f"{len(values)} of {len(classes)} values come {MIN_OF_CLASS} times or more in training; 2 are needed"
    if not validation.counts[k, values + MAX_ABS_VALUE].any():
        return "no validation token has a value that training has often enough"
    return ""


def _note(train: Bank, k: int, values: np.ndarray, target: Target) -> str:
    rare = np.setdiff1d(train.classes(k), values)
    return joined(
        few_rows_note(train.rows(k), train.xx.shape[1]),
        f"values too rare in training to be told: {rare.tolist()}" if len(rare) and not target.regression else "",
        left_out_note(train.n_not_finite),
    )
