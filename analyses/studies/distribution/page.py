"""The page about a training distribution: families, how they are spread, measured properties, what is held out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from analyses.reporting import report
from analyses.studies.distribution import figures
from analyses.studies.distribution.study import ALL, Source, measure
from cadmus.corpora import held_out
from cadmus.corpora.build import OUT_OF_DISTRIBUTION
from cadmus.machine import tokens
from cadmus.programs import mixture
from cadmus.programs.parts.family import knobs
from cadmus.programs.parts.statements import Computed
from cadmus.properties.divergence import divergence
from cadmus.runtime import artifacts
from cadmus.runtime.progress import Progress

EXAMPLES = 4  # programs shown of each family

# the properties that the page shows, and under which head
SHOWN = {
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


def describe(source: Source, out: Path, seed: int = 0, stage: Progress | None = None) -> Path:
    """Measure a source and write a page about it to `out`; returns the page's path."""
    measured = measure(source, seed, stage)
    sections = (
        _families(source),
        _distributions(source),
        _properties(measured),
        _instructions(source),
        *_out_of_distribution(source, seed),
        *_numbers(source),
        _knobs(source),
        _meanings(measured),
    )
    return report.write(
        report.Report(f"The programs of {source.name}", _summary(source, measured), sections, _about(source, seed)), out
    )


def _summary(source: Source, measured: pd.DataFrame) -> tuple[str, ...]:
    whole = measured[measured.family == ALL].set_index("property").value
    what = f"{len(source.corpus):,} programs" if source.corpus is not None else "A mixture"
    planned = (
        f" (a corpus of {source.mixture.programs:,} programs)"
        if source.corpus is None and source.mixture.programs
        else ""
    )
    return (
        f"{what}{planned} of {len(source.samples)} families, each program true: it leaves only true values.",
        f"Over all families, programs have {whole['length']:.1f} tokens, and a token carries "
        f"{whole.token_entropy:.2f} bits, {whole.trigram_entropy:.2f} given the two before.",
        f"The measurements rest on up to {max(map(len, source.samples.values())):,} programs of each family.",
    )


def _families(source: Source) -> report.Section:
    shares = source.shares
    rows = []
    for name, programs in source.samples.items():
        texts = [text for text in tokens.decode(programs[: 5 * EXAMPLES]) if len(text) <= 44][:EXAMPLES]
        row = {"family": name, "share": f"{shares[name]:.1%}"}
        if source.corpus is not None:
            row["programs"] = f"{source.corpus.counts[name]:,}"
            row["draws per program"] = f"{source.corpus.repetition[name]:.2f}"
        rows.append({**row, "examples": " ".join(f"[{text}]" for text in texts)})
    table = pd.DataFrame(rows)
    text = "Each family with its share and a few programs of the sample (short ones)."
    if source.corpus is not None:
        text += " Draws per program: how many eligible draws each kept program took; duplicates were taken out."
    return report.Section("families", "Families", (text,), table=table, shown=table)


def _distributions(source: Source) -> report.Section:
    table = figures.distributions(source.samples)
    return report.Section(
        "distributions",
        "How programs are spread, family by family",
        (
            "From left to right: the number of tokens; the integers that computing instructions leave on top of the "
            "stack (out to -60 and 60); the greatest stack depth; how often the k-th most frequent skeleton (digits "
            "written as 0) occurs.",
        ),
        figure=figures.draw_distributions(table),
        caption="Shares are of the family's programs (values: of the values). Both axes on the right are logarithmic.",
        table=table,
    )


def _properties(measured: pd.DataFrame) -> report.Section:
    columns = {
        family: {head: _cell(part.set_index("property").loc[name]) for name, head in SHOWN.items()}
        for family, part in measured.groupby("family", sort=False)
    }
    shown = pd.DataFrame(columns).rename_axis("property").reset_index()
    return report.Section(
        "properties",
        "Measured properties",
        (
            "A value and half the width of its 95 % interval (delete-a-group jackknife over 20 groups of programs; the "
            "table beside the page has the bounds). A dash: the property has no meaning there. Counts of distinct "
            "things are at this sample size.",
        ),
        table=measured,
        shown=shown.rename(columns=lambda name: name.replace("_", " ")),
    )


def _meanings(measured: pd.DataFrame) -> report.Section:
    about = measured.drop_duplicates("property")[["property", "unit", "doc"]]
    names = about.property.map(lambda name: SHOWN.get(name, name.replace("_", " ")))
    shown = about.assign(property=names).rename(columns={"doc": "what it is"})
    return report.Section("meanings", "What the properties are", table=about, shown=shown)


def _cell(row: pd.Series, digits: int | None = None) -> str:
    if np.isnan(row.value):
        return "–"
    if digits is None:
        digits = 0 if abs(row.value) >= 100 else 1 if abs(row.value) >= 20 else 2
    half = (row.high - row.low) / 2
    return f"{row.value:.{digits}f}" + ("" if np.isnan(half) else f" ±\N{NO-BREAK SPACE}{half:.{digits}f}")


def _instructions(source: Source) -> report.Section:
    table = figures.instructions({**source.samples, ALL: source.everything})
    return report.Section(
        "instructions",
        "Instructions in use",
        ("How often each of the 65 instructions stands in a family's programs, as a share of their tokens.",),
        figure=figures.draw_instructions(table),
        caption="Logarithmic shades; white: never.",
        table=table,
    )


def _numbers(source: Source) -> tuple[report.Section, ...]:
    rows = []
    for family in source.mixture.families:
        if not isinstance(family, Computed):
            continue
        numbers = family.numbers
        values, counts, (low, high) = np.arange(numbers.low, numbers.high + 1), numbers.counts, numbers.range
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
        return ()
    text = (
        "Values are drawn first, each as often; then an expression with that value. So the few expressions of a rare "
        "value come again and again: a corpus holds each once, and says how many draws that took."
    )
    table = pd.DataFrame(rows)
    return (report.Section("numbers", "Expressions behind the numbers", (text,), table=table, shown=table),)


def _knobs(source: Source) -> report.Section:
    rows = []
    for start, (_, part) in enumerate(source.mixture.parts):
        for component in part.components:
            values = asdict(component.family)
            for knob in knobs(type(component.family)).values():
                row = {
                    "family": component.family.name,
                    "knob": knob.name,
                    "value": values[knob.name],
                    "default": knob.default,
                }
                rows.append({**({"phase": start} if source.mixture.phases else {}), **row, "effect": knob.doc})
    table = pd.DataFrame(rows).astype({"value": str, "default": str})
    turned = table[table.value != table.default].drop(columns=["default"])
    hold_out = source.mixture.hold_out
    held = "; ".join(f"{rule} {getattr(hold_out, rule)}" for rule in hold_out.rules) or "nothing"
    return report.Section(
        "knobs",
        "What is set",
        (f"The knobs that are not at their defaults; the whole table lies beside the page. Held out: {held}.",),
        table=table,
        shown=turned,
    )


def _out_of_distribution(source: Source, seed: int) -> tuple[report.Section, ...]:
    rows, shown = [], []
    for one in source.mixture.out_of_distribution:
        programs = held_out.out_of_distribution(source.mixture, one, OUT_OF_DISTRIBUTION, seed)
        trained = source.samples.get(one.family.name, source.everything)
        n = min(len(trained), len(programs))
        far = divergence(trained[:n], programs[:n], seed=seed)
        about = {
            "set": one.name,
            "family": one.family.name,
            "unlike training by": f"the hold-out's {one.held_out}" if one.held_out else _difference(source, one),
        }
        rows.append(far.assign(**about))
        far["floor"] = far[["within_a", "within_b"]].max(axis=1)
        far = far.set_index("property")
        cells = {name.replace("_", " "): f"{_cell(row, 3)} (floor {row.floor:.3f})" for name, row in far.iterrows()}
        shown.append({**about, **cells})
    if not rows:
        return ()
    text = (
        "Sets that training never sees. Atom divergence: how differently instructions are used; compound divergence: "
        "how differently they are combined (arXiv 1912.09713), from the family's training programs, with the floor "
        "that two halves of one sample reach."
    )
    table = pd.concat(rows, ignore_index=True)
    return (
        report.Section(
            "out_of_distribution", "Out-of-distribution sets", (text,), table=table, shown=pd.DataFrame(shown)
        ),
    )


def _difference(source: Source, one: mixture.OutOfDistribution) -> str:
    trained = {family.name: family for family in source.mixture.families}.get(one.family.name)
    if trained is None:
        return "its family"
    return ", ".join(f"{k} = {v}" for k, v in asdict(one.family).items() if v != getattr(trained, k))


def _about(source: Source, seed: int) -> dict[str, str]:
    made = artifacts.provenance()
    about = {
        "command": f"cadmus-probe data describe {source.name}",
        "mixture": f"{source.mixture.name}; {source.mixture.fingerprint}",
    }
    if source.corpus is not None:
        about["corpus"] = f"{len(source.corpus):,} programs, seed {source.corpus.seed}; {source.corpus.fingerprint}"
    return {
        **about,
        "sample": f"up to {max(map(len, source.samples.values())):,} programs per family, seed {seed}",
        "versions": ", ".join(f"{name} {version}" for name, version in made["versions"].items()),
        "git": made["git"] or "not a checkout",
    }
