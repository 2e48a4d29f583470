"""What is done to a model: edits of activations and of attention edges, and arms, which act together.

An edit is checked against a model and a number of rows (`Step.of`) before anything runs: the site must exist and the
backend must not ignore edits there, positions and heads must lie within the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cadmus.models import backends
from probes.interventions.editing.changes import Change
from probes.interventions.editing.locations import TOKEN, Location, locate

Positions = None | int | Sequence[int] | np.ndarray | Tensor
"""int [rows] or [rows, k]: model positions in each row, -1 for none; an integer for all rows; None: every position."""

MODES = ("block", "zero", "move")


@dataclass(frozen=True, eq=False)
class Edit:
    """At the positions of each row, the activation at a site is replaced by what `change` makes of it."""

    site: str
    """The site (`cadmus.models.model.Model.sites`). Scores and pattern are edited by query: one activation there is
    [head, key], the keys as many as the sequences have positions."""

    positions: Positions
    """Where, in model positions (the marker's is 0); see `Positions`."""

    change: Change
    """What is done (`probes.interventions.editing.changes`): x [m, ...], the row and column of each -> as many, as
    large."""

    heads: Sequence[int] | None = None
    """Of a site with an axis of heads, those that `change` is given and that are replaced; None: all."""

    def __repr__(self) -> str:
        return f"Edit({self.site!r}" + (f", heads={list(self.heads)})" if self.heads is not None else ")")


@dataclass(frozen=True, eq=False)
class EdgeEdit:
    """Attention from queries to keys is taken away in one layer, or moved to other keys."""

    layer: int
    """The block's number."""

    queries: Positions
    """int [rows] or [rows, k]: the positions that attend, -1 for none; an integer for all rows."""

    keys: Positions
    """As `queries`, one for each: the positions that they no longer attend to."""

    heads: Sequence[int] | None = None
    """Which heads; None: all."""

    mode: str = "block"
    """"block": -inf before the softmax, so that the other keys get the mass; "zero": the pattern is zeroed there, the
    rest stays as it is; "move": the mass goes to the key `to`."""

    to: Positions = None
    """For "move", as `queries`, one for each: where the mass goes."""

    def __repr__(self) -> str:
        return f"EdgeEdit({self.layer}, mode={self.mode!r})"


Arm = Edit | EdgeEdit | Sequence[Edit | EdgeEdit]
"""An edit, or several that act together; none at all is the model as it is."""

Arms = Sequence[Arm] | Mapping[str, Arm]
"""Arms that are run side by side, each alone; of a mapping, errors say the names."""


def arms_of(arms: Arms) -> dict[str, list[Edit | EdgeEdit]]:
    """Every arm as a list of its edits, by its name, or by its number where it has none."""
    named = arms if isinstance(arms, Mapping) else {str(number): arm for number, arm in enumerate(arms)}
    return {name: [arm] if isinstance(arm, Edit | EdgeEdit) else list(arm) for name, arm in named.items()}


# --- checked edits ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Step:
    """An edit that has been checked against a model and its rows."""

    site: str
    """The site."""

    location: Location
    """Where it lies."""

    positions: np.ndarray | None
    """int64 [rows, k], -1 for none; None: every position."""

    change: Change
    """What is done."""

    heads: Tensor | None
    """int64: which heads; None: all."""

    n_positions: int | None
    """Positions of the sequences, and so keys that a change of scores or of a pattern is given; None: as many as there
    are."""

    edges: Edges | None = None
    """Of an edit of edges, `change` itself."""

    @classmethod
    def of(cls, model: Any, edit: Edit | EdgeEdit, n_rows: int | None, n_positions: int | None) -> Step:
        """Check an edit.

        n_rows, n_positions: the rows and positions of the sequences; None where they are not known yet.
        Raises ValueError for a site, head or position outside the model, an edit that the backend ignores, and an edge
        that no attention could have.
        """
        if isinstance(edit, EdgeEdit):
            return _edge_step(model, edit, n_rows, n_positions)
        if not isinstance(edit, Edit):
            raise ValueError(f"an arm holds {edit!r}; expected Edit or EdgeEdit")
        (site,) = backends.check_editable(model, [edit.site])
        location = locate(site, model.cfg.n_layers)
        if edit.heads is not None and location.axes == TOKEN:
            raise ValueError(f"site {site!r} has no axis of heads: leave heads out, or edit attn.hook_z")
        positions = None if edit.positions is None else _positions(edit.positions, n_rows, n_positions, repr(edit))
        if positions is not None:
            ordered = np.sort(positions, axis=1)
            if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
                raise ValueError(f"{edit!r} names a position of a row twice; name each once")
        return cls(site, location, positions, edit.change, _heads(edit.heads, model), n_positions)

    def entries(
        self, first_row: int, last: np.ndarray, *, whole: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(row, position, column), int64 [m] each, of rows first_row ..., where the logits at position `last` [rows] of
        each are within reach; `whole` takes all up to there."""
        first = last if self.location.only_last and not whole else np.zeros_like(last)
        if self.positions is None:
            columns = np.arange(last.max(initial=-1) + 1)
            rows, columns = ((columns >= first[:, None]) & (columns <= last[:, None])).nonzero()
            return rows + first_row, columns, columns
        if len(self.positions) == 1:  # the same in every row
            positions = np.broadcast_to(self.positions, (len(last), self.positions.shape[1]))
        else:
            positions = self.positions[first_row : first_row + len(last)]
        rows, columns = ((positions >= first[:, None]) & (positions <= last[:, None])).nonzero()
        return rows + first_row, positions[rows, columns], columns

    def apply(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """x [m, ...] of these rows and columns -> what stands in its place, [m, ...]."""
        if self.heads is None:
            return self._checked(self.change(x, rows, columns), x)
        heads = self.heads.to(x.device)
        part = x.index_select(1, heads)
        return x.index_copy(1, heads, self._checked(self.change(part, rows, columns), part))

    def in_generation(self) -> Step:
        """Of an edit of edges: the same at queries that are written later, all in column 0."""
        assert self.edges is not None
        edges = self.edges.of_any_query()
        return replace(self, change=edges, edges=edges, n_positions=None)

    def _checked(self, y: Tensor, x: Tensor) -> Tensor:
        if y.shape != x.shape:
            raise ValueError(f"the change at {self.site!r} gave {tuple(y.shape)} in place of {tuple(x.shape)}")
        return y


def _positions(values: Positions, n_rows: int | None, n_positions: int | None, name: str) -> np.ndarray:
    """int64 [rows, k], or [1, 1] for the same in all rows; ValueError for what is no position of the sequences."""
    if values is None:
        raise ValueError(f"{name}: positions are missing; give int [rows] or [rows, k]")
    array = np.asarray(values.cpu() if isinstance(values, Tensor) else values)
    if array.dtype.kind not in "iu" or array.ndim > 2:
        raise ValueError(f"{name}: positions are {array.dtype} {array.shape}; expected int [rows] or [rows, k]")
    is_one = array.ndim == 0
    array = array.astype(np.int64).reshape(-1, 1) if array.ndim < 2 else array.astype(np.int64)
    n = np.iinfo(np.int64).max if n_positions is None else n_positions
    if array.size and not -1 <= array.min() <= array.max() < n:
        outside = array[(array < -1) | (array >= n)][0]
        raise ValueError(
            f"{name}: position {outside} is outside the sequences, whose positions are 0 ... {n - 1}; -1 is none"
        )
    if n_rows is not None and not is_one and len(array) != n_rows:
        raise ValueError(f"{name}: positions are of {len(array)} rows, but there are {n_rows}")
    return array


def _heads(heads: Sequence[int] | None, model: Any) -> Tensor | None:
    if heads is None:
        return None
    numbers = [int(head) for head in heads]
    outside = [head for head in numbers if not 0 <= head < model.cfg.n_heads]
    if outside or len(set(numbers)) != len(numbers) or not numbers:
        raise ValueError(
            f"heads {numbers} are not distinct heads of the model, which has {model.cfg.n_heads} in each block "
            f"(0 ... {model.cfg.n_heads - 1})"
        )
    return torch.tensor(numbers)


# --- edges -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Edges:
    """The change of scores or of a pattern that takes edges away: x [m, head, key] by row and column of the queries."""

    mode: str
    """As `EdgeEdit.mode`, or "renormalize": "block", done to the pattern where scores cannot be edited."""

    edges: Tensor
    """bool [rows, columns, pos]: which keys the query of that row and column loses; one row stands for all."""

    to: Tensor
    """int64 [rows, columns, pos]: where the mass of each goes."""

    def __call__(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        rows = rows if len(self.edges) > 1 else torch.zeros_like(rows)
        edges = self._select(self.edges, x, rows, columns, False)[:, None]  # [m, 1, key]
        if self.mode == "block":
            y = x.masked_fill(edges, -torch.inf)
            stuck = (y == -torch.inf).all(-1).any(-1)
            if stuck.any():
                raise ValueError(
                    f"a query of row {int(rows[stuck][0])} is left without any key: leave it one, such as its own"
                )
            return y
        rest = x.masked_fill(edges, 0)
        if self.mode == "renormalize":
            total = rest.sum(-1, keepdim=True)
            if (total == 0).any():
                raise ValueError("a query is left without any key: leave it one, such as its own")
            return rest / total
        if self.mode == "zero":
            return rest
        to = self._select(self.to, x, rows, columns, 0)[:, None].expand_as(x)
        return rest.scatter_add(-1, to, x * edges)

    def _select(self, table: Tensor, x: Tensor, rows: Tensor, columns: Tensor, fill: int) -> Tensor:
        """[m, key] of the table, as many keys as x has."""
        part = table.to(x.device)[rows, columns]
        return torch.nn.functional.pad(part, (0, x.shape[-1] - part.shape[-1]), value=fill)

    def of_any_query(self) -> Edges:
        """The same for queries that come later: each loses all keys that a query of its row loses; one column."""
        to = torch.where(self.edges, self.to, -1).amax(1, keepdim=True).clamp(min=0)
        return replace(self, edges=self.edges.any(1, keepdim=True), to=to)


def _edge_step(model: Any, edit: EdgeEdit, n_rows: int | None, n_positions: int | None) -> Step:
    """The step that an edit of edges is."""
    if edit.mode not in MODES:
        raise ValueError(f"mode {edit.mode!r} is none of {', '.join(MODES)}")
    if not isinstance(edit.layer, int | np.integer) or not 0 <= edit.layer < model.cfg.n_layers:
        raise ValueError(f"layer {edit.layer!r} is outside the model's layers, 0 ... {model.cfg.n_layers - 1}")
    if (edit.mode == "move") != (edit.to is not None):
        raise ValueError(f"mode {edit.mode!r} with to = {edit.to!r}: `to` goes with mode 'move', and with that alone")
    lists = [
        _positions(values, n_rows, n_positions, f"{edit!r}, {name}")
        for name, values in (("queries", edit.queries), ("keys", edit.keys), ("to", edit.to))
        if name != "to" or values is not None
    ]
    queries, keys, *rest = np.broadcast_arrays(*lists)
    to = rest[0] if rest else np.zeros_like(keys)
    row, column = (queries >= 0).nonzero()
    for name, array in (("key", keys), ("to", to)):
        wrong = (array[row, column] < 0) | (array[row, column] > queries[row, column])
        if wrong.any():
            i = int(wrong.argmax())
            raise ValueError(
                f"{edit!r}: in row {row[i]} query {queries[row[i], column[i]]} has {name} "
                f"{array[row[i], column[i]]}; attention looks from a position to itself and to those before it"
            )
    return _edge_table(model, edit, queries, keys, to, n_positions)


def _edge_table(
    model: Any, edit: EdgeEdit, queries: np.ndarray, keys: np.ndarray, to: np.ndarray, n_positions: int | None
) -> Step:
    """The step of checked edges: queries, keys, to int64 [rows, k] each."""
    row, column = (queries >= 0).nonzero()
    query = queries[row, column]
    n = int(queries.max(initial=0)) + 1 if n_positions is None else n_positions
    unique, inverse = np.unique(row * n + query, return_inverse=True)
    rows = unique // n  # of each distinct query, ascending
    columns = np.arange(len(unique)) - np.searchsorted(rows, rows)  # its number within its row
    shape = len(queries), int(columns.max(initial=-1)) + 1
    positions = np.full(shape, -1, np.int64)
    positions[rows, columns] = unique % n
    edges = np.zeros((*shape, n), bool)
    targets = np.zeros((*shape, n if edit.mode == "move" else 1), np.int64)
    edges[row, columns[inverse], keys[row, column]] = True
    if edit.mode == "move":
        targets[row, columns[inverse], keys[row, column]] = to[row, column]
    site = f"blocks.{edit.layer}.attn.hook_" + ("attn_scores" if edit.mode == "block" else "pattern")
    mode = edit.mode
    if mode == "block" and not _edits_scores(model):
        mode, site = "renormalize", site.replace("attn_scores", "pattern")
    (site,) = backends.check_editable(model, [site])
    change = Edges(mode, torch.from_numpy(edges), torch.from_numpy(targets))
    location = locate(site, model.cfg.n_layers)
    return Step(site, location, positions, change, _heads(edit.heads, model), n_positions, change)


def _edits_scores(model: Any) -> bool:
    table = backends.capabilities(backends.backend(model), model.cfg.positional_embedding_type == "rotary")
    return table["blocks.attn.hook_attn_scores"].editable
