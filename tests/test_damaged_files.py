"""One byte that is not what it was: whatever reads the file says so in a line, or reads what was written.

The fast tier tries a sample of the bytes, the slow tier every byte of small files, `make fuzz` 10,000 of a large one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cadmus import shipped
from cadmus.corpora import build, corpus
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from cadmus.programs import mixture
from cadmus.runtime import artifacts
from cadmus.runtime.artifacts import ArtifactError
from cadmus.training import checkpoint
from probes.data.activations import token_rows
from tests.fuzzing import examples

TINY = ModelConfig(n_layers=1, d_model=4, n_heads=1, d_head=4, d_mlp=4, n_ctx=32)
SITE = "hook_embed"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished model with a snapshot, one that is under way, a corpus, and activations of the model."""
    home = tmp_path_factory.mktemp("folders")
    first = mixture.load("first")
    model = Model(TINY)
    for name in ("model", "under way"):
        checkpoint.save_snapshot(home / name, 1, model)
    checkpoint.save(home / "model", model, first, {"config": {"seed": 0}, "snapshots": [1]})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model("34+7=.").sum().backward()
    optimizer.step()
    checkpoint.save_state(home / "under way", {"model": model}, [optimizer], {"step": 1, "log": [0.5, None]})
    build.build(first, 60, folder=home / "corpus")
    read_activations(home)
    return home


def read_activations(home: Path) -> Any:
    programs = corpus.load(home / "corpus").programs(np.arange(3))
    return [batch.activations[SITE] for batch in token_rows(Model(TINY), programs, SITE, cache=home / "activations")]


@cache
def trained() -> checkpoint.Checkpoint:
    return checkpoint.Checkpoint(Model(TINY), mixture.load("first"), {}, "")


def read_snapshot(folder: Path) -> Any:
    (path,) = checkpoint.snapshots(folder).values()
    return list(checkpoint.load_snapshot(trained(), path).state_dict().values())


def read_model(home: Path) -> Any:
    loaded = checkpoint.load(home / "model")
    return loaded.record, loaded.mixture, loaded.model.cfg, *loaded.model.state_dict().values()


def read_corpus(home: Path) -> Any:
    made = corpus.load(home / "corpus")
    return made.mixture, made.counts, made.programs(np.arange(len(made)))


Read = Callable[[Path], Any]
READERS: dict[str, tuple[str, Read]] = {  # what is damaged, below the folders, and who reads it
    "weights": ("model/model.safetensors", read_model),
    "record": ("model/training.json", read_model),
    "manifest": ("model/manifest.json", read_model),
    "snapshot": ("model/snapshots/step-0000001.safetensors", lambda home: read_snapshot(home / "model")),
    "snapshot-under-way": ("under way/snapshots/*", lambda home: read_snapshot(home / "under way")),
    "state": ("under way/state.safetensors", lambda home: checkpoint.load_state(home / "under way")),
    "shard": ("corpus/shards/*", read_corpus),
    "corpus-manifest": ("corpus/manifest.json", read_corpus),
    "activations": (f"activations/*/{SITE}/*.safetensors", read_activations),
    "activations-manifest": (f"activations/*/{SITE}/manifest.json", read_activations),
}


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor | np.ndarray):
        return bool((a == b).all())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    return a == b


def flips(size: int, n: int | None, seed: int = 0) -> Iterator[tuple[int, int]]:
    """Places in a file of this size, all or `n` of them, and the mask by which the byte there changes."""
    rng = np.random.default_rng(seed)
    places = range(size) if n is None else rng.choice(size, min(n, size), replace=False)
    for place in places:
        yield int(place), int(rng.integers(1, 256))


def outcome(read: Callable[[], Any]) -> Any:
    """What is read, or the error that refuses it."""
    try:
        return read()
    except ArtifactError as error:
        return error


def check_flips(file: Path, read: Callable[[], Any], n: int | None) -> int:
    """Flip bytes of a file, one at a time; returns how many changed nothing that is read."""
    sound, expected = file.read_bytes(), read()
    harmless = 0
    try:
        for place, mask in flips(len(sound), n):
            data = bytearray(sound)
            data[place] ^= mask
            file.write_bytes(data)
            seen = outcome(read)
            if isinstance(seen, ArtifactError):
                assert "\n" not in str(seen), (file, place, mask)
                assert str(file.parent) in str(seen), (file, place, mask)
            else:
                assert equal(seen, expected), (file, place, mask)
                harmless += 1
    finally:
        file.write_bytes(sound)
    return harmless


def check(name: str, folders: Path, tmp_path: Path, n: int | None) -> None:
    pattern, read = READERS[name]
    home = tmp_path / "home"
    shutil.copytree(folders, home)
    file = sorted(home.glob(pattern))[0]
    harmless = check_flips(file, lambda: read(home), n)
    if file.suffix != ".json" and name != "snapshot-under-way" and name != "state":
        assert not harmless, "a file that a manifest lists is read as it was written, or not at all"


@pytest.mark.parametrize("name", READERS)
def test_some_flipped_bytes(name: str, folders: Path, tmp_path: Path) -> None:
    check(name, folders, tmp_path, 25)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_every_flipped_byte(name: str, folders: Path, tmp_path: Path) -> None:
    check(name, folders, tmp_path, None)


def copy_of_what_ships(tmp_path: Path) -> Path:
    return Path(shutil.copytree(shipped.path("models", "cadmus-mini"), tmp_path / "mini"))


def check_flips_of_the_weights(folder: Path, n: int) -> None:
    """In place, one byte at a time, as the reader of the folder sees them: the file has ten million bytes."""
    file = folder / "model.safetensors"
    with file.open("r+b", buffering=0) as handle:
        for place, mask in flips(file.stat().st_size, n):
            handle.seek(place)
            byte = handle.read(1)[0]
            for value in (byte ^ mask, byte):
                handle.seek(place)
                handle.write(bytes([value]))
                if value != byte:
                    with pytest.raises(ArtifactError, match=r"model\.safetensors is damaged \(wrong checksum\)"):
                        artifacts.read_manifest(folder, "model")
    artifacts.read_manifest(folder, "model")


def test_flipped_bytes_of_the_model_that_ships(tmp_path: Path) -> None:
    check_flips_of_the_weights(copy_of_what_ships(tmp_path), 10)


@pytest.mark.slow
@pytest.mark.hypothesis  # more of them by `make fuzz`
def test_many_flipped_bytes_of_the_model_that_ships(tmp_path: Path) -> None:
    check_flips_of_the_weights(copy_of_what_ships(tmp_path), examples(1000))


def test_a_snapshot_that_was_damaged_under_way_does_not_enter_a_finished_model(tmp_path: Path) -> None:
    model = Model(TINY)
    path = checkpoint.save_snapshot(tmp_path, 1, model)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"step-0000001\.safetensors is damaged \(wrong checksum\)"):
        checkpoint.save(tmp_path, model, mixture.load("first"), {"config": {"seed": 0}, "snapshots": [1]})
    assert not (tmp_path / "manifest.json").exists()


def test_a_snapshot_of_an_earlier_version_is_held_against_its_manifest(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shipped.path("models", "cadmus-micro"), tmp_path / "micro"))
    micro = checkpoint.load(folder)
    path = next(iter(checkpoint.snapshots(folder).values()))
    checkpoint.load_snapshot(micro, path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"is damaged"):  # though the folder was sound when it was loaded
        checkpoint.load_snapshot(micro, path)


def test_a_manifest_may_be_laid_out_anew(folders: Path, tmp_path: Path) -> None:
    """What is covered is its content, so that white space is no damage."""
    home = Path(shutil.copytree(folders / "corpus", tmp_path / "corpus"))
    path = home / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert len(corpus.load(home)) == 60
