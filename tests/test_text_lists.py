"""One text where a sequence of texts is expected would be taken as its characters: every function refuses it, first."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from analyses.studies.distribution.comparison import compare
from analyses.studies.distribution.samples import take
from analyses.studies.dynamics.study import DynamicsConfig
from analyses.studies.generalization.study import GeneralizationConfig
from analyses.studies.interventions.study import InterventionsConfig
from analyses.studies.model_report.study import ModelReportConfig
from analyses.studies.paper.prompts import PromptsConfig
from analyses.studies.state.study import StateConfig
from analyses.sweeps.sweep import Sweep
from cadmus.programs.holdout import HoldOut
from probes.data.targets import Target, Targets

ROOT = Path(__file__).parents[1]
TARGET = r"Target|Target \| str \| Variable"
PARAMETER = re.compile(rf"((Sequence|Iterable|Collection|list)\[(str|{TARGET})\]|tuple\[str, \.\.\.\])( \| None)?")
TEXT, TEXTS = "reg.a", ("tuple[str, ...]", tuple[str, ...])
INNER_CONFIGS = {"TransformersConfig"}  # what another library's config file says
REFUSED = r"one text is given, 'reg\.a', where a list of them is expected; pass \['reg\.a'\]"

INNER = {  # what other functions of ours call, with the lists that they have made
    "cadmus.models.hooks:HookRegistry.__init__.on_demand",
    "cadmus.models.hooks:HookRegistry.__init__.regular",
    "cadmus.models.hooks:resolve_sites.sites",
    "cadmus.programs.parts.pieces:choice.texts",
    "cadmus.runtime.tables:check_names.names",
    "cadmus.runtime.tables:check_names.table",
    "cadmus.runtime.tables:check_table.names",
    "cadmus.runtime.tables:did_you_mean.names",
    "probes.interventions.attribution.gradients:check_method.methods",
    "probes.interventions.counterfactuals.judging:judge_rows.programs",
    "probes.interventions.experiment.cells:Place.counting.completions",
    "probes.interventions.experiment.cells:Place.judge.programs",
    "probes.interventions.experiment.cells:Place.truths.programs",
    "probes.interventions.subspaces.interchanges:encode.answers",
    "probes.measurement.counts:tally_test.broken_down",
    "probes.measurement.tally:Tally.__init__.broken_down",
}
OTHERS = {  # what must be right for the call to come to the argument; None will do for all else
    "probes.interventions.counterfactuals.drawing:draw.kinds": {"variable": "reg.a"},
    "probes.interventions.counterfactuals.own_programs:from_programs.bases": {"variable": "reg.a", "sources": []},
    "probes.interventions.counterfactuals.own_programs:from_programs.sources": {"variable": "reg.a", "bases": []},
    "probes.interventions.counterfactuals.roles:role_table.sources": {"bases": []},
    "probes.interventions.experiment.experiment:test.roles": {"variable": "reg.a"},
    "probes.interventions.experiment.persistence:halves.sources": {"bases": []},
    "probes.measurement.measure:measure.broken_down": {"targets": []},
}


def parameters() -> Iterator[str]:
    """Every sequence of texts, or of targets, that a public function of cadmus and probes takes:
    "module:function.argument"."""
    for package in ("cadmus", "probes"):
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            yield from (f"{module}:{name}" for name in names(ast.parse(path.read_text(encoding="utf-8"))))


def names(tree: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from names(node, f"{node.name}.")
        if not isinstance(node, ast.FunctionDef) or (node.name.startswith("_") and node.name != "__init__"):
            continue
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            if argument.annotation is not None and PARAMETER.fullmatch(ast.unparse(argument.annotation)):
                yield f"{prefix}{node.name}.{argument.arg}"


PARAMETERS = sorted(parameters())


def call(parameter: str, value: Any) -> Any:
    """The function with this value for the argument, and None for what else it asks for."""
    module, _, rest = parameter.partition(":")
    *path, argument = rest.split(".")
    function: Any = import_module(module)
    for name in path:
        function = function if name == "__init__" else getattr(function, name)
    required = [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    return function(**{**dict.fromkeys(required), **OTHERS.get(parameter, {}), argument: value})


@pytest.mark.parametrize("parameter", [parameter for parameter in PARAMETERS if parameter not in INNER])
def test_one_text_in_place_of_a_list(parameter: str) -> None:
    with pytest.raises(ValueError, match=REFUSED) as caught:
        call(parameter, TEXT)
    assert "\n" not in str(caught.value)
    assert parameter.rpartition(".")[2] in str(caught.value).partition(":")[0] or parameter.startswith("cadmus.machine")


def test_inner_functions_are_there() -> None:
    assert set(PARAMETERS) >= INNER, "a row of the table names no function"
    assert OTHERS.keys() <= set(PARAMETERS)


def test_sequences_are_seen_wherever_they_are_taken() -> None:
    code = (
        "def f(a: Sequence[str], b: str | Sequence[str], *, c: list[str] | None = None): ...\n"
        "class A:\n    def g(self, d: tuple[str, ...], e: Sequence[Target]): ...\n    def _h(self, f: list[str]): ...\n"
    )
    assert list(names(ast.parse(code))) == ["f.a", "f.c", "A.g.d", "A.g.e"]


CONFIGS: dict[type, dict[str, Any]] = {  # and what else they must be given
    HoldOut: {},
    DynamicsConfig: {},
    GeneralizationConfig: {"sweep": "sweep"},
    InterventionsConfig: {},
    ModelReportConfig: {},
    PromptsConfig: {},
    StateConfig: {},
    Sweep: {"name": "s", "recipe": None, "factors": (), "seeds": (0,)},
}


def fields() -> list[tuple[type, str]]:
    """The fields of configs that hold several texts."""
    return [(config, field.name) for config in CONFIGS for field in dataclasses.fields(config) if field.type in TEXTS]


@pytest.mark.parametrize(("config", "name"), fields())
def test_one_text_in_a_config(config: type, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: {REFUSED}"):
        config(**CONFIGS[config], **{name: TEXT})


def test_configs_that_hold_several_texts_are_all_tried() -> None:
    assert len(fields()) >= 14
    classes = r"class (\w*Config|HoldOut|Sweep)\b(?:(?!\nclass ).)*?\n    \w+: tuple\[str, \.\.\.\]"
    texts = (path.read_text(encoding="utf-8") for path in ROOT.glob("[cpa]*/**/*.py"))
    assert {name for text in texts for name in re.findall(classes, text, re.S)} - INNER_CONFIGS == {
        config.__name__ for config in CONFIGS
    }


def test_one_text_in_place_of_families_of_a_sample() -> None:
    for function in (lambda: take("first", TEXT, 1, "train", None, 0), lambda: compare(None, None, families=TEXT)):
        with pytest.raises(ValueError, match=REFUSED):
            function()


def even(traces: Any) -> Any:
    raise AssertionError("never called")


def test_one_target_in_place_of_a_list() -> None:
    for one in (Target("depth"), even):
        with pytest.raises(ValueError, match=r"^targets: one target is given, .*, where a list is expected; pass \["):
            Targets(one)
    with pytest.raises(ValueError, match=r"target 3 is none: give a variable's name, a function of the traces, or a T"):
        Targets([3])


def test_names_and_functions_stand_for_targets() -> None:
    assert list(Targets(["depth", even, Target("reg.a", 1)])) == [Target("depth"), Target(even), Target("reg.a", 1)]
