"""What this machine is to the package: versions, device, precision, threads, memory, folders, and what will be slow.

`diagnose` looks at everything, in a second or two, and changes nothing. Each row says what is there and, where
something will be slow or fail, why and what to do. `cadmus-probe doctor` prints them.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from joblib import cpu_count

from cadmus.runtime import devices

PACKAGES = ("torch", "transformer-lens", "numpy", "numba", "scikit-learn", "pandas", "pyarrow", "matplotlib")
MIN_MEMORY = 4e9  # bytes that a report needs
FULL_MEMORY = 11e9  # bytes that cadmus-probe probe --full needs
MIN_FREE_BYTES = 1e9  # of a disk
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    """What."""

    value: str
    """What is there."""

    note: str = ""
    """What will be slow, or fail, why, and what to do; empty where nothing is wrong."""


def diagnose() -> list[Finding]:
    """Everything that the package's speed and results depend on, in the order in which one asks."""
    device = torch.device(devices.resolve_device("auto"))
    return [
        *version_findings(),
        Finding("processor", devices.name(torch.device("cpu"))),
        core_finding(cpu_count(), os.cpu_count() or 1, torch.get_num_threads(), os.environ),
        memory_finding(_memory()),
        device_finding(device, has_gpu=_has_nvidia_driver()),
        precision_finding(device),
        folder_finding("compiled code", _compiled_folder(), "each start compiles it anew: set NUMBA_CACHE_DIR"),
        folder_finding("figures", _figure_folder(), "each start looks for fonts anew (seconds): set MPLCONFIGDIR"),
        folder_finding("temporary files", Path(tempfile.gettempdir()), "work that starts processes fails: set TMPDIR"),
        folder_finding("this folder", Path.cwd(), "results have no place here: give --out"),
    ]


def version_findings() -> list[Finding]:
    """This package, where it lies, Python, the system, and the packages that results depend on."""
    home = Path(__file__).parents[2]
    findings = [
        Finding("cadmus-probe", f"{_version('cadmus-probe')} in {home}"),
        Finding("python", f"{platform.python_version()} in {sys.prefix}"),
        Finding("system", platform.platform()),
    ]
    for package in PACKAGES:
        version = _version(package)
        note = "is not installed: pip install cadmus-probe installs it" if version == "none" else ""
        findings.append(Finding(package, version, note))
    return findings


def core_finding(cores: int, all_cores: int, threads: int, environment: Mapping[str, str]) -> Finding:
    """How many cores the process may use, of how many, and how many threads share a product."""
    value = f"{cores} of {all_cores} cores, {threads} threads a product"
    limits = ", ".join(f"{name}={environment[name]}" for name in _THREAD_VARIABLES if environment.get(name))
    value += f" ({limits})" if limits else ""
    if threads > cores:
        return Finding("threads", value, f"threads wait for each other: set OMP_NUM_THREADS={cores}")
    if threads < cores and limits:
        return Finding("threads", value, f"training uses {threads} of {cores} cores: unset what limits the threads")
    if cores == 1:
        return Finding("threads", value, "probes are fitted on all cores, and there is one: expect twice the times")
    return Finding("threads", value)


def memory_finding(n_bytes: float | None) -> Finding:
    """How much memory there is."""
    if n_bytes is None:
        return Finding("memory", "unknown")
    value = f"{n_bytes / 1e9:.1f} GB"
    if n_bytes < MIN_MEMORY:
        return Finding("memory", value, f"a report needs {MIN_MEMORY / 1e9:.0f} GB: use --quick, or fewer programs")
    if n_bytes < FULL_MEMORY:
        return Finding("memory", value, f"probe --full needs {FULL_MEMORY / 1e9:.0f} GB; all else fits")
    return Finding("memory", value)


def device_finding(device: torch.device, has_gpu: bool) -> Finding:
    """The device that --device auto takes."""
    value = f"{device}, {devices.name(device)}" if device.type != "cpu" else "cpu"
    if torch.backends.mps.is_available():
        value += "; --device mps can be asked for"
    note = ""
    if device.type == "cpu" and has_gpu:
        built = "is built without CUDA" if not torch.backends.cuda.is_built() else "finds no CUDA device"
        note = f"there is an NVIDIA driver, but this PyTorch {built}: install one that is built for it"
    return Finding("device", value, note)


def precision_finding(device: torch.device, gain: float | None = None) -> Finding:
    """The precision that training takes by itself, and what the other would cost; gain: of bf16, measured if None."""
    precision = devices.fast_precision(device)
    if device.type != "cpu":
        return Finding("precision", precision)
    gain = devices.bf16_gain(device) if gain is None else gain
    value = f"{precision} (bf16 is {gain:.2g} times as fast in a small product)"
    note = "bf16 is emulated here: --precision bf16 would be slow, auto takes fp32" if gain < 1 else ""
    return Finding("precision", value, note)


def folder_finding(subject: str, folder: Path | None, consequence: str) -> Finding:
    """Whether a folder can be written to and its disk has room; consequence: what happens where it cannot."""
    if folder is None:
        return Finding(subject, "nowhere", f"no folder for it can be written to; {consequence}")
    nearest = next((path for path in (folder, *folder.parents) if path.is_dir()), Path("/"))
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        return Finding(subject, str(folder), f"cannot be written to ({error.strerror}); {consequence}")
    free = shutil.disk_usage(nearest).free
    value = f"{folder}, {free / 1e9:.0f} GB free"
    return Finding(subject, value, "" if free >= MIN_FREE_BYTES else "the disk is nearly full: free some space")


# --- what the system says --------------------------------------------------------------------------------------------


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _memory() -> float | None:
    """Bytes of memory that there are, or that the container is allowed; None where the system does not say."""
    try:
        total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # Windows
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, float(limit)) if limit.isdigit() else total


def _has_nvidia_driver() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def _compiled_folder() -> Path | None:
    """Where numba keeps the compiled machine; None where it has no place."""
    from cadmus.machine import compiled

    dispatchers = [value for value in vars(compiled).values() if hasattr(value, "stats")]
    folder = dispatchers[0].stats.cache_path if dispatchers else None
    return Path(folder) if folder else None


def _figure_folder() -> Path | None:
    """Where matplotlib keeps its list of fonts; None where it takes a folder that is gone when the process ends."""
    import matplotlib

    folder = Path(matplotlib.get_cachedir())
    return None if folder.name.startswith("matplotlib-") and folder.parent == Path(tempfile.gettempdir()) else folder
