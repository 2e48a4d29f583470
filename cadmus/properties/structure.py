"""Measured properties of a sample of programs (a training distribution), with 95 % intervals
(`cadmus.statistics.jackknife`).

Entropies are corrected for their downward bias by the jackknife (Zahl 1977): 20 * whole - 19 * mean of the 20. Programs
are put into a canonical order first, so neither row order nor padding matters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from cadmus.machine import tokens, vm
from cadmus.machine.jit import jit
from cadmus.programs import skeletons
from cadmus.properties import behaviour
from cadmus.properties.divergence import compounds
from cadmus.statistics.jackknife import (
    GROUPS,
    Estimate,
    Sample,
    Statistic,
    entropy_of,
    from_counts,
    interval_of,
    ratio_of_sums,
    take_sample,
    without_bias,
)

ZIPF_FLOOR = 5  # occurrences of a skeleton that has a rank: below it, ranks are mostly noise
LEMPEL_ZIV_TOKENS = 200_000
SKELETONS_RUN = 5_000  # skeletons examined for behavioural duplicates

_VOCABULARY = len(vm.VOCAB)
_POSSIBLE_PAIRS = (_VOCABULARY - 1 - 9) ** 2  # any token may follow any; no `.` inside a program, ten digits are one


@dataclass(frozen=True)
class Property:
    """What a measured property is."""

    name: str
    """Its name, the row of the table."""

    unit: str
    """The unit of its value."""

    doc: str
    """What it is and what makes it high or low, in one line."""


def _table(*rows: tuple[str, str, str]) -> dict[str, Property]:
    return {name: Property(name, unit, doc) for name, unit, doc in rows}


PROPERTIES: dict[str, Property] = _table(
    ("length", "tokens", "mean tokens per program without its `.`; long programs make it high"),
    ("longest", "tokens", "tokens of the longest program, without its `.`; grows with the sample, has no interval"),
    ("distinct_programs", "share", "distinct texts / programs at this sample size; low where texts are repeated"),
    ("duplication", "programs/text", "programs per distinct text at this sample size; 1 where none is repeated"),
    ("skeletons", "skeletons", "distinct texts, digits apart, at this sample size; few templates make it low"),
    ("skeleton_entropy", "bits", "entropy of the skeletons; low where a few templates dominate"),
    (
        "zipf_slope",
        "exponent",
        "s in frequency ~ rank^-s of the skeletons seen 5 times or more (maximum likelihood over their ranks; NaN for "
        "fewer than 3 of them); 0 where all are equally frequent, high where a few dominate",
    ),
    ("token_entropy", "bits/token", "entropy of the tokens, each program's `.` included; log2 65 = 6.02 at most"),
    ("bigram_entropy", "bits/token", "entropy of a token given the one before; low where syntax is rigid"),
    ("trigram_entropy", "bits/token", "entropy of a token given the two before; low where syntax is rigid"),
    (
        "lempel_ziv",
        "ratio",
        "LZ78 phrases of the programs written one after the other (200,000 tokens at most) / those of uniformly random "
        "tokens; 1 where nothing repeats, low where passages do (0.05 for one token repeated: LZ78 learns slowly)",
    ),
    ("instruction_pairs", "pairs", "distinct adjacent pairs of tokens, digits as one, at this sample size"),
    ("pair_coverage", "share", "instruction_pairs / the 3,025 possible; low where instructions keep to few neighbours"),
    ("depth", "entries", "mean of each program's greatest stack depth; nested expressions make it high"),
    ("executed", "instructions", "mean executed instructions per program, 4,096 at most; calls make it exceed length"),
    ("value_coverage", "values", "distinct Ints that are ever on top of the stack, at this sample size"),
    ("value_entropy", "bits", "entropy of the Ints on top after tokens, digits and tests apart, that leave a value"),
    ("sequence_length", "elements", "mean length of the Seqs on top of the stack after tokens that leave a value"),
    ("stores", "stores", "store instructions per program, definitions included"),
    ("loads", "loads", "load instructions per program, definitions included"),
    (
        "read_distance",
        "tokens",
        "mean tokens from a store to a load of its value (1: the next token), of main texts: what happens inside "
        "definitions is left out; high where values are kept for long",
    ),
    (
        "live_share",
        "share",
        "stores read before they are overwritten or the program ends, of main texts, definitions left out",
    ),
    (
        "chain",
        "stores",
        "mean over the stores of main texts of 1 + the longest chain of the registers loaded since the store before; "
        "1 where no stored value is made from a stored one",
    ),
    ("definitions", "definitions", "subroutine definitions per program"),
    (
        "definition_after_use",
        "share",
        "programs with a definition that stands behind the first call of its slot, of those that call what they define",
    ),
    (
        "behavioural_duplicates",
        "share",
        "skeletons that leave what another skeleton of the sample leaves on 64 random fillings of their digits, a "
        "closing test seen through (5,000 skeletons at most); high where many templates say one thing",
    ),
)


def measure(programs: np.ndarray, *, seed: int = 0) -> pd.DataFrame:
    """Measure the properties of a sample of programs.

    Args:
        programs: uint8 [n, width]: token ids without the leading marker, padded with `.`.
        seed: Chooses groups, and what is examined where there is a limit.

    Returns:
        A table with one row per property, in the order of `PROPERTIES`, and the columns property, value, low, high
        (95 %), unit, n (the programs that the value rests on) and doc.

    Raises:
        ValueError: The array is of another kind, or has fewer than 40 programs.
    """
    sample = take_sample(programs, seed)
    estimates = (
        _measure_texts(sample)
        | _measure_skeletons(sample, seed)
        | _measure_token_sequences(sample)
        | _measure_registers_and_states(sample)
    )
    rows = []
    for name, entry in PROPERTIES.items():
        value, low, high = interval_of(entry.unit, estimates[name])
        rows.append((name, value, low, high, entry.unit, estimates[name].n, entry.doc))
    return pd.DataFrame(rows, columns=["property", "value", "low", "high", "unit", "n", "doc"])


# --- texts and skeletons ---------------------------------------------------------------------------------------------


def _measure_texts(sample: Sample) -> dict[str, Estimate]:
    n = len(sample.programs)
    kinds, codes = np.unique(tokens.hashes(sample.programs, "cadmus properties 1"), return_inverse=True)
    distinct, duplication = from_counts(
        codes,
        sample.groups,
        len(kinds),
        n,
        lambda counts: np.count_nonzero(counts) / counts.sum(),
        lambda counts: counts.sum() / np.count_nonzero(counts),
    )
    return {
        "length": ratio_of_sums(sample, sample.lengths),
        "longest": Estimate(float(sample.lengths.max()), np.full(GROUPS, np.nan), n),
        "distinct_programs": distinct,
        "duplication": duplication,
    }


def _measure_skeletons(sample: Sample, seed: int) -> dict[str, Estimate]:
    n = len(sample.programs)
    forms = skeletons.skeletons(sample.programs)
    hashes = tokens.hashes(forms, "cadmus properties 1")
    kinds, first, codes = np.unique(hashes, return_index=True, return_inverse=True)
    distinct, entropy, slope = from_counts(
        codes, sample.groups, len(kinds), n, np.count_nonzero, entropy_of, _zipf_exponent
    )
    return {
        "skeletons": distinct,
        "skeleton_entropy": without_bias(entropy),
        "zipf_slope": slope,
        "behavioural_duplicates": _behavioural_duplicates(sample, forms[first], codes, seed),
    }


def _zipf_exponent(counts: np.ndarray) -> float:
    """Fit the exponent s of P(rank) ~ rank^-s among the skeletons with ZIPF_FLOOR occurrences by maximum likelihood:
    where the expected log rank is the observed one."""
    counts = np.sort(counts[counts >= ZIPF_FLOOR])[::-1]
    if len(counts) < 3:
        return np.nan
    log_rank = np.log(np.arange(1, len(counts) + 1))
    observed = counts @ log_rank / counts.sum()

    def surplus(exponent: float) -> float:
        weights = np.exp(-exponent * log_rank)
        return weights @ log_rank / weights.sum() - observed

    return float(brentq(surplus, 0.0, 60.0)) if surplus(0.0) > 1e-12 else 0.0


def _behavioural_duplicates(sample: Sample, forms: np.ndarray, codes: np.ndarray, seed: int) -> Estimate:
    """The share of skeletons that behave as another one of the sample: forms uint8 [distinct, width] are the skeletons,
    codes [n] the skeleton of each program."""
    rng = np.random.default_rng([seed, 1])
    examined = rng.permutation(len(forms))[:SKELETONS_RUN]
    behaviours = behaviour.behaviours(forms[examined])
    place_of = np.full(len(forms), -1)  # among those examined
    place_of[examined] = np.arange(len(examined))
    codes = place_of[codes]

    def share(counts: np.ndarray) -> float:
        present = behaviours[counts > 0]
        return float((np.bincount(present)[present] > 1).mean()) if len(present) else np.nan

    inside = codes >= 0
    return from_counts(codes[inside], sample.groups[inside], len(examined), int(inside.sum()), share)[0]


# --- token sequences -------------------------------------------------------------------------------------------------


def _measure_token_sequences(sample: Sample) -> dict[str, Estimate]:
    n, width = sample.programs.shape
    texts = np.full((n, width + 2), tokens.PAD, np.int64)  # the marker stands for both tokens before the first
    texts[:, 2:] = sample.programs
    inside = np.arange(width) <= sample.lengths[:, None]  # the closing `.` too
    groups = np.broadcast_to(sample.groups[:, None], (n, width))[inside]
    trigrams = ((texts[:, :-2] * _VOCABULARY + texts[:, 1:-1]) * _VOCABULARY + texts[:, 2:])[inside]
    unigram, bigram, trigram = from_counts(  # counts [65^3]: token before the last, last token, this token
        trigrams,
        groups,
        _VOCABULARY**3,
        n,
        lambda counts: entropy_of(counts.reshape(-1, _VOCABULARY).sum(0)),
        lambda counts: _conditional_entropy(counts.reshape(_VOCABULARY, -1).sum(0)),
        _conditional_entropy,
    )
    pairs, pair_groups = compounds(sample, 2)
    n_programs_with_pairs = int((sample.lengths > 1).sum())
    n_pairs, coverage = from_counts(
        pairs,
        pair_groups,
        _VOCABULARY**2,
        n_programs_with_pairs,
        np.count_nonzero,
        lambda counts: np.count_nonzero(counts) / _POSSIBLE_PAIRS,
    )
    return {
        "token_entropy": without_bias(unigram),
        "bigram_entropy": without_bias(bigram),
        "trigram_entropy": without_bias(trigram),
        "lempel_ziv": _lempel_ziv(sample),
        "instruction_pairs": n_pairs,
        "pair_coverage": coverage,
    }


def _conditional_entropy(counts: np.ndarray) -> float:
    """The entropy of the last token given those before; counts [.. * 65], the last token's id varying fastest."""
    return entropy_of(counts) - entropy_of(counts.reshape(-1, _VOCABULARY).sum(1))


def _lempel_ziv(sample: Sample) -> Estimate:
    """The LZ78 (Ziv & Lempel 1978) phrases of the text over those of a uniformly random text of its length."""
    sizes = sample.lengths + 1
    fits = np.cumsum(sizes) <= LEMPEL_ZIV_TOKENS
    fits[0] = True
    programs, sizes, groups = sample.programs[fits], sizes[fits], np.repeat(sample.groups[fits], sizes[fits])
    text = programs[np.arange(programs.shape[1]) < sizes[:, None]]
    random = np.random.default_rng(0).integers(0, _VOCABULARY, len(text), np.uint8)  # the same for every sample
    phrases_of_random = _phrases(random)

    def ratio(text: np.ndarray) -> float:
        return _phrases(text)[-1] / phrases_of_random[len(text) - 1]

    replicates = np.array([ratio(text[groups != group]) for group in range(GROUPS)])
    return Estimate(ratio(text), replicates, int(fits.sum()))


@jit
def _phrases(text):
    """How many LZ78 phrases have begun at each token, int64 [tokens]: a phrase is the longest earlier phrase and one
    token more."""
    phrases = np.empty(len(text), np.int64)
    child = np.zeros((len(text) + 1, _VOCABULARY), np.int32)  # node 0 is the root
    nodes, node, n_phrases = 1, 0, 0
    for i in range(len(text)):
        n_phrases += node == 0
        phrases[i] = n_phrases
        successor = child[node, text[i]]
        if successor == 0:
            child[node, text[i]] = nodes
            nodes += 1
        node = successor
    return phrases


# --- registers and states --------------------------------------------------------------------------------------------


def _measure_registers_and_states(sample: Sample) -> dict[str, Estimate]:
    texts = behaviour.structure(sample.programs)
    states = behaviour.states(sample.programs, texts.main)
    coverage = _value_counts(sample, states.values, states.rows, np.count_nonzero)
    entropy = _value_counts(sample, states.values[states.computed], states.rows[states.computed], entropy_of)
    return {
        "depth": ratio_of_sums(sample, states.depth),
        "executed": ratio_of_sums(sample, states.executed),
        "value_coverage": coverage,
        "value_entropy": without_bias(entropy),
        "sequence_length": ratio_of_sums(sample, states.lengths, states.sequences),
        "stores": ratio_of_sums(sample, texts.stores),
        "loads": ratio_of_sums(sample, texts.loads),
        "read_distance": ratio_of_sums(sample, texts.distances, texts.reads),
        "live_share": ratio_of_sums(sample, texts.live_stores, texts.main_stores),
        "chain": ratio_of_sums(sample, texts.chains, texts.main_stores),
        "definitions": ratio_of_sums(sample, texts.definitions),
        "definition_after_use": ratio_of_sums(sample, texts.late, texts.used),
    }


def _value_counts(sample: Sample, values: np.ndarray, rows: np.ndarray, statistic: Statistic) -> Estimate:
    """Estimate a statistic of how often each value occurs; values and their programs, rows, are [events]."""
    kinds, codes = np.unique(values, return_inverse=True)
    return from_counts(codes, sample.groups[rows], len(kinds), len(np.unique(rows)), statistic)[0]
