"""The machine's state in a model's activations: every site, every variable, beside every control.

`run` draws programs of skeletons that no training saw, reads thirteen state variables (or all) at every site and
offset, and registers and stack entries where the machine writes, loads and uses them, for the machine and for
alternative ones, and returns tidy tables; `analyses.studies.state.page` makes the page of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analyses.studies.state import geometry, probe_comparison
from analyses.studies.state.tables import best_sites
from cadmus import DEFAULT_MODEL
from cadmus.machine import kernel, tokens, vm
from cadmus.models.model import Model
from cadmus.runtime.checks import check_at_least, check_seed, check_text_lists
from cadmus.runtime.devices import resolve_device
from cadmus.runtime.progress import Progress, no_progress
from cadmus.states import variables
from cadmus.states.alternatives import Alternative, alternatives
from cadmus.training import checkpoint
from probes.controls.untrained import untrained_twin
from probes.data import roles
from probes.data.activations import check_sites, residual_sites
from probes.data.examples import Examples, Labelled, draw
from probes.data.loading import FAILURES, load_variable, one_line
from probes.data.targets import Target, Targets, Variable, read
from probes.measurement import scores
from probes.measurement.measure import Measurement, measure
from probes.measurement.tally import Breakdown, Grouping, token_classes
from probes.solvers import custom

VARIABLES = (
    "depth",
    "all_true",
    "stack.0.kind",
    "stack.0.value",
    "stack.1.kind",
    "stack.1.value",
    "reg.a.value",
    "reg.b.value",
    "reg.c.value",
    "reg.d.value",
    "reg.a.parity",
    "reg.a.live",
    "needed.relation",
)
OFFSETS = (-4, -1, 0, 1, 4)
DEPTHS = ("0", "1", "2", "3", "4", "5 or more")  # of the stack
LIVENESS = ("live", "dead")  # of a register: will it be read again?
DISTANCES = ("1", "2-3", "4-7", "8 or more")  # in how many tokens
_BLOCK_SITES = ("hook_resid_mid", "hook_attn_out", "hook_mlp_out", "attn.hook_z", "mlp.hook_post")  # with `full`
_MACHINE_PROGRAMS = 1000  # that alternative machines are fitted to
_FULL_MACHINES = 8
_SHORTEST = ["1."]  # a program to try names on
_NUMBER = re.compile(  # a number's name: what it is of, and its views
    rf"(stack\.\d+|reg\.[{''.join(vm.REGISTERS)}])(?:\.value)?((?:\.(?:sign|parity|magnitude|mod\d+|digit\d))*)"
)


@dataclass(frozen=True)
class StateConfig:
    """What is read, where, and beside how much."""

    run: str = DEFAULT_MODEL
    """A model that ships with the package, or a folder that `cadmus-probe train` wrote."""
    programs: int = 20_000
    """How many are drawn from the run's mixture, of skeletons that no training saw; split into folds by skeleton."""
    variables: tuple[str, ...] = VARIABLES
    """Short names (`stack.0`, `reg.a`) are made whole; FILE.py:NAME is a function of one's own."""
    sites: tuple[str, ...] = ()
    """Hook names; none: the residual stream before the first block and after each."""
    offsets: tuple[int, ...] = OFFSETS
    """Tokens ahead of the state that is read; 0 is always among them."""
    families: tuple[str, ...] = ()
    """Names of families of the mixture; none: all."""
    machines: int = 2
    """Alternative machines, at distances spread evenly up to the farthest (`cadmus.states.alternatives`)."""
    probe: str = ""
    """FILE.py:NAME, a probe of one's own in place of the ridge and discriminant probes."""
    full: bool = False
    """Whether to read all variables, whichever are named, at the sites within blocks too, and of eight machines."""
    where: tuple[str, ...] = ()
    """The roles at whose tokens the variables are read, besides at all tokens; none: of registers and stack entries the
    usual ones (`probes.data.roles`)."""
    roles: bool = True
    """Whether the usual roles are read."""
    nonlinear: bool = True
    """Whether networks read the present states as well (with our own probes)."""
    seed: int = 0
    """Seed of programs, permutations and resamples; the untrained twin has the weights training began with."""
    device: str = "auto"
    """"cpu", "cuda", "mps" or "auto", which takes a GPU where there is one."""

    def __post_init__(self) -> None:
        check_text_lists(self, "variables", "sites", "families", "where")
        check_at_least(self, 200, "programs")
        check_at_least(self, 0, "machines")
        check_seed(self)
        if not self.variables and not self.full:
            raise ValueError("no variable is named; name one or more, such as stack.0.value")
        object.__setattr__(self, "variables", tuple(map(_canonical, self.variables)))
        roles.check(self.where)
        for name in ("variables", "sites", "families", "where"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {', '.join(values)} name one twice; name each once")


@dataclass(frozen=True)
class StateResults:
    """Tidy tables, each but `scores` empty where nothing of the kind could be measured. Their column `test_programs`
    says how many programs scores were judged on."""

    config: StateConfig
    """What was asked for."""
    trained: checkpoint.Checkpoint
    """The model."""
    scores: pd.DataFrame
    """`probes.measurement.scores.table`."""
    gaps: pd.DataFrame
    """Against alternative machines: `probes.measurement.scores.gaps`."""
    machines: pd.DataFrame
    """The alternative machines."""
    numbers: pd.DataFrame
    """How integers are held, in the trained and the untrained model: `probes.geometry.number_bases.compare`."""
    residues: pd.DataFrame
    """Which residues of the same can be told apart: `probes.geometry.residues.separability`."""
    dimensions: pd.DataFrame
    """How many directions, and neurons, a variable needs, in both models: `probes.geometry.dimensions`."""
    readers: pd.DataFrame
    """Several probes of a variable at its best site: `probe_comparison.compare`."""
    programs: int
    """How many programs were drawn, for all folds."""

    def __repr__(self) -> str:
        return f"StateResults({self.config.run}: {len(self.scores):,} scores, {self.programs:,} programs)"


def run(config: StateConfig, progress: Progress = no_progress) -> StateResults:
    """Draw, fit, read and score. ValueError for an unknown variable, site, family or device, before any work."""
    trained = checkpoint.load(config.run)
    model = trained.model.to(resolve_device(config.device))
    probe = custom.load(config.probe) if config.probe else None
    variables_read, sites = _variables(config), _sites(config, model)
    for family in config.families:
        trained.mixture.family(family)  # ValueError for an unknown one
    progress("draw programs", 0.0, "")
    examples = draw(trained.mixture, config.programs, config.seed, families=config.families)
    machines = _alternatives(config, examples)
    progress("draw programs", 1.0, f"{len(examples):,} programs")
    targets = _targets(config, variables_read, [machine.name for machine in machines])
    if config.where:
        roles.require(examples.programs, targets)
    measured = measure(
        model,
        examples,
        targets,
        sites,
        untrained=untrained_twin(model, trained.seed),
        machines={machine.name: machine.semantics for machine in machines},
        broken_down=[Target(variable) for variable in variables_read.values()],
        breakdowns=_breakdown,
        probe=probe,
        keep=None
        if probe is not None
        else geometry.GeometryOf(targets, variables_read, _described_numbers(config, variables_read)),
        nonlinear=config.nonlinear and probe is None,
        seed=config.seed,
        progress=progress,
    )
    return _results(config, trained, examples, machines, variables_read, measured, progress)


def _results(
    config: StateConfig,
    trained: checkpoint.Checkpoint,
    examples: Examples,
    machines: list[Alternative],
    variables_read: Mapping[str, str | Variable],
    measured: Measurement,
    progress: Progress,
) -> StateResults:
    """Score what was measured, compare probes at the best sites, and say in every table what it is of."""
    progress("score", 0.0, "")
    score_table = scores.table(measured, config.seed)
    gaps = scores.gaps(measured, config.seed)
    progress("score", 1.0, "")
    numbers, residues, dimensions = geometry.tables(measured.kept_values, measured.sites, list(variables_read))
    readers = pd.DataFrame()
    sites = best_sites(score_table).to_dict()
    if not config.probe and sites:
        readers = probe_comparison.compare(
            trained.model, examples, sites, variables_read, seed=config.seed, progress=progress
        )
    source = {
        "test_programs": measured.tested.n_programs,
        "seed": config.seed,
        "run": trained.fingerprint,
        "corpus": trained.corpus_fingerprint,
    }
    return StateResults(
        config=config,
        trained=trained,
        scores=score_table.assign(**source),
        gaps=gaps.assign(**source),
        machines=_machine_table(machines).assign(**source),
        numbers=numbers.assign(**source),
        residues=residues.assign(**source),
        dimensions=dimensions.assign(**source),
        readers=readers.assign(**source),
        programs=len(examples),
    )


def _canonical(name: str) -> str:
    """The one name of a number that has two: `reg.a` is `reg.a.value`, and `reg.a.value.sign` is `reg.a.sign`."""
    number = _NUMBER.fullmatch(name)
    return name if number is None else number[1] + (number[2] or ".value")


def _variables(config: StateConfig) -> dict[str, str | Variable]:
    """The variables to read, by the names that the tables have. Raises ValueError for one that does not exist."""
    programs = tokens.encode(_SHORTEST)
    traces = kernel.traces(programs)
    by_name: dict[str, str | Variable] = {name: name for name in variables.names(traces)} if config.full else {}
    for source in config.variables:
        if ".py:" not in source:
            read(traces, programs, source)
            by_name |= {} if config.full else {source: source}
            continue
        variable = load_variable(source)
        try:
            read(traces, programs, variable)
        except FAILURES as error:
            raise ValueError(f"{source} raised {one_line(error)}") from error
        name = Target(variable).name
        if name in by_name:
            raise ValueError(f"{source} is called {name}, as another variable is; give the function another name")
        by_name[name] = variable
    return by_name


def _sites(config: StateConfig, model: Model) -> tuple[str, ...]:
    """The sites to read at. Raises ValueError for one that does not exist or has no row per token."""
    blocks = range(model.cfg.n_layers) if config.full else ()
    inner = [f"blocks.{block}.{site}" for block in blocks for site in _BLOCK_SITES]
    sites = config.sites or (*residual_sites(model), *inner)
    check_sites(model, sites)
    return sites


def _alternatives(config: StateConfig, examples: Examples) -> list[Alternative]:
    n = _FULL_MACHINES if config.full else config.machines
    if not n:
        return []
    return alternatives(examples.programs[:_MACHINE_PROGRAMS], n, config.seed, candidates=max(96, 12 * n))


def _targets(config: StateConfig, names: Mapping[str, str | Variable], machines: list[str]) -> Targets:
    """The states at every offset; of the present ones also those at the tokens of roles, the values of numbers by
    regression (with our own probes), the control task, and both for every alternative machine."""
    targets = [
        Target(variable, offset) for offset in dict.fromkeys((0, *config.offsets)) for variable in names.values()
    ]
    present = [Target(variable) for variable in names.values()]
    at_roles = [replace(target, where=role) for target in present for role in _roles(config, target)]
    targets += at_roles
    targets += [Target(t.variable, regression=True) for t in present if t.number and not config.probe]
    targets += [Target(t.variable, permuted=True) for t in present]
    if config.where:
        targets += [replace(target, permuted=True) for target in at_roles]
    for machine in machines:
        targets += [Target(t.variable, 0, machine, permuted) for t in present for permuted in (False, True)]
    return Targets(targets)


def _roles(config: StateConfig, target: Target) -> tuple[str, ...]:
    """The roles at whose tokens a variable is read: those asked for, else the usual ones of a register's or a stack
    entry's value and its views."""
    if config.where:
        return config.where
    is_value = isinstance(target.variable, str) and _NUMBER.fullmatch(target.variable)
    return roles.usual(target.variable) if config.roles and is_value else ()


def _described_numbers(config: StateConfig, names: Mapping[str, str | Variable]) -> frozenset[str]:
    """The numbers of which is described how they are held: the top of the stack, or, with `full`, all that the tokens
    so far determine."""
    numbers = [name for name, v in names.items() if Target(v).number and Target(v).determined]
    return frozenset(name for name in numbers if config.full or name == "stack.0.value")


def _breakdown(examples: Examples, labels: Labelled) -> Breakdown:
    """What scores are broken down by: class of the token, family, stack depth, and, for a register's variables, whether
    it will be read again and how soon."""
    depth = variables.read(labels.traces, "depth").values
    family = np.broadcast_to(examples.family[:, None].astype(int), examples.where.shape)
    groupings = [
        token_classes(examples.sequences),
        Grouping("family", family, examples.families),
        Grouping("stack depth", depth.clip(max=len(DEPTHS) - 1), DEPTHS),
    ]
    for register in vm.REGISTERS:
        live = variables.read(labels.traces, f"reg.{register}.live").values
        distance = variables.read(labels.traces, f"reg.{register}.read_distance").values
        soon = np.where(distance > 0, np.searchsorted([2, 4, 8], distance, side="right"), -1)
        groupings += [
            Grouping("live", 1 - live, LIVENESS, register),
            Grouping("read distance", soon, DISTANCES, register),
        ]
    return Breakdown.of(*groupings)


def _machine_table(machines: list[Alternative]) -> pd.DataFrame:
    columns = ("name", "moved", "distance", "entropy_gap", "nan_share")
    rows = [{column: getattr(machine, column) for column in columns} for machine in machines]
    return pd.DataFrame(rows, columns=columns).assign(moved=[", ".join(machine.moved) for machine in machines])
