"""What the input gives away, baseline by baseline, against scikit-learn and counting; no model is run."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge

from cadmus.machine import vm
from probes.controls import input_baselines
from probes.controls.frequency import NGram
from probes.controls.input_baselines import NGRAM, WINDOW, Baselines
from probes.data.examples import Examples, labelled
from probes.data.targets import Target, Targets
from tests.planted import a_variable, examples

constant = a_variable(lambda traces: np.full(traces.depth.shape, 5))
hardly = a_variable(lambda traces: traces.depth % 3, lambda traces: np.arange(traces.depth.shape[1]) == 10**6)
TARGETS = Targets(
    [
        Target("stack.0.value"),
        Target("depth", permuted=True),
        Target("stack.0.value", regression=True),
        Target("stack.0.kind"),
        Target("depth", 1),
        Target(constant),
        Target(hardly),
    ]
)


@cache
def fitted() -> Baselines:
    baselines = Baselines(TARGETS)
    for fold in ("train", "validation"):
        part = examples().fold(fold)
        half = len(part) // 2
        for piece in (part[:half], part[half:]):
            baselines.add(piece, labelled(piece, TARGETS), fold)
    baselines.fit()
    return baselines


def rows(part: Examples) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Programs, positions, values and mask [rows, targets], and last tokens and position [rows, WINDOW + 1]."""
    programs, positions = np.nonzero(part.where)
    values, mask = labelled(part, TARGETS).at(programs, positions)
    window = np.array(
        [
            [part.sequences[p, at - back] if at >= back else len(vm.VOCAB) for back in range(WINDOW)] + [at]
            for p, at in zip(programs, positions, strict=True)
        ]
    )
    return programs, positions, values, mask, window


@cache
def predictions() -> dict[str, np.ndarray]:
    test = examples().fold("test")
    return dict(fitted().predict(test, *rows(test)[:2]))


def test_constants_and_ngrams_are_counts() -> None:
    (_, _, values, mask, window), (*_, test_window) = rows(examples().fold("train")), rows(examples().fold("test"))
    assert list(predictions()) == list(Baselines.names)
    for column, target in enumerate(TARGETS.own[:5]):
        rows_of_target = mask[:, target]
        y, tokens = values[rows_of_target, target], window[rows_of_target]
        overall = Counter(y.tolist()).most_common(1)[0][1]
        majority = predictions()["majority"][:, column]
        assert len(set(majority.tolist())) == 1
        assert (y == majority[0]).sum() == overall
        by_token = predictions()["by token"][:, column]
        for token in np.unique(tokens[:, 0]):
            guesses = by_token[test_window[:, 0] == token]
            counts = Counter(y[tokens[:, 0] == token].tolist())
            assert all(counts[guess] == max(counts.values()) for guess in set(guesses.tolist()))
        peer = NGram(NGRAM).fit(tokens[:, :NGRAM], y)
        assert np.array_equal(predictions()["n-gram"][:, column], peer.predict(test_window[:, :NGRAM]))


def test_the_linear_baseline_is_a_probe_on_one_hot_tokens_and_position() -> None:
    (_, _, values, mask, window), (*_, test_window) = rows(examples().fold("train")), rows(examples().fold("test"))
    positions = window[:, WINDOW].max() + 1

    def one_hot(ids: np.ndarray) -> np.ndarray:
        columns = [ids[:, k, None] == np.arange(len(vm.VOCAB)) for k in range(WINDOW)]
        return np.concatenate([*columns, ids[:, WINDOW, None] == np.arange(positions)], 1).astype(float)

    x, x_test, predicted = one_hot(window), one_hot(test_window), predictions()["input, linear"]
    penalties = fitted()._whole.linear.penalty
    number = Ridge(penalties(1)).fit(x[mask[:, 2]], values[mask[:, 2], 2])
    assert np.allclose(predicted[:, 1], number.predict(x_test), atol=1e-3)
    kinds = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=penalties(2)).fit(x, values[:, 3])
    assert (predicted[:, 2] == kinds.predict(x_test)).mean() > 0.99


def test_the_nonlinear_baseline_reads_every_state_and_beats_the_constant() -> None:
    _, _, values, mask, _ = rows(examples().fold("test"))
    network, majority = predictions()["input, nonlinear"], predictions()["majority"]
    for column, target in ((0, 0), (2, 3), (3, 4)):
        known = mask[:, target]
        accuracy, constant_accuracy = (
            (predicted[known, column] == values[known, target]).mean() for predicted in (network, majority)
        )
        assert accuracy > constant_accuracy + 0.05, TARGETS[target]
    assert np.corrcoef(network[mask[:, 2], 1], values[mask[:, 2], 2])[0, 1] > 0.6


def test_a_network_is_no_worse_for_what_else_is_asked() -> None:
    alone = Baselines(TARGETS[:1])
    for fold in ("train", "validation"):
        part = examples().fold(fold)
        alone.add(part, labelled(part, TARGETS[:1]), fold)
    alone.fit()
    test = examples().fold("test")
    predicted = dict(alone.predict(test, *rows(test)[:2]))["input, nonlinear"][:, 0]
    known = rows(test)[3][:, 0]
    assert np.array_equal(predicted[known], predictions()["input, nonlinear"][known, 0])


def test_what_cannot_be_fitted_is_not_read_and_the_rest_is() -> None:
    assert fitted()._whole.linear.problems == {
        4: "constant (5) on the training tokens",
        5: "0 training and 0 validation tokens; a probe needs 50 of each",
    }
    for name in ("input, linear", "input, nonlinear"):
        assert np.isnan(predictions()[name][:, 4:]).all()
        assert np.isfinite(predictions()[name][:, :3]).all()
    assert (predictions()["majority"][:, 4] == 5).all()
    assert np.isnan(predictions()["majority"][:, 5]).all()


def test_no_more_training_tokens_are_kept_than_are_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_baselines, "_MAX_ROWS", 300)
    baselines, part = Baselines(TARGETS), examples().fold("train")
    for begin in range(0, 60, 10):
        piece = part[begin : begin + 10]
        baselines.add(piece, labelled(piece, TARGETS), "train")
    n_rows = sum(len(rows.features) for rows in baselines._parts["train"])
    assert 300 <= n_rows < 300 + part[:10].where.sum() * 2


def test_what_half_of_the_rows_give_stands_beside() -> None:
    """Of present states that claims are made of; the network of a variable's other offsets has no half."""
    test = examples().fold("test")
    halves = dict(fitted().predict(test, *rows(test)[:2], half=True))
    _, _, values, mask, _ = rows(test)
    assert list(halves) == list(Baselines.names)
    for name in ("n-gram", "input, linear", "input, nonlinear"):
        known = mask[:, 0]
        half, whole = ((p[name][known, 0] == values[known, 0]).mean() for p in (halves, predictions()))
        assert half < whole + 0.03, name
        assert half > 0.1
    assert np.isfinite(halves["input, linear"][:, 3]).all()
    assert np.isnan(halves["input, nonlinear"][:, 3]).all()


def test_a_role_is_read_by_the_better_of_two_networks() -> None:
    targets = Targets([Target("stack.0.value"), Target("stack.0.value", where="arose")])
    baselines = Baselines(targets)
    for fold in ("train", "validation"):
        part = examples().fold(fold)
        baselines.add(part, labelled(part, targets), fold)
    baselines.fit()
    part = examples().fold("validation")
    at = np.nonzero(part.where)
    values, mask = labelled(part, targets).at(*at)
    predicted = dict(baselines.predict(part, *at))["input, nonlinear"]
    own, everywhere = ((predicted[mask[:, 1], k] == values[mask[:, 1], 1]).mean() for k in (1, 0))
    assert own >= everywhere
