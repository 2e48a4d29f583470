"""What edits do to activations: each change against its definition."""

import numpy as np
import pytest
import torch

from probes.interventions.editing import changes

ROWS = torch.tensor([0, 0, 1, 2])
COLUMNS = torch.tensor([0, 1, 1, 0])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = normal(4, 6)
HEADS = normal(4, 3, 6)


@pytest.mark.parametrize("x", [X, HEADS], ids=["token", "heads"])
def test_values_are_of_everywhere_of_rows_or_of_rows_and_columns(x):
    one = x.shape[1:]
    same, by_row, by_place = normal(*one), normal(3, *one), normal(3, 2, *one)
    torch.testing.assert_close(changes.patch(same)(x, ROWS, COLUMNS), same.expand_as(x))
    torch.testing.assert_close(changes.patch(by_row)(x, ROWS, COLUMNS), by_row[ROWS])
    torch.testing.assert_close(changes.patch(by_place)(x, ROWS, COLUMNS), by_place[ROWS, COLUMNS])
    torch.testing.assert_close(changes.add(by_row, -2.0)(x, ROWS, COLUMNS), x - 2 * by_row[ROWS])


def test_values_of_another_shape_and_too_few_rows_are_refused():
    with pytest.raises(ValueError, match=r"patch was given values \(5,\) where one activation is \(6,\)"):
        changes.patch(normal(5))(X, ROWS, COLUMNS)
    with pytest.raises(ValueError, match=r"patch was given values \(2, 6\), which have too few rows"):
        changes.patch(normal(2, 6))(X, ROWS, COLUMNS)
    with pytest.raises(ValueError, match="too few columns"):
        changes.patch(normal(3, 1, 6))(X, ROWS, COLUMNS)
    with pytest.raises(ValueError, match=r"mean takes one activation, \(6,\)"):
        changes.mean(normal(4, 6))(X, ROWS, COLUMNS)
    with pytest.raises(ValueError, match="directions of 5 features; the activations have 6"):
        changes.steer(normal(5), 1.0)(X, ROWS, COLUMNS)


@pytest.mark.parametrize("change", [changes.patch, changes.add, changes.mean, changes.project_out])
def test_values_may_be_arrays_and_must_be_numbers(change):
    values = np.linspace(-1.0, 1.0, 6, dtype=np.float32)
    assert torch.equal(change(values)(X, ROWS, COLUMNS), change(torch.from_numpy(values))(X, ROWS, COLUMNS))
    values[3] = np.nan
    with pytest.raises(ValueError, match=r"was given 1 of \d+ numbers that are NaN"):
        change(values)


def test_steering_reaches_the_targets_by_the_least_shift():
    directions, targets, intercept = normal(6, 2), normal(3, 2, seed=1), normal(2, seed=2)
    y = changes.steer(directions, targets, intercept)(X, ROWS, COLUMNS)
    torch.testing.assert_close(y @ directions + intercept, targets[ROWS])
    q = torch.linalg.qr(directions).Q
    torch.testing.assert_close((y - X) @ q @ q.T, y - X)  # nothing outside the directions' span: the least norm
    half = changes.steer(directions, targets, intercept, dose=0.5)(X, ROWS, COLUMNS)
    torch.testing.assert_close(half, (X + y) / 2)


def test_steering_along_one_direction_takes_numbers_by_row_and_place():
    direction = normal(6)
    for targets, expected in (
        (2.0, torch.full((4,), 2.0)),
        (normal(3), normal(3)[ROWS]),
        (normal(3, 2), normal(3, 2)[ROWS, COLUMNS]),
    ):
        torch.testing.assert_close(changes.steer(direction, targets)(X, ROWS, COLUMNS) @ direction, expected)


def test_projecting_out_leaves_the_mean_there_and_the_rest_alone():
    basis, mean = normal(6, 2), normal(6, seed=3)
    y = changes.project_out(basis, mean)(X, ROWS, COLUMNS)
    torch.testing.assert_close(y @ basis, (mean @ basis).expand(4, 2))
    rest = torch.linalg.qr(basis, mode="complete").Q[:, 2:]
    torch.testing.assert_close(y @ rest, X @ rest)
    torch.testing.assert_close(changes.project_out(basis)(X, ROWS, COLUMNS) @ basis, torch.zeros(4, 2))


def test_a_subspace_is_taken_from_the_values_wholly_or_by_weights():
    rotation = torch.linalg.qr(normal(6, 6)).Q
    basis, rest, values = rotation[:, :2], rotation[:, 2:], normal(3, 6, seed=4)
    y = changes.swap_subspace(basis, values)(X, ROWS, COLUMNS)
    torch.testing.assert_close(y @ basis, values[ROWS] @ basis)
    torch.testing.assert_close(y @ rest, X @ rest)
    y = changes.swap_subspace(basis, values, torch.tensor([1.0, 0.0]))(X, ROWS, COLUMNS)
    torch.testing.assert_close(y @ rotation[:, 1:], X @ rotation[:, 1:])
    with pytest.raises(ValueError, match="orthonormal"):
        changes.swap_subspace(2 * basis, values)


def test_zero_and_mean():
    assert (changes.zero()(X, ROWS, COLUMNS) == 0).all()
    torch.testing.assert_close(changes.mean(X[0])(X, ROWS, COLUMNS), X[0].expand(4, 6))


def test_noise_is_a_function_of_seed_row_and_column():
    x = torch.zeros(20_000, 4)
    rows, columns = torch.arange(20_000) // 10, torch.arange(20_000) % 10
    y = changes.noise(2.0, seed=3)(x, rows, columns)
    assert abs(float(y.mean())) < 0.03
    assert float(y.std()) == pytest.approx(2.0, rel=0.02)
    assert abs(float((y[:, 0] * y[:, 1]).mean())) < 0.1
    assert abs(float((y[1:] * y[:-1]).mean())) < 0.06
    order = torch.randperm(20_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(changes.noise(2.0, seed=3)(x[order], rows[order], columns[order]), y[order])
    assert (changes.noise(2.0, seed=4)(x, rows, columns) != y).any()


@pytest.mark.parametrize("name", ["patch", "add", "steer", "project_out", "swap_subspace"])
def test_gradients_reach_what_a_change_is_made_of(name):
    tensor = (
        torch.linalg.qr(normal(6, 2)).Q if name in ("project_out", "swap_subspace") else normal(6)
    ).requires_grad_()
    change = {
        "patch": lambda: changes.patch(tensor),
        "add": lambda: changes.add(tensor),
        "steer": lambda: changes.steer(tensor, 1.0),
        "project_out": lambda: changes.project_out(tensor),
        "swap_subspace": lambda: changes.swap_subspace(tensor, normal(6)),
    }[name]()
    change(X, ROWS, COLUMNS).square().sum().backward()
    assert float(tensor.grad.abs().max()) > 0
