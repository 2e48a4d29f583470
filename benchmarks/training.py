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
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import Measurement, benchmark
from benchmarks.plain_gpt import PlainGPT
from cadmus.corpora.build import build
from cadmus.corpora.corpus import Corpus
from cadmus.machine import tokens
from cadmus.models import fused, lens
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model, loss_mask, next_token_loss
from cadmus.models.rotary import Rotary
from cadmus.programs import mixture
from cadmus.programs.families import Compare
from cadmus.programs.mixture import Component, Mixture
from cadmus.runtime import devices
from cadmus.runtime.devices import PRECISIONS
from cadmus.training import checkpoint, recipe
from cadmus.training.completion import evaluate
from cadmus.training.config import TrainConfig
from cadmus.training.cost import flops_per_token
from cadmus.training.gradient import accumulate_gradient
from cadmus.training.loop import train

_SECONDS = 25.0  # that each side of a comparison is repeated for
_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if _GPU else "cpu")
_SIZED = recipe.load("base") if _GPU else recipe.with_changes(recipe.load("mini"), layers=6, width=128)
SHAPE = replace(_SIZED.cfg, positional_embedding_type="standard")  # learned positions, as the plain GPT's
BATCH = 4096 if _GPU else 512  # programs
_PADDED_PARTS = 16  # that a batch is cut into by length where it is padded

Step = Callable[[], object]


def _size(cfg: ModelConfig) -> str:
    return f"{flops_per_token(cfg) / 6e6:.1f} M parameters ({cfg.n_layers} layers x {cfg.d_model})"


def _sample(corpus: Corpus, n: int) -> np.ndarray:
    """Programs of all families, in random order: uint8 [n, width]."""
    return corpus.programs(np.random.default_rng(0).permutation(len(corpus))[:n])


def _batch() -> tuple[np.ndarray, int]:
    """One batch of the mixture `default`, and how many of its tokens count."""
    programs = _sample(build(mixture.load("default"), 20_000), BATCH)
    return programs, int((tokens.lengths(programs) + 1).sum())


def _packed_step(model: Model, programs: np.ndarray, precision: str) -> Step:
    """A step of ours: gradient and AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    return partial(_take_step, optimizer, lambda: accumulate_gradient(model, programs, precision))


def _padded_step(model: nn.Module, programs: np.ndarray, precision: str) -> Step:
    """The same step as it is usually taken: the batch cut by length, each part padded, all cores on each product."""
    lengths = tokens.lengths(programs) + 1
    order = np.argsort(lengths, kind="stable")
    parts = [programs[rows, : lengths[rows[-1]]] for rows in np.array_split(order, _PADDED_PARTS)]
    inputs = [torch.from_numpy(tokens.sequences(part)).to(DEVICE) for part in parts]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def gradient() -> None:
        for part in inputs:
            with torch.autocast(DEVICE.type, PRECISIONS[precision], enabled=precision != "fp32"):
                logits = model(part.long())
            (next_token_loss(logits, part) * (loss_mask(part).sum() / lengths.sum())).backward()

    return partial(_take_step, optimizer, gradient)


def _take_step(optimizer: torch.optim.Optimizer, gradient: Step) -> None:
    gradient()
    optimizer.step()
    optimizer.zero_grad()
    if _GPU:
        torch.cuda.synchronize()


def _in_turns(*actions: Step) -> np.ndarray:
    """Seconds that each takes [round, action], in rounds of shuffled order: a machine that slows down slows all."""
    for action in actions:
        action()
    rounds: list[np.ndarray] = []
    order = np.random.default_rng(0)
    started = time.perf_counter()
    while time.perf_counter() - started < _SECONDS * len(actions) or len(rounds) < 5:
        rounds.append(np.zeros(len(actions)))
        for k in order.permutation(len(actions)):
            rounds[-1][k] = _timed(actions[k])
    return np.array(rounds)


def _against(name: str, ours: np.ndarray, peer: np.ndarray, counted: int, target: float, note: str) -> Measurement:
    """A row of tokens a second, given the seconds of both sides in each round."""
    ratios = peer / ours
    ratio = float(np.median(ratios))
    rate = counted / float(np.median(ours))
    spread = f"half of {len(ratios)} rounds within {np.quantile(ratios, 0.25):.2f}-{np.quantile(ratios, 0.75):.2f}"
    return Measurement(
        name,
        rate,
        rate / ratio,
        ratio,
        f">= {target} x",
        "tokens/s",
        ratio >= target,
        f"{_size(SHAPE)}, {DEVICE.type}, batches of {BATCH}, {spread}; {note}",
    )


@benchmark("training-step")
def training_step() -> list[Measurement]:
    """A training step in fp32 against HookedTransformer (>= 1.2 x) and a plain GPT (>= 1.0 x); on a GPU in bf16."""
    precision, targets = ("bf16", (3.0, 1.1)) if _GPU else ("fp32", (1.2, 1.0))
    programs, counted = _batch()
    ours = Model(SHAPE).to(DEVICE)
    peers = {"HookedTransformer": lens.to_hooked_transformer(ours).to(DEVICE), "plain GPT": PlainGPT(SHAPE).to(DEVICE)}
    sides = [_packed_step(ours, programs, precision)]
    sides += [_padded_step(peer, programs, precision) for peer in peers.values()]
    seconds = _in_turns(*sides)
    return [
        _against(
            f"training-step, {name}",
            seconds[:, 0],
            seconds[:, k],
            counted,
            target,
            f"{precision}; peer: {name} in {_PADDED_PARTS} padded parts",
        )
        for k, (name, target) in enumerate(zip(peers, targets, strict=True), 1)
    ]


@benchmark("training-precision")
def training_precision() -> list[Measurement]:
    """A step in the precision that is chosen here against fp32 (never below 0.95 x), and packed against padded (with
    native bf16 >= 2 x)."""
    precision = devices.fast_precision(DEVICE)
    programs, counted = _batch()
    seconds = _in_turns(
        _packed_step(Model(SHAPE).to(DEVICE), programs, precision),
        _packed_step(Model(SHAPE).to(DEVICE), programs, "fp32"),
        _padded_step(Model(SHAPE).to(DEVICE), programs, precision),
    )
    packed_target = 2.0 if precision == "bf16" else 1.0
    return [
        _against("training-precision", seconds[:, 0], seconds[:, 1], counted, 0.95, f"{precision}; peer: fp32"),
        _against(
            "training-packed",
            seconds[:, 0],
            seconds[:, 2],
            counted,
            packed_target,
            f"{precision}; peer: the same model in {_PADDED_PARTS} padded parts",
        ),
    ]


@benchmark("training-rotary")
def training_rotary() -> list[Measurement]:
    """A step of a model with rotary positions against one with learned positions (>= 0.85 x), and on a CPU against one
    whose queries and keys are turned by PyTorch's operators (>= 1.2 x)."""
    precision = devices.fast_precision(DEVICE)
    programs, counted = _batch()
    rotary, learned = (
        _packed_step(Model(replace(SHAPE, positional_embedding_type=name)).to(DEVICE), programs, precision)
        for name in ("rotary", "standard")
    )

    def turned_apart() -> None:
        with mock.patch.object(fused, "attention", _attention_turned_apart):
            rotary()

    seconds = _in_turns(rotary, learned, *([] if _GPU else [turned_apart]))
    notes = ["the same with learned positions", "turned by PyTorch's operators"]
    return [
        _against(name, seconds[:, 0], seconds[:, k], counted, target, f"{precision}; peer: {notes[k - 1]}")
        for k, (name, target) in enumerate((("training-rotary", 0.85), ("training-rotary, turned", 1.2)), 1)
        if k < seconds.shape[1]
    ]


def _attention_turned_apart(
    qkv: Tensor, bias: Tensor, heads: int, starts: np.ndarray, rotary: Rotary, *, plain: Callable = fused.attention
) -> Tensor:
    """`fused.attention`, queries and keys turned by PyTorch's operators before it."""
    lengths = np.diff(starts)
    positions = torch.from_numpy(np.arange(starts[-1]) - np.repeat(starts[:-1], lengths))
    q, k, v = (qkv + bias).unflatten(-1, (3, heads, -1)).unbind(1)  # [tokens, head, d_head] each
    turned = torch.stack((rotary(q, positions), rotary(k, positions), v), 1).flatten(1).to(qkv.dtype)
    return plain(turned, torch.zeros_like(bias), heads, starts)


@benchmark("training-loop")
def training_loop() -> list[Measurement]:
    """Our loop against TransformerLens's own as shipped, same corpus, tokens that count (>= 2.5 x; GPU 5 x)."""
    from transformer_lens import train as theirs

    corpus = build(mixture.load("default"), 20_000)
    batch = 512  # programs
    steps = 3
    config = TrainConfig(steps=steps, batch_size=batch, optimizer="adamw", lr=1e-4)
    train(Model(SHAPE).to(DEVICE), corpus, replace(config, steps=1))
    record = train(Model(SHAPE).to(DEVICE), corpus, config)
    rate = record["tokens"] / record["seconds"]

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
    note = f"{_size(SHAPE)}, {DEVICE.type}, default mixture, batches of {batch}, {record['stretches'][0]['precision']}"
    target = 5.0 if _GPU else 2.5
    ratio = rate / their_rate
    return [Measurement("training-loop", rate, their_rate, ratio, f">= {target} x", "tokens/s", ratio >= target, note)]


@benchmark("training-peak")
def training_peak() -> list[Measurement]:
    """The share of a large matrix product's speed that a training step reaches (on a CPU: >= 60 % in fp32)."""
    fast = devices.fast_precision(DEVICE)
    programs, counted = _batch()
    rows = []
    for precision in dict.fromkeys((fast if _GPU else "fp32", fast)):
        peak = devices.matmul_peak(DEVICE, precision)
        seconds = np.median(_in_turns(_packed_step(Model(SHAPE).to(DEVICE), programs, precision)))
        peak = max(peak, devices.matmul_peak(DEVICE, precision))
        reached = flops_per_token(SHAPE) * counted / seconds
        target = 0.3 if precision == "bf16" else 0.6
        note = f"{_size(SHAPE)}, {precision}, {DEVICE.type}, batches of {BATCH}; peer: a large matrix product"
        rows.append(
            Measurement(
                f"training-peak, {precision}",
                reached / 1e12,
                peak / 1e12,
                reached / peak,
                f">= {target}",
                "TFLOP/s",
                reached >= target * peak,
                note,
            )
        )
    return rows


@benchmark("checkpoint")
def checkpoints() -> list[Measurement]:
    """How long a run's state takes to be written and to be read again, and the most memory a training run takes."""
    corpus = build(mixture.load("default"), 20_000)
    config = TrainConfig(steps=1, batch_size=256)
    with tempfile.TemporaryDirectory() as folder:
        model = Model(SHAPE)
        train(model, corpus, config)
        optimizers = [torch.optim.AdamW(model.parameters())]
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizers[0].step()
        progress = {"step": 1, "run": {}}

        def save() -> None:
            checkpoint.save_state(Path(folder), {"model": model}, optimizers, progress)

        def resume() -> None:
            _, tensors = checkpoint.load_state(Path(folder))
            checkpoint.restore(tensors, {"model": model}, optimizers)

        write_seconds = min(_timed(save) for _ in range(5))
        read_seconds = min(_timed(resume) for _ in range(5))
        size = (Path(folder) / checkpoint.STATE).stat().st_size / 1e6
    note = f"{size:.0f} MB: weights and AdamW's moments, written through to disk; peer: target"
    used = torch.cuda.max_memory_allocated() if _GPU else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    memory_note = f"{_size(SHAPE)}, batches of 256, everything that is loaded included; peer: target"
    memory = used / 2**30
    return [
        Measurement("training, memory", memory, 4.0, 4 / memory, "<= 4", "GiB", memory <= 4, memory_note),
        Measurement("checkpoint, write", write_seconds, 1.0, 1 / write_seconds, "<= 1", "s", write_seconds <= 1, note),
        Measurement("checkpoint, resume", read_seconds, 1.0, 1 / read_seconds, "<= 1", "s", read_seconds <= 1, note),
    ]


def _timed(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


# --- how long it takes to be right -----------------------------------------------------------------------------------

RIGHT = 0.95  # the accuracy to be reached
_SEEDS = (0, 1, 2)
_BUDGETS = (800, 1200, 1800, 2700, 4050)  # steps, each with its own warm-up and cosine
_RATES = {"muon": 1e-2, "adamw": 3e-3}
_TASK = Mixture("compare", (Component(Compare()),))


@benchmark("time-to-95", slow=True)
def time_to_right() -> list[Measurement]:
    """Training to 95 % of held-out compare, median of three seeds, against AdamW alone (>= 1.5 x; an hour)."""
    results = {name: _all_seeds(name) for name in _RATES}
    ours, theirs = (statistics.median(seconds for _, seconds in results[name]) for name in ("muon", "adamw"))
    steps = {name: ", ".join(str(steps) for steps, _ in runs) for name, runs in results.items()}
    note = f"4 layers x 128, batches of 512; Muon, steps {steps['muon']}; peer: AdamW, steps {steps['adamw']}"
    return [Measurement("time-to-95", ours, theirs, theirs / ours, ">= 1.5 x", "s", theirs >= 1.5 * ours, note)]


def _all_seeds(optimizer: str) -> list[tuple[int, float]]:
    """For each seed the steps and seconds of the shortest of `_BUDGETS` that suffices; infinite where none does.

    The search begins where the seed before ended: one budget less where that suffices, one more where it does not.
    """
    results = []
    k = 0  # of the budgets
    for seed in _SEEDS:
        corpus = build(_TASK, 1_000_000, seed)
        tries: dict[int, tuple[bool, float]] = {}
        while 0 <= k < len(_BUDGETS) and k not in tries:
            tries[k] = _train_and_test(optimizer, corpus, seed, _BUDGETS[k])
            k += -1 if tries[k][0] else 1
        enough = [budget for budget, (suffices, _) in tries.items() if suffices]
        results.append((_BUDGETS[min(enough)], tries[min(enough)][1]) if enough else (0, float("inf")))
        k = min(enough) if enough else len(_BUDGETS) - 1
    return results


def _train_and_test(optimizer: str, corpus: Corpus, seed: int, steps: int) -> tuple[bool, float]:
    """Whether 95 % of 2000 validation programs are completed correctly after so many steps, and their seconds."""
    model = Model(ModelConfig(n_ctx=16), seed=seed).to(DEVICE)
    config = TrainConfig(steps=steps, optimizer=optimizer, lr=_RATES[optimizer], seed=seed)
    seconds = train(model, corpus, config)["seconds"]
    (row,) = evaluate(model.eval(), _TASK, splits=("validation",), programs=2000)
    return row.accuracy >= RIGHT, seconds
