"""The paper's Table 3 and Figures 1 and 2 for a trained model, as a page: what it completes, where in the plane of X
and Y it tells their relation, and how well both numbers can be read, token by token."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from analyses.reporting import behaviour, report
from analyses.studies.paper import figures, study
from cadmus import DEFAULT_MODEL
from cadmus.programs.families import Compare
from cadmus.runtime.devices import resolve_device
from cadmus.runtime.progress import Progress
from cadmus.statistics.proportions import wilson
from cadmus.training import checkpoint
from cadmus.training.completion import evaluate
from probes.controls.untrained import untrained_twin


@dataclass(frozen=True)
class PaperConfig:
    """Which model is measured, and on what."""

    run: str = DEFAULT_MODEL  # a model folder, or a model that ships; its mixture must hold compare
    eval_programs: int = 1000  # of each family and split in Table 3
    reach: int = 40  # X and Y lie in -reach..reach
    programs: int = 10  # a cell of Figure 1
    number_programs: int = 5000  # of Figure 2
    seed: int = 0  # of the programs drawn
    device: str = "auto"


@dataclass(frozen=True)
class PaperResults:
    """Tidy tables: accuracies (Table 3), plane (Figure 1), numbers (Figure 2)."""

    config: PaperConfig
    trained: checkpoint.Checkpoint
    family: Compare
    accuracies: pd.DataFrame
    plane: pd.DataFrame
    numbers: pd.DataFrame


def run(config: PaperConfig, out: Path | str, stage: Progress = lambda name, share, note: None) -> Path:
    """Measure and write the page to `out`; returns its path. ValueError where the mixture has no compare."""
    found = measure(config, stage)
    title = f"Table 3 and Figures 1 and 2 of the paper: {Path(config.run).name}"
    page = report.Report(
        title, summary(found), (*sections(found), behaviour.training_section(found.trained)), about(found)
    )
    return report.write(page, out)


def measure(config: PaperConfig, stage: Progress = lambda name, share, note: None) -> PaperResults:
    """Complete, answer and probe. ValueError where the mixture has no compare."""
    trained = checkpoint.load(config.run)
    family = trained.mixture.family("compare")
    trained.model.to(resolve_device(config.device)).eval()
    accuracies = evaluate(
        trained.model,
        trained.mixture,
        programs=config.eval_programs,
        seed=config.seed,
        progress=partial(stage, "complete programs"),
    )
    plane = study.figure1(
        trained.model,
        family,
        trained.mixture.hold_out,
        reach=config.reach,
        programs=config.programs,
        seed=config.seed,
        progress=lambda share: stage("compare over the plane", share, ""),
    )
    numbers = study.figure2(
        {"trained": trained.model, "untrained": untrained_twin(trained.model, trained.seed)},
        family,
        programs=config.number_programs,
        seed=config.seed,
        progress=lambda share: stage("probe the two numbers", share, ""),
    )
    identity = {"run": trained.fingerprint, "corpus": trained.record["corpus"]["fingerprint"]}
    accuracies = pd.DataFrame([row.to_dict() for row in accuracies])
    return PaperResults(config, trained, family, *(table.assign(**identity) for table in (accuracies, plane, numbers)))


def summary(found: PaperResults) -> tuple[str, ...]:
    """What may be said, in statements that the tables support."""
    return behaviour.completion_sentence(found.accuracies), _tells(by_region(found.plane)), _holds(found.numbers)


def about(found: PaperResults) -> dict[str, str]:
    """How the tables were made."""
    config, trained = found.config, found.trained
    return {
        "paper, command": f"cadmus-probe paper {config.run} --reach {config.reach} --programs {config.programs} "
        f"--number-programs {config.number_programs} --eval-programs {config.eval_programs} --seed {config.seed}",
        "model": trained.fingerprint,
        "mixture": f"{trained.mixture.name}; {trained.mixture.fingerprint}",
        "corpus": f"{behaviour.corpus_size(trained.record['corpus'])}; {trained.record['corpus']['fingerprint']}",
        "seeds": f"training {trained.seed}, measuring {config.seed}",
    }


def sections(found: PaperResults) -> tuple[report.Section, ...]:
    """Table 3, Figure 1 and Figure 2."""
    return behaviour.completion_section(found.accuracies), _plane(found), _numbers(found)


def _plane(found: PaperResults) -> report.Section:
    family, config, regions = found.family, found.config, by_region(found.plane)
    return report.Section(
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
        figure=figures.plane(found.plane, family.low, family.high),
        caption=f"Left: each cell is the share of right answers over {config.programs} programs. Right: the same by "
        "the distance of X and Y; bands: 95 % (Wilson).",
        table=found.plane,
        shown=_shown(regions),
    )


def _numbers(found: PaperResults) -> report.Section:
    table, family = found.numbers, found.family
    names = study.token_names(family)
    ends = [len(names) // 2, len(names) - 1, len(names)]
    last = table[(table.metric == "R2") & (table.layer == table.layer.max()) & table.position.isin(ends)]
    last = last.assign(token=[names[position - 1] for position in last.position])
    return report.Section(
        "figure2",
        "Two computed numbers, token by token",
        (
            f"The same programs, read instead of asked (Figure 2 of arXiv 2602.09112): at each token and each depth of "
            f"the residual stream, two probes read each number, computed in {family.length} instructions: logistic "
            "regression over the values as classes, as in the paper, and ridge regression, which knows that they are "
            "ordered. Probes are trained and tested on programs of skeletons that the model never saw, split by "
            "skeleton.",
            "The dotted line is the best guess from the instructions seen so far, computed exactly by enumerating the "
            "generator (held-out skeletons are a sample of it); the dashed grey line is the same probe on the same "
            "architecture before training, at its best layer. Where a probe is no better than that, it reads what the "
            "tokens give away, not what the model computed.",
        ),
        figure=figures.numbers_by_token(table, names),
        caption="X1, X2, ...: the first expression; Y1, ...: the second; rel: the relation. Bands: 95 % bootstrap over "
        "skeletons (a few hold many programs, hence their width). The classifier must learn each of the values apart, "
        "from few programs; R² says how well their order is held. The table: after the last layer.",
        table=table,
        shown=_wide(last.sort_values(["variable", "position"]), ["variable", "token", "layer"], "R²"),
    )


def _wide(table: pd.DataFrame, keys: list[str], label: str) -> pd.DataFrame:
    """A row per key with the trained and the untrained model's score side by side."""
    rows = []
    for key, part in table.groupby(keys, sort=False):
        row = dict(zip(keys, key, strict=True))
        for name in ("trained", "untrained"):
            one = part[part.model == name].iloc[0]
            row[f"{label}, {name}"] = report.with_interval(one.score, one.low, one.high)
        rows.append(row)
    return pd.DataFrame(rows)


def _holds(numbers: pd.DataFrame) -> str:
    """Of the first number: how well it is read where it is computed, then until the second is, at the layer that is
    best where it is computed."""
    rows = numbers[(numbers.metric == "R2") & (numbers.variable == "first number")]
    scores = rows.pivot(index="position", columns=["model", "layer"], values="score")
    length = int(rows.position.max()) // 2
    best = int(scores["trained"].loc[length].idxmax())
    at = scores["trained"][best]
    place = f"after layer {best}" if best else "in the embedding"
    return (
        f"A linear probe reads the first of two computed numbers with R² {at[length]:.2f} where its expression ends "
        f"({place}; untrained model, best layer, {scores['untrained'].loc[length].max():.2f}), with "
        f"{at.loc[length + 1 : 2 * length].min():.2f} at the worst token while the second is computed, and with "
        f"{at[2 * length]:.2f} where that ends."
    )


def by_region(table: pd.DataFrame) -> pd.DataFrame:
    """A row per region of the plane: right answers, programs, accuracy, its Wilson interval, and the answers given."""
    rows = []
    for region in study.REGIONS:
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


def _tells(regions: pd.DataFrame) -> str:
    said = {row.region: report.with_interval(row.accuracy, row.low, row.high) for row in regions.itertuples()}
    inside = f"Inside the trained square the model tells the relation in {said[study.REGIONS[0]]} of the programs"
    if study.REGIONS[1] not in said:
        return f"{inside}."
    return (
        f"{inside}; beyond it in {said[study.REGIONS[2]]} where X and Y differ, and in {said[study.REGIONS[1]]} where "
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
