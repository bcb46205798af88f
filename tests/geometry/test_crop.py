"""Cropping a camera together with its picture."""

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_jax.geometry import Camera, project
from mirage_jax.geometry.crop import centre_cropped

sizes = st.integers(20, 90)


@settings(max_examples=20, deadline=None)
@given(sizes, sizes, sizes, sizes, st.floats(0.2, 0.8), st.floats(0.2, 0.8))
def test_a_spot_in_the_picture_stays_where_its_point_is_projected(height, width, new_height, new_width, right, down):
    """Paints a blob where a point is seen, crops with PIL, and finds the blob where the new camera sees the point."""
    camera = Camera(
        intrinsics=np.array([[50.0, 0, 0.47 * width], [0, 55.0, 0.52 * height], [0, 0, 1]], np.float32),
        cam2world=np.eye(4, dtype=np.float32),
        height=height,
        width=width,
    )
    u, v = right * width, down * height
    point = np.array([(u - 0.47 * width) / 50, (v - 0.52 * height) / 55, 1.0], np.float32)
    rows, columns = np.mgrid[:height, :width] + 0.5
    blob = np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / 18.0)
    picture = PIL.Image.fromarray(blob.astype(np.float32))
    cropped = np.asarray(PIL.ImageOps.fit(picture, (new_width, new_height), PIL.Image.Resampling.BILINEAR))
    uv = np.asarray(project(centre_cropped(camera, new_height, new_width), point)[0])
    if not (8 < uv[0] < new_width - 8 and 8 < uv[1] < new_height - 8):
        return  # the blob was cut
    rows, columns = np.mgrid[:new_height, :new_width] + 0.5
    weight = np.where((columns - uv[0]) ** 2 + (rows - uv[1]) ** 2 < 64, cropped, 0)
    if weight.max() > 0.5 * blob.max():
        found = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
        np.testing.assert_allclose(found, uv, atol=0.35)


def test_known_numbers_and_the_same_shape_is_a_resize():
    camera = Camera(
        intrinsics=np.array([[[100.0, 2.0, 66.0], [0, 90.0, 30.0], [0, 0, 1]]], np.float32),
        cam2world=np.eye(4, dtype=np.float32)[None],
        height=64,
        width=128,
    )
    # 64 x 128 to 32 x 32: half the size, and 16 of the 64 columns left go on each side.
    np.testing.assert_allclose(centre_cropped(camera, 32, 32).intrinsics[0], [[50, 1, 17], [0, 45, 15], [0, 0, 1]])
    same = centre_cropped(camera, 16, 32)
    np.testing.assert_allclose(same.intrinsics, camera.resized(16, 32).intrinsics)
    with pytest.raises(ValueError, match="at least 1x1"):
        centre_cropped(camera, 0, 5)
