"""What pages say of a model's training, whichever version wrote its record."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from analyses.cli import main
from analyses.reporting import behaviour
from cadmus.models.model import Model
from cadmus.training import checkpoint
from tests.studies import CFG, FIRST, MICRO, SITES
from tests.training import MIXED, QUICK, trained


def training_text(record: dict) -> str:
    micro = checkpoint.load(MICRO)
    (section,) = behaviour.training_sections(replace(micro, record={**micro.record, **record}))
    return section.paragraphs[0]


@pytest.mark.slow
def test_a_record_that_was_just_written_is_told(tmp_path) -> None:
    model, record = trained(replace(QUICK, steps=2))
    saved = checkpoint.save(tmp_path / "run", model, MIXED, record)
    (section,) = behaviour.training_sections(saved)
    text = section.paragraphs[0]
    (stretch,) = saved.record["stretches"]
    assert f"tokens per second on {stretch['threads']} threads of {stretch['device']}, fp32; " in text
    assert f"{saved.record['share_of_peak']:.0%} of what a large matrix product reaches" in text


def test_each_machine_is_named_in_its_order() -> None:
    stretch = {"from_step": 0, "precision": "bf16", "muon": "bf16", "device": "one", "threads": 2}
    moved = [stretch, {**stretch, "device": "another", "precision": "fp32"}, stretch]
    assert "on 2 threads of one, bf16; then 2 threads of another, fp32; " in training_text({"stretches": moved})


def test_runs_that_went_on_from_one_another_are_told_in_their_order() -> None:
    """Tokens are added up, the learning curve goes on, and of a GPU nobody counts threads."""
    micro = checkpoint.load(MICRO)
    gpu = {"from_step": 0, "precision": "bf16", "device": "a GPU", "device_type": "cuda", "threads": 4}
    first = {**micro.record, "tokens": 1000, "seconds": 10.0, "stretches": [gpu], "log": micro.record["log"][:1]}
    (section,) = behaviour.training_sections(replace(micro, record={**micro.record, "before": [first]}))
    text = section.paragraphs[0]
    assert f"trained on {micro.record['tokens'] + 1000:,} tokens: 1,000 tokens in 10 s (100 tokens per second" in text
    assert "on a GPU, bf16; " in text
    assert section.table is not None
    assert list(section.table["tokens"][:2]) == [first["log"][0]["tokens"], 1000 + micro.record["log"][0]["tokens"]]


def test_what_a_run_cost_is_said_at_its_rate() -> None:
    assert "; 0.40 dollars at 3.00 an hour of a device)" in training_text({"dollars_per_hour": 3.0, "dollars": 0.401})
    assert "dollars" not in training_text({"dollars_per_hour": 0.0})


def test_a_curve_of_completion_is_drawn_of_more_than_one_point() -> None:
    micro = checkpoint.load(MICRO)
    evaluations = [
        {
            "step": step,
            "tokens": step,
            "seconds": 1.0,
            "family": "compare",
            "accuracy": 0.5,
            "low": 0.4,
            "high": 0.6,
            "n": 9,
        }
        for step in (1, 2)
    ]
    for n_points, n_panels in ((0, 1), (1, 1), (2, 2)):
        (section,) = behaviour.training_sections(
            replace(micro, record={**micro.record, "before": [], "evaluations": evaluations[:n_points]})
        )
        assert section.figure is not None
        assert len(section.figure.axes) == n_panels
        assert ("Right:" in section.caption) == (n_panels == 2)


def test_no_share_of_the_peak_above_1_is_printed() -> None:
    """Records had such of CPUs that emulate bf16, where the product that was the peak took a minute."""
    for share, printed in ((8.78, False), (1.0, True), (0.31, True)):
        text = training_text({"share_of_peak": share})
        assert (f"{share:.0%}" in text) == printed, share
        assert ("matrix product" in text) == printed, share


def test_an_older_record_is_told_too() -> None:
    older = {"stretches": None, "threads": 3, "device": "cpu", "config": {"precision": "bf16"}}
    assert "on 3 threads of cpu, bf16; " in training_text(older)


LEAST = {"config": {"seed": 0}}


@pytest.mark.parametrize("record", [LEAST, {**LEAST, "log": []}, {**LEAST, "log": [{"step": 1, "loss": 2.0}]}])
def test_a_run_that_is_not_on_record_is_left_out(record: dict) -> None:
    micro = checkpoint.load(MICRO)
    assert behaviour.training_sections(replace(micro, record=record)) == ()
    (section,) = behaviour.training_sections(replace(micro, record={**micro.record, "before": [record]}))
    assert f"was trained on {micro.record['tokens']:,} tokens in " in section.paragraphs[0]
    assert section.paragraphs[0].endswith(" Of its 2 runs these are the ones on record.")
    assert "on record" not in training_text({})


def test_programs_are_told_as_far_as_they_are_on_record() -> None:
    micro = checkpoint.load(MICRO)
    assert behaviour.corpus_in_words(micro) == f"1,920,000 programs; {micro.corpus_fingerprint}"
    streamed = {"corpus": {"programs": "streamed", "fingerprint": "abc"}}
    assert behaviour.corpus_in_words(replace(micro, record=streamed)) == "streamed; abc"
    assert behaviour.corpus_in_words(replace(micro, record={"corpus": {"fingerprint": "abc"}})) == "abc"
    assert behaviour.corpus_in_words(replace(micro, record=LEAST)) == "not recorded"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["report", "--part", "completion", "--eval-programs", "5"],
        ["paper", "--reach", "2", "--programs", "1", "--number-programs", "200", "--eval-programs", "5"],
        ["probe", "--programs", "200", "--machines", "0", "--variable", "depth", "--site", SITES[1], "--offset", "0"],
    ],
)
def test_commands_make_pages_of_a_model_with_the_least_record(words: list[str], tmp_path, capsys) -> None:
    """As `checkpoint.save` takes it of a model from elsewhere."""
    checkpoint.save(tmp_path / "run", Model(CFG), FIRST, LEAST)
    assert main([*words, str(tmp_path / "run"), "--out", str(tmp_path / "page")]) == 0, capsys.readouterr().err
    page = (tmp_path / "page" / "report.md").read_text()
    assert "## Training" not in page
    assert ("- corpus: not recorded" in page) == (words[0] == "paper")


def test_the_first_sentence_has_the_accuracy_of_each_family_with_its_interval() -> None:
    rows = [
        ("compare", "test", 0.5, 0.4, 0.6),
        ("register", "test", 0.75, 0.7, 0.8),
        ("register", "ood", 0.1, 0.0, 0.2),
    ]
    table = pd.DataFrame(rows, columns=["family", "split", "accuracy", "low", "high"])
    assert behaviour.completion_sentence(table) == (
        "The model completes these shares of held-out programs (95 % intervals): register 0.75 [0.70, 0.80], compare "
        "0.50 [0.40, 0.60]."
    )
