"""Conversion to TransformerLens's models and back, and the table of what may be read and edited on each backend.

Whichever version of TransformerLens is installed, its own conversion is tested; CI runs this file with both.
"""

from __future__ import annotations

import copy
import os
import re
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from importlib import metadata
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cadmus.machine import tokens
from cadmus.models import backends, lens
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model, next_token_loss
from probes.data.activations import batches, residual_sites
from tests.models import far_from_trivial

VERSION = metadata.version("transformer-lens")
BRIDGE = not VERSION.startswith("3.")
BACKEND = "transformer_bridge" if BRIDGE else "hooked_transformer"
convert = lens.to_transformer_bridge if BRIDGE else lens.to_hooked_transformer
hooked_transformer_only = pytest.mark.skipif(BRIDGE, reason="transformer-lens 4 has no HookedTransformer")
bridge_only = pytest.mark.skipif(not BRIDGE, reason="transformer-lens 3.9 has HookedTransformer instead")

SMALL = {"n_layers": 2, "d_model": 32, "n_heads": 4, "d_head": 8, "d_mlp": 48, "n_ctx": 40, "initializer_range": 0.3}
CONFIGS = {"learned": ModelConfig(**SMALL), "narrow heads": ModelConfig(**SMALL | {"n_heads": 2})}
ROTARY = SMALL | {"positional_embedding_type": "rotary", "rotary_base": 123.5}
CONFIGS |= {"rotary": ModelConfig(**ROTARY), "partly rotary": ModelConfig(**ROTARY | {"rotary_dim": 4})}
each_config = pytest.mark.parametrize("config", CONFIGS)

PROGRAMS = tokens.encode(["34+7=.", "34+8=!.", "941-*55*1+>.", "(1,2,3,1I2=.", "3A4Bab+7=.", "358@\\-+0=.", "1758RA."])


@cache
def model(config: str = "learned") -> Model:
    return far_from_trivial(CONFIGS[config])


@cache
def converted(config: str = "learned") -> Any:
    """The same model as the installed TransformerLens has it."""
    return convert(model(config))


@pytest.fixture(params=["cadmus", BACKEND])
def either(request: pytest.FixtureRequest) -> Any:
    return model() if request.param == "cadmus" else converted()


@cache
def sequences() -> Tensor:
    """uint8 [7, positions], as the model reads programs."""
    return torch.from_numpy(tokens.sequences(PROGRAMS))


def same(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    """Equal shapes, equal places of -inf, and elsewhere within the tolerance, as a share of the largest entry."""
    if a.shape != b.shape:
        return False
    largest = max(1.0, float(b.detach()[b.isfinite()].abs().max()))
    return torch.allclose(a, b, atol=tolerance * largest, rtol=0)


def scaling(tensor: Tensor, hook: Any) -> Tensor:
    """An edit that no LayerNorm undoes: every entry times its own number in 0.5 ... 1.5; of tokens, those of half the
    id."""
    if not tensor.is_floating_point():
        return tensor // 2
    return tensor * (0.5 + torch.rand(tensor.shape[1:], generator=torch.Generator().manual_seed(7)))


def interchange(tensor: Tensor, hook: Any) -> Tensor:
    """Each row gets the activation of another."""
    return tensor.flip(0)


# --- the environment -------------------------------------------------------------------------------------------------


def test_the_installed_version_is_the_one_that_ci_means() -> None:
    """So that no environment can quietly test what another does already."""
    expected = os.environ.get("EXPECTED_TRANSFORMER_LENS", VERSION)
    assert f"{VERSION}.".startswith(f"{expected}."), f"{VERSION} is installed, {expected} is meant"


# --- parity ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@each_config
@pytest.mark.parametrize("gradients", [False, True])
def test_logits_and_every_readable_site_are_ours(config: str, gradients: bool) -> None:
    with torch.set_grad_enabled(gradients):
        logits, ours = model(config).run_with_cache(sequences())
        expected, theirs = converted(config).run_with_cache(sequences().long())
    assert same(logits, expected)
    readable = lens.check_readable(converted(config), None)
    assert len(readable) > 30
    for site in readable:
        assert same(ours[site], theirs[site]), site


@each_config
def test_the_loss_has_our_gradients(config: str) -> None:
    """Of what lies before the blocks, so that all of them are passed."""
    ours = model(config).embed.W_E
    theirs = next(iter(converted(config).parameters()))
    assert torch.equal(ours, theirs)
    for network, weights in ((model(config), ours), (converted(config), theirs)):
        network.zero_grad()
        lens.run_with_hooks(network, sequences(), return_type="loss").backward()
        assert weights.grad.abs().max() > 1e-3
    assert same(ours.grad, theirs.grad)
    model(config).zero_grad()
    converted(config).zero_grad()


def test_the_copy_is_the_callers_alone() -> None:
    """It shares no weights, draws no random numbers, and keeps type and mode."""
    state, before = torch.get_rng_state(), copy.deepcopy(model().state_dict())
    copied = convert(model())
    assert torch.equal(torch.get_rng_state(), state)
    assert not copied.training
    assert next(copied.parameters()).dtype == torch.float32
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model().state_dict().items())
    double = convert(copy.deepcopy(model()).double().train())
    assert double.training
    assert {parameter.dtype for parameter in double.parameters()} == {torch.float64}
    with torch.no_grad():
        logits = copy.deepcopy(model()).double()(sequences())
        assert float((lens.run_with_hooks(double, sequences()) - logits).abs().max()) < 1e-12


# --- the capability table --------------------------------------------------------------------------------------------


ABSENT = {True: ["hook_pos_embed"], False: ["blocks.attn.hook_rot_q", "blocks.attn.hook_rot_k"]}  # rotary or not


def test_lens_has_what_backends_has() -> None:
    public = {name for name, value in vars(backends).items() if getattr(value, "__module__", "") == backends.__name__}
    public = {name for name in public if not name.startswith("_")}
    assert public - set(lens.__all__) == {"turn"}
    assert all(getattr(lens, name) is getattr(backends, name) for name in public - {"turn"})


def derive(network: Any, reference: Model) -> dict[str, lens.Capability]:
    """Read and edit each site of `network`, past all checks, and compare with the reference."""

    def edit_and_read(site: str, edit: Callable[[Tensor, Any], Tensor]) -> tuple[Tensor, Tensor] | None:
        activations = []
        hook = (site, lambda tensor, hook: edit(activations.append(tensor) or tensor, hook))
        try:
            return backends._run(network, sequences(), [hook], "logits"), activations[0]
        except (KeyError, ValueError, NotImplementedError):  # no such site, never reached, cannot be computed
            return None

    abilities: dict[str, list[lens.Capability]] = {}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the bridge's, of an edit that it ignores
        plain = reference(sequences())
        for site in reference.sites() + reference.sites(on_demand=True):
            readable = editable = True
            for edit in (scaling, interchange):
                activation = reference.run_with_cache(sequences(), site)[1][site]
                expected = reference.run_with_hooks(sequences(), fwd_hooks=[(site, edit)])
                assert edit is interchange or not same(expected, plain, 1e-3), f"nothing is edited at {site}"
                logits, theirs = edit_and_read(site, edit) or (plain, torch.tensor(torch.nan))
                readable = readable and same(activation, theirs)
                editable = editable and same(expected, logits, 3e-5)
            pattern = re.sub(r"^blocks\.\d+", "blocks", site)
            abilities.setdefault(pattern, []).append(lens.Capability(readable, editable))
    return {
        site: lens.Capability(all(able.readable for able in blocks), all(able.editable for able in blocks))
        for site, blocks in abilities.items()
    }


@each_config
@pytest.mark.parametrize("backend", ["cadmus", BACKEND])
def test_the_table_is_what_reading_and_editing_each_site_shows(config: str, backend: str) -> None:
    network = copy.deepcopy(model(config)) if backend == "cadmus" else converted(config)
    assert lens.backend(network) == backend
    table = lens.capabilities(backend, rotary="rotary" in config)
    derived = derive(network, model(config))
    assert derived == {site: table[site] for site in derived}
    assert set(table) - set(derived) == set(ABSENT["rotary" in config])
    editable = [site for site, able in derived.items() if able.editable]
    assert len(editable) >= 17
    assert all(derived[site].readable for site in editable)


def test_capabilities_by_backend() -> None:
    ours, hooked = lens.capabilities("cadmus"), lens.capabilities("hooked_transformer")
    assert all(able == (True, True) for able in ours.values())
    assert [site for site in ours if hooked[site] != ours[site]] == ["hook_tokens"]
    bridge = lens.capabilities("transformer_bridge")
    assert bridge["blocks.attn.hook_attn_scores"] == (False, False)
    assert bridge["blocks.hook_resid_mid"] == (True, False)
    bridge.clear()
    assert lens.capabilities("transformer_bridge"), "the table itself was handed out"
    message = "backend 'pyvene' is none of cadmus, hooked_transformer, transformer_bridge; lens.backend(model) says"
    with pytest.raises(ValueError, match=re.escape(message)):
        lens.capabilities("pyvene")


def test_sites_are_those_of_the_model() -> None:
    assert lens.sites(model()) == model().sites()
    assert lens.sites(converted()) == model().sites()
    unreadable = {f"blocks.{i}.attn.hook_attn_scores" for i in range(2)} if BRIDGE else set()
    uneditable = unreadable | ({f"blocks.{i}.hook_resid_mid" for i in range(2)} if BRIDGE else set())
    sites = model().sites()
    assert lens.check_readable(converted(), None) == [site for site in sites if site not in unreadable]
    assert lens.check_editable(converted(), None) == [site for site in sites if site not in uneditable]


# --- refusals --------------------------------------------------------------------------------------------------------


def never(tensor: Tensor, hook: Any) -> Tensor:
    raise AssertionError("the hook ran")


@bridge_only
def test_what_the_table_does_not_list_is_refused() -> None:
    for site, ability, because in [
        ("blocks.1.attn.hook_attn_scores", "readable", "shows something else there than the model computes"),
        ("blocks.1.attn.hook_attn_scores", "editable", "ignores such an edit, or applies it to a part of what follows"),
        ("blocks.0.hook_resid_mid", "editable", "ignores such an edit, or applies it to a part of what follows"),
    ]:
        message = re.escape(f"site {site!r} is not {ability} on a transformer_bridge, which {because}")
        runs: list[Callable[[Any], Any]] = [
            lambda names: lens.run_with_cache(converted(), sequences(), names),
            lambda names: lens.check_readable(converted(), names),
        ]
        if ability == "editable":
            runs = [
                lambda names: lens.run_with_hooks(converted(), sequences(), [("hook_embed", never), (names, never)]),
                lambda names: lens.check_editable(converted(), names),
            ]
        for run in runs:
            for names in (site, lambda name, site=site: name in ("hook_embed", site)):
                with pytest.raises(ValueError, match=message) as caught:
                    run(names)
                assert "use the Cadmus model itself, or another site" in str(caught.value)
                assert "\n" not in str(caught.value)
    with pytest.raises(
        ValueError, match=r"'blocks\.0\.attn\.hook_attn_scores' is not readable on a transformer_bridge"
    ):
        next(batches(converted(), PROGRAMS, ["blocks.0.attn.hook_attn_scores"]))
    assert "blocks.0.hook_resid_mid" in next(batches(converted(), PROGRAMS, ["blocks.0.hook_resid_mid"]))[1]


def test_unknown_sites_are_refused(either: Any) -> None:
    see = r"see model\.sites\(\)" if isinstance(either, Model) else r"see lens\.sites\(model\)"
    for site, hint in [
        ("blocks.9.hook_resid_post", r" \(did you mean 'blocks.1.hook_resid_post'\?\)"),
        ("blocks.0.attn.hook_patern", r" \(did you mean 'blocks.0.attn.hook_pattern'\?\)"),
        ("?", ""),
    ]:
        message = rf"site '{re.escape(site)}' does not exist{hint}: the model has 2 layers \(blocks.0 ... blocks.1\); "
        for run in (
            lambda site=site: lens.run_with_cache(either, sequences(), ["hook_embed", site]),
            lambda site=site: lens.run_with_hooks(either, sequences(), [("hook_embed", never), (site, never)]),
            lambda site=site: next(batches(either, PROGRAMS, [site])),
            lambda site=site: lens.check_editable(either, site),
        ):
            with pytest.raises(ValueError, match=message + see):
                run()
    with pytest.raises(ValueError, match="the names_filter selects no site; " + see):
        lens.run_with_cache(either, sequences(), lambda name: name.startswith("blocks.7."))


def test_other_models_are_of_no_backend() -> None:
    for stranger in (nn.Linear(2, 2), "gpt2", None):
        message = (
            f"a {type(stranger).__name__} is none of the backends cadmus, hooked_transformer, transformer_bridge: take "
            "a cadmus.models.model.Model, or what lens.to_hooked_transformer or lens.to_transformer_bridge makes of one"
        )
        for check in (lens.backend, lens.sites, lambda stranger: lens.run_with_cache(stranger, sequences())):
            with pytest.raises(ValueError, match=re.escape(message)):
                check(stranger)


@hooked_transformer_only
def test_a_processed_hooked_transformer_is_refused() -> None:
    folded = convert(model())
    folded.load_and_process_state_dict(copy.deepcopy(model().state_dict()))
    for check in (lens.backend, lens.from_hooked_transformer):
        with pytest.raises(ValueError, match="a HookedTransformer with normalization_type = 'LNPre' is none of the"):
            check(folded)


@bridge_only
@pytest.mark.parametrize("process", ["enable_compatibility_mode", "process_weights"])
def test_a_processed_bridge_is_refused(process: str) -> None:
    processed = convert(model())
    getattr(processed, process)()
    with pytest.raises(ValueError, match="a TransformerBridge with processed weights is none of the backends"):
        lens.run_with_cache(processed, sequences())


@hooked_transformer_only
def test_a_bridge_of_the_older_version_is_refused() -> None:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    older = TransformerBridge.boot_native(TransformerBridgeConfig(**model().cfg.to_dict()))
    with pytest.raises(ValueError, match=re.escape(f"a TransformerBridge of transformer-lens {VERSION} is none of")):
        lens.backend(older)


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_is_the_models_own_run(either: Any) -> None:
    """Tokens of any integer type; the loss is ours."""
    with torch.no_grad():
        expected = model()(sequences())
        for integer in (torch.uint8, torch.int16, torch.long):
            assert same(lens.run_with_hooks(either, sequences().to(integer)), expected)
        loss = next_token_loss(expected, sequences())
        assert same(lens.run_with_hooks(either, sequences(), return_type="loss"), loss)
        both, cache = lens.run_with_cache(either, sequences(), [], return_type="both")
    assert cache == {}
    assert same(both[0], expected)
    assert same(both[1], loss)


def test_all_that_is_cached_is_named_as_asked_and_detached(either: Any) -> None:
    _, cache = lens.run_with_cache(either, sequences())
    assert list(cache) == lens.check_readable(either, None)
    assert not any(activation.requires_grad for activation in cache.values())
    for names in ("blocks.1.attn.hook_z", ("blocks.1.attn.hook_z",), lambda name: name == "blocks.1.attn.hook_z"):
        assert list(lens.run_with_cache(either, sequences(), names)[1]) == ["blocks.1.attn.hook_z"]


def test_what_is_read_alone_is_what_a_run_caches(either: Any) -> None:
    """Whatever the last site is, behind which our own model stops."""
    _, cache = lens.run_with_cache(either, sequences())
    for site in cache:
        activations = backends.read(either, sequences(), ["blocks.0.hook_resid_pre", site])
        assert set(activations) == {"blocks.0.hook_resid_pre", site}
        assert same(activations[site], cache[site]), site
    with pytest.raises(ValueError, match="does not exist"):
        backends.read(either, sequences(), "blocks.9.hook_resid_pre")


def test_reading_stops_behind_the_last_site() -> None:
    own_model, layers = copy.deepcopy(model()), []
    for number, block in enumerate(own_model.blocks):
        block.register_forward_pre_hook(lambda block, inputs, number=number: layers.append(number))
    for site, blocks in (("hook_embed", []), ("blocks.0.hook_resid_post", [0]), ("ln_final.hook_scale", [0, 1])):
        layers.clear()
        backends.read(own_model, sequences(), site)
        assert layers == blocks, site


def test_hooks_are_told_the_site_that_was_asked_for(either: Any) -> None:
    calls = []

    def look(tensor: Tensor, hook: Any) -> None:
        calls.append((hook.name, tuple(tensor.shape)))

    n, length = sequences().shape
    plain = lens.run_with_hooks(either, sequences())
    sites = ("blocks.0.attn.hook_q", "blocks.1.hook_resid_post")
    logits = lens.run_with_hooks(either, sequences(), [(lambda name: name in sites, look)])
    assert calls == [(sites[0], (n, length, 4, 8)), (sites[1], (n, length, 32))]
    assert torch.equal(logits, plain)


def test_edits_follow_one_another_and_leave_nothing(either: Any) -> None:
    sites = ["blocks.0.attn.hook_pattern", "blocks.0.hook_resid_post", "blocks.1.mlp.hook_post"]
    edits = [(site, scaling) for site in sites]
    with torch.no_grad():
        plain = lens.run_with_hooks(either, sequences())
        for hooks in (edits, [*edits, edits[1]], [(lambda name: name in sites, interchange)]):
            edited = lens.run_with_hooks(either, sequences(), hooks)
            assert same(edited, model().run_with_hooks(sequences(), hooks), 3e-5)
            assert not same(edited, plain, 1e-3)
        with pytest.raises(ZeroDivisionError):
            lens.run_with_hooks(either, sequences(), [*edits, (sites[2], lambda tensor, hook: 1 / 0)])
        assert torch.equal(lens.run_with_hooks(either, sequences()), plain)


def test_what_is_computed_on_demand_is_so_for_one_run_only() -> None:
    sites = [site for site in lens.sites(converted(), on_demand=True) if site in editable_on_demand()]
    assert len(sites) >= 2
    assert set(sites) <= set(model().sites(on_demand=True))
    before = copy.deepcopy(converted().cfg.to_dict())
    with torch.no_grad():
        plain = lens.run_with_hooks(converted(), sequences())
        for site in sites:
            edited = lens.run_with_hooks(converted(), sequences(), [(site, scaling)])
            assert same(edited, lens.run_with_hooks(model(), sequences(), [(site, scaling)]), 3e-5)
            assert not same(edited, plain, 1e-3)
            with pytest.raises(ZeroDivisionError):
                lens.run_with_hooks(converted(), sequences(), [(site, lambda tensor, hook: 1 / 0)])
            assert converted().cfg.to_dict() == before
        assert set(sites).isdisjoint(lens.run_with_cache(converted(), sequences())[1])


def editable_on_demand() -> list[str]:
    names = ["hook_mlp_in"] if BRIDGE else ["hook_attn_in", "hook_k_input", "attn.hook_result", "hook_mlp_in"]
    return [f"blocks.{i}.{name}" for i in range(2) for name in names]


def test_runs_refuse_what_the_model_refuses(either: Any) -> None:
    with pytest.raises(ValueError, match="41 positions, but the model has n_ctx = 40"):
        lens.run_with_hooks(either, torch.zeros(1, 41, dtype=torch.uint8))
    with pytest.raises(ValueError, match="return_type 'probs' is none of 'logits', 'loss', 'both'"):
        lens.run_with_cache(either, sequences(), return_type="probs")


@hooked_transformer_only
def test_a_hook_that_never_fired_is_an_error() -> None:
    cut = convert(model())
    cut.blocks = cut.blocks[:1]  # what HookedTransformer does not notice
    with pytest.raises(ValueError, match=r"the hook at 'blocks\.1\.hook_mlp_out' never fired"):
        lens.run_with_hooks(cut, sequences(), [("hook_embed", scaling), ("blocks.1.hook_mlp_out", scaling)])


# --- probes ----------------------------------------------------------------------------------------------------------


@each_config
def test_batches_are_the_same_on_every_backend(config: str) -> None:
    sites = [*residual_sites(converted(config)), "blocks.1.attn.hook_pattern", "blocks.0.mlp.hook_post"]
    assert sites[:3] == residual_sites(model(config))
    our_batches = list(batches(model(config), PROGRAMS, sites, batch_size=3))
    their_batches = list(batches(converted(config), PROGRAMS, sites, batch_size=3))
    rows = [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert [batch_rows for batch_rows, _ in our_batches] == [batch_rows for batch_rows, _ in their_batches] == rows
    for (_, ours), (_, theirs) in zip(our_batches, their_batches, strict=True):
        assert list(ours) == list(theirs) == sites
        for site in sites:
            assert theirs[site].dtype == torch.float32
            assert same(theirs[site], ours[site]), site


# --- from HookedTransformer ------------------------------------------------------------------------------------------


@hooked_transformer_only
@each_config
def test_there_and_back_is_exact(config: str) -> None:
    there = convert(model(config))
    cfg, weights = copy.deepcopy(there.cfg.to_dict()), copy.deepcopy(there.state_dict())
    back = lens.from_hooked_transformer(there)
    assert back.cfg == model(config).cfg
    assert not back.training
    ours = model(config).state_dict()
    assert list(back.state_dict()) == list(ours)
    assert all(torch.equal(tensor, ours[name]) for name, tensor in back.state_dict().items())
    with torch.no_grad():
        assert torch.equal(back(sequences()), model(config)(sequences()))
        for parameter in back.parameters():
            parameter.zero_()
    assert there.cfg.to_dict() == cfg
    assert all(torch.equal(tensor, weights[name]) for name, tensor in there.state_dict().items())


@hooked_transformer_only
def test_hooked_transformers_made_elsewhere_are_taken() -> None:
    """With fields set that leave the model as it is."""
    there = hooked(seed=3, init_mode="xavier_normal", use_attn_result=True, window_size=4, model_name="elsewhere")
    state = torch.get_rng_state()
    back = lens.from_hooked_transformer(there)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        assert same(back(sequences()), there(sequences().long()))


@hooked_transformer_only
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("act_fn", "relu", "act_fn = 'relu' is not built; use 'gelu'"),
        ("d_vocab", 66, "a HookedTransformer with d_vocab = 66 is no Cadmus model, which needs 65: analyse it in"),
        ("d_vocab_out", 3, "a HookedTransformer with d_vocab_out = 3 is no Cadmus model, which needs 65: "),
        ("normalization_type", "RMS", "with normalization_type = 'RMS' is none of the backends"),
        ("normalization_type", None, "normalization_type = None is not built; use 'LN'"),
        ("final_rms", True, "with final_rms = True is no Cadmus model, which needs False"),
        ("positional_embedding_type", "shortformer", "positional_embedding_type = 'shortformer' is not built; use "),
        ("parallel_attn_mlp", True, "with parallel_attn_mlp = True is no Cadmus model, which needs False"),
        ("n_key_value_heads", 2, "with n_key_value_heads = 2 is no Cadmus model, which needs None"),
        ("gated_mlp", True, "with gated_mlp = True is no Cadmus model, which needs False"),
        ("attn_only", True, "with attn_only = True is no Cadmus model, which needs False"),
        ("attention_dir", "bidirectional", "with attention_dir = 'bidirectional' is no Cadmus model, which needs 'c"),
        ("use_attn_scale", False, "with use_attn_scale = False is no Cadmus model, which needs True"),
        ("attn_scale", 2.0, "with attn_scale = 2.0 is no Cadmus model"),
        ("attn_scores_soft_cap", 5.0, "with attn_scores_soft_cap = 5.0 is no Cadmus model"),
        ("scale_attn_by_inverse_layer_idx", True, "with scale_attn_by_inverse_layer_idx = True is no Cadmus model"),
    ],
)
def test_what_our_model_cannot_represent_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        lens.from_hooked_transformer(hooked(**{field: value}))
    assert "\n" not in str(caught.value)


def hooked(**fields: Any) -> Any:
    """A HookedTransformer built without us."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    small = model().cfg.to_dict() | {"device": "cpu"} | fields
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return HookedTransformer(HookedTransformerConfig(**small))


def test_only_a_hooked_transformer_is_taken_back() -> None:
    with pytest.raises(ValueError, match="from_hooked_transformer takes a HookedTransformer, not a Model"):
        lens.from_hooked_transformer(model())
    if BRIDGE:
        with pytest.raises(ValueError, match="takes a HookedTransformer, not a TransformerBridge"):
            lens.from_hooked_transformer(converted())


# --- without the version that is needed ------------------------------------------------------------------------------


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str | None], None]]:
    """installed(version) makes transformer-lens seem to be of that version; None: not installed."""

    def pretend(version: str | None) -> None:
        def answer(name: str) -> str:
            if version is None:
                raise metadata.PackageNotFoundError(name)
            return version

        monkeypatch.setattr(metadata, "version", answer)

    return pretend


OWN = "use the model's own run_with_cache and run_with_hooks"


@pytest.mark.parametrize(
    ("method", "version", "message"),
    [
        (
            "to_hooked_transformer",
            None,
            f"to_hooked_transformer needs transformer-lens, which is not installed: {OWN}, ",
        ),
        ("to_transformer_bridge", None, "which have the same sites, or pip install 'transformer-lens==4.*'"),
        (
            "to_hooked_transformer",
            "4.3.0",
            "to_hooked_transformer needs HookedTransformer, of transformer-lens 3.9, but 4.3.0 is installed: "
            "use lens.to_transformer_bridge, or pip install 'transformer-lens==3.9.*'",
        ),
        (
            "to_transformer_bridge",
            "3.9.0",
            "to_transformer_bridge needs TransformerBridge, of transformer-lens 4, but 3.9.0 is installed: "
            "use lens.to_hooked_transformer, or pip install 'transformer-lens==4.*'",
        ),
        ("to_hooked_transformer", "2.16.1", f"3.9, but 2.16.1 is installed: {OWN}, or pip install"),
        ("to_hooked_transformer", "3.8.2", f"3.9, but 3.8.2 is installed: {OWN}, or pip install"),
        ("to_transformer_bridge", "5.0.0rc1", f"4, but 5.0.0rc1 is installed: {OWN}, or pip install"),
    ],
)
def test_the_error_says_what_to_use_instead(
    installed: Callable[[str | None], None], method: str, version: str | None, message: str
) -> None:
    installed(version)
    with pytest.raises(ImportError, match=re.escape(message)) as caught:
        getattr(lens, method)(model())
    assert "\n" not in str(caught.value)


def test_our_models_run_without_transformer_lens(installed: Callable[[str | None], None]) -> None:
    installed(None)
    _, cache = lens.run_with_cache(model(), sequences(), "hook_embed")
    assert list(cache) == ["hook_embed"]
