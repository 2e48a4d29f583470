"""The commands that study a trained model: `report`, `paper`, `probe`, `intervene`, `alternatives`, `dynamics`; and
those that study the instruments: `calibration`, `selftest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analyses.commands.options import Device, Out, Programs, Run, Seed
from analyses.commands.tables import Json, print_table
from analyses.commands.terminal import paragraphs, progress_bars, write_page
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
        Read the machine's state out of a model's activations: every site and variable, beside every control.

        Example: cadmus-probe probe --out my-probes, or with a probe of yours: cadmus-probe probe --probe
        my_probe.py:MyProbe --variable stack.0.value, or of a register where it is loaded: cadmus-probe probe --variable
        reg.a.parity --where loaded

        Thirteen variables at the residual stream before the first block and after each, registers and stack entries
        also where the machine writes, loads and uses them, for the present, past and future states, on programs of
        unseen skeletons; beside each score its interval, what the input alone gives away, the untrained model, permuted
        labels, the code length, a network and alternative machines. --full takes all variables, the sites within blocks
        and eight machines. docs/probing.md explains the columns and how to write a probe, or a variable.
        """
    )
)
def probe(
    run: Run = DEFAULT_MODEL,
    out: Out = Path("probes-report"),
    programs: Programs = 20_000,
    variable: Annotated[
        list[str] | None,
        typer.Option(help="A variable to read, or FILE.py:NAME, a function of yours; repeat for more."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="Read also at the tokens of this role alone: arose, stored, between, loaded, consumed, overwritten or "
            "decision; repeat for more."
        ),
    ] = None,
    site: Annotated[list[str] | None, typer.Option(help="A hook name to read from; repeat for more.")] = None,
    family: Annotated[list[str] | None, typer.Option(help="Only programs of this family; repeat for more.")] = None,
    offset: Annotated[
        list[int] | None, typer.Option(help="Tokens ahead of the state to read; repeat for more.")
    ] = None,
    machines: Annotated[int, typer.Option(help="Alternative machines to read the states of.", min=0)] = 2,
    probe: Annotated[
        str, typer.Option("--probe", help="FILE.py:NAME, a probe of yours in place of ours: fit(x, y), predict(x).")
    ] = "",
    full: Annotated[
        bool, typer.Option("--full", help="All variables, sites and machines: 40 minutes and 11 GB of memory.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    from analyses.studies.state.page import make
    from analyses.studies.state.study import OFFSETS, VARIABLES, StateConfig

    config = StateConfig(
        run=run,
        programs=programs,
        variables=tuple(variable or VARIABLES),
        where=tuple(where or ()),
        sites=tuple(site or ()),
        offsets=tuple(OFFSETS if offset is None else offset),
        families=tuple(family or ()),
        machines=machines,
        probe=probe,
        full=full,
        seed=seed,
        device=device,
    )
    write_page(make, config, out)


@studies.command(
    help=paragraphs(
        """
        What does a model use of the machine's state? Exchange values inside it and see whether it answers as the
        machine does then (five minutes on two cores; --quick one minute).

        Example: cadmus-probe intervene --out my-interventions, or of one variable: cadmus-probe intervene --variable
        compare.first --quick

        Pairs of programs differ in the value of one variable: a register, an operand, a number of a comparison, an
        element of a sequence, the argument of a call. The activation of one program is put into the other, at every
        block and wherever the value is made, stored, loaded or taken; the machine executes the program with that value
        edited and says what must be answered. Beside each exchange stand its controls, and what a linear probe reads.
        The page gives a verdict per variable (read, used, spent, ...), the heads that move it along the data flow, and
        for how long. Several models, such as seeds of one recipe, give a table of how many each finding holds in. What
        is finished in --out is not computed again.
        """
    )
)
def intervene(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help="Folders that cadmus-probe train wrote, or models that ship with the package; the page is about the "
            f"first. None: {DEFAULT_MODEL}.",
        ),
    ] = None,
    out: Out = Path("interventions"),
    variable: Annotated[
        list[str] | None,
        typer.Option(
            help="A variable to test: reg (any register), reg.a, stack.0, stack.1, compare.first, compare.second, "
            "sequence, argument; repeat for more. None: all that the model was trained on."
        ),
    ] = None,
    pairs: Annotated[
        int,
        typer.Option(
            help="Pairs of programs per variable; that a variable is not used can only be said of 200 that count, and "
            "of computed and literal values each for themselves.",
            min=20,
        ),
    ] = 300,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer pairs, cells and probes, for a look: one minute.")
    ] = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="All spans of roles, controls in every cell, all kinds of edges on all pairs, paths between heads, "
            "the subspace of each variable, and attribution beside patching: an hour or more.",
        ),
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    from analyses.studies.interventions.page import make
    from analyses.studies.interventions.study import InterventionsConfig

    config = InterventionsConfig(
        runs=tuple(runs or (DEFAULT_MODEL,)),
        variables=tuple(variable or ()),
        pairs=pairs,
        seed=seed,
        quick=quick,
        full=full,
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

        Example: cadmus-probe generalization sweeps/diversity --out my-generalization

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
    draws: Annotated[int, typer.Option(help="Draws of the bootstrap and of permutations.", min=99)] = 4999,
    seed: Seed = 0,
) -> None:
    from analyses.studies.generalization.page import make
    from analyses.studies.generalization.study import GeneralizationConfig

    config = GeneralizationConfig(sweep=sweep, predictors=tuple(predictor or ()), draws=draws, seed=seed)
    write_page(make, config, out)


@studies.command(
    help=paragraphs(
        """
        Try every instrument of intervention on planted truth: transformers made by hand, or trained to a circuit,
        of which it is known what carries a value (two minutes on two cores).

        Example: cadmus-probe calibration --out my-calibration, or with fewer models: cadmus-probe calibration --quick

        The models execute a fragment of the machine, randomly rotated, superposed, beside decoys that can be read and
        that nothing uses, or with the value at several places at once. For each instrument: how well it tells carriers
        from the rest, its false claims and what it misses, with intervals; and what erasure leaves to a probe that is
        fitted anew.
        """
    )
)
def calibration(
    out: Out = Path("calibration"),
    models: Annotated[int, typer.Option(help="Models of each fragment under each condition.", min=1)] = 3,
    pairs: Annotated[int, typer.Option(help="Pairs of programs for each model.", min=20)] = 32,
    quick: Annotated[bool, typer.Option("--quick", help="One model of each, for a look: one minute.")] = False,
    seed: Seed = 0,
) -> None:
    from analyses.studies.calibration.page import make
    from analyses.studies.calibration.study import CalibrationConfig

    config = CalibrationConfig(models=models, pairs=pairs, seed=seed, quick=quick)
    write_page(make, config, out)


@studies.command(
    help=paragraphs(
        """
        Test the probing harness on planted truths: what is there must be found, what is not must not be.

        A planted linear signal, an XOR that only a nonlinear probe can read, a position confound, a leaked skeleton,
        and noise, which may be called positive in at most 16 of 200 seeds at level 5 %. Exit code 1 where one fails.
        """
    )
)
def selftest(as_json: Json = False) -> None:
    from probes import selftest as harness

    with progress_bars() as progress:
        checks = harness.run(progress)
    rows = [("check", "expected", "found", "")]
    for check in checks:
        rows.append((check.name, check.expected, check.result, "passed" if check.passed else "FAILED"))
    records = [
        {"check": check.name, "expected": check.expected, "found": check.result, "passed": check.passed}
        for check in checks
    ]
    print_table(rows, records, as_json)
    if not all(check.passed for check in checks):
        raise typer.Exit(1)
