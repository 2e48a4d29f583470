"""Muon: singular values near 1, each matrix by itself, and a step by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cadmus.training.muon import Muon, orthogonalize


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(32, 32), (16, 48), (48, 16), (4, 32, 8), (2, 3, 8, 16)])
def test_orthogonalized_singular_values(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """In 0.65 ... 1.25, where the smallest was a hundredth of the largest or more."""
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    values = torch.logspace(-2, 0, u.shape[-1])
    matrices = 37.0 * u * values @ v
    result = orthogonalize(matrices, dtype)
    assert result.shape == shape
    assert result.dtype == matrices.dtype
    singular_values = torch.linalg.svdvals(result)
    assert singular_values.min() > 0.65
    assert singular_values.max() < 1.25
    aligned = (u.mT @ result @ v.mT).diagonal(dim1=-2, dim2=-1)  # the directions stay
    assert (aligned > 0.6).all()


def test_stacked_matrices_are_orthogonalized_each_by_itself() -> None:
    stack = torch.randn(5, 12, 6, generator=torch.Generator().manual_seed(1))
    stack[2] *= 1000
    together = orthogonalize(stack)
    assert torch.allclose(together, torch.stack([orthogonalize(matrix) for matrix in stack]), atol=0.02)
    assert torch.equal(orthogonalize(torch.zeros(3, 3)), torch.zeros(3, 3))


def test_matrices_of_one_shape_step_each_as_if_alone() -> None:
    """Muon orthogonalizes those of several parameters in one product: each by itself still, the stacks among them."""
    draw = torch.Generator().manual_seed(0)
    shapes = [(8, 16), (8, 16), (3, 8, 16), (16, 8)]
    starts, gradients = ([torch.randn(shape, generator=draw) for shape in shapes] for _ in range(2))

    def take_step(members: list[int]) -> list[Tensor]:
        weights = [torch.nn.Parameter(starts[k].clone()) for k in members]
        for weight, k in zip(weights, members, strict=True):
            weight.grad = gradients[k] * 10.0**k
        Muon(weights, lr=0.1).step()
        return [weight.detach() for weight in weights]

    for k, together in enumerate(take_step([0, 1, 2, 3])):
        assert torch.allclose(together, take_step([k])[0], atol=1e-5)
        assert not torch.equal(together, starts[k])


def test_muon_steps() -> None:
    """Nesterov's momentum, a step of 0.2 in root mean square times the rate, decoupled decay."""
    weight = torch.nn.Parameter(torch.ones(8, 16))
    untouched = torch.nn.Parameter(torch.ones(2, 2))  # it has no gradient
    first, second = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))
    optimizer = Muon([weight, untouched], lr=0.1, momentum=0.9, weight_decay=0.5)
    momentum = torch.zeros(8, 16)
    for gradient in (first, second):
        before = weight.detach() * 1
        weight.grad = gradient
        optimizer.step()
        momentum = 0.9 * momentum + gradient
        step = -0.1 * 0.2 * 4 * orthogonalize(gradient + 0.9 * momentum)  # 4: the root of the longer side
        assert step.pow(2).mean().sqrt().item() == pytest.approx(0.1 * 0.2, rel=0.2)
        assert torch.allclose(weight, before * (1 - 0.1 * 0.5) + step, atol=1e-4)
    assert (untouched == 1).all()


def test_a_rate_that_is_a_tensor_steps_as_the_number() -> None:
    """What is recorded for a GPU reads its rate from memory."""
    draw = torch.Generator().manual_seed(0)
    start, gradient = torch.randn(8, 16, generator=draw), torch.randn(8, 16, generator=draw)
    results = []
    for rate in (0.1, torch.tensor(0.1)):
        weight = torch.nn.Parameter(start.clone())
        weight.grad = gradient
        optimizer = Muon([weight], lr=0.0, weight_decay=0.1)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        results.append(weight.detach())
    assert torch.allclose(*results, atol=1e-6)
    assert not torch.equal(results[0], start)
