"""The decoder: a pre-LayerNorm GELU transformer with TransformerLens's names, shapes and hooks.

Parameters carry HookedTransformer's names and shapes (`blocks.0.attn.W_Q [head, d_model, d_head]`, ...), so a state
dict loads there with plain `load_state_dict`. What happens inside is open at sites under TransformerLens's hook names
(`Model.sites` lists them): `run_with_cache` and `run_with_hooks` read and edit there. The layers are in `layers`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadmus.machine.tokens import PAD
from cadmus.models.config import ModelConfig, TransformersConfig
from cadmus.models.hooks import Hook, HookFn, HookRegistry, NamesFilter, SiteSelector
from cadmus.models.key_value_cache import KeyValueCache
from cadmus.models.layers import Block, Embed, LayerNorm, PosEmbed, Unembed
from cadmus.models.packed import Packed
from cadmus.models.run_cache import ActivationCache, PosSlice, recorder
from cadmus.models.sites import site_names
from cadmus.models.text import Text, as_tokens
from cadmus.models.weights import Weights

ThroughBlock = Callable[[Block, Tensor, Tensor, Tensor, Packed], tuple[Tensor, Tensor, Tensor]]
"""What `Block.on_packed` does."""


class Output(NamedTuple):
    """What `return_type="both"` gives."""

    logits: Tensor
    """[batch, pos, d_vocab]"""

    loss: Tensor
    """Scalar, or [batch, pos - 1]."""


class Model(Weights, Text, nn.Module):
    """A Cadmus model. `cfg` has HookedTransformerConfig's field names; `seed` fixes the initial weights.

    Code written against HookedTransformer runs on it as far as it uses what is here, in `Weights` and in `Text`.
    Its repr is one line; `torch.nn.Module.__repr__(model)` is PyTorch's nested one.
    """

    reads_into_cache = True
    """`forward` takes a `KeyValueCache`, which models of other backends do not."""

    def __init__(self, cfg: ModelConfig, seed: int = 0):
        super().__init__()
        self.cfg = cfg
        self._sites = HookRegistry(*site_names(cfg))
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

    @property
    def config(self) -> TransformersConfig:
        """The shape in the words of transformers' configs, which other libraries look for; see `TransformersConfig`."""
        return TransformersConfig.of(self.cfg)

    def forward(
        self,
        tokens: Tensor | str | Sequence[str],
        return_type: str | None = "logits",
        stop_at_layer: int | None = None,
        kv_cache: KeyValueCache | None = None,
        loss_per_token: bool = False,
    ) -> Tensor | Output | None:
        """Read programs. A compiled model runs uncompiled while a hook is set.

        Args:
            tokens: int [batch, pos]; position 0 holds the marker. [pos] is a batch of one; text, of one program or
                several, goes through `to_tokens`.
            return_type: "logits", "loss", "both", or None for neither. The loss is the mean cross-entropy (nats) of
                every token up to and including the program's own `.`.
            stop_at_layer: return the residual stream before this block instead, and run nothing behind it; a negative
                number counts from the end, n_layers stands for the end.
            kv_cache: what was read before: the tokens come behind it, and it then holds them too.
            loss_per_token: the loss is that of each token but the first [batch, pos - 1]; `loss_mask` says which count.

        Returns:
            Logits [batch, pos, d_vocab], the loss, both, or None; with `stop_at_layer` the residual stream
            [batch, pos, d_model].

        Raises:
            ValueError: more than `n_ctx` positions, an unknown return type, or a layer that the model does not have.
        """
        if self._sites.active and torch.compiler.is_compiling():  # or it would compile anew for every hook
            run_eagerly = torch.compiler.disable(self.forward)
            return run_eagerly(tokens, return_type, stop_at_layer, kv_cache, loss_per_token)
        if return_type not in ("logits", "loss", "both", None):
            raise ValueError(f"return_type {return_type!r} is none of 'logits', 'loss', 'both', None")
        layers = self.cfg.n_layers
        if stop_at_layer is not None and not -layers <= stop_at_layer <= layers:
            raise ValueError(f"stop_at_layer = {stop_at_layer} is outside -{layers} ... {layers}, the model's layers")
        tokens = as_tokens(tokens, self.device)
        positions = self._positions(tokens, kv_cache)
        tokens = self._sites("hook_tokens", tokens)
        x = self.embedding(tokens, positions)  # [batch, pos, d_model]
        for block in self.blocks[:stop_at_layer]:
            x = block(x, positions=positions, kv_cache=kv_cache)  # by name: to torch's hooks its input is x alone
        if stop_at_layer is not None:
            return x
        x = self.ln_final(x)
        if return_type is None:
            return None
        logits = self.unembed(x)  # [batch, pos, d_vocab]
        if return_type == "logits":
            return logits
        loss = token_losses(logits, tokens) if loss_per_token else next_token_loss(logits, tokens)
        return loss if return_type == "loss" else Output(logits, loss)

    def embedding(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """The stream before the first block [batch, pos, d_model]: int64 tokens [batch, pos] at positions [.., pos]."""
        x = self._sites("hook_embed", self.embed(tokens))
        if self.cfg.positional_embedding_type == "standard":
            x = x + self._sites("hook_pos_embed", self.pos_embed(positions).expand_as(x))
        return x

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
        self.check_unhooked()
        return self.packed_logits(packed)

    def packed_logits(self, packed: Packed, through: ThroughBlock = Block.on_packed) -> Tensor:
        """`on_packed` without its check, and through blocks by `through`, which may be compiled."""
        x = self.embed(packed.inputs)  # [tokens, d_model]
        if self.cfg.positional_embedding_type == "standard":
            update = self.pos_embed(packed.positions)
        else:
            update = torch.zeros_like(x)
        bias = x.new_zeros(self.cfg.d_model)
        for block in self.blocks:
            # torch says Module of the members of a ModuleList; these are blocks
            x, update, bias = through(block, x, update, bias, packed)  # type: ignore[arg-type]
        _, normalized = self.ln_final.on_packed(x, update, bias)
        return self.unembed(normalized)

    def check_unhooked(self) -> None:
        """Raise ValueError where this thread has set a hook, or torch's own forward hooks are set on some module."""
        if self.has_hooks or any(module._forward_hooks or module._forward_pre_hooks for module in self.modules()):
            raise ValueError(
                "a hook is set, but packed programs have no [batch, pos]; leave the hooks' context first "
                "(of torch's own hooks, remove the handle)"
            )

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
        """Whether this thread has set a hook at any site."""
        return self._sites.has_hook()

    @property
    def hook_dict(self) -> dict[str, Hook]:
        """All sites by name, those on demand too, with what hook functions left in their `ctx`."""
        return {site: self._sites.hook(site) for site in self._sites.regular + self._sites.on_demand}

    @contextlib.contextmanager
    def hooks(
        self,
        fwd_hooks: Iterable[tuple[SiteSelector, HookFn]] = (),
        bwd_hooks: Iterable[tuple[SiteSelector, HookFn]] = (),
    ) -> Iterator[Model]:
        """Within the context, call `fn(tensor, hook)` at each named site of every forward pass of this thread.

        What it returns, unless None, takes the activation's place; else what it has written into the activation, which
        is its own copy (see `hooks.never_writes`). `bwd_hooks` are called with the gradients by the activations, in
        backward passes within the context. A name may be a predicate on names (of sites on demand too). Raises
        ValueError for an unknown site, and on leaving, for every hook that never fired, by its site.
        """
        with self._sites.hooks(fwd_hooks, bwd_hooks):
            yield self

    def add_hook(
        self,
        name: SiteSelector,
        hook: HookFn,
        dir: str = "fwd",
        is_permanent: bool = False,
        *,
        prepend: bool = False,
    ) -> None:
        """Set a hook, of "fwd" or "bwd", in this thread until `reset_hooks`; `prepend` puts it before the others."""
        self._sites.add(name, hook, dir, permanent=is_permanent, first=prepend)

    def add_perma_hook(self, name: SiteSelector, hook: HookFn, dir: str = "fwd") -> None:
        """Set a hook that `reset_hooks` leaves unless it is told to take these too."""
        self.add_hook(name, hook, dir, is_permanent=True)

    def reset_hooks(
        self, clear_contexts: bool = True, direction: str = "both", including_permanent: bool = False
    ) -> None:
        """Take away the hooks that this thread has set ("fwd", "bwd" or "both"), and what is in their `ctx`."""
        self._sites.reset(direction, including_permanent, clear_contexts)

    def run_with_hooks(
        self,
        tokens: Tensor | str | Sequence[str],
        fwd_hooks: Iterable[tuple[SiteSelector, HookFn]] = (),
        return_type: str | None = "logits",
        stop_at_layer: int | None = None,
        *,
        bwd_hooks: Iterable[tuple[SiteSelector, HookFn]] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        loss_per_token: bool = False,
    ) -> Any:
        """One forward pass with hooks, as HookedTransformer's; without `reset_hooks_end` they stay set.

        Raises ValueError for `bwd_hooks` that would be gone before any backward pass.
        """
        run = {"return_type": return_type, "stop_at_layer": stop_at_layer, "loss_per_token": loss_per_token}
        bwd_hooks = list(bwd_hooks)
        if not reset_hooks_end:
            for direction, hooks in (("fwd", fwd_hooks), ("bwd", bwd_hooks)):
                for name, fn in hooks:
                    self.add_hook(name, fn, direction)
            return self(tokens, **run)
        if bwd_hooks:
            raise ValueError(
                "bwd_hooks of run_with_hooks are gone before a backward pass: call backward within "
                "`with model.hooks(bwd_hooks=...)`, or pass reset_hooks_end=False and call reset_hooks() later"
            )
        with self.hooks(fwd_hooks):
            output = self(tokens, **run)
        if clear_contexts:
            self._sites.clear_contexts()
        return output

    def run_with_cache(
        self,
        tokens: Tensor | str | Sequence[str],
        names_filter: NamesFilter = None,
        return_type: str | None = "logits",
        stop_at_layer: int | None = None,
        *,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
        incl_bwd: bool = False,
        pos_slice: PosSlice = None,
        return_cache_object: bool = True,
        loss_per_token: bool = False,
    ) -> tuple[Any, ActivationCache]:
        """(output, cache {site: activation}), as HookedTransformer's; activations are detached.

        Args:
            tokens: as `forward` takes them.
            names_filter: a site, several, a predicate, or None for all of `sites()`. Of what a predicate selects, those
                sites are cached that lie before `stop_at_layer`; one given by name must lie there.
            return_type: as `forward`.
            stop_at_layer: as `forward`.
            device: where the activations go; None leaves them.
            remove_batch_dim: take the first dimension, of a single row, away.
            incl_bwd: call backward on the output, a loss, and cache the gradients by the activations as `SITE_grad`.
            pos_slice: the positions to cache.
            return_cache_object: False gives a plain dictionary.
            loss_per_token: as `forward`.
        """
        cache = ActivationCache({}, self)
        record = recorder(cache, "", device, pos_slice)
        if names_filter is None:
            names_filter = set(self._sites.regular).__contains__
        selectors = [names_filter] if callable(names_filter) or isinstance(names_filter, str) else list(names_filter)
        hooks = [(selector, record) for selector in selectors]
        record_gradient = recorder(cache, "_grad", device, pos_slice)
        with self.hooks(hooks, [(selector, record_gradient) for selector in selectors] if incl_bwd else ()):
            output = self(tokens, return_type, stop_at_layer, loss_per_token=loss_per_token)
            if incl_bwd:
                output.backward()
        if remove_batch_dim:
            cache.remove_batch_dim()
        return output, cache if return_cache_object else dict(cache)  # type: ignore[return-value]


def next_token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean cross-entropy (nats) over the tokens that count: each up to and including the program's own `.`.

    tokens [batch, pos]; logits [batch, pos, d_vocab], those behind the last token left out or not.
    """
    mask = loss_mask(tokens)
    return (token_losses(logits, tokens) * mask).sum() / mask.sum()


def token_losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """The cross-entropy (nats) of each token but the first [batch, pos - 1], padding too; as `next_token_loss`."""
    targets = tokens[:, 1:].long()
    logits = logits[:, : targets.shape[1]]
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")  # [batch * (pos - 1)]
    return losses.view(targets.shape)


def loss_mask(tokens: Tensor) -> Tensor:
    """Which of tokens[:, 1:] count: bool [batch, pos - 1]."""
    ends = tokens[:, 1:] == PAD
    return ends.cumsum(1) - ends.long() == 0
