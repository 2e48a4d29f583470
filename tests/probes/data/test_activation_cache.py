"""The cache of activations: what is stored comes back as it was, and nothing else counts."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cadmus.models.config import ModelConfig
from cadmus.runtime import artifacts
from cadmus.runtime.artifacts import ArtifactError
from probes.data import activation_cache, activations
from probes.data.activations import Batch, token_rows
from tests.models import far_from_trivial
from tests.token_rows import (
    CONFIGS,
    SITES,
    SMALL,
    convert,
    converted,
    gathered,
    model,
    programs,
    random_positions,
    same,
)

ROWS = 200


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The sites of every forward pass from now on."""
    ran: list[list[str]] = []
    forward = activations._forward

    def counted(model: Any, sequences: Tensor, sites: list[str], *rest: Any) -> None:
        ran.append(sites)
        forward(model, sequences, sites, *rest)

    monkeypatch.setattr(activations, "_forward", counted)
    return ran


def read(folder: Path | None, sites: list[str] = SITES, backend: Any = None, **arguments: Any) -> Batch:
    """All rows, of `model()` and `programs()` unless others are given."""
    arguments = {"programs": programs(), "rows_per_batch": ROWS, **arguments}
    return gathered(token_rows(backend or model(), sites=sites, cache=folder, **arguments))


def equal(a: Batch, b: Batch) -> bool:
    rows = np.array_equal(a.programs, b.programs) and np.array_equal(a.positions, b.positions)
    return rows and all(np.array_equal(a.activations[site], b.activations[site]) for site in b.activations)


def finished(folder: Path) -> set[str]:
    """The sites whose folders have a manifest."""
    return {path.parent.name for path in folder.rglob(artifacts.MANIFEST)}


def test_what_is_stored_comes_back_and_only_the_rest_runs(either: Any, tmp_path: Path, passes: list) -> None:
    plain = read(None, backend=either)
    for sites, missing in [
        (SITES[:1], SITES[:1]),
        (SITES[:1], []),
        (SITES, SITES[1:]),
        (SITES[::-1], []),
    ]:
        passes.clear()
        batch = read(tmp_path, sites, either)
        assert list(batch.activations) == sites
        assert all(ran == missing for ran in passes)
        assert bool(passes) == bool(missing)
        assert np.array_equal(batch.programs, plain.programs)
        for site in sites:
            assert same(batch.activations[site], plain.activations[site])
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
    read(tmp_path, backend=model("rotary"))
    for change in [
        {"backend": moved},
        {"backend": turned},
        {"backend": converted()},
        {"programs": programs_changed},
        {"programs": programs()[::-1]},
        {"where": random_positions()},
        {"where": ~random_positions()},
        {"precision": "bf16"},
        {"rows_per_batch": ROWS + 1},
    ]:
        passes.clear()
        computed = read(tmp_path, **change)
        assert passes, change
        passes.clear()
        assert equal(read(tmp_path, **change), computed)
        assert not passes, change
    passes.clear()
    same_weights = far_from_trivial(CONFIGS["learned"])
    first_layer = same_weights.blocks[0].mlp.W_in
    first_layer.data = first_layer.data.clone(memory_format=torch.contiguous_format)
    read(tmp_path, backend=same_weights, programs=np.asfortranarray(programs()))
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
    remedy = r".*: delete .*blocks\.1\.attn\.hook_z, and it is computed anew"
    with pytest.raises(ArtifactError, match=message + remedy) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)
    assert np.array_equal(read(tmp_path, SITES[:1]).activations[SITES[0]], sound.activations[SITES[0]])
    shutil.rmtree(path.parent)
    assert equal(read(tmp_path), sound)


@pytest.mark.parametrize("batches_before", [0, 1, 10**6])
@pytest.mark.parametrize("what", ["weights", "programs"])
def test_what_changes_between_the_call_and_its_work_is_not_stored(
    batches_before: int, what: str, tmp_path: Path
) -> None:
    changing, rows = far_from_trivial(CONFIGS["learned"]), programs().copy()
    batches = token_rows(changing, rows, SITES, rows_per_batch=ROWS, cache=tmp_path)
    n = sum(1 for _ in itertools.islice(batches, batches_before))  # all but the end, where there are so few
    if what == "weights":
        with torch.no_grad():
            changing.blocks[0].mlp.W_in *= 2
    else:
        rows[0, 0] ^= 1
    if n == batches_before:
        with pytest.raises(ValueError, match=f"{what} changed.*nothing was stored"):
            list(batches)
        assert finished(tmp_path) == set()
    else:  # all had been read: what is stored is of the weights that they were read from
        assert len(finished(tmp_path)) == len(SITES)
        assert equal(read(tmp_path, backend=far_from_trivial(CONFIGS["learned"])), read(None))


def test_a_model_with_hooks_is_not_cached(tmp_path: Path) -> None:
    message = "has hooks set, and a cache is named by its weights only: read without cache="
    with model().hooks([("hook_embed", lambda tensor, hook: 2 * tensor)]):
        activations_edited = read(None).activations[SITES[0]]
        with pytest.raises(ValueError, match=f"the Model {message}"):
            read(tmp_path)
    assert not same(activations_edited, read(None).activations[SITES[0]])
    for edited in (convert(model()), far_from_trivial(CONFIGS["learned"])):
        handle = edited.blocks[1].mlp.register_forward_hook(lambda module, inputs, output: 2 * output)
        with pytest.raises(ValueError, match=message):
            read(tmp_path, backend=edited)
        handle.remove()
    edited = convert(model())
    edited.hook_dict["hook_embed"].add_hook(lambda tensor, hook: 2 * tensor)
    with pytest.raises(ValueError, match=message):
        read(tmp_path, backend=edited)
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
