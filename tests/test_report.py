"""The first report, made small: the page, its figures and tables, and the numbers they share."""

import re
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from analyses import first_report, state
from analyses.first_report import FirstReportConfig
from cadmus import artifacts
from cadmus.mixture import load
from cadmus.model import ModelConfig
from cadmus.recipe import Recipe
from cadmus.train import TrainConfig

CONFIG = FirstReportConfig(
    recipe=Recipe(
        "tiny",
        load("first"),
        ModelConfig(n_layers=1, d_model=32, n_heads=1, d_mlp=64, n_ctx=32),
        TrainConfig(steps=40, batch_size=128),
    ),
    eval_programs=40,
    number_programs=500,
    register_programs=4000,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    page = first_report.run(CONFIG, folder)
    assert page == folder / "index.html"
    return folder


def test_the_page_is_self_contained_and_the_folder_is_whole(folder):
    page = (folder / "index.html").read_text()
    images = re.findall(r'<img [^>]*src="([^"]{25})', page)
    assert len(images) == 3
    assert all(image.startswith("data:image/png;base64") for image in images)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    assert artifacts.read_manifest(folder, "report")["files"].keys() >= {
        "index.html",
        "report.md",
        "figures/numbers.png",
    }
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_csv_and_parquet_hold_the_same_rows(folder):
    for name in ("completion", "numbers", "registers", "training"):
        csv, parquet = (read(folder / "tables" / f"{name}{end}") for read, end in READERS)
        pd.testing.assert_frame_equal(csv, parquet, check_dtype=False)


READERS = ((pd.read_csv, ".csv"), (pd.read_parquet, ".parquet"))


def test_every_score_stands_beside_its_control_and_interval(folder):
    numbers = pd.read_parquet(folder / "tables" / "numbers.parquet")
    registers = pd.read_parquet(folder / "tables" / "registers.parquet")
    for table in (numbers, registers):
        assert set(table.model) == {"trained", "untrained"}
        assert (table.groupby("model").size().nunique()) == 1
        assert (table.low <= table.score + 1e-9).all()
        assert (table.score <= table.high + 1e-9).all()
        assert (table.clusters > 0).all()
        assert table[["run", "corpus", "seed", "site", "layer"]].notna().all(axis=None)
    assert set(numbers.position) == set(range(1, 12))
    assert numbers[numbers.metric == "accuracy"].prefix_majority.between(0, 1).all()
    assert registers[["majority", "by_token"]].notna().all(axis=None)


def test_the_embedding_cannot_know_what_a_register_holds(folder):
    registers = pd.read_parquet(folder / "tables" / "registers.parquet")
    embedding = registers[
        (registers.layer == 0) & (registers.variable == state.ALL) & (registers.metric == "exact match")
    ]
    assert set(embedding.token_class) == set(state.CLASSES)
    assert (embedding.score < embedding.by_token + 0.1).all()


def test_the_page_states_the_tables_numbers(folder):
    completion = pd.read_csv(folder / "tables" / "completion.csv")
    page = (folder / "index.html").read_text()
    for row in completion.itertuples():
        assert f"{row.accuracy:.2f} [{row.low:.2f}, {row.high:.2f}]" in page
    assert np.isfinite(completion.accuracy).all()


def test_markdown_keeps_paragraphs_and_tables_apart(folder):
    lines = (folder / "report.md").read_text().splitlines()
    for before, line in pairwise(lines):
        if line.startswith(("#", "!", "All ")) or (line.startswith("|") and not before.startswith("|")):
            assert before == "", line


def test_a_new_report_replaces_the_old_one_and_reuses_a_model(folder, tmp_path):
    config = FirstReportConfig(run=str(folder / "model"), eval_programs=20, number_programs=500, register_programs=1200)
    first_report.run(config, tmp_path)
    assert not (tmp_path / "model").exists()
    assert "--run" in (tmp_path / "report.md").read_text()
