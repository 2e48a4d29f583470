"""The decoder: a pre-LayerNorm GELU transformer with TransformerLens's names, shapes and hooks.

Parameters carry HookedTransformer's names and shapes (`blocks.0.attn.W_Q [head, d_model, d_head]`, ...), so a state
dict loads there with plain `load_state_dict`; in memory their matrices lie as [out, in], as a linear layer and its
gradient take them without a copy. What happens inside is open at sites under TransformerLens's hook names
(`Model.sites` lists them): `run_with_cache` and `run_with_hooks` read and edit there. Where nobody listens, fused
operations run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import einsum, repeat
from torch import Tensor, nn

from cadmus.machine import vm
from cadmus.machine.tokens import PAD
from cadmus.models import fused
from cadmus.models.hooks import Hook, HookFn, HookRegistry, NamesFilter, SiteSelector
from cadmus.models.key_value_cache import KeyValueCache
from cadmus.models.packed import Packed


@dataclass(frozen=True)
class ModelConfig:
    """Field names and meanings of HookedTransformerConfig; what is not here is fixed: GELU, pre-LN, causal.

    positional_embedding_type: "standard" (learned) or "rotary" (Su et al. 2021, arXiv 2104.09864; pairs of dimensions
    as in GPT-NeoX). rotary_dim: how many dimensions of a head are turned, None for all. rotary_base: the wave lengths
    are 2 pi rotary_base^(2 i / rotary_dim) positions. ValueError for what is not built and for contradictions.
    """

    n_layers: int = 4
    d_model: int = 128
    n_heads: int = 4
    d_head: int = 32
    d_mlp: int = 512
    n_ctx: int = 64
    d_vocab: int = len(vm.VOCAB)
    act_fn: str = "gelu"
    normalization_type: str = "LN"
    positional_embedding_type: str = "standard"
    rotary_dim: int | None = None
    rotary_base: float = 10000
    eps: float = 1e-5
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        for name in ("n_layers", "d_model", "n_heads", "d_head", "d_mlp", "n_ctx"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be 1 or more")
        for name in ("eps", "initializer_range"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} = {getattr(self, name)} must be above 0")
        for name, built in (
            ("act_fn", ("gelu",)),
            ("normalization_type", ("LN",)),
            ("positional_embedding_type", ("standard", "rotary")),
        ):
            if getattr(self, name) not in built:
                raise ValueError(f"{name} = {getattr(self, name)!r} is not built; use {' or '.join(map(repr, built))}")
        if self.d_model % self.n_heads:
            raise ValueError(f"n_heads = {self.n_heads} does not divide d_model = {self.d_model}; change one of them")
        if self.positional_embedding_type == "rotary":
            turned = self.d_head if self.rotary_dim is None else self.rotary_dim
            if turned % 2 or not 2 <= turned <= self.d_head:
                raise ValueError(
                    f"rotary_dim = {turned} must be even and from 2 to d_head = {self.d_head}: "
                    "dimensions are turned in pairs"
                )
            if self.rotary_base <= 0:
                raise ValueError(f"rotary_base = {self.rotary_base} must be positive; 10000 is usual")
        elif self.rotary_dim is not None:
            raise ValueError(f"rotary_dim = {self.rotary_dim} has no meaning with learned positions; leave it None")

    def to_dict(self) -> dict[str, Any]:
        """The fields; those of rotary positions only where they mean something, as in what was stored before them."""
        rotary = self.positional_embedding_type == "rotary"
        return {name: value for name, value in asdict(self).items() if rotary or not name.startswith("rotary_")}


class LayerNorm(nn.Module):
    """Layer normalization with TransformerLens's sites `hook_scale` [.., 1] and `hook_normalized` (before w and b)."""

    def __init__(self, name: str, cfg: ModelConfig, sites: HookRegistry):
        super().__init__()
        self.scale_site, self.normalized_site = f"{name}.hook_scale", f"{name}.hook_normalized"
        self.sites, self.eps = sites, cfg.eps
        self.w = nn.Parameter(torch.ones(cfg.d_model))
        self.b = nn.Parameter(torch.zeros(cfg.d_model))

    def forward(self, x: Tensor) -> Tensor:
        if not self.sites.listened(self.scale_site, self.normalized_site):
            return F.layer_norm(x, self.w.shape, self.w, self.b, self.eps)
        x = x - x.mean(-1, keepdim=True)
        scale = self.sites(self.scale_site, (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt())
        return self.sites(self.normalized_site, x / scale) * self.w + self.b

    def after(self, x: Tensor, update: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """(x + update + bias, its normalization), without sites."""
        return fused.add_norm(x, update, bias, self.w, self.b, self.eps)


class Rotary(nn.Module):
    """Turns pairs of dimensions (i and i + rotary_dim / 2) of a query or key by angles that grow with its position."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        half = (cfg.rotary_dim or cfg.d_head) // 2
        angles = torch.arange(cfg.n_ctx)[:, None] / cfg.rotary_base ** (torch.arange(half) / half)
        self.register_buffer("cos", angles.cos(), persistent=False)  # position, pair
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """x [batch, pos, head, d_head], positions int [pos] or [batch, pos] -> x turned."""
        cos, sin = self.cos[positions].unsqueeze(-2), self.sin[positions].unsqueeze(-2)  # ..., pos, 1, pair
        half = cos.shape[-1]
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1).to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention. Fused, unless a hook on the scores or the pattern asks for the explicit path, or a CPU is
    to train in bf16: there the fused backward pass takes ten times as long as the explicit one at program length."""

    def __init__(self, name: str, cfg: ModelConfig, sites: HookRegistry):
        super().__init__()
        self.name, self.cfg, self.sites = name, cfg, sites
        for letter in "QKV":
            weight = torch.empty(cfg.n_heads, cfg.d_head, cfg.d_model).transpose(1, 2)
            self.register_parameter(f"W_{letter}", nn.Parameter(weight))
            self.register_parameter(f"b_{letter}", nn.Parameter(torch.zeros(cfg.n_heads, cfg.d_head)))
        self.W_O = nn.Parameter(torch.empty(cfg.d_model, cfg.n_heads, cfg.d_head).permute(1, 2, 0))
        self.b_O = nn.Parameter(torch.zeros(cfg.d_model))
        self.rotary = Rotary(cfg) if cfg.positional_embedding_type == "rotary" else None

    def on_packed(self, x: Tensor, packed: Packed) -> Tensor:
        """x [tokens, d_model], programs one after another -> [tokens, d_model], each program seeing itself alone; b_O
        is left to be added."""
        qkv, bias = x @ self._qkv_weight().T, self._qkv_bias()
        if self.rotary is not None:
            q, k, v = (qkv + bias).unflatten(-1, (3, *self.b_Q.shape)).unbind(1)
            turned = (self.rotary(q, packed.positions), self.rotary(k, packed.positions), v)
            qkv, bias = torch.stack(turned, 1).flatten(1), torch.zeros_like(bias)
        return packed.attend(qkv, bias, self.cfg.n_heads) @ self.W_O.flatten(0, 1)

    def forward(self, x: Tensor | list[Tensor], positions: Tensor, past: KeyValueCache | None = None) -> Tensor:
        """x [batch, pos, d_model], or for queries, keys and values each its own [batch, pos, head, d_model] -> [batch,
        pos, d_model]. The keys and values of `past` come before those of x."""
        q, k, v = (self.sites(f"{self.name}.hook_{s}", t) for s, t in zip("qkv", self._project(x), strict=True))
        if self.rotary is not None:
            q = self.sites(f"{self.name}.hook_rot_q", self.rotary(q, positions))
            k = self.sites(f"{self.name}.hook_rot_k", self.rotary(k, positions))
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # [batch, head, pos, d_head]
        if past is not None:
            k, v = past.append(self.name, k, v)
        visible = None if past is None else past.visible
        listened = self.sites.listened(f"{self.name}.hook_attn_scores", f"{self.name}.hook_pattern")
        slow = torch.is_grad_enabled() and q.device.type == "cpu" and q.dtype != torch.float32
        if listened or slow:
            z = self._explicit(q, k, v, visible)
        else:
            z = F.scaled_dot_product_attention(q, k, v, visible, is_causal=visible is None)
        z = self.sites(f"{self.name}.hook_z", z.transpose(1, 2))
        if self.sites.listened(f"{self.name}.hook_result"):
            result = einsum(z, self.W_O, "b p h d, h d model -> b p h model")
            return self.sites(f"{self.name}.hook_result", result).sum(2) + self.b_O
        return F.linear(z.flatten(2), self.W_O.flatten(0, 1).T, self.b_O)

    def _project(self, x: Tensor | list[Tensor]) -> Iterable[Tensor]:
        """Queries, keys and values [batch, pos, head, d_head]."""
        if isinstance(x, list):
            weights, biases = (self.W_Q, self.W_K, self.W_V), (self.b_Q, self.b_K, self.b_V)
            pattern = "b p h model, h model d -> b p h d"
            return [einsum(one, w, pattern) + b for one, w, b in zip(x, weights, biases, strict=True)]
        qkv = F.linear(x, self._qkv_weight(), self._qkv_bias())
        return (t.unflatten(-1, self.b_Q.shape) for t in qkv.chunk(3, -1))

    def _qkv_weight(self) -> Tensor:
        """W_Q, W_K and W_V of all heads as one matrix [3 * head * d_head, d_model]."""
        return torch.cat([w.transpose(1, 2).flatten(0, 1) for w in (self.W_Q, self.W_K, self.W_V)])

    def _qkv_bias(self) -> Tensor:
        return torch.cat([b.flatten() for b in (self.b_Q, self.b_K, self.b_V)])

    def _explicit(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
        """[batch, head, pos, d_head] each -> z of the same shape, by way of scores and pattern."""
        scores = q @ k.transpose(-1, -2) * self.cfg.d_head**-0.5
        if visible is None:
            visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = self.sites(f"{self.name}.hook_attn_scores", scores.masked_fill(~visible, -torch.inf))
        return self.sites(f"{self.name}.hook_pattern", scores.softmax(-1)).to(v.dtype) @ v


class MLP(nn.Module):
    """Two layers with GELU between; sites `hook_pre`, `hook_post` [batch, pos, d_mlp]."""

    def __init__(self, name: str, cfg: ModelConfig, sites: HookRegistry):
        super().__init__()
        self.name, self.sites = name, sites
        self.W_in = nn.Parameter(torch.empty(cfg.d_mlp, cfg.d_model).T)
        self.b_in = nn.Parameter(torch.zeros(cfg.d_mlp))
        self.W_out = nn.Parameter(torch.empty(cfg.d_model, cfg.d_mlp).T)
        self.b_out = nn.Parameter(torch.zeros(cfg.d_model))

    def forward(self, x: Tensor) -> Tensor:
        pre = self.sites(f"{self.name}.hook_pre", F.linear(x, self.W_in.T, self.b_in))
        post = self.sites(f"{self.name}.hook_post", F.gelu(pre))
        return F.linear(post, self.W_out.T, self.b_out)

    def on_packed(self, x: Tensor) -> Tensor:
        """[tokens, d_model] -> [tokens, d_model]; b_out is left to be added."""
        return fused.gelu(x @ self.W_in, self.b_in) @ self.W_out


class Block(nn.Module):
    """x + attention, then + MLP, each behind its LayerNorm."""

    def __init__(self, name: str, cfg: ModelConfig, sites: HookRegistry):
        super().__init__()
        self.name, self.cfg, self.sites = name, cfg, sites
        self.ln1 = LayerNorm(f"{name}.ln1", cfg, sites)
        self.attn = Attention(f"{name}.attn", cfg, sites)
        self.ln2 = LayerNorm(f"{name}.ln2", cfg, sites)
        self.mlp = MLP(f"{name}.mlp", cfg, sites)
        self.inputs = [f"{name}.hook_{part}" for part in ("attn_in", "q_input", "k_input", "v_input")]

    def forward(self, x: Tensor, positions: Tensor, past: KeyValueCache | None = None) -> Tensor:
        """[batch, pos, d_model] -> [batch, pos, d_model]."""
        site, name = self.sites, self.name
        x = site(f"{name}.hook_resid_pre", x)
        x = x + site(f"{name}.hook_attn_out", self.attn(self._attention_input(x), positions, past))
        x = site(f"{name}.hook_resid_mid", x)
        mlp_in = site(f"{name}.hook_mlp_in", x.clone()) if site.listened(f"{name}.hook_mlp_in") else x
        return site(f"{name}.hook_resid_post", x + site(f"{name}.hook_mlp_out", self.mlp(self.ln2(mlp_in))))

    def on_packed(self, x: Tensor, update: Tensor, bias: Tensor, packed: Packed) -> tuple[Tensor, Tensor, Tensor]:
        """The stream [tokens, d_model] of programs one after another, and what is to be added to it (by token, and to
        all tokens) -> the same behind this block."""
        x, normalized = self.ln1.after(x, update, bias)
        x, normalized = self.ln2.after(x, self.attn.on_packed(normalized, packed), self.attn.b_O)
        return x, self.mlp.on_packed(normalized), self.mlp.b_out

    def _attention_input(self, x: Tensor) -> Tensor | list[Tensor]:
        """The normalized stream; three copies per head where a hook asks for the inputs of heads, one by one."""
        if not self.sites.listened(*self.inputs):
            return self.ln1(x)
        copies = self.sites(self.inputs[0], repeat(x, "b p model -> b p h model", h=self.cfg.n_heads).clone())
        return [self.ln1(self.sites(name, copies.clone())) for name in self.inputs[1:]]


class _Lookup(nn.Module):
    """One named matrix, so that parameters are called `embed.W_E`, `pos_embed.W_pos`."""

    def __init__(self, name: str, rows: int, columns: int):
        super().__init__()
        self.register_parameter(name, nn.Parameter(torch.empty(rows, columns)))


class Unembed(nn.Module):
    """Residual stream to logits."""

    def __init__(self, cfg: ModelConfig, sites: HookRegistry):
        super().__init__()
        self.sites = sites
        self.W_U = nn.Parameter(torch.empty(cfg.d_vocab, cfg.d_model).T)
        self.b_U = nn.Parameter(torch.zeros(cfg.d_vocab))

    def forward(self, x: Tensor) -> Tensor:
        return self.sites("unembed.hook_out", F.linear(self.sites("unembed.hook_in", x), self.W_U.T, self.b_U))


class Model(nn.Module):
    """A Cadmus model. `cfg` has HookedTransformerConfig's field names; `seed` fixes the initial weights."""

    def __init__(self, cfg: ModelConfig, seed: int = 0):
        super().__init__()
        self.cfg = cfg
        self._sites = HookRegistry(*_site_names(cfg))
        self.embed = _Lookup("W_E", cfg.d_vocab, cfg.d_model)
        if cfg.positional_embedding_type == "standard":
            self.pos_embed = _Lookup("W_pos", cfg.n_ctx, cfg.d_model)
        self.blocks = nn.ModuleList(Block(f"blocks.{i}", cfg, self._sites) for i in range(cfg.n_layers))
        self.ln_final = LayerNorm("ln_final", cfg, self._sites)
        self.unembed = Unembed(cfg, self._sites)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if ".W_" in name:  # what writes to the residual stream starts smaller (GPT-2)
                scale = (2 * cfg.n_layers) ** -0.5 if name.endswith(("W_O", "W_out")) else 1.0
                drawn = torch.empty(parameter.shape).normal_(0, cfg.initializer_range * scale, generator=generator)
                parameter.data.copy_(drawn)  # a seed's weights do not depend on how they lie in memory

    @property
    def device(self) -> torch.device:
        return self.embed.W_E.device

    def forward(
        self,
        tokens: Tensor,
        return_type: str | None = "logits",
        stop_at_layer: int | None = None,
        past: KeyValueCache | None = None,
    ) -> Tensor | tuple[Tensor, Tensor] | None:
        """tokens int [batch, pos], position 0 the marker -> logits [batch, pos, d_vocab], the mean loss, both, or None.

        The loss is the cross-entropy of every token up to and including the program's own `.`. With `stop_at_layer`,
        the residual stream [batch, pos, d_model] before that block is returned instead and nothing behind it runs; a
        negative number counts from the end, n_layers stands for the end. With `past`, the tokens come behind those
        that it holds, and it then holds them too. A compiled model runs uncompiled while a hook is set. Raises
        ValueError for more than `n_ctx` positions, an unknown return type or a layer that the model does not have.
        """
        if self.listening and torch.compiler.is_compiling():  # or it would compile anew for every hook
            return torch.compiler.disable(self.forward)(tokens, return_type, stop_at_layer, past)
        if return_type not in ("logits", "loss", "both", None):
            raise ValueError(f"return_type {return_type!r} is none of 'logits', 'loss', 'both', None")
        layers = self.cfg.n_layers
        if stop_at_layer is not None and not -layers <= stop_at_layer <= layers:
            raise ValueError(f"stop_at_layer = {stop_at_layer} is outside -{layers} ... {layers}, the model's layers")
        positions = (
            torch.arange(tokens.shape[1], device=tokens.device) if past is None else past.advance(tokens.shape[1])
        )
        used = tokens.shape[1] if past is None else past.longest
        if used > self.cfg.n_ctx:
            raise ValueError(f"{used} positions, but the model has n_ctx = {self.cfg.n_ctx}")
        tokens = tokens.long()
        if self._sites.listened("hook_tokens"):
            tokens = self._sites("hook_tokens", tokens.clone())
        x = self._sites("hook_embed", F.embedding(tokens, self.embed.W_E))
        if self.cfg.positional_embedding_type == "standard":
            x = x + self._sites("hook_pos_embed", F.embedding(positions, self.pos_embed.W_pos).expand_as(x))
        for block in self.blocks[:stop_at_layer]:
            x = block(x, positions, past)
        if stop_at_layer is not None:
            return x
        x = self.ln_final(x)
        if return_type is None:
            return None
        logits = self.unembed(x)
        if return_type == "logits":
            return logits
        loss = next_token_loss(logits, tokens)
        return loss if return_type == "loss" else (logits, loss)

    def on_packed(self, packed: Packed) -> Tensor:
        """Logits [tokens, d_vocab] of programs one after another: what `forward` computes of them, without padding.

        For training. Activations have no batch and position of their own there, so ValueError while a hook is set.
        """
        if self.listening:
            raise ValueError("a hook is set, but packed programs have no [batch, pos]; leave the hooks' context first")
        x = F.embedding(packed.inputs, self.embed.W_E)
        learned = self.cfg.positional_embedding_type == "standard"
        update = F.embedding(packed.positions, self.pos_embed.W_pos) if learned else torch.zeros_like(x)
        bias = x.new_zeros(self.cfg.d_model)
        for block in self.blocks:
            x, update, bias = block.on_packed(x, update, bias, packed)
        return self.unembed(self.ln_final.after(x, update, bias)[1])

    # --- hooks -------------------------------------------------------------------------------------------------------

    def sites(self, on_demand: bool = False) -> list[str]:
        """Every site that each forward pass computes anyway, in its order; with `on_demand`, those instead that take
        memory or time and are computed while somebody listens: what enters and leaves each head (`hook_q_input`, ...,
        `attn.hook_result`, all [batch, pos, head, d_model]), `hook_mlp_in`, `hook_tokens`."""
        return list(self._sites.on_demand if on_demand else self._sites.regular)

    @property
    def listening(self) -> bool:
        """Whether a hook is set."""
        return self._sites.active

    @contextlib.contextmanager
    def hooks(self, fwd_hooks: Iterable[tuple[SiteSelector, HookFn]]) -> Iterator[Model]:
        """Within the context, call `fn(tensor, hook)` at each named site of every forward pass; what it returns, unless
        None, takes the activation's place. A name may be a predicate on names (of sites on demand too).

        Raises ValueError for an unknown site, and on leaving, for every hook that never fired, by its site.
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
        sites are kept that lie before `stop_at_layer`; one given by name must lie there.
        """
        cache: dict[str, Tensor] = {}

        def keep(tensor: Tensor, hook: Hook) -> None:
            cache[hook.name] = tensor.detach()

        if names_filter is None:
            names_filter = set(self._sites.regular).__contains__
        chosen = [names_filter] if callable(names_filter) or isinstance(names_filter, str) else names_filter
        with self.hooks([(one, keep) for one in chosen]):
            return self(tokens, return_type=return_type, stop_at_layer=stop_at_layer), cache


def _site_names(cfg: ModelConfig) -> tuple[list[str], list[str]]:
    """Those that every pass computes, in its order, and those on demand: TransformerLens's names, all of them."""
    rotary = cfg.positional_embedding_type == "rotary"
    block = (
        *("hook_resid_pre", "ln1.hook_scale", "ln1.hook_normalized", "attn.hook_q", "attn.hook_k", "attn.hook_v"),
        *(("attn.hook_rot_q", "attn.hook_rot_k") if rotary else ()),
        *("attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_z", "hook_attn_out", "hook_resid_mid"),
        *("ln2.hook_scale", "ln2.hook_normalized", "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out"),
        "hook_resid_post",
    )
    demanded = ("hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input", "attn.hook_result", "hook_mlp_in")
    first = ["hook_embed"] if rotary else ["hook_embed", "hook_pos_embed"]
    last = ["ln_final.hook_scale", "ln_final.hook_normalized", "unembed.hook_in", "unembed.hook_out"]
    regular, on_demand = (
        [f"blocks.{i}.{name}" for i in range(cfg.n_layers) for name in one] for one in (block, demanded)
    )
    return [*first, *regular, *last], ["hook_tokens", *on_demand]


def next_token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean cross-entropy (nats) over the tokens that count: each up to and including the program's own `.`.

    tokens [batch, pos]; logits [batch, pos, d_vocab], those behind the last token left out or not.
    """
    targets, counts = tokens[:, 1:].long(), loss_mask(tokens)
    logits = logits[:, : targets.shape[1]]
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return (losses * counts.flatten()).sum() / counts.sum()


def loss_mask(tokens: Tensor) -> Tensor:
    """Which of tokens[:, 1:] count: bool [batch, pos - 1]."""
    ends = tokens[:, 1:] == PAD
    return ends.cumsum(1) - ends.long() == 0
