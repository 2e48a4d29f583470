"""Results as something to read: one self-contained HTML page, the same as Markdown, figures, CSV and Parquet.

A page opens with its finding: one sentence, perhaps one picture and four cards. Its contents and its sections follow,
folded until they are asked for. Numbers with an interval are linked to the table rows that hold them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from analyses.reporting import images, links
from analyses.reporting.grids import LONG, Grid, cell_html, text_cells
from analyses.reporting.images import Image
from cadmus.runtime import artifacts
from cadmus.statistics import clustered

NAVIGATION = ("<!-- reports -->", "<!-- end of reports -->")  # between these `library` writes links to other reports


@dataclass(frozen=True)
class Section:
    """A part of a report."""

    name: str
    """What its figure and table are called in figures/ and tables/, and its anchor on the page."""
    title: str
    """The heading."""
    paragraphs: tuple[str, ...] = ()
    """The text beneath the heading."""
    figure: Figure | Image | None = None
    """Saved as SVG and PNG, and part of the page."""
    caption: str = ""
    """The text beneath the figure."""
    table: pd.DataFrame | None = None
    """Saved whole, as CSV and Parquet."""
    display_table: pd.DataFrame | None = None
    """What stands on the page of the table, formatted for reading."""
    alt: str = ""
    """What is seen in the figure, for those who do not see it; empty: the caption says so."""
    columns: tuple[str, ...] = ()
    """The columns of `display_table` that matter; the others are folded until they are asked for. None: all."""
    lead: str = ""
    """What the section finds, in a few words, for the contents."""


@dataclass(frozen=True)
class Card:
    """One of a page's few numbers."""

    title: str
    """What is asked, in a word."""
    number: str
    """The answer, in a few letters: `10 of 11`."""
    text: str
    """What the number counts, in a sentence or two."""
    section: str = ""
    """The section that it rests on; empty while that is still to come."""


@dataclass(frozen=True)
class Report:
    """A page: its statements first, then section by section what they rest on."""

    title: str
    """The heading of the page."""
    summary: tuple[str, ...]
    """The statements that the page makes, in sentences."""
    sections: tuple[Section, ...]
    """What the statements rest on."""
    about: dict[str, str] = field(default_factory=dict)
    """How the page was made: name -> text. Stored in the manifest too."""
    finding: str = ""
    """The page in one sentence; empty: the first statement."""
    overview: Section | None = None
    """The page in one picture, above everything else."""
    cards: tuple[Card, ...] = ()
    """The page in a few numbers."""
    coming: tuple[str, ...] = ()
    """What is still being measured; a later page has it."""

    def __post_init__(self) -> None:
        names = [section.name for section in (*self.sections, *filter(None, [self.overview]))]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"two sections are called {', '.join(repeated)}; give each a name of its own")

    @property
    def first(self) -> str:
        """The sentence that the page opens with."""
        return self.finding or next(iter(self.summary), "")

    @property
    def statements(self) -> tuple[str, ...]:
        """The other statements."""
        return self.summary if self.finding else self.summary[1:]


def drawn(section: Section) -> Section:
    """The section with its figure drawn, so that pages written one after another draw it once."""
    return replace(section, figure=images.draw(section.figure)) if isinstance(section.figure, Figure) else section


def write(report: Report, folder: Path | str) -> Path:
    """Write index.html, report.md, figures/ and tables/ to `folder`, all or nothing; returns the page's path.

    Raises ArtifactError where `folder` holds files of these names that do not belong to an earlier report.
    """
    sections = [drawn(section) for section in (*filter(None, [report.overview]), *report.sections)]
    pictures = {section.name: section.figure for section in sections if isinstance(section.figure, Image)}
    about: dict[str, Any] = {"title": report.title, "finding": plain(report.first), "about": report.about}
    with artifacts.new_folder(folder, "report", resume=None, **about) as partial:
        for name, image in pictures.items():
            artifacts.write_bytes(partial / "figures" / f"{name}.png", image.png)
            artifacts.write_bytes(partial / "figures" / f"{name}.svg", image.svg)
        for section in sections:
            if section.table is not None:
                tables = partial / "tables"
                tables.mkdir(exist_ok=True)
                section.table.to_csv(tables / f"{section.name}.csv", index=False)
                section.table.to_parquet(tables / f"{section.name}.parquet", index=False)
        for template, name in (("report.html.j2", "index.html"), ("report.md.j2", "report.md")):
            text = _rendered(template, report, pictures)
            artifacts.write_bytes(partial / name, text.encode())
    return Path(folder) / "index.html"


def environment() -> jinja2.Environment:
    """Where templates are found and how they are filled in: HTML is escaped."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("analyses.reporting"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def _rendered(template: str, report: Report, pictures: dict[str, Image]) -> str:
    """The page by one of the two templates."""
    grids = {
        section.name: Grid.of(section.name, section.display_table, section.columns)
        for section in report.sections
        if section.display_table is not None
    }
    return (
        environment()
        .get_template(template)
        .render(
            report=report,
            images=pictures,
            grids=grids,
            titles={section.name: section.title for section in report.sections},
            rich=links.Book.of(list(grids.values())).linked,
            cell_html=cell_html,
            long=LONG,
            markdown=_markdown,
            navigation=NAVIGATION,
        )
    )


def plain(text: str) -> str:
    """A sentence as plain text: code without its backticks."""
    return text.replace("`", "")


def _markdown(table: pd.DataFrame) -> str:
    rows = [list(map(str, table.columns)), ["---"] * len(table.columns), *text_cells(table)]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)


# --- numbers in tables and sentences ---------------------------------------------------------------------------------


def number(value: float) -> str:
    """Format a number for a table, `0.93`: empty where it was not measured, and never -0.00."""
    return "" if pd.isna(value) else f"{round(value, 2) + 0.0:.2f}"


def with_interval(score: float, low: float, high: float) -> str:
    """Format a score with its interval for a table or a sentence, `0.93 [0.91, 0.95]`: alone where it has none, empty
    where it was not measured."""
    if pd.isna(score) or pd.isna(low):
        return number(score)
    return f"{number(score)} [{number(low)}, {number(high)}]"


def interval_of(row: Mapping[str, Any] | pd.Series, name: str) -> str:
    """Format a row's `name` with the interval `name`_low .. `name`_high; empty where it was not measured."""
    score = row.get(name)
    return "" if pd.isna(score) else with_interval(*(row[key] for key in clustered.interval_names(name)))


def intervals(table: pd.DataFrame, name: str) -> list[str]:
    """Format each row's `name` with the interval `name`_low .. `name`_high."""
    return [with_interval(*row) for row in table[list(clustered.interval_names(name))].itertuples(index=False)]


def listed(phrases: Sequence[str]) -> str:
    """`a, b and c`."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}" if phrases else ""


def after_colon(phrases: Sequence[str]) -> str:
    """`: a; b; c`, to follow what they are counted by; empty where there is none."""
    return f": {'; '.join(phrases)}" if phrases else ""
