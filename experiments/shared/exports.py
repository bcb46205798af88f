"""A walk through a world in the formats that other programs read, each a file or a folder.

COLMAP models, nerfstudio folders, and camera paths of the usual kinds are read back by `geometry.pose_files`, where
their conventions are.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import struct
from collections.abc import Callable

import numpy as np
import PIL.Image
import scipy.spatial.transform

from mirage_jax import io, viz
from mirage_jax.geometry import Camera, pose_files

MOST_PICTURES = 300
"""Pictures of a COLMAP model or a nerfstudio folder; of a longer walk, so many are taken, spread evenly."""

_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
_PINHOLE = 1  # number of the camera model in binary files


@dataclasses.dataclass(frozen=True)
class Walk:
    """What is exported.

    Attributes:
      frames: uint8 `[T, H, W, 3]`.
      cameras: `Camera[T]` of numpy arrays, of the frames.
      points: float32 `[N, 3]` of the memory.
      colours: uint8 `[N, 3]`.
      fps: frames a second.
    """

    frames: np.ndarray
    cameras: Camera
    points: np.ndarray
    colours: np.ndarray
    fps: float

    def thinned(self) -> Walk:
        """The same with `MOST_PICTURES` frames at most."""
        count = len(self.frames)
        chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_PICTURES)).round().astype(int))
        return dataclasses.replace(self, frames=self.frames[chosen], cameras=self.cameras[chosen])


def _video(walk: Walk, folder: pathlib.Path) -> None:
    viz.write_video(folder / "video.mp4", walk.frames, fps=walk.fps)


def _path(walk: Walk, folder: pathlib.Path) -> None:
    pose_files.write_json(folder / "path" / "cameras.json", walk.cameras)
    write_paths(folder / "path", walk.cameras, fps=walk.fps)


def _points(walk: Walk, folder: pathlib.Path) -> None:
    viz.write_ply(folder / "memory.ply", walk.points, walk.colours)


def _colmap(walk: Walk, folder: pathlib.Path) -> None:
    thin = walk.thinned()
    write_colmap(folder / "colmap", thin.frames, thin.cameras, thin.points, thin.colours)


def _nerfstudio(walk: Walk, folder: pathlib.Path) -> None:
    thin = walk.thinned()
    write_nerfstudio(folder / "nerfstudio", thin.frames, thin.cameras, thin.points, thin.colours)


WRITERS: dict[str, tuple[str, Callable[[Walk, pathlib.Path], None]]] = {
    "video": ("video.mp4", _video),
    "path": ("path", _path),
    "ply": ("memory.ply", _points),
    "colmap": ("colmap", _colmap),
    "nerfstudio": ("nerfstudio", _nerfstudio),
}
"""Name of a format -> the file or folder that it makes, and what writes it into a folder."""


def write_pictures(folder: str | os.PathLike[str], frames: np.ndarray) -> list[str]:
    """Writes frames uint8 `[T, H, W, 3]` as `00000.png` and so on; their names."""
    names = [f"{index:05d}.png" for index in range(len(frames))]
    for name, frame in zip(names, frames, strict=True):
        with io.atomic_path(pathlib.Path(folder) / name) as temporary:
            PIL.Image.fromarray(frame).save(temporary, "PNG")
    return names


def write_colmap(
    folder: str | os.PathLike[str], frames: np.ndarray, cameras: Camera, points: np.ndarray, colors: np.ndarray
) -> None:
    """Writes `images/`, the binary model `sparse/0/` and the same as text in `sparse_text/0/`.

    Cameras of the same lens share a number. Points have no tracks: they were not matched but written.

    Args:
      folder: to write into.
      frames: uint8 `[T, H, W, 3]`.
      cameras: `Camera[T]` on the grid of the frames.
      points: `[N, 3]` finite world points.
      colors: `[N, 3]` uint8.
    """
    folder = pathlib.Path(folder)
    names = write_pictures(folder / "images", frames)
    lenses, which = np.unique(np.asarray(cameras.intrinsics, np.float64), axis=0, return_inverse=True)
    which = which.reshape(-1) + 1
    size = (cameras.width, cameras.height)
    parameters = [[k[0, 0], k[1, 1], k[0, 2], k[1, 2]] for k in lenses]
    poses = _world2cam(cameras)
    points, colors = np.asarray(points, np.float64), np.asarray(colors, np.uint8)
    _write_text_model(folder / "sparse_text" / "0", names, size, parameters, which, poses, points, colors)
    _write_binary_model(folder / "sparse" / "0", names, size, parameters, which, poses, points, colors)


def _write_text_model(folder, names, size, parameters, which, poses, points, colors) -> None:
    lines = [
        f"{number} PINHOLE {size[0]} {size[1]} {' '.join(map(repr, map(float, values)))}"
        for number, values in enumerate(parameters, 1)
    ]
    header = "# Camera list with one line of data per camera:\n#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]\n"
    io.write_text(folder / "cameras.txt", header + "\n".join(lines) + "\n")
    rows = []
    for index, name in enumerate(names):
        numbers = " ".join(repr(float(value)) for value in poses[index])
        rows += [f"{index + 1} {numbers} {which[index]} {name}", ""]
    header = (
        "# Image list with two lines of data per image:\n#   IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME\n"
        f"#   POINTS2D[] as (X, Y, POINT3D_ID)\n# Number of images: {len(names)}, mean observations per image: 0\n"
    )
    io.write_text(folder / "images.txt", header + "\n".join(rows) + "\n")
    rows = [
        f"{number} {x!r} {y!r} {z!r} {r} {g} {b} 0"
        for number, ((x, y, z), (r, g, b)) in enumerate(zip(points.tolist(), colors.tolist(), strict=True), 1)
    ]
    header = "# 3D point list with one line of data per point:\n#   POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[]\n"
    io.write_text(folder / "points3D.txt", header + "\n".join(rows) + "\n")


def _write_binary_model(folder, names, size, parameters, which, poses, points, colors) -> None:
    data = [struct.pack("<Q", len(parameters))]
    data += [struct.pack("<iiQQ4d", n, _PINHOLE, *size, *values) for n, values in enumerate(parameters, 1)]
    _write_bytes(folder / "cameras.bin", data)
    data = [struct.pack("<Q", len(names))]
    for index, name in enumerate(names):
        data += [
            struct.pack("<i7di", index + 1, *poses[index], which[index]),
            name.encode(),
            b"\0",
            struct.pack("<Q", 0),
        ]
    _write_bytes(folder / "images.bin", data)
    table = np.zeros(
        len(points), [("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8")]
    )
    table["id"], table["xyz"], table["rgb"] = np.arange(1, len(points) + 1), points, colors
    _write_bytes(folder / "points3D.bin", [struct.pack("<Q", len(points)), table.tobytes()])


def write_nerfstudio(
    folder: str | os.PathLike[str], frames: np.ndarray, cameras: Camera, points: np.ndarray, colors: np.ndarray
) -> None:
    """Writes `images/`, `transforms.json` and `points.ply`, as nerfstudio's datasets have them. See `write_colmap`."""
    folder = pathlib.Path(folder)
    names = write_pictures(folder / "images", frames)
    viz.write_ply(folder / "points.ply", points, colors)
    poses = np.asarray(cameras.cam2world, np.float64) @ _OPENGL_FROM_OPENCV
    entries = []
    for name, pose, k in zip(names, poses, np.asarray(cameras.intrinsics, np.float64), strict=True):
        lens = {"fl_x": k[0, 0], "fl_y": k[1, 1], "cx": k[0, 2], "cy": k[1, 2]}
        entries.append({"file_path": f"images/{name}", "transform_matrix": pose.tolist(), **lens})
    size = {"w": cameras.width, "h": cameras.height}
    head = {"camera_model": "PINHOLE", **size, "ply_file_path": "points.ply", "frames": entries}
    io.write_json(folder / "transforms.json", head)


def write_paths(folder: str | os.PathLike[str], cameras: Camera, *, fps: float) -> None:
    """Writes `tum.txt`, `kitti.txt`, `poses.npy`, `realestate.txt` and nerfstudio's `camera_path.json`.

    Args:
      folder: to write into.
      cameras: `Camera[T]`.
      fps: frames a second, for time stamps.
    """
    folder = pathlib.Path(folder)
    poses = np.asarray(cameras.cam2world, np.float64)
    quaternions = scipy.spatial.transform.Rotation.from_matrix(poses[:, :3, :3]).as_quat()
    lines = [
        _line([index / fps, *t, *q]) for index, (t, q) in enumerate(zip(poses[:, :3, 3], quaternions, strict=True))
    ]
    io.write_text(folder / "tum.txt", "\n".join(lines) + "\n")
    io.write_text(folder / "kitti.txt", "\n".join(_line(pose[:3].reshape(-1)) for pose in poses) + "\n")
    with io.atomic_path(folder / "poses.npy") as temporary:
        np.save(temporary, poses)
    k = np.asarray(cameras.intrinsics, np.float64) / np.array([cameras.width, cameras.height, 1.0])[:, None]
    rows = ["generated by mirage-jax"]
    for index, world2cam in enumerate(np.linalg.inv(poses)):
        lens = [k[index, 0, 0], k[index, 1, 1], k[index, 0, 2], k[index, 1, 2], 0.0, 0.0]
        rows.append(f"{round(index * 1e6 / fps)} {_line([*lens, *world2cam[:3].reshape(-1)])}")
    io.write_text(folder / "realestate.txt", "\n".join(rows) + "\n")
    focal = np.asarray(cameras.intrinsics, np.float64)[:, 1, 1]
    views = np.degrees(2 * np.arctan(0.5 * cameras.height / focal))
    keys = [
        {"camera_to_world": (pose @ _OPENGL_FROM_OPENCV).reshape(-1).tolist(), "fov": fov, "aspect": 1.0}
        for pose, fov in zip(poses, views.tolist(), strict=True)
    ]
    path = {"camera_type": "perspective", "render_height": cameras.height, "render_width": cameras.width}
    io.write_text(folder / "camera_path.json", json.dumps({**path, "fps": fps, "camera_path": keys}))


def _line(values) -> str:
    return " ".join(repr(float(value)) for value in values)


def _world2cam(cameras: Camera) -> np.ndarray:
    """`[T, 7]` quaternion `w x y z` and translation."""
    inverse = np.linalg.inv(np.asarray(cameras.cam2world, np.float64))
    rotation = scipy.spatial.transform.Rotation.from_matrix(inverse[:, :3, :3]).as_quat()
    return np.concatenate([rotation[:, [3, 0, 1, 2]], inverse[:, :3, 3]], axis=1)


def _write_bytes(path: pathlib.Path, parts: list[bytes]) -> None:
    with io.atomic_path(path) as temporary:
        temporary.write_bytes(b"".join(parts))
