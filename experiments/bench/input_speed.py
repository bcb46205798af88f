"""Benchmark suite `input`: what the input pipelines of training deliver, against what the train steps consume.

Both are those of the default model's stages, made from their configs: the generator reads coded clips, the VAE windows
of rendered ones. In every round each step and each pipeline takes its turn, so that a load on the machine meets all of
them. Steps are timed from their batch on the device to their end, while the pipeline reads ahead as in training, and
the wait for each batch beside them. A pipeline alone is timed after what it had read ahead is drained.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.bench import records, timing
from mirage_jax.data import latents as coded
from mirage_jax.data import source as rendered
from mirage_jax.errors import UserError
from mirage_jax.models import partition
from mirage_jax.training import optimizer, stages
from mirage_jax.training import step as stepping
from mirage_jax.weights import model_files

OPTIONS = ("stage_config", "clips", "latents")
WORKERS = (0, 2)
COLUMNS = (
    *("stage, its batch", "workers", "pipeline delivers", "train step consumes", "ratio", "step waits for a batch"),
)
TIMES = 3.0
"""What a pipeline must deliver at least, in units of what its step consumes."""

_ROUNDS = 7
_STEPS = 3  # of a stage, in a round
_READ_AHEAD = 32  # batches: more than threads, workers and their queues hold
_BATCHES = {"generator": 150, "vae": 40}  # of a pipeline alone, in a round
_SPLIT = "train"


@dataclasses.dataclass
class _Stage:
    """A stage with its compiled step, and its pipelines by number of workers."""

    name: str
    batch_size: int
    run: Callable[[Any], None]  # one step on a batch that is on the device
    put: Callable[[Any], Any]
    pipelines: dict[int, Any]  # iterators of batches, with `close()`
    step_seconds: list[float] = dataclasses.field(default_factory=list)
    waits: dict[int, list[float]] = dataclasses.field(default_factory=dict)  # for a batch, in training
    rates: dict[int, list[float]] = dataclasses.field(default_factory=dict)  # samples a second, alone, by round


def measure(stage_config: Callable[[str], Any], clips: str, latents: str) -> dict[str, Any]:
    """Times every pipeline and step; the record that `markdown` prints.

    Args:
      stage_config: gives the config of a training stage by its name.
      clips, latents: data sets of rendered and of coded clips.

    Raises:
      UserError: if one of them is not there.
    """
    _require(clips, latents)
    generator, vae = stage_config("default_generator"), stage_config("default_vae")
    generator.data, generator.init_from = latents, str(model_files.DEFAULT)
    vae.data = clips
    load = os.getloadavg()[0]
    measured = [_prepared(generator), _prepared(vae)]
    for _ in range(_ROUNDS):
        for stage in measured:
            for workers in stage.pipelines:
                _train(stage, workers)
        for stage in measured:
            for workers in stage.pipelines:
                _drain(stage, workers)
    for stage in measured:
        for batches in stage.pipelines.values():
            batches.close()
    return {
        "rows": [_row(stage, workers) for stage in measured for workers in stage.pipelines],
        "rounds": _ROUNDS,
        "steps_a_round": _STEPS,
        "batches_a_round": _BATCHES,
        "processor": timing.processor(),
        "device": jax.devices()[0].device_kind,
        "cores": timing.cores(),
        "load_before_and_after": [load, os.getloadavg()[0]],
    }


def markdown(record: dict[str, Any]) -> str:
    """The record as a table."""
    load = " to ".join(f"{load:.1f}" for load in record["load_before_and_after"])
    rows = []
    for row in record["rows"]:
        speeds = [timing.spread(row["delivered"]), timing.spread(row["consumed"]), f"{row['ratio']:.1f}"]
        waits = f"{100 * row['waiting_share']:.1f} %"
        rows.append([f"{row['stage']}, {row['batch_size']} {row['sample']}", row["workers"], *speeds, waits])
    lines = [
        f"Samples a second, median of {record['rounds']} rounds in which all take turns [10th to 90th percentile]; "
        f"{record['processor']}, {record['cores']} cores, steps on {record['device']}, load {load}. The aim is a "
        f"ratio of at least {TIMES:g}.",
        "",
        *records.table(COLUMNS, rows),
    ]
    return "\n".join([*lines, ""])


def _require(clips: str, latents: str) -> None:
    try:
        rendered.load_source(clips, _SPLIT, ("frames",))
        coded.load_source(latents, _SPLIT)
    except UserError as error:
        build = "python -m experiments.build_dataset"
        raise UserError(
            f"suite input reads clips and coded clips ({error}); make them with `{build} --dataset doom --out {clips}` "
            f"and `{build} --dataset latents --source {clips} --out {latents} --mirrored`, "
            "or name others with --clips and --latents"
        ) from error


def _prepared(config: Any) -> _Stage:
    """A stage whose step is compiled and whose pipelines run."""
    stage = stages.make(config)
    mesh = partition.make_mesh(dict(config.mesh))
    over_batch, transform, key = partition.batch_sharding(mesh), optimizer.make(config), jax.random.key(config.seed)
    layout, frozen_layout, start_layout = stepping.shardings(stage, transform, mesh)
    frozen, start = partition.put(stage.frozen, frozen_layout), partition.put(stage.start, start_layout)
    state = jax.jit(functools.partial(stepping.create, stage, transform), out_shardings=layout)(key, frozen, start)
    step = stepping.make_step(stage, config, transform, mesh, layout)

    def run(batch):
        nonlocal state
        state, metrics = step(state, frozen, batch, key)
        jax.block_until_ready((state, metrics))

    def put(batch):
        return jax.block_until_ready(partition.put_batch(batch, over_batch))

    pipelines = {}
    for workers in WORKERS:
        with config.unlocked():
            config.workers = workers
        pipelines[workers] = iter(stages.make(config).batches())
        run(put(next(pipelines[workers])))  # compiles, and starts the workers
    return _Stage(config.stage, config.batch_size, run, put, pipelines)


def _train(stage: _Stage, workers: int) -> None:
    """A few steps as in training."""
    for _ in range(_STEPS):
        begin = time.perf_counter()
        batch = stage.put(next(stage.pipelines[workers]))
        arrived = time.perf_counter()
        stage.run(batch)
        stage.step_seconds.append(time.perf_counter() - arrived)
        stage.waits.setdefault(workers, []).append(arrived - begin)


def _drain(stage: _Stage, workers: int) -> None:
    """What the pipeline delivers when nothing else is done."""
    batches = stage.pipelines[workers]
    for _ in range(_READ_AHEAD):
        next(batches)
    begin, count = time.perf_counter(), _BATCHES[stage.name]
    for _ in range(count):
        next(batches)
    stage.rates.setdefault(workers, []).append(count * stage.batch_size / (time.perf_counter() - begin))


def _row(stage: _Stage, workers: int) -> dict[str, Any]:
    consumed = stage.batch_size / np.asarray(stage.step_seconds)
    delivered, waits = np.asarray(stage.rates[workers]), np.asarray(stage.waits[workers])
    return {
        "stage": stage.name,
        "sample": {"generator": "coded clips", "vae": "windows of rendered clips"}[stage.name],
        "batch_size": stage.batch_size,
        "workers": workers,
        "delivered": timing.summary(delivered),
        "consumed": timing.summary(consumed),
        "ratio": float(np.median(delivered) / np.median(consumed)),
        "waiting_share": float(np.median(waits) / (np.median(waits) + np.median(stage.step_seconds))),
        "delivered_by_round": delivered.tolist(),
        "step_seconds": list(stage.step_seconds),
        "wait_seconds": waits.tolist(),
    }
