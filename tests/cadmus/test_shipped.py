"""The models that ship: they open without a network, are small, are what their records say, and complete programs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import cadmus
from cadmus import shipped
from cadmus.corpora import corpus, held_out, ordinary
from cadmus.machine import tokens
from cadmus.programs import mixture
from cadmus.runtime.artifacts import read_manifest
from cadmus.training import checkpoint, completion, recipe

MODELS = Path(cadmus.__file__).parent / "shipped" / "models"
RECIPES = {  # name -> the recipe of its last run, and its seed
    "cadmus-micro": ("micro", 0),
    "cadmus-micro-1": ("micro", 1),
    "cadmus-micro-2": ("micro", 2),
    "cadmus-micro-ordinary": ("ordinary", 0),
    "cadmus-mini": ("finish", 0),
    "cadmus-mini-1": ("finish", 1),
}
MEGABYTES = {"cadmus-mini": 12, "cadmus-mini-1": 12, "cadmus-micro": 8}  # the others: 1


def size(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def test_the_models_ship() -> None:
    assert shipped.names("models") == sorted(RECIPES)
    assert cadmus.load_model().cfg == checkpoint.load("cadmus-mini").model.cfg
    assert not cadmus.load_model().training


def test_seeds_of_a_model_have_its_name_and_a_number() -> None:
    assert cadmus.load_model("cadmus-micro", seed=2).cfg == cadmus.load_model("cadmus-micro").cfg
    weights = [cadmus.load_model("cadmus-micro", seed=seed).state_dict()["embed.W_E"] for seed in range(3)]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert cadmus.load_model(seed=1).cfg == cadmus.load_model().cfg
    for source, seed in (("cadmus-micro", 3), ("cadmus-micro", -1), (cadmus.shipped.path("models", "cadmus-micro"), 1)):
        with pytest.raises(ValueError, match=f"no model .*cadmus-micro of seed {seed} ships; there are cadmus-micro, "):
            cadmus.load_model(source, seed=seed)


@pytest.mark.parametrize("name", RECIPES)
def test_a_model_is_small_and_says_what_it_was_trained_on(name: str) -> None:
    assert size(MODELS / name) <= MEGABYTES.get(name, 1)
    trained = checkpoint.load(name)
    record = trained.record
    recipe_name, seed = RECIPES[name]
    its_recipe = recipe.load(recipe_name)
    assert trained.seed == seed
    names = {"micro": "micro-512"}  # of recipes while they were tried
    assert record["recipe"] in (recipe_name, names.get(recipe_name))
    assert trained.model.cfg == its_recipe.cfg
    assert record["config"]["steps"] == pytest.approx(its_recipe.train.steps, rel=0.005), "both within the same time"
    for field in ("batch_size", "optimizer", "lr", "warmup_steps", "decay_share", "weight_decay"):
        assert record["config"][field] == getattr(its_recipe.train, field), field
    about = record["corpus"]
    if its_recipe.stream:
        assert about == {
            "fingerprint": trained.mixture.fingerprint,
            "seed": record["config"]["seed"],
            "programs": "streamed",
        }
    else:
        programs = corpus.fingerprint(trained.mixture, about["seed"], its_recipe.size)
        assert about["fingerprint"] == (ordinary.fingerprint(programs) if its_recipe.ordinary else programs)
        assert about["programs"] == its_recipe.size or its_recipe.ordinary  # whose singletons are left out
    current = mixture.load(trained.mixture.name)
    assert trained.mixture.fingerprint == current.fingerprint, "the mixture has changed since: train anew"
    assert record["log"][-1]["step"] == record["config"]["steps"]
    first_run = [*record.get("before", []), record][0]
    assert record["log"][-1]["loss"] < first_run["log"][0]["loss"]


@pytest.mark.parametrize("name", RECIPES)
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


@pytest.mark.parametrize("name", ["cadmus-mini", "cadmus-mini-1"])
def test_what_a_model_was_before_can_be_made_again(name: str) -> None:
    """By recipes that ship, on mixtures that have not changed since, each beginning with what the one before gave."""
    trained = checkpoint.load(name)
    runs = trained.record["before"]
    assert [run["recipe"] for run in runs] == ["mini", "further"]
    assert runs[0]["start"] == ""
    assert all(run["start"] for run in [*runs[1:], trained.record])
    for run in runs:
        its_recipe = recipe.load(run["recipe"])
        assert run["corpus"]["fingerprint"] == its_recipe.mixture.fingerprint
        assert run["config"]["steps"] == pytest.approx(its_recipe.train.steps, rel=0.005)
        assert run["config"]["seed"] == trained.seed
        assert its_recipe.cfg == trained.model.cfg
        assert its_recipe.mixture.hold_out == trained.mixture.hold_out, "of none is a held-out program"


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
