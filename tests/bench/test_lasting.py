import pytest

from experiments.bench.memory import lasting


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
    roomy, tight, everything = record["loops"]
    assert roomy["points"][0] <= roomy["points"][-1] < 24 * 6 * 9 and roomy["gone"] == 0
    assert tight["slots"] == tight["points"][-1] == roomy["points"][0]
    assert everything["points"] == [24 * 6 * 9 * loop for loop in (1, 2, 3)]
    assert all(10 < loop["psnr"] < 40 for loop in record["loops"])
    table = lasting.markdown(record)
    assert table.count("\n| ") == 2 + len(record["rows"]) + 3 and f"| {tight['slots']:,} |" in table
