"""What `test_sharded_loading` checks on 8 virtual devices, as a program: prints a JSON object of figures.

python -m tests.weights.sharded_loading FOLDER
"""

import dataclasses
import json
import sys

import jax
import numpy as np
from flax import traverse_util

from mirage_jax import weights
from mirage_jax.models import parameters, partition
from tests.weights.tiny_wan import tiny_wan

PARTS = ("dit", "side")


def model():
    """A Wan whose heads and widths a mesh of 8 divides."""
    tiny = tiny_wan()
    dit = dataclasses.replace(tiny.dit, dim=64, ffn_dim=128, heads=4)
    return dataclasses.replace(tiny, dit=dit, lora=None, depth=None, text=None)


def held():
    """Bytes of all arrays that are alive, by device."""
    bytes_of = dict.fromkeys(jax.devices(), 0)
    for array in jax.live_arrays():
        for shard in array.addressable_shards:
            bytes_of[shard.device] += shard.data.nbytes
    return np.array(list(bytes_of.values()))


def main(folder):
    rng, flat = np.random.default_rng(0), parameters.shapes(model())
    saved = traverse_util.unflatten_dict(
        {path: rng.standard_normal(shape, np.float32) for path, shape in flat.items()}, sep="/"
    )
    weights.save(folder, model(), saved)
    mesh = partition.make_mesh({"fsdp": 2, "tensor": 4})
    asked, found = {}, {}
    for name, dtype in {"float32": None, "bfloat16": "bfloat16"}.items():

        def shardings(tree, name=name):
            asked[name] = partition.tree_shardings(partition.rules_for(*PARTS), tree, mesh)
            return asked[name]

        whole = jax.tree.map(np.array, weights.load(folder, PARTS, dtype)[1])
        before = held()
        params = weights.load(folder, PARTS, dtype, shardings=shardings)[1]
        grew = held() - before
        leaves = jax.tree.leaves(params)
        a_device = sum(x.dtype.itemsize * int(np.prod(x.sharding.shard_shape(x.shape))) for x in leaves)
        same = jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(np.asarray(a), b), params, whole)
        found[name] = {
            "equal": all(jax.tree.leaves(same)),
            "as_asked": all(jax.tree.leaves(jax.tree.map(lambda x, s: x.sharding == s, params, asked[name]))),
            "whole": sum(x.nbytes for x in leaves),
            "a_device": a_device,
            "grew": grew.tolist(),
            "up": [str(axis) for axis in params["dit"]["blocks_1"]["ffn"]["up"]["kernel"].sharding.spec],
        }
        del params, leaves
    return found


if __name__ == "__main__":
    print("RESULT " + json.dumps(main(sys.argv[1])))
