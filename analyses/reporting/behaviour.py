"""What a trained model completes and how it was trained: the sections that every page about a model has."""

from __future__ import annotations

import pandas as pd

from analyses.reporting import figures, report
from cadmus.runtime.progress import Progress, no_progress
from cadmus.training import checkpoint
from cadmus.training.completion import evaluate


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
            "A program is cut where the model must decide, and completed greedily. A completion counts when the "
            "machine finds the whole program true and it has its family's form. Both splits hold programs that were "
            "never trained on: test holds new programs of skeletons (digits replaced by 0) that training saw, "
            "test_skeleton holds skeletons that it never saw. Beside it, how often the program is true at all, and how "
            "often the completion begins with the family's own answer; for induce, how often the algorithm found holds "
            "on fresh inputs. Other names are sets unlike what was trained on. Intervals are 95 % (Wilson).",
        ),
        table=table,
        display_table=display_table,
    )


def completion_sentence(table: pd.DataFrame) -> str:
    """The table of `completion_section` in a sentence: new programs of skeletons that training saw, the best family
    first."""
    test = table[table.split == "test"].sort_values("accuracy", ascending=False)
    accuracies = (f"{row.family} {report.with_interval(row.accuracy, row.low, row.high)}" for row in test.itertuples())
    return f"The model completes held-out programs rightly (share by family, 95 % interval): {', '.join(accuracies)}."


def training_section(trained: checkpoint.Checkpoint) -> report.Section:
    """How the model was trained, what that cost, and its learning curve."""
    record = trained.record
    log, evaluations = pd.DataFrame(record["log"]), pd.DataFrame(record.get("evaluations", []))
    rate = record["tokens"] / record["seconds"]
    return report.Section(
        "training",
        "Training",
        (
            f"The model has {record['parameters']:,} parameters and was trained on {record['tokens']:,} tokens in "
            f"{_duration(record['seconds'])} ({rate:,.0f} tokens per second on {_machines(record)}; "
            f"{record['flops']:.2g} operations{_share_of_peak(record['share_of_peak'])}).",
        ),
        figure=figures.learning_curve(log, evaluations),
        caption="Mean loss of the tokens up to and including each program's own end. It cannot fall to 0, since most "
        "tokens of a program are free."
        + ("" if evaluations.empty else " Right: completion accuracy on held-out programs of the split validation."),
        table=log,
    )


def _machines(record: dict) -> str:
    """Where a model was trained, by its record: each device, its threads and its precision, in the order of use."""
    stretches = record.get("stretches") or [{**record, "precision": record["config"]["precision"]}]
    machines = (f"{part['threads']} threads of {part['device']}, {part['precision']}" for part in stretches)
    return "; then ".join(dict.fromkeys(machines))


def _share_of_peak(share: float) -> str:
    """The share of the peak in words; empty above 1, as records had it of CPUs that emulate bf16."""
    return f", {share:.0%} of what a large matrix product reaches" if share <= 1 else ""


def corpus_size(corpus: dict) -> str:
    """How many programs a model was trained on, by its record, in words."""
    programs = corpus["programs"]
    return f"{programs:,} programs" if isinstance(programs, int) else programs


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
