"""What a measurement reads in which models: the plan that every pass over the programs follows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cadmus.machine import vm
from cadmus.runtime.progress import Progress
from probes.data.activations import Batch, token_rows
from probes.data.examples import Examples, Labelled, labelled
from probes.data.targets import Targets
from probes.data.token_map import TokenMap
from probes.solvers.bank import CLASSES

TRAINED, UNTRAINED = "trained", "untrained"  # the names of the models
HALVES = ("first half", "second half")  # of the training programs, whose order is random
EMBEDDING = "blocks.0.hook_resid_pre"
MAX_BANK_BYTES = 6e9  # of memory that banks take together


@dataclass(frozen=True)
class Plan:
    """What is to be read in which models."""

    models: Mapping[str, Any]
    """TRAINED, and perhaps UNTRAINED."""

    examples: Examples
    """The programs of all folds."""

    targets: Targets
    """All of them are read in the trained model; in the untrained one the machine's own only."""

    sites: tuple[str, ...]
    """Hook names."""

    machines: Mapping[str, vm.Semantics]
    """The semantics of the targets' machines, by name."""

    seed: int
    """Seed of the permutations."""

    progress: Progress
    """Is told how far each stage is."""

    token_map: TokenMap | None = None
    """What models that are not ours read."""

    def targets_of(self, model: str) -> np.ndarray:
        """The indices of the targets that are read in a model: int64 [targets of it]."""
        return np.arange(len(self.targets)) if model == TRAINED else self.targets.own

    @property
    def control_sites(self) -> list[tuple[str, str]]:
        """(model, site) of the activations that are controls: the untrained model's, and the embedding."""
        return [
            (model, site) for model in self.models for site in self.sites if model == UNTRAINED or site == EMBEDDING
        ]

    def labels(self, part: Examples) -> Labelled:
        """The labels of all targets in these programs."""
        return labelled(part, self.targets, self.machines, self.seed)

    def fold(self, name: str) -> Examples:
        """The programs of a fold, or of one of `HALVES`."""
        if name not in HALVES:
            return self.examples.fold(name)
        train = self.examples.fold("train")
        middle = len(train) // 2
        return train[:middle] if name == HALVES[0] else train[middle:]

    def parts(self, stage: str, *folds: str) -> Iterator[tuple[str, Examples, Labelled]]:
        """Yield (fold, examples, their labels) part by part, and report the progress of the stage; folds as `fold`
        names them."""
        parts = {fold: self.fold(fold) for fold in folds}
        done, total = 0, sum(map(len, parts.values()))
        for fold, examples in parts.items():
            for part in examples.chunks():
                yield fold, part, self.labels(part)
                done += len(part)
                self.progress(stage, done / total, "")

    def batches(self, part: Examples, *models: str) -> Iterator[dict[str, Batch]]:
        """Yield the same tokens of several models, batch by batch: {model: its batch}."""
        streams = [
            token_rows(self.models[model], part.programs, self.sites, where=part.where, token_map=self.token_map)
            for model in models
        ]
        for batches in zip(*streams, strict=True):
            yield dict(zip(models, batches, strict=True))


def site_groups(plan: Plan) -> list[tuple[str, ...]]:
    """The sites in groups whose banks, of both folds and all models, fit into `MAX_BANK_BYTES` together; a site that
    alone does not is a group of its own."""
    program = plan.examples.fold("train")[:1]
    (batch,) = token_rows(plan.models[TRAINED], program.programs, plan.sites, token_map=plan.token_map)
    masks = plan.labels(program).masks.shape[1]
    groups: list[tuple[str, ...]] = []
    size = 0.0
    for site in plan.sites:
        features = batch.activations[site].shape[1]
        bank = 8 * features * (masks * features + len(plan.targets) * CLASSES)
        banks = 2 * len(plan.models) * bank
        if not groups or size + banks > MAX_BANK_BYTES:
            groups.append(())
            size = 0.0
        groups[-1] += (site,)
        size += banks
    return groups
