"""`cadmus-probe data`: build, describe, sample and compare training distributions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analyses.commands.tables import Json, print_beside, print_table
from analyses.commands.terminal import (
    check_table_path,
    check_writable,
    paragraphs,
    progress_bars,
    save_table,
    write_page,
)

data = typer.Typer(
    help="Build, describe, sample and compare training distributions.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Source = Annotated[str, typer.Argument(help="A mixture (a name or a TOML file) or the folder of a corpus.")]
Seed = Annotated[int, typer.Option(help="Seed of the programs drawn.", min=0)]
PerFamily = Annotated[int, typer.Option(help="Programs measured of each family.", min=1000)]


@data.command(
    help=paragraphs(
        """
        Build a corpus of a mixture: distinct true-programs, split by text, in shards that numpy opens.

        Example: cadmus-probe data build default --programs 1000000 --out data/default

        The outcome depends on mixture, number and seed alone. What is interrupted goes on where it stopped when the
        command is run again. Shards are uint8 [n, width] .npy files of token ids; manifest.json says what they hold.
        """
    )
)
def build(
    mixture: Annotated[str, typer.Argument(help="A mixture that ships with the package, or a TOML file.")],
    out: Annotated[Path, typer.Option(help="The folder for the corpus.")],
    programs: Annotated[
        int | None, typer.Option(help="Programs of the corpus; the mixture's own number where left out.", min=1)
    ] = None,
    seed: Seed = 0,
    workers: Annotated[int | None, typer.Option(help="Processes; one per core where left out.", min=1)] = None,
    as_json: Json = False,
) -> None:
    import joblib

    from cadmus.corpora.build import build as make
    from cadmus.programs.mixture import load

    mix = load(mixture)
    size = programs or mix.programs
    if not size:
        raise ValueError(f"mixture {mix.name!r} does not say how many programs; pass --programs")
    check_writable(out, "corpus")
    workers = workers or joblib.cpu_count()
    with progress_bars() as progress:
        corpus = make(mix, size, seed, folder=out, workers=workers, progress=progress)
    rows = [("family", "programs", "draws per program")]
    rows += [(name, f"{n:,}", f"{corpus.repetition[name]:.2f}") for name, n in corpus.counts.items()]
    records = [
        {"family": name, "programs": n, "draws_per_program": corpus.repetition[name]}
        for name, n in corpus.counts.items()
    ]
    print_table([*rows, ("all", f"{len(corpus):,}", "")], records, as_json)
    for name, members in corpus.out_of_distribution.items():
        print_beside(f"out of distribution: {name} ({len(members):,} programs, none in the corpus)", as_json)
    print_beside(str(out), as_json)


@data.command(
    help=paragraphs(
        """
        Measure a mixture or a corpus and write a page about it: families, distributions, properties with intervals.

        Example: cadmus-probe data describe paper --out reports/paper

        Beside index.html lie report.md, figures/ (PNG) and tables/ (CSV, Parquet).
        """
    )
)
def describe(
    source: Source,
    out: Annotated[Path | None, typer.Option(help="The folder for the page; reports/NAME where left out.")] = None,
    programs: PerFamily = 20_000,
    seed: Seed = 0,
) -> None:
    from analyses.studies.distribution.page import make
    from analyses.studies.distribution.study import DistributionConfig

    config = DistributionConfig(source=source, programs=programs, seed=seed)
    write_page(make, config, out or Path("reports") / _page_name(source))


def _page_name(source: str) -> str:
    """The name of the page about a mixture or corpus: one for each path, dots and folders kept; a path that ends in a
    folder without a name, such as `..`, is named as the folder that it is."""
    path = Path(source.removesuffix(".toml"))
    if not path.name.strip("."):
        path = Path(source).resolve()
    return "--".join(part.strip("/\\:") for part in path.parts) or "--"


@data.command(
    help=paragraphs(
        """
        Print the knobs of the families: what a mixture may set, the defaults, and what turning each does.

        Example: cadmus-probe data knobs register
        """
    )
)
def knobs(
    families: Annotated[list[str] | None, typer.Argument(help="Families; all where left out.")] = None,
    as_json: Json = False,
) -> None:
    from cadmus.programs.families import FAMILIES
    from cadmus.programs.parts.family import knobs as knobs_of

    for name in families or []:
        if name not in FAMILIES:
            raise ValueError(f"unknown family {name!r}; there are {', '.join(FAMILIES)}")
    records = [
        {"family": name, "knob": knob.name, "default": knob.default, "effect": knob.doc}
        for name in families or FAMILIES
        for knob in knobs_of(FAMILIES[name]).values()
    ]
    rows = [(str(row["family"]), row["knob"], repr(row["default"]), row["effect"]) for row in records]
    print_table([("family", "knob", "default", "effect"), *rows], records, as_json)


@data.command(
    help=paragraphs(
        """
        Print programs, one a line: family, program, and where a model must decide (what follows in brackets).

        Example: cadmus-probe data sample default --family compare --split test -n 5

        From a mixture, programs are drawn; from a corpus, taken. Splits other than train are in no corpus.
        """
    )
)
def sample(
    source: Source,
    family: Annotated[list[str] | None, typer.Option(help="Only this family; may be given more than once.")] = None,
    n: Annotated[int, typer.Option("-n", help="Programs of each family.", min=1)] = 5,
    split: Annotated[
        str | None, typer.Option(help="train, validation, test or test_skeleton; train where left out.")
    ] = None,
    out_of_distribution: Annotated[str | None, typer.Option(help="An out-of-distribution set, by name.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    from analyses.studies.distribution.samples import take

    samples = take(source, family or [], n, split, out_of_distribution, seed)
    rows = [("family", "program", "decisions")]
    rows += [(name, text, "  ".join(decisions)) for name, text, decisions in samples]
    print_table(rows, [dict(zip(rows[0], taken, strict=True)) for taken in samples], as_json)


@data.command(
    help=paragraphs(
        """
        Compare two mixtures or corpora: properties side by side with intervals, and how far the second lies from the
        first.

        Example: cadmus-probe data compare first default --family compare

        A star marks properties whose intervals lie apart. Divergences are of instructions (atoms) and of their pairs
        and triples (compounds), with the floor that two halves of one sample reach.
        """
    )
)
def compare(
    a: Source,
    b: Annotated[str, typer.Argument(help="Another one.")],
    family: Annotated[list[str] | None, typer.Option(help="Only this family; may be given more than once.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the table here, as .csv or .parquet.")] = None,
    programs: PerFamily = 20_000,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    from analyses.studies.distribution.comparison import compare as measure
    from analyses.studies.distribution.comparison import comparison_rows
    from analyses.studies.distribution.study import DistributionConfig, open_source

    check_table_path(out)
    configs = [DistributionConfig(source=source, programs=programs, seed=seed) for source in (a, b)]
    with progress_bars() as progress:
        progress("draw", 0.0, f"{a}, {b}")
        first, second = map(open_source, configs)
        progress("draw", 1.0, f"{a}, {b}")
        table = measure(first, second, families=family or None, seed=seed, progress=progress)
    if out is not None:  # first: what is printed may find no reader
        save_table(table, out)
    print_table(comparison_rows(table), table.to_dict("records"), as_json)
    if out is not None:
        print_beside(str(out), as_json)
