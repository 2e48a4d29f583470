"""The weights of all layers under HookedTransformer's names, each in one tensor, and what is computed of them alone."""

from __future__ import annotations

from typing import Any

import torch
from einops import einsum
from torch import Tensor


def _stack_of(part: str, name: str, shape: str) -> property:
    """The property that stacks a weight of every block."""

    def stack(model: Any) -> Tensor:
        return torch.stack([getattr(getattr(block, part), name) for block in model.blocks])

    return property(stack, doc=f"`blocks.*.{part}.{name}` [layer, {shape}], a copy.")


class Weights:
    """What `Model` has of HookedTransformer's properties and functions of weights; the weights lie in its layers."""

    W_Q = _stack_of("attn", "W_Q", "head, d_model, d_head")
    W_K = _stack_of("attn", "W_K", "head, d_model, d_head")
    W_V = _stack_of("attn", "W_V", "head, d_model, d_head")
    W_O = _stack_of("attn", "W_O", "head, d_head, d_model")
    b_Q = _stack_of("attn", "b_Q", "head, d_head")
    b_K = _stack_of("attn", "b_K", "head, d_head")
    b_V = _stack_of("attn", "b_V", "head, d_head")
    b_O = _stack_of("attn", "b_O", "d_model")
    W_in = _stack_of("mlp", "W_in", "d_model, d_mlp")
    W_out = _stack_of("mlp", "W_out", "d_mlp, d_model")
    b_in = _stack_of("mlp", "b_in", "d_mlp")
    b_out = _stack_of("mlp", "b_out", "d_model")

    @property
    def W_E(self: Any) -> Tensor:
        """The embedding [d_vocab, d_model]."""
        return self.embed.W_E

    @property
    def W_U(self: Any) -> Tensor:
        """The unembedding [d_model, d_vocab]."""
        return self.unembed.W_U

    @property
    def b_U(self: Any) -> Tensor:
        """The bias of the logits [d_vocab]."""
        return self.unembed.b_U

    @property
    def W_pos(self: Any) -> Tensor:
        """The embedding of positions [n_ctx, d_model]; AttributeError where positions are rotary."""
        return self.pos_embed.W_pos

    @property
    def W_E_pos(self: Any) -> Tensor:
        """W_E above W_pos [d_vocab + n_ctx, d_model]."""
        return torch.cat([self.W_E, self.W_pos])

    @property
    def QK(self) -> Any:
        """W_Q W_K^T of every head [layer, head, d_model, d_model], factored; see `factored_product`."""
        return factored_product(self.W_Q, self.W_K.transpose(-2, -1))

    @property
    def OV(self) -> Any:
        """W_V W_O of every head [layer, head, d_model, d_model], factored; see `factored_product`."""
        return factored_product(self.W_V, self.W_O)

    def accumulated_bias(self: Any, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True) -> Tensor:
        """The sum of the biases that the blocks before `layer` have written into the stream [d_model].

        mlp_input: that of the attention of `layer` too; include_mlp_biases: those of MLPs too.
        """
        n_layers = self.cfg.n_layers
        if not 0 <= layer <= n_layers - mlp_input:
            raise ValueError(f"layer = {layer} is outside 0 ... {n_layers - mlp_input}, the model's layers")
        bias = torch.zeros_like(self.b_U[:1]).expand(self.cfg.d_model)
        bias = bias + self.b_O[: layer + mlp_input].sum(0)
        return bias + self.b_out[:layer].sum(0) if include_mlp_biases else bias

    def all_head_labels(self: Any) -> list[str]:
        """The names of all heads, `L0H0` the first, layer by layer."""
        return [f"L{layer}H{head}" for layer in range(self.cfg.n_layers) for head in range(self.cfg.n_heads)]

    def all_composition_scores(self: Any, mode: str) -> Tensor:
        """How much what a head writes is read by a head of a later layer [layer, head, later layer, head], 0 elsewhere.

        The norm of the product of the two heads' matrices by the product of their norms (Elhage et al. 2021, A
        Mathematical Framework for Transformer Circuits). mode: "Q", "K" or "V", what the later head reads it for.
        """
        rights = {"Q": (self.W_Q, self.W_K.mT), "K": (self.W_K, self.W_Q.mT), "V": (self.W_V, self.W_O)}
        if mode not in rights:
            raise ValueError(f"mode {mode!r} is none of 'Q', 'K', 'V'")
        # |A M B|^2 = sum of M * (A^T A) M (B B^T), with factors as small as a head, M between them
        left_in, left_out = self.W_V, self.W_O
        right_in, right_out = rights[mode]
        gram = left_in.mT @ left_in  # [layer, head, d_head, d_head]
        right_gram = right_out @ right_out.mT
        middle = einsum(left_out, right_in, "l h d model, later g model e -> l h later g d e")
        product = einsum(gram, middle, right_gram, "l h d c, l h later g c e, later g e f -> l h later g d f")
        norms = (middle * product).sum((-2, -1)).clamp(min=0).sqrt()
        left_norms = _factored_norms(left_in, left_out)  # [layer, head]
        right_norms = _factored_norms(right_in, right_out)
        scores = norms / left_norms[:, :, None, None] / right_norms
        layers = torch.arange(self.cfg.n_layers, device=scores.device)
        return scores * (layers[:, None] < layers)[:, None, :, None]

    def tokens_to_residual_directions(self: Any, tokens: str | int | Tensor) -> Tensor:
        """The directions of the stream that the logits of these tokens read [.., d_model]: columns of W_U.

        tokens: int [..], an id, or one character of the vocabulary; a single token gives [d_model].
        """
        if isinstance(tokens, str):
            tokens = self.to_single_token(tokens)
        if isinstance(tokens, Tensor):
            tokens = tokens.long() if tokens.numel() > 1 else int(tokens)
        return self.W_U.T[tokens]


def factored_product(a: Tensor, b: Tensor) -> Any:
    """TransformerLens's FactoredMatrix of a [.., m, k] and b [.., k, n]; where it is missing, their product."""
    try:
        from transformer_lens import FactoredMatrix  # takes seconds to load
    except ImportError:
        return a @ b
    return FactoredMatrix(a, b)


def _factored_norms(a: Tensor, b: Tensor) -> Tensor:
    """The Frobenius norms of the products of a [.., m, k] and b [.., k, n]: [..]."""
    return ((a.mT @ a) * (b @ b.mT)).sum((-2, -1)).clamp(min=0).sqrt()
