"""The programs of a full-size model, ready to be compiled without weights: what `full_size_compile` measures.

Run as a module, it compiles one program in this process and prints a line of JSON:

    python -m experiments.bench.full_size_programs '{"program": "denoise", "mesh": {"tensor": 8}}'

The devices are virtual CPU devices, or, with "topology" ("v5e:2x4"), TPUs that are described and not there, which
needs the package libtpu.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.bench import train_program
from mirage_jax.models import config as model_config
from mirage_jax.models import partition, quantize, vae, vae_tiling
from mirage_jax.models.config import ModelConfig
from mirage_jax.models.generator import Generator

Shape = jax.ShapeDtypeStruct


def generator_shapes(model: ModelConfig) -> dict[str, Any]:
    """Parameters `{'dit', 'side'}` as shapes, float32."""
    grid, channels = (4, 4), model.vae.latent_channels  # parameters do not depend on the grid
    assert model.dit is not None and model.side is not None
    generator = Generator(model.dit, model.side)

    def init():
        target, control = jnp.zeros((2, *grid, channels)), jnp.zeros((2, *grid, model.side.control_channels))
        text = jnp.zeros((model.dit.text_tokens, model.dit.text_dim)) if model.dit.text_dim else None
        return generator.init(jax.random.key(0), target, jnp.zeros(2), control=control, text=text)["params"]

    return jax.eval_shape(init)


def vae_shapes(model: ModelConfig) -> Any:
    """Parameters of the VAE as shapes."""
    return jax.eval_shape(lambda: vae.init(model.vae, jax.random.key(0)))


def counts(model: ModelConfig) -> dict[str, int]:
    """Parameters by part."""
    parts = {**generator_shapes(model), "vae": vae_shapes(model)}
    return {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in parts.items()}


def segment_inputs(model: ModelConfig) -> dict[str, Shape]:
    """What a denoising step is given for one segment, references, preceding frames, control and text all there."""
    layout, channels = model.segment, model.vae.latent_channels
    grid = model.height // model.vae.stride_space, model.width // model.vae.stride_space
    target, past, back = 1 + layout.latents, layout.preceding, layout.reference
    assert model.dit is not None and model.side is not None
    inputs = {
        "target": Shape((target, *grid, channels), jnp.float32),
        "timesteps": Shape((target,), jnp.float32),
        "preceding": Shape((past, *grid, channels), jnp.float32),
        "preceding_valid": Shape((past,), jnp.bool_),
        "reference": Shape((back, *grid, channels), jnp.float32),
        "reference_valid": Shape((back,), jnp.bool_),
        "control": Shape((target + past, *grid, model.side.control_channels), jnp.float32),
    }
    if model.dit.text_dim:
        inputs["text"] = Shape((model.dit.text_tokens, model.dit.text_dim), jnp.float32)
    return inputs


def tokens(model: ModelConfig) -> int:
    """Tokens of a segment: reference, target and preceding frames."""
    layout, patch = model.segment, model.dit.patch
    rows, columns = (
        model.height // model.vae.stride_space // patch[1],
        model.width // model.vae.stride_space // patch[2],
    )
    return (1 + layout.latents + layout.preceding + layout.reference) * rows * columns


def apply_generator(model: ModelConfig, params: Any, inputs: Mapping[str, jax.Array]) -> jax.Array:
    """One prediction of the generator; `inputs` as in `segment_inputs`."""
    given = dict(inputs)
    return Generator(model.dit, model.side).apply(
        {"params": params}, given.pop("target"), given.pop("timesteps"), **given
    )


def denoise(model: ModelConfig, mesh: Mesh, int8: bool = False):
    """One denoising step, weights in the type of the computation or in 8 bits, no rematerialisation.

    One segment, or on a mesh that splits a batch, one for each part of it.

    Returns:
      The function and its arguments as shapes.
    """
    model = dataclasses.replace(model, dit=dataclasses.replace(model.dit, remat="none"))
    params = _cast(generator_shapes(model), model.dit.dtype)
    shardings = partition.tree_shardings(partition.rules_for("dit", "side"), params, mesh)
    if int8:
        params, shardings = _in_8_bits(params, shardings)
    batch = math.prod(mesh.shape[axis] for axis in partition.batch_axes(mesh))
    inputs = _batched(segment_inputs(model), batch, mesh)

    def step(params, inputs):
        return partition.over_batch(functools.partial(apply_generator, model, params))(inputs)

    return jax.jit(step), (_placed(params, shardings), inputs)


def decode(model: ModelConfig, mesh: Mesh, tile: int = 0):
    """The decoder: one latent frame in the middle of a stream, or with `tile` (of `vae_tiling`) a whole segment.

    Returns:
      The function and its arguments as shapes.
    """
    params = vae_shapes(model)
    shardings = partition.tree_shardings(partition.rules_for("vae"), {"vae": params}, mesh)["vae"]
    placed = _placed(params, shardings)
    grid = model.height // model.vae.stride_space, model.width // model.vae.stride_space
    frames = 1 + model.segment.latents if tile else 1
    latents = _replicated(Shape((frames, *grid, model.vae.latent_channels), jnp.float32), mesh)
    if tile:
        return jax.jit(lambda params, latents: vae_tiling.decode(model.vae, params, latents, tile=tile)), (
            placed,
            latents,
        )

    def step(params, latents, cache=None):
        return vae.decode_stream(model.vae, params, latents, cache)

    _, cache = jax.eval_shape(step, params, latents)
    return jax.jit(step, donate_argnums=2), (placed, latents, _replicated(cache, mesh))


def compile_program(spec: Mapping[str, Any], model: ModelConfig) -> dict[str, Any]:
    """Compiles what a row of the table asks for; bytes per device as the compiler reports them.

    Args:
      spec: `program` ('denoise', 'decode', or 'train', the step of `train_program`), `mesh` {axis: size}, and
        `topology`, `int8`, `tile`, `batch`.
      model: whose programs.
    """
    mesh = partition.make_mesh(
        spec["mesh"], train_program.devices(math.prod(spec["mesh"].values()), spec.get("topology"))
    )
    build = {
        "denoise": lambda: denoise(model, mesh, spec.get("int8", False)),
        "train": lambda: train_program.train_step(model, mesh, spec["batch"]),
        "decode": lambda: decode(model, mesh, spec.get("tile", 0)),
    }[spec["program"]]
    started = time.perf_counter()
    function, arguments = build()
    with jax.set_mesh(mesh):
        lowered = function.lower(*arguments)
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return {"fits": False, "compiler": _essence(str(error))}
    memory = compiled.memory_analysis()
    cost = compiled.cost_analysis() or {}
    return {
        "fits": True if spec.get("topology") else None,
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "output": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
        "flops": cost.get("flops"),
        "splash": "splash_mha" in lowered.as_text(),
        "device": mesh.devices.flat[0].device_kind,
        "seconds": round(time.perf_counter() - started, 1),
    }


def _essence(message: str) -> str:
    """The line of the compiler's message that says how much was used of how much."""
    lines = [line.strip() for line in message.splitlines() if "exceeded" in line.lower() or "used" in line.lower()]
    return (lines or message.splitlines())[0][:300]


def _cast(tree: Any, dtype: str) -> Any:
    return jax.tree.map(lambda x: Shape(x.shape, jnp.dtype(dtype)), tree)


def _placed(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, s: Shape(x.shape, x.dtype, sharding=s), tree, shardings)


def _batched(tree: Any, batch: int, mesh: Mesh) -> Any:
    sharding = partition.batch_sharding(mesh)
    return jax.tree.map(lambda x: Shape((batch, *x.shape), x.dtype, sharding=sharding), tree)


def _replicated(tree: Any, mesh: Mesh) -> Any:
    return jax.tree.map(lambda x: Shape(x.shape, x.dtype, sharding=NamedSharding(mesh, PartitionSpec())), tree)


def _in_8_bits(params: Any, shardings: Any) -> tuple[Any, Any]:
    """Shapes of `quantize.int8`; values keep the sharding of their kernel, factors follow its outputs."""
    small = jax.eval_shape(quantize.int8, params)

    def place(x: Any, sharding: NamedSharding) -> Any:
        if not quantize.is_quantized(x):
            return sharding
        scale = NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec[1:]))
        return dataclasses.replace(x, qvalue=sharding, scale=scale)

    return small, jax.tree.map(place, small, shardings, is_leaf=quantize.is_quantized)


def main() -> None:
    """Compiles the row given as JSON; prints the result as the last line."""
    spec = json.loads(sys.argv[1])
    model = model_config.PRESETS[spec.get("model", "wan22_ti2v_5b")]()
    print(json.dumps(compile_program(spec, model), default=float))


if __name__ == "__main__":
    # libtpu only compiles here: it need not look for devices, nor keep others from them.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    main()
