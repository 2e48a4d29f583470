"""What ships with the package, data only: `mixtures/NAME.toml`, `recipes/NAME.toml` and trained `models/NAME/`."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path(__file__).parent


def names(kind: str) -> list[str]:
    """The names of what ships of a kind: "mixtures", "recipes" or "models"."""
    entries = (_ROOT / kind).iterdir()
    return sorted(path.stem if path.suffix == ".toml" else path.name for path in entries if _is_item(path))


def path(kind: str, name: str) -> Path:
    """The TOML file of a mixture or recipe, or the folder of a model. Raises ValueError where no such name ships."""
    for entry in (_ROOT / kind / f"{name}.toml", _ROOT / kind / name):
        if _is_item(entry):
            return entry
    raise ValueError(f"no {name!r} among the {kind} that ship; there are {', '.join(names(kind)) or 'none'}")


def _is_item(path: Path) -> bool:
    return (path.suffix == ".toml" and path.is_file()) or (path / "manifest.json").is_file()
