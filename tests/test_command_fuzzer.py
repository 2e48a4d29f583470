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
        codes, faults = command_fuzzer.session(1000 * part + number, tmp_path / str(number))
        assert not faults
        assert sum(codes.values()) == command_fuzzer.COMMANDS_PER_SESSION
        if number and time.monotonic() - begin > examples(15):
            break  # on a busy machine


@pytest.mark.slow
@pytest.mark.hypothesis
@pytest.mark.parametrize("part", range(2))
def test_random_streams_and_signals(part: int, tmp_path: Path) -> None:
    begin = time.monotonic()
    for number in range(examples(2)):
        assert not command_fuzzer.process_session(1000 * part + number, tmp_path / str(number), latest=6.0)
        if time.monotonic() - begin > examples(15):
            break


MISDEEDS = {  # what a command does to the folder, and the rules that it breaks
    "loses a folder": (lambda home: (home / "corpus" / "manifest.json").unlink(), "what was finished"),
    "leaves a lock": (lambda home: (home / "corpus" / ".lock").touch(), "nothing hidden is left"),
    "writes over": (lambda home: (home / "file").write_text("theirs"), "what is no command's stays as it is"),
}
ENDS = {  # how a command ends, and the rules that it breaks
    (1, ""): "the exit code is 0 or 2",
    (2, "Traceback\ncadmus-probe: error: x\n"): "no traceback",
    (2, "cadmus-probe: error: x (this is a bug in cadmus-probe)"): "no bug",
    (2, ""): "the last line is the error",
    (2, "cadmus-probe: error: x\ncadmus-probe: error: y"): "one line is the command's",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "file").write_text("mine")
    command_fuzzer.artifacts.write_manifest(
        tmp_path / "corpus",
        {"kind": "corpus", "machine": command_fuzzer.artifacts.machine_fingerprint(), "files": {}},
    )
    assert list(command_fuzzer.finished(tmp_path)) == [tmp_path / "corpus"]
    return tmp_path


@pytest.mark.parametrize("name", MISDEEDS)
def test_what_is_lost_or_left_is_noticed(name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    misdeed, rule = MISDEEDS[name]

    def run(arguments: list[str]) -> tuple[int, str, str]:
        misdeed(home)
        return 2, "", "cadmus-probe: error: no\n"

    monkeypatch.setattr(command_fuzzer, "run", run)
    code, faults = command_fuzzer.faults_of([name], home)
    assert code == 2
    assert faults
    assert all(f"not so: {rule}" in fault for fault in faults)


@pytest.mark.parametrize(("code", "err"), ENDS)
def test_an_end_that_is_none_is_noticed(code: int, err: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_fuzzer, "run", lambda arguments: (code, "", err))
    assert f"not so: {ENDS[code, err]}: ['x']" in " ".join(command_fuzzer.faults_of(["x"], home)[1])


def test_a_refusal_in_a_line_has_no_fault(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_fuzzer, "run", lambda arguments: (2, "", "cadmus-probe: error: x\n"))
    assert command_fuzzer.faults_of(["x"], home) == (2, [])
