"""Trained models on disk: weights under HookedTransformer's names, and everything that says where they come from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from cadmus import shipped
from cadmus.machine import vm
from cadmus.models.compilation import original_model
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from cadmus.programs.mixture import Mixture, check_storable, from_dict, to_dict
from cadmus.runtime import artifacts
from cadmus.runtime.checks import MAX_SEED

STATE = "state.safetensors"  # everything that a run needs to go on, in one file: whole or absent
_OTHERS = {  # hashes in a state, and what another one means
    "rates": "other learning rates up to here: other steps, warmup_steps or decay_share",
    "fingerprint": "another fingerprint: other programs",
}
_SNAPSHOTS = "snapshots/step-*.safetensors"
_SECOND = "2:"  # before the checksum of a state or snapshot, in its second form
_FILES = (artifacts.MANIFEST, "model.safetensors", "training.json", STATE, _SNAPSHOTS)  # of a model, or a part of one


@dataclass(frozen=True)
class Checkpoint:
    """A trained model, and everything that says where it comes from."""

    model: Model
    """The model, in training mode, on the CPU where it was just read."""

    mixture: Mixture
    """What it was trained on."""

    record: dict[str, Any]
    """The record of its training (JSON-able): config, corpus, totals, log, evaluations. It has `config.seed` at least;
    what else it lacks, pages leave out."""

    fingerprint: str
    """The first 16 digits of the SHA-256 of its weights' file."""

    def __repr__(self) -> str:
        return f"Checkpoint({self.model!r}, mixture {self.mixture.name!r}, fingerprint {self.fingerprint})"

    @property
    def seed(self) -> int:
        """The seed of the initial weights: what an untrained twin starts from. Raises ArtifactError where the record of
        an older folder does not state it."""
        return _seed(self.record, f"the record of model {self.fingerprint}")

    @property
    def corpus_fingerprint(self) -> str:
        """The fingerprint of the programs that it was trained on; empty where the record does not state it."""
        return self.record.get("corpus", {}).get("fingerprint", "")


def _seed(record: Any, name: str) -> int:
    """The seed that a record states; ArtifactError, which calls the record `name`, where none starts from it."""
    config = record.get("config") if isinstance(record, dict) else None
    seed = config.get("seed") if isinstance(config, dict) else None
    if not (isinstance(seed, int) and 0 <= seed <= MAX_SEED):
        raise artifacts.ArtifactError(
            f"{name} states config.seed = {seed}, expected a whole number in 0..{MAX_SEED}, from which the untrained "
            "twin starts; save the model with {'config': {'seed': 0}} at least"
        )
    return seed


def save(folder: Path | str, model: Model, mixture: Mixture, record: dict[str, Any]) -> Checkpoint:
    """Write model.safetensors, training.json and the manifest; returns what `load` would.

    record: as `cadmus.training.loop.train` returns it, or `{"config": {"seed": 0}}` at least: the seed of the initial
    weights, from which the untrained twin starts.

    A compiled model is stored as the one that it was made of. Raises TypeError for what is no Cadmus model, and
    ValueError for one whose weights are not those of its config, for a record without that seed, and for one that names
    snapshots which `folder` lacks, before anything in `folder` is replaced.
    """
    model = original_model(model)
    _check_complete(model)
    check_storable(mixture)
    _seed(record, "the record")
    present = {_step(path) for path in Path(folder).glob(_SNAPSHOTS)}
    missing = sorted(set(record.get("snapshots", ())) - present)
    if missing:
        raise ValueError(f"the record names snapshots after steps {missing}, which {folder} lacks; take them out of it")
    about = {"cfg": model.cfg.to_dict(), "mixture": to_dict(mixture), **artifacts.provenance()}
    with artifacts.new_folder(folder, "model", **about) as partial:
        artifacts.write_bytes(partial / "model.safetensors", _serialize(model))
        artifacts.write_json(partial / "training.json", record)
        for step in record.get("snapshots", ()):  # written on the way: part of the folder from now on
            path = snapshots(folder)[step]
            _read_snapshot(path)
            artifacts.write_bytes(partial / path.relative_to(folder), path.read_bytes())
    return load(folder)


def _check_complete(model: Model) -> None:
    """TypeError for what is no model of ours, ValueError for weights that are not its config's, or not finite."""
    if not isinstance(model, Model):
        raise TypeError(f"a {type(model).__name__} is no cadmus.models.model.Model; pass the model that it was made of")
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in Model(model.cfg).state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in {**expected, **shapes}:
        if shapes.get(name) != expected.get(name):
            raise ValueError(
                f"{name} has shape {shapes.get(name, 'none')}, the model's config asks for "
                f"{expected.get(name, 'none')}: save a model as Model(cfg) makes it"
            )
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} has entries that are not finite: it completes nothing, and none is saved")


def _serialize(model: Model) -> bytes:
    """The weights as a safetensors file."""
    return safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()})


def load(source: Path | str) -> Checkpoint:
    """Read a model folder, or a model that ships with the package, by name (`shipped.names("models")`).

    Raises ArtifactError, in one line, for a folder that is missing, holds no model, or a half-written or damaged one,
    and for weights of another vocabulary or other shapes. Nothing that is read is executed.
    """
    folder = _folder(source)
    if not any(path for pattern in _FILES for path in folder.glob(pattern)):
        raise artifacts.ArtifactError(
            f"{folder} holds no model, finished or half-written; expected {artifacts.MANIFEST}, model.safetensors and "
            f"training.json, as cadmus-probe train writes them; pass such a folder, or name one that ships: {_ships()}"
        )
    manifest = artifacts.read_manifest(folder, "model")
    path = folder / "model.safetensors"
    model = Model(_config(manifest, path))
    model.load_state_dict(_weights(path, model))
    record = artifacts.read_json(folder / "training.json")
    return Checkpoint(model, from_dict(manifest["mixture"]), record, manifest["files"][path.name]["sha256"][:16])


def _ships() -> str:
    """The names of the models that ship."""
    return ", ".join(shipped.names("models")) or "none"


def _folder(source: Path | str) -> Path:
    """The folder meant by a path, or by the name of a model that ships; ArtifactError where there is none."""
    path = Path(source)
    if path.is_file():
        with path.open("rb") as file:
            begin = file.read(2)
        if begin == b"PK" or begin[:1] == b"\x80":  # torch.save's archive, and a bare pickle
            raise artifacts.ArtifactError(
                f"{path} is a pickle, which can run any code: it was not opened; pass the folder of a model that "
                "cadmus-probe train wrote, or convert it to safetensors where you trust it"
            )
        raise artifacts.ArtifactError(f"{path} is a file; pass the folder of a model that cadmus-probe train wrote")
    present = path.is_dir() and any(match for pattern in _FILES for match in path.glob(pattern))
    if not present and str(source) in shipped.names("models"):
        return shipped.path("models", str(source))
    if not path.exists():
        raise artifacts.ArtifactError(
            f"model folder {path} does not exist; train one, or name one that ships: {_ships()}"
        )
    return path


def _config(manifest: dict[str, Any], path: Path) -> ModelConfig:
    """The config in the manifest of the model at `path`; ArtifactError unless it is a Cadmus model of this version."""
    try:
        cfg = ModelConfig(**manifest["cfg"])
    except (TypeError, ValueError, KeyError) as error:
        raise artifacts.ArtifactError(f"{path.parent}: its model is not one of this version ({error})") from error
    if cfg.d_vocab != len(vm.VOCAB):
        raise artifacts.ArtifactError(
            f"{path.parent} is of a vocabulary of {cfg.d_vocab} tokens, the machine has {len(vm.VOCAB)}; "
            "it is no Cadmus model"
        )
    return cfg


def _weights(path: Path, model: Model) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; ArtifactError unless they are the model's by name and shape."""
    try:
        weights = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise artifacts.ArtifactError(
            f"{path} is not a safetensors file ({error}); delete the folder and make the model again"
        ) from error
    _check_shapes(path, weights, model)
    return weights


def _check_shapes(path: Path, weights: dict[str, torch.Tensor], model: Model) -> None:
    """ArtifactError unless the tensors are the model's by name and shape."""
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in {**expected, **shapes}:
        if shapes.get(name) != expected.get(name):
            raise artifacts.ArtifactError(
                f"{path}: {name} has shape {shapes.get(name, 'none')}, its config asks for "
                f"{expected.get(name, 'none')}; delete the folder and make the model again"
            )


# --- a run in progress -----------------------------------------------------------------------------------------------


def save_state(
    folder: Path, models: dict[str, Model], optimizers: list[torch.optim.Optimizer], progress: dict[str, Any]
) -> None:
    """Write a run's state to `folder`: weights, optimizers' moments and progress.

    models: `model`, and `average` where the run keeps one; progress: JSON-able.
    """
    tensors = {f"{kind}.{name}": t for kind, model in models.items() for name, t in model.state_dict().items()}
    for k, optimizer in enumerate(optimizers):
        for i, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{k}.{i}.{name}": tensor for name, tensor in state.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    artifacts.write_bytes(folder / STATE, _with_checksum(tensors, progress=json.dumps(progress)))


def _with_checksum(tensors: dict[str, torch.Tensor], **texts: str) -> bytes:
    """A safetensors file with a checksum of all that it holds: the format has none."""
    return safetensors.torch.save(tensors, {**texts, "sha256": _SECOND + _digest(tensors, texts)})


def _digest(tensors: dict[str, torch.Tensor], texts: dict[str, str], form: str = _SECOND) -> str:
    """The checksum of a file's tensors and texts; the first form left out dtypes and shapes."""
    digest = hashlib.sha256((json.dumps(texts, sort_keys=True) if form == _SECOND else texts["progress"]).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update((f"{name} {tensor.dtype} {tuple(tensor.shape)}" if form == _SECOND else name).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_checked(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """The texts and tensors of a file that `_with_checksum` made; ValueError and the like where it is damaged."""
    with safetensors.safe_open(path, "pt") as file:
        texts = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    expected = texts.pop("sha256", "")
    form = _SECOND if expected.startswith(_SECOND) else ""
    if expected != form + _digest(tensors, texts, form):
        raise ValueError("wrong checksum")
    return texts, tensors


def load_state(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]] | None:
    """Read a run's state: its progress and its tensors by name; None where `folder` has none.

    `restore` puts the tensors back. Raises ArtifactError where the state is damaged.
    """
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        texts, tensors = _read_checked(path)
        return json.loads(texts["progress"]), tensors
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise artifacts.ArtifactError(f"{path} is damaged ({error}); delete it to start anew") from error


def restore(
    tensors: dict[str, torch.Tensor], models: dict[str, Model], optimizers: list[torch.optim.Optimizer]
) -> None:
    """Put the tensors of a state back into the models and optimizers that `save_state` took them from."""
    for kind, model in models.items():
        weights = {name.removeprefix(f"{kind}."): t for name, t in tensors.items() if name.startswith(f"{kind}.")}
        model.load_state_dict(weights)
    for k, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"optimizer.{k}."):
                i, key = name.removeprefix(f"optimizer.{k}.").split(".")
                state.setdefault(int(i), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def check_same_run(folder: Path, stored: dict[str, Any], current: dict[str, Any]) -> None:
    """Raise ValueError, naming the difference, unless the state in `folder` is of the run that would go on from it.

    stored, current: what the weights of each are a function of (JSON-able).
    """
    current = json.loads(json.dumps(current))
    if stored != current:
        raise ValueError(
            f"{folder / STATE} is the state of another run ({', '.join(_differences(stored, current))}); "
            "delete it to start anew, or choose another folder"
        )


def _differences(stored: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """Where two nested dictionaries differ: `config.lr 0.01, now 0.02`, and of hashes what that means."""
    differences = []
    for name in {**stored, **current}:
        old, new = stored.get(name), current.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            differences += [f"{name}.{inner}" for inner in _differences(old, new)]
        elif old != new:
            differences.append(_OTHERS.get(name, f"{name} {old}, now {new}"))
    return differences


def drop_snapshots(folder: Path) -> None:
    """Delete the snapshots of an abandoned run; ValueError where they are those of a finished model."""
    if (folder / artifacts.MANIFEST).exists():
        raise ValueError(f"{folder} holds a finished model, which has no state to go on from; choose another folder")
    for path in folder.glob(_SNAPSHOTS):
        path.unlink()


def drop_state(folder: Path | str) -> None:
    """Delete the state of a run that is done."""
    (Path(folder) / STATE).unlink(missing_ok=True)


def save_snapshot(folder: Path, step: int, model: Model) -> Path:
    """Write the weights after a step; `load_snapshot` reads them."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return artifacts.write_bytes(folder / "snapshots" / f"step-{step:07d}.safetensors", _with_checksum(tensors))


def snapshots(source: Path | str) -> dict[int, Path]:
    """The snapshots of a run by the step after which each was written. `source` as `load` takes it."""
    paths = sorted(_folder(source).glob(_SNAPSHOTS))
    return {_step(path): path for path in paths}


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def load_snapshot(checkpoint: Checkpoint, path: Path) -> Model:
    """The model of a run as it was at one of its snapshots.

    Raises ArtifactError for a snapshot that is damaged, or has other shapes.
    """
    weights = _read_snapshot(path)
    model = Model(checkpoint.model.cfg)
    _check_shapes(path, weights, model)
    model.load_state_dict(weights)
    return model


def _read_snapshot(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a snapshot, by its own checksum; one of an earlier version has none, but stands in a manifest."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            has_checksum = bool(file.metadata())
        if has_checksum:
            return _read_checked(path)[1]
        folder = path.parents[1]
        if (folder / artifacts.MANIFEST).exists():
            artifacts.check_file(folder, path.relative_to(folder).as_posix())
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise artifacts.ArtifactError(
            f"{path} is damaged ({error}); delete the folder and make the run again"
        ) from error
