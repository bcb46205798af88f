"""Renders one verified clip of a Doom map, or says why not."""

from __future__ import annotations

import numpy as np

from experiments.worlds import clips, paths
from experiments.worlds.batch import RejectedError
from experiments.worlds.doom import raycast
from experiments.worlds.doom.engine import Engine
from experiments.worlds.doom.free_space import FreeSpace
from experiments.worlds.doom.observe import Capture, Observation, observe
from mirage_jax.data.clip import PosedClip

_MONSTERS = ("ZombieMan", "ShotgunGuy", "DoomImp", "Demon", "Cacodemon", "LostSoul", "HellKnight", "Revenant")
_OFF_PATH = 6.0  # map units; who strays farther was pushed or stopped
_MIN_BRIGHTNESS = 0.20  # of 0..1, mean of a clip; darker ones are too dark to see
_MIN_SATURATION = 0.06
_MIN_DEPTH = 1.6  # metres, median of a frame
_MAX_UNKNOWN = 0.03
_MIN_DYNAMIC = 0.004  # fraction of a clip's pixels
_MAX_DYNAMIC = 0.35
_CAPTION = {
    "walk": "walking forward",
    "turn": "turning round on the spot",
    "look_away": "looking away and back",
    "loop": "walking a loop",
    "orbit": "moving sideways",
    "there_and_back": "walking out and back",
    "closed_loop": "walking round and back to the start",
}


def render(
    engine: Engine, kind: str, *, frames: int, seed: int, moving: bool, size: int = 128
) -> tuple[PosedClip, dict[str, float]]:
    """Renders one clip.

    Args:
      engine: a game with monsters if `moving`, without otherwise.
      kind: one of `paths.KINDS`.
      frames: length of the clip.
      seed: decides everything random; below 2^31.
      moving: whether monsters move.
      size: side of the square frames, pixels.

    Returns:
      The clip and its verification residuals.

    Raises:
      RejectedError: with the reason, if this seed gives no good clip.
    """
    rng = np.random.default_rng(seed)
    engine.restart(seed)
    space = FreeSpace(engine.map, *engine.heights())
    path = paths.plan(kind, space, frames, rng)
    if path is None:
        raise RejectedError("no free path")
    if moving:
        _summon(engine, space, path, rng)
    engine.place(*path.positions[0], path.angles[0])
    _check_open(engine, path)
    _check_colours(engine.capture().frame(size)[None])
    if moving:
        engine.toggle_freeze()
    captures = _drive(engine, path)
    _check_colours(np.stack([capture.frame(size) for capture in captures]))
    observations = [observe(engine.map, capture, size) for capture in captures]
    parts = ["doom", engine.map.name, f"seed{seed}", str(engine.variant), kind, "monsters" if moving else ""]
    name = "/".join(part for part in parts if part)
    clip = _clip(observations, kind, moving, name)
    _check_surfaces(clip, moving)
    return clip, clips.verified(clip)


def _summon(engine: Engine, space: FreeSpace, path: paths.Path, rng: np.random.Generator) -> None:
    """Adds one to three monsters where the path looks, facing its start."""
    start = path.positions[0]
    for _ in range(int(rng.integers(1, 4))):
        for _ in range(10):
            frame = rng.integers(len(path.angles))
            angle = path.angles[frame] + rng.uniform(-24, 24)
            radians, distance = np.deg2rad(angle), rng.uniform(96, 320)
            spot = path.positions[frame] + distance * np.array([np.cos(radians), np.sin(radians)])
            if space.is_clear(spot[None]) and space.standable(spot):
                towards = start - spot
                engine.place(*spot, float(np.rad2deg(np.arctan2(towards[1], towards[0]))))
                engine.summon(str(rng.choice(_MONSTERS)))
                break


def _check_open(engine: Engine, path: paths.Path) -> None:
    """Rejects, before anything is rendered, paths that stare at a wall."""
    heights, height = engine.heights(), engine.state()[0][2]
    for frame in np.linspace(0, len(path.angles) - 1, 5).astype(int):
        view = raycast.View(*path.positions[frame], height, path.angles[frame], 12.8, 16, 16)
        depth = raycast.depth_map(engine.map, view, *heights)
        if np.median(depth) < _MIN_DEPTH * paths.UNITS_PER_METRE:
            raise RejectedError("too close to a wall")


def _drive(engine: Engine, path: paths.Path) -> list[Capture]:
    """Follows the path with real player motion, so that steps and stairs look as in the game.

    The thrust of a tic is the difference between the velocity wanted and the velocity left
    after friction, so the player lands on its path to 1/64 unit unless something is in the way.
    """
    captures = [engine.capture()]
    for position, angle in zip(path.positions[1:], path.angles[1:], strict=True):
        last = captures[-1]
        engine.push(position - last.position[:2] - last.velocity, angle)
        captures.append(engine.capture())
        if np.linalg.norm(captures[-1].position[:2] - position) > _OFF_PATH:
            raise RejectedError("pushed off the path")
    return captures


def _clip(observations: list[Observation], kind: str, moving: bool, source: str) -> PosedClip:
    return PosedClip(
        frames=np.stack([o.frame for o in observations]),
        depth=clips.as_stored([o.depth for o in observations]),
        intrinsics=clips.intrinsics(len(observations[0].frame), len(observations)),
        cam2world=np.stack([o.cam2world for o in observations]).astype(np.float32),
        dynamic=np.stack([o.dynamic for o in observations]),
        caption=f"{_CAPTION[kind]} in a retro first-person game" + (", with moving monsters" if moving else ""),
        source=source,
    )


def _check_colours(frames: np.ndarray) -> None:
    """Rejects what is dark, or grey because the player stands in an item that changes the palette."""
    colour = frames.astype(np.float32) / 255
    if colour.mean() < _MIN_BRIGHTNESS:
        raise RejectedError("too dark")
    high, low = colour.max(axis=-1), colour.min(axis=-1)
    if ((high - low) / np.maximum(high, 0.05)).mean() < _MIN_SATURATION:
        raise RejectedError("grey")


def _check_surfaces(clip: PosedClip, moving: bool) -> None:
    """Rejects what is jammed against a wall, of unknown depth, empty of actors or full of them."""
    medians = np.median(clip.depth.reshape(len(clip), -1), axis=1)
    if (medians < _MIN_DEPTH).mean() > 0.15:
        raise RejectedError("too close to a wall")
    if (clip.depth == 0).mean() > _MAX_UNKNOWN:
        raise RejectedError("unknown depth")
    if moving and not _MIN_DYNAMIC <= clip.dynamic.mean() <= _MAX_DYNAMIC:
        raise RejectedError("too few or too many monsters in view")
