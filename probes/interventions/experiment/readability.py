"""Whether a value can be read where it is patched: a linear probe at every layer and role, beside what needs no model.

Programs of the validation split are cut as pairs are. No pair that is drawn has the skeleton of such a program, though
prompts cut from them may be alike; pairs of one's own may share it. The probe is a discriminant classifier of the value
at the model's activation (`probes.solvers.linear`). Beside it stand the same probe on the untrained twin, the same on
the position and the last tokens, and a network on these. Rows are split by the skeleton of their prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from cadmus.corpora.held_out import held_out
from cadmus.machine import tokens, vm
from cadmus.programs.mixture import Mixture
from cadmus.programs.skeletons import skeletons
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.seeds import generator
from cadmus.states.provenance import ROLES, provenance
from cadmus.statistics import simultaneous
from cadmus.statistics.clustered import MIN_CLUSTERS
from probes.controls.input_network import BEFORE, Output, TokenBaseline, window
from probes.interventions.counterfactuals.pairs import STRATA
from probes.interventions.counterfactuals.prompts import at_decisions
from probes.interventions.counterfactuals.variables import PairVariable, named_values, one_of_each
from probes.interventions.editing import engine
from probes.interventions.editing.locations import stream_site
from probes.interventions.effects.outcomes import THRESHOLD
from probes.solvers import linear
from probes.solvers.moments import Moments

SPLIT = "validation"  # of the programs: never trained on, and of other skeletons than those of "test_skeleton"
WINDOW = 8  # tokens that the controls see
_SHARES = (0.55, 0.15)  # of the skeletons, to fit and to choose the penalty by; the rest scores
_LEAST_OF_CLASS = 5  # rows that a value has, or it is not among the probe's classes
_ROWS = 256
_FITTING, _CHOOSING, _SCORING = range(3)
COLUMNS = ("accuracy", "untrained", "input_linear", "input_network")


@dataclass(frozen=True, eq=False)
class Values:
    """Prompts with a value each, and where it has its roles."""

    sequences: np.ndarray
    """uint8 [n, pos]: the marker, the prompt, padding."""
    v: np.ndarray
    """int64 [n]: the value."""
    positions: dict[str, np.ndarray]
    """By role, int64 [n]: the model's position, -1 where the value lacks it; one of them where there are several."""
    skeletons: np.ndarray
    """[n]: what intervals are clustered by."""
    strata: np.ndarray
    """[n]: "literal" where a digit made the value, else "computed"."""
    fold: np.ndarray
    """int64 [n]: 0 fits, 1 chooses, 2 scores."""


def values_of(variable: PairVariable, mixture: Mixture, n: int, seed: int) -> Values:
    """Draw `n` programs of the variable's families, each cut at a decision, with one of the values that it names."""
    rng = generator(f"readability {variable.name}", seed)
    families = [family for family in mixture.families if family.name in variable.families]
    texts: list[str] = []
    decisions: list[tuple[int, ...]] = []
    for number, family in enumerate(families):
        size = n // len(families) + (number < n % len(families))
        of_family = tokens.decode(held_out(family, SPLIT, size, int(rng.integers(2**31)), mixture.hold_out))
        texts += of_family
        decisions += map(family.decisions, of_family)
    owners, cuts, prompts = at_decisions(texts, decisions)
    every = named_values(variable, prompts, cuts)
    every = every[one_of_each(owners[every.prompt], rng)]  # of each program
    prompts, cuts = prompts[every.prompt], cuts[every.prompt]
    rows = provenance(prompts, cuts).occurrences
    mine = rows.value == every.value[rows.program]
    positions = {}
    for number, role in enumerate(ROLES):
        has = np.flatnonzero(mine & (rows.role == number))
        has = has[one_of_each(rows.program[has], rng)]
        if len(has):
            positions[role] = np.full(len(prompts), -1)
            positions[role][rows.program[has]] = rows.token[has] + 1
    names = np.array([text.rstrip(vm.END) for text in tokens.decode(skeletons(prompts))])
    distinct, label = np.unique(names, return_inverse=True)
    fold = np.searchsorted(np.cumsum(_SHARES), rng.random(len(distinct)), side="right")[label]
    strata = np.where(every.literal, "literal", "computed")
    return Values(tokens.sequences(prompts), every.v, positions, names, strata, fold)


def readability(
    model: Any,
    twin: Any,
    variable: PairVariable,
    mixture: Mixture,
    layers: Sequence[int],
    *,
    programs: int = 3000,
    steps: int = 2000,
    seed: int = 0,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """How well the value is read at every layer and role: a row each, and for each stratum.

    Probes are fitted to values of both strata, and scored on each: a digit that stands in the program is read by
    anything that looks there, and says nothing of values that are computed. programs: that are drawn; steps: of the
    network on the input, at most.

    Columns: `stratum`, `layer`, `role`, `programs` (that score), `classes`; `validation`, the share of values that are
    read right where the penalty was chosen, of both strata, by which a layer can be chosen too; the same of the rows
    that score, with intervals: `accuracy` (of the model), `untrained` (of the twin), `input_linear` and `input_network`
    (of the position and the last 8 tokens); `beyond_low`, `beyond_all_low`: the least simultaneous lower bound of the
    accuracy minus that of the probe's own controls, and of all; `beyond_high`, `beyond_all_high`: the least upper bound
    of the same (all simultaneous over a stratum's cells); `readable`, `read`: whether the lower bounds are above 0.05,
    None where there are too few programs; `note`.
    """
    progress("readability", 0.0, "programs")
    data = values_of(variable, mixture, programs, seed)
    roles = list(data.positions)
    cells = [(layer, role) for layer in layers for role in roles]
    problems = [_problem(data, role) for _, role in cells]
    correct = {name: np.zeros((len(cells), len(data.v)), bool) for name in COLUMNS}
    for number, (name, which) in enumerate((("accuracy", model), ("untrained", twin))):
        progress("readability", 0.1 + 0.3 * number, name)
        activations = _activations(which, data, layers)
        for cell, (layer, role) in enumerate(cells):
            if not problems[cell]:
                correct[name][cell] = _probe(activations[role][:, list(layers).index(layer)], data, role)
    progress("readability", 0.7, "input")
    testable = [role for role in roles if not _problem(data, role)]
    input_linear = {role: _probe(_one_hot(data, role), data, role) for role in testable}
    input_network = _network(data, testable, steps, seed) if testable else {}
    for cell, (_, role) in enumerate(cells):
        if role in testable:
            correct["input_linear"][cell], correct["input_network"][cell] = input_linear[role], input_network[role]
    progress("readability", 1.0, "")
    present = [stratum for stratum in STRATA if (data.strata == stratum).any()]
    return pd.concat([_table(cells, correct, data, stratum, seed) for stratum in present], ignore_index=True)


def _problem(data: Values, role: str, strata: Sequence[str] = STRATA) -> str:
    """Why nothing can be said of a role in these strata; empty where something can."""
    has = data.positions[role] >= 0
    scoring = has & (data.fold == _SCORING) & np.isin(data.strata, strata)
    n = len(np.unique(data.skeletons[scoring]))
    if n < MIN_CLUSTERS:
        return f"the role is in programs of {n} skeletons that score; {MIN_CLUSTERS} are needed"
    return "" if len(_classes(data, has)) > 1 else "no two values are frequent enough to be told apart"


def _classes(data: Values, has: np.ndarray) -> np.ndarray:
    """The values that a probe tells apart."""
    values, counts = np.unique(data.v[has & (data.fold == _FITTING)], return_counts=True)
    return values[counts >= _LEAST_OF_CLASS]


def _activations(model: Any, data: Values, layers: Sequence[int]) -> dict[str, np.ndarray]:
    """By role, float32 [n, layers, d_model]; zeros where a prompt lacks it."""
    sites = [stream_site(layer) for layer in layers]
    shape = len(data.v), len(sites), model.cfg.d_model
    out = {role: np.zeros(shape, np.float32) for role in data.positions}
    order = np.argsort((data.sequences != tokens.PAD).sum(1), kind="stable")
    for rows in np.split(order, range(_ROWS, len(order), _ROWS)):
        width = max(int(positions[rows].max()) for positions in data.positions.values()) + 1
        read = engine.activations(model, data.sequences[rows, :width], sites)
        for role, positions in data.positions.items():
            has = np.flatnonzero(positions[rows] >= 0)
            index = torch.from_numpy(has), torch.from_numpy(positions[rows[has]])
            for number, site in enumerate(sites):
                out[role][rows[has], number] = read[site][index].float().cpu().numpy()
    return out


def _one_hot(data: Values, role: str) -> np.ndarray:
    """The last tokens and the position as features of a linear probe: float32 [n, features]."""
    features = _features(data, role)
    sizes = [*[BEFORE + 1] * WINDOW, data.sequences.shape[1]]
    columns = features + np.cumsum([0, *sizes[:-1]])
    out = np.zeros((len(features), sum(sizes)), np.float32)
    np.put_along_axis(out, columns, 1.0, 1)
    return out[:, out.any(0)]


def _features(data: Values, role: str) -> np.ndarray:
    """int64 [n, WINDOW + 1]: what stands at and before the role's position."""
    at = np.maximum(data.positions[role], 0)
    return window(data.sequences, WINDOW)[np.arange(len(at)), at].astype(np.int64)


def _probe(x: np.ndarray, data: Values, role: str) -> np.ndarray:
    """Whether a linear probe on x [n, features] reads each value right: bool [n], of those that choose or score."""
    has = data.positions[role] >= 0
    classes = _classes(data, has)
    known = has & np.isin(data.v, classes)
    fitting, choosing = (known & (data.fold == fold) for fold in (_FITTING, _CHOOSING))
    scale = max(float(x[fitting].std()), 1e-6)
    moments = [Moments.of(x[rows] / scale, data.v[rows, None] == classes) for rows in (fitting, choosing)]
    probe = linear.discriminant(moments[0], validation=moments[1])
    rest = has & (data.fold != _FITTING)
    correct = np.zeros(len(data.v), bool)
    correct[rest] = classes[probe(x[rest] / scale).argmax(1)] == data.v[rest]
    return correct


def _validation(correct: np.ndarray, data: Values, role: str) -> float:
    """The share of `correct`, bool [n], of the rows that choose; NaN where the role has none or no probe."""
    choosing = (data.positions[role] >= 0) & (data.fold == _CHOOSING)
    return float(correct[choosing].mean()) if choosing.any() and not _problem(data, role) else np.nan


def _network(data: Values, roles: list[str], steps: int, seed: int) -> dict[str, np.ndarray]:
    """The same of a network on the input, one for all roles, which is told the role by a column of its own."""
    features = np.concatenate(
        [np.concatenate([_features(data, role), np.full((len(data.v), 1), k)], 1) for k, role in enumerate(roles)]
    )
    has = np.concatenate([data.positions[role] >= 0 for role in roles])
    v, fold = np.tile(data.v, len(roles)), np.tile(data.fold, len(roles))
    fitting, choosing, scoring = (has & (fold == number) for number in range(3))
    choosing &= np.isin(v, np.unique(v[fitting]))

    def output(rows: np.ndarray) -> dict[str, Output]:
        return {"value": Output(v[rows], np.ones(int(rows.sum()), bool), "category")}

    epochs = max(3, round(steps * 256 / fitting.sum()))
    network = TokenBaseline(hidden=256, batch_size=256, epochs=epochs, seed=seed)
    network.fit(features[fitting], output(fitting), (features[choosing], output(choosing)))
    correct = np.zeros(len(v), bool)
    correct[scoring] = network.predict(features[scoring])["value"] == v[scoring]
    return dict(zip(roles, correct.reshape(len(roles), -1)))


def _table(
    cells: list[tuple[int, str]], correct: dict[str, np.ndarray], data: Values, stratum: str, seed: int
) -> pd.DataFrame:
    """The rows of a stratum, with intervals and flags."""
    problems = [_problem(data, role, [stratum]) for _, role in cells]
    scores = (data.fold == _SCORING) & (data.strata == stratum)
    mask = np.stack([(data.positions[role] >= 0) & scores for _, role in cells])
    mask[[bool(problem) for problem in problems]] = False
    columns: dict[str, Any] = {
        "stratum": stratum,
        "layer": [layer for layer, _ in cells],
        "role": [role for _, role in cells],
        "programs": mask.sum(1),
        "classes": [len(_classes(data, data.positions[role] >= 0)) for _, role in cells],
        "validation": [_validation(right, data, role) for right, (_, role) in zip(correct["accuracy"], cells)],
    }
    for name in COLUMNS:
        columns |= simultaneous.share_columns(name, correct[name], mask, data.skeletons, data.skeletons)
    controls = COLUMNS[1:]
    differences = np.stack([correct["accuracy"].astype(float) - correct[name] for name in controls])
    bounds = simultaneous.two_way(
        differences.reshape(len(controls) * len(cells), -1),  # [controls * cells, n]
        np.tile(mask, (len(controls), 1)),
        data.skeletons,
        data.skeletons,
        seed=seed,
    )
    low = bounds.low.reshape(len(controls), len(cells))
    high = bounds.high.reshape(len(controls), len(cells))
    columns["beyond_low"], columns["beyond_all_low"] = low[:2].min(0), low.min(0)
    columns["beyond_high"], columns["beyond_all_high"] = high[:2].min(0), high.min(0)
    for flag, name in (("readable", "beyond_low"), ("read", "beyond_all_low")):
        columns[flag] = [None if problem else bool(b > THRESHOLD) for b, problem in zip(columns[name], problems)]
    return pd.DataFrame({**columns, "note": problems}).astype({"readable": object, "read": object})
