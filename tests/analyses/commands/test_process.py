"""The command's process: streams that are closed, full or cut off, and signals. Work that was done is never lost."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from analyses.cli import main
from analyses.commands import process

COMMAND = f"{shlex.quote(sys.executable)} -m analyses.cli"


def shell(line, folder):
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "<&- 2>&-", "2>&1 | true"])
def test_work_is_done_where_nobody_can_be_told(tmp_path, redirection):
    """A standard error that is closed is no file of ours, and one that is full ends nothing."""
    shell(f"exec {COMMAND} data build first --programs 100 --out corpus {redirection}", tmp_path)
    assert {path.name for path in (tmp_path / "corpus").iterdir()} == {"manifest.json", "shards"}
    assert main(["data", "sample", str(tmp_path / "corpus"), "-n", "1"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("output", [">/dev/full", "| true"])
def test_a_table_is_there_before_it_is_printed(tmp_path, output):
    for line in (
        f"{COMMAND} eval cadmus-micro --programs 1 --out table.csv {output}",
        f"{COMMAND} data compare first first --family compare --programs 1000 --out table.parquet {output}",
    ):
        shell(line, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", "table.parquet"}


@pytest.mark.slow
def test_the_exit_code_tells_a_full_disk_from_a_reader_that_is_gone(tmp_path):
    run = shell(f"{COMMAND} data knobs >/dev/full", tmp_path)
    assert run.returncode == 2
    assert run.stderr.startswith("cadmus-probe: error: No space left on device; ")
    assert len(run.stderr.splitlines()) == 1
    run = shell(f"(sleep 0.2; {COMMAND} data sample first -n 20000; echo $? >&2) | true", tmp_path)
    assert run.stderr.split() == ["141"]


def start(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "analyses.cli", *arguments],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_end_the_work_as_ctrl_c_does(tmp_path, name):
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # were it ignored, as under nohup, the command would ignore it too
    run = start(tmp_path, "train", "--steps", "3000", "--layers", "1", "--width", "32", "--out", "run")
    signal.signal(number, before)
    assert "build the corpus 100%" in run.stderr.readline()
    time.sleep(0.5)
    run.send_signal(number)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert err.strip().splitlines()[-1].startswith("cadmus-probe: interrupted; nothing unfinished has a final name")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_interruption_of_text_that_is_executed_keeps_its_exit_code(tmp_path):
    """As of a dataclass that is made: CPython remembers it and would end a module that is run by SIGINT."""
    (tmp_path / "interrupted.py").write_text(
        "import sys\nfrom analyses import cli\n\n\ndef stop(*_, **__):\n    exec('raise KeyboardInterrupt')\n\n\n"
        "cli.app = stop\nsys.exit(cli.main(['vm']))\n"
    )
    run = subprocess.run([sys.executable, "-m", "interrupted"], cwd=tmp_path, capture_output=True, text=True)
    assert run.stderr.startswith("cadmus-probe: interrupted; ")
    assert run.returncode == 130


def test_a_signal_that_is_ignored_stays_so_and_torchruns_processes_die_at_once(monkeypatch):
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        monkeypatch.setenv("RANK", "0")
        process.end_on_signals()
        assert signal.getsignal(signal.SIGTERM) == before[signal.SIGTERM]
        monkeypatch.delenv("RANK")
        process.end_on_signals()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert process.interrupted_status() == 143
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        process._signals.clear()


def test_a_path_that_the_terminal_cannot_show_is_told_by_numbers(tmp_path):
    """Once the work is done, nothing fails because its place is printed."""
    code = "import sys; process.keep_streams(); print(sys.argv[1]); print(chr(0xDCC3))"
    run = subprocess.run(
        [sys.executable, "-c", f"from analyses.commands import process; {code}", "p\u00e4th.csv"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=True,
    )
    assert run.stdout.split() == ["p\\xe4th.csv", "\\udcc3"]
