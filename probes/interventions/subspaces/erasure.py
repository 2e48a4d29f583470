"""Erasure: maps of activations after which a variable cannot be read linearly, or no longer along some directions.

LEACE (Belrose et al. 2023, arXiv 2306.03819) is the least change, in mean square, after which no linear probe reads a
variable better than a constant does; it is a function of the moments that the banks hold. Beside it stand iterative
null-space projection (INLP; Ravfogel et al. 2020, arXiv 2004.07667), projection onto the complement of the class means,
and, as a control that knows nothing of the variable, a random projection of equal rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from scipy.linalg import orth

from cadmus.runtime import artifacts
from cadmus.runtime.seeds import generator
from probes.interventions.editing.changes import Change
from probes.solvers.checks import check_classes, check_finite_rows, check_rows
from probes.solvers.logistic import LogisticProbe
from probes.solvers.moments import Moments

_WIDTH = 1e-10  # of the greatest variance: directions with less are constant
_CORRELATION = 1e-7  # of the greatest singular value: what is smaller is rounding
_FOLDER = "eraser"  # the kind of a saved folder
_ARRAYS = ("mean", "reader", "writer")

A = TypeVar("A", np.ndarray, torch.Tensor)


@dataclass(frozen=True, repr=False)
class Eraser:
    """An affine map that removes what is read along some directions: x - writer (reader (x - mean)).

    Called with activations, it returns what is left of them. writer' and reader are equal where the projection is
    orthogonal.
    """

    name: str
    """The method."""

    mean: np.ndarray
    """float64 [d_model]: stays where it is."""

    reader: np.ndarray
    """float64 [rank, d_model]: the directions that are read."""

    writer: np.ndarray
    """float64 [d_model, rank]: what is taken away for each; reader @ writer is the identity."""

    def __repr__(self) -> str:
        return f"Eraser({self.name}, {self.rank} of {len(self.mean)} dimensions)"

    @property
    def rank(self) -> int:
        """How many dimensions are erased."""
        return len(self.reader)

    def __call__(self, x: A) -> A:
        """Erase in x [.., d_model], an array or a tensor; the result has its dtype and shape.

        It is computed in double precision: along directions in which activations hardly vary `reader` is large.
        """
        if isinstance(x, torch.Tensor):
            mean, reader, writer = (torch.as_tensor(part, device=x.device) for part in self._arrays)
            exact = x.double()
            return (exact - (exact - mean) @ reader.T @ writer.T).to(x.dtype)
        return (x - (x - self.mean) @ self.reader.T @ self.writer.T).astype(x.dtype)

    @property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.mean, self.reader, self.writer

    def as_change(self) -> Change:
        """The erasure as an edit makes it (`probes.interventions.editing.Edit`)."""

        def change(x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
            return self(x)

        return change

    def mean_squared_change(self, covariance: np.ndarray) -> float:
        """The mean squared change of activations with this covariance, float [d_model, d_model], about `mean`."""
        projection = self.writer @ self.reader
        return float(np.trace(projection @ covariance @ projection.T))


# --- LEACE -----------------------------------------------------------------------------------------------------------


class LeaceFitter:
    """Gathers the moments of rows, `update` after `update`; `eraser` is LEACE of all of them so far."""

    def __init__(self) -> None:
        self.moments: Moments | None = None

    def update(self, x: np.ndarray, y: np.ndarray) -> LeaceFitter:
        """Add activations x float [n, d_model] and what is to be erased, y [n] or [n, outputs]; returns itself.

        y holds numbers; a variable with classes is given one-hot, one output per class. Raises ValueError for
        activations that are not finite and for another number of rows.
        """
        x, y = np.asarray(x, float), np.asarray(y, float)
        if len(x) != len(y):
            raise ValueError(f"{len(x)} rows of activations and {len(y)} of labels; give a label to each row")
        check_finite_rows(x)
        added = Moments.of(x, y.reshape(len(y), -1))
        self.moments = added if self.moments is None else self.moments + added
        return self

    @property
    def eraser(self) -> Eraser:
        """LEACE of the rows so far. Raises ValueError before there are two."""
        check_rows(0 if self.moments is None else self.moments.n)
        assert self.moments is not None, "there are rows"
        return leace(self.moments)


def leace(moments: Moments) -> Eraser:
    """LEACE in closed form (arXiv 2306.03819, Theorem 4.3), of moments of activations and of what is to be erased.

    With the covariance S of the activations and their cross-covariance C with the outputs,

        r(x) = x - W^+ P W (x - mean),  W = (S^1/2)^+,  P = the orthogonal projection onto the columns of W C.

    Afterwards the cross-covariance is zero, so that no linear classifier or regression, whatever its convex loss, does
    better on these rows than a constant; and of all affine maps of which that holds it changes activations least, in
    mean square, under every inner product. Classes are given one-hot (`Bank.moments`), numbers as they are
    (`Bank.numbers`). Raises ValueError for fewer than two rows.
    """
    check_rows(moments.n)
    eigenvalues, vectors = moments.spectrum
    wide = eigenvalues > _WIDTH * max(eigenvalues.max(), 1e-300)
    roots = np.sqrt(eigenvalues[wide] / moments.n)
    vectors = vectors[:, wide]  # [d_model, wide]
    whitened = (vectors / roots).T @ moments.xy / moments.n  # W C in the eigenvectors' coordinates: [wide, outputs]
    scale = np.sqrt(moments.yy / moments.n)  # so that outputs of any unit count alike
    whitened = whitened / np.where(scale > 0, scale, 1)
    basis, singular, _ = np.linalg.svd(whitened, full_matrices=False)
    basis = basis[:, singular > _CORRELATION]  # correlations, at most 1 each: an absolute bound
    return Eraser("LEACE", moments.mean, (vectors / roots @ basis).T, vectors * roots @ basis)


# --- its neighbours --------------------------------------------------------------------------------------------------


def inlp(x: np.ndarray, y: np.ndarray, rounds: int = 10, C: float = 1.0) -> Eraser:
    """Iterative null-space projection: fit a logistic probe, project its directions out, fit again to what is left.

    It ends where the probe of a round is right no more often than the most frequent class, or after `rounds`.

    x float [n, d_model]; y [n], labels; C: of the probes. Raises ValueError for labels of one class and for fewer than
    one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds = {rounds} must be 1 or more")
    x, y = np.asarray(x, float), np.asarray(y)
    check_finite_rows(x)
    classes, counts = np.unique(y, return_counts=True)
    check_classes(classes)
    mean = x.mean(0)
    centred = x - mean
    basis = np.zeros((x.shape[1], 0))
    for _ in range(rounds):
        left = centred - centred @ basis @ basis.T
        probe = LogisticProbe(C, tol=1e-5).fit(left, y)
        if probe.score(left, y) <= counts.max() / len(y):
            break
        coef = probe.coef_ - probe.coef_ @ basis @ basis.T
        basis = np.concatenate([basis, orth(coef.T, rcond=1e-6)], 1)
    return _orthogonal("INLP", mean, basis)


def mean_projection(moments: Moments) -> Eraser:
    """The orthogonal projection after which the class means of moments with one-hot outputs are all the same.

    It ignores how activations vary within classes, so that it changes them more than `leace`. Raises ValueError for
    fewer than two rows.
    """
    check_rows(moments.n)
    counts = moments.n * moments.y_mean
    means = moments.xy[:, counts > 0] / counts[counts > 0]  # about the overall mean: [d_model, classes]
    return _orthogonal("mean projection", moments.mean, orth(means, rcond=_CORRELATION))


def random_projection(rank: int, seed: int, mean: np.ndarray, covariance: np.ndarray | None = None) -> Eraser:
    """A projection that removes `rank` random directions: the control of equal rank.

    mean float [d_model]. With the activations' covariance the directions are random among whitened activations, as
    LEACE's are not: the same share of their whitened variance goes. Raises ValueError for a rank outside 0..d_model,
    or beyond the covariance's.
    """
    rng = generator("random projection", seed)
    if covariance is None:
        n_wide, vectors, roots = len(mean), np.eye(len(mean)), np.ones(len(mean))
    else:
        eigenvalues, vectors = np.linalg.eigh(covariance)
        wide = eigenvalues > _WIDTH * eigenvalues.max()
        n_wide, vectors, roots = int(wide.sum()), vectors[:, wide], np.sqrt(eigenvalues[wide])
    if not 0 <= rank <= n_wide:
        raise ValueError(f"rank {rank} lies outside 0..{n_wide}, the dimensions that activations take")
    basis, _ = np.linalg.qr(rng.normal(size=(n_wide, rank)))
    return Eraser("random", np.asarray(mean, float), (vectors / roots @ basis).T, vectors * roots @ basis)


def _orthogonal(name: str, mean: np.ndarray, basis: np.ndarray) -> Eraser:
    """The orthogonal projection onto the complement of the columns of an orthonormal basis [d_model, rank]."""
    return Eraser(name, mean, basis.T.copy(), basis)


# --- on disk ---------------------------------------------------------------------------------------------------------


def save(folder: Path | str, eraser: Eraser, **about: Any) -> Path:
    """Write an eraser to a folder, all or nothing: eraser.json, eraser.safetensors and a manifest with `about`.

    Raises ArtifactError where the folder holds something else.
    """
    with artifacts.new_folder(folder, _FOLDER, **about) as partial:
        artifacts.write_json(partial / "eraser.json", {"name": eraser.name})
        artifacts.write_arrays(partial / "eraser.safetensors", {name: getattr(eraser, name) for name in _ARRAYS})
    return Path(folder)


def load(folder: Path | str) -> Eraser:
    """The eraser that `save` wrote. Raises ArtifactError for what is missing, damaged or of another kind."""
    artifacts.read_manifest(folder, _FOLDER)
    about = artifacts.read_json(Path(folder) / "eraser.json")
    return Eraser(about["name"], **artifacts.read_arrays(Path(folder) / "eraser.safetensors"))
