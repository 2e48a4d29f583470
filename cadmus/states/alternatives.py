"""Other machines to probe for: Jin & Rinard's control (arXiv 2305.11169), meanings permuted within type signatures.

A probe that computes a state itself reads another machine's states about as well as the true one's; a representation
serves the true machine better. The comparison is fair only where the other labels are as hard: an `Alternative` keeps
the entropy of every label, leaves few NAN, and lies at a known distance, the share of executed instructions whose
meaning changes. Its states come of `kernel.traces(programs, alternative.semantics)`; what is true for the true machine
need not be true for it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import entr

from cadmus.machine import kernel, tokens, vm
from cadmus.runtime.seeds import generator
from cadmus.states import variables as labels
from cadmus.statistics.jackknife import GROUPS, Estimate, Sample, interval_of, ratio_of_sums, take_sample

ENTROPY_LIMIT = 0.5  # bit: how far a label's entropy may lie from the true machine's
NAN_LIMIT = 0.10  # of the states: NAN on top where the true machine has none
VARIABLES = ("stack.0.value", "stack.1.value", *(f"reg.{register}.value" for register in vm.REGISTERS))

_DRAWS = 4096  # permutations drawn: far more than are measured, since great distances are rare


@dataclass(frozen=True)
class Alternative:
    """Another machine, measured on the programs that it was chosen on.

    moved: which token means what, "+ means -". distance: of the instructions that the true machine executes, calls
    included, the share whose meaning is another. entropy_gap: in bits, the greatest difference from the true machine in
    the entropy of a variable's labels. nan_share: of the states after a token, those with NAN on top where the true
    machine has none.
    """

    name: str
    semantics: vm.Semantics
    moved: tuple[str, ...]
    distance: float
    entropy_gap: float
    nan_share: float


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
    """`n` other machines, nearest first, at distances spread evenly up to the farthest that is fit.

    programs uint8 [m, length], 40 or more of the kind that will be probed; 1,000 to 4,000 do. Of thousands of
    permutations within `groups` (`signatures()`), `candidates` are measured, as many at great distances as at small.
    Fit are those that keep the entropy of the labels of each of `variables` (over the states after the tokens; numbers
    with |v| <= 99) within `ENTROPY_LIMIT`, and NAN within `NAN_LIMIT`, with the upper bounds of 95 % intervals over
    programs, so that the limits hold on others of the kind. Raises ValueError where fewer than `n` are fit.
    """
    sample = take_sample(programs, seed)
    if n < 1 or candidates < n:
        raise ValueError(f"{n} alternatives are asked for out of {candidates} candidates; ask for 1 or more of as many")
    groups = signatures() if groups is None else groups
    for group in groups:
        vm.Semantics(dict(zip(group, group[1:] + group[:1], strict=True)))  # says where one crosses a signature
    executed = _executed(sample.programs)
    pool = _stratified(_drawn(groups, executed, generator("alternative semantics", seed)), n)[:candidates]

    true_entropies, true_nan = _measured(sample, variables, None)
    fit, reasons = [], Counter()
    for distance, meanings in pool:
        semantics = vm.Semantics(meanings)
        entropies, nan = _measured(sample, variables, semantics)
        gaps = [Estimate(row[0], row[1:], len(nan)) for row in abs(entropies - true_entropies)]
        nan_share = ratio_of_sums(sample, (nan & ~true_nan).sum(1), sample.lengths)
        unfit = [
            f"may move the entropy of {name} by more than {ENTROPY_LIMIT} bit"
            for name, gap in zip(variables, gaps, strict=True)
            if not interval_of("bit", gap)[2] <= ENTROPY_LIMIT
        ]
        if not interval_of("share", nan_share)[2] <= NAN_LIMIT:
            unfit.append(f"may leave NAN on more than {NAN_LIMIT:.0%} of the states")
        reasons.update(unfit)
        if not unfit:
            widest = max((float(gap.value) for gap in gaps), default=0.0)
            fit.append((distance, widest, float(nan_share.value), semantics))
    if len(fit) < n:
        why = "".join(f"; {count} {reason}" for reason, count in reasons.most_common(3))
        raise ValueError(
            f"{len(fit)} of {len(pool)} other machines are fit, {n} are asked for{why}; "
            "pass more programs, more candidates or other groups"
        )
    return [
        Alternative(f"alternative {k}", semantics, _moved(semantics), distance, gap, nan_share)
        for k, (distance, gap, nan_share, semantics) in enumerate(_spread(fit, n), start=1)
    ]


def _executed(programs: np.ndarray) -> dict[str, float]:
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


def _drawn(
    groups: Sequence[str], executed: dict[str, float], rng: np.random.Generator
) -> list[tuple[float, dict[str, str]]]:
    """Distances and permutations, in the order drawn; none that changes nothing, none that differs from another in
    tokens alone that are never executed."""
    found: dict[tuple[str, ...], tuple[float, dict[str, str]]] = {}
    for _ in range(_DRAWS):
        meanings: dict[str, str] = {}
        for group in groups:
            if rng.random() < 0.5:
                chosen = rng.permutation(len(group))[: rng.integers(2, len(group) + 1)]
                meanings |= {group[a]: group[b] for a, b in zip(chosen, rng.permutation(chosen), strict=True)}
        effective = sorted(token for token, meaning in meanings.items() if token != meaning and token in executed)
        if effective:
            key = tuple(token + meanings[token] for token in effective)
            found.setdefault(key, (sum(executed[token] for token in effective), meanings))
    return list(found.values())


def _stratified(drawn: list[tuple[float, dict[str, str]]], n: int) -> list[tuple[float, dict[str, str]]]:
    """The same in another order: the first of each of `n` equal ranges of distance, then the second of each, ..."""
    farthest = max((distance for distance, _ in drawn), default=1)
    before: Counter[int] = Counter()
    order = []
    for at, (distance, _) in enumerate(drawn):
        stratum = min(int(n * distance / farthest), n - 1)
        order.append((before[stratum], stratum, at))
        before[stratum] += 1
    return [drawn[at] for _, _, at in sorted(order)]


_Fit = tuple[float, float, float, vm.Semantics]  # distance, entropy gap, NAN share


def _spread(fit: list[_Fit], n: int) -> list[_Fit]:
    """`n` of them, nearest first: those closest to 1/n, 2/n, ..., 1 of the farthest."""
    left = list(fit)
    farthest = max(one[0] for one in left)
    chosen = []
    for k in range(n, 0, -1):
        target = farthest * k / n
        chosen.append(min(left, key=lambda one: (abs(one[0] - target), one[1])))
        left.remove(chosen[-1])
    return sorted(chosen, key=lambda one: one[:3])


def _moved(semantics: vm.Semantics) -> tuple[str, ...]:
    return tuple(f"{token} means {semantics[token].token}" for token in vm.VOCAB if token in semantics.meanings)


def _measured(
    sample: Sample, variables: Sequence[str], semantics: vm.Semantics | None
) -> tuple[np.ndarray, np.ndarray]:
    """(the entropy of each variable's labels in bits, in all and without each group of programs
    [variables, 1 + GROUPS]; where NAN lies on top of the stack after a token, bool [n, length])."""
    asked = [int(k) for name in variables for k in re.findall(r"^stack\.(\d+)", name)]
    traces = kernel.traces(sample.programs, semantics, entries=1 + max([1, *asked]))
    inside = np.arange(sample.programs.shape[1]) < sample.lengths[:, None]
    entropies = np.empty((len(variables), 1 + GROUPS))
    size = 2 * labels.MAX_ABS_VALUE + 1
    for row, name in zip(entropies, variables, strict=True):
        read = labels.read(traces, name)
        values = read.values[:, 1:]
        program, at = np.nonzero(read.defined[:, 1:] & inside & (abs(values) <= labels.MAX_ABS_VALUE))
        codes = sample.groups[program] * size + values[program, at] + labels.MAX_ABS_VALUE
        counts = np.bincount(codes, minlength=GROUPS * size).reshape(GROUPS, size)
        counts = np.concatenate([counts.sum(0, keepdims=True), counts.sum(0) - counts])
        row[:] = entr(counts / counts.sum(1, keepdims=True).clip(1)).sum(1) / np.log(2)
    return entropies, (traces.stack.kind[:, :, 0] == kernel.NAN_KIND) & inside
