"""TOML tables as dataclasses: what becomes of each type of value, and the texts of what is refused."""

import re
from dataclasses import dataclass
from typing import ClassVar

import pytest

from cadmus.runtime import tables


@dataclass(frozen=True)
class Config:
    kind: ClassVar[str] = "not a field"
    name: str
    steps: int = 10
    rate: float = 0.1
    nested: bool = False
    seed: int | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    values: tuple[int, ...] = ()


def test_a_table_becomes_the_dataclass_with_each_value_of_its_field_s_type() -> None:
    table = {"name": "a", "rate": 1, "nested": True, "seed": 3, "betas": [0, 0.5], "values": [1, 2]}
    config = tables.from_table(Config, table, "train")
    assert config == Config("a", rate=1.0, nested=True, seed=3, betas=(0.0, 0.5), values=(1, 2))
    assert [type(value) for value in (config.rate, *config.betas)] == [float] * 3
    assert tables.field_values(Config, {"steps": 2}, "train") == {"steps": 2}  # whatever the table lacks


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"step": 1}, "train: unknown field 'step'; there are name, steps, rate, nested, seed, betas, values"),
        ({"steps": 1.5}, "train: steps = 1.5 must be int"),
        ({"steps": True}, "train: steps = True must be int"),
        ({"rate": "0.1"}, "train: rate = '0.1' must be float"),
        ({"rate": True}, "train: rate = True must be float"),
        ({"nested": 1}, "train: nested = 1 must be bool"),
        ({"name": ["a"]}, "train: name = ['a'] must be str"),
        ({"seed": "one"}, "train: seed = 'one' must be int"),
        ({"values": 3}, "train: values = 3 must be a list of int"),
        ({"values": [3.0]}, "train: values = [3.0] must be a list of int"),
        ({"values": [True]}, "train: values = [True] must be a list of int"),
        ({"betas": ["0.9"]}, "train: betas = ['0.9'] must be a list of float"),
    ],
)
def test_what_is_unknown_or_of_another_type_is_refused(table: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        tables.from_table(Config, {"name": "a", **table}, "train")


def test_a_suggestion_is_made_where_it_is_asked_for_and_a_name_is_similar() -> None:
    with pytest.raises(
        ValueError, match=r"^family x: unknown knob 'step' \(did you mean 'steps'\?\); there are name, "
    ):
        tables.field_values(Config, {"step": 1}, "family x", "knob", suggest=True)
    with pytest.raises(ValueError, match=r"^mixture: unknown knob 'zzz'; there are name, low$"):
        tables.check_names({"zzz": 1}, ("name", "low"), "mixture", "knob", suggest=True)
    assert tables.did_you_mean("lwo", ("low", "high")) == " (did you mean 'low'?)"


def test_toml_is_parsed_and_errors_begin_with_its_source() -> None:
    assert tables.parse_toml("steps = 3", "a.toml", lambda data: data["steps"]) == 3
    with pytest.raises(ValueError, match=r"^a\.toml is not TOML: Invalid value"):
        tables.parse_toml("steps = ", "a.toml", dict)

    def refuse(data: dict) -> None:
        raise ValueError("steps must be 1 or more")

    with pytest.raises(ValueError, match=r"^a\.toml: steps must be 1 or more$"):
        tables.parse_toml("steps = 0", "a.toml", refuse)
