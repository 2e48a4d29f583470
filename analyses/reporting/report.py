"""Results as something to read: one self-contained HTML page, the same as Markdown, PNG figures, CSV and Parquet."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from cadmus.runtime import artifacts
from cadmus.statistics import clustered

_DPI = 160


@dataclass(frozen=True)
class Section:
    """A part of a report."""

    name: str
    """What its figure and table are called in figures/ and tables/."""
    title: str
    """The heading."""
    paragraphs: tuple[str, ...] = ()
    """The text beneath the heading."""
    figure: Figure | None = None
    """Saved as PNG, and part of the page."""
    caption: str = ""
    """The text beneath the figure."""
    table: pd.DataFrame | None = None
    """Saved whole, as CSV and Parquet."""
    display_table: pd.DataFrame | None = None
    """What stands on the page of the table, formatted for reading."""


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


def write(report: Report, folder: Path | str) -> Path:
    """Write index.html, report.md, figures/ and tables/ to `folder`, all or nothing; returns the page's path.

    Raises ArtifactError where `folder` holds files of these names that do not belong to an earlier report.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analyses.reporting"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals["markdown"] = _markdown
    environment.globals["cells"] = _cells
    images = {section.name: _png(section.figure) for section in report.sections if section.figure is not None}
    encoded = {name: base64.b64encode(image).decode() for name, image in images.items()}
    with artifacts.new_folder(folder, "report", title=report.title, about=report.about) as partial:
        for name, image in images.items():
            artifacts.write_bytes(partial / "figures" / f"{name}.png", image)
        for section in report.sections:
            if section.table is not None:
                tables = partial / "tables"
                tables.mkdir(exist_ok=True)
                section.table.to_csv(tables / f"{section.name}.csv", index=False)
                section.table.to_parquet(tables / f"{section.name}.parquet", index=False)
        for template, name in (("report.html.j2", "index.html"), ("report.md.j2", "report.md")):
            text = environment.get_template(template).render(report=report, images=encoded)
            artifacts.write_bytes(partial / name, text.encode())
    return Path(folder) / "index.html"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white")
    return buffer.getvalue()


def _cells(table: pd.DataFrame) -> list[list[str]]:
    """The rows of a table as text, empty where a value is missing."""
    return [["" if pd.isna(value) else str(value) for value in row] for row in table.itertuples(index=False)]


def _markdown(table: pd.DataFrame) -> str:
    rows = [list(map(str, table.columns)), ["---"] * len(table.columns), *_cells(table)]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)


def number(value: float) -> str:
    """Format a number for a table, `0.93`: empty where it was not measured, and never -0.00."""
    return "" if pd.isna(value) else f"{round(value, 2) + 0.0:.2f}"


def with_interval(score: float, low: float, high: float) -> str:
    """Format a score with its interval for a table or a sentence, `0.93 [0.91, 0.95]`."""
    return f"{number(score)} [{number(low)}, {number(high)}]"


def intervals(table: pd.DataFrame, name: str) -> list[str]:
    """Format each row's `name` with the interval `name`_low .. `name`_high."""
    return [with_interval(*row) for row in table[list(clustered.interval_names(name))].itertuples(index=False)]
