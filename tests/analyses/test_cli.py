"""The command as its users meet it: what it prints, its one-line errors, and what an interrupted run leaves."""

import errno
import io
import json
import os
import re
import resource
import runpy
import shlex
import signal
import subprocess
import sys
import time
from importlib import metadata

import numpy as np
import pandas as pd
import pytest

from analyses import cli
from analyses.cli import main
from cadmus.machine import vm
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from cadmus.programs.mixture import load
from cadmus.runtime import artifacts
from cadmus.training import checkpoint
from probes import selftest

SMALL = ["--steps", "4", "--layers", "1", "--width", "32"]


def command(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "analyses.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.fixture
def errors(capsys):
    """Run the command, expecting exit code 2 and one line on standard error; returns the line."""

    def run(*arguments):
        assert main(list(arguments)) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        return lines[0]

    return run


@pytest.mark.parametrize("program", ["[3A4Bab+7=.]", "3A4Bab+7=."])
def test_vm_explains_a_program(capsys, program):
    assert main(["vm", program]) == 0
    out = capsys.readouterr().out
    assert "verdict: true-program" in out
    assert "a=3 b=4" in out


def test_vm_reads_files_and_standard_input(capsys, monkeypatch, tmp_path):
    text = "[5'3\\;\"3=]".replace("\\;", "")
    (tmp_path / "program").write_text("[53'\"3=.]\n")
    assert main(["vm", "--file", str(tmp_path / "program")]) == 0
    assert "decoration" in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert main(["vm", "-"]) == 0
    assert "decorate" in capsys.readouterr().out


COMMANDS = ("vm", "train", "eval", "report", "paper", "probe", "alternatives", "dynamics", "calibration", "selftest")


@pytest.mark.parametrize("program", ["-34+.", "3 4 +", "[ 3 4 + . ]", "~~-34+.", "[34+", "34+.]", "["])
def test_vm_takes_programs_as_people_write_them(capsys, program):
    main(["vm", program])
    assert "\noutputs: " in capsys.readouterr().out


@pytest.mark.slow
def test_what_ships_wins_unless_the_path_holds_the_kind_of_thing(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("first", "cadmus-micro"):
        (tmp_path / name).mkdir()
    main(["data", "describe", "first", "--programs", "1000", "--out", "first"])  # a page of that name is no corpus
    main(["data", "sample", "first", "-n", "1"])
    main(["eval", "cadmus-micro", "--programs", "1"])
    main(["data", "build", "first", "--programs", "50", "--out", "corpus"])
    (tmp_path / "corpus").rename(tmp_path / "paper")
    capsys.readouterr()
    main(["data", "sample", "paper", "-n", "1"])  # a corpus of that name is one
    assert "sequence" not in capsys.readouterr().out  # which the mixture paper has, and first has not


def test_a_file_of_the_name_of_what_ships_is_meant_where_it_is_toml(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("first", "mini"):
        (tmp_path / name).write_bytes(b"\x00 notes, not TOML")
    assert main(["data", "sample", "first", "-n", "1"]) == 0
    assert main(["data", "sample", "mini", "-n", "1", "--family", "arith"]) == 0
    assert main(["train", "--recipe", "first", "--steps", "1", "--corpus", "none"]) == 2
    assert "corpus folder none does not exist" in capsys.readouterr().err  # behind the recipe
    (tmp_path / "mini").write_text('name = "own"\n[[family]]\nname = "compare"')
    assert main(["data", "sample", "mini", "-n", "1", "--family", "arith"]) == 2
    assert "mixture 'own' has no family 'arith'" in capsys.readouterr().err


def test_numbers_that_are_too_large_and_loops_of_links_are_no_bugs(errors, tmp_path):
    line = errors("data", "build", "first", "--programs", "9" * 20, "--out", str(tmp_path / "out"))
    assert "programs is more than any disk holds; ask for 1,000,000,000,000 at most" in line
    (tmp_path / "loop").symlink_to("loop")
    for arguments in (["paper"], ["data", "build", "first", "--programs", "9"], ["train", "--steps", "1"]):
        assert "loop" in errors(*arguments, "--out", str(tmp_path / "loop"))
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


def test_a_table_cannot_take_the_place_of_a_folder(errors, tmp_path):
    (tmp_path / "table.csv").mkdir()
    for arguments in (["eval", "--programs", "1"], ["data", "compare", "first", "paper"]):
        line = errors(*arguments, "--out", str(tmp_path / "table.csv"))
        named = tmp_path / "table.csv"
        assert line.endswith(f"{named} is a folder; name a file for the table, such as {named / 'table.csv'}")


def test_a_file_of_something_finished_is_not_overwritten(errors, tmp_path):
    with artifacts.new_folder(tmp_path / "made", "model") as partial:
        (partial / "tables").mkdir()
        for name in ("table.csv", "model.safetensors", "tables/more.csv"):
            (partial / name).write_text("kept")
    for *command, name in (
        ["eval", "--programs", "1", "table.csv"],
        ["eval", "--programs", "1", "tables/more.csv"],
        ["explore", "3", "model.safetensors"],
        ["prompts", "export", "manifest.json"],
    ):
        line = errors(*command, "--out", str(tmp_path / "made" / name))
        assert f"{name} is part of what {tmp_path / 'made' / 'manifest.json'} lists; name another file" in line
    files = [path for path in (tmp_path / "made").rglob("*") if path.is_file() and path.name != "manifest.json"]
    assert [path.read_text() for path in files] == ["kept"] * 3


def test_two_sources_never_share_a_page():
    from analyses.commands.data import _page_name

    sources = ["c-0.1", "c-0.5", "a/c", "b/c", "c", "../c", "/c", "c.toml.d", "d/c.d"]
    assert len(set(map(_page_name, sources))) == len(sources)
    assert _page_name("mine/wide.toml") == "mine--wide"


def test_a_seed_beyond_the_generators_is_refused(errors):
    assert "must lie in 0..9223372036854775807" in errors("train", "--steps", "1", "--seed", str(2**64))


def test_standard_streams_that_are_closed_are_told():
    for redirection, message in (("<&-", "standard input is closed"), (">&-", "standard output is closed")):
        line = f"exec {shlex.quote(sys.executable)} -m analyses.cli vm - {redirection}"
        run = subprocess.run(["sh", "-c", line], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert run.returncode == 2
        assert message in run.stderr
        assert len(run.stderr.splitlines()) == 1


@pytest.mark.slow
def test_without_a_place_for_compiled_code_commands_work():
    code = """
import sys, numba.core.caching
numba.core.caching.CacheImpl._locator_classes = []  # as where neither the installation nor a home can be written to
from analyses.cli import main
sys.exit(main(["data", "sample", "first", "-n", "1"]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0
    assert "register" in run.stdout
    assert len(run.stderr.splitlines()) == 1
    assert "set NUMBA_CACHE_DIR" in run.stderr


def test_help_lists_every_command(capsys):
    for arguments in (["--help"], []):
        assert main(arguments) == 0
        out = capsys.readouterr().out
        assert "cadmus-probe" in out
        for name in (*COMMANDS, "data"):
            assert re.search(rf"^\W*{name} ", out, re.MULTILINE), name


@pytest.mark.parametrize(
    ("words", "parameter"),
    [
        ("report --out", "--out"),
        ("report", "RUN"),
        ("train --start", "--start"),
        ("probe --probe", "--probe"),
        ("train --corpus", "--corpus"),
        ("eval --out", "--out"),
        ("data build first --out", "--out"),
        ("data sample first --family", "--family"),
        ("prompts export --out", "--out"),
        ("explore --run", "--run"),
        ("data compare first", "b"),
    ],
)
def test_a_value_that_is_empty_is_told(errors, tmp_path, monkeypatch, words, parameter):
    """As of a shell's variable that is not set: it would mean this folder, or nothing."""
    monkeypatch.chdir(tmp_path)
    assert f"Invalid value for '{parameter}': it is empty; give a value, or leave it out" in errors(*words.split(), "")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_program_is_a_program(capsys):
    assert main(["vm", ""]) == 0
    assert "verdict" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches_every_command(capsys, name):
    assert main([name, "--help"]) == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"Usage: cadmus-probe {name}" in out
    assert f"Example: cadmus-probe {name}" in out or f"cadmus-probe {name} runs/" in out or name == "selftest"
    for option in {"report": ["RUN", "--eval-programs"], "probe": ["--full", "--variable"]}.get(name, []):
        assert option in out


def test_studies_run_as_modules(capsys, monkeypatch):
    studies = {
        "alternatives": "alternatives",
        "calibration": "calibration",
        "distribution": "data describe",
        "dynamics": "dynamics",
        "model_report": "report",
        "paper": "paper",
        "state": "probe",
    }
    for module, name in studies.items():
        monkeypatch.setattr(sys, "argv", [module, "--help"])
        with pytest.raises(SystemExit) as exited:
            runpy.run_module(f"analyses.studies.{module}", run_name="__main__")
        assert exited.value.code == 0, module
        assert f"Usage: cadmus-probe {name}" in capsys.readouterr().out, module


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cadmus-probe {metadata.version('cadmus-probe')}\n"


@pytest.mark.slow
def test_help_and_version_load_nothing_heavy():
    program = (
        "import sys; from analyses.cli import main; codes = [main(['--help']), main(['--version'])]\n"
        "sys.exit(sorted({'torch', 'numba', 'pandas', 'numpy'} & set(sys.modules)) or max(codes))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_shells_complete_commands(capsys, monkeypatch):
    monkeypatch.setenv("_CADMUS_PROBE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "cadmus-probe alt")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit) as exited:
        main([])
    assert exited.value.code == 0
    assert capsys.readouterr().out.split() == ["alternatives"]


def test_usage_errors(errors):
    assert "No such option: --bogus" in errors("eval", "--bogus")
    assert "(see cadmus-probe train --help)" in errors("train", "--steps", "none")
    assert "No such command" in errors("proeb")
    assert "give one program" in errors("vm")
    assert errors("data").endswith("error: no command is named (see cadmus-probe data --help)")


def test_bad_programs_and_mixtures(errors, tmp_path):
    assert "'z' at position 2 is not an instruction" in errors("vm", "[34z]")
    out = ["--out", str(tmp_path / "out"), *SMALL]
    assert "no mixture 'nope'; name a TOML file or one of" in errors("train", "--mixture", "nope", *out)
    mixture = tmp_path / "mixture.toml"
    for text, message in (
        ("name = ", "is not TOML"),
        ('name = "m"\n[[family]]\nname = "compair"', "unknown family 'compair' (did you mean 'compare'?)"),
        ('name = "m"\n[[family]]\nname = "compare"\nlenght = 3', "unknown knob 'lenght' (did you mean 'length'?)"),
        ('name = "m"\n[[family]]\nname = "compare"\nhigh = 900', "no expression of 5 instructions has the value"),
    ):
        mixture.write_text(text)
        line = errors("train", "--mixture", str(mixture), *out)
        assert message in line
        assert str(mixture) in line
    assert not (tmp_path / "out").exists()


def test_output_that_cannot_be_written(errors, tmp_path):
    (tmp_path / "file").touch()
    assert "choose another path" in errors("train", "--out", str(tmp_path / "file" / "out"), *SMALL)
    for name in ("report", "paper", "probe", "alternatives"):
        assert "choose another path" in errors(name, "--out", str(tmp_path / "file"))
    assert "choose another path" in errors("dynamics", *"abcde", "--out", str(tmp_path / "file"))


def test_a_damaged_or_missing_run(errors, tmp_path):
    out = ["--out", str(tmp_path / "out")]
    for name in ("report", "paper", "probe", "alternatives"):
        assert "none does not exist; train one, or name one that ships: " in errors(name, str(tmp_path / "none"), *out)
    assert "does not exist" in errors("dynamics", *(str(tmp_path / name) for name in "abcde"), *out)
    run = tmp_path / "run"
    run.mkdir()
    assert "half-written" in errors("report", str(run), *out)
    cfg = ModelConfig(n_layers=1, d_model=32, n_heads=1, d_mlp=32)
    checkpoint.save(run, Model(cfg), load("first"), {"config": {"seed": 0}})
    weights = bytearray((run / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (run / "model.safetensors").write_bytes(weights)
    assert "model.safetensors is damaged (wrong checksum); delete the folder and make the model again" in errors(
        "report", str(run), *out
    )
    assert not (tmp_path / "out").exists()


def test_debug_raises_what_the_line_says():
    with pytest.raises(ValueError, match="'z' at position 2 is not an instruction"):
        main(["vm", "[34z]", "--debug"])


@pytest.mark.slow
def test_a_disk_that_fills_leaves_nothing(tmp_path):
    def limit_files():  # every write past 4 kB fails, as on a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    # compiles, and caches what is compiled, while files may still grow
    assert command("train", "--out", str(tmp_path / "before"), *SMALL).wait() == 0
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    process = command("train", "--out", str(tmp_path / "out"), *SMALL, preexec_fn=limit_files, env=environment)
    _, err = process.communicate()
    assert process.returncode == 2
    assert "File too large; raise the file size limit or choose another --out" in err.strip().splitlines()[-1]
    assert str(tmp_path / "out") in err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_text(errors, tmp_path):
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe")
    for arguments in (["vm", "--file", str(path)], ["train", "--mixture", str(path)]):
        assert f"{path} is not UTF-8 text" in errors(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "--run", "x"], "No such option: --run"),
        (["report", "--programs", "10"], "'--programs': Input should be greater than or equal to 200"),
        (["report", "--device", "tpu"], "device 'tpu' is not there; this machine has cpu"),
        (["probe", "--variable", "reg.e"], "unknown variable 'reg.e'; there are depth, all_true"),
        (["probe", "--variable", "depth", "--variable", "depth"], "variables depth, depth name one twice"),
        (["probe", "--site", "blocks.9.hook_resid_post"], "blocks.9.hook_resid_post"),
        (["probe", "--family", "nothing"], "mixture 'finish' has no family 'nothing'; it has arith"),
        (["probe", "--probe", "nowhere.py:Probe"], "nowhere.py"),
        (["alternatives", "--machines", "0"], "'--machines': Input should be greater than or equal to 1"),
        (["dynamics"], "Missing argument 'runs'. (see cadmus-probe dynamics --help)"),
        (["dynamics", "a", "b"], "2 runs; a relation over training needs 5 or more"),
        (["dynamics", *(["cadmus-mini"] * 5)], "cadmus-mini has no snapshots; train it with snapshots = 24"),
        (["dynamics", *(["cadmus-micro"] * 5)], "the runs have the seeds [0, 0, 0, 0, 0]; give each seed once"),
    ],
)
def test_what_studies_cannot_do_is_one_line(errors, tmp_path, arguments, message):
    out = tmp_path / "out"
    assert message in errors(*arguments, "--out", str(out))
    assert not out.exists() or not list(out.iterdir())


def test_a_model_is_measured_on_another_mixture_where_its_programs_fit(capsys, errors, tmp_path):
    assert "programs of mixture 'default' need 70 positions" in errors("eval", "cadmus-micro", "--mixture", "default")
    assert "no mixture 'nothing'; name a TOML file or one of compute" in errors("eval", "--mixture", "nothing")
    table = tmp_path / "table.csv"
    assert main(["eval", "cadmus-mini", "--mixture", "first", "--programs", "4", "--json", "--out", str(table)]) == 0
    assert set(pd.read_csv(table).mixture) == {"first"}, "what it was measured on is in the table"
    rows = json.loads(capsys.readouterr().out)
    assert {row["family"] for row in rows} == {"compare", "equality", "register"}


def test_the_self_test_passes_or_fails_by_its_exit_code(capsys, monkeypatch):
    checks = [
        selftest.Check("leaked skeleton", "found", "found", True),
        selftest.Check("noise", "at most 16", "40", False),
    ]
    monkeypatch.setattr(selftest, "run", lambda progress: checks)
    assert main(["selftest"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["check", "expected", "found"]
    assert [line.split()[-1] for line in lines[1:]] == ["passed", "FAILED"]
    monkeypatch.setattr(selftest, "run", lambda progress: checks[:1])
    assert main(["selftest"]) == 0


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(tmp_path):
    out = tmp_path / "out"
    process = command("train", "--out", str(out), "--steps", "500", "--layers", "1", "--width", "32")
    assert "build the corpus 100%" in process.stderr.readline()
    time.sleep(1)  # into training
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1].startswith("cadmus-probe: interrupted; nothing unfinished has a final name")
    assert "Traceback" not in err
    assert not out.exists()


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_an_interruption_within_a_command_or_before_it_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(vm, "explain", interrupt)
    codes = [main(["vm", "1."])]
    monkeypatch.setattr(cli, "app", interrupt)
    codes.append(main(["vm", "1."]))
    assert codes == [130, 130]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("cadmus-probe: interrupted; ") for line in lines)


def of_numpy():
    np.zeros(2**62, np.uint8)


def of_torch():
    import torch

    torch.zeros(2**62, dtype=torch.uint8)


def error_of(work):
    with pytest.raises((MemoryError, RuntimeError)) as error:
        work()
    return error.value


def failing(error):
    def app(*_, **__):
        raise error

    return app


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
        of_numpy,
        of_torch,
    ],
    ids=lambda error: getattr(error, "__name__", repr(error)),
)
def test_a_lack_of_memory_is_told_as_such_whoever_noticed_it(error, capsys, monkeypatch):
    monkeypatch.setattr(cli, "app", failing(error_of(error) if callable(error) else error))
    assert main(["vm", "1."]) == 2
    said = "cadmus-probe: error: out of memory; ask for fewer programs, or free some memory\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OverflowError("int too large"), "a number is too large (int too large); ask for fewer programs, or smaller n"),
        (OSError(errno.EMFILE, "Too many open files", "t.csv"), "t.csv: Too many open files; close some files, or rai"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "Resource temporarily unavailable; end so"),
        (ImportError("no module named that"), "ImportError: no module named that (this is a bug in cadmus-probe; --de"),
        (RuntimeError("memory format"), "RuntimeError: memory format (this is a bug in cadmus-probe; --debug shows wh"),
    ],
    ids=repr,
)
def test_errors_of_the_system_and_of_ours_are_told_apart(error, message, capsys, monkeypatch):
    monkeypatch.setattr(cli, "app", failing(error))
    assert main(["vm", "1."]) == 2
    assert capsys.readouterr().err.startswith(f"cadmus-probe: error: {message}")


@pytest.mark.slow
def test_train_writes_a_model_and_says_what_it_completes(capsys, tmp_path):
    assert main(["train", "--out", str(tmp_path / "run"), *SMALL]) == 0
    out = capsys.readouterr().out
    assert out.strip().splitlines()[-1] == str(tmp_path / "run")
    assert out.count("test_skeleton") == 3
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "manifest.json",
        "model.safetensors",
        "training.json",
    }
