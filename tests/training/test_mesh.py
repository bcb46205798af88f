"""The same config gives the same losses on one device, on 8 in several meshes, and on two processes of 4."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import mesh_runs
import numpy as np
import pytest
import virtual_devices

PROGRAM = pathlib.Path(mesh_runs.__file__)
MESHES = {
    "data": {"data": 8},
    "fsdp": {"fsdp": 8},
    "tensor": {"tensor": 8},
    "sequence": {"sequence": 8},
    "data, tensor, sequence": {"data": 2, "tensor": 2, "sequence": 2},
    "data, fsdp, accumulated": {"data": 2, "fsdp": 2, "sequence": 2, "changes": {"accumulate": 2}},
}
MIXED = {"fsdp": 2, "tensor": 2, "sequence": 2}


def _start(folder, meshes, devices, *process):
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": virtual_devices.flags(devices),
        "PYTHONPATH": str(PROGRAM.parent.parent.parent),
    }
    command = [sys.executable, str(PROGRAM), str(folder), json.dumps(meshes), *map(str, process)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _results(run):
    out, error = run.communicate()
    assert run.returncode == 0, error
    return json.loads(out.split("RESULT ")[1].splitlines()[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("mesh")
    mesh_runs.prepare(path)
    return path


@pytest.fixture(scope="module")
def alone(folder):
    """In this process, which has one device."""
    losses, split = mesh_runs.losses(mesh_runs.config(folder, {"data": 1}))
    assert len(losses) == mesh_runs.STEPS and not split
    assert losses[-1] < 0.9 * losses[0]
    return losses


def _same(losses, alone):
    np.testing.assert_allclose(losses, alone, rtol=1e-5)


def test_mixed_mesh(folder, alone):
    losses, split = _results(_start(folder, {"mixed": MIXED}, 8))["mixed"]
    _same(losses, alone)
    assert any("optimizer" in name and "side" in name for name in split) and any("average" in name for name in split)


def test_two_processes(folder, alone):
    """Each reads its half of every batch; sums over `data` cross from one to the other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    mesh = {"both": {"data": 2, "fsdp": 2, "sequence": 2}}
    runs = [_start(folder, mesh, 4, coordinator, process, 2) for process in range(2)]
    for run in runs:
        _same(_results(run)["both"][0], alone)


@pytest.mark.scale
def test_every_mesh(folder, alone):
    for name, (losses, _) in _results(_start(folder, MESHES, 8)).items():
        np.testing.assert_allclose(losses, alone, rtol=1e-5, err_msg=name)
