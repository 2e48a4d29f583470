"""Other machines to probe for: Jin & Rinard's control (arXiv 2305.11169), meanings permuted within type signatures.

A probe that computes a state itself reads another machine's states about as well as the true one's; a representation
serves the true machine better. The comparison is fair only where the other labels are as hard: an `Alternative` keeps
the entropy of every label, leaves few NAN, and lies at a known distance, the share of executed instructions whose
meaning changes. `kernel.traces(programs, alternative.semantics)` gives its states; what is true for the true machine
need not be true for it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import entr

from cadmus.machine import kernel, tokens, vm
from cadmus.runtime.seeds import generator
from cadmus.states import variables
from cadmus.statistics.jackknife import GROUPS, Estimate, Sample, interval_of, ratio_of_sums, take_sample

ENTROPY_LIMIT = 0.5  # bit: how far a label's entropy may lie from the true machine's
NAN_LIMIT = 0.10  # of the states: NAN on top where the true machine has none
VARIABLES = ("stack.0.value", "stack.1.value", *(f"reg.{register}.value" for register in vm.REGISTERS))

_DRAWS = 4096  # permutations drawn: far more than are measured, since great distances are rare


@dataclass(frozen=True)
class Alternative:
    """Another machine, measured on the programs that it was chosen on."""

    name: str
    """`alternative 1`, ..., the nearest first."""
    semantics: vm.Semantics
    """What `kernel.traces` takes to run it."""
    moved: tuple[str, ...]
    """Which token means what: `+ means -`."""
    distance: float
    """Of the instructions that the true machine executes, calls included, the share whose meaning is another."""
    entropy_gap: float
    """In bits, the greatest difference from the true machine in the entropy of a variable's labels."""
    nan_share: float
    """Of the states after a token, the share with NAN on top where the true machine has none."""


def signatures() -> tuple[str, ...]:
    """The tokens that may take each other's meanings, one string per type signature with more than one.

    Left out are instructions without inputs: to permute the digits is to run the true machine on another program, and
    to permute loads along with stores only renames the registers. Calls (M and W among them) stay too, and with them
    which text is executed.
    """
    groups: dict[str, str] = {}
    for row in vm.INSTRUCTIONS.values():
        if row.inputs and "[body]" not in row.signature:
            groups[row.signature] = groups.get(row.signature, "") + row.token
    return tuple(group for group in groups.values() if len(group) > 1)


def alternatives(
    programs: np.ndarray,
    n: int = 8,
    seed: int = 0,
    variables: Sequence[str] = VARIABLES,
    *,
    groups: Sequence[str] | None = None,
    candidates: int = 192,
) -> list[Alternative]:
    """Draw other machines, at distances spread evenly up to the farthest that is fit.

    Of thousands of permutations of meanings, `candidates` are measured, as many at great distances as at small. Fit are
    those that keep the entropy of every variable's labels (over the states after the tokens; numbers with |v| <= 99)
    within `ENTROPY_LIMIT`, and NAN within `NAN_LIMIT`, with the upper bounds of 95 % intervals over programs, so that
    the limits hold on other programs of the kind.

    Args:
        programs: uint8 [m, length], 40 or more of the kind that will be probed; 1,000 to 4,000 do.
        n: How many machines.
        seed: Fixes which permutations are drawn.
        variables: The variables that must stay as hard to read, by name.
        groups: The tokens that may take each other's meanings, one string per group; `signatures()` by default.
        candidates: How many permutations are measured.

    Returns:
        `n` alternatives, nearest first.

    Raises:
        ValueError: for fewer than `n` machines that are fit, with the most frequent reasons; for a group that crosses a
            signature, an unknown variable, and programs that execute nothing.
    """
    variables = tokens.text_list(variables, "variables")
    groups = signatures() if groups is None else tokens.text_list(groups, "groups")
    sample = take_sample(programs, seed)
    if n < 1 or candidates < n:
        raise ValueError(f"{n} alternatives are asked for out of {candidates} candidates; ask for 1 or more of as many")
    for group in groups:
        vm.Semantics(dict(zip(group, group[1:] + group[:1], strict=True)))  # says where one crosses a signature
    shares = _execution_shares(sample.programs)
    permutations = _draw_permutations(groups, shares, generator("alternative semantics", seed))
    pool = _stratified(permutations, n)[:candidates]
    machines, reasons = _fit_machines(sample, variables, pool)
    if len(machines) < n:
        why = "".join(f"; {count} {reason}" for reason, count in reasons.most_common(3))
        raise ValueError(
            f"{len(machines)} of {len(pool)} other machines are fit, {n} are asked for{why}; "
            "pass more programs, more candidates or other groups"
        )
    return [
        Alternative(
            name=f"alternative {k}",
            semantics=machine.semantics,
            moved=_descriptions(machine.semantics),
            distance=machine.distance,
            entropy_gap=machine.entropy_gap,
            nan_share=machine.nan_share,
        )
        for k, machine in enumerate(_spread(machines, n), start=1)
    ]


def _execution_shares(programs: np.ndarray) -> dict[str, float]:
    """The share of each token among the instructions that the true machine executes on these programs."""
    counts: Counter[str] = Counter()
    for text in tokens.decode(programs):
        machine = vm.Machine(text, observer=lambda token, *_: counts.update((token,)))
        for position in machine.positions:
            machine.advance(position)
    total = counts.total()
    if not total:
        raise ValueError(f"the {len(programs)} programs execute nothing; pass programs with tokens outside definitions")
    return {token: count / total for token, count in counts.items()}


class _Permutation(NamedTuple):
    """A permutation of meanings, and its distance from the true machine."""

    distance: float
    meanings: dict[str, str]


def _draw_permutations(groups: Sequence[str], shares: dict[str, float], rng: np.random.Generator) -> list[_Permutation]:
    """Permutations with their distances, in the order drawn.

    None changes nothing, and none differs from another only in tokens that are never executed.
    """
    permutations: dict[tuple[str, ...], _Permutation] = {}
    for _ in range(_DRAWS):
        meanings: dict[str, str] = {}
        for group in groups:
            if rng.random() < 0.5:
                members = rng.permutation(len(group))[: rng.integers(2, len(group) + 1)]
                meanings |= {group[a]: group[b] for a, b in zip(members, rng.permutation(members), strict=True)}
        effective = sorted(token for token, meaning in meanings.items() if token != meaning and token in shares)
        if effective:
            key = tuple(token + meanings[token] for token in effective)
            distance = sum(shares[token] for token in effective)
            permutations.setdefault(key, _Permutation(distance, meanings))
    return list(permutations.values())


def _stratified(permutations: list[_Permutation], n: int) -> list[_Permutation]:
    """The same in another order: the first of each of `n` equal ranges of distance, then the second of each, ..."""
    farthest = max((permutation.distance for permutation in permutations), default=1)
    counts: Counter[int] = Counter()
    order = []
    for at, (distance, _) in enumerate(permutations):
        stratum = min(int(n * distance / farthest), n - 1)
        order.append((counts[stratum], stratum, at))
        counts[stratum] += 1
    return [permutations[at] for _, _, at in sorted(order)]


class _Machine(NamedTuple):
    """A machine that is fit, with what makes it so."""

    distance: float
    entropy_gap: float
    nan_share: float
    semantics: vm.Semantics


def _fit_machines(
    sample: Sample, names: Sequence[str], pool: list[_Permutation]
) -> tuple[list[_Machine], Counter[str]]:
    """The machines of the pool that are fit, in its order, and how often each reason makes one unfit."""
    true_entropies, true_nan = _measure(sample, names, None)
    machines = []
    reasons: Counter[str] = Counter()
    for distance, meanings in pool:
        semantics = vm.Semantics(meanings)
        entropies, nan = _measure(sample, names, semantics)
        gaps = [Estimate(row[0], row[1:], len(nan)) for row in abs(entropies - true_entropies)]
        nan_share = ratio_of_sums(sample, (nan & ~true_nan).sum(1), sample.lengths)
        faults = [
            f"may move the entropy of {name} by more than {ENTROPY_LIMIT} bit"
            for name, gap in zip(names, gaps, strict=True)
            if not interval_of("bit", gap)[2] <= ENTROPY_LIMIT
        ]
        if not interval_of("share", nan_share)[2] <= NAN_LIMIT:
            faults.append(f"may leave NAN on more than {NAN_LIMIT:.0%} of the states")
        reasons.update(faults)
        if not faults:
            widest = max((float(gap.value) for gap in gaps), default=0.0)
            machines.append(_Machine(distance, widest, float(nan_share.value), semantics))
    return machines, reasons


def _spread(machines: list[_Machine], n: int) -> list[_Machine]:
    """`n` of them, nearest first: those closest to 1/n, 2/n, ..., 1 of the farthest."""
    remaining = list(machines)
    farthest = max(machine.distance for machine in remaining)
    evenly_spread = []
    for k in range(n, 0, -1):
        target = farthest * k / n
        nearest = min(remaining, key=lambda machine: (abs(machine.distance - target), machine.entropy_gap))
        evenly_spread.append(nearest)
        remaining.remove(nearest)
    return sorted(evenly_spread, key=lambda machine: machine[:3])


def _descriptions(semantics: vm.Semantics) -> tuple[str, ...]:
    return tuple(f"{token} means {semantics[token].token}" for token in vm.VOCAB if token in semantics.meanings)


def _measure(sample: Sample, names: Sequence[str], semantics: vm.Semantics | None) -> tuple[np.ndarray, np.ndarray]:
    """(the entropy of each variable's labels in bits, in all and without each group of programs
    [variables, 1 + GROUPS]; where NAN lies on top of the stack after a token, bool [n, length])."""
    stack_entries = [int(k) for name in names for k in re.findall(r"^stack\.(\d+)", name)]
    traces = kernel.traces(sample.programs, semantics, entries=1 + max([1, *stack_entries]))
    inside = np.arange(sample.programs.shape[1]) < sample.lengths[:, None]
    entropies = np.empty((len(names), 1 + GROUPS))
    size = 2 * variables.MAX_ABS_VALUE + 1
    for row, name in zip(entropies, names, strict=True):
        labels = variables.read(traces, name)
        values = labels.values[:, 1:]
        mask = labels.defined[:, 1:] & inside & (abs(values) <= variables.MAX_ABS_VALUE)
        program, at = np.nonzero(mask)
        codes = sample.groups[program] * size + values[program, at] + variables.MAX_ABS_VALUE
        counts = np.bincount(codes, minlength=GROUPS * size).reshape(GROUPS, size)
        counts = np.concatenate([counts.sum(0, keepdims=True), counts.sum(0) - counts])  # [1 + GROUPS, size]
        row[:] = entr(counts / counts.sum(1, keepdims=True).clip(1)).sum(1) / np.log(2)
    return entropies, (traces.stack.kind[:, :, 0] == kernel.NAN_KIND) & inside
