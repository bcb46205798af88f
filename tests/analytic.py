"""A tiny textured room whose video, depth and poses are exact by construction.

For tests and demonstrations: numpy only, milliseconds a frame. The world is in metres with
x right, y down, z forward. Colours are smooth functions of the position on the surface, so
any two views of one point show one colour.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mirage_jax.data.clip import PosedClip
from mirage_jax.errors import UserError

_ROOM = np.array([[-3.0, -1.5, -4.0], [3.0, 1.5, 4.0]])  # low and high corner, seen from inside
_BOX = np.array([[-0.4, 0.3, -0.4], [0.4, 1.5, 0.4]])  # stands on the floor, moved sideways and forward
_CEILING = 1  # axis of the side that is open to the sky: low y is up
_SPHERE, _ACTOR = 0.5, 0.35  # radii of the ball that rests and of the one that moves
_SKY_TINT = np.array([0.2, 0.4, 1.0])
_FOCAL = 0.8  # focal length / width
_WAVES = 6
_CYCLES = 0.9  # highest spatial frequency of the texture, cycles a metre


@dataclasses.dataclass(frozen=True)
class _Texture:
    """Sum of plane waves: the colour of a point of space."""

    frequency: np.ndarray  # [waves, 3] cycles a metre
    phase: np.ndarray  # [waves, 3] radians, by colour channel

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Colours `[..., 3]` in 0..1 of points `[..., 3]`."""
        angle = 2 * np.pi * (points @ self.frequency.T)[..., None] + self.phase
        return 0.5 + 0.45 * np.sin(angle).mean(axis=-2) * np.sqrt(_WAVES / 2)


@dataclasses.dataclass(frozen=True)
class _World:
    """What is in the room."""

    box: np.ndarray  # [2, 3] low and high corner
    sphere: np.ndarray  # [3] centre
    wall: _Texture  # of everything that stands still
    ball: _Texture  # of what moves, in its own axes
    sky: bool


def scene(
    seed: int,
    frames: int = 17,
    height: int = 64,
    width: int = 64,
    *,
    sky: bool = True,
    moving: bool = False,
) -> PosedClip:
    """A camera wanders through a room with a sphere and a box.

    Args:
      seed: decides textures, objects and the path.
      frames, height, width: size of the video.
      sky: whether the room has no ceiling (depth inf there).
      moving: whether a ball crosses the view (its pixels are `dynamic`).

    Raises:
      UserError: if a size is not positive.
    """
    if min(frames, height, width) < 1:
        raise UserError(f"scene of {frames} frames of {height}x{width}: expected sizes of at least 1")
    rng = np.random.default_rng(seed)
    world = _world(rng, sky)
    intrinsics = np.array([[_FOCAL * width, 0, width / 2], [0, _FOCAL * width, height / 2], [0, 0, 1]], np.float32)
    poses = _path(frames, rng)
    across = np.linspace(-1.5, 1.5, frames)
    pictures, depths, masks = [], [], []
    for pose, x in zip(poses, across, strict=True):
        actor = np.array([x, 0.2, 1.2]) if moving else None
        picture, depth, mask = _render(world, actor, pose, intrinsics, height, width)
        pictures.append(picture)
        depths.append(depth)
        masks.append(mask)
    return PosedClip(
        frames=np.stack(pictures),
        depth=np.stack(depths).astype(np.float32),
        intrinsics=np.repeat(intrinsics[None], frames, axis=0),
        cam2world=poses,
        dynamic=np.stack(masks),
        caption="a textured room",
        source=f"analytic/seed{seed}",
    )


def _world(rng: np.random.Generator, sky: bool) -> _World:
    wall, ball = _texture(rng), _texture(rng)
    box = _BOX + np.array([rng.uniform(-2, 2), 0, rng.uniform(1.6, 2.6)])
    sphere = np.array([rng.uniform(-1.5, 1.5), rng.uniform(-0.9, 0.6), rng.uniform(2.0, 3.0)])
    return _World(box, sphere, wall, ball, sky)


def _texture(rng: np.random.Generator) -> _Texture:
    direction = rng.normal(size=(_WAVES, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return _Texture(direction * rng.uniform(0.2, _CYCLES, (_WAVES, 1)), rng.uniform(0, 2 * np.pi, (_WAVES, 3)))


def _path(frames: int, rng: np.random.Generator) -> np.ndarray:
    """`[frames, 4, 4]` float32 cam2world: a bend of up to a metre, yaw up to 30 and pitch up to 6 degrees."""
    s = np.linspace(0, 1, frames)
    end = rng.uniform(0.5, 1.0) * np.array([rng.choice([-1, 1]), 0.1, 0.6])
    position = np.array([0, 0, -1.5]) + np.outer(s, end) + np.outer(np.sin(np.pi * s), [0, -0.15, 0.1])
    yaw, pitch = np.deg2rad(rng.uniform(-30, 30)) * np.sin(np.pi * s / 2), np.deg2rad(rng.uniform(-6, 6)) * s
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    zero = np.zeros(frames)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, :3] = np.stack([cy, sy * sp, sy * cp, zero, cp, -sp, -sy, cy * sp, cy * cp], axis=1).reshape(-1, 3, 3)
    poses[:, :3, 3] = position
    return poses.astype(np.float32)


def _render(
    world: _World, actor: np.ndarray | None, pose: np.ndarray, intrinsics: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picture, z-depth and mask of the moving ball (centre `actor`) of one view, by ray casting.

    Rays have unit z in camera axes, so the ray parameter is the z-depth.
    """
    pose = pose.astype(np.float64)
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    pixels = np.stack([u, v, np.ones_like(u)], axis=-1)
    rays = pixels @ np.linalg.inv(intrinsics.astype(np.float64)).T @ pose[:3, :3].T
    origin = pose[:3, 3]

    _, leaves = _slabs(origin, rays, _ROOM)
    depth = leaves.min(axis=-1)
    open_ = world.sky & (leaves.argmin(axis=-1) == _CEILING) & (rays[..., _CEILING] < 0)
    enters, leaves = _slabs(origin, rays, world.box)
    at_box = np.where(enters.max(axis=-1) < leaves.min(axis=-1), enters.max(axis=-1), np.inf)
    still = np.minimum(np.where(at_box > 0, at_box, np.inf), _sphere(origin, rays, world.sphere, _SPHERE))
    at_actor = np.full(depth.shape, np.inf) if actor is None else _sphere(origin, rays, actor, _ACTOR)
    open_ &= np.minimum(still, at_actor) > depth
    depth = np.minimum(depth, still)
    moving = at_actor < depth
    depth = np.minimum(depth, at_actor)

    points = origin + rays * depth[..., None]
    colour = world.wall(points)
    if actor is not None:
        colour = np.where(moving[..., None], world.ball(points - actor), colour)
    direction = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    colour = np.where(open_[..., None], 0.7 + 0.3 * world.wall(direction) * _SKY_TINT, colour)
    picture = np.round(np.clip(colour, 0, 1) * 255).astype(np.uint8)
    return picture, np.where(open_, np.inf, depth), moving


def _slabs(origin: np.ndarray, rays: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ray parameters `[..., 3]` where rays enter and leave the slab of each axis of a box `[2, 3]`."""
    safe = np.where(np.abs(rays) < 1e-12, 1e-12, rays)
    at = (box[:, None, None] - origin) / safe
    return at.min(axis=0), at.max(axis=0)


def _sphere(origin: np.ndarray, rays: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    """Ray parameters `[...]` where rays first meet a sphere from outside, inf where they miss it."""
    to_centre = centre - origin
    a, b = (rays**2).sum(axis=-1), rays @ to_centre
    root = b**2 - a * (to_centre @ to_centre - radius**2)
    at = (b - np.sqrt(np.maximum(root, 0))) / a
    return np.where((root > 0) & (at > 0), at, np.inf)
