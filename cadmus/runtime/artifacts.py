"""Files that are whole or absent: atomic writes, checksummed folders with a manifest, content fingerprints.

A finished folder holds `manifest.json`, written last, with the size and SHA-256 of every other file. While it is being
made, everything lies in a hidden folder inside it; what fails or is interrupted leaves nothing under a final name. A
file that no manifest of ours lists is never overwritten.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy

from cadmus.machine import vm

if TYPE_CHECKING:
    import pandas as pd

MANIFEST = "manifest.json"
_CHECKSUM = "checksum"  # the field of a manifest that covers all others
_PARTIAL = ".partial-"
_USUAL_FILES = {  # files that such a folder usually holds, checked before any work is done
    "report": ("index.html", "report.md", "figures/*.png", "tables/*.csv", "tables/*.parquet"),
    "model": ("model.safetensors", "training.json"),
}
_BEGUN = {"state.safetensors": "model", "sweep.json": "sweep"}  # file -> what was begun where it lies


class ArtifactError(ValueError):
    """A file or folder that is missing, half-written, damaged or of another kind."""


def write_bytes(path: Path | str, data: bytes | memoryview) -> Path:
    """Write `data` to `path` atomically: a reader sees the old file or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.parent / f"{_PARTIAL}{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with _file_named_in_errors(path, hidden=name):
            with os.fdopen(os.open(name, flags, 0o666), "wb") as file:  # less the umask
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    return path


@contextlib.contextmanager
def _file_named_in_errors(path: Path, hidden: Path | None = None) -> Iterator[None]:
    """Let a write that fails (a full disk) say where: such an OSError does not name the file by itself, or names the
    hidden one beside it that a user never saw."""
    try:
        yield
    except OSError as error:
        if error.filename in (hidden, str(hidden)) and hidden is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        if error.errno is not None:
            error.filename = error.filename or str(path)
        raise


def read_text(path: Path | str) -> str:
    """Read UTF-8 text, with or without a byte order mark. Raises ArtifactError, naming the file, for anything else."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ArtifactError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); name a text file"
        ) from error


def write_json(path: Path | str, value: Any) -> Path:
    """Write `value` as readable JSON, atomically."""
    return write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path | str) -> Any:
    """Read JSON. Raises ArtifactError for anything else."""
    try:
        return json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise ArtifactError(f"{path} is not JSON ({error}); delete it and make it again") from error


def read_table(path: Path | str) -> pd.DataFrame:
    """Read a table (Parquet). Raises ArtifactError for anything else."""
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:  # Arrow's own is a ValueError
        raise ArtifactError(f"{path} is damaged ({error}); delete it and make it again") from error


def write_arrays(path: Path | str, arrays: dict[str, np.ndarray]) -> Path:
    """Write named arrays as one safetensors file, atomically."""
    return write_bytes(
        path, safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    )


def read_arrays(path: Path | str) -> dict[str, np.ndarray]:
    """Read a safetensors file. Raises ArtifactError for a damaged one."""
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ArtifactError(f"{path} is damaged ({error}); delete it and make it again") from error


def write_array(path: Path | str, array: np.ndarray) -> Path:
    """Write one array as .npy, atomically."""
    buffer = io.BytesIO()  # not closed: a write that fails leaves a traceback that still looks into it
    np.save(buffer, array, allow_pickle=False)
    return write_bytes(path, buffer.getbuffer())


def read_array(path: Path | str) -> np.ndarray:
    """Open a .npy file; its content is read from disk where it is used. Raises ArtifactError for a damaged one."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); delete it and make it again") from error


def fingerprint(value: Any) -> str:
    """16 hexadecimal digits that name a JSON-able value: the same for the same content, whatever its key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def machine_fingerprint() -> str:
    """The fingerprint of the machine: its version, tokens, signatures and limits. Stored with what it computed."""
    rows = [(row.token, row.signature) for row in vm.INSTRUCTIONS.values()]
    return fingerprint([vm.VERSION, rows, vm.MAX_INT, vm.MAX_TAG, vm.MAX_LENGTH, vm.MAX_CALLS, vm.FUEL])


def provenance() -> dict[str, Any]:
    """What a result was computed with: package versions and, in a checkout, the git revision."""
    names = ("cadmus-probe", "torch", "numpy", "numba", "scikit-learn")
    versions = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    revision = None
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        root = Path(__file__).parents[2]
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        if (root / ".git").exists():
            revision = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return {"versions": versions, "git": revision}


# --- folders ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def new_folder(folder: Path | str, kind: str, *, resume: str | None = None, **about: Any) -> Iterator[Path]:
    """Make or renew the folder `folder`: yields a hidden place to write its files to.

    On success the files move to their final names, in place of those of an earlier manifest, and the new manifest
    (`kind`, the keywords as they are then, the machine's fingerprint, every file's size and SHA-256) moves last; on
    failure nothing of it stays. With `resume`, which names the content, the hidden place stays after an
    interruption or a failed write (not after a ValueError), and a later call with the same name finds it as it was;
    hidden files in it, a journal for instance, get no final name. Raises ArtifactError where the folder holds another
    kind, or a file that is not ours where one of the new ones would go.
    """
    check_free(folder, kind)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if resume is None:
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder))
    else:
        partial = folder / f"{_PARTIAL}{resume}"
        partial.mkdir(exist_ok=True)
        for path in [*folder.glob(f"{_PARTIAL}*"), *partial.rglob(f"{_PARTIAL}*")]:
            if path.is_file():  # it was being written when an earlier call was killed
                path.unlink()
    keep = resume is not None
    moving = False
    try:
        with _file_named_in_errors(folder):
            yield partial
        files = _files_in(partial)
        descriptions = {name: describe_file(partial / name) for name in files}
        _check_not_in_the_way(folder, kind, descriptions)
        write_manifest(partial, {"kind": kind, "machine": machine_fingerprint(), **about, "files": descriptions})
        moving = True
        _move(partial, folder, files)
        keep = moving = False
    except ArtifactError:
        raise
    except ValueError:  # the request itself is at fault: going on would end here again
        keep = False
        raise
    finally:
        if not keep and not moving:  # its manifest says whose the files are that have moved
            shutil.rmtree(partial, ignore_errors=True)


def _files_in(partial: Path) -> list[str]:
    """The files that get a final name: all that are not hidden, the manifest left out."""
    paths = (path.relative_to(partial) for path in partial.rglob("*") if path.is_file())
    return sorted({path.as_posix() for path in paths if not path.name.startswith(".")} - {MANIFEST})


def _move(partial: Path, folder: Path, files: list[str]) -> None:
    """Put the files in place of those of the earlier manifest; the new manifest moves last."""
    for name in _listed_files(folder, folder) - set(files):
        (folder / name).unlink(missing_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial / name, folder / name)
    os.replace(partial / MANIFEST, folder / MANIFEST)


def check_free(folder: Path | str, kind: str) -> None:
    """Raise ArtifactError where a folder holds something of another kind, finished or begun, which `new_folder(folder,
    kind)` would replace, or files that are not ours under names that it needs."""
    folder = Path(folder)
    begun = next((begun for file, begun in _BEGUN.items() if (folder / file).is_file()), kind)
    present_kind = _earlier_manifest(folder).get("kind", begun)
    if present_kind != kind:
        raise ArtifactError(f"{folder} holds a {present_kind}, which a {kind} would replace; choose another folder")
    patterns = _USUAL_FILES.get(kind, ())
    usual = [path.relative_to(folder).as_posix() for pattern in patterns for path in folder.glob(pattern)]
    _check_not_in_the_way(folder, kind, dict.fromkeys(sorted(usual)))


def _check_not_in_the_way(folder: Path, kind: str, files: dict[str, dict[str, Any] | None]) -> None:
    """Raise ArtifactError for what lies where one of `files`, or the manifest, would go, and is in no manifest of ours.

    A manifest of ours may also lie in the hidden place of a folder that was killed while its files moved. What has the
    same content already may stay.
    """
    parents = {parent for name in files for parent in Path(name).parents if (folder / parent).is_file()}
    present = [name for name in files if os.path.lexists(folder / name)] + sorted(map(Path.as_posix, parents))
    hidden = [_listed_files(path.parent, folder) for path in sorted(folder.glob(f"{_PARTIAL}*/{MANIFEST}"))]
    ours = set().union(*hidden, _listed_files(folder, folder))  # this one read last: it may just have moved here
    in_the_way = [name for name in present if name not in ours and not _is_same(folder / name, files.get(name))]
    if os.path.lexists(folder / MANIFEST) and not _earlier_manifest(folder):
        in_the_way.append(MANIFEST)
    if in_the_way:
        raise ArtifactError(
            f"{folder / in_the_way[0]} is not of a {kind} that cadmus-probe wrote, and would be overwritten; "
            "choose another folder, or move it away"
        )


def _is_same(path: Path, description: dict[str, Any] | None) -> bool:
    return description is not None and describe_file(path) == description


def holds(folder: Path | str, kind: str) -> bool:
    """Whether a folder holds an artifact of this kind, finished, or half-written as far as can be told."""
    folder = Path(folder)
    present_kind = _earlier_manifest(folder).get("kind")
    return present_kind == kind or (present_kind is None and any(folder.glob(f"{_PARTIAL}*")))


def owner(file: Path | str) -> Path | None:
    """The manifest that lists this file as part of something finished, or is this file; None where there is none."""
    file = Path(os.path.abspath(file))
    for folder in file.parents:
        manifest = folder / MANIFEST
        if file.relative_to(folder).as_posix() in {MANIFEST, *_listed_files(folder, folder)} and manifest.is_file():
            return manifest
    return None


def drop_partial(folder: Path | str, resume: str) -> None:
    """Remove what `new_folder(folder, resume=...)` may have left behind when it was killed."""
    shutil.rmtree(Path(folder) / f"{_PARTIAL}{resume}", ignore_errors=True)


def write_manifest(folder: Path | str, manifest: dict[str, Any]) -> Path:
    """Write a manifest with a checksum of its own content."""
    content = {key: value for key, value in manifest.items() if key != _CHECKSUM}
    return write_json(Path(folder) / MANIFEST, {**content, _CHECKSUM: _checksum(content)})


def _checksum(content: dict[str, Any]) -> str:
    return fingerprint(json.loads(json.dumps(content)))


def read_manifest(folder: Path | str, kind: str) -> dict[str, Any]:
    """The manifest of a finished folder of this kind, with every file checked against it.

    Raises ArtifactError for what is missing, damaged, of another kind or made by another version of the machine.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        if not folder.is_dir():
            raise ArtifactError(f"{kind} folder {folder} does not exist; make it again")
        raise ArtifactError(
            f"{kind} folder {folder} is half-written (it has no {MANIFEST}); run the command that began it again, or "
            "delete the folder"
        )
    manifest = read_json(path)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise ArtifactError(f"{path} is not a manifest; delete the folder and make the {kind} again")
    if manifest.get("kind") != kind:
        raise ArtifactError(f"{folder} holds a {manifest.get('kind')}, not a {kind}; pass another folder")
    if manifest.get("machine") != machine_fingerprint():
        raise ArtifactError(
            f"{folder} was made with another version of the machine; delete the folder and make it again"
        )
    if manifest.pop(_CHECKSUM, None) != _checksum(manifest):
        raise ArtifactError(f"{path} is damaged (wrong checksum); delete the folder and make the {kind} again")
    for name, expected in manifest["files"].items():
        _check_file(folder, name, expected, kind)
    return manifest


def check_file(folder: Path, name: str) -> None:
    """Raise ArtifactError where a file of a folder that was read before is not what its manifest says now."""
    manifest = _earlier_manifest(folder)
    if name in manifest.get("files", {}):
        _check_file(folder, name, manifest["files"][name], manifest["kind"])


def _check_file(folder: Path, name: str, expected: Any, kind: str) -> None:
    description = describe_file(folder / name)
    if description is None:
        raise ArtifactError(f"{folder / name} is missing; delete the folder and make the {kind} again")
    if description != expected:
        same_size = isinstance(expected, dict) and expected.get("bytes") == description["bytes"]
        difference = "checksum" if same_size else "size"
        raise ArtifactError(
            f"{folder / name} is damaged (wrong {difference}); delete the folder and make the {kind} again"
        )


def _earlier_manifest(folder: Path) -> dict[str, Any]:
    """The folder's manifest; empty where it does not have a readable one of ours."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return {}
    ours = isinstance(manifest, dict) and {"kind", "machine", "files"} <= manifest.keys()
    return manifest if ours else {}


def _listed_files(place: Path, folder: Path) -> set[str]:
    """The files inside the folder that the manifest at `place` lists."""
    files = _earlier_manifest(place).get("files")
    inside = os.path.realpath(folder)
    names = files if isinstance(files, dict) else {}
    return {name for name in names if Path(os.path.realpath(folder / name)).is_relative_to(inside)}


def describe_file(path: Path) -> dict[str, Any] | None:
    """The size and SHA-256 of a file, as a manifest has them; None where the file does not exist."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
