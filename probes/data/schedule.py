"""Which programs run when their activations are read: in which order, how far, in which batches and passes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cadmus.machine import tokens
from probes.data.token_map import ModelInputs

_MAX_PADDING = 0.05  # of the tokens of a pass


@dataclass(frozen=True)
class Schedule:
    """Which programs run, in which order, and how far. k programs have a requested position."""

    programs: np.ndarray
    """uint8 [n, width]"""

    where: np.ndarray | None
    """bool [n, 1 + width]: the requested positions; None for all tokens."""

    order: np.ndarray
    """int64 [k]: rows of `programs`, by increasing need."""

    needs: np.ndarray
    """int64 [k]: how many positions of each must run."""

    counts: np.ndarray
    """int64 [k]: how many positions of each are requested."""

    cuts: list[int]
    """The bounds of the batches within `order`."""

    inputs: ModelInputs | None = None
    """What a model that is not ours reads, whose positions `needs` counts."""

    @classmethod
    def of(
        cls, programs: np.ndarray, where: np.ndarray | None, rows_per_batch: int, inputs: ModelInputs | None = None
    ) -> Schedule:
        """Order the programs by need, and cut them into batches of at most `rows_per_batch` requested positions."""
        if where is not None and inputs is not None:
            counts = where.sum(1, dtype=np.int64)
            needs = inputs.needs(where)
        elif where is None:
            counts = np.minimum(tokens.lengths(programs) + 1, programs.shape[1])
            needs = counts + 1
        else:
            counts = where.sum(1, dtype=np.int64)
            needs = where.shape[1] - where[:, ::-1].argmax(1)
        order = np.argsort(needs, kind="stable")
        order = order[counts[order] > 0]
        needs, counts = needs[order], counts[order]
        totals = counts.cumsum()
        cuts = [0]
        while cuts[-1] < len(order):
            before = totals[cuts[-1] - 1] if cuts[-1] else 0
            fitting = int(np.searchsorted(totals, before + rows_per_batch, side="right"))
            cuts.append(max(cuts[-1] + 1, fitting))
        return cls(programs, where, order, needs, counts, cuts, inputs)

    def requested(self, begin: int, end: int) -> np.ndarray:
        """Which positions of some programs are requested: bool [end - begin, positions that must run]."""
        needs = self.needs[begin:end]
        if self.where is not None:
            width = self.where.shape[1] if self.inputs is not None else needs[-1]
            return self.where[self.order[begin:end], :width]
        mask = np.arange(needs[-1]) < needs[:, None]
        mask[:, 0] = False
        return mask

    def rows(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """The programs and the positions of a batch: int64 [rows] each."""
        rows, positions = np.nonzero(self.requested(begin, end))
        return self.order[begin:end][rows], positions

    def sequences(self, begin: int, end: int) -> np.ndarray:
        """The model's input: uint8 [end - begin, positions that must run]."""
        width = int(self.needs[end - 1])
        return tokens.sequences(self.programs[self.order[begin:end]])[:, :width]

    def passes(self, begin: int, end: int, size: int) -> Iterator[tuple[int, int]]:
        """The bounds of forward passes of at most `size` tokens, little of it padding."""
        while begin < end:
            needs = self.needs[begin : min(end, begin + max(1, size // int(self.needs[begin])))]
            padded = needs * np.arange(1, len(needs) + 1)  # tokens of a pass of the first 1, 2, ... of them
            fits = (padded <= size) & (padded - needs.cumsum() <= _MAX_PADDING * size)
            fitting = max(1, len(fits) if fits.all() else int(fits.argmin()))
            yield begin, begin + fitting
            begin += fitting
