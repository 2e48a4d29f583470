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
from cadmus.models.model import Model, ModelConfig
from probes.controls.untrained import untrained_twin
from probes.data.activations import residual_sites, token_rows
from probes.data.examples import Examples, Target, labelled
from probes.data.folds import FOLDS
from probes.measurement import passes, scores
from probes.measurement.measure import TRAINED, UNTRAINED, Measurement, measure
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
    found, test = measured(), examples().fold("test")
    labels, twin = labelled(test, TARGETS), untrained_twin(Model(CFG), 3)
    for name, model in ((TRAINED, Planted()), (UNTRAINED, twin)):
        (batch,) = token_rows(model, test.programs, residual_sites(model), where=test.where)
        values, defined = labels.at(batch.programs, batch.positions)
        chosen = np.arange(len(TARGETS)) if name == TRAINED else np.array(found.own)
        shown = defined[:, labels.mask_of[chosen]]
        for site, x in batch.activations.items():
            read = found.readouts[name, site].predict(x)
            right = (np.rint(read) == values[:, chosen]) & shown
            error = np.where(shown, (read.astype(float) - values[:, chosen]) ** 2, 0)
            tally = found.tallies[name, site]
            assert np.array_equal(tally.right_all.sum(1), right.sum(0))
            assert np.allclose(tally.error_all.sum(1), error.sum(0))
    shown = defined[:, labels.mask_of]
    assert np.array_equal(found.counts.right_all.sum(1), shown.sum(0))
    for moment, tally in zip((values, values - 1), found.moments, strict=True):
        assert np.array_equal(tally.error_all.sum(1), (np.where(shown, moment, 0).astype(float) ** 2).sum(0))
    skeletons = np.unique(test.skeletons, return_inverse=True)[1]
    assert found.counts.right_all.shape == (len(TARGETS), skeletons.max() + 1)
    assert found.programs == len(test)


def test_a_pass_per_group_of_sites_measures_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = quick(TARGETS, residual_sites(Planted()), Planted(), examples())
    monkeypatch.setattr(passes, "BANK_BYTES", 0)
    task = passes.Plan(
        {TRAINED: Planted()}, examples(), tuple(TARGETS), (BEFORE, AFTER), {}, 0, lambda stage, share: None
    )
    assert passes.site_groups(task) == [(BEFORE,), (AFTER,)]
    told: dict[str, list[float]] = {}
    found = quick(
        *(TARGETS, residual_sites(Planted()), Planted(), examples()),
        progress=lambda stage, share: told.setdefault(stage, []).append(share),
    )
    for shares in told.values():  # of all groups together
        assert shares == sorted(shares)
        assert shares[-1] == 1
    for key, tally in expected.tallies.items():
        assert np.array_equal(found.tallies[key].right_all, tally.right_all)


def test_probes_are_fitted_on_training_programs_and_chosen_on_validation_programs() -> None:
    model, k = Planted(), TARGETS.index(Target("stack.0.value", as_number=True))
    parts = {}
    for fold in ("train", "validation"):
        part = examples().fold(fold)
        (batch,) = token_rows(model, part.programs, [BEFORE], where=part.where)
        values, defined = labelled(part, TARGETS[k : k + 1]).at(batch.programs, batch.positions)
        parts[fold] = batch.activations[BEFORE][defined[:, 0]].astype(float), values[defined[:, 0], 0]
    found = measured().readouts[TRAINED, BEFORE]
    peer = Ridge(found.penalty(k)).fit(*parts["train"])
    x, y = parts["validation"]
    assert np.allclose(found.predict(x.astype(np.float32))[:, k], peer.predict(x), atol=1e-3)
    share = (np.rint(found.predict(x.astype(np.float32))[:, k]) == y).mean()
    assert measured().validation[BEFORE][k] == pytest.approx(share)


def test_groups_are_tallied_for_the_detailed_targets() -> None:
    found, test = measured(), examples().fold("test")
    read = labelled(test, TARGETS)
    for group, (by, name) in enumerate(found.groups):
        if by == "family":
            _, defined = read.of(0)
            inside = test.family == test.families.index(name)
            assert found.counts.of(0, group).sum() == defined[inside].sum()
    assert ("family", "register") in found.groups
    assert ("reg.a.live", "dead") in found.groups


# --- arguments -------------------------------------------------------------------------------------------------------


@cache
def small() -> Examples:
    return examples()[:160]


def quick(
    targets, sites=(BEFORE,), model: Model | None = None, part: Examples | None = None, **arguments
) -> Measurement:
    model = Model(CFG).eval() if model is None else model
    return measure(model, small() if part is None else part, targets, sites, **{"controls": False, **arguments})


def test_progress_and_inspection_see_every_site() -> None:
    told, shown = [], []
    quick(
        [Target("depth")],
        [BEFORE, AFTER],
        twin=untrained_twin(Model(CFG), 1),
        inspect=lambda name, site, train, validation: shown.append((name, site, train.rows(0), validation.rows(0))),
        progress=lambda stage, share: told.append((stage, share)),
    )
    tokens_of = [int(small().fold(fold).where.sum()) for fold in FOLDS[:2]]
    assert sorted(shown) == sorted(
        (name, site, *tokens_of) for name in (TRAINED, UNTRAINED) for site in (AFTER, BEFORE)
    )
    stages = list(dict.fromkeys(stage for stage, _ in told))
    assert stages == ["gather activations", "fit probes", "read validation programs", "read test programs"]
    for stage in stages:
        shares = [share for name, share in told if name == stage]
        assert shares == sorted(shares)
        assert shares[-1] == 1


def test_parts_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = [Target("stack.0.value"), Target("depth", 1), Target("stack.0.value", as_number=True)]
    whole = quick(targets)
    monkeypatch.setattr("probes.data.examples._CHUNK", 17)
    parts = quick(targets)
    assert np.array_equal(parts.counts.right_all, whole.counts.right_all)
    assert np.array_equal(parts.outside, whole.outside)
    difference = abs(parts.tallies[TRAINED, BEFORE].right_all - whole.tallies[TRAINED, BEFORE].right_all)
    assert difference.sum() <= 0.01 * whole.counts.right_all.sum()


def test_labels_of_another_machine_that_differ_are_counted() -> None:
    machines = {"same": vm.Semantics({}), "other": vm.Semantics({"+": "-", "-": "+"})}
    targets = [Target("stack.0.value", 0, name) for name in ("true", *machines)] + [Target("depth", 0, "other")]
    found = quick(targets, machines=machines)
    test = small().fold("test")
    (values, defined), (moved, where) = (labelled(test, targets, machines).of(k) for k in (0, 2))
    expected = (where & ((values != moved) | ~defined)).sum() / where.sum()
    assert found.differing.tolist() == pytest.approx([0, 0, expected, 0])
    assert expected > 0.05
    tally = found.tallies[TRAINED, BEFORE].right_all
    assert np.array_equal(tally[0], tally[1])


def test_without_controls_there_are_none_to_score_against() -> None:
    found = quick([Target("depth")])
    assert (found.baselines, found.bits) == ({}, {})
    with pytest.raises(ValueError, match="there are no controls to hold scores against; measure with controls=True"):
        scores.table(found)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match=r"site 'blocks\.3\.hook_resid_post' does not exist"):
        quick([Target("depth")], [BEFORE, "blocks.3.hook_resid_post"])
    with pytest.raises(ValueError, match="unknown variable 'depht'"):
        quick([Target("depht")])
    with pytest.raises(ValueError, match="no target is given; name a variable or more"):
        quick([])
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
    """Of a model whose second site is NaN everywhere, the first where the token is a 7."""
    model = Model(CFG).eval()
    with torch.no_grad():
        model.embed.W_E[SEVEN] = torch.nan
        model.blocks[0].mlp.b_out[0] = torch.nan
    return measure(model, examples(), BAD, [BEFORE, AFTER], twin=untrained_twin(model, 2))


def sevens(*folds: str) -> int:
    part = examples().fold(*folds)
    return int((part.where & (part.sequences == SEVEN)).sum())


def test_each_bad_cell_is_named_and_the_others_are_kept() -> None:
    found = named(scores.table(bad()))
    assert found.problem[BEFORE].to_dict() == {
        **dict.fromkeys(("depth", "stack.0.value", "few"), ""),
        "constant": "constant (3) on the training tokens",
        "never": "0 training and 0 validation tokens; a probe needs 50 of each "
        f"({sevens('train', 'validation')} tokens left out: activations not finite)",
    }
    for name in ("depth", "stack.0.value", "few"):
        assert found.score[BEFORE][name] > 0.2
        assert np.isfinite(found.beyond[BEFORE][name])
        assert np.isfinite(found.p[BEFORE][name])
    assert found.score[BEFORE][["constant", "never"]].isna().all()


def test_activations_that_are_not_finite_are_told() -> None:
    found = named(scores.table(bad()))
    note = (
        f"{sevens('train')} training tokens left out: activations not finite; nothing is read at {sevens('test')} test"
    )
    assert found.note[BEFORE]["depth"].startswith(note)
    every = examples().fold("train", "validation").where.sum()
    for problem in found.problem[AFTER]:
        told = f"0 training and 0 validation tokens; a probe needs 50 of each ({every} tokens left out: activations not"
        assert problem.startswith(told)
    assert (found.untrained[BEFORE][["depth", "stack.0.value"]] > 0.2).all(), "the twin has no NaN"
    assert np.isfinite(bad().bits[BEFORE][0]).all()
    assert np.isnan(bad().bits[AFTER]).all()


def test_a_value_that_training_has_once_is_told() -> None:
    part = examples().fold("train")
    values, defined = labelled(part, BAD).of(1)
    values, counts = np.unique(values[defined & (part.sequences != SEVEN)], return_counts=True)
    assert 1 in counts
    rare = values[counts < 5].tolist()
    assert f"values too rare in training to be told: {rare}" in named(scores.table(bad())).note[BEFORE]["stack.0.value"]


def test_fewer_tokens_than_dimensions_are_told() -> None:
    site = "blocks.0.mlp.hook_post"
    found = quick(BAD, [site], Model(ModelConfig(**asdict(CFG) | {"d_mlp": 800})).eval(), examples())
    n = int(found.counts.right_all[3].sum())
    assert n > 20
    train = labelled(examples().fold("train"), BAD).of(3)[1].sum()
    assert found.readouts[TRAINED, site].notes[3] == f"{train} training tokens for 800 dimensions"
    assert 0 not in found.readouts[TRAINED, site].notes
    assert found.tallies[TRAINED, site].right_all[3].sum() > 0.3 * n


def test_values_that_training_lacks_are_told() -> None:
    taken = {}
    for fold in ("train", "test"):
        values, defined = labelled(examples().fold(fold), TARGETS).of(VARIABLES.index("stack.1.value"))
        taken[fold] = set(values[defined].tolist())
    unseen = sorted(taken["test"] - taken["train"])
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
    found = measure(model, small(), targets, [BEFORE, AFTER], twin=untrained_twin(model, 2), probe=Awkward(later))
    table = scores.table(found).set_index(["site", "variable"])
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
