"""What a benchmark reports, how it is timed, and the register of all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Measurement:
    """One line of the table of benchmarks."""

    name: str
    """What was measured."""

    ours: float
    """Our figure, in `unit`."""

    peer: float
    """The peer's figure, in `unit`."""

    ratio: float
    """How many times better ours is than the peer's."""

    target: str
    """What is aimed at, as a person reads it."""

    unit: str
    """Of both figures."""

    passed: bool
    """Whether the target is reached."""

    note: str
    """What it was measured on, and against whom."""


Benchmark = Callable[[], list[Measurement]]
BENCHMARKS: dict[str, Benchmark] = {}
SLOW: set[str] = set()  # names that `all` leaves out


def benchmark(name: str, *, slow: bool = False) -> Callable[[Benchmark], Benchmark]:
    """Register a benchmark under `name`; its docstring's first line is what the list shows."""

    def register(function: Benchmark) -> Benchmark:
        BENCHMARKS[name] = function
        if slow:
            SLOW.add(name)
        return function

    return register


def best_time(function: Callable[[], object], repeats: int = 3) -> float:
    """Seconds of the fastest of `repeats` calls: the one that the rest of the machine disturbed least."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)
