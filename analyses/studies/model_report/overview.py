"""The report in thirty seconds: one sentence, one picture and four cards, of whatever has been measured.

What a model completes, what a linear probe reads in it, and what it uses stand side by side, each beside its controls,
with a filled mark where a word is claimed and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.reporting import report
from analyses.reporting.figures import CONTROL, FIGURE_WIDTH, error, theme
from analyses.studies.interventions import words
from analyses.studies.model_report.study import ModelReportResults
from analyses.studies.state import tables as state_tables
from probes.measurement.scores import MARGIN

HIGH = 0.9  # a family's accuracy from which on the opening sentence counts it
_HIGH_TEXT = f"{HIGH:.0%}".replace("%", " %")
_SEEN, _UNSEEN = "test", "test_skeleton"  # splits: new programs of skeletons that training saw, and never saw
_STATE_WORDS = (  # patterns of variables' names and what the picture calls them
    (r"stack\.0\.value", "top of the stack"),
    (r"stack\.1\.value", "second on the stack"),
    (r"stack\.0\.kind", "kind of the top"),
    (r"stack\.1\.kind", "kind of the second"),
    (r"reg\.(.)\.value", r"register \1"),
    (r"reg\.(.)\.parity", r"parity of register \1"),
    (r"reg\.(.)\.live", r"whether \1 is read again"),
    (r"depth", "depth of the stack"),
    (r"all_true", "all values true"),
    (r"needed\.relation", "relation needed"),
)
_AT = {"arose": "where it arises", "loaded": "at its load", "consumed": "where it is taken", "stored": "at its store"}


# --- what the tables say ---------------------------------------------------------------------------------------------


def completed(results: ModelReportResults) -> pd.DataFrame:
    """What is completed (`completed_rows`); empty while unknown."""
    return pd.DataFrame() if results.accuracies is None else completed_rows(results.accuracies)


def completed_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of new programs whose skeletons training saw, a family each, the best first; table: rows of
    `cadmus.training.completion`."""
    return table[table.split == _SEEN].sort_values("accuracy", ascending=False, kind="stable")


def read(results: ModelReportResults) -> pd.DataFrame:
    """What is read (`read_rows`); empty while unknown."""
    return pd.DataFrame() if results.state is None else read_rows(results.state.scores)


def read_rows(scores: pd.DataFrame) -> pd.DataFrame:
    """A row per variable: where most is claimed of it, or else where the score lies farthest beyond its controls."""
    everywhere = state_tables.headline(scores)
    everywhere = state_tables.at_best_sites(everywhere[everywhere.score.notna()], scores)
    parts = [part for part in (everywhere, state_tables.best_of_roles(scores)) if len(part)]
    if not parts:
        return pd.DataFrame()
    rows = pd.concat(parts, ignore_index=True)
    rank = rows.claimed.map({"read": 2, "readable": 1}).fillna(0)
    rows = rows.assign(rank=rank, margin=rows.beyond_all.where(rank.eq(2), rows.beyond))
    order = rows.sort_values(["rank", "margin"], ascending=False, kind="stable")
    return order.drop_duplicates("variable").assign(control=lambda part: part.score - part.margin)


def used(results: ModelReportResults) -> pd.DataFrame:
    """What is used (`used_rows`); empty while unknown."""
    return pd.DataFrame() if results.interventions is None else used_rows(results.interventions.models[0].headlines)


def used_rows(headlines: pd.DataFrame) -> pd.DataFrame:
    """A row per variable that was exchanged, as the study of interventions has them, the greatest effect first; empty
    where no pair counts, as of a model that completes nothing."""
    if "accuracy" not in headlines:
        return pd.DataFrame()
    return headlines[headlines.use != "untested"].sort_values("d", ascending=False, kind="stable")


def state_words(row: Any) -> str:
    """A variable and its place in words, `register a, at its load`; row: of `read`."""
    name = row.variable
    for pattern, text in _STATE_WORDS:
        if re.fullmatch(pattern, name):
            name = re.sub(pattern, text, name)
            break
    return f"{name}, {_AT.get(row.group, row.group)}" if row.by == "role" else name


def _in_a_sentence(row: Any) -> str:
    """The same with its article: `the top of the stack at its load`."""
    text = state_words(row).replace(", ", " ", 1)
    return text if text.startswith(("register ", "whether ", "all ")) else f"the {text}"


# --- one sentence ----------------------------------------------------------------------------------------------------


def finding(results: ModelReportResults) -> str:
    """The report in one sentence: what the model completes, reads and uses, as far as it is known."""
    parts = list(filter(None, (_completes(results), _reads(results), _uses(results))))
    if not parts:
        return f"Nothing of {results.config.name} has been measured yet."
    return f"{results.config.name} {parts[0]}{''.join(f'; {part}' for part in parts[1:])}."


def _completes(results: ModelReportResults) -> str:
    rows = completed(results)
    if rows.empty:
        return ""
    count = int((rows.accuracy >= HIGH).sum())
    most = f"at least {_HIGH_TEXT} of held-out programs in {count} of {len(rows)} families"
    worst = rows.iloc[-1]
    if count == len(rows):
        return f"completes at least {_HIGH_TEXT} of held-out programs in every one of {len(rows)} families"
    return f"completes {most} (least: {worst.family}, {_interval(worst, 'accuracy')})"


def _reads(results: ModelReportResults) -> str:
    rows = read(results)
    if rows.empty:
        return ""
    claimed = rows[rows.claimed == "read"]
    if claimed.empty:
        return f"a linear probe reads none of {len(rows)} variables of the machine's state beyond every control"
    best = claimed.iloc[0]
    return (
        f"a linear probe reads {_count(claimed, rows)} variables of the machine's state beyond every control, "
        f"most clearly {_in_a_sentence(best)} ({_interval(best)} against {best.control:.2f})"
    )


def _uses(results: ModelReportResults) -> str:
    rows = used(results)
    if rows.empty:
        return ""
    moving = rows[rows.use == "used"]
    if moving.empty:
        return f"exchanging a value inside it moves its answers surely for none of {len(rows)} variables"
    best = moving.iloc[0]
    return (
        f"exchanging a value inside it moves its answer to the machine's for {_count(moving, rows)} variables, most "
        f"often {words.variable(best.variable)} ({_interval(best, 'accuracy')} against {best.control_score:.2f})"
    )


def _count(part: pd.DataFrame, rows: pd.DataFrame) -> str:
    return f"{len(part)} of {len(rows)}"


def _interval(row: Any, name: str = "") -> str:
    """A score with its interval: of the columns `score`, `low`, `high`, or of `accuracy` in either naming."""
    score = row[name or "score"]
    low, high = (row.get(f"{name}_{end}", row.get(end)) if name else row[end] for end in ("low", "high"))
    return report.with_interval(score, low, high)


# --- four cards ------------------------------------------------------------------------------------------------------


def cards(results: ModelReportResults) -> tuple[report.Card, ...]:
    """What the model completes, reads and uses, and how it generalizes; a card waits for what is still to come."""
    return (_completes_card(results), _reads_card(results), _uses_card(results), _generalizes_card(results))


def _waiting(title: str, results: ModelReportResults, part: str) -> report.Card:
    if part in results.coming:
        return report.Card(title, "…", "Still being measured.")
    return report.Card(title, "–", "Not measured for this page.")


def _completes_card(results: ModelReportResults) -> report.Card:
    rows = completed(results)
    if rows.empty:
        return _waiting("Completes", results, "completion")
    count = int((rows.accuracy >= HIGH).sum())
    best, worst = rows.iloc[0], rows.iloc[-1]
    text = (
        f"families of held-out programs completed at {_HIGH_TEXT} or better; best {best.family}, "
        f"{_interval(best, 'accuracy')}, least {worst.family}, {_interval(worst, 'accuracy')}."
    )
    return report.Card("Completes", f"{count} of {len(rows)}", text, "completion")


def _reads_card(results: ModelReportResults) -> report.Card:
    rows = read(results)
    if rows.empty:
        return _waiting("Reads", results, "state")
    count, readable = ((rows.claimed == word).sum() for word in ("read", "readable"))
    best = rows.iloc[0]
    text = (
        f"variables are read by a linear probe beyond every control, {readable} more beyond the controls of its own "
        f"class; most clearly {_in_a_sentence(best)}, {_interval(best)} against {best.control:.2f}."
    )
    section = "roles" if best.by == "role" else "state"
    return report.Card("Reads", f"{count} of {len(rows)}", text, section)


def _uses_card(results: ModelReportResults) -> report.Card:
    rows = used(results)
    if rows.empty:
        if results.untested:
            return report.Card("Uses", "–", f"Nothing could be exchanged: {results.untested}.")
        return _waiting("Uses", results, "interventions")
    moving, idle = (rows[rows.use == word] for word in ("used", "unused"))
    text = f"variables move the answer when their value is exchanged inside the model; {len(idle)} surely do not"
    if len(moving):
        best = moving.iloc[0]
        text += f". Most: {words.variable(best.variable)}, {_interval(best, 'accuracy')} against {_control(best)}"
    return report.Card("Uses", _count(moving, rows), f"{text}.", "findings")


def _control(row: Any) -> str:
    if pd.isna(row.control_score):
        return "controls that were not run"
    return f"{report.interval_of(row, 'control_score')} {words.control(row.control)}"


def _generalizes_card(results: ModelReportResults) -> report.Card:
    rows = completed(results)
    if rows.empty:
        return _waiting("Generalizes", results, "completion")
    table = results.accuracies
    assert table is not None, "it has rows"
    unseen = table[table.split == _UNSEEN].set_index("family")
    both = rows[rows.family.isin(unseen.index)]
    drop = (both.accuracy.to_numpy() - unseen.accuracy.reindex(both.family).to_numpy()).mean() if len(both) else np.nan
    others = table[~table.split.isin([_SEEN, _UNSEEN])].sort_values("accuracy", kind="stable")
    phrases = [
        f"{row['split'].replace('_', ' ')} ({row['family']}) {_interval(row, 'accuracy')}"
        for row in others.to_dict("records")
    ]
    text = "change of the mean accuracy from skeletons that training saw to skeletons that it never saw."
    if phrases:
        text += f" Unlike anything trained on: {'; '.join(phrases)}."
    return report.Card("Generalizes", f"{-drop + 0.0:+.2f}" if len(both) else "–", text, "completion")


# --- one picture -----------------------------------------------------------------------------------------------------


def picture(results: ModelReportResults) -> report.Section:
    """The three side by side, as a section without a heading of its own."""
    return report.Section(
        "overview",
        "What the model completes, reads and uses",
        figure=_figure(results),
        caption=(
            "Left: held-out programs completed, by family; hollow: of skeletons that training never saw. Middle: what "
            "a linear probe reads of the machine's state, where most is claimed of it. Right: answers that an exchange "
            "of the value inside the model moves to the one that the machine asks for. Bars are 95 % intervals, grey "
            f"ticks the best control on the same programs. Filled: claimed (surely more than {MARGIN} beyond every "
            "control); half filled: beyond the controls of the probe's own class."
        ),
        alt=_alt(results),
    )


def _alt(results: ModelReportResults) -> str:
    """What is seen in the picture."""
    parts = []
    rows = completed(results)
    if len(rows):
        parts.append(
            f"{len(rows)} families, completed from {rows.accuracy.iloc[-1]:.2f} ({rows.family.iloc[-1]}) to "
            f"{rows.accuracy.iloc[0]:.2f} ({rows.family.iloc[0]})"
        )
    rows = read(results)
    if len(rows):
        names = [state_words(row) for row in rows[rows.claimed == "read"].itertuples()]
        parts.append(f"{len(rows)} variables read, {_listed(names)} beyond every control")
    rows = used(results)
    if len(rows):
        names = [words.variable(name) for name in rows.variable[rows.use == "used"]]
        parts.append(f"{len(rows)} variables exchanged, {_listed(names)} used")
    return f"Three panels of points with intervals: {'; '.join(parts)}."


def _listed(names: list[str]) -> str:
    return report.listed(names) or "none"


def _figure(results: ModelReportResults) -> Figure:
    rows = [completed(results), read(results), used(results)]
    height = 0.9 + 0.24 * max(7, *map(len, rows))
    with theme():
        figure = Figure(figsize=(FIGURE_WIDTH, height), layout="constrained")
        panels = figure.subplots(1, 3)
        titles = ("completes", "reads", "uses")
        draws = (_draw_completed, _draw_read, _draw_used)
        parts = ("completion", "state", "interventions")
        for ax, title, table, draw, part in zip(panels, titles, rows, draws, parts, strict=True):
            ax.set_title(title, fontsize=10, loc="left", weight="bold")
            if table.empty:
                text = "still being measured" if part in results.coming else "not measured"
                ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, fontsize=8, color="0.35")
                ax.set_axis_off()
                continue
            draw(ax, table, results)
            ax.set(xlim=(-0.03, 1.03), ylim=(len(table) - 0.5, -0.6), xlabel="share")
            ax.tick_params(labelsize=7)
            ax.grid(axis="y", visible=False)
    return figure


def _draw_completed(ax: Axes, table: pd.DataFrame, results: ModelReportResults) -> None:
    assert results.accuracies is not None, "it has rows"
    unseen = results.accuracies[results.accuracies.split == _UNSEEN].set_index("family").reindex(table.family)
    y = np.arange(len(table))
    _points(ax, unseen, y + 0.18, "accuracy", hollow=np.ones(len(table), bool))
    _points(ax, table, y - 0.12, "accuracy", hollow=np.zeros(len(table), bool))
    ax.set_yticks(y, [name.replace("_", " ") for name in table.family])


def _draw_read(ax: Axes, table: pd.DataFrame, results: ModelReportResults) -> None:
    y = np.arange(len(table))
    _points(ax, table, y, "score", hollow=table.claimed.eq("").to_numpy(), half=table.claimed.eq("readable").to_numpy())
    _ticks(ax, table.control, y)
    ax.set_yticks(y, [state_words(row) for row in table.itertuples()])


def _draw_used(ax: Axes, table: pd.DataFrame, results: ModelReportResults) -> None:
    y = np.arange(len(table))
    table = table.rename(columns={"accuracy_low": "low", "accuracy_high": "high"})
    _points(ax, table, y, "accuracy", hollow=table.use.ne("used").to_numpy())
    _ticks(ax, table.get("control_score", pd.Series(np.nan, table.index)), y)
    ax.set_yticks(y, [_short(name) for name in table.variable])


def _short(variable: str) -> str:
    """A variable in words, short enough for an axis."""
    text = words.variable(variable)
    for article in ("the ", "an "):
        text = text.removeprefix(article)
    return text.replace(" of a ", " of a\n").replace(" beneath ", "\nbeneath ").replace(" on top", "\non top")


def _points(
    ax: Axes, table: pd.DataFrame, y: np.ndarray, name: str, *, hollow: np.ndarray, half: np.ndarray | None = None
) -> None:
    """Draw scores with their intervals: filled, hollow or half filled."""
    values = table.assign(value=table[name])
    half = np.zeros(len(table), bool) if half is None else half
    styles: list[tuple[np.ndarray, dict[str, Any]]] = [
        (hollow & ~half, {"mfc": "w"}),
        (half, {"fillstyle": "left", "markerfacecoloralt": "w"}),
        (~hollow & ~half, {}),
    ]
    for chosen_rows, style in styles:
        part = values[chosen_rows]
        if len(part):
            reach = error(part.value, part.low, part.high)
            ax.errorbar(
                part.value, y[chosen_rows], xerr=reach, fmt="o", color="C0", ms=5, lw=1.2, elinewidth=1, ls="", **style
            )


def _ticks(ax: Axes, controls: pd.Series, y: np.ndarray) -> None:
    """Mark the best control of each row."""
    ax.plot(controls, y, "|", color=CONTROL, ms=9, mew=1.8, ls="")


def statements(results: ModelReportResults) -> Iterator[str]:
    """What must be known of the picture: what was not tested, and that a first look was taken."""
    if results.untested:
        yield f"No value was exchanged inside the model: {results.untested}."
    if results.config.quick:
        yield (
            "This is a first look at small samples: controls still rise with more programs, and much stays undecided "
            "that a full report decides."
        )
