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
from numba import njit

from cadmus.corpora.corpus import Corpus, Shard
from cadmus.corpora.membership import program_hashes
from cadmus.corpora.shards import stack_programs
from cadmus.machine import tokens
from cadmus.machine.tokens import PAD
from cadmus.programs import skeletons
from cadmus.programs.families import Equality, Family, Induce, Label, Random
from cadmus.runtime import artifacts
from cadmus.runtime.seeds import generator

_KEPT_AS_THEY_ARE = (Random, Induce)  # what they decide is a program, or an algorithm, to be found
_NEGATED = (Equality, Label)  # an answer is a `!`, or nothing
_RELATION = re.compile("[<>=]")  # which ends every other answer


@dataclass(frozen=True)
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
    """The ordinary twin of `corpus`, in memory, a pure function of it: each family of each phase is `scrambled`.

    It lacks the programs with an answer that there is none to exchange for. Sets out of distribution stay as they are.
    Where families overlap, a few programs may come twice.
    """
    shards = []
    for phase, family in sorted({(shard.phase, shard.family) for shard in corpus.shards}):
        parts = [shard.programs for shard in corpus.shards if (shard.phase, shard.family) == (phase, family)]
        known = corpus.mixture.parts[phase][1].family(corpus.families[family])
        programs = scrambled(stack_programs(parts), known, generator("ordinary", corpus.seed, phase, family))
        shards.append(Shard(programs[np.argsort(program_hashes(programs), kind="stable")], family, phase))
    about = (corpus.mixture, corpus.seed, tuple(shards), corpus.eligible, corpus.out_of_distribution)
    return OrdinaryCorpus(*about, original=corpus.fingerprint)


def scrambled(programs: np.ndarray, family: Family, rng: np.random.Generator) -> np.ndarray:
    """The programs uint8 [n, width] of `family`, each answer replaced by that of another one: uint8 [m, width], in
    their order, at least as wide as the family's programs may be.

    An answer is what stands between a decision position and the end of its assertion. Answers are exchanged within
    groups: those of one length after texts of one skeleton, in which earlier answers, as they are exchanged as well,
    count by their lengths alone. A group's answers go round in a random circle: each stays as frequent as it was, and
    every program has another's, which is the true one by chance. (A random permutation would leave one program of
    each group, on average, with its own: every second one where groups are of two.) A program with an answer that is
    alone in its group is dropped.

    Of `label` and `equality` an answer is `!` or nothing. Exchanged within one length nothing would change, so length
    does not count there, and the text behind moves by one token; it still fits into the family's width.

    Programs of `random` and `induce`, and those where a definition is to be found, stay as they are. ValueError for a
    program that is not of the family's form.
    """
    if isinstance(family, _KEPT_AS_THEY_ARE) or not len(programs):
        return programs
    answers = _answers(programs, family)
    kept = _with_company(answers, len(programs))
    answers = answers.of(kept)
    programs = np.ascontiguousarray(programs[kept])
    out = np.full((len(programs), max(programs.shape[1], family.width)), PAD, np.uint8)
    _exchange(programs, answers.program, answers.start, answers.end, _circles(answers.group, rng), out)
    return out


@dataclass(frozen=True)
class _Answers:
    """The answers of some programs, in the order of the texts: answer i is `programs[program[i], start[i]:end[i]]`, and
    those of one group are exchanged. All int64 [answers]."""

    program: np.ndarray
    start: np.ndarray
    end: np.ndarray
    group: np.ndarray

    def of(self, kept: np.ndarray) -> _Answers:
        """Those of the programs that are `kept`, bool [n], numbered anew."""
        mine = kept[self.program]
        number = np.cumsum(kept) - 1
        return _Answers(number[self.program[mine]], self.start[mine], self.end[mine], self.group[mine])


def _answers(programs: np.ndarray, family: Family) -> _Answers:
    """Where the answers of programs uint8 [n, width] are. That, and their groups, are read off one program of each
    skeleton: of what answers are exchanged in, no digit changes the form."""
    hashes = skeletons.skeleton_hashes(programs, "ordinary")
    _, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    groups: dict[str, int] = {}
    rows, counts = [], np.zeros(len(first), np.int64)
    forms = tokens.decode(skeletons.skeletons(programs[first]))
    for k, (text, skeleton) in enumerate(zip(tokens.decode(programs[first]), forms, strict=True)):
        look, read = "", 0
        for start, end in _spans(text, family):
            # one text for a group: what stands before, each answer as so many dots
            look += skeleton[read:start] + "." * (1 if isinstance(family, _NEGATED) else end - start)
            rows.append((start, end, groups.setdefault(look, len(groups))))
            counts[k] += 1
            read = end
    number = counts[which]  # of each program's answers
    before = np.cumsum(counts) - counts  # rows of the skeletons before
    nth = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
    table = np.array(rows, np.int64).reshape(-1, 3)[np.repeat(before[which], number) + nth]
    return _Answers(np.repeat(np.arange(len(programs)), number), *table.T)


def _spans(text: str, family: Family) -> list[tuple[int, int]]:
    """Where the answers of a text begin and end; none where a definition is to be found."""
    cuts = family.decisions(text)
    if isinstance(family, _NEGATED):
        return [(cut, cut + (text[cut : cut + 1] == "!")) for cut in cuts]
    return [(cut, _RELATION.search(text, cut).end()) for cut in cuts if text[cut] != "{"]


def _with_company(answers: _Answers, n: int) -> np.ndarray:
    """Which of n programs have no answer that is alone in its group, once those that have are gone: bool [n]."""
    kept = np.ones(n, np.bool_)
    while True:
        here = kept[answers.program]
        sizes = np.bincount(answers.group[here])
        alone = answers.program[here][sizes[answers.group[here]] == 1]
        if not len(alone):
            return kept
        kept[alone] = False


def _circles(group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each answer the one that takes its place, int64 [answers]: the next in a random order of its group, the first
    one after the last."""
    order = np.lexsort((rng.random(len(group)), group))
    begins = np.flatnonzero(np.diff(group[order], prepend=-1))
    following = np.arange(1, len(group) + 1)
    following[np.append(begins[1:], len(group))[: len(begins)] - 1] = begins
    source = np.empty(len(group), np.int64)
    source[order] = order[following]
    return source


@njit(cache=True, nogil=True)
def _exchange(programs, program, start, end, source, out):
    """Write each program into `out`, with `source[i]` in the place of answer i."""
    i = 0
    for row in range(len(programs)):
        at = read = 0
        while i < len(program) and program[i] == row:
            while read < start[i]:
                out[row, at] = programs[row, read]
                at += 1
                read += 1
            other = source[i]
            for k in range(start[other], end[other]):
                out[row, at] = programs[program[other], k]
                at += 1
            read = end[i]
            i += 1
        while read < programs.shape[1] and programs[row, read] != PAD:
            out[row, at] = programs[row, read]
            at += 1
            read += 1
