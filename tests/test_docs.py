"""What stands in docs/ runs: code as one session a page, commands, and files; tables are those of the reports."""

import ast
import re
import tomllib

import pytest

import cadmus
from cadmus.machine import vm
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from cadmus.models.sites import site_names
from cadmus.programs.mixture import load
from cadmus.states import variables
from cadmus.training import checkpoint, recipe
from cadmus.training.completion import complete
from tests import findings
from tests.pages import DOCS, PAGES, ROOT, blocks, commands, execute, misreading

ELSEWHERE = {"machine.md", "probing.md", "interventions.md"}  # pages whose code other tests run
TEXTS = {str(path.relative_to(DOCS)): path.read_text(encoding="utf-8") for path in PAGES}
WITH_CODE = [name for name, text in TEXTS.items() if blocks(text) and name not in ELSEWHERE]
COMMANDS = [(name, words) for name, text in TEXTS.items() for words in commands(text)]


@pytest.fixture
def in_a_new_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = Model(ModelConfig(n_layers=3, d_model=32, n_heads=1, d_mlp=32))
    checkpoint.save("runs/my", model, load("first"), {"config": {"seed": 0}})


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_CODE)
def test_the_code_of_a_page_runs_as_one_session(name, in_a_new_folder):
    names: dict = {}
    assert sum(execute(block, names) for block in blocks(TEXTS[name])) >= 1, "nothing on it is held against a value"


def test_the_pages_have_code_and_hardly_any_is_left_out():
    assert {"tutorial.md", "coming-from.md", "howto/own-probe.md", "howto/own-family.md"} <= set(WITH_CODE)
    left_out = [name for name, text in TEXTS.items() for _ in re.findall(r"^```python .*not-run", text, re.MULTILINE)]
    assert len(left_out) <= 2, left_out


@pytest.mark.parametrize(("name", "words"), COMMANDS, ids=[f"{name} {' '.join(words)}" for name, words in COMMANDS])
def test_commands_parse(name, words):
    assert misreading(words) == ""


def test_recipes_that_pages_show_are_recipes(tmp_path):
    (text,) = blocks(TEXTS["howto/own-model.md"], "toml")
    (tmp_path / "small.toml").write_text(text, encoding="utf-8")
    assert recipe.load(tmp_path / "small.toml").cfg.n_layers == tomllib.loads(text)["model"]["n_layers"] == 2


@pytest.mark.parametrize("page", findings.PAGES)
def test_the_tables_of_findings_are_those_of_the_reports(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "<!-- table: readable -->" in text
    assert findings.with_tables(text) == text, "run `python -m tests.findings`, and read the text around its tables"


def test_the_page_of_sites_has_them_all():
    cfg = ModelConfig(n_layers=4, d_model=32, n_heads=1, d_mlp=32)
    regular, on_demand = site_names(cfg)
    expected = {name for name in (*regular, *on_demand) if not re.match(r"blocks\.[012]\.", name)}
    rows = set(re.findall(r"^\| `([\w.]+)` \|", TEXTS["sites.md"], re.MULTILINE))
    assert rows == expected | {"blocks.3.attn.hook_rot_q", "blocks.3.attn.hook_rot_k"}


def test_the_page_of_variables_has_them_all():
    for name in (*variables.FIELDS, *variables.FUTURE_FIELDS, *variables.NEEDED, *variables.VIEWS, "depth", "all_true"):
        assert re.search(rf"`[\w.]*\b{re.escape(name)}`", TEXTS["variables.md"]), name


@pytest.mark.parametrize("page", ["README.md", "docs/programs.md"])
def test_the_programs_of_the_table_of_families_are_true(page):
    rows = re.findall(r"^\| `\w+` \| (`\[.*?\]`) \|", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    texts = [text for row in rows for text in re.findall(r"`\[(.*?)\]`", row)]
    assert len(rows) == 11
    assert [text for text in texts if not vm.verdict(text)] == []


@pytest.mark.slow
def test_the_model_that_ships_completes_the_examples_of_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (prompts,) = re.findall(r"complete\(model, (\[.*?\])\)  # greedy", text)
    assert all(vm.verdict(program) for program in complete(cadmus.load_model(), ast.literal_eval(prompts)))
