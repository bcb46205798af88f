"""The training loop, top to bottom: build, restore, step, log, checkpoint, finish.

A run is a function of its config: batch `n` and the random numbers of step `n` follow from the seed
alone, so a run that was killed and resumed gives the losses of one that was not.
"""

from __future__ import annotations

import json
import math
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from flax import struct

from mirage_jax import io, weights
from mirage_jax.errors import UserError
from mirage_jax.training import checkpoint, optimizer, sharding
from mirage_jax.training.metrics import MetricWriter
from mirage_jax.training.stage import Stage


@struct.dataclass
class TrainState:
    """All that changes from step to step."""

    step: jax.Array  # int32 []
    params: Any  # trainable parameters, float32
    average: Any  # their exponential moving average
    optimizer: Any


def train(stage: Stage, config: Any, workdir: pathlib.Path) -> pathlib.Path:
    """Runs a stage to its last step, from its last checkpoint if there is one.

    Args:
      stage: what to train.
      config: a `ConfigDict`; the fields read here are in `experiments/configs/common.py`.
      workdir: gets `checkpoints/`, `losses.jsonl`, TensorBoard events, `previews/`, `record.json` and, at the end,
        `model/`.

    Returns:
      The model folder.

    Raises:
      UserError: if the loss or gradient is not finite (the last good checkpoint is named).
    """
    if config.checkpoint_every % config.log_every:
        raise UserError(
            f"checkpoint_every={config.checkpoint_every} must be a multiple of log_every={config.log_every}"
        )
    workdir.mkdir(parents=True, exist_ok=True)

    # ---- build
    mesh = sharding.make_mesh(dict(config.mesh))
    over_batch = sharding.batch_sharding(mesh)
    transform = optimizer.make(config)
    key = jax.random.key(config.seed)

    def create(key):
        params = stage.init(key)
        return TrainState(
            step=jnp.zeros((), jnp.int32), params=params, average=params, optimizer=transform.init(params)
        )

    shapes = jax.eval_shape(create, key)
    layout = sharding.tree_shardings(config.sharding_rules, shapes, mesh)
    state = jax.jit(create, out_shardings=layout)(key)
    frozen = jax.device_put(stage.frozen, sharding.tree_shardings(config.sharding_rules, stage.frozen, mesh))
    batches = iter(stage.batches())
    step_fn = make_step(stage, config, transform)

    # ---- restore
    manager = checkpoint.Manager(workdir / "checkpoints", keep=config.keep_checkpoints)
    restored = manager.restore(state, batches)
    if restored is not None:
        state = restored
        print(f"resumed at step {int(state.step)}", flush=True)
    writer = MetricWriter(workdir, first_step=int(state.step))
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    print(f"training {parameters:,} parameters on {jax.device_count()} x {jax.devices()[0].device_kind}", flush=True)

    # ---- step
    started, start_step = time.time(), int(state.step)
    window: list[dict[str, jax.Array]] = []
    waited = 0.0
    progress = tqdm.tqdm(total=config.steps, initial=start_step, unit="step", dynamic_ncols=True, mininterval=5)
    for step in range(start_step + 1, config.steps + 1):
        before = time.time()
        batch = sharding.put_batch(next(batches), over_batch)
        waited += time.time() - before
        state, metrics = step_fn(state, frozen, batch, key)
        window.append(metrics)
        progress.update()

        if step % config.log_every == 0 or step == config.steps:
            means = {name: float(np.mean([float(m[name]) for m in window])) for name in metrics}
            if not all(math.isfinite(m["loss"]) and math.isfinite(m["grad_norm"]) for m in _host(window)):
                writer.close()
                last = manager.latest()
                raise UserError(
                    f"{workdir}: loss or gradient was not finite between steps {step - len(window) + 1} and {step}; "
                    + (f"the last good checkpoint is step {last}" if last is not None else "there is no checkpoint yet")
                )
            rate = len(window) / max(time.time() - started, 1e-9)
            means |= {"learning_rate": float(optimizer.schedule(config)(step)), "steps_per_second": rate}
            means["data_wait_fraction"] = waited / max(time.time() - started, 1e-9)
            writer.write(step, means)
            progress.set_postfix(loss=f"{means['loss']:.4g}", refresh=False)
            started, waited, window = time.time(), 0.0, []

        if config.preview_every and (step % config.preview_every == 0 or step == config.steps):
            for name, picture in stage.preview(state.average, frozen, batch).items():
                writer.picture(step, name, picture)
        if step % config.checkpoint_every == 0 or step == config.steps:
            manager.save(step, state, batches)
    progress.close()
    manager.wait()
    writer.close()

    # ---- finish
    model, params = stage.finish(state.average, frozen, batches)
    weights.save(workdir / "model", model, params)
    io.write_json(workdir / "record.json", run_record(config, parameters, workdir))
    return workdir / "model"


def make_step(stage: Stage, config: Any, transform: optax.GradientTransformation):
    """The compiled `(state, frozen, batch, key) -> (state, metrics)`; a step that is not finite changes nothing."""

    def step(state: TrainState, frozen, batch, key):
        noise_key = jax.random.fold_in(key, state.step)
        gradient_of = jax.value_and_grad(stage.loss, has_aux=True)
        (loss, metrics), gradients = gradient_of(state.params, frozen, batch, noise_key)
        norm = optax.tree.norm(gradients)
        updates, moments = transform.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        moved = TrainState(
            step=state.step + 1,
            params=params,
            average=optimizer.ema(state.average, params, config.ema_decay, state.step),
            optimizer=moments,
        )
        good = jnp.isfinite(loss) & jnp.isfinite(norm)
        state = jax.tree.map(lambda new, old: jnp.where(good, new, old), moved, state)
        return state, {**metrics, "loss": loss, "grad_norm": norm}

    return jax.jit(step, donate_argnums=0)


def run_record(config: Any, parameters: int, workdir: pathlib.Path) -> dict[str, Any]:
    """What a reader of the training record wants to know: config, size, wall time, device."""
    rows = [json.loads(line) for line in (workdir / "losses.jsonl").read_text().splitlines()]
    return {
        "config": json.loads(config.to_json_best_effort()),
        "parameters": parameters,
        "steps": rows[-1]["step"] if rows else 0,
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "final": rows[-1] if rows else {},
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "jax": jax.__version__,
    }


def _host(window: list[dict[str, jax.Array]]) -> list[dict[str, float]]:
    return [{name: float(value) for name, value in row.items()} for row in window]
