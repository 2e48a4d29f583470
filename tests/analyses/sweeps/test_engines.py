"""Engines that are killed: workers, the sweep itself, a cluster; nothing is repeated and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analyses.sweeps.cells import runs_of
from analyses.sweeps.engines import check_device, engine_of, n_jobs, placed
from analyses.sweeps.execution import run_sweep
from analyses.sweeps.folder import RUNNING, open_sweep
from analyses.sweeps.runs import DIED, Task
from tests.analyses.sweeps.tiny import serial, tables, tiny, write

ROOT = Path(__file__).parents[3]


def recipe(steps: int) -> dict:
    base = tables()["recipe"]
    return base | {"train": base["train"] | {"steps": steps, "checkpoint_every": 20}}


LONGER, LONG, SHORT = recipe(1000), recipe(500), recipe(200)


def command(*arguments: str, **options) -> subprocess.Popen:
    """The command line in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "analyses.cli", "sweep", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options,
    )  # fmt: skip


def journals(folder: Path) -> list[dict]:
    out = []
    for path in sorted((folder / "runs").glob("[!.]*.json")):
        try:
            out.append(json.loads(path.read_text()))
        except (OSError, ValueError):
            continue
    return out


def until(condition: Callable[[], object], seconds: float = 400.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.1)


def in_training(folder: Path) -> list[dict]:
    return [j for j in journals(folder) if j["state"] == RUNNING and j["stage"] == "model" and j["fraction"] > 0.05]


def test_engines_are_checked():
    with pytest.raises(ValueError, match="unknown engine 'dask'; there are local, ray"):
        engine_of("dask")
    with pytest.raises(ValueError, match="--address is of a Ray cluster; add --engine ray"):
        engine_of("local", address="auto")
    with pytest.raises(ValueError, match="unknown device 'tpu'; there are auto, cpu, cuda, mps"):
        check_device("tpu", "ray")
    with pytest.raises(ValueError, match="device 'tpu' is not there"):
        check_device("tpu", "local")
    for device in ("auto", "cuda", "cuda:1"):
        check_device(device, "ray")  # its machines may have one
    assert n_jobs("cpu", 3) == 3
    assert n_jobs("cpu") >= 1
    assert n_jobs("cuda") >= 1
    assert placed("cpu", 5) == "cpu"


@pytest.fixture(scope="module")
def of_one_process(tmp_path_factory) -> pd.DataFrame:
    return run_sweep(tiny(), tmp_path_factory.mktemp("one"), serial).table


@pytest.mark.slow
def test_processes_give_what_one_process_gives(tmp_path, of_one_process):
    seen = []
    table = run_sweep(
        tiny(), tmp_path / "two", engine_of("local", 2), on_outcome=lambda run, outcome: seen.append(run.name)
    ).table
    pd.testing.assert_frame_equal(table, of_one_process)
    assert len(seen) == 4


@pytest.mark.slow
def test_a_killed_sweep_goes_on_within_seconds_and_repeats_nothing(tmp_path):
    path, folder = write(tmp_path, recipe=LONG), tmp_path / "out"
    process = command(str(path), "--out", str(folder), "--jobs", "2")
    until(lambda: in_training(folder))
    until(lambda: any(folder.rglob("state.safetensors")))
    pids = [journal["pid"] for journal in journals(folder)]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until(lambda: not any(map(_alive, pids)), 60)  # the workers end with it
    begin = time.monotonic()
    process = command(str(path), "--out", str(folder), "--jobs", "2")
    until(lambda: any(journal["began"] > 1 and journal["fraction"] > 0 for journal in journals(folder)))
    seconds = time.monotonic() - begin
    print(f"went on after {seconds:.1f} s")
    assert seconds < 60, "alone on two cores it is less than 10"
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    table = pd.read_parquet(folder / "table.parquet")
    assert (table["status"] == "ok").all()
    expected = run_sweep(tiny(recipe=LONG), tmp_path / "whole", engine_of("local", 2)).table
    pd.testing.assert_frame_equal(table, expected)  # resumed runs come to the same weights


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@contextmanager
def killed_twice(folder: Path, skeletons: int) -> Iterator[None]:
    """Kill the worker of the run of this cell, and the one that is given the run then."""
    pids: list[int] = []

    def kill() -> None:
        for _ in range(2):
            until(lambda: set(_workers(folder, skeletons)) - set(pids))
            pids.append((set(_workers(folder, skeletons)) - set(pids)).pop())
            os.kill(pids[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    yield
    thread.join()
    assert len(pids) == 2


def _workers(folder: Path, skeletons: int) -> list[int]:
    """The process that works on the run of a cell."""
    if not (folder / "sweep.json").is_file():
        return []
    cells = json.loads((folder / "sweep.json").read_text())["cells"]
    key = next(cell["cell"] for cell in cells if cell["levels"]["skeletons"] == skeletons)
    try:
        journal = json.loads((folder / "runs" / f"{key}-0.json").read_text())
    except (OSError, ValueError):
        return []
    return [journal["pid"]] if journal["state"] == RUNNING else []


ONE_SEED = {"seeds": [0], "hypothesis": None, "pilot": None}


@pytest.mark.slow
def test_a_run_whose_worker_dies_twice_fails_alone_and_can_be_begun_again(tmp_path):
    with killed_twice(tmp_path / "s", 40):
        result = run_sweep(tiny(recipe=SHORT, **ONE_SEED), tmp_path / "s", engine_of("local", 2))
    assert result.table.groupby("skeletons")["status"].first().to_dict() == {40: "failed", 400: "ok"}
    assert len(result.failed) == 1
    assert DIED in result.failed[0]
    assert result.table[result.table["status"] == "failed"]["why"].str.contains(DIED, regex=False).all()
    again = run_sweep(tiny(recipe=SHORT, **ONE_SEED), tmp_path / "s", engine_of("local", 2), retry=True)
    assert (again.table["status"] == "ok").all()


class EndsItsReader:
    """What unpickles it ends."""

    def __reduce__(self):
        return os._exit, (1,)


@pytest.mark.slow
def test_a_worker_that_dies_before_its_run_has_begun_ends_no_other_and_not_the_sweep(tmp_path):
    sweep = tiny(**ONE_SEED)
    tasks = [Task(sweep, run, tmp_path) for run in runs_of(sweep, open_sweep(tmp_path, sweep))]
    tasks[1] = replace(tasks[1], sweep=EndsItsReader())
    failures = {outcome.run: outcome.failure for outcome in engine_of("local", 2)(tasks)}
    assert failures == {tasks[0].run.name: "", tasks[1].run.name: DIED}


@pytest.mark.slow
def test_the_command_plans_runs_and_tells_how_far_it_is(tmp_path):
    path, folder = write(tmp_path), tmp_path / "out"
    process = command(str(path), "--plan", "--out", str(folder), "--jobs", "2")
    out, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert "4 (4 to do)" in out
    assert "measured on a few steps of training" in out
    assert not folder.exists()
    process = command(str(path), "--out", str(folder), "--jobs", "2")
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert out.strip() == str(folder / "table.csv")
    assert "4 of 4" in errors
    out, _ = command("status", str(folder)).communicate(timeout=400)
    assert "tiny: 4 of 4 runs done, 0 at work, 0 failed" in out
    out, _ = command(str(path), "--plan", "--out", str(folder)).communicate(timeout=400)
    assert "4 (0 to do)" in out
    assert "measured on 4 runs" in out
    process = command("status", str(tmp_path))
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 2
    assert "holds no sweep" in errors


# --- Ray -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    """A real Ray of this machine, with two CPUs, in a process of its own; yields its address."""
    import ray
    from ray.cluster_utils import Cluster

    place = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield place
    ray.shutdown()
    place.shutdown()


@pytest.mark.slow
def test_a_cluster_gives_what_one_process_gives(tmp_path, cluster, of_one_process):
    table = run_sweep(tiny(), tmp_path / "two", engine_of("ray", 2, cluster.address)).table
    pd.testing.assert_frame_equal(table, of_one_process)


@pytest.mark.slow
def test_a_run_whose_worker_of_a_cluster_dies_twice_fails_alone(tmp_path, cluster):
    with killed_twice(tmp_path / "s", 40):
        result = run_sweep(tiny(recipe=SHORT, **ONE_SEED), tmp_path / "s", engine_of("ray", 2, cluster.address))
    assert result.table.groupby("skeletons")["status"].first().to_dict() == {40: "failed", 400: "ok"}
    assert "its worker died twice" in result.failed[0]


HEAD = """
import sys
from ray.cluster_utils import Cluster
place = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
print(place.address, flush=True)
sys.stdin.readline()
place.shutdown()
"""


@pytest.mark.slow
def test_a_cluster_that_goes_away_ends_the_sweep_with_a_word_and_it_goes_on_elsewhere(tmp_path, cluster):
    path, folder = write(tmp_path, recipe=LONGER), tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", HEAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as head:
        address = head.stdout.readline().strip()
        process = command(str(path), "--out", str(folder), "--engine", "ray", "--jobs", "2", "--address", address)
        until(lambda: in_training(folder))
        head.communicate("go away\n")
    _, errors = process.communicate(timeout=50)  # Ray itself would try for a minute, and end the process
    assert process.returncode == 2, errors
    assert "the Ray cluster went away (" in errors
    assert "what was finished is kept: start the cluster and run the command again" in errors
    table = run_sweep(tiny(recipe=LONGER), folder, engine_of("ray", 2, cluster.address)).table
    assert (table["status"] == "ok").all()


@pytest.mark.slow
def test_a_cluster_that_is_not_there_says_so(tmp_path):
    with pytest.raises(OSError, match=r"no Ray cluster at 127\.0\.0\.1:1: .*start one: ray start --head"):
        run_sweep(tiny(), tmp_path / "out", engine_of("ray", 2, "127.0.0.1:1"))
