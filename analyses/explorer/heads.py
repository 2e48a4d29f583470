"""What each head attends along, of the data flow of many programs: the roles that the page names."""

from __future__ import annotations

from typing import Any

import numpy as np

from cadmus.machine import tokens
from cadmus.models.model import Model
from cadmus.programs.mixture import Mixture
from cadmus.runtime.progress import Progress, no_progress
from probes.data.examples import draw
from probes.interventions.attention.flow import attention_flow

PROGRAMS = 400
MAX_ROLES = 2  # of a head that are told, the strongest


def along_data_flow(
    model: Model, mixture: Mixture, *, programs: int = PROGRAMS, seed: int = 0, progress: Progress = no_progress
) -> list[dict[str, Any]]:
    """The heads that attend along a kind of data flow beyond what tokens and distances predict: `layer`, `head`,
    `kind`, `mass`, `baseline`, the strongest first (`probes.interventions.attention.flow`, without a twin)."""
    drawn = draw(mixture, programs, seed).programs
    longest = int(tokens.lengths(drawn).max())
    prompts = np.where(np.arange(longest) < tokens.lengths(drawn)[:, None], drawn[:, :longest], tokens.PAD)
    table = attention_flow(model, prompts.astype(np.uint8), seed=seed, progress=progress)
    if "attends" not in table:
        return []
    table = table[table["attends"].fillna(False).astype(bool)].assign(
        beyond=lambda rows: rows["mass"] - rows["baseline"]
    )
    table = table.sort_values("beyond", ascending=False, kind="stable").groupby(["layer", "head"]).head(MAX_ROLES)
    return [
        {
            "layer": int(row.layer),
            "head": int(row.head),
            "kind": str(row.kind),
            "mass": round(float(row.mass), 3),
            "baseline": round(float(row.baseline), 3),
        }
        for row in table.itertuples()
    ]
