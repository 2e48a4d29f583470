"""Attribution: equal to patching where the model is linear, complete by integration, and near to patching elsewhere."""

import numpy as np
import pytest
import torch

from cadmus.machine import tokens, vm
from cadmus.models import lens
from cadmus.programs import mixture
from probes.interventions.attribution.contrasts import Contrast
from probes.interventions.attribution.edges import Graph, attribute_edges
from probes.interventions.attribution.lenses import direct_attribution, logit_lens
from probes.interventions.attribution.nodes import attribute
from probes.interventions.attribution.relevance import patch_edges, patch_nodes, pearson, relevance, spearman
from probes.interventions.attribution.scores import Scores
from probes.interventions.counterfactuals import Pairs, draw
from probes.interventions.editing import changes, engine
from probes.interventions.editing.edits import Edit
from probes.interventions.editing.paths import INPUT
from tests.probes.interventions.attribution.contrast_rows import contrast, linear_model
from tests.probes.interventions.editing.models import MODEL, MODELS
from tests.probes.interventions.editing.test_backends import TRANSFORMER_LENS

CONTRAST = contrast()
hooked = pytest.mark.skipif(TRANSFORMER_LENS >= 4, reason="transformer-lens 4 has no HookedTransformer")


def effect(model, edits, metric="logit_difference"):
    """What edits do to the metric of each row, float64 [rows]."""
    logits = engine.run(model, CONTRAST.base, [[], edits], CONTRAST.at).logits.double()
    before, after = (CONTRAST.metric(metric)(of_arm) for of_arm in logits)
    return (after - before).numpy()


# --- nodes -----------------------------------------------------------------------------------------------------------


@hooked
@pytest.mark.parametrize("method", ["gradient", "inputs", "activations"])
@pytest.mark.parametrize("positions", ["each", "all", "roles"])
def test_of_a_linear_model_attribution_is_patching(method, positions):
    model = linear_model()
    components = ["z", "v", "attn_out", "resid_post"]
    scores = attribute(model, CONTRAST, components, positions, method=method, steps=2)
    exact = patch_nodes(model, CONTRAST, components, positions)
    assert scores.cells.equals(exact.cells)
    np.testing.assert_allclose(scores.values, exact.values, atol=1e-5)
    assert np.isnan(scores.values).any() == (positions == "roles")  # where a row lacks a role
    assert abs(np.nan_to_num(exact.values)).max() > 1e-3


@hooked
def test_of_a_linear_model_edges_too():
    model = linear_model()
    graph = Graph([(0, 0), (0, 1), (1, 0)], [(1, 0, "v"), (1, 1, "v"), (2, "logits", "in")])
    for positions in ("all", "roles"):
        scores = attribute_edges(model, CONTRAST, positions, graph=graph)
        exact = patch_edges(model, CONTRAST, positions, graph=graph)
        assert scores.cells.equals(exact.cells)
        np.testing.assert_allclose(scores.values, exact.values, atol=1e-5)
        assert abs(np.nan_to_num(exact.values)).max() > 1e-4


@pytest.mark.parametrize("metric", ["logit_difference", "probability"])
def test_the_way_of_the_inputs_is_complete_at_the_inputs(metric):
    logits = engine.run(MODEL, CONTRAST.source, [[]], CONTRAST.at).logits[0]
    before = engine.run(MODEL, CONTRAST.base, [[]], CONTRAST.at).logits[0]
    of_metric = CONTRAST.metric(metric)
    difference = (of_metric(logits) - of_metric(before)).numpy()
    errors = []
    for steps in (2, 16, 64):
        scores = attribute(MODEL, CONTRAST, "resid_pre", "each", metric, method="inputs", steps=steps, layers=[0])
        errors.append(abs(scores.values.sum(0) - difference).max())
    assert errors[2] < 0.01 * abs(difference).max() < errors[0]


@pytest.mark.parametrize("positions", MODELS)
def test_the_way_of_the_activations_is_complete_at_every_site(positions):
    model = MODELS[positions]
    for component, site in (("mlp_out", "hook_mlp_out"), ("z", "attn.hook_z"), ("resid_post", "hook_resid_post")):
        site = f"blocks.1.{site}"
        values = engine.activations(model, CONTRAST.source, [site])[site]
        scores = attribute(model, CONTRAST, component, "each", method="activations", steps=24, layers=[1])
        exact = effect(model, Edit(site, None, changes.patch(values)))
        np.testing.assert_allclose(scores.values.sum(0), exact, atol=0.02 * abs(exact).max())
        by_role = attribute(model, CONTRAST, component, "roles", method="activations", steps=24, layers=[1])
        patched = patch_nodes(model, CONTRAST, component, "roles", layers=[1])
        if component != "z":  # heads are moved together
            np.testing.assert_allclose(by_role.values, patched.values, atol=0.02 * np.nanmax(abs(patched.values)))


def test_a_score_is_the_slope_of_a_small_step_towards_the_source():
    here = np.array([2, -1, 2, 2])
    for component, site, head in (("q", "blocks.1.attn.hook_q", 2), ("resid_mid", "blocks.1.hook_resid_mid", -1)):
        values = [engine.activations(MODEL, x, [site])[site] for x in (CONTRAST.base, CONTRAST.source)]
        step = 0.02 * (values[1] - values[0])[np.arange(4), 2]
        heads = None if head < 0 else [head]
        slope = effect(MODEL, Edit(site, here, changes.add(step if head < 0 else step[:, [head]]), heads)) / 0.02
        roles = {"one": (here, here)}
        scores = attribute(MODEL, CONTRAST, component, roles, layers=[1])
        row = scores.values[max(head, 0)]
        assert np.isnan(row[1])
        np.testing.assert_allclose(row[[0, 2, 3]], slope[[0, 2, 3]], atol=0.1 * abs(slope).max())


def test_patterns_are_attributed_too():
    roles = {"last": (CONTRAST.at, CONTRAST.at)}
    scores = attribute(MODEL, CONTRAST, "pattern", roles, method="activations", steps=24, layers=[2])
    exact = patch_nodes(MODEL, CONTRAST, "pattern", roles, layers=[2])
    both = exact.values.sum(0)  # heads of the last layer add up, but for the scale
    assert pearson(scores.values.ravel(), exact.values.ravel()) > 0.9
    assert abs(both).max() > 0


@hooked
def test_backends_agree():
    model = lens.to_hooked_transformer(MODEL)
    for method in ("gradient", "inputs"):
        options = {"method": method, "steps": 2}
        ours, theirs = (attribute(m, CONTRAST, ["z", "resid_mid"], "each", **options) for m in (MODEL, model))
        np.testing.assert_allclose(ours.values, theirs.values, atol=1e-4)
        ours, theirs = (attribute_edges(m, CONTRAST, **options) for m in (MODEL, model))
        np.testing.assert_allclose(ours.values, theirs.values, atol=1e-4)
    assert not model.cfg.use_split_qkv_input


@pytest.fixture
def accumulated():
    """Gradients that somebody has left on the model's parameters, and means to use; the parameters are as before
    afterwards."""
    before = [parameter.grad for parameter in MODEL.parameters()]
    gradients = [torch.full_like(parameter, 3.0) for parameter in MODEL.parameters()]
    for parameter, gradient in zip(MODEL.parameters(), gradients, strict=True):
        parameter.grad = gradient
    yield gradients
    for parameter, gradient in zip(MODEL.parameters(), before, strict=True):
        parameter.grad = gradient


def test_neither_batches_nor_gradients_elsewhere_matter(monkeypatch, accumulated):
    many = contrast(10)
    whole = attribute(MODEL, many, "z", "all", "probability", method="inputs", steps=2)
    monkeypatch.setattr("probes.interventions.attribution.nodes._ROWS", 3)
    in_parts = attribute(MODEL, many, "z", "all", "probability", method="inputs", steps=2)
    np.testing.assert_allclose(whole.values, in_parts.values, atol=1e-6)
    for parameter, gradient in zip(MODEL.parameters(), accumulated, strict=True):
        assert parameter.grad is gradient
        assert (gradient == 3).all()
    assert not MODEL.has_hooks


# --- edges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", MODELS)
def test_an_edge_has_the_slope_of_its_path(positions):
    model = MODELS[positions]
    graph = Graph([(0, 1), (1, "mlp"), (1, 2)], [(1, "mlp", "in"), (2, 1, "q"), (2, 0, "k"), (2, 2, "v")])
    near = attribute_edges(model, CONTRAST, graph=graph)
    sites = {"0.1": ("blocks.0.attn.hook_result", 1), "1.mlp": ("blocks.1.hook_mlp_out", None)}
    for sender, receiver, target, head in (
        ("0.1", "2.1.q", "blocks.2.hook_q_input", 1),
        ("1.mlp", "2.0.k", "blocks.2.hook_k_input", 0),
        ("0.1", "1.mlp", "blocks.1.hook_mlp_in", None),
    ):
        site, of_head = sites[sender]
        values = [engine.activations(model, x, [site])[site] for x in (CONTRAST.base, CONTRAST.source)]
        delta = 0.01 * (values[1] - values[0])
        delta = delta if of_head is None else delta[:, :, of_head]
        add = changes.add(delta if head is None else delta[:, :, None])
        slope = effect(model, Edit(target, None, add, None if head is None else [head])) / 0.01
        cell = (near.cells.sender == sender) & (near.cells.receiver == receiver)
        np.testing.assert_allclose(near.values[cell.to_numpy()][0], slope, atol=0.1 * abs(slope).max() + 1e-4)


def test_edges_into_the_logits_and_from_the_input_make_up_the_stream():
    scores = attribute_edges(MODEL, CONTRAST)
    into_logits = scores.values[(scores.cells.receiver == "logits").to_numpy()].sum(0)
    stream = attribute(MODEL, CONTRAST, "resid_post", "all", layers=[2])
    np.testing.assert_allclose(into_logits, stream.values[0], atol=1e-4)
    assert scores.cells.groupby("component").size()["input to q"] == 9
    assert Graph.of(MODEL).senders[0] == INPUT


# --- tables ----------------------------------------------------------------------------------------------------------


def test_tables_have_intervals_by_cluster():
    many = contrast(60)
    frame = attribute(MODEL, many, ["z", "mlp_out"], "roles").frame()
    assert list(frame) == ["component", "layer", "head", "position", "method", "value", "low", "high", "n"]
    assert len(frame) == (3 * 3 + 3) * 2
    assert set(frame.n) == {45, 60}
    assert ((frame.low <= frame.value) & (frame.value <= frame.high)).all()


def test_relevance_of_planted_scores():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(40, 1)) + 0.1 * rng.normal(size=(40, 200))
    cells = attribute(MODEL, CONTRAST, ["z", "mlp_out"], "each").cells.iloc[:40]
    cells = cells.assign(component=["head"] * 20 + ["dead"] * 20)
    truth[20:] = 0
    estimate = truth**3
    estimate[20:] = 0
    exact = Scores(cells, truth, np.arange(200), "patching")
    table = relevance(Scores(cells, estimate, np.arange(200), "gradient"), exact).set_index("component")
    assert table.loc["head", "spearman"] > 0.99 > table.loc["head", "pearson"]
    assert table.loc["head", "spearman_low"] <= table.loc["head", "spearman"] <= table.loc["head", "spearman_high"]
    assert table.loc["head", "pearson_nodes_low"] < table.loc["head", "pearson"]
    assert table.loc["all", "cells"] == 20
    assert np.isnan(table.loc["dead", "pearson"])
    with pytest.raises(ValueError, match="not of the same cells"):
        relevance(Scores(cells, estimate[:, 1:], np.arange(199), "gradient"), exact)


def test_correlations():
    x = np.array([[1.0, 2, 3, 4], [1, 1, 1, 1]])
    y = np.array([1.0, 4, 9, 16])
    assert spearman(x, y)[0] == pytest.approx(1)
    assert pearson(x, y)[0] == pytest.approx(np.corrcoef(x[0], y)[0, 1])
    assert np.isnan(pearson(x, y)[1])


def test_integration_brings_attribution_nearer_to_patching():
    many = contrast(40)
    exact = patch_nodes(MODEL, many, ["z", "mlp_out", "resid_post"], "each")
    by_method = {}
    for method in ("gradient", "activations"):
        scores = attribute(MODEL, many, ["z", "mlp_out", "resid_post"], "each", method=method, steps=4)
        by_method[method] = relevance(scores, exact, resamples=20).set_index("component").pearson["all"]
    assert by_method["activations"] > max(by_method["gradient"], 0.8)


# --- contrasts -------------------------------------------------------------------------------------------------------


def test_a_contrast_of_pairs_decides_where_the_answers_part():
    pairs = draw("reg.a", mixture.load("default"), 16, seed=0)
    one = Contrast.of(pairs)
    assert len(one) == (pairs.pairs.base_answer != pairs.pairs.edited_answer).sum()
    for row, pair in enumerate(one.pair):
        record = pairs.pairs.iloc[pair]
        read = one.at[row] - record.cut  # tokens that both answers begin with
        assert record.base_answer[:read] == record.edited_answer[:read]
        assert tokens.decode(one.base[row : row + 1, 1:])[0].startswith(record.base + record.base_answer[:read])
        assert tokens.decode(one.source[row : row + 1, 1:])[0].startswith(record.source + record.base_answer[:read])
        assert vm.VOCAB[one.base_token[row]] == record.base_answer[read]
        assert vm.VOCAB[one.other_token[row]] == record.edited_answer[read]
        assert (one.roles["stored"][0][row] == pairs.positions("stored")[pair]).all()
    assert (one.at > pairs.cuts[one.pair]).any()
    same = Pairs(pairs.pairs.assign(edited_answer=pairs.pairs.base_answer), pairs.roles, pairs.families, pairs.about)
    with pytest.raises(ValueError, match="of 16 pairs none has"):
        Contrast.of(same)
    with pytest.raises(ValueError, match="other 'answer' is none of"):
        Contrast.of(pairs, "answer")


def test_rows_cluster_by_either_skeleton():
    from probes.interventions.attribution.contrasts import _clusters

    labels = _clusters(np.array(["a", "a", "b", "c", "d"]), np.array(["x", "y", "y", "z", "w"]))
    assert labels[0] == labels[1] == labels[2]
    assert len(set(labels.tolist())) == 3


def test_shuffled_answers_are_those_of_other_rows():
    many = contrast(40)
    other = many.shuffled(1)
    assert ((other.base_token != many.base_token) | (other.other_token != many.other_token)).all()
    assert set(other.base_token) == set(many.base_token)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (attribute, ("each", "all")),
        (patch_nodes, ("each", "all")),
        (attribute_edges, ("all",)),
        (patch_edges, ("all",)),
        (logit_lens, ()),
        (direct_attribution, ()),
    ],
)
def test_positions_are_the_words_that_a_function_knows(function, words):
    known = ", ".join(map(repr, (*words, "roles")))
    for word in {"each", "all", "some"} - set(words):
        with pytest.raises(ValueError, match=f"^positions '{word}' mean nothing here: give {known}, or roles by name$"):
            function(MODEL, CONTRAST, positions=word)
    with pytest.raises(ValueError, match="there is no role: give one or more by name"):
        function(MODEL, CONTRAST, positions={})
    with pytest.raises(ValueError, match=r"base \(3,\) and source \(3,\) need as many positions for each of 4 rows"):
        function(MODEL, CONTRAST, positions={"r": (np.full(3, 2), np.full(3, 2))})


def test_a_compiled_model_has_the_edges_of_its_original():
    graph = Graph([INPUT, (0, 1)], [(1, 0, "q"), (1, "mlp", "in")])
    compiled = torch.compile(MODEL, backend="eager")
    for positions in ("all", "roles"):
        ours, theirs = (attribute_edges(model, CONTRAST, positions, graph=graph) for model in (MODEL, compiled))
        np.testing.assert_allclose(theirs.values, ours.values, atol=1e-6)
        assert abs(np.nan_to_num(ours.values)).max() > 1e-4


def test_nothing_to_attribute_is_said():
    for function in (attribute, patch_nodes):
        with pytest.raises(ValueError, match=r"there is no layer: give one or more of 0 \.\.\. 2, or None for all"):
            function(MODEL, CONTRAST, layers=[])
        with pytest.raises(ValueError, match="there is no component: give one or more of resid_pre, "):
            function(MODEL, CONTRAST, [])


def test_what_cannot_be_attributed_is_said():
    with pytest.raises(ValueError, match="method 'gradiant' is none of gradient, inputs, activations"):
        attribute(MODEL, CONTRAST, method="gradiant")
    with pytest.raises(ValueError, match="'activations' is none of gradient, inputs"):
        attribute_edges(MODEL, CONTRAST, method="activations")
    with pytest.raises(ValueError, match="1 or more"):
        attribute(MODEL, CONTRAST, "z", method="inputs", steps=0)
    with pytest.raises(ValueError, match="expected a number for each of 4 rows"):
        attribute(MODEL, CONTRAST, "z", metric=lambda logits: logits.mean())
    here, there = np.array([2, 2, 2, 2]), np.array([4, 4, 4, 4])
    with pytest.raises(ValueError, match="has other positions in the source"):
        attribute(MODEL, CONTRAST, "z", {"moved": (here, there)}, method="inputs")
    shorter = contrast()
    shorter.source[0, -2:] = torch.zeros(2).numpy() + shorter.base[0, 0]
    with pytest.raises(ValueError, match="in row 0 base and source differ in length"):
        attribute(MODEL, shorter, "z", "each")
    attribute(MODEL, shorter, "z", {"moved": (here, there)})
    with pytest.raises(ValueError, match="row 0: both answers have token 3"):
        Contrast(CONTRAST.base, CONTRAST.source, CONTRAST.at, CONTRAST.base_token, CONTRAST.base_token, CONTRAST.at)
