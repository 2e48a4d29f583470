"""Models that are not ours, read through a token map: the right rows whatever the tokens, and no signal where the
alignment is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from cadmus.machine import tokens, vm
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from cadmus.programs import mixture
from probes.data.activations import Batch, batches, check_sites, residual_sites, token_rows
from probes.data.examples import Examples, draw
from probes.data.targets import Target
from probes.data.token_map import TokenMap
from probes.measurement import scores
from probes.measurement.measure import measure
from probes.solvers.bank import Bank
from tests.test_readme import blocks, execute
from tests.token_rows import gathered, same

D_VOCAB = 300
BOS = 299
IDS = {character: [17 + i] for i, character in enumerate(vm.VOCAB)}  # a token each
PAIRS = {character: [5 + i % 9, 100 + i] for i, character in enumerate(vm.VOCAB)}  # two tokens each
TEXTS = ["3A4Bab+7=.", "95-4=.", "1.", "12.", "123.", "1234567890", "44."]
SITE = "blocks.1.hook_resid_post"


@cache
def hooked(normalization: str = "LNPre", n_ctx: int = 96) -> HookedTransformer:
    cfg = HookedTransformerConfig(
        n_layers=2,
        d_model=32,
        n_heads=2,
        d_head=16,
        n_ctx=n_ctx,
        d_vocab=D_VOCAB,
        act_fn="gelu",
        normalization_type=normalization,
        seed=0,
    )
    return HookedTransformer(cfg).eval()


@cache
def bridged() -> Any:
    """A GPT-2 of transformers, not trained, in TransformerLens's bridge."""
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=D_VOCAB, n_positions=96)).eval()
    return TransformerBridge.boot_transformers("gpt2", hf_model=gpt2, tokenizer=tokenizer("words"))


@cache
def ours() -> Model:
    return Model(ModelConfig(n_layers=2, d_model=32, n_heads=2, d_head=16, n_ctx=96, d_vocab=D_VOCAB), seed=0).eval()


@cache
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A word for each character, or pairs of them merged where they are frequent."""
    if kind == "words":
        words = Tokenizer(models.WordLevel({"<u>": 0} | {c: i + 1 for i, c in enumerate(vm.VOCAB)}, unk_token="<u>"))
        words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<u>")
    merged = Tokenizer(models.BPE(unk_token="<u>"))
    merged.train_from_iterator(
        ["12", "12", "44", *vm.VOCAB], trainers.BpeTrainer(vocab_size=80, special_tokens=["<u>"], show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=merged, unk_token="<u>")


MAPS = {
    "a token each": TokenMap.of_characters(IDS),
    "a token each, BOS": TokenMap.of_characters(IDS, [BOS]),
    "two tokens each, a prompt": TokenMap.of_characters(PAIRS, [BOS, 3, 4]),
}


# --- maps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token_map", "ids", "positions"),
    [
        ("a token each", [18, 17 + vm.VOCAB.index(".")], [-1, 0, 1]),
        ("a token each, BOS", [BOS, 18, 17 + vm.VOCAB.index(".")], [-1, 1, 2]),
        ("two tokens each, a prompt", [BOS, 3, 4, 6, 101, 5 + vm.VOCAB.index(".") % 9, 165 - 1], [-1, 4, 6]),
    ],
)
def test_positions_are_those_of_the_last_token_of_each_character(
    token_map: str, ids: list[int], positions: list[int]
) -> None:
    text = vm.VOCAB[1] + "."
    inputs = MAPS[token_map].inputs(tokens.encode([text, "12345."]))
    assert len(inputs.ids[0]) == len(ids)
    assert inputs.ids[0].tolist()[:-1] == ids[:-1]
    assert inputs.positions[0].tolist()[:3] == positions
    assert (inputs.positions[0, 3:] == -1).all()
    assert not inputs.readable[:, 0].any()
    assert str(inputs) == f"ModelInputs(2 programs, {sum(map(len, inputs.ids))} tokens)"


def test_a_tokenizer_gives_its_own_alignment() -> None:
    words = TokenMap.of_tokenizer(tokenizer("words"), [BOS]).inputs(tokens.encode(["12+.", "4."]))
    assert words.positions.tolist() == [[-1, 1, 2, 3, 4], [-1, 1, 2, -1, -1]]
    assert words.ids[1].tolist() == [BOS, 1 + vm.VOCAB.index("4"), 1 + vm.VOCAB.index(".")]


def test_a_character_inside_a_token_has_no_position() -> None:
    merged = TokenMap.of_tokenizer(tokenizer("merged")).inputs(tokens.encode(["12+12.", "21."]))
    assert merged.positions.tolist() == [[-1, -1, 0, 1, -1, 2, 3], [-1, 0, 1, 2, -1, -1, -1]]


@pytest.mark.parametrize(
    ("token_map", "message"),
    [
        (
            TokenMap(lambda text: [], lambda text: [0] * len(text)),
            r"tokens gave \[\] for '12.'; expected a list of ids",
        ),
        (TokenMap(lambda text: [0.5], lambda text: [0] * len(text)), r"tokens gave \[0.5\] for '12.'"),
        (TokenMap(lambda text: [-1], lambda text: [0] * len(text)), "whole numbers from 0 on"),
        (TokenMap(lambda text: [1], lambda text: [0]), "positions gave 1 for the 3 characters of '12.'; give one for"),
        (
            TokenMap(lambda text: [1, 2], lambda text: [0, 1, 2]),
            r"positions gave \[0, 1, 2\] for '12.', whose tokens are at 0 ... 1; give None",
        ),
        (
            TokenMap(lambda text: [1, 2, 3], lambda text: [0, 1, -1]),  # Python's last, and no position of the model
            r"positions gave \[0, 1, -1\] for '12.', whose tokens are at 0 ... 2; give None",
        ),
        (
            TokenMap(lambda text: [1, 2, 3], lambda text: [0, 0.5, 1]),
            r"positions gave \[0.0, 0.5, 1.0\] for '12.', whose tokens are at 0 ... 2; give None",
        ),
    ],
)
def test_what_does_not_fit_is_told_with_the_program(token_map: TokenMap, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_map.inputs(tokens.encode(["12."]))


# --- rows ------------------------------------------------------------------------------------------------------------


def one_by_one(model: Any, token_map: TokenMap, programs: np.ndarray, site: str, batch: Batch) -> np.ndarray:
    """The rows of a batch, each program run by itself."""
    inputs = token_map.inputs(programs)
    rows = []
    for program, position in zip(batch.programs, batch.positions, strict=True):
        with torch.no_grad():
            _, cache = model.run_with_cache(torch.from_numpy(inputs.ids[program])[None])
        rows.append(cache[site][0, inputs.positions[program, position]].flatten().numpy())
    return np.stack(rows)


@pytest.mark.parametrize("token_map", MAPS.values(), ids=MAPS)
@pytest.mark.parametrize("model", [hooked, bridged, ours], ids=["LNPre", "TransformerBridge", "ours"])
def test_rows_are_the_models_at_the_maps_positions(model: Any, token_map: TokenMap) -> None:
    programs = tokens.encode(TEXTS)
    sites = [SITE, "blocks.0.attn.hook_z", "hook_embed"]
    batch = gathered(token_rows(model(), programs, sites, token_map=token_map, rows_per_batch=9))
    assert len(batch.programs) == sum(map(len, TEXTS))
    for site in sites:
        assert same(batch.activations[site], one_by_one(model(), token_map, programs, site, batch))
        assert batch.activations[site].dtype == np.float32


def test_requested_positions_alone_are_read_and_programs_run_no_further() -> None:
    programs, token_map = tokens.encode(TEXTS), MAPS["two tokens each, a prompt"]
    where = np.zeros((len(programs), programs.shape[1] + 1), np.bool_)
    where[0, [2, 5]] = where[4, 1] = True
    batch = gathered(token_rows(hooked(n_ctx=13), programs, SITE, where=where, token_map=token_map))
    assert sorted(zip(batch.programs.tolist(), batch.positions.tolist())) == [(0, 2), (0, 5), (4, 1)]
    assert batch.activations[SITE].shape == (3, 32)
    where[0, 9] = True
    with pytest.raises(ValueError, match="21 positions are requested, but the model has n_ctx = 13"):
        token_rows(hooked(n_ctx=13), programs, SITE, where=where, token_map=token_map)


def test_a_tokenizer_that_pads_on_the_left_changes_nothing() -> None:
    model = HookedTransformer(hooked().cfg).eval()
    model.load_state_dict(hooked().state_dict())
    token_map, programs = MAPS["a token each, BOS"], tokens.encode(TEXTS)
    expected = gathered(token_rows(hooked(), programs, SITE, token_map=token_map))
    padding = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer("words").backend_tokenizer, pad_token="<u>", padding_side="left"
    )
    model.tokenizer = padding
    batch = gathered(token_rows(model, programs, SITE, token_map=token_map))
    assert same(batch.activations[SITE], expected.activations[SITE])


def test_a_cache_knows_what_was_read(tmp_path: Path) -> None:
    programs = tokens.encode(TEXTS)
    a, b = (MAPS[name] for name in ("a token each", "a token each, BOS"))
    first = gathered(token_rows(hooked(), programs, SITE, token_map=a, cache=tmp_path))
    other = gathered(token_rows(hooked(), programs, SITE, token_map=b, cache=tmp_path))
    again = gathered(token_rows(hooked(), programs, SITE, token_map=a, cache=tmp_path))
    assert np.array_equal(first.activations[SITE], again.activations[SITE])
    assert not same(first.activations[SITE], other.activations[SITE])
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"the model has d_vocab = 300, the machine 65 tokens: say with token_map= what it reads"),
        (
            {"token_map": TokenMap.of_characters({c: [400] for c in vm.VOCAB})},
            "tokens gave the id 400, but the model",
        ),
        ({"where": "marker", "token_map": MAPS["a token each"]}, "where asks for 7 tokens that the token map has no"),
        ({"sites": "blocks.7.hook_z", "token_map": MAPS["a token each"]}, "site 'blocks.7.hook_z' does not exist"),
        ({"sites": "blocks.0.attn.hook_pattern", "token_map": MAPS["a token each"]}, "not a row per token"),
        ({"sites": "blocks.0.attn.hook_result", "token_map": MAPS["a token each"]}, "never fired"),
    ],
)
def test_errors_say_what_to_do(arguments: dict[str, Any], message: str) -> None:
    programs = tokens.encode(TEXTS)
    if arguments.get("where") == "marker":
        arguments["where"] = np.arange(programs.shape[1] + 1) < np.ones((len(programs), 1))
    with pytest.raises(ValueError, match=message):
        list(token_rows(hooked("LN"), programs, arguments.pop("sites", SITE), **arguments))


def test_a_model_without_hooks_is_told_so() -> None:
    with pytest.raises(ValueError, match="a Linear has no hook_dict and run_with_cache; take a HookedTransformer"):
        check_sites(torch.nn.Linear(2, 2), SITE, MAPS["a token each"])


# --- measuring -------------------------------------------------------------------------------------------------------


@cache
def examples() -> Examples:
    drawn = draw(mixture.load("first"), 400)
    return drawn[drawn.where[:, 40:].sum(1) == 0]


def token_seen(traces: Any, programs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The value of the digit that stands at a token: what an embedding holds, where it is read at that token."""
    return programs.astype(np.int64), programs < 10


token_seen.category = True  # type: ignore[attr-defined]


def accuracy(token_map: TokenMap, model: Any) -> float:
    site = "blocks.0.hook_resid_pre"
    measured = measure(model, examples(), [Target(token_seen)], site, controls=False, token_map=token_map)
    return float(measured.validation[site][0])


@pytest.mark.parametrize("model", [hooked, bridged], ids=["HookedTransformer, LNPre", "TransformerBridge"])
def test_the_signal_is_there_and_a_wrong_alignment_loses_it(model: Any) -> None:
    right = MAPS["two tokens each, a prompt"]

    def shifted(text: str) -> Sequence[int]:
        return [place - 2 for place in right.positions(text) if place is not None]  # a character too early

    assert accuracy(right, model()) > 0.99
    assert accuracy(TokenMap(right.tokens, shifted), model()) < 0.5


def test_tokens_without_a_position_are_left_out() -> None:
    token_map = MAPS["a token each"]

    def every_other(text: str) -> list[int | None]:
        return [i if i % 2 else None for i in range(len(text))]

    def n_labels(site: str, model: str, train: Bank, validation: Bank) -> float:
        return float(train.counts.sum())

    few, every = (
        measure(hooked(), examples(), [Target("depth")], [SITE], controls=False, token_map=of, keep=n_labels)
        for of in (TokenMap(token_map.tokens, every_other), token_map)
    )
    assert 0.4 < few.kept_values["trained", SITE] / every.kept_values["trained", SITE] < 0.6


@pytest.mark.slow
def test_a_whole_measurement_of_a_model_that_is_not_ours() -> None:
    """With its controls, an untrained model, networks and all sites of the residual stream."""
    token_map = MAPS["a token each, BOS"]
    measured = measure(
        hooked(),
        examples(),
        [Target("stack.0.value"), Target("depth"), Target("depth", permuted=True)],
        residual_sites(hooked()),
        untrained=hooked("LN"),
        nonlinear=True,
        token_map=token_map,
    )
    table = scores.table(measured)
    assert set(table["site"]) == set(residual_sites(hooked()))
    assert table[table["by"] == "all"]["untrained"].notna().any()


def test_a_token_map_for_our_own_tokens_gives_our_own_rows() -> None:
    """The leading marker as a prefix: what `token_rows` does by itself, of a compiled model too."""
    model = Model(ModelConfig(n_layers=2, d_model=32, n_heads=2, d_head=16, n_ctx=64), seed=1).eval()
    own = TokenMap.of_characters({c: [i] for i, c in enumerate(vm.VOCAB)}, [vm.VOCAB.index(".")])
    programs = examples().programs[:40]
    plain = gathered(token_rows(model, programs, SITE))
    for ours in (model, torch.compile(model, backend="eager")):
        mapped = gathered(token_rows(ours, programs, SITE, token_map=own))
        assert np.array_equal(plain.programs, mapped.programs)
        assert np.array_equal(plain.positions, mapped.positions)
        assert same(plain.activations[SITE], mapped.activations[SITE])


# --- sites, however they are named -----------------------------------------------------------------------------------


def test_sites_may_come_from_a_generator() -> None:
    programs = examples().programs[:5]
    model = Model(ModelConfig(n_layers=2, d_model=32, n_heads=2, d_head=16, n_ctx=64), seed=1)

    def names() -> Iterator[str]:
        yield from (SITE, "hook_embed")

    assert all(set(batch.activations) == {SITE, "hook_embed"} for batch in token_rows(model, programs, names()))
    assert all(set(cache) == {SITE, "hook_embed"} for _, cache in batches(model, programs, names()))
    assert all(set(cache) == {SITE} for _, cache in batches(model, programs, SITE))
    with pytest.raises(ValueError, match="no site is named; name one or more"):
        token_rows(model, programs, (name for name in ()))


def test_measure_takes_one_site_by_its_name() -> None:
    model = Model(ModelConfig(n_layers=2, d_model=32, n_heads=2, d_head=16, n_ctx=64), seed=1)
    for sites in (SITE, iter([SITE]), lambda name: name == SITE):
        assert measure(model, examples(), [Target("depth")], sites, controls=False).sites == (SITE,)


@pytest.mark.slow
def test_the_page_on_other_models_runs_as_one_session() -> None:
    page = (Path(__file__).parents[3] / "docs" / "other-models.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    assert sum(execute(block, names) for block in blocks(page)) == 4
    assert set(names["table"]["variable"]) == {"depth"}
