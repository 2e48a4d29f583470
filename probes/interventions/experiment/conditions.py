"""The arms of every cell and its controls: what a model writes when a cell is patched, and what that is worth.

The conditions of a cell are the interchange (the source's activation), three controls on the same pairs (a source of a
third value, one of the same value, a random vector as far away as the source's activation), and the untrained twin
under the same interchange.

What need not be computed is not:
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
import torch
from torch import Tensor

from cadmus.machine import oracle, tokens, vm
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.seeds import generator
from probes.interventions.counterfactuals.judging import ENDS, through_answer, with_end
from probes.interventions.counterfactuals.pairs import STRATA, Pairs
from probes.interventions.editing import changes, engine
from probes.interventions.editing.edits import Edit
from probes.interventions.editing.locations import stream_site
from probes.interventions.effects.effects import THRESHOLD, UNTRAINED
from probes.interventions.experiment.cells import Place

INTERCHANGE = "interchange"
CONTROLS = {"third_value": "third_value", "same_value": "same_value", "random": "source"}  # and whose activations
MARGIN = 2  # tokens that an answer may be longer than the longest of the pairs
OWN_TOKENS = 32  # that a model may write behind a prompt until its `.`
_ROWS = 256  # pairs that are patched at once: memory does not grow with their number
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
    """What was computed: `condition`, `stage`, `texts` (pairs times arms), `seconds`."""


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
        stages = [*CONTROLS, *([UNTRAINED] if self.twin is not None else [])]
        for number, name in enumerate(stages):
            progress("controls", number / len(stages), name)
            rows = np.stack([place.present for place in self.places]) if name == UNTRAINED else self.counts
            rows = rows & out.has_controls[:, :, None] & self.has_source.get(name, True)  # [layers, places, pairs]
            answers = self._write(out, name, rows, self.answer_tokens, ENDS)
            if name == "same_value":
                out.damage = self._damaged(answers, rows)
            out.success[name] = self._judged(out, name, answers, rows)[0]
        progress("controls", 1.0, "")
        return out

    def _interchange(self, out: Measured, needed: np.ndarray) -> None:
        """The interchange, and all that is read off it."""
        only_after = np.stack([self._only_after(place) for place in self.places])  # [places, pairs, d_vocab]
        out.moved = np.zeros(needed.shape, np.float32)
        answers = self._write(out, INTERCHANGE, needed, self.answer_tokens, ENDS, only_after)
        success, canonical, moves_on, stays = self._judged(out, INTERCHANGE, answers, needed)
        out.success[INTERCHANGE], out.canonical, out.moves_on, out.stays = success, canonical, moves_on, stays
        own = np.array(self.own_answers, object)
        out.changed = needed & (answers != own)

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

    def _write(
        self,
        out: Measured,
        name: str,
        needed: np.ndarray,
        new: int,
        stop_at: str,
        only_after: np.ndarray | None = None,
    ) -> np.ndarray:
        """What is written under a condition where it is needed, bool [layers, places, pairs], and the own answers
        elsewhere: texts [layers, places, pairs]. only_after float [places, pairs, d_vocab]: the first tokens whose
        gain in probability `out.moved` takes."""
        begin = time.perf_counter()
        texts = np.empty(needed.shape, object)
        texts[:] = np.array(self.own_answers, object)
        model = self.twin if name == UNTRAINED else self.model
        source = CONTROLS.get(name, "source")
        n_texts = 0
        needed_rows = needed.any((0, 1)) & (self.pairs.pairs[source] != "").to_numpy()
        every = np.flatnonzero(needed_rows)
        for rows in np.split(every, range(_ROWS, len(every), _ROWS)):
            arms, origin = [], []
            if not len(rows):
                continue
            layers = [layer for number, layer in enumerate(self.layers) if needed[number][:, rows].any()]
            values = _Values(model, self.pairs, rows, source, layers, self.seed if name == "random" else None)
            for number, layer in enumerate(self.layers):
                for positions, sources, owners in _slots(self.places, needed[number], rows):
                    arms.append(values.edit(layer, positions, sources))
                    origin.append((number, owners))
            cuts = self.pairs.cuts[rows].tolist()
            written = engine.write(model, [self.bases[row] for row in rows], arms, new, stop_at=stop_at)
            for of_arm, logits, (number, owners) in zip(written.texts, written.logits, origin):
                n_texts += int((owners >= 0).any(0).sum())
                gain = logits.softmax(-1).cpu().numpy() - self.probabilities[rows]  # [pairs, d_vocab]
                if stop_at:
                    of_arm = [through_answer(text, cut) for text, cut in zip(of_arm, cuts)]
                array = np.array(of_arm, object)
                for place, has in enumerate(owners >= 0):
                    texts[number, place, rows[has]] = array[has]
                    if only_after is not None:
                        out.moved[number, place, rows[has]] = (gain[has] * only_after[place, rows[has]]).sum(1)
        out.profile.append(
            {
                "condition": name,
                "stage": "answers" if stop_at else "rests",
                "texts": n_texts,
                "seconds": time.perf_counter() - begin,
            }
        )
        return texts

    # --- what it is worth --------------------------------------------------------------------------------------------

    def _judged(self, out: Measured, name: str, answers: np.ndarray, needed: np.ndarray) -> tuple[np.ndarray, ...]:
        """Success, canonical success, whether the model goes on, and whether what it then says is true: bool."""
        candidates = np.zeros(needed.shape, bool)
        for layer, place, rows in _cells(needed):
            original, edited = self.places[place].truths(rows, [with_end(text) for text in answers[layer, place, rows]])
            candidates[layer, place, rows] = edited & ~original
        success, canonical, moves_on, stays = (np.zeros(needed.shape, bool) for _ in range(4))
        if not candidates.any():
            return success, canonical, moves_on, stays
        whole = self._write(out, name, candidates, self.rest_tokens, "")
        for layer, place, rows in _cells(candidates):
            texts: list[str] = whole[layer, place, rows].tolist()
            table = self.places[place].judge(rows, texts)
            success[layer, place, rows] = table["success"]
            canonical[layer, place, rows] = table["success"] & table["canonical"]
            goes_on = [with_end(through_answer(text, cut)) != text for text, cut in zip(texts, self.pairs.cuts[rows])]
            moves_on[layer, place, rows] = goes_on
            stays[layer, place, rows] = goes_on & table["true_edited"].to_numpy() & table["has_form"].to_numpy()
        return success, canonical, moves_on, stays

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


# --- arms ------------------------------------------------------------------------------------------------------------


def _slots(
    places: list[Place], needed: np.ndarray, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """As few arms as patch every needed place of the pairs `rows`: places that lie at the same positions share one.

    needed: bool [places, pairs]. Yields positions in bases and in sources, int64 [rows, k] each, -1 for none; and
    which places they are, int64 [places, rows]: 0 where the place is patched, else -1.
    """
    slots: list[dict[int, tuple[tuple[int, ...], tuple[int, ...]]]] = []  # of each, by row, the positions
    owners: list[np.ndarray] = []
    for number, row in enumerate(rows.tolist()):
        keys: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
        for index, place in enumerate(places):
            if needed[index, row]:
                key = tuple(place.base[row].tolist()), tuple(place.source[row].tolist())
                keys.setdefault(tuple(tuple(p for p in part if p >= 0) for part in key), []).append(index)  # type: ignore
        for slot, (key, indices) in enumerate(keys.items()):
            if slot == len(slots):
                slots.append({})
                owners.append(np.full((len(places), len(rows)), -1))
            slots[slot][number] = key
            owners[slot][indices, number] = 0
    for of_rows, owner in zip(slots, owners):
        width = max(len(base) for base, _ in of_rows.values())
        positions, sources = np.full((2, len(rows), width), -1)
        for number, (base, source) in of_rows.items():
            positions[number, : len(base)], sources[number, : len(source)] = base, source
        yield positions, sources, owner


class _Values:
    """What is put in, for some pairs: read at all layers in one pass."""

    def __init__(
        self, model: Any, pairs: Pairs, rows: np.ndarray, which: str, layers: list[int], random_seed: int | None
    ) -> None:
        base, source = (pairs.sequences(name)[rows] for name in ("base", which))
        sites = [stream_site(layer) for layer in layers]
        self.there = engine.activations(model, source, sites)
        self.here = engine.activations(model, base, sites) if random_seed is not None else None
        self.seed, self.rows = random_seed or 0, rows.tolist()

    def edit(self, layer: int, positions: np.ndarray, sources: np.ndarray) -> Edit:
        """The patch after a layer: positions int [rows, k] in bases, `sources` in sources."""
        site = stream_site(layer)
        values = engine.at_positions(self.there[site], sources)
        if self.here is not None:
            origin = engine.at_positions(self.here[site], positions)
            values = changes.as_far(origin, values, self._noise(values))
        return Edit(site, positions, changes.patch(values))

    def _noise(self, like: Tensor) -> Tensor:
        """Random vectors [rows, k, d_model]: of a pair the same at every layer, whatever runs beside it."""
        noise = [
            generator("random vector", self.seed, row).standard_normal(tuple(like.shape[1:]), np.float32)
            for row in self.rows
        ]
        return torch.from_numpy(np.stack(noise)).to(like.device, like.dtype)


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
