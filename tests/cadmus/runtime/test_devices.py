"""Precision is what the device is fast at, found in a moment; a peak is what a large product reaches."""

from __future__ import annotations

import time

import pytest
import torch

from cadmus.runtime import devices

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _measured_anew():
    devices.bf16_gain.cache_clear()
    yield
    devices.bf16_gain.cache_clear()


def test_the_choice_takes_well_under_a_second() -> None:
    torch.ones(2, 2) @ torch.ones(2, 2)
    begin = time.perf_counter()
    assert devices.fast_precision(CPU) in devices.PRECISIONS
    assert time.perf_counter() - begin < 1.0, "a tenth of that on an idle machine"


@pytest.mark.parametrize(
    ("instructions", "gain", "precision"),
    [(True, 4.0, "bf16"), (True, 0.8, "fp32"), (False, 4.0, "fp32"), (None, 4.0, "bf16"), (None, 0.1, "fp32")],
)
def test_bf16_needs_instructions_and_speed(
    instructions: bool | None, gain: float, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emulated bf16 is 10 to 28 times as slow as fp32; instructions that are there may still be slow."""
    monkeypatch.setattr(devices, "_has_bf16_instructions", lambda: instructions)
    monkeypatch.setattr(devices, "bf16_gain", lambda device: gain)
    assert devices.fast_precision(CPU) == precision


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16\n\nflags: fpu", True),
        ("flags : avx2 amx_bf16 amx_tile", True),
        ("Features\t: fp asimd bf16", True),
        ("flags\t\t: fpu avx avx2 fma avx512f", False),
        ("processor : 0", None),
    ],
)
def test_the_instruction_set_is_read_off_the_system(text: str, expected: bool | None, monkeypatch) -> None:
    monkeypatch.setattr(devices.Path, "read_text", lambda path: text)
    devices._cpu_facts.cache_clear()
    assert devices._has_bf16_instructions() is expected
    devices._cpu_facts.cache_clear()


def test_a_system_that_does_not_tell_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(devices.Path, "read_text", absent)
    devices._cpu_facts.cache_clear()
    assert devices._has_bf16_instructions() is None
    assert devices.name(CPU)
    devices._cpu_facts.cache_clear()


@pytest.mark.parametrize("precision", list(devices.PRECISIONS))
def test_the_peak_is_at_least_what_one_product_reaches_and_takes_a_moment(precision: str) -> None:
    begin = time.perf_counter()
    peak = devices.matmul_peak(CPU, precision)
    assert time.perf_counter() - begin < 4.0, "in emulated bf16 too; a busy machine takes longer than alone"
    a = torch.ones(256, 256, dtype=devices.PRECISIONS[precision])
    a @ a
    begin = time.perf_counter()
    a @ a
    assert peak > 0.1 * 2 * 256**3 / (time.perf_counter() - begin)


def test_what_is_not_there_is_refused_with_the_reason() -> None:
    if torch.backends.mps.is_built():
        pytest.skip("this PyTorch has it")
    with pytest.raises(ValueError, match=r"device 'mps' is not there \(this PyTorch is built without it\); "):
        devices.resolve_device("mps")
