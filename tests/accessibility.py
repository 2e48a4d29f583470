"""What axe, the accessibility checker, finds on a page: on a desktop and a phone, in the light and the dark."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.analyses.explorer import browser
from tests.analyses.explorer.browser import Tab

WIDTHS = {"desktop": 1400, "phone": 390}
VIEWS = [(device, scheme) for device in WIDTHS for scheme in ("light", "dark")]
every_view = pytest.mark.parametrize(("device", "scheme"), VIEWS, ids=[f"{d}-{s}" for d, s in VIEWS])


@contextmanager
def view(chromium: Any, device: str, scheme: str, **settings: Any) -> Iterator[Tab]:
    """A tab on that device, in that scheme of colours."""
    viewport = {"width": WIDTHS[device], "height": 900 if device == "desktop" else 844}
    with browser.tab(chromium, viewport=viewport, color_scheme=scheme, **settings) as tab:
        yield tab


def findings(page: Any) -> list[str]:
    """What axe calls serious or critical, a line per place: the rule, where, and why. Everything is unfolded first."""
    checker = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed (extra dev)")
    page.evaluate("document.querySelectorAll('details').forEach(details => (details.open = true))")
    options = {"resultTypes": ["violations"], "preload": False}  # of style sheets
    violations = checker.Axe().run(page, options=options).response["violations"]
    grave = [violation for violation in violations if violation["impact"] in ("serious", "critical")]
    return [f"{rule['id']}: {node['target']} {_reason(node)}" for rule in grave for node in rule["nodes"]]


def _reason(node: dict[str, Any]) -> str:
    messages = [check["message"] for kind in ("any", "all", "none") for check in node[kind]]
    return messages[0] if messages else node["html"][:100]
