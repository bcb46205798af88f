"""A page as Markdown and as one HTML file that needs no other: headings, text, tables, pictures, commands."""

from __future__ import annotations

import base64
import dataclasses
import html
import io as binary_io
import os
from pathlib import Path

import PIL.Image

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto; margin: 1rem 0; }
th, td { border: 1px solid #ddd; padding: .25rem .6rem; text-align: left; white-space: nowrap; }
th { background: #f4f4f4; } img { max-width: 100%; } figcaption { color: #666; font-size: 13px; }
figure { margin: 1rem 0; } pre { background: #f4f4f4; padding: .8rem; overflow-x: auto; }
"""
_JPEG_QUALITY = 85


@dataclasses.dataclass(frozen=True)
class Heading:
    """A heading of level 1, 2 or 3."""

    text: str
    level: int = 2


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of plain text."""

    header: list[str]
    lines: list[list[str]]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG file, shown in place; `photo` says that it is made of frames, and may be embedded as JPEG."""

    path: Path
    caption: str
    photo: bool = False


@dataclasses.dataclass(frozen=True)
class Link:
    """A file beside the page."""

    path: Path
    text: str


@dataclasses.dataclass(frozen=True)
class Code:
    """Commands."""

    text: str


Block = Heading | Text | Table | Picture | Link | Code


def markdown(blocks: list[Block], folder: Path) -> str:
    """The page as Markdown, to lie in `folder`."""

    def one(block: Block) -> str:
        match block:
            case Heading():
                return f"{'#' * block.level} {block.text}"
            case Text():
                return block.text
            case Table():
                rows = [block.header, ["---"] * len(block.header), *block.lines]
                return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)
            case Picture():
                return f"![{block.caption}]({_relative(block.path, folder)})\n\n{block.caption}"
            case Link():
                return f"[{block.text}]({_relative(block.path, folder)})"
            case Code():
                return f"```\n{block.text}\n```"

    return "\n\n".join(one(block) for block in blocks) + "\n"


def to_html(blocks: list[Block], folder: Path) -> str:
    """The page as HTML with its pictures inside; links are relative to `folder`."""

    def row(cells: list[str], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in cells) + "</tr>"

    def one(block: Block) -> str:
        match block:
            case Heading():
                return f"<h{block.level}>{html.escape(block.text)}</h{block.level}>"
            case Text():
                return f"<p>{html.escape(block.text)}</p>"
            case Table():
                return "<table>" + row(block.header, "th") + "".join(row(x, "td") for x in block.lines) + "</table>"
            case Picture():
                caption = html.escape(block.caption)
                source = _embedded(block.path, block.photo)
                return f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
            case Link():
                return f'<p><a href="{html.escape(_relative(block.path, folder))}">{html.escape(block.text)}</a></p>'
            case Code():
                return f"<pre>{html.escape(block.text)}</pre>"

    title = next((block.text for block in blocks if isinstance(block, Heading)), "Report")
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    body = "\n".join(one(block) for block in blocks)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _embedded(path: Path, photo: bool) -> str:
    content, kind = path.read_bytes(), "png"
    if photo:
        buffer = binary_io.BytesIO()
        with PIL.Image.open(path) as picture:
            picture.convert("RGB").save(buffer, format="JPEG", quality=_JPEG_QUALITY)
        content, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
