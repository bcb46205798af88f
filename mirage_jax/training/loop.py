"""The training loop, top to bottom: build, restore, step, log, checkpoint, finish.

A run is a function of its config: batch `n` and the random numbers of step `n` follow from the seed
alone, so a run that was killed and resumed gives the losses of one that was not.
"""

from __future__ import annotations

import contextlib
import functools
import math
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import tqdm
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from mirage_jax import io, weights
from mirage_jax.errors import LostPeer, Stopped, UserError
from mirage_jax.models import partition
from mirage_jax.training import checkpoint, optimizer
from mirage_jax.training import step as stepping
from mirage_jax.training.measures import flops, metrics, preflight, resources, validation
from mirage_jax.training.measures.profiling import Profiler
from mirage_jax.training.stage import Stage
from mirage_jax.training.stopping import StopRequests
from mirage_jax.world import device_memory

_MEET_WITHIN = 600  # seconds


def check(config: Any) -> None:
    """Refuses numbers of a run that do not go together; cheap, so that it can be done before anything is loaded.

    Raises `UserError` that says which.
    """
    for name in ("checkpoint_every", "validate_every"):
        if config[name] % config.log_every:
            raise UserError(f"{name}={config[name]} must be a multiple of log_every={config.log_every}")
    optimizer.schedule(config)


def train(stage: Stage, config: Any, workdir: pathlib.Path) -> pathlib.Path:
    """Runs a stage to its last step, from its last checkpoint if there is one.

    Args:
      stage: what to train.
      config: a `ConfigDict`; the fields read here are in `experiments/configs/common.py`.
      workdir: gets `checkpoints/`, `losses.jsonl`, `starts.jsonl`, TensorBoard events, `previews/`, `profile/`,
        `record.json` and, at the end, `model/`. The same folder for all processes.

    Returns:
      The model folder.

    Raises:
      UserError: if the loss or gradient is not finite or data cannot be read (the last good checkpoint is named), or
        the disk is full.
      Stopped: if a signal asked to stop; everything is saved.
      LostPeer: if another process is gone.
    """
    check(config)
    workdir.mkdir(parents=True, exist_ok=True)
    first = jax.process_index() == 0

    with StopRequests() as stop, _lost_peers_named(workdir), contextlib.ExitStack() as leaving:
        # ---- build
        # Processes must first meet by a barrier that waits long, then connect for collectives, which waits 30 seconds:
        # otherwise one that compiles for longer than its peers would pass for lost.
        multihost.sync_global_processes("start", timeout=_MEET_WITHIN)
        multihost_utils.sync_global_devices("start")
        mesh = partition.make_mesh(dict(config.mesh))
        over_batch = partition.batch_sharding(mesh)
        transform = optimizer.make(config)
        key = jax.random.key(config.seed)

        layout, frozen_layout, start_layout = stepping.shardings(stage, transform, mesh)
        frozen = partition.put(stage.frozen, frozen_layout)
        create = jax.jit(functools.partial(stepping.create, stage, transform), out_shardings=layout)
        state = create(key, frozen, partition.put(stage.start, start_layout))
        batches = iter(stage.batches())
        step_with = functools.partial(stepping.make_step, stage, config, transform, mesh, layout)
        parameters = sum(x.size for x in jax.tree.leaves(state.params))
        rate_factors = optimizer.rates(config, state.params)
        validate = validation.make(stage, config, mesh) if config.validate_every else None

        # ---- restore
        manager = checkpoint.Manager(
            workdir / "checkpoints",
            keep=config.keep_checkpoints,
            keep_every=config.keep_every,
            workers=config.workers,
        )
        leaving.push(manager.end_writing)
        restored = manager.restore(state, batches)
        if restored is not None:
            state = restored
            print(f"resumed at step {int(state.step)}", flush=True)
        writer = metrics.MetricWriter(workdir, first_step=int(state.step))
        profiler = Profiler(workdir, config.profile)
        devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
        print(f"training {parameters:,} parameters on {devices}, {jax.process_count()} process(es)", flush=True)

        # ---- step
        start_step, window, waited, paused, operations, stopping = int(state.step), [], 0.0, 0.0, None, False
        progress = tqdm.tqdm(
            total=config.steps, initial=start_step, unit="step", dynamic_ncols=True, mininterval=5, disable=not first
        )
        started = time.time()
        for step in range(start_step + 1, config.steps + 1):
            profiler.before(step)
            before = time.time()
            local = _next(batches, step, manager, config)
            batch = partition.put_batch(local, over_batch)
            waited += time.time() - before
            before = time.time()
            if operations is None:
                with jax.set_mesh(mesh):
                    compiled = functools.partial(preflight.compiled, step_with, (state, frozen, batch, key))
                    size, room = len(next(iter(batch.values()))), device_memory.limit(mesh.local_devices)
                    parts = preflight.accumulation(compiled, config.accumulate, size, mesh, room)
                    step_fn = step_with(parts)
                    operations = flops.of_jitted(step_fn.__wrapped__, state, frozen, batch, key)
            state, values = step_fn(state, frozen, batch, key)
            if step == start_step + 1:
                paused += time.time() - before  # the compiler
            window.append(values)
            profiler.after(step, state)
            progress.update()
            stopping = stop.due(step)

            # ---- log
            if step % config.log_every == 0 or step == config.steps or stopping:
                window = jax.device_get(window)  # the one place where the host waits for the devices
                _check_finite(window, step, manager, workdir)
                seconds = max(time.time() - started, 1e-9)
                rate = len(window) / seconds
                means = {name: float(np.mean([row[name] for row in window])) for name in window[0]}
                base_rate = float(optimizer.schedule(config)(step))
                means |= {"learning_rate": base_rate}
                means |= {f"learning_rate/{name}": base_rate * factor for name, factor in rate_factors.items()}
                means |= {"steps_per_second": rate, "data_wait_fraction": waited / seconds}
                means |= {"productive_seconds": max(seconds - waited - paused, 0.0)}
                means |= {"clips_per_second": rate * len(next(iter(batch.values())))}
                means |= resources.arithmetic(operations, rate) | resources.memory() | metrics.total(stage.counters())
                if validate is not None and (step % config.validate_every == 0 or step == config.steps):
                    means |= validate(state.average, frozen, step)
                writer.write(step, means)
                manager.check()
                progress.set_postfix(loss=f"{means['loss']:.4g}", refresh=False)
                started, waited, paused, window = time.time(), 0.0, 0.0, []

            # ---- checkpoints and pictures
            before = time.time()
            if step % config.checkpoint_every == 0 or step == config.steps or stopping:
                manager.save(step, state, batches)
            if config.preview_every and (step % config.preview_every == 0 or step == config.steps):
                manager.wait()  # whatever previews do to the devices, what was to be saved is saved
                writer.pictures(step, _pictures(stage, config, mesh, state, frozen, batch, local, step))
            paused += time.time() - before
            if stopping:
                break
        progress.close()
        profiler.close()
        manager.wait()
        writer.close()
        if stopping:
            raise Stopped(f"{workdir}: told to stop, saved step {step}; the same command goes on from there")

        # ---- finish
        average = _readable(state.average)
        if first:
            model, params = stage.finish(average, stage.frozen, batches)
            weights.save(workdir / "model", model, params)
            io.write_json(workdir / "record.json", metrics.record(config, parameters, workdir))
    return workdir / "model"


def _check_finite(window: list[dict[str, Any]], step: int, manager: checkpoint.Manager, workdir: pathlib.Path) -> None:
    if all(math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"]) for row in window):
        return
    manager.wait()
    raise UserError(
        f"{workdir}: loss or gradient was not finite between steps {step - len(window) + 1} and {step}; "
        + _last_good(manager)
    )


def _next(batches: Any, step: int, manager: checkpoint.Manager, config: Any) -> Any:
    try:
        return next(batches)
    except UserError:
        raise
    except Exception as error:  # readers and decoders raise many kinds, and worker processes wrap them
        manager.wait()
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
        raise UserError(
            f"{config.get('data', 'the data')}: cannot read the batch of step {step} ({reason}); {_last_good(manager)}"
        ) from error


def _last_good(manager: checkpoint.Manager) -> str:
    last = manager.latest()
    return f"the last good checkpoint is step {last}" if last is not None else "there is no checkpoint yet"


def _readable(tree: Any) -> Any:
    """The same arrays, such that this process has all of each; every process must call it."""
    return tree if jax.process_count() == 1 else multihost_utils.process_allgather(tree, tiled=True)


def _pictures(
    stage: Stage, config: Any, mesh: Any, state: Any, frozen: Any, batch: Any, local: Any, step: int
) -> dict[str, Any]:
    """Previews, or a warning why there are none; of several processes, the first makes them on its own devices."""
    alone = jax.process_count() == 1
    average = state.average if alone else _readable(state.average)
    if jax.process_index() != 0:
        return {}
    try:
        if not alone:
            return stage.preview(average, stage.frozen, local)
        with jax.set_mesh(mesh):
            return stage.preview(average, frozen, batch)
    except Exception as error:  # a compiler or a device that cannot: no reason to end a run
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
        tqdm.tqdm.write(f"warning: no preview of step {step} ({reason}); the run goes on", file=sys.stderr)
        return {}


@contextlib.contextmanager
def _lost_peers_named(workdir: pathlib.Path) -> Iterator[None]:
    """Turns what collectives raise when a peer is gone into one sentence."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        signs = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "Connection closed", "coordination service")
        ours = isinstance(error, UserError) or jax.process_count() == 1
        if ours or not any(sign in str(error) for sign in signs):
            raise
        raise LostPeer(
            f"process {jax.process_index()} of {jax.process_count()} lost another process of the run ({workdir}): "
            f"{str(error).splitlines()[0][:200]}; started again, the run goes on from its last checkpoint"
        ) from error
