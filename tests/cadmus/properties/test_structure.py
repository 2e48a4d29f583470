"""Measured properties: planted truths, known distributions, the coverage of intervals, two samples."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cadmus.machine import tokens, vm
from cadmus.programs import skeletons
from cadmus.properties import behaviour, structure
from cadmus.properties.divergence import divergence
from tests import programs as random_programs

OPERATORS = np.array([vm.VOCAB.index(token) for token in "+-*/%xn<"], np.uint8)


def sample(*texts: str, times: int = 40) -> np.ndarray:
    """Each text `times` times."""
    return tokens.encode([text for text in texts for _ in range(times)])


def measure(programs: np.ndarray, *, seed: int = 0) -> pd.DataFrame:
    return structure.measure(programs, seed=seed).set_index("property")


def draws(rng: np.random.Generator, n: int, length: int) -> np.ndarray:
    """Programs of `length` tokens drawn uniformly from eight operators."""
    return np.pad(rng.choice(OPERATORS, (n, length)), [(0, 0), (0, 1)], constant_values=tokens.PAD)


# --- planted truths --------------------------------------------------------------------------------------------------

PLANTED = [  # texts, property, value, programs that it rests on (None: all)
    (["34+7=.", "1."], "length", 3, None),
    (["34+7=.", "1."], "longest", 5, None),
    (["34+7=.", "35+8=.", "3.", "4."], "distinct_programs", 4 / 160, None),
    (["34+7=.", "35+8=.", "3.", "4."], "duplication", 40, None),
    (["34+7=.", "35+8=.", "3.", "4."], "skeletons", 2, None),
    (["34+7=.", "35+8=.", "3.", "4."], "skeleton_entropy", 1, None),
    (["1+.", "1-.", "2*.", "3*."], "skeleton_entropy", 1.5, None),
    (["+.", "-.", "*."], "zipf_slope", 0, None),
    (["+-."], "token_entropy", np.log2(3), None),
    (["+-.", "-+."], "bigram_entropy", 1, None),  # after `.` one of two; after `+` and `-` the other or the end
    (["+-.", "-+."], "trigram_entropy", 1 / 3, None),  # only the first token is open
    (["34+7=."], "instruction_pairs", 4, None),  # 00 0+ +0 0=
    (["34+7=."], "pair_coverage", 4 / 3025, None),
    (["3.", "34."], "instruction_pairs", 1, 40),
    (["+.+-", "+-.*"], "instruction_pairs", 1, 40),  # what stands behind the end is nothing
    (["123++6=.", "12+3+6=."], "depth", 2.5, None),
    (["{1+}1f1f."], "executed", 8, None),  # 4 in the main text, 2 in each call
    (["{1-f}1f."], "executed", 1 + 8 * 3 + 1, None),  # the ninth call is not made
    (["34+7=."], "value_coverage", 4, None),  # 3 4 7 1
    (["34+7=.", "a.", "(."], "value_coverage", 4, 40),
    (["34+72*+."], "value_entropy", np.log2(3), None),  # 7, 14 and 21
    (["34+7=."], "value_entropy", 0, None),  # 7; what a test leaves is none
    (["{5+}34+;7.", "19+.", "2"], "value_entropy", 1, 80),  # 7 and 10; what `;` uncovers and what `}` passes is none
    (["(1,2,.", "3."], "sequence_length", 1, 40),  # 0 1 2
    (["3A4Bab+7=.", "{Aa}1f."], "stores", 1.5, None),
    (["3A4Bab+7=.", "{Aaa}1f."], "loads", 2, None),
    (["3A4Bab+7=."], "read_distance", 2.5, None),  # A at 1, a at 4; B at 3, b at 5
    (["{Aa}3Aa.", "a."], "read_distance", 1, 40),  # definitions and empty registers left out
    (["3Aaa."], "read_distance", 1.5, None),
    (["3Aa{a;;}a."], "read_distance", 4, None),  # places in the text, definitions passed over
    (["3A4A5Baa.", "1."], "live_share", 1 / 3, 40),  # overwritten, read, never read
    (["3A{a}1f."], "live_share", 0, None),
    (["1Aa1+Bb1+C5D."], "chain", 7 / 4, None),  # 1 2 3 1
    (["1A2Bab+C."], "chain", 4 / 3, None),
    (["1Aa2BcCbD."], "chain", (1 + 2 + 1 + 3) / 4, None),  # an empty register adds nothing
    (["{1}{2}{3}{4}1f.", "1."], "definitions", 2, None),
    (["9f{1-}.", "{1-}9f.", "{1-}9g.", "9f."], "definition_after_use", 1 / 2, 80),
    (["3rM{1+}.", "{1-:0>\\F}8f0=.", "8f{1-:0>\\F}.", "{1}1h{2}{3}."], "definition_after_use", 3 / 4, None),
    (["12+3+6=.", "123++6=.", "12*3*9=."], "behavioural_duplicates", 2 / 3, None),
    (["123++6=.", "12+3+."], "behavioural_duplicates", 0, None),  # not as many digits
]


@pytest.mark.parametrize(("texts", "name", "value", "n"), PLANTED, ids=lambda field: str(field))
def test_planted_truth(texts: list[str], name: str, value: float, n: int | None) -> None:
    row = measure(sample(*texts)).loc[name]
    assert row.n == (40 * len(texts) if n is None else n)
    if name.endswith("entropy"):  # corrected for a bias that an exactly balanced sample does not have
        assert row.value == pytest.approx(value, abs=0.025)
    else:
        assert row.value == pytest.approx(value)
        assert name == "longest" or row.low - 1e-9 <= value <= row.high + 1e-9


def test_every_property_is_planted() -> None:
    assert {name for _, name, _, _ in PLANTED} | {"lempel_ziv"} == set(structure.PROPERTIES)


def test_the_table_has_one_row_per_property() -> None:
    table = structure.measure(sample("34+7=."))
    assert list(table) == ["property", "value", "low", "high", "unit", "n", "doc"]
    assert list(table.property) == list(structure.PROPERTIES)
    for row, (name, about) in zip(table.itertuples(), structure.PROPERTIES.items(), strict=True):
        assert (row.property, row.unit, row.doc) == (name, about.unit, about.doc) == (about.name, row.unit, row.doc)
        assert "\n" not in row.doc


@pytest.mark.slow
def test_executed_depth_and_values_against_the_plain_machine() -> None:
    texts = [text for text in random_programs.stream(4, 300) if text.partition(".")[0]]
    table = measure(tokens.encode(texts, max(map(len, texts)) + 1))
    runs = [vm.run(text) for text in texts]
    assert table.value.depth == pytest.approx(np.mean([max(len(s.stack) for s in run.states) for run in runs]))
    assert table.value.executed == pytest.approx(np.mean([vm.FUEL - run.states[-1].fuel for run in runs]))
    tops = {s.stack[-1].v for run in runs for s in run.states if s.stack and isinstance(s.stack[-1], vm.Int)}
    assert table.value.value_coverage == len(tops)


# --- behaviour -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("00+0=", "00\\+0=", True),
        ("00+0=", "000\\+\\=", False),  # the second and the third digit, against the first
        ("00=", "00\\=", True),
        ("00<", "00\\>", True),
        ("00<", "00>", False),
        ("00<!", "00\\>!", True),
        ("00<", "00<!", False),
        ("00=", "00-", False),
        ("{0+}0f0=", "0f0={0\\+}", False),  # the text order of the digits counts
        ("{+}00=", "00={-}", True),  # a test in front of a definition is the last of the main text
        ("00+0+0+0=", "00*0*0*0=", False),  # both are 0 on nearly every refill
        ("(0,0,R", "(0,0,O", False),  # elements count
        ("(0,0,RR", "(0,0,", True),
        ("(0,0,", "00(,\\;0", False),
        ("00'", "00;", False),  # tags count
        ("(0,0(,=", "0(,(0,0,=", False),
        ("(0,(0,=", "(0,(0,\\=", True),
        ("(0,(0,<", "(0,(0,\\>", True),
        ("!", "!!", False),
        ("a", "b", True),  # NAN both
        ("00000", "0;0000", False),  # the depth below the top 4 counts
    ],
)
def test_behaviour(one: str, other: str, alike: bool) -> None:
    codes = behaviour.behaviours(tokens.encode([one, other, "x"], 12))
    assert (codes[0] == codes[1]) == alike


@pytest.mark.slow
def test_skeletons_that_behave_alike_have_equal_verdicts() -> None:
    rng = np.random.default_rng(2)
    texts = random_programs.stream(9, 600)
    forms = np.unique(skeletons.skeletons(tokens.encode(texts, max(map(len, texts)) + 1)), axis=0)
    codes = behaviour.behaviours(forms)
    digits = np.random.default_rng(3).integers(0, 10, (16, (forms < 10).sum(1).max()), np.uint8)
    agree = 0
    for code in np.flatnonzero(np.bincount(codes) > 1):
        one, other = rng.permutation(np.flatnonzero(codes == code))[:2]
        for refill in digits:
            pair = forms[[one, other]]
            for program in pair:
                program[program < 10] = refill[: (program < 10).sum()]
            first, second = (vm.verdict(text) for text in tokens.decode(pair))
            assert first == second, tokens.decode(pair)
            agree += 1
    assert agree > 100


def test_few_skeletons_are_run_of_many(monkeypatch) -> None:
    monkeypatch.setattr(structure, "SKELETONS_RUN", 10)
    row = measure(draws(np.random.default_rng(0), 500, 6)).loc["behavioural_duplicates"]
    assert row.n == 10
    assert 0 <= row.low <= row.value <= row.high <= 1


# --- known distributions ---------------------------------------------------------------------------------------------


def binary_entropy(p: float) -> float:
    return -p * np.log2(p) - (1 - p) * np.log2(1 - p)


def entropies(k: int, length: int) -> dict[str, float]:
    """Of programs of `length` tokens uniform over k, the closing `.` predicted too."""
    predicted, bits = length + 1, np.log2(k)
    return {
        "token_entropy": binary_entropy(1 / predicted) + length / predicted * bits,
        "bigram_entropy": (length * binary_entropy(1 / length) + length * bits) / predicted,
        "trigram_entropy": ((length - 1) * binary_entropy(1 / (length - 1)) + length * bits) / predicted,
    }


@pytest.mark.slow
def test_entropies_of_uniform_tokens() -> None:
    table = measure(draws(np.random.default_rng(0), 4000, 15))
    for name, value in entropies(8, 15).items():
        assert table.value[name] == pytest.approx(value, abs=0.005), name
    assert table.value.distinct_programs == 1
    assert table.value.duplication == 1


@pytest.mark.slow
def test_the_bias_of_a_small_sample_is_corrected() -> None:
    """Plug-in trigram entropy of 60 programs lies 0.3 bits too low."""
    mean_entropy = np.mean([measure(draws(np.random.default_rng(i), 60, 15)).value.trigram_entropy for i in range(12)])
    assert mean_entropy == pytest.approx(entropies(8, 15)["trigram_entropy"], abs=0.08)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.6])
def test_zipf_slope(exponent: float) -> None:
    rng = np.random.default_rng(1)
    share = np.arange(1, 301.0) ** -exponent
    kinds = np.unique(draws(rng, 400, 4), axis=0)[:300]
    table = measure(kinds[rng.choice(300, 20_000, p=share / share.sum())])
    assert table.value.zipf_slope == pytest.approx(exponent, abs=0.04)
    assert table.low.zipf_slope < table.value.zipf_slope < table.high.zipf_slope


def uniform_stream(rng: np.random.Generator, n: int) -> np.ndarray:
    """Programs that, one after the other with their `.`, are uniform over the 65 tokens."""
    lengths = rng.geometric(1 / 65, n) - 1
    programs = rng.choice(np.delete(np.arange(65, dtype=np.uint8), tokens.PAD), (n, lengths.max() + 1))
    return np.where(np.arange(programs.shape[1]) < lengths[:, None], programs, np.uint8(tokens.PAD))


@pytest.mark.slow
def test_lempel_ziv_is_1_for_noise_and_near_0_for_repetition() -> None:
    noise = measure(uniform_stream(np.random.default_rng(3), 1000)).loc["lempel_ziv"]
    assert noise.value == pytest.approx(1, abs=0.01)
    assert noise.low <= 1 <= noise.high
    assert noise.n == 1000
    assert measure(sample("+" * 60, times=1500)).value.lempel_ziv < 0.06
    operators = measure(draws(np.random.default_rng(4), 3000, 40)).value.lempel_ziv
    assert np.log(8) / np.log(65) < operators < np.log(8) / np.log(65) + 0.12  # converges slowly, from above


def test_lempel_ziv_phrases_by_hand() -> None:
    text = tokens.encode(["++-+-+--"])[0]  # + | +- | +-+ | - | -
    assert structure._phrases(text).tolist() == [1, 2, 2, 3, 3, 3, 4, 5]


def test_lempel_ziv_reads_no_more_than_its_limit(monkeypatch) -> None:
    monkeypatch.setattr(structure, "LEMPEL_ZIV_TOKENS", 700)
    assert measure(draws(np.random.default_rng(0), 100, 6)).n.lempel_ziv == 100
    assert measure(draws(np.random.default_rng(0), 200, 6)).n.lempel_ziv == 100


# --- intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_intervals_cover_the_truth() -> None:
    """Means, a ratio of sums and an entropy of a known mixture of four programs: 88 to 100 of 100."""
    rng = np.random.default_rng(11)
    texts, shares = ["3Aa+", "3A3B4", "+-*/%", "12n3<"], np.array([0.3, 0.2, 0.4, 0.1])
    truth = {
        "length": shares @ [4, 5, 5, 5],
        "depth": shares @ [1, 1, 1, 2],
        "stores": shares @ [1, 2, 0, 0],
        "live_share": 0.3 / (0.3 + 2 * 0.2),
        "skeleton_entropy": -(shares * np.log2(shares)).sum(),
    }
    array = tokens.encode(texts, 6)
    covered = dict.fromkeys(truth, 0)
    for _ in range(100):
        table = measure(array[rng.choice(4, 150, p=shares)])
        for name, value in truth.items():
            covered[name] += table.low[name] <= value <= table.high[name]
    assert all(88 <= count <= 100 for count in covered.values()), {k: int(v) for k, v in covered.items()}


def test_an_interval_that_rests_on_one_program_is_nan() -> None:
    row = measure(np.vstack([sample("+-**."), tokens.encode(["3Aa."], 5)])).loc["read_distance"]
    assert (row.value, row.n) == (1, 1)
    assert np.isnan(row.low)
    assert np.isnan(row.high)


# --- what is measured where ------------------------------------------------------------------------------------------


def test_what_has_no_meaning_is_nan() -> None:
    table = measure(sample("+."))
    nothing = ["zipf_slope", "value_entropy", "sequence_length", "read_distance", "live_share", "chain"]
    assert sorted(table.index[table.value.isna()]) == sorted([*nothing, "definition_after_use"])
    assert table.loc[table.value.isna(), ["low", "high"]].isna().all(axis=None)
    assert table.n.definition_after_use == 0
    assert table.value.value_coverage == table.value.instruction_pairs == 0


@pytest.mark.slow
def test_neither_row_order_nor_padding_nor_what_follows_the_end_matters() -> None:
    texts = random_programs.stream(5, 200)
    array = tokens.encode(texts, max(map(len, texts)) + 1)
    expected = structure.measure(array, seed=3)
    shuffled = np.pad(np.random.default_rng(0).permutation(array), [(0, 0), (0, 9)], constant_values=tokens.PAD)
    behind = np.arange(shuffled.shape[1]) > tokens.lengths(shuffled)[:, None]
    for other in (array, shuffled, np.where(behind, np.uint8(40), shuffled)):
        pd.testing.assert_frame_equal(structure.measure(other, seed=3), expected)
    assert not structure.measure(array, seed=4).equals(expected)


@pytest.mark.parametrize(
    ("programs", "message"),
    [
        (np.zeros((0, 5), np.uint8), "0 programs are too few for intervals over 20 groups; pass 40 or more"),
        (sample("1+.", times=39), "39 programs are too few for intervals over 20 groups; pass 40 or more"),
        (np.zeros(50, np.uint8), r"programs must be a uint8 array \[n, length\], not uint8 \[50\]; see tokens.encode"),
        (np.zeros((50, 3)), r"programs must be a uint8 array \[n, length\], not float64 \[50, 3\]; see tokens.encode"),
        (np.full((50, 3), 65, np.uint8), r"token id 65 in program 0 at position 0 is outside 0\.\.64"),
        (tokens.sequences(sample("1+.")), "every program begins with `.`, so is empty; pass programs without the lead"),
    ],
)
def test_errors(programs: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        structure.measure(programs)
    with pytest.raises(ValueError, match=message):
        divergence(sample("1+."), programs)


# --- two samples -----------------------------------------------------------------------------------------------------


def diverged(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    return tuple(divergence(a, b).value)


@pytest.mark.parametrize(
    ("a", "b", "atom", "compound"),
    [
        (["+-."], ["+-."], 0, 0),
        (["+-."], ["*/."], 1, 1),
        (["+."], ["+-."], 1 - 0.5**0.5, np.nan),
        (["+-."], ["+-.", "-+."], 0, 1 - 0.5**0.9),
        (["+-.", "-+."], ["+-."], 0, 1 - 0.5**0.1),
        (["+-*."], ["+-."], 1 - (2 / 3) ** 0.5, 1 - (1 / 3) ** 0.1),  # two pairs and a triple against a pair
        (["12+."], ["34+."], 0, 0),  # digits are one
        (["1+."], ["+1."], 0, 1),
    ],
)
def test_divergence_by_hand(a: list[str], b: list[str], atom: float, compound: float) -> None:
    assert diverged(sample(*a), sample(*b)) == pytest.approx((atom, compound), abs=1e-9, nan_ok=True)


def test_divergence_of_one_distribution_is_about_its_floor() -> None:
    rng = np.random.default_rng(7)
    table = divergence(draws(rng, 2000, 12), draws(rng, 2000, 12)).set_index("property")
    assert list(table.columns) == ["value", "low", "high", "within_a", "within_b", "unit", "n_a", "n_b", "doc"]
    assert (table.value < 0.01).all()
    assert (table[["within_a", "within_b"]].mean(axis=1) > table.value).all()  # halves are smaller: a higher floor
    assert (table.n_a == 2000).all()


def test_divergence_intervals_cover_the_truth() -> None:
    """Atoms {+: 1/2, -: 1/2} against {+: 1/5, -: 4/5}."""
    rng, truth, covered = np.random.default_rng(8), 1 - 0.1**0.5 - 0.4**0.5, 0
    for _ in range(100):
        a, b = (np.where(rng.random((300, 4)) < p, OPERATORS[0], OPERATORS[1]) for p in (0.5, 0.2))
        row = divergence(a, b).iloc[0]
        covered += row.low <= truth <= row.high
    assert 88 <= covered <= 100


def test_divergence_depends_on_neither_order_nor_padding() -> None:
    rng = np.random.default_rng(9)
    a, b = draws(rng, 100, 5), draws(rng, 120, 7)
    expected = divergence(a, b, seed=2)
    wider = np.pad(rng.permutation(a), [(0, 0), (0, 3)], constant_values=tokens.PAD)
    pd.testing.assert_frame_equal(divergence(wider, b[::-1], seed=2), expected)
