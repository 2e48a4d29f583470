"""What a run's model completes, and what its corpus is like: accuracy.NAME, true.NAME and the measured properties.

Every cell is measured on the same programs' distribution: the families of the base mixture, and its out-of-distribution
sets. The accuracy in distribution alone is that of the cell's own mixture. Nothing that is completed was in the corpus:
in distribution and on families it is of the split `test`, on unseen skeletons of `test_skeleton`, and of an
out-of-distribution set what the corpus has is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyses.sweeps.sweep import ACCURACY, COMPARED, TRUE, Sweep
from cadmus.corpora.corpus import Corpus, sample
from cadmus.corpora.held_out import held_out, out_of_distribution
from cadmus.corpora.shards import stack_programs
from cadmus.machine import tokens
from cadmus.models.model import Model
from cadmus.programs.families import Family
from cadmus.programs.mixture import Mixture
from cadmus.properties.comparisons import compared
from cadmus.properties.divergence import divergence
from cadmus.properties.structure import measure
from cadmus.statistics.proportions import wilson
from cadmus.training.completion import score_family


@dataclass(frozen=True)
class Response:
    """One measured response of a run."""

    response: str
    """Its dotted name."""

    value: float
    """What was measured; NaN where nothing could be."""

    low: float
    """The lower end of the 95 % interval; NaN where it has none."""

    high: float
    """The upper end."""

    n: int
    """What it rests on: prompts, pairs or programs."""

    why: str = ""
    """Why there is no value; a mechanism in words."""


def nothing(response: str, why: str, n: int = 0) -> Response:
    """A response that could not be measured."""
    return Response(response, np.nan, np.nan, np.nan, n, why)


def accuracies(sweep: Sweep, mixture: Mixture, corpus: Corpus, model: Model, seed: int) -> list[Response]:
    """The responses accuracy.NAME and true.NAME of a model that was trained on this corpus of the cell's mixture."""
    out = []
    for response in sweep.responses:
        kind, _, name = response.partition(".")
        if kind in (ACCURACY, TRUE):
            out.append(_accuracy(response, _tasks(sweep, mixture, corpus, name, seed), model, seed))
    return out


def _accuracy(response: str, tasks: Iterable[tuple[Family, np.ndarray]] | None, model: Model, seed: int) -> Response:
    """The share of all prompts of these families' programs that are completed right, or truly in whatever form, with
    Wilson's interval."""
    if tasks is None:
        return nothing(response, "the cell has no such set")
    correct = n = 0
    for family, programs in tasks:
        row = score_family(model, family, response, tokens.decode(programs) if len(programs) else [], seed)
        share = row.true_rate if response.startswith(f"{TRUE}.") else row.accuracy
        correct += round(share * row.n) if row.n else 0
        n += row.n
    if not n:
        return nothing(response, "the corpus has all programs of the set that were drawn")
    (low,), (high,) = wilson([correct], [n])
    return Response(response, correct / n, float(low), float(high), n)


def _tasks(
    sweep: Sweep, mixture: Mixture, corpus: Corpus, name: str, seed: int
) -> list[tuple[Family, np.ndarray]] | None:
    """Families and the programs, uint8 [n, width], that an accuracy is measured on; None for a set that the cell
    lacks."""
    n, base = sweep.measure.programs, sweep.recipe.mixture
    if name == "in_distribution":
        return [(family, held_out(family, "test", n, seed, mixture.hold_out)) for family in mixture.families]
    if name == "base":
        return [(family, held_out(family, "test", n, seed, base.hold_out)) for family in base.families]
    if name == "unseen_skeletons":
        return [(family, held_out(family, "test_skeleton", n, seed, base.hold_out)) for family in base.families]
    if name in base.family_names:
        family = base.family(name)
        return [(family, held_out(family, "test", n, seed, base.hold_out))]
    for owner in (base, mixture):
        for ood in owner.out_of_distribution:
            if ood.name == name:
                programs = out_of_distribution(owner, ood, n, seed)
                return [(ood.family, programs[~corpus.contains_programs(programs)])]
    return None


def properties(sweep: Sweep, corpus: Corpus, seed: int) -> dict[str, dict[str, Any]]:
    """Measured properties of the corpus by name, each `value`, `low`, `high`: those of `cadmus.properties.structure`,
    and how far the base mixture's test programs lie from it (`atom_divergence`, `compound_divergence`); where the sweep
    asks for them, the least and the greatest number that the whole corpus compares."""
    n, base = sweep.measure.property_programs, sweep.recipe.mixture
    programs = sample(corpus, n, seed)
    share = -(-n // len(base.families))
    test = stack_programs([held_out(family, "test", share, seed, base.hold_out) for family in base.families])
    rows = [*measure(programs, seed=seed).itertuples(), *divergence(programs, test, seed=seed).itertuples()]
    out = {row.property: {"value": row.value, "low": row.low, "high": row.high} for row in rows}
    return out | (comparisons(corpus) if sweep.compares else {})


def comparisons(corpus: Corpus) -> dict[str, dict[str, Any]]:
    """The properties `COMPARED` of a corpus, exact: all of its programs are run."""
    ends = compared(shard.programs for shard in corpus.shards)
    by_name = zip(COMPARED, (ends.least, ends.greatest), strict=True)
    return {name: {"value": value, "low": value, "high": value} for name, value in by_name}


def check_demands(sweep: Sweep, levels: dict[str, Any], corpus: Corpus, seed: int) -> None:
    """Raise ValueError where the corpus of the cell with these levels is not as the sweep demands."""
    demands = [demand for demand in sweep.demands if demand.is_of(levels)]
    if not demands:
        return
    exact = all(demand.property in COMPARED for demand in demands)
    measured = comparisons(corpus) if exact else properties(sweep, corpus, seed)
    for demand in demands:
        value = measured[demand.property]["value"]
        if not demand.allows(value):
            bounds = [
                f"{bound:g} {word}"
                for bound, word in ((demand.least, "or more"), (demand.most, "or less"))
                if bound is not None
            ]
            words = ", ".join(f"{name} = {level}" for name, level in levels.items())
            raise ValueError(
                f"the corpus of the cell ({words}) has {demand.property} = {value:g}, {' and '.join(bounds)} is "
                "demanded; change what the cell's families draw, or the demand"
            )
