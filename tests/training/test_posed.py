"""Examples for the generator: cut from posed latents, remembered from earlier frames, with errors where asked."""

import dataclasses
import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax import world
from mirage_jax.geometry import Camera
from mirage_jax.memory import resample
from mirage_jax.models import config as model_config
from mirage_jax.models import parameters, vae
from mirage_jax.training import posed
from mirage_jax.training.stages import generator
from mirage_jax.world import conditioning, recipe
from mirage_jax.world.recall import read

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "world"))
import tiny_world

FRAMES, SIZE, CHANNELS = 7, 4, 5
CLEAN = posed.Augmentation(
    keep_frame=1.0,
    depth_scale=0.0,
    depth_noise=0.0,
    feature_noise=0.0,
    context_noise=0.0,
    drop_cells=0.0,
    drop_memory=0.0,
    drop_reference=0.0,
    miss_things=0.0,
    coarse_depth=0.0,
)
START = 3


@pytest.fixture(scope="module")
def model():
    base = tiny_world.video()
    segment = dataclasses.replace(base.segment, latents=2)
    with pytest.MonkeyPatch.context() as known:
        known.setitem(recipe.RECIPES, "tiny", tiny_world.RECIPE)
        yield dataclasses.replace(
            base,
            height=32,
            width=32,
            vae=dataclasses.replace(base.vae, latent_channels=CHANNELS),
            dit=dataclasses.replace(base.dit, dim=16, ffn_dim=16, heads=2, layers=2, in_channels=CHANNELS),
            side=dataclasses.replace(base.side, control_channels=segment.control_channels(CHANNELS)),
            heads=None,
            lora=model_config.LoRAConfig(rank=2, alpha=2.0),
            segment=segment,
            recipe="tiny",
        )


@pytest.fixture(scope="module")
def clip():
    """A wall 4 m away that a camera turns along, 10 degrees a latent frame."""
    rng = np.random.default_rng(0)
    yaw = np.radians(2.5 * np.arange(4 * FRAMES - 3))
    poses = np.tile(np.eye(4, dtype=np.float32), (len(yaw), 1, 1))
    poses[:, 0, 0], poses[:, 0, 2] = np.cos(yaw), np.sin(yaw)
    poses[:, 2, 0], poses[:, 2, 2] = -np.sin(yaw), np.cos(yaw)
    matrix = np.array([[3.2, 0, 2], [0, 3.2, 2], [0, 0, 1]])
    return posed.PosedLatents(
        latents=jnp.asarray(rng.normal(size=(FRAMES, SIZE, SIZE, CHANNELS)), jnp.float32),
        depth=jnp.full((FRAMES, SIZE, SIZE), 4.0),
        dynamic=jnp.zeros((FRAMES, SIZE, SIZE), bool),
        frame_cameras=Camera(
            intrinsics=jnp.tile(jnp.asarray(matrix, jnp.float32), (len(yaw), 1, 1)),
            cam2world=jnp.asarray(poses),
            height=SIZE,
            width=SIZE,
        ),
    )


@functools.cache
def _cut(model):
    """Compiled once for all errors, which are arguments."""

    def cut(key, clip, start, errors, vae_params):
        return posed.make_training_example(key, model, clip, start, posed.Augmentation(**errors), None, vae_params)

    return jax.jit(cut)


def _example(model, clip, augment=CLEAN, start=START, seed=0, vae_params=None):
    errors = dataclasses.asdict(augment)
    return _cut(model)(jax.random.key(seed), clip, jnp.asarray(start), errors, vae_params)


def test_target_and_context_are_the_frames_of_the_clip(model, clip):
    example = _example(model, clip)
    np.testing.assert_array_equal(example.target, clip.latents[3:6])
    np.testing.assert_array_equal(example.overlap, clip.latents[3])
    np.testing.assert_array_equal(example.preceding, clip.latents[2:3])
    assert example.preceding_valid.all()
    assert not _example(model, clip, start=0).preceding_valid.any()


def test_the_overlap_frame_reads_back_itself(model, clip):
    example = _example(model, clip)
    assert example.visible[0].all()
    np.testing.assert_array_equal(example.readout[0], clip.latents[3])


def test_frames_are_remembered_by_their_latents(model, clip):
    memory = jax.jit(lambda clip: posed.remember(jax.random.key(0), model, clip, jnp.asarray(1), CLEAN))(clip)
    held = memory.features[: 2 * SIZE**2].reshape(2, SIZE, SIZE, CHANNELS)
    np.testing.assert_array_equal(held, clip.latents[:2])


def test_frames_that_are_still_to_come_are_never_seen(model, clip):
    """What follows the overlap must change the target and nothing else."""
    changed = dataclasses.replace(clip, latents=clip.latents.at[START + 1 :].add(7.0))
    a, b = _example(model, clip), _example(model, changed)
    for name in ("overlap", "preceding", "reference", "reference_valid", "control", "visible", "readout"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (np.asarray(a.target) != np.asarray(b.target)).any()


def test_what_moves_is_not_remembered(model, clip):
    moving = dataclasses.replace(clip, dynamic=jnp.ones_like(clip.dynamic))
    assert not _example(model, moving).visible.any()


def test_sky_is_remembered_as_directions(model, clip):
    sky = dataclasses.replace(clip, depth=jnp.full_like(clip.depth, jnp.inf))
    example = _example(model, sky)
    assert example.visible[0].all()
    np.testing.assert_array_equal(example.readout[0], clip.latents[3])


def test_reference_is_not_what_is_given_anyway(model, clip):
    example = _example(model, clip)
    given = [np.asarray(clip.latents[i]) for i in (2, 3)]
    assert not any((np.asarray(example.reference[0]) == frame).all() for frame in given)


@pytest.mark.parametrize(
    "errors", [{"feature_noise": 1.0}, {"context_noise": 1.0}, {"drop_cells": 1.0}, {"depth_noise": 0.5}]
)
def test_every_imitated_error_does_something(model, clip, errors):
    plain, wrong = _example(model, clip), _example(model, clip, dataclasses.replace(CLEAN, **errors), seed=1)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), plain, wrong)
    assert not jax.tree.reduce(lambda a, b: a and b, same)
    np.testing.assert_array_equal(wrong.target, plain.target)


def test_dropped_memory_shows_nothing(model, clip):
    example = _example(model, clip, dataclasses.replace(CLEAN, drop_memory=1.0))
    assert not example.visible.any() and not np.asarray(example.control).any()


def test_new_side_branch_and_lora_leave_the_loss_as_it_was(model, clip):
    @jax.jit
    def losses(key, example):
        parts = parameters.init(key, model)
        head = parts["dit"]["head"]["linear"]  # zero at the start: open it, or every prediction is zero
        head["kernel"] = 0.1 * jax.random.normal(key, head["kernel"].shape)
        noise_key = jax.random.key(3)
        return [generator.example_loss(model, parts, example, noise_key, memory)[0] for memory in (False, True)]

    without, with_memory = losses(jax.random.key(0), _example(model, clip))
    assert float(without) > 0
    np.testing.assert_allclose(with_memory, without, rtol=1e-6)


@pytest.fixture(scope="module")
def shown(model, clip):
    """The same clip with pixels, the parameters of a small VAE, and all frames as a data set has them."""
    coder = dataclasses.replace(model.vae, encoder_dim=2, decoder_dim=2, multipliers=(1, 1, 2))
    model = dataclasses.replace(model, vae=coder)
    params = {"vae": tiny_world.parameters(model)["vae"]}
    rng = np.random.default_rng(1)
    count = len(clip.frame_cameras)
    frames = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    depth = rng.uniform(3.0, 5.0, (count, 32, 32)).astype(np.float32)
    pixels = posed.PosedPixels(
        frames=jnp.asarray(frames[::4], jnp.float32) / 127.5 - 1.0,
        depth=jnp.asarray(depth[::4]),
        dynamic=jnp.zeros((FRAMES, 32, 32), bool),
    )
    return model, params, dataclasses.replace(clip, pixels=pixels), frames, depth


def _rgb_example(shown, augment=CLEAN, seed=0):
    model, params, clip, _, _ = shown
    return _example(model, clip, augment, seed=seed, vae_params=params["vae"])


@pytest.fixture(scope="module")
def plain(shown):
    return _rgb_example(shown)


def test_an_rgb_example_reads_what_a_world_with_an_rgb_memory_reads(shown, plain):
    model, params, clip, frames, depth = shown
    config = world.WorldConfig(model=model, memory="rgb", capacity=(START + 1) * 32 * 32, bank=4)
    given, cameras = 4 * START + 1, clip.frame_cameras.resized(32, 32)
    state = world.observe(
        config,
        params,
        frames[:given],
        depth[:given],
        cameras[:given],
        jax.random.key(0),
        np.zeros((given, 32, 32), bool),
    )
    following = cameras[given : given + 4 * model.segment.latents]
    readout = jax.jit(lambda state: read(config, params, state, following))(state)
    target = 1 + model.segment.latents
    assert 0.2 < np.asarray(plain.visible).mean() < 1.0
    np.testing.assert_array_equal(plain.visible, readout.visible[:target])
    np.testing.assert_allclose(plain.readout, readout.features[:target], atol=1e-4)
    assert not np.asarray(plain.control[target:]).any()


def test_a_latent_example_shows_the_generator_what_a_world_with_a_latent_memory_shows(shown):
    """The whole control: tokens, where they are read, and their depth."""
    model, params, clip, frames, depth = shown
    given, cameras = 4 * START + 1, clip.frame_cameras.resized(32, 32)
    config = world.WorldConfig(model=model, memory="latent", capacity=(START + 1) * 16, bank=4)
    moving = np.zeros((given, 32, 32), bool)
    state = world.observe(config, params, frames[:given], depth[:given], cameras[:given], jax.random.key(0), moving)
    following = cameras[given : given + 4 * model.segment.latents]
    readout = jax.jit(lambda state: read(config, params, state, following))(state)
    control = conditioning.control_latents(model.segment.control, readout)

    pictures = jnp.asarray(frames, jnp.float32) / 127.5 - 1.0
    coded = dataclasses.replace(
        clip,
        latents=vae.encode(model.vae, params["vae"], pictures),
        depth=resample.depth_to_grid(depth[::4], 4, 4),
    )
    example = _example(model, coded)
    assert 0.2 < np.asarray(example.visible).mean() < 1.0
    np.testing.assert_allclose(control, example.control, atol=2e-3)


@pytest.mark.parametrize(
    "errors", [{"feature_noise": 1.0}, {"drop_cells": 1.0}, {"depth_noise": 0.5}, {"coarse_depth": 1.0}]
)
def test_every_imitated_error_reaches_an_rgb_memory(shown, plain, errors):
    wrong = _rgb_example(shown, dataclasses.replace(CLEAN, **errors), seed=1)
    assert (np.asarray(plain.readout) != np.asarray(wrong.readout)).any()
    np.testing.assert_array_equal(wrong.target, plain.target)


@pytest.fixture(scope="module")
def moving(clip):
    """The same with a thing two cells wide, 2 m away, that goes a quarter of a metre to the right with every frame."""
    there = np.zeros((FRAMES, SIZE, SIZE), bool)
    depth, masks = np.asarray(clip.depth).copy(), there
    for frame in range(FRAMES):
        world2cam = np.asarray(clip.cameras.world2cam)[frame]
        centre = world2cam[:3, :3] @ np.array([0.25 * frame - 0.5, 0.0, 2.0]) + world2cam[:3, 3]
        column = int(np.floor(3.2 * centre[0] / centre[2] + 2))
        masks[frame, 1:3, max(column, 0) : column + 2] = True
    depth[masks] = 2.0
    return clip.replace(depth=jnp.asarray(depth), dynamic=jnp.asarray(masks))


def things_shown(model, clip, augment):
    make = jax.jit(posed.make_training_example, static_argnums=(1, 4))
    control = ("readout", "visible", "moving", "age", "turned")
    segment = dataclasses.replace(model.segment, control=control)
    changed = dataclasses.replace(model, recipe="default", segment=segment)
    return make(jax.random.key(0), changed, clip, START, augment)


def test_what_moved_before_is_shown_in_the_target_and_its_age_is_that_of_the_frames_since(model, moving):
    example = things_shown(model, moving, CLEAN)
    there, age = np.asarray(example.control[..., -3]), np.asarray(example.control[..., -2])
    assert there[0].any(), "the overlap was seen itself"
    assert not age[0].any()
    shown = there[1] > 0
    assert shown.any() and (age[1][shown] == np.float32(1 / (1 + conditioning.AGE_UNIT))).all()
    assert not age[there == 0].any()
    still = things_shown(model, moving.replace(dynamic=jnp.zeros_like(moving.dynamic)), CLEAN)
    assert not np.asarray(still.control[..., -3:]).any()


def test_what_moves_later_is_not_known_yet(model, moving):
    early = jnp.arange(FRAMES)[:, None, None] <= START
    before = things_shown(model, moving.replace(dynamic=moving.dynamic & early), CLEAN)
    np.testing.assert_array_equal(before.control, things_shown(model, moving, CLEAN).control)


@pytest.mark.parametrize("error", ["miss_things", "drop_memory"])
def test_errors_in_what_moves_leave_it_out(model, moving, error):
    always = dataclasses.replace(CLEAN, **{error: 1e9 if error == "miss_things" else 1.0})
    assert not np.asarray(things_shown(model, moving, always).control[..., -3:]).any()
