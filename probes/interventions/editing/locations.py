"""Where a site lies in a model's pass: in which block, where a pass that edits there begins, and which axes it has."""

from __future__ import annotations

from typing import NamedTuple

INPUT_SITE = "blocks.0.hook_resid_pre"
"""The residual stream before the first block."""

TOKEN, HEAD, ATTENTION = "token", "head", "attention"
"""The axes of a site: [row, pos, ..], [row, pos, head, ..], [row, head, query, key]."""

_KINDS = {  # sites without the block's number, in the order of a pass: where a pass that edits there begins, their axes
    "hook_tokens": ("embedding", TOKEN),
    "hook_embed": ("embedding", TOKEN),
    "hook_pos_embed": ("embedding", TOKEN),
    "blocks.hook_resid_pre": ("residual", TOKEN),
    "blocks.hook_attn_in": ("residual", HEAD),
    "blocks.hook_q_input": ("residual", HEAD),
    "blocks.hook_k_input": ("residual", HEAD),
    "blocks.hook_v_input": ("residual", HEAD),
    "blocks.ln1.hook_scale": ("residual", TOKEN),
    "blocks.ln1.hook_normalized": ("residual", TOKEN),
    "blocks.attn.hook_q": ("residual", HEAD),
    "blocks.attn.hook_k": ("residual", HEAD),
    "blocks.attn.hook_v": ("residual", HEAD),
    "blocks.attn.hook_rot_q": ("residual", HEAD),
    "blocks.attn.hook_rot_k": ("residual", HEAD),
    "blocks.attn.hook_attn_scores": ("residual", ATTENTION),
    "blocks.attn.hook_pattern": ("residual", ATTENTION),
    "blocks.attn.hook_z": ("heads", HEAD),
    "blocks.attn.hook_result": ("heads", HEAD),
    "blocks.hook_attn_out": ("heads", TOKEN),
    "blocks.hook_resid_mid": ("mlp", TOKEN),
    "blocks.hook_mlp_in": ("mlp", TOKEN),
    "blocks.ln2.hook_scale": ("mlp", TOKEN),
    "blocks.ln2.hook_normalized": ("mlp", TOKEN),
    "blocks.mlp.hook_pre": ("mlp", TOKEN),
    "blocks.mlp.hook_post": ("mlp", TOKEN),
    "blocks.hook_mlp_out": ("mlp", TOKEN),
    "blocks.hook_resid_post": ("residual", TOKEN),  # of the next block
    "ln_final.hook_scale": ("residual", TOKEN),
    "ln_final.hook_normalized": ("residual", TOKEN),
    "unembed.hook_in": ("residual", TOKEN),
    "unembed.hook_out": ("residual", TOKEN),
}
_ORDER = {kind: number for number, kind in enumerate(_KINDS)}
_QUERY_SITES = {"blocks.hook_q_input", "blocks.attn.hook_q", "blocks.attn.hook_rot_q"}
_SPLIT_INPUTS = {f"blocks.{name}" for name in ("hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input")}


class Location(NamedTuple):
    """Where a site lies in a model's pass."""

    order: tuple[int, int]
    """Grows along the pass: the block, and what comes when within it."""

    begin: tuple[int, str]
    """The block and the entry (`cadmus.models.partial.ENTRIES`) at which a pass that edits there begins."""

    axes: str
    """"token", "head" or "attention"."""

    splits_input: bool
    """Whether a hook there gives each head its own input, which changes the shape of `ln1`'s sites."""

    only_last: bool
    """Whether nothing at the site reaches the next token's logits but the last position's activation."""

    @property
    def is_attention(self) -> bool:
        """Whether activations are scores or patterns: one is [head, key], of a query."""
        return self.axes == ATTENTION


def locate(site: str, n_layers: int) -> Location:
    """Where the site of a model of so many blocks lies."""
    kind, layer = site, n_layers
    if site.startswith("blocks."):
        _, number, rest = site.split(".", 2)
        kind, layer = f"blocks.{rest}", int(number)
    entry, axes = _KINDS[kind]
    is_input = entry == "embedding"
    begin = 0 if is_input else layer + (kind == "blocks.hook_resid_post")
    only_last = layer == n_layers and not is_input
    if layer == n_layers - 1:
        only_last = _ORDER[kind] >= _ORDER["blocks.attn.hook_attn_scores"] or kind in _QUERY_SITES
    return Location((-1 if is_input else layer, _ORDER[kind]), (begin, entry), axes, kind in _SPLIT_INPUTS, only_last)


def stream_site(layer: int) -> str:
    """The site of the residual stream after a block; before the first one for -1."""
    return INPUT_SITE if layer < 0 else f"blocks.{layer}.hook_resid_post"
