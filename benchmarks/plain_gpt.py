"""The peer that readers know: a compact GPT as it is usually written, fused qkv projection and fused attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadmus.models.config import ModelConfig


class _Attention(nn.Module):
    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.n_heads = cfg.n_heads
        self.qkv = nn.Linear(cfg.d_model, 3 * cfg.d_model)
        self.out = nn.Linear(cfg.d_model, cfg.d_model)

    def forward(self, x: Tensor) -> Tensor:
        batch, positions, width = x.shape
        shape = batch, positions, self.n_heads, width // self.n_heads
        q, k, v = self.qkv(x).split(width, dim=2)  # [batch, pos, width]
        q = q.view(shape).transpose(1, 2)  # [batch, head, pos, d_head]
        k = k.view(shape).transpose(1, 2)
        v = v.view(shape).transpose(1, 2)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # [batch, head, pos, d_head]
        return self.out(z.transpose(1, 2).reshape(batch, positions, width))


class _Block(nn.Module):
    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.ln1 = nn.LayerNorm(cfg.d_model)
        self.attention = _Attention(cfg)
        self.ln2 = nn.LayerNorm(cfg.d_model)
        self.mlp = nn.Sequential(nn.Linear(cfg.d_model, cfg.d_mlp), nn.GELU(), nn.Linear(cfg.d_mlp, cfg.d_model))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class PlainGPT(nn.Module):
    """The same shape as `cadmus.models.model.Model`, without sites: tokens int [batch, pos] -> logits."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.embed = nn.Embedding(cfg.d_vocab, cfg.d_model)
        self.positions = nn.Embedding(cfg.n_ctx, cfg.d_model)
        self.blocks = nn.Sequential(*(_Block(cfg) for _ in range(cfg.n_layers)))
        self.norm = nn.LayerNorm(cfg.d_model)
        self.unembed = nn.Linear(cfg.d_model, cfg.d_vocab)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens.long()) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        return self.unembed(self.norm(self.blocks(x)))
