"""What the machine is found to be, and that whatever is wrong with it is said, with the remedy."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from cadmus.runtime import diagnosis
from cadmus.runtime.diagnosis import (
    core_finding,
    device_finding,
    diagnose,
    folder_finding,
    memory_finding,
    precision_finding,
)

CPU = torch.device("cpu")


def test_it_says_what_there_is() -> None:
    values = {finding.subject: finding.value for finding in diagnose()}
    assert values["torch"] == metadata.version("torch")
    assert values["cadmus-probe"].endswith(f" in {Path(__file__).parents[3]}")
    assert values["this folder"].startswith(str(Path.cwd()))
    assert "__pycache__" in values["compiled code"] or "NUMBA_CACHE_DIR" in os.environ
    assert len(values) == len(diagnose()) >= 18


@pytest.mark.parametrize(
    ("cores", "threads", "environment", "value", "note"),
    [
        (4, 4, {}, "4 of 8 cores, 4 threads a product", ""),
        (
            2,
            8,
            {"OMP_NUM_THREADS": "8"},
            "2 of 8 cores, 8 threads a product (OMP_NUM_THREADS=8)",
            "set OMP_NUM_THREADS=2",
        ),
        (4, 1, {"MKL_NUM_THREADS": "1"}, "4 of 8 cores, 1 threads a product (MKL_NUM_THREADS=1)", "uses 1 of 4 cores"),
        (4, 2, {}, "4 of 8 cores, 2 threads a product", ""),  # torch's own choice, one per physical core
        (1, 1, {}, "1 of 8 cores, 1 threads a product", "there is one: expect twice"),
    ],
)
def test_threads(cores: int, threads: int, environment: dict[str, str], value: str, note: str) -> None:
    finding = core_finding(cores, 8, threads, environment)
    assert finding.value == value
    assert note in finding.note
    assert bool(note) == bool(finding.note)


@pytest.mark.parametrize(
    ("n_bytes", "value", "note"),
    [
        (None, "unknown", ""),
        (2e9, "2.0 GB", "a report needs 4 GB: use --quick"),
        (8e9, "8.0 GB", "probe --full needs 11 GB; all else fits"),
        (64e9, "64.0 GB", ""),
    ],
)
def test_memory(n_bytes: float | None, value: str, note: str) -> None:
    finding = memory_finding(n_bytes)
    assert finding.value == value
    assert note in finding.note
    assert bool(note) == bool(finding.note)


def test_a_gpu_that_pytorch_cannot_use_is_told() -> None:
    assert device_finding(CPU, has_gpu=False).note == ""
    if not torch.cuda.is_available():
        assert "there is an NVIDIA driver, but this PyTorch" in device_finding(CPU, has_gpu=True).note


def test_a_precision_that_is_emulated_is_told() -> None:
    assert "bf16 is emulated here" in precision_finding(CPU, gain=0.1).note
    assert precision_finding(CPU, gain=3.0).note == ""
    assert "(bf16 is 0.1 times as fast" in precision_finding(CPU, gain=0.1).value


def test_folders_are_tried(tmp_path: Path) -> None:
    assert folder_finding("figures", tmp_path / "not" / "there", "slow").note == ""
    assert list(tmp_path.iterdir()) == []
    assert folder_finding("figures", None, "slow: set X").note == "no folder for it can be written to; slow: set X"
    lost = folder_finding("figures", Path("/proc/nowhere/x"), "slow: set X")
    assert lost.value == "/proc/nowhere/x"
    assert lost.note.startswith("cannot be written to (")
    assert lost.note.endswith("); slow: set X")


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "MIN_FREE_BYTES", 1e30)
    assert folder_finding("this folder", tmp_path, "").note == "the disk is nearly full: free some space"


@pytest.mark.slow
def test_no_place_for_fonts_and_compiled_code_is_told(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "analyses.cli", "doctor"],
        capture_output=True,
        text=True,
        env={**os.environ, "MPLCONFIGDIR": "/proc/nowhere", "NUMBA_CACHE_DIR": str(tmp_path)},
        check=True,
    )
    lines = run.stdout.splitlines()
    (figures,) = (line for line in lines if line.startswith("figures "))
    assert "each start looks for fonts anew (seconds): set MPLCONFIGDIR" in figures
    (compiled,) = (line for line in lines if line.startswith("compiled code "))
    assert str(tmp_path) in compiled
    assert lines[-1].endswith("ask for attention")
