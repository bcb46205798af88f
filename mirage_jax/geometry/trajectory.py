"""Camera paths: from a line of text to `Camera[T]`, on the host.

    parse("forward 2; yaw 90; back", start=camera, frames=65)

The grammar is in `trajectory_text.py`. The camera moves like one on a tripod that is
pushed about a floor, level with the camera at the start:
- forward, backward, left, right follow the heading (yaw), whatever the pitch and roll;
  up and down are along the start's vertical; `dolly` follows the line of sight.
- `yaw` turns about the vertical, positive to the right; `pitch` looks up when positive;
  `roll` tilts the camera clockwise when positive (what it sees turns anticlockwise).
- `orbit` goes round a point straight ahead and keeps looking at it, positive to the right
  (anticlockwise seen from above).
- `zoom` multiplies the focal length, evenly in its logarithm: twice as large shows half as much.
- Moves joined by `&` run together at constant speeds: `forward 2 & yaw 90` is an arc.
- `back` takes the same poses, and lenses, in reverse. With one `back` at the end, an odd number of
  frames and no weight on it, frame T-1-i has the very bits of frame i; the pose where
  `back` ends always has the bits of the start.
Every step ends exactly on a frame. Steps share the frames equally, or by their weights
(`@`); `back` takes as many as the way there. Steps start and end gently unless `linear`.
"""

from __future__ import annotations

import cmath
import dataclasses
import math
from fractions import Fraction

import jax
import numpy as np

from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.geometry import se3, trajectory_text
from mirage_jax.geometry.camera import Camera
from mirage_jax.geometry.trajectory_text import Back, Step

_FARTHEST = 1e6  # scene units from the start: float32 would not tell neighbouring frames apart
_ZOOMED_VIEW = (1.0, 170.0)  # degrees


def parse(text: str, *, start: Camera, frames: int, scene_depth: float | None = None) -> Camera:
    """The cameras along a path described in words.

    Args:
      text: the path, for example `"forward 2; yaw 90; back"`.
      start: one camera; frame 0 has its bits, and all frames its intrinsics, but for a zoom.
      frames: number of cameras `T`, frame 0 included.
      scene_depth: scene units that `1d` stands for, typically the median depth of the image.

    Returns:
      `Camera[T]` of float32 numpy arrays.

    Raises:
      UserError: if the text says what cannot be done, in one sentence that names the
        step, or if there are fewer frames than steps, or the way leads too far or zooms too much.
      ValueError: if `start` is more than one camera.
    """
    if start.shape:
        raise ValueError(f"a path starts from one camera, got an array of shape {start.shape}")
    first = np.asarray(start.cam2world, np.float32)
    if not np.isfinite(first).all():
        raise UserError("trajectory: the pose to start from is not finite; expected a rigid transform")
    steps = trajectory_text.read(text, scene_depth)
    frame = [(first, 0.0)]
    travelled = _Excursion(first)
    for step, count in zip(steps, _share_frames(steps, frames), strict=True):
        if isinstance(step, Back):
            frame += [travelled.frame(Fraction(travelled.length * (count - i), count)) for i in range(1, count + 1)]
            travelled = _Excursion(first)
        else:
            begin = travelled.length
            travelled.add(step, count)
            frame += [travelled.frame(Fraction(begin + i)) for i in range(1, count + 1)]
    cam2world = np.stack([pose for pose, _ in frame])
    farthest = np.abs(cam2world[:, :3, 3] - first[:3, 3]).max()
    if not farthest <= _FARTHEST:
        raise UserError(
            f"trajectory: {io.shown(text.strip())!r} leads {farthest:.3g} away; expected at most {_FARTHEST:g}"
        )
    return start.replace(intrinsics=_zoomed(text, start, np.array([zoom for _, zoom in frame])), cam2world=cam2world)


def _zoomed(text: str, start: Camera, zoom: np.ndarray) -> np.ndarray:
    """`[T, 3, 3]` float32 intrinsics of `start`, its focal lengths times the exponential of `zoom` `[T]`."""
    intrinsics = np.tile(np.asarray(start.intrinsics, np.float32), (len(zoom), 1, 1))
    intrinsics[:, :2, :2] *= np.exp(zoom).astype(np.float32)[:, None, None]
    for axis, extent in enumerate((start.width, start.height)):
        views = np.degrees(2 * np.arctan2(extent, 2 * intrinsics[:, axis, axis].astype(np.float64)))
        low, high = _ZOOMED_VIEW
        if zoom.any() and not (views.min() >= low and views.max() <= high):
            raise UserError(
                f"trajectory: {io.shown(text.strip())!r} zooms to a view of {views.min():.3g} to {views.max():.3g} "
                f"degrees; expected {low:g} to {high:g}"
            )
    return intrinsics


def resample(camera: Camera, frames: int) -> Camera:
    """The same path with another number of frames, evenly spaced along the old ones.

    Args:
      camera: `Camera[T]`.
      frames: new number of cameras.

    Returns:
      `Camera[frames]` of float32 numpy arrays; poses that fall on old ones keep their bits.

    Raises:
      UserError: if `frames` is less than 1.
    """
    _check_frames(frames)
    position = np.linspace(0.0, len(camera) - 1.0, frames)
    before = np.floor(position).astype(int)
    after = np.minimum(before + 1, len(camera) - 1)
    fraction = (position - before).astype(np.float32)
    poses, intrinsics = np.asarray(camera.cam2world), np.asarray(camera.intrinsics)
    weight = fraction[:, None, None]
    return camera.replace(
        intrinsics=np.asarray((1 - weight) * intrinsics[before] + weight * intrinsics[after], np.float32),
        cam2world=np.asarray(jax.jit(se3.interpolate)(poses[before], poses[after], fraction), np.float32),
    )


def _check_frames(frames: int) -> None:
    if frames < 1:
        raise UserError(f"trajectory: {frames} frames asked for; expected at least 1")


def _share_frames(steps: list[Step | Back], frames: int) -> list[int]:
    """How many of the `frames - 1` intervals each step gets: at least one, in proportion to the weights.

    An interval of a step that an unweighted `back` retraces costs two, one each way.
    Intervals are handed out one at a time, each to the step with the most weight for its
    intervals so far (the Sainte-Lague rule). What cannot be spent in pairs goes to the last `back`.
    """
    _check_frames(frames)
    cost = [1] * len(steps)
    retraced_by = {}
    group: list[int] = []
    for index, step in enumerate(steps):
        if not isinstance(step, Back):
            group.append(index)
            continue
        if step.weight is None:
            retraced_by[index] = group
            for member in group:
                cost[member] = 2
        group = []
    counts = [0 if index in retraced_by else 1 for index in range(len(steps))]
    left = frames - 1 - sum(c * n for c, n in zip(cost, counts, strict=True))
    if left < 0:
        raise UserError(
            f"trajectory: the number of frames is {frames}; expected at least {frames - left}, one for each step"
        )
    while left:
        affordable = [i for i in range(len(steps)) if counts[i] and cost[i] <= left]
        if not affordable:
            break
        neediest = max(affordable, key=lambda i: (steps[i].weight or 0.0) / (2 * counts[i] + 1))
        counts[neediest] += 1
        left -= cost[neediest]
    for index, members in retraced_by.items():
        counts[index] = sum(counts[member] for member in members)
    if left:
        counts[max(retraced_by)] += left
    return counts


@dataclasses.dataclass(frozen=True)
class Rig:
    """Where the tripod stands and how its head is turned, relative to the start.

    Attributes:
      floor: position on the floor as a complex number, forward + i right.
      down: position along the vertical.
      yaw, pitch, roll: radians.
      zoom: natural logarithm of the factor on the focal length.
    """

    floor: complex = 0j
    down: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    zoom: float = 0.0

    def moved(self, step: Step, amount: float) -> Rig:
        """The rig after the part `amount`, 0 to 1, of a step: the exact integral of its constant speeds."""
        orbit = math.radians(step.orbit)
        yaw, pitch, roll = math.radians(step.yaw) - orbit, math.radians(step.pitch), math.radians(step.roll)
        sideways = step.right + orbit * step.orbit_distance * math.cos(self.pitch)
        along = complex(step.forward, sideways) * _integral(self.yaw, yaw, amount)
        sight = _integral(self.yaw + self.pitch, yaw + pitch, amount) + _integral(
            self.yaw - self.pitch, yaw - pitch, amount
        )
        return Rig(
            floor=self.floor + along + 0.5 * step.dolly * sight,
            down=self.down + amount * step.down - step.dolly * _integral(self.pitch, pitch, amount).imag,
            yaw=self.yaw + amount * yaw,
            pitch=self.pitch + amount * pitch,
            roll=self.roll + amount * roll,
            zoom=self.zoom + amount * step.zoom,
        )

    def start_from_camera(self) -> np.ndarray:
        """`[4, 4]` float64 pose relative to the start: `R = R_y(yaw) R_x(pitch) R_z(roll)`, OpenCV axes."""
        sy, cy = math.sin(self.yaw), math.cos(self.yaw)
        sp, cp = math.sin(self.pitch), math.cos(self.pitch)
        sr, cr = math.sin(self.roll), math.cos(self.roll)
        turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        tilt = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        spin = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        pose = np.eye(4)
        pose[:3, :3] = turn @ tilt @ spin
        pose[:3, 3] = self.floor.imag, self.down, self.floor.real
        return pose


def _integral(angle: float, rate: float, amount: float) -> complex:
    """`exp(i (angle + rate t))` integrated over t from 0 to `amount`."""
    half = 0.5 * rate * amount
    sinc = math.sin(half) / half if half else 1.0
    return amount * sinc * cmath.exp(1j * (angle + half))


class _Excursion:
    """The way since the start, as a function of time counted in frames."""

    def __init__(self, start: np.ndarray):
        """Begins at `start`, a `[4, 4]` float32 pose."""
        self.length = 0
        self._start = start
        self._legs: list[tuple[int, int, Step, Rig]] = []  # first frame, number of frames, step, rig before it
        self._rig = Rig()

    def add(self, step: Step, count: int) -> None:
        """Appends a step that takes `count` frames."""
        self._legs.append((self.length, count, step, self._rig))
        self._rig = self._rig.moved(step, 1.0)
        self.length += count

    def frame(self, time: Fraction) -> tuple[np.ndarray, float]:
        """`[4, 4]` float32 pose, and the zoom; time is a fraction so that going back meets the very same moments."""
        if time == 0:
            return self._start, 0.0
        begin, count, step, rig = next(leg for leg in reversed(self._legs) if leg[0] < time)
        part = float((time - begin) / count)
        amount = part * part * (3.0 - 2.0 * part) if step.smooth else part
        there = rig.moved(step, amount)
        return (self._start.astype(np.float64) @ there.start_from_camera()).astype(np.float32), there.zoom
