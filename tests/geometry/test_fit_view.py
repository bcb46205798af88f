"""The first view of a world from any picture: what the README's snippet stands on."""

import numpy as np
import pytest

from mirage_jax.errors import UserError
from mirage_jax.geometry import fit_view, project

PICTURE = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)


def test_picture_lens_and_depth_are_cut_alike():
    depth = np.zeros((90, 160), np.float32)
    depth[:, 35:125] = 4.0  # the middle square
    depth[0, 0] = np.inf
    image, camera, cut = fit_view(PICTURE, 30, 30, intrinsics=np.array([100.0, 100, 80, 45]), depth=depth)
    assert image.shape == (30, 30, 3) and image.dtype == np.uint8
    np.testing.assert_allclose(camera.intrinsics, [[100 / 3, 0, 15], [0, 100 / 3, 15], [0, 0, 1]], rtol=1e-6)
    assert (cut == 4).all()
    # A point seen at the middle of the picture is seen at the middle of what is left.
    np.testing.assert_allclose(project(camera, np.array([0, 0, 3], np.float32))[0], [15, 15], atol=1e-5)


def test_without_a_lens_an_angle_is_assumed():
    _, camera, depth = fit_view(PICTURE, 90, 160)
    np.testing.assert_allclose(2 * np.degrees(np.arctan(80 / camera.intrinsics[0, 0])), 64, rtol=1e-5)
    assert depth is None
    matrix = np.array([[100.0, 0, 80], [0, 100, 45], [0, 0, 1]])
    assert fit_view(PICTURE, 90, 160, intrinsics=matrix)[1].intrinsics[0, 0] == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"picture": PICTURE[:10]}, "160x10 pixels are too few"),
        ({"fov": float("nan")}, "a field of view of nan degrees; expected 5 to 150"),
        ({"intrinsics": np.array([500.0, 500, 320, 240])}, "cannot belong to a picture of 160x90 pixels"),
        ({"intrinsics": np.array([np.nan, 500, 80, 45])}, "cannot belong to"),
        ({"depth": np.ones((4, 4))}, r"depth has shape \(4, 4\), the picture has \(90, 160\)"),
        ({"depth": np.full((90, 160), np.nan)}, "holds NaN"),
        (
            {"depth": np.where(np.arange(160) < 30, 1.0, 0.0) * np.ones((90, 1))},
            "known only outside the part that is left",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(change, message):
    with pytest.raises(UserError, match=message):
        fit_view(**{"picture": PICTURE, "height": 30, "width": 30} | change)


def test_only_colour_pictures():
    with pytest.raises(ValueError, match="uint8"):
        fit_view(PICTURE[..., 0], 30, 30)
