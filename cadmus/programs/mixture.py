"""A training distribution as data: families, their weights and knobs, hold-outs and a curriculum; TOML or dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from cadmus import shipped
from cadmus.programs.families import FAMILIES, Family
from cadmus.programs.holdout import HoldOut
from cadmus.programs.parts.family import knobs
from cadmus.runtime import tables
from cadmus.runtime.artifacts import fingerprint, read_text, write_bytes

DUPLICATES = ("remove", "keep")
HELD_OUT_SPLITS = ("test", "test_skeleton")  # what an out-of-distribution set may be of, in place of a rule


@dataclass(frozen=True)
class Component:
    """A family with its knobs set, and its share of the programs."""

    family: Family
    """The family."""

    weight: float = 1.0
    """Its share of the programs is this over the total weight; above 0."""

    duplicates: str = "remove"
    """Whether a corpus keeps what is drawn again ("keep") or holds each program once ("remove")."""

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise ValueError(
                f"family {self.family.name}: weight = {self.weight} must be above 0; drop the family instead"
            )
        if self.duplicates not in DUPLICATES:
            raise ValueError(
                f"family {self.family.name}: duplicates = {self.duplicates!r} must be one of {', '.join(DUPLICATES)}"
            )


@dataclass(frozen=True)
class Phase:
    """The families of a part of training."""

    until: float
    """Where it ends, as a share of training: above 0 and below 1."""

    components: tuple[Component, ...]
    """Its families."""

    def __post_init__(self) -> None:
        if not 0 < self.until < 1:
            raise ValueError(f"phase: until = {self.until} is a share of training, above 0 and below 1")
        _check_components("phase", self.components)


@dataclass(frozen=True)
class OutOfDistribution:
    """A set of programs unlike those trained on: a family with other knobs, or what a hold-out rule keeps out."""

    name: str
    """Its name, unlike that of any other set of the mixture."""

    family: Family
    """The family that its programs are drawn from."""

    held_out: str = ""
    """The rule of the hold-out that the programs must break, or the held-out split (`test`, `test_skeleton`) that they
    must fall into; empty: the knobs alone make them unlike."""

    held_out_share: float = 0.0
    """Of held_out = "compounds": the least share of a program's compounds that must be held out."""


@dataclass(frozen=True)
class Mixture:
    """What programs a corpus is drawn from. Equal mixtures have equal fingerprints, whatever their name and size."""

    name: str
    """What people call it."""

    components: tuple[Component, ...] = ()
    """The families; with phases, those of the rest of training."""

    hold_out: HoldOut = field(default_factory=HoldOut)
    """What is kept out of training."""

    phases: tuple[Phase, ...] = ()
    """The parts of training with families of their own, in order."""

    out_of_distribution: tuple[OutOfDistribution, ...] = ()
    """Sets of programs unlike those trained on."""

    programs: int = 0
    """The size of a corpus unless another is asked for; 0: it must be."""

    def __post_init__(self) -> None:
        _check_components(f"mixture {self.name!r}", self.components)
        if self.programs < 0:
            raise ValueError(f"mixture {self.name!r}: programs = {self.programs} must be 0 or more")
        untils = [phase.until for phase in self.phases]
        if untils != sorted(set(untils)):
            raise ValueError(f"mixture {self.name!r}: phases must come in order, each until later than the one before")
        names = [ood.name for ood in self.out_of_distribution]
        if len(set(names)) < len(names) or not all(names):
            raise ValueError(f"mixture {self.name!r}: out_of_distribution sets need names, each its own")
        for name in names:
            if name.startswith(".") or set(name) & set("/\\\0"):
                raise ValueError(
                    f"mixture {self.name!r}: out_of_distribution set {name!r} is stored as a file of that name; leave "
                    "out / and \\, and a . at its beginning"
                )
        for ood in self.out_of_distribution:
            self._check_unlike_training(ood)

    def _check_unlike_training(self, ood: OutOfDistribution) -> None:
        """Raise ValueError where a set's programs are those of training."""
        if not 0 <= ood.held_out_share <= 1:
            raise ValueError(
                f"out_of_distribution {ood.name!r}: held_out_share = {ood.held_out_share} must be a share in [0, 1]"
            )
        if ood.held_out_share and ood.held_out != "compounds":
            raise ValueError(
                f"out_of_distribution {ood.name!r}: held_out_share is for held_out = 'compounds', not {ood.held_out!r}"
            )
        if ood.held_out in HELD_OUT_SPLITS:
            return
        if ood.held_out and ood.held_out not in self.hold_out.rules:
            raise ValueError(
                f"out_of_distribution {ood.name!r}: held_out = {ood.held_out!r} is not a rule that holds anything out; "
                f"there are {', '.join(self.hold_out.rules) or 'none'}"
            )
        if not ood.held_out and ood.family in self.families:
            raise ValueError(
                f"out_of_distribution {ood.name!r} has the knobs of training; turn one, or name a rule as held_out"
            )

    @property
    def families(self) -> tuple[Family, ...]:
        """The families of `components`."""
        return tuple(component.family for component in self.components)

    @property
    def family_names(self) -> tuple[str, ...]:
        """The names of the families over all phases: what family indices refer to."""
        names = [family.name for _, part in self.parts for family in part.families]
        return tuple(dict.fromkeys(names))

    @property
    def shares(self) -> tuple[float, ...]:
        """Each component's share of the programs; they sum to 1."""
        total = sum(component.weight for component in self.components)
        return tuple(component.weight / total for component in self.components)

    @property
    def width(self) -> int:
        """The most tokens of a program, its `.` included."""
        return max(component.family.width for _, part in self.parts for component in part.components)

    @property
    def fingerprint(self) -> str:
        """Names the content: families, weights, knobs, hold-outs, phases and sets."""
        return fingerprint({key: value for key, value in to_dict(self).items() if key not in ("name", "programs")})

    @property
    def parts(self) -> tuple[tuple[float, Mixture], ...]:
        """The phases in order, the rest of training last: (its share of training, a mixture without phases)."""
        if not self.phases:
            return ((1.0, self),)
        parts = []
        start = 0.0
        for phase in self.phases:
            parts.append((phase.until - start, Mixture(self.name, phase.components, self.hold_out)))
            start = phase.until
        return (*parts, (1.0 - start, Mixture(self.name, self.components, self.hold_out)))

    def at(self, fraction: float) -> Mixture:
        """The mixture in force when this fraction of training (0 to 1) is done."""
        n_phases_done = sum(fraction >= phase.until for phase in self.phases)
        return self.parts[n_phases_done][1]

    def family(self, name: str) -> Family:
        """The family of that name. Raises ValueError, which lists those that there are, where the mixture has none."""
        for family in self.families:
            if family.name == name:
                return family
        raise ValueError(
            f"mixture {self.name!r} has no family {name!r}; it has {', '.join(f.name for f in self.families)}"
        )


def _check_components(owner: str, components: tuple[Component, ...]) -> None:
    """Raise ValueError where there is no family, or one twice."""
    if not components:
        raise ValueError(f"{owner} has no families; add a [[family]] table with a name")
    names = [component.family.name for component in components]
    if len(set(names)) < len(names):
        raise ValueError(f"{owner} names a family twice ({', '.join(names)}); give each one table")


# --- TOML ------------------------------------------------------------------------------------------------------------


def ships(name: str | Path) -> bool:
    """Whether a mixture of this name ships with the package."""
    return str(name) in shipped.names("mixtures")


def load(source: str | Path) -> Mixture:
    """The mixture in a TOML file, or one that ships with the package, by name (`shipped.names("mixtures")`). Raises
    ValueError, in one line, for malformed TOML, an unknown family or knob, or a knob out of bounds."""
    path = shipped.file_of("mixtures", source)
    if path is None:
        names = ", ".join(shipped.names("mixtures"))
        raise ValueError(f"no mixture {str(source)!r}; name a TOML file or one of {names}")
    return from_toml(read_text(path), str(source))


def from_toml(text: str, source: str = "mixture") -> Mixture:
    """Parse a mixture; `source` names it in errors (ValueError)."""
    return tables.parse_toml(text, source, from_dict)


def to_toml(mixture: Mixture) -> str:
    """The mixture as TOML, every knob written out."""
    return tomli_w.dumps(to_dict(mixture))


def save(mixture: Mixture, path: str | Path) -> Path:
    """Write the mixture to a TOML file. Raises ValueError as `check_storable`."""
    check_storable(mixture)
    return write_bytes(path, to_toml(mixture).encode())


def check_storable(mixture: Mixture) -> None:
    """Raise ValueError, before the work is done, where what is stored with this mixture could not be read again: a
    family that is not in `FAMILIES`."""
    for family in (*mixture.families, *(ood.family for ood in mixture.out_of_distribution)):
        if FAMILIES.get(family.name) is not type(family):
            raise ValueError(
                f"family {family.name!r} ({type(family).__name__}) is not in cadmus.programs.families.FAMILIES: what "
                "is stored of it could not be read again; add it there"
            )


def to_dict(mixture: Mixture) -> dict[str, Any]:
    """The mixture as plain data, as its TOML has it, every knob written out; what it lacks is left out."""
    out: dict[str, Any] = {"name": mixture.name}
    if mixture.programs:
        out["programs"] = mixture.programs
    if mixture.hold_out.rules:
        rules = {name: getattr(mixture.hold_out, name) for name in mixture.hold_out.rules}
        out["hold_out"] = {name: list(rule) if isinstance(rule, tuple) else rule for name, rule in rules.items()}
    out["family"] = [_component_table(component) for component in mixture.components]
    if mixture.phases:
        out["phase"] = [_phase_table(mixture, phase) for phase in mixture.phases]
    if mixture.out_of_distribution:
        out["out_of_distribution"] = [_out_of_distribution_table(mixture, ood) for ood in mixture.out_of_distribution]
    return out


def _out_of_distribution_table(mixture: Mixture, ood: OutOfDistribution) -> dict[str, Any]:
    own_fields: dict[str, Any] = {"name": ood.name, "family": ood.family.name, "held_out": ood.held_out}
    if ood.held_out_share:  # left out elsewhere: mixtures keep their fingerprints
        own_fields["held_out_share"] = float(ood.held_out_share)
    return own_fields | _knob_table(ood.family, mixture.families)


def _component_table(component: Component, base: tuple[Family, ...] = ()) -> dict[str, Any]:
    own_fields = {
        "name": component.family.name,
        "weight": float(component.weight),
        "duplicates": component.duplicates,
    }
    return own_fields | _knob_table(component.family, base)


def _phase_table(mixture: Mixture, phase: Phase) -> dict[str, Any]:
    """A phase as its TOML has it: families of the mixture that it lacks have weight 0."""
    names = {component.family.name for component in phase.components}
    lacking = [{"name": family.name, "weight": 0.0} for family in mixture.families if family.name not in names]
    present = [_component_table(component, mixture.families) for component in phase.components]
    return {"until": phase.until, "family": present + lacking}


def _knob_table(family: Family, base: tuple[Family, ...]) -> dict[str, Any]:
    """All knobs of a family, but for later ones that neither it nor the family of `base` that it follows turned."""
    table = {}
    for knob in knobs(type(family)).values():
        values = [getattr(one, knob.name) for one in (family, *base) if one.name == family.name]
        if not knob.later or any(value != knob.default for value in values):
            table[knob.name] = type(knob.default)(values[0])  # 1 and 1.0 are one
    return table


def from_dict(data: dict[str, Any]) -> Mixture:
    """The mixture that `to_dict` describes. A family of a phase or of an out-of-distribution set has the knobs of the
    mixture's own where it names none; weight = 0 leaves one out of a phase. Raises ValueError for anything unknown or
    ill-typed."""
    _check_names("mixture", data, ("name", "programs", "family", "hold_out", "phase", "out_of_distribution"))
    if not isinstance(data.get("name"), str) or not _are_tables(data.get("family", [])):
        raise ValueError('a mixture is name = "..." and one or more [[family]] tables')
    for key in ("phase", "out_of_distribution"):
        if not _are_tables(data.get(key, [])):
            raise ValueError(f"{key} must be one or more [[{key}]] tables")
    if type(data.get("programs", 0)) is not int:
        raise ValueError(f"programs = {data['programs']!r} must be a whole number")
    components = tuple(_component(table) for table in data.get("family", []))
    base = {component.family.name: component for component in components}
    return Mixture(
        data["name"],
        components,
        _hold_out(data.get("hold_out", {})),
        tuple(_phase(table, base) for table in data.get("phase", [])),
        tuple(_out_of_distribution(table, base) for table in data.get("out_of_distribution", [])),
        data.get("programs", 0),
    )


def variant(mixture: Mixture, table: dict[str, Any]) -> Mixture:
    """The mixture with what a table changes, without its out-of-distribution sets: `family`, as in a phase (new knobs,
    new families, weight = 0 for none), and `hold_out`, rule by rule. Raises ValueError as `from_dict` does."""
    _check_names("variant", table, ("family", "hold_out"))
    family_tables, rules = table.get("family", []), table.get("hold_out", {})
    if mixture.phases or not _are_tables(family_tables) or not isinstance(rules, dict):
        raise ValueError("a variant is family = [{ name = ... }] and hold_out = {...}, of a mixture without phases")
    base = {component.family.name: component for component in mixture.components}
    changed = {component.family.name: component for component in _changed(family_tables, base, "variant")}
    components = tuple(changed[name] for name in dict.fromkeys((*base, *changed)) if name in changed)
    hold_out = _hold_out(to_dict(mixture).get("hold_out", {}) | rules)
    return Mixture(mixture.name, components, hold_out, programs=mixture.programs)


def _are_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(table, dict) for table in value)


def _check_names(owner: str, table: dict[str, Any], names: tuple[str, ...]) -> None:
    tables.check_names(table, names, owner, word="knob", suggest=True)


def _component(table: dict[str, Any], base: Component | None = None) -> Component:
    """The component that a table describes; what the table lacks is that of `base`, or the default."""
    family = _family(table, ("weight", "duplicates"), base.family if base else None)
    weight = table.get("weight", base.weight if base else 1.0)
    if type(weight) not in (int, float):
        raise ValueError(f"family {family.name}: weight = {weight!r} must be a number")
    return Component(family, float(weight), table.get("duplicates", base.duplicates if base else DUPLICATES[0]))


def _family(table: dict[str, Any], other_names: tuple[str, ...], base: Family | None, key: str = "name") -> Family:
    """The family that a table names under `key`, its knobs those of `base` where the table has none; `other_names` may
    stand there too."""
    name = table.get(key)
    if not isinstance(name, str) or name not in FAMILIES:
        hint = tables.did_you_mean(str(name), FAMILIES)
        raise ValueError(f"unknown family {name!r}{hint}; there are {', '.join(FAMILIES)}")
    all_knobs = knobs(FAMILIES[name])
    _check_names(f"family {name}", table, (key, *other_names, *all_knobs))
    values = {}
    for knob in all_knobs.values():
        value = table.get(knob.name, getattr(base, knob.name) if base else knob.default)
        values[knob.name] = tables.typed_value(value, type(knob.default), f"family {name}: knob {knob.name}")
    return FAMILIES[name](**values)


def _phase(table: dict[str, Any], base: dict[str, Component]) -> Phase:
    """The phase that a table describes; families of `base` that the table does not name stay as they are."""
    _check_names("phase", table, ("until", "family"))
    until: Any = table.get("until")
    family_tables = table.get("family", [])
    if type(until) not in (int, float) or not _are_tables(family_tables):
        raise ValueError("a [[phase]] is until = 0.25 (a share of training) and [[phase.family]] tables")
    return Phase(float(until), _changed(family_tables, base, "phase"))


def _changed(family_tables: list[dict[str, Any]], base: dict[str, Component], owner: str) -> tuple[Component, ...]:
    """The components of `base` with what tables change: their knobs are those of `base` where they name none, and
    weight = 0 leaves a family out."""
    components: dict[str, Component | None] = {}
    for family_table in family_tables:
        name = str(family_table.get("name"))
        if name in components:
            raise ValueError(f"a {owner} names a family twice ({name}); give each one table")
        weight = family_table.get("weight")
        if type(weight) in (int, float) and weight == 0:
            own = base.get(name)
            _family(family_table, ("weight", "duplicates"), own.family if own else None)  # is it a family?
            components[name] = None
        else:
            components[name] = _component(family_table, base.get(name))
    for name, component in base.items():
        components.setdefault(name, component)
    return tuple(component for component in components.values() if component is not None)


def _out_of_distribution(table: dict[str, Any], base: dict[str, Component]) -> OutOfDistribution:
    component = base.get(str(table.get("family")))
    own_fields = ("name", "held_out", "held_out_share")
    family = _family(table, own_fields, component.family if component else None, key="family")
    name, held_out, share = table.get("name"), table.get("held_out", ""), table.get("held_out_share", 0.0)
    if not isinstance(name, str) or not isinstance(held_out, str) or type(share) not in (int, float):
        raise ValueError(
            'an [[out_of_distribution]] table is name = "...", family = "..." and knobs or held_out = "...", for '
            "compounds with held_out_share = 0.2 (a number)"
        )
    return OutOfDistribution(name, family, held_out, float(share))


def _hold_out(table: Any) -> HoldOut:
    if not isinstance(table, dict):
        raise ValueError("hold_out must be one [hold_out] table")
    return tables.from_table(HoldOut, table, "hold_out", word="knob", suggest=True)
