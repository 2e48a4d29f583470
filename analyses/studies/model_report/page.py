"""Everything about a trained model on one page, composed of the pages of other studies."""

from __future__ import annotations

from pathlib import Path

from analyses.reporting import behaviour, report
from analyses.studies.model_report import study
from analyses.studies.model_report.study import ModelReportConfig, ModelReportResults
from analyses.studies.model_report.summary import summary
from analyses.studies.paper import page as paper
from analyses.studies.state import page as state
from cadmus.runtime import artifacts
from cadmus.runtime.progress import Progress, no_progress
from cadmus.training import checkpoint


def make(config: ModelReportConfig, out: Path | str, progress: Progress = no_progress) -> Path:
    """Measure and write the page, its figures and tables to `out`; returns the page's path."""
    results = study.run(config, progress)
    page = report.Report(_title(results), summary(results), sections(results), provenance(results))
    return report.write(page, out)


def sections(results: ModelReportResults) -> tuple[report.Section, ...]:
    """What the model completes and the paper's figures, its state, and how it was trained."""
    if results.paper is None:
        first: tuple[report.Section, ...] = (behaviour.completion_section(results.accuracies),)
    else:
        first = paper.sections(results.paper)
    return (*first, *state.sections(results.state), behaviour.training_section(results.trained))


def provenance(results: ModelReportResults) -> dict[str, str]:
    """How the tables were made, and of which model."""
    return {
        "command": _command(results.config),
        **({} if results.paper is None else paper.provenance(results.paper)),
        **state.provenance(results.state),
        **_model(results.trained),
    }


def _title(results: ModelReportResults) -> str:
    size = f"{results.trained.record['parameters'] / 1e6:.1f} M parameters"
    return f"{Path(results.config.run).name} ({size}): what it does, and what it knows of the machine's state"


def _command(config: ModelReportConfig) -> str:
    return (
        f"cadmus-probe report {config.run} --programs {config.programs} --eval-programs {config.eval_programs} "
        f"--seed {config.seed}"
    )


def _model(trained: checkpoint.Checkpoint) -> dict[str, str]:
    """The model's architecture and mixture, and the versions it was measured with."""
    cfg, mixture = trained.model.cfg, trained.mixture
    record = artifacts.provenance()
    shares = zip(mixture.families, mixture.shares, strict=True)
    return {
        "architecture": f"{cfg.n_layers} layers, width {cfg.d_model}, {cfg.n_heads} heads, MLP {cfg.d_mlp}",
        "families": ", ".join(f"{family.name} {share:.0%}" for family, share in shares),
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        "git": record["git"] or "not a checkout",
    }
