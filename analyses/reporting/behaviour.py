"""What a trained model does and how it came to do it: the sections that every page about a model has."""

from __future__ import annotations

import pandas as pd

from analyses.reporting import figures, report
from cadmus.training import checkpoint


def completion_section(table: pd.DataFrame) -> report.Section:
    """The paper's Table 3: `table` holds rows of `cadmus.training.completion`, those of out-of-distribution sets
    too."""
    shown = pd.DataFrame(
        {
            "family": table.family,
            "programs": table.split,
            "completion accuracy": [report.with_interval(r.accuracy, r.low, r.high) for r in table.itertuples()],
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
        shown=shown,
    )


def completion_sentence(table: pd.DataFrame) -> str:
    """The table of `completion_section` in a sentence: new programs of skeletons that training saw, best family
    first."""
    test = table[table.split == "test"].sort_values("accuracy", ascending=False)
    said = ", ".join(f"{row.family} {row.accuracy:.2f}" for row in test.itertuples())
    return f"Completed rightly, of programs that the model never saw: {said}."


def training_section(trained: checkpoint.Checkpoint) -> report.Section:
    """How the model was trained, what that cost, and its learning curve."""
    record = trained.record
    log, evaluations = pd.DataFrame(record["log"]), pd.DataFrame(record.get("evaluations", []))
    rate = record["tokens"] / record["seconds"]
    return report.Section(
        "training",
        "Training",
        (
            f"{record['parameters']:,} parameters, {record['tokens']:,} tokens in {_duration(record['seconds'])} "
            f"({rate:,.0f} tokens per second on {_machines(record)}; {record['flops']:.2g} operations"
            f"{_share_of_peak(record['share_of_peak'])}).",
        ),
        figure=figures.learning_curve(log, evaluations),
        caption="Mean loss of the tokens up to and including each program's own end. It cannot fall to 0: "
        "most tokens of a program are free."
        + ("" if evaluations.empty else " Right: completion accuracy on held-out programs of the split validation."),
        table=log,
    )


def _machines(record: dict) -> str:
    """Where a model was trained, by its record: each device, its threads and the precision, in their order."""
    stretches = record.get("stretches") or [{**record, "precision": record["config"]["precision"]}]
    said = (f"{one['threads']} threads of {one['device']}, {one['precision']}" for one in stretches)
    return "; then ".join(dict.fromkeys(said))


def _share_of_peak(share: float) -> str:
    """Nothing of a share above 1, as records had it of CPUs that emulate bf16."""
    return f", {share:.0%} of what a large matrix product reaches" if share <= 1 else ""


def corpus_size(corpus: dict) -> str:
    """How many programs a model was trained on, by its record."""
    programs = corpus["programs"]
    return f"{programs:,} programs" if isinstance(programs, int) else programs


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
