"""Interventions: grids of activation patching against TransformerLens's `patching`, and against pyvene."""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import cadmus
from benchmarks.measure import Measurement, benchmark
from cadmus.corpora.build import build
from cadmus.machine import tokens
from cadmus.models import lens
from cadmus.models.model import Model
from cadmus.programs import mixture
from cadmus.runtime import devices
from probes.interventions.editing import patching

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PAIRS = (1, 64)
POSITIONS = 30
_CORPUS = 4000
_DIGITS = range(10)  # their token ids
_TOLERANCE = 1e-5
_PYVENE_BATCHES = (16, 64)


def _pairs(model: Model, n: int, minimal: bool) -> tuple[Tensor, Tensor]:
    """Bases and sources, int64 [n, POSITIONS], of the default mixture; sources are other programs, or, where `minimal`,
    the bases with one digit changed."""
    programs = build(mixture.load("default"), _CORPUS).programs(np.random.default_rng(0).permutation(_CORPUS))
    long = programs[tokens.lengths(programs) >= POSITIONS - 1]
    sequences = torch.from_numpy(tokens.sequences(long)[:, :POSITIONS]).long().to(DEVICE)
    base, source = sequences[:n].clone(), sequences[n : 2 * n].clone()
    if minimal:
        source = base.clone()
        rng = np.random.default_rng(1)
        for row in source:
            places = [p for p in range(1, POSITIONS) if int(row[p]) in _DIGITS]
            place = rng.choice(places or [1])
            row[place] = (int(row[place]) + 1 + rng.integers(9)) % 10
    return base, source


def _metric(logits: Tensor) -> Tensor:
    """How much likelier one token is than another: logits [..., d_vocab] -> [...]."""
    return logits[..., 1] - logits[..., 2]


def _ours(model: Model, base: Tensor, source: Tensor, component: str, positions: str) -> np.ndarray:
    at = np.full(len(base), POSITIONS - 1)
    return patching.patch_grid(model, base, source, component, positions, _metric, at=at).value.to_numpy()


@torch.no_grad()
def _lens(peer: Any, base: Tensor, source: Tensor, component: str, positions: str) -> np.ndarray:
    """The same by TransformerLens: a pass for each cell."""
    from transformer_lens import patching as theirs

    grid = theirs.get_act_patch_resid_pre if positions == "each" else theirs.get_act_patch_attn_head_out_all_pos
    with mock.patch.object(theirs, "tqdm", lambda cells: cells):  # no bar
        _, cache = peer.run_with_cache(source, names_filter=lambda name: name.endswith(f"hook_{component}"))
        return grid(peer, base, cache, lambda logits: _metric(logits[:, -1]).mean()).flatten().cpu().numpy()


@torch.no_grad()
def _pyvene(model: Model, base: Tensor, source: Tensor, batch_size: int) -> np.ndarray:
    """The layer x position grid by pyvene: an IntervenableModel for each layer, a call for each position and batch."""
    import pyvene

    cells = []
    for layer in range(model.cfg.n_layers):
        intervention = pyvene.VanillaIntervention(embed_dim=model.cfg.d_model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            part = pyvene.IntervenableModel(
                {"component": f"blocks[{layer}].input", "intervention": intervention}, model=model
            )
        for position in range(POSITIONS):
            values = []
            for rows in torch.arange(len(base)).split(batch_size):
                _, logits = part({"tokens": base[rows]}, [{"tokens": source[rows]}], {"sources->base": position})
                values.append(_metric(logits[:, -1]))
            cells.append(float(torch.cat(values).mean()))
    return np.array(cells)


def _floor(model: Model, component: str, positions: str, n: int) -> float:
    """Seconds that the products alone take at the speed of a large one, where every position differs: see the note."""
    cfg = model.cfg
    block = 2 * cfg.d_model * (4 * cfg.n_heads * cfg.d_head + 2 * cfg.d_mlp)  # operations of a token
    last = cfg.n_layers - 1
    if positions == "each":  # before block l all blocks but the last run; position 0 is the marker, the same everywhere
        blocks = sum(last - layer for layer in range(last))
        n_tokens = n * sum(POSITIONS - position for position in range(1, POSITIONS))
    else:  # behind the heads of block l, whose inputs need no products: three quarters of it
        share = 1 - 2 * cfg.d_model * 3 * cfg.n_heads * cfg.d_head / block
        blocks = cfg.n_heads * sum(share + last - layer - 1 for layer in range(last))
        n_tokens = n * (POSITIONS - 1)
    return block * blocks * n_tokens / devices.matmul_peak(DEVICE, "fp32")


def _in_turns(rounds: int, *actions: Callable[[], np.ndarray]) -> np.ndarray:
    """Seconds of each action [round, action], in turns."""
    seconds = np.zeros((rounds, len(actions)))
    for action in actions:
        action()
    for row in seconds:
        for k, action in enumerate(actions):
            begin = time.perf_counter()
            action()
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()
            row[k] = time.perf_counter() - begin
    return seconds


def _check_equal(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference; AssertionError above 1e-5 of the largest value."""
    error = float(np.abs(ours - theirs).max())
    assert error <= _TOLERANCE * max(1.0, float(np.abs(theirs).max())), f"the two ways disagree by {error}"
    return error


@benchmark("patching")
def patch_grids() -> list[Measurement]:
    """Grids of activation patching against TransformerLens's (residual stream >= 5 x; heads >= 2.5 x, one pair 5 x)."""
    model = cadmus.load_model().to(DEVICE)
    peer = lens.to_hooked_transformer(model)
    measurements = []
    cases = [("resid_pre", "each", {1: 5.0, 64: 5.0}), ("z", "all", {1: 5.0, 64: 2.5})]
    for component, positions, targets in cases:
        for n in PAIRS:
            for minimal in (True, False):
                base, source = _pairs(model, n, minimal)
                arguments = (base, source, component, positions)
                error = _check_equal(_ours(model, *arguments), _lens(peer, *arguments))
                seconds = _in_turns(
                    7 if n == 1 else 2, lambda a=arguments: _ours(model, *a), lambda a=arguments: _lens(peer, *a)
                )
                ours, theirs = np.median(seconds, axis=0)
                ratio = float(np.median(seconds[:, 1] / seconds[:, 0]))
                floor = "" if minimal else f", floor {_floor(model, component, positions, n):.2g} s"
                note = (
                    f"{n} pairs of {POSITIONS} positions, {'one digit differs' if minimal else 'all tokens differ'}, "
                    f"equal to {error:.1e}, {DEVICE.type}, {torch.get_num_threads()} threads{floor}"
                )
                name = f"patching, {component}, {n} pairs, {'minimal' if minimal else 'unrelated'}"
                target = targets[n] if minimal else 0.0
                bound = f">= {target} x" if minimal else "-"  # unrelated pairs: what no edit can be spared of
                measurements.append(Measurement(name, ours, theirs, ratio, bound, "s", ratio >= target, note))
    return measurements


@benchmark("patching-pyvene", slow=True)
def against_pyvene() -> list[Measurement]:
    """The layer x position grid against pyvene (>= 10 x), where pyvene is installed; it is no dependency."""
    if importlib.util.find_spec("pyvene") is None:
        print("pyvene is not installed: pip install --no-deps pyvene, into a folder on PYTHONPATH, then run this again")
        return []
    model = cadmus.load_model().to(DEVICE)
    base, source = _pairs(model, PAIRS[1], minimal=True)
    times = {}
    for batch_size in _PYVENE_BATCHES:
        begin = time.perf_counter()
        _pyvene(model, base, source, batch_size)
        times[batch_size] = time.perf_counter() - begin
    best = min(times, key=times.__getitem__)
    measurements = []
    for minimal in (True, False):
        base, source = _pairs(model, PAIRS[1], minimal)
        arguments = (base, source, "resid_pre", "each")
        error = _check_equal(_ours(model, *arguments), _pyvene(model, base, source, best))
        seconds = _in_turns(
            2, lambda a=arguments: _ours(model, *a), lambda pair=(base, source): _pyvene(model, *pair, best)
        )
        ours, peer = np.median(seconds, axis=0)
        ratio = float(np.median(seconds[:, 1] / seconds[:, 0]))
        note = (
            f"{len(base)} pairs of {POSITIONS} positions, {'one digit differs' if minimal else 'all tokens differ'}, "
            f"equal to {error:.1e}; pyvene's best batch of {', '.join(map(str, _PYVENE_BATCHES))}: {best} pairs; "
            f"{DEVICE.type}, {torch.get_num_threads()} threads"
        )
        name = f"patching, against pyvene, {'minimal' if minimal else 'unrelated'}"
        passed = ratio >= (10 if minimal else 0)
        measurements.append(Measurement(name, ours, peer, ratio, ">= 10 x" if minimal else "-", "s", passed, note))
    return measurements
