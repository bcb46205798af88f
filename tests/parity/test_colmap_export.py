"""COLMAP itself reads the models that are written for it: the same cameras, poses and points."""

import numpy as np
import pycolmap
import pytest

from experiments.shared import exports
from mirage_jax.geometry import Camera
from tests import analytic


@pytest.mark.parametrize("place", ["sparse/0", "sparse_text/0"])
def test_models_are_what_colmap_reads(tmp_path, place):
    clip = analytic.scene(2, frames=4, height=48, width=64)
    rng = np.random.default_rng(0)
    points, colours = rng.normal(size=(20, 3)).astype(np.float32), rng.integers(0, 256, (20, 3), np.uint8)
    camera = Camera(clip.intrinsics, clip.cam2world, 48, 64)
    exports.write_colmap(tmp_path, clip.frames, camera, points, colours)
    model = pycolmap.Reconstruction(str(tmp_path / place))
    assert (model.num_images(), model.num_points3D(), model.num_cameras()) == (4, 20, 1)
    images = sorted(model.images.values(), key=lambda image: image.name)
    for index, image in enumerate(images):
        pose = image.cam_from_world
        matrix = (pose() if callable(pose) else pose).matrix()
        np.testing.assert_allclose(matrix, np.linalg.inv(clip.cam2world[index].astype(np.float64))[:3], atol=1e-5)
        np.testing.assert_allclose(image.camera.calibration_matrix(), clip.intrinsics[index], rtol=1e-6)
    found = {number: (point.xyz, point.color) for number, point in model.points3D.items()}
    np.testing.assert_allclose([found[number][0] for number in sorted(found)], points)
    np.testing.assert_array_equal([found[number][1] for number in sorted(found)], colours)
