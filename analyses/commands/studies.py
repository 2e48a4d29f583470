"""The commands that study a trained model, or several: `report`, `reports`, `paper`, `alternatives`, `dynamics`,
`generalization`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analyses.commands.options import Device, Out, Programs, Run, Seed
from analyses.commands.terminal import paragraphs, write_page
from cadmus import DEFAULT_MODEL

studies = typer.Typer()


@studies.command(
    help=paragraphs(
        """
        Everything about a trained model on one HTML page: what it completes, which of the machine's state can be read
        out of it, what of that it uses, and the paper's figures. With --quick a first page is there within a minute.

        Example: cadmus-probe report --quick (of the model that ships), or cadmus-probe report runs/first

        The page opens with one sentence, one picture and four numbers; it appears as soon as anything is measured and
        grows with every part. Beside index.html lie report.md, figures/ (SVG, PNG), tables/ (CSV, Parquet), and parts/,
        from which finished parts are read when the report is made again. The parts alone are made by cadmus-probe
        eval, probe, intervene and paper. Several runs, or folders of reports, are set side by side on one page, and
        reports that are missing are made beneath it: cadmus-probe report report-a runs/b.
        """
    )
)
def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help="A folder that cadmus-probe train wrote, or a model that ships with the package; several, or folders "
            f"of their reports, to compare them. None: {DEFAULT_MODEL}.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder for the page, its figures and tables. None: report-RUN, comparison-RUN-RUN."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small samples and few cells, for a first look.")] = False,
    programs: Annotated[
        int | None, typer.Option(help="Programs probed, of skeletons that no training saw (20,000).", min=200)
    ] = None,
    eval_programs: Annotated[
        int | None, typer.Option(help="Held-out programs completed per family and split (500).", min=1)
    ] = None,
    reach: Annotated[int | None, typer.Option(help="X and Y of Figure 1 lie in -REACH..REACH (40).", min=1)] = None,
    cell_programs: Annotated[int | None, typer.Option(help="Programs of Figure 1 for each X and Y (5).", min=1)] = None,
    number_programs: Annotated[int | None, typer.Option(help="Programs of Figure 2 (4,000).", min=100)] = None,
    pairs: Annotated[
        int | None, typer.Option(help="Pairs of programs per variable that is exchanged (200).", min=20)
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(help="Measure only this: completion, state, interventions or paper; repeat for more."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    from analyses.studies.model_report import comparison, page
    from analyses.studies.model_report.study import PARTS, QUICK, ModelReportConfig
    from cadmus.training import checkpoint

    sizes = {
        "programs": programs,
        "eval_programs": eval_programs,
        "reach": reach,
        "cell_programs": cell_programs,
        "number_programs": number_programs,
        "pairs": pairs,
    }
    given = {name: size for name, size in sizes.items() if size is not None}
    fields = {**(QUICK if quick else {}), **given, "parts": tuple(part or PARTS), "seed": seed, "device": device}
    configs = [ModelReportConfig(run, **fields) for run in runs or [DEFAULT_MODEL]]
    if len(configs) == 1:
        folder = out or Path(f"report-{configs[0].name}")
        write_page(page.make, configs[0], folder)
    else:
        for config in configs:
            checkpoint.load(config.run)  # before the first is measured: are they there?
        folder = out or Path(f"comparison-{'-'.join(config.name for config in configs)}")
        write_page(comparison.make, configs, folder)


@studies.command(
    help=paragraphs(
        """
        List all reports of a folder on one page, all-reports.html, and link their pages to one another.

        Example: cadmus-probe reports reports

        Reports are looked for in the folder and two levels beneath it. Those that are made in it later are added.
        """
    )
)
def reports(
    folder: Annotated[Path, typer.Argument(help="A folder of reports.")] = Path(),
) -> None:
    from analyses.reporting import library

    print(library.link(folder))


@studies.command(
    help=paragraphs(
        """
        Measure a model as the paper does: its Table 3 (completion), Figure 1 (the plane of X and Y) and Figure 2 (both
        numbers, token by token), on one page.

        Example: cadmus-probe paper cadmus-mini --out my-page

        Figure 1: for every X and Y in -40..40, ten programs that compute both and that training never saw; the model
        is right where its next token is the relation that holds. The trained square is dashed. Figure 2: probes of both
        numbers at each token and layer, beside the exact best guess from the prefix.
        """
    )
)
def paper(
    run: Run = DEFAULT_MODEL,
    out: Out = Path("paper"),
    reach: Annotated[int, typer.Option(help="X and Y lie in -REACH..REACH.", min=1)] = 40,
    programs: Annotated[int, typer.Option(help="Programs for each X and Y.", min=1)] = 10,
    number_programs: Annotated[int, typer.Option(help="Programs of Figure 2.", min=100)] = 5000,
    eval_programs: Annotated[int, typer.Option(help="Held-out programs per family and split.", min=1)] = 1000,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    from analyses.studies.paper.page import make
    from analyses.studies.paper.study import PaperConfig

    config = PaperConfig(
        run=run,
        eval_programs=eval_programs,
        reach=reach,
        programs=programs,
        number_programs=number_programs,
        seed=seed,
        device=device,
    )
    write_page(make, config, out)


@studies.command(
    help=paragraphs(
        """
        Does the probe compute the state, or the model represent it? The same probes retrained on the states of eight
        other machines at graded distance (Jin & Rinard, arXiv 2305.11169).

        Example: cadmus-probe alternatives --out my-alternatives
        """
    )
)
def alternatives(
    run: Run = DEFAULT_MODEL,
    out: Out = Path("alternatives"),
    programs: Programs = 20_000,
    machines: Annotated[int, typer.Option(help="Alternative machines.", min=1)] = 8,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    from analyses.studies.alternatives.page import make
    from analyses.studies.alternatives.study import AlternativesConfig

    config = AlternativesConfig(run=run, programs=programs, machines=machines, seed=seed, device=device)
    write_page(make, config, out)


@studies.command(
    help=paragraphs(
        """
        When does each variable become readable, before or after the behaviour is right? Probes over the snapshots of
        runs that differ in their seeds.

        Example: for seed in 0 1 2 3 4; do cadmus-probe train --recipe dynamics --seed $seed --out
        runs/dynamics/$seed; done; cadmus-probe dynamics runs/dynamics/*

        At every snapshot: completion accuracy per family and the best site's probe score per variable, for the
        machine and for an alternative one. Their correlation is measured within snapshots over the seeds, and as lead
        or lag.
        """
    )
)
def dynamics(
    runs: Annotated[list[str], typer.Argument(help="Folders that cadmus-probe train wrote, with snapshots.")],
    out: Out = Path("dynamics"),
    programs: Programs = 3000,
    eval_programs: Annotated[int, typer.Option(help="Held-out programs completed per family.", min=1)] = 300,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    from analyses.studies.dynamics.page import make
    from analyses.studies.dynamics.study import DynamicsConfig

    config = DynamicsConfig(runs=tuple(runs), programs=programs, eval_programs=eval_programs, seed=seed, device=device)
    write_page(make, config, out)


@studies.command(
    help=paragraphs(
        """
        Which property of the training programs made the models of a sweep generalize? Regressions of every response on
        the measured properties of each model's own corpus, and the sweep's hypotheses, answered one by one.

        Example: cadmus-probe generalization runs/sweeps/diversity --out my-generalization

        Reads the table of a sweep. Beside the mixed model stand cluster-robust errors and the wild cluster bootstrap;
        cells that are left out are predicted, missing measurements bounded; does the inner state predict accuracy out
        of distribution beyond accuracy in distribution? docs/generalization.md explains the page.
        """
    )
)
def generalization(
    sweep: Annotated[str, typer.Argument(metavar="SWEEP_FOLDER", help="The folder of a sweep.")],
    out: Out = Path("generalization"),
    predictor: Annotated[
        list[str] | None,
        typer.Option(
            help="A property, factor or response to regress on, beside those of the hypotheses; repeat for more."
        ),
    ] = None,
    beside: Annotated[
        str,
        typer.Option(help="Of a sweep with Figure 1: another model's, tables/figure1.parquet of its report."),
    ] = "",
    draws: Annotated[int, typer.Option(help="Draws of the bootstrap and of permutations.", min=99)] = 4999,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap and of permutations.", min=0)] = 0,
) -> None:
    from analyses.studies.generalization.page import make
    from analyses.studies.generalization.study import GeneralizationConfig

    config = GeneralizationConfig(sweep=sweep, predictors=tuple(predictor or ()), draws=draws, seed=seed, beside=beside)
    write_page(make, config, out)
