"""A memory over 8 virtual devices is that of one to the bit (`sharded_checks_of_memory.py`)."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest
import virtual_devices

from mirage_jax.memory import groups, sharded

PROGRAM = pathlib.Path(__file__).with_name("sharded_checks_of_memory.py")


@pytest.fixture(scope="module")
def found():
    environment = {
        **os.environ,
        "XLA_FLAGS": virtual_devices.flags(8),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(PROGRAM.parents[2]),
    }
    run = subprocess.run([sys.executable, PROGRAM], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.split("RESULT ")[1])


def test_written_read_marked_retired_and_evicted_to_the_same_bits(found):
    assert len(found["memories"]) == 2
    for name, (same, parts, overflow) in found["memories"].items():
        assert same and parts == 8, name
        assert (overflow > 0) == name.startswith("256"), name


def test_what_only_later_devices_hold_to_the_same_bits(found):
    same, only_later = found["turned_round"]
    assert same and only_later


def test_in_one_scan_of_a_rollouts_steps_to_the_same_bits(found):
    same, overflow, visible = found["scanned"]
    assert same and overflow > 0 and visible > 0


def test_in_a_batch_of_a_train_step_too_with_gradients(found):
    assert found["batch"] is True


def test_in_a_rollout_too(found):
    same, parts, held = found["rollout"]
    assert same and parts == 2 and held > 64


def test_a_memory_that_does_not_divide_is_whole():
    mesh = jax.sharding.AbstractMesh((8,), ("sequence",))
    with jax.sharding.use_abstract_mesh(mesh):
        assert sharded.splits(8 * groups.GROUP * 9) == sharded.splits(64) == 8
        assert sharded.splits(65) == sharded.splits(8 * (groups.BLOCK + 1)) == 1
    assert sharded.splits(64) == 1


def test_bytes_exchanged_are_those_of_a_ring():
    """Of a cell of 48 float32 channels: 192 of the token, 20 of the point, 12 to find it; 7 / 8 of it sent twice."""
    assert sharded.bytes_exchanged(800, 48, 4, 3, 8) == 2 * 7 * 100 * (192 + 20 + 12)
    assert sharded.bytes_exchanged(800, 48, 4, 3, 1) == 0
