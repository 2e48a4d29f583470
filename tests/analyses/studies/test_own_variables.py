"""A variable of one's own, named on the command line as FILE.py:NAME, is what it is in Python, and may see tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses.cli import main
from cadmus.machine import kernel, tokens

FILE = '''
from cadmus.machine import kernel, tokens


def loaded_a(traces, programs):
    """What register a holds, at the tokens `a` alone."""
    register = traces.registers[:, :, 0]
    return register.value, (register.kind == kernel.INT_KIND) & (programs == tokens.encode(["a"])[0, 0])
'''
OPTIONS = "--programs 300 --machines 0 --offset 0 --family register --site blocks.0.hook_resid_pre --out page"


@pytest.mark.slow
def test_a_variable_sees_tokens_on_the_command_line_as_in_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(FILE, encoding="utf-8")
    arguments = ["probe", "cadmus-micro", "--variable", "mine.py:loaded_a", "--variable", "reg.a"]
    assert main([*arguments, *OPTIONS.split()]) == 0, capsys.readouterr().err
    table = pd.read_csv("page/tables/state.csv")
    rows = table[(table.by == "all") & (table.offset == 0) & (table.metric == "exact match") & ~table.as_number]
    by_variable = rows.drop_duplicates("variable").set_index("variable").tokens
    assert 0 < by_variable["loaded_a"] < by_variable["reg.a.value"]


def test_the_function_of_the_file_is_read_as_in_python(tmp_path: Path) -> None:
    from probes.data.loading import load_variable
    from probes.data.targets import read

    (tmp_path / "mine.py").write_text(FILE, encoding="utf-8")
    programs = tokens.encode(["3A4Bab+7=.", "95-4=."])
    states = read(kernel.traces(programs), programs, load_variable(f"{tmp_path}/mine.py:loaded_a"))
    assert np.argwhere(states.defined).tolist() == [[0, 5]]
    assert states.values[0, 5] == 3
