"""For how long a patched value is what a model answers by, and what becomes of values that are dead.

`persistence`: success by the number of tokens between the last patched position and the decision. `dead_values`: a
register's version that was overwritten before it could be asked for is patched, and nothing should move.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import pandas as pd

from cadmus.corpora.held_out import held_out
from cadmus.machine import tokens, vm
from cadmus.programs.mixture import Mixture
from cadmus.programs.skeletons import skeleton
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.seeds import generator
from cadmus.states.provenance import provenance
from cadmus.statistics import simultaneous
from cadmus.statistics.clustered import interval_columns
from probes.interventions.counterfactuals.judging import ENDS, through_answer, with_end
from probes.interventions.counterfactuals.pairs import STRATA
from probes.interventions.counterfactuals.variables import PairVariable
from probes.interventions.editing import changes, engine
from probes.interventions.editing.edits import Arm, Edit
from probes.interventions.editing.locations import stream_site
from probes.interventions.experiment.cells import INPUT_LAYER
from probes.interventions.experiment.conditions import INTERCHANGE, Laboratory, Measured

_BINS = (0, 1, 2, 4, 8, 16, 32)  # tokens between the patch and the decision: the least of each row
_SPLIT = "test_skeleton"
_DRAWN = 4000  # programs that dead versions are looked for in
_ROLES = ("arose", "stored", "overwritten")
_ANSWER_TOKENS = 12  # that an answer may have


def persistence(lab: Laboratory, measured: Measured) -> pd.DataFrame:
    """Interchange accuracy by how many tokens lie between the patch and the decision: a row per stratum, role, bin.

    Discriminating pairs are halved by skeleton. Each role is at the layer at which most pairs of one half succeed (not
    before the first block), and the other half is scored: choice and score share no skeleton. A stratum or role without
    counting pairs in both halves has no row. Columns: `stratum`, `layer`, `role`, `span`, `from_tokens`, `to_tokens`
    (the distance, both included), `pairs`, `accuracy` with interval, `third_value` (the share of the same pairs, those
    with such a source, that it moves there; NaN where it was not run). Distances differ between programs, not within
    one, so that a fall may be due to what else differs.
    """
    table = lab.pairs.pairs
    discriminating = (table["kind"] == "discriminating").to_numpy()
    choosing, scoring = halves(table["base_skeleton"], table["source_skeleton"], lab.seed)
    rows: list[dict[str, Any]] = []
    layers = [number for number, layer in enumerate(lab.layers) if layer != INPUT_LAYER]
    groups = [(stratum, *each) for stratum in STRATA for each in enumerate(lab.places)]
    for stratum, place_number, place in groups:
        mine = measured.counts[place_number] & discriminating & (table["stratum"] == stratum).to_numpy()
        chooses, counts = mine & choosing, mine & scoring
        if not chooses.any() or not counts.any() or not layers:
            continue
        success = measured.success[INTERCHANGE][:, place_number]  # [layers, pairs]
        best = layers[int(success[layers][:, chooses].sum(1).argmax())]
        distance = lab.pairs.cuts - place.base.max(1)
        for low, high in zip(_BINS, [*(least - 1 for least in _BINS[1:]), int(distance.max())]):
            mine = counts & (low <= distance) & (distance <= high)
            if not mine.any():
                continue
            skeletons = (table[name].to_numpy(object) for name in ("base_skeleton", "source_skeleton"))
            (share,) = simultaneous.shares(success[[best]], mine[None], *skeletons)
            third = measured.success["third_value"][best, place_number]
            has_third = mine & lab.has_source["third_value"] & measured.has_controls[best, place_number]
            rows.append(
                {
                    "stratum": stratum,
                    "layer": lab.layers[best],
                    "role": place.spot.role,
                    "span": place.spot.span,
                    "from_tokens": low,
                    "to_tokens": high,
                    "pairs": int(mine.sum()),
                    **interval_columns("accuracy", share.estimate, share.low, share.high),
                    "third_value": float(third[has_third].mean()) if has_third.any() else np.nan,
                }
            )
    names = ["stratum", "layer", "role", "span", "from_tokens", "to_tokens", "pairs"]
    return pd.DataFrame(rows, columns=[*names, "accuracy", "accuracy_low", "accuracy_high", "third_value"])


def halves(bases: Sequence[str], sources: Sequence[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of pairs that share no skeleton, bool [pairs] each: skeletons are dealt out, and pairs whose base and
    source fall into different halves are in neither."""
    bases, sources = tokens.text_list(bases, "bases"), tokens.text_list(sources, "sources")
    names = sorted({*bases, *sources})
    order = generator("halves by skeleton", seed).permutation(len(names))
    half = {names[number]: place % 2 for place, number in enumerate(order.tolist())}
    base, source = (np.array([half[name] for name in several], np.int64) for several in (bases, sources))
    return (base == 0) & (source == 0), (base == 1) & (source == 1)


# --- dead values -----------------------------------------------------------------------------------------------------


def dead_values(
    model: Any,
    variable: PairVariable,
    mixture: Mixture,
    layers: Sequence[int],
    *,
    pairs: int = 100,
    seed: int = 0,
    progress: Progress = no_progress,
) -> pd.DataFrame | None:
    """What happens where dead values of registers are patched: a row per layer and role; None for other variables,
    and where there is no layer.

    Programs are of held-out skeletons, and a digit stands in them whose register was overwritten before the cut; the
    source has another digit there, which changes nothing in the state at the cut. Columns: `layer`, `role` ("arose":
    the digit; "stored"; "overwritten": where the version ends), `pairs` (the model's own answer is true), `changed`
    (the answer became another one) and `wrong` (it is not true any more), with intervals; `by_dead`: the share of
    answers that are true of the patched value; `note`.
    """
    registers = [occurrence.place[-1] for occurrence in variable.occurrences if occurrence.place.startswith("reg.")]
    families = [family for family in mixture.families if family.name in variable.families]
    if not registers or not families or not layers:
        return None
    progress("dead values", 0.0, "")
    prompts = _dead_prompts(families, mixture, registers, pairs, seed)
    names = ["layer", "role", "pairs", "changed", "changed_low", "changed_high", "wrong", "wrong_low", "wrong_high"]
    if prompts.empty:
        note = f"no overwritten digit was found in {_DRAWN:,} programs"
        return pd.DataFrame(
            [{"layer": INPUT_LAYER, "role": "", "pairs": 0, "note": note}], columns=[*names, "by_dead", "note"]
        )
    cells = [(layer, role) for layer in layers for role in _ROLES]
    (own,) = _answers(model, prompts, [[]])
    answers = _answers(model, prompts, _patches(model, prompts, cells))
    progress("dead values", 1.0, "")
    return _dead_table(prompts, cells, own, answers)


def _patches(model: Any, prompts: pd.DataFrame, cells: list[tuple[int, str]]) -> list[Edit]:
    """The source's activation put into the base, at each layer and role."""
    values = engine.activations(
        model,
        tokens.sequences(tokens.encode(prompts["source"].tolist())),
        list(dict.fromkeys(stream_site(layer) for layer, _ in cells)),
    )
    patches = []
    for layer, role in cells:
        site, positions = stream_site(layer), prompts[role].to_numpy()[:, None] + 1
        patches.append(Edit(site, positions, changes.patch(engine.at_positions(values[site], positions))))
    return patches


def _answers(model: Any, prompts: pd.DataFrame, arms: Sequence[Arm]) -> list[list[str]]:
    """What the model writes behind the bases through its first answer, under each arm: texts [arms, prompts]."""
    bases, cuts = prompts["base"].tolist(), prompts["cut"].tolist()
    room = min(_ANSWER_TOKENS, model.cfg.n_ctx - 1 - max(cuts))
    written = engine.write(model, bases, arms, room, stop_at=ENDS).texts
    return [[through_answer(text, cut) for text, cut in zip(texts, cuts)] for texts in written]


def _are_true(texts: list[list[str]]) -> np.ndarray:
    """Which texts, closed with `.`, are true: bool [rows, texts]."""
    return np.array([[vm.verdict(with_end(text)) for text in row] for row in texts])


def _dead_table(
    prompts: pd.DataFrame, cells: list[tuple[int, str]], own: list[str], answers: list[list[str]]
) -> pd.DataFrame:
    """The table of `dead_values`; own: the model's answers by itself, answers: those at each cell."""
    bases, questions = prompts["base"].tolist(), prompts["question"].tolist()
    (counts,) = _are_true([own])
    changed = np.array([[text != mine for text, mine in zip(texts, own)] for texts in answers])
    wrong = ~_are_true(answers)
    by_dead = _are_true(
        [[q + text[len(base) :] for q, text, base in zip(questions, texts, bases)] for texts in answers]
    )
    mask = np.broadcast_to(counts, changed.shape)
    skeletons = np.array([skeleton(text) for text in bases])
    columns: dict[str, Any] = {"layer": [c[0] for c in cells], "role": [c[1] for c in cells], "pairs": mask.sum(1)}
    for name, array in (("changed", changed), ("wrong", wrong)):
        columns |= simultaneous.share_columns(name, array, mask, skeletons, skeletons)
    n = np.maximum(mask.sum(1), 1)
    columns["by_dead"] = np.where(mask.any(1), (by_dead & changed & mask).sum(1) / n, np.nan)
    note = "" if counts.any() else "the model answers none of these programs right, so nothing can be said"
    return pd.DataFrame({**columns, "note": note})


def _dead_prompts(families: list, mixture: Mixture, registers: list[str], n: int, seed: int) -> pd.DataFrame:
    """Prompts with an overwritten digit: `base`, `source`, `cut`, `arose`, `stored`, `overwritten` (tokens), `question`
    (a text that leaves the base's stack, the register's last loaded value put in place of the dead one), `family`.
    Families have equal numbers, as far as they have such prompts."""
    rng = generator("dead values", seed)
    by_family: list[list[dict[str, Any]]] = []
    for family in families:
        rows: list[dict[str, Any]] = []
        by_family.append(rows)
        programs = held_out(family, _SPLIT, _DRAWN, int(rng.integers(2**31)), mixture.hold_out)
        graph = provenance(programs)
        versions = graph.versions.frame()
        versions = versions[
            (versions["overwritten"] >= 0) & versions["register"].isin(registers) & (versions["loads"] == 0)
        ]
        texts = tokens.decode(programs)
        for version in versions.drop_duplicates("program").to_dict("records"):
            if len(rows) == n:
                break
            row = _dead_row(texts[version["program"]], version, family, rng)
            if row is not None:
                rows.append(row)
    in_turn = [row for several in zip_longest(*by_family) for row in several if row is not None]
    return pd.DataFrame(in_turn[:n])


def _dead_row(text: str, version: dict[str, Any], family: Any, rng: np.random.Generator) -> dict[str, Any] | None:
    """The row of one program; None where its dead value is no digit of its own, or the cut lies before its end."""
    stored, ended = int(version["token"]), int(version["overwritten"])
    cuts = [cut for cut in family.decisions(text) if cut > ended]
    if not cuts or stored < 1 or not text[stored - 1].isdigit():
        return None
    digit = str(rng.choice([d for d in "0123456789" if d != text[stored - 1]]))
    base, source = text[: cuts[0]], text[: stored - 1] + digit + text[stored : cuts[0]]
    if vm.run(base).states[-1] != vm.run(source).states[-1]:
        return None
    last = base.rfind(str(version["register"]))
    question = base[:last] + digit + base[last + 1 :] if last > ended else base + digit
    return {
        "base": base,
        "source": source,
        "cut": cuts[0],
        "arose": stored - 1,
        "stored": stored,
        "overwritten": ended,
        "question": question,
        "family": family.name,
    }
