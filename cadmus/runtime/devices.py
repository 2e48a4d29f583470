"""The computer's devices: which there are, which precision each is fast at, and what it can reach at most."""

from __future__ import annotations

import platform
import time
from functools import cache
from pathlib import Path

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
AUTO = "auto"  # as a precision: what the device is fast at

_MIN_GAIN = 1.5  # bf16 must be so many times as fast in products: the casts that it needs take some of that
_SIDES = (256, 512, 1024, 2048, 4096, 8192)  # of the square matrices whose product is timed
_MIN_SECONDS = 0.01  # of a product that is long enough to be timed
_TIMING_SECONDS = 0.2  # for which the product is repeated


KINDS = ("auto", "cpu", "cuda", "mps")
"""What a device may be called; cuda:1 is the second GPU."""


def resolve_device(device: str) -> str:
    """The device meant by a name: cpu, cuda, cuda:1, mps, or auto, which is cuda where there is one.

    Raises ValueError for a device that this machine does not have, with the reason where PyTorch knows it.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return "cuda" if available["cuda"] else "cpu"
    names = [name for name, is_available in available.items() if is_available]
    names += [f"cuda:{k}" for k in range(torch.cuda.device_count())] if available["cuda"] else []
    if device not in names:
        is_built = {"cuda": torch.backends.cuda.is_built(), "mps": torch.backends.mps.is_built()}
        why = "" if is_built.get(device.split(":")[0], True) else " (this PyTorch is built without it)"
        raise ValueError(f"device {device!r} is not there{why}; this machine has {', '.join(names)}")
    return device


def name(device: torch.device) -> str:
    """The model of the device: the CPU's, with the instruction set that PyTorch uses, or the GPU's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"{_cpu_model()}, {_instruction_set()}"
    return device.type


def fast_precision(device: torch.device) -> str:
    """The precision that products are fast in on this device: bf16 or fp32.

    bf16 on a CPU only where it has instructions for it (AVX512-BF16 or AMX; where the system does not say, a small
    product decides alone) and a small product confirms it, in a tenth of a second; on a GPU where it has them.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"  # Ampere and later
    if device.type != "cpu" or _has_bf16_instructions() is False:
        return "fp32"
    return "bf16" if bf16_gain(device) >= _MIN_GAIN else "fp32"


@cache
def bf16_gain(device: torch.device) -> float:
    """How many times as fast a small product is in bf16 as in fp32: below 1 where bf16 is emulated.

    Timed on one thread, as several wait for each other on a busy machine.
    """
    seconds = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for precision, dtype in PRECISIONS.items():
            a, b = (torch.ones(_SIDES[0], _SIDES[0], device=device, dtype=dtype) for _ in range(2))
            a @ b  # the first product loads its kernels
            seconds[precision] = _least_time(a, b, _TIMING_SECONDS / 10)
    finally:
        torch.set_num_threads(threads)
    return seconds["fp32"] / seconds["bf16"]


def matmul_peak(device: torch.device, precision: str) -> float:
    """Operations a second of a large matrix product in that precision: measured, not the data-sheet value.

    The best of the products that fit into a fifth of a second; takes less than a second on any machine.
    """
    for side in _SIDES:
        a, b = (torch.ones(side, side, device=device, dtype=PRECISIONS[precision]) for _ in range(2))
        a @ b
        if _product_time(a, b) >= _MIN_SECONDS:
            break
    return 2 * side**3 / _least_time(a, b, _TIMING_SECONDS)


def _least_time(a: torch.Tensor, b: torch.Tensor, seconds: float) -> float:
    """Seconds of the fastest product, repeated for `seconds`."""
    best = _product_time(a, b)
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        best = min(best, _product_time(a, b))
    return best


def _product_time(a: torch.Tensor, b: torch.Tensor) -> float:
    """Seconds that one product takes."""
    start = time.perf_counter()
    a @ b
    if a.device.type == "cuda":
        torch.cuda.synchronize(a.device)
    elif a.device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - start


# --- what the system says of its CPU ---------------------------------------------------------------------------------


@cache
def _cpu_facts() -> dict[str, str]:
    """The entry of the first processor in /proc/cpuinfo; empty on other systems than Linux."""
    try:
        entry = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in entry.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _cpu_model() -> str:
    return _cpu_facts().get("model name") or platform.processor() or platform.machine()


def _has_bf16_instructions() -> bool | None:
    """Whether the CPU has instructions for products of bf16 matrices; None where the system does not say."""
    flags = _cpu_facts().get("flags") or _cpu_facts().get("Features")
    return None if flags is None else bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags.split()))


def _instruction_set() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{capability} with bf16" if _has_bf16_instructions() else capability
