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

_DPI = 160


@dataclass(frozen=True)
class Section:
    """A part of a report. `table` is saved whole; `shown`, formatted for reading, stands on the page."""

    name: str
    title: str
    paragraphs: tuple[str, ...] = ()
    figure: Figure | None = None
    caption: str = ""
    table: pd.DataFrame | None = None
    shown: pd.DataFrame | None = None


@dataclass(frozen=True)
class Report:
    """A page: what was found (`summary`, statement by statement), section by section, and how it was made (`about`:
    name -> text)."""

    title: str
    summary: tuple[str, ...]
    sections: tuple[Section, ...]
    about: dict[str, str] = field(default_factory=dict)


def write(report: Report, folder: Path | str) -> Path:
    """Write index.html, report.md, figures/ and tables/ to `folder`, all or nothing; returns the page's path.

    ArtifactError where `folder` holds files of these names that are of no earlier report.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analyses.reporting"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals["markdown"] = _markdown
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


def _markdown(table: pd.DataFrame) -> str:
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)


def number(value: float) -> str:
    """`0.93`: a number as it stands in a table; nothing for one that was not measured, and no -0.00."""
    return "" if pd.isna(value) else f"{round(value, 2) + 0.0:.2f}"


def with_interval(score: float, low: float, high: float) -> str:
    """`0.93 [0.91, 0.95]`: a score as it stands in a table."""
    return f"{number(score)} [{number(low)}, {number(high)}]"


def intervals(table: pd.DataFrame, name: str) -> list[str]:
    """The scores of a column `name` with the intervals of `name`_low and `name`_high."""
    return [with_interval(*row) for row in table[[name, f"{name}_low", f"{name}_high"]].itertuples(index=False)]
