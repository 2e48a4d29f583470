"""What pages say of a model's training, whichever version wrote its record."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analyses.reporting import behaviour
from cadmus.training import checkpoint
from tests.studies import FIRST, save_run


def said_of(record: dict) -> str:
    trained = replace(checkpoint.load("cadmus-micro"), record={**checkpoint.load("cadmus-micro").record, **record})
    return behaviour.training_section(trained).paragraphs[0]


def test_a_record_that_was_just_written_is_told(tmp_path) -> None:
    trained = checkpoint.load(save_run(tmp_path / "run", FIRST))
    text = behaviour.training_section(trained).paragraphs[0]
    (stretch,) = trained.record["stretches"]
    assert f"tokens per second on {stretch['threads']} threads of {stretch['device']}, fp32; " in text
    assert f"{trained.record['share_of_peak']:.0%} of what a large matrix product reaches" in text


def test_each_machine_is_named_in_its_order() -> None:
    stretch = {"from_step": 0, "precision": "bf16", "muon": "bf16", "device": "one", "threads": 2}
    moved = [stretch, {**stretch, "device": "another", "precision": "fp32"}, stretch]
    assert "on 2 threads of one, bf16; then 2 threads of another, fp32; " in said_of({"stretches": moved})


@pytest.mark.parametrize(("share", "told"), [(8.78, False), (1.0, True), (0.31, True)])
def test_no_share_of_the_peak_above_1_is_printed(share: float, told: bool) -> None:
    """Records had such of CPUs that emulate bf16, where the product that was the peak took a minute."""
    text = said_of({"share_of_peak": share})
    assert (f"{share:.0%}" in text) == told
    assert ("matrix product" in text) == told


def test_an_older_record_is_told_too() -> None:
    older = {"stretches": None, "threads": 3, "device": "cpu", "config": {"precision": "bf16"}}
    assert "on 3 threads of cpu, bf16; " in said_of(older)
