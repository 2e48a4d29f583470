"""Measured properties of a sample of programs (a training distribution), each with a 95 % interval; and how far two
samples lie apart.

Intervals are a delete-a-group jackknife: the programs fall at random into 20 groups, the property is computed without
each group in turn, from counts and sums per group, and the interval is value -+ t(19) * sqrt(19/20 * the sum of
squared deviations of the 20 from their mean). The unit is the program, not the skeleton.

Entropies are corrected for their downward bias by the same jackknife (Zahl 1977): 20 * whole - 19 * mean of the 20.
Shares are cut at 0 and 1, everything else at 0. What has no meaning in a sample is NaN, and so is an interval that
rests on a single group.

Programs are put into a canonical order first, so neither row order nor padding matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numba import njit
from scipy.optimize import brentq

from cadmus import kernel, state_properties, tokens, vm

GROUPS = 20
FEWEST = 2 * GROUPS  # programs in a sample
ZIPF_FLOOR = 5  # occurrences of a skeleton that has a rank: below it, ranks are mostly noise
LEMPEL_ZIV_TOKENS = 200_000
SKELETONS_RUN = 5_000  # skeletons examined for behavioural duplicates

_T = 2.0930240544  # 97.5 % quantile of Student's t with GROUPS - 1 degrees of freedom
_VOCABULARY = len(vm.VOCAB)
_POSSIBLE_PAIRS = (_VOCABULARY - 1 - 9) ** 2  # any token may follow any; no `.` inside a program, ten digits are one

Statistic = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Property:
    """What a measured property is: `unit`, and in `doc`, one line, what makes it high or low."""

    name: str
    unit: str
    doc: str


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
        *("zipf_slope", "exponent"),
        "s in frequency ~ rank^-s of the skeletons seen 5 times or more (maximum likelihood over their ranks; NaN for "
        "fewer than 3 of them); 0 where all are equally frequent, high where a few dominate",
    ),
    ("token_entropy", "bits/token", "entropy of the tokens, each program's `.` included; log2 65 = 6.02 at most"),
    ("bigram_entropy", "bits/token", "entropy of a token given the one before; low where syntax is rigid"),
    ("trigram_entropy", "bits/token", "entropy of a token given the two before; low where syntax is rigid"),
    (
        *("lempel_ziv", "ratio"),
        "LZ78 phrases of the programs written one after the other (200,000 tokens at most) / those of uniformly random "
        "tokens; 1 where nothing repeats, low where passages do (0.05 for one token repeated: LZ78 learns slowly)",
    ),
    ("instruction_pairs", "pairs", "distinct adjacent pairs of tokens, digits as one, at this sample size"),
    ("pair_coverage", "share", "instruction_pairs / the 3,025 possible; low where instructions keep to few neighbours"),
    ("depth", "entries", "mean of each program's greatest stack depth; nested expressions make it high"),
    ("executed", "instructions", "mean executed instructions per program, 4,096 at most; calls make it exceed length"),
    ("value_coverage", "values", "distinct Ints that are ever on top of the stack, at this sample size"),
    ("value_entropy", "bits", "entropy of the Ints on top after tokens, digits apart, that leave a value"),
    ("sequence_length", "elements", "mean length of the Seqs on top of the stack after tokens that leave a value"),
    ("stores", "stores", "store instructions per program, definitions included"),
    ("loads", "loads", "load instructions per program, definitions included"),
    (
        *("read_distance", "tokens"),
        "mean tokens from a store to a load of its value (1: the next token), of main texts: what happens inside "
        "definitions is left out; high where values are kept for long",
    ),
    (
        *("live_share", "share"),
        "stores read before they are overwritten or the program ends, of main texts, definitions left out",
    ),
    (
        *("chain", "stores"),
        "mean over the stores of main texts of 1 + the longest chain of the registers loaded since the store before; "
        "1 where no stored value is made from a stored one",
    ),
    ("definitions", "definitions", "subroutine definitions per program"),
    (
        *("definition_after_use", "share"),
        "programs with a definition that stands behind the first call of its slot, of those that call what they define",
    ),
    (
        *("behavioural_duplicates", "share"),
        "skeletons that leave what another skeleton of the sample leaves on 16 random fillings of their digits, a "
        "closing test seen through (5,000 skeletons at most); high where many templates say one thing",
    ),
)


def measure(programs: np.ndarray, *, seed: int = 0) -> pd.DataFrame:
    """The properties of a sample of programs, uint8 [n, width], ids without the leading marker, padded with `.`.

    One row per property, in the order of `PROPERTIES`: property, value, low, high (95 %), unit, n, doc; n counts the
    programs that the value rests on. `seed` chooses groups, refills and what is examined where there is a limit.
    Raises ValueError for an array of another kind and for fewer than 40 programs.
    """
    sample = _sample(programs, seed)
    estimates = {
        **_of_texts(sample),
        **_of_skeletons(sample, seed),
        **_of_token_sequences(sample),
        **_of_registers_and_states(sample),
    }
    rows = [_row(PROPERTIES[name], estimates[name]) for name in PROPERTIES]
    return pd.DataFrame(rows, columns=["property", "value", "low", "high", "unit", "n", "doc"])


# --- samples and intervals -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sample:
    """programs uint8 [n, longest + 1], only padding behind each text; lengths int64 [n]; groups int64 [n]."""

    programs: np.ndarray
    lengths: np.ndarray
    groups: np.ndarray


@dataclass(frozen=True)
class _Estimate:
    """A value, what it is without each group (float [GROUPS]), and the number of programs that it rests on."""

    value: float
    replicates: np.ndarray
    n: int


def _sample(programs: np.ndarray, seed: int) -> _Sample:
    """The programs in a random order that depends on their texts and the seed alone."""
    programs = kernel.check(programs)
    if len(programs) < FEWEST:
        raise ValueError(
            f"{len(programs)} programs are too few for intervals over {GROUPS} groups; pass {FEWEST} or more"
        )
    programs = tokens.sequences(programs)[:, 1:]
    lengths = tokens.lengths(programs)
    if not lengths.any():
        raise ValueError("every program begins with `.`, so is empty; pass programs without the leading marker")
    clean = np.full((len(programs), lengths.max() + 1), tokens.PAD, np.uint8)
    clean[:, :-1] = programs[:, : clean.shape[1] - 1]
    by_text = np.argsort(clean.view(np.dtype((np.void, clean.shape[1]))).ravel(), kind="stable")
    content = int(tokens.hashes(clean, "cadmus properties 1").sum())  # so that samples do not share their grouping
    order = by_text[np.random.default_rng([seed, content]).permutation(len(programs))]
    return _Sample(clean[order], lengths[order], np.arange(len(programs)) % GROUPS)


def _row(about: Property, estimate: _Estimate) -> tuple:
    return about.name, *_interval(about, estimate), about.unit, estimate.n, about.doc


def _interval(about: Property, estimate: _Estimate) -> tuple[float, float, float]:
    """Value, low and high; the bounds are NaN where a replicate is."""
    deviations = estimate.replicates - estimate.replicates.mean()
    margin = _T * np.sqrt((GROUPS - 1) / GROUPS * (deviations**2).sum())
    within = np.clip([estimate.value - margin, estimate.value + margin], 0, 1 if about.unit == "share" else None)
    return float(estimate.value), float(within[0]), float(within[1])


def _ratio(sample: _Sample, numerator: np.ndarray, denominator: np.ndarray | None = None) -> _Estimate:
    """Sum of one count per program over the sum of another, both [n]; without a denominator, the mean."""
    denominator = np.ones(len(numerator)) if denominator is None else denominator
    sums = np.stack([np.bincount(sample.groups, column, GROUPS) for column in (numerator, denominator)])
    with np.errstate(invalid="ignore"):
        over, under = np.column_stack([sums.sum(1), sums.sum(1, keepdims=True) - sums])
        values = over / under
    return _Estimate(values[0], values[1:], int(np.count_nonzero(denominator)))


def _counts(codes: np.ndarray, groups: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """How often each code below `size` occurs, int64 [size]: in all, then without each group in turn."""
    total = np.bincount(codes, minlength=size)
    yield total
    for group in range(GROUPS):
        yield total - np.bincount(codes[groups == group], minlength=size)


def _from_counts(
    codes: np.ndarray, groups: np.ndarray, size: int, n: int, *statistics: Statistic
) -> tuple[_Estimate, ...]:
    """Statistics of the counts of codes; codes and groups are [events], n is the number of programs."""
    values = np.array([[statistic(counts) for statistic in statistics] for counts in _counts(codes, groups, size)])
    return tuple(_Estimate(column[0], column[1:], n) for column in values.T)


def _without_bias(estimate: _Estimate) -> _Estimate:
    corrected = GROUPS * estimate.value - (GROUPS - 1) * estimate.replicates.mean()
    return _Estimate(np.maximum(corrected, 0), estimate.replicates, estimate.n)


def _entropy(counts: np.ndarray) -> float:
    """Of the shares that counts have, in bits; NaN where there are none."""
    counts = counts[counts > 0].astype(float)
    total = counts.sum()
    return float(np.log2(total) - (counts * np.log2(counts)).sum() / total) if total else np.nan


# --- texts and skeletons ---------------------------------------------------------------------------------------------


def _of_texts(sample: _Sample) -> dict[str, _Estimate]:
    n = len(sample.programs)
    kinds, codes = np.unique(tokens.hashes(sample.programs, "cadmus properties 1"), return_inverse=True)
    distinct, duplication = _from_counts(
        *(codes, sample.groups, len(kinds), n),
        lambda counts: np.count_nonzero(counts) / counts.sum(),
        lambda counts: counts.sum() / np.count_nonzero(counts),
    )
    return {
        "length": _ratio(sample, sample.lengths),
        "longest": _Estimate(float(sample.lengths.max()), np.full(GROUPS, np.nan), n),
        "distinct_programs": distinct,
        "duplication": duplication,
    }


def _of_skeletons(sample: _Sample, seed: int) -> dict[str, _Estimate]:
    n = len(sample.programs)
    skeletons = tokens.skeletons(sample.programs)
    kinds, first, codes = np.unique(tokens.hashes(skeletons, "cadmus properties 1"), True, True)
    distinct, entropy, slope = _from_counts(
        codes, sample.groups, len(kinds), n, np.count_nonzero, _entropy, _zipf_exponent
    )
    return {
        "skeletons": distinct,
        "skeleton_entropy": _without_bias(entropy),
        "zipf_slope": slope,
        "behavioural_duplicates": _behavioural_duplicates(sample, skeletons[first], codes, seed),
    }


def _zipf_exponent(counts: np.ndarray) -> float:
    """The exponent s of P(rank) ~ rank^-s among the skeletons with ZIPF_FLOOR occurrences, by maximum likelihood: where
    the expected log rank is the observed one."""
    counts = np.sort(counts[counts >= ZIPF_FLOOR])[::-1]
    if len(counts) < 3:
        return np.nan
    log_rank = np.log(np.arange(1, len(counts) + 1))
    observed = counts @ log_rank / counts.sum()

    def surplus(exponent: float) -> float:
        weights = np.exp(-exponent * log_rank)
        return weights @ log_rank / weights.sum() - observed

    return float(brentq(surplus, 0.0, 60.0)) if surplus(0.0) > 1e-12 else 0.0


def _behavioural_duplicates(sample: _Sample, skeletons: np.ndarray, codes: np.ndarray, seed: int) -> _Estimate:
    """skeletons uint8 [distinct, width]; codes [n]: the skeleton of each program."""
    rng = np.random.default_rng([seed, 1])
    examined = rng.permutation(len(skeletons))[:SKELETONS_RUN]
    behaviours = state_properties.behaviours(skeletons[examined], rng)
    place = np.full(len(skeletons), -1)
    place[examined] = np.arange(len(examined))
    codes = place[codes]

    def share(counts: np.ndarray) -> float:
        present = behaviours[counts > 0]
        return float((np.bincount(present)[present] > 1).mean()) if len(present) else np.nan

    inside = codes >= 0
    return _from_counts(codes[inside], sample.groups[inside], len(examined), int(inside.sum()), share)[0]


# --- token sequences -------------------------------------------------------------------------------------------------


def _of_token_sequences(sample: _Sample) -> dict[str, _Estimate]:
    n, width = sample.programs.shape
    marked = np.full((n, width + 2), tokens.PAD, np.int64)  # the marker stands for both tokens before the first
    marked[:, 2:] = sample.programs
    predicted = np.arange(width) <= sample.lengths[:, None]  # the closing `.` too
    groups = np.broadcast_to(sample.groups[:, None], (n, width))[predicted]
    trigrams = ((marked[:, :-2] * _VOCABULARY + marked[:, 1:-1]) * _VOCABULARY + marked[:, 2:])[predicted]
    unigram, bigram, trigram = _from_counts(
        *(trigrams, groups, _VOCABULARY**3, n),
        lambda counts: _entropy(counts.reshape(-1, _VOCABULARY).sum(0)),
        lambda counts: _conditional_entropy(counts.reshape(_VOCABULARY, -1).sum(0)),
        _conditional_entropy,
    )
    pairs, pair_groups = _compounds(sample, 2)
    pair_programs = int((sample.lengths > 1).sum())
    observed, coverage = _from_counts(
        *(pairs, pair_groups, _VOCABULARY**2, pair_programs),
        np.count_nonzero,
        lambda counts: np.count_nonzero(counts) / _POSSIBLE_PAIRS,
    )
    return {
        "token_entropy": _without_bias(unigram),
        "bigram_entropy": _without_bias(bigram),
        "trigram_entropy": _without_bias(trigram),
        "lempel_ziv": _lempel_ziv(sample),
        "instruction_pairs": observed,
        "pair_coverage": coverage,
    }


def _conditional_entropy(counts: np.ndarray) -> float:
    """Of the last token given those before; counts [.. * 65], the last token's id varying fastest."""
    return _entropy(counts) - _entropy(counts.reshape(-1, _VOCABULARY).sum(1))


def _compounds(sample: _Sample, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Every `size` adjacent skeleton tokens inside a program as a code below 65^size, and its group: both [events]."""
    skeletons = tokens.skeletons(sample.programs).astype(np.int64)
    positions = max(0, skeletons.shape[1] - size + 1)
    codes = np.zeros((len(skeletons), positions), np.int64)
    for k in range(size):
        codes = codes * _VOCABULARY + skeletons[:, k : k + positions]
    inside = np.arange(positions) + size <= sample.lengths[:, None]
    return codes[inside], np.broadcast_to(sample.groups[:, None], codes.shape)[inside]


def _lempel_ziv(sample: _Sample) -> _Estimate:
    """LZ78 (Ziv & Lempel 1978) phrases of the text over those of a uniformly random text of its length."""
    sizes = sample.lengths + 1
    fits = np.cumsum(sizes) <= LEMPEL_ZIV_TOKENS
    fits[0] = True
    programs, sizes, groups = sample.programs[fits], sizes[fits], np.repeat(sample.groups[fits], sizes[fits])
    text = programs[np.arange(programs.shape[1]) < sizes[:, None]]
    random = np.random.default_rng(0).integers(0, _VOCABULARY, len(text), np.uint8)  # the same for every sample
    of_random = _phrases(random)

    def ratio(text: np.ndarray) -> float:
        return _phrases(text)[-1] / of_random[len(text) - 1]

    replicates = np.array([ratio(text[groups != group]) for group in range(GROUPS)])
    return _Estimate(ratio(text), replicates, int(fits.sum()))


@njit(cache=True, nogil=True)
def _phrases(text):
    """LZ78 phrases begun by each token, int64 [tokens]: a phrase is the longest earlier phrase and one token more."""
    begun = np.empty(len(text), np.int64)
    child = np.zeros((len(text) + 1, _VOCABULARY), np.int32)  # node 0 is the root
    nodes, node, phrases = 1, 0, 0
    for i in range(len(text)):
        phrases += node == 0
        begun[i] = phrases
        following = child[node, text[i]]
        if following == 0:
            child[node, text[i]] = nodes
            nodes += 1
        node = following
    return begun


# --- registers and states --------------------------------------------------------------------------------------------


def _of_registers_and_states(sample: _Sample) -> dict[str, _Estimate]:
    texts = state_properties.structure(sample.programs)
    states = state_properties.states(sample.programs, texts.main)
    coverage = _value_counts(sample, states.values, states.rows, np.count_nonzero)
    computed = states.computed
    entropy = _value_counts(sample, states.values[computed], states.rows[computed], _entropy)
    return {
        "depth": _ratio(sample, states.depth),
        "executed": _ratio(sample, states.executed),
        "value_coverage": coverage,
        "value_entropy": _without_bias(entropy),
        "sequence_length": _ratio(sample, states.lengths, states.sequences),
        "stores": _ratio(sample, texts.stores),
        "loads": _ratio(sample, texts.loads),
        "read_distance": _ratio(sample, texts.distances, texts.reads),
        "live_share": _ratio(sample, texts.live_stores, texts.main_stores),
        "chain": _ratio(sample, texts.chains, texts.main_stores),
        "definitions": _ratio(sample, texts.definitions),
        "definition_after_use": _ratio(sample, texts.late, texts.used),
    }


def _value_counts(sample: _Sample, values: np.ndarray, rows: np.ndarray, statistic: Statistic) -> _Estimate:
    """A statistic of how often each value occurs; values and the programs they belong to, rows, are [events]."""
    kinds, codes = np.unique(values, return_inverse=True)
    return _from_counts(codes, sample.groups[rows], len(kinds), len(np.unique(rows)), statistic)[0]


# --- two samples -----------------------------------------------------------------------------------------------------

_DIVERGENCES = _table(
    ("atom_divergence", "share", "1 - sum of a^0.5 b^0.5 over tokens, digits as one; 0 for equal, 1 for disjoint use"),
    (
        *("compound_divergence", "share"),
        "1 - sum of a^0.1 b^0.9 over adjacent pairs and triples of tokens, digits as one; high where b combines tokens "
        "as a never does",
    ),
)


def divergence(a: np.ndarray, b: np.ndarray, *, seed: int = 0) -> pd.DataFrame:
    """Atom and compound divergence of two samples of programs: a, what was trained on, and b, what is tested.

    1 - the Chernoff coefficient (Keysers et al. 2020, arXiv 1912.09713, section 2.2), alpha 0.5 for atoms and 0.1 for
    compounds: compounds of b that a lacks count fully, their exact frequency in a counts little, so order matters.
    Compounds are adjacent pairs and triples, all with equal weight (the paper weights subgraphs). Samples as for
    `measure`. Columns property, value, low, high, within_a, within_b, unit, n_a, n_b, doc.

    Two samples of one distribution diverge by more than 0, the more the smaller they are: take samples of equal size,
    and read the value beside within_a and within_b, the divergence of two random halves of each sample.
    """
    first, second = (
        _sample(a, seed),
        _sample(b, seed + 1),
    )  # another seed, or equal samples would fall into equal groups
    rows = []
    for name, sizes, alpha in (("atom_divergence", (1,), 0.5), ("compound_divergence", (2, 3), 0.1)):
        codes_a, codes_b = (_combined(sample, sizes) for sample in (first, second))
        size = sum(_VOCABULARY**k for k in sizes)
        pairs = zip(_counts(*codes_a, size), _counts(*codes_b, size))
        values = np.array([1 - _chernoff(p, q, alpha) for p, q in pairs])
        estimate = _Estimate(np.maximum(values[0], 0), values[1:], 0)
        within = [1 - _chernoff(*_halves(codes, groups, size), alpha) for codes, groups in (codes_a, codes_b)]
        about = _DIVERGENCES[name]
        interval = _interval(about, estimate)
        rows.append((name, *interval, *within, about.unit, len(first.programs), len(second.programs), about.doc))
    columns = ["property", "value", "low", "high", "within_a", "within_b", "unit", "n_a", "n_b", "doc"]
    return pd.DataFrame(rows, columns=columns)


def _combined(sample: _Sample, sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The compounds of several sizes in one range of codes, and their groups: both [events]."""
    parts, offset = [], 0
    for size in sizes:
        codes, groups = _compounds(sample, size)
        parts.append((codes + offset, groups))
        offset += _VOCABULARY**size
    return tuple(map(np.concatenate, zip(*parts)))


def _halves(codes: np.ndarray, groups: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.bincount(codes[groups % 2 == half], minlength=size) for half in (0, 1))


def _chernoff(a: np.ndarray, b: np.ndarray, alpha: float) -> float:
    """The Chernoff coefficient of two distributions given as counts [size]; NaN where one is empty."""
    if not (a.any() and b.any()):
        return np.nan
    both = (a > 0) & (b > 0)
    return float(((a[both] / a.sum()) ** alpha * (b[both] / b.sum()) ** (1 - alpha)).sum())
