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
from probes.data.examples import Examples, Labelled, Target, labelled
from tests.planted import a_variable, examples

constant = a_variable(lambda traces: np.full(traces.depth.shape, 5))
hardly = a_variable(lambda traces: traces.depth % 3, lambda traces: np.arange(traces.depth.shape[1]) == 10**6)
TARGETS = (
    *(Target("stack.0.value"), Target("depth", permuted=True), Target("stack.0.value", as_number=True)),
    *(Target("stack.0.kind"), Target("depth", 1), Target(constant), Target(hardly)),
)
OWN = np.array([0, 2, 3, 4, 5, 6])


@cache
def fitted() -> Baselines:
    made = Baselines(TARGETS, OWN)
    for fold in ("train", "validation"):
        part = examples().fold(fold)
        half = len(part) // 2
        for piece in (part[:half], part[half:]):
            made.add(piece, labelled(piece, TARGETS), fold)
    made.fit()
    return made


def rows(part: Examples) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Programs, positions, values and shown [rows, targets], and last tokens and position [rows, WINDOW + 1]."""
    read: Labelled = labelled(part, TARGETS)
    programs, positions = np.nonzero(part.where)
    values, defined = read.at(programs, positions)
    seen = np.array(
        [
            [part.sequences[p, at - back] if at >= back else len(vm.VOCAB) for back in range(WINDOW)] + [at]
            for p, at in zip(programs, positions, strict=True)
        ]
    )
    return programs, positions, values, defined[:, read.mask_of], seen


@cache
def said() -> dict[str, np.ndarray]:
    test = examples().fold("test")
    return dict(fitted().predict(test, *rows(test)[:2]))


def test_constants_and_ngrams_are_counts() -> None:
    (_, _, values, shown, seen), (*_, asked) = rows(examples().fold("train")), rows(examples().fold("test"))
    assert list(said()) == list(Baselines.names)
    for column, target in enumerate(OWN[:5]):
        known = shown[:, target]
        y, tokens = values[known, target], seen[known]
        overall = Counter(y.tolist()).most_common(1)[0][1]
        majority = said()["majority"][:, column]
        assert len(set(majority.tolist())) == 1
        assert (y == majority[0]).sum() == overall
        by_token = said()["by token"][:, column]
        for token in np.unique(tokens[:, 0]):
            guesses = by_token[asked[:, 0] == token]
            counts = Counter(y[tokens[:, 0] == token].tolist())
            assert all(counts[guess] == max(counts.values()) for guess in set(guesses.tolist()))
        peer = NGram(NGRAM).fit(tokens[:, :NGRAM], y)
        assert np.array_equal(said()["n-gram"][:, column], peer.predict(asked[:, :NGRAM]))


def test_the_linear_baseline_is_a_probe_on_one_hot_tokens_and_position() -> None:
    (_, _, values, shown, seen), (*_, asked) = rows(examples().fold("train")), rows(examples().fold("test"))
    positions = seen[:, WINDOW].max() + 1

    def one_hot(ids: np.ndarray) -> np.ndarray:
        columns = [ids[:, k, None] == np.arange(len(vm.VOCAB)) for k in range(WINDOW)]
        return np.concatenate([*columns, ids[:, WINDOW, None] == np.arange(positions)], 1).astype(float)

    x, x_test, found = one_hot(seen), one_hot(asked), said()["input, linear"]
    penalties = fitted()._linear.penalty
    number = Ridge(penalties(1)).fit(x[shown[:, 2]], values[shown[:, 2], 2])
    assert np.allclose(found[:, 1], number.predict(x_test), atol=1e-3)
    kinds = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=penalties(2)).fit(x, values[:, 3])
    assert (found[:, 2] == kinds.predict(x_test)).mean() > 0.99


def test_the_nonlinear_baseline_reads_every_state_and_beats_the_constant() -> None:
    _, _, values, shown, _ = rows(examples().fold("test"))
    found, majority = said()["input, nonlinear"], said()["majority"]
    for column, target in ((0, 0), (2, 3), (3, 4)):
        known = shown[:, target]
        right, constant_right = ((part[known, column] == values[known, target]).mean() for part in (found, majority))
        assert right > constant_right + 0.05, TARGETS[target]
    assert np.corrcoef(found[shown[:, 2], 1], values[shown[:, 2], 2])[0, 1] > 0.6


def test_a_network_is_no_worse_for_what_else_is_asked() -> None:
    alone = Baselines(TARGETS[:1], np.array([0]))
    for fold in ("train", "validation"):
        part = examples().fold(fold)
        alone.add(part, labelled(part, TARGETS[:1]), fold)
    alone.fit()
    test = examples().fold("test")
    found = dict(alone.predict(test, *rows(test)[:2]))["input, nonlinear"][:, 0]
    known = rows(test)[3][:, 0]
    assert np.array_equal(found[known], said()["input, nonlinear"][known, 0])


def test_what_cannot_be_fitted_is_not_read_and_the_rest_is() -> None:
    assert fitted()._linear.problems == {
        4: "constant (5) on the training tokens",
        5: "0 training and 0 validation tokens; a probe needs 50 of each",
    }
    for name in ("input, linear", "input, nonlinear"):
        assert np.isnan(said()[name][:, 4:]).all()
        assert np.isfinite(said()[name][:, :3]).all()
    assert (said()["majority"][:, 4] == 5).all()
    assert np.isnan(said()["majority"][:, 5]).all()


def test_no_more_training_tokens_are_kept_than_are_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_baselines, "_MAX_ROWS", 300)
    made, part = Baselines(TARGETS, OWN), examples().fold("train")
    for begin in range(0, 60, 10):
        piece = part[begin : begin + 10]
        made.add(piece, labelled(piece, TARGETS), "train")
    kept = sum(len(features) for features, *_ in made._parts["train"])
    assert 300 <= kept < 300 + part[:10].where.sum() * 2
