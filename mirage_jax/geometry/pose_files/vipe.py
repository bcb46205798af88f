"""Results of ViPE: `pose.npz` and `intrinsics.npz` with `inds` and `data`.

`data` is camera-to-world `[N, 4, 4]` (OpenCV axes) and `fx fy cx cy` `[N, 4]` in pixels; `inds`
are frame numbers. The files lie side by side, or as ViPE writes them in `pose/NAME.npz` and
`intrinsics/NAME.npz`. They do not say how large the images are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.geometry.pose_files import checks
from mirage_jax.geometry.pose_files.record import Record


def pose_path(folder: Path) -> Path | None:
    """The pose file in a folder of ViPE results, or None if this is not one."""
    if (folder / "pose.npz").exists():
        return folder / "pose.npz"
    poses = sorted((folder / "pose").glob("*.npz"))
    if len(poses) > 1:
        raise UserError(f"{folder} holds ViPE results of {len(poses)} videos; expected one: name its pose file")
    return poses[0] if poses else None


def read(path: Path) -> Record:
    """Reads a ViPE pose file and the intrinsics that go with it.

    Raises `UserError` if one is missing or not in the format, frames lack intrinsics, or a pose is not rigid.
    """
    beside = path.with_name("intrinsics.npz")
    other = beside if path.name == "pose.npz" else path.parent.parent / "intrinsics" / path.name
    pose_frames, poses = _sorted(path, (None, 4, 4))
    focal_frames, focals = _sorted(other, (None, 4))
    missing = np.setdiff1d(pose_frames, focal_frames)
    if missing.size:
        raise UserError(f"{other} has no intrinsics for frame {missing[0]}, which has a pose in {path}")
    return Record(
        format="ViPE results",
        path=path,
        source=str(other),
        cam2world=checks.rigid(str(path), "data", poses),
        intrinsics=checks.pinhole(*focals[np.searchsorted(focal_frames, pose_frames)].T),
        names=tuple(str(frame) for frame in pose_frames),
    )


def _sorted(path: Path, shape: tuple[int | None, ...]) -> tuple[np.ndarray, np.ndarray]:
    """`inds` and `data` in the order of `inds`."""
    arrays = io.Arrays(path)
    frames = checks.array(str(path), "inds", arrays["inds"], (None,))
    values = checks.array(str(path), "data", arrays["data"], shape)
    if (frames < 0).any() or (frames > 1e9).any() or (frames % 1 != 0).any():
        raise UserError(f"{path}: 'inds' holds {frames.min():g} to {frames.max():g}; expected frame numbers from 0")
    if len(frames) != len(values) or len(np.unique(frames)) != len(frames):
        raise UserError(
            f"{path}: there are {len(frames)} 'inds' for {len(values)} 'data'; expected one each, all different"
        )
    order = np.argsort(frames)
    return frames.astype(int)[order], values[order]
