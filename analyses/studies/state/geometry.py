"""How the present states are held at a site, from the banks of its probes: by which functions of a number, as which
residues, and in how many dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from cadmus.states import variables
from probes.data.activations import layer_of
from probes.data.targets import Target, Targets, Variable
from probes.geometry import dimensions, number_bases
from probes.geometry.residues import separability
from probes.geometry.value_statistics import ValueStatistics
from probes.measurement.plan import TRAINED, UNTRAINED
from probes.solvers.bank import Bank

_FUNCTIONS = (3, 9)  # of the value, of each kind
_MIN_VALUES = 20  # of a number, to say how it is held
_MIN_ROWS = 100  # training tokens, to say in how many dimensions a variable is held


@dataclass(frozen=True)
class VariableGeometry:
    """How a variable is held at a site of a model."""

    numbers: pd.DataFrame
    """By which functions of the number (`number_bases.compare`); empty where it is no number, or has few values."""

    residues: pd.DataFrame
    """Which of its residues can be told apart (`residues.separability`); empty where `numbers` is."""

    dimensions: pd.DataFrame
    """In how many directions, and how many neurons (`dimensions.by_rank`, `by_neurons`)."""


SiteGeometry = dict[str, VariableGeometry]  # by variable


@dataclass(frozen=True)
class GeometryOf:
    """What `measure` keeps of the banks of each site, called as `keep(site, model, train, validation)`."""

    targets: Targets
    """All targets of the measurement."""

    variables: Mapping[str, str | Variable]
    """Those whose present states are described, by name."""

    numbers: frozenset[str]
    """Of these, the variables that are described as numbers, too."""

    def __call__(self, site: str, model: str, train: Bank, validation: Bank) -> SiteGeometry:
        """Describe the variables that training and validation have enough tokens and values of."""
        bank_targets = self.targets if model == TRAINED else self.targets[self.targets.own]
        geometry = {}
        for name, variable in self.variables.items():
            k = bank_targets.index(Target(variable))
            shared = np.intersect1d(train.classes(k), validation.classes(k))
            if train.rows(k) < _MIN_ROWS or len(shared) < 2:
                continue
            keys = {"model": model, "site": site, "layer": layer_of(site), "variable": name}
            numbers = residues = pd.DataFrame()
            if name in self.numbers and len(train.classes(k)) >= _MIN_VALUES:
                statistics = _statistics(train, k)
                numbers = number_bases.compare(statistics, _FUNCTIONS, permutations=2).assign(**keys)
                residues = separability(statistics, permutations=2).assign(**keys)
            geometry[name] = VariableGeometry(numbers, residues, _dimensions(train, validation, k).assign(**keys))
        return geometry


def tables(
    geometries: Mapping[tuple[str, str], SiteGeometry], sites: Sequence[str], names: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Numbers, residues and dimensions, each of all sites, variables and models, in this order."""
    parts = [
        geometries[model, site][name]
        for site, name, model in product(sites, names, (TRAINED, UNTRAINED))
        if name in geometries.get((model, site), {})
    ]
    return (
        _stack([part.numbers for part in parts]),
        _stack([part.residues for part in parts]),
        _stack([part.dimensions for part in parts]),
    )


def _stack(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    frames = [frame for frame in frames if len(frame)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _statistics(train: Bank, k: int) -> ValueStatistics:
    """What the activations of a number's values add up to."""
    values = train.classes(k)
    at = values + variables.MAX_ABS_VALUE
    return ValueStatistics(values, train.counts[k, at], train.sums[k, at], train.xx[train.mask_of[k]])


def _dimensions(train: Bank, validation: Bank, k: int) -> pd.DataFrame:
    values = train.classes(k)
    moments = train.moments(k, values), validation.moments(k, values)
    return pd.concat([dimensions.by_rank(*moments), dimensions.by_neurons(*moments)], ignore_index=True)
