"""Programs one after another: what the model computes of them is what it computes of each alone, compiled or not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cadmus.machine import tokens
from cadmus.models import fused
from cadmus.models.config import ModelConfig
from cadmus.models.layers import Block
from cadmus.models.packed import pack
from cadmus.models.rotary import Rotary
from cadmus.training.gradient import accumulate_gradient
from tests.fuzzing import examples
from tests.models import far_from_trivial
from tests.training import CFG, programs

ROTARY = replace(CFG, positional_embedding_type="rotary", rotary_dim=8)
TEXTS = ["", "1", "34+7=", "3A4Bab+7=", "(1,2,3,1I2="]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def test_every_token_that_counts_is_there_once() -> None:
    packed = pack(tokens.encode(["34+7=.", ".", "1."]))
    assert tokens.decode(packed.inputs.numpy().astype(np.uint8)[None, 1:6]) == ["34+7="]
    assert packed.inputs.tolist()[6:] == packed.inputs.tolist()[:1] * 2 + [1], "the marker before each program"
    assert packed.targets.tolist()[5:7] == [tokens.PAD] * 2
    assert packed.positions.tolist() == [0, 1, 2, 3, 4, 5, 0, 0, 1]
    assert packed.starts.tolist() == [0, 6, 7, 9]


def test_what_fills_a_row_up_counts_for_nothing() -> None:
    """Neither in the loss nor in the gradient."""
    model = far_from_trivial(CFG)
    batch = programs().programs(np.arange(7))
    results = []
    for multiple in (1, 64):
        packed = pack(batch, multiple=multiple)
        loss = F.cross_entropy(model.on_packed(packed), packed.targets, reduction="sum")
        results.append((loss, torch.autograd.grad(loss, list(model.parameters()))))
    assert len(packed.inputs) % 64 == 0
    assert packed.starts[-1] == len(packed.inputs) > int((tokens.lengths(batch) + 1).sum())
    (plain_loss, plain_gradients), (filled_loss, filled_gradients) = results
    assert filled_loss.item() == pytest.approx(plain_loss.item(), rel=1e-6)
    for plain, filled in zip(plain_gradients, filled_gradients, strict=True):
        check(filled, plain, 1e-5)


@pytest.mark.parametrize("cfg", [CFG, ROTARY], ids=["standard", "rotary"])
def test_logits_are_those_of_each_program_alone(cfg: ModelConfig) -> None:
    model = far_from_trivial(cfg)
    packed = pack(tokens.encode([text + "." for text in TEXTS]))
    with torch.no_grad():
        logits = model.on_packed(packed)
        for text, (begin, end) in zip(TEXTS, pairwise(packed.starts), strict=True):
            alone = model(torch.from_numpy(tokens.sequences(tokens.encode([text + "."]))))[0, :-1]
            assert torch.allclose(logits[begin:end], alone, atol=2e-5), text


def test_a_packed_pass_refuses_hooks() -> None:
    model = far_from_trivial(CFG)
    with (
        pytest.raises(ValueError, match=r"a hook is set, but packed programs have no \[batch, pos\]; leave the hooks'"),
        model.hooks([("hook_embed", lambda tensor, hook: None)]),
    ):
        model.on_packed(pack(programs().programs(np.arange(3))))


# --- attention -------------------------------------------------------------------------------------------------------


def plain_attention(qkv: Tensor, bias: Tensor, heads: int, starts: np.ndarray, rotary: Rotary | None) -> Tensor:
    """Program by program, by PyTorch."""
    parts = []
    for begin, end in pairwise(starts):
        q, k, v = (qkv[begin:end].float() + bias).unflatten(-1, (3, heads, -1)).unbind(1)  # [pos, head, d_head] each
        if rotary is not None:
            q, k = (rotary(x, torch.arange(end - begin)) for x in (q, k))
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        scores = q @ k.mT / q.shape[-1] ** 0.5
        hidden = torch.ones(end - begin, end - begin, dtype=torch.bool).triu(1)
        z = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
        parts.append(z.transpose(0, 1).flatten(1))
    return torch.cat(parts).to(qkv.dtype)


def gradients(outputs: Tensor | tuple[Tensor, ...], inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """The gradients of a fixed random combination of the outputs."""
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    total = sum((output.float() * random(*output.shape, seed=k).detach()).sum() for k, output in enumerate(outputs))
    return torch.autograd.grad(total, inputs)


def check(result: Tensor, expected: Tensor, tolerance: float, what: str = "") -> None:
    """Assert equality within a share of the largest entry."""
    assert result.dtype == expected.dtype, what
    assert result.shape == expected.shape, what
    difference = (result.float() - expected.float()).abs().max()
    assert difference <= tolerance * expected.float().abs().max() + 1e-6, (what, difference)


def turning(d_head: int, rotary_dim: int, n_ctx: int) -> Rotary | None:
    """Rotary positions of so many dimensions of a head; None for none."""
    if not rotary_dim:
        return None
    cfg = ModelConfig(1, 2 * d_head, 2, d_head, 8, n_ctx, positional_embedding_type="rotary", rotary_dim=rotary_dim)
    return Rotary(cfg)


PRECISIONS = [(torch.float32, 2e-6), (torch.bfloat16, 2**-7)]


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    heads=st.integers(1, 3),
    d_head=st.sampled_from([1, 7, 16, 32]),
    turned=st.sampled_from([0.0, 0.5, 1.0]),
    scale=st.sampled_from([0.1, 1.0, 5.0]),
)
@settings(max_examples=examples(80), deadline=None)
def test_attention_equals_the_plain_one(
    lengths: list[int], heads: int, d_head: int, turned: float, scale: float
) -> None:
    """`turned` is the share of dimensions that have rotary positions. `scale` sharpens the patterns; rounding of a
    score moves its share by as much, so tolerances grow with scores."""
    starts = np.append(0, np.cumsum(lengths))
    rotary = turning(d_head, 2 * int(turned * d_head / 2), 40)
    for dtype, tolerance in PRECISIONS:
        tolerance *= max(1.0, scale) ** 2
        qkv = (random(int(starts[-1]), 3 * heads * d_head, seed=1).detach() * scale).to(dtype).requires_grad_()
        bias = random(3 * heads * d_head, seed=2)
        z = fused.attention(qkv, bias, heads, starts, rotary)
        expected = plain_attention(qkv, bias, heads, starts, rotary)
        check(z, expected, tolerance)
        qkv_grad, bias_grad = gradients(z, [qkv, bias])
        expected_qkv_grad, expected_bias_grad = gradients(expected, [qkv, bias])
        check(qkv_grad, expected_qkv_grad, 4 * tolerance, f"qkv, {dtype}")
        check(bias_grad, expected_bias_grad, 4 * tolerance, f"bias, {dtype}")


def test_programs_longer_than_the_positions_are_refused() -> None:
    """The compiled loops would read beyond the tables."""
    with pytest.raises(ValueError, match=r"a program has 9 tokens; the model has 8 positions \(n_ctx\)"):
        fused.attention(random(9, 24), random(24), 1, np.array([0, 9]), turning(8, 8, 8))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.02)])
@pytest.mark.parametrize("cfg", [CFG, ROTARY], ids=["standard", "rotary"])
def test_other_devices_have_the_gradients_of_a_cpu(
    cfg: ModelConfig, precision: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There PyTorch's own operators run, attention over a padded copy: here on a CPU that passes for another device."""
    batch = programs().programs(np.arange(32))
    results = []
    for on_cpu in (True, False):
        monkeypatch.setattr(fused, "compiled", lambda tensor, on_cpu=on_cpu: on_cpu)
        model = far_from_trivial(cfg)
        loss, _ = accumulate_gradient(model, batch, precision)
        results.append((loss.item(), dict(model.named_parameters())))
    (loss, compiled), (other_loss, other) = results
    assert other_loss == pytest.approx(loss, rel=tolerance)
    for name, parameter in compiled.items():
        if not name.endswith("b_K"):  # 0 but for rounding
            check(other[name].grad, parameter.grad, tolerance, name)


@pytest.mark.slow
@pytest.mark.parametrize("cfg", [CFG, ROTARY], ids=["standard", "rotary"])
def test_compiled_blocks_have_the_gradients_of_others(cfg: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where one compiled function serves all blocks and batches of any size."""
    monkeypatch.setattr(fused, "compiled", lambda tensor: False)
    through = torch.compile(Block.on_packed, dynamic=True)
    model = far_from_trivial(cfg)
    for n in (8, 32, 20):
        batch = programs().programs(np.arange(n))
        gradients = []
        for chosen in (Block.on_packed, through):
            monkeypatch.setattr("cadmus.training.gradient.through_block", lambda device_type, chosen=chosen: chosen)
            accumulate_gradient(model, batch, "fp32")
            gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
        for name, expected in gradients[0].items():
            if not name.endswith("b_K"):  # 0 but for rounding
                check(gradients[1][name], expected, 1e-4, name)


def test_bf16_has_about_the_gradient_of_fp32() -> None:
    batch = programs().programs(np.arange(64))
    results = []
    for precision in ("fp32", "bf16"):
        model = far_from_trivial(CFG)
        accumulate_gradient(model, batch, precision)
        results.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    exact, rough = results
    assert 1e-4 < (rough - exact).norm() / exact.norm() < 0.02


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_numbers_of_another_kind_are_refused(dtype: torch.dtype) -> None:
    """The compiled loops would misread them: float64 as integers of 16 bits."""
    x, flat = torch.zeros(4, 6), torch.zeros(6)
    starts = np.array([0, 4])
    expected = "expected float32 or bfloat16, and float32: train a float32 model"
    for call in (
        lambda: fused.gelu(x.to(dtype), flat),
        lambda: fused.gelu(x, flat.to(dtype)),
        lambda: fused.gelu(x, flat.bfloat16()),
        lambda: fused.attention(x.to(dtype), flat, 1, starts),
        lambda: fused.attention(x, flat.bfloat16(), 1, starts),
        lambda: fused.add_norm(x, x.to(dtype), flat, flat, flat, 1e-5),
        lambda: fused.add_norm(x.bfloat16(), x, flat, flat, flat, 1e-5),
        lambda: fused.add_norm(x, x, flat.bfloat16(), flat, flat, 1e-5),
        lambda: fused.add_norm(x, x, flat, flat.bfloat16(), flat, 1e-5),
        lambda: fused.add_norm(x, x, flat, flat, flat.bfloat16(), 1e-5),
    ):
        with pytest.raises(TypeError, match=expected):
            call()


# --- between products ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_gelu_equals_pytorchs(dtype: torch.dtype, tolerance: float) -> None:
    x = (3 * random(50, 200).detach()).to(dtype).requires_grad_()
    bias = random(200, seed=1)
    result = fused.gelu(x, bias)
    expected = F.gelu(x.float() + bias).to(dtype)
    check(result, expected, tolerance)
    for gradient, other in zip(gradients(result, [x, bias]), gradients(expected, [x, bias]), strict=True):
        check(gradient, other, tolerance)


def test_gelu_far_from_zero() -> None:
    x = torch.tensor([[-100.0, -20.0, -9.0, -4.0, 0.0, 4.0, 9.0, 20.0, 100.0]]).requires_grad_()
    result = fused.gelu(x, torch.zeros(9, requires_grad=True))
    assert torch.allclose(result, F.gelu(x), atol=1e-6)
    assert torch.allclose(gradients(result, [x])[0], gradients(F.gelu(x), [x])[0], atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_normalization_of_the_sum_equals_pytorchs(dtype: torch.dtype, tolerance: float) -> None:
    x, update = random(40, 48), random(40, 48, seed=1, dtype=dtype)
    bias, w, b = (random(48, seed=k) for k in (2, 3, 4))
    inputs = [x, update, bias, w, b]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        results = fused.add_norm(x, update, bias, w, b, 1e-5)
    total = x + update.float() + bias
    expected = total, F.layer_norm(total, w.shape, w, b, 1e-5).to(dtype)
    for result, other in zip(results, expected, strict=True):
        check(result, other, tolerance)
    names = ("x", "update", "bias", "w", "b")
    for name, gradient, other in zip(names, gradients(results, inputs), gradients(expected, inputs), strict=True):
        check(gradient, other, 2 * tolerance, name)


def test_bfloat16_is_rounded_as_pytorch_rounds_it() -> None:
    """To the nearest, and of two to the even one: GELU of large numbers is the number itself."""
    x = torch.arange(256, 2048, dtype=torch.float32)[None]  # of these every second is half-way between two
    halved = x.to(torch.bfloat16).requires_grad_()
    bias = (x - halved.detach().float())[0].requires_grad_()
    assert torch.equal(fused.gelu(halved, bias), x.to(torch.bfloat16))


def test_a_program_without_an_end_is_refused() -> None:
    """The compiled loops would read beyond the arrays."""
    with pytest.raises(ValueError, match=r"program 1 has no `\.` in its 3 columns; end it with one"):
        pack(tokens.encode(["3=.", "12="]))


@pytest.mark.slow
def test_on_a_cpu_neither_torchs_compiler_nor_its_flash_attention_is_loaded() -> None:
    program = (
        "import sys, torch; from cadmus.machine import tokens; from cadmus.models.config import ModelConfig; "
        "from cadmus.models.model import Model; from cadmus.models.packed import pack; "
        "Model(ModelConfig(n_layers=1, d_model=16, n_heads=2, d_mlp=16)).on_packed(pack(tokens.encode(['11+2=.']))); "
        "sys.exit(sorted({'torch._dynamo', 'torch.nn.attention.varlen'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
