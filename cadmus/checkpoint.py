"""Trained models on disk: weights under HookedTransformer's names, and everything that says where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

from cadmus import artifacts
from cadmus.mixture import Mixture, from_dict, to_dict
from cadmus.model import Model, ModelConfig


@dataclass(frozen=True)
class Checkpoint:
    """A model with the mixture it was trained on and the record of its training (JSON-able)."""

    model: Model
    mixture: Mixture
    record: dict[str, Any]
    fingerprint: str

    @property
    def seed(self) -> int:
        """The seed of the initial weights: what an untrained twin starts from."""
        return self.record["config"]["seed"]


def save(folder: Path | str, model: Model, mixture: Mixture, record: dict[str, Any]) -> Checkpoint:
    """Write model.safetensors, training.json and the manifest; returns what `load` would."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    data = safetensors.torch.save(weights)
    about = {"cfg": model.cfg.to_dict(), "mixture": to_dict(mixture), **artifacts.provenance()}
    with artifacts.new_folder(folder, "model", **about) as partial:
        artifacts.write_bytes(partial / "model.safetensors", data)
        artifacts.write_json(partial / "training.json", record)
    return load(folder)


def load(folder: Path | str) -> Checkpoint:
    """Read a model folder; ArtifactError for one that is missing, half-written or damaged."""
    folder = Path(folder)
    manifest = artifacts.read_manifest(folder, "model")
    model = Model(ModelConfig(**manifest["cfg"]))
    model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    record = artifacts.read_json(folder / "training.json")
    return Checkpoint(
        model, from_dict(manifest["mixture"]), record, manifest["files"]["model.safetensors"]["sha256"][:16]
    )
