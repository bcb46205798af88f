"""A world without a model: a painted room with two pillars and a ball that goes round, cast ray by ray.

The page is made and tested with it. What was seen is remembered by cubes of space, so that overlay, points and ages
behave as those of a model do, at a cost of milliseconds.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import PIL.Image
import safetensors
import safetensors.numpy

from experiments.explorer.engine import AHEAD, Begun, Facts, Seen, Settings, Thing
from experiments.explorer.protocol import NEW, REMEMBERED, THING
from experiments.posed_video import photos, posed_images
from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera, crop

FORMAT = "mirage-jax mock world"
SIZE, GRID, FRAMES, FPS = 128, 16, 4, 16

_LOW, _HIGH = np.array([-5.0, -1.6, -4.0]), np.array([5.0, 1.6, 10.0])
_PILLARS = np.array([[[-2.6, -1.6, 3.0], [-1.8, 1.6, 3.8]], [[1.8, 0.2, 4.5], [3.0, 1.6, 5.7]]])
_BALL, _ORBIT, _CENTRE = 0.45, 2.2, np.array([0.2, 0.9, 5.0])
_CUBE = 0.3
_CUBES = tuple(int(n) for n in np.ceil((_HIGH - _LOW) / _CUBE) + 2)
_PICTURE = 32  # side of the picture on the wall

State = dict[str, np.ndarray]


class MockEngine:
    """See `engine.Engine`."""

    def __init__(self, facts: Facts, memory: str):
        """Of one kind of memory: 'none' remembers nothing that it shows."""
        self.facts, self.settings, self._memory = facts, Settings(memory=memory), memory

    @property
    def like(self) -> State:
        """See `engine.Engine`."""
        return {
            "seen": np.zeros(_CUBES, np.int32),
            "colours": np.zeros((*_CUBES, 3), np.uint8),
            "picture": np.zeros((_PICTURE, _PICTURE, 3), np.uint8),
            "clock": np.zeros((), np.int32),
            "seed": np.zeros((), np.int64),
            "ball": np.zeros((), np.int32),
            "camera": np.zeros((4, 4), np.float32),
        }

    def picture(self, path: pathlib.Path, fov: float, seed: int) -> Begun:
        """See `engine.Engine`."""
        photo = photos.read(path)
        fitted, camera, _ = crop.fit_view(photo.pixels, SIZE, SIZE, fov=fov or crop.ASSUMED_FOV)
        return self._begin(fitted, camera, seed, photo.notes)

    def pictures(self, path: pathlib.Path, seed: int, scale: float | None = None) -> Begun:
        """See `engine.Engine`."""
        posed = posed_images.load(path, SIZE, SIZE, scale)
        return self._begin(posed.frames[-1], posed.camera[-1], seed, posed.notes)

    def _begin(self, image: np.ndarray, camera: Camera, seed: int, notes: tuple[str, ...]) -> Begun:
        small = np.asarray(PIL.Image.fromarray(image).resize((_PICTURE, _PICTURE)))
        state = self.like | {"picture": small, "seed": np.array(seed, np.int64)}
        camera = Camera(
            np.asarray(camera.intrinsics, np.float32), np.eye(4, dtype=np.float32), camera.height, camera.width
        )
        one = Camera(camera.intrinsics[None], camera.cam2world[None], SIZE, SIZE)
        state, seen = self.step(state, one, "")
        seen = Seen(seen.frames, seen.cameras, seen.kind, seen.age, seen.things, seen.points, notes=notes)
        return Begun(state, seen, camera)

    def step(self, state: State, cameras: Camera, prompt: str) -> tuple[State, Seen]:
        """See `engine.Engine`."""
        seen, colours = state["seen"].copy(), state["colours"].copy()
        clock, count = int(state["clock"]), len(cameras)
        frames, kinds, ages = [], [], []
        for index in range(count):
            camera, now = cameras[index], clock + index + 1
            frames.append(_cast(state, camera, SIZE, now)[1])
            cells, colour, moving = _cast(state, camera, GRID, now)
            place = _cubes(cells)
            before = seen[place]
            known = (before > 0) & (self._memory != "none")
            kinds.append(np.where(moving, THING, np.where(known, REMEMBERED, NEW)))
            ages.append(np.where(known & ~moving, (now - before) / FPS, 0.0))
            still = tuple(axis[~moving] for axis in place)
            colours[still] = np.where((seen[still] > 0)[:, None], colours[still], colour[~moving])
            seen[still] = now
        following = state | {
            "seen": seen,
            "colours": colours,
            "clock": np.array(clock + count, np.int32),
            "camera": np.asarray(cameras.cam2world[-1], np.float32),
        }
        path = np.stack([_ball(clock + count + k) for k in range(AHEAD + 1)]).astype(np.float32)
        return following, Seen(
            frames=np.stack(frames),
            cameras=cameras,
            kind=np.stack(kinds).astype(np.uint8),
            age=np.stack(ages).astype(np.float32),
            things=(Thing(path, 2 * _BALL, 0.0),),
            points=int((seen > 0).sum()),
        )

    def points(self, state: State) -> tuple[np.ndarray, np.ndarray | None]:
        """See `engine.Engine`."""
        held = state["seen"] > 0
        return (np.argwhere(held) * _CUBE + _LOW - _CUBE / 2).astype(np.float32), state["colours"][held]

    def save_colours(self, path: pathlib.Path) -> None:
        """See `engine.Engine`; here a state holds them."""

    def load_colours(self, path: pathlib.Path) -> None:
        """See `engine.Engine`."""

    def save(self, path: pathlib.Path, state: State) -> None:
        """See `engine.Engine`."""
        with io.atomic_path(path) as temporary:
            safetensors.numpy.save_file(state, temporary, metadata={"format": FORMAT, "memory": self._memory})


class MockEngines:
    """See `engine.Engines`."""

    digest = "mock"
    facts = Facts(
        name="mock",
        height=SIZE,
        width=SIZE,
        fps=FPS,
        segment_frames=FRAMES,
        stride=1,
        text=True,
        memories=("latent", "none"),
        steps=1,
        scene_depth=4.0,
        note="A painted room in place of a model (--mock).",
    )

    def get(self, settings: Settings) -> MockEngine:
        """See `engine.Engines`."""
        memory = settings.memory or "latent"
        if memory not in self.facts.memories:
            raise UserError(f"memory must be one of {', '.join(self.facts.memories)}, found {io.shown(repr(memory))}")
        return MockEngine(self.facts, memory)

    def load(self, path: pathlib.Path) -> tuple[MockEngine, Begun]:
        """See `engine.Engines`."""
        with io.foreign(path, "a world file"):
            with safetensors.safe_open(path, framework="numpy") as file:  # pyright: ignore
                header = file.metadata() or {}
                if header.get("format") != FORMAT:
                    raise UserError(f"{path}: not a world of the mock (--mock); a model goes on with its own worlds")
                state: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}
            engine = self.get(Settings(memory=header["memory"]))
            for name, value in engine.like.items():
                if name not in state or (state[name].shape, state[name].dtype) != (value.shape, value.dtype):
                    raise UserError(f"{path}: {name} is missing or of another shape")
        focal = 0.5 * SIZE / np.tan(np.radians(crop.ASSUMED_FOV) / 2)
        lens = np.array([[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1]], np.float32)
        camera = Camera(lens, state["camera"], SIZE, SIZE)
        one = Camera(lens[None], state["camera"][None], SIZE, SIZE)
        _, seen = engine.step(state, one, "")
        return engine, Begun(state, seen, camera)

    def warm(self, progress: Any) -> None:
        """See `engine.Engines`."""
        progress("painting the room", 1.0)


def _ball(now: int) -> np.ndarray:
    angle = now / FPS * 0.8
    return _CENTRE + _ORBIT * np.array([np.sin(angle), 0.0, np.cos(angle)])


def _cubes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    place = np.floor((points - _LOW) / _CUBE).astype(int) + 1
    x, y, z = (np.clip(place[..., axis], 0, _CUBES[axis] - 1) for axis in range(3))
    return x, y, z


def _cast(state: State, camera: Camera, size: int, now: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """World points `[s, s, 3]`, picture uint8 `[s, s, 3]`, and where the ball is."""
    k, pose = np.asarray(camera.intrinsics, np.float64) * (size / SIZE), np.asarray(camera.cam2world, np.float64)
    centre = np.arange(size) + 0.5
    x, y = (centre - k[0, 2]) / k[0, 0], (centre - k[1, 2]) / k[1, 1]
    local = np.stack([*np.broadcast_arrays(x[None], y[:, None]), np.ones((size, size))], axis=-1)
    rays = local @ pose[:3, :3].T
    origin = np.clip(pose[:3, 3], _LOW + 0.05, _HIGH - 0.05)
    safe = np.where(np.abs(rays) < 1e-9, 1e-9, rays)
    depth = np.maximum((_LOW - origin) / safe, (_HIGH - origin) / safe).min(axis=-1)
    for low, high in _PILLARS:
        first, second = (low - origin) / safe, (high - origin) / safe
        enters, leaves = np.minimum(first, second).max(axis=-1), np.maximum(first, second).min(axis=-1)
        depth = np.where((enters < leaves) & (enters > 0), np.minimum(depth, enters), depth)
    to_ball = _ball(now) - origin
    a, b = (rays**2).sum(-1), rays @ to_ball
    root = b**2 - a * (to_ball @ to_ball - _BALL**2)
    at_ball = np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
    ball = (at_ball > 0) & (at_ball < depth)
    depth = np.where(ball, at_ball, depth)
    points = origin + rays * depth[..., None]
    return points, _paint(state, points, ball, depth), ball


def _paint(state: State, points: np.ndarray, ball: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Stripes and squares on all walls, the picture of the start at the far one."""
    squares = (np.floor(points * 1.25 + 1e-6).sum(axis=-1) % 2)[..., None]
    tint = state["picture"].reshape(-1, 3).mean(axis=0) / 255.0
    waves = 0.5 + 0.5 * np.sin(points[..., [0, 2, 1]] * (1.1 + 0.13 * (int(state["seed"]) % 7)) + [0.0, 2.0, 4.0])
    colour = 0.35 * waves + 0.25 * squares + 0.4 * tint
    wall = np.abs(points[..., 2] - _HIGH[2]) < 1e-3
    at = np.floor((points[..., :2] - [-1.6, -1.4]) / [3.2, 2.8] * _PICTURE).astype(int)
    hangs = wall & ((at >= 0) & (at < _PICTURE)).all(axis=-1)
    colour[hangs] = state["picture"][at[hangs][:, 1], at[hangs][:, 0]] / 255.0
    colour *= (1.0 / (1.0 + 0.04 * depth))[..., None]
    colour[ball] = [0.9, 0.25, 0.15] * (0.6 + 0.4 * squares[ball])
    return np.round(np.clip(colour, 0, 1) * 255).astype(np.uint8)
