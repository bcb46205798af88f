"""The table of a long walk: tenths of it, without the first segment, which compiles."""

from experiments.bench.memory import endless


def test_the_table_is_of_tenths_after_the_first_segment():
    rows = [[30.0, 500.0, 100, 0, 9.0, 0.1, 0.1]] + [
        [0.5, 800.0 + i, 1000 + i, i, -1.0, 1.0, 0.25 + 0.5 * (i >= 50)] for i in range(100)
    ]
    walks = {"little room": {"capacity": 4096, "rows": rows}}
    table = endless.markdown({"model": "m", "frames": 4, "device": "d", "loop": 32, "walks": walks}).splitlines()
    assert len(table) == 6 + 10 and table[2] == "Little room: capacity 4,096."
    assert table[6] == "| 2 to 11 | 0.50 | 804 | 1009 | 9 | -1.0 | 1.00 | 0.25 |"
    assert table[-1] == "| 92 to 101 | 0.50 | 894 | 1099 | 99 | -1.0 | 1.00 | 0.75 |"
