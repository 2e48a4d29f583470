"""What a chat model replied to the prompts of `analyses.studies.paper.prompts`, read and counted as Figure 1.

Replies come as JSON Lines, a line for each with the prompt's id, and are read by `answers.read`. What does not say one
symbol is unreadable: it counts as wrong, and is counted by its kind.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.studies.paper import answers
from analyses.studies.paper.prompts import ALPHABETS, Prompt, relations
from cadmus.runtime import artifacts
from cadmus.statistics.proportions import wilson
from cadmus.training.plane import REGIONS

DUPLICATES = "several replies"  # to one prompt, which say different things
KINDS = (*answers.UNREADABLE, DUPLICATES)  # of unreadable replies

_TEXT_KEYS = ("reply", "response", "content", "text", "completion", "output", "answer", "message", "body", "choices")
_ID_KEYS = ("id", "custom_id")


# --- the files -------------------------------------------------------------------------------------------------------


def read_prompts(path: Path | str) -> list[Prompt]:
    """The prompts of a file that `export` wrote. Raises ValueError, naming the line, for what is none."""
    prompts = []
    for number, row in _rows(path):
        missing = [field.name for field in fields(Prompt) if field.name not in row]
        if missing:
            raise ValueError(
                f"{path}, line {number} has no {missing[0]!r}; name a file that cadmus-probe prompts export wrote"
            )
        symbols = relations(row["alphabet"]) if row["alphabet"] in ALPHABETS else ()
        square = row["trained"]
        has_square = isinstance(square, list) and len(square) == 2
        if row["answer"] not in symbols or row["region"] not in REGIONS or not has_square:
            raise ValueError(f"{path}, line {number} is no prompt: its alphabet, region and answer do not fit")
        prompt = Prompt(**{field.name: row[field.name] for field in fields(Prompt)})
        prompts.append(replace(prompt, trained=(square[0], square[1])))
    if len({prompt.id for prompt in prompts}) < len(prompts):
        raise ValueError(f"{path} has an id twice; export the prompts anew")
    return prompts


def read_replies(path: Path | str) -> list[tuple[str, str]]:
    """(id, text) of every reply of a JSON Lines file, in order.

    A line is an object with `id` (or `custom_id`) and the text, under `reply` or as chat services write it: `response`,
    `content`, `message`, `choices`, `body`, nested or not. A text that is missing or null is empty. Raises ValueError,
    naming the line, for one that is no such object.
    """
    replies = []
    for number, row in _rows(path):
        identity = next((row[key] for key in _ID_KEYS if isinstance(row.get(key), str)), None)
        if identity is None:
            raise ValueError(f"{path}, line {number} has no id; give each reply the id of its prompt")
        if not any(key in row for key in _TEXT_KEYS):
            raise ValueError(f"{path}, line {number} has no reply; its keys are {', '.join(row)}")
        replies.append((identity, _text(row)))
    return replies


def _rows(path: Path | str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of a JSON Lines file; ValueError for a line that is no object, and for a file without one."""
    n = 0
    for number, line in enumerate(artifacts.read_text(Path(path)).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON ({error.msg}); write an object on each line") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number} is a {type(row).__name__}; write an object on each line")
        n += 1
        yield number, row
    if not n:
        raise ValueError(f"{path} has no line; write an object on each")


def _text(value: Any) -> str:
    """The text of a reply, however it is wrapped."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(_text, value))
    if isinstance(value, Mapping):
        return next((_text(value[key]) for key in _TEXT_KEYS if value.get(key) is not None), "")
    return ""


# --- counting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """What came back, counted."""

    replies: pd.DataFrame
    """A row per prompt that was replied to: id, alphabet, x, y, region, program, answer (the right symbol), `said` (one
    of `answers.ANSWERS`, or of `KINDS`), `correct`, and the reply as it came (several, a line each)."""
    counts: pd.DataFrame
    """A row per alphabet and region: prompts, replies, right ones, `accuracy` among all replies with its Wilson
    interval, `accuracy_of_readable`, how many are unreadable by kind, and how many had no reply (`missing`)."""
    n_unknown: int
    """Replies whose id is none of a prompt; left out."""

    def plane(self, alphabet: str) -> pd.DataFrame:
        """Figure 1 of an alphabet's replies: a row per x and y, as `cadmus.training.plane.figure1` gives it; `other` is
        unreadable."""
        rows = self.replies[self.replies.alphabet == alphabet]
        table = rows[["x", "y", "region"]].assign(accuracy=rows.correct, n=1)
        for name in answers.ANSWERS:
            table[name] = rows.said == name
        table["other"] = ~rows.said.isin(answers.ANSWERS)
        sums = dict.fromkeys(("n", *answers.ANSWERS, "other"), "sum")
        return table.groupby(["x", "y", "region"], as_index=False).agg({"accuracy": "mean", **sums})


def score(prompts: list[Prompt], replies: list[tuple[str, str]]) -> Scores:
    """Read the replies to prompts, (id, text) each, and count them. Several replies to one prompt count as one if they
    say the same. Raises ValueError where no reply is to any of the prompts."""
    texts: dict[str, list[str]] = {prompt.id: [] for prompt in prompts}
    n_unknown = 0
    for identity, text in replies:
        if identity in texts:
            texts[identity].append(text)
        else:
            n_unknown += 1
    if n_unknown == len(replies):
        raise ValueError(f"none of the {len(replies)} replies has the id of one of the {len(prompts)} prompts")
    rows = [_row(prompt, texts[prompt.id]) for prompt in prompts if texts[prompt.id]]
    table = pd.DataFrame(rows)
    return Scores(table, _counts(prompts, table), n_unknown)


def _row(prompt: Prompt, texts: list[str]) -> dict[str, Any]:
    readings = {answers.read(text, prompt) for text in texts}
    (what,) = readings if len(readings) == 1 else (DUPLICATES,)
    return {
        "id": prompt.id,
        "alphabet": prompt.alphabet,
        "x": prompt.x,
        "y": prompt.y,
        "region": prompt.region,
        "program": prompt.program,
        "answer": prompt.answer,
        "said": what,
        "correct": what == answers.ANSWERS[relations(prompt.alphabet).index(prompt.answer)],
        "reply": "\n".join(texts),
    }


def _counts(prompts: list[Prompt], table: pd.DataFrame) -> pd.DataFrame:
    """The table `Scores.counts`; regions without a prompt have no row."""
    questions = pd.DataFrame([(prompt.alphabet, prompt.region) for prompt in prompts], columns=["alphabet", "region"])
    rows = []
    for alphabet in ALPHABETS:
        for region in REGIONS:
            part = table[(table.alphabet == alphabet) & (table.region == region)]
            n_asked = int(((questions.alphabet == alphabet) & (questions.region == region)).sum())
            if not n_asked:
                continue
            n, n_right = len(part), int(part.correct.sum())
            kinds = {kind: int((part.said == kind).sum()) for kind in KINDS}
            n_readable = n - sum(kinds.values())
            low, high = wilson([n_right], [n])
            rows.append(
                {"alphabet": alphabet, "region": region, "prompts": n_asked, "replies": n, "right": n_right}
                | {"accuracy": n_right / n if n else np.nan, "low": low[0], "high": high[0]}
                | {"accuracy_of_readable": n_right / n_readable if n_readable else np.nan}
                | kinds
                | {"missing": n_asked - n}
            )
    return pd.DataFrame(rows)
