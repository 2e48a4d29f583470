"""The peer of the compiled generators: the families of the `paper` mixture, one program at a time, in plain Python.

What somebody would write first: pick, run on the plain machine, try again. It has an easier task: expressions of up to
five instructions are looked up by value in the ready pool, and `arith` does not balance its values.
"""

from __future__ import annotations

import random
from functools import cache
from hashlib import blake2b

from cadmus.machine import tokens, vm
from cadmus.programs import splits
from cadmus.programs.parts.expressions import DIGITS, OPERATORS, pool
from cadmus.programs.parts.pieces import literal

LOW, HIGH = -20, 20
PREDICATES = ["#_>", "#_<", "#_=", "S_>", "S_<", "S2%", "X_>", "X_<", "~X~_>", "0I_>", "0I2%", "R0I_<", "_E", "_E!"]


def draw(family: str, rng: random.Random) -> str:
    """Draw one true-program of the family, of the split `train`."""
    while True:
        text = FAMILIES[family](rng)
        if text is not None and vm.verdict(text) and _is_train(text):
            return text


def _is_train(text: str) -> bool:
    skeleton = "".join("0" if token in DIGITS else token for token in text)
    return _share("skeleton" + skeleton) >= splits.TEST_SKELETON_SHARE and _share(text) >= 0.1


def _share(text: str) -> float:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) / 2**64


def _value(text: str) -> int | None:
    """The Int on top of the stack at the end."""
    outputs = vm.run(text).outputs
    return outputs[-1].v if outputs and isinstance(outputs[-1], vm.Int) else None


@cache
def _by_value(length: int) -> dict[int, list[str]]:
    expressions = pool(length)
    texts = tokens.decode(expressions.tokens)
    spans = zip(expressions.starts, expressions.starts[1:])
    return {int(value): texts[start:end] for value, (start, end) in zip(expressions.values, spans)}


def _number(rng: random.Random, value: int, lengths: tuple[int, ...]) -> str:
    length = rng.choice([k for k in lengths if value in _by_value(k)])
    return rng.choice(_by_value(length)[value])


def _expression(rng: random.Random, length: int) -> str:
    if length == 1:
        return rng.choice(DIGITS)
    left = rng.randrange(1, length - 1, 2)
    return _expression(rng, left) + _expression(rng, length - 1 - left) + rng.choice(OPERATORS)


def _arith(rng: random.Random) -> str | None:
    text = _expression(rng, rng.choice((3, 5, 7, 9)))
    value = _value(text)
    return f"{text}{value}=." if value is not None and 0 <= value <= 9 else None


def _equality(rng: random.Random) -> str:
    x = rng.randint(LOW, HIGH)
    y = x if rng.random() < 0.5 else rng.randint(LOW, HIGH)
    return f"{_number(rng, x, (3, 5))}{_number(rng, y, (3, 5))}={'' if x == y else '!'}."


def _compare(rng: random.Random) -> str:
    x, y = rng.randint(LOW, HIGH), rng.randint(LOW, HIGH)
    return f"{_number(rng, x, (5,))}{_number(rng, y, (5,))}{'<' if x < y else '>' if x > y else '='}."


def _subroutine(rng: random.Random) -> str | None:
    body = "".join(rng.choice(DIGITS) + rng.choice(OPERATORS) for _ in range(rng.randint(1, 2)))
    x = _number(rng, rng.randint(LOW, HIGH), (3, 5)) + "f" * rng.randint(1, 2)
    value = _value(f"{{{body}}}{x}")
    if value is None or not LOW <= value <= HIGH:
        return None
    y = rng.randint(LOW, HIGH)
    rest = f"{x}{_number(rng, y, (3, 5))}{'<' if value < y else '>' if value > y else '='}"
    return f"{rest}{{{body}}}." if rng.random() < 0.5 else f"{{{body}}}{rest}."


def _list(rng: random.Random, minimum: int, maximum: int) -> str:
    return "(" + "".join(rng.choice(DIGITS) + "," for _ in range(rng.randint(minimum, maximum)))


def _read(rng: random.Random, text: str, readings: str) -> str | None:
    reading = rng.choice(readings)
    text += rng.choice(DIGITS) + reading if reading in "IE" else reading
    value = _value(text)
    return f"{text}{literal(value)}=" if value is not None and 0 <= value <= 27 else None


def _sequence(rng: random.Random) -> str | None:
    steps = [rng.choice(("R", "T", _list(rng, 1, 3) + "Q")) for _ in range(rng.randint(0, 2))]
    read = _read(rng, _list(rng, 1, 5) + "".join(steps), "#SXIE")
    return read and read + "."


def _sequence_advanced(rng: random.Random) -> str | None:
    steps = [rng.choice(("W", "M", "O", "P", rng.choice(DIGITS) + rng.choice("+*"))) for _ in range(rng.randint(1, 2))]
    calls = "W" in steps or "M" in steps
    body = f"{{{rng.choice(DIGITS)}{rng.choice('+-*xn%<>=')}}}" if calls else ""
    read = _read(rng, body + _list(rng, 2, 5) + "".join(steps), "#SXI")
    if read is None:
        return None
    return f"{read[len(body) :]}{body}." if rng.random() < 0.5 else f"{read}."


def _predicate(rng: random.Random) -> str:
    return "{" + rng.choice(PREDICATES).replace("_", rng.choice(DIGITS)) + "}"


def _example(rng: random.Random, predicate: str, requested: bool) -> tuple[str, bool]:
    for _ in range(12):
        text = _list(rng, 1, 4) + "f"
        label = vm.verdict(predicate + text)
        if label == requested:
            break
    return text, label


def _label(rng: random.Random) -> str:
    predicate = text = _predicate(rng)
    for _ in range(rng.randint(1, 3)):
        example, label = _example(rng, predicate, rng.random() < 0.5)
        text += example + ("" if label else "!")
    return text + "."


def _induce(rng: random.Random) -> str | None:
    predicate = _predicate(rng)
    examples = [_example(rng, predicate, rng.random() < 0.5) for _ in range(rng.randint(3, 5))]
    if len({label for _, label in examples}) < 2:
        return None
    return "".join(f"{text}{int(label)}=" for text, label in examples) + predicate + "."


def _random(rng: random.Random) -> str:
    others = [token for token in vm.VOCAB if token not in DIGITS + vm.END]
    return "".join(rng.choice(DIGITS if rng.random() < 0.3 else others) for _ in range(rng.randint(3, 8))) + "."


FAMILIES = {
    "arith": _arith,
    "equality": _equality,
    "compare": _compare,
    "subroutine": _subroutine,
    "sequence": _sequence,
    "sequence_advanced": _sequence_advanced,
    "label": _label,
    "induce": _induce,
    "random": _random,
}
