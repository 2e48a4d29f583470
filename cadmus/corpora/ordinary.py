"""The ordinary twin of a corpus: the same programs with their truth destroyed, for models to be compared with.

Each answer is exchanged for that of another program which looks the same up to there. So what the look of a text says
of its answer stays (how often `<` follows these operators, how many tokens a number takes, and all of it where the look
determines the answer: `(1,2,3,#3=`), but what its digits make of it no longer tells anything: to run the programs helps
a model that is trained on the twin with nothing but the lengths of answers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from cadmus.corpora.corpus import Corpus, Shard
from cadmus.corpora.membership import program_hashes
from cadmus.corpora.shards import stack_programs
from cadmus.machine import tokens
from cadmus.machine.jit import jit
from cadmus.machine.tokens import PAD
from cadmus.programs import skeletons
from cadmus.programs.families import Equality, Family, Induce, Label, Random
from cadmus.runtime import artifacts
from cadmus.runtime.seeds import generator

_KEPT_AS_THEY_ARE = (Random, Induce)  # what they decide is a program, or an algorithm, to be found
_NEGATED = (Equality, Label)  # an answer is a `!`, or nothing
_RELATION = re.compile("[<>=]")  # which ends every other answer


@dataclass(frozen=True, repr=False)
class OrdinaryCorpus(Corpus):
    """A corpus whose assertions are true by chance only. Those of its programs that are true stand in the original too,
    so that a true-program held out from that is in neither; what is false falls into any split."""

    original: str = field(kw_only=True)
    """The fingerprint of the corpus whose twin this is."""

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.original)

    @property
    def about(self) -> dict[str, str | int]:
        return {**super().about, "ordinary_twin_of": self.original}


def fingerprint(original: str) -> str:
    """The fingerprint of the twin of the corpus that has the fingerprint `original`."""
    return artifacts.fingerprint(["ordinary 1", original])


def twin(corpus: Corpus) -> OrdinaryCorpus:
    """The ordinary twin of `corpus`, in memory, a pure function of it: the answers of each family of each phase are
    exchanged (`exchange_answers`).

    It lacks the programs with an answer that there is none to exchange for. Sets out of distribution stay as they are.
    Where families overlap, a few programs may come twice.
    """
    shards = []
    for phase, index in sorted({(shard.phase, shard.family) for shard in corpus.shards}):
        parts = [shard.programs for shard in corpus.shards if (shard.phase, shard.family) == (phase, index)]
        family = corpus.mixture.parts[phase][1].family(corpus.families[index])
        rng = generator("ordinary", corpus.seed, phase, index)
        programs = exchange_answers(stack_programs(parts), family, rng)
        shards.append(Shard(programs[np.argsort(program_hashes(programs), kind="stable")], index, phase))
    return OrdinaryCorpus(
        corpus.mixture,
        corpus.seed,
        tuple(shards),
        corpus.eligible,
        corpus.out_of_distribution,
        original=corpus.fingerprint,
    )


def exchange_answers(programs: np.ndarray, family: Family, rng: np.random.Generator) -> np.ndarray:
    """Replace each answer of the programs, uint8 [n, width] of `family`, by that of another one: uint8 [m, width], in
    their order, at least as wide as the family's programs may be.

    An answer is what stands between a decision position and the end of its assertion. Answers are exchanged within
    groups: those of one length after texts of one skeleton, in which earlier answers, as they are exchanged as well,
    count by their lengths alone. A group's answers go round in a random circle: each stays as frequent as it was, and
    every program has another's, which is the true one by chance. (A random permutation would leave one program of
    each group, on average, with its own: every second one where groups are of two.) A program with an answer that is
    alone in its group is dropped.

    Of `label` and `equality` an answer is `!` or nothing. Exchanged within one length nothing would change, so length
    does not count there, and the text behind moves by one token; it still fits into the family's width.

    Programs of `random` and `induce`, and those where a definition is to be found, stay as they are. Raises ValueError
    for a program that is not of the family's form.
    """
    if isinstance(family, _KEPT_AS_THEY_ARE) or not len(programs):
        return programs
    answers = _answers(programs, family)
    exchangeable = _have_company(answers, len(programs))
    answers = answers.of(exchangeable)
    programs = np.ascontiguousarray(programs[exchangeable])
    out = np.full((len(programs), max(programs.shape[1], family.width)), PAD, np.uint8)
    _write_exchanged(programs, answers.program, answers.start, answers.end, _circles(answers.group, rng), out)
    return out


@dataclass(frozen=True)
class _Answers:
    """The answers of some programs, in the order of the texts. All int64 [answers]."""

    program: np.ndarray
    """The program that answer i stands in."""

    start: np.ndarray
    """Where it begins there."""

    end: np.ndarray
    """Where it ends: it is `programs[program[i], start[i]:end[i]]`."""

    group: np.ndarray
    """Answers of one group are exchanged."""

    def of(self, mask: np.ndarray) -> _Answers:
        """The answers of the programs in the mask, bool [n], which are numbered anew."""
        mine = mask[self.program]
        number = np.cumsum(mask) - 1
        return _Answers(number[self.program[mine]], self.start[mine], self.end[mine], self.group[mine])


def _answers(programs: np.ndarray, family: Family) -> _Answers:
    """Where the answers of programs uint8 [n, width] are. That, and their groups, are read off one program of each
    skeleton: in the families whose answers are exchanged, no digit changes the form."""
    hashes = skeletons.skeleton_hashes(programs, "ordinary")
    _, first, skeleton_of = np.unique(hashes, return_index=True, return_inverse=True)
    rows, counts = _rows_of_skeletons(programs[first], family)
    n_answers = counts[skeleton_of]  # of each program
    first_row = (np.cumsum(counts) - counts)[skeleton_of]  # of its skeleton
    nth = np.arange(n_answers.sum()) - np.repeat(np.cumsum(n_answers) - n_answers, n_answers)
    start, end, group = rows[np.repeat(first_row, n_answers) + nth].T
    return _Answers(np.repeat(np.arange(len(programs)), n_answers), start, end, group)


def _rows_of_skeletons(programs: np.ndarray, family: Family) -> tuple[np.ndarray, np.ndarray]:
    """The answers of programs with one skeleton each, in their order: int64 [answers, 3] (start, end, group), and how
    many each program has, int64 [n]."""
    groups: dict[str, int] = {}
    rows = []
    counts = np.zeros(len(programs), np.int64)
    forms = tokens.decode(skeletons.skeletons(programs))
    for k, (text, skeleton) in enumerate(zip(tokens.decode(programs), forms, strict=True)):
        group_text, last_end = "", 0  # what stands before an answer, and each answer before it as so many dots
        for start, end in _spans(text, family):
            group_text += skeleton[last_end:start] + "." * (1 if isinstance(family, _NEGATED) else end - start)
            rows.append((start, end, groups.setdefault(group_text, len(groups))))
            counts[k] += 1
            last_end = end
    return np.array(rows, np.int64).reshape(-1, 3), counts


def _spans(text: str, family: Family) -> list[tuple[int, int]]:
    """Where the answers of a text begin and end; none where a definition is to be found."""
    positions = family.decisions(text)
    if isinstance(family, _NEGATED):
        return [(position, position + (text[position : position + 1] == "!")) for position in positions]
    return [(position, _relation_end(text, position)) for position in positions if text[position] != "{"]


def _relation_end(text: str, start: int) -> int:
    """Where the first relation of a text from `start` on ends."""
    relation = _RELATION.search(text, start)
    assert relation is not None, f"{text!r} has an answer without a relation"
    return relation.end()


def _have_company(answers: _Answers, n: int) -> np.ndarray:
    """Which of n programs have no answer that is alone in its group, once those that have are gone: bool [n]."""
    remaining = np.ones(n, np.bool_)
    while True:
        mask = remaining[answers.program]
        sizes = np.bincount(answers.group[mask])
        alone = answers.program[mask][sizes[answers.group[mask]] == 1]
        if not len(alone):
            return remaining
        remaining[alone] = False


def _circles(group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each answer the one that takes its place, int64 [answers]: the next in a random order of its group, the first
    one after the last."""
    order = np.lexsort((rng.random(len(group)), group))
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))  # of the groups, in this order
    ends = np.append(starts[1:], len(group))[: len(starts)]
    successor = np.arange(1, len(group) + 1)
    successor[ends - 1] = starts
    source = np.empty(len(group), np.int64)
    source[order] = order[successor]
    return source


@jit
def _write_exchanged(programs, program, start, end, source, out):
    """Write each program into `out`, with `source[i]` in the place of answer i."""
    i = 0
    for row in range(len(programs)):
        write_at = read_at = 0
        while i < len(program) and program[i] == row:
            while read_at < start[i]:
                out[row, write_at] = programs[row, read_at]
                write_at += 1
                read_at += 1
            other = source[i]
            for k in range(start[other], end[other]):
                out[row, write_at] = programs[program[other], k]
                write_at += 1
            read_at = end[i]
            i += 1
        while read_at < programs.shape[1] and programs[row, read_at] != PAD:
            out[row, write_at] = programs[row, read_at]
            write_at += 1
            read_at += 1
