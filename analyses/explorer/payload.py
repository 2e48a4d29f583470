"""What the page is given of a checkpoint: its weights, its probes, what its heads attend along, and words about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyses.explorer import heads, presets, readings
from analyses.explorer.readings import Reading
from analyses.explorer.weights import Tensors, check_fits, rounded, tensors_of
from cadmus.models.model import Model
from cadmus.runtime.progress import Progress, no_progress
from cadmus.training.checkpoint import Checkpoint
from probes.interventions.subspaces.directions import Directions

VERSION = 1  # of what the page reads


@dataclass(frozen=True, repr=False)
class Payload:
    """What the page is given."""

    data: dict[str, Any]
    """As JSON: the config, the entries of the tensors, the probes, the heads, the presets, the name."""
    tensors: str
    """The weights, then the probes' vectors and means, in base64."""

    def __repr__(self) -> str:
        return f"Payload({self.data['name']}, {len(self.tensors):,} characters)"


def of(
    checkpoint: Checkpoint, name: str, *, programs: int = 2000, seed: int = 0, progress: Progress = no_progress
) -> Payload:
    """Fit the probes, look at the heads and find the presets of a checkpoint. Raises ValueError for too large a model.

    programs: how many probes are fitted to.
    """
    check_fits(checkpoint.model)
    model = rounded(checkpoint.model)
    probes = readings.fit(model, checkpoint.mixture, programs, seed, progress=progress)
    data = {
        "heads": heads.along_data_flow(model, checkpoint.mixture, seed=seed, progress=progress),
        "presets": presets.find(model, checkpoint.mixture, seed=seed, progress=progress),
    }
    return assembled(model, name, checkpoint.fingerprint, probes, data)


def assembled(
    model: Model, name: str, fingerprint: str, probes: Sequence[Reading], data: dict[str, Any] | None = None
) -> Payload:
    """The payload of a rounded model and its probes; `data` is added."""
    weights, numbers = tensors_of(model), probe_tensors(probes)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    fields = {
        "version": VERSION,
        "name": name,
        "fingerprint": fingerprint,
        "parameters": parameters,
        "config": model.cfg.to_dict(),
        "entries": weights.entries + numbers.entries,
        "probes": [_description(reading) for reading in probes],
        "heads": [],
        "presets": [],
    }
    return Payload({**fields, **(data or {})}, Tensors.join(weights, numbers))


def probe_tensors(probes: Sequence[Reading]) -> Tensors:
    """The vectors and means of every probe: [classes, d_model] each."""
    arrays = []
    for reading in probes:
        name = f"probe {reading.layer} {reading.place}"
        vectors = reading.directions.vectors / _scale(reading.directions)
        arrays += [(f"{name} vectors", vectors), (f"{name} means", reading.directions.means)]
    return Tensors.of(arrays)


def _description(reading: Reading) -> dict[str, Any]:
    """A probe, but for its vectors and means."""
    return {
        "place": reading.place,
        "layer": reading.layer,
        "values": reading.directions.values.tolist(),
        "scale": _scale(reading.directions),
        "intercepts": on_page(reading.directions).intercepts.tolist(),
        "accuracy": round(reading.accuracy, 4),
        "from_token": round(reading.from_token, 4),
    }


def on_page(directions: Directions) -> Directions:
    """The read-outs that the page computes: vectors and means of half precision, the vectors' mean taken out again.

    The intercepts are those after which activations at the mean of all classes read what they did.
    """
    vectors = (directions.vectors / _scale(directions)).astype(np.float16).astype(float) * _scale(directions)
    vectors -= vectors.mean(0)
    means = directions.means.astype(np.float16).astype(float)
    intercepts = directions.intercepts + (directions.vectors - vectors) @ directions.means.mean(0)
    intercepts = intercepts - intercepts.mean()
    parts = (directions.site, directions.variable, directions.kind)
    return Directions(*parts, vectors, intercepts, directions.values, means)


def _scale(directions: Directions) -> float:
    """What the vectors are divided by, so that the largest of their numbers is 1."""
    return float(abs(directions.vectors).max()) or 1.0
