"""The hypotheses of a sweep, answered one by one: supported, contradicted, undecided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analyses.studies.generalization.effects import best_models, doubt
from cadmus.statistics.clustered import benjamini_hochberg

POSITIVE, NEGATIVE, NONE = "positive", "negative", "none"
SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
NOTHING = 0.05  # a change (in shares) over all that a predictor ranges over, of which it is said that there is none
_NUMBERS = (
    *("effect", "low", "high", "p", "q", "wild_low", "wild_high", "wild_p", "reach"),
    *("bound_low", "bound_high", "inflation", "missing"),
)


@dataclass(frozen=True)
class Hypothesis:
    """What was expected before the runs."""

    response: str
    """The response that it is about."""
    predictor: str
    """A property, a factor, or another response."""
    expected: str
    """The sign of the effect: positive, negative or none."""
    name: str = ""
    """A short name."""
    statement: str = ""
    """The sentence."""

    def __post_init__(self) -> None:
        if self.expected not in (POSITIVE, NEGATIVE, NONE):
            raise ValueError(
                f"hypothesis {self.name or self.response!r}: expected = {self.expected!r} must be positive, negative "
                "or none"
            )


def hypothesis_of(entry: dict[str, Any]) -> Hypothesis:
    """The hypothesis that a table of a sweep's file says. Raises ValueError where it lacks what one needs."""
    response, predictor, expected = (entry.get(name) for name in ("response", "predictor", "expected"))
    if not (isinstance(predictor, str) and isinstance(expected, str) and isinstance(response, str)):
        raise ValueError(f"hypothesis {entry!r} needs a response, a predictor and what is expected, each a text")
    words = {name: str(entry.get(name, "")) for name in ("name", "statement")}
    return Hypothesis(response, predictor, expected, **words)


def answers(hypotheses: Sequence[tuple[Hypothesis, str]], effects: pd.DataFrame) -> pd.DataFrame:
    """A row per hypothesis: its verdict, the effect that it rests on, and why.

    A sign is supported, or contradicted by the other sign, where the interval of the mixed model excludes 0, q (p under
    Benjamini and Hochberg over the hypotheses) is at most 0.05, the wild bootstrap agrees, and no missing values could
    turn the sign. None is supported where the interval of what the response changes by, from the least to the greatest
    value of the predictor, lies within 0.05 of 0. The joint regression decides where it could be fitted; where the
    predictor is a response itself, that beside accuracy in distribution; else the predictor alone
    (`effects.best_models`).

    hypotheses: each with the column that its predictor is (`models.resolve`); effects: as `effects.effects` gives them.
    """
    rows = []
    for hypothesis, column in hypotheses:
        row = {
            "name": hypothesis.name or f"{hypothesis.predictor} on {hypothesis.response}",
            "statement": hypothesis.statement,
            "response": hypothesis.response,
            "predictor": column,
            "expected": hypothesis.expected,
        }
        mine = effects[(effects["response"] == hypothesis.response) & (effects["predictor"] == column)]
        fitted = best_models(mine).set_index("model")
        model = fitted.index[0] if len(fitted) else None
        values = {name: fitted.loc[model, name] if model else np.nan for name in _NUMBERS}
        head = {"model": model or "", "beside": fitted.loc[model, "beside"] if model else ""}
        whys = [why for why in mine["why"] if why]
        rows.append({**row, **head, **values, "why": whys[-1] if whys and not model else ""})
    names = ("name", "statement", "response", "predictor", "expected", "model", "beside", *_NUMBERS, "why")
    out = pd.DataFrame(rows, columns=list(names))
    out["q"] = benjamini_hochberg(out["p"].to_numpy(np.float64))
    judged = [_verdict(row) for row in out.to_dict("records")]
    out["verdict"] = [verdict for verdict, _ in judged]
    out["why"] = [why for _, why in judged]
    return out


def _verdict(row: dict[str, Any]) -> tuple[str, str]:
    """The verdict of a hypothesis, and why."""
    if np.isnan(row["effect"]):
        return UNDECIDED, row["why"] or "no regression could be fitted"
    doubt_of_sign = doubt(row)
    if row["expected"] == NONE and max(-row["low"], row["high"]) * row["reach"] <= NOTHING:
        return SUPPORTED, f"over the whole range the change lies within {NOTHING} of 0"
    if doubt_of_sign:
        return UNDECIDED, doubt_of_sign
    sign = POSITIVE if row["effect"] > 0 else NEGATIVE
    agrees = sign == row["expected"]
    return (SUPPORTED if agrees else CONTRADICTED), f"the effect is {sign}"
