"""What ships with the package, data only: `mixtures/NAME.toml`, `recipes/NAME.toml`, `sweeps/NAME.toml` and trained
`models/NAME/`."""

from __future__ import annotations

import tomllib
from pathlib import Path

_ROOT = Path(__file__).parent


def names(kind: str) -> list[str]:
    """The names of what ships of a kind: "mixtures", "recipes", "sweeps" or "models"."""
    entries = (_ROOT / kind).iterdir()
    return sorted(path.stem if path.suffix == ".toml" else path.name for path in entries if _is_item(path))


def path(kind: str, name: str) -> Path:
    """The TOML file of a mixture, recipe or sweep, or the folder of a model. ValueError where no such name ships."""
    for entry in (_ROOT / kind / f"{name}.toml", _ROOT / kind / name):
        if _is_item(entry):
            return entry
    raise ValueError(f"no {name!r} among the {kind} that ship; there are {', '.join(names(kind)) or 'none'}")


def file_of(kind: str, source: Path | str) -> Path | None:
    """The TOML file that a source means, a path or the name of a mixture, recipe or sweep that ships; None for neither.

    What ships wins over a file of its very name, unless that file is TOML.
    """
    file = Path(source)
    if str(source) not in names(kind) or _is_toml(file):
        return file if file.suffix == ".toml" or file.is_file() else None
    return path(kind, str(source))


def _is_toml(file: Path) -> bool:
    try:
        return bool(tomllib.loads(file.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError):
        return False


def _is_item(path: Path) -> bool:
    return (path.suffix == ".toml" and path.is_file()) or (path / "manifest.json").is_file()
