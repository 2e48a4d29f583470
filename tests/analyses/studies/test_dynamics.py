"""The study of training: relations planted in trajectories are found, those that time alone makes are not; on models of
several seeds with snapshots its tables are whole."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from analyses.cli import main
from analyses.reporting.report import number
from analyses.studies.dynamics import study
from analyses.studies.dynamics.relations import correlation_within_steps, correlations, lead
from analyses.studies.dynamics.study import VARIABLES, DynamicsConfig, DynamicsResults
from analyses.studies.dynamics.summary import summary
from cadmus.models.config import ModelConfig
from cadmus.programs.families import Compare, Register
from cadmus.programs.mixture import Component, Mixture
from cadmus.training import checkpoint
from tests.studies import save_untrained

MIXTURE = Mixture("m", (Component(Compare(low=-9, high=9, length=3)), Component(Register())))
CFG = ModelConfig(n_layers=1, d_model=32, n_heads=1, d_mlp=32, n_ctx=MIXTURE.width + 1)
SNAPSHOTS = (1, 8, 60)
STEPS = 2.0 ** np.arange(11)

# --- planted ---------------------------------------------------------------------------------------------------------


def rising(half_way: float) -> np.ndarray:
    """A curve over STEPS from 0 to 1 that is half-way after `half_way` doublings, straight between the steps there."""
    return np.clip((np.log2(STEPS) - half_way + 1) / 2, 0, 1)


def table_of(**curves: tuple[str, np.ndarray]) -> pd.DataFrame:
    """The table of trajectories of named curves: kind, scores [runs, steps]."""
    rows = []
    for name, (kind, scores) in curves.items():
        for run, curve in enumerate(scores):
            for step, score in zip(STEPS, curve, strict=False):
                rows.append({"run": str(run), "step": int(step), "kind": kind, "name": name, "score": score})
    return pd.DataFrame(rows)


def sentences(table: pd.DataFrame) -> tuple[str, ...]:
    """The page's first sentences on a table of trajectories."""
    config = DynamicsConfig(tuple(map(str, range(5))))
    return summary(DynamicsResults(config, table, correlations(table), lead(table)))


def test_what_time_alone_relates_is_not_found() -> None:
    rng = np.random.default_rng(0)
    curve = np.linspace(0, 1, 11)
    p = []
    for _ in range(200):
        a, b = (curve + rng.normal(0, 0.05, (5, 11)) for _ in range(2))
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9, "over time both rise"
        r, p_value = correlation_within_steps(a, b)
        assert abs(r) < 0.6
        p.append(p_value)
    assert np.mean(np.array(p) <= 0.05) <= 0.09, "level 5 % over 200 draws"
    assert np.mean(p) == pytest.approx(0.5, abs=0.08)


def test_a_relation_over_runs_is_found_with_the_least_p() -> None:
    rng = np.random.default_rng(0)
    curve, better = np.linspace(0, 1, 11), np.array([[0, 0.1, 0.2, 0.3, 0.9]]).T
    a, b = (curve + better + rng.normal(0, 0.01, (5, 11)) for _ in range(2))
    assert correlation_within_steps(a, b) == (pytest.approx(1, abs=0.01), pytest.approx(1 / 120))
    r, p = correlation_within_steps(a, -b)
    assert r < -0.98
    assert p == pytest.approx(1 / 120)


def test_within_is_the_plain_correlation_over_all_permutations() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 5, 4)) + rng.normal(size=(2, 5, 1))
    centred = [x - x.mean(0) for x in (a, b)]
    rs = [np.corrcoef(centred[0][list(order)].ravel(), centred[1].ravel())[0, 1] for order in permutations(range(5))]
    r, p = correlation_within_steps(a, b)
    assert r == pytest.approx(rs[0])
    assert p == pytest.approx(np.mean(np.abs(rs) >= abs(rs[0]) - 1e-9))


def test_more_runs_than_can_be_permuted_are_permuted_at_random() -> None:
    rng = np.random.default_rng(2)
    a = np.linspace(0, 1, 6) + 0.3 * np.arange(9)[:, None] + rng.normal(0, 0.01, (9, 6))
    first, again = (correlation_within_steps(a, a, max_permutations=500) for _ in range(2))
    assert first == again == (pytest.approx(1), pytest.approx(1 / 500))


def test_no_relation_where_nothing_varies_or_something_is_missing() -> None:
    rng = np.random.default_rng(3)
    a = rng.normal(size=(5, 4))
    assert np.isnan(correlation_within_steps(a, np.ones((5, 4)))).all()
    missing = np.where(np.arange(4) == 2, np.nan, a)
    assert np.isnan(correlation_within_steps(a, missing)).all(), "not the least p"


def test_a_lead_is_the_number_of_doublings_between_two_curves() -> None:
    shifts = np.array([-0.2, -0.1, 0.0, 0.1, 0.2])
    table = table_of(
        early=("probe", np.array([rising(3 + shift) for shift in shifts])),
        behind=("alternative", np.array([rising(6.5) for _ in shifts])),
        family=("completion", np.array([rising(5) for _ in shifts])),
    )
    leads = lead(table).set_index("variable")
    early, behind = leads.loc["early"], leads.loc["behind"]
    assert (early.kind, early.family, early.runs) == ("probe", "family", 5)
    assert early.lead == pytest.approx(2.0)
    half = 2.7764 * shifts.std(ddof=1) / np.sqrt(5)  # Student's t with 4 degrees of freedom
    assert (early.low, early.high) == (pytest.approx(2 - half, abs=1e-4), pytest.approx(2 + half, abs=1e-4))
    assert behind.lead == behind.low == behind.high == pytest.approx(-1.5)
    assert early.p == pytest.approx(scipy_stats.ttest_1samp(2.0 - shifts, 0).pvalue)
    assert early.q == early.p, "the only pair"
    assert np.isnan(early.earlier), "no alternative of it was read"
    before, after, sooner, _ = texts = sentences(table)
    assert before.startswith(
        "A variable becomes readable before a family's behaviour is right (q < 0.05) in 1 of 1 pairs: early before "
        "family by 2.00"
    )
    assert after == "It becomes readable only afterwards in 0 of 1 pairs."
    assert sooner.startswith("No variable can be compared with the same variable of an alternative machine: ")
    assert sooner.endswith(" what every state needs.")
    assert "behind" not in " ".join(texts), "of the machine itself only"


def test_a_curve_that_hardly_rises_has_no_lead() -> None:
    flat = np.array([rising(3)] * 4 + [np.full(11, 0.4)])
    table = table_of(
        flat=("probe", flat),
        rising=("alternative", np.array([rising(3)] * 5)),
        family=("completion", np.array([rising(5)] * 5)),
        hard=("completion", 0.05 * np.array([rising(5)] * 5)),
    )
    leads = lead(table).set_index(["variable", "family"])
    assert leads.loc["flat"][["lead", "low", "high"]].isna().all(axis=None)
    assert leads.loc["rising"].lead.tolist() == [pytest.approx(2), pytest.approx(np.nan, nan_ok=True)]
    before, *_ = sentences(table)
    assert before.endswith(" is right (q < 0.05) in 0 of 0 pairs.")


def test_a_lead_that_any_machine_has_is_not_of_this_one() -> None:
    shifts = np.array([-0.2, -0.1, 0.0, 0.1, 0.2])
    curves = {name: np.array([rising(at + shift) for shift in shifts]) for name, at in (("own", 3.0), ("any", 3.0))}
    table = table_of(
        own=("probe", curves["own"]), any=("probe", curves["any"]), family=("completion", np.array([rising(6)] * 5))
    )
    other = table_of(
        own=("alternative", np.array([rising(5 + shift) for shift in shifts])), any=("alternative", curves["any"])
    )
    table = pd.concat([table, other])
    leads = lead(table)
    own = leads[leads.kind == "probe"].set_index("variable")
    assert own.earlier.tolist() == [pytest.approx(2.0), 0.0]
    assert (own.loc["own", "earlier_low"], own.loc["own", "earlier_high"]) == (pytest.approx(2.0), pytest.approx(2.0))
    before, _, sooner, _ = sentences(table)
    assert "own before family" in before
    assert "any before family" in before
    assert sooner.startswith("1 of 2 variables become readable surely earlier than the same variable of an alternative")
    assert "own by 2.00" in sooner
    assert "any by" not in sooner


def test_correlations_have_a_row_per_kind_variable_and_family() -> None:
    rng = np.random.default_rng(4)
    better = rng.normal(size=(5, 1))
    scores = {name: better + rng.normal(0, 0.1, (5, 11)) for name in ("linked", "family")}
    scores["free"] = rng.normal(size=(5, 11))
    kinds = {"linked": "probe", "free": "alternative", "family": "completion"}
    table = table_of(**{name: (kind, scores[name]) for name, kind in kinds.items()})
    rows = correlations(table).set_index("variable")
    assert rows.loc["linked", ["kind", "family", "runs"]].tolist() == ["probe", "family", 5]
    assert rows.r["linked"] > 0.9
    assert (rows.r["free"], rows.p["free"]) == correlation_within_steps(scores["free"], scores["family"])


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("runs")
    return tuple(save_untrained(folder / str(seed), MIXTURE, CFG, seed, SNAPSHOTS) for seed in range(5))


@pytest.fixture(scope="module")
def page(runs: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page")
    assert main(["dynamics", *runs, "--out", str(out), "--programs", "200", "--eval-programs", "20"]) == 0
    return out


@pytest.mark.slow
def test_the_page_holds_every_run_snapshot_and_measure(runs: tuple[str, ...], page: Path) -> None:
    table = pd.read_parquet(page / "tables" / "trajectories.parquet")
    assert list(table.run.unique()) == list(runs)
    assert set(table.step) == set(SNAPSHOTS)
    measures = table.groupby("kind").name.unique().map(set).to_dict()
    assert measures == {
        "completion": {"compare", "register"},
        "probe": set(VARIABLES),
        "alternative": set(VARIABLES),
    }
    assert len(table) == 5 * 3 * (2 + 2 * len(VARIABLES))
    assert table.score.between(0, 1).all()
    assert table.groupby("run").seed.unique().tolist() == [[seed] for seed in range(5)]
    assert table[table.kind == "completion"].site.isna().all()
    assert set(table.site.dropna()) <= {"blocks.0.hook_resid_pre", "blocks.0.hook_resid_post"}
    together = pd.read_parquet(page / "tables" / "correlations.parquet")
    assert len(together) == 2 * len(VARIABLES) * 2
    pd.testing.assert_frame_equal(together, correlations(table))
    text = (page / "report.md").read_text()
    assert f"cadmus-probe dynamics {' '.join(runs)} --programs 200 --eval-programs 20 --seed 0" in text
    for row in together[together.r.notna()].itertuples():
        assert f"{number(row.r)} ({row.p:.3f})" in text


@pytest.mark.slow
def test_the_same_programs_and_machine_each_time(runs: tuple[str, ...], page: Path) -> None:
    again = study.trajectories(DynamicsConfig(runs, programs=200, eval_programs=20))
    pd.testing.assert_frame_equal(again, pd.read_parquet(page / "tables" / "trajectories.parquet"), check_dtype=False)


def test_what_cannot_be_compared_is_refused(runs: tuple[str, ...], tmp_path: Path) -> None:
    other = Mixture("other", (Component(Compare(low=-8, high=8, length=3)), Component(Register())))
    save_untrained(tmp_path / "plain", MIXTURE, CFG)
    save_untrained(tmp_path / "mixture", other, CFG, steps=SNAPSHOTS)
    save_untrained(tmp_path / "width", MIXTURE, replace(CFG, d_mlp=64), steps=SNAPSHOTS)
    save_untrained(tmp_path / "steps", MIXTURE, CFG, steps=(1, 3, 9))
    cases = {
        "plain": "has no snapshots; train it with snapshots = 24 in its recipe, as dynamics has",
        "mixture": f"has another mixture than {runs[0]}; give runs of one recipe",
        "width": f"has another architecture than {runs[0]}",
        "steps": f"has other snapshots than {runs[0]}",
    }
    for name, message in cases.items():
        with pytest.raises(ValueError, match=re.escape(f"{tmp_path / name} {message}")):
            study.trajectories(DynamicsConfig((*runs[:4], str(tmp_path / name))))
    with pytest.raises(ValueError, match=r"the runs have the seeds \[0, 1, 2, 3, 3\]; give each seed once"):
        study.trajectories(DynamicsConfig((*runs[:4], runs[3])))
    with pytest.raises(checkpoint.artifacts.ArtifactError, match="does not exist"):
        study.trajectories(DynamicsConfig((*runs[:4], str(tmp_path / "none"))))


def test_fewer_than_five_runs_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["dynamics", "one", "two", "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "2 runs; a relation over training needs 5 or more that differ in their seeds: cadmus-probe train" in line
    assert not (tmp_path / "out").exists()
