"""Training lowers the loss by the right gradient, checkpoints give the same model back, accuracy is the machine's."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cadmus import artifacts, checkpoint, corpus, evaluate, mixture, tokens, vm
from cadmus import train as training
from cadmus.artifacts import ArtifactError
from cadmus.build import build
from cadmus.corpus import Corpus
from cadmus.evaluate import Accuracy, complete, score
from cadmus.families import Compare, Equality, Family, Register
from cadmus.mixture import Component, Mixture
from cadmus.model import Model, ModelConfig, loss_mask, next_token_loss
from cadmus.muon import Muon, orthogonalize
from cadmus.recipe import Recipe, follow
from cadmus.train import TrainConfig, _accumulate, train

MIXED = Mixture("mixed", (Component(Equality()), Component(Register(assertions=2))))
CFG = ModelConfig(n_layers=2, d_model=32, n_heads=2, d_head=16, d_mlp=64, n_ctx=MIXED.width + 1)
QUICK = TrainConfig(steps=40, batch_size=64, lr=1e-2, warmup_steps=5, log_every=10, precision="fp32")


@cache
def programs(size: int = 1500) -> Corpus:
    return build(MIXED, size)


def trained(config: TrainConfig, made: Corpus | None = None, seed: int = 0) -> tuple[Model, dict]:
    model = Model(CFG, seed=seed)
    return model, train(model, made or programs(), config)


def parameters(model: Model) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


# --- the loop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_lowers_the_loss(precision: str) -> None:
    losses = []
    model = Model(CFG)
    record = train(model, programs(), replace(QUICK, precision=precision), lambda now: losses.append(now["loss"]))
    assert losses[0] == pytest.approx(math.log(65), abs=0.1), "an untrained model guesses"
    assert np.mean(losses[-5:]) < 0.55 * losses[0]
    assert [row["step"] for row in record["log"]] == [10, 20, 30, 40]
    for row in record["log"]:
        assert row["loss"] == pytest.approx(np.mean(losses[row["step"] - 10 : row["step"]]))
    assert not model.training
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_rotary_models_train_and_come_back(tmp_path: Path) -> None:
    cfg = replace(CFG, positional_embedding_type="rotary")
    made = follow(Recipe("rotary", MIXED, cfg, QUICK, programs=1500), tmp_path / "model")
    first, last = (made.record["log"][i]["loss"] for i in (0, -1))
    assert last < 0.8 * first
    again = checkpoint.load(tmp_path / "model").model
    assert again.cfg == cfg
    sequences = torch.from_numpy(tokens.sequences(programs().programs(np.arange(20))))
    with torch.no_grad():
        assert torch.equal(again(sequences), made.model(sequences))


def test_what_is_learned_holds_for_unseen_programs() -> None:
    """So that the loss falls by the programs, not by chance: the model beats the best constant guess of each token."""
    model, _ = trained(QUICK)
    unseen = torch.from_numpy(tokens.sequences(corpus.held_out(Equality(), "test_skeleton", 500, 0)))
    with torch.no_grad():
        loss = model(unseen, return_type="loss").item()
    counted = unseen[:, 1:][loss_mask(unseen)].long()
    shares = torch.bincount(counted, minlength=65) / len(counted)
    entropy = -(shares[shares > 0] * shares[shares > 0].log()).sum().item()
    assert loss < 0.8 * entropy


def test_a_seed_fixes_the_training() -> None:
    config = replace(QUICK, steps=6)
    (first, record), (again, repeated), (other, _) = trained(config), trained(config), trained(replace(config, seed=1))
    for name, parameter in parameters(first).items():
        assert torch.equal(parameter, parameters(again)[name])
        assert not torch.equal(parameter, parameters(other)[name]), "the seed fixes the order of the programs"
    assert [row["loss"] for row in record["log"]] == [row["loss"] for row in repeated["log"]]


def test_training_leaves_global_random_state_alone() -> None:
    torch.manual_seed(3)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    trained(replace(QUICK, steps=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_record_counts_tokens_and_says_what_was_done() -> None:
    told = []
    made = programs(128)
    model = Model(CFG)
    record = train(
        model, made, replace(QUICK, steps=6, log_every=4), lambda now: told.append((now["step"], now["tokens"]))
    )
    passes = [int(made.lengths.sum()) * (i + 1) for i in range(3)]  # two steps of 64 are a pass over 128 programs
    assert [seen for step, seen in told if step % 2 == 0] == passes
    assert [step for step, _ in told] == [1, 2, 3, 4, 5, 6]
    assert record["tokens"] == passes[-1]
    assert [row["step"] for row in record["log"]] == [4, 6]
    assert [row["tokens"] for row in record["log"]] == passes[1:]
    assert record["corpus"] == {"fingerprint": made.fingerprint, "seed": 0, "programs": 128}
    assert record["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert record["config"]["steps"] == 6
    assert json.loads(json.dumps(record))["log"] == record["log"]


# --- the gradient ----------------------------------------------------------------------------------------------------


def test_micro_batches_give_the_gradient_of_the_whole_batch() -> None:
    whole = torch.from_numpy(tokens.sequences(programs().programs(np.arange(64))))
    expected = Model(CFG)
    loss = next_token_loss(expected(whole), whole)
    loss.backward()
    by_length = np.argsort(programs().lengths[:64], kind="stable")
    parts = [programs().programs(part) for part in np.array_split(by_length, 4)]
    assert len({part.shape[1] for part in parts}) > 1, "equal lengths would hide wrong weights"
    split = Model(CFG)
    mean, counted = _accumulate(split, parts, QUICK)
    assert mean == pytest.approx(loss.item(), rel=1e-5)
    assert counted == int(loss_mask(whole).sum())
    for (name, a), b in zip(expected.named_parameters(), split.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-6), name


def test_micro_batches_leave_the_step_as_it_is() -> None:
    one_step = replace(QUICK, steps=1, warmup_steps=0)
    whole, split, wrong = (trained(replace(one_step, **other))[0] for other in ({"micro_batches": 1}, {}, {"seed": 1}))
    moved = []
    for name, parameter in parameters(whole).items():
        near = (parameter - parameters(split)[name]).abs().max().item()
        matrix = name.startswith("blocks.") and ".W_" in name  # orthogonalized in bf16, which shows rounding
        assert near <= (2e-3 if matrix else 1e-5), name
        moved.append((parameter - parameters(wrong)[name]).abs().max().item())
    assert np.median(moved) > 5e-3, "other batches must lead further away than what is allowed"


def one_step(**other: float | str) -> dict[str, Tensor]:
    """How far the parameters move in a single step at full rate."""
    after = parameters(trained(replace(QUICK, steps=1, warmup_steps=0, **other))[0])
    return {name: parameter - parameters(Model(CFG))[name] for name, parameter in after.items()}


def test_the_rate_and_the_clip_bound_the_step() -> None:
    moved = one_step(weight_decay=0.0)
    assert moved["unembed.b_U"].abs().max().item() == pytest.approx(1e-2, rel=0.02)  # AdamW's first step is the rate
    assert all(step.abs().max() < 1.01e-2 for step in moved.values())
    clipped = one_step(weight_decay=0.0, clip=1e-9)  # a tenth of what AdamW adds to the root of the second moment
    assert 0 < clipped["unembed.b_U"].abs().max() < 1e-3


def test_decay_is_of_the_matrices_of_the_blocks() -> None:
    plain, decayed, weights = one_step(weight_decay=0.0), one_step(weight_decay=0.5), parameters(Model(CFG))
    for name, step in decayed.items():
        matrix = name.startswith("blocks.") and ".W_" in name
        expected = -1e-2 * 0.5 * weights[name] if matrix else torch.zeros_like(step)
        assert torch.allclose(step - plain[name], expected, atol=1e-7), name


def test_precision_is_of_the_products() -> None:
    losses = [trained(replace(QUICK, steps=1, precision=name))[1]["log"][0]["loss"] for name in ("fp32", "bf16")]
    assert 0 < abs(losses[0] - losses[1]) < 0.01


def test_the_schedule_warms_up_and_falls_to_nothing() -> None:
    _, record = trained(replace(QUICK, steps=20, warmup_steps=4, log_every=1, batch_size=4))
    rates = [row["lr"] for row in record["log"]]
    cosine = [0.5e-2 * (1 + math.cos(math.pi * k / 20)) for k in range(20)]
    assert rates[4:] == pytest.approx(cosine[4:])
    assert rates[:4] == pytest.approx([cosine[k] * (k + 1) / 4 for k in range(4)])
    assert max(rates) == rates[3] <= 1e-2
    assert rates[-1] < 0.01 * max(rates)
    _, record = trained(replace(QUICK, steps=2, warmup_steps=0, log_every=1, batch_size=4))
    assert record["log"][0]["lr"] == 1e-2


def test_the_rate_stays_at_its_peak_until_the_decay() -> None:
    _, record = trained(replace(QUICK, steps=20, warmup_steps=0, decay_share=0.25, log_every=1, batch_size=4))
    rates = [row["lr"] for row in record["log"]]
    assert rates[:16] == [1e-2] * 16
    assert rates[15:] == pytest.approx([0.5e-2 * (1 + math.cos(math.pi * k / 5)) for k in range(5)])


@pytest.mark.parametrize("shape", [(32, 32), (16, 48), (48, 16), (4, 32, 8), (2, 3, 8, 16)])
def test_orthogonalized_singular_values(shape: tuple[int, ...]) -> None:
    """In 0.65 ... 1.25, where the smallest was a hundredth of the largest or more."""
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    values = torch.logspace(-2, 0, u.shape[-1])
    matrices = 37.0 * u * values @ v
    result = orthogonalize(matrices)
    assert result.shape == shape
    assert result.dtype == matrices.dtype
    found = torch.linalg.svdvals(result)
    assert found.min() > 0.65
    assert found.max() < 1.25
    aligned = (u.mT @ result @ v.mT).diagonal(dim1=-2, dim2=-1)  # the directions stay
    assert (aligned > 0.6).all()


def test_stacked_matrices_are_orthogonalized_each_by_itself() -> None:
    stack = torch.randn(5, 12, 6, generator=torch.Generator().manual_seed(1))
    stack[2] *= 1000
    together = orthogonalize(stack)
    assert torch.allclose(together, torch.stack([orthogonalize(one) for one in stack]), atol=0.02)
    assert torch.equal(orthogonalize(torch.zeros(3, 3)), torch.zeros(3, 3))


def test_muon_steps() -> None:
    """Nesterov's momentum, a step of 0.2 in root mean square times the rate, decoupled decay."""
    weight, untouched = torch.nn.Parameter(torch.ones(8, 16)), torch.nn.Parameter(torch.ones(2, 2))
    first, second = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))
    optimizer = Muon([weight, untouched], lr=0.1, momentum=0.9, weight_decay=0.5)
    momentum = torch.zeros(8, 16)
    for gradient in (first, second):
        before = weight.detach() * 1
        weight.grad = gradient
        optimizer.step()
        momentum = 0.9 * momentum + gradient
        step = -0.1 * 0.2 * 4 * orthogonalize(gradient + 0.9 * momentum)  # 4: the root of the longer side
        assert step.pow(2).mean().sqrt().item() == pytest.approx(0.1 * 0.2, rel=0.2)
        assert torch.allclose(weight, before * (1 - 0.1 * 0.5) + step, atol=1e-4)
    assert (untouched == 1).all()


# --- errors ----------------------------------------------------------------------------------------------------------


def test_programs_must_fit() -> None:
    model = Model(replace(CFG, n_ctx=MIXED.width))
    message = (
        f"programs of mixture 'mixed' need {MIXED.width + 1} positions, the model has n_ctx = {MIXED.width}; raise"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        train(model, programs(), QUICK)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        *(
            ({name: 0}, f"{name} = 0 must be 1 or more")
            for name in ("steps", "batch_size", "micro_batches", "log_every", "checkpoint_every")
        ),
        ({"precision": "fp16"}, "precision = 'fp16' must be one of fp32, bf16"),
        ({"optimizer": "sgd"}, "optimizer = 'sgd' must be one of muon, adamw"),
        ({"snapshots": -1}, "snapshots = -1 must be 0 or more"),
        ({"lr": 0.0}, "lr = 0.0 must be above 0"),
        ({"lr": float("nan")}, "lr = nan must be above 0"),
        ({"lr": float("inf")}, "lr = inf must be above 0 and finite"),
        ({"betas": (0.9,)}, "betas = \\(0.9,\\) must be two numbers from 0 to below 1"),
        ({"betas": (0.9, "a")}, "must be two numbers"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0 must be 0 or more"),
        ({"seed": -1}, "seed = -1 must be 0 or more"),
        ({"decay_share": 0.0}, "decay_share = 0.0 must be above 0 and at most 1"),
    ],
)
def test_bad_training_configurations_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**wrong)


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    config = replace(QUICK, steps=3, seed=5)
    made = follow(Recipe("mixed", MIXED, CFG, config), tmp_path / "model")
    again = checkpoint.load(tmp_path / "model")
    sequences = torch.from_numpy(tokens.sequences(programs().programs(np.arange(20))))
    with torch.no_grad():
        assert torch.equal(made.model(sequences), again.model(sequences))
        assert not torch.allclose(again.model(sequences), Model(CFG, seed=5)(sequences), atol=1e-3), "not trained"
    assert again.model.cfg == CFG
    assert again.mixture == MIXED
    assert again.seed == 5
    assert again.record == made.record == json.loads(json.dumps(made.record))
    assert again.record["corpus"]["programs"] == 3 * 64
    assert again.fingerprint == made.fingerprint
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
        (lambda folder: flip(folder / "model.safetensors"), r"model\.safetensors is damaged \(wrong checksum\); make"),
        (lambda folder: replace_text(folder / "manifest.json", "1e-05", "1e-01"), r"manifest\.json is damaged \(wrong"),
        (lambda folder: (folder / "training.json").unlink(), r"training\.json is missing; make the model again"),
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
        ({"d_mlp": 96}, r"blocks\.0\.mlp\.W_in has shape \(32, 64\), its config asks for \(32, 96\); make"),
        ({"n_layers": 3}, r"blocks\.2\.ln1\.w has shape none, its config asks for \(32,\); make"),
        ({"n_layers": 1}, r"blocks\.1\.\S+ has shape \(.*\), its config asks for none; make"),
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
    with pytest.raises(ArtifactError, match=r"model\.safetensors is no safetensors file"):
        checkpoint.load(tmp_path / "run")


def pickle_to(path: Path, value: object) -> None:
    path.write_bytes(pickle.dumps(value))


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError, match=r"nowhere does not exist; train one, or name one that ships: cadmus-micro, cadmus-mini"
    ):
        checkpoint.load(tmp_path / "nowhere")
    (tmp_path / "text").write_text("34+7=.")
    with pytest.raises(ArtifactError, match=r"text is a file; pass the folder of a model"):
        checkpoint.load(tmp_path / "text")


def test_a_corpus_is_no_checkpoint(tmp_path: Path) -> None:
    build(MIXED, 64, folder=tmp_path)
    with pytest.raises(ArtifactError, match="holds a corpus, not a model; pass another folder"):
        checkpoint.load(tmp_path)


# --- completion accuracy ---------------------------------------------------------------------------------------------


def writes(ending: str, at: int, n_ctx: int = 32) -> Model:
    """A model that reads positions only: behind `at` given tokens it writes `ending`, and `.` everywhere else."""
    cfg = ModelConfig(n_layers=1, d_model=2 * n_ctx, n_heads=1, d_head=4, d_mlp=4, n_ctx=n_ctx)
    model = Model(cfg).eval()
    said = dict(enumerate(ending, at))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".W_" in name:
                parameter.zero_()
        model.pos_embed.W_pos.copy_(torch.eye(n_ctx, 2 * n_ctx))
        for position in range(n_ctx):  # position i holds the token before token i
            model.unembed.W_U[position, vm.VOCAB.index(said.get(position, "."))] = 10.0
    return model


DIGITS = Compare(low=0, high=9, length=1)


def test_a_model_that_writes_what_it_is_told() -> None:
    assert complete(writes("><", 2), ["34", "11"]) == ["34><.", "11><."]
    assert complete(writes("7=", 5), ["3Aa", "3Aaa+"]) == ["3Aa.", "3Aaa+7=."]


def test_completion_goes_to_the_end_of_the_context() -> None:
    model = writes("1" * 40, 0, n_ctx=12)
    assert complete(model, ["34"]) == ["34" + "1" * 9]
    assert complete(model, ["34"], max_new_tokens=3) == ["34111"]
    assert complete(model, []) == []


def test_a_prefix_that_leaves_no_room_is_refused() -> None:
    model = Model(replace(CFG, n_ctx=16))
    with pytest.raises(ValueError, match="a prefix of 15 tokens leaves no room for its completion: the model"):
        complete(model, ["1", "1" * 15])
    assert len(complete(model, ["1" * 14])) == 1


def test_completion_of_many_prompts_keeps_their_order() -> None:
    prompts = [f"{i % 10}{i // 10 % 10}{i // 100 % 10}" for i in range(2500)]
    assert complete(writes("+", 3), prompts) == [prompt + "+." for prompt in prompts]


@pytest.mark.parametrize(
    ("family", "texts", "ending", "expected"),
    [
        # accuracy, true_rate, canonical
        (DIGITS, ["43>.", "34<.", "33=.", "92>."], ">", (2 / 4, 2 / 4, 2 / 4)),
        (DIGITS, ["43>.", "34<.", "33=.", "02<."], "", (0, 3 / 4, 0)),  # `43.` is true, and not the answer
        (DIGITS, ["33=.", "44=."], "=!!", (0, 1, 0)),  # `33=!!.` is true, and begins as it should, and goes on
        (Equality(low=0, high=9, length=1), ["33=.", "34=!."], "", (1 / 2, 1 / 2, 1 / 2)),
        (Equality(low=0, high=9, length=1), ["33=.", "34=!.", "35=!."], "!", (2 / 3, 2 / 3, 2 / 3)),
        (Register(low=-9), ["7Aa7=.", "3Aa3=."], "7=", (1 / 2, 1 / 2, 1 / 2)),
        (Register(low=-9), ["7Aa7=.", "3Aa3=."], "70+=", (1 / 2, 1 / 2, 0)),  # `70+` is 7, but not as it is written
    ],
)
def test_scores_by_hand(family: Family, texts: list[str], ending: str, expected: tuple[float, ...]) -> None:
    (at,) = {cut for text in texts for cut in family.decisions(text)}
    found = score(writes(ending, at), family, "test", texts, seed=4)
    assert (found.accuracy, found.true_rate, found.canonical) == pytest.approx(expected)
    assert (found.family, found.split, found.n, found.seed) == (family.name, "test", len(texts), 4)


def test_a_completion_that_does_not_stop_is_not_right() -> None:
    """`43>` is true and of the form, but the context ends before a `.` is written."""
    found = score(writes(">", 2, n_ctx=4), DIGITS, "test", ["43>.", "92>."], 0)
    assert (found.accuracy, found.true_rate, found.canonical) == (0, 1, 0)
    assert score(writes(">", 2, n_ctx=5), DIGITS, "test", ["43>.", "92>."], 0).accuracy == 1


@cache
def learned() -> Model:
    """Trained enough to be right at times."""
    model = Model(replace(CFG, d_model=64, d_head=32))
    train(model, programs(), replace(QUICK, steps=120, warmup_steps=10))
    return model


@pytest.mark.parametrize("family", [Equality(), Register(assertions=2)], ids=str)
def test_scores_are_the_plain_machines(family: Family) -> None:
    texts = tokens.decode(corpus.held_out(family, "test", 200, 0))
    prompts = [(text, cut) for text in texts for cut in family.decisions(text)]
    completed = complete(learned(), [text[:cut] for text, cut in prompts])
    assert all(done.startswith(text[:cut]) for (text, cut), done in zip(prompts, completed, strict=True))
    true = [vm.verdict(done) for done in completed]
    right = [t and done.endswith(".") and family.accepts(done) for t, done in zip(true, completed, strict=True)]
    canonical = [
        done.startswith(text[:cut] + family.answer(text, cut))
        for (text, cut), done in zip(prompts, completed, strict=True)
    ]
    found = score(learned(), family, "test", texts, 0)
    assert found.n == len(prompts) == 200 * len(family.decisions(texts[0]))
    assert found.accuracy == np.mean(right)
    assert found.true_rate == np.mean(true)
    assert found.canonical == np.mean(canonical)
    assert 0 < found.accuracy < 1, "a model that is always wrong or always right shows little"


def wilson(k: int, n: int) -> tuple[float, float]:
    z, share = 1.959964, k / n
    middle, spread = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n)


@pytest.mark.parametrize("right", [0, 1, 17, 40])
def test_interval_is_wilsons_and_holds_the_estimate(right: int) -> None:
    texts = ["43>."] * right + ["34<."] * (40 - right)
    found = score(writes(">", 2), DIGITS, "test", texts, 0)
    assert found.accuracy == right / 40
    assert (found.low, found.high) == pytest.approx(wilson(right, 40), abs=1e-5)
    assert found.low - 1e-12 <= found.accuracy <= found.high + 1e-12
    assert found.high - found.low > 0.05


def test_evaluation_is_a_row_per_family_and_split() -> None:
    rows = evaluate.evaluate(learned(), MIXED, programs=100, seed=2)
    assert [(row.family, row.split, row.n) for row in rows] == [
        ("equality", "test", 100),
        ("equality", "test_skeleton", 100),
        ("register", "test", 200),
        ("register", "test_skeleton", 200),
    ]
    for row in rows:
        assert row.seed == 2
        assert 0 <= row.low <= row.accuracy <= row.high <= 1
        assert row.accuracy <= row.true_rate
        assert Accuracy(**row.to_dict()) == row
    texts = tokens.decode(corpus.held_out(MIXED.families[1], "test_skeleton", 100, 2))
    assert score(learned(), MIXED.families[1], "test_skeleton", texts, 2) == rows[3]
    (alone,) = evaluate.evaluate(
        learned(), mixture.Mixture("m", MIXED.components[:1]), splits=("test",), programs=100, seed=2
    )
    assert alone == rows[0]


def test_what_has_no_answer_of_its_own_earns_no_credit() -> None:
    """Behind the first `=` of `33=44=.` nothing need follow: only the answer behind the second is counted."""
    family = Equality(low=0, high=9, length=1, assertions=2)
    for ending, canonical in ((".", 1.0), ("!", 0.0)):
        found = score(writes(ending, 6), family, "test", ["33=44=."], 0)
        assert found.n == 2
        assert found.canonical == canonical


def test_programs_that_do_not_fit_are_counted() -> None:
    long = mixture.OutOfDistribution("long", Compare(length=7))
    mixed = mixture.Mixture("m", (Component(Compare(length=3, low=0, high=9)),), out_of_distribution=(long,))
    model = Model(ModelConfig(n_layers=1, d_model=32, n_heads=1, d_mlp=32, n_ctx=12))
    row = evaluate.evaluate(model, mixed, splits=("test",), programs=20)[-1]
    assert (row.split, row.n, row.too_long) == ("long", 0, 20)
    assert math.isnan(row.accuracy)


def test_a_completion_does_not_depend_on_the_rest_of_its_batch() -> None:
    """A row that has used up its tokens is padded with `.` to the batch's width: that is not its own `.`."""
    model = writes("3=" + "1" * 30, 3, n_ctx=10)
    assert complete(model, ["3Aa"], 3) == ["3Aa3=1"]
    assert complete(model, ["3Aa", "3A3A3Aa"], 2) == ["3Aa3=", "3A3A3Aa11"]


# --- runs that go on -------------------------------------------------------------------------------------------------

RUN = """
import sys
from tests.test_train import CFG, MIXED, QUICK, build
from cadmus.model import Model
from cadmus.train import train
from dataclasses import replace
import torch
torch.set_num_threads(1)
def tell(now):
    print(now["step"], flush=True)
source = build(MIXED, 700) if sys.argv[2] == "corpus" else MIXED
model = Model(CFG)
record = train(model, source, replace(QUICK, checkpoint_every=7, snapshots=4), tell, folder=sys.argv[1])
torch.save({"weights": model.state_dict(), "log": [(r["step"], r["tokens"], r["loss"]) for r in record["log"]]},
           sys.argv[1] + "/done.pt")
"""


def start(folder: Path, source: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder), source], stdout=subprocess.PIPE, text=True, cwd=root
    )


@pytest.mark.parametrize("source", ["corpus", "stream"])
def test_a_killed_run_goes_on_to_the_same_weights(source: str, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    assert start(whole, source).wait() == 0
    first_steps = []
    for last in (3, 16, 30):
        process = start(killed, source)
        told = [int(next(process.stdout))]
        while told[-1] < last:
            told.append(int(next(process.stdout)))
        process.kill()
        process.wait()
        first_steps.append(told[0])
    assert start(killed, source).wait() == 0
    assert first_steps == [1, 1, 15], "it goes on from the last state"
    expected, found = (torch.load(folder / "done.pt") for folder in (whole, killed))
    assert found["log"] == expected["log"]
    for name, tensor in expected["weights"].items():
        assert torch.equal(found["weights"][name], tensor), name
    assert list(checkpoint.snapshots(killed)) == list(checkpoint.snapshots(whole)) == [1, 3, 12, 40]
    for step, path in checkpoint.snapshots(killed).items():
        assert path.read_bytes() == checkpoint.snapshots(whole)[step].read_bytes()


def saved_state(folder: Path, **other: Any) -> None:
    train(Model(CFG), programs(), replace(QUICK, steps=8, checkpoint_every=5, **other), folder=folder)
    assert (folder / checkpoint.STATE).is_file()


def test_the_state_of_another_run_is_refused(tmp_path: Path) -> None:
    saved_state(tmp_path)
    difference = r"config\.lr 0\.01, now 0\.02"
    message = rf"state\.safetensors is the state of another run \({difference}\); delete it to start anew"
    with pytest.raises(ValueError, match=message):
        saved_state(tmp_path, lr=2e-2)


def test_a_run_may_be_made_longer_until_its_rate_falls(tmp_path: Path) -> None:
    short = replace(QUICK, steps=15, decay_share=0.4, checkpoint_every=8)  # falls after step 9; a state of step 8
    longer = replace(short, steps=24, decay_share=0.25)
    train(Model(CFG), programs(), short, folder=tmp_path)
    told = []
    model = Model(CFG)
    train(model, programs(), longer, lambda now: told.append(now["step"]), folder=tmp_path)
    assert told[0] == 9
    whole, _ = trained(longer)
    for name, parameter in parameters(model).items():
        assert torch.equal(parameter, parameters(whole)[name]), "as one that was to be that long from the start"
    with pytest.raises(ValueError, match=r"another run \(rates \w+, now \w+\)"):  # step 16 is of the longer run
        train(Model(CFG), programs(), short, folder=tmp_path)


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    saved_state(tmp_path)
    path = tmp_path / checkpoint.STATE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"state\.safetensors is damaged .*; delete it to start anew"):
        saved_state(tmp_path)


@pytest.mark.parametrize("place", [-1000, -1, 0.5])
def test_a_flipped_bit_in_a_state_is_noticed(place: int | float, tmp_path: Path) -> None:
    saved_state(tmp_path)
    path = tmp_path / checkpoint.STATE
    data = bytearray(path.read_bytes())
    data[place if isinstance(place, int) else int(place * len(data))] ^= 0x40
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"state\.safetensors is damaged \(wrong checksum\); delete it to start"):
        saved_state(tmp_path)


def test_a_gradient_that_is_no_number_spoils_nothing(tmp_path: Path) -> None:
    """The loss may be finite still: neither weights nor the kept state take the step."""
    model = Model(CFG)
    handle = model.unembed.W_U.register_hook(lambda gradient: gradient * steps[-1])
    steps = [1.0]
    config = replace(QUICK, checkpoint_every=5)

    def spoil(now: dict[str, float]) -> None:
        steps.append(math.inf if now["step"] == 9 else 1.0)

    with pytest.raises(FloatingPointError, match=r"the norm of the gradient is (inf|nan) at step 10 of 40 \(batch 9"):
        train(model, programs(), config, spoil, folder=tmp_path)
    handle.remove()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    told = []
    train(Model(CFG), programs(), config, lambda now: told.append(now["step"]), folder=tmp_path)
    assert told[0] == 6


def test_weights_that_are_no_numbers_are_not_kept(tmp_path: Path) -> None:
    model = Model(CFG)

    def spoil(now: dict[str, float]) -> None:
        if now["step"] == 40:
            with torch.no_grad():
                model.unembed.b_U[3] = torch.nan

    with pytest.raises(FloatingPointError, match=r"some weights are no numbers at step 40 of 40"):
        train(model, programs(), QUICK, spoil)


def test_a_state_is_kept_every_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_SECONDS_UNSAVED", 0.0)
    train(Model(CFG), programs(), replace(QUICK, steps=3, checkpoint_every=1000), folder=tmp_path)
    told = []
    train(Model(CFG), programs(), replace(QUICK, steps=3), lambda now: told.append(now["step"]), folder=tmp_path)
    assert told == [3]


def test_snapshots_are_of_one_run(tmp_path: Path) -> None:
    train(Model(CFG), programs(), replace(QUICK, steps=20, snapshots=4), folder=tmp_path)
    assert list(checkpoint.snapshots(tmp_path)) == [1, 3, 7, 20]
    train(Model(CFG), programs(), replace(QUICK, steps=20, seed=1, snapshots=2), folder=tmp_path)
    assert list(checkpoint.snapshots(tmp_path)) == [1, 20], "those of the run before, which left no state, are gone"
    saved_state(tmp_path)
    with pytest.raises(ValueError, match=r"another run \(snapshots \[\], now \[1, 3\]\)"):
        saved_state(tmp_path, snapshots=3)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_state(tmp_path: Path) -> None:
    model = Model(CFG)

    def spoil(now: dict[str, float]) -> None:
        if now["step"] == 7:
            with torch.no_grad():
                model.unembed.b_U[3] = torch.nan

    config = replace(QUICK, checkpoint_every=5)
    with pytest.raises(
        FloatingPointError, match=r"the loss is nan at step 8 of 40 \(batch 7 of \w+, seed 0\); the state of step 5"
    ):
        train(model, programs(), config, spoil, folder=tmp_path)
    steps = []
    train(Model(CFG), programs(), config, lambda now: steps.append(now["step"]), folder=tmp_path)
    assert steps[0] == 6


PARALLEL = """
import sys
from tests.test_train import CFG, QUICK, programs
from cadmus.model import Model
from cadmus.processes import processes
from cadmus.train import train
from dataclasses import replace
import torch
torch.set_num_threads(1)
with processes("cpu") as device:
    model = Model(CFG)
    record = train(model, programs(), replace(QUICK, steps=12, log_every=1, optimizer=sys.argv[2]))
    if record["processes"] == 1 or torch.distributed.get_rank() == 0:
        torch.save([record["processes"], [row["loss"] for row in record["log"]]], sys.argv[1])
"""


def test_a_batch_smaller_than_its_parts_is_shared(tmp_path: Path) -> None:
    """Two programs of two lengths on two processes: each part is one program, and each process has one."""
    script = tmp_path / "run.py"
    script.write_text(PARALLEL.replace("steps=12", "steps=3, batch_size=2"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([*command, str(tmp_path / "two.pt"), "adamw"], check=True, env=environment)
    _, losses = torch.load(tmp_path / "two.pt")
    alone = train(Model(CFG), programs(), replace(QUICK, steps=3, batch_size=2, log_every=1, optimizer="adamw"))
    assert losses == pytest.approx([row["loss"] for row in alone["log"]], abs=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_processes_train_as_one(optimizer: str, tmp_path: Path) -> None:
    """The same global batch: curves within 1e-5 (Muon orthogonalizes in bf16, which shows rounding: 1e-3)."""
    root, script = Path(__file__).parents[1], tmp_path / "run.py"
    script.write_text(PARALLEL)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    for command, name in (([sys.executable], "one.pt"), (torchrun, "two.pt")):
        subprocess.run([*command, str(script), str(tmp_path / name), optimizer], check=True, env=environment)
    (alone, one), (together, two) = (torch.load(tmp_path / name) for name in ("one.pt", "two.pt"))
    assert (alone, together) == (1, 2)
    assert len(one) == 12
    assert two == pytest.approx(one, abs=1e-5 if optimizer == "adamw" else 1e-3)
