"""Two processes train as one, and a process alone is the first of one."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cadmus.models.model import Model
from cadmus.training.distributed import processes, rank, world
from cadmus.training.loop import train
from tests.training import CFG, QUICK, programs

pytestmark = pytest.mark.slow


def test_alone_a_process_is_the_first_of_one() -> None:
    with processes("cpu") as device:
        assert (device, rank(), world()) == ("cpu", 0, 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is not there is asked for")
def test_a_device_that_is_not_there_is_refused() -> None:
    for device in ("cuda", "cuda:1", "mps", "tpu"):
        with (
            pytest.raises(ValueError, match=rf"device '{device}' is not there( \(this.*\))?; this machine has cpu"),
            processes(device),
        ):
            pass
    with processes("auto") as device:
        assert device == "cpu"


PARALLEL = """
import sys
from tests.training import CFG, QUICK, programs
from cadmus.models.model import Model
from cadmus.training.distributed import processes
from cadmus.training.loop import train
from dataclasses import replace
import torch
torch.set_num_threads(1)
with processes("cpu") as device:
    model = Model(CFG)
    record = train(model, programs(), replace(QUICK, steps=12, log_every=1, optimizer=sys.argv[2]))
    if record["processes"] == 1 or torch.distributed.get_rank() == 0:
        torch.save([record["processes"], [row["loss"] for row in record["log"]]], sys.argv[1])
"""


def run_processes(command: list[str], script: Path, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run([*command, str(script), *arguments], check=True, env=environment)


ALONE = [sys.executable]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def test_a_batch_smaller_than_its_parts_is_shared(tmp_path: Path) -> None:
    """Two programs of two lengths on two processes: each part is one program, and each process has one."""
    script = tmp_path / "run.py"
    script.write_text(PARALLEL.replace("steps=12", "steps=3, batch_size=2"))
    run_processes(TORCHRUN, script, str(tmp_path / "two.pt"), "adamw")
    _, losses = torch.load(tmp_path / "two.pt")
    alone = train(Model(CFG), programs(), replace(QUICK, steps=3, batch_size=2, log_every=1, optimizer="adamw"))
    assert losses == pytest.approx([row["loss"] for row in alone["log"]], abs=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_processes_train_as_one(optimizer: str, tmp_path: Path) -> None:
    """The same global batch: curves within 1e-5 (Muon orthogonalizes in bf16, which shows rounding: 1e-3)."""
    script = tmp_path / "run.py"
    script.write_text(PARALLEL)
    run_processes(ALONE, script, str(tmp_path / "one.pt"), optimizer)
    run_processes(TORCHRUN, script, str(tmp_path / "two.pt"), optimizer)
    n_alone, losses_alone = torch.load(tmp_path / "one.pt")
    n_together, losses_together = torch.load(tmp_path / "two.pt")
    assert (n_alone, n_together) == (1, 2)
    assert len(losses_alone) == 12
    assert losses_together == pytest.approx(losses_alone, abs=1e-5 if optimizer == "adamw" else 1e-3)
