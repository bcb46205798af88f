"""A WAD file of one small map, written byte by byte, and its geometry said another way."""

import pathlib
import struct

import numpy as np
import pytest

# Rectangles x0, y0, x1, y1, floor, ceiling, sky: rooms in a row, joined along their short sides.
ROOMS = (
    (0, 0, 256, 256, 0, 128, False),
    (256, 32, 512, 224, 16, 96, False),
    (512, 64, 768, 192, -24, 160, True),
    (768, 64, 900, 192, 8, 100, True),
)
PILLAR = (100, 100, 130, 130)  # a hole in the first room
GRATE_SIZE = (8, 16)  # texels wide and high; it hangs in the opening between the first two rooms
GRATE = np.zeros(GRATE_SIZE[::-1], bool)
GRATE[2:14, 1:5] = True


def _lines():
    """Lines as start, end, front sector, back sector or None, middle texture; the front is to the right."""
    lines = []
    for number, (x0, y0, x1, y1, *_) in enumerate(ROOMS):
        opening = None if number + 1 == len(ROOMS) else ROOMS[number + 1]
        lines += [((x1, y0), (x0, y0), number, None, b"STONE"), ((x0, y1), (x1, y1), number, None, b"STONE")]
        if number == 0:
            lines.append(((x0, y0), (x0, y1), number, None, b"STONE"))
        if opening is None:
            lines.append(((x1, y1), (x1, y0), number, None, b"STONE"))
        else:
            low, high = opening[1], opening[3]
            if high < y1:
                lines.append(((x1, y1), (x1, high), number, None, b"STONE"))
            lines.append(((x1, high), (x1, low), number, number + 1, b"GRATE" if number == 0 else b"-"))
            if low > y0:
                lines.append(((x1, low), (x1, y0), number, None, b"STONE"))
    x0, y0, x1, y1 = PILLAR
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    lines += [(corners[i], corners[(i + 1) % 4], 0, None, b"STONE") for i in range(4)]
    return lines


def _patch(opaque):
    """A picture in Doom's column format: one post a run of opaque texels."""
    height, width = opaque.shape
    columns, offsets = b"", []
    for x in range(width):
        offsets.append(8 + 4 * width + len(columns))
        y = 0
        while y < height:
            if opaque[y, x]:
                end = y
                while end < height and opaque[end, x]:
                    end += 1
                columns += bytes([y, end - y, 0]) + bytes(end - y) + b"\0"
                y = end
            y += 1
        columns += b"\xff"
    return struct.pack("<4h", width, height, 0, 0) + struct.pack(f"<{width}i", *offsets) + columns


def _textures():
    body = b""
    offsets = []
    for name, patch in ((b"STONE", 0), (b"GRATE", 1)):
        offsets.append(4 + 8 + len(body))
        width, height = GRATE_SIZE if patch else (64, 64)
        body += struct.pack("<8sihhih", name, 0, width, height, 0, 1) + struct.pack("<5h", 0, 0, patch, 0, 0)
    return struct.pack("<i2i", 2, *offsets) + body


def write_wad(path):
    vertices = sorted({point for start, end, *_ in _lines() for point in (start, end)})
    line_bytes, side_bytes = b"", b""
    sides = 0
    for start, end, front, back, middle in _lines():
        flags = 1 if back is None else 4
        numbers = (sides, 0xFFFF if back is None else sides + 1)
        line_bytes += struct.pack("<7H", vertices.index(start), vertices.index(end), flags, 0, 0, *numbers)
        for sector in (front, back):
            if sector is not None:
                side_bytes += struct.pack("<hh8s8s8sH", 0, 0, b"STONE", b"STONE", middle, sector)
                sides += 1
    sectors = b"".join(
        struct.pack("<hh8s8shHH", floor, ceiling, b"FLAT", b"F_SKY1" if sky else b"FLAT", 160, 0, 0)
        for *_, floor, ceiling, sky in ROOMS
    )
    lumps = [
        ("PNAMES", struct.pack("<i8s8s", 2, b"WALL", b"BARS")),
        ("TEXTURE1", _textures()),
        ("WALL", _patch(np.ones((64, 64), bool))),
        ("BARS", _patch(GRATE)),
        ("MAP01", b""),
        ("THINGS", struct.pack("<hhhHH", 60, 60, 90, 1, 7) + struct.pack("<hhhHH", 400, 128, 0, 2035, 7)),
        ("LINEDEFS", line_bytes),
        ("SIDEDEFS", side_bytes),
        ("VERTEXES", struct.pack(f"<{2 * len(vertices)}h", *np.ravel(vertices))),
        *((name, b"") for name in ("SEGS", "SSECTORS", "NODES")),
        ("SECTORS", sectors),
        *((name, b"") for name in ("REJECT", "BLOCKMAP")),
    ]
    data, directory = b"", b""
    for name, content in lumps:
        directory += struct.pack("<ii8s", 12 + len(data), len(content), name.encode())
        data += content
    pathlib.Path(path).write_bytes(b"PWAD" + struct.pack("<ii", len(lumps), 12 + len(data)) + data + directory)
    return path


@pytest.fixture(scope="session")
def tiny_wad(tmp_path_factory):
    return write_wad(tmp_path_factory.mktemp("wad") / "tiny.wad")


@pytest.fixture(scope="session")
def tiny_map(tiny_wad):
    from experiments.worlds.doom import wad

    return wad.Wad(tiny_wad).map("MAP01")


@pytest.fixture(scope="session")
def geometry():
    """Where the tests find the same map: rooms, pillar, grate."""
    return ROOMS, PILLAR, GRATE
