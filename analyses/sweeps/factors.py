"""What factors set: knobs by name, and paths into the mixture and the recipe.

A draft is a recipe as plain tables, in which a level is set before anything is checked.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from cadmus.models.config import ModelConfig
from cadmus.programs import mixture as mixtures
from cadmus.programs.families import FAMILIES
from cadmus.programs.mixture import Mixture
from cadmus.programs.parts.family import knobs
from cadmus.properties import splits
from cadmus.runtime import tables
from cadmus.training.config import TrainConfig
from cadmus.training.recipe import Recipe

Draft = dict[str, Any]
"""`mixture`, `model`, `train`: tables as TOML has them; `programs`: a number; `start`: a model, or empty."""


def draft_of(recipe: Recipe) -> Draft:
    """The recipe as plain tables, without out-of-distribution sets: those of the base are not a matter of training."""
    mixture = {key: value for key, value in mixtures.to_dict(recipe.mixture).items() if key != "out_of_distribution"}
    return {
        "mixture": copy.deepcopy(mixture),
        "model": recipe.cfg.to_dict(),
        "train": asdict(recipe.train),
        "programs": recipe.size,
        "start": recipe.start,
    }


def recipe_of(draft: Draft, name: str) -> Recipe:
    """The recipe of a draft, or of the tables that a sweep has stored. Raises ValueError as recipes and mixtures do."""
    return Recipe(
        name=name,
        mixture=mixtures.from_dict(draft["mixture"]),
        cfg=ModelConfig(**draft["model"]),
        train=TrainConfig(**{**draft["train"], "betas": tuple(draft["train"]["betas"])}),
        programs=draft["programs"],
        start=draft["start"],
    )


@dataclass(frozen=True)
class Knob:
    """A knob of distributions that has a name of its own."""

    doc: str
    """What it sets, in one line."""

    set: Callable[[Draft, Any], None]
    """Sets a level in a draft. Raises ValueError where the draft has nothing of the kind."""


def set_level(draft: Draft, sets: str, level: Any) -> None:
    """Set a factor's level in a draft. Raises ValueError for an unknown knob or path, and for a level of another
    type."""
    if sets in KNOBS:
        KNOBS[sets].set(draft, level)
        return
    place, _, rest = sets.partition(".")
    if place == "mixture" and not rest:
        draft["mixture"] = mixtures.to_dict(_mixture(level))
    elif place == "mixture":
        _set_in_mixture(draft, sets, rest, level)
    elif place == "recipe":
        _set_in_recipe(draft, sets, rest, level)
    else:
        hint = tables.did_you_mean(sets, (*KNOBS, "mixture", "recipe.programs"))
        raise ValueError(
            f"unknown knob {sets!r}{hint}; there are {', '.join(KNOBS)}, and paths: mixture, mixture.FAMILY.KNOB, "
            "mixture.hold_out.RULE, recipe.programs, recipe.model.FIELD, recipe.train.FIELD"
        )


def _mixture(level: Any) -> Mixture:
    if isinstance(level, dict):
        return mixtures.from_dict(level)
    if not isinstance(level, str):
        raise ValueError(f"mixture = {level!r} must be the name or file of a mixture")
    return mixtures.load(level)


def _set_in_mixture(draft: Draft, sets: str, rest: str, level: Any) -> None:
    """Set mixture.FAMILY.KNOB or mixture.hold_out.RULE."""
    owner, _, name = rest.partition(".")
    if owner == "hold_out":
        draft["mixture"].setdefault("hold_out", {})[name] = level
        return
    by_name = {table["name"]: table for table in draft["mixture"]["family"]}
    tables.check_names([owner], by_name, sets, "family", suggest=True)
    names = ("weight", "duplicates", *knobs(FAMILIES[owner]))
    tables.check_names([name], names, f"{sets}: family {owner}", "knob", suggest=True)
    by_name[owner][name] = level


def _set_in_recipe(draft: Draft, sets: str, rest: str, level: Any) -> None:
    """Set recipe.programs, recipe.model.FIELD or recipe.train.FIELD."""
    table, _, name = rest.partition(".")
    if rest == "programs":
        draft["programs"] = tables.typed_value(level, int, sets)
        return
    types = {"model": ModelConfig, "train": TrainConfig}
    if table not in types:
        tables.check_names([rest], ("programs", *types), sets, "place", suggest=True)
    if rest == "train.seed":
        raise ValueError(f"{sets}: seeds are those of the sweep; leave the factor out")
    draft[table][name] = tables.field_values(types[table], {name: level}, sets, suggest=True)[name]


# --- knobs with names ------------------------------------------------------------------------------------------------


def _of_families(knob: str) -> Callable[[Draft, Any], None]:
    """Sets a knob in every family that has it."""

    def set_all(draft: Draft, level: Any) -> None:
        _each(draft, knob, lambda table: {knob: level})

    return set_all


def _each(draft: Draft, knob: str, values: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Set values in the tables of all families that have a knob."""
    mine = [table for table in draft["mixture"]["family"] if knob in knobs(FAMILIES[table["name"]])]
    if not mine:
        names = ", ".join(table["name"] for table in draft["mixture"]["family"])
        raise ValueError(f"no family of the mixture has the knob {knob}: it has {names}; add one that does")
    for table in mine:
        table.update(values(table))


def _value_range(draft: Draft, level: Any) -> None:
    """Values up to `level`, and as far below 0 where the family has negative ones."""
    high = tables.typed_value(level, int, "value_range")
    _each(draft, "high", lambda table: {"high": high} | ({"low": -high} if table.get("low", 0) < 0 else {}))


def _of_register(knob: str) -> Callable[[Draft, Any], None]:
    def set_one(draft: Draft, level: Any) -> None:
        _set_in_mixture(draft, f"mixture.register.{knob}", f"register.{knob}", level)

    return set_one


def _compound_divergence(draft: Draft, level: Any) -> None:
    """Hold compounds out of the mixture's only family, at that compound divergence."""
    mixture = mixtures.from_dict(draft["mixture"])
    if len(mixture.families) != 1:
        names = ", ".join(mixture.family_names)
        raise ValueError(f"compound_divergence divides one family's programs, and the mixture has {names}; leave one")
    divergence = tables.typed_value(level, float, "compound_divergence")
    table = mixtures.to_dict(_split(mixture.families[0], divergence).mixture(mixture))
    draft["mixture"] = table


@lru_cache(maxsize=64)
def _split(family: Any, divergence: float) -> splits.Split:
    """The hold-out: a search of seconds, the same for equal families."""
    return splits.find_split(family, divergence)


KNOBS: dict[str, Knob] = {
    "skeletons": Knob("distinct skeletons of every family that has the knob", _of_families("skeletons")),
    "zipf": Knob("how unevenly those occur: the weight of the k-th is k ** -zipf", _of_families("zipf")),
    "value_range": Knob("the greatest value (and below 0, the least) of every family that has one", _value_range),
    "read_distance": Knob("the most stores between a value's and the first assertion", _of_register("max_distance")),
    "overwrites": Knob(
        "the share of stores into a stored register, while one is unused", _of_register("overwrite_share")
    ),
    "compound_divergence": Knob("that of the programs held out, at an atom divergence of 0.02", _compound_divergence),
}
"""Knobs of distributions by name; everything else is set by a path."""
