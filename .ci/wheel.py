"""Build the wheel, install it in a fresh environment, and use it from another directory as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"cadmus", "probes", "analyses"}
HELP_SECONDS = 1.0

IMPORT_ALL = """
import importlib, pkgutil
names = []
for package in ("cadmus", "probes", "analyses"):
    names.append(package)
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        names.append(module.name)
for name in names:
    importlib.import_module(name)
print(len(names), "modules import")
"""

HELP_WITHOUT_TORCH = """
import sys
from analyses.cli import main
code = main(["--help"])
heavy = {"torch", "transformer_lens", "numba", "pandas"} & set(sys.modules)
assert code == 0 and not heavy, (code, heavy)
"""


def main() -> None:
    constraints = str(ROOT / "constraints.txt")
    with tempfile.TemporaryDirectory() as place:
        environment = {**os.environ, "PIP_CONSTRAINT": constraints, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        run([sys.executable, "-m", "build", "--wheel", "--outdir", place, str(ROOT)], env=environment)
        (wheel,) = Path(place).glob("*.whl")
        top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
        assert top == PACKAGES, f"the wheel's top level is {sorted(top)}, not {sorted(PACKAGES)}"

        venv.create(f"{place}/venv", with_pip=True)
        python, command = f"{place}/venv/bin/python", f"{place}/venv/bin/cadmus-probe"
        run([python, "-m", "pip", "install", "--quiet", str(wheel)], env=environment)
        elsewhere = Path(place) / "elsewhere"
        elsewhere.mkdir()
        run([python, "-I", "-c", IMPORT_ALL], cwd=elsewhere)
        run([python, "-I", "-c", HELP_WITHOUT_TORCH], cwd=elsewhere)
        seconds = min(timed([command, "--help"], elsewhere) for _ in range(3))
        assert seconds < HELP_SECONDS, f"cadmus-probe --help took {seconds:.2f} s, {HELP_SECONDS} s at most are allowed"
        run([command, "vm", "[3A4Bab+7=.]"], cwd=elsewhere)
        run([command, "eval", "--programs", "5"], cwd=elsewhere)  # of the model that the wheel holds
    print(f"wheel test passed: {wheel.name}, --help in {seconds:.2f} s")


def run(command: list[str], **options) -> None:
    subprocess.run(command, check=True, **options)


def timed(command: list[str], cwd: Path) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, cwd=cwd, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
