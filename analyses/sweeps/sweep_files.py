"""Sweeps out of TOML files, and out of the folders that they lie in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analyses.sweeps.factors import recipe_of
from analyses.sweeps.sweep import Demand, Factor, Hypothesis, Measurements, Pilot, Sweep
from cadmus import shipped
from cadmus.programs import mixture as mixtures
from cadmus.programs.mixture import Mixture
from cadmus.runtime import artifacts, tables
from cadmus.statistics.regression import MEANT_SEEDS
from cadmus.training import recipe as recipes
from cadmus.training.recipe import Recipe

_TOP = ("name", "recipe", "mixture", "seeds", "responses", "measure", "factor", "pilot", "hypothesis", "demand")
_RECIPE = ("name", "programs", "start", "model", "train")


def load(source: str | Path) -> Sweep:
    """Read the sweep in a TOML file, or one that ships with the package, by name (`shipped.names("sweeps")`).

    Recipes and mixtures that it names may lie beside it. Raises ValueError, in one line, for malformed TOML and for
    anything unknown, ill-typed or out of bounds.
    """
    path = shipped.file_of("sweeps", source)
    if path is None:
        raise ValueError(f"no sweep {str(source)!r}; name a TOML file or one of {', '.join(shipped.names('sweeps'))}")
    return tables.parse_toml(artifacts.read_text(path), str(source), lambda data: from_dict(data, path.parent))


def from_dict(data: dict[str, Any], folder: Path = Path()) -> Sweep:
    """The sweep that the tables of a TOML file describe; `folder` is where what it names may lie."""
    tables.check_names(data, _TOP, "sweep", "key", suggest=True)
    missing = [name for name in ("name", "mixture", "recipe", "seeds", "responses") if name not in data]
    if missing:
        raise ValueError(f"a sweep needs {', '.join(missing)}; see docs/sweeps.md")
    mixture = _mixture(data["mixture"], folder)
    sweep = Sweep(
        name=tables.typed_value(data["name"], str, "name"),
        recipe=_recipe(data["recipe"], mixture, folder),
        factors=tuple(_factor(table, mixture, folder) for table in _array(data, "factor")),
        seeds=tables.typed_value(data["seeds"], tuple[int, ...], "seeds"),
        responses=tables.typed_value(data["responses"], tuple[str, ...], "responses"),
        measure=tables.from_table(Measurements, data.get("measure", {}), "measure", suggest=True),
        pilot=_pilot(data["pilot"]) if "pilot" in data else None,
        hypotheses=tuple(_hypothesis(table) for table in _array(data, "hypothesis")),
        demands=tuple(_demand(table) for table in _array(data, "demand")),
    )
    if sweep.hypotheses and len(sweep.seeds) < 2:
        raise ValueError(
            f"sweep {sweep.name!r}: one seed a cell answers no hypothesis; name two or more, {MEANT_SEEDS} are meant: "
            f"seeds = {list(range(MEANT_SEEDS))}"
        )
    return sweep


def _array(data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = data.get(key, [])
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise ValueError(f"{key} must be one or more [[{key}]] tables")
    return value


def _mixture(value: Any, folder: Path) -> Mixture:
    if isinstance(value, dict):
        return mixtures.from_dict(value)
    if not isinstance(value, str):
        raise ValueError(f"mixture = {value!r} must be a name, a file or a [mixture] table")
    beside = folder / value
    return mixtures.load(beside if beside.is_file() else value)


def _recipe(value: Any, mixture: Mixture, folder: Path) -> Recipe:
    """The recipe that is named, with the sweep's mixture in place of its own, or the one that a table describes."""
    if isinstance(value, str):
        beside = folder / value
        return recipes.with_changes(recipes.load(beside if beside.is_file() else value), mixture=mixture)
    if not isinstance(value, dict):
        raise ValueError(f"recipe = {value!r} must be a name, a file or a [recipe] table")
    tables.check_names(value, _RECIPE, "recipe", "key", suggest=True)
    return recipes.from_tables({"name": "sweep", **value}, mixture, folder)


def _factor(table: dict[str, Any], mixture: Mixture, folder: Path) -> Factor:
    """The factor that a table describes; `mixture` is what its variants change."""
    tables.check_names(table, ("name", "knob", "levels", "variants"), "factor", "key", suggest=True)
    if "variants" in table:
        return _variants(table, mixture)
    name, levels, knob = table.get("name"), table.get("levels"), table.get("knob", "")
    if not isinstance(name, str) or not isinstance(levels, list) or not isinstance(knob, str):
        raise ValueError('a [[factor]] is name = "...", levels = [...] and, where it sets something else, knob = "..."')
    values = [mixtures.to_dict(_mixture(level, folder)) for level in levels] if (knob or name) == "mixture" else []
    return Factor(name, tuple(levels), knob, tuple(values))


def _variants(table: dict[str, Any], mixture: Mixture) -> Factor:
    """A factor whose levels are changes of the sweep's mixture, by their names."""
    name, changes = table.get("name"), table["variants"]
    if not isinstance(name, str) or not isinstance(changes, dict) or not all(map(_is_table, changes.values())):
        raise ValueError('a [[factor]] of variants is name = "..." and a table [factor.variants.LEVEL] for every level')
    for key in ("knob", "levels"):
        if key in table:
            raise ValueError(f"factor {name!r}: its levels are its variants, changes of the mixture; leave out {key}")
    values = []
    for level, change in changes.items():
        try:
            values.append(mixtures.to_dict(mixtures.variant(mixture, change)))
        except ValueError as error:
            raise ValueError(f"factor {name!r}, variant {level!r}: {error}") from None
    return Factor(name, tuple(changes), "mixture", tuple(values))


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _demand(table: dict[str, Any]) -> Demand:
    own = {key: value for key, value in table.items() if key != "cell"}
    cell = table.get("cell", {})
    if "property" not in table or not _is_table(cell):
        raise ValueError(
            'a [[demand]] is property = "...", least = ..., most = ..., and of some cells cell = { FACTOR = LEVEL }'
        )
    tables.check_names(own, tables.field_types(Demand), "demand", "key", suggest=True)
    return Demand(**tables.field_values(Demand, own, "demand", suggest=True), cell=dict(cell))


def _pilot(table: dict[str, Any]) -> Pilot:
    names = ("accuracy", "cell")
    tables.check_table(table, "pilot", names)
    tables.check_names(table, names, "pilot", "key", suggest=True)
    if "accuracy" not in table or not isinstance(table.get("cell", {}), dict):
        raise ValueError("a [pilot] is accuracy = 0.9 and cell = { FACTOR = LEVEL, ... }")
    return Pilot(tables.typed_value(table["accuracy"], float, "pilot: accuracy"), dict(table.get("cell", {})))


def _hypothesis(table: dict[str, Any]) -> Hypothesis:
    names = tables.field_types(Hypothesis)
    missing = [name for name in names if name not in table]
    if missing:
        raise ValueError(f"a [[hypothesis]] needs {', '.join(missing)}")
    return tables.from_table(Hypothesis, table, "hypothesis", suggest=True)


def sweep_from_stored(data: dict[str, Any]) -> Sweep:
    """The sweep that `Sweep.to_dict` describes: what a folder holds needs no other file."""
    return Sweep(
        name=data["name"],
        recipe=recipe_of(data, "sweep"),
        factors=tuple(Factor(f["name"], tuple(f["levels"]), f["sets"], tuple(f["values"])) for f in data["factors"]),
        seeds=tuple(data["seeds"]),
        responses=tuple(data["responses"]),
        measure=Measurements(**data["measure"]),
        pilot=None if data["pilot"] is None else Pilot(**data["pilot"]),
        hypotheses=tuple(Hypothesis(**hypothesis) for hypothesis in data["hypotheses"]),
        demands=tuple(Demand(**demand) for demand in data.get("demands", [])),
    )
