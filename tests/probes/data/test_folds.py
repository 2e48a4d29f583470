"""Activations of whole programs, and the folds of skeletons that probes are fitted and judged on."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cache

import numpy as np
import pytest
import torch

from cadmus.corpora import held_out
from cadmus.corpora.build import build
from cadmus.machine import tokens
from cadmus.models.model import Model, ModelConfig
from cadmus.programs import mixture, skeletons
from cadmus.programs.families import Compare, Register
from probes.data.activations import batches, residual_sites
from probes.data.folds import FOLDS, skeleton_folds, skeleton_ids

CFG = ModelConfig(n_layers=2, d_model=32, n_heads=2, d_head=16, d_mlp=48, n_ctx=32, initializer_range=0.3)


@cache
def programs(n: int = 50) -> np.ndarray:
    return build(mixture.load("first"), n).programs(np.arange(n))


def test_harvested_activations_are_the_models() -> None:
    model = Model(CFG)
    sites = [*residual_sites(model), "blocks.1.attn.hook_pattern", "blocks.0.mlp.hook_post"]
    _, whole = model.run_with_cache(torch.from_numpy(tokens.sequences(programs())))
    for batch_size in (7, 50, 512):
        covered = []
        for rows, activations in batches(model, programs(), sites, batch_size=batch_size):
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
    assert list(batches(model, programs()[:0], residual_sites(model))) == []
    with pytest.raises(ValueError, match=r"site 'blocks\.2\.hook_resid_post' does not exist .*see model\.sites\(\)"):
        next(batches(model, programs(), ["hook_embed", "blocks.2.hook_resid_post"]))


def test_residual_sites_are_the_depths() -> None:
    model = Model(CFG)
    assert residual_sites(model) == ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    assert set(residual_sites(model)) <= set(model.sites())


# --- folds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test_skeleton"])
def test_folds_are_of_whole_skeletons(split: str) -> None:
    """Also of held-out skeletons: the hash that set them apart must not decide their fold."""
    drawn = held_out.held_out(Register(assertions=3, low=-20, high=40, max_stores=8), split, 6000, seed=0)
    folds = skeleton_folds(drawn)
    assert folds.shape == (6000,)
    by_skeleton = defaultdict(set)
    for text, fold in zip(tokens.decode(drawn), folds.tolist(), strict=True):
        by_skeleton[skeletons.skeleton(text)].add(fold)
    assert all(len(found) == 1 for found in by_skeleton.values())
    assert len(by_skeleton) > 3000
    assert len(by_skeleton) < 5990, "no skeleton comes twice, so that nothing could leak"
    shares = Counter(found.pop() for found in by_skeleton.values())
    for fold, share in zip(FOLDS, (0.6, 0.15, 0.25), strict=True):
        assert abs(shares[FOLDS.index(fold)] / len(by_skeleton) - share) < 4 * np.sqrt(share / len(by_skeleton))
    assert np.array_equal(skeleton_folds(drawn[::-1]), folds[::-1]), "whatever the order of the programs"


def test_skeleton_ids_are_one_per_skeleton() -> None:
    drawn = held_out.held_out(Compare(), "train", 3000, seed=0)
    forms = [skeletons.skeleton(text) for text in tokens.decode(drawn)]
    ids = skeleton_ids(drawn).tolist()
    assert len(set(ids)) == len(set(forms)) == len(set(zip(ids, forms, strict=True)))
    assert len(set(ids)) < 3000


@pytest.mark.parametrize("n_skeletons", [3, 4, 7, 20])
def test_few_skeletons_fill_every_fold(n_skeletons: int) -> None:
    texts = [f"{digit}" + "!" * k for k in range(n_skeletons) for digit in range(5)]
    folds = skeleton_folds(tokens.encode(texts))
    assert set(folds.tolist()) == {0, 1, 2}
    assert all(len(set(folds[5 * k : 5 * k + 5].tolist())) == 1 for k in range(n_skeletons))


def test_two_skeletons_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="2 skeletons cannot be split into train, validation, test"):
        skeleton_folds(tokens.encode(["3", "4!"]))
