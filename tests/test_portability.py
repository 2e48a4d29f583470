"""What other systems and settings need: start methods, umasks, names and encodings of files, what only Linux has."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest

from analyses.commands.data import _page_name
from analyses.commands.terminal import save_table
from cadmus.corpora import build
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from cadmus.programs import mixture
from cadmus.runtime import artifacts
from cadmus.training import checkpoint
from probes.data.activations import token_rows

ROOT = Path(__file__).parents[1]
PACKAGES = ("cadmus", "probes", "analyses")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
TINY = ModelConfig(n_layers=1, d_model=4, n_heads=1, d_head=4, d_mlp=4, n_ctx=32)

# --- what only some systems have -------------------------------------------------------------------------------------

_ONLY_SOME = {"sched_getaffinity", "fork", "getuid", "geteuid", "getpgid", "killpg", "setsid", "mkfifo", "O_DIRECT"}
_ONLY_UNIX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "msvcrt", "winreg"}


def uses_of_what_only_some_have(source: str) -> Iterator[str]:
    """Modules and names of `os` and `signal` that Windows or macOS lacks; `getattr` with a default may ask for them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (module for module in modules if module in _ONLY_UNIX_MODULES)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "os" and node.attr in _ONLY_SOME:
                yield f"os.{node.attr}"
            if node.value.id == "signal" and node.attr in {"SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM", "alarm"}:
                yield f"signal.{node.attr}"


def test_no_module_leans_on_what_only_linux_has() -> None:
    found = {str(path): list(uses_of_what_only_some_have(path.read_text(encoding="utf-8"))) for path in SOURCES}
    assert not {path: names for path, names in found.items() if names}
    names = uses_of_what_only_some_have("import fcntl, os\nos.fork()\nsignal.SIGHUP")
    assert sorted(names) == ["fcntl", "os.fork", "signal.SIGHUP"]


WITHOUT = """
import os, signal
del os.sched_getaffinity, signal.SIGHUP  # as on macOS, and on Windows
from analyses.cli import main, script
if __name__ == "__main__":
    code = main(["data", "build", "first", "--programs", "300", "--out", "corpus"])
    assert code == 0
    import sys
    sys.argv = ["cadmus-probe", "data", "sample", "corpus", "-n", "1"]
    script()
"""


@pytest.mark.slow
def test_commands_work_without_it(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(WITHOUT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "register" in run.stdout


START = """
import multiprocessing, sys
from cadmus.corpora.build import build
from cadmus.programs import mixture
if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    build(mixture.load("first"), 1000, folder=sys.argv[1], workers=2)
"""


@pytest.mark.slow
def test_the_start_method_of_processes_changes_nothing(tmp_path: Path) -> None:
    """Linux forked by default up to Python 3.13; since then it starts a server, and others spawn."""
    (tmp_path / "script.py").write_text(START)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    contents = []
    for method in ("spawn", "fork", "forkserver"):
        subprocess.run([sys.executable, "script.py", method], cwd=tmp_path, env=environment, check=True)
        files = sorted((tmp_path / method / "shards").iterdir())
        contents.append([(path.name, path.read_bytes()) for path in files])
    assert contents[0] == contents[1] == contents[2]


# --- modes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_all_that_is_written_has_the_mode_of_the_umask(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        first = mixture.load("first")
        made = build.build(first, 60, folder=tmp_path / "corpus")
        model = Model(TINY)
        checkpoint.save_snapshot(tmp_path / "run", 1, model)
        checkpoint.save_state(tmp_path / "run", {"model": model}, [], {"step": 1})
        checkpoint.save(tmp_path / "run", model, first, {"config": {"seed": 0}, "snapshots": [1]})
        list(token_rows(model, made.programs(np.arange(3)), "hook_embed", cache=tmp_path / "activations"))
        with artifacts.new_folder(tmp_path / "page", "report") as partial:
            artifacts.write_json(partial / "tables" / "a.json", 1)
        import pandas as pd

        save_table(pd.DataFrame({"a": [1]}), tmp_path / "tables" / "a.csv")
    finally:
        os.umask(before)
    paths = list(tmp_path.rglob("*"))
    assert len(paths) > 15
    for path in paths:
        expected = (0o777 if path.is_dir() else 0o666) & ~mask
        assert path.stat().st_mode & 0o777 == expected, path


# --- names and encodings ---------------------------------------------------------------------------------------------

_FORBIDDEN = set('<>:"\\|?*')
_RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{k}" for name in ("com", "lpt") for k in range(1, 10))}


def is_portable(name: str) -> bool:
    """Whether Windows takes a name of a file or folder."""
    stem = name.split(".")[0].lower()
    return not (_FORBIDDEN & set(name) or stem in _RESERVED or name.endswith((".", " ")) or not name.isprintable())


def test_every_file_of_the_project_has_a_name_that_all_systems_take() -> None:
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no checkout")
    paths = [path for path in listed.stdout.split("\0") if path]
    assert len(paths) > 300
    assert not [path for path in paths if not all(map(is_portable, path.split("/"))) or len(path) > 150]
    assert len({path.lower() for path in paths}) == len(paths), "two names differ by their case alone"
    assert not any(map(is_portable, ["a:b", "con.toml", "NUL", "a.", "a\nb"]))


def test_default_outputs_have_names_that_all_systems_take() -> None:
    for source in ("first", "mine/wide.toml", "c-0.5", "../c", "/data/c.d"):
        assert is_portable(_page_name(source)), source
    drive = PureWindowsPath("C:\\data\\wide.toml")
    assert is_portable("--".join(part.strip("/\\:") for part in drive.parts))


def texts_without_encoding(source: str) -> Iterator[int]:
    """Lines that read or write text in the system's own encoding, which on Windows is not UTF-8."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        names = {keyword.arg for keyword in node.keywords}
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        is_exempt = owner == "artifacts" or "/proc/" in owner or "/sys/" in owner  # ours; Linux's own, ASCII
        if called in ("read_text", "write_text") and "encoding" not in names and not is_exempt:
            yield node.lineno
        if isinstance(node.func, ast.Name) and node.func.id == "open" and "encoding" not in names:
            modes = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            if not any("b" in str(mode) for mode in modes[1:]):
                yield node.lineno


def test_texts_are_read_and_written_as_utf_8_everywhere() -> None:
    found = {str(path): list(texts_without_encoding(path.read_text(encoding="utf-8"))) for path in SOURCES}
    assert not {path: lines for path, lines in found.items() if lines}
    assert list(
        texts_without_encoding("open('a')\np.read_text()\nopen('a', 'rb')\np.write_text('', encoding='u')")
    ) == [1, 2]


# --- Pythons ---------------------------------------------------------------------------------------------------------


def test_pythons_are_called_tested_in_one_voice() -> None:
    """What `pyproject.toml` names is what docs/checks.md calls tested; what it asks for, README and make say, too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    label = "Programming Language :: Python :: "
    named = [line.removeprefix(label) for line in project["classifiers"] if line.startswith(label)]
    page = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| Python ([^|]+) \| (\w+)", page, re.MULTILINE))
    assert named == [version for version, word in rows.items() if word == "tested"]
    assert "untested" in rows.values()
    least = project["requires-python"].removeprefix(">=")
    for name in ("README.md", "Makefile"):
        assert f"Python {least} or later" in (ROOT / name).read_text(encoding="utf-8")
