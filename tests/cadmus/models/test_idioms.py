"""Code written against TransformerLens, run on the model that ships and on the HookedTransformer that it converts to.

Each idiom is a function of a model, as people write it there; both give the same. `test_lens` has the sites one by one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import cadmus
from cadmus.models import lens
from cadmus.models.run_cache import site_name
from tests.cadmus.models.test_lens import BRIDGE

pytestmark = pytest.mark.skipif(BRIDGE, reason="transformer-lens 4 has no HookedTransformer")

PROGRAMS = ["34+7=7A1B", "12*2=2Aa2"]  # equally long: what is not padded needs no mask
HEAD = 2


@functools.cache
def models() -> tuple[Any, Any]:
    """The model that ships, and its HookedTransformer."""
    model = cadmus.load_model()
    return model, lens.to_hooked_transformer(model)


@functools.cache
def tokens() -> Tensor:
    return models()[0].to_tokens(PROGRAMS)


def loss_per_token(model: Any) -> Any:
    losses = model(tokens(), return_type="loss", loss_per_token=True)
    logits, again = model(tokens(), return_type="both", loss_per_token=True)
    assert losses.shape == (len(PROGRAMS), tokens().shape[1] - 1)
    return losses, again, logits, model(tokens(), return_type="loss"), model(tokens()[0], return_type="both").logits


def attention_patterns(model: Any) -> Any:
    _, cache = model.run_with_cache(tokens()[0], remove_batch_dim=True)
    by_names = [cache["pattern", 0], cache["attn", 0], cache["pattern", 0, "attn"], cache["pattern0"]]
    assert all(torch.equal(pattern, by_names[0]) for pattern in by_names)
    others = [
        cache["resid_post", -1],
        cache["q", 1],
        cache["scale", 1, "ln1"],
        cache["normalized"],
        cache["mlp_post", 2],
    ]
    return [*by_names, *others, cache["embed"], cache["ln_final.hook_scale"], cache.stack_activation("pattern")]


def logit_lens(model: Any) -> Any:
    _, cache = model.run_with_cache(tokens())
    stream, labels = cache.accumulated_resid(layer=-1, incl_mid=True, pos_slice=-1, apply_ln=True, return_labels=True)
    whole = cache.accumulated_resid(apply_ln=True) @ model.W_U + model.b_U
    return labels, stream @ model.W_U + model.b_U, whole, cache.accumulated_resid(2, mlp_input=True, apply_ln=True)


def direct_logit_attribution(model: Any) -> Any:
    _, cache = model.run_with_cache(tokens())
    parts, labels = cache.decompose_resid(layer=-1, pos_slice=-1, apply_ln=True, return_labels=True)
    answer = torch.tensor([7, 2])
    directions = model.tokens_to_residual_directions(answer)
    heads, head_labels = cache.stack_head_results(layer=-1, pos_slice=-1, return_labels=True, incl_remainder=True)
    scaled = cache.apply_ln_to_stack(heads, layer=-1, pos_slice=-1)
    attributions = cache.logit_attrs(heads, answer, incorrect_tokens=torch.tensor([1, 1]), pos_slice=-1)
    others = [cache.decompose_resid(3, mlp_input=True, mode=mode, incl_embeds=False) for mode in ("attn", "mlp")]
    biases = model.accumulated_bias(3, mlp_input=True), model.accumulated_bias(2, include_mlp_biases=False)
    return labels, parts @ directions.T, head_labels, scaled @ directions.T, attributions, others, biases


def activation_patching(model: Any) -> Any:
    clean, corrupted = tokens()[:1], tokens()[1:]
    _, clean_cache = model.run_with_cache(clean)

    def patch(activation: Tensor, hook: Any, position: int, clean_cache: Any) -> Tensor:
        activation[:, position] = clean_cache[hook.name][:, position]
        return activation

    differences = torch.zeros(2, 4)
    for layer in range(2):
        for position in range(4):
            hook = functools.partial(patch, position=position, clean_cache=clean_cache)
            logits = model.run_with_hooks(corrupted, fwd_hooks=[(site_name("resid_pre", layer), hook)])
            differences[layer, position] = logits[0, -1, 7] - logits[0, -1, 1]
    return differences


def head_ablation(model: Any) -> Any:
    def zero(z: Tensor, *, hook: Any) -> None:
        z[:, :, HEAD] = 0

    losses = []
    for layer in range(model.cfg.n_layers):
        losses.append(
            model.run_with_hooks(tokens(), return_type="loss", fwd_hooks=[(f"blocks.{layer}.attn.hook_z", zero)])
        )
    model.add_hook("blocks.0.attn.hook_z", zero)
    losses.append(model(tokens(), return_type="loss"))
    model.reset_hooks()
    return losses, model(tokens(), return_type="loss")


def previous_token_and_copying_scores(model: Any) -> Any:
    _, cache = model.run_with_cache(tokens())
    patterns = cache.stack_activation("pattern")  # layer, batch, head, query, key
    previous = patterns.diagonal(-1, -2, -1).mean((1, -1))
    circuit = model.W_E @ model.OV[1, HEAD] @ model.W_U
    eigenvalues = circuit.eigenvalues
    return previous, eigenvalues.sum(-1).real / eigenvalues.abs().sum(-1)


def composition(model: Any) -> Any:
    scores = [model.all_composition_scores(mode) for mode in "QKV"]
    return scores, model.OV[0, 1].AB, model.QK[1, 2].AB, model.OV.norm(), model.all_head_labels()


def gradients(model: Any) -> Any:
    seen: dict[str, Tensor] = {}

    def keep(gradient: Tensor, hook: Any) -> None:
        seen[hook.name] = gradient.detach()

    sites = [site_name("z", 1), site_name("resid_pre", 3), site_name("pattern", 0)]
    with model.hooks(bwd_hooks=[(site, keep) for site in sites]):
        model(tokens(), return_type="loss").backward()
    model.add_hook(sites[0], keep, "bwd")
    (2 * model(tokens(), return_type="loss")).backward()
    model.reset_hooks()
    _, cache = model.run_with_cache(tokens(), names_filter=sites, return_type="loss", incl_bwd=True)
    model.zero_grad()
    return [seen[site] for site in sites], [cache[f"{site}_grad"] for site in sites]


def generation_with_a_hook(model: Any) -> Any:
    prompts = tokens()[:, :5]
    options = {"max_new_tokens": 6, "do_sample": False, "stop_at_eos": True, "eos_token_id": 10, "verbose": False}
    options["use_past_kv_cache"] = False  # HookedTransformer's, without a tokenizer, computes something else
    plain = model.generate(prompts, return_type="tokens", **options)

    def weaken(activation: Tensor, hook: Any) -> Tensor:
        return 0.3 * activation

    with model.hooks([("blocks.1.hook_mlp_out", weaken)]):
        edited = model.generate(prompts, return_type="tokens", **options)
    assert not torch.equal(plain, edited)
    return plain, edited


IDIOMS: list[Callable[[Any], Any]] = [
    loss_per_token,
    attention_patterns,
    logit_lens,
    direct_logit_attribution,
    activation_patching,
    head_ablation,
    previous_token_and_copying_scores,
    composition,
    gradients,
    generation_with_a_hook,
]


@pytest.mark.parametrize("idiom", IDIOMS, ids=lambda idiom: idiom.__name__)
def test_the_same_lines_give_the_same(idiom: Callable[[Any], Any]) -> None:
    ours, theirs = models()
    torch.testing.assert_close(plain(idiom(ours)), plain(idiom(theirs)), rtol=1e-3, atol=3e-4)


def plain(result: Any) -> list[Any]:
    """All tensors and texts of a nested result, in their order."""
    if isinstance(result, list | tuple):
        return [leaf for member in result for leaf in plain(member)]
    if isinstance(result, str):
        return [torch.tensor(list(result.encode()))]
    return [torch.as_tensor(result).detach()]


def test_weights_under_their_names() -> None:
    ours, theirs = models()
    names = [
        "W_E",
        "W_U",
        "b_U",
        "W_Q",
        "W_K",
        "W_V",
        "W_O",
        "b_Q",
        "b_K",
        "b_V",
        "b_O",
        "W_in",
        "W_out",
        "b_in",
        "b_out",
    ]
    if ours.cfg.positional_embedding_type == "standard":
        names += ["W_pos", "W_E_pos"]
    for name in names:
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def test_site_names_are_transformer_lenss() -> None:
    from transformer_lens.utilities import get_act_name

    names: list[tuple] = [("embed",), ("pos_embed",), ("scale",), ("normalized",), ("k6",), ("scale4ln1",), ("pre5",)]
    names += [("blocks.0.hook_resid_pre",), ("hook_embed",), ("k", 6, "a"), ("pre", 2), ("normalized", 27, "ln2")]
    names += [
        (name, 3) for name in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_in", "attn_in")
    ]
    names += [(name, 0) for name in ("q", "query", "v", "value", "z", "result", "attn", "attn_scores", "attn_logits")]
    names += [(name, 1) for name in ("mlp_pre", "mlp_post", "post", "rot_q", "q_input")] + [("scale", 2, "ln2")]
    for name in names:
        assert site_name(*name) == get_act_name(*name), name


def test_text_and_tokens() -> None:
    model, _ = models()
    assert torch.equal(model.to_tokens("34+"), torch.tensor([[10, 3, 4, *model.to_tokens("+", prepend_bos=False)[0]]]))
    assert model.to_tokens(["1", "12"]).tolist() == [[10, 1, 10], [10, 1, 2]]
    assert model.to_string(model.to_tokens(PROGRAMS)) == ["." + text for text in PROGRAMS]
    assert model.to_string([3, 4]) == "34"
    assert model.to_string(torch.tensor(3)) == "3"
    assert model.to_str_tokens("34+") == [".", "3", "4", "+"]
    assert model.to_str_tokens(model.to_tokens("34+")) == [".", "3", "4", "+"]
    assert model.to_str_tokens(["3", "4"]) == [[".", "3"], [".", "4"]]
    assert model.to_single_str_token(model.to_single_token("+")) == "+"
    assert model.get_token_position("3", "343", "last") == 3
    assert model.get_token_position("3", "343") == 1
    torch.testing.assert_close(model("34+"), model(torch.tensor([10, 3, 4, model.to_single_token("+")])))
    for call, message in [
        (lambda: model.to_tokens("3 4"), "' '"),
        (lambda: model.to_single_token("34"), "'34' is 2 tokens"),
        (lambda: model.get_token_position("9", "34"), r"the token '9' does not occur in '\.34'"),
        (lambda: model.to_string(torch.zeros(1, 1, 1)), "expected"),
        (lambda: model(torch.zeros(1, 1, 1, dtype=torch.long)), r"tokens have shape \(1, 1, 1\)"),
        (lambda: model.generate("34", stop_at_eos=False), "a completion ends at its"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_a_temperature_of_0_is_greedy() -> None:
    """As HookedTransformer has it, do_sample or not."""
    model = cadmus.load_model("cadmus-micro")
    greedy = model.generate("12+3*", do_sample=False, verbose=False)
    assert model.generate("12+3*", temperature=0, verbose=False) == greedy


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_tokens_that_are_no_integers_are_refused(dtype: torch.dtype) -> None:
    model = cadmus.load_model("cadmus-micro")
    with pytest.raises(ValueError, match=f"tokens are {dtype}; expected integers"):
        model(model.to_tokens("12+3*").to(dtype))


def test_generate_returns_what_it_was_given() -> None:
    model, _ = models()
    text = model.generate("34+7=", max_new_tokens=8, do_sample=False)
    assert text.startswith(".34+7=")
    assert text.endswith(".") or len(text) == 14
    assert model.generate(["34+7=", "1"], max_new_tokens=8, do_sample=False)[0] == text
    ids = model.generate(model.to_tokens("34+7="), max_new_tokens=8, do_sample=False)
    assert model.to_string(ids) == [text]
    generators = [torch.Generator().manual_seed(4) for _ in range(2)]
    drawn = [model.generate("3", max_new_tokens=5, temperature=1.5, generator=generator) for generator in generators]
    assert drawn[0] == drawn[1]


def test_slices_of_positions_and_rows() -> None:
    model, _ = models()
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens())
        for pos_slice, index in [
            (3, 3),
            ((2,), slice(2)),
            ((1, 4), slice(1, 4)),
            ([1, 3], [1, 3]),
            (slice(2, 5), slice(2, 5)),
        ]:
            assert torch.equal(cache.decompose_resid(pos_slice=pos_slice), cache.decompose_resid()[:, :, index])
            _, sliced = model.run_with_cache(tokens(), pos_slice=pos_slice)
            for site in ("blocks.0.attn.hook_q", "blocks.0.hook_resid_post"):
                assert torch.equal(sliced[site], cache[site][:, index])
            assert torch.equal(sliced["pattern", 0], cache["pattern", 0][:, :, index])
    with pytest.raises(ValueError, match="the batch has 2 rows"):
        cache.remove_batch_dim()
    with pytest.raises(ValueError, match=r"layer = 99 is outside 0 \.\.\. "):
        cache.accumulated_resid(99)
