import functools

import jax
import jax.numpy as jnp
import memory_twin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from mirage_jax.geometry import Camera
from mirage_jax.memory import latent, points

HEIGHT, WIDTH, CHANNELS, FRAMES = 5, 7, 3, 2
FIELDS = ("features", "visible", "depth", "scale", "index")

write = jax.jit(latent.write)
read = jax.jit(latent.read, static_argnames=("max_footprint",))


def rotation(vector):
    """Rodrigues."""
    angle = np.linalg.norm(vector)
    x, y, z = vector / angle if angle > 0 else (0, 0, 0)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def camera(rotations, positions, height=HEIGHT, width=WIDTH, focal=6.3):
    """Cameras from rotation vectors `[T, 3]` and positions `[T, 3]`."""
    pose = np.tile(np.eye(4, dtype=np.float32), (len(rotations), 1, 1))
    pose[:, :3, :3] = [rotation(vector) for vector in rotations]
    pose[:, :3, 3] = positions
    k = np.array([[focal, 0.03, width / 2], [0, focal * 0.97, height / 2], [0, 0, 1]], np.float32)
    return Camera(np.tile(k, (len(pose), 1, 1)), pose, height, width)


def views(cameras):
    return [
        memory_twin.View(
            np.asarray(cameras.intrinsics[t]), np.asarray(cameras.cam2world[t]), cameras.height, cameras.width
        )
        for t in range(len(cameras))
    ]


def still(frames=1, **kwargs):
    return camera(np.zeros((frames, 3)), np.zeros((frames, 3)), **kwargs)


def tokens(rng, *shape):
    return rng.normal(size=(*shape, CHANNELS)).astype(np.float32)


def everything(shape):
    return np.ones(shape, bool)


def at(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def assert_equal(readout, expected):
    """`readout` fields without a leading axis against the twin's tuple."""
    for name, want in zip(FIELDS, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(getattr(readout, name)), want, err_msg=name)


def random_world(seed, capacity=75):
    """A memory and its twin after two writes of nasty depth, and cameras to look from."""
    rng = np.random.default_rng(seed)
    memory, twin = latent.create(capacity, CHANNELS), memory_twin.Memory(capacity)
    shape = (FRAMES, HEIGHT, WIDTH)
    for _ in range(2):
        # Few distinct depths and poses, so that points meet in cells at exactly equal depth.
        rotations = rng.choice([0, 0, 0.4], (FRAMES, 3)) * rng.choice([-1, 1], (FRAMES, 3))
        cameras = camera(rotations, rng.choice([0, 0.5, 1.1], (FRAMES, 3)))
        if rng.random() < 0.2:
            cameras.cam2world[rng.integers(FRAMES), 1, 3] = np.nan
        levels = [0.5, 2, 2, 3, 3, 9, 0.01, 0, -1, np.nan, np.inf, -np.inf, 1e30]
        depth = rng.choice(np.array(levels, np.float32), shape)
        keep, sky = rng.random(shape) < 0.9, rng.random(shape) < 0.15
        features = tokens(rng, *shape)
        memory = write(memory, features, depth, cameras, keep, sky)
        with np.errstate(all="ignore"):
            twin.write(features, depth, views(cameras), keep, sky)
    # One of the poses written, one far round (grazing), one from behind, one nearby.
    rotations = np.array([[0, 0, 0], [0, 1.4, 0], [0, np.pi, 0], rng.normal(size=3) * 0.2])
    positions = np.concatenate([np.zeros((1, 3)), rng.choice([0, 0.5, -2], (3, 3))])
    return memory, twin, camera(rotations, positions)


def test_created_memory_is_empty():
    memory = latent.create(4, CHANNELS)
    assert (memory.capacity, memory.size, memory.overflow) == (4, 0, 0)
    readout = read(memory, still(2))
    assert not readout.visible.any()
    assert (readout.index == -1).all()
    for name in ("features", "depth", "scale"):
        assert (np.asarray(getattr(readout, name)) == 0).all(), name


@pytest.mark.parametrize("max_footprint", [1, 3])
def test_reading_the_written_view_gives_back_every_token(max_footprint):
    rng = np.random.default_rng(0)
    rotations, positions = rng.normal(size=(6, 3)), rng.normal(size=(6, 3)) * 5
    cameras = camera(rotations, positions, 16, 24, focal=11.7)
    depth = rng.uniform(0.2, 40, (6, 16, 24)).astype(np.float32)
    features, keep = tokens(rng, 6, 16, 24), rng.random((6, 16, 24)) < 0.8
    sky = rng.random((6, 16, 24)) < 0.1
    for t in range(6):
        one = cameras[t : t + 1]
        memory = write(
            latent.create(400, CHANNELS), features[t, None], depth[t, None], one, keep[t, None], sky[t, None]
        )
        readout = read(memory, one, max_footprint=max_footprint)
        held = keep[t] | sky[t]
        np.testing.assert_array_equal(readout.visible[0], held)
        np.testing.assert_array_equal(readout.features[0], np.where(held[..., None], features[t], 0))
        np.testing.assert_array_equal(np.isinf(readout.depth[0]), sky[t])
        solid = held & ~sky[t]
        np.testing.assert_allclose(np.asarray(readout.depth[0])[solid], depth[t][solid], rtol=2e-5)
        np.testing.assert_allclose(np.asarray(readout.scale[0])[held], 1, rtol=2e-5)


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), max_footprint=st.sampled_from([1, 3]))
def test_memory_equals_the_brute_force_twin(seed, max_footprint):
    memory, twin, cameras = random_world(seed)
    assert (memory.size, memory.overflow) == (len(twin.points), twin.overflow)
    held = slice(0, len(twin.points))
    np.testing.assert_array_equal(memory.points[held], np.array([p.position for p in twin.points]))
    np.testing.assert_array_equal(memory.features[held], np.array([p.feature for p in twin.points]))
    np.testing.assert_array_equal(memory.cell_size[held], np.array([p.cell_size for p in twin.points]))
    np.testing.assert_array_equal(memory.last_seen[held], np.array([p.last_seen for p in twin.points]))
    readout = read(memory, cameras, max_footprint=max_footprint)
    for t, view in enumerate(views(cameras)):
        with np.errstate(all="ignore"):
            expected = memory_twin.read(twin, view, max_footprint)
        assert_equal(at(readout, t), expected)


@pytest.mark.parametrize("max_footprint", [1, 3])
def test_same_bits_eagerly_and_under_jit_vmap_and_scan(max_footprint):
    worlds = [random_world(seed) for seed in (1, 2, 3)]
    look = functools.partial(latent.read, max_footprint=max_footprint)
    expected = [read(memory, cameras, max_footprint=max_footprint) for memory, _, cameras in worlds]
    memories = jax.tree.map(lambda *x: jnp.stack(x), *(w[0] for w in worlds))
    cameras = jax.tree.map(lambda *x: jnp.stack(x), *(w[2] for w in worlds))

    def same(got, want):
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), got, want)

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *expected)
    same(look(worlds[0][0], worlds[0][2]), expected[0])
    same(jax.jit(lambda memory: look(memory, worlds[0][2]))(worlds[0][0]), expected[0])
    same(jax.jit(jax.vmap(look))(memories, cameras), stacked)
    same(jax.jit(lambda m, c: lax.scan(lambda _, a: (None, look(*a)), None, (m, c))[1])(memories, cameras), stacked)


@pytest.mark.parametrize("capacity", [170, 40])
def test_writing_has_the_same_bits_eagerly_and_under_jit_vmap_and_scan(capacity):
    """Also where points have to go for others."""
    rng = np.random.default_rng(5)
    shape = (3, FRAMES, HEIGHT, WIDTH)
    cameras = jax.tree.map(
        lambda *x: jnp.stack(x), *(camera(rng.normal(size=(FRAMES, 3)), rng.normal(size=(FRAMES, 3))) for _ in range(3))
    )
    inputs = (tokens(rng, *shape), rng.uniform(0.1, 9, shape).astype(np.float32), cameras)
    inputs = jax.tree.map(jnp.asarray, (*inputs, rng.random(shape) < 0.7, rng.random(shape) < 0.2))
    empty = latent.create(capacity, CHANNELS)

    def one(memory, i):
        return latent.write(memory, *at(inputs, i))

    loop = empty
    for i in range(3):
        loop = one(loop, i)
    scanned = jax.jit(lambda m: lax.scan(lambda m, i: (one(m, i), None), m, jnp.arange(3))[0])(empty)
    batched = jax.jit(jax.vmap(lambda i: one(empty, i)))(jnp.arange(3))
    assert (int(loop.overflow) > 0) == (capacity == 40)
    jax.tree.map(np.testing.assert_array_equal, scanned, loop)
    for i in range(3):
        jax.tree.map(np.testing.assert_array_equal, at(batched, i), one(empty, i))


@pytest.mark.parametrize("max_footprint", [1, 3])
def test_what_is_in_view_gives_what_all_gives(monkeypatch, max_footprint):
    """Groups of slots whose bounds are out of view are left out, and nothing else is."""
    for block, group in ((7, 7), (16, 4)):
        expected = [read(*random_world(seed)[::2], max_footprint=max_footprint) for seed in range(30)]
        monkeypatch.setattr(points.groups, "BLOCK", block)
        monkeypatch.setattr(points.groups, "GROUP", group)
        look = jax.jit(functools.partial(latent.read, max_footprint=max_footprint))
        for seed, whole in enumerate(expected):
            jax.tree.map(np.testing.assert_array_equal, look(*random_world(seed)[::2]), whole)
        monkeypatch.undo()


def test_overflow_keeps_the_latest_and_counts_the_rest():
    rng = np.random.default_rng(0)
    shape = (1, HEIGHT, WIDTH)
    features = tokens(rng, 3, *shape)
    depth = np.full(shape, 2, np.float32)
    memory = latent.create(50, CHANNELS)
    for new in features:
        memory = write(memory, new, depth, still(), everything(depth.shape))
    assert (memory.size, memory.overflow) == (50, 3 * 35 - 50)
    np.testing.assert_array_equal(memory.features[15:], features[2].reshape(35, -1))
    assert (memory.last_seen[:15] == 1).all()


def test_a_grown_memory_shows_the_same_and_takes_what_found_no_room():
    shape = (1, HEIGHT, WIDTH)
    features = tokens(np.random.default_rng(0), *shape)
    depth = np.full(shape, 2, np.float32)
    full = write(latent.create(35, CHANNELS), features, depth, still(), depth > 0)
    grown = latent.grown(full, 70)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(read(grown, still()), name), getattr(read(full, still()), name))
    more = write(grown, features + 1, depth, still(), depth > 0)
    assert (int(more.size), int(more.overflow)) == (70, 0)
    np.testing.assert_array_equal(read(more, still()).features, features + 1)
    with pytest.raises(ValueError, match="70 slots cannot grow to 69"):
        latent.grown(more, 69)


def test_equal_depth_shows_the_later_write():
    rng = np.random.default_rng(0)
    first, second = tokens(rng, 2, 1, HEIGHT, WIDTH)
    depth = np.full((1, HEIGHT, WIDTH), 2, np.float32)
    memory = latent.create(100, CHANNELS)
    for features in (first, second):
        memory = write(memory, features, depth, still(), everything(depth.shape))
    for max_footprint in (1, 3):
        np.testing.assert_array_equal(read(memory, still(), max_footprint=max_footprint).features, second)


def test_of_one_surface_the_view_from_as_far_away_is_read():
    """Whichever was written first; what projects much closer to the middle of a cell wins all the same."""
    shape = (1, HEIGHT, WIDTH)
    rng = np.random.default_rng(0)
    near, far = tokens(rng, 2, *shape)
    # Two metres in front of a wall, then from four; read from a step aside of each place.
    views = {2.0: (near, camera(np.zeros((1, 3)), [[0, 0, 2.0]])), 4.0: (far, still())}
    for order in ((2.0, 4.0), (4.0, 2.0)):
        memory = latent.create(200, CHANNELS)
        for distance in order:
            features, at = views[distance]
            memory = write(memory, features, np.full(shape, distance, np.float32), at, everything(shape))
        inner = np.s_[0, 2:-2, 2:-2]
        for distance, z in ((2.0, 2.0), (4.0, 0.0)):
            aside = camera(np.zeros((1, 3)), [[0.01, 0.01, z]])
            shown = read(memory, aside, max_footprint=3)
            np.testing.assert_array_equal(shown.features[inner], views[distance][0][inner])
            np.testing.assert_allclose(shown.scale[inner], 1.0, rtol=1e-5)


def test_sky_is_remembered_at_infinity_behind_everything():
    rng = np.random.default_rng(0)
    shape = (1, HEIGHT, WIDTH)
    features, sky = tokens(rng, *shape), everything(shape)
    memory = write(latent.create(100, CHANNELS), features, np.zeros(shape, np.float32), still(), ~sky, sky)
    far_away = camera(np.zeros((1, 3)), [[300.0, -80.0, 1000.0]])
    readout = read(memory, far_away)
    np.testing.assert_array_equal(readout.features, features)
    assert np.isinf(readout.depth).all()
    wall = tokens(rng, *shape)
    depth = np.full(shape, 1e6, np.float32)
    memory = write(memory, wall, depth, still(), everything(shape))
    for max_footprint in (1, 3):
        np.testing.assert_array_equal(read(memory, still(), max_footprint=max_footprint).features, wall)


def test_the_camera_that_looks_away_sees_nothing():
    shape = (1, HEIGHT, WIDTH)
    rng = np.random.default_rng(0)
    sky = rng.random(shape) < 0.5
    memory = write(latent.create(100, CHANNELS), tokens(rng, *shape), np.full(shape, 3, np.float32), still(), ~sky, sky)
    for max_footprint in (1, 3):
        assert not read(memory, camera([[0, np.pi, 0]], [[0, 0, 0]]), max_footprint=max_footprint).visible.any()


def test_near_plane_holds_when_writing_and_reading():
    shape = (1, HEIGHT, WIDTH)
    features = tokens(np.random.default_rng(0), *shape)
    depth = np.full(shape, points.NEAR, np.float32)
    empty = latent.create(100, CHANNELS)
    assert write(empty, features, depth, still(), everything(shape)).size == 0
    memory = write(empty, features, depth * 1.01, still(), everything(shape))
    assert memory.size == 35
    assert read(memory, still()).visible.all()
    nearer = camera([[0, 0, 0]], [[0, 0, 0.02 * points.NEAR]])
    assert not read(memory, nearer).visible.any()


@pytest.mark.parametrize("max_footprint", [1, 3])
def test_gradient_in_the_features_is_exact_and_finite(max_footprint):
    memory, _, cameras = random_world(7)
    weights = np.random.default_rng(0).normal(size=(4, HEIGHT, WIDTH, CHANNELS)).astype(np.float32)

    def loss(features):
        return jnp.sum(
            latent.read(memory.replace(features=features), cameras, max_footprint=max_footprint).features * weights
        )

    gradient = np.asarray(jax.jit(jax.grad(loss))(memory.features))
    expected = np.zeros_like(gradient)
    index = np.asarray(latent.read(memory, cameras, max_footprint=max_footprint).index)
    np.add.at(expected, index[index >= 0], weights[index >= 0])
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_gradient_passes_from_readout_to_written_tokens_and_no_nan_leaks_from_depth():
    rng = np.random.default_rng(3)
    shape = (1, HEIGHT, WIDTH)
    features, depth = tokens(rng, *shape), rng.choice(np.array([1, np.nan, np.inf, 0], np.float32), shape)

    def loss(features, depth):
        memory = latent.write(latent.create(100, CHANNELS), features, depth, still(), everything(shape))
        readout = latent.read(memory, still(), max_footprint=3)
        return jnp.sum(readout.features**2) + jnp.sum(memory.points)

    gradient, through_depth = jax.jit(jax.grad(loss, argnums=(0, 1)))(features, depth)
    np.testing.assert_array_equal(gradient, np.where((depth == 1)[..., None], 2 * features, 0))
    np.testing.assert_array_equal(through_depth, np.zeros(shape))


def test_positions_are_data_so_that_a_loop_over_blocks_can_be_differentiated(monkeypatch):
    memory, _, cameras = random_world(7)
    monkeypatch.setattr(points.groups, "BLOCK", 64)

    def loss(memory, max_footprint):
        readout = latent.read(memory, cameras, max_footprint=max_footprint)
        return jnp.sum(jnp.where(jnp.isinf(readout.depth), 0, readout.depth)) + jnp.sum(readout.features)

    for max_footprint in (1, 3):
        gradient = jax.grad(loss, allow_int=True)(memory, max_footprint)
        assert not gradient.x.any()
        assert gradient.features.any()


def test_cameras_that_are_not_numbers_neither_write_nor_see():
    shape = (2, HEIGHT, WIDTH)
    features, depth = tokens(np.random.default_rng(0), *shape), np.full(shape, 2, np.float32)
    for broken in (np.nan, np.inf):
        cameras = still(2)
        cameras.cam2world[0, 0, 3] = broken
        memory = write(latent.create(100, CHANNELS), features, depth, cameras, everything(shape))
        assert memory.size == 35
        assert np.isfinite(memory.points).all()
        readout = read(memory, cameras)
        assert not readout.visible[0].any()
        assert readout.visible[1].all()
        for leaf in jax.tree.leaves(readout):
            assert np.isfinite(np.asarray(leaf, np.float32)).all()


def test_cell_size_is_one_cell_at_its_own_depth():
    cameras = still()
    depth = np.random.default_rng(0).uniform(1, 9, (1, HEIGHT, WIDTH)).astype(np.float32)
    memory = write(
        latent.create(100, CHANNELS), tokens(np.random.default_rng(0), 1, HEIGHT, WIDTH), depth, cameras, depth > 0
    )
    np.testing.assert_allclose(memory.cell_size[:35], depth.ravel() / 6.3, rtol=1e-6)


def test_nbytes_counts_held_and_allocated():
    shape = (1, HEIGHT, WIDTH)
    depth = np.full(shape, 2, np.float32)
    memory = write(latent.create(100, CHANNELS), tokens(np.random.default_rng(0), *shape), depth, still(), depth > 0)
    point = 4 * (4 + CHANNELS + 1 + 1)
    assert latent.nbytes(memory) == {"held": 35 * point, "allocated": 100 * point}


@pytest.mark.parametrize("arguments", [(0, 4), (4, 0)])
def test_empty_capacity_is_refused(arguments):
    with pytest.raises(ValueError, match="capacity"):
        latent.create(*arguments)


@pytest.mark.parametrize("max_footprint", [0, 2, -1])
def test_even_footprint_is_refused(max_footprint):
    with pytest.raises(ValueError, match="odd"):
        latent.read(latent.create(4, CHANNELS), still(), max_footprint=max_footprint)


def test_shapes_are_checked_at_the_door():
    memory = latent.create(100, CHANNELS)
    features = np.zeros((1, HEIGHT, WIDTH, CHANNELS), np.float32)
    depth = np.zeros((1, HEIGHT, WIDTH), np.float32)
    for arguments in (
        (features[..., :1], depth, still(), depth > 0),
        (features, depth[:, 1:], still(), depth > 0),
        (features, depth, still(2), depth > 0),
        (features, depth, still(), depth > 0, depth[0] > 0),
    ):
        with pytest.raises(AssertionError):
            latent.write(memory, *arguments)
