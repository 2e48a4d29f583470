"""Attribution patching: what patching each component would do, estimated for all of them at once from gradients.

Where a component's activation is x in the base and y in the source, patching it moves the metric by about
(y - x) . d metric / d x (Nanda 2023, "Attribution patching"; Syed, Rager & Conmy 2023, arXiv 2310.10348). With
integrated gradients (Hanna, Pezzelle & Belinkov 2024, arXiv 2403.17806, EAP-IG) the gradient is its mean along a way
from base to source. Edges are in `edges`, how near all this comes to patching itself in `relevance`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cadmus.runtime.progress import Progress, no_progress
from probes.interventions.attribution.contrasts import Contrast, RowMetric, as_roles, check_aligned, tokens_of
from probes.interventions.attribution.gradients import (
    Logits,
    check_method,
    gradients,
    mean_gradients,
    metric_of,
    midpoints,
    towards,
)
from probes.interventions.attribution.scores import Scores
from probes.interventions.editing import engine
from probes.interventions.editing.locations import INPUT_SITE
from probes.interventions.editing.patching import OF_HEADS, Roles, components_of, layers_of, site_of

_ROWS = 64  # that are run at once
_STAGE = "attribution"  # of the progress


def attribute(
    model: Any,
    contrast: Contrast,
    components: str | Sequence[str] = ("z", "mlp_out", "resid_post"),
    positions: str | Roles = "each",
    metric: str | RowMetric = "logit_difference",
    *,
    method: str = "gradient",
    steps: int = 8,
    layers: Sequence[int] | None = None,
    progress: Progress = no_progress,
) -> Scores:
    """Attribution of components: for the cells of `patching.patch_grid`, in its order, what it would find.

    Args:
        model: of any backend.
        contrast: base, source and what is asked.
        components: of `patching.COMPONENTS`; those of heads are attributed head by head.
        positions: "each", "all" (their sum), "roles" (those of the contrast), or roles by name.
        metric: of `contrasts.METRICS`, or logits [rows, d_vocab] -> [rows], differentiable.
        method: "gradient": at the base. "inputs": its mean while the stream before the first block moves from base to
            source, one way for all components (EAP-IG); complete there: the scores of `resid_pre` of layer 0 sum to the
            metric's difference between source and base. "activations": its mean while the component itself moves,
            all heads and all positions of a layer (or those of a role) together, a way of its own for each layer
            and component (MIB's EAP-IG-activations); complete everywhere: the scores of a site sum to what patching the
            whole site does. Both are complete as steps grow.
        steps: gradients of a mean; "activations" takes as many for every layer and component (and role).
        layers: None is all of them.
        progress: follows the stage "attribution".

    Raises:
        ValueError: an unknown name, no component, layer or role, base and source of other lengths where positions are
            not roles or the inputs are moved, and what `engine.activations` and the backends refuse.
    """
    names = components_of(components)
    check_method(method)
    blocks = layers_of(model, layers)
    sites = [site_of(model, name, layer) for name in names for layer in blocks]
    roles = as_roles(contrast, positions, "each", "all")
    if not roles or method == "inputs":
        check_aligned(contrast, roles)
    places = list(roles) or place_names(contrast, positions)
    heads = [model.cfg.n_heads if name in OF_HEADS else 1 for name in names for _ in blocks]
    values = [np.full((count, len(places), len(contrast)), np.nan) for count in heads]
    of_metric = metric_of(model, contrast, metric)
    for begin in range(0, len(contrast), _ROWS):
        progress(_STAGE, begin / len(contrast), f"{begin:,} of {len(contrast):,} rows")
        rows = slice(begin, begin + _ROWS)
        part = _Part(model, contrast, rows, sites, of_metric, method, steps)
        for site, out in zip(sites, values, strict=True):
            if not roles:
                score = part.scores(site)  # [head, pos, rows]
                out[:, :, rows] = score[:, : len(places)] if positions == "each" else score.sum(1, keepdims=True)
                continue
            for number, (here, there) in enumerate(roles.values()):
                score = part.scores(site, (here[rows], there[rows])).sum(1)
                out[:, number, rows] = np.where((here[rows] >= 0).any(1), score, np.nan)
    progress(_STAGE, 1.0, "")
    cells = [
        {"component": name, "layer": layer, "head": head if name in OF_HEADS else -1, "position": place}
        for name in names
        for layer in blocks
        for head in range(model.cfg.n_heads if name in OF_HEADS else 1)
        for place in places
    ]
    flat = np.concatenate([out.reshape(-1, len(contrast)) for out in values])
    return Scores(pd.DataFrame(cells), flat, contrast.clusters, method)


class _Part:
    """Some rows: their activations in base and source, and gradients."""

    def __init__(
        self,
        model: Any,
        contrast: Contrast,
        rows: slice,
        sites: Sequence[str],
        metric: Logits,
        method: str,
        steps: int,
    ) -> None:
        self.model, self.method, self.steps = model, method, steps
        self.tokens, self.at = tokens_of(model, contrast, rows)
        self.measure = lambda logits: metric(logits, rows)
        distinct = list(dict.fromkeys([*sites, INPUT_SITE]))
        self.base = engine.activations(model, contrast.base[rows], distinct)
        self.source = engine.activations(model, contrast.source[rows], distinct)
        self.gradients: dict[str, Tensor] = {}
        if method != "activations":
            wanted_sites = list(dict.fromkeys(sites))
            way = self.source[INPUT_SITE] if method == "inputs" else None
            self.gradients = mean_gradients(model, self.tokens, self.at, wanted_sites, self.measure, way, steps)

    def scores(self, site: str, role: tuple[np.ndarray, np.ndarray] | None = None) -> np.ndarray:
        """What moving a site to the source's, everywhere or at a role, adds: float64 [head, pos, rows]."""
        base, source = self.base[site], self.source[site]
        target = source if role is None else self._placed(site, role)
        if self.method == "activations":
            gradient = torch.zeros_like(base)
            for share in midpoints(self.steps):
                way = {site: towards(target, share)}
                gradient += gradients(self.model, self.tokens, self.at, [site], self.measure, way)[site] / self.steps
        else:
            gradient = self.gradients[site]
        score = ((target - base) * gradient).double().sum(-1)  # [rows, pos], or with heads behind (before: patterns)
        if site.endswith("hook_pattern"):
            score = score.transpose(1, 2)
        score = score.unsqueeze(-1) if score.ndim == 2 else score  # [rows, pos, head]
        return score.permute(2, 1, 0).cpu().numpy()

    def _placed(self, site: str, role: tuple[np.ndarray, np.ndarray]) -> Tensor:
        """The base's activations with the source's at the positions of a role."""
        axis = 2 if site.endswith("hook_pattern") else 1
        base, source = (x[site].transpose(1, axis) for x in (self.base, self.source))  # [rows, pos, ...]
        row, column = np.nonzero(role[0] >= 0)
        here, there = (torch.from_numpy(positions[row, column]).to(base.device) for positions in role)
        index = torch.from_numpy(row).to(base.device)
        out = base.clone()
        out[index, here] = source[index, there]
        return out.transpose(1, axis)


def place_names(contrast: Contrast, positions: str | Roles) -> list[Any]:
    """What is in the column `position` where positions are "each" or "all"."""
    return list(range(int(contrast.at.max(initial=-1)) + 1)) if positions == "each" else ["all"]
