"""What programs do, program by program: registers, definitions, the values on top of the stack, behaviour.

`cadmus.properties.structure` averages these over a sample. Programs are arrays as in `cadmus.machine.tokens`, one
column or more.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from cadmus.machine import kernel, tokens, vm
from cadmus.machine.jit import jit

REFILLS = 64  # of a skeleton's digit slots, to see how it behaves; fewer would merge what differs seldom
_CHUNK = 1 << 14  # programs traced at once: the states of all tokens lie in memory
_ENTRIES = 4  # stack entries that count as behaviour

_STORE, _LOAD, _OPEN, _CLOSE, _NOT, _NEGATE, _MINUS, _LESS, _GREATER, _EQUAL = map(vm.VOCAB.index, "Aa{}!~-<>=")
_SLOT_OF = np.full(len(vm.VOCAB), -1)  # the definition slot that a token calls: f, g, h are 0, 1, 2
for _slot, _callers in enumerate(("fFMW", "gG", "hH")):
    _SLOT_OF[[vm.VOCAB.index(token) for token in _callers]] = _slot
_LEAVES_A_VALUE = np.array([row.outputs > 0 for row in vm.INSTRUCTIONS.values()])
_COMPUTES = np.array([row.outputs > 0 and not row.signature.endswith("bit") for row in vm.INSTRUCTIONS.values()])
_COMPUTES[:10] = False  # a digit is there, not computed

# --- registers and definitions, read off the text --------------------------------------------------------------------

# counts[row, ...]: counts and sums of one program, in the order of the fields of `Structure`
(_STORES, _LOADS, _MAIN_STORES, _LIVE, _READS, _DISTANCE, _CHAIN, _DEFINITIONS, _USED, _LATE, _COLUMNS) = range(11)


@dataclass(frozen=True)
class Structure:
    """Registers and definitions of n programs: counts and sums per program, int64 [n], and the main text.

    `stores` and `loads` count the whole text. The rest of the registers' story is that of the main text read straight
    on: what a called body does to a register is not in it.
    """

    stores: np.ndarray
    """Store instructions."""

    loads: np.ndarray
    """Load instructions."""

    main_stores: np.ndarray
    """Store instructions of the main text."""

    live_stores: np.ndarray
    """Stores that are read before they are overwritten or the text ends."""

    reads: np.ndarray
    """Loads of a register that was stored before."""

    distances: np.ndarray
    """The sum, over `reads`, of the tokens from store to load."""

    chains: np.ndarray
    """The sum, over `main_stores`, of 1 + the longest chain of the registers loaded since the store before."""

    definitions: np.ndarray
    """Definitions."""

    used: np.ndarray
    """1 where a bound slot is called somewhere in the text."""

    late: np.ndarray
    """1 where the definition of such a slot stands behind its first call."""

    main: np.ndarray
    """The tokens outside definitions: bool [n, width]."""


def structure(programs: np.ndarray) -> Structure:
    """Read registers and definitions off every program, uint8 [n, width]."""
    counts = np.zeros((len(programs), _COLUMNS), np.int64)
    main = np.zeros(programs.shape, np.bool_)
    _walk(programs, tokens.lengths(programs), counts, main)
    arrays = [*counts.T, main]
    return Structure(*arrays)


@jit
def _walk(programs, lengths, counts, main):
    """Fill counts [n, columns] and main [n, width], both zero before."""
    stored_at = np.empty(4, np.int64)
    chain = np.empty(4, np.int64)
    is_read = np.empty(4, np.bool_)
    opened_at = np.empty(3, np.int64)
    called_at = np.empty(3, np.int64)
    for row in range(len(programs)):
        stored_at[:] = -1
        chain[:] = 0
        opened_at[:] = -1
        called_at[:] = -1
        inside = False
        definitions = 0
        longest = 0  # chain of the registers loaded since the last store
        for at in range(lengths[row]):
            token = np.int64(programs[row, at])
            store, load, slot = token - _STORE, token - _LOAD, _SLOT_OF[token]
            counts[row, _STORES] += 0 <= store < 4
            counts[row, _LOADS] += 0 <= load < 4
            if slot >= 0 and called_at[slot] < 0:
                called_at[slot] = at
            if inside:
                inside = token != _CLOSE
            elif token == _OPEN:
                inside = True
                if definitions < 3:
                    opened_at[definitions] = at
                definitions += 1
            else:
                main[row, at] = True
                if 0 <= store < 4:
                    stored_at[store] = at
                    chain[store] = longest + 1
                    is_read[store] = False
                    counts[row, _MAIN_STORES] += 1
                    counts[row, _CHAIN] += chain[store]
                    longest = 0
                elif 0 <= load < 4 and stored_at[load] >= 0:
                    counts[row, _READS] += 1
                    counts[row, _DISTANCE] += at - stored_at[load]
                    counts[row, _LIVE] += not is_read[load]
                    is_read[load] = True
                    longest = max(longest, chain[load])
        counts[row, _DEFINITIONS] = definitions
        for slot in range(min(definitions, 3)):
            if called_at[slot] >= 0:
                counts[row, _USED] = 1
                if opened_at[slot] > called_at[slot]:
                    counts[row, _LATE] = 1


# --- what the states hold --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class States:
    """What lies on top of the stack after the tokens of the main text that leave a value, in n programs."""

    values: np.ndarray
    """The Ints there, of all programs: int32 [m]."""

    rows: np.ndarray
    """The program of each of `values`: int64 [m]."""

    computed: np.ndarray
    """Whether it was left by a token that is neither a digit nor a test, which leaves 0 or 1: bool [m]."""

    sequences: np.ndarray
    """How many Seqs were on top: int64 [n]."""

    lengths: np.ndarray
    """The sum of their lengths: int64 [n]."""

    depth: np.ndarray
    """The greatest depth of the stack: int64 [n]."""

    executed: np.ndarray
    """Executed instructions, of 4,096: int64 [n]."""


def states(programs: np.ndarray, main: np.ndarray) -> States:
    """Run every program, uint8 [n, width]; `main` as in `Structure`."""
    parts = []
    for first in range(0, len(programs), _CHUNK):
        chunk = slice(first, first + _CHUNK)
        parts.append(_states_of_chunk(programs[chunk], main[chunk], first))
    return States(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(States)))


def _states_of_chunk(programs: np.ndarray, main: np.ndarray, first: int) -> States:
    """The states of some programs, whose `rows` count from `first`."""
    traces = kernel.traces(programs, entries=1)
    top = traces.stack[:, :, 0]
    leaves = main & _LEAVES_A_VALUE[programs]
    row, at = np.nonzero(leaves & (top.kind == kernel.INT_KIND))
    is_sequence = leaves & (top.kind == kernel.SEQ_KIND)
    return States(
        values=top.value[row, at],
        rows=row + first,
        computed=_COMPUTES[programs[row, at]],
        sequences=is_sequence.sum(1),
        lengths=np.where(is_sequence, top.length, 0).sum(1, dtype=np.int64),
        depth=traces.depth.max(1).astype(np.int64),
        executed=vm.FUEL - traces.fuel[:, -1].astype(np.int64),
    )


# --- behaviour -------------------------------------------------------------------------------------------------------


def behaviours(skeletons: np.ndarray) -> np.ndarray:
    """Find which skeletons, uint8 [n, width], behave alike: a code per skeleton, int64 [n], equal where they do.

    Alike are skeletons with as many digits that leave the same final stack (its depth, its top 4 entries with tags and
    elements) on the same 64 random refills, the i-th digit of the text being the i-th drawn. A closing test, `=` `<`
    or `>` with any `!` behind it, is seen through: the difference of its operands counts in place of the verdict,
    which is 0 on nearly every refill of nearly every program that ends in `=` and would make them all alike. `>` is
    `<` with its operands swapped, and the operands of `=` may swap.
    """
    is_digit = skeletons < 10
    n_digits = is_digit.sum(1)
    slot: np.ndarray = np.cumsum(is_digit, axis=1) - is_digit  # of each digit, from 0
    slots = max(1, int(n_digits.max(initial=0)))  # the same refills for every sample: they are no source of chance
    refills = np.random.default_rng(0).integers(0, 10, (slots, REFILLS), np.uint8).T
    without_test, test, n_negations = _see_through_test(skeletons)
    columns = [n_digits, np.where(test == _GREATER, _LESS, test), n_negations]
    for refill in refills:
        programs = without_test.copy()
        programs[is_digit] = refill[slot[is_digit]]
        columns += _outputs(programs, test)
    keys = np.ascontiguousarray(np.stack(columns, 1).astype(np.int64))
    return np.unique(keys.view(np.dtype((np.void, keys.strides[0]))).ravel(), return_inverse=True)[1]


def _see_through_test(programs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put `-` for the comparison that closes the main text and `~` for each `!` behind it; also that comparison's id, 0
    where there is none, and how many `!` there are, both [n]."""
    main = structure(programs).main
    body = main & (programs != _NOT)
    row = np.arange(len(programs))
    last = np.where(body.any(1), programs.shape[1] - 1 - body[:, ::-1].argmax(1), -1)
    test = np.where(last >= 0, programs[row, last], 0)
    test = np.where(np.isin(test, (_LESS, _GREATER, _EQUAL)), test, 0).astype(np.int64)
    behind = main & (np.arange(programs.shape[1]) > last[:, None])
    without_test = np.where(behind, np.uint8(_NEGATE), programs)
    without_test[row[test > 0], last[test > 0]] = _MINUS
    return without_test, test, behind.sum(1)


def _outputs(programs: np.ndarray, test: np.ndarray) -> list[np.ndarray]:
    """The final stack of each program as columns [n], its top oriented so that equivalent tests agree."""
    traces = kernel.traces(programs, entries=_ENTRIES)
    final = traces.stack[:, -1]
    content = final.value.astype(np.int64)
    content[:, 0] = _orient(content[:, 0], test)
    holds_sequence = (final.kind == kernel.SEQ_KIND).any(1)
    if holds_sequence.any():
        elements = _sequence_hashes(programs[holds_sequence], test[holds_sequence])
        content[holds_sequence] ^= elements.view(np.int64)
    return [traces.depth[:, -1], *final.kind.T, *final.tag.T, *content.T]


def _sequence_hashes(programs: np.ndarray, test: np.ndarray) -> np.ndarray:
    """A hash of the sequences on each final stack, uint64 [n, 4] (FNV-1a); 0 where an entry is not a sequence."""
    final = kernel.traces(programs, entries=_ENTRIES, contents=True).stack[:, -1]
    assert final.offsets is not None
    assert final.elements is not None
    assert final.element_tags is not None
    hashes = np.where(final.kind == kernel.SEQ_KIND, np.uint64(0xCBF29CE484222325), np.uint64(0))
    for k in range(final.length.max(initial=0)):
        row, entry = np.nonzero(final.length > k)
        at = final.offsets[row, entry] + k
        value = final.elements[at].astype(np.int64)
        value = np.where(entry == 0, _orient(value, test[row]), value) * 16 + final.element_tags[at]
        hashes[row, entry] = (hashes[row, entry] ^ value.view(np.uint64)) * np.uint64(0x100000001B3)
    return hashes


def _orient(difference: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Orient the differences of tests' operands, both [n], so that tests which are one with swapped operands agree."""
    difference = np.where(test == _GREATER, -difference, difference)
    return np.where(test == _EQUAL, np.abs(difference), difference)
