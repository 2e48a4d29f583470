"""The statements of the page about a model: those of its parts."""

from __future__ import annotations

from collections.abc import Iterator

from analyses.reporting import behaviour
from analyses.studies.interventions import summary as interventions
from analyses.studies.model_report import overview
from analyses.studies.model_report.study import ModelReportResults
from analyses.studies.paper import summary as paper
from analyses.studies.state import summary as state


def summary(results: ModelReportResults) -> tuple[str, ...]:
    """What the model completes, which variables are read in it, and which it uses, as far as it has been measured."""
    return tuple(_statements(results))


def _statements(results: ModelReportResults) -> Iterator[str]:
    if results.accuracies is not None:
        yield behaviour.completion_sentence(results.accuracies)
    if results.paper is not None:
        yield from paper.of_figures(results.paper)
    if results.state is not None:
        yield from state.summary(results.state)
    if results.interventions is not None:
        yield from interventions.summary(results.interventions)
    yield from overview.statements(results)
