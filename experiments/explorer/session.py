"""A tree of moments: where one has been in one's worlds, and all that each was.

A moment is a segment that was made, or the beginning of a world. Its state never changes, so undo is exact: what comes
back has the same bits. A branch is a way through the tree from a beginning to its tip. Everything here runs in the
thread of the worlds (`worker`).
"""

from __future__ import annotations

import base64
import dataclasses
import io as bytes_io
import pathlib
from typing import Any

import numpy as np
import PIL.Image

from experiments.explorer import snapshots
from experiments.explorer.engine import Begun, Engine, Engines, Seen, Settings
from experiments.explorer.motion import Motion, Stand
from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera, trajectory

FORMAT, VERSION = "mirage-jax explorer session", 2
THUMBNAIL = 64
"""Pixels of the longer side of a moment's small picture."""
_FILE, _COLOURS = "session.json", "colours{}.safetensors"


@dataclasses.dataclass(frozen=True)
class World:
    """What all moments of one world share.

    Attributes:
      engine: that makes them.
      base: the camera that it began with.
    """

    engine: Engine
    base: Camera


@dataclasses.dataclass(frozen=True)
class Moment:
    """A moment, but for its state and frames.

    Attributes:
      number: of it, in its session.
      parent: the moment before, or None.
      world: number of its world.
      stand: where one stands at its end.
      cameras: `Camera[F]` of its frames.
      prompt: that it was made with.
      thumbnail: JPEG of its last frame, small.
      points, overflow: of the memory.
      remembered: share of what it shows that was remembered.
    """

    number: int
    parent: int | None
    world: int
    stand: Stand
    cameras: Camera
    prompt: str
    thumbnail: bytes
    points: int
    overflow: int
    remembered: float


@dataclasses.dataclass
class Branch:
    """A way through the tree. Attributes: its name, and the moment that it ends at."""

    name: str
    tip: int


class Session:
    """All worlds of one tab."""

    def __init__(self, name: str, engines: Engines, store: snapshots.Store):
        """An empty session; `begin` is next."""
        self.name = name
        self.moments: dict[int, Moment] = {}
        self.branches: dict[int, Branch] = {}
        self.worlds: dict[int, World] = {}
        self.cursor, self.branch = -1, -1
        self._engines, self._store = engines, store
        self._live: tuple[int, Any] | None = None

    def begin(self, engine: Engine, begun: Begun) -> Seen:
        """A new world, on a branch of its own; what was there before stays."""
        number = len(self.worlds)
        self.worlds[number] = World(engine, begun.camera)
        moment = self._add(None, number, Stand(begun.camera), begun.seen, "", begun.state)
        self._store.pin((self.name, moment.number))
        self.branch = self._new_branch(f"world {number + 1}", moment.number)
        self.cursor = moment.number
        return begun.seen

    def walk(self, motion: Motion, prompt: str) -> tuple[Moment, Seen]:
        """The next moment. Away from the tip of its branch, it begins a new one, so that nothing is lost."""
        here = self.moments[self.cursor]
        world = self.worlds[here.world]
        stand, cameras = here.stand.moved(motion, world.engine.facts.segment_frames)
        state, seen = world.engine.step(self.state(self.cursor), cameras, prompt)
        if self.branches[self.branch].tip != self.cursor:
            self.branch = self._new_branch(self._fork(self.cursor), self.cursor)
        moment = self._add(here.number, here.world, stand, seen, prompt, state)
        self.cursor = self.branches[self.branch].tip = moment.number
        return moment, seen

    def undo(self) -> None:
        """To the moment before. Raises `UserError` at a beginning."""
        parent = self.moments[self.cursor].parent
        if parent is None:
            raise UserError("this is where the world begins: there is nothing before it")
        self.cursor = parent

    def redo(self) -> None:
        """To the moment after, on this branch. Raises `UserError` at its tip."""
        way = self.way(self.branches[self.branch].tip)
        place = way.index(self.cursor)
        if place + 1 == len(way):
            raise UserError("this is the end of the branch: there is nothing after it")
        self.cursor = way[place + 1]

    def jump(self, moment: int) -> None:
        """To any moment, on a branch that it lies on, this one if it does. Raises `UserError` if there is none."""
        self._check(moment)
        branches = [self.branch, *sorted(self.branches, reverse=True)]
        self.branch = next(b for b in branches if moment in self.way(self.branches[b].tip))
        self.cursor = moment

    def fork(self, moment: int) -> None:
        """To any moment, on a new branch that ends there. Raises `UserError` if there is none."""
        self._check(moment)
        self.branch = self._new_branch(self._fork(moment), moment)
        self.cursor = moment

    def switch(self, branch: int) -> None:
        """To the tip of a branch. Raises `UserError` if there is none."""
        if branch not in self.branches:
            raise UserError(f"there is no branch {branch}")
        self.branch, self.cursor = branch, self.branches[branch].tip

    def way(self, moment: int) -> list[int]:
        """The moments from the beginning of a world to one."""
        found, at = [], moment
        while at is not None:
            found.append(at)
            at = self.moments[at].parent
        return found[::-1]

    @property
    def here(self) -> Moment:
        """The moment we are at."""
        return self.moments[self.cursor]

    @property
    def world(self) -> World:
        """The world we are in."""
        return self.worlds[self.here.world]

    def state(self, moment: int) -> Any:
        """The state at the end of a moment; made again from the moment before where it was forgotten."""
        if self._live is None or self._live[0] != moment:
            engine = self.worlds[self.moments[moment].world].engine
            self._live = moment, snapshots.unpack(self._snapshot(moment), engine.like)
        return self._live[1]

    def frames(self, moment: int) -> np.ndarray:
        """uint8 `[F, H, W, 3]` of a moment."""
        return self._snapshot(moment).frames

    def last(self) -> Seen:
        """The last picture of the moment we are at."""
        kept, cameras = self._snapshot(self.cursor), self.here.cameras
        return Seen(kept.frames[-1:], cameras[-1:], kept.kind[-1:], kept.age[-1:])

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Points `[N, 3]` of the memory here, and colours `[N, 3]`."""
        points, colours = self.world.engine.points(self.state(self.cursor))
        return points, np.full(points.shape, 128, np.uint8) if colours is None else colours

    def save_world(self, path: pathlib.Path) -> None:
        """Writes the world as it is here."""
        self.world.engine.save(path, self.state(self.cursor))

    def write(self, folder: pathlib.Path) -> None:
        """Writes the whole session, to go on with in another run."""
        if not self.moments:
            return
        self._store.flush(self.name)
        for number, world in self.worlds.items():
            world.engine.save_colours(folder / _COLOURS.format(number))
        record = {
            "format": FORMAT,
            "version": VERSION,
            "engines": self._engines.digest,
            "cursor": self.cursor,
            "branch": self.branch,
            "branches": [[number, b.name, b.tip] for number, b in self.branches.items()],
            "worlds": [[dataclasses.asdict(w.engine.settings), _camera_values(w.base)] for w in self.worlds.values()],
            "moments": [_moment_values(moment) for moment in self.moments.values()],
        }
        io.write_json(folder / _FILE, record)

    @classmethod
    def read(cls, folder: pathlib.Path, name: str, engines: Engines, store: snapshots.Store) -> Session | None:
        """The session that an earlier run wrote, or None if there is none that these engines can go on with."""
        if not (folder / _FILE).is_file():
            return None
        with io.foreign(folder / _FILE, "a session"):
            record = io.read_json_object(folder / _FILE)
            if record.get("format") != FORMAT or record.get("version") != VERSION:
                return None
            if record["engines"] != engines.digest:
                return None
            session = cls(name, engines, store)
            store.adopt(name)
            for number, (settings, base) in enumerate(record["worlds"]):
                session.worlds[number] = World(engines.get(Settings(**settings)), _camera(base))
                session.worlds[number].engine.load_colours(folder / _COLOURS.format(number))
            for values in record["moments"]:
                moment = _moment(values, session.worlds)
                session.moments[moment.number] = moment
                if moment.parent is None:
                    store.pin((name, moment.number))
            session.branches = {number: Branch(label, tip) for number, label, tip in record["branches"]}
            session.cursor, session.branch = record["cursor"], record["branch"]
            session.state(session.cursor)
            return session

    def _add(self, parent: int | None, world: int, stand: Stand, seen: Seen, prompt: str, state: Any) -> Moment:
        moment = Moment(
            number=len(self.moments),
            parent=parent,
            world=world,
            stand=stand,
            cameras=seen.cameras,
            prompt=prompt,
            thumbnail=jpeg(_small(seen.frames[-1]), 75),
            points=seen.points,
            overflow=seen.overflow,
            remembered=float((seen.kind > 0).mean()),
        )
        self._store.put((self.name, moment.number), snapshots.pack(state, seen))
        self.moments[moment.number] = moment
        self._live = moment.number, state
        return moment

    def _snapshot(self, moment: int) -> snapshots.Snapshot:
        found = self._store.get((self.name, moment))
        if found is not None:
            return found
        # Walk again from the nearest moment before it that is kept; one segment is a pure function.
        way = self.way(moment)
        start = next(n for n in reversed(way[:-1]) if self._store.get((self.name, n)) is not None)
        engine = self.worlds[self.moments[moment].world].engine
        state = snapshots.unpack(self._store.get((self.name, start)), engine.like)
        for number in way[way.index(start) + 1 :]:
            again = self.moments[number]
            state, seen = engine.step(state, again.cameras, again.prompt)
            found = snapshots.pack(state, seen)
            self._store.put((self.name, number), found)
        assert found is not None
        return found

    def _fork(self, moment: int) -> str:
        """Name of a branch that leaves its parent here: by the place in its row, which the page shows."""
        return f"fork at {len(self.way(moment))}"

    def _new_branch(self, name: str, tip: int) -> int:
        number = len(self.branches)
        self.branches[number] = Branch(name, tip)
        return number

    def _check(self, moment: int) -> None:
        if moment not in self.moments:
            raise UserError(f"there is no moment {moment}")


def jpeg(picture: np.ndarray, quality: int = 92) -> bytes:
    """A picture uint8 `[H, W, 3]` as JPEG; the same picture gives the same bytes."""
    stream = bytes_io.BytesIO()
    PIL.Image.fromarray(picture).save(stream, "JPEG", quality=quality, subsampling=0)
    return stream.getvalue()


def _small(picture: np.ndarray) -> np.ndarray:
    image = PIL.Image.fromarray(picture)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(image)


def _camera_values(camera: Camera) -> dict[str, Any]:
    arrays = {name: np.asarray(getattr(camera, name)).tolist() for name in ("intrinsics", "cam2world")}
    return {**arrays, "height": camera.height, "width": camera.width}


def _camera(values: dict[str, Any]) -> Camera:
    intrinsics, cam2world = (np.asarray(values[name], np.float32) for name in ("intrinsics", "cam2world"))
    return Camera(intrinsics, cam2world, int(values["height"]), int(values["width"]))


def _moment_values(moment: Moment) -> dict[str, Any]:
    rig = moment.stand.rig
    return {
        **{name: getattr(moment, name) for name in ("number", "parent", "world", "prompt", "points", "overflow")},
        "remembered": moment.remembered,
        "rig": [rig.floor.real, rig.floor.imag, rig.down, rig.yaw, rig.pitch],
        "cameras": _camera_values(moment.cameras),
        "thumbnail": base64.b64encode(moment.thumbnail).decode(),
    }


def _moment(values: dict[str, Any], worlds: dict[int, World]) -> Moment:
    forward, right, down, yaw, pitch = values["rig"]
    rig = trajectory.Rig(floor=complex(forward, right), down=down, yaw=yaw, pitch=pitch)
    return Moment(
        **{name: values[name] for name in ("number", "parent", "world", "prompt", "points", "overflow", "remembered")},
        stand=Stand(worlds[values["world"]].base, rig),
        cameras=_camera(values["cameras"]),
        thumbnail=base64.b64decode(values["thumbnail"]),
    )
