"""The compiled oracle against the plain machine: edits, and the sets of true continuations."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np

from benchmarks.machine import integer_programs
from benchmarks.measure import Measurement, benchmark, best_time
from cadmus.machine import oracle, tokens, vm

PLAIN = 2_000  # edits that the plain machine makes
COMPILED = 400_000  # edits that the compiled one makes


def random_edits(programs: np.ndarray) -> tuple[np.ndarray, list[dict[str, int]]]:
    """A token of each program and the edit of one register, or of the stack's top where there is one."""
    rng = np.random.default_rng(1)
    at = rng.integers(0, tokens.lengths(programs))
    depth = oracle.traces(programs, 0, {}, entries=0).depth[np.arange(len(programs)), at]
    values = rng.integers(-20, 21, len(programs)).tolist()
    registers = rng.choice(list(vm.REGISTERS), len(programs))
    on_stack = (depth > 0) & (rng.random(len(programs)) < 0.5)
    places = np.where(on_stack, "stack.0", np.char.add("reg.", registers)).tolist()
    return at, [{place: value} for place, value in zip(places, values, strict=True)]


@benchmark("oracle-edits")
def edits() -> list[Measurement]:
    """Verdicts of edited programs, compiled against `vm.resume` (>= 100 x)."""
    programs = integer_programs(20_000)
    at, mappings = random_edits(programs)
    texts = tokens.decode(programs[:PLAIN])
    states = [vm.run(text).states[i] for text, i in zip(texts, at, strict=False)]  # what the plain side goes on from
    expected = [oracle.edit(*row).is_true for row in zip(texts, at.tolist(), mappings, strict=False)]
    assert oracle.verdicts(programs[:PLAIN], at[:PLAIN], mappings[:PLAIN]).tolist() == expected

    def plain() -> None:
        for text, i, state, mapping in zip(texts, at, states, mappings, strict=False):
            for place, value in mapping.items():
                if place == "stack.0":
                    edited = state.with_stack([*state.stack[:-1], value])
                else:
                    edited = state.with_register(place[-1], value)
            vm.resume(text, int(i), edited)

    repeats = COMPILED // len(programs)
    many, many_at = np.tile(programs, (repeats, 1)), np.tile(at, repeats)
    many_edits = oracle.Edits.of(mappings * repeats)
    peer = PLAIN / best_time(plain)
    rows = []
    for label, threads in (("all cores", None), ("one core", 1)):
        ours = COMPILED / best_time(partial(oracle.verdicts, many, many_at, many_edits, threads=threads))
        note = f"{label}; register and comparison programs, one edit each, ready as arrays; peer: vm.resume"
        passed = ours / peer >= 100 or threads == 1
        goal = "-" if threads else ">= 100 x"
        rows.append(Measurement(f"oracle-edits, {label}", ours, peer, ours / peer, goal, "edits/s", passed, note))
    ours = COMPILED / best_time(lambda: oracle.verdicts(many, many_at, oracle.Edits.of(mappings * repeats)))
    note = "the same from a list of mappings, turned into arrays each time"
    rows.append(Measurement("oracle-edits, mappings", ours, peer, ours / peer, "-", "edits/s", True, note))
    return rows


@benchmark("oracle-true-sets")
def true_sets() -> list[Measurement]:
    """Sets of true continuations (m = 1 of 10,000 prefixes <= 1 s, m = 3 <= 0.5 s, m = 4 <= 10 s), against running each
    in the plain machine."""
    programs = integer_programs(10_000)
    lengths = tokens.lengths(programs) - 1  # all but the comparison
    texts = [text[:length] for text, length in zip(tokens.decode(programs), lengths.tolist(), strict=True)]
    others = vm.VOCAB.replace(vm.END, "")

    def plain(prefix: str, n_tokens: int, most: int) -> float:
        """Seconds a continuation."""
        every = itertools.islice(itertools.product(others, repeat=n_tokens), most)
        rows = [prefix + "".join(row) for row in every]
        return best_time(lambda: [vm.verdict(row) for row in rows]) / len(rows)

    oracle.true_sets(programs[:10], lengths[:10])  # compiled before it is timed
    expected = [token for token in others if vm.verdict(texts[0] + token)]
    assert expected == sorted(oracle.true_set(texts[0]) - {""}, key=vm.VOCAB.index)
    ours = best_time(lambda: oracle.true_sets(programs, lengths))
    peer = sum(plain(text, 1, 64) for text in texts[:20]) / 20 * 64 * len(texts)
    name, note = (
        "true-sets, m = 1",
        "10,000 prefixes that lack their comparison; peer: vm.verdict of each, from 20 of them",
    )
    rows = [Measurement(name, ours, peer, peer / ours, "<= 1 s", "s", ours <= 1, note)]
    for max_tokens, limit in ((3, 0.5), (4, 10.0)):
        for label, edits in (("whole", None), ("frozen", {"stack.0": 7})):
            seconds = best_time(partial(oracle.true_set, texts[0], edits, max_tokens))
            n_true = len(oracle.true_continuations(texts[0], edits, max_tokens))
            peer = plain(texts[0], max_tokens, 2_000) * 64**max_tokens
            note = f"{texts[0]!r}, {n_true:,} true; peer: vm.verdict of each of {64**max_tokens:,}, from 2,000 of them"
            name, goal = f"true-sets, m = {max_tokens}, {label}", f"<= {limit:g} s"
            rows.append(Measurement(name, seconds, peer, peer / seconds, goal, "s", seconds <= limit, note))
    return rows
