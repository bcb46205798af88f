"""From keys to cameras: a tripod that is pushed about a floor, as in `geometry.trajectory`."""

from __future__ import annotations

import dataclasses

import numpy as np

from mirage_jax.geometry import Camera, trajectory
from mirage_jax.geometry.trajectory_text import Step

WALKING = 0.3
"""Typical depths of the scene a second."""
TURNING = 50.0
"""Degrees a second."""
STEEPEST = 70.0
"""Degrees up or down."""
_MOST_LOOK = 90.0  # degrees that a drag may turn the view in a second


@dataclasses.dataclass(frozen=True)
class Motion:
    """What happens during one segment: units of the scene, and degrees to the right and up."""

    forward: float = 0.0
    right: float = 0.0
    up: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0

    def __bool__(self) -> bool:
        return any(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Stand:
    """Where one stands.

    Attributes:
      base: one camera of numpy arrays; the floor is level with it.
      rig: the way since then.
    """

    base: Camera
    rig: trajectory.Rig = dataclasses.field(default_factory=trajectory.Rig)

    def moved(self, motion: Motion, frames: int) -> tuple[Stand, Camera]:
        """The stand after a motion, and `Camera[frames]` of numpy arrays on the way, the last one at its end."""
        low, high = (np.radians(end) - self.rig.pitch for end in (-STEEPEST, STEEPEST))
        pitch = np.degrees(np.clip(np.radians(motion.pitch), low, high))
        step = Step(
            text="", forward=motion.forward, right=motion.right, down=-motion.up, yaw=motion.yaw, pitch=float(pitch)
        )
        rigs = [self.rig.moved(step, (index + 1) / frames) for index in range(frames)]
        base = np.asarray(self.base.cam2world, np.float64)
        poses = np.stack([base @ rig.start_from_camera() for rig in rigs]).astype(np.float32)
        lenses = np.broadcast_to(np.asarray(self.base.intrinsics, np.float32), (frames, 3, 3)).copy()
        cameras = Camera(intrinsics=lenses, cam2world=poses, height=self.base.height, width=self.base.width)
        return dataclasses.replace(self, rig=rigs[-1]), cameras


class Keys:
    """What is asked for and not done yet: keys that are held, taps, and degrees that were looked."""

    def __init__(self):
        self._held = np.zeros(5)
        self._tapped = np.zeros(5)
        self._look = np.zeros(2)
        self._pace = 1.0

    def move(self, forward: float, right: float, up: float, yaw: float, pitch: float, pace: float, tap: bool) -> None:
        """Keys are held or let go; the newest word counts, and a tap counts once."""
        self._held[:] = forward, right, up, yaw, pitch
        self._pace = pace
        if tap:
            self._tapped = np.where(self._held != 0, self._held, self._tapped)

    def look(self, yaw: float, pitch: float) -> None:
        """The view was dragged."""
        self._look += yaw, pitch

    def release(self) -> None:
        """Nothing is asked for any more: the page is gone."""
        self.__init__()

    @property
    def wanted(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._held.any() or self._tapped.any() or self._look.any())

    def take(self, seconds: float, scene_depth: float) -> Motion:
        """The motion of the next segment, which lasts `seconds`; taps and looks are used up, held keys stay."""
        keys = np.where(self._held != 0, self._held, self._tapped)
        self._tapped = np.zeros(5)
        most = _MOST_LOOK * seconds
        look = np.clip(self._look, -most, most)
        self._look = np.zeros(2)
        walk = keys[:3] * WALKING * scene_depth * seconds * self._pace
        turn = keys[3:] * TURNING * seconds * min(self._pace, 1.5) + look
        return Motion(*map(float, (*walk, *turn)))
