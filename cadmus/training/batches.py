"""What each training step reads: programs as a pure function of the step, so that a run goes on anywhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np

from cadmus.corpora.corpus import Corpus
from cadmus.corpora.shards import STREAM_DRAWS, stream_programs
from cadmus.programs.mixture import Mixture
from cadmus.runtime.seeds import generator

_USABLE = 0.6  # of what a stream draws at once, at most: the rest is not of the split train, or held out


class Batches(ABC):
    """The programs of every step of a run."""

    mixture: Mixture
    """What they are drawn from."""

    @abstractmethod
    def batch(self, step: int) -> np.ndarray:
        """The programs of step 0, 1, ...: uint8 [batch_size, width]."""

    @property
    @abstractmethod
    def about(self) -> dict[str, Any]:
        """What a record says of the data: fingerprint, seed, programs."""


class CorpusBatches(Batches):
    """A corpus, pass after pass, each in its own order; a phase of the mixture is read in its share of the steps."""

    def __init__(self, corpus: Corpus, batch_size: int, steps: int, seed: int):
        self.mixture = corpus.mixture
        self.corpus = corpus
        self.batch_size = batch_size
        self.seed = seed
        self.phase_ends = _phase_ends(corpus.mixture, steps)
        self._phase = -1  # the phase whose programs are in `_phase_programs`
        self._phase_programs: np.ndarray | range = range(0)
        self._pass = (-1, -1)  # phase and epoch of the order in `_order`
        self._order = np.empty(0, np.int64)

    def batch(self, step: int) -> np.ndarray:
        """The programs of a step; ValueError where the corpus holds too few."""
        phase, phase_start = _phase_of(step, self.phase_ends)
        n = len(self._programs_of(phase))
        size = self.batch_size
        if size > n:
            raise ValueError(f"batch_size = {size} is more than the corpus holds ({n:,}); build a larger one")
        epoch, part = divmod(step - phase_start, n // size)
        order = self._order_of(phase, epoch)
        return self.corpus.programs(order[part * size : (part + 1) * size])

    def _order_of(self, phase: int, epoch: int) -> np.ndarray:
        """The programs of a phase in the order of a pass over them: int64 [n], rows of the corpus."""
        if self._pass != (phase, epoch):
            programs = self._programs_of(phase)
            order = generator("order", self.seed, phase, epoch).permutation(len(programs))
            self._order = order if isinstance(programs, range) else programs[order]
            self._pass = phase, epoch
        return self._order

    def _programs_of(self, phase: int) -> np.ndarray | range:
        """The programs of a phase, rows of the corpus; a range where they are all, which takes no memory."""
        if len(self.phase_ends) == 1:
            return range(len(self.corpus))
        if self._phase != phase:
            programs = np.flatnonzero(self.corpus.phase == phase)
            if not len(programs):
                raise ValueError(
                    f"the corpus of {len(self.corpus):,} programs has none for phase {phase} of its mixture; "
                    "build a larger one"
                )
            self._phase_programs = programs
            self._phase = phase
        return self._phase_programs

    @property
    def about(self) -> dict[str, Any]:
        return self.corpus.about


def _phase_ends(mixture: Mixture, steps: int) -> np.ndarray:
    """The step before which each phase of the mixture ends: int64 [phases]."""
    return np.round(np.cumsum([share for share, _ in mixture.parts]) * steps).astype(np.int64)


def _phase_of(step: int, phase_ends: np.ndarray) -> tuple[int, int]:
    """(the phase of a step, its first step); beyond the end the last phase goes on."""
    phase = min(int(np.searchsorted(phase_ends, step, side="right")), len(phase_ends) - 1)
    return phase, int(phase_ends[phase - 1]) if phase else 0


class StreamBatches(Batches):
    """Programs drawn as they are needed, never stored (`shards.stream_programs`); each draw serves several steps of one
    phase. Some programs come again by chance.

    `workers` processes draw ahead; 0 draws in this one. Use as a context manager, or call `close`.
    """

    def __init__(self, mixture: Mixture, batch_size: int, steps: int, seed: int, workers: int = 0):
        if batch_size > _USABLE * STREAM_DRAWS:
            raise ValueError(f"batch_size = {batch_size} is above {int(_USABLE * STREAM_DRAWS)}, what a stream holds")
        self.mixture = mixture
        self.batch_size = batch_size
        self.seed = seed
        self.workers = workers
        self.per_draw = int(_USABLE * STREAM_DRAWS) // batch_size  # steps
        self.phase_ends = _phase_ends(mixture, steps)
        draws = -(-np.diff(self.phase_ends, prepend=0) // self.per_draw)  # of each phase
        self.draw_ends = np.cumsum(draws)
        self._stream = self._from(0)
        self._draw = -1  # the number of the draw in `_programs`
        self._programs = np.empty((0, 1), np.uint8)

    def batch(self, step: int) -> np.ndarray:
        phase, phase_start = _phase_of(step, self.phase_ends)
        draw, part = divmod(step - phase_start, self.per_draw)
        draw += int(self.draw_ends[phase - 1]) if phase else 0
        if self._draw != draw:
            if draw != self._draw + 1:  # a run that goes on, or a step out of order
                self.close()
                self._stream = self._from(draw)
            self._programs = next(self._stream)[0]
            self._draw = draw
        rows = np.arange(part * self.batch_size, (part + 1) * self.batch_size) % len(self._programs)
        return self._programs[rows]

    def _from(self, draw: int) -> Generator[tuple[np.ndarray, np.ndarray]]:
        """The draws from number `draw` on, phase after phase."""
        for (_, part), end in zip(self.mixture.parts, self.draw_ends.tolist(), strict=True):
            if draw < end:
                yield from stream_programs(part, self.seed, start=draw, batches=end, workers=self.workers)
                draw = end

    def close(self) -> None:
        """End the processes that draw ahead."""
        self._stream.close()

    @property
    def about(self) -> dict[str, Any]:
        return {"fingerprint": self.mixture.fingerprint, "seed": self.seed, "programs": "streamed"}


@contextmanager
def open_batches(
    source: Corpus | Mixture, batch_size: int, steps: int, seed: int, workers: int = 0
) -> Iterator[Batches]:
    """The batches of a corpus, or of a mixture that is streamed."""
    if isinstance(source, Corpus):
        yield CorpusBatches(source, batch_size, steps, seed)
        return
    with closing(StreamBatches(source, batch_size, steps, seed, workers)) as batches:
        yield batches
