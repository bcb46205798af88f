import pytest

from experiments.bench import lasting


@pytest.fixture
def record(monkeypatch):
    for name, value in {"HEIGHT": 6, "WIDTH": 9, "CHANNELS": 4, "CAPACITY": 2000, "LOOPS": 3, "_REPEATS": 2}.items():
        monkeypatch.setattr(lasting, name, value)
    lasting._seen.cache_clear()
    yield lasting.measure()
    lasting._seen.cache_clear()


def test_suite_lasting_tells_costs_by_what_is_held_and_how_it_grows(record):
    held = [(row["memory"], row["slots"], row["points"]) for row in record["rows"]]
    reads = [("alone", 486, 486), ("empty", 2000, 0), ("one room of many", 2000, 4 * 486)]
    assert held == [*reads, *reads, ("alone", 972, 0), ("empty", 2000, 0)]
    assert all(row["ratio"] == 1 for row in record["rows"] if row["memory"] == "alone")
    first, *_, last = record["loops"]["points"]
    assert 0 < first <= last < 24 * 6 * 9
    table = lasting.markdown(record)
    assert table.count("\n| ") == 1 + len(record["rows"]) and f"after loop 3: {last:,}" in table
