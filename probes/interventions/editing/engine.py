"""The engine of interventions: edits at sites, positions and heads, many arms and rows at once, on any backend.

An *arm* is an edit, or several that act together; `logits` gives the next token's logits for every arm and row,
`complete` whole greedy completions, `applied` edits a model for as long as a context lasts, `activations` reads what
edits put in. Positions are the model's: token i of a program stands at position i + 1.

Our own model computes what an edit can reach and no more (`probes.interventions.editing.partial_passes`); models of
other backends, or `fast=False`, run whole passes (`probes.interventions.editing.plain`); both give the same to
rounding. Every arm is checked: a site, head or position that the model lacks, an edit that the backend ignores, and an
arm that changes nothing in any row are errors. The model is left as it was, on errors too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cadmus.machine import tokens as machine_tokens
from cadmus.machine import vm
from cadmus.models import backends, partial
from probes.interventions.editing import application, partial_passes, plain
from probes.interventions.editing.continuations import complete_partially
from probes.interventions.editing.edits import Arm, Arms, EdgeEdit, Edit, Step, arms_of

_ROWS = 256  # that are read at once
Array = np.ndarray | Tensor


@dataclass(frozen=True)
class Outcome:
    """What arms made of the next token."""

    logits: Tensor
    """[arm, row, d_vocab], float32."""

    changed: np.ndarray
    """bool [arm, row]: whether some activation within reach of those logits changed."""


def logits(model: Any, sequences: Array, arms: Arms, at: Array, *, fast: bool = True) -> Tensor:
    """The next token's logits for every arm and row: float32 [arms, rows, d_vocab].

    Args:
        model: of any backend (`cadmus.models.backends`).
        sequences: uint8 or other int [rows, pos], position 0 the marker (`cadmus.machine.tokens.sequences`).
        arms: each run alone on all rows; an arm without edits is the model as it is.
        at: int [rows]: the position of each row whose next token is wanted. What stands behind it has no part.
        fast: False runs whole passes with hooks on our own model too.

    Raises:
        ValueError: an edit outside the model or the sequences, one that the backend ignores, or an arm that changes
            nothing within reach of `at` in any row (named).
    """
    outcome = run(model, sequences, arms, at, fast=fast)
    _check_changed(arms, outcome.changed)
    return outcome.logits


def run(model: Any, sequences: Array, arms: Arms, at: Array, *, fast: bool = True) -> Outcome:
    """As `logits`, with the rows that each arm changed; an arm that changes nothing is no error here."""
    tokens, last = _rows(model, sequences, at)
    plans = _plans(model, arms, len(tokens), tokens.shape[1])
    changes = application.Changes(len(plans), len(tokens))
    if not len(tokens):
        return Outcome(torch.zeros(len(plans), 0, model.cfg.d_vocab), changes.rows)
    if not _is_fast(model, fast):
        return Outcome(plain.logits(model, tokens, plans, last, changes), changes.rows)
    out = torch.empty(len(plans), len(tokens), model.cfg.d_vocab, device=tokens.device)

    def on_chunk(arms: list[int], rows: slice, reading: partial.Reading) -> None:
        out[arms, rows] = reading.logits.float()

    def on_pass(suffixes: partial.Suffixes, arms: np.ndarray, rows: np.ndarray, result: Tensor) -> None:
        out[arms, rows] = result.float()

    partial_passes.run(model, tokens, plans, last, changes, on_chunk, on_pass)
    return Outcome(out, changes.rows)


def complete(
    model: Any,
    prompts: Sequence[str],
    arms: Arms,
    max_new_tokens: int | None = None,
    *,
    edits_in_generation: bool = False,
    fast: bool = True,
) -> list[list[str]]:
    """Greedy completions under every arm: whole programs, of each arm those of all prompts.

    The prompts are read with the edits, and what is written attends to the keys and values of the edited prompts.

    Args:
        model: of any backend.
        prompts: texts without `.`; token i stands at position i + 1, so that the last is at len(prompt).
        arms: as for `logits`; positions None mean all positions of each prompt.
        max_new_tokens: tokens that are written at most; None: what the model has room for behind the longest prompt.
        edits_in_generation: edits of edges hold for the tokens written too: none attends to a key that a query of its
            row has lost (or moved).
        fast: as for `logits`.

    Raises:
        ValueError: as `logits`; a prompt with a `.`, or too long for the model.
    """
    prompts = machine_tokens.text_list(prompts, "prompts")
    outcome = write(model, prompts, arms, max_new_tokens, edits_in_generation=edits_in_generation, fast=fast)
    if len(prompts):
        _check_changed(arms, outcome.changed)
    return outcome.texts


@dataclass(frozen=True)
class Written:
    """What arms made models write."""

    texts: list[list[str]]
    """Whole programs, of each arm those of all prompts."""

    logits: Tensor
    """[arm, row, d_vocab], float32: of the first token that is written."""

    changed: np.ndarray
    """bool [arm, row], as `Outcome.changed`."""


def write(
    model: Any,
    prompts: Sequence[str],
    arms: Arms,
    max_new_tokens: int | None = None,
    *,
    stop_at: str = "",
    edits_in_generation: bool = False,
    only_changed: bool = False,
    fast: bool = True,
) -> Written:
    """As `complete`, with the first token's logits; an arm that changes nothing is no error here.

    stop_at: tokens after which a text ends, besides `.`; what ends there has a `.` behind it none the less, unless that
    takes more than `max_new_tokens`. only_changed: rows that an arm leaves as they are need not be written on.
    """
    texts = machine_tokens.text_list(prompts, "prompts")
    longest = max(map(len, texts), default=0)
    room = model.cfg.n_ctx - longest - 1
    new = room if max_new_tokens is None else max_new_tokens
    if not 0 <= new <= room or any("." in text for text in texts):
        raise ValueError(
            f"prompts of up to {longest} tokens and {new} more do not fit n_ctx = {model.cfg.n_ctx} with the marker, "
            "or a prompt holds `.`: give what stands before it"
        )
    at = np.array([len(text) for text in texts], np.int64)
    tokens, last = _rows(model, machine_tokens.encode(["." + text for text in texts]), at)
    plans = _plans(model, arms, len(tokens), tokens.shape[1])
    changes = application.Changes(len(plans), len(tokens))
    first = torch.zeros(len(plans), len(tokens), model.cfg.d_vocab, device=tokens.device)
    if not len(tokens):
        return Written([[] for _ in plans], first, changes.rows)
    stops = np.array([vm.VOCAB.index(token) for token in stop_at], np.int64)
    if _is_fast(model, fast):
        out = complete_partially(
            model, tokens, plans, last, changes, new, edits_in_generation, stops, first, only_changed
        )
    else:
        out = plain.complete(model, tokens, plans, last, changes, new, edits_in_generation, stops)
        first = plain.logits(model, tokens, plans, last, application.Changes(len(plans), len(tokens)))
    return Written([_texts(of_arm, at, new) for of_arm in out], first, changes.rows)


def activations(model: Any, sequences: Array, sites: Sequence[str]) -> dict[str, Tensor]:
    """What stands at sites in a plain pass, such as a source's: {site: [rows, pos, ...]}, without gradients.

    Scores and pattern are [rows, head, query, key]; `values.transpose(1, 2)` is what `changes.patch` takes of them.
    """
    sites = machine_tokens.text_list(sites, "sites")
    tokens = _tokens(model, sequences)
    parts = []
    with torch.no_grad():
        for rows in tokens.split(_ROWS):
            cache = backends.read(model, rows, sites)
            parts.append({site: cache[site] for site in sites})
    return {site: torch.cat([part[site] for part in parts]) for site in sites}


def at_positions(x: Tensor, positions: Array) -> Tensor:
    """x [rows, pos, ...] at positions int [rows, k]: [rows, k, ...]; what stands at position 0 where there is none
    (-1)."""
    places = positions if isinstance(positions, Tensor) else torch.from_numpy(np.maximum(positions, 0))
    index = places.to(x.device).clamp(min=0)
    return x[torch.arange(len(x), device=x.device)[:, None], index]


@contextlib.contextmanager
def applied(model: Any, edits: Arm) -> Iterator[Any]:
    """Within the context every forward pass of the model has these edits, and gradients pass through them.

    Rows are the rows of the batch that is run: positions must be of as many rows, or of one, for all. Raises ValueError
    for edits that the model does not have or ignores, and on leaving where no pass came to an edit, or none of the
    edits changed anything.
    """
    steps = _plan(model, arms_of([edits])["0"], None, None)
    changed = False

    def on_change(flags: Tensor) -> None:
        nonlocal changed
        changed = changed or bool(flags.any())

    hooks = [(step.site, application.whole_pass_hook(step, on_change)) for step in steps]
    with backends.hooks(model, hooks):
        yield model
    if steps and not changed:
        raise ValueError(f"{edits!r} changed nothing: no activation is another one than without it")


# --- checks ----------------------------------------------------------------------------------------------------------


def _tokens(model: Any, sequences: Array) -> Tensor:
    """int64 [rows, pos] on the model's device."""
    tokens = torch.as_tensor(sequences)
    if tokens.ndim != 2 or tokens.is_floating_point():
        raise ValueError(f"sequences are {tokens.dtype} {tuple(tokens.shape)}; expected int [rows, pos]")
    if tokens.shape[1] > model.cfg.n_ctx:
        raise ValueError(f"{tokens.shape[1]} positions, but the model has n_ctx = {model.cfg.n_ctx}")
    return tokens.to(next(model.parameters()).device).long()


def _rows(model: Any, sequences: Array, at: Array) -> tuple[Tensor, np.ndarray]:
    """The sequences, and the positions `at` as int64 [rows]."""
    tokens = _tokens(model, sequences)
    last = np.asarray(at.cpu() if isinstance(at, Tensor) else at)
    if last.shape != (len(tokens),) or (len(last) and last.dtype.kind not in "iu"):
        raise ValueError(f"at is {last.dtype} {last.shape}; expected a position of each of {len(tokens)} rows")
    if len(last) and not 0 <= last.min() <= last.max() < tokens.shape[1]:
        raise ValueError(
            f"at is {last.min()} ... {last.max()}; the sequences have positions 0 ... {tokens.shape[1] - 1}"
        )
    return tokens, last.astype(np.int64)


def _plans(model: Any, arms: Arms, n_rows: int, n_positions: int) -> list[list[Step]]:
    return [_plan(model, edits, n_rows, n_positions) for edits in arms_of(arms).values()]


def _plan(model: Any, edits: list[Edit | EdgeEdit], n_rows: int | None, n_positions: int | None) -> list[Step]:
    """The steps of an arm, in the order of a pass."""
    steps = [Step.of(model, edit, n_rows, n_positions) for edit in edits]
    return sorted(steps, key=lambda step: step.location.order)


def _check_changed(arms: Arms, changed: np.ndarray) -> None:
    """ValueError, with its name, for an arm with edits that changed nothing in any row."""
    for (name, edits), rows in zip(arms_of(arms).items(), changed, strict=True):
        if edits and not rows.any():
            raise ValueError(
                f"arm {name} ({', '.join(map(repr, edits))}) changes nothing in any of {len(rows)} rows: what it puts "
                "in is what is there, or it has no position up to the one whose next token is wanted"
            )


def _is_fast(model: Any, fast: bool) -> bool:
    """Whether partial passes can be run."""
    return fast and backends.backend(model) == "cadmus" and not model.has_hooks


def _texts(rows: np.ndarray, at: np.ndarray, new: int) -> list[str]:
    """Programs of uint8 [row, pos + new] without their marker; padding behind what could be written is left out."""
    texts = []
    for row, last in zip(rows, at, strict=True):
        texts += machine_tokens.decode(row[None, 1 : last + 1 + new])
    return texts
