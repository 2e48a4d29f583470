"""The paper's Table 3 and Figure 1 for a trained model, as a page: what it completes, and where in the plane of X and
Y it tells their relation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from analyses import behaviour, figures, paper, report
from analyses.terminal import Stage
from cadmus import DEFAULT_MODEL, checkpoint
from cadmus.evaluate import evaluate, wilson
from cadmus.families import Compare
from cadmus.processes import chosen


@dataclass(frozen=True)
class PaperConfig:
    """Which model is measured, and on what."""

    run: str = DEFAULT_MODEL  # a model folder, or a model that ships; its mixture must hold compare
    eval_programs: int = 1000  # of each family and split in Table 3
    reach: int = 40  # X and Y lie in -reach..reach
    programs: int = 10  # a cell of Figure 1
    seed: int = 0  # of the programs drawn
    device: str = "auto"


def run(config: PaperConfig, out: Path | str, stage: Stage = lambda name, share, note: None) -> Path:
    """Measure and write the page to `out`; returns its path. ValueError where the mixture has no compare."""
    trained = checkpoint.load(config.run)
    family = trained.mixture.family("compare")
    trained.model.to(chosen(config.device)).eval()
    accuracies = evaluate(
        trained.model,
        trained.mixture,
        programs=config.eval_programs,
        seed=config.seed,
        progress=partial(stage, "complete programs"),
    )
    table = paper.figure1(
        trained.model,
        family,
        trained.mixture.hold_out,
        reach=config.reach,
        programs=config.programs,
        seed=config.seed,
        progress=lambda share: stage("compare over the plane", share, ""),
    )
    accuracies, table = (one.assign(run=trained.fingerprint) for one in (pd.DataFrame(accuracies), table))
    regions = by_region(table)
    plane = report.Section(
        "figure1",
        "Comparing two computed numbers over the plane",
        (
            f"compare programs compute X in {_lengths(family)} instructions, Y in as many, and state the relation. "
            "After X and Y the model's next token is right where it is the one of `<`, `=`, `>` that holds; any other "
            f"counts as wrong. Training drew X and Y from {family.low}..{family.high} (the dashed square). Within it "
            "every program is of a held-out split; beyond it every program is unlike any that was trained on.",
            "Off the diagonal a model may be right without knowing X and Y exactly; on the diagonal beyond the square "
            "it must find two numbers equal that it never saw in a comparison.",
        ),
        figure=figures.plane(table, family.low, family.high),
        caption=f"Left: each cell is the share of right answers over {config.programs} programs. Right: the same by "
        "the distance of X and Y; bands: 95 % (Wilson).",
        table=table,
        shown=_shown(regions),
    )
    about = {
        "command": f"cadmus-probe paper {config.run} --reach {config.reach} --programs {config.programs} "
        f"--eval-programs {config.eval_programs} --seed {config.seed}",
        "model": trained.fingerprint,
        "mixture": f"{trained.mixture.name}; {trained.mixture.fingerprint}",
        "corpus": f"{behaviour.size(trained.record['corpus'])}; {trained.record['corpus']['fingerprint']}",
        "seeds": f"training {trained.seed}, measuring {config.seed}",
    }
    sections = (behaviour.completion(accuracies), plane, behaviour.training(trained))
    page = report.Report(
        f"Table 3 and Figure 1 of the paper: {Path(config.run).name}", _summary(regions), sections, about
    )
    return report.write(page, out)


def by_region(table: pd.DataFrame) -> pd.DataFrame:
    """A row per region of the plane: right answers, programs, accuracy, its Wilson interval, and the answers given."""
    rows = []
    for region in paper.REGIONS:
        part = table[table.region == region]
        n, right = int(part.n.sum()), round(float((part.accuracy * part.n).sum()))
        if n:
            low, high = wilson([right], [n])
            answers = {name: int(part[name].sum()) for name in ("less", "equal", "greater", "other")}
            numbers = {"accuracy": right / n, "low": low[0], "high": high[0]}
            rows.append({"region": region, "n": n, **numbers, **answers})
    return pd.DataFrame(rows)


def _lengths(family: Compare) -> str:
    shortest = family.min_length or family.length
    return str(family.length) if shortest == family.length else f"{shortest} to {family.length}"


def _summary(regions: pd.DataFrame) -> str:
    said = {row.region: report.with_interval(row.accuracy, row.low, row.high) for row in regions.itertuples()}
    inside = f"Inside the trained square the model tells the relation in {said[paper.REGIONS[0]]} of the programs"
    if paper.REGIONS[1] not in said:
        return f"{inside}."
    return (
        f"{inside}; beyond it in {said[paper.REGIONS[2]]} where X and Y differ, and in {said[paper.REGIONS[1]]} where "
        "they are equal (the paper's model: 1.00 inside, 0.46 on the diagonal outside)."
    )


def _shown(regions: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "region": regions.region,
            "accuracy": [report.with_interval(row.accuracy, row.low, row.high) for row in regions.itertuples()],
            "programs": regions.n.map("{:,}".format),
            **{f"answers {sign}": regions[name].map("{:,}".format) for name, sign in _SIGNS.items()},
        }
    )


_SIGNS = {"less": "<", "equal": "=", "greater": ">", "other": "anything else"}
