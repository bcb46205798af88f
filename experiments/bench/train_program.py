"""The train step of a full-size model as a program to compile without weights: state, clips and meshes as shapes.

Run as a module, it compiles one step in this process, on virtual CPU devices, and prints a line of JSON:

    python -m experiments.bench.train_program '{"mesh": {"data": 4, "fsdp": 8}, "layers": 2, "batch": 64}'
"""

from __future__ import annotations

import dataclasses
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
from jax.sharding import Mesh

from experiments.bench import collectives
from mirage_jax.errors import UserError
from mirage_jax.memory import splat
from mirage_jax.models import config as model_config
from mirage_jax.models import partition
from mirage_jax.models.config import ModelConfig
from mirage_jax.models.generator import Generator
from mirage_jax.training import flops, optimizer, posed, step
from mirage_jax.training.stage import Stage
from mirage_jax.training.stages import generator
from mirage_jax.world import recipe as recipes

CLIP_LATENTS = 17
"""Latent frames of a clip: 65 frames, of which any but the last 8 latents may be in the memory."""

Shape = jax.ShapeDtypeStruct


def with_layers(model: ModelConfig, layers: int) -> ModelConfig:
    """The model with fewer blocks; the side branch follows."""
    return dataclasses.replace(model, dit=dataclasses.replace(model.dit, layers=layers))


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
        )
    )


def abstract_stage(model: ModelConfig) -> Stage:
    """Stage 1, the side branch on a frozen DiT in bfloat16, with shapes in the place of weights and no data."""
    grid, channels = (4, 4), model.vae.latent_channels  # parameters do not depend on the grid
    inner = Generator(model.dit, model.side)

    def init(key):
        text = jnp.zeros((model.dit.text_tokens, model.dit.text_dim)) if model.dit.text_dim else None
        control = jnp.zeros((2, *grid, model.side.control_channels))
        return inner.init(key, jnp.zeros((2, *grid, channels)), jnp.zeros(2), control=control, text=text)["params"]

    frozen = {
        "dit": jax.tree.map(
            lambda x: Shape(x.shape, jnp.bfloat16), jax.eval_shape(lambda: init(jax.random.key(0)))["dit"]
        )
    }
    if "ones" in model.segment.control:
        size = model.height // model.vae.stride_space, model.width // model.vae.stride_space
        frozen["ones"] = Shape((1 + model.segment.latents + model.segment.preceding, *size, channels), jnp.float32)
    return Stage(
        init=lambda key, *_: {"side": init(key)["side"]},
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
    if recipes.of(model).token == "still":
        shapes["stills"] = shapes["latents"]
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
    state = jax.eval_shape(lambda frozen: step.create(stage, transform, jax.random.key(0), frozen, {}), stage.frozen)
    layout, frozen_layout, _ = step.shardings(stage, transform, mesh)

    def placed(tree, shardings):
        return jax.tree.map(lambda x, s: Shape(x.shape, x.dtype, sharding=s), tree, shardings)

    key = jax.eval_shape(lambda: jax.random.key(0))
    arguments = (placed(state, layout), placed(stage.frozen, frozen_layout), clips(model, batch, mesh), key)
    return step.make_step(stage, config, transform, mesh, layout).__wrapped__, arguments


def devices(count: int, topology: str | None) -> list[Any]:
    """Virtual CPU devices of this process, or TPUs that are described and not there ("v5p:2x4x4"; needs libtpu).

    Raises:
      UserError: if there are fewer than `count`.
    """
    if topology is None:
        found = jax.devices("cpu")
    else:
        from jax.experimental import topologies

        found = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    if len(found) < count:
        raise UserError(f"{topology or 'this process'} has {len(found)} devices, the mesh needs {count}")
    return list(found[:count])


def elsewhere(module: str, spec: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
    """Runs a module with a row as its argument, in a process that starts with as many virtual devices as it needs."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={math.prod(spec['mesh'].values())}",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, "-m", module, json.dumps(spec)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def compile_step(spec: Mapping[str, Any], model: ModelConfig) -> dict[str, Any]:
    """Compiles one step; bytes per device, FLOPs of all devices, and the collectives that one device runs.

    Args:
      spec: `mesh` {axis: size}, `batch`, and optionally `accumulate`, `layers`, `remat` and `topology` (of `devices`).
      model: to take fewer layers of.
    """
    model = with_layers(model, spec.get("layers", model.dit.layers))
    model = dataclasses.replace(model, dit=dataclasses.replace(model.dit, remat=spec.get("remat", model.dit.remat)))
    mesh = partition.make_mesh(spec["mesh"], devices(math.prod(spec["mesh"].values()), spec.get("topology")))
    started = time.perf_counter()
    with jax.set_mesh(mesh):
        function, arguments = train_step(model, mesh, spec["batch"], spec.get("accumulate", 1))
        operations = flops.of_jitted(function, *arguments)
        compiled = function.lower(*arguments).compile()
    memory = compiled.memory_analysis()
    # The loop over the points of a memory is as long as what it holds: at most this.
    blocks = -(-clips(model, 1, mesh)["depth"].size // splat.BLOCK)
    return {
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "flops": operations,
        "collectives": [dataclasses.asdict(x) for x in collectives.of_program(compiled.as_text(), blocks)],
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    """Compiles the row given as JSON; prints the result as the last line."""
    spec = json.loads(sys.argv[1])
    print(json.dumps(compile_step(spec, model_config.PRESETS[spec.get("model", "wan22_ti2v_5b")]()), default=float))


if __name__ == "__main__":
    main()
