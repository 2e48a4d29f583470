"""What commands show while they work, where nobody looks on: a log to be read afterwards."""

import re

from analyses.commands import terminal


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
