"""Completing programs: the key-value cache against reading every program anew for each of its tokens."""

from __future__ import annotations

import time

from benchmarks.measure import Measurement, benchmark
from cadmus.machine.tokens import PAD

PROMPTS = 1024
PLAIN = 96  # prompts that are completed without a cache
NEW = 40  # tokens
TOTAL = 46  # positions of a completed program where lengths differ


@benchmark("generation")
def generation() -> list[Measurement]:
    """Greedy completion with a key-value cache against plain recomputation, 6 layers of width 192 (>= 5 x)."""
    import torch

    from cadmus.models.config import ModelConfig
    from cadmus.models.generation import generate
    from cadmus.models.model import Model

    cfg = ModelConfig(n_layers=6, d_model=192, n_heads=6, d_head=32, d_mlp=768, n_ctx=96, initializer_range=0.1)
    model = Model(cfg).eval()
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(6, 42, (PROMPTS,), generator=random)  # 5 to 40 tokens and the marker
    prompts = torch.randint(PAD, (PROMPTS, 41), generator=random)
    prompts[:, 0] = PAD
    but_end = torch.ones(cfg.d_vocab, dtype=torch.bool)
    but_end[PAD] = False

    def never_ends(batch: torch.Tensor) -> torch.Tensor:
        return but_end.expand(len(batch), -1)

    def ends_at_total(batch: torch.Tensor) -> torch.Tensor:
        written = 1 + (batch != PAD).sum(1)
        return torch.where((written >= TOTAL - 1)[:, None], ~but_end, but_end)

    rows = []
    for note, mask in (
        (f"{NEW} tokens each", never_ends),
        (f"5 to {NEW} tokens each, finished rows dropped", ends_at_total),
    ):
        generate(model, prompts[:PLAIN], lengths[:PLAIN], 1, mask)
        start = time.perf_counter()
        ours = generate(model, prompts, lengths, NEW, mask)
        new = (ours != PAD).sum() - (lengths - 1).sum()
        rate = float(new) / (time.perf_counter() - start)
        start = time.perf_counter()
        plain = _without_cache(model, prompts[:PLAIN], lengths[:PLAIN], mask)
        new = (plain != PAD).sum() - (lengths[:PLAIN] - 1).sum()
        peer = float(new) / (time.perf_counter() - start)
        assert (plain == ours[:PLAIN, : plain.shape[1]]).all(), "the two ways disagree"
        name, ratio = f"generation, {note}", rate / peer
        setting = f"{PROMPTS} prompts of 5 to 40 tokens, {torch.get_num_threads()} threads; peer: {PLAIN} of them"
        rows.append(Measurement(name, rate, peer, ratio, ">= 5 x", "tokens/s", ratio >= 5, setting))
    return rows


def _without_cache(model, prompts, lengths, mask):
    """Complete the prompts, each pass reading all that the unfinished rows hold: int64 [row, pos]."""
    import torch

    lengths = lengths.clone()
    rows = torch.arange(len(prompts))  # unfinished
    out = torch.full((len(prompts), int(lengths.max()) + NEW), PAD)
    in_prompt = torch.arange(prompts.shape[1]) < lengths[:, None]
    out[:, : prompts.shape[1]][in_prompt] = prompts[in_prompt]
    for _ in range(NEW):
        last = lengths[rows] - 1
        with torch.no_grad():
            logits = model(out[rows, : int(last.max()) + 1])[torch.arange(len(rows)), last]
        token = logits.masked_fill(~mask(out[rows]), -torch.inf).argmax(-1)
        out[rows, lengths[rows]] = token
        lengths[rows] += 1
        rows = rows[token != PAD]
        if not len(rows):
            break
    return out
