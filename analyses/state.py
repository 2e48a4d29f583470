"""The machine's state in a model's activations: every site, every variable, beside every control.

`run` draws programs of skeletons that no training saw, reads twelve state variables (or all) at every site and offset,
for the machine and for alternative ones, and returns tidy tables; `analyses.state_page` makes the page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cadmus import DEFAULT_MODEL, checkpoint, labels, vm
from cadmus.processes import chosen
from cadmus.semantics import Alternative, alternatives
from probes import custom, dimensions, numeric, scores
from probes.bank import LARGEST, Bank
from probes.controls import untrained_twin
from probes.examples import Examples, Labelled, Target, draw
from probes.harvest import residual_sites
from probes.measure import measure
from probes.tally import Groups, token_classes

VARIABLES = (
    *("depth", "all_true", "stack.0.kind", "stack.0.value", "stack.1.kind", "stack.1.value"),
    *(f"reg.{register}.value" for register in vm.REGISTERS),
    *("reg.a.live", "needed.relation"),
)
OFFSETS = (-4, -1, 0, 1, 4)
_SITES = ("hook_resid_mid", "hook_attn_out", "hook_mlp_out", "attn.hook_z", "mlp.hook_post")  # of a block, with `full`
_MACHINE_PROGRAMS = 1000  # that alternative machines are chosen on
_DISTANCES = ("1", "2-3", "4-7", "8 or more")
_DEEPEST = 5
_FUNCTIONS = (3, 9)  # of the value, of each kind
_FEWEST_VALUES = 20  # of a number, to say how it is held

Stage = Callable[[str, float, str], None]


@dataclass(frozen=True)
class StateConfig:
    """What is read, where, and beside how much."""

    run: str = DEFAULT_MODEL
    """A model that ships with the package, or a folder that `cadmus-probe train` wrote."""
    programs: int = 20_000
    """Of the run's mixture, of skeletons that no training saw; split into probe folds by skeleton."""
    variables: tuple[str, ...] = VARIABLES
    sites: tuple[str, ...] = ()
    """Hook names; none: the residual stream before the first block and after each."""
    offsets: tuple[int, ...] = OFFSETS
    """Tokens ahead of the state that is read; 0 is always among them."""
    families: tuple[str, ...] = ()
    """Of the mixture; none: all."""
    machines: int = 2
    """Alternative ones."""
    probe: str = ""
    """FILE.py:NAME, a probe of one's own in place of the ridge and discriminant probes."""
    full: bool = False
    """All variables, the sites within blocks too, eight machines."""
    seed: int = 0
    """Of the programs, the untrained twin's weights aside, which are those that training began with."""
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, least in (("programs", 200), ("machines", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)} must be {least} or more")
        if not self.variables and not self.full:
            raise ValueError("no variable is named; name one or more, such as stack.0.value")
        if len(set(self.variables)) < len(self.variables):
            raise ValueError(f"variables {self.variables} name one twice; name each once")


@dataclass(frozen=True)
class State:
    """Tidy tables: scores (`probes.scores.table`), gaps (against alternative machines), machines, numbers (how integers
    are held), needed (dimensions and neurons that a variable needs)."""

    config: StateConfig
    trained: checkpoint.Checkpoint
    scores: pd.DataFrame
    gaps: pd.DataFrame
    machines: pd.DataFrame
    numbers: pd.DataFrame
    dimensions: pd.DataFrame
    programs: int


def run(config: StateConfig, stage: Stage = lambda name, share, note: None) -> State:
    """Draw, fit, read and score. ValueError for an unknown variable, site, family or device, before any work."""
    trained = checkpoint.load(config.run)
    model = trained.model.to(chosen(config.device))
    probe = custom.load(config.probe) if config.probe else None
    sites = config.sites or _sites(model, config.full)
    variables = _variables(config)
    stage("draw programs", 0.0, "")
    examples = draw(trained.mixture, config.programs, config.seed, families=config.families)
    fitting = examples.where.shape[1] <= model.cfg.n_ctx
    if not fitting:
        examples = examples[examples.where[:, model.cfg.n_ctx :].sum(1) == 0]
    wanted = 8 if config.full else config.machines
    machines = _alternatives(examples, wanted, config.seed) if wanted else []
    stage("draw programs", 1.0, f"{len(examples):,} programs")
    targets = [Target(v, offset) for offset in dict.fromkeys((0, *config.offsets)) for v in variables]
    present = [t for t in targets if t.offset == 0]
    numbers = [t for t in present if t.number]
    targets += [Target(t.variable, as_number=True) for t in numbers] if probe is None else []
    targets += [Target(t.variable, permuted=True) for t in present]
    for machine in machines:
        targets += [Target(t.variable, 0, machine.name, permuted) for t in present for permuted in (False, True)]
    held = _Held(targets, present, config.full)
    measured = measure(
        model,
        examples,
        targets,
        sites,
        twin=untrained_twin(model, trained.seed),
        machines={machine.name: machine.semantics for machine in machines},
        detailed=[k for k, t in enumerate(targets) if t in present],
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
    about = {
        "programs": measured.programs,
        "seed": config.seed,
        "run": trained.fingerprint,
        "corpus": trained.record["corpus"]["fingerprint"],
    }
    tables = (found, gaps, _machines(machines), held.numbers(), held.dimensions())
    return State(config, trained, *(table.assign(**about) for table in tables), len(examples))


def _alternatives(examples: Examples, wanted: int, seed: int) -> list[Alternative]:
    """The farthest of eight or more."""
    spread = max(8, wanted)
    return alternatives(examples.programs[:_MACHINE_PROGRAMS], spread, seed, candidates=12 * spread)[-wanted:]


def _sites(model, full: bool) -> tuple[str, ...]:
    inner = [f"blocks.{layer}.{site}" for layer in range(model.cfg.n_layers) for site in _SITES] if full else []
    return (*residual_sites(model), *inner)


def _variables(config: StateConfig) -> tuple[str, ...]:
    """The variables, each of which exists (ValueError)."""
    from cadmus import kernel, tokens

    traces = kernel.traces(tokens.encode(["1."]))
    if config.full:
        return tuple(labels.variables(traces))
    for name in config.variables:
        labels.read(traces, name)
    return config.variables


def _groups(examples: Examples, read: Labelled) -> Groups:
    """What scores are broken down by: class of the token, family, stack depth, and, for a register's variables, whether
    it will be read again and how soon."""
    from cadmus import kernel

    traces = kernel.traces(examples.programs)
    depth = labels.read(traces, "depth").values
    family = np.broadcast_to(examples.family[:, None].astype(int), examples.where.shape)
    shown = {
        "token_class": token_classes(examples.sequences),
        "family": (family, examples.families),
        "stack_depth": (depth.clip(0, _DEEPEST), (*map(str, range(_DEEPEST)), f"{_DEEPEST} or more")),
    }
    for register in vm.REGISTERS:
        read_again = labels.read(traces, f"reg.{register}.live").values
        distance = labels.read(traces, f"reg.{register}.read_distance").values
        code = np.where(distance > 0, np.searchsorted([2, 4, 8], distance, side="right"), -1)
        shown[f"reg.{register}.live"] = (1 - read_again, ("live", "dead"))
        shown[f"reg.{register}.read_distance"] = (code, _DISTANCES)
    return Groups.of(**shown)


class _Held:
    """How the present states are held, from the banks of each site before they are dropped."""

    def __init__(self, targets: list[Target], present: list[Target], full: bool):
        self.places = {t.name: targets.index(t) for t in present}
        self.numeric = {t.name for t in present if t.number and t.determined and (full or t.name == "stack.0.value")}
        self._numbers: list[pd.DataFrame] = []
        self._dimensions: list[pd.DataFrame] = []

    def inspect(self, site: str, train: Bank, validation: Bank) -> None:
        """Called by `measure` for each site."""
        for name, k in self.places.items():
            if train.rows(k) < LARGEST or len(train.classes(k)) < 2 or not validation.rows(k):
                continue
            about = {"site": site, "layer": scores.layer_of(site), "variable": name}
            if name in self.numeric and len(train.classes(k)) >= _FEWEST_VALUES:
                self._numbers.append(_numbers(train, k).assign(**about))
            self._dimensions.append(_dimensions(train, validation, k).assign(**about))

    def numbers(self) -> pd.DataFrame:
        """All sites together."""
        return pd.concat(self._numbers, ignore_index=True) if self._numbers else pd.DataFrame()

    def dimensions(self) -> pd.DataFrame:
        """All sites together."""
        return pd.concat(self._dimensions, ignore_index=True) if self._dimensions else pd.DataFrame()


def _numbers(train: Bank, k: int) -> pd.DataFrame:
    """How the values of a number are held: bases of value functions, and residues."""
    classes = train.classes(k)
    at = classes + LARGEST
    statistics = numeric.ValueStatistics(classes, train.counts[k, at], train.sums[k, at], train.xx[train.mask_of[k]])
    return numeric.compare(statistics, _FUNCTIONS, permutations=2)


def _dimensions(train: Bank, validation: Bank, k: int) -> pd.DataFrame:
    classes = train.classes(k)
    moments = train.moments(k, classes), validation.moments(k, classes)
    return pd.concat([dimensions.by_rank(*moments), dimensions.by_neurons(*moments)], ignore_index=True)


def _machines(machines: list[Alternative]) -> pd.DataFrame:
    names = ("name", "moved", "distance", "entropy_gap", "nan_share")
    rows = [{name: getattr(machine, name) for name in names} for machine in machines]
    return pd.DataFrame(rows, columns=names).assign(moved=[", ".join(machine.moved) for machine in machines])


if __name__ == "__main__":
    import sys

    from analyses.cli import main

    sys.exit(main(["probe", *sys.argv[1:]]))
