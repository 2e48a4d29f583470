"""The probing harness against planted truths: planted signals must be found, and nothing else.

The programs, their skeletons and folds are real; activations and labels are invented on top of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cadmus.machine import tokens
from cadmus.programs.families import Register
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.seeds import generator
from cadmus.statistics import clustered
from probes.controls import frequency
from probes.data.folds import FOLDS, check_no_leak, skeleton_folds, skeleton_ids
from probes.solvers.estimators import DiscriminantProbe, RidgeProbe
from probes.solvers.mlp import MLPClassifierProbe

MARGIN = 0.05  # a label counts as read where the lower bound of score minus control exceeds this
LEVEL = 0.05  # of the tests on noise
NOISE_DRAWS = 200
MAX_POSITIVE = 16  # of NOISE_DRAWS at LEVEL: 10 are expected, and two standard deviations are 6
_PROGRAMS = 1200
_FEATURES = 24
_NOISE_FEATURES = 64  # enough to remember skeletons by, were they on both sides of a split


@dataclass(frozen=True)
class Check:
    """The harness's verdict on one planted truth."""

    name: str
    """What was planted."""

    expected: str
    """The result that a sound harness has."""

    result: str
    """The result that this one has."""

    passed: bool
    """Whether the two agree."""


def conditional(train_labels: np.ndarray, train_inputs: np.ndarray, test_inputs: np.ndarray) -> np.ndarray:
    """The most frequent label given position and token, or the position alone where both are rare: [test rows].

    train_labels [train rows]; inputs int [rows, (position, token)].
    """
    return frequency.NGram(order=2).fit(train_inputs, train_labels).predict(test_inputs)


def perceptron() -> MLPClassifierProbe:
    """A small nonlinear probe, which is enough for planted signals."""
    return MLPClassifierProbe(hidden=32, epochs=20)


@dataclass(frozen=True)
class Harness:
    """The parts that are put to the test, by default the project's own.

    Probes are constructed without arguments and have scikit-learn's `fit` and `predict`.
    """

    regressor: Callable[[], Any] = RidgeProbe
    """Makes a linear probe of numbers."""

    classifier: Callable[[], Any] = DiscriminantProbe
    """Makes a linear probe of classes."""

    nonlinear: Callable[[], Any] = perceptron
    """Makes a nonlinear probe of classes."""

    baseline: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] = conditional
    """(train labels, train inputs, test inputs) -> predictions, as `conditional`."""

    folds: Callable[[np.ndarray], np.ndarray] = skeleton_folds
    """Programs uint8 [n, width] -> indices into `FOLDS`."""

    cluster_sums: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] = clustered.cluster_sums
    """(values [rows, columns], skeletons, programs) -> sums by cluster."""

    check_no_leak: Callable[[np.ndarray, np.ndarray], None] = check_no_leak
    """(train skeletons, test skeletons): raises ValueError where they overlap."""


@dataclass(frozen=True)
class _Data:
    """The tokens of all programs, one row each; n programs."""

    position: np.ndarray
    """int64 [rows]: the token's position in the model's input."""

    token: np.ndarray
    """int64 [rows]: its id."""

    program: np.ndarray
    """int64 [rows]: its program."""

    skeletons: np.ndarray
    """uint64 [n]: the skeleton of each program."""

    folds: np.ndarray
    """int [n]: the fold of each program, an index into `FOLDS`."""

    @classmethod
    def of(cls, programs: np.ndarray, folds: np.ndarray) -> _Data:
        """The rows of programs uint8 [n, width], the marker's included."""
        sequences = tokens.sequences(programs)
        inside = np.arange(sequences.shape[1]) <= tokens.lengths(programs)[:, None]
        program, position = np.nonzero(inside)
        return cls(position, sequences[inside].astype(np.int64), program, skeleton_ids(programs), folds)

    @property
    def train(self) -> np.ndarray:
        """The rows that probes are fitted to: bool [rows]."""
        return self.folds[self.program] == FOLDS.index("train")

    @property
    def test(self) -> np.ndarray:
        """The rows that probes are judged on: bool [rows]."""
        return self.folds[self.program] == FOLDS.index("test")

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        """What a baseline sees of some rows: int [rows, (position, token)]."""
        return np.stack([self.position, self.token], 1)[rows]

    def by_token(self, y: np.ndarray) -> np.ndarray:
        """The best constant given the current token: [test rows]."""
        return frequency.Majority(y[self.train], self.token[self.train]).predict(self.token[self.test])

    def conditional(self, y: np.ndarray, harness: Harness) -> np.ndarray:
        """The predictions of the harness's baseline: [test rows]."""
        return harness.baseline(y[self.train], self.inputs(self.train), self.inputs(self.test))

    def predict(self, probe: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The predictions of a probe fitted to the training rows: [test rows]."""
        return probe.fit(x[self.train], y[self.train]).predict(x[self.test])


def linear(data: _Data, harness: Harness, rng: np.random.Generator) -> list[Check]:
    """A number per program, along one direction of the activations, must be read."""
    y = rng.integers(-2, 3, len(data.folds))[data.program]
    x = rng.normal(size=(len(y), _FEATURES)) + 3 * y[:, None] * _direction(rng)
    predicted = np.rint(data.predict(harness.regressor(), x, y))
    gain = _gain(data, harness, y, predicted, data.by_token(y))
    expected = f"linear probe minus best constant by token: more than {MARGIN}"
    return [Check("planted linear signal", expected, _interval_text(gain), gain.low > MARGIN)]


def exclusive_or(data: _Data, harness: Harness, rng: np.random.Generator) -> list[Check]:
    """Whether just one of two bits is set, each along its own direction, must be read by the nonlinear probe only."""
    bits = rng.integers(0, 2, (len(data.token), 2))
    y = bits[:, 0] ^ bits[:, 1]
    x = 0.5 * rng.normal(size=(len(y), _FEATURES)) + 3 * bits @ np.stack([_direction(rng), _direction(rng)])
    by_linear, by_nonlinear = (
        _gain(data, harness, y, data.predict(make_probe(), x, y), data.by_token(y))
        for make_probe in (harness.classifier, harness.nonlinear)
    )
    expected = f"minus best constant by token: linear probe not more than {MARGIN}, nonlinear more"
    result = f"linear {_interval_text(by_linear)}, nonlinear {_interval_text(by_nonlinear)}"
    return [Check("planted XOR", expected, result, by_linear.low <= MARGIN < by_nonlinear.low)]


def position(data: _Data, harness: Harness, rng: np.random.Generator) -> list[Check]:
    """A label that follows from the position, which is all that the activations hold, must not count as read; one that
    does not follow from it must."""
    where = rng.normal(size=(data.position.max() + 1, _FEATURES))[data.position]
    noise = 0.3 * rng.normal(size=where.shape)
    confounded = rng.permutation(data.position.max() + 1)[data.position] % 4
    confounded = np.where(rng.random(len(confounded)) < 0.1, rng.integers(0, 4, len(confounded)), confounded)
    beyond = rng.integers(0, 2, len(data.folds))[data.program]
    checks = []
    for name, y, x, is_beyond in (
        ("planted position confound", confounded, where + noise, False),
        ("planted signal beyond the position", beyond, where + noise + 2 * beyond[:, None] * _direction(rng), True),
    ):
        predicted = data.predict(harness.classifier(), x, y)
        naive = _gain(data, harness, y, predicted, data.by_token(y))
        gain = _gain(data, harness, y, predicted, data.conditional(y, harness))
        expected = f"probe minus best constant by token: more than {MARGIN}; minus conditional baseline: "
        expected += "more" if is_beyond else "not more"
        passed = naive.low > MARGIN and (gain.low > MARGIN) == is_beyond
        checks.append(Check(name, expected, f"{_interval_text(naive)}; {_interval_text(gain)}", passed))
    return checks


def leak(data: _Data, harness: Harness, rng: np.random.Generator) -> list[Check]:
    """A skeleton on both sides must be reported of a split by program, and not of the harness's own split."""
    by_program = rng.permutation(data.folds)
    messages = []
    for folds in (data.folds, by_program):
        train, test = (data.skeletons[folds == FOLDS.index(fold)] for fold in ("train", "test"))
        try:
            harness.check_no_leak(train, test)
            messages.append("")
        except ValueError as error:
            messages.append(str(error))
    own, other = messages
    expected = "split by skeleton: no leak; by program: a leak"
    result = f"the folds: {own or 'no leak'}; split by program: {other or 'no leak'}"
    return [Check("leaked skeleton", expected, result, not own and other != "")]


def noise(data: _Data, harness: Harness, rng: np.random.Generator) -> list[Check]:
    """Labels and activations that share nothing but the skeleton must come out positive as seldom as the level says."""
    _, skeleton = np.unique(data.skeletons, return_inverse=True)
    train, test = (data.folds == FOLDS.index(fold) for fold in ("train", "test"))  # one row per program
    programs = np.flatnonzero(test)
    sums_by_seed = []
    for _ in range(NOISE_DRAWS):
        y = rng.integers(0, 2, skeleton.max() + 1)[skeleton]
        x = rng.normal(size=(skeleton.max() + 1, _NOISE_FEATURES))[skeleton]
        x += 0.3 * rng.normal(size=x.shape)
        predicted = harness.classifier().fit(x[train], y[train]).predict(x[test])
        constant = frequency.Majority(y[train], np.zeros(train.sum())).overall
        values = np.stack([predicted == y[test], constant == y[test], np.ones(len(programs))], 1).astype(float)
        sums_by_seed.append(harness.cluster_sums(values, skeleton[test], programs))
    sums = np.stack(sums_by_seed, 1)
    by_flips = int((clustered.sign_flip(sums[..., 0] - sums[..., 1]).p <= LEVEL).sum())
    by_interval = int((clustered.difference_many(sums).low > 0).sum())
    expected = f"at level {LEVEL:.0%}, at most {MAX_POSITIVE} of {NOISE_DRAWS} seeds positive"
    return [
        Check("noise, by sign flips", expected, f"{by_flips} positive", by_flips <= MAX_POSITIVE),
        Check("noise, by intervals", expected, f"{by_interval} positive", by_interval <= MAX_POSITIVE),
    ]


CHECKS = (linear, exclusive_or, position, leak, noise)


def run(
    progress: Progress = no_progress,
    harness: Harness | None = None,
    seed: int = 0,
    checks: Sequence[Callable[..., list[Check]]] = CHECKS,
) -> list[Check]:
    """Put a harness (default: the project's own) to the test: the results of `checks`, in their order.

    checks: of `CHECKS`, or functions of your own, which are called alike; `seed` and the name fix what each draws.
    """
    harness = harness or Harness()
    programs = Register(max_stores=2).generate(_PROGRAMS, np.random.default_rng([seed, 0]))
    data = _Data.of(programs, harness.folds(programs))
    results: list[Check] = []
    for k, check in enumerate(checks, 1):
        results += check(data, harness, generator(check.__name__, seed))
        progress("self-test", k / len(checks), "")
    return results


def _direction(rng: np.random.Generator) -> np.ndarray:
    """A random direction of the activations: [features], of length 1."""
    direction = rng.normal(size=_FEATURES)
    return direction / np.linalg.norm(direction)


def _gain(
    data: _Data, harness: Harness, y: np.ndarray, predicted: np.ndarray, control: np.ndarray
) -> clustered.Interval:
    """Score minus control on the test rows, clustered by skeleton. y [rows]; predicted, control [test rows]."""
    truth, programs = y[data.test], data.program[data.test]
    values = np.stack([predicted == truth, control == truth, np.ones(len(truth))], 1).astype(float)
    sums = harness.cluster_sums(values, data.skeletons[programs], programs)
    gain = clustered.difference_many(sums[:, None])
    return clustered.Interval(float(gain.estimate[0]), float(gain.low[0]), float(gain.high[0]), len(sums))


def _interval_text(gain: clustered.Interval) -> str:
    return f"{gain.estimate:.2f} [{gain.low:.2f}, {gain.high:.2f}]"
