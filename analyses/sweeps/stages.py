"""The stages of a run: corpus, model, evaluation, probing, interventions, each an artifact that is made once.

A stage's folder is `STAGE/FINGERPRINT` in the folder of the sweep; the fingerprint is of all that it is made of. A
stage that is there already is read. The corpus is dropped when nothing needs it any more.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from analyses.sweeps import state_responses
from analyses.sweeps.accuracies import Response, accuracies, check_demands, nothing, properties
from analyses.sweeps.cells import Run
from analyses.sweeps.planes import plane, plane_responses
from analyses.sweeps.sweep import ACCURACY, FIGURE1, INTERCHANGE, MECHANISM, REACHED, READ, Sweep, variable_and_role
from cadmus.corpora.build import build
from cadmus.corpora.corpus import Corpus
from cadmus.programs import mixture as mixtures
from cadmus.properties.splits import SET_NAME
from cadmus.runtime import artifacts
from cadmus.runtime.progress import Progress
from cadmus.training.recipe import train_recipe

STAGES = ("corpus", "model", "evaluation", "probing", "interventions")
_KIND = "sweep stage"
_RESULT = "result.json"
_VERSIONS = {"evaluation": 1, "probing": 2, "interventions": 2}  # of what a stage computes: another one is made anew


@dataclass
class Bench:
    """What the stages of one run work on."""

    sweep: Sweep
    """The sweep."""

    run: Run
    """The run."""

    folder: Path
    """The folder of the sweep."""

    device: str
    """Where the model is trained and measured: cpu, cuda, cuda:1."""

    progress: Progress
    """Follows the stages."""

    seconds: dict[str, float]
    """Wall-clock seconds by stage, of what was not there already; `run_stages` adds to them."""

    stage: str = ""
    """The stage that is at work; empty between two."""

    began: float = 0.0
    """When it began, by the performance counter."""

    def place(self, stage: str) -> Path:
        """The folder of a stage."""
        return self.folder / stage / self.fingerprint(stage)

    def fingerprint(self, stage: str) -> str:
        """The fingerprint of a stage: of the run's recipe and, behind the model, of what is measured."""
        if stage == "corpus":
            return self.run.corpus
        recipe = self.run.recipe
        made_of: list[Any] = [self.run.corpus, recipe.cfg.to_dict(), asdict(recipe.train), recipe.start]
        if stage != "model":
            base = mixtures.to_dict(self.sweep.recipe.mixture)
            made_of += [stage, _VERSIONS[stage], base, self.sweep.measure.to_dict(), list(self.sweep.responses)]
        return artifacts.fingerprint(made_of)


def is_finished(bench: Bench, stage: str) -> bool:
    """Whether a stage is there. Whether its files are whole is seen when it is read."""
    return (bench.place(stage) / artifacts.MANIFEST).is_file()


def is_whole(bench: Bench) -> bool:
    """Whether every stage is there that a run keeps. One that was done lacks a stage again where it was deleted, or
    where a later version of this program computes it otherwise."""
    return all(is_finished(bench, stage) for stage in stages_of(bench.sweep) if stage != "corpus")


def run_stages(bench: Bench) -> None:
    """Make whatever is missing of a run, stage by stage."""
    if is_whole(bench):
        _drop_corpus(bench)
        return
    for stage in stages_of(bench.sweep):
        if stage == "corpus" and all(is_finished(bench, name) for name in ("model", "evaluation")):
            continue
        bench.stage, bench.began = stage, time.perf_counter()
        bench.progress(stage, 0.0, "")
        _make(bench, stage)
        bench.seconds[stage] = bench.seconds.get(stage, 0.0) + time.perf_counter() - bench.began
        if stage == "evaluation":
            _drop_corpus(bench)


def stages_of(sweep: Sweep) -> tuple[str, ...]:
    """The stages that the responses need."""
    kinds = sweep.kinds()
    probed, patched = READ in kinds, bool(kinds & {INTERCHANGE, MECHANISM})
    return (*STAGES[:3], *(["probing"] if probed else []), *(["interventions"] if patched else []))


def _corpus(bench: Bench) -> Corpus:
    """The run's corpus, opened where it is there already."""
    recipe = bench.run.recipe
    return build(
        recipe.mixture, recipe.size, bench.run.corpus_seed, folder=bench.place("corpus"), progress=bench.progress
    )


def _fit_corpus(bench: Bench) -> None:
    """Draw the run's corpus, and see whether it is as the sweep demands. Raises ValueError where it is not."""
    corpus = _corpus(bench)
    check_demands(bench.sweep, bench.run.cell.levels, corpus, bench.run.seed)


def _drop_corpus(bench: Bench) -> None:
    shutil.rmtree(bench.place("corpus"), ignore_errors=True)


def _train(bench: Bench) -> None:
    train_recipe(
        bench.run.recipe,
        bench.place("model"),
        corpus=_corpus(bench),
        device=bench.device,
        progress=bench.progress,
    )


def trained_model(bench: Bench) -> Any:
    """The run's model, on its device, in evaluation mode."""
    from cadmus.training import checkpoint

    model = checkpoint.load(bench.place("model")).model.to(bench.device)
    model.eval()
    return model


def _evaluation(bench: Bench) -> dict[str, Any]:
    """What the model completes, and what its corpus is like."""
    corpus, seed = _corpus(bench), bench.run.seed
    bench.progress("evaluation", 0.0, "properties")
    measured = properties(bench.sweep, corpus, seed) | _reached(bench)
    bench.progress("evaluation", 0.3, "accuracies")
    model = trained_model(bench)
    rows = accuracies(bench.sweep, bench.run.recipe.mixture, corpus, model, seed)
    tables: dict[str, Any] = {}
    if FIGURE1 in bench.sweep.kinds():
        table = plane(bench.sweep, model, seed, bench.progress)
        rows += plane_responses(bench.sweep, table)
        tables = {"tables": {FIGURE1: table.to_dict("list")}}
    return {"responses": [asdict(row) for row in rows], "properties": measured, **tables}


def _reached(bench: Bench) -> dict[str, dict[str, float]]:
    """The properties `REACHED`, as the manifest of the corpus has them; none where no factor holds compounds out."""
    if not bench.sweep.divides:
        return {}
    sets = artifacts.read_manifest(bench.place("corpus"), "corpus").get("divergence", {})
    reached = sets.get(SET_NAME, {})
    values = {name: reached.get(name.removeprefix("reached_"), 0.0) for name in REACHED}
    return {name: dict.fromkeys(("value", "low", "high"), value) for name, value in values.items()}


def _probing(bench: Bench) -> dict[str, Any]:
    """How well each variable is read."""
    tables = state_responses.readings(bench.sweep, trained_model(bench), bench.run.seed, bench.progress)
    rows = state_responses.read_responses(bench.sweep, tables)
    records = {name: table.to_dict("records") for name, table in tables.items()}
    return {"responses": [asdict(row) for row in rows], "tables": records}


def _interventions(bench: Bench) -> dict[str, Any]:
    """What exchanges of each variable do."""
    model, accuracy = trained_model(bench), _own_accuracy(bench)
    rows: list[Response] = []
    tables = {}
    for name in bench.sweep.variables:
        try:
            result = state_responses.interchanges(bench.sweep, model, name, bench.run.seed, bench.progress)
        except ValueError as error:  # too few pairs: nothing is known of this variable
            rows += [nothing(response, str(error)) for response in _of_variable(bench.sweep, name)]
            continue
        rows += state_responses.interchange_responses(bench.sweep, name, result, accuracy)
        tables[name] = result.mechanism.to_dict("records")
    return {"responses": [asdict(row) for row in rows], "tables": tables}


def _own_accuracy(bench: Bench) -> float:
    """The accuracy in distribution; 1 where it is not measured."""
    rows = result_of(bench, "evaluation")["responses"]
    return next((row["value"] for row in rows if row["response"] == f"{ACCURACY}.in_distribution"), 1.0)


def _of_variable(sweep: Sweep, name: str) -> list[str]:
    kinds = (INTERCHANGE, MECHANISM)
    return [r for r in sweep.responses if r.partition(".")[0] in kinds and variable_and_role(r)[0] == name]


_MEASURES: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "evaluation": _evaluation,
    "probing": _probing,
    "interventions": _interventions,
}
"""What gives the result of a stage, by its name."""


def _make(bench: Bench, stage: str) -> None:
    """Make a stage, unless it is there; a corpus is held against the sweep's demands in any case."""
    if stage == "corpus":
        _fit_corpus(bench)
    elif is_finished(bench, stage):
        return
    elif stage == "model":
        _train(bench)
    else:
        result, place = _MEASURES[stage](bench), bench.place(stage)
        with artifacts.new_folder(place, _KIND, stage=stage, fingerprint=place.name, run=bench.run.name) as partial:
            artifacts.write_json(partial / _RESULT, result)


def result_of(bench: Bench, stage: str) -> dict[str, Any]:
    """What a finished stage holds. Raises ArtifactError for one that is missing or damaged."""
    artifacts.read_manifest(bench.place(stage), _KIND)
    return artifacts.read_json(bench.place(stage) / _RESULT)
