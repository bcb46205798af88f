"""What a generated world leaves behind: video, contact sheet, memory as coloured points, cameras, report."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.shared import cli
from mirage_jax import io, viz
from mirage_jax.geometry import Camera, pose_files
from mirage_jax.memory import latent
from mirage_jax.memory.points import PointMemory
from mirage_jax.world import SegmentOutput, WorldConfig

RESULTS = (
    "video.mp4",
    "contact_sheet.png",
    "memory.ply",
    "cameras.json",
    "report.json",
    "path.png",
    "config.json",
    "versions.json",
)
"""Files of a run."""


def clear(out: pathlib.Path) -> None:
    """Removes what an earlier run left in `out`, so that nothing there contradicts what is written next."""
    for name in RESULTS:
        (out / name).unlink(missing_ok=True)


def write_results(
    out: pathlib.Path,
    config: WorldConfig,
    frames: np.ndarray,
    cameras: Camera,
    memory: PointMemory,
    report: dict[str, Any],
) -> None:
    """Writes `video.mp4`, `contact_sheet.png`, `memory.ply`, `cameras.json` and `report.json` into `out`.

    Args:
      out: an existing folder.
      config: of the world.
      frames: uint8 `[T, H, W, 3]`, the first view included.
      cameras: `Camera[T]` of the frames.
      memory: at the end.
      report: the measured part of the report; versions and the memory's size are added here.
    """
    viz.write_video(out / "video.mp4", frames, fps=config.model.fps)
    viz.contact_sheet(out / "contact_sheet.png", frames)
    pose_files.write_json(out / "cameras.json", cameras)
    points, colors = coloured_points(config, memory, frames, cameras)
    viz.write_ply(out / "memory.ply", points, colors)
    size = latent.nbytes(memory)
    io.write_json(
        out / "report.json",
        {
            **report,
            "memory": {
                "kind": config.memory,
                "points": int(memory.size),
                "capacity": memory.capacity,
                "bytes": size["held"],
                "allocated_bytes": size["allocated"],
                "overflow": int(memory.overflow),
            },
            "versions": cli.versions(),
        },
    )


def coloured_points(
    config: WorldConfig, memory: PointMemory, frames: np.ndarray, cameras: Camera
) -> tuple[np.ndarray, np.ndarray]:
    """The points of the memory with the colour they have in the generated video.

    Each point takes the mean colour of the cell it is read into, in the latest latent frame that shows it. Points that
    no frame shows, and directions (sky), are left out.

    Returns:
      `[N, 3]` float32 points and `[N, 3]` uint8 colours.
    """
    step = config.model.vae.stride_time
    grid = (config.model.height, config.model.width) if config.memory == "rgb" else config.grid
    colours = np.zeros((memory.capacity, 3), np.uint8)
    shown = np.zeros(memory.capacity, bool)
    at = np.arange(0, len(frames), step)
    small = np.asarray(_area_mean(frames[at], *grid))
    read = jax.jit(lambda camera: latent.read(memory, camera).index)
    for row, index in enumerate(at):
        slot = np.asarray(read(cameras[index : index + 1].resized(*grid)))[0]
        seen = slot >= 0
        colours[slot[seen]] = small[row][seen]
        shown[slot[seen]] = True
    shown &= np.asarray(memory.points[:, 3]) == 1
    return np.asarray(memory.points[:, :3])[shown], colours[shown]


def diagnostics(output: SegmentOutput) -> list[dict[str, Any]]:
    """The diagnostics of a rollout, one row per segment, as JSON values."""
    d = output.diagnostics
    return [
        {
            "visible": [round(float(v), 4) for v in np.asarray(d.visible[s])],
            "points_added": int(d.points[s]),
            "overflow": int(d.overflow[s]),
            "depth_scale": round(float(d.depth_scale[s]), 4),
            "depth_shift": round(float(d.depth_shift[s]), 5),
            "depth_residual": round(float(d.depth_residual[s]), 4),
            "depth_compared": int(d.compared[s]),
            "frames_refused": round(float(d.refused[s]), 4),
            "kept": round(float(d.kept[s]), 4),
            "moving": round(float(d.moving[s]), 4),
            "points_retired": int(d.retired[s]),
            "references": int(d.references[s]),
            "entities": int(d.entities[s]),
            "entities_confirmed": int(d.confirmed[s]),
            "entities_refuted": int(d.refuted[s]),
            "entities_unseen_frames": round(float(d.unseen[s]), 2),
        }
        for s in range(len(d.points))
    ]


@jax.jit
def _mean_over(blocks: jax.Array) -> jax.Array:
    return jnp.round(blocks.astype(jnp.float32).mean((2, 4))).astype(jnp.uint8)


def _area_mean(frames: np.ndarray, height: int, width: int) -> jax.Array:
    count, rows, columns, _ = frames.shape
    return _mean_over(jnp.asarray(frames).reshape(count, height, rows // height, width, columns // width, 3))
