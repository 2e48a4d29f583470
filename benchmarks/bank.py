"""The bank of linear probes against a loop of scikit-learn's estimators, and against its multi-output ridge; the whole
state report."""

from __future__ import annotations

import os
import tempfile
import time
import tracemalloc
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.linalg import LinAlgWarning
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from threadpoolctl import threadpool_limits

import cadmus
from analyses.studies.state import page
from analyses.studies.state.study import StateConfig
from benchmarks.measure import Measurement, benchmark
from cadmus.programs import mixture
from probes.data.activations import residual_sites, token_rows
from probes.data.examples import Labelled, draw, labelled
from probes.data.targets import Target
from probes.solvers import site_probes
from probes.solvers.bank import Bank
from probes.solvers.linear import ALPHAS, ridge
from probes.solvers.moments import Moments
from probes.solvers.rows import BatchLabels, MaskProducts

_PROGRAMS = 6000
_NUMBERS = ("depth", "stack.0.value", "stack.1.value", "reg.a.value", "reg.b.value", "needed.value")
_CATEGORIES = ("all_true", "stack.0.kind", "stack.1.kind", "reg.a.live", "reg.a.kind", "needed.relation")
_BATCH = 16_384
_MASK_OFFSETS = (-4, -1, 0, 1, 4)  # of all variables, whose masks are multiplied


@dataclass(frozen=True)
class _Fold:
    """The tokens of one fold."""

    activations: dict[str, np.ndarray]
    """float32 [rows, width] by site."""

    labels: Labelled
    """Of all targets."""

    programs: np.ndarray
    """The program of each row: int64 [rows]."""

    positions: np.ndarray
    """Its position: int64 [rows]."""

    values: np.ndarray
    """int32 [rows, targets]."""

    mask: np.ndarray
    """Where the targets are defined: bool [rows, targets]."""

    def batches(self) -> list[BatchLabels]:
        """The labels, batch after batch of `_BATCH` rows."""
        parts = (slice(begin, begin + _BATCH) for begin in range(0, len(self.values), _BATCH))
        return [BatchLabels.at(self.labels, self.programs[part], self.positions[part]) for part in parts]

    def of(self, target: int, site: str) -> tuple[np.ndarray, np.ndarray]:
        """The activations and values of the rows at which a target is defined."""
        rows = self.mask[:, target]
        return self.activations[site][rows], self.values[rows, target]


@cache
def _data() -> tuple[list[Target], dict[str, _Fold]]:
    model, examples = cadmus.load_model(), draw(mixture.load("default"), _PROGRAMS)
    targets = [Target(v, regression=True) for v in _NUMBERS] + [Target(v) for v in (*_NUMBERS, *_CATEGORIES)]
    folds = {}
    for name in ("train", "validation", "test"):
        part = examples.fold(name)
        labels = labelled(part, targets)
        batches = list(token_rows(model, part.programs, residual_sites(model), where=part.where))
        programs = np.concatenate([batch.programs for batch in batches])
        positions = np.concatenate([batch.positions for batch in batches])
        sites = {site: np.concatenate([b.activations[site] for b in batches]) for site in batches[0].activations}
        folds[name] = _Fold(sites, labels, programs, positions, *labels.at(programs, positions))
    return targets, folds


@benchmark("bank")
def bank() -> list[Measurement]:
    """All ridge and discriminant probes from one pass against loops of scikit-learn's (>= 50 x; memory flat)."""
    targets, folds = _data()
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", LinAlgWarning)  # scikit-learn's, at the smallest penalties
        return [_against_the_loop(targets, folds), _against_multi_output(folds), _against_the_partition()]


def _bank(fold: _Fold, site: str, batches: list[BatchLabels]) -> Bank:
    x = fold.activations[site]
    bank = Bank.of(batches[0], x.shape[1])
    for k, rows in enumerate(batches):
        bank.update(x[k * _BATCH : (k + 1) * _BATCH], rows)
    return bank


def _against_the_loop(targets: list[Target], folds: dict[str, _Fold]) -> Measurement:
    train, validation, test = (folds[name] for name in ("train", "validation", "test"))
    probes = {}

    def fit() -> float:
        """Seconds."""
        started = time.process_time()
        train_batches, validation_batches = train.batches(), validation.batches()
        for site in train.activations:
            banks = _bank(train, site, train_batches), _bank(validation, site, validation_batches)
            probes[site] = site_probes.fit(*banks, targets)
        return time.process_time() - started

    fit()  # compiles
    times: list[float] = []
    theirs = r2_difference = accuracy_difference = 0.0
    for site in train.activations:
        times.append(fit())  # ours, whole, before each site of theirs: a machine that slows down slows both
        for k, target in enumerate(targets):
            x, y = train.of(k, site)
            x_validation, y_validation = validation.of(k, site)
            x_test, y_test = test.of(k, site)
            predicted = probes[site].predict(x_test)[:, k]
            started = time.process_time()
            if target.regression:
                fitted = [Ridge(alpha).fit(x, y) for alpha in ALPHAS]
                peer = max(fitted, key=lambda ridge: ridge.score(x_validation, y_validation))
                theirs += time.process_time() - started
                scores = r2_score(y_test, peer.predict(x_test)), r2_score(y_test, predicted)
                r2_difference = max(r2_difference, abs(scores[0] - scores[1]))
            else:
                values, counts = np.unique(y, return_counts=True)
                frequent = np.isin(y, values[counts >= site_probes.MIN_OF_CLASS])
                peer = LinearDiscriminantAnalysis().fit(x[frequent], y[frequent])
                theirs += time.process_time() - started
                scores = (np.rint(predicted) == y_test).mean(), (peer.predict(x_test) == y_test).mean()
                accuracy_difference = max(accuracy_difference, abs(scores[0] - scores[1]))
    ours = float(np.median(times))
    note = (
        f"{len(train.activations)} sites of width {x.shape[1]}, {len(train.values):,} training rows, {len(_NUMBERS)} "
        f"numbers x {len(ALPHAS)} penalties by ridge, {len(_NUMBERS) + len(_CATEGORIES)} variables by discriminant; "
        f"CPU seconds, one thread; R² at most {r2_difference:.4f} apart, accuracy {accuracy_difference:.4f}; "
        "peer: Ridge, LinearDiscriminantAnalysis"
    )
    passed = theirs >= 50 * ours and r2_difference <= 0.005 and accuracy_difference <= 0.005
    return Measurement("bank", ours, theirs, theirs / ours, ">= 50 x", "s", passed, note)


def _against_multi_output(folds: dict[str, _Fold]) -> Measurement:
    """One site, one penalty, targets that every row has; and the memory of twice and of eight times the rows."""
    fold = folds["train"]
    site = list(fold.activations)[-1]
    rows = fold.mask[:, :2].all(1)  # depth and the top: both are numbers here
    x, y = np.ascontiguousarray(fold.activations[site][rows]), fold.values[rows, :2]
    everywhere = np.ones((len(x), 1), np.bool_)
    mask_of = np.zeros(2, int)

    def fit(copies: int) -> np.ndarray:
        bank = Bank(x.shape[1], mask_of)
        for _ in range(copies):
            for begin in range(0, len(x), _BATCH):
                part = slice(begin, begin + _BATCH)
                bank.update(x[part], BatchLabels.of(y[part], everywhere[part], mask_of))
        moments: Moments = bank.numbers([0, 1])
        return ridge(moments, (1.0,)).coef

    rounds = []
    for _ in range(25):
        begin = time.process_time()
        own = fit(1)
        middle = time.process_time()
        coef = Ridge(1.0).fit(x, y).coef_.T
        rounds.append((middle - begin, time.process_time() - middle))
    difference = float(abs(coef - own).max() / abs(coef).max())
    peaks = []
    for copies in (1, 10):
        tracemalloc.start()
        fit(copies)
        peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
    ours, theirs = map(float, np.median(rounds, axis=0))
    note = (
        f"{len(x):,} rows, width {x.shape[1]}, 2 targets; CPU seconds, one thread; coefficients at most "
        f"{difference:.0e} apart; peak memory {peaks[0]:.0f} MiB, {peaks[1]:.0f} MiB with 10 times the rows; peer: "
        "Ridge of 2 outputs"
    )
    passed = theirs >= ours and peaks[1] < 1.2 * peaks[0]
    return Measurement("bank, one multi-output ridge", ours, theirs, theirs / ours, ">= 1 x", "s", passed, note)


def _against_the_partition() -> Measurement:
    """The second moments of one site under the masks of every variable at several offsets, by differences along their
    spanning tree and from parts of rows that the same masks have."""
    model, part = cadmus.load_model(), draw(mixture.load("default"), _PROGRAMS).fold("train")
    site = residual_sites(model)[-1]
    labels = labelled(part, [Target(v, offset) for v in (*_NUMBERS, *_CATEGORIES) for offset in _MASK_OFFSETS])
    batch = next(token_rows(model, part.programs, [site], where=part.where))
    rows = BatchLabels.at(labels, batch.programs, batch.positions)
    x = batch.activations[site]
    ways = MaskProducts.differences(rows.masks), MaskProducts.partition(rows.masks)
    times: list[list[float]] = [[], []]
    moments = []
    for _ in range(5):
        moments = []
        for seconds, products in zip(times, ways, strict=True):
            bank = Bank.of(rows, x.shape[1])
            begin = time.process_time()
            bank._add_products(x, products)
            seconds.append(time.process_time() - begin)
            moments.append(bank.xx)
    ours, theirs = map(min, times)
    difference = float(abs(moments[0] - moments[1]).max() / abs(moments[1]).max())
    note = (
        f"{len(x):,} rows, width {x.shape[1]}, {len(rows.masks)} masks, which are {ways[1].weights.shape[1]:,} parts; "
        f"CPU seconds, one thread; second moments at most {difference:.0e} apart; peer: our partition"
    )
    passed = theirs >= ours and difference < 1e-5
    return Measurement("bank, masks by differences", ours, theirs, theirs / ours, ">= 1 x", "s", passed, note)


@benchmark("state-report", slow=True)
def state_report() -> list[Measurement]:
    """The default state report on the model that ships, from nothing to its page (<= 3 minutes on two cores)."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        page.make(StateConfig(), Path(folder) / "page")
        seconds = time.perf_counter() - started
    config = StateConfig()
    note = (
        f"{config.programs:,} programs, every resid_post, {len(config.variables)} variables, {len(config.offsets)} "
        f"offsets, all controls, {config.machines} alternative machines, {os.cpu_count()} cores; peer: target"
    )
    return [Measurement("state-report", seconds, 180.0, 180 / seconds, "<= 180 s", "s", seconds <= 180, note)]
