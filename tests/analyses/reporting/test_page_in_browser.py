"""Pages at work in a real browser: tables sort, filter and unfold, links open what they lead to, phones and paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from analyses.reporting import library
from analyses.reporting.report import Card, Report, Section, write
from tests import accessibility
from tests.analyses.explorer import browser as browsers
from tests.pages import ROOT

pytestmark = [pytest.mark.slow, browsers.needs_browser]

NUMBERS = [0.5, -0.25, 10, 0.75, 2, 3, 4, 5, 6, 7]
TABLE = pd.DataFrame(
    {
        "variable": [f"reg.{name}" for name in "abcdefghij"],
        "score": [f"{number:,.2f} [-1.00, 20.00]" for number in NUMBERS[:-1]] + [""],
        "note": [f"a note of {k}" for k in range(10)],
        **{f"column {k}": ["a longer cell that needs room"] * 10 for k in range(8)},
    }
)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    figure = Figure(figsize=(9, 3))
    figure.subplots().plot([1, 2, 3])
    sections = (
        Section("first", "First", ("Text.",), figure, "A caption.", alt="A line that rises."),
        Section("scores", "Scores", table=TABLE, display_table=TABLE, columns=("variable", "score")),
    )
    cards = (Card("Reads", "1 of 10", "Best reg.c, 10.00 [-1.00, 20.00].", "scores"),)
    report = Report("A page", ("A statement.",), sections, finding="Of reg.a 0.50 [-1.00, 20.00].", cards=cards)
    return write(report, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browsers.browser() as running:
        yield running


@pytest.fixture
def tab(chromium: Any, page_file: Path) -> Iterator[browsers.Tab]:
    """The page, opened; in the end it must have complained of nothing, and asked nobody for anything."""
    with browsers.tab(chromium) as opened:
        opened.page.goto(page_file.as_uri())
        yield opened
        opened.check()


def shown_rows(page: Any) -> list[str]:
    return page.eval_on_selector_all(
        "#scores tbody tr", "rows => rows.filter(r => !r.hidden).map(r => r.cells[0].innerText)"
    )


def test_a_number_of_the_opening_opens_the_section_of_its_row(tab: browsers.Tab) -> None:
    assert not tab.page.is_visible("#scores--reg-a")
    tab.page.click(".finding a.number")
    assert tab.page.is_visible("#scores--reg-a")
    assert tab.page.evaluate("document.querySelector('#scores').open")
    colour = "getComputedStyle(document.querySelector('{}')).backgroundColor"
    marked, other = (tab.page.evaluate(colour.format(f"#scores--reg-{name}")) for name in "ab")
    assert marked != other
    tab.page.evaluate("document.querySelector('#scores').open = false")
    tab.page.click(".finding a.number")  # the address is the same as before
    assert tab.page.is_visible("#scores--reg-a")


def test_tables_sort_by_numbers_with_the_empty_last(tab: browsers.Tab) -> None:
    tab.page.click("text=Open all")
    head = tab.page.locator("#scores thead th", has_text="score")
    head.locator("button").click()
    assert shown_rows(tab.page)[:3] == ["reg.b", "reg.a", "reg.d"]
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator("button").click()
    assert shown_rows(tab.page)[0] == "reg.c"
    assert shown_rows(tab.page)[-1] == "reg.j"
    assert head.get_attribute("aria-sort") == "descending"


def test_tables_filter_and_unfold(tab: browsers.Tab) -> None:
    tab.page.click("text=Open all")
    tab.page.fill("#scores input[type=search]", "NOTE reg.h")
    assert shown_rows(tab.page) == ["reg.h"]
    tab.page.fill("#scores input[type=search]", "")
    assert len(shown_rows(tab.page)) == 10
    note = tab.page.locator("#scores thead th", has_text="note")
    assert not note.is_visible()
    tab.page.click("text=All columns")
    assert note.is_visible()
    tab.page.click("text=Close all")
    assert not tab.page.is_visible("#scores table")


def test_without_scripts_everything_is_there(chromium: Any, page_file: Path) -> None:
    with browsers.tab(chromium, java_script_enabled=False) as opened:
        opened.page.goto(page_file.as_uri())
        opened.page.click("#scores summary")
        assert opened.page.locator("#scores thead th", has_text="note").is_visible()
        assert not opened.page.is_visible("text=Open all")
        opened.check()


def test_a_phone_scrolls_tables_and_figures_by_themselves_and_says_so(chromium: Any, page_file: Path) -> None:
    with browsers.tab(chromium, viewport={"width": 390, "height": 844}) as opened:
        opened.page.goto(page_file.as_uri())
        opened.page.click("text=Open all")
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
        for place in ("#first .scroll", "#scores .scroll"):
            box = f"document.querySelector('{place}')"
            assert opened.page.evaluate(f"getComputedStyle({box}, '::before').content").endswith('see all of it"')
        assert opened.page.evaluate("(b => b.scrollWidth > b.clientWidth)(document.querySelector('#first .scroll'))")
        opened.check()


def test_a_phone_has_one_link_to_all_reports(chromium: Any, page_file: Path) -> None:
    folder = page_file.parent
    for name in ("another", "third"):
        write(Report(f"The {name}", ("A statement.",), (Section("one", "One", ("Text.",)),)), folder / name)
    library.link(folder)
    for width, links in ((390, ["All reports"]), (1400, ["All reports", "The another", "The third"])):
        with browsers.tab(chromium, viewport={"width": width, "height": 844}) as opened:
            opened.page.goto(page_file.as_uri())
            shown = [link for link in opened.page.locator("header a").all() if link.is_visible()]
            assert [link.inner_text() for link in shown] == links


def test_paper_has_every_section_and_every_column(tab: browsers.Tab) -> None:
    tab.page.emulate_media(media="print")
    assert tab.page.locator("#scores thead th", has_text="note").is_visible()
    width = "document.querySelector('#scores table').scrollWidth"
    assert tab.page.evaluate(width) <= tab.page.evaluate("document.body.clientWidth")
    assert tab.page.evaluate("document.querySelector('#first img').getBoundingClientRect().height") > 0


@accessibility.every_view
def test_axe_finds_nothing_serious(chromium: Any, page_file: Path, device: str, scheme: str) -> None:
    with accessibility.view(chromium, device, scheme) as opened:
        for path in page_file, ROOT / "reports/index.html", ROOT / "reports/all-reports.html":
            opened.page.goto(path.as_uri())
            assert accessibility.findings(opened.page) == [], path
        opened.check()


def test_axe_finds_what_is_wrong(chromium: Any) -> None:
    with browsers.tab(chromium) as opened:
        opened.page.set_content("<html lang=en><title>A page</title><img src='data:,'><p style='color: #bbb'>Pale</p>")
        assert {line.split(":")[0] for line in accessibility.findings(opened.page)} == {"image-alt", "color-contrast"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(chromium: Any, page_file: Path, scheme: str) -> None:
    """A contrast of 4.5, as WCAG asks of text."""
    with browsers.tab(chromium, color_scheme=scheme) as opened:
        opened.page.goto(page_file.as_uri())
        colours = opened.page.evaluate(
            "['--ground', '--panel', '--mark', '--text', '--soft', '--link'].map("
            "n => getComputedStyle(document.documentElement).getPropertyValue(n).trim())"
        )
        grounds, inks = colours[:3], colours[3:]
        for ground in grounds:
            for ink in inks[:1] if ground == grounds[2] else inks:
                assert contrast(ink, ground) >= 4.5, (ink, ground)


def contrast(first: str, second: str) -> float:
    """The ratio of two colours' luminances, after WCAG."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        shares = [int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4)]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)
