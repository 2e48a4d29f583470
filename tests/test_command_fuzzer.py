"""Random commands find no traceback, no bug and no lost folder; `make fuzz` looks for longer."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests import command_fuzzer
from tests.fuzzing import examples


@pytest.mark.slow
@pytest.mark.hypothesis  # `make fuzz` tries more of them
@pytest.mark.parametrize("part", range(4))
def test_random_commands(part: int, tmp_path: Path) -> None:
    begin = time.monotonic()
    for number in range(examples(2)):
        command_fuzzer.session(1000 * part + number, tmp_path / str(number))
        if number and time.monotonic() - begin > examples(15):
            break  # on a busy machine


@pytest.mark.slow
@pytest.mark.hypothesis
@pytest.mark.parametrize("part", range(2))
def test_random_streams_and_signals(part: int, tmp_path: Path) -> None:
    begin = time.monotonic()
    for number in range(examples(2)):
        command_fuzzer.process_session(1000 * part + number, tmp_path / str(number), latest=6.0)
        if time.monotonic() - begin > examples(15):
            break


def test_what_is_lost_or_left_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer finds a command that loses a folder, leaves a lock, dies of a bug, or says two things."""
    (tmp_path / "foreign").mkdir()
    (tmp_path / "file").write_text("mine")
    command_fuzzer.artifacts.write_manifest(
        tmp_path / "corpus",
        {"kind": "corpus", "machine": command_fuzzer.artifacts.machine_fingerprint(), "files": {}},
    )
    assert list(command_fuzzer.finished(tmp_path)) == [tmp_path / "corpus"]
    misdeeds = {
        "lost": lambda: (tmp_path / "corpus" / "manifest.json").unlink(),
        "lock": lambda: (tmp_path / "corpus" / ".lock").touch(),
        "overwritten": lambda: (tmp_path / "file").write_text("theirs"),
    }
    for name, misdeed in misdeeds.items():
        sound = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

        def run(arguments: list[str], misdeed=misdeed) -> tuple[int, str, str]:
            misdeed()
            return 2, "", "cadmus-probe: error: no\n"

        monkeypatch.setattr(command_fuzzer, "run", run)
        with pytest.raises(AssertionError):
            command_fuzzer.check([name], tmp_path)
        for path in [path for path in tmp_path.rglob("*") if path.is_file() and path not in sound]:
            path.unlink()
        for path, data in sound.items():
            path.write_bytes(data)
    for code, err in (
        (1, ""),
        (2, "Traceback"),
        (2, "cadmus-probe: error: x (this is a bug in cadmus-probe)"),
        (2, ""),
    ):
        monkeypatch.setattr(
            command_fuzzer,
            "run",
            lambda arguments, code=code, err=err: (code, "", err or "cadmus-probe: error: x\ncadmus-probe: error: y"),
        )
        with pytest.raises(AssertionError):
            command_fuzzer.check(["x"], tmp_path)
    monkeypatch.setattr(command_fuzzer, "run", lambda arguments: (2, "", "cadmus-probe: error: x\n"))
    assert command_fuzzer.check(["x"], tmp_path) == 2
