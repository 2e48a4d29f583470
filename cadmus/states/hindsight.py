"""Tokens after which the state is known in hindsight only: a call stands before its definition."""

from __future__ import annotations

import numpy as np

from cadmus.machine import kernel, vm
from cadmus.machine.jit import jit

_END, _OPEN, _CLOSE = map(vm.VOCAB.index, (vm.END, vm.OPEN, vm.CLOSE))
_CALLS = np.array(  # the slot that a token calls, as the bit 1 << slot (M and W name none and use the first); else 0
    ["[body]" in row.signature and 1 << max(vm.SLOTS.find(row.token.lower()), 0) for row in vm.INSTRUCTIONS.values()],
    np.int64,
)


def undetermined(programs: np.ndarray) -> np.ndarray:
    """Where the state may depend on tokens still to come: bool [n, 1 + length], of programs uint8 [n, length].

    It may after token i where a call in the main text, at or before i, reaches a slot whose definition is not closed
    at i, directly or through calls in closed bodies. A slot that is never defined counts as not closed up to the
    program's own `.`, since a definition could still come. Calls that may not be made (`F`, `M` on an empty sequence)
    count as made: False is certain, True is not.
    """
    programs = kernel.check(programs)
    mask = np.zeros((len(programs), programs.shape[1] + 1), np.bool_)
    _fill_undetermined(programs, _CALLS, mask)
    return mask


@jit
def _fill_undetermined(programs, calls, mask):
    """Fill mask [n, 1 + length], False before. Sets of slots are bits."""
    calls_of = np.zeros(3, np.int64)  # the slots that each closed body calls
    for row in range(len(programs)):
        inside, definitions, closed_slots = False, 0, 0
        reachable = callees = 0  # from the main text so far; by the body that is open
        for at in range(programs.shape[1]):
            token = programs[row, at]
            if token == _END:
                break
            if inside and token == _CLOSE:
                inside = False
                if definitions <= 3:
                    closed_slots |= 1 << (definitions - 1)
                    calls_of[definitions - 1] = callees
            elif inside:
                callees |= calls[token]
            elif token == _OPEN:
                inside, callees = True, 0
                definitions += 1
            else:
                reachable |= calls[token]
            for _ in range(3):  # a chain through all slots takes no more
                for slot in range(3):
                    if reachable & closed_slots & 1 << slot:
                        reachable |= calls_of[slot]
            mask[row, at + 1] = reachable & ~closed_slots & 7 != 0
