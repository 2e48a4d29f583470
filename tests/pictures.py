"""Pictures of the pages, for reports/screenshots: `python -m tests.pictures` (make pictures), with a table of them.

The report is the committed one, the documentation what `make docs` built; the explorer is made here, which takes half a
minute, or taken from the file that is named: `python -m tests.pictures explorer.html`.
"""

from __future__ import annotations

import io
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image, ImageOps

from analyses.explorer.page_file import write
from cadmus import DEFAULT_MODEL
from tests.analyses.explorer import browser
from tests.pages import ROOT

FOLDER = ROOT / "reports/screenshots"
COLOURS = 128  # of a picture: a fifth of the bytes, and no difference to the eye
SCREENS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 960}},
    "phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True},
    "paper": {"viewport": {"width": 1033, "height": 704}},  # A4 at 96 dots an inch, without its margins; it lies
    "upright paper": {"viewport": {"width": 704, "height": 1033}},
}
MARGIN = 45  # of paper, in dots: 12 mm
EXCHANGE = '["set",7,7,"stack.0","0",1,"exchange","967+n00x8*"]'
EDITED = f"p={quote('967+n02x8*')}&t=9&l=1&v=stack.0&h=1.0&e={quote(EXCHANGE)}"
LOOP = f"p={quote('{41-*}9f55*1+>{2*}7f34+5->')}&t=25&l=3&v=stack.0"


@dataclass(frozen=True)
class Picture:
    """One picture: a page, as a screen of some size and colour shows it."""

    name: str
    """Of the file, without its ending."""
    says: str
    """What is seen on it."""
    page: str
    """Relative to the project, with the address's part behind the #; "explorer" is the explorer's file."""
    screen: str = "desktop"
    """Of `SCREENS`; on paper the page is laid out as it prints."""
    scheme: str = "light"
    """light or dark."""
    click: str = ""
    """What is clicked first."""
    whole: bool = False
    """The page to its end, not what the screen has room for."""


PICTURES = (
    Picture("report-desktop", "the report: its finding, its picture, four cards", "reports/index.html"),
    Picture("report-dark", "the same in the dark", "reports/index.html", scheme="dark"),
    Picture(
        "report-table", "a number followed to its row, in the table", "reports/index.html", click=".cards a.number"
    ),
    Picture("report-phone", "the report on a phone", "reports/index.html", "phone"),
    Picture("report-print", "the first sheet that it prints", "reports/index.html", "paper"),
    Picture("explorer-desktop", "a value exchanged, and the answer with it", f"explorer#{EDITED}", whole=True),
    Picture("explorer-dark", "the same in the dark", f"explorer#{EDITED}", scheme="dark"),
    Picture("explorer-long", "a program of subroutines", f"explorer#{LOOP}"),
    Picture("explorer-help", "what the keys do", f"explorer#{EDITED}", click="#show-help"),
    Picture("explorer-phone", "the explorer on a phone", f"explorer#{EDITED}", "phone"),
    Picture("explorer-print", "the first sheet that it prints", f"explorer#{EDITED}", "upright paper"),
    Picture("docs-home", "the documentation's first page", "build/docs/html/home.html"),
    Picture("docs-dark", "the tutorial in the dark", "build/docs/html/tutorial.html", scheme="dark"),
    Picture("docs-notebook", "a notebook", "build/docs/html/first-probe.html#a-probe-by-hand"),
    Picture("docs-reference", "the reference of a module", "build/docs/html/generated/api/cadmus.machine.oracle.html"),
    Picture("docs-phone", "the tutorial on a phone", "build/docs/html/tutorial.html", "phone"),
    Picture("docs-print", "the first sheet that the tutorial prints", "build/docs/html/tutorial.html", "upright paper"),
)


def take(chromium: Any, picture: Picture, explorer: Path) -> bytes:
    """The picture as PNG. Raises FileNotFoundError where its page is missing."""
    name, _, fragment = picture.page.partition("#")
    path = explorer if name == "explorer" else ROOT / name
    if not path.exists():
        raise FileNotFoundError(
            f"{name} is missing: make docs builds the documentation, cadmus-probe report --out reports the report"
        )
    with browser.tab(chromium, color_scheme=picture.scheme, **SCREENS[picture.screen]) as tab:
        if name == "explorer":
            tab.open(path, fragment)
        else:
            tab.page.goto(path.as_uri() + (f"#{fragment}" if fragment else ""))
        if "paper" in picture.screen:
            tab.page.emulate_media(media="print", color_scheme=picture.scheme)
        if picture.click:
            tab.page.locator(picture.click).first.click()
        tab.page.wait_for_timeout(300)  # fonts, and what moves when it is clicked
        tab.check()
        return tab.page.screenshot(full_page=picture.whole)


def smaller(png: bytes, margin: int = 0) -> bytes:
    """The same picture in fewer colours, with a white margin."""
    written = io.BytesIO()
    image = ImageOps.expand(Image.open(io.BytesIO(png)).convert("RGB"), margin, "white")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(written, "PNG", optimize=True)
    return written.getvalue()


def table() -> str:
    """The folder's README.md."""
    rows = [f"| [{p.name}]({p.name}.png) | {p.says} | {p.screen}, {p.scheme} |" for p in PICTURES]
    about = f"Made by `make pictures` of the report, the explorer of {DEFAULT_MODEL} and the built documentation."
    return "\n".join(["# Pictures of the pages\n", f"{about}\n", "| picture | shows | |", "|---|---|---|", *rows, ""])


def main() -> None:
    """Make all of them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, browser.browser() as chromium:
        given = [Path(name).resolve() for name in sys.argv[1:]]
        explorer = given[0] if given else write(DEFAULT_MODEL, "967+n02x8*", Path(folder) / "explorer.html")
        for picture in PICTURES:
            path = FOLDER / f"{picture.name}.png"
            path.write_bytes(smaller(take(chromium, picture, explorer), MARGIN if "paper" in picture.screen else 0))
            print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1000:.0f} kB")
    (FOLDER / "README.md").write_text(table(), encoding="utf-8")


if __name__ == "__main__":
    main()
