"""The probes of a site, target by target: as each alone, and what cannot be fitted told without harm to the rest."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge

from cadmus.states.variables import MAX_ABS_VALUE
from probes.data.examples import Target
from probes.solvers import site_probes
from probes.solvers.bank import Bank
from probes.solvers.linear import ALPHAS, SHRINKAGES
from probes.solvers.rows import BatchLabels

TARGETS = (
    *(Target("number", as_number=True), Target("other", as_number=True), Target("number")),
    *(Target("category.kind"), Target("few"), Target("constant"), Target("rare"), Target("apart")),
)
MASK_OF = np.array([0, 0, 0, 1, 2, 0, 3, 0])


def rows(n: int, seed: int, features: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x [n, features], values [n, 8] and defined [n, 4]; the first four are in x."""
    rng = np.random.default_rng(seed)
    values = np.zeros((n, 8), int)
    values[:, 0], values[:, 1], values[:, 3] = rng.integers(-9, 10, n), rng.integers(-50, 50, n), rng.integers(0, 3, n)
    values[:, 2] = values[:, 0]
    values[:, 4], values[:, 5], values[:, 6] = rng.integers(0, 2, n), 4, np.arange(n)[::-1] // 4 % 90
    values[:, 7] = np.arange(n) % 5 if seed == 0 else 80  # no validation row has a value of training
    defined = np.stack([np.ones(n), rng.random(n) < 0.5, np.arange(n) < 40, np.arange(n) < 4 * 90], 1).astype(bool)
    directions = np.random.default_rng(99).normal(size=(3, features))
    x = values[:, [0, 1, 3]] @ (directions * [[1], [0.2], [4]]) + rng.normal(size=(n, features)) + 5
    return x.astype(np.float32), values, defined


def banked(x: np.ndarray, values: np.ndarray, defined: np.ndarray) -> Bank:
    return Bank(x.shape[1], MASK_OF, defined.shape[1]).update(x, BatchLabels.of(values, defined, MASK_OF))


@pytest.fixture(scope="module")
def found() -> site_probes.SiteProbes:
    return site_probes.fit(banked(*rows(1500, 0)), banked(*rows(600, 1)), TARGETS)


def test_each_target_is_read_as_by_a_probe_of_its_own(found: site_probes.SiteProbes) -> None:
    (x, values, defined), (x_test, *_) = rows(1500, 0), rows(400, 2)
    read = found.predict(x_test)
    assert read.shape == (400, 8)
    assert read.dtype == np.float32
    for k in (0, 1):
        assert found.penalty(k) in ALPHAS
        assert np.allclose(read[:, k], Ridge(found.penalty(k)).fit(x, values[:, k]).predict(x_test), atol=1e-3)
    for k in (2, 3):
        train = defined[:, MASK_OF[k]]
        assert found.penalty(k) in SHRINKAGES
        peer = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=found.penalty(k)).fit(x[train], values[train, k])
        assert (read[:, k] == peer.predict(x_test)).mean() > 0.995


def test_what_cannot_be_fitted_is_told_by_target(found: site_probes.SiteProbes) -> None:
    assert found.problems == {
        4: "40 training and 40 validation tokens; a probe needs 50 of each",
        5: "constant (4) on the training tokens",
        6: "0 of 90 values come 5 times or more in training; 2 are needed",
        7: "no validation token has a value that training has often enough",
    }
    assert np.isnan(found.predict(rows(9, 2)[0])[:, list(found.problems)]).all()
    assert all(np.isnan(found.penalty(k)) for k in found.problems)


def test_a_row_that_is_not_finite_is_not_read(found: site_probes.SiteProbes) -> None:
    x = rows(9, 2)[0]
    expected = found.predict(x)
    x[3, 1], x[5, 0] = np.nan, np.inf
    read = found.predict(x)
    assert np.isnan(read[[3, 5]]).all()
    sound = [0, 1, 2, 4, 6, 7, 8]
    assert np.array_equal(read[sound], expected[sound], equal_nan=True)


def test_notes_say_what_a_score_rests_on() -> None:
    x, values, defined = rows(1500, 0)
    values[:3, 3] = 77
    defined[:3, 1] = True
    x[100:120] = np.nan
    found = site_probes.fit(banked(x, values, defined), banked(*rows(600, 1)), TARGETS)
    left_out = "20 training tokens left out: activations not finite"
    assert found.notes == {
        **dict.fromkeys(range(3), left_out),
        3: f"values too rare in training to be told: [77]; {left_out}",
    }
    assert 77 not in found.predict(x[:3])[:, 3]
    wide, *labels = rows(60, 0, features=80)
    found = site_probes.fit(banked(wide, *labels), banked(wide, *labels), TARGETS[:2] + TARGETS[3:4] + TARGETS[1:2] * 5)
    assert found.notes[0] == found.notes[1] == "60 training tokens for 80 dimensions"


def test_activations_that_are_not_finite_are_the_problem_of_the_site() -> None:
    x, values, defined = rows(1500, 0)
    found = site_probes.fit(banked(np.full_like(x, np.nan), values, defined), banked(*rows(600, 1)), TARGETS)
    told = (
        "0 training and 600 validation tokens; a probe needs 50 of each (1500 tokens left out: activations not finite)"
    )
    assert found.problems[0] == found.problems[5] == told
    assert len(found.problems) == 8


def test_activations_beyond_single_precision_are_told_not_raised() -> None:
    x, values, defined = rows(1500, 0)
    with np.errstate(over="ignore", invalid="ignore"):
        found = site_probes.fit(banked(x * 1e20, values, defined), banked(x, values, defined), TARGETS)
    for k in range(4):
        assert found.problems[k] == (
            "the sums of squared activations are not finite; leave out or scale down what is so large"
        )


def test_a_shrinkage_that_is_too_little_for_a_target_is_chosen_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is chosen once for the targets of a mask; a target that leaves less variance may need more."""
    asked, whole = [], site_probes.discriminant

    def counted(train, shrinkages, validation=None):
        asked.append(tuple(shrinkages))
        if len(shrinkages) == 1 and len(asked) == 2:
            raise ValueError("the covariance is singular")
        return whole(train, shrinkages, validation)

    monkeypatch.setattr(site_probes, "discriminant", counted)
    x, values, defined = rows(1500, 0)
    values[:, [0, 1, 2]] = values[:, [3]]
    targets = [Target(name) for name in "abcdefgh"]
    found = site_probes.fit(banked(x, values, defined), banked(x, values, defined), targets)
    assert asked[:4] == [SHRINKAGES, (found.penalty(0),), SHRINKAGES, (found.penalty(0),)]
    assert not {0, 1, 2} & set(found.problems)


def test_numbers_need_no_value_twice() -> None:
    rng = np.random.default_rng(0)
    y = rng.permutation(2 * MAX_ABS_VALUE + 1)[:, None] - MAX_ABS_VALUE
    x = (y * rng.normal(size=(1, 4)) + rng.normal(size=(len(y), 4))).astype(np.float32)
    bank = Bank(4, np.zeros(1, int)).update(x, BatchLabels.of(y, np.ones((len(y), 1), np.bool_), np.zeros(1, int)))
    found = site_probes.fit(bank, bank, [Target("number", as_number=True)])
    assert np.corrcoef(found.predict(x)[:, 0], y[:, 0])[0, 1] > 0.99
    assert not found.problems
    assert not found.notes
    assert (
        site_probes.fit(bank, bank, [Target("number")]).problems[0].startswith("0 of 199 values come 5 times or more")
    )
