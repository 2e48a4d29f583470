"""Whether the compiled machine agrees with the plain one: the comparison, and a command that runs it on many programs.

    python -m tests.agreement                   # a million programs, two processes
    python -m tests.agreement 20000 --seed 7 --states 1 --processes 1

compares verdicts and final outputs (of a share of the programs every state: stack with tags and contents, registers,
fuel, and when each register is read next) between `cadmus.machine.vm` and `cadmus.machine.kernel`, and every label that
`cadmus.states.variables` gives of these states, prints how many agreed, and exits 1 with the first that did not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn

from cadmus.machine import kernel, tokens, vm
from tests import programs, state_labels

BATCH = 250  # programs compared at once
CHUNK = 2_000  # programs that a process draws and compares before it reports
SAMPLE = 20  # one program in so many has every state compared, unless --states says otherwise


# --- what the plain machine says, as arrays --------------------------------------------------------------------------


def last_state(text: str, semantics: vm.Semantics | None = None) -> vm.State:
    """The state at the end of a program, without those on the way."""
    machine = vm.Machine(text, semantics)
    for position in machine.positions:
        machine.advance(position)
    return machine.state


def all_states(text: str, width: int, semantics: vm.Semantics | None = None) -> list[vm.State]:
    """The states after each of `width` tokens: those of the text, then the last of them as long as padding goes on."""
    result = vm.run(text, semantics)
    last = result.states[-1] if result.states else vm.State()
    return [*result.states, *[last] * (width - len(result.states))]


def _row(value: vm.Value) -> tuple[int, int, int, int]:
    if isinstance(value, vm.Int):
        return kernel.INT_KIND, value.v, value.tag, 0
    if isinstance(value, vm.Seq):
        return kernel.SEQ_KIND, 0, 0, len(value)
    return kernel.NAN_KIND, 0, 0, 0


def _rows(values: list[vm.Value]) -> np.ndarray:
    """int64 [n, 4]: kind, value, tag, length."""
    distinct = {id(value): value for value in values}  # states share their values
    row_of = {key: _row(value) for key, value in distinct.items()}
    return np.array([row_of[id(value)] for value in values], np.int64).reshape(-1, 4)


def _elements(values: list[vm.Value]) -> np.ndarray:
    """int64 [elements of all Seqs, 2]: value, tag."""
    distinct = {id(value): value for value in values if isinstance(value, vm.Seq)}
    elements_of = {key: [(item.v, item.tag) for item in value] for key, value in distinct.items()}
    return np.array([pair for value in values for pair in elements_of.get(id(value), ())], np.int64).reshape(-1, 2)


# --- what the compiled machine says, in the same form ----------------------------------------------------------------


def _kernel_rows(values: kernel.Values, where: np.ndarray) -> np.ndarray:
    return np.stack([a[where] for a in (values.kind, values.value, values.tag, values.length)], 1).astype(np.int64)


def _kernel_elements(values: kernel.Values, where: np.ndarray) -> np.ndarray:
    lengths = values.length[where].astype(np.int64)
    before = np.cumsum(lengths) - lengths
    index = np.repeat(values.offsets[where] - before, lengths) + np.arange(lengths.sum())
    return np.stack([values.elements[index], values.element_tags[index]], 1).astype(np.int64)


# --- the comparison --------------------------------------------------------------------------------------------------


def disagreement(
    texts: Sequence[str],
    semantics: vm.Semantics | None = None,
    *,
    states: bool = True,
    kernel_semantics: vm.Semantics | None = None,
) -> str | None:
    """Where the two machines first differ on `texts`, described; None where they agree on all of them.

    Compared are `kernel.verdicts`, and for every state (without `states`: the last) depth, fuel, all_true, every stack
    entry and register with kind, value, tag, length and contents, and the labels of these states (of every state also
    the registers' `live` and `read_distance`). Another `kernel_semantics` plants a difference.
    """
    kernel_semantics = semantics if kernel_semantics is None else kernel_semantics
    ordered = sorted(texts, key=len)  # so that there is little padding in a batch
    for i in range(0, len(ordered), BATCH):
        batch = ordered[i : i + BATCH]
        if _differ(batch, semantics, kernel_semantics, states):
            for text in batch:
                if _differ([text], semantics, kernel_semantics, states):
                    return _describe(text, semantics, kernel_semantics)
            raise AssertionError(f"programs differ together but none alone: {batch}")
    return None


def _differ(
    texts: Sequence[str], semantics: vm.Semantics | None, kernel_semantics: vm.Semantics | None, states: bool
) -> bool:
    array = tokens.encode(texts, max(map(len, texts)) + 1)
    if states:
        expected = [state for text in texts for state in all_states(text, array.shape[1], semantics)]
    else:
        expected = [last_state(text, semantics) for text in texts]
    entries = max(len(state.stack) for state in expected)
    traces = kernel.traces(array, kernel_semantics, entries=entries, contents=True, threads=1)
    if states_differ(expected, traces, states) or state_labels.state_labels_differ(expected, traces, states):
        return True
    if states and state_labels.reads_differ(texts, traces, semantics):
        return True
    last = expected[array.shape[1] - 1 :: array.shape[1]] if states else expected
    true = [vm.all_true(state.stack) for state in last]
    return not np.array_equal(true, kernel.verdicts(array, kernel_semantics, threads=1))


def states_differ(expected: list[vm.State], traces: kernel.Traces, states: bool) -> bool:
    """Whether `traces` (of all stack entries, with contents) differ from the states of every program, one after the
    other: those after each token, or (without `states`) the last alone."""
    n, width, entries = traces.stack.kind.shape
    from_position = 0 if states else width - 1
    depth = np.array([len(state.stack) for state in expected])
    true = np.array([vm.all_true(state.stack) for state in expected])
    plain = (
        (depth, traces.depth),
        (np.array([state.fuel for state in expected]), traces.fuel),
        (true, traces.all_true),
    )
    if any(not np.array_equal(mine, theirs[:, from_position:].ravel()) for mine, theirs in plain):
        return True
    stack, registers = (values[:, from_position:] for values in (traces.stack, traces.registers))
    used = np.arange(entries) < depth.reshape(n, -1)[:, :, None]
    unused = _kernel_rows(stack, ~used)
    if unused.any():  # kind "none" is 0, and so is every field
        return True
    on_stack = [value for state in expected for value in reversed(state.stack)]
    registers_of = {id(state): list(state.registers.values()) for state in expected}
    in_registers = [value for state in expected for value in registers_of[id(state)]]
    everywhere = np.ones(registers.kind.shape, np.bool_)
    return not (
        np.array_equal(_rows(on_stack), _kernel_rows(stack, used))
        and np.array_equal(_elements(on_stack), _kernel_elements(stack, used))
        and np.array_equal(_rows(in_registers), _kernel_rows(registers, everywhere))
        and np.array_equal(_elements(in_registers), _kernel_elements(registers, everywhere))
    )


def _describe(text: str, semantics: vm.Semantics | None, kernel_semantics: vm.Semantics | None) -> str:
    array = tokens.encode([text], len(text) + 1)
    states = all_states(text, array.shape[1], semantics)
    entries = max(len(state.stack) for state in states)
    traces = kernel.traces(array, kernel_semantics, entries=entries + 1, contents=True, threads=1)
    lines = [f"the machines differ on {text!r} under {semantics}"]
    for position, state in enumerate(states):
        try:
            kernel_state_or_error: vm.State | str = kernel_state(traces, 0, position)
        except ValueError as error:  # a value that no machine could hold
            kernel_state_or_error = f"no state at all: {error}"
        if state != kernel_state_or_error:
            what = "padding" if position == len(text) else repr(text[position])
            lines += [f"after token {position} ({what}):", f"  vm      {state}", f"  kernel  {kernel_state_or_error}"]
            break
    verdict = bool(kernel.verdicts(array, kernel_semantics, threads=1)[0])
    lines.append(f"verdicts: vm {vm.verdict(text, semantics)}, kernel {verdict}")
    return "\n".join(lines)


def kernel_state(traces: kernel.Traces, row: int, position: int) -> vm.State:
    """One state of a trace with contents, as `cadmus.machine.vm` has it; entries that were not traced are left out."""
    entries = min(int(traces.depth[row, position]), traces.stack.kind.shape[2])
    stack = [traces.stack.at(row, position, entry) for entry in reversed(range(entries))]
    registers = [traces.registers.at(row, position, k) for k in range(len(vm.REGISTERS))]
    return vm.State(tuple(stack), vm.Registers(*registers), int(traces.fuel[row, position]))


# --- the command -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A chunk of programs to draw and compare."""

    seed: int
    """Fixes the programs."""
    size: int
    """How many programs."""
    every: int
    """One program in so many is compared state by state; 0: none."""
    kernel_semantics: vm.Semantics | None
    """Another machine for the kernel, to plant a difference."""


@dataclass(frozen=True)
class Report:
    """The outcome of a `Job`."""

    compared: int
    """How many programs were compared."""
    with_states: int
    """How many of them state by state."""
    true: int
    """How many of them are true-programs."""
    disagreement: str | None
    """The first difference, described; None where the machines agree."""


def work(job: Job) -> Report:
    """Draw the programs of `job` and compare them, in this process alone."""
    texts = programs.stream(job.seed, job.size)
    with_states = texts[:: job.every] if job.every else []
    others = [text for i, text in enumerate(texts) if not (job.every and i % job.every == 0)]
    message = None
    for part, states in ((with_states, True), (others, False)):
        message = message or disagreement(part, states=states, kernel_semantics=job.kernel_semantics)
    true = 0 if message else int(kernel.verdicts(tokens.encode(texts), threads=1).sum())
    return Report(len(texts), len(with_states), true, message)


def _reports(jobs: list[Job], processes: int) -> Iterator[Report]:
    if processes == 1:
        yield from map(work, jobs)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting = iter(jobs)  # few at a time, so that a disagreement ends it soon
        running = [pool.submit(work, job) for job in islice(waiting, 2 * processes)]
        try:
            while running:
                yield running.pop(0).result()
                running += [pool.submit(work, job) for job in islice(waiting, 1)]
        finally:
            for future in running:
                future.cancel()


class _Rate(ProgressColumn):
    def render(self, task: Task) -> str:
        return f"{task.finished_speed or task.speed or 0:,.0f}/s"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.agreement", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("programs", nargs="?", type=int, default=1_000_000, help="how many programs (a million)")
    parser.add_argument("--seed", type=int, default=0, help="fixes every program (0)")
    parser.add_argument("--states", type=int, default=SAMPLE, help="compare all states of one in so many (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="processes, started with spawn (%(default)s)")
    parser.add_argument("--plant", action="store_true", help="exchange + and - in the kernel: the command must fail")
    options = parser.parse_args(arguments)
    if options.programs < 1 or options.processes < 1 or options.states < 0:
        parser.error("programs and --processes must be 1 or more, --states 0 or more")

    kernel_semantics = vm.Semantics({"+": "-", "-": "+"}) if options.plant else None
    sizes = [min(CHUNK, options.programs - at) for at in range(0, options.programs, CHUNK)]
    jobs = [Job(options.seed * 10_000_000 + k, size, options.states, kernel_semantics) for k, size in enumerate(sizes)]
    n_compared = n_with_states = n_true = 0
    columns = (TextColumn("programs"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("programs", total=options.programs)
        for report in _reports(jobs, options.processes):
            if report.disagreement:
                progress.stop()
                print(report.disagreement)
                return 1
            n_compared += report.compared
            n_with_states += report.with_states
            n_true += report.true
            progress.update(task, completed=n_compared)
    print(
        f"{n_compared:,} of {options.programs:,} programs agreed (seed {options.seed}): "
        f"verdict, outputs and their labels of all, every state of {n_with_states:,}; {n_true:,} are true-programs"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
