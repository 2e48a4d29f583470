"""The sites of a model: TransformerLens's hook names, those that every pass computes and those computed on demand."""

from __future__ import annotations

from collections.abc import Iterable

from cadmus.machine.tokens import text_list
from cadmus.models.config import ModelConfig

# TransformerLens's hook names, all of them, in the order in which a forward pass comes to them.
_SITES_BEFORE_BLOCKS = (
    "hook_embed",
    "hook_pos_embed",  # learned positions only
)
_SITES_OF_BLOCK = (
    "hook_resid_pre",
    "ln1.hook_scale",
    "ln1.hook_normalized",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_rot_q",  # rotary positions only
    "attn.hook_rot_k",  # rotary positions only
    "attn.hook_attn_scores",
    "attn.hook_pattern",
    "attn.hook_z",
    "hook_attn_out",
    "hook_resid_mid",
    "ln2.hook_scale",
    "ln2.hook_normalized",
    "mlp.hook_pre",
    "mlp.hook_post",
    "hook_mlp_out",
    "hook_resid_post",
)
_SITES_BEHIND_BLOCKS = (
    "ln_final.hook_scale",
    "ln_final.hook_normalized",
    "unembed.hook_in",
    "unembed.hook_out",
)
_SITES_ON_DEMAND = ("hook_tokens",)
_SITES_OF_BLOCK_ON_DEMAND = (
    "hook_attn_in",
    "hook_q_input",
    "hook_k_input",
    "hook_v_input",
    "attn.hook_result",
    "hook_mlp_in",
)
_ABSENT_SITES = {
    "standard": {"attn.hook_rot_q", "attn.hook_rot_k"},
    "rotary": {"hook_pos_embed"},
}


def site_names(cfg: ModelConfig) -> tuple[list[str], list[str]]:
    """The site names computed by every forward pass, in order, and those computed only when hooked."""
    absent = _ABSENT_SITES[cfg.positional_embedding_type]
    blocks = range(cfg.n_layers)
    regular = [name for name in _SITES_BEFORE_BLOCKS if name not in absent]
    regular += [f"blocks.{i}.{name}" for i in blocks for name in _SITES_OF_BLOCK if name not in absent]
    regular += _SITES_BEHIND_BLOCKS
    on_demand = list(_SITES_ON_DEMAND)
    on_demand += [f"blocks.{i}.{name}" for i in blocks for name in _SITES_OF_BLOCK_ON_DEMAND]
    return regular, on_demand


def blocks_needed(sites: Iterable[str]) -> int | None:
    """How many blocks must run for these sites, as `stop_at_layer`; None where what follows the blocks must run too."""
    names = text_list(sites, "sites")
    if any(site.startswith(("ln_final.", "unembed.")) for site in names):
        return None
    return max((int(site.split(".")[1]) + 1 for site in names if site.startswith("blocks.")), default=0)
