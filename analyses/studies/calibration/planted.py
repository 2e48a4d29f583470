"""Planted truth: transformers made by hand that execute a fragment of the machine, and what carries the value in them.

Three fragments. *lookup*, `7A3A5B2Ca`: a register is stored, perhaps overwritten, and loaded; the answer is the digit.
*compare*, `7A3Bab`: two registers are loaded; the answer is their relation. *running*, `73\\}\\`: a stack of two is
swapped or left alone, token by token; the answer is its top. The value X, a digit of the text, is written where it
arises, moved by heads at layers that are drawn, and read at the end: the cells (layer x position) that carry it and the
edges that move it are known.

Four conditions. *rotated*: features lie along a random orthogonal basis. *superposed*: they overlap, and ten digits
share six dimensions. *decoys*: heads copy X to where nothing reads it. *duplicated*: X lies at three positions of which
the answer is the majority, so that any one of them suffices where the others are erased, and none alone moves the
answer. (Two copies would not do: what holds v and w is one state, whichever of the two was put there, so that one of
the patches must move the answer, or both spoil it.) In all, weights are noisy and idle heads and neurons mix what they
find into dimensions that nothing reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from analyses.studies.calibration.circuits import (
    DIGITS,
    Circuit,
    Features,
    Head,
    Neurons,
    assemble,
    oblique_basis,
    one_hot_codes,
    orthogonal_basis,
    sphere_codes,
)
from cadmus.machine import kernel, tokens, vm
from cadmus.runtime.seeds import generator

CONDITIONS = ("rotated", "superposed", "decoys", "duplicated")
FRAGMENTS = ("lookup", "compare", "running")
RELATIONS = "<=>"
NOISE = 0.005  # of the weights
MIN_ACCURACY = 0.99  # of a planted model, on programs of its form
_TAGS = "ABCabc\\}"
_MATCH, _REST, _RECENCY = 100.0, 50.0, 4.0  # scores: of what is looked for, of the first position, of each later one
_JUNK = 6  # dimensions that nothing reads
_HEADS = 5
_DRAWS = 10

Cell = tuple[int, int]
"""(number of the residual stream, position): 0 is the stream before the first block, k + 1 that after block k."""
Edge = tuple[int, int, int, int]
"""(layer, head, query position, key position)"""


@dataclass(frozen=True, repr=False)
class Planted:
    """A transformer made by hand, the programs that it completes, and what carries the value X in it."""

    fragment: str
    """Which part of the machine it executes."""
    condition: str
    """How the truth is hidden in it."""
    seed: int
    """Of everything that was drawn."""
    model: Any
    """The HookedTransformer."""
    form: str
    """The text of a program up to the answer, with `0` for each digit."""
    slot: int
    """Which of its digits is X."""
    carriers: frozenset[Cell]
    """Cells that alone carry X: patching one moves the answer."""
    duplicates: frozenset[Cell]
    """Cells that carry X and are outvoted where patched alone."""
    decoys: frozenset[Cell]
    """Cells at which X can be read and nothing reads it, or nothing any longer."""
    mixed: frozenset[Cell]
    """Cells that carry the answer or another part of the state together with X, which patching cannot tell apart."""
    edges: frozenset[Edge]
    """Edges without any of which the answer is lost."""
    duplicate_edges: frozenset[Edge]
    """Edges of which any one suffices."""

    def __repr__(self) -> str:
        return f"Planted({self.fragment}, {self.condition}, seed {self.seed}: {self.form})"

    @property
    def layers(self) -> int:
        """How many blocks the model has."""
        return int(self.model.cfg.n_layers)

    @property
    def length(self) -> int:
        """The tokens of a program, which is also the position at which the answer is asked for."""
        return len(self.form)

    @property
    def cells(self) -> list[Cell]:
        """Every cell but those at the marker, where all programs are the same, and those that are mixed."""
        every = [(stream, position) for stream in range(self.layers + 1) for position in range(1, self.length + 1)]
        return [cell for cell in every if cell not in self.mixed]

    def site(self, stream: int) -> str:
        """The hook name of a residual stream."""
        return f"blocks.{stream - 1}.hook_resid_post" if stream else "blocks.0.hook_resid_pre"

    def programs(self, digits: np.ndarray) -> np.ndarray:
        """The programs with these digits, int [n, digits of the form]: uint8 [n, length]."""
        programs = np.repeat(tokens.encode([self.form]), len(digits), 0)
        programs[:, [i for i, token in enumerate(self.form) if token == "0"]] = digits
        return programs

    def answers(self, programs: np.ndarray) -> np.ndarray:
        """What the machine asks for after programs uint8 [n, length], as token ids: int64 [n]."""
        if self.fragment != "compare":
            return kernel.tops(programs).value.astype(np.int64)
        columns = [vm.VOCAB.index(relation) for relation in RELATIONS]
        true = [kernel.verdicts(np.c_[programs, np.full(len(programs), k, np.uint8)]) for k in columns]
        return np.array(columns)[np.stack(true, 1).argmax(1)]

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Digits of n programs of its form: int64 [n, digits]."""
        return rng.integers(0, DIGITS, (n, self.form.count("0")))

    def accuracy(self, n: int = 1000) -> float:
        """The share of n programs that it completes as the machine asks."""
        programs = self.programs(self.draw(n, generator("calibration, accuracy", self.seed)))
        logits = self.model(torch.from_numpy(tokens.sequences(programs)).long())[:, self.length]
        return float((logits.argmax(-1).numpy() == self.answers(programs)).mean())


def plant(fragment: str, condition: str, seed: int, noise: float = NOISE) -> Planted:
    """Make a model of a fragment under a condition; layers, positions, basis and noise are drawn by the seed.

    A model that completes less than 99 % of its programs as the machine asks is drawn again. Raises ValueError where
    ten draws are no better, and for what is none of `combinations`.
    """
    if (fragment, condition) not in combinations():
        listed = ", ".join(f"{f} {c}" for f, c in combinations())
        raise ValueError(f"there is no {fragment} {condition}; there are {listed}")
    for draw in range(_DRAWS):
        rng = generator("calibration, planted", seed, draw, FRAGMENTS.index(fragment), CONDITIONS.index(condition))
        design = _Design(condition, rng)
        _MAKERS[fragment](design)
        planted = design.planted(fragment, seed, noise)
        if planted.accuracy() >= MIN_ACCURACY:
            return planted
    raise ValueError(f"{_DRAWS} draws of {planted} are right in less than {MIN_ACCURACY}; lower the noise, {noise}")


def combinations() -> list[tuple[str, str]]:
    """Every fragment with every condition that it is made under: what is duplicated is what a load looks up."""
    return [(f, c) for c in CONDITIONS for f in FRAGMENTS if c != "duplicated" or f == "lookup"]


# --- the design of a model -------------------------------------------------------------------------------------------


class _Design:
    """A circuit that is being written down, with the truth about it as it comes."""

    def __init__(self, condition: str, rng: np.random.Generator) -> None:
        self.condition = condition
        self.rng = rng
        self.codes = sphere_codes(6, rng) if condition == "superposed" else one_hot_codes()
        self.form = ""
        self.slot = 0
        self.layers = 5
        self.path: list[tuple[int, int]] = []  # (position, first stream there) of X on its way
        self.copies: tuple[tuple[int, ...], int, int] | None = None  # positions of duplicates, first and last stream
        self.mixed: set[Cell] = set()
        self.decoys: set[Cell] = set()
        self.edges: set[Edge] = set()
        self.duplicate_edges: set[Edge] = set()

    def begin(self, form: str, slot: int, slots: tuple[str, ...]) -> None:
        """Fix the form of programs, and the slots that digits are written to."""
        self.form, self.slot = form, slot
        width = self.codes.shape[1]
        groups = {"one": 1, "position": len(form) + 1, "tag": len(_TAGS), "digit": width}
        groups |= dict.fromkeys(slots, width) | {"decoy": width, "junk": _JUNK, "more": 1, "less": 1}
        self.features = Features(groups)
        self.heads: list[list[Head]] = [[] for _ in range(self.layers)]
        self.neurons: dict[int, Neurons] = {}
        self.unembed = np.zeros((self.features.size, len(vm.VOCAB)))

    def at(self, group: str, k: int | None = None) -> np.ndarray:
        return self.features.at(group, k)

    def tag(self, token: str) -> np.ndarray:
        return self.at("tag", _TAGS.index(token))

    def add(self, layer: int, scores: list[tuple[np.ndarray, np.ndarray]], carried: dict[str, str]) -> int:
        """Add a head with these (query, key) features, beside its rest at the first position; returns its number.

        carried: slot read -> slot written.
        """
        scores = [*scores, (_REST * self.at("one"), self.at("position", 0))]
        queries, keys = (np.concatenate(part) for part in zip(*scores, strict=True))
        reads = np.concatenate([self.at(slot) for slot in carried])
        writes = np.concatenate([self.at(slot) for slot in carried.values()])
        self.heads[layer].append(Head(queries, keys, reads, writes))
        return len(self.heads[layer]) - 1

    def move(self, layer: int, pairs: list[tuple[int, int]], carried: dict[str, str]) -> int:
        """Add a head that attends from position to position, (query, key) each."""
        scores = [(_MATCH * self.at("position", query), self.at("position", key)) for query, key in pairs]
        return self.add(layer, scores, carried)

    def previous(self, layer: int, carried: dict[str, str]) -> int:
        """Add a head that attends to the token before, at every position."""
        return self.move(layer, [(p, p - 1) for p in range(1, len(self.form) + 1)], carried)

    def load(self, layer: int, registers: str, carried: dict[str, str]) -> int:
        """Add a head that attends from the load of a register to its last store."""
        scores = [(_MATCH * self.tag(register), self.tag(register.upper())) for register in registers]
        later = np.arange(len(self.form) + 1) @ self.at("position")
        return self.add(layer, [*scores, (_RECENCY * self.at("one"), later[None])], carried)

    def answer_digit(self, slot: str) -> None:
        """Let the answer be the digit in a slot."""
        digits = [vm.VOCAB.index(str(digit)) for digit in range(DIGITS)]
        self.unembed[:, digits] += 10 * (self.codes @ self.at(slot)).T

    def planted(self, fragment: str, seed: int, noise: float) -> Planted:
        """The model and the truth, with decoys where the condition asks for them, idle heads and idle neurons."""
        if self.condition == "decoys":
            self._add_decoys()
        self._fill()
        rng, size = self.rng, self.features.size
        basis = (oblique_basis if self.condition == "superposed" else orthogonal_basis)(size, rng)
        embed = np.zeros((len(vm.VOCAB), size))
        embed[:DIGITS] = self.codes @ self.at("digit")  # the ids of the digits are the digits
        embed[[vm.VOCAB.index(token) for token in _TAGS]] = self.at("tag")
        circuit = Circuit(
            self.features, embed, self.at("position") + self.at("one"), self.unembed, self.heads, self.neurons
        )
        carriers, duplicates, spent = self._truth()
        return Planted(
            fragment=fragment,
            condition=self.condition,
            seed=seed,
            model=assemble(circuit, basis, rng, noise),
            form=self.form,
            slot=self.slot,
            carriers=frozenset(carriers - self.mixed),
            duplicates=frozenset(duplicates),
            decoys=frozenset((spent | self.decoys) - carriers - duplicates - self.mixed),
            mixed=frozenset(self.mixed),
            edges=frozenset(self.edges),
            duplicate_edges=frozenset(self.duplicate_edges),
        )

    def _truth(self) -> tuple[set[Cell], set[Cell], set[Cell]]:
        """The cells that carry X alone, those that are duplicates, and those at which it lies when it has moved on."""
        carriers, duplicates, spent = set(), set(), set()
        ends = [first for _, first in self.path[1:]] + [self.layers + 1]
        for (position, first), end in zip(self.path, ends, strict=True):
            carriers |= {(stream, position) for stream in range(first, end)}
            spent |= {(stream, position) for stream in range(end, self.layers + 1)}
        if self.copies is not None:
            positions, first, end = self.copies
            duplicates = {(stream, position) for stream in range(first, end) for position in positions}
            spent |= {(stream, position) for stream in range(end, self.layers + 1) for position in positions}
        return carriers - duplicates, duplicates, spent - carriers

    def _add_decoys(self) -> None:
        """Copy X to three positions, at layers and from places that are drawn, into a slot that nothing reads."""
        source = self.path[0][0]
        later = np.arange(source + 1, len(self.form) + 1)
        for position in self.rng.choice(later, min(3, len(later)), replace=False):
            free = [layer for layer in range(self.layers) if len(self.heads[layer]) < _HEADS]
            layer = int(self.rng.choice(free))
            self.move(layer, [(int(position), source)], {"digit": "decoy"})
            self.decoys |= {(stream, int(position)) for stream in range(layer + 1, self.layers + 1)}

    def _fill(self) -> None:
        """Add idle heads up to the same number in each layer, and neurons, that mix what they find into the junk."""
        rng, junk = self.rng, self.at("junk")
        size = self.features.size
        but_junk = np.eye(size) - junk.T @ junk  # which would grow from layer to layer, did it feed itself
        for heads in self.heads:
            while len(heads) < _HEADS:
                queries, keys, reads = rng.normal(size=(3, 4, size)) @ but_junk
                heads.append(Head(queries, keys, reads, rng.normal(size=(4, _JUNK)) @ junk / 8))
        for layer in range(self.layers):
            reads = rng.normal(size=(8, size)) @ but_junk
            writes = rng.normal(size=(8, _JUNK)) @ junk / 16
            own = self.neurons.get(layer, Neurons(np.zeros((0, size)), np.zeros((0, size))))
            self.neurons[layer] = Neurons(np.concatenate([own.reads, reads]), np.concatenate([own.writes, writes]))


# --- the fragments ---------------------------------------------------------------------------------------------------


def _lookup(design: _Design) -> None:
    """`7A3A5B2Ca`: the digit moves to the store, and from the last store to the load."""
    rng = design.rng
    register = str(rng.choice(list("abc")))
    others = [r for r in "abc" if r != register]
    stores = [register.upper(), *(r.upper() for r in rng.permutation(others))]
    at = 0 if design.condition == "duplicated" else int(rng.integers(0, 3))  # copies need room behind it
    stores = [*stores[1 : at + 1], stores[0], *stores[at + 1 :]]
    if at and rng.random() < 0.5:
        stores[0] = stores[at]  # a store that is overwritten
    design.begin("".join(f"0{store}" for store in stores) + register, at, ("held", "copy 1", "copy 2", "out"))
    arose, stored, load = 2 * at + 1, 2 * at + 2, len(design.form)
    first, second, third = sorted(int(layer) for layer in rng.choice(design.layers, 3, replace=False))
    head = design.previous(first, {"digit": "held"})
    design.edges.add((first, head, stored, arose))
    design.path = [(arose, 0), (stored, first + 1), (load, third + 1)]
    head = design.load(third, "abc", {"held": "out"})
    edges = {(third, head, load, stored)}
    if design.condition == "duplicated":
        edges |= _duplicate(design, second, third, stored, load)
        design.duplicate_edges |= edges
    else:
        design.edges |= edges
    design.answer_digit("out")


def _duplicate(design: _Design, second: int, third: int, stored: int, reader: int) -> set[Edge]:
    """Copy what is stored to two more positions, and let the load read all three; returns the edges of these reads."""
    places = [int(p) for p in design.rng.choice(np.arange(stored + 1, reader), 2, replace=False)]
    edges = set()
    for k, place in enumerate(places, 1):
        design.move(second, [(place, stored)], {"held": f"copy {k}"})
        head = design.move(third, [(reader, place)], {f"copy {k}": "out"})
        edges.add((third, head, reader, place))
    design.copies = ((stored, *places), second + 1, third + 1)
    return edges


def _compare(design: _Design) -> None:
    """`7A3Bab`: both registers are looked up, the first is moved to the second's load, and both are compared there."""
    rng = design.rng
    names = [str(r) for r in rng.permutation(list("abc"))[:2]]
    text = f"0{names[0].upper()}0{names[1].upper()}{names[0]}{names[1]}"
    design.begin(text, 0, ("held", "out", "left"))
    first, load, operand = sorted(int(layer) for layer in rng.choice(design.layers, 3, replace=False))
    arose, stored, loaded, last = 1, 2, 5, 6
    head = design.previous(first, {"digit": "held"})
    design.edges |= {(first, head, stored, arose), (first, head, 4, 3)}
    head = design.load(load, "abc", {"held": "out"})
    design.edges |= {(load, head, loaded, stored), (load, head, last, 4)}
    head = design.previous(operand, {"out": "left"})
    design.edges.add((operand, head, last, loaded))
    design.path = [(arose, 0), (stored, first + 1), (loaded, load + 1), (last, operand + 1)]
    design.mixed = {(stream, last) for stream in range(operand + 1, design.layers + 1)}
    _answer_relation(design, operand)


def _answer_relation(design: _Design, layer: int) -> None:
    """Let the answer be the relation of the digits in the slots `left` and `out`."""
    value = np.linalg.lstsq(design.codes, np.arange(DIGITS) - (DIGITS - 1) / 2, rcond=None)[0]
    difference = (value @ (design.at("left") - design.at("out")))[None]
    writes = np.concatenate([design.at("more"), design.at("less")])
    design.neurons[layer] = Neurons(np.concatenate([difference, -difference]), writes)
    for relation, feature, weight in ((">", "more", 4.0), ("<", "less", 4.0), ("=", "one", 2.0)):
        design.unembed[:, vm.VOCAB.index(relation)] += weight * design.at(feature)[0]


def _running(design: _Design) -> None:
    """`73\\}\\`: at every token a head takes the state of the token before, another takes it swapped."""
    rng = design.rng
    operators = [str(o) for o in rng.choice(["\\", "}"], 2)]
    swaps = operators.count("\\")
    operators.insert(int(rng.integers(0, 3)), "}" if swaps % 2 else "\\")  # X is on top in the end
    design.begin("00" + "".join(operators), 0, ("top", "second"))
    layers = sorted(int(layer) for layer in rng.choice(design.layers, 4, replace=False))
    head = design.move(layers[0], [(2, 1)], {"digit": "second"})
    design.edges.add((layers[0], head, 2, 1))
    design.move(layers[0], [(2, 2)], {"digit": "top"})
    design.path = [(1, 0), (2, layers[0] + 1)]
    for step, (layer, operator) in enumerate(zip(layers[1:], operators, strict=True)):
        position = 3 + step
        for token, carried in (
            ("}", {"top": "top", "second": "second"}),
            ("\\", {"top": "second", "second": "top"}),
        ):
            gate = _REST / 1.5 * (design.at("position", position) + design.tag(token))  # both: above rest; one: below
            head = design.add(layer, [(gate, design.at("position", position - 1))], carried)
            if token == operator:
                design.edges.add((layer, head, position, position - 1))
        design.path.append((position, layer + 1))
    design.answer_digit("top")


_MAKERS: dict[str, Callable[[_Design], None]] = {"lookup": _lookup, "compare": _compare, "running": _running}
