"""Meshes, and sharding rules as data: an ordered list of (regex on the parameter path, spec)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mirage_jax.errors import UserError

Rules = Sequence[tuple[str, Sequence[str | None]]]


def make_mesh(axes: Mapping[str, int]) -> Mesh:
    """A mesh over all devices.

    Args:
      axes: size by axis name, in order; one size may be -1, meaning all that is left.

    Raises:
      UserError: if the sizes do not multiply to the number of devices.
    """
    devices = jax.device_count()
    sizes = dict(axes)
    given = math.prod(size for size in sizes.values() if size > 0)
    for name, size in sizes.items():
        if size == -1:
            sizes[name] = devices // given
    if math.prod(sizes.values()) != devices:
        raise UserError(f"mesh {dict(axes)} does not fit the {devices} devices of this run")
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def tree_shardings(rules: Rules, tree: Any, mesh: Mesh) -> Any:
    """A sharding for every leaf of `tree`: the first rule whose regex is found in its path, else replicated.

    An axis that does not divide the leaf is dropped from its spec, so one rule serves many widths.
    """

    def assign(path, leaf):
        name = "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
        for pattern, spec in rules:
            if re.search(pattern, name) and len(spec) <= leaf.ndim:
                fits = [
                    axis if axis is not None and leaf.shape[i] % mesh.shape[axis] == 0 else None
                    for i, axis in enumerate(spec)
                ]
                return NamedSharding(mesh, PartitionSpec(*fits))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(assign, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over `data` (and `fsdp`, where the mesh has it)."""
    names = tuple(name for name in ("data", "fsdp") if name in mesh.shape)
    return NamedSharding(mesh, PartitionSpec(names))


def put_batch(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Host arrays (this process's part of the batch) as global device arrays."""
    return {name: jax.make_array_from_process_local_data(sharding, np.asarray(value)) for name, value in batch.items()}
