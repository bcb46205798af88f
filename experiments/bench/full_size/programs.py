"""The programs of a full-size model, ready to be compiled without weights: weights, state and inputs as shapes.

Run as a module, it compiles one program in this process and prints a line of JSON:

    SPEC='{"program": "denoise", "mesh": {"tensor": 8}, "topology": "v6e:2x4"}'
    python -m experiments.bench.full_size.programs "$SPEC"

The devices are TPUs that are described and not there, which needs the package libtpu; without "topology", virtual CPU
devices.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.bench.full_size import collectives
from mirage_jax.errors import UserError
from mirage_jax.memory import groups
from mirage_jax.models import config as model_config
from mirage_jax.models import partition, quantize, vae
from mirage_jax.models.codec import Codec
from mirage_jax.models.config import ModelConfig
from mirage_jax.models.generator import Generator
from mirage_jax.models.nn import blocks
from mirage_jax.training import optimizer, posed, step
from mirage_jax.training.measures import flops
from mirage_jax.training.stage import Stage
from mirage_jax.training.stages import generator
from mirage_jax.world import device_memory

CLIP_LATENTS = 17
"""Latent frames of a clip in training: 65 frames, of which any but the last 8 latents may be in the memory."""

MEMORY = {"TPU v5": 95e9, "TPU v6 lite": 32e9}
"""Bytes of a TPU chip by the name that JAX has for it (v5p, v6e)."""

Shape = jax.ShapeDtypeStruct


def generator_shapes(model: ModelConfig) -> dict[str, Any]:
    """Parameters `{'dit', 'side'}` as shapes, float32."""
    return jax.eval_shape(functools.partial(_generator_init, model), jax.random.key(0))


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
    params = jax.eval_shape(lambda tree: {part: blocks.stacked(tree[part]) for part in tree}, params)
    if int8:
        params = jax.eval_shape(quantize.int8, params)
    shardings = quantize.shardings(partition.rules_for("dit", "side"), params, mesh)
    batch = math.prod(mesh.shape[axis] for axis in partition.batch_axes(mesh))
    inputs = _batched(segment_inputs(model), batch, mesh)

    def step(params, inputs):
        return partition.over_batch(functools.partial(apply_generator, model, params))(inputs)

    return jax.jit(step), (_placed(params, shardings), inputs)


def decode(model: ModelConfig, mesh: Mesh, tile: int | None = None):
    """The decoder on all latents of a segment, as `codec.Codec` with that `tile` runs it: frame by frame if None.

    Returns:
      The function and its arguments as shapes.
    """
    params = vae_shapes(model)
    shardings = partition.tree_shardings(partition.rules_for("vae"), {"vae": params}, mesh)["vae"]
    latents = Shape((1 + model.segment.latents, *model.grid, model.vae.latent_channels), jnp.float32)
    whole = Shape(latents.shape, latents.dtype, sharding=NamedSharding(mesh, PartitionSpec()))
    return jax.jit(Codec(model.vae, tile=tile).decode), (_placed(params, shardings), whole)


def settings(batch: int, accumulate: int) -> ml_collections.ConfigDict:
    """What the step and its optimizer read of a run's config: stage 1 of the recipe."""
    return ml_collections.ConfigDict(
        dict(
            accumulate=accumulate,
            batch_size=batch,
            ema_decay=0.999,
            learning_rate=1e-5,
            warmup_steps=100,
            steps=10_000,
            final_fraction=1.0,
            b1=0.9,
            b2=0.99,
            weight_decay=0.01,
            clip_norm=1.0,
            rate_factors=(),
            first_moment_dtype="float32",
        )
    )


def abstract_stage(model: ModelConfig) -> Stage:
    """Stage 1, the side branch on a frozen DiT in bfloat16, with shapes in the place of weights and no data."""
    frozen = {"dit": jax.eval_shape(blocks.stacked, _cast(generator_shapes(model)["dit"], "bfloat16"))}
    if "ones" in model.segment.control:
        size = model.height // model.vae.stride_space, model.width // model.vae.stride_space
        frozen["ones"] = Shape(
            (1 + model.segment.latents + model.segment.preceding, *size, model.vae.latent_channels), jnp.float32
        )
    return Stage(
        init=lambda key, *_: {"side": _generator_init(model, key)["side"]},
        frozen=frozen,
        loss=generator.batch_loss(model, posed.Augmentation(), with_memory=True),
        batches=lambda: iter(()),
        preview=lambda *_: {},
        finish=lambda *_: (model, {}),
    )


def clips(model: ModelConfig, batch: int, mesh: Mesh) -> dict[str, Shape]:
    """A batch of coded clips with embedded text, split over the mesh."""
    grid = model.height // model.vae.stride_space, model.width // model.vae.stride_space
    frames = 1 + model.vae.stride_time * (CLIP_LATENTS - 1)
    shapes = {
        "latents": ((CLIP_LATENTS, *grid, model.vae.latent_channels), jnp.float16),
        "depth": ((CLIP_LATENTS, *grid), jnp.float16),
        "dynamic": ((CLIP_LATENTS, *grid), jnp.uint8),
        "intrinsics": ((frames, 3, 3), jnp.float32),
        "cam2world": ((frames, 4, 4), jnp.float32),
    }
    if model.dit.text_dim:
        shapes["text"] = ((model.dit.text_tokens, model.dit.text_dim), jnp.float32)
    split = partition.batch_sharding(mesh)
    return {name: Shape((batch, *shape), dtype, sharding=split) for name, (shape, dtype) in shapes.items()}


def train_step(model: ModelConfig, mesh: Mesh, batch: int, accumulate: int = 1):
    """The step as `training.step.make_step` gives it, and its arguments as shapes with shardings.

    Args:
      model: with DiT and side branch.
      mesh: of `partition.make_mesh`.
      batch: global batch.
      accumulate: parts of it that go one after the other.

    Returns:
      The `jax.jit` function, to be lowered within `jax.set_mesh(mesh)`, and `(state, frozen, batch, key)`.
    """
    partition.batch_parts(mesh, batch // accumulate)
    config, stage = settings(batch, accumulate), abstract_stage(model)
    transform = optimizer.make(config)
    arguments, layout = _train_arguments(model, stage, transform, mesh, batch)
    return step.make_step(stage, config, transform, mesh, layout).__wrapped__, arguments


def _train_arguments(model: ModelConfig, stage: Stage, transform: Any, mesh: Any, batch: int) -> tuple[tuple, Any]:
    """Arguments of a step as shapes with shardings, and the layout of its state."""
    state = jax.eval_shape(lambda frozen: step.create(stage, transform, jax.random.key(0), frozen, {}), stage.frozen)
    layout, frozen_layout, _ = step.shardings(stage, transform, mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return (_placed(state, layout), _placed(stage.frozen, frozen_layout), clips(model, batch, mesh), key), layout


def devices(count: int, topology: str | None) -> list[Any]:
    """Virtual CPU devices of this process, or TPUs that are described and not there ("v5p:2x4x4"; needs libtpu).

    Raises:
      UserError: if there are fewer than `count`.
    """
    if topology is None:
        found = jax.devices("cpu")
    else:
        if importlib.util.find_spec("libtpu") is None:
            raise UserError("compiling for a TPU needs the package libtpu: pip install libtpu, in a place of its own")
        # It only compiles here: it need not look for devices, nor keep others from them.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        from jax.experimental import topologies

        found = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    if len(found) < count:
        raise UserError(f"{topology or 'this process'} has {len(found)} devices, the mesh needs {count}")
    return list(found[:count])


def compile_program(spec: Mapping[str, Any], model: ModelConfig) -> dict[str, Any]:
    """Compiles what a row of a table asks for; bytes per device as the compiler reports them.

    Args:
      spec: `program` ('denoise', 'decode' or 'train'), `mesh` {axis: size}, and `topology` (of `devices`), `int8`,
        `tile`, `batch`, `accumulate`, `layers` (fewer than the model's), `remat`; with `exchanges`, of a train step
        also the collectives that one device runs.
      model: whose programs.
    """
    changes = {name: spec[name] for name in ("layers", "remat") if name in spec}
    model = dataclasses.replace(model, dit=dataclasses.replace(model.dit, **changes))
    mesh = partition.make_mesh(spec["mesh"], devices(math.prod(spec["mesh"].values()), spec.get("topology")))
    build = {
        "denoise": lambda: denoise(model, mesh, spec.get("int8", False)),
        "train": lambda: train_step(model, mesh, spec["batch"], spec.get("accumulate", 1)),
        "decode": lambda: decode(model, mesh, spec.get("tile")),
    }[spec["program"]]
    started = time.perf_counter()
    function, arguments = build()
    room = MEMORY.get(mesh.devices.flat[0].device_kind)
    if room is not None and (least := device_memory.held(arguments)) > room:
        return {"fits": False, "compiler": f"arguments alone are {least / 1e9:.1f} GB of {room / 1e9:.0f}"}
    with jax.set_mesh(mesh):
        lowered = function.lower(*arguments)
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return {"fits": False, "compiler": _essence(str(error))}
        cost = (compiled.cost_analysis() or {}).get("flops")
        operations = cost if spec["program"] == "decode" else flops.of_jitted(function, *arguments).hardware
    memory = compiled.memory_analysis()
    found = {
        "fits": True if spec.get("topology") else None,
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "output": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
        "flops": operations,
        "splash": "splash_mha" in lowered.as_text(),
        "device": mesh.devices.flat[0].device_kind,
        "seconds": round(time.perf_counter() - started, 1),
    }
    if spec.get("exchanges"):
        # The loop over the points of a memory is as long as what it holds: at most this.
        blocks = -(-clips(model, 1, mesh)["depth"].size // groups.BLOCK)
        exchanges = collectives.of_program(compiled.as_text(), blocks)
        found["collectives"] = [dataclasses.asdict(exchange) for exchange in exchanges]
    return found


def held(spec: Mapping[str, Any], model: ModelConfig) -> int:
    """Bytes that the arguments of a row's program take of each device, by their shapes; nothing is compiled."""
    mesh = AbstractMesh(tuple(spec["mesh"].values()), tuple(spec["mesh"]), (AxisType.Auto,) * len(spec["mesh"]))
    if spec["program"] == "train":
        stage, transform = abstract_stage(model), optimizer.make(settings(spec["batch"], 1))
        arguments, _ = _train_arguments(model, stage, transform, mesh, spec["batch"])
    elif spec["program"] == "denoise":
        _, arguments = denoise(model, mesh, spec.get("int8", False))
    else:
        _, arguments = decode(model, mesh)
    return device_memory.held(arguments)


def elsewhere(spec: Mapping[str, Any]) -> dict[str, Any]:
    """`compile_program` in a process that starts with as many virtual devices as the mesh needs.

    Args:
      spec: as there, and `model`, of the presets.

    Returns:
      As there, or `error`, a sentence.
    """
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",  # which tests set: the program is to be the one that runs
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={math.prod(spec['mesh'].values())}",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, "-m", "experiments.bench.full_size.programs", json.dumps(spec)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode < 0:
        return {"error": f"ended by signal {-result.returncode}"}
    if result.returncode:
        last = [line for line in result.stderr.strip().splitlines() if line.strip()][-1:]
        return {"error": (last or [f"exit {result.returncode}"])[0][:300]}
    return json.loads(result.stdout.strip().splitlines()[-1])


def _generator_init(model: ModelConfig, key: jax.Array) -> Any:
    assert model.dit is not None and model.side is not None
    grid, channels = (4, 4), model.vae.latent_channels  # parameters do not depend on the grid
    target, control = jnp.zeros((2, *grid, channels)), jnp.zeros((2, *grid, model.side.control_channels))
    text = jnp.zeros((model.dit.text_tokens, model.dit.text_dim)) if model.dit.text_dim else None
    return Generator(model.dit, model.side).init(key, target, jnp.zeros(2), control=control, text=text)["params"]


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


def main() -> None:
    """Compiles the row given as JSON; prints the result as the last line."""
    spec = json.loads(sys.argv[1])
    model = model_config.PRESETS[spec.get("model", "wan22_ti2v_5b")]()
    print(json.dumps(compile_program(spec, model), default=float))


if __name__ == "__main__":
    main()
