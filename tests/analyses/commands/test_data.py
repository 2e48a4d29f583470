"""Where `cadmus-probe data` writes what it is not told to write elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from analyses.commands.data import _page_name

DOTS = [".", "..", "./", "../..", "./.", "mine/..", "mine/.", "/", "", ".toml"]


@pytest.mark.parametrize("source", [*DOTS, "first", "mine/wide.toml", "../corpus", "/data/corpus", "corpus/"])
def test_a_page_has_a_folder_of_its_own_in_reports(source: str, tmp_path: Path, monkeypatch) -> None:
    """Neither reports/ itself nor anything around it."""
    home = tmp_path / "home" / "work"
    (home / "mine").mkdir(parents=True)
    monkeypatch.chdir(home)
    reports = home / "reports"
    assert (reports / _page_name(source)).resolve().parent == reports.resolve()


def test_a_folder_has_one_page_by_whichever_dots_it_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _page_name(".") == _page_name(str(tmp_path)) == _page_name("mine/..")
    assert _page_name("..") == _page_name(str(tmp_path.parent))
    assert _page_name(".") != _page_name(tmp_path.name), "a mixture of its name has another page"
