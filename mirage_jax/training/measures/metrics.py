"""Metrics of a run: one JSON line a log step, TensorBoard events, pictures, starts, and the record at the end."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from PIL import Image
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2

from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.training import checkpoint


class MetricWriter:
    """Writes `losses.jsonl`, `starts.jsonl`, TensorBoard events and `previews/` in a run's folder.

    Process 0 alone writes. Lines after `first_step` are dropped when a run resumes, so that the file is the one curve
    of the run that counts.

    Every method raises `UserError` if the disk is full.
    """

    def __init__(self, workdir: pathlib.Path, first_step: int):
        self._workdir = workdir
        self._path = workdir / "losses.jsonl"
        self._speaks = jax.process_index() == 0
        if not self._speaks:
            return
        with _clear_about_disk(self._path):
            kept = [row for row in rows(self._path) if row["step"] <= first_step]
            io.write_text(self._path, "".join(json.dumps(row) + "\n" for row in kept))
            self._productive = sum(row.get("productive_seconds", 0.0) for row in kept)
            start = {
                "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "after_step": first_step,
                "processes": jax.process_count(),
                "devices": jax.device_count(),
            }
            with (workdir / "starts.jsonl").open("a") as file:
                file.write(json.dumps(start) + "\n")
            begun = datetime.datetime.fromisoformat(rows(workdir / "starts.jsonl")[0]["time"])
            self._begun = begun.timestamp()
            self._file = self._path.open("a")
            self._events = _Events(workdir / "events", first_step)
        self._last = time.time()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one line and one TensorBoard point per value.

        Where `productive_seconds` is among them, also `goodput`: of the time since the run was first started, the share
        that went into steps which count: not into starting, compiling or checkpoints. What a killed run had done since
        its last checkpoint, and the time until it was started again, is lost.
        """
        if not self._speaks:
            return
        now = time.time()
        if "productive_seconds" in values:
            self._productive += values["productive_seconds"]
            values = {**values, "goodput": self._productive / max(now - self._begun, 1e-9)}
        with _clear_about_disk(self._path):
            self._file.write(json.dumps({"step": step, **values, "seconds": round(now - self._last, 2)}) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self._events.add(step, *(summary.scalar(name, value) for name, value in values.items()))
        self._last = now

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Keeps pictures, uint8 `[H, W, 3]`."""
        for name, picture in pictures.items() if self._speaks else ():
            path = self._workdir / "previews" / f"{name}_{step:07d}.png"
            with _clear_about_disk(path):
                self._events.add(step, summary.image(name, picture, dataformats="HWC"))
                with io.atomic_path(path) as file:
                    Image.fromarray(picture).save(file)

    def close(self) -> None:
        """Flushes everything."""
        if self._speaks:
            self._file.close()
            self._events.close()


class _Events:
    """A TensorBoard file, written in the caller's thread.

    A `SummaryWriter` writes in a thread of its own; once that has met a full disk, it is gone, its queue fills up, and
    the run hangs. Here the caller gets the error.
    """

    def __init__(self, folder: pathlib.Path, first_step: int):
        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")  # two starts, two files
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)  # what an earlier start wrote after it is void
        self._write(event_pb2.Event(step=first_step + 1, session_log=start))

    def add(self, step: int, *parts: Any) -> None:
        """Writes the values of these summaries as of one step."""
        values = [value for part in parts for value in part.value]
        self._write(event_pb2.Event(step=step, summary=summary_pb2.Summary(value=values)))

    def close(self) -> None:
        self._writer.close()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
        self._writer.flush()


def rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON lines; a run that was killed may have left half of one."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def total(counters: Mapping[str, float]) -> dict[str, float]:
    """Counters of each process, added up over all; every process must call it with the same names."""
    if jax.process_count() == 1 or not counters:
        return {name: float(value) for name, value in counters.items()}
    names = sorted(counters)
    everywhere = multihost_utils.process_allgather(np.array([float(counters[name]) for name in names]))
    return dict(zip(names, everywhere.sum(0).tolist(), strict=True))


def record(config: Any, parameters: int, workdir: pathlib.Path) -> dict[str, Any]:
    """What a reader of the training record wants to know: config, size, time, throughput, restarts, device."""
    lines = rows(workdir / "losses.jsonl")
    seconds = sum(row["seconds"] for row in lines)
    steps = lines[-1]["step"] if lines else 0
    return {
        "config": json.loads(config.to_json_best_effort()),
        "parameters": parameters,
        "steps": steps,
        "seconds": round(seconds, 1),
        "steps_per_second": round(steps / seconds, 4) if seconds else 0.0,
        "restarts": max(len(rows(workdir / "starts.jsonl")) - 1, 0),
        "final": lines[-1] if lines else {},
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "jax": jax.__version__,
    }


@contextlib.contextmanager
def _clear_about_disk(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not checkpoint.disk_full(error):
            raise
        raise UserError(
            f"{path}: the disk is full; make room and give the same command again, it goes on from its last checkpoint"
        ) from error
