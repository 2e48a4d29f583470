"""Which symbol a chat model's reply says, whatever stands around it.

Code fences, emphasis, sentences, LaTeX, tags of reasoning, the program repeated, other forms of the signs, JSON: all of
that is read. A reply that says no symbol, or several, is never guessed at.
"""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Callable

from analyses.studies.paper.prompts import Prompt, relations

ANSWERS = ("less", "equal", "greater")
EMPTY, NO_ANSWER, SEVERAL = UNREADABLE = ("empty", "no answer", "several answers")

_OTHER_FORMS = str.maketrans("⟨〈‹❮≺⟩〉›❯≻═∼˜", "<<<<<>>>>>=~~")
_THOUGHTS = "think|thinking|reasoning|scratchpad"
_TAGS = rf"{_THOUGHTS}|answer|final|result|response|output|symbol|code|pre|b|i|em|strong|p|br|span|div"
_REWRITINGS = [  # (pattern, what takes its place), one after another
    (rf"<({_THOUGHTS})>.*?(</\1>|\Z)", " "),  # what is thought aloud, finished or not
    (rf"</?(?:{_TAGS})\s*/?>", " "),
    (r"\\(?:lt|textless)\b", "<"),
    (r"\\(?:gt|textgreater)\b", ">"),
    (r"\\(?:sim|textasciitilde)\b(?:\{\})?", "~"),
    (r"\\(?:text|texttt|mathrm|mathtt)\{([^{}]*)\}", r"\1"),
    (r"\\boxed\{([^{}]*)\}", r"\nanswer: \1\n"),
    (r"\\[()\[\]]", " "),
    (r"\\([<=>?~$`*_])", r"\1"),  # escaped for Markdown
    (r"\$\s*([<=>?~])\s*\$", r" \1 "),
    (r"(?<=\s)[-=]+>(?=\s)|→|⇒|⟶", " "),  # arrows
    (r"[-=~]{3,}", " "),  # rules
    (r"<=|=<|≤|⩽", "≤"),
    (r">=|≥|⩾", "≥"),
    (r"!=|=/=|<>|≠", "≠"),
    (r"==", "="),
]
_QUOTES = r"[\s`'\"*_(\[“‘«]*"
_MARKERS = (
    r"(?:answer|symbol|relation|result|output|choice)\b(?:\s+(?:is|would be|should be|must be))?\s*[:=–—-]*\s*",
    r"\b(?:choose|chose|pick|append|put|use|write)\s+",
)
_ANSWER_KEYS = ("answer", "final_answer", "final", "symbol", "relation", "result", "output", "reply")
_WORDS = {
    **dict.fromkeys(("less", "less than", "smaller"), "less"),
    **dict.fromkeys(("equal", "equals", "equal to"), "equal"),
    **dict.fromkeys(("greater", "greater than", "larger"), "greater"),
}

Finder = Callable[[str, str, str], list[str]]
"""(text, the three symbols, the program) -> the symbols that are found."""


def read(reply: str, prompt: Prompt) -> str:
    """What a reply says: one of `ANSWERS`, or of `UNREADABLE` why it says none.

    Looked at in this order: the whole reply, what it gives as JSON, what it says is the answer, its last line, what it
    sets apart in code, emphasis or a line of its own, what follows the program, and at last any symbol that stands
    alone. The first of these that finds any symbol decides.
    """
    text = normal(reply)
    if not text:
        return EMPTY
    word = _WORDS.get(text.strip(" .!\"'`*").lower())
    if word is not None:
        return word
    symbols = relations(prompt.alphabet)
    for find in _FINDERS:
        found_symbols = set(find(text, re.escape("".join(symbols)), prompt.program))
        if len(found_symbols) > 1:
            return SEVERAL
        if found_symbols:
            return ANSWERS[symbols.index(found_symbols.pop())]
    return NO_ANSWER


def normal(reply: str) -> str:
    """A reply in plain characters, without tags, LaTeX and arrows; comparisons that are no answer are one character."""
    text = html.unescape(unicodedata.normalize("NFKC", reply.translate(_OTHER_FORMS)))
    for pattern, replacement in _REWRITINGS:
        text = re.sub(pattern, replacement, text, flags=re.DOTALL | re.IGNORECASE)
    return text.strip()


def _bare(text: str, symbols: str) -> list[str]:
    """The symbol that a text is, but for quotes, emphasis and a full stop."""
    match = re.fullmatch(rf"{_QUOTES}([{symbols}])[\s`'\"*_)\].,;:!”’»]*", text)
    return [match[1]] if match else []


def _whole(text: str, symbols: str, program: str) -> list[str]:
    return _bare(re.sub(r"```[a-z]*\s", "```", text), symbols)


def _json(text: str, symbols: str, program: str) -> list[str]:
    """The symbol under a key that names the answer, where the reply is, or ends in, a JSON object."""
    match = re.search(r"\{[^{}]*\}(?=[\s`]*$)", text)
    try:
        value = json.loads(match[0]) if match else None
    except json.JSONDecodeError:
        return []
    if not isinstance(value, dict):
        return []
    given = [inner for key, inner in value.items() if key.lower() in _ANSWER_KEYS and isinstance(inner, str)]
    return [symbol for inner in given for symbol in _bare(inner, symbols)]


def _declared_answers(text: str, symbols: str, program: str) -> list[str]:
    """The symbols that are said to be the answer; where a final one is named, those alone."""
    symbol = rf"{_QUOTES}([{symbols}])(?![{symbols}\w])(?!\s*-?\d)"  # `result = 5` is none
    others = rf"(?:[`'\"*_)\]]*\s*(?:or|and|/|,)\s*{symbol})*"
    for marker in (rf"final\s+{_MARKERS[0]}", *_MARKERS):
        matches = re.finditer(marker + symbol + others, text, re.IGNORECASE)
        found_symbols = [group for match in matches for group in match.groups() if group]
        if found_symbols:
            return found_symbols
    return []


def _last_line(text: str, symbols: str, program: str) -> list[str]:
    """The symbols that are lines of their own, where the last line is one."""
    lines = [_bare(line, symbols) for line in re.sub(r"```[a-z]*", "", text).splitlines() if line.strip()]
    return [symbol for line in lines for symbol in line] if lines and lines[-1] else []


def _set_apart(text: str, symbols: str, program: str) -> list[str]:
    """The symbols in code, emphasized, quoted, or on lines of their own."""
    quoted = re.findall(rf"(`|\"|'|\*\*|“|‘)\s*([{symbols}])\s*(?:\1|”|’)", text)
    lines = [symbol for line in text.splitlines() for symbol in _bare(line, symbols)]
    return [symbol for _, symbol in quoted] + lines


def _behind_the_program(text: str, symbols: str, program: str) -> list[str]:
    return re.findall(rf"{re.escape(program)}\s*([{symbols}])(?![{symbols}])", text)


def _alone(text: str, symbols: str, program: str) -> list[str]:
    """The symbols between spaces; what a letter or a sum is said to be (`X = 5`, `2 + 3 = 5`) is no answer."""
    text = re.sub(r"(?:\b[A-Za-z]\w*|\d\s*[-−–+*/%×·]\s*-?\d+)\s*=\s*-?\d+", " ", text)
    return re.findall(rf"(?<!\S)[`'\"*(\[]*([{symbols}])(?=[`'\"*)\].,;:!]*(?:\s|$))", text)


_FINDERS: tuple[Finder, ...] = (_whole, _json, _declared_answers, _last_line, _set_apart, _behind_the_program, _alone)
