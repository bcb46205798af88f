"""A conversion holds a group of tensors, however large the checkpoint: three times the shards, the same peak."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.mark.skipif(not pathlib.Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_peak_memory_does_not_grow_with_the_checkpoint(tmp_path):
    # What is freed goes back at once, so that the peak is of what is held.
    giving_back = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.weights.conversion_memory", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | giving_back,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.split("RESULT ")[1])
    one, three, at_once = (found[name] for name in ("one", "three", "at_once"))
    more = three["bytes"] - one["bytes"]
    assert more > 60e6 and three["shards"] > 2 * one["shards"]
    assert three["grew"] - one["grew"] < 0.3 * more
    assert at_once["grew"] - one["grew"] > more  # a conversion in one group is seen
