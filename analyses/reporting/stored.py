"""Finished measurements beside a page, as tables by fingerprint, so that what is finished is not measured again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

import cadmus
import probes
from cadmus.runtime import artifacts

KIND = "measurement"
_PAGES = {"page", "figures", "summary", "overview", "comparison"}  # modules that measure nothing


def tables(
    folder: Path | str | None, name: str, fingerprint: str, measure: Callable[[], Mapping[str, pd.DataFrame]]
) -> dict[str, pd.DataFrame]:
    """The tables of a measurement: read from `folder`/`name`-`fingerprint` where they are there, measured and saved
    otherwise. None for the folder: nothing is saved.

    The tables are the same whether they were measured or read.
    """
    if folder is None:
        return dict(measure())
    place = Path(folder) / f"{name}-{fingerprint}"
    stored = read(place)
    if stored is not None:
        return stored
    ignored_by_git(folder)
    with artifacts.new_folder(place, KIND, measurement=name) as partial:
        for table_name, table in measure().items():
            table.to_parquet(partial / f"{table_name}.parquet", index=False)
    stored = read(place)
    assert stored is not None, "just written"
    return stored


def read(place: Path) -> dict[str, pd.DataFrame] | None:
    """The tables saved at a place; None where there are none, or damaged ones."""
    if not place.exists():
        return None
    try:
        files = artifacts.read_manifest(place, KIND)["files"]
    except artifacts.ArtifactError:
        return None
    return {Path(file).stem: pd.read_parquet(place / file) for file in files}


def ignored_by_git(folder: Path | str) -> None:
    """Make a folder for what need not be committed, which git leaves out."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    artifacts.write_bytes(Path(folder) / ".gitignore", b"*\n")


def code_fingerprint(*studies: str) -> str:
    """16 hexadecimal digits that name the code of a measurement: cadmus, probes and the studies named, without what
    only makes pages of them."""
    folders = [Path(package.__file__).parent for package in (cadmus, probes)]  # type: ignore[arg-type]
    folders += [Path(__file__).parents[1] / "studies" / study for study in studies]
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            if path.stem not in _PAGES:
                digest.update(path.relative_to(folder).as_posix().encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
