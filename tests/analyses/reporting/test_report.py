"""Pages of a report: what a reader sees of tables."""

from pathlib import Path

import pandas as pd

from analyses.reporting import report


def test_cells_without_a_value_are_empty_on_the_page_and_in_markdown(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"word": pd.array(["a|b", None], "str"), "share": [float("nan"), 0.5], "note": [None, "x"], 3: [1, 2]}
    )
    section = report.Section("one", "One", table=pd.DataFrame({"x": [1]}), display_table=table)
    report.write(report.Report("A page", ("found",), (section,)), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| word | share | note | 3 |\n| --- | --- | --- | --- |\n| a\\|b |  |  | 1 |\n|  | 0.5 | x | 2 |" in text
    page = (tmp_path / "index.html").read_text()
    assert "<td></td><td>0.5</td><td>x</td><td>2</td>" in page
    assert "nan" not in page.lower().split("</style>")[1]
