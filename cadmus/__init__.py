"""The integer virtual machine, its programs, and the small transformers trained on them.

`cadmus.run(text)` runs a program, `cadmus.explain(text)` shows its states token by token, `cadmus.load_model()` loads a
trained model. Every room and module is an attribute that is imported when it is first used: `import cadmus` is enough
to write `cadmus.machine.vm.verdict(text)` or `cadmus.training.checkpoint.load("cadmus-micro")`, and loads neither torch
nor numba itself.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import lazy_loader

if TYPE_CHECKING:
    from pathlib import Path

    from cadmus.models.model import Model

__version__ = "0.1.0"
DEFAULT_MODEL = "cadmus-mini"

_attribute, _, __all__ = lazy_loader.attach(
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


def __getattr__(name: str) -> Any:
    """A room, `run` or `explain`. Raises AttributeError, which says in which room a module of that name lies."""
    try:
        return _attribute(name)
    except AttributeError:
        from pathlib import Path

        here = Path(__file__).parent
        homes = [] if name.startswith("_") else sorted(here.glob(f"**/{name}.py"))
        modules = [".".join(home.relative_to(here.parent).with_suffix("").parts) for home in homes]
        hint = f"did you mean {' or '.join(modules)}?" if modules else f"it has {', '.join(__dir__())}"
        raise AttributeError(f"cadmus has no {name}; {hint}", name=name, obj=sys.modules[__name__]) from None


def __dir__() -> list[str]:
    return sorted(__all__)


def load_model(source: Path | str = DEFAULT_MODEL, seed: int = 0) -> Model:
    """Load a trained model, in evaluation mode on the CPU.

    Args:
        source: the name of a model that ships with the package, or a folder that `cadmus-probe train` wrote.
        seed: which of the runs of a model that ships, where there are several: `cadmus-micro` with seed 1 ships as
            `cadmus-micro-1`; 0 for a folder.

    Returns:
        The model. `cadmus.training.checkpoint.load(source)` also gives what it was trained on, and the record of its
        training.

    Raises:
        ArtifactError: the model does not exist, is damaged, or is not a Cadmus model.
        ValueError: no run of that seed ships.
    """
    from cadmus import shipped
    from cadmus.training import checkpoint  # loads torch

    if seed and f"{source}-{seed}" not in shipped.names("models"):
        raise ValueError(f"no model {source} of seed {seed} ships; there are {', '.join(shipped.names('models'))}")
    return checkpoint.load(f"{source}-{seed}" if seed else source).model.eval()
