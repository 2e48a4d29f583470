"""The first sentences of the page about a model: those of its parts."""

from __future__ import annotations

from analyses.reporting import behaviour
from analyses.studies.model_report.study import ModelReportResults
from analyses.studies.paper import summary as paper
from analyses.studies.state import summary as state


def summary(results: ModelReportResults) -> tuple[str, ...]:
    """What the model completes, and which variables are read in it."""
    if results.paper is None:
        sentences: tuple[str, ...] = (behaviour.completion_sentence(results.accuracies),)
    else:
        sentences = paper.summary(results.paper)
    return sentences + state.summary(results.state)
