"""Everything about a trained model on one page, composed of the pages of other studies and opened by its finding."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from analyses.reporting import behaviour, report
from analyses.studies.interventions import page as interventions
from analyses.studies.model_report import overview, study
from analyses.studies.model_report.study import PARTS, ModelReportConfig, ModelReportResults
from analyses.studies.model_report.summary import summary
from analyses.studies.paper import page as paper
from analyses.studies.state import page as state
from cadmus.runtime import artifacts
from cadmus.runtime.progress import Progress, no_progress
from cadmus.training import checkpoint

STORED = "parts"  # the folder beside the page in which finished parts are kept


def make(config: ModelReportConfig, out: Path | str, progress: Progress = no_progress) -> Path:
    """Measure and write the page, its figures and tables to `out`; returns the page's path.

    The page is written anew after every part, and names the parts that are still to come. Finished parts of the same
    fingerprints in `out` are read.
    """
    drawn = _Sections()
    page = Path(out) / "index.html"
    for results in study.steps(config, progress, Path(out) / STORED):
        page = report.write(_report(results, drawn.of(results)), out)
    return page


@dataclass
class _Sections:
    """The sections of each finished part, drawn once."""

    finished: dict[str, tuple[report.Section, ...]] = field(default_factory=dict)
    """By the name of the part."""

    def of(self, results: ModelReportResults) -> tuple[report.Section, ...]:
        """All sections in the order of the page; those of new parts are drawn."""
        for name, part in _parts(results).items():
            if name not in self.finished:
                self.finished[name] = tuple(map(report.drawn, part))
        return tuple(section for name in _parts(results) for section in self.finished[name])


def _report(results: ModelReportResults, parts: tuple[report.Section, ...]) -> report.Report:
    return report.Report(
        title=_title(results),
        summary=summary(results),
        sections=parts,
        about=provenance(results),
        finding=overview.finding(results),
        overview=overview.picture(results),
        cards=overview.cards(results),
        coming=tuple(PARTS[part] for part in results.coming),
    )


def sections(results: ModelReportResults) -> tuple[report.Section, ...]:
    """What the model completes and the paper's figures, its state, what it uses, and how it was trained."""
    return tuple(section for part in _parts(results).values() for section in part)


def _parts(results: ModelReportResults) -> dict[str, tuple[report.Section, ...]]:
    """The sections of the parts that have been measured, in the order of the page."""
    parts: dict[str, tuple[report.Section, ...]] = {}
    if results.accuracies is not None:
        parts["completion"] = (behaviour.completion_section(results.accuracies),)
    if results.state is not None:
        parts["state"] = state.sections(results.state)
    if results.interventions is not None:
        parts["interventions"] = interventions.sections(results.interventions)
    if results.paper is not None:
        parts["paper"] = paper.figure_sections(results.paper)
    parts["training"] = behaviour.training_sections(results.trained)
    return parts


def provenance(results: ModelReportResults) -> dict[str, str]:
    """How the tables were made, and of which model."""
    return {
        "command": _command(results.config),
        **({} if results.paper is None else paper.provenance(results.paper)),
        **({} if results.state is None else state.provenance(results.state)),
        **_interventions(results),
        **_model(results.trained),
    }


def _interventions(results: ModelReportResults) -> dict[str, str]:
    if results.interventions is None:
        return {}
    own = interventions.provenance(results.interventions)
    return {f"interventions, {name}": own[name] for name in ("command", "pairs")}


def _title(results: ModelReportResults) -> str:
    size = f"{behaviour.n_parameters(results.trained) / 1e6:.1f} M parameters"
    return f"{results.config.name} ({size}): what it completes, holds and uses"


def _command(config: ModelReportConfig) -> str:
    """The command that makes the page again; options at their defaults are omitted."""
    words = ["cadmus-probe report", config.run]
    default = ModelReportConfig(**(study.QUICK if config.quick else {}))
    words += ["--quick"] if config.quick else []
    for name in ("programs", "eval_programs", "reach", "cell_programs", "number_programs", "pairs"):
        always = name in ("programs", "eval_programs") and not config.quick
        if always or getattr(config, name) != getattr(default, name):
            words.append(f"--{name.replace('_', '-')} {getattr(config, name)}")
    words += [f"--part {part}" for part in config.parts] if config.parts != default.parts else []
    return " ".join([*words, f"--seed {config.seed}"])


def _model(trained: checkpoint.Checkpoint) -> dict[str, str]:
    """The model's architecture and mixture, and the versions it was measured with."""
    cfg, mixture = trained.model.cfg, trained.mixture
    record = artifacts.provenance()
    shares = zip(mixture.families, mixture.shares, strict=True)
    return {
        "model": trained.fingerprint,
        "architecture": f"{cfg.n_layers} layers, width {cfg.d_model}, {cfg.n_heads} heads, MLP {cfg.d_mlp}",
        "families": ", ".join(f"{family.name} {share:.0%}" for family, share in shares),
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        "git": record["git"] or "not a checkout",
    }
