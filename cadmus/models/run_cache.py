"""What a run computed, by site: `ActivationCache`, with TransformerLens's short names and decompositions of the stream.

`run_with_cache` fills one. It is a dictionary {site: activation}; its methods are called as those of TransformerLens's
class of that name, and give the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from einops import einsum, rearrange
from torch import Tensor

from cadmus.models.hooks import Hook, never_writes

PosSlice = Any
"""Positions: None (all), an int (which takes the dimension away), a slice, a tuple (of `slice`'s arguments), a list or
tensor of indices, or TransformerLens's Slice."""

_PARTS = {"a": "attn", "attention": "attn", "m": "mlp", "b": "", "block": "", "blocks": ""}
_NAMES = {
    "attn": "pattern",
    "attn_logits": "attn_scores",
    "key": "k",
    "query": "q",
    "value": "v",
    "mlp_pre": "pre",
    "mlp_post": "post",
}
_OF_ATTENTION = ("q", "k", "v", "z", "rot_q", "rot_k", "result", "pattern", "attn_scores")


def site_name(name: str, layer: int | None = None, part: str | None = None) -> str:
    """The site that TransformerLens's short name means: ("resid_post", 2), ("scale", 4, "ln1"), "k6", "embed".

    A whole name stays as it is.
    """
    if layer is None and part is None and ("." in name or name.startswith("hook_")):
        return name
    number = re.fullmatch(r"([a-z_]+?)(\d+)([a-z]?.*)", name)
    if number:
        name, layer, part = number[1], int(number[2]), number[3] or None
    name = _NAMES.get(name, name)
    if name in _OF_ATTENTION:
        part = "attn"
    elif name in ("pre", "post"):
        part = "mlp"
    else:
        part = _PARTS.get(part or "", part)
    if name in ("scale", "normalized") and layer is None:
        part = part or "ln_final"
    block = "" if layer is None else f"blocks.{layer}."
    return f"{block}{part + '.' if part else ''}hook_{name}"


class ActivationCache(dict[str, Tensor]):
    """Activations of one run by site, and the model that ran.

    A key is a site, or a short name as `site_name` takes it; layers may count from the end. A deep copy copies the
    activations and keeps the model.
    """

    def __init__(self, activations: dict[str, Tensor], model: Any, has_batch_dim: bool = True) -> None:
        super().__init__(activations)
        self.model = model
        self.has_batch_dim = has_batch_dim

    def __missing__(self, key: Any) -> Tensor:
        parts = (key,) if isinstance(key, str) else tuple(key)
        if len(parts) > 1 and parts[1] is not None and parts[1] < 0:
            parts = (parts[0], self.model.cfg.n_layers + parts[1], *parts[2:])
        site = site_name(*parts)
        if site not in self:
            raise KeyError(f"{site!r} was not cached in this run, which has {len(self)} sites; list(cache) names them")
        return self[site]

    def __getitem__(self, key: Any) -> Tensor:
        return super().__getitem__(key)

    def __repr__(self) -> str:
        return f"ActivationCache of {len(self)} sites of {self.model!r}"

    def __deepcopy__(self, memo: dict) -> ActivationCache:
        return ActivationCache({site: tensor.clone() for site, tensor in self.items()}, self.model, self.has_batch_dim)

    @property
    def cache_dict(self) -> dict[str, Tensor]:
        """The activations by site: the cache itself."""
        return self

    def to(self, device: torch.device | str) -> ActivationCache:
        """Move the activations, not the model; returns the cache."""
        self.update({site: tensor.to(device) for site, tensor in self.items()})
        return self

    def remove_batch_dim(self) -> ActivationCache:
        """Take the first dimension of every activation away; returns the cache. ValueError for more than one row."""
        if self.has_batch_dim:
            rows = max((len(tensor) for tensor in self.values()), default=1)
            if rows != 1:
                raise ValueError(f"the batch has {rows} rows; only that of a single row can be removed")
            self.update({site: tensor[0] for site, tensor in self.items()})
            self.has_batch_dim = False
        return self

    # --- the stream, added up and taken apart ------------------------------------------------------------------------

    def accumulated_resid(
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: PosSlice = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> Any:
        """The stream before each block, up to the input of `layer` [component, .., d_model]: what the logit lens reads.

        Args:
            layer: a block's number; None, -1 or n_layers for all, the stream behind the last block included.
            incl_mid: those between attention and MLP of the blocks before `layer` too.
            apply_ln: normalize: by the final LayerNorm, computed anew for each, where `layer` is the end; else as
                `apply_ln_to_stack`.
            pos_slice: positions.
            mlp_input: that between attention and MLP of `layer` too.
            return_labels: return (components, their names).
        """
        layer = self._layer(layer)
        sites = []
        for i in range(layer + 1):
            if i == self._n_layers:
                sites.append(("resid_post", i - 1, "final_post"))
                continue
            sites.append(("resid_pre", i, f"{i}_pre"))
            if (incl_mid and i < layer) or (mlp_input and i == layer):
                sites.append(("resid_mid", i, f"{i}_mid"))
        stack = torch.stack([take(self[name, i], pos_slice, -2) for name, i, _ in sites])
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, layer, mlp_input, pos_slice, recompute_ln=layer == self._n_layers)
        return (stack, [label for *_, label in sites]) if return_labels else stack

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: str = "all",
        apply_ln: bool = False,
        pos_slice: PosSlice = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Any:
        """What embeddings, attentions and MLPs write into the stream, up to the input of `layer` [part, .., d_model].

        Args:
            layer: as `accumulated_resid`.
            mlp_input: the attention of `layer` too.
            mode: "all", "attn" or "mlp": which parts of the blocks.
            apply_ln: normalize as `apply_ln_to_stack`.
            pos_slice: positions.
            incl_embeds: embeddings too.
            return_labels: return (components, their names).
        """
        if mode not in ("all", "attn", "mlp"):
            raise ValueError(f"mode {mode!r} is none of 'all', 'attn', 'mlp'")
        layer = self._layer(layer)
        labels = [name for name in ("embed", "pos_embed") if incl_embeds and f"hook_{name}" in self]
        sites: list[Any] = list(labels)
        parts = [part for part in ("attn", "mlp") if mode in ("all", part)]
        last = [(layer, "attn")] if mlp_input and mode != "mlp" else []
        for i, part in [(i, part) for i in range(layer) for part in parts] + last:
            sites.append((f"{part}_out", i))
            labels.append(f"{i}_{part}_out")
        stack = torch.stack([take(self[site], pos_slice, -2) for site in sites])
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, layer, mlp_input, pos_slice)
        return (stack, labels) if return_labels else stack

    def compute_head_results(self) -> None:
        """Add to the cache what each head writes into the stream, `attn.hook_result` [.., head, d_model]."""
        for i in range(self._n_layers):
            site = f"blocks.{i}.attn.hook_result"
            if site not in self:
                weights = self.model.blocks[i].attn.W_O  # [head, d_head, d_model]
                self[site] = einsum(self["z", i], weights, "... head d, head d model -> ... head model")

    def stack_head_results(
        self,
        layer: int | None = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: PosSlice = None,
        apply_ln: bool = False,
    ) -> Any:
        """What each head of the blocks before `layer` writes into the stream [component, .., d_model], layer by layer.

        Args:
            layer: as `accumulated_resid`.
            return_labels: return (components, their names `L0H0`, ...).
            incl_remainder: what else is in the stream, as the last component.
            pos_slice: positions.
            apply_ln: normalize as `apply_ln_to_stack`.
        """
        layer = self._layer(layer)
        self.compute_head_results()
        results = [take(self["result", i], pos_slice, -3) for i in range(layer)]
        stream = take(self["resid_post", layer - 1] if layer else self["resid_pre", 0], pos_slice, -2)
        stack = stream.new_zeros(0, *stream.shape)
        if results:
            stack = rearrange(torch.stack(results), "layer ... head model -> (layer head) ... model")
        labels = [f"L{i}H{head}" for i in range(layer) for head in range(self.model.cfg.n_heads)]
        if incl_remainder:
            stack = torch.cat([stack, (stream - stack.sum(0))[None]])
            labels.append("remainder")
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, layer, pos_slice=pos_slice)
        return (stack, labels) if return_labels else stack

    def stack_activation(self, activation_name: str, layer: int = -1, sublayer_type: str | None = None) -> Tensor:
        """The activations of that short name in the blocks before `layer` [layer, ..]; -1: in all."""
        return torch.stack([self[activation_name, i, sublayer_type] for i in range(self._layer(layer))])

    def logit_attrs(
        self,
        residual_stack: Tensor,
        tokens: str | int | Tensor,
        incorrect_tokens: str | int | Tensor | None = None,
        pos_slice: PosSlice = None,
        batch_slice: PosSlice = None,
        has_batch_dim: bool = True,
    ) -> Tensor:
        """How much each component adds to the logits of tokens, beyond those of `incorrect_tokens` [component, ..].

        residual_stack [component, .., d_model]; tokens: one, or int [batch] or [batch, pos]. The scale of the final
        LayerNorm is counted, its weights are not.
        """
        directions = self.model.tokens_to_residual_directions(tokens)
        if incorrect_tokens is not None:
            others = self.model.tokens_to_residual_directions(incorrect_tokens)
            if others.shape != directions.shape:
                raise ValueError(
                    f"incorrect_tokens give directions {tuple(others.shape)}, tokens {tuple(directions.shape)}; "
                    "expected as many of both"
                )
            directions = directions - others
        stack = self.apply_ln_to_stack(
            residual_stack, pos_slice=pos_slice, batch_slice=batch_slice, has_batch_dim=has_batch_dim
        )
        return (stack * directions).sum(-1)

    def apply_ln_to_stack(
        self,
        residual_stack: Tensor,
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: PosSlice = None,
        batch_slice: PosSlice = None,
        has_batch_dim: bool = True,
        recompute_ln: bool = False,
    ) -> Tensor:
        """Components of the stream, centred and divided by the scale that the LayerNorm before `layer` had in this run.

        So they still sum to what is read there, before its weights.

        Args:
            residual_stack: [component, .., d_model], of the positions of `pos_slice`.
            layer: whose LayerNorm; None, -1 or n_layers: the final one.
            mlp_input: that before the MLP of `layer`, not before its attention.
            pos_slice: positions.
            batch_slice: rows, to be taken of the stack and the scale.
            has_batch_dim: whether the stack has a dimension of rows.
            recompute_ln: apply the final LayerNorm itself, weights and all, to each component for itself.
        """
        layer = self._layer(layer)
        stack = take(residual_stack, batch_slice, 1) if has_batch_dim else residual_stack
        if recompute_ln and layer == self._n_layers:
            return self.model.ln_final(stack)
        norm = "ln_final" if layer == self._n_layers else f"blocks.{layer}.ln{2 if mlp_input else 1}"
        scale = take(self[f"{norm}.hook_scale"], pos_slice, -2)
        if self.has_batch_dim:
            scale = take(scale, batch_slice, 0)
        return (stack - stack.mean(-1, keepdim=True)) / scale

    @property
    def _n_layers(self) -> int:
        return self.model.cfg.n_layers

    def _layer(self, layer: int | None) -> int:
        """The block's number, n_layers for the end; ValueError for what the model does not have."""
        layer = self._n_layers if layer in (None, -1) else layer
        assert layer is not None
        if not 0 <= layer <= self._n_layers:
            raise ValueError(f"layer = {layer} is outside 0 ... {self._n_layers}, the model's layers; -1 is the end")
        return layer


# --- filling a cache -------------------------------------------------------------------------------------------------


def recorder(
    cache: dict[str, Tensor],
    suffix: str = "",
    device: torch.device | str | None = None,
    pos_slice: PosSlice = None,
) -> Callable[[Tensor, Hook], None]:
    """A hook function that puts what it is shown into `cache`, detached, under the site's name and `suffix`.

    Activations share no memory with one another as far as one could tell by writing there: what two sites show in turn
    is copied, and what is one tensor for all rows.
    """
    latest: list[Tensor] = []  # what was shown last

    @never_writes
    def record(tensor: Tensor, hook: Hook) -> None:
        shared = any(stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        shared = shared or any(tensor.is_set_to(other) for other in latest)
        latest[:] = [tensor]
        stored = tensor.detach().to(device=device) if device is not None else tensor.detach()
        stored = take(stored, pos_slice, 2 if hook.name.endswith(("_pattern", "_scores")) else 1)
        cache[hook.name + suffix] = stored.clone() if shared else stored

    return record


def take(tensor: Tensor, at: PosSlice, dim: int) -> Tensor:
    """What stands at these places of a dimension; see `PosSlice`."""
    if at is None:
        return tensor
    if hasattr(at, "apply"):  # TransformerLens's Slice
        return at.apply(tensor, dim=dim)
    if isinstance(at, int):
        return tensor.select(dim, at)
    dim %= tensor.ndim
    if isinstance(at, tuple):
        at = slice(*at)
    if not isinstance(at, slice):
        at = torch.as_tensor(at, device=tensor.device)
    return tensor[(slice(None),) * dim + (at,)]
