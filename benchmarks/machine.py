"""The compiled machine against the plain one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable

import numpy as np

from benchmarks.measure import Measurement, benchmark, best_time
from cadmus.machine import kernel, tokens, vm
from cadmus.programs.families import Compare, Register

PLAIN = 4_000  # programs that the plain machine runs
COMPILED = 400_000  # programs that the compiled one runs


def integer_programs(n: int) -> np.ndarray:
    """Half `compare`, half `register` programs."""
    rng = np.random.default_rng(0)
    parts = [Compare().generate(n // 2, rng), Register().generate(n - n // 2, rng)]
    out = np.full((n, max(part.shape[1] for part in parts)), tokens.PAD, np.uint8)
    for part, rows in zip(parts, (slice(0, n // 2), slice(n // 2, n)), strict=True):
        out[rows, : part.shape[1]] = part
    return rng.permutation(out)


def sequence_programs(n: int) -> np.ndarray:
    """Sequences of six digits, then sorting, sums, selection, mapping and element-wise arithmetic."""
    templates = [
        "({d},{d},{d},{d},{d},{d},ORPS{d}>",
        "{{{d}>}}({d},{d},{d},{d},{d},{d},W#{d}<",
        "{{{d}+{d}*}}({d},{d},{d},{d},{d},{d},MX{d}>",
        "({d},{d},{d},{d},{d},{d},{d}+({d},{d},{d},{d},{d},{d},*TS{d}>",
        "({d},{d},{d},({d},{d},{d},Q{d}'\"S{d}={d}rI",
    ]
    rng = np.random.default_rng(0)
    texts = []
    for i in range(n):
        template = templates[i % len(templates)]
        digits = iter(rng.integers(0, 10, template.count("{d}")))
        text = template.replace("{{", "\0").replace("}}", "\1")
        while "{d}" in text:
            text = text.replace("{d}", str(next(digits)), 1)
        texts.append(text.replace("\0", "{").replace("\1", "}"))
    return tokens.encode(texts)


def verdicts(name: str, draw: Callable[[int], np.ndarray], target: float) -> list[Measurement]:
    """Programs a second of both machines; the compiled one must be `target` times as fast on all cores."""
    plain_programs, compiled_programs = draw(PLAIN), draw(20_000)
    compiled_programs = np.resize(compiled_programs, (COMPILED, compiled_programs.shape[1]))
    texts = [text.rstrip(".") for text in tokens.decode(plain_programs)]
    kernel.verdicts(plain_programs)  # compiled before it is timed
    expected = np.array([vm.verdict(text) for text in texts])
    assert (kernel.verdicts(plain_programs) == expected).all(), "the two machines disagree"
    executed = instructions(plain_programs)
    plain = PLAIN / best_time(lambda: [vm.verdict(text) for text in texts])
    rows = []
    for threads, label in ((None, "all cores"), (1, "one core")):
        ours = COMPILED / best_time(lambda threads=threads: kernel.verdicts(compiled_programs, threads=threads))
        note = f"{label}: {ours * executed / 1e6:.0f} M instructions/s; plain {plain * executed / 1e6:.2f} M"
        passed = ours / plain >= target or threads == 1
        goal = f">= {target:.0f} x" if threads is None else "-"
        rows.append(Measurement(f"{name}, {label}", ours, plain, ours / plain, goal, "programs/s", passed, note))
    return rows


def instructions(programs: np.ndarray) -> float:
    """Executed instructions per program."""
    return float((vm.FUEL - kernel.traces(programs).fuel[:, -1]).mean())


@benchmark("verdicts-integer")
def verdicts_integer() -> list[Measurement]:
    """Verdicts of integer programs, compiled against the plain machine (>= 100 x)."""
    return verdicts("verdicts-integer", integer_programs, 100)


@benchmark("verdicts-sequence")
def verdicts_sequence() -> list[Measurement]:
    """Verdicts of sequence programs, compiled against the plain machine (>= 30 x)."""
    return verdicts("verdicts-sequence", sequence_programs, 30)


@benchmark("traces")
def traces() -> list[Measurement]:
    """Traces of one million positions (<= 2 s), against the states of the plain machine."""
    rows = []
    for kind, draw, contents in (("integer", integer_programs, False), ("sequence", sequence_programs, True)):
        programs = draw(20_000)
        programs = np.resize(programs, (-(-1_000_000 // programs.shape[1]), programs.shape[1]))
        texts = tokens.decode(programs[:1000])
        kernel.traces(programs[:10], contents=contents)
        ours = best_time(lambda p=programs, c=contents: kernel.traces(p, contents=c)) * 1e6 / programs.size
        plain = best_time(lambda t=texts: [vm.run(text) for text in t]) * 1e6 / sum(map(len, texts))
        note = "one million positions, 4 stack entries and 4 registers" + (", sequence contents" if contents else "")
        rows.append(Measurement(f"traces, {kind}", ours, plain, plain / ours, "<= 2 s", "s per 1 M", ours <= 2, note))
    return rows


@benchmark("first-call")
def first_call() -> list[Measurement]:
    """Compilation: the first verdict and trace in a fresh cache (<= 15 s), against the next process."""
    program = (
        "import time; start = time.perf_counter(); from cadmus.machine import kernel, tokens;"
        "p = tokens.encode(['34+7=.']); kernel.verdicts(p); kernel.traces(p, contents=True);"
        "print(time.perf_counter() - start)"
    )
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        seconds = [
            float(
                subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True).stdout
            )
            for _ in range(2)
        ]
    first, cached = seconds
    note = "imports, compilation, one verdict and one trace; peer: the same from the cache"
    return [Measurement("first-call", first, cached, cached / first, "<= 15 s", "s", first <= 15, note)]
