"""The project's own verdicts on planted models: how often *used* and *unused* are said wrongly, and how often missed.

The value X of a planted model is judged as a variable of a trained model is: one patch per cell, and patches of several
positions of a layer at once, beside three controls (a source whose X is the base's, a source with a third value, random
vectors as long as the change); `effects` and `verdicts` make words of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analyses.studies.calibration.instruments import activations, logits, truth
from analyses.studies.calibration.planted import Cell, Planted
from cadmus.runtime.seeds import generator
from probes.interventions.editing.changes import patch
from probes.interventions.editing.edits import Edit
from probes.interventions.effects.effects import effects
from probes.interventions.effects.outcomes import Outcomes
from probes.interventions.effects.verdicts import MIN_PAIRS_UNUSED, by_variable, verdicts

PAIRS = MIN_PAIRS_UNUSED  # below it nothing is called unused
RESAMPLES = 1000
USED, USED_TOGETHER, UNUSED = "verdict: used", "verdict: used, several", "verdict: unused"
NAMES = (USED, USED_TOGETHER, UNUSED)
"""The names in the tables: of single cells, of several positions at once, and of a variable as a whole."""
Cells = tuple[Cell, ...]


@dataclass(frozen=True)
class _Programs:
    """Pairs, uint8 [pairs, length] each, and the answers that are asked for."""

    base: np.ndarray
    source: np.ndarray
    same: np.ndarray
    third: np.ndarray
    edited: np.ndarray  # the base with the source's X
    answers: np.ndarray  # int64 [pairs], of `edited`


def judgements(planted: Planted) -> pd.DataFrame:
    """The cases of `NAMES`, with the columns of an instrument and `instrument`.

    The stream before the first block is left out: a patch there is a change of input, of which no verdict is claimed.
    Of cells and sets of cells, `claimed` says that the verdict is *used*, the score is d. Of X as a
    whole, and of X tested only where nothing carries it (truth "null"), `claimed` says that the verdict is *unused*.
    """
    programs = _draw(planted)
    places = [(cell,) for cell in planted.cells if cell[0]] + _several(planted)
    outcomes = _outcomes(planted, programs, places)
    is_null = np.array([truth(planted, cells) in ("null", "decoy") for cells in places])
    roles = tuple(sorted(set(outcomes.cells.role)))
    whole = verdicts(effects(outcomes, resamples=RESAMPLES), roles)
    table = whole.assign(place=places)
    names = np.where(table.span == "single", USED, USED_TOGETHER)
    cases = pd.DataFrame(
        {
            "instrument": names,
            "case": table.place.map(str),
            "truth": [truth(planted, cells) for cells in table.place],
            "score": table.d,
            "low": table.d_low,
            "claimed": table.verdict == "used",
        }
    )
    nothing = verdicts(effects(_only(outcomes, is_null), resamples=RESAMPLES), roles)
    variables = [_variable(whole, "X", planted), _variable(nothing, "null cells", planted)]
    return pd.concat([cases, pd.DataFrame(variables)], ignore_index=True)


def _variable(table: pd.DataFrame, name: str, planted: Planted) -> dict[str, object]:
    """The case of a variable as a whole."""
    row = by_variable(table).iloc[0]
    carried = "duplicate" if planted.duplicates else "carrier"
    true = carried if name == "X" else "null"
    about = {"instrument": UNUSED, "case": name, "truth": true, "score": row.d, "low": row.d_low}
    return {**about, "claimed": row.verdict == "unused"}


def _draw(planted: Planted) -> _Programs:
    """Pairs that count. Of comparisons they discriminate: the source's own answer is neither the base's nor the edited
    one. The answer of the other fragments is X itself, so that there the source's own is the edited one; that it may be
    carried across is no error, since where the answer lies X lies."""
    rng = generator("calibration, judgements", planted.seed)
    base, source, same, third = (planted.draw(60 * PAIRS, rng) for _ in range(4))
    slot = planted.slot
    same[:, slot] = base[:, slot]
    edited, other = base.copy(), base.copy()
    edited[:, slot], other[:, slot] = source[:, slot], third[:, slot]
    digits = [base, source, same, third, edited, other]
    programs = [planted.programs(part) for part in digits]
    of_base, of_source, _, _, of_edited, of_other = (planted.answers(part) for part in programs)
    counts = (of_base != of_edited) & (of_other != of_edited) & (third[:, slot] != base[:, slot])
    if planted.fragment == "compare":
        counts &= (of_source != of_edited) & (of_source != of_base)
    else:
        counts &= of_other != of_base
    rows = np.flatnonzero(counts)
    rows = rows[logits(planted, programs[0][rows], [()])[0].argmax(1) == of_base[rows]][: PAIRS + PAIRS // 10]
    bases, sources, sames, thirds, edited_bases = (part[rows] for part in programs[:5])
    return _Programs(bases, sources, sames, thirds, edited_bases, of_edited[rows])


def _several(planted: Planted) -> list[Cells]:
    """Sets of cells of one layer: X's own positions from each on, and all that carry nothing at once."""
    own = sorted({position for _, position in planted.carriers | planted.duplicates})
    sets: dict[Cells, None] = {}
    for stream in range(1, planted.layers + 1):
        here = [position for s, position in planted.cells if s == stream]
        nothing = [p for p in here if truth(planted, [(stream, p)]) in ("null", "decoy")]
        of_x = [p for p in own if p in here]
        for positions in (*(of_x[start:] for start in range(len(of_x) - 1)), nothing):
            if len(positions) > 1:
                sets[tuple((stream, p) for p in positions)] = None
    return list(sets)


def _outcomes(planted: Planted, programs: _Programs, places: list[Cells]) -> Outcomes:
    """Success at every place under the interchange and under each control."""
    streams = {name: activations(planted, getattr(programs, name)) for name in ("base", "source", "same", "third")}
    rng = generator("calibration, random vectors", planted.seed)

    def of(name: str) -> Callable[[int], Tensor]:
        return lambda stream: streams[name][stream]

    random = []
    for base, source in zip(streams["base"], streams["source"], strict=True):
        noise = torch.from_numpy(rng.normal(size=base.shape)).float()
        random.append(base + noise / noise.norm(dim=-1, keepdim=True) * (source - base).norm(dim=-1, keepdim=True))
    success = {
        name: _success(planted, programs, places, values)
        for name, values in (
            ("interchange", of("source")),
            ("same_value", of("same")),
            ("third_value", of("third")),
            ("random", lambda stream: random[stream]),
        )
    }
    n = len(programs.base)
    positive = logits(planted, programs.edited, [()])[0].argmax(1) == programs.answers
    cells = pd.DataFrame(
        {
            "layer": [cells[0][0] for cells in places],
            "role": [f"position {cells[0][1]}" for cells in places],
            "span": ["single" if len(cells) == 1 else "from" for cells in places],
        }
    )
    return Outcomes(
        variable="X",
        cells=cells,
        mask=np.ones((len(places), n), bool),
        counts=np.ones(n, bool),
        success=success.pop("interchange"),
        controls=success,
        base_skeletons=np.arange(n),
        source_skeletons=np.arange(n),
        kinds=np.full(n, "discriminating"),
        strata=np.full(n, "computed"),
        positive=positive,
    )


def _success(planted: Planted, programs: _Programs, places: list[Cells], values: Callable[[int], Tensor]) -> np.ndarray:
    """Whether patches of each place give the edited answer: bool [places, pairs]."""
    arms = []
    for cells in places:
        stream, positions = cells[0][0], [position for _, position in cells]
        where = np.tile(positions, (len(programs.base), 1))
        arms.append(Edit(planted.site(stream), where, patch(values(stream)[:, positions])))
    return logits(planted, programs.base, arms).argmax(2) == programs.answers


def _only(outcomes: Outcomes, rows: np.ndarray) -> Outcomes:
    """The same of some cells: bool [cells]."""
    controls = {name: success[rows] for name, success in outcomes.controls.items()}
    cells = outcomes.cells[rows].reset_index(drop=True)
    return replace(outcomes, cells=cells, mask=outcomes.mask[rows], success=outcomes.success[rows], controls=controls)
