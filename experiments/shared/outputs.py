"""What a generated world leaves behind beside its video: memory as coloured points, cameras, report."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np

from experiments.shared import cli
from mirage_jax import io, viz
from mirage_jax.geometry import Camera, pose_files
from mirage_jax.memory import latent
from mirage_jax.memory.points import PointMemory
from mirage_jax.memory.things import entities
from mirage_jax.world import RolloutState, SegmentOutput, WorldConfig

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


MOVING = (255, 0, 255)
"""Colour of things that move, where what they look like is not shown."""


def clear(out: pathlib.Path) -> None:
    """Removes what an earlier run left in `out`, so that nothing there contradicts what is written next."""
    for name in RESULTS:
        (out / name).unlink(missing_ok=True)


def write_results(
    out: pathlib.Path, config: WorldConfig, cameras: Camera, state: RolloutState, report: dict[str, Any]
) -> None:
    """Writes `memory.ply`, `cameras.json` and `report.json` into `out`, where `video.mp4` is.

    Args:
      out: an existing folder.
      config: of the world.
      cameras: `Camera[T]` of the frames of the video, the first view included.
      state: of the world at the end; the things that move in it are magenta in `memory.ply`, where they are by now.
      report: the measured part of the report; versions and the memory's size are added here.
    """
    memory = state.memory
    pose_files.write_json(out / "cameras.json", cameras)
    clouds = [coloured_points(config, memory, out / "video.mp4", cameras)]
    if state.entities is not None:
        things = np.asarray(entities.cells_now(state.entities, state.entities.clock - 1))
        clouds.append((things[np.isfinite(things).all(-1)], np.array(MOVING, np.uint8)))
    points = np.concatenate([points for points, _ in clouds])
    viz.write_ply(out / "memory.ply", points, np.concatenate([np.broadcast_to(c, p.shape) for p, c in clouds]))
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
    config: WorldConfig, memory: PointMemory, video: pathlib.Path, cameras: Camera
) -> tuple[np.ndarray, np.ndarray]:
    """The points of the memory with the colour they have in the generated video, which is read frame by frame.

    Each point takes the mean colour of the cell it is read into, in the latest latent frame that shows it. Points that
    no frame shows, and directions (sky), are left out.

    Returns:
      `[N, 3]` float32 points and `[N, 3]` uint8 colours.
    """
    step = config.model.vae.stride_time
    grid = (config.model.height, config.model.width) if config.memory == "rgb" else config.grid
    colours = np.zeros((memory.capacity, 3), np.uint8)
    shown = np.zeros(memory.capacity, bool)
    for at, frame in enumerate(viz.decoded(video)):
        if at % step:
            continue
        slot = np.asarray(_read(memory, cameras[at : at + 1].resized(*grid)))[0]
        seen = slot >= 0
        colours[slot[seen]] = _cell_means(frame.to_ndarray(format="rgb24"), *grid)[seen]
        shown[slot[seen]] = True
    shown &= np.asarray(memory.points[:, 3]) == 1
    return np.asarray(memory.points[:, :3])[shown], colours[shown]


def diagnostics(output: SegmentOutput) -> dict[str, Any]:
    """The diagnostics of one segment, as JSON values."""
    d = output.diagnostics
    return {
        "visible": [round(float(v), 4) for v in np.asarray(d.visible)],
        "points_added": int(d.points),
        "overflow": int(d.overflow),
        "depth_scale": round(float(d.depth_scale), 4),
        "depth_shift": round(float(d.depth_shift), 5),
        "depth_residual": round(float(d.depth_residual), 4),
        "depth_compared": int(d.compared),
        "frames_refused": round(float(d.refused), 4),
        "kept": round(float(d.kept), 4),
        "moving": round(float(d.moving), 4),
        "points_retired": int(d.retired),
        "references": int(d.references),
        "generator_passes": int(d.passes),
        "entities": int(d.entities),
        "entities_confirmed": int(d.confirmed),
        "entities_refuted": int(d.refuted),
        "entities_unseen_frames": round(float(d.unseen), 2),
    }


@jax.jit
def _read(memory: PointMemory, camera: Camera) -> jax.Array:
    return latent.read(memory, camera).index


def _cell_means(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns, _ = frame.shape
    cells = frame.reshape(height, rows // height, width, columns // width, 3)
    return np.round(cells.mean((1, 3), dtype=np.float32)).astype(np.uint8)
