"""The training loop: Muon for the matrices of the blocks and AdamW for the rest (or AdamW for all), warm-up and cosine,
bf16 autocast, checkpoints from which a killed run goes on to the same weights.

A batch is cut by length into parts, so that little is padding; the gradient is that of the whole batch. Under
`torchrun` every process takes its share of each batch, and the gradient is again that of the whole.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cadmus import artifacts, checkpoint, tokens, vm
from cadmus.batches import Batches, by_length, open_batches
from cadmus.corpus import Corpus
from cadmus.cost import PRECISIONS, cost, matmul_peak
from cadmus.evaluate import evaluate
from cadmus.mixture import Mixture
from cadmus.model import Model, ModelConfig, loss_mask, next_token_loss
from cadmus.muon import Muon
from cadmus.processes import check_agreement, rank, sum_gradients, world

Source = Corpus | Mixture  # stored programs, or a stream of them

OPTIMIZERS = ("muon", "adamw")


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained."""

    steps: int = 850
    """Optimizer steps."""
    batch_size: int = 512
    """Programs per step, over all processes."""
    micro_batches: int = 16
    """The most parts of a batch that are padded apart; fewer where padding costs less than one more part."""
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
    precision: str = "bf16"
    """Of autocast: bf16 or fp32."""
    seed: int = 0
    """Of the initial weights and of the order of the programs."""
    log_every: int = 20
    """Steps between two rows of the record."""
    checkpoint_every: int = 500
    """Steps between two states that a killed run can go on from; a minute is the most in any case."""
    snapshots: int = 0
    """Models kept on the way, at log-spaced steps, for studies of training; 0: none, 1: the first step's."""
    evaluate_every: int = 0
    """Steps between two evaluations by completion, decided by the machine, on the split validation; 0: none."""
    evaluate_programs: int = 100
    """Of each family."""
    dollars_per_hour: float = 0.0
    """What an hour of one device costs (a GPU, or the CPUs of one process): for the record."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "micro_batches", "log_every", "checkpoint_every", "evaluate_programs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be 1 or more")
        for name, known in (("precision", tuple(PRECISIONS)), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} = {getattr(self, name)!r} must be one of {', '.join(known)}")
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)} must be above 0 and finite")
        if len(self.betas) != 2 or not all(isinstance(beta, float) and 0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas = {self.betas} must be two numbers from 0 to below 1")
        if not 0 < self.decay_share <= 1:
            raise ValueError(f"decay_share = {self.decay_share} must be above 0 and at most 1")
        for name in ("warmup_steps", "snapshots", "evaluate_every", "dollars_per_hour", "weight_decay", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} = {getattr(self, name)} must be 0 or more")

    @property
    def snapshot_steps(self) -> frozenset[int]:
        """After which steps a snapshot is kept: log-spaced, from the first to the last."""
        return frozenset(np.geomspace(1, self.steps, self.snapshots).round().astype(int).tolist())


# what a run may change on its way
_FREE = (
    *("steps", "decay_share", "log_every", "checkpoint_every", "snapshots", "evaluate_every", "evaluate_programs"),
    "dollars_per_hour",
)
_SECONDS_UNSAVED = 60.0  # that a killed run loses at most

Progress = Callable[[dict[str, float]], None]  # told of each step: tokens and seconds so far, loss, share of peak


def train(
    model: Model,
    source: Source,
    config: TrainConfig,
    progress: Progress | None = None,
    *,
    folder: Path | str | None = None,
    workers: int = 0,
) -> dict[str, Any]:
    """Train `model` in place; returns the record: config, corpus, totals, and a row every `log_every` steps.

    A mixture is streamed, drawn ahead by `workers` processes. Losses are means over the tokens that count, in nats;
    tokens are those that count, padding left out. With `folder`, the state of the run is kept there every
    `checkpoint_every` steps, and every minute, and the next call goes on from it; on one machine's CPU and as many
    threads the weights come out the same, bit for bit. Several processes share the folder. Raises ValueError where
    programs do not fit, the state is of another run, or the folder holds a finished model, and FloatingPointError where
    the loss, the gradient or the weights are no numbers (the last state is kept).
    """
    check_fits(source if isinstance(source, Mixture) else source.mixture, model.cfg)
    if config.batch_size < world():
        raise ValueError(f"batch_size = {config.batch_size} leaves some of {world()} processes without a program")
    with open_batches(source, config.batch_size, config.steps, config.seed, workers) as batches:
        run = _Run(model, batches, config, None if folder is None else Path(folder))
        run.resume()
        model.train()
        while run.step < config.steps:
            run.advance()
            if progress is not None:
                progress(run.now())
        run.check_weights()
        model.eval()
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


_PROGRESS = ("step", "seen", "positions", "seconds", "rows", "losses", "evaluations")  # of a run, kept with its state


class _Run:
    """A run in progress: what a checkpoint of it holds, and how it takes a step."""

    def __init__(self, model: Model, batches: Batches, config: TrainConfig, folder: Path | None):
        self.model, self.batches, self.config, self.folder = model, batches, config, folder
        self.optimizers = _optimizers(model, config)
        self.step, self.seen, self.seconds = 0, 0, 0.0
        self.positions = 0  # that were computed: those of the tokens seen, and padding
        self.rows: list[dict[str, float]] = []
        self.evaluations: list[dict[str, float | str]] = []
        self.peak = matmul_peak(model.device, config.precision)
        self.loss, self.losses = math.nan, []  # of the last step; of those since the last row

    def advance(self) -> None:
        started = time.perf_counter()
        programs = self.batches.batch(self.step)
        self.step += 1
        rate = self.config.lr * _schedule(self.step, self.config)
        parts = by_length(programs, self.config.micro_batches)
        loss, counted = _accumulate(self.model, parts, self.config)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip).item()
        for name, value in (("loss", loss), ("norm of the gradient", norm)):
            if not math.isfinite(value):
                raise self._stopped(f"the {name} is {value}")
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        self.seen += counted
        self.positions += sum(part.size for part in parts)
        self.loss = loss
        self.losses.append(loss)
        self.seconds += time.perf_counter() - started
        if self.step % self.config.log_every == 0 or self.step == self.config.steps:
            row = {"step": self.step, "tokens": self.seen, "loss": float(np.mean(self.losses)), "lr": rate}
            self.rows.append({**row, "seconds": self.seconds})
            self.losses = []
        if self.config.evaluate_every and self.step % self.config.evaluate_every == 0 and rank() == 0:
            self.evaluate()
        if self.folder is not None and rank() == 0:
            if self.step in self.config.snapshot_steps:
                checkpoint.save_snapshot(self.folder, self.step, self.model)
            due = self.step % self.config.checkpoint_every == 0 or time.monotonic() - self._saved >= _SECONDS_UNSAVED
            if due and self.step < self.config.steps:
                self.save()

    def _stopped(self, why: str) -> FloatingPointError:
        kept = f"the state of step {self._kept} is kept in {self.folder}" if self._kept else "no state is kept yet"
        batch = f"batch {self.step - 1} of {self.batches.about['fingerprint']}, seed {self.config.seed}"
        return FloatingPointError(f"{why} at step {self.step} of {self.config.steps} ({batch}); {kept}; lower lr")

    def check_weights(self) -> None:
        """FloatingPointError where some weight is no number: neither a state nor a model of that is kept."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise self._stopped("some weights are no numbers")

    def evaluate(self) -> None:
        """Note how many held-out programs of each family the model completes."""
        self.model.eval()
        programs = self.config.evaluate_programs
        mixture = self.batches.mixture
        rows = evaluate(self.model, mixture, splits=("validation",), programs=programs, out_of_distribution=False)
        self.model.train()
        when = {"step": self.step, "tokens": self.seen, "seconds": self.seconds}
        kept = ("family", "accuracy", "low", "high", "n")
        self.evaluations += [{**when, **{name: getattr(row, name) for name in kept}} for row in rows]

    def now(self) -> dict[str, float]:
        """How far the run is."""
        spent = self._cost()
        where = {"step": self.step, "tokens": self.seen, "seconds": self.seconds, "loss": self.loss}
        return {**where, "share_of_peak": spent["share_of_peak"]}

    def _cost(self) -> dict[str, Any]:
        return cost(self.model.cfg, self.seen, self.seconds, world(), self.peak, self.config.dollars_per_hour)

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
        about = {"cfg": self.model.cfg.to_dict(), "corpus": self.batches.about}
        return {"config": config, "rates": rates, "snapshots": snapshots, "phases": phases, **about}

    def save(self) -> None:
        self.check_weights()
        progress = {name: getattr(self, name) for name in _PROGRESS}
        progress["run"] = self._identity(self.step)
        checkpoint.save_state(self.folder, self.model, self.optimizers, progress)
        self._kept, self._saved = self.step, time.monotonic()

    def resume(self) -> None:
        self._saved = time.monotonic()
        if self.folder is None:
            return
        progress = checkpoint.load_state(self.folder, self.model, self.optimizers, self._identity)
        if progress is not None:
            for name in _PROGRESS:
                setattr(self, name, progress[name])
            self._kept = self.step
        elif rank() == 0:
            checkpoint.drop_snapshots(self.folder)
        check_agreement(self.step)

    def record(self) -> dict[str, Any]:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return {
            "config": asdict(self.config),
            "corpus": self.batches.about,
            "parameters": parameters,
            "tokens": self.seen,
            "padding": self.positions / max(1, self.seen) - 1,
            "seconds": self.seconds,
            **self._cost(),
            "threads": torch.get_num_threads(),
            "processes": world(),
            "device": _device_name(self.model.device),
            "log": self.rows,
            "evaluations": self.evaluations,
            "snapshots": sorted(self.config.snapshot_steps) if self.folder is not None else [],
        }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _optimizers(model: Model, config: TrainConfig) -> list[torch.optim.Optimizer]:
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        (matrices if name.startswith("blocks.") and ".W_" in name else others).append(parameter)
    if config.optimizer == "adamw":
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        return [torch.optim.AdamW(groups, config.lr, betas=config.betas)]
    return [
        Muon(matrices, config.lr, weight_decay=config.weight_decay),
        torch.optim.AdamW(others, config.lr, betas=config.betas, weight_decay=0.0),
    ]


def _schedule(step: int, config: TrainConfig) -> float:
    """The learning rate as a share of its peak: linear warm-up, a level stretch, then a cosine to 0."""
    decaying = config.decay_share * config.steps
    share = max(0.0, step - 1 - (config.steps - decaying)) / decaying
    return min(1.0, step / max(1, config.warmup_steps)) * 0.5 * (1 + math.cos(math.pi * share))


def _accumulate(model: Model, parts: list[np.ndarray], config: TrainConfig) -> tuple[float, int]:
    """Make the gradient of one batch's mean loss, over all processes; returns that loss and how many tokens counted."""
    # of part i this process takes every world-th program, beginning elsewhere in each, so that short parts are shared
    mine = [part[(rank() + i) % world() :: world()] for i, part in enumerate(parts)]
    inputs = [torch.from_numpy(tokens.sequences(part)).to(model.device) for part in mine]
    inputs = [part for part in inputs if len(part)]
    total = sum(int((tokens.lengths(part) + 1).sum()) for part in parts)  # of all processes
    loss = torch.zeros((), device=model.device)
    for part in inputs:
        dtype = PRECISIONS[config.precision]
        with torch.autocast(model.device.type, dtype, enabled=config.precision != "fp32"):
            logits = model(part[:, :-1])  # what follows a program's own `.` counts for nothing
        mean = next_token_loss(logits, part) * (loss_mask(part).sum() / total)
        mean.backward()
        loss += mean.detach()
    loss = sum_gradients(list(model.parameters()), loss)
    return loss.item(), total
