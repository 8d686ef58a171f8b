"""Who may import whom, read from the source; the table is the design's, spelt out."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "lightning_nas"

LEAVES = {"errors", "files", "provenance", "terminal"}
CORE = LEAVES | {"nn", "spaces"}
REPORTING = {
    "report",
    "report_cli",
    "tables",
    "plots",
    "outcomes",
    "comparison",
    "ledger",
    "cell_layout",
    "cell_drawing",
}
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "terminal": set(),
    "provenance": {"errors"},
    "nn": LEAVES,
    "spaces": LEAVES | {"nn"},
    "metrics": CORE,
    "datamodules": CORE | {"workers"},
    "datamodules.motifs": CORE | {"benchmarks"},  # motifs come with the scores of an oracle
    "datamodules.pairs": CORE | {"datamodules", "benchmarks"},  # accuracies in a table are its data
    "modules": CORE | {"metrics"},
    "workers": CORE,
    "benchmarks": CORE | {"workers"},
    "benchmarks.live": CORE | {"benchmarks", "workers", "modules", "datamodules"},
    "search": CORE | {"benchmarks"},
    "predictors": CORE | {"modules", "search"},
    "callbacks": CORE | REPORTING | {"search", "predictors", "benchmarks", "workers", "modules", "metrics"},
    "genotype": CORE,
    "loading": CORE | {"modules"},
    "retraining": CORE | {"modules"},
    "analysis": CORE
    | REPORTING
    | {"search", "predictors", "benchmarks", "datamodules", "modules", "metrics", "loading", "workers"},
    "analyze_cli": None,
    "export": CORE | {"modules", "loading", "export_template"},
    "export_template": set(),
    "export_cli": CORE | {"export", "loading", "modules"},
    "trainer": CORE | {"callbacks", "modules", "retraining"},
    **dict.fromkeys(REPORTING, CORE | REPORTING | {"search", "benchmarks"}),
    "table_statistics": CORE | {"benchmarks", "ledger"},
    "data_cli": CORE | {"benchmarks", "tables", "table_statistics", "ledger"},
    "short_names": None,
    "tabulate_cli": None,
    "compare_cli": None,
    "score_cli": None,
    "configs": set(),
    "configurations": LEAVES,
    "nascli": None,  # everything
    "cli": None,
}
NO_LIGHTNING = {"nn", "spaces", "workers", "search", "errors", "files", "provenance", *REPORTING}
AT_TOP_LEVEL_ONLY_WHERE_USED = {
    "matplotlib", "sklearn", "lightgbm", "torch_geometric", "xgboost", "kornia", "PIL", "torchvision",
}  # fmt: skip


def modules():
    """Every module of the package by its name within it, ``callbacks`` and the like included."""
    files = [p for folder in (PACKAGE, *filter(Path.is_symlink, PACKAGE.iterdir())) for p in folder.rglob("*.py")]
    names = {".".join(p.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): p for p in files}
    return {name: path for name, path in names.items() if name != "__init__"}


MODULES = modules()


def imports(path):
    """(dotted name, is it at module level) of every import, those under ``if TYPE_CHECKING`` left out."""
    tree = ast.parse(path.read_text("utf-8"))
    hidden = {
        inner for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }  # fmt: skip
    deferred = {
        inner for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }  # fmt: skip
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node not in deferred) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = whole.removeprefix("lightning_nas.") in MODULES
                yield (whole if is_module else node.module), node not in deferred


def rule(name):
    """The most specific entry of a table for a module."""
    return next(key for key in (name, name.split(".")[0]) if key in ALLOWED)


def test_the_package_was_found():
    assert {"cli", "callbacks.search", "datamodules.cells", "modules.arch2vec", "spaces.nasbench201"} <= MODULES.keys()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_one_way(name):
    assert name.split(".")[0] in ALLOWED, f"{name}: say in this test what it may import"
    key, group = rule(name), name.split(".")[0]
    for imported, _ in imports(MODULES[name]):
        first, *rest = imported.split(".")
        assert first not in ("datamodules", "callbacks", "configs"), f"{name}: bare import of {imported}"
        if first != "lightning_nas" or not rest:
            continue
        assert rest[0] != "cli", f"{name} imports the command line"
        assert rest[0] != "nascli" or name == "cli", f"{name} imports the command line"
        if ALLOWED[key] is None or rest[0] == group:
            continue
        assert rest[0] in ALLOWED[key], f"{name} imports {imported}; allowed: {sorted(ALLOWED[key])}"


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.split(".")[0] in NO_LIGHTNING))
def test_free_of_lightning(name):
    assert not [i for i, _ in imports(MODULES[name]) if i.split(".")[0] in ("pytorch_lightning", "lightning_fabric")]


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"plots"}))
def test_heavy_libraries_are_imported_where_they_are_used(name):
    early = {i.split(".")[0] for i, at_top in imports(MODULES[name]) if at_top}
    assert not early & AT_TOP_LEVEL_ONLY_WHERE_USED


def test_the_rules_can_fail(tmp_path):
    (tmp_path / "bad.py").write_text("def f():\n    from callbacks.search import SearchCallback\nimport torch.nn\n")
    assert list(imports(tmp_path / "bad.py")) == [("torch.nn", True), ("callbacks.search", False)]


@pytest.mark.parametrize("module", ["cli", "data_cli", "report_cli", "analyze_cli", "export_cli"])
def test_the_plain_commands_import_no_torch(module):
    heavy = "{'torch', 'pytorch_lightning', 'botorch', 'matplotlib', 'sklearn', 'scipy'}"
    code = f"import sys, lightning_nas.{module}; print(sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
