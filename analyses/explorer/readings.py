"""Linear probes for the page: what lies in each place of the machine's state, read from the stream after every layer.

A place holds a number, a sequence, NAN or nothing; each number that is frequent enough is a class, and so are the
others. The probe is the discriminant of `probes.solvers.linear`, fitted to programs of skeletons that no training saw,
on the activations of the model as the page computes it. Beside it stands what the token alone gives away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cadmus.machine import kernel, vm
from cadmus.models.model import Model
from cadmus.programs.mixture import Mixture
from cadmus.runtime.progress import Progress, no_progress
from probes.data.activations import token_rows
from probes.data.examples import Examples, draw
from probes.interventions.editing.locations import stream_site
from probes.interventions.subspaces.directions import Directions, of_classes
from probes.solvers.moments import Moments

PLACES = ("stack.0", "stack.1", "stack.2", *(f"reg.{name}" for name in vm.REGISTERS))
NOTHING, A_NAN, A_SEQ, OTHER = 1000, 1001, 1002, 1003  # classes that are no numbers; OTHER: a rarer number
EMPTY = (NOTHING, A_NAN)
MAX_VALUE = 99  # numbers beyond are OTHER, as probes are about |v| <= 99 everywhere
SHRINKAGES = (1e-3, 1e-2, 1e-1)  # less would make vectors that half precision does not hold well
MIN_ROWS = 25  # training tokens that have a class, or it is not among the probe's


@dataclass(frozen=True, repr=False)
class Reading:
    """The probe of one place at one layer."""

    place: str
    """Such as `stack.0`."""
    layer: int
    """The stream after this block; -1: before the first."""
    directions: Directions
    """Its read-outs; the values are numbers, or NOTHING, A_NAN, A_SEQ."""
    accuracy: float
    """The share that it reads right of the held-out tokens where something lies there; rarer numbers count as wrong."""
    from_token: float
    """The same share, of the most frequent content by token."""

    def __repr__(self) -> str:
        return f"Reading({self.place} at layer {self.layer}: {self.accuracy:.0%}, from the token {self.from_token:.0%})"


def contents(programs: np.ndarray, places: Sequence[str] = PLACES) -> dict[str, np.ndarray]:
    """What lies in each place after every token of programs uint8 [n, width], as a class: int64 [n, 1 + width]."""
    traces = kernel.traces(programs)
    by_place = {}
    for place in places:
        kind, _, name = place.partition(".")
        if kind == "reg":
            values, initial = traces.registers[:, :, vm.REGISTERS.index(name)], A_NAN
        else:
            values, initial = traces.stack[:, :, int(name)], NOTHING
        codes = np.full((len(programs), programs.shape[1] + 1), initial, np.int64)
        number = np.where(abs(values.value.astype(np.int64)) <= MAX_VALUE, values.value, OTHER)
        kinds = [kernel.INT_KIND, kernel.SEQ_KIND, kernel.NAN_KIND]
        codes[:, 1:] = np.select([values.kind == kind for kind in kinds], [number, A_SEQ, A_NAN], NOTHING)
        by_place[place] = codes
    return by_place


def fit(
    model: Model, mixture: Mixture, programs: int = 2000, seed: int = 0, *, progress: Progress = no_progress
) -> list[Reading]:
    """Fit the probes of every place at every layer; a place that always holds the same has none.

    model: as the page computes it (`weights.rounded`). programs: how many are read, of unseen skeletons.
    """
    progress("probes", 0.0, "programs")
    examples = draw(mixture, programs, seed)
    sites = {stream_site(layer): layer for layer in range(-1, model.cfg.n_layers)}
    rows, activations = _activations(model, examples, list(sites), progress)
    codes = {place: everywhere[rows] for place, everywhere in contents(examples.programs).items()}
    tokens, folds = examples.sequences[rows], examples.folds[rows[0]]
    readings = []
    for site, layer in sites.items():
        x = activations.pop(site).astype(float)
        at_site = [_reading(place, layer, x, values, tokens, folds) for place, values in codes.items()]
        readings += [reading for reading in at_site if reading is not None]
    progress("probes", 1.0, "")
    return readings


def _activations(
    model: Model, examples: Examples, sites: list[str], progress: Progress
) -> tuple[tuple[np.ndarray, np.ndarray], dict[str, np.ndarray]]:
    """The tokens that are probed, as (programs, positions) int64 [tokens] each, and the activations at each site there:
    float32 [tokens, d_model]."""

    def on_batch(stage: str, fraction: float, note: str = "") -> None:
        progress("probes", 0.9 * fraction, note)

    batches = list(token_rows(model, examples.programs, sites, where=examples.where, progress=on_batch))
    rows = (np.concatenate([part.programs for part in batches]), np.concatenate([part.positions for part in batches]))
    return rows, {site: np.concatenate([batch.activations[site] for batch in batches]) for site in sites}


def _reading(
    place: str, layer: int, x: np.ndarray, values: np.ndarray, tokens: np.ndarray, folds: np.ndarray
) -> Reading | None:
    """The probe of a place, from activations [tokens, d_model] and their classes, tokens and folds [tokens]."""
    train, validation, test = (folds == number for number in range(3))
    filled = ~np.isin(values, EMPTY)
    train, validation = _balanced(train, filled), _balanced(validation, filled)
    classes, counts = np.unique(values[train], return_counts=True)
    classes = classes[(counts >= MIN_ROWS) & (classes != OTHER)]
    if len(classes) < 2:
        return None
    known = np.isin(values, classes)
    moments = [_moments(x, values, classes, known & fold) for fold in (train, validation)]
    held_out = moments[1] if (known & validation).sum() >= 2 else None
    shrinkages = SHRINKAGES[-1:] if held_out is None else SHRINKAGES
    directions = of_classes(stream_site(layer), place, moments[0], classes, held_out, shrinkages)
    test &= filled if (filled & test).any() else test
    accuracy = float((directions.predict(x[test]) == values[test]).mean())
    return Reading(place, layer, directions, accuracy, _from_token(values, tokens, train & filled, test))


def _balanced(rows: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """Of rows bool [tokens], as many at most where nothing lies there as where something does, spread evenly."""
    empty = np.flatnonzero(rows & ~filled)
    n = max(int((rows & filled).sum()), 2 * MIN_ROWS)
    if len(empty) <= n:
        return rows
    balanced = rows & filled
    balanced[empty[np.linspace(0, len(empty) - 1, n).astype(int)]] = True
    return balanced


def _moments(x: np.ndarray, values: np.ndarray, classes: np.ndarray, rows: np.ndarray) -> Moments:
    return Moments.of(x[rows], values[rows][:, None] == classes)


def _from_token(values: np.ndarray, tokens: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    """The share of test tokens whose content is that which is most frequent with their token in training."""
    correct = 0
    for token in np.unique(tokens[test]):
        here, there = train & (tokens == token), test & (tokens == token)
        seen, counts = np.unique(values[here if here.any() else train], return_counts=True)
        correct += int((values[there] == seen[counts.argmax()]).sum()) if len(seen) else 0
    return correct / max(int(test.sum()), 1)
