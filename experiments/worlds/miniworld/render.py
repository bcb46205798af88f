"""Renders one verified clip of a random room, or says why not."""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.worlds import clips, paths
from experiments.worlds.batch import RejectedError
from experiments.worlds.miniworld import scenes
from experiments.worlds.miniworld.canvas import Canvas, any_of
from experiments.worlds.miniworld.scenes import MOTION, MOVERS, SPLITS, Mover
from mirage_jax.data.clip import PosedClip

_PROBES = 9  # frames that are looked at before a clip is rendered
_MIN_DEPTH = 1.2  # metres, median of a frame
_SEEN = 0.004  # share of a frame's pixels from which an object counts as seen
_MIN_BRIGHTNESS = 0.12
_MIN_CONTRAST = 0.05  # standard deviation of a clip's colours
_CAPTION = {
    "walk": "walking through a room",
    "look_away": "looking away and back in a room",
    "there_and_back": "walking through a room and back",
    "closed_loop": "walking round in a room",
    "orbit": "moving sideways in a room",
}


def render(
    canvas: Canvas, probe: Canvas, split: str, kind: str, motion: str, *, frames: int, seed: int
) -> tuple[PosedClip, dict[str, float]]:
    """Renders one clip.

    Args:
      canvas: of the size of the frames.
      probe: a small one, to look at a few frames first.
      split: one of `scenes.SPLITS`; no scene of one is in another.
      kind: one of `scenes.KINDS`.
      motion: one of `scenes.MOTION`.
      frames: length of the clip.
      seed: decides everything random; below 2^31.

    Returns:
      The clip, with `background`, `instances` and `tracks` (of `MOVERS` objects, NaN where there are fewer), and its
      verification residuals.

    Raises:
      RejectedError: with the reason, if this seed gives no good clip.
    """
    rng = np.random.default_rng([SPLITS[split], seed])
    room = scenes.scene(rng)
    path = paths.plan(kind, scenes.FreeSpace(room), frames, rng)
    if path is None:
        raise RejectedError("no free path")
    positions, headings = path.positions / paths.UNITS_PER_METRE * [1, -1], np.deg2rad(path.angles)
    low, high = MOTION[motion]
    if motion != "none":
        share = rng.uniform(low, high) * (2.5 if kind == "look_away" else 1.5)  # they are in view part of the time only
        moving = scenes.movers(rng, room, positions[0], headings[0], frames, min(share, 0.6))
        if not moving:
            raise RejectedError("no room to move")
        if any(_meets(mover, positions) for mover in moving):
            raise RejectedError("something moves into the camera")
        room = dataclasses.replace(room, movers=moving)
    pitch, height = np.deg2rad(rng.uniform(-14, 2)), rng.uniform(1.3, 1.7)
    eyes = np.stack([positions[:, 0], np.full(frames, height), positions[:, 1]], axis=1)
    views = list(zip(eyes, headings, strict=True))

    probe.load(room)
    _look(probe, room, views, pitch, motion, returns=kind == "look_away")
    canvas.load(room)
    drawn = [canvas.draw(*view, pitch, list(room.movers), t) for t, view in enumerate(views)]
    without = drawn if motion == "none" else [canvas.draw(*view, pitch, [], t) for t, view in enumerate(views)]
    instances = np.stack([any_of(numbers) for _, _, numbers in drawn])
    tracks = np.full((frames, MOVERS, 3), np.nan, np.float32)
    for number, mover in enumerate(room.movers):
        tracks[:, number] = mover.centres
    clip = PosedClip(
        frames=np.stack([picture for picture, _, _ in drawn]),
        depth=clips.as_stored([depth for _, depth, _ in drawn]),
        intrinsics=clips.intrinsics(canvas.size, frames),
        cam2world=_poses(eyes, headings, pitch),
        dynamic=instances > 0,
        caption=_CAPTION[kind] + (", in which things move" if room.movers else ""),
        source=f"miniworld/{split}/seed{seed}/motion-{motion}/{kind}",
        background=np.stack([picture for picture, _, _ in without]),
        instances=instances,
        tracks=tracks,
    )
    share = float(clip.dynamic.mean())
    if not low <= share <= high:
        raise RejectedError("another share of moving pixels")
    if clip.frames.std() / 255 < _MIN_CONTRAST:
        raise RejectedError("nothing to see")
    return clip, clips.verified(clip) | {"moving": share}


def _meets(mover: Mover, positions: np.ndarray) -> bool:
    """Whether a mover comes too near to the camera at some frame."""
    gap = np.linalg.norm(mover.positions[:, [0, 2]] - positions, axis=1) - mover.shape.radius
    return bool(gap.min() < 0.5)


def _look(probe: Canvas, room: scenes.Scene, views: list, pitch: float, motion: str, *, returns: bool) -> None:
    """Rejects, from few and small frames, what would be rejected or be of little use."""
    shares = []
    for t in np.linspace(0, len(views) - 1, _PROBES).astype(int):
        picture, depth, numbers = probe.draw(*views[t], pitch, list(room.movers), t)
        if np.median(depth) < _MIN_DEPTH:
            raise RejectedError("too close to a wall")
        if picture.mean() / 255 < _MIN_BRIGHTNESS:
            raise RejectedError("too dark")
        shares.append((numbers > 0).mean())
    if motion == "none":
        return
    low, high = MOTION[motion]
    if not 0.7 * low <= np.mean(shares) <= 1.3 * high:
        raise RejectedError("another share of moving pixels")
    if shares[0] < _SEEN:
        raise RejectedError("nothing that moves in the first frame")
    if returns and (shares[-1] < _SEEN or min(shares) > 0):
        raise RejectedError("what moves does not go out of view and come back")


def _poses(eyes: np.ndarray, headings: np.ndarray, pitch: float) -> np.ndarray:
    """`[T, 4, 4]` cam2world: OpenCV axes (right, down, forward) in the world, whose y is up."""
    cos, sin = np.cos(headings), np.sin(headings)
    zero, up, level = np.zeros_like(cos), np.sin(pitch), np.cos(pitch)
    right = np.stack([sin, zero, cos], axis=1)
    forward = np.stack([cos * level, np.full_like(cos, up), -sin * level], axis=1)
    poses = np.tile(np.eye(4), (len(eyes), 1, 1))
    poses[:, :3, :3] = np.stack([right, np.cross(forward, right), forward], axis=2)
    poses[:, :3, 3] = eyes
    return poses.astype(np.float32)
