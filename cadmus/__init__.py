"""The integer virtual machine, its programs, and the small transformers trained on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from cadmus.models.model import Model

DEFAULT_MODEL = "cadmus-mini"


def load_model(source: Path | str = DEFAULT_MODEL, seed: int = 0) -> Model:
    """A trained model, in evaluation mode on the CPU: one that ships with the package, by name, or a model folder.

    seed: which of the runs of a model that ships, where there are several; `cadmus-micro` with seed 1 ships as
    `cadmus-micro-1`. `cadmus.training.checkpoint.load(source)` also gives what a model was trained on and the record of
    its training. Raises ArtifactError where it is not there, damaged or no Cadmus model.
    """
    from cadmus.training import checkpoint  # loads torch

    return checkpoint.load(f"{source}-{seed}" if seed else source).model.eval()
