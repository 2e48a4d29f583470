"""A chat model's replies to the comparison task as a page: Figure 1 for each alphabet, and what could not be read."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analyses.reporting import planes, report
from analyses.studies.paper import replies
from analyses.studies.paper.prompts import Prompt
from analyses.studies.paper.replies import KINDS, Scores
from cadmus.statistics.proportions import wilson

_PAPER = "The paper's GPT-5 is right in 95 % with standard and in 49 % with alternate symbols, over the whole plane."


def make(prompts_file: Path, replies_file: Path, out: Path | str) -> tuple[Path, Scores]:
    """Read and score the replies, and write the page, its figures and tables to `out`; returns the page's path and the
    scores. Raises ValueError, naming the line, for files that are not what they should be."""
    prompts = replies.read_prompts(prompts_file)
    scores = replies.score(prompts, replies.read_replies(replies_file))
    about = {"prompts": str(prompts_file), "replies": str(replies_file)}
    about["command"] = f"cadmus-probe prompts score {prompts_file} {replies_file}"
    title = "Figure 1 of the paper for a chat model"
    return report.write(report.Report(title, summary(scores), sections(prompts, scores), about), out), scores


def summary(scores: Scores) -> tuple[str, ...]:
    """How many replies are right, by alphabet, and how many could not be read."""
    sentences = []
    for alphabet, part in scores.counts.groupby("alphabet", sort=False):
        n, n_right, missing = (int(part[column].sum()) for column in ("replies", "right", "missing"))
        unreadable = int(part[list(KINDS)].to_numpy().sum())
        if not n:
            sentences.append(f"In {alphabet} symbols none of {missing:,} prompts has a reply.")
            continue
        low, high = wilson([n_right], [n])
        sentences.append(
            f"In {alphabet} symbols {report.with_interval(n_right / n, low[0], high[0])} of {n:,} replies are right; "
            f"{unreadable:,} cannot be read and count as wrong, and {missing:,} prompts have no reply."
        )
    if scores.n_unknown:
        sentences.append(f"{scores.n_unknown:,} replies name no prompt of the file and are left out.")
    return tuple(sentences)


def sections(prompts: list[Prompt], scores: Scores) -> tuple[report.Section, ...]:
    """The plane of each alphabet that has a reply, the counts, and every reply as it was read."""
    of_alphabets = []
    for alphabet in dict.fromkeys(scores.replies.alphabet):
        plane = scores.plane(alphabet)
        of_alphabets.append(
            report.Section(
                f"plane-{alphabet}",
                f"The plane of X and Y in {alphabet} symbols",
                (
                    "Each program computes X and Y; the reply is right where it is the symbol of their relation. A "
                    "reply that says no symbol, or several, counts as wrong. " + _PAPER,
                ),
                figure=planes.plane(plane, *prompts[0].trained),
                caption="Left: each cell is the share of right replies; cells without one are blank. Right: the same "
                "by the distance of X and Y; bands: 95 % (Wilson).",
                table=plane,
            )
        )
    counts = report.Section(
        "counts",
        "Replies by region, and what could not be read",
        ("Unreadable are replies without text, without a symbol, with several, and several replies that differ.",),
        table=scores.counts,
        display_table=_display_table(scores.counts),
    )
    each = report.Section(
        "replies",
        "Every reply",
        ("The table holds each reply as it came, beside what was read in it: look there before you cite a number.",),
        table=scores.replies,
    )
    return (*of_alphabets, counts, each)


def _display_table(counts: pd.DataFrame) -> pd.DataFrame:
    """The counts, formatted for reading."""
    return pd.DataFrame(
        {
            "symbols": counts.alphabet,
            "region": counts.region,
            "right": report.intervals(
                counts.rename(columns={"low": "accuracy_low", "high": "accuracy_high"}), "accuracy"
            ),
            "right of readable": counts.accuracy_of_readable.map(report.number),
            "replies": counts.replies.map("{:,}".format),
            **{kind: counts[kind].map("{:,}".format) for kind in KINDS},
            "no reply": counts.missing.map("{:,}".format),
        }
    )
