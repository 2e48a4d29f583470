"""The model under torch.compile: the same numbers, and hooks that fire whenever they are set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cadmus.models import backends
from cadmus.models.config import ModelConfig
from cadmus.models.hooks import Hook
from cadmus.models.model import Model
from tests.cadmus.models.test_model import same

CFG = ModelConfig(n_layers=1, d_model=16, n_heads=2, d_head=8, d_mlp=16, n_ctx=16, initializer_range=0.5)
ROTARY = replace(CFG, positional_embedding_type="rotary")
TOKENS = torch.randint(65, (3, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def graphs(model: Model) -> tuple[Callable[..., object], list[int]]:
    """`model` compiled by a backend that runs graphs as they are and counts the operations of each."""
    sizes: list[int] = []

    def count(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        sizes.append(len(graph.graph.nodes))
        return graph.forward

    return torch.compile(model, backend=count), sizes


def test_a_compiled_model_gives_the_same() -> None:
    """By the default compiler (seconds: it calls a C++ compiler)."""
    model = Model(CFG).eval()
    compiled = torch.compile(model)
    with torch.no_grad():
        expected = model(TOKENS, return_type="both")
        for result, eager in zip(compiled(TOKENS, return_type="both"), expected, strict=True):
            assert same(result, eager)


@pytest.mark.parametrize("cfg", [CFG, ROTARY], ids=["learned", "rotary"])
def test_a_compiled_model_trains_the_same(cfg: ModelConfig) -> None:
    gradients = []
    model = Model(cfg)
    for callee in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        callee(TOKENS, return_type="loss").backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for expected, gradient in zip(*gradients, strict=True):
        assert same(gradient, expected)


@pytest.mark.parametrize("cfg", [CFG, ROTARY], ids=["learned", "rotary"])
@torch.no_grad()
def test_hooks_set_after_compiling_fire_and_compile_nothing(cfg: ModelConfig) -> None:
    model = Model(cfg).eval()
    compiled, sizes = graphs(model)
    plain = compiled(TOKENS)
    assert same(plain, model(TOKENS))
    assert len(sizes) == 1, "the model is one graph"
    seen = []

    def edit(tensor: Tensor, hook: Hook) -> Tensor:
        seen.append((hook.name, float(tensor.sum())))  # what no graph could hold
        return tensor * torch.linspace(0.5, 1.5, tensor.shape[-1])

    for site in model.sites() + model.sites(on_demand=True):
        if site == "hook_tokens":
            continue
        with model.hooks([(site, edit)]):
            edited = compiled(TOKENS)
            assert torch.equal(edited, model(TOKENS)), site
        assert not same(edited, plain, 1e-6), site
        assert seen[0] == seen[1]
        assert seen[0][0] == site
        seen.clear()
    assert torch.equal(compiled(TOKENS), plain)
    assert len(sizes) == 1, "hooks made it compile anew"


@torch.no_grad()
def test_the_ways_to_run_with_hooks_work_on_a_compiled_model() -> None:
    model = Model(CFG).eval()
    compiled, _ = graphs(model)
    plain = compiled(TOKENS)
    logits, cache = compiled.run_with_cache(TOKENS)
    assert same(logits, plain)
    assert list(cache) == model.sites()
    edited = compiled.run_with_hooks(TOKENS, [("hook_embed", lambda tensor, hook: 2 * tensor)])
    assert not same(edited, plain, 1e-5)
    with (
        pytest.raises(ValueError, match="the hook at 'unembed\\.hook_in' never fired"),
        compiled.hooks([("unembed.hook_in", lambda tensor, hook: tensor)]),
    ):
        compiled(TOKENS, stop_at_layer=1)
    with pytest.raises(ValueError, match="site 'nowhere' does not exist"), compiled.hooks([("nowhere", print)]):
        pass


@pytest.mark.parametrize("cfg", [CFG, ROTARY], ids=["learned", "rotary"])
@torch.no_grad()
def test_the_backends_take_a_compiled_model_as_its_original(cfg: ModelConfig) -> None:
    model = Model(cfg).eval()
    compiled, _ = graphs(model)
    plain = compiled(TOKENS)

    def edit(tensor: Tensor, hook: Hook) -> Tensor:
        return tensor * torch.linspace(0.5, 1.5, tensor.shape[-1])

    for site in backends.sites(model) + backends.sites(model, on_demand=True):
        ours, theirs = (backends.read(each, TOKENS, site)[site] for each in (model, compiled))
        assert torch.equal(ours, theirs), site
        assert torch.equal(backends.run_with_cache(compiled, TOKENS, site)[1][site], ours), site
        if site == "hook_tokens":
            continue
        with backends.hooks(compiled, [(site, edit)]) as given:
            assert given is compiled
            edited = given(TOKENS)
        assert torch.equal(edited, backends.run_with_hooks(model, TOKENS, [(site, edit)])), site
        assert torch.equal(edited, backends.run_with_hooks(compiled, TOKENS, [(site, edit)])), site
        assert not same(edited, plain, 1e-6), site
    assert torch.equal(compiled(TOKENS), plain)
