"""The arms of every cell and its controls: what a model writes when a cell is patched, and what that is worth.

The conditions of a cell are the interchange (the source's activation), three controls on the same pairs (a source of a
third value, one of the same value, a random vector as far away as the source's activation), and the untrained twin
under the same interchange.

What need not be computed is not:
- the controls run side by side, so that bases are read once for all of them, and each source once;
- where two roles lie at one position, they are patched once;
- pairs that do not count are not patched, but for the twin;
- texts are written through their first answer; only where that answer is true after the edit and false before it does
  the rest matter (an answer that is false stays on the stack), and only there is it written: success is decided at
  the first answer, and a completion whose first answer is true of both states is none, whatever it asserts behind it;
- an answer that is longer than any of the pairs' answers by more than `MARGIN` tokens counts as none;
- a pair without a source for a control is not run under it: it has no part in that control's figures
  (`Laboratory.has_source`, by control bool [pairs]);
- controls run where the interchange succeeds in more than 5 % of the discriminating pairs of a stratum. Elsewhere
  success minus the best control can be no more than that, so nothing is used there, and taking the controls as never
  successful only makes it harder to call a cell unused.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cadmus.machine import oracle, tokens, vm
from cadmus.runtime.progress import Progress, no_progress
from probes.interventions.counterfactuals.judging import ENDS, through_answer, with_end
from probes.interventions.counterfactuals.pairs import STRATA, Pairs
from probes.interventions.editing import changes, engine
from probes.interventions.editing.edits import Edit
from probes.interventions.effects.outcomes import THRESHOLD, UNTRAINED
from probes.interventions.experiment.arms import Sources
from probes.interventions.experiment.cells import Place

INTERCHANGE = "interchange"
CONTROLS = {"third_value": "third_value", "same_value": "same_value", "random": "source"}  # and whose activations
MARGIN = 2  # tokens that an answer may be longer than the longest of the pairs
OWN_TOKENS = 32  # that a model may write behind a prompt until its `.`
_ROWS = 128  # pairs that are patched at once: memory does not grow with their number
_FIRST_TOKENS = "0123456789<>="


@dataclass(eq=False)
class Measured:
    """What happened under every condition; arrays are [layers, places, pairs]."""

    counts: np.ndarray
    """bool [places, pairs]."""
    success: dict[str, np.ndarray] = field(default_factory=dict)
    """By condition, bool."""
    canonical: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """bool: success with the answer of the family's rule."""
    moved: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """float: probability moved onto first tokens that begin a true answer only after the edit."""
    changed: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """bool: the interchange changed the answer."""
    damage: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """bool: the same-value source made the answer false."""
    moves_on: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """bool: the interchange's answer is the edited state's, and the model goes on to assert something else."""
    stays: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """bool: and all that it goes on to assert is true in the edited state too."""
    has_controls: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """bool [layers, places]: whether the controls were run."""
    profile: list[dict[str, Any]] = field(default_factory=list)
    """What was computed: `condition`, `stage`, `texts` (pairs times arms), `seconds` (of conditions that ran side by
    side each one's share by its texts)."""


@dataclass(eq=False)
class _Judged:
    """What a condition made of every cell; arrays are [layers, places, pairs]."""

    answers: np.ndarray
    """Programs through the answer; the model's own where the condition was not run or changed nothing."""
    success: np.ndarray
    """bool."""
    canonical: np.ndarray
    """bool: success with the answer of the family's rule."""
    moves_on: np.ndarray
    """bool, as `Measured.moves_on`."""
    stays: np.ndarray
    """bool, as `Measured.stays`."""

    @classmethod
    def of(cls, answers: np.ndarray, shape: tuple[int, ...]) -> _Judged:
        """Nothing yet; answers [pairs]: the model's own."""
        return cls(np.broadcast_to(answers, shape).copy(), *(np.zeros(shape, bool) for _ in range(4)))


def own_completions(model: Any, prompts: list[str]) -> engine.Written:
    """What a model writes behind prompts by itself, with one arm: `OWN_TOKENS` at most."""
    prompts = tokens.text_list(prompts, "prompts")
    return engine.write(model, prompts, [[]], min(OWN_TOKENS, _room(model, prompts)))


def _room(model: Any, prompts: list[str]) -> int:
    """How many tokens the model can write behind the longest of the prompts."""
    return model.cfg.n_ctx - 1 - max(map(len, prompts))


class Laboratory:
    """The pairs of an experiment, with what the model says of them by itself."""

    def __init__(self, model: Any, twin: Any, pairs: Pairs, places: list[Place], layers: list[int], seed: int) -> None:
        self.model, self.twin = model, twin
        self.pairs, self.places, self.layers, self.seed = pairs, places, layers, seed
        self.bases: list[str] = pairs.pairs["base"].tolist()
        columns = ("base_answer", "edited_answer", "source_answer", "third_answer")
        longest = max(int(pairs.pairs[name].str.len().max()) for name in columns)
        room = _room(model, self.bases)
        self.answer_tokens = min(longest + MARGIN, room)
        written = own_completions(model, self.bases)
        self.own: list[str] = written.texts[0]
        self.probabilities = written.logits[0].softmax(-1).cpu().numpy()  # [pairs, d_vocab]
        ended = [len(text) - cut for text, cut in zip(self.own, pairs.cuts) if text.endswith(vm.END)]
        self.rest_tokens = min(max([self.answer_tokens, *ended]) + MARGIN, room)
        self.counts = np.stack([place.counting(self.own) for place in places])  # [places, pairs]
        self.own_answers = [through_answer(text, cut) for text, cut in zip(self.own, pairs.cuts.tolist())]
        self.has_source = {name: (pairs.pairs[source] != "").to_numpy(np.bool_) for name, source in CONTROLS.items()}

    def measure(self, everywhere: bool = False, progress: Progress = no_progress) -> Measured:
        """Run all conditions; `everywhere`: controls too, whatever the interchange does."""
        out = Measured(self.counts)
        shape = len(self.layers), *self.counts.shape
        needed = np.broadcast_to(self.counts, shape)
        progress("interchange", 0.0, "")
        self._interchange(out, needed)
        out.has_controls = np.ones(shape[:2], bool) if everywhere else self._moving(out)
        progress("controls", 0.0, "")
        controls = self.counts & out.has_controls[:, :, None]  # [layers, places, pairs]
        needed_by_name = {name: controls & self.has_source[name] for name in CONTROLS}
        judged = self._run(out, needed_by_name)
        out.damage = self._damaged(judged["same_value"].answers, needed_by_name["same_value"])
        if self.twin is not None:
            progress("controls", 0.75, UNTRAINED)
            present = np.stack([place.present for place in self.places])
            judged |= self._run(out, {UNTRAINED: present & out.has_controls[:, :, None]})
        out.success |= {name: of_name.success for name, of_name in judged.items()}
        progress("controls", 1.0, "")
        return out

    def _interchange(self, out: Measured, needed: np.ndarray) -> None:
        """The interchange, and all that is read off it."""
        only_after = np.stack([self._only_after(place) for place in self.places])  # [places, pairs, d_vocab]
        out.moved = np.zeros(needed.shape, np.float32)
        judged = self._run(out, {INTERCHANGE: needed}, only_after)[INTERCHANGE]
        out.success[INTERCHANGE], out.canonical = judged.success, judged.canonical
        out.moves_on, out.stays = judged.moves_on, judged.stays
        out.changed = needed & (judged.answers != np.array(self.own_answers, object))

    def _moving(self, out: Measured) -> np.ndarray:
        """bool [layers, places]: where the interchange succeeds in more than 5 % of some stratum's pairs."""
        moving = np.zeros(out.success[INTERCHANGE].shape[:2], bool)
        table = self.pairs.pairs
        for stratum in STRATA:
            rows = self.counts & ((table["kind"] == "discriminating") & (table["stratum"] == stratum)).to_numpy()
            share = (out.success[INTERCHANGE] & rows).sum(-1) / np.maximum(rows.sum(-1), 1)
            moving |= share > THRESHOLD
        return moving

    # --- what is written ---------------------------------------------------------------------------------------------

    def _run(
        self, out: Measured, needed: dict[str, np.ndarray], only_after: np.ndarray | None = None
    ) -> dict[str, _Judged]:
        """Run conditions of one model side by side where they are needed, by name bool [layers, places, pairs].

        only_after float [places, pairs, d_vocab]: the first tokens whose gain in probability `out.moved` takes.
        """
        model = self.twin if UNTRAINED in needed else self.model
        own = np.array(self.own_answers, object)
        judged = {name: _Judged.of(own, where.shape) for name, where in needed.items()}
        every = np.flatnonzero(np.any([where.any((0, 1)) for where in needed.values()], 0))
        for rows in np.split(every, range(_ROWS, len(every), _ROWS)):
            if not len(rows):
                continue
            here = {name: where[..., rows] for name, where in needed.items()}
            is_used = np.any([where.any((1, 2)) for where in here.values()], 0)
            sources = Sources(model, self.pairs, self.places, rows, self.layers, is_used, self.seed)
            answers = self._write(out, sources, here, self.answer_tokens, ENDS, only_after)
            candidates = {name: self._candidates(texts, here[name], rows) for name, texts in answers.items()}
            wholes = self._write(out, sources, candidates, self.rest_tokens, "")
            for name, of_name in judged.items():
                of_name.answers[..., rows] = answers[name]
                self._judge(of_name, wholes[name], candidates[name], rows)
        return judged

    def _write(
        self,
        out: Measured,
        sources: Sources,
        needed: dict[str, np.ndarray],
        new: int,
        stop_at: str,
        only_after: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """What is written in some rows under conditions where they are needed, by name bool [layers, places, rows]:
        texts [layers, places, rows], elsewhere the own answers."""
        begin = time.perf_counter()
        rows = sources.rows
        own = np.array(self.own_answers, object)[rows]
        texts = {name: np.broadcast_to(own, where.shape).copy() for name, where in needed.items()}
        n_texts = dict.fromkeys(needed, 0)
        arms = [
            (name, *arm)
            for name, where in needed.items()
            for arm in sources.arms(where, CONTROLS.get(name, "source"), name == "random")
        ]
        cuts = self.pairs.cuts[rows].tolist()
        prompts = [self.bases[row] for row in rows]
        edits = [edit for *_, edit in arms]
        # what the model writes by itself is known; what its twin does is not
        is_known = sources.model is self.model
        written = engine.write(sources.model, prompts, edits, new, stop_at=stop_at, only_changed=is_known)
        for (name, layer, owners, _), of_arm, logits, changed in zip(
            arms, written.texts, written.logits, written.changed
        ):
            n_texts[name] += int(owners.any(0).sum())
            gain = logits.softmax(-1).cpu().numpy() - self.probabilities[rows]  # [rows, d_vocab]
            if stop_at:
                of_arm = [through_answer(text, cut) for text, cut in zip(of_arm, cuts)]
            array = np.array(of_arm, object)
            for place, has in enumerate(owners):
                is_new = has & changed if is_known else has
                texts[name][layer, place, is_new] = array[is_new]
                if only_after is not None:
                    out.moved[layer, place, rows[has]] = (gain[has] * only_after[place, rows[has]]).sum(1)
        seconds = (time.perf_counter() - begin) / max(1, sum(n_texts.values()))
        stage = "answers" if stop_at else "rests"
        out.profile += [
            {"condition": name, "stage": stage, "texts": n, "seconds": n * seconds} for name, n in n_texts.items()
        ]
        return texts

    # --- what it is worth --------------------------------------------------------------------------------------------

    def _candidates(self, answers: np.ndarray, needed: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Which answers [layers, places, rows] are true after the edit and false before it, of those needed: bool."""
        candidates = np.zeros(needed.shape, bool)
        for layer, place, index in _cells(needed):
            texts = [with_end(text) for text in answers[layer, place, index]]
            original, edited = self.places[place].truths(rows[index], texts)
            candidates[layer, place, index] = edited & ~original
        return candidates

    def _judge(self, judged: _Judged, wholes: np.ndarray, candidates: np.ndarray, rows: np.ndarray) -> None:
        """Note in the pairs `rows` which candidates, bool [layers, places, rows], succeed with their whole completions,
        and whether what the model goes on to say is true."""
        for layer, place, index in _cells(candidates):
            texts: list[str] = wholes[layer, place, index].tolist()
            table = self.places[place].judge(rows[index], texts)
            cuts = self.pairs.cuts[rows[index]]
            goes_on = np.array([with_end(through_answer(text, cut)) != text for text, cut in zip(texts, cuts)])
            success = table["success"].to_numpy()
            here = layer, place, rows[index]
            judged.success[here] = success
            judged.canonical[here] = success & table["canonical"].to_numpy()
            judged.moves_on[here] = goes_on
            judged.stays[here] = goes_on & table["true_edited"].to_numpy() & table["has_form"].to_numpy()

    def _damaged(self, answers: np.ndarray, needed: np.ndarray) -> np.ndarray:
        """bool: the answer is not true for the original state."""
        damaged = np.zeros(needed.shape, bool)
        for layer, place, rows in _cells(needed):
            original, _ = self.places[place].truths(rows, [with_end(text) for text in answers[layer, place, rows]])
            damaged[layer, place, rows] = ~original
        return damaged

    def _only_after(self, place: Place) -> np.ndarray:
        """First tokens of answers of at most three tokens (t, `t=`, `t~=`) that are true after the edit and not before:
        float32 [pairs, d_vocab]."""
        after = np.zeros((len(self.pairs), len(vm.VOCAB)), np.float32)
        rows = np.flatnonzero(place.present)
        for ending in ("", "=", "~="):
            for token in _FIRST_TOKENS if not ending else _FIRST_TOKENS[:10]:
                original, edited = place.truths(rows, [self.bases[row] + token + ending + vm.END for row in rows])
                column = vm.VOCAB.index(token)
                after[rows, column] = np.where(original, -np.inf, np.maximum(after[rows, column], edited))
        return np.maximum(after, 0)


def _cells(needed: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """(layer, place, rows int64) of needed bool [layers, places, pairs], where there are rows."""
    for layer, place in np.argwhere(needed.any(-1)).tolist():
        yield layer, place, np.flatnonzero(needed[layer, place])


def positive_control(lab: Laboratory, makers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The input tokens patched in place of activations: (success, possible), bool [pairs] both.

    makers: bool [pairs, tokens]: the tokens of each base that make its value. `hook_embed` gets the source's there,
    which is the same as reading the program with these tokens; success is a completion that has its family's form, is
    true in that program and false in the base's. Not possible where that program's answer may be the base's.
    """
    table = lab.pairs.pairs
    success, possible = (np.zeros(len(table), bool) for _ in range(2))
    base, source = lab.pairs.sequences("base"), lab.pairs.sequences("source")
    width = min(makers.shape[1] + 1, base.shape[1])
    where = np.zeros(base.shape, bool)
    where[:, 1:width] = makers[:, : width - 1]
    where &= (base != source) & (table["shift"] == 0).to_numpy()[:, None]
    rows = np.flatnonzero(where.any(1))
    if not len(rows):
        return success, possible
    positions = np.full((len(rows), int(where.sum(1).max())), -1)
    for number, row in enumerate(rows.tolist()):
        here = np.flatnonzero(where[row])
        positions[number, : len(here)] = here
    sources = engine.activations(lab.model, source[rows], ["hook_embed"])["hook_embed"]
    edit = Edit("hook_embed", positions, changes.patch(engine.at_positions(sources, positions)))
    bases = [lab.bases[row] for row in rows]
    texts = engine.write(lab.model, bases, [edit], lab.rest_tokens).texts[0]
    hybrids = tokens.decode(np.where(where, source, base)[rows, 1:])
    rests = [text[len(own) :] for text, own in zip(texts, bases)]
    cuts = lab.pairs.cuts[rows]
    programs = [hybrid[:cut] + rest for hybrid, cut, rest in zip(hybrids, cuts.tolist(), rests)]
    answers = [hybrid[:cut] + own[cut:] for hybrid, cut, own in zip(hybrids, cuts.tolist(), np.array(lab.own)[rows])]
    form = [lab.pairs.family(name).accepts(text) for name, text in zip(table["family"].to_numpy()[rows], programs)]
    true_there = oracle.continuation_verdicts(tokens.encode(programs), cuts)
    true_here = oracle.continuation_verdicts(tokens.encode(texts), cuts)
    possible[rows] = ~oracle.continuation_verdicts(tokens.encode(answers), cuts)
    success[rows] = form & true_there & ~true_here
    return success & possible, possible


def profile_table(measured: Measured) -> pd.DataFrame:
    """What was computed, a row per condition and stage."""
    return pd.DataFrame(measured.profile, columns=["condition", "stage", "texts", "seconds"])
