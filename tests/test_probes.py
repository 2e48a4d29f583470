"""Probes, intervals and controls against references and planted truths: what is there is found, what is not is not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from cadmus import corpus, kernel, labels, mixture, tokens
from cadmus.build import build
from cadmus.families import Compare, Register
from cadmus.families.expressions import pool
from cadmus.model import Model, ModelConfig
from probes import stats
from probes.bank import ALPHAS, RidgeFitter
from probes.controls import Majority, prefix_majority, untrained_twin
from probes.harvest import FOLDS, harvest, residual_sites, skeleton_folds, skeleton_ids
from probes.logistic import fit_on_validation

CFG = ModelConfig(n_layers=2, d_model=32, n_heads=2, d_head=16, d_mlp=48, n_ctx=32, initializer_range=0.3)


def regression(n: int, seed: int = 0, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """x [n, 6], correlated and off centre, and two linear targets of it with noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)) @ np.random.default_rng(99).normal(size=(6, 6)) + 3
    y = x @ np.random.default_rng(98).normal(size=(6, 2)) - 7 + noise * rng.normal(size=(n, 2))
    return x, y


# --- ridge -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1e-2, 1.0, 30.0, 1e4])
def test_ridge_is_scikit_learns(alpha: float) -> None:
    x, y = regression(80)
    probe = RidgeFitter(6, 2).update(x, y).fit(alphas=(alpha,))
    expected = Ridge(alpha=alpha).fit(x, y)
    assert probe.coef_.shape == (6, 2)
    assert np.allclose(probe.coef_, expected.coef_.T, atol=1e-8)
    assert np.allclose(probe.intercept_, expected.intercept_, atol=1e-7)
    assert np.allclose(probe.predict(x), expected.predict(x), atol=1e-7)
    assert probe.alpha_.tolist() == [alpha, alpha]


def test_the_penalty_matters_where_it_is_compared() -> None:
    x, y = regression(80)
    weak, strong = (RidgeFitter(6, 2).update(x, y).fit(alphas=(alpha,)).coef_ for alpha in (1e-2, 1e4))
    assert np.abs(weak - strong).max() > 0.1


def test_ridge_of_batches_and_of_processes_is_ridge_of_all() -> None:
    x, y = regression(90)
    whole = RidgeFitter(6, 2).update(x, y).fit(alphas=(1.0,))
    batches = RidgeFitter(6, 2)
    for rows in (slice(0, 1), slice(1, 50), slice(50, 50), slice(50, 90)):
        batches.update(x[rows], y[rows])
    left, right = RidgeFitter(6, 2).update(x[:20], y[:20]), RidgeFitter(6, 2).update(x[20:], y[20:])
    for fitter in (batches, left + right):
        probe = fitter.fit(alphas=(1.0,))
        assert np.allclose(probe.coef_, whole.coef_, atol=1e-10)
        assert np.allclose(probe.intercept_, whole.intercept_, atol=1e-9)
    assert left.n.tolist() == [20, 20], "+ changed what it added"


def test_single_precision_activations_are_summed_in_double() -> None:
    x, y = regression(4000)
    x = (x + 100).astype(np.float32)
    probe = RidgeFitter(6, 2).update(x, y.astype(np.float32)).fit(alphas=(1e-2,))
    expected = Ridge(alpha=1e-2).fit(x.astype(np.float64), y.astype(np.float32).astype(np.float64))
    assert np.allclose(probe.coef_, expected.coef_.T, atol=1e-6)


def test_targets_have_their_own_rows() -> None:
    x, y = regression(80)
    defined = np.random.default_rng(1).random((80, 2)) < [0.3, 0.8]
    garbage = np.where(defined, y, 1e6)
    probe = RidgeFitter(6, 2).update(x, garbage, defined).fit(alphas=(1.0,))
    for target in range(2):
        rows = defined[:, target]
        expected = Ridge(alpha=1.0).fit(x[rows], y[rows, target])
        assert np.allclose(probe.coef_[:, target], expected.coef_, atol=1e-8)
        assert probe.intercept_[target] == pytest.approx(expected.intercept_)


def test_validation_chooses_the_best_penalty_for_each_target() -> None:
    """One target is clean, the other mostly noise: the second wants a stronger penalty."""
    x, y = regression(30)
    x_new, y_new = regression(500, seed=1)
    for values, rng in ((y, np.random.default_rng(5)), (y_new, np.random.default_rng(6))):
        values[:, 1] = 0.02 * values[:, 1] + rng.normal(size=len(values))
    fitter, validation = RidgeFitter(6, 2).update(x, y), RidgeFitter(6, 2).update(x_new, y_new)
    probe = fitter.fit(validation=validation)
    for target in range(2):
        losses = [((fitter.fit(alphas=(a,)).predict(x_new) - y_new)[:, target] ** 2).sum() for a in ALPHAS]
        assert probe.alpha_[target] == ALPHAS[int(np.argmin(losses))]
        assert len(set(losses)) == len(ALPHAS)
        assert np.allclose(
            probe.coef_[:, target], fitter.fit(alphas=(float(probe.alpha_[target]),)).coef_[:, target], atol=1e-12
        )
    assert probe.alpha_[0] < probe.alpha_[1]


def test_ridge_refuses_what_it_cannot_fit() -> None:
    x, y = regression(20)
    with pytest.raises(ValueError, match=r"7 penalties need validation data to choose from; pass validation= or one"):
        RidgeFitter(6, 2).update(x, y).fit()
    y[:, 1] = 4.5
    with pytest.raises(ValueError, match=r"target 1 is constant \(4\.5\); there is nothing to probe"):
        RidgeFitter(6, 2).update(x, y).fit(alphas=(1.0,))
    with pytest.raises(ValueError, match="target 0 has 1 rows; a probe needs 2 or more"):
        RidgeFitter(6, 2).update(x[:1], y[:1]).fit(alphas=(1.0,))
    nothing = np.zeros((20, 2), np.bool_)
    with pytest.raises(ValueError, match="target 0 has 0 rows; a probe needs 2 or more"):
        RidgeFitter(6, 2).update(x, y, nothing).fit(alphas=(1.0,))


# --- intervals -------------------------------------------------------------------------------------------------------


def clustered(seed: int, clusters: int = 100, size: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong answers, far more alike within a skeleton than between; the share of right is 0.7."""
    rng = np.random.default_rng(seed)
    chance = rng.beta(0.7, 0.3, clusters)
    return rng.random((clusters, size)).ravel() < chance.repeat(size), np.arange(clusters).repeat(size)


def test_intervals_cover_the_truth_where_tokens_depend() -> None:
    """95 % over 300 data sets (4 standard errors are 5 %); a bootstrap over tokens covers it far too rarely."""
    by_skeleton = by_token = 0
    for seed in range(300):
        right, skeletons = clustered(seed)
        interval = stats.accuracy(right, skeletons, skeletons)
        by_skeleton += interval.low <= 0.7 <= interval.high
        assert interval.estimate == right.mean()
        assert interval.clusters == 100
        each = np.arange(len(right))
        interval = stats.accuracy(right, each, each)
        by_token += interval.low <= 0.7 <= interval.high
        assert interval.clusters == 2000
    assert 0.90 <= by_skeleton / 300 <= 0.99
    assert by_token / 300 < 0.70


def test_r_squared_interval_covers_the_truth() -> None:
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        skeletons = np.arange(80).repeat(5)
        signal = rng.normal(size=80).repeat(5)  # shared by a skeleton, as its error is
        error = 0.5 * rng.normal(size=80).repeat(5)
        interval = stats.r_squared(signal + error, signal, skeletons, skeletons, seed)
        covered += interval.low <= 1 - 0.25 / 1.25 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_few_skeletons_fall_back_to_programs() -> None:
    rng = np.random.default_rng(0)
    right, programs = rng.random(600) < 0.5, np.arange(200).repeat(3)
    assert stats.accuracy(right, programs % 29, programs).clusters == 200
    assert stats.accuracy(right, programs % 30, programs).clusters == 30
    sums = stats.cluster_sums(np.stack([right, np.ones(600)], 1), programs % 30, programs)
    assert sums[7].tolist() == [right[programs % 30 == 7].sum(), (programs % 30 == 7).sum()]
    assert np.allclose(sums.sum(0), [right.sum(), 600])


def test_perfect_scores_have_an_interval_too() -> None:
    """Of 40 skeletons that are right with 0.97 each, three data sets in ten show no error at all."""
    skeletons = np.arange(40).repeat(5)
    perfect = stats.accuracy(np.ones(200, np.bool_), skeletons, skeletons)
    assert (perfect.estimate, perfect.high, perfect.clusters) == (1, 1, 40)
    assert perfect.low == pytest.approx(40 / (40 + 1.96**2), abs=1e-4)  # Wilson 1927
    nothing = stats.accuracy(np.zeros(200, np.bool_), skeletons, skeletons)
    assert (nothing.estimate, nothing.low, nothing.high) == (0, 0, pytest.approx(1 - perfect.low))
    covered, without_error = 0, 0
    for seed in range(300):
        right = (np.random.default_rng(seed).random(40) < 0.97).repeat(5)
        interval = stats.accuracy(right, skeletons, skeletons)
        covered += interval.low <= 0.97 <= interval.high
        without_error += right.all()
    assert 60 <= without_error <= 120
    assert covered / 300 >= 0.90


def test_labels_of_clusters_may_be_anything() -> None:
    """Skeletons are 64-bit hashes: they must not be mixed up by rounding to float."""
    hashes = np.uint64(2**63) + np.arange(40, dtype=np.uint64).repeat(5)
    assert stats.accuracy(np.ones(200, np.bool_), hashes, hashes).clusters == 40


def test_r_squared_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(-20, 21, 500)
    for noise in (0.1, 5.0, 60.0):
        predicted = y + noise * rng.normal(size=500)
        interval = stats.r_squared(y, predicted, np.arange(500), np.arange(500))
        assert interval.estimate == pytest.approx(r2_score(y, predicted))
        assert interval.low < interval.estimate < interval.high


def test_bootstrap_is_fixed_by_its_seed_and_narrows_with_data() -> None:
    right, skeletons = clustered(0)
    first, again, other = (stats.accuracy(right, skeletons, skeletons, seed) for seed in (0, 0, 1))
    assert first == again
    assert first.estimate == other.estimate
    assert first.low != other.low
    more, more_skeletons = clustered(0, clusters=400)
    wide = first.high - first.low
    narrow = stats.accuracy(more, more_skeletons, more_skeletons)
    assert narrow.high - narrow.low == pytest.approx(wide / 2, rel=0.25)


def test_no_data_has_no_interval() -> None:
    nothing = np.zeros(0)
    with pytest.raises(ValueError, match="no clusters to resample: the score rests on no data"):
        stats.accuracy(nothing.astype(bool), nothing, nothing)


def test_columns_of_a_score() -> None:
    assert stats.columns("ridge", "R2", stats.Interval(0.5, 0.4, 0.6, 31)) == {
        "probe": "ridge",
        "metric": "R2",
        "score": 0.5,
        "low": 0.4,
        "high": 0.6,
        "clusters": 31,
    }


# --- controls --------------------------------------------------------------------------------------------------------


def test_majority_is_the_most_frequent_label_of_a_group() -> None:
    rng = np.random.default_rng(0)
    groups, values = rng.integers(0, 6, 300), rng.integers(-4, 5, 300)
    majority = Majority(values, groups)
    for group in range(6):
        counts = Counter(values[groups == group].tolist())
        assert counts[majority.predict(np.array([group])).item()] == max(counts.values())
    overall = Counter(values.tolist())
    assert overall[majority.predict(np.array([77])).item()] == max(overall.values()), "a group never seen"
    assert majority.predict(np.array([2, 77, 2])).shape == (3,)
    assert set(Majority(values, np.zeros(300)).predict(np.arange(3)).tolist()) == {majority.overall}


def test_untrained_twin_is_the_model_before_training() -> None:
    model = Model(CFG, seed=4)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1  # as training does
    twin = untrained_twin(model, seed=4)
    assert twin.cfg == model.cfg
    assert not twin.training
    for name, parameter in twin.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert not torch.equal(untrained_twin(model, seed=5).embed.W_E, before["embed.W_E"])
    assert torch.equal(model.embed.W_E, before["embed.W_E"] + 1), "the model itself was reset"


def generated(family: Compare, n: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Texts, and X and Y as the machine computes them: int [n, 2]."""
    programs = family.generate(n, np.random.default_rng(seed))
    traces = kernel.traces(programs, entries=2)
    at = 2 * family.length
    values = [labels.read(traces, name).values[:, at] for name in ("stack.1", "stack.0")]
    return tokens.decode(programs), np.stack(values, 1)


def within_four_errors(right: np.ndarray, expected: float) -> bool:
    return abs(right.mean() - expected) <= 4 * np.sqrt(max(expected * (1 - expected), 0) / len(right)) + 1e-12


def test_prefix_majority_of_the_paper_by_monte_carlo() -> None:
    """The best guess, found by counting expressions one by one, is right as often as `prefix_majority` says: for each
    of the 2 x 11 entries, on programs of the generator."""
    family = Compare()
    low, high, length = family.low, family.high, family.length
    weight_of = defaultdict(lambda: defaultdict(float))  # prefix -> value -> P(prefix | value)
    numbers = pool(length)
    for text, value in zip(
        tokens.decode(numbers.tokens), np.repeat(numbers.values, numbers.counts).tolist(), strict=True
    ):
        if low <= value <= high:
            for seen in range(1, length + 1):
                weight_of[text[:seen]][value] += 1 / dict_of_counts()[value]

    def given(x: int) -> dict[int, float]:
        return {
            y: family.equal_share if y == x else (1 - family.equal_share) / (high - low) for y in range(low, high + 1)
        }

    y_given = {x: given(x) for x in range(low, high + 1)}

    @cache
    def guess_x(prefix: str) -> int:
        return max(weight_of[prefix], key=weight_of[prefix].__getitem__)  # X is uniform

    @cache
    def guess_y_during_x(prefix: str) -> int:
        scores = {
            y: sum(weight * y_given[x][y] for x, weight in weight_of[prefix].items()) for y in range(low, high + 1)
        }
        return max(scores, key=scores.__getitem__)

    @cache
    def guess_y(x: int, prefix: str) -> int:
        scores = {y: weight * y_given[x][y] for y, weight in weight_of[prefix].items()}
        return max(scores, key=scores.__getitem__)

    texts, values = generated(family, 20_000, seed=0)
    expected = prefix_majority(family)
    assert expected.shape == (2, 11)
    for seen in range(1, 2 * length + 2):
        if seen <= length:
            guesses = [(guess_x(text[:seen]), guess_y_during_x(text[:seen])) for text in texts]
        else:
            pairs = zip(texts, values[:, 0].tolist(), strict=True)
            guesses = [(x, guess_y(x, text[length : min(seen, 2 * length)])) for text, x in pairs]
        right = np.array(guesses) == values
        for number in range(2):
            assert within_four_errors(right[:, number], expected[number, seen - 1]), (number, seen)


@cache
def dict_of_counts() -> dict[int, int]:
    numbers = pool(Compare().length)
    return dict(zip(numbers.values.tolist(), numbers.counts.tolist(), strict=True))


@pytest.mark.parametrize(
    "family",
    [
        Compare(low=-2, high=2, length=3, equal_share=0.3),
        Compare(low=0, high=4, length=1, equal_share=0.0),
        Compare(low=-1, high=1, length=3, equal_share=0.9),
    ],
    ids=str,
)
def test_prefix_majority_by_counting_programs(family: Compare) -> None:
    """No knowledge of the generator at all: guesses are counted on some programs and judged on others."""
    length = family.length
    (texts, values), (new_texts, new_values) = generated(family, 60_000, seed=0), generated(family, 20_000, seed=1)
    expected = prefix_majority(family)

    def groups(texts: list[str], values: np.ndarray, seen: int) -> Iterator[tuple]:
        for text, x in zip(texts, values[:, 0].tolist(), strict=True):
            yield (text[:seen],) if seen <= length else (x, text[length : min(seen, 2 * length)])

    for seen in range(1, 2 * length + 2):
        for number in range(2):
            counts = defaultdict(Counter)
            for group, value in zip(groups(texts, values, seen), values[:, number].tolist(), strict=True):
                counts[group][value] += 1
            best = {group: counted.most_common(1)[0][0] for group, counted in counts.items()}
            right = (
                np.array([best.get(group, -1) for group in groups(new_texts, new_values, seen)])
                == new_values[:, number]
            )
            assert within_four_errors(right, expected[number, seen - 1]), (number, seen)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_prefix_majority_by_thought(share: float) -> None:
    family = Compare(equal_share=share)
    first, second = prefix_majority(family)
    assert first[4:] == pytest.approx(1)  # X is computed
    assert second[9:] == pytest.approx(1)  # Y is computed
    for number in (first, second):
        assert (np.diff(number) > -1e-12).all(), "more is known, so that the best guess is right more often"
    assert second[4] == pytest.approx(max(share, (1 - share) / 40))  # X is known, of Y nothing but that
    assert 1 / 41 - 1e-12 <= second[0] <= first[0]
    one = Compare(low=4, high=4, equal_share=1.0)
    assert prefix_majority(one) == pytest.approx(1)


# --- harvest ---------------------------------------------------------------------------------------------------------


@cache
def programs(n: int = 50) -> np.ndarray:
    return build(mixture.load("first"), n).programs(np.arange(n))


def test_harvested_activations_are_the_models() -> None:
    model = Model(CFG)
    sites = [*residual_sites(model), "blocks.1.attn.hook_pattern", "blocks.0.mlp.hook_post"]
    _, whole = model.run_with_cache(torch.from_numpy(tokens.sequences(programs())))
    for batch_size in (7, 50, 512):
        covered = []
        for rows, activations in harvest(model, programs(), sites, batch_size=batch_size):
            assert list(activations) == sites
            assert rows.stop - rows.start <= batch_size
            covered += range(rows.start, rows.stop)
            for site in sites:
                assert activations[site].dtype == torch.float32
                assert not activations[site].requires_grad
                assert activations[site].shape == whole[site][rows].shape
                assert torch.allclose(activations[site], whole[site][rows], atol=1e-5), site
        assert covered == list(range(50))


def test_harvest_of_nothing_and_of_unknown_sites() -> None:
    model = Model(CFG)
    assert list(harvest(model, programs()[:0], residual_sites(model))) == []
    with pytest.raises(ValueError, match=r"site 'blocks\.2\.hook_resid_post' does not exist .*see model\.sites\(\)"):
        next(harvest(model, programs(), ["hook_embed", "blocks.2.hook_resid_post"]))


def test_residual_sites_are_the_depths() -> None:
    model = Model(CFG)
    assert residual_sites(model) == ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    assert set(residual_sites(model)) <= set(model.sites())


# --- folds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test_skeleton"])
def test_folds_are_of_whole_skeletons(split: str) -> None:
    """Also of held-out skeletons: the hash that set them apart must not decide their fold."""
    drawn = corpus.held_out(Register(assertions=3, low=-20, high=40, max_stores=8), split, 6000, seed=0)
    folds = skeleton_folds(drawn)
    assert folds.shape == (6000,)
    by_skeleton = defaultdict(set)
    for text, fold in zip(tokens.decode(drawn), folds.tolist(), strict=True):
        by_skeleton[tokens.skeleton(text)].add(fold)
    assert all(len(found) == 1 for found in by_skeleton.values())
    assert len(by_skeleton) > 3000
    assert len(by_skeleton) < 5990, "no skeleton comes twice, so that nothing could leak"
    shares = Counter(found.pop() for found in by_skeleton.values())
    for fold, share in zip(FOLDS, (0.6, 0.15, 0.25), strict=True):
        assert abs(shares[FOLDS.index(fold)] / len(by_skeleton) - share) < 4 * np.sqrt(share / len(by_skeleton))
    assert np.array_equal(skeleton_folds(drawn[::-1]), folds[::-1]), "whatever the order of the programs"


def test_skeleton_ids_are_one_per_skeleton() -> None:
    drawn = corpus.held_out(Compare(), "train", 3000, seed=0)
    skeletons = [tokens.skeleton(text) for text in tokens.decode(drawn)]
    ids = skeleton_ids(drawn).tolist()
    assert len(set(ids)) == len(set(skeletons)) == len(set(zip(ids, skeletons, strict=True)))
    assert len(set(ids)) < 3000


# --- planted truth ---------------------------------------------------------------------------------------------------


def probed(x: np.ndarray, y: np.ndarray, skeletons: np.ndarray, seed: int = 0) -> tuple[stats.Interval, stats.Interval]:
    """R² of the ridge probe and accuracy of the logistic probe, trained and tested on different skeletons."""
    fold = skeletons % 4  # half of them train, a quarter validation, a quarter test
    train, validation, test = fold < 2, fold == 2, fold == 3
    features = x.shape[1]
    ridge = (
        RidgeFitter(features, 1)
        .update(x[train], y[train, None])
        .fit(validation=RidgeFitter(features, 1).update(x[validation], y[validation, None]))
    )
    logistic = fit_on_validation(x[train], y[train], x[validation], y[validation])
    clusters = (skeletons[test], np.flatnonzero(test), seed)
    return (
        stats.r_squared(y[test], ridge.predict(x[test])[:, 0], *clusters),
        stats.accuracy(logistic.predict(x[test]) == y[test], *clusters),
    )


def test_a_planted_linear_signal_is_found_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    skeletons = np.arange(400).repeat(5)
    y = rng.integers(-2, 3, 2000)
    noise = rng.normal(size=(2000, 24)).astype(np.float32)
    direction = rng.normal(size=24) / 24**0.5
    r_squared, accuracy = probed(noise + 3 * y[:, None] * direction, y, skeletons)
    assert r_squared.low > 0.8
    assert accuracy.low > 0.8
    r_squared, accuracy = probed(noise, y, skeletons)
    assert r_squared.estimate < 0.02
    assert r_squared.low <= 0.0
    majority = max(Counter(y.tolist()).values()) / 2000
    assert accuracy.low <= majority <= accuracy.high + 0.05


def test_noise_is_positive_in_few_seeds() -> None:
    """At level 5 %, at most 16 of 200, though a skeleton shares its label and part of its activations."""
    positive = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        skeletons = np.arange(120).repeat(3)
        y = rng.normal(size=120).repeat(3)
        x = rng.normal(size=(120, 8)).repeat(3, 0) + 0.3 * rng.normal(size=(360, 8))
        train, test = skeletons % 2 == 0, skeletons % 2 == 1
        ridge = RidgeFitter(8, 1).update(x[train], y[train, None]).fit(alphas=(1.0,))
        interval = stats.r_squared(y[test], ridge.predict(x[test])[:, 0], skeletons[test], skeletons[test], seed)
        positive += interval.low > 0
    assert positive <= 16


def test_a_leaked_skeleton_would_be_seen_in_the_score() -> None:
    """The same noise, split by program: the probe remembers the skeletons. That is what the folds prevent."""
    rng = np.random.default_rng(0)
    skeletons = np.arange(60).repeat(10)
    x = rng.normal(size=(60, 64)).repeat(10, 0) + 0.1 * rng.normal(size=(600, 64))
    y = rng.normal(size=60).repeat(10)
    scores = []
    for test in (np.arange(600) % 4 == 0, skeletons % 4 == 0):
        ridge = RidgeFitter(64, 1).update(x[~test], y[~test, None]).fit(alphas=(1.0,))
        scores.append(r2_score(y[test], ridge.predict(x[test])[:, 0]))
    assert scores[0] > 0.5
    assert scores[1] < 0.1


def test_a_signal_planted_in_a_model_is_harvested_and_found() -> None:
    """Written into the residual stream by a hook, at one position: found there from that layer on, not elsewhere."""
    model, rng = Model(CFG), np.random.default_rng(1)
    drawn = corpus.held_out(Register(max_stores=8), "test_skeleton", 800, seed=0)
    y = rng.integers(-2, 3, 800)
    direction = torch.from_numpy(rng.normal(size=CFG.d_model)).float()
    planted = torch.from_numpy(y)[:, None] * direction

    def plant(tensor: torch.Tensor, hook: object) -> torch.Tensor:
        out = tensor.clone()
        out[:, 5] += planted
        return out

    with model.hooks([("blocks.0.hook_resid_post", plant)]):
        ((_, activations),) = harvest(model, drawn[:, : CFG.n_ctx - 1], residual_sites(model), batch_size=800)
    fold = skeleton_folds(drawn)
    train, test = fold == FOLDS.index("train"), fold == FOLDS.index("test")

    def score(site: str, position: int) -> float:
        x = activations[site][:, position].numpy()
        ridge = RidgeFitter(CFG.d_model, 1).update(x[train], y[train, None]).fit(alphas=(1.0,))
        return r2_score(y[test], ridge.predict(x[test])[:, 0])

    assert score("blocks.0.hook_resid_post", 5) > 0.9
    assert score("blocks.1.hook_resid_post", 5) > 0.9
    assert score("blocks.0.hook_resid_pre", 5) < 0.05
    assert score("blocks.1.hook_resid_post", 4) < 0.05, "an earlier position cannot know"


def test_no_validation_rows_is_an_error() -> None:
    rng = np.random.default_rng(0)
    fitter = RidgeFitter(3, 1).update(rng.standard_normal((10, 3)), rng.standard_normal((10, 1)))
    with pytest.raises(ValueError, match="target 0 has no validation rows to choose a penalty by"):
        fitter.fit(validation=RidgeFitter(3, 1))


@pytest.mark.parametrize("skeletons", [3, 4, 7, 20])
def test_few_skeletons_fill_every_fold(skeletons: int) -> None:
    texts = [f"{digit}" + "!" * k for k in range(skeletons) for digit in range(5)]
    folds = skeleton_folds(tokens.encode(texts))
    assert set(folds.tolist()) == {0, 1, 2}
    assert all(len(set(folds[5 * k : 5 * k + 5].tolist())) == 1 for k in range(skeletons))


def test_two_skeletons_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="2 skeletons cannot be split into train, validation, test"):
        skeleton_folds(tokens.encode(["3", "4!"]))
