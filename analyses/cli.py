"""`cadmus-probe`: parse, call, print where the results lie. Heavy packages load inside the commands that need them."""

from __future__ import annotations

import errno
import os
import sys
from functools import partial
from math import isnan
from pathlib import Path
from typing import Annotated

import typer

from analyses.data_cli import data
from analyses.study_cli import Device, Run, Seed, studies
from analyses.terminal import check_table_path, check_writable, paragraphs, print_rows, save_table, stages
from cadmus import DEFAULT_MODEL

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    epilog="Exit code: 0 done, 1 a self-test failed, 2 error (one line on standard error), 130 interrupted.",
)
app.add_typer(data, name="data")
app.add_typer(studies)


@app.callback(
    help=paragraphs(
        """
        Train small transformers on programs of the Cadmus machine, and read the machine's state out of them.

        Start with [bold]cadmus-probe report[/bold]: all that is known of the model that ships, on one HTML page (four
        minutes on two cores).
        """
    )
)
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; any place will do.")] = False,
) -> None:
    """`main` takes --debug out of the arguments, wherever it stands; it is declared here for the help."""


@app.command(
    help=paragraphs(
        """
        Run a program on the machine and explain it, token by token.

        Example: cadmus-probe vm '[3A4Bab+7=.]'

        Each row shows the stack after the token (top right), the registers in use, the fuel left, and why a NAN arose.
        A program holds 65 one-character instructions, which docs/machine.md lists. One that begins with a minus needs
        the brackets; one with quotes or backslashes is easier in a file.
        """
    )
)
def vm(
    program: Annotated[
        str | None,
        typer.Argument(help="The program, with or without square brackets around it; - reads standard input."),
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the program from a file.")] = None,
) -> None:
    from cadmus.artifacts import read_text
    from cadmus.vm import explain

    if (program is None) == (file is None):
        raise ValueError("give one program: as an argument, as --file PATH, or - for standard input")
    if file is not None:
        text = read_text(file)
    else:
        text = sys.stdin.read() if program == "-" else program
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    print(explain(text))


RecipeName = Annotated[str, typer.Option("--recipe", help="A recipe that ships with the package, or a TOML file.")]
Mixture = Annotated[str | None, typer.Option(help="In place of the recipe's: a mixture's name, or a TOML file.")]
Steps = Annotated[int | None, typer.Option(help="In place of the recipe's: optimizer steps.", min=1)]
Layers = Annotated[int | None, typer.Option(help="In place of the recipe's: layers of the model.", min=1)]
Width = Annotated[int | None, typer.Option(help="In place of the recipe's: width, 32 for each head.", min=32)]
Precision = Annotated[
    str | None,
    typer.Option(help="bf16, fp32, or auto: what the device is fast at; a run that goes on keeps its own."),
]
Start = Annotated[str | None, typer.Option(help="Begin with the weights of this model: a folder, or one that ships.")]
TrainSeed = Annotated[int | None, typer.Option(help="In place of the recipe's: seed of all that is random.", min=0)]


@app.command(
    help=paragraphs(
        """
        Train a model by a recipe and say what it completes.

        Example: cadmus-probe train --recipe first --out runs/first

        A recipe (TOML) names a mixture of program families, a model and how it is trained; options take the place of
        what it says. Recipes that ship: first (two to five minutes on two cores), micro and mini (the models that ship
        with the package), mini-next (a day), mini-gpu (the same on a GPU), ordinary (as micro, on programs whose truth
        is destroyed, for comparison), dynamics (small, with snapshots, for cadmus-probe dynamics) and base (25 M
        parameters, a GPU). Interrupted or killed, the same command goes on from its last state (one a minute, at
        least); of a finished model it says what that completes. Writes model.safetensors (HookedTransformer's names and
        shapes), training.json and manifest.json to the folder, and prints the completion accuracy on held-out programs,
        decided by the machine.

        On several GPUs: torchrun --nproc-per-node 8 -m analyses.cli train --recipe base --device cuda
        """
    )
)
def train(
    name: RecipeName = "first",
    mixture: Mixture = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Train on this corpus, which cadmus-probe data build wrote, and its mixture.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder for the model.", show_default="runs/RECIPE")] = None,
    steps: Steps = None,
    layers: Layers = None,
    width: Width = None,
    seed: TrainSeed = None,
    start: Start = None,
    precision: Precision = None,
    device: Device = "auto",
    workers: Annotated[int, typer.Option(help="Processes that draw programs; 0: the one that trains.", min=0)] = 0,
) -> None:
    from cadmus.corpus import load
    from cadmus.devices import chosen
    from cadmus.evaluate import evaluate
    from cadmus.mixture import load as load_mixture
    from cadmus.processes import processes, rank
    from cadmus.recipe import changed, follow
    from cadmus.recipe import load as load_recipe

    if corpus is not None and mixture is not None:
        raise ValueError("--corpus is of a mixture already; leave out --mixture")
    recipe = changed(
        load_recipe(name),
        **{"mixture": mixture and load_mixture(mixture), "steps": steps, "layers": layers, "width": width},
        **{"seed": seed, "precision": precision, "start": start},
    )
    stored = None if corpus is None else load(corpus)
    if stored is not None:
        recipe = changed(recipe, mixture=stored.mixture)
    out = out or Path("runs") / recipe.name
    chosen(device)  # is it there?
    check_writable(out, "model")
    with processes(device) as place, stages(shown=rank() == 0) as stage:
        note = _say if rank() == 0 else (lambda text: None)
        trained = follow(recipe, out, corpus=stored, device=place, workers=workers, stage=stage, note=note)
    if trained is None:  # one of several processes, and not the first
        return
    trained.model.to(place)
    with stages() as stage:
        rows = evaluate(
            trained.model, trained.mixture, programs=500, seed=recipe.train.seed, progress=partial(stage, "evaluate")
        )
    _print_accuracies(rows)
    print(out)


@app.command(
    "eval",
    help=paragraphs(
        """
        Say what a trained model completes: per family, on held-out programs and every out-of-distribution set.

        Example: cadmus-probe eval (of the model that ships), or cadmus-probe eval runs/first

        A completion counts where the machine finds the whole program true and it has its family's form; beside it how
        often it is true at all, and how often it begins with the family's own answer. Intervals are 95 % (Wilson).
        For induce, generalizes says how often the algorithm found holds on fresh inputs.
        """
    ),
)
def evaluate_run(
    run: Run = DEFAULT_MODEL,
    programs: Annotated[int, typer.Option(help="Held-out programs per family and split.", min=1)] = 1000,
    out: Annotated[Path | None, typer.Option(help="Also write the table here, as .csv or .parquet.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    import pandas as pd

    from cadmus import checkpoint
    from cadmus.devices import chosen
    from cadmus.evaluate import evaluate

    check_table_path(out)
    trained = checkpoint.load(run)
    trained.model.to(chosen(device))
    with stages() as stage:
        rows = evaluate(
            trained.model, trained.mixture, programs=programs, seed=seed, progress=partial(stage, "evaluate")
        )
    _print_accuracies(rows)
    if out is not None:
        table = pd.DataFrame([row.to_dict() for row in rows]).assign(run=trained.fingerprint)
        print(save_table(table, out))


def _say(text: str) -> None:
    """A line on standard error, above the progress bars."""
    print(text, file=sys.stderr, flush=True)


def _print_accuracies(rows: list) -> None:
    """Completion accuracies, rows of `cadmus.evaluate`, as a table."""
    cells = [("family", "programs", "completion accuracy", "true at all", "own answer", "generalizes", "prompts", "")]
    for row in rows:
        interval = f"{row.accuracy:.3f} [{row.low:.3f}, {row.high:.3f}]" if row.n else ""
        shares = ("" if isnan(share) else f"{share:.3f}" for share in (row.true_rate, row.canonical, row.generalizes))
        left_out = f"{row.too_long:,} programs left out: longer than the model's context" if row.too_long else ""
        cells.append((row.family, row.split, interval, *shares, f"{row.n:,}", left_out))
    print_rows(cells)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; its exit code: 2 after an error, told in one line on standard error; 130 after Ctrl-C."""
    # Read when torch loads: threads that wait for each other spin only briefly, then sleep. With libgomp's own setting
    # training took 10 times as long beside another busy process; alone it is as fast either way.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"] or ["--help"]
    try:
        code = app(arguments, prog_name="cadmus-probe", standalone_mode=False)
    except typer.exceptions.TyperException as error:  # usage: unknown options, bad values
        if debug:
            raise
        command = " ".join(_command(arguments))
        return _fail(f"{error.format_message()} (see cadmus-probe {command} --help)".replace("  ", " "))
    except (ValueError, OSError, FloatingPointError) as error:
        if debug:
            raise
        return _fail(_describe(error))
    except Exception as error:
        if debug:
            raise
        return _fail(f"{type(error).__name__}: {error} (this is a bug in cadmus-probe; --debug shows where)")
    except KeyboardInterrupt:
        exec("pass")  # else `python -m` ends by the signal where it came within exec, as in many an import
        code = 130
    if code == 130:
        print("cadmus-probe: interrupted; nothing unfinished has a final name, run the command again", file=sys.stderr)
    return code if isinstance(code, int) else 0


def _command(arguments: list[str]) -> list[str]:
    """The command that the arguments name: `train`, `data build`; nothing where they name none."""
    group, words = typer.main.get_command(app), []
    for argument in arguments:
        commands = getattr(group, "commands", {})
        if argument not in commands:
            break
        group = commands[argument]
        words.append(argument)
    return words


def _describe(error: ValueError | OSError | FloatingPointError) -> str:
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    remedy = {
        "ENOSPC": "free some space or choose another --out",
        "EDQUOT": "free some space or choose another --out",
        "EFBIG": "raise the file size limit or choose another --out",
        "EACCES": "choose a place that you may write to",
        "EPERM": "choose a place that you may write to",
        "EROFS": "choose a place that you may write to",
        "ENOTDIR": "a file stands where a folder is needed; choose another path",
        "EEXIST": "a file stands where a folder is needed; choose another path",
        "ENOENT": "check the path",
        "EISDIR": "name a file, not a folder",
    }.get(_errno_name(error), "check the path")
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror}; {remedy}"


def _errno_name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "")


def _fail(message: str) -> int:
    line = " ".join(message.split())
    print(f"cadmus-probe: error: {line}", file=sys.stderr)
    return 2


def script() -> None:
    """The console script's entry point."""
    sys.exit(main())


if __name__ == "__main__":
    script()
