"""Activations and states as a data frame: the same numbers, aligned, and the same again through Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cadmus.machine import kernel, tokens, vm
from cadmus.states import variables
from probes.data.activation_table import activation_table
from probes.data.activations import token_rows
from probes.data.targets import Target
from probes.data.token_map import TokenMap
from tests.token_rows import gathered, model, programs

SITE, HEADS = "blocks.0.hook_resid_post", "blocks.1.attn.hook_z"


def test_a_row_per_token_by_program_and_position() -> None:
    few = programs()[:20]
    table = activation_table(model(), few, [SITE, HEADS], ["depth", "reg.a", Target("stack.0.value", 1)])
    assert list(table.columns[:6]) == ["program", "position", "token", "depth", "reg.a", "stack.0.value+1"]
    assert table[["program", "position"]].equals(table[["program", "position"]].sort_values(["program", "position"]))
    for program, part in table.groupby("program"):
        assert "".join(part.token) == tokens.decode(few[[program]])[0]
    batch = gathered(token_rows(model(), few, [SITE, HEADS]))
    order = np.lexsort((batch.positions, batch.programs))
    for site in (SITE, HEADS):
        columns = [name for name in table.columns if name.startswith(f"{site}.")]
        assert np.array_equal(table[columns].to_numpy(), batch.activations[site][order])
    assert table[f"{SITE}.0"].dtype == np.float32


def test_states_are_missing_where_they_are_not_defined() -> None:
    few = programs()[:20]
    traces = kernel.traces(few)
    table = activation_table(model(), few, SITE, ["stack.1.value", Target("stack.0.value", 2)])
    assert (table.dtypes[["stack.1.value", "stack.0.value+2"]] == "Int64").all()
    for name, offset in (("stack.1.value", 0), ("stack.0.value", 2)):
        states = variables.read(traces, name, offset=offset)
        column = table[name + (f"+{offset}" if offset else "")]
        at = table.program.to_numpy(), table.position.to_numpy()
        assert np.array_equal(column.notna(), states.defined[at])
        assert np.array_equal(column.dropna(), states.values[at][states.defined[at]])
        assert 0 < column.isna().sum() < len(column)


@pytest.mark.parametrize("arrays", [False, True])
def test_parquet_keeps_it(arrays: bool, tmp_path: Path) -> None:
    table = activation_table(model(), programs()[:5], [SITE, HEADS], ["depth", "reg.b"], arrays=arrays)
    table.to_parquet(tmp_path / "table.parquet")
    read = pd.read_parquet(tmp_path / "table.parquet")
    assert list(read.columns) == list(table.columns)
    assert read.drop(columns=[SITE, HEADS] if arrays else []).equals(
        table.drop(columns=[SITE, HEADS] if arrays else [])
    )
    if arrays:
        assert np.array_equal(np.stack(read[SITE]), np.stack(table[SITE]))
        assert np.stack(read[HEADS]).shape == (len(table), 32)


def test_a_function_of_ones_own_and_positions_of_choice() -> None:
    def is_a(traces: kernel.Traces, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (texts == vm.VOCAB.index("a")).astype(int), np.ones(texts.shape, np.bool_)

    few = programs()[:20]
    where = np.zeros((len(few), few.shape[1] + 1), np.bool_)
    where[:, 1] = True
    table = activation_table(model(), few, SITE, [is_a], where=where)
    assert table.position.eq(1).all()
    assert np.array_equal(table["is_a"] == 1, table.token == "a")


def test_a_model_that_is_not_ours() -> None:
    own = TokenMap.of_characters({c: [i] for i, c in enumerate(vm.VOCAB)}, [tokens.PAD])
    few = programs()[:5]
    plain, mapped = (activation_table(model(), few, SITE, ["depth"], token_map=m) for m in (None, own))
    assert plain[["program", "position", "token", "depth"]].equals(mapped[["program", "position", "token", "depth"]])
    assert np.allclose(plain[f"{SITE}.3"], mapped[f"{SITE}.3"], atol=1e-5)


def test_nothing_requested_is_an_empty_table() -> None:
    few = programs()[:3]
    table = activation_table(model(), few, SITE, ["depth"], where=np.zeros((3, few.shape[1] + 1), np.bool_))
    assert len(table) == 0
    assert {"program", "position", "token", "depth"} <= set(table.columns)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["depth", Target("depth")], "two columns would be called depth"),
        ([Target("depth", permuted=True)], "is no plain state; name a variable"),
        ([Target("reg.a.value", where="loaded")], "is no plain state"),
        (["reg.z"], "reg.z"),
    ],
)
def test_what_is_no_column_is_refused(targets: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        activation_table(model(), programs()[:3], SITE, targets)
