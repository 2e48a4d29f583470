"""A model that holds one state variable by construction, and what is measured of it: found there, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cadmus.machine import kernel
from cadmus.models.model import Model, ModelConfig
from cadmus.programs import mixture
from cadmus.states import variables
from probes.controls.untrained import untrained_twin
from probes.data.activations import residual_sites
from probes.data.examples import Examples, Labelled, Target, draw
from probes.measurement.measure import Measurement, measure
from probes.measurement.tally import Breakdown, token_classes

CFG = ModelConfig(n_layers=1, d_model=32, n_heads=1, d_mlp=64, n_ctx=32)
BEFORE, AFTER = "blocks.0.hook_resid_pre", "blocks.0.hook_resid_post"
VARIABLES = ("stack.0.value", "stack.1.value", "depth", "reg.a.live", "stack.0.kind")
PRESENT = tuple(map(Target, VARIABLES))
TARGETS = (
    *PRESENT,
    Target("stack.0.value", as_number=True),
    Target("depth", 1),
    *(Target(variable, permuted=True) for variable in VARIABLES),
)


class Planted(Model):
    """A model whose block writes the variable into the residual stream: a direction per value, over small noise."""

    def __init__(self, variable: str = "stack.1.value", cfg: ModelConfig = CFG):
        super().__init__(cfg, seed=0)
        self.variable = variable
        codes = torch.randn(199, cfg.d_model, generator=torch.Generator().manual_seed(1))
        self.register_buffer("codes", codes, persistent=False)
        self.eval()

    def run_with_hooks(self, tokens: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        states = variables.read(kernel.traces(tokens[:, 1:].numpy().astype(np.uint8)), self.variable)
        known = states.defined & (abs(states.values) <= 99)
        written = torch.from_numpy(known)[..., None] * self.codes[np.where(known, states.values, 0) + 99]

        def plant(tensor: Tensor, hook: object) -> Tensor:
            return tensor + written

        with self.hooks([(AFTER, plant)]):
            return super().run_with_hooks(tokens, *args, **kwargs)


@cache
def examples(n: int = 500) -> Examples:
    drawn = draw(mixture.load("first"), n)
    return drawn[drawn.where[:, CFG.n_ctx :].sum(1) == 0]


def grouped(part: Examples, read: Labelled) -> Breakdown:
    family = np.broadcast_to(part.family[:, None].astype(int), part.where.shape)
    live = variables.read(kernel.traces(part.programs), "reg.a.live").values
    reg = {"reg.a.live": (1 - live, ("live", "dead"))}
    return Breakdown.of(token_class=token_classes(part.sequences), family=(family, part.families), **reg)


@cache
def measured() -> Measurement:
    """Of the planted model, beside its untrained twin."""
    model = Planted()
    return measure(
        model,
        examples(),
        TARGETS,
        residual_sites(model),
        twin=untrained_twin(Model(CFG), 3),
        detailed=range(len(PRESENT)),
        breakdowns=grouped,
    )


def a_variable(values: Callable[[kernel.Traces], np.ndarray], defined: Any = True) -> variables.Variable:
    """One of a user's own: values where `defined`, a column or an array of them."""

    def variable(traces: kernel.Traces) -> tuple[np.ndarray, np.ndarray]:
        shape = traces.depth.shape
        found = defined(traces) if callable(defined) else defined
        return np.broadcast_to(values(traces), shape).astype(np.int64), np.broadcast_to(found, shape).copy()

    return variable
