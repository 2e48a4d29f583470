"""Training: a step against HookedTransformer and a plain GPT, the loop against TransformerLens's own, the share of
peak, checkpoints, and how long it takes to be right."""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import Measurement, benchmark
from benchmarks.plain_gpt import PlainGPT
from cadmus import checkpoint, lens, mixture, tokens
from cadmus.batches import by_length
from cadmus.build import build
from cadmus.corpus import Corpus
from cadmus.cost import PRECISIONS, flops_per_token, matmul_peak
from cadmus.evaluate import evaluate
from cadmus.families import Compare
from cadmus.mixture import Component, Mixture
from cadmus.model import Model, ModelConfig, next_token_loss
from cadmus.train import TrainConfig, train

_SECONDS = 25.0  # that each side of a comparison is repeated for
_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if _GPU else "cpu")
SHAPE = ModelConfig(n_layers=6, d_model=256, n_heads=8, d_head=32, d_mlp=1024, n_ctx=80)
LARGE = {  # the shapes whose share of peak is asked for
    "5 M": ModelConfig(n_layers=6, d_model=256, n_heads=8, d_head=32, d_mlp=1024, n_ctx=80),
    "25 M": ModelConfig(n_layers=8, d_model=512, n_heads=8, d_head=64, d_mlp=2048, n_ctx=80),
    "100 M": ModelConfig(n_layers=8, d_model=1024, n_heads=16, d_head=64, d_mlp=4096, n_ctx=80),
}


def _size(cfg: ModelConfig) -> str:
    return f"{flops_per_token(cfg) / 6e6:.1f} M parameters"


def _corpus(size: int = 20_000) -> Corpus:
    return build(mixture.load("default"), size)


def _sample(corpus: Corpus, n: int) -> np.ndarray:
    """Programs of all families, in random order: uint8 [n, width]."""
    return corpus.programs(np.random.default_rng(0).permutation(len(corpus))[:n])


def _parts(corpus: Corpus, programs: int) -> tuple[list[Tensor], int]:
    """One batch, cut by length as training cuts it, and how many of its tokens count."""
    parts = by_length(_sample(corpus, programs), 16)
    counted = sum(int((tokens.lengths(part) + 1).sum()) for part in parts)
    return [torch.from_numpy(tokens.sequences(part)).to(DEVICE) for part in parts], counted


def _step(model: nn.Module, parts: list[Tensor], precision: str) -> Callable[[], None]:
    """A forward and backward pass over the parts and a step of AdamW, to be repeated."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def step() -> None:
        for part in parts:
            with torch.autocast(DEVICE.type, PRECISIONS[precision], enabled=precision != "fp32"):
                said = model(part.long())
            next_token_loss(said, part).backward()
        optimizer.step()
        optimizer.zero_grad()
        if _GPU:
            torch.cuda.synchronize()

    return step


def _in_turns(*actions: Callable[[], object]) -> np.ndarray:
    """Seconds that each takes [round, action], in rounds of shuffled order: a machine that slows down slows all."""
    for action in actions:
        action()
    rounds, order, started = [], np.random.default_rng(0), time.perf_counter()
    while time.perf_counter() - started < _SECONDS * len(actions) or len(rounds) < 5:
        rounds.append(np.zeros(len(actions)))
        for k in order.permutation(len(actions)):
            rounds[-1][k] = _timed(actions[k])
    return np.array(rounds)


@benchmark("training-step")
def training_step() -> list[Measurement]:
    """A training step in one precision against HookedTransformer (>= 1.2 x) and a plain GPT (>= 1.0 x)."""
    precision, targets = ("bf16", (3.0, 1.1)) if _GPU else ("fp32", (1.2, 1.0))
    parts, counted = _parts(_corpus(), 4096 if _GPU else 512)
    ours = Model(SHAPE).to(DEVICE)
    peers = {"HookedTransformer": lens.to_hooked_transformer(ours).to(DEVICE), "plain GPT": PlainGPT(SHAPE).to(DEVICE)}
    seconds = _in_turns(*(_step(model, parts, precision) for model in (ours, *peers.values())))
    rate = counted / np.median(seconds[:, 0])
    rows = []
    for k, (name, target) in enumerate(zip(peers, targets, strict=True), 1):
        ratios = seconds[:, k] / seconds[:, 0]
        ratio = float(np.median(ratios))
        note = (
            f"{_size(SHAPE)}, {precision}, {DEVICE.type}, identical batches, {len(ratios)} rounds in turn, half of the "
            f"ratios within {np.quantile(ratios, 0.25):.2f}-{np.quantile(ratios, 0.75):.2f}; peer: {name}"
        )
        label = f"training-step, {name}"
        rows.append(Measurement(label, rate, rate / ratio, ratio, f">= {target} x", "tokens/s", ratio >= target, note))
    return rows


@benchmark("training-loop")
def training_loop() -> list[Measurement]:
    """Our loop against TransformerLens's own as shipped, same corpus, tokens that count (>= 2.5 x; GPU 5 x)."""
    from transformer_lens import train as theirs

    corpus, batch, steps = _corpus(), 512, 3
    target = 5.0 if _GPU else 2.5
    config = TrainConfig(steps=steps, batch_size=batch, optimizer="adamw", precision="bf16", lr=1e-4)

    def ours(change: Callable[[TrainConfig], TrainConfig]) -> float:
        chosen = change(config)
        train(Model(SHAPE).to(DEVICE), corpus, replace(chosen, steps=1))
        record = train(Model(SHAPE).to(DEVICE), corpus, chosen)
        return record["tokens"] / record["seconds"]

    programs = _sample(corpus, batch * steps)
    sequences = torch.from_numpy(tokens.sequences(programs)).long()
    counted = int((tokens.lengths(programs) + 1).sum())
    shipped = theirs.HookedTransformerTrainConfig(
        num_epochs=1, batch_size=batch, lr=1e-4, optimizer_name="AdamW", print_every=None, device=str(DEVICE)
    )
    peer = lens.to_hooked_transformer(Model(SHAPE))
    dataset = [{"tokens": sequence} for sequence in sequences]
    theirs.train(peer, replace(shipped, max_steps=0), dataset)
    started = time.perf_counter()
    theirs.train(peer, shipped, dataset)
    their_rate = counted / (time.perf_counter() - started)
    kernels = ours(lambda c: replace(c, precision="fp32", micro_batches=1))
    padding = ours(lambda c: replace(c, precision="fp32"))
    full = ours(lambda c: c)
    note = (
        f"default mixture, batches of {batch}, {DEVICE.type}; kernels {kernels / their_rate:.2f} x, "
        f"padding {padding / kernels:.2f} x, bf16 {full / padding:.2f} x"
    )
    passed = full >= target * their_rate
    return [
        Measurement("training-loop", full, their_rate, full / their_rate, f">= {target} x", "tokens/s", passed, note)
    ]


@benchmark("training-peak")
def training_peak() -> list[Measurement]:
    """The share of the measured matmul peak that a training step reaches (CPU: >= 60 % in fp32)."""
    precision = "bf16" if _GPU else "fp32"
    targets = {"25 M": 0.30, "100 M": 0.45} if _GPU else {"5 M": 0.60, "25 M": 0.60}
    corpus, rows = _corpus(), []
    for name, target in targets.items():
        cfg = LARGE[name]
        parts, counted = _parts(corpus, 4096 if _GPU else 512)
        peak = matmul_peak(DEVICE, precision)
        seconds = np.median(_in_turns(_step(Model(cfg).to(DEVICE), parts, precision)))
        peak = max(peak, matmul_peak(DEVICE, precision))
        reached = flops_per_token(cfg) * counted / seconds
        padded = sum(part.numel() for part in parts) / counted
        note = f"{precision}, {DEVICE.type}; padding {padded - 1:.0%} counts as nothing; peer: a large matrix product"
        rows.append(
            Measurement(
                *(f"training-peak, {name} parameters", reached / 1e12, peak / 1e12, reached / peak),
                *(f">= {target}", "TFLOP/s", reached >= target * peak, note),
            )
        )
    return rows


@benchmark("checkpoint")
def checkpoints() -> list[Measurement]:
    """How long a run's state takes to be written and to be read again, and the most memory a training run takes."""
    corpus = _corpus()
    config = TrainConfig(steps=1, batch_size=256)
    with tempfile.TemporaryDirectory() as folder:
        model = Model(SHAPE)
        train(model, corpus, config)
        optimizers = [torch.optim.AdamW(model.parameters())]
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizers[0].step()
        progress = {"step": 1, "run": {}}
        save = partial(checkpoint.save_state, Path(folder), model, optimizers, progress)
        load = partial(checkpoint.load_state, Path(folder), model, optimizers, lambda step: {})
        written, read = (min(_timed(action) for _ in range(5)) for action in (save, load))
        size = (Path(folder) / checkpoint.STATE).stat().st_size / 1e6
    note = f"{size:.0f} MB: weights and AdamW's moments, written through to disk; peer: target"
    used = torch.cuda.max_memory_allocated() if _GPU else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    about = f"{_size(SHAPE)}, batches of 256, everything that is loaded included; peer: target"
    memory = used / 2**30
    return [
        Measurement("training, memory", memory, 4.0, 4 / memory, "<= 4", "GiB", memory <= 4, about),
        Measurement("checkpoint, write", written, 1.0, 1 / written, "<= 1", "s", written <= 1, note),
        Measurement("checkpoint, resume", read, 1.0, 1 / read, "<= 1", "s", read <= 1, note),
    ]


def _timed(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


# --- how long it takes to be right -----------------------------------------------------------------------------------

RIGHT, _SEEDS = 0.95, (0, 1, 2)
_BUDGETS = (800, 1200, 1800, 2700, 4050)  # steps, each with its own warm-up and cosine
_RATES = {"muon": 1e-2, "adamw": 3e-3}
_TASK = Mixture("compare", (Component(Compare()),))


@benchmark("time-to-95", slow=True)
def time_to_right() -> list[Measurement]:
    """Training to 95 % of held-out compare, median of three seeds, against AdamW alone (>= 1.5 x; an hour)."""
    found = {name: _all_seeds(name) for name in _RATES}
    ours, theirs = (statistics.median(seconds for _, seconds in found[name]) for name in ("muon", "adamw"))
    steps = {name: ", ".join(str(steps) for steps, _ in each) for name, each in found.items()}
    note = f"4 layers x 128, batches of 512; Muon, steps {steps['muon']}; peer: AdamW, steps {steps['adamw']}"
    return [Measurement("time-to-95", ours, theirs, theirs / ours, ">= 1.5 x", "s", theirs >= 1.5 * ours, note)]


def _all_seeds(optimizer: str) -> list[tuple[int, float]]:
    """For each seed the steps and seconds of the shortest of `_BUDGETS` that suffices; infinite where none does.

    The search begins where the seed before ended: one budget less where that suffices, one more where it does not.
    """
    found, at = [], 0
    for seed in _SEEDS:
        corpus = build(_TASK, 1_000_000, seed)
        tried: dict[int, tuple[bool, float]] = {}
        while 0 <= at < len(_BUDGETS) and at not in tried:
            tried[at] = _trained(optimizer, corpus, seed, _BUDGETS[at])
            at += -1 if tried[at][0] else 1
        enough = [k for k, (right, _) in tried.items() if right]
        found.append((_BUDGETS[min(enough)], tried[min(enough)][1]) if enough else (0, float("inf")))
        at = min(enough) if enough else len(_BUDGETS) - 1
    return found


def _trained(optimizer: str, corpus: Corpus, seed: int, steps: int) -> tuple[bool, float]:
    """Whether 95 % of 2000 validation programs are completed rightly after so many steps, and their seconds."""
    model = Model(ModelConfig(n_ctx=16), seed=seed).to(DEVICE)
    config = TrainConfig(steps=steps, optimizer=optimizer, lr=_RATES[optimizer], seed=seed)
    seconds = train(model, corpus, config)["seconds"]
    (row,) = evaluate(model.eval(), _TASK, splits=("validation",), programs=2000)
    return row.accuracy >= RIGHT, seconds
