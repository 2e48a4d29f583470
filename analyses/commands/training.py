"""The commands that train a model and measure what it completes: `train`, `eval`."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import Annotated

import typer

from analyses.commands.options import Device, Run, Seed
from analyses.commands.process import say
from analyses.commands.tables import Json, print_beside, print_table
from analyses.commands.terminal import check_table_path, check_writable, paragraphs, progress_bars, save_table
from cadmus import DEFAULT_MODEL

training = typer.Typer()

RecipeName = Annotated[str, typer.Option("--recipe", help="A recipe that ships with the package, or a TOML file.")]
Mixture = Annotated[str | None, typer.Option(help="In place of the recipe's: a mixture's name, or a TOML file.")]
EvalMixture = Annotated[
    str | None, typer.Option("--mixture", help="In place of the model's own: a mixture's name, or a TOML file.")
]
Steps = Annotated[int | None, typer.Option(help="In place of the recipe's: optimizer steps.", min=1)]
Layers = Annotated[int | None, typer.Option(help="In place of the recipe's: layers of the model.", min=1)]
Width = Annotated[int | None, typer.Option(help="In place of the recipe's: width, 32 for each head.", min=32)]
Precision = Annotated[
    str | None,
    typer.Option(help="bf16, fp32, or auto: what the device is fast at; a run that goes on keeps its own."),
]
Start = Annotated[str | None, typer.Option(help="Begin with the weights of this model: a folder, or one that ships.")]
TrainSeed = Annotated[int | None, typer.Option(help="In place of the recipe's: seed of all that is random.", min=0)]


@training.command(
    help=paragraphs(
        """
        Train a model by a recipe and say what it completes.

        Example: cadmus-probe train --recipe first --out runs/first

        A recipe (TOML) names a mixture of program families, a model and how it is trained; options take the place of
        what it says. Recipes that ship: first (two to four minutes on two cores), compute (comparisons, subroutines and
        the stack, a quarter of an hour with bfloat16), micro (the small model that ships), mini and further (the large
        one, on a GPU), finish (its last minutes), ordinary (as micro, on programs whose truth is destroyed), dynamics
        (small, with snapshots, for cadmus-probe dynamics) and base (25 M parameters, a GPU). Interrupted or killed, the
        same command goes on from its last state (one a minute, at least); of a finished model it says what that
        completes. Writes model.safetensors (HookedTransformer's names and shapes), training.json and manifest.json to
        the folder, and prints the completion accuracy on held-out programs, decided by the machine.

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
    as_json: Json = False,
) -> None:
    from cadmus.corpora.corpus import load
    from cadmus.programs.mixture import load as load_mixture
    from cadmus.runtime.devices import resolve_device
    from cadmus.training.completion import evaluate
    from cadmus.training.distributed import processes, rank
    from cadmus.training.recipe import load as load_recipe
    from cadmus.training.recipe import train_recipe, with_changes

    if corpus is not None and mixture is not None:
        raise ValueError("--corpus is of a mixture already; leave out --mixture")
    recipe = with_changes(
        load_recipe(name),
        mixture=None if mixture is None else load_mixture(mixture),
        steps=steps,
        layers=layers,
        width=width,
        seed=seed,
        precision=precision,
        start=start,
    )
    stored = None if corpus is None else load(corpus)
    if stored is not None:
        recipe = with_changes(recipe, mixture=stored.mixture)
    out = out or Path("runs") / recipe.name
    resolve_device(device)  # ValueError, before any work, where it does not exist
    check_writable(out, "model")
    with processes(device) as place, progress_bars(visible=rank() == 0) as progress:
        note = say if rank() == 0 else (lambda text: None)
        trained = train_recipe(recipe, out, corpus=stored, device=place, workers=workers, progress=progress, note=note)
    if trained is None:  # one of several processes, and not the first
        return
    trained.model.to(place)
    with progress_bars() as progress:
        rows = evaluate(trained.model, trained.mixture, programs=500, seed=recipe.train.seed, progress=progress)
    _print_accuracies(rows, as_json)
    print_beside(str(out), as_json)


@training.command(
    "eval",
    help=paragraphs(
        """
        Say what a trained model completes: per family, on held-out programs and every out-of-distribution set.

        Example: cadmus-probe eval (of the model that ships), or cadmus-probe eval runs/first

        A completion counts where the machine finds the whole program true and it has its family's form; beside it how
        often it is true at all, and how often it begins with the family's own answer. Intervals are 95 % (Wilson).
        For induce, generalizes says how often the algorithm found holds on fresh inputs. Models that were trained on
        different mixtures are compared on one: --mixture default.
        """
    ),
)
def evaluate_run(
    run: Run = DEFAULT_MODEL,
    mixture: EvalMixture = None,
    programs: Annotated[int, typer.Option(help="Held-out programs per family and split.", min=1)] = 1000,
    out: Annotated[Path | None, typer.Option(help="Also write the table here, as .csv or .parquet.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    import pandas as pd

    from cadmus.programs.mixture import load as load_mixture
    from cadmus.runtime.devices import resolve_device
    from cadmus.training import checkpoint
    from cadmus.training.completion import evaluate
    from cadmus.training.config import check_fits

    check_table_path(out)
    trained = checkpoint.load(run)
    measured_on = trained.mixture if mixture is None else load_mixture(mixture)
    check_fits(measured_on, trained.model.cfg)
    trained.model.to(resolve_device(device))
    with progress_bars() as progress:
        rows = evaluate(trained.model, measured_on, programs=programs, seed=seed, progress=progress)
    if out is not None:  # first: what is printed may find no reader
        save_table(
            pd.DataFrame([row.to_dict() for row in rows]).assign(mixture=measured_on.name, run=trained.fingerprint), out
        )
    _print_accuracies(rows, as_json)
    if out is not None:
        print_beside(str(out), as_json)


def _print_accuracies(rows: list, as_json: bool) -> None:
    """Print completion accuracies, rows of `cadmus.training.completion`, as a table."""
    cells = [("family", "programs", "completion accuracy", "true at all", "own answer", "generalizes", "prompts", "")]
    for row in rows:
        interval = f"{row.accuracy:.3f} [{row.low:.3f}, {row.high:.3f}]" if row.n else ""
        shares = ("" if isnan(share) else f"{share:.3f}" for share in (row.true_rate, row.canonical, row.generalizes))
        note = f"{row.too_long:,} programs left out: longer than the model's context" if row.too_long else ""
        cells.append((row.family, row.split, interval, *shares, f"{row.n:,}", note))
    print_table(cells, [row.to_dict() for row in rows], as_json)
