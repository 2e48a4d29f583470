"""Imports go one way, room by room: the table of the design, held against every import statement, nested ones too."""

import ast
import importlib
import inspect
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from importlib import metadata
from pathlib import Path

import pytest

import cadmus
import probes

ROOT = Path(__file__).parents[1]

# room -> the rooms that its modules import, from the lowest up; what is not here is an arrow that nobody has agreed on
MACHINE = {"cadmus.machine"}
PROGRAMS = MACHINE | {"cadmus.programs", "cadmus.runtime"}
STUDY = {"cadmus.runtime", "analyses.reporting"}
PROBED = {"cadmus.models", "cadmus.states", "cadmus.training", "probes.data"}
ALLOWED = {
    "cadmus": {"cadmus.models", "cadmus.shipped", "cadmus.training"},  # inside load_model, and for its type
    "cadmus.machine": set(),
    "cadmus.runtime": MACHINE,
    "cadmus.statistics": MACHINE,
    "cadmus.shipped": set(),
    "cadmus.models": MACHINE | {"cadmus.runtime"},
    "cadmus.states": MACHINE | {"cadmus.runtime", "cadmus.statistics"},
    "cadmus.programs": MACHINE | {"cadmus.runtime", "cadmus.shipped", "cadmus.states"},
    "cadmus.corpora": PROGRAMS,
    "cadmus.properties": MACHINE | {"cadmus.programs", "cadmus.runtime", "cadmus.states", "cadmus.statistics"},
    "cadmus.training": PROGRAMS | {"cadmus.corpora", "cadmus.models", "cadmus.shipped", "cadmus.statistics"},
    "probes": set(),
    "probes.data": PROGRAMS | {"cadmus.corpora", "cadmus.models", "cadmus.states"},
    "probes.solvers": MACHINE | {"cadmus.runtime", "cadmus.states", "probes.data"},
    "probes.controls": MACHINE | {"cadmus.models", "cadmus.runtime", "probes.data", "probes.solvers"},
    "probes.geometry": {"cadmus.statistics", "probes.solvers"},
    "probes.measurement": {
        "cadmus.machine",
        "cadmus.models",
        "cadmus.runtime",
        "cadmus.states",
        "cadmus.statistics",
        "probes.controls",
        "probes.data",
        "probes.solvers",
    },
    "probes.interventions": set(),
    "probes.interventions.editing": MACHINE | {"cadmus.models", "cadmus.runtime"},
    "probes.interventions.counterfactuals": MACHINE
    | {"cadmus.corpora", "cadmus.programs", "cadmus.runtime", "cadmus.states"},
    "probes.interventions.subspaces": MACHINE
    | {
        "cadmus.runtime",
        "cadmus.statistics",
        "probes.data",
        "probes.solvers",
        "probes.interventions.editing",
        "probes.interventions.counterfactuals",
    },
    "probes.interventions.attribution": MACHINE
    | {
        "cadmus.models",
        "cadmus.runtime",
        "cadmus.states",
        "cadmus.statistics",
        "probes.interventions.editing",
        "probes.interventions.counterfactuals",
    },
    "probes.interventions.effects": MACHINE
    | {"cadmus.states", "cadmus.statistics", "probes.interventions.counterfactuals"},
    "probes.interventions.attention": MACHINE
    | {
        "cadmus.programs",
        "cadmus.runtime",
        "cadmus.states",
        "cadmus.statistics",
        "probes.interventions.editing",
        "probes.interventions.counterfactuals",
        "probes.interventions.effects",
    },
    "probes.interventions.experiment": MACHINE
    | {
        "cadmus.corpora",
        "cadmus.models",
        "cadmus.programs",
        "cadmus.runtime",
        "cadmus.states",
        "cadmus.statistics",
        "probes.controls",
        "probes.data",
        "probes.solvers",
        "probes.interventions.editing",
        "probes.interventions.counterfactuals",
        "probes.interventions.subspaces",
        "probes.interventions.attribution",
        "probes.interventions.effects",
        "probes.interventions.attention",
    },
    "probes.selftest": {
        "cadmus.machine",
        "cadmus.programs",
        "cadmus.runtime",
        "cadmus.statistics",
        "probes.controls",
        "probes.data",
        "probes.solvers",
    },
    "analyses": set(),
    "analyses.reporting": {"cadmus", "cadmus.runtime", "cadmus.statistics", "cadmus.training", "probes", "probes.data"},
    "analyses.sweeps": {
        "cadmus.corpora",
        "cadmus.machine",
        "cadmus.models",
        "cadmus.programs",
        "cadmus.properties",
        "cadmus.runtime",
        "cadmus.shipped",
        "cadmus.statistics",
        "cadmus.training",
        "probes.controls",
        "probes.interventions.counterfactuals",
        "probes.interventions.effects",
        "probes.interventions.experiment",
    },
    "analyses.studies": set(),
    "analyses.studies.paper": {
        *STUDY,
        *PROBED,
        "cadmus",
        "cadmus.corpora",
        "cadmus.machine",
        "cadmus.programs",
        "cadmus.statistics",
        "probes.controls",
        "probes.solvers",
    },
    "analyses.studies.state": {
        *STUDY,
        *PROBED,
        "cadmus",
        "cadmus.machine",
        "cadmus.statistics",
        "probes.controls",
        "probes.geometry",
        "probes.measurement",
        "probes.solvers",
    },
    "analyses.studies.dynamics": STUDY | PROBED | {"cadmus.programs", "cadmus.statistics", "probes.measurement"},
    "analyses.studies.calibration": {
        *STUDY,
        "cadmus.machine",
        "cadmus.models",
        "cadmus.statistics",
        "probes.interventions.editing",
        "probes.interventions.effects",
        "probes.interventions.subspaces",
        "probes.solvers",
    },
    "analyses.studies.interventions": {
        *STUDY,
        "cadmus",
        "cadmus.programs",
        "cadmus.states",
        "cadmus.statistics",
        "cadmus.training",
        "probes.controls",
        "probes.interventions.counterfactuals",
        "probes.interventions.effects",
        "probes.interventions.experiment",
    },
    "analyses.studies.distribution": {
        *STUDY,
        "cadmus.corpora",
        "cadmus.machine",
        "cadmus.programs",
        "cadmus.properties",
        "cadmus.statistics",
    },
    "analyses.studies.generalization": {*STUDY, "cadmus.statistics"},
    # put together from other studies
    "analyses.studies.alternatives": {
        *STUDY,
        "cadmus",
        "cadmus.statistics",
        "cadmus.training",
        "analyses.studies.state",
    },
    "analyses.studies.model_report": {
        *STUDY,
        "cadmus",
        "cadmus.programs",
        "cadmus.training",
        "probes.interventions.counterfactuals",
        "probes.interventions.experiment",
        "probes.measurement",
        "analyses.studies.interventions",
        "analyses.studies.paper",
        "analyses.studies.state",
    },
    "analyses.explorer": {
        "cadmus",
        "cadmus.corpora",
        "cadmus.machine",
        "cadmus.models",
        "cadmus.programs",
        "cadmus.runtime",
        "cadmus.states",
        "cadmus.training",
        "probes.data",
        "probes.interventions.attention",
        "probes.interventions.counterfactuals",
        "probes.interventions.editing",
        "probes.interventions.subspaces",
        "probes.solvers",
    },
    "analyses.commands": {
        "cadmus",
        "cadmus.corpora",
        "cadmus.machine",
        "cadmus.programs",
        "cadmus.runtime",
        "cadmus.training",
        "probes.selftest",
        "analyses.explorer",
        "analyses.reporting",
        "analyses.studies.alternatives",
        "analyses.studies.calibration",
        "analyses.studies.distribution",
        "analyses.studies.dynamics",
        "analyses.studies.generalization",
        "analyses.studies.interventions",
        "analyses.studies.model_report",
        "analyses.studies.paper",
        "analyses.studies.state",
        "analyses.sweeps",
    },
    "analyses.cli": {"analyses.commands"},
}
TORCH = {  # the rooms and modules that may load torch; nothing loads transformer_lens on import
    "cadmus.models",
    "cadmus.training",
    "cadmus.runtime.devices",
    "cadmus.runtime.diagnosis",
    "cadmus.runtime.threads",
    "probes.data.activations",
    "probes.data.activation_cache",
    "probes.data.token_map",
    "probes.solvers.logistic",
    "probes.solvers.logistic_solver",
    "probes.solvers.mlp",
    "probes.controls.input_network",
    "probes.interventions.editing",
    "probes.interventions.subspaces",
    "probes.interventions.attribution",
    "probes.interventions.attention",
    "probes.interventions.experiment",
    "analyses.explorer.weights",
    "analyses.studies.calibration",
    "analyses.sweeps.engines",
    "analyses.sweeps.plan",
    "analyses.sweeps.runs",
}
TRANSFORMER_LENS = {  # the modules that may load it, inside functions only
    "cadmus.models.lens",
    "cadmus.models.weights",
    "analyses.studies.calibration.circuits",
}


def modules() -> dict[str, Path]:
    found = {}
    for package in ("cadmus", "probes", "analyses"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path, on_load: bool = False) -> set[str]:
    """Every module that the file imports; `from package import name` counts as package.name where that is a module.

    With `on_load`, those only that are imported when the file itself is: not the ones within functions.
    """
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    later = {id(node) for function in functions for node in ast.walk(function)} if on_load else set()
    for node in ast.walk(tree):
        if id(node) in later:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in names if name in MODULES}
            if names - set(MODULES):
                found.add(node.module)
    return found


def room(module: str) -> str:
    """The room of a module: a package's folder, a folder of studies or interventions, or a module that lies in none."""
    parts = module.split(".")
    return ".".join(parts[: 3 if parts[:2] in (["analyses", "studies"], ["probes", "interventions"]) else 2])


def of_project(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] in ("cadmus", "probes", "analyses", "tests", "benchmarks")}


def is_script(module: str) -> bool:
    return module.endswith(".__main__")


@pytest.mark.parametrize("module", [name for name in MODULES if not is_script(name)])
def test_a_module_imports_only_what_the_table_allows(module):
    assert room(module) in ALLOWED, f"{room(module)} is not in the table: say what it may import"
    surplus = {room(name) for name in of_project(imports(MODULES[module]))} - ALLOWED[room(module)] - {room(module)}
    assert not surplus, f"{module} imports {sorted(surplus)}"


def test_a_script_imports_the_command_and_nothing_imports_a_script():
    for module, path in MODULES.items():
        found = of_project(imports(path))
        assert not any(map(is_script, found)), module
        if is_script(module):
            assert found == {"analyses.cli"}, module


def test_every_study_runs_as_a_script():
    studies = [path.parent for path in (ROOT / "analyses" / "studies").glob("*/__init__.py")]
    assert len(studies) >= 6
    assert all((study / "__main__.py").is_file() for study in studies)


def test_the_table_names_no_room_that_is_gone_and_no_arrow_that_nobody_uses():
    assert set(ALLOWED) == {room(name) for name in MODULES}
    used = {name: set() for name in ALLOWED}
    for module, path in MODULES.items():
        if not is_script(module):
            used[room(module)] |= {room(name) for name in of_project(imports(path))} - {room(module)}
    surplus = {name: sorted(ALLOWED[name] - arrows) for name, arrows in used.items() if ALLOWED[name] - arrows}
    assert not surplus


def test_the_table_and_the_modules_have_no_circle():
    assert not circle({name: arrows - {"cadmus"} for name, arrows in ALLOWED.items()})
    assert not circle({module: imports(path) & set(MODULES) - {module} for module, path in MODULES.items()})


@pytest.mark.parametrize("module", MODULES)
def test_heavy_packages_load_where_they_belong(module):
    found = {name.split(".")[0] for name in imports(MODULES[module])}
    assert "transformer_lens" not in found or module in TRANSFORMER_LENS
    assert "transformer_lens" not in {name.split(".")[0] for name in imports(MODULES[module], on_load=True)}
    assert "torch" not in found or {module, room(module)} & TORCH


@pytest.mark.parametrize(
    "statement",
    [
        "import cadmus",
        "import cadmus.corpora.build, cadmus.corpora.ordinary, cadmus.states.variables, cadmus.properties.structure",
        "import analyses.cli",
    ],
)
def test_light_modules_load_without_torch(statement):
    assert not loaded(statement, "torch", "transformer_lens")


def test_probes_loads_its_names_when_they_are_asked_for():
    assert not loaded("import probes; assert 'RidgeProbe' in dir(probes)", "torch", "sklearn", "numpy", "numba")
    assert not loaded(
        "from probes import RidgeProbe, LeastSquaresProbe, DiscriminantProbe", "torch", "transformer_lens"
    )
    for name in (name for name in probes.__all__ if not inspect.ismodule(getattr(probes, name))):
        home = importlib.import_module(getattr(probes, name).__module__)
        assert getattr(probes, name) is getattr(home, name)
    with pytest.raises(AttributeError, match=r"module 'probes' has no 'Ridge'; it has RidgeProbe, .*, and its modules"):
        _ = probes.Ridge
    with pytest.raises(ImportError, match="cannot import name 'Ridge'"):
        exec("from probes import Ridge", {})


ROOMS = sorted(  # of cadmus and probes, whose modules load when they are used
    ".".join(path.parent.relative_to(ROOT).parts)
    for package in ("cadmus", "probes")
    for path in (ROOT / package).rglob("__init__.py")
    if path.parent.name not in ("families", "shipped")
)


@pytest.mark.parametrize("name", ROOMS)
def test_every_module_of_a_room_is_an_attribute_of_it(name):
    room = importlib.import_module(name)
    folder = ROOT / Path(*name.split("."))
    modules = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    missing = modules - {"__init__"} - set(dir(room))
    assert not missing, f"list {sorted(missing)} among the submodules of {folder}/__init__.py"


def test_cadmus_alone_is_enough_and_loads_what_is_used():
    assert not loaded("import cadmus; cadmus.run('1.'); cadmus.machine.vm.verdict('1.')", "torch", "numba", "numpy")
    assert {"load_model", "run", "explain", "__version__", "machine", "training"} <= set(dir(cadmus))
    assert cadmus.run("3A4Bab+7=.").is_true
    assert cadmus.explain is cadmus.machine.vm.explain
    assert cadmus.__version__ == metadata.version("cadmus-probe")
    with pytest.raises(AttributeError, match=r"^cadmus has no semantics; it has DEFAULT_MODEL, "):
        _ = cadmus.semantics
    with pytest.raises(AttributeError, match=r"^cadmus has no kernel; did you mean cadmus\.machine\.kernel\?$"):
        _ = cadmus.kernel


@pytest.mark.slow
def test_lens_loads_without_transformer_lens():
    assert not loaded("import cadmus.models.lens, probes.data.activations", "transformer_lens")


def loaded(statement, *names):
    """Those of the modules `names` that a new process has loaded once it has run the statement."""
    program = f"import sys; {statement}; print(*sorted(set({names!r}) & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return run.stdout.split()


def test_what_is_loaded_is_seen():
    assert loaded("import json, textwrap", "json", "textwrap", "torch") == ["json", "textwrap"]


def circle(graph):
    """A circle of the graph, {node: what it points to}; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_a_circle_is_seen():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})[0] in "abc"
    assert circle({"a": {"b"}, "b": set()}) == []


def test_the_import_finder_sees_nested_and_aliased_imports(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "def f():\n    from cadmus.machine import vm as machine\n    import probes.solvers.bank\n"
        "from cadmus.machine.vm import run\n"
    )
    assert imports(path) == {"cadmus.machine.vm", "probes.solvers.bank"}
    path.write_text(
        "import cadmus.machine.vm\nif 1:\n    import cadmus.machine.tokens\n"
        "    def f():\n        import probes.solvers.bank\n"
    )
    assert imports(path, on_load=True) == {"cadmus.machine.vm", "cadmus.machine.tokens"}
