"""The network on tokens finds products that a linear baseline cannot, keeps what was best for each target, and refuses
what it cannot fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from cadmus.machine import tokens
from probes.controls import input_network
from probes.controls.input_network import BEFORE, Output, TokenBaseline, window

Targets = dict[str, Output]


def test_the_window_holds_the_last_tokens_and_the_position() -> None:
    sequences = np.array([[10, 3, 4, 5], [10, 64, 0, 10]], np.uint8)
    features = window(sequences, k=3)
    assert features.dtype == np.int16
    assert features[0].tolist() == [[10, BEFORE, BEFORE, 0], [3, 10, BEFORE, 1], [4, 3, 10, 2], [5, 4, 3, 3]]
    assert features[1, 2].tolist() == [0, 64, 10, 2]
    assert window(sequences).shape == (2, 4, 9)
    assert (window(sequences)[:, :, 4:8] == BEFORE).all(), "more tokens than there are positions"
    assert tokens.PAD < BEFORE


def test_the_hidden_layer_is_that_of_one_hot_columns() -> None:
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 20, (50, 4), generator=rng)
    table, bias, slope = (torch.randn(*shape, generator=rng) for shape in ((20, 6), (6,), (50, 6)))
    one_hot = torch.nn.functional.one_hot(ids, 20).sum(1).float()
    gradients = []
    for hidden in (lambda t, b: (one_hot @ t + b).relu(), lambda t, b: input_network._Hidden.apply(ids, t, b)):
        parameters = table.clone().requires_grad_(), bias.clone().requires_grad_()
        units = hidden(*parameters)
        (units * slope).sum().backward()
        gradients.append((units.detach(), *(part.grad for part in parameters)))
    assert 0.2 < (gradients[0][0] > 0).float().mean() < 0.8
    for expected, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def planted_tokens(n: int, seed: int) -> tuple[np.ndarray, Targets]:
    """Features of random digits, and what follows from the last two: a product, its rare half, a parity; and noise."""
    rng = np.random.default_rng(seed)
    features = window(rng.integers(0, 10, (n // 4, 12)).astype(np.uint8))[:, 8:].reshape(n, 9)
    a, b = features[:, 0].astype(int), features[:, 1].astype(int)
    product, everywhere, rare = (2 * a - 9) * (2 * b - 9), np.ones(n, np.bool_), rng.random(n) < 0.15
    return features, {
        "parity": Output((a + b) % 2 + 5, everywhere, "category"),
        "product": Output(product, everywhere, "number"),
        "rare": Output(np.where(rare, product - 1000, 10**6), rare, "number"),
        "rare remainder": Output(np.where(rare, (a + b) % 3, -7), rare, "category"),
        "position": Output(features[:, 8], everywhere, "category"),
        "noise": Output(rng.integers(-9, 10, n), everywhere, "number"),
        "coin": Output(rng.choice(["heads", "tails"], n, p=[0.7, 0.3]), everywhere, "category"),
    }


def scores(targets: Targets, predicted: dict[str, np.ndarray]) -> dict[str, float]:
    assert set(predicted) == set(targets)
    return {
        name: r2_score(labels[at], predicted[name][at]) if kind == "number" else (predicted[name] == labels)[at].mean()
        for name, (labels, at, kind) in targets.items()
    }


def test_a_planted_product_of_tokens_is_found() -> None:
    train, validation, (features, targets) = (planted_tokens(n, seed) for seed, n in enumerate((8000, 1000, 2000)))
    columns, columns_new = ((x[:, :, None] == np.arange(12)).reshape(len(x), -1) for x in (train[0], features))
    linear = Ridge().fit(columns, train[1]["product"].labels)
    assert linear.score(columns_new, targets["product"].labels) < 0.02, "a linear baseline cannot multiply"
    baseline = TokenBaseline(hidden=64, epochs=30).fit(*train, validation=validation)
    score = scores(targets, baseline.predict(features))
    assert score["product"] > 0.97
    assert score["parity"] > 0.98
    assert score["rare"] > 0.9
    assert score["rare remainder"] > 0.55
    assert score["position"] == 1.0
    assert abs(score["noise"]) < 0.02
    assert abs(score["coin"] - 0.7) < 0.03
    assert baseline.epochs_["coin"] < 5 < baseline.epochs_["product"], "each target keeps its own epoch"


def test_tokens_held_out_inside_do_as_well_and_the_seed_fixes_all() -> None:
    features, targets = planted_tokens(6000, 0)
    few = {name: targets[name] for name in ("coin", "product")}
    first, again, other = (
        TokenBaseline(hidden=32, epochs=25, seed=seed).fit(features, few).predict(features) for seed in (0, 0, 1)
    )
    assert scores(few, first)["product"] > 0.5
    assert np.array_equal(first["product"], again["product"])
    assert not np.array_equal(first["product"], other["product"])


def test_few_rows_are_gone_over_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_network, "_MIN_STEPS", 100)
    features, targets = planted_tokens(400, 0)
    baseline = TokenBaseline(hidden=16, batch_size=32).fit(features, {"position": targets["position"]})
    assert baseline.epochs_["position"] > 5


def test_ids_that_training_lacked_contribute_nothing() -> None:
    """Ids between those of training, and beyond them, are predicted alike."""
    features, targets = planted_tokens(2000, 0)
    features[features[:, 2] == 4, 2] = 3
    few = {name: targets[name] for name in ("product", "coin")}
    edge = targets["coin"].labels.copy()
    edge[:500] = "edge"
    validation = features, {**few, "coin": targets["coin"]._replace(labels=edge)}
    baseline = TokenBaseline(hidden=16, epochs=3).fit(features, few, validation=validation)
    unseen = features[:50].repeat(3, 0)
    unseen[:, 2] = np.tile([4, 40, 1000], 50)
    product = baseline.predict(unseen)["product"].reshape(50, 3)
    np.testing.assert_allclose(product[:, 0], product[:, 1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(product[:, 0], product[:, 2], rtol=1e-5, atol=1e-5)
    assert len(np.unique(product[:, 0])) > 10
    assert baseline.predict(features[:0])["product"].shape == (0,)


def test_the_baseline_refuses_what_it_cannot_fit() -> None:
    features, targets = planted_tokens(40, 0)
    coin, n = targets["coin"], len(features)
    nowhere, once = np.zeros(n, np.bool_), np.arange(n) == 3
    other = {"coin": Output(np.full(n, "edge"), coin.defined, "category")}
    shape = r"\(40, 9\); expected integers \[rows, 9\], 0 or more, as window\(\) gives them"
    cases = [
        (
            features,
            {"x": coin._replace(kind="int")},
            None,
            "target 'x' has kind 'int'; expected 'number' or 'category'",
        ),
        (
            features,
            {"x": coin._replace(labels=np.zeros(3))},
            None,
            r"target 'x' has labels \(3,\), defined bool \(40,\)",
        ),
        (features, {"x": coin._replace(defined=np.ones(n))}, None, r"defined float64 \(40,\); expected \[40\], bool"),
        (
            features,
            {"x": coin._replace(defined=nowhere)},
            (features, {"x": coin}),
            "0 training rows of target 'x'; a probe needs",
        ),
        (
            features,
            {"x": coin._replace(defined=once)},
            (features, {"x": coin}),
            "1 training rows of target 'x'; a probe needs",
        ),
        (features, {"x": coin._replace(labels=np.full(n, 4))}, None, r"target 'x' is constant \(4\); there is nothing"),
        (features, {"coin": coin}, (features, other), "target 'coin' has no validation rows with labels that training"),
        (features, {"coin": coin}, (features, {}), r"validation has targets \[\], training \['coin'\]; give one or mo"),
        (features, {}, None, r"validation has targets \[\], training \[\]; give one or more, the same in both"),
        (features * 1.0, {"coin": coin}, None, "features are float64 " + shape),
        (-features, {"coin": coin}, None, "features are int16 " + shape),
    ]
    for x, outputs, validation, message in cases:
        with pytest.raises(ValueError, match=message):
            TokenBaseline(epochs=1).fit(x, outputs, validation)
    fitted = TokenBaseline(epochs=1).fit(features, {"coin": coin})
    with pytest.raises(ValueError, match=r"features are int16 \(40, 8\); expected integers \[rows, 9\]"):
        fitted.predict(features[:, :8])
