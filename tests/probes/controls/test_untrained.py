"""The untrained twin has the weights that training began with."""

from __future__ import annotations

import torch

from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from probes.controls.untrained import untrained_twin


def test_untrained_twin_is_the_model_before_training() -> None:
    model = Model(ModelConfig(n_layers=1, d_model=16, n_heads=1, d_head=16, d_mlp=32, n_ctx=8), seed=4)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1  # as training does
    untrained = untrained_twin(model, seed=4)
    assert untrained.cfg == model.cfg
    assert not untrained.training
    for name, parameter in untrained.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert not torch.equal(untrained_twin(model, seed=5).embed.W_E, before["embed.W_E"])
    assert torch.equal(model.embed.W_E, before["embed.W_E"] + 1), "the model itself was reset"
