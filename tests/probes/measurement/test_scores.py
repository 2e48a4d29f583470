"""The table of scores against plain computations on rows: columns, paired intervals, screens, q-values, R² and gaps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import r2_score

from cadmus.statistics import clustered
from probes.data.targets import Target, Targets
from probes.measurement import cells, counts, scores
from probes.measurement.measure import Measurement
from probes.measurement.networks import HALF
from probes.measurement.plan import EMBEDDING, TRAINED, UNTRAINED
from probes.measurement.tally import ALL, ALL_TOKENS, Group, Tally, Truth
from probes.solvers.custom import CustomSiteProbes
from probes.solvers.site_probes import SiteProbes

SITES = (EMBEDDING, "blocks.0.hook_resid_post")
TARGETS = Targets(
    [
        Target("reg.a.value"),
        Target("reg.a.value", regression=True),
        Target("all_true"),
        Target("reg.a.value", permuted=True),
        Target("reg.a.value", 0, "alternative 1"),
        Target("reg.a.value", 0, "alternative 1", True),
    ]
)
OWN = TARGETS[:3]
BROKEN_DOWN = (TARGETS[0], TARGETS[2])
GROUPS = (
    ALL_TOKENS,
    Group("family", "a"),
    Group("family", "b"),
    Group("live", "live", "a"),
    Group("live", "live", "b"),
)
CLUSTERS, ROWS = 40, 2000


@dataclass
class World:
    """Rows, and what everything predicts in them; `measured` counts it."""

    seed: int = 0
    noise: dict = field(default_factory=dict)  # share of rows predicted wrongly, by reader
    problems: dict = field(default_factory=dict)
    notes: dict = field(default_factory=dict)
    differing: float = 1.0
    unseen: tuple = ((),) * len(TARGETS)
    network_sites: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.values = rng.integers(-9, 10, (ROWS, len(TARGETS)))
        self.values[:, [1, 2]] = np.stack([self.values[:, 0], self.values[:, 2] > 0], 1)
        self.mask = np.repeat(rng.random((ROWS, 1)) < 0.8, len(TARGETS), 1)
        self.clusters = rng.integers(0, CLUSTERS, ROWS)
        self.groups = np.stack([rng.integers(1, 3, ROWS), np.where(rng.random(ROWS) < 0.3, 3, -1)], 1).astype(np.int16)
        self.groups = np.concatenate([self.groups, np.where(self.groups[:, 1:] > 0, 4, -1)], 1).astype(np.int16)
        readers = (*SITES, *scores.CONTROLS[:5], *map(self.untrained, SITES))
        self.predicted = {name: self.predict(name) for name in (*readers, "network", "untrained network")}
        self.halves = dict(self.predicted)  # what half of the training programs makes of them

    @staticmethod
    def untrained(site: str) -> str:
        return f"untrained {site}"

    def predict(self, name: str) -> np.ndarray:
        """The values with some rows wrong, more of them in some clusters; all NaN for noise None."""
        noise, rng = self.noise.get(name, 0.6), np.random.default_rng([self.seed, len(name), ord(name[-1])])
        if noise is None:
            return np.full(self.values.shape, np.nan)
        wrong = rng.random(self.values.shape) < noise * rng.beta(5, 1, CLUSTERS)[self.clusters, None]
        return self.values + np.where(
            wrong, rng.choice([-3, 2], self.values.shape), rng.normal(size=self.values.shape) / 9
        )

    def tally(self, predicted: np.ndarray, targets: Targets = TARGETS) -> Tally:
        truth = Truth(self.values, self.mask, self.clusters, self.groups).select(np.arange(len(targets)))
        return Tally(targets, CLUSTERS, len(GROUPS), BROKEN_DOWN).add(predicted[:, : len(targets)], truth)

    def tested(self) -> counts.TestCounts:
        trained = {(TRAINED, site): self.tally(self.predicted[site]) for site in SITES}
        untrained = {(UNTRAINED, site): self.tally(self.predicted[self.untrained(site)], OWN) for site in SITES}
        halves = {name: self.halves[name] for name in scores.CONTROLS[:5]}
        halves |= {(UNTRAINED, site): self.halves[self.untrained(site)] for site in SITES}
        halves |= {(TRAINED, SITES[0]): self.halves[SITES[0]], HALF: self.halves["untrained network"]}
        networks = {TRAINED: self.predicted["network"], UNTRAINED: self.predicted["untrained network"]}
        return counts.TestCounts(
            groups=GROUPS,
            counts=self.tally(self.values),
            moments=tuple(self.tally(np.full(self.values.shape, power)) for power in (0, 1)),
            tallies=trained | untrained,
            baselines={name: self.tally(self.predicted[name], OWN) for name in scores.CONTROLS[:5]},
            networks={name: self.tally(predicted, OWN) for name, predicted in networks.items()},
            halves={name: self.tally(predicted, OWN) for name, predicted in halves.items()},
            differing=np.full(len(TARGETS), self.differing),
            value_table=np.zeros((len(TARGETS), 199), np.bool_),
            n_programs=77,
        )

    def measured(self) -> Measurement:
        trained = SiteProbes(len(TARGETS), None, np.array([], int), (), self.problems, self.notes)
        untrained = SiteProbes(len(OWN), None, np.array([], int), ())
        return Measurement(
            targets=TARGETS,
            sites=SITES,
            tested=self.tested(),
            site_probes={(TRAINED, site): trained for site in SITES} | {(UNTRAINED, site): untrained for site in SITES},
            kept_values={},
            validation=dict.fromkeys(SITES, np.arange(len(TARGETS)) / 10),
            bits=dict.fromkeys(SITES, np.stack([np.arange(len(TARGETS)) / 2, np.arange(len(TARGETS)) + 9.0], 1)),
            outside=np.arange(len(TARGETS)),
            unseen=self.unseen,
            network_sites=self.network_sites,
        )

    def correct(self, name: str, target: int, group: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Whether each row is predicted correctly, and its cluster."""
        rows = self.mask[:, target] & ((self.groups == group).any(1) if group else True)
        return (np.rint(self.predicted[name]) == self.values)[rows, target], self.clusters[rows]


def sums(*columns: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """By cluster: [clusters, 1, columns]."""
    return np.stack([np.bincount(clusters, column, CLUSTERS) for column in columns], -1)[:, None]


def cell(table: pd.DataFrame, site: str, variable: str, metric: str, by: str = ALL, group: str = ALL) -> pd.Series:
    at = (table.site == site) & (table.variable == variable) & (table.metric == metric) & (table.by == by)
    rows = table[at & (table.group == group) & (table.probe != "ridge" if metric != "R2" else True)]
    assert len(rows) == 1
    return rows.iloc[0]


# --- scores ----------------------------------------------------------------------------------------------------------


def test_scores_and_intervals_are_those_of_the_rows() -> None:
    world = World(noise={SITES[1]: 0.1, "n-gram": 0.5, "input, nonlinear": 0.3})
    table = scores.table(world.measured())
    assert tuple(table.columns) == scores.COLUMNS
    readers = {
        **{name: name for name in scores.CONTROLS[:5]},
        "embedding": SITES[0],
        "untrained": world.untrained(SITES[1]),
    }
    for variable, target, metric in (("reg.a.value", 0, "exact match"), ("all_true", 2, "accuracy")):
        for k, group in enumerate(GROUPS):
            if group.register and not variable.startswith(f"reg.{group.register}."):
                continue
            row = cell(table, SITES[1], variable, metric, group.breakdown, group.name)
            correct, clusters = world.correct(SITES[1], target, k)
            expected = clustered.accuracy(correct, clusters, clusters)
            assert (row.score, row.low, row.high) == pytest.approx((expected.estimate, expected.low, expected.high))
            assert (row.tokens, row.clusters) == (len(correct), CLUSTERS)
            controls = {name: world.correct(reader, target, k)[0] for name, reader in readers.items()}
            for name, control in controls.items():
                assert row[name] == pytest.approx(control.mean()), name
            accuracies = {name: control.mean() for name, control in controls.items()}
            assert row.probe_class == "linear"
            own = {name: accuracy for name, accuracy in accuracies.items() if name != "input, nonlinear"}
            assert row.best_control == max(own, key=own.get)
            assert row.best_of_all == max(accuracies, key=accuracies.get) == "input, nonlinear"
            for best, name in ((row.best_control, "beyond"), (row.best_of_all, "beyond_all")):
                control = controls[best]
                paired = clustered.difference_many(sums(correct, control, np.ones(len(correct)), clusters=clusters))
                assert row[name] == pytest.approx(correct.mean() - control.mean())
                assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx((paired.low[0], paired.high[0]))
            assert row.readable == (row.beyond_low > 0.05)
            assert row.read == (row.beyond_all_low > 0.05)
    assert table[["rise", "rise_of_all"]].dropna().eq(0).all(axis=None)
    assert table[table.read.eq(True)].site.unique().tolist() == [SITES[1]]


def test_a_paired_interval_is_narrower_than_an_unpaired_one() -> None:
    """The control is wrong in the clusters in which the probe is."""
    world = World(noise={SITES[1]: 0.3})
    world.predicted["n-gram"] = np.where(np.arange(ROWS)[:, None] % 20 == 0, 77, world.predicted[SITES[1]])
    row = cell(scores.table(world.measured()), SITES[1], "reg.a.value", "exact match")
    assert row.best_control == "n-gram"
    assert row.beyond_high - row.beyond_low < 0.7 * (row.high - row.low)


def test_r_squared_is_scikit_learns() -> None:
    world = World(noise={SITES[1]: 0.2})
    table = scores.table(world.measured())
    rows = world.mask[:, 1]
    for site in SITES:
        row = cell(table, site, "reg.a.value", "R2")
        expected = {"score": site, "untrained": world.untrained(site), "input, linear": "input, linear"}
        expected |= {"embedding": SITES[0]} if site != SITES[0] else {}
        for column, reader in expected.items():
            assert row[column] == pytest.approx(
                r2_score(world.values[rows, 1], world.predicted[reader][rows, 1]), abs=1e-6
            )
        interval = clustered.r_squared(
            world.values[rows, 1],
            world.predicted[site][rows, 1].astype(np.float32),
            world.clusters[rows],
            world.clusters[rows],
        )
        assert (row.low, row.high) == pytest.approx((interval.low, interval.high), abs=1e-5)
    assert (table[table.metric == "R2"].probe == "ridge").all()
    assert (table[table.metric == "R2"].by == ALL).all()


def test_what_is_known_of_a_cell_stands_beside_it() -> None:
    world = World(notes={0: "mind the gap"}, unseen=((3, 4), *((),) * 5))
    world.predicted[SITES[1]][world.clusters == 3] = np.nan
    table = scores.table(world.measured())
    row = cell(table, SITES[1], "reg.a.value", "exact match")
    unread = (world.mask[:, 0] & (world.clusters == 3)).sum()
    assert row.note == (
        f"mind the gap; nothing is read at {unread} test tokens, which count as wrong; "
        "test values that training lacks: [3, 4]"
    )
    assert (row.validation, row.outside, row.bits, row.frequency_bits) == (0.0, 0, 0.0, 9.0)
    assert (row.control_bits, row.control_frequency_bits) == (1.5, 12.0)
    assert (row.offset, row.layer, row.determined, row.probe) == (0, 1, True, "discriminant")
    assert cell(table, SITES[0], "all_true", "accuracy").note == ""
    assert np.isnan(cell(table, SITES[1], "reg.a.value", "R2").score), "no error is known of rows that were not read"


def test_selectivity_is_score_minus_control_task() -> None:
    world = World(noise={SITES[1]: 0.1})
    row = cell(scores.table(world.measured()), SITES[1], "reg.a.value", "exact match")
    (correct, clusters), (control, _) = world.correct(SITES[1], 0), world.correct(SITES[1], 3)
    paired = clustered.difference_many(sums(correct, control, np.ones(len(correct)), clusters=clusters))
    assert row.control_task == pytest.approx(control.mean())
    assert (row.selectivity, row.selectivity_low, row.selectivity_high) == pytest.approx(
        (paired.estimate[0], paired.low[0], paired.high[0])
    )
    assert np.isnan(cell(scores.table(world.measured()), SITES[1], "all_true", "accuracy").selectivity)


@pytest.mark.parametrize(
    ("certain", "screen"),
    [
        ("majority", "constant"),
        ("by token", "the token shows it"),
        ("input, linear", "the input determines it"),
        ("input, nonlinear", "the input determines it"),
        ("n-gram", ""),
        ("embedding", ""),
        ("untrained", ""),
    ],
)
def test_screens_say_what_gives_a_variable_away(certain: str, screen: str) -> None:
    reader = {"embedding": SITES[0], "untrained": World.untrained(SITES[1])}.get(certain, certain)
    world = World(noise={SITES[1]: 0.0, reader: 0.005, **({"input, linear": None} if "non" in certain else {})})
    row = cell(scores.table(world.measured()), SITES[1], "reg.a.value", "exact match")
    assert row.screen == screen
    assert not row.read
    sure = World(noise={SITES[1]: 0.0})
    row = cell(scores.table(sure.measured()), SITES[1], "reg.a.value", "exact match")
    assert (row.screen, row.read) == ("", True)


def test_a_control_that_reads_nothing_is_none() -> None:
    world = World(noise={"input, nonlinear": None, SITES[0]: None, "majority": None})
    row = cell(scores.table(world.measured()), SITES[1], "reg.a.value", "exact match")
    assert np.isnan([row["input, nonlinear"], row.embedding, row.majority]).all()
    assert row.best_control in ("by token", "n-gram", "input, linear", "untrained")
    nothing = World(noise=dict.fromkeys((*scores.CONTROLS[:5], SITES[0], *map(World.untrained, SITES))))
    row = cell(scores.table(nothing.measured()), SITES[1], "reg.a.value", "exact match")
    assert row.problem == "no control reads it"
    assert np.isnan(row.score)


def test_p_values_are_those_of_sign_flips_over_the_map() -> None:
    world = World(noise={SITES[1]: 0.2, SITES[0]: 0.6})
    table = scores.table(world.measured(), seed=3)
    tested = table[table.p.notna()]
    assert len(tested) == 2 * len(OWN)
    assert ((tested.by == ALL) & (tested.metric != "R2")).all()
    differences = []
    for row in tested.itertuples():
        target = {("reg.a.value", "discriminant"): 0, ("reg.a.value", "ridge"): 1}.get((row.variable, row.probe), 2)
        reader = {"embedding": SITES[0], "untrained": world.untrained(row.site)}.get(row.best_control, row.best_control)
        (correct, clusters), (control, _) = world.correct(row.site, target), world.correct(reader, target)
        differences.append(sums(correct, control, clusters=clusters)[:, 0] @ [1, -1])
    flips = clustered.sign_flip(np.stack(differences, 1), seed=3)
    assert np.allclose(tested.p, flips.p)
    assert np.allclose(tested.p_somewhere, flips.familywise)
    adjusted = len(flips.p) * flips.p / np.searchsorted(np.sort(flips.p), flips.p, side="right")
    assert np.allclose(tested.q, [adjusted[flips.p >= p].min() for p in flips.p])
    assert (tested.p_somewhere >= tested.p).all()
    assert (tested[tested.site == SITES[1]].q < 0.01).all()


# --- what is claimed -------------------------------------------------------------------------------------------------


def test_a_probe_is_held_against_controls_of_its_own_class() -> None:
    """What a network computes from the input keeps nothing from being readable, but from being read."""
    row = cell(
        scores.table(World(noise={SITES[1]: 0.2, "input, nonlinear": 0.1}).measured()),
        SITES[1],
        "reg.a.value",
        "exact match",
    )
    assert (row.readable, row["read"], row.claimed) == (True, False, "readable")
    assert row.beyond_low > 0.2
    assert row.beyond_all < 0
    row = cell(
        scores.table(World(noise={SITES[1]: 0.2, World.untrained(SITES[1]): 0.2}).measured()),
        SITES[1],
        "reg.a.value",
        "exact match",
    )
    assert (row.best_control, row.readable, row["read"], row.claimed) == ("untrained", False, False, "")


@pytest.mark.parametrize("name", ["input, linear", "embedding", "untrained", "input, nonlinear"])
def test_nothing_is_given_where_a_control_still_rises(name: str) -> None:
    """A control of the class keeps it from being readable, any control from being read."""
    reader = {"embedding": SITES[0], "untrained": World.untrained(SITES[1])}.get(name, name)
    world = World(noise={SITES[1]: 0.0, reader: 0.5})
    world.halves[reader] = np.where(np.arange(ROWS)[:, None] % 3 == 0, 77, world.predicted[reader])
    table = scores.table(world.measured())
    row = cell(table, SITES[1], "reg.a.value", "exact match")
    correct, _ = world.correct(reader, 0)
    before = (np.rint(world.halves[reader]) == world.values)[world.mask[:, 0], 0]
    assert row.best_of_all == name
    assert row.rise_of_all == pytest.approx(correct.mean() - before.mean())
    assert row.rise_of_all > scores.MAX_RISE
    assert row.beyond_all_low > 0.3, "by its interval alone it would be read"
    nonlinear = name == "input, nonlinear"
    assert (row.readable, row["read"], row.claimed) == (nonlinear, False, "readable" if nonlinear else "")
    assert not table[["readable", "read"]].eq(True).all(axis=1).any() or nonlinear


def test_a_control_that_would_overtake_the_best_counts_too() -> None:
    world = World(noise={SITES[1]: 0.1, "n-gram": 0.5, "input, linear": 0.6})
    world.halves["input, linear"] = world.values + 55
    row = cell(scores.table(world.measured()), SITES[1], "reg.a.value", "exact match")
    linear, ngram = (world.correct(reader, 0)[0].mean() for reader in ("input, linear", "n-gram"))
    assert row.best_control == "n-gram"
    assert row.rise == pytest.approx(2 * linear - ngram)
    world.halves["n-gram"] = np.full(world.values.shape, np.nan)
    row = cell(scores.table(world.measured()), SITES[1], "reg.a.value", "exact match")
    assert np.isnan(row.rise), "no learning curve of the best"
    assert not row.readable


def test_a_rise_must_leave_the_margin() -> None:
    """Had the control gained twice more what it did, the lower bound must be above the margin still."""
    for low, rise, expected in (
        (0.06, 0.0, True),
        (0.06, 0.006, False),
        (0.26, 0.1, True),
        (0.24, 0.1, False),
        (0.06, -0.3, True),
        (0.9, 0.101, False),
    ):
        assert scores._is_beyond(low, rise) == expected
    assert not scores._is_beyond(0.9, float("nan"))
    assert not scores._is_beyond(float("nan"), 0.0)


def test_networks_are_held_against_networks() -> None:
    noise = {SITES[1]: 0.1, "network": 0.2, "input, nonlinear": 0.4, "untrained network": 0.5, "input, linear": 0.0}
    world = World(noise=noise, network_sites={0: SITES[1]})
    table = scores.table(world.measured())
    (row,) = table[(table.probe == "network") & (table.by == ALL)].itertuples()
    assert (row.site, row.variable, row.probe_class, row.best_control) == (
        SITES[1],
        "reg.a.value",
        "network",
        "input, nonlinear",
    )
    correct, control = (world.correct(reader, 0)[0].mean() for reader in ("network", "input, nonlinear"))
    assert row.beyond == pytest.approx(correct - control)
    assert row.untrained == pytest.approx(world.correct("untrained network", 0)[0].mean())
    assert np.isnan(row.embedding)
    assert row.claimed == "", "claims are made of the linear probe"
    networks = table[table.probe == "network"]
    assert set(networks.by) == {ALL, "family", "live"}
    assert (networks.site == SITES[1]).all()


def test_claims_hold_in_the_whole_map() -> None:
    """Claimed is what is read or readable with bounds that hold in all cells at once; of numbers once."""
    table = scores.table(World(noise={SITES[1]: 0.42, "input, nonlinear": 0.5}).measured())
    claimed = table[table.claimed != ""]
    assert (claimed.readable.eq(True)).all()
    assert claimed[claimed.claimed == "read"]["read"].eq(True).all()
    assert not claimed.as_number.any()
    for _, cells_of_map in table[table.score.notna() & ~table.as_number.astype(bool)].groupby(["by", "offset"]):
        low = clustered.simultaneous(cells_of_map.beyond.to_numpy(), cells_of_map.beyond_low.to_numpy())
        expected = (low > scores.MARGIN) & cells_of_map.readable.eq(True)
        assert ((cells_of_map.claimed != "") == expected).all()
    assert (table.readable.eq(True) & (table.claimed == "") & ~table.as_number.astype(bool)).any(), "some are lost so"


# --- what is lacking -------------------------------------------------------------------------------------------------


def test_a_cell_with_a_problem_has_no_score_and_the_others_have() -> None:
    world = World(problems={0: "constant (4) on the training tokens", 3: "as well", 5: "as well"})
    table = scores.table(world.measured())
    rows = table[table.problem != ""]
    assert list(zip(rows.site, rows.variable, rows.by, rows.problem, strict=True)) == [
        (site, "reg.a.value", ALL, "constant (4) on the training tokens") for site in SITES
    ]
    assert rows[["score", "low", "high", "beyond", "p", "best_control", "read"]].isna().all(axis=None)
    others = table[table.problem == ""]
    assert {"all_true", "reg.a.value"} == set(others.variable)
    assert others.score.notna().all()
    control = World(problems={3: "no control task"})
    row = cell(scores.table(control.measured()), SITES[1], "reg.a.value", "exact match")
    assert np.isnan(row.selectivity)
    assert np.isfinite(row.score)


def test_a_map_of_problems_is_a_table_still() -> None:
    table = scores.table(World(problems=dict.fromkeys(range(3), "nothing to read")).measured())
    assert tuple(table.columns) == scores.COLUMNS
    assert table.problem.tolist() == 6 * ["nothing to read"]
    assert table[["score", "p", "q", "p_somewhere"]].isna().all(axis=None)


def test_a_notebook_shows_few_columns_of_the_rows_over_all_tokens() -> None:
    table = scores.table(World(problems={0: "constant (4)"}).measured())
    brief = table.brief()
    assert list(brief.index) == list(table.index[table.by == ALL])
    assert list(brief.claimed) == list(table.claimed[table.by == ALL])
    assert set(brief.note) >= {"constant (4)"}
    row = table.loc[brief.index[brief.score != ""][0]]
    assert brief.score[row.name] == f"{row.score:.2f} [{row.low:.2f}, {row.high:.2f}]"
    html = table._repr_html_()
    n = len(brief) // len(SITES)
    assert html.count("<tr") == 1 + n, "each variable at one site"
    assert f"<p>{n} of {len(table)} rows, each variable at the site that reads it best on validation programs" in html
    assert f"{len(brief.columns)} of {len(scores.COLUMNS)} columns" in html
    assert type(table[table.by == ALL]) is pd.DataFrame


def test_a_notebook_shows_each_variable_where_it_is_read_best() -> None:
    measured = World().measured()
    for site in SITES:
        validation = {name: np.full(len(TARGETS), float(name == site)) for name in SITES}
        html = scores.table(replace(measured, validation=validation))._repr_html_()
        assert site in html
        assert not any(other in html for other in SITES if other != site)


def test_few_tokens_have_no_score() -> None:
    world = World()
    world.mask[:, 2] = np.arange(ROWS) < 19
    world.groups[:, 0] = np.where(np.arange(ROWS) < 12, 1, 2)
    table = scores.table(world.measured())
    row = cell(table, SITES[0], "all_true", "accuracy")
    assert (row.problem, row.tokens) == ("19 test tokens; a score needs 20", 19)
    assert set(table[table.by == "family"].group) == {"b"}, "groups with fewer are left out"


def test_no_variable_is_broken_down_by_its_own_label() -> None:
    may = cells.may_break_down
    live, depth = Group("live", "dead", "a"), Group("stack depth", "2")
    assert may("reg.a.value", live)
    assert may("stack.0.value", depth)
    assert not may("reg.a.live", live), "all of a group have one label: to say it always is to be right"
    assert not may("reg.a.read_distance", live)
    assert not may("reg.b.value", live)
    assert not may("depth", depth)
    assert not may("depth.parity", depth)
    assert may("depth", Group("family", "register"))


def test_nothing_is_claimed_of_few_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = World(noise={SITES[1]: 0.0}).measured()
    rows = scores.table(measured).query("site == @SITES[1] and variable == 'reg.a.value'")
    assert rows.readable.any()
    assert rows.read.any()
    assert (rows.claimed == "read").any()
    monkeypatch.setattr(clustered, "MIN_CLUSTERS", CLUSTERS + 1)
    table = scores.table(measured)
    assert not table[["readable", "read"]].eq(True).any(axis=None)
    assert (table.claimed == "").all()
    assert scores.gaps(measured).empty


def test_a_users_probe_gives_its_name() -> None:
    measured = World().measured()
    custom = CustomSiteProbes((None,) * len(TARGETS), {2: "RuntimeError: no"}, {}, "Nearest")
    table = scores.table(replace(measured, site_probes=measured.site_probes | {(TRAINED, SITES[1]): custom}))
    assert set(table[table.site == SITES[1]].probe) == {"Nearest"}
    assert cell(table, SITES[1], "all_true", "accuracy").problem == "RuntimeError: no"
    assert np.isfinite(cell(table, SITES[0], "all_true", "accuracy").score)


# --- alternative machines --------------------------------------------------------------------------------------------


def test_gaps_are_differences_of_selectivity() -> None:
    world = World(noise={SITES[1]: 0.1})
    world.predicted[SITES[1]][::2, 4] += 5
    gaps = scores.gaps(world.measured(), seed=2)
    assert gaps.site.tolist() == list(SITES)
    row = gaps.iloc[1]
    assert (row.variable, row.machine, row.metric, row.differing) == ("reg.a.value", "alternative 1", "exact match", 1)
    parts = [world.correct(SITES[1], k) for k in (0, 3, 4, 5)]
    true, control, other, other_control = (correct.astype(float) for correct, _ in parts)
    assert row.score == pytest.approx(true.mean())
    assert row.selectivity == pytest.approx(true.mean() - control.mean())
    assert row.alternative_selectivity == pytest.approx(other.mean() - other_control.mean())
    assert row.gap == pytest.approx(row.selectivity - row.alternative_selectivity)
    totals = sums(true - control - other + other_control, np.ones(len(true)), clusters=parts[0][1])
    interval = clustered.bootstrap_many(totals, lambda t: t[..., 0] / t[..., 1], 2)
    assert (row.gap_low, row.gap_high) == pytest.approx((interval.low[0], interval.high[0]))
    assert row.gap_low > 0.2
    assert gaps.iloc[0].gap_low < 0 < gaps.iloc[0].gap_high


def test_an_identical_machine_has_no_gap() -> None:
    world = World()
    for site in SITES:
        world.predicted[site][:, [4, 5]] = world.predicted[site][:, [0, 3]]
    world.values[:, [4, 5]] = world.values[:, [0, 3]]
    gaps = scores.gaps(world.measured())
    assert (gaps[["gap", "gap_low", "gap_high"]] == 0).all(axis=None)
    assert len(gaps) == 2


def test_machines_that_change_nothing_or_are_not_read_are_left_out() -> None:
    assert scores.gaps(World(differing=0.009).measured()).empty
    assert scores.gaps(World(problems={5: "not read"}).measured()).empty
    unread = World()
    unread.mask[:, 4:] = np.arange(ROWS)[:, None] < 10
    assert scores.gaps(unread.measured()).empty
