"""Programs for models that are not ours: how their tokens are made, and where the state after a program token is read.

A model with another vocabulary, with or without a first token of its own, with several tokens for one character or one
for several, can be probed by whoever says two things (`TokenMap`): which tokens it reads, and at which of them the
program has come as far as each of its characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cadmus.machine import tokens as machine_tokens
from cadmus.models import backends
from cadmus.models.compilation import original_model
from cadmus.models.hooks import NamesFilter, resolve_sites
from cadmus.models.model import Model

NOWHERE = -1  # the model's position of a program token that no position of it stands for


@dataclass(frozen=True)
class TokenMap:
    """What a model reads for a program, and where. Both functions are given a program's text, such as `34+7=.`, through
    its own `.`."""

    tokens: Callable[[str], Sequence[int]]
    """The model's tokens of the text: ids, with whatever the model expects in front."""

    positions: Callable[[str], Sequence[int | None]]
    """For each character of the text the model's position whose activations hold the state after it: of several tokens
    that write a character the last. None where the model has no such position, because one token writes this character
    and the next: these characters are not probed."""

    @classmethod
    def of_characters(cls, ids: Mapping[str, Sequence[int]], prefix: Sequence[int] = ()) -> TokenMap:
        """Of a model that reads each character by itself, as one or more tokens, `ids[character]`, after a `prefix`."""

        def tokens(text: str) -> list[int]:
            return [*prefix, *(token for character in text for token in ids[character])]

        def positions(text: str) -> list[int]:
            ends = np.cumsum([len(ids[character]) for character in text])
            return (len(prefix) + ends - 1).tolist()

        return cls(tokens, positions)

    @classmethod
    def of_tokenizer(cls, tokenizer: Any, prefix: Sequence[int] = ()) -> TokenMap:
        """Of a fast tokenizer of transformers, whose tokens know which characters they write, after a `prefix` of ids
        (a beginning-of-sequence token, an instruction); it adds no special tokens itself."""

        def encoded(text: str) -> Any:
            return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)

        def positions(text: str) -> list[int | None]:
            ends = {end: len(prefix) + i for i, (_, end) in enumerate(encoded(text)["offset_mapping"])}
            return [ends.get(i + 1) for i in range(len(text))]

        return cls(lambda text: [*prefix, *encoded(text)["input_ids"]], positions)

    def inputs(self, programs: np.ndarray) -> ModelInputs:
        """What the model reads for programs uint8 [n, width].

        Raises ValueError, naming the program, for ids that are not whole numbers from 0 on, for none, and for positions
        that are not one per character, each a whole number within the tokens.
        """
        positions = np.full((len(programs), programs.shape[1] + 1), NOWHERE, np.int64)
        ids = []
        for i, text in enumerate(machine_tokens.decode(programs)):
            ids.append(_ids(self.tokens(text), text))
            positions[i, 1 : len(text) + 1] = _places(self.positions(text), text, len(ids[-1]))
        return ModelInputs(ids, positions)


def _ids(ids: Sequence[int], text: str) -> np.ndarray:
    """The ids of a text as int64 [positions]."""
    array = np.asarray(ids)
    if array.ndim != 1 or not len(array) or not np.issubdtype(array.dtype, np.integer) or array.min() < 0:
        raise ValueError(f"tokens gave {ids!r} for {text!r}; expected a list of ids, whole numbers from 0 on")
    return array.astype(np.int64)


def _places(positions: Sequence[int | None], text: str, n_tokens: int) -> list[int]:
    """The position of each character of a text among its `n_tokens`, NOWHERE for None."""
    given = np.asarray(positions).tolist()
    if len(given) != len(text):
        raise ValueError(f"positions gave {len(given)} for the {len(text)} characters of {text!r}; give one for each")
    if not all(place is None or (isinstance(place, int) and 0 <= place < n_tokens) for place in given):
        raise ValueError(
            f"positions gave {given} for {text!r}, whose tokens are at 0 ... {n_tokens - 1}; "
            "give None where there is no position"
        )
    return [NOWHERE if place is None else place for place in given]


@dataclass(frozen=True, repr=False)
class ModelInputs:
    """What a model reads for some programs."""

    ids: list[np.ndarray]
    """The tokens of each program: int64 [its positions]."""

    positions: np.ndarray
    """The model's position of each token of ours, the marker's first (it has none): int64 [n, 1 + width], NOWHERE where
    there is none."""

    def __repr__(self) -> str:
        return f"ModelInputs({len(self.ids):,} programs, {sum(map(len, self.ids)):,} tokens)"

    @property
    def readable(self) -> np.ndarray:
        """The program tokens that have a position: bool [n, 1 + width]."""
        return self.positions != NOWHERE

    def __getitem__(self, programs: np.ndarray) -> ModelInputs:
        """Those of some programs, an array of indices."""
        return ModelInputs([self.ids[program] for program in programs], self.positions[programs])

    def needs(self, where: np.ndarray) -> np.ndarray:
        """How many of the model's positions must run for the requested ones, bool [n, 1 + width]: int64 [n]."""
        return (np.where(where, self.positions, NOWHERE) + 1).max(1)

    def check(self, model: Any, where: np.ndarray) -> None:
        """Raise ValueError where a requested position, bool [n, 1 + width], is none of the model's, or beyond its
        context, or an id is none of its vocabulary."""
        nowhere = where & ~self.readable
        if nowhere.any():
            program, position = np.argwhere(nowhere)[0]
            raise ValueError(
                f"where asks for {nowhere.sum():,} tokens that the token map has no position for, the first of program "
                f"{program} at position {position}; leave them out: where & token_map.inputs(programs).readable"
            )
        needs = self.needs(where)
        if needs.max(initial=0) > model.cfg.n_ctx:
            raise ValueError(
                f"{needs.max()} positions are requested, but the model has n_ctx = {model.cfg.n_ctx}: "
                "leave longer programs out, or ask for earlier positions with where="
            )
        largest = max((int(ids.max()) for ids in self.ids), default=0)
        if largest >= model.cfg.d_vocab:
            raise ValueError(f"tokens gave the id {largest}, but the model has d_vocab = {model.cfg.d_vocab}")


# --- running a model of any kind -------------------------------------------------------------------------------------


def sites_of(model: Any, names: NamesFilter) -> list[str]:
    """The sites that a filter selects of any model with TransformerLens's `hook_dict` and `run_with_cache`, or of ours.

    Raises ValueError for another model, and for a site that does not exist.
    """
    model = original_model(model)
    if isinstance(model, Model):
        every_site = model.sites() + model.sites(on_demand=True)
    elif hasattr(model, "hook_dict") and hasattr(model, "run_with_cache"):
        every_site = list(model.hook_dict)
    else:
        raise ValueError(
            f"a {type(model).__name__} has no hook_dict and run_with_cache; take a HookedTransformer, a "
            "TransformerBridge or a Cadmus model"
        )
    if names is None:
        return every_site
    selectors = [names] if callable(names) or isinstance(names, str) else names
    return [site for name in selectors for site in resolve_sites(every_site, name, "model.hook_dict")]


def read_rows(
    model: Any, inputs: ModelInputs, where: np.ndarray, sites: Sequence[str], pass_tokens: int
) -> dict[str, np.ndarray]:
    """Activations of the requested tokens, bool [n, 1 + width], of n programs: {site: float32 [rows, features]}, one
    program after another.

    Neighbours that need equally many positions run together, about `pass_tokens` positions at once, so that nothing is
    padded, whatever the model makes of padding. Raises ValueError for a site that does not hold a row per position.
    """
    sites = machine_tokens.text_list(sites, "sites")
    needs = inputs.needs(where)
    device = next(model.parameters()).device
    parts: dict[str, list[np.ndarray]] = {site: [] for site in sites}
    for begin, end in _passes(needs, pass_tokens):
        width = int(needs[begin])
        ids = torch.from_numpy(np.stack([ids[:width] for ids in inputs.ids[begin:end]])).to(device)
        cache = _run(model, ids, sites)
        rows, tokens = np.nonzero(where[begin:end])
        at = torch.from_numpy(rows * width + inputs.positions[begin:end][rows, tokens]).to(device)
        for site in sites:
            parts[site].append(_flat(cache, site, ids).index_select(0, at).float().cpu().numpy())
    return {site: np.concatenate(parts[site]) for site in sites}


def _passes(needs: np.ndarray, pass_tokens: int) -> Iterator[tuple[int, int]]:
    """The bounds of passes over neighbours of equal need."""
    begin = 0
    for need, group in groupby(needs.tolist()):
        end = begin + len(list(group))
        size = max(1, pass_tokens // max(1, need))
        for start in range(begin, end, size):
            yield start, min(start + size, end)
        begin = end


def _run(model: Any, ids: Tensor, sites: Sequence[str]) -> Mapping[str, Tensor]:
    """The activations of one pass. A model of TransformerLens is told that there is no padding: it would look for some,
    were its tokenizer one that pads on the left."""
    model = original_model(model)
    if isinstance(model, Model):
        return model.run_with_cache(ids, list(sites))[1]
    with backends.turn(model):
        return model.run_with_cache(ids, names_filter=list(sites), attention_mask=torch.ones_like(ids))[1]


def _flat(cache: Mapping[str, Tensor], site: str, ids: Tensor) -> Tensor:
    """The activation [batch, pos, ...] of a site as [batch * pos, features]."""
    if site not in cache:
        raise ValueError(f"the site {site!r} never fired; the model computes it only where its cfg says so")
    tensor = cache[site].detach()
    if tensor.ndim > 2 and tensor.shape[0] == 1 and tensor.shape[1] == ids.shape[1]:
        tensor = tensor.expand(len(ids), *tensor.shape[1:])  # the same for all programs, such as positions
    if tensor.ndim < 3 or tensor.shape[:2] != ids.shape:
        raise ValueError(
            f"site {site!r} has the shape {list(tensor.shape)} for tokens {list(ids.shape)}, not a row per position; "
            "choose another site"
        )
    return tensor.reshape(ids.numel(), -1)
