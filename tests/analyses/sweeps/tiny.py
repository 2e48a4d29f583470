"""A sweep of models that take seconds, as TOML tables and as files."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from analyses.sweeps.runs import Outcome, Task, work
from analyses.sweeps.sweep import Sweep
from analyses.sweeps.sweep_files import from_dict

ACCURACIES = [f"accuracy.{name}" for name in ("in_distribution", "base", "unseen_skeletons", "longer", "register")]
STATE = ["read.reg", "interchange.reg", "interchange.reg.stored", "mechanism.reg"]

TABLES: dict[str, Any] = {
    "name": "tiny",
    "seeds": [0, 1],
    "responses": ACCURACIES,
    "recipe": {
        "programs": 1500,
        "model": {"n_layers": 1, "d_model": 16, "n_heads": 1, "d_head": 16, "d_mlp": 32},
        "train": {"steps": 8, "batch_size": 16, "warmup_steps": 2, "precision": "fp32"},
    },
    "mixture": {
        "name": "registers",
        "family": [{"name": "register", "assertions": 2}],
        "out_of_distribution": [{"name": "longer", "family": "register", "min_stores": 6, "max_stores": 8}],
    },
    "measure": {"programs": 20, "pairs": 20, "probe_programs": 200, "property_programs": 60},
    "factor": [{"name": "skeletons", "levels": [40, 400]}],
    "pilot": {"accuracy": 0.0, "cell": {"skeletons": 400}},
    "hypothesis": [
        {
            "name": "diversity",
            "statement": "More skeletons help.",
            "response": "accuracy.unseen_skeletons",
            "predictor": "property.skeletons",
            "expected": "positive",
        }
    ],
}


def tables(**changes: Any) -> dict[str, Any]:
    """The tables with some of them replaced; None takes one out."""
    out = copy.deepcopy(TABLES) | changes
    return {key: value for key, value in out.items() if value is not None}


def tiny(**changes: Any) -> Sweep:
    """The sweep that `tables` describes."""
    return from_dict(tables(**changes))


def write(folder: Path, **changes: Any) -> Path:
    """The sweep as a TOML file in a folder."""
    path = folder / "tiny.toml"
    path.write_text(tomli_w.dumps(tables(**changes)), encoding="utf-8")
    return path


def serial(tasks: Sequence[Task]) -> Iterator[Outcome]:
    """An engine that works in this process."""
    for task in tasks:
        yield work(task)
