"""Everything about a trained model on one page: what it completes, the paper's figures, and its state."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from analyses.reporting import behaviour, report
from analyses.studies.paper import page as paper_page
from analyses.studies.state import page as state_page
from analyses.studies.state import study as state
from analyses.studies.state import summary as state_summary
from cadmus import DEFAULT_MODEL
from cadmus.runtime import artifacts
from cadmus.runtime.devices import resolve_device
from cadmus.runtime.progress import Progress
from cadmus.training import checkpoint
from cadmus.training.completion import evaluate


@dataclass(frozen=True)
class ModelReportConfig:
    """Which model, and how much is measured."""

    run: str = DEFAULT_MODEL  # a model that ships, or a folder that `cadmus-probe train` wrote
    programs: int = 20_000  # probed
    eval_programs: int = 500  # completed, per family and split
    cell_programs: int = 5  # of each X and Y
    number_programs: int = 4000  # of the paper's Figure 2
    seed: int = 0  # of the programs drawn for measuring
    device: str = "auto"


def run(config: ModelReportConfig, out: Path | str, stage: Progress = lambda name, share, note: None) -> Path:
    """Measure and write the page to `out`; returns its path. The paper's figures are of compare programs: a model of a
    mixture without them has none."""
    trained = checkpoint.load(config.run)
    if "compare" in (family.name for family in trained.mixture.families):
        asked = paper_page.PaperConfig(
            config.run,
            config.eval_programs,
            programs=config.cell_programs,
            number_programs=config.number_programs,
            seed=config.seed,
            device=config.device,
        )
        found = paper_page.measure(asked, stage)
        measured, said, about = paper_page.sections(found), paper_page.summary(found), paper_page.about(found)
    else:
        accuracies = _completed(trained, config, stage)
        measured, said, about = (
            (behaviour.completion_section(accuracies),),
            (behaviour.completion_sentence(accuracies),),
            {},
        )
    asked = state.StateConfig(config.run, config.programs, seed=config.seed, device=config.device)
    held = state.run(asked, stage)
    sections = (*measured, *state_page.sections(held), behaviour.training_section(trained))
    about = {"command": _command(config), **about, **state_page.about(held), **_made(trained)}
    said += state_summary.statements(held)
    return report.write(report.Report(_title(trained, config), said, sections, about), out)


def _completed(trained: checkpoint.Checkpoint, config: ModelReportConfig, stage: Progress) -> pd.DataFrame:
    rows = evaluate(
        trained.model.to(resolve_device(config.device)),
        trained.mixture,
        programs=config.eval_programs,
        seed=config.seed,
        progress=partial(stage, "complete programs"),
    )
    return pd.DataFrame([row.to_dict() for row in rows]).assign(run=trained.fingerprint)


def _title(trained: checkpoint.Checkpoint, config: ModelReportConfig) -> str:
    size = f"{trained.record['parameters'] / 1e6:.1f} M parameters"
    return f"{Path(config.run).name} ({size}): what it does, and what it knows of the machine's state"


def _command(config: ModelReportConfig) -> str:
    return (
        f"cadmus-probe report {config.run} --programs {config.programs} --eval-programs {config.eval_programs} "
        f"--seed {config.seed}"
    )


def _made(trained: checkpoint.Checkpoint) -> dict[str, str]:
    cfg, mixture, made = trained.model.cfg, trained.mixture, artifacts.provenance()
    shares = zip(mixture.families, mixture.shares, strict=True)
    return {
        "architecture": f"{cfg.n_layers} layers, width {cfg.d_model}, {cfg.n_heads} heads, MLP {cfg.d_mlp}",
        "families": ", ".join(f"{family.name} {share:.0%}" for family, share in shares),
        "versions": ", ".join(f"{name} {version}" for name, version in made["versions"].items()),
        "git": made["git"] or "not a checkout",
    }
