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
from analyses.terminal import check_table_path, check_writable, paragraphs, print_rows, save_table, stages

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    epilog="Exit code: 0 done, 2 error (one line on standard error), 130 interrupted.",
)
app.add_typer(data, name="data")


@app.callback(
    help=paragraphs(
        """
        Train small transformers on programs of the Cadmus machine, and read the machine's state out of them.

        Start with [bold]cadmus-probe report[/bold]: it trains a tiny model (two minutes on two cores), probes it and
        writes one HTML page.
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


Mixture = Annotated[str, typer.Option(help="A mixture that ships with the package, or a TOML file.")]
Steps = Annotated[int, typer.Option(help="Optimizer steps; each reads 512 programs.", min=1)]
Layers = Annotated[int, typer.Option(help="Layers of the model.", min=1)]
Width = Annotated[int, typer.Option(help="Width of the residual stream, 32 for each head.", min=32)]
Seed = Annotated[int, typer.Option(help="Seed of the corpus, the initial weights and the programs measured on.", min=0)]


@app.command(
    help=paragraphs(
        """
        Train a model on a mixture of program families and say what it completes.

        Example: cadmus-probe train --mixture first --steps 850 --out runs/first

        Writes model.safetensors (HookedTransformer's names and shapes), training.json and manifest.json to the folder,
        and prints the completion accuracy on held-out programs, decided by the machine.
        """
    )
)
def train(
    mixture: Mixture = "first",
    out: Annotated[Path, typer.Option(help="The folder for the model.")] = Path("runs/first"),
    steps: Steps = 850,
    layers: Layers = 4,
    width: Width = 128,
    seed: Seed = 0,
) -> None:
    from cadmus.evaluate import evaluate
    from cadmus.mixture import load
    from cadmus.train import TrainConfig, train_from_scratch

    chosen = load(mixture)
    cfg, config = _architecture(layers, width, chosen.width), TrainConfig(steps=steps, seed=seed)
    check_writable(out)
    with stages() as stage:
        trained = train_from_scratch(chosen, cfg, config, out, stage=stage)
        rows = evaluate(trained.model, chosen, programs=500, seed=seed, progress=partial(stage, "evaluate"))
    _print_accuracies(rows)
    print(out)


@app.command(
    "eval",
    help=paragraphs(
        """
        Say what a trained model completes: per family, on held-out programs and every out-of-distribution set.

        Example: cadmus-probe eval runs/first

        A completion counts where the machine finds the whole program true and it has its family's form; beside it how
        often it is true at all, and how often it begins with the family's own answer. Intervals are 95 % (Wilson).
        For induce, generalizes says how often the algorithm found holds on fresh inputs.
        """
    ),
)
def evaluate_run(
    run: Annotated[Path, typer.Argument(help="The folder of a model that cadmus-probe train wrote.")],
    programs: Annotated[int, typer.Option(help="Held-out programs per family and split.", min=1)] = 1000,
    out: Annotated[Path | None, typer.Option(help="Also write the table here, as .csv or .parquet.")] = None,
    seed: Seed = 0,
) -> None:
    import pandas as pd

    from cadmus import checkpoint
    from cadmus.evaluate import evaluate

    check_table_path(out)
    trained = checkpoint.load(run)
    with stages() as stage:
        rows = evaluate(
            trained.model, trained.mixture, programs=programs, seed=seed, progress=partial(stage, "evaluate")
        )
    _print_accuracies(rows)
    if out is not None:
        table = pd.DataFrame([row.to_dict() for row in rows]).assign(run=trained.fingerprint)
        print(save_table(table, out))


def _print_accuracies(rows: list) -> None:
    """Completion accuracies, rows of `cadmus.evaluate`, as a table."""
    cells = [("family", "programs", "completion accuracy", "true at all", "own answer", "generalizes", "prompts", "")]
    for row in rows:
        interval = f"{row.accuracy:.3f} [{row.low:.3f}, {row.high:.3f}]" if row.n else ""
        shares = ("" if isnan(share) else f"{share:.3f}" for share in (row.true_rate, row.canonical, row.generalizes))
        left_out = f"{row.too_long:,} programs left out: longer than the model's context" if row.too_long else ""
        cells.append((row.family, row.split, interval, *shares, f"{row.n:,}", left_out))
    print_rows(cells)


@app.command(
    help=paragraphs(
        """
        Train a tiny model, probe it, and write one HTML page about it (under five minutes on two cores).

        Example: cadmus-probe report --out reports

        The page states the completion accuracy on held-out programs, draws how well each of two computed numbers can be
        read at every token and layer, and what the registers hold, each beside the untrained model. Beside index.html
        lie report.md, figures/ (PNG), tables/ (CSV, Parquet) and model/.
        """
    )
)
def report(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="The folder for the page, its figures and tables.")] = Path("reports"),
    run: Annotated[
        Path | None,
        typer.Option(help="Report on this model (a folder that cadmus-probe train wrote) in place of training one."),
    ] = None,
    mixture: Mixture = "first",
    steps: Steps = 850,
    layers: Layers = 4,
    width: Width = 128,
    seed: Seed = 0,
) -> None:
    from analyses.first_report import FirstReportConfig
    from analyses.first_report import run as make
    from cadmus.mixture import load
    from cadmus.train import TrainConfig

    for option in ("mixture", "steps", "layers", "width") if run is not None else ():
        if context.get_parameter_source(option).name == "COMMANDLINE":
            raise ValueError(
                f"--{option} says how to train, but --run {run} is trained already; leave out one of the two"
            )
    config = FirstReportConfig(
        mixture=mixture,
        cfg=_architecture(layers, width, load(mixture).width),
        train=TrainConfig(steps=steps, seed=seed),
        run=None if run is None else str(run),
        seed=seed,
    )
    check_writable(out)
    with stages() as stage:
        page = make(config, out, stage)
    print(page)


def _architecture(layers: int, width: int, longest: int):
    """The model of that size, with room for the mixture's programs and for completions that go astray."""
    from cadmus.model import ModelConfig

    if width % 32:
        raise ValueError(f"width = {width} must be a multiple of 32, one head each")
    n_ctx = 8 * -(-(longest + 5) // 8)
    return ModelConfig(n_layers=layers, d_model=width, n_heads=width // 32, d_head=32, d_mlp=4 * width, n_ctx=n_ctx)


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
