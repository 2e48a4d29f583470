"""Imports go one way: the table of the design, held against every import statement of the code, nested ones too."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import probes

ROOT = Path(__file__).parents[1]

# module -> the modules of this project that it may import; a family's modules count as `cadmus.families`
ALLOWED = {
    "cadmus": {"cadmus.checkpoint", "cadmus.model"},  # inside load_model, and for its type
    "cadmus.values": set(),
    "cadmus.instructions": {"cadmus.values"},
    "cadmus.vm": {"cadmus.values", "cadmus.instructions"},
    "cadmus.interpreter": {"cadmus.vm"},
    "cadmus.kernel": {"cadmus.vm", "cadmus.interpreter"},
    "cadmus.tokens": {"cadmus.vm"},
    "cadmus.labels": {"cadmus.vm", "cadmus.kernel"},
    "cadmus.semantics": {
        *("cadmus.vm", "cadmus.kernel", "cadmus.labels", "cadmus.tokens", "cadmus.jackknife", "cadmus.seeds"),
    },
    "cadmus.artifacts": {"cadmus.vm"},
    "cadmus.families": {"cadmus.vm", "cadmus.kernel", "cadmus.tokens", "cadmus.families"},
    "cadmus.mixtures": set(),
    "cadmus.recipes": set(),
    "cadmus.mixture": {"cadmus.families", "cadmus.holdout", "cadmus.artifacts"},
    "cadmus.holdout": {"cadmus.vm", "cadmus.kernel", "cadmus.tokens"},
    "cadmus.membership": {"cadmus.tokens"},
    "cadmus.seeds": set(),
    "cadmus.shards": {
        *("cadmus.mixture", "cadmus.families", "cadmus.holdout", "cadmus.membership", "cadmus.tokens"),
        "cadmus.seeds",
    },
    "cadmus.corpus": {
        *("cadmus.mixture", "cadmus.families", "cadmus.holdout", "cadmus.membership", "cadmus.shards"),
        *("cadmus.tokens", "cadmus.artifacts", "cadmus.seeds"),
    },
    "cadmus.build": {
        *("cadmus.corpus", "cadmus.mixture", "cadmus.membership", "cadmus.shards", "cadmus.artifacts", "cadmus.seeds"),
    },
    "cadmus.ordinary": {
        *("cadmus.corpus", "cadmus.families", "cadmus.membership", "cadmus.shards", "cadmus.tokens", "cadmus.seeds"),
        "cadmus.artifacts",
    },
    "cadmus.batches": {"cadmus.corpus", "cadmus.mixture", "cadmus.shards", "cadmus.seeds", "cadmus.tokens"},
    "cadmus.jackknife": {"cadmus.kernel", "cadmus.tokens"},
    "cadmus.divergence": {"cadmus.vm", "cadmus.tokens", "cadmus.jackknife"},
    "cadmus.properties": {
        *("cadmus.vm", "cadmus.tokens", "cadmus.jackknife", "cadmus.divergence", "cadmus.state_properties"),
    },
    "cadmus.state_properties": {"cadmus.vm", "cadmus.kernel", "cadmus.tokens"},
    "cadmus.hooks": set(),
    "cadmus.key_value_cache": set(),
    "cadmus.fused": set(),
    "cadmus.packed": {"cadmus.fused", "cadmus.tokens"},
    "cadmus.model": {
        *("cadmus.vm", "cadmus.tokens", "cadmus.hooks", "cadmus.key_value_cache", "cadmus.fused", "cadmus.packed"),
    },
    "cadmus.generation": {"cadmus.tokens", "cadmus.model", "cadmus.key_value_cache"},
    "cadmus.constraints": {"cadmus.vm", "cadmus.kernel", "cadmus.tokens", "cadmus.generation"},
    "cadmus.kinds": {"cadmus.hooks", "cadmus.model"},
    "cadmus.lens": {"cadmus.kinds", "cadmus.model"},
    "cadmus.muon": set(),
    "cadmus.checkpoint": {"cadmus.model", "cadmus.mixture", "cadmus.artifacts", "cadmus.vm"},
    "cadmus.cost": {"cadmus.model"},
    "cadmus.devices": set(),
    "cadmus.processes": {"cadmus.devices"},
    "cadmus.train": {
        *("cadmus.model", "cadmus.muon", "cadmus.corpus", "cadmus.mixture", "cadmus.tokens", "cadmus.artifacts"),
        *("cadmus.checkpoint", "cadmus.batches", "cadmus.cost", "cadmus.processes", "cadmus.evaluate", "cadmus.vm"),
        *("cadmus.devices", "cadmus.packed"),
    },
    "cadmus.recipe": {
        *("cadmus.mixture", "cadmus.build", "cadmus.model", "cadmus.train", "cadmus.checkpoint", "cadmus.artifacts"),
        *("cadmus.processes", "cadmus.devices", "cadmus.corpus", "cadmus.ordinary"),
    },
    "cadmus.evaluate": {
        *("cadmus.model", "cadmus.kernel", "cadmus.families", "cadmus.mixture", "cadmus.corpus", "cadmus.tokens"),
        *("cadmus.seeds", "cadmus.generation"),
    },
    "probes": set(),
    "probes.rows": {"cadmus.labels"},
    "probes.threads": set(),
    "probes.bank": {"cadmus.labels", "probes.rows"},
    "probes.logistic_solver": set(),
    "probes.logistic": {"cadmus.devices", "probes.logistic_solver", "probes.threads"},
    "probes.stats": set(),
    "probes.activation_cache": {"cadmus.artifacts", "cadmus.lens", "cadmus.model"},
    "probes.harvest": {"cadmus.devices", "cadmus.hooks", "cadmus.lens", "cadmus.tokens", "probes.activation_cache"},
    "probes.codelength": set(),
    "probes.linear": {"probes.bank"},
    "probes.estimators": {"probes.bank", "probes.linear"},
    "probes.dimensions": {"probes.bank", "probes.linear"},
    "probes.tally": {"cadmus.tokens", "probes.stats"},
    "probes.examples": {
        *("cadmus.corpus", "cadmus.kernel", "cadmus.labels", "cadmus.mixture", "cadmus.seeds", "cadmus.shards"),
        *("cadmus.tokens", "cadmus.vm", "probes.controls", "probes.harvest"),
    },
    "probes.reading": {"cadmus.labels", "probes.bank", "probes.examples", "probes.linear"},
    "probes.custom": {"probes.reading"},
    "probes.baselines": {
        *("cadmus.vm", "probes.bank", "probes.controls", "probes.examples", "probes.reading", "probes.rows"),
        *("probes.threads", "probes.token_baseline"),
    },
    "probes.passes": {
        *("cadmus.vm", "probes.bank", "probes.baselines", "probes.codelength", "probes.custom", "probes.examples"),
        *("probes.harvest", "probes.reading", "probes.rows", "probes.tally", "probes.threads"),
    },
    "probes.measure": {
        *("cadmus.labels", "cadmus.vm", "probes.bank", "probes.baselines", "probes.controls", "probes.custom"),
        *("probes.examples", "probes.harvest", "probes.passes", "probes.reading", "probes.tally"),
    },
    "probes.scores": {
        *("cadmus.labels", "probes.custom", "probes.examples", "probes.measure", "probes.stats", "probes.tally"),
    },
    "probes.controls": {"cadmus.model", "cadmus.families"},
    "probes.mlp": {"cadmus.devices"},
    "probes.token_baseline": {"cadmus.vm", "cadmus.devices", "probes.mlp"},
    "probes.value_statistics": set(),
    "probes.numeric": {"probes.stats", "probes.value_statistics"},
    "probes.separability": {"probes.value_statistics"},
    "probes.selftest": {
        *("cadmus.tokens", "cadmus.families", "probes.controls", "probes.estimators", "probes.harvest", "probes.mlp"),
        "probes.stats",
    },
}
TORCH = {  # the modules that may load torch; nothing loads transformer_lens on import
    *("cadmus.hooks", "cadmus.key_value_cache", "cadmus.model", "cadmus.generation", "cadmus.constraints"),
    *("cadmus.muon", "cadmus.checkpoint", "cadmus.train", "cadmus.evaluate", "cadmus.processes", "cadmus.devices"),
    *("cadmus.fused", "cadmus.packed", "cadmus.recipe", "cadmus.kinds", "cadmus.lens", "probes.harvest"),
    "probes.activation_cache",
    *("probes.logistic", "probes.logistic_solver", "analyses.studies.paper.study"),
    *("probes.mlp", "probes.threads", "probes.token_baseline"),
}
TRANSFORMER_LENS = {"cadmus.lens"}  # the modules that may load it, inside functions only


def modules() -> dict[str, Path]:
    found = {}
    for package in ("cadmus", "probes", "analyses"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


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
            found |= {name for name in names if name in modules()} or {node.module}
    return found


def home(module: str) -> str:
    return "cadmus.families" if module.startswith("cadmus.families") else module


def of_project(names: set[str]) -> set[str]:
    return {
        home(name) for name in names if name.split(".")[0] in ("cadmus", "probes", "analyses", "tests", "benchmarks")
    }


@pytest.mark.parametrize("module", [name for name in modules() if not name.startswith("analyses")])
def test_a_module_imports_only_what_the_table_allows(module):
    assert home(module) in ALLOWED, f"{module} is not in the table: say what it may import"
    surplus = of_project(imports(modules()[module])) - ALLOWED[home(module)]
    assert not surplus, f"{module} imports {sorted(surplus)}"


def test_the_table_names_no_module_that_is_gone():
    assert set(ALLOWED) == {home(name) for name in modules() if not name.startswith("analyses")}


def test_analyses_import_neither_tests_nor_benchmarks():
    for name, path in modules().items():
        assert not {n for n in imports(path) if n.split(".")[0] in ("tests", "benchmarks")}, name


@pytest.mark.parametrize("module", modules())
def test_heavy_packages_load_where_they_belong(module):
    found = {name.split(".")[0] for name in imports(modules()[module])}
    assert "transformer_lens" not in found or module in TRANSFORMER_LENS
    assert "transformer_lens" not in {name.split(".")[0] for name in imports(modules()[module], on_load=True)}
    assert "torch" not in found or module in TORCH


@pytest.mark.parametrize(
    "statement",
    [
        *("import cadmus", "import cadmus.build, cadmus.labels, cadmus.ordinary, cadmus.properties"),
        "import analyses.cli",
    ],
)
def test_light_modules_load_without_torch(statement):
    loads_none_of(statement, "torch", "transformer_lens")


def test_probes_loads_its_names_when_they_are_asked_for():
    loads_none_of("import probes; assert 'RidgeProbe' in dir(probes)", "torch", "sklearn", "numpy", "numba")
    loads_none_of("from probes import RidgeProbe, LeastSquaresProbe, DiscriminantProbe", "torch", "transformer_lens")
    for name in probes.__all__:
        home = importlib.import_module(getattr(probes, name).__module__)
        assert getattr(probes, name) is getattr(home, name)
    with pytest.raises(AttributeError, match=r"module 'probes' has no 'Ridge'; it has RidgeProbe, .*, and its modules"):
        _ = probes.Ridge
    with pytest.raises(ImportError, match="cannot import name 'Ridge'"):
        exec("from probes import Ridge", {})


def test_lens_loads_without_transformer_lens():
    loads_none_of("import cadmus.lens, probes.harvest", "transformer_lens")


def loads_none_of(statement, *names):
    program = f"import sys; {statement}; sys.exit(sorted(set({names!r}) & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_the_import_finder_sees_nested_and_aliased_imports(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "def f():\n    from cadmus import vm as machine\n    import probes.bank\nfrom cadmus.vm import run\n"
    )
    assert imports(path) == {"cadmus.vm", "probes.bank"}
    path.write_text("import cadmus.vm\nif 1:\n    import cadmus.tokens\n    def f():\n        import probes.bank\n")
    assert imports(path, on_load=True) == {"cadmus.vm", "cadmus.tokens"}
