"""Completion accuracy, decided by the machine: is the completed program true, and has it its family's form?"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy.stats import binomtest

from cadmus import kernel, tokens
from cadmus.corpus import held_out
from cadmus.families import Family
from cadmus.mixture import Mixture
from cadmus.model import Model

_BATCH = 1024  # prompts completed at once


@dataclass(frozen=True)
class Accuracy:
    """One row of the completion table. Intervals are 95 % (Wilson); `n` prompts, one per decision position.

    accuracy: true and of the family's form; true_rate: true at all; canonical: begins with the family's own answer.
    """

    family: str
    split: str
    accuracy: float
    low: float
    high: float
    true_rate: float
    canonical: float
    n: int
    seed: int

    def to_dict(self) -> dict:
        return asdict(self)


def evaluate(
    model: Model,
    mixture: Mixture,
    *,
    splits: tuple[str, ...] = ("test", "test_skeleton"),
    programs: int = 1000,
    seed: int = 0,
) -> list[Accuracy]:
    """Greedy completion accuracy per family and split, on `programs` freshly drawn held-out programs each."""
    rows = []
    for family in mixture.families:
        for split in splits:
            texts = tokens.decode(held_out(family, split, programs, seed, mixture.hold_out))
            rows.append(score(model, family, split, texts, seed))
    return rows


def score(model: Model, family: Family, split: str, texts: list[str], seed: int) -> Accuracy:
    """Completion accuracy over every decision position of `texts`."""
    prompts = [(text, cut) for text in texts for cut in family.decisions(text)]
    completed = complete(model, [text[:cut] for text, cut in prompts])
    true = kernel.verdicts(tokens.encode(completed))
    formed = np.array([text.endswith(".") and family.accepts(text) for text in completed])
    canonical = [
        done.startswith(text[:cut] + (family.answer(text, cut) or ""))
        for (text, cut), done in zip(prompts, completed, strict=True)
    ]
    right = true & formed
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return Accuracy(
        family=family.name,
        split=split,
        accuracy=float(right.mean()),
        low=float(interval.low),
        high=float(interval.high),
        true_rate=float(true.mean()),
        canonical=float(np.mean(canonical)),
        n=len(prompts),
        seed=seed,
    )


def complete(model: Model, prefixes: list[str], max_new_tokens: int | None = None) -> list[str]:
    """Each prefix with the model's greedy completion, through its `.` where it writes one.

    `max_new_tokens` defaults to what the model's context leaves room for behind the longest prefix.
    """
    done = []
    for start in range(0, len(prefixes), _BATCH):
        batch = prefixes[start : start + _BATCH]
        prompts = tokens.encode(["." + prefix for prefix in batch])
        lengths = torch.tensor([len(prefix) + 1 for prefix in batch])
        room = model.cfg.n_ctx - int(lengths.max())
        new = max_new_tokens or room
        out = model.generate(torch.from_numpy(prompts), lengths, new).cpu().numpy().astype(np.uint8)
        # behind what a row was allowed to write there is only padding, which must not pass for its own `.`
        done += [tokens.decode(row[None, 1 : len(prefix) + 1 + new])[0] for row, prefix in zip(out, batch, strict=True)]
    return done
