"""The model: HookedTransformer's activations at every site, hooks that edit and never fail silently."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cadmus.corpora.build import build
from cadmus.machine import tokens
from cadmus.models.config import ModelConfig
from cadmus.models.hooks import Hook
from cadmus.models.model import Model, loss_mask, next_token_loss
from cadmus.programs import mixture
from tests.models import far_from_trivial

PAD = tokens.PAD
CFG = ModelConfig(n_layers=2, d_model=32, n_heads=4, d_head=8, d_mlp=48, n_ctx=40, initializer_range=0.3)
ROTARY = dataclasses.replace(CFG, positional_embedding_type="rotary", rotary_dim=6, rotary_base=100)
CONFIGS = [CFG, ROTARY]
SITES = Model(CFG).sites()


@cache
def model(cfg: ModelConfig = CFG) -> Model:
    return far_from_trivial(cfg)


@cache
def programs() -> Tensor:
    """Real programs of all families as the model reads them: uint8 [24, positions]."""
    corpus = build(mixture.load("first"), 24)
    return torch.from_numpy(tokens.sequences(corpus.programs(np.arange(24))))


@cache
def hooked(cfg: ModelConfig = CFG, *flags: str) -> Any:
    """The same model as a HookedTransformer, with flags of its config set."""
    import transformer_lens  # takes seconds

    if not hasattr(transformer_lens, "HookedTransformer"):
        pytest.skip("transformer_lens 4 has no HookedTransformer")
    fields = {**cfg.to_dict(), **dict.fromkeys(flags, True)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        lens = transformer_lens.HookedTransformer(transformer_lens.HookedTransformerConfig(**fields))
    missing, unexpected = lens.load_state_dict(model(cfg).state_dict(), strict=False)
    assert unexpected == []
    rotary = {"rotary_sin", "rotary_cos"} if cfg is ROTARY else set()
    assert {name.rpartition(".")[2] for name in missing} == {"mask", "IGNORE"} | rotary
    return lens.eval()


def same(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    """Equal shapes, equal places of -inf, and elsewhere within the tolerance, as a share of the largest entry: sums of
    large terms may come out small."""
    largest = max(1.0, float(b.detach()[b.isfinite()].abs().max()))
    return a.shape == b.shape and torch.allclose(a, b, atol=tolerance * largest, rtol=tolerance)


# --- as HookedTransformer --------------------------------------------------------------------------------------------

EITHER = pytest.mark.parametrize("cfg", CONFIGS, ids=["learned", "rotary"])


@pytest.mark.slow
@EITHER
def test_state_dict_loads_with_only_buffers_missing(cfg: ModelConfig) -> None:
    parameters = dict(model(cfg).named_parameters())
    for name, tensor in hooked(cfg).named_parameters():
        assert torch.equal(tensor, parameters.pop(name)), name
    assert not parameters


@EITHER
@pytest.mark.parametrize("gradients", [False, True])
def test_logits_and_every_site_are_hooked_transformers(cfg: ModelConfig, gradients: bool) -> None:
    with torch.set_grad_enabled(gradients):
        logits, cache = model(cfg).run_with_cache(programs())
        expected, theirs = hooked(cfg).run_with_cache(programs().long())
    assert same(logits, expected)
    assert list(cache) == model(cfg).sites()
    assert set(cache) == set(theirs)
    for site in cache:
        assert same(cache[site], theirs[site]), site
        assert not cache[site].requires_grad


@EITHER
def test_each_site_alone_is_hooked_transformers(cfg: ModelConfig) -> None:
    """One site at a time, so that the fused path runs at all others."""
    with torch.no_grad():
        expected, theirs = hooked(cfg).run_with_cache(programs().long())
        for site in model(cfg).sites():
            logits, cache = model(cfg).run_with_cache(programs(), names_filter=site)
            assert list(cache) == [site]
            assert same(cache[site], theirs[site]), site
            assert same(logits, expected), site


def scaling(site: str) -> Callable[[Tensor, Any], Tensor]:
    """An edit that no LayerNorm undoes: every entry times its own number in 0.5 ... 1.5."""

    def edit(tensor: Tensor, hook: Any) -> Tensor:
        assert hook.name == site
        generator = torch.Generator().manual_seed(7)
        return tensor * (0.5 + torch.rand(tensor.shape[1:], generator=generator))

    return edit


@EITHER
def test_an_edit_moves_the_logits_as_it_moves_hooked_transformers(cfg: ModelConfig) -> None:
    with torch.no_grad():
        plain = model(cfg)(programs())
        for site in model(cfg).sites():
            edited = model(cfg).run_with_hooks(programs(), fwd_hooks=[(site, scaling(site))])
            expected = hooked(cfg).run_with_hooks(programs().long(), fwd_hooks=[(site, scaling(site))])
            assert torch.equal(model(cfg)(programs()), plain), f"the edit at {site} stayed"
            assert same(edited, expected, 3e-5), site
            assert not same(edited, plain, 1e-3), site


def test_edits_at_several_sites_follow_one_another() -> None:
    sites = ["blocks.0.attn.hook_pattern", "blocks.0.hook_resid_post", "blocks.1.mlp.hook_post"]
    edits = [(site, scaling(site)) for site in sites]
    twice = [*edits, edits[1]]  # and one site may be edited twice
    with torch.no_grad():
        results = [model().run_with_hooks(programs(), fwd_hooks=hooks) for hooks in (edits, twice)]
        theirs = [hooked().run_with_hooks(programs().long(), fwd_hooks=hooks) for hooks in (edits, twice)]
    assert same(results[0], theirs[0], 3e-5)
    assert same(results[1], theirs[1], 3e-5)
    assert not same(results[0], results[1], 1e-3)


@EITHER
def test_gradients_are_hooked_transformers(cfg: ModelConfig) -> None:
    """The path that is trained: the same gradient for every parameter."""
    gradients = []
    for network in (model(cfg), hooked(cfg)):
        network.zero_grad()
        next_token_loss(network(programs().long()), programs()).backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
        network.zero_grad()
    for name, gradient in gradients[0].items():
        assert same(gradient, gradients[1][name]), name
        # softmax ignores what all keys share; turned, they share nothing but the dimensions that are not
        assert gradient.abs().max() > 1e-6 or name.endswith("b_K"), name


# --- sites on demand -------------------------------------------------------------------------------------------------

FLAGS = {  # what HookedTransformer computes only where its config says so
    "hook_tokens": "use_hook_tokens",
    "hook_attn_in": "use_attn_in",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
    "hook_result": "use_attn_result",
    "hook_mlp_in": "use_hook_mlp_in",
}


def flag(site: str) -> str:
    return FLAGS[site.rpartition(".")[2]]


@EITHER
def test_the_two_lists_are_all_sites_of_hooked_transformer(cfg: ModelConfig) -> None:
    regular, on_demand = model(cfg).sites(), model(cfg).sites(on_demand=True)
    assert not set(regular) & set(on_demand)
    assert {*regular, *on_demand} == set(hooked(cfg, "use_hook_tokens").hook_dict)


@EITHER
def test_sites_on_demand_are_hooked_transformers(cfg: ModelConfig) -> None:
    plain = model(cfg)(programs())
    for site in model(cfg).sites(on_demand=True):
        lens = hooked(cfg, flag(site))
        logits, cache = model(cfg).run_with_cache(programs(), names_filter=site)
        _, theirs = lens.run_with_cache(programs().long(), names_filter=site)
        assert same(cache[site], theirs[site]), site
        assert same(logits, plain), site


@EITHER
def test_an_edit_on_demand_moves_the_logits_as_it_moves_hooked_transformers(cfg: ModelConfig) -> None:
    with torch.no_grad():
        plain = model(cfg)(programs())
        for site in set(model(cfg).sites(on_demand=True)) - {"hook_tokens"}:
            edited = model(cfg).run_with_hooks(programs(), fwd_hooks=[(site, scaling(site))])
            expected = hooked(cfg, flag(site)).run_with_hooks(programs().long(), fwd_hooks=[(site, scaling(site))])
            assert same(edited, expected, 3e-5), site
            assert not same(edited, plain, 1e-3), site


def test_an_edit_of_tokens_is_an_edit_of_the_input() -> None:
    before = programs().clone()
    edit = [("hook_tokens", lambda tokens, hook: tokens.clamp_(max=20))]  # in place, as it may be
    edited = model().run_with_hooks(programs(), edit, return_type="both")
    expected = model()(programs().clamp(max=20), return_type="both")
    assert all(torch.equal(a, b) for a, b in zip(edited, expected, strict=True))
    assert torch.equal(programs(), before), "the caller's tokens were written to"


@pytest.mark.parametrize("name", ["hook_mlp_in", "hook_attn_in", "hook_q_input"])
def test_an_edit_in_place_of_what_a_part_reads_leaves_the_residual_stream(name: str) -> None:
    stream = "blocks.0.hook_resid_mid" if name == "hook_mlp_in" else "blocks.0.hook_resid_pre"
    with torch.no_grad():
        _, before = model().run_with_cache(programs(), stream)
        with model().hooks([(f"blocks.0.{name}", lambda tensor, hook: tensor.zero_())]):
            edited, after = model().run_with_cache(programs(), stream)
        assert torch.equal(before[stream], after[stream])
        assert not same(edited, model()(programs()), 1e-3)


def test_predicates_select_sites_on_demand_and_none_does_not() -> None:
    _, cache = model().run_with_cache(programs(), lambda name: name.endswith(("hook_result", "hook_z")))
    assert list(cache) == [f"blocks.{i}.attn.hook_{name}" for i in range(2) for name in ("z", "result")]
    _, cache = model().run_with_cache(programs())
    assert not set(cache) & set(model().sites(on_demand=True))


# --- fused and explicit ----------------------------------------------------------------------------------------------


@EITHER
def test_fused_and_explicit_paths_agree(cfg: ModelConfig) -> None:
    sites = {"attention": "attn.hook_pattern", "scores": "attn.hook_attn_scores", "LayerNorm": "ln1.hook_scale"}
    asking = [(lambda name: name.endswith("attn.hook_pattern"), lambda tensor, hook: None)]
    explicit = model(cfg).run_with_hooks(programs(), fwd_hooks=asking)
    assert explicit.requires_grad
    with torch.no_grad():
        fused = model(cfg)(programs())
        assert not torch.equal(fused, explicit), "the paths are one, so that nothing is compared"
        assert same(fused, explicit)
        for site in sites.values():
            seen = []
            hooks = [
                (lambda name, site=site: name.endswith(site), lambda tensor, hook, seen=seen: seen.append(hook.name))
            ]
            assert same(model(cfg).run_with_hooks(programs(), fwd_hooks=hooks), explicit)
            assert seen == [f"blocks.{i}.{site}" for i in range(CFG.n_layers)]


@EITHER
def test_gradients_are_those_of_the_explicit_path(cfg: ModelConfig) -> None:
    gradients = []
    for hooks in ([], [(lambda name: name.endswith("attn.hook_pattern"), lambda tensor, hook: None)]):
        model(cfg).zero_grad()
        model(cfg).run_with_hooks(programs(), fwd_hooks=hooks, return_type="loss").backward()
        gradients.append({name: parameter.grad for name, parameter in model(cfg).named_parameters()})
    for name, gradient in gradients[0].items():
        assert same(gradient, gradients[1][name], 3e-5), name


def test_patterns_are_causal_distributions() -> None:
    _, cache = model().run_with_cache(programs(), names_filter=lambda name: name.endswith(("pattern", "scores")))
    for i in range(CFG.n_layers):
        pattern = cache[f"blocks.{i}.attn.hook_pattern"]
        future = torch.ones(pattern.shape[-2:], dtype=torch.bool).triu(1)
        assert torch.allclose(pattern.sum(-1), torch.ones(()))
        assert (pattern[..., future] == 0).all()
        assert (cache[f"blocks.{i}.attn.hook_attn_scores"][..., future] == -math.inf).all()


@pytest.mark.parametrize("gradients", [False, True])
def test_later_tokens_leave_earlier_logits(gradients: bool) -> None:
    changed = programs().clone()
    changed[:, 6:] = (changed[:, 6:] + 3) % CFG.d_vocab
    with torch.set_grad_enabled(gradients):
        before, after = model()(programs()), model()(changed)
    assert same(before[:, :6], after[:, :6], 1e-6)
    assert ((before - after)[:, 6].abs().amax(-1) > 1e-3).all()


# --- hooks -----------------------------------------------------------------------------------------------------------


def test_a_hook_that_returns_nothing_only_looks() -> None:
    seen = []
    with torch.no_grad():
        plain = model()(programs())
        looked = model().run_with_hooks(programs(), [("hook_embed", lambda tensor, hook: seen.append(tensor.shape))])
    assert torch.equal(plain, looked)
    assert seen == [(*programs().shape, CFG.d_model)]


def test_hooks_know_their_place() -> None:
    places = []
    model().run_with_hooks(programs(), [(lambda name: "resid_mid" in name or name == "hook_embed", places_of(places))])
    assert places == [("hook_embed", None), ("blocks.0.hook_resid_mid", 0), ("blocks.1.hook_resid_mid", 1)]
    with pytest.raises(ValueError, match=r"site 'hook_embed' belongs to no block"):
        Hook("hook_embed").layer()


def places_of(places: list) -> Callable[[Tensor, Hook], None]:
    def look(tensor: Tensor, hook: Hook) -> None:
        places.append((hook.name, hook.layer() if hook.name.startswith("blocks.") else None))

    return look


def unknown(site: str, hint: str) -> str:
    return re.escape(
        f"site {site!r} does not exist{hint}: the model has 2 layers (blocks.0 ... blocks.1); see model.sites()"
    )


@pytest.mark.parametrize(
    ("site", "hint"),
    [
        ("blocks.9.hook_resid_post", " (did you mean 'blocks.1.hook_resid_post'?)"),
        ("blocks.0.attn.hook_patern", " (did you mean 'blocks.0.attn.hook_pattern'?)"),
        ("?", ""),
    ],
)
def test_unknown_sites_are_refused(site: str, hint: str) -> None:
    for run in (
        lambda: model().run_with_cache(programs(), names_filter=site),
        lambda: model().run_with_cache(programs(), names_filter=["hook_embed", site]),
        lambda: model().run_with_hooks(programs(), [("hook_embed", lambda t, hook: t), (site, lambda t, hook: t)]),
    ):
        with pytest.raises(ValueError, match=unknown(site, hint)):
            run()
    assert not model().has_hooks


def test_a_filter_that_selects_nothing_is_refused() -> None:
    for run in (model().run_with_cache, lambda tokens, names: model().run_with_hooks(tokens, [(names, print)])):
        with pytest.raises(ValueError, match=r"the names_filter selects no site; see model\.sites\(\)"):
            run(programs(), lambda name: name.startswith("blocks.7."))


def test_a_hook_that_never_fired_is_an_error() -> None:
    def enter(hooks: list) -> None:
        with model().hooks(hooks):
            pass

    def look(tensor: Tensor, hook: Hook) -> None:
        pass

    behind = "never fired: no forward pass within the context came there"
    with pytest.raises(ValueError, match=f"the hook at 'hook_embed' {behind}"):
        enter([("hook_embed", look)])
    message = rf"the hooks at 'blocks\.0\.attn\.hook_z' \(and 1 more\), 'hook_embed' {behind}"
    with pytest.raises(ValueError, match=message):
        enter([(lambda name: name.endswith("hook_z"), look), ("hook_embed", look)])
    enter([])  # nothing is expected of no hooks


def test_a_hook_behind_the_last_layer_that_ran_never_fired() -> None:
    edits = [(f"blocks.{i}.hook_resid_pre", lambda tensor, hook: tensor) for i in range(2)]
    message = r"the hook at 'blocks\.1\.hook_resid_pre' never fired"
    with pytest.raises(ValueError, match=message):
        model().run_with_hooks(programs(), edits, stop_at_layer=1)
    with pytest.raises(ValueError, match=message):
        model().run_with_cache(programs(), [name for name, _ in edits], stop_at_layer=1)
    with pytest.raises(ValueError, match=r"the hook at 'unembed\.hook_in' \(and 1 more\) never fired"):
        model().run_with_cache(programs(), lambda name: name.startswith("unembed"), return_type=None)
    assert not model().has_hooks


def test_hooks_stay_for_the_context_and_no_longer() -> None:
    count = []
    with torch.no_grad():
        plain = model()(programs())
        with model().hooks(
            [("blocks.0.hook_mlp_out", lambda tensor, hook: count.append(0) or tensor * 0)]
        ) as same_model:
            assert same_model is model()
            ablated = [model()(programs()), model()(programs())]
        assert len(count) == 2
        assert torch.equal(*ablated)
        assert not same(ablated[0], plain, 1e-3)
        assert torch.equal(model()(programs()), plain)
    assert len(count) == 2


def test_contexts_nest() -> None:
    order = []

    def note(name: str) -> Callable[[Tensor, Hook], None]:
        return lambda tensor, hook: order.append(name)

    with torch.no_grad(), model().hooks([("hook_embed", note("outer"))]):
        with model().hooks([("hook_embed", note("inner"))]):
            model()(programs())
        model()(programs())
    assert order == ["outer", "inner", "outer"]
    assert not model().has_hooks


def test_hooks_are_removed_after_an_exception() -> None:
    def fail(tensor: Tensor, hook: Hook) -> None:
        raise ZeroDivisionError(f"at {hook.name}")

    hooks = [("hook_embed", lambda tensor, hook: tensor * 0), ("blocks.1.attn.hook_q", fail)]
    plain = model()(programs())
    with pytest.raises(ZeroDivisionError, match=r"at blocks\.1\.attn\.hook_q"):  # not "a hook never fired"
        model().run_with_hooks(programs(), hooks)
    assert torch.equal(model()(programs()), plain)
    with pytest.raises(IndexError), model().hooks(hooks[:1]):
        [][0]
    assert torch.equal(model()(programs()), plain)
    assert not model().has_hooks


# --- filters and return types ----------------------------------------------------------------------------------------


def test_names_filters() -> None:
    z = [f"blocks.{i}.attn.hook_z" for i in range(CFG.n_layers)]
    for names_filter, expected in [
        (None, SITES),
        (z[1], [z[1]]),
        (z, z),
        (tuple(z), z),
        ((name for name in z), z),
        (lambda name: name.endswith("hook_z"), z),
        ([], []),
    ]:
        _, cache = model().run_with_cache(programs(), names_filter=names_filter)
        assert list(cache) == expected


def test_cached_activations_are_the_edited_ones() -> None:
    with model().hooks([("blocks.0.hook_resid_post", lambda tensor, hook: torch.ones_like(tensor))]):
        _, cache = model().run_with_cache(
            programs(), names_filter=["blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"]
        )
    assert all((tensor == 1).all() for tensor in cache.values())
    assert len(cache) == 2


def test_return_types() -> None:
    logits, loss = model()(programs(), return_type="both")
    assert torch.equal(model()(programs()), logits)
    assert torch.equal(model()(programs(), return_type="logits"), logits)
    assert torch.equal(model()(programs(), return_type="loss"), loss)
    assert loss.shape == ()
    with_cache, cache = model().run_with_cache(programs(), names_filter=[], return_type="loss")
    assert torch.equal(with_cache, loss)
    assert cache == {}
    with_hooks = model().run_with_hooks(programs(), fwd_hooks=[], return_type="both")
    assert torch.equal(with_hooks[0], logits)
    assert torch.equal(with_hooks[1], loss)
    with pytest.raises(ValueError, match=r"return_type 'probs' is none of 'logits', 'loss', 'both', None"):
        model()(programs(), return_type="probs")


def test_no_output_runs_all_but_the_unembedding() -> None:
    nothing, cache = model().run_with_cache(programs(), return_type=None)
    assert nothing is None
    assert set(SITES) - set(cache) == {"unembed.hook_in", "unembed.hook_out"}


@EITHER
@torch.no_grad()
def test_stopping_at_a_layer_is_hooked_transformers(cfg: ModelConfig) -> None:
    double = [("hook_embed", lambda tensor, hook: 2 * tensor)]
    for layer in (0, 1, 2, -1, -2):
        stream, cache = model(cfg).run_with_cache(programs(), stop_at_layer=layer)
        expected, theirs = hooked(cfg).run_with_cache(programs().long(), stop_at_layer=layer)
        assert same(stream, expected), layer
        assert set(cache) == set(theirs), layer
        assert same(model(cfg)(programs(), stop_at_layer=layer, return_type="loss"), expected), layer
        edited = model(cfg).run_with_hooks(programs(), double, stop_at_layer=layer)
        theirs = hooked(cfg).run_with_hooks(programs().long(), fwd_hooks=double, stop_at_layer=layer)
        assert same(edited, theirs), layer
        assert not same(edited, expected, 1e-3), layer


def test_stopping_at_a_layer_that_is_not_there() -> None:
    for layer in (3, -3):
        with pytest.raises(ValueError, match=rf"stop_at_layer = {layer} is outside -2 \.\.\. 2, the model's layers"):
            model()(programs(), stop_at_layer=layer)


def test_loss_by_hand() -> None:
    """Of each row, the tokens behind the marker through the first `.`; all of them where there is none."""
    rows = torch.tensor(
        [[PAD, 3, PAD, PAD, 5, 6], [PAD, PAD, 7, 8, PAD, 1], [PAD, 1, 2, 3, 4, PAD], [PAD, 1, 2, 3, 4, 5]]
    )
    counted = [[3, PAD], [PAD], [1, 2, 3, 4, PAD], [1, 2, 3, 4, 5]]
    assert [row[1:][mask].tolist() for row, mask in zip(rows, loss_mask(rows), strict=True)] == counted
    logits, loss = model()(rows, return_type="both")
    terms = []
    for row, targets in zip(logits.tolist(), counted, strict=True):
        for scores, target in zip(row[: len(targets)], targets, strict=True):
            terms.append(math.log(sum(map(math.exp, scores))) - scores[target])
    assert len(terms) == 13
    assert loss.item() == pytest.approx(sum(terms) / 13, rel=1e-5)


def test_loss_does_not_depend_on_padding_or_what_stands_behind() -> None:
    with torch.no_grad():
        rows = programs()
        wider = torch.cat([rows, torch.full((len(rows), 5), PAD, dtype=rows.dtype)], 1)
        garbage = wider.clone()
        garbage[:, 1:][~loss_mask(wider)] = 3
        losses = [model()(tokens, return_type="loss") for tokens in (rows, wider, garbage)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    assert losses[0].item() == pytest.approx(losses[2].item(), rel=1e-5)


# --- configuration and seeds -----------------------------------------------------------------------------------------


def test_too_many_positions() -> None:
    with torch.no_grad():
        assert model()(torch.zeros(1, CFG.n_ctx, dtype=torch.uint8)).shape == (1, CFG.n_ctx, CFG.d_vocab)
        with pytest.raises(ValueError, match="41 positions, but the model has n_ctx = 40"):
            model()(torch.zeros(1, CFG.n_ctx + 1, dtype=torch.uint8))


def test_sizes_below_one_are_refused() -> None:
    for name in ("n_layers", "d_model", "n_heads", "d_head", "d_mlp", "n_ctx"):
        with pytest.raises(ValueError, match=f"{name} = 0 must be 1 or more"):
            ModelConfig(**{name: 0})
    for name in ("eps", "initializer_range"):
        with pytest.raises(ValueError, match=f"{name} = 0 must be above 0"):
            ModelConfig(**{name: 0})


def test_a_model_is_shown_in_one_line() -> None:
    assert repr(Model(ModelConfig(n_layers=6, d_head=32))) == "Model(6 layers, width 128, 1.2 M parameters)"
    assert (
        repr(Model(CFG)) == f"Model(2 layers, width 32, {sum(p.numel() for p in Model(CFG).parameters()):,} parameters)"
    )


def test_what_is_not_built_is_refused() -> None:
    with pytest.raises(ValueError, match="act_fn = 'relu' is not built; use 'gelu'"):
        ModelConfig(act_fn="relu")
    with pytest.raises(ValueError, match="normalization_type = 'RMS' is not built; use 'LN'"):
        ModelConfig(normalization_type="RMS")
    message = "positional_embedding_type = 'alibi' is not built; use 'standard' or 'rotary'"
    with pytest.raises(ValueError, match=message):
        ModelConfig(positional_embedding_type="alibi")


def test_contradictions_are_refused() -> None:
    with pytest.raises(ValueError, match="n_heads = 3 does not divide d_model = 128; change one of them"):
        ModelConfig(n_heads=3)
    with pytest.raises(ValueError, match="rotary_dim = 8 has no meaning with learned positions; leave it None"):
        ModelConfig(rotary_dim=8)
    for wrong in (5, 0, 34, -2):
        message = f"rotary_dim = {wrong} must be even and from 2 to d_head = 32"
        with pytest.raises(ValueError, match=message):
            ModelConfig(positional_embedding_type="rotary", rotary_dim=wrong)
    with pytest.raises(ValueError, match="rotary_dim = 5 must be even"):
        ModelConfig(positional_embedding_type="rotary", d_head=5)
    with pytest.raises(ValueError, match=r"rotary_base = 0 must be positive; 10000 is usual"):
        ModelConfig(positional_embedding_type="rotary", rotary_base=0)


def test_config_round_trip() -> None:
    for cfg in (*CONFIGS, ModelConfig(positional_embedding_type="rotary")):
        assert ModelConfig(**json.loads(json.dumps(cfg.to_dict()))) == cfg


def test_configs_stored_before_rotary_positions_load() -> None:
    stored = {
        "n_layers": 3,
        "d_model": 96,
        "n_heads": 3,
        "d_head": 32,
        "d_mlp": 384,
        "n_ctx": 48,
        "d_vocab": 65,
        "act_fn": "gelu",
        "normalization_type": "LN",
        "positional_embedding_type": "standard",
        "eps": 1e-05,
        "initializer_range": 0.02,
    }
    assert ModelConfig(**stored).to_dict() == stored, "and are written as they were: a run's identity stays the same"


def test_rotary_turns_all_of_a_head_unless_told_otherwise() -> None:
    cfg = dataclasses.replace(ROTARY, rotary_dim=None)
    whole = dataclasses.replace(ROTARY, rotary_dim=8)
    with torch.no_grad():
        default = Model(cfg).eval()(programs())
        all_of_a_head = Model(whole).eval()(programs())
        part_of_a_head = Model(ROTARY).eval()(programs())
    assert torch.equal(default, all_of_a_head)
    assert not same(default, part_of_a_head, 1e-3)


def test_rotary_scores_depend_on_distance_alone() -> None:
    """The same token everywhere: a score is a function of how far apart query and key stand."""
    _, cache = model(ROTARY).run_with_cache(torch.full((1, 12), 3), "blocks.0.attn.hook_attn_scores")
    scores = cache["blocks.0.attn.hook_attn_scores"][0]
    for distance in range(11):
        along = scores.diagonal(-distance, 1, 2)
        assert same(along, along[:, :1].expand_as(along), 1e-4)
    assert not same(scores[:, -1, 3], scores[:, -1, 4], 1e-2)


def test_a_seed_fixes_the_weights_and_nothing_else() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = Model(CFG, seed=1), Model(CFG, seed=1), Model(CFG, seed=2)
    assert torch.equal(torch.get_rng_state(), state), "global random state was touched"
    for (name, a), b, c in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert torch.equal(a, c) is (".W_" not in name), name


def test_initial_weights_have_their_scale() -> None:
    """GPT-2's: what writes to the residual stream is smaller by the square root of twice the layers."""
    cfg = dataclasses.replace(CFG, d_model=128, n_layers=3, initializer_range=0.02)
    weights = dict(Model(cfg).named_parameters())
    assert weights["blocks.2.mlp.W_in"].std().item() == pytest.approx(0.02, rel=0.05)
    assert weights["embed.W_E"].std().item() == pytest.approx(0.02, rel=0.05)
    for name in ("attn.W_O", "mlp.W_out"):
        assert weights[f"blocks.1.{name}"].std().item() == pytest.approx(0.02 / 6**0.5, rel=0.05)
    assert (weights["blocks.0.ln1.w"] == 1).all()
    assert (weights["blocks.0.attn.b_Q"] == 0).all()


def test_the_config_is_hooked_transformers() -> None:
    import transformer_lens

    assert transformer_lens.HookedTransformerConfig(**ModelConfig().to_dict()).d_vocab == 65
    assert transformer_lens.HookedTransformerConfig(**ROTARY.to_dict()).rotary_dim == 6
