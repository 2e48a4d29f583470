"""How an integer is held: every planted code is told from the others, on held-out values, with its periods."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge

from probes import numeric
from probes.numeric import ValueStatistics, bases, compare, separability

VALUES = np.arange(-60, 61)
BASES = ["linear", "sign and magnitude", "digits", "circular", "Fourier", "helix"]


def circle(v: np.ndarray, period: float) -> list[np.ndarray]:
    return [np.cos(2 * np.pi * v / period), np.sin(2 * np.pi * v / period)]


CODES: dict[str, Callable[[np.ndarray], list[np.ndarray]]] = {
    "linear": lambda v: [v / 30],
    "sign and magnitude": lambda v: [np.sign(v), abs(v) / 20],
    "circular": lambda v: circle(v, 10),
    "Fourier": lambda v: [0.9 * np.cos(np.pi * v), *circle(v, 5), *circle(v, 10)],
    "helix": lambda v: [v / 35, *circle(v, 10)],
    "digits": lambda v: list(3 * np.eye(10)[abs(v) % 10].T),
    "nothing": lambda v: [0 * v],
}


def planted(
    code: str, noise: float = 0.2, values: np.ndarray = VALUES, each: int = 15, features: int = 24, seed: int = 0
) -> ValueStatistics:
    """The code's functions along random orthogonal directions, off centre, with noise in every feature."""
    rng = np.random.default_rng(seed)
    v = rng.permuted(values.repeat(rng.integers(2, 2 * each, len(values))))
    held = np.stack(CODES[code](v), 1).astype(float)
    directions = np.linalg.qr(rng.normal(size=(features, features)))[0][: held.shape[1]]
    x = held @ directions + rng.normal(size=features) + noise * rng.normal(size=(len(v), features))
    return ValueStatistics.from_rows(x.astype(np.float32), v)


def by_basis(table: pd.DataFrame, column: str = "score") -> dict[str, float]:
    return dict(zip(table.basis, table[column]))


# --- statistics ------------------------------------------------------------------------------------------------------


def rows(n: int = 300, features: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    v = rng.integers(-12, 13, n)
    return rng.normal(size=(n, features)) + np.outer(v, rng.normal(size=features)) + 3, v


def test_statistics_are_sums_by_value() -> None:
    x, v = rows()
    found = ValueStatistics.from_rows(x, v)
    assert found.values.tolist() == sorted(set(v.tolist()))
    for value, count, total in zip(found.values, found.counts, found.sums):
        assert count == (v == value).sum()
        assert np.allclose(total, x[v == value].sum(0))
    assert np.allclose(found.scatter, sum(np.outer(row, row) for row in x))


def test_merged_statistics_are_those_of_one_pass() -> None:
    x, v = rows()
    whole = ValueStatistics.from_rows(x, v)
    parts = [ValueStatistics.from_rows(x[at], v[at]) for at in (slice(0, 1), slice(1, 9), slice(9, 9), slice(9, None))]
    merged = parts[3] + parts[0] + parts[2] + parts[1]
    for name in ("values", "counts", "sums", "scatter"):
        assert np.allclose(getattr(merged, name), getattr(whole, name)), name
    pd.testing.assert_frame_equal(compare(merged, 2, permutations=1), compare(whole, 2, permutations=1))


def test_values_never_seen_do_not_count() -> None:
    whole = ValueStatistics.from_rows(*rows())
    empty = ValueStatistics(np.array([-99, 98, 99]), np.zeros(3, int), np.zeros((3, 5)), np.zeros((5, 5)))
    pd.testing.assert_frame_equal(compare(whole + empty, 2, permutations=1), compare(whole, 2, permutations=1))
    pd.testing.assert_frame_equal(separability(whole + empty, [3]), separability(whole, [3]))


# --- references ------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_plain_ridge_regression() -> None:
    """Weights, penalty by leave-one-out, held-out errors and the subtracted noise, all from the rows, for a fixed
    basis."""
    x, v = rows(70)
    x, v = x[abs(v) < 7], v[abs(v) < 7]
    statistics = ValueStatistics.from_rows(x, v)
    found = compare(statistics, 3, folds=3, permutations=0).set_index("basis")
    values, counts = statistics.values, statistics.counts
    means = np.array([x[v == value].mean(0) for value in values])
    n, noise = len(values), sum(((x[v == u] - m) ** 2).sum() for u, m in zip(values, means)) / (len(x) - len(values))
    between = counts @ ((means - x.mean(0)) ** 2).sum(1)
    signal = (between - (n - 1) * noise) / (len(x) - (counts**2).sum() / len(x))
    weights = 1 / (signal + noise / counts)
    weights /= weights.mean()
    fold = numeric._folds(n, 3, np.random.default_rng(0))
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

            def fitted(alpha: float, rows_: np.ndarray, b: np.ndarray = b) -> Ridge:
                return Ridge(alpha=alpha).fit(b[rows_], means[rows_], sample_weight=weights[rows_])

            def left_out(alpha: float, train: np.ndarray = train, b: np.ndarray = b) -> float:
                guesses = [fitted(alpha, train[train != i]).predict(b[[i]])[0] for i in train]
                return weights[train] @ ((np.array(guesses) - means[train]) ** 2).sum(1)

            probe = fitted(min(numeric.PENALTIES, key=left_out), train)
            error[test] = ((probe.predict(b[test]) - means[test]) ** 2).sum(1)
            baseline = np.average(means[train], axis=0, weights=weights[train])
            total[test] = ((baseline - means[test]) ** 2).sum(1)
        ceiling = 1 - weights @ (noise / counts) / (weights @ total)
        assert found.ceiling[name] == pytest.approx(ceiling, abs=1e-9)
        assert found.score[name] == pytest.approx((1 - weights @ error / (weights @ total)) / ceiling, abs=1e-9)


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

    for name, taken in [("digits", []), ("Fourier", []), ("helix", [values])]:
        basis = bases(values, 5)[name]
        taken, chosen, shares = list(taken), [], []
        while len(taken) < 5:
            before, found = explained(taken), []
            for group, label in enumerate(basis.labels):
                columns = [column for column in basis.candidates[group] if abs(column).max() > 1e-9]
                frequency = 1 / float(label) if name != "digits" else 0.0
                near = name != "digits" and any(abs(frequency - 1 / float(c)) * 26 < 0.499 for c in chosen)
                if label in chosen or near:
                    continue
                options = [columns]
                if len(columns) > 5 - len(taken):
                    phases = np.linspace(0, np.pi, 60)
                    options = [[np.cos(p) * columns[0] + np.sin(p) * columns[1]] for p in phases]
                best = max(options, key=lambda option: explained(taken + option))
                found.append(((explained(taken + best) - before) / len(best), label, best))
            gain, label, best = max(found, key=lambda each: each[0])
            taken, chosen, shares = taken + best, [*chosen, label], [*shares, gain * len(best)]
        assert table.chosen[name] == ", ".join(chosen)
        assert np.allclose([float(share) for share in table.explained[name].split(", ")], shares, atol=2e-3)
    circles = bases(values, 5)["circular"]
    gains = np.array([explained(list(group)) for group in circles.candidates])
    assert table.chosen["circular"] == circles.labels[int(np.argmax(gains >= 0.99 * gains.max()))]


def test_discriminants_are_scikit_learns() -> None:
    """On one split: LDA of the value means, whose shared covariance has the shrinkage added."""
    rng = np.random.default_rng(1)
    y = rng.normal(size=(60, 7)) + rng.normal(size=(3, 7))[np.arange(60) % 3]
    train, test = np.arange(60) % 5 > 0, np.arange(60) % 5 == 0
    residues = np.stack([np.arange(60) % 3, rng.permutation(60) % 3])
    split = numeric._Split(y, np.ones(60), np.flatnonzero(train), np.flatnonzero(test))
    right = split.right(residues, 3)
    for shrinkage, found in zip(numeric.SHRINKAGES, right):
        for labels, each in zip(residues, found):

            class Covariance:
                def fit(self, x: np.ndarray, shrinkage: float = shrinkage) -> Covariance:
                    self.covariance_ = np.cov(x.T, bias=True) + shrinkage * np.eye(7)
                    return self

            shares = np.bincount(labels[train]) / train.sum()
            reference = LinearDiscriminantAnalysis("lsqr", priors=shares, covariance_estimator=Covariance())
            reference.fit(y[train], labels[train])
            reference.intercept_ -= np.log(shares)  # ours holds residues equally likely
            assert np.array_equal(each, reference.predict(y[test]) == labels[test])


def test_folds_leave_out_values_over_the_whole_range_and_no_residue_class() -> None:
    fold = numeric._folds(121, 5, np.random.default_rng(0))
    for k in range(5):
        at = np.flatnonzero(fold == k)
        assert len(at) in (24, 25)
        assert np.diff(at).max() <= 9
        assert len(set(at % 5)) == len(set(at % 2) | {2, 3, 4}) == 5


# --- planted codes ---------------------------------------------------------------------------------------------------

# code, k, the bases that hold it at that k by construction, an upper bound on the others' R²
TOLD = [
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


@pytest.mark.parametrize(("code", "k", "holding", "most"), TOLD)
def test_the_planted_basis_wins(code: str, k: int, holding: set[str], most: float) -> None:
    table = compare(planted(code), k, permutations=2)
    assert list(table.basis) == BASES
    for row in table.itertuples():
        if row.basis in holding:
            assert row.low <= 1.001
            assert row.high >= row.score > 0.99 >= most
        else:
            assert row.score <= row.high < most
        assert row.control < 0.05
    assert code in holding


def test_every_basis_has_k_functions() -> None:
    for values in (VALUES, np.arange(30), np.arange(-90, 91, 10), np.array([-7, -3, -2, 0, 1, 4, 8, 9, 12, 15])):
        for k in (1, 2, 5):
            for name, basis in bases(values, k).items():
                y = np.random.default_rng(0).normal(size=(len(values), 3))
                found, _, _ = numeric._choose(basis, y, np.ones(len(values)), np.ones(len(values), bool))
                assert np.linalg.matrix_rank(np.c_[np.ones(len(values)), found], 1e-6) == k + 1, (name, values)


def test_periods_are_recovered() -> None:
    table = compare(planted("Fourier"), 5, permutations=0).set_index("basis")
    assert table.chosen["Fourier"].split(", ")[0] == "2", "the most is explained by a circle, but by two functions"
    assert set(table.chosen["Fourier"].split(", ")) == {"10", "5", "2"}
    assert table.agreement["Fourier"] == 1
    for code in ("circular", "helix"):
        table = compare(planted(code), 3, permutations=0).set_index("basis")
        assert table.chosen[code].split(", ")[0] == "10"
        assert float(table.explained[code].split(", ")[0]) > 0.4
    everything = np.arange(-99, 100)
    CODES["far apart"] = lambda v: [*circle(v, 100), *circle(v, 10 / 3), *circle(v, 7)]
    table = compare(planted("far apart", values=everything), 6, permutations=0).set_index("basis")
    assert set(table.chosen["Fourier"].split(", ")) == {"100", "3.333", "7"}


def test_a_short_circle_is_found_in_its_multiple() -> None:
    CODES["five"] = lambda v: circle(v, 5)
    assert compare(planted("five"), 2, permutations=0).set_index("basis").chosen["circular"] == "5"
    table = compare(planted("five"), 9, permutations=0).set_index("basis")
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


def test_a_code_that_is_no_function_of_these_kinds_is_held_by_none() -> None:
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


# --- residues --------------------------------------------------------------------------------------------------------


def test_residues_of_a_circle_are_separable() -> None:
    """Those of its period only: v mod 5 is two opposite points of a circle of period 10, v mod 2 every other point."""
    table = separability(planted("circular")).set_index("period")
    assert table.loc[10, "low"] > 0.9
    rest = table.drop(10)
    assert (rest.low < rest.chance + 0.1).all()
    assert (table.control < table.chance + 0.1).all()


def test_residues_of_several_circles_and_of_a_helix_are_separable() -> None:
    table = separability(planted("Fourier"), [2, 5, 10, 3]).set_index("period")
    assert table.loc[[2, 5, 10], "low"].min() > 0.9
    assert table.loc[[2, 5, 10], "chance"].max() < 0.6
    assert table.loc[3, "low"] < table.loc[3, "chance"]
    assert separability(planted("helix"), [10]).score[0] > 0.95


def test_residues_of_a_line_and_of_noise_are_not_separable() -> None:
    for code in ("linear", "nothing"):
        table = separability(planted(code))
        assert (table.low > table.chance).sum() <= 1
        assert (table.score < table.chance + 0.1).all()


def test_intervals_are_wilsons() -> None:
    row = separability(planted("nothing"), [2]).iloc[0]
    p, n, z = row.score, row["values"], 1.959964
    centre, half = (p + z**2 / (2 * n)), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert np.allclose([row.low, row.high], [(centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)])


# --- the tables, and what is refused ---------------------------------------------------------------------------------


def test_a_seed_fixes_the_tables() -> None:
    statistics = planted("helix", 1.0, np.arange(-15, 16))
    for study in (compare, separability):
        tables = [study(statistics, [2, 3], seed=seed, permutations=1) for seed in (1, 1, 2)]
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
    broken = np.where(np.arange(300)[:, None] < 7, np.nan, x)
    for refused, message in [
        (lambda: compare(few), "5 distinct values; expected 8 or more; gather rows of other values"),
        (lambda: separability(few), "5 distinct values; expected 8 or more; gather rows of other values"),
        (lambda: compare(once), "20 rows of 20 values; expected several of a value, to know their noise; gather more"),
        (lambda: compare(whole, 19), "k = 19 functions of 25 values, of which a fold trains on 20; expected k of 1 to"),
        (lambda: compare(whole, [2, 0]), "k = 0 functions of 25 values, of which a fold trains on 20; expected k of 1"),
        (lambda: bases(np.arange(9), 9), "'linear' has 8 functions on these values; expected k = 9; lower k or"),
        (lambda: compare(far), "values from -1200 to 1200; expected a range below 1000, every period in which"),
        (lambda: compare(whole, folds=1), "folds = 1 of 25 values; expected 2 to 25; pass folds=5"),
        (lambda: separability(whole, [13]), "period 13 of 25 values; expected 2 to 12; lower it or gather more values"),
        (lambda: ValueStatistics.from_rows(broken, v), "7 of 300 rows hold NaN or infinity; expected none; leave thos"),
        (lambda: ValueStatistics.from_rows(x, v / 1), r"activations (300, 5) and float64 values (300,); expected [row"),
        (lambda: ValueStatistics.from_rows(x, v[:9]), "activations (300, 5) and int64 values (9,); expected [rows, f"),
        (lambda: whole + ValueStatistics.from_rows(x[:, :2], v), "5 and 2 features; expected as many; add statistics"),
        (
            lambda: compare(ValueStatistics.from_rows(np.ones((300, 5)), v)),
            "the activations are the same in all rows; expected some that vary; choose another site",
        ),
    ]:
        with pytest.raises(ValueError, match="expected") as caught:
            refused()
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)


def test_statistics_that_do_not_belong_together_are_refused() -> None:
    good = {"values": np.arange(3), "counts": np.ones(3), "sums": np.zeros((3, 2)), "scatter": np.eye(2)}
    for wrong, message in [
        ({"counts": np.ones(4)}, "values, counts, sums, scatter have shapes"),
        ({"values": np.array([0, 2, 1])}, "expected increasing integers; sort them first"),
        ({"scatter": np.full((2, 2), np.inf)}, "sums or scatter hold NaN or infinity; expected finite ones"),
    ]:
        with pytest.raises(ValueError, match=message):
            ValueStatistics(**{**good, **wrong})
