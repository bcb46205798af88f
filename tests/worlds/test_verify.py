import dataclasses
import re

import numpy as np
import pytest

from experiments.worlds import verify
from tests import analytic


@pytest.fixture(scope="module")
def clip():
    return analytic.scene(3, frames=17, height=64, width=64, moving=True)


def test_a_frame_explains_itself(clip):
    same = verify.residuals(clip, 4, 4)
    assert same.photometric == 0 and same.depth < 1e-6 and same.contradiction == 0


def test_moving_pixels_do_not_count(clip):
    frames = np.where(clip.dynamic[..., None], 255 - clip.frames, clip.frames)
    assert verify.residuals(dataclasses.replace(clip, frames=frames), 2, 6) == verify.residuals(clip, 2, 6)


def test_moving_pixels_of_the_target_contradict_nothing(clip):
    far = dataclasses.replace(clip, depth=np.where(clip.dynamic, 10 * clip.depth, clip.depth))
    assert verify.residuals(far, 2, 6).contradiction <= verify.residuals(clip, 2, 6).contradiction


def test_points_in_front_of_what_is_seen_contradict_it(clip):
    depth = clip.depth.copy()
    depth[6, :, :32] *= 2
    assert verify.residuals(dataclasses.replace(clip, depth=depth), 2, 6).contradiction > 0.3
    assert verify.residuals(clip, 2, 6).contradiction < 0.03


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
