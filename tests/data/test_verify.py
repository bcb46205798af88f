import dataclasses
import re

import numpy as np
import pytest

from mirage_jax.data import analytic, verify


@pytest.fixture(scope="module")
def clip():
    return analytic.scene(3, frames=17, height=64, width=64, moving=True)


def test_a_frame_explains_itself(clip):
    same = verify.residuals(clip, 4, 4)
    assert same.photometric == 0 and same.depth < 1e-6 and same.contradiction == 0


def test_moving_pixels_do_not_count(clip):
    frames = np.where(clip.dynamic[..., None], 255 - clip.frames, clip.frames)
    assert verify.residuals(dataclasses.replace(clip, frames=frames), 2, 6) == verify.residuals(clip, 2, 6)


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        (None, lambda c: c),
        ("contradiction residual|depth residual", lambda c: dataclasses.replace(c, depth=c.depth * np.float32(1.4))),
        ("residual", lambda c: dataclasses.replace(c, cam2world=c.cam2world[::-1])),
        ("photometric residual", lambda c: dataclasses.replace(c, frames=noise(c))),
        ("overlap", lambda c: dataclasses.replace(c, depth=np.zeros_like(c.depth))),
    ],
)
def test_bad_clips_are_refused_with_a_reason(clip, reason, change):
    found, _ = verify.verify(change(clip))
    assert (found is None) == (reason is None) and (reason is None or re.search(reason, found)), found


def noise(clip):
    return np.random.default_rng(0).integers(0, 256, clip.frames.shape, dtype=np.uint8)
