"""Views that show something of this model: found by trying, so that what a preset says holds for the model at hand.

Each is tried on programs of skeletons that no training saw, with the engine of `probes.interventions`; what is not
found is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from cadmus.corpora.held_out import held_out
from cadmus.machine import oracle, tokens, vm
from cadmus.models.model import Model
from cadmus.programs.mixture import Mixture
from cadmus.programs.parts.family import Family
from cadmus.runtime.progress import Progress, no_progress
from cadmus.states.provenance_plain import provenance_of
from probes.interventions.counterfactuals.judging import through_answer
from probes.interventions.editing import changes, engine
from probes.interventions.editing.edits import EdgeEdit, Edit
from probes.interventions.editing.locations import stream_site

PROGRAMS = 60  # of a family that are tried
MAX_SOURCES = 6  # of a program's value that are tried
MAX_NEW = 24  # tokens that the model writes, as the page lets it
SPLIT = "test_skeleton"


@dataclass(frozen=True)
class Exchange:
    """A value of a prompt, exchanged for that of a source."""

    prompt: str
    """What the model is given."""
    source: str
    """As long, with another digit."""
    token: int
    """Where the model's stream is exchanged."""
    edit_at: int
    """After which token the machine's state is edited."""
    place: str
    """Where the value lies then."""
    old: int
    """The prompt's value."""
    new: int
    """The source's."""


def find(model: Model, mixture: Mixture, *, seed: int = 0, progress: Progress = no_progress) -> list[dict[str, Any]]:
    """The presets of a model, as the page computes it: `title`, `words` and the `hash` of the view."""
    families = {family.name: family for family in mixture.families}
    tries = (
        ("compare", _completes),
        ("register", _loaded),
        ("compare", _compared),
        ("register", _blocked),
        ("register", _unread),
        ("compare", _wrong),
    )
    presets = []
    for number, (name, attempt) in enumerate(tries):
        progress("presets", number / len(tries), name)
        preset = attempt(model, families[name], mixture, seed) if name in families else None
        presets += [] if preset is None else [preset]
    progress("presets", 1.0, "")
    return presets


# --- what is tried ---------------------------------------------------------------------------------------------------


def _completes(model: Model, family: Family, mixture: Mixture, seed: int) -> dict[str, Any] | None:
    """A prompt whose completion is true."""
    for prompt, whole, is_true in _completions(model, family, mixture, seed):
        if is_true:
            words = (
                f"Two numbers are computed, and the model says their relation, {_answer(whole, prompt)}, which is true."
            )
            return _preset("It completes a program it never saw", words, prompt)
    return None


def _wrong(model: Model, family: Family, mixture: Mixture, seed: int) -> dict[str, Any] | None:
    """A prompt whose completion is false."""
    for prompt, whole, is_true in _completions(model, family, mixture, seed):
        if not is_true:
            words = f"The model goes on with {_answer(whole, prompt)}, and the machine does not hold that true."
            return _preset("It gets one wrong", words, prompt)
    return None


def _loaded(model: Model, family: Family, mixture: Mixture, seed: int) -> dict[str, Any] | None:
    """A register's value that is exchanged where it is loaded, and answered by."""
    return _used(
        model,
        _prompts(family, mixture, seed),
        "loaded",
        "It answers by what a register holds, taken at the load",
        "The register holds {old}. Where it is loaded, {after}, the model is given what it computes of a program in "
        "which it holds {new}, and now answers {written}: what the machine holds true then.",
    )


def _compared(model: Model, family: Family, mixture: Mixture, seed: int) -> dict[str, Any] | None:
    """A number of a comparison that is exchanged where it was computed, and answered by."""
    return _used(
        model,
        _prompts(family, mixture, seed),
        "arose",
        "It answers by a number that it computed on the way",
        "One number of the comparison is {old}. Where it is made, {after}, the model is given what it computes of a "
        "program in which it is {new}, and the relation that it says turns to {written}, as the machine's does.",
    )


def _used(model: Model, prompts: list[str], role: str, title: str, words: str) -> dict[str, Any] | None:
    """The first exchange, at the first layer, after which the model's answer is true then, and only then, while its own
    answer is not; exchanges before the first layer, where only the token lies, do not count."""
    for exchange in _exchanges(prompts, role):
        layers = list(range(model.cfg.n_layers))
        arms = [_arm(model, exchange, layer) for layer in layers]
        own, *texts = (texts[0] for texts in _written(model, exchange.prompt, [[], *arms]))
        if not _judged(exchange, own, edited=False) or _judged(exchange, own, edited=True):
            continue
        for layer, text in zip(layers, texts, strict=True):
            if _judged(exchange, text, edited=True) and not _judged(exchange, text, edited=False):
                fields = {"old": exchange.old, "new": exchange.new, "after": f"after layer {layer}"}
                written = _answer(text, exchange.prompt)
                return _preset(title, words.format(**fields, written=written), exchange.prompt, exchange, layer)
    return None


def _blocked(model: Model, family: Family, mixture: Mixture, seed: int) -> dict[str, Any] | None:
    """A load from whose token all attention to where the value was made and stored is blocked."""
    for prompt in _prompts(family, mixture, seed):
        query = len(prompt) - 1
        if prompt[query] not in vm.REGISTERS:
            continue
        edges = provenance_of(prompt).edges
        kinds = ("load_store", "load_origin")
        keys = sorted({edge.key for edge in edges if edge.query == query and edge.kind in kinds} - {query})
        if not keys:
            continue
        arm = [EdgeEdit(layer, query + 1, key + 1) for layer in range(model.cfg.n_layers) for key in keys]
        (own,), (blocked,) = _written(model, prompt, [[], arm])
        if vm.verdict(own) and not vm.verdict(blocked):
            acts = [["block", query, key, -1, -1] for key in keys]
            words = (
                f"No head may attend from the load of register {prompt[query]} to where its value was made and stored. "
                f"The model, which was right, now goes on with {_answer(blocked, prompt)}."
            )
            return _preset("Without these arcs it does not know", words, prompt, acts=acts)
    return None


def _unread(model: Model, family: Family, mixture: Mixture, seed: int) -> dict[str, Any] | None:
    """A register that is held for a while, its readings beneath it."""
    for prompt in _prompts(family, mixture, seed):
        rows = [row for row in provenance_of(prompt).occurrences if row.role == "between"]
        if len(rows) >= 4 and prompt[-1] in vm.REGISTERS:
            place = rows[0].place
            words = (
                f"Register {place[-1]} is held from its store to its load. Look beneath: can probes read it meanwhile, "
                "or only what lies on the stack where it is loaded? Press s to read another place."
            )
            return _preset("Is a register kept in mind?", words, prompt, place=place)
    return None


# --- prompts and exchanges -------------------------------------------------------------------------------------------


def _prompts(family: Family, mixture: Mixture, seed: int) -> list[str]:
    """Programs cut where the model must decide first."""
    texts = tokens.decode(held_out(family, SPLIT, PROGRAMS, seed, mixture.hold_out))
    return [text[: family.decisions(text)[0]] for text in texts if family.decisions(text)]


def _completions(model: Model, family: Family, mixture: Mixture, seed: int) -> Iterator[tuple[str, str, bool]]:
    prompts = _prompts(family, mixture, seed)
    room = min(MAX_NEW, model.cfg.n_ctx - 1 - max(map(len, prompts), default=0))
    for prompt, whole in zip(prompts, engine.complete(model, prompts, [[]], room)[0], strict=True):
        yield prompt, whole, vm.verdict(whole)


def _exchanges(prompts: list[str], role: str) -> Iterator[Exchange]:
    """Integers of prompts in a role, each with sources in which it is another."""
    for prompt in prompts:
        states = vm.run(prompt).states
        for row in provenance_of(prompt).occurrences:
            if row.role != role:
                continue
            old = _number(states[row.edit_at], row.place)
            if old is None or (role == "arose" and prompt[row.token].isdigit()):
                continue
            sources = 0
            for source in _variants(prompt):
                new = _number(vm.run(source).states[row.edit_at], row.place)
                if new is None or new == old:
                    continue
                yield Exchange(prompt, source, row.token, row.edit_at, row.place, old, new)
                sources += 1
                if sources == MAX_SOURCES:
                    break


def _variants(prompt: str) -> Iterator[str]:
    """The prompt with one digit changed, the digits further on first."""
    for position in reversed([i for i, token in enumerate(prompt) if token.isdigit()]):
        for digit in "0123456789":
            if digit != prompt[position]:
                yield prompt[:position] + digit + prompt[position + 1 :]


def _number(state: vm.State, place: str) -> int | None:
    """The integer in a place; None where there is none."""
    kind, _, name = place.partition(".")
    entries = state.stack[::-1]
    if kind == "stack" and int(name) >= len(entries):
        return None
    value = state.registers[name] if kind == "reg" else entries[int(name)]
    return value.v if isinstance(value, vm.Int) else None


def _arm(model: Model, exchange: Exchange, layer: int) -> Edit:
    """The exchange after a layer."""
    site, position = stream_site(layer), exchange.token + 1
    sequence = tokens.sequences(tokens.encode([exchange.source]))
    values = engine.activations(model, sequence, [site])[site][:, position]  # [1, d_model]
    return Edit(site, [position], changes.patch(values))


def _written(model: Model, prompt: str, arms: list[Any]) -> list[list[str]]:
    """What the model writes under each arm, which may change nothing: [arm][prompt]."""
    room = min(MAX_NEW, model.cfg.n_ctx - len(prompt) - 1)
    return engine.write(model, [prompt], arms, room).texts


def _answer(text: str, prompt: str) -> str:
    """What was written, through the end of the first answer."""
    return through_answer(text, len(prompt))[len(prompt) :]


def _judged(exchange: Exchange, text: str, *, edited: bool) -> bool:
    """Whether what the model wrote is true, with the prompt's value as it was or as the source has it."""
    value = exchange.new if edited else exchange.old
    cut = [len(exchange.prompt)]
    program = tokens.encode([text])
    return bool(oracle.continuation_verdicts(program, cut, [exchange.edit_at], [{exchange.place: value}])[0])


def _preset(
    title: str,
    words: str,
    prompt: str,
    exchange: Exchange | None = None,
    layer: int | None = None,
    *,
    place: str = "stack.0",
    acts: list[list[Any]] | None = None,
) -> dict[str, Any]:
    """A preset; its view has the last token of the prompt chosen."""
    acts = list(acts or [])
    if exchange is not None:
        act = ["set", exchange.token, exchange.edit_at, exchange.place, str(exchange.new), layer, "exchange"]
        acts.append([*act, exchange.source])
    fields = [("p", prompt), ("t", len(prompt) - 1), ("v", place)]
    fields += [] if layer is None else [("l", layer)]
    fields += [("e", json.dumps(act, separators=(",", ":"))) for act in acts]
    return {"title": title, "words": words, "hash": "#" + "&".join(f"{k}={quote(str(v), safe='')}" for k, v in fields)}
