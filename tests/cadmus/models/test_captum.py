"""captum attributes a logit to what the modules of our models give, as it does for any module of torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from captum import attr
from torch import Tensor

import cadmus

PROGRAM, BASELINE, ANSWER = "3A5Bab3=", "7A5Bab7=", "3"
CUT = 5  # where the model says what is in the register that was loaded


@pytest.fixture(scope="module")
def model() -> Any:
    return cadmus.load_model("cadmus-micro").to(torch.float64)


@pytest.mark.parametrize("module", ["embed", "blocks.0", "blocks.2", "ln_final"])  # all that is known passes there
def test_integrated_gradients_find_a_module_and_add_up_to_the_difference(model: Any, module: str) -> None:
    """Completeness: the attributions sum to the logit at the input less that at the baseline."""

    def logit(tokens: Tensor) -> Tensor:
        logits: Tensor = model(tokens)[:, CUT]
        return logits

    tokens, baseline = model.to_tokens(PROGRAM), model.to_tokens(BASELINE)
    target = int(model.to_tokens(ANSWER)[0, -1])
    gradients = attr.LayerIntegratedGradients(logit, model.get_submodule(module))
    given = gradients.attribute(tokens, baselines=baseline, target=target, n_steps=200, internal_batch_size=50)
    assert given.shape == (1, tokens.shape[1], model.cfg.d_model)
    expected = (logit(tokens) - logit(baseline))[0, target].item()
    assert abs(expected) > 0.1
    assert given.sum().item() == pytest.approx(expected, abs=0.01 * abs(expected) + 1e-3)
    assert torch.count_nonzero(given[:, CUT + 1 :]) == 0  # what comes later has no part in it


def test_integrated_gradients_at_the_embedding_are_those_of_our_hook(model: Any) -> None:
    """Riemann sums along the same path, with the gradient that a hook at `hook_embed` sees."""
    tokens, baseline = model.to_tokens(PROGRAM), model.to_tokens(BASELINE)
    target, steps = int(model.to_tokens(ANSWER)[0, -1]), 50
    start, end = model.embed(baseline).detach(), model.embed(tokens).detach()
    total = torch.zeros_like(end)
    for k in range(steps):
        point = (start + (k + 0.5) / steps * (end - start)).requires_grad_()
        logits = model.run_with_hooks(tokens, fwd_hooks=[("hook_embed", lambda _, hook, point=point: point)])
        total += torch.autograd.grad(logits[0, CUT, target], point)[0] / steps
    gradients = attr.LayerIntegratedGradients(lambda x: model(x)[:, CUT], model.embed)
    theirs = gradients.attribute(tokens, baselines=baseline, target=target, n_steps=steps, method="riemann_middle")
    torch.testing.assert_close(theirs, total * (end - start), atol=1e-8, rtol=1e-6)
