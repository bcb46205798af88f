"""A Spatia case folder.

`img.jpg`, `intrinsics.txt` = `[fx/W fy/H cx/W cy/H]`, `w2c.txt` = one JSON 4x4 world-to-camera
matrix a line (OpenCV axes), `prompt.txt`, and perhaps `mask.png`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image

from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.geometry.pose_files import checks
from mirage_jax.geometry.pose_files.record import Record


def read(folder: Path) -> Record:
    """Reads a Spatia case; the intrinsics fit images of any size, by default that of the image.

    Raises `UserError` if a file is missing or not in the format, or a pose is not rigid.
    """
    image = next((p for p in (folder / name for name in ("img.jpg", "img.png")) if p.exists()), None)
    source = str(folder / "intrinsics.txt")
    words = io.read_text(folder / "intrinsics.txt").replace("[", " ").replace("]", " ").replace(",", " ")
    prompt, mask = folder / "prompt.txt", folder / "mask.png"
    return Record(
        format="Spatia case folder",
        path=folder,
        source=source,
        cam2world=checks.inverse(_world2cam(folder / "w2c.txt")),
        intrinsics=checks.pinhole(*io.numbers(source, " ".join(words.split()), 4)),
        sizes=None if image is None else _image_size(image),
        normalised=True,
        image=image,
        mask=mask if mask.exists() else None,
        prompt=" ".join(io.read_text(prompt).split()) if prompt.exists() else "",
    )


def _world2cam(path: Path) -> np.ndarray:
    """`[T, 4, 4]` world-to-camera from a file with a matrix a line."""
    matrices = []
    for frame, line in enumerate(io.read_lines(path)):
        try:
            matrices.append(io.parse_json(line, str(path)))
        except UserError:
            raise UserError(
                f"{path}: frame {frame} is not a 4x4 matrix in JSON; expected [[...], [...], ...]"
            ) from None
    return checks.rigid(str(path), "world-to-camera", matrices)


def _image_size(path: Path) -> tuple[int, int]:
    """(height, width) from the header of a picture."""
    with io.foreign(path, "a picture that can be read"), PIL.Image.open(path) as picture:
        return picture.height, picture.width
