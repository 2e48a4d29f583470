"""Hold-outs that reach a wanted compound divergence at little atom divergence (Keysers et al. 2020, arXiv 1912.09713).

A split is a rule over the compounds of a program (`cadmus.programs.compounds`): some are held out. A program with none
of them is on the train side; one of whose compounds a stated share or more is held out is on the held-out side; what
lies between is on neither, as programs are that the paper leaves out. Any program's side is a function of its text, so
corpora and streams are filtered by it: `Split.mixture` declares it in a mixture's hold-out.

Which compounds: chosen by simulated annealing on a sample, so that the divergence is the wanted one, the instructions
and values are as frequent on both sides, and both sides keep programs enough. The figures of a split are measured on
programs that the search did not see.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cadmus.machine.jit import jit
from cadmus.programs import compounds
from cadmus.programs.compounds import ATOM_ALPHA, COMPOUND_ALPHA, Events
from cadmus.programs.families import Family
from cadmus.programs.mixture import Mixture, OutOfDistribution
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.seeds import generator

LEVELS = (0.0, 0.15, 0.25, 0.35, 0.45)  # compound divergences that `arith` and `register` reach
MAX_ATOM_DIVERGENCE = 0.02
TOLERANCE = 0.02  # of the compound divergence that is reached
SET_NAME = "max_divergence"  # of the out-of-distribution set of a split
_SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)  # of compounds held out, from which one is chosen
_N_SHARES = 4  # tried for a target
_SEARCHED_ATOMS = 0.6 * MAX_ATOM_DIVERGENCE  # in the sample; that of new programs is a little greater
_TEMPERATURE = 0.02  # of the annealing, at its start, in units of divergence
_CLOSE = 0.002  # to what is wanted: the search ends
_STAGE = "search a split"


@dataclass(frozen=True)
class Split:
    """A hold-out of compounds, and the divergence that it reaches."""

    family: Family
    """Whose programs it divides."""
    compounds: tuple[str, ...]
    """The compounds that are held out; none: the divergence is 0, and the held-out side is the split `test`."""
    held_out_share: float
    """A program of whose compounds this share or more is held out is on the held-out side."""
    compound_divergence: float
    """That of the two sides, on programs that the search did not see."""
    atom_divergence: float
    """The same of atoms."""
    train_share: float
    """The share of the family's programs on the train side."""
    test_share: float
    """The share of the family's programs on the held-out side."""
    programs: int
    """How many new programs these figures are measured on."""

    def sides(self, programs: np.ndarray) -> np.ndarray:
        """The side of each program, uint8 [n, width]: int8 [n], 0 train, 1 held out, -1 neither."""
        codes = compounds.codes_of(self.compounds)
        share = compounds.shares(programs, codes)
        return np.where(share == 0, 0, np.where(share >= self.held_out_share, 1, -1)).astype(np.int8)

    def mixture(self, base: Mixture, name: str = SET_NAME) -> Mixture:
        """The mixture with the compounds in its hold-out, and the held-out side as its out-of-distribution set `name`:
        at divergence 0 ordinary test programs of the family.

        Raises ValueError where its hold-out has compounds already.
        """
        if base.hold_out.compounds:
            raise ValueError(f"mixture {base.name!r} holds compounds out already; begin with one that does not")
        rule, share = ("compounds", self.held_out_share) if self.compounds else ("test", 0.0)
        return replace(
            base,
            hold_out=replace(base.hold_out, compounds=self.compounds),
            out_of_distribution=(*base.out_of_distribution, OutOfDistribution(name, self.family, rule, share)),
        )

    def figures(self) -> dict[str, Any]:
        """What is reached, by name, as manifests and tables have it."""
        names = ("compound_divergence", "atom_divergence", "train_share", "test_share", "held_out_share", "programs")
        return {name: getattr(self, name) for name in names} | {"held_out_compounds": len(self.compounds)}


def find_split(
    family: Family,
    target: float,
    *,
    seed: int = 0,
    programs: int = 20_000,
    min_train_share: float = 0.02,
    min_test_share: float = 0.003,
    steps: int = 10_000,
    progress: Progress = no_progress,
) -> Split:
    """Find a hold-out of compounds at a compound divergence, of an atom divergence of 0.02 or less.

    Args:
        family: Whose programs are divided.
        target: The compound divergence, from 0 (no compound is held out) to 1.
        seed: Fixes the programs and the search.
        programs: Programs that the search looks at; the reached figures are measured on as many new ones, or more.
        min_train_share: The least share of the family's programs on the train side: a corpus draws 1 / share as many.
        min_test_share: The same of the held-out side.
        steps: Compounds tried per share of held-out compounds, of which four are tried.
        progress: Follows the search.

    Raises:
        ValueError: The target is no divergence, or cannot be reached: the error names the nearest that was.
    """
    if not 0 <= target <= 1:
        raise ValueError(f"compound divergence {target} must lie in 0 (none) to 1 (no compound in common)")
    new_programs = _draw(family, "measure", seed, 3 * programs)
    if target == 0:
        return _measure(family, (), 0.0, new_programs)
    sample = _Sample(_draw(family, "search", seed, programs))
    nearest: Split | None = None
    shares = sorted(_SHARES, key=lambda share: abs(share - (target - 0.08)))[:_N_SHARES]
    for k, share in enumerate(shares):
        progress(_STAGE, k / len(shares), f"{target:g}, from {share:.0%} of the compounds")
        aim = target
        for attempt in range(2):
            codes = sample.search(aim, share, (min_train_share, min_test_share), steps, (seed, k, attempt))
            if not len(codes):
                break
            split = _measure(family, tuple(map(compounds.name_of, codes)), share, new_programs)
            if np.isnan(split.compound_divergence):
                break
            if nearest is None or _distance(split, target) < _distance(nearest, target):
                nearest = split
            if _distance(nearest, target) <= TOLERANCE:
                progress(_STAGE, 1.0, "")
                return nearest
            aim += target - split.compound_divergence
    raise ValueError(_unreachable(family, target, nearest, min_train_share, min_test_share))


def _draw(family: Family, purpose: str, seed: int, n: int) -> np.ndarray:
    return family.generate(n, generator(f"split {purpose}", seed))


def _measure(family: Family, names: tuple[str, ...], share: float, new_programs: np.ndarray) -> Split:
    """The split with its figures on these programs; without compounds the sides are two halves."""
    split = Split(family, names, share, np.nan, np.nan, np.nan, np.nan, len(new_programs))
    sides = split.sides(new_programs) if names else (np.arange(len(new_programs)) % 2).astype(np.int8)
    compound, atom = compounds.divergences(new_programs[sides == 0], new_programs[sides == 1])
    return replace(
        split,
        compound_divergence=compound,
        atom_divergence=atom,
        train_share=float((sides == 0).mean()) if names else 1.0,
        test_share=float((sides == 1).mean()) if names else 1.0,
    )


def _distance(split: Split, target: float) -> float:
    """How far a split is from the target; what its atoms diverge beyond the limit counts fivefold."""
    surplus = max(0.0, split.atom_divergence - MAX_ATOM_DIVERGENCE)
    return abs(split.compound_divergence - target) + (TOLERANCE + 5 * surplus if surplus else 0.0)


def _unreachable(
    family: Family, target: float, nearest: Split | None, min_train_share: float, min_test_share: float
) -> str:
    reached = "no hold-out that leaves programs on both sides was found"
    if nearest is not None:
        reached = (
            f"the nearest is {nearest.compound_divergence:.2f} at atom divergence {nearest.atom_divergence:.3f}, with "
            f"{nearest.train_share:.1%} of the programs to train on and {nearest.test_share:.1%} held out"
        )
    return (
        f"compound divergence {target:g} cannot be reached with family {family.name} at atom divergence "
        f"{MAX_ATOM_DIVERGENCE}: {reached}; ask for that, lower min_train_share = {min_train_share} or "
        f"min_test_share = {min_test_share}, or widen the family's knobs"
    )


# --- the search ------------------------------------------------------------------------------------------------------


class _Sample:
    """Programs as counts of atoms and compounds, and the search for a hold-out among these compounds."""

    def __init__(self, programs: np.ndarray):
        atoms, joined = compounds.atoms_and_compounds(programs)
        self.codes, columns = np.unique(joined.code, return_inverse=True)
        atom_codes, atom_columns = np.unique(atoms.code, return_inverse=True)
        self.n = len(programs)
        self.n_atoms = len(atom_codes)
        self.totals = np.bincount(joined.program, minlength=self.n).astype(np.float64)
        self.by_program = _sparse(Events(joined.program, columns), self.n, len(self.codes))
        self.by_compound = _sparse(Events(columns, joined.program), len(self.codes), self.n)
        self.atoms = _sparse(Events(atoms.program, atom_columns), self.n, self.n_atoms)

    def search(
        self, target: float, share: float, min_shares: tuple[float, float], steps: int, key: Iterable[int]
    ) -> np.ndarray:
        """The codes of the compounds to be held out, int64 [k], k = 0 where no side is left."""
        rng = generator("split annealing", *key)
        is_held_out = _anneal(
            rng.integers(0, len(self.codes), steps),
            rng.random(steps),
            self.totals,
            self.by_compound,
            self.by_program,
            self.atoms,
            self.n_atoms,
            share,
            target,
            _SEARCHED_ATOMS,
            min_shares[0],
            min_shares[1],
        )
        return self.codes[is_held_out]


def _sparse(events: Events, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each code occurs in each row, as (starts [rows + 1], codes [entries], counts [entries])."""
    keys, counts = np.unique(events.program * columns + events.code, return_counts=True)
    starts = np.searchsorted(keys, np.arange(rows + 1) * columns)
    return starts, keys % columns, counts.astype(np.float64)


@jit
def _anneal(
    order, uniforms, totals, by_compound, by_program, atoms, n_atoms, share, target, max_atoms, min_train, min_test
):
    """Which compounds to hold out, bool [compounds]: begin with none, and take one in or out at a time; a change for
    the worse is kept with a chance that falls to 0."""
    n_compounds, n = len(by_compound[0]) - 1, len(totals)
    is_held_out = np.zeros(n_compounds, np.bool_)
    n_held_out = np.zeros(n)  # of each program
    sums = (np.zeros((2, n_compounds)), np.zeros((2, n_atoms)))  # of the train and the held-out side
    sizes = np.zeros(2)
    for row in range(n):
        _move(row, 0, 1.0, by_program, atoms, sums, sizes)
    bounds = (target, max_atoms, min_train * n, min_test * n)
    cost = _cost(sums, sizes, bounds)
    for step in range(len(order)):
        _toggle(order[step], is_held_out, n_held_out, totals, share, by_compound, by_program, atoms, sums, sizes)
        new_cost = _cost(sums, sizes, bounds)
        temperature = _TEMPERATURE * (1 - step / len(order))
        if new_cost <= cost or uniforms[step] < np.exp((cost - new_cost) / temperature):
            cost = new_cost
            if cost < _CLOSE:
                break
        else:
            _toggle(order[step], is_held_out, n_held_out, totals, share, by_compound, by_program, atoms, sums, sizes)
    if sizes.min() == 0:
        is_held_out[:] = False
    return is_held_out


@jit
def _toggle(compound, is_held_out, n_held_out, totals, share, by_compound, by_program, atoms, sums, sizes):
    """Take one compound into the hold-out, or out of it, and move the programs whose side changes."""
    sign = -1.0 if is_held_out[compound] else 1.0
    is_held_out[compound] = not is_held_out[compound]
    starts, programs, counts = by_compound
    for k in range(starts[compound], starts[compound + 1]):
        row = programs[k]
        before = _side(n_held_out[row], totals[row], share)
        n_held_out[row] += sign * counts[k]
        after = _side(n_held_out[row], totals[row], share)
        if before != after:
            _move(row, before, -1.0, by_program, atoms, sums, sizes)
            _move(row, after, 1.0, by_program, atoms, sums, sizes)


@jit
def _side(n_held_out, total, share):
    if n_held_out == 0:
        return 0
    return 1 if n_held_out / total >= share else -1


@jit
def _move(row, side, sign, by_program, atoms, sums, sizes):
    """Add the program to a side, or with sign -1 take it away; side -1 is neither."""
    if side < 0:
        return
    sizes[side] += sign
    for k in range(by_program[0][row], by_program[0][row + 1]):
        sums[0][side, by_program[1][k]] += sign * by_program[2][k]
    for k in range(atoms[0][row], atoms[0][row + 1]):
        sums[1][side, atoms[1][k]] += sign * atoms[2][k]


@jit
def _cost(sums, sizes, bounds):
    """How far the sides are from what is wanted: bounds are the divergence, the most that atoms may diverge, and the
    least programs of each side."""
    target, max_atoms, min_train, min_test = bounds
    compound = 1 - _coefficient(sums[0], COMPOUND_ALPHA)
    atom = 1 - _coefficient(sums[1], ATOM_ALPHA)
    missing = max(0.0, 1 - sizes[0] / min_train) + max(0.0, 1 - sizes[1] / min_test)
    return abs(compound - target) + 20 * max(0.0, atom - max_atoms) + missing


@jit
def _coefficient(counts, alpha):
    """The Chernoff coefficient of counts [2, codes]; 0 where a side is empty."""
    total_a, total_b = counts[0].sum(), counts[1].sum()
    out = 0.0
    if total_a == 0 or total_b == 0:
        return out
    for k in range(counts.shape[1]):
        if counts[0, k] > 0 and counts[1, k] > 0:
            out += (counts[0, k] / total_a) ** alpha * (counts[1, k] / total_b) ** (1 - alpha)
    return out
