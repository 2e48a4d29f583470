"""A training distribution, described: what each family's programs are like, measured; and two of them compared.

A source is a mixture (by name or TOML file: programs are drawn from it) or the folder of a corpus (they are taken from
it). Every property stands beside its 95 % interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cadmus.corpora import corpus
from cadmus.corpora.corpus import Corpus
from cadmus.corpora.shards import stack_programs, train_only
from cadmus.programs import mixture
from cadmus.programs.mixture import Mixture
from cadmus.properties import structure
from cadmus.properties.divergence import divergence
from cadmus.runtime.progress import Progress
from cadmus.runtime.seeds import generator
from cadmus.statistics.jackknife import MIN_PROGRAMS

ALL = "all families"
_MIN_PROGRAMS = 1000  # programs of a family that are measured


@dataclass(frozen=True)
class Source:
    """A mixture or a corpus, opened, with a sample of each family: uint8 [n, width] by name."""

    name: str
    mixture: Mixture
    corpus: Corpus | None
    samples: dict[str, np.ndarray]

    @property
    def everything(self) -> np.ndarray:
        """All families in their shares, as many programs as the samples allow: uint8 [n, width]."""
        parts = self.shares
        most = min(len(self.samples[name]) / share for name, share in parts.items())
        return stack_programs([self.samples[name][: max(1, int(share * most))] for name, share in parts.items()])

    @property
    def shares(self) -> dict[str, float]:
        """Each family's share of the programs, over all phases."""
        if self.corpus is not None:
            return {name: n / len(self.corpus) for name, n in self.corpus.counts.items() if n}
        shares: dict[str, float] = dict.fromkeys(self.samples, 0.0)
        for share, part in self.mixture.parts:
            for family, of_part in zip(part.families, part.shares, strict=True):
                shares[family.name] += share * of_part
        return shares


def open_source(source: str | Path, programs: int, seed: int = 0) -> Source:
    """Open a mixture or a corpus and take a sample of `programs` per family (fewer where a corpus has fewer).

    Programs drawn from a mixture are those that training may see: of the split `train`, none held out.
    """
    if programs < _MIN_PROGRAMS:
        raise ValueError(f"{programs} programs per family are too few to measure; ask for {_MIN_PROGRAMS:,} or more")
    path = Path(source)
    if path.is_dir():
        made = corpus.load(path)
        samples = {name: corpus.sample(made, programs, seed, name) for name in made.families if made.counts[name]}
        return Source(str(source), made.mixture, made, samples)
    chosen = mixture.load(source)
    return Source(chosen.name, chosen, None, _draw(chosen, programs, seed))


def _draw(chosen: Mixture, programs: int, seed: int) -> dict[str, np.ndarray]:
    rng = generator("describe", seed)
    parts: dict[str, list[np.ndarray]] = {}
    for share, part in chosen.parts:
        for family in part.families:
            wanted, found = round(share * programs), []
            for _ in range(100):
                if sum(map(len, found)) >= wanted:
                    break
                found.append(train_only(family.generate(wanted + 64, rng), chosen.hold_out))
            if not sum(map(len, found)):
                raise ValueError(f"family {family.name} has no programs left for training; hold out less")
            parts.setdefault(family.name, []).append(stack_programs(found)[:wanted])
    return {name: rng.permutation(stack_programs(some)) for name, some in parts.items()}


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(source: Source, seed: int = 0, stage: Progress | None = None) -> pd.DataFrame:
    """The properties of every family and of all in their shares: a row per (family, property)."""
    samples = {**source.samples, ALL: source.everything}
    tables = []
    for i, (name, programs) in enumerate(samples.items()):
        if len(programs) >= MIN_PROGRAMS:
            tables.append(structure.measure(programs, seed=seed).assign(family=name, source=source.name))
        if stage is not None:
            stage("measure", (i + 1) / len(samples), name)
    return pd.concat(tables, ignore_index=True)[
        ["source", "family", "property", "value", "low", "high", "unit", "n", "doc"]
    ]


def compare(
    a: Source, b: Source, *, families: list[str] | None = None, seed: int = 0, stage: Progress | None = None
) -> pd.DataFrame:
    """Two sources side by side: a row per (family that both have, property), the values and intervals of each, whether
    the intervals lie apart, and the divergences of b from a (`floor`: that of two halves of one sample). `families`
    chooses some; left out, all that both have and all together. ValueError where they have none in common."""
    shared = [name for name in a.samples if name in b.samples]
    for name in families or []:
        if name not in shared:
            raise ValueError(f"{a.name} and {b.name} do not both have family {name!r}; both have {', '.join(shared)}")
    names = families or [*shared, ALL]
    tables = []
    for name in names:
        first, second = (one.everything if name == ALL else one.samples[name] for one in (a, b))
        n = min(len(first), len(second))  # counts of distinct things, and divergences, depend on the size
        measured = [structure.measure(programs[:n], seed=seed) for programs in (first, second)]
        table = measured[0][["property", "unit"]].copy()
        for label, one in zip("ab", measured, strict=True):
            table[[label, f"{label}_low", f"{label}_high"]] = one[["value", "low", "high"]]
        table["apart"] = (table.a_low > table.b_high) | (table.b_low > table.a_high)
        far = divergence(first[:n], second[:n], seed=seed)
        far = far.rename(columns={"value": "b", "low": "b_low", "high": "b_high"})
        far["floor"] = far[["within_a", "within_b"]].max(axis=1)
        far["apart"] = far.b_low > far.floor
        table = pd.concat(
            [table, far[["property", "unit", "b", "b_low", "b_high", "apart", "floor"]]], ignore_index=True
        )
        tables.append(table.assign(family=name, n=n))
        if stage is not None:
            stage("compare", len(tables) / len(names), name)
    whole = pd.concat(tables, ignore_index=True)
    return whole[["family", *(column for column in whole.columns if column != "family")]]


def comparison_rows(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """A comparison as lines of text, the head first; properties without meaning on both sides are left out."""
    rows = [("family", "property", "first", "second", "", "unit")]
    for row in table[table[["a", "b"]].notna().any(axis=1)].itertuples():
        first = f"floor {row.floor:.3f}" if not np.isnan(row.floor) else _interval(row.a, row.a_low, row.a_high)
        second = _interval(row.b, row.b_low, row.b_high)
        rows.append((row.family, row.property, first, second, "*" if row.apart else "", row.unit))
    return rows


def _interval(value: float, low: float, high: float) -> str:
    if np.isnan(value):
        return "-"
    return f"{value:.4g}" + ("" if np.isnan(low) else f" [{low:.4g}, {high:.4g}]")
