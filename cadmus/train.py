"""The training loop: Muon for the matrices of the blocks, AdamW for the rest, warm-up and cosine, bf16 autocast.

A batch is split by length into micro-batches, so that little is padding; the gradient is that of the whole batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cadmus import checkpoint, tokens
from cadmus.build import build
from cadmus.corpus import Corpus
from cadmus.mixture import Mixture
from cadmus.model import Model, ModelConfig, loss_mask, next_token_loss
from cadmus.muon import Muon

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained."""

    steps: int = 850  # optimizer steps
    batch_size: int = 512  # programs per step
    micro_batches: int = 4  # parts of a batch that are padded apart
    lr: float = 1e-2  # peak learning rate, of both optimizers
    warmup_steps: int = 50  # linear from 0
    weight_decay: float = 0.05  # of the blocks' matrices
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW
    clip: float = 1.0  # greatest norm of the gradient
    precision: str = "bf16"  # of autocast: "bf16" or "fp32"
    seed: int = 0  # of the initial weights and of the order of the programs
    log_every: int = 20  # steps between two rows of the record

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "micro_batches", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be 1 or more")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision = {self.precision!r} must be one of {', '.join(PRECISIONS)}")
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)} must be above 0")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps = {self.warmup_steps} must be 0 or more")


MOST_PROGRAMS = 2_000_000  # of the corpus that a training run builds for itself

Progress = Callable[[int, int, float], None]  # told of the step, the tokens so far and the loss
Stage = Callable[[str, float, str], None]  # told of the stage, the share of it done, and a note


def train_from_scratch(
    mixture: Mixture,
    cfg: ModelConfig,
    config: TrainConfig,
    folder: Path | str,
    *,
    programs: int | None = None,
    stage: Stage = lambda name, share, note: None,
) -> checkpoint.Checkpoint:
    """Build a corpus of `mixture`, train a new model on it and save it to `folder`.

    `programs`, the size of the corpus, defaults to what the run reads (no program comes twice), at most two million.
    """
    size = programs or min(config.steps * config.batch_size, MOST_PROGRAMS)
    corpus = build(
        mixture, size, config.seed, progress=lambda n, family: stage("build the corpus", n / size, f"{n:,} programs")
    )

    def progress(step: int, seen: int, loss: float) -> None:
        stage("train", step / config.steps, f"{seen / 1e6:.1f} M tokens, loss {loss:.2f}")

    model = Model(cfg, seed=config.seed)
    return checkpoint.save(folder, model, mixture, train(model, corpus, config, progress))


def train(model: Model, corpus: Corpus, config: TrainConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Train `model` in place; returns the record: config, corpus, totals, and a row every `log_every` steps.

    Losses are means over the tokens that count, in nats; tokens are those that count, padding left out.
    """
    if corpus.mixture.width + 1 > model.cfg.n_ctx:
        raise ValueError(
            f"programs of mixture {corpus.mixture.name!r} need {corpus.mixture.width + 1} positions, "
            f"the model has n_ctx = {model.cfg.n_ctx}; raise n_ctx"
        )
    optimizers = _optimizers(model, config)
    rows, started, seen, recent = [], time.perf_counter(), 0, []
    batches = _batches(corpus, config)
    model.train()
    for step in range(1, config.steps + 1):
        rate = config.lr * _schedule(step, config)
        loss, counted = _accumulate(model, next(batches), config)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        seen += counted
        recent.append(loss)
        if progress is not None:
            progress(step, seen, loss)
        if step % config.log_every == 0 or step == config.steps:
            seconds = time.perf_counter() - started
            rows.append({"step": step, "tokens": seen, "loss": float(np.mean(recent)), "lr": rate, "seconds": seconds})
            recent = []
    model.eval()
    return {
        "config": asdict(config),
        "corpus": {"fingerprint": corpus.fingerprint, "seed": corpus.seed, "programs": len(corpus)},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokens": seen,
        "seconds": time.perf_counter() - started,
        "threads": torch.get_num_threads(),
        "log": rows,
    }


def _optimizers(model: Model, config: TrainConfig) -> list[torch.optim.Optimizer]:
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        (matrices if name.startswith("blocks.") and ".W_" in name else others).append(parameter)
    return [
        Muon(matrices, config.lr, weight_decay=config.weight_decay),
        torch.optim.AdamW(others, config.lr, betas=config.betas, weight_decay=0.0),
    ]


def _schedule(step: int, config: TrainConfig) -> float:
    """The learning rate as a share of its peak: linear warm-up, then a cosine to 0."""
    return min(1.0, step / max(1, config.warmup_steps)) * 0.5 * (1 + math.cos(math.pi * (step - 1) / config.steps))


def _batches(corpus: Corpus, config: TrainConfig) -> Iterator[list[np.ndarray]]:
    """Batch after batch, each as programs of like length together; each pass over the corpus has its own order."""
    lengths = corpus.lengths
    size, epoch = min(config.batch_size, len(corpus)), 0
    while True:
        order = np.random.default_rng([config.seed, epoch]).permutation(len(corpus))
        for start in range(0, len(order) - size + 1, size):
            batch = order[start : start + size]
            batch = batch[np.argsort(lengths[batch], kind="stable")]
            yield [corpus.programs(part) for part in np.array_split(batch, config.micro_batches) if len(part)]
        epoch += 1


def _accumulate(model: Model, parts: list[np.ndarray], config: TrainConfig) -> tuple[float, int]:
    """Add the gradient of one batch's mean loss; returns that loss and how many tokens counted."""
    inputs = [torch.from_numpy(tokens.sequences(part)).to(model.device) for part in parts]
    counts = [int(loss_mask(part).sum()) for part in inputs]
    total = 0.0
    for part, count in zip(inputs, counts, strict=True):
        dtype = PRECISIONS[config.precision]
        with torch.autocast(model.device.type, dtype, enabled=config.precision != "fp32"):
            logits = model(part)
        loss = next_token_loss(logits, part) * (count / sum(counts))
        loss.backward()
        total += loss.item()
    return total, sum(counts)
