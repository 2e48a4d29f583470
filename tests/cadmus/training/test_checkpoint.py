"""A checkpoint gives the same model back; what is damaged, foreign or no Cadmus model is refused, unopened."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cadmus.corpora.build import build
from cadmus.machine import tokens
from cadmus.models.model import Model
from cadmus.runtime import artifacts
from cadmus.runtime.artifacts import ArtifactError
from cadmus.training import checkpoint
from cadmus.training.recipe import Recipe, train_recipe
from tests.training import CFG, MIXED, QUICK, parameters, programs, trained


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    config = replace(QUICK, steps=3, seed=5)
    result = train_recipe(Recipe("mixed", MIXED, CFG, config), tmp_path / "model")
    again = checkpoint.load(tmp_path / "model")
    sequences = torch.from_numpy(tokens.sequences(programs().programs(np.arange(20))))
    with torch.no_grad():
        assert torch.equal(result.model(sequences), again.model(sequences))
        assert not torch.allclose(again.model(sequences), Model(CFG, seed=5)(sequences), atol=1e-3), "not trained"
    assert again.model.cfg == CFG
    assert again.mixture == MIXED
    assert again.seed == 5
    assert again.record == result.record == json.loads(json.dumps(result.record))
    assert again.record["corpus"]["programs"] == 3 * 64
    assert again.fingerprint == result.fingerprint
    expected, _ = trained(config, build(MIXED, 3 * 64, seed=5), seed=5)
    for name, parameter in parameters(expected).items():
        assert torch.equal(parameter, parameters(again.model)[name]), "from scratch is build, seed, train"


def test_checkpoint_keeps_names_shapes_and_provenance(tmp_path: Path) -> None:
    model = Model(CFG)
    saved = checkpoint.save(tmp_path, model, MIXED, {"config": {"seed": 0}})
    weights = artifacts.read_arrays(tmp_path / "model.safetensors")
    assert {name: tuple(array.shape) for name, array in weights.items()} == {
        name: tuple(parameter.shape) for name, parameter in model.named_parameters()
    }
    assert weights["blocks.0.attn.W_Q"].shape == (CFG.n_heads, CFG.d_model, CFG.d_head)
    manifest = artifacts.read_manifest(tmp_path, "model")
    assert manifest["cfg"] == CFG.to_dict()
    assert manifest["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    with torch.no_grad():
        model.unembed.b_U[0] += 1
    assert checkpoint.save(tmp_path, model, MIXED, {"config": {"seed": 0}}).fingerprint != saved.fingerprint


def replace_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: flip(folder / "model.safetensors"),
            r"model\.safetensors is damaged \(wrong checksum\); delete the folder",
        ),
        (lambda folder: replace_text(folder / "manifest.json", "1e-05", "1e-01"), r"manifest\.json is damaged \(wrong"),
        (
            lambda folder: (folder / "training.json").unlink(),
            r"training\.json is missing; delete the folder and make the model again",
        ),
        (lambda folder: (folder / "manifest.json").unlink(), r"is half-written \(it has no manifest\.json\)"),
    ],
)
def test_damaged_checkpoints_are_noticed(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, Model(CFG), MIXED, {"config": {"seed": 0}})
    damage(tmp_path)
    with pytest.raises(ArtifactError, match=message):
        checkpoint.load(tmp_path)


def edit(folder: Path, change: Callable[[dict], None]) -> None:
    """Change the config of a model on disk."""
    manifest = artifacts.read_json(folder / "manifest.json")
    change(manifest["cfg"])
    artifacts.write_manifest(folder, manifest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"d_mlp": 96},
            r"blocks\.0\.mlp\.W_in has shape \(32, 64\), its config asks for \(32, 96\); delete the folder",
        ),
        ({"n_layers": 3}, r"blocks\.2\.ln1\.w has shape none, its config asks for \(32,\); delete the folder"),
        ({"n_layers": 1}, r"blocks\.1\.\S+ has shape \(.*\), its config asks for none; delete the folder"),
        ({"d_vocab": 50257}, r"a vocabulary of 50257 tokens, the machine has 65; it is no Cadmus model"),
        ({"rope": True}, r"its model is not one of this version \(.*'rope'\)"),
        ({"act_fn": "relu"}, r"its model is not one of this version \(act_fn = 'relu' is not built"),
    ],
)
def test_weights_must_be_those_of_the_config(change: dict, message: str, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, Model(CFG), MIXED, {"config": {"seed": 0}})
    edit(tmp_path, lambda cfg: cfg.update(change))
    with pytest.raises(ArtifactError, match=message):
        checkpoint.load(tmp_path)


class Opened:
    """Tells on whoever unpickles it."""

    def __reduce__(self) -> tuple:
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize("write", [lambda path: torch.save(Opened(), path), lambda path: pickle_to(path, Opened())])
def test_pickles_are_refused_unopened(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "model.pt")
    with pytest.raises(ArtifactError, match=r"model\.pt is a pickle, which can run any code: it was not opened; pass"):
        checkpoint.load(tmp_path / "model.pt")
    checkpoint.save(tmp_path / "run", Model(CFG), MIXED, {"config": {"seed": 0}})
    write(tmp_path / "run" / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"model\.safetensors is damaged \(wrong size\)"):
        checkpoint.load(tmp_path / "run")
    manifest = artifacts.read_json(tmp_path / "run" / "manifest.json")
    manifest["files"]["model.safetensors"] = artifacts.describe_file(tmp_path / "run" / "model.safetensors")
    artifacts.write_manifest(tmp_path / "run", manifest)
    with pytest.raises(ArtifactError, match=r"model\.safetensors is not a safetensors file"):
        checkpoint.load(tmp_path / "run")


def pickle_to(path: Path, value: object) -> None:
    path.write_bytes(pickle.dumps(value))


def test_a_checkpoint_is_shown_in_one_line(tmp_path: Path) -> None:
    result = checkpoint.save(tmp_path, Model(CFG), MIXED, {"config": {"seed": 0}})
    assert repr(result) == f"Checkpoint({result.model!r}, mixture 'mixed', fingerprint {result.fingerprint})"


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    model = Model(CFG)
    with torch.no_grad():
        model.blocks[0].mlp.b_out[0] = torch.nan
    with pytest.raises(ValueError, match=r"blocks\.0\.mlp\.b_out has entries that are not finite: .*none is saved"):
        checkpoint.save(tmp_path / "model", model, MIXED, {"config": {"seed": 0}})
    assert not (tmp_path / "model").exists()


def test_a_record_that_names_snapshots_is_not_saved_without_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"names snapshots after steps \[1, 3\], which .* lacks; take them out of it"):
        checkpoint.save(tmp_path / "run", Model(CFG), MIXED, {"config": {"seed": 0}, "snapshots": [1, 3]})
    assert not (tmp_path / "run").exists()


def test_the_least_record_states_the_seed(tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path, Model(CFG, seed=3), MIXED, {"config": {"seed": 3}})
    assert checkpoint.load(tmp_path).seed == saved.seed == 3
    assert saved.corpus_fingerprint == ""


SEEDLESS = ({}, {"config": {}}, {"config": 3}, *({"config": {"seed": seed}} for seed in (None, "0", 0.5, -1, 2**63)))


@pytest.mark.parametrize("record", [None, [], *SEEDLESS])
def test_a_record_without_a_seed_is_not_saved(record: Any, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^the record states config\.seed = .*, expected a whole number in 0"
    ) as caught:
        checkpoint.save(tmp_path / "run", Model(CFG), MIXED, record)
    assert str(caught.value).endswith("twin starts; save the model with {'config': {'seed': 0}} at least")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("record", SEEDLESS)
def test_an_older_record_without_a_seed_is_read_and_says_so_where_it_is_asked(record: Any, tmp_path: Path) -> None:
    older = replace(checkpoint.save(tmp_path, Model(CFG), MIXED, {"config": {"seed": 0}}), record=record)
    with pytest.raises(
        ArtifactError, match=rf"^the record of model {older.fingerprint} states config\.seed = "
    ) as caught:
        older.seed  # noqa: B018
    assert "\n" not in str(caught.value)


SHIPPED = ("cadmus-micro", "cadmus-micro-1", "cadmus-micro-2", "cadmus-micro-ordinary", "cadmus-mini", "cadmus-mini-1")


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError, match=rf"nowhere does not exist; train one, or name one that ships: {', '.join(SHIPPED)}$"
    ):
        checkpoint.load(tmp_path / "nowhere")
    (tmp_path / "text").write_text("34+7=.")
    with pytest.raises(ArtifactError, match=r"text is a file; pass the folder of a model"):
        checkpoint.load(tmp_path / "text")


@pytest.mark.parametrize("inside", [None, "notes.txt", "config.json"])
def test_a_folder_that_is_no_model(inside: str | None, tmp_path: Path) -> None:
    if inside:
        (tmp_path / inside).write_text("mine")
    with pytest.raises(ArtifactError) as caught:
        checkpoint.load(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds no model, finished or half-written; expected manifest.json, model.safetensors and "
        "training.json, as cadmus-probe train writes them; pass such a folder, or name one that ships: "
        f"{', '.join(SHIPPED)}"
    )


@pytest.mark.parametrize(
    "name", ["model.safetensors", "training.json", "state.safetensors", "snapshots/step-1.safetensors"]
)
def test_a_part_of_a_model_is_half_written(name: str, tmp_path: Path) -> None:
    artifacts.write_bytes(tmp_path / name, b"")
    with pytest.raises(
        ArtifactError, match=r"is half-written \(it has no manifest\.json\); run the command that began"
    ):
        checkpoint.load(tmp_path)


def test_a_corpus_is_no_checkpoint(tmp_path: Path) -> None:
    build(MIXED, 64, folder=tmp_path)
    with pytest.raises(ArtifactError, match="holds a corpus, not a model; pass another folder"):
        checkpoint.load(tmp_path)
