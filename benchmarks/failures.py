"""`python -m benchmarks.failures FILE [MODEL ...]`: which held-out programs of `default` models complete, kind by kind.

The table that docs/training.md tells of the models that ship: benchmarks/failures.csv.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from cadmus.corpora import held_out
from cadmus.machine import kernel, tokens
from cadmus.programs.mixture import Mixture
from cadmus.programs.mixture import load as load_mixture
from cadmus.statistics.proportions import wilson
from cadmus.training import checkpoint
from cadmus.training.completion import complete

MODELS = ("cadmus-mini", "cadmus-mini-1")
PROGRAMS = 2_000  # of a family; one decision in each

Kind = Callable[[str, int], bool]
"""Whether a program, to be completed from this position on, is of the kind."""

KINDS: dict[str, dict[str, Kind]] = {
    "arith": {},
    "subroutine": {
        "a definition to find": lambda text, at: text[at] == "{",
        "a relation to find": lambda text, at: text[at] in "<>=",
        "the relation =": lambda text, at: text[at] == "=",
        "a call": lambda text, at: "ff" not in text,
        "a call of a call": lambda text, at: "ff" in text,
    },
    "sequence": {"counts up": lambda text, at: re.match(r"\dr", text) is not None},
    "sequence_advanced": {
        "no definition": lambda text, at: "{" not in text,
        "a definition first": lambda text, at: text.startswith("{"),
        "a definition last": lambda text, at: text.find("{") > 0,
        "W": lambda text, at: "W" in text,
        "M": lambda text, at: "M" in text,
        "O": lambda text, at: "O" in text,
        "P": lambda text, at: "P" in text,
        "18 tokens or more": lambda text, at: len(text) >= 18,
        "fewer than 18 tokens": lambda text, at: len(text) < 18,
    },
    "random": {f"after {k} tokens": lambda text, at, k=k: at == k for k in range(1, 5)},
}


def failures(model: str, mixture: Mixture, programs: int) -> pd.DataFrame:
    """A row per family of KINDS and kind (`all` first): model, family, programs, accuracy, low, high, true_rate, n."""
    trained = checkpoint.load(model)
    rows = []
    for name, kinds in KINDS.items():
        family = mixture.family(name)
        texts = tokens.decode(held_out.held_out(family, "test", programs, 0, mixture.hold_out))
        prompts = [(text, family.decisions(text)[0]) for text in texts]
        completed = complete(trained.model, [text[:at] for text, at in prompts])
        true = kernel.verdicts(tokens.encode(completed))
        correct = true & [text.endswith(".") and family.accepts(text) for text in completed]
        for kind, is_of_kind in {"all": lambda text, at: True, **kinds}.items():
            chosen = np.array([is_of_kind(text, at) for text, at in prompts])
            n, right = int(chosen.sum()), int(correct[chosen].sum())
            if not n:
                continue
            (low,), (high,) = wilson([right], [n])
            share, true_share = (float(values[chosen].mean()) for values in (correct, true))
            rows.append((model, name, kind, share, low, high, true_share, n))
    return pd.DataFrame(rows, columns=["model", "family", "programs", "accuracy", "low", "high", "true_rate", "n"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failures", description=__doc__)
    parser.add_argument("file", type=Path, help="the table, as CSV")
    parser.add_argument("models", nargs="*", default=list(MODELS), help="models that ship, or their folders")
    parser.add_argument("--programs", type=int, default=PROGRAMS, help="of a family")
    arguments = parser.parse_args()
    if not arguments.file.parent.is_dir():
        parser.error(f"there is no folder {arguments.file.parent} for {arguments.file.name}; make it first")
    mixture = load_mixture("default")
    tables = [failures(model, mixture, arguments.programs) for model in arguments.models]
    pd.concat(tables).round(4).to_csv(arguments.file, index=False)


if __name__ == "__main__":
    main()
