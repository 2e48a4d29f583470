"""All about a model on one page, made small: the page, its figures and tables, and the numbers they share."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pandas as pd
import pytest

from analyses.commands import terminal
from analyses.reporting import report
from analyses.studies.model_report import page as model_page
from analyses.studies.model_report.study import ModelReportConfig
from analyses.studies.state.study import VARIABLES
from cadmus.programs.families import Register
from cadmus.programs.mixture import Component, Mixture
from cadmus.runtime import artifacts
from tests.studies import FIRST, MICRO, save_untrained

SMALL = {"programs": 300, "eval_programs": 20, "cell_programs": 1, "reach": 25, "number_programs": 200, "pairs": 20}
SMALLEST = {**SMALL, "quick": True, "programs": 200, "eval_programs": 5}
NOT_EXCHANGED = ("completion", "state", "paper")  # the parts without interventions
CONTROLS_EVERYWHERE = ["majority", "by token", "n-gram", "input, linear", "untrained"]
PAPER = ("completion", "figure1", "figure2")
STATE = (
    "roles",
    "state",
    "token-classes",
    "depth",
    "offsets",
    "families",
    "alternative-machines",
    "numbers",
    "dimensions",
)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the page of cadmus-micro."""
    folder = tmp_path_factory.mktemp("page")
    calls = []
    page = model_page.make(
        ModelReportConfig(MICRO, **SMALL, parts=NOT_EXCHANGED),
        folder,
        lambda stage, fraction, note: calls.append((stage, fraction)),
    )
    assert page == folder / "index.html"
    for name in {stage for stage, _ in calls}:
        fractions = [fraction for stage, fraction in calls if stage == name]
        assert fractions == sorted(fractions), name
        assert fractions[-1] == 1, name
    return folder


@pytest.fixture(scope="module")
def tables(folder: Path) -> dict[str, pd.DataFrame]:
    return {path.stem: pd.read_parquet(path) for path in (folder / "tables").glob("*.parquet")}


def test_the_page_is_self_contained_and_the_folder_is_whole(folder: Path) -> None:
    page = (folder / "index.html").read_text()
    images = re.findall(r'<img [^>]*src="([^"]{25})', page)
    files = artifacts.read_manifest(folder, "report")["files"].keys()
    figures = {name for name in files if name.startswith("figures/")}
    count = len(STATE) + len(PAPER) + 1  # the completion has none, the training has one, the page opens with one
    assert len(images) == count
    assert {Path(name).suffix for name in figures} == {".svg", ".png"}
    assert len(figures) == 2 * count
    assert all(image.startswith("data:image/svg+xml;base64") for image in images)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    assert files >= {"index.html", "report.md", "figures/state.png", "figures/figure1.svg", "tables/state.csv"}
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert (folder / "parts" / ".gitignore").read_text() == "*\n"


def test_the_page_opens_with_a_sentence_a_picture_and_four_cards(folder: Path, tables: dict[str, pd.DataFrame]) -> None:
    page = (folder / "index.html").read_text()
    places = [page.index(text) for text in ('class="finding"', "<img ", 'class="cards"', 'id="contents"', "<details")]
    assert places == sorted(places)
    cards = re.findall(r"<h2>(\w+)</h2><p class=\"big\">([^<]*)<", page)
    assert [title for title, _ in cards] == ["Completes", "Reads", "Uses", "Generalizes"]
    test = tables["completion"][tables["completion"].split == "test"]
    assert cards[0][1] == f"{(test.accuracy >= 0.9).sum()} of {len(test)}"
    assert "Still being measured" not in page


def test_every_number_of_the_opening_leads_to_its_row(folder: Path) -> None:
    page = (folder / "index.html").read_text()
    opening = page[: page.index('id="contents"')]
    opening = opening[: opening.index("<figure>")] + opening[opening.index("</figure>") :]
    rows = dict(re.findall(r'<tr id="([^"]+)">(.*)</tr>', page))
    links = re.findall(r'<a class="number" href="#([^"]+)">([^<]+)</a>', opening)
    numbers = re.findall(r"\d\.\d\d \[-?\d\.\d\d, \d\.\d\d\]", opening)
    assert len(numbers) == len(links) > 2
    for anchor, text in links:
        assert text.split(" against")[0] in re.sub("<[^>]*>", "", rows[anchor]), anchor


def test_a_report_made_again_reads_what_is_finished_and_is_the_same(folder: Path) -> None:
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    stages = set()
    config = ModelReportConfig(MICRO, **SMALL, parts=NOT_EXCHANGED)
    model_page.make(config, folder, lambda stage, fraction, note: stages.add(stage))
    assert not stages
    assert before == {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_page_grows_with_every_part(tmp_path: Path) -> None:
    config = ModelReportConfig(MICRO, **SMALLEST)
    pages = {}

    def progress(stage: str, fraction: float, note: str) -> None:
        if (tmp_path / "index.html").exists():
            pages[stage] = (tmp_path / "index.html").read_text()

    page = model_page.make(config, tmp_path, progress).read_text()
    earlier = pages["fit probes"]
    assert "Still being measured: what can be read in it, what it uses, the paper" in earlier
    assert '<details class="section" id="completion"' in earlier
    assert 'id="findings"' in page
    assert "Still being measured" not in page
    assert "This is a first look at small samples" in page


def test_csv_and_parquet_hold_the_same_rows(folder: Path, tables: dict[str, pd.DataFrame]) -> None:
    assert tables.keys() >= {*PAPER, "state", "alternative-machines", "numbers", "dimensions", "training"}
    for name, table in tables.items():
        assert len(table)
        assert (folder / "tables" / f"{name}.csv").read_text() == table.to_csv(index=False), name


def test_every_score_stands_beside_its_controls_and_interval(tables: dict[str, pd.DataFrame]) -> None:
    state = tables["state"]
    exact = state[state.metric != "R2"]  # R² of few values may be without an interval
    for name in ("completion", "figure2", "state", "numbers"):
        table = exact if name == "state" else tables[name].rename(columns={"accuracy": "score"})
        scored = table[table.score.notna()]
        assert (scored.low <= scored.score + 1e-9).all(), name
        assert (scored.score <= scored.high + 1e-9).all(), name
    assert set(tables["figure2"].model) == {"trained", "untrained"}
    assert tables["figure2"].groupby("model").size().nunique() == 1
    accuracies = tables["figure2"][tables["figure2"].metric == "accuracy"]
    assert accuracies.prefix_majority.between(0, 1).all()
    scored = exact[exact.score.notna()]
    known = [*CONTROLS_EVERYWHERE, "best_control", "beyond_low", "beyond_high"]
    assert scored[known].notna().all(axis=None)
    assert tables["dimensions"][["control", "control_low", "control_high", "full"]].notna().all(axis=None)
    assert tables["numbers"].control.notna().all()
    fingerprints = {table.run.iloc[0] for name, table in tables.items() if name != "training"}
    assert len(fingerprints) == 1


def test_the_page_states_the_tables_numbers(folder: Path, tables: dict[str, pd.DataFrame]) -> None:
    page, text = (folder / "index.html").read_text(), (folder / "report.md").read_text()
    for row in tables["completion"].itertuples():
        assert f"{row.accuracy:.2f} <i>[{row.low:.2f}, {row.high:.2f}]</i>" in page
    state = tables["state"]
    present = (state.probe != "ridge") & (state.probe_class != "network") & (state.by == "all") & (state.offset == 0)
    state = state[present].set_index(["variable", "layer"])
    cells = _rows(text, "variable", "layer", "score")
    assert len(cells) == state.dropna(subset="score").index.get_level_values(0).nunique()
    for variable, layer, score, *_ in cells:
        row = state.loc[(variable, int(layer))]
        assert score == report.with_interval(row.score, row.low, row.high)
    gap = tables["alternative-machines"].iloc[0]
    assert f"{gap.machine}: " in page
    for name in ("nan", "None", "-0.00"):
        assert f"| {name} |" not in text
    command = next(line for line in text.splitlines() if "cadmus-probe report" in line)
    for name, value in {**SMALL, "seed": 0}.items():
        assert f"--{name.replace('_', '-')} {value}" in command


def _rows(text: str, *head: str) -> list[list[str]]:
    """The rows of the page's table whose first columns are `head`."""
    lines = text.split(f"| {' | '.join(head)} |")[1].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in itertools.takewhile(bool, lines)]


def test_markdown_keeps_paragraphs_apart_and_tables_whole(folder: Path) -> None:
    lines = (folder / "report.md").read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if line.startswith(("#", "!", "All ")) or (line.startswith("|") and not before.startswith("|")):
            assert before == "", line
        if line.startswith("|") and before.startswith("|"):
            assert _cells(line) == _cells(before), line


def _cells(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line))


def test_the_sections_stand_in_order(folder: Path) -> None:
    titles = re.findall(r"^## (.*)$", (folder / "report.md").read_text(), re.MULTILINE)
    assert titles[0] == "Completing held-out programs"
    assert titles.index("Which variables are readable, and where") < titles.index(
        "Two computed numbers, token by token"
    )
    assert titles[-2:] == ["Training", "How this was made"]
    assert len(set(titles)) == len(titles)


def test_a_page_of_ones_own_is_not_overwritten(tmp_path: Path) -> None:
    """Before any work, and where a report is written at once; a report of ours is renewed."""
    page = report.Report("A page", ("found",), (report.Section("one", "One", table=pd.DataFrame({"x": [1]})),))
    (tmp_path / "index.html").write_text("mine")
    for refused in (lambda: terminal.check_writable(tmp_path, "report"), lambda: report.write(page, tmp_path)):
        with pytest.raises(
            ValueError, match=r"index\.html is not of a report that cadmus-probe wrote, .*; choose another"
        ):
            refused()
    assert (tmp_path / "index.html").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    terminal.check_writable(tmp_path / "new" / "out", "report")
    assert not (tmp_path / "new").exists(), "work that fails would leave an empty folder"
    for _ in range(2):
        terminal.check_writable(tmp_path / "out", "report")
        assert "A page" in report.write(page, tmp_path / "out").read_text()


def test_a_mixture_without_compare_has_a_page_of_completion_and_state(tmp_path: Path) -> None:
    """In place of an older report: what that had and this has not is gone."""
    mixture = Mixture("registers", (Component(Register()),))
    assert mixture.width <= FIRST.width
    model = save_untrained(tmp_path / "run", mixture)
    out = tmp_path / "page"
    with artifacts.new_folder(out, "report") as partial:
        artifacts.write_bytes(partial / "tables" / "figure1.csv", b"x,y\n")
        artifacts.write_bytes(partial / "index.html", b"old")
    page = model_page.make(ModelReportConfig(model, **SMALLEST), out).read_text()
    names = {path.stem for path in (out / "tables").glob("*.csv")}
    assert {"completion", "state", "training"} <= names
    assert not names & {"figure1", "figure2"}
    assert "The model completes these shares of held-out programs (95 % intervals): register" in page
    assert re.search(rf"\d of {len(VARIABLES)} variables (is|are) claimed over all tokens", page)
