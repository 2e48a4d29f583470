"""The integer virtual machine, its programs, and the small transformers trained on them.

`cadmus.run(text)` runs a program, `cadmus.explain(text)` shows its states token by token, `cadmus.load_model()` loads a
trained model. Every room and module is an attribute that is imported when it is first used: `import cadmus` is enough
to write `cadmus.machine.vm.verdict(text)` or `cadmus.training.checkpoint.load("cadmus-micro")`, and loads neither torch
nor numba itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from pathlib import Path

    from cadmus.models.model import Model

__version__ = "0.1.0"
DEFAULT_MODEL = "cadmus-mini"

__getattr__, _, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "corpora",
        "machine",
        "models",
        "programs",
        "properties",
        "runtime",
        "shipped",
        "states",
        "statistics",
        "training",
    ],
    submod_attrs={"machine.vm": ["explain", "run"]},
)
__all__ += ["DEFAULT_MODEL", "__version__", "load_model"]


def __dir__() -> list[str]:
    return sorted(__all__)


def load_model(source: Path | str = DEFAULT_MODEL, seed: int = 0) -> Model:
    """Load a trained model, in evaluation mode on the CPU.

    Args:
        source: the name of a model that ships with the package, or a folder that `cadmus-probe train` wrote.
        seed: which of the runs of a model that ships, where there are several: `cadmus-micro` with seed 1 ships as
            `cadmus-micro-1`.

    Returns:
        The model. `cadmus.training.checkpoint.load(source)` also gives what it was trained on, and the record of its
        training.

    Raises:
        ArtifactError: the model does not exist, is damaged, or is not a Cadmus model.
    """
    from cadmus.training import checkpoint  # loads torch

    return checkpoint.load(f"{source}-{seed}" if seed else source).model.eval()
