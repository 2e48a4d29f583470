"""Streams of activations, token by token, and their cache: the model's values in the right rows, whatever the batch."""

from __future__ import annotations

import json
import shutil
import tracemalloc
import weakref
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cadmus.corpora.build import build
from cadmus.machine import tokens
from cadmus.models import lens
from cadmus.models.hooks import Hook
from cadmus.models.model import Model, ModelConfig
from cadmus.programs import mixture
from cadmus.runtime import artifacts
from cadmus.runtime.artifacts import ArtifactError
from probes.data import activation_cache, activations
from probes.data.activations import Batch, token_rows, tokens_of
from probes.data.folds import skeleton_ids
from tests.models import far_from_trivial

SMALL = {"n_layers": 2, "d_model": 32, "n_heads": 4, "d_head": 8, "d_mlp": 48, "n_ctx": 64, "initializer_range": 0.3}
CONFIGS = {"learned": ModelConfig(**SMALL), "rotary": ModelConfig(**SMALL, positional_embedding_type="rotary")}
BRIDGE = not metadata.version("transformer-lens").startswith("3.")
convert = lens.to_transformer_bridge if BRIDGE else lens.to_hooked_transformer
SITES = ["blocks.0.hook_resid_post", "blocks.1.attn.hook_z", "blocks.0.mlp.hook_post"]
each_config = pytest.mark.parametrize("config", CONFIGS)


@cache
def model(config: str = "learned") -> Model:
    return far_from_trivial(CONFIGS[config])


@cache
def converted(config: str = "learned") -> Any:
    """The same model as the installed TransformerLens has it."""
    return convert(model(config))


@pytest.fixture(params=["cadmus", "converted"])
def either(request: pytest.FixtureRequest) -> Any:
    return model() if request.param == "cadmus" else converted()


@cache
def programs(n: int = 60) -> np.ndarray:
    """Programs of many lengths in random order; one fills the width, so that it has no `.`: uint8 [n + 1, width]."""
    drawn = build(mixture.load("default"), 2000).programs(np.random.default_rng(0).permutation(2000))
    drawn = drawn[tokens.lengths(drawn) < 40][:n, :40]
    return np.vstack([drawn, tokens.encode(["3A" * 20])])


@cache
def random_positions(share: float = 0.2) -> np.ndarray:
    """bool [n, 1 + width], the marker and padding among them; of some programs none."""
    rng = np.random.default_rng(1)
    where = rng.random((len(programs()), programs().shape[1] + 1)) < share
    where[rng.random(len(where)) < 0.3] = False
    return where


def gathered(batches: Iterator[Batch]) -> Batch:
    """All batches as one."""
    every = list(batches)
    return Batch(
        np.concatenate([batch.programs for batch in every]),
        np.concatenate([batch.positions for batch in every]),
        {site: np.concatenate([batch.activations[site] for batch in every]) for site in every[0].activations},
    )


@cache
def whole(config: str) -> dict[str, Tensor]:
    sequences = torch.from_numpy(tokens.sequences(programs()))
    with torch.no_grad():
        regular = model(config).run_with_cache(sequences)[1]
        return {**model(config).run_with_cache(sequences, model(config).sites(on_demand=True))[1], **regular}


def expected(batch: Batch, site: str, config: str = "learned") -> np.ndarray:
    """The activation at the rows of a batch, out of one plain run over all programs."""
    return whole(config)[site].flatten(2).numpy()[batch.programs, batch.positions]


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool(np.abs(a - b).max() <= 1e-5 * max(1.0, np.abs(b).max()))


# --- the values ------------------------------------------------------------------------------------------------------


@each_config
def test_every_site_is_the_models_on_either_kind(config: str) -> None:
    with_rows = [site for site in lens.check_readable(converted(config), None) if "attn_scores" not in site]
    chosen = [site for site in with_rows if "pattern" not in site] + ["blocks.1.hook_mlp_in"]
    assert len(chosen) > 25
    for one in (model(config), converted(config)):
        found = gathered(token_rows(one, programs(), chosen, rows_per_batch=300))
        assert list(found.activations) == chosen
        for site in chosen:
            assert found.activations[site].dtype == np.float32
            assert same(found.activations[site], expected(found, site, config).reshape(len(found.programs), -1)), site


def test_what_is_computed_on_demand_is_the_models() -> None:
    chosen = [site for site in model().sites(on_demand=True) if site != "hook_tokens"]
    found = gathered(token_rows(model(), programs(), chosen))
    assert found.activations["blocks.0.attn.hook_result"].shape == (len(found.programs), 4 * 32)
    for site in chosen:
        assert same(found.activations[site], expected(found, site)), site
    ids = gathered(token_rows(model(), programs(), "hook_tokens"))
    assert np.array_equal(ids.activations["hook_tokens"][:, 0], tokens_of(programs(), ids).token)


def test_the_rows_are_the_tokens_through_the_end() -> None:
    found = gathered(token_rows(model(), programs(), SITES))
    rows = sorted(zip(found.programs.tolist(), found.positions.tolist(), strict=True))
    texts = tokens.decode(programs())
    assert not texts[-1].endswith("."), "the program without an end is gone"
    assert rows == [(i, p) for i, text in enumerate(texts) for p in range(1, len(text) + 1)]
    assert found.programs.dtype == found.positions.dtype == np.int64


@pytest.mark.parametrize("rows_per_batch", [1, 7, 100, 10**6])
def test_any_positions_in_batches_of_any_size(either: Any, rows_per_batch: int) -> None:
    where = random_positions()
    batches = list(token_rows(either, programs(), SITES, where=where, rows_per_batch=rows_per_batch))
    for batch in batches:
        assert len(batch.programs) <= rows_per_batch or len(set(batch.programs.tolist())) == 1
    assert all(len(a.programs) + len(b.programs) > rows_per_batch for a, b in pairwise(batches))
    found = gathered(iter(batches))
    assert sorted(zip(found.programs, found.positions, strict=True)) == list(zip(*np.nonzero(where), strict=True))
    for site in SITES:
        assert same(found.activations[site], expected(found, site)), site
    again = gathered(token_rows(either, programs(), SITES[:1], where=where))
    assert np.array_equal(again.programs, found.programs)
    assert np.array_equal(again.positions, found.positions)


def test_a_pass_is_small_and_holds_little_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of any size run in passes of bounded size, also where few tokens of each program are wanted."""
    monkeypatch.setitem(activations._PASS, "cpu", 256)
    ran: list[tuple[int, int]] = []
    last = np.zeros(random_positions().shape, np.bool_)
    last[np.arange(len(last)), tokens.lengths(programs())] = True
    needed = int((tokens.lengths(programs()) + 1).sum())
    with model().hooks([("hook_embed", lambda tensor, hook: ran.append(tuple(tensor.shape[:2])))]):
        found = gathered(token_rows(model(), programs(), SITES, where=last))
    assert same(found.activations[SITES[0]], expected(found, SITES[0]))
    assert len(ran) > 3
    assert max(n * width for n, width in ran) <= 256
    assert needed <= sum(n * width for n, width in ran) <= needed + 0.05 * 256 * len(ran)


def test_nothing_behind_the_last_site_runs() -> None:
    ran: set[str] = set()

    def told(tensor: Tensor, hook: Hook) -> None:
        ran.add(hook.name)

    for chosen, last in [
        (["hook_embed"], "hook_pos_embed"),
        (["blocks.0.hook_resid_pre", "hook_embed"], "blocks.0.hook_resid_post"),
        (["blocks.0.attn.hook_z", "blocks.1.hook_mlp_out"], "blocks.1.hook_resid_post"),
        (["blocks.0.attn.hook_z", "ln_final.hook_scale"], "ln_final.hook_normalized"),
        (["unembed.hook_in"], "unembed.hook_out"),
    ]:
        ran.clear()
        sites = model().sites()
        with model().hooks([(set(sites).__contains__, told)]):
            list(token_rows(model(), programs(), chosen))
        assert ran == set(sites[: sites.index(last) + 1]), chosen


def test_bf16_is_close_and_comes_as_float32(either: Any) -> None:
    exact, rough = (gathered(token_rows(either, programs(), SITES, precision=one)) for one in ("fp32", "bf16"))
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
    found = gathered(token_rows(broken, programs(), ["hook_embed"]))
    is_nan = np.isnan(found.activations["hook_embed"])
    assert np.array_equal(is_nan.all(1), tokens.decode(tokens_of(programs(), found).token[:, None]) == np.array("7"))
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
            r"stream 'blocks\.1\.attn\.hook_z', or read it with probes\.data\.activations\.batches",
        ),
        ({"sites": "blocks.0.attn.hook_attn_scores"}, r"'blocks\.0\.attn\.hook_attn_scores' has a number per head"),
        (
            {"sites": ["blocks.1.ln1.hook_scale", "blocks.0.ln1.hook_scale", "blocks.1.hook_k_input"]},
            r"'blocks\.1\.ln1\.hook_scale' is computed per head where 'blocks\.1\.hook_k_input' is read: stream one",
        ),
        ({"precision": "fp16"}, "precision 'fp16' is none of fp32, bf16"),
        ({"rows_per_batch": 0}, "rows_per_batch = 0 must be 1 or more"),
        ({"where": where[:, 1:]}, r"where is bool \(61, 40\); expected bool \(61, 41\): a column per position"),
        ({"where": where.astype(int)}, r"where is int64 \(61, 41\); expected bool \(61, 41\)"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            token_rows(model(), programs(), **{"sites": SITES, **arguments})
        assert "\n" not in str(caught.value)
    for texts, found in [
        (["34+7=."], "a list"),
        (np.array(["34+7=."]), r"<U6 \(1,\)"),
        (programs()[0], r"uint8 \(40,\)"),
        (programs().astype(int), r"int64 \(61, 40\)"),
    ]:
        message = (
            rf"^programs are {found}; expected uint8 \[n, width\]: encode texts with cadmus\.machine\.tokens\.encode$"
        )
        for read in (token_rows, lambda *arguments: next(activations.batches(*arguments))):
            with pytest.raises(ValueError, match=message):
                read(model(), texts, SITES)
    short = Model(ModelConfig(**SMALL | {"n_ctx": 30}))
    with pytest.raises(ValueError, match=r"41 positions are wanted, but the model has n_ctx = 30: leave longer"):
        token_rows(short, programs(), SITES)
    early = np.arange(41) < np.full((61, 1), 30)
    assert gathered(token_rows(short, programs(), SITES, where=early)).positions.max() == 29


def test_nothing_wanted_gives_nothing(either: Any) -> None:
    assert list(token_rows(either, programs()[:0], SITES)) == []
    assert list(token_rows(either, programs(), SITES, where=np.zeros((61, 41), np.bool_))) == []


# --- memory and progress ---------------------------------------------------------------------------------------------


def peak(batches: Iterator[Batch]) -> int:
    """The most bytes of arrays held at once while a caller reads batch after batch."""
    tracemalloc.start()
    rows = sum(len(batch.programs) for batch in batches)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows
    return most


def all_at_once(batches: Iterator[Batch]) -> Iterator[Batch]:
    yield from list(batches)


@pytest.mark.parametrize("stored", [False, True])
def test_memory_does_not_grow_with_the_programs(stored: bool, tmp_path: Path) -> None:
    few = np.repeat(programs(), 2, 0)
    many = np.repeat(few, 10, 0)
    arguments = {"sites": [*SITES, "blocks.0.attn.hook_result"], "rows_per_batch": 512}
    arguments["cache"] = tmp_path if stored else None
    list(token_rows(model(), few, SITES))  # what is done only once
    small, large = (peak(token_rows(model(), drawn, **arguments)) for drawn in (few, many))
    assert large < 1.25 * small, (small, large)
    if stored:
        small, large = (peak(token_rows(model(), drawn, **arguments)) for drawn in (few, many))
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


def test_progress_is_the_share_of_rows(tmp_path: Path) -> None:
    for folder in (None, tmp_path, tmp_path):
        told: list[float] = []
        sizes = [
            len(batch.programs)
            for batch in token_rows(model(), programs(), SITES, rows_per_batch=100, cache=folder, progress=told.append)
        ]
        assert told == pytest.approx(np.cumsum(sizes) / sum(sizes))


# --- what belongs to a row -------------------------------------------------------------------------------------------


def test_tokens_of_a_batch() -> None:
    where = random_positions()
    texts = tokens.decode(programs())
    for batch in token_rows(model(), programs(), ["hook_embed"], where=where, rows_per_batch=50):
        found = tokens_of(programs(), batch)
        ids = skeleton_ids(programs())
        for row, (program, position) in enumerate(zip(batch.programs, batch.positions, strict=True)):
            padded = ".." + texts[program].ljust(41, ".")  # what is before the marker counts as `.` too
            token, previous = padded[position + 1], padded[position]
            assert tokens.decode(found.token[row : row + 1, None]) == [token]
            assert tokens.decode(found.previous[row : row + 1, None]) == [previous]
            assert token in list(tokens.TOKEN_CLASSES.values())[found.token_class[row]]
            assert found.skeletons[row] == ids[program]
        assert np.array_equal(batch.activations["hook_embed"], model().embed.W_E.detach().numpy()[found.token])


# --- the cache -------------------------------------------------------------------------------------------------------

ROWS = 200


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The sites of every forward pass from now on."""
    ran: list[list[str]] = []
    run = activations._run

    def counted(model: Any, sequences: Tensor, sites: list[str], *rest: Any) -> None:
        ran.append(sites)
        run(model, sequences, sites, *rest)

    monkeypatch.setattr(activations, "_run", counted)
    return ran


def read(folder: Path | None, sites: list[str] = SITES, one: Any = None, **arguments: Any) -> Batch:
    arguments = {"programs": programs(), "rows_per_batch": ROWS, **arguments}
    return gathered(token_rows(one or model(), sites=sites, cache=folder, **arguments))


def equal(a: Batch, b: Batch) -> bool:
    rows = np.array_equal(a.programs, b.programs) and np.array_equal(a.positions, b.positions)
    return rows and all(np.array_equal(a.activations[site], b.activations[site]) for site in b.activations)


def finished(folder: Path) -> set[str]:
    """The sites whose folders have a manifest."""
    return {path.parent.name for path in folder.rglob(artifacts.MANIFEST)}


def test_what_is_stored_comes_back_and_only_the_rest_runs(either: Any, tmp_path: Path, passes: list) -> None:
    plain = read(None, one=either)
    for sites, missing in [
        (SITES[:1], SITES[:1]),
        (SITES[:1], []),
        (SITES, SITES[1:]),
        (SITES[::-1], []),
    ]:
        passes.clear()
        found = read(tmp_path, sites, either)
        assert list(found.activations) == sites
        assert all(ran == missing for ran in passes)
        assert bool(passes) == bool(missing)
        assert np.array_equal(found.programs, plain.programs)
        for site in sites:
            assert same(found.activations[site], plain.activations[site])
    assert finished(tmp_path) == set(SITES)
    assert not list(tmp_path.rglob(".partial-*"))
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".safetensors"}


def test_other_content_is_run_anew(tmp_path: Path, passes: list) -> None:
    moved = far_from_trivial(CONFIGS["learned"])
    with torch.no_grad():
        moved.blocks[1].mlp.b_out[3] += 1e-3
    turned = far_from_trivial(ModelConfig(**SMALL, positional_embedding_type="rotary", rotary_base=50.0))
    programs_changed = programs().copy()
    programs_changed[5, 0] = programs_changed[5, 0] ^ 1
    read(tmp_path)
    read(tmp_path, one=model("rotary"))
    for change in [
        {"one": moved},
        {"one": turned},
        {"one": converted()},
        {"programs": programs_changed},
        {"programs": programs()[::-1]},
        {"where": random_positions()},
        {"where": ~random_positions()},
        {"precision": "bf16"},
        {"rows_per_batch": ROWS + 1},
    ]:
        passes.clear()
        found = read(tmp_path, **change)
        assert passes, change
        passes.clear()
        assert equal(read(tmp_path, **change), found)
        assert not passes, change
    passes.clear()
    twin = far_from_trivial(CONFIGS["learned"])  # as is what a fresh array or a copy of the weights holds
    twin.blocks[0].mlp.W_in.data = twin.blocks[0].mlp.W_in.data.clone(memory_format=torch.contiguous_format)
    read(tmp_path, one=twin, programs=np.asfortranarray(programs()))
    assert not passes


@pytest.mark.parametrize("interruption", ["closed", "exception", "kill"])
def test_a_run_that_is_cut_short_counts_as_nothing(interruption: str, tmp_path: Path, passes: list) -> None:
    folder, killed = tmp_path / "cache", tmp_path / "killed"
    batches = token_rows(model(), programs(), SITES, rows_per_batch=ROWS, cache=folder)
    next(batches), next(batches)
    assert len(list(folder.rglob("*.safetensors"))) == 2 * len(SITES)
    if interruption == "kill":  # what lies on the disk at this moment
        shutil.copytree(folder, killed)
        folder = killed
    elif interruption == "exception":
        with pytest.raises(KeyboardInterrupt):
            batches.throw(KeyboardInterrupt)
    else:
        batches.close()
    assert finished(folder) == set()
    assert interruption == "kill" or not [path for path in folder.rglob("*") if path.is_file()]
    passes.clear()
    assert equal(read(folder), read(None))
    assert passes
    assert finished(folder) == set(SITES)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = artifacts.write_arrays, []

    def full(path: Path, arrays: dict[str, np.ndarray]) -> Path:
        written.append(path)
        if len(written) > 4:
            raise OSError(28, "No space left on device")
        return write(path, arrays)

    monkeypatch.setattr(artifacts, "write_arrays", full)
    with pytest.raises(OSError, match="No space left"):
        read(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def claim(path: Path) -> None:
    """A manifest that is sound, of another content."""
    manifest = json.loads((path.parent / artifacts.MANIFEST).read_text())
    artifacts.write_manifest(path.parent, {**manifest, "precision": "bf16"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, r"000001\.safetensors is damaged \(wrong checksum\)"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), r"000001\.safetensors is damaged \(wrong size\)"),
        (Path.unlink, r"000001\.safetensors is missing"),
        (lambda path: flip(path.parent / artifacts.MANIFEST), r"manifest\.json is "),
        (claim, r"hook_z is of precision bf16, not fp32"),
    ],
)
def test_damage_is_refused_in_a_line(damage: Any, message: str, tmp_path: Path) -> None:
    sound = read(tmp_path)
    (path,) = tmp_path.rglob("blocks.1.attn.hook_z/000001.safetensors")
    damage(path)
    remedy = r".*: delete .*blocks\.1\.attn\.hook_z, and it is made anew"
    with pytest.raises(ArtifactError, match=message + remedy) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)
    assert np.array_equal(read(tmp_path, SITES[:1]).activations[SITES[0]], sound.activations[SITES[0]])
    shutil.rmtree(path.parent)
    assert equal(read(tmp_path), sound)


def test_a_model_with_hooks_is_not_cached(tmp_path: Path) -> None:
    message = "has hooks set, and a cache is named by its weights only: stream without cache="
    with model().hooks([("hook_embed", lambda tensor, hook: 2 * tensor)]):
        edited = read(None)
        with pytest.raises(ValueError, match=f"the Model {message}"):
            read(tmp_path)
    assert not same(edited.activations[SITES[0]], read(None).activations[SITES[0]])
    for one in (convert(model()), far_from_trivial(CONFIGS["learned"])):
        handle = one.blocks[1].mlp.register_forward_hook(lambda module, given, out: 2 * out)
        with pytest.raises(ValueError, match=message):
            read(tmp_path, one=one)
        handle.remove()
    one = convert(model())
    one.hook_dict["hook_embed"].add_hook(lambda tensor, hook: 2 * tensor)
    with pytest.raises(ValueError, match=message):
        read(tmp_path, one=one)
    assert not list(tmp_path.iterdir())


def test_the_weights_digest_names_every_tensor() -> None:
    digests = {activation_cache.weights_digest(model())}
    for name in model().state_dict():
        changed = far_from_trivial(CONFIGS["learned"])
        with torch.no_grad():
            tensor = changed.state_dict()[name]
            tensor[(-1,) * tensor.ndim] += 1e-3
        digests.add(activation_cache.weights_digest(changed))
    assert len(digests) == 1 + len(model().state_dict())
    assert activation_cache.weights_digest(far_from_trivial(CONFIGS["learned"])) in digests
    assert activation_cache.weights_digest(far_from_trivial(CONFIGS["learned"]).bfloat16()) not in digests
