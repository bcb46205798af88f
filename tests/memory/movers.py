"""Balls that move in an empty room, on the latent grid, exact by construction: depth, masks, tokens and true tracks."""

from __future__ import annotations

import dataclasses

import numpy as np

from mirage_jax.geometry import Camera

ROOM = np.array([[-8.0, -1.5, -2.0], [8.0, 1.5, 9.0]])
CHANNELS = 6


@dataclasses.dataclass
class Movie:
    """`T` frames of `h x w` cells."""

    features: np.ndarray
    depth: np.ndarray
    moving: np.ndarray
    cameras: Camera
    ball: np.ndarray  # int [T, h, w], which ball is seen, -1 for none
    tracks: np.ndarray  # [B, T, 3]


def film(tracks, yaw, *, radius=0.5, wall=None, grid=(32, 32), position=(0.0, 0.0, 0.0)):
    """Renders balls `[B, T, 3]` (NaN: not there) for a camera that turns by `yaw` degrees `[T]`.

    Args:
      wall: optional box `[2, 3]`, low and high corner, which hides what is behind it.
    """
    tracks = np.asarray(tracks, np.float64)
    height, width = grid
    focal = 0.8 * width
    intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([(column - width / 2) / focal, (row - height / 2) / focal, np.ones(grid)], -1)
    rng = np.random.default_rng(0)
    look = rng.normal(size=(len(tracks) + 1, CHANNELS))
    features, depth, ball, poses = [], [], [], []
    for t, degrees in enumerate(yaw):
        angle = np.deg2rad(degrees)
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        origin, direction = np.asarray(position), rays @ turn.T
        with np.errstate(divide="ignore"):
            z = np.where(direction > 0, (ROOM[1] - origin) / direction, (ROOM[0] - origin) / direction).min(-1)
            if wall is not None:
                low, high = ((np.asarray(side) - origin) / direction for side in wall)
                enter, leave = np.minimum(low, high).max(-1), np.maximum(low, high).min(-1)
                z = np.where((enter < leave) & (enter > 0), np.minimum(z, enter), z)
        which = np.full(grid, -1)
        for number, track in enumerate(tracks):
            if np.isnan(track[t]).any():
                continue
            offset = track[t] - origin
            a, b, c = (direction**2).sum(-1), direction @ offset, offset @ offset - radius**2
            inside = b**2 - a * c
            near = np.where(inside > 0, (b - np.sqrt(np.maximum(inside, 0))) / a, np.inf)
            hit = (near > 0) & (near < z)
            z, which = np.where(hit, near, z), np.where(hit, number, which)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = turn, origin
        poses.append(pose)
        depth.append(z)
        ball.append(which)
        features.append(look[which])
    count = len(poses)
    cameras = Camera(
        np.tile(intrinsics, (count, 1, 1)).astype(np.float32), np.stack(poses).astype(np.float32), height, width
    )
    ball = np.stack(ball)
    return Movie(
        np.stack(features).astype(np.float32), np.stack(depth).astype(np.float32), ball >= 0, cameras, ball, tracks
    )


def line(start, velocity, frames):
    """`[T, 3]` straight and steady."""
    return np.asarray(start) + np.arange(frames)[:, None] * np.asarray(velocity)


def away_and_back(look, away, back, angle=100.0):
    """Yaw of a camera that looks, turns away and returns, each for so many frames."""
    return np.concatenate([np.zeros(look), np.full(away, angle), np.zeros(back)])
