"""The reports that are committed: every file is the one that its manifest names, so that none was edited by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cadmus.runtime.artifacts import describe_file

REPORTS = Path(__file__).parents[1] / "reports"
MANIFESTS = sorted([*REPORTS.glob("manifest.json"), *REPORTS.glob("*/manifest.json")])
"""Of reports alone: measurements that a report keeps beneath it have manifests of their own, and no page."""


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.parent.name)
def test_the_files_of_a_committed_report_are_those_that_were_made(manifest: Path) -> None:
    files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    assert "index.html" in files
    for name, entry in files.items():
        assert describe_file(manifest.parent / name) == entry, name
