"""A folder belongs to one run at a time, and to nobody once that run has ended, however it ended."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from cadmus.runtime.artifacts import ArtifactError
from cadmus.runtime.folder_lock import sole_writer

HOLDER = """
import sys, time
from cadmus.runtime.folder_lock import sole_writer
with sole_writer(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a folder: (process, folder)."""
    folder = tmp_path / "runs" / "a"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process, folder
    process.kill()
    process.wait()


def test_a_second_process_is_told_in_one_line(holder):
    _, folder = holder
    message = r"runs/a is being written by another run; wait until it ends"
    with pytest.raises(ArtifactError, match=message) as error, sole_writer(folder):
        pass
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_the_lock_dies_with_its_process(holder, signal_number):
    process, folder = holder
    process.send_signal(signal_number)
    process.wait()
    with sole_writer(folder):
        (folder / "file").touch()
    assert os.listdir(folder) == ["file"]


def test_another_thread_is_another_run(tmp_path):
    errors = []

    def write():
        try:
            with sole_writer(tmp_path):
                pass
        except ArtifactError as error:
            errors.append(error)

    with sole_writer(tmp_path):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert len(errors) == 1


def test_within_a_run_it_is_taken_once(tmp_path):
    with sole_writer(tmp_path), sole_writer(str(tmp_path) + "/."):
        pass
    assert os.listdir(tmp_path) == []


def test_a_run_that_writes_nothing_leaves_no_folder(tmp_path):
    with pytest.raises(KeyError), sole_writer(tmp_path / "new" / "deep"):
        raise KeyError
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--recipe", "first", "--steps", "1"],
        ["data", "build", "first", "--programs", "50"],
        ["data", "describe", "first", "--programs", "1000"],
    ],
)
def test_commands_refuse_a_folder_in_use(holder, command):
    _, folder = holder
    run = subprocess.run(
        [sys.executable, "-m", "analyses.cli", *command, "--out", str(folder)], capture_output=True, text=True
    )
    assert run.returncode == 2
    assert "is being written by another run" in run.stderr
    assert os.listdir(folder) == [".lock"]
