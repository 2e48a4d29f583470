"""Imports go one way: the table of the design, held against every import statement of the code, nested ones too."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import probes

ROOT = Path(__file__).parents[1]

# module -> the modules of this project that it may import; a family's modules count as `cadmus.programs.families`
ALLOWED = {
    "cadmus": {"cadmus.training.checkpoint", "cadmus.models.model"},  # inside load_model, and for its type
    "cadmus.machine.values": set(),
    "cadmus.machine.instructions": {"cadmus.machine.values"},
    "cadmus.machine.vm": {"cadmus.machine.values", "cadmus.machine.instructions"},
    "cadmus.machine.compiled": {"cadmus.machine.vm"},
    "cadmus.machine.kernel": {"cadmus.machine.vm", "cadmus.machine.compiled"},
    "cadmus.machine.tokens": {"cadmus.machine.vm"},
    "cadmus.states.variables": {"cadmus.machine.vm", "cadmus.machine.kernel"},
    "cadmus.states.alternatives": {
        *(
            "cadmus.machine.vm",
            "cadmus.machine.kernel",
            "cadmus.states.variables",
            "cadmus.machine.tokens",
            "cadmus.statistics.jackknife",
            "cadmus.runtime.seeds",
        ),
    },
    "cadmus.runtime.artifacts": {"cadmus.machine.vm"},
    "cadmus.programs.families": {
        "cadmus.machine.vm",
        "cadmus.machine.kernel",
        "cadmus.machine.tokens",
        "cadmus.programs.families",
    },
    "cadmus.mixtures": set(),
    "cadmus.recipes": set(),
    "cadmus.programs.mixture": {"cadmus.programs.families", "cadmus.programs.holdout", "cadmus.runtime.artifacts"},
    "cadmus.programs.holdout": {"cadmus.machine.vm", "cadmus.machine.kernel", "cadmus.machine.tokens"},
    "cadmus.corpora.membership": {"cadmus.machine.tokens"},
    "cadmus.runtime.seeds": set(),
    "cadmus.corpora.shards": {
        *(
            "cadmus.programs.mixture",
            "cadmus.programs.families",
            "cadmus.programs.holdout",
            "cadmus.corpora.membership",
            "cadmus.machine.tokens",
        ),
        "cadmus.runtime.seeds",
    },
    "cadmus.corpora.corpus": {
        *(
            "cadmus.programs.mixture",
            "cadmus.programs.families",
            "cadmus.programs.holdout",
            "cadmus.corpora.membership",
            "cadmus.corpora.shards",
        ),
        *("cadmus.machine.tokens", "cadmus.runtime.artifacts", "cadmus.runtime.seeds"),
    },
    "cadmus.corpora.build": {
        *(
            "cadmus.corpora.corpus",
            "cadmus.programs.mixture",
            "cadmus.corpora.membership",
            "cadmus.corpora.shards",
            "cadmus.runtime.artifacts",
            "cadmus.runtime.seeds",
        ),
    },
    "cadmus.corpora.ordinary": {
        *(
            "cadmus.corpora.corpus",
            "cadmus.programs.families",
            "cadmus.corpora.membership",
            "cadmus.corpora.shards",
            "cadmus.machine.tokens",
            "cadmus.runtime.seeds",
        ),
        "cadmus.runtime.artifacts",
    },
    "cadmus.training.batches": {
        "cadmus.corpora.corpus",
        "cadmus.programs.mixture",
        "cadmus.corpora.shards",
        "cadmus.runtime.seeds",
        "cadmus.machine.tokens",
    },
    "cadmus.statistics.jackknife": {"cadmus.machine.kernel", "cadmus.machine.tokens"},
    "cadmus.properties.divergence": {"cadmus.machine.vm", "cadmus.machine.tokens", "cadmus.statistics.jackknife"},
    "cadmus.properties.structure": {
        *(
            "cadmus.machine.vm",
            "cadmus.machine.tokens",
            "cadmus.statistics.jackknife",
            "cadmus.properties.divergence",
            "cadmus.properties.behaviour",
        ),
    },
    "cadmus.properties.behaviour": {"cadmus.machine.vm", "cadmus.machine.kernel", "cadmus.machine.tokens"},
    "cadmus.models.hooks": set(),
    "cadmus.models.key_value_cache": set(),
    "cadmus.models.fused": set(),
    "cadmus.models.packed": {"cadmus.models.fused", "cadmus.machine.tokens"},
    "cadmus.models.model": {
        *(
            "cadmus.machine.vm",
            "cadmus.machine.tokens",
            "cadmus.models.hooks",
            "cadmus.models.key_value_cache",
            "cadmus.models.fused",
            "cadmus.models.packed",
        ),
    },
    "cadmus.models.generation": {"cadmus.machine.tokens", "cadmus.models.model", "cadmus.models.key_value_cache"},
    "cadmus.models.constraints": {
        "cadmus.machine.vm",
        "cadmus.machine.kernel",
        "cadmus.machine.tokens",
        "cadmus.models.generation",
    },
    "cadmus.models.backends": {"cadmus.models.hooks", "cadmus.models.model"},
    "cadmus.models.lens": {"cadmus.models.backends", "cadmus.models.model"},
    "cadmus.training.muon": set(),
    "cadmus.training.checkpoint": {
        "cadmus.models.model",
        "cadmus.programs.mixture",
        "cadmus.runtime.artifacts",
        "cadmus.machine.vm",
    },
    "cadmus.training.cost": {"cadmus.models.model"},
    "cadmus.runtime.devices": set(),
    "cadmus.training.distributed": {"cadmus.runtime.devices"},
    "cadmus.training.loop": {
        *(
            "cadmus.models.model",
            "cadmus.training.muon",
            "cadmus.corpora.corpus",
            "cadmus.programs.mixture",
            "cadmus.machine.tokens",
            "cadmus.runtime.artifacts",
        ),
        *(
            "cadmus.training.checkpoint",
            "cadmus.training.batches",
            "cadmus.training.cost",
            "cadmus.training.distributed",
            "cadmus.training.completion",
            "cadmus.machine.vm",
        ),
        *("cadmus.runtime.devices", "cadmus.models.packed"),
    },
    "cadmus.training.recipe": {
        *(
            "cadmus.programs.mixture",
            "cadmus.corpora.build",
            "cadmus.models.model",
            "cadmus.training.loop",
            "cadmus.training.checkpoint",
            "cadmus.runtime.artifacts",
        ),
        *("cadmus.training.distributed", "cadmus.runtime.devices", "cadmus.corpora.corpus", "cadmus.corpora.ordinary"),
    },
    "cadmus.training.completion": {
        *(
            "cadmus.models.model",
            "cadmus.machine.kernel",
            "cadmus.programs.families",
            "cadmus.programs.mixture",
            "cadmus.corpora.corpus",
            "cadmus.machine.tokens",
        ),
        *("cadmus.runtime.seeds", "cadmus.models.generation"),
    },
    "probes": set(),
    "probes.rows": {"cadmus.states.variables"},
    "cadmus.runtime.threads": set(),
    "probes.bank": {"cadmus.states.variables", "probes.rows"},
    "probes.logistic_solver": set(),
    "probes.logistic": {"cadmus.runtime.devices", "probes.logistic_solver", "cadmus.runtime.threads"},
    "cadmus.statistics.clustered": set(),
    "probes.activation_cache": {"cadmus.runtime.artifacts", "cadmus.models.lens", "cadmus.models.model"},
    "probes.harvest": {
        "cadmus.runtime.devices",
        "cadmus.models.hooks",
        "cadmus.models.lens",
        "cadmus.machine.tokens",
        "probes.activation_cache",
    },
    "probes.codelength": set(),
    "probes.linear": {"probes.bank"},
    "probes.estimators": {"probes.bank", "probes.linear"},
    "probes.dimensions": {"probes.bank", "probes.linear"},
    "probes.tally": {"cadmus.machine.tokens", "cadmus.statistics.clustered"},
    "probes.examples": {
        *(
            "cadmus.corpora.corpus",
            "cadmus.machine.kernel",
            "cadmus.states.variables",
            "cadmus.programs.mixture",
            "cadmus.runtime.seeds",
            "cadmus.corpora.shards",
        ),
        *("cadmus.machine.tokens", "cadmus.machine.vm", "probes.controls", "probes.harvest"),
    },
    "probes.reading": {"cadmus.states.variables", "probes.bank", "probes.examples", "probes.linear"},
    "probes.custom": {"probes.reading"},
    "probes.baselines": {
        *("cadmus.machine.vm", "probes.bank", "probes.controls", "probes.examples", "probes.reading", "probes.rows"),
        *("cadmus.runtime.threads", "probes.token_baseline"),
    },
    "probes.passes": {
        *(
            "cadmus.machine.vm",
            "probes.bank",
            "probes.baselines",
            "probes.codelength",
            "probes.custom",
            "probes.examples",
        ),
        *("probes.harvest", "probes.reading", "probes.rows", "probes.tally", "cadmus.runtime.threads"),
    },
    "probes.measure": {
        *(
            "cadmus.states.variables",
            "cadmus.machine.vm",
            "probes.bank",
            "probes.baselines",
            "probes.controls",
            "probes.custom",
        ),
        *("probes.examples", "probes.harvest", "probes.passes", "probes.reading", "probes.tally"),
    },
    "probes.scores": {
        *(
            "cadmus.states.variables",
            "probes.custom",
            "probes.examples",
            "probes.measure",
            "cadmus.statistics.clustered",
            "probes.tally",
        ),
    },
    "probes.controls": {"cadmus.models.model", "cadmus.programs.families"},
    "probes.mlp": {"cadmus.runtime.devices"},
    "probes.token_baseline": {"cadmus.machine.vm", "cadmus.runtime.devices", "probes.mlp"},
    "probes.value_statistics": set(),
    "probes.numeric": {"cadmus.statistics.clustered", "probes.value_statistics"},
    "probes.separability": {"probes.value_statistics"},
    "probes.selftest": {
        *(
            "cadmus.machine.tokens",
            "cadmus.programs.families",
            "probes.controls",
            "probes.estimators",
            "probes.harvest",
            "probes.mlp",
        ),
        "cadmus.statistics.clustered",
    },
}
TORCH = {  # the modules that may load torch; nothing loads transformer_lens on import
    *(
        "cadmus.models.hooks",
        "cadmus.models.key_value_cache",
        "cadmus.models.model",
        "cadmus.models.generation",
        "cadmus.models.constraints",
    ),
    *(
        "cadmus.training.muon",
        "cadmus.training.checkpoint",
        "cadmus.training.loop",
        "cadmus.training.completion",
        "cadmus.training.distributed",
        "cadmus.runtime.devices",
    ),
    *(
        "cadmus.models.fused",
        "cadmus.models.packed",
        "cadmus.training.recipe",
        "cadmus.models.backends",
        "cadmus.models.lens",
        "probes.harvest",
    ),
    "probes.activation_cache",
    *("probes.logistic", "probes.logistic_solver", "analyses.studies.paper.study"),
    *("probes.mlp", "cadmus.runtime.threads", "probes.token_baseline"),
}
TRANSFORMER_LENS = {"cadmus.models.lens"}  # the modules that may load it, inside functions only


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
    return "cadmus.programs.families" if module.startswith("cadmus.programs.families") else module


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
        *(
            "import cadmus",
            "import cadmus.corpora.build, cadmus.states.variables, cadmus.corpora.ordinary, cadmus.properties.structure",
        ),
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
    loads_none_of("import cadmus.models.lens, probes.harvest", "transformer_lens")


def loads_none_of(statement, *names):
    program = f"import sys; {statement}; sys.exit(sorted(set({names!r}) & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_the_import_finder_sees_nested_and_aliased_imports(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "def f():\n    from cadmus.machine import vm as machine\n    import probes.bank\nfrom cadmus.machine.vm import run\n"
    )
    assert imports(path) == {"cadmus.machine.vm", "probes.bank"}
    path.write_text(
        "import cadmus.machine.vm\nif 1:\n    import cadmus.machine.tokens\n    def f():\n        import probes.bank\n"
    )
    assert imports(path, on_load=True) == {"cadmus.machine.vm", "cadmus.machine.tokens"}
