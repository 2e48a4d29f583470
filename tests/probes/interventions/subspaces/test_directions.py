"""Directions: what they read is what the probes read, and the shift that sets variables is the least that does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cadmus.runtime.artifacts import ArtifactError
from probes.data.targets import Target
from probes.interventions.subspaces import directions
from probes.interventions.subspaces.directions import Directions, Steering
from probes.solvers.bank import Bank
from probes.solvers.estimators import DiscriminantProbe, RidgeProbe
from probes.solvers.logistic import LogisticProbe
from probes.solvers.moments import Moments
from probes.solvers.rows import BatchLabels

SITE = "blocks.1.hook_resid_post"
WIDTH = 12
VALUES = np.arange(-2, 3)


def rows(seed: int = 0, n: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Activations [n, WIDTH] that hold two numbers of VALUES, each along a direction, over correlated noise."""
    world = np.random.default_rng(100)
    basis, mix = world.normal(size=(2, WIDTH)), world.normal(size=(WIDTH, WIDTH))
    rng = np.random.default_rng(seed)
    a, b = rng.choice(VALUES, n), rng.choice(VALUES, n)
    return a[:, None] * basis[0] + b[:, None] * basis[1] + 0.2 * rng.normal(size=(n, WIDTH)) @ mix, a, b


def one_hot(x: np.ndarray, y: np.ndarray) -> Moments:
    return Moments.of(x, y[:, None] == VALUES)


def both(of=directions.of_classes) -> tuple[np.ndarray, Directions, Directions]:
    x, a, b = rows()
    return x, of(SITE, "reg.a.value", one_hot(x, a), VALUES), of(SITE, "reg.b.value", one_hot(x, b), VALUES)


# --- what is read ----------------------------------------------------------------------------------------------------


def test_a_number_is_read_as_least_squares_reads_it():
    x, a, _ = rows()
    numbers = directions.of_number(SITE, "reg.a.value", one_hot(x, a), VALUES)
    probe = RidgeProbe(0.0).fit(x, a)
    assert numbers.vectors.shape == (1, WIDTH)
    assert np.allclose(numbers.predict(x), probe.predict(x))
    assert np.allclose(numbers.unit, probe.coef_ / np.linalg.norm(probe.coef_))
    assert np.array_equal(numbers.targets([2, -7]), [[2.0], [-7.0]]), "a number needs not to have been seen"


def test_classes_are_read_as_the_discriminant_reads_them():
    x, a, _ = rows()
    classes = directions.of_classes(SITE, "reg.a.value", one_hot(x, a), VALUES)
    probe = DiscriminantProbe(1e-5).fit(x, a)
    assert np.array_equal(classes.predict(x), probe.predict(x))
    scores, read = probe.decision_function(x), classes.read(x)
    assert np.allclose(scores - scores.mean(1, keepdims=True), read - read.mean(1, keepdims=True))
    means = np.stack([x[a == value].mean(0) for value in VALUES])
    assert np.allclose(classes.means, means)
    assert np.allclose(classes.targets(VALUES), classes.read(means))
    assert np.array_equal(classes.predict(means), VALUES)


def test_a_penalty_is_chosen_on_validation_moments():
    x, a, _ = rows(n=20)
    held_out, held_out_a, _ = rows(1)
    for of in (directions.of_number, directions.of_classes):
        chosen = of(SITE, "v", one_hot(x, a), VALUES, one_hot(held_out, held_out_a))
        alone = of(SITE, "v", one_hot(x, a), VALUES)
        assert not np.allclose(chosen.vectors, alone.vectors)


@pytest.mark.parametrize("values", [VALUES, np.array([0, 1])])
def test_a_logistic_probe_keeps_its_decisions(values):
    x, a, _ = rows()
    a = np.where(np.isin(a, values), a, values[0])
    probe = LogisticProbe().fit(x, a)
    means = np.stack([x[a == value].mean(0) for value in values])
    read_outs = directions.of_logistic(SITE, "reg.a.value", probe, means)
    assert len(read_outs.vectors) == len(values)
    assert np.array_equal(read_outs.predict(x), probe.predict(x))
    assert np.array_equal(read_outs.predict(torch.from_numpy(x)).numpy(), probe.predict(x))


def test_a_bank_gives_the_directions_of_its_targets():
    x, a, b = rows(n=1000)
    targets = (Target("reg.a.value"), Target("reg.b.value", regression=True))
    held_out = rows(1)
    banks = [bank_of(*part) for part in ((x, a, b), held_out)]
    of_a, of_b = directions.of_bank(SITE, *banks, targets)
    assert (of_a.kind, of_b.kind) == ("class", "number")
    assert (of_a.variable, of_b.variable) == tuple(target.name for target in targets)
    assert np.mean(of_a.predict(held_out[0]) == held_out[1]) > 0.95
    assert np.mean(of_b.predict(held_out[0]).round() == held_out[2]) > 0.9
    for part, y in ((of_a, a), (of_b, b)):
        assert np.allclose(part.means, [x[y == value].mean(0) for value in VALUES], atol=1e-5)
    constant = bank_of(x, a, np.zeros_like(b))
    with pytest.raises(ValueError, match=rf"{targets[1].name} at '{SITE}' has no read-out: constant"):
        directions.of_bank(SITE, constant, constant, targets)


def bank_of(x: np.ndarray, *labels: np.ndarray) -> Bank:
    """A bank of the rows, with a target per labels, all of them defined."""
    mask_of = np.zeros(len(labels), int)
    batch = BatchLabels.of(np.stack(labels, 1), np.ones((len(x), 1), bool), mask_of)
    return Bank(WIDTH, mask_of).update(x, batch)


# --- what is set -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", [directions.of_number, directions.of_classes])
@pytest.mark.parametrize("metric", [False, True])
def test_several_variables_read_what_they_are_steered_to(of, metric):
    x, of_a, of_b = both(of)
    steering = Steering.of(of_a, of_b, covariance=np.cov(x.T) if metric else None)
    wanted = {"reg.a.value": np.roll(VALUES, 1)[np.arange(len(x)) % 5], "reg.b.value": VALUES[np.arange(len(x)) % 5]}
    targets = steering.targets(wanted)
    moved = steering(x, targets)
    assert np.allclose(of_a.predict(moved), wanted["reg.a.value"])
    assert np.allclose(of_b.predict(moved), wanted["reg.b.value"])
    for part, y in ((of_a, wanted["reg.a.value"]), (of_b, wanted["reg.b.value"])):
        assert np.allclose(part.read(moved), part.targets(y))
    assert np.allclose(steering(moved, targets), moved), "what reads the targets stays"
    assert np.allclose(steering(x, targets, dose=0.5), (x + moved) / 2)
    in_torch = steering(torch.from_numpy(x), torch.from_numpy(targets))
    assert np.allclose(in_torch.numpy(), moved)
    rows_of_some = torch.tensor([5, 2])
    change = steering.as_change(targets)
    some = change(torch.from_numpy(x[[5, 2]]).float(), rows_of_some, torch.zeros(2))
    assert some.dtype == torch.float32
    assert np.allclose(some.numpy(), moved[[5, 2]], atol=1e-4)


@pytest.mark.parametrize("metric", [False, True])
def test_no_other_shift_that_sets_them_is_smaller(metric):
    x, of_a, of_b = both()
    covariance = np.cov(x.T) if metric else np.eye(WIDTH)
    inverse = np.linalg.inv(covariance)
    steering = Steering.of(of_a, of_b, covariance=covariance if metric else None)
    shift = steering.shift(x, steering.targets({"reg.a.value": np.full(len(x), 2), "reg.b.value": np.full(len(x), 0)}))
    rng = np.random.default_rng(0)
    unread = np.eye(WIDTH) - np.linalg.pinv(steering.vectors, rcond=1e-9) @ steering.vectors
    others = shift + rng.normal(size=x.shape) @ unread
    assert np.allclose(others @ steering.vectors.T, shift @ steering.vectors.T), "they set the same"
    size, sizes = (np.einsum("ni,ij,nj->n", s, inverse, s) for s in (shift, others))
    assert (size < sizes).all()


def test_in_the_metric_of_the_covariance_a_shift_leaves_what_is_independent_alone():
    x, of_a, of_b = both(directions.of_number)
    covariance = np.cov(x.T)
    plain, along = Steering.of(of_a), Steering.of(of_a, covariance=covariance)
    targets = of_a.targets(np.full(len(x), 2))
    moves = [abs(of_b.read(steering(x, targets)) - of_b.read(x)).mean() for steering in (plain, along)]
    assert moves[1] < moves[0] / 5, "b is independent of a, though their directions overlap"


def test_units_do_not_matter():
    x, of_a, of_b = both()
    large = Directions(SITE, "reg.b.value", "class", 1e7 * of_b.vectors, 1e7 * of_b.intercepts, VALUES, of_b.means)
    wanted = {"reg.a.value": [1], "reg.b.value": [-1]}
    moved = [s(x[:1], s.targets(wanted)) for s in (Steering.of(of_a, of_b), Steering.of(of_a, large))]
    assert np.allclose(*moved)


def test_what_cannot_be_set_is_an_error():
    _, of_a, of_b = both()
    with pytest.raises(ValueError, match=r"'reg.a.value' was never seen with \[9\]; the values seen are \[-2, -1"):
        of_a.targets([1, 9])
    twin = Directions(SITE, "reg.c.value", "class", of_a.vectors, of_a.intercepts, VALUES, of_a.means)
    with pytest.raises(ValueError, match=r"the read-outs of 'reg.a.value' and 'reg.c.value' follow from one another"):
        Steering.of(of_a, twin)
    with pytest.raises(ValueError, match=r"variables reg.a.value, reg.a.value name one twice"):
        Steering.of(of_a, of_a)
    other = Directions("hook_embed", "reg.d.value", "class", of_b.vectors, of_b.intercepts, VALUES, of_b.means)
    with pytest.raises(ValueError, match=r"directions of 'blocks.1.hook_resid_post' .*, 'hook_embed' .* take those"):
        Steering.of(of_a, other)
    with pytest.raises(ValueError, match=r"values of \['reg.a.value'\] were given; this steering sets"):
        Steering.of(of_a, of_b).targets({"reg.a.value": [1]})
    with pytest.raises(ValueError, match="no directions"):
        Steering.of()


def test_a_contradiction_is_refused():
    with pytest.raises(ValueError, match="kind 'vector' is none of number, class"):
        Directions(SITE, "v", "vector", np.zeros((1, 3)), np.zeros(1), VALUES, np.zeros((5, 3)))
    with pytest.raises(ValueError, match="1 read-outs of a class with 5 values; a number has 1, a class one each"):
        Directions(SITE, "v", "class", np.zeros((1, 3)), np.zeros(1), VALUES, np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"means of 'v' have shape \(5, 4\); expected \(5, 3\)"):
        Directions(SITE, "v", "number", np.zeros((1, 3)), np.zeros(1), VALUES, np.zeros((5, 4)))


def test_directions_are_read_back(tmp_path):
    x, of_a, _ = both()
    of_b = both(directions.of_number)[2]
    folder = directions.save(tmp_path / "directions", (of_a, of_b), model="0123")
    loaded = directions.load(folder)
    assert [repr(part) for part in loaded] == [repr(of_a), repr(of_b)]
    for before, after in zip((of_a, of_b), loaded, strict=True):
        assert np.array_equal(before.read(x), after.read(x))
        assert np.array_equal(before.targets(VALUES), after.targets(VALUES))
    (folder / "directions.json").write_text("[]")
    with pytest.raises(ArtifactError, match=r"directions\.json is damaged"):
        directions.load(folder)
