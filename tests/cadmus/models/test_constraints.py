"""Constrained decoding: what the masks allow is what the plain machine allows, and what comes out obeys."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from cadmus.machine import tokens, vm
from cadmus.models.config import ModelConfig
from cadmus.models.constraints import all_of, ends_true, no_nan
from cadmus.models.generation import LogitsMask, generate
from cadmus.models.model import Model
from cadmus.training.completion import complete

CFG = ModelConfig(n_layers=1, d_model=32, n_heads=2, d_head=16, d_mlp=32, n_ctx=40, initializer_range=0.5)

PROMPT_LINES = """
3 34+ 34+7= 3A4Bab+ (1,2,3, (1,2,3,1I 05 10= 0 9f
9f{ 9f{41 9f{41-*} {41-*}9 {41-*}9f {1>}(1,2,3, {0/} {0/}5 {+ {ff 1}
a a{ 10/ 10/; 10/3 3; ; 0F 05F (3M 3: {1-:0>\\F}9 {ff}1
"""
PROMPTS = ["", *PROMPT_LINES.split()]


def sequences(texts: list[str], width: int | None = None) -> Tensor:
    return torch.from_numpy(tokens.sequences(tokens.encode(texts, width))).long()


def leaves_nan(text: str) -> bool:
    outputs = vm.run(text).outputs
    return bool(outputs) and outputs[-1] is vm.NAN


def random_texts(n: int) -> list[str]:
    rng = np.random.default_rng(0)
    without_end = vm.VOCAB.replace(".", "")
    likely = "0123456789+-*(,{}fFMaA:" * 2 + without_end
    return ["".join(rng.choice(list(likely), rng.integers(0, 12))) for _ in range(n)]


@pytest.mark.parametrize("width", [None, 20])
def test_no_nan_is_decided_by_the_machine(width: int | None) -> None:
    texts = PROMPTS + random_texts(150)
    allowed = no_nan(sequences(texts, width))
    n_masked = 0
    for text, row in zip(texts, allowed.tolist(), strict=True):
        if leaves_nan(text):
            assert all(row), text
            continue
        n_masked += 1
        assert row == [not leaves_nan(text + token) for token in vm.VOCAB], text
        assert row[tokens.PAD]
    assert n_masked > 80


@pytest.mark.parametrize("width", [None, 20])
def test_ends_true_is_decided_by_the_machine(width: int | None) -> None:
    texts = PROMPTS + random_texts(150)
    allowed = ends_true(sequences(texts, width))
    ends = allowed[:, tokens.PAD].tolist()
    assert ends == [vm.verdict(text) for text in texts]
    assert 10 < sum(ends) < 150
    allowed[:, tokens.PAD] = True
    assert allowed.all(), "nothing else is forbidden"


def test_out_of_fuel_only_what_is_free_is_left() -> None:
    """4096 instructions complete; one more leaves NAN, but a definition costs nothing, nor does the end."""
    allowed = no_nan(sequences(["1" * vm.FUEL, "1" * (vm.FUEL - 1)]))
    assert "".join(token for token, ok in zip(vm.VOCAB, allowed[0].tolist(), strict=True) if ok) == ".{"
    assert allowed[1, :10].all()


@cache
def model(seed: int) -> Model:
    """A model that writes much of everything, and stops at times."""
    result = Model(CFG, seed=seed)
    with torch.no_grad():
        result.unembed.b_U[tokens.PAD] += 4
    return result.eval()


def completions(mask: LogitsMask | None, seed: int) -> tuple[list[str], list[str]]:
    """(prompts, texts): drawn continuations of the prompts that leave no NAN."""
    prompts = [text for text in PROMPTS * 8 if not leaves_nan(text)]
    lengths = torch.tensor([len(text) + 1 for text in prompts])
    generator = torch.Generator().manual_seed(seed)
    out = generate(model(seed), sequences(prompts), lengths, 25, mask, temperature=1.5, generator=generator)
    # behind what a row was allowed to write there is only padding, which must not pass for its own `.`
    written = [row[None, 1 : len(prompt) + 26] for row, prompt in zip(out.numpy().astype(np.uint8), prompts)]
    return prompts, [tokens.decode(row)[0] for row in written]


def test_what_ends_is_true() -> None:
    for mask in (ends_true, all_of(ends_true, no_nan)):
        _, texts = completions(mask, 0)
        ended = [text for text in texts if text.endswith(".")]
        assert len(ended) > 20
        assert all(map(vm.verdict, ended))
    ended = [text for text in completions(None, 0)[1] if text.endswith(".")]
    assert not all(map(vm.verdict, ended))


def test_nothing_comes_to_nan() -> None:
    for mask in (no_nan, all_of(ends_true, no_nan)):
        prompts, texts = completions(mask, 1)
        for prompt, text in zip(prompts, texts, strict=True):
            for end in range(len(prompt), len(text) + 1):
                assert not leaves_nan(text[:end]), text[:end]
            if vm.NAN not in vm.run(prompt).outputs:
                assert vm.NAN not in vm.run(text).outputs, "nor is there one deeper in the stack"
    free = completions(None, 1)[1]
    assert np.mean(list(map(leaves_nan, free))) > 0.2


def test_completions_of_texts_are_constrained() -> None:
    prompts = ["3", "34+", "0", "(1,2,", "{41-*}9f"]
    texts = complete(model(2), prompts, 20, logits_mask=ends_true)
    assert all(text.startswith(prompt) for text, prompt in zip(texts, prompts, strict=True))
    assert all(vm.verdict(text) for text in texts if text.endswith("."))
    with pytest.raises(ValueError, match=r"prompt 1 holds `\.` at position 3: it is complete already"):
        complete(model(2), ["3", "34.+"], 20)
