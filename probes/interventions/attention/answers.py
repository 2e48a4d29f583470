"""What a model goes on to answer when prompts are edited, told apart from its own answer at little cost.

Most edits of one head leave the answer as it is. So only the answer is written under each edit. Where it is the model's
own, its own completion stands for the rest; where it is false the program is false, whatever follows; only what is left
is written out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from cadmus.machine import oracle, tokens, vm
from cadmus.runtime.progress import Progress, no_progress
from probes.interventions.counterfactuals.judging import ENDS, through_answer
from probes.interventions.counterfactuals.pairs import Pairs
from probes.interventions.counterfactuals.roles import JointEdit
from probes.interventions.editing import changes, engine
from probes.interventions.editing.edits import EdgeEdit, Edit

_MARGIN = 2  # tokens that an edited answer may be longer than the longest of the model's own
_BEYOND = 6  # tokens that an edited completion may be longer than the longest of the model's own
_CELLS = 8192  # edits times prompts that are completed at once

Texts = dict[int, str]
"""Texts by the number of their prompt."""


@dataclass(frozen=True)
class Judge:
    """What programs are worth; functions of (rows int64 [m], texts) -> bool [m]."""

    answer: Callable[[np.ndarray, list[str]], np.ndarray]
    """Whether a prompt's text, cut off behind the answer and closed with `.`, can still be worth something."""
    whole: Callable[[np.ndarray, list[str]], np.ndarray] | None = None
    """Whether a whole program is; None: the answer decides."""

    def __call__(self, rows: np.ndarray, texts: list[str]) -> np.ndarray:
        """Of whole programs: bool [m]."""
        return (self.answer if self.whole is None else self.whole)(rows, texts)


@dataclass(frozen=True)
class Bases:
    """Prompts, and what the model makes of them by itself."""

    prompts: tuple[str, ...]
    """Without the marker; token i stands at position i + 1, and the answer is predicted at len(prompt)."""
    own: tuple[str, ...]
    """The model's own completions: whole programs."""
    is_right: Judge
    """Whether a completion is right."""
    skeletons: np.ndarray
    """[n], what intervals are clustered by."""
    stop_at: str = ENDS
    """Tokens that end an answer; empty: an answer is one token."""

    def __post_init__(self) -> None:
        for name in ("own", "skeletons"):
            if len(getattr(self, name)) != len(self.prompts):
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {len(self.prompts)} prompts")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def cuts(self) -> np.ndarray:
        """int64 [n]: how long the prompts are."""
        return np.array([len(prompt) for prompt in self.prompts], np.int64)

    def arrays(self) -> np.ndarray:
        """The prompts: uint8 [n, length], padded."""
        return tokens.encode(list(self.prompts))

    def right(self) -> np.ndarray:
        """Whether the model's own completions are: bool [n]."""
        return self.is_right(np.arange(len(self)), list(self.own))

    def answer(self, text: str, row: int) -> str:
        """What a text that begins with the prompt says through its answer."""
        cut = len(self.prompts[row])
        if not self.stop_at:
            return text[cut : cut + 1]
        return through_answer(text, cut, self.stop_at)[cut:]


def bases_of(model: Any, pairs: Pairs, own: Sequence[str] | None = None) -> Bases:
    """The bases of pairs, right where the completion has the family's form and is true for the base's own state.

    own: the model's completions of the bases, whole programs, where they are known already.
    """
    own = None if own is None else tokens.text_list(own, "own")
    prompts = pairs.pairs["base"].tolist()
    if own is None:
        (own,) = engine.complete(model, prompts, [[]])
    own = tuple(map(tokens.through_end, own))
    return Bases(tuple(prompts), own, truth(pairs), pairs.pairs["base_skeleton"].to_numpy())


def truth(pairs: Pairs, edits: Sequence[JointEdit] | None = None) -> Judge:
    """Judges programs of pairs: true for the base's own state, and of the family's form.

    With `edits`, one for each pair: true for the state so edited, false for the own one, and of the family's form.
    """
    families = [pairs.family(name) for name in pairs.pairs["family"]]

    def is_true(rows: np.ndarray, texts: list[str]) -> np.ndarray:
        if not len(rows):
            return np.zeros(0, np.bool_)
        programs, cuts = tokens.encode(texts), pairs.cuts[rows]
        before = oracle.continuation_verdicts(programs, cuts)
        if edits is None:
            return before
        here = [edits[row] for row in rows.tolist()]
        at = np.array([edit.at for edit in here], np.int64)
        return ~before & oracle.continuation_verdicts(programs, cuts, at, [edit.places for edit in here])

    def whole(rows: np.ndarray, texts: list[str]) -> np.ndarray:
        fits = [text.endswith(vm.END) and families[row].accepts(text) for row, text in zip(rows.tolist(), texts)]
        return is_true(rows, texts) & np.array(fits, np.bool_)

    return Judge(is_true, whole)


# --- what is done to the prompts -------------------------------------------------------------------------------------


class Treatment(Protocol):
    """Something that is done to a model, for some of the prompts."""

    @property
    def rows(self) -> np.ndarray:
        """Which prompts it does anything to: bool [n]."""

    def edits(self, rows: np.ndarray, mask: np.ndarray) -> list[Edit | EdgeEdit]:
        """The edits of prompts rows int64 [m]; none where mask bool [m] is off."""


@dataclass(frozen=True, eq=False)
class EdgeSet:
    """Edges that are blocked, or moved, together."""

    n: int
    """Prompts."""
    edges: np.ndarray
    """int64 [m, 5]: prompt, layer, head (-1: all of the layer), query, key, in model positions."""
    to: np.ndarray | None = None
    """int64 [m]: the keys that the attention is moved to; None: it is blocked."""

    @property
    def rows(self) -> np.ndarray:
        return np.isin(np.arange(self.n), self.edges[:, 0])

    def edits(self, rows: np.ndarray, mask: np.ndarray) -> list[Edit | EdgeEdit]:
        place = np.full(self.n, -1)
        place[rows[mask]] = np.flatnonzero(mask)
        is_here = place[self.edges[:, 0]] >= 0
        edges, to = self.edges[is_here], None if self.to is None else self.to[is_here]
        out: list[Edit | EdgeEdit] = []
        for layer, head in np.unique(edges[:, 1:3], axis=0).tolist():
            own = (edges[:, 1] == layer) & (edges[:, 2] == head)
            number = place[edges[own, 0]]
            columns = _numbers_within(number)
            shape = len(rows), int(columns.max()) + 1
            arrays = []
            for values in (edges[own, 3], edges[own, 4], *(() if to is None else (to[own],))):
                array = np.full(shape, -1, np.int64)
                array[number, columns] = values
                arrays.append(array)
            mode = "block" if to is None else "move"
            heads = None if head < 0 else [head]
            out.append(EdgeEdit(layer, arrays[0], arrays[1], heads, mode, arrays[2] if to is not None else None))
        return out


def _numbers_within(labels: np.ndarray) -> np.ndarray:
    """The number of each entry among those of its label, from 0: int64 [m]."""
    order = np.argsort(labels, kind="stable")
    sorted_labels = labels[order]
    out = np.empty(len(labels), np.int64)
    out[order] = np.arange(len(labels)) - np.searchsorted(sorted_labels, sorted_labels)
    return out


@dataclass(frozen=True, eq=False)
class Patch:
    """Activations that are replaced at some positions."""

    site: str
    """The site."""
    positions: np.ndarray
    """int64 [n, k], -1 for none."""
    values: Tensor
    """[n, k, ...]: what is put there."""
    heads: tuple[int, ...] | None = None
    """Which heads; None: all, or a site without heads."""

    @property
    def rows(self) -> np.ndarray:
        return np.asarray((self.positions >= 0).any(1))

    def edits(self, rows: np.ndarray, mask: np.ndarray) -> list[Edit | EdgeEdit]:
        positions = np.where(mask[:, None], self.positions[rows], -1)
        return [Edit(self.site, positions, changes.patch(self.values[rows]), self.heads)]


# --- answers ---------------------------------------------------------------------------------------------------------


def answers(model: Any, bases: Bases, treatments: Sequence[Treatment], progress: Progress = no_progress) -> list[Texts]:
    """What is written through the answer under each treatment, `.` behind it, for the prompts in which it is another
    answer than the model's own."""
    n_new = max((len(bases.answer(own, row)) for row, own in enumerate(bases.own)), default=0)
    n_new += _MARGIN + 1 if bases.stop_at else 0
    out = _written(model, bases, treatments, [part.rows for part in treatments], n_new, bases.stop_at, progress)
    return [
        {row: text for row, text in texts.items() if bases.answer(text, row) != bases.answer(bases.own[row], row)}
        for texts in out
    ]


def judged(
    model: Any, bases: Bases, treatments: Sequence[Treatment], texts: Sequence[Texts], judge: Judge, own: np.ndarray
) -> np.ndarray:
    """What a judge says of the completions under each treatment, whose answers are known: bool [treatments, n].

    texts: of `answers`; own bool [n]: what it says of the model's own completions.
    """
    out = np.repeat(own[None], len(treatments), 0)
    masks = np.zeros_like(out)
    for number, part in enumerate(texts):
        rows = np.array(sorted(part), np.int64)
        masks[number, rows] = judge.answer(rows, [part[row] for row in rows.tolist()])
        out[number, rows] = masks[number, rows] & (judge.whole is None)
    if judge.whole is None:
        return out
    n_new = max((len(text) - cut for text, cut in zip(bases.own, bases.cuts.tolist())), default=0) + _BEYOND
    for number, part in enumerate(_written(model, bases, treatments, masks, n_new, "", no_progress)):
        rows = np.array(sorted(part), np.int64)
        out[number, rows] = judge.whole(rows, [part[row] for row in rows.tolist()])
    return out


def _written(
    model: Any,
    bases: Bases,
    treatments: Sequence[Treatment],
    masks: Sequence[np.ndarray] | np.ndarray,
    n_new: int,
    stop_at: str,
    progress: Progress,
) -> list[Texts]:
    """Up to n_new tokens under each treatment, where its mask bool [n] is on."""
    out: list[Texts] = [{} for _ in treatments]
    numbers = [number for number, mask in enumerate(masks) if mask.any()]
    size = max(1, _CELLS // max(1, len(bases)))
    for first in range(0, len(numbers), size):
        progress("edits", first / len(numbers), "")
        part = numbers[first : first + size]
        rows = np.flatnonzero(np.any([masks[number] for number in part], 0))
        prompts = [bases.prompts[row] for row in rows]
        arms = [treatments[number].edits(rows, masks[number][rows]) for number in part]
        if n_new == 1:
            several = _next_tokens(model, prompts, arms)
        else:
            room = model.cfg.n_ctx - 1 - max(map(len, prompts))
            several = engine.write(model, prompts, arms, min(n_new, room), stop_at=stop_at).texts
        for number, texts in zip(part, several, strict=True):
            out[number] = {int(row): texts[place] for place, row in enumerate(rows) if masks[number][row]}
    progress("edits", 1.0, "")
    return out


def _next_tokens(model: Any, prompts: Sequence[str], arms: Sequence[list[Edit | EdgeEdit]]) -> list[list[str]]:
    """The prompts with the likeliest next token: of each arm those of all prompts."""
    sequences = tokens.sequences(tokens.encode(list(prompts)))
    at = np.array([len(prompt) for prompt in prompts], np.int64)
    best = engine.run(model, sequences, arms, at).logits.argmax(-1).cpu().numpy()  # [arm, prompt]
    return [[prompt + vm.VOCAB[token] for prompt, token in zip(prompts, row)] for row in best.tolist()]
