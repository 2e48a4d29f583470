"""The file: it is one, holds what it was given, fetches nothing; the command makes it, and says what is wrong."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import numpy as np
import pytest

from analyses import cli
from analyses.explorer import build, heads, page_file, presets, weights
from analyses.explorer.page_file import check_program
from cadmus.models.model import Model
from cadmus.training import checkpoint


def test_every_module_is_in_the_page_and_none_twice() -> None:
    modules = build.modules()
    assert set(modules) == {path.stem for path in build.PAGE.glob("*.mjs")}
    for name, source in modules.items():
        assert source.startswith(f"const {name}_module = (() => {{")
        assert not re.search(r"^(import|export)\b", source, re.MULTILINE)
    order = list(modules)
    assert order.index("values") < order.index("instructions") < order.index("machine") < order.index("app")


def test_modules_are_short_and_their_lines_too() -> None:
    for path in [*build.PAGE.iterdir()]:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 400, path
        assert path.suffix == ".css" or path.suffix == ".html" or max(map(len, lines)) < 240, path


def test_what_the_page_is_given_cannot_end_its_script() -> None:
    data = {"name": "</script><script>alert(1)</script>", "entries": []}
    page = build.html("<b>title & more", data, "AAAA")
    assert "<title>&lt;b&gt;title &amp; more</title>" in page
    assert "</script><script>alert" not in page
    assert page.count("<script") == page.count("</script>") == 3


def test_the_page_names_no_address() -> None:
    page = build.html("title", {}, "")
    assert "default-src 'none'" in page
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}[^\s\"']*", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not fetched
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|eval|innerHTML|outerHTML|insertAdjacentHTML)\b", page)


def test_tensors_are_halves_in_order() -> None:
    arrays = [("a", np.array([[1.5, -2.0]])), ("b", np.arange(3.0))]
    tensors = weights.Tensors.of(arrays)
    assert tensors.entries == [{"name": "a", "shape": [1, 2]}, {"name": "b", "shape": [3]}]
    stored = np.frombuffer(base64.b64decode(tensors.base64), "<f2")
    assert stored.tolist() == [1.5, -2, 0, 1, 2]


@pytest.mark.parametrize(
    ("program", "text"), [("[3A4B=]", "3A4B="), (" 34 + ", "34+"), ("[.]", "."), ("", ""), ("34+7=.", "34+7=.")]
)
def test_a_program_is_taken_with_brackets_and_spaces(program: str, text: str) -> None:
    assert check_program(program, 10) == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["é"], "'é' at position 0 is not an instruction"),
        (["1" * 100], "the program has 100 tokens; this model reads 31 at most"),
        (["--run", "no-such-model"], "no-such-model"),
        (["--out", "{folder}"], "is a folder; name a file for the page, such as"),
        (["--out", "{folder}/none/\0"], ""),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [argument.replace("{folder}", str(tmp_path)) for argument in arguments]
    model = [] if "--run" in arguments else ["--run", "cadmus-micro"]
    assert cli.main(["explore", *model, *arguments]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert message in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_heads_that_attend_along_the_data_flow_are_named(small_model: Model) -> None:
    mixture = checkpoint.load("cadmus-micro").mixture
    found_heads = heads.along_data_flow(small_model, mixture, programs=150)
    assert all(head["mass"] > head["baseline"] for head in found_heads)
    assert all(head["layer"] < 4 and head["head"] < small_model.cfg.n_heads for head in found_heads)


@pytest.mark.slow
def test_the_command_makes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert cli.main(["explore", "[34+7=]", "--run", "cadmus-micro", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    page = out.read_text(encoding="utf-8")
    assert '"program": "34+7="' in page
    assert '"name": "cadmus-micro"' in page
    assert 1e5 < len(page) < 12e6


@pytest.mark.slow
def test_a_model_without_some_families_has_presets_of_the_others(small_model: Model) -> None:
    found_presets = presets.find(small_model, checkpoint.load("cadmus-micro").mixture)
    assert all(set(preset) == {"title", "words", "hash"} for preset in found_presets)
    assert page_file.PROGRAM
