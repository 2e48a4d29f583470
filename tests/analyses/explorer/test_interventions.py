"""What the page does to a model is what `probes.interventions` does, measured in the browser; and how long it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses.explorer import build, payload, presets, weights
from analyses.explorer.readings import Reading
from cadmus.machine import oracle, tokens
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from cadmus.training import checkpoint
from probes.interventions.editing import changes, engine
from probes.interventions.editing.edits import EdgeEdit, Edit
from probes.interventions.editing.locations import stream_site
from probes.interventions.subspaces.directions import Steering
from tests.analyses.explorer import browser
from tests.analyses.explorer.browser import Tab

pytestmark = [browser.needs_browser, pytest.mark.slow]
TOLERANCE = 1e-4  # the issue asks for 1e-3
PROGRAM = "967+n02x8*"
SOURCE = "967+n00x8*"  # another value at token 7
LONG = "967+n02x8*<34+7=28*79+>55*1+941-*x9="  # 36 tokens

_COMPUTE = """({program, acts}) => {
  const computed = explorer.session.compute({program, acts});
  const run = computed.changed ?? computed.base;
  const logits = run.tokens.map((_, position) => [...run.logits(position)]);
  const answers = explorer.session.answers(computed, computed.text.length - 1);
  return {logits, answers, faults: [...computed.faults.values()]};
}"""


def _compute(tab: Tab, acts: list[dict[str, Any]], program: str = PROGRAM) -> dict[str, Any]:
    return tab.page.evaluate(_COMPUTE, {"program": program, "acts": acts})


def _sequences(text: str) -> np.ndarray:
    return tokens.sequences(tokens.encode([text]))


def _activation(model: Model, text: str, site: str, position: int) -> torch.Tensor:
    return engine.activations(model, _sequences(text), [site])[site][:, position]


def _check(tab: Tab, model: Model, acts: list[dict[str, Any]], arm: Any) -> None:
    """The page's logits and completion under acts are those of the engine under an arm, which matters."""
    answer = _compute(tab, acts)
    assert answer["faults"] == []
    plain, expected = engine.logits(model, _sequences(PROGRAM), [[], arm], [len(PROGRAM)])[:, 0].numpy()
    np.testing.assert_allclose(answer["logits"][-1], expected, atol=TOLERANCE)
    assert abs(expected - plain).max() > 10 * TOLERANCE
    room = min(24, model.cfg.n_ctx - len(PROGRAM) - 1)
    written = engine.complete(model, [PROGRAM], [arm], room)[0][0][len(PROGRAM) :].removesuffix(".")
    assert answer["answers"]["edited"]["written"][: len(written)] == written


def test_logits_are_those_of_python(tab: Tab, small_model: Model) -> None:
    program = LONG[: small_model.cfg.n_ctx - 1]
    with torch.no_grad():
        expected = small_model(torch.from_numpy(_sequences(program)).long())[0].numpy()
    np.testing.assert_allclose(_compute(tab, [], program)["logits"], expected, atol=TOLERANCE)


@pytest.mark.parametrize("layer", [-1, 0, 2])
def test_an_exchange_is_the_engines(tab: Tab, small_model: Model, layer: int) -> None:
    token = 6 if layer < 0 else 7  # before the first layer only the digit differs
    act = {"kind": "set", "token": token, "editAt": token, "place": "stack.0", "value": "0", "layer": layer}
    site = stream_site(layer)
    arm = Edit(site, [token + 1], changes.patch(_activation(small_model, SOURCE, site, token + 1)))
    _check(tab, small_model, [{**act, "how": "exchange", "source": SOURCE}], arm)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("value", [0, 5])
def test_steering_is_that_of_directions(
    tab: Tab, small_model: Model, small_readings: list[Reading], layer: int, value: int
) -> None:
    reading = next(reading for reading in small_readings if (reading.place, reading.layer) == ("stack.0", layer))
    directions = payload.on_page(reading.directions)
    steering = Steering.of(directions)
    act = {"kind": "set", "token": 7, "editAt": 7, "place": "stack.0", "value": str(value), "layer": layer}
    arm = Edit(stream_site(layer), [8], steering.as_change(steering.targets({"stack.0": [value]})))
    _check(tab, small_model, [{**act, "how": "steer", "source": ""}], arm)


def test_probes_read_what_they_read_in_python(tab: Tab, small_model: Model, small_readings: list[Reading]) -> None:
    _compute(tab, [])
    for reading in small_readings:
        site, position = stream_site(reading.layer), 7
        x = _activation(small_model, PROGRAM, site, position).numpy().astype(float)
        scores = payload.on_page(reading.directions).read(x)[0]
        answer = tab.page.evaluate(
            "([layer, place, position]) => explorer.session.probes.read(explorer.session.base, layer, place, position)",
            [reading.layer, reading.place, position],
        )
        confidence = np.exp(scores - scores.max())
        assert answer["class"] == reading.directions.values[scores.argmax()]
        assert answer["confidence"] == pytest.approx(1 / confidence.sum(), abs=1e-3)


def test_rounding_leaves_what_probes_read(small_model: Model, small_readings: list[Reading]) -> None:
    for reading in small_readings:
        x = np.random.default_rng(0).normal(size=(200, 1)) * 0.1 + reading.directions.means[:1]
        exact, rounded = reading.directions, payload.on_page(reading.directions)
        assert (exact.predict(x) == rounded.predict(x)).mean() > 0.95, reading


@pytest.mark.parametrize(("part", "site"), [("attn", "hook_attn_out"), ("mlp", "hook_mlp_out"), ("z1", "attn.hook_z")])
def test_a_patch_is_the_engines(tab: Tab, small_model: Model, part: str, site: str) -> None:
    layer, token, name = 1, 7, f"blocks.1.{site}"
    values = _activation(small_model, SOURCE, name, token + 1)
    heads = [1] if part == "z1" else None
    arm = Edit(name, [token + 1], changes.patch(values[:, heads] if heads else values), heads)
    act = {"kind": "patch", "token": token, "from": token, "source": SOURCE, "part": part, "layer": layer}
    _check(tab, small_model, [act], arm)


@pytest.mark.parametrize(("layer", "head"), [(0, 1), (1, -1), (-1, -1)])
def test_a_blocked_edge_is_the_engines(tab: Tab, small_model: Model, layer: int, head: int) -> None:
    layers = range(small_model.cfg.n_layers) if layer < 0 else [layer]
    heads = None if head < 0 else [head]
    key = _most_attended(small_model, layers, heads)
    arm = [EdgeEdit(number, len(PROGRAM), key + 1, heads) for number in layers]
    act = {"kind": "block", "query": len(PROGRAM) - 1, "key": key, "layer": layer, "head": head}
    _check(tab, small_model, [act], arm)


def _most_attended(model: Model, layers: Sequence[int], heads: list[int] | None) -> int:
    """The token before the last that these heads attend to most from the last one: blocking it matters."""
    sites = [f"blocks.{layer}.attn.hook_pattern" for layer in layers]
    patterns = engine.activations(model, _sequences(PROGRAM), sites)
    weights = sum(patterns[site][0, :, len(PROGRAM), 1 : len(PROGRAM)] for site in sites)
    return int((weights if heads is None else weights[heads]).sum(0).argmax())


def test_acts_together_are_one_arm(tab: Tab, small_model: Model) -> None:
    site = stream_site(1)
    values = _activation(small_model, SOURCE, site, 8)
    arm = [Edit(site, [8], changes.patch(values)), EdgeEdit(0, 10, 9)]
    act = {"kind": "set", "token": 7, "editAt": 7, "place": "stack.0", "value": "0", "layer": 1}
    acts = [
        {**act, "how": "exchange", "source": SOURCE},
        {"kind": "block", "query": 9, "key": 8, "layer": 0, "head": -1},
    ]
    _check(tab, small_model, acts, arm)


def test_an_answer_is_judged_as_the_oracle_judges(tab: Tab) -> None:
    act = {"kind": "set", "token": 7, "editAt": 7, "place": "stack.0", "value": "0", "layer": 1}
    answers = _compute(tab, [{**act, "how": "exchange", "source": SOURCE}])["answers"]
    for answer in answers["asIs"], answers["edited"]:
        program = tokens.encode([PROGRAM + answer["written"]])
        expected = oracle.continuation_verdicts(program, [len(PROGRAM)], [7], [{"stack.0": 0}])[0]
        assert answer["isTrueEdited"] == bool(expected)


def test_acts_that_cannot_be_made_say_why(tab: Tab) -> None:
    act = {"kind": "set", "token": 7, "editAt": 7, "place": "stack.0", "value": "0", "layer": 1}
    acts = [
        {**act, "how": "exchange", "source": ""},
        {**act, "how": "exchange", "source": "9"},
        {**act, "how": "steer", "value": "98765", "source": ""},
        {"kind": "patch", "token": 1, "from": 30, "source": "34+", "part": "stream", "layer": 0},
        {"kind": "block", "query": 2, "key": 2, "layer": 0, "head": 0},
    ]
    assert len(_compute(tab, acts)["faults"]) == len(acts)


# --- the model that ships ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped_model() -> Model:
    return weights.rounded(checkpoint.load("cadmus-mini").model)


@pytest.fixture(scope="module")
def shipped_tab(chromium: Any, shipped_model: Model, tmp_path_factory: Any) -> Iterator[Tab]:
    """Its page, without probes."""
    with browser.tab(chromium) as opened:
        yield opened.open(_page(shipped_model, tmp_path_factory.mktemp("shipped")))
        opened.check()


def _page(model: Model, folder: Path) -> Path:
    content = payload.assembled(model, "a model", "0", [])
    path = folder / "explorer.html"
    path.write_text(build.html("Cadmus explorer", {**content.data, "program": LONG}, content.tensors), encoding="utf-8")
    return path


def test_the_shipped_models_logits_and_edits_at_every_site(shipped_tab: Tab, shipped_model: Model) -> None:
    sequence = torch.from_numpy(_sequences(PROGRAM)).long()
    rng = np.random.default_rng(0)
    position = len(PROGRAM) - 2
    on_demand = [site for site in shipped_model.sites(on_demand=True) if site != "hook_tokens"]
    for site in [None, *shipped_model.sites(), *on_demand]:
        hooks, values = [], np.zeros(0)
        is_attention = bool(site) and site.endswith(("hook_attn_scores", "hook_pattern"))
        if site is not None:
            cache = shipped_model.run_with_cache(sequence, site)[1][site]
            one = cache[0, :, position] if is_attention else cache[0, position]
            values = rng.normal(size=tuple(one.shape))
            values[..., position + 1 :] = 0 if is_attention else values[..., position + 1 :]
            hooks = [(site, _adding(torch.from_numpy(values).float(), position, is_attention))]
        with torch.no_grad():
            expected = shipped_model.run_with_hooks(sequence, hooks)[0].numpy()
        answer = shipped_tab.page.evaluate(
            """({program, site, position, values, width}) => {
              const {base} = explorer.session.compute({program, acts: []});
              if (!site) return base.tokens.map((_, i) => [...base.logits(i)]);
              const rows = values.map(row => [row].flat());
              const step = rows[0].length === 1 ? 1 : width ?? rows[0].length;
              const change = x => rows.forEach((row, h) => row.forEach((value, k) => x[h * step + k] += value));
              const run = explorer.model.edit(explorer.model.newRun(), base, [{site, position, change}]);
              return run.tokens.map((_, i) => [...run.logits(i)]);
            }""",
            {
                "program": PROGRAM,
                "site": site,
                "position": position,
                "values": values.tolist(),
                "width": shipped_model.cfg.n_ctx if is_attention else None,
            },
        )
        np.testing.assert_allclose(answer, expected, atol=TOLERANCE, err_msg=str(site))


def _adding(values: torch.Tensor, position: int, is_attention: bool) -> Any:
    def hook(x: torch.Tensor, hook: Any) -> torch.Tensor:
        x = x.clone()
        view = x[0, :, position] if is_attention else x[0, position]
        view += values
        return x

    return hook


@pytest.mark.parametrize(
    ("shape", "limits"),
    [(None, {"key": 100, "edit": 300}), ({"d_model": 320, "d_mlp": 1280, "n_layers": 8}, {"key": 2000, "edit": 2000})],
)
def test_a_key_and_an_edit_take_no_longer_than_they_may(
    chromium: Any, shipped_model: Model, tmp_path: Path, shape: dict[str, int] | None, limits: dict[str, float]
) -> None:
    """Milliseconds that the page's thread computes and draws for, on programs of 40 tokens: of the model that ships,
    and of one of 10 million parameters. The best of several; other processes do not count."""
    cfg = ModelConfig(**{**shape, "n_heads": 5, "d_head": 64, "n_ctx": 64}) if shape else None
    model = weights.rounded(Model(cfg)) if cfg else shipped_model
    program = LONG + "12+3"
    assert len(program) == 40
    with browser.tab(chromium) as tab:
        tab.open(_page(model, tmp_path))
        session = tab.page.context.new_cdp_session(tab.page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})

        def busy() -> float:
            metrics = session.send("Performance.getMetrics")["metrics"]
            return 1000 * next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

        def timed(changes: dict[str, Any]) -> float:
            before = busy()
            tab.page.evaluate("changes => { explorer.update(changes); document.body.offsetWidth; }", changes)
            return busy() - before

        times: dict[str, list[float]] = {"key": [], "edit": []}
        for key in range(5):
            timed({"program": program[:-1], "token": 38, "acts": []})
            times["key"].append(timed({"program": program, "token": 39}))
            act = {"kind": "block", "query": 5, "key": key, "layer": 0, "head": 0}
            times["edit"].append(timed({"acts": [act]}))
    best = {name: min(values) for name, values in times.items()}
    print(best)
    assert all(best[name] <= limits[name] for name in best), best


def test_presets_show_what_they_say(chromium: Any, shipped_model: Model, tmp_path: Path) -> None:
    """Each view says of itself, in the page, what Python found of it."""
    mixture = checkpoint.load("cadmus-mini").mixture
    found_presets = presets.find(shipped_model, mixture)
    assert len(found_presets) >= 3
    sentences = {
        "It answers by": "The model now answers as the machine does after the edit",
        "Without these arcs": "The model answers something else",
        "It completes": "The model's answer makes the program true",
        "It gets one wrong": "The model's answer does not make the program true",
    }
    with browser.tab(chromium) as tab:
        path = _page(shipped_model, tmp_path)
        for preset in found_presets:
            tab.open(path, preset["hash"].removeprefix("#"))
            expected = [words for title, words in sentences.items() if preset["title"].startswith(title)]
            assert all(words in tab.text(".finding") for words in expected), preset
        tab.check()
