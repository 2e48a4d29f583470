"""Planted models: they complete what the machine asks for, and the truth about them is what plain edits of their
residual stream say."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from analyses.studies.calibration import circuits, planted
from analyses.studies.calibration.planted import FRAGMENTS, Planted, combinations, plant
from cadmus.machine import tokens, vm
from cadmus.models import backends
from cadmus.runtime.seeds import generator

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
pytest.importorskip("transformer_lens")
if not hasattr(__import__("transformer_lens"), "HookedTransformer"):
    pytest.skip("this transformer-lens has no HookedTransformer", allow_module_level=True)


@cache
def made(fragment: str, condition: str, seed: int = 0) -> Planted:
    return plant(fragment, condition, seed)


def logits(model: Planted, programs: np.ndarray, hooks: list | None = None) -> np.ndarray:
    """The answer's logits, by TransformerLens's own hooks."""
    sequences = torch.from_numpy(tokens.sequences(programs)).long()
    return model.model.run_with_hooks(sequences, fwd_hooks=hooks or [])[:, model.length].numpy()


def drawn(model: Planted, n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(base, source), uint8 [n, length], of which the answers differ where X alone does."""
    rng = generator("test", seed)
    base, source = model.draw(20 * n, rng), model.draw(20 * n, rng)
    edited = base.copy()
    edited[:, model.slot] = source[:, model.slot]
    differ = model.answers(model.programs(base)) != model.answers(model.programs(edited))
    return base[differ][:n], source[differ][:n]


@pytest.mark.parametrize(("fragment", "condition"), combinations())
def test_a_planted_model_completes_as_the_machine_asks(fragment, condition):
    model = made(fragment, condition)
    assert backends.backend(model.model) == "hooked_transformer"
    assert model.accuracy() >= planted.MIN_ACCURACY
    programs = model.programs(model.draw(5, generator("test", 1)))
    for text, answer in zip(tokens.decode(programs), model.answers(programs), strict=True):
        token = vm.VOCAB[answer]
        state = vm.run(text)
        if fragment == "compare":
            assert vm.run(f"{text}{token}.").is_true
            assert not any(vm.run(f"{text}{other}.").is_true for other in "<=>" if other != token)
        else:
            assert str(state.outputs[-1].v) == token


@pytest.mark.parametrize(("fragment", "condition"), combinations())
def test_the_truth_is_what_plain_hooks_say(fragment, condition):
    model = made(fragment, condition)
    base, source = drawn(model)
    edited = base.copy()
    edited[:, model.slot] = source[:, model.slot]
    source[:, [k for k in range(source.shape[1]) if k != model.slot]] = base[
        :, [k for k in range(base.shape[1]) if k != model.slot]
    ]  # minimal: what is not X stays, so that a cell which holds other digits too tells nothing of them
    wanted = model.answers(model.programs(edited))
    _, cache = model.model.run_with_cache(torch.from_numpy(tokens.sequences(model.programs(source))).long())
    for stream, position in model.cells:
        values = cache[model.site(stream)]

        def replace(x, hook, position=position, values=values):
            x = x.clone()
            x[:, position] = values[:, position]
            return x

        answers = logits(model, model.programs(base), [(model.site(stream), replace)]).argmax(1)
        moved = (answers == wanted).mean()
        if (stream, position) in model.carriers:
            assert moved > 0.9, (stream, position)
        else:
            assert moved < 0.1, (stream, position)


@pytest.mark.parametrize("seed", [0, 1])
def test_any_one_of_three_duplicates_suffices_and_none_alone_moves_the_answer(seed):
    model = made("lookup", "duplicated", seed)
    base, _ = drawn(model)
    programs = model.programs(base)
    _, cache = model.model.run_with_cache(torch.from_numpy(tokens.sequences(programs)).long())
    stream = min(stream for stream, _ in model.duplicates)
    positions = sorted(position for s, position in model.duplicates if s == stream)
    assert len(positions) == 3
    mean = cache[model.site(stream)].mean(0)

    def erased(places: list[int]) -> float:
        def erase(x, hook):
            x = x.clone()
            x[:, places] = mean[places]
            return x

        answers = logits(model, programs, [(model.site(stream), erase)]).argmax(1)
        return float((answers == model.answers(programs)).mean())

    for position in positions:
        assert erased([p for p in positions if p != position]) > 0.95, "one of them suffices"
    assert erased(positions) < 0.5


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_a_superposed_model_holds_more_features_along_directions_that_overlap(fragment):
    rng = np.random.default_rng(0)
    codes = circuits.sphere_codes(6, rng)
    assert np.allclose(np.linalg.norm(codes, axis=1), 1)
    products = codes @ codes.T - 2 * np.eye(10)
    assert products.max() < 0.6
    fitted = np.linalg.lstsq(codes, np.arange(10) - 4.5, rcond=None)[0]
    assert np.allclose(codes @ fitted, np.arange(10) - 4.5)
    basis = circuits.oblique_basis(30, rng)
    overlaps = abs(basis @ basis.T - np.eye(30))
    assert overlaps.max() > 0.3
    assert np.linalg.matrix_rank(basis) == 30
    rotation = circuits.orthogonal_basis(30, rng)
    assert np.allclose(rotation @ rotation.T, np.eye(30))
    assert made(fragment, "superposed").model.cfg.d_model < made(fragment, "rotated").model.cfg.d_model


def test_models_of_one_seed_are_the_same_and_of_another_are_not():
    first, again, other = plant("running", "decoys", 5), plant("running", "decoys", 5), plant("running", "decoys", 6)
    assert first.carriers == again.carriers
    assert torch.equal(first.model.W_E, again.model.W_E)
    assert not torch.equal(first.model.W_E, other.model.W_E[:, : first.model.cfg.d_model])
    assert first.decoys
    assert not first.decoys & first.carriers
    assert repr(first) == f"Planted(running, decoys, seed 5: {first.form})"


def test_what_is_not_made_is_an_error():
    with pytest.raises(ValueError, match="there is no running duplicated; there are lookup rotated, compare rotated"):
        plant("running", "duplicated", 0)
    with pytest.raises(
        ValueError, match=r"10 draws of Planted\(lookup.*\) are right in less than 0.99; lower the noise"
    ):
        plant("lookup", "rotated", 0, noise=3.0)
