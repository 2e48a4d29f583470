"""Whether the compiled oracle agrees with `vm.resume`: random edits of random programs, and a command that runs many.

    python -m tests.oracle_agreement                   # a million edits, two processes
    python -m tests.oracle_agreement 20000 --seed 7 --processes 1
    python -m tests.oracle_agreement 1000000 --each 1  # of a million programs

Every program is edited `EDITS` times, at random tokens, in one or more places, and resumed; and run once more with its
prefix frozen at a random cut (`--each` tries that many of these at random). Compared are verdicts, the last state of
all, and of a share of the edits every state. What the plain machine says is computed here from `vm` alone. Exits 1 with
the first edit on which they differ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from random import Random

import numpy as np

from cadmus.machine import oracle, tokens, vm
from tests import agreement, programs

EDITS = 5  # edits of one program
CHUNK = 400  # programs that a process draws and compares before it reports
BATCH = 250  # edits compared at once
SAMPLE = 20  # one edit in so many has every state compared


@dataclass(frozen=True)
class Case:
    """One edit, and what the plain machine makes of it."""

    text: str
    """The program."""
    at: int
    """The token after which the state is edited."""
    edits: dict[str, vm.Value]
    """The edits."""
    state: vm.State
    """The edited state after token `at`."""
    cut: int = -1
    """Where the prefix is frozen; -1: nowhere."""

    def verdict(self) -> bool:
        """What the plain machine says."""
        return vm.all_true(self.last().stack)

    def last(self) -> vm.State:
        """The last state by the plain machine."""
        if self.cut < 0:
            return _go_on(self.text, self.at, self.state)
        frozen = _go_on(self.text[: self.cut], self.at, self.state)
        return _go_on(self.text, self.cut - 1, frozen)

    def states(self) -> list[vm.State]:
        """Every state by the plain machine (where nothing is frozen)."""
        return list(vm.resume(self.text, self.at, self.state).states)


def _go_on(text: str, at: int, state: vm.State) -> vm.State:
    """The last state of `vm.resume`, without those before it."""
    machine = vm.Machine(text)
    machine.restore(state)
    for position in machine.positions:
        if position > at:
            machine.advance(position)
    return machine.state


# --- random edits ----------------------------------------------------------------------------------------------------


def random_value(r: Random) -> vm.Value:
    """Any value: small and extreme Ints, tags, sequences, NAN."""
    kind = r.random()
    if kind < 0.08:
        return vm.NAN
    if kind < 0.70:
        v = r.randrange(-9, 10) if r.random() < 0.85 else r.choice((-1, 1)) * r.choice((99, 4096, vm.MAX_INT))
        return vm.Int(v, r.randrange(10) if r.random() < 0.3 else 0)
    length = r.choice((0, 1, 2, 3, 3, 5, vm.MAX_LENGTH))
    return vm.Seq(tuple(vm.Int(r.randrange(-3, 10), r.choice((0, 0, 0, 2))) for _ in range(length)))


def positions(text: str) -> list[int]:
    """The tokens after which a state may be edited: -1, those of the main text, the ends of definitions, the `.`."""
    read = text.partition(vm.END)[0]
    outside, position = [-1], 0
    while position < len(read):
        if read[position] == vm.OPEN:
            close = read.find(vm.CLOSE, position)
            position = len(read) if close < 0 else close
            if close < 0:
                break
        outside.append(position)
        position += 1
    return [*outside, len(read)] if len(read) < len(text) else outside


def draw_edit(r: Random, at: int, state: vm.State) -> tuple[dict[str, vm.Value], vm.State]:
    """One to three edits of places that `state` has, and the state that they make."""
    places = [f"reg.{name}" for name in vm.REGISTERS] + [f"stack.{k}" for k in range(len(state.stack))]
    weights = [1.0] * 4 + [3.0 / (1 + k) for k in range(len(state.stack))]
    edits: dict[str, vm.Value] = {}
    for place in r.choices(places, weights, k=r.choice((1, 1, 2, 3))):
        edits[place] = random_value(r)
        if place.startswith("reg"):
            state = state.with_register(place[-1], edits[place])
        else:
            stack = list(state.stack)
            stack[-1 - int(place[6:])] = edits[place]
            state = state.with_stack(stack)
    return edits, state


def cases(r: Random, text: str, n: int = EDITS + 1) -> list[Case]:
    """`EDITS` random edits of `text`, and one with a frozen prefix; or `n` of these."""
    before = vm.State()
    n_edits = n - (n > EDITS or r.randrange(EDITS + 1) < n)
    states = vm.run(text).states if n_edits else ()
    drawn = []
    for at in r.choices(positions(text), k=n_edits):
        drawn.append(Case(text, at, *draw_edit(r, at, states[at] if at >= 0 else before)))
    if len(drawn) == n:
        return drawn
    cut = r.randrange(len(text.partition(vm.END)[0]) + 1)
    states = vm.run(text[:cut]).states
    at = r.choice(positions(text[:cut]))
    return [*drawn, Case(text, at, *draw_edit(r, at, states[at] if at >= 0 else before), cut)]


# --- the comparison --------------------------------------------------------------------------------------------------


def disagreement(compared: Sequence[Case], every: int = SAMPLE) -> str | None:
    """The first case on which the compiled oracle differs from the plain machine, described; None where none does."""
    resumed = sorted((case for case in compared if case.cut < 0), key=lambda case: len(case.text))
    frozen = [case for case in compared if case.cut >= 0]
    sample = resumed[::every] if every else []
    for part, differ in ((resumed, _last_differ), (sample, _states_differ), (frozen, _frozen_differ)):
        for i in range(0, len(part), BATCH):
            if differ(part[i : i + BATCH]):
                case = next((case for case in part[i : i + BATCH] if differ([case])), None)
                assert case is not None, f"edits differ together but none alone: {part[i : i + BATCH]}"
                return f"the oracle differs on {case.text!r}, after token {case.at}, cut {case.cut}: {case.edits}"
    return None


def _arrays(compared: Sequence[Case]) -> tuple[np.ndarray, np.ndarray, oracle.Edits]:
    texts = [case.text for case in compared]
    array = tokens.encode(texts, max(map(len, texts)) + 1)
    return array, np.array([case.at for case in compared]), oracle.Edits.of([case.edits for case in compared])


def _last_differ(compared: Sequence[Case]) -> bool:
    expected = [case.last() for case in compared]
    entries = max(len(state.stack) for state in expected)
    traces = oracle.traces(*_arrays(compared), entries=entries, contents=True, threads=1)
    true = [vm.all_true(state.stack) for state in expected]
    verdicts = oracle.verdicts(*_arrays(compared), threads=1)
    return agreement.states_differ(expected, traces, states=False) or verdicts.tolist() != true


def _states_differ(compared: Sequence[Case]) -> bool:
    array, at, edits = _arrays(compared)
    expected = []
    for case in compared:
        states = case.states()
        expected += [*states, *[states[-1] if states else case.state] * (array.shape[1] - len(states))]
    entries = max(len(state.stack) for state in expected)
    traces = oracle.traces(array, at, edits, entries=entries, contents=True, threads=1)
    return agreement.states_differ(expected, traces, states=True)


def _frozen_differ(compared: Sequence[Case]) -> bool:
    array, at, edits = _arrays(compared)
    cuts = np.array([case.cut for case in compared])
    verdicts = oracle.continuation_verdicts(array, cuts, at, edits, threads=1)
    return verdicts.tolist() != [case.verdict() for case in compared]


# --- the command -----------------------------------------------------------------------------------------------------


def work(seed: int, n_programs: int, each: int = EDITS + 1) -> tuple[int, int, int, str | None]:
    """(edits compared, how many with a frozen prefix, how many of the others end true, the first difference) of
    `n_programs` programs, `each` edits of each."""
    r = Random(seed)
    compared = [case for text in programs.stream(seed, n_programs) for case in cases(r, text, each)]
    message = disagreement(compared)
    resumed = [case for case in compared if case.cut < 0]
    n_true = int(oracle.verdicts(*_arrays(resumed), threads=1).sum()) if resumed else 0
    return len(compared), len(compared) - len(resumed), n_true, message


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.oracle_agreement", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("edits", nargs="?", type=int, default=1_000_000, help="how many edits (a million)")
    parser.add_argument("--seed", type=int, default=0, help="fixes every program and edit (0)")
    parser.add_argument("--processes", type=int, default=2, help="processes, started with spawn (%(default)s)")
    parser.add_argument("--each", type=int, default=EDITS + 1, help="edits of each program (%(default)s)")
    options = parser.parse_args(arguments)
    if options.edits < 1 or options.processes < 1 or not 1 <= options.each <= EDITS + 1:
        parser.error(f"edits and --processes must be 1 or more, --each 1 to {EDITS + 1}")
    n_programs = -(-options.edits // options.each)
    sizes = [min(CHUNK, n_programs - at) for at in range(0, n_programs, CHUNK)]
    seeds = [options.seed * 10_000_000 + k for k in range(len(sizes))]
    n_compared = n_frozen = n_true = 0
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for n, frozen, true, message in pool.map(work, seeds, sizes, [options.each] * len(sizes)):
            if message:
                print(message)
                pool.shutdown(cancel_futures=True)
                return 1
            n_compared, n_frozen, n_true = n_compared + n, n_frozen + frozen, n_true + true
    print(
        f"{n_compared:,} edits of {n_programs:,} programs agreed (seed {options.seed}): verdict and last state of all, "
        f"every state of one in {SAMPLE}, {n_frozen:,} with a frozen prefix; {n_true:,} of the others end true"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
