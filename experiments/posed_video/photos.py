"""Any picture file as eight bits of red, green and blue, with what had to be done to it said in sentences."""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
import warnings

import numpy as np
import PIL.Image
import PIL.ImageColor
import PIL.ImageOps

from mirage_jax import io
from mirage_jax.errors import UserError

BACKGROUND = "white"
"""What is seen through transparent parts, unless the caller says otherwise."""

_ORIENTATION = 0x0112  # EXIF tag
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm")
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # modes of more than eight bits
_WHITES = {"iu": (255.0, 4095.0, 65535.0), "f": (1.0, 255.0, 65535.0)}  # values that files call white, by kind


@dataclasses.dataclass(frozen=True)
class Photo:
    """A picture, upright.

    Attributes:
      pixels: uint8 `[H, W, 3]`.
      stored: (height, width) as it is in the file.
      orientation: EXIF number, 1 to 8, of the turn from the file to `pixels`; 1 for none.
      notes: sentences on what was done.
    """

    pixels: np.ndarray  # [H, W, 3]
    stored: tuple[int, int]
    orientation: int
    notes: tuple[str, ...]

    def upright(self, values: np.ndarray) -> np.ndarray:
        """A map `[h, w]` on the grid of the file, turned as the picture was."""
        if self.orientation >= 5:
            values = values.swapaxes(0, 1)
        flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
        return np.flip(values, flips.get(self.orientation, ()))

    def upright_intrinsics(self, fx: float, fy: float, cx: float, cy: float) -> tuple[float, float, float, float]:
        """Focal lengths and principal point in pixels of the file, for the picture as it was turned."""
        height, width = self.stored
        if self.orientation >= 5:
            fx, fy, cx, cy, height, width = fy, fx, cy, cx, width, height
        if self.orientation in (2, 3, 6, 7):
            cx = width - cx
        if self.orientation in (3, 4, 7, 8):
            cy = height - cy
        return fx, fy, cx, cy


def read(path: str | pathlib.Path, *, background: str | None = None, one_of_many: bool = False) -> Photo:
    """Reads a picture of any format that Pillow knows, and HEIC where the package pillow-heif is installed.

    Args:
      path: the file.
      background: name of the colour behind transparent parts, as CSS has it; None is `BACKGROUND`.
      one_of_many: a picture of a series with cameras. It is left as it lies in the file, which is what camera files
        speak of, and white is that of its type and not of its own range, so that all pictures have the same.

    Raises:
      UserError: if there is no such file, it is no picture, damaged, far too large or of values that are no picture,
        the colour is unknown, or one is named for a picture without transparency.
    """
    path = pathlib.Path(path)
    try:
        colour = PIL.ImageColor.getrgb(background or BACKGROUND)[:3]
    except ValueError:
        raise UserError(f"background {background!r} is no colour; expected a name such as white, or #rrggbb") from None
    if not path.is_file():
        raise UserError(f"no file {io.shown(path)}")
    picture, orientation = _decoded(path)
    stored = (picture.height, picture.width)
    notes = []
    with io.foreign(path, "a picture that can be read"):
        if one_of_many:
            orientation = 1
        if orientation != 1:
            picture = PIL.ImageOps.exif_transpose(picture)
            notes.append("picture turned upright, as its EXIF data say")
        if picture.mode in _DEEP:
            pixels, note = _eight_bits(path, np.asarray(picture), own_range=not one_of_many)
            return Photo(np.stack([pixels] * 3, axis=-1), stored, orientation, (*notes, note))
        if picture.has_transparency_data:
            layered = picture.convert("RGBA")
            if layered.getextrema()[3][0] < 255:
                below = PIL.Image.new("RGBA", picture.size, (*colour, 255))
                picture, shade = PIL.Image.alpha_composite(below, layered), background or BACKGROUND
                notes.append(f"transparent parts of the picture shown over {shade} (--background for another colour)")
                background = None
        if background is not None:
            raise UserError(f"{path} has no transparent parts; leave the background out")
        return Photo(np.asarray(picture.convert("RGB")), stored, orientation, tuple(notes))


def _decoded(path: pathlib.Path) -> tuple[PIL.Image.Image, int]:
    """The picture as it lies in the file, and its EXIF orientation."""
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC:
        _register_heif(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures and odd EXIF data, which are neither here nor there
            with PIL.Image.open(path) as picture:
                picture.load()
                orientation = picture.getexif().get(_ORIENTATION, 1)
                return picture, orientation if orientation in range(1, 9) else 1
    except PIL.UnidentifiedImageError as error:
        kind = "a video, not a picture" if path.suffix.lower() in _VIDEOS else "no picture"
        raise UserError(f"{path}: {kind} that can be read; expected PNG, JPEG or the like") from error
    except PIL.Image.DecompressionBombError as error:
        most = 2 * (PIL.Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise UserError(f"{path}: has more than {most:.0f} megapixels; make it smaller first") from error
    except Exception as error:  # Pillow's decoders raise of every kind; all mean the same to a person
        reason = io.shown(error)
        raise UserError(
            f"{path} is not a picture that can be read, but a damaged or truncated picture ({reason})"
        ) from error


def _register_heif(path: pathlib.Path) -> None:
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        raise UserError(
            f"{path} is a HEIC picture; expected PNG or JPEG, or that the package that reads HEIC is installed "
            "(pip install pillow-heif)"
        ) from None


def _eight_bits(path: pathlib.Path, values: np.ndarray, own_range: bool) -> tuple[np.ndarray, str]:
    """uint8 `[H, W]` of deeper values, white at the least usual white that none exceeds, and a sentence about it.

    Without `own_range`, whole numbers are white at the largest usual white.
    """
    kind = "f" if values.dtype.kind == "f" else "iu"
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise UserError(f"{path}: its {values.size} values hold NaN or infinity; expected a picture")
    largest = values.max()
    whites = _WHITES[kind] if own_range or kind == "f" else _WHITES[kind][-1:]
    white = next((white for white in whites if largest <= white), largest)
    name = "floating point" if kind == "f" else "more than eight bits"
    note = f"picture of {name}, values {values.min():g} to {largest:g}: {white:g} is taken to be white"
    return np.round(np.clip(values / white, 0.0, 1.0) * 255).astype(np.uint8), note
