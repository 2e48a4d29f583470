"""A killed run goes on to the same weights, and what is not finite is never kept."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cadmus.corpora.build import build
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from cadmus.models.packed import pack
from cadmus.programs.mixture import load
from cadmus.runtime import devices
from cadmus.runtime.artifacts import ArtifactError
from cadmus.training import checkpoint, loop
from cadmus.training.config import TrainConfig
from cadmus.training.loop import train
from tests.training import CFG, MIXED, QUICK, parameters, programs, trained

pytestmark = pytest.mark.slow

RUN = """
import sys
from tests.training import CFG, MIXED, QUICK, build
from cadmus.models.model import Model
from cadmus.training.loop import train
from dataclasses import replace
import torch
torch.set_num_threads(1)
def tell(now):
    print(now["step"], flush=True)
source = build(MIXED, 700) if sys.argv[2] == "corpus" else MIXED
model = Model(CFG)
record = train(model, source, replace(QUICK, checkpoint_every=7, snapshots=4), on_step=tell, folder=sys.argv[1])
torch.save({"weights": model.state_dict(), "log": [(r["step"], r["tokens"], r["loss"]) for r in record["log"]]},
           sys.argv[1] + "/done.pt")
"""


def start(folder: Path, source: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[3]
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
        steps = [int(next(process.stdout))]
        while steps[-1] < last:
            steps.append(int(next(process.stdout)))
        process.kill()
        process.wait()
        first_steps.append(steps[0])
    assert start(killed, source).wait() == 0
    assert first_steps == [1, 1, 15], "it goes on from the last state"
    expected, resumed = (torch.load(folder / "done.pt") for folder in (whole, killed))
    assert resumed["log"] == expected["log"]
    for name, tensor in expected["weights"].items():
        assert torch.equal(resumed["weights"][name], tensor), name
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
    steps = []
    model = Model(CFG)
    train(model, programs(), longer, on_step=lambda now: steps.append(now["step"]), folder=tmp_path)
    assert steps[0] == 9
    whole, _ = trained(longer)
    for name, parameter in parameters(model).items():
        assert torch.equal(parameter, parameters(whole)[name]), "as one that was to be that long from the start"
    message = r"another run \(other learning rates up to here"  # step 16 is of the longer run
    with pytest.raises(ValueError, match=message):
        train(Model(CFG), programs(), short, folder=tmp_path)


# --- precision -------------------------------------------------------------------------------------------------------


def notes(folder: Path, **other: Any) -> tuple[list[str], list[dict[str, Any]]]:
    """The notes of a run in the folder, and the stretches of its record."""
    texts: list[str] = []
    config = replace(QUICK, steps=8, checkpoint_every=5, **other)
    record = train(Model(CFG), programs(), config, folder=folder, note=texts.append)
    return texts, record["stretches"]


def test_the_precision_is_said_once_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for fast in ("fp32", "bf16"):
        monkeypatch.setattr(devices, "fast_precision", lambda device, fast=fast: fast)
        texts, (stretch,) = notes(tmp_path / fast, precision="auto")
        assert texts == [f"{fast} on {stretch['device']}, {torch.get_num_threads()} threads"]
        assert (stretch["from_step"], stretch["precision"], stretch["muon_precision"]) == (0, fast, fast)


def test_a_slow_precision_is_allowed_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "fast_precision", lambda device: "fp32")
    monkeypatch.setattr(devices, "bf16_gain", lambda device: 1 / 12)
    texts, (stretch,) = notes(tmp_path, precision="bf16")
    assert texts[1:] == ["bf16 products take 12.0 times as long as fp32 ones on this device"]
    assert (stretch["precision"], stretch["muon_precision"]) == ("bf16", "fp32")


def test_a_run_that_goes_on_keeps_its_precision_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "fast_precision", lambda device: "bf16")
    notes(tmp_path, precision="auto")
    monkeypatch.setattr(devices, "fast_precision", lambda device: "fp32")  # it was moved
    monkeypatch.setattr(devices, "name", lambda device: "another CPU")
    monkeypatch.setattr(devices, "bf16_gain", lambda device: 0.1)
    texts, (first, second) = notes(tmp_path, precision="auto")
    assert "goes on from step 5 with muon_precision bf16, now fp32; device" in texts[0]
    assert texts[0].endswith("now another CPU: bits may differ from here on")
    assert texts[1] == "bf16 products take 10.0 times as long as fp32 ones on this device"
    assert (first["from_step"], first["precision"]) == (0, "bf16")
    assert (second["from_step"], second["precision"], second["device"]) == (5, "bf16", "another CPU")


def test_the_precision_of_a_run_changes_only_where_one_asks_for_it(tmp_path: Path) -> None:
    notes(tmp_path, precision="fp32")
    assert notes(tmp_path, precision="auto")[1][-1]["precision"] == "fp32"
    texts, stretches = notes(tmp_path, precision="bf16")
    assert texts[0] == "goes on from step 5 with precision fp32, now bf16: bits may differ from here on"
    assert [stretch["precision"] for stretch in stretches] == ["fp32", "bf16"]


# --- averaged weights ------------------------------------------------------------------------------------------------


def test_averaged_weights_are_what_is_kept_and_come_back_with_the_state(tmp_path: Path) -> None:
    """By hand: the mean of the first four steps' weights, then 1 / 4 of each later one's."""
    config = replace(QUICK, steps=9, average_steps=4, checkpoint_every=5, snapshots=2)
    whole = Model(CFG)
    steps: list[dict[str, Tensor]] = []

    def store(now: dict[str, float]) -> None:
        steps.append({name: weights.clone() for name, weights in parameters(whole).items()})

    train(whole, programs(), config, on_step=store)
    for name, average in parameters(whole).items():
        expected = torch.stack([weights[name] for weights in steps[:4]]).mean(0)
        for weights in steps[4:]:
            expected = expected + (weights[name] - expected) / 4
        assert torch.allclose(average, expected, atol=1e-6), name
        assert not torch.equal(average, steps[-1][name])
    first_steps = []
    for _ in range(2):
        again = Model(CFG)
        numbers: list[float] = []
        train(again, programs(), config, on_step=lambda now, to=numbers: to.append(now["step"]), folder=tmp_path)
        first_steps.append(numbers[0])
        for name, average in parameters(again).items():
            assert torch.equal(average, parameters(whole)[name]), name
    assert first_steps == [1, 6]
    last = checkpoint.load_snapshot(checkpoint.Checkpoint(whole, MIXED, {}, ""), checkpoint.snapshots(tmp_path)[9])
    for name, average in parameters(last).items():
        assert torch.equal(average, parameters(whole)[name]), "a snapshot is of the weights that are kept"


def test_an_average_longer_than_the_run_is_of_the_whole_run() -> None:
    """Not of the first steps' weights, which in a plain exponential average would count most."""
    losses = [trained(replace(QUICK, average_steps=steps))[1]["log"][-1]["loss"] for steps in (0, 500)]
    assert losses[0] == losses[1], "the average does not touch the training"
    plain, averaged = (trained(replace(QUICK, average_steps=steps))[0] for steps in (0, 500))
    batch = pack(programs().programs(np.arange(300)))
    plain_loss, averaged_loss = (
        F.cross_entropy(model.on_packed(batch), batch.targets).item() for model in (plain, averaged)
    )
    assert averaged_loss < plain_loss + 0.5


def test_evaluations_on_the_way_are_of_the_averaged_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    models = []
    monkeypatch.setattr(loop, "evaluate", lambda model, *args, **options: models.append(model) or [])
    model = Model(CFG)
    train(model, programs(), replace(QUICK, steps=2, average_steps=2, evaluate_every=2))
    assert len(models) == 1
    assert models[0] is not model


# --- what is not finite, damaged or of another run --------------------------------------------------------------------


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
        train(model, programs(), config, on_step=spoil, folder=tmp_path)
    handle.remove()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    numbers: list[float] = []
    train(Model(CFG), programs(), config, on_step=lambda now: numbers.append(now["step"]), folder=tmp_path)
    assert numbers[0] == 6


def test_weights_that_are_no_numbers_are_not_kept(tmp_path: Path) -> None:
    model = Model(CFG)

    def spoil(now: dict[str, float]) -> None:
        if now["step"] == 40:
            with torch.no_grad():
                model.unembed.b_U[3] = torch.nan

    with pytest.raises(FloatingPointError, match=r"some weights are not finite at step 40 of 40"):
        train(model, programs(), QUICK, on_step=spoil)


def test_a_state_is_kept_every_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MAX_SECONDS_UNSAVED", 0.0)
    train(Model(CFG), programs(), replace(QUICK, steps=3, checkpoint_every=1000), folder=tmp_path)
    steps = []
    train(
        Model(CFG), programs(), replace(QUICK, steps=3), on_step=lambda now: steps.append(now["step"]), folder=tmp_path
    )
    assert steps == [3]


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
        train(model, programs(), config, on_step=spoil, folder=tmp_path)
    steps = []
    train(Model(CFG), programs(), config, on_step=lambda now: steps.append(now["step"]), folder=tmp_path)
    assert steps[0] == 6


def test_a_state_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """Written when modules lay flat, at step 4 of 8: what is stored, and under which names, is as it was."""
    shutil.copytree(Path(__file__).parents[2] / "data" / "state-before-the-rooms", tmp_path / "run")
    corpus = build(load("first"), 400)
    model = Model(ModelConfig(n_layers=1, d_model=32, n_heads=1, d_mlp=64), seed=3)
    config = TrainConfig(
        steps=8, batch_size=16, checkpoint_every=4, log_every=2, precision="fp32", average_steps=2, seed=3
    )
    steps = []
    record = train(model, corpus, config, folder=tmp_path / "run", on_step=lambda now: steps.append(now["step"]))
    assert steps == [5, 6, 7, 8]
    assert [row["step"] for row in record["log"]] == [2, 4, 6, 8]
    fresh = Model(model.cfg, seed=3)
    plain = train(fresh, corpus, config)
    for resumed, uninterrupted in zip(record["log"], plain["log"], strict=True):
        assert resumed["tokens"] == uninterrupted["tokens"]
        assert resumed["loss"] == pytest.approx(uninterrupted["loss"], abs=1e-4)
    for name, weights in fresh.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weights, atol=1e-4, rtol=1e-3)
