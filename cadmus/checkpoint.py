"""Trained models on disk: weights under HookedTransformer's names, and everything that says where they come from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

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


# --- of a run in progress --------------------------------------------------------------------------------------------

STATE = "state.safetensors"  # everything that a run needs to go on, in one file: whole or absent


def save_state(folder: Path, model: Model, optimizers: list[torch.optim.Optimizer], progress: dict[str, Any]) -> None:
    """Write a run's weights, its optimizers' moments and `progress` (JSON-able) to `folder`."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for k, optimizer in enumerate(optimizers):
        for i, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{k}.{i}.{name}": tensor for name, tensor in state.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = safetensors.torch.save(tensors, {"progress": json.dumps(progress)})
    artifacts.write_bytes(folder / STATE, data)


def load_state(
    folder: Path, model: Model, optimizers: list[torch.optim.Optimizer], run: Callable[[int], dict[str, Any]]
) -> dict[str, Any] | None:
    """Put a run's state back into model and optimizers; returns its progress, None where `folder` has no state.

    `run(step)` says what a run's state after a step depends on. ValueError, naming the difference, where that is not
    what was saved (`progress["run"]`); ArtifactError where the state is damaged.
    """
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            progress = json.loads(file.metadata()["progress"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise artifacts.ArtifactError(f"{path} is damaged ({error}); delete it to start anew") from error
    wanted, found = json.loads(json.dumps(run(progress["step"]))), progress["run"]
    if found != wanted:
        difference = ", ".join(_differences(found, wanted))
        raise ValueError(
            f"{path} is the state of another run ({difference}); delete it to start anew, or choose another folder"
        )
    model.load_state_dict({name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")})
    for k, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"optimizer.{k}."):
                i, key = name.removeprefix(f"optimizer.{k}.").split(".")
                state.setdefault(int(i), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Where two nested dictionaries differ: `config.lr 0.01, now 0.02`."""
    said = []
    for name in {**found, **wanted}:
        old, new = found.get(name), wanted.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            said += [f"{name}.{inner}" for inner in _differences(old, new)]
        elif old != new:
            said.append(f"{name} {old}, now {new}")
    return said


def drop_state(folder: Path | str) -> None:
    """Remove a run's state: it is done."""
    (Path(folder) / STATE).unlink(missing_ok=True)


def save_snapshot(folder: Path, step: int, model: Model) -> Path:
    """Keep the weights after a step; `load_snapshots` reads them."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return artifacts.write_bytes(folder / "snapshots" / f"step-{step:07d}.safetensors", safetensors.torch.save(weights))


def snapshots(folder: Path | str) -> dict[int, Path]:
    """The snapshots of a run: the step after which each was kept, and its file."""
    return {int(path.stem.removeprefix("step-")): path for path in sorted(Path(folder).glob("snapshots/step-*"))}
