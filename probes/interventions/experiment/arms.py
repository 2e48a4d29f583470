"""What is put into some pairs under the conditions of an experiment: as few arms as do, from programs that are read
once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cadmus.runtime.seeds import generator
from probes.interventions.counterfactuals.pairs import Pairs
from probes.interventions.editing import changes, engine
from probes.interventions.editing.edits import Edit
from probes.interventions.editing.locations import stream_site
from probes.interventions.experiment.cells import Place

Slot = tuple[np.ndarray, np.ndarray, np.ndarray]
"""An arm's positions in bases and in sources, int64 [rows, k] each, -1 for none; and which places they are, bool
[places, rows]."""


class Sources:
    """What is put into the pairs `rows` of one model after some of `layers`: each program is read once.

    is_used: bool [layers], those after which anything is put in.
    """

    def __init__(
        self,
        model: Any,
        pairs: Pairs,
        places: list[Place],
        rows: np.ndarray,
        layers: list[int],
        is_used: np.ndarray,
        seed: int,
    ) -> None:
        self.model, self.pairs, self.places, self.rows, self.layers = model, pairs, places, rows, layers
        self.sites = [stream_site(layer) for layer, used in zip(layers, is_used, strict=True) if used]
        self.seed = seed
        self._activations: dict[str, dict[str, Tensor]] = {}
        self._slots: dict[bytes, list[Slot]] = {}
        self._noise: Tensor | None = None

    def arms(self, needed: np.ndarray, which: str, is_random: bool = False) -> Iterator[tuple[int, np.ndarray, Edit]]:
        """The arms that patch every needed place after every layer, bool [layers, places, rows]: the layer's number,
        which places an arm is, bool [places, rows], and its edit.

        which: the program of the pairs whose activations are put in. is_random: random vectors are, as far away as
        those are; of a pair the same after every layer, whatever runs beside it.
        """
        for number, layer in enumerate(self.layers):
            if not needed[number].any():
                continue
            for positions, origins, owners in self.slots(needed[number]):
                values = engine.at_positions(self._read(which, layer), origins)
                if is_random:
                    here = engine.at_positions(self._read("base", layer), positions)
                    values = changes.as_far(here, values, self._random(values))
                yield number, owners, Edit(stream_site(layer), positions, changes.patch(values))

    def slots(self, needed: np.ndarray) -> list[Slot]:
        """As few arms as patch every needed place, bool [places, rows]: places that lie at the same positions share
        one."""
        key = needed.tobytes()
        if key not in self._slots:
            self._slots[key] = slots_of(self.places, needed, self.rows)
        return self._slots[key]

    def _read(self, which: str, layer: int) -> Tensor:
        """The residual stream of a program of the pairs after a layer: [rows, pos, d_model]."""
        if which not in self._activations:
            sequences = self.pairs.sequences(which)[self.rows]
            self._activations[which] = engine.activations(self.model, sequences, self.sites)
        return self._activations[which][stream_site(layer)]

    def _random(self, like: Tensor) -> Tensor:
        """Random vectors [rows, k, d_model]; more of them begin with the same."""
        if self._noise is None or self._noise.shape[1] < like.shape[1]:
            shape = tuple(like.shape[1:])
            noise = [
                generator("random vector", self.seed, row).standard_normal(shape, np.float32)
                for row in self.rows.tolist()
            ]
            self._noise = torch.from_numpy(np.stack(noise)).to(like.device, like.dtype)
        return self._noise[:, : like.shape[1]]


def slots_of(places: list[Place], needed: np.ndarray, rows: np.ndarray) -> list[Slot]:
    """As few arms as patch every needed place of the pairs `rows` (int64 [m]), bool [places, m]."""
    slots: list[dict[int, tuple[tuple[int, ...], tuple[int, ...]]]] = []  # of each, by row, the positions
    owners: list[np.ndarray] = []
    for number, row in enumerate(rows.tolist()):
        keys: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
        for index in np.flatnonzero(needed[:, number]).tolist():
            base, source = (
                tuple(position for position in part[row].tolist() if position >= 0)
                for part in (places[index].base, places[index].source)
            )
            keys.setdefault((base, source), []).append(index)
        for slot, (key, indices) in enumerate(keys.items()):
            if slot == len(slots):
                slots.append({})
                owners.append(np.zeros((len(places), len(rows)), bool))
            slots[slot][number] = key
            owners[slot][indices, number] = True
    out = []
    for of_rows, owner in zip(slots, owners, strict=True):
        width = max(len(base) for base, _ in of_rows.values())
        positions, sources = np.full((2, len(rows), width), -1)
        for number, (base, source) in of_rows.items():
            positions[number, : len(base)], sources[number, : len(source)] = base, source
        out.append((positions, sources, owner))
    return out
