"""Erasure: LEACE's theorem from both sides. What is erased defeats every linear probe, what is not defeats none; no
other map of which that holds changes activations less."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cadmus.runtime.artifacts import ArtifactError
from probes.interventions.subspaces import erasure
from probes.interventions.subspaces.erasure import Eraser, LeaceFitter, inlp, leace, mean_projection, random_projection
from probes.solvers.estimators import DiscriminantProbe, LeastSquaresProbe
from probes.solvers.logistic import LogisticProbe
from probes.solvers.moments import Moments
from tests.fuzzing import examples

CLASSES = 4


def rows(seed: int = 0, n: int = 800, width: int = 10, constant: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Activations [n, width] that hold a class, not linearly alone, over correlated noise; `constant` directions do not
    vary."""
    rng = np.random.default_rng(seed)
    y = rng.choice(CLASSES, n, p=[0.4, 0.3, 0.2, 0.1])
    free = width - constant
    x = rng.normal(size=(n, free)) @ rng.normal(size=(free, free)) * (1 + y[:, None]) / 2
    x += rng.normal(size=(CLASSES, free))[y] * 4
    return x @ rng.normal(size=(free, width)) + 5, y


def one_hot(y: np.ndarray) -> np.ndarray:
    return (y[:, None] == np.arange(CLASSES)).astype(float)


def moments_of(x: np.ndarray, y: np.ndarray) -> Moments:
    return Moments.of(x, one_hot(y))


def cross_covariance(x: np.ndarray, y: np.ndarray) -> float:
    """The greatest correlation of an activation with a class."""
    moments = moments_of(x, y)
    sizes = np.sqrt(np.outer(np.diag(moments.scatter).max(), moments.yy))
    return float(abs(moments.xy / sizes).max())


@pytest.mark.parametrize(
    "probe", [LogisticProbe(1e4), LogisticProbe(1e-2), LeastSquaresProbe(0.0), DiscriminantProbe()]
)
def test_after_leace_no_probe_beats_the_majority_and_before_it_every_one_does(probe):
    x, y = rows()
    majority = np.bincount(y).max() / len(y)
    erased = leace(moments_of(x, y))(x)
    if isinstance(probe, DiscriminantProbe):  # the covariance is singular
        probe = DiscriminantProbe(1e-5)
    assert probe.fit(x, y).score(x, y) > majority + 0.2
    assert probe.fit(erased, y).score(erased, y) <= majority + 0.01
    shuffled = np.random.default_rng(1).permutation(y)
    assert probe.fit(x, y).score(x, y) > probe.fit(x, shuffled).score(x, shuffled)


@given(st.integers(0, 10_000))
@settings(max_examples=examples(30), deadline=None)
def test_the_cross_covariance_is_zero_and_the_rank_is_that_of_the_classes(seed):
    x, y = rows(seed, n=200)
    eraser = leace(moments_of(x, y))
    assert cross_covariance(x, y) > 0.05
    assert cross_covariance(eraser(x), y) < 1e-10
    assert eraser.rank == CLASSES - 1
    assert np.allclose(eraser.reader @ eraser.writer, np.eye(eraser.rank)), "it is a projection"
    assert np.allclose(eraser(eraser(x)), eraser(x))
    assert np.allclose(eraser(x).mean(0), x.mean(0))


@given(st.integers(0, 10_000))
@settings(max_examples=examples(30), deadline=None)
def test_no_other_map_that_erases_is_nearer(seed):
    x, y = rows(seed, n=300, constant=0)
    moments = moments_of(x, y)
    assume(np.linalg.cond(moments.scatter) < 1e10)  # else whitening alone loses more digits than are asked for
    eraser = leace(moments)
    rng = np.random.default_rng(seed)
    change = ((eraser(x) - x) ** 2).sum(1).mean()
    assert change == pytest.approx(eraser.mean_squared_change(moments.scatter / moments.n))
    keep = np.eye(x.shape[1]) - eraser.writer @ eraser.reader
    unread = np.eye(len(moments.mean)) - moments.xy @ np.linalg.pinv(
        moments.xy, rcond=1e-9
    )  # kills the cross-covariance
    weights = rng.normal(size=keep.shape)  # of an inner product of one's own, in which it is the least too
    for scale in (1e-3, 0.1, 1.0):
        other = keep + scale * rng.normal(size=keep.shape) @ unread
        moved = (x - moments.mean) @ other.T + moments.mean
        assert cross_covariance(moved, y) < 1e-9, "it erases as well"
        assert ((moved - x) ** 2).sum(1).mean() > change
        assert (((moved - x) @ weights) ** 2).sum() > (((eraser(x) - x) @ weights) ** 2).sum()
    assert mean_projection(moments).mean_squared_change(moments.scatter / moments.n) >= change - 1e-9


def test_numbers_are_erased_too_whatever_their_unit():
    x, y = rows()
    for scale in (1e-6, 1.0, 1e6):
        moments = Moments.of(x, scale * np.stack([y, y % 2], 1).astype(float))
        erased = leace(moments)(x)
        assert leace(moments).rank == 2
        assert abs(Moments.of(erased, np.stack([y, y % 2], 1).astype(float)).xy).max() < 1e-7


def test_a_fitter_has_the_moments_of_all_its_rows():
    x, y = rows()
    fitter = LeaceFitter()
    with pytest.raises(ValueError, match="0 rows; a probe needs 2 or more"):
        _ = fitter.eraser
    for part in (slice(0, 100), slice(100, 101), slice(101, None)):
        assert fitter.update(x[part], one_hot(y)[part]) is fitter
    whole = leace(moments_of(x, y))
    assert np.allclose(fitter.eraser(x), whole(x))
    with pytest.raises(ValueError, match="3 rows of activations and 2 of labels"):
        fitter.update(x[:3], one_hot(y)[:2])
    with pytest.raises(ValueError, match="the activations are not finite in 1 of 2 rows"):
        fitter.update(np.where(np.arange(2)[:, None], np.nan, x[:2]), one_hot(y)[:2])
    numbers = LeaceFitter().update(x, y).eraser
    assert numbers.rank == 1


def test_what_holds_nothing_stays_as_it_is():
    x, y = rows()
    constant = moments_of(x, np.zeros_like(y))
    assert leace(constant).rank == mean_projection(constant).rank == 0
    assert np.array_equal(leace(constant)(x), x)


def test_inlp_leaves_nothing_to_a_probe_of_its_kind():
    x, y = rows(constant=0)
    majority = np.bincount(y).max() / len(y)
    eraser = inlp(x, y)
    assert LogisticProbe(tol=1e-5).fit(eraser(x), y).score(eraser(x), y) <= majority + 0.01
    assert eraser.rank >= CLASSES - 1
    assert eraser.mean_squared_change(np.cov(x.T)) > leace(moments_of(x, y)).mean_squared_change(np.cov(x.T))
    once = inlp(x, y, rounds=1)
    assert once.rank == CLASSES - 1, "log-odds against a class"
    with pytest.raises(ValueError, match="the labels have one class only"):
        inlp(x, np.zeros_like(y))
    with pytest.raises(ValueError, match="rounds = 0 must be 1 or more"):
        inlp(x, y, rounds=0)


def test_mean_projection_makes_the_means_alike():
    x, y = rows()
    eraser = mean_projection(moments_of(x, y))
    means = np.stack([eraser(x)[y == k].mean(0) for k in range(CLASSES)])
    assert np.allclose(means, means[0])
    assert eraser.rank == CLASSES - 1
    assert np.allclose(eraser.reader, eraser.writer.T)


def test_a_random_projection_of_equal_rank_erases_nothing_in_particular():
    x, y = rows(constant=0)
    moments = moments_of(x, y)
    covariance = moments.scatter / moments.n
    majority = np.bincount(y).max() / len(y)
    shares = []
    for seed in range(20):
        for metric in (None, covariance):
            eraser = random_projection(2, seed, moments.mean, metric)
            assert eraser.rank == 2
            assert np.allclose(eraser.reader @ eraser.writer, np.eye(2))
            assert np.allclose(eraser(x).mean(0), x.mean(0))
        whitened = np.linalg.solve(covariance, np.cov(eraser(x).T, ddof=0))
        shares.append(np.trace(whitened) / len(covariance))
        assert LogisticProbe(tol=1e-5).fit(eraser(x), y).score(eraser(x), y) > majority + 0.05
    assert np.allclose(shares, 0.8), "two of ten whitened dimensions"
    same, other = (random_projection(2, seed, moments.mean) for seed in (0, 1))
    assert np.array_equal(same.reader, random_projection(2, 0, moments.mean).reader)
    assert not np.allclose(same.reader, other.reader)
    flat = moments_of(*rows())
    with pytest.raises(ValueError, match=r"rank 9 lies outside 0\.\.8, the dimensions that activations take"):
        random_projection(9, 0, flat.mean, flat.scatter / flat.n)


def test_tensors_keep_their_dtype_and_shape():
    x, y = rows()
    eraser = leace(moments_of(x, y))
    tensor = torch.from_numpy(x).float().reshape(8, -1, x.shape[1])
    assert eraser(tensor).shape == tensor.shape
    assert eraser(tensor).dtype == torch.float32
    assert torch.allclose(eraser(tensor).double(), torch.from_numpy(eraser(x)).reshape(tensor.shape), atol=1e-4)
    assert torch.equal(eraser.as_change()(tensor[0], torch.arange(100), torch.zeros(100)), eraser(tensor[0]))
    assert eraser(x.astype(np.float32)).dtype == np.float32


def test_an_eraser_is_read_back(tmp_path):
    x, y = rows()
    eraser = leace(moments_of(x, y))
    folder = erasure.save(tmp_path / "eraser", eraser, variable="reg.a")
    loaded = erasure.load(folder)
    assert isinstance(loaded, Eraser)
    assert repr(loaded) == repr(eraser) == "Eraser(LEACE, 3 of 10 dimensions)"
    assert np.array_equal(loaded(x), eraser(x))
    (folder / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="is half-written"):
        erasure.load(folder)
