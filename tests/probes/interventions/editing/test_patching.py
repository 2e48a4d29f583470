"""Named interventions: grids against the same edits made one by one, paths, ablations, doses, edges."""

import numpy as np
import pytest
import torch

from probes.interventions.editing import changes, engine, patching, paths
from probes.interventions.editing.edits import EdgeEdit, Edit
from tests.probes.interventions.editing.models import AT, MODEL, MODELS, ROWS, WIDTH, sequences
from tests.probes.interventions.editing.test_backends import TRANSFORMER_LENS

BASE, SOURCE = sequences(), sequences(seed=1)
LAST = np.full(ROWS, WIDTH - 1)


def metric(logits):
    return logits[:, 3] - logits[:, 5]


@pytest.mark.skipif(TRANSFORMER_LENS >= 4, reason="transformer-lens 4 has no HookedTransformer")
@pytest.mark.parametrize(
    ("component", "positions", "peer"),
    [
        ("resid_pre", "each", "get_act_patch_resid_pre"),
        ("resid_mid", "each", "get_act_patch_resid_mid"),
        ("attn_out", "each", "get_act_patch_attn_out"),
        ("mlp_out", "each", "get_act_patch_mlp_out"),
        ("z", "all", "get_act_patch_attn_head_out_all_pos"),
        ("q", "all", "get_act_patch_attn_head_q_all_pos"),
        ("k", "each", "get_act_patch_attn_head_k_by_pos"),
        ("v", "all", "get_act_patch_attn_head_v_all_pos"),
        ("pattern", "each", "get_act_patch_attn_head_pattern_by_pos"),
        ("pattern", "all", "get_act_patch_attn_head_pattern_all_pos"),
    ],
)
def test_grids_are_those_of_transformer_lens(component, positions, peer):
    from transformer_lens import patching as theirs

    from cadmus.models import lens

    hooked = lens.to_hooked_transformer(MODEL)
    with torch.no_grad():
        _, cache = hooked.run_with_cache(SOURCE)
        expected = getattr(theirs, peer)(hooked, BASE, cache, lambda logits: metric(logits[:, -1]).mean())
    table = patching.patch_grid(MODEL, BASE, SOURCE, component, positions, metric, at=LAST)
    values = torch.tensor(table.value.to_numpy(), dtype=torch.float32)
    if component in ("z", "q", "k", "v", "pattern"):
        values = values.view(MODEL.cfg.n_layers, MODEL.cfg.n_heads, -1).transpose(1, 2)  # [layer, pos, head]
        if positions == "each" and expected.shape[1] == MODEL.cfg.n_heads:
            values = values.transpose(1, 2)
    torch.testing.assert_close(values.reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)


def test_a_grid_by_role_patches_where_each_row_has_it():
    here, there = np.array([3, -1, 4, 2]), np.array([5, -1, 4, 6])
    table = patching.patch_grid(MODEL, BASE, SOURCE, "resid_post", {"loaded": (here, there)}, metric, at=AT, layers=[1])
    site = "blocks.1.hook_resid_post"
    values = engine.activations(MODEL, SOURCE, [site])[site][np.arange(ROWS), np.maximum(there, 0)]
    logits = engine.logits(MODEL, BASE, [Edit(site, here, changes.patch(values))], AT)[0]
    (row,) = table.to_dict("records")
    assert row["value"] == pytest.approx(float(metric(logits)[here >= 0].mean()), abs=1e-5)
    assert (row["rows"], row["changed"], row["position"], row["head"]) == (3, 1.0, "loaded", -1)


def test_a_patch_that_changes_nothing_is_marked():
    table = patching.patch_grid(MODEL, BASE, BASE, ["resid_pre", "z"], "all", metric, at=AT)
    assert (table.changed == 0).all()
    plain = float(metric(engine.logits(MODEL, BASE, [[]], AT)[0]).mean())
    assert table.value.to_numpy() == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize("positions", [None, 4, [3, 4, 4, 3]])
def test_paths_carry_what_their_sender_writes_to_their_receiver_alone(positions):
    senders = [(0, 1), (1, "mlp")]
    receivers = [(2, 0, "q"), (2, 1, "v"), (0, "mlp", "in"), (2, "mlp", "in"), (3, "logits", "in")]
    table = paths.path_grid(MODEL, BASE, SOURCE, senders, receivers, metric, at=AT, positions=positions)
    assert len(table) == 9  # an MLP writes to no MLP of its own block or before
    values = table.set_index(["sender", "receiver"]).value
    site = "blocks.1.hook_mlp_out"
    both = [engine.activations(MODEL, rows, [site])[site] for rows in (BASE, SOURCE)]
    delta = both[1] - both[0]
    if positions is not None:
        delta = delta[np.arange(ROWS), positions]
    edit = Edit("blocks.2.hook_resid_post", positions, changes.add(delta))
    expected = metric(engine.run(MODEL, BASE, [edit], AT).logits[0]).mean()
    assert values["1.mlp", "logits"] == pytest.approx(float(expected), abs=1e-4)
    assert values["0.1", "2.0.q"] != pytest.approx(values["0.1", "2.1.v"], abs=1e-6)


def test_what_is_no_end_of_a_path_is_said():
    with pytest.raises(ValueError, match=r"sender \(5, 0\) is no"):
        paths.path_grid(MODEL, BASE, SOURCE, [(5, 0)], [(2, 0, "q")], metric, at=AT)
    with pytest.raises(ValueError, match=r"receiver \(2, 0, 'z'\) is no"):
        paths.path_grid(MODEL, BASE, SOURCE, [(0, 0)], [(2, 0, "z")], metric, at=AT)


@pytest.mark.parametrize("mode", ["zero", "mean", "resample"])
@pytest.mark.parametrize("positions", [None, 3, [1, 2, 3, 4]])
def test_ablations(mode, positions):
    table = patching.ablation_grid(MODEL, BASE, ["mlp_out", "z"], metric, at=AT, mode=mode, positions=positions)
    assert len(table) == 3 + 9
    assert table.changed.max() == 1
    site = "blocks.1.attn.hook_z"
    values = engine.activations(MODEL, BASE, [site])[site][:, :, [2]]
    if mode == "zero":
        stand_in = torch.zeros_like(values)
    elif mode == "mean":
        stand_in = values.mean(0, keepdim=True).expand_as(values)
    else:
        return
    if positions is not None:
        stand_in = stand_in[np.arange(ROWS), positions]
    edit = Edit(site, positions, changes.patch(stand_in), [2])
    expected = float(metric(engine.logits(MODEL, BASE, [edit], AT)[0]).mean())
    row = table[(table.component == "z") & (table.layer == 1) & (table["head"] == 2)]
    assert float(row.value.item()) == pytest.approx(expected, abs=1e-5)


def test_resampling_gives_no_row_its_own():
    values = torch.arange(50.0)[:, None, None]
    other = patching._stand_in(values, "resample", 50, seed=1)
    assert (other != values).all()
    assert sorted(other.flatten().tolist()) == values.flatten().tolist()
    with pytest.raises(ValueError, match="two or more"):
        patching._stand_in(values[:1], "resample", 1, seed=1)


def test_doses_go_from_the_model_as_it_is_to_the_target():
    direction = torch.randn(24, generator=torch.Generator().manual_seed(0))
    site = "blocks.1.hook_resid_post"
    table = patching.dose_curve(MODEL, BASE, site, 4, direction, 3.0, [0, 0.5, 1], metric, at=AT)
    plain = float(metric(engine.logits(MODEL, BASE, [[]], AT)[0]).mean())
    assert table.value[0] == pytest.approx(plain, abs=1e-6)
    edit = Edit(site, 4, changes.steer(direction, 3.0))
    assert table.value[2] == pytest.approx(float(metric(engine.logits(MODEL, BASE, [edit], AT)[0]).mean()), abs=1e-5)


@pytest.mark.parametrize("positions", MODELS)
def test_edges_by_head_by_layer_and_altogether(positions):
    model = MODELS[positions]
    table = patching.edge_grid(model, BASE, 5, 2, metric, at=AT)
    assert len(table) == 3 * 4 + 1
    edits = [EdgeEdit(layer, 5, 2) for layer in range(3)]
    expected = float(metric(engine.logits(model, BASE, [edits], AT)[0]).mean())
    assert table.value.iloc[-1] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("message", "grid"),
    [
        ("no component", lambda: patching.patch_grid(MODEL, BASE, SOURCE, [], "all", metric, at=AT)),
        ("no component", lambda: patching.ablation_grid(MODEL, BASE, [], metric, at=AT)),
        ("no layer", lambda: patching.patch_grid(MODEL, BASE, SOURCE, "z", "all", metric, at=AT, layers=[])),
        ("no layer", lambda: patching.edge_grid(MODEL, BASE, 5, 2, metric, at=AT, layers=())),
        ("no role", lambda: patching.patch_grid(MODEL, BASE, SOURCE, "z", {}, metric, at=AT)),
        ("nothing to run", lambda: paths.path_grid(MODEL, BASE, SOURCE, [], [(2, 0, "q")], metric, at=AT)),
        ("nothing to run", lambda: paths.path_grid(MODEL, BASE, SOURCE, [(2, 0)], [(0, 0, "q")], metric, at=AT)),
        (
            "nothing to run",
            lambda: patching.dose_curve(MODEL, BASE, "hook_embed", 4, torch.ones(24), 1.0, [], metric, at=AT),
        ),
    ],
)
def test_a_grid_of_nothing_is_an_error(message, grid):
    with pytest.raises(ValueError, match=f"^there is {message}.*: give "):
        grid()


def test_what_a_grid_cannot_do_is_said():
    with pytest.raises(ValueError, match="component 'resid' is none of resid_pre"):
        patching.patch_grid(MODEL, BASE, SOURCE, "resid", "each", metric, at=AT)
    with pytest.raises(ValueError, match="pad them to one shape"):
        patching.patch_grid(MODEL, BASE, SOURCE[:, :5], "z", "each", metric, at=AT)
    with pytest.raises(ValueError, match="neither 'each' nor 'all'"):
        patching.patch_grid(MODEL, BASE, SOURCE, "z", "some", metric, at=AT)
    with pytest.raises(ValueError, match="-1 in the same places"):
        patching.patch_grid(MODEL, BASE, SOURCE, "z", {"r": ([1, 2, 3, 4], [1, 2, 3, -1])}, metric, at=AT)
    with pytest.raises(ValueError, match=r"base \(8,\) and source \(8,\) need as many positions for each of 4 rows"):
        patching.patch_grid(MODEL, BASE, SOURCE, "z", {"r": (np.ones(8, int), np.ones(8, int))}, metric, at=AT)
    with pytest.raises(ValueError, match="mode 'none'"):
        patching.ablation_grid(MODEL, BASE, "z", metric, at=AT, mode="none")
