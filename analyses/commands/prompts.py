"""`cadmus-probe prompts`: the comparison task of the paper for a chat model, exported and scored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analyses.commands.options import Out, Seed
from analyses.commands.tables import Json, print_beside, print_table
from analyses.commands.terminal import check_file_path, check_writable, paragraphs

prompts = typer.Typer(
    help="The comparison task of the paper's Figure 1 for a chat model: export prompts, score replies.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)


@prompts.command(
    help=paragraphs(
        """
        Write prompts as JSON Lines: programs that compute X and Y, and the question which relation holds, in standard
        and in alternate symbols (the paper's Table 2), each with a table that explains its symbols.

        Example: cadmus-probe prompts export --limit 600 --out prompts.jsonl

        Send the model `messages` of each line, and write what it replies as JSON Lines: an object with `id` and `reply`
        (or the service's own answer under `response`). The other fields hold the right answers: keep them to yourself.
        The same options write the same file.
        """
    )
)
def export(
    out: Annotated[Path, typer.Option(help="The file for the prompts.")] = Path("prompts.jsonl"),
    alphabet: Annotated[
        list[str] | None, typer.Option(help="standard or alternate; repeat for more. None: both.")
    ] = None,
    reach: Annotated[int, typer.Option(help="X and Y lie in -REACH..REACH.", min=1)] = 40,
    programs: Annotated[int, typer.Option(help="Programs for each X and Y.", min=1)] = 10,
    limit: Annotated[
        int,
        typer.Option(
            help="At most so many programs in each alphabet, a third inside the trained square, on the diagonal beyond "
            "it, and off both; 0: all, 65,610 as the paper has them.",
            min=0,
        ),
    ] = 0,
    mixture: Annotated[str, typer.Option(help="A mixture whose compare programs these are.")] = "paper",
    seed: Seed = 0,
) -> None:
    from analyses.studies.paper.prompts import ALPHABETS, PromptsConfig
    from analyses.studies.paper.prompts import export as write

    config = PromptsConfig(tuple(alphabet or ALPHABETS), reach, programs, limit, mixture, seed)
    check_file_path(out, "the prompts", "prompts.jsonl")
    print(f"{write(config, out):,} prompts in {out}")


@prompts.command(
    help=paragraphs(
        """
        Read replies to exported prompts and draw Figure 1 of them: a page with the plane of X and Y for each alphabet,
        and how many replies could not be read, and why.

        Example: cadmus-probe prompts score prompts.jsonl replies.jsonl --out my-page

        Code fences, sentences around the symbol, other forms of the signs and the program repeated are read; a reply
        without a symbol, or with several, counts as wrong. tables/replies holds every reply beside what was read in it.
        """
    )
)
def score(
    prompts_file: Annotated[Path, typer.Argument(metavar="PROMPTS", help="What prompts export wrote.")],
    replies_file: Annotated[Path, typer.Argument(metavar="REPLIES", help="JSON Lines: id and reply.")],
    out: Out = Path("prompts-report"),
    as_json: Json = False,
) -> None:
    from analyses.studies.paper.prompts_page import make
    from analyses.studies.paper.replies import KINDS
    from cadmus.runtime.folder_lock import sole_writer

    check_writable(out, "report")
    with sole_writer(out):
        page, scores = make(prompts_file, replies_file, out)
    rows = [("symbols", "region", "right", "replies", "unreadable", "no reply")]
    for row in scores.counts.to_dict("records"):
        unreadable = sum(row[kind] for kind in KINDS)
        right = f"{row['accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" if row["replies"] else ""
        counts = (row["replies"], unreadable, row["missing"])
        rows.append((row["alphabet"], row["region"], right, *map("{:,}".format, counts)))
    print_table(rows, scores.counts.to_dict("records"), as_json)
    if scores.n_unknown:
        print_beside(f"{scores.n_unknown:,} replies name no prompt of the file, and are left out", as_json)
    print_beside(str(page), as_json)
