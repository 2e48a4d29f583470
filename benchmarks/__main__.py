"""`python -m benchmarks` lists the benchmarks; `python -m benchmarks NAME [--json]` runs one, `all` all quick ones."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

import numpy as np
import torch

from benchmarks import (  # noqa: F401  (register their benchmarks)
    bank,
    corpora,
    generation,
    harvesting,
    interventions,
    machine,
    oracle,
    probing,
    provenance,
    training,
)
from benchmarks.measure import BENCHMARKS, SLOW, Measurement
from cadmus.runtime import devices


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=[*BENCHMARKS, "all"], help="the benchmark to run; none lists them")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    arguments = parser.parse_args()
    if arguments.name is None:
        for name, function in BENCHMARKS.items():
            print(f"{name:<20} {function.__doc__.splitlines()[0]}")
        return 0
    this_machine = (
        f"{devices.name(torch.device('cpu'))}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"
    )
    names = [name for name in BENCHMARKS if name not in SLOW] if arguments.name == "all" else [arguments.name]
    measurements = [row for name in names for row in BENCHMARKS[name]()]
    if arguments.json:
        for row in measurements:
            print(json.dumps({**asdict(row), "machine": this_machine}, default=np.generic.item))
    else:
        print(this_machine)
        _table(measurements)
    return 0 if all(row.passed for row in measurements) else 1


def _table(measurements: list[Measurement]) -> None:
    cells = [("name", "ours", "peer", "ratio", "target", "unit", "passed", "note")]
    for m in measurements:
        numbers = (_number(m.ours), _number(m.peer), f"{m.ratio:.3g} x")
        cells.append((m.name, *numbers, m.target, m.unit, "yes" if m.passed else "NO", m.note))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
