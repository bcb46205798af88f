"""The suite of the explorer, with the mock: every figure is there, no picture is out of order."""

from experiments.bench import explore


def test_a_walk_is_measured(monkeypatch):
    monkeypatch.setattr(explore, "_in_browser", lambda address, taps: {"p50": 100.0, "p95": 200.0})
    record = explore.measure("tiny", taps=12, keys=60)
    assert record["long"]["keys"] == 60 and record["long"]["out_of_order"] == 0
    assert record["segment_frames"] == 4 and record["hold"]["fps"] > 0
    total, parts = record["tap"]["total"], [record["tap"][name]["p50"] for name in ("model", "wait", "rest")]
    assert 0 < sum(parts) <= 1.5 * total["p95"] and total["p50"] <= total["p95"]
    assert record["long"]["mib_after"] - record["long"]["mib_before"] < 200
    page = explore.markdown(record)
    assert "key to picture on the screen, ms" in page and "60 keys in a row: 0 pictures out of order" in page
