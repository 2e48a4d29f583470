"""The cells of a sweep, each a recipe of its own, and the runs: every cell with every seed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from analyses.sweeps.factors import draft_of, recipe_of, set_level
from analyses.sweeps.sweep import Factor, Sweep
from cadmus.corpora.corpus import fingerprint as corpus_fingerprint
from cadmus.programs import mixture as mixtures
from cadmus.programs.mixture import Mixture
from cadmus.runtime import artifacts
from cadmus.runtime.progress import Progress, no_progress
from cadmus.training.recipe import Recipe, context

_STAGE = "make the cells"  # of the progress
_KEY = 12  # hexadecimal digits of a cell's hash


@dataclass(frozen=True)
class Cell:
    """One combination of levels."""

    levels: dict[str, Any]
    """The level of each factor."""

    recipe: Recipe
    """What its models are trained by."""

    @cached_property
    def key(self) -> str:
        """Names the content of the recipe, whatever the seed: 12 hexadecimal digits."""
        train = {name: value for name, value in asdict(self.recipe.train).items() if name != "seed"}
        content = [
            self.recipe.mixture.fingerprint,
            self.recipe.cfg.to_dict(),
            train,
            self.recipe.size,
            self.recipe.start,
        ]
        return artifacts.fingerprint(content)[:_KEY]

    @property
    def label(self) -> str:
        """Its levels in words: `skeletons = 30, zipf = 0.0`."""
        return ", ".join(f"{name} = {level}" for name, level in self.levels.items())

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        recipe = self.recipe
        return {
            "cell": self.key,
            "levels": self.levels,
            "mixture": mixtures.to_dict(recipe.mixture),
            "model": recipe.cfg.to_dict(),
            "train": asdict(recipe.train),
            "programs": recipe.size,
            "start": recipe.start,
        }


@dataclass(frozen=True)
class Run:
    """A cell with a seed: one model."""

    cell: Cell
    """The cell."""

    seed: int
    """The seed."""

    @property
    def name(self) -> str:
        """Its name within the sweep: `CELL-SEED`."""
        return f"{self.cell.key}-{self.seed}"

    @property
    def label(self) -> str:
        """Its levels and seed in words."""
        return f"{self.cell.label}, seed {self.seed}"

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe with the seed."""
        return replace(self.cell.recipe, train=replace(self.cell.recipe.train, seed=self.seed))

    @property
    def corpus_seed(self) -> int:
        """The seed of its corpus, which no other run of another cell or seed has."""
        return int(artifacts.fingerprint([self.cell.key, self.seed])[:8], 16)

    @property
    def corpus(self) -> str:
        """The fingerprint of its corpus, before that is there."""
        return corpus_fingerprint(self.recipe.mixture, self.corpus_seed, self.recipe.size)


def cells_of(sweep: Sweep, progress: Progress = no_progress) -> list[Cell]:
    """All combinations of levels, in the order of the factors, the last of which varies fastest.

    All models have the positions that the longest programs of any cell or out-of-distribution set need.

    Raises ValueError where a combination cannot be made, and says which factors are tied; and where two are the same.
    """
    grid = list(itertools.product(*(factor.levels for factor in sweep.factors)))
    cells = []
    for number, levels in enumerate(grid):
        progress(_STAGE, number / len(grid), "")
        cells.append(Cell(_by_name(sweep, levels), _recipe(sweep, levels, grid)))
    longest = max(_width(mixture) for mixture in (sweep.recipe.mixture, *(cell.recipe.mixture for cell in cells)))
    cells = [replace(cell, recipe=_with_context(cell.recipe, context(longest))) for cell in cells]
    _check_different(cells)
    progress(_STAGE, 1.0, "")
    return cells


def _by_name(sweep: Sweep, levels: Sequence[Any]) -> dict[str, Any]:
    return {factor.name: level for factor, level in zip(sweep.factors, levels, strict=True)}


def _width(mixture: Mixture) -> int:
    return max([mixture.width, *(ood.family.width for ood in mixture.out_of_distribution)])


def _with_context(recipe: Recipe, positions: int) -> Recipe:
    return replace(recipe, cfg=replace(recipe.cfg, n_ctx=max(recipe.cfg.n_ctx, positions)))


def _order(factor: Factor) -> int:
    """What is set first: a whole mixture; what is set last: hold-outs that are searched for among its programs."""
    return {"mixture": 0, "compound_divergence": 2}.get(factor.sets, 1)


def _recipe_at(sweep: Sweep, levels: Sequence[Any]) -> Recipe:
    """The recipe of one combination. Raises ValueError where it cannot be made."""
    draft = draft_of(sweep.recipe)
    pairs = sorted(zip(sweep.factors, levels, strict=True), key=lambda pair: _order(pair[0]))
    for factor, level in pairs:
        try:
            set_level(draft, factor.sets, factor.value(level))
        except ValueError as error:
            raise ValueError(f"factor {factor.name!r}: {error}") from None
    positions = max(draft["model"]["n_ctx"], context(mixtures.from_dict(draft["mixture"]).width))
    return recipe_of({**draft, "model": {**draft["model"], "n_ctx": positions}}, sweep.recipe.name)


def _recipe(sweep: Sweep, levels: Sequence[Any], grid: list[tuple[Any, ...]]) -> Recipe:
    """The recipe of a combination; ValueError with the factors that are tied where it cannot be made."""
    try:
        return _recipe_at(sweep, levels)
    except ValueError as error:
        tied = [factor.name for factor, rest in zip(sweep.factors, _others(levels, grid)) if _exists_among(sweep, rest)]
        words = ", ".join(f"{name} = {level}" for name, level in _by_name(sweep, levels).items())
        if len(tied) > 1:
            raise ValueError(
                f"the cell ({words}) cannot be made ({error}): {' and '.join(tied)} are tied, neither varies alone; "
                "leave out the levels that exclude each other"
            ) from None
        if len(tied) == 1 and len(sweep.factors) > 1:
            raise ValueError(
                f"the cell ({words}) cannot be made ({error}): {tied[0]} is tied to what the base mixture sets, and "
                f"cannot vary alone; leave out that level of {tied[0]}, or change the base"
            ) from None
        raise ValueError(f"the cell ({words}) cannot be made: {error}") from None


def _others(levels: Sequence[Any], grid: list[tuple[Any, ...]]) -> list[list[tuple[Any, ...]]]:
    """For each factor, the combinations that differ from this one in its level alone."""
    return [
        [other for other in grid if all((a == b) != (k == place) for k, (a, b) in enumerate(zip(levels, other)))]
        for place in range(len(levels))
    ]


def _exists_among(sweep: Sweep, combinations: list[tuple[Any, ...]]) -> bool:
    for levels in combinations:
        try:
            _recipe_at(sweep, levels)
        except ValueError:
            continue
        return True
    return False


def _check_different(cells: list[Cell]) -> None:
    """Raise ValueError where two combinations are the same recipe: some factor does not vary."""
    by_key: dict[str, Cell] = {}
    for cell in cells:
        other = by_key.setdefault(cell.key, cell)
        if other is not cell:
            differing = [name for name, level in cell.levels.items() if other.levels[name] != level]
            raise ValueError(
                f"the cells ({other.label}) and ({cell.label}) are one: {' and '.join(differing)} changes nothing "
                "there; leave a level out"
            )


def cell_from_dict(data: dict[str, Any], base: Recipe) -> Cell:
    """The cell that `Cell.to_dict` describes."""
    return Cell(data["levels"], recipe_of(data, base.name))


def runs_of(sweep: Sweep, cells: Sequence[Cell]) -> list[Run]:
    """All runs: those of the pilot cell first, then every cell's first seed, its second, and so on, so that all cells
    have results early."""
    first = pilot_cell(sweep, cells)
    runs = [Run(cell, seed) for seed in sweep.seeds for cell in cells]
    return [run for run in runs if run.cell is first] + [run for run in runs if run.cell is not first]


def pilot_cell(sweep: Sweep, cells: Sequence[Cell]) -> Cell | None:
    """The cell of the pilot; None where there is none."""
    if sweep.pilot is None:
        return None
    levels = {factor.name: sweep.pilot.cell.get(factor.name, factor.levels[0]) for factor in sweep.factors}
    return next(cell for cell in cells if cell.levels == levels)
