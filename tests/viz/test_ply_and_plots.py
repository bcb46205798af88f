"""Point clouds by an independent reader; curves that survive what is not finite."""

import numpy as np
import PIL.Image
import pytest

from experiments.shared import drawings
from mirage_jax import viz
from mirage_jax.errors import UserError


def read_ply(path):
    """A reader written from the format's description, not from the writer."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    lines = head.decode("ascii").split("\n")
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    kinds = {"float": "<f4", "uchar": "u1"}
    count = int(lines[2].removeprefix("element vertex "))
    fields = [line.split()[1:] for line in lines[3:] if line.startswith("property")]
    vertices = np.frombuffer(body, [(name, kinds[kind]) for kind, name in fields])
    assert len(vertices) == count
    return vertices


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_points_and_colours_come_back(tmp_path, count):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(count, 3)).astype(np.float32)
    colors = rng.integers(0, 256, (count, 3), dtype=np.uint8)
    viz.write_ply(tmp_path / "memory.ply", points, colors)
    vertices = read_ply(tmp_path / "memory.ply")
    assert vertices.dtype.names == ("x", "y", "z", "red", "green", "blue")
    assert np.array_equal(np.stack([vertices[n] for n in "xyz"], -1), points)
    assert np.array_equal(np.stack([vertices[n] for n in ("red", "green", "blue")], -1), colors)


def test_points_that_a_viewer_would_choke_on_are_refused(tmp_path):
    colors = np.zeros((2, 3), np.uint8)
    with pytest.raises(ValueError, match="must be finite"):
        viz.write_ply(tmp_path / "a.ply", np.array([[0, 0, 0], [0, np.inf, 0]]), colors)
    with pytest.raises(ValueError, match="expected points"):
        viz.write_ply(tmp_path / "a.ply", np.zeros((2, 4)), colors)
    with pytest.raises(ValueError, match="float64"):
        viz.write_ply(tmp_path / "a.ply", np.zeros((2, 3)), colors / 255)
    assert not (tmp_path / "a.ply").exists()


def test_curves_are_drawn_and_infinity_is_left_out(tmp_path):
    curves = {"latent": np.array([np.inf, 30.0, 25.0, 30.0]), "none": np.array([20.0, np.nan, 10.0, 16.0])}
    drawings.plot_curves(tmp_path / "c.png", curves, ylabel="PSNR (dB)", title="revisit")
    with PIL.Image.open(tmp_path / "c.png") as picture:
        array = np.asarray(picture.convert("RGB")).astype(int)
    rows = {}
    for name, colour in (("latent", (31, 119, 180)), ("none", (255, 127, 14))):
        where = np.argwhere(np.abs(array - colour).sum(-1) < 30)
        rows[name] = where[where[:, 1] > array.shape[1] // 2, 0]
        assert np.ptp(rows[name]) > (60 if name == "latent" else 30)  # a curve, not only its line in the legend
    assert np.median(rows["latent"]) < np.median(rows["none"])  # the better curve lies higher
    with pytest.raises(UserError, match="it is a folder"):
        drawings.plot_curves(tmp_path, curves, ylabel="PSNR (dB)")
