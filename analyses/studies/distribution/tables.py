"""Tables of how programs are spread, which instructions they use, and how far sets lie from training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pandas as pd

from cadmus.corpora import held_out
from cadmus.corpora.build import OUT_OF_DISTRIBUTION
from cadmus.machine import tokens, vm
from cadmus.programs import skeletons
from cadmus.programs.mixture import Mixture, OutOfDistribution
from cadmus.properties import behaviour
from cadmus.properties.divergence import divergence

MAX_RANKS = 60  # of skeletons, evenly spaced on a logarithmic axis
MAX_VALUE = 60  # integers beyond -60 and 60 are counted at the ends


def distributions(samples: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """How programs are spread, family by family; samples {family: uint8 [n, width]}.

    Returns columns family, what (`tokens`, `values`, `depth`, `skeletons`), x and share: x is a number of tokens, an
    integer, a depth, or a rank (of which up to `MAX_RANKS` are kept).
    """
    tables = []
    for family, programs in samples.items():
        for what, (x, counts) in _counts(programs).items():
            share = counts / max(1, counts.sum())
            if what == "skeletons":  # the curve is drawn over log ranks, and needs no more of them than this
                ranks = np.unique(np.geomspace(1, len(x), MAX_RANKS).round().astype(int)) - 1
                x, share = x[ranks], share[ranks]
            tables.append(pd.DataFrame({"family": family, "what": what, "x": x, "share": share}))
    return pd.concat(tables, ignore_index=True)


def _counts(programs: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{what: (x, how often each x occurs)} of programs uint8 [n, width]."""
    states = behaviour.states(programs, behaviour.structure(programs).main)
    values = states.values[states.computed].clip(-MAX_VALUE, MAX_VALUE)
    _, counts = np.unique(skeletons.skeleton_hashes(programs, "skeleton"), return_counts=True)
    return {
        "tokens": np.unique(tokens.lengths(programs), return_counts=True),
        "values": np.unique(values, return_counts=True),
        "depth": np.unique(states.depth, return_counts=True),
        "skeletons": (np.arange(1, len(counts) + 1), np.sort(counts)[::-1]),
    }


def instructions(samples: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The share of each instruction among a family's tokens: columns family, token, share."""
    tables = []
    for family, programs in samples.items():
        inside = np.arange(programs.shape[1]) <= tokens.lengths(programs)[:, None]
        counts = np.bincount(programs[inside], minlength=len(vm.VOCAB))
        tables.append(pd.DataFrame({"family": family, "token": list(vm.VOCAB), "share": counts / counts.sum()}))
    return pd.concat(tables, ignore_index=True)


def out_of_distribution(
    mixture: Mixture, samples: Mapping[str, np.ndarray], everything: np.ndarray, seed: int
) -> pd.DataFrame:
    """How far each out-of-distribution set of a mixture lies from its family's training programs.

    samples {family: uint8 [n, width]}, everything uint8 [n, width]: where the family is not trained on. Returns two
    rows per set, as `properties.divergence` gives them, with the set, its family, and what is unlike training; empty
    where the mixture has no such set.
    """
    tables = []
    for ood in mixture.out_of_distribution:
        programs = held_out.out_of_distribution(mixture, ood, OUT_OF_DISTRIBUTION, seed)
        trained_programs = samples.get(ood.family.name, everything)
        n = min(len(trained_programs), len(programs))
        table = divergence(trained_programs[:n], programs[:n], seed=seed)
        difference = f"the hold-out's {ood.held_out}" if ood.held_out else _difference(mixture, ood)
        keys = {"set": ood.name, "family": ood.family.name, "unlike training by": difference}
        tables.append(table.assign(**keys))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _difference(mixture: Mixture, ood: OutOfDistribution) -> str:
    """The knobs of a set that are not set as in training, in words."""
    families = {family.name: family for family in mixture.families}
    if ood.family.name not in families:
        return "its family"
    trained_knobs = asdict(families[ood.family.name])
    knobs = asdict(ood.family)
    return ", ".join(f"{name} = {value}" for name, value in knobs.items() if value != trained_knobs[name])
