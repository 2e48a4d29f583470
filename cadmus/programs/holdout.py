"""What is kept out of training on purpose: programs by value, by instruction pair, by length, by skeleton."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from cadmus.machine import kernel, tokens, vm
from cadmus.programs import skeletons


@dataclass(frozen=True)
class HoldOut:
    """Rules; a program that any of them holds out never enters a corpus. Empty rules hold out nothing."""

    values: tuple[int, ...] = ()
    """No Int with one of these values is ever on top of the stack of the main text."""

    pairs: tuple[str, ...] = ()
    """None of these two-token texts stands anywhere in the program; `0` means any digit."""

    max_length: int = 0
    """No program has more tokens than this, its `.` not counted; 0: no limit."""

    skeletons: tuple[str, ...] = ()
    """No program has one of these skeletons (digits written as `0`)."""

    def __post_init__(self) -> None:
        for pair in self.pairs:
            if len(pair) != 2 or set(pair) - set(vm.VOCAB.replace(vm.END, "")):
                raise ValueError(f"hold_out: pair {pair!r} must be two instructions")
            if set(pair) & set("123456789"):
                raise ValueError(f"hold_out: pair {pair!r} names a digit; write 0 for any digit")
        for skeleton in self.skeletons:
            if not skeleton or skeleton != skeletons.skeleton(skeleton):
                raise ValueError(
                    f"hold_out: {skeleton!r} is not a skeleton; write every digit as 0 and leave out the ."
                )
        if self.max_length < 0:
            raise ValueError(f"hold_out: max_length = {self.max_length} must be 0 (no limit) or more")

    @property
    def rules(self) -> tuple[str, ...]:
        """The names of the rules that hold something out."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name))

    def holds_out(self, programs: np.ndarray, rule: str | None = None) -> np.ndarray:
        """Which programs, uint8 [n, width], are held out, by one rule or by any: bool [n]. Raises ValueError for an
        unknown rule."""
        all_rules = [field.name for field in fields(self)]
        if rule is not None and rule not in all_rules:
            raise ValueError(f"unknown rule {rule!r}; there are {', '.join(all_rules)}")
        out = np.zeros(len(programs), np.bool_)
        for name in self.rules:
            if rule in (None, name):
                out |= getattr(self, f"_by_{name}")(programs)
        return out

    def _by_values(self, programs: np.ndarray) -> np.ndarray:
        top = kernel.traces(programs, entries=1).stack[:, :, 0]
        return (np.isin(top.value, self.values) & (top.kind == kernel.INT_KIND)).any(1)

    def _by_pairs(self, programs: np.ndarray) -> np.ndarray:
        forms = skeletons.skeletons(programs)
        out = np.zeros(len(programs), np.bool_)
        for pair in self.pairs:
            first, second = (vm.VOCAB.index(token) for token in pair)
            out |= ((forms[:, :-1] == first) & (forms[:, 1:] == second)).any(1)
        return out

    def _by_max_length(self, programs: np.ndarray) -> np.ndarray:
        return tokens.lengths(programs) > self.max_length

    def _by_skeletons(self, programs: np.ndarray) -> np.ndarray:
        held_out = tokens.hashes(tokens.encode(self.skeletons), "skeleton")
        return np.isin(skeletons.skeleton_hashes(programs, "skeleton"), held_out)
