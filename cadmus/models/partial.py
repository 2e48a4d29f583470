"""Reading sequences again from where an edit begins: what the edit cannot reach is not computed again.

A causal decoder computes the stream at a layer and position from the layers below and the positions up to it. `read`
runs a model once and keeps the stream before each block, the keys and the values. `reread` then runs it for many edited
copies of those rows at once, each from the block and the position where its edit begins up to the position whose next
token is wanted: positions before are attended to as they were kept, and the last block computes only what that one
position needs. The tokens of all copies lie one after another, so that copies of different lengths cost what they are
long. Edits are hooks; see `Suffixes` for the shapes that they see.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from cadmus.machine.tokens import text_list
from cadmus.models.key_value_cache import KeyValueCache
from cadmus.models.layers import Attention, Block
from cadmus.models.model import Model

ENTRIES = ("embedding", "residual", "heads", "mlp")
"""Where `reread` can begin: at the tokens; before a block; behind the heads of its attention; before its MLP."""


@dataclass(frozen=True)
class Reading:
    """What a plain pass over some rows computed, without gradients."""

    tokens: Tensor
    """int64 [row, pos]: what was read."""

    cache: dict[str, Tensor]
    """Activations by site, those that `reread` needs among them."""

    logits: Tensor
    """[row, d_vocab]: of the token behind position `last` of each row."""

    key_site: str
    """The site that shows keys as they are attended to, without the block's name."""

    def residual(self, layer: int) -> Tensor:
        """The stream before a block [row, pos, d_model]; n_layers stands for behind the last."""
        name = f"blocks.{layer}.hook_resid_pre"
        return self.cache[name] if name in self.cache else self.cache[f"blocks.{layer - 1}.hook_resid_post"]

    def keys(self, layer: str) -> Tensor:
        """The keys of an attention, named as `Attention.name`: [row, pos, head, d_head]."""
        return self.cache[f"{layer}.{self.key_site}"]

    def values(self, layer: str) -> Tensor:
        """The values of an attention: [row, pos, head, d_head]."""
        return self.cache[f"{layer}.hook_v"]


@torch.no_grad()
def read(model: Model, tokens: Tensor, last: Tensor, sites: Iterable[str] = ()) -> Reading:
    """Run the model and keep what `reread` begins from, and the activations at `sites`.

    tokens int [row, pos] on the model's device; last int64 [row], the position of each row whose next token is wanted.
    """
    sites = text_list(sites, "sites")
    key_site = "hook_rot_k" if model.cfg.positional_embedding_type == "rotary" else "hook_k"
    kinds = ("hook_resid_pre", f"attn.{key_site}", "attn.hook_v", "attn.hook_z", "hook_resid_mid")
    names = [f"blocks.{layer}.{kind}" for layer in range(model.cfg.n_layers) for kind in kinds]
    final = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    names = sorted({*names, final, *sites})
    return_type = "logits" if any(name.startswith("unembed.") for name in names) else None
    _, cache = model.run_with_cache(tokens, names, return_type, return_cache_object=False)
    x = cache[final][torch.arange(len(tokens), device=tokens.device), last]  # [row, d_model]
    return Reading(tokens.long(), cache, model.unembed(model.ln_final(x)), key_site)


class Suffixes:
    """Copies of rows that have been read, each from its first position that is read again to its last.

    While they are read again, the model's activations are [1, token, ...] in place of [batch, pos, ...], the tokens of
    all copies one after another; scores and pattern are [copy, head, query, key], queries from the copy's first
    position on; from the heads of the last block on, there is one token for each copy, its last. `index` finds a
    position of a copy in all of these.

    It is the `Context` of that pass: attention sees what was kept before the copy's first position, then what is read.
    """

    def __init__(self, reading: Reading, rows: Tensor, first: Tensor, last: Tensor) -> None:
        device = rows.device
        self.reading = reading
        self.rows = rows
        self.first = first
        self.last = last
        counts = last - first + 1
        begins = counts.cumsum(0) - counts
        self.copies = torch.arange(len(rows), device=device).repeat_interleave(counts)  # [token]: whose it is
        self.columns = torch.arange(len(self.copies), device=device) - begins[self.copies]
        self.positions = first[self.copies] + self.columns
        self.last_tokens = begins + counts - 1
        self.begins = begins
        self.n_queries = int(counts.max())
        self.n_keys = int(last.max()) + 1
        self.n_before = int(first.max())  # positions that some copy does not read again
        self.only_last = False  # whether the last positions alone are queries
        self.attended: dict[str, tuple[Tensor, Tensor]] = {}  # keys and values by attention, [copy, key, head, d_head]
        self.keeps = False
        # whether all copies begin and end alike, so that their tokens need not be moved about
        self.are_alike = int(first.min()) == self.n_before and int(last.min()) == int(last.max())
        which = slice(0, 1) if self.are_alike else slice(None)
        keys = torch.arange(self.n_keys, device=device)
        queries = (first[which, None] + torch.arange(self.n_queries, device=device)).minimum(last[which, None])
        self._visible = (keys <= queries[:, :, None])[:, None]  # [copy or 1, 1, query, key]
        self._query_slots = self.copies * self.n_queries + self.columns
        self._key_slots = self.copies * self.n_keys + self.positions

    @property
    def visible(self) -> Tensor:
        """bool [copy, 1, query, key], or [1, 1, query, key] for all copies."""
        if self.only_last:
            return (torch.arange(self.n_keys, device=self.last.device) <= self.last[:, None])[:, None, None]
        return self._visible

    def of(self, activation: Tensor) -> Tensor:
        """An activation [row, pos, ...] that was kept -> [1, token, ...]."""
        flat = activation.flatten(0, 1)
        return flat.index_select(0, self.rows[self.copies] * activation.shape[1] + self.positions)[None]

    def queries(self, q: Tensor) -> Tensor:
        """q [1, head, token, d_head] -> [copy, head, query, d_head], those behind a copy's last position 0."""
        flat = q[0].transpose(0, 1)  # [token, head, d_head]
        if self.only_last:
            return flat[self.last_tokens].unsqueeze(2)
        if self.are_alike:
            return flat.unflatten(0, (-1, self.n_queries)).transpose(1, 2)
        slots = flat.new_zeros(len(self.rows) * self.n_queries, *flat.shape[1:])
        return slots.index_copy_(0, self._query_slots, flat).unflatten(0, (-1, self.n_queries)).transpose(1, 2)

    def append(self, layer: str, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v [1, head, token, d_head] -> with what was kept before, [copy, head, key, d_head]."""
        keys = self._behind(self.reading.keys(layer), k)
        values = self._behind(self.reading.values(layer), v)
        if self.keeps:
            self.attended[layer] = keys, values
        return keys.transpose(1, 2), values.transpose(1, 2)

    def _behind(self, before: Tensor, new: Tensor) -> Tensor:
        """[row, pos, head, d_head] and [1, head, token, d_head] -> [copy, key, head, d_head]."""
        flat = new[0].transpose(0, 1)  # [token, head, d_head]
        if self.are_alike:
            return torch.cat([before[self.rows, : self.n_before], flat.unflatten(0, (-1, self.n_queries))], 1)
        out = flat.new_zeros(len(self.rows), self.n_keys, *flat.shape[1:])
        out[:, : self.n_before] = before[self.rows, : self.n_before]
        out.flatten(0, 1).index_copy_(0, self._key_slots, flat)
        return out

    def outputs(self, z: Tensor) -> Tensor:
        """z [copy, query, head, d_head] -> [1, token, head, d_head]."""
        if self.only_last:
            return z[:, 0][None]
        if self.are_alike:
            return z.flatten(0, 1)[None]
        return z.flatten(0, 1).index_select(0, self._query_slots)[None]

    def index(self, n: int, is_attention: bool, copies: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Where positions of copies (int64 [m] both) lie among the n tokens of an activation, or queries of all copies.

        Returns (index int64 [m], present bool [m]): what is not read, or not read so far up, is not present.
        """
        present = (positions >= self.first[copies]) & (positions <= self.last[copies])
        if is_attention and n == len(self.rows) * self.n_queries:
            return copies * self.n_queries + positions - self.first[copies], present
        if not is_attention and n == len(self.copies):
            return self.begins[copies] + positions - self.first[copies], present
        return copies, present & (positions == self.last[copies])


@torch.no_grad()
def reread(model: Model, suffixes: Suffixes, layer: int, entry: str) -> Tensor:
    """Run the copies from an entry of a block on: the logits [copy, d_vocab] behind each copy's last position.

    Hooks set on the model see what `Suffixes` says. layer n_layers with entry "residual" stands for behind the last
    block; "embedding" goes with layer 0.
    """
    n_layers = model.cfg.n_layers
    last = suffixes.last_tokens
    reading = suffixes.reading
    if entry == "embedding":
        tokens = model._sites("hook_tokens", suffixes.of(reading.tokens))
        x = model.embedding(tokens, suffixes.positions)
    else:
        x = suffixes.of(reading.residual(layer))  # [1, token, d_model]
        if layer == n_layers:
            x = x[:, last]
        if layer > 0 and entry == "residual":
            x = model._sites(f"blocks.{layer - 1}.hook_resid_post", x)
    for number in range(layer, n_layers):
        block: Block = model.blocks[number]  # type: ignore[assignment]  # torch says Module
        kept_tokens = last if number == n_layers - 1 else slice(None)
        if number == layer and entry == "heads":
            z = suffixes.of(reading.cache[f"{block.name}.attn.hook_z"])[:, kept_tokens]
            x = block.add_attention(x[:, kept_tokens], block.attn.combine(z))
        elif number == layer and entry == "mlp":
            x = suffixes.of(reading.cache[f"{block.name}.hook_resid_mid"])[:, kept_tokens]
        else:
            x = model._sites(f"{block.name}.hook_resid_pre", x)
            suffixes.only_last = number == n_layers - 1
            if suffixes.only_last and _is_one_query(block, suffixes):
                attn_out = block.attn.combine(_last_heads(block.attn, block.ln1(x), suffixes))
            else:
                attn_out = block.attn(block.attention_input(x), suffixes.positions, suffixes)
            x = block.add_attention(x[:, kept_tokens], attn_out)
        x = block.add_mlp(x)
    suffixes.only_last = False
    return model.unembed(model.ln_final(x))[0]


def _is_one_query(block: Block, suffixes: Suffixes) -> bool:
    """Whether the attention of the last block can be computed for the copies' last positions alone."""
    kinds = ("q", "k", "v", "rot_q", "rot_k", "attn_scores", "pattern")
    sites = [f"{block.name}.attn.hook_{kind}" for kind in kinds]
    sites += [f"{block.name}.hook_{kind}" for kind in ("attn_in", "q_input", "k_input", "v_input")]
    return not suffixes.keeps and block.attn.rotary is None and not block.sites.has_hook(*sites)


def _last_heads(attn: Attention, x: Tensor, suffixes: Suffixes) -> Tensor:
    """z of the copies' last positions [1, copy, head, d_head], x [1, token, d_model] normalized.

    One query needs no keys and values of the positions that are read again: q (x W_K) = (q W_K) x, and the pattern's
    sum of x W_V is the sum of x, times W_V. So two products of every token become two of every copy.
    """
    n_new = suffixes.n_queries
    tokens = x[0]  # [token, d_model]
    if suffixes.are_alike:
        new = tokens.unflatten(0, (-1, n_new))  # [copy, slot, d_model]
    else:
        slots = tokens.new_zeros(len(suffixes.rows) * n_new, tokens.shape[1])
        new = slots.index_copy_(0, suffixes._query_slots, tokens).unflatten(0, (-1, n_new))
    q = torch.einsum("cm,hmd->chd", tokens[suffixes.last_tokens], attn.W_Q) + attn.b_Q  # [copy, head, d_head]
    q = q * attn.cfg.d_head**-0.5
    before = slice(0, suffixes.n_before)
    keys = suffixes.reading.keys(attn.name)[suffixes.rows, before]  # [copy, key, head, d_head]
    values = suffixes.reading.values(attn.name)[suffixes.rows, before]
    scores_before = torch.einsum("chd,ckhd->chk", q, keys)
    through_keys = torch.einsum("chd,hmd->chm", q, attn.W_K)  # [copy, head, d_model]
    scores_new = through_keys @ new.transpose(1, 2) + (q * attn.b_K).sum(-1, keepdim=True)  # [copy, head, slot]
    if not suffixes.are_alike:
        device = q.device
        is_kept = torch.arange(suffixes.n_before, device=device) < suffixes.first[:, None]
        is_new = torch.arange(n_new, device=device) <= (suffixes.last - suffixes.first)[:, None]
        scores_before = scores_before.masked_fill(~is_kept[:, None], -torch.inf)
        scores_new = scores_new.masked_fill(~is_new[:, None], -torch.inf)
    pattern = torch.cat([scores_before, scores_new], -1).softmax(-1)
    pattern_before, pattern_new = pattern.split([suffixes.n_before, n_new], -1)
    sums = pattern_new @ new  # [copy, head, d_model]
    z = torch.einsum("chm,hmd->chd", sums, attn.W_V) + pattern_new.sum(-1, keepdim=True) * attn.b_V
    return (z + torch.einsum("chk,ckhd->chd", pattern_before, values))[None]


def remember(suffixes: Suffixes, model: Model, kv_cache: KeyValueCache, rows: slice) -> None:
    """Put what `reread` kept of copies into rows of a cache that hold nothing yet, to be continued from there."""
    n = suffixes.n_keys
    kv_cache.rows = torch.arange(rows.start, rows.stop, device=suffixes.rows.device)
    kv_cache.advance(n)
    kv_cache.rows = None  # nothing attends now, so that `append` need not gather
    for block in model.blocks:
        name = f"{block.name}.attn"
        if name in suffixes.attended:
            keys, values = suffixes.attended[name]  # [copy, key, head, d_head]
        else:
            keys = suffixes.reading.keys(name)[suffixes.rows, :n]
            values = suffixes.reading.values(name)[suffixes.rows, :n]
        kv_cache.append(name, keys.transpose(1, 2), values.transpose(1, 2))
    kv_cache.lengths[rows] = suffixes.last + 1
