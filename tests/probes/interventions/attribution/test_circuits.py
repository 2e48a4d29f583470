"""Circuits: what nothing, everything and all but one edge give, planted circuits, and areas under known curves."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from analyses.studies.calibration import planted
from cadmus.models import lens
from cadmus.models.model import Model
from probes.interventions.attribution.circuits import SIZES, faithfulness, run_circuits
from probes.interventions.attribution.edges import Graph, attribute_edges
from probes.interventions.attribution.nodes import attribute
from probes.interventions.attribution.relevance import patch_edges
from probes.interventions.attribution.scores import Scores
from probes.interventions.editing import changes, engine
from probes.interventions.editing.edits import Edit
from tests.probes.interventions.attribution.contrast_rows import contrast, planted_contrast
from tests.probes.interventions.editing.models import MODEL, MODELS
from tests.probes.interventions.editing.test_backends import TRANSFORMER_LENS

CONTRAST = contrast()
hooked = pytest.mark.skipif(TRANSFORMER_LENS >= 4, reason="transformer-lens 4 has no HookedTransformer")


def metric_of(model, sequences):
    logits = engine.logits(model, sequences, [[]], CONTRAST.at)[0]
    return CONTRAST.metric()(logits).double().numpy()


# --- what a circuit runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", MODELS)
def test_edges_of_everything_nothing_and_all_but_one(positions):
    model = MODELS[positions]
    cells = Graph.of(model).table().assign(position="all")
    n = len(cells)
    own = cells.index[cells.sender != "input"][::17]
    circuits = [np.ones(n, bool), np.zeros(n, bool), *(np.arange(n) != cell for cell in own)]
    values = run_circuits(model, CONTRAST, cells, circuits, "logit_difference")
    np.testing.assert_allclose(values[0], metric_of(model, CONTRAST.base), atol=1e-4)
    np.testing.assert_allclose(values[1], metric_of(model, CONTRAST.source), atol=1e-4)
    exact = patch_edges(model, CONTRAST)
    place = pd.Series(range(len(exact.cells)), index=pd.MultiIndex.from_frame(exact.cells[["sender", "receiver"]]))
    rows = [place[cells.sender[cell], cells.receiver[cell]] for cell in own]
    np.testing.assert_allclose(values[2:] - values[0], exact.values[rows], atol=1e-4)


@pytest.mark.parametrize("positions", ["all", "each"])
def test_nodes_outside_are_the_sources(positions):
    cells = attribute(MODEL, CONTRAST, ["z", "mlp_out"], positions).cells
    one = ((cells.component == "z") & (cells.layer == 1) & (cells["head"] == 2)).to_numpy()
    if positions == "each":
        one = one & (cells.position == 4).to_numpy()
    values = run_circuits(MODEL, CONTRAST, cells, [np.ones(len(cells), bool), ~one, 0 * one > 0], "logit_difference")
    np.testing.assert_allclose(values[0], metric_of(MODEL, CONTRAST.base), atol=1e-5)
    site = "blocks.1.attn.hook_z"
    source = engine.activations(MODEL, CONTRAST.source, [site])[site][:, :, [2]]
    edit = Edit(site, None, changes.patch(source), [2])
    if positions == "each":
        edit = Edit(site, 4, changes.patch(source[:, 4]), [2])
    logits = engine.run(MODEL, CONTRAST.base, [edit], CONTRAST.at).logits[0]
    np.testing.assert_allclose(values[1], CONTRAST.metric()(logits).numpy(), atol=1e-5)
    sites = [f"blocks.{i}.{name}" for i in range(3) for name in ("attn.hook_z", "hook_mlp_out")]
    read = engine.activations(MODEL, CONTRAST.source, sites)
    arm = [Edit(site, None, changes.patch(read[site])) for site in sites]
    logits = engine.run(MODEL, CONTRAST.base, [arm], CONTRAST.at).logits[0]
    np.testing.assert_allclose(values[2], CONTRAST.metric()(logits).numpy(), atol=1e-5)


@hooked
def test_backends_agree():
    model = lens.to_hooked_transformer(MODEL)
    rng = np.random.default_rng(0)
    for cells in (Graph.of(MODEL).table().assign(position="all"), attribute(MODEL, CONTRAST, "z", "each").cells):
        circuits = list(rng.random((3, len(cells))) < 0.5)
        ours, theirs = (run_circuits(m, CONTRAST, cells, circuits, "probability") for m in (MODEL, model))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


# --- planted circuits ------------------------------------------------------------------------------------------------


@hooked
@pytest.mark.parametrize("condition", ["rotated", "decoys"])
def test_a_planted_circuit_of_heads_comes_first(condition):
    model = planted.plant("lookup", condition, 0)
    rows = planted_contrast(model, 40)
    truth = {(layer, head) for layer, head, _, _ in model.edges}
    for method in ("gradient", "inputs"):
        scores = attribute(model.model, rows, ["z", "mlp_out"], "all", method=method, steps=4)
        is_planted = [(c.layer, c.head) in truth and c.component == "z" for c in scores.cells.itertuples()]
        assert roc_auc_score(is_planted, scores.totals) == 1
        result = faithfulness(model.model, rows, scores, random=3)
        areas = result.areas.set_index(["circuit", "order"])
        assert areas.loc[("attribution", "signed"), "cpr"] > 0.93
        assert areas.loc[("attribution", "magnitude"), "cmd"] < 0.07
        assert areas.loc[("random", "random"), "cpr"] < 0.7
        curve = result.curve[result.curve.circuit == "attribution"]
        assert (abs(curve.value[curve.components >= len(truth)] - 1) < 0.02).all()
        assert (curve.low <= curve.value).all()
        assert (curve.value <= curve.high).all()


@hooked
def test_a_planted_circuit_of_edges_comes_first():
    model = planted.plant("lookup", "rotated", 1)
    rows = planted_contrast(model, 40)
    (first, a), (second, b) = sorted((layer, head) for layer, head, _, _ in model.edges)
    truth = {("input", f"{first}.{a}.v"), (f"{first}.{a}", f"{second}.{b}.v"), (f"{second}.{b}", "logits")}
    scores = attribute_edges(model.model, rows)
    is_planted = np.array([(c.sender, c.receiver) in truth for c in scores.cells.itertuples()])
    assert is_planted.sum() == 3
    assert roc_auc_score(is_planted, scores.totals) == 1
    none, whole, circuit = run_circuits(
        model.model, rows, scores.cells, [0 * is_planted > 0, is_planted | True, is_planted], "logit_difference"
    ).mean(1)
    assert (circuit - none) / (whole - none) == pytest.approx(1, abs=0.02)
    result = faithfulness(model.model, rows, scores, sizes=[3 / len(is_planted), 0.1, 1], orders=["signed"], random=2)
    assert result.curve.value.iloc[0] == pytest.approx(1, abs=0.02)
    assert result.curve.components.tolist() == [3, np.ceil(0.1 * len(is_planted)), len(is_planted)] * 2


# --- figures ---------------------------------------------------------------------------------------------------------


def test_areas_are_those_under_the_curve():
    scores = attribute(MODEL, CONTRAST, ["z", "mlp_out"], "all")
    twin = Model(MODEL.cfg, seed=5)
    own = attribute(twin, CONTRAST, ["z", "mlp_out"], "all")
    result = faithfulness(MODEL, CONTRAST, scores, untrained=(twin, own), random=2)
    assert set(result.areas.circuit) == {"attribution", "random", "untrained"}
    for row in result.areas[result.areas.circuit != "random"].itertuples():
        curve = result.curve[(result.curve.circuit == row.circuit) & (result.curve.order == row.order)]
        share, value = np.r_[0, curve.share], np.r_[0, curve.value]
        assert row.cpr == pytest.approx(((value[1:] + value[:-1]) / 2 * np.diff(share)).sum())
        gap = abs(1 - value)
        assert row.cmd == pytest.approx(((gap[1:] + gap[:-1]) / 2 * np.diff(share)).sum())
        assert value[-1] == pytest.approx(1)
    assert result.curve.components.max() == SIZES[-1] * 12
    assert (result.areas.cpr_spread > 0).tolist() == [False, False, True, False, False]
    again = faithfulness(MODEL, CONTRAST, scores, untrained=(twin, own), random=2)
    pd.testing.assert_frame_equal(result.curve, again.curve)


def test_nothing_to_recover_is_said():
    same = contrast()
    same.source[:] = same.base
    scores = attribute(MODEL, same, ["z", "mlp_out"], "all")
    result = faithfulness(MODEL, same, scores, random=0, orders=["signed"])
    assert "nothing to recover" in result.areas.note[0]


def test_what_is_no_circuit_is_said():
    scores = attribute(MODEL, CONTRAST, ["z", "mlp_out"], "all")
    with pytest.raises(ValueError, match="order 'size' is none of signed, magnitude"):
        faithfulness(MODEL, CONTRAST, scores, orders=["size"])
    with pytest.raises(ValueError, match="are no shares"):
        faithfulness(MODEL, CONTRAST, scores, sizes=[0.0, 1.0])
    for components, positions, match in (
        ("resid_post", "all", r"of z and mlp_out; these are \['resid_post'\]"),
        ("z", "roles", "these are by role"),
    ):
        with pytest.raises(ValueError, match=match):
            faithfulness(MODEL, CONTRAST, attribute(MODEL, CONTRAST, components, positions))
    edges = attribute_edges(MODEL, CONTRAST)
    part = Scores(edges.cells.iloc[:9], edges.values[:9], edges.clusters, edges.method)
    with pytest.raises(ValueError, match="over all edges of the model"):
        faithfulness(MODEL, CONTRAST, part)
