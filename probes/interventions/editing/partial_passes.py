"""Interventions on our own model without what an edit cannot reach: later layers and positions alone are computed.

Rows are read once, in chunks. An arm's first edit is made on what was read; rows where it changes nothing, and no later
edit of the arm lies, keep the logits that they have. All other rows are *copies* that are read again
(`cadmus.models.partial`) from the block of the first edit and the first position that changes. Copies of all arms that
begin at the same block run side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cadmus.models import partial
from cadmus.models.model import Model
from probes.interventions.editing.application import Changes, Task, differ, fit_keys, flat, hooks, task
from probes.interventions.editing.edits import Step

_CHUNK_BYTES = 2**27  # of activations that are kept at once
_PASS_TOKENS = 4096  # that run at once; a copy counts an eighth of the positions that it attends to at least
_ALIKE_TOKENS = 512  # from which on copies that begin and end alike run by themselves, which is faster
_PREPARED = 4  # passes' worth of copies that are prepared together

OnChunk = Callable[[list[int], slice, partial.Reading], None]
"""Told of each chunk of rows before any pass: the arms that follow, and what was read of the rows."""

OnPass = Callable[[partial.Suffixes, np.ndarray, np.ndarray, Tensor], None]
"""Told of each pass: the copies, the arm and the row of each (int64), and their logits [copy, d_vocab]."""


@torch.no_grad()
def run(
    model: Model,
    sequences: Tensor,
    plans: list[list[Step]],
    at: np.ndarray,
    changes: Changes,
    on_chunk: OnChunk,
    on_pass: OnPass,
    *,
    keeps: bool = False,
    edges_go_on: bool = False,
    max_copies: int = 2**20,
) -> None:
    """Run each arm (the steps of a plan, in the order of a pass) on each row.

    sequences int64 [row, pos] on the model's device; at int64 [row], the positions whose next token is wanted. Every
    row that no pass has a copy of is as it was read. keeps: keys and values of the copies are kept. edges_go_on: a row
    with edits of edges has a copy in any case. max_copies run at once.
    """
    splits_input = [any(step.location.splits_input for step in plan) for plan in plans]
    for is_split in (False, True):  # where it is, the sites of ln1 have another shape
        arms = [arm for arm, splits in enumerate(splits_input) if splits == is_split]
        if not arms:
            continue
        for chunk in _chunks(model, sequences.shape[1], len(sequences)):
            last = at[chunk]
            sites = {plans[arm][0].site for arm in arms if plans[arm]}
            tokens = sequences[chunk, : int(last.max()) + 1]
            reading = partial.read(model, tokens, torch.from_numpy(last).to(tokens.device), sites)
            on_chunk(arms, chunk, reading)
            work = _Chunk(model, plans, reading, chunk.start, last, changes, keeps, edges_go_on)
            for begin, group in _groups(plans, arms):
                for starts in work.prepare(group):
                    passes = _Passes(work, starts, begin)
                    for copies in passes.split(max_copies):
                        passes.run(copies, on_pass)


def _chunks(model: Model, n_positions: int, n_rows: int) -> Iterator[slice]:
    """Rows whose activations are kept at once."""
    cfg = model.cfg
    row_bytes = 4 * n_positions * cfg.n_layers * (2 * cfg.d_model + 3 * cfg.n_heads * cfg.d_head)
    step = max(1, _CHUNK_BYTES // row_bytes)
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def _groups(plans: list[list[Step]], arms: list[int]) -> list[tuple[tuple[int, str], list[int]]]:
    """Arms that can run side by side, with the block and entry where they begin; empty arms are left out."""
    groups: dict[tuple[int, str], list[int]] = {}
    for arm in arms:
        if plans[arm]:
            groups.setdefault(plans[arm][0].location.begin, []).append(arm)
    return list(groups.items())


# --- where copies begin ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Start:
    """An arm whose first step was made on what was read."""

    arm: int
    """Its number."""

    first: np.ndarray
    """int64 [row of the chunk]: the first position that is read again; beyond the last for rows that stay."""

    rows: np.ndarray
    """int64 [m]: of the activations that the first step changed, the row of the chunk."""

    positions: np.ndarray
    """int64 [m]: their positions."""

    values: Tensor
    """[m, ...]: what stands there afterwards."""


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Rows that have been read, and what is to be done with them."""

    model: Model
    """The model."""

    plans: list[list[Step]]
    """Of every arm."""

    reading: partial.Reading
    """What was read."""

    first_row: int
    """The number of the first row."""

    last: np.ndarray
    """int64 [row]: the positions whose next token is wanted."""

    changes: Changes
    """What is noted of the arms."""

    keeps: bool
    """Whether keys and values of copies are kept."""

    edges_go_on: bool
    """Whether a row with edits of edges has a copy in any case."""

    def prepare(self, arms: list[int]) -> Iterator[list[_Start]]:
        """The arms, prepared; so many at once that they fill some passes."""
        starts: list[_Start] = []
        n_tokens = 0
        for arm in arms:
            starts.append(self._start(arm))
            n_tokens += int((self.last + 1 - starts[-1].first).sum())
            if n_tokens >= _PREPARED * _PASS_TOKENS:
                yield starts
                starts, n_tokens = [], 0
        if n_tokens:
            yield starts

    def _start(self, arm: int) -> _Start:
        """Make an arm's first step on what was read."""
        step = self.plans[arm][0]
        rows, positions, columns = step.entries(self.first_row, self.last)
        local_rows = rows - self.first_row
        device = self.reading.tokens.device
        is_attention = step.location.is_attention
        base = self.reading.cache[step.site]
        slots = torch.from_numpy(local_rows * base.shape[2 if is_attention else 1] + positions).to(device)
        x = fit_keys(flat(base, is_attention).index_select(0, slots), step)
        values = step.apply(x, torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device))
        differs = differ(x, values)
        changed = differs.cpu().numpy()
        self.changes.mark(arm, rows, changed)
        first = self._first(arm, local_rows[changed], positions[changed])
        return _Start(arm, first, local_rows[changed], positions[changed], values[differs])

    def _first(self, arm: int, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """The first position of each row that is read again, given what the first step changed: int64 [row]."""
        first = self.last + 1
        np.minimum.at(first, rows, positions)
        for step in self.plans[arm][1:]:
            rows, positions, _ = step.entries(self.first_row, self.last)
            np.minimum.at(first, rows - self.first_row, positions)
        if self.edges_go_on:
            for step in self.plans[arm]:
                if step.edges is not None:
                    numbers = np.arange(len(self.last)) + self.first_row
                    has_edges = step.edges.edges.any(-1).any(-1).numpy()
                    first = np.where(has_edges[numbers % len(has_edges)], np.minimum(first, self.last), first)
        return first


# --- passes ----------------------------------------------------------------------------------------------------------


class _Passes:
    """The copies of some prepared arms that begin at the same block."""

    def __init__(self, chunk: _Chunk, starts: list[_Start], begin: tuple[int, str]) -> None:
        self.chunk = chunk
        self.starts = starts
        self.begin = begin
        self.last = chunk.last
        first = np.stack([start.first for start in starts])  # [start, row]
        self.which, self.rows = (first <= self.last).nonzero()  # int64 [copy]: the start and the row of each copy
        self.first = first[self.which, self.rows]
        order = np.lexsort((self.last[self.rows], self.first - self.last[self.rows]))  # the longest first
        self.which, self.rows, self.first = self.which[order], self.rows[order], self.first[order]
        self.prepared = _prepared(starts, chunk.plans)

    def split(self, max_copies: int) -> Iterator[slice]:
        """Copies that run together."""
        last = self.last[self.rows]
        costs = np.maximum(last + 1 - self.first, (last + 8) // 8)
        is_new_kind = np.diff(self.first * (last.max(initial=0) + 1) + last, prepend=0) != 0
        begin = total = 0
        for i, (cost, is_other) in enumerate(zip(costs.tolist(), is_new_kind.tolist(), strict=True)):
            is_full = total + cost > _PASS_TOKENS or i - begin >= max_copies
            if i > begin and (is_full or (is_other and total >= _ALIKE_TOKENS)):
                yield slice(begin, i)
                begin, total = i, 0
            total += cost
        if begin < len(costs):
            yield slice(begin, len(costs))

    def run(self, copies: slice, on_pass: OnPass) -> None:
        """Run these copies."""
        which, rows = self.which[copies], self.rows[copies]
        chunk = self.chunk
        device = chunk.reading.tokens.device
        arrays = (rows, self.first[copies], self.last[rows])
        suffixes = partial.Suffixes(chunk.reading, *(torch.from_numpy(array).to(device) for array in arrays))
        suffixes.keeps = chunk.keeps
        copy_of = np.full((len(self.starts), len(self.last)), -1)  # [start, row]
        copy_of[which, rows] = np.arange(len(rows))
        tasks = self._first_tasks(copy_of, device) + self._later_tasks(copy_of, np.unique(which), device)
        with chunk.model.hooks(hooks(tasks, suffixes)):
            logits = partial.reread(chunk.model, suffixes, *self.begin)
        arms = np.array([start.arm for start in self.starts])[which]
        on_pass(suffixes, arms, rows + chunk.first_row, logits)

    def _first_tasks(self, copy_of: np.ndarray, device: torch.device) -> list[Task]:
        """What the first steps made, one task for each site."""
        tasks = []
        for step, which, rows, positions, values in self.prepared:
            copies = copy_of[which, rows]
            is_here = np.flatnonzero(copies >= 0)
            if len(is_here) < len(copies):
                values = values[torch.from_numpy(is_here).to(device)]
            if len(is_here):
                parts = (copies[is_here], rows[is_here], positions[is_here])
                numbers, of_rows, places = (torch.from_numpy(part).to(device) for part in parts)
                tasks.append(Task(step, numbers, of_rows, places, places, values=values))
        return tasks

    def _later_tasks(self, copy_of: np.ndarray, starts: np.ndarray, device: torch.device) -> list[Task]:
        """All steps of these arms but the first."""
        tasks: list[Task] = []
        first_row = self.chunk.first_row
        for number in starts:
            arm = self.starts[number].arm
            for step in self.chunk.plans[arm][1:]:
                rows, positions, columns = step.entries(first_row, self.last)
                copies = copy_of[number, rows - first_row]
                is_here = copies >= 0
                parts = [part[is_here] for part in (copies, rows, positions, columns)]
                tasks += task(step, arm, parts, device, self.chunk.changes)
        return tasks


_Prepared = tuple[Step, np.ndarray, np.ndarray, np.ndarray, Tensor]


def _prepared(starts: list[_Start], plans: list[list[Step]]) -> list[_Prepared]:
    """By site: a step there, and (start, row, position, value) of all that first steps changed there."""
    by_site: dict[str, list[int]] = {}
    for number, start in enumerate(starts):
        if len(start.rows):
            by_site.setdefault(plans[start.arm][0].site, []).append(number)
    return [
        (
            plans[starts[numbers[0]].arm][0],
            np.concatenate([np.full(len(starts[n].rows), n) for n in numbers]),
            np.concatenate([starts[n].rows for n in numbers]),
            np.concatenate([starts[n].positions for n in numbers]),
            torch.cat([starts[n].values for n in numbers]),
        )
        for numbers in by_site.values()
    ]
