"""What is no weight (listeners, tables, compiled code) travels with no copy, cast, save, compile or move of a model."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cadmus.models import backends, lens
from cadmus.models.compilation import original_model
from cadmus.models.config import ModelConfig
from cadmus.models.generation import generate
from cadmus.models.model import Model
from cadmus.training import checkpoint
from cadmus.training.completion import complete
from cadmus.training.loop import train
from probes.controls.untrained import untrained_twin
from probes.data.activations import token_rows
from tests.cadmus.models.test_lens import BRIDGE, convert
from tests.models import far_from_trivial
from tests.training import CFG, MIXED, QUICK, programs

LEARNED = ModelConfig(n_layers=1, d_model=12, n_heads=2, d_head=6, d_mlp=16, n_ctx=12, initializer_range=0.4)
ROTARY = replace(LEARNED, positional_embedding_type="rotary", rotary_dim=4, rotary_base=123.5)
TOKENS = torch.randint(11, 65, (3, 9), generator=torch.Generator().manual_seed(1))
each_config = pytest.mark.parametrize("cfg", [LEARNED, ROTARY], ids=["learned", "rotary"])


def by_torch_save(model: Model) -> Model:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def by_state_dict(model: Model) -> Model:
    other = Model(model.cfg, seed=5).to(torch.bfloat16).float()  # whatever was done to it before
    other.load_state_dict(model.state_dict())
    return other.eval()


def on_meta(model: Model) -> Model:
    with torch.device("meta"):
        other = Model(model.cfg)
    other.to_empty(device="cpu").load_state_dict(model.state_dict())
    return other.eval()


def assigned(model: Model) -> Model:
    other = Model(model.cfg).eval()
    other.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    return other


def converted_there_and_back(model: Model) -> Model:
    return lens.from_hooked_transformer(lens.to_hooked_transformer(model))


WAYS: dict[str, Callable[[Model], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": by_torch_save,
    "state dict": by_state_dict,
    "to_empty": on_meta,
    "assign": assigned,
    "to and back": lambda model: copy.deepcopy(model).double().float(),
    "to the same": lambda model: copy.deepcopy(model).to("cpu", torch.float32),
    "compile": lambda model: torch.compile(copy.deepcopy(model), backend="eager"),
    "deepcopy of compiled": lambda model: copy.deepcopy(torch.compile(model, backend="eager")),
}
if not BRIDGE:
    WAYS["HookedTransformer"] = converted_there_and_back


@each_config
@torch.no_grad()
def test_a_copy_made_while_hooks_are_set_has_none_and_computes_the_same(cfg: ModelConfig) -> None:
    model = far_from_trivial(cfg)
    plain = model(TOKENS)
    calls: list[str] = []

    def edit(tensor: Tensor, hook: Any) -> Tensor:
        calls.append(hook.name)
        hook.ctx["tensor"] = tensor
        return 0 * tensor

    for name, way in WAYS.items():
        torch.compiler.reset()
        with model.hooks([("blocks.0.hook_resid_pre", edit)]):
            other = way(model)
            assert not torch.equal(model(TOKENS), plain)
            calls.clear()
            inner = original_model(other)
            assert not inner.has_hooks, name
            assert inner.hook_dict["blocks.0.hook_resid_pre"].ctx == {}
            torch.testing.assert_close(other(TOKENS), plain, rtol=0, atol=1e-6)
            assert calls == [], name
            with inner.hooks([("hook_embed", lambda tensor, hook: 2 * tensor)]):  # its layers ask one registry, its own
                assert not torch.allclose(other(TOKENS), plain)
        torch.testing.assert_close(other(TOKENS), plain, rtol=0, atol=1e-6)
        assert torch.equal(model(TOKENS), plain), name
    torch.compiler.reset()


@each_config
@torch.no_grad()
def test_a_model_compiled_within_hooks_runs_without_them_later(cfg: ModelConfig) -> None:
    model = far_from_trivial(cfg)
    plain = model(TOKENS)
    torch.compiler.reset()
    with model.hooks([("hook_embed", lambda tensor, hook: 2 * tensor)]):
        compiled = torch.compile(model, backend="eager")
        edited = compiled(TOKENS)
        assert torch.equal(edited, model(TOKENS))
    torch.testing.assert_close(compiled(TOKENS), plain)
    with model.hooks([("hook_embed", lambda tensor, hook: 2 * tensor)]):
        assert torch.equal(compiled(TOKENS), edited)
    torch.compiler.reset()


@torch.no_grad()
def test_the_tables_of_angles_are_exact_whatever_the_weights_are() -> None:
    model = Model(ROTARY)
    half, positions = torch.arange(2, dtype=torch.float64), torch.arange(12, dtype=torch.float64)
    angles = positions[:, None] / ROTARY.rotary_base ** (half / 2)
    for cast, dtype in [
        (torch.bfloat16, torch.float32),
        (torch.float64, torch.float64),
        (torch.float16, torch.float32),
    ]:
        rotary = model.to(cast).blocks[0].attn.rotary
        assert rotary.cos.dtype == rotary.sin.dtype == dtype
        tolerance = 1e-6 if dtype == torch.float32 else 1e-14
        torch.testing.assert_close(rotary.cos.double(), angles.cos(), rtol=0, atol=tolerance)
        torch.testing.assert_close(rotary.sin.double(), angles.sin(), rtol=0, atol=tolerance)
        assert model(TOKENS).dtype == cast
    assert torch.equal(model.float().blocks[0].attn.rotary.cos, Model(ROTARY).blocks[0].attn.rotary.cos)
    assert not [name for name in model.state_dict() if "rotary" in name]


# --- compiled models at every door -----------------------------------------------------------------------------------


def test_a_compiled_model_is_stored_as_the_one_that_it_was_made_of(tmp_path: Path) -> None:
    model = Model(CFG, seed=1)
    saved = checkpoint.save(tmp_path / "model", torch.compile(model, backend="eager"), MIXED, {"config": {"seed": 1}})
    assert saved.fingerprint == checkpoint.load(tmp_path / "model").fingerprint
    for name, tensor in model.state_dict().items():
        assert torch.equal(checkpoint.load(tmp_path / "model").model.state_dict()[name], tensor)
    stranger = torch.nn.Sequential(model)
    with pytest.raises(TypeError, match=r"a Sequential is no cadmus\.models\.model\.Model"):
        checkpoint.save(tmp_path / "model", stranger, MIXED, {"config": {"seed": 1}})
    model.surplus = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"surplus\.weight has shape \(2, 2\), the model's config asks for none"):
        checkpoint.save(tmp_path / "model", model, MIXED, {"config": {"seed": 1}})
    assert checkpoint.load(tmp_path / "model").fingerprint == saved.fingerprint, "the good folder was replaced"


@pytest.mark.slow
def test_a_compiled_model_trains_as_any_other() -> None:
    config = replace(QUICK, steps=3)
    plain, compiled = Model(CFG), torch.compile(Model(CFG), backend="eager")
    records = [train(model, programs(), config) for model in (plain, compiled)]
    assert records[0]["parameters"] == records[1]["parameters"]
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, original_model(compiled).state_dict()[name])
    plain.add_hook("hook_embed", print)
    with pytest.raises(ValueError, match="a hook is set, but packed programs"):
        train(plain, programs(), config)


def test_public_functions_that_take_a_model_take_a_compiled_one_and_every_backend() -> None:
    model = far_from_trivial(replace(LEARNED, n_ctx=24))
    array = TOKENS.numpy().astype("uint8")
    prompts, lengths = torch.cat([torch.full((3, 1), 10), TOKENS], 1), torch.full((3,), 10)
    texts = model.to_string(TOKENS)
    expected = complete(model, texts, 5)
    for other in (torch.compile(model, backend="eager"), convert(model)):
        assert backends.config(other) == model.cfg
        assert torch.equal(generate(other, prompts, lengths, 4), generate(model, prompts, lengths, 4))
        assert complete(other, texts, 5) == expected
        twin = untrained_twin(other, seed=3)
        assert torch.equal(twin.W_E, Model(model.cfg, seed=3).W_E)
        assert not twin.training
        for ours, theirs in zip(token_rows(model, array, "hook_embed"), token_rows(other, array, "hook_embed")):
            assert (ours.activations["hook_embed"] == theirs.activations["hook_embed"]).all()
        for form in (prompts.to(torch.uint8), prompts[0], prompts[:1].numpy(), [f".{texts[0]}"[1:]]):
            torch.testing.assert_close(lens.run_with_hooks(other, form), model(form), rtol=1e-5, atol=1e-5)
