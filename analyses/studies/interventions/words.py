"""Words for variables, roles and verdicts, the same in every table, figure and sentence of the page."""

from __future__ import annotations

VARIABLES = {
    "reg": "the value of a register",
    "stack.0": "the operand on top of the stack",
    "stack.1": "the operand beneath the top",
    "compare.first": "the first number of a comparison",
    "compare.second": "the second number of a comparison",
    "sequence": "an element of a sequence",
    "argument": "the argument of a call",
}
ROLES = {
    "arose": "where it arises",
    "stored": "where it is stored",
    "between": "between its store and its load",
    "loaded": "where it is loaded",
    "consumed": "where an instruction takes it",
    "overwritten": "where its register is overwritten",
    "decision": "at the decision",
}
CONTROLS = {
    "third_value": "with a source of a third value",
    "same_value": "with a source of the same value",
    "random": "with a random vector of the same norm",
    "untrained": "in the untrained twin",
}


def variable(name: str) -> str:
    """The variable in words, `the first number of a comparison`; its own name where the page has no words for it."""
    if name.startswith("reg."):
        return f"the value of register {name.removeprefix('reg.')}"
    return VARIABLES.get(name, name)


def capital(text: str) -> str:
    """The text with a capital letter in front."""
    return text[:1].upper() + text[1:]


def place(layer: int, role: str, span: str = "single") -> str:
    """A cell in words, `after block 3, where it is loaded`; blocks are counted from 0."""
    more = {"from": " and at all later roles", "up_to": " and at all earlier roles"}.get(span, "")
    return f"{after(layer)}, {ROLES.get(role, role)}{more}"


def after(layer: int) -> str:
    """Where the residual stream is read, `after block 3`; -1 is before the first block."""
    return "before the first block" if layer < 0 else f"after block {layer}"


def control(name: str) -> str:
    """A control in words, `with a source of the same value`."""
    return CONTROLS.get(name, f"under {name.replace('_', ' ')}")


def mechanism(word: str, is_loaded: bool) -> str:
    """A word of `probes.interventions.effects.mechanism`; what is never loaded is looked up where an instruction takes
    it."""
    return word if is_loaded else word.replace("looked up at the load", "looked up where it is taken")


def finding(reading: str, use: str, spent: bool = False) -> str:
    """What is found of a variable, in two or three words.

    reading: "read", "readable", "unread" or "" (undecided); use: "used", "unused" or "undecided"; spent: it is still
    readable where it is no longer used. Raises KeyError for other words.
    """
    words = {
        ("read", "used"): "read and used",
        ("readable", "used"): "readable and used",
        ("unread", "used"): "used, not read",
        ("", "used"): "used, reading undecided",
        ("read", "unused"): "read, not used",
        ("readable", "unused"): "readable, not used",
        ("unread", "unused"): "neither read nor used",
        ("", "unused"): "not used, reading undecided",
        ("read", "undecided"): "read, use undecided",
        ("readable", "undecided"): "readable, use undecided",
        ("unread", "undecided"): "not read, use undecided",
        ("", "undecided"): "undecided",
    }[reading, use]
    return f"{words}; later spent" if spent and use == "used" else words


NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def count(number: int) -> str:
    """A whole number in words up to twelve."""
    return NUMBERS[number] if number < len(NUMBERS) else f"{number:,}"
