"""What stands in the README, in docs/probing.md and in docs/interventions.md runs; `test_docs` has the other pages."""

import re
from pathlib import Path

import pytest

from analyses.cli import main
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from cadmus.programs.mixture import load
from cadmus.states import variables
from cadmus.training import checkpoint
from probes.measurement import scores
from tests.pages import PAGES, ROOT, blocks, commands, execute, misreading

README = (ROOT / "README.md").read_text(encoding="utf-8")
PROBING = (ROOT / "docs" / "probing.md").read_text(encoding="utf-8")


@pytest.fixture
def in_a_new_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = ModelConfig(n_layers=3, d_model=32, n_heads=1, d_mlp=32)
    checkpoint.save("runs/my", Model(cfg), load("first"), {"config": {"seed": 0}})


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks(README))
def test_python_blocks_run_and_give_what_their_comments_say(block, in_a_new_folder):
    assert execute(block, {}) or "load" in block


def test_a_comment_that_is_not_so_is_found():
    assert execute("x = 1\nx + 1 == 2  # True, of course\nx  # one", {}) == 1
    with pytest.raises(AssertionError, match=r"x == 2  # True gave False"):
        execute("x = 1\nx == 2  # True", {})
    with pytest.raises(AssertionError, match=r"gave \[1 2\]"):
        execute("import numpy as np\nnp.arange(1, 3)  # array([1, 3])", {})


@pytest.mark.slow
def test_the_page_on_probing_runs_as_one_session(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    assert sum(execute(block, names) for block in blocks(PROBING)) >= 9
    assert len(names["table"]) == 4
    assert names["ridge"].score(*names["test"]) > 0.8
    assert len(names["checks"]) == 2
    assert all(check.passed for check in names["checks"])


@pytest.mark.slow
def test_the_page_on_interventions_runs_as_one_session(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    page = (ROOT / "docs" / "interventions.md").read_text(encoding="utf-8")
    assert sum(execute(block, names) for block in blocks(page)) >= 6


@pytest.mark.slow
def test_the_example_probe_runs_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = (block for block in blocks(PROBING) if block.startswith("# my_probe.py\n"))
    Path("my_probe.py").write_text(example, encoding="utf-8")
    arguments = "--programs 300 --machines 0 --variable depth --site blocks.0.hook_resid_post --offset 0 --out page"
    assert main(["probe", "--probe", "my_probe.py:MyProbe", *arguments.split()]) == 0, capsys.readouterr().err
    assert "page/index.html" in capsys.readouterr().out
    (row,) = Path("page/tables/state.csv").read_text(encoding="utf-8").splitlines()[1:2]
    assert row.startswith("blocks.0.hook_resid_post,1,depth,0,all,all,")
    assert ",MyProbe,False,exact match," in row
    assert "--probe my_probe.py:MyProbe" in Path("page/report.md").read_text(encoding="utf-8")


def test_the_page_on_probing_explains_every_column_and_variable():
    columns, variables_section = PROBING.split("### What the columns mean")[1].split("## What to read")
    first = re.findall(r"^\| (.*?) \|", columns, re.MULTILINE)
    assert sorted(re.findall(r"`(.+?)`", " ".join(first))) == sorted(scores.COLUMNS)
    for name in (*variables.FIELDS, *variables.FUTURE_FIELDS, *variables.NEEDED, *variables.VIEWS, "depth", "all_true"):
        assert re.search(rf"`[\w.]*\b{re.escape(name)}`", variables_section), name


@pytest.mark.parametrize("words", commands(README) + commands(PROBING), ids=" ".join)
def test_commands_parse(words):
    assert misreading(words) == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data", "build", "first", "--bogus"], "--bogus"),
        (["data", "bild"], "no command 'bild'"),
        (["data"], "no command"),
        (["vm", "34+", "7=."], "7=."),
        (["eval", "--programs", "many"], "Invalid value for '--programs'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_a_command_line_does_not_take_is_found(words, message):
    assert message in misreading(words)


def test_commands_of_the_readme_have_help(capsys):
    called = {tuple(words[:2] if words[0] == "data" else words[:1]) for words in commands(README)}
    assert len(called) >= 12
    for words in called:
        assert main([*words, "--help"]) == 0


def test_make_has_the_targets_of_the_readme():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:^    |`)make (\w+)", README, re.MULTILINE))
    assert targets >= {"report", "test", "agreement"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


LINKING = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]


@pytest.mark.parametrize("path", LINKING, ids=[str(path.relative_to(ROOT)) for path in LINKING])
def test_files_that_a_page_links_exist(path):
    for link in re.findall(r"\]\(((?!http)[^)#]+)(?:#[\w-]*)?\)", path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), link


def test_the_map_has_a_line_for_every_file():
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    files = [path for package in ("cadmus", "probes", "analyses") for path in (ROOT / package).rglob("*.py")]
    lines = [f"](../{path.relative_to(ROOT)})" for path in files if not path.name.startswith("__")]
    assert len(lines) > 100
    assert not [line for line in lines if line not in text]
