"""The decoder: a pre-LayerNorm GELU transformer with TransformerLens's names, shapes and hooks.

Parameters carry HookedTransformer's names and shapes (`blocks.0.attn.W_Q [head, d_model, d_head]`, ...), so a state
dict loads there with plain `load_state_dict`. What happens inside is open at sites under TransformerLens's hook names
(`Model.sites` lists them): `run_with_cache` and `run_with_hooks` read and edit there. The layers are in `layers`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadmus.machine.tokens import PAD
from cadmus.models.config import ModelConfig
from cadmus.models.hooks import Hook, HookFn, HookRegistry, NamesFilter, SiteSelector
from cadmus.models.key_value_cache import KeyValueCache
from cadmus.models.layers import Block, Embed, LayerNorm, PosEmbed, Unembed
from cadmus.models.packed import Packed

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


class Model(nn.Module):
    """A Cadmus model. `cfg` has HookedTransformerConfig's field names; `seed` fixes the initial weights.

    Its repr is one line; `torch.nn.Module.__repr__(model)` is PyTorch's nested one.
    """

    def __init__(self, cfg: ModelConfig, seed: int = 0):
        super().__init__()
        self.cfg = cfg
        self._sites = HookRegistry(*_site_names(cfg))
        self.embed = Embed(cfg)
        if cfg.positional_embedding_type == "standard":
            self.pos_embed = PosEmbed(cfg)
        self.blocks = nn.ModuleList(Block(f"blocks.{i}", cfg, self._sites) for i in range(cfg.n_layers))
        self.ln_final = LayerNorm("ln_final", cfg, self._sites)
        self.unembed = Unembed(cfg, self._sites)
        self._init_weights(seed)

    def _init_weights(self, seed: int) -> None:
        """Draw the matrices; what writes to the residual stream starts smaller (GPT-2)."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if ".W_" in name:
                scale = (2 * self.cfg.n_layers) ** -0.5 if name.endswith(("W_O", "W_out")) else 1.0
                std = self.cfg.initializer_range * scale
                weights = torch.empty(parameter.shape).normal_(0, std, generator=generator)
                parameter.data.copy_(weights)  # a seed's weights do not depend on how they lie in memory

    def __repr__(self) -> str:
        n = sum(parameter.numel() for parameter in self.parameters())
        size = f"{n / 1e6:.1f} M" if n >= 1e5 else f"{n:,}"
        return f"Model({self.cfg.n_layers} layers, width {self.cfg.d_model}, {size} parameters)"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed.W_E.device

    def forward(
        self,
        tokens: Tensor,
        return_type: str | None = "logits",
        stop_at_layer: int | None = None,
        kv_cache: KeyValueCache | None = None,
    ) -> Tensor | tuple[Tensor, Tensor] | None:
        """Read programs. A compiled model runs uncompiled while a hook is set.

        Args:
            tokens: int [batch, pos]; position 0 holds the marker.
            return_type: "logits", "loss", "both", or None for neither. The loss is the mean cross-entropy (nats) of
                every token up to and including the program's own `.`.
            stop_at_layer: return the residual stream before this block instead, and run nothing behind it; a negative
                number counts from the end, n_layers stands for the end.
            kv_cache: what was read before: the tokens come behind it, and it then holds them too.

        Returns:
            Logits [batch, pos, d_vocab], the loss, both, or None; with `stop_at_layer` the residual stream
            [batch, pos, d_model].

        Raises:
            ValueError: more than `n_ctx` positions, an unknown return type, or a layer that the model does not have.
        """
        if self.has_hooks and torch.compiler.is_compiling():  # or it would compile anew for every hook
            return torch.compiler.disable(self.forward)(tokens, return_type, stop_at_layer, kv_cache)
        if return_type not in ("logits", "loss", "both", None):
            raise ValueError(f"return_type {return_type!r} is none of 'logits', 'loss', 'both', None")
        layers = self.cfg.n_layers
        if stop_at_layer is not None and not -layers <= stop_at_layer <= layers:
            raise ValueError(f"stop_at_layer = {stop_at_layer} is outside -{layers} ... {layers}, the model's layers")
        positions = self._positions(tokens, kv_cache)
        tokens = tokens.long()
        if self._sites.has_hook("hook_tokens"):
            tokens = self._sites("hook_tokens", tokens.clone())
        x = self._sites("hook_embed", self.embed(tokens))  # [batch, pos, d_model]
        if self.cfg.positional_embedding_type == "standard":
            x = x + self._sites("hook_pos_embed", self.pos_embed(positions).expand_as(x))
        for block in self.blocks[:stop_at_layer]:
            x = block(x, positions, kv_cache)
        if stop_at_layer is not None:
            return x
        x = self.ln_final(x)
        if return_type is None:
            return None
        logits = self.unembed(x)  # [batch, pos, d_vocab]
        if return_type == "logits":
            return logits
        loss = next_token_loss(logits, tokens)
        return loss if return_type == "loss" else (logits, loss)

    def _positions(self, tokens: Tensor, kv_cache: KeyValueCache | None) -> Tensor:
        """Where the tokens stand: int64 [pos], or [batch, pos] behind what a cache holds; ValueError beyond n_ctx."""
        n = tokens.shape[1]
        positions = torch.arange(n, device=tokens.device) if kv_cache is None else kv_cache.advance(n)
        longest = n if kv_cache is None else kv_cache.longest
        if longest > self.cfg.n_ctx:
            raise ValueError(f"{longest} positions, but the model has n_ctx = {self.cfg.n_ctx}")
        return positions

    def on_packed(self, packed: Packed) -> Tensor:
        """Logits [tokens, d_vocab] of programs one after another: what `forward` computes of them, without padding.

        For training. Activations have no batch and position of their own there, so ValueError while a hook is set.
        """
        if self.has_hooks:
            raise ValueError("a hook is set, but packed programs have no [batch, pos]; leave the hooks' context first")
        x = self.embed(packed.inputs)  # [tokens, d_model]
        if self.cfg.positional_embedding_type == "standard":
            update = self.pos_embed(packed.positions)
        else:
            update = torch.zeros_like(x)
        bias = x.new_zeros(self.cfg.d_model)
        for block in self.blocks:
            # torch says Module of the members of a ModuleList; these are blocks
            x, update, bias = block.on_packed(x, update, bias, packed)  # type: ignore[operator]
        _, normalized = self.ln_final.on_packed(x, update, bias)
        return self.unembed(normalized)

    # --- hooks -------------------------------------------------------------------------------------------------------

    def sites(self, on_demand: bool = False) -> list[str]:
        """Every site that each forward pass computes anyway, in its order.

        With `on_demand`, those instead that take memory or time and are computed only while a hook is set there: what
        enters and leaves each head (`hook_q_input`, ..., `attn.hook_result`, all [batch, pos, head, d_model]),
        `hook_mlp_in`, `hook_tokens`.
        """
        return list(self._sites.on_demand if on_demand else self._sites.regular)

    @property
    def has_hooks(self) -> bool:
        """Whether a hook is set at any site."""
        return self._sites.active

    @contextlib.contextmanager
    def hooks(self, fwd_hooks: Iterable[tuple[SiteSelector, HookFn]]) -> Iterator[Model]:
        """Within the context, call `fn(tensor, hook)` at each named site of every forward pass.

        What it returns, unless None, takes the activation's place. A name may be a predicate on names (of sites on
        demand too). Raises ValueError for an unknown site, and on leaving, for every hook that never fired, by its
        site.
        """
        with self._sites.hooks(fwd_hooks):
            yield self

    def run_with_hooks(
        self,
        tokens: Tensor,
        fwd_hooks: Iterable[tuple[SiteSelector, HookFn]] = (),
        return_type: str | None = "logits",
        stop_at_layer: int | None = None,
    ) -> Any:
        """One forward pass with hooks, as HookedTransformer's."""
        with self.hooks(fwd_hooks):
            return self(tokens, return_type=return_type, stop_at_layer=stop_at_layer)

    def run_with_cache(
        self,
        tokens: Tensor,
        names_filter: NamesFilter = None,
        return_type: str | None = "logits",
        stop_at_layer: int | None = None,
    ) -> tuple[Any, dict[str, Tensor]]:
        """(output, {site: activation}), as HookedTransformer's; activations are detached.

        names_filter: a site, several, a predicate, or None for all of `sites()`. Of what a predicate selects, those
        sites are cached that lie before `stop_at_layer`; one given by name must lie there.
        """
        cache: dict[str, Tensor] = {}

        def store(tensor: Tensor, hook: Hook) -> None:
            cache[hook.name] = tensor.detach()

        if names_filter is None:
            names_filter = set(self._sites.regular).__contains__
        selectors = [names_filter] if callable(names_filter) or isinstance(names_filter, str) else names_filter
        with self.hooks([(selector, store) for selector in selectors]):
            return self(tokens, return_type=return_type, stop_at_layer=stop_at_layer), cache


def _site_names(cfg: ModelConfig) -> tuple[list[str], list[str]]:
    """The site names computed by every forward pass, in order, and those computed only when hooked."""
    absent = _ABSENT_SITES[cfg.positional_embedding_type]
    blocks = range(cfg.n_layers)
    regular = [name for name in _SITES_BEFORE_BLOCKS if name not in absent]
    regular += [f"blocks.{i}.{name}" for i in blocks for name in _SITES_OF_BLOCK if name not in absent]
    regular += _SITES_BEHIND_BLOCKS
    on_demand = list(_SITES_ON_DEMAND)
    on_demand += [f"blocks.{i}.{name}" for i in blocks for name in _SITES_OF_BLOCK_ON_DEMAND]
    return regular, on_demand


def next_token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean cross-entropy (nats) over the tokens that count: each up to and including the program's own `.`.

    tokens [batch, pos]; logits [batch, pos, d_vocab], those behind the last token left out or not.
    """
    targets = tokens[:, 1:].long()
    mask = loss_mask(tokens)
    logits = logits[:, : targets.shape[1]]
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")  # [batch * (pos - 1)]
    return (losses * mask.flatten()).sum() / mask.sum()


def loss_mask(tokens: Tensor) -> Tensor:
    """Which of tokens[:, 1:] count: bool [batch, pos - 1]."""
    ends = tokens[:, 1:] == PAD
    return ends.cumsum(1) - ends.long() == 0
