"""The page about a training distribution: families, how they are spread, measured properties, what is held out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from analyses.reporting import report
from analyses.studies.distribution import figures, study
from analyses.studies.distribution.study import DistributionConfig, DistributionResults, Source
from analyses.studies.distribution.summary import summary
from analyses.studies.distribution.tables import MAX_VALUE
from cadmus.machine import tokens
from cadmus.programs.parts.family import knobs
from cadmus.programs.parts.statements import Computed
from cadmus.runtime import artifacts
from cadmus.runtime.progress import Progress, no_progress

EXAMPLES = 4  # programs of each family that the page lists
MAX_EXAMPLE_LENGTH = 44  # tokens of such a program

# the properties that the page lists, and under which head
HEADS = {
    "length": "tokens",
    "skeleton_entropy": "skeleton entropy",
    "zipf_slope": "Zipf exponent",
    "token_entropy": "token entropy",
    "trigram_entropy": "trigram entropy",
    "lempel_ziv": "Lempel-Ziv",
    "value_coverage": "distinct values",
    "depth": "depth",
    "read_distance": "read distance",
    "live_share": "live stores",
    "definition_after_use": "defined after use",
    "distinct_programs": "distinct programs",
    "behavioural_duplicates": "behavioural duplicates",
    "pair_coverage": "pair coverage",
}


def make(config: DistributionConfig, out: Path | str, progress: Progress = no_progress) -> Path:
    """Measure and write the page, its figures and tables to `out`; returns the page's path."""
    results = study.run(config, progress)
    title = f"The programs of {results.source.name}"
    page = report.Report(title, summary(results), sections(results), provenance(results))
    return report.write(page, out)


def provenance(results: DistributionResults) -> dict[str, str]:
    """How the tables were made."""
    source = results.source
    record = artifacts.provenance()
    texts = {
        "command": f"cadmus-probe data describe {source.name}",
        "mixture": f"{source.mixture.name}; {source.mixture.fingerprint}",
    }
    if source.corpus is not None:
        texts["corpus"] = f"{len(source.corpus):,} programs, seed {source.corpus.seed}; {source.corpus.fingerprint}"
    sample_size = max(map(len, source.samples.values()))
    return {
        **texts,
        "sample": f"up to {sample_size:,} programs per family, seed {results.config.seed}",
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        "git": record["git"] or "not a checkout",
    }


def sections(results: DistributionResults) -> tuple[report.Section, ...]:
    """The sections of the page; those without data are left out."""
    candidates = (
        _families(results.source),
        _distributions(results.distributions),
        _properties(results.properties),
        _instructions(results.instructions),
        _out_of_distribution(results.out_of_distribution),
        _numbers(results.source),
        _knobs(results.source),
        _meanings(results.properties),
    )
    return tuple(section for section in candidates if section is not None)


def _families(source: Source) -> report.Section:
    shares = source.shares
    rows = []
    for name, programs in source.samples.items():
        texts = [text for text in tokens.decode(programs[: 5 * EXAMPLES]) if len(text) <= MAX_EXAMPLE_LENGTH][:EXAMPLES]
        row = {"family": name, "share": f"{shares[name]:.1%}"}
        if source.corpus is not None:
            row["programs"] = f"{source.corpus.counts[name]:,}"
            row["draws per program"] = f"{source.corpus.repetition[name]:.2f}"
        rows.append({**row, "examples": " ".join(f"[{text}]" for text in texts)})
    table = pd.DataFrame(rows)
    text = "The table gives each family's share and a few short programs of the sample."
    if source.corpus is not None:
        text += " Draws per program: how many eligible draws each kept program took; duplicates were taken out."
    return report.Section("families", "Families", (text,), table=table, display_table=table)


def _distributions(table: pd.DataFrame) -> report.Section:
    return report.Section(
        "distributions",
        "How programs are spread, family by family",
        (
            "The panels show, from left to right, the number of tokens; the integers that computing instructions "
            f"leave on top of the stack (from -{MAX_VALUE} to {MAX_VALUE}); the greatest stack depth; and how often "
            "the k-th most frequent skeleton (digits written as 0) occurs.",
        ),
        figure=figures.distributions(table),
        caption="Shares are of the family's programs (values: of the values). Both axes on the right are logarithmic.",
        alt=f"Four panels for each of {table.family.nunique()} families: histograms of length, values and stack depth, "
        "and the falling curve of skeleton frequencies by rank.",
        table=table,
    )


def _properties(table: pd.DataFrame) -> report.Section:
    columns = {
        family: {head: _cell(part.set_index("property").loc[name]) for name, head in HEADS.items()}
        for family, part in table.groupby("family", sort=False)
    }
    cells = pd.DataFrame(columns).rename_axis("property").reset_index()
    return report.Section(
        "properties",
        "Measured properties",
        (
            "Each cell is a value and half the width of its 95 % interval (delete-a-group jackknife over 20 groups "
            "of programs; the table beside the page has the bounds). A dash stands where the property has no "
            "meaning. Counts of distinct things hold for this sample size.",
        ),
        table=table,
        display_table=cells.rename(columns=lambda name: name.replace("_", " ")),
    )


def _meanings(table: pd.DataFrame) -> report.Section:
    meanings = table.drop_duplicates("property")[["property", "unit", "doc"]]
    names = meanings.property.map(lambda name: HEADS.get(name, name.replace("_", " ")))
    display_table = meanings.assign(property=names).rename(columns={"doc": "what it is"})
    return report.Section("meanings", "What the properties are", table=meanings, display_table=display_table)


def _cell(row: pd.Series, digits: int | None = None) -> str:
    """`12.3 ± 0.4`: a value and half the width of its interval."""
    if np.isnan(row.value):
        return "–"
    if digits is None:
        digits = 0 if abs(row.value) >= 100 else 1 if abs(row.value) >= 20 else 2
    half = (row.high - row.low) / 2
    return f"{row.value:.{digits}f}" + ("" if np.isnan(half) else f" ±\N{NO-BREAK SPACE}{half:.{digits}f}")


def _instructions(table: pd.DataFrame) -> report.Section:
    return report.Section(
        "instructions",
        "Instructions in use",
        ("Each cell is the share that one of the 65 instructions has of the tokens of a family's programs.",),
        figure=figures.instructions(table),
        caption="Logarithmic shades; empty: never.",
        alt=f"A map of {table.token.nunique()} instructions by {table.family.nunique()} families, coloured by share.",
        table=table,
    )


def _numbers(source: Source) -> report.Section | None:
    rows = []
    for family in source.mixture.families:
        if not isinstance(family, Computed):
            continue
        numbers = family.numbers
        values = np.arange(numbers.low, numbers.high + 1)
        counts = numbers.counts
        low, high = numbers.range
        rows.append(
            {
                "family": family.name,
                "instructions": " ".join(map(str, numbers.lengths)),
                "values asked for": f"{numbers.low} … {numbers.high}",
                "values that can be reached": f"{low} … {high}",
                "rarest": f"{values[counts.argmin()]}: {counts.min():,} expressions",
                "commonest": f"{values[counts.argmax()]}: {counts.max():,} expressions",
            }
        )
    if not rows:
        return None
    text = (
        "Values are drawn first, each as often as any other, then an expression with that value. So the few "
        "expressions of a rare value come again and again; a corpus holds each once, and says how many draws that "
        "took."
    )
    table = pd.DataFrame(rows)
    return report.Section("numbers", "Expressions behind the numbers", (text,), table=table, display_table=table)


def _knobs(source: Source) -> report.Section:
    rows = []
    for start, (_, part) in enumerate(source.mixture.parts):
        phase = {"phase": start} if source.mixture.phases else {}
        for component in part.components:
            values = asdict(component.family)
            rows += [
                {
                    **phase,
                    "family": component.family.name,
                    "knob": knob.name,
                    "value": values[knob.name],
                    "default": knob.default,
                    "effect": knob.doc,
                }
                for knob in knobs(type(component.family)).values()
            ]
    table = pd.DataFrame(rows).astype({"value": str, "default": str})
    hold_out = source.mixture.hold_out
    rules = "; ".join(f"{rule} {getattr(hold_out, rule)}" for rule in hold_out.rules) or "nothing"
    return report.Section(
        "knobs",
        "What is set",
        (f"These knobs are not at their defaults; the whole table lies beside the page. Held out: {rules}.",),
        table=table,
        display_table=table[table.value != table.default].drop(columns=["default"]),
    )


def _out_of_distribution(table: pd.DataFrame) -> report.Section | None:
    if table.empty:
        return None
    return report.Section(
        "out_of_distribution",
        "Out-of-distribution sets",
        (
            "Training never sees these sets. Atom divergence measures how differently instructions are used, compound "
            "divergence how differently they are combined (arXiv 1912.09713), both relative to the family's training "
            "programs; the floor is what two halves of one sample reach.",
        ),
        table=table,
        display_table=pd.DataFrame([_ood_row(part) for _, part in table.groupby("set", sort=False)]),
    )


def _ood_row(table: pd.DataFrame) -> dict[str, str]:
    """One set in a row: its divergences, each with its floor."""
    row = table[["set", "family", "unlike training by"]].iloc[0].to_dict()
    floors = table[["within_a", "within_b"]].max(axis=1)
    for (_, divergence), floor in zip(table.iterrows(), floors, strict=True):
        row[divergence.property.replace("_", " ")] = f"{_cell(divergence, 3)} (floor {floor:.3f})"
    return row
