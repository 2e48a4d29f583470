"""Fit the probes of a site from its banks, for every target at once, and read with them.

A target is read by the discriminant classifier over its values, or, `as_number`, by ridge regression, which counts
where it rounds to the value. What cannot be fitted is reported, target by target, and the others are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cadmus.states.variables import MAX_ABS_VALUE
from probes.data.examples import Target
from probes.solvers.bank import Bank
from probes.solvers.linear import SHRINKAGES, Linear, discriminant, ridge
from probes.solvers.moments import Moments

MIN_ROWS = 50  # of training and of validation, for a probe
MIN_OF_CLASS = 5  # training rows of a value that a classifier is to tell


@dataclass(frozen=True)
class SiteProbes:
    """The fitted probes of one site. `numbers` reads the targets `number_targets`; `classifiers` has (target, map,
    classes) for each category; `problems` says by target why it has no probe; `notes`, what its reader should know."""

    targets: int
    numbers: Linear | None
    number_targets: np.ndarray
    classifiers: tuple[tuple[int, Linear, np.ndarray], ...]
    problems: dict[int, str] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)

    def predict(self, x: np.ndarray, shown: np.ndarray | None = None) -> np.ndarray:
        """What is read in x [rows, features]: float32 [rows, targets], NaN for a target without a probe and for a row
        with activations that are not finite. Where `shown` bool [rows, targets] is False classifiers are not asked
        (NaN): most variables are defined at few tokens."""
        x = np.asarray(x, np.float32)
        finite = np.isfinite(x).all(1)
        if not finite.all():
            x = np.where(finite[:, None], x, 0)
        out = np.full((len(x), self.targets), np.nan, np.float32)
        if self.numbers is not None:
            out[:, self.number_targets] = self.numbers(x)
        for target, linear, classes in self.classifiers:
            rows = slice(None) if shown is None or shown[:, target].all() else np.flatnonzero(shown[:, target])
            out[rows, target] = classes[linear(x[rows]).argmax(1)]
        out[~finite] = np.nan
        return out

    def penalty(self, target: int) -> float:
        """The ridge penalty or the shrinkage chosen; NaN without a probe."""
        at = np.flatnonzero(self.number_targets == target)
        if len(at):
            return float(self.numbers.penalty[at[0]])
        return next((float(linear.penalty[0]) for t, linear, _ in self.classifiers if t == target), float("nan"))


def fit(train: Bank, validation: Bank, targets: Sequence[Target]) -> SiteProbes:
    """The probes of all targets, each with the penalty that `validation` prefers."""
    problems, notes, classifiers = {}, {}, []
    numbers: dict[int, list[int]] = {}
    shrinkages: dict[int, float] = {}  # chosen once per mask: the covariance is nearly the same
    for k, target in enumerate(targets):
        mask, often = int(train.mask_of[k]), _often(train, k)
        problem = _problem(train, validation, k, often, target)
        if not problem and target.as_number:
            numbers.setdefault(mask, []).append(k)
        elif not problem:
            try:
                found = _classifier(train.moments(k, often), validation.moments(k, often), shrinkages.get(mask))
                shrinkages.setdefault(mask, float(found.penalty[0]))
                classifiers.append((k, found, often))
            except (ValueError, np.linalg.LinAlgError) as error:
                problem = str(error)
        if problem:
            problems[k] = problem
        else:
            notes[k] = _note(train, k, often, target)
    parts, order = [], []
    for group in numbers.values():
        try:
            parts.append(ridge(train.numbers(group), validation=validation.numbers(group)))
            order += group
        except (ValueError, np.linalg.LinAlgError) as error:
            problems |= dict.fromkeys(group, str(error))
    together = None
    if parts:
        together = Linear(*(np.concatenate([getattr(p, f) for p in parts], -1) for f in Linear.__dataclass_fields__))
    notes = {k: note for k, note in notes.items() if note and k not in problems}
    return SiteProbes(len(targets), together, np.array(order, int), tuple(classifiers), problems, notes)


def _often(train: Bank, target: int) -> np.ndarray:
    """The values that training has often enough to tell them: int [classes]."""
    classes = train.classes(target)
    return classes[train.counts[target, classes + MAX_ABS_VALUE] >= MIN_OF_CLASS]


def _classifier(train: Moments, validation: Moments, shrinkage: float | None) -> Linear:
    if shrinkage is not None:
        try:
            return discriminant(train, (shrinkage,))
        except ValueError:  # too little for this target
            pass
    return discriminant(train, SHRINKAGES, validation)


def _problem(train: Bank, validation: Bank, k: int, often: np.ndarray, target: Target) -> str:
    if train.rows(k) < MIN_ROWS or validation.rows(k) < MIN_ROWS:
        bad = train.bad + validation.bad
        return (
            f"{train.rows(k)} training and {validation.rows(k)} validation tokens; a probe needs {MIN_ROWS} of each"
            + (f" ({bad} tokens left out: activations not finite)" if bad else "")
        )
    classes = train.classes(k)
    if len(classes) == 1:
        return f"constant ({classes[0]}) on the training tokens"
    if target.as_number:
        return ""
    if len(often) < 2:
        return f"{len(often)} of {len(classes)} values come {MIN_OF_CLASS} times or more in training; 2 are needed"
    if not validation.counts[k, often + MAX_ABS_VALUE].any():
        return "no validation token has a value that training has often enough"
    return ""


def _note(train: Bank, k: int, often: np.ndarray, target: Target) -> str:
    rows, features = train.rows(k), train.xx.shape[1]
    rare = np.setdiff1d(train.classes(k), often)
    said = (
        f"{rows} training tokens for {features} dimensions" if rows < features else "",
        f"values too rare in training to be told: {rare.tolist()}" if len(rare) and not target.as_number else "",
        f"{train.bad} training tokens left out: activations not finite" if train.bad else "",
    )
    return "; ".join(filter(None, said))
