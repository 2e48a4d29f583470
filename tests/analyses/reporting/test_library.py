"""Reports of one folder know of each other, and what is measured once is read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from analyses.reporting import library, stored
from analyses.reporting.report import Report, Section, write
from cadmus.runtime import artifacts
from cadmus.runtime.folder_lock import sole_writer


def written(folder: Path, title: str) -> Path:
    section = Section("one", "One", table=pd.DataFrame({"x": [1]}))
    write(Report(title, (f"{title} finds <something>.",), (section,), {"command": "cadmus-probe report"}), folder)
    return folder


def test_reports_are_linked_to_one_another_and_to_an_index_of_them(tmp_path: Path) -> None:
    first, second = written(tmp_path, "First: a page"), written(tmp_path / "second", "Second & last")
    index = library.link(tmp_path)
    text = index.read_text()
    assert '<a href="index.html">First: a page</a>' in text
    assert '<a href="second/index.html">Second &amp; last</a>' in text
    assert "First: a page finds &lt;something&gt;." in text
    assert (
        '<a href="../index.html">First</a></li><li aria-current="page">Second &amp; last</li>'
        in (second / "index.html").read_text()
    )
    assert (
        '<a href="all-reports.html">All reports</a></li><li aria-current="page">First</li>'
        in (first / "index.html").read_text()
    )
    for folder in (first, second):
        artifacts.read_manifest(folder, "report")  # its checksums are those of the pages as they are now


def test_links_to_reports_of_one_title_name_their_folders(tmp_path: Path) -> None:
    for folder in ("what-it-uses", "what-it-holds", "another"):
        written(tmp_path / folder, "Another" if folder == "another" else f"A model: {folder}")
    library.link(tmp_path)
    text = (tmp_path / "another" / "index.html").read_text()
    assert ">A model: what-it-holds</a>" in text
    assert ">A model: what-it-uses</a>" in text
    assert '<li aria-current="page">Another</li>' in text


def test_linking_again_changes_nothing_and_a_new_report_is_added(tmp_path: Path) -> None:
    written(tmp_path / "a", "A")
    written(tmp_path / "b", "B")
    library.refresh(tmp_path / "b")
    assert not (tmp_path / library.INDEX).exists(), "nobody asked for an index"
    library.link(tmp_path)
    before = (tmp_path / "a" / "index.html").read_bytes()
    library.link(tmp_path)
    assert (tmp_path / "a" / "index.html").read_bytes() == before
    library.refresh(written(tmp_path / "c", "C"))
    assert '<a href="../c/index.html">C</a>' in (tmp_path / "a" / "index.html").read_text()


def test_nothing_that_is_not_ours_is_overwritten(tmp_path: Path) -> None:
    with pytest.raises(artifacts.ArtifactError, match="holds no report; make one: cadmus-probe report --out"):
        library.link(tmp_path)
    written(tmp_path / "a", "A")
    (tmp_path / library.INDEX).write_text("mine")
    with pytest.raises(artifacts.ArtifactError, match="is no index that cadmus-probe wrote; move it away"):
        library.link(tmp_path)
    assert (tmp_path / library.INDEX).read_text() == "mine"


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(page: Path) -> str:
    return (page / "index.html").read_text().partition("<!-- reports -->")[2].partition("<!-- end of reports -->")[0]


def test_a_report_that_another_run_writes_is_left_to_that_run(tmp_path: Path) -> None:
    """Between the read of its page and the write, that run could renew it: its manifest would be of another page."""
    a, b = written(tmp_path / "a", "A"), written(tmp_path / "b", "B")
    library.link(tmp_path)
    c = written(tmp_path / "c", "C")
    with sole_writer(b), ThreadPoolExecutor(1) as another_run:
        before = content(b)
        another_run.submit(library.refresh, c).result()
        assert content(b) == before
    assert ">C</a>" in names(a)
    assert 'href="b/index.html"' in (tmp_path / library.INDEX).read_text(), "it is a report all the same"
    library.refresh(b)
    assert ">C</a>" in names(b)
    for folder in (a, b, c):
        artifacts.read_manifest(folder, "report")


def test_a_run_links_the_report_that_it_holds_itself(tmp_path: Path) -> None:
    a, b = written(tmp_path / "a", "A"), written(tmp_path / "b", "B")
    before = content(a).keys()
    with sole_writer(a):
        library.link(tmp_path)
    assert ">B</a>" in names(a)
    assert ">A</a>" in names(b)
    assert content(a).keys() == before, "no lock stays, which git would see"


def test_a_report_whose_folder_takes_no_lock_is_passed_over(tmp_path: Path) -> None:
    """As in a folder that may only be read."""
    a, b = written(tmp_path / "a", "A"), written(tmp_path / "b", "B")
    (b / ".lock").mkdir()
    before = content(b)
    text = library.link(tmp_path).read_text()
    assert content(b) == before
    assert ">B</a>" in names(a)
    assert 'href="b/index.html"' in text


FOREIGN = (b"mine", b"\xff\xfe<\x00", b"")


@pytest.mark.parametrize("foreign", FOREIGN)
def test_indexes_that_are_not_ours_are_named_or_passed_over(foreign: bytes, tmp_path: Path) -> None:
    index, outer = tmp_path / "reports" / library.INDEX, tmp_path / library.INDEX
    first = written(tmp_path / "reports" / "a", "A")
    library.link(tmp_path)
    index.write_bytes(foreign)
    with pytest.raises(artifacts.ArtifactError) as caught:
        library.link(tmp_path / "reports")
    assert str(caught.value) == f"{index} is no index that cadmus-probe wrote; move it away"
    library.refresh(written(tmp_path / "reports" / "b", "B"))
    assert index.read_bytes() == foreign
    assert 'href="reports/b/index.html"' in outer.read_text(), "one farther out is ours"
    assert ">B</a>" in names(first)


def test_a_page_that_is_no_text_hinders_no_other(tmp_path: Path) -> None:
    a, b = written(tmp_path / "a", "A"), written(tmp_path / "b", "B")
    (b / "index.html").write_bytes(b"\xff\xfe")
    library.link(tmp_path)
    assert ">B</a>" in names(a)
    assert (b / "index.html").read_bytes() == b"\xff\xfe"


def test_a_measurement_is_made_once_and_again_where_it_is_damaged(tmp_path: Path) -> None:
    calls = []

    def measure() -> dict[str, pd.DataFrame]:
        calls.append(1)
        flags = pd.DataFrame({"flag": pd.Series([True, None, False], dtype=object), "neurons": [(1, 2), (), None]})
        return {"scores": flags, "empty": pd.DataFrame()}

    for _ in range(2):
        tables = stored.tables(tmp_path, "state", "abc", measure)
        assert [value if value is None else bool(value) for value in tables["scores"].flag] == [True, None, False]
        assert list(tables["scores"].neurons[0]) == [1, 2]
        assert tables["empty"].empty
    assert len(calls) == 1
    stored.tables(tmp_path, "state", "other", measure)
    (tmp_path / "state-abc" / "scores.parquet").write_bytes(b"damaged")
    stored.tables(tmp_path, "state", "abc", measure)
    stored.tables(None, "state", "abc", measure)
    assert len(calls) == 4
    assert (tmp_path / ".gitignore").read_text() == "*\n"


def test_the_code_of_a_measurement_is_that_of_its_study_without_its_pages() -> None:
    assert len({stored.code_fingerprint(), stored.code_fingerprint("state"), stored.code_fingerprint("paper")}) == 3
    assert stored.code_fingerprint("state") == stored.code_fingerprint("state")


def test_a_change_of_the_code_anywhere_is_a_change_but_of_what_only_makes_pages(tmp_path, monkeypatch) -> None:
    for package in (stored.cadmus, stored.probes):
        home = tmp_path / package.__name__
        (home / "room").mkdir(parents=True)
        monkeypatch.setattr(package, "__file__", str(home / "__init__.py"))
    fingerprints = [stored.code_fingerprint()]
    for place in ("cadmus/room/a.py", "probes/room/b.py", "probes/room/page.py"):
        (tmp_path / place).write_text("a = 1\n")
        fingerprints.append(stored.code_fingerprint())
    assert len(set(fingerprints)) == 3
    assert fingerprints[2] == fingerprints[3]
