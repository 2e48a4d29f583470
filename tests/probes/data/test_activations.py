"""Activations of whole programs, and token by token: the model's values in the right rows, whatever the batch."""

from __future__ import annotations

import tracemalloc
import weakref
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cadmus.corpora.build import build
from cadmus.machine import tokens
from cadmus.models import backends
from cadmus.models.config import ModelConfig
from cadmus.models.hooks import Hook
from cadmus.models.model import Model
from cadmus.programs import mixture
from probes.data import activations
from probes.data.activations import Batch, residual_sites, token_rows, tokens_of
from probes.data.folds import skeleton_ids
from tests.models import far_from_trivial
from tests.token_rows import CONFIGS, SITES, SMALL, converted, gathered, model, programs, random_positions, same

CFG = ModelConfig(n_layers=2, d_model=32, n_heads=2, d_head=16, d_mlp=48, n_ctx=32, initializer_range=0.3)
each_config = pytest.mark.parametrize("config", CONFIGS)


@cache
def whole(config: str) -> dict[str, Tensor]:
    sequences = torch.from_numpy(tokens.sequences(programs()))
    with torch.no_grad():
        regular = model(config).run_with_cache(sequences)[1]
        return {**model(config).run_with_cache(sequences, model(config).sites(on_demand=True))[1], **regular}


def expected(batch: Batch, site: str, config: str = "learned") -> np.ndarray:
    """The activation at the rows of a batch, out of one plain run over all programs."""
    return whole(config)[site].flatten(2).numpy()[batch.programs, batch.positions]


# --- whole programs --------------------------------------------------------------------------------------------------


@cache
def first_programs(n: int = 50) -> np.ndarray:
    return build(mixture.load("first"), n).programs(np.arange(n))


def test_activations_of_whole_programs_are_the_models() -> None:
    model = Model(CFG)
    programs = first_programs()
    sites = [*residual_sites(model), "blocks.1.attn.hook_pattern", "blocks.0.mlp.hook_post"]
    _, expected = model.run_with_cache(torch.from_numpy(tokens.sequences(programs)))
    for batch_size in (7, 50, 512):
        covered = []
        for rows, batch in activations.batches(model, programs, sites, batch_size=batch_size):
            assert list(batch) == sites
            assert rows.stop - rows.start <= batch_size
            covered += range(rows.start, rows.stop)
            for site in sites:
                assert batch[site].dtype == torch.float32
                assert not batch[site].requires_grad
                assert batch[site].shape == expected[site][rows].shape
                assert torch.allclose(batch[site], expected[site][rows], atol=1e-5), site
        assert covered == list(range(50))


def test_no_programs_and_unknown_sites() -> None:
    model = Model(CFG)
    assert list(activations.batches(model, first_programs()[:0], residual_sites(model))) == []
    with pytest.raises(ValueError, match=r"site 'blocks\.2\.hook_resid_post' does not exist .*see model\.sites\(\)"):
        next(activations.batches(model, first_programs(), ["hook_embed", "blocks.2.hook_resid_post"]))


def test_residual_sites_are_the_depths() -> None:
    model = Model(CFG)
    assert residual_sites(model) == ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    assert set(residual_sites(model)) <= set(model.sites())


# --- token by token: the values --------------------------------------------------------------------------------------


@each_config
def test_every_site_is_the_models_on_either_kind(config: str) -> None:
    with_rows = [site for site in backends.check_readable(converted(config), None) if "attn_scores" not in site]
    sites = [site for site in with_rows if "pattern" not in site] + ["blocks.1.hook_mlp_in"]
    assert len(sites) > 25
    for backend in (model(config), converted(config)):
        batch = gathered(token_rows(backend, programs(), sites, rows_per_batch=300))
        assert list(batch.activations) == sites
        for site in sites:
            assert batch.activations[site].dtype == np.float32
            assert same(batch.activations[site], expected(batch, site, config).reshape(len(batch.programs), -1)), site


def test_what_is_computed_on_demand_is_the_models() -> None:
    sites = [site for site in model().sites(on_demand=True) if site != "hook_tokens"]
    batch = gathered(token_rows(model(), programs(), sites))
    assert batch.activations["blocks.0.attn.hook_result"].shape == (len(batch.programs), 4 * 32)
    for site in sites:
        assert same(batch.activations[site], expected(batch, site)), site
    ids = gathered(token_rows(model(), programs(), "hook_tokens"))
    assert np.array_equal(ids.activations["hook_tokens"][:, 0], tokens_of(programs(), ids).token)


def test_the_rows_are_the_tokens_through_the_end() -> None:
    batch = gathered(token_rows(model(), programs(), SITES))
    rows = sorted(zip(batch.programs.tolist(), batch.positions.tolist(), strict=True))
    texts = tokens.decode(programs())
    assert not texts[-1].endswith("."), "the program without an end is gone"
    assert rows == [(i, p) for i, text in enumerate(texts) for p in range(1, len(text) + 1)]
    assert batch.programs.dtype == batch.positions.dtype == np.int64
    assert repr(batch) == f"Batch({len(rows)} rows of 3 sites)"


@pytest.mark.parametrize("rows_per_batch", [1, 7, 100, 10**6])
def test_any_positions_in_batches_of_any_size(either: Any, rows_per_batch: int) -> None:
    where = random_positions()
    batches = list(token_rows(either, programs(), SITES, where=where, rows_per_batch=rows_per_batch))
    for batch in batches:
        assert len(batch.programs) <= rows_per_batch or len(set(batch.programs.tolist())) == 1
    assert all(len(a.programs) + len(b.programs) > rows_per_batch for a, b in pairwise(batches))
    every = gathered(iter(batches))
    assert sorted(zip(every.programs, every.positions, strict=True)) == list(zip(*np.nonzero(where), strict=True))
    for site in SITES:
        assert same(every.activations[site], expected(every, site)), site
    again = gathered(token_rows(either, programs(), SITES[:1], where=where))
    assert np.array_equal(again.programs, every.programs)
    assert np.array_equal(again.positions, every.positions)


def test_a_pass_is_small_and_holds_little_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of any size run in passes of bounded size, also where few tokens of each program are requested."""
    monkeypatch.setitem(activations._PASS_TOKENS, "cpu", 256)
    shapes: list[tuple[int, int]] = []
    last = np.zeros(random_positions().shape, np.bool_)
    last[np.arange(len(last)), tokens.lengths(programs())] = True
    needed = int((tokens.lengths(programs()) + 1).sum())
    with model().hooks([("hook_embed", lambda tensor, hook: shapes.append(tuple(tensor.shape[:2])))]):
        batch = gathered(token_rows(model(), programs(), SITES, where=last))
    assert same(batch.activations[SITES[0]], expected(batch, SITES[0]))
    assert len(shapes) > 3
    assert max(n * width for n, width in shapes) <= 256
    assert needed <= sum(n * width for n, width in shapes) <= needed + 0.05 * 256 * len(shapes)


def test_nothing_behind_the_last_site_runs() -> None:
    ran: set[str] = set()

    def record(tensor: Tensor, hook: Hook) -> None:
        ran.add(hook.name)

    for sites, last in [
        (["hook_embed"], "hook_pos_embed"),
        (["blocks.0.hook_resid_pre", "hook_embed"], "blocks.0.hook_resid_post"),
        (["blocks.0.attn.hook_z", "blocks.1.hook_mlp_out"], "blocks.1.hook_resid_post"),
        (["blocks.0.attn.hook_z", "ln_final.hook_scale"], "ln_final.hook_normalized"),
        (["unembed.hook_in"], "unembed.hook_out"),
    ]:
        ran.clear()
        every = model().sites()
        with model().hooks([(set(every).__contains__, record)]):
            list(token_rows(model(), programs(), sites))
        assert ran == set(every[: every.index(last) + 1]), sites


def test_bf16_is_close_and_comes_as_float32(either: Any) -> None:
    exact, rough = (gathered(token_rows(either, programs(), SITES, precision=name)) for name in ("fp32", "bf16"))
    for site in SITES:
        error = np.square(rough.activations[site] - exact.activations[site]).mean() ** 0.5
        assert rough.activations[site].dtype == np.float32
        assert 1e-4 < error / exact.activations[site].std() < 0.05, site
    with torch.autocast("cpu", torch.bfloat16):  # what surrounds it does not matter
        assert same(gathered(token_rows(either, programs(), SITES)).activations[SITES[0]], exact.activations[SITES[0]])


def test_nan_is_passed_on() -> None:
    broken = far_from_trivial(CONFIGS["learned"])
    with torch.no_grad():
        broken.embed.W_E[tokens.encode(["7"])[0, 0]] = torch.nan
    batch = gathered(token_rows(broken, programs(), ["hook_embed"]))
    is_nan = np.isnan(batch.activations["hook_embed"])
    assert np.array_equal(is_nan.all(1), tokens.decode(tokens_of(programs(), batch).token[:, None]) == np.array("7"))
    assert np.array_equal(is_nan.any(1), is_nan.all(1))


def test_no_gradients_are_kept(either: Any) -> None:
    before = torch.is_grad_enabled()
    next(token_rows(either, programs(), SITES))
    assert torch.is_grad_enabled() == before
    assert all(parameter.grad is None for parameter in either.parameters())


# --- what is refused -------------------------------------------------------------------------------------------------


def test_refusals_come_before_anything_runs() -> None:
    where = random_positions()
    for arguments, message in [
        ({"sites": ["hook_embed", "blocks.2.hook_resid_post"]}, r"site 'blocks\.2\.hook_resid_post' does not exist"),
        (
            {"sites": ["hook_embed", "blocks.1.attn.hook_pattern"]},
            r"site 'blocks\.1\.attn\.hook_pattern' has a number per head, query and key, not a row per token: "
            r"ask for 'blocks\.1\.attn\.hook_z', or read it with probes\.data\.activations\.batches",
        ),
        ({"sites": "blocks.0.attn.hook_attn_scores"}, r"'blocks\.0\.attn\.hook_attn_scores' has a number per head"),
        (
            {"sites": ["blocks.1.ln1.hook_scale", "blocks.0.ln1.hook_scale", "blocks.1.hook_k_input"]},
            r"'blocks\.1\.ln1\.hook_scale' is computed per head where 'blocks\.1\.hook_k_input' is read: ask for",
        ),
        ({"precision": "fp16"}, "precision 'fp16' is none of fp32, bf16"),
        ({"rows_per_batch": 0}, "rows_per_batch = 0 must be 1 or more"),
        ({"where": where[:, 1:]}, r"where is bool \(61, 40\); expected bool \(61, 41\): a column per position"),
        ({"where": where.astype(int)}, r"where is int64 \(61, 41\); expected bool \(61, 41\)"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            token_rows(model(), programs(), **{"sites": SITES, **arguments})
        assert "\n" not in str(caught.value)
    for texts, received in [
        (["34+7=."], "a list"),
        (np.array(["34+7=."]), r"<U6 \(1,\)"),
        (programs()[0], r"uint8 \(40,\)"),
        (programs().astype(int), r"int64 \(61, 40\)"),
    ]:
        message = (
            rf"^programs are {received}; expected uint8 \[n, width\]: "
            r"encode texts with cadmus\.machine\.tokens\.encode$"
        )
        for read in (token_rows, lambda *arguments: next(activations.batches(*arguments))):
            with pytest.raises(ValueError, match=message):
                read(model(), texts, SITES)
    short = Model(ModelConfig(**SMALL | {"n_ctx": 30}))
    with pytest.raises(ValueError, match=r"41 positions are requested, but the model has n_ctx = 30: leave longer"):
        token_rows(short, programs(), SITES)
    early = np.arange(41) < np.full((61, 1), 30)
    assert gathered(token_rows(short, programs(), SITES, where=early)).positions.max() == 29


def test_nothing_requested_gives_nothing(either: Any) -> None:
    assert list(token_rows(either, programs()[:0], SITES)) == []
    assert list(token_rows(either, programs(), SITES, where=np.zeros((61, 41), np.bool_))) == []


# --- memory and progress ---------------------------------------------------------------------------------------------


def peak(batches: Iterator[Batch]) -> int:
    """The most bytes of arrays held at once while a caller reads batch after batch."""
    tracemalloc.start()
    rows = sum(len(batch.programs) for batch in batches)
    n_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows
    return n_bytes


def all_at_once(batches: Iterator[Batch]) -> Iterator[Batch]:
    yield from list(batches)


@pytest.mark.parametrize("stored", [False, True])
def test_memory_does_not_grow_with_the_programs(stored: bool, tmp_path: Path) -> None:
    few = np.repeat(programs(), 2, 0)
    many = np.repeat(few, 10, 0)
    arguments = {"sites": [*SITES, "blocks.0.attn.hook_result"], "rows_per_batch": 512}
    arguments["cache"] = tmp_path if stored else None
    list(token_rows(model(), few, SITES))  # what is done only once
    small, large = (peak(token_rows(model(), these, **arguments)) for these in (few, many))
    assert large < 1.25 * small, (small, large)
    if stored:
        small, large = (peak(token_rows(model(), these, **arguments)) for these in (few, many))
        assert large < 1.25 * small, (small, large)
    assert peak(all_at_once(token_rows(model(), many, **arguments))) > 5 * large


def test_a_batch_that_the_caller_drops_is_gone(tmp_path: Path) -> None:
    for folder in (None, tmp_path, tmp_path):
        batches = token_rows(model(), programs(), SITES, rows_per_batch=100, cache=folder)
        batch = next(batches)
        array = weakref.ref(batch.activations[SITES[0]])
        del batch
        assert array() is None
        assert len(list(batches)) > 3


def test_progress_is_the_fraction_of_rows(tmp_path: Path) -> None:
    for folder in (None, tmp_path, tmp_path):
        fractions: list[float] = []

        def record(stage: str, fraction: float, note: str, fractions: list[float] = fractions) -> None:
            assert stage == "activations"
            fractions.append(fraction)

        batches = token_rows(model(), programs(), SITES, rows_per_batch=100, cache=folder, progress=record)
        sizes = [len(batch.programs) for batch in batches]
        assert fractions == pytest.approx(np.cumsum(sizes) / sum(sizes))


# --- the tokens of a row ---------------------------------------------------------------------------------------------


def test_tokens_of_a_batch() -> None:
    where = random_positions()
    texts = tokens.decode(programs())
    for batch in token_rows(model(), programs(), ["hook_embed"], where=where, rows_per_batch=50):
        read = tokens_of(programs(), batch)
        ids = skeleton_ids(programs())
        for row, (program, position) in enumerate(zip(batch.programs, batch.positions, strict=True)):
            padded = ".." + texts[program].ljust(41, ".")  # what is before the marker counts as `.` too
            token, previous = padded[position + 1], padded[position]
            assert tokens.decode(read.token[row : row + 1, None]) == [token]
            assert tokens.decode(read.previous[row : row + 1, None]) == [previous]
            assert token in list(tokens.TOKEN_CLASSES.values())[read.token_class[row]]
            assert read.skeletons[row] == ids[program]
        assert np.array_equal(batch.activations["hook_embed"], model().embed.W_E.detach().numpy()[read.token])


def test_layers_count_the_blocks_at_work() -> None:
    layers = {
        "hook_embed": 0,
        "hook_pos_embed": 0,
        "blocks.0.hook_resid_pre": 0,
        "blocks.3.hook_resid_pre": 3,
        "blocks.0.hook_resid_post": 1,
        "blocks.11.attn.hook_z": 12,
        "blocks.2.hook_resid_mid": 3,
        "ln_final.hook_normalized": -1,
        "unembed.hook_out": -1,
    }
    for site, layer in layers.items():
        assert activations.layer_of(site) == layer, site


def test_sites_are_checked_before_anything_runs() -> None:
    sites = ["blocks.0.hook_resid_post", "hook_embed", "blocks.0.hook_resid_post"]
    assert activations.check_sites(model(), sites) == sites[:2]
    with pytest.raises(ValueError, match=r"site 'blocks\.9\.hook_resid_post' does not exist"):
        activations.check_sites(model(), ["blocks.9.hook_resid_post"])
    with pytest.raises(ValueError, match="has a number per head, query and key, not a row per token"):
        activations.check_sites(model(), ["blocks.0.attn.hook_pattern"])
