"""Worlds: replayed bit for bit, rollout equal to the loop, no seams, nothing lost silently, saved and gone on with."""

import dataclasses
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax import world
from mirage_jax.errors import UserError
from mirage_jax.memory import latent
from mirage_jax.models import vae
from mirage_jax.weights import world_files
from mirage_jax.world.segment import _compiled_rollout

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import tiny_world as tiny

PATH = "yaw 60; back"


@pytest.fixture(scope="module")
def params():
    return tiny.parameters(tiny.model())


@pytest.fixture(scope="module")
def start(params):
    return world.init(tiny.config(), params, tiny.image(), None, tiny.camera(), jax.random.key(1))


@pytest.fixture(scope="module")
def rolled(params, start):
    return world.rollout(tiny.config(), params, start, tiny.path(PATH, 3))


def _equal(a, b):
    def raw(x):
        return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)

    jax.tree.map(lambda x, y: np.testing.assert_array_equal(raw(x), raw(y)), a, b)


def test_one_seed_gives_the_same_bits(params, start, rolled):
    _equal(world.rollout(tiny.config(), params, start, tiny.path(PATH, 3)), rolled)
    other = dataclasses.replace(start, key=jax.random.key(2))
    _, output = world.rollout(tiny.config(), params, other, tiny.path(PATH, 3))
    assert (np.asarray(output.frames) != np.asarray(rolled[1].frames)).any()


def test_loop_over_segments_gives_what_the_scan_gives(params, start, rolled):
    state, cameras = start, tiny.path(PATH, 3)
    for index in range(3):
        state, output = world.segment(tiny.config(), params, state, cameras[index])
        difference = np.abs(output.frames.astype(int) - rolled[1].frames[index].astype(int))
        assert difference.max() <= 1, "one grey level at most: the compiler may round differently inside a scan"
    assert int(state.memory.size) == int(rolled[0].memory.size)
    np.testing.assert_allclose(state.memory.points, rolled[0].memory.points, atol=1e-5)
    np.testing.assert_allclose(state.memory.features, rolled[0].memory.features, atol=1e-5)


def test_memory_holds_every_kept_cell(start, rolled):
    cells = 4 * 4
    assert int(start.memory.size) == cells
    assert int(rolled[0].memory.size) == cells * (1 + 3 * 2)
    assert int(rolled[0].memory.overflow) == 0
    np.testing.assert_array_equal(rolled[1].diagnostics.points, [2 * cells] * 3)


def test_first_view_reads_back_its_own_tokens(params, start):
    coder, picture = tiny.config().model.vae, tiny.image()[None].astype(np.float32) / 127.5 - 1.0
    readout = latent.read(start.memory, start.context_cameras[-1:])
    assert readout.visible.all()
    np.testing.assert_allclose(readout.features, vae.encode(coder, params["vae"], picture), atol=1e-5)
    np.testing.assert_array_equal(readout.features, start.context[-1:])


def test_new_frames_are_remembered_by_the_latents_that_were_generated(rolled):
    held = rolled[0].memory.features[16 : 16 * 7]
    np.testing.assert_array_equal(held, rolled[1].latents.reshape(held.shape))


def test_segments_join_without_a_seam(params, start, rolled):
    config = tiny.config()
    latents = jnp.concatenate([start.context[-1:], rolled[1].latents.reshape(-1, 4, 4, tiny.CHANNELS)])
    whole = vae.decode(config.model.vae, params["vae"], latents)
    frames = np.asarray(rolled[1].frames).reshape(-1, tiny.SIZE, tiny.SIZE, 3)
    assert np.abs((whole[1:] + 1) * 127.5 - frames).max() < 0.51


def test_a_long_rollout_takes_no_more_room_than_a_short_one_and_sees_all_on_the_way_back(params):
    config = tiny.config(capacity=16 * (1 + 20 * 2))
    state = world.init(config, params, tiny.image(), None, tiny.camera(), jax.random.key(1))
    paths = {segments: tiny.path(PATH, segments) for segments in (4, 20)}
    compiled = {n: _compiled_rollout.lower(config, params, state, path).compile() for n, path in paths.items()}
    working = {n: program.memory_analysis().temp_size_in_bytes for n, program in compiled.items()}
    assert working[20] <= 1.01 * working[4]
    state, output = compiled[20](params, state, paths[20])
    visible = np.asarray(output.diagnostics.visible).reshape(-1)
    out, back = visible[: len(visible) // 2], visible[len(visible) // 2 :]
    assert out.mean() > 0.3
    assert back.mean() >= out.mean()
    assert back[-1] >= 0.95
    assert (int(state.segments), int(state.memory.overflow)) == (20, 0)


def test_memory_changes_what_is_generated(params, start, rolled):
    forgotten = dataclasses.replace(start, memory=latent.create(start.memory.capacity, tiny.CHANNELS))
    _, output = world.rollout(tiny.config(), params, forgotten, tiny.path(PATH, 3))
    assert (np.asarray(output.frames) != np.asarray(rolled[1].frames)).any()
    assert float(rolled[1].diagnostics.visible[0].mean()) > 0.3
    assert float(output.diagnostics.visible[0].mean()) == 0.0


def test_without_memory_nothing_is_stored_and_the_side_branch_is_not_used(params):
    config = tiny.config("none")
    poisoned = params | {part: jax.tree.map(lambda x: x * jnp.nan, params[part]) for part in ("side", "lora")}
    state = world.init(config, params, tiny.image(), None, tiny.camera(), jax.random.key(1))
    state, output = world.rollout(config, poisoned, state, tiny.path(PATH, 3))
    assert int(state.memory.size) == 0
    assert np.isfinite(output.latents).all()


def test_without_memory_a_generator_that_begins_at_the_readout_is_shown_an_empty_one(params):
    """As in the examples of its training that had none: its backbone alone was never trained."""
    identity = dataclasses.replace(tiny.model(), side=dataclasses.replace(tiny.model().side, identity=True))
    config = dataclasses.replace(tiny.config("none"), model=identity)
    state = world.init(config, params, tiny.image(), None, tiny.camera(), jax.random.key(1))
    after, output = world.segment(config, params, state, tiny.path(PATH, 3)[0])
    assert int(after.memory.size) == 0 and not np.asarray(output.readout.visible).any()
    with_latent = dataclasses.replace(config, memory="latent")
    empty = world.init(with_latent, params, tiny.image(), jnp.zeros((32, 32)), tiny.camera(), jax.random.key(1))
    assert int(empty.memory.size) == 0
    _, expected = world.segment(with_latent, params, empty, tiny.path(PATH, 3)[0])
    np.testing.assert_array_equal(output.latents, expected.latents)
    with pytest.raises(UserError, match="has no side"):
        dataclasses.replace(config, model=dataclasses.replace(identity, side=None), memory="latent")


def test_rgb_memory_runs_at_pixel_resolution(params):
    config = tiny.config("rgb")
    state = world.init(config, params, tiny.image(), None, tiny.camera(), jax.random.key(1))
    assert int(state.memory.size) == tiny.SIZE**2
    state, output = world.segment(config, params, state, tiny.path("pause", 1)[0])
    assert int(state.memory.size) == tiny.SIZE**2 * 3
    first = np.asarray(state.memory.last_seen)[: tiny.SIZE**2]
    assert (first == 1).mean() > 0.9, "what was looked at again counts as seen"
    assert float(output.diagnostics.visible.mean()) == 1.0


def test_a_full_memory_goes_on_with_what_was_seen_last(params):
    config = tiny.config(capacity=40)
    state = world.init(config, params, tiny.image(), None, tiny.camera(), jax.random.key(1))
    state, output = world.segment(config, params, state, tiny.path(PATH, 3)[0])
    assert int(state.memory.size) == 40
    assert int(output.diagnostics.overflow) == 16 * 3 - 40 and int(output.diagnostics.points) == 16 * 2
    assert int((state.memory.last_seen == 1).sum()) >= 32


def test_what_the_memory_shows_counts_as_seen_in_that_segment(params):
    config = tiny.config()
    state = world.init(config, params, tiny.image(), None, tiny.camera(), jax.random.key(1))
    assert (state.memory.last_seen == 0).all() and int(state.memory.clock) == 1
    state, _ = world.segment(config, params, state, tiny.path("pause", 1)[0])
    seen = np.asarray(state.memory.last_seen)[: int(state.memory.size)]
    assert (seen == 1).all() and int(state.memory.clock) == 2


def test_a_state_is_used_up_only_where_that_is_asked(params):
    config, cameras = tiny.config(), tiny.path(PATH, 3)
    start = world.init(config, params, tiny.image(), None, tiny.camera(), jax.random.key(1))
    kept, output = world.segment(config, params, start, cameras[0])
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(start))
    given, again = world.segment(config, params, start, cameras[0], donate=True)
    assert start.memory.features.is_deleted()
    _equal((given, again), (kept, output))


def test_known_depth_is_what_the_memory_holds(params):
    depth = np.full((tiny.SIZE, tiny.SIZE), 3.0, np.float32)
    depth[:16] = np.inf
    state = world.init(tiny.config(), params, tiny.image(), depth, tiny.camera(), jax.random.key(1))
    readout = latent.read(state.memory, state.context_cameras[-1:])
    np.testing.assert_array_equal(np.isinf(readout.depth[0]), [[True] * 4] * 2 + [[False] * 4] * 2)
    np.testing.assert_allclose(readout.depth[0, 2:], 3.0, atol=1e-5)


def test_observed_video_is_remembered_as_a_whole(params):
    frames = np.stack([tiny.image()] * 9)
    cameras = jax.tree.map(lambda x: jnp.repeat(x[None], 9, axis=0), tiny.camera())
    state = world.observe(tiny.config(), params, frames, None, cameras, jax.random.key(1))
    assert int(state.memory.size) == 3 * 16
    assert int(state.bank.count) == 3
    assert state.context_valid.all()


@pytest.mark.parametrize("memory", ["latent", "none"])
def test_saved_world_goes_on_where_it_was(params, start, tmp_path, memory):
    config = tiny.config(memory)
    if memory == "none":
        start = world.init(config, params, tiny.image(), None, tiny.camera(), jax.random.key(1))
    cameras = tiny.path(PATH, 3)
    state, _ = world.segment(config, params, start, cameras[0])
    world_files.save(tmp_path / "world.safetensors", config, state, "these weights")
    saved = world_files.read(tmp_path / "world.safetensors")
    restored = saved.restored(config, start, "these weights")
    _equal(restored, state)
    _equal(world.segment(config, params, restored, cameras[1]), world.segment(config, params, state, cameras[1]))
    np.testing.assert_array_equal(saved.last_camera.cam2world, state.context_cameras.cam2world[-1])


def test_damaged_or_foreign_world_is_refused(start, tmp_path):
    config, path = tiny.config(), tmp_path / "world.safetensors"
    world_files.save(path, config, start, "these weights")
    saved = world_files.read(path)
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, fps=7))
    with pytest.raises(UserError, match="made by another model than 'tiny': fps is 15, expected 7"):
        saved.restored(other, start, "these weights")
    with pytest.raises(UserError, match="capacity 112, this run has 200"):
        saved.restored(dataclasses.replace(config, capacity=200), start, "these weights")
    with pytest.raises(UserError, match="made by weights these weights, this run has others; expected the same"):
        saved.restored(config, start, "others")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged world file"):
        world_files.read(path)
    with pytest.raises(UserError, match="no file"):
        world_files.read(tmp_path / "missing")


def test_wrong_sizes_are_refused_before_anything_is_compiled(params, start):
    config = tiny.config()
    with pytest.raises(UserError, match=r"image has size \(16, 32\), the model 'tiny' works at \(32, 32\)"):
        world.init(config, params, tiny.image()[:16], None, tiny.camera(), jax.random.key(0))
    with pytest.raises(UserError, match="depth has size"):
        world.init(config, params, tiny.image(), np.ones((4, 4), np.float32), tiny.camera(), jax.random.key(0))
    with pytest.raises(UserError, match=r"cameras have shape \[3, 7\], .* takes \[segments, 8\]"):
        world.rollout(config, params, start, tiny.path(PATH, 3)[:, :7])
    with pytest.raises(UserError, match="capacity 15 cannot hold even the first frame: at least 16"):
        tiny.config(capacity=15)
    with pytest.raises(UserError, match="memory must be one of"):
        world.WorldConfig(model=tiny.model(), memory="voxels", capacity=100)
    with pytest.raises(UserError, match="4k \\+ 1 frames"):
        cameras = jax.tree.map(lambda x: jnp.repeat(x[None], 8, axis=0), tiny.camera())
        world.observe(config, params, np.stack([tiny.image()] * 8), None, cameras, jax.random.key(0))
