"""The page in a real browser: headless Chromium, driven by playwright, which needs no download of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
TYPING = "#program"


@dataclass
class Tab:
    """A page at work, and what went wrong in it."""

    page: Any
    """playwright's page."""
    complaints: list[str] = field(default_factory=list)
    """Messages of the console and errors of scripts."""
    requests: list[str] = field(default_factory=list)
    """What was asked of anywhere but the file itself."""

    def open(self, path: Path, fragment: str = "") -> Tab:
        """Open a page's file; `fragment` is the address behind its #."""
        self.page.goto("about:blank")
        self.page.goto(path.as_uri() + (f"#{fragment}" if fragment else ""))
        self.page.wait_for_selector("body[data-ready]", state="attached")
        return self

    def type(self, program: str) -> Tab:
        """Type a program in place of what stands there."""
        self.page.fill(TYPING, program)
        return self

    def press(self, *keys: str) -> Tab:
        """Press keys, away from any field."""
        self.page.evaluate("document.activeElement.blur()")
        for key in keys:
            self.page.keyboard.press(key)
        return self

    def text(self, selector: str) -> str:
        """What stands in an element, as a person sees it."""
        return self.page.inner_text(selector)

    @property
    def view(self) -> dict[str, Any]:
        """What the page looks at."""
        return self.page.evaluate("explorer.view")

    def check(self) -> None:
        """Raise AssertionError for any complaint, and for any request."""
        assert (self.complaints, self.requests) == ([], [])


@contextmanager
def browser() -> Iterator[Any]:
    """A browser that runs, as a module's tests share it."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed (it is in the extra dev)")
    yield _chromium()


@cache
def _chromium() -> Any:
    """The one browser of this process: playwright runs once in a thread, whichever modules ask for it."""
    from playwright.sync_api import sync_playwright

    return sync_playwright().start().chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@contextmanager
def tab(chromium: Any, **settings: Any) -> Iterator[Tab]:
    """A tab of its own, 1400 pixels wide unless `settings`, playwright's, say otherwise."""
    context = chromium.new_context(**{"viewport": {"width": 1400, "height": 900}, **settings})
    opened = Tab(context.new_page())
    opened.page.on("console", lambda message: opened.complaints.append(message.text))
    opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    scheme = ("file:", "data:", "about:")
    opened.page.on("request", lambda r: None if r.url.startswith(scheme) else opened.requests.append(r.url))
    yield opened
    context.close()
