"""The table of scores against plain computations on rows: columns, paired intervals, screens, q-values, R² and gaps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import r2_score

from cadmus.statistics import clustered
from probes.data import activations
from probes.data.examples import Target
from probes.measurement import scores
from probes.measurement.measure import TRAINED, UNTRAINED, Measurement
from probes.measurement.tally import ALL, Tally
from probes.solvers.custom import CustomSiteProbes
from probes.solvers.site_probes import SiteProbes

SITES = (scores.EMBEDDING, "blocks.0.hook_resid_post")
OWN = (Target("reg.a.value"), Target("reg.a.value", as_number=True), Target("all_true"))
TARGETS = (
    *OWN,
    *(Target("reg.a.value", permuted=True), Target("reg.a.value", 0, "alternative 1")),
    Target("reg.a.value", 0, "alternative 1", True),
)
GROUPS = ((ALL, ALL), ("family", "a"), ("family", "b"), ("reg.a.live", "live"), ("reg.b.live", "live"))
CLUSTERS, ROWS = 40, 2000


@dataclass
class World:
    """Rows, and what everything reads in them; `measured` tallies it."""

    seed: int = 0
    noise: dict = field(default_factory=dict)  # share of rows read wrongly, by reader
    problems: dict = field(default_factory=dict)
    notes: dict = field(default_factory=dict)
    differing: float = 1.0
    unseen: tuple = ((),) * len(TARGETS)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.values = rng.integers(-9, 10, (ROWS, len(TARGETS)))
        self.values[:, [1, 2]] = np.stack([self.values[:, 0], self.values[:, 2] > 0], 1)
        self.shown = np.repeat(rng.random((ROWS, 1)) < 0.8, len(TARGETS), 1)
        self.clusters = rng.integers(0, CLUSTERS, ROWS)
        self.groups = np.stack([rng.integers(1, 3, ROWS), np.where(rng.random(ROWS) < 0.3, 3, -1)], 1).astype(np.int16)
        self.groups = np.concatenate([self.groups, np.where(self.groups[:, 1:] > 0, 4, -1)], 1).astype(np.int16)
        self.said = {name: self.read(name) for name in (*SITES, *scores.CONTROLS[:5], *map(self.twin, SITES))}

    @staticmethod
    def twin(site: str) -> str:
        return f"untrained {site}"

    def read(self, name: str) -> np.ndarray:
        """The values with some rows wrong, more of them in some clusters; all NaN for noise None."""
        noise, rng = self.noise.get(name, 0.6), np.random.default_rng([self.seed, len(name), ord(name[-1])])
        if noise is None:
            return np.full(self.values.shape, np.nan)
        wrong = rng.random(self.values.shape) < noise * rng.beta(5, 1, CLUSTERS)[self.clusters, None]
        return self.values + np.where(
            wrong, rng.choice([-3, 2], self.values.shape), rng.normal(size=self.values.shape) / 9
        )

    def tally(self, read: np.ndarray, targets: int = len(TARGETS)) -> Tally:
        tally = Tally(CLUSTERS, np.array([0, -1, 1, -1, -1, -1])[:targets], len(GROUPS))
        columns = (part[:, :targets] for part in (read, self.values, self.shown))
        return tally.add(*columns, self.clusters, self.groups)

    def measured(self) -> Measurement:
        readouts = SiteProbes(len(TARGETS), None, np.array([], int), (), self.problems, self.notes)
        own = len(OWN)
        return Measurement(
            targets=TARGETS,
            sites=SITES,
            groups=GROUPS,
            counts=self.tally(self.values),
            moments=tuple(self.tally(np.full(self.values.shape, power)) for power in (0, 1)),
            tallies={
                **{(TRAINED, site): self.tally(self.said[site]) for site in SITES},
                **{(UNTRAINED, site): self.tally(self.said[self.twin(site)], own) for site in SITES},
            },
            baselines={name: self.tally(self.said[name], own) for name in scores.CONTROLS[:5]},
            readouts={(TRAINED, site): readouts for site in SITES}
            | {(UNTRAINED, site): SiteProbes(own, None, np.array([], int), ()) for site in SITES},
            validation=dict.fromkeys(SITES, np.arange(len(TARGETS)) / 10),
            bits=dict.fromkeys(SITES, np.stack([np.arange(len(TARGETS)) / 2, np.arange(len(TARGETS)) + 9.0], 1)),
            outside=np.arange(len(TARGETS)),
            unseen=self.unseen,
            differing=np.full(len(TARGETS), self.differing),
            programs=77,
        )

    def right(self, name: str, target: int, group: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Whether each row is read rightly, and its cluster."""
        rows = self.shown[:, target] & ((self.groups == group).any(1) if group else True)
        return (np.rint(self.said[name]) == self.values)[rows, target], self.clusters[rows]


def sums(*columns: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """By cluster: [clusters, 1, columns]."""
    return np.stack([np.bincount(clusters, column, CLUSTERS) for column in columns], -1)[:, None]


def cell(table: pd.DataFrame, site: str, variable: str, metric: str, by: str = ALL, group: str = ALL) -> pd.Series:
    at = (table.site == site) & (table.variable == variable) & (table.metric == metric) & (table.by == by)
    rows = table[at & (table.group == group) & (table.probe != "ridge" if metric != "R2" else True)]
    assert len(rows) == 1
    return rows.iloc[0]


# --- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("site", "layer"),
    [
        *(("hook_embed", 0), ("hook_pos_embed", 0), ("blocks.0.hook_resid_pre", 0), ("blocks.3.hook_resid_pre", 3)),
        *(("blocks.0.hook_resid_post", 1), ("blocks.11.attn.hook_z", 12), ("blocks.2.hook_resid_mid", 3)),
        *(("ln_final.hook_normalized", -1), ("unembed.hook_out", -1)),
    ],
)
def test_layers_count_the_blocks_at_work(site: str, layer: int) -> None:
    assert activations.layer_of(site) == layer


# --- scores ----------------------------------------------------------------------------------------------------------


def test_scores_and_intervals_are_those_of_the_rows() -> None:
    world = World(noise={SITES[1]: 0.1, "n-gram": 0.5})
    table = scores.table(world.measured())
    assert tuple(table.columns) == scores.COLUMNS
    readers = {**{name: name for name in scores.CONTROLS[:5]}, "embedding": SITES[0], "untrained": world.twin(SITES[1])}
    for variable, target, metric in (("reg.a.value", 0, "exact match"), ("all_true", 2, "accuracy")):
        for group, (by, name) in enumerate(GROUPS):
            if by.startswith("reg.") and not (variable.startswith("reg.a") and by.startswith("reg.a")):
                continue
            row = cell(table, SITES[1], variable, metric, by.removeprefix("reg.a."), name)
            right, clusters = world.right(SITES[1], target, group)
            expected = clustered.accuracy(right, clusters, clusters)
            assert (row.score, row.low, row.high) == pytest.approx((expected.estimate, expected.low, expected.high))
            assert (row.tokens, row.clusters) == (len(right), CLUSTERS)
            held = {shown: world.right(reader, target, group)[0] for shown, reader in readers.items()}
            for shown, control in held.items():
                assert row[shown] == pytest.approx(control.mean()), shown
            assert row.best_control == max(held, key=lambda shown: held[shown].mean())
            control = held[row.best_control]
            paired = clustered.difference_many(sums(right, control, np.ones(len(right)), clusters=clusters))
            assert row.beyond == pytest.approx(right.mean() - control.mean())
            assert (row.beyond_low, row.beyond_high) == pytest.approx((paired.low[0], paired.high[0]))
            assert row.read == (row.beyond_low > 0.05)
    assert table[table.read.eq(True)].site.unique().tolist() == [SITES[1]]


def test_a_paired_interval_is_narrower_than_an_unpaired_one() -> None:
    """The control is wrong in the clusters in which the probe is."""
    world = World(noise={SITES[1]: 0.3})
    world.said["n-gram"] = np.where(np.arange(ROWS)[:, None] % 20 == 0, 77, world.said[SITES[1]])
    row = cell(scores.table(world.measured()), SITES[1], "reg.a.value", "exact match")
    assert row.best_control == "n-gram"
    assert row.beyond_high - row.beyond_low < 0.7 * (row.high - row.low)


def test_r_squared_is_scikit_learns() -> None:
    world = World(noise={SITES[1]: 0.2})
    table = scores.table(world.measured())
    rows = world.shown[:, 1]
    for site, twin in zip(SITES, map(world.twin, SITES), strict=True):
        row = cell(table, site, "reg.a.value", "R2")
        expected = {"score": site, "untrained": twin, "input, linear": "input, linear"}
        expected |= {"embedding": SITES[0]} if site != SITES[0] else {}
        for column, reader in expected.items():
            assert row[column] == pytest.approx(r2_score(world.values[rows, 1], world.said[reader][rows, 1]), abs=1e-6)
        interval = clustered.r_squared(
            world.values[rows, 1],
            world.said[site][rows, 1].astype(np.float32),
            world.clusters[rows],
            world.clusters[rows],
        )
        assert (row.low, row.high) == pytest.approx((interval.low, interval.high), abs=1e-5)
    assert (table[table.metric == "R2"].probe == "ridge").all()
    assert (table[table.metric == "R2"].by == ALL).all()


def test_what_is_known_of_a_cell_stands_beside_it() -> None:
    world = World(notes={0: "mind the gap"}, unseen=((3, 4), *((),) * 5))
    world.said[SITES[1]][world.clusters == 3] = np.nan
    table = scores.table(world.measured())
    row = cell(table, SITES[1], "reg.a.value", "exact match")
    unread = (world.shown[:, 0] & (world.clusters == 3)).sum()
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
    (right, clusters), (control, _) = world.right(SITES[1], 0), world.right(SITES[1], 3)
    paired = clustered.difference_many(sums(right, control, np.ones(len(right)), clusters=clusters))
    assert row.control_task == pytest.approx(control.mean())
    assert (row.selectivity, row.selectivity_low, row.selectivity_high) == pytest.approx(
        (paired.estimate[0], paired.low[0], paired.high[0])
    )
    assert np.isnan(cell(scores.table(world.measured()), SITES[1], "all_true", "accuracy").selectivity)


@pytest.mark.parametrize(
    ("certain", "screen"),
    [
        *(("majority", "constant"), ("by token", "the token shows it"), ("input, linear", "the input determines it")),
        *(("input, nonlinear", "the input determines it"), ("n-gram", ""), ("embedding", ""), ("untrained", "")),
    ],
)
def test_screens_say_what_gives_a_variable_away(certain: str, screen: str) -> None:
    reader = {"embedding": SITES[0], "untrained": World.twin(SITES[1])}.get(certain, certain)
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
    nothing = World(noise=dict.fromkeys((*scores.CONTROLS[:5], SITES[0], *map(World.twin, SITES))))
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
        reader = {"embedding": SITES[0], "untrained": world.twin(row.site)}.get(row.best_control, row.best_control)
        (right, clusters), (control, _) = world.right(row.site, target), world.right(reader, target)
        differences.append(sums(right, control, clusters=clusters)[:, 0] @ [1, -1])
    flips = clustered.sign_flip(np.stack(differences, 1), seed=3)
    assert np.allclose(tested.p, flips.p)
    assert np.allclose(tested.p_somewhere, flips.familywise)
    each = len(flips.p) * flips.p / np.searchsorted(np.sort(flips.p), flips.p, side="right")
    assert np.allclose(tested.q, [each[flips.p >= p].min() for p in flips.p])
    assert (tested.p_somewhere >= tested.p).all()
    assert (tested[tested.site == SITES[1]].q < 0.01).all()


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


def test_few_tokens_have_no_score() -> None:
    world = World()
    world.shown[:, 2] = np.arange(ROWS) < 19
    world.groups[:, 0] = np.where(np.arange(ROWS) < 12, 1, 2)
    table = scores.table(world.measured())
    row = cell(table, SITES[0], "all_true", "accuracy")
    assert (row.problem, row.tokens) == ("19 test tokens; a score needs 20", 19)
    assert set(table[table.by == "family"].group) == {"b"}, "groups with fewer are left out"


def test_no_variable_is_broken_down_by_its_own_label() -> None:
    may = scores._may_break_down
    assert may("reg.a.value", "reg.a.live")
    assert may("stack.0.value", "stack depth")
    assert not may("reg.a.live", "reg.a.live"), "all of a group have one label: to say it always is to be right"
    assert not may("reg.a.read_distance", "reg.a.live")
    assert not may("reg.b.value", "reg.a.live")
    assert not may("depth", "stack depth")
    assert not may("depth.parity", "stack depth")
    assert may("depth", "family")


def test_nothing_is_claimed_of_few_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = World(noise={SITES[1]: 0.0}).measured()
    read = scores.table(measured).query("site == @SITES[1] and variable == 'reg.a.value'").read
    assert read.any()
    monkeypatch.setattr(clustered, "MIN_CLUSTERS", CLUSTERS + 1)
    assert not scores.table(measured).read.eq(True).any()
    assert scores.gaps(measured).empty


def test_a_users_probe_gives_its_name() -> None:
    measured = World().measured()
    custom = CustomSiteProbes((None,) * len(TARGETS), {2: "RuntimeError: no"}, {}, "Nearest")
    table = scores.table(replace(measured, readouts=measured.readouts | {(TRAINED, SITES[1]): custom}))
    assert set(table[table.site == SITES[1]].probe) == {"Nearest"}
    assert cell(table, SITES[1], "all_true", "accuracy").problem == "RuntimeError: no"
    assert np.isfinite(cell(table, SITES[0], "all_true", "accuracy").score)


# --- alternative machines --------------------------------------------------------------------------------------------


def test_gaps_are_differences_of_selectivity() -> None:
    world = World(noise={SITES[1]: 0.1})
    world.said[SITES[1]][::2, 4] += 5
    found = scores.gaps(world.measured(), seed=2)
    assert found.site.tolist() == list(SITES)
    row = found.iloc[1]
    assert (row.variable, row.machine, row.metric, row.differing) == ("reg.a.value", "alternative 1", "exact match", 1)
    parts = [world.right(SITES[1], k) for k in (0, 3, 4, 5)]
    true, control, other, other_control = (right.astype(float) for right, _ in parts)
    assert row.score == pytest.approx(true.mean())
    assert row.selectivity == pytest.approx(true.mean() - control.mean())
    assert row.alternative_selectivity == pytest.approx(other.mean() - other_control.mean())
    assert row.gap == pytest.approx(row.selectivity - row.alternative_selectivity)
    each = sums(true - control - other + other_control, np.ones(len(true)), clusters=parts[0][1])
    interval = clustered.bootstrap_many(each, lambda t: t[..., 0] / t[..., 1], 2)
    assert (row.gap_low, row.gap_high) == pytest.approx((interval.low[0], interval.high[0]))
    assert row.gap_low > 0.2
    assert found.iloc[0].gap_low < 0 < found.iloc[0].gap_high


def test_an_identical_machine_has_no_gap() -> None:
    world = World()
    for site in SITES:
        world.said[site][:, [4, 5]] = world.said[site][:, [0, 3]]
    world.values[:, [4, 5]] = world.values[:, [0, 3]]
    found = scores.gaps(world.measured())
    assert (found[["gap", "gap_low", "gap_high"]] == 0).all(axis=None)
    assert len(found) == 2


def test_machines_that_change_nothing_or_are_not_read_are_left_out() -> None:
    assert scores.gaps(World(differing=0.009).measured()).empty
    assert scores.gaps(World(problems={5: "not read"}).measured()).empty
    unread = World()
    unread.shown[:, 4:] = np.arange(ROWS)[:, None] < 10
    assert scores.gaps(unread.measured()).empty
