"""The paper's Figure 1: over the plane of two computed numbers, how often the model's next token is their relation.

Programs of `compare` are drawn for every pair of values in [-reach, reach]²: within the trained square those of held-
out splits, beyond it any, since training draws no such values.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from cadmus.corpora.membership import program_hashes
from cadmus.machine import tokens, vm
from cadmus.models.model import Model
from cadmus.programs import splits
from cadmus.programs.families import Compare
from cadmus.programs.families.compare import RELATIONS, relation
from cadmus.programs.holdout import HoldOut
from cadmus.programs.parts.pieces import join, same
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.seeds import generator
from cadmus.statistics.proportions import wilson

REGIONS = ("inside", "outside, X = Y", "outside, X and Y differ")
"""Of the plane, by the trained square."""

ANSWERS = ("less", "equal", "greater", "other")
"""Columns of a plane: how often the model answered so."""

_TEST = [splits.SPLITS.index(split) for split in ("test", "test_skeleton")]
_BATCH = 8192  # programs read at once
_MAX_ROUNDS = 200  # of drawing programs for cells that have few


def figure1(
    model: Model,
    family: Compare,
    hold_out: HoldOut | None = None,
    *,
    reach: int = 40,
    programs: int = 10,
    seed: int = 0,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """How often the model's next token after X Y is their relation: a row per cell (x, y) of [-reach, reach]².

    Args:
        model: answers after Y's last token.
        family: the compare programs that the model was trained on; its low..high is the trained square.
        hold_out: rules whose programs are left out.
        reach: X and Y lie in -reach..reach.
        programs: how many a cell, all unseen in training and of expressions as `family` has them: in the trained square
            those of held-out splits, beyond it any, since training draws no such values.
        seed: of the programs drawn.
        progress: is told how many programs are answered.

    Returns:
        Columns x, y, region (one of REGIONS), accuracy, n (fewer than `programs` where a cell has not as many), and how
        often the model answered less, equal, greater, other.

    Raises:
        ValueError: a cell has no program, or the programs do not fit the model.
    """
    drawn_programs, cells = draw_plane(family, reach, hold_out, programs, seed)
    answers = _answers(model, drawn_programs, progress)
    relations = np.array([vm.VOCAB.index(token) for token in RELATIONS])
    correct = answers == relations[np.sign(cells[:, 0] - cells[:, 1]) + 1]
    counts = {name: answers == token for name, token in zip(("less", "equal", "greater"), relations, strict=True)}
    counts["other"] = ~np.isin(answers, relations)
    table = pd.DataFrame({"x": cells[:, 0], "y": cells[:, 1], "accuracy": correct, "n": 1, **counts})
    table = table.groupby(["x", "y"], as_index=False).agg(
        {"accuracy": "mean", "n": "sum", **dict.fromkeys(counts, "sum")}
    )
    return table.assign(region=region_of(table.x.to_numpy(), table.y.to_numpy(), family), seed=seed)


def region_of(x: np.ndarray, y: np.ndarray, family: Compare) -> np.ndarray:
    """The region of each pair of values, one of `REGIONS`: text [n]."""
    return np.where(_inside(x, y, family), REGIONS[0], np.where(x == y, REGIONS[1], REGIONS[2]))


def _answers(model: Model, programs: np.ndarray, progress: Progress) -> np.ndarray:
    """The model's next token after the last but one of each program's tokens, Y's last: int64 [n]."""
    positions = tokens.lengths(programs) - 1  # of Y's last token: position 0 holds the marker
    answers = np.empty(len(programs), np.int64)
    for start in range(0, len(programs), _BATCH):
        rows = slice(start, start + _BATCH)
        sequences = torch.from_numpy(tokens.sequences(programs[rows])).to(model.device)
        with torch.no_grad():
            logits = model(sequences)  # [batch, pos, d_vocab]
        last = torch.from_numpy(positions[rows]).to(model.device)
        answers[rows] = logits[torch.arange(len(sequences)), last].argmax(-1).cpu().numpy()
        progress("compare over the plane", min(1.0, (start + _BATCH) / len(programs)), "")
    return answers


def _inside(x: np.ndarray | pd.Series, y: np.ndarray | pd.Series, family: Compare) -> np.ndarray:
    """Whether both values lie in the trained square."""
    return (np.minimum(x, y) >= family.low) & (np.maximum(x, y) <= family.high)


def draw_plane(
    trained_family: Compare, reach: int, hold_out: HoldOut | None, n_per_cell: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """`n_per_cell` distinct unseen programs, fewer where there are not as many, for every pair of values: uint8
    [n, width] and int64 [n, 2]. Raises ValueError where a cell has none."""
    family = replace(trained_family, low=-reach, high=reach, assertions=1)
    rng = generator("figure 1", seed)
    values = np.arange(family.low, family.high + 1)
    cells = np.stack(np.meshgrid(values, values, indexing="ij"), -1).reshape(-1, 2)  # [cells, (x, y)]
    n_missing = np.full(len(cells), n_per_cell)
    rounds: list[tuple[np.ndarray, np.ndarray]] = []
    known_hashes: set[int] = set()
    for _ in range(_MAX_ROUNDS):
        open_cells = np.flatnonzero(n_missing)
        if not len(open_cells):
            break
        cell_of = np.repeat(open_cells, 4 * n_missing[open_cells])
        programs, cell_of = _draw_unseen(family, trained_family, cells, cell_of, hold_out, rng)
        kept_rows = []
        for i, (cell, key) in enumerate(zip(cell_of.tolist(), program_hashes(programs).tolist(), strict=True)):
            if n_missing[cell] and key not in known_hashes:
                known_hashes.add(key)
                n_missing[cell] -= 1
                kept_rows.append(i)
        rounds.append((programs[kept_rows], cell_of[kept_rows]))
    empty = np.flatnonzero(n_missing == n_per_cell)
    if len(empty):
        x, y = cells[empty[0]]
        raise ValueError(
            f"{len(empty)} cells, ({x}, {y}) the first, have no unseen program; ask for a smaller reach or longer "
            "expressions"
        )
    programs, cell_of = (np.concatenate(parts) for parts in zip(*rounds, strict=True))
    return programs, cells[cell_of]


def _draw_unseen(
    family: Compare,
    trained_family: Compare,
    cells: np.ndarray,
    cell_of: np.ndarray,
    hold_out: HoldOut | None,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a program for each entry of `cell_of`, and keep those that training cannot have seen, with their cells."""
    x, y = cells[cell_of].T
    parts = family.numbers.draw(x, rng), family.numbers.draw(y, rng), relation(x, y), same(vm.END, len(x))
    programs = join(family.width, *parts)
    unseen = np.isin(splits.splits(programs), _TEST) | ~_inside(x, y, trained_family)
    if hold_out is not None:  # questions are kept out of training, and may well be asked here
        unseen &= ~replace(hold_out, questions=False).holds_out(programs)
    return programs[unseen], cell_of[unseen]


def by_region(table: pd.DataFrame) -> pd.DataFrame:
    """A row per region of the plane: right answers, programs, accuracy with its Wilson interval, and the answers given;
    table: as `figure1` gives it."""
    rows = []
    for region in REGIONS:
        part = table[table.region == region]
        n = int(part.n.sum())
        n_correct = round(float((part.accuracy * part.n).sum()))
        if n:
            low, high = wilson([n_correct], [n])
            answers = {name: int(part[name].sum()) for name in ANSWERS}
            accuracy = {"accuracy": n_correct / n, "low": low[0], "high": high[0]}
            rows.append({"region": region, "n": n, **accuracy, **answers})
    return pd.DataFrame(rows)
