"""A thin, deterministic wrapper of ViZDoom: place a player, push it, look through its eye.

Lengths are map units, angles degrees counter-clockwise from +x, time tics.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile

import numpy as np
import vizdoom
from PIL import Image

from mirage_jax.data.doom import raycast, splits, wad

UNITS_PER_METRE = 32.0
_CROP = slice(60, 260)  # 200 of 320 columns: with Doom's tall pixels (fy = 1.2 fx) a crop of square field of view
_FOCAL_IN_CROP = 0.8  # focal length / side of the cropped picture: 160 px of 200, 192 px of 240
_FIRST_LABEL = 2  # smaller labels are surfaces of the world
_SETTLE = 25  # tics until a warped player has stopped sliding and falling
_MOVE_UNIT = 32.0  # one step of a move button adds 1/32 unit a tic to the velocity
_VARIABLES = ("CAMERA_POSITION_X", "CAMERA_POSITION_Y", "CAMERA_POSITION_Z", "CAMERA_ANGLE", "VELOCITY_X", "VELOCITY_Y")
_BUTTONS = ("MOVE_FORWARD_BACKWARD_DELTA", "MOVE_LEFT_RIGHT_DELTA", "TURN_LEFT_RIGHT_DELTA")
_HIDDEN = ("hud", "weapon", "crosshair", "particles", "screen_flashes", "messages", "decals", "effects_sprites")
_DEPTH_STEP, _DEPTH_OFFSET = 7.138, 5.4  # the engine's 8-bit depth v means v * step + offset up to two steps more
_DEPTH_SLACK = 2.0  # map units, and a share of the depth: floors change by much from row to row far away
_DEPTH_SHARE = 0.04
_DEPTH_LAST = 125  # larger values mean anything farther
_DEPTH_NEAREST = 24.0  # map units; nearer floors and ceilings overflow the buffer
_MOVING_CATEGORIES = ("Monster", "Projectile")


@dataclasses.dataclass(frozen=True)
class Observation:
    """One rendered frame with everything known about it."""

    frame: np.ndarray  # uint8 [size, size, 3]
    depth: np.ndarray  # float64 [size, size], metres; inf = sky, 0 = unknown
    dynamic: np.ndarray  # bool [size, size]
    position: np.ndarray  # [3] map units, of the eye
    angle: float


@dataclasses.dataclass(frozen=True)
class Capture:
    """One rendered frame as the game drew it; depth is computed later, if the clip is worth it."""

    state: vizdoom.GameState
    position: np.ndarray  # [3] map units, of the eye
    angle: float
    velocity: np.ndarray  # [2] map units a tic

    def frame(self, size: int) -> np.ndarray:
        """`[size, size, 3]` uint8 picture with square pixels, each the mean of the pixels under it."""
        picture = Image.fromarray(self.state.screen_buffer[:, _CROP])
        return np.asarray(picture.resize((size, size), Image.Resampling.BOX))


def iwad(map_name: str) -> pathlib.Path:
    """The WAD file, inside the vizdoom package, that holds a map."""
    return pathlib.Path(vizdoom.__file__).parent / ("freedoom2.wad" if map_name.startswith("MAP") else "freedoom1.wad")


class Engine:
    """A running game on one map.

    Args:
      map_name: a map of some split.
      monsters: whether the map's monsters are there.
      size: side of the square frames, pixels.

    Raises:
      UserError: if the map is reserved or in no split.
    """

    def __init__(self, map_name: str, *, monsters: bool, size: int = 128):
        splits.check_map(map_name)
        self.size = size
        self.map = wad.Wad(iwad(map_name)).map(map_name)
        game = vizdoom.DoomGame()
        game.set_doom_game_path(str(iwad(map_name)))
        game.set_doom_map(map_name)
        self._folder = tempfile.TemporaryDirectory(prefix="doom-")
        game.set_doom_config_path(f"{self._folder.name}/game.ini")  # else the game leaves its settings where it runs
        game.set_screen_resolution(vizdoom.ScreenResolution.RES_320X240)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_window_visible(False)
        game.set_mode(vizdoom.Mode.PLAYER)
        game.set_labels_buffer_enabled(True)
        game.set_depth_buffer_enabled(True)
        game.set_sectors_info_enabled(True)
        for name in _HIDDEN:
            getattr(game, f"set_render_{name}")(False)
        self._variables = [getattr(vizdoom.GameVariable, name) for name in _VARIABLES]
        game.set_available_game_variables(self._variables)
        game.set_available_buttons([getattr(vizdoom.Button, name) for name in _BUTTONS])
        game.set_episode_timeout(0)
        game.set_doom_skill(4)
        game.add_game_args("+sv_cheats 1 +movebob 0 +cl_showsecretmessage 0")
        game.add_game_args(f"+sv_nomonsters {0 if monsters else 1}")
        game.init()
        self._game = game

    def close(self) -> None:
        """Stops the game process."""
        self._game.close()
        self._folder.cleanup()

    def restart(self, seed: int) -> None:
        """Begins a new episode, frozen: only the player moves. Same seed, same frames."""
        self._game.set_seed(seed)
        self._game.new_episode()
        self._game.send_game_command("god")
        self._game.send_game_command("freeze")
        self._wait(12)  # a newly spawned player does not react at first

    def toggle_freeze(self) -> None:
        """Lets monsters, lifts and doors move, or stops them."""
        self._game.send_game_command("freeze")

    def summon(self, actor: str) -> None:
        """Adds an actor in front of the player, turned as the player is."""
        self._game.send_game_command(f"summon {actor}")
        self._wait(1)

    def place(self, x: float, y: float, angle: float) -> None:
        """Puts the player on the floor at (rounded) `x`, `y`, standing still, turned to `angle`."""
        self._game.send_game_command(f"warp {round(x)} {round(y)}")
        self._wait(_SETTLE)
        self.push(np.zeros(2), angle)

    def push(self, thrust: np.ndarray, angle: float) -> None:
        """Plays one tic.

        Args:
          thrust: `[2]` velocity to add, map units a tic, in map axes.
          angle: where to look afterwards.
        """
        turn = (angle - self.state()[1] + 180) % 360 - 180
        radians = np.deg2rad(angle)
        forward = thrust @ (np.cos(radians), np.sin(radians))
        right = thrust @ (np.sin(radians), -np.cos(radians))
        self._game.make_action([round(forward * _MOVE_UNIT), round(right * _MOVE_UNIT), -turn])

    def heights(self) -> tuple[np.ndarray, np.ndarray]:
        """`[S]` live floor and `[S]` live ceiling heights of the sectors."""
        return _heights(self._game.get_state())

    def state(self) -> tuple[np.ndarray, float, np.ndarray]:
        """Position of the eye `[3]`, angle, velocity `[2]`."""
        values = np.array([self._game.get_game_variable(variable) for variable in self._variables])
        return values[:3], float(values[3]), values[4:6]

    def capture(self) -> Capture:
        """The current frame as the game drew it."""
        return Capture(self._game.get_state(), *self.state())

    def observe(self, capture: Capture) -> Observation:
        """Depth, mask and pose of a captured frame."""
        state, position, angle = capture.state, capture.position, capture.angle
        floor, ceiling = _heights(state)
        view = raycast.View(*position, angle, _FOCAL_IN_CROP * self.size, self.size, self.size)
        depth = raycast.depth_map(self.map, view, floor=floor, ceiling=ceiling)
        labels = state.labels_buffer[:, _CROP]
        depth = _add_sprites(depth, labels, state.labels, view)
        depth[_refuted(depth, state.depth_buffer[:, _CROP])] = raycast.UNKNOWN
        moving = [label.value for label in state.labels if label.object_category in _MOVING_CATEGORIES]
        dynamic = _any_pixel(np.isin(labels, moving), self.size) if moving else np.zeros(depth.shape, bool)
        return Observation(capture.frame(self.size), depth / UNITS_PER_METRE, dynamic, position, angle)

    def _wait(self, tics: int) -> None:
        self._game.make_action([0, 0, 0], tics)


def _heights(state: vizdoom.GameState) -> tuple[np.ndarray, np.ndarray]:
    floor, ceiling = np.array([(sector.floor_height, sector.ceiling_height) for sector in state.sectors]).T
    return floor, ceiling


def _add_sprites(depth: np.ndarray, labels: np.ndarray, objects: list, view: raycast.View) -> np.ndarray:
    """Puts actors, which are billboards, at the z-depth of their position.

    Args:
      depth: `[size, size]` depth of the map, map units.
      labels: uint8 `[rows, columns]` label of every rendered pixel.
      objects: what the labels mean.
      view: where `depth` was taken.
    """
    size = view.height
    rows = ((np.arange(size) + 0.5) * labels.shape[0] / size).astype(int)
    columns = ((np.arange(size) + 0.5) * labels.shape[1] / size).astype(int)
    sampled = labels[rows[:, None], columns]
    radians = np.deg2rad(view.angle)
    result = depth.copy()
    for label in objects:
        if label.value >= _FIRST_LABEL:
            z = (label.object_position_x - view.x) * np.cos(radians) + (label.object_position_y - view.y) * np.sin(
                radians
            )
            result[sampled == label.value] = max(z, 1.0)
    return result


def _refuted(depth: np.ndarray, buffer: np.ndarray) -> np.ndarray:
    """`[size, size]` bool, where computed depth is outside what the engine drew there or right beside.

    The engine keeps depth in steps of 22 cm, which is too coarse to use but enough to catch a wrong surface. Sky
    cannot be compared: the engine leaves it as whatever lies behind.
    """
    size = depth.shape[0]
    rows = ((np.arange(size) + 0.5) * buffer.shape[0] / size).astype(int)
    columns = ((np.arange(size) + 0.5) * buffer.shape[1] / size).astype(int)
    padded = np.pad(buffer, 1, mode="edge")
    around = np.stack([padded[1 + i + rows[:, None], 1 + j + columns] for i in (-1, 0, 1) for j in (-1, 0, 1)])
    slack = _DEPTH_SLACK + _DEPTH_SHARE * np.where(np.isfinite(depth), depth, 0.0)
    low = around.min(axis=0) * _DEPTH_STEP + _DEPTH_OFFSET - slack
    high = (around.max(axis=0) + 2.0) * _DEPTH_STEP + _DEPTH_OFFSET + slack
    high[around.max(axis=0) > _DEPTH_LAST] = np.inf
    low[around.min(axis=0) == 0] = 0.0
    return np.isfinite(depth) & (depth > _DEPTH_NEAREST) & ((depth < low) | (depth > high))


def _any_pixel(mask: np.ndarray, size: int) -> np.ndarray:
    """`[size, size]` bool, whether any rendered pixel under an output pixel is set."""
    for axis in (0, 1):
        length = mask.shape[axis]
        starts = np.arange(size) * length // size
        mask = np.logical_or.reduceat(mask, starts, axis=axis)
    return mask
