"""The instruments that are calibrated: what each says of every case in a planted model, beside what is true of it.

An instrument is a function (planted, programs) -> cases: for a cell of the residual stream, a pair of them, an edge or
the edges of a query, its score, the lower bound of that score, and whether it *claims* that the case carries X, which
it does where the bound exceeds 0.05. The score is always the instrument's effect minus that of its own control on the
same programs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analyses.studies.calibration.planted import CONDITIONS, Cell, Edge, Planted
from cadmus.machine import tokens
from cadmus.runtime.seeds import generator
from cadmus.statistics import clustered
from probes.interventions.editing import engine
from probes.interventions.editing.changes import patch
from probes.interventions.editing.edits import EdgeEdit, Edit
from probes.interventions.subspaces.directions import Directions, Steering, of_classes
from probes.interventions.subspaces.erasure import leace, random_projection
from probes.solvers.moments import Moments

MARGIN = 0.05  # an effect is claimed where its lower bound exceeds this
MIN_MASS = 0.02  # mean attention of the edges that are tried
MAX_EDGES = 60  # null edges of a model that are tried, drawn
MASS_TOLERANCE = 0.1  # by which the attention of a control edge differs, at most
MIN_VARIANCE = 1e-9  # of the activations at a cell, all dimensions together: below it, rounding
JITTER = 1e-2  # of activations that a discriminant is fitted to: where X is all that varies, its classes have no width
MIN_READ = 0.5  # accuracy on other programs from which a cell is steered: below it there is nothing to steer by


@dataclass(frozen=True)
class Programs:
    """What instruments run on: pairs of programs of a planted model, and others that directions are fitted to."""

    base: np.ndarray
    """uint8 [pairs, length]"""
    source: np.ndarray
    """uint8 [pairs, length]: X is another digit, and the other digits are drawn anew."""
    same: np.ndarray
    """uint8 [pairs, length]: X is the base's, and the other digits are drawn anew: the control of patching."""
    values: np.ndarray
    """int64 [pairs]: the source's X."""
    answers: np.ndarray
    """int64 [pairs]: token ids that the machine asks for after the base."""
    edited: np.ndarray
    """int64 [pairs]: token ids that it asks for where X is the source's; never the base's answer."""
    fit: np.ndarray
    """uint8 [programs, length]"""
    fit_values: np.ndarray
    """int64 [programs]: their X."""

    @classmethod
    def draw(cls, planted: Planted, pairs: int, fit: int) -> Programs:
        """So many pairs of which the model completes the base correctly, and so many programs to fit to."""
        rng = generator("calibration, programs", planted.seed)
        base, source, same = (planted.draw(20 * pairs, rng) for _ in range(3))
        same[:, planted.slot] = base[:, planted.slot]
        edited = base.copy()
        edited[:, planted.slot] = source[:, planted.slot]
        answers, edited_answers = (planted.answers(planted.programs(digits)) for digits in (base, edited))
        right = logits(planted, planted.programs(base), [()])[0].argmax(1) == answers
        rows = np.flatnonzero(right & (answers != edited_answers))[:pairs]
        digits = planted.draw(fit, rng)
        return cls(
            base=planted.programs(base[rows]),
            source=planted.programs(source[rows]),
            same=planted.programs(same[rows]),
            values=source[rows, planted.slot],
            answers=answers[rows],
            edited=edited_answers[rows],
            fit=planted.programs(digits),
            fit_values=digits[:, planted.slot],
        )


Instrument = Callable[[Planted, Programs], pd.DataFrame]
"""(planted, programs) -> a row per case: case, truth, score, low, claimed."""


def logits(planted: Planted, programs: np.ndarray, arms: Sequence[Any]) -> np.ndarray:
    """float32 [arms, programs, d_vocab] at the answer; an arm that changes nothing leaves the model as it is."""
    sequences = tokens.sequences(programs)
    at = np.full(len(programs), planted.length)
    return engine.run(planted.model, sequences, arms, at).logits.numpy()


def activations(planted: Planted, programs: np.ndarray) -> list[Tensor]:
    """The residual streams, float32 [programs, positions, d_model] each."""
    sites = [planted.site(stream) for stream in range(planted.layers + 1)]
    by_site = engine.activations(planted.model, tokens.sequences(programs), sites)
    return [by_site[site] for site in sites]


def truth(planted: Planted, cells: Sequence[Cell]) -> str:
    """What a set of cells is: `carrier`, `duplicate` (two of those suffice), `decoy` or `null`."""
    if planted.carriers & set(cells):
        return "carrier"
    n_duplicates = len(planted.duplicates & set(cells))
    if n_duplicates > 1 or (n_duplicates and len(cells) == 1):
        return "duplicate"
    return "decoy" if planted.decoys & set(cells) else "null"


def _cases(names: Sequence[Any], truths: Sequence[str], effect: np.ndarray, control: np.ndarray) -> pd.DataFrame:
    """The cases of an instrument; effect, control: of each program, [cases, programs], bool or a share."""
    sums = np.stack([effect.T, control.T, np.ones(effect.T.shape)], 2).astype(float)  # [programs, cases, 3]
    d = clustered.difference_many(sums)
    claimed = d.low > MARGIN
    columns = {"case": [str(name) for name in names], "truth": list(truths)}
    return pd.DataFrame({**columns, "score": d.estimate, "low": d.low, "claimed": claimed})


# --- activations -----------------------------------------------------------------------------------------------------


def patch_cells(planted: Planted, programs: Programs) -> pd.DataFrame:
    """Interchange of the residual stream at one position, minus the same from a source whose X is the base's."""
    return _patched(planted, programs, [(cell,) for cell in planted.cells])


def patch_pairs(planted: Planted, programs: Programs) -> pd.DataFrame:
    """The same at two positions at once, of one layer."""
    cells = planted.cells
    return _patched(planted, programs, [(a, b) for a, b in combinations(cells, 2) if a[0] == b[0]])


def _patched(planted: Planted, programs: Programs, places: Sequence[tuple[Cell, ...]]) -> pd.DataFrame:
    successes = []
    for sources in (programs.source, programs.same):
        streams = activations(planted, sources)
        arms = []
        for cells in places:
            stream, positions = cells[0][0], [position for _, position in cells]
            where = np.tile(positions, (len(programs.base), 1))
            arms.append(Edit(planted.site(stream), where, patch(streams[stream][:, positions])))
        successes.append(logits(planted, programs.base, arms).argmax(2) == programs.edited)
    return _cases(places, [truth(planted, cells) for cells in places], *successes)


def steer_cells(planted: Planted, programs: Programs) -> pd.DataFrame:
    """The least shift after which the discriminant of X reads the source's X, minus a random shift as long."""
    return _steered(planted, programs, along_covariance=False)


def steer_cells_along_covariance(planted: Planted, programs: Programs) -> pd.DataFrame:
    """The same, least in the metric of the activations' covariance."""
    return _steered(planted, programs, along_covariance=True)


def _steered(planted: Planted, programs: Programs, along_covariance: bool) -> pd.DataFrame:
    streams = activations(planted, programs.base)
    rng = generator("calibration, random shifts", planted.seed)
    arms: list[Edit] = []
    controls: list[Edit] = []
    steered = []
    for cell, (directions, moments, is_correct) in _read_outs(planted, programs).items():
        if is_correct.mean() < MIN_READ:
            continue
        stream, position = cell
        x = streams[stream][:, position].double()
        covariance = moments.scatter / moments.n if along_covariance else None
        shift = Steering.of(directions, covariance=covariance).shift(x, directions.targets(programs.values))
        noise = torch.from_numpy(rng.normal(size=x.shape))
        noise *= shift.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
        for of_arm, moved in ((arms, x + shift), (controls, x + noise)):
            of_arm.append(Edit(planted.site(stream), position, patch(moved.float())))
        steered.append(cell)
    success, control = np.zeros((2, len(planted.cells), len(programs.base)), bool)
    rows = [planted.cells.index(cell) for cell in steered]
    if rows:
        success[rows] = logits(planted, programs.base, arms).argmax(2) == programs.edited
        control[rows] = logits(planted, programs.base, controls).argmax(2) == programs.edited
    return _cases(planted.cells, [truth(planted, (cell,)) for cell in planted.cells], success, control)


def _read_outs(planted: Planted, programs: Programs) -> dict[Cell, tuple[Directions, Moments, np.ndarray]]:
    """The directions of X at every cell whose activations vary, with the moments they are fitted to, on half of the
    programs, and where they read the other half correctly: bool [programs]."""
    half = len(programs.fit) // 2
    streams, y = activations(planted, programs.fit), programs.fit_values
    values = np.unique(y[:half])
    rng = generator("calibration, jitter", planted.seed)
    read_outs = {}
    for stream, position in planted.cells:
        x = streams[stream][:, position].double().numpy()
        x = x + JITTER * x.std() * rng.normal(size=x.shape)
        moments, validation = (
            Moments.of(x[rows], y[rows, None] == values) for rows in (slice(half), slice(half, None))
        )
        if np.trace(moments.scatter) / half > MIN_VARIANCE:
            directions = of_classes(planted.site(stream), "X", moments, values, validation)
            read_outs[stream, position] = (directions, moments, directions.predict(x[half:]) == y[half:])
    return read_outs


def read_cells(planted: Planted, programs: Programs) -> pd.DataFrame:
    """No intervention: the discriminant's accuracy on programs that it was not fitted to, minus the best constant's."""
    half = len(programs.fit) // 2
    constant = programs.fit_values[half:] == np.bincount(programs.fit_values[:half]).argmax()
    control = np.broadcast_to(constant, (len(planted.cells), len(constant)))
    correct = control.copy()  # where nothing varies a probe is a constant
    for cell, (_, _, is_correct) in _read_outs(planted, programs).items():
        correct[planted.cells.index(cell)] = is_correct
    return _cases(planted.cells, [truth(planted, (cell,)) for cell in planted.cells], correct, control)


def erase_cells(planted: Planted, programs: Programs) -> pd.DataFrame:
    """LEACE of X at one position: how often the answer is lost, minus that of a random erasure of equal rank."""
    fitted = activations(planted, programs.fit)
    one_hot = programs.fit_values[:, None] == np.arange(10)
    arms: list[Edit] = []
    controls: list[Edit] = []
    for number, (stream, position) in enumerate(planted.cells):
        moments = Moments.of(fitted[stream][:, position].double().numpy(), one_hot)
        eraser = leace(moments)
        other = random_projection(eraser.rank, planted.seed * 1000 + number, moments.mean)
        for of_arm, erasure in ((arms, eraser), (controls, other)):
            of_arm.append(Edit(planted.site(stream), position, erasure.as_change()))
    losses = [logits(planted, programs.base, part).argmax(2) != programs.answers for part in (arms, controls)]
    return _cases(planted.cells, [truth(planted, (cell,)) for cell in planted.cells], *losses)


# --- attention edges -------------------------------------------------------------------------------------------------


def block_edges(planted: Planted, programs: Programs) -> pd.DataFrame:
    """One head's attention from a query to a key is blocked: how often the answer is lost, minus the same of an edge of
    equal attention (+-10 %) that is no data flow: of another query of that head, or else of that layer. Without such an
    edge there is no score, and nothing is claimed."""
    rng = generator("calibration, edges", planted.seed)
    mass = _mean_attention(planted, programs.base)
    attended: list[Edge] = [tuple(edge.tolist()) for edge in np.argwhere(mass >= MIN_MASS) if edge[2] > 0]
    true = planted.edges | planted.duplicate_edges
    data_flow = {edge[2:] for edge in true}  # what the machine knows: which token is computed from which
    null = [edge for edge in attended if edge not in true]
    edges = sorted(true) + [null[i] for i in sorted(rng.permutation(len(null))[:MAX_EDGES])]
    candidates = [edge for edge in attended if edge[2:] not in data_flow]
    controls = {edge: _control(edge, candidates, mass, rng) for edge in edges}
    chosen_controls = sorted({control for control in controls.values() if control is not None})
    lost = _blocked(planted, programs, [([q], [k], [h], layer) for layer, h, q, k in edges + chosen_controls])
    by_edge = dict(zip(edges + chosen_controls, lost, strict=True))
    of_controls = np.stack([by_edge[controls[edge] or edge] for edge in edges])  # none: d = 0
    return _cases(edges, [_edge_truth(planted, {edge}) for edge in edges], lost[: len(edges)], of_controls)


def block_queries(planted: Planted, programs: Programs) -> pd.DataFrame:
    """A whole layer's attention from a query to all but the first position is blocked: how often the answer is lost,
    minus the mean of the same at queries of that layer that are no data flow (0 where there is none)."""
    positions = range(1, planted.length + 1)
    cases = [(layer, query) for layer in range(planted.layers) for query in positions]
    lost = _blocked(planted, programs, [([q] * q, list(range(1, q + 1)), None, layer) for layer, q in cases])
    true = planted.edges | planted.duplicate_edges
    data_flow = {query for _, _, query, _ in true}
    controls = np.zeros(lost.shape)
    for number, (layer, query) in enumerate(cases):
        others = [i for i, (other, q) in enumerate(cases) if other == layer and q != query and q not in data_flow]
        if others:
            controls[number] = lost[others].mean(0)
    truths = [_edge_truth(planted, {e for e in true if (e[0], e[2]) == case}) for case in cases]
    return _cases(cases, truths, lost, controls)


def _edge_truth(planted: Planted, edges: set[Edge]) -> str:
    """What a set of blocked edges is: `carrier`, `duplicate` or `null`."""
    if planted.edges & edges:
        return "carrier"
    return "duplicate" if planted.duplicate_edges & edges else "null"


def _mean_attention(planted: Planted, programs: np.ndarray) -> np.ndarray:
    """Attention, averaged over programs: float [layer, head, query, key]."""
    sites = [f"blocks.{layer}.attn.hook_pattern" for layer in range(planted.layers)]
    patterns = engine.activations(planted.model, tokens.sequences(programs), sites)
    length = planted.length + 1
    return np.stack([patterns[site].mean(0).numpy()[:, :length, :length] for site in sites])


def _control(edge: Edge, candidates: Sequence[Edge], mass: np.ndarray, rng: np.random.Generator) -> Edge | None:
    """An edge of equal attention from another query, of the same head or else the same layer; None: there is none."""
    layer, head, query, _ = edge
    alike = [
        other
        for other in candidates
        if other[0] == layer and other[2] != query and abs(mass[other] / mass[edge] - 1) <= MASS_TOLERANCE
    ]
    choices = [other for other in alike if other[1] == head] or alike
    return choices[int(rng.integers(len(choices)))] if choices else None


def _blocked(planted: Planted, programs: Programs, blocks: Sequence[Any]) -> np.ndarray:
    """Whether the answer is lost without (queries, keys, heads, layer): bool [blocks, programs]."""
    n = len(programs.base)
    arms = [
        EdgeEdit(layer, np.tile(queries, (n, 1)), np.tile(keys, (n, 1)), heads)
        for queries, keys, heads, layer in blocks
    ]
    if not arms:
        return np.zeros((0, n), bool)
    return logits(planted, programs.base, arms).argmax(2) != programs.answers


INSTRUMENTS: dict[str, Instrument] = {
    "patch a cell": patch_cells,
    "patch two cells": patch_pairs,
    "steer": steer_cells,
    "steer along covariance": steer_cells_along_covariance,
    "erase": erase_cells,
    "block an edge": block_edges,
    "block a query": block_queries,
    "read (no intervention)": read_cells,
}
"""Every instrument of cells and edges, by its name in the tables."""

ONLY_UNDER = {
    "patch two cells": ("decoys", "duplicated"),
    "block an edge": CONDITIONS,
    "block a query": CONDITIONS,
}
"""Instruments that are tried under some conditions only: of pairs there are many, and of a model that is trained the
edges are not known."""
