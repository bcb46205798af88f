"""Frames of videos side by side: contact sheets, and videos to compare."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from mirage_jax import io

_COLUMNS, _ROWS = 8, 2
SHOWN = _COLUMNS * _ROWS
"""Frames of a video on its sheet."""

_GAP = 4
_STRIP = 18  # height of a line of text
_TEXT = 12
_PAPER, _INK = (255, 255, 255), (20, 20, 20)


def evenly(total: int, count: int = SHOWN) -> list[int]:
    """`count` frame numbers of `total`, or all of them, first and last included."""
    return [round(x) for x in np.linspace(0, total - 1, min(count, total))]


def contact_sheet(
    path: str | os.PathLike[str],
    videos: np.ndarray | Mapping[str, np.ndarray],
    *,
    columns: int = _COLUMNS,
    rows: int = _ROWS,
    cell_width: int = 160,
    numbers: Sequence[int | str] | None = None,
) -> None:
    """Writes a PNG of evenly spaced frames, the first and the last among them, with their numbers.

    Args:
      path: of the picture.
      videos: `[T, H, W, 3]` uint8, shown in `rows` rows, or label -> such an array of one
        length and size, shown in one row each under common frame numbers.
      columns: most frames in a row.
      rows: most rows of a single video.
      cell_width: about how wide a frame is shown, in pixels: small frames are magnified
        by a whole number, large ones scaled down.
      numbers: of the frames, or titles, where they are chosen from a longer video (as by `evenly`).

    Raises:
      UserError: if `path` cannot be written.
      ValueError: if videos are not uint8 `[T, H, W, 3]`, or differ in shape.
    """
    if isinstance(videos, Mapping):
        _check(videos)
        total = len(next(iter(videos.values())))
        shown = evenly(total, columns)
        lines = [(label, video, shown) for label, video in videos.items()]
    else:
        _check({"video": videos})
        shown = evenly(len(videos), columns * rows)
        lines = [("", videos, shown[i : i + columns]) for i in range(0, len(shown), columns)]
    cells = [[_fitted(video[index], cell_width) for index in indices] for _, video, indices in lines]
    width, height = cells[0][0].size
    margin = max((_text_width(label) for label, _, _ in lines), default=0)
    margin += _GAP if margin else 0
    numbered_once = isinstance(videos, Mapping)
    strips = [_STRIP if i == 0 or not numbered_once else 0 for i in range(len(lines))]
    across = len(cells[0])
    sheet = PIL.Image.new(
        "RGB",
        (margin + _GAP + across * (width + _GAP), _GAP + sum(strips) + len(lines) * (height + _GAP)),
        _PAPER,
    )
    draw = PIL.ImageDraw.Draw(sheet)
    top = _GAP
    for (label, _, indices), row, strip in zip(lines, cells, strips, strict=True):
        draw.text((_GAP, top + strip + height // 2), label, _INK, _font(), anchor="lm")
        for column, (index, cell) in enumerate(zip(indices, row, strict=True)):
            left = margin + _GAP + column * (width + _GAP)
            if strip:
                number, place = numbers[index] if numbers else index, (left + width // 2, top + strip // 2)
                draw.text(place, f"{number}", _INK, _font(), anchor="mm")
            sheet.paste(cell, (left, top + strip))
        top += strip + height + _GAP
    with io.atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")


def side_by_side(videos: Mapping[str, np.ndarray]) -> np.ndarray:
    """One video that shows several, each under its label.

    Args:
      videos: label -> `[T, H, W, 3]` uint8, all of one shape.

    Returns:
      `[T, H', W', 3]` uint8, with even height and width.

    Raises:
      ValueError: if videos are not uint8 `[T, H, W, 3]`, or differ in shape.
    """
    _check(videos)
    total, height, width, _ = next(iter(videos.values())).shape
    cell = max(width, *(_text_width(label) for label in videos))
    size = (len(videos) * (cell + _GAP) + _GAP, _STRIP + height + _GAP)
    page = PIL.Image.new("RGB", (size[0] + size[0] % 2, size[1] + size[1] % 2), _PAPER)
    draw = PIL.ImageDraw.Draw(page)
    for number, label in enumerate(videos):
        draw.text((_GAP + number * (cell + _GAP) + cell // 2, _STRIP // 2), label, _INK, _font(), anchor="mm")
    result = np.tile(np.asarray(page), (total, 1, 1, 1))
    for number, video in enumerate(videos.values()):
        left = _GAP + number * (cell + _GAP) + (cell - width) // 2
        result[:, _STRIP : _STRIP + height, left : left + width] = video
    return result


def _check(videos: Mapping[str, np.ndarray]) -> None:
    shapes = {video.shape for video in videos.values()}
    kinds = {video.dtype for video in videos.values()}
    if len(shapes) != 1 or kinds != {np.dtype(np.uint8)} or any(len(s) != 4 or s[3] != 3 or 0 in s for s in shapes):
        found = ", ".join(f"{label}: {video.dtype} {video.shape}" for label, video in videos.items())
        raise ValueError(f"videos to be shown together must be uint8 [T, H, W, 3] of one shape, got {found or 'none'}")


def _fitted(frame: np.ndarray, width: int) -> PIL.Image.Image:
    picture = PIL.Image.fromarray(frame)
    if picture.width > width:
        size = (width, max(1, round(picture.height * width / picture.width)))
        return picture.resize(size, PIL.Image.Resampling.LANCZOS)
    times = max(1, round(width / picture.width))
    return picture.resize((picture.width * times, picture.height * times), PIL.Image.Resampling.NEAREST)


def _font() -> PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont:
    return PIL.ImageFont.load_default(size=_TEXT)


def _text_width(text: str) -> int:
    return round(_font().getlength(text)) + 2 if text else 0
