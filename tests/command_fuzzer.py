"""Random commands of `cadmus-probe`, good and bad, in a folder full of finished, damaged and strange things.

`session(seed, folder)` runs some, within this process, and tells what does not hold of one: the exit code is 0 or 2; an
error is one line, and no bug; what was finished before stays so where the command fails; nothing hidden is left. Values
are small or far too large, so that each command takes a moment; what would take minutes gets at least one bad value.

`python -m tests.command_fuzzer SECONDS [SEED]` goes on for so long.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from unittest import mock

from analyses.cli import main
from cadmus.runtime import artifacts

COMMANDS_PER_SESSION = 12

_INTEGERS = ["0", "1", "2", "3", "-1", "1.5", "nan", "", "x", "1e3", "0x10", "٣", " 2", "99999999999999999999", "-0"]
_SEEDS = ["0", "1", "7", "-1", "9223372036854775807", "9223372036854775808", "18446744073709551616", "1.0", ""]
_NAMES = [
    "first",
    "mini",
    "default",
    "cadmus-micro",
    "nothing",
    "",
    ".",
    "..",
    "first.toml",
    "/",
    "-",
    "é",
    "a\nb",
    "\udcff",
]
_FAMILIES = ["compare", "register", "equality", "random", "compair", "", "COMPARE", "compare "]
_PROGRAMS = [
    *(
        "[3A4Bab+7=.]",
        "3A4Bab+7=.",
        "34+",
        "",
        "[",
        "]",
        "[]",
        "[.",
        "-34+.",
        "--",
        "-",
        "3 4 +\n7=",
        "z",
        "é",
        "\udcff",
        "\0",
    ),
    *("9" * 200, "-h", "~" * 5, "{1>}(1,2,3,W#2=.", "'\"\\", "[[34]]"),
]
_PLACES = [
    *(
        "new",
        "new/deep/er",
        "corpus",
        "model",
        "page",
        "half",
        "damaged corpus",
        "damaged model",
        "foreign",
        "file",
        "",
    ),
    *(
        "file/below",
        "dangling",
        "loop",
        "to corpus",
        ".",
        "..",
        "/dev/null",
        "/dev/full",
        "/proc/none",
        "n" * 300,
        "e é\n",
    ),
    *("\udcff", "a:b", "~", "-", "run under way", "manifest of another", "new/", "./new/../new"),
]
_TABLES = [
    "t.csv",
    "t.parquet",
    "t.xlsx",
    "new/t.csv",
    "folder.csv",
    "file/t.csv",
    "t",
    ".csv",
    "dangling/t.csv",
    "/dev/full.csv",
]


@cache
def template() -> Path:
    """A folder with a corpus, a model, a page, and what is left of such."""
    home = Path(tempfile.mkdtemp(prefix="fuzz-template-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    with contextlib.chdir(home), _quiet():
        assert main(["data", "build", "first", "--programs", "600", "--out", "corpus", "--workers", "1"]) == 0
        assert (
            main(["train", "--steps", "1", "--layers", "1", "--width", "32", "--corpus", "corpus", "--out", "model"])
            == 0
        )
        with artifacts.new_folder("page", "report", title="a page") as partial:
            (partial / "index.html").write_text("<p>")
        for name in ("corpus", "model"):
            shutil.copytree(name, f"damaged {name}")
            files = sorted(path for path in Path(f"damaged {name}").rglob("*") if path.is_file())
            files[-1].write_bytes(files[-1].read_bytes()[:-1] + b"?")
        shutil.copytree("corpus", "manifest of another")
        Path("manifest of another/manifest.json").write_text('{"kind": "corpus", "files": {"../file": 1}}')
        Path("half/.partial-0123456789abcdef").mkdir(parents=True)
        Path("half/.partial-0123456789abcdef/journal").write_text("x")
        Path("run under way").mkdir()
        Path("run under way/state.safetensors").write_bytes(b"no state")
        Path("foreign").mkdir()
        for name in ("index.html", "manifest.json", "model.safetensors", "notes"):
            Path("foreign", name).write_text("mine")
        Path("file").write_text("mine")
        Path("folder.csv").mkdir()
        Path("dangling").symlink_to("nowhere")
        Path("loop").symlink_to("loop")
        Path("to corpus").symlink_to("corpus")
        Path("first.toml").write_text('name = "first"\n[[family]]\nname = "compare"\n')
        Path("bad.toml").write_bytes(b"name = \xff")
    return home


@contextlib.contextmanager
def _quiet():
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


# --- commands --------------------------------------------------------------------------------------------------------


def command(rng: random.Random) -> list[str]:
    """A random command line."""
    arguments = rng.choice(_MAKERS)(rng)
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        change = rng.randrange(5)
        at = rng.randrange(len(arguments))
        if change == 0:
            del arguments[at]
        elif change == 1:
            arguments.insert(at, rng.choice(["--bogus", "-x", "--", "--help", "--out", "--seed", "extra", "--debug="]))
        elif change == 2 and arguments[at].startswith("--") and at + 1 < len(arguments):
            arguments[at : at + 2] = [f"{arguments[at]}={arguments[at + 1]}"]
        elif change == 3:
            arguments.append(arguments[at])
        arguments = arguments or ["vm"]
    return arguments


def _maybe(rng: random.Random, name: str, values: list[str], chance: float = 0.5) -> list[str]:
    return [name, rng.choice(values)] if rng.random() < chance else []


def _source(rng: random.Random) -> str:
    return rng.choice(
        [rng.choice(["first", "corpus", "first.toml"]), rng.choice(_NAMES), rng.choice(_PLACES), "bad.toml"]
    )


def _vm(rng: random.Random) -> list[str]:
    return ["vm", *([rng.choice(_PROGRAMS)] if rng.random() < 0.8 else []), *_maybe(rng, "--file", _PLACES, 0.3)]


def _build(rng: random.Random) -> list[str]:
    sizes = ["1", "20", "40", "41", *_INTEGERS]
    chosen = [
        *_maybe(rng, "--programs", sizes, 0.9),
        *_maybe(rng, "--seed", _SEEDS),
        "--workers",
        rng.choice(["1", "0", "x"]),
    ]
    if "--programs" not in chosen:
        chosen += ["--programs", "30"]  # the mixture's own number may be millions
    return ["data", "build", _source(rng), *_maybe(rng, "--out", _PLACES, 0.95), *chosen]


def _sample(rng: random.Random) -> list[str]:
    options = [*_maybe(rng, "-n", _INTEGERS), *_maybe(rng, "--family", _FAMILIES), *_maybe(rng, "--seed", _SEEDS)]
    options += _maybe(rng, "--split", ["train", "test", "validation", "test_skeleton", "tset", ""])
    options += _maybe(rng, "--out-of-distribution", ["longer_expressions", "x", ""], 0.2)
    return ["data", "sample", _source(rng), *options]


def _eval(rng: random.Random) -> list[str]:
    run = rng.choice(["cadmus-micro", "model", rng.choice(_NAMES[4:]), rng.choice(_PLACES)])
    programs = rng.choice(["1", "2", "0", "-1", "x", ""])
    mixture = _maybe(rng, "--mixture", ["first", "default", "nothing", ""], 0.2)
    options = [*_maybe(rng, "--out", _TABLES), *_maybe(rng, "--seed", _SEEDS)]
    return ["eval", run, "--programs", programs, *mixture, *options]


def _train(rng: random.Random) -> list[str]:
    small = ["--steps", rng.choice(["1", "2", "0", "x"]), "--layers", "1", "--width", rng.choice(["32", "33", "0"])]
    options = [*_maybe(rng, "--seed", _SEEDS), *_maybe(rng, "--precision", ["fp32", "fp16", ""], 0.3)]
    options += [
        *_maybe(rng, "--start", [*_NAMES[3:], "model", *_PLACES], 0.3),
        *_maybe(rng, "--device", ["cpu", "tpu"], 0.3),
    ]
    recipe = ["--recipe", rng.choice(["first", "nothing", "bad.toml", "file", ""])] if rng.random() < 0.3 else []
    return [
        "train",
        *recipe,
        "--corpus",
        rng.choice(["corpus", "corpus", *_PLACES]),
        *small,
        *options,
        "--out",
        rng.choice(_PLACES),
    ]


def _compare(rng: random.Random) -> list[str]:
    sizes = ["1000", "999", "0", "x"]
    options = [*_maybe(rng, "--family", _FAMILIES), *_maybe(rng, "--out", _TABLES), *_maybe(rng, "--seed", _SEEDS, 0.3)]
    return ["data", "compare", _source(rng), _source(rng), "--programs", rng.choice(sizes), *options]


def _knobs(rng: random.Random) -> list[str]:
    return ["data", "knobs", *rng.choices(_FAMILIES, k=rng.randrange(3))]


def _study(rng: random.Random) -> list[str]:
    """A study that fails: on a device that is not there, or of a run that is none."""
    name = rng.choice(["report", "paper", "probe", "alternatives", "intervene"])
    run, device = rng.choice(
        [("cadmus-micro", "tpu"), ("nothing", "cpu"), ("damaged model", "cpu"), ("corpus", "auto")]
    )
    options = [*_maybe(rng, "--programs", ["200", "0", "x"]), *_maybe(rng, "--seed", _SEEDS)]
    if name in ("probe", "intervene"):
        options += _maybe(rng, "--variable", ["reg.a", "reg.z", "", "nowhere.py:f", "file:f", "depth"])
    if name == "probe":
        options += _maybe(rng, "--where", ["loaded", "x", ""], 0.3) + _maybe(rng, "--site", ["hook_embed", "x"], 0.3)
        options += _maybe(rng, "--probe", ["file:P", "nowhere.py:P", "file", ""], 0.3)
    return [name, run, "--device", device, *options, *_maybe(rng, "--out", _PLACES, 0.8)]


def _odd(rng: random.Random) -> list[str]:
    dynamics = ["dynamics", *rng.choices([*_NAMES, *_PLACES], k=rng.randrange(7)), "--out", rng.choice(_PLACES)]
    calibration = ["calibration", "--models", rng.choice(["0", "x", "-1"]), "--out", rng.choice(_PLACES)]
    return rng.choice(
        [dynamics, calibration, ["data"], ["--version"], ["nothing"], [""], ["--help"], ["eval", "--help"]]
    )


_MAKERS: list[Callable[[random.Random], list[str]]] = [
    *(_vm, _vm, _build, _build, _build, _sample, _sample, _eval, _train, _compare, _knobs, _study, _study, _odd)
]


# --- what must hold --------------------------------------------------------------------------------------------------


def run(arguments: list[str], stdin: str = "34+7=.") -> tuple[int, str, str]:
    """The exit code, output and errors of a command within this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
    ):
        code = main(list(arguments))
    return code, out.getvalue(), err.getvalue()


def finished(home: Path) -> dict[Path, bytes]:
    """The manifests of the folders that are finished and sound, by folder."""
    sound = {}
    for path in sorted(home.rglob("manifest.json")):
        data = path.read_bytes()
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            artifacts.read_manifest(path.parent, json.loads(data)["kind"])
            sound[path.parent] = data
    return sound


def others(home: Path) -> dict[Path, bytes]:
    """The files that no command has written."""
    return {path: path.read_bytes() for path in [home / "file", *(home / "foreign").iterdir()]}


def hidden(home: Path) -> set[Path]:
    """What must not stay behind: locks, trials and places of work, but those of a build, which goes on from there."""
    names = [path for path in home.rglob(".*") if path.is_file() or path.name.startswith(".partial-")]
    return {path for path in names if not _is_of_a_build(path.relative_to(home))}


def _is_of_a_build(path: Path) -> bool:
    return any(part.startswith(".partial-") and len(part) == 25 for part in path.parts)


def _broken(said: str, rules: dict[str, bool]) -> list[str]:
    """The rules that do not hold, each with what was said."""
    return [f"not so: {rule}: {said}" for rule, holds in rules.items() if not holds]


def faults_of(arguments: list[str], home: Path) -> tuple[int, list[str]]:
    """The exit code of a command that is run in `home`, and what should hold of it and does not."""
    before, foreign, left = finished(home), others(home), hidden(home)
    start = time.monotonic()
    with contextlib.chdir(home):
        code, _, err = run(arguments)
    seconds = time.monotonic() - start
    after, surplus = finished(home), hidden(home) - left
    rules = {
        "the exit code is 0 or 2": code in (0, 2),
        "no traceback": "Traceback" not in err,
        "no bug": "bug in cadmus-probe" not in err,
        "what was finished is still there": before.keys() <= after.keys(),
        "what is no command's stays as it is": others(home) == foreign,
        f"nothing hidden is left, such as {sorted(map(str, surplus))[:3]}": not surplus,
    }
    if code == 2:
        lines = err.strip().splitlines()
        rules |= {
            "the last line is the error": bool(lines) and lines[-1].startswith("cadmus-probe: error: "),
            "one line is the command's": sum(line.startswith("cadmus-probe: ") for line in lines) == 1,
            "what was finished stays as it was": all(after.get(name) == was for name, was in before.items()),
        }
    return code, _broken(f"{arguments!r} in {seconds:.1f} s: {code} {err!r}", rules)


def session(seed: int, home: Path) -> tuple[dict[int, int], list[str]]:
    """Run some random commands one after another in a copy of the template at `home`.

    Returns how many ended how, and the faults of the first that has any, which ends the session.
    """
    shutil.copytree(template(), home, symlinks=True)
    rng = random.Random(seed)
    codes: dict[int, int] = {0: 0, 2: 0}
    for _ in range(COMMANDS_PER_SESSION):
        code, faults = faults_of(command(rng), home)
        codes[code] = codes.get(code, 0) + 1
        if faults:
            return codes, faults
    return codes, []


# --- streams and signals, in a process of their own ------------------------------------------------------------------


_BUILD = ["data", "build", "first", "--programs", "20000", "--out", "new", "--workers"]
_TRAIN = ["train", "--corpus", "corpus", "--steps", "40", "--layers", "1", "--width", "32", "--out", "new"]
_WORK = [  # what each leaves when it is done
    ([*_BUILD, "1"], "new/manifest.json"),
    ([*_BUILD, "2"], "new/manifest.json"),
    (_TRAIN, "new/manifest.json"),
    (["eval", "cadmus-micro", "--programs", "200", "--out", "t.csv"], "t.csv"),
]
_STREAMS = ["<&-", ">/dev/full", "2>/dev/full", "2>&-", ">&-", "<&- >&- 2>&-", "| true", "2>&1 | true"]
_SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def _start(arguments: list[str], home: Path, streams: str = "") -> subprocess.Popen:
    line = f"{shlex.join([sys.executable, '-m', 'analyses.cli', *arguments])} {streams}"
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        ["bash", "-c", line if "|" in streams else f"exec {line}"],
        cwd=home,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def process_session(seed: int, home: Path, latest: float = 12.0) -> list[str]:
    """Run a command with its streams closed or a signal at a random time, and again without; returns the faults.

    latest: seconds after which the signal comes at the latest. One that comes before the command has begun ends Python
    as it likes.
    """
    shutil.copytree(template(), home, symlinks=True)
    rng = random.Random(seed)
    arguments, product = rng.choice(_WORK)
    streams = rng.choice(_STREAMS) if rng.random() < 0.4 else ""
    number = None if streams else rng.choice(_SIGNALS)
    before, left = finished(home), hidden(home)
    process = _start(arguments, home, streams)
    if number is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, latest))
        process.send_signal(number)
    _, err = process.communicate(timeout=300)
    said = f"{arguments!r} {streams} {number}: {process.returncode} {err!r}"
    codes = {0, 2, 141} if number is None else {0, 128 + number, -number}
    surplus = hidden(home) - left
    rules = {
        f"the exit code is one of {sorted(codes)}": process.returncode in codes,
        "no bug": "bug in cadmus-probe" not in err,
        "what is interrupted shows no traceback": "Traceback" not in err or "cadmus-probe: interrupted" not in err,
        "what was finished is still there": before.keys() <= finished(home).keys(),
        f"nothing hidden is left, such as {sorted(map(str, surplus))[:3]}": not surplus,
        "what ends with 0 is done": process.returncode != 0 or "|" in streams or (home / product).exists(),
    }
    again = _start(arguments, home)
    _, err = again.communicate(timeout=300)
    rules |= {
        f"it can be done again ({err!r})": again.returncode == 0,
        "again, it is done": (home / product).exists(),
        "again, what was finished is still there": before.keys() <= finished(home).keys(),
    }
    return _broken(said, rules)


def fuzz(seconds: float, seed: int) -> int:
    """Run sessions for so long, one in four of processes, and print how many commands ended how, and every fault.

    Returns 1 where there is one, and 0 otherwise.
    """
    totals, processes, found_one = {0: 0, 2: 0}, 0, False
    start, number = time.monotonic(), seed
    while time.monotonic() - start < seconds:
        with tempfile.TemporaryDirectory() as place:
            if number % 4 == 3:
                faults = process_session(number, Path(place) / "home")
                processes += 1
            else:
                codes, faults = session(number, Path(place) / "home")
                totals = {code: totals.get(code, 0) + codes.get(code, 0) for code in totals | codes}
        found_one |= bool(faults)
        for fault in faults:
            print(f"seed {number}: {fault}", flush=True)
        number += 1
    ended = f"{totals[0]} commands done, {totals[2]} refused in a line"
    print(f"{ended}; {processes} processes with other streams or a signal, and again")
    return int(found_one)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(fuzz(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
