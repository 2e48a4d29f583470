"""Recipes: read whole or refused by name, changed by options, followed to a saved model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from analyses.cli import main
from cadmus import shipped
from cadmus.corpora.build import build
from cadmus.corpora.ordinary import twin
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from cadmus.programs.families import Equality
from cadmus.programs.mixture import Component, Mixture, save
from cadmus.runtime import artifacts
from cadmus.training import checkpoint
from cadmus.training.config import TrainConfig
from cadmus.training.loop import train
from cadmus.training.recipe import Recipe, load, train_recipe, with_changes

MIXED = Mixture("mixed", (Component(Equality()),))
CFG = ModelConfig(n_layers=2, d_model=32, n_heads=2, d_head=16, d_mlp=64, n_ctx=MIXED.width + 1)
QUICK = TrainConfig(steps=4, batch_size=32, warmup_steps=2, precision="fp32", log_every=2)
RECIPE = Recipe("quick", MIXED, CFG, QUICK)


@pytest.mark.parametrize("name", shipped.names("recipes"))
def test_recipes_that_ship_fit_their_programs(name: str) -> None:
    recipe = load(name)
    assert recipe.name == name
    assert recipe.mixture.width + 1 <= recipe.cfg.n_ctx
    assert recipe.cfg.n_heads * recipe.cfg.d_head == recipe.cfg.d_model


def test_what_ships_is_what_the_commands_name(capsys) -> None:
    assert shipped.names("recipes") == [
        "base",
        "compute",
        "dynamics",
        "finish",
        "first",
        "further",
        "micro",
        "mini",
        "ordinary",
    ]
    assert load("dynamics").train.snapshots == 24, "what cadmus-probe dynamics asks for"
    assert main(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert all(f" {name} (" in text or f"{name} and" in text for name in shipped.names("recipes"))


def test_a_recipe_is_a_file_with_a_mixture_beside_it(tmp_path: Path) -> None:
    save(MIXED, tmp_path / "mixed.toml")
    (tmp_path / "recipe.toml").write_text(
        'name = "mine"\nmixture = "mixed.toml"\nprograms = 500\n'
        "[model]\nn_layers = 2\nd_model = 64\n[train]\nsteps = 7\nlr = 1\nbetas = [0.8, 0.9]\n"
    )
    mine = load(tmp_path / "recipe.toml")
    assert (mine.name, mine.programs, mine.size, mine.stream) == ("mine", 500, 500, False)
    assert mine.mixture == MIXED
    assert (mine.cfg.n_layers, mine.cfg.d_model, mine.cfg.n_heads, mine.cfg.d_mlp) == (2, 64, 2, 256)
    assert mine.cfg.n_ctx % 8 == 0
    assert mine.cfg.n_ctx >= MIXED.width + 5
    assert mine.train == replace(TrainConfig(), steps=7, lr=1.0, betas=(0.8, 0.9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", r"recipe\.toml is not TOML: "),
        ('name = "x"', r'recipe\.toml: a recipe is name = "\.\.\.", mixture = "\.\.\.", and tables'),
        ('name = "x"\nmixture = "frist"', r"recipe\.toml: no mixture 'frist'; name a TOML file or one of compute"),
        ('name = "x"\nmixture = "first"\nlr = 1.0', r"a recipe has no 'lr'; it has name, mixture, programs, stream"),
        ('name = "x"\nmixture = "first"\nprograms = "many"', r"programs = 'many' must be int"),
        ('name = "../x"\nmixture = "first"', r"recipe name '\.\./x' must begin with a letter or digit"),
        ('name = ""\nmixture = "first"', r"recipe name '' must begin with a letter or digit"),
        ('name = "_x"\nmixture = "first"', r"recipe name '_x' must begin with a letter or digit"),
        ('name = "x"\nmixture = "first"\nprograms = -1', r"programs = -1 must be 0 or more"),
        ('name = "x"\nmixture = "first"\nprograms = 9\nstream = true', r"a stream has no size; leave out programs"),
        (
            'name = "x"\nmixture = "first"\nordinary = true\nstream = true',
            r"twin is made of a whole corpus, not of a stream",
        ),
        ('name = "x"\nmixture = "first"\nordinary = 1', r"ordinary = 1 must be bool"),
        ('name = "x"\nmixture = "first"\n[train]\nlearning = 1', r"train: unknown field 'learning'; there are steps,"),
        ('name = "x"\nmixture = "first"\n[train]\nsteps = 1.5', r"train: steps = 1\.5 must be int"),
        ('name = "x"\nmixture = "first"\n[train]\nsteps = 0', r"steps = 0 must be 1 or more"),
        ('name = "x"\nmixture = "first"\n[model]\nd_model = 100', r"width = 100 must be a multiple of 32"),
        ('name = "x"\nmixture = "first"\n[model]\nlayers = 2', r"model: unknown field 'layers'; there are n_layers"),
        ('name = "x"\nmixture = "first"\n[model]\nd_model = "128"', r"model: d_model = '128' must be int"),
        ('name = "x"\nmixture = "first"\n[model]\nn_heads = 3', r"n_heads = 3 does not divide d_model = 128"),
        ('name = "x"\nmixture = "first"\n[model]\nd_vocab = 50', r"d_vocab = 50 must be 65, the machine's tokens"),
        ('name = "x"\nmixture = "first"\n[model]\neps = -1', r"eps = -1\.0 must be above 0"),
        ('name = "x"\nmixture = "first"\n[train]\nbetas = [0.9]', r"betas = \(0\.9,\) must be two numbers"),
    ],
)
def test_bad_recipes_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "recipe.toml")


def test_an_unknown_recipe_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no recipe 'frist'; name a TOML file or one of .*first"):
        load("frist")


def test_options_take_the_place_of_what_a_recipe_says() -> None:
    assert with_changes(RECIPE) == RECIPE
    assert with_changes(RECIPE, steps=9, seed=3).train == replace(QUICK, steps=9, seed=3)
    deep = with_changes(RECIPE, layers=5).cfg
    assert (deep.n_layers, deep.d_model, deep.d_head, deep.d_mlp) == (5, 32, 16, 64)
    wide = with_changes(RECIPE, width=96).cfg
    assert (wide.n_layers, wide.d_model, wide.n_heads, wide.d_head, wide.d_mlp) == (2, 96, 3, 32, 384)
    longer = with_changes(RECIPE, mixture=load("first").mixture)
    assert longer.cfg.n_ctx > longer.mixture.width


def test_heads_divide_the_width_whichever_is_stated(tmp_path: Path) -> None:
    cases = (
        ("d_model = 128\nn_heads = 8", 8, 16),
        ("d_model = 128\nd_head = 64", 2, 64),
        ("d_model = 128\nn_heads = 2\nd_head = 64", 2, 64),
        ("d_model = 48\nn_heads = 3", 3, 16),
        ("d_model = 96", 3, 32),
    )
    for stated, heads, width in cases:
        text = f'name = "x"\nmixture = "first"\n[model]\n{stated}\n'
        (tmp_path / "recipe.toml").write_text(text)
        cfg = load(tmp_path / "recipe.toml").cfg
        assert (cfg.n_heads, cfg.d_head) == (heads, width)
    rotary = '[model]\npositional_embedding_type = "rotary"\nrotary_dim = 16\n'
    (tmp_path / "recipe.toml").write_text(f'name = "x"\nmixture = "first"\n{rotary}')
    assert load(tmp_path / "recipe.toml").cfg.rotary_dim == 16


def test_a_longer_context_than_needed_stays(tmp_path: Path) -> None:
    assert with_changes(load("mini"), layers=8, width=256).cfg.n_ctx == load("mini").cfg.n_ctx == 104


@pytest.mark.slow
def test_a_finished_model_is_not_trained_again_nor_replaced(tmp_path: Path) -> None:
    first = train_recipe(RECIPE, tmp_path)
    stages = []
    again = train_recipe(RECIPE, tmp_path, progress=lambda stage, fraction, note: stages.append(stage))
    assert again.fingerprint == first.fingerprint
    assert stages == []
    message = r"holds the finished model of another run \(seed, programs differ\); choose another folder, or delete it"
    with pytest.raises(artifacts.ArtifactError, match=message):
        train_recipe(with_changes(RECIPE, seed=1), tmp_path)
    with pytest.raises(artifacts.ArtifactError, match=r"another run \(programs differ\)"):
        train_recipe(RECIPE, tmp_path, corpus=build(MIXED, 256, seed=9))
    assert checkpoint.load(tmp_path).fingerprint == first.fingerprint


@pytest.mark.parametrize("record", [{}, {"config": {"seed": 0}}])
def test_a_model_of_little_record_is_another_run(record: dict, tmp_path: Path) -> None:
    """An older folder, and one that `checkpoint.save` wrote of a model from elsewhere."""
    checkpoint.save(tmp_path, Model(CFG), MIXED, {"config": {"seed": 0}})
    manifest = artifacts.read_json(tmp_path / "manifest.json")
    manifest["files"]["training.json"] = artifacts.describe_file(
        artifacts.write_json(tmp_path / "training.json", record)
    )
    artifacts.write_manifest(tmp_path, manifest)
    message = r"finished model of another run \(.*, lr, .*, programs differ\); choose another folder, or delete it$"
    with pytest.raises(artifacts.ArtifactError, match=message):
        train_recipe(RECIPE, tmp_path)


def test_training_does_not_begin_in_the_folder_of_a_finished_model(tmp_path: Path) -> None:
    train_recipe(replace(RECIPE, train=replace(QUICK, snapshots=2)), tmp_path)
    snapshots = sorted((tmp_path / "snapshots").iterdir())
    with pytest.raises(ValueError, match="holds a finished model, which has no state to go on from; choose another"):
        train(Model(CFG), build(MIXED, 256), QUICK, folder=tmp_path)
    assert snapshots
    assert sorted((tmp_path / "snapshots").iterdir()) == snapshots


def test_a_corpus_is_not_replaced_by_a_model(tmp_path: Path) -> None:
    build(MIXED, 64, folder=tmp_path)
    with pytest.raises(artifacts.ArtifactError, match="holds a corpus, which a model would replace; choose another"):
        train_recipe(RECIPE, tmp_path)


@pytest.mark.slow
def test_a_stored_corpus_is_trained_on(tmp_path: Path, capsys) -> None:
    corpus = build(MIXED, 256, folder=tmp_path / "corpus")
    small = ["--steps", "2", "--layers", "1", "--width", "32", "--corpus", str(tmp_path / "corpus")]
    (tmp_path / "tiny.toml").write_text('name = "tiny"\nmixture = "first"\n[train]\nbatch_size = 32\n')
    out = ["--recipe", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "run")]
    assert main(["train", *out, *small]) == 0
    trained = checkpoint.load(tmp_path / "run")
    assert trained.record["corpus"]["fingerprint"] == corpus.fingerprint
    assert trained.mixture == MIXED
    manifest = artifacts.read_json(tmp_path / "corpus" / "manifest.json")
    artifacts.write_json(tmp_path / "corpus" / "manifest.json", {**manifest, "machine": "another"})
    assert main(["train", *out[:2], "--out", str(tmp_path / "other"), *small]) == 2
    assert "was made with another version of the machine" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("stream", [False, True])
def test_a_recipe_is_followed_to_a_saved_model(stream: bool, tmp_path: Path) -> None:
    calls = []
    recipe = replace(RECIPE, stream=stream)
    trained = train_recipe(recipe, tmp_path, progress=lambda *call: calls.append(call))
    assert trained is not None
    assert trained.record["recipe"] == "quick"
    again = checkpoint.load(tmp_path)
    assert again.fingerprint == trained.fingerprint
    assert not (tmp_path / checkpoint.STATE).exists()
    assert [fraction for stage, fraction, _ in calls if stage == "train"] == [0.25, 0.5, 0.75, 1.0]
    assert "of peak, loss" in calls[-1][2]
    assert ("build the corpus" in {stage for stage, _, _ in calls}) != stream


def test_an_ordinary_recipe_trains_on_the_twin_of_its_corpus(tmp_path: Path) -> None:
    recipe = replace(RECIPE, ordinary=True, programs=256)
    stages = []

    def progress(stage: str, fraction: float, note: str = "") -> None:
        stages.append(stage)

    trained = train_recipe(recipe, tmp_path / "twin", progress=progress)
    corpus = build(MIXED, 256)
    expected = twin(corpus)
    assert trained.record["corpus"] == expected.about
    assert trained.record["corpus"]["ordinary_twin_of"] == corpus.fingerprint
    model = Model(CFG)
    train(model, expected, QUICK)
    for name, weights in model.state_dict().items():
        assert torch.equal(trained.model.state_dict()[name], weights), name
    assert stages.index("exchange the answers") < stages.index("train")
    stages.clear()
    train_recipe(recipe, tmp_path / "twin", progress=progress)
    train_recipe(recipe, tmp_path / "twin", corpus=corpus, progress=progress)
    assert stages == [], "it is finished, and of the same programs whether they are built or given"
    assert train_recipe(recipe, tmp_path / "given", corpus=corpus).record["corpus"] == expected.about
    with pytest.raises(artifacts.ArtifactError, match=r"another run \(programs differ\)"):
        train_recipe(replace(recipe, ordinary=False), tmp_path / "twin")


def test_the_ordinary_recipe_is_micro_but_for_the_truth() -> None:
    assert replace(load("ordinary"), name="micro", ordinary=False) == load("micro")
    assert load("ordinary").ordinary


def test_training_begins_with_the_weights_of_another_model(tmp_path: Path, capsys) -> None:
    first = train_recipe(RECIPE, tmp_path / "first")
    tiny_step = replace(QUICK, steps=1, lr=1e-30, warmup_steps=0)
    second = train_recipe(replace(RECIPE, start=str(tmp_path / "first"), train=tiny_step), tmp_path / "second")
    for name, weights in first.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], weights), name
    assert second.record["start"] == first.fingerprint
    assert first.record["start"] == ""
    assert [before["tokens"] for before in second.record["before"]] == [first.record["tokens"]]
    assert first.record["before"] == []
    with pytest.raises(artifacts.ArtifactError, match=r"finished model of another run \(start differ\)"):
        train_recipe(replace(RECIPE, train=tiny_step), tmp_path / "second")
    with pytest.raises(artifacts.ArtifactError, match=r"finished model of another run \(precision differ\)"):
        train_recipe(replace(RECIPE, train=replace(QUICK, precision="bf16")), tmp_path / "first")
    assert train_recipe(replace(RECIPE, train=replace(QUICK, precision="auto")), tmp_path / "first").fingerprint
    (tmp_path / "beside.toml").write_text('name = "x"\nmixture = "first"\nstart = "first"\n')
    assert load(tmp_path / "beside.toml").start == str(tmp_path / "first"), "a folder beside the recipe"
    wider = replace(RECIPE, start=str(tmp_path / "first"), cfg=replace(CFG, d_mlp=128))
    with pytest.raises(ValueError, match=r"is of another architecture \(d_mlp differ\); make \[model\] the same, or"):
        train_recipe(wider, tmp_path / "third")
    capsys.readouterr()
    assert main(["train", "--start", "nowhere", "--out", str(tmp_path / "fourth")]) == 2
    error = capsys.readouterr().err
    assert "model folder nowhere does not exist" in error
    assert "corpus" not in error, "before any work is done"


def test_the_record_evaluates_on_the_validation_split() -> None:
    record = train(Model(CFG), MIXED, replace(QUICK, evaluate_every=2, evaluate_programs=10))
    assert [(row["step"], row["family"], row["n"]) for row in record["evaluations"]] == [
        (2, "equality", 10),
        (4, "equality", 10),
    ]
    assert all(0 <= row["accuracy"] <= 1 for row in record["evaluations"])


def test_evaluating_leaves_the_training_as_it_is() -> None:
    models = []
    for every in (0, 1):
        models.append(Model(CFG))
        train(models[-1], MIXED, replace(QUICK, evaluate_every=every, evaluate_programs=5))
    for plain, evaluated in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(plain, evaluated)


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_follows_a_recipe_and_prints_where_it_lies(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(MIXED, tmp_path / "mixed.toml")
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\nmixture = "mixed.toml"\n[model]\nn_layers = 1\nd_model = 32\n'
        "[train]\nsteps = 3\nbatch_size = 16\n"
    )
    assert main(["train", "--recipe", "mine.toml", "--seed", "4"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-1] == "runs/mine"
    assert lines[0].split()[:2] == ["family", "programs"]
    record = artifacts.read_json(tmp_path / "runs" / "mine" / "training.json")
    assert record["config"]["seed"] == 4
    assert record["config"]["steps"] == 3


def test_a_context_that_is_too_short_is_refused_before_training(tmp_path: Path, capsys) -> None:
    (tmp_path / "short.toml").write_text('name = "short"\nmixture = "default"\n[model]\nn_ctx = 32\n')
    assert main(["train", "--recipe", str(tmp_path / "short.toml"), "--out", str(tmp_path / "run")]) == 2
    assert "need 70 positions, the model has n_ctx = 32; take shorter programs" in capsys.readouterr().err
