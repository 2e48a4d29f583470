"""The machine's state in a model's activations: every site, every variable, beside every control.

`run` draws programs of skeletons that no training saw, reads twelve state variables (or all) at every site and offset,
for the machine and for alternative ones, and returns tidy tables; `analyses.studies.state.page` makes the page of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from analyses.studies.state import probe_comparison
from analyses.studies.state.tables import best_sites
from cadmus import DEFAULT_MODEL
from cadmus.machine import kernel, tokens, vm
from cadmus.models.model import Model
from cadmus.runtime.devices import resolve_device
from cadmus.runtime.progress import Progress
from cadmus.states import variables as labels
from cadmus.states.alternatives import Alternative, alternatives
from cadmus.training import checkpoint
from probes.controls.untrained import untrained_twin
from probes.data import activations
from probes.data.activations import residual_sites, token_rows
from probes.data.examples import Examples, Labelled, Target, draw
from probes.geometry import dimensions, number_bases
from probes.geometry.residues import separability
from probes.geometry.value_statistics import ValueStatistics
from probes.measurement import scores
from probes.measurement.measure import TRAINED, UNTRAINED, measure
from probes.measurement.tally import Breakdown, token_classes
from probes.solvers import custom
from probes.solvers.bank import Bank

VARIABLES = (
    *("depth", "all_true", "stack.0.kind", "stack.0.value", "stack.1.kind", "stack.1.value"),
    *(f"reg.{register}.value" for register in vm.REGISTERS),
    *("reg.a.live", "needed.relation"),
)
OFFSETS = (-4, -1, 0, 1, 4)
DEPTHS = ("0", "1", "2", "3", "4", "5 or more")  # of the stack
LIVENESS = ("live", "dead")  # of a register: will it be read again?
DISTANCES = ("1", "2-3", "4-7", "8 or more")  # in how many tokens
_SITES = ("hook_resid_mid", "hook_attn_out", "hook_mlp_out", "attn.hook_z", "mlp.hook_post")  # of a block, with `full`
_MACHINE_PROGRAMS = 1000  # that alternative machines are chosen on
_FUNCTIONS = (3, 9)  # of the value, of each kind
_MIN_VALUES = 20  # of a number, to say how it is held
_MIN_ROWS = 100  # training tokens, to say in how many dimensions a variable is held
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
    """Of the run's mixture, of skeletons that no training saw; split into probe folds by skeleton."""
    variables: tuple[str, ...] = VARIABLES
    """Short names (`stack.0`, `reg.a`) are made whole."""
    sites: tuple[str, ...] = ()
    """Hook names; none: the residual stream before the first block and after each."""
    offsets: tuple[int, ...] = OFFSETS
    """Tokens ahead of the state that is read; 0 is always among them."""
    families: tuple[str, ...] = ()
    """Of the mixture; none: all."""
    machines: int = 2
    """Alternative ones, at distances spread evenly up to the farthest (`cadmus.states.alternatives`)."""
    probe: str = ""
    """FILE.py:NAME, a probe of one's own in place of the ridge and discriminant probes."""
    full: bool = False
    """All variables, whichever are named, the sites within blocks too, eight machines."""
    seed: int = 0
    """Of the programs drawn, permutations and resamples; the untrained twin has the weights training began with."""
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, least in (("programs", 200), ("machines", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)} must be {least} or more")
        if not self.variables and not self.full:
            raise ValueError("no variable is named; name one or more, such as stack.0.value")
        object.__setattr__(self, "variables", tuple(map(_canonical, self.variables)))
        for name in ("variables", "sites", "families"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                raise ValueError(f"{name} {', '.join(given)} name one twice; name each once")


@dataclass(frozen=True)
class StateResults:
    """Tidy tables: scores (`probes.measurement.scores.table`), gaps (against alternative machines), machines, numbers
    (how integers are held, `probes.geometry.number_bases.compare`), residues (of the same, `probes.geometry.residues`),
    dimensions (that a variable needs, and neurons: `probes.geometry.dimensions`), readers (several probes of a variable
    at its best site, `probe_comparison.compare`). Numbers, residues and dimensions are of two models, `trained` and
    `untrained`. Each but scores is empty where nothing of the kind could be measured. programs: how many were drawn,
    for all folds; of the tables' `test_programs` scores are."""

    config: StateConfig
    trained: checkpoint.Checkpoint
    scores: pd.DataFrame
    gaps: pd.DataFrame
    machines: pd.DataFrame
    numbers: pd.DataFrame
    residues: pd.DataFrame
    dimensions: pd.DataFrame
    readers: pd.DataFrame
    programs: int


def run(config: StateConfig, stage: Progress = lambda name, share, note: None) -> StateResults:
    """Draw, fit, read and score. ValueError for an unknown variable, site, family or device, before any work."""
    trained = checkpoint.load(config.run)
    model = trained.model.to(resolve_device(config.device))
    probe = custom.load(config.probe) if config.probe else None
    variables, sites = _variables(config), _sites(config, model)
    for name in config.families:
        trained.mixture.family(name)  # ValueError for an unknown one
    stage("draw programs", 0.0, "")
    examples = draw(trained.mixture, config.programs, config.seed, families=config.families)
    machines = _alternatives(config, examples)
    stage("draw programs", 1.0, f"{len(examples):,} programs")
    targets = _targets(config, variables, [machine.name for machine in machines])
    held = _Geometry(targets[: len(variables)], config.full)
    measured = measure(
        model,
        examples,
        targets,
        sites,
        twin=untrained_twin(model, trained.seed),
        machines={machine.name: machine.semantics for machine in machines},
        detailed=range(len(variables)),
        breakdowns=_groups,
        probe=probe,
        inspect=held.inspect,
        seed=config.seed,
        progress=lambda name, share: stage(name, share, ""),
    )
    stage("score", 0.0, "")
    found = scores.table(measured, config.seed)
    gaps = scores.gaps(measured, config.seed)
    stage("score", 1.0, "")
    compared, at = pd.DataFrame(), best_sites(found).to_dict()
    if probe is None and at:
        compared = probe_comparison.compare(
            model, examples, at, seed=config.seed, progress=lambda share: stage("other probes", share, "")
        )
    about = {
        "test_programs": measured.programs,
        "seed": config.seed,
        "run": trained.fingerprint,
        "corpus": trained.record["corpus"]["fingerprint"],
    }
    tables = (found, gaps, _machines(machines), *held.tables(sites), compared)
    return StateResults(config, trained, *(table.assign(**about) for table in tables), len(examples))


def _canonical(name: str) -> str:
    """The one name of a number that has two: `reg.a` is `reg.a.value`, and `reg.a.value.sign` is `reg.a.sign`."""
    number = _NUMBER.fullmatch(name)
    return name if number is None else number[1] + (number[2] or ".value")


def _variables(config: StateConfig) -> tuple[str, ...]:
    """What is read; ValueError for a variable that does not exist."""
    traces = kernel.traces(tokens.encode(_SHORTEST))
    if config.full:
        return tuple(labels.variables(traces))
    for name in config.variables:
        labels.read(traces, name)
    return config.variables


def _sites(config: StateConfig, model: Model) -> tuple[str, ...]:
    """Where it is read; ValueError for a site that does not exist or has no row per token."""
    blocks = range(model.cfg.n_layers) if config.full else ()
    inner = [f"blocks.{block}.{site}" for block in blocks for site in _SITES]
    sites = config.sites or (*residual_sites(model), *inner)
    token_rows(model, tokens.encode(_SHORTEST), sites)
    return sites


def _alternatives(config: StateConfig, examples: Examples) -> list[Alternative]:
    wanted = _FULL_MACHINES if config.full else config.machines
    if not wanted:
        return []
    return alternatives(examples.programs[:_MACHINE_PROGRAMS], wanted, config.seed, candidates=max(96, 12 * wanted))


def _targets(config: StateConfig, variables: tuple[str, ...], machines: list[str]) -> list[Target]:
    """The states at every offset, the present ones first; of these also the values of numbers by regression (with our
    own probes), the control task, and both for every alternative machine."""
    targets = [Target(v, offset) for offset in dict.fromkeys((0, *config.offsets)) for v in variables]
    present = targets[: len(variables)]
    targets += [Target(t.variable, as_number=True) for t in present if t.number and not config.probe]
    targets += [Target(t.variable, permuted=True) for t in present]
    for machine in machines:
        targets += [Target(t.variable, 0, machine, permuted) for t in present for permuted in (False, True)]
    return targets


def _groups(examples: Examples, read: Labelled) -> Breakdown:
    """What scores are broken down by: class of the token, family, stack depth, and, for a register's variables, whether
    it will be read again and how soon."""
    traces = kernel.traces(examples.programs)
    depth = labels.read(traces, "depth").values
    family = np.broadcast_to(examples.family[:, None].astype(int), examples.where.shape)
    shown = {
        "token_class": token_classes(examples.sequences),
        "family": (family, examples.families),
        "stack_depth": (depth.clip(max=len(DEPTHS) - 1), DEPTHS),
    }
    for register in vm.REGISTERS:
        live = labels.read(traces, f"reg.{register}.live").values
        distance = labels.read(traces, f"reg.{register}.read_distance").values
        code = np.where(distance > 0, np.searchsorted([2, 4, 8], distance, side="right"), -1)
        shown[f"reg.{register}.live"] = (1 - live, LIVENESS)
        shown[f"reg.{register}.read_distance"] = (code, DISTANCES)
    return Breakdown.of(**shown)


_Frames = dict[tuple[str, str, str], pd.DataFrame]  # by site, variable and model


class _Geometry:
    """How the present states are held in the model and in its untrained twin, from the banks of each site before they
    are dropped."""

    def __init__(self, present: list[Target], full: bool):
        self.names = [t.name for t in present]
        self.numeric = {t.name for t in present if t.number and t.determined and (full or t.name == "stack.0.value")}
        self._numbers: _Frames = {}
        self._residues: _Frames = {}
        self._dimensions: _Frames = {}

    def inspect(self, model: str, site: str, train: Bank, validation: Bank) -> None:
        """Called by `measure` for each model and site, on several threads; the present states are the first targets of
        every bank."""
        for k, name in enumerate(self.names):
            shared = np.intersect1d(train.classes(k), validation.classes(k))
            if train.rows(k) < _MIN_ROWS or len(shared) < 2:
                continue
            about = {"model": model, "site": site, "layer": activations.layer_of(site), "variable": name}
            at = site, name, model
            if name in self.numeric and len(train.classes(k)) >= _MIN_VALUES:
                statistics = _statistics(train, k)
                self._numbers[at] = number_bases.compare(statistics, _FUNCTIONS, permutations=2).assign(**about)
                self._residues[at] = separability(statistics, permutations=2).assign(**about)
            self._dimensions[at] = _dimensions(train, validation, k).assign(**about)

    def tables(self, sites: Sequence[str]) -> tuple[pd.DataFrame, ...]:
        """Numbers, residues and dimensions, each of all sites, in this order."""
        return tuple(_stacked(f, sites, self.names) for f in (self._numbers, self._residues, self._dimensions))


def _stacked(frames: _Frames, sites: Sequence[str], names: Sequence[str]) -> pd.DataFrame:
    ordered = [frames[key] for key in product(sites, names, (TRAINED, UNTRAINED)) if key in frames]
    return pd.concat(ordered, ignore_index=True) if ordered else pd.DataFrame()


def _statistics(train: Bank, k: int) -> ValueStatistics:
    """What the activations of a number's values add up to."""
    classes = train.classes(k)
    at = classes + labels.MAX_ABS_VALUE
    return ValueStatistics(classes, train.counts[k, at], train.sums[k, at], train.xx[train.mask_of[k]])


def _dimensions(train: Bank, validation: Bank, k: int) -> pd.DataFrame:
    classes = train.classes(k)
    moments = train.moments(k, classes), validation.moments(k, classes)
    return pd.concat([dimensions.by_rank(*moments), dimensions.by_neurons(*moments)], ignore_index=True)


def _machines(machines: list[Alternative]) -> pd.DataFrame:
    names = ("name", "moved", "distance", "entropy_gap", "nan_share")
    rows = [{name: getattr(machine, name) for name in names} for machine in machines]
    return pd.DataFrame(rows, columns=names).assign(moved=[", ".join(machine.moved) for machine in machines])
