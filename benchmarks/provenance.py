"""The provenance of programs, compiled against the plain version."""

from __future__ import annotations

import numpy as np

from benchmarks.measure import Measurement, benchmark, best_time
from cadmus.machine import tokens
from cadmus.programs import mixture
from cadmus.states.provenance import provenance
from cadmus.states.provenance_plain import provenance_of
from probes.data.examples import draw

PLAIN = 2_000  # programs that the plain version follows
COMPILED = 100_000  # programs that the compiled one follows


@benchmark("provenance")
def provenance_of_programs() -> list[Measurement]:
    """The data-flow graphs and roles of 100,000 programs (<= 5 s), against the plain version."""
    programs = draw(mixture.load("default"), 20_000).programs
    texts = tokens.decode(programs[:PLAIN])
    programs = np.resize(programs, (COMPILED, programs.shape[1]))
    provenance(programs[:1])  # compiled before it is timed
    plain = PLAIN / best_time(lambda: [provenance_of(text) for text in texts])
    rows = []
    for threads, label in ((None, "all cores"), (1, "one core")):
        seconds = best_time(lambda threads=threads: provenance(programs, threads=threads))
        ours, passed = COMPILED / seconds, seconds <= 5 or threads == 1
        goal = "<= 5 s" if threads is None else "-"
        note = f"{label}: {COMPILED:,} programs of the default mixture in {seconds:.1f} s; peer: our plain version"
        rows.append(Measurement(f"provenance, {label}", ours, plain, ours / plain, goal, "programs/s", passed, note))
    return rows
