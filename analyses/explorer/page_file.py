"""The command's work: a checkpoint and a program become one HTML file."""

from __future__ import annotations

from pathlib import Path

from analyses.explorer import build, payload
from cadmus import DEFAULT_MODEL
from cadmus.machine import vm
from cadmus.runtime.artifacts import write_bytes
from cadmus.runtime.progress import Progress, no_progress
from cadmus.training import checkpoint

PROGRAM = "941-*55*2+="  # of the paper: what the page opens with where nobody says another


def write(
    run: str = DEFAULT_MODEL,
    program: str = "",
    out: Path = Path("explorer.html"),
    *,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Path:
    """Write the page of a model and return its path.

    run: a model that ships with the package, or a folder that cadmus-probe train wrote. program: what it opens with.
    Raises ValueError for a program that the model cannot read and for a model that is too large.
    """
    loaded = checkpoint.load(run)
    text = check_program(program or PROGRAM, loaded.model.cfg.n_ctx)
    content = payload.of(loaded, Path(run).name, seed=seed, progress=progress)
    page = build.html(f"Cadmus explorer: {content.data['name']}", {**content.data, "program": text}, content.tensors)
    return write_bytes(out, page.encode())


def check_program(program: str, n_ctx: int) -> str:
    """The program as the page takes it: without spaces, and without brackets around it. ValueError for what is none."""
    text = "".join(program.split())
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    vm.check(text)
    if len(text) >= n_ctx:
        raise ValueError(f"the program has {len(text)} tokens; this model reads {n_ctx - 1} at most")
    return text
