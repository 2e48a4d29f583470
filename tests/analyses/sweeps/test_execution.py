"""A sweep of real tiny models: its table, what it finds again, what it refuses, what fails."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analyses.sweeps import folder as folders
from analyses.sweeps.cells import cells_of, runs_of
from analyses.sweeps.execution import PilotFailure, run_sweep
from analyses.sweeps.plan import plan_of
from analyses.sweeps.runs import Task, work
from analyses.sweeps.sweep import Sweep
from cadmus.models.model import Model
from cadmus.runtime import artifacts
from cadmus.runtime.artifacts import ArtifactError
from cadmus.runtime.folder_lock import sole_writer
from cadmus.training import checkpoint
from tests.analyses.sweeps.tiny import ACCURACIES, STATE, serial, tables, tiny

HEAD = ["sweep", "cell", "seed", "skeletons"]
TAIL = ["response", "value", "low", "high", "n", "status", "why"]


def nothing_runs(tasks):
    raise AssertionError(f"{[task.run.label for task in tasks]} are run again")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished sweep, and its table."""
    folder = tmp_path_factory.mktemp("sweeps") / "tiny"
    return folder, run_sweep(tiny(), folder, serial).table


def test_the_table_has_a_row_per_cell_seed_and_response(finished):
    folder, table = finished
    assert list(table.columns[:4]) == HEAD
    assert list(table.columns[-7:]) == TAIL
    properties = [name for name in table.columns if name.startswith("property.")]
    assert {"property.skeletons", "property.read_distance", "property.compound_divergence"} <= set(properties)
    assert set(table.columns) == {*HEAD, *properties, *TAIL}
    keys = table[["skeletons", "seed", "response"]].apply(tuple, axis=1).tolist()
    assert keys == [(n, seed, response) for n in (40, 400) for seed in (0, 1) for response in ACCURACIES]
    assert (table["status"] == "ok").all()
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    assert (table["n"] >= 20).all()
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "table.parquet"), table)
    assert len(pd.read_csv(folder / "table.csv")) == len(table)


def test_accuracy_on_the_base_is_that_of_its_families(finished):
    _, table = finished
    values = table.pivot(index=["skeletons", "seed"], columns="response", values="value")
    assert (values["accuracy.base"] == values["accuracy.register"]).all(), "the base has this family alone"


def test_properties_are_those_of_the_runs_own_corpus(finished):
    _, table = finished
    measured = table.groupby(["skeletons", "seed"])["property.skeletons"].first()
    assert measured[40].max() <= 40 < measured[400].min()
    assert measured.nunique() > 2


def test_stages_are_kept_and_the_corpora_are_not(finished):
    folder, _ = finished
    assert len(list((folder / "model").iterdir())) == 4
    assert len(list((folder / "evaluation").iterdir())) == 4
    assert not list((folder / "corpus").iterdir())
    runs = pd.read_csv(folder / "runs.csv")
    assert (runs["state"] == "done").all()
    assert (runs["model_seconds"] > 0).all()


def test_a_finished_sweep_runs_nothing_again(finished):
    folder, table = finished
    again = run_sweep(tiny(), folder, nothing_runs).table
    pd.testing.assert_frame_equal(again, table)


def test_what_was_lost_is_made_again_and_is_the_same(finished, tmp_path):
    folder, table = finished
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for stage in ("evaluation", "runs"):
        shutil.rmtree(copy / stage)
    models = {path: path.stat().st_mtime_ns for path in (copy / "model").rglob("*.safetensors")}
    again = run_sweep(tiny(), copy, serial).table
    pd.testing.assert_frame_equal(again, table)
    assert {path: path.stat().st_mtime_ns for path in (copy / "model").rglob("*.safetensors")} == models
    shutil.rmtree(next((copy / "evaluation").iterdir()))  # of a run whose journal says that it is done
    pd.testing.assert_frame_equal(run_sweep(tiny(), copy, serial).table, table)


def test_a_changed_sweep_in_the_same_folder_is_refused_with_what_changed(finished):
    folder, _ = finished
    before = (folder / folders.SWEEP).read_bytes()
    with pytest.raises(ArtifactError, match=r"as it was before it was changed \(seeds: \[0, 1\], now \[1\]; "):
        run_sweep(tiny(seeds=[1], hypothesis=None), folder, nothing_runs)
    recipe = tables()["recipe"]
    longer = tiny(recipe=recipe | {"train": recipe["train"] | {"steps": 9}})
    with pytest.raises(ArtifactError, match=r"train\.steps: 8, now 9"):
        run_sweep(longer, folder, nothing_runs)
    hypothesis = tables()["hypothesis"][0] | {"expected": "none"}
    with pytest.raises(ArtifactError, match=r"hypotheses\[0\]\.expected: \"positive\", now \"none\""):
        run_sweep(tiny(hypothesis=[hypothesis]), folder, nothing_runs)
    assert (folder / folders.SWEEP).read_bytes() == before


def test_a_sweep_that_began_with_other_weights_is_refused(tmp_path):
    """Its finished runs are of those weights, wherever the model lies that begins the others."""

    def beginning() -> Sweep:
        recipe = tables()["recipe"]
        return tiny(recipe=recipe | {"start": str(tmp_path / "m"), "model": recipe["model"] | {"n_ctx": 96}})

    cells = cells_of(tiny())
    for seed in (0, 1):
        mixture, cfg = cells[0].recipe.mixture, replace(cells[0].recipe.cfg, n_ctx=96)
        checkpoint.save(tmp_path / "m", Model(cfg, seed=seed), mixture, {"config": {"seed": seed}})
        if not seed:
            folders.open_sweep(tmp_path / "s", beginning())
            folders.open_sweep(tmp_path / "s", beginning())
    for opened in (folders.open_sweep, folders.begun_cells):
        with pytest.raises(ArtifactError, match=r"\(start_weights: \"\w{16}\", now \"\w{16}\"\)"):
            opened(tmp_path / "s", beginning())
    assert folders.stored_runs(tmp_path / "s")[0].recipe.start, "to read it the weights are not needed"


def test_a_journal_that_is_none_says_what_to_do(finished, tmp_path):
    run = runs_of(tiny(), folders.open_sweep(tmp_path, tiny()))[0]
    for content in ('{"extra": 1}', "[]", "3"):
        artifacts.write_bytes(tmp_path / "runs" / f"{run.name}.json", content.encode())
        with pytest.raises(ArtifactError, match=rf"{run.name}\.json is no journal of a run \(.*\); delete it"):
            folders.read_status(tmp_path, run)


def test_a_plan_times_steps_of_the_batches_that_are_asked_for():
    recipe = tables()["recipe"]
    large = recipe | {"programs": 6000, "train": recipe["train"] | {"batch_size": 5000}}
    sweep = tiny(recipe=large, factor=[{"name": "lr", "knob": "recipe.train.lr", "levels": [1e-3, 2e-3]}], pilot=None)
    assert plan_of(sweep, cells_of(sweep), jobs=1).seconds_per_run > 0


def test_seeds_can_be_added_to_a_sweep_and_nothing_is_run_again(finished, tmp_path):
    folder, table = finished
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    began = []

    def only_new(tasks):
        began.extend(task.run.seed for task in tasks)
        return serial(tasks)

    grown = run_sweep(tiny(seeds=[2, 0, 1]), copy, only_new).table
    assert began == [2, 2]
    before = (copy / folders.SWEEP).read_bytes()
    assert len(folders.begun_cells(copy, tiny(seeds=[0, 1, 2, 3]))) == 2, "a plan writes nothing"
    assert (copy / folders.SWEEP).read_bytes() == before
    pd.testing.assert_frame_equal(grown[grown.seed < 2].reset_index(drop=True), table)
    assert (grown[grown.seed == 2].status == "ok").all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": None}, "is damaged (it lacks cells); run the sweep with another --out"),
        ({"sweep": {"name": "x"}}, "is damaged (its seeds are None); run"),
        ({"sweep": {"seeds": [[0]]}}, "is damaged (its seeds are [[0]]); run"),
        ({"sweep": {"seeds": [0]}}, "is damaged (what is asked for is no sweep: KeyError: 'name'); run"),
        ({"cells": [{"cell": "x"}]}, "is damaged (a cell is none: KeyError: 'levels'); run"),
    ],
)
def test_a_damaged_request_says_what_to_do(finished, tmp_path, change, message):
    folder, _ = finished
    stored = folders.read_sweep(folder) | change
    (tmp_path / folders.SWEEP).write_text(json.dumps(stored))
    with pytest.raises(ArtifactError, match=re.escape(message)):
        folders.stored_runs(tmp_path)
    (tmp_path / folders.SWEEP).write_text("[]")
    with pytest.raises(ArtifactError, match=r"sweep\.json is damaged"):
        folders.stored_runs(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="holds files that are of no sweep"):
        run_sweep(tiny(), tmp_path, nothing_runs)
    with pytest.raises(ArtifactError, match="holds no sweep"):
        folders.stored_runs(tmp_path)


def test_a_folder_is_one_processs_at_a_time(finished):
    folder, _ = finished
    import threading

    errors = []

    def try_it():
        try:
            run_sweep(tiny(), folder, nothing_runs)
        except ArtifactError as error:
            errors.append(str(error))

    with sole_writer(folder):
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
    assert "is being written by another run" in errors[0]


def test_a_cell_that_fails_is_recorded_and_the_others_go_on(tmp_path):
    family = {"name": "register", "assertions": 1, "min_stores": 1, "max_stores": 1, "dependent_share": 0.0}
    sweep = tiny(
        mixture={"name": "m", "family": [family | {"pair_share": 0.0}]},
        responses=["accuracy.in_distribution", "accuracy.register"],
        recipe=tables()["recipe"] | {"programs": 30},
        measure=tables()["measure"] | {"programs": 2, "property_programs": 40},
        factor=[{"name": "programs", "knob": "recipe.programs", "levels": [20, 3000]}],
        pilot=None,
        hypothesis=None,
        seeds=[0],
    )
    result = run_sweep(sweep, tmp_path / "s", serial)
    by_level = result.table.groupby("programs")["status"].agg(set)
    assert by_level[3000] == {"failed"}
    why = result.table[result.table["programs"] == 3000]["why"].iloc[0]
    assert "corpus: family register runs out of new programs" in why
    assert result.table[result.table["status"] == "failed"]["value"].isna().all()
    assert len(result.failed) >= 1
    run_sweep(sweep, tmp_path / "s", nothing_runs if by_level[20] == {"ok"} else serial)  # not begun again
    seen = []

    def watched(tasks):
        seen.extend(task.run.cell.levels["programs"] for task in tasks)
        return serial(tasks)

    run_sweep(sweep, tmp_path / "s", watched, retry=True)
    assert 3000 in seen


def test_a_pilot_that_does_not_learn_stops_the_sweep(tmp_path):
    sweep = tiny(pilot={"accuracy": 0.99, "cell": {"skeletons": 400}})
    seen = []

    def watched(tasks):
        seen.extend((task.run.cell.levels["skeletons"], task.run.seed) for task in tasks)
        return serial(tasks)

    with pytest.raises(
        PilotFailure, match=r"the pilot \(skeletons = 400\) reached an accuracy of 0\.\d\d .* Train longer"
    ):
        run_sweep(sweep, tmp_path / "s", watched)
    assert seen == [(400, 0)]
    table = pd.read_parquet(tmp_path / "s" / "table.parquet")
    assert set(table["status"]) == {"ok", "missing"}
    assert table[table["status"] == "missing"]["why"].unique().tolist() == ["the run is waiting"]
    seen.clear()
    run_sweep(tiny(pilot={"accuracy": 0.0, "cell": {"skeletons": 400}}), tmp_path / "s", watched)
    assert len(seen) == 3, "with another bar the sweep goes on, and the pilot's run is not made again"
    assert folders.read_sweep(tmp_path / "s")["sweep"]["pilot"]["accuracy"] == 0.0


@pytest.mark.slow
def test_a_pilot_that_cannot_measure_a_response_stops_the_sweep(tmp_path):
    """Where every answer is the stored value itself, no source discriminates."""
    mixture = tables()["mixture"] | {"family": [{"name": "register", "pair_share": 0.0, "dependent_share": 0.0}]}
    sweep = tiny(mixture=mixture, responses=["accuracy.in_distribution", "interchange.reg"], hypothesis=None, seeds=[0])
    with pytest.raises(
        PilotFailure, match=r"could not measure interchange\.reg: only 0 discriminating pairs .*; leave"
    ):
        run_sweep(sweep, tmp_path / "s", serial)


def test_a_worker_that_does_not_see_the_folder_says_so(tmp_path, finished):
    folder, _ = finished
    sweep, runs = folders.stored_runs(folder)
    outcome = work(Task(sweep, runs[0], tmp_path / "elsewhere"))
    assert "does not see the folder" in outcome.failure


def test_what_a_worker_cannot_record_is_recorded_for_it(tmp_path):
    def elsewhere(tasks):
        return serial([replace(task, folder=tmp_path / "elsewhere") for task in tasks])

    with pytest.raises(
        PilotFailure, match=r"the pilot \(skeletons = 400, seed 0\) failed .* does not see .*; mend that"
    ):
        run_sweep(tiny(), tmp_path / "s", elsewhere)
    result = run_sweep(tiny(pilot=None), tmp_path / "t", elsewhere)
    assert set(result.table["status"]) == {"failed"}
    assert result.table["why"].str.contains("does not see the folder").all()
    assert len(result.failed) == 4


def test_an_error_of_no_sweeps_making_is_recorded_with_its_place(tmp_path):
    sweep = tiny(pilot=None, seeds=[0], hypothesis=None)
    runs = runs_of(sweep, folders.open_sweep(tmp_path, sweep))
    outcome = work(Task(sweep, runs[0], tmp_path, device="abacus"))
    status = folders.read_status(tmp_path, runs[0])
    assert status.state == "failed"
    assert status.why == outcome.failure
    assert "\n" not in status.why
    assert status.why.startswith("RuntimeError: ")
    assert status.traceback.startswith("Traceback")
    assert "in run_stages" in status.traceback


def test_a_set_that_overlaps_the_corpus_is_measured_on_what_is_left(tmp_path):
    near = [{"name": "near", "family": "register", "overwrite_share": 0.26}]
    mixture = {
        "name": "m",
        "family": [{"name": "register", "assertions": 2, "max_stores": 2}],
        "out_of_distribution": near,
    }
    sweep = tiny(
        mixture=mixture, responses=["accuracy.near"], pilot=None, hypothesis=None, seeds=[0],
        measure=tables()["measure"] | {"programs": 300},
    )  # fmt: skip
    table = run_sweep(sweep, tmp_path / "s", serial).table
    assert (table["n"] < 600).any()
    assert (table["n"] > 0).all()


@pytest.mark.slow
def test_the_state_is_read_and_used_or_said_to_be_missing(tmp_path):
    recipe = tables()["recipe"]
    two_layers = recipe | {"model": recipe["model"] | {"n_layers": 2}}
    sweep = tiny(responses=[*ACCURACIES, *STATE], recipe=two_layers, seeds=[0], hypothesis=None, pilot=None)
    table = run_sweep(sweep, tmp_path / "s", serial).table.set_index(["skeletons", "response"])
    assert (table.xs("read.reg", level="response")["status"] == "ok").all()
    mechanism = table.xs("mechanism.reg", level="response")
    assert (mechanism["status"] == "missing").all()  # such a model completes next to nothing
    assert mechanism["why"].str.contains("below 0.8").all()
    interchange = table.xs("interchange.reg", level="response")
    assert ((interchange["status"] == "ok") | interchange["why"].str.contains("no pair counts")).all()


def test_the_journal_of_a_damaged_stage_tells(finished, tmp_path):
    folder, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    path = next((copy / "evaluation").rglob("result.json"))
    path.write_text(json.dumps({}))
    with pytest.raises(ArtifactError, match="is damaged"):
        run_sweep(tiny(), copy, nothing_runs)
    assert np.isfinite(folders.read_status(copy, folders.stored_runs(copy)[1][0]).at)
