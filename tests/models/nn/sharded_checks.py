"""What `test_sequence_parallel` checks on 8 virtual devices, as a program: prints a JSON object of figures."""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from experiments.bench.full_size import collectives
from mirage_jax.errors import UserError
from mirage_jax.models import partition, vae
from mirage_jax.models.codec import Codec
from mirage_jax.models.nn import sequence_parallel
from mirage_jax.models.nn.attention import xla

F, N, HEADS, WIDTH, TEXT, BATCH = 3, 8, 8, 4, 5, 4
MESHES = {
    "sequence": {"sequence": 8},
    "tensor": {"tensor": 8},
    "mixed": {"data": 2, "tensor": 2, "sequence": 2},
    "data": {"data": 2, "sequence": 4},
}
VIDEOS = (("whole", {"fsdp": 8}, 0), ("frame by frame", {"data": 2, "fsdp": 2, "sequence": 2}, 16))


def attention():
    """Largest errors of outputs and gradients against whole attention in plain XLA, and the exchanges compiled."""
    keys = iter(jax.random.split(jax.random.key(0), 8))
    shape = (BATCH, F, N, HEADS, WIDTH)
    q, k, v, weight = (jax.random.normal(next(keys), shape) for _ in range(4))
    text = jax.random.normal(next(keys), (2, TEXT, HEADS, WIDTH))  # the same for the whole batch
    mask = jax.random.bernoulli(next(keys), 0.6, (BATCH, F * N)).at[:, 0].set(True)

    def both(self_attention, cross_attention):
        def one(q, k, v, mask, weight, text):
            x = self_attention(q, k, v, mask)
            return jnp.sum(weight * x * cross_attention(x, *text)), x

        def total(q, k, v, text):
            sums, x = partition.over_batch(lambda *a: one(*a, text))(q, k, v, mask, weight)
            return sums.sum(), x

        return jax.value_and_grad(total, argnums=(0, 1, 2, 3), has_aux=True)

    def flat(q, k, v, mask=None):
        return xla(*(x.reshape(-1, HEADS, WIDTH) for x in (q, k, v)), mask).reshape(q.shape)

    expected = jax.jit(both(flat, flat))(q, k, v, text)
    results = {}
    for name, axes in MESHES.items():
        mesh = partition.make_mesh(axes)
        batch = partition.batch_sharding(mesh)
        with jax.set_mesh(mesh):
            split = [jax.device_put(x, batch) for x in (q, k, v)]
            function = jax.jit(both(sequence_parallel.self_attention, sequence_parallel.cross_attention))
            compiled = function.lower(*split, text).compile()
            found = compiled(*split, text)
        errors = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max() / jnp.abs(b).max()), found, expected)
        text_of = compiled.as_text()
        results[name] = {"error": max(jax.tree.leaves(errors)), "all_to_all": text_of.count(" all-to-all(")}
    return results


def refusals():
    """Messages for heads and tokens that do not divide."""
    messages = {}
    for name, shape in {"heads": (F, N, 6, WIDTH), "tokens": (F, 6, HEADS, WIDTH)}.items():
        with jax.set_mesh(partition.make_mesh({"sequence": 8})):
            try:
                jax.jit(sequence_parallel.self_attention)(*(jnp.ones(shape),) * 3)
            except UserError as error:
                messages[name] = str(error)
    return messages


def constrained():
    """Whether `constrain` splits tokens over the sequence."""
    mesh = partition.make_mesh({"data": 2, "sequence": 4})
    x = jnp.zeros((BATCH, F, N, 16))

    with jax.set_mesh(mesh):
        y = jax.jit(partition.over_batch(lambda x: partition.constrain(x + 1, "tokens")))(x)
    return y.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec("data", None, "sequence")), 4)


def batches():
    """Whether a batch lies as it should on a mesh whose devices are in another order, as on a torus."""
    order = np.array(jax.devices())[[0, 1, 4, 5, 2, 3, 6, 7]]
    same = {}
    for name, axes in {"data": {"data": 8}, "both": {"data": 2, "fsdp": 2, "tensor": 2}}.items():
        mesh = partition.make_mesh(axes, list(order))
        batch = {"x": np.arange(16 * 3).reshape(16, 3)}
        placed = partition.put_batch(batch, partition.batch_sharding(mesh))["x"]
        same[name] = bool(np.array_equal(np.asarray(placed), batch["x"])) and not placed.sharding.is_fully_replicated
    return same


def video():
    """The VAE on meshes against one device: largest relative errors, shares of temporaries and of the cache."""
    sizes = vae.VAEConfig(
        latent_channels=4,
        encoder_dim=8,
        decoder_dim=8,
        multipliers=(1, 1, 1, 1),
        blocks=1,
        time_downsample=(False, False, True),
        time_kernels=(1, 1, 3, 3),
        patch=1,
    )
    params = vae.init(sizes, jax.random.key(0))
    frames = jax.random.uniform(jax.random.key(1), (5, 48, 128, 3), minval=-1.0)  # 6 x 16 cells: 8 divide columns only
    latents = vae.encode(sizes, params, frames)

    def runs(codec, params):
        found = []
        for function, *args in (
            (codec.encode, frames),
            (codec.decode, latents),
            (lambda params, z: codec.decode_stream(params, z, None), latents[:1]),
            (codec.decode_stream, latents[1:], lambda: found[-1][0][1]),  # with the cache of the line before
        ):
            args = [arg() if callable(arg) else arg for arg in args]
            compiled = jax.jit(function).lower(params, *args).compile()
            found.append((compiled(params, *args), compiled.memory_analysis().temp_size_in_bytes))
        return found

    results = {}
    for name, axes, tile in VIDEOS:
        codec = Codec(sizes, tile=tile)
        one = runs(codec, params)
        mesh = partition.make_mesh(axes)
        split = partition.tree_shardings(partition.rules_for("vae"), {"vae": params}, mesh)["vae"]
        with jax.set_mesh(mesh):
            many = runs(codec, jax.device_put(params, split))
            clips = jnp.stack([latents[:1]] * 8)
            batch = jax.jit(partition.over_batch(functools.partial(codec.decode, params)))(clips)
        cache = jax.tree.leaves(many[-1][0][1])
        results[name] = {
            "error": max(
                float(abs(np.asarray(a) - np.asarray(b)).max() / abs(np.asarray(b)).max())
                for (found, _), (expected, _) in zip(many, one, strict=True)
                for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
            ),
            "temporaries": [bytes_many / bytes_one for (_, bytes_many), (_, bytes_one) in zip(many, one, strict=True)],
            "cache": max(x.addressable_shards[0].data.size / x.size for x in cache),
            "batch": float(abs(np.asarray(batch) - np.asarray(one[1][0])[:1]).max()),
        }
    return results


def exchanges():
    """What `collectives` reads from a program of known exchanges: a sum in a loop of 5, one gathering, one swap."""
    mesh = partition.make_mesh({"data": 2, "tensor": 4})

    def local(x):
        x = jax.lax.fori_loop(0, 5, lambda _, x: jax.lax.psum(jnp.sin(x), "data"), x)
        x = jax.lax.all_gather(x, "tensor", tiled=True)
        return jax.lax.all_to_all(x, "tensor", split_axis=1, concat_axis=0, tiled=True)

    spec = PartitionSpec("tensor")
    function = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))
    found = collectives.of_program(function.lower(jnp.ones((32, 16))).compile().as_text())
    return sorted([x.kind, x.result_bytes, list(x.members), x.times, x.wire_bytes] for x in found)


if __name__ == "__main__":
    names = "attention", "refusals", "constrained", "batches", "video", "exchanges"
    print("RESULT " + json.dumps({name: globals()[name]() for name in names}), file=sys.stdout)
