"""The comparison task of the paper's Figure 1 as prompts for a chat model, in standard and in alternate symbols.

A prompt explains the machine by a table of its symbols, shows a program that leaves X and Y, and asks for the symbol of
their relation. In alternate symbols (the paper's Table 2) the same programs are written in another alphabet, which the
table explains: a model that executes programs, rather than recognizes them, answers these as well. The wording is ours;
the paper does not print its own. `analyses.studies.paper.replies` reads what comes back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cadmus.machine import tokens, vm
from cadmus.programs import mixture
from cadmus.programs.families import Compare
from cadmus.programs.families.compare import RELATIONS
from cadmus.runtime import artifacts
from cadmus.runtime.checks import check_at_least, check_seed, check_text_lists
from cadmus.runtime.seeds import generator
from cadmus.training.plane import REGIONS, draw_plane, region_of

STANDARD = "0123456789+-*/%xn<>=!"
ALPHABETS = {"standard": STANDARD, "alternate": "-[_+!#917^*/%)}Lb?$~&"}
"""The symbols of the same instructions, in the order of `STANDARD`: the paper's Table 2."""

_SYSTEM = "You execute programs of a small stack machine, exactly. You answer with one symbol and nothing else."
_TEXT = """\
A program is read from left to right. Each character is one instruction: it takes its inputs off the top of the stack \
and puts its result there. P is the lower of two inputs, Q the upper one; the last column is ordinary arithmetic on \
integers. A result that does not exist, NAN, stays NAN whatever is done with it.

{reference}

This program leaves two numbers on the stack, P and then Q:

{program}

Which one of {relations}, put at the end of the program, leaves 1? Answer with that symbol alone."""


@dataclass(frozen=True)
class PromptsConfig:
    """Which prompts are made."""

    alphabets: tuple[str, ...] = tuple(ALPHABETS)
    """In which symbols, `standard` or `alternate`; the same programs in each."""
    reach: int = 40
    """X and Y lie in -reach..reach."""
    programs: int = 10
    """Programs for each X and Y."""
    limit: int = 0
    """At most so many programs, a third each inside the trained square, on the diagonal beyond it, and off both, as far
    as there are so many; 0: all."""
    mixture: str = "paper"
    """A mixture's name, or a TOML file, whose compare programs these are; its low..high is the trained square."""
    seed: int = 0
    """Seed of the programs drawn."""

    def __post_init__(self) -> None:
        check_text_lists(self, "alphabets")
        check_at_least(self, 1, "reach", "programs")
        check_at_least(self, 0, "limit")
        check_seed(self)
        for name in self.alphabets:
            if name not in ALPHABETS:
                raise ValueError(f"alphabet {name!r} is unknown; there are {', '.join(ALPHABETS)}")
        if not self.alphabets or len(set(self.alphabets)) < len(self.alphabets):
            raise ValueError(f"alphabets {', '.join(self.alphabets) or '(none)'} must be one or more, each once")


@dataclass(frozen=True)
class Prompt:
    """A program to compare two numbers in, and what is asked about it."""

    id: str
    """By which a reply names it, such as `alternate-00012`."""
    alphabet: str
    """`standard` or `alternate`."""
    x: int
    """The first number."""
    y: int
    """The second number."""
    region: str
    """Where in the plane it lies: one of `REGIONS`."""
    program: str
    """In the alphabet, without the relation."""
    answer: str
    """The relation in the alphabet: the right reply."""
    trained: tuple[int, int]
    """The least and the greatest value of the trained square."""

    def to_json(self) -> dict[str, Any]:
        """The line of the file: `messages` is what the model is sent, all else is for scoring."""
        return {**vars(self), "messages": messages(self)}


def export(config: PromptsConfig, path: Path | str) -> int:
    """Write the prompts as JSON Lines, whole or not at all; returns how many. The same config writes the same file."""
    lines = [json.dumps(prompt.to_json(), ensure_ascii=False) for prompt in prompts(config)]
    artifacts.write_bytes(Path(path), ("\n".join(lines) + "\n").encode())
    return len(lines)


def prompts(config: PromptsConfig) -> list[Prompt]:
    """The prompts of a config, alphabet by alphabet: of programs that training holds out within the trained square, and
    of any beyond it. Raises ValueError where a cell has no program, and where the mixture has no compare."""
    mix = mixture.load(config.mixture)
    family = mix.family("compare")
    assert isinstance(family, Compare), "the class of that name"
    unknown = sorted(set(family.operators) - set(STANDARD))
    if unknown:
        raise ValueError(f"mixture {mix.name!r} computes with {' '.join(unknown)}, which the two alphabets lack")
    programs, cells = draw_plane(family, config.reach, mix.hold_out, config.programs, config.seed)
    regions = region_of(cells[:, 0], cells[:, 1], family)
    rows = _limited(regions, config.limit, config.seed)
    texts = tokens.decode(programs[rows])
    square = (family.low, family.high)
    result = []
    for name in config.alphabets:
        for number, (text, (x, y), region) in enumerate(zip(texts, cells[rows].tolist(), regions[rows], strict=True)):
            written = rewritten(text.rstrip(vm.END), name)
            result.append(Prompt(f"{name}-{number:05d}", name, x, y, str(region), written[:-1], written[-1], square))
    return result


def _limited(regions: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Which programs are taken: rows of `regions` [n]; where not all are, as many of each region as can be, in random
    order."""
    if not limit or limit >= len(regions):
        return np.arange(len(regions))
    rng = generator("prompts", seed)
    of_region = [rng.permutation(np.flatnonzero(regions == region)) for region in REGIONS]
    order = np.concatenate(of_region)
    turn = np.concatenate([np.arange(len(rows)) for rows in of_region])  # the first of each region, the second of each
    return order[np.argsort(turn, kind="stable")][:limit]


def rewritten(text: str, alphabet: str) -> str:
    """A program of standard symbols in the symbols of an alphabet."""
    return text.translate(str.maketrans(STANDARD, ALPHABETS[alphabet]))


def relations(alphabet: str) -> tuple[str, ...]:
    """The symbols for less, equal and greater."""
    return tuple(rewritten(relation, alphabet) for relation in RELATIONS)


def messages(prompt: Prompt) -> list[dict[str, str]]:
    """What a chat model is sent."""
    *first, last = relations(prompt.alphabet)
    text = _TEXT.format(
        reference=reference(prompt.alphabet),
        program=prompt.program,
        relations=f"{', '.join(first)} and {last}",
    )
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": text}]


def reference(alphabet: str) -> str:
    """The table of an alphabet's symbols, a line for each: symbol, inputs, result."""
    lines = ["symbol | takes | puts"]
    lines += _reference_lines(STANDARD, ALPHABETS[alphabet])
    return "\n".join(lines)


def _reference_lines(standard: Sequence[str], symbols: Sequence[str]) -> Iterator[str]:
    for token, symbol in zip(standard, symbols, strict=True):
        instruction = vm.INSTRUCTIONS[token]
        takes = ("nothing", "P", "P and Q")[instruction.inputs]
        effect = re.sub(r"\bb\b", "Q", re.sub(r"\ba\b", "P", instruction.doc))  # small b is a symbol itself
        yield f"{symbol} | {takes} | {effect}"
