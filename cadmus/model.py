"""The decoder: a pre-LayerNorm GELU transformer with TransformerLens's names, shapes and hooks.

Parameters carry HookedTransformer's names and shapes (`blocks.0.attn.W_Q [head, d_model, d_head]`, ...), so a state
dict loads there with plain `load_state_dict`. What happens inside is open at sites under TransformerLens's hook names
(`Model.sites` lists them): `run_with_cache` and `run_with_hooks` read and edit there. Where nobody listens, fused
operations run.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from cadmus import vm
from cadmus.tokens import PAD


@dataclass(frozen=True)
class ModelConfig:
    """Field names and meanings of HookedTransformerConfig; the others are fixed: GELU, pre-LN, learned positions."""

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
    eps: float = 1e-5
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        for name in ("n_layers", "d_model", "n_heads", "d_head", "d_mlp", "n_ctx"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be 1 or more")
        for name, only in (("act_fn", "gelu"), ("normalization_type", "LN"), ("positional_embedding_type", "standard")):
            if getattr(self, name) != only:
                raise ValueError(f"{name} = {getattr(self, name)!r} is not built; use {only!r}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Hook:
    """What a hook function is told of its place, as TransformerLens's HookPoint."""

    name: str

    def layer(self) -> int:
        """The block's number; ValueError for a site outside the blocks."""
        if not self.name.startswith("blocks."):
            raise ValueError(f"site {self.name!r} belongs to no block")
        return int(self.name.split(".")[1])


HookFn = Callable[[Tensor, Hook], Tensor | None]
NamesFilter = None | str | Iterable[str] | Callable[[str], bool]


class Sites:
    """The listeners of a model: site name -> hook functions. A site that nobody listens to costs a lookup."""

    def __init__(self) -> None:
        self.listeners: dict[str, list[HookFn]] = {}

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        for fn in self.listeners.get(name, ()):
            result = fn(tensor, Hook(name))
            tensor = tensor if result is None else result
        return tensor

    def listened(self, *names: str) -> bool:
        return any(name in self.listeners for name in names)


class LayerNorm(nn.Module):
    """Layer normalization with TransformerLens's sites `hook_scale` [.., 1] and `hook_normalized` (before w and b)."""

    def __init__(self, name: str, cfg: ModelConfig, sites: Sites):
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


class Attention(nn.Module):
    """Causal self-attention. Fused, unless a hook on the scores or the pattern asks for the explicit path, or a CPU is
    to train: there the fused backward pass takes ten times as long as the explicit one at program length."""

    def __init__(self, name: str, cfg: ModelConfig, sites: Sites):
        super().__init__()
        self.name, self.cfg, self.sites = name, cfg, sites
        for letter in "QKV":
            self.register_parameter(f"W_{letter}", nn.Parameter(torch.empty(cfg.n_heads, cfg.d_model, cfg.d_head)))
            self.register_parameter(f"b_{letter}", nn.Parameter(torch.zeros(cfg.n_heads, cfg.d_head)))
        self.W_O = nn.Parameter(torch.empty(cfg.n_heads, cfg.d_head, cfg.d_model))
        self.b_O = nn.Parameter(torch.zeros(cfg.d_model))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, pos, d_model] -> [batch, pos, d_model]."""
        weight = torch.cat([rearrange(w, "head model d -> (head d) model") for w in (self.W_Q, self.W_K, self.W_V)])
        bias = torch.cat([b.flatten() for b in (self.b_Q, self.b_K, self.b_V)])
        qkv = rearrange(F.linear(x, weight, bias), "b p (m h d) -> m b p h d", m=3, h=self.cfg.n_heads)
        q, k, v = (self.sites(f"{self.name}.hook_{s}", t) for s, t in zip("qkv", qkv, strict=True))
        q, k, v = (rearrange(t, "b p h d -> b h p d") for t in (q, k, v))
        listened = self.sites.listened(f"{self.name}.hook_attn_scores", f"{self.name}.hook_pattern")
        if listened or (torch.is_grad_enabled() and x.device.type == "cpu"):
            z = self._explicit(q, k, v)
        else:
            z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        z = rearrange(self.sites(f"{self.name}.hook_z", rearrange(z, "b h p d -> b p h d")), "b p h d -> b p (h d)")
        return F.linear(z, rearrange(self.W_O, "head d model -> model (head d)"), self.b_O)

    def _explicit(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[batch, head, pos, d_head] each -> z of the same shape, by way of scores and pattern."""
        scores = q @ k.transpose(-1, -2) * self.cfg.d_head**-0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = self.sites(f"{self.name}.hook_attn_scores", scores.masked_fill(future, -torch.inf))
        return self.sites(f"{self.name}.hook_pattern", scores.softmax(-1)).to(v.dtype) @ v


class MLP(nn.Module):
    """Two layers with GELU between; sites `hook_pre`, `hook_post` [batch, pos, d_mlp]."""

    def __init__(self, name: str, cfg: ModelConfig, sites: Sites):
        super().__init__()
        self.name, self.sites = name, sites
        self.W_in = nn.Parameter(torch.empty(cfg.d_model, cfg.d_mlp))
        self.b_in = nn.Parameter(torch.zeros(cfg.d_mlp))
        self.W_out = nn.Parameter(torch.empty(cfg.d_mlp, cfg.d_model))
        self.b_out = nn.Parameter(torch.zeros(cfg.d_model))

    def forward(self, x: Tensor) -> Tensor:
        pre = self.sites(f"{self.name}.hook_pre", F.linear(x, self.W_in.T, self.b_in))
        post = self.sites(f"{self.name}.hook_post", F.gelu(pre))
        return F.linear(post, self.W_out.T, self.b_out)


class Block(nn.Module):
    """x + attention, then + MLP, each behind its LayerNorm."""

    def __init__(self, name: str, cfg: ModelConfig, sites: Sites):
        super().__init__()
        self.name, self.sites = name, sites
        self.ln1 = LayerNorm(f"{name}.ln1", cfg, sites)
        self.attn = Attention(f"{name}.attn", cfg, sites)
        self.ln2 = LayerNorm(f"{name}.ln2", cfg, sites)
        self.mlp = MLP(f"{name}.mlp", cfg, sites)

    def forward(self, x: Tensor) -> Tensor:
        site = self.sites
        x = site(f"{self.name}.hook_resid_pre", x)
        x = site(f"{self.name}.hook_resid_mid", x + site(f"{self.name}.hook_attn_out", self.attn(self.ln1(x))))
        return site(f"{self.name}.hook_resid_post", x + site(f"{self.name}.hook_mlp_out", self.mlp(self.ln2(x))))


class _Lookup(nn.Module):
    """One named matrix, so that parameters are called `embed.W_E`, `pos_embed.W_pos`."""

    def __init__(self, name: str, rows: int, columns: int):
        super().__init__()
        self.register_parameter(name, nn.Parameter(torch.empty(rows, columns)))


class Unembed(nn.Module):
    """Residual stream to logits."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.W_U = nn.Parameter(torch.empty(cfg.d_model, cfg.d_vocab))
        self.b_U = nn.Parameter(torch.zeros(cfg.d_vocab))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.W_U.T, self.b_U)


class Model(nn.Module):
    """A Cadmus model. `cfg` has HookedTransformerConfig's field names; `seed` fixes the initial weights."""

    def __init__(self, cfg: ModelConfig, seed: int = 0):
        super().__init__()
        self.cfg = cfg
        self._sites = Sites()
        self.embed = _Lookup("W_E", cfg.d_vocab, cfg.d_model)
        self.pos_embed = _Lookup("W_pos", cfg.n_ctx, cfg.d_model)
        self.blocks = nn.ModuleList(Block(f"blocks.{i}", cfg, self._sites) for i in range(cfg.n_layers))
        self.ln_final = LayerNorm("ln_final", cfg, self._sites)
        self.unembed = Unembed(cfg)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if ".W_" in name:  # what writes to the residual stream starts smaller (GPT-2)
                scale = (2 * cfg.n_layers) ** -0.5 if name.endswith(("W_O", "W_out")) else 1.0
                nn.init.normal_(parameter, 0, cfg.initializer_range * scale, generator=generator)

    @property
    def device(self) -> torch.device:
        return self.embed.W_E.device

    def sites(self) -> list[str]:
        """Every site of this model, in the order of the forward pass."""
        block = (
            *("hook_resid_pre", "ln1.hook_scale", "ln1.hook_normalized", "attn.hook_q", "attn.hook_k", "attn.hook_v"),
            *("attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_z", "hook_attn_out", "hook_resid_mid"),
            *("ln2.hook_scale", "ln2.hook_normalized", "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out"),
            "hook_resid_post",
        )
        blocks = [f"blocks.{i}.{name}" for i in range(self.cfg.n_layers) for name in block]
        return ["hook_embed", "hook_pos_embed", *blocks, "ln_final.hook_scale", "ln_final.hook_normalized"]

    def forward(self, tokens: Tensor, return_type: str = "logits") -> Tensor | tuple[Tensor, Tensor]:
        """tokens int [batch, pos], position 0 the marker -> logits [batch, pos, d_vocab], the mean loss, or both.

        The loss is the cross-entropy of every token up to and including the program's own `.`. Raises ValueError for
        more than `n_ctx` positions or an unknown return type.
        """
        if tokens.shape[1] > self.cfg.n_ctx:
            raise ValueError(f"{tokens.shape[1]} positions, but the model has n_ctx = {self.cfg.n_ctx}")
        if return_type not in ("logits", "loss", "both"):
            raise ValueError(f"return_type {return_type!r} is none of 'logits', 'loss', 'both'")
        tokens = tokens.long()
        x = self._sites("hook_embed", F.embedding(tokens, self.embed.W_E))
        positions = self.pos_embed.W_pos[: tokens.shape[1]].expand_as(x)
        x = x + self._sites("hook_pos_embed", positions)
        for block in self.blocks:
            x = block(x)
        logits = self.unembed(self.ln_final(x))
        if return_type == "logits":
            return logits
        loss = next_token_loss(logits, tokens)
        return loss if return_type == "loss" else (logits, loss)

    # --- hooks -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def hooks(self, fwd_hooks: Iterable[tuple[str | Callable[[str], bool], HookFn]]) -> Iterator[Model]:
        """Within the context, call `fn(tensor, hook)` at each named site of every forward pass; what it returns, unless
        None, takes the activation's place. A name may be a predicate on names.

        Raises ValueError for an unknown site, and on leaving, for a hook that never fired.
        """
        fired: set[int] = set()
        added: list[tuple[str, HookFn]] = []
        for number, (name, fn) in enumerate(fwd_hooks):

            def listen(tensor: Tensor, hook: Hook, fn: HookFn = fn, number: int = number) -> Tensor | None:
                fired.add(number)
                return fn(tensor, hook)

            added += [(site, listen) for site in self.match(name)]
        expected = number + 1 if added else 0
        try:
            for site, listen in added:
                self._sites.listeners.setdefault(site, []).append(listen)
            yield self
        finally:
            for site, listen in added:
                self._sites.listeners[site].remove(listen)
                if not self._sites.listeners[site]:
                    del self._sites.listeners[site]
        if len(fired) < expected:
            raise ValueError("a hook never fired: no forward pass ran within the hooks' context")

    def match(self, names: NamesFilter) -> list[str]:
        """The sites that a TransformerLens names_filter selects: None (all), a name, several, or a predicate.

        ValueError for a name that does not exist, and for a predicate that selects nothing.
        """
        sites = self.sites()
        if names is None:
            return sites
        if callable(names):
            chosen = [site for site in sites if names(site)]
            if not chosen:
                raise ValueError("the names_filter selects no site; see model.sites()")
            return chosen
        chosen = [names] if isinstance(names, str) else list(names)
        for name in chosen:
            if name not in sites:
                close = difflib.get_close_matches(name, sites, 1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                blocks = f"blocks.0 ... blocks.{self.cfg.n_layers - 1}"
                raise ValueError(
                    f"site {name!r} does not exist{hint}: the model has {self.cfg.n_layers} layers ({blocks}); "
                    "see model.sites()"
                )
        return chosen

    def run_with_hooks(
        self,
        tokens: Tensor,
        fwd_hooks: Iterable[tuple[str | Callable[[str], bool], HookFn]] = (),
        return_type: str = "logits",
    ) -> Any:
        """One forward pass with hooks, as HookedTransformer's."""
        with self.hooks(fwd_hooks):
            return self(tokens, return_type=return_type)

    def run_with_cache(
        self, tokens: Tensor, names_filter: NamesFilter = None, return_type: str = "logits"
    ) -> tuple[Any, dict[str, Tensor]]:
        """(output, {site: activation}), as HookedTransformer's; activations are detached."""
        cache: dict[str, Tensor] = {}

        def keep(tensor: Tensor, hook: Hook) -> None:
            cache[hook.name] = tensor.detach()

        with self.hooks([(site, keep) for site in self.match(names_filter)]):
            return self(tokens, return_type=return_type), cache

    # --- generation --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(
        self,
        prompts: Tensor,
        lengths: Tensor,
        max_new_tokens: int,
        logits_mask: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Greedy completion of many prompts at once, each until its `.` or `max_new_tokens`.

        prompts int [batch, pos], row i holding lengths[i] given tokens (the marker counted), the rest ignored ->
        int64 [batch, pos'], padded with `.`. `logits_mask(tokens) -> bool [batch, d_vocab]` says which tokens may come
        next. Raises ValueError where the model has too few positions.
        """
        width = int(lengths.max()) + max_new_tokens
        if width > self.cfg.n_ctx:
            raise ValueError(f"prompt and completion need {width} positions, the model has n_ctx = {self.cfg.n_ctx}")
        lengths = lengths.to(self.device).clone()
        out = torch.full((len(prompts), width), PAD, dtype=torch.long, device=self.device)
        given = torch.arange(width, device=self.device) < lengths[:, None]
        given = given[:, : prompts.shape[1]]
        out[:, : given.shape[1]][given] = prompts.to(self.device)[:, : given.shape[1]].long()[given]
        going = torch.arange(len(prompts), device=self.device)  # the rows that are not complete
        for _ in range(max_new_tokens):
            last = lengths[going] - 1
            logits = self(out[going, : int(last.max()) + 1])[torch.arange(len(going)), last]
            if logits_mask is not None:
                allowed = logits_mask(out[going])
                if not allowed.any(-1).all():
                    raise ValueError("logits_mask allows no token for some prompt; it must leave one or more")
                logits = logits.masked_fill(~allowed, -torch.inf)
            token = logits.argmax(-1)
            out[going, lengths[going]] = token
            lengths[going] += 1
            going = going[token != PAD]
            if not len(going):
                break
        return out


def next_token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean cross-entropy (nats) over the tokens that count: each up to and including the program's own `.`."""
    targets, counts = tokens[:, 1:].long(), loss_mask(tokens)
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets.flatten(), reduction="none")
    return (losses * counts.flatten()).sum() / counts.sum()


def loss_mask(tokens: Tensor) -> Tensor:
    """Which of tokens[:, 1:] count: bool [batch, pos - 1]."""
    ends = tokens[:, 1:] == PAD
    return ends.cumsum(1) - ends.long() == 0
