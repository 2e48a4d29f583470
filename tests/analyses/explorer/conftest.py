"""A page of a small trained model, a browser, and a tab for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analyses.explorer import build, payload, readings, weights
from cadmus.models.model import Model
from cadmus.training import checkpoint
from tests.analyses.explorer import browser as browsers

PROGRAM = "3A4Bab+7="


@pytest.fixture(scope="session")
def small_model() -> Model:
    """A trained model, as a page computes it."""
    return weights.rounded(checkpoint.load("cadmus-micro").model)


@pytest.fixture(scope="session")
def small_readings(small_model: Model) -> list[readings.Reading]:
    """Its probes, of few programs."""
    return readings.fit(small_model, checkpoint.load("cadmus-micro").mixture, 150)


@pytest.fixture(scope="session")
def page_file(small_model: Model, small_readings: list[readings.Reading], tmp_path_factory: Any) -> Path:
    """Its page, with a preset whose title is hostile."""
    preset = {"title": "<b>One</b> finding", "words": "</script><i>words</i>", "hash": "#p=34%2B7%3D&t=2&l=0"}
    roles = [{"layer": 0, "head": 1, "kind": "operand", "mass": 0.5, "baseline": 0.25}]
    content = payload.assembled(small_model, "a model", "0", small_readings, {"presets": [preset], "heads": roles})
    path = tmp_path_factory.mktemp("explorer") / "explorer.html"
    path.write_text(build.html("A <title>", {**content.data, "program": PROGRAM}, content.tensors), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser."""
    with browsers.browser() as running:
        yield running


@pytest.fixture
def tab(chromium: Any, page_file: Path) -> Iterator[browsers.Tab]:
    """The page, opened; in the end it must have complained of nothing, and asked nobody for anything."""
    with browsers.tab(chromium) as opened:
        yield opened.open(page_file)
        opened.check()
