"""The training loop: a batch, its gradient, a step, and what is due after it: log, evaluation, snapshot, state.

Autocast runs in the precision that the device is fast at. From its last state a killed run goes on to the same weights.
Under `torchrun` every process takes its share of each batch, and the gradient is that of the whole.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cadmus.corpora.corpus import Corpus
from cadmus.models.compilation import original_model
from cadmus.models.model import Model
from cadmus.programs.mixture import Mixture
from cadmus.runtime import artifacts, devices
from cadmus.runtime.devices import AUTO, PRECISIONS
from cadmus.runtime.progress import Progress, no_progress
from cadmus.training import checkpoint
from cadmus.training.batches import Batches, open_batches
from cadmus.training.completion import evaluate
from cadmus.training.config import TrainConfig, check_fits
from cadmus.training.cost import cost, flops_per_token
from cadmus.training.distributed import broadcast, check_agreement, rank, world
from cadmus.training.gradient import accumulate_gradient
from cadmus.training.graphed import GraphedStep, can_record
from cadmus.training.optimizers import learning_rate_fraction, make_optimizers, update_average

Source = Corpus | Mixture
"""Stored programs, or a stream of them."""

StepFn = Callable[[dict[str, float]], None]
"""Called after each step with {step, tokens, seconds, loss, share_of_peak}: tokens and seconds so far, and the
last loss that was read: on a GPU that of one of the last sixteen steps."""

Note = Callable[[str], None]
"""Called with a sentence that a person should read: which precision is used, what is not as in the last stretch."""

MAX_SECONDS_UNSAVED = 60.0  # that a killed run loses
_UNREAD = 16  # steps on a GPU whose losses are read together, so that it is seldom waited for


def train(
    model: Model,
    source: Source,
    config: TrainConfig,
    progress: Progress = no_progress,
    *,
    folder: Path | str | None = None,
    workers: int = 0,
    note: Note = lambda text: None,
    on_step: StepFn | None = None,
    start: str = "",
) -> dict[str, Any]:
    """Train `model` in place.

    Losses are means over the tokens of the programs, each program's own `.` among them, in nats. With `folder`, the
    next call goes on from the last state there. On one CPU and as many threads the weights come out the same, bit for
    bit; where a run went on elsewhere, or in another precision, the record says from which step. Several processes
    share the folder.

    Args:
        model: the model, on its device; of a compiled one, the weights are trained by the loops that train any.
        source: a corpus, or a mixture to be streamed.
        config: how it is trained.
        progress: follows the stage "train".
        folder: where the state of the run is written every `checkpoint_every` steps, and every minute.
        workers: processes that draw a mixture's programs ahead; 0: this one.
        note: is told what a person should know of the run.
        on_step: is called after each step.
        start: the fingerprint of the weights that `model` comes with, for the record; empty where they are random.

    Returns:
        The record: config, corpus, totals, and a row every `log_every` steps.

    Raises:
        ValueError: programs do not fit, the state is of another run, or the folder holds a finished model.
        FloatingPointError: the loss, the gradient or the weights are not finite (the last state is kept).
    """
    model = original_model(model)
    check_fits(source if isinstance(source, Mixture) else source.mixture, model.cfg)
    if config.batch_size < world():
        raise ValueError(f"batch_size = {config.batch_size} leaves some of {world()} processes without a program")
    with open_batches(source, config.batch_size, config.steps, config.seed, workers) as batches:
        run = _Run(model, batches, config, None if folder is None else Path(folder), start)
        run.begin(note)
        model.train()
        while run.step < config.steps:
            run.advance()
            now = run.now()
            progress("train", run.step / config.steps, _progress_note(now))
            if on_step is not None:
                on_step(now)
        run.finish()
        return run.record()


def _progress_note(now: dict[str, float]) -> str:
    """How far a run is: `5.2 M tokens, 61.3 k/s, 45% of peak, loss 0.731`."""
    rate = now["tokens"] / now["seconds"]
    share = f", {now['share_of_peak']:.0%} of peak" if now["share_of_peak"] else ""
    return f"{now['tokens'] / 1e6:.1f} M tokens, {rate / 1e3:,.1f} k/s{share}, loss {now['loss']:.3f}"


# fields of TrainConfig that a run may change on its way
_FREE = (
    "steps",
    "decay_share",
    "log_every",
    "checkpoint_every",
    "snapshots",
    "evaluate_every",
    "evaluate_programs",
    "dollars_per_hour",
    "precision",
)
# attributes of a run that are stored with its state, by name
_PROGRESS = ("step", "seen", "seconds", "device_seconds", "possible", "rows", "losses", "evaluations", "stretches")


class _Run:
    """A run in progress: what a checkpoint of it holds, and how it takes a step."""

    def __init__(self, model: Model, batches: Batches, config: TrainConfig, folder: Path | None, start: str):
        self.model = model
        self.batches = batches
        self.config = config
        self.folder = folder
        self.start = start
        self.fast_precision = broadcast(devices.fast_precision(model.device))
        self.precision = self.fast_precision
        self.optimizers = make_optimizers(model, config, PRECISIONS[self.fast_precision])
        self.average = copy.deepcopy(model) if config.average_steps else None
        self.step = 0  # steps so far
        self.seen = 0  # tokens
        self.seconds = 0.0
        self.device_seconds = 0.0  # of all processes
        self.possible = 0.0  # operations that large products would have made in these seconds
        self.peak = 0.0  # operations a second of large products, on one device
        self.rows: list[dict[str, float]] = []  # the log
        self.evaluations: list[dict[str, float | str]] = []
        self.stretches: list[dict[str, Any]] = []  # where the run has gone on, and how: what its bits depend on
        self.loss = math.nan  # the last that was read
        self.losses: list[float] = []  # since the last row
        self.graphed: GraphedStep | None = None  # on one GPU, from the first step on
        self._unread: list[tuple[int, Tensor]] = []  # steps not waited for yet: loss and norm of the gradient [2]
        self.saved_step = 0  # of the last state on disk
        self.saved_at = math.inf  # when it was written, by the monotonic clock

    # --- beginning and going on --------------------------------------------------------------------------------------

    def begin(self, note: Note) -> None:
        """Resume from the last state, if there is one; tell `note` the precision, or what differs from the last
        stretch."""
        self._resume()
        before = self.stretches[-1] if self.stretches else {}
        if self.config.precision == AUTO:
            self.precision = before.get("precision", self.fast_precision)
        else:
            self.precision = self.config.precision
        device = self.model.device
        here = {
            "precision": self.precision,
            "muon_precision": self.fast_precision,
            "device": devices.name(device),
            "device_type": device.type,
            "threads": torch.get_num_threads(),
            "processes": world(),
            "versions": _versions(),
        }
        changes = [f"{key} {before[key]}, now {here[key]}" for key in here if before.get(key, here[key]) != here[key]]
        if not before:
            note(f"{self.precision} on {here['device']}, {here['threads']} threads")
        elif changes:
            note(f"goes on from step {self.step} with {'; '.join(changes)}: bits may differ from here on")
        if changes or not before:
            self.stretches.append({"from_step": self.step, **here})
        if self.precision != self.fast_precision:
            gain = devices.bf16_gain(device)
            slower = 1 / gain if self.precision == "bf16" else gain
            fast = self.fast_precision
            note(f"{self.precision} products take {slower:.1f} times as long as {fast} ones on this device")
        self.peak = devices.matmul_peak(device, self.precision)

    def _resume(self) -> None:
        """Take up the state in the folder, if any; where there is none, what an abandoned run left is deleted."""
        self.saved_at = time.monotonic()
        if self.folder is None:
            return
        state = checkpoint.load_state(self.folder)
        if state is not None:
            progress, tensors = state
            checkpoint.check_same_run(self.folder, progress["run"], self._identity(progress["step"]))
            checkpoint.restore(tensors, self._models(), self.optimizers)
            for name in _PROGRESS:
                setattr(self, name, progress[name])
            self.saved_step = self.step
        elif rank() == 0:
            checkpoint.drop_snapshots(self.folder)
        check_agreement(self.step)

    def _identity(self, step: int) -> dict[str, Any]:
        """What the weights after `step` steps are a function of.

        A run may be made longer, or be ended sooner, as long as the rates so far stay as they were.
        """
        config = {name: value for name, value in asdict(self.config).items() if name not in _FREE}
        rates = [learning_rate_fraction(k, self.config) for k in range(1, step + 1)]
        return {
            "config": config,
            "rates": artifacts.fingerprint(rates),
            "snapshots": sorted(kept_step for kept_step in self.config.snapshot_steps if kept_step <= step),
            "phases": self.config.steps if len(self.batches.mixture.parts) > 1 else None,
            "cfg": self.model.cfg.to_dict(),
            "corpus": self.batches.about,
            "start": self.start,
        }

    def _models(self) -> dict[str, Model]:
        """The weights that a state holds."""
        return {"model": self.model} if self.average is None else {"model": self.model, "average": self.average}

    # --- a step ------------------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Take a step, and do what is due after it."""
        started = time.perf_counter()
        programs = self.batches.batch(self.step)
        self.step += 1
        n_tokens = self._step(programs)
        self._count(n_tokens, time.perf_counter() - started)
        self._log()
        if self.config.evaluate_every and self.step % self.config.evaluate_every == 0 and rank() == 0:
            self._evaluate()
        if self.folder is not None and rank() == 0:
            self._keep(self.folder)

    @property
    def rate(self) -> float:
        """The learning rate of the current step."""
        return self.config.lr * learning_rate_fraction(self.step, self.config)

    def _step(self, programs: np.ndarray) -> int:
        """Step the weights by the gradient of these programs; returns how many tokens counted."""
        n_tokens = self._step_recorded(programs)
        if n_tokens is None:
            n_tokens = self._step_eagerly(programs)
        if self.average is not None:
            update_average(self.average, self.model, self.step, self.config.average_steps)
        return n_tokens

    def _step_eagerly(self, programs: np.ndarray) -> int:
        loss, n_tokens = accumulate_gradient(self.model, programs, self.precision)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self._unread.append((self.step, torch.stack((loss, norm))))
        self._read()  # here a GPU is waited for
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate
            optimizer.step()
            optimizer.zero_grad()
        return n_tokens

    def _step_recorded(self, programs: np.ndarray) -> int | None:
        """The same as a CUDA graph, on one GPU; None elsewhere, and where the batch is too large for it."""
        if world() > 1 or not can_record(self.model.device, self.precision):
            return None
        if self.graphed is None:
            longest = self.batches.mixture.width
            self.graphed = GraphedStep(self.model, self.optimizers, self.precision, self.config.clip, longest)
        stepped = self.graphed.step(programs, self.rate)
        if stepped is None:
            return None
        results, n_tokens = stepped
        self._unread.append((self.step, results))
        if len(self._unread) >= _UNREAD or math.isnan(self.loss) or self._is_looked_at():
            self._read()  # within the time of the step, which is then that of all that the GPU had to do
        return n_tokens

    def _is_looked_at(self) -> bool:
        """Whether something of this step is logged, evaluated or kept."""
        every = (self.config.log_every, self.config.checkpoint_every, self.config.evaluate_every)
        is_due = any(n and self.step % n == 0 for n in every)
        return is_due or self.step == self.config.steps or self.step in self.config.snapshot_steps

    def _read(self) -> None:
        """Read the losses of the last steps; FloatingPointError where one of them, or a gradient, is not finite."""
        if not self._unread:
            return
        steps, results = zip(*self._unread, strict=True)
        self._unread = []
        for step, (loss, norm) in zip(steps, torch.stack(results).tolist(), strict=True):
            for name, value in (("loss", loss), ("norm of the gradient", norm)):
                if not math.isfinite(value):
                    raise self._not_finite(f"the {name} is {value}", step)
            self.losses.append(loss)
        self.loss = self.losses[-1]

    def _count(self, n_tokens: int, seconds: float) -> None:
        """Add up a step's tokens and time. A step that beats the measured peak shows that the peak is higher."""
        self.seen += n_tokens
        if self.graphed is None:  # of steps that nobody waits for no single one is timed
            self.peak = max(self.peak, flops_per_token(self.model.cfg) * n_tokens / seconds / world())
        self.seconds += seconds
        self.device_seconds += seconds * world()
        self.possible += seconds * self.peak * world()

    def _log(self) -> None:
        """Add a row to the log where one is due."""
        if self.step % self.config.log_every == 0 or self.step == self.config.steps:
            row = {
                "step": self.step,
                "tokens": self.seen,
                "loss": float(np.mean(self.losses)),
                "lr": self.rate,
                "seconds": self.seconds,
            }
            self.rows.append(row)
            self.losses = []

    def _evaluate(self) -> None:
        """Record how many held-out programs of each family the model completes (with its averaged weights, if any)."""
        model = self._best()
        model.eval()
        accuracies = evaluate(
            model,
            self.batches.mixture,
            splits=("validation",),
            programs=self.config.evaluate_programs,
            out_of_distribution=False,
        )
        model.train()
        self.evaluations += [
            {
                "step": self.step,
                "tokens": self.seen,
                "seconds": self.seconds,
                "family": accuracy.family,
                "accuracy": accuracy.accuracy,
                "low": accuracy.low,
                "high": accuracy.high,
                "n": accuracy.n,
            }
            for accuracy in accuracies
        ]

    def _keep(self, folder: Path) -> None:
        """Write a snapshot and the run's state where they are due."""
        if self.step in self.config.snapshot_steps:
            checkpoint.save_snapshot(folder, self.step, self._best())
        unsaved_long = time.monotonic() - self.saved_at >= MAX_SECONDS_UNSAVED
        due = self.step % self.config.checkpoint_every == 0 or unsaved_long
        if due and self.step < self.config.steps:
            self._save(folder)

    def _save(self, folder: Path) -> None:
        """Write the run's state."""
        self._check_weights()
        progress = {name: getattr(self, name) for name in _PROGRESS}
        progress["run"] = self._identity(self.step)
        checkpoint.save_state(folder, self._models(), self.optimizers, progress)
        self.saved_step = self.step
        self.saved_at = time.monotonic()

    def _check_weights(self) -> None:
        """Raise FloatingPointError where a loss or some weight is not finite: such a state or model is not written."""
        self._read()
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise self._not_finite("some weights are not finite", self.step)

    def _not_finite(self, why: str, step: int) -> FloatingPointError:
        """The error with which the run ends, saying at which step this came and what is kept."""
        state = "no state is kept yet"
        if self.saved_step:
            state = f"the state of step {self.saved_step} is kept in {self.folder}"
        batch = f"batch {step - 1} of {self.batches.about['fingerprint']}, seed {self.config.seed}"
        return FloatingPointError(f"{why} at step {step} of {self.config.steps} ({batch}); {state}; lower lr")

    def _best(self) -> Model:
        """The model with the weights that are to be evaluated and kept."""
        return self.model if self.average is None else self.average

    # --- results -----------------------------------------------------------------------------------------------------

    def now(self) -> dict[str, float]:
        """How far the run is; see `StepFn`."""
        return {
            "step": self.step,
            "tokens": self.seen,
            "seconds": self.seconds,
            "loss": self.loss,
            "share_of_peak": self._cost()["share_of_peak"],
        }

    def finish(self) -> None:
        """Leave in the model the weights that are to be kept."""
        self._check_weights()
        if self.average is not None:
            self.model.load_state_dict(self.average.state_dict())
        self.model.zero_grad()  # what was recorded on a GPU ends with it
        self.model.eval()

    def record(self) -> dict[str, Any]:
        """What is stored beside the model (JSON-able)."""
        return {
            "config": asdict(self.config),
            "corpus": self.batches.about,
            "start": self.start,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "tokens": self.seen,
            "seconds": self.seconds,
            **self._cost(),
            "processes": world(),
            "stretches": self.stretches,
            "log": self.rows,
            "evaluations": self.evaluations,
            "snapshots": sorted(self.config.snapshot_steps) if self.folder is not None else [],
        }

    def _cost(self) -> dict[str, Any]:
        """What the run has cost so far; see `cost.cost`."""
        return cost(self.model.cfg, self.seen, self.device_seconds, self.possible, self.config.dollars_per_hour)


def _versions() -> str:
    """The versions that the bits of a run depend on: torch, numba and our own revision."""
    provenance = artifacts.provenance()
    versions = [f"{name} {version}" for name, version in provenance["versions"].items() if name in ("torch", "numba")]
    return ", ".join([*versions, f"revision {(provenance['git'] or 'unknown')[:12]}"])
