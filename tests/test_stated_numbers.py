"""Every number that README.md and docs/ state as a result stands in a committed table."""

from __future__ import annotations

import csv
import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.stated_numbers import Result, Tables, is_printed, results

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
CELLS = ("benchmark", "ours", "peer", "ratio", "target")  # of the table in docs/speed.md
CONSTANTS = {  # of the method, of the mixtures and of papers: said, not measured
    "95 %": "the level of intervals",
    "5 %": "the level of tests",
    "99 %": "the level of bounds over many cells",
    "0.05": "the margin of *readable* and *used*, and the level of tests",
    "0.1": "the share of false discoveries",
    "60 %": "training programs of the probes",
    "15 %": "validation programs of the probes",
    "25 %": "test programs of the probes",
    "80.2": "million programs: arXiv 2602.09112",
    "1.0": "the paper's Table 3",
    "0.96": "the paper's Table 3, induce",
    "0.92": "the paper's Table 3, random",
}


def benchmark_rows() -> list[dict[str, str]]:
    with (ROOT / "benchmarks" / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@cache
def tables(page: str, section: str) -> Tables:
    """The tables that a section's numbers are of."""
    reports = sorted((ROOT / "reports").glob("**/tables/*.csv"))
    if page == "docs/generalization.md":
        shares = Tables([ROOT / "docs" / "generalization_coverage.csv"]).numbers
        reports += sorted((ROOT / "reports" / "figure-1-mini").glob("from-*.csv"))
        return Tables(reports, np.concatenate([shares, 100 * shares]))  # its table is in percent without saying so
    if page == "docs/training.md":
        of_the_model = [path for path in reports if path.parent.parent == ROOT / "reports"]
        names = ("trials", "more_tokens", "time_to_accuracy", "learning_curve", "failures")
        trials = [ROOT / "benchmarks" / f"{name}.csv" for name in names]
        return Tables([*trials, *of_the_model], records())
    if page == "docs/speed.md":
        cells = " ; ".join(row[name] for row in benchmark_rows() for name in CELLS)
        return Tables([], [float(text) for text in re.findall(r"\d+\.\d+|\d+", cells)])
    return Tables(reports, records())


def records() -> list[float]:
    """What the records of the models that ship say: evaluations, hours, parameters and tokens in millions."""
    numbers = []
    for path in sorted((ROOT / "cadmus" / "shipped" / "models").glob("*/training.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        runs = [*record.get("before", []), record]
        for run in runs:
            numbers += [row["accuracy"] for row in run["evaluations"]]
            numbers += [run["parameters"] / 1e6, run["tokens"] / 1e6, run["device_hours"]]
        numbers.append(sum(run["tokens"] for run in runs) / 1e6)
    return numbers


def lacking(page: str, text: str) -> list[str]:
    """A line for each number of a page that no table has: where, and which."""
    lines = text.splitlines()
    return [
        f"{page}:{result.line}: {result} stands in no committed table: {lines[result.line - 1].strip()[:100]}"
        for result in results(text)
        if str(result) not in CONSTANTS and tables(page, result.section).lacking([result])
    ]


@pytest.mark.parametrize("page", PAGES)
def test_every_stated_result_stands_in_a_committed_table(page: str) -> None:
    missing = lacking(page, (ROOT / page).read_text(encoding="utf-8"))
    assert not missing, "\n".join(["make its table, or mend the number:", *missing])


def test_the_benchmarks_of_the_page_are_those_of_the_table() -> None:
    """Row by row, word by word: benchmarks/results.csv has the machine and the day beside them."""
    text = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    begin = text.index("| benchmark | ours |")
    stated = text[begin : text.index("\n\n", begin)].splitlines()[2:]
    recorded = []
    for row in benchmark_rows():
        cells = " | ".join(row[name] for name in CELLS)
        recorded.append(re.sub(r" +", " ", f"| {cells} |"))
        assert row["machine"], row
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", row["date"]), row
    assert stated == recorded, "docs/speed.md and benchmarks/results.csv differ; change both"


def test_ratios_are_those_of_both_sides() -> None:
    """Where a row's two sides begin with a number of one unit, the ratio is theirs, as far as they are printed."""
    checked = 0
    for row in benchmark_rows():
        sides = [re.search(r"(\d+(?:\.\d+)?) ?(M|k)?\b", row[name].rpartition("`")[2]) for name in ("ours", "peer")]
        ratio = re.match(r"(\d+(?:\.\d+)?) (x|%)", row["ratio"])
        odd = ("MiB" in row["ours"], "Muon" in row["ours"], "generator" in row["peer"])  # begin with other numbers
        if ratio is None or None in sides or any(odd):
            continue
        low, high = quotient([match[0] for match in sides], [match[2] for match in sides])
        value = float(ratio[1]) / (100 if ratio[2] == "%" else 1)
        half = 0.5 * 10.0 ** -len(ratio[1].partition(".")[2]) / (100 if ratio[2] == "%" else 1)
        inverse = (1 / high, 1 / low)
        assert any(a <= value + half and value - half <= b for a, b in ((low, high), inverse)), row
        checked += 1
    assert checked >= 12


def quotient(texts: list[str], units: list[str | None]) -> tuple[float, float]:
    """The least and the most that the quotient of two printed numbers can be."""
    bounds = []
    for text, unit in zip(texts, units, strict=True):
        number = text.split()[0].rstrip("Mk")
        scale = {"M": 1e6, "k": 1e3, None: 1.0}[unit]
        half = 0.5 * 10.0 ** -len(number.partition(".")[2])
        bounds.append(((float(number) - half) * scale, (float(number) + half) * scale))
    return bounds[0][0] / bounds[1][1], bounds[0][1] / bounds[1][0]


# --- the check itself ------------------------------------------------------------------------------------------------


PAGE = """# A page

Of 500 programs 0.93 [0.92,
0.94] are right, 12 % of them at once; 3 x faster than `0.5`, torch 2.13, arXiv 2602.09112, [a link](x-0.7.md), 1.2.3.

## Another

- −0.25 beyond .5
| 41 M | 0.97 |
<!-- table: X -->
| 0.111 |
<!-- end of table -->

```
0.222
```
"""


def test_what_is_a_result() -> None:
    stated = [(result.section, result.line, str(result)) for result in results(PAGE)]
    assert stated == [
        ("", 3, "0.93 [0.92, 0.94]"),
        ("", 4, "12 %"),
        ("", 4, "3 x"),
        ("Another", 8, "-0.25"),
        ("Another", 8, ".5"),
        ("Another", 9, "0.97"),
    ]


def test_an_interval_stands_in_the_row_of_its_score(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("name,score,low,high,seed\na,0.934,0.9249,0.9351,7\nb,0.5,0.4,0.94,8\n")
    made = Tables([tmp_path / "a.csv"])

    def holds(*texts: str, unit: str = "") -> bool:
        return not made.lacking([Result("", 1, 1, texts, unit)])

    assert holds("0.93", "0.92", "0.94")
    assert not holds("0.936")
    assert not holds("0.93", "0.40", "0.94"), "the ends are of another row"
    assert not holds("7.0"), "a seed is no result"
    assert holds("93", unit="%")
    assert not holds("93")
    assert holds("-0.93", "-0.94", "-0.92")
    assert is_printed(made.numbers, "0.5").any()


def test_a_number_without_a_table_is_named_with_its_line() -> None:
    (line,) = lacking("README.md", "## Probing\n\nIt reads 0.1234567 of all.\n")
    assert line == "README.md:3: 0.1234567 stands in no committed table: It reads 0.1234567 of all."
