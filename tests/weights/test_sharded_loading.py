"""Weights go from disk straight to their places on a mesh: the same values, split as asked, no device holding all."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import virtual_devices

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    done = subprocess.run(
        [sys.executable, "-m", "tests.weights.sharded_loading", str(tmp_path_factory.mktemp("model") / "model")],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": virtual_devices.flags(8)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.split("RESULT ")[1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loaded_straight_to_a_mesh(found, dtype):
    seen = found[dtype]
    assert seen["equal"] and seen["as_asked"] and seen["up"] == ["fsdp", "tensor"]
    # Norms, biases and small embeddings are on every device, an eighth of all else.
    assert seen["grew"] == [seen["a_device"]] * 8
    assert seen["a_device"] < 0.35 * seen["whole"]
