"""How far two samples of programs lie apart: atom and compound divergence (Keysers et al. 2020, arXiv 1912.09713)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cadmus.machine import vm
from cadmus.programs import skeletons
from cadmus.programs.compounds import chernoff
from cadmus.statistics.jackknife import Estimate, Sample, counts_without_each, interval_of, take_sample

_VOCABULARY = len(vm.VOCAB)
_UNIT = "share"
# name -> sizes of the compounds, alpha, what it is
_DIVERGENCES = {
    "atom_divergence": (
        (1,),
        0.5,
        "1 - sum of a^0.5 b^0.5 over tokens, digits as one; 0 for equal, 1 for disjoint use",
    ),
    "compound_divergence": (
        (2, 3),
        0.1,
        "1 - sum of a^0.1 b^0.9 over adjacent pairs and triples of tokens, digits as one; high where b combines tokens "
        "as a never does",
    ),
}


def divergence(a: np.ndarray, b: np.ndarray, *, seed: int = 0) -> pd.DataFrame:
    """Measure the atom and compound divergence of two samples of programs: a, what was trained on, and b, what is
    tested.

    1 - the Chernoff coefficient (Keysers et al. 2020, arXiv 1912.09713, section 2.2), alpha 0.5 for atoms and 0.1 for
    compounds: compounds of b that a lacks count fully, their exact frequency in a counts little, so order matters.
    Compounds are adjacent pairs and triples, all with equal weight (the paper weights subgraphs). Samples as for
    `measure`. Columns property, value, low, high, within_a, within_b, unit, n_a, n_b, doc.

    Two samples of one distribution diverge by more than 0, the more the smaller they are: take samples of equal size,
    and read the value beside within_a and within_b, the divergence of two random halves of each sample.
    """
    sample_a = take_sample(a, seed)
    sample_b = take_sample(b, seed + 1)  # another seed, or equal samples would fall into equal groups
    rows = []
    for name, (sizes, alpha, doc) in _DIVERGENCES.items():
        codes_a, groups_a = _compounds_of_sizes(sample_a, sizes)
        codes_b, groups_b = _compounds_of_sizes(sample_b, sizes)
        n_codes = sum(_VOCABULARY**size for size in sizes)
        counts_a = counts_without_each(codes_a, groups_a, n_codes)
        counts_b = counts_without_each(codes_b, groups_b, n_codes)
        values = np.array([1 - chernoff(p, q, alpha) for p, q in zip(counts_a, counts_b)])
        value, low, high = interval_of(_UNIT, Estimate(np.maximum(values[0], 0), values[1:], 0))
        rows.append(
            {
                "property": name,
                "value": value,
                "low": low,
                "high": high,
                "within_a": 1 - chernoff(*_counts_of_halves(codes_a, groups_a, n_codes), alpha),
                "within_b": 1 - chernoff(*_counts_of_halves(codes_b, groups_b, n_codes), alpha),
                "unit": _UNIT,
                "n_a": len(sample_a.programs),
                "n_b": len(sample_b.programs),
                "doc": doc,
            }
        )
    return pd.DataFrame(rows)


def _compounds_of_sizes(sample: Sample, sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The compounds of several sizes in one range of codes, and their groups: both [events]."""
    all_codes, all_groups, offset = [], [], 0
    for size in sizes:
        codes, groups = compounds(sample, size)
        all_codes.append(codes + offset)
        all_groups.append(groups)
        offset += _VOCABULARY**size
    return np.concatenate(all_codes), np.concatenate(all_groups)


def _counts_of_halves(codes: np.ndarray, groups: np.ndarray, n_codes: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each code occurs in the groups of even and of odd number: int64 [n_codes] each."""
    is_odd = groups % 2 == 1
    return np.bincount(codes[~is_odd], minlength=n_codes), np.bincount(codes[is_odd], minlength=n_codes)


def compounds(sample: Sample, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Every `size` adjacent skeleton tokens inside a program as a code below 65^size, and its group: both [events]."""
    forms = skeletons.skeletons(sample.programs).astype(np.int64)
    positions = max(0, forms.shape[1] - size + 1)
    codes = np.zeros((len(forms), positions), np.int64)
    for k in range(size):
        codes = codes * _VOCABULARY + forms[:, k : k + positions]
    inside = np.arange(positions) + size <= sample.lengths[:, None]
    return codes[inside], np.broadcast_to(sample.groups[:, None], codes.shape)[inside]
