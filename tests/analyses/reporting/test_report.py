"""Pages of a report: what a reader sees of tables, what opens a page, and where its links lead."""

from __future__ import annotations

import html.parser
import re
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from analyses.reporting import report
from analyses.reporting.report import Card, Report, Section

SCORES = pd.DataFrame({"variable": ["depth", "reg.a"], "role": ["all", "loaded"], "score": ["0.50 [0.40, 0.60]"] * 2})


def plot() -> Figure:
    figure = Figure()
    figure.subplots().plot([1, 2], label="line")
    return figure


def page(tmp_path: Path, **fields: object) -> str:
    """A page with a section of each kind."""
    sections = (
        Section("scores", "Scores", ("Read `reg.a` < 1: 0.50 [0.40, 0.60].",), table=SCORES, display_table=SCORES),
        Section("curve", "A curve", figure=plot(), caption="It rises.", alt="A line from 1 to 2."),
    )
    made_report = Report("A page", ("At depth 0.50 [0.40, 0.60].", "And more."), sections, {"command": "x"}, **fields)
    return report.write(made_report, tmp_path).read_text()


class Structure(html.parser.HTMLParser):
    """The ids, links, headings and landmarks of a page, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.headings: list[int] = []
        self.tags: list[str] = []
        self.bare: list[str] = []  # images without a text, heads of tables without a scope
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.tags.append(tag)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [values["href"] or ""] if tag == "a" else []
        self.headings += [int(tag[1])] if re.fullmatch(r"h\d", tag) else []
        if (tag == "img" and not values.get("alt")) or (tag == "th" and "scope" not in values):
            self.bare.append(self.get_starttag_text() or "")


def test_cells_without_a_value_are_empty_on_the_page_and_in_markdown(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"word": pd.array(["a|b", None], "str"), "share": [float("nan"), 0.5], "note": [None, "x"], 3: [1, 2]}
    )
    section = Section("one", "One", table=pd.DataFrame({"x": [1]}), display_table=table)
    report.write(Report("A page", ("found",), (section,)), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| word | share | note | 3 |\n| --- | --- | --- | --- |\n| a\\|b |  |  | 1 |\n|  | 0.5 | x | 2 |" in text
    written = (tmp_path / "index.html").read_text()
    assert "<th scope=row></th><td>0.5</td><td>x</td><td>2</td>" in written
    assert "nan" not in re.sub(r"(?s)<(style|script)>.*?</\1>", "", written).lower()


def test_every_link_of_a_page_leads_somewhere_and_every_id_is_one_of_a_kind(tmp_path: Path) -> None:
    card = Card("Reads", "1 of 2", "Best 0.50 [0.40, 0.60].", "scores")
    structure = Structure(page(tmp_path, finding="Of depth 0.50 [0.40, 0.60].", cards=(card,)))
    assert len(set(structure.ids)) == len(structure.ids)
    anchors = [link for link in structure.links if link.startswith("#")]
    assert {link[1:] for link in anchors} <= set(structure.ids)
    files = [link for link in structure.links if not link.startswith("#")]
    assert len(files) == 4  # the figure as SVG and PNG, the table as CSV and Parquet
    assert all((tmp_path / link).is_file() for link in files)


def test_a_page_is_laid_out_for_those_who_do_not_see_it(tmp_path: Path) -> None:
    structure = Structure(page(tmp_path, finding="Found.", cards=(Card("Reads", "1", "One."),)))
    assert {"header", "main", "nav"} <= set(structure.tags)
    assert structure.headings[0] == 1
    assert structure.headings.count(1) == 1
    assert set(structure.headings) == {1, 2}
    assert not structure.bare


def test_the_first_sentence_opens_a_page_without_a_finding_and_its_first_section_is_open(tmp_path: Path) -> None:
    written = page(tmp_path)
    assert '<p class="finding">At depth <a class="number" href="#scores--depth">0.50 [0.40, 0.60]</a>.</p>' in written
    assert "<li>And more.</li>" in written
    assert '<details class="section" id="scores" open>' in written
    assert '<details class="section" id="curve">' in written


def test_text_is_shown_as_text_and_code_as_code(tmp_path: Path) -> None:
    written = page(tmp_path, coming=("the rest",))
    assert "Read <code>reg.a</code> &lt; 1" in written
    assert "Still being measured: the rest." in written
    text = (tmp_path / "report.md").read_text()
    assert "Read `reg.a` < 1: 0.50 [0.40, 0.60]." in text
    assert "![A line from 1 to 2.](figures/curve.png)" in text


def test_columns_beyond_those_that_matter_are_folded_not_left_out(tmp_path: Path) -> None:
    section = Section("one", "One", display_table=SCORES, columns=("variable", "score"))
    written = report.write(Report("A page", ("found",), (section,)), tmp_path).read_text()
    assert '<th scope="col" class="more">role</th>' in written
    assert '<td class="more">loaded</td>' in written
    assert '<th scope="col">score</th>' in written
    with pytest.raises(ValueError, match="table one has no column 'no'; it has variable, role, score"):
        report.write(Report("A page", (), (Section("one", "", display_table=SCORES, columns=("no",)),)), tmp_path)


def test_two_sections_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two sections are called one; give each a name of its own"):
        Report("A page", (), (Section("one", "One"), Section("one", "Two")))
    with pytest.raises(ValueError, match="two sections are called one"):
        Report("A page", (), (Section("one", "One"),), overview=Section("one", "Two"))


def test_the_same_report_gives_the_same_files(tmp_path: Path) -> None:
    page(tmp_path / "a")
    page(tmp_path / "b")
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert Path("figures/curve.svg") in files
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_a_figure_has_text_as_text_and_a_dark_scheme(tmp_path: Path) -> None:
    page(tmp_path)
    svg = (tmp_path / "figures" / "curve.svg").read_text()
    assert "prefers-color-scheme:dark" in svg
    assert ">1.0</text>" in svg
    assert "<dc:date>" not in svg
