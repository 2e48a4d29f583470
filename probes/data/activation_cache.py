"""Activations on disk, named by what they are of: model, programs, positions and site.

Below the caller's folder lies one folder per content (`content`), and in it one per site: a safetensors file per
batch, and a manifest with their checksums. So a site asked for later is the only one that is run. A site's folder
counts only when it is finished; a run that is cut short leaves none (one that is killed may leave a hidden `.partial-`
folder, which is safe to delete).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cadmus.models import lens
from cadmus.models.model import Model
from cadmus.runtime import artifacts

KIND = "activation cache"
_FORM = 1  # of what is stored, and of the order of its rows

Compute = Callable[[list[str]], dict[str, np.ndarray]]  # sites -> their activations, in one pass
Recall = Callable[[int, Compute], dict[str, np.ndarray]]  # the batch's number, and what to do where it is not stored


def content(
    model: Any, programs: np.ndarray, where: np.ndarray | None, rows_per_batch: int, precision: str
) -> dict[str, Any]:
    """All that activations depend on but the site: JSON-able, equal for equal content.

    ValueError for a model with hooks set: what it computes is not a matter of its weights alone.
    """
    kind = lens.backend(model)
    if _hooked(model):
        raise ValueError(
            f"the {type(model).__name__} has hooks set, and a cache is named by its weights only: "
            "stream without cache=, or outside of the hooks"
        )
    plain = (bool, int, float, str, type(None))
    fields = model.cfg.to_dict() if kind == "cadmus" else vars(model.cfg)
    return {
        "form": _FORM,
        "model": kind,
        "cfg": {name: value for name, value in fields.items() if isinstance(value, plain) and name != "device"},
        "weights": weights_digest(model),
        "programs": _digest(programs),
        "where": None if where is None else _digest(where),
        "rows_per_batch": rows_per_batch,
        "precision": precision,
    }


def _hooked(model: Any) -> bool:
    """Whether hooks are set, TransformerLens's, ours or torch's; the bridge's own, which only look, do not count."""
    points = [] if isinstance(model, Model) else model.hook_dict.values()
    if getattr(model, "listening", False) or any(point.fwd_hooks for point in points):
        return True
    hooks = [fn for m in model.modules() for fn in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    return any(not (getattr(fn, "__module__", None) or "").startswith("transformer_lens.") for fn in hooks)


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 of every tensor of the state dict, with its name, type and shape; wherever and however it lies."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype} {array.shape}\n".encode())
    for start in range(0, len(array), 65536):  # a view may have to be copied: not all of it at once
        digest.update(np.ascontiguousarray(array[start : start + 65536]))
    return digest.hexdigest()


@contextlib.contextmanager
def opened(folder: Path | str, about: dict[str, Any], sites: Sequence[str]) -> Iterator[Recall]:
    """Yields a function that gives batch 0, 1, ...: {site: float32 [rows, features]}, in the order of `sites`.

    It reads the sites that are stored below `folder` for this content, has the others computed and stores them; these
    count when the context is left without an exception, after the last batch. Holds one batch at most. ArtifactError,
    naming the file, where what is stored is damaged.
    """
    home = Path(folder) / artifacts.fingerprint(about)
    stored = [site for site in sites if (home / site / artifacts.MANIFEST).exists()]
    missing = [site for site in sites if site not in stored]
    for site in stored:
        _check(home / site, {**about, "site": site})
    with contextlib.ExitStack() as stack:
        into = {
            site: stack.enter_context(artifacts.new_folder(home / site, KIND, **about, site=site)) for site in missing
        }

        def recall(number: int, compute: Compute) -> dict[str, np.ndarray]:
            name = f"{number:06d}.safetensors"
            found = compute(missing) if missing else {}
            for site, partial in into.items():
                artifacts.write_arrays(partial / name, {"activations": found[site]})
            found |= {site: artifacts.read_arrays(home / site / name)["activations"] for site in stored}
            return {site: found[site] for site in sites}

        yield recall


def _check(folder: Path, about: dict[str, Any]) -> None:
    """ArtifactError unless every file of the folder is what was written, and of this content."""
    try:
        manifest = artifacts.read_manifest(folder, KIND)
        for name, expected in about.items():
            if manifest.get(name) != expected:
                raise artifacts.ArtifactError(f"{folder} is of {name} {manifest.get(name)}, not {expected}")
    except artifacts.ArtifactError as error:
        raise artifacts.ArtifactError(f"{error}: delete {folder}, and it is made anew") from error
