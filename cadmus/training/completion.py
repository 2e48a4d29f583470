"""Completion accuracy, decided by the machine: is the completed program true, and does it have its family's form?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from cadmus.corpora import held_out
from cadmus.machine import kernel, tokens
from cadmus.models.generation import LogitsMask, generate
from cadmus.models.model import Model
from cadmus.programs.families import Family, Induce
from cadmus.programs.mixture import Mixture
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.seeds import generator
from cadmus.statistics.proportions import wilson

FRESH_INPUTS = 32  # sequences that an algorithm is tried on
_BATCH_SIZE = 1024  # prompts completed at once
_STAGE = "complete programs"  # of the progress


@dataclass(frozen=True)
class CompletionAccuracy:
    """One row of the completion table: a family on a split. Intervals are 95 % (Wilson)."""

    family: str
    """The family's name."""

    split: str
    """A split, or the name of an out-of-distribution set."""

    accuracy: float
    """Share of the completed programs that are true and of the family's form."""

    low: float
    """Lower end of the interval of `accuracy`."""

    high: float
    """Upper end of the interval of `accuracy`."""

    true_rate: float
    """Share of the completed programs that are true at all."""

    canonical: float
    """Share of the completions that begin with the family's own answer, among the prompts that have one; NaN where none
    has."""

    n: int
    """Prompts, one per decision position."""

    seed: int
    """Fixes the programs."""

    generalizes: float = math.nan
    """Where an algorithm is to be found (`induce`): how often the one that the model writes gives the hidden one's
    labels on 32 fresh inputs; NaN for other families."""

    too_long: int = 0
    """Programs left out because the model has too few positions for them."""

    def to_dict(self) -> dict:
        """The fields by name."""
        return asdict(self)


def evaluate(
    model: Model,
    mixture: Mixture,
    *,
    splits: Sequence[str] = ("test", "test_skeleton"),
    out_of_distribution: bool = True,
    programs: int = 1000,
    seed: int = 0,
    progress: Progress = no_progress,
) -> list[CompletionAccuracy]:
    """Measure greedy completion on freshly drawn held-out programs.

    Args:
        model: the model, in evaluation mode.
        mixture: whose families and out-of-distribution sets are completed.
        splits: the splits that each family is measured on.
        out_of_distribution: measure the out-of-distribution sets of the mixture too.
        programs: programs per row.
        seed: fixes the programs.
        progress: follows the stage "complete programs"; its note is the family or set that comes next.

    Returns:
        A row per family and split, in their order, then a row per out-of-distribution set.
    """
    splits = tokens.text_list(splits, "splits")
    tasks = [(family, split) for family in mixture.families for split in splits]
    ood_sets = mixture.out_of_distribution if out_of_distribution else ()
    n_rows = len(tasks) + len(ood_sets)
    rows: list[CompletionAccuracy] = []
    for family, split in tasks:
        progress(_STAGE, len(rows) / n_rows, f"{family.name}, {split}")
        texts = tokens.decode(held_out.held_out(family, split, programs, seed, mixture.hold_out))
        rows.append(score_family(model, family, split, texts, seed))
    for ood in ood_sets:
        progress(_STAGE, len(rows) / n_rows, ood.name)
        texts = tokens.decode(held_out.out_of_distribution(mixture, ood, programs, seed))
        fitting = [text for text in texts if len(text) < model.cfg.n_ctx]
        rows.append(score_family(model, ood.family, ood.name, fitting, seed, too_long=len(texts) - len(fitting)))
    progress(_STAGE, 1.0, "")
    return rows


def score_family(
    model: Model, family: Family, split: str, texts: list[str], seed: int, *, too_long: int = 0
) -> CompletionAccuracy:
    """Completion accuracy over every decision position of `texts`; NaN where there are none.

    split, seed, too_long: for the row.
    """
    texts = tokens.text_list(texts, "texts")
    if not texts:
        undefined = dict.fromkeys(("accuracy", "low", "high", "true_rate", "canonical"), math.nan)
        return CompletionAccuracy(family.name, split, **undefined, n=0, seed=seed, too_long=too_long)
    prompts = [(text, position) for text in texts for position in family.decisions(text)]
    completed = complete(model, [text[:position] for text, position in prompts])
    true = kernel.verdicts(tokens.encode(completed))
    has_form = np.array([text.endswith(".") and family.accepts(text) for text in completed])
    correct = true & has_form
    canonical = []
    for (text, position), completion in zip(prompts, completed):
        answer = family.answer(text, position)
        if answer:
            canonical.append(completion.startswith(text[:position] + answer))
    (low,), (high,) = wilson([correct.sum()], [len(correct)])
    return CompletionAccuracy(
        family=family.name,
        split=split,
        accuracy=float(correct.mean()),
        low=float(low),
        high=float(high),
        true_rate=float(true.mean()),
        canonical=float(np.mean(canonical)) if canonical else math.nan,
        n=len(prompts),
        seed=seed,
        too_long=too_long,
        generalizes=_generalizes(family, texts, completed, seed) if isinstance(family, Induce) else math.nan,
    )


def _generalizes(family: Induce, texts: list[str], completed: list[str], seed: int) -> float:
    """How often the algorithm that the model writes gives the labels of the hidden one on fresh sequences."""
    inputs = tokens.decode(family.fresh_inputs(FRESH_INPUTS, generator("fresh inputs", seed)))
    agreements = []
    for text, completion in zip(texts, completed, strict=True):
        if not family.accepts(completion):
            agreements.append(False)
            continue
        hidden = _labels(family.algorithm(text), inputs)
        written = _labels(family.algorithm(completion), inputs)
        agreements.append(bool((hidden == written).all()))
    return float(np.mean(agreements))


def _labels(algorithm: str, inputs: list[str]) -> np.ndarray:
    """The label that an algorithm gives each sequence: bool [n]."""
    return kernel.verdicts(tokens.encode([algorithm + sequence + "f" for sequence in inputs]))


def complete(
    model: Any, prefixes: list[str], max_new_tokens: int | None = None, logits_mask: LogitsMask | None = None
) -> list[str]:
    """Each prefix with the model's greedy completion, through its `.` where it writes one.

    model: of any backend (`cadmus.models.backends`). `max_new_tokens` defaults to what the model's context leaves room
    for behind the longest prefix; `logits_mask` constrains what is written, as in `generation.generate`. Raises
    ValueError for a prefix with a `.`, one that leaves no room, and a single prefix in place of a list.
    """
    prefixes = tokens.text_list(prefixes, "prefixes")
    longest = max(map(len, prefixes), default=0)
    room = model.cfg.n_ctx - 1 - longest
    if room < (1 if max_new_tokens is None else max_new_tokens):
        raise ValueError(
            f"a prefix of {longest} tokens leaves no room for its completion: the model has n_ctx = {model.cfg.n_ctx}, "
            "the marker counted"
        )
    new = room if max_new_tokens is None else max_new_tokens
    texts = []
    for start in range(0, len(prefixes), _BATCH_SIZE):
        batch = prefixes[start : start + _BATCH_SIZE]
        prompts = tokens.encode(["." + prefix for prefix in batch])
        lengths = torch.tensor([len(prefix) + 1 for prefix in batch])
        out = generate(model, torch.from_numpy(prompts), lengths, new, logits_mask).cpu().numpy().astype(np.uint8)
        for row, prefix in zip(out, batch, strict=True):
            # behind what a row was allowed to write there is only padding, which must not pass for its own `.`
            texts += tokens.decode(row[None, 1 : len(prefix) + 1 + new])
    return texts
