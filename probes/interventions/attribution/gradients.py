"""Gradients of a metric by activations at sites of a model of any backend, in passes in which some are replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cadmus.machine.tokens import text_list
from cadmus.models import backends
from cadmus.models.hooks import Hook, HookFn, never_writes
from cadmus.runtime.tables import did_you_mean
from probes.interventions.attribution.contrasts import Contrast, RowMetric, evaluate
from probes.interventions.editing import engine
from probes.interventions.editing.locations import INPUT_SITE

METHODS = ("gradient", "inputs", "activations")
Replacement = Callable[[Tensor], Tensor]
"""An activation [rows, pos, ...] -> what stands in its place."""


class Logits:
    """A metric over some of its rows: what it makes of their logits where those of the others are the base's.

    Metrics are functions of all rows' logits; passes are of a few.
    """

    def __init__(self, metric: RowMetric, base: Tensor) -> None:
        """base: the unedited model's logits [rows, d_vocab] of all rows."""
        self.metric = metric
        self.base = base

    def __call__(self, logits: Tensor, rows: slice) -> Tensor:
        """logits [some, d_vocab] of these rows -> the metric of each, [some]."""
        every = self.base.to(logits.dtype).clone()
        every[rows] = logits
        return evaluate(self.metric, every)[rows]


def metric_of(model: Any, contrast: Contrast, metric: str | RowMetric) -> Logits:
    """The metric as a function of some rows' logits."""
    base = engine.logits(model, contrast.base, [[]], contrast.at)[0]
    return Logits(contrast.metric(metric), base)


def check_method(method: str, methods: Sequence[str] = METHODS) -> None:
    """Raise ValueError for a method that is none of these."""
    if method not in methods:
        raise ValueError(f"method {method!r} is none of {', '.join(methods)}{did_you_mean(method, methods)}")


def gradients(
    model: Any,
    tokens: Tensor,
    at: Tensor,
    sites: Sequence[str],
    measure: Callable[[Tensor], Tensor],
    replacements: Mapping[str, Replacement] | None = None,
) -> dict[str, Tensor]:
    """The gradient of each row's metric by the activations at sites: {site: [rows, pos, ...]}.

    Args:
        model: of any backend that edits at these sites. Its parameters' own gradients are left alone.
        tokens: int64 [rows, pos] on the model's device.
        at: int64 [rows]: the positions of whose logits [rows, d_vocab] the metric is.
        sites: each by itself: where several show one activation (the inputs of queries, keys and values), the gradient
            at one is by way of that one alone.
        measure: logits [rows, d_vocab] -> [rows].
        replacements: what is put in place of activations, by site; gradients at a site are by what is put in.
    """
    sites = text_list(sites, "sites")
    taken: dict[str, Tensor] = {}
    changes = dict(replacements or {})
    changes.setdefault(INPUT_SITE, lambda x: x)

    def hook_of(site: str) -> HookFn:
        @never_writes
        def take(x: Tensor, hook: Hook) -> Tensor:
            y = changes[site](x) if site in changes else x
            y = y.detach().requires_grad_() if site == INPUT_SITE else y.view_as(y)  # a node of its own
            taken[site] = y
            return y

        return take

    hooked = dict.fromkeys([*changes, *sites])
    with torch.enable_grad(), backends.hooks(model, [(site, hook_of(site)) for site in hooked]):
        logits = model(tokens)[torch.arange(len(tokens), device=tokens.device), at]
        total = measure(logits).sum()
    of_sites = torch.autograd.grad(total, [taken[site] for site in sites], allow_unused=True)
    return {
        site: torch.zeros_like(taken[site]) if gradient is None else gradient
        for site, gradient in zip(sites, of_sites, strict=True)
    }


def mean_gradients(
    model: Any,
    tokens: Tensor,
    at: Tensor,
    sites: Sequence[str],
    measure: Any,
    way: Tensor | None,
    steps: int,
) -> dict[str, Tensor]:
    """`gradients` at the base, or their mean while the stream before the first block moves to `way` [rows, pos, d]."""
    sites = text_list(sites, "sites")
    if way is None:
        return gradients(model, tokens, at, sites, measure)
    total: dict[str, Tensor] = {}
    for share in midpoints(steps):
        for site, gradient in gradients(model, tokens, at, sites, measure, {INPUT_SITE: towards(way, share)}).items():
            total[site] = total[site] + gradient / steps if site in total else gradient / steps
    return total


def towards(source: Tensor, share: float) -> Replacement:
    """Move an activation by a share of the way to the source's, [rows, pos, ...]."""
    return lambda x: x + share * (source.to(x.dtype) - x)


def midpoints(steps: int) -> list[float]:
    """Where the integrand is evaluated: the middles of `steps` equal stretches of 0 ... 1 (the error falls as their
    square). Raises ValueError for less than one."""
    if steps < 1:
        raise ValueError(f"{steps} steps; integrated gradients take 1 or more")
    return [(step + 0.5) / steps for step in range(steps)]
