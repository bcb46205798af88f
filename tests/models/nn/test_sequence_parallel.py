"""Split attention, constraints and the VAE on 8 virtual devices, against the same on one."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
import virtual_devices

from mirage_jax.models.nn import sequence_parallel
from mirage_jax.models.nn.attention import xla

PROGRAM = pathlib.Path(__file__).with_name("sharded_checks.py")


@pytest.fixture(scope="module")
def found():
    environment = {
        **os.environ,
        "XLA_FLAGS": virtual_devices.flags(8),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(PROGRAM.parents[3]),
    }
    run = subprocess.run([sys.executable, PROGRAM], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.split("RESULT ")[1])


@pytest.mark.parametrize("mesh", ["sequence", "tensor", "mixed", "data"])
def test_split_attention_equals_whole_attention(found, mesh):
    """Outputs and gradients, also of a text that the whole batch shares; every example has a key mask of its own."""
    result = found["attention"][mesh]
    assert result["error"] < 1e-5
    assert (result["all_to_all"] > 0) == (mesh != "tensor")  # it is split, not gathered


def test_without_a_mesh_it_is_whole_attention():
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 3, 4, 2))
    mask = jnp.array([True, False, True, True, False, True])
    out = sequence_parallel.self_attention(q, k, v, mask)
    flat = (x.reshape(6, 4, 2) for x in (q, k, v))
    assert jnp.abs(out - xla(*flat, mask).reshape(q.shape)).max() < 1e-6


def test_what_does_not_divide_is_refused(found):
    assert found["refusals"]["heads"] == "6 attention heads cannot be split over tensor=1 x sequence=8 devices"
    assert found["refusals"]["tokens"] == "6 tokens of a latent frame cannot be split over sequence=8 devices"


def test_tokens_are_split_as_the_rule_says(found):
    assert found["constrained"] is True


def test_batch_lies_on_a_mesh_in_any_order_of_devices(found):
    assert found["batches"] == {"data": True, "both": True}


@pytest.mark.parametrize("run", ["whole", "frame by frame"])
def test_each_device_has_a_share_of_the_pictures_in_the_vae(found, run):
    """Encode, decode, the start of a stream and its next latents, on devices that do not divide the rows."""
    result = found["video"][run]
    assert result["error"] < 1e-5 and result["batch"] < 1e-5
    assert max(result["temporaries"]) < 0.4
    assert result["cache"] == 1 / 8


def test_collectives_of_a_known_program(found):
    """All-reduce of 8x16 floats among 2, five times; gathering of 32x16 among 4; swap of the same size among 4."""
    block, whole = 8 * 16 * 4, 32 * 16 * 4
    assert found["exchanges"] == [
        ["all-gather", whole, [0, 1, 2, 3], 1, whole * 3 / 4],
        ["all-reduce", block, [0, 4], 5, 5 * block],
        ["all-to-all", whole, [0, 1, 2, 3], 1, whole * 3 / 4],
    ]
