"""Lenses: what the residual stream says after each layer, and what each head and MLP adds to the answer, directly.

The *logit lens* (nostalgebraist 2020) reads the stream after each layer through the final LayerNorm and the
unembedding. *Direct logit attribution* (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits")
splits the difference of two logits at the answer into what each component wrote, the final LayerNorm's scale being
frozen: the parts sum to the difference. Neither says what a model uses: what is written may be overwritten, and what is
used need not be in the unembedding's words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cadmus.models import backends
from probes.interventions.attribution.contrasts import Contrast, as_roles, means, tokens_of
from probes.interventions.editing.locations import INPUT_SITE, stream_site
from probes.interventions.editing.patching import Roles

QUANTITIES = ("base_logit", "other_logit", "difference", "base_probability", "other_probability")
ANSWER = "answer"
"""The position whose next token is the answer's, among roles."""
_ROWS = 128  # that are run at once


def logit_lens(
    model: Any,
    contrast: Contrast,
    positions: Roles | str | None = None,
    *,
    untrained: Any | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """What the base's stream says of both answers after each layer.

    Args:
        model: of any backend.
        contrast: its base is run; both tokens are read.
        positions: beside the answer's own position, "roles" (the contrast's) or roles by name; a row's positions of a
            role are averaged. None: no other.
        untrained: the twin, read alike.
        seed: of the shuffled answers and of the bootstrap.

    Returns:
        A row per `control` ("model"; "shuffled", the same stream read for another row's two answers; "untrained"),
        `layer` (-1: before the first block), `role` (`ANSWER`, ...) and `quantity` (of `QUANTITIES`; "difference" is
        the other answer's logit minus the base's): `value`, `low`, `high` (95 %, by cluster), `n`.

    Raises ValueError for positions that are neither "roles" nor roles by name.
    """
    roles: dict[str, np.ndarray] = {ANSWER: contrast.at[:, None]}
    if positions is not None:
        roles |= {name: here for name, (here, _) in as_roles(contrast, positions).items()}
    tables = []
    for control, which, read in _controls(model, contrast, untrained, seed):
        values = _lens(which, read, roles)  # [layer, role, quantity, rows]
        index = pd.MultiIndex.from_product(
            [range(-1, which.cfg.n_layers), roles, QUANTITIES], names=["layer", "role", "quantity"]
        )
        table = index.to_frame(index=False).assign(**means(values.reshape(len(index), -1), read.clusters, seed))
        table.insert(0, "control", control)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def direct_attribution(
    model: Any,
    contrast: Contrast,
    positions: Roles | str | None = None,
    *,
    run: str = "base",
    untrained: Any | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """What each head and MLP writes into the other answer's logit minus the base's, at the answer.

    Args:
        model: of any backend.
        contrast: where and between which tokens.
        positions: "roles" or roles by name: a head's contribution is split by where it attends, and what comes from the
            positions of each role stands in rows of their own. None: no split.
        run: "base" or "source" (read at the same position): which sequences are run.
        untrained: the twin, read alike.
        seed: of the shuffled answers and of the bootstrap.

    Returns:
        A row per `control` ("model", "shuffled", "untrained", as `logit_lens`) and component: `site` ("input", "head",
        "mlp", "attention bias", "unembedding bias", and "total", their sum: the difference of the logits), `layer`,
        `head` (-1: no single one), `role` ("all", or where a head attends); `value`, `low`, `high`, `n`.

    Raises ValueError for another `run`, for positions that are neither "roles" nor roles by name, and for roles that a
    backend cannot split by, as it shows no values or pattern.
    """
    if run not in ("base", "source"):
        raise ValueError(f"run {run!r} is neither 'base' nor 'source'")
    roles: dict[str, np.ndarray] = {}
    if positions is not None:
        number = ("base", "source").index(run)
        roles = {name: places[number] for name, places in as_roles(contrast, positions).items()}
    tables = []
    for control, which, read in _controls(model, contrast, untrained, seed):
        parts = [_contributions(which, read, rows, roles, run) for rows in _slices(len(read))]
        cells = pd.DataFrame([cell for cell, _ in parts[0]], columns=["site", "layer", "head", "role"])
        values = np.concatenate([np.stack([value for _, value in part]) for part in parts], 1)
        table = cells.assign(**means(values, read.clusters, seed))
        table.insert(0, "control", control)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _controls(model: Any, contrast: Contrast, untrained: Any | None, seed: int) -> Iterator[tuple[str, Any, Contrast]]:
    """(control, the model, what is read off it)."""
    yield "model", model, contrast
    yield "shuffled", model, contrast.shuffled(seed)
    if untrained is not None:
        yield "untrained", untrained, contrast


def _slices(n: int) -> list[slice]:
    return [slice(begin, begin + _ROWS) for begin in range(0, n, _ROWS)]


def _normalizes(model: Any) -> bool:
    """Whether there is a final LayerNorm; models made by hand may have none."""
    return model.cfg.normalization_type is not None


# --- logit lens ------------------------------------------------------------------------------------------------------


def _lens(model: Any, contrast: Contrast, roles: Mapping[str, np.ndarray]) -> np.ndarray:
    """float64 [layer, role, quantity, rows], NaN where a row lacks a role."""
    sites = [stream_site(layer) for layer in range(-1, model.cfg.n_layers)]
    out = np.full((len(sites), len(roles), len(QUANTITIES), len(contrast)), np.nan)
    for rows in _slices(len(contrast)):
        tokens, _ = tokens_of(model, contrast, rows)
        with torch.no_grad():
            cache = backends.run_with_cache(model, tokens, sites)[1]
        for number, here in enumerate(roles.values()):
            row, column = np.nonzero(here[rows] >= 0)
            places = torch.from_numpy(here[rows][row, column]).to(tokens.device)
            index = torch.from_numpy(row).to(tokens.device)
            count = np.bincount(row, minlength=len(tokens))
            for layer, site in enumerate(sites):
                with torch.no_grad():
                    stream = cache[site][index, places]  # [m, d_model]
                    normalized = model.ln_final(stream) if _normalizes(model) else stream
                    logits = model.unembed(normalized).double()  # [m, d_vocab]
                for k, value in enumerate(_quantities(logits, contrast, rows, row)):
                    total = np.bincount(row, value, len(tokens))
                    out[layer, number, k, rows] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return out


def _quantities(logits: Tensor, contrast: Contrast, rows: slice, row: np.ndarray) -> Iterator[np.ndarray]:
    """`QUANTITIES` of logits [m, d_vocab], each of a row among `rows`: float64 [m] each."""
    index = np.arange(len(row))
    probabilities = logits.softmax(-1).cpu().numpy()
    values = logits.cpu().numpy()
    base, other = contrast.base_token[rows][row], contrast.other_token[rows][row]
    yield values[index, base]
    yield values[index, other]
    yield values[index, other] - values[index, base]
    yield probabilities[index, base]
    yield probabilities[index, other]


# --- direct logit attribution ----------------------------------------------------------------------------------------

_Cell = tuple[str, int, int, str]  # site, layer, head, role


@dataclass(frozen=True)
class _Direction:
    """How the difference of two logits depends on what is written into the stream, its scale being frozen."""

    vector: Tensor
    """[rows, d_model]: a component c adds c @ vector."""
    constant: Tensor
    """[rows]: what the biases of the final LayerNorm and of the unembedding add."""

    @classmethod
    def of(cls, model: Any, contrast: Contrast, rows: slice, scale: Tensor | None) -> _Direction:
        """scale [rows, 1]: of the final LayerNorm at the answer; None: the model has none."""
        weights, bias = model.unembed.W_U, model.unembed.b_U  # [d_model, d_vocab], [d_vocab]
        base, other = (torch.from_numpy(x[rows]).to(bias.device) for x in (contrast.base_token, contrast.other_token))
        vector = (weights[:, other] - weights[:, base]).T.double()  # [rows, d_model]
        constant = (bias[other] - bias[base]).double()
        if scale is None:
            return cls(vector, constant)
        constant = constant + vector @ model.ln_final.b.double()
        vector = vector * model.ln_final.w.double()
        vector = (vector - vector.mean(-1, keepdim=True)) / scale.double()  # c less its mean, times v, is c times this
        return cls(vector, constant)


def _contributions(
    model: Any, contrast: Contrast, rows: slice, roles: Mapping[str, np.ndarray], run: str
) -> list[tuple[_Cell, np.ndarray]]:
    """Every component and role with what it adds in each of these rows, float64 [rows]."""
    tokens, at = tokens_of(model, contrast, rows)
    if run == "source":
        tokens = torch.from_numpy(contrast.source[rows].astype(np.int64)).to(tokens.device)
    here = torch.arange(len(tokens), device=tokens.device)
    layers = range(model.cfg.n_layers)
    sites = [INPUT_SITE, *(f"blocks.{layer}.{name}" for layer in layers for name in ("attn.hook_z", "hook_mlp_out"))]
    sites += ["ln_final.hook_scale"] if _normalizes(model) else []
    if roles:
        sites += [f"blocks.{layer}.attn.{name}" for layer in layers for name in ("hook_v", "hook_pattern")]
    with torch.no_grad():
        cache = backends.run_with_cache(model, tokens, sites)[1]
        scale = cache["ln_final.hook_scale"][here, at] if _normalizes(model) else None
        direction = _Direction.of(model, contrast, rows, scale)
        out: list[tuple[_Cell, Tensor]] = [
            (("input", -1, -1, "all"), _along(cache[INPUT_SITE][here, at], direction)),
            (("unembedding bias", -1, -1, "all"), direction.constant),
        ]
        for layer in layers:
            attention = model.blocks[layer].attn
            lifted = torch.einsum("hdm,bm->bhd", attention.W_O.double(), direction.vector)  # [rows, head, d_head]
            z = cache[f"blocks.{layer}.attn.hook_z"][here, at].double()
            of_heads = (z * lifted).sum(-1)  # [rows, head]
            out += [(("head", layer, head, "all"), of_heads[:, head]) for head in range(model.cfg.n_heads)]
            bias = attention.b_O.expand(len(tokens), -1)
            out.append((("attention bias", layer, -1, "all"), _along(bias, direction)))
            mlp = cache[f"blocks.{layer}.hook_mlp_out"][here, at]
            out.append((("mlp", layer, -1, "all"), _along(mlp, direction)))
        total = torch.stack([value for _, value in out]).sum(0)
        out.append((("total", -1, -1, "all"), total))
        for layer in layers if roles else ():
            out += _by_role(model, cache, layer, direction, at, {name: p[rows] for name, p in roles.items()})
    return [(cell, value.cpu().numpy()) for cell, value in out]


def _by_role(
    model: Any, cache: Any, layer: int, direction: _Direction, at: Tensor, roles: Mapping[str, np.ndarray]
) -> Iterator[tuple[_Cell, Tensor]]:
    """What each head of a layer reads at the positions of each role, NaN where a row has none: [rows] each."""
    here = torch.arange(len(at), device=at.device)
    lifted = torch.einsum("hdm,bm->bhd", model.blocks[layer].attn.W_O.double(), direction.vector)
    written = torch.einsum("bkhd,bhd->bhk", cache[f"blocks.{layer}.attn.hook_v"].double(), lifted)
    pattern = cache[f"blocks.{layer}.attn.hook_pattern"][here, :, at].double()  # [rows, head, key]
    by_key = pattern * written
    for name, positions in roles.items():
        mask = torch.zeros_like(by_key[:, 0])  # [rows, key]
        row, column = np.nonzero(positions >= 0)
        mask[row, positions[row, column]] = 1
        share = (by_key * mask[:, None]).sum(-1)  # [rows, head]
        share[torch.from_numpy((positions < 0).all(1)).to(share.device)] = torch.nan
        for head in range(model.cfg.n_heads):
            yield ("head", layer, head, name), share[:, head]


def _along(x: Tensor, direction: _Direction) -> Tensor:
    """What x [rows, d_model] adds: float64 [rows]."""
    return (x.double() * direction.vector).sum(-1)
