"""A training distribution, described: what each family's programs are like, measured.

A source is a mixture (by name or TOML file: programs are drawn from it) or the folder of a corpus (they are taken from
it). Every property stands beside its 95 % interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analyses.studies.distribution import tables
from cadmus.corpora import corpus
from cadmus.corpora.corpus import Corpus
from cadmus.corpora.shards import stack_programs, train_only
from cadmus.programs import mixture
from cadmus.programs.mixture import Mixture
from cadmus.properties import structure
from cadmus.runtime.checks import check_seed
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.seeds import generator
from cadmus.statistics.jackknife import MIN_PROGRAMS

ALL = "all families"
_MIN_FAMILY_PROGRAMS = 1000  # that are measured
_MAX_ROUNDS = 100  # of drawing programs that training may see


@dataclass(frozen=True)
class DistributionConfig:
    """Which source is described, and on how many programs."""

    source: str
    """A mixture that ships with the package, a TOML file, or the folder of a corpus."""
    programs: int = 20_000
    """Programs measured, of each family."""
    seed: int = 0
    """Seed of the programs drawn, and of the groups of the jackknife."""

    def __post_init__(self) -> None:
        check_seed(self)
        if self.programs < _MIN_FAMILY_PROGRAMS:
            raise ValueError(
                f"{self.programs} programs per family are too few to measure; ask for {_MIN_FAMILY_PROGRAMS:,} or more"
            )


@dataclass(frozen=True)
class Source:
    """A mixture or a corpus, opened."""

    name: str
    """The mixture's name, or the folder of the corpus."""
    mixture: Mixture
    """The mixture, that of the corpus too."""
    corpus: Corpus | None
    """The corpus, if it is one."""
    samples: dict[str, np.ndarray]
    """A sample of each family by its name: uint8 [n, width]."""

    @property
    def everything(self) -> np.ndarray:
        """All families in their shares, as many programs as the samples allow: uint8 [n, width]."""
        shares = self.shares
        n = min(len(self.samples[name]) / share for name, share in shares.items())
        return stack_programs([self.samples[name][: max(1, int(share * n))] for name, share in shares.items()])

    @property
    def shares(self) -> dict[str, float]:
        """Each family's share of the programs, over all phases."""
        if self.corpus is not None:
            return {name: n / len(self.corpus) for name, n in self.corpus.counts.items() if n}
        shares: dict[str, float] = dict.fromkeys(self.samples, 0.0)
        for share, part in self.mixture.parts:
            for family, share_of_part in zip(part.families, part.shares, strict=True):
                shares[family.name] += share * share_of_part
        return shares


@dataclass(frozen=True)
class DistributionResults:
    """What a source is like."""

    config: DistributionConfig
    """What was measured."""
    source: Source
    """The source, with the sample that was measured."""
    properties: pd.DataFrame
    """A row per (family, property), as `measure` gives them."""
    distributions: pd.DataFrame
    """How programs are spread, as `tables.distributions` gives them."""
    instructions: pd.DataFrame
    """How often each instruction is used, as `tables.instructions` gives them."""
    out_of_distribution: pd.DataFrame
    """How far each out-of-distribution set lies from training, as `tables.out_of_distribution` gives them; empty where
    the mixture has no such set."""


def run(config: DistributionConfig, progress: Progress = no_progress) -> DistributionResults:
    """Open a source and measure it. Raises ValueError for an unknown mixture and a family without programs."""
    progress("draw", 0.0, config.source)
    source = open_source(config)
    progress("draw", 1.0, config.source)
    return DistributionResults(
        config,
        source,
        properties=measure(source, config.seed, progress),
        distributions=tables.distributions(source.samples),
        instructions=tables.instructions({**source.samples, ALL: source.everything}),
        out_of_distribution=tables.out_of_distribution(source.mixture, source.samples, source.everything, config.seed),
    )


def open_source(config: DistributionConfig) -> Source:
    """Open a mixture or a corpus and take a sample of each family (smaller where a corpus has fewer programs).

    Programs drawn from a mixture are those that training may see: of the split `train`, none held out.
    """
    if corpus.is_meant(config.source):
        stored = corpus.load(config.source)
        names = [name for name in stored.families if stored.counts[name]]
        samples = {name: corpus.sample(stored, config.programs, config.seed, name) for name in names}
        return Source(config.source, stored.mixture, stored, samples)
    mix = mixture.load(config.source)
    return Source(mix.name, mix, None, _draw(mix, config.programs, config.seed))


def _draw(mix: Mixture, programs: int, seed: int) -> dict[str, np.ndarray]:
    """Draw `programs` of each family from the phases in which it occurs, in their shares: {family: uint8 [n,
    width]}."""
    rng = generator("describe", seed)
    parts: dict[str, list[np.ndarray]] = {}
    for share, part in mix.parts:
        for family in part.families:
            n = round(share * programs)
            draws: list[np.ndarray] = []
            for _ in range(_MAX_ROUNDS):
                if sum(map(len, draws)) >= n:
                    break
                draws.append(train_only(family.generate(n + 64, rng), mix.hold_out))
            if not sum(map(len, draws)):
                raise ValueError(f"family {family.name} has no programs left for training; hold out less")
            parts.setdefault(family.name, []).append(stack_programs(draws)[:n])
    return {name: rng.permutation(stack_programs(arrays)) for name, arrays in parts.items()}


def measure(source: Source, seed: int = 0, progress: Progress = no_progress) -> pd.DataFrame:
    """The properties of every family, and of all in their shares: a row per (family, property)."""
    samples = {**source.samples, ALL: source.everything}
    measurements = []
    for done, (name, programs) in enumerate(samples.items(), 1):
        if len(programs) >= MIN_PROGRAMS:
            measurements.append(structure.measure(programs, seed=seed).assign(family=name, source=source.name))
        progress("measure", done / len(samples), name)
    columns = ["source", "family", "property", "value", "low", "high", "unit", "n", "doc"]
    return pd.concat(measurements, ignore_index=True)[columns]
