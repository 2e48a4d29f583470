"""The models that ship: they open without a network, are small, are what their records say, and complete programs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import cadmus
from cadmus import shipped
from cadmus.corpora import corpus, held_out
from cadmus.machine import tokens
from cadmus.programs import mixture
from cadmus.runtime.artifacts import read_manifest
from cadmus.training import checkpoint, completion, recipe

MODELS = Path(cadmus.__file__).parent / "shipped" / "models"
MEGABYTES = {"cadmus-mini": 12, "cadmus-micro": 8}


def size(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def test_two_models_ship() -> None:
    assert shipped.names("models") == sorted(MEGABYTES)
    assert cadmus.load_model().cfg == checkpoint.load("cadmus-mini").model.cfg
    assert not cadmus.load_model().training


@pytest.mark.parametrize("name", MEGABYTES)
def test_a_model_is_small_and_says_what_it_was_trained_on(name: str) -> None:
    assert size(MODELS / name) <= MEGABYTES[name]
    trained = checkpoint.load(name)
    record = trained.record
    its_recipe = recipe.load(name.removeprefix("cadmus-"))
    assert record["recipe"] in (its_recipe.name, f"{its_recipe.name}-next")  # mini's name while it was trained
    assert trained.model.cfg == its_recipe.cfg
    for field in ("steps", "batch_size", "optimizer", "lr", "warmup_steps", "decay_share", "weight_decay", "seed"):
        assert record["config"][field] == getattr(its_recipe.train, field), field
    about = record["corpus"]
    if its_recipe.stream:
        assert about == {
            "fingerprint": trained.mixture.fingerprint,
            "seed": record["config"]["seed"],
            "programs": "streamed",
        }
    else:
        assert about["fingerprint"] == corpus.fingerprint(trained.mixture, about["seed"], about["programs"])
        assert about["programs"] == its_recipe.size
    current = mixture.load(trained.mixture.name)
    assert trained.mixture.fingerprint == current.fingerprint, "the mixture has changed since: train anew"
    assert record["log"][-1]["step"] == record["config"]["steps"]
    assert record["log"][-1]["loss"] < record["log"][0]["loss"]


@pytest.mark.parametrize("name", MEGABYTES)
def test_a_model_completes_what_its_record_says(name: str) -> None:
    """Fresh programs of another split than the record's: not worse than that by more than chance gives."""
    trained = checkpoint.load(name)
    rows = completion.evaluate(
        trained.model, trained.mixture, splits=("test",), out_of_distribution=False, programs=60, seed=3
    )
    last = trained.record["evaluations"][-len(rows) :]
    for row, recorded in zip(rows, last, strict=True):
        assert row.family == recorded["family"]
        assert row.high >= recorded["accuracy"] - 0.1, row.family


def test_snapshots_are_of_one_run() -> None:
    trained = checkpoint.load("cadmus-micro")
    snapshots = checkpoint.snapshots("cadmus-micro")
    assert len(snapshots) == trained.record["config"]["snapshots"]
    files = read_manifest(MODELS / "cadmus-micro", "model")["files"]
    assert {f"snapshots/{path.name}" for path in snapshots.values()} <= files.keys(), "each with its checksum"
    last = checkpoint.load_snapshot(trained, snapshots[trained.record["config"]["steps"]])
    for name, tensor in last.state_dict().items():
        assert torch.equal(tensor, trained.model.state_dict()[name])
    programs = held_out.held_out(trained.mixture.family("compare"), "test", 200, seed=0)
    sequences = torch.from_numpy(tokens.sequences(programs))
    losses = []
    for path in snapshots.values():
        with torch.no_grad():
            losses.append(float(checkpoint.load_snapshot(trained, path)(sequences, return_type="loss")))
    assert losses[-1] < losses[-3] < losses[0]
