"""The nonlinear reference and the learning curves of the controls, of planted truths."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from cadmus.models.model import Model
from probes.controls.untrained import untrained_twin
from probes.data.targets import Target
from probes.measurement import networks, scores
from probes.measurement.measure import Measurement, measure
from probes.measurement.plan import HALVES, TRAINED, UNTRAINED
from probes.measurement.tally import Breakdown
from tests.planted import AFTER, BEFORE, CFG, Planted, examples

TARGETS = (
    Target("stack.1.value"),
    Target("depth"),
    Target("stack.0.value", where="arose"),
    Target("stack.0.value"),
    Target("depth", 1),
    Target("depth", permuted=True),
)


@cache
def measured() -> Measurement:
    """What is measured of a model that writes stack.1.value into its last site."""
    untrained = untrained_twin(Model(CFG), 3)
    return measure(Planted(), examples(), TARGETS, [BEFORE, AFTER], untrained=untrained, nonlinear=True)


def test_networks_read_the_present_states_where_the_probe_reads_best() -> None:
    sites = measured().network_sites
    assert set(sites) == {0, 1, 2, 3}, "neither states ahead nor permuted labels"
    for k, site in sites.items():
        assert measured().validation[site][k] == max(measured().validation[s][k] for s in (BEFORE, AFTER))
    assert sites[0] == AFTER
    table = scores.table(measured())
    rows = table[table.probe == "network"].set_index(["variable", "by"])
    row = rows.loc[("stack.1.value", "all")]
    assert row.score > 0.9
    assert row.beyond_low > 0.2
    assert row.probe_class == "network"
    assert row.best_control in ("input, nonlinear", "untrained")
    assert row.untrained < 0.8
    assert ("stack.0.value", "role") in rows.index
    assert (table[table.probe == "network"].claimed == "").all()


def test_roles_are_rows_of_their_own() -> None:
    table = scores.table(measured())
    rows = table[(table.variable == "stack.0.value") & (table.probe == "discriminant") & (table.site == AFTER)]
    assert rows[["by", "group"]].apply(tuple, axis=1).tolist() == [("role", "arose"), ("all", "all")]
    arose, everywhere = rows.itertuples()
    assert arose.tokens < everywhere.tokens
    assert np.isfinite(arose.validation)


def test_every_control_has_a_learning_curve() -> None:
    """Of half of the training programs: baselines, the untrained model at every site, the embedding, networks."""
    tested = measured().tested
    expected = {*scores.CONTROLS[:5], (TRAINED, BEFORE), (UNTRAINED, BEFORE), (UNTRAINED, AFTER), networks.HALF}
    assert set(tested.halves) == expected
    for name, tally in tested.halves.items():
        assert tally.correct.shape[1] == 1
        whole = {**tested.baselines, **tested.tallies, networks.HALF: tested.networks[UNTRAINED]}[name]
        for k in (0, 1, 3):
            n = tested.counts.correct[k].sum()
            half, full = tally.correct[k].sum() / n, whole.of(tally.targets[k]).sum() / n
            assert 0 < half < full + 0.1, (name, k)


def test_half_of_the_programs_are_those_of_a_measurement_of_half() -> None:
    """The embedding's half probe is what a measurement gives whose training programs are the first half."""
    part = examples()
    train = np.flatnonzero(part.folds == 0)
    kept = np.setdiff1d(np.arange(len(part)), train[len(train) // 2 :])
    targets = [Target("depth"), Target("stack.0.value")]
    model = Model(CFG).eval()
    whole = measure(model, part, targets, [BEFORE])
    half = measure(model, part[kept], targets, [BEFORE])
    for k in range(2):
        a = whole.tested.halves[TRAINED, BEFORE].correct[k].sum()
        b = half.tested.tallies[TRAINED, BEFORE].correct[k].sum()
        assert a == pytest.approx(b, rel=0.02)
    assert HALVES == ("first half", "second half")


def test_a_users_probe_has_learning_curves_and_no_networks() -> None:
    targets = [Target("depth")]
    untrained = untrained_twin(Model(CFG), 3)
    measurement = measure(Planted(), examples()[:200], targets, [BEFORE, AFTER], untrained=untrained, probe=Ridge())
    halves = measurement.tested.halves
    assert {(TRAINED, BEFORE), (UNTRAINED, BEFORE), (UNTRAINED, AFTER)} <= set(halves)
    assert measurement.tested.networks == {}
    row = scores.table(measurement).iloc[0]
    assert row.probe_class == "any"
    assert np.isfinite(row.rise)
    with pytest.raises(ValueError, match="nonlinear=True adds networks to our own probes"):
        measure(Planted(), examples()[:200], targets, [BEFORE], probe=Ridge(), nonlinear=True)


def test_activations_that_are_not_finite_are_left_out() -> None:
    model = Planted()
    with torch.no_grad():
        model.embed.W_E[5] = torch.nan
    measurement = measure(model, examples(), [Target("depth")], [BEFORE], nonlinear=True)
    n = measurement.tested.counts.n_predicted[0]
    assert 0 < measurement.tested.networks[TRAINED].n_predicted[0] < n
    assert Breakdown.none((1, 1)).groups == measurement.tested.groups
