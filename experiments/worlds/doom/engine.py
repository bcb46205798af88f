"""A thin, deterministic wrapper of ViZDoom: place a player, push it, capture what it sees.

Lengths are map units, angles degrees counter-clockwise from +x, time tics.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import tempfile

import numpy as np
import vizdoom

from experiments.worlds.doom import splits, wad
from experiments.worlds.doom.observe import Capture, live_heights
from experiments.worlds.doom.variant import AS_IT_IS, Variant
from mirage_jax.errors import UserError

_SETTLE = 25  # tics until a warped player has stopped sliding and falling
_MOVE_UNIT = 32.0  # one step of a move button adds 1/32 unit a tic to the velocity
_VARIABLES = ("CAMERA_POSITION_X", "CAMERA_POSITION_Y", "CAMERA_POSITION_Z", "CAMERA_ANGLE", "VELOCITY_X", "VELOCITY_Y")
_BUTTONS = ("MOVE_FORWARD_BACKWARD_DELTA", "MOVE_LEFT_RIGHT_DELTA", "TURN_LEFT_RIGHT_DELTA")
_HIDDEN = ("hud", "weapon", "crosshair", "particles", "screen_flashes", "messages", "decals", "effects_sprites")


_FREEDM = pathlib.Path("/usr/share/games/doom/freedm.wad")  # where Debian's package `freedm` puts it


def iwad(map_name: str) -> tuple[pathlib.Path, str]:
    """The WAD file that holds a map, and the map's name there; Freedoom is part of the vizdoom package.

    Raises:
      UserError: if it is a map of FreeDM, and that is not installed.
    """
    if splits.game_of(map_name) == "freedm":
        if not _FREEDM.is_file():
            raise UserError(f"maps of FreeDM need {_FREEDM}; on Debian and Ubuntu run: sudo apt-get install freedm")
        return _FREEDM, f"MAP{map_name.removeprefix('DM')}"
    file = "freedoom2.wad" if map_name.startswith("MAP") else "freedoom1.wad"
    return pathlib.Path(vizdoom.__file__).parent / file, map_name


class Engine:
    """A running game on one map.

    Args:
      map_name: a map of some split.
      monsters: whether the map's monsters are there.
      variant: what is changed of the map.

    Raises:
      UserError: if the map is reserved or in no split, or its game is not installed.
    """

    def __init__(self, map_name: str, *, monsters: bool, variant: Variant = AS_IT_IS):
        splits.check_map(map_name)
        file, name = iwad(map_name)
        source = wad.Wad(file)
        lumps = variant.lumps(source, name)
        self.map = dataclasses.replace(source.map(name, lumps), name=map_name)
        self.variant = variant
        game = vizdoom.DoomGame()
        game.set_doom_game_path(str(file))
        game.set_doom_map(name)
        self._folder = tempfile.TemporaryDirectory(prefix="doom-")  # else settings and a cache are left where it runs
        game.set_doom_config_path(f"{self._folder.name}/game.ini")
        if variant != AS_IT_IS:
            changed = pathlib.Path(self._folder.name, "changed.wad")
            changed.write_bytes(wad.build({name: b"", **lumps}))
            game.set_doom_scenario_path(str(changed))
        game.set_screen_resolution(vizdoom.ScreenResolution.RES_320X240)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_window_visible(False)
        game.set_mode(vizdoom.Mode.PLAYER)
        game.set_labels_buffer_enabled(True)
        game.set_depth_buffer_enabled(True)
        game.set_sectors_info_enabled(True)
        for hidden in _HIDDEN:
            getattr(game, f"set_render_{hidden}")(False)
        self._variables = [getattr(vizdoom.GameVariable, name) for name in _VARIABLES]
        game.set_available_game_variables(self._variables)
        game.set_available_buttons([getattr(vizdoom.Button, name) for name in _BUTTONS])
        game.set_episode_timeout(0)
        game.set_doom_skill(4)
        game.add_game_args("+sv_cheats 1 +movebob 0 +cl_showsecretmessage 0")
        game.add_game_args(f"+sv_nomonsters {0 if monsters else 1}")
        with contextlib.chdir(self._folder.name):
            game.init()
        self._game = game

    def close(self) -> None:
        """Stops the game process."""
        self._game.close()
        self._folder.cleanup()

    def restart(self, seed: int) -> None:
        """Begins a new episode, frozen: only the player moves.

        Same seed, same frames; but monsters may show another step of their animation in a game that has played other
        episodes than in one that has just begun.
        """
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
        return live_heights(self._game.get_state())

    def state(self) -> tuple[np.ndarray, float, np.ndarray]:
        """Position of the eye `[3]`, angle, velocity `[2]`."""
        values = np.array([self._game.get_game_variable(variable) for variable in self._variables])
        return values[:3], float(values[3]), values[4:6]

    def capture(self) -> Capture:
        """The current frame as the game drew it."""
        return Capture(self._game.get_state(), *self.state())

    def _wait(self, tics: int) -> None:
        self._game.make_action([0, 0, 0], tics)
