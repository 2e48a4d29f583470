"""All reports of a folder: links between their pages, and an index of them."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from analyses.reporting.report import NAVIGATION, environment
from cadmus.runtime import artifacts
from cadmus.runtime.folder_lock import sole_writer

INDEX = "all-reports.html"
_MARK = "<!-- index of cadmus-probe -->"  # by which an index of ours is known
_DEPTH = 2  # folders beneath the root


@dataclass(frozen=True)
class Entry:
    """A report that lies in a folder."""

    folder: Path
    """Where it lies."""
    title: str
    """Its heading."""
    finding: str
    """What it opens with."""
    about: dict[str, str]
    """How it was made."""

    @property
    def command(self) -> str:
        """The command that made it; empty where the report does not say."""
        return next((text for name, text in self.about.items() if name.endswith("command")), "")

    @property
    def short(self) -> str:
        """Its title up to the colon."""
        return self.title.split(":")[0]


def entries(root: Path | str) -> list[Entry]:
    """The reports at a folder and beneath it, the folder's own first, then by name."""
    root = Path(root)
    patterns = ["/".join(["*"] * depth + [artifacts.MANIFEST]) for depth in range(_DEPTH + 1)]
    reports = []
    for path in sorted(path for pattern in patterns for path in root.glob(pattern)):
        try:
            manifest = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(manifest, dict) and manifest.get("kind") == "report" and (path.parent / "index.html").is_file():
            finding, about = manifest.get("finding", ""), manifest.get("about", {})
            reports.append(Entry(path.parent, manifest.get("title", path.parent.name), finding, about))
    return sorted(reports, key=lambda entry: (entry.folder != root, entry.folder.as_posix()))


def link(root: Path | str) -> Path:
    """Link the pages of all reports in a folder to one another and write an index of them; returns the index's path.

    Raises ArtifactError where the folder has no report, or a file of the index's name that is not ours.
    """
    root = Path(root)
    reports = entries(root)
    if not reports:
        raise artifacts.ArtifactError(f"{root} holds no report; make one: cadmus-probe report --out {root / 'NAME'}")
    index = root / INDEX
    if index.exists() and not _is_ours(index):
        raise artifacts.ArtifactError(f"{index} is no index that cadmus-probe wrote; move it away")
    for entry in reports:
        _set_navigation(entry, _navigation(entry, reports, index))
    rows = [{"entry": entry, "href": _relative(entry.folder / "index.html", root)} for entry in reports]
    text = environment().get_template("index.html.j2").render(rows=rows, mark=Markup(_MARK), name=root.resolve().name)
    return artifacts.write_bytes(index, text.encode())


def refresh(folder: Path | str) -> None:
    """Link anew the folder of reports that a report has just been written to, where such a folder has an index of ours.

    Raises OSError where nothing can be written there.
    """
    for root in (Path(folder), *list(Path(folder).absolute().parents)[:_DEPTH]):
        if _is_ours(root / INDEX):
            link(root)
            return


def _is_ours(index: Path) -> bool:
    return index.is_file() and _MARK.encode() in index.read_bytes()


def _navigation(entry: Entry, reports: list[Entry], index: Path) -> str:
    """The links of one page, as HTML on one line."""
    items = [Markup('<li><a href="{}">All reports</a></li>').format(_relative(index, entry.folder))]
    for other, name in zip(reports, _names(reports), strict=True):
        if other.folder == entry.folder:
            items.append(Markup('<li aria-current="page">{}</li>').format(name))
        else:
            target = _relative(other.folder / "index.html", entry.folder)
            items.append(Markup('<li><a href="{}">{}</a></li>').format(target, name))
    return str(Markup("<ul>{}</ul>").format(Markup("").join(items)))


def _names(reports: list[Entry]) -> list[str]:
    """What links to the reports say: their short titles, and their folders where two have the same."""
    shared = Counter(entry.short for entry in reports)
    return [f"{e.short}: {e.folder.resolve().name}" if shared[e.short] > 1 else e.short for e in reports]


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _set_navigation(entry: Entry, html: str) -> None:
    """Put links into a page, and the page's new checksum into its manifest; older pages have no place for them.

    A report that another run is writing is passed over: that run sets its links when it is done. So is one in a folder
    that cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(sole_writer(entry.folder))
        except (artifacts.ArtifactError, OSError):
            return
        page = entry.folder / "index.html"
        content = page.read_bytes()
        begin, end = (mark.encode() for mark in NAVIGATION)
        pattern = re.compile(re.escape(begin) + b".*?" + re.escape(end))
        linked = pattern.sub(lambda _: begin + html.encode() + end, content, count=1)
        if linked == content:
            return
        manifest = artifacts.read_json(entry.folder / artifacts.MANIFEST)
        artifacts.write_bytes(page, linked)
        manifest["files"]["index.html"] = artifacts.describe_file(page)
        artifacts.write_manifest(entry.folder, manifest)
