"""Families that draw a program's structure first, then its digits; how many structures, and how unevenly they occur."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from functools import lru_cache

import numpy as np

from cadmus.machine import kernel, tokens
from cadmus.programs.parts.family import Family, check_zipf

_MAX_TRIES = 40  # fillings of a program's first structure
_MAX_TRIES_AGAIN = 8  # fillings of each structure that takes its place
_MAX_ROUNDS = 2000  # of redrawing, where next to nothing comes out right
_POOL_ROUNDS = 20  # of drawing structures to choose from


class Structured(Family):
    """A family that draws a program in two steps: its structure (every token but the digits), then its digits.

    The two knobs hold the number of structures, so of skeletons, and how unevenly they occur. A filling that comes out
    wrong is drawn again for the same structure, so that structures keep their shares.
    """

    skeletons: int
    zipf: float

    @abstractmethod
    def structures(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw `n` structures, an array [n, ...]."""

    @abstractmethod
    def fill(self, structures: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw a program for each structure, uint8 [n, width], and say which of them are valid, bool [n]."""

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        structures = self._sample_structures(n, rng)
        out = np.full((n, self.width), tokens.PAD, np.uint8)
        open_rows = np.arange(n)
        for attempt in range(1, _MAX_ROUNDS + 1):
            if not len(open_rows):
                return out
            programs, valid = self.fill(structures[open_rows], rng)
            out[open_rows[valid]] = programs[valid]
            open_rows = open_rows[~valid]
            give_up = attempt >= _MAX_TRIES and attempt % _MAX_TRIES_AGAIN == 0
            if give_up and len(open_rows):  # these structures have few programs, or none
                structures[open_rows] = self._sample_structures(len(open_rows), rng)
        if not len(open_rows):
            return out
        raise ValueError(
            f"{self.name}: {len(open_rows)} of {n} programs were not found in {_MAX_ROUNDS} tries; most structures "
            "that these knobs ask for have none: widen low and high, or ask for fewer steps, stores or assertions"
        )

    def _sample_structures(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw `n` structures, from the pool where their number is limited."""
        if not self.skeletons:
            return self.structures(n, rng)
        structures, weights = _skeleton_pool(self)
        return structures[rng.choice(len(structures), n, p=weights)]


@lru_cache(maxsize=32)
def _skeleton_pool(family: Structured) -> tuple[np.ndarray, np.ndarray]:
    """`family.skeletons` structures that have a program, in the order that zipf counts, and their weights (sum 1).

    They are the first different ones that a fixed generator draws, so common ones are likelier among them. A structure
    of share p is among those of m draws with probability 1 - (1 - p)^m; weighed by p over that, those of the pool stand
    for all (Horvitz & Thompson 1952), and programs are on average as they are without the limit.

    Raises ValueError where the other knobs give fewer structures.
    """
    rng = np.random.default_rng(0)
    pool: dict[bytes, np.ndarray] = {}
    counts: Counter[bytes] = Counter()
    n_rounds = n_rounds_without_new = 0
    n_draws = n_draws_for_pool = 0
    while len(pool) < family.skeletons or n_rounds < _POOL_ROUNDS:
        structures = family.structures(max(256, 2 * family.skeletons), rng)
        size_before = len(pool)
        for structure in structures[_have_a_program(family, structures, rng)]:
            n_draws += 1
            counts[structure.tobytes()] += 1
            if len(pool) < family.skeletons:
                pool.setdefault(structure.tobytes(), structure)
                n_draws_for_pool = n_draws
        n_rounds += 1
        n_rounds_without_new = n_rounds_without_new + 1 if len(pool) == size_before else 0
        if n_rounds_without_new == _POOL_ROUNDS and len(pool) < family.skeletons:
            raise ValueError(
                f"{family.name}: skeletons = {family.skeletons} are asked for, but these knobs give about "
                f"{len(pool)}; ask for fewer or widen the other knobs"
            )
    structures = np.stack(list(pool.values()))
    shares = np.array([counts[key] for key in pool]) / n_draws
    weights = shares / (1 - (1 - shares) ** n_draws_for_pool)
    order = _mix_lengths(tokens.lengths(family.fill(structures, rng)[0]), weights)
    weights = weights[order] * np.arange(1.0, len(order) + 1) ** -family.zipf
    return structures[order], weights / weights.sum()


def _mix_lengths(lengths: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """An order in which the first few, however many, are as long as all on average: by length, in the order of the van
    der Corput sequence (the half, the quarters, the eighths, ...)."""
    by_length = np.argsort(lengths, kind="stable")
    middles = (np.cumsum(weights[by_length]) - weights[by_length] / 2) / weights.sum()
    order = []
    penalty = np.zeros(len(lengths))  # infinite for what is in the order already
    for k in range(1, len(lengths) + 1):
        point = int(f"{k:b}"[::-1], 2) / (1 << k.bit_length())
        nearest = int(np.argmin(np.abs(middles - point) + penalty))
        penalty[nearest] = np.inf
        order.append(by_length[nearest])
    return np.array(order)


def _have_a_program(family: Structured, structures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which structures have a program, found in a few tries: bool [n]."""
    has_program = np.zeros(len(structures), np.bool_)
    for _ in range(_MAX_TRIES_AGAIN):
        open_rows = np.flatnonzero(~has_program)
        has_program[open_rows] = family.fill(structures[open_rows], rng)[1]
    return has_program


def check_structures(family: Structured) -> None:
    """Raise ValueError unless the knobs skeletons, zipf and digit_skew make sense together."""
    check_zipf(family)
    if family.zipf and not family.skeletons:
        raise ValueError(f"{family.name}: zipf = {family.zipf} weighs a number of skeletons; set skeletons too")


def tops_within(programs: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """What lies on top at the end of each program: whether it is an Int in [low, high], bool [n], and its value clipped
    to that range, int64 [n]."""
    top = kernel.tops(programs)
    within = (top.kind == kernel.INT_KIND) & (top.value >= low) & (top.value <= high)
    return within, top.value.astype(np.int64).clip(low, high)
