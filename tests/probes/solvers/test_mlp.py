"""The nonlinear reference finds what a linear probe cannot, and nothing in noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.utils.estimator_checks import check_estimator

from probes.solvers.mlp import MLPClassifierProbe, MLPRegressorProbe


@pytest.mark.parametrize("probe", [MLPClassifierProbe(epochs=15), MLPRegressorProbe(epochs=60)])
def test_scikit_learn_accepts_it(probe: BaseEstimator) -> None:
    random_batches = {"check_sample_weight_equivalence_on_dense_data": "batches and held-out rows are drawn at random"}
    results = check_estimator(probe, on_skip=None, expected_failed_checks=random_batches)
    assert sum(result["status"] == "passed" for result in results) > 40


def planted_xor(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two signs along two directions of 16, off centre and of unlike scale, with noise; the label is their product."""
    rng, law = np.random.default_rng(seed), np.random.default_rng(99)
    signs = rng.choice([-1, 1], (n, 2))
    x = signs @ law.normal(size=(2, 16)) + 0.3 * rng.normal(size=(n, 16))
    return (x * law.uniform(0.1, 10, 16) + 50).astype(np.float32), signs.prod(1)


def test_a_planted_xor_is_found_by_the_nonlinear_probe_only() -> None:
    (x, y), validation, (x_new, y_new) = (planted_xor(n, seed) for seed, n in enumerate((1200, 300, 600)))
    assert LogisticRegression().fit(x, y).score(x_new, y_new) < 0.6
    assert Ridge().fit(x, y).score(x_new, y_new) < 0.05
    assert MLPClassifierProbe(epochs=60).fit(x, y, validation=validation).score(x_new, y_new) > 0.97
    assert MLPClassifierProbe(epochs=60).fit(x, y).score(x_new, y_new) > 0.97, "rows held out inside"
    targets, targets_validation, targets_new = (np.stack([y, 1000 + 5 * y], 1) for y in (y, validation[1], y_new))
    probe = MLPRegressorProbe(epochs=60).fit(x, targets, validation=(validation[0], targets_validation))
    assert r2_score(targets[:, 0], probe.predict(x)[:, 0]) > 0.9
    assert probe.score(x_new, targets_new) > 0.9


def test_noise_gives_the_constant() -> None:
    rng = np.random.default_rng(0)
    x, x_new = rng.normal(size=(2, 1000, 16))
    y, y_new = rng.choice([3, 4, 5], (2, 1000), p=[0.5, 0.3, 0.2])
    validation = rng.normal(size=(500, 16)), rng.choice([3, 4, 5], 500, p=[0.5, 0.3, 0.2])
    classifier = MLPClassifierProbe().fit(x, y, validation=validation)
    assert abs(classifier.score(x_new, y_new) - 0.5) < 0.05
    log_loss = -np.log(classifier.predict_proba(x_new)[np.arange(1000), y_new - 3]).mean()
    assert log_loss < 1.03 + 0.03, "no worse than the entropy of the shares"
    regressor = MLPRegressorProbe().fit(x, y, validation=validation)
    assert abs(regressor.score(x_new, y_new)) < 0.03


def test_without_epochs_it_predicts_the_constant() -> None:
    x, y = planted_xor(1200)
    y = np.where(np.arange(1200) % 3, 7, 4)
    classifier = MLPClassifierProbe(epochs=0).fit(x, y, validation=(x, y))
    np.testing.assert_allclose(classifier.predict_proba(x[:1]), [[1 / 3, 2 / 3]], rtol=1e-6)
    assert classifier.epoch_ == 0
    assert MLPRegressorProbe(epochs=0).fit(x, y, validation=(x, y)).predict(x[:1]) == pytest.approx(6.0)


def test_the_epoch_kept_is_the_best_on_the_validation_data() -> None:
    """On rows whose labels are turned round, the best is the start; on the true ones it is not."""
    x, y = planted_xor(1200)
    validation = x_validation, y_validation = planted_xor(300, 1)
    assert MLPClassifierProbe(epochs=30).fit(x, y, validation=(x_validation, -y_validation)).epoch_ == 0
    probe = MLPClassifierProbe(epochs=30).fit(x, y, validation=validation)
    assert probe.epoch_ > 5
    again = MLPClassifierProbe(epochs=30).fit(x, y, validation=validation)
    assert np.array_equal(probe.predict_proba(x), again.predict_proba(x)), "the seed fixes it"
    other = MLPClassifierProbe(epochs=30, seed=1).fit(x, y, validation=validation)
    assert not np.array_equal(probe.predict_proba(x), other.predict_proba(x))


def test_global_generators_are_left_alone() -> None:
    x, y = planted_xor(200)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with torch.no_grad():
        MLPClassifierProbe(epochs=2).fit(x, y)
    assert torch.equal(before, torch.get_rng_state())


def test_estimators_refuse_what_they_cannot_fit() -> None:
    x, y = planted_xor(40)
    broken = x.copy()
    broken[3, 2] = np.nan
    for probe in (MLPClassifierProbe(), MLPRegressorProbe()):
        with pytest.raises(ValueError, match="Input X contains NaN"):
            probe.fit(broken, y)
        with pytest.raises(ValueError, match="Input X contains NaN"):
            probe.fit(x, y, validation=(broken, y))
        with pytest.raises(ValueError, match=r"X has 15 features, but MLP.* is expecting 16"):
            probe.fit(x, y, validation=(x[:, :15], y))
    with pytest.raises(ValueError, match=r"the labels have one class only \(7\); there is nothing to probe"):
        MLPClassifierProbe().fit(x, np.full(40, 7))
    with pytest.raises(ValueError, match="no validation row has a class of the training labels; split at random by"):
        MLPClassifierProbe().fit(x, y, validation=(x, y + 10))
    with pytest.raises(ValueError, match=r"target 1 is constant \(2\.5\); there is nothing to probe"):
        MLPRegressorProbe().fit(x, np.stack([y, np.full(40, 2.5)], 1))
