"""What stands in the README runs."""

import re
from pathlib import Path

import numpy as np
import pytest

from analyses.cli import main
from cadmus import checkpoint
from cadmus.mixture import load
from cadmus.model import Model, ModelConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def in_a_new_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = ModelConfig(n_layers=3, d_model=32, n_heads=1, d_mlp=32)
    checkpoint.save("runs/my", Model(cfg), load("first"), {"config": {"seed": 0}})


@pytest.mark.parametrize("block", BLOCKS)
def test_python_blocks_run_and_give_what_their_comments_say(block, in_a_new_folder):
    names, checked = {}, 0
    for line in block.splitlines():
        code, _, comment = (part.strip() for part in line.partition("#"))
        exec(code, names)
        said = re.match(r"(True|False|Int\(.*?\)|array\(.*?\))", comment)
        if said:
            value = eval(code, names)
            expected = eval(said[0], {**names, "array": np.array, "Int": names["vm"].Int if "vm" in names else None})
            assert np.array_equal(value, expected) if isinstance(expected, np.ndarray) else value == expected
            checked += 1
    assert checked or "load" in block


def test_commands_of_the_readme_exist(capsys):
    commands = set(re.findall(r"cadmus-probe (vm|train|eval|paper|report|data \w+)", README))
    assert len(commands) >= 9
    for command in commands:
        assert main([*command.split(), "--help"]) == 0
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:^    |`)make (\w+)", README, re.MULTILINE))
    assert targets >= {"report", "test", "agreement"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_files_that_the_readme_links_exist():
    for path in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (ROOT / path).exists(), path
