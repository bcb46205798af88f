"""Videos of other systems: what such a system needs to make them, and finding what it made.

A system gets `CASES/ID/first.png` and `CASES/ID/cameras.json` (every frame's camera, the first picture's included), and
leaves `DIR/ID.mp4`, or `DIR/SYSTEM/ID.mp4` where several are to be compared: the first picture, then a frame for each
further camera.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from experiments.evaluation import runner, video
from mirage_jax import io, viz
from mirage_jax.data.clip import PosedClip
from mirage_jax.errors import UserError
from mirage_jax.evaluation.truth import camera_of
from mirage_jax.geometry import pose_files


def export_case(folder: Path, clip: PosedClip, fps: float) -> dict[str, Any]:
    """Writes the first frame and the cameras of a clip below `folder`.

    Returns:
      Its line in `cases.json`: `id`, `clip`, `frames`, `height`, `width`, `fps`, `caption`.
    """
    name = runner.clip_id(clip.source)
    with io.atomic_path(folder / name / "first.png") as temporary:
        PIL.Image.fromarray(clip.frames[0]).save(temporary, format="PNG")
    pose_files.write_json(folder / name / "cameras.json", camera_of(clip))
    frames, height, width, _ = clip.frames.shape
    size = {"frames": frames, "height": height, "width": width, "fps": fps}
    return {"id": name, "clip": clip.source, **size, "caption": clip.caption}


def find_systems(folder: str | Path, sources: Iterable[str]) -> dict[str, Path]:
    """Folders of videos by system.

    Args:
      folder: given by the user.
      sources: of all clips that could have a video.

    Returns:
      system -> folder with its videos: each folder below that has a video of a clip, and `folder` itself, under its own
      name, if it has one.

    Raises:
      UserError: if there is no video of any clip.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"--videos {folder}: no such folder")
    names = {f"{runner.clip_id(source)}.mp4" for source in sources}
    candidates = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    found = {path.resolve().name: path for path in candidates if any((path / name).is_file() for name in names)}
    if not found:
        raise UserError(
            f"--videos {folder}: no video of any of the {len(names)} clips, there or one folder below; expected names "
            f"like {min(names)}"
        )
    return found


def load(system: str, folder: Path, clip: PosedClip) -> np.ndarray:
    """The video that a system made of a clip, cut to its length.

    Returns:
      uint8 `[T, H, W, 3]`, as the clip's frames.

    Raises:
      UserError: if it is missing, damaged, shorter than the clip or of another size.
    """
    path = folder / f"{runner.clip_id(clip.source)}.mp4"
    if not path.is_file():
        raise UserError(f"{system}: no video {path}")
    frames = viz.read_video(path)
    count, height, width, _ = clip.frames.shape
    if frames.shape[1:3] != (height, width):
        raise UserError(f"{system}: {path} is {frames.shape[2]}x{frames.shape[1]} pixels, the clip {width}x{height}")
    if len(frames) < count:
        raise UserError(f"{system}: {path} has {len(frames)} frames, the clip {count}")
    return frames[:count]


def score(systems: Mapping[str, Path], clip: PosedClip, refused: list[str]) -> list[runner.Row]:
    """Rows of one clip: of the truth, and of every system that has a video of it.

    Args:
      systems: of `find_systems`.
      clip: the truth.
      refused: gets a sentence for each video that cannot be scored.
    """
    rows = runner.truth_rows(clip)
    for system, folder in systems.items():
        try:
            frames = load(system, folder, clip)
        except UserError as error:
            refused.append(str(error))
            continue
        rows += runner.video_rows(system, 0, video.score(frames, clip))
    return rows


def forget_incomplete(out: Path, sources: Iterable[str], systems: Iterable[str]) -> None:
    """Removes the results of clips of which some system has no score, so that they are scored again."""
    wanted = set(systems)
    for result in runner.results(out, sources):
        if wanted - {row["method"] for row in result["rows"]}:
            runner.result_file(out, result["clip"]).unlink()
