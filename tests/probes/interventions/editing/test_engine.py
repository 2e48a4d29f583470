"""The engine of interventions: partial passes against whole ones, edges, completions, gradients, errors."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cadmus.models.model import Model
from cadmus.training.completion import complete as plain_completion
from probes.interventions.editing import changes, continuations, engine, partial_passes
from probes.interventions.editing.edits import EdgeEdit, Edit
from tests.fuzzing import examples
from tests.probes.interventions.editing.models import AT, MODEL, MODELS, PROMPTS, ROWS, WIDTH, sequences

KINDS = [
    "hook_embed",
    "hook_resid_pre",
    "hook_attn_in",
    "hook_q_input",
    "hook_k_input",
    "hook_v_input",
    "ln1.hook_scale",
    "ln1.hook_normalized",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_attn_scores",
    "attn.hook_pattern",
    "attn.hook_z",
    "attn.hook_result",
    "hook_attn_out",
    "hook_resid_mid",
    "hook_mlp_in",
    "ln2.hook_scale",
    "ln2.hook_normalized",
    "mlp.hook_pre",
    "mlp.hook_post",
    "hook_mlp_out",
    "hook_resid_post",
    "ln_final.hook_scale",
    "ln_final.hook_normalized",
    "unembed.hook_in",
    "unembed.hook_out",
]


def site(model: Model, kind: str, layer: int) -> str:
    name = kind if kind.startswith(("ln_final", "unembed", "hook_embed")) else f"blocks.{layer}.{kind}"
    if model.cfg.positional_embedding_type == "rotary" and kind in ("attn.hook_q", "attn.hook_k"):
        name = name.replace("hook_", "hook_rot_")
    return name


@st.composite
def edits(draw, model):
    kind = draw(st.sampled_from(KINDS))
    name = site(model, kind, draw(st.integers(0, model.cfg.n_layers - 1)))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    positions = draw(st.sampled_from(["all", "one", "each", "many"]))
    if positions == "each":
        where = rng.integers(-1, WIDTH, ROWS)
    elif positions == "many":
        where = np.stack([rng.permutation(WIDTH)[:3] for _ in range(ROWS)]) - (rng.random((ROWS, 3)) < 0.3) * WIDTH
        where = np.maximum(where, -1)
    else:
        where = int(rng.integers(0, WIDTH)) if positions == "one" else None
    heads = None
    values = engine.activations(model, sequences(seed=1), [name])[name]
    is_attention = kind in ("attn.hook_attn_scores", "attn.hook_pattern")
    values = values.transpose(1, 2) if is_attention else values
    if is_attention or kind.startswith(("attn.", "hook_attn_in", "hook_q", "hook_k", "hook_v")):
        heads = draw(st.sampled_from([None, [1], [0, 2]]))
        values = values if heads is None else values[:, :, heads]
    if where is not None:
        columns = np.reshape(where, (-1, 1)) if np.ndim(where) < 2 else where  # [rows or 1, k]
        values = values[np.arange(ROWS)[:, None], np.maximum(columns, 0)]
    if draw(st.booleans()) or kind == "attn.hook_attn_scores":
        return Edit(name, where, changes.patch(values), heads)
    return Edit(name, where, changes.add(values, 0.5), heads)


@st.composite
def edge_edits(draw, model):
    layer = draw(st.integers(0, model.cfg.n_layers - 1))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    queries = rng.integers(3, WIDTH, (ROWS, 2))
    keys = np.stack([rng.integers(1, 3, ROWS), rng.integers(0, 1, ROWS)], 1)
    mode = draw(st.sampled_from(["block", "zero", "move"]))
    to = rng.integers(0, 3, (ROWS, 2)) if mode == "move" else None
    return EdgeEdit(layer, queries, keys, draw(st.sampled_from([None, [2], [0, 1]])), mode, to)


@st.composite
def arms(draw, model):
    one = st.lists(edits(model) | edge_edits(model), min_size=1, max_size=3)
    return draw(st.lists(one.filter(lambda arm: not (has(arm, "_in") and has(arm, "ln1."))), min_size=1, max_size=4))


def has(arm, part: str) -> bool:
    """Whether an edit of the arm is at a site of that part of a name; inputs of heads give ln1 another shape."""
    return any(isinstance(edit, Edit) and part in edit.site for edit in arm)


@pytest.mark.parametrize("positions", MODELS)
@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_partial_passes_are_whole_passes(positions, data):
    model = MODELS[positions]
    chosen_arms = data.draw(arms(model))
    expected = engine.run(model, sequences(), chosen_arms, AT, fast=False)
    actual = engine.run(model, sequences(), chosen_arms, AT)
    torch.testing.assert_close(actual.logits, expected.logits, rtol=1e-5, atol=1e-5)
    assert (actual.changed == expected.changed).all()
    assert not model.has_hooks


@pytest.mark.parametrize("positions", MODELS)
@settings(max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_completions_are_those_of_whole_passes(positions, data):
    model = MODELS[positions]
    chosen_arms = [*data.draw(arms(model)), []]
    in_generation = data.draw(st.booleans())
    prompts = PROMPTS
    both = []
    for fast in (True, False):
        try:
            both.append(engine.complete(model, prompts, chosen_arms, 6, edits_in_generation=in_generation, fast=fast))
        except ValueError as error:
            both.append(str(error))
    assert both[0] == both[1]


# --- what an edit does -----------------------------------------------------------------------------------------------


def test_a_patch_of_everything_gives_the_source():
    base, source = sequences(), sequences(seed=1)
    values = engine.activations(MODEL, source, ["hook_embed", "blocks.1.hook_resid_pre"])
    expected = engine.logits(MODEL, source, [[]], AT)[0]
    arms = {site: Edit(site, None, changes.patch(value)) for site, value in values.items()}
    for logits in engine.logits(MODEL, base, arms, AT):
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_what_an_edit_cannot_reach_is_as_it_was():
    base = sequences()
    plain = engine.logits(MODEL, base, [[]], AT)[0]
    outcome = engine.run(MODEL, base, [Edit("blocks.1.hook_resid_pre", 6, changes.zero())], AT)
    assert outcome.changed.tolist() == [[True, False, True, True]]  # row 1 ends at position 5
    torch.testing.assert_close(outcome.logits[0, 1], plain[1], rtol=0, atol=1e-6)
    assert (outcome.logits[0, [0, 2, 3]] != plain[[0, 2, 3]]).any()


def attention(layer, edit, kind="pattern"):
    """The pattern [row, head, query, key] of a layer under an edit."""
    store = {}
    site = f"blocks.{layer}.attn.hook_{kind}"
    with engine.applied(MODEL, edit), MODEL.hooks([(site, lambda x, hook: store.update(x=x.clone()))]):
        MODEL(sequences())
    return store["x"]


@pytest.mark.parametrize("mode", ["block", "zero", "move"])
def test_an_edge_is_taken_away_in_its_heads_alone(mode):
    site = "blocks.1.attn.hook_pattern"
    before = engine.activations(MODEL, sequences(), [site])[site]
    keys, queries = np.array([1, 2, 3, 0]), np.array([5, 5, 7, 8])
    edit = EdgeEdit(1, queries, keys, [0, 2], mode, to=4 * np.ones(4, int) if mode == "move" else None)
    after = attention(1, edit)
    torch.testing.assert_close(after[:, 1], before[:, 1])
    for row, (query, key) in enumerate(zip(queries, keys, strict=True)):
        was, now = before[row, [0, 2], query], after[row, [0, 2], query]
        expected = was.clone()
        expected[:, key] = 0
        if mode == "block":
            expected /= expected.sum(-1, keepdim=True)
        if mode == "move":
            expected[:, 4] += was[:, key]
        torch.testing.assert_close(now, expected)
    others = np.setdiff1d(np.arange(WIDTH), queries)
    torch.testing.assert_close(after[:, :, others], before[:, :, others])


def test_edges_go_on_in_generation_only_if_asked_for():
    edit = EdgeEdit(0, [[3], [3], [3], [3]], [[1], [1], [1], [1]], None, "zero")
    runs = [engine.complete(MODEL, PROMPTS, [edit], 8, edits_in_generation=goes_on) for goes_on in (False, True)]
    assert runs[0] != runs[1]


def test_completions_without_edits_are_those_of_the_model():
    (plain,) = engine.complete(MODEL, PROMPTS, [[]], 6)
    assert plain == plain_completion(MODEL, PROMPTS, 6)
    zero = Edit("blocks.1.hook_attn_out", None, changes.zero())
    assert engine.complete(MODEL, PROMPTS, {"ablated": zero}, 6) != [plain]
    assert engine.complete(MODEL, [], [zero]) == [[]]


def test_copies_that_are_continued_in_parts_write_the_same(monkeypatch):
    sites = [f"blocks.{layer}.{name}" for layer in (0, 1) for name in ("hook_attn_out", "hook_mlp_out")]
    arms = [Edit(site, None, changes.zero()) for site in sites]
    together = engine.complete(MODEL, PROMPTS, arms, 6)
    assert len({tuple(texts) for texts in together}) > 1
    monkeypatch.setattr(continuations, "_MAX_CONTINUED", 3)
    assert engine.complete(MODEL, PROMPTS, arms, 6) == together
    assert engine.complete(MODEL, PROMPTS, arms, 6, fast=False) == together


def test_rows_that_an_arm_leaves_as_they_are_need_not_be_written():
    arms = [Edit("blocks.1.hook_resid_post", [2, -1, 3, -1], changes.zero()), []]
    whole = engine.write(MODEL, PROMPTS, arms, 6)
    part = engine.write(MODEL, PROMPTS, arms, 6, only_changed=True)
    assert part.changed.tolist() == whole.changed.tolist() == [[True, False, True, False], [False] * 4]
    torch.testing.assert_close(part.logits, whole.logits)
    for arm in range(2):
        for row, prompt in enumerate(PROMPTS):
            expected = whole.texts[arm][row] if whole.changed[arm, row] else prompt + "."
            assert part.texts[arm][row] == expected


def test_gradients_pass_through_what_is_applied():
    model = MODEL
    vector = torch.zeros(model.cfg.d_model, requires_grad=True)
    edit = Edit("blocks.1.hook_resid_pre", 3, changes.add(vector + 1e-3))
    with engine.applied(model, edit):
        value = model(sequences())[np.arange(ROWS), AT, 5].sum()
    (gradient,) = torch.autograd.grad(value, [vector])  # the model, which others share, keeps none
    step = 1e-2 * gradient / gradient.norm()
    logits = [
        engine.logits(model.double(), sequences(), [Edit(edit.site, 3, changes.add(sign * step.double() + 1e-3))], AT)[
            0
        ]
        for sign in (-1, 1)
    ]
    model.float()
    slope = float((logits[1][:, 5] - logits[0][:, 5]).sum()) / 2e-2
    assert slope == pytest.approx(float(gradient.norm()), rel=0.05)


# --- bad input -------------------------------------------------------------------------------------------------------


ZERO = changes.zero()


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (Edit("blocks.7.hook_resid_pre", 1, ZERO), r"site 'blocks.7.hook_resid_pre' does not exist.*3 layers"),
        (
            Edit("blocks.1.hook_resid_pre", 9, ZERO),
            r"position 9 is outside the sequences, whose positions are 0 \.\.\. 8",
        ),
        (Edit("blocks.1.hook_resid_pre", [1, 2], ZERO), r"positions are of 2 rows, but there are 4"),
        (Edit("blocks.1.hook_resid_pre", [[1, 1]] * 4, ZERO), r"names a position of a row twice"),
        (Edit("blocks.1.hook_resid_pre", 1.5, ZERO), r"positions are float64 \(\); expected int"),
        (Edit("blocks.1.hook_resid_pre", 1, ZERO, [0]), r"has no axis of heads"),
        (Edit("blocks.1.attn.hook_z", 1, ZERO, [3]), r"heads \[3\] are not distinct heads of the model, which has 3"),
        (Edit("blocks.1.attn.hook_z", 1, lambda x, rows, columns: x[:1]), r"gave \(1, 3, 8\) in place of \(4, 3, 8\)"),
        (EdgeEdit(3, 4, 2), r"layer 3 is outside the model's layers, 0 \.\.\. 2"),
        (EdgeEdit(1, 4, 5), r"in row 0 query 4 has key 5; attention looks from a position to itself"),
        (EdgeEdit(1, 4, -1), r"in row 0 query 4 has key -1"),
        (EdgeEdit(1, 4, 2, mode="cut"), r"mode 'cut' is none of block, zero, move"),
        (EdgeEdit(1, 4, 2, mode="move"), r"`to` goes with mode 'move'"),
        (EdgeEdit(1, None, 2), r"positions are missing"),
        (EdgeEdit(0, 0, 0), r"left without any key"),
        ("zero", r"an arm holds 'z'; expected Edit or EdgeEdit"),
    ],
    ids=str,
)
@pytest.mark.parametrize("fast", [True, False], ids=["partial", "whole"])
def test_what_the_model_does_not_have_is_refused(arm, message, fast):
    with pytest.raises(ValueError, match=message):
        engine.logits(MODEL, sequences(), [arm], AT, fast=fast)
    assert not MODEL.has_hooks


@pytest.mark.parametrize("fast", [True, False], ids=["partial", "whole"])
def test_an_arm_that_changes_nothing_is_named(fast):
    values = engine.activations(MODEL, sequences()[:, :9], ["blocks.1.hook_resid_pre"])["blocks.1.hook_resid_pre"]
    useless = {
        "same": Edit("blocks.1.hook_resid_pre", None, changes.add(torch.zeros(24))),
        "behind": Edit("blocks.1.hook_resid_pre", [-1, 6, -1, -1], changes.patch(values[:, 0])),
        "unread": Edit("blocks.2.hook_mlp_out", 2, ZERO),
        "to itself": EdgeEdit(1, 4, 2, None, "move", 2),
    }
    good = Edit("blocks.1.hook_resid_pre", 3, ZERO)
    for name, arm in useless.items():
        with pytest.raises(ValueError, match=rf"arm {name} \(.*\) changes nothing in any of 4 rows"):
            engine.logits(MODEL, sequences(), {"good": good, name: arm}, AT, fast=fast)
        assert not engine.run(MODEL, sequences(), [arm], AT, fast=fast).changed.any()


def test_applied_edits_are_checked_and_taken_away():
    expected = MODEL(sequences())
    with pytest.raises(ValueError, match="changed nothing"), engine.applied(MODEL, EdgeEdit(1, 4, 2, None, "move", 2)):
        MODEL(sequences())
    with pytest.raises(ValueError, match="never fired"), engine.applied(MODEL, Edit("hook_embed", 1, ZERO)):
        pass
    edit = Edit("hook_embed", [1, 2], ZERO)
    with pytest.raises(ValueError, match="of 2 rows, the batch has 4"), engine.applied(MODEL, edit):
        MODEL(sequences())
    with pytest.raises(ZeroDivisionError), engine.applied(MODEL, Edit("hook_embed", 1, ZERO)):
        raise ZeroDivisionError
    torch.testing.assert_close(MODEL(sequences()), expected, rtol=0, atol=0)


def test_rows_and_ends_are_checked():
    arm = Edit("hook_embed", 1, ZERO)
    with pytest.raises(ValueError, match="expected a position of each of 4 rows"):
        engine.logits(MODEL, sequences(), [arm], AT[:2])
    with pytest.raises(ValueError, match=r"the sequences have positions 0 \.\.\. 8"):
        engine.logits(MODEL, sequences(), [arm], AT + 1)
    with pytest.raises(ValueError, match="do not fit n_ctx = 24"):
        engine.complete(MODEL, ["1" * 30], [arm])
    with pytest.raises(ValueError, match=r"holds `\.`"):
        engine.complete(MODEL, ["1."], [arm])


def test_no_rows_and_no_arms_give_nothing():
    assert engine.logits(MODEL, sequences()[:0], [[]], AT[:0]).shape == (1, 0, 65)
    assert engine.logits(MODEL, sequences(), [], AT).shape == (0, 4, 65)


def test_many_rows_run_in_chunks_and_many_copies_in_passes(monkeypatch):
    base, at = sequences(rows=40), np.tile(AT, 10)
    noise = [Edit(f"blocks.{layer}.hook_resid_pre", p, changes.noise(1.0, 0)) for layer in range(3) for p in (1, 4)]
    expected = engine.logits(MODEL, base, noise, at)
    monkeypatch.setattr(partial_passes, "_CHUNK_BYTES", 2**16)
    monkeypatch.setattr(partial_passes, "_PASS_TOKENS", 64)
    torch.testing.assert_close(engine.logits(MODEL, base, noise, at), expected, rtol=1e-5, atol=1e-5)
