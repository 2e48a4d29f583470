"""Interchanges as arrays: bases, sources, where they are patched, and what the exchange of each variable asks for.

What a search for subspaces learns from and is scored on. `from_pairs` makes them of tables of pairs; any other task is
stated by filling the arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cadmus.machine import vm
from cadmus.machine.tokens import PAD
from cadmus.runtime.seeds import generator
from probes.interventions.counterfactuals.pairs import Pairs

NONE = -1  # no token, no position


@dataclass(frozen=True)
class Interchanges:
    """Rows in each of which any one of the variables may take the source's value. Raises ValueError for odd shapes."""

    variables: tuple[str, ...]
    """The variables that are exchanged, each alone."""
    bases: np.ndarray
    """What the model reads up to the cut at least, the marker included: int [rows, pos]."""
    sources: np.ndarray
    """What the values are taken from: int [rows, pos]."""
    base_positions: np.ndarray
    """Model positions that are patched: int [rows, places], -1 for none."""
    source_positions: np.ndarray
    """Model positions whose activations take their place: int [rows, places], -1 where `base_positions` has it."""
    cuts: np.ndarray
    """Model positions at which the first token of the answer is predicted: int [rows]."""
    base_answers: np.ndarray
    """The base's own answer, token ids: int [rows, length], -1 behind its end."""
    answers: np.ndarray
    """The answer where this variable alone takes the source's value: int [rows, variables, length], all -1 where that
    is not known. It equals the base's answer where the exchange must change nothing."""
    base_skeletons: np.ndarray
    """[rows], labels of any type."""
    source_skeletons: np.ndarray
    """[rows]."""

    def __post_init__(self) -> None:
        rows, (k, length) = len(self.bases), (len(self.variables), self.base_answers.shape[-1])
        places = self.base_positions.shape[-1]
        shapes = {"base_positions": (rows, places), "source_positions": (rows, places), "cuts": (rows,)}
        shapes |= {"base_answers": (rows, length), "answers": (rows, k, length)}
        shapes |= {"base_skeletons": (rows,), "source_skeletons": (rows,), "sources": (rows, self.sources.shape[-1])}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}; expected {shape}")
        for name, sequences in (("base_positions", self.bases), ("source_positions", self.sources)):
            positions = getattr(self, name)
            if rows and not ((positions >= NONE) & (positions < sequences.shape[1])).all():
                raise ValueError(f"{name} reach outside the {sequences.shape[1]} positions of their sequences")
        if ((self.base_positions < 0) != (self.source_positions < 0)).any():
            raise ValueError("a place has a position in the base or the source alone; give both, or -1 twice")
        if rows and not self.edited.any():
            raise ValueError("no exchange changes the answer; draw pairs whose answers differ")

    def __len__(self) -> int:
        return len(self.bases)

    @property
    def known(self) -> np.ndarray:
        """Which exchanges have an answer: bool [rows, variables]."""
        return self.answers[..., 0] != NONE

    @property
    def edited(self) -> np.ndarray:
        """Which exchanges change the answer: bool [rows, variables]."""
        return self.known & (self.answers != self.base_answers[:, None]).any(-1)

    def select(self, rows: np.ndarray) -> Interchanges:
        """The same of some rows: bool or int [..]."""
        names = [entry.name for entry in fields(self) if entry.name != "variables"]
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def with_arbitrary_labels(self, seed: int = 0) -> Interchanges:
        """The same exchanges with the answers of other rows: a search that still succeeds proves nothing of the model.

        All answers of a row move together, so that their marginals and what changes with what stay.
        """
        order = generator("arbitrary labels of interchanges", seed).permutation(len(self))
        return replace(self, answers=self.answers[order], base_answers=self.base_answers[order])


def split(
    interchanges: Interchanges, seed: int = 0, fractions: tuple[float, ...] = (0.6, 0.2, 0.2)
) -> tuple[Interchanges, ...]:
    """Split rows so that no part shares a base or source skeleton with another.

    Rows that are linked by a skeleton, directly or by way of others, stay together where no such group is larger than
    half of the smallest part; else skeletons are dealt out, and rows between two parts are left out. Deterministic in
    the seed. Raises ValueError where a part would be empty or none of its exchanges changed the answer.
    """
    names = np.concatenate([np.asarray(interchanges.base_skeletons), np.asarray(interchanges.source_skeletons)])
    skeletons, index = np.unique(names, return_inverse=True)
    base, source = index[: len(interchanges)], index[len(interchanges) :]
    shape = (len(skeletons), len(skeletons))
    links = coo_array((np.ones(len(base)), (base, source)), shape=shape)
    count, group = connected_components(links, directed=False)
    if np.bincount(group[base]).max(initial=0) > min(fractions) * len(interchanges) / 2:
        count, group = len(skeletons), np.arange(len(skeletons))
    rng = generator("split of interchanges by skeleton", seed)
    part_of_group = np.searchsorted(np.cumsum(fractions)[:-1] / sum(fractions), rng.permutation(count) / count, "right")
    part = np.where(
        part_of_group[group[base]] == part_of_group[group[source]], part_of_group[group[base]], len(fractions)
    )
    parts = []
    for number in range(len(fractions)):
        if not interchanges.edited[part == number].any():
            raise ValueError(
                f"part {number} of {len(fractions)} would have no exchange that changes the answer: "
                f"{len(interchanges)} pairs of {len(skeletons)} skeletons are too few, or share too many of them; "
                "draw more pairs"
            )
        parts.append(interchanges.select(part == number))
    return tuple(parts)


def from_pairs(pairs: Mapping[str, Pairs], role: str, rows: Mapping[str, np.ndarray] | None = None) -> Interchanges:
    """Interchanges of one variable or several out of tables of pairs, edited where the value has this role.

    Args:
        pairs: by variable. Each gives exchanges of its own variable; the others' are taken to
            leave its answer as it is in minimal pairs, where all else is equal, and unknown in others.
        role: such as `loaded`; pairs that lack it are left out, several occurrences are patched together
            (`joint_answer` is what they ask for).
        rows: by variable, bool [pairs]: the pairs to take, such as those that the model completes.

    Raises ValueError where no pair has the role.
    """
    names = tuple(pairs)
    parts = []
    for number, (name, those) in enumerate(pairs.items()):
        positions, source_positions = (_two_dimensional(f(role)) for f in (those.positions, those.source_positions))
        chosen_rows = (positions >= 0).any(1)
        if rows is not None and name in rows:
            chosen_rows &= rows[name]
        if chosen_rows.any():
            parts.append(_of_one(names, number, those, positions, source_positions, np.flatnonzero(chosen_rows), role))
    if not parts:
        raise ValueError(f"no pair has the role {role!r}; see the pairs' table of roles")
    widths = {key: max(part[key].shape[-1] for part in parts) for key in _FILLS}
    arrays = {
        key: np.concatenate(
            [_widened(part[key], widths[key], _FILLS[key]) if key in _FILLS else part[key] for part in parts]
        )
        for key in parts[0]
    }
    return Interchanges(names, **arrays)


_FILLS = {  # what an array is filled up with on the right
    "bases": PAD,
    "sources": PAD,
    "base_positions": NONE,
    "source_positions": NONE,
    "base_answers": NONE,
    "answers": NONE,
}


def _of_one(
    names: tuple[str, ...],
    number: int,
    pairs: Pairs,
    positions: np.ndarray,
    source_positions: np.ndarray,
    rows: np.ndarray,
    role: str,
) -> dict[str, np.ndarray]:
    """The arrays of one variable's pairs."""
    table = pairs.pairs.iloc[rows]
    of_role = pairs.roles[pairs.roles["role"] == role].drop_duplicates("pair").set_index("pair")
    edited = encode(of_role["joint_answer"].reindex(table["pair"]).fillna("").tolist())
    base = encode(list(table["base_answer"]))
    width = max(edited.shape[1], base.shape[1])
    edited, base = _widened(edited, width, NONE), _widened(base, width, NONE)
    exchanged = np.full((len(rows), len(names), width), NONE)
    minimal = (table["kind"] == "minimal").to_numpy()
    exchanged[minimal] = base[minimal, None]
    exchanged[:, number] = edited
    return {
        "bases": np.asarray(pairs.sequences("base"))[rows],
        "sources": np.asarray(pairs.sequences("source"))[rows],
        "base_positions": positions[rows],
        "source_positions": source_positions[rows],
        "cuts": table["cut"].to_numpy(),
        "base_answers": base,
        "answers": exchanged,
        "base_skeletons": table["base_skeleton"].to_numpy(object),
        "source_skeletons": table["source_skeleton"].to_numpy(object),
    }


def encode(answers: list[str]) -> np.ndarray:
    """Answers as token ids: int64 [rows, longest], -1 behind each answer's end."""
    out = np.full((len(answers), max([1, *map(len, answers)])), NONE)
    for row, answer in enumerate(answers):
        out[row, : len(answer)] = [vm.VOCAB.index(token) for token in answer]
    return out


def _two_dimensional(positions: np.ndarray) -> np.ndarray:
    positions = np.asarray(positions)
    return positions[:, None] if positions.ndim == 1 else positions


def _widened(array: np.ndarray, width: int, fill: int) -> np.ndarray:
    """The array with its last axis filled up to `width`."""
    widths = [(0, 0)] * (array.ndim - 1) + [(0, width - array.shape[-1])]
    return np.pad(array.astype(np.int64), widths, constant_values=fill)
