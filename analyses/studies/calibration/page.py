"""The page about calibration: whether the figures are reached, every rate, and what erasure leaves."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analyses.reporting import report
from analyses.studies.calibration import figures, study
from analyses.studies.calibration.study import CalibrationConfig, CalibrationResults
from analyses.studies.calibration.summary import summary
from analyses.studies.calibration.trained import TRAINED
from cadmus.runtime.progress import Progress, no_progress


def make(config: CalibrationConfig, out: Path | str, progress: Progress = no_progress) -> Path:
    """Measure and write the page, its figures and tables to `out`; returns the page's path."""
    results = study.run(config, progress)
    page = report.Report("Calibration of the instruments", summary(results), sections(results), provenance(results))
    return report.write(page, out)


def provenance(results: CalibrationResults) -> dict[str, str]:
    """How the tables were made."""
    config = results.config
    command = f"cadmus-probe calibration --models {config.models} --pairs {config.pairs} --seed {config.seed}"
    conditions = results.cases.drop_duplicates(["fragment", "condition", "seed"]).condition
    n_trained = int((conditions == TRAINED).sum())
    return {
        "command": command + (" --quick" if config.quick else ""),
        "models": f"{len(conditions) - n_trained} transformers made by hand and {n_trained} trained to a circuit; what "
        "carries the value in them is known",
    }


def sections(results: CalibrationResults) -> tuple[report.Section, ...]:
    """The figures that must be reached, the rates, hierarchical equality, the erasures, and every case."""
    return (
        _targets(results.targets),
        _rates(results.rates),
        _equality(results.others["equality"]),
        _refits(results.refits),
        _cases(results.cases),
    )


def _targets(table: pd.DataFrame) -> report.Section:
    shown_table = table.assign(passed=table.passed.map({True: "yes", False: "NO"}))
    return report.Section(
        "targets",
        "What calibration must reach",
        ("Each figure is asked of planted truth before an instrument is believed of a model that was trained.",),
        table=table,
        display_table=shown_table.rename(columns={"name": "instrument, condition", "passed": "reached"}),
    )


def _rates(table: pd.DataFrame) -> report.Section:
    columns = {"instrument": table.instrument, "condition": table.condition, "rate": table.rate}
    intervals = [report.with_interval(*row) for row in table[["estimate", "low", "high"]].itertuples(index=False)]
    return report.Section(
        "rates",
        "What each instrument gets right and wrong",
        (
            "Transformers were made by hand that execute a fragment of the machine: a register is stored and looked "
            "up at its load; two registers are loaded and compared; a stack is swapped token by token. Which cells "
            "(layer x position) carry the value X, and which edges (layer, head, query, key) move it, is known. Their "
            "features lie along a random rotation (*rotated*), overlap, with ten digits in six dimensions "
            "(*superposed*), stand beside copies that nothing reads (*decoys*), or X lies at three positions and the "
            "majority decides (*duplicated*); in all, weights are noisy and idle heads mix what they find into unused "
            "dimensions. Beside them stand small models of ours, with LayerNorm, that were *trained* to a circuit: by "
            "interchange-intervention training (arXiv 2112.00826), until exchanges move the answer at the cells of a "
            "path that was drawn, and at no other. That patching finds this path is what they were trained for; "
            "steering, erasing and the verdicts were not.",
            "An instrument claims a case where its effect minus that of its own control, on the same programs, is "
            "surely above 0.05. Under *duplicated* only the duplicates count as carriers: no single one of them moves "
            "the answer, so that an instrument of single cells must miss them, and one of several must not.",
            "The verdicts are those given of trained models, on 200 pairs or more: *used* of a cell or of several "
            "cells of a layer, the lower bound of d being simultaneous over all of them; *unused* of X as a whole "
            "(which would be false), and of X tested only at cells that carry nothing (which is right, and needs the "
            "pairs to show it: where another operand moves the answer by chance, some 200 are too few). A patch of the "
            "stream before the first block is a change of input: the verdicts leave it out.",
        ),
        figure=figures.rates(table),
        caption="95 % intervals: Wilson's, of cases (those of one model share its programs); of AUROC, models "
        "resampled. Dashed: the figure asked for.",
        table=table,
        display_table=pd.DataFrame({**columns, "estimate": intervals, "cases": table.n}),
    )


def _equality(table: pd.DataFrame) -> report.Section:
    rounded = table.assign(
        network=table.condition.str.removeprefix("equality, ") + " " + table.seed.astype(str),
        accuracy=report.intervals(table, "accuracy"),
        isolation=report.intervals(table, "isolation"),
        score=report.intervals(table, "score"),
    )
    columns = ["network", "method", "variable", "rank", "accuracy", "isolation", "score", "pairs"]
    return report.Section(
        "equality",
        "The search for subspaces, where two variables are known",
        (
            "Four objects a, b, c, d; the answer is whether (a = b) is the same as (c = d) (arXiv 2303.02536). "
            "Networks of three layers solve it; those made by hand hold both equalities in the second layer along "
            "directions that are drawn, the trained ones as they have learned to. A linear search must find both; "
            "single neurons must not, nor may a search succeed that is given arbitrary labels or a network of random "
            "weights. *Accuracy* is the share of right answers where the exchange must change the answer, *isolation* "
            "where it must not, the *score* their mean; chance is 0.5. Principal components, neurons and the search "
            "with arbitrary labels or random weights get the rank that the search has chosen.",
        ),
        figure=figures.alignments(table),
        caption="Each network and variable, with 95 % intervals over exchanges, of objects that no network was trained "
        "on. Dashed: at most 0.75 is asked of one neuron, 0.99 or more of the search; dotted: chance.",
        table=table,
        display_table=rounded[columns],
    )


def _refits(table: pd.DataFrame) -> report.Section:
    groups = table.assign(excess=table.accuracy - table.majority).groupby(["method", "probe"], sort=False)
    means = groups[["accuracy", "majority", "rank", "change"]].mean().map(report.number)
    display_table = means.assign(greatest=groups.excess.max().map(lambda x: f"{x:+.3f}"), cells=groups.size())
    return report.Section(
        "refits",
        "What erasure leaves to a probe that is fitted anew",
        (
            "X is erased at cells where it can be read, and probes are fitted to what is left, on the same programs. "
            "LEACE promises that none of them beats the best constant (arXiv 2306.03819), and changes activations "
            "least of all maps that can promise it. INLP is given two rounds, rank for rank about twice as much.",
        ),
        figure=figures.refits(table),
        caption="Dashed: one point above the most frequent value. `greatest`: of the accuracy above the majority.",
        table=table,
        display_table=display_table.reset_index(),
    )


def _cases(table: pd.DataFrame) -> report.Section:
    counts = table.groupby(["condition", "fragment", "instrument", "truth"], sort=False).agg(
        cases=("case", "size"), score=("score", "mean"), claimed=("claimed", "sum")
    )
    return report.Section(
        "cases",
        "Every case",
        ("Each case with its score and its claim is in the table; here they are counted by what is true of them.",),
        table=table,
        display_table=counts.assign(score=counts.score.map(report.number)).reset_index(),
    )
