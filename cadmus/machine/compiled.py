"""The compiled machine: `cadmus.machine.vm` again, instruction for instruction, in numba over packed 64-bit values.

A value is one int64, so moving, copying and storing values is moving integers, and a sequence is never changed:

    NAN  0
    Int  v << 8 | tag << 2 | 1
    Seq  start << 8 | length << 2 | 2      (`length` packed Ints at arena[start:])

Use it through `cadmus.machine.kernel`. All compiled code is in this one file because numba's cache of compiled code
notices changes of the file that holds a function, not of those it calls (nor of `cadmus.machine.vm`'s constants).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from cadmus.machine import vm

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

# machine[...]: stack pointer, fuel, arena top, whether fuel ran out, what the last advance did first to each register
_SP, _FUEL_LEFT, _TOP, _SPENT, _FIRST_ACCESS = range(5)
READ_FIRST, WRITTEN_FIRST = 1, 2  # two bits a register, `a` the lowest; 0: left alone
# frames[depth, ...]: what a call returns to, and for M and W the sequence walked and the results so far
_PC, _STOP, _BASE, _MODE, _FROM, _COUNT, _AT, _OUT, _KEPT, _BODY = range(10)
_MODE_CALL, _MODE_MAP, _MODE_WHERE = range(3)

_compile = njit(cache=True, nogil=True, error_model="numpy")


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
def _advance(tokens, pc, stop, meaning, bodies, stack, registers, arena, frames, machine):
    """Execute the main text from token `pc` up to `stop`, calls included; definitions are passed over.

    The state lies in `stack` and `machine`, `registers`, `arena`. Out of fuel, the stack becomes a single NAN.
    """
    sp, fuel, top = machine[_SP], machine[_FUEL_LEFT], machine[_TOP]
    depth = base = first_access = 0
    while True:
        if pc >= stop:
            if depth == 0:
                break
            # a body has ended: its result is the top of its stack
            result = stack[sp - 1] if sp > base else _NAN
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
        if fuel == 0:
            stack[0] = _NAN
            sp = 1
            machine[_SPENT] = 1
            break
        fuel -= 1
        pc += 1
        op = meaning[op]

        if op < 10:
            stack[sp] = _pack(np.int64(op))
            sp += 1
            continue
        if _LOAD <= op < _LOAD + 4:
            stack[sp] = registers[op - _LOAD]
            sp += 1
            if first_access >> 2 * (op - _LOAD) & 3 == 0:
                first_access |= READ_FIRST << 2 * (op - _LOAD)
            continue
        if _STORE <= op < _STORE + 4:
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
        if not valid:
            for k in range(_OUTPUTS[op]):
                stack[first + k] = _NAN
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
                    continue
                stack[first] = stack[first + 1]
            argument = stack[first]
            if (op == _MAP or op == _WHERE) and _seq_length(argument) == 0:
                continue
            if bodies[slot, 0] < 0 or depth == _MAX_CALLS:
                stack[first] = _NAN
                sp = first + 1
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
    machine[_SP], machine[_FUEL_LEFT], machine[_TOP], machine[_FIRST_ACCESS] = sp, fuel, top, first_access


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
def _scratch(length):
    """Allocate room for one program of `length` tokens: bodies, stack, registers, arena, frames, machine."""
    return (
        np.empty((3, 2), np.int64),
        np.empty((_MAX_CALLS + 1) * (length + 2) + 2, np.int64),
        np.empty(4, np.int64),
        np.empty((_FUEL + 1) * _MAX_LENGTH, np.int64),  # each executed instruction makes one sequence at most
        np.empty((_MAX_CALLS + 1, 10), np.int64),
        np.empty(5, np.int64),
    )


@_compile
def _reset(registers, machine):
    """Bring the machine to the state before a program."""
    registers[:] = _NAN
    machine[_SP], machine[_FUEL_LEFT], machine[_TOP], machine[_SPENT] = 0, _FUEL, 0, 0


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
    """Run every row, as `run_verdicts`, recording the state after each token.

    depth, fuel, true and first_access are [row, position]; kind, v, tag, length and offsets are [row, position, entry],
    the stack's top `entries` first, then the four registers. With `contents` only the sequences' elements are written,
    at `offsets`.
    """
    bodies, stack, registers, arena, frames, machine = _scratch(tokens.shape[1])
    for row in range(len(tokens)):
        end = _parse(tokens[row], bodies)
        _reset(registers, machine)
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
