"""Builds: exact counts, the same bytes however they are made, and nothing lost or half there when they are interrupted.

Shards are tiny here (1,024 draws), so that a few thousand programs are many of them.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pytest

from cadmus.corpora import corpus, shards
from cadmus.corpora.build import _shard_file, build
from cadmus.corpora.corpus import Corpus
from cadmus.machine import tokens, vm
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from cadmus.programs import mixture, splits
from cadmus.programs.families import Compare, Equality, Family, Register
from cadmus.programs.holdout import HoldOut
from cadmus.programs.mixture import Component, Mixture, OutOfDistribution, Phase
from cadmus.runtime import artifacts
from cadmus.runtime.progress import Progress
from cadmus.training import checkpoint, recipe

ROOT = Path(__file__).parents[3]
DRAWS = 1024

FEW = Compare(low=0, high=9, length=1)  # a hundred programs, `34<` and the like, each as likely as any other
PAIRS = replace(FEW, assertions=2)  # ten thousand of them, likewise
OVERLAPPING = (  # where X = Y both draw `34+52+=.`
    Component(Compare(low=-9, high=18, length=3, equal_share=0.5), 3.0),
    Component(Equality(low=-9, high=18, length=3), 2.0),
)
CURRICULUM = Mixture(
    "curriculum",
    (*OVERLAPPING, Component(Register(assertions=2), 1.0)),
    HoldOut(pairs=("*0",)),
    phases=(Phase(0.25, OVERLAPPING), Phase(0.4, (Component(PAIRS), *OVERLAPPING[1:]))),
    out_of_distribution=(OutOfDistribution("longer", Compare(length=5)),),
)
SIZE = 8000
ONE = Mixture(  # a small one of its own, for what is built dozens of times
    "one", (Component(Compare()),), out_of_distribution=(OutOfDistribution("longer", Compare(length=7)),)
)


@pytest.fixture(autouse=True, scope="module")
def many_shards() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "MAX_DRAWS", DRAWS)
        yield


@cache
def curriculum_corpus() -> Corpus:
    return build(CURRICULUM, SIZE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the corpus as an undisturbed build makes them."""
    folder = tmp_path_factory.mktemp("whole")
    build(CURRICULUM, SIZE, folder=folder)
    return content(folder)


def texts(result: Corpus) -> list[str]:
    return tokens.decode(result.programs(np.arange(len(result))))


def only(family: Family, **knobs) -> Mixture:
    return Mixture("only", (Component(family, **knobs),))


def content(folder: Path) -> dict[str, bytes]:
    """Every file under `folder`, hidden or not."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def final_names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")] if folder.exists() else []


def hidden_place(folder: Path) -> Path:
    (place,) = folder.glob(".partial-*")
    return place


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    """What tells a shard's file from another one of the same content."""
    stats = {path.name: path.stat() for path in folder.glob("shards/*.npy")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


# --- what is built ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_corpus_holds_true_train_programs_of_its_families() -> None:
    result = curriculum_corpus()
    assert len(result) == SIZE
    for text, family, phase in zip(texts(result), result.family, result.phase, strict=True):
        assert splits.split(text) == "train"
        assert vm.verdict(text)
        assert text.index(".") == len(text) - 1
        assert result.mixture.parts[phase][1].family(result.families[family]).accepts(text)


def test_no_program_is_held_out() -> None:
    assert not [text for text in texts(curriculum_corpus()) if re.search(r"\*[0-9]", text)]
    free = build(replace(CURRICULUM, hold_out=HoldOut()), SIZE)
    assert [text for text in texts(free) if re.search(r"\*[0-9]", text)], "there is something to hold out"


def test_no_program_comes_twice_in_shards_families_or_phases() -> None:
    result = curriculum_corpus()
    assert len(result.shards) > 10
    assert len(set(texts(result))) == SIZE


def test_duplicates_are_there_to_be_taken_out() -> None:
    """The check above could pass because nothing is ever drawn twice: across shards, families and phases something
    is."""
    section_texts: dict[tuple[int, str], list[set[str]]] = {}
    for section in shards.sections(CURRICULUM, SIZE):
        section_texts[section.phase, section.family.name] = [
            set(tokens.decode(shards.draw_shard(section, 0, k).programs)) for k in range(2)
        ]
    assert set.intersection(*section_texts[1, "compare"])
    assert section_texts[0, "compare"][0] & section_texts[0, "equality"][0]
    assert section_texts[0, "compare"][0] & section_texts[2, "compare"][0]


def test_families_and_phases_have_their_shares_exactly() -> None:
    result = curriculum_corpus()
    counts = Counter(zip(result.phase.tolist(), (result.families[k] for k in result.family), strict=True))
    assert counts == {
        (0, "compare"): 1200,
        (0, "equality"): 800,
        (1, "compare"): 400,
        (1, "equality"): 800,  # weights 1 and 2
        (2, "compare"): 2400,
        (2, "equality"): 1600,
        (2, "register"): 800,
    }
    assert result.counts == {"compare": 4000, "equality": 3200, "register": 800}
    assert set(result.phase[:2000]) == {0}
    assert set(result.phase[2000:3200]) == {1}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 1001])
def test_odd_sizes_are_exact(size: int) -> None:
    """The largest remainders are rounded up: of 7 programs in the shares 3 : 2 : 1, 3.5, 2.33 and 1.17."""
    result = build(mixture.load("first"), size)
    expected = {1: [1, 0, 0], 2: [1, 0, 1], 3: [2, 0, 1], 7: [4, 1, 2], 100: [50, 17, 33], 1001: [500, 167, 334]}
    assert len(result) == len(set(texts(result))) == size
    assert list(result.counts.values()) == expected[size]


def test_the_mixture_says_how_many_unless_told() -> None:
    assert len(build(replace(only(Compare()), programs=70))) == 70
    assert len(build(replace(only(Compare()), programs=70), 30)) == 30


def test_a_seed_fixes_the_corpus() -> None:
    again = build(CURRICULUM, SIZE)
    assert texts(again) == texts(curriculum_corpus())
    assert again.eligible == curriculum_corpus().eligible
    assert np.array_equal(again.out_of_distribution["longer"], curriculum_corpus().out_of_distribution["longer"])
    other = set(texts(build(CURRICULUM, SIZE, seed=1)))
    assert len(other & set(texts(curriculum_corpus()))) < SIZE / 2


def test_disk_and_memory_hold_the_same_bytes(whole: dict[str, bytes]) -> None:
    in_files = b"".join(whole[name] for name in sorted(whole) if name.startswith("shards/"))
    assert in_files == b"".join(npy(shard.programs) for shard in in_order_of_names(curriculum_corpus()))
    assert whole["out_of_distribution/longer.npy"] == npy(curriculum_corpus().out_of_distribution["longer"])


def npy(array: np.ndarray) -> bytes:
    with io.BytesIO() as file:
        np.save(file, np.asarray(array))
        return file.getvalue()


def in_order_of_names(result: Corpus) -> list[corpus.Shard]:
    return sorted(result.shards, key=lambda shard: (shard.phase, result.families[shard.family]))


def test_what_could_not_be_read_again_is_not_stored(tmp_path: Path) -> None:
    """A family of one's own that is not registered: in memory it serves, on disk nothing is begun."""

    class Mine(Compare):
        name = "mine"

    own = Mixture("own", (Component(Mine()),))
    assert len(build(own, 50)) == 50
    with pytest.raises(ValueError, match=r"family 'mine' \(Mine\) is not in cadmus.programs.families.FAMILIES"):
        build(own, 50, folder=tmp_path / "own")
    with pytest.raises(ValueError, match=r"family 'mine' \(Mine\) is not in"):
        recipe.train_recipe(recipe.with_changes(recipe.load("first"), mixture=own), tmp_path / "model")
    with pytest.raises(ValueError, match=r"family 'mine' \(Mine\) is not in"):
        checkpoint.save(tmp_path / "model", Model(ModelConfig(1, 32, 1, 32, 32)), own, {})
    with pytest.raises(ValueError, match=r"family 'mine' \(Mine\) is not in"):
        mixture.save(own, tmp_path / "own.toml")
    assert not list(tmp_path.iterdir())


def test_a_build_to_disk_is_what_loading_finds(tmp_path: Path) -> None:
    result = build(CURRICULUM, SIZE, folder=tmp_path)
    assert texts(result) == texts(corpus.load(tmp_path)) == texts(curriculum_corpus())
    manifest = artifacts.read_manifest(tmp_path, "corpus")
    assert manifest["programs"] == SIZE
    assert manifest["seed"] == 0
    assert manifest["fingerprint"] == result.fingerprint == curriculum_corpus().fingerprint
    assert manifest["families"] == curriculum_corpus().summary
    assert result.mixture == mixture.from_dict(manifest["mixture"]) == CURRICULUM
    assert result.families == curriculum_corpus().families


def test_files_of_sections_differ() -> None:
    first = mixture.load("first")
    sections = shards.sections(replace(first, phases=(Phase(0.5, first.components),)), 60)
    assert [_shard_file(section, 7) for section in sections] == [
        "shards/0-compare-00007.npy",
        "shards/0-equality-00007.npy",
        "shards/0-register-00007.npy",
        "shards/1-compare-00007.npy",
        "shards/1-equality-00007.npy",
        "shards/1-register-00007.npy",
    ]


def test_building_again_replaces(tmp_path: Path) -> None:
    build(CURRICULUM, SIZE, folder=tmp_path)
    again = build(mixture.load("first"), 50, folder=tmp_path)
    assert texts(again) == texts(build(mixture.load("first"), 50))
    assert set(content(tmp_path)) == {"manifest.json", *artifacts.read_manifest(tmp_path, "corpus")["files"]}


def test_a_corpus_that_is_there_is_opened(tmp_path: Path) -> None:
    first = mixture.load("first")
    expected = texts(build(first, 2000, folder=tmp_path))
    before, calls = identities(tmp_path), []
    again = build(first, 2000, folder=tmp_path, progress=lambda stage, fraction, note: calls.append(fraction))
    assert texts(again) == expected
    assert identities(tmp_path) == before
    assert calls in ([], [1.0])


@pytest.mark.parametrize("recipe", [mixture.load("first"), CURRICULUM], ids=lambda recipe: recipe.name)
def test_a_damaged_corpus_is_made_again(tmp_path: Path, recipe: Mixture) -> None:
    build(recipe, 2000, folder=tmp_path)
    whole = content(tmp_path)
    shard = min(tmp_path.glob("shards/*.npy"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\xff")
    build(recipe, 2000, folder=tmp_path)
    assert content(tmp_path) == whole


def test_a_corpus_of_a_family_with_other_knobs_is_replaced(tmp_path: Path) -> None:
    """One that an earlier version of this package made, say."""
    build(ONE, 50, folder=tmp_path)
    manifest = artifacts.read_json(tmp_path / "manifest.json")
    manifest["mixture"]["family"][0]["colour"] = 3
    artifacts.write_manifest(tmp_path, manifest)
    assert len(build(ONE, 60, folder=tmp_path)) == 60


def test_progress_says_how_many_programs_there_are_and_of_which_family() -> None:
    calls: list[tuple[str, float, str]] = []
    result = build(CURRICULUM, SIZE, progress=lambda *call: calls.append(call))
    assert {stage for stage, _, _ in calls} == {"build the corpus"}
    totals = [round(fraction * SIZE) for _, fraction, _ in calls]
    assert sorted(np.diff([0, *totals]).tolist()) == sorted(len(shard.programs) for shard in result.shards)
    assert totals[-1] == SIZE
    counts: Counter[str] = Counter()
    for total, before, (_, _, note) in zip(totals, [0, *totals], calls, strict=False):
        number, family = re.fullmatch(r"([\d,]+) programs, (\w+)", note).groups()
        assert number == f"{total:,}"
        counts[family] += total - before
    assert counts == result.counts


def test_shards_without_anything_new_are_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MIN_DRAWS", 64)
    monkeypatch.setattr(shards, "MAX_DRAWS", 64)
    empty = 0
    for seed in range(30):
        folder = tmp_path / str(seed)
        fractions: list[float] = []
        try:
            result = build(
                only(FEW),
                90,
                seed,
                folder=folder,
                progress=lambda stage, fraction, note, fractions=fractions: fractions.append(fraction),
            )
        except ValueError:  # three such shards in a row: it runs out, which is checked elsewhere
            continue
        empty += len(fractions) - len(set(fractions))
        assert texts(result) == texts(build(only(FEW), 90, seed))
        assert result.contains(texts(result)).all()
    assert empty, "no build had one"


# --- duplicates, kept ------------------------------------------------------------------------------------------------


@cache
def train_programs(family: Family) -> set[str]:
    """Every train program of a small family."""
    all_texts = tokens.decode(family.generate(150_000, np.random.default_rng(5)))
    return {text for text in all_texts if splits.split(text) == "train"}


def test_duplicates_are_kept_where_the_component_says_so() -> None:
    result = build(only(FEW, duplicates="keep"), 3000)
    assert len(result) == 3000
    assert len(set(texts(result))) < 100
    assert result.eligible == {"compare": 3000}
    assert result.repetition == {"compare": 1.0}


def test_a_hold_out_that_empties_a_family_which_keeps_duplicates_is_named() -> None:
    empty_mixture = replace(only(FEW, duplicates="keep"), hold_out=HoldOut(max_length=1))
    with pytest.raises(ValueError, match="family compare has no programs left for training: the hold-out leaves none"):
        build(empty_mixture, 10)


@pytest.mark.slow
@pytest.mark.parametrize("size", [70, 1200])
def test_kept_duplicates_are_a_fair_sample(size: int) -> None:
    """As many different programs as so many draws with replacement have, within 6 standard deviations or so."""
    there = len(train_programs(FEW))
    result = build(only(FEW, duplicates="keep"), size)
    expected = there * (1 - (1 - 1 / there) ** size)
    assert abs(len(set(texts(result))) - expected) < 0.05 * there + 12


def test_one_family_keeps_and_another_does_not() -> None:
    result = build(Mixture("two", (Component(FEW, 1.0, "keep"), Component(Equality(), 1.0))), 1000)
    by_family = {name: [] for name in result.families}
    for text, family in zip(texts(result), result.family, strict=True):
        by_family[result.families[family]].append(text)
    assert len(set(by_family["compare"])) < 100 < len(by_family["compare"]) == 500
    assert len(set(by_family["equality"])) == len(by_family["equality"]) == 500


# --- how many draws were needed --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8, 0.95])
def test_repetition_is_that_of_the_coupon_collector(share: float) -> None:
    """Of m equally likely programs, k different ones take m (1/m + 1/(m-1) + ... + 1/(m-k+1)) draws on average."""
    m = len(train_programs(PAIRS))
    k = int(share * m)
    expected = m * (1 / np.arange(m - k + 1, m + 1)).sum()
    result = build(only(PAIRS), k)
    assert abs(result.eligible["compare"] / expected - 1) < 0.05
    assert result.repetition["compare"] == result.eligible["compare"] / k


@pytest.mark.parametrize("size", [1, 10, 500, 830, 870, 900, 1700])
def test_the_cut_of_the_last_shard_does_not_count_as_repetition(size: int) -> None:
    result = build(only(Compare(length=5)), size)  # millions of programs
    assert size <= result.eligible["compare"] <= size * 1.01 + 1


# --- programs unlike those of training -------------------------------------------------------------------------------


def test_out_of_distribution_sets_are_not_in_the_corpus() -> None:
    result = curriculum_corpus()
    (programs,) = result.out_of_distribution.values()
    ood_texts = tokens.decode(programs)
    assert len(set(ood_texts)) == len(ood_texts) == 2000
    assert not set(ood_texts) & set(texts(result))


def test_a_set_that_overlaps_with_training_is_refused(tmp_path: Path) -> None:
    overlapping = replace(only(PAIRS), out_of_distribution=(OutOfDistribution("alike", replace(PAIRS, high=8)),))
    message = (
        r"^out_of_distribution 'alike' is not: [1-9]\d* of its 2000 programs are in the corpus; turn its knobs away "
        "from those of training, or name a rule as held_out$"
    )
    with pytest.raises(ValueError, match=message):
        build(overlapping, 3000)
    with pytest.raises(ValueError, match=message):
        build(overlapping, 3000, folder=tmp_path)
    assert list(tmp_path.iterdir()) == [], "there is nothing to go on from"


def test_the_sets_of_the_default_mixture_are_unlike_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_DRAWS", 1 << 18)
    default = mixture.load("default")
    result = build(default, 30_000)
    inside = set(texts(result))
    assert set(result.out_of_distribution) == {
        "unseen_values",
        "longer_expressions",
        "held_out_pairs",
        "longer_read_distance",
    }
    for name, programs in result.out_of_distribution.items():
        ood_texts = tokens.decode(programs)
        assert len(set(ood_texts)) == 2000, name
        assert all(vm.verdict(text) for text in ood_texts[:300]), name
        assert not inside & set(ood_texts), name
        assert not result.contains_programs(programs).any(), name
    held_out_texts = tokens.decode(result.out_of_distribution["held_out_pairs"])
    assert all("*n" in text or "x-" in text for text in held_out_texts)
    assert not [text for text in inside if "*n" in text or "x-" in text]


# --- what cannot be built --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -3, None])
def test_an_empty_corpus_is_refused(size: int | None, tmp_path: Path) -> None:
    message = rf"^a corpus of {size or 0} programs is empty; ask for one or more$"
    for folder in (None, tmp_path / "new"):
        with pytest.raises(ValueError, match=message):
            build(mixture.load("first"), size, folder=folder)
    assert not (tmp_path / "new").exists()


def test_a_family_that_runs_out_says_how_far_it_came(tmp_path: Path) -> None:
    there = len(train_programs(FEW))
    message = (
        f"family compare runs out of new programs at {there} of 1,000; widen its knobs, ask for fewer programs, lower "
        'its weight, or set duplicates = "keep"'
    )
    for folder in (None, tmp_path):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            build(only(FEW), 1000, folder=folder)
    assert list(tmp_path.iterdir()) == []
    assert set(texts(build(only(FEW), there))) == train_programs(FEW)


def test_a_family_that_runs_out_in_a_later_phase() -> None:
    twice = Mixture("twice", (Component(FEW),), phases=(Phase(0.5, (Component(FEW),)),))
    with pytest.raises(ValueError, match=r"^family compare runs out of new programs at \d+ of 70; widen"):
        build(twice, 140)


def test_a_hold_out_that_leaves_nothing() -> None:
    nothing = replace(only(Compare()), hold_out=HoldOut(max_length=2))
    message = "^family compare has no programs left for training: the hold-out leaves none; hold out less$"
    with pytest.raises(ValueError, match=message):
        build(nothing, 5)


# --- interruptions ---------------------------------------------------------------------------------------------------

SCRIPT = f"""
import os, resource, signal, sys
from cadmus.corpora import shards
from cadmus.corpora.build import build
from cadmus.programs.families import Compare, Equality, Register
from cadmus.programs.mixture import Component, HoldOut, Mixture, OutOfDistribution, Phase
shards.MAX_DRAWS = {DRAWS}  # in workers too
def make(folder, workers, progress=lambda stage, fraction, note: print(note, flush=True)):
    build({CURRICULUM}, {SIZE}, folder=folder, workers=int(workers), progress=progress)
if __name__ == "__main__":
"""


class Builder:
    """Builds of the corpus `whole` in processes of their own, which can be killed."""

    def __init__(self, place: Path):
        self.place, self.folder = place, place / "corpus"

    def start(self, workers: int = 1, main: str = "make(*sys.argv[1:])") -> subprocess.Popen[str]:
        """The process leads a group of its own, so that `end` reaches all of it."""
        script = self.place / "script.py"
        script.write_text(SCRIPT + "".join(f"    {line}\n" for line in main.splitlines()))
        return subprocess.Popen(
            [sys.executable, script, self.folder, str(workers)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def run(self, workers: int = 1, main: str = "make(*sys.argv[1:])") -> tuple[int, str]:
        """The exit status, and what it wrote to stderr."""
        with self.start(workers, main) as process:
            _, errors = process.communicate(timeout=60)
        return process.returncode, errors


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path)


def end(process: subprocess.Popen[str]) -> None:
    """Kill the process and whatever it has started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def read_lines(process: subprocess.Popen[str], n: int) -> None:
    assert process.stdout is not None
    for _ in range(n):
        assert process.stdout.readline()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_the_same_files(builder: Builder, whole: dict[str, bytes], workers: int) -> None:
    assert builder.run(workers) == (0, "")
    assert content(builder.folder) == whole


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "kills", "seed"), [(1, 4, 0), (2, 3, 2)])
def test_a_killed_build_goes_on(builder: Builder, whole: dict[str, bytes], workers: int, kills: int, seed: int) -> None:
    random, finished_shards = Random(seed), {}
    for _ in range(kills):
        process = builder.start(workers)
        read_lines(process, len(finished_shards) + random.randrange(1, 4))
        time.sleep(random.random() * 0.01)
        end(process)
        assert final_names(builder.folder) == []
        shards_now = identities(hidden_place(builder.folder))
        assert {name: shards_now[name] for name in finished_shards} == finished_shards, (
            "a finished shard was drawn again"
        )
        newest = max(shards_now, key=lambda name: shards_now[name][1])  # it may not be in the journal yet
        finished_shards = {name: identity for name, identity in shards_now.items() if name != newest}
    assert finished_shards
    assert builder.run(workers) == (0, "")
    assert content(builder.folder) == whole
    last = identities(builder.folder)
    assert {name: last[name] for name in finished_shards} == finished_shards


EVERY_STEP = f"""
small = {ONE}
build(small, 2000)  # compiled once for all
def killed_at(step, n):
    plain, calls = getattr(os, step), []
    def call(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*arguments, **keywords)
    setattr(os, step, call)
def in_a_fork(folder, *at):
    child = os.fork()
    if not child:
        if at:
            killed_at(*at)
        build(small, 2000, folder=folder)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
for n in range(1, 1000):
    folder = sys.argv[1] + "/" + str(n)
    if in_a_fork(folder, STEP, n) == 0:
        break
    print(n, in_a_fork(folder), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("step", "least"), [("fsync", 4), ("replace", 8), ("unlink", 1)])
def test_a_build_killed_at_any_step_goes_on(builder: Builder, step: str, least: int) -> None:
    """Killed before the first, the second, ... call of the operating system that makes a file last."""
    build(ONE, 2000, folder=builder.place / "whole")
    whole = content(builder.place / "whole")
    with builder.start(main=EVERY_STEP.replace("STEP", repr(step))) as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    statuses = dict(map(int, line.split()) for line in output.splitlines())
    assert len(statuses) >= least
    assert set(statuses.values()) == {0}, f"by number of the {step} where it was killed: {statuses}\n{errors[-300:]}"
    for n in statuses:
        files = content(builder.folder / str(n))
        files.pop(".lock", None)  # killed as it took away its lock, which nobody holds
        assert files.keys() == whole.keys(), f"killed at {step} number {n}"
        assert files == whole


def test_a_build_killed_while_its_files_move_keeps_its_work(builder: Builder, whole: dict[str, bytes]) -> None:
    """The shards in the hidden place are not drawn again."""
    main = """
plain = os.replace
def replace(source, target):
    if str(target) == sys.argv[1] + "/out_of_distribution/longer.npy":  # the first that moves
        os.kill(os.getpid(), signal.SIGKILL)
    plain(source, target)
os.replace = replace
make(*sys.argv[1:])
"""
    assert builder.run(main=main)[0] == -signal.SIGKILL
    before = identities(hidden_place(builder.folder))
    assert len(before) == sum(name.startswith("shards/") for name in whole)
    assert builder.run() == (0, "")
    assert content(builder.folder) == whole
    assert identities(builder.folder) == before


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_leaves_no_corpus_and_can_go_on(builder: Builder, whole: dict[str, bytes], workers: int) -> None:
    process = builder.start(workers)
    read_lines(process, 4)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT, errors
    assert errors.endswith("KeyboardInterrupt\n")
    assert final_names(builder.folder) == []
    with pytest.raises(artifacts.ArtifactError, match="half-written"):
        corpus.load(builder.folder)
    assert len(identities(hidden_place(builder.folder))) >= 4
    assert builder.run(workers) == (0, "")
    assert content(builder.folder) == whole


class StopError(Exception):
    pass


def interrupt_build(folder: Path, at: int, recipe: Mixture = CURRICULUM, size: int = SIZE, seed: int = 0) -> Path:
    """A build that fails once `at` programs are there; the hidden place of what it had finished."""

    earlier = set(folder.glob(".partial-*"))
    with pytest.raises(StopError):
        build(recipe, size, seed, folder=folder, progress=stop_at(at, size))
    (place,) = set(folder.glob(".partial-*")) - earlier
    return place


def names_of_shards(place: Path) -> list[str]:
    return [path.name for path in sorted(place.glob("shards/*.npy"), key=lambda path: path.stat().st_mtime_ns)]


def flip(place: Path) -> set[str]:
    """A bit of a program in the second shard; what must be drawn again."""
    name = names_of_shards(place)[1]
    data = bytearray((place / "shards" / name).read_bytes())
    data[-1] ^= 1
    (place / "shards" / name).write_bytes(data)
    return {name}


def cut(place: Path) -> set[str]:
    name = names_of_shards(place)[0]
    data = (place / "shards" / name).read_bytes()
    (place / "shards" / name).write_bytes(data[: len(data) // 2])
    return {name}


def remove(place: Path) -> set[str]:
    name = names_of_shards(place)[2]
    (place / "shards" / name).unlink()
    return {name}


def cut_journal(place: Path) -> set[str]:
    journal = place / ".journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    return set(names_of_shards(place)[-1:])


def cut_line_end(place: Path) -> set[str]:
    journal = place / ".journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-1])
    return set()


def empty_journal(place: Path) -> set[str]:
    (place / ".journal.jsonl").write_bytes(b"")
    return set(names_of_shards(place))


@pytest.mark.parametrize("damage", [flip, cut, remove, cut_journal, cut_line_end, empty_journal])
def test_damage_to_what_was_finished_is_noticed_and_mended(damage, tmp_path: Path, whole: dict[str, bytes]) -> None:
    place = interrupt_build(tmp_path, 5000)
    before = identities(place)
    damaged_names = damage(place)
    stopped_again = stopped_in_place(tmp_path, 6000)  # the journal must stay whole over a second interruption
    again = identities(stopped_again)
    assert {name for name in before if again[name] != before[name]} == damaged_names
    build(CURRICULUM, SIZE, folder=tmp_path)
    assert content(tmp_path) == whole
    last = identities(tmp_path)
    assert {name: last[name] for name in again} == again


def stopped_in_place(folder: Path, at: int) -> Path:
    """`stopped`, where an earlier one has left its hidden place."""
    place = hidden_place(folder)
    with pytest.raises(StopError):
        build(CURRICULUM, SIZE, folder=folder, progress=stop_at(at, SIZE))
    assert hidden_place(folder) == place
    return place


def stop_at(at: int, size: int) -> Progress:
    def stop(stage: str, fraction: float, note: str) -> None:
        if round(fraction * size) >= at:
            raise StopError

    return stop


@pytest.mark.parametrize("line", [b"\xff\xfe", b"5", b"null", b"[]", b"{}", b'{"name": "shards/0-compare-00000.npy"}'])
def test_nonsense_in_the_journal_is_passed_over(tmp_path: Path, whole: dict[str, bytes], line: bytes) -> None:
    journal = interrupt_build(tmp_path, 3000) / ".journal.jsonl"
    journal.write_bytes(journal.read_bytes() + line + b"\n")
    build(CURRICULUM, SIZE, folder=tmp_path)
    assert content(tmp_path) == whole


def test_resuming_where_duplicates_are_kept(tmp_path: Path) -> None:
    """What a family that keeps duplicates draws takes nothing from another one, resumed or not."""
    keeps = Mixture(
        "keeps", (Component(FEW), Component(Equality())), phases=(Phase(0.5, (Component(FEW, 1.0, "keep"),)),)
    )
    expected = texts(build(keeps, 140))
    assert texts(build(keeps, 140, folder=tmp_path / "whole")) == expected
    interrupt_build(tmp_path / "resumed", 70, keeps, 140)
    assert texts(build(keeps, 140, folder=tmp_path / "resumed")) == expected
    assert content(tmp_path / "resumed") == content(tmp_path / "whole")


@pytest.mark.parametrize(
    ("recipe", "size", "seed"),
    [
        (replace(CURRICULUM, hold_out=HoldOut()), SIZE, 0),
        (CURRICULUM, SIZE, 1),
        (CURRICULUM, SIZE - 1, 0),
    ],
)
def test_another_corpus_in_the_same_folder_starts_afresh(
    tmp_path: Path, whole: dict[str, bytes], recipe: Mixture, size: int, seed: int
) -> None:
    before = identities(interrupt_build(tmp_path / "both", 3000))
    place = interrupt_build(tmp_path / "both", 3000, recipe, size, seed)
    build(recipe, size, seed, folder=tmp_path / "alone")
    build(recipe, size, seed, folder=tmp_path / "both")
    assert not place.exists()
    visible = {name: data for name, data in content(tmp_path / "both").items() if not name.startswith(".")}
    assert visible == content(tmp_path / "alone")
    build(CURRICULUM, SIZE, folder=tmp_path / "both")  # and the first goes on where it was
    assert content(tmp_path / "both") == whole
    last = identities(tmp_path / "both")
    assert {name: last[name] for name in before} == before


def test_an_interrupted_build_leaves_the_corpus_before(tmp_path: Path) -> None:
    expected = texts(build(mixture.load("first"), 50, folder=tmp_path))
    interrupt_build(tmp_path, 3000)
    assert texts(corpus.load(tmp_path)) == expected


# --- workers that die ------------------------------------------------------------------------------------------------

needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found in /proc")


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The worker processes at work, oldest first."""
    pids = []
    for task in Path(f"/proc/{process.pid}/task").glob("*/children"):
        for child in read_or_nothing(task).decode().split():
            if b"spawn_main" in read_or_nothing(Path(f"/proc/{child}/cmdline")):
                pids.append(int(child))
    return sorted(pids)


def kill(worker: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)


def read_or_nothing(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.slow
@needs_proc
def test_a_killed_worker_is_replaced(builder: Builder, whole: dict[str, bytes]) -> None:
    process, killed_pids = builder.start(workers=2), set()
    for _ in range(3):
        read_lines(process, 2)
        for worker in workers_of(process)[:1]:
            kill(worker)
            killed_pids.add(worker)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert killed_pids
    assert content(builder.folder) == whole


@needs_proc
def test_workers_that_always_die_end_the_build_with_the_reason(builder: Builder, whole: dict[str, bytes]) -> None:
    process = builder.start(workers=2)
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        for worker in workers_of(process):
            kill(worker)
        time.sleep(0.01)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 1
    assert final_names(builder.folder) == []
    reason = "5 times in a row a worker died: is there enough memory? Use fewer workers"
    assert reason in errors.splitlines()[-1]
    assert errors.count("Traceback") == 1, "nothing beside the reason"
    assert builder.run(workers=1) == (0, "")
    assert content(builder.folder) == whole


@needs_proc
def test_workers_do_not_outlive_a_killed_build(builder: Builder) -> None:
    process = builder.start(workers=2)
    try:
        read_lines(process, 2)
        workers = workers_of(process)
        assert workers
        process.kill()
        process.wait()
        deadline = time.monotonic() + 3
        while alive := [w for w in workers if b"spawn_main" in read_or_nothing(Path(f"/proc/{w}/cmdline"))]:
            assert time.monotonic() < deadline, f"{len(alive)} workers are left"
            time.sleep(0.05)
    finally:
        end(process)


# --- full disks ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_full_disk_is_named_and_the_build_goes_on_later(builder: Builder, whole: dict[str, bytes]) -> None:
    main = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def fill(stage, fraction, note):
    if fraction >= 3 / 8:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
make(*sys.argv[1:], fill)
"""
    status, errors = builder.run(main=main)
    assert status == 1
    assert re.fullmatch(r"OSError: \[Errno 27\] File too large: '.*/corpus/.*'", errors.splitlines()[-1])
    assert final_names(builder.folder) == []
    before = identities(hidden_place(builder.folder))
    assert len(before) >= 3
    assert builder.run() == (0, "")
    assert content(builder.folder) == whole
    last = identities(builder.folder)
    assert {name: last[name] for name in before} == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; the shards take more."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True).returncode
    ):
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_disk_that_is_full_indeed(small_disk: Path, whole: dict[str, bytes]) -> None:
    folder = small_disk / "corpus"
    with pytest.raises(OSError, match=r"\[Errno 28\] No space left on device: '.*/corpus/.*'"):
        build(CURRICULUM, SIZE, folder=folder)
    assert final_names(folder) == []
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    build(CURRICULUM, SIZE, folder=folder)
    assert content(folder) == whole
