"""For users of TransformerLens: Cadmus models as its models and back, and what `backends` has for reading and editing.

Scripts and notebooks import this module alone (`lens.run_with_cache`, `lens.sites`, `lens.capabilities`, ...); the
names that are not defined here are defined in `cadmus.models.backends`. Up to 3.9 TransformerLens has
`HookedTransformer`, from 4.0 on `TransformerBridge` in its place; each is built without processing the weights, so that
logits and activations are ours. transformer_lens is imported inside functions only, as that takes seconds.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from cadmus.models.backends import (
    BACKENDS,
    Capability,
    backend,
    capabilities,
    check_editable,
    check_readable,
    config,
    device,
    hooks,
    match,
    read,
    run_with_cache,
    run_with_hooks,
    sites,
)
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model

__all__ = [
    "BACKENDS",
    "Capability",
    "backend",
    "capabilities",
    "check_editable",
    "check_readable",
    "config",
    "device",
    "from_hooked_transformer",
    "hooks",
    "match",
    "read",
    "run_with_cache",
    "run_with_hooks",
    "sites",
    "to_hooked_transformer",
    "to_transformer_bridge",
]


def to_hooked_transformer(model: Model) -> Any:
    """A `HookedTransformer` (transformer-lens 3.9) with a copy of the weights, unprocessed: every site has our values.

    ImportError where transformer_lens is missing or has no HookedTransformer.
    """
    _require("to_hooked_transformer", "HookedTransformer", "3.9")
    from transformer_lens import HookedTransformer

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "HookedTransformer is deprecated", DeprecationWarning)
        lens = HookedTransformer(_hooked_config(model.cfg, _device(model), _dtype(model)))
    missing, unexpected = lens.load_state_dict(model.state_dict(), strict=False)
    surplus = set(missing) - {name for name, _ in lens.named_buffers()}  # masks and such: made, not loaded
    if surplus or unexpected:
        raise ValueError(f"HookedTransformer lacks {sorted(surplus)} of the weights and does not know {unexpected}")
    return lens.train(model.training)


def from_hooked_transformer(lens: Any) -> Model:
    """A `Model` with the cfg and a copy of the weights of a `HookedTransformer`, which stays as it is.

    Raises ValueError, naming the field, for one that computes something that our model cannot.
    """
    if backend(lens) != "hooked_transformer":
        raise ValueError(f"from_hooked_transformer takes a HookedTransformer, not a {type(lens).__name__}")
    cfg = config(lens)
    if cfg.d_vocab != ModelConfig.d_vocab:
        raise ValueError(_unlike("d_vocab", cfg.d_vocab, ModelConfig.d_vocab))
    expected = _hooked_config(cfg, _device(lens), _dtype(lens))
    for field in dataclasses.fields(expected):
        if field.name in _INERT or field.name.startswith(_INERT_PREFIXES):
            continue
        if field.name.startswith("rotary_") and cfg.positional_embedding_type != "rotary":
            continue
        theirs, ours = getattr(lens.cfg, field.name), getattr(expected, field.name)
        if theirs != ours:
            raise ValueError(_unlike(field.name, theirs, ours))
    model = Model(cfg).to(device=_device(lens), dtype=_dtype(lens))
    buffers = {name for name, _ in lens.named_buffers()}
    model.load_state_dict({name: tensor for name, tensor in lens.state_dict().items() if name not in buffers})
    return model.train(lens.training)


def to_transformer_bridge(model: Model) -> Any:
    """A native `TransformerBridge` (transformer-lens 4) with a copy of the weights, unprocessed.

    Its `b_U` lies in a buffer, so it does not learn. It turns neighbouring dimensions of rotary queries and keys, as
    LLaMA does, so these lie in another order there. ImportError where transformer_lens is missing or older.
    """
    _require("to_transformer_bridge", "TransformerBridge", "4")
    from transformer_lens import TransformerBridge, TransformerBridgeConfig  # type: ignore[attr-defined]  # 3 has none
    from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

    cfg = TransformerBridgeConfig(**model.cfg.to_dict(), init_weights=False)
    cfg.rotary_base = getattr(model.cfg, "rotary_base", cfg.rotary_base)  # the constructor cuts it to an integer
    with torch.random.fork_rng(devices=[]):  # torch's layers draw weights when they are made
        lens = TransformerBridge.boot_native(cfg, device=_device(model), dtype=_dtype(model))
    weights = {name: _neighbours(name, tensor, model.cfg) for name, tensor in model.state_dict().items()}
    lens.load_state_dict(convert_tl_checkpoint(weights, lens.cfg), strict=True)
    return lens.train(model.training)


def _hooked_config(cfg: ModelConfig, device: torch.device, dtype: torch.dtype) -> Any:
    """The HookedTransformerConfig of a model of ours."""
    from transformer_lens import HookedTransformerConfig

    return HookedTransformerConfig(**cfg.to_dict(), device=str(device), dtype=dtype, init_weights=False)


# fields of HookedTransformerConfig that leave what a model computes as it is, given the others
_INERT = {
    "attn_types",
    "checkpoint_index",
    "checkpoint_label_type",
    "checkpoint_value",
    "decoder_start_token_id",
    "default_prepend_bos",
    "device",
    "dtype",
    "from_checkpoint",
    "init_mode",
    "init_weights",
    "model_name",
    "n_params",
    "norm_topk_prob",
    "original_architecture",
    "seed",
    "tokenizer_name",
    "tokenizer_prepends_bos",
    "train_seq_length",
    "trust_remote_code",
    "ungroup_grouped_query_attention",
    "use_attn_in",
    "use_attn_result",
    "use_hook_mlp_in",
    "use_hook_tokens",
    "use_split_qkv_input",
    "window_size",
}
_INERT_PREFIXES = ("NTK_", "yarn_")  # of use_NTK_by_parts_rope and use_yarn_rope, which must be off


def _unlike(field: str, theirs: Any, ours: Any) -> str:
    """The error for a HookedTransformer whose field has a value that our model cannot have."""
    return (
        f"a HookedTransformer with {field} = {theirs!r} is no Cadmus model, which needs {ours!r}: "
        "analyse it in TransformerLens itself, or train a Cadmus model"
    )


def _neighbours(name: str, tensor: Tensor, cfg: ModelConfig) -> Tensor:
    """Weights [.., d_head] of rotary queries and keys, pairs (i, i + rotary_dim / 2) brought side by side."""
    if cfg.positional_embedding_type != "rotary" or not name.endswith((".W_Q", ".W_K", ".b_Q", ".b_K")):
        return tensor
    rotary_dim = cfg.rotary_dim or cfg.d_head
    order = torch.arange(cfg.d_head, device=tensor.device)
    order[:rotary_dim] = order[:rotary_dim].view(2, -1).T.flatten()
    return tensor[..., order]


_VERSIONS = {  # the versions of transformer-lens that each conversion works with: from, to below
    "to_hooked_transformer": ((3, 9), (4,)),
    "to_transformer_bridge": ((4,), (5,)),
}


def _require(method: str, cls: str, version: str) -> None:
    """ImportError, with the method to use instead, unless the installed transformer-lens has the class it needs."""
    install = f"pip install 'transformer-lens=={version}.*'"
    own = "the model's own run_with_cache and run_with_hooks"
    try:
        installed_version = metadata.version("transformer-lens")
    except metadata.PackageNotFoundError:
        raise ImportError(
            f"{method} needs transformer-lens, which is not installed: use {own}, which have the same sites, "
            f"or {install}"
        ) from None
    number = tuple(int(part) for part in re.findall(r"\d+", installed_version)[:2])
    methods = [name for name, (first, end) in _VERSIONS.items() if first <= number < end]
    if method in methods:
        return
    use = f"lens.{methods[0]}" if methods else own
    raise ImportError(
        f"{method} needs {cls}, of transformer-lens {version}, but {installed_version} is installed: "
        f"use {use}, or {install}"
    )


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _dtype(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype
