"""The compiled machine: `cadmus.machine.vm` again, instruction for instruction, in numba over packed 64-bit values.

A value is one int64, so moving, copying and storing values is moving integers, and a sequence is never changed:

    NAN  0
    Int  v << 8 | tag << 2 | 1
    Seq  start << 8 | length << 2 | 2      (`length` packed Ints at arena[start:])

Use it through `cadmus.machine.kernel`. All compiled code is in this one file because numba's cache of compiled code
notices changes of the file that holds a function, not of those it calls (nor of `cadmus.machine.vm`'s constants).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cadmus.machine import vm
from cadmus.machine.jit import jit

NONE_KIND, NAN_KIND, INT_KIND, SEQ_KIND = range(4)  # how traces record a value's kind

_NAN, _INT, _SEQ = 0, 1, 2  # low two bits of a packed value
_UNDEFINED = 1 << 62  # no Int has this value: "the result is NAN"
_MAX_INT, _MAX_TAG, _MAX_LENGTH = vm.MAX_INT, vm.MAX_TAG, vm.MAX_LENGTH
_MAX_CALLS, _FUEL = vm.MAX_CALLS, vm.FUEL

# Opcodes, and per opcode how many values it takes and leaves and whether each must be an Int (1) or a Seq (2).
(_PLUS, _MINUS, _TIMES, _DIVIDE, _REMAINDER, _MAXIMUM, _MINIMUM, _LESS, _GREATER, _EQUAL) = map(
    vm.VOCAB.index, "+-*/%xn<>="
)
(_NOT, _NEGATE, _MAGNITUDE, _AND, _OR, _CHOOSE, _DUPLICATE, _SWAP, _ROTATE, _OVER, _DROP) = map(
    vm.VOCAB.index, "!~m&|?:\\@o;"
)
_STORE, _LOAD, _CALL, _CALL_IF = (vm.VOCAB.index(first) for first in "AafF")  # each the first of a run of 3 or 4
(_EMPTY, _APPEND, _COUNT_UP, _CONCATENATE, _LENGTH, _ELEMENT, _SUM, _LARGEST, _CONTAINS) = map(
    vm.VOCAB.index, "(,rQ#ISXE"
)
(_REVERSE, _TAIL, _SORT, _SUMS, _MAP, _WHERE, _DECORATE, _DECORATION) = map(vm.VOCAB.index, "RTOPMW'\"")
_END, _OPEN, _CLOSE = map(vm.VOCAB.index, ".{}")

_INPUTS = np.array([row.inputs for row in vm.INSTRUCTIONS.values()], np.int64)
_OUTPUTS = np.array([row.outputs for row in vm.INSTRUCTIONS.values()], np.int64)
_TYPES = np.zeros((len(vm.VOCAB), 3), np.int64)  # of the inputs, bottom first; 0 where any type will do
for _id, _row in enumerate(vm.INSTRUCTIONS.values()):
    for _k, _type in enumerate(_row.input_types):
        _TYPES[_id, _k] = {"int": _INT, "seq": _SEQ}.get(_type, 0)

# machine[...]: stack pointer, fuel, arena top, whether fuel ran out, what the last advance did first to each register,
# and the slots that were called since the reset, bound or not (a bit each, `f` the lowest)
_SP, _FUEL_LEFT, _TOP, _SPENT, _FIRST_ACCESS, _CALLED = range(6)
READ_FIRST, WRITTEN_FIRST = 1, 2  # two bits a register, `a` the lowest; 0: left alone
# frames[depth, ...]: what a call returns to, and for M and W the sequence walked and the results so far
_PC, _STOP, _BASE, _MODE, _FROM, _COUNT, _AT, _OUT, _KEPT, _BODY = range(10)
_MODE_CALL, _MODE_MAP, _MODE_WHERE = range(3)

_compile = jit(error_model="numpy")


# --- one instruction -------------------------------------------------------------------------------------------------


@_compile
def _binary(op, a, b):
    """The pervasive operation `op` on two integers, or _UNDEFINED."""
    if op == _PLUS:
        r = a + b
    elif op == _MINUS:
        r = a - b
    elif op == _TIMES:
        r = a * b
    elif op == _DIVIDE:
        return _UNDEFINED if b == 0 else a // b
    elif op == _REMAINDER:
        return _UNDEFINED if b == 0 else a - b * (a // b)
    elif op == _MAXIMUM:
        return max(a, b)
    elif op == _MINIMUM:
        return min(a, b)
    elif op == _LESS:
        return np.int64(a < b)
    elif op == _GREATER:
        return np.int64(a > b)
    elif op == _EQUAL:
        return np.int64(a == b)
    elif op == _AND:
        return np.int64(a != 0 and b != 0)
    else:
        return np.int64(a != 0 or b != 0)
    return r if -_MAX_INT <= r <= _MAX_INT else _UNDEFINED


@_compile
def _unary(op, a):
    """The pervasive operation `op` on one integer; it always has a result."""
    if op == _NOT:
        return np.int64(a == 0)
    return -a if op == _NEGATE else abs(a)


@_compile
def _pack(v):
    """A plain Int."""
    return v << 8 | _INT


@_compile
def _pack_seq(start, length):
    """The Seq of the `length` packed Ints at arena[start:]."""
    return start << 8 | length << 2 | _SEQ


@_compile
def _seq_length(value):
    return (value >> 2) & 63


@_compile
def _truth(value, arena):
    """Whether a packed value is true: as `cadmus.machine.values.truth`."""
    if value & 3 == _INT:
        return value >> 8 != 0
    if value & 3 == _SEQ:
        start, length = value >> 8, _seq_length(value)
        for i in range(length):
            if arena[start + i] >> 8 == 0:
                return False
        return length > 0
    return False


@_compile
def _pervasive_binary(op, a, b, arena, top):
    """(result, new arena top) where an input is a Seq."""
    a_seq, b_seq = a & 3 == _SEQ, b & 3 == _SEQ
    length = _seq_length(a) if a_seq else _seq_length(b)
    if a_seq and b_seq and _seq_length(b) != length:
        return _NAN, top
    for i in range(length):
        v = arena[(a >> 8) + i] >> 8 if a_seq else a >> 8
        w = arena[(b >> 8) + i] >> 8 if b_seq else b >> 8
        r = _binary(op, v, w)
        if r == _UNDEFINED:
            return _NAN, top
        arena[top + i] = _pack(r)
    return _pack_seq(top, length), top + length


@_compile
def _copy(arena, start, length, top):
    """Copy the elements at arena[start:] to arena[top:]."""
    for i in range(length):
        arena[top + i] = arena[start + i]


@_compile
def _sequence_to_value(op, s, arena, top):
    """(result, new arena top) of an instruction that takes one Seq and calls nothing: # S X R T O P."""
    start, length = s >> 8, _seq_length(s)
    if op == _LENGTH:
        return _pack(length), top
    if op == _SUM:
        total = 0
        for i in range(length):
            total += arena[start + i] >> 8
        return (_pack(total) if -_MAX_INT <= total <= _MAX_INT else _NAN), top
    if op == _LARGEST:
        if length == 0:
            return _NAN, top
        largest = arena[start] >> 8
        for i in range(1, length):
            largest = max(largest, arena[start + i] >> 8)
        return _pack(largest), top
    if op == _TAIL:
        if length == 0:
            return _NAN, top
        return _pack_seq(start + 1, length - 1), top  # the elements are shared: sequences never change
    if op == _REVERSE:
        for i in range(length):
            arena[top + i] = arena[start + length - 1 - i]
    elif op == _SORT:
        for i in range(length):  # insertion sort: stable, and short sequences
            item = arena[start + i]
            j = i
            while j > 0 and arena[top + j - 1] >> 8 > item >> 8:
                arena[top + j] = arena[top + j - 1]
                j -= 1
            arena[top + j] = item
    else:  # _SUMS
        total = 0
        for i in range(length):
            total += arena[start + i] >> 8
            if not -_MAX_INT <= total <= _MAX_INT:
                return _NAN, top
            arena[top + i] = _pack(total)
    return _pack_seq(top, length), top + length


@_compile
def _sequence_with_value(op, s, a, arena, top):
    """(result, new arena top) of an instruction that takes a Seq and another value: , Q I E."""
    start, length = s >> 8, _seq_length(s)
    if op == _ELEMENT:
        i = a >> 8
        return (arena[start + i] if 0 <= i < length else _NAN), top
    if op == _CONTAINS:
        occurs = 0
        for i in range(length):
            if arena[start + i] >> 8 == a >> 8:
                occurs = 1
        return _pack(occurs), top
    if op == _APPEND:
        if length == _MAX_LENGTH:
            return _NAN, top
        _copy(arena, start, length, top)
        arena[top + length] = a
        return _pack_seq(top, length + 1), top + length + 1
    other_length = _seq_length(a)  # _CONCATENATE
    if length + other_length > _MAX_LENGTH:
        return _NAN, top
    _copy(arena, start, length, top)
    _copy(arena, a >> 8, other_length, top + length)
    return _pack_seq(top, length + other_length), top + length + other_length


@_compile
def _tagged(op, a, k, arena, top):
    """(result, new arena top) of ' (a with tag k) and of " (the tag of a)."""
    if op == _DECORATE and not 0 <= k <= _MAX_TAG:
        return _NAN, top
    if a & 3 == _INT:
        return (a >> 8 << 8 | k << 2 | _INT if op == _DECORATE else _pack((a >> 2) & 15)), top
    start, length = a >> 8, _seq_length(a)
    for i in range(length):
        item = arena[start + i]
        arena[top + i] = item >> 8 << 8 | k << 2 | _INT if op == _DECORATE else _pack((item >> 2) & 15)
    return _pack_seq(top, length), top + length


# --- the machine -----------------------------------------------------------------------------------------------------


@_compile
def _advance(tokens, pc, stop, meaning, bodies, stack, registers, arena, frames, machine, shadow=None):
    """Execute the main text from token `pc` up to `stop`, calls included; definitions are passed over.

    The state lies in `stack` and `machine`, `registers`, `arena`. Out of fuel, the stack becomes a single NAN. With a
    `Shadow` the provenance of the values is recorded (see "provenance" below); the lines that do it are not compiled
    into the machine without one.
    """
    sp, fuel, top, slots_called = machine[_SP], machine[_FUEL_LEFT], machine[_TOP], machine[_CALLED]
    depth = base = first_access = np.int64(0)
    while True:
        if pc >= stop:
            if depth == 0:
                break
            # a body has ended: its result is the top of its stack
            last = sp - 1
            result = stack[last] if sp > base else _NAN
            sp = base
            frame = frames[depth]
            mode = frame[_MODE]
            goes_on = False
            if mode == _MODE_MAP:
                if result & 3 == _INT:
                    arena[frame[_OUT] + frame[_AT]] = result
                    frame[_AT] += 1
                    goes_on = frame[_AT] < frame[_COUNT]
                    result = _pack_seq(frame[_OUT], frame[_COUNT])
                else:
                    result = _NAN
            elif mode == _MODE_WHERE and result != _NAN:
                if _truth(result, arena):
                    arena[frame[_OUT] + frame[_KEPT]] = arena[frame[_FROM] + frame[_AT]]
                    frame[_KEPT] += 1
                frame[_AT] += 1
                goes_on = frame[_AT] < frame[_COUNT]
                result = _pack_seq(frame[_OUT], frame[_KEPT])
            if shadow is not None:
                _follow_return(frame, base, last, result, goes_on, stack, arena, shadow)
            if goes_on:
                pc = frame[_BODY]
                stack[sp] = arena[frame[_FROM] + frame[_AT]]
            else:
                pc, stop, base = frame[_PC], frame[_STOP], frame[_BASE]
                stack[sp] = result
                depth -= 1
            sp += 1
            continue

        op = tokens[pc]
        if depth == 0 and op == _OPEN:
            while pc < stop and tokens[pc] != _CLOSE:
                pc += 1
            pc += 1
            continue
        at = pc
        if fuel == 0:
            stack[0] = _NAN
            sp = 1
            machine[_SPENT] = 1
            if shadow is not None:
                _make(stack[0], sp - 1, at, shadow)
            break
        fuel -= 1
        pc += 1
        op = meaning[op]

        if op < 10:
            stack[sp] = _pack(np.int64(op))
            if shadow is not None:
                _make(stack[sp], sp, at, shadow)
            sp += 1
            continue
        if _LOAD <= op < _LOAD + 4:
            stack[sp] = registers[op - _LOAD]
            if shadow is not None:
                _follow_load(op - _LOAD, sp, at, depth, shadow)
            sp += 1
            if first_access >> 2 * (op - _LOAD) & 3 == 0:
                first_access |= READ_FIRST << 2 * (op - _LOAD)
            continue
        if _STORE <= op < _STORE + 4:
            if shadow is not None:
                _follow_store(op - _STORE, base, sp, at, depth, shadow)
            if sp > base:
                sp -= 1
                registers[op - _STORE] = stack[sp]
            else:
                registers[op - _STORE] = _NAN
            if first_access >> 2 * (op - _STORE) & 3 == 0:
                first_access |= WRITTEN_FIRST << 2 * (op - _STORE)
            continue

        # the uniform rules: a missing, NAN or ill-typed input makes every output NAN
        inputs = _INPUTS[op]
        first = sp - inputs
        valid = first >= base
        if valid:
            for k in range(inputs):
                value = stack[first + k]
                required_type = _TYPES[op, k]
                if value == _NAN or (required_type != 0 and value & 3 != required_type):
                    valid = False
        else:
            first = base
        if shadow is not None:
            _follow_inputs(op, valid, first, sp, at, depth, shadow)
        if not valid:
            for k in range(_OUTPUTS[op]):
                stack[first + k] = _NAN
                if shadow is not None:
                    _make(stack[first + k], first + k, at, shadow)
            sp = first + _OUTPUTS[op]
            continue

        if _PLUS <= op <= _EQUAL or op == _AND or op == _OR:
            a, b = stack[first], stack[first + 1]
            if a & b & 3 == _INT:
                r = _binary(op, a >> 8, b >> 8)
                stack[first] = _NAN if r == _UNDEFINED else _pack(r)
            else:
                stack[first], top = _pervasive_binary(op, a, b, arena, top)
            sp = first + 1
        elif _NOT <= op <= _MAGNITUDE:
            a = stack[first]
            if a & 3 == _INT:
                stack[first] = _pack(_unary(op, a >> 8))
            else:
                start, length = a >> 8, _seq_length(a)
                for i in range(length):
                    arena[top + i] = _pack(_unary(op, arena[start + i] >> 8))
                stack[first] = _pack_seq(top, length)
                top += length
        elif op == _CHOOSE:
            stack[first] = stack[first + 1] if _truth(stack[first], arena) else stack[first + 2]
            sp = first + 1
        elif op == _DUPLICATE:
            stack[sp] = stack[first]
            sp += 1
        elif op == _SWAP:
            stack[first], stack[first + 1] = stack[first + 1], stack[first]
        elif op == _ROTATE:
            stack[first], stack[first + 1], stack[first + 2] = stack[first + 1], stack[first + 2], stack[first]
        elif op == _OVER:
            stack[sp] = stack[first]
            sp += 1
        elif op == _DROP:
            sp = first
        elif _CALL <= op < _CALL_IF + 3 or op == _MAP or op == _WHERE:
            slot = 0
            if op < _CALL_IF:
                slot = op - _CALL
            elif op < _CALL_IF + 3:
                slot = op - _CALL_IF
                if not _truth(stack[first], arena):
                    stack[first] = stack[first + 1]
                    sp = first + 1
                    if shadow is not None:
                        _move(first + 1, first, at, shadow)
                    continue
                stack[first] = stack[first + 1]
            argument = stack[first]
            if (op == _MAP or op == _WHERE) and _seq_length(argument) == 0:
                if shadow is not None:
                    _make(argument, first, at, shadow)
                continue
            slots_called |= 1 << slot
            if bodies[slot, 0] < 0 or depth == _MAX_CALLS:
                stack[first] = _NAN
                sp = first + 1
                if shadow is not None:
                    _make(stack[first], first, at, shadow)
                continue
            depth += 1
            frame = frames[depth]
            frame[_PC], frame[_STOP], frame[_BASE], frame[_MODE] = pc, stop, base, _MODE_CALL
            if op == _MAP or op == _WHERE:
                frame[_MODE] = _MODE_MAP if op == _MAP else _MODE_WHERE
                frame[_BODY] = bodies[slot, 0]
                frame[_FROM], frame[_COUNT], frame[_AT] = argument >> 8, _seq_length(argument), 0
                frame[_OUT], frame[_KEPT] = top, 0
                top += _seq_length(argument)
                stack[first] = arena[argument >> 8]
            pc, stop, base, sp = bodies[slot, 0], bodies[slot, 1], first, first + 1
        elif op == _EMPTY:
            stack[sp] = _pack_seq(top, 0)
            sp += 1
        elif op == _COUNT_UP:
            k = stack[first] >> 8
            if 0 <= k <= _MAX_LENGTH:
                for i in range(k):
                    arena[top + i] = _pack(i)
                stack[first] = _pack_seq(top, k)
                top += k
            else:
                stack[first] = _NAN
        elif op == _DECORATE:
            stack[first], top = _tagged(op, stack[first], stack[first + 1] >> 8, arena, top)
            sp = first + 1
        elif op == _DECORATION:
            stack[first], top = _tagged(op, stack[first], 0, arena, top)
        elif op == _APPEND or op == _CONCATENATE or op == _ELEMENT or op == _CONTAINS:
            stack[first], top = _sequence_with_value(op, stack[first], stack[first + 1], arena, top)
            sp = first + 1
        elif op != _OPEN and op != _CLOSE:  # in a body, braces do nothing
            stack[first], top = _sequence_to_value(op, stack[first], arena, top)
        if shadow is not None:
            _follow_outputs(op, first, at, depth, stack, arena, shadow)
    machine[_SP], machine[_FUEL_LEFT], machine[_TOP], machine[_FIRST_ACCESS] = sp, fuel, top, first_access
    machine[_CALLED] = slots_called


@_compile
def _parse(tokens, bodies):
    """Write the start and stop of the bodies bound to f, g, h to `bodies` (-1: unbound); return where the text ends."""
    bodies[:] = -1
    end = 0
    while end < len(tokens) and tokens[end] != _END:
        end += 1
    n_bound = pc = 0
    while pc < end:
        if tokens[pc] == _OPEN:
            start = pc + 1
            while pc < end and tokens[pc] != _CLOSE:
                pc += 1
            if n_bound < 3:
                bodies[n_bound, 0], bodies[n_bound, 1] = start, pc
                n_bound += 1
        pc += 1
    return end


@_compile
def _scratch(length, sequences=0):
    """Allocate room for one program of `length` tokens: bodies, stack, registers, arena, frames, machine.

    `sequences`: how many the arena holds besides those that the program makes.
    """
    return (
        np.empty((3, 2), np.int64),
        np.empty((_MAX_CALLS + 1) * (length + 2) + 2, np.int64),
        np.empty(4, np.int64),
        np.empty((_FUEL + 1 + sequences) * _MAX_LENGTH, np.int64),  # each executed instruction makes one at most
        np.empty((_MAX_CALLS + 1, 10), np.int64),
        np.empty(6, np.int64),
    )


@_compile
def _reset(registers, machine):
    """Bring the machine to the state before a program."""
    registers[:] = _NAN
    machine[_SP], machine[_FUEL_LEFT], machine[_TOP], machine[_SPENT], machine[_CALLED] = 0, _FUEL, 0, 0, 0


@_compile
def _all_true(stack, sp, arena):
    """Whether the stack has one or more entries, all of them true."""
    for k in range(sp):
        if not _truth(stack[k], arena):
            return False
    return sp > 0


@_compile
def run_verdicts(tokens, meaning, out):
    """Run every row of tokens uint8 [n, length]; whether it is a true-program to `out` bool [n].

    meaning uint8 [tokens of the vocabulary]: the token whose instruction each token executes.
    """
    bodies, stack, registers, arena, frames, machine = _scratch(tokens.shape[1])
    for row in range(len(tokens)):
        end = _parse(tokens[row], bodies)
        _reset(registers, machine)
        _advance(tokens[row], 0, end, meaning, bodies, stack, registers, arena, frames, machine)
        out[row] = _all_true(stack, machine[_SP], arena)


@_compile
def _unpack(value, kind, v, tag, length, at):
    """Write a packed value to index `at` of the arrays."""
    low = value & 3
    kind[at], v[at], tag[at], length[at] = NAN_KIND, 0, 0, 0
    if low == _INT:
        kind[at], v[at], tag[at] = INT_KIND, value >> 8, (value >> 2) & 15
    elif low == _SEQ:
        kind[at], length[at] = SEQ_KIND, _seq_length(value)


@_compile
def run_tops(tokens, meaning, kind, v, tag, length):
    """Run every row, as `run_verdicts`; what lies on top of the stack at the end to kind, v, tag and length [n]."""
    bodies, stack, registers, arena, frames, machine = _scratch(tokens.shape[1])
    for row in range(len(tokens)):
        end = _parse(tokens[row], bodies)
        _reset(registers, machine)
        _advance(tokens[row], 0, end, meaning, bodies, stack, registers, arena, frames, machine)
        if machine[_SP] > 0:
            _unpack(stack[machine[_SP] - 1], kind, v, tag, length, row)
        else:
            kind[row], v[row], tag[row], length[row] = NONE_KIND, 0, 0, 0


@_compile
def _write_contents(value, arena, offsets, at, elements, element_tags):
    """Write the elements of a Seq to elements[offsets[at] :] and their tags to element_tags."""
    if value & 3 == _SEQ:
        for i in range(_seq_length(value)):
            item = arena[(value >> 8) + i]
            elements[offsets[at] + i] = item >> 8
            element_tags[offsets[at] + i] = (item >> 2) & 15


@_compile
def run_traces(
    tokens,
    meaning,
    at,
    edits,
    faults,
    entries,
    depth,
    fuel,
    true,
    first_access,
    kind,
    v,
    tag,
    length,
    contents,
    offsets,
    elements,
    element_tags,
):
    """Run every row, as `run_verdicts`, recording the state after each token, and edit the one after token `at`.

    at, edits and faults are those of `run_edited_verdicts`; a row without edits ignores its `at`. depth, fuel, true and
    first_access are [row, position]; kind, v, tag, length and offsets are [row, position, entry], the stack's top
    `entries` first, then the four registers. With `contents` only the sequences' elements are written, at `offsets`.
    """
    bodies, stack, registers, arena, frames, machine = _scratch(tokens.shape[1], _most_edits(edits))
    for row in range(len(tokens)):
        end = _parse(tokens[row], bodies)
        _reset(registers, machine)
        if at[row] < 0:
            _edit(tokens[row], row, -1, end, edits, stack, registers, arena, machine, faults)
        inside = False
        for pc in range(tokens.shape[1]):
            machine[_FIRST_ACCESS] = 0
            if pc < end:
                token = tokens[row, pc]
                if inside:
                    inside = token != _CLOSE
                elif token == _OPEN:
                    inside = True
                else:
                    _advance(tokens[row], pc, pc + 1, meaning, bodies, stack, registers, arena, frames, machine)
            if pc == at[row]:
                _edit(tokens[row], row, pc, end, edits, stack, registers, arena, machine, faults)
            sp = machine[_SP]
            if not contents:
                depth[row, pc], fuel[row, pc], first_access[row, pc] = sp, machine[_FUEL_LEFT], machine[_FIRST_ACCESS]
                true[row, pc] = _all_true(stack, sp, arena)
            for k in range(entries + 4):
                if k < entries and k >= sp:
                    if not contents:
                        kind[row, pc, k], v[row, pc, k], tag[row, pc, k], length[row, pc, k] = NONE_KIND, 0, 0, 0
                    continue
                value = stack[sp - 1 - k] if k < entries else registers[k - entries]
                if contents:
                    _write_contents(value, arena, offsets, (row, pc, k), elements, element_tags)
                else:
                    _unpack(value, kind, v, tag, length, (row, pc, k))


# --- edited states ---------------------------------------------------------------------------------------------------
# Edits of n programs are four arrays: program i has the edits offsets[i] to offsets[i + 1] (int64 [n + 1]); an edit's
# place is a register (0 to 3) or 4 + K for the stack's entry K from the top (int64 [edits]), its value is packed
# (int64 [edits]), a Seq's start being an index of the fourth array, the packed Ints of all sequences.


@_compile
def _most_edits(edits):
    """How many edits the program has that has most."""
    offsets, most = edits[0], 0
    for row in range(len(offsets) - 1):
        most = max(most, offsets[row + 1] - offsets[row])
    return most


@_compile
def _definitions(tokens, stop):
    """(definitions that are closed within tokens[:stop], where the `{` stands that is open there; -1: none is)."""
    n_closed, opening = 0, -1
    for pc in range(stop):
        if opening < 0 and tokens[pc] == _OPEN:
            opening = pc
        elif opening >= 0 and tokens[pc] == _CLOSE:
            opening = -1
            n_closed += 1
    return n_closed, opening


@_compile
def _behind_definition(tokens, pc, stop):
    """The first token behind the definition that is open at `pc`, or `stop` where it is not closed."""
    while pc < stop and tokens[pc] != _CLOSE:
        pc += 1
    return min(pc + 1, stop)


@_compile
def _main_text_from(tokens, pc, stop):
    """The first token from `pc` on, `stop` at most, that lies in no definition which begins before `pc`."""
    return _behind_definition(tokens, pc, stop) if _definitions(tokens, pc)[1] >= 0 else pc


@_compile
def _edit(tokens, row, at, end, edits, stack, registers, arena, machine, faults):
    """Edit the state after token `at` of a text that ends at `end`, or write to faults[row] why that cannot be.

    faults int64 [rows, 2]: (1 + the stack's missing entry, the stack's depth), (-1, where the definition opens), or 0.
    """
    offsets, places, values, items = edits
    if offsets[row] == offsets[row + 1]:
        return
    opening = _definitions(tokens, at + 1)[1] if at < end else -1
    if opening >= 0:
        faults[row, 0], faults[row, 1] = -1, opening
        return
    for e in range(offsets[row], offsets[row + 1]):
        value, top = values[e], machine[_TOP]
        if value & 3 == _SEQ:
            length = _seq_length(value)
            for i in range(length):
                arena[top + i] = items[(value >> 8) + i]
            value = _pack_seq(top, length)
            machine[_TOP] = top + length
        if places[e] < 4:
            registers[places[e]] = value
            continue
        entry = places[e] - 4
        if entry >= machine[_SP]:
            faults[row, 0], faults[row, 1] = 1 + entry, machine[_SP]
            return
        stack[machine[_SP] - 1 - entry] = value


@_compile
def run_edited_verdicts(tokens, meaning, cuts, at, edits, faults, out):
    """Run every row with the state after token at[row] edited; whether its outputs are all true to `out` bool [n].

    at int64 [n] from -1; faults int64 [n, 2], 0 on the way in, says which edits were impossible. Where cuts[row]
    (int64 [n]) is not -1, the tokens before it run with the definitions among them alone, those behind it with all.
    """
    bodies, stack, registers, arena, frames, machine = _scratch(tokens.shape[1], _most_edits(edits))
    for row in range(len(tokens)):
        text, cut = tokens[row], cuts[row]
        first = text if cut < 0 else text[:cut]
        end = _parse(first, bodies)
        _reset(registers, machine)
        start = min(at[row] + 1, end)
        _advance(first, 0, start, meaning, bodies, stack, registers, arena, frames, machine)
        _edit(text, row, at[row], end, edits, stack, registers, arena, machine, faults)
        start = _main_text_from(first, start, end)
        _advance(first, start, end, meaning, bodies, stack, registers, arena, frames, machine)
        if cut >= 0:
            start = end
            end = _parse(text, bodies)
            start = _main_text_from(text, start, end)
            _advance(text, start, end, meaning, bodies, stack, registers, arena, frames, machine)
        out[row] = _all_true(stack, machine[_SP], arena)


# --- true continuations ----------------------------------------------------------------------------------------------
# A depth-first search over the continuations of a text. Level k holds the state after the text and k tokens more: a row
# of stacks, registers, machines (as for one program) and nodes. One row more, the last, is where a run begins anew when
# a definition binds a slot that was called already.

# nodes[level, ...]: the next token to try, the number of the continuation so far (its tokens as digits to base 65, `.`
# behind its end), definitions closed so far (3 at most count), where the body begins that is open (-1: none)
_NEXT, _NUMBER, _SLOT, _BODY_START = range(4)


@_compile
def _copy_state(source, target, stacks, registers, machines):
    """Copy the machine's state from one level to another (in loops: they compile sooner than slices)."""
    for k in range(machines[source, _SP]):
        stacks[target, k] = stacks[source, k]
    for k in range(4):
        registers[target, k] = registers[source, k]
    for k in range(machines.shape[1]):
        machines[target, k] = machines[source, k]


@_compile
def _extend(text, at, level, restart, bodies, stacks, registers, machines, nodes):
    """Go from `level`, the state after text[:at], to level + 1 and text[: at + 1], up to what is to be executed.

    Returns the token from which to execute (at + 1: nothing). A token of a definition leaves the state as it is, unless
    its slot was called before: then everything from token `restart` on runs anew, from the state at the last level.
    """
    slot, body_start = nodes[level, _SLOT], nodes[level, _BODY_START]
    source, start = level, at + 1
    for k in range(slot, 3):
        bodies[k, 0] = -1
    if body_start < 0 and text[at] != _OPEN:
        start = at
    elif body_start >= 0 and text[at] == _CLOSE:
        if slot < 3:
            bodies[slot, 0], bodies[slot, 1] = body_start, at
            slot += 1
        body_start = -1
    else:
        body_start = at + 1 if body_start < 0 else body_start
        if slot < 3:
            bodies[slot, 0], bodies[slot, 1] = body_start, at + 1
            if machines[level, _CALLED] >> slot & 1:
                source, start = len(nodes) - 1, _main_text_from(text, restart, at + 1)
    nodes[level + 1, _SLOT], nodes[level + 1, _BODY_START] = slot, body_start
    _copy_state(source, level + 1, stacks, registers, machines)
    machines[level + 1, _TOP] = machines[level, _TOP]  # the levels below keep their sequences
    return start


@_compile
def _tokens_needed(stack, sp, arena, most):
    """How many tokens of the main text it takes at the least until all outputs are true (0: they are); exact to `most`.

    A token takes three entries and leaves one at best, so a false entry with k entries above is out of reach of fewer
    than k / 2 tokens. A NAN lives on in every output of what takes it, until a drop or a store takes it from the top.
    """
    needed = 1 if sp == 0 else 0
    for k in range(sp):
        above = sp - 1 - k
        if stack[k] == _NAN:
            needed = max(needed, (above + 1) // 2 + 1)
        elif not _truth(stack[k], arena):
            needed = max(needed, 1, (above + 1) // 2)
        if needed > most:
            break
    return needed


@_compile
def _prospects(level, tokens_left, stacks, machines, nodes, arena):
    """(whether the text is true, whether no continuation of it can be) at `level`."""
    needed = _tokens_needed(stacks[level], machines[level, _SP], arena, tokens_left)
    if needed == 0:
        return True, False
    if machines[level, _CALLED] >> nodes[level, _SLOT] != 0:  # a definition to come may change what has run
        return False, False
    if machines[level, _FUEL_LEFT] == 0:  # and nothing more will run
        return False, True
    return False, needed + (nodes[level, _BODY_START] >= 0) > tokens_left  # an open body takes a `}` first


@_compile
def _search(
    text,
    length,
    restart,
    max_tokens,
    first,
    stop,
    meaning,
    bodies,
    stacks,
    registers,
    machines,
    nodes,
    arena,
    frames,
    true,
):
    """Set true[number] for the true continuations, counted from the least number that begins with token `first`.

    Tried are those of at most `max_tokens` tokens that begin with the tokens `first` to `stop` - 1; the empty one
    counts as beginning with `.`.
    """
    base = len(meaning)
    n_first = base ** max(max_tokens - 1, 0)
    nodes[0, _NEXT] = first
    nodes[0, _NUMBER] = (base**max_tokens - 1) // (base - 1) * _END - first * n_first
    is_true, hopeless = _prospects(0, max_tokens, stacks, machines, nodes, arena)
    if first <= _END < stop:
        true[nodes[0, _NUMBER]] = is_true
    if hopeless or max_tokens == 0:
        return
    level, weight = 0, n_first
    while level >= 0:
        token = nodes[level, _NEXT]
        if token == _END:
            token += 1
        if token >= (stop if level == 0 else base):
            level -= 1
            weight *= base
            continue
        nodes[level, _NEXT] = token + 1
        at = length + level
        text[at] = token
        start = _extend(text, at, level, restart, bodies, stacks, registers, machines, nodes)
        if start <= at:
            stack, register, machine = stacks[level + 1], registers[level + 1], machines[level + 1]
            _advance(text, start, at + 1, meaning, bodies, stack, register, arena, frames, machine)
        number = nodes[level, _NUMBER] + (token - _END) * weight
        tokens_left = max_tokens - level - 1
        is_true, hopeless = _prospects(level + 1, tokens_left, stacks, machines, nodes, arena)
        if is_true:
            true[number] = True
        if tokens_left > 0 and not hopeless:
            level += 1
            weight //= base
            nodes[level, _NEXT], nodes[level, _NUMBER] = 0, number


@_compile
def run_true_continuations(tokens, lengths, meaning, frozen, edits, max_tokens, first, stop, faults, true):
    """The true continuations of every row's first lengths[row] tokens to `true` bool [n, numbers], False on the way in.

    `frozen`: they go on from the state after the row, edited, with the row's own definitions; else the whole runs.
    `max_tokens`, `first`, `stop` and the numbers are those of `_search`; edits and faults those of `_edit`.
    """
    width = tokens.shape[1] + max_tokens
    sequences = _most_edits(edits) + max_tokens * (_FUEL + 1)  # each level may run everything anew
    bodies, stack, _, arena, frames, machine = _scratch(width, sequences)
    levels = max_tokens + 2
    stacks, registers = np.empty((levels, len(stack)), np.int64), np.empty((levels, 4), np.int64)
    machines, nodes = np.zeros((levels, len(machine)), np.int64), np.empty((levels, 4), np.int64)
    text = np.empty(width, np.uint8)
    last = levels - 1
    for row in range(len(tokens)):
        length = lengths[row]
        for i in range(length):
            text[i] = tokens[row, i]
        prefix = text[:length]
        _parse(prefix, bodies)
        n_closed, opening = _definitions(prefix, length)
        nodes[0, _SLOT], nodes[0, _BODY_START] = min(n_closed, 3), opening + 1 if opening >= 0 else -1
        _reset(registers[0], machines[0])
        _copy_state(0, last, stacks, registers, machines)
        _advance(prefix, 0, length, meaning, bodies, stacks[0], registers[0], arena, frames, machines[0])
        if frozen:
            _edit(prefix, row, length - 1, length, edits, stacks[0], registers[0], arena, machines[0], faults)
            machines[0, _CALLED] = 0
            _copy_state(0, last, stacks, registers, machines)
        _search(
            text,
            length,
            length if frozen else 0,
            max_tokens,
            first,
            stop,
            meaning,
            bodies,
            stacks,
            registers,
            machines,
            nodes,
            arena,
            frames,
            true[row],
        )


# --- provenance ------------------------------------------------------------------------------------------------------
# `cadmus.states.provenance` says what is recorded; `cadmus.states.provenance_plain` is the same in plain Python. A
# value is known by its number within the program; the machine's stack, registers and arena have shadows that say which
# value lies where.

# rows of `Shadow.slots`: what a stack entry holds, what put it there (the main text's token, the instruction), the row
# of the version that it was loaded from (-1: none), and the main text's token at which it was loaded (-1: never)
_VALUE, _PUT, _PUT_AT, _VERSION, _LOADED = range(5)
# rows of `Shadow.values`, `versions` and `edges`, which the tables of a program are made of
_PACKED, _AROSE, _MADE_AT = range(3)
_REGISTER, _NUMBER_OF_STORE, _STORED, _STORE_TOKEN, _STORE_AT, _OVERWRITTEN, _LOADS, _LAST_LOAD = range(8)
# Shadow.counts[...]: rows in use, the main text's token that is executed, and the one that was before it
_VALUES, _VERSIONS, _EDGES, _OCCURRENCES, _TOKEN, _PREVIOUS = range(6)
# Constants that are arguments are not Python's: numba compiles a function anew for each of those that it is given.
_LOAD_ORIGIN, _LOAD_STORE, _OPERAND, _OPERAND_ORIGIN, _STORE_EDGE, _SHUFFLE, _DECISION, _DECISION_ORIGIN = map(
    np.int64, range(8)
)
_AROSE_ROLE, _STORED_ROLE, _BETWEEN, _LOADED_ROLE, _CONSUMED, _OVERWRITTEN_ROLE, _DECISION_ROLE = map(
    np.int64, range(7)
)
_NONE, _ABSENT = np.int64(-1), np.int64(_NAN)  # no version, element or load; NAN


class Shadow(NamedTuple):
    """Where the values of one program lie and come from, and what was recorded of them."""

    slots: np.ndarray
    """int64 [stack entries, 5]."""
    registers: np.ndarray
    """int64 [4]: the row of the version that each register holds; -1: it was never stored."""
    elements: np.ndarray
    """int64 [arena]: the value of each element."""
    values: np.ndarray
    """int64 [rows, 3]."""
    versions: np.ndarray
    """int64 [rows, 8]."""
    edges: np.ndarray
    """int64 [rows, 8]: value, element, query, key, kind, depth, query_at, key_at."""
    occurrences: np.ndarray
    """int64 [rows, 7]: value, role, token, edit_at, place, version, distance."""
    counts: np.ndarray
    """int64 [6]."""


@_compile
def _shadow(n_slots, n_arena):
    """Allocate the shadow of a machine with these lengths of stack and arena, with rows enough for any program."""
    edges = 3 * _FUEL * (_MAX_LENGTH + 2) + n_slots * (_MAX_LENGTH + 2)  # an instruction takes three sequences at most
    return Shadow(
        np.empty((n_slots, 5), np.int64),
        np.empty(4, np.int64),
        np.empty(n_arena, np.int64),
        np.empty((_FUEL * (_MAX_LENGTH + 1) + 8, 3), np.int64),  # an instruction makes a sequence and its elements
        np.empty((_FUEL, 8), np.int64),
        np.empty((edges, 8), np.int64),
        np.empty((12 * n_slots + 16, 7), np.int64),
        np.zeros(6, np.int64),
    )


@_compile
def _new_value(packed, at, shadow):
    """The number of a new value, made by the instruction at `at`."""
    number = shadow.counts[_VALUES]
    shadow.counts[_VALUES] = number + 1
    row = shadow.values[number]
    row[_PACKED], row[_AROSE], row[_MADE_AT] = packed, shadow.counts[_TOKEN], at
    return number


@_compile
def _put(value, slot, at, version, loaded, shadow):
    """The instruction at `at` puts the value into the slot."""
    row = shadow.slots[slot]
    row[_VALUE], row[_PUT], row[_PUT_AT], row[_VERSION], row[_LOADED] = (
        value,
        shadow.counts[_TOKEN],
        at,
        version,
        loaded,
    )


@_compile
def _make(packed, slot, at, shadow):
    """The instruction at `at` puts a new value into the slot."""
    _put(_new_value(packed, at, shadow), slot, at, _NONE, _NONE, shadow)


@_compile
def _move(source, target, at, shadow):
    """The instruction at `at` puts the value of slot `source` into slot `target`."""
    row = shadow.slots[source]
    _put(row[_VALUE], target, at, row[_VERSION], row[_LOADED], shadow)


@_compile
def _edge(kind, value, element, key, key_at, at, depth, shadow):
    """Record an edge from the instruction at `at`."""
    row = shadow.edges[shadow.counts[_EDGES]]
    shadow.counts[_EDGES] += 1
    row[0], row[1], row[2], row[3] = value, element, shadow.counts[_TOKEN], key
    row[4], row[5], row[6], row[7] = kind, depth, at, key_at


@_compile
def _edge_to_slot(kind, slot, at, depth, shadow):
    """Record an edge to what put the slot's value there."""
    row = shadow.slots[slot]
    _edge(kind, row[_VALUE], _NONE, row[_PUT], row[_PUT_AT], at, depth, shadow)


@_compile
def _edges_to_origins(kind, value, at, depth, shadow):
    """Record edges to where the value, and each of its elements, arose."""
    row = shadow.values[value]
    _edge(kind, value, _NONE, row[_AROSE], row[_MADE_AT], at, depth, shadow)
    if row[_PACKED] & 3 == _SEQ:
        for i in range(_seq_length(row[_PACKED])):
            element = shadow.elements[(row[_PACKED] >> 8) + i]
            origin = shadow.values[element]
            _edge(kind, element, i, origin[_AROSE], origin[_MADE_AT], at, depth, shadow)


@_compile
def _occurrence(role, value, edit_at, place, version, shadow):
    """Record an occurrence at the main text's present token; `version` is a row, or -1."""
    token = shadow.counts[_TOKEN]
    row = shadow.occurrences[shadow.counts[_OCCURRENCES]]
    shadow.counts[_OCCURRENCES] += 1
    row[0], row[1], row[2], row[3], row[4], row[5], row[6] = value, role, token, edit_at, place, -1, -1
    if version >= 0:
        row[5] = shadow.versions[version, _NUMBER_OF_STORE]
        row[6] = token - shadow.versions[version, _STORE_TOKEN]


@_compile
def _follow_load(register, slot, at, depth, shadow):
    """A load into the slot: a copy of the register's version; a register that was never stored gives a new NAN."""
    version = shadow.registers[register]
    if version < 0:
        _make(_ABSENT, slot, at, shadow)
        return
    token, row = shadow.counts[_TOKEN], shadow.versions[version]
    row[_LOADS] += 1
    row[_LAST_LOAD] = token
    _edge(_LOAD_STORE, row[_STORED], _NONE, row[_STORE_TOKEN], row[_STORE_AT], at, depth, shadow)
    _edges_to_origins(_LOAD_ORIGIN, row[_STORED], at, depth, shadow)
    _put(row[_STORED], slot, at, version, token, shadow)


@_compile
def _follow_store(register, base, sp, at, depth, shadow):
    """A store of the top of the stack: a new version; what is missing is a new NAN."""
    if sp > base:
        _edge_to_slot(_STORE_EDGE, sp - 1, at, depth, shadow)
        value = shadow.slots[sp - 1, _VALUE]
    else:
        value = _new_value(_ABSENT, at, shadow)
    token, old, version = shadow.counts[_TOKEN], shadow.registers[register], shadow.counts[_VERSIONS]
    shadow.counts[_VERSIONS] = version + 1
    row = shadow.versions[version]
    row[_REGISTER], row[_NUMBER_OF_STORE], row[_STORED], row[_STORE_TOKEN] = register, 0, value, token
    row[_STORE_AT], row[_OVERWRITTEN], row[_LOADS], row[_LAST_LOAD] = at, -1, 0, -1
    if old >= 0:
        row[_NUMBER_OF_STORE] = shadow.versions[old, _NUMBER_OF_STORE] + 1
        shadow.versions[old, _OVERWRITTEN] = token
    shadow.registers[register] = version


@_compile
def _follow_inputs(op, valid, first, sp, at, depth, shadow):
    """What an instruction, no load or store, takes from the slots `first` to sp - 1, before it is executed."""
    if op == _DROP:
        return
    if valid and _DUPLICATE <= op <= _OVER:
        for slot in range(first, first + 1 if op == _OVER else sp):
            _edge_to_slot(_SHUFFLE, slot, at, depth, shadow)
        return
    for slot in range(first, sp):
        value = shadow.slots[slot, _VALUE]
        _edge_to_slot(_OPERAND, slot, at, depth, shadow)
        _edges_to_origins(_OPERAND_ORIGIN, value, at, depth, shadow)
        if depth == 0:
            _occurrence(_CONSUMED, value, shadow.counts[_PREVIOUS], 4 + sp - 1 - slot, _NONE, shadow)


@_compile
def _follow_outputs(op, first, at, depth, stack, arena, shadow):
    """What an instruction has left in the slots from `first` on; a call: what its body is given."""
    slots, values = shadow.slots, shadow.values
    if op == _CHOOSE:
        condition = values[slots[first, _VALUE], _PACKED]
        _move(first + 1 if _truth(condition, arena) else first + 2, first, at, shadow)
    elif op == _DUPLICATE:
        _move(first, first + 1, at, shadow)
    elif op == _OVER:
        _move(first, first + 2, at, shadow)
    elif op == _SWAP or op == _ROTATE:
        end = first + _INPUTS[op]
        _move(first, end, at, shadow)  # the slot above is free
        for slot in range(first, end):
            _move(slot + 1, slot, at, shadow)
    elif _CALL <= op < _CALL_IF:
        _move(first, first, at, shadow)
    elif _CALL_IF <= op < _CALL_IF + 3:
        _move(first + 1, first, at, shadow)
    elif op == _MAP or op == _WHERE:
        _put(shadow.elements[values[slots[first, _VALUE], _PACKED] >> 8], first, at, _NONE, _NONE, shadow)
    elif op == _ELEMENT and stack[first] != _NAN:
        index = values[slots[first + 1, _VALUE], _PACKED] >> 8
        element = shadow.elements[(values[slots[first, _VALUE], _PACKED] >> 8) + index]
        _edges_to_origins(_LOAD_ORIGIN, element, at, depth, shadow)
        _put(element, first, at, _NONE, shadow.counts[_TOKEN], shadow)
    elif _OUTPUTS[op] == 1:
        if stack[first] & 3 == _SEQ:
            _follow_elements(op, first, at, stack[first], arena, shadow)
        _make(stack[first], first, at, shadow)


@_compile
def _follow_elements(op, first, at, result, arena, shadow):
    """The elements of the Seq that an instruction has left: those that it moved, else new ones."""
    slots, values, elements = shadow.slots, shadow.values, shadow.elements
    start, length = result >> 8, _seq_length(result)
    if op == _TAIL:
        return  # the elements are shared
    if not (op == _APPEND or op == _CONCATENATE or op == _REVERSE or op == _SORT):
        for i in range(length):
            elements[start + i] = _new_value(arena[start + i], at, shadow)
        return
    source = values[slots[first, _VALUE], _PACKED] >> 8
    source_length = _seq_length(values[slots[first, _VALUE], _PACKED])
    if op == _REVERSE:
        for i in range(length):
            elements[start + i] = elements[source + length - 1 - i]
    elif op == _SORT:
        for i in range(length):  # the same insertion sort as in `_sequence_to_value`
            j = start + i
            v = arena[source + i] >> 8
            while j > start and values[elements[j - 1], _PACKED] >> 8 > v:
                elements[j] = elements[j - 1]
                j -= 1
            elements[j] = elements[source + i]
    else:
        _copy(elements, source, source_length, start)
        other = slots[first + 1, _VALUE]
        if op == _APPEND:
            elements[start + source_length] = other
        else:
            _copy(elements, values[other, _PACKED] >> 8, length - source_length, start + source_length)


@_compile
def _follow_return(frame, base, last, result, goes_on, stack, arena, shadow):
    """A body has ended, its result, if any, in slot `last`: what the call leaves in slot `base`, or is given next."""
    at, elements = frame[_PC] - 1, shadow.elements
    if frame[_MODE] == _MODE_CALL:
        if last >= base:
            _move(last, base, at, shadow)
        else:
            _make(_ABSENT, base, at, shadow)
        return
    if result != _NAN and frame[_MODE] == _MODE_MAP:
        elements[frame[_OUT] + frame[_AT] - 1] = shadow.slots[last, _VALUE]
    elif result != _NAN and _truth(stack[last], arena):
        elements[frame[_OUT] + frame[_KEPT] - 1] = elements[frame[_FROM] + frame[_AT] - 1]
    if goes_on:
        _put(elements[frame[_FROM] + frame[_AT]], base, at, _NONE, _NONE, shadow)
    else:
        _make(result, base, at, shadow)


@_compile
def _follow_state(sp, versions_before, shadow):
    """Record the occurrences in the state after the main text's present token, but those that later tokens decide."""
    token = shadow.counts[_TOKEN]
    slot = sp - 1
    while slot >= 0 and shadow.slots[slot, _PUT] == token:  # what a token puts lies on top
        row = shadow.slots[slot]
        if shadow.values[row[_VALUE], _AROSE] == token:
            _occurrence(_AROSE_ROLE, row[_VALUE], token, 4 + sp - 1 - slot, _NONE, shadow)
        if row[_LOADED] == token:
            _occurrence(_LOADED_ROLE, row[_VALUE], token, 4 + sp - 1 - slot, row[_VERSION], shadow)
        slot -= 1
    for register in range(4):
        version, old = shadow.registers[register], versions_before[register]
        if version >= 0 and shadow.versions[version, _STORE_TOKEN] == token:
            _occurrence(_STORED_ROLE, shadow.versions[version, _STORED], token, register, version, shadow)
        if old >= 0 and version != old and shadow.versions[old, _LAST_LOAD] < token:
            value = shadow.versions[old, _STORED]
            _occurrence(_OVERWRITTEN_ROLE, value, shadow.counts[_PREVIOUS], register, old, shadow)


@_compile
def _follow_decision(end, sp, shadow):
    """Record the occurrences and edges at the cut, before token `end`; the state is the one after the last token."""
    shadow.counts[_TOKEN] = token = end - 1
    previous = shadow.counts[_PREVIOUS]
    for slot in range(sp - 1, -1, -1):
        value = shadow.slots[slot, _VALUE]
        _occurrence(_DECISION_ROLE, value, previous, 4 + sp - 1 - slot, _NONE, shadow)
        _edge_to_slot(_DECISION, slot, token, np.int64(0), shadow)
        _edges_to_origins(_DECISION_ORIGIN, value, token, np.int64(0), shadow)
    for register in range(4):
        version = shadow.registers[register]
        if version >= 0:
            _occurrence(_DECISION_ROLE, shadow.versions[version, _STORED], previous, register, version, shadow)


@_compile
def _run_with_shadow(tokens, meaning, bodies, stack, registers, arena, frames, machine, shadow, steps, versions_at):
    """Run one program, all of `tokens`, and record its provenance but for what lies between a store and a load.

    The executed tokens of the main text are written to steps[:count], the versions in the registers after each to
    versions_at[:count] (-1 where the token loads it); returns the count.
    """
    end = _parse(tokens, bodies)
    _reset(registers, machine)
    shadow.registers[:] = -1
    shadow.counts[:] = 0
    shadow.counts[_PREVIOUS] = -1
    count = np.int64(0)
    inside = False
    for pc in range(end):
        if inside or tokens[pc] == _OPEN:
            inside = tokens[pc] != _CLOSE
            continue
        before = shadow.registers.copy()
        shadow.counts[_TOKEN] = pc
        _advance(tokens, pc, pc + 1, meaning, bodies, stack, registers, arena, frames, machine, shadow)
        _follow_state(machine[_SP], before, shadow)
        shadow.counts[_PREVIOUS] = steps[count] = pc
        for register in range(4):
            version = shadow.registers[register]
            is_loaded = version >= 0 and shadow.versions[version, _LAST_LOAD] == pc
            versions_at[count, register] = -1 if is_loaded else version
        count += 1
        if machine[_SPENT] == 1:
            break
    _follow_decision(end, machine[_SP], shadow)
    return count


@_compile
def _room(rows, n, more):
    """`rows`, whose first n are in use, or a longer copy of it where `more` do not fit behind them."""
    if n + more <= len(rows):
        return rows
    longer = np.empty((2 * (n + more), rows.shape[1]), rows.dtype)
    for i in range(n):
        for k in range(rows.shape[1]):  # a slice would be compiled with all its errors
            longer[i, k] = rows[i, k]
    return longer


@_compile
def _write_values(program, tokens, shadow, rows, n):
    """Write the values of a program to rows[n:]; return where they end."""
    for number in range(shadow.counts[_VALUES]):
        value, row = shadow.values[number], rows[n]
        packed = value[_PACKED]
        row[0], row[1], row[2], row[3], row[4] = program, number, value[_AROSE], value[_MADE_AT], 0
        row[5], row[6], row[7] = NAN_KIND, 0, 0
        if packed & 3 == _INT:
            row[4], row[5], row[6], row[7] = tokens[value[_MADE_AT]] < 10, INT_KIND, packed >> 8, (packed >> 2) & 15
        elif packed & 3 == _SEQ:
            row[5] = SEQ_KIND
        n += 1
    return n


@_compile
def _write_rows(program, source, count, rows, n):
    """Write source[:count], each behind the number of the program, to rows[n:]; return where they end."""
    for i in range(count):
        rows[n, 0] = program
        for k in range(source.shape[1]):
            rows[n, k + 1] = source[i, k]
        n += 1
    return n


@_compile
def _write_occurrences(program, steps, versions_at, count, shadow, rows, n):
    """Write the occurrences of a program by token, with those between a store and its last load, to rows[n:]; return
    where they end."""
    n_recorded, i = shadow.counts[_OCCURRENCES], 0
    for step in range(count):
        token = steps[step]
        start = i
        while i < n_recorded and shadow.occurrences[i, 2] == token:
            i += 1
        n = _write_rows(program, shadow.occurrences[start:i], i - start, rows, n)
        for register in range(4):
            version = versions_at[step, register]
            store = shadow.versions[version]
            if version >= 0 and store[_STORE_TOKEN] < token < store[_LAST_LOAD]:
                row = rows[n]
                row[0], row[1], row[2], row[3], row[4] = program, store[_STORED], _BETWEEN, token, token
                row[5], row[6], row[7] = register, store[_NUMBER_OF_STORE], token - store[_STORE_TOKEN]
                n += 1
    return _write_rows(program, shadow.occurrences[i:], n_recorded - i, rows, n)


@_compile
def run_provenance(tokens, ends, meaning, first):
    """The provenance of every row of tokens uint8 [n, length], each as far as token ends[row].

    Returns the rows of four tables, int32: values [rows, 8], occurrences [rows, 8], edges [rows, 9] and versions
    [rows, 9], their columns those of `cadmus.states.provenance`; the programs are numbered from `first`.
    """
    n, width = tokens.shape
    bodies, stack, registers, arena, frames, machine = _scratch(width)
    shadow = _shadow(len(stack), len(arena))
    steps, versions_at = np.empty(width, np.int64), np.empty((width, 4), np.int64)
    values, n_values = np.empty((24 * n, 8), np.int32), np.int64(0)
    occurrences, n_occurrences = np.empty((64 * n, 8), np.int32), np.int64(0)
    edges, n_edges = np.empty((64 * n, 9), np.int32), np.int64(0)
    versions, n_versions = np.empty((4 * n, 9), np.int32), np.int64(0)
    counts = shadow.counts
    for row in range(n):
        text = tokens[row, : ends[row]]
        count = _run_with_shadow(
            text, meaning, bodies, stack, registers, arena, frames, machine, shadow, steps, versions_at
        )
        program = first + row
        values = _room(values, n_values, counts[_VALUES])
        n_values = _write_values(program, text, shadow, values, n_values)
        occurrences = _room(occurrences, n_occurrences, counts[_OCCURRENCES] + 4 * count)
        n_occurrences = _write_occurrences(program, steps, versions_at, count, shadow, occurrences, n_occurrences)
        edges = _room(edges, n_edges, counts[_EDGES])
        n_edges = _write_rows(program, shadow.edges, counts[_EDGES], edges, n_edges)
        versions = _room(versions, n_versions, counts[_VERSIONS])
        n_versions = _write_rows(program, shadow.versions, counts[_VERSIONS], versions, n_versions)
    return values[:n_values], occurrences[:n_occurrences], edges[:n_edges], versions[:n_versions]
