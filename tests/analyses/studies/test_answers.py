"""Replies of every sloppy shape: what says one symbol is read, what says none or several is never guessed at."""

from __future__ import annotations

import json

import pytest

from analyses.studies.paper.answers import EMPTY, NO_ANSWER, SEVERAL, read
from analyses.studies.paper.prompts import ALPHABETS, Prompt, relations, rewritten

PROGRAM = "941-*55*1+"


def prompt(alphabet: str) -> Prompt:
    symbols = relations(alphabet)
    return Prompt("a", alphabet, 27, 26, "inside", rewritten(PROGRAM, alphabet), symbols[2], (-20, 20))


SHAPES = [  # {s}: the symbol, {p}: the program
    "{s}",
    " {s}\n",
    "{s}.",
    "`{s}`",
    "**{s}**",
    "'{s}'",
    '"{s}"',
    "“{s}”",
    "({s})",
    "```\n{s}\n```",
    "```text\n{s}\n```",
    "Answer: {s}",
    "Answer: `{s}`",
    "answer = {s}",
    "**Answer:** {s}",
    "The answer is {s}",
    "The answer is `{s}`.",
    "The correct symbol is **{s}**.",
    "Final answer: {s}",
    "FINAL ANSWER: `{s}`",
    "First I thought that the answer is {o}. Final answer: {s}",
    "The candidates are `{o}` and `{s}`.\n\n{s}",
    "Let me execute it.\n9 minus 4 leaves 5.\nThe first is 27, the second 26.\n\n{s}",
    "I would append {s} to the program.",
    "{p}{s}",
    "The whole program is {p}{s}",
    "`{p}{s}`",
    "{p} {s}",
    "The first number is 27 and the second 26, so {s} leaves 1.",
    "P = 27, Q = 26, so {s}",
    "P=27 and Q=26 → {s}",
    "{{\"answer\": \"{s}\"}}",
    "```json\n{{\"answer\": \"{s}\"}}\n```",
    "{{\"thoughts\": \"{o} or {s}?\", \"answer\": \"{s}\"}}",
    "<answer>{s}</answer>",
    "<think>Is it {o}? Perhaps {o}.</think>{s}",
    "<think>\nSome {o} lines\n</think>\n\nAnswer: {s}",
    "\\boxed{{{s}}}",
    "$\\boxed{{\\text{{{s}}}}}$",
    "\\({s}\\)",
    "\\{s}",
    "Sure! Here is the symbol:\n\n{s}",
    "- {s}",
    "Answer:\n{s}\n",
]  # fmt: skip
BY_SIGN = {
    "<": ["＜", "&lt;", "⟨", "‹", "\\lt", "less", "Less than.", "<think></think><"],
    "=": ["＝", "==", "`==`", "═", "equal", "Equals", "X = 3 and Y = 3, so ="],
    ">": ["＞", "&gt;", "⟩", "›", "$>$", "$\\gt$", "greater than", "The comparison is 27 > 26."],
}
ALTERNATE_BY_SIGN = {
    "?": ["？", "less", "Is P less than Q? Yes, it is.\n?"],
    "~": ["～", "∼", "˜", "\\sim", "$~$", "equal"],
    "$": ["＄", "\\$", "greater", "It is worth it: $"],
}
NONE = [
    "I'm sorry, but I can't help with that.",
    "I cannot execute programs.",
    "The two numbers are 27 and 26.",
    "Could you give me the reference table?",
    "...",
    "-",
    "The result = 5.",
    "27 − 26 = 1",
    "≤",
    "<=",
    "it is >= 26",
    "!=",
    "<think>It could be",
    "null",
]


@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize("shape", SHAPES)
def test_one_symbol_is_read_in_every_shape(alphabet: str, shape: str) -> None:
    asked = prompt(alphabet)
    symbols = relations(alphabet)
    for k, name in enumerate(("less", "equal", "greater")):
        reply = shape.format(s=symbols[k], o=symbols[k - 1], p=asked.program)
        assert read(reply, asked) == name, reply


@pytest.mark.parametrize(("alphabet", "forms"), [("standard", BY_SIGN), ("alternate", ALTERNATE_BY_SIGN)])
def test_other_forms_of_the_signs_and_words_are_read(alphabet: str, forms: dict[str, list[str]]) -> None:
    for name, replies in zip(("less", "equal", "greater"), forms.values(), strict=True):
        for reply in replies:
            assert read(reply, prompt(alphabet)) == name, reply


@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize("reply", NONE)
def test_what_says_no_symbol_is_no_answer(alphabet: str, reply: str) -> None:
    assert read(reply, prompt(alphabet)) in (NO_ANSWER, EMPTY), reply


@pytest.mark.parametrize("reply", ["", "  \n", "<think>so long that it was cut off", "<think>done</think>\n"])
def test_what_holds_nothing_is_empty(reply: str) -> None:
    assert read(reply, prompt("standard")) == EMPTY


@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize(
    "shape",
    [
        "{s} or {o}",
        "`{s}` or `{o}`",
        "Answer: {s} or {o}",
        "Answer: `{s}`, `{o}`",
        "{s}\n{o}",
        "The answer is {s}. No, wait: the answer is {o}.",
        "I hesitate between {s} and {o} here.",
        json.dumps({"answer": "S", "result": "O"})
        .replace("{", "{{")
        .replace("}", "}}")
        .replace("S", "{s}")
        .replace("O", "{o}"),
    ],
)
def test_what_says_several_is_not_guessed_at(alphabet: str, shape: str) -> None:
    symbols = relations(alphabet)
    for k in range(3):
        said = read(shape.format(s=symbols[k], o=symbols[k - 1]), prompt(alphabet))
        assert said == SEVERAL, (shape, said)
