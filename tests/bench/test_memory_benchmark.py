import json

import numpy as np
import pytest
from absl.testing import flagsaver

from experiments import benchmark
from experiments.bench import memory_quality, memory_speed
from mirage_jax.memory import latent


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(memory_speed, "HEIGHT", 6)
    monkeypatch.setattr(memory_speed, "WIDTH", 9)
    monkeypatch.setattr(memory_speed, "CHANNELS", 4)
    monkeypatch.setattr(memory_speed, "_REPEATS", 3)
    monkeypatch.setattr(memory_speed, "_SLOW_REPEATS", 2)
    monkeypatch.setattr(memory_quality, "GRIDS", ((8, 8),))
    monkeypatch.setattr(memory_quality, "_TRIALS", 3)


def test_the_sort_of_the_release_shows_what_nearest_shows(tiny):
    memory, views = memory_speed._filled(2, capacity=2 * 9 * 54), memory_speed._walk(2)
    features, visible, depth = memory_speed._sorted_read(*memory_speed._on_host(memory, views))
    ours = latent.read(memory, views)
    # Another order of operations: points on the border of two cells may fall either way.
    assert (visible == ours.visible).mean() > 0.98
    assert np.isclose(depth, ours.depth, rtol=1e-4).mean() > 0.95
    assert (features == np.asarray(ours.features)).all(axis=-1).mean() > 0.95


def test_suite_memory_writes_its_record_and_table(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory_speed, "_torch", lambda: None)
    with flagsaver.flagsaver(suite="memory", out=str(tmp_path)):
        benchmark.main([])
    record = json.loads((tmp_path / "memory.json").read_text())
    reads = [row for row in record["rows"] if row["what"] == "read, nearest cell"]
    assert [row["points"] for row in reads] == [9 * 54, 9 * 54, 5 * 9 * 54]
    assert [row["capacity"] for row in reads] == [9 * 54, 5 * 9 * 54, 5 * 9 * 54]
    assert all(len(row["milliseconds"]) == 3 for row in reads)
    table = (tmp_path / "memory.md").read_text()
    assert table in capsys.readouterr().out
    assert table.count("\n| ") == 1 + len(record["rows"]) and "PyTorch not installed" in table
    assert (tmp_path / "config.json").exists() and (tmp_path / "versions.json").exists()


def test_the_headline_is_the_ratio_to_one_thread():
    times = {"median": 2.0, "low": 1.0, "high": 3.0}
    release = {
        "one thread": {**times, "median": 80.0, "wrong_cells": 0.0},
        "default threads": {**times, "median": 600.0, "wrong_cells": 0.25},
    }
    row = {"what": "read", "points": 1, "capacity": 1, "bytes": {"held": 1}, **times}
    record = {
        **{"work": "", "repeats": 1, "repeats_of_the_sort": 1, "processor": "", "cores": 2},
        **{"torch": {"version": "2", "threads": 2}, "load_before_and_after": [0, 0]},
        "rows": [row | {"release": release, "times_faster_than_release": 40.0}],
    }
    table = memory_speed.markdown(record)
    assert "| 80.0 [1.0, 3.0] | 40x | 600.0 [1.0, 3.0] | 25.0 % |" in table
    assert "With one thread, 0.0 % of the release's cells are wrong;" in table


def test_suite_memory_quality_finds_fewer_holes_with_footprints(tiny):
    record = memory_quality.measure()
    holes = {(row["sources"], row["read"]): row["holes"]["mean"] for row in record["reads"]}
    assert set(holes) == {(n, r) for n in (1, 5) for r in ("nearest cell", "footprint")}
    for sources in (1, 5):
        assert holes[sources, "footprint"] < holes[sources, "nearest cell"] - 0.1
    assert memory_quality.markdown(record).count("\n| ") == 1 + len(record["reads"])


def test_every_suite_can_be_loaded():
    for name in benchmark.SUITES.values():
        suite = benchmark.importlib.import_module(name)
        assert callable(suite.measure) and callable(suite.markdown)
