"""Generation: the key-value cache changes nothing but the time, hooks see whole passes, draws follow the model."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from cadmus.machine import tokens
from cadmus.models.config import ModelConfig
from cadmus.models.generation import generate
from cadmus.models.hooks import Hook
from cadmus.models.key_value_cache import KeyValueCache
from cadmus.models.model import Model
from tests.cadmus.models.test_model import CFG, EITHER, model, programs, same

PAD = tokens.PAD


def plainly(
    network: Model, prompt: list[int], new: int, allowed: Callable[[list[int]], list[bool]] | None
) -> list[int]:
    """Greedy completion of one prompt, without a cache, as plainly as it can be said."""
    sequence = list(prompt)
    for _ in range(new):
        scores = network(torch.tensor([sequence]))[0, -1].tolist()
        if allowed is not None:
            scores = [score if ok else -math.inf for score, ok in zip(scores, allowed(sequence), strict=True)]
        sequence.append(max(range(len(scores)), key=scores.__getitem__))
        if sequence[-1] == PAD:
            break
    return sequence


@cache
def stopping(cfg: ModelConfig = CFG) -> Model:
    """A model whose greedy completions stop sooner or later: its bias leans to a few tokens and to `.`."""
    network = Model(cfg, seed=11)
    with torch.no_grad():
        network.unembed.b_U[PAD] += 3.5
        network.unembed.b_U[:5] += 2.5
    return network.eval()


@cache
def prompts() -> tuple[Tensor, Tensor]:
    """Cut programs of 1 to 12 tokens, what stands behind the cut replaced by something else."""
    lengths = torch.arange(1, 13).repeat(2)
    rows = programs()[:, :14].clone()
    rows[:, 1:][rows[:, 1:] == PAD] = 5  # no prompt is complete
    rows[torch.arange(14) >= lengths[:, None]] = 7
    return rows, lengths


def no_token_twice(sequence: list[int]) -> list[bool]:
    """Nothing in the sequence may come again, but `.`, once there are 16 tokens."""
    return [(len(sequence) > 16) if token == PAD else token not in sequence for token in range(CFG.d_vocab)]


def no_token_twice_mask(batch: Tensor) -> Tensor:
    lengths = tokens.lengths(batch[:, 1:].numpy().astype("uint8")) + 1
    return torch.tensor([no_token_twice(row[:n]) for row, n in zip(batch.tolist(), lengths, strict=True)])


# --- as without a cache ----------------------------------------------------------------------------------------------


@EITHER
@pytest.mark.parametrize("masked", [False, True])
def test_completions_are_those_without_a_cache(cfg: ModelConfig, masked: bool) -> None:
    rows, lengths = prompts()
    before = rows.clone()
    network = stopping(cfg)
    out = generate(network, rows, lengths, 20, no_token_twice_mask if masked else None)
    assert out.dtype == torch.int64
    assert torch.equal(rows, before), "the prompts were written to"
    n_stopped = 0
    for row, length, completed in zip(rows.tolist(), lengths.tolist(), out.tolist(), strict=True):
        expected = plainly(network, row[:length], 20, no_token_twice if masked else None)
        assert completed[: len(expected)] == expected
        assert set(completed[len(expected) :]) <= {PAD}
        n_stopped += expected[-1] == PAD and len(expected) > length + 1
    assert n_stopped > 0, "some must stop on the way"
    assert masked or n_stopped < len(rows), "others not"


def passes_of(network: Model, run: Callable[[], object]) -> list[tuple[int, int]]:
    """The shapes of what the model reads while `run` runs."""
    shapes: list[tuple[int, int]] = []
    handle = network.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape)))
    try:
        run()
    finally:
        handle.remove()
    return shapes


def test_each_token_is_read_once_and_finished_rows_are_dropped() -> None:
    rows, lengths = prompts()
    shapes = passes_of(stopping(), lambda: generate(stopping(), rows, lengths, 20))
    assert shapes[0] == (24, 12)
    assert {width for _, width in shapes[1:]} == {1}
    counts = [count for count, _ in shapes]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < 0.75 * 24


def test_generation_alone_is_generation_in_a_batch() -> None:
    rows, lengths = prompts()
    together = generate(stopping(), rows, lengths, 20)
    for i in range(len(rows)):
        alone = generate(stopping(), rows[i : i + 1], lengths[i : i + 1], 20)
        end = int(lengths[i]) + 20
        assert torch.equal(alone[0, :end], together[i, :end])


def test_prompts_of_like_length_are_read_together() -> None:
    rows, lengths = (tensor.repeat_interleave(12, 0) for tensor in prompts())
    few = generate(stopping(), *prompts(), 20)
    shapes = passes_of(stopping(), lambda: generate(stopping(), rows, lengths, 1))
    assert shapes == [(128, 6), (128, 11), (32, 12)]
    shuffled = torch.randperm(288, generator=torch.Generator().manual_seed(0))
    many = generate(stopping(), rows[shuffled], lengths[shuffled], 20)
    assert torch.equal(many, few.repeat_interleave(12, 0)[shuffled])


def test_a_mask_sees_the_rows_that_go_on() -> None:
    rows, lengths = prompts()
    batches: list[Tensor] = []

    def look(batch: Tensor) -> Tensor:
        batches.append(batch.clone())
        return torch.ones(len(batch), CFG.d_vocab, dtype=torch.bool)

    out = generate(stopping(), rows, lengths, 20, look)
    assert torch.equal(out, generate(stopping(), rows, lengths, 20))
    for step, batch in enumerate(batches):
        ends = lengths + step
        written = (torch.arange(out.shape[1]) < ends[:, None]) & (out != PAD)
        unfinished = written[:, 1:].sum(1) == ends - 1
        expected = out[unfinished].clone()
        expected[torch.arange(out.shape[1]) >= ends[unfinished, None]] = PAD
        assert torch.equal(batch, expected)


def test_a_mask_may_force_the_end() -> None:
    rows, lengths = prompts()
    end = torch.zeros(CFG.d_vocab, dtype=torch.bool)
    end[PAD] = True
    out = generate(stopping(), rows, lengths, 20, logits_mask=lambda batch: end.expand(len(batch), -1))
    for row, length, completed in zip(rows.tolist(), lengths.tolist(), out.tolist(), strict=True):
        assert completed[:length] == row[:length]
        assert set(completed[length:]) == {PAD}


@EITHER
def test_generation_in_low_precision(cfg: ModelConfig) -> None:
    """What is cached keeps the precision in which it was computed."""
    rows, lengths = prompts()
    with torch.autocast("cpu", torch.bfloat16):
        out = generate(stopping(cfg), rows, lengths, 3)
    assert (out[torch.arange(24), lengths - 1] == rows[torch.arange(24), lengths - 1]).all()


def test_generation_of_nothing() -> None:
    rows, lengths = prompts()
    assert generate(stopping(), rows[:0], lengths[:0], 5).shape == (0, 5)
    nothing = generate(stopping(), rows, lengths, 0)
    assert nothing.shape == (24, 12)
    assert (nothing[torch.arange(24), lengths - 1] == rows[torch.arange(24), lengths - 1]).all()


# --- the cache -------------------------------------------------------------------------------------------------------


@EITHER
@torch.no_grad()
def test_a_pass_in_pieces_is_the_whole_pass(cfg: ModelConfig) -> None:
    rows = programs()
    width = rows.shape[1]
    whole = model(cfg)(rows)
    kv_cache = KeyValueCache(len(rows), width, rows.device)
    pieces = [model(cfg)(piece, kv_cache=kv_cache) for piece in rows.split([5, 1, 3, width - 9], 1)]
    assert same(torch.cat(pieces, 1), whole)
    kv_cache.lengths = torch.arange(len(rows)) % 9 + 1  # each row set back to its own length
    at = kv_cache.lengths[:, None] + torch.arange(2)
    again = model(cfg)(rows.gather(1, at), kv_cache=kv_cache)
    assert same(again, whole.gather(1, at[..., None].expand(-1, -1, cfg.d_vocab)))
    some_rows = torch.tensor([20, 8, 2, 5])
    kv_cache.lengths = kv_cache.lengths - 1
    kv_cache.rows = some_rows
    at = kv_cache.lengths[some_rows, None]
    once_more = model(cfg)(rows[some_rows].gather(1, at), kv_cache=kv_cache)
    assert same(once_more, whole[some_rows].gather(1, at[..., None].expand(-1, -1, cfg.d_vocab)))
    kv_cache.rows = None
    kept_rows = torch.tensor([3, 8, 20])
    kv_cache.keep(kept_rows)
    at = kv_cache.lengths[:, None]
    assert at[:, 0].tolist() == [3 % 9 + 2, 8 % 9 + 3, 20 % 9 + 3]
    last = model(cfg)(rows[kept_rows].gather(1, at), kv_cache=kv_cache)
    assert same(last, whole[kept_rows].gather(1, at[..., None].expand(-1, -1, cfg.d_vocab)))


@torch.no_grad()
def test_hooks_see_the_new_positions_of_a_pass_with_a_cache() -> None:
    rows = programs()
    _, whole = model().run_with_cache(rows)
    kv_cache = KeyValueCache(len(rows), 9, rows.device)
    model()(rows[:, :7], kv_cache=kv_cache)
    cache: dict[str, Tensor] = {}
    with model().hooks([(lambda name: name in whole, lambda tensor, hook: cache.update({hook.name: tensor}))]):
        model()(rows[:, 7:9], kv_cache=kv_cache)
    assert list(cache) == list(whole)
    for site, tensor in cache.items():
        by_key = "pattern" in site or "scores" in site
        expected = whole[site][:, :, 7:9, :9] if by_key else whole[site][:, 7:9]
        assert same(tensor, expected), site


@torch.no_grad()
def test_a_cache_that_is_full() -> None:
    kv_cache = KeyValueCache(24, 6, torch.device("cpu"))
    model()(programs()[:, :5], kv_cache=kv_cache)
    with pytest.raises(ValueError, match="7 positions, but the cache has room for 6; make it wider"):
        model()(programs()[:, 5:7], kv_cache=kv_cache)
    wide = KeyValueCache(1, 50, torch.device("cpu"))
    model()(torch.zeros(1, 40, dtype=torch.long), kv_cache=wide)
    with pytest.raises(ValueError, match="41 positions, but the model has n_ctx = 40"):
        model()(torch.zeros(1, 1, dtype=torch.long), kv_cache=wide)


def test_a_cache_holds_no_gradients() -> None:
    with pytest.raises(ValueError, match=r"a key-value cache holds no gradients; run the model within torch\.no_grad"):
        model()(programs(), kv_cache=KeyValueCache(24, 40, torch.device("cpu")))


# --- hooks -----------------------------------------------------------------------------------------------------------


def test_generation_sees_hooks() -> None:
    rows, lengths = prompts()
    plain = generate(stopping(), rows, lengths, 5)
    with stopping().hooks([("ln_final.hook_normalized", lambda tensor, hook: tensor * 0)]):
        edited = generate(stopping(), rows, lengths, 5)
    assert not torch.equal(plain, edited)
    assert (edited[torch.arange(24), lengths] == PAD).all(), "the bias alone says `.`"


def test_a_hook_sees_every_position_of_every_row_at_every_token() -> None:
    rows, lengths = prompts()
    shapes = []
    with stopping().hooks([("hook_embed", lambda tensor, hook: shapes.append(tuple(tensor.shape[:2])))]):
        looked = generate(stopping(), rows, lengths, 6)
    assert torch.equal(looked, generate(stopping(), rows, lengths, 6))
    assert shapes == [(24, 12 + step) for step in range(6)]


def test_an_edit_stays_at_its_row_and_position() -> None:
    """Each row has an edit of its own at its last given token; the reference completes row after row."""
    rows, lengths = prompts()
    site = "blocks.0.hook_resid_post"
    edits = 3 * torch.randn(len(rows), CFG.d_model, generator=torch.Generator().manual_seed(0))

    def edit_all(tensor: Tensor, hook: Hook) -> Tensor:
        tensor = tensor.clone()
        tensor[torch.arange(len(rows)), lengths - 1] = edits
        return tensor

    with stopping().hooks([(site, edit_all)]):
        out = generate(stopping(), rows, lengths, 20)
    for i, (row, length) in enumerate(zip(rows.tolist(), lengths.tolist(), strict=True)):

        def edit_one(tensor: Tensor, hook: Hook, i: int = i, length: int = length) -> Tensor:
            tensor = tensor.clone()
            tensor[0, length - 1] = edits[i]
            return tensor

        with stopping().hooks([(site, edit_one)]):
            expected = plainly(stopping(), row[:length], 20, None)
        assert out[i, : len(expected)].tolist() == expected
    assert not torch.equal(out, generate(stopping(), rows, lengths, 20))


# --- sampling --------------------------------------------------------------------------------------------------------

DRAWS = 20_000


def draw_frequencies(**options: float) -> tuple[Tensor, Tensor]:
    """How often each token follows one prompt among many draws, and its probability in the model: float [65] each."""
    prompt = prompts()[0][:1, :4]
    lengths = torch.full((DRAWS,), 4)
    generator = torch.Generator().manual_seed(3)
    out = generate(stopping(), prompt.expand(DRAWS, -1), lengths, 1, generator=generator, **options)
    counts = torch.bincount(out[:, 4], minlength=CFG.d_vocab)
    with torch.no_grad():
        scores = stopping()(prompt)[0, -1] / options["temperature"]
    return counts / DRAWS, scores.softmax(-1)


def agree(frequencies: Tensor, probabilities: Tensor) -> bool:
    """Within five standard errors everywhere."""
    error = (probabilities * (1 - probabilities) / DRAWS).sqrt()
    return bool(((frequencies - probabilities).abs() <= 5 * error + 1e-9).all())


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-39, 1e-30, 1.0, 1e30, 1e300])
def test_a_mask_holds_at_every_temperature(temperature: float) -> None:
    rows, lengths = prompts()
    generator = torch.Generator().manual_seed(0)
    allowed = torch.zeros(CFG.d_vocab, dtype=torch.bool).index_fill(0, torch.tensor([3, 5, 7]), True)
    out = generate(
        stopping(), rows, lengths, 5, lambda tokens: allowed.expand(len(tokens), -1),
        temperature=temperature, generator=generator,
    )  # fmt: skip
    for row, length in zip(out, lengths):
        assert set(row[length : length + 5].tolist()) <= {3, 5, 7}, temperature


@pytest.mark.parametrize("temperature", [float("inf"), float("nan"), -1.0])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    rows, lengths = prompts()
    with pytest.raises(ValueError, match="a finite temperature above 0"):
        generate(stopping(), rows, lengths, 1, temperature=temperature, generator=torch.Generator())


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_model(temperature: float) -> None:
    frequencies, probabilities = draw_frequencies(temperature=temperature)
    assert agree(frequencies, probabilities)
    assert not agree(frequencies, draw_frequencies(temperature=1.3)[1])


def test_draws_from_the_likeliest() -> None:
    frequencies, probabilities = draw_frequencies(temperature=2.0, top_k=5)
    likeliest = probabilities >= probabilities.sort(descending=True).values[4]
    assert agree(frequencies, probabilities * likeliest / probabilities[likeliest].sum())
    frequencies, probabilities = draw_frequencies(temperature=2.0, top_p=0.6)
    ordered = probabilities.sort(descending=True).values
    n_tokens = int((ordered.cumsum(0) < 0.6).sum()) + 1
    assert 2 < n_tokens < 40
    likeliest = probabilities >= ordered[n_tokens - 1]
    assert agree(frequencies, probabilities * likeliest / probabilities[likeliest].sum())
    assert (draw_frequencies(temperature=2.0, top_p=1e-9)[0] == torch.eye(65)[probabilities.argmax()]).all()
    assert (draw_frequencies(temperature=2.0, top_k=1)[0] == torch.eye(65)[probabilities.argmax()]).all()


def test_a_seed_fixes_the_draws_and_nothing_else() -> None:
    rows, lengths = prompts()
    state = torch.get_rng_state()

    def draw(seed: int) -> Tensor:
        return generate(stopping(), rows, lengths, 20, temperature=1.0, generator=torch.Generator().manual_seed(seed))

    first = draw(0)
    assert torch.equal(first, draw(0))
    assert not torch.equal(first, draw(1))
    assert torch.equal(torch.get_rng_state(), state), "global random state was touched"
    with stopping().hooks([("hook_embed", lambda tensor, hook: None)]):  # no cache, and no row is dropped
        assert torch.equal(first, draw(0))


def test_draws_obey_the_mask() -> None:
    rows, lengths = prompts()
    generator = torch.Generator().manual_seed(0)
    out = generate(stopping(), rows, lengths, 20, no_token_twice_mask, temperature=3.0, generator=generator)
    free = generate(stopping(), rows, lengths, 20, temperature=3.0, generator=generator)
    repeats = 0
    for completed, other, length in zip(out.tolist(), free.tolist(), lengths.tolist(), strict=True):
        for i in range(length, completed.index(PAD, length) if PAD in completed[length:] else len(completed)):
            assert completed[i] not in completed[1:i]
        repeats += len(set(other[length : length + 8])) < 8
    assert repeats > 12, "without the mask they would not"


# --- errors ----------------------------------------------------------------------------------------------------------


def test_generation_needs_positions() -> None:
    rows, lengths = prompts()
    generate(stopping(), rows, lengths, 40 - 12)
    with pytest.raises(ValueError, match="prompt and completion need 41 positions, the model has n_ctx = 40"):
        generate(stopping(), rows, lengths, 40 - 11)


def test_a_mask_that_allows_nothing_is_an_error() -> None:
    rows, lengths = prompts()

    def mask(batch: Tensor) -> Tensor:
        return (batch[:, 1:2] != rows[9, 1]).expand(-1, CFG.d_vocab)

    first = int((rows[:, 1] == rows[9, 1]).logical_and(lengths > 1).nonzero()[0])
    message = f"logits_mask allows no token for some prompt; it must leave one or more (prompt {first})"
    with pytest.raises(ValueError, match=re.escape(message)):
        generate(stopping(), rows, lengths, 2, mask)


def test_prompts_that_are_none() -> None:
    rows, lengths = prompts()
    complete = rows.clone()
    complete[11, 4] = PAD
    message = "prompt 11 holds `.` at position 4: it is complete already; give what stands before it"
    with pytest.raises(ValueError, match=message):
        generate(stopping(), complete, lengths, 2)
    for wrong in (0, 15):
        with pytest.raises(ValueError, match=r"must be from 1 \(the marker\) to 14, the prompts' columns"):
            generate(stopping(), rows, torch.where(lengths == 3, wrong, lengths), 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 1.0}, "temperature = 1.0 without a generator: use 0 and none for greedy completion"),
        ({"generator": torch.Generator()}, "temperature = 0.0 with a generator: use 0"),
        ({"temperature": -1.0, "generator": torch.Generator()}, "temperature = -1.0 with a generator: use 0"),
        ({"top_k": 3}, "top_k and top_p restrict sampling; pass a temperature above 0 and a generator, or leave them"),
        ({"temperature": 1.0, "generator": torch.Generator(), "top_k": 0}, "top_k = 0 must be 1 or more"),
        ({"temperature": 1.0, "generator": torch.Generator(), "top_p": 1.5}, "top_p = 1.5 must be above 0 and at most"),
    ],
)
def test_contradictory_sampling_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(stopping(), *prompts(), 2, **options)
