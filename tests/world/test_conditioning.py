"""Control channels, and the choice of references."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny_world

from mirage_jax.geometry import Camera, concatenate
from mirage_jax.memory import latent
from mirage_jax.memory.points import Readout
from mirage_jax.world import reference
from mirage_jax.world.conditioning import DEPTH_UNIT, control_latents, views, with_preceding


def _readout(depth, visible):
    depth, visible = jnp.asarray(depth, jnp.float32), jnp.asarray(visible)
    return Readout(
        features=jnp.arange(depth.size * 2, dtype=jnp.float32).reshape(*depth.shape, 2),
        visible=visible,
        depth=depth,
        scale=jnp.where(visible, 4.0, 0.0),
    )


def test_channels_are_stacked_in_order_and_zero_where_nothing_is_seen():
    readout = _readout([[[DEPTH_UNIT, jnp.inf, 0.0]]], [[[True, True, False]]])
    control = control_latents(("readout", "visible", "depth", "age"), readout)
    expected = [[0, 1, 1, 0.5, 0.0], [2, 3, 1, 0.0, 0.0], [0] * 5]
    np.testing.assert_allclose(control[0, 0], expected)


def test_the_hole_mask_says_where_nothing_is_seen():
    readout = _readout([[[1.0, 2.0, 0.0]]], [[[True, True, False]]])
    np.testing.assert_array_equal(control_latents(("hole",), readout)[0, 0, :, 0], [0.0, 0.0, 1.0])


def _cameras(*yaws):
    """Cameras at the origin turned right by so many degrees, 90 degrees across an 8x8 grid."""
    poses = np.tile(np.eye(4), (len(yaws), 1, 1))
    for pose, yaw in zip(poses, np.radians(yaws), strict=True):
        pose[0, [0, 2]] = np.cos(yaw), np.sin(yaw)
        pose[2, [0, 2]] = -np.sin(yaw), np.cos(yaw)
    matrix = np.array([[4.0, 0, 4], [0, 4.0, 4], [0, 0, 1]])
    return Camera(
        intrinsics=jnp.tile(jnp.asarray(matrix, jnp.float32), (len(yaws), 1, 1)),
        cam2world=jnp.asarray(poses, jnp.float32),
        height=8,
        width=8,
    )


def _bank(*yaws, size=None):
    cameras = _cameras(*yaws)
    bank = reference.create(size or len(yaws), jnp.zeros((8, 8, 3)), cameras[0])
    latents = jnp.arange(len(yaws), dtype=jnp.float32)[:, None, None, None] * jnp.ones((1, 8, 8, 3))
    for i in range(len(yaws)):
        bank = reference.store(bank, latents[i : i + 1], jnp.full((1, 8, 8), 5.0), cameras[i : i + 1])
    return bank


def test_frames_out_of_every_view_are_left_out_and_the_others_score_as_if_none_were():
    bank, targets = _bank(*np.random.default_rng(0).uniform(-180, 180, 40)), _cameras(35, 60)
    nothing = jnp.zeros((2, 8, 8))
    score = reference.overlap(bank, targets, nothing)
    everywhere = jnp.stack([jnp.full((3, 40), -jnp.inf), jnp.full((3, 40), jnp.inf)])
    np.testing.assert_array_equal(score, reference.overlap(bank.replace(bounds=everywhere), targets, nothing))
    assert 5 < (score > 0).sum() < 35
    assert not reference.overlap(bank.replace(bounds=-everywhere), targets, nothing).any()


def test_reference_is_the_frame_that_sees_the_target_best():
    bank = _bank(0, 40, 150)
    nothing = jnp.zeros((1, 8, 8))
    score = reference.overlap(bank, _cameras(35), nothing)
    assert score[1] > score[0] > 0.1 and score[2] == 0
    latents, valid = reference.select(bank, _cameras(35), nothing, jnp.zeros(3, bool), 2)
    assert valid.tolist() == [True, True] and latents[:, 0, 0, 0].tolist() == [1.0, 0.0]


def test_fewer_references_than_slots_sit_in_the_last_ones_best_first():
    """The times of `k` references are `-k..-1`, as in the released layout, however many slots there are."""
    bank, nothing = _bank(0, 40, 150), jnp.zeros((1, 8, 8))
    latents, valid = reference.select(bank, _cameras(35), nothing, jnp.zeros(3, bool), 3)
    assert valid.tolist() == [False, True, True] and latents[1:, 0, 0, 0].tolist() == [1.0, 0.0]
    latents, valid = reference.select(bank, _cameras(35), nothing, jnp.array([False, True, False]), 2)
    assert valid.tolist() == [False, True] and float(latents[1, 0, 0, 0]) == 0.0
    _, valid = reference.select(bank, _cameras(35), nothing, jnp.ones(3, bool), 2)
    assert valid.tolist() == [False, False]


def test_what_stands_in_front_hides_a_reference():
    bank, target = _bank(0), _cameras(0)
    assert float(reference.overlap(bank, target, jnp.zeros((1, 8, 8)))[0]) > 0.9
    assert float(reference.overlap(bank, target, jnp.full((1, 8, 8), 5.0))[0]) > 0.9
    assert float(reference.overlap(bank, target, jnp.full((1, 8, 8), 2.0))[0]) == 0.0


def test_ring_keeps_the_latest_and_empty_slots_are_never_chosen():
    bank = _bank(0, 10, 20, 30, 40, size=3)
    assert sorted(bank.latents[:, 0, 0, 0].tolist()) == [2.0, 3.0, 4.0]
    fresh = _bank(0, size=3)
    assert reference.filled(fresh).tolist() == [True, False, False]
    _, valid = reference.select(fresh, _cameras(0), jnp.zeros((1, 8, 8)), jnp.zeros(3, bool), 2)
    assert valid.tolist() == [False, True]
    assert jax.tree.leaves(fresh)[0].shape[0] == 3


def test_a_memory_is_read_at_the_latent_frames():
    """A camera that turns two degrees a frame before numbered cells, in a model of four frames a token."""
    model = tiny_world.video()
    held = _cameras(*range(-60, 90, 2))
    memory = latent.create(len(held) * 64, 1)
    numbers = jnp.arange(len(held) * 64, dtype=jnp.float32).reshape(len(held), 8, 8, 1)
    memory = latent.write(memory, numbers, jnp.full((len(held), 8, 8), 5.0), held, jnp.ones((len(held), 8, 8), bool))
    new, preceding, overlap = _cameras(*range(2, 18, 2)), _cameras(-8), _cameras(0)
    found = latent.recall(memory, views(model, concatenate(preceding, overlap), new), 3)
    expected = latent.read(memory, concatenate(overlap, new[3::4], preceding), max_footprint=3)
    np.testing.assert_array_equal(found.features, expected.features)
    assert len(np.unique(found.features[:, 4, 4])) == 4


def test_preceding_frames_can_show_something_else():
    readout, other = _readout(jnp.ones((4, 1, 1)), jnp.ones((4, 1, 1), bool)), _readout([[[7.0]]], [[[False]]])
    found = with_preceding(readout, other)
    np.testing.assert_array_equal(found.depth[:, 0, 0], [1.0, 1.0, 1.0, 7.0])
    np.testing.assert_array_equal(found.visible[:, 0, 0], [True, True, True, False])
