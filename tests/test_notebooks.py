"""Notebooks in docs run, and say what is stored in them; `python -m tests.test_notebooks [NAME ...]` stores it anew."""

import base64
import itertools
import os
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOKS = sorted(path.name for path in DOCS.glob("*.ipynb"))
MAX_FIGURES = 100_000  # bytes of all figures of a notebook
AGAIN = "run `python -m tests.test_notebooks`, and read the notebook again: its text may speak of what has changed"


def read(name):
    return nbformat.read(DOCS / name, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def executed(notebook, folder):
    """The notebook with the outputs of a fresh kernel of this interpreter, which works in `folder`. Raises
    CellExecutionError where a cell raises."""
    options = {"timeout": 600, "startup_timeout": 300, "record_timing": False}  # seconds for a cell, and for the start
    client = NotebookClient(nbformat.from_dict(notebook), resources={"metadata": {"path": str(folder)}}, **options)
    spec = client.create_kernel_manager().kernel_spec
    spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]  # whatever else is installed
    one_thread = {"OMP_NUM_THREADS": "1"}  # the same sums wherever it runs, and no slower beside other work
    figures = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    return client.execute(env={**os.environ, **one_thread, **figures})


def said(cell):
    """What a cell printed, and what its value is, in words. The cells that the text speaks of are tagged "compared"."""
    return [output.get("text", output.get("data", {}).get("text/plain")) for output in cell.outputs]


@pytest.fixture(scope="module", params=NOTEBOOKS)
def notebook(request):
    return read(request.param)


def test_there_are_notebooks():
    assert NOTEBOOKS == ["first-intervention.ipynb", "first-probe.ipynb", "own-distribution.ipynb"]


def test_every_cell_is_introduced_and_has_its_output(notebook):
    nbformat.validate(notebook)
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown"
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, kinds.count("code") + 1)), AGAIN
    for before, cell in itertools.pairwise(notebook.cells):
        assert cell.cell_type == "markdown" or before.cell_type == "markdown", f"nothing introduces {cell.source!r}"
    assert all("stderr" not in (output.get("name") for output in cell.outputs) for cell in code_cells(notebook))


def test_figures_are_small(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    images = [base64.b64decode(output.data["image/png"]) for output in outputs if "image/png" in output.get("data", {})]
    assert images
    assert sum(map(len, images)) < MAX_FIGURES


@pytest.mark.slow
def test_it_runs_and_says_what_is_stored(notebook, tmp_path):
    fresh = executed(notebook, tmp_path)
    both = zip(code_cells(notebook), code_cells(fresh), strict=True)
    compared = {old.id: (said(old), said(new)) for old, new in both if "compared" in old.metadata.get("tags", [])}
    assert compared
    for name, (old, new) in compared.items():
        assert old == new, f"{name}: {AGAIN}"


@pytest.mark.slow
def test_a_cell_that_raises_is_found(tmp_path):
    cells = [nbformat.v4.new_code_cell("1 + 1"), nbformat.v4.new_code_cell("1 / 0")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        executed(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path)


def main():
    for name in sys.argv[1:] or NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(read(name), folder)
        notebook.metadata = read(name).metadata  # no versions, which differ from computer to computer
        nbformat.write(notebook, DOCS / name)


if __name__ == "__main__":
    main()
