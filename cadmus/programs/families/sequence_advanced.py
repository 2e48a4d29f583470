"""`sequence_advanced`: select, map, sort, scan and aggregate: `[{1>}(1,2,3,W#2=.]` `[(3,1,2,OP1I3=.]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cadmus.machine import vm
from cadmus.machine.tokens import lengths
from cadmus.programs.families.sequence import STEPS, Sequence
from cadmus.programs.parts.family import check_share, check_tokens, knob, shared_knob
from cadmus.programs.parts.pieces import choice, join

_OPERATORS = "+-*xn%<>="  # of the body that W and M call
_PLAIN = {token: (token,) for token in "WMOP"}
_ELEMENTWISE = {token: (f"_{token}",) for token in "+-*xn"}


@dataclass(frozen=True)
class SequenceAdvanced(Sequence):
    """As `sequence`, with steps that compute. W (select) and M (map) call a subroutine, defined first or last.

    Where the definition comes last, the model decides there: it must find a body that makes the statements true.
    """

    name: ClassVar[str] = "sequence_advanced"
    all_steps: ClassVar[dict[str, tuple[str, ...]]] = _PLAIN | STEPS | _ELEMENTWISE
    min_elements: int = knob(2, "the fewest elements of a sequence")
    steps: str = knob(
        "WMOP+*",
        "the steps in use: W select, M map, O sort, P running sums, + - * x n with a digit, and R T Q of sequence",
    )
    min_steps: int = knob(1, "the fewest steps")
    readings: str = knob("#SXI", "the readings in use: # length, S sum, X largest, I element, E contains")
    body_operators: str = knob(_OPERATORS, "the operators of the body that W and M call: some of + - * x n % < > =")
    after_share: float = shared_knob("after_share")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_tokens(self, "body_operators", _OPERATORS)
        check_share(self, "after_share")

    @property
    def _definition_width(self) -> int:
        return 4

    def structures(self, n: int, rng: np.random.Generator) -> np.ndarray:
        out = super().structures(n, rng)
        calls = np.isin(out["statements"], [vm.VOCAB.index(token) for token in "MW"]).any((1, 2))
        bodies = [f"{{_{operator}}}" for operator in self.body_operators]
        out["definition"] = join(8, choice(["", *bodies], calls * rng.integers(1, len(bodies) + 1, n)))
        out["last"] = (lengths(out["definition"]) > 0) & (rng.random(n) < self.after_share)
        return out

    def _defines_what_it_uses(self, rest: str, n_definitions: int) -> bool:
        return n_definitions == int("W" in rest or "M" in rest)
