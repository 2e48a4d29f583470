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
from probes.data.examples import Target, draw, labelled
from probes.solvers import site_probes
from probes.solvers.bank import Bank
from probes.solvers.linear import ALPHAS, ridge
from probes.solvers.moments import Moments
from probes.solvers.rows import BatchLabels

_PROGRAMS = 6000
_NUMBERS = ("depth", "stack.0.value", "stack.1.value", "reg.a.value", "reg.b.value", "needed.value")
_CATEGORIES = ("all_true", "stack.0.kind", "stack.1.kind", "reg.a.live", "reg.a.kind", "needed.relation")
_BATCH = 16_384
_FEWEST = 5  # rows of a class: what the bank's classifier asks for


@dataclass(frozen=True)
class _Fold:
    """Activations float32 [rows, width] by site, and the labels of every target."""

    activations: dict[str, np.ndarray]
    values: np.ndarray
    defined: np.ndarray
    mask_of: np.ndarray

    def of(self, target: int, site: str) -> tuple[np.ndarray, np.ndarray]:
        rows = self.defined[:, self.mask_of[target]]
        return self.activations[site][rows], self.values[rows, target]


@cache
def _data() -> tuple[list[Target], dict[str, _Fold]]:
    model, examples = cadmus.load_model(), draw(mixture.load("default"), _PROGRAMS)
    targets = [Target(v, as_number=True) for v in _NUMBERS] + [Target(v) for v in (*_NUMBERS, *_CATEGORIES)]
    folds = {}
    for name in ("train", "validation", "test"):
        part = examples.fold(name)
        labels = labelled(part, targets)
        batches = list(token_rows(model, part.programs, residual_sites(model), where=part.where))
        values, defined = (
            np.concatenate(arrays)
            for arrays in zip(*(labels.at(b.programs, b.positions) for b in batches), strict=True)
        )
        sites = {site: np.concatenate([b.activations[site] for b in batches]) for site in batches[0].activations}
        folds[name] = _Fold(sites, values, defined, labels.mask_of)
    return targets, folds


@benchmark("bank")
def bank() -> list[Measurement]:
    """All ridge and discriminant probes from one pass against loops of scikit-learn's (>= 50 x; memory flat)."""
    targets, folds = _data()
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", LinAlgWarning)  # scikit-learn's, at the smallest penalties
        return [_against_the_loop(targets, folds), _against_multi_output(folds)]


def _banks(fold: _Fold, site: str, batches: list[BatchLabels]) -> Bank:
    x = fold.activations[site]
    made = Bank(x.shape[1], fold.mask_of)
    for k, rows in enumerate(batches):
        made.update(x[k * _BATCH : (k + 1) * _BATCH], rows)
    return made


def _batches(fold: _Fold) -> list[BatchLabels]:
    parts = (slice(begin, begin + _BATCH) for begin in range(0, len(fold.values), _BATCH))
    return [BatchLabels.of(fold.values[part], fold.defined[part], fold.mask_of) for part in parts]


def _against_the_loop(targets: list[Target], folds: dict[str, _Fold]) -> Measurement:
    train, validation, test = (folds[name] for name in ("train", "validation", "test"))
    probes = {}

    def fit() -> float:
        """Seconds."""
        started = time.process_time()
        batches = _batches(train), _batches(validation)
        for site in train.activations:
            probes[site] = site_probes.fit(
                _banks(train, site, batches[0]), _banks(validation, site, batches[1]), targets
            )
        return time.process_time() - started

    fit()  # compiles
    times, theirs, apart_r2, apart_accuracy = [], 0.0, 0.0, 0.0
    for site in train.activations:
        times.append(fit())  # ours, whole, before each site of theirs: a machine that slows down slows both
        for k, target in enumerate(targets):
            (x, y), (x_validation, y_validation), (x_test, y_test) = (
                fold.of(k, site) for fold in (train, validation, test)
            )
            mine = probes[site].predict(x_test)[:, k]
            started = time.process_time()
            if target.as_number:
                fitted = [Ridge(alpha).fit(x, y) for alpha in ALPHAS]
                peer = max(fitted, key=lambda one: one.score(x_validation, y_validation))
                theirs += time.process_time() - started
                apart_r2 = max(apart_r2, abs(r2_score(y_test, peer.predict(x_test)) - r2_score(y_test, mine)))
            else:
                values, counts = np.unique(y, return_counts=True)
                often = np.isin(y, values[counts >= _FEWEST])
                peer = LinearDiscriminantAnalysis().fit(x[often], y[often])
                theirs += time.process_time() - started
                shares = (np.rint(mine) == y_test).mean(), (peer.predict(x_test) == y_test).mean()
                apart_accuracy = max(apart_accuracy, abs(shares[0] - shares[1]))
    ours = float(np.median(times))
    note = (
        f"{len(train.activations)} sites of width {x.shape[1]}, {len(train.values):,} training rows, {len(_NUMBERS)} "
        f"numbers x {len(ALPHAS)} penalties by ridge, {len(_NUMBERS) + len(_CATEGORIES)} variables by discriminant; "
        f"CPU seconds, one thread; R² at most {apart_r2:.4f} apart, accuracy {apart_accuracy:.4f}; peer: Ridge, "
        "LinearDiscriminantAnalysis"
    )
    passed = theirs >= 50 * ours and apart_r2 <= 0.005 and apart_accuracy <= 0.005
    return Measurement("bank", ours, theirs, theirs / ours, ">= 50 x", "s", passed, note)


def _against_multi_output(folds: dict[str, _Fold]) -> Measurement:
    """One site, one penalty, targets that every row has; and the memory of twice and of eight times the rows."""
    fold = folds["train"]
    site = list(fold.activations)[-1]
    rows = fold.defined[:, fold.mask_of[: len(_NUMBERS)]][:, :2].all(1)  # depth and the top: both are numbers here
    x, y = np.ascontiguousarray(fold.activations[site][rows]), fold.values[rows, :2]
    defined = np.ones((len(x), 1), np.bool_)

    def mine(copies: int) -> np.ndarray:
        made = Bank(x.shape[1], np.zeros(2, int))
        for _ in range(copies):
            for begin in range(0, len(x), _BATCH):
                part = slice(begin, begin + _BATCH)
                made.update(x[part], BatchLabels.of(y[part], defined[part], np.zeros(2, int)))
        moments: Moments = made.numbers([0, 1])
        return ridge(moments, (1.0,)).coef

    rounds = []
    for _ in range(25):
        begin = time.process_time()
        own = mine(1)
        half = time.process_time()
        coef = Ridge(1.0).fit(x, y).coef_.T
        rounds.append((half - begin, time.process_time() - half))
    apart = float(abs(coef - own).max() / abs(coef).max())
    peaks = []
    for copies in (1, 10):
        tracemalloc.start()
        mine(copies)
        peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
    ours, theirs = map(float, np.median(rounds, axis=0))
    note = (
        f"{len(x):,} rows, width {x.shape[1]}, 2 targets; CPU seconds, one thread; coefficients at most {apart:.0e} "
        f"apart; peak memory {peaks[0]:.0f} MiB, {peaks[1]:.0f} MiB with 10 times the rows; peer: Ridge of 2 outputs"
    )
    passed = theirs >= ours and peaks[1] < 1.2 * peaks[0]
    return Measurement("bank, one multi-output ridge", ours, theirs, theirs / ours, ">= 1 x", "s", passed, note)


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
