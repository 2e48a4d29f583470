"""Completion accuracy is the machine's: by hand, against the plain machine, with its interval."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from cadmus.corpora import held_out
from cadmus.machine import tokens, vm
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from cadmus.programs import mixture
from cadmus.programs.families import Compare, Equality, Family, Register
from cadmus.programs.mixture import Component
from cadmus.training import completion
from cadmus.training.completion import CompletionAccuracy, complete, score_family
from cadmus.training.loop import train
from tests.training import CFG, MIXED, QUICK, programs


def writes(ending: str, at: int, n_ctx: int = 32) -> Model:
    """A model that reads positions only: behind `at` given tokens it writes `ending`, and `.` everywhere else."""
    cfg = ModelConfig(n_layers=1, d_model=2 * n_ctx, n_heads=1, d_head=4, d_mlp=4, n_ctx=n_ctx)
    model = Model(cfg).eval()
    written = dict(enumerate(ending, at))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".W_" in name:
                parameter.zero_()
        model.pos_embed.W_pos.copy_(torch.eye(n_ctx, 2 * n_ctx))
        for position in range(n_ctx):  # position i holds the token before token i
            model.unembed.W_U[position, vm.VOCAB.index(written.get(position, "."))] = 10.0
    return model


DIGITS = Compare(low=0, high=9, length=1)


def test_a_model_that_writes_what_it_is_told() -> None:
    assert complete(writes("><", 2), ["34", "11"]) == ["34><.", "11><."]
    assert complete(writes("7=", 5), ["3Aa", "3Aaa+"]) == ["3Aa.", "3Aaa+7=."]


def test_completion_goes_to_the_end_of_the_context() -> None:
    model = writes("1" * 40, 0, n_ctx=12)
    assert complete(model, ["34"]) == ["34" + "1" * 9]
    assert complete(model, ["34"], max_new_tokens=3) == ["34111"]
    assert complete(model, []) == []
    with pytest.raises(ValueError, match=r"one text is given, .34., where a list"):
        complete(model, "34")


def test_what_a_prefix_may_be_given_does_not_depend_on_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = writes("1" * 40, 0, n_ctx=12)
    prefixes = ["34", "1" * 8, "5", "12345"]
    together = complete(model, prefixes)
    assert together == [prefix + "111" for prefix in prefixes], "the room behind the longest of all"
    monkeypatch.setattr(completion, "_BATCH_SIZE", 1)
    assert complete(model, prefixes) == together


def test_a_prefix_that_leaves_no_room_is_refused() -> None:
    model = Model(replace(CFG, n_ctx=16))
    with pytest.raises(ValueError, match="a prefix of 15 tokens leaves no room for its completion: the model"):
        complete(model, ["1", "1" * 15])
    assert len(complete(model, ["1" * 14])) == 1


def test_completion_of_many_prompts_keeps_their_order() -> None:
    prompts = [f"{i % 10}{i // 10 % 10}{i // 100 % 10}" for i in range(2500)]
    assert complete(writes("+", 3), prompts) == [prompt + "+." for prompt in prompts]


@pytest.mark.parametrize(
    ("family", "texts", "ending", "expected"),
    [
        # accuracy, true_rate, canonical
        (DIGITS, ["43>.", "34<.", "33=.", "92>."], ">", (2 / 4, 2 / 4, 2 / 4)),
        (DIGITS, ["43>.", "34<.", "33=.", "02<."], "", (0, 3 / 4, 0)),  # `43.` is true, and not the answer
        (DIGITS, ["33=.", "44=."], "=!!", (0, 1, 0)),  # `33=!!.` is true, and begins as it should, and goes on
        (Equality(low=0, high=9, length=1), ["33=.", "34=!."], "", (1 / 2, 1 / 2, 1 / 2)),
        (Equality(low=0, high=9, length=1), ["33=.", "34=!.", "35=!."], "!", (2 / 3, 2 / 3, 2 / 3)),
        (Register(low=-9), ["7Aa7=.", "3Aa3=."], "7=", (1 / 2, 1 / 2, 1 / 2)),
        (Register(low=-9), ["7Aa7=.", "3Aa3=."], "70+=", (1 / 2, 1 / 2, 0)),  # `70+` is 7, but not as it is written
    ],
)
def test_scores_by_hand(family: Family, texts: list[str], ending: str, expected: tuple[float, ...]) -> None:
    (at,) = {position for text in texts for position in family.decisions(text)}
    row = score_family(writes(ending, at), family, "test", texts, seed=4)
    assert (row.accuracy, row.true_rate, row.canonical) == pytest.approx(expected)
    assert (row.family, row.split, row.n, row.seed) == (family.name, "test", len(texts), 4)


def test_a_completion_that_does_not_stop_is_not_right() -> None:
    """`43>` is true and of the form, but the context ends before a `.` is written."""
    row = score_family(writes(">", 2, n_ctx=4), DIGITS, "test", ["43>.", "92>."], 0)
    assert (row.accuracy, row.true_rate, row.canonical) == (0, 1, 0)
    assert score_family(writes(">", 2, n_ctx=5), DIGITS, "test", ["43>.", "92>."], 0).accuracy == 1


@cache
def learned() -> Model:
    """Trained enough to be right at times."""
    model = Model(replace(CFG, d_model=64, d_head=32))
    train(model, programs(), replace(QUICK, steps=120, warmup_steps=10))
    return model


@pytest.mark.parametrize("family", [Equality(), Register(assertions=2)], ids=str)
def test_scores_are_the_plain_machines(family: Family) -> None:
    texts = tokens.decode(held_out.held_out(family, "test", 200, 0))
    prompts = [(text, position) for text in texts for position in family.decisions(text)]
    completed = complete(learned(), [text[:position] for text, position in prompts])
    true = [vm.verdict(program) for program in completed]
    correct = []
    canonical = []
    for (text, position), program, is_true in zip(prompts, completed, true, strict=True):
        assert program.startswith(text[:position])
        correct.append(is_true and program.endswith(".") and family.accepts(program))
        canonical.append(program.startswith(text[:position] + family.answer(text, position)))
    row = score_family(learned(), family, "test", texts, 0)
    assert row.n == len(prompts) == 200 * len(family.decisions(texts[0]))
    assert row.accuracy == np.mean(correct)
    assert row.true_rate == np.mean(true)
    assert row.canonical == np.mean(canonical)
    assert 0 < row.accuracy < 1, "a model that is always wrong or always right shows little"


def wilson(k: int, n: int) -> tuple[float, float]:
    z, share = 1.959964, k / n
    middle, spread = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n)


@pytest.mark.parametrize("correct", [0, 1, 17, 40])
def test_interval_is_wilsons_and_holds_the_estimate(correct: int) -> None:
    texts = ["43>."] * correct + ["34<."] * (40 - correct)
    row = score_family(writes(">", 2), DIGITS, "test", texts, 0)
    assert row.accuracy == correct / 40
    assert (row.low, row.high) == pytest.approx(wilson(correct, 40), abs=1e-5)
    assert row.low - 1e-12 <= row.accuracy <= row.high + 1e-12
    assert row.high - row.low > 0.05


def test_evaluation_is_a_row_per_family_and_split() -> None:
    rows = completion.evaluate(learned(), MIXED, programs=100, seed=2)
    assert [(row.family, row.split, row.n) for row in rows] == [
        ("equality", "test", 100),
        ("equality", "test_skeleton", 100),
        ("register", "test", 200),
        ("register", "test_skeleton", 200),
    ]
    for row in rows:
        assert row.seed == 2
        assert 0 <= row.low <= row.accuracy <= row.high <= 1
        assert row.accuracy <= row.true_rate
        assert CompletionAccuracy(**row.to_dict()) == row
    texts = tokens.decode(held_out.held_out(MIXED.families[1], "test_skeleton", 100, 2))
    assert score_family(learned(), MIXED.families[1], "test_skeleton", texts, 2) == rows[3]
    (alone,) = completion.evaluate(
        learned(), mixture.Mixture("m", MIXED.components[:1]), splits=("test",), programs=100, seed=2
    )
    assert alone == rows[0]


def test_what_has_no_answer_of_its_own_earns_no_credit() -> None:
    """Behind the first `=` of `33=44=.` nothing need follow: only the answer behind the second is counted."""
    family = Equality(low=0, high=9, length=1, assertions=2)
    for ending, canonical in ((".", 1.0), ("!", 0.0)):
        row = score_family(writes(ending, 6), family, "test", ["33=44=."], 0)
        assert row.n == 2
        assert row.canonical == canonical


def test_programs_that_do_not_fit_are_counted() -> None:
    long = mixture.OutOfDistribution("long", Compare(length=7))
    mixed = mixture.Mixture("m", (Component(Compare(length=3, low=0, high=9)),), out_of_distribution=(long,))
    model = Model(ModelConfig(n_layers=1, d_model=32, n_heads=1, d_mlp=32, n_ctx=12))
    row = completion.evaluate(model, mixed, splits=("test",), programs=20)[-1]
    assert (row.split, row.n, row.too_long) == ("long", 0, 20)
    assert math.isnan(row.accuracy)


def test_a_completion_does_not_depend_on_the_rest_of_its_batch() -> None:
    """A row that has used up its tokens is padded with `.` to the batch's width: that is not its own `.`."""
    model = writes("3=" + "1" * 30, 3, n_ctx=10)
    assert complete(model, ["3Aa"], 3) == ["3Aa3=1"]
    assert complete(model, ["3Aa", "3A3A3Aa"], 2) == ["3Aa3=", "3A3A3Aa11"]
