"""The first report: train a tiny model, say what it completes, and read numbers and registers out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd

from analyses import behaviour, figures, paper, report, state
from cadmus import artifacts, checkpoint
from cadmus.evaluate import evaluate
from cadmus.families import Compare
from cadmus.recipe import Recipe, Stage, follow, load
from probes.controls import untrained_twin


@dataclass(frozen=True)
class FirstReportConfig:
    """What the report trains and measures. A trained `run` (a model folder) takes the place of training."""

    recipe: Recipe = field(default_factory=partial(load, "first"))  # its mixture must hold compare and register
    run: str | None = None
    eval_programs: int = 500  # per family and split
    number_programs: int = 5000  # `compare` programs probed
    register_programs: int = 4000  # `register` programs probed
    seed: int = 0  # of the programs drawn for measuring


def run(config: FirstReportConfig, out: Path | str, stage: Stage = lambda name, share, note: None) -> Path:
    """Train (or load), measure, and write the page to `out`; returns the page's path.

    A new model is kept in `out`/model. Raises ValueError where the mixture lacks a family that is probed.
    """
    trained = _trained(config, Path(out), stage)
    model, mixture = trained.model, trained.mixture
    stage("complete held-out programs", 0.0, "")
    accuracies = pd.DataFrame(evaluate(model, mixture, programs=config.eval_programs, seed=config.seed))
    stage("complete held-out programs", 1.0, "")
    models = {"trained": model, "untrained": untrained_twin(model, trained.seed)}
    compare, register = mixture.family("compare"), mixture.family("register")
    numbers = paper.figure2(
        models,
        compare,
        programs=config.number_programs,
        seed=config.seed,
        progress=lambda share: stage("probe the two numbers", share, ""),
    )
    registers = state.registers(
        models,
        register,
        programs=config.register_programs,
        seed=config.seed,
        progress=lambda share: stage("probe the registers", share, ""),
    )
    accuracies, numbers, registers = (
        table.assign(run=trained.fingerprint, corpus=trained.record["corpus"]["fingerprint"])
        for table in (accuracies, numbers, registers)
    )
    sections = (
        behaviour.completion(accuracies),
        _numbers(numbers, compare),
        _registers(registers),
        behaviour.training(trained),
    )
    summary = _summary(accuracies, numbers, registers)
    return report.write(report.Report(_title(trained), summary, sections, _about(trained, config)), out)


def _trained(config: FirstReportConfig, out: Path, stage: Stage) -> checkpoint.Checkpoint:
    trained = None if config.run is None else checkpoint.load(config.run)
    mixture = config.recipe.mixture if trained is None else trained.mixture
    for name in ("compare", "register"):  # now, not after minutes of training
        mixture.family(name)
    return trained or follow(config.recipe, out / "model", stage=stage)


# --- the page --------------------------------------------------------------------------------------------------------


def _title(trained: checkpoint.Checkpoint) -> str:
    return f"What a {trained.record['parameters'] / 1e6:.1f} M-parameter Cadmus model knows of the machine's state"


def _summary(accuracies: pd.DataFrame, numbers: pd.DataFrame, registers: pd.DataFrame) -> str:
    families = accuracies.pivot(index="family", columns="split", values="accuracy")
    shares = ", ".join(
        f"{row.test:.0%} of {row.Index} programs ({row.test_skeleton:.0%} where their skeleton is new too)"
        for row in families.itertuples()
    )
    layer = numbers.layer.max()
    r2 = numbers[(numbers.metric == "R2") & (numbers.variable == "first number") & (numbers.layer == layer)]
    r2 = r2.pivot(index="position", columns="model", values="score")
    last = int(r2.index.max())
    x_end, y_end = last // 2, last - 1
    dip = r2.trained.loc[x_end + 1 : y_end - 1].min()
    match = registers[(registers.variable == state.ALL) & (registers.metric == "exact match")]
    at_load = match[match.token_class == "load, this register"].groupby("model").score.max()
    return (
        f"Given the beginning of a program that it never saw, the model completes {shares}. "
        f"After layer {layer}, a linear probe reads the first of two computed numbers with R² "
        f"{r2.trained[x_end]:.2f} where its expression ends (untrained model {r2.untrained[x_end]:.2f}), "
        f"with {dip:.2f} at the worst token while the second is computed, and with {r2.trained[y_end]:.2f} where that "
        f"ends (untrained {r2.untrained[y_end]:.2f}). A register's value is read exactly in "
        f"{at_load['trained']:.0%} of the cases at the token that loads it (best of the layers; untrained "
        f"{at_load['untrained']:.0%})."
    )


def _numbers(table: pd.DataFrame, family: Compare) -> report.Section:
    tokens, length = paper.token_names(family), family.length
    ends = [len(tokens) // 2, len(tokens) - 1, len(tokens)]
    last_layer = table[(table.metric == "R2") & (table.layer == table.layer.max()) & table.position.isin(ends)]
    last_layer = last_layer.assign(token=[tokens[position - 1] for position in last_layer.position])
    return report.Section(
        "numbers",
        "Two computed numbers, token by token",
        (
            f"compare programs compute X in {length} instructions, Y in {length} more, and state the relation "
            "(Figure 2 of arXiv 2602.09112). At each token and each depth of the residual stream, two probes read each "
            "number: logistic regression over the values as classes, as in the paper, and ridge regression, which "
            "knows that they are ordered. Probes are trained and tested on programs of skeletons that the model never "
            "saw, split by skeleton.",
            "The dotted line is the best guess from the instructions seen so far, computed exactly by enumerating the "
            "generator (held-out skeletons are a sample of it); the dashed grey line is the same probe on the same "
            "architecture before training, at its best layer. Where a probe is no better than that, it reads what the "
            "tokens give away, not what the model computed.",
        ),
        figure=figures.numbers_by_token(table, tokens),
        caption="X1, X2, ...: the first expression; Y1, ...: the second; rel: the relation. Bands: 95 % bootstrap over "
        "skeletons (a few hold many programs, hence their width). The classifier must learn each of the values apart, "
        "from few programs; R² says how well their order is held. The table: after the last layer.",
        table=table,
        shown=_wide(last_layer.sort_values(["variable", "position"]), ["variable", "token", "layer"], "R²"),
    )


def _registers(table: pd.DataFrame) -> report.Section:
    part = table[(table.variable == state.ALL) & (table.metric == "exact match")]
    part = part[part.token_class.isin(["store, this register", "load, this register"])]
    return report.Section(
        "registers",
        "What the registers hold, by layer and token",
        (
            "In register programs a value is stored, perhaps overwritten, and loaded later. A ridge probe per "
            "register, layer and class of the current token reads the value that the register holds after that token; "
            "a reading counts when it rounds to exactly that value. Stores and loads are told apart by whether they "
            "name the probed register. The other classes ask for more: there, only a model that tracks registers at "
            "every token can score.",
        ),
        figure=figures.registers_by_layer(table, state.ALL),
        caption="All registers together, a probe for each. Bands: 95 % bootstrap over skeletons.",
        table=table,
        shown=_wide(part, ["token_class", "layer"], "read exactly", ["majority", "by_token", "programs", "clusters"]),
    )


def _wide(table: pd.DataFrame, keys: list[str], label: str, extra: list[str] | None = None) -> pd.DataFrame:
    """A row per key with the trained and the untrained model's score side by side."""
    rows = []
    for key, part in table.groupby(keys, sort=False):
        row = dict(zip(keys, key, strict=True))
        for name in ("trained", "untrained"):
            one = part[part.model == name].iloc[0]
            row[f"{label}, {name}"] = report.with_interval(one.score, one.low, one.high)
        for column in extra or []:
            value = part[column].iloc[0]
            row[column] = f"{value:.2f}" if isinstance(value, float) else f"{value:,}"
        rows.append(row)
    return pd.DataFrame(rows).rename(columns=lambda name: name.replace("_", " "))


def _source(config: FirstReportConfig) -> str:
    """The options that make this report."""
    seed = f" --seed {config.seed}" if config.seed else ""
    if config.run is not None:
        return f"--run {config.run}{seed}"
    train, cfg = config.recipe.train, config.recipe.cfg
    return f"--recipe {config.recipe.name} --steps {train.steps} --layers {cfg.n_layers} --width {cfg.d_model}{seed}"


def _about(trained: checkpoint.Checkpoint, config: FirstReportConfig) -> dict[str, str]:
    cfg, mixture, corpus = trained.model.cfg, trained.mixture, trained.record["corpus"]
    made = artifacts.provenance()
    shares = zip(mixture.families, mixture.shares, strict=True)
    size = f"{cfg.n_layers} layers, width {cfg.d_model}, {cfg.n_heads} heads, MLP {cfg.d_mlp}"
    return {
        "command": f"cadmus-probe report {_source(config)}",
        "model": f"{size}; {trained.fingerprint}",
        "mixture": f"{mixture.name}: {', '.join(f'{f.name} {s:.0%}' for f, s in shares)}; {mixture.fingerprint}",
        "corpus": f"{behaviour.size(corpus)}; {corpus['fingerprint']}",
        "seeds": f"training {trained.seed}, measuring {config.seed}",
        "versions": ", ".join(f"{name} {version}" for name, version in made["versions"].items()),
        "git": made["git"] or "not a checkout",
    }
