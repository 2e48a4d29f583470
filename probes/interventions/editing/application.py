"""Edits at work in one forward pass: which activations of a pass each edit finds, as hooks, and what they changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cadmus.models.hooks import Hook, HookFn, never_writes
from probes.interventions.editing.edits import Step

_ROUNDING = 32  # units in the last place of the largest component


class Layout(Protocol):
    """Where the positions of the copies that run side by side lie in an activation."""

    def index(self, n: int, is_attention: bool, copies: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """As `cadmus.models.partial.Suffixes.index`: (index int64 [m], present bool [m])."""


@dataclass(frozen=True)
class Batch:
    """Copies as rows of a plain pass, [copy, pos, ...]."""

    n_copies: int
    """Rows of the pass."""

    def index(self, n: int, is_attention: bool, copies: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Position p of copy i lies at i * pos + p, as queries do."""
        return copies * (n // self.n_copies) + positions, torch.ones_like(copies, dtype=torch.bool)


@dataclass(frozen=True, eq=False)
class Task:
    """One edit of one arm in a pass, or of several arms where the values are known already."""

    step: Step
    """The edit."""

    copies: Tensor
    """int64 [m]: the copies whose activations are edited."""

    rows: Tensor
    """int64 [m]: the row that each copy is of."""

    positions: Tensor
    """int64 [m]: the model positions."""

    columns: Tensor
    """int64 [m]: as `changes.Change` takes them."""

    values: Tensor | None = None
    """[m, ...]: what stands there afterwards; None: what `step` makes of what is there."""

    on_change: Callable[[Tensor], None] | None = None
    """Told of each time: bool [m], where the activation changed."""


def flat(x: Tensor, is_attention: bool) -> Tensor:
    """[copy, pos, ...] -> [copy * pos, ...]; of attention, [copy, head, query, key] -> [copy * query, head, key]."""
    return (x.transpose(1, 2) if is_attention else x).flatten(0, 1)


def hooks(tasks: Sequence[Task], layout: Layout) -> list[tuple[str, HookFn]]:
    """The tasks as hooks, one for each site; those of one site act one after the other."""
    by_site: dict[str, list[Task]] = {}
    for task in tasks:
        by_site.setdefault(task.step.site, []).append(task)
    return [(site, _hook(of_site, layout)) for site, of_site in by_site.items()]


def _hook(tasks: list[Task], layout: Layout) -> HookFn:
    @never_writes
    def edit(x: Tensor, hook: Hook) -> Tensor:
        return _edited(x, tasks, layout)

    return edit


def _edited(x: Tensor, tasks: Sequence[Task], layout: Layout) -> Tensor:
    """An activation of the tasks' site, as it is after them."""
    is_attention = tasks[0].step.location.is_attention
    activations = flat(x, is_attention).clone()
    for task in tasks:
        _apply(task, activations, layout, is_attention)
    if is_attention:
        return activations.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
    return activations.unflatten(0, x.shape[:2])


def _apply(task: Task, activations: Tensor, layout: Layout, is_attention: bool) -> None:
    """Write into the flat activations what the task makes of them."""
    index, present = layout.index(len(activations), is_attention, task.copies, task.positions)
    rows, columns, values = task.rows, task.columns, task.values
    is_partial = not bool(present.all())
    if is_partial:
        index, rows, columns = index[present], rows[present], columns[present]
        values = None if values is None else values[present]
    if not len(index):
        return
    if values is None:
        before = activations.index_select(0, index)
        given = fit_keys(before, task.step)
        values = task.step.apply(given, rows, columns)
        if task.on_change is not None:
            changed = present.clone()
            changed[present] = differ(given, values)
            task.on_change(changed)
        if is_attention:  # keys that the change was not given stay
            values = torch.cat([values, before[..., values.shape[-1] :]], -1)
    if is_attention:
        values = values[..., : activations.shape[-1]]
    activations.index_copy_(0, index, values.to(activations.dtype))


def fit_keys(x: Tensor, step: Step) -> Tensor:
    """Scores or patterns [m, head, key] with as many keys as the step's sequences have positions; other x as they are.

    Keys beyond those of x are filled up as if attention did not see them.
    """
    if not step.location.is_attention or step.n_positions is None:
        return x
    fill = -torch.inf if step.site.endswith("hook_attn_scores") else 0.0
    return torch.nn.functional.pad(x, (0, step.n_positions - x.shape[-1]), value=fill)


def differ(x: Tensor, y: Tensor) -> Tensor:
    """bool [m]: which of m activations are not the same, but for rounding (of passes with other rows beside them)."""
    if x.ndim == 1 or not x.is_floating_point():
        return (x != y).reshape(len(x), -1).any(1)
    x, y = x.flatten(1), y.flatten(1)
    difference = torch.where(x == y, 0, (x - y).abs()).amax(1)  # of scores, -inf may meet -inf
    size = x.masked_fill(x.isinf(), 0).abs().amax(1)
    return ~(difference <= _ROUNDING * torch.finfo(x.dtype).eps * size)  # NaN is a difference


class Changes:
    """Which arms changed something in which rows: `rows` bool [arms, rows]."""

    def __init__(self, n_arms: int, n_rows: int) -> None:
        self.rows = np.zeros((n_arms, n_rows), bool)

    def mark(self, arm: int, rows: np.ndarray, changed: np.ndarray) -> None:
        """Note what a step of an arm did: rows int64 [m], changed bool [m]."""
        self.rows[arm, rows[changed]] = True


def whole_pass_hook(step: Step, on_change: Callable[[Tensor], None]) -> HookFn:
    """The step as a hook on passes whose rows and positions are known only when they run."""
    is_attention = step.location.is_attention

    @never_writes
    def edit(x: Tensor, hook: Hook) -> Tensor:
        n_rows, n_positions = (x.shape[0], x.shape[2]) if is_attention else x.shape[:2]
        if step.positions is not None and len(step.positions) not in (1, n_rows):
            raise ValueError(f"the edit at {step.site!r} is of {len(step.positions)} rows, the batch has {n_rows}")
        rows, positions, columns = step.entries(0, np.full(n_rows, n_positions - 1), whole=True)
        copies, places, column = (torch.from_numpy(part).to(x.device) for part in (rows, positions, columns))
        task = Task(step, copies, copies, places, column, on_change=on_change)
        return _edited(x, [task], Batch(n_rows))

    return edit


def task(step: Step, arm: int, parts: list[np.ndarray], device: torch.device, changes: Changes) -> list[Task]:
    """The task of a step for copies, rows, positions and columns; none if there are none."""
    if not len(parts[0]):
        return []

    def on_change(changed: Tensor) -> None:
        changes.mark(arm, parts[1], changed.cpu().numpy())

    copies, rows, positions, columns = (torch.from_numpy(part).to(device) for part in parts)
    return [Task(step, copies, rows, positions, columns, on_change=on_change)]
