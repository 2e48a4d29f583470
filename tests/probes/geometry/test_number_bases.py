"""How an integer is held: every planted code is told from the others, on held-out values, with its periods."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

from probes.geometry import number_bases
from probes.geometry.number_bases import bases, compare
from probes.geometry.value_statistics import ValueStatistics, leave_out
from tests.number_codes import VALUES, circle, planted, rows

BASES = ["linear", "sign and magnitude", "digits", "circular", "Fourier", "helix"]


def by_basis(table: pd.DataFrame, column: str = "score") -> dict[str, float]:
    return dict(zip(table.basis, table[column]))


# --- references ------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_plain_ridge_regression() -> None:
    """Weights, penalty by leave-one-out, held-out errors and the subtracted noise, all from the rows, for a fixed
    basis."""
    x, v = rows(70)
    x, v = x[abs(v) < 7], v[abs(v) < 7]
    statistics = ValueStatistics.from_rows(x, v)
    table = compare(statistics, 3, folds=3, permutations=0).set_index("basis")
    values, counts = statistics.values, statistics.counts
    means = np.array([x[v == value].mean(0) for value in values])
    n, noise = len(values), sum(((x[v == u] - m) ** 2).sum() for u, m in zip(values, means)) / (len(x) - len(values))
    between = counts @ ((means - x.mean(0)) ** 2).sum(1)
    signal = (between - (n - 1) * noise) / (len(x) - (counts**2).sum() / len(x))
    weights = 1 / (signal + noise / counts)
    weights /= weights.mean()
    fold = leave_out(n, 3, np.random.default_rng(0))
    for name, functions in [
        ("linear", np.stack([values, values**2, values**3], 1)),
        ("sign and magnitude", np.stack([np.sign(values), abs(values), values], 1)),
    ]:
        q = bases(values, 3)[name].fixed
        assert np.linalg.matrix_rank(np.c_[np.ones(n), q, functions]) == 4, "other functions than named"
        error, total = np.zeros(n), np.zeros(n)
        for train, test in ((np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(3)):
            centre = np.average(q[train], axis=0, weights=weights[train])
            b = (q - centre) / np.sqrt(np.average((q[train] - centre) ** 2, axis=0, weights=weights[train]))

            def fit(alpha: float, rows_: np.ndarray, b: np.ndarray = b) -> Ridge:
                return Ridge(alpha=alpha).fit(b[rows_], means[rows_], sample_weight=weights[rows_])

            def left_out(alpha: float, train: np.ndarray = train, b: np.ndarray = b) -> float:
                predictions = [fit(alpha, train[train != i]).predict(b[[i]])[0] for i in train]
                return weights[train] @ ((np.array(predictions) - means[train]) ** 2).sum(1)

            probe = fit(min(number_bases.PENALTIES, key=left_out), train)
            error[test] = ((probe.predict(b[test]) - means[test]) ** 2).sum(1)
            baseline = np.average(means[train], axis=0, weights=weights[train])
            total[test] = ((baseline - means[test]) ** 2).sum(1)
        ceiling = 1 - weights @ (noise / counts) / (weights @ total)
        assert table.ceiling[name] == pytest.approx(ceiling, abs=1e-9)
        assert table.score[name] == pytest.approx((1 - weights @ error / (weights @ total)) / ceiling, abs=1e-9)


def test_functions_are_chosen_as_by_trying_each() -> None:
    """Groups on random activations, against least squares with every candidate; with a single function to spare, the
    best cosine of any phase."""
    rng = np.random.default_rng(0)
    values = np.arange(-10, 16)
    means = rng.normal(size=(len(values), 3))
    statistics = ValueStatistics.from_rows(np.r_[means + 0.1, means - 0.1], np.r_[values, values])
    table = compare(statistics, 5, permutations=0).set_index("basis")
    y = means - means.mean(0)

    def explained(columns: list[np.ndarray]) -> float:
        b = np.stack([np.ones(len(values)), *columns], 1)
        return 1 - ((y - b @ np.linalg.lstsq(b, y)[0]) ** 2).sum() / (y**2).sum()

    for name, fixed in [("digits", []), ("Fourier", []), ("helix", [values])]:
        basis = bases(values, 5)[name]
        functions, labels, shares = list(fixed), [], []
        while len(functions) < 5:
            before = explained(functions)
            candidates = []
            for group, label in enumerate(basis.labels):
                columns = [column for column in basis.candidates[group] if abs(column).max() > 1e-9]
                frequency = 1 / float(label) if name != "digits" else 0.0
                near = name != "digits" and any(abs(frequency - 1 / float(c)) * 26 < 0.499 for c in labels)
                if label in labels or near:
                    continue
                options = [columns]
                if len(columns) > 5 - len(functions):
                    phases = np.linspace(0, np.pi, 60)
                    options = [[np.cos(p) * columns[0] + np.sin(p) * columns[1]] for p in phases]
                best = max(options, key=lambda option: explained(functions + option))
                candidates.append(((explained(functions + best) - before) / len(best), label, best))
            gain, label, best = max(candidates, key=lambda candidate: candidate[0])
            functions += best
            labels.append(label)
            shares.append(gain * len(best))
        assert table.chosen[name] == ", ".join(labels)
        assert np.allclose([float(share) for share in table.explained[name].split(", ")], shares, atol=2e-3)
    circles = bases(values, 5)["circular"]
    gains = np.array([explained(list(group)) for group in circles.candidates])
    assert table.chosen["circular"] == circles.labels[int(np.argmax(gains >= 0.99 * gains.max()))]


# --- planted codes ---------------------------------------------------------------------------------------------------


# code, k, the bases that hold it at that k by construction, an upper bound on the others' R²
PLANTED = [
    ("linear", 1, {"linear", "helix"}, 0.99),  # the tens digit and the sign are not far off
    ("linear", 4, {"linear", "helix", "sign and magnitude"}, 0.99),
    ("sign and magnitude", 2, {"sign and magnitude"}, 0.99),
    ("sign and magnitude", 4, {"sign and magnitude", "digits"}, 0.985),  # |v| is 10 tens + units
    ("circular", 2, {"circular", "Fourier"}, 0.6),
    ("circular", 4, {"circular", "Fourier", "helix"}, 0.6),
    ("Fourier", 5, {"Fourier"}, 0.9),
    ("Fourier", 9, {"Fourier", "helix", "circular"}, 0.7),  # 5 and 2 are harmonics of 10
    ("helix", 3, {"helix"}, 0.9),
    ("digits", 9, {"digits"}, 0.7),  # half of it: |v| mod 10 is no function of v mod 10
]


@pytest.mark.parametrize(("code", "k", "holding", "bound"), PLANTED)
def test_the_planted_basis_wins(code: str, k: int, holding: set[str], bound: float) -> None:
    table = compare(planted(code), k, permutations=2)
    assert list(table.basis) == BASES
    for row in table.itertuples():
        if row.basis in holding:
            assert row.low <= 1.001
            assert row.high >= row.score > 0.99 >= bound
        else:
            assert row.score <= row.high < bound
        assert row.control < 0.05
    assert code in holding


def test_every_basis_has_k_functions() -> None:
    for values in (VALUES, np.arange(30), np.arange(-90, 91, 10), np.array([-7, -3, -2, 0, 1, 4, 8, 9, 12, 15])):
        for k in (1, 2, 5):
            for name, basis in bases(values, k).items():
                y = np.random.default_rng(0).normal(size=(len(values), 3))
                functions, _, _ = number_bases._choose(basis, y, np.ones(len(values)), np.ones(len(values), bool))
                assert np.linalg.matrix_rank(np.c_[np.ones(len(values)), functions], 1e-6) == k + 1, (name, values)


def test_periods_are_recovered() -> None:
    table = compare(planted("Fourier"), 5, permutations=0).set_index("basis")
    assert table.chosen["Fourier"].split(", ")[0] == "2", "the most is explained by a circle, but by two functions"
    assert set(table.chosen["Fourier"].split(", ")) == {"10", "5", "2"}
    assert table.agreement["Fourier"] == 1
    for code in ("circular", "helix"):
        table = compare(planted(code), 3, permutations=0).set_index("basis")
        assert table.chosen[code].split(", ")[0] == "10"
        assert float(table.explained[code].split(", ")[0]) > 0.4

    def far_apart(v: np.ndarray) -> list[np.ndarray]:
        return [*circle(v, 100), *circle(v, 10 / 3), *circle(v, 7)]

    table = compare(planted(far_apart, values=np.arange(-99, 100)), 6, permutations=0).set_index("basis")
    assert set(table.chosen["Fourier"].split(", ")) == {"100", "3.333", "7"}


def test_a_short_circle_is_found_in_its_multiple() -> None:
    statistics = planted(lambda v: circle(v, 5))
    assert compare(statistics, 2, permutations=0).set_index("basis").chosen["circular"] == "5"
    table = compare(statistics, 9, permutations=0).set_index("basis")
    assert table.chosen["circular"] == "10"
    assert table.score["circular"] > 0.98


def test_noise_holds_nothing() -> None:
    """R² above 0 at a level of 2.5 %: at most 5 of 60, and never far above."""
    tables = pd.concat(
        compare(planted("nothing", 1.0, np.arange(-15, 16), features=8, seed=seed), 3, seed=seed, permutations=0)
        for seed in range(10)
    )
    assert (tables.low > 0).sum() <= 5
    assert tables.low.max() < 0.05
    assert tables.score.max() < 0.1
    assert (tables.score > -0.3).mean() > 0.9, "the noise was subtracted where there is nothing else"
    assert abs(tables.ceiling).max() < 0.3


def test_a_code_of_another_kind_is_held_by_none() -> None:
    """Every value in a direction of its own: what is fitted to some values says nothing of others."""
    x = np.random.default_rng(0).normal(size=(len(VALUES), 64)).repeat(4, 0)
    x += 0.1 * np.random.default_rng(1).normal(size=x.shape)
    table = compare(ValueStatistics.from_rows(x, VALUES.repeat(4)), 9, permutations=1)
    assert table.ceiling.min() > 0.98
    assert table.score.max() < 0.01
    assert by_basis(table)["linear"] > -0.05


def test_noise_in_the_means_lowers_the_ceiling_not_the_score() -> None:
    table = compare(planted("helix", noise=1.0), 3, permutations=1).set_index("basis")
    assert 0.3 < table.ceiling["helix"] < 0.7
    assert table.low["helix"] <= 1 <= table.high["helix"] + 0.05
    assert table.score["helix"] > table.high["linear"] + 0.2


# --- the table, and what is refused ----------------------------------------------------------------------------------


def test_a_seed_fixes_the_table() -> None:
    statistics = planted("helix", 1.0, np.arange(-15, 16))
    tables = [compare(statistics, [2, 3], seed=seed, permutations=1) for seed in (1, 1, 2)]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[0].score.equals(tables[2].score)
    table = compare(statistics, [1, 3], permutations=0)
    assert table.k.tolist() == [1] * 6 + [3] * 6
    assert (table["values"] == 31).all()
    assert (table.rows == statistics.counts.sum()).all()


def test_what_cannot_be_compared_is_refused() -> None:
    x, v = rows()
    few = ValueStatistics.from_rows(x, v % 5)
    whole = ValueStatistics.from_rows(x, v)
    once = ValueStatistics.from_rows(x[:20], np.arange(20))
    far = ValueStatistics.from_rows(x, v * 100)
    for call, message in [
        (lambda: compare(few), "5 distinct values; expected 8 or more; gather rows of other values"),
        (lambda: compare(once), "20 rows of 20 values; expected several of a value, to know their noise; gather more"),
        (lambda: compare(whole, 19), "k = 19 functions of 25 values, of which a fold trains on 20; expected k of 1 to"),
        (lambda: compare(whole, [2, 0]), "k = 0 functions of 25 values, of which a fold trains on 20; expected k of 1"),
        (lambda: bases(np.arange(9), 9), "'linear' has 8 functions on these values; expected k = 9; lower k or"),
        (lambda: compare(far), "values from -1200 to 1200; expected a range below 1000, every period in which"),
        (lambda: compare(whole, folds=1), "folds = 1 of 25 values; expected 2 to 25; pass folds=5"),
        (
            lambda: compare(ValueStatistics.from_rows(np.ones((300, 5)), v)),
            "the activations are the same in all rows; expected some that vary; choose another site",
        ),
    ]:
        with pytest.raises(ValueError, match="expected") as caught:
            call()
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)
