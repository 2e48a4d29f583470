"""The commands that look into a model, `probe` and `intervene`, and those that try what they look with: `calibration`,
`selftest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analyses.commands.options import Device, Out, Programs, Run, Seed
from analyses.commands.tables import Json, print_table
from analyses.commands.terminal import paragraphs, progress_bars, write_page
from cadmus import DEFAULT_MODEL

instruments = typer.Typer()


@instruments.command(
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


@instruments.command(
    help=paragraphs(
        """
        What does a model use of the machine's state? Exchange values inside it and see whether it answers as the
        machine does then (five minutes on two cores; --quick 45 seconds).

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
        bool,
        typer.Option(
            "--quick",
            help="For a look, within 45 seconds on two cores: 60 pairs and no minimal ones, every second layer, a "
            "third of the programs for probes, each kind of edges as a whole alone.",
        ),
    ] = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="All spans of roles, controls in every cell, all kinds of edges on all pairs, paths between heads, "
            "the subspace of each variable, and attribution beside patching: a quarter of an hour on two "
            "cores.",
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


@instruments.command(
    help=paragraphs(
        """
        Try every instrument of intervention on planted truth: transformers made by hand, or trained to a circuit,
        of which it is known what carries a value (four minutes on two cores).

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


@instruments.command(
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
