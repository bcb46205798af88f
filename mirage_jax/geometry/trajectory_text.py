"""The trajectory language: text to a list of steps.

    trajectory := step (";" step)*      a line break does for ";" too
    step       := move ("&" move)* ["@" weight]
                                        moves joined by "&" happen together
                | "pause" ["@" weight]  stand still
                | "back" ["@" weight]   retrace everything since the start,
                                        or since the last "back"
                | "smooth" | "linear"   easing of the steps that follow;
                                        smooth is the default
                | preset ["x" scale]    there_and_back, orbit, look_around or
                                        corridor; "orbit x0.5" goes half as far
    move       := ("forward" | "backward" | "left" | "right" | "up" | "down"
                   | "dolly") distance
                | ("yaw" | "pitch" | "roll") degrees
                | "orbit" degrees [distance]
                                        round a point straight ahead, by
                                        default as far away as the scene is
                | "zoom" factor         of the focal length: 2 shows half as much
    distance   := number                in scene units
                | number "d"            in scene depths, as in "forward 0.5d"

What the moves mean for the camera is in `trajectory.py`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Callable

from mirage_jax import io
from mirage_jax.errors import UserError

DISTANCES = ("forward", "backward", "left", "right", "up", "down", "dolly")
ANGLES = ("yaw", "pitch", "roll")

PRESETS: dict[str, Callable[[float], str]] = {
    "there_and_back": lambda scale: f"forward {0.5 * scale!r}d; back",
    "orbit": lambda scale: f"orbit {40 * scale!r}; back",
    "look_around": lambda scale: f"yaw {60 * scale!r}; back; yaw {-60 * scale!r}; back",
    "corridor": lambda scale: f"forward {0.8 * scale!r}d; yaw 180 @ 2; forward {0.8 * scale!r}d; yaw 180 @ 2",
}
"""Name -> text of the preset at a scale (distances or angles are multiplied by it)."""

GRAMMAR = (__doc__ or "").split("\n\n")[1]
"""For people to read."""

_WORDS = (*DISTANCES, *ANGLES, "orbit", "zoom", "pause", "back", "smooth", "linear", *PRESETS)
_LARGEST = 1e6  # scene units, degrees or times: more is no path, and float32 would not tell its frames apart
_ZOOMS = (0.01, 100.0)
_NOT_WITH_ORBIT = ("forward", "backward", "left", "right", "dolly", "yaw")


@dataclasses.dataclass(frozen=True)
class Step:
    """Moves that happen together.

    Attributes:
      text: as the user wrote it, for messages.
      forward, right, down: metres or other scene units, level with the start.
      dolly: scene units along the line of sight.
      yaw, pitch, roll: degrees.
      orbit: degrees round the point `orbit_distance` scene units straight ahead.
      zoom: natural logarithm of the factor on the focal length.
      weight: share of the frames, relative to other steps.
      smooth: whether to start and end gently.
    """

    text: str
    forward: float = 0.0
    right: float = 0.0
    down: float = 0.0
    dolly: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    orbit: float = 0.0
    orbit_distance: float = 0.0
    zoom: float = 0.0
    weight: float = 1.0
    smooth: bool = True


@dataclasses.dataclass(frozen=True)
class Back:
    """Retraces the steps since the last `Back`.

    Attributes:
      text: as the user wrote it.
      weight: share of the frames; None means as many as the way there.
    """

    text: str
    weight: float | None = None


def read(text: str, scene_depth: float | None = None) -> list[Step | Back]:
    """The steps that `text` asks for, presets expanded and distances in scene units.

    Args:
      text: a trajectory in the language above.
      scene_depth: scene units that `1d` stands for; needed only where the text uses it.

    Raises:
      UserError: naming the step, what was found and what was expected.
    """
    if scene_depth is not None and not (math.isfinite(scene_depth) and scene_depth > 0):
        raise UserError(f"trajectory: the scene depth is {scene_depth}; expected a positive number of scene units")
    steps: list[Step | Back] = []
    smooth = True
    for number, piece in enumerate(_pieces(text), start=1):
        reader = _StepReader(f"trajectory: step {number} ('{io.shown(piece)}')", scene_depth)
        if piece in ("smooth", "linear"):
            smooth = piece == "smooth"
            continue
        step = reader.read(piece, smooth)
        if isinstance(step, Back) and (not steps or isinstance(steps[-1], Back)):
            raise UserError(f"{reader.where}: there is nothing to retrace; expected a move before 'back'")
        steps.append(step)
    if not steps:
        raise UserError(
            f"trajectory: '{io.shown(text.strip())}' has no steps; expected something like 'forward 2; yaw 90; back'"
        )
    return steps


def _pieces(text: str) -> list[str]:
    """The steps as text, lower case, with presets expanded."""
    pieces = []
    for piece in re.split(r"[;\n]", text.lower()):
        piece = " ".join(piece.split())
        preset = re.fullmatch(rf"({'|'.join(PRESETS)})(?: x(\S+))?", piece)
        if preset:
            name, scale = preset.groups()
            factor = _number(scale or "1", f"trajectory: preset '{io.shown(piece)}'", "a scale, as in 'orbit x0.5'")
            if factor <= 0:
                raise UserError(f"trajectory: preset '{io.shown(piece)}' has scale {scale}; expected a positive number")
            pieces += [part.strip() for part in PRESETS[name](factor).split(";")]
        elif piece:
            pieces.append(piece)
    return pieces


@dataclasses.dataclass(frozen=True)
class _StepReader:
    """Reads one step; `where` begins every message about it."""

    where: str
    scene_depth: float | None

    def read(self, piece: str, smooth: bool) -> Step | Back:
        body, _, weight_text = piece.partition("@")
        weight = None
        if "@" in piece:
            weight = _number(weight_text.strip(), self.where, "a weight after '@', as in 'yaw 90 @ 2'")
            if weight <= 0:
                raise UserError(f"{self.where}: the weight is {weight_text.strip()}; expected a positive number")
        moves = [move.split() for move in body.split("&")]
        for move in moves:
            if not move:
                raise UserError(f"{self.where}: a move is missing; expected one on each side of '&' and before '@'")
            self._check_word(move[0], alone=len(moves) == 1)
        if moves[0][0] in ("pause", "back"):
            if len(moves[0]) > 1:
                raise UserError(
                    f"{self.where}: '{moves[0][0]}' takes no number; to give it more frames write "
                    f"'{moves[0][0]} @ {io.shown(moves[0][1])}'"
                )
            return Back(piece, weight) if moves[0][0] == "back" else Step(piece, weight=weight or 1.0)
        return self._combined(piece, moves, weight or 1.0, smooth)

    def _check_word(self, word: str, alone: bool) -> None:
        if word not in _WORDS:
            nearest = difflib.get_close_matches(word, _WORDS, n=1)
            hint = f"did you mean '{nearest[0]}'?" if nearest else f"expected one of: {', '.join(_WORDS)}"
            raise UserError(f"{self.where}: unknown word '{io.shown(word)}'; {hint}")
        if word not in (*DISTANCES, *ANGLES, "orbit", "zoom", "pause", "back") or (
            word in ("pause", "back") and not alone
        ):
            raise UserError(f"{self.where}: '{word}' must stand alone in its step, between ';'")

    def _combined(self, piece: str, moves: list[list[str]], weight: float, smooth: bool) -> Step:
        words = [move[0] for move in moves]
        if "orbit" in words and (words.count("orbit") > 1 or any(word in _NOT_WITH_ORBIT for word in words)):
            raise UserError(f"{self.where}: with 'orbit' only up, down, pitch, roll and zoom can be at the same time")
        total = dict.fromkeys(
            ("forward", "right", "down", "dolly", "yaw", "pitch", "roll", "orbit", "orbit_distance", "zoom"), 0.0
        )
        for word, *numbers in moves:
            most = 2 if word == "orbit" else 1
            if not 1 <= len(numbers) <= most:
                expected = {1: "one number", 2: "degrees and perhaps a distance"}[most]
                raise UserError(f"{self.where}: '{word}' has {len(numbers)} numbers after it; expected {expected}")
            if word == "orbit":
                total["orbit"] = self._angle(word, numbers[0])
                total["orbit_distance"] = self._orbit_distance(numbers[1] if len(numbers) == 2 else "1d")
            elif word == "zoom":
                total["zoom"] += self._zoom(numbers[0])
            elif word in ANGLES:
                total[word] += self._angle(word, numbers[0])
            else:
                name, sign = {"backward": ("forward", -1), "left": ("right", -1), "up": ("down", -1)}.get(
                    word, (word, 1)
                )
                total[name] += sign * self._distance(word, numbers[0])
        return Step(piece, **total, weight=weight, smooth=smooth)

    def _angle(self, word: str, text: str) -> float:
        return _number(text, self.where, f"degrees after '{word}', as in '{word} 30'")

    def _zoom(self, text: str) -> float:
        factor = _number(text, self.where, "a factor after 'zoom', as in 'zoom 2'")
        low, high = _ZOOMS
        if not low <= factor <= high:
            raise UserError(f"{self.where}: the zoom is {text}; expected a factor from {low:g} to {high:g}")
        return math.log(factor)

    def _distance(self, word: str, text: str) -> float:
        fraction = text.endswith("d")
        value = _number(text.removesuffix("d"), self.where, f"a distance after '{word}', as in '2' or '0.5d'")
        if not fraction:
            return value
        if self.scene_depth is None:
            raise UserError(
                f"{self.where}: a distance in scene depths needs the depth of the scene, which is not known here; "
                f"expected scene units, as in 'forward 2' or 'orbit 40 3'"
            )
        return value * self.scene_depth

    def _orbit_distance(self, text: str) -> float:
        distance = self._distance("orbit", text)
        if distance <= 0:
            raise UserError(f"{self.where}: the distance to orbit at is {text}; expected a positive number")
        return distance


def _number(text: str, where: str, expected: str) -> float:
    """A finite number, or a `UserError` that says where and what was expected."""
    found = io.shown(text)
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{where}: found '{found}'; expected {expected}") from None
    if not math.isfinite(value):
        raise UserError(f"{where}: found '{found}', which is not finite; expected {expected}")
    if abs(value) > _LARGEST:
        raise UserError(f"{where}: found '{found}'; expected {expected}, and at most {_LARGEST:g}")
    return value
