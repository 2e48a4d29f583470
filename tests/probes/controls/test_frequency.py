"""Control labels, majorities, n-grams and the leak check against plain references."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from sklearn.utils.estimator_checks import check_estimator

from cadmus.models.model import Model, ModelConfig
from probes.controls.frequency import Majority, NGram, contexts
from probes.controls.untrained import untrained_twin
from probes.data.folds import check_no_leak
from probes.data.permuted import control_labels

# --- control labels --------------------------------------------------------------------------------------------------


def sequence_data(n: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, previous tokens [n] and labels [n, 3] that depend on both."""
    rng = np.random.default_rng(0)
    tokens, previous = rng.integers(0, 12, n), rng.integers(-1, 9, n)
    return tokens, previous, (tokens + previous)[:, None] % 5 + rng.integers(0, 4, (n, 3))


def test_control_labels_keep_the_marginal_of_every_pair_of_tokens() -> None:
    tokens, previous, labels = sequence_data()
    defined = np.random.default_rng(1).random(labels.shape) < [0.3, 0.9, 1.0]
    control = control_labels(labels, tokens, previous, seed=0, defined=defined)
    assert control.dtype == labels.dtype
    assert np.array_equal(control[~defined], labels[~defined]), "a row without a label got one"
    for k in range(3):
        counts = [Counter() for _ in range(2)]
        for count, values in zip(counts, (labels, control), strict=True):
            at = defined[:, k]
            count.update(zip(tokens[at].tolist(), previous[at].tolist(), values[at, k].tolist(), strict=True))
        assert counts[0] == counts[1]
        pairs = Counter(zip(tokens.tolist(), previous.tolist(), strict=True))
        assert len(pairs) > 100
    assert (control != labels)[defined].mean() > 0.5


def test_control_labels_are_uniform_over_the_permutations_of_a_pair() -> None:
    """Four rows of one pair, between rows of another: each of 24 orders comes as often as chance has it."""
    tokens = np.array([3, 3, 7, 3, 3, 7])
    labels = np.array([0, 1, 10, 2, 3, 11])
    orders = Counter()
    for seed in range(2400):
        control = control_labels(labels, tokens, np.zeros(6, int), seed)
        assert sorted(control[tokens == 7].tolist()) == [10, 11]
        orders[tuple(control[tokens == 3].tolist())] += 1
    assert len(orders) == 24
    assert sum((count - 100) ** 2 / 100 for count in orders.values()) < 50  # chi-squared of 23: p = 0.001


def test_variables_are_permuted_each_for_itself_and_by_the_seed() -> None:
    tokens, previous, labels = sequence_data()
    same = np.repeat(labels[:, :1], 2, 1)
    control = control_labels(same, tokens, previous, seed=0)
    assert not np.array_equal(control[:, 0], control[:, 1])
    assert np.array_equal(control, control_labels(same, tokens, previous, seed=0))
    assert not np.array_equal(control, control_labels(same, tokens, previous, seed=1))
    assert np.array_equal(control[:, 0], control_labels(same[:, 0], tokens, previous, seed=0))
    assert np.array_equal(same, np.repeat(labels[:, :1], 2, 1)), "the labels themselves were permuted"


def test_control_labels_want_a_token_for_each_row() -> None:
    with pytest.raises(
        ValueError, match=r"labels \(5, 2\), defined \(5, 2\), tokens \(5,\) and previous tokens \(4,\); "
    ):
        control_labels(np.zeros((5, 2), int), np.zeros(5), np.zeros(4), seed=0)
    assert control_labels(np.zeros(0, int), np.zeros(0, int), np.zeros(0, int), seed=0).shape == (0,)


# --- leaks -----------------------------------------------------------------------------------------------------------


def test_a_leaked_skeleton_is_named() -> None:
    train = np.uint64(2**63) + np.array([1, 2, 3, 3], np.uint64)
    assert check_no_leak(train, train + np.uint64(3)) is None
    with pytest.raises(
        ValueError, match=r"^1 of 2 test skeletons are in the training data too \(9223372036854775811 for "
    ):
        check_no_leak(train, train[[3, 3]] + np.array([0, 3], np.uint64))
    with pytest.raises(
        ValueError, match=r"\(\[0=\.\] for one\); split by skeleton, as probes.data.folds.skeleton_folds"
    ):
        check_no_leak(np.array(["[0=.]"]), np.array(["[00+.]", "[0=.]"]))


# --- majorities and n-grams ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int8])
def test_majority_counts(dtype: type) -> None:
    rng = np.random.default_rng(0)
    groups, labels = rng.integers(0, 40, 500).astype(dtype), rng.integers(-3, 4, 500)
    asked = rng.integers(0, 60, 300).astype(dtype)
    expected = {group: most_frequent(labels[groups == group].tolist()) for group in set(groups.tolist())}
    overall = most_frequent(labels.tolist())
    majority = Majority(labels, groups)
    assert majority.overall == overall
    assert majority.predict(asked).tolist() == [expected.get(group, overall) for group in asked.tolist()]


def test_majority_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no labels to learn the most frequent one from"):
        Majority(np.zeros(0, int), np.zeros(0, int))


def most_frequent(labels: list[int]) -> int:
    """The smallest of those that come most often."""
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))


@pytest.mark.parametrize(("order", "least"), [(0, 1), (1, 1), (2, 6), (3, 3), (3, 10)])
def test_ngram_counts_and_backs_off(order: int, least: int) -> None:
    rng = np.random.default_rng(order)
    x, asked = rng.integers(0, 7, (800, 3)), rng.integers(0, 9, (400, 3))
    y = x[:, 0] * x[:, 1] % 5 + rng.integers(0, 2, 800)
    seen = defaultdict(list)
    for row, label in zip(x.tolist(), y.tolist(), strict=True):
        for k in range(order + 1):
            seen[tuple(row[:k])].append(label)
    expected, backed_off = [], 0
    for row in asked.tolist():
        k = max(k for k in range(order + 1) if k == 0 or len(seen[tuple(row[:k])]) >= least)
        expected.append(most_frequent(seen[tuple(row[:k])]))
        backed_off += k < order
    assert NGram(order, least).fit(x, y).predict(asked).tolist() == expected
    assert order == 0 or backed_off > 0


def test_ngram_finds_what_three_tokens_give_away() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 6, (400, 20))
    x = contexts(tokens, order=4)[:, 4:].reshape(-1, 4)
    y = (x[:, 0] + 2 * x[:, 1] + 3 * x[:, 2]) % 7
    scores = [NGram(order).fit(x[:5000], y[:5000]).score(x[5000:], y[5000:]) for order in (0, 1, 2, 3, 4)]
    assert scores[3] == 1
    assert max(scores[:3]) < 0.4
    assert scores[4] == 1, "contexts too long are seldom seen; it backs off"


def test_contexts_look_back() -> None:
    assert contexts(np.array([[5, 6, 7, 8]])).tolist() == [[[5, -1, -1], [6, 5, -1], [7, 6, 5], [8, 7, 6]]]
    assert contexts(np.array([[5]], np.uint8)).tolist() == [[[5, -1, -1]]]
    assert contexts(np.array([[5, 6]]), order=1).tolist() == [[[5], [6]]]


@pytest.mark.filterwarnings("ignore:Skipping check")
def test_ngram_is_an_estimator() -> None:
    check_estimator(NGram())
    with pytest.raises(ValueError, match="order = 3, least = 0; expected order >= 0 and least >= 1"):
        NGram(least=0).fit(np.zeros((4, 3)), np.arange(4))


# --- the untrained twin -----------------------------------------------------------------------------------------------


def test_untrained_twin_is_the_model_before_training() -> None:
    model = Model(ModelConfig(n_layers=1, d_model=16, n_heads=1, d_head=16, d_mlp=32, n_ctx=8), seed=4)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1  # as training does
    twin = untrained_twin(model, seed=4)
    assert twin.cfg == model.cfg
    assert not twin.training
    for name, parameter in twin.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert not torch.equal(untrained_twin(model, seed=5).embed.W_E, before["embed.W_E"])
    assert torch.equal(model.embed.W_E, before["embed.W_E"] + 1), "the model itself was reset"
