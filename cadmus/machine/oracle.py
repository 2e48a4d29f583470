"""The machine as oracle: what must follow when its state is edited, and which continuations of a text are true.

`edit` changes the state after one token and runs the rest with `cadmus.machine.vm.resume`. `traces` and `verdicts` are
the same for arrays of programs, compiled; `continuation_verdicts` judges what a model wrote behind a cut, the prefix
being *frozen*: it ran with its own definitions. `true_set` is the exact set of continuations that are true, found by a
search through all of them; `true_continuations` gives it as an array, `true_sets` for many prefixes.

A *place* is `reg.a` to `reg.d` or `stack.K`, the stack's entry K from the top, in the state after the token `at` (-1:
before the first). Where a frozen prefix ends inside a definition, it ran with what is written of it, as `vm.run` runs a
text whose last definition is never closed, and the continuation goes on writing it.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cadmus.machine import kernel, tokens, vm
from cadmus.machine.compiled import run_edited_verdicts, run_true_continuations
from cadmus.machine.edits import Edits, EditsLike, edited_state, inside_definition, missing_entry, value_at

__all__ = ["MAX_TOKENS", "Counterfactual", "Edits", "EditsLike", "continuation_verdicts", "edit", "traces"]
__all__ += ["true_continuations", "true_set", "true_sets", "verdicts"]

MAX_TOKENS = 5  # of a continuation: 64 ** 5 is a thousand million


# --- one program -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Counterfactual:
    """The run of a program whose state was edited after one token."""

    text: str
    """The program."""
    at: int
    """The token after which the state was edited; -1: before the first."""
    edits: Mapping[str, vm.Value]
    """The value that each place was given."""
    states: tuple[vm.State, ...]
    """The state after every token: before `at` as it was, at `at` the edited one, then what follows from it."""
    outputs: tuple[vm.Value, ...]
    """The stack at the end, bottom first."""

    @property
    def is_true(self) -> bool:
        """Whether there are one or more outputs, all true."""
        return vm.all_true(self.outputs)

    def __repr__(self) -> str:
        changes = " ".join(f"{place}={value}" for place, value in self.edits.items()) or "nothing edited"
        outputs = " ".join(map(str, self.outputs)) or "none"
        return f"Counterfactual({self.text!r}, after token {self.at}: {changes}; outputs: {outputs}; {self.is_true})"


def edit(
    text: str, at: int, edits: Mapping[str, vm.ValueLike], semantics: vm.Semantics | None = None
) -> Counterfactual:
    """What follows where the state after token `at` of `text` (-1: before the first) is edited.

    All edits are made at once; then the rest is executed, with every definition of the text and the fuel that was left,
    as `vm.resume` does. Raises ValueError for `at` outside the text or, where something is edited, inside a definition,
    for a place that does not exist there and for a value outside the machine's range; TypeError for what is no value.
    """
    end = len(vm.check(text).partition(vm.END)[0])
    last, at = min(end, len(text) - 1), operator.index(at)
    if not -1 <= at <= last:
        raise ValueError(_outside(at, last))
    values = {place: value_at(place, value) for place, value in edits.items()}
    opening = _opening(text[: at + 1]) if at < end else -1
    if values and opening >= 0:
        raise ValueError(inside_definition(at, opening))
    state = vm.run(text, semantics).states[at] if at >= 0 else vm.State()
    result = vm.resume(text, at, edited_state(state, at, values), semantics)
    return Counterfactual(text, at, values, result.states, result.outputs)


def _opening(text: str) -> int:
    """Where the `{` stands of the definition that is open at the end of `text`; -1: none is."""
    start = text.find(vm.OPEN)
    while start >= 0:
        close = text.find(vm.CLOSE, start)
        if close < 0:
            return start
        start = text.find(vm.OPEN, close)
    return -1


# --- arrays of programs ----------------------------------------------------------------------------------------------


def traces(
    programs: np.ndarray,
    at: int | Sequence[int] | np.ndarray,
    edits: EditsLike,
    semantics: vm.Semantics | None = None,
    *,
    entries: int = 4,
    contents: bool = False,
    threads: int | None = None,
) -> kernel.Traces:
    """The states of programs uint8 [n, width], the one after token at[i] of program i edited, the rest following from
    it: `edit`, compiled.

    `at` is one for all or [n]; `edits` is whatever `Edits.of` takes; the others are those of `kernel.traces`. Raises
    what `edit` raises, naming the program, and what `kernel.traces` raises.
    """
    programs, at, edits, faults = _checked(programs, at, edits)
    result = kernel.record(programs, semantics, at, edits.arrays, faults, entries, contents, threads)
    _raise_faults(faults, at)
    return result


def verdicts(
    programs: np.ndarray,
    at: int | Sequence[int] | np.ndarray,
    edits: EditsLike,
    semantics: vm.Semantics | None = None,
    *,
    threads: int | None = None,
) -> np.ndarray:
    """Whether each program is true, the state after token at[i] of program i edited: bool [n].

    Arguments and errors as for `traces`.
    """
    programs, at, edits, faults = _checked(programs, at, edits)
    return _edited_verdicts(programs, np.full(len(programs), -1, np.int64), at, edits, faults, semantics, threads)


def continuation_verdicts(
    programs: np.ndarray,
    cuts: int | Sequence[int] | np.ndarray,
    at: int | Sequence[int] | np.ndarray | None = None,
    edits: EditsLike | None = None,
    semantics: vm.Semantics | None = None,
    *,
    threads: int | None = None,
) -> np.ndarray:
    """Whether each program is true with its prefix frozen: bool [n].

    The cuts[i] tokens before the cut (0 to all of them) run with the definitions among them alone; the state after
    token at[i] of them (the last, unless it is stated; -1: before the first) is edited; the rest of the prefix follows
    from it, then the continuation, whose definitions are bound after the prefix's. Arguments and errors as for
    `traces`, and ValueError for a cut outside its program and for `at` behind the cut.
    """
    programs = kernel.check(programs)
    cuts = _integers("cuts", cuts, len(programs))
    lengths = tokens.lengths(programs)
    row = _first((cuts < 0) | (cuts > lengths))
    if row is not None:
        raise ValueError(
            f"program {row} is cut after {cuts[row]} tokens; expected 0 to {lengths[row]}, the tokens before its `.`"
        )
    at = cuts - 1 if at is None else _integers("at", at, len(programs))
    row = _first((at < -1) | (at >= cuts))
    if row is not None:
        raise ValueError(f"program {row}: {_outside(at[row], cuts[row] - 1, 'prefix')}")
    edits = Edits.of({} if edits is None else edits, len(programs))
    faults = np.zeros((len(programs), 2), np.int64)
    return _edited_verdicts(programs, cuts, at, edits, faults, semantics, threads)


def _edited_verdicts(
    programs: np.ndarray,
    cuts: np.ndarray,
    at: np.ndarray,
    edits: Edits,
    faults: np.ndarray,
    semantics: vm.Semantics | None,
    threads: int | None,
) -> np.ndarray:
    """Verdicts with edits, behind cuts (-1: nothing is frozen). Raises ValueError for the first impossible edit."""
    meanings = kernel.meanings_of(semantics)
    is_true = np.empty(len(programs), np.bool_)

    def run(rows: slice) -> None:
        mine = kernel.edits_of(edits.arrays, rows)
        run_edited_verdicts(programs[rows], meanings, cuts[rows], at[rows], mine, faults[rows], is_true[rows])

    kernel.on_threads(len(programs), threads, run)
    _raise_faults(faults, at)
    return is_true


# --- true continuations ----------------------------------------------------------------------------------------------


def true_set(
    prefix: str,
    edits: Mapping[str, vm.ValueLike] | None = None,
    max_tokens: int = 1,
    semantics: vm.Semantics | None = None,
) -> set[str]:
    """Exactly the continuations of `prefix`, of 0 to `max_tokens` tokens, none of them `.`, that are true.

    Without edits: those for which prefix + continuation + `.` is a true-program, with the definitions of the whole
    text. With edits, be it none of them (`{}`), the prefix is frozen: the state after its last token, which it reached
    with its own definitions, is edited, and the continuation goes on from there, its definitions bound after the
    prefix's. Raises ValueError for a prefix that holds a `.` and for `max_tokens` outside 0 to `MAX_TOKENS`, and what
    `edit` raises. `true_continuations` is the same as an array: sets of millions of strings take a second per million.
    """
    rows = true_continuations(prefix, edits, max_tokens, semantics)
    if max_tokens == 0:
        return {""} if len(rows) else set()
    characters = np.array([ord(token) for token in vm.VOCAB], np.uint32)
    characters[tokens.PAD] = 0  # numpy's strings end with zeros
    return set(characters[rows].view(f"<U{max_tokens}").ravel().tolist())


def true_continuations(
    prefix: str,
    edits: Mapping[str, vm.ValueLike] | None = None,
    max_tokens: int = 1,
    semantics: vm.Semantics | None = None,
    *,
    threads: int | None = None,
) -> np.ndarray:
    """The continuations of `true_set`, one a row, padded with `.`: uint8 [n, max_tokens], in the order of their ids.

    Arguments and errors as for `true_set`.
    """
    max_tokens = operator.index(max_tokens)
    if not 0 <= max_tokens <= MAX_TOKENS:
        raise ValueError(
            f"max_tokens is {max_tokens}; expected 0 to {MAX_TOKENS}: each token more makes 64 times as many"
        )
    row, lengths = _checked_prefixes(tokens.encode([prefix]), [len(prefix)])
    arrays = Edits.of([edits or {}]).arrays
    meanings = kernel.meanings_of(semantics)
    n_tokens = len(vm.VOCAB)
    step = n_tokens if max_tokens < 3 else 1  # how many first tokens are tried in one piece

    def search(first: int) -> np.ndarray:
        faults = np.zeros((1, 2), np.int64)
        is_true = np.zeros((1, step * n_tokens ** (max_tokens - 1) if max_tokens else 1), np.bool_)
        bounds = (max_tokens, first, first + step)
        run_true_continuations(row, lengths, meanings, edits is not None, arrays, *bounds, faults, is_true)
        _raise_faults(faults, lengths - 1, "the prefix")
        numbers = np.flatnonzero(is_true) + first * n_tokens ** max(max_tokens - 1, 0)
        places = n_tokens ** np.arange(max_tokens)[::-1]
        return (numbers[:, None] // places % n_tokens).astype(np.uint8)  # [n] -> [n, max_tokens]: digits to base 65

    with ThreadPoolExecutor(kernel.n_threads(threads)) as pool:
        return np.concatenate(list(pool.map(search, range(0, n_tokens, step))))


def true_sets(
    prefixes: np.ndarray,
    lengths: int | Sequence[int] | np.ndarray,
    edits: EditsLike | None = None,
    semantics: vm.Semantics | None = None,
    *,
    threads: int | None = None,
) -> np.ndarray:
    """Which single tokens make each prefix true: bool [n, 65]; in the column of `.`, whether it is true as it is.

    prefixes uint8 [n, width], of which the first lengths[i] tokens count; with `edits` (whatever `Edits.of` takes) they
    are frozen. Meaning and errors as for `true_set` with `max_tokens=1`, naming the prefix.
    """
    prefixes, lengths = _checked_prefixes(prefixes, lengths)
    n, frozen = len(prefixes), edits is not None
    arrays = Edits.of({} if edits is None else edits, n).arrays
    meanings = kernel.meanings_of(semantics)
    faults = np.zeros((n, 2), np.int64)
    is_true = np.zeros((n, len(vm.VOCAB)), np.bool_)

    def run(rows: slice) -> None:
        mine, bounds = kernel.edits_of(arrays, rows), (1, 0, len(vm.VOCAB))
        run_true_continuations(
            prefixes[rows], lengths[rows], meanings, frozen, mine, *bounds, faults[rows], is_true[rows]
        )

    kernel.on_threads(n, threads, run)
    _raise_faults(faults, lengths - 1, "prefix")
    return is_true


# --- what is refused -------------------------------------------------------------------------------------------------


def _outside(at: int, last: int, of: str = "text") -> str:
    return f"the edit is after token {at}; expected -1 (before the first) to {last} (the last of the {of})"


def _first(where: np.ndarray) -> int | None:
    """The first row of a bool [n] that is True."""
    return int(where.argmax()) if where.any() else None


def _integers(name: str, values: int | Sequence[int] | np.ndarray, n: int) -> np.ndarray:
    """One integer for all or one a program, as int64 [n]."""
    array = np.asarray(values)
    if array.size == 0 and n == 0:
        return np.zeros(0, np.int64)
    if not np.issubdtype(array.dtype, np.integer) or array.shape not in ((), (n,)):
        raise ValueError(
            f"{name} is {array.dtype} {list(array.shape)}; expected an integer or {n:,} of them, one a program"
        )
    return np.array(np.broadcast_to(array, n), np.int64)


def _checked(
    programs: np.ndarray, at: int | Sequence[int] | np.ndarray, edits: EditsLike
) -> tuple[np.ndarray, np.ndarray, Edits, np.ndarray]:
    """Programs, positions and edits as arrays, and room for faults."""
    programs = kernel.check(programs)
    at = _integers("at", at, len(programs))
    last = np.minimum(tokens.lengths(programs), programs.shape[1] - 1)
    row = _first((at < -1) | (at > last))
    if row is not None:
        raise ValueError(f"program {row}: {_outside(at[row], last[row])}")
    return programs, at, Edits.of(edits, len(programs)), np.zeros((len(programs), 2), np.int64)


def _checked_prefixes(prefixes: np.ndarray, lengths: int | Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    prefixes = kernel.check(prefixes)
    lengths = _integers("lengths", lengths, len(prefixes))
    ends = tokens.lengths(prefixes)
    row = _first((lengths < 0) | (lengths > prefixes.shape[1]))
    if row is not None:
        raise ValueError(
            f"prefix {row} has {lengths[row]} tokens; expected 0 to {prefixes.shape[1]}, the array's width"
        )
    row = _first(ends < lengths)
    if row is not None:
        raise ValueError(
            f"prefix {row} ends at its token {ends[row]}, a `.`: nothing can follow; give the tokens before it (and no "
            "leading marker)"
        )
    return prefixes, lengths


def _raise_faults(faults: np.ndarray, at: np.ndarray, what: str = "program") -> None:
    """Raise ValueError for the first edit that compiled code found impossible."""
    row = _first(faults[:, 0] != 0)
    if row is not None:
        code, detail = map(int, faults[row])
        name = what if what.startswith("the ") else f"{what} {row}"
        message = inside_definition(int(at[row]), detail) if code < 0 else missing_entry(code - 1, detail, int(at[row]))
        raise ValueError(f"{name}: {message}")
