"""Losses of one tiny training run on several meshes, as JSON; a program that `test_mesh` starts.

    python mesh_runs.py FOLDER '{"name": {"data": 8}, ...}' [COORDINATOR PROCESS PROCESSES]

`FOLDER` is what `prepare` made. With three more arguments the process is one of several.
"""

from __future__ import annotations

import json
import pathlib
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent.parent / name) for name in ("world", "training")]

STEPS, CHANNELS, CLIPS, FRAMES, SIZE = 20, 4, 24, 6, 4


def prepare(folder):
    """Random coded clips in `folder/data`, and in `folder/model` a Wan in miniature: text, side branch, LoRA."""
    import tiny_world

    from experiments.worlds import coded
    from mirage_jax import weights
    from mirage_jax.data import text_embeddings
    from mirage_jax.models import config as model_config
    from mirage_jax.models import vae
    from mirage_jax.models.dit import DiTConfig
    from mirage_jax.models.side_branch import SideBranchConfig

    rng = np.random.default_rng(0)
    count = 4 * FRAMES - 3
    pose = np.tile(np.eye(4, dtype=np.float32), (count, 1, 1))
    pose[:, 0, 3] = 0.05 * np.arange(count)

    def sample(i):
        return {
            "latents": rng.normal(size=(FRAMES, SIZE, 2 * SIZE, CHANNELS)).astype(np.float16),
            "depth": rng.uniform(1, 4, (FRAMES, SIZE, 2 * SIZE)).astype(np.float16),
            "dynamic": rng.integers(0, 2, (FRAMES, SIZE, 2 * SIZE), np.uint8),
            "intrinsics": np.tile(np.array([[4, 0, 4], [0, 4, 2], [0, 0, 1]], np.float32), (count, 1, 1)),
            "cam2world": pose,
            "caption": f"caption {i % 3}",
            "source": f"clip {i}",
        }

    coded.write(folder / "data", "train", (FRAMES, SIZE, 2 * SIZE, CHANNELS), (sample(i) for i in range(CLIPS)))
    captions = [f"caption {i}" for i in range(3)]
    text_embeddings.save(folder / "text.safetensors", "none", ["", *captions], rng.normal(size=(4, 4, 8)))
    segment = model_config.SegmentConfig(latents=2, preceding=1, reference=1)
    model = model_config.ModelConfig(
        name="miniature",
        recipe="paper",
        height=8 * SIZE,
        width=16 * SIZE,
        fps=15,
        vae=vae.VAEConfig(
            latent_channels=CHANNELS,
            encoder_dim=2,
            decoder_dim=2,
            multipliers=(1, 1, 1),
            blocks=1,
            time_downsample=(True, True),
            time_kernels=(1, 1, 1),
        ),
        dit=DiTConfig(
            dim=64, ffn_dim=64, heads=8, layers=2, in_channels=CHANNELS, text_dim=8, text_tokens=4, freq_dim=16
        ),
        side=SideBranchConfig(control_channels=segment.control_channels(CHANNELS)),
        lora=model_config.LoRAConfig(rank=4, alpha=4.0),
        segment=segment,
    )
    # As if trained: with zero outputs the first steps would say nothing about what comes before them.
    weights.save(folder / "model", model, tiny_world.parameters(model))


def config(folder, mesh, **changes):
    import coded_clips

    config = coded_clips.memory_stage()
    config.update(dict(init_from=f"{folder}/model", data=f"{folder}/data", batch_size=8, learning_rate=3e-3))
    config.update(dict(steps=STEPS, warmup_steps=5, rate_factors=(), text_embeddings=f"{folder}/text.safetensors"))
    config.update(changes)
    config.mesh = mesh
    return config


def losses(config):
    """The loss of every step, through the same calls as the loop."""
    from mirage_jax.models import partition
    from mirage_jax.training import optimizer, stages, step

    made, transform, key = stages.make(config), optimizer.make(config), jax.random.key(config.seed)
    mesh = partition.make_mesh(dict(config.mesh))
    layout, frozen_layout, _ = step.shardings(made, transform, mesh)
    state = jax.jit(lambda key: step.create(made, transform, key, made.frozen, made.start), out_shardings=layout)(key)
    frozen = partition.put(made.frozen, frozen_layout)
    run = step.make_step(made, config, transform, mesh, layout)
    batches, history = iter(made.batches()), []
    for _ in range(config.steps):
        state, metrics = run(state, frozen, partition.put_batch(next(batches), partition.batch_sharding(mesh)), key)
        history.append(float(metrics["loss"]))
    split = {partition.path_name(path) for path, x in _leaves(state) if not x.sharding.is_fully_replicated}
    return history, sorted(split)


def _leaves(tree):
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def main():
    folder, meshes, *process = sys.argv[1:]
    if process:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(process[0], process_id=int(process[1]), num_processes=int(process[2]))
        # As in the loop: collectives wait 30 seconds for a peer to connect, on a busy machine one compiles for longer.
        multihost_utils.sync_global_devices("start")
    results = {}
    for name, mesh in json.loads(meshes).items():
        changes = mesh.pop("changes", {})
        results[name] = losses(config(folder, mesh, **changes))
    print("RESULT " + json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
