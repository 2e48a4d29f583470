"""Several probes of one variable: planted linearly all read it, planted as a direction of either sign only the network
does, and what cannot be read leaves the others alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from analyses.studies.state import probe_comparison
from cadmus.machine import kernel
from cadmus.states import variables
from probes.data.examples import labelled
from probes.data.targets import Target
from tests.planted import AFTER, BEFORE, Planted, examples

LINEAR = list(probe_comparison.PENALTIES)


class EitherSign(Planted):
    """Writes one direction where the variable is true, plus at even positions and minus at odd ones."""

    def run_with_hooks(self, tokens: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        true = variables.read(kernel.traces(tokens[:, 1:].numpy().astype(np.uint8)), self.variable).values
        sign = np.where(np.arange(true.shape[1]) % 2, -1.0, 1.0)
        written = torch.from_numpy((true * sign).astype(np.float32))[..., None] * 3 * self.codes[0]

        def plant(tensor: Tensor, hook: object) -> Tensor:
            return tensor + written

        with self.hooks([(AFTER, plant)]):
            return super(Planted, self).run_with_hooks(tokens, *args, **kwargs)


@cache
def linear() -> pd.DataFrame:
    return probe_comparison.compare(Planted("stack.1.kind"), examples(), {"stack.1.kind": AFTER, "depth": BEFORE})


def scores(table: pd.DataFrame, variable: str) -> pd.Series:
    return table[table.variable == variable].set_index("probe").score


def test_every_probe_reads_what_is_planted_linearly() -> None:
    by_probe = scores(linear(), "stack.1.kind")
    assert set(by_probe.index) == {*LINEAR, "network"}
    assert (by_probe > 0.97).all()


def test_each_variable_is_read_at_its_own_site() -> None:
    table = linear()
    assert table.set_index("variable").site.to_dict() == {"stack.1.kind": AFTER, "depth": BEFORE}
    before = probe_comparison.compare(Planted("stack.1.kind"), examples(), {"stack.1.kind": BEFORE})
    assert (scores(before, "stack.1.kind")[LINEAR] < scores(table, "stack.1.kind")[LINEAR] - 0.02).all()
    assert (table.low <= table.score).all()
    assert (table.score <= table.high).all()
    assert (table.clusters >= 30).all()


def test_only_the_network_reads_a_direction_of_either_sign() -> None:
    by_probe = scores(
        probe_comparison.compare(EitherSign("reg.a.live"), examples(), {"reg.a.live": AFTER}), "reg.a.live"
    )
    assert by_probe["network"] > 0.95
    assert (by_probe[LINEAR] < by_probe["network"] - 0.05).all()


def test_a_score_is_the_share_of_test_tokens_read_rightly(monkeypatch: pytest.MonkeyPatch) -> None:
    class Constant:
        def __init__(self, alpha: float):
            self.alpha = alpha

        def fit(self, x: np.ndarray, y: np.ndarray) -> Constant:
            self.said = np.bincount(y).argmax()
            return self

        def predict(self, x: np.ndarray) -> np.ndarray:
            return np.full(len(x), self.said)

        def score(self, x: np.ndarray, y: np.ndarray) -> float:
            return float((y == self.said).mean())

    monkeypatch.setattr(probe_comparison, "PENALTIES", {"constant": (Constant, "alpha", (1.0,))})
    table = probe_comparison.compare(Planted(), examples(), {"stack.0.kind": AFTER})
    shares = {}
    for fold in ("train", "test"):
        values, defined = labelled(examples().fold(fold), [Target("stack.0.kind")]).of(0)
        shares[fold] = np.bincount(values[defined], minlength=4) / defined.sum()
    assert scores(table, "stack.0.kind")["constant"] == pytest.approx(shares["test"][shares["train"].argmax()])


def test_a_variable_with_too_little_to_read_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(part, targets):
        """Values of training that no validation token has."""
        read = labelled(part, targets)
        values = read.values.copy()
        values[..., 0] = read.values[..., 0] + (50 if (part.folds == 0).all() else 0)
        return replace(read, values=values)

    monkeypatch.setattr(probe_comparison, "labelled", odd)
    table = probe_comparison.compare(Planted(), examples(), {"depth": AFTER, "stack.0.kind": AFTER})
    assert set(table.variable) == {"stack.0.kind"}
    nowhere = examples()[np.flatnonzero(examples().family != examples().families.index("register"))]
    table = probe_comparison.compare(Planted(), nowhere, {"reg.a.value": AFTER})
    assert table.empty
