"""Weights go to the default device, uncommitted, and so does what is computed with them; the host is a request."""

import json
import os
import pathlib
import subprocess
import sys

import virtual_devices

ROOT = pathlib.Path(__file__).parent.parent.parent


def test_on_two_emulated_devices(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.weights.placement", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": virtual_devices.flags(2)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.split("RESULT ")[1])
    host, accelerator = found["names"]
    for name in ("m", "m.safetensors"):
        assert found[name]["loaded"] == [[accelerator], False]
        assert found[name]["computed"] == [[accelerator], False]
        assert found[name]["host"] == [[host], False]
        assert found[name]["asked"] == [[host], True]
    # Merged on the host, run on the accelerator; the code of ones is computed once for the model.
    assert found["first"]["prepared"] == found["second"]["prepared"] == [[accelerator], False]
    assert (found["first"]["calls"], found["second"]["calls"]) == (2, 1)  # one of each is for the shape
    assert found["first"]["sum"] == found["second"]["sum"] != 0
    # There; not for another shape, not damaged, not of another VAE.
    assert found["kept"] == [True, False, False, False]
