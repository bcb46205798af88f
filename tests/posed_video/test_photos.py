"""Any picture becomes eight bits of colour, upright, and what was done to it is said."""

import struct
import sys
import zlib

import numpy as np
import PIL.Image
import pytest

from experiments.posed_video import photos
from mirage_jax.errors import UserError

RAMP = np.linspace(0, 1, 24 * 32).reshape(24, 32)
ORIENTATION = 0x0112


@pytest.mark.parametrize(
    ("name", "values", "white"),
    [
        ("16.png", np.round(RAMP * 65535).astype(np.uint16), "65535"),
        ("12.png", np.round(RAMP * 4095).astype(np.uint16), "4095"),
        ("32.tif", np.round(RAMP * 65535).astype(np.int32), "65535"),
        ("more.tif", np.round(RAMP * 1e8).astype(np.int32), "1e+08"),
        ("unit.tif", RAMP.astype(np.float32), "1"),
        ("bytes.tif", (RAMP * 255).astype(np.float32), "255"),
        ("below.tif", (RAMP * 2 - 1).astype(np.float32), "1"),
    ],
)
def test_deep_pictures_are_scaled_by_their_range(tmp_path, name, values, white):
    PIL.Image.fromarray(values).save(tmp_path / name)
    photo = photos.read(tmp_path / name)
    assert photo.pixels.shape == (24, 32, 3) and photo.pixels.dtype == np.uint8
    expected = np.clip(values / float(white), 0, 1) * 255
    np.testing.assert_allclose(photo.pixels[..., 1], expected, atol=0.51)
    (note,) = photo.notes
    assert f"{white} is taken to be white" in note


def test_a_floating_picture_with_nan_is_refused(tmp_path):
    PIL.Image.fromarray(np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a\.tif: its 768 values hold NaN or infinity"):
        photos.read(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_picture_map_and_lens_alike(tmp_path, orientation):
    """A dot of the file is found where the turned intrinsics say that it is seen."""
    values = np.zeros((24, 32), np.uint8)
    values[5, 9] = 255
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    PIL.Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    photo = photos.read(tmp_path / "a.png")
    row, column = np.argwhere(photo.pixels[..., 0] == 255)[0]
    fx, fy, cx, cy = photo.upright_intrinsics(50.0, 60.0, 9.5, 5.5)
    assert (cx, cy) == (column + 0.5, row + 0.5)
    assert (fx, fy) == ((60.0, 50.0) if orientation >= 5 else (50.0, 60.0))
    assert np.array_equal(photo.upright(values), photo.pixels[..., 0])
    assert bool(photo.notes) == (orientation != 1)
    lying = photos.read(tmp_path / "a.png", one_of_many=True)
    assert np.array_equal(lying.pixels[..., 0], values) and lying.orientation == 1


@pytest.mark.parametrize(
    ("background", "colour"), [(None, (255, 255, 255)), ("black", (0, 0, 0)), ("#0080ff", (0, 128, 255))]
)
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_show_the_background(tmp_path, background, colour, mode):
    pixels = np.zeros((24, 32, 4), np.uint8)
    pixels[:, :, 3] = 255
    pixels[:, 16:] = 0
    picture = PIL.Image.fromarray(pixels)
    if mode == "P":
        picture = PIL.Image.fromarray((np.arange(32) >= 16).astype(np.uint8) * np.ones((24, 1), np.uint8))
        picture.putpalette([10, 20, 30, 99, 99, 99])
        picture.save(tmp_path / "a.png", transparency=1)
    else:
        picture.convert(mode).save(tmp_path / "a.png")
    photo = photos.read(tmp_path / "a.png", background=background)
    assert tuple(photo.pixels[3, 20]) == colour
    assert f"shown over {background or 'white'}" in photo.notes[0]


def test_a_background_without_effect_or_name_is_refused(tmp_path):
    PIL.Image.new("RGBA", (32, 24), (1, 2, 3, 255)).save(tmp_path / "a.png")
    assert photos.read(tmp_path / "a.png").notes == ()
    with pytest.raises(UserError, match="has no transparent parts"):
        photos.read(tmp_path / "a.png", background="red")
    with pytest.raises(UserError, match="background 'reddish-ish' is no colour"):
        photos.read(tmp_path / "a.png", background="reddish-ish")


def test_heic_names_the_package_that_reads_it(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UserError, match=r"a\.heic is a HEIC picture; .*pip install pillow-heif"):
        photos.read(tmp_path / "a.heic")


def test_a_picture_of_far_too_many_pixels_is_one_sentence(tmp_path):
    """A PNG whose header alone says 30,000x30,000."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))
    with pytest.raises(UserError, match=r"a\.png: has more than 179 megapixels"):
        photos.read(tmp_path / "a.png")


def test_pictures_of_a_series_have_one_white(tmp_path):
    PIL.Image.fromarray(np.full((24, 32), 4000, np.uint16)).save(tmp_path / "dark.png")
    assert (photos.read(tmp_path / "dark.png").pixels == 249).all()
    assert (photos.read(tmp_path / "dark.png", one_of_many=True).pixels == 16).all()
