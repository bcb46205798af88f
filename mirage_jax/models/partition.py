"""Meshes, and sharding rules as data: an ordered list of (regex on a path, spec).

The axes of a mesh say what is split over them: `data` the batch; `fsdp` the batch and, at rest, parameters and
optimizer state; `tensor` heads and hidden features; `sequence` the tokens of each latent frame. A mesh may have any
of them.

Paths are those of the leaves of a tree, parts joined by '/': `dit/blocks_0/ffn/up/kernel`, or
`dit/blocks/ffn/up/kernel` where blocks are stacked (`models/nn/blocks.py`). Optimizer state and moving
average hold copies of the parameter tree, so that the rule of a parameter is found in their paths too. What the
models compute on the way has the path `activations/NAME` (see `constrain`).
"""

from __future__ import annotations

import contextvars
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mirage_jax.errors import UserError

AXES = ("data", "fsdp", "tensor", "sequence")
BATCH_AXES = ("data", "fsdp")
ACTIVATIONS = ("tokens", "latents")
"""Names that `constrain` knows: tokens `[F, n, dim]`, latents `[F, h, w, C]`."""

Axis = str | Sequence[str] | None
Rule = tuple[str, Sequence[Axis]]
Rules = Sequence[Rule]

_TAKEN: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("axes that split a batch", default=())

_BLOCK = r"{part}/blocks(_\d+)?/(block/)?"
_COLUMN = r"((self|cross)_attention/[qkv]|ffn/up)"
_ROW = r"((self|cross)_attention/o|ffn/down)"


def _block_rules(part: str) -> Rules:
    """Heads and hidden features over `tensor`, so that a block needs one sum after attention and one after the FFN."""
    block = _BLOCK.format(part=part)
    return (
        (f"{block}{_COLUMN}/kernel$", ("...", "fsdp", "tensor")),
        (f"{block}{_COLUMN}/bias$", ("...", "tensor")),
        (f"{block}{_ROW}/kernel$", ("...", "tensor", "fsdp")),
    )


WAN_RULES: Mapping[str, Rules] = {
    "dit": (
        *_block_rules("dit"),
        (r"dit/(patch_embedding|(time|text)_embedding/\w+|head/linear)/kernel$", ("fsdp", None)),
    ),
    "side": (
        *_block_rules("side"),
        (r"side/(patch_embedding|(blocks(_\d+)?/)?(join|hint))/kernel$", ("...", "fsdp", None)),
    ),
    "lora": (
        (rf"lora/blocks_\d+/{_COLUMN}/kernel/A$", ("fsdp", None)),
        (rf"lora/blocks_\d+/{_COLUMN}/kernel/B$", (None, "tensor")),
        (rf"lora/blocks_\d+/{_ROW}/kernel/A$", ("tensor", None)),
        (rf"lora/blocks_\d+/{_ROW}/kernel/B$", (None, "fsdp")),
    ),
    "vae": ((r"vae/.*kernel$", ("...", "fsdp")),),
    "text": (
        (r"text/token_embedding$", (None, ("fsdp", "tensor"))),
        (r"text/blocks_\d+/(attention/[qkv]|ffn/(gate|up))/kernel$", ("fsdp", "tensor")),
        (r"text/blocks_\d+/(attention/o|ffn/down)/kernel$", ("tensor", "fsdp")),
        (r"text/blocks_\d+/attention/relative_bias$", (None, "tensor")),
    ),
    "memory": ((r"memory/(x|y|z|w|features|cell_size|last_seen|seen_from)$", ("sequence",)),),
    "activations": (
        ("activations/tokens$", (None, "sequence", None)),
        ("activations/latents$", ()),
    ),
}
"""Rules of the Wan family by part of the model, for `rules_for`; `memory` is that of a running world."""


def rules_for(*parts: str) -> Rules:
    """The rules of `WAN_RULES` for some parts of a model, and those for activations.

    Raises `UserError` if there are no rules for a part.
    """
    unknown = set(parts) - set(WAN_RULES)
    if unknown:
        raise UserError(
            f"no sharding rules for {', '.join(sorted(unknown))}: there are some for {', '.join(WAN_RULES)}"
        )
    return tuple(rule for part in dict.fromkeys((*parts, "activations")) for rule in WAN_RULES[part])


def make_mesh(axes: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over all devices, laid out so that axes follow the links between them (`arranged`).

    Args:
      axes: size by axis name, out of `AXES`, in order (the first varies slowest over devices and hosts); one size may
        be -1, meaning all that is left.
      devices: those to use; all if None.

    Raises:
      UserError: if a name is unknown, the sizes do not multiply to the number of devices, or cannot be laid over them.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    sizes = dict(axes)
    unknown = set(sizes) - set(AXES)
    if unknown:
        raise UserError(f"mesh {sizes}: unknown axis {', '.join(sorted(unknown))}, expected some of {', '.join(AXES)}")
    if not sizes or any(size < 1 and size != -1 for size in sizes.values()) or list(sizes.values()).count(-1) > 1:
        raise UserError(f"mesh {sizes}: expected sizes of at least 1, or one -1 for all devices that are left")
    given = math.prod(size for size in sizes.values() if size != -1)
    sizes = {name: count // given if size == -1 else size for name, size in sizes.items()}
    if math.prod(sizes.values()) != count:
        raise UserError(f"mesh {dict(axes)} does not fit the {count} devices of this run")
    return Mesh(arranged(sizes, devices), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def arranged(sizes: Mapping[str, int], devices: Sequence[Any]) -> np.ndarray:
    """Devices in the shape of a mesh.

    On a TPU slice the axes of the mesh follow those of the torus where they can, and else share one between two. Over
    several slices, which are joined by the data centre's network only, the batch is split (`data`, then `fsdp`): what
    `tensor` and `sequence` exchange within every block stays inside a slice.

    Args:
      sizes: of the axes, whose product is the number of devices.
      devices: of one kind.

    Raises:
      UserError: if the slices do not divide the batch axes.
    """
    slices = len({getattr(device, "slice_index", 0) for device in devices}) if devices[0].platform == "tpu" else 1
    between, left = {}, slices
    for name in BATCH_AXES:
        between[name] = math.gcd(sizes.get(name, 1), left)
        left //= between[name]
    if left > 1:
        raise UserError(
            f"mesh {dict(sizes)} does not fit {slices} slices: expected data x fsdp to be a multiple of {slices}, "
            "since only the batch is split over the network between slices"
        )
    outer = [between.get(name, 1) for name in sizes]
    inner = [size // parts for size, parts in zip(sizes.values(), outer, strict=True)]

    def over(split: bool) -> np.ndarray:
        options = {"devices": devices, "allow_split_physical_axes": split}
        if slices > 1:
            return mesh_utils.create_hybrid_device_mesh(inner, outer, **options)
        return mesh_utils.create_device_mesh(inner, **options)

    try:
        return over(False)
    except NotImplementedError:  # two axes of the mesh have to share one of the torus
        return over(True)


def tree_shardings(rules: Rules, tree: Any, mesh: Mesh) -> Any:
    """A sharding for every leaf of `tree`: that of the first rule whose regex is found in its path, else replicated.

    A spec names an axis (or several, or None) for each axis of the leaf, from the first on, or from the last back if it
    begins with "...". Axes that the mesh does not have split nothing. What an axis of the mesh does not divide stays
    whole along it, and is reported in one warning.

    Args:
      rules: where several are found, the first counts. Those for `activations/` are checked and not used.
      tree: arrays or shapes.
      mesh: of `make_mesh`.

    Raises:
      UserError: if a rule matches nothing, names an unknown axis or activation, or has more axes than its leaf.
    """
    for pattern, spec in rules:
        _check_rule(pattern, spec)
    used: set[str] = set()
    whole: list[str] = []

    def assign(path: Any, leaf: Any) -> NamedSharding:
        name = path_name(path)
        for pattern, spec in rules:
            if re.search(pattern, name):
                used.add(pattern)
                return NamedSharding(mesh, _fitted(pattern, spec, name, leaf.shape, mesh, whole))
        return NamedSharding(mesh, PartitionSpec())

    shardings = jax.tree_util.tree_map_with_path(assign, tree)
    unused = [pattern for pattern, _ in rules if pattern not in used and not pattern.startswith("activations/")]
    if unused:
        raise UserError(f"sharding rule {unused[0]!r} matches nothing: no path of this run contains it")
    if whole:
        logging.warning("%d arrays stay whole along axes that do not divide them: %s", len(whole), "; ".join(whole[:8]))
    return shardings


def put(tree: Any, shardings: Any) -> Any:
    """Arrays that every process has in full, as global arrays on the devices."""

    def place(array: Any, sharding: NamedSharding) -> jax.Array:
        if sharding.is_fully_addressable:
            return jax.device_put(array, sharding)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: np.asarray(array[index]))

    return jax.tree.map(place, tree, shardings)


def batch_axes(mesh: Mesh | jax.sharding.AbstractMesh) -> tuple[str, ...]:
    """The axes of a mesh that split the batch."""
    return tuple(name for name in BATCH_AXES if name in mesh.shape)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over `data` and `fsdp`, as far as the mesh has them."""
    return NamedSharding(mesh, PartitionSpec(batch_axes(mesh)))


def batch_parts(mesh: Mesh, batch_size: int) -> tuple[tuple[int, ...], int]:
    """Which of the equal, consecutive parts of each batch this process reads, and out of how many.

    Processes whose devices differ in `tensor` or `sequence` only read the same parts. They need not be neighbours: on a
    torus, a mesh lies as its links do. Raises `UserError` if the mesh does not divide the batch.
    """
    axes = batch_axes(mesh)
    count = math.prod(mesh.shape[name] for name in axes)
    if batch_size % count:
        raise UserError(f"batch_size={batch_size} does not divide over {' x '.join(axes)} = {count} parts of the mesh")
    rows = batch_sharding(mesh).addressable_devices_indices_map((count,))
    return tuple(sorted({index[0].indices(count)[0] for index in rows.values()})), count


def put_batch(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Host arrays, the parts of the batch that `batch_parts` says one after the other, as global device arrays."""
    parts, count = batch_parts(sharding.mesh, 0)

    def place(value: np.ndarray) -> jax.Array:
        size = len(value) // len(parts)

        def rows(index: tuple[slice, ...]) -> np.ndarray:
            part = index[0].indices(size * count)[0] // size
            start = parts.index(part) * size
            return value[start : start + size] if count > 1 else value

        return jax.make_array_from_callback((size * count, *value.shape[1:]), sharding, rows)

    return {name: place(np.asarray(value)) for name, value in batch.items()}


def constrain(x: jax.Array, name: str) -> jax.Array:
    """`x` split over the mesh in use (`jax.set_mesh`) as `WAN_RULES` has it for `activations/name`, or itself."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or math.prod(mesh.shape.values()) == 1:
        return x
    path = f"activations/{name}"
    for pattern, spec in WAN_RULES["activations"]:
        if re.search(pattern, path):
            return jax.lax.with_sharding_constraint(x, _fitted(pattern, spec, path, x.shape, mesh, []))
    return x


def over_space(tree: Any, stride: int = 1) -> Any:
    """Pictures spread over the mesh in use, if there is one (`space_specs`)."""
    mesh = jax.sharding.get_abstract_mesh()
    alone = mesh.empty or math.prod(mesh.shape.values()) == 1
    return tree if alone else jax.lax.with_sharding_constraint(tree, space_specs(tree, mesh, stride))


def whole(tree: Any) -> Any:
    """Arrays in full on every device of the mesh in use, if there is one."""
    mesh = jax.sharding.get_abstract_mesh()
    alone = mesh.empty or math.prod(mesh.shape.values()) == 1
    return tree if alone else jax.lax.with_sharding_constraint(tree, PartitionSpec())


def space_specs(tree: Any, mesh: Mesh | jax.sharding.AbstractMesh, stride: int = 1) -> Any:
    """Specs of one picture at one resolution or several, `[..., H, W, C]`: rows and columns over the axes of a mesh.

    Each axis splits rows where it divides them, else columns, else nothing; those that split a batch already do not.

    Args:
      tree: arrays or shapes, finer ones multiples of the coarsest.
      mesh: of `make_mesh`.
      stride: rows and columns of the coarsest that stay together.
    """
    leaves = jax.tree.leaves(tree)
    left = [min(leaf.shape[side] for leaf in leaves) // stride if leaves else 1 for side in (-3, -2)]
    split: tuple[list[str], list[str]] = ([], [])
    for name, size in mesh.shape.items():
        side = next((side for side in (0, 1) if left[side] % size == 0), None)
        if size > 1 and side is not None and name not in _TAKEN.get():
            left[side] //= size
            split[side].append(name)
    rows, columns = (tuple(names) or None for names in split)
    return jax.tree.map(lambda x: PartitionSpec(*[None] * (len(x.shape) - 3), rows, columns), tree)


def over_batch(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.vmap` over a leading axis that is split over the batch axes of the mesh in use."""
    axes = batch_axes(jax.sharding.get_abstract_mesh())

    def one(*args: Any) -> Any:
        token = _TAKEN.set(axes)
        try:
            return function(*args)
        finally:
            _TAKEN.reset(token)

    return jax.vmap(one, spmd_axis_name=axes or None)


def path_name(path: Any) -> str:
    """A path of `jax.tree_util` as text, parts joined by '/'."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def _check_rule(pattern: str, spec: Sequence[Axis]) -> None:
    axes = [axis for entry in spec if entry != "..." for axis in _axes(entry)]
    unknown = set(axes) - set(AXES)
    if unknown:
        names = ", ".join(sorted(unknown))
        raise UserError(f"sharding rule {pattern!r}: unknown axis {names}, expected some of {', '.join(AXES)}")
    if len(axes) != len(set(axes)):
        raise UserError(f"sharding rule {pattern!r} names an axis twice: {tuple(spec)}")
    paths = (f"activations/{name}" for name in ACTIVATIONS)
    if pattern.startswith("activations/") and not any(re.search(pattern, path) for path in paths):
        raise UserError(f"sharding rule {pattern!r} matches nothing: activations are {', '.join(ACTIVATIONS)}")


def _axes(entry: Axis) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else tuple(entry or ())


def _fitted(
    pattern: str, spec: Sequence[Axis], name: str, shape: Sequence[int], mesh: Any, whole: list[str]
) -> PartitionSpec:
    """The spec for one array, without what the mesh lacks or what does not divide (appended to `whole`)."""
    entries = list(spec)
    if entries and entries[0] == "...":
        entries = [None] * (len(shape) - len(entries) + 1) + entries[1:]
    if len(entries) > len(shape):
        raise UserError(f"sharding rule {pattern!r} has {len(spec)} axes, {name} is of shape {list(shape)}")
    fits: list[Axis] = []
    for size, entry in zip(shape, entries, strict=False):
        axes = tuple(axis for axis in _axes(entry) if mesh.shape.get(axis, 1) > 1)
        parts = math.prod(mesh.shape[axis] for axis in axes)
        if size % parts:
            whole.append(f"{name} {list(shape)} by {'x'.join(axes)}={parts}")
        fits.append(axes if axes and size % parts == 0 else None)
    return PartitionSpec(*fits)
