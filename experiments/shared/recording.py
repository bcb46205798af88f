"""A video in the making: frames are coded as they come, and a run that is killed goes on from its last save.

Until the video is there, `OUT/unfinished/` holds what is made of it: parts, each a video of its own with a record of
its segments, the frames of the contact sheet, and the world that the last save left. A save is there when its world is,
which is written last; a part of later segments is begun anew. So parts begin and end where they would have without a
stop, and the frames are the same.
"""

from __future__ import annotations

import contextlib
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image

from mirage_jax import io, viz
from mirage_jax.errors import UserError
from mirage_jax.weights import world_files

FOLDER = "unfinished"

_WORLD, _RUN = "world.safetensors", "run.json"


class Recording:
    """The video of one run.

    Use it as a context manager around what makes the frames: an error there leaves the last save as it is.

    Attributes:
      saved: the world of the last save, None before one.
      made: segments that are in it.
      rows: what was measured of each segment, as JSON values.
      notes: sentences on the segments.
    """

    def __init__(self, out: pathlib.Path, *, frames: int, fps: float, resume: bool):
        """Looks for what an earlier run left in `out`, and writes nothing yet.

        Args:
          out: folder of the results.
          frames: that the whole video will have.
          fps: frames a second.
          resume: whether to go on with it.

        Raises:
          UserError: if there is a save and nothing says what to do with it, or what there is is damaged.
        """
        self.rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.made = 0
        self.saved: world_files.SavedWorld | None = None
        self._folder, self._fps, self._frames = out / FOLDER, fps, 0
        self._sheet = frozenset(viz.evenly(frames))
        self._parts: list[pathlib.Path] = []
        self._writer = contextlib.ExitStack()
        self._write: Callable[[np.ndarray], None] | None = None
        self._part = {"segments": [], "notes": []}
        if not (self._folder / _WORLD).exists():
            if resume and (out / "video.mp4").exists():
                raise UserError(f"--resume: {out} holds a finished video, and nothing unfinished to go on with")
            return
        if not resume:
            raise UserError(
                f"{self._folder} holds a video that was not finished: give --resume to go on with it, or remove the "
                "folder to begin anew"
            )
        self.saved = world_files.read(self._folder / _WORLD)
        self._read_parts()

    def begin(self, run: Mapping[str, Any]) -> None:
        """Makes the folder, or checks that the run that goes on is the one that was stopped.

        Args:
          run: what decides the frames, as JSON values.

        Raises:
          UserError: naming what differs.
        """
        if self.saved is None:
            shutil.rmtree(self._folder, ignore_errors=True)
            io.write_json(self._folder / _RUN, dict(run))
            return
        before = io.read_json_object(self._folder / _RUN)
        for name in run:
            if before.get(name) != run[name]:
                raise UserError(
                    f"--resume: {name} is {io.shown(run[name])}, in the run that was stopped it was "
                    f"{io.shown(before.get(name))}; go on with that, or remove {self._folder} to begin anew"
                )

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._writer.__exit__(*error)

    def add(self, frames: np.ndarray) -> None:
        """Codes uint8 `[n, H, W, 3]`, the next frames; none are fine."""
        if not len(frames):
            return
        if self._write is None:
            self._parts.append(self._folder / f"part-{len(self._parts):05d}.mp4")
            self._write = self._writer.enter_context(viz.video_writer(self._parts[-1], fps=self._fps))
        self._write(frames)
        for frame in frames:
            if self._frames in self._sheet:
                with io.atomic_path(self._still(self._frames)) as temporary:
                    PIL.Image.fromarray(frame).save(temporary)
            self._frames += 1

    def add_segment(self, frames: np.ndarray, row: dict[str, Any], notes: Sequence[str]) -> None:
        """`add`, with what was measured of the segment and sentences on it."""
        self.add(frames)
        self._part["segments"].append(row)
        self._part["notes"] += notes

    def save(self, config: Any, state: Any, weights: str) -> None:
        """Ends a part of the video, and saves the world that it ends in, as `world_files.save` does."""
        self._end_part()
        world_files.save(self._folder / _WORLD, config, state, weights)

    def finish(self, video: pathlib.Path, sheet: pathlib.Path) -> None:
        """Writes the whole video and the contact sheet."""
        self._end_part()
        viz.join_videos(video, self._parts)
        numbers = sorted(self._sheet)
        stills = np.stack([np.asarray(PIL.Image.open(self._still(number))) for number in numbers])
        viz.contact_sheet(sheet, stills, numbers=numbers)

    def discard(self) -> None:
        """Removes the unfinished video, once all results are there."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end_part(self) -> None:
        if self._write is None:
            return
        self._writer.close()
        self._write = None
        io.write_json(self._parts[-1].with_suffix(".json"), self._part | {"frames": self._frames})
        self._take(self._part)

    def _take(self, part: Mapping[str, Any]) -> None:
        self.rows += part["segments"]
        self.notes += part["notes"]
        self.made = len(self.rows)
        self._part = {"segments": [], "notes": []}

    def _read_parts(self) -> None:
        """What lies before the save. There may be a part that was ended after it, which is made again."""
        run = io.read_json_object(self._folder / _RUN)
        with io.foreign(self._folder, "a video that was not finished"):
            begun, until = run["begun"], self.saved.segments
            while begun + self.made < until:
                part = self._folder / f"part-{len(self._parts):05d}.mp4"
                record = io.read_json_object(part.with_suffix(".json"))
                if not part.is_file() or not record["segments"]:
                    raise UserError(f"{part} is missing: what is in {self._folder} cannot be gone on with")
                self._parts.append(part)
                self._frames = record["frames"]
                self._take(record)
            if begun + self.made != until:
                raise UserError(f"{self._folder}: its parts do not end where its world does")

    def _still(self, number: int) -> pathlib.Path:
        return self._folder / f"frame-{number:06d}.png"
