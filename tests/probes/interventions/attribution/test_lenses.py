"""Lenses: parts that sum to the logits, the last layer that is the model, controls, a planted head that answers."""

import numpy as np
import pytest

from analyses.studies.calibration import planted
from cadmus.models import lens
from cadmus.models.model import Model
from probes.interventions.attribution.lenses import direct_attribution, logit_lens
from probes.interventions.editing import engine
from tests.probes.interventions.attribution.contrast_rows import contrast, planted_contrast
from tests.probes.interventions.editing.models import MODEL, MODELS
from tests.probes.interventions.editing.test_backends import TRANSFORMER_LENS

CONTRAST = contrast(6)
hooked = pytest.mark.skipif(TRANSFORMER_LENS >= 4, reason="transformer-lens 4 has no HookedTransformer")


def differences(model, sequences, rows=CONTRAST):
    logits = engine.logits(model, sequences, [[]], rows.at)[0]
    return float(rows.metric()(logits).double().mean())


@pytest.mark.parametrize("positions", MODELS)
def test_the_last_layers_lens_is_the_model(positions):
    model = MODELS[positions]
    table = logit_lens(model, CONTRAST, untrained=Model(MODEL.cfg, seed=1))
    assert set(table.control) == {"model", "shuffled", "untrained"}
    last = table[(table.layer == 2) & (table.role == "answer")].set_index(["control", "quantity"]).value
    assert last["model", "difference"] == pytest.approx(differences(model, CONTRAST.base), abs=1e-4)
    shuffled = CONTRAST.shuffled(0)
    assert last["shuffled", "difference"] == pytest.approx(differences(model, CONTRAST.base, shuffled), abs=1e-4)
    of_model = last["model"]
    assert of_model["other_logit"] - of_model["base_logit"] == pytest.approx(of_model["difference"], abs=1e-6)
    probability = engine.logits(model, CONTRAST.base, [[]], CONTRAST.at)[0].softmax(-1)
    expected = probability[np.arange(6), CONTRAST.other_token].mean()
    assert of_model["other_probability"] == pytest.approx(float(expected), abs=1e-5)
    assert len(table) == 3 * 4 * 5


def test_a_lens_at_roles_reads_their_positions():
    table = logit_lens(MODEL, CONTRAST, {"one": (np.array([3, -1, 4, 2, 3, 3]), np.array([3, -1, 4, 2, 3, 3]))})
    here = np.array([3, 4, 2, 3, 3])
    rows = CONTRAST.select(np.array([0, 2, 3, 4, 5]))
    logits = engine.logits(MODEL, rows.base, [[]], here)[0]
    cell = table[(table.control == "model") & (table.layer == 2) & (table.role == "one")].set_index("quantity")
    assert cell.value["difference"] == pytest.approx(float(rows.metric()(logits).mean()), abs=1e-4)
    assert cell.n["difference"] == 5


@pytest.mark.parametrize("positions", MODELS)
@pytest.mark.parametrize("run", ["base", "source"])
def test_direct_contributions_sum_to_the_difference(positions, run):
    model = MODELS[positions]
    keys = np.broadcast_to(np.arange(9), (6, 9))
    halves = {"early": (keys[:, :4], keys[:, :4]), "late": (keys[:, 4:], keys[:, 4:])}
    table = direct_attribution(model, CONTRAST, halves, run=run)
    table = table[table.control == "model"]
    whole = table[table.role == "all"]
    total = float(whole.value[whole.site == "total"].item())
    assert total == pytest.approx(differences(model, getattr(CONTRAST, run)), abs=1e-4)
    assert whole.value[whole.site != "total"].sum() == pytest.approx(total, abs=1e-6)
    assert whole.site.value_counts().to_dict() == {
        "head": 9,
        "mlp": 3,
        "attention bias": 3,
        "input": 1,
        "unembedding bias": 1,
        "total": 1,
    }
    heads = table[table.site == "head"].pivot_table(index=["layer", "head"], columns="role", values="value")
    np.testing.assert_allclose(heads["early"] + heads["late"], heads["all"], atol=1e-5)


def test_a_role_counts_the_rows_that_have_it():
    table = direct_attribution(MODEL, CONTRAST, "roles")
    counts = table[table.control == "model"].groupby("role").n.unique()
    assert counts["loaded"].tolist() == [4]
    assert counts["stored"].tolist() == counts["all"].tolist() == [6]
    assert (table.low <= table.value).all()
    assert (table.value <= table.high).all()


@hooked
def test_backends_agree():
    model = lens.to_hooked_transformer(MODEL)
    for function in (logit_lens, direct_attribution):
        ours, theirs = (function(m, CONTRAST, "roles") for m in (MODEL, model))
        np.testing.assert_allclose(ours.value, theirs.value, atol=1e-4)


@hooked
def test_a_planted_head_writes_the_answer():
    model = planted.plant("lookup", "rotated", 0)
    rows = planted_contrast(model, 40)
    layer, head, _, _ = max(model.edges)
    table = direct_attribution(model.model, rows)
    heads = table[(table.control == "model") & (table.site == "head")]
    best = heads.loc[heads.value.idxmin()]  # what speaks for the base's answer
    assert (best.layer, best["head"]) == (layer, head)
    total = table[(table.control == "model") & (table.site == "total")].value.item()
    assert best.value == pytest.approx(total, rel=0.1)
    shuffled = table[(table.control == "shuffled") & (table.site == "total")].value.item()
    assert abs(shuffled) < 0.3 * abs(total)
    of_layer = logit_lens(model.model, rows).query("control == 'model' and quantity == 'difference'")
    of_layer = of_layer.set_index("layer").value
    assert abs(of_layer[layer - 1]) < 0.1 * abs(of_layer[layer])


def test_what_cannot_be_read_is_said():
    with pytest.raises(ValueError, match="run 'third' is neither"):
        direct_attribution(MODEL, CONTRAST, run="third")
    with pytest.raises(ValueError, match="positions 'some'"):
        logit_lens(MODEL, CONTRAST, "some")
