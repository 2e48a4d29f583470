"""What a trained model completes and how it was trained: the sections that every page about a model has."""

from __future__ import annotations

import pandas as pd

from analyses.reporting import figures, report
from cadmus.runtime.progress import Progress, no_progress
from cadmus.training import checkpoint
from cadmus.training.completion import evaluate

_TOTALS = {"tokens", "seconds", "flops", "share_of_peak"}  # of a run that can be told


def completion_table(
    trained: checkpoint.Checkpoint, programs: int, seed: int, progress: Progress = no_progress
) -> pd.DataFrame:
    """Complete `programs` held-out programs of each family and split: rows of `cadmus.training.completion`."""
    rows = evaluate(trained.model, trained.mixture, programs=programs, seed=seed, progress=progress)
    return pd.DataFrame([row.to_dict() for row in rows])


def completion_section(table: pd.DataFrame) -> report.Section:
    """The paper's Table 3. table: rows of `cadmus.training.completion`, those of out-of-distribution sets too."""
    display_table = pd.DataFrame(
        {
            "family": table.family,
            "programs": table.split,
            "completion accuracy": [
                report.with_interval(row.accuracy, row.low, row.high) for row in table.itertuples()
            ],
            "true at all": table.true_rate.map("{:.2f}".format),
            "the canonical answer": table.canonical.map(report.number),
            "generalizes": table.generalizes.map(report.number),
            "prompts": table.n,
        }
    )
    return report.Section(
        "completion",
        "Completing held-out programs",
        (
            "Each program is cut where the model must decide, and the model completes it greedily. A completion counts "
            "if the machine finds the whole program true and the program has its family's form. Training saw none of "
            "these programs: `test` holds new programs of skeletons (digits replaced by 0) that training saw, "
            "`test_skeleton` holds skeletons that it never saw, and the other names are sets unlike anything trained "
            "on. The further columns say how often the program is true at all, how often the completion begins with "
            "the family's own answer and, for induce, how often the algorithm that the model gives holds on fresh "
            "inputs. Intervals are 95 % (Wilson).",
        ),
        table=table,
        display_table=display_table,
        columns=("family", "programs", "completion accuracy", "true at all", "prompts"),
    )


def completion_sentence(table: pd.DataFrame) -> str:
    """The table of `completion_section` in a sentence: new programs of skeletons that training saw, the best family
    first."""
    test = table[table.split == "test"].sort_values("accuracy", ascending=False)
    accuracies = (f"{row.family} {report.with_interval(row.accuracy, row.low, row.high)}" for row in test.itertuples())
    return f"The model completes these shares of held-out programs (95 % intervals): {', '.join(accuracies)}."


def training_sections(trained: checkpoint.Checkpoint) -> tuple[report.Section, ...]:
    """How the model was trained, by one run or by several that went on from one another, what that cost, and its
    learning curve: one section, none where no run is on record."""
    all_runs = [*trained.record.get("before", []), trained.record]
    runs = [run for run in all_runs if run.get("log") and run.keys() >= _TOTALS]
    if not runs:
        return ()
    log, evaluations = (_of_all_runs(runs, name) for name in ("log", "evaluations"))
    evaluated = figures.is_curve(evaluations)
    parts = [_run_in_words(run) for run in runs]
    total = f"{sum(run['tokens'] for run in runs):,} tokens: " if len(runs) > 1 else ""
    text = f"The model has {n_parameters(trained):,} parameters and was trained on {total}{'; then '.join(parts)}."
    if len(runs) < len(all_runs):
        text += f" Of its {len(all_runs)} runs these are the ones on record."
    section = report.Section(
        "training",
        "Training",
        (text,),
        figure=figures.learning_curve(log, evaluations),
        caption="Mean loss of the tokens up to and including each program's own end. It cannot fall to 0, because most "
        "tokens of a program are free."
        + (" Right: completion accuracy on held-out programs of the split validation." if evaluated else ""),
        alt=f"The training loss falls from {log.loss.iloc[0]:.2f} to {log.loss.iloc[-1]:.2f} nats per token over "
        f"{log.tokens.iloc[-1] / 1e6:,.0f} million tokens"
        + (
            "."
            if not evaluated
            else f"; completion accuracy of {evaluations.family.nunique()} families ends between "
            f"{evaluations.groupby('family').accuracy.last().min():.2f} and "
            f"{evaluations.groupby('family').accuracy.last().max():.2f}."
        ),
        table=log,
    )
    return (section,)


def n_parameters(trained: checkpoint.Checkpoint) -> int:
    """How many parameters the model has."""
    return sum(parameter.numel() for parameter in trained.model.parameters())


def _of_all_runs(runs: list[dict], name: str) -> pd.DataFrame:
    """A table of the records, with steps, tokens and seconds counted from the first run on."""
    tables, offsets = [], dict.fromkeys(("step", "tokens", "seconds"), 0)
    for run in runs:
        table = pd.DataFrame(run.get(name, []))
        if len(table):
            tables.append(table.assign(**{column: table[column] + before for column, before in offsets.items()}))
        offsets["step"] += max((row["step"] for row in run["log"]), default=0)
        offsets["tokens"] += run["tokens"]
        offsets["seconds"] += run["seconds"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _run_in_words(record: dict) -> str:
    """How many tokens a run took, for how long and where: `1,000 tokens in 10 s (100 tokens per second on ...)`."""
    rate = record["tokens"] / record["seconds"]
    return (
        f"{record['tokens']:,} tokens in {_duration(record['seconds'])} ({rate:,.0f} tokens per second on "
        f"{_machines(record)}; {record['flops']:.2g} operations{_share_of_peak(record['share_of_peak'])}"
        f"{_cost(record)})"
    )


def _machines(record: dict) -> str:
    """Where a model was trained, by its record: each device, a CPU's threads and its precision, in the order of use."""
    stretches = record.get("stretches") or [{**record, "precision": record["config"]["precision"]}]
    machines = []
    for part in stretches:
        threads = f"{part['threads']} threads of " if part.get("device_type", "cpu") == "cpu" else ""
        machines.append(f"{threads}{part['device']}, {part['precision']}")
    return "; then ".join(dict.fromkeys(machines))


def _share_of_peak(share: float) -> str:
    """The share of the peak in words; empty above 1, as records had it of CPUs that emulate bf16."""
    return f", {share:.0%} of what a large matrix product reaches" if share <= 1 else ""


def _cost(record: dict) -> str:
    """What the run cost in words; empty where no rate is stated."""
    rate = record.get("dollars_per_hour", 0)
    return f"; {record['dollars']:.2f} dollars at {rate:.2f} an hour of a device" if rate else ""


def corpus_in_words(trained: checkpoint.Checkpoint) -> str:
    """What a model was trained on, by its record: how many programs, and their fingerprint."""
    programs = trained.record.get("corpus", {}).get("programs", "")
    size = f"{programs:,} programs" if isinstance(programs, int) else programs
    return "; ".join(filter(None, (size, trained.corpus_fingerprint))) or "not recorded"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
