"""A page from its template, as Markdown or as one HTML file that needs no other."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import PIL.Image

from experiments.evaluation import summary

_JPEG_QUALITY = 85


class Shown(NamedTuple):
    """A file that a page shows or links to; `photo` says that it is made of frames, and may be embedded as JPEG."""

    path: Path
    caption: str
    photo: bool = False


def render(
    template: str, form: str, folder: Path, content: dict[str, Any], place: Callable[[Path], Path] = lambda path: path
) -> str:
    """The text of a page.

    Args:
      template: its name in this package.
      form: 'markdown' or 'html', which has its pictures inside.
      folder: in which the page will lie; links are relative to it.
      content: what the template names.
      place: where the page finds a file.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("experiments.report", "."),
        autoescape=form == "html",
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["href"] = lambda path: Path(os.path.relpath(place(path), folder)).as_posix()
    environment.filters["embedded"] = _embedded
    environment.globals |= {"columns": summary.columns, "differences": summary.differences}
    text = environment.get_template(f"{template}.jinja").render(form=f"{form}.jinja", **content)
    return re.sub(r"\n\n\n+", "\n\n", text).strip() + "\n"


def _embedded(shown: Shown) -> str:
    content, kind = shown.path.read_bytes(), "png"
    if shown.photo:
        buffer = io.BytesIO()
        with PIL.Image.open(shown.path) as picture:
            picture.convert("RGB").save(buffer, format="JPEG", quality=_JPEG_QUALITY)
        content, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
