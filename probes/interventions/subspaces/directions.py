"""Directions: how a variable is read from a site linearly, and the least shift that makes it read something else.

A `Directions` holds the read-outs of one variable at one site, made of a bank's moments (ridge regression of a number,
the discriminant of its values) or of a logistic probe. A `Steering` sets one or several variables at once: of all
shifts after which their read-outs are the wanted ones, the smallest, in the Euclidean norm or in the metric of the
activations' own covariance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from cadmus.runtime import artifacts
from probes.data.targets import Target, Targets
from probes.interventions.editing.changes import Change
from probes.solvers import site_probes
from probes.solvers.bank import Bank
from probes.solvers.linear import ALPHAS, SHRINKAGES, discriminant, ridge
from probes.solvers.logistic import LogisticProbe
from probes.solvers.moments import Moments

KINDS = ("number", "class")
_ARRAYS = ("vectors", "intercepts", "values", "means")
_RANK = 1e-10  # of the greatest eigenvalue: what is smaller is rounding
_FOLDER = "directions"  # the kind of a saved folder

A = TypeVar("A", np.ndarray, torch.Tensor)


@dataclass(frozen=True, repr=False)
class Directions:
    """The linear read-outs of one variable at one site: x @ vectors.T + intercepts.

    Of a *number* there is one read-out, which gives the number itself; of a *class* there is one per value, the log
    posteriors up to a constant that is the same for all (the mean over values is taken out of the vectors).
    """

    site: str
    """The hook name of the activations."""

    variable: str
    """What is read, such as `reg.a.value`."""

    kind: str
    """`number` or `class`."""

    vectors: np.ndarray
    """float64 [k, d_model]: the weights of each read-out."""

    intercepts: np.ndarray
    """float64 [k]"""

    values: np.ndarray
    """int64 [values]: the values that the variable has been seen with, ascending; of a class, a read-out each."""

    means: np.ndarray
    """float64 [values, d_model]: the mean activation where the variable has each of them."""

    def __post_init__(self) -> None:
        k, width = self.vectors.shape
        expected = {"intercepts": (k,), "means": (len(self.values), width)}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(
                    f"{name} of {self.variable!r} have shape {getattr(self, name).shape}; expected {shape}"
                )
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} is none of {', '.join(KINDS)}")
        if k != (1 if self.kind == "number" else len(self.values)):
            raise ValueError(
                f"{k} read-outs of a {self.kind} with {len(self.values)} values; a number has 1, a class one each"
            )

    def __repr__(self) -> str:
        k, width = self.vectors.shape
        return f"Directions({self.variable!r} at {self.site!r}, a {self.kind}: {k} of {width} dimensions)"

    @property
    def unit(self) -> np.ndarray:
        """The directions of the read-outs, each of length 1: float64 [k, d_model]; a read-out of nothing stays 0."""
        lengths = np.linalg.norm(self.vectors, axis=1, keepdims=True)
        return self.vectors / np.where(lengths > 0, lengths, 1)

    def read(self, x: A) -> A:
        """Apply the read-outs to activations x [.., d_model], an array or a tensor: [.., k]."""
        return x @ _like(self.vectors.T, x) + _like(self.intercepts, x)

    def predict(self, x: A) -> A:
        """The value read from x [.., d_model]: the number, or the class whose read-out is greatest: [..]."""
        read = self.read(x)
        return read[..., 0] if self.kind == "number" else _like(self.values, x)[read.argmax(-1)]

    def targets(self, values: Any) -> np.ndarray:
        """What the read-outs are where the variable has these values, int [n]: float64 [n, k].

        A number reads as itself; of a class they are the read-outs of its mean activation. Raises ValueError for a
        class that was never seen.
        """
        wanted_values = np.atleast_1d(np.asarray(values))
        if self.kind == "number":
            return wanted_values[:, None].astype(float)
        return self.read(self.means_of(wanted_values))

    def means_of(self, values: Any) -> np.ndarray:
        """The mean activations where the variable has these values, int [n]: float64 [n, d_model].

        Raises ValueError for a value that was never seen.
        """
        wanted_values = np.atleast_1d(np.asarray(values))
        unseen = np.setdiff1d(wanted_values, self.values)
        if len(unseen):
            raise ValueError(
                f"{self.variable!r} was never seen with {unseen.tolist()}; the values seen are {self.values.tolist()}"
            )
        return self.means[np.searchsorted(self.values, wanted_values)]


# --- read-outs from moments and probes -------------------------------------------------------------------------------


def class_means(train: Moments) -> np.ndarray:
    """The mean activation of each class of moments with one-hot outputs: float64 [classes, d_model].

    Raises ValueError for a class without rows.
    """
    counts = train.n * train.y_mean
    if (counts <= 0).any():
        raise ValueError(f"class {int((counts <= 0).argmax())} has no rows; leave it out")
    return train.mean + (train.xy / counts).T


def of_number(
    site: str, variable: str, train: Moments, values: np.ndarray, validation: Moments | None = None
) -> Directions:
    """The read-out of a number by ridge regression, its penalty chosen on `validation` (least squares without it).

    train, validation: moments with one-hot outputs, one per value of `values` (as `Bank.moments` gives them). Raises
    ValueError as `probes.solvers.linear.ridge` does.
    """
    values = np.asarray(values, np.int64)
    outputs = values[:, None].astype(float)
    held_out = None if validation is None else validation.mapped(outputs)
    linear = ridge(train.mapped(outputs), (0.0,) if validation is None else ALPHAS, held_out)
    return _number(site, variable, linear.coef[:, 0], float(linear.intercept[0]), values, class_means(train))


def of_classes(
    site: str,
    variable: str,
    train: Moments,
    values: np.ndarray,
    validation: Moments | None = None,
    shrinkages: Sequence[float] | None = None,
) -> Directions:
    """The read-outs of a variable's values by the discriminant (the class means, whitened by the covariance within
    classes), its shrinkage chosen on `validation`, among `shrinkages` (None: those of `probes.solvers.linear`, of which
    it is the least, 1e-5, without validation data).

    Arguments as for `of_number`; raises ValueError as `probes.solvers.linear.discriminant` does.
    """
    if shrinkages is None:
        shrinkages = SHRINKAGES[:1] if validation is None else SHRINKAGES
    linear = discriminant(train, shrinkages, validation)
    return _classes(site, variable, linear.coef.T, linear.intercept, values, class_means(train))


def of_logistic(site: str, variable: str, probe: LogisticProbe, means: np.ndarray) -> Directions:
    """The read-outs of a fitted logistic probe, whose classes are numbers.

    means float [classes, d_model]: the mean activation of each class, in the order of `probe.classes_` (as
    `class_means` gives them). Of two classes, whose probe has one score, each has half of it, with its sign.
    """
    coef, intercept = probe.coef_, probe.intercept_
    if len(probe.classes_) == 2:
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    return _classes(site, variable, coef, intercept, probe.classes_, means)


def of_bank(site: str, train: Bank, validation: Bank, targets: Sequence[Target]) -> tuple[Directions, ...]:
    """The read-outs of every target of the banks, fitted as probing fits them (`probes.solvers.site_probes.fit`).

    A target that asks for `regression` is read as a number, any other as a class. Raises ValueError, naming the target
    and the reason, where one cannot be fitted.
    """
    targets = Targets(targets)
    probes = site_probes.fit(train, validation, targets)
    if probes.problems:
        k, problem = next(iter(probes.problems.items()))
        raise ValueError(f"{targets[k].name} at {site!r} has no read-out: {problem}")
    by_target: dict[int, Directions] = {}
    for k, linear, values in probes.classifiers:
        means = class_means(train.moments(k, values))
        by_target[k] = _classes(site, targets[k].name, linear.coef.T, linear.intercept, values, means)
    for column, k in enumerate(probes.number_targets):
        assert probes.numbers is not None, "number_targets are of these numbers"
        values = train.classes(k)
        coef, intercept = probes.numbers.coef[:, column], float(probes.numbers.intercept[column])
        by_target[k] = _number(site, targets[k].name, coef, intercept, values, class_means(train.moments(k, values)))
    return tuple(by_target[k] for k in range(len(targets)))


def _number(
    site: str, variable: str, coef: np.ndarray, intercept: float, values: np.ndarray, means: np.ndarray
) -> Directions:
    return Directions(site, variable, "number", coef[None], np.array([intercept]), np.asarray(values, np.int64), means)


def _classes(
    site: str, variable: str, coef: np.ndarray, intercept: np.ndarray, values: np.ndarray, means: np.ndarray
) -> Directions:
    vectors = np.asarray(coef, float) - coef.mean(0)  # a part that all classes share decides nothing
    intercepts = np.asarray(intercept, float) - intercept.mean()
    return Directions(
        site, variable, "class", vectors, intercepts, np.asarray(values, np.int64), np.asarray(means, float)
    )


# --- least-norm shifts -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Steering:
    """The smallest shift that makes the read-outs of several variables of one site what they should be, all at once."""

    directions: tuple[Directions, ...]
    """The variables that are set."""

    inverse: np.ndarray
    """float64 [d_model, read-outs]: maps missing read-outs to the shift that adds them."""

    @classmethod
    def of(cls, *directions: Directions, covariance: np.ndarray | None = None) -> Steering:
        """The steering of these variables.

        A shift s is the smaller, the smaller its Euclidean norm; with the covariance S of the activations, float
        [d_model, d_model], the smaller s' S^+ s: it then goes where activations vary, and S may be singular.

            s = M V' (V M V')^+ (wanted - read),  M = S or the identity

        Raises ValueError for directions of several sites or widths, and where a read-out of one variable follows from
        those of the others, so that they cannot be set independently.
        """
        _check_together(directions)
        metric = np.eye(directions[0].vectors.shape[1]) if covariance is None else np.asarray(covariance, float)
        scaled, scales = [], []  # read-outs of any unit count alike
        for part in directions:
            scale = np.sqrt(np.trace(part.vectors @ metric @ part.vectors.T)) or 1.0
            scaled.append(part.vectors / scale)
            scales.append(np.full(len(part.vectors), scale))
        vectors = np.concatenate(scaled)
        moved = vectors @ metric @ vectors.T  # what each read-out moves by, along what moves each
        if _rank(moved) < sum(_rank(part @ metric @ part.T) for part in scaled):
            names = " and ".join(repr(part.variable) for part in directions)
            raise ValueError(
                f"the read-outs of {names} follow from one another at {directions[0].site!r}: set fewer variables"
            )
        inverse = metric @ vectors.T @ np.linalg.pinv(moved, rcond=_RANK, hermitian=True) / np.concatenate(scales)
        return cls(directions, inverse)

    def __repr__(self) -> str:
        names = ", ".join(part.variable for part in self.directions)
        return f"Steering({names} at {self.directions[0].site!r})"

    @cached_property
    def vectors(self) -> np.ndarray:
        """float64 [read-outs, d_model]: those of all variables, one after the other."""
        return np.concatenate([part.vectors for part in self.directions])

    @cached_property
    def intercepts(self) -> np.ndarray:
        """float64 [read-outs]"""
        return np.concatenate([part.intercepts for part in self.directions])

    def targets(self, values: Mapping[str, Any]) -> np.ndarray:
        """The read-outs that stand for values of the variables, int [n] each: float64 [n, read-outs].

        Raises ValueError for a variable that is missing, or that is not steered.
        """
        names = [part.variable for part in self.directions]
        if set(values) != set(names):
            raise ValueError(f"values of {sorted(values)} were given; this steering sets {sorted(names)}, all at once")
        return np.concatenate([part.targets(values[part.variable]) for part in self.directions], 1)

    def shift(self, x: A, targets: Any) -> A:
        """The shift that makes x [n, d_model], an array or a tensor, read `targets` [n, read-outs]: [n, d_model].

        It is computed in double precision, and has the dtype of x.
        """
        if isinstance(x, torch.Tensor):
            exact = x.double()
            read = exact @ _like(self.vectors.T, exact) + _like(self.intercepts, exact)
            return ((_like(targets, exact) - read) @ _like(self.inverse.T, exact)).to(x.dtype)
        return (np.asarray(targets) - (x @ self.vectors.T + self.intercepts)) @ self.inverse.T

    def __call__(self, x: A, targets: Any, dose: float = 1.0) -> A:
        """x [n, d_model] shifted until it reads `targets`; by a `dose` of it, where that is not 1."""
        return x + dose * self.shift(x, targets)

    def as_change(self, targets: Any, dose: float = 1.0) -> Change:
        """The shift as an edit makes it (`probes.interventions.editing.Edit`), of each row towards its own targets,
        float [rows, read-outs]."""
        aims = torch.as_tensor(np.asarray(targets))

        def change(x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
            return self(x, aims.to(rows.device)[rows], dose)

        return change


def _rank(matrix: np.ndarray) -> int:
    """The rank of a symmetric matrix, as the pseudo-inverse counts it."""
    sizes = abs(np.linalg.eigvalsh(matrix))
    return int((sizes > _RANK * sizes.max()).sum())


def _check_together(directions: Sequence[Directions]) -> None:
    if not directions:
        raise ValueError("no directions; give those of one or more variables")
    places = {(part.site, part.vectors.shape[1]) for part in directions}
    if len(places) > 1:
        listed = ", ".join(f"{site!r} (width {width})" for site, width in sorted(places))
        raise ValueError(f"directions of {listed} do not act together; take those of one site")
    names = [part.variable for part in directions]
    if len(set(names)) < len(names):
        raise ValueError(f"the variables {', '.join(names)} name one twice")


def _like(array: Any, x: A) -> A:
    """An array of the class, the dtype and the device of x, for which a float dtype stands."""
    if isinstance(x, torch.Tensor):
        return torch.as_tensor(array).to(x)
    return np.asarray(array)


# --- on disk ---------------------------------------------------------------------------------------------------------


def save(folder: Path | str, directions: Sequence[Directions], **about: Any) -> Path:
    """Write directions to a folder, all or nothing: directions.json, directions.safetensors, a manifest with `about`.

    Raises ArtifactError where the folder holds something else.
    """
    with artifacts.new_folder(folder, _FOLDER, **about) as partial:
        entries = [{"site": part.site, "variable": part.variable, "kind": part.kind} for part in directions]
        artifacts.write_json(partial / "directions.json", entries)
        arrays = {f"{k}.{name}": getattr(part, name) for k, part in enumerate(directions) for name in _ARRAYS}
        artifacts.write_arrays(partial / "directions.safetensors", arrays)
    return Path(folder)


def load(folder: Path | str) -> tuple[Directions, ...]:
    """The directions that `save` wrote. Raises ArtifactError for what is missing, damaged or of another kind."""
    artifacts.read_manifest(folder, _FOLDER)
    entries = artifacts.read_json(Path(folder) / "directions.json")
    arrays = artifacts.read_arrays(Path(folder) / "directions.safetensors")
    loaded = []
    for k, entry in enumerate(entries):
        vectors, intercepts, values, means = (arrays[f"{k}.{name}"] for name in _ARRAYS)
        loaded.append(Directions(entry["site"], entry["variable"], entry["kind"], vectors, intercepts, values, means))
    return tuple(loaded)
