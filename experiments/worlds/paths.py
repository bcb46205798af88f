"""Camera paths through free space.

A path is planned as candidate curves of one kind, drawn at random; the first that keeps clear of what is in the way is
taken. Lengths are units of 1/32 m, those of Doom's maps; angles are degrees.
"""

from __future__ import annotations

import abc
import dataclasses

import numpy as np

KINDS = ("walk", "turn", "look_away", "loop", "orbit")
RETURNING = ("there_and_back", "closed_loop")
"""Kinds that end exactly where they began; rendered only when asked for."""

UNITS_PER_METRE = 32.0
MAX_TURN = 4.0  # degrees a frame
MAX_STEP = 10.5  # a frame: a third of a metre
SPEEDS = (1.6, 9.6)  # a frame, mean of a path: 0.05 to 0.3 m
_STARTS, _CANDIDATES = 40, 24  # that are tried
_BOTH_WAYS = 0.5
_LONG = 65  # frames of a walk that turns as far as walks do


@dataclasses.dataclass(frozen=True)
class Path:
    """Where the eye should be, frame by frame."""

    positions: np.ndarray  # [T, 2]
    angles: np.ndarray  # [T], not wrapped


class FreeSpace(abc.ABC):
    """Where a camera may go.

    Attributes:
      MARGIN: what it keeps from everything.
    """

    MARGIN: float

    @abc.abstractmethod
    def clearance(self, points: np.ndarray) -> np.ndarray:
        """`[N]` distance of points `[N, 2]` to the nearest thing that is in the way."""

    @abc.abstractmethod
    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A random point `[2]`, which may be anywhere."""

    def standable(self, point: np.ndarray) -> bool:
        """Whether a path may start at a point `[2]` that is clear."""
        del point
        return True

    def is_clear(self, points: np.ndarray) -> bool:
        """Whether a camera can go along points `[N, 2]`, which are closer to each other than a wall is thick."""
        return bool((self.clearance(points) > self.MARGIN).all())

    def start(self, rng: np.random.Generator) -> np.ndarray | None:
        """A random point `[2]` with room around it; None if unlucky."""
        for _ in range(_STARTS):
            point = self.draw(rng)
            if self.is_clear(point[None]) and self.standable(point):
                return point
        return None


def plan(kind: str, space: FreeSpace, frames: int, rng: np.random.Generator) -> Path | None:
    """Plans one path of a kind, `frames` long; None if no candidate was clear."""
    start = space.start(rng)
    if start is None:
        return None
    for _ in range(_CANDIDATES):
        positions, angles = _CANDIDATE[kind](frames, rng)
        heading = rng.uniform(0, 360)
        radians = np.deg2rad(heading)
        rotation = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
        path = Path(start + positions @ rotation.T, angles + heading)
        if _is_calm(path) and space.is_clear(path.positions):
            return path
    return None


def _is_calm(path: Path) -> bool:
    """Whether no frame turns or moves by more than a person would."""
    steps = np.linalg.norm(np.diff(path.positions, axis=0), axis=1)
    return bool((np.abs(np.diff(path.angles)) <= MAX_TURN).all() and (steps <= MAX_STEP).all())


def _ramp(frames: int, ease: int) -> np.ndarray:
    """`[frames]` from 0 to 1 with constant speed but for `ease` frames of soft start and stop."""
    speed = np.ones(frames - 1)
    ease = min(ease, (frames - 1) // 2)
    soft = (np.arange(ease) + 0.5) / max(ease, 1)
    speed[:ease] *= soft
    speed[frames - 1 - ease :] *= soft[::-1]
    return np.concatenate([[0.0], np.cumsum(speed) / speed.sum()])


def _most_turn(frames: int, ease: int) -> float:
    """The largest angle that `_ramp` passes without turning faster than allowed."""
    return MAX_TURN / np.diff(_ramp(frames, ease)).max()


def _speed(rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(SPEEDS))))


def _wobble(frames: int, rng: np.random.Generator, most: float) -> np.ndarray:
    """`[frames]` slow random turning, degrees, at most about `most`."""
    t = np.arange(frames) / frames
    periods, phases = rng.uniform(0.4, 1.6, 3), rng.uniform(0, 2 * np.pi, 3)
    wave = np.sin(2 * np.pi * periods[:, None] * t + phases[:, None]).mean(axis=0)
    return most * (wave - wave[0])


def _walk(frames: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Forward, turning smoothly, as much in a frame of a short walk as of a long one."""
    distance = _speed(rng) * (frames - 1)
    share = min(1.0, frames / _LONG)
    angles = share * (_wobble(frames, rng, rng.uniform(5, 45)) + rng.uniform(-60, 60) * _ramp(frames, frames // 3))
    steps = np.diff(_ramp(frames, 8)) * distance
    radians = np.deg2rad(angles[1:])
    moves = steps[:, None] * np.stack([np.cos(radians), np.sin(radians)], axis=1)
    return np.concatenate([np.zeros((1, 2)), np.cumsum(moves, axis=0)]), angles


def _turn(frames: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Round in place."""
    most = min(180.0, _most_turn(frames, 8))
    angles = rng.choice([-1, 1]) * rng.uniform(min(60.0, most), most) * _ramp(frames, 8)
    return np.zeros((frames, 2)), angles


def _look_away(frames: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Turn until the start is out of view, and back to nearly the same pose."""
    ease, hold = 4, int(rng.integers(1, 1 + frames // 8))
    out = (frames - hold) // 2
    most = min(110.0, _most_turn(out, ease))
    away = rng.choice([-1, 1]) * rng.uniform(min(75.0, most), most)
    home = rng.uniform(-6, 6)
    back = frames - out - hold
    turn = away * _ramp(out, ease)
    angles = np.concatenate([turn, np.full(hold, away), away + (home - away) * _ramp(back + 1, ease)[1:]])
    direction, distance = rng.uniform(0, 2 * np.pi), rng.uniform(3.2, 19.2)
    offset = distance * np.array([np.cos(direction), np.sin(direction)])
    return _ramp(frames, 12)[:, None] * offset, angles


def _loop(frames: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Out and back beside the way out, or once around a small ellipse; the gaze wanders."""
    half = (frames + 1) // 2
    gaze = _wobble(frames, rng, rng.uniform(0, 20)) * np.sin(np.pi * np.arange(frames) / (frames - 1))
    if rng.random() < _BOTH_WAYS:
        out, angles = _walk(half, rng)
        back, back_angles = out[::-1][1:], angles[::-1][1:]
        side = rng.uniform(-12.8, 12.8) * _ramp(frames - half + 1, 8)[1:]
        radians = np.deg2rad(back_angles)
        back = back + side[:, None] * np.stack([-np.sin(radians), np.cos(radians)], axis=1)
        return np.concatenate([out, back]), np.concatenate([angles, back_angles]) + gaze
    length = _speed(rng) * (frames - 1)
    round_angle = 2 * np.pi * _ramp(frames, 8) * rng.choice([-1, 1])
    radius = length / (2 * np.pi)
    ellipse = np.stack([radius * rng.uniform(0.4, 1) * (1 - np.cos(round_angle)), radius * np.sin(round_angle)], axis=1)
    turn = rng.uniform(-25, 25) * np.sin(np.pi * _ramp(frames, 8))
    return ellipse, turn + gaze


def _orbit(frames: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sideways, looking at a point; part of the time straight."""
    distance = rng.uniform(64, 224)
    length = min(_speed(rng), np.deg2rad(MAX_TURN * 0.8) * distance) * (frames - 1)
    sign = rng.choice([-1, 1])
    if rng.random() < _BOTH_WAYS:
        around = sign * length / distance * _ramp(frames, 8)
        positions = distance * np.stack([1 - np.cos(around), -np.sin(around)], axis=1)
        return positions, np.rad2deg(around)
    sideways = sign * length * _ramp(frames, 8)
    positions = np.stack([np.zeros(frames), sideways], axis=1)
    return positions, -np.rad2deg(np.arctan2(sideways, 3 * distance)) + _wobble(frames, rng, rng.uniform(0, 8))


def _there_and_back(frames: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A walk, and the same views in reverse."""
    out, angles = _walk((frames + 1) // 2, rng)
    return np.concatenate([out, out[::-1][1:]]), np.concatenate([angles, angles[::-1][1:]])


def _closed_loop(frames: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Once around an ellipse, turning away from the first view and back to it."""
    ramp = _ramp(frames, 8)
    radius = min(_speed(rng), 2 * SPEEDS[0]) * (frames - 1) / (2 * np.pi)
    sign, around = rng.choice([-1, 1]), 2 * np.pi * ramp
    ellipse = np.stack([radius * rng.uniform(0.4, 1) * (1 - np.cos(around)), sign * radius * np.sin(around)], axis=1)
    most = min(120.0, MAX_TURN / (np.pi * np.diff(ramp).max()))
    return ellipse, rng.choice([-1, 1]) * rng.uniform(0.5, 1.0) * most * np.sin(np.pi * ramp)


_CANDIDATE = {
    "walk": _walk,
    "turn": _turn,
    "look_away": _look_away,
    "loop": _loop,
    "orbit": _orbit,
    "there_and_back": _there_and_back,
    "closed_loop": _closed_loop,
}
