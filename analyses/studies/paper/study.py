"""The paper's measurements: Table 3, and Figures 1 and 2 on `compare` programs, X Y relation.

Table 3: how often a held-out program is completed rightly (`cadmus.training.completion`). Figure 1: where in the plane
of X and Y the model tells their relation. Figure 2: how well each number can be read at each token, by probes per
(layer, token, number) on the residual stream, against what the instructions seen so far give away and against the same
probes on the untrained model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from analyses.reporting.behaviour import completion_table
from analyses.studies.paper.prefix import prefix_majority
from cadmus import DEFAULT_MODEL
from cadmus.corpora import held_out
from cadmus.corpora.membership import program_hashes
from cadmus.machine import kernel, tokens, vm
from cadmus.models.model import Model
from cadmus.programs import splits
from cadmus.programs.families import Compare
from cadmus.programs.families.compare import RELATIONS, relation
from cadmus.programs.holdout import HoldOut
from cadmus.programs.parts.pieces import join, same
from cadmus.runtime.checks import check_at_least, check_seed
from cadmus.runtime.devices import resolve_device
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.seeds import generator
from cadmus.runtime.threads import on_threads
from cadmus.states import variables
from cadmus.statistics import clustered
from cadmus.training import checkpoint
from probes.controls.untrained import untrained_twin
from probes.data.activations import batches, residual_sites
from probes.data.folds import FOLDS, skeleton_folds, skeleton_ids
from probes.solvers.linear import ridge
from probes.solvers.logistic import fit_on_validation
from probes.solvers.moments import Moments

MIN_NUMBER_PROGRAMS = 100  # of Figure 2
NUMBERS = ("first", "second")
REGIONS = ("inside", "outside, X = Y", "outside, X and Y differ")  # of the plane, by the trained square

_TEST = [splits.SPLITS.index(split) for split in ("test", "test_skeleton")]
_BATCH = 8192  # programs read at once
_MAX_ROUNDS = 200  # of drawing programs for cells that have few


@dataclass(frozen=True)
class PaperConfig:
    """Which model is measured, and on what."""

    run: str = DEFAULT_MODEL
    """A model that ships with the package, or a folder that `cadmus-probe train` wrote; its mixture must hold
    compare."""
    eval_programs: int = 1000
    """Programs completed for Table 3, of each family and split."""
    reach: int = 40
    """X and Y of Figure 1 lie in -reach..reach."""
    programs: int = 10
    """Programs of Figure 1 for each X and Y."""
    number_programs: int = 5000
    """Programs of Figure 2."""
    seed: int = 0
    """Seed of the programs drawn."""
    device: str = "auto"
    """`cpu`, `cuda` or `mps`; `auto` takes a GPU where there is one."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "eval_programs", "reach", "programs")
        check_at_least(self, MIN_NUMBER_PROGRAMS, "number_programs")
        check_seed(self)


@dataclass(frozen=True)
class PaperResults:
    """The tables of the paper's measurements."""

    config: PaperConfig
    """What was measured."""
    trained: checkpoint.Checkpoint
    """The model."""
    family: Compare
    """The compare programs of the model's mixture."""
    accuracies: pd.DataFrame
    """Table 3: rows of `cadmus.training.completion`."""
    plane: pd.DataFrame
    """Figure 1: a row per X and Y, as `figure1` gives them."""
    numbers: pd.DataFrame
    """Figure 2: rows per (model, site, token, number), as `figure2` gives them."""


def run(config: PaperConfig, progress: Progress = no_progress) -> PaperResults:
    """Complete, answer and probe. Raises ValueError where the mixture has no compare."""
    trained = checkpoint.load(config.run)
    family = trained.mixture.family("compare")
    assert isinstance(family, Compare), "the class of that name"
    trained.model.to(resolve_device(config.device)).eval()
    accuracies = completion_table(trained, config.eval_programs, config.seed, progress).assign(**identity(trained))
    return PaperResults(config, trained, family, accuracies, **measure(config, trained, progress))


def measure(
    config: PaperConfig, trained: checkpoint.Checkpoint, progress: Progress = no_progress
) -> dict[str, pd.DataFrame]:
    """Figures 1 and 2 of a model that is on its device: the tables `plane` and `numbers` of `PaperResults`."""
    family = trained.mixture.family("compare")
    assert isinstance(family, Compare), "the class of that name"
    plane = figure1(
        trained.model,
        family,
        trained.mixture.hold_out,
        reach=config.reach,
        programs=config.programs,
        seed=config.seed,
        progress=progress,
    )
    numbers = figure2(
        {"trained": trained.model, "untrained": untrained_twin(trained.model, trained.seed)},
        family,
        programs=config.number_programs,
        seed=config.seed,
        progress=progress,
    )
    return {"plane": plane.assign(**identity(trained)), "numbers": numbers.assign(**identity(trained))}


def identity(trained: checkpoint.Checkpoint) -> dict[str, str]:
    """Which model and corpus a table is of, as its columns `run` and `corpus`."""
    return {"run": trained.fingerprint, "corpus": trained.record["corpus"]["fingerprint"]}


# --- Figure 1 --------------------------------------------------------------------------------------------------------


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
    if hold_out is not None:
        unseen &= ~hold_out.holds_out(programs)
    return programs[unseen], cell_of[unseen]


# --- Figure 2 --------------------------------------------------------------------------------------------------------


def figure2(
    models: dict[str, Model],
    family: Compare,
    *,
    programs: int = 5000,
    seed: int = 0,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """How well each of the two numbers is read at each token: two rows per (model, site, token position, number), the
    accuracy of a logistic probe (the paper's) and the R² of a ridge probe.

    Probes are trained and judged on skeletons that neither the model's training nor, for the judgement, the probe's
    has seen.

    Args:
        models: names -> the trained model and its twins, all of one architecture.
        family: its programs of one statement whose expressions have the greatest length are read.
        programs: how many.
        seed: of the programs drawn and of the resamples.
        progress: is told which share of the probes is fitted.

    Returns:
        A tidy table. `position` is the model's (0 the marker), so the tokens are 1 ... 2 * length + 1; beside
        accuracies stands `prefix_majority`, which is exact (`prefix.prefix_majority`).

    Raises:
        ValueError: the family has no such programs.
    """
    family = replace(family, assertions=1, min_length=0)
    texts = held_out.held_out(family, "test_skeleton", programs, seed)
    probe = _NumberProbe(texts, _numbers(texts, family), prefix_majority(family), seed)
    width = 2 * family.length + 1
    rows = []
    for done, (name, model) in enumerate(models.items()):
        sites = residual_sites(model)
        activations = _token_activations(model, texts, sites, width)
        cells = [
            (activations[site][:, position - 1], {"model": name, "site": site, "layer": layer, "position": position})
            for layer, site in enumerate(sites)
            for position in range(1, width + 1)
        ]

        for cell_rows in on_threads(probe, cells, "probe the two numbers", _part_of(progress, done, len(models))):
            rows += cell_rows
    return pd.DataFrame(rows)


def _part_of(progress: Progress, done: int, parts: int) -> Progress:
    """The progress of one of several parts, of which `done` are done, as a fraction of all."""
    return lambda stage, fraction, note: progress(stage, (done + fraction) / parts, note)


def _token_activations(model: Model, programs: np.ndarray, sites: list[str], width: int) -> dict[str, np.ndarray]:
    """Activations of the first `width` tokens of each program: {site: float32 [programs, width, d_model]}."""
    activations = {site: np.empty((len(programs), width, model.cfg.d_model), np.float32) for site in sites}
    for batch, cache in batches(model, programs, sites):
        for site in sites:
            activations[site][batch] = cache[site][:, 1 : width + 1].cpu().numpy()
    return activations


class _NumberProbe:
    """Fits and judges both probes of both numbers on the activations of one cell (model, site, token)."""

    def __init__(self, programs: np.ndarray, values: np.ndarray, majority: np.ndarray, seed: int):
        """programs uint8 [n, width]; values int64 [n, 2]; majority float [2, tokens]: `prefix_majority`."""
        self.values, self.majority, self.seed = values, majority, seed
        folds = skeleton_folds(programs)
        self.train, self.validation, self.test = (folds == FOLDS.index(name) for name in FOLDS)
        self.clusters = (skeleton_ids(programs)[self.test], np.flatnonzero(self.test), seed)

    def __call__(self, x: np.ndarray, keys: dict[str, Any]) -> list[dict[str, Any]]:
        """The rows of one cell; x float32 [n, features]; keys: the cell's columns."""
        train, validation, test = self.train, self.validation, self.test
        x = _standardize(x, train)
        predict = ridge(
            Moments.of(x[train], self.values[train]), validation=Moments.of(x[validation], self.values[validation])
        )
        predicted = predict(x[test])
        rows = []
        for k, number in enumerate(NUMBERS):
            y = self.values[:, k]
            logistic = fit_on_validation(x[train], y[train], x[validation], y[validation])
            accuracy = clustered.accuracy(logistic.predict(x[test]) == y[test], *self.clusters)
            r_squared = clustered.r_squared(y[test], predicted[:, k], *self.clusters)
            shared = {**keys, "variable": f"{number} number", "programs": int(test.sum()), "seed": self.seed}
            majority = {"prefix_majority": self.majority[k, keys["position"] - 1]}
            rows.append({**shared, **clustered.columns("logistic", "accuracy", accuracy), **majority})
            rows.append({**shared, **clustered.columns("ridge", "R2", r_squared)})
        return rows


def _numbers(programs: np.ndarray, family: Compare) -> np.ndarray:
    """The two computed values of each program: int64 [n, 2], as the machine has them after the 2 * length-th token."""
    traces = kernel.traces(programs, entries=2)
    position = 2 * family.length
    return np.stack([variables.read(traces, name).values[:, position] for name in ("stack.1", "stack.0")], 1)


def _standardize(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Give each feature mean 0 and variance 1 over the training rows; a constant one becomes 0."""
    mean, spread = x[train].mean(0), x[train].std(0)
    return (x - mean) / np.where(spread > 1e-6, spread, 1.0)


def token_names(family: Compare) -> list[str]:
    """The names of the tokens of a `compare` program: X1 ... X5 Y1 ... Y5 and the relation."""
    return [f"{letter}{i + 1}" for letter in "XY" for i in range(family.length)] + ["rel"]
