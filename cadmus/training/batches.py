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

_USED = 0.6  # of what a stream draws at once, at most: the rest is not of the split train, or held out


class Batches(ABC):
    """The programs of every step of a run."""

    mixture: Mixture

    @abstractmethod
    def batch(self, step: int) -> np.ndarray:
        """The programs of step 0, 1, ...: uint8 [batch_size, width]."""

    @property
    @abstractmethod
    def about(self) -> dict[str, Any]:
        """What a record says of the data."""


class CorpusBatches(Batches):
    """A corpus, pass after pass, each in its own order; a phase of the mixture is read in its share of the steps."""

    def __init__(self, corpus: Corpus, batch_size: int, steps: int, seed: int):
        self.mixture, self.corpus, self.batch_size, self.seed = corpus.mixture, corpus, batch_size, seed
        self.ends = _phase_ends(corpus.mixture, steps)
        self._phase: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))  # and its programs
        self._pass: tuple[tuple[int, int], np.ndarray] = ((-1, -1), np.empty(0, np.int64))  # and its order

    def batch(self, step: int) -> np.ndarray:
        phase = min(int(np.searchsorted(self.ends, step, side="right")), len(self.ends) - 1)
        step -= int(self.ends[phase - 1]) if phase else 0
        inside = self._inside(phase)
        size = self.batch_size
        if size > len(inside):
            raise ValueError(f"batch_size = {size} is more than the corpus holds ({len(inside):,}); build a larger one")
        epoch, part = divmod(step, len(inside) // size)
        if self._pass[0] != (phase, epoch):
            order = generator("order", self.seed, phase, epoch).permutation(len(inside))
            self._pass = (phase, epoch), order if isinstance(inside, range) else inside[order]
        return self.corpus.programs(self._pass[1][part * size : (part + 1) * size])

    def _inside(self, phase: int) -> np.ndarray | range:
        """The programs of a phase, found once; a range where they are all, which takes no memory."""
        if len(self.ends) == 1:
            return range(len(self.corpus))
        if self._phase[0] != phase:
            inside = np.flatnonzero(self.corpus.phase == phase)
            if not len(inside):
                raise ValueError(
                    f"the corpus of {len(self.corpus):,} programs has none for phase {phase} of its mixture; "
                    "build a larger one"
                )
            self._phase = phase, inside
        return self._phase[1]

    @property
    def about(self) -> dict[str, Any]:
        return self.corpus.about


def _phase_ends(mixture: Mixture, steps: int) -> np.ndarray:
    """The step before which each phase of the mixture ends: int64 [phases]."""
    return np.round(np.cumsum([share for share, _ in mixture.parts]) * steps).astype(np.int64)


class StreamBatches(Batches):
    """Programs drawn as they are needed, never stored (`shards.stream_programs`); each draw serves several steps of one
    phase. Some programs come again by chance.

    `workers` processes draw ahead; 0 draws in this one. Use as a context manager, or call `close`.
    """

    def __init__(self, mixture: Mixture, batch_size: int, steps: int, seed: int, workers: int = 0):
        if batch_size > _USED * STREAM_DRAWS:
            raise ValueError(f"batch_size = {batch_size} is above {int(_USED * STREAM_DRAWS)}, what a stream holds")
        self.mixture, self.batch_size, self.seed, self.workers = mixture, batch_size, seed, workers
        self.per_draw = int(_USED * STREAM_DRAWS) // batch_size  # steps
        self.ends = _phase_ends(mixture, steps)
        draws = -(-np.diff(self.ends, prepend=0) // self.per_draw)  # of each phase
        self.draw_ends = np.cumsum(draws)
        self._stream = self._from(0)
        self._drawn: tuple[int, np.ndarray] = (-1, np.empty((0, 1), np.uint8))

    def batch(self, step: int) -> np.ndarray:
        phase = min(int(np.searchsorted(self.ends, step, side="right")), len(self.ends) - 1)
        draw, part = divmod(step - (int(self.ends[phase - 1]) if phase else 0), self.per_draw)
        draw += int(self.draw_ends[phase - 1]) if phase else 0
        if self._drawn[0] != draw:
            if draw != self._drawn[0] + 1:  # a run that goes on, or a step out of order
                self.close()
                self._stream = self._from(draw)
            self._drawn = draw, next(self._stream)[0]
        programs = self._drawn[1]
        return programs[np.arange(part * self.batch_size, (part + 1) * self.batch_size) % len(programs)]

    def _from(self, draw: int) -> Generator[tuple[np.ndarray, np.ndarray]]:
        """The draws from number `draw` on, phase after phase."""
        for (_, part), end in zip(self.mixture.parts, self.draw_ends.tolist(), strict=True):
            if draw < end:
                yield from stream_programs(part, self.seed, start=draw, batches=end, workers=self.workers)
                draw = end

    def close(self) -> None:
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
