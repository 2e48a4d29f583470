"""The model in JavaScript is the model: logits and edits at every site, on models of odd shapes, under Node."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from analyses.explorer import weights
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from tests.analyses.explorer.javascript import ask, needs_node

pytestmark = needs_node
TOLERANCE = 1e-3
POSITION = 3  # that is edited
SHAPES = {
    "learned": ModelConfig(n_layers=2, d_model=15, n_heads=3, d_head=6, d_mlp=13, n_ctx=11),
    "rotary": ModelConfig(
        n_layers=3, d_model=12, n_heads=2, d_head=7, d_mlp=9, n_ctx=9, positional_embedding_type="rotary", rotary_dim=4
    ),
}


def _model(shape: str) -> Model:
    """A model whose every weight matters, rounded as the page does."""
    model = Model(SHAPES[shape], seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return weights.rounded(model)


def _request(model: Model, tokens: list[int]) -> dict[str, Any]:
    tensors = weights.tensors_of(model)
    config = model.cfg.to_dict()
    return {"config": config, "entries": tensors.entries, "base64": tensors.base64, "tokens": tokens}


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_those_of_python(shape: str) -> None:
    model = _model(shape)
    tokens = np.random.default_rng(3).integers(0, 65, model.cfg.n_ctx).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([tokens]))[0].numpy()
    answer = np.array(ask("logits", _request(model, tokens)))
    assert abs(expected).max() > 1
    np.testing.assert_allclose(answer, expected, atol=TOLERANCE / 10)


@pytest.mark.parametrize("shape", SHAPES)
def test_read_again_from_where_it_changed_it_computes_the_same(shape: str) -> None:
    model = _model(shape)
    rng = np.random.default_rng(4)
    first = rng.integers(0, 65, model.cfg.n_ctx).tolist()
    programs = [first, first[:6], [*first[:4], 7, 8], first[:1], first, [*first[:5], *first[3:6]]]
    answers = ask("rereads", {**_request(model, []), "programs": programs})
    for program, answer in zip(programs, answers, strict=True):
        with torch.no_grad():
            expected = model(torch.tensor([program]))[0, -1].numpy()
        np.testing.assert_allclose(answer, expected, atol=TOLERANCE / 10)


@pytest.mark.parametrize("shape", SHAPES)
def test_edits_at_every_site_do_what_they_do_in_python(shape: str) -> None:
    model = _model(shape)
    rng = np.random.default_rng(5)
    tokens = rng.integers(0, 65, model.cfg.n_ctx - 1).tolist()
    with torch.no_grad():
        plain, cache = model.run_with_cache(torch.tensor([tokens]))
    edits = []
    for site in [*model.sites(), *_on_demand(model)]:
        if site not in cache:
            with torch.no_grad():
                cache = model.run_with_cache(torch.tensor([tokens]), site)[1]
        one = cache[site][0, :, POSITION] if _is_attention(site) else cache[site][0, POSITION]
        values = rng.normal(size=tuple(one.shape))
        if _is_attention(site):
            values[:, POSITION + 1 :] = 0  # keys that the query does not see
        edits.append((site, values))
    wanted = [{"site": site, "values": values.tolist()} for site, values in edits]
    answers = ask("edits", {**_request(model, tokens), "position": POSITION, "edits": wanted})
    changed = 0
    for (site, values), answer in zip(edits, answers, strict=True):
        with torch.no_grad():
            expected = model.run_with_hooks(torch.tensor([tokens]), [(site, _adding(values, site))])[0].numpy()
        np.testing.assert_allclose(np.array(answer), expected, atol=TOLERANCE, err_msg=site)
        changed += abs(expected - plain[0].numpy()).max() > 10 * TOLERANCE
    assert changed == len(edits)


def _on_demand(model: Model) -> list[str]:
    """The sites that are computed on demand; tokens are edited by typing another program."""
    return [site for site in model.sites(on_demand=True) if site != "hook_tokens"]


def _is_attention(site: str) -> bool:
    return site.endswith(("hook_attn_scores", "hook_pattern"))


def _adding(values: np.ndarray, site: str) -> Any:
    added = torch.from_numpy(values).float()

    def hook(x: torch.Tensor, hook: Any) -> torch.Tensor:
        x = x.clone()
        if _is_attention(site):
            x[0, :, POSITION] += added
        else:
            x[0, POSITION] += added
        return x

    return hook


@pytest.mark.parametrize(
    ("sites", "words"),
    [
        (["blocks.0.hook_resid"], "blocks.0.hook_resid is no site of this model"),
        (["blocks.2.hook_mlp_in"], "blocks.2.hook_mlp_in is no site of this model"),
        (["blocks.1.hook_q_input", "blocks.1.ln1.hook_scale"], "cannot be edited together"),
    ],
)
def test_edits_that_would_do_nothing_are_refused(sites: list[str], words: str) -> None:
    edits = [{"site": site, "values": [0.0]} for site in sites]
    with pytest.raises(AssertionError, match=words):
        ask("editsTogether", {**_request(_model("learned"), [1, 2, 3, 4, 5]), "position": POSITION, "edits": edits})


def test_weights_that_half_precision_cannot_hold_are_refused() -> None:
    model = Model(SHAPES["learned"])
    with torch.no_grad():
        model.ln_final.w[0] = 1e6
    with pytest.raises(ValueError, match=r"^ln_final\.w holds numbers that half precision does not \(1e\+06;"):
        weights.tensors_of(model)


def test_a_model_that_is_too_large_is_refused() -> None:
    model = Model(ModelConfig(n_layers=7, d_model=512, n_heads=8, d_head=64, d_mlp=2048))
    with pytest.raises(ValueError, match=r"^the model has 22,\d+,\d+ parameters, a page carries up to 20,000,000: "):
        weights.check_fits(model)
