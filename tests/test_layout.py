"""Who may import whom, where import-linter would need a list of every plug-in."""

import ast
from pathlib import Path

import pytest

from lab import plugins

ROOT = Path(__file__).parent.parent
SHARED = {"architectures": {"backbone", "stack", "ops"}, "tasks": {"task", "sources"}}


def imported(file):
    """Every module that a file names in an import."""
    tree = ast.parse(file.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in SHARED for name in plugins.names(kind)])
def test_plug_ins_import_the_contract_and_no_other_plug_in(kind, name):
    for module in imported(ROOT / kind / f"{name}.py"):
        package, _, rest = module.partition(".")
        assert package not in {"lab", *SHARED} - {kind}, module
        if package == kind:
            assert rest.partition(".")[0] in SHARED[kind], module


def test_the_lab_names_no_plug_in():
    for file in (ROOT / "lab").rglob("*.py"):
        for module in imported(file):
            package, _, rest = module.partition(".")
            assert package not in SHARED or rest.partition(".")[0] in SHARED[package], (file.name, module)
