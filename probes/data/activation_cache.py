"""Activations on disk, named by their content: model, programs, positions and site.

Below the caller's folder lies one folder per content (`content`), and in it one per site: a safetensors file per
batch, and a manifest with their checksums. So a later call runs the model only for sites that are missing. A site's
folder counts only when it is complete; a run that is cut short leaves none (one that is killed may leave a hidden
`.partial-` folder, which is safe to delete).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cadmus.machine.tokens import text_list
from cadmus.models import backends
from cadmus.models.compilation import original_model
from cadmus.models.model import Model
from cadmus.runtime import artifacts
from probes.data.token_map import ModelInputs

KIND = "activation cache"
_FORM = 1  # version of the files, and of the order of their rows

Compute = Callable[[list[str]], dict[str, np.ndarray]]
"""Sites -> their activations float32 [rows, features], in one pass."""

Recall = Callable[[int, Compute], dict[str, np.ndarray]]
"""The number of a batch, and how to compute the sites that are not stored -> {site: float32 [rows, features]}."""


def content(
    model: Any,
    programs: np.ndarray,
    where: np.ndarray | None,
    rows_per_batch: int,
    precision: str,
    inputs: ModelInputs | None = None,
) -> dict[str, Any]:
    """Everything that activations depend on but the site: fit for JSON, equal for equal content; inputs: what a model
    that is not ours reads for the programs.

    Raises ValueError for a model with hooks: its activations do not depend on its weights alone.
    """
    model = original_model(model)
    kind = backends.backend(model) if inputs is None else type(model).__name__
    if _has_hooks(model):
        raise ValueError(
            f"the {type(model).__name__} has hooks set, and a cache is named by its weights only: "
            "read without cache=, or outside of the hooks"
        )
    plain = (bool, int, float, str, type(None))
    fields = model.cfg.to_dict() if isinstance(model, Model) else vars(model.cfg)
    return ({} if inputs is None else {"inputs": _inputs_digest(inputs)}) | {
        "form": _FORM,
        "model": kind,
        "cfg": {name: value for name, value in fields.items() if isinstance(value, plain) and name != "device"},
        "weights": weights_digest(model),
        "programs": _digest(programs),
        "where": None if where is None else _digest(where),
        "rows_per_batch": rows_per_batch,
        "precision": precision,
    }


def _has_hooks(model: Any) -> bool:
    """Whether hooks are set, TransformerLens's, ours or torch's; the bridge's own, which only read, do not count."""
    points = [] if isinstance(model, Model) else model.hook_dict.values()
    if getattr(model, "has_hooks", False) or any(point.fwd_hooks for point in points):
        return True
    hooks = [fn for m in model.modules() for fn in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    return any(not (getattr(fn, "__module__", None) or "").startswith("transformer_lens.") for fn in hooks)


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 of the name, dtype, shape and values of every tensor of the state dict, on any device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _inputs_digest(inputs: ModelInputs) -> str:
    lengths = [len(ids) for ids in inputs.ids]
    return _digest(np.concatenate([lengths, *inputs.ids, inputs.positions.ravel()]).astype(np.int64))


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype} {array.shape}\n".encode())
    for start in range(0, len(array), 65536):  # a view may have to be copied: not all of it at once
        digest.update(np.ascontiguousarray(array[start : start + 65536]).data)
    return digest.hexdigest()


def open_sites(
    folder: Path | str, current: Callable[[], dict[str, Any]], sites: Sequence[str]
) -> contextlib.AbstractContextManager[Recall]:
    """A context whose `Recall` returns batch 0, 1, ... as {site: float32 [rows, features]}, in the order of `sites`.

    current: gives the `content` as it now is. What is named here is compared with it when the work begins and before
    anything is stored, since weights and programs can change between a call and its work.

    It reads the sites that are stored below `folder` for this content, computes the others and stores them; these
    count when the context is left without an exception, after the last batch. Only one batch is held. Raises
    ArtifactError, naming the file, for damaged files, and ValueError where the content has changed meanwhile.
    """
    sites = text_list(sites, "sites")
    content = current()
    return _open(Path(folder), content, lambda: _check_unchanged(content, current()), sites)


@contextlib.contextmanager
def _open(
    folder: Path, content: dict[str, Any], check_unchanged: Callable[[], None], sites: Sequence[str]
) -> Iterator[Recall]:
    """`open_sites` of the content at the time of the call."""
    check_unchanged()
    home = folder / artifacts.fingerprint(content)
    stored = [site for site in sites if (home / site / artifacts.MANIFEST).exists()]
    missing = [site for site in sites if site not in stored]
    for site in stored:
        _check(home / site, {**content, "site": site})
    with contextlib.ExitStack() as stack:
        folders = {
            site: stack.enter_context(artifacts.new_folder(home / site, KIND, **content, site=site)) for site in missing
        }

        def recall(number: int, compute: Compute) -> dict[str, np.ndarray]:
            name = f"{number:06d}.safetensors"
            batch = compute(missing) if missing else {}
            for site, partial in folders.items():
                artifacts.write_arrays(partial / name, {"activations": batch[site]})
            batch |= {site: artifacts.read_arrays(home / site / name)["activations"] for site in stored}
            return {site: batch[site] for site in sites}

        yield recall
        check_unchanged()


def _check_unchanged(content: dict[str, Any], present: dict[str, Any]) -> None:
    """Raise ValueError, naming what has changed, unless the two are equal."""
    changed = ", ".join(name for name in content if present.get(name) != content[name])
    if changed:
        raise ValueError(
            f"the activations asked for are not those of the model and programs as they are now ({changed} changed); "
            "ask for them anew after every change, nothing was stored"
        )


def _check(folder: Path, content: dict[str, Any]) -> None:
    """Raise ArtifactError unless every file of the folder is as it was written, and of this content."""
    try:
        manifest = artifacts.read_manifest(folder, KIND)
        for name, expected in content.items():
            if manifest.get(name) != expected:
                raise artifacts.ArtifactError(f"{folder} is of {name} {manifest.get(name)}, not {expected}")
    except artifacts.ArtifactError as error:
        raise artifacts.ArtifactError(f"{error}: delete {folder}, and it is computed anew") from error
