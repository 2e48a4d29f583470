"""What a sweep asks for: a base, factors and their levels, seeds, responses, a pilot and hypotheses; TOML or dataclass.

name = "diversity"
seeds = [0, 1, 2, 3, 4]
responses = ["accuracy.in_distribution", "accuracy.unseen_skeletons", "read.reg", "interchange.reg"]

[recipe]                       # as a recipe's file, or the name of one; its mixture stands below
programs = 200_000
model = { n_layers = 3, d_model = 64 }
train = { steps = 4000 }

[mixture]                      # as a mixture's file, or the name of one
name = "registers"
family = [{ name = "register", assertions = 3 }]

[[factor]]
name = "skeletons"             # the column of the table
levels = [30, 300, 3000]

[pilot]
accuracy = 0.9
cell = { skeletons = 3000 }

[[hypothesis]]
name = "diversity helps"
statement = "More skeletons at a fixed corpus size raise the accuracy on unseen skeletons."
response = "accuracy.unseen_skeletons"
predictor = "skeletons"
expected = "positive"
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from cadmus.programs import mixture as mixtures
from cadmus.properties.splits import SET_NAME
from cadmus.properties.structure import PROPERTIES
from cadmus.runtime import artifacts, tables
from cadmus.runtime.checks import MAX_SEED, check_name, check_text_lists
from cadmus.training.recipe import Recipe

RESERVED = ("sweep", "cell", "seed", "response", "value", "low", "high", "n", "status", "why")
"""Columns of the table that no factor may be called by."""

EXPECTED = ("positive", "negative", "none")
ACCURACY, TRUE, FIGURE1 = "accuracy", "true", "figure1"
READ, INTERCHANGE, MECHANISM = "read", "interchange", "mechanism"
OWN_ACCURACIES = ("in_distribution", "base", "unseen_skeletons")
"""Accuracies that every sweep can measure; the others are those of a family, or of an out-of-distribution set."""

COMPARED = ("compared_least", "compared_greatest")
"""Properties of what a corpus compares, exact (`cadmus.properties.comparisons`)."""

REACHED = ("reached_atom_divergence", "reached_compound_divergence")
"""Properties of corpora whose mixture the knob compound_divergence divided: how far the programs held out lie from
them, as their manifests have it; 0 where nothing is held out."""

ALL_PROPERTIES = (*PROPERTIES, "atom_divergence", "compound_divergence", *COMPARED)

PLANE = {"inside": "inside", "diagonal": "outside, X = Y", "outside": "outside, X and Y differ"}
"""What of Figure 1 a response figure1.NAME is: the region of the plane (`cadmus.training.plane.REGIONS`)."""

_VARIABLE = r"(reg(?:\.[a-d])?)"
_ROLES = ("arose", "stored", "loaded")
_OF_STATE = re.compile(rf"(?:{READ}|{MECHANISM})\.{_VARIABLE}|{INTERCHANGE}\.{_VARIABLE}(?:\.({'|'.join(_ROLES)}))?")


@dataclass(frozen=True)
class Factor:
    """What is varied, and the levels that it has."""

    name: str
    """Its name, the column of the table."""

    levels: tuple[Any, ...]
    """Its levels: numbers, texts, flags or lists of them, two or more."""

    knob: str = ""
    """What it sets: a knob of `factors.KNOBS`, or a path into the mixture or recipe; empty: the one of its name."""

    values: tuple[Any, ...] = ()
    """What is set, level by level, where that is not the level itself: mixtures, as tables, whose names are levels."""

    def __post_init__(self) -> None:
        if (
            self.name in RESERVED
            or self.name.startswith("property.")
            or not re.fullmatch(r"[A-Za-z][\w.-]*", self.name)
        ):
            raise ValueError(
                f"factor {self.name!r}: the table has a column of that name, or it is no name; call it otherwise"
            )
        table = next((level for level in self.levels if isinstance(level, dict)), None)
        if table is not None:
            raise ValueError(
                f"factor {self.name!r}: the level {table} is a table; levels are numbers, texts, flags or lists of "
                "them (a mixture has a name as a [factor.variants.NAME] or in a file)"
            )
        if len(self.levels) < 2 or any(level in self.levels[:k] for k, level in enumerate(self.levels)):
            raise ValueError(f"factor {self.name!r}: levels = {list(self.levels)} must be two or more different ones")
        if self.values and len(self.values) != len(self.levels):
            raise ValueError(f"factor {self.name!r} has {len(self.values)} values for {len(self.levels)} levels")

    def value(self, level: Any) -> Any:
        """What is set for a level."""
        return self.values[self.levels.index(level)] if self.values else level

    @property
    def sets(self) -> str:
        """The knob or path that it sets."""
        return self.knob or self.name


@dataclass(frozen=True)
class Measurements:
    """How much is measured of each model."""

    programs: int = 500
    """Programs completed per family, split and out-of-distribution set."""

    pairs: int = 200
    """Discriminating pairs of the interventions."""

    probe_programs: int = 1000
    """Programs of the probe."""

    property_programs: int = 2000
    """Programs of the corpus whose properties are measured, and of the test programs that they are held against."""

    least_accuracy: float = 0.8
    """In-distribution accuracy below which a mechanism is missing: what a model does not do it does in no way."""

    plane_reach: int = 40
    """X and Y of Figure 1 lie in -plane_reach..plane_reach."""

    plane_programs: int = 10
    """Programs of Figure 1 for each X and Y."""

    def __post_init__(self) -> None:
        at_least = {"programs": 1, "pairs": 10, "probe_programs": 100, "property_programs": 40}
        for name, least in (at_least | {"plane_reach": 1, "plane_programs": 1}).items():
            if getattr(self, name) < least:
                raise ValueError(f"measure: {name} = {getattr(self, name)} must be {least} or more")
        if not 0 <= self.least_accuracy <= 1:
            raise ValueError(f"measure: least_accuracy = {self.least_accuracy} must lie in [0, 1]")

    def to_dict(self) -> dict[str, Any]:
        """As plain data, without what came later where it has its default: sweeps keep their fingerprints."""
        later = {"plane_reach", "plane_programs"}
        defaults = {f.name: f.default for f in fields(self) if f.name in later}
        return {name: value for name, value in asdict(self).items() if value != defaults.get(name)}


@dataclass(frozen=True)
class Pilot:
    """The cell that runs first, and what it must reach."""

    accuracy: float
    """The in-distribution accuracy that the median of its first runs must reach."""

    cell: dict[str, Any] = field(default_factory=dict)
    """Its levels by factor; the first level of a factor that is left out."""

    def __post_init__(self) -> None:
        if not 0 <= self.accuracy <= 1:
            raise ValueError(f"pilot: accuracy = {self.accuracy} must lie in [0, 1]")


@dataclass(frozen=True)
class Demand:
    """What the corpus of a run must be like; a run whose corpus is not fails before its model is trained."""

    property: str
    """A measured property: `compared_least`, `compared_greatest` (exact, over the whole corpus), or one of those that
    stand in the table as `property.NAME` (at the size of its sample)."""

    least: float | None = None
    """The least that it may be; None: anything."""

    most: float | None = None
    """The most that it may be; None: anything."""

    cell: dict[str, Any] = field(default_factory=dict)
    """Of which cells it is demanded, by the levels of factors, one or a list of them; of all where it is empty."""

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.least, self.most) if bound is not None]
        if not bounds or bounds != sorted(bounds):
            raise ValueError(
                f"demand: {self.property} needs least, most or both, the least not above the most; they are "
                f"{self.least} and {self.most}"
            )

    def allows(self, value: float) -> bool:
        """Whether a property may have this value; one that could not be measured may."""
        below = self.least is not None and value < self.least
        return not below and not (self.most is not None and value > self.most)

    def is_of(self, levels: dict[str, Any]) -> bool:
        """Whether it is demanded of the cell with these levels."""
        return all(levels[name] == level or levels[name] in _several(level) for name, level in self.cell.items())


def _several(level: Any) -> list[Any]:
    """The levels that a demand names for a factor."""
    return level if isinstance(level, list) else [level]


@dataclass(frozen=True)
class Hypothesis:
    """What is expected, stated before the runs; the study answers it."""

    name: str
    """A short name."""

    statement: str
    """The sentence."""

    response: str
    """The response that it is about, one of the sweep's."""

    predictor: str
    """A factor of the sweep, a property as `property.NAME`, or a response, which predicts another one."""

    expected: str
    """The sign of the effect: positive, negative or none."""

    def __post_init__(self) -> None:
        if self.expected not in EXPECTED:
            raise ValueError(
                f"hypothesis {self.name!r}: expected = {self.expected!r} must be one of {', '.join(EXPECTED)}"
            )


@dataclass(frozen=True)
class Sweep:
    """A grid of cells, each of which is trained with every seed. Raises ValueError for contradictions."""

    name: str
    """What the sweep is called."""

    recipe: Recipe
    """The base: what every cell is trained by, but for its levels. The base's mixture, its out-of-distribution sets
    among it, is also what all cells alike are measured on."""

    factors: tuple[Factor, ...]
    """What is varied; the cells are all combinations of levels."""

    seeds: tuple[int, ...]
    """Of the weights, the order of the programs and, with the cell, the corpus."""

    responses: tuple[str, ...]
    """What is measured: accuracy.NAME (in_distribution, base, unseen_skeletons, a family, an out-of-distribution set),
    true.NAME (of the same names), figure1.NAME (inside, diagonal, outside), read.VARIABLE, interchange.VARIABLE,
    interchange.VARIABLE.ROLE, mechanism.VARIABLE."""

    measure: Measurements = field(default_factory=Measurements)
    """How much is measured."""

    pilot: Pilot | None = None
    """What runs first; None: nothing must be reached."""

    hypotheses: tuple[Hypothesis, ...] = ()
    """What is expected."""

    demands: tuple[Demand, ...] = ()
    """What corpora must be like."""

    def __post_init__(self) -> None:
        check_text_lists(self, "responses")
        check_name(self.name, "sweep name", "it lies in runs/sweeps/NAME")
        if not self.factors:
            raise ValueError(f"sweep {self.name!r} varies nothing; add a [[factor]] table with a name and levels")
        self._check_distinct("factor", [factor.name for factor in self.factors])
        self._check_distinct("knob of a factor", [factor.sets for factor in self.factors])
        self._check_distinct("response", self.responses)
        self._check_distinct("column of the table", [*(factor.name for factor in self.factors), *self.responses])
        if (
            not self.seeds
            or len(set(self.seeds)) < len(self.seeds)
            or not 0 <= min(self.seeds) <= max(self.seeds) <= MAX_SEED
        ):
            raise ValueError(f"sweep {self.name!r}: seeds = {list(self.seeds)} must be different whole numbers from 0")
        if not self.responses:
            raise ValueError(f"sweep {self.name!r} measures nothing; add responses = [...]")
        for response in self.responses:
            self._check_response(response)
        self._check_pilot()
        self._check_hypotheses()
        self._check_demands()
        if self.recipe.stream or self.recipe.ordinary:
            raise ValueError(f"sweep {self.name!r}: each model has a corpus of its own; leave out stream and ordinary")
        if self.recipe.train.seed:
            raise ValueError(f"sweep {self.name!r}: train: seed would be ignored; name it in seeds = [...]")

    def _check_distinct(self, word: str, names: tuple[str, ...] | list[str]) -> None:
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"sweep {self.name!r}: {word} {twice!r} stands there twice; neither could vary alone")

    def _check_response(self, response: str) -> None:
        kind, _, what = response.partition(".")
        if kind in (ACCURACY, TRUE):
            names = (*OWN_ACCURACIES, *self.recipe.mixture.family_names, *self.sets)
            tables.check_names([what], names, f"sweep {self.name!r}", kind, suggest=True)
        elif kind == FIGURE1:
            tables.check_names([what], PLANE, f"sweep {self.name!r}", "part of figure1", suggest=True)
            if "compare" not in self.recipe.mixture.family_names:
                raise ValueError(f"sweep {self.name!r}: {response} needs the family compare, which the mixture lacks")
        elif not _OF_STATE.fullmatch(response):
            raise ValueError(
                f"sweep {self.name!r}: unknown response {response!r}; there are accuracy.NAME, true.NAME, "
                "figure1.NAME, read.VARIABLE, interchange.VARIABLE, interchange.VARIABLE.ROLE (a role of "
                f"{', '.join(_ROLES)}) and mechanism.VARIABLE, where a variable is reg, reg.a, reg.b, reg.c or reg.d"
            )
        elif "register" not in self.recipe.mixture.family_names:
            raise ValueError(f"sweep {self.name!r}: {response} needs the family register, which the mixture lacks")

    @property
    def sets(self) -> tuple[str, ...]:
        """The names of the out-of-distribution sets: the base's, and what factors add."""
        own = tuple(ood.name for ood in self.recipe.mixture.out_of_distribution)
        return (*own, SET_NAME) if self.divides and SET_NAME not in own else own

    @property
    def divides(self) -> bool:
        """Whether a factor holds compounds out."""
        return any(factor.sets == "compound_divergence" for factor in self.factors)

    def _check_pilot(self) -> None:
        if self.pilot is None:
            return
        by_name = {factor.name: factor for factor in self.factors}
        tables.check_names(self.pilot.cell, by_name, "pilot: cell", "factor", suggest=True)
        for name, level in self.pilot.cell.items():
            if level not in by_name[name].levels:
                raise ValueError(f"pilot: {name} = {level!r} must be one of {list(by_name[name].levels)}")
        if "accuracy.in_distribution" not in self.responses:
            raise ValueError("pilot: its accuracy is accuracy.in_distribution; add that to the responses")

    def _check_hypotheses(self) -> None:
        self._check_distinct("hypothesis", [hypothesis.name for hypothesis in self.hypotheses])
        for hypothesis in self.hypotheses:
            owner = f"hypothesis {hypothesis.name!r}"
            tables.check_names([hypothesis.response], self.responses, owner, "response", suggest=True)
            reached = REACHED if self.divides else ()
            properties = (f"property.{name}" for name in (*ALL_PROPERTIES, *reached))
            names = (*(factor.name for factor in self.factors), *self.responses, *properties)
            tables.check_names([hypothesis.predictor], names, owner, "predictor", suggest=True)

    def _check_demands(self) -> None:
        by_name = {factor.name: factor for factor in self.factors}
        for demand in self.demands:
            tables.check_names([demand.property], ALL_PROPERTIES, "demand", "property", suggest=True)
            tables.check_names(demand.cell, by_name, "demand: cell", "factor", suggest=True)
            for name, level in demand.cell.items():
                for one in [level] if level in by_name[name].levels else _several(level):
                    if one not in by_name[name].levels:
                        raise ValueError(f"demand: {name} = {one!r} must be one of {list(by_name[name].levels)}")

    @property
    def compares(self) -> bool:
        """Whether what corpora compare is measured: where Figure 1 is, or a demand is about it."""
        return FIGURE1 in self.kinds() or any(demand.property in COMPARED for demand in self.demands)

    @property
    def variables(self) -> tuple[str, ...]:
        """The state variables that responses are about, in their order."""
        return tuple(dict.fromkeys(variable_and_role(r)[0] for r in self.responses if _OF_STATE.fullmatch(r)))

    def kinds(self) -> set[str]:
        """The kinds of responses: accuracy, true, figure1, read, interchange, mechanism."""
        return {response.partition(".")[0] for response in self.responses}

    def to_dict(self) -> dict[str, Any]:
        """All that it asks for, as plain data."""
        recipe = self.recipe
        demands = {"demands": [asdict(demand) for demand in self.demands]} if self.demands else {}
        return demands | {
            "name": self.name,
            "mixture": mixtures.to_dict(recipe.mixture),
            "model": recipe.cfg.to_dict(),
            "train": asdict(recipe.train),
            "programs": recipe.size,
            "start": recipe.start,
            "factors": [
                {"name": f.name, "sets": f.sets, "levels": list(f.levels), "values": list(f.values)}
                for f in self.factors
            ],
            "seeds": list(self.seeds),
            "responses": list(self.responses),
            "measure": self.measure.to_dict(),
            "pilot": None if self.pilot is None else asdict(self.pilot),
            "hypotheses": [asdict(hypothesis) for hypothesis in self.hypotheses],
        }

    @property
    def fingerprint(self) -> str:
        """Names the content."""
        return artifacts.fingerprint(self.to_dict())


def variable_and_role(response: str) -> tuple[str, str]:
    """The variable of a response of the state, and the role, empty where it has none."""
    match = _OF_STATE.fullmatch(response)
    assert match is not None, f"{response} is no response of the state"
    return match.group(1) or match.group(2), match.group(3) or ""
