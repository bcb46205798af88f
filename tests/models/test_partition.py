"""Rules as data: every part of the Wan family is covered, and a rule that cannot be right is refused by name."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging
from jax.sharding import AbstractMesh, PartitionSpec

from mirage_jax.errors import UserError
from mirage_jax.models import config as model_config
from mirage_jax.models import parameters, partition
from mirage_jax.models.nn import blocks

MESH = AbstractMesh((2, 2, 2, 2), partition.AXES)


@pytest.fixture(scope="module")
def wan():
    """All parts of the 5B model as shapes, with two blocks."""
    model = model_config.wan22_ti2v_5b()
    model = dataclasses.replace(model, dit=dataclasses.replace(model.dit, layers=2))
    return jax.eval_shape(lambda key: parameters.init(key, model), jax.random.key(0))


def _specs(rules, tree):
    shardings = partition.tree_shardings(rules, tree, MESH)
    leaves = jax.tree_util.tree_flatten_with_path(shardings)[0]
    return {partition.path_name(path): sharding.spec for path, sharding in leaves}


def test_every_large_matrix_of_the_family_is_split(wan):
    """At 2 x 2 over fsdp and tensor, what stays whole is under one in two hundred of each part."""
    parts = ("dit", "side", "lora", "vae")
    specs = _specs(partition.rules_for(*parts), {part: wan[part] for part in parts})
    sizes = {partition.path_name(p): x.size for p, x in jax.tree_util.tree_flatten_with_path(wan)[0]}
    for part in parts:
        mine = {name: spec for name, spec in specs.items() if name.startswith(part)}
        whole = sum(sizes[name] for name, spec in mine.items() if not any(spec))
        assert whole < 0.005 * sum(sizes[name] for name in mine), part
    assert specs["dit/blocks_1/ffn/up/kernel"] == PartitionSpec(("fsdp",), ("tensor",))
    assert specs["side/blocks_0/block/self_attention/o/kernel"] == PartitionSpec(("tensor",), ("fsdp",))
    assert specs["lora/blocks_0/ffn/down/kernel/A"] == PartitionSpec(("tensor",), None)
    assert specs["vae/decoder/conv_in/kernel"] == PartitionSpec(None, None, None, None, ("fsdp",))


def test_optimizer_state_and_average_follow_their_parameter(wan):
    side = {"side": wan["side"]}
    state = {"params": side, "average": side, "optimizer": jax.eval_shape(optax.adamw(1e-3).init, side)}
    specs = _specs(partition.rules_for("side"), state)
    kernels = {name: spec for name, spec in specs.items() if name.endswith("side/blocks_0/block/ffn/down/kernel")}
    assert len(kernels) == 4 and set(kernels.values()) == {PartitionSpec(("tensor",), ("fsdp",))}


def test_axes_that_do_not_divide_are_reported_once(monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda message, *values: said.append(message % values))
    tree = {"a": jnp.zeros((3, 4)), "b": jnp.zeros((5, 4)), "c": jnp.zeros((6, 4))}
    specs = _specs([("^[abc]$", ("fsdp", ("data", "tensor")))], tree)
    assert specs["a"] == PartitionSpec(None, ("data", "tensor")) and specs["c"] == PartitionSpec(
        ("fsdp",), ("data", "tensor")
    )
    assert len(said) == 1 and "a [3, 4] by fsdp=2" in said[0] and "b [5, 4] by fsdp=2" in said[0]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ((r"kernal$", ("fsdp",)), r"'kernal\$' matches nothing"),
        (("kernel$", ("fdsp",)), "unknown axis fdsp"),
        (("kernel$", ("fsdp", ("data", "fsdp"))), "names an axis twice"),
        (("kernel$", (None, None, "fsdp")), r"has 3 axes, ffn/kernel is of shape \[4, 4\]"),
        (("activations/token_$", (None,)), "matches nothing: activations are tokens, latents"),
    ],
)
def test_a_rule_that_cannot_be_right_is_refused(rule, message):
    with pytest.raises(UserError, match=message):
        partition.tree_shardings([rule], {"ffn": {"kernel": jnp.zeros((4, 4))}}, MESH)


def test_rules_for_an_unknown_part():
    with pytest.raises(UserError, match="no sharding rules for tail"):
        partition.rules_for("dit", "tail")


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"model": 1}, "unknown axis model"),
        ({"data": 3}, "does not fit the 1 devices"),
        ({"data": -1, "fsdp": -1}, "or one -1"),
        ({"data": 0}, "sizes of at least 1"),
        ({}, "sizes of at least 1"),
    ],
)
def test_a_mesh_that_cannot_be(axes, message):
    with pytest.raises(UserError, match=message):
        partition.make_mesh(axes, jax.devices()[:1])


def test_the_rest_goes_to_the_axis_of_minus_one():
    assert dict(partition.make_mesh({"fsdp": 1, "data": -1}, jax.devices()[:1]).shape) == {"fsdp": 1, "data": 1}


@dataclasses.dataclass(frozen=True)
class Chip:
    """As JAX describes a TPU chip."""

    id: int
    coords: tuple[int, int, int]
    slice_index: int
    process_index: int
    device_kind: str
    core_on_chip: int = 0
    platform: str = "tpu"


def chips(kind, *shape, slices=1):
    """The chips of some slices, each a torus of that shape, four to a host."""
    places = [tuple(reversed(p)) for p in itertools.product(*(range(n) for n in reversed((*shape, 1)[:3])))]
    every = itertools.product(range(slices), places)
    return [Chip(i, place, s, i // 4, kind) for i, (s, place) in enumerate(every)]


V6E, V5P, V5E = "TPU v6 lite", "TPU v5", "TPU v5 lite"


@pytest.mark.parametrize(
    ("kind", "shape", "sizes"),
    [
        (V6E, (16, 16), {"data": 8, "sequence": 4, "fsdp": 8}),
        (V6E, (8, 8), {"fsdp": 16, "sequence": 4}),
        (V6E, (4, 8), {"fsdp": 16, "tensor": 2}),
        (V6E, (4, 4), {"data": 2, "fsdp": 4, "tensor": 2}),
        (V5E, (4, 4), {"fsdp": 16}),
        (V5P, (2, 2, 1), {"fsdp": 4}),
        (V5P, (4, 4, 4), {"fsdp": 16, "sequence": 4}),
        (V5P, (4, 4, 16), {"data": 4, "fsdp": 16, "sequence": 4}),
        (V5P, (4, 4, 16), {"fsdp": 32, "tensor": 2, "sequence": 4}),
    ],
)
def test_every_mesh_lies_on_a_torus(kind, shape, sizes):
    devices = chips(kind, *shape)
    mesh = partition.arranged(sizes, devices)
    assert mesh.shape == tuple(sizes.values())
    assert sorted(device.id for device in mesh.flat) == list(range(len(devices)))


@pytest.mark.parametrize(
    ("kind", "shape", "slices", "sizes"),
    [
        (V6E, (4, 4), 2, {"data": 2, "fsdp": 16}),
        (V6E, (4, 4), 2, {"fsdp": 32}),
        (V6E, (8, 8), 4, {"data": 2, "fsdp": 32, "sequence": 4}),
        (V5P, (4, 4, 4), 2, {"data": 4, "fsdp": 8, "tensor": 2, "sequence": 2}),
    ],
)
def test_between_slices_only_the_batch_is_split(kind, shape, slices, sizes):
    mesh = partition.arranged(sizes, chips(kind, *shape, slices=slices))
    assert mesh.shape == tuple(sizes.values()) and len({device.id for device in mesh.flat}) == mesh.size
    number = np.vectorize(lambda device: device.slice_index)(mesh)
    for axis, name in enumerate(sizes):
        if name not in partition.BATCH_AXES:
            assert (number == np.take(number, [0], axis)).all(), f"{name} leaves its slice"
    assert len(np.unique(number)) == slices


def test_chips_that_are_only_described_are_of_one_slice():
    """libtpu names no slice for the devices of a topology."""

    @dataclasses.dataclass(frozen=True)
    class Described:
        id: int
        coords: tuple[int, int, int]
        process_index: int
        device_kind: str = V6E
        core_on_chip: int = 0
        platform: str = "tpu"

    devices = [Described(chip.id, chip.coords, chip.process_index) for chip in chips(V6E, 2, 4)]
    assert partition.arranged({"fsdp": 8}, devices).shape == (8,)


def test_a_mesh_that_would_split_heads_between_slices_is_refused():
    with pytest.raises(UserError, match="does not fit 2 slices: expected data x fsdp to be a multiple of 2"):
        partition.arranged({"fsdp": 1, "tensor": 32}, chips(V6E, 4, 4, slices=2))


def test_stacked_blocks_are_split_as_each_of_them(wan):
    rules, each = partition.rules_for("dit", "side"), {part: wan[part] for part in ("dit", "side")}
    together = jax.eval_shape(lambda: {part: blocks.stacked(jax.tree.map(jnp.zeros_like, each[part])) for part in each})
    apart, found = _specs(rules, each), _specs(rules, together)
    assert found["dit/blocks/ffn/up/kernel"] == PartitionSpec(None, ("fsdp",), ("tensor",))
    for path, spec in found.items():
        one = path.replace("/blocks/", "/blocks_0/").replace("side/join", "side/blocks_0/join")
        assert [x for x in spec if x] == [x for x in apart[one] if x], path
