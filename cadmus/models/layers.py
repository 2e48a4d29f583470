"""The layers of the decoder: embeddings, LayerNorm, attention, MLP, block, unembedding.

Each has two forms. `forward` takes [batch, pos, ...] and shows what it computes at its sites; where no hook is set,
fused operations run. `on_packed` takes the tokens of programs that lie one after another and has no sites: training
runs it. In memory matrices lie as [out, in], as a linear layer and its gradient take them without a copy.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import einsum, repeat
from torch import Tensor, nn

from cadmus.models import fused
from cadmus.models.config import ModelConfig
from cadmus.models.hooks import HookRegistry
from cadmus.models.key_value_cache import Context
from cadmus.models.packed import Packed
from cadmus.models.rotary import Rotary


class Embed(nn.Module):
    """Tokens to residual stream."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.W_E = nn.Parameter(torch.empty(cfg.d_vocab, cfg.d_model))

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [..] -> [.., d_model]."""
        return F.embedding(tokens, self.W_E)


class PosEmbed(nn.Module):
    """Learned positions to residual stream."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.W_pos = nn.Parameter(torch.empty(cfg.n_ctx, cfg.d_model))

    def forward(self, positions: Tensor) -> Tensor:
        """int64 [..] -> [.., d_model]."""
        return F.embedding(positions, self.W_pos)


class LayerNorm(nn.Module):
    """Layer normalization with TransformerLens's sites `hook_scale` [.., 1] and `hook_normalized` (before w and b)."""

    def __init__(self, name: str, cfg: ModelConfig, sites: HookRegistry):
        super().__init__()
        self.scale_site = f"{name}.hook_scale"
        self.normalized_site = f"{name}.hook_normalized"
        self.sites = sites
        self.eps = cfg.eps
        self.w = nn.Parameter(torch.ones(cfg.d_model))
        self.b = nn.Parameter(torch.zeros(cfg.d_model))

    def forward(self, x: Tensor) -> Tensor:
        """[.., d_model] -> [.., d_model]."""
        if not self.sites.has_hook(self.scale_site, self.normalized_site):
            return F.layer_norm(x, self.w.shape, self.w, self.b, self.eps)
        x = x - x.mean(-1, keepdim=True)
        scale = self.sites(self.scale_site, (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt())  # [.., 1]
        return self.sites(self.normalized_site, x / scale) * self.w + self.b

    def on_packed(self, x: Tensor, update: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """(x + update + bias, its normalization), [tokens, d_model] each."""
        return fused.add_norm(x, update, bias, self.w, self.b, self.eps)


class Attention(nn.Module):
    """Causal self-attention.

    It is fused, unless a hook on the scores or the pattern asks for the explicit path, or a CPU is to train in bf16:
    there the fused backward pass takes ten times as long as the explicit one at program length.
    """

    def __init__(self, name: str, cfg: ModelConfig, sites: HookRegistry):
        super().__init__()
        self.name = name
        self.cfg = cfg
        self.sites = sites
        self.W_Q = _projection(cfg)
        self.b_Q = nn.Parameter(torch.zeros(cfg.n_heads, cfg.d_head))
        self.W_K = _projection(cfg)
        self.b_K = nn.Parameter(torch.zeros(cfg.n_heads, cfg.d_head))
        self.W_V = _projection(cfg)
        self.b_V = nn.Parameter(torch.zeros(cfg.n_heads, cfg.d_head))
        self.W_O = nn.Parameter(torch.empty(cfg.d_model, cfg.n_heads, cfg.d_head).permute(1, 2, 0))
        self.b_O = nn.Parameter(torch.zeros(cfg.d_model))
        self.rotary = Rotary(cfg) if cfg.positional_embedding_type == "rotary" else None

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor, Tensor],
        positions: Tensor,
        kv_cache: Context | None = None,
    ) -> Tensor:
        """[batch, pos, d_model] -> [batch, pos, d_model].

        x may be three inputs [batch, pos, head, d_model], for queries, keys and values. The keys and values in
        `kv_cache` come before those of x.
        """
        q, k, v = self._project_each(*x) if isinstance(x, tuple) else self._project(x)  # [batch, pos, head, d_head]
        q = self.sites(f"{self.name}.hook_q", q)
        k = self.sites(f"{self.name}.hook_k", k)
        v = self.sites(f"{self.name}.hook_v", v)
        if self.rotary is not None:
            q = self.sites(f"{self.name}.hook_rot_q", self.rotary(q, positions))
            k = self.sites(f"{self.name}.hook_rot_k", self.rotary(k, positions))
        q = q.transpose(1, 2)  # [batch, head, pos, d_head]
        k = k.transpose(1, 2)
        v = v.transpose(1, 2)
        visible = None  # [batch, 1, query, key]; None: causal
        if kv_cache is not None:
            q = kv_cache.queries(q)
            k, v = kv_cache.append(self.name, k, v)  # [batch, head, key, d_head]
            visible = kv_cache.visible
        z = self._attend(q, k, v, visible)
        return self.combine(z.transpose(1, 2) if kv_cache is None else kv_cache.outputs(z.transpose(1, 2)))

    def combine(self, z: Tensor) -> Tensor:
        """What the heads give, z [batch, pos, head, d_head], -> [batch, pos, d_model]."""
        z = self.sites(f"{self.name}.hook_z", z)
        if self.sites.has_hook(f"{self.name}.hook_result"):
            result = einsum(z, self.W_O, "batch pos head d, head d model -> batch pos head model")
            return self.sites(f"{self.name}.hook_result", result).sum(2) + self.b_O
        return F.linear(z.flatten(2), self.W_O.flatten(0, 1).T, self.b_O)

    def on_packed(self, x: Tensor, packed: Packed) -> Tensor:
        """x [tokens, d_model], programs one after another -> [tokens, d_model], each program seeing itself alone.

        b_O is left to be added.
        """
        qkv = x @ self._qkv_weight().T  # [tokens, 3 * head * d_head]
        return packed.attend(qkv, self._qkv_bias(), self.cfg.n_heads, self.rotary) @ self.W_O.flatten(0, 1)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [batch, pos, d_model] -> queries, keys and values [batch, pos, head, d_head], in one product."""
        qkv = F.linear(x, self._qkv_weight(), self._qkv_bias())  # [batch, pos, 3 * head * d_head]
        q, k, v = qkv.chunk(3, dim=-1)
        heads = self.b_Q.shape  # head, d_head
        return q.unflatten(-1, heads), k.unflatten(-1, heads), v.unflatten(-1, heads)

    def _project_each(self, x_q: Tensor, x_k: Tensor, x_v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs [batch, pos, head, d_model] of each head -> queries, keys and values [batch, pos, head, d_head]."""
        pattern = "batch pos head model, head model d -> batch pos head d"
        q = einsum(x_q, self.W_Q, pattern) + self.b_Q
        k = einsum(x_k, self.W_K, pattern) + self.b_K
        v = einsum(x_v, self.W_V, pattern) + self.b_V
        return q, k, v

    def _qkv_weight(self) -> Tensor:
        """W_Q, W_K and W_V of all heads as one matrix [3 * head * d_head, d_model]."""
        return torch.cat([w.transpose(1, 2).flatten(0, 1) for w in (self.W_Q, self.W_K, self.W_V)])

    def _qkv_bias(self) -> Tensor:
        """b_Q, b_K and b_V of all heads: [3 * head * d_head]."""
        return torch.cat([b.flatten() for b in (self.b_Q, self.b_K, self.b_V)])

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
        """q [batch, head, query, d_head], k, v [batch, head, key, d_head] -> z [batch, head, query, d_head]."""
        hooked = self.sites.has_hook(f"{self.name}.hook_attn_scores", f"{self.name}.hook_pattern")
        slow = torch.is_grad_enabled() and q.device.type == "cpu" and q.dtype != torch.float32
        if hooked or slow:
            return self._attend_explicitly(q, k, v, visible)
        return F.scaled_dot_product_attention(q, k, v, visible, is_causal=visible is None)

    def _attend_explicitly(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
        """The same, by way of scores and pattern [batch, head, query, key] and their sites."""
        scores = q @ k.transpose(-1, -2) * self.cfg.d_head**-0.5
        if visible is None:
            visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = self.sites(f"{self.name}.hook_attn_scores", scores.masked_fill(~visible, -torch.inf))
        return self.sites(f"{self.name}.hook_pattern", scores.softmax(-1)).to(v.dtype) @ v


def _projection(cfg: ModelConfig) -> nn.Parameter:
    """Weights [head, d_model, d_head] that lie in memory as [head, d_head, d_model]."""
    return nn.Parameter(torch.empty(cfg.n_heads, cfg.d_head, cfg.d_model).transpose(1, 2))


class MLP(nn.Module):
    """Two layers with GELU between; sites `hook_pre`, `hook_post` [batch, pos, d_mlp]."""

    def __init__(self, name: str, cfg: ModelConfig, sites: HookRegistry):
        super().__init__()
        self.name = name
        self.sites = sites
        self.W_in = nn.Parameter(torch.empty(cfg.d_mlp, cfg.d_model).T)
        self.b_in = nn.Parameter(torch.zeros(cfg.d_mlp))
        self.W_out = nn.Parameter(torch.empty(cfg.d_model, cfg.d_mlp).T)
        self.b_out = nn.Parameter(torch.zeros(cfg.d_model))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, pos, d_model] -> [batch, pos, d_model]."""
        pre = self.sites(f"{self.name}.hook_pre", F.linear(x, self.W_in.T, self.b_in))  # [batch, pos, d_mlp]
        post = self.sites(f"{self.name}.hook_post", F.gelu(pre))
        return F.linear(post, self.W_out.T, self.b_out)

    def on_packed(self, x: Tensor) -> Tensor:
        """[tokens, d_model] -> [tokens, d_model]; b_out is left to be added."""
        return fused.gelu(x @ self.W_in, self.b_in) @ self.W_out


class Block(nn.Module):
    """x + attention, then + MLP, each behind its LayerNorm."""

    def __init__(self, name: str, cfg: ModelConfig, sites: HookRegistry):
        super().__init__()
        self.name = name
        self.cfg = cfg
        self.sites = sites
        self.ln1 = LayerNorm(f"{name}.ln1", cfg, sites)
        self.attn = Attention(f"{name}.attn", cfg, sites)
        self.ln2 = LayerNorm(f"{name}.ln2", cfg, sites)
        self.mlp = MLP(f"{name}.mlp", cfg, sites)

    def forward(self, x: Tensor, positions: Tensor, kv_cache: Context | None = None) -> Tensor:
        """[batch, pos, d_model] -> [batch, pos, d_model]."""
        x = self.sites(f"{self.name}.hook_resid_pre", x)
        x = self.add_attention(x, self.attn(self.attention_input(x), positions=positions, kv_cache=kv_cache))
        return self.add_mlp(x)

    def add_attention(self, x: Tensor, attn_out: Tensor) -> Tensor:
        """The stream behind the attention, whose output is attn_out; both [batch, pos, d_model], as what returns."""
        return x + self.sites(f"{self.name}.hook_attn_out", attn_out)

    def add_mlp(self, x: Tensor) -> Tensor:
        """The stream between attention and MLP -> behind the block; [batch, pos, d_model] both."""
        x = self.sites(f"{self.name}.hook_resid_mid", x)
        mlp_in = x
        if self.sites.has_hook(f"{self.name}.hook_mlp_in"):
            mlp_in = self.sites(f"{self.name}.hook_mlp_in", x)
        x = x + self.sites(f"{self.name}.hook_mlp_out", self.mlp(self.ln2(mlp_in)))
        return self.sites(f"{self.name}.hook_resid_post", x)

    def on_packed(self, x: Tensor, update: Tensor, bias: Tensor, packed: Packed) -> tuple[Tensor, Tensor, Tensor]:
        """The stream and what is to be added to it -> the same behind this block.

        x [tokens, d_model], programs one after another; update [tokens, d_model]; bias [d_model], added to all tokens.
        """
        x, normalized = self.ln1.on_packed(x, update, bias)
        x, normalized = self.ln2.on_packed(x, self.attn.on_packed(normalized, packed), self.attn.b_O)
        return x, self.mlp.on_packed(normalized), self.mlp.b_out

    def attention_input(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """The normalized stream; three copies per head where a hook asks for the inputs of heads."""
        in_site = f"{self.name}.hook_attn_in"
        q_site = f"{self.name}.hook_q_input"
        k_site = f"{self.name}.hook_k_input"
        v_site = f"{self.name}.hook_v_input"
        if not self.sites.has_hook(in_site, q_site, k_site, v_site):
            return self.ln1(x)
        copies = self.sites(in_site, repeat(x, "batch pos model -> batch pos head model", head=self.cfg.n_heads))
        q_in = self.ln1(self.sites(q_site, copies))
        k_in = self.ln1(self.sites(k_site, copies))
        v_in = self.ln1(self.sites(v_site, copies))
        return q_in, k_in, v_in


class Unembed(nn.Module):
    """Residual stream to logits."""

    def __init__(self, cfg: ModelConfig, sites: HookRegistry):
        super().__init__()
        self.sites = sites
        self.W_U = nn.Parameter(torch.empty(cfg.d_vocab, cfg.d_model).T)
        self.b_U = nn.Parameter(torch.zeros(cfg.d_vocab))

    def forward(self, x: Tensor) -> Tensor:
        """[.., d_model] -> logits [.., d_vocab]."""
        x = self.sites("unembed.hook_in", x)
        return self.sites("unembed.hook_out", F.linear(x, self.W_U.T, self.b_U))
