"""A file imports only from floors below its own: what keeps the house free of circles."""

import ast
import pathlib

import pytest

import mirage_jax

ROOT = pathlib.Path(mirage_jax.__file__).parent
FLOORS = [
    {"errors"},
    {"io"},
    {"geometry"},
    {"viz", "memory", "diffusion", "models"},
    {"data", "weights"},
    {"world"},
    {"training"},
    {"evaluation"},  # of which some measures training
]
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def imported(path):
    """Top-level parts of the package that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mirage_jax":
            parts = node.module.split(".")[1:]
            yield from [parts[0]] if parts else [name.name for name in node.names]
        elif isinstance(node, ast.Import):
            yield from (n.name.split(".")[1] for n in node.names if n.name.startswith("mirage_jax."))


@pytest.mark.parametrize("file", [file for file in FILES if file != "__init__.py"])
def test_imports_point_down(file):
    own = file.split("/")[0].removesuffix(".py")
    above = {name for name in imported(ROOT / file) if name != own and LEVEL[name] >= LEVEL[own]}
    assert not above, f"{file} imports from {sorted(above)}"


def test_the_check_sees_imports():
    assert set(imported(ROOT / "world" / "stages.py")) >= {"diffusion", "memory", "models", "world"}


def test_models_run_where_the_data_pipeline_is_not_installed():
    allowed = {"data", "training"}
    for file in FILES:
        text = (ROOT / file).read_text()
        if file.split("/")[0] not in allowed:
            assert "import grain" not in text and "import tensorflow_datasets" not in text, file


def imports_commands(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "experiments":
            return True
        if isinstance(node, ast.Import) and any(name.name.split(".")[0] == "experiments" for name in node.names):
            return True
    return False


def test_the_library_imports_neither_commands_nor_measurements_nor_what_makes_data():
    assert not [file for file in FILES if imports_commands(ROOT / file)]
    assert imports_commands(ROOT.parent / "experiments" / "benchmark.py")  # the check sees imports
