"""The documentation as a site, where `make docs` built it: accessible on every screen, and asks nobody for anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests import accessibility
from tests.analyses.explorer import browser
from tests.pages import ROOT

SITE = ROOT / "build/docs/html"
PAGES_OF_EACH_KIND = [
    "home.html",
    "tutorial.html",
    "howto/own-probe.html",
    "findings.html",
    "first-intervention.html",
    "generated/commands.html",
    "generated/map.html",
    "generated/api/cadmus.machine.vm.html",
]
pytestmark = [
    pytest.mark.slow,
    browser.needs_browser,
    pytest.mark.skipif(not (SITE / "home.html").exists(), reason="the site is not built here (make docs)"),
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.browser() as running:
        yield running


@accessibility.every_view
@pytest.mark.parametrize("name", PAGES_OF_EACH_KIND)
def test_axe_finds_nothing_serious(chromium: Any, name: str, device: str, scheme: str) -> None:
    with accessibility.view(chromium, device, scheme) as tab:
        tab.page.goto((SITE / name).as_uri())
        assert accessibility.findings(tab.page) == []
        tab.check()


@pytest.mark.parametrize("name", PAGES_OF_EACH_KIND)
def test_a_phone_scrolls_wide_things_by_themselves(chromium: Any, name: str) -> None:
    with accessibility.view(chromium, "phone", "light") as tab:
        tab.page.goto((SITE / name).as_uri())
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= accessibility.WIDTHS["phone"]
