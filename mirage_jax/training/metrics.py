"""Metrics of a run: one JSON line a log step, TensorBoard events, preview pictures."""

from __future__ import annotations

import json
import os
import pathlib
import time

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

from mirage_jax import io


class MetricWriter:
    """Writes `losses.jsonl`, TensorBoard events and `previews/` in a run's folder.

    Lines after `first_step` are dropped when a run resumes, so that the file is the one curve of the run that
    counts.
    """

    def __init__(self, workdir: pathlib.Path, first_step: int):
        self._workdir = workdir
        self._path = workdir / "losses.jsonl"
        kept = []
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:  # the last line of a run that was killed while writing it
                    continue
                if row["step"] <= first_step:
                    kept.append(line)
        io.write_text(self._path, "".join(line + "\n" for line in kept))
        self._file = self._path.open("a")
        self._events = SummaryWriter(str(workdir / "events"), purge_step=first_step + 1)
        self._last = time.time()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds one line and one TensorBoard point per value."""
        now = time.time()
        self._file.write(json.dumps({"step": step, **values, "seconds": round(now - self._last, 2)}) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._last = now
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Keeps a picture, uint8 `[H, W, 3]`."""
        self._events.add_image(name, picture, step, dataformats="HWC")
        with io.atomic_path(self._workdir / "previews" / f"{name}_{step:07d}.png") as file:
            Image.fromarray(picture).save(file)

    def close(self) -> None:
        """Flushes everything."""
        self._file.close()
        self._events.close()
