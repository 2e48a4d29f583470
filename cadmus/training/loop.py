"""The training loop: Muon for the matrices of the blocks and AdamW for the rest (or AdamW for all), warm-up and cosine,
autocast in the precision that the device is fast at, checkpoints from which a killed run goes on to the same weights.

Programs lie one after another, so that next to nothing is padding, and a batch is cut into parts that fit into memory;
the gradient is that of the whole batch. Under `torchrun` every process takes its share of each batch, and the gradient
is again that of the whole.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from cadmus.corpora.corpus import Corpus
from cadmus.machine import tokens, vm
from cadmus.models.model import Model, ModelConfig
from cadmus.models.packed import pack
from cadmus.programs.mixture import Mixture
from cadmus.runtime import artifacts, devices
from cadmus.runtime.devices import AUTO, PRECISIONS
from cadmus.training import checkpoint
from cadmus.training.batches import Batches, open_batches
from cadmus.training.completion import evaluate
from cadmus.training.cost import cost, flops_per_token
from cadmus.training.distributed import agreed, check_agreement, rank, sum_gradients, world
from cadmus.training.muon import Muon

Source = Corpus | Mixture  # stored programs, or a stream of them

OPTIMIZERS = ("muon", "adamw")


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained."""

    steps: int = 850
    """Optimizer steps."""
    batch_size: int = 512
    """Programs per step, over all processes."""
    optimizer: str = "muon"
    """muon (for the matrices of the blocks; AdamW for the rest) or adamw (for all)."""
    lr: float = 1e-2
    """Peak learning rate, of both optimizers."""
    warmup_steps: int = 50
    """Linear from 0."""
    decay_share: float = 1.0
    """Share of the steps, the last ones, in which the rate falls to 0 as a cosine; before them it stays at its peak."""
    weight_decay: float = 0.05
    """Of the blocks' matrices."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Of AdamW."""
    clip: float = 1.0
    """Greatest norm of the gradient."""
    precision: str = AUTO
    """Of matrix products: bf16, fp32, or auto: what the device is fast at; a run that goes on keeps what it had."""
    seed: int = 0
    """Of the initial weights and of the order of the programs."""
    log_every: int = 20
    """Steps between two rows of the record."""
    checkpoint_every: int = 500
    """Steps between two states that a killed run can go on from; a minute is the most in any case."""
    average_steps: int = 0
    """The weights that are evaluated and kept, at the end and as snapshots: an exponential average over about so many
    steps; 0: the last ones."""
    snapshots: int = 0
    """Models kept on the way, at log-spaced steps, for studies of training; 0: none, 1: the first step's."""
    evaluate_every: int = 0
    """Steps between two evaluations by completion, decided by the machine, on the split validation; 0: none."""
    evaluate_programs: int = 100
    """Of each family."""
    dollars_per_hour: float = 0.0
    """What an hour of one device costs (a GPU, or the CPUs of one process): for the record."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "checkpoint_every", "evaluate_programs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be 1 or more")
        for name, known in (("precision", (AUTO, *PRECISIONS)), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} = {getattr(self, name)!r} must be one of {', '.join(known)}")
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)} must be above 0 and finite")
        if len(self.betas) != 2 or not all(isinstance(beta, float) and 0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas = {self.betas} must be two numbers from 0 to below 1")
        if not 0 < self.decay_share <= 1:
            raise ValueError(f"decay_share = {self.decay_share} must be above 0 and at most 1")
        for name in (
            "warmup_steps",
            "average_steps",
            "snapshots",
            "evaluate_every",
            "dollars_per_hour",
            "weight_decay",
            "seed",
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} = {getattr(self, name)} must be 0 or more")

    @property
    def snapshot_steps(self) -> frozenset[int]:
        """After which steps a snapshot is kept: log-spaced, from the first to the last."""
        return frozenset(np.geomspace(1, self.steps, self.snapshots).round().astype(int).tolist())


# what a run may change on its way
_FREE = (
    *("steps", "decay_share", "log_every", "checkpoint_every", "snapshots", "evaluate_every", "evaluate_programs"),
    *("dollars_per_hour", "precision"),
)
_SECONDS_UNSAVED = 60.0  # that a killed run loses at most

# Tokens of a batch that go through the model together: more take memory (on a CPU 80 kB a token at the shape of `mini`)
# and leave the caches, fewer pay more often for what a pass costs whatever its size.
_PART_TOKENS = {"cpu": 6144}
_PART_TOKENS_GPU = 32_768
_MIN_TOKENS = 1024  # in a part, or a core does without: of smaller ones a step takes up to three times as long
_MULTIPLE = 256  # that a part is filled up to

Progress = Callable[[dict[str, float]], None]  # told of each step: tokens and seconds so far, loss, share of peak
Note = Callable[[str], None]  # told, in a sentence, what a person should know of the run


def train(
    model: Model,
    source: Source,
    config: TrainConfig,
    progress: Progress | None = None,
    *,
    folder: Path | str | None = None,
    workers: int = 0,
    note: Note = lambda text: None,
    start: str = "",
) -> dict[str, Any]:
    """Train `model` in place; returns the record: config, corpus, totals, and a row every `log_every` steps.

    A mixture is streamed, drawn ahead by `workers` processes. Losses are means over the tokens of the programs, each
    program's own `.` among them, in nats. With `folder`, the state of the run is kept there every `checkpoint_every`
    steps, and every minute, and the next call goes on from it; on one machine's CPU and as many threads the weights
    come out the same, bit for bit, and where a run went on elsewhere, or in another precision, the record says from
    which step. Several processes share the folder. start: the fingerprint of the weights that `model` comes with, for
    the record; empty where they are random. Raises ValueError where programs do not fit, the state is of another
    run, or the folder holds a finished model, and FloatingPointError where the loss, the gradient or the weights are
    not finite (the last state is kept).
    """
    check_fits(source if isinstance(source, Mixture) else source.mixture, model.cfg)
    if config.batch_size < world():
        raise ValueError(f"batch_size = {config.batch_size} leaves some of {world()} processes without a program")
    with open_batches(source, config.batch_size, config.steps, config.seed, workers) as batches:
        run = _Run(model, batches, config, None if folder is None else Path(folder), start)
        run.begin(note)
        model.train()
        while run.step < config.steps:
            run.advance()
            if progress is not None:
                progress(run.now())
        run.finish()
        return run.record()


def check_fits(mixture: Mixture, cfg: ModelConfig) -> None:
    """ValueError where the model has too few positions for the mixture's programs, or another vocabulary."""
    if cfg.d_vocab != len(vm.VOCAB):
        raise ValueError(f"d_vocab = {cfg.d_vocab} must be {len(vm.VOCAB)}, the machine's tokens")
    if mixture.width + 1 > cfg.n_ctx:
        raise ValueError(
            f"programs of mixture {mixture.name!r} need {mixture.width + 1} positions, "
            f"the model has n_ctx = {cfg.n_ctx}; raise n_ctx"
        )


# of a run, kept with its state
_PROGRESS = ("step", "seen", "seconds", "device_seconds", "possible", "rows", "losses", "evaluations", "stretches")


class _Run:
    """A run in progress: what a checkpoint of it holds, and how it takes a step."""

    def __init__(self, model: Model, batches: Batches, config: TrainConfig, folder: Path | None, start: str):
        self.model, self.batches, self.config, self.folder, self.start = model, batches, config, folder, start
        self.fast = agreed(devices.fast_precision(model.device))
        self.optimizers = _optimizers(model, config, PRECISIONS[self.fast])
        self.average = _average(model, config.average_steps) if config.average_steps else None
        self.step, self.seen, self.seconds = 0, 0, 0.0
        self.device_seconds = 0.0  # of all processes
        self.possible = 0.0  # operations that large products would have made in these seconds
        self.rows: list[dict[str, float]] = []
        self.evaluations: list[dict[str, float | str]] = []
        self.stretches: list[dict[str, Any]] = []  # where the run has gone on, and how: what its bits depend on
        self.loss, self.losses = math.nan, []  # of the last step; of those since the last row

    def begin(self, note: Note) -> None:
        """Go on from a state where there is one; say how, and note it where it is another way than before."""
        self.resume()
        before = self.stretches[-1] if self.stretches else {}
        wanted = self.config.precision
        self.precision = before.get("precision", self.fast) if wanted == AUTO else wanted
        device = self.model.device
        here = {
            "precision": self.precision,
            "muon_precision": self.fast,
            "device": devices.name(device),
            "threads": torch.get_num_threads(),
            "processes": world(),
            "versions": _versions(),
        }
        changes = [f"{key} {before.get(key)}, now {value}" for key, value in here.items() if before.get(key) != value]
        if not before:
            note(f"{self.precision} on {here['device']}, {here['threads']} threads")
        elif changes:
            note(f"goes on from step {self.step} with {'; '.join(changes)}: bits may differ from here on")
        if changes:
            self.stretches.append({"from_step": self.step, **here})
        if self.precision != self.fast and device.type == "cpu":
            gain = devices.bf16_gain(device)
            slower = 1 / gain if self.precision == "bf16" else gain
            note(f"{self.precision} products take {slower:.1f} times as long as {self.fast} ones on this CPU")
        self.peak = devices.matmul_peak(device, self.precision)

    def advance(self) -> None:
        started = time.perf_counter()
        programs = self.batches.batch(self.step)
        self.step += 1
        rate = self.config.lr * _schedule(self.step, self.config)
        loss, counted = accumulate_gradient(self.model, programs, self.precision)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip).item()
        for name, value in (("loss", loss), ("norm of the gradient", norm)):
            if not math.isfinite(value):
                raise self._stopped(f"the {name} is {value}")
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.seen += counted
        self.loss = loss
        self.losses.append(loss)
        self._spend(time.perf_counter() - started, counted)
        if self.step % self.config.log_every == 0 or self.step == self.config.steps:
            row = {"step": self.step, "tokens": self.seen, "loss": float(np.mean(self.losses)), "lr": rate}
            self.rows.append({**row, "seconds": self.seconds})
            self.losses = []
        if self.config.evaluate_every and self.step % self.config.evaluate_every == 0 and rank() == 0:
            self.evaluate()
        if self.folder is not None and rank() == 0:
            if self.step in self.config.snapshot_steps:
                checkpoint.save_snapshot(self.folder, self.step, self._best())
            due = self.step % self.config.checkpoint_every == 0 or time.monotonic() - self._saved >= _SECONDS_UNSAVED
            if due and self.step < self.config.steps:
                self.save()

    def _spend(self, seconds: float, counted: int) -> None:
        """Count a step's time. A step that beats the peak that was measured was faster than it: then it is the peak."""
        self.peak = max(self.peak, flops_per_token(self.model.cfg) * counted / seconds / world())
        self.seconds += seconds
        self.device_seconds += seconds * world()
        self.possible += seconds * self.peak * world()

    def finish(self) -> None:
        """Leave in the model the weights that are to be kept."""
        self.check_weights()
        if self.average is not None:
            self.model.load_state_dict(self.average.module.state_dict())
        self.model.eval()

    def _stopped(self, why: str) -> FloatingPointError:
        kept = f"the state of step {self._kept} is kept in {self.folder}" if self._kept else "no state is kept yet"
        batch = f"batch {self.step - 1} of {self.batches.about['fingerprint']}, seed {self.config.seed}"
        return FloatingPointError(f"{why} at step {self.step} of {self.config.steps} ({batch}); {kept}; lower lr")

    def check_weights(self) -> None:
        """FloatingPointError where some weight is not finite: neither a state nor a model of that is kept."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise self._stopped("some weights are not finite")

    def evaluate(self) -> None:
        """Note how many held-out programs of each family the model completes (with its averaged weights, if any)."""
        model = self._best()
        model.eval()
        programs = self.config.evaluate_programs
        mixture = self.batches.mixture
        rows = evaluate(model, mixture, splits=("validation",), programs=programs, out_of_distribution=False)
        model.train()
        when = {"step": self.step, "tokens": self.seen, "seconds": self.seconds}
        kept = ("family", "accuracy", "low", "high", "n")
        self.evaluations += [{**when, **{name: getattr(row, name) for name in kept}} for row in rows]

    def now(self) -> dict[str, float]:
        """How far the run is."""
        where = {"step": self.step, "tokens": self.seen, "seconds": self.seconds, "loss": self.loss}
        return {**where, "share_of_peak": self._cost()["share_of_peak"]}

    def _cost(self) -> dict[str, Any]:
        return cost(self.model.cfg, self.seen, self.device_seconds, self.possible, self.config.dollars_per_hour)

    # --- going on ----------------------------------------------------------------------------------------------------

    _kept = 0  # the step of the last state on disk
    _saved = math.inf  # when it was written, by the monotonic clock

    def _identity(self, step: int) -> dict[str, Any]:
        """What the weights after `step` steps are a function of. A run may be made longer, or be ended sooner, as long
        as the rates so far stay as they were."""
        config = {name: value for name, value in asdict(self.config).items() if name not in _FREE}
        rates = artifacts.fingerprint([_schedule(k, self.config) for k in range(1, step + 1)])
        snapshots = sorted(kept for kept in self.config.snapshot_steps if kept <= step)
        phases = self.config.steps if len(self.batches.mixture.parts) > 1 else None
        about = {"cfg": self.model.cfg.to_dict(), "corpus": self.batches.about, "start": self.start}
        return {"config": config, "rates": rates, "snapshots": snapshots, "phases": phases, **about}

    def save(self) -> None:
        self.check_weights()
        progress = {name: getattr(self, name) for name in _PROGRESS}
        progress["run"] = self._identity(self.step)
        checkpoint.save_state(self.folder, self._models(), self.optimizers, progress)
        self._kept, self._saved = self.step, time.monotonic()

    def _best(self) -> Model:
        """The weights that are to be kept."""
        return self.model if self.average is None else self.average.module

    def _models(self) -> dict[str, Model]:
        """The weights that a state holds."""
        return {"model": self.model} | ({} if self.average is None else {"average": self.average.module})

    def resume(self) -> None:
        self._saved = time.monotonic()
        if self.folder is None:
            return
        progress = checkpoint.load_state(self.folder, self._models(), self.optimizers, self._identity)
        if progress is not None:
            for name in _PROGRESS:
                setattr(self, name, progress[name])
            if self.average is not None:
                self.average.n_averaged.fill_(self.step)  # or the next step would begin the average anew
            self._kept = self.step
        elif rank() == 0:
            checkpoint.drop_snapshots(self.folder)
        check_agreement(self.step)

    def record(self) -> dict[str, Any]:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return {
            "config": asdict(self.config),
            "corpus": self.batches.about,
            "start": self.start,
            "parameters": parameters,
            "tokens": self.seen,
            "seconds": self.seconds,
            **self._cost(),
            "processes": world(),
            "stretches": self.stretches,
            "log": self.rows,
            "evaluations": self.evaluations,
            "snapshots": sorted(self.config.snapshot_steps) if self.folder is not None else [],
        }


def _versions() -> str:
    """What the bits of a run depend on besides its machine."""
    made_with = artifacts.provenance()
    known = [f"{name} {version}" for name, version in made_with["versions"].items() if name in ("torch", "numba")]
    return ", ".join([*known, f"revision {(made_with['git'] or 'unknown')[:12]}"])


def _average(model: Model, steps: int) -> AveragedModel:
    """An exponential average of the weights over about the last `steps` steps, over all of them before there are so
    many: the first weights would else count most of a run that is not much longer."""

    def blend(kept: list[Tensor], now: list[Tensor], averaged: Tensor) -> None:
        for one, other in zip(kept, now, strict=True):
            one.lerp_(other, 1 / min(int(averaged) + 1, steps))

    return AveragedModel(model, multi_avg_fn=blend)


def _optimizers(model: Model, config: TrainConfig, fast: torch.dtype) -> list[torch.optim.Optimizer]:
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        (matrices if name.startswith("blocks.") and ".W_" in name else others).append(parameter)
    if config.optimizer == "adamw":
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        return [torch.optim.AdamW(groups, config.lr, betas=config.betas, foreach=True)]
    return [
        Muon(matrices, config.lr, weight_decay=config.weight_decay, dtype=fast),
        torch.optim.AdamW(others, config.lr, betas=config.betas, weight_decay=0.0, foreach=True),
    ]


def _schedule(step: int, config: TrainConfig) -> float:
    """The learning rate as a share of its peak: linear warm-up, a level stretch, then a cosine to 0."""
    decaying = config.decay_share * config.steps
    share = max(0.0, step - 1 - (config.steps - decaying)) / decaying
    return min(1.0, step / max(1, config.warmup_steps)) * 0.5 * (1 + math.cos(math.pi * share))


def accumulate_gradient(model: Model, programs: np.ndarray, precision: str) -> tuple[float, int]:
    """Make the gradient of a batch's mean loss, over all processes; returns that loss and how many tokens counted."""
    lengths = tokens.lengths(programs) + 1
    total = int(lengths.sum())  # of all processes
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def of_part(part: np.ndarray) -> list[Tensor]:
        packed = pack(part, model.device, _MULTIPLE)
        with torch.autocast(model.device.type, PRECISIONS[precision], enabled=precision != "fp32"):
            logits = model.on_packed(packed)
        share = F.cross_entropy(logits.float(), packed.targets, reduction="sum") / total
        return [share.detach(), *torch.autograd.grad(share, parameters)]

    parts = _parts(programs[np.argsort(lengths, kind="stable")][rank() :: world()], model.device)
    loss, *gradients = _summed(of_part, parts, model.device)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return sum_gradients(parameters, loss).item(), total


def _parts(programs: np.ndarray, device: torch.device) -> list[np.ndarray]:
    """The programs, shortest first, in parts with about as many tokens each, of all lengths: as few as there may be
    (`_PART_TOKENS`), and on a CPU as many for each core, as long as they are worth a core's while."""
    count = int((tokens.lengths(programs) + 1).sum())
    parts = -(-count // _PART_TOKENS.get(device.type, _PART_TOKENS_GPU))
    if device.type == "cpu":
        cores = max(1, min(torch.get_num_threads(), count // _MIN_TOKENS))
        parts = cores * -(-parts // cores)
    return [part for k in range(parts) if len(part := programs[k::parts])]


def _summed(work: Callable[[np.ndarray], list[Tensor]], parts: list[np.ndarray], device: torch.device) -> list[Tensor]:
    """The sums of the tensors that `work` gives for each part, added in the order of the parts.

    On a CPU each core takes parts of its own (on two cores 1.25 times as fast, for models as small as ours, as if both
    shared each product), and a product has one thread meanwhile; a single part has them all.
    """
    cores = torch.get_num_threads() if device.type == "cpu" and len(parts) > 1 else 1
    if cores > 1:
        torch.set_num_threads(1)
    try:
        found = map(work, parts) if cores == 1 else _pool(cores).map(work, parts)
        sums = next(found)
        for more in found:
            torch._foreach_add_(sums, more)
    finally:
        if cores > 1:
            torch.set_num_threads(cores)
    return sums


@cache
def _pool(cores: int) -> ThreadPoolExecutor:
    """Threads that stay: to start them anew in each step takes a sixth of its time."""
    return ThreadPoolExecutor(cores, "train")
