"""What copies of rows write behind their prompts: passes are gathered, so that many copies write side by side.

A pass over suffixes is fast where its copies are alike, and few; writing on, a token at a time, is fast where they are
many. So the keys and values of several passes go into one cache before anything is written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cadmus.machine import tokens as machine_tokens
from cadmus.models import generation, partial
from cadmus.models.key_value_cache import KeyValueCache
from probes.interventions.editing import application, partial_passes
from probes.interventions.editing.edits import Step

_MAX_CONTINUED = 256  # copies whose keys and values are kept at once


class _Continuations:
    """Copies that have been read, and what they write on."""

    def __init__(
        self,
        model: Any,
        tokens: Tensor,
        plans: list[list[Step]],
        last: np.ndarray,
        changes: application.Changes,
        new: int,
        in_generation: bool,
        stops: Tensor | None,
    ) -> None:
        self.model, self.tokens, self.plans, self.last, self.changes = model, tokens, plans, last, changes
        self.new, self.in_generation, self.stops = new, in_generation, stops
        self.width = int(last.max()) + 1 + new
        self.out = np.full((len(plans), len(tokens), self.width), machine_tokens.PAD, np.uint8)
        prompts = tokens[:, : self.width].cpu().numpy()
        in_prompt = np.arange(prompts.shape[1]) <= last[:, None]
        self.out[:, :, : prompts.shape[1]] = np.where(in_prompt, prompts, machine_tokens.PAD)
        """The prompts, and what is written behind them: [arm, row, pos + new]."""
        self.is_done = np.zeros(self.out.shape[:2], bool)
        """Which arms and rows have been written on: bool [arm, row]."""
        self._capacity = min(_MAX_CONTINUED, len(plans) * len(tokens))
        self._cache: KeyValueCache | None = None
        self._parts: list[tuple[np.ndarray, np.ndarray, Tensor]] = []  # arms, rows and logits of each pass
        self._n = 0

    def add(self, suffixes: partial.Suffixes, arms: np.ndarray, rows: np.ndarray, logits: Tensor) -> None:
        """Take the copies of a pass, no more than are kept at once; arms, rows int64 [copy], logits [copy, d_vocab]."""
        if self._n + len(rows) > self._capacity:
            self.write()
        if self._cache is None:
            self._cache = KeyValueCache(self._capacity, self.width, self.tokens.device)
        partial.remember(suffixes, self.model, self._cache, slice(self._n, self._n + len(rows)))
        self._parts.append((arms, rows, logits))
        self._n += len(rows)

    def write(self) -> None:
        """Write on from all copies that wait."""
        if self._cache is None:
            return
        arms, rows = (np.concatenate([part[number] for part in self._parts]) for number in (0, 1))
        logits = torch.cat([part[2] for part in self._parts])
        kv_cache, self._cache, self._parts, self._n = self._cache, None, [], 0
        kv_cache.keep(slice(0, len(rows)))
        forward = self._edge_forward(arms, rows) if self.in_generation else self.model
        self._generate(rows, (arms, rows), generation.Beginning(kv_cache, logits, forward))

    def write_unchanged(self) -> None:
        """Write on from the rows that some arm has left as they are, once for all arms."""
        rows = np.flatnonzero(~self.is_done.all(0))
        if not len(rows):
            return
        is_left = ~self.is_done[:, rows]
        arms, index = is_left.nonzero()
        self._generate(rows, (arms, rows[index]), None, index)

    def _generate(
        self,
        rows: np.ndarray,
        places: tuple[np.ndarray, np.ndarray],
        beginning: generation.Beginning | None,
        index: np.ndarray | slice = slice(None),
    ) -> None:
        """Write on from rows; what number index[i] writes goes to the arm and row of places."""
        lengths = torch.from_numpy(self.last[rows] + 1)
        whole = generation.generate(
            self.model, self.tokens[rows], lengths, self.new, beginning=beginning, stops=self.stops
        )
        self.out[(*places, slice(0, whole.shape[1]))] = whole.cpu().numpy()[index]
        self.is_done[places] = True

    def _edge_forward(self, arms: np.ndarray, rows: np.ndarray) -> Any:
        """`forward` of a `generation.Beginning` in which the arms' edits of edges hold for every query."""

        def forward(newest: Tensor, kv_cache: KeyValueCache) -> Tensor:
            copies = kv_cache.originals.cpu().numpy()  # of each row of the pass
            tasks = []
            for arm in np.unique(arms[copies]):
                here = np.flatnonzero(arms[copies] == arm)
                for step in self.plans[arm]:
                    if step.edges is not None:
                        parts = [here, rows[copies[here]], np.zeros_like(here), np.zeros_like(here)]
                        tasks += application.task(step.in_generation(), int(arm), parts, newest.device, self.changes)
            with self.model.hooks(application.hooks(tasks, application.Batch(len(newest)))):
                return self.model(newest, kv_cache=kv_cache)

        return forward


def complete_partially(
    model: Any,
    tokens: Tensor,
    plans: list[list[Step]],
    last: np.ndarray,
    changes: application.Changes,
    new: int,
    in_generation: bool,
    stops: np.ndarray,
    first: Tensor,
    only_changed: bool = False,
) -> np.ndarray:
    """uint8 [arm, row, pos + new]: the prompts, read partially, and what is written behind them.

    tokens int64 [row, pos]; plans: of each arm; last int64 [row]: the prompts' last positions; in_generation: edits of
    edges hold for what is written; stops int64: tokens that end a text; first: [arm, row, d_vocab], filled with the
    first token's logits; only_changed: rows that an arm leaves as they are stay prompts.
    """
    stop_tokens = torch.from_numpy(stops).to(tokens.device) if len(stops) else None
    waiting = _Continuations(model, tokens, plans, last, changes, new, in_generation, stop_tokens)

    def on_pass(suffixes: partial.Suffixes, arms: np.ndarray, rows: np.ndarray, logits: Tensor) -> None:
        first[arms, rows] = logits.float()
        waiting.add(suffixes, arms, rows, logits)

    def on_chunk(arms: list[int], rows: slice, reading: partial.Reading) -> None:
        first[arms, rows] = reading.logits.float()

    partial_passes.run(
        model,
        tokens,
        plans,
        last,
        changes,
        on_chunk,
        on_pass,
        keeps=True,
        edges_go_on=in_generation,
        max_copies=_MAX_CONTINUED,
    )
    waiting.write()
    if not only_changed:
        waiting.write_unchanged()
    return waiting.out
