"""A clip for tests of what a camera sees again: it turns in place amid a sphere."""

import numpy as np

from mirage_jax.data.clip import PosedClip

SIZE = 32


def turning(degrees):
    """A camera 90 degrees across amid a sphere of 5 m, at the given headings; colours tell directions apart."""
    count = len(degrees)
    poses = np.tile(np.eye(4, dtype=np.float32), (count, 1, 1))
    for pose, yaw in zip(poses, np.radians(degrees), strict=True):
        pose[0, [0, 2]] = np.cos(yaw), np.sin(yaw)
        pose[2, [0, 2]] = -np.sin(yaw), np.cos(yaw)
    column, row = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    ray = np.stack([column / 16 - 1, row / 16 - 1, np.ones_like(row)], axis=-1)
    unit = ray / np.linalg.norm(ray, axis=-1, keepdims=True)
    directions = np.einsum("tij,hwj->thwi", poses[:, :3, :3], unit)
    return PosedClip(
        frames=np.round(127.5 + 127.5 * np.sin(3 * directions)).astype(np.uint8),
        depth=np.tile((5.0 * unit[..., 2]).astype(np.float32), (count, 1, 1)),
        intrinsics=np.tile(np.array([[16, 0, 16], [0, 16, 16], [0, 0, 1]], np.float32), (count, 1, 1)),
        cam2world=poses,
        dynamic=np.zeros((count, SIZE, SIZE), bool),
        caption="",
        source="sphere/1/turn",
    )
