"""What commands show while they work, where nobody looks on, a log to be read afterwards, and what they leave."""

import os
import re
from pathlib import Path

import pytest

from analyses.commands import terminal
from analyses.reporting import library, report


def test_a_log_has_a_line_for_each_stage_that_ended(capsys) -> None:
    with terminal.progress_bars() as progress:
        for fraction in (0.0, 0.5, 1.0, 1.0):
            progress("gather activations", fraction, f"{fraction} done")
        progress("fit probes", 0.2)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r" +\d+\.\d s  gather activations 100%  1\.0 done", line)


def test_a_long_stage_is_told_of_meanwhile(capsys, monkeypatch) -> None:
    now = iter([0.0, 30.0, 61.0, 90.0, 122.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(now))
    with terminal.progress_bars() as progress:
        for fraction in (0.1, 0.2, 0.3, 0.4):
            progress("train", fraction, "33 k tokens/s")
    assert capsys.readouterr().err == "   61.0 s  train 20%  33 k tokens/s\n  122.0 s  train 40%  33 k tokens/s\n"


def test_others_of_a_group_of_processes_say_nothing(capsys) -> None:
    with terminal.progress_bars(visible=False) as progress:
        progress("train", 1.0)
    assert capsys.readouterr().err == ""


def make(title: str, out: Path, progress: object) -> Path:
    return report.write(report.Report(title, (), ()), out)


@pytest.mark.parametrize("foreign", [b"mine", b"\xff\xfe<\x00"])
def test_a_page_is_printed_whatever_lies_around_it(foreign: bytes, tmp_path: Path, capsys) -> None:
    (tmp_path / library.INDEX).write_bytes(foreign)
    terminal.write_page(make, "A", tmp_path / "a")
    assert capsys.readouterr() == (f"{tmp_path / 'a' / 'index.html'}\n", "")
    assert (tmp_path / library.INDEX).read_bytes() == foreign


def test_a_page_stands_where_the_index_around_it_cannot_be_written(tmp_path: Path, capsys, monkeypatch) -> None:
    terminal.write_page(make, "A", tmp_path / "a")
    index = library.link(tmp_path)
    capsys.readouterr()

    def replace(source: str, target: Path, move=os.replace) -> None:
        """As the system does where the folder of the index may only be read."""
        if Path(target) == index:
            raise PermissionError(13, "Permission denied", str(target))
        move(source, target)

    monkeypatch.setattr(os, "replace", replace)
    terminal.write_page(make, "B", tmp_path / "b")
    output = capsys.readouterr()
    assert output.out == f"{tmp_path / 'b' / 'index.html'}\n"
    assert output.err.startswith(f"the reports around {tmp_path / 'b'} are not linked to it ([Errno 13]")
    assert output.err.endswith("; cadmus-probe reports links them\n")
