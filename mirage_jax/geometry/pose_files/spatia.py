"""A Spatia case folder.

`img.jpg`, `intrinsics.txt` = `[fx/W fy/H cx/W cy/H]`, `w2c.txt` = one JSON 4x4 world-to-camera
matrix a line (OpenCV axes), `prompt.txt`, and perhaps `mask.png`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image

from mirage_jax.errors import UserError
from mirage_jax.geometry.pose_files import checks, reading
from mirage_jax.geometry.pose_files.record import PoseFile


def read(folder: Path, height: int | None, width: int | None) -> PoseFile:
    """Reads a Spatia case; the intrinsics fit images of any size, by default that of the image.

    Raises:
      UserError: if a file is missing or not in the format, or a pose is not rigid.
    """
    image = next((p for p in (folder / name for name in ("img.jpg", "img.png")) if p.exists()), None)
    native = _image_size(image) if image and (height is None or width is None) else None
    size = checks.grid(str(folder), native, height, width)
    source = str(folder / "intrinsics.txt")
    words = reading.text(folder / "intrinsics.txt").replace("[", " ").replace("]", " ").replace(",", " ")
    fx, fy, cx, cy = reading.numbers(source, " ".join(words.split()), 4)
    intrinsics = checks.pinhole(fx * size[1], fy * size[0], cx * size[1], cy * size[0])
    camera = checks.camera(source, intrinsics, checks.inverse(_world2cam(folder / "w2c.txt")), *size)
    prompt, mask = folder / "prompt.txt", folder / "mask.png"
    return PoseFile(
        camera=camera,
        format="Spatia case folder",
        path=folder,
        image=image,
        mask=mask if mask.exists() else None,
        prompt=" ".join(reading.text(prompt).split()) if prompt.exists() else "",
    )


def _world2cam(path: Path) -> np.ndarray:
    """`[T, 4, 4]` world-to-camera from a file with a matrix a line."""
    matrices = []
    for frame, line in enumerate(reading.lines(path)):
        try:
            matrices.append(json.loads(line))
        except (ValueError, RecursionError):
            raise UserError(
                f"{path}: frame {frame} is not a 4x4 matrix in JSON; expected [[...], [...], ...]"
            ) from None
    return checks.rigid(str(path), "world-to-camera", matrices)


def _image_size(path: Path) -> tuple[int, int]:
    """(height, width) from the header of a picture."""
    try:
        with PIL.Image.open(path) as picture:
            return picture.height, picture.width
    except (OSError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a picture that can be read ({error})") from None
