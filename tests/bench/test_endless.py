"""The table of a long walk: tenths of it, without the first segment, which compiles."""

from experiments.bench.memory import endless


def test_the_table_is_of_tenths_after_the_first_segment():
    rows = [[30.0, 500.0, 100, 0, 9.0, 0.1, 0.1]] + [
        [0.5, 800.0 + i, 1000 + i, i, -1.0, 1.0, 0.25 + 0.5 * (i >= 50)] for i in range(100)
    ]
    table = endless.markdown({"model": "m", "frames": 4, "capacity": 4096, "device": "d", "rows": rows}).splitlines()
    assert len(table) == 4 + 10 and "capacity 4,096" in table[0]
    assert table[4] == "| 2 to 11 | 0.50 | 804 | 1009 | 9 | -1.0 | 1.00 | 0.25 |"
    assert table[-1] == "| 92 to 101 | 0.50 | 894 | 1099 | 99 | -1.0 | 1.00 | 0.75 |"
