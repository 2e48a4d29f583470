"""Interventions on models of TransformerLens, and on compiled ones, are those on our own."""

from importlib import metadata

import numpy as np
import pytest
import torch

from cadmus.models import lens
from probes.interventions.editing import changes, engine
from probes.interventions.editing.edits import EdgeEdit, Edit
from tests.probes.interventions.editing.models import AT, MODEL, MODELS, PROMPTS, ROWS, sequences

TRANSFORMER_LENS = int(metadata.version("transformer-lens").split(".")[0])


@pytest.mark.skipif(TRANSFORMER_LENS >= 4, reason="transformer-lens 4 has no HookedTransformer")
@pytest.mark.parametrize("positions", MODELS)
def test_a_hooked_transformer_gives_the_same(positions):
    model = MODELS[positions]
    peer = lens.to_hooked_transformer(model)
    check_backend(model, peer, block_sites=("hook_attn_out", "mlp.hook_post", "attn.hook_z", "hook_q_input"))


def test_a_compiled_model_gives_the_same():
    compiled = torch.compile(MODEL, backend="eager")
    check_backend(MODEL, compiled, block_sites=("hook_q_input", "hook_attn_out", "mlp.hook_post", "attn.hook_z"))


@pytest.mark.skipif(TRANSFORMER_LENS < 4, reason="TransformerBridge is of transformer-lens 4")
def test_a_transformer_bridge_gives_the_same():
    check_backend(MODEL, lens.to_transformer_bridge(MODEL), ("hook_attn_out", "mlp.hook_post", "attn.hook_z"))
    with pytest.raises(ValueError, match="ignores such an edit"):
        engine.logits(
            lens.to_transformer_bridge(MODEL), sequences(), [Edit("blocks.0.hook_resid_mid", 3, changes.zero())], AT
        )


def check_backend(model, peer, block_sites):
    arms = [[Edit(f"blocks.1.{site}", [3, 4, 5, 6], changes.zero())] for site in block_sites]
    arms += [EdgeEdit(1, 5, 2, [1], mode, 3 if mode == "move" else None) for mode in ("block", "zero", "move")]
    ours, theirs = (engine.run(each, sequences(), arms, AT) for each in (model, peer))
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-5, atol=1e-5)
    assert (ours.changed == theirs.changed).all()
    assert engine.complete(model, PROMPTS, arms, 3) == engine.complete(peer, PROMPTS, arms, 3)
    with engine.applied(peer, arms[0]):
        inside = peer(sequences().long())
    torch.testing.assert_close(inside[np.arange(ROWS), AT], ours.logits[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        peer(sequences().long())[np.arange(ROWS), AT], engine.logits(model, sequences(), [[]], AT)[0]
    )
