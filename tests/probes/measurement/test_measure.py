"""Everything at once on a tiny model: what is planted is read and nothing else, and a bad cell leaves the others be."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge

from cadmus.machine import kernel, tokens, vm
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from cadmus.runtime.progress import no_progress
from probes.controls.input_baselines import Baselines
from probes.controls.untrained import untrained_twin
from probes.data.activations import residual_sites, token_rows
from probes.data.examples import Examples, labelled
from probes.data.folds import FOLDS
from probes.data.targets import Target, Targets
from probes.measurement import plan, scores
from probes.measurement.measure import Measurement, measure
from probes.measurement.plan import TRAINED, UNTRAINED
from probes.measurement.tally import Breakdown, Group
from probes.solvers.bank import Bank
from probes.solvers.custom import CustomSiteProbes
from probes.solvers.moments import Moments
from probes.solvers.rows import BatchLabels
from tests.planted import AFTER, BEFORE, CFG, PRESENT, TARGETS, VARIABLES, Planted, a_variable, examples, measured

# --- planted truth ---------------------------------------------------------------------------------------------------


def test_what_is_planted_is_read_where_it_is_and_nothing_else_is() -> None:
    table = scores.table(measured())
    rows = table[(table.by == "all") & (table.metric != "R2")]
    read = rows[rows.read.eq(True)]
    assert list(zip(read.site, read.variable, read.offset, strict=True)) == [(AFTER, "stack.1.value", 0)]
    (cell,) = read.itertuples()
    assert cell.beyond_low > 0.2
    assert cell.q < 0.05
    assert cell.p_somewhere < 0.01
    assert cell.selectivity_low > 0.1
    assert cell.bits < 0.5 * cell.control_bits
    others = rows.drop(read.index)
    assert (others.beyond_high < scores.MARGIN).all()
    assert (others.q > 0.5).all()


def test_the_tallies_are_what_the_probes_read_token_by_token() -> None:
    measurement, test = measured(), examples().fold("test")
    tested = measurement.tested
    labels, untrained = labelled(test, TARGETS), untrained_twin(Model(CFG), 3)
    for name, model in ((TRAINED, Planted()), (UNTRAINED, untrained)):
        (batch,) = token_rows(model, test.programs, residual_sites(model), where=test.where)
        values, mask = labels.at(batch.programs, batch.positions)
        columns = np.arange(len(TARGETS)) if name == TRAINED else measurement.targets.own
        for site, x in batch.activations.items():
            predicted = measurement.site_probes[name, site].predict(x)
            correct = (np.rint(predicted) == values[:, columns]) & mask[:, columns]
            error = np.where(mask[:, columns], (predicted.astype(float) - values[:, columns]) ** 2, 0)
            tally = tested.tallies[name, site]
            assert np.array_equal(tally.correct.sum(1), correct.sum(0))
            assert np.allclose(tally.squared_error.sum(1), error.sum(0))
    assert np.array_equal(tested.counts.correct.sum(1), mask.sum(0))
    for moment, tally in zip((values, values - 1), tested.moments, strict=True):
        assert np.array_equal(tally.squared_error.sum(1), (np.where(mask, moment, 0).astype(float) ** 2).sum(0))
    skeletons = np.unique(test.skeletons, return_inverse=True)[1]
    assert tested.counts.correct.shape == (len(TARGETS), skeletons.max() + 1)
    assert tested.n_programs == len(test)
    assert repr(measurement) == f"Measurement({len(TARGETS)} targets, 2 sites, {len(test)} programs)"


def test_a_pass_per_group_of_sites_measures_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = quick(TARGETS, residual_sites(Planted()), Planted(), examples())
    monkeypatch.setattr(plan, "MAX_BANK_BYTES", 0)
    whole = plan.Plan({TRAINED: Planted()}, examples(), Targets(TARGETS), (BEFORE, AFTER), {}, 0, no_progress)
    assert plan.site_groups(whole) == [(BEFORE,), (AFTER,)]
    progress: dict[str, list[float]] = {}
    measurement = quick(
        TARGETS,
        residual_sites(Planted()),
        Planted(),
        examples(),
        progress=lambda stage, fraction, note: progress.setdefault(stage, []).append(fraction),
    )
    for fractions in progress.values():  # of all groups together
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1
    for key, tally in expected.tested.tallies.items():
        assert np.array_equal(measurement.tested.tallies[key].correct, tally.correct)


def test_probes_are_fitted_on_training_programs_and_chosen_on_validation_programs() -> None:
    model, k = Planted(), TARGETS.index(Target("stack.0.value", regression=True))
    parts = {}
    for fold in ("train", "validation"):
        part = examples().fold(fold)
        (batch,) = token_rows(model, part.programs, [BEFORE], where=part.where)
        values, mask = labelled(part, TARGETS[k : k + 1]).at(batch.programs, batch.positions)
        parts[fold] = batch.activations[BEFORE][mask[:, 0]].astype(float), values[mask[:, 0], 0]
    probes = measured().site_probes[TRAINED, BEFORE]
    peer = Ridge(probes.penalty(k)).fit(*parts["train"])
    x, y = parts["validation"]
    assert np.allclose(probes.predict(x.astype(np.float32))[:, k], peer.predict(x), atol=1e-3)
    share = (np.rint(probes.predict(x.astype(np.float32))[:, k]) == y).mean()
    assert measured().validation[BEFORE][k] == pytest.approx(share)


def test_groups_are_counted_for_the_targets_that_are_broken_down() -> None:
    tested, test = measured().tested, examples().fold("test")
    _, mask = labelled(test, TARGETS).of(0)
    for k, group in enumerate(tested.groups):
        if group.breakdown == "family":
            inside = test.family == test.families.index(group.name)
            assert tested.counts.of(TARGETS[0], k).sum() == mask[inside].sum()
    assert Group("family", "register") in tested.groups
    assert Group("live", "dead", "a") in tested.groups


def test_results_are_shown_in_one_line() -> None:
    measurement, part = measured(), examples()
    labels = labelled(part, TARGETS)
    rows = BatchLabels.at(labels, *np.nonzero(part.where))
    results = {
        "Examples(": part,
        f"Labelled({len(rows):,} tokens, 12 targets)": labels,
        "BatchLabels(": rows,
        "Bank(7 features, 12 targets, ": Bank.of(rows, 7),
        "Moments(3 rows, 2 features, 1 outputs)": Moments.of(np.eye(3, 2), np.ones((3, 1))),
        "Baselines(7 targets)": Baselines(labels.targets),
        "SiteProbes(": measurement.site_probes[TRAINED, AFTER],
        "CustomSiteProbes(Mine: 1 of 2 targets fitted)": CustomSiteProbes((None, 1), {}, {}, "Mine"),
        "TestCounts(": measurement.tested,
        "Tally(12 targets, ": measurement.tested.counts,
        "Breakdown(1 groups by all)": Breakdown.none((2, 3)),
        "Measurement(12 targets, 2 sites, ": measurement,
    }
    for begin, result in results.items():
        assert repr(result).startswith(begin), repr(result)
        assert len(repr(result)) < 120, begin
        assert "\n" not in repr(result), begin


# --- arguments -------------------------------------------------------------------------------------------------------


@cache
def small() -> Examples:
    return examples()[:160]


def quick(
    targets, sites=(BEFORE,), model: Model | None = None, part: Examples | None = None, **arguments
) -> Measurement:
    model = Model(CFG).eval() if model is None else model
    return measure(model, small() if part is None else part, targets, sites, **{"controls": False, **arguments})


def test_progress_tells_every_stage() -> None:
    reports = []
    quick([Target("depth")], [BEFORE, AFTER], progress=lambda stage, fraction, note: reports.append((stage, fraction)))
    stages = list(dict.fromkeys(stage for stage, _ in reports))
    assert stages == ["gather activations", "fit probes", "read validation programs", "read test programs"]
    for stage in stages:
        fractions = [fraction for name, fraction in reports if name == stage]
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1


@pytest.mark.parametrize("bank_bytes", [6e9, 0])
def test_what_is_kept_of_the_banks_is_given_back(bank_bytes: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every site and model, in however many passes; the untrained model's banks are of the machine's own targets."""
    monkeypatch.setattr(plan, "MAX_BANK_BYTES", bank_bytes)

    def keep(site: str, model: str, train: Bank, validation: Bank) -> tuple:
        return site, model, train.rows(0), validation.rows(0), len(train.counts)

    targets = [Target("depth"), Target("depth", permuted=True)]
    measurement = quick(targets, [BEFORE, AFTER], untrained=untrained_twin(Model(CFG), 1), keep=keep)
    n_train, n_validation = (int(small().fold(fold).where.sum()) for fold in FOLDS[:2])
    assert measurement.kept_values == {
        (model, site): (site, model, n_train, n_validation, 2 if model == TRAINED else 1)
        for model in (TRAINED, UNTRAINED)
        for site in (AFTER, BEFORE)
    }
    assert quick(targets).kept_values == {}


def test_parts_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = [Target("stack.0.value"), Target("depth", 1), Target("stack.0.value", regression=True)]
    whole = quick(targets)
    monkeypatch.setattr("probes.data.examples._CHUNK", 17)
    parts = quick(targets)
    assert np.array_equal(parts.tested.counts.correct, whole.tested.counts.correct)
    assert np.array_equal(parts.outside, whole.outside)
    difference = abs(parts.tested.tallies[TRAINED, BEFORE].correct - whole.tested.tallies[TRAINED, BEFORE].correct)
    assert difference.sum() <= 0.01 * whole.tested.counts.correct.sum()


def test_labels_of_another_machine_that_differ_are_counted() -> None:
    machines = {"same": vm.Semantics({}), "other": vm.Semantics({"+": "-", "-": "+"})}
    targets = [Target("stack.0.value", 0, name) for name in ("true", *machines)] + [Target("depth", 0, "other")]
    tested = quick(targets, machines=machines).tested
    test = small().fold("test")
    (values, mask), (moved, moved_mask) = (labelled(test, targets, machines).of(k) for k in (0, 2))
    expected = (moved_mask & ((values != moved) | ~mask)).sum() / moved_mask.sum()
    assert tested.differing.tolist() == pytest.approx([0, 0, expected, 0])
    assert expected > 0.05
    correct = tested.tallies[TRAINED, BEFORE].correct
    assert np.array_equal(correct[0], correct[1])


def test_without_controls_there_are_none_to_score_against() -> None:
    measurement = quick([Target("depth")])
    assert (measurement.tested.baselines, measurement.bits) == ({}, {})
    with pytest.raises(ValueError, match="there are no controls to hold scores against; measure with controls=True"):
        scores.table(measurement)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match=r"site 'blocks\.3\.hook_resid_post' does not exist"):
        quick([Target("depth")], [BEFORE, "blocks.3.hook_resid_post"])
    with pytest.raises(ValueError, match="unknown variable 'depht'"):
        quick([Target("depht")])
    with pytest.raises(ValueError, match="keep= is given the banks of our own probes"):
        quick([Target("depth")], probe=Ridge(), keep=lambda *_: None)
    other = Model(replace(CFG, n_layers=CFG.n_layers + 1))
    with pytest.raises(ValueError, match=f"untrained has n_layers = {CFG.n_layers + 1}, the model {CFG.n_layers}; its"):
        quick(["depth"], [BEFORE], untrained=other)
    with pytest.raises(ValueError, match="no target is given; name a variable or more"):
        quick([])
    with pytest.raises(ValueError, match=r"'all_true'.* is none of the 1 targets"):
        quick([Target("depth")], broken_down=[Target("all_true")])
    blind = replace(small(), where=small().where & (small().folds != FOLDS.index("test"))[:, None])
    with pytest.raises(ValueError, match=r"the \d+ test programs have no token to probe; give more programs"):
        quick([Target("depth")], part=blind)


@pytest.mark.parametrize("fold", ["validation", "test"])
def test_a_skeleton_in_two_folds_is_an_error(fold: str) -> None:
    folds = small().folds.copy()
    skeletons, counts = np.unique(small().skeletons, return_counts=True)
    twice = np.flatnonzero(small().skeletons == skeletons[counts.argmax()])
    folds[twice] = FOLDS.index("train")
    folds[twice[0]] = FOLDS.index(fold)
    with pytest.raises(ValueError, match=r"1 of \d+ test skeletons are in the training data too"):
        quick([Target("depth")], part=replace(small(), folds=folds))


# --- bad input -------------------------------------------------------------------------------------------------------


def column(traces: kernel.Traces) -> np.ndarray:
    return np.broadcast_to(np.arange(traces.depth.shape[1]), traces.depth.shape)


constant = a_variable(lambda traces: np.full(traces.depth.shape, 3))
few = a_variable(lambda traces: traces.depth, lambda traces: column(traces) < 2)
never = a_variable(lambda traces: traces.depth, False)
BAD = tuple(map(Target, ("depth", "stack.0.value", constant, few, never)))
NAMES = ("depth", "stack.0.value", "constant", "few", "never")
SEVEN = tokens.encode(["7"])[0, 0]


def named(table: pd.DataFrame) -> pd.DataFrame:
    """The cells of all tokens by site and variable; those of the functions by what they are called here."""
    rows = table[(table.by == "all") & (table.metric != "R2")]
    return rows.assign(variable=[*NAMES] * rows.site.nunique()).set_index(["site", "variable"])


@cache
def bad() -> Measurement:
    """What is measured of a model whose second site is NaN everywhere, the first where the token is a 7."""
    model = Model(CFG).eval()
    with torch.no_grad():
        model.embed.W_E[SEVEN] = torch.nan
        model.blocks[0].mlp.b_out[0] = torch.nan
    return measure(model, examples(), BAD, [BEFORE, AFTER], untrained=untrained_twin(model, 2))


def sevens(*folds: str) -> int:
    part = examples().fold(*folds)
    return int((part.where & (part.sequences == SEVEN)).sum())


def test_each_bad_cell_is_named_and_the_others_are_measured() -> None:
    table = named(scores.table(bad()))
    assert table.problem[BEFORE].to_dict() == {
        **dict.fromkeys(("depth", "stack.0.value", "few"), ""),
        "constant": "constant (3) on the training tokens",
        "never": "0 training and 0 validation tokens; a probe needs 50 of each "
        f"({sevens('train', 'validation')} tokens left out: activations not finite)",
    }
    for name in ("depth", "stack.0.value", "few"):
        assert table.score[BEFORE][name] > 0.2
        assert np.isfinite(table.beyond[BEFORE][name])
        assert np.isfinite(table.p[BEFORE][name])
    assert table.score[BEFORE][["constant", "never"]].isna().all()


def test_activations_that_are_not_finite_are_reported() -> None:
    table = named(scores.table(bad()))
    note = (
        f"{sevens('train')} training tokens left out: activations not finite; nothing is read at {sevens('test')} test"
    )
    assert table.note[BEFORE]["depth"].startswith(note)
    n = examples().fold("train", "validation").where.sum()
    for problem in table.problem[AFTER]:
        assert problem.startswith(
            f"0 training and 0 validation tokens; a probe needs 50 of each ({n} tokens left out: activations not"
        )
    assert (table.untrained[BEFORE][["depth", "stack.0.value"]] > 0.2).all(), "the twin has no NaN"
    assert np.isfinite(bad().bits[BEFORE][0]).all()
    assert np.isnan(bad().bits[AFTER]).all()


def test_a_value_that_training_has_once_is_reported() -> None:
    part = examples().fold("train")
    values, mask = labelled(part, BAD).of(1)
    values, counts = np.unique(values[mask & (part.sequences != SEVEN)], return_counts=True)
    assert 1 in counts
    rare = values[counts < 5].tolist()
    assert f"values too rare in training to be told: {rare}" in named(scores.table(bad())).note[BEFORE]["stack.0.value"]


def test_fewer_tokens_than_dimensions_are_reported() -> None:
    site = "blocks.0.mlp.hook_post"
    measurement = quick(BAD, [site], Model(ModelConfig(**asdict(CFG) | {"d_mlp": 800})).eval(), examples())
    n = int(measurement.tested.counts.correct[3].sum())
    assert n > 20
    train = labelled(examples().fold("train"), BAD).of(3)[1].sum()
    assert measurement.site_probes[TRAINED, site].notes[3] == f"{train} training tokens for 800 dimensions"
    assert 0 not in measurement.site_probes[TRAINED, site].notes
    assert measurement.tested.tallies[TRAINED, site].correct[3].sum() > 0.3 * n


def test_values_that_training_lacks_are_reported() -> None:
    values_of = {}
    for fold in ("train", "test"):
        values, mask = labelled(examples().fold(fold), TARGETS).of(VARIABLES.index("stack.1.value"))
        values_of[fold] = set(values[mask].tolist())
    unseen = sorted(values_of["test"] - values_of["train"])
    assert unseen
    assert list(measured().unseen[1]) == unseen
    table = scores.table(measured())
    notes = table[(table.variable == "stack.1.value") & (table.by == "all")].note
    assert notes.str.contains(f"test values that training lacks: {unseen}", regex=False).all()
    assert not table[table.variable == "depth"].note.str.contains("training lacks").any()


# --- a user's probe --------------------------------------------------------------------------------------------------


class Awkward:
    """Least squares, but raises for labels with negative values; in predict only from the third call on."""

    def __init__(self, later: bool = False):
        self.later, self.calls = later, 0

    def fit(self, x: np.ndarray, y: np.ndarray) -> None:
        self.refused = (y < 0).any()
        if self.refused and not self.later:
            raise RuntimeError("negative numbers")
        self.ridge = Ridge(1.0).fit(x, y)

    def predict(self, x: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.refused and self.calls > 2:
            raise RuntimeError("negative numbers")
        return self.ridge.predict(x)


@pytest.mark.parametrize("later", [False, True])
def test_a_users_probe_is_run_in_place_of_ours(later: bool) -> None:
    targets = (*PRESENT[:3], Target("depth", permuted=True))
    model = Planted()
    untrained = untrained_twin(model, 2)
    measurement = measure(model, small(), targets, [BEFORE, AFTER], untrained=untrained, probe=Awkward(later))
    assert measurement.kept_values == {}
    table = scores.table(measurement).set_index(["site", "variable"])
    assert set(table.probe) == {"Awkward"}
    for site in (BEFORE, AFTER):
        assert table.problem[site].tolist() == ["RuntimeError: negative numbers", "RuntimeError: negative numbers", ""]
    rows, part = labelled(small().fold("train"), targets[2:3]), small().fold("train")
    (batch,) = token_rows(model, part.programs, [AFTER], where=part.where)
    peer = Ridge(1.0).fit(batch.activations[AFTER], rows.at(batch.programs, batch.positions)[0][:, 0])
    test = small().fold("test")
    (batch,) = token_rows(model, test.programs, [AFTER], where=test.where)
    values = labelled(test, targets).at(batch.programs, batch.positions)[0][:, 2]
    assert table.score[AFTER]["depth"] == pytest.approx(
        (np.rint(peer.predict(batch.activations[AFTER])) == values).mean(), abs=0.01
    )
    assert np.isfinite(table.untrained[AFTER]["depth"])
    assert np.isfinite(table.selectivity[AFTER]["depth"])
