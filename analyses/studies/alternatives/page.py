"""The page about alternative machines: which machines there are, and the selectivity gap to each by its distance."""

from __future__ import annotations

from pathlib import Path

from analyses.reporting import report
from analyses.studies.alternatives import figures, study
from analyses.studies.alternatives.study import AlternativesConfig, AlternativesResults
from analyses.studies.alternatives.summary import summary
from analyses.studies.state import gaps
from cadmus.runtime.progress import Progress, no_progress


def make(config: AlternativesConfig, out: Path | str, progress: Progress = no_progress) -> Path:
    """Measure and write the page, its figures and tables to `out`; returns the page's path."""
    results = study.run(config, progress)
    title = f"{Path(config.run).name}: the machine's states against other machines'"
    page = report.Report(title, summary(results), sections(results), provenance(results))
    return report.write(page, out)


def provenance(results: AlternativesResults) -> dict[str, str]:
    """How the tables were made."""
    config = results.config
    return {
        "command": f"cadmus-probe alternatives {config.run} --programs {config.programs} --machines {config.machines} "
        f"--seed {config.seed}",
        "model": results.trained.fingerprint,
    }


def sections(results: AlternativesResults) -> tuple[report.Section, ...]:
    """The gaps and the machines."""
    return _gaps(results), _machines(results)


def _gaps(results: AlternativesResults) -> report.Section:
    table = results.gaps_by_distance
    return report.Section(
        "gaps",
        "Selectivity gap by distance",
        (
            "The gap is the probe's selectivity for the machine's states minus its selectivity for an alternative "
            "machine's states. Selectivity is the score minus that on labels permuted within (token, previous token), "
            "at the site where the variable is read best on validation programs.",
        ),
        figure=figures.by_distance(table) if len(table) else None,
        caption="Blue: the machine's own states, with the 95 % interval over skeletons. Points: the probes retrained "
        "on each alternative machine's states. Machines that change less than 1 % of a variable's labels are left out.",
        alt=f"A panel for each of {table.variable.nunique()} variables: the selectivity for the machine's states as a "
        f"band, and points for {results.machines.name.nunique()} alternative machines by their distance; "
        f"{int((table.gap_low > 0).sum())} of {len(table)} points lie surely below the band.",
        table=results.gaps,
        display_table=gaps.display_table(table),
        columns=("variable", "machine", "distance", "selectivity", "of the alternative", "gap"),
    )


def _machines(results: AlternativesResults) -> report.Section:
    columns = ["name", "moved", "distance", "entropy_gap", "nan_share"]
    return report.Section(
        "machines",
        "The machines",
        (
            "Each machine gives some instructions the meanings of others of the same type. Its distance is the share "
            "of executed instructions whose meaning differs. The entropy of every label stays within 0.5 bits of the "
            "true machine's, and at most a tenth of the states have NAN on top where the true machine has none.",
        ),
        table=results.machines,
        display_table=results.machines[columns].round(3),
    )
