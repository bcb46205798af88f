"""What is in a room: walls, textures, things that stand, and things that move by a script. No drawing.

Metres; y is up, the floor is y = 0. A plan view has x to the right and -z up, so that angles count counter-clockwise.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.worlds import paths
from experiments.worlds.clips import FOCAL
from experiments.worlds.paths import UNITS_PER_METRE

MOVERS = 3  # most moving objects of a clip
KINDS = ("walk", "look_away", "there_and_back", "closed_loop", "orbit")
MOTION = {"none": (0.0, 0.0), "1-5": (0.01, 0.05), "5-15": (0.05, 0.15), "15+": (0.15, 0.45)}
"""Classes of motion, and the least and largest share of moving pixels of a clip."""

SPLITS = {"train": 0, "validation": 1, "test": 2}
"""Splits draw their scenes from streams of random numbers that have nothing in common."""

_WALLS = ("brick_wall", "cardboard", "cinder_blocks", "concrete", "drywall", "marble", "metal_grill", "rock", "stucco")
_WALLS += ("wood", "wood_planks", "airduct_grate")
_FLOORS = ("asphalt", "concrete", "concrete_tiles", "floor_tiles_bw", "grass", "marble", "rock", "wood", "wood_planks")
_CEILINGS = ("ceiling_tiles", "concrete", "concrete_tiles", "wood", "stucco", "ceiling_tile_noborder")
_PROPS = ("barrel", "cone", "office_chair", "office_desk", "tree", "tree_pine", "medkit", "potion", "building")
_PROPS += ("duckie",)
_PROP_HEIGHT = {"tree": 2.4, "tree_pine": 2.4, "building": 1.6, "medkit": 0.6, "potion": 0.6, "duckie": 0.7}
_PROP_HEIGHT |= {"cone": 0.8}
"""Metres; others are 1 high."""

_PROP_WIDTH = {"building": 1.4, "office_desk": 2.2, "medkit": 1.5, "barrel": 0.8, "potion": 0.6, "cone": 0.9}
"""Width / height of meshes, about; others are 1."""

_MOVING = ("ball_red", "ball_blue", "ball_green", "ball_purple", "ball_yellow", "duckie", "barrel", "office_chair", "")
_CLEARANCE = 0.7  # metres between the camera's path and walls or things
_APART = 0.25  # metres between the way of a moving object and what stands
_TRIES = 60


@dataclasses.dataclass(frozen=True)
class Door:
    """An opening of a wall, from its first corner; metres."""

    wall: int
    start: float
    end: float
    height: float


@dataclasses.dataclass(frozen=True)
class RoomPlan:
    """One room. Corners `[N, 2]` of x and z, counter-clockwise seen from above; a room without a ceiling has a sky."""

    outline: np.ndarray
    height: float
    wall: str
    floor: str
    ceiling: str  # "" = none
    doors: tuple[Door, ...] = ()


@dataclasses.dataclass(frozen=True)
class Prop:
    """A mesh of MiniWorld scaled to a height, or a plain box if `mesh` is "". Its position is where it stands."""

    mesh: str
    position: np.ndarray  # [3]
    angle: float
    size: tuple[float, float, float]
    colour: tuple[float, float, float]
    radius: float  # metres, of a circle around its foot


@dataclasses.dataclass(frozen=True)
class Mover:
    """A thing that moves whether or not it is seen."""

    shape: Prop
    positions: np.ndarray  # [T, 3] middle of its foot
    angles: np.ndarray  # [T]

    @property
    def centres(self) -> np.ndarray:
        """`[T, 3]` of its bounding box."""
        return self.positions + np.array([0.0, self.shape.size[1] / 2, 0.0])


@dataclasses.dataclass(frozen=True)
class Scene:
    """All that is drawn."""

    rooms: tuple[RoomPlan, ...]
    props: tuple[Prop, ...]
    movers: tuple[Mover, ...]
    lamp: tuple[float, float, float]
    ambient: float
    diffuse: float
    sky: tuple[float, float, float]
    seed: int  # of what is drawn at random when it is loaded: variants of textures


def scene(rng: np.random.Generator) -> Scene:
    """Draws one or two rooms with things that stand; nothing moves yet."""
    width, length = rng.uniform(7.0, 15.0, 2)
    height = float(rng.uniform(2.6, 4.2))
    first = _rectangle(0.0, width, 0.0, length)
    ceiling = _pick(rng, _CEILINGS) if rng.random() < 0.7 else ""
    looks = [(_pick(rng, _WALLS), _pick(rng, _FLOORS), ceiling) for _ in range(2)]
    rooms = [RoomPlan(first, height, *looks[0])]
    if rng.random() < 0.5:  # a second room beyond the east wall, through a door
        beyond, depth = rng.uniform(4.0, 9.0), rng.uniform(0.6, 1.0) * length
        middle, half = rng.uniform(0.35, 0.65) * depth, min(rng.uniform(0.8, 1.6), 0.3 * depth)
        tall = float(rng.uniform(2.1, 2.5))
        rooms = [
            dataclasses.replace(rooms[0], doors=(Door(0, length - middle - half, length - middle + half, tall),)),
            RoomPlan(
                _rectangle(width, width + beyond, 0.0, depth),
                height,
                *looks[1],
                (Door(2, middle - half, middle + half, tall),),
            ),
        ]
    props: list[Prop] = []
    for _ in range(int(rng.integers(6, 15))):
        kind = _pick(rng, _PROPS) if rng.random() < 0.5 else ""
        prop = _prop(rng, kind, (0.4, 1.3))
        room = rooms[int(rng.integers(len(rooms)))]
        if (spot := _free_spot(rng, room, props, prop.radius)) is not None:
            props.append(dataclasses.replace(prop, position=spot))
    return Scene(
        rooms=tuple(rooms),
        props=tuple(props),
        movers=(),
        lamp=(float(width * rng.uniform(0.3, 0.7)), height + 1.5, float(length * rng.uniform(0.3, 0.7))),
        ambient=float(rng.uniform(0.4, 0.6)),
        diffuse=float(rng.uniform(0.5, 0.8)),
        sky=tuple(float(c) for c in np.array([0.3, 0.7, 1.0]) * rng.uniform(0.7, 1.0, 3)),
        seed=int(rng.integers(1 << 31)),
    )


class FreeSpace(paths.FreeSpace):
    """Where a camera may go in the first room of a scene, for `paths.plan`, whose unit is 1/32 m.

    Args:
      scene: with things that stand.
    """

    MARGIN = _CLEARANCE * UNITS_PER_METRE

    def __init__(self, scene: Scene):
        outline = scene.rooms[0].outline * [1, -1]
        self._low, self._high = outline.min(axis=0), outline.max(axis=0)
        discs = [(*prop.position[[0, 2]], prop.radius) for prop in scene.props]
        table = np.array(discs).reshape(-1, 3)
        self._discs, self._radii = table[:, :2] * [1, -1], table[:, 2]

    def clearance(self, points: np.ndarray) -> np.ndarray:
        """`[N]` distance of points `[N, 2]` to the nearest wall or thing."""
        points = points / UNITS_PER_METRE
        walls = np.minimum(points - self._low, self._high - points).min(axis=1)
        away = np.linalg.norm(points[:, None] - self._discs, axis=-1) - self._radii
        return np.minimum(walls, away.min(axis=1, initial=np.inf)) * UNITS_PER_METRE

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A random point `[2]` of the room."""
        return rng.uniform(self._low, self._high) * UNITS_PER_METRE


def movers(
    rng: np.random.Generator, scene: Scene, eye: np.ndarray, angle: float, frames: int, share: float
) -> tuple[Mover, ...]:
    """Draws what moves: the first is in view of the first camera, at a distance at which it fills about `share` of it.

    Args:
      rng: of what is drawn.
      scene: in whose first room they move.
      eye: `[2]` x and z of the first camera.
      angle: of its gaze in the plan, radians.
      frames: of the clip.
      share: of the pixels that should move.

    Returns:
      One to `MOVERS`; none if there was no room.
    """
    made: list[Mover] = []
    count = int(rng.integers(1, MOVERS + 1))
    for number in range(count):
        for _ in range(_TRIES):
            shape = _prop(rng, _pick(rng, _MOVING), (0.5, 0.5 + 4.0 * np.sqrt(share)))
            area = 0.75 * min(shape.size[0], shape.size[2]) * shape.size[1]
            distance = FOCAL * np.sqrt(area * count / share) * rng.uniform(0.8, 1.2)
            towards = angle + (rng.uniform(-0.35, 0.35) if number == 0 else rng.uniform(-0.6, 0.6))
            centre = eye + distance * np.array([np.cos(towards), -np.sin(towards)])
            positions, angles = _script(rng, centre, towards, frames)
            if distance > shape.radius + 0.9 and _clear(scene, made, positions, shape.radius, eye):
                made.append(Mover(shape, positions, angles))
                break
    return tuple(made)


def _script(rng: np.random.Generator, centre: np.ndarray, gaze: float, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """`[T, 3]` positions and `[T]` angles of a swing or a circle around a point, which never rests."""
    period = rng.uniform(24, 80)  # frames
    phase = 2 * np.pi * (np.arange(frames) / period + rng.random()) * rng.choice([-1, 1])
    reach = rng.uniform(0.3, 1.1)
    across = np.array([np.sin(gaze), np.cos(gaze)])  # x and z, at right angles to the gaze
    along = np.array([np.cos(gaze), -np.sin(gaze)])
    round_ = rng.uniform(0.3, 1.0) if rng.random() < 0.5 else rng.uniform(0.0, 0.3)
    plan = centre + reach * (np.sin(phase)[:, None] * across + round_ * np.cos(phase)[:, None] * along)
    positions = np.stack([plan[:, 0], np.zeros(frames), plan[:, 1]], axis=1)
    return positions, phase * rng.uniform(0.3, 1.0) + rng.uniform(0, 2 * np.pi)


def _clear(scene: Scene, made: list[Mover], positions: np.ndarray, radius: float, eye: np.ndarray) -> bool:
    """Whether the way of a mover keeps off walls, things, the first camera and the other movers."""
    plan = positions[:, [0, 2]]
    low, high = scene.rooms[0].outline.min(axis=0), scene.rooms[0].outline.max(axis=0)
    if np.minimum(plan - low, high - plan).min() < radius + _APART / 2:
        return False
    if np.linalg.norm(plan - eye, axis=1).min() < radius + _CLEARANCE:
        return False
    for prop in scene.props:
        if np.linalg.norm(plan - prop.position[[0, 2]], axis=1).min() < radius + prop.radius + _APART / 2:
            return False
    return all(
        np.linalg.norm(positions - other.positions, axis=1).min() > radius + other.shape.radius for other in made
    )


def _prop(rng: np.random.Generator, mesh: str, sizes: tuple[float, float]) -> Prop:
    """A thing at the origin; the sizes are those of a box's sides, or the height of what has no usual one."""
    colour = tuple(float(c) for c in rng.uniform(0.1, 1.0, 3))
    if mesh:
        tall = _PROP_HEIGHT.get(mesh, 1.0) if sizes[1] < 1.31 else float(rng.uniform(*sizes))
        wide = tall * _PROP_WIDTH.get(mesh, 1.0)
        size = (wide, tall, wide)
    else:
        size = tuple(float(side) for side in rng.uniform(*sizes, 3))
    radius = float(np.hypot(size[0], size[2]) / 2)
    return Prop(mesh, np.zeros(3), float(rng.uniform(0, 2 * np.pi)), size, colour, radius)


def _free_spot(rng: np.random.Generator, room: RoomPlan, props: list[Prop], radius: float) -> np.ndarray | None:
    """A place `[3]` off the walls and other things of a room; None if there is none."""
    low, high = room.outline.min(axis=0) + radius + 0.05, room.outline.max(axis=0) - radius - 0.05
    if (low >= high).any():
        return None
    for _ in range(20):
        spot = rng.uniform(low, high)
        if all(np.linalg.norm(spot - p.position[[0, 2]]) > radius + p.radius + 0.1 for p in props):
            return np.array([spot[0], 0.0, spot[1]])
    return None


def _rectangle(min_x: float, max_x: float, min_z: float, max_z: float) -> np.ndarray:
    return np.array([[max_x, max_z], [max_x, min_z], [min_x, min_z], [min_x, max_z]])


def _pick(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(rng.integers(len(names)))]
