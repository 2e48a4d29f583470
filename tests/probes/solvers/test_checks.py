"""What probes refuse, in the same words everywhere."""

from __future__ import annotations

import re

import numpy as np
import pytest

from probes.solvers.checks import check_classes, check_finite_rows, check_finite_sums, check_rows, constant_message


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
