"""The nonlinear reference finds what a linear probe cannot, on activations and on tokens, and nothing in noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.utils.estimator_checks import check_estimator

from cadmus import tokens
from probes import mlp
from probes.mlp import BEFORE, MLPClassifierProbe, MLPRegressorProbe, Target, TokenBaseline, window

Targets = dict[str, Target]


@pytest.mark.parametrize("probe", [MLPClassifierProbe(epochs=15), MLPRegressorProbe(epochs=60)])
def test_scikit_learn_accepts_it(probe: BaseEstimator) -> None:
    results = check_estimator(probe, on_skip=None)
    assert sum(result["status"] == "passed" for result in results) > 40


# --- on activations --------------------------------------------------------------------------------------------------


def planted_xor(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two signs along two directions of 16, off centre and of unlike scale, with noise; the label is their product."""
    rng, law = np.random.default_rng(seed), np.random.default_rng(99)
    signs = rng.choice([-1, 1], (n, 2))
    x = signs @ law.normal(size=(2, 16)) + 0.3 * rng.normal(size=(n, 16))
    return (x * law.uniform(0.1, 10, 16) + 50).astype(np.float32), signs.prod(1)


def test_a_planted_xor_is_found_by_the_nonlinear_probe_only() -> None:
    (x, y), held, (x_new, y_new) = (planted_xor(n, seed) for seed, n in enumerate((1200, 300, 600)))
    assert LogisticRegression().fit(x, y).score(x_new, y_new) < 0.6
    assert Ridge().fit(x, y).score(x_new, y_new) < 0.05
    assert MLPClassifierProbe(epochs=60).fit(x, y, validation=held).score(x_new, y_new) > 0.97
    assert MLPClassifierProbe(epochs=60).fit(x, y).score(x_new, y_new) > 0.97, "rows held out inside"
    both = np.stack([y, 1000 + 5 * y], 1)
    probe = MLPRegressorProbe(epochs=60).fit(x, both, validation=(held[0], np.stack([held[1], 1000 + 5 * held[1]], 1)))
    assert r2_score(both[:, 0], probe.predict(x)[:, 0]) > 0.9
    assert probe.score(x_new, np.stack([y_new, 1000 + 5 * y_new], 1)) > 0.9


def test_noise_gives_the_constant() -> None:
    rng = np.random.default_rng(0)
    x, x_new = rng.normal(size=(2, 1000, 16))
    y, y_new = rng.choice([3, 4, 5], (2, 1000), p=[0.5, 0.3, 0.2])
    held = rng.normal(size=(500, 16)), rng.choice([3, 4, 5], 500, p=[0.5, 0.3, 0.2])
    classifier = MLPClassifierProbe().fit(x, y, validation=held)
    assert abs(classifier.score(x_new, y_new) - 0.5) < 0.05
    log_loss = -np.log(classifier.predict_proba(x_new)[np.arange(1000), y_new - 3]).mean()
    assert log_loss < 1.03 + 0.03, "no worse than the entropy of the shares"
    regressor = MLPRegressorProbe().fit(x, y, validation=held)
    assert abs(regressor.score(x_new, y_new)) < 0.03


def test_without_epochs_it_says_the_constant() -> None:
    x, y = planted_xor(1200)
    y = np.where(np.arange(1200) % 3, 7, 4)
    classifier = MLPClassifierProbe(epochs=0).fit(x, y, validation=(x, y))
    np.testing.assert_allclose(classifier.predict_proba(x[:1]), [[1 / 3, 2 / 3]], rtol=1e-6)
    assert classifier.epoch_ == 0
    assert MLPRegressorProbe(epochs=0).fit(x, y, validation=(x, y)).predict(x[:1]) == pytest.approx(6.0)


def test_the_epoch_kept_is_the_best_on_the_validation_data() -> None:
    """On rows whose labels are turned round, the best is the start; on the true ones it is not."""
    (x, y), (x_held, y_held) = planted_xor(1200), planted_xor(300, 1)
    assert MLPClassifierProbe(epochs=30).fit(x, y, validation=(x_held, -y_held)).epoch_ == 0
    found = MLPClassifierProbe(epochs=30).fit(x, y, validation=(x_held, y_held))
    assert found.epoch_ > 5
    again = MLPClassifierProbe(epochs=30).fit(x, y, validation=(x_held, y_held))
    assert np.array_equal(found.predict_proba(x), again.predict_proba(x)), "the seed fixes it"
    other = MLPClassifierProbe(epochs=30, seed=1).fit(x, y, validation=(x_held, y_held))
    assert not np.array_equal(found.predict_proba(x), other.predict_proba(x))


def test_global_generators_are_left_alone() -> None:
    x, y = planted_xor(200)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with torch.no_grad():
        MLPClassifierProbe(epochs=2).fit(x, y)
    assert torch.equal(before, torch.get_rng_state())


def test_estimators_refuse_what_they_cannot_fit() -> None:
    x, y = planted_xor(40)
    bad = x.copy()
    bad[3, 2] = np.nan
    for probe in (MLPClassifierProbe(), MLPRegressorProbe()):
        with pytest.raises(ValueError, match="Input X contains NaN"):
            probe.fit(bad, y)
        with pytest.raises(ValueError, match="Input X contains NaN"):
            probe.fit(x, y, validation=(bad, y))
        with pytest.raises(ValueError, match=r"X has 15 features, but MLP.* is expecting 16"):
            probe.fit(x, y, validation=(x[:, :15], y))
    with pytest.raises(ValueError, match=r"the labels have one class only \(7\); there is nothing to probe"):
        MLPClassifierProbe().fit(x, np.full(40, 7))
    with pytest.raises(ValueError, match="no validation row has a class of the training labels; split at random by"):
        MLPClassifierProbe().fit(x, y, validation=(x, y + 10))
    with pytest.raises(ValueError, match=r"target 1 is constant \(2\.5\); there is nothing to probe"):
        MLPRegressorProbe().fit(x, np.stack([y, np.full(40, 2.5)], 1))


# --- on tokens -------------------------------------------------------------------------------------------------------


def test_the_window_holds_the_last_tokens_and_the_position() -> None:
    sequences = np.array([[10, 3, 4, 5], [10, 64, 0, 10]], np.uint8)
    found = window(sequences, k=3)
    assert found.dtype == np.int16
    assert found[0].tolist() == [[10, BEFORE, BEFORE, 0], [3, 10, BEFORE, 1], [4, 3, 10, 2], [5, 4, 3, 3]]
    assert found[1, 2].tolist() == [0, 64, 10, 2]
    assert window(sequences).shape == (2, 4, 9)
    assert (window(sequences)[:, :, 4:8] == BEFORE).all(), "more tokens asked for than there are positions"
    assert tokens.PAD < BEFORE


def test_the_sum_of_rows_is_a_product_with_one_hot_columns() -> None:
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 20, (50, 4), generator=rng)
    table = torch.randn(20, 6, generator=rng, dtype=torch.float64)
    one_hot = torch.nn.functional.one_hot(ids, 20).sum(1).double()
    torch.testing.assert_close(mlp._SumOfRows.apply(ids, table), one_hot @ table)
    table.requires_grad_()
    seen = torch.randn(50, 6, generator=rng, dtype=torch.float64)
    (mlp._SumOfRows.apply(ids, table.float()) * seen).sum().backward()
    torch.testing.assert_close(table.grad, one_hot.T @ seen, rtol=1e-5, atol=1e-5)


def planted_tokens(n: int, seed: int) -> tuple[np.ndarray, Targets]:
    """Features of random digits, and what follows from the last two: a product, its rare half, a parity; and noise."""
    rng = np.random.default_rng(seed)
    features = window(rng.integers(0, 10, (n // 4, 12)).astype(np.uint8))[:, 8:].reshape(n, 9)
    a, b = features[:, 0].astype(int), features[:, 1].astype(int)
    product, everywhere, rare = (2 * a - 9) * (2 * b - 9), np.ones(n, np.bool_), rng.random(n) < 0.15
    return features, {
        "parity": Target((a + b) % 2 + 5, everywhere, "category"),
        "product": Target(product, everywhere, "number"),
        "rare": Target(np.where(rare, product - 1000, 10**6), rare, "number"),
        "rare remainder": Target(np.where(rare, (a + b) % 3, -7), rare, "category"),
        "position": Target(features[:, 8], everywhere, "category"),
        "noise": Target(rng.integers(-9, 10, n), everywhere, "number"),
        "coin": Target(rng.choice(["heads", "tails"], n, p=[0.7, 0.3]), everywhere, "category"),
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
    found = scores(targets, baseline.predict(features))
    assert found["product"] > 0.97
    assert found["parity"] > 0.98
    assert found["rare"] > 0.9
    assert found["rare remainder"] > 0.55
    assert found["position"] == 1.0
    assert abs(found["noise"]) < 0.02
    assert abs(found["coin"] - 0.7) < 0.03
    assert baseline.epochs_["coin"] < 5 < baseline.epochs_["product"], "each target keeps its own epoch"


def test_tokens_held_out_inside_do_as_well_and_the_seed_fixes_all() -> None:
    features, targets = planted_tokens(6000, 0)
    few = {name: targets[name] for name in ("coin", "product")}
    one, same, other = (TokenBaseline(hidden=32, epochs=25, seed=seed).fit(features, few) for seed in (0, 0, 1))
    assert scores(few, one.predict(features))["product"] > 0.5
    assert np.array_equal(one.predict(features)["product"], same.predict(features)["product"])
    assert not np.array_equal(one.predict(features)["product"], other.predict(features)["product"])


def test_few_rows_are_gone_over_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "_STEPS", 100)
    features, targets = planted_tokens(400, 0)
    baseline = TokenBaseline(hidden=16, batch_size=32).fit(features, {"position": targets["position"]})
    assert baseline.epochs_["position"] > 5


def test_what_training_lacked_counts_for_nothing() -> None:
    """Ids between those of training, and beyond them, are predicted alike."""
    features, targets = planted_tokens(2000, 0)
    features[features[:, 2] == 4, 2] = 3
    held = {"product": targets["product"], "coin": Target(targets["coin"].labels.copy(), *targets["coin"][1:])}
    held["coin"].labels[:500] = "edge"
    baseline = TokenBaseline(hidden=16, epochs=3).fit(
        features, {name: targets[name] for name in held}, validation=(features, held)
    )
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
    other = {"coin": Target(np.full(n, "edge"), coin.defined, "category")}
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
        (features, {"x": coin._replace(defined=nowhere)}, (features, {"x": coin}), "'x' is defined in 0 training rows"),
        (features, {"x": coin._replace(defined=once)}, (features, {"x": coin}), "'x' is defined in 1 training rows"),
        (features, {"x": coin._replace(labels=np.full(n, 4))}, None, r"target 'x' is constant \(4\) where it is defin"),
        (features, {"coin": coin}, (features, other), "target 'coin' has no validation rows with labels that training"),
        (features, {"coin": coin}, (features, {}), r"validation has targets \[\], training \['coin'\]; give one or mo"),
        (features, {}, None, r"validation has targets \[\], training \[\]; give one or more, the same in both"),
        (features * 1.0, {"coin": coin}, None, "features are float64 " + shape),
        (-features, {"coin": coin}, None, "features are int16 " + shape),
    ]
    for x, given, validation, text in cases:
        with pytest.raises(ValueError, match=text):
            TokenBaseline(epochs=1).fit(x, given, validation)
    fitted = TokenBaseline(epochs=1).fit(features, {"coin": coin})
    with pytest.raises(ValueError, match=r"features are int16 \(40, 8\); expected integers \[rows, 9\]"):
        fitted.predict(features[:, :8])
