"""Reading a data set of posed clips."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from experiments.worlds import builder
from mirage_jax import data
from mirage_jax.errors import UserError
from tests import analytic


@pytest.fixture(scope="module")
def clips():
    return {f"{i:06d}": analytic.scene(i, frames=9, height=32, width=30, moving=True) for i in range(3)}


@pytest.fixture(scope="module")
def stored(tmp_path_factory, clips):
    out = tmp_path_factory.mktemp("rooms")
    size = (9, 32, 30)
    builder.write_part(out, "validation", 7, "analytic", size, lambda _: clips.items(), lambda _: {}, "", "")
    return out


def test_clips_come_back_as_they_were(clips, stored):
    source = data.load_source(stored, "validation")
    assert len(source) == 3
    by_name = {clip.source: clip for clip in clips.values()}
    for found in map(source.clip, range(3)):
        clip = by_name.pop(found.source)
        for name, value in clip.arrays().items():
            kept = value.astype(np.float16) if name == "depth" else value
            np.testing.assert_array_equal(getattr(found, name), kept, err_msg=name)
            assert getattr(found, name).dtype == value.dtype
        assert found.caption == clip.caption


def test_parts_are_read_one_after_another(stored, tmp_path):
    for name in ("part-0001", "part-0002"):
        shutil.copytree(stored / "validation" / "part-0007", tmp_path / "validation" / name)
    source, part = (data.load_source(path, "validation", ("source",)) for path in (tmp_path, stored))
    assert len(source) == 6
    assert [source[i]["source"] for i in range(6)] == 2 * [part[i]["source"] for i in range(3)]


def test_only_the_fields_asked_for(stored):
    source = data.load_source(stored, "validation", ("frames", "valid", "dynamic"))
    item = source[1]
    assert set(item) == {"frames", "valid", "dynamic"}
    assert item["valid"].dtype == bool and item["dynamic"].shape == (9, 32, 30)
    with pytest.raises(IndexError):
        source[3]


def test_missing_split_and_unknown_field(stored):
    with pytest.raises(UserError, match="no data of split 'test'"):
        data.load_source(stored, "test")
    with pytest.raises(UserError, match="unknown fields \\['normals'\\]"):
        data.load_source(stored, "validation", ("normals",))


def test_reading_loads_neither_tensorflow_nor_jax(stored):
    """In a fresh interpreter, which it would take seconds to start with them."""
    code = (
        "import sys\n"
        "from mirage_jax import data\n"
        f"print(data.load_source({str(stored)!r}, 'validation')[0]['depth'].dtype)\n"
        "print(any(name in sys.modules for name in ('jax', 'tensorflow')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["float32", "False"]
