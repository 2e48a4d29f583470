"""The probes of a site, target by target: as each alone, and what cannot be fitted told without harm to the rest."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge

from cadmus.states.variables import MAX_ABS_VALUE
from probes.data.targets import Target
from probes.solvers import site_probes
from probes.solvers.bank import Bank
from probes.solvers.linear import ALPHAS, SHRINKAGES
from probes.solvers.rows import BatchLabels

TARGETS = (
    Target("number", regression=True),
    Target("other", regression=True),
    Target("number"),
    Target("category.kind"),
    Target("few"),
    Target("constant"),
    Target("rare"),
    Target("apart"),
)
MASK_OF = np.array([0, 0, 0, 1, 2, 0, 3, 0])


def rows(n: int, seed: int, features: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x [n, features], values [n, 8] and defined [n, 4]; the first four are in x."""
    rng = np.random.default_rng(seed)
    values = np.zeros((n, 8), int)
    values[:, 0] = rng.integers(-9, 10, n)
    values[:, 1] = rng.integers(-50, 50, n)
    values[:, 2] = values[:, 0]
    values[:, 3] = rng.integers(0, 3, n)
    values[:, 4] = rng.integers(0, 2, n)
    values[:, 5] = 4
    values[:, 6] = np.arange(n)[::-1] // 4 % 90
    values[:, 7] = np.arange(n) % 5 if seed == 0 else 80  # no validation row has a value of training
    defined = np.stack([np.ones(n), rng.random(n) < 0.5, np.arange(n) < 40, np.arange(n) < 4 * 90], 1).astype(bool)
    directions = np.random.default_rng(99).normal(size=(3, features))
    x = values[:, [0, 1, 3]] @ (directions * [[1], [0.2], [4]]) + rng.normal(size=(n, features)) + 5
    return x.astype(np.float32), values, defined


def banked(x: np.ndarray, values: np.ndarray, defined: np.ndarray) -> Bank:
    return Bank(x.shape[1], MASK_OF, defined.shape[1]).update(x, BatchLabels.of(values, defined, MASK_OF))


@pytest.fixture(scope="module")
def fitted() -> site_probes.SiteProbes:
    return site_probes.fit(banked(*rows(1500, 0)), banked(*rows(600, 1)), TARGETS)


def test_each_target_is_read_as_by_a_probe_of_its_own(fitted: site_probes.SiteProbes) -> None:
    (x, values, defined), (x_test, *_) = rows(1500, 0), rows(400, 2)
    predicted = fitted.predict(x_test)
    assert predicted.shape == (400, 8)
    assert predicted.dtype == np.float32
    for k in (0, 1):
        assert fitted.penalty(k) in ALPHAS
        assert np.allclose(predicted[:, k], Ridge(fitted.penalty(k)).fit(x, values[:, k]).predict(x_test), atol=1e-3)
    for k in (2, 3):
        train = defined[:, MASK_OF[k]]
        assert fitted.penalty(k) in SHRINKAGES
        peer = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=fitted.penalty(k)).fit(x[train], values[train, k])
        assert (predicted[:, k] == peer.predict(x_test)).mean() > 0.995


def test_what_cannot_be_fitted_is_reported_by_target(fitted: site_probes.SiteProbes) -> None:
    assert fitted.problems == {
        4: "40 training and 40 validation tokens; a probe needs 50 of each",
        5: "constant (4) on the training tokens",
        6: "0 of 90 values come 5 times or more in training; 2 are needed",
        7: "no validation token has a value that training has often enough",
    }
    assert np.isnan(fitted.predict(rows(9, 2)[0])[:, list(fitted.problems)]).all()
    assert all(np.isnan(fitted.penalty(k)) for k in fitted.problems)


def test_a_row_that_is_not_finite_is_not_read(fitted: site_probes.SiteProbes) -> None:
    x = rows(9, 2)[0]
    expected = fitted.predict(x)
    x[3, 1], x[5, 0] = np.nan, np.inf
    predicted = fitted.predict(x)
    assert np.isnan(predicted[[3, 5]]).all()
    sound = [0, 1, 2, 4, 6, 7, 8]
    assert np.array_equal(predicted[sound], expected[sound], equal_nan=True)


def test_notes_say_what_a_score_rests_on() -> None:
    x, values, defined = rows(1500, 0)
    values[:3, 3] = 77
    defined[:3, 1] = True
    x[100:120] = np.nan
    fitted = site_probes.fit(banked(x, values, defined), banked(*rows(600, 1)), TARGETS)
    left_out = "20 training tokens left out: activations not finite"
    assert fitted.notes == {
        **dict.fromkeys(range(3), left_out),
        3: f"values too rare in training to be told: [77]; {left_out}",
    }
    assert 77 not in fitted.predict(x[:3])[:, 3]
    wide, *labels = rows(60, 0, features=80)
    fitted = site_probes.fit(
        banked(wide, *labels), banked(wide, *labels), TARGETS[:2] + TARGETS[3:4] + TARGETS[1:2] * 5
    )
    assert fitted.notes[0] == fitted.notes[1] == "60 training tokens for 80 dimensions"


def test_activations_that_are_not_finite_are_the_problem_of_the_site() -> None:
    x, values, defined = rows(1500, 0)
    fitted = site_probes.fit(banked(np.full_like(x, np.nan), values, defined), banked(*rows(600, 1)), TARGETS)
    problem = (
        "0 training and 600 validation tokens; a probe needs 50 of each (1500 tokens left out: activations not finite)"
    )
    assert fitted.problems[0] == fitted.problems[5] == problem
    assert len(fitted.problems) == 8


def test_activations_beyond_single_precision_are_reported_not_raised() -> None:
    x, values, defined = rows(1500, 0)
    with np.errstate(over="ignore", invalid="ignore"):
        fitted = site_probes.fit(banked(x * 1e20, values, defined), banked(x, values, defined), TARGETS)
    for k in range(4):
        assert fitted.problems[k] == (
            "the sums of squared activations are not finite; leave out or scale down what is so large"
        )


def test_a_shrinkage_that_is_too_little_for_a_target_is_chosen_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is chosen once for the targets of a mask; a target that leaves less variance may need more."""
    calls, whole = [], site_probes.discriminant

    def counted(train, shrinkages, validation=None):
        calls.append(tuple(shrinkages))
        if len(shrinkages) == 1 and len(calls) == 2:
            raise ValueError("the covariance is singular")
        return whole(train, shrinkages, validation)

    monkeypatch.setattr(site_probes, "discriminant", counted)
    x, values, defined = rows(1500, 0)
    values[:, [0, 1, 2]] = values[:, [3]]
    targets = [Target(name) for name in "abcdefgh"]
    fitted = site_probes.fit(banked(x, values, defined), banked(x, values, defined), targets)
    assert calls[:4] == [SHRINKAGES, (fitted.penalty(0),), SHRINKAGES, (fitted.penalty(0),)]
    assert not {0, 1, 2} & set(fitted.problems)


def test_numbers_need_no_value_twice() -> None:
    rng = np.random.default_rng(0)
    y = rng.permutation(2 * MAX_ABS_VALUE + 1)[:, None] - MAX_ABS_VALUE
    x = (y * rng.normal(size=(1, 4)) + rng.normal(size=(len(y), 4))).astype(np.float32)
    bank = Bank(4, np.zeros(1, int)).update(x, BatchLabels.of(y, np.ones((len(y), 1), np.bool_), np.zeros(1, int)))
    fitted = site_probes.fit(bank, bank, [Target("number", regression=True)])
    assert np.corrcoef(fitted.predict(x)[:, 0], y[:, 0])[0, 1] > 0.99
    assert not fitted.problems
    assert not fitted.notes
    assert (
        site_probes.fit(bank, bank, [Target("number")]).problems[0].startswith("0 of 199 values come 5 times or more")
    )
