"""The harness against planted truths, before any result of it counts: what is there is found, what is not is not.

The programs, their skeletons and folds are real; activations and labels are made up on top of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cadmus.machine import tokens
from cadmus.programs.families import Register
from cadmus.statistics import clustered
from probes.controls import frequency
from probes.data.folds import FOLDS, check_no_leak, skeleton_folds, skeleton_ids
from probes.solvers.estimators import DiscriminantProbe, RidgeProbe
from probes.solvers.mlp import MLPClassifierProbe

MARGIN = 0.05  # by which the lower bound of score minus control must exceed 0: read
LEVEL = 0.05
NOISES = 200
MAX_POSITIVE = 16  # of NOISES at LEVEL: 10 are expected, and two standard deviations are 6
_PROGRAMS = 1200
_FEATURES = 24
_NOISE_FEATURES = 64  # enough to remember skeletons by, were they on both sides of a split


@dataclass(frozen=True)
class Check:
    """A planted truth, what the harness should say of it, what it said, and whether that is so."""

    name: str
    expected: str
    found: str
    passed: bool


def conditional(train_labels: np.ndarray, train_inputs: np.ndarray, test_inputs: np.ndarray) -> np.ndarray:
    """The most frequent label given position and token, or the position alone where those came too seldom: [test rows].

    inputs int [rows, (position, token)].
    """
    return frequency.NGram(order=2).fit(train_inputs, train_labels).predict(test_inputs)


def perceptron() -> MLPClassifierProbe:
    """The nonlinear probe, small and soon done: what is planted needs no more."""
    return MLPClassifierProbe(hidden=32, epochs=20)


@dataclass(frozen=True)
class Harness:
    """The parts that are put to the test, by default the project's own. Probes are made without arguments and have
    scikit-learn's `fit`, `predict`.

    regressor, classifier: linear; nonlinear: a classifier. baseline(train labels, train inputs, test inputs) ->
    predictions, as `conditional`; folds(programs) -> index into `FOLDS`; cluster_sums(values, skeletons,
    programs) -> sums; check_no_leak(train skeletons, test skeletons) raises ValueError.
    """

    regressor: Callable[[], Any] = RidgeProbe
    classifier: Callable[[], Any] = DiscriminantProbe
    nonlinear: Callable[[], Any] = perceptron
    baseline: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] = conditional
    folds: Callable[[np.ndarray], np.ndarray] = skeleton_folds
    cluster_sums: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] = clustered.cluster_sums
    check_no_leak: Callable[[np.ndarray, np.ndarray], None] = check_no_leak


@dataclass(frozen=True)
class _Data:
    """One row per token of every program: arrays [rows], and per program its skeleton and its fold."""

    position: np.ndarray
    token: np.ndarray
    program: np.ndarray
    skeletons: np.ndarray
    folds: np.ndarray

    @classmethod
    def of(cls, programs: np.ndarray, folds: np.ndarray) -> _Data:
        sequences = tokens.sequences(programs)
        inside = np.arange(sequences.shape[1]) <= tokens.lengths(programs)[:, None]
        program, position = np.nonzero(inside)
        return cls(position, sequences[inside].astype(np.int64), program, skeleton_ids(programs), folds)

    @property
    def train(self) -> np.ndarray:
        """Rows that probes are fitted to: bool [rows]."""
        return self.folds[self.program] == FOLDS.index("train")

    @property
    def test(self) -> np.ndarray:
        return self.folds[self.program] == FOLDS.index("test")

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        return np.stack([self.position, self.token], 1)[rows]

    def by_token(self, y: np.ndarray) -> np.ndarray:
        """The best constant given the current token: [test rows]."""
        return frequency.Majority(y[self.train], self.token[self.train]).predict(self.token[self.test])

    def conditional(self, y: np.ndarray, harness: Harness) -> np.ndarray:
        return harness.baseline(y[self.train], self.inputs(self.train), self.inputs(self.test))


def linear(data: _Data, harness: Harness, rng: np.random.Generator) -> list[Check]:
    """A number that each program has, along one direction of the activations."""
    y = rng.integers(-2, 3, len(data.folds))[data.program]
    x = rng.normal(size=(len(y), _FEATURES)) + 3 * y[:, None] * _direction(rng)
    read = np.rint(harness.regressor().fit(x[data.train], y[data.train]).predict(x[data.test]))
    gain = _gain(data, harness, y, read, data.by_token(y))
    expected = f"linear probe minus best constant by token: more than {MARGIN}"
    return [Check("planted linear signal", expected, _said(gain), gain.low > MARGIN)]


def exclusive_or(data: _Data, harness: Harness, rng: np.random.Generator) -> list[Check]:
    """Whether just one of two bits is set, each of which has its own direction."""
    bits = rng.integers(0, 2, (len(data.token), 2))
    y = bits[:, 0] ^ bits[:, 1]
    x = 0.5 * rng.normal(size=(len(y), _FEATURES)) + 3 * bits @ np.stack([_direction(rng), _direction(rng)])
    gains = []
    for make in (harness.classifier, harness.nonlinear):
        read = make().fit(x[data.train], y[data.train]).predict(x[data.test])
        gains.append(_gain(data, harness, y, read, data.by_token(y)))
    passed = gains[0].low <= MARGIN < gains[1].low
    expected = f"minus best constant by token: linear probe not more than {MARGIN}, nonlinear more"
    return [Check("planted XOR", expected, f"linear {_said(gains[0])}, nonlinear {_said(gains[1])}", passed)]


def position(data: _Data, harness: Harness, rng: np.random.Generator) -> list[Check]:
    """A label that follows from the position, which is all that the activations hold; then one that does not."""
    where = rng.normal(size=(data.position.max() + 1, _FEATURES))[data.position]
    noise = 0.3 * rng.normal(size=where.shape)
    confounded = rng.permutation(data.position.max() + 1)[data.position] % 4
    confounded = np.where(rng.random(len(confounded)) < 0.1, rng.integers(0, 4, len(confounded)), confounded)
    beyond = rng.integers(0, 2, len(data.folds))[data.program]
    checks = []
    for name, y, x in (
        ("planted position confound", confounded, where + noise),
        ("planted signal beyond the position", beyond, where + noise + 2 * beyond[:, None] * _direction(rng)),
    ):
        read = harness.classifier().fit(x[data.train], y[data.train]).predict(x[data.test])
        naive = _gain(data, harness, y, read, data.by_token(y))
        gain = _gain(data, harness, y, read, data.conditional(y, harness))
        there = y is beyond
        expected = f"probe minus best constant by token: more than {MARGIN}; minus conditional baseline: "
        expected += f"{'more' if there else 'not more'}"
        passed = naive.low > MARGIN and (gain.low > MARGIN) == there
        checks.append(Check(name, expected, f"{_said(naive)}; {_said(gain)}", passed))
    return checks


def leak(data: _Data, harness: Harness, rng: np.random.Generator) -> list[Check]:
    """The harness's own split, which has no skeleton on both sides, and one by program, which has."""
    by_program = rng.permutation(data.folds)
    said = []
    for folds in (data.folds, by_program):
        train, test = (data.skeletons[folds == FOLDS.index(fold)] for fold in ("train", "test"))
        try:
            harness.check_no_leak(train, test)
            said.append("")
        except ValueError as error:
            said.append(str(error))
    found = f"the folds: {said[0] or 'no leak'}; split by program: {said[1] or 'no leak'}"
    return [
        Check("leaked skeleton", "split by skeleton: no leak; by program: a leak", found, not said[0] and said[1] != "")
    ]


def noise(data: _Data, harness: Harness, rng: np.random.Generator) -> list[Check]:
    """Labels and activations that have nothing in common but the skeleton; one row per program."""
    _, skeleton = np.unique(data.skeletons, return_inverse=True)
    train, test = (data.folds == FOLDS.index(fold) for fold in ("train", "test"))
    programs = np.flatnonzero(test)
    sums = []
    for _ in range(NOISES):
        y = rng.integers(0, 2, skeleton.max() + 1)[skeleton]
        x = rng.normal(size=(skeleton.max() + 1, _NOISE_FEATURES))[skeleton]
        x += 0.3 * rng.normal(size=x.shape)
        read = harness.classifier().fit(x[train], y[train]).predict(x[test])
        constant = frequency.Majority(y[train], np.zeros(train.sum())).overall
        values = np.stack([read == y[test], constant == y[test], np.ones(len(programs))], 1).astype(float)
        sums.append(harness.cluster_sums(values, skeleton[test], programs))
    sums = np.stack(sums, 1)
    by_flips = int((clustered.sign_flip(sums[..., 0] - sums[..., 1]).p <= LEVEL).sum())
    by_interval = int((clustered.difference_many(sums).low > 0).sum())
    expected = f"at level {LEVEL:.0%}, at most {MAX_POSITIVE} of {NOISES} seeds positive"
    return [
        Check("noise, by sign flips", expected, f"{by_flips} positive", by_flips <= MAX_POSITIVE),
        Check("noise, by intervals", expected, f"{by_interval} positive", by_interval <= MAX_POSITIVE),
    ]


CHECKS = (linear, exclusive_or, position, leak, noise)


def run(
    progress: Callable[[float], None] | None = None,
    harness: Harness | None = None,
    seed: int = 0,
    checks: Sequence[Callable[..., list[Check]]] = CHECKS,
) -> list[Check]:
    """What `checks` say of the harness; `progress` is told the share done."""
    harness = harness or Harness()
    programs = Register(max_stores=2).generate(_PROGRAMS, np.random.default_rng([seed, 0]))
    data = _Data.of(programs, harness.folds(programs))
    done: list[Check] = []
    for k, check in enumerate(checks, 1):
        done += check(data, harness, np.random.default_rng([seed, CHECKS.index(check) + 1]))
        if progress is not None:
            progress(k / len(checks))
    return done


def _direction(rng: np.random.Generator) -> np.ndarray:
    drawn = rng.normal(size=_FEATURES)
    return drawn / np.linalg.norm(drawn)


def _gain(data: _Data, harness: Harness, y: np.ndarray, read: np.ndarray, control: np.ndarray) -> clustered.Interval:
    """Score minus control on the test rows. y [rows]; read, control [test rows]."""
    truth, programs = y[data.test], data.program[data.test]
    values = np.stack([read == truth, control == truth, np.ones(len(truth))], 1).astype(float)
    sums = harness.cluster_sums(values, data.skeletons[programs], programs)
    found = clustered.difference_many(sums[:, None])
    return clustered.Interval(float(found.estimate[0]), float(found.low[0]), float(found.high[0]), len(sums))


def _said(gain: clustered.Interval) -> str:
    return f"{gain.estimate:.2f} [{gain.low:.2f}, {gain.high:.2f}]"
