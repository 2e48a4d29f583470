"""Backends: the classes of model that show our sites under our names, what may be read and edited on each, and runs
that refuse the rest.

Beside our own `Model` these are TransformerLens's `HookedTransformer` and `TransformerBridge`. At some sites the bridge
shows something else than the model computes, or takes an edit and ignores it: `capabilities` says at which. Probes and
interventions run models through `run_with_cache` and `run_with_hooks`, and so on all three backends alike. `lens`, the
face for users, offers all of this too, but for `turn`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cadmus.models.compilation import original_model
from cadmus.models.config import ModelConfig
from cadmus.models.hooks import Hook, HookFn, NamesFilter, SiteSelector, as_edit, resolve_sites
from cadmus.models.model import Model, Output, next_token_loss
from cadmus.models.run_cache import ActivationCache, recorder
from cadmus.models.sites import blocks_needed
from cadmus.models.text import as_tokens

BACKENDS = ("cadmus", "hooked_transformer", "transformer_bridge")


class Capability(NamedTuple):
    """What a site can be used for on a backend."""

    readable: bool
    """The site holds our model's activation."""

    editable: bool
    """An edit there moves the logits as it moves ours."""


# Derived and compared by tests/cadmus/models/test_lens.py, for each version of TransformerLens. r: readable,
# e: editable. Rotary models have a column where they differ from those with learned positions.
_TABLE = """
site                        cadmus  hooked_transformer  transformer_bridge  transformer_bridge/rotary
hook_embed                  re      re                  re                  re
hook_pos_embed              re      re                  re                  --
blocks.hook_resid_pre       re      re                  re                  re
blocks.ln1.hook_scale       re      re                  re                  re
blocks.ln1.hook_normalized  re      re                  re                  re
blocks.attn.hook_q          re      re                  re                  --
blocks.attn.hook_k          re      re                  re                  --
blocks.attn.hook_v          re      re                  re                  re
blocks.attn.hook_rot_q      re      re                  --                  --
blocks.attn.hook_rot_k      re      re                  --                  --
blocks.attn.hook_attn_scores  re    re                  --                  --
blocks.attn.hook_pattern    re      re                  re                  re
blocks.attn.hook_z          re      re                  re                  re
blocks.hook_attn_out        re      re                  re                  re
blocks.hook_resid_mid       re      re                  r-                  r-
blocks.ln2.hook_scale       re      re                  re                  re
blocks.ln2.hook_normalized  re      re                  re                  re
blocks.mlp.hook_pre         re      re                  re                  re
blocks.mlp.hook_post        re      re                  re                  re
blocks.hook_mlp_out         re      re                  re                  re
blocks.hook_resid_post      re      re                  re                  re
ln_final.hook_scale         re      re                  re                  re
ln_final.hook_normalized    re      re                  re                  re
unembed.hook_in             re      re                  re                  re
unembed.hook_out            re      re                  re                  re
hook_tokens                 re      --                  --                  --
blocks.hook_attn_in         re      re                  --                  --
blocks.hook_q_input         re      re                  --                  --
blocks.hook_k_input         re      re                  --                  --
blocks.hook_v_input         re      re                  --                  --
blocks.attn.hook_result     re      re                  --                  --
blocks.hook_mlp_in          re      re                  re                  re
"""


def _read_table(text: str) -> dict[str, dict[str, Capability]]:
    """{column: {site: capability}}."""
    header, *rows = (line.split() for line in text.strip().splitlines())
    return {
        column: {row[0]: Capability("r" in row[i], "e" in row[i]) for row in rows}
        for i, column in enumerate(header)
        if i
    }


_CAPABILITIES = _read_table(_TABLE)
_SWITCHES = {  # what is computed on demand, and the field of TransformerLens's cfg that makes a model compute it
    "blocks.hook_attn_in": "use_attn_in",
    "blocks.hook_q_input": "use_split_qkv_input",
    "blocks.hook_k_input": "use_split_qkv_input",
    "blocks.hook_v_input": "use_split_qkv_input",
    "blocks.attn.hook_result": "use_attn_result",
    "blocks.hook_mlp_in": "use_hook_mlp_in",
    "hook_tokens": None,  # decided when a HookedTransformer is built
}


def capabilities(backend: str, rotary: bool = False) -> dict[str, Capability]:
    """What can be read and edited on a backend: {site without the block's number: Capability}.

    rotary: of models with rotary positions. Raises ValueError for a name that is none of `BACKENDS`.
    """
    if backend not in BACKENDS:
        raise ValueError(
            f"backend {backend!r} is none of {', '.join(BACKENDS)}; lens.backend(model) says which a model has"
        )
    return dict(_CAPABILITIES.get(f"{backend}/rotary" if rotary else backend, _CAPABILITIES[backend]))


def backend(model: Any) -> str:
    """Which of `BACKENDS` a model is. A HookedTransformer may be one without normalization, which has no sites of ln1,
    ln2 and ln_final.

    Raises ValueError for anything else, and for models of TransformerLens whose weights were processed (LayerNorm
    folded, compatibility mode) or that were not converted from ours: there the table does not hold.
    """
    model = original_model(model)
    if isinstance(model, Model):
        return "cadmus"
    classes = {cls.__name__ for cls in type(model).__mro__ if cls.__module__.split(".")[0] == "transformer_lens"}
    obstacle = ""
    if "HookedTransformer" in classes:
        if model.cfg.normalization_type in ("LN", None):
            return "hooked_transformer"
        obstacle = f" with normalization_type = {model.cfg.normalization_type!r}"
    elif "TransformerBridge" in classes:
        version = metadata.version("transformer-lens")
        if int(version.split(".")[0]) < 4:
            obstacle = f" of transformer-lens {version}"
        elif model.cfg.architecture != "TransformerLensNative":
            obstacle = f" around {model.cfg.architecture}"
        elif model.compatibility_mode or model._weights_processed:
            obstacle = " with processed weights"
        else:
            return "transformer_bridge"
    raise ValueError(
        f"a {type(model).__name__}{obstacle} is none of the backends {', '.join(BACKENDS)}: take a "
        "cadmus.models.model.Model, or what lens.to_hooked_transformer or lens.to_transformer_bridge makes of one"
    )


def sites(model: Any, on_demand: bool = False) -> list[str]:
    """The sites of a model of any backend that Cadmus models have too, as `Model.sites`.

    With `on_demand`, those that a run computes only where a hook asks for them.
    """
    if backend(model) == "cadmus":
        return model.sites(on_demand)
    names: list[str] = []
    patterns = [pattern for pattern in _CAPABILITIES["cadmus"] if (pattern in _SWITCHES) == on_demand]
    for in_block, group in groupby(patterns, lambda pattern: pattern.startswith("blocks.")):
        of_block = list(group)
        blocks = range(model.cfg.n_layers) if in_block else range(1)
        names += [name.replace("blocks.", f"blocks.{i}.", 1) for i in blocks for name in of_block]
    hook_points = model.hook_dict
    return [name for name in names if name in hook_points]


def config(model: Any) -> ModelConfig:
    """The shape of a model of any backend, in our words; ValueError, naming the field, for what ours cannot be."""
    if backend(model) == "cadmus":
        return original_model(model).cfg
    rotary = model.cfg.positional_embedding_type == "rotary"
    names = [field.name for field in dataclasses.fields(ModelConfig)]
    fields = {name: getattr(model.cfg, name) for name in names if rotary or not name.startswith("rotary_")}
    if rotary and fields.get("rotary_dim") == model.cfg.d_head:
        fields["rotary_dim"] = None  # all of a head: ours leaves that open, theirs fills it in
    return ModelConfig(**fields)


def device(model: Any) -> torch.device:
    """Where the weights of a model of any backend are."""
    return next(model.parameters()).device


def match(model: Any, names: NamesFilter) -> list[str]:
    """The sites that a names_filter selects on a model of any backend, as `Model.run_with_cache` takes it.

    Raises ValueError for a name that does not exist, and for a predicate that selects nothing.
    """
    if names is None:
        return sites(model)
    every_site = sites(model) + sites(model, on_demand=True)
    see = "model.sites()" if backend(model) == "cadmus" else "lens.sites(model)"
    selectors = [names] if callable(names) or isinstance(names, str) else names
    return [site for selector in selectors for site in resolve_sites(every_site, selector, see)]


def check_readable(model: Any, names: NamesFilter) -> list[str]:
    """The selected sites (None: every readable one).

    Raises ValueError where one does not exist, or does not hold on this backend what it holds on ours.
    """
    return _check(model, names, "readable", "shows something else there than the model computes")


def check_editable(model: Any, names: NamesFilter) -> list[str]:
    """The selected sites (None: every editable one).

    Raises ValueError where one does not exist, or an edit there does not move the logits of this backend as it moves
    ours.
    """
    return _check(model, names, "editable", "ignores such an edit, or applies it to a part of what follows only")


def _check(model: Any, names: NamesFilter, ability: str, because: str) -> list[str]:
    """The selected sites (None: all that have the ability); ValueError, with the reason, where one lacks it."""
    name = backend(model)
    table = capabilities(name, model.cfg.positional_embedding_type == "rotary")
    selection = match(model, names)
    is_able = {site: getattr(table[_pattern(site)], ability) for site in selection}
    if names is None:
        return [site for site in selection if is_able[site]]
    for site in selection:
        if not is_able[site]:
            raise ValueError(
                f"site {site!r} is not {ability} on a {name}, which {because}: use the Cadmus model itself, "
                f"or another site; see lens.capabilities({name!r})"
            )
    return selection


def _pattern(site: str) -> str:
    """The site without its block's number."""
    return re.sub(r"^blocks\.\d+\.", "blocks.", site)


# --- runs ------------------------------------------------------------------------------------------------------------


def run_with_cache(
    model: Any, tokens: Tensor, names_filter: NamesFilter = None, return_type: str = "logits"
) -> tuple[Any, ActivationCache]:
    """(output, {site: activation}) of a model of any backend, as `Model.run_with_cache`; None is every readable site.

    tokens int [batch, pos] or [pos], of any integer type and on any device, or text. Raises ValueError as
    `check_readable` does.
    """
    cache = ActivationCache({}, original_model(model))
    record = recorder(cache)
    return _run(model, tokens, [(site, record) for site in check_readable(model, names_filter)], return_type), cache


def read(model: Any, tokens: Tensor, sites: NamesFilter) -> ActivationCache:
    """The activations alone of a model of any backend, as `run_with_cache`; our own models stop behind the last site.

    Raises ValueError as `check_readable` does.
    """
    own_model = original_model(model)
    if not isinstance(own_model, Model):
        return run_with_cache(model, tokens, sites)[1]
    cache = ActivationCache({}, own_model)
    record = recorder(cache)
    selection = check_readable(model, sites)
    return_type = "logits" if any(site.startswith("unembed.") for site in selection) else None
    hooks = [(site, record) for site in selection]
    own_model.run_with_hooks(tokens, hooks, return_type, stop_at_layer=blocks_needed(selection))
    return cache


def run_with_hooks(
    model: Any,
    tokens: Tensor,
    fwd_hooks: Iterable[tuple[SiteSelector, HookFn]] = (),
    return_type: str = "logits",
) -> Any:
    """One forward pass with edits of a model of any backend, as `Model.run_with_hooks`: in place or not, `hook` by name
    or not.

    Every hook counts as an edit, whatever it returns: to look only, use `run_with_cache`. Raises ValueError as
    `check_editable` does, before anything runs.
    """
    hooks = [(site, fn) for names, fn in fwd_hooks for site in check_editable(model, names)]
    return _run(model, tokens, hooks, return_type)


@contextlib.contextmanager
def hooks(model: Any, fwd_hooks: Iterable[tuple[SiteSelector, HookFn]]) -> Iterator[Any]:
    """Within the context every forward pass of the model, of any backend, has these edits; gradients pass through.

    Every hook counts as an edit. Raises ValueError as `check_editable` does, before anything is set, and on leaving for
    a hook that never fired. The model is left as it was, on an error too.
    """
    edits = [(site, fn) for names, fn in fwd_hooks for site in check_editable(model, names)]
    own_model = original_model(model)
    if isinstance(own_model, Model):
        with own_model.hooks(edits):
            yield model
        return
    adapted_hooks, fired = _adapt(edits)
    with _compute_on_demand(own_model, [site for site, _ in edits]), own_model.hooks(fwd_hooks=adapted_hooks):
        yield model
    _check_fired(edits, fired)


def _adapt(hooks: list[tuple[str, HookFn]]) -> tuple[list[tuple[str, Callable[..., Tensor | None]]], set[int]]:
    """Hooks as a model of TransformerLens takes them, and the set of numbers of those that fire."""
    fired: set[int] = set()

    def adapt(number: int, site: str, fn: HookFn) -> Callable[..., Tensor | None]:
        edit = as_edit(fn)

        def call(tensor: Tensor, hook: Any) -> Tensor | None:  # the bridge's hook has another name
            fired.add(number)
            result = edit(tensor, Hook(site))
            return None if result is tensor else result

        return call

    return [(site, adapt(number, site, fn)) for number, (site, fn) in enumerate(hooks)], fired


def _check_fired(hooks: list[tuple[str, HookFn]], fired: set[int]) -> None:
    silent = [site for number, (site, _) in enumerate(hooks) if number not in fired]
    if silent:
        raise ValueError(f"the hook at {silent[0]!r} never fired, so that nothing was read or edited there")


def _run(model: Any, tokens: Tensor, hooks: list[tuple[str, HookFn]], return_type: str) -> Any:
    """Run the model, adapting tokens, hooks and loss to its backend."""
    model = original_model(model)
    if isinstance(model, Model):
        return model.run_with_hooks(tokens, hooks, return_type)
    tokens = as_tokens(tokens, device(model))
    if return_type not in ("logits", "loss", "both"):
        raise ValueError(f"return_type {return_type!r} is none of 'logits', 'loss', 'both'")
    if tokens.shape[1] > model.cfg.n_ctx:
        raise ValueError(f"{tokens.shape[1]} positions, but the model has n_ctx = {model.cfg.n_ctx}")
    adapted_hooks, fired = _adapt(hooks)
    with turn(model), _compute_on_demand(model, [site for site, _ in hooks]):
        logits = model.run_with_hooks(tokens, fwd_hooks=adapted_hooks, return_type="logits")
    _check_fired(hooks, fired)
    if return_type == "logits":
        return logits
    loss = next_token_loss(logits, tokens)
    return loss if return_type == "loss" else Output(logits, loss)


_turns: weakref.WeakKeyDictionary[Any, threading.RLock] = weakref.WeakKeyDictionary()
_turns_lock = threading.Lock()


def turn(model: Any) -> threading.RLock:
    """The lock of a model of TransformerLens: a hook set there fires in every thread, so that runs take turns."""
    with _turns_lock:
        return _turns.setdefault(model, threading.RLock())


@contextlib.contextmanager
def _compute_on_demand(model: Any, names: list[str]) -> Iterator[None]:
    """Within the context a model of TransformerLens computes these sites, on demand or not."""
    switches = {switch for name in names if (switch := _SWITCHES.get(_pattern(name))) is not None}
    before = {switch: getattr(model.cfg, switch) for switch in switches}
    try:
        for switch in switches:
            getattr(model, f"set_{switch}")(True)
        yield
    finally:
        for switch, value in before.items():
            getattr(model, f"set_{switch}")(value)
