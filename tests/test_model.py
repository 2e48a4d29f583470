"""The model: HookedTransformer's activations at every site, hooks that edit and never fail silently, generation."""

from __future__ import annotations

import dataclasses
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

from cadmus import mixture, tokens
from cadmus.build import build
from cadmus.model import Hook, Model, ModelConfig, loss_mask, next_token_loss

PAD = tokens.PAD
CFG = ModelConfig(n_layers=2, d_model=32, n_heads=4, d_head=8, d_mlp=48, n_ctx=40, initializer_range=0.3)
SITES = Model(CFG).sites()


@cache
def model(seed: int = 0) -> Model:
    """A model that is not trained but far from trivial: weights large, biases and LayerNorm parameters random."""
    made = Model(CFG, seed=seed)
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if ".W_" not in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return made.eval()


@cache
def programs() -> Tensor:
    """Real programs of all families as the model reads them: uint8 [24, positions]."""
    made = build(mixture.load("first"), 24)
    return torch.from_numpy(tokens.sequences(made.programs(np.arange(24))))


@cache
def hooked(seed: int = 0) -> Any:
    """The same model as a HookedTransformer."""
    import transformer_lens  # takes seconds

    if not hasattr(transformer_lens, "HookedTransformer"):
        pytest.skip("transformer_lens 4 has no HookedTransformer")
    known = {field.name for field in dataclasses.fields(transformer_lens.HookedTransformerConfig)}
    fields = {name: value for name, value in CFG.to_dict().items() if name in known}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        lens = transformer_lens.HookedTransformer(transformer_lens.HookedTransformerConfig(**fields))
    missing, unexpected = lens.load_state_dict(model(seed).state_dict(), strict=False)
    assert unexpected == []
    assert {name.rpartition(".")[2] for name in missing} == {"mask", "IGNORE"}
    return lens.eval()


def same(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    """Equal shapes, equal places of -inf, and elsewhere within the tolerance, as a share of the largest entry: sums of
    large terms may come out small."""
    largest = max(1.0, float(b.detach()[b.isfinite()].abs().max()))
    return a.shape == b.shape and torch.allclose(a, b, atol=tolerance * largest, rtol=tolerance)


# --- as HookedTransformer --------------------------------------------------------------------------------------------


def test_state_dict_loads_with_only_buffers_missing() -> None:
    parameters = dict(model().named_parameters())
    for name, tensor in hooked().named_parameters():
        assert torch.equal(tensor, parameters.pop(name)), name
    assert not parameters


@pytest.mark.parametrize("gradients", [False, True])
def test_logits_and_every_site_are_hooked_transformers(gradients: bool) -> None:
    with torch.set_grad_enabled(gradients):
        logits, cache = model().run_with_cache(programs())
        expected, theirs = hooked().run_with_cache(programs().long())
    assert same(logits, expected)
    assert list(cache) == SITES
    for site in SITES:
        assert same(cache[site], theirs[site]), site
        assert not cache[site].requires_grad


def test_each_site_alone_is_hooked_transformers() -> None:
    """One site at a time, so that the fused path runs at all others."""
    _, theirs = hooked().run_with_cache(programs().long())
    with torch.no_grad():
        for site in SITES:
            logits, cache = model().run_with_cache(programs(), names_filter=site)
            assert list(cache) == [site]
            assert same(cache[site], theirs[site]), site
            assert same(logits, hooked()(programs().long())), site


def test_no_site_of_hooked_transformer_is_left_out() -> None:
    """But those that it computes on demand only, and its own around the unembedding, which are the logits."""
    _, theirs = hooked().run_with_cache(programs().long())
    assert {site for site in theirs if not site.startswith("unembed.")} == set(SITES)


def scaling(site: str) -> Callable[[Tensor, Any], Tensor]:
    """An edit that no LayerNorm undoes: every entry times its own number in 0.5 ... 1.5."""

    def edit(tensor: Tensor, hook: Any) -> Tensor:
        assert hook.name == site
        generator = torch.Generator().manual_seed(7)
        return tensor * (0.5 + torch.rand(tensor.shape[1:], generator=generator))

    return edit


@pytest.mark.parametrize("site", SITES)
def test_an_edit_moves_the_logits_as_it_moves_hooked_transformers(site: str) -> None:
    with torch.no_grad():
        plain = model()(programs())
        edited = model().run_with_hooks(programs(), fwd_hooks=[(site, scaling(site))])
        expected = hooked().run_with_hooks(programs().long(), fwd_hooks=[(site, scaling(site))])
        assert torch.equal(model()(programs()), plain), "the edit stayed"
    assert same(edited, expected, 3e-5)
    assert not same(edited, plain, 1e-3)


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


def test_gradients_are_hooked_transformers() -> None:
    """The path that is trained: the same gradient for every parameter."""
    gradients = []
    for one in (model(), hooked()):
        one.zero_grad()
        next_token_loss(one(programs().long()), programs()).backward()
        gradients.append({name: parameter.grad for name, parameter in one.named_parameters()})
        one.zero_grad()
    for name, gradient in gradients[0].items():
        assert same(gradient, gradients[1][name]), name
        assert gradient.abs().max() > 1e-6 or name.endswith("b_K"), name  # softmax ignores what all keys share


# --- fused and explicit ----------------------------------------------------------------------------------------------


def test_fused_and_explicit_paths_agree() -> None:
    sites = {"attention": "attn.hook_pattern", "scores": "attn.hook_attn_scores", "LayerNorm": "ln1.hook_scale"}
    explicit = model()(programs())
    assert explicit.requires_grad
    with torch.no_grad():
        fused = model()(programs())
        assert not torch.equal(fused, explicit), "the paths are one, so that nothing is compared"
        assert same(fused, explicit)
        for site in sites.values():
            seen = []
            hooks = [
                (lambda name, site=site: name.endswith(site), lambda tensor, hook, seen=seen: seen.append(hook.name))
            ]
            assert same(model().run_with_hooks(programs(), fwd_hooks=hooks), explicit)
            assert seen == [f"blocks.{i}.{site}" for i in range(CFG.n_layers)]


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
    assert places == [
        ("hook_embed", None),
        *((f"blocks.{i}.hook_resid_mid", i) for i in range(CFG.n_layers)),
    ]
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
    assert not model()._sites.listeners


def test_a_filter_that_selects_nothing_is_refused() -> None:
    for run in (model().run_with_cache, lambda tokens, chosen: model().run_with_hooks(tokens, [(chosen, print)])):
        with pytest.raises(ValueError, match=r"the names_filter selects no site; see model\.sites\(\)"):
            run(programs(), lambda name: name.startswith("blocks.7."))


def test_a_hook_that_never_fired_is_an_error() -> None:
    def enter(hooks: list) -> None:
        with model().hooks(hooks):
            pass

    message = "a hook never fired: no forward pass ran within the hooks' context"
    with pytest.raises(ValueError, match=message):
        enter([("hook_embed", lambda tensor, hook: None)])
    with pytest.raises(ValueError, match=message):
        enter([(lambda name: name.endswith("hook_z"), lambda tensor, hook: None)])
    enter([])  # nothing is expected of no hooks


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
    assert not model()._sites.listeners


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
    assert not model()._sites.listeners


# --- filters and return types ----------------------------------------------------------------------------------------


def test_names_filters() -> None:
    z = [f"blocks.{i}.attn.hook_z" for i in range(CFG.n_layers)]
    for chosen, expected in [
        (None, SITES),
        (z[1], [z[1]]),
        (z, z),
        (tuple(z), z),
        ((name for name in z), z),
        (lambda name: name.endswith("hook_z"), z),
        ([], []),
    ]:
        _, cache = model().run_with_cache(programs(), names_filter=chosen)
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
    with pytest.raises(ValueError, match=r"return_type 'probs' is none of 'logits', 'loss', 'both'"):
        model()(programs(), return_type="probs")


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


@pytest.mark.parametrize("name", ["n_layers", "d_model", "n_heads", "d_head", "d_mlp", "n_ctx"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} = 0 must be 1 or more"):
        ModelConfig(**{name: 0})


def test_what_is_not_built_is_refused() -> None:
    with pytest.raises(ValueError, match="act_fn = 'relu' is not built; use 'gelu'"):
        ModelConfig(act_fn="relu")
    with pytest.raises(ValueError, match="normalization_type = 'RMS' is not built; use 'LN'"):
        ModelConfig(normalization_type="RMS")
    with pytest.raises(ValueError, match="positional_embedding_type = 'rotary' is not built; use 'standard'"):
        ModelConfig(positional_embedding_type="rotary")


def test_config_round_trip() -> None:
    assert ModelConfig(**CFG.to_dict()) == CFG


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
    made = dict(Model(dataclasses.replace(CFG, d_model=128, n_layers=3, initializer_range=0.02)).named_parameters())
    assert made["blocks.2.mlp.W_in"].std().item() == pytest.approx(0.02, rel=0.05)
    assert made["embed.W_E"].std().item() == pytest.approx(0.02, rel=0.05)
    for name in ("attn.W_O", "mlp.W_out"):
        assert made[f"blocks.1.{name}"].std().item() == pytest.approx(0.02 / 6**0.5, rel=0.05)
    assert (made["blocks.0.ln1.w"] == 1).all()
    assert (made["blocks.0.attn.b_Q"] == 0).all()


# --- generation ------------------------------------------------------------------------------------------------------


def generated(one: Model, prompt: list[int], new: int, allowed: Callable[[list[int]], list[bool]] | None) -> list[int]:
    """Greedy completion as plainly as it can be said."""
    sequence = list(prompt)
    for _ in range(new):
        scores = one(torch.tensor([sequence]))[0, -1].tolist()
        if allowed is not None:
            scores = [score if ok else -math.inf for score, ok in zip(scores, allowed(sequence), strict=True)]
        sequence.append(max(range(len(scores)), key=scores.__getitem__))
        if sequence[-1] == PAD:
            break
    return sequence


@cache
def stopping() -> Model:
    """A model whose greedy completions stop sooner or later: its bias leans to a few tokens and to `.`."""
    made = Model(CFG, seed=11)
    with torch.no_grad():
        made.unembed.b_U[PAD] += 3.5
        made.unembed.b_U[:5] += 2.5
    return made.eval()


@cache
def prompts() -> tuple[Tensor, Tensor]:
    """Cut programs of 1 to 12 tokens, what stands behind the cut replaced by something else."""
    lengths = torch.arange(1, 13).repeat(2)
    rows = programs()[:, :14].clone()
    rows[torch.arange(14) >= lengths[:, None]] = 7
    return rows, lengths


def no_token_twice(sequence: list[int]) -> list[bool]:
    """Nothing in the sequence may come again, but `.`, once there are 16 tokens."""
    return [(len(sequence) > 16) if token == PAD else token not in sequence for token in range(CFG.d_vocab)]


def test_generation_is_greedy_and_stops() -> None:
    rows, lengths = prompts()
    before = rows.clone()
    out = stopping().generate(rows, lengths, 20)
    assert out.dtype == torch.int64
    assert torch.equal(rows, before), "the prompts were written to"
    stopped = 0
    for row, length, done in zip(rows.tolist(), lengths.tolist(), out.tolist(), strict=True):
        expected = generated(stopping(), row[:length], 20, None)
        assert done[: len(expected)] == expected
        assert set(done[len(expected) :]) <= {PAD}
        stopped += expected[-1] == PAD and len(expected) > length + 1
    assert 0 < stopped < len(rows), "some must stop on the way, others not"


def test_generation_alone_is_generation_in_a_batch() -> None:
    rows, lengths = prompts()
    together = stopping().generate(rows, lengths, 20)
    for i in range(len(rows)):
        alone = stopping().generate(rows[i : i + 1], lengths[i : i + 1], 20)
        end = int(lengths[i]) + 20
        assert torch.equal(alone[0, :end], together[i, :end])


def test_logits_mask_is_respected() -> None:
    rows, lengths = prompts()
    starts = dict(enumerate(lengths.tolist()))

    def mask(batch: Tensor) -> Tensor:
        given = [max(i for i, token in enumerate(row) if token != PAD or i == 0) + 1 for row in batch.tolist()]
        return torch.tensor([no_token_twice(row[:n]) for row, n in zip(batch.tolist(), given, strict=True)])

    out = stopping().generate(rows, lengths, 20, logits_mask=mask)
    free = stopping().generate(rows, lengths, 20)
    for i, done in enumerate(out.tolist()):
        expected = generated(stopping(), rows[i, : starts[i]].tolist(), 20, no_token_twice)
        assert done[: len(expected)] == expected
    assert not torch.equal(out[:, : free.shape[1]], free), "the mask changed nothing"
    end = torch.zeros(CFG.d_vocab, dtype=torch.bool)
    end[PAD] = True
    stopped = stopping().generate(rows, lengths, 20, logits_mask=lambda batch: end.expand(len(batch), -1))
    for row, length, done in zip(rows.tolist(), lengths.tolist(), stopped.tolist(), strict=True):
        assert done[:length] == row[:length]
        assert set(done[length:]) == {PAD}


def test_generation_sees_hooks() -> None:
    rows, lengths = prompts()
    plain = stopping().generate(rows, lengths, 5)
    with stopping().hooks([("ln_final.hook_normalized", lambda tensor, hook: tensor * 0)]):
        edited = stopping().generate(rows, lengths, 5)
    assert not torch.equal(plain, edited)
    assert (edited[torch.arange(24), lengths] == PAD).all(), "the bias alone says `.`"


def test_generation_needs_positions() -> None:
    rows, lengths = prompts()
    stopping().generate(rows, lengths, 40 - 12)
    with pytest.raises(ValueError, match="prompt and completion need 41 positions, the model has n_ctx = 40"):
        stopping().generate(rows, lengths, 40 - 11)


def test_a_mask_that_allows_nothing_is_an_error() -> None:
    model = Model(ModelConfig(n_layers=1, d_model=32, n_heads=1, d_mlp=32))
    prompts = torch.tensor([[10, 3]])
    with pytest.raises(ValueError, match="logits_mask allows no token for some prompt; it must leave one or more"):
        model.generate(prompts, torch.tensor([2]), 2, lambda tokens: torch.zeros(len(tokens), 65, dtype=torch.bool))


def test_the_config_is_hooked_transformers() -> None:
    import transformer_lens

    assert transformer_lens.HookedTransformerConfig(**ModelConfig().to_dict()).d_vocab == 65
