"""What hooks may do: edit in place or not, in all forms in use, one thread beside another, forward and backward.

One rule holds for every site, backend and mode: an edit equals the same edit on a copy, and reaches nothing else.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cadmus.models import lens
from cadmus.models.config import ModelConfig
from cadmus.models.hooks import Hook, never_writes
from cadmus.models.model import Model
from cadmus.models.run_cache import ActivationCache, recorder
from tests.cadmus.models.test_lens import BACKEND, convert
from tests.models import far_from_trivial

SMALL = ModelConfig(n_layers=1, d_model=12, n_heads=2, d_head=6, d_mlp=16, n_ctx=8, initializer_range=0.4)
CONFIGS = {
    "learned": SMALL,
    "rotary": ModelConfig(**SMALL.to_dict() | {"positional_embedding_type": "rotary", "rotary_dim": 4}),
}
TOKENS = torch.randint(11, 65, (2, 5), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
TOKENS[:, 0] = 10

each_config = pytest.mark.parametrize("config", CONFIGS)
with_and_without_gradients = pytest.mark.parametrize("gradients", [False, True], ids=["no_grad", "grad"])


@functools.cache
def model(config: str = "learned") -> Model:
    return far_from_trivial(CONFIGS[config])


@functools.cache
def network(backend: str, config: str = "learned") -> Any:
    return model(config) if backend == "cadmus" else convert(model(config))


def regions(site: str) -> dict[str, Any]:
    """What is edited, as an index of the activation."""
    places: dict[str, Any] = {"whole": ..., "row": 1, "position": (slice(None), 2)}
    if site.endswith((".hook_pattern", ".hook_attn_scores")):
        places["position"] = (slice(None), slice(None), 2)
        places["head"] = (slice(None), 1)
    elif ".attn.hook_" in site or site.endswith(("_input", "_attn_in")):
        places["head"] = (slice(None), slice(None), 1)
    return places


def value(tensor: Tensor) -> float:
    return 0.3 if tensor.is_floating_point() else 33


def on_a_copy(tensor: Tensor, hook: Any, region: Any) -> Tensor:
    tensor = tensor.clone()
    tensor[region] = value(tensor)
    return tensor


def in_place(tensor: Tensor, hook: Any, region: Any) -> Tensor:
    tensor[region] = value(tensor)
    return tensor


def in_place_by_name(tensor: Tensor, *, hook: Any, region: Any) -> None:
    tensor[region] = value(tensor)


def forms(region: Any) -> Iterator[Callable[..., Tensor | None]]:
    """The same edit in place, as people write it."""
    yield functools.partial(in_place, region=region)
    yield functools.partial(in_place_by_name, region=region)
    yield lambda tensor, h: in_place(tensor, h, region)
    yield lambda tensor, **others: in_place(tensor, others["hook"], region)


# --- an edit in place ------------------------------------------------------------------------------------------------


@each_config
@with_and_without_gradients
def test_an_edit_in_place_is_the_edit_on_a_copy_and_reaches_nothing_else(config: str, gradients: bool) -> None:
    """At every site of our model: same logits, same activations at all sites, those before the edit as without it."""
    ours = model(config)
    regular, on_demand = ours.sites(), ours.sites(on_demand=True)
    with torch.set_grad_enabled(gradients):
        _, plain = ours.run_with_cache(TOKENS)
        for site in regular + on_demand:
            for name, region in regions(site).items():
                given = TOKENS.clone()
                expected = seen(ours, given, site, functools.partial(on_a_copy, region=region))
                # an on-demand site is behind the stream that it copies
                before = regular[: regular.index(site)] if site in regular else [] if "tokens" in site else regular[:1]
                for edit in forms(region):
                    output, cache = seen(ours, given, site, edit)
                    assert torch.equal(output, expected[0]), (site, name)
                    for other in regular:
                        assert torch.equal(cache[other], expected[1][other]), (site, name, other)
                    for other in before:
                        torch.testing.assert_close(cache[other], plain[other], rtol=1e-5, atol=1e-5)
                assert torch.equal(given, TOKENS)
                output.sum().backward() if gradients else None
    ours.zero_grad()


def seen(ours: Model, tokens: Tensor, site: str, edit: Callable) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits under an edit, and what each regular site showed before it was edited there."""
    cache: dict[str, Tensor] = {}
    output = ours.run_with_hooks(tokens, [(set(ours.sites()).__contains__, recorder(cache)), (site, edit)])
    return output, cache


@pytest.mark.parametrize("backend", ["cadmus", BACKEND])
@each_config
@with_and_without_gradients
def test_in_place_on_every_backend(backend: str, config: str, gradients: bool) -> None:
    """The loss, and its gradient by the embedding, wherever the backend takes an edit."""
    target = network(backend, config)
    weights = next(iter(target.parameters()))
    table = lens.capabilities(backend, rotary=config == "rotary")
    sites = lens.sites(target) + lens.sites(target, on_demand=True)
    editable = [site for site in sites if table[site.replace("blocks.0", "blocks")].editable]
    assert len(editable) > 15
    with torch.set_grad_enabled(gradients):
        for site in editable:
            for name, region in regions(site).items():
                results = []
                for edit in (functools.partial(on_a_copy, region=region), *list(forms(region))[:2]):
                    loss = lens.run_with_hooks(target, TOKENS, [(site, edit)], return_type="loss")
                    gradient = torch.zeros(())
                    if loss.requires_grad:
                        gradient = torch.autograd.grad(loss, weights, allow_unused=True)[0]
                    results.append((loss.detach(), torch.zeros(()) if gradient is None else gradient))
                for loss, gradient in results[1:]:
                    assert torch.equal(loss, results[0][0]), (site, name)
                    assert torch.equal(gradient, results[0][1]), (site, name)


def test_a_hook_that_only_reads_is_shown_the_activation_itself() -> None:
    shown: list[Tensor] = []

    @never_writes
    def read(tensor: Tensor, hook: Hook) -> None:
        shown.append(tensor)

    def look(tensor: Tensor, hook: Hook) -> None:
        shown.append(tensor)

    with torch.no_grad():
        model().run_with_hooks(TOKENS, [("blocks.0.hook_resid_post", fn) for fn in (read, look, read)])
    assert shown[0].data_ptr() != shown[1].data_ptr()
    assert shown[1].data_ptr() == shown[2].data_ptr()  # what was looked at goes on: its gradient can be asked for


def test_what_one_hook_keeps_the_next_does_not_change() -> None:
    kept: list[Tensor] = []

    def keep(tensor: Tensor, hook: Hook) -> Tensor:
        kept.append(tensor)
        return tensor

    def clear(tensor: Tensor, hook: Hook) -> None:
        tensor[:] = 0

    with torch.no_grad():
        model().run_with_hooks(TOKENS, [("hook_embed", keep), ("hook_embed", clear)])
    assert kept[0].abs().max() > 0


def test_the_gradient_by_what_a_hook_was_shown_can_be_asked_for() -> None:
    shown: dict[str, Tensor] = {}

    def retain(tensor: Tensor, hook: Hook) -> None:
        tensor.retain_grad()
        shown[hook.name] = tensor

    model().run_with_hooks(TOKENS, [("blocks.0.attn.hook_q", retain)], return_type="loss").backward()
    assert shown["blocks.0.attn.hook_q"].grad.abs().max() > 0
    model().zero_grad()


def test_what_a_cache_holds_shares_no_memory() -> None:
    """Neither the rows of one activation nor two sites that show one tensor."""
    for config in CONFIGS:
        with torch.no_grad():
            _, cache = model(config).run_with_cache(TOKENS)
        before = {site: tensor.clone() for site, tensor in cache.items()}
        for site in cache:
            cache[site][1] = 7
            for other, tensor in before.items():
                assert torch.equal(cache[other][0], tensor[0])
                assert other == site or torch.equal(cache[other], tensor), (site, other)
            cache[site].copy_(before[site])


def test_what_is_no_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match="a hook at 'hook_embed' returned a list; return a tensor, or None"):
        model().run_with_hooks(TOKENS, [("hook_embed", lambda tensor, hook: [tensor])])


# --- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["cadmus", BACKEND])
def test_each_of_four_threads_gets_its_own_cache(backend: str) -> None:
    target = network(backend)
    inputs = [TOKENS.roll(shift, 1) for shift in range(4)]
    with torch.no_grad():
        expected = [lens.run_with_cache(target, tokens)[1] for tokens in inputs]
    wrong: list[Any] = []
    start = threading.Barrier(4)

    def work(number: int) -> None:
        start.wait()
        edits = [("hook_embed", lambda tensor, hook: tensor * (1 + number))]
        with torch.no_grad():
            for _ in range(30):
                output, cache = lens.run_with_cache(target, inputs[number])
                edited = lens.run_with_hooks(target, inputs[number], edits)
                wrong.extend(site for site in expected[number] if not torch.equal(cache[site], expected[number][site]))
                if torch.allclose(edited, output, atol=1e-4) != (number == 0):
                    wrong.append("edit")

    run_threads(work, 4)
    assert wrong == []


def test_a_hook_is_of_the_thread_that_set_it() -> None:
    ours = far_from_trivial(SMALL)
    outputs: dict[int, Any] = {}

    def work(number: int) -> None:
        with torch.no_grad():
            outputs[number] = (ours.has_hooks, ours(TOKENS))

    with torch.no_grad():
        plain = ours(TOKENS)
        with ours.hooks([("hook_embed", lambda tensor, hook: 2 * tensor)]):
            assert ours.has_hooks
            edited = ours(TOKENS)
            run_threads(work, 1)
            ours.reset_hooks()
            assert not ours.has_hooks
            assert torch.equal(ours(TOKENS), plain)
    assert outputs[0][0] is False
    assert torch.equal(outputs[0][1], plain)
    assert not torch.equal(edited, plain)
    assert not ours._sites.active


def run_threads(work: Callable[[int], None], n: int) -> None:
    """Run `work(number)` in n threads; an error in one of them is raised here."""
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # told below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


# --- hooks that stay, and gradients ----------------------------------------------------------------------------------


def test_add_and_reset_hooks() -> None:
    ours = far_from_trivial(SMALL)
    calls: list[str] = []

    def call(name: str) -> Callable:
        return lambda tensor, hook: calls.append(f"{name} {hook.name}")

    ours.add_hook("hook_embed", call("second"))
    ours.add_hook("hook_embed", call("first"), prepend=True)
    ours.add_perma_hook(lambda site: site.endswith("hook_pattern"), call("permanent"))
    ours(TOKENS)
    ours(TOKENS)
    assert calls == ["first hook_embed", "second hook_embed", "permanent blocks.0.attn.hook_pattern"] * 2
    ours.reset_hooks()
    calls.clear()
    ours(TOKENS)
    assert calls == ["permanent blocks.0.attn.hook_pattern"]
    ours.reset_hooks(including_permanent=True)
    assert not ours.has_hooks
    with pytest.raises(ValueError, match="site 'hook_embd' does not exist"):
        ours.add_hook("hook_embd", call(""))
    with pytest.raises(ValueError, match="direction 'forward' is none of"):
        ours.add_hook("hook_embed", call(""), dir="forward")
    assert not ours.has_hooks


def test_what_a_hook_leaves_in_its_context_stays_until_it_is_reset() -> None:
    ours = far_from_trivial(SMALL)

    def leave(tensor: Tensor, hook: Hook) -> None:
        hook.ctx["sum"] = tensor.sum().item()

    ours.run_with_hooks(TOKENS, [("hook_embed", leave)])
    assert ours.hook_dict["hook_embed"].ctx["sum"] != 0
    assert ours.hook_dict["blocks.0.hook_resid_pre"].ctx == {}
    ours.reset_hooks()
    assert ours.hook_dict["hook_embed"].ctx == {}


@each_config
def test_backward_hooks_see_the_gradient_of_every_site_and_replace_it(config: str) -> None:
    ours = model(config)
    for site in ours.sites():
        activations: dict[str, Tensor] = {}
        with ours.hooks([(site, lambda tensor, hook: activations.setdefault(hook.name, tensor))]):  # noqa: B023
            loss = ours(TOKENS, return_type="loss")
        (expected,) = torch.autograd.grad(loss, activations[site])
        _, cache = ours.run_with_cache(TOKENS, site, return_type="loss", incl_bwd=True)
        torch.testing.assert_close(cache[f"{site}_grad"], expected)
    ours.zero_grad()
    for edit in (lambda gradient, hook: 0 * gradient, functools.partial(in_place_by_name, region=...)):
        with ours.hooks(bwd_hooks=[("hook_embed", edit)]):
            ours(TOKENS, return_type="loss").backward()
        constant = 0.3 * torch.bincount(TOKENS.flatten().long(), minlength=65) * (edit.__class__ is functools.partial)
        assert torch.allclose(ours.embed.W_E.grad, constant[:, None].expand(65, 12))
        ours.zero_grad()
    silent = "the hook at 'hook_embed' never fired: no backward pass within the context"
    with pytest.raises(ValueError, match=silent), ours.hooks(bwd_hooks=[("hook_embed", print)]):
        ours(TOKENS, return_type="loss")
    with pytest.raises(ValueError, match="bwd_hooks of run_with_hooks are gone before a backward pass"):
        ours.run_with_hooks(TOKENS, bwd_hooks=[("hook_embed", print)])
    ours.zero_grad()


def test_a_hook_that_is_gone_is_not_called_by_a_late_backward_pass() -> None:
    ours = model()
    calls: list[str] = []
    loss = ours.run_with_hooks(
        TOKENS,
        return_type="loss",
        bwd_hooks=[("hook_embed", lambda gradient, hook: calls.append(hook.name))],
        reset_hooks_end=False,
    )
    loss.backward(retain_graph=True)
    assert calls == ["hook_embed"]
    ours.reset_hooks()
    loss.backward()
    assert calls == ["hook_embed"]
    ours.zero_grad()


# --- torch's own hooks -----------------------------------------------------------------------------------------------


@each_config
def test_torchs_forward_hooks_fire_on_every_module_with_what_it_takes_and_gives(config: str) -> None:
    """As captum, nnsight and pyvene set them: one tensor goes in, one comes out, and what a hook returns goes on."""
    ours = far_from_trivial(CONFIGS[config])
    modules = {name: module for name, module in ours.named_modules() if name and not isinstance(module, nn.ModuleList)}
    assert {"embed", "blocks.0", "blocks.0.ln1", "blocks.0.attn", "blocks.0.mlp", "ln_final", "unembed"} <= set(modules)
    with torch.no_grad():
        plain = ours(TOKENS)
        for name, module in modules.items():
            calls: list[Any] = []
            handle = module.register_forward_hook(lambda _, inputs, output: calls.append((inputs, output)))  # noqa: B023
            assert torch.equal(ours(TOKENS), plain)
            handle.remove()
            assert calls, f"{name} never fired"
            inputs, output = calls[0]
            assert len(inputs) == 1 + name.endswith("rotary")
            assert all(isinstance(tensor, Tensor) for tensor in (*inputs, output))
            handle = module.register_forward_hook(lambda _, inputs, output: output.flip(-2))
            assert not torch.equal(ours(TOKENS), plain), name
            handle.remove()
    handle = ours.blocks[0].mlp.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="a hook is set, but packed programs have no"):
        ours.check_unhooked()
    handle.remove()
    ours.check_unhooked()


def test_the_config_under_the_names_of_transformers() -> None:
    config = model().config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (12, 1, 2)
    assert config.hidden_size // config.num_attention_heads == config.head_dim
    assert config.to_dict()["intermediate_size"] == 16
    assert "use_cache" not in config.to_dict()  # pyvene passes it on where it is there


def test_a_short_name_of_a_cache_that_is_not_there_is_said() -> None:
    _, cache = model().run_with_cache(TOKENS, "hook_embed")
    assert isinstance(cache, ActivationCache)
    with pytest.raises(KeyError, match=r"'blocks\.0\.hook_resid_post' was not cached in this run, which has 1 sites"):
        cache["resid_post", 0]
