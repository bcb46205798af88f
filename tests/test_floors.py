"""A file imports only from floors below its own: what keeps the house free of circles."""

import ast
import functools
import pathlib
import re

import pytest

import mirage_jax

ROOT = pathlib.Path(mirage_jax.__file__).parent
# Rooms by floor, lowest first. Those in one set do not import each other; on a floor of several sets a later one stands
# on the earlier ones.
FLOORS = {
    "ground": [{"errors"}, {"io"}],
    "geometry": [{"geometry"}, {"viz"}],
    "models": [{"models", "diffusion", "memory", "data"}, {"weights"}],
    "world": [{"world"}],
    "training": [{"training"}, {"evaluation"}],
}
_SETS = [names for floor in FLOORS.values() for names in floor]
LEVEL = {name: level for level, names in enumerate(_SETS) for name in names}
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


@functools.cache
def modules(path):
    """Full names of all that a file imports, wherever in the file; of `from a import b`, `a.b`."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    found = {f"{node.module}.{x.name}" for node in nodes if isinstance(node, ast.ImportFrom) for x in node.names}
    return found | {x.name for node in nodes if isinstance(node, ast.Import) for x in node.names}


def rooms(path):
    """Parts of the package that a file imports."""
    found = (module.split(".") for module in modules(path))
    return {parts[1] for parts in found if parts[0] == "mirage_jax" and len(parts) > 1}


def outside(path):
    """Packages that a file imports, ours among them."""
    return {module.split(".")[0] for module in modules(path)}


@pytest.mark.parametrize("file", [file for file in FILES if file != "__init__.py"])
def test_imports_point_down(file):
    own = file.split("/")[0].removesuffix(".py")
    above = {name for name in rooms(ROOT / file) if name != own and LEVEL[name] >= LEVEL[own]}
    assert not above, f"{file} imports from {sorted(above)}"


@pytest.mark.parametrize("file", FILES)
def test_the_library_stands_without_commands_worlds_bench_launchers_and_tests(file):
    above = outside(ROOT / file) & {"experiments", "launch", "tests"}
    assert not above, f"{file} imports {sorted(above)}"


def test_the_check_sees_imports():
    assert rooms(ROOT / "world" / "segment.py") >= {"diffusion", "memory", "models", "world"}
    commands = ROOT.parent / "experiments" / "build_dataset.py"
    assert {"experiments", "mirage_jax", "tqdm"} <= outside(commands)
    assert {"experiments.worlds.heldout_set", "experiments.recipes.coding"} <= modules(commands)


def test_only_training_and_the_reading_of_data_need_the_data_pipeline():
    for file in FILES:
        if file.split("/")[0] not in {"data", "training"}:
            assert not outside(ROOT / file) & {"grain", "tensorflow_datasets"}, file


@pytest.mark.parametrize("file", FILES)
def test_the_library_names_no_page_of_a_checkout(file):
    """An installed package has no `docs/` beside it."""
    named = re.search(r"(?<!\w)docs(?!\w).*", (ROOT / file).read_text())
    assert not named, f"{file}: {named}"


def test_no_room_is_crowded():
    """Fifteen files at one level are what a person looks over."""
    houses = ROOT, ROOT.parent / "experiments"
    rooms = [room for house in houses for room in (house, *(path for path in house.rglob("*") if path.is_dir()))]
    crowded = {str(room): len(list(room.glob("*.py"))) for room in rooms if len(list(room.glob("*.py"))) > 15}
    assert not crowded
