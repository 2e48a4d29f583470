"""Fit the probes of a site from its banks, for every target at once, and read with them.

A target is read by the discriminant classifier over its values, or, `as_number`, by ridge regression, which counts
where it rounds to the value. What cannot be fitted is reported, target by target, and the others are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from probes.bank import LARGEST, Bank
from probes.examples import Target
from probes.linear import SHRINKAGES, Linear, discriminant, ridge

FEWEST_ROWS = 50  # of training and of validation, for a probe
FEWEST_OF_CLASS = 5  # training rows of a value that a classifier is to tell


@dataclass(frozen=True)
class Readouts:
    """The fitted probes of one site. `numbers` reads the targets `number_targets`; `classifiers` has (target, map,
    classes) for each category; `problems` says by target why it has no probe; `notes`, what its reader should know."""

    targets: int
    numbers: Linear | None
    number_targets: np.ndarray
    classifiers: tuple[tuple[int, Linear, np.ndarray], ...]
    problems: dict[int, str] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """What is read in x [rows, features]: float32 [rows, targets], NaN for a target without a probe and for a row
        with activations that are not finite."""
        x = np.asarray(x, np.float32)
        out = np.full((len(x), self.targets), np.nan, np.float32)
        if self.numbers is not None:
            out[:, self.number_targets] = self.numbers(x)
        for target, linear, classes in self.classifiers:
            out[:, target] = classes[linear(x).argmax(1)]
        out[~np.isfinite(x).all(1)] = np.nan
        return out

    def penalty(self, target: int) -> float:
        """The ridge penalty or the shrinkage chosen; NaN without a probe."""
        at = np.flatnonzero(self.number_targets == target)
        if len(at):
            return float(self.numbers.penalty[at[0]])
        return next((float(linear.penalty[0]) for t, linear, _ in self.classifiers if t == target), float("nan"))


def fit(train: Bank, validation: Bank, targets: Sequence[Target]) -> Readouts:
    """The probes of all targets, each with the penalty that `validation` prefers."""
    problems, notes = {}, {}
    numbers: dict[int, list[int]] = {}
    classifiers, shrinkages = [], {}
    for k, target in enumerate(targets):
        problem = _problem(train, validation, k)
        if problem:
            problems[k] = problem
        elif not target.as_number:
            classes = train.classes(k)
            often = train.counts[k, classes + LARGEST] >= FEWEST_OF_CLASS
            if not often.all():
                notes[k] = f"values too rare in training to be told: {classes[~often].tolist()}"
            classes = classes[often]
            mask = int(train.mask_of[k])
            chosen = shrinkages.get(mask, SHRINKAGES)  # chosen once per mask: the covariance is nearly the same
            found = discriminant(train.moments(k, classes), chosen, validation.moments(k, classes))
            shrinkages[mask] = (found.penalty[0],)
            classifiers.append((k, found, classes))
        else:
            numbers.setdefault(int(train.mask_of[k]), []).append(k)
    for k in range(len(targets)):
        rows, features = train.rows(k), train.xx.shape[1]
        if k not in problems and rows < features:
            notes[k] = f"{rows} training tokens for {features} dimensions"
    parts = [ridge(train.numbers(group), validation=validation.numbers(group)) for group in numbers.values()]
    together = None
    if parts:
        together = Linear(*(np.concatenate([getattr(p, f) for p in parts], -1) for f in Linear.__dataclass_fields__))
    order = np.array([k for group in numbers.values() for k in group], int)
    return Readouts(len(targets), together, order, tuple(classifiers), problems, notes)


def _problem(train: Bank, validation: Bank, target: int) -> str:
    if train.rows(target) < FEWEST_ROWS or validation.rows(target) < FEWEST_ROWS:
        return (
            f"{train.rows(target)} training and {validation.rows(target)} validation tokens; a probe needs "
            f"{FEWEST_ROWS} of each"
        )
    classes = train.classes(target)
    if len(classes) == 1:
        return f"constant ({classes[0]}) on the training tokens"
    often = train.counts[target, classes + LARGEST] >= FEWEST_OF_CLASS
    if often.sum() < 2:
        return f"{often.sum()} of {len(classes)} values come {FEWEST_OF_CLASS} times or more in training; 2 are needed"
    return ""
