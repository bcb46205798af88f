"""Previews of a run of two processes: made by the first, on its own devices, after the checkpoint, at no risk."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import virtual_devices

from mirage_jax import weights

HERE = pathlib.Path(__file__).parent


def test_of_two_processes_the_first_draws_and_a_failure_is_a_warning(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": virtual_devices.flags(1),
        "PYTHONPATH": str(HERE.parent.parent),
    }
    program = [sys.executable, str(HERE / "preview_runs.py"), str(tmp_path), coordinator]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen([*program, str(process)], env=environment, **pipes) for process in range(2)]
    (first, warned), (second, silent) = (run.communicate() for run in runs)
    assert [run.returncode for run in runs] == [0, 0], warned + silent

    seen = json.loads(first.split("RESULT ")[1])
    assert json.loads(second.split("RESULT ")[1]) == []
    assert [(one["saved"], one["mesh"], one["batch"]) for one in seen] == [(4, False, 2), (8, False, 2), (12, False, 2)]
    assert seen[0]["w"] != seen[2]["w"]
    assert "no preview of step 8 (RuntimeError: RESOURCE_EXHAUSTED: no room for pictures); the run goes on" in warned
    assert "no preview" not in silent
    pictures = sorted(path.name for path in (tmp_path / "previews").iterdir())
    assert len(pictures) == 2 and not any("8" in name for name in pictures), pictures
    assert weights.load(tmp_path / "model")[0].name == "tiny"
