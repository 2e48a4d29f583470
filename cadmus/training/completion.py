"""Completion accuracy, decided by the machine: is the completed program true, and has it its family's form?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch

from cadmus.corpora import held_out
from cadmus.machine import kernel, tokens
from cadmus.models.generation import LogitsMask, generate
from cadmus.models.model import Model
from cadmus.programs.families import Family, Induce
from cadmus.programs.mixture import Mixture
from cadmus.runtime.seeds import generator
from cadmus.statistics.proportions import wilson

FRESH_INPUTS = 32  # sequences that an algorithm is tried on
_BATCH = 1024  # prompts completed at once


@dataclass(frozen=True)
class CompletionAccuracy:
    """One row of the completion table. Intervals are 95 % (Wilson); `n` prompts, one per decision position.

    accuracy: true and of the family's form; true_rate: true at all; canonical: begins with the family's own answer
    (of the prompts that have one; NaN where none has). too_long: programs left out because the model has too few
    positions for them. split: a split, or the name of an out-of-distribution set. generalizes: where an algorithm
    is to be found (`induce`), how often the one found gives the hidden one's labels on 32 fresh inputs; else NaN.
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
    generalizes: float = math.nan
    too_long: int = 0

    def to_dict(self) -> dict:
        return asdict(self)


def evaluate(
    model: Model,
    mixture: Mixture,
    *,
    splits: tuple[str, ...] = ("test", "test_skeleton"),
    out_of_distribution: bool = True,
    programs: int = 1000,
    seed: int = 0,
    progress: Callable[[float, str], None] = lambda share, name: None,
) -> list[CompletionAccuracy]:
    """Greedy completion accuracy per family and split, on `programs` freshly drawn held-out programs each, and (unless
    told otherwise) on every out-of-distribution set of the mixture. `progress` is told the share done and what comes
    next."""
    tasks = [(family, split) for family in mixture.families for split in splits]
    sets = mixture.out_of_distribution if out_of_distribution else ()
    rows = []
    for i, (family, split) in enumerate(tasks):
        progress(i / (len(tasks) + len(sets)), f"{family.name}, {split}")
        texts = tokens.decode(held_out.held_out(family, split, programs, seed, mixture.hold_out))
        rows.append(score_family(model, family, split, texts, seed))
    for i, one in enumerate(sets, len(tasks)):
        progress(i / (len(tasks) + len(sets)), one.name)
        texts = tokens.decode(held_out.out_of_distribution(mixture, one, programs, seed))
        fitting = [text for text in texts if len(text) < model.cfg.n_ctx]
        rows.append(score_family(model, one.family, one.name, fitting, seed, too_long=len(texts) - len(fitting)))
    progress(1.0, "")
    return rows


def score_family(
    model: Model, family: Family, split: str, texts: list[str], seed: int, *, too_long: int = 0
) -> CompletionAccuracy:
    """Completion accuracy over every decision position of `texts`; NaN where there are none. `too_long` is noted."""
    if not texts:
        nothing = dict.fromkeys(("accuracy", "low", "high", "true_rate", "canonical"), math.nan)
        return CompletionAccuracy(family.name, split, **nothing, n=0, seed=seed, too_long=too_long)
    prompts = [(text, cut) for text in texts for cut in family.decisions(text)]
    completed = complete(model, [text[:cut] for text, cut in prompts])
    true = kernel.verdicts(tokens.encode(completed))
    formed = np.array([text.endswith(".") and family.accepts(text) for text in completed])
    answers = [(text[:cut], family.answer(text, cut), done) for (text, cut), done in zip(prompts, completed)]
    canonical = [done.startswith(given + answer) for given, answer, done in answers if answer]
    right = true & formed
    (low,), (high,) = wilson([right.sum()], [len(right)])
    return CompletionAccuracy(
        family=family.name,
        split=split,
        accuracy=float(right.mean()),
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
    """How often the algorithm found gives the labels of the hidden one on fresh sequences."""
    inputs = tokens.decode(family.fresh_inputs(FRESH_INPUTS, generator("fresh inputs", seed)))
    agree = []
    for text, done in zip(texts, completed, strict=True):
        if not family.accepts(done):
            agree.append(False)
            continue
        labelled = [[family.algorithm(one) + sequence + "f" for sequence in inputs] for one in (text, done)]
        hidden, found = (kernel.verdicts(tokens.encode(programs)) for programs in labelled)
        agree.append(bool((hidden == found).all()))
    return float(np.mean(agree))


def complete(
    model: Model, prefixes: list[str], max_new_tokens: int | None = None, logits_mask: LogitsMask | None = None
) -> list[str]:
    """Each prefix with the model's greedy completion, through its `.` where it writes one.

    `max_new_tokens` defaults to what the model's context leaves room for behind the longest prefix; `logits_mask`
    constrains what is written, as in `generation.generate`. ValueError for a prefix with a `.`, or one that leaves no
    room.
    """
    longest = max(map(len, prefixes), default=0)
    if longest + 1 + (1 if max_new_tokens is None else max_new_tokens) > model.cfg.n_ctx:
        raise ValueError(
            f"a prefix of {longest} tokens leaves no room for its completion: the model has n_ctx = {model.cfg.n_ctx}, "
            "the marker counted"
        )
    done = []
    for start in range(0, len(prefixes), _BATCH):
        batch = prefixes[start : start + _BATCH]
        prompts = tokens.encode(["." + prefix for prefix in batch])
        lengths = torch.tensor([len(prefix) + 1 for prefix in batch])
        room = model.cfg.n_ctx - int(lengths.max())
        new = room if max_new_tokens is None else max_new_tokens
        out = generate(model, torch.from_numpy(prompts), lengths, new, logits_mask).cpu().numpy().astype(np.uint8)
        # behind what a row was allowed to write there is only padding, which must not pass for its own `.`
        done += [tokens.decode(row[None, 1 : len(prefix) + 1 + new])[0] for row, prefix in zip(out, batch, strict=True)]
    return done
