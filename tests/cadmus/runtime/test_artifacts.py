"""Files that are whole or absent: full disks, interruptions, kills, damage, and what the errors say."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cadmus.runtime import artifacts
from cadmus.runtime.artifacts import ArtifactError

ROOT = Path(__file__).parents[3]

# What a process does to itself so that a write past `limit` bytes of a file fails, as on a full disk.
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from cadmus.runtime import artifacts
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
def disk_full_after(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
"""


def in_a_process(script: str, path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", FULL_DISK + script, str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def names(folder: Path) -> set[str]:
    """Everything under `folder`, hidden or not."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def make(folder: Path, text: str = "first", *, kind: str = "corpus") -> Path:
    """A finished folder with one file in it and one in a folder of its own."""
    with artifacts.new_folder(folder, kind, about=text) as partial:
        (partial / "a.txt").write_text(text)
        artifacts.write_arrays(partial / "deep" / "b.safetensors", {"x": np.arange(3)})
    return folder


FINISHED = {"a.txt", "deep", "deep/b.safetensors", "manifest.json"}

# --- files -----------------------------------------------------------------------------------------------------------


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    assert artifacts.write_bytes(path, b"one") == path
    assert artifacts.write_bytes(str(path), b"two") == path
    assert path.read_bytes() == b"two"
    assert names(tmp_path) == {"new", "new/file"}


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_mode_of_a_file_is_by_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        path = artifacts.write_bytes(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_errors_name_the_file_that_was_asked_for(tmp_path: Path) -> None:
    """And not the hidden one beside it that takes its name at the end."""
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    file.touch()
    (folder / "inside").touch()
    for path, named in ((folder, folder), (file / "table.csv", file)):
        with pytest.raises(OSError, match=re.escape(str(named))) as raised:
            artifacts.write_bytes(path, b"1")
        assert ".partial-" not in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xef\xbb\xbfname = 1")
    assert artifacts.read_text(tmp_path / "x.toml") == "name = 1"


def test_json(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None], "a": "é →"}
    path = artifacts.write_json(tmp_path / "x.json", value)
    assert artifacts.read_json(path) == value
    text = path.read_text(encoding="utf-8")
    assert "é →" in text
    assert text.endswith("}\n")


def test_arrays(tmp_path: Path) -> None:
    arrays = {"x": np.arange(6).reshape(2, 3)[:, ::2], "y": np.zeros(0, np.uint8), "z": np.ones((2, 2), np.float32).T}
    path = artifacts.write_arrays(tmp_path / "x.safetensors", arrays)
    loaded = artifacts.read_arrays(path)
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        assert np.array_equal(loaded[name], array)


@pytest.mark.parametrize("garbage", [b"", b"{", b"not json", b"\xff\xfe\x00", b'{"a": }', b"[1, 2", b"{'a': 1}"])
def test_what_is_not_json(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(garbage)
    with pytest.raises(
        ArtifactError, match=rf"^{re.escape(str(path))} is not JSON \(.+\); delete it and make it again$"
    ):
        artifacts.read_json(path)


@pytest.mark.parametrize("keep", [0, 4, 8, 20, -1])
def test_damaged_arrays(tmp_path: Path, keep: int) -> None:
    path = artifacts.write_arrays(tmp_path / "x.safetensors", {"x": np.arange(100)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        ArtifactError, match=rf"^{re.escape(str(path))} is damaged \(.+\); delete it and make it again$"
    ):
        artifacts.read_arrays(path)


ARRAYS = {
    "programs": np.arange(24, dtype=np.uint8).reshape(4, 6),
    "no rows": np.zeros((0, 7), np.uint8),
    "no columns": np.zeros((3, 0), np.uint8),
    "one number": np.array(2.5),
    "every other": np.arange(12).reshape(3, 4)[:, ::2],
    "columns first": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "records": np.array([(1, 2.5), (3, 4.5)], [("a", np.int16), ("b", np.float32)]),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_one_array(tmp_path: Path, array: np.ndarray) -> None:
    path = tmp_path / "new" / "x.npy"
    assert artifacts.write_array(path, array) == path
    loaded = artifacts.read_array(str(path))
    assert (loaded.dtype, loaded.shape) == (array.dtype, array.shape)
    assert np.array_equal(loaded, array)
    assert np.array_equal(np.load(path), array)
    assert names(tmp_path) == {"new", "new/x.npy"}


def test_an_array_is_read_where_it_is_used_and_not_written_to(tmp_path: Path) -> None:
    path = artifacts.write_array(tmp_path / "x.npy", np.arange(100_000))
    loaded = artifacts.read_array(path)
    assert isinstance(loaded, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        loaded[0] = 1
    artifacts.write_array(path, np.zeros(3))  # who has the earlier file open keeps it
    assert np.array_equal(loaded, np.arange(100_000))


def test_equal_arrays_make_equal_files(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(4, 6)
    same = np.zeros((8, 12), np.uint8)[::2, ::2]
    same[:] = array
    files = [
        artifacts.write_array(tmp_path / f"{k}.npy", variant).read_bytes() for k, variant in enumerate((array, same))
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize("keep", [0, 4, 8, 20, 100, 128, 500, -1])
def test_a_damaged_array(tmp_path: Path, keep: int) -> None:
    path = artifacts.write_array(tmp_path / "x.npy", np.arange(100))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        ArtifactError, match=rf"^{re.escape(str(path))} is damaged \(.+\); delete it and make it again$"
    ):
        artifacts.read_array(path)


def test_what_is_no_array_of_numbers_is_not_written(tmp_path: Path) -> None:
    path = artifacts.write_array(tmp_path / "x.npy", np.arange(3))
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        artifacts.write_array(path, np.array([object()]))
    assert np.array_equal(artifacts.read_array(path), np.arange(3))
    assert names(tmp_path) == {"x.npy"}
    np.save(path, np.array([{}]))  # a pickle, which is never run
    with pytest.raises(ArtifactError, match=rf"^{re.escape(str(path))} is damaged \("):
        artifacts.read_array(path)


def test_the_description_of_a_file(tmp_path: Path) -> None:
    path = artifacts.write_bytes(tmp_path / "x", b"abc" * 1000)
    digest = hashlib.sha256(b"abc" * 1000).hexdigest()
    assert artifacts.describe_file(path) == {"bytes": 3000, "sha256": digest}
    assert artifacts.describe_file(artifacts.write_bytes(path, b"")) == {
        "bytes": 0,
        "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    }
    assert artifacts.describe_file(tmp_path / "none") is None
    assert artifacts.describe_file(tmp_path) is None
    make(tmp_path / "folder")
    listed = artifacts.read_manifest(tmp_path / "folder", "corpus")["files"]
    assert listed["a.txt"] == artifacts.describe_file(tmp_path / "folder" / "a.txt")


def test_what_cannot_be_json_writes_nothing(tmp_path: Path) -> None:
    path = artifacts.write_json(tmp_path / "x.json", 1)
    with pytest.raises(TypeError):
        artifacts.write_json(path, {"x": object()})
    assert artifacts.read_json(path) == 1
    assert names(tmp_path) == {"x.json"}


@pytest.mark.parametrize("earlier", [None, b"earlier"])
@pytest.mark.parametrize(
    "write",
    [
        "artifacts.write_bytes(path, b'x' * 100_000)",
        "artifacts.write_json(path, list(range(100_000)))",
        "artifacts.write_arrays(path, {'x': np.zeros(100_000)})",
        "artifacts.write_array(path, np.zeros(100_000))",
    ],
)
def test_a_full_disk_leaves_the_earlier_file(tmp_path: Path, write: str, earlier: bytes | None) -> None:
    path = tmp_path / "file"
    if earlier is not None:
        path.write_bytes(earlier)
    script = f"""
disk_full_after(4096)
try:
    {write}
except OSError as error:
    print("failed:", error)
"""
    process = in_a_process(script, path)
    assert "failed: [Errno 27] File too large" in process.stdout, process.stderr
    assert names(tmp_path) == (set() if earlier is None else {"file"})
    if earlier is not None:
        assert path.read_bytes() == earlier


def test_a_disk_that_is_not_full_takes_the_same_file(tmp_path: Path) -> None:
    process = in_a_process("disk_full_after(1_000_000)\nartifacts.write_bytes(path, b'x' * 100_000)", tmp_path / "file")
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "file").read_bytes() == b"x" * 100_000


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    """Two contents replace one another without end; whenever the writer is killed, one of them is there."""
    path = tmp_path / "file"
    contents = {b"a" * 2_000_000, b"b" * 3_000_000}
    script = """
print("ready", flush=True)
while True:
    artifacts.write_bytes(path, b"a" * 2_000_000)
    artifacts.write_bytes(path, b"b" * 3_000_000)
"""
    for wait in (0.05, 0.13, 0.21):
        with _started(script, path) as writer:
            _until(path.exists)
            time.sleep(wait)
            assert path.read_bytes() in contents  # a reader in between sees a whole file too
            writer.kill()
            assert writer.wait(10) == -signal.SIGKILL
        assert path.read_bytes() in contents
        assert {name for name in names(tmp_path) if not name.startswith(".")} == {"file"}
        path.unlink()


def _started(script: str, path: Path) -> subprocess.Popen[str]:
    """The script at work, once it has printed "ready"."""
    command = [sys.executable, "-c", FULL_DISK + script, str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _until(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_finished_folder(tmp_path: Path) -> None:
    folder = make(tmp_path / "x")
    assert names(folder) == FINISHED
    manifest = artifacts.read_manifest(folder, "corpus")
    assert manifest["kind"] == "corpus"
    assert manifest["about"] == "first"
    assert manifest["machine"] == artifacts.machine_fingerprint()
    assert set(manifest["files"]) == {"a.txt", "deep/b.safetensors"}
    assert manifest["files"]["a.txt"]["bytes"] == 5
    assert artifacts.read_manifest(str(folder), "corpus") == manifest


def test_nothing_has_its_final_name_before_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    with artifacts.new_folder(folder, "corpus") as partial:
        (partial / "a.txt").write_text("first")
        assert [path.name[0] for path in folder.iterdir()] == ["."]
        assert partial.parent == folder
        with pytest.raises(ArtifactError, match="half-written"):
            artifacts.read_manifest(folder, "corpus")
    assert names(folder) == {"a.txt", "manifest.json"}


def test_a_folder_is_renewed(tmp_path: Path) -> None:
    make(tmp_path, "first")
    make(tmp_path, "second")
    assert artifacts.read_manifest(tmp_path, "corpus")["about"] == "second"
    assert (tmp_path / "a.txt").read_text() == "second"
    assert names(tmp_path) == FINISHED


def test_a_renewed_folder_drops_the_files_of_the_earlier_manifest(tmp_path: Path) -> None:
    make(tmp_path, "first")
    (tmp_path / "notes.txt").write_text("mine")  # no file of the folder
    with artifacts.new_folder(tmp_path, "corpus") as partial:
        (partial / "c.txt").write_text("second")
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"c.txt", "notes.txt", "manifest.json"}
    assert set(artifacts.read_manifest(tmp_path, "corpus")["files"]) == {"c.txt"}


def test_a_folder_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    make(tmp_path, "first")
    message = f"{tmp_path} holds a corpus, which a report would replace; choose another folder"
    with pytest.raises(ArtifactError, match=re.escape(message)), artifacts.new_folder(tmp_path, "report"):
        pytest.fail("it went on")
    assert names(tmp_path) == FINISHED


@pytest.mark.parametrize(("file", "kind"), [("state.safetensors", "model"), ("sweep.json", "sweep")])
def test_what_was_begun_is_not_replaced_by_another_kind(file: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(b"")
    with pytest.raises(ArtifactError, match=f"holds a {kind}, which a corpus would replace; choose another folder"):
        artifacts.check_free(tmp_path, "corpus")
    artifacts.check_free(tmp_path, kind)


def test_a_manifest_that_names_files_elsewhere_deletes_none(tmp_path: Path) -> None:
    folder, other = tmp_path / "folder", tmp_path / "other.txt"
    make(folder)
    other.write_text("mine")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] |= {str(other): {}, "../other.txt": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    make(folder, "second")
    assert other.read_text() == "mine"


def refused_as(folder: Path, name: str, kind: str = "corpus") -> str:
    """What is said where a file in the way is not ours."""
    whose = f"is not of a {kind} that cadmus-probe wrote, and would be overwritten"
    return f"^{re.escape(str(folder / name))} {whose}; choose another folder, or move it away$"


@pytest.mark.parametrize("garbage", [b"", b"{", b"\xff", b"[]", b"{}", b'{"files": 1}', b'{"name": "my app"}'])
def test_a_manifest_that_is_not_ours_is_left_alone(tmp_path: Path, garbage: bytes) -> None:
    """A damaged one too: moved away, and the folder can be made again."""
    make(tmp_path, "first")
    (tmp_path / "manifest.json").write_bytes(garbage)
    with pytest.raises(ArtifactError, match=refused_as(tmp_path, "manifest.json")):
        artifacts.check_free(tmp_path, "corpus")
    with pytest.raises(ArtifactError, match=refused_as(tmp_path, "manifest.json")):
        make(tmp_path, "first")
    assert (tmp_path / "manifest.json").read_bytes() == garbage
    assert names(tmp_path) == FINISHED
    (tmp_path / "manifest.json").unlink()
    make(tmp_path, "first")
    assert artifacts.read_manifest(tmp_path, "corpus")["about"] == "first"


@pytest.mark.parametrize("name", ["a.txt", "deep/b.safetensors", "deep", "a.txt/mine"])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_file_that_is_not_ours_is_not_overwritten(tmp_path: Path, name: str, earlier: bool) -> None:
    """Also beside an earlier manifest; nothing of the folder has moved then, and moved away it is not in the way."""
    if earlier:
        with artifacts.new_folder(tmp_path, "corpus", about="earlier") as partial:
            (partial / "c.txt").write_text("ours")
    path = artifacts.write_bytes(tmp_path / name, b"mine")
    before = names(tmp_path)
    at = "a.txt" if name == "a.txt/mine" else name
    with pytest.raises(ArtifactError, match=refused_as(tmp_path, at)):
        make(tmp_path)
    assert path.read_bytes() == b"mine"
    assert names(tmp_path) == before
    path.unlink()
    if name == "a.txt/mine":
        path.parent.rmdir()
    make(tmp_path)
    assert names(tmp_path) == FINISHED


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(
            ("report", name)
            for name in ("index.html", "report.md", "figures/x.png", "tables/x.csv", "tables/x.parquet")
        ),
        *(("model", name) for name in ("model.safetensors", "training.json")),
    ],
)
def test_what_will_be_in_the_way_is_told_before_the_work(tmp_path: Path, kind: str, name: str) -> None:
    path = artifacts.write_bytes(tmp_path / name, b"mine")
    artifacts.write_bytes(tmp_path / "notes.txt", b"mine")
    for refuse in (lambda: artifacts.check_free(tmp_path, kind), artifacts.new_folder(tmp_path, kind).__enter__):
        with pytest.raises(ArtifactError, match=refused_as(tmp_path, name, kind)):
            refuse()
    path.unlink()
    with artifacts.new_folder(tmp_path, kind) as partial:
        artifacts.write_bytes(partial / name, b"ours")
    artifacts.check_free(tmp_path, kind)
    assert (tmp_path / "notes.txt").read_bytes() == b"mine"


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_folder_that_is_killed_while_its_files_move_can_be_made_again(tmp_path: Path, at: int, earlier: bool) -> None:
    """With other content: what has moved is known to be ours."""
    if earlier:
        make(tmp_path, "first")
    script = f"""
import os
plain, calls = os.replace, []
def replace(source, target):
    if Path(target).parent in (path, path / "deep"):
        calls.append(target)
        if len(calls) == {at}:
            os.kill(os.getpid(), signal.SIGKILL)
    plain(source, target)
os.replace = replace
with artifacts.new_folder(path, "corpus", about="second") as partial:
    (partial / "a.txt").write_text("second")
    (partial / "deep").mkdir()
    (partial / "deep" / "b.safetensors").write_text("second")
"""
    assert in_a_process(script, tmp_path).returncode == -signal.SIGKILL
    with pytest.raises(ArtifactError, match="is half-written"):
        artifacts.read_manifest(tmp_path, "corpus")
    make(tmp_path, "third")
    assert artifacts.read_manifest(tmp_path, "corpus")["about"] == "third"


def test_a_folder_with_missing_files_can_be_made_again(tmp_path: Path) -> None:
    make(tmp_path, "first")
    (tmp_path / "a.txt").unlink()
    with artifacts.new_folder(tmp_path, "corpus") as partial:
        (partial / "c.txt").write_text("second")
    assert set(artifacts.read_manifest(tmp_path, "corpus")["files"]) == {"c.txt"}


def interrupted(folder: Path, interruption: BaseException) -> None:
    with artifacts.new_folder(folder, "corpus", about="second") as partial:
        (partial / "a.txt").write_text("second")
        (partial / "deep").mkdir()
        (partial / "deep" / "c.txt").write_text("second")
        raise interruption


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("interruption", [RuntimeError("no"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_an_interruption_leaves_nothing_of_the_new_folder(
    tmp_path: Path, interruption: BaseException, earlier: bool
) -> None:
    if earlier:
        make(tmp_path, "first")
    with pytest.raises(type(interruption)):
        interrupted(tmp_path, interruption)
    assert names(tmp_path) == (FINISHED if earlier else set())
    if earlier:
        assert artifacts.read_manifest(tmp_path, "corpus")["about"] == "first"
        assert (tmp_path / "a.txt").read_text() == "first"
    else:
        with pytest.raises(ArtifactError, match="half-written"):
            artifacts.read_manifest(tmp_path, "corpus")


WRITE_A_LOT = """
try:
    with artifacts.new_folder(path, "corpus", about="second") as partial:
        (partial / "a.txt").write_text("second")
        disk_full_after(4096)
        artifacts.write_arrays(partial / "deep" / "b.safetensors", {"x": np.zeros(100_000)})
except OSError as error:
    print("failed:", error)
"""


def test_a_full_disk_leaves_the_earlier_folder(tmp_path: Path) -> None:
    make(tmp_path, "first")
    process = in_a_process(WRITE_A_LOT, tmp_path)
    assert "failed: [Errno 27] File too large" in process.stdout, process.stderr
    assert names(tmp_path) == FINISHED
    assert artifacts.read_manifest(tmp_path, "corpus")["about"] == "first"


def test_a_full_disk_leaves_nothing_of_a_new_folder(tmp_path: Path) -> None:
    process = in_a_process(WRITE_A_LOT, tmp_path / "x")
    assert "failed: [Errno 27] File too large" in process.stdout, process.stderr
    assert names(tmp_path / "x") == set()


@pytest.mark.parametrize("earlier", [False, True])
def test_a_disk_that_is_full_for_the_manifest_leaves_the_earlier_folder(tmp_path: Path, earlier: bool) -> None:
    if earlier:
        make(tmp_path, "first")
    script = """
try:
    with artifacts.new_folder(path, "corpus", about="second") as partial:
        (partial / "a.txt").write_text("second")
        disk_full_after(10)
except OSError as error:
    print("failed:", error)
"""
    process = in_a_process(script, tmp_path)
    assert "failed: [Errno 27] File too large" in process.stdout, process.stderr
    assert names(tmp_path) == (FINISHED if earlier else set())
    if earlier:
        assert artifacts.read_manifest(tmp_path, "corpus")["about"] == "first"


@pytest.mark.parametrize("earlier", [False, True])
def test_a_killed_writer_leaves_no_final_name(tmp_path: Path, earlier: bool) -> None:
    if earlier:
        make(tmp_path, "first")
    script = """
with artifacts.new_folder(path, "corpus", about="second") as partial:
    (partial / "a.txt").write_text("second")
    artifacts.write_arrays(partial / "deep" / "b.safetensors", {"x": np.arange(4)})
    print("ready", flush=True)
    signal.pause()
"""
    with _started(script, tmp_path) as writer:
        os.kill(writer.pid, signal.SIGKILL)
        assert writer.wait(10) == -signal.SIGKILL
    final = {name for name in names(tmp_path) if not name.startswith(".")}
    assert final == (FINISHED if earlier else set())
    if earlier:
        assert artifacts.read_manifest(tmp_path, "corpus")["about"] == "first"
    else:
        with pytest.raises(ArtifactError, match="is half-written"):
            artifacts.read_manifest(tmp_path, "corpus")
    make(tmp_path, "third")  # and the next writer is not in its way
    assert artifacts.read_manifest(tmp_path, "corpus")["about"] == "third"


# --- folders that are made in several goes ---------------------------------------------------------------------------


def go(folder: Path, resume: str, files: dict[str, str], *, fail: bool = False) -> set[str]:
    """One go at a folder: what it finds there, before it writes `files` and perhaps fails."""
    with artifacts.new_folder(folder, "corpus", resume=resume, about=resume) as partial:
        present = names(partial)
        for name, text in files.items():
            artifacts.write_bytes(partial / name, text.encode())
        if fail:
            raise KeyboardInterrupt
    return present


def test_a_second_go_finds_what_the_first_left(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    with pytest.raises(KeyboardInterrupt):
        go(folder, "one", {"deep/a.txt": "first"}, fail=True)
    assert names(folder) == {".partial-one", ".partial-one/deep", ".partial-one/deep/a.txt"}
    with pytest.raises(ArtifactError, match="half-written"):
        artifacts.read_manifest(folder, "corpus")
    assert go(folder, "one", {"b.txt": "second"}) == {"deep", "deep/a.txt"}
    assert names(folder) == {"deep", "deep/a.txt", "b.txt", "manifest.json"}
    assert set(artifacts.read_manifest(folder, "corpus")["files"]) == {"deep/a.txt", "b.txt"}


def test_a_go_at_something_else_finds_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, "one", {"a.txt": "first"}, fail=True)
    assert go(tmp_path, "two", {"b.txt": "second"}) == set()
    assert set(artifacts.read_manifest(tmp_path, "corpus")["files"]) == {"b.txt"}
    assert (tmp_path / ".partial-one" / "a.txt").read_text() == "first"
    assert go(tmp_path, "one", {}) == {"a.txt"}
    assert names(tmp_path) == {"a.txt", "manifest.json"}


def test_after_a_success_the_next_go_starts_afresh(tmp_path: Path) -> None:
    go(tmp_path, "one", {"a.txt": "first"})
    assert go(tmp_path, "one", {"b.txt": "second"}) == set()
    assert names(tmp_path) == {"b.txt", "manifest.json"}


def test_a_failed_go_leaves_the_earlier_folder(tmp_path: Path) -> None:
    make(tmp_path, "first")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, "one", {"a.txt": "second"}, fail=True)
    assert artifacts.read_manifest(tmp_path, "corpus")["about"] == "first"
    assert (tmp_path / "a.txt").read_text() == "first"


def test_half_a_file_of_a_killed_go_is_not_of_the_folder(tmp_path: Path) -> None:
    script = """
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
with artifacts.new_folder(path, "corpus", resume="one") as partial:
    artifacts.write_bytes(partial / "deep" / "a.txt", b"first")
"""
    assert in_a_process("import os" + script, tmp_path).returncode == -signal.SIGKILL
    go(tmp_path, "one", {"deep/a.txt": "second"})
    assert names(tmp_path) == {"deep", "deep/a.txt", "manifest.json"}
    assert set(artifacts.read_manifest(tmp_path, "corpus")["files"]) == {"deep/a.txt"}


def test_the_manifest_has_the_keywords_as_they_are_at_the_end(tmp_path: Path) -> None:
    rows: dict[str, int] = {}
    with artifacts.new_folder(tmp_path, "corpus", resume="one", rows=rows):
        rows["a"] = 3
    assert artifacts.read_manifest(tmp_path, "corpus")["rows"] == {"a": 3}


def test_an_error_keeps_its_own_words(tmp_path: Path) -> None:
    """An OSError that is no system call's says what it says; one that is gets the folder's name."""
    with (
        pytest.raises(OSError, match=r"^a worker died$"),
        artifacts.new_folder(tmp_path / "x", "corpus", resume="one"),
    ):
        raise OSError("a worker died")
    with (
        pytest.raises(OSError, match=rf"^\[Errno 28\] No space left: '{re.escape(str(tmp_path))}/x'$"),
        artifacts.new_folder(tmp_path / "x", "corpus", resume="one"),
    ):
        raise OSError(28, "No space left")


# --- what is wrong with a folder -------------------------------------------------------------------------------------


def refused(folder: Path, kind: str = "corpus") -> str:
    with pytest.raises(ArtifactError) as caught:
        artifacts.read_manifest(folder, kind)
    return str(caught.value)


def test_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    assert refused(folder) == f"corpus folder {folder} does not exist; make it again"


def test_no_manifest(tmp_path: Path) -> None:
    folder = make(tmp_path / "x")
    (folder / "manifest.json").unlink()
    advice = "run the command that began it again, or delete the folder"
    assert refused(folder) == f"corpus folder {folder} is half-written (it has no manifest.json); {advice}"


def test_another_kind(tmp_path: Path) -> None:
    make(tmp_path, kind="model")
    assert refused(tmp_path) == f"{tmp_path} holds a model, not a corpus; pass another folder"
    assert artifacts.read_manifest(tmp_path, "model")["kind"] == "model"


def test_another_machine(tmp_path: Path) -> None:
    make(tmp_path)
    manifest = artifacts.read_json(tmp_path / "manifest.json")
    artifacts.write_json(tmp_path / "manifest.json", {**manifest, "machine": "0" * 16})
    assert (
        refused(tmp_path)
        == f"{tmp_path} was made with another version of the machine; delete the folder and make it again"
    )
    artifacts.write_json(tmp_path / "manifest.json", {k: v for k, v in manifest.items() if k != "machine"})
    assert "another version of the machine" in refused(tmp_path)


def test_a_missing_file(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "deep" / "b.safetensors").unlink()
    assert refused(tmp_path) == f"{tmp_path}/deep/b.safetensors is missing; delete the folder and make the corpus again"


def test_a_wrong_checksum(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "a.txt").write_text("fIrst")
    assert (
        refused(tmp_path)
        == f"{tmp_path}/a.txt is damaged (wrong checksum); delete the folder and make the corpus again"
    )


@pytest.mark.parametrize("content", ["", "firs", "first "])
def test_a_wrong_size(tmp_path: Path, content: str) -> None:
    make(tmp_path)
    (tmp_path / "a.txt").write_text(content)
    assert refused(tmp_path) == f"{tmp_path}/a.txt is damaged (wrong size); delete the folder and make the corpus again"


def test_any_flipped_bit_is_noticed(tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / "deep" / "b.safetensors"
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert "b.safetensors is damaged (wrong checksum)" in refused(tmp_path)
    path.write_bytes(whole)
    artifacts.read_manifest(tmp_path, "corpus")


@pytest.mark.parametrize("garbage", [b"", b"{", b"\xff\xff", b'{"kind": "corpus"'])
def test_a_manifest_that_is_not_json(tmp_path: Path, garbage: bytes) -> None:
    make(tmp_path)
    (tmp_path / "manifest.json").write_bytes(garbage)
    assert refused(tmp_path).startswith(f"{tmp_path}/manifest.json is not JSON (")


@pytest.mark.parametrize("value", [[], "corpus", 1, None, {}, {"kind": "corpus"}])
def test_a_manifest_that_is_json_but_no_manifest(tmp_path: Path, value: object) -> None:
    make(tmp_path)
    artifacts.write_json(tmp_path / "manifest.json", value)
    assert refused(tmp_path).startswith(str(tmp_path))


@pytest.mark.parametrize("files", [None, [], {"a.txt": 5}, {"a.txt": {"bytes": 5}}])
def test_a_manifest_whose_files_are_garbage(tmp_path: Path, files: object) -> None:
    make(tmp_path)
    manifest = artifacts.read_json(tmp_path / "manifest.json")
    artifacts.write_manifest(tmp_path, {**manifest, "files": files})
    assert refused(tmp_path).startswith(str(tmp_path))


# --- fingerprints ----------------------------------------------------------------------------------------------------


def test_fingerprints_name_content() -> None:
    assert artifacts.fingerprint({"a": 1, "b": [2, 3]}) == artifacts.fingerprint({"b": [2, 3], "a": 1})
    assert artifacts.fingerprint({"a": [1, 2]}) != artifacts.fingerprint({"a": [2, 1]})
    assert artifacts.fingerprint({"a": 1}) != artifacts.fingerprint({"a": "1"})
    assert re.fullmatch("[0-9a-f]{16}", artifacts.fingerprint(None))
    with pytest.raises(TypeError):
        artifacts.fingerprint(object())


def test_the_machine_has_one_fingerprint_everywhere(tmp_path: Path) -> None:
    process = in_a_process("print(artifacts.machine_fingerprint())", tmp_path)
    assert process.stdout.strip() == artifacts.machine_fingerprint()


def test_provenance_is_json() -> None:
    about = json.loads(json.dumps(artifacts.provenance()))
    assert about["versions"]["numpy"] == np.__version__
    assert about["git"] is None or re.fullmatch("[0-9a-f]{40}", about["git"])
