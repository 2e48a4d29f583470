"""A model that holds one state variable by construction, and what is measured of it: found there, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cadmus.machine import kernel
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from cadmus.programs import mixture
from cadmus.states import variables
from probes.controls.untrained import untrained_twin
from probes.data.activations import residual_sites
from probes.data.examples import Examples, Labelled, draw
from probes.data.targets import Target
from probes.measurement.measure import Measurement, measure
from probes.measurement.tally import Breakdown, Grouping, token_classes

CFG = ModelConfig(n_layers=1, d_model=32, n_heads=1, d_mlp=64, n_ctx=32)
BEFORE, AFTER = "blocks.0.hook_resid_pre", "blocks.0.hook_resid_post"
VARIABLES = ("stack.0.value", "stack.1.value", "depth", "reg.a.live", "stack.0.kind")
PRESENT = tuple(map(Target, VARIABLES))
TARGETS = (
    *PRESENT,
    Target("stack.0.value", regression=True),
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
        mask = states.defined & (abs(states.values) <= 99)
        written = torch.from_numpy(mask)[..., None] * self.codes[np.where(mask, states.values, 0) + 99]

        def plant(tensor: Tensor, hook: object) -> Tensor:
            return tensor + written

        with self.hooks([(AFTER, plant)]):
            return super().run_with_hooks(tokens, *args, **kwargs)


@cache
def examples(n: int = 500) -> Examples:
    """Programs that fit into the context of the models here."""
    examples = draw(mixture.load("first"), n)
    return examples[examples.where[:, CFG.n_ctx :].sum(1) == 0]


def breakdown(part: Examples, labels: Labelled) -> Breakdown:
    family = np.broadcast_to(part.family[:, None].astype(int), part.where.shape)
    live = variables.read(labels.traces, "reg.a.live").values
    return Breakdown.of(
        token_classes(part.sequences),
        Grouping("family", family, part.families),
        Grouping("live", 1 - live, ("live", "dead"), register="a"),
    )


@cache
def measured() -> Measurement:
    """What is measured of the planted model, beside its untrained twin."""
    model = Planted()
    return measure(
        model,
        examples(),
        TARGETS,
        residual_sites(model),
        untrained=untrained_twin(Model(CFG), 3),
        broken_down=PRESENT,
        breakdowns=breakdown,
    )


def a_variable(values: Callable[[kernel.Traces], np.ndarray], defined: Any = True) -> variables.Variable:
    """A variable of a user's own: values where `defined`, which is an array, or a function of the traces."""

    def variable(traces: kernel.Traces) -> tuple[np.ndarray, np.ndarray]:
        shape = traces.depth.shape
        mask = defined(traces) if callable(defined) else defined
        return np.broadcast_to(values(traces), shape).astype(np.int64), np.broadcast_to(mask, shape).copy()

    return variable
