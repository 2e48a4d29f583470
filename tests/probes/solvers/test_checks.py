"""What probes refuse, in the same words everywhere."""

from __future__ import annotations

import re

import numpy as np
import pytest
from sklearn.base import clone

from probes.solvers.checks import check_classes, check_finite_rows, check_finite_sums, check_rows, constant_message
from probes.solvers.estimators import DiscriminantProbe, LeastSquaresProbe, RidgeProbe
from probes.solvers.logistic import LogisticProbe
from probes.solvers.mlp import MLPClassifierProbe, MLPRegressorProbe


def test_what_is_refused_is_said_in_a_line() -> None:
    x = np.zeros((5, 2))
    broken = x.copy()
    broken[[1, 3], 1] = np.nan, np.inf
    for check, arguments, message in [
        (check_rows, (1.0,), "1 rows; a probe needs 2 or more"),
        (check_rows, (49, "validation tokens", 50), "49 validation tokens; a probe needs 50 or more"),
        (check_classes, (np.array(["a"]),), "the labels have one class only (a); there is nothing to probe"),
        (check_classes, (np.zeros(0), "labels"), "labels have one class only; there is nothing to probe"),
        (check_finite_rows, (broken,), "the activations are not finite in 2 of 5 rows; leave those rows out"),
        (check_finite_sums, (x, broken), "the sums of squared activations are not finite; leave out or scale down"),
    ]:
        with pytest.raises(ValueError, match="^" + re.escape(message)):
            check(*arguments)
    check_rows(2)
    check_rows(50, minimum=50)
    check_classes(np.arange(2))
    check_finite_rows(x)
    check_finite_sums(x, x)
    assert constant_message("output 3", "7") == "output 3 is constant (7); there is nothing to probe"


@pytest.mark.parametrize(
    "probe",
    [
        RidgeProbe(),
        LeastSquaresProbe(),
        DiscriminantProbe(),
        LogisticProbe(),
        MLPClassifierProbe(),
        MLPRegressorProbe(),
    ],
    ids=lambda probe: type(probe).__name__,
)
def test_every_door_refuses_what_a_mask_hides(probe) -> None:
    x = np.random.default_rng(0).normal(size=(40, 3))
    y = np.arange(40) % 2
    fitted = clone(probe).fit(x, y)
    hidden = np.ma.masked_array(x, np.arange(120).reshape(40, 3) == 7), np.ma.masked_array(y, np.arange(40) < 2)
    for name in {"fit", "partial_fit", "score"} & set(dir(fitted)):
        door = getattr(fitted if name == "score" else clone(probe), name)
        with pytest.raises(ValueError, match="2 entries are masked"):
            door(x, hidden[1])
        with pytest.raises(ValueError, match="1 entries are masked"):
            door(hidden[0], y)
    with pytest.raises(ValueError, match="1 entries are masked"):
        fitted.predict(hidden[0])
    nothing_masked = np.ma.masked_array(y, np.zeros(40, bool))
    assert fitted.score(x, nothing_masked) == fitted.score(x, y)


def test_outputs_keep_their_number_from_call_to_call() -> None:
    x = np.random.default_rng(0).normal(size=(40, 3))
    with pytest.raises(ValueError, match=r"y has shape \(40,\), but earlier calls had \('n', 2\)"):
        RidgeProbe().partial_fit(x, x[:, :2]).partial_fit(x, x[:, 0])
