"""Every study has the same files with the same entry points, so that one who knows one of them knows all."""

from __future__ import annotations

import importlib
from pathlib import Path

from analyses import studies


def test_a_study_is_a_run_a_summary_and_a_page() -> None:
    names = [path.parent.name for path in Path(studies.__path__[0]).glob("*/__init__.py")]
    assert len(names) >= 6
    for name in names:
        for module, function in (("study", "run"), ("summary", "summary"), ("page", "make"), ("page", "sections")):
            assert callable(getattr(importlib.import_module(f"analyses.studies.{name}.{module}"), function)), name
