"""What becomes of a place that is seen again, by every rule: on a wall, seen once and then once more."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_latent import CHANNELS, HEIGHT, WIDTH, camera, everything, read, tokens, write

from mirage_jax.errors import UserError
from mirage_jax.memory import latent, merge, points
from mirage_jax.memory.comparison import Comparison
from mirage_jax.memory.points import Readout

CELLS = HEIGHT * WIDTH
SHAPE = (1, HEIGHT, WIDTH)


@functools.partial(jax.jit, static_argnums=0)
def see(rule, memory, features, depth, sky, cameras, keep):
    """A frame, as a segment sees it."""
    shown = latent.read(memory, cameras, max_footprint=3)
    memory, gone, enters = merge.apply(rule, memory, features, depth, sky, cameras, shown, keep | sky)
    memory = memory if gone is None else latent.retire(memory, gone)
    return latent.write(memory, features, depth, cameras, keep & enters, sky & enters)


def empty(rule, capacity=4 * CELLS):
    memory = latent.create(capacity, CHANNELS)
    return points.with_directions(memory) if rule in merge.BY_DIRECTION else memory


def wall(rule, memory, features, view, distance=3.0):
    depth = np.full(SHAPE, distance, np.float32)
    return see(rule, memory, features, depth, np.zeros(SHAPE, bool), view, everything(SHAPE))


def from_afar(distance):
    return camera([[0, 0, 0]], [[0, 0, -distance]])


@pytest.mark.parametrize(
    ("rule", "points_held", "shows"),
    [("all", 2, "new"), ("first", 1, "old"), ("newest", 1, "new"), ("best_view", 1, "old"), ("average", 1, "mean")],
)
def test_a_wall_seen_twice_from_one_place(rule, points_held, shows):
    old, new = tokens(np.random.default_rng(0), 2, *SHAPE)
    view = from_afar(0)
    memory = wall(rule, wall(rule, empty(rule), old, view), new, view)
    assert int(memory.size) == points_held * CELLS
    found = read(memory, view).features
    np.testing.assert_allclose(found, {"old": old, "new": new, "mean": (old + new) / 2}[shows], atol=1e-6)


def test_what_is_seen_from_closer_takes_the_place_of_what_was_seen_from_afar_and_not_the_other_way_round():
    far, near = tokens(np.random.default_rng(0), 2, *SHAPE)
    memory = wall("best_view", empty("best_view"), far, from_afar(5), 8.0)
    both = wall("best_view", memory, near, from_afar(0), 3.0)
    covered = int(memory.size) - (int(both.size) - CELLS)
    assert 1 <= covered < CELLS / 2
    np.testing.assert_array_equal(read(both, from_afar(0)).features, near)
    again = wall("best_view", both, far, from_afar(5), 8.0)
    assert int(again.size) == int(both.size)
    np.testing.assert_array_equal(read(again, from_afar(0)).features, near)


def test_a_place_seen_from_the_other_side_is_read_from_there():
    """A post of one cell, from the front and from the right, again and again: two points, each for its side."""
    front, right = camera([[0, 0, 0]], [[0, 0, -3]]), camera([[0, -np.pi / 2, 0]], [[3, 0, 0]])
    one = np.zeros(SHAPE, bool)
    one[0, HEIGHT // 2, WIDTH // 2] = True
    features = tokens(np.random.default_rng(0), 4, *SHAPE)
    for rule, held in (("two_views", 2), ("first", 1)):
        memory = empty(rule)
        for new, view in zip(features, (front, right, front, right), strict=True):
            memory = see(rule, memory, new, np.full(SHAPE, 3, np.float32), np.zeros(SHAPE, bool), view, one)
        assert int(memory.size) == held
        shown = [read(memory, view, max_footprint=3).features[one][0] for view in (front, right)]
        np.testing.assert_array_equal(shown[0], features[0][one][0])
        np.testing.assert_array_equal(shown[1], features[held - 1][one][0])


def test_newest_leaves_no_older_point_of_the_surface_and_nothing_else_goes():
    rng = np.random.default_rng(0)
    view, memory = from_afar(0), empty("newest", 8 * CELLS)
    behind = camera([[0, np.pi, 0]], [[0, 0, 0]])
    memory = write(memory, tokens(rng, *SHAPE), np.full(SHAPE, 3, np.float32), behind, everything(SHAPE))
    for _ in range(3):
        memory = write(memory, tokens(rng, *SHAPE), np.full(SHAPE, 3, np.float32), view, everything(SHAPE))
    memory = wall("newest", memory, tokens(rng, *SHAPE), view, 3.1)
    assert int(memory.size) == 2 * CELLS


@pytest.mark.parametrize("rule", list(merge.RULES))
@pytest.mark.parametrize("distance", [0, 5])
def test_cells_that_may_not_enter_take_no_ones_place_and_blend_with_none(rule, distance):
    """A wall seen from afar, then from there or from closer: by cells that are not to be remembered."""
    far, new = tokens(np.random.default_rng(0), 2, *SHAPE)
    memory = wall(rule, empty(rule), far, from_afar(5), 8.0)
    nobody = np.zeros(SHAPE, bool)
    depth = np.full(SHAPE, 3.0 + distance, np.float32)
    after = see(rule, memory, new, depth, nobody, from_afar(distance), nobody)
    assert int(after.size) == int(memory.size)
    for name in ("features", "points"):
        np.testing.assert_array_equal(getattr(after, name), getattr(memory, name))


@pytest.mark.parametrize("rule", list(merge.RULES))
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
@example(seed=1130)
@example(seed=191)
def test_whatever_is_seen_nothing_is_lost_but_what_is_replaced_and_nothing_is_nan(rule, seed):
    """Random walls, skies and holes: what no frame meets stays to the bit, and every cell that may enter is shown."""
    rng = np.random.default_rng(seed)
    memory = empty(rule)
    views = [camera([[0, angle, 0]], rng.normal(size=(1, 3)) * 0.3) for angle in (0, np.pi, rng.choice([0, 0.2]))]
    for number, view in enumerate(views):
        depth = rng.choice(np.array([1, 2, 2.1, 4, np.nan, 0], np.float32), SHAPE)
        sky, keep = rng.random(SHAPE) < 0.2, rng.random(SHAPE) < 0.9
        before, features = memory, tokens(rng, *SHAPE)
        memory = see(rule, memory, features, depth, sky, view, keep)
        assert np.isfinite(memory.features).all() and np.isfinite(memory.points).all()
        enters = (keep & np.isfinite(depth) & (depth > 0)) | sky
        assert read(memory, view, max_footprint=3).visible[enters].all()
        # What is behind a camera it does not meet: of what the first view saw, the second meets nothing.
        pose, held = np.asarray(view.cam2world[0]), int(before.size)
        places = np.asarray(before.points)[:held]
        behind = (places[:, :3] - pose[:3, 3] * places[:, 3:]) @ pose[:3, 2] < 0
        assert behind.any() or number == 0
        left = set(map(tuple, np.asarray(memory.features).tolist()))
        assert all(tuple(token) in left for token in np.asarray(before.features)[:held][behind].tolist())


def _frame(rng, angle):
    """Tokens, depth, sky, camera and keep of one random frame, as `see` takes them."""
    depth = rng.choice(np.array([1, 2, 2.1, 4, np.nan, 0], np.float32), SHAPE)
    view = camera([[0, angle, 0]], rng.normal(size=(1, 3)) * 0.3)
    return tokens(rng, *SHAPE), depth, rng.random(SHAPE) < 0.2, view, rng.random(SHAPE) < 0.9


@pytest.mark.parametrize("rule", list(merge.RULES))
def test_scan_and_vmap_equal_the_loop(rule):
    rng = np.random.default_rng(0)
    frames = [_frame(rng, angle) for angle in (0, np.pi, 0.1, 0)]
    stack = lambda trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)  # noqa: E731

    def same(found, expected):
        assert set(found.columns) == set(expected.columns)
        for name, column in expected.columns.items():
            np.testing.assert_allclose(found.columns[name], column, rtol=2e-6, atol=1e-6, err_msg=name)
        np.testing.assert_array_equal(found.size, expected.size)

    looped = empty(rule)
    for frame in frames:
        looped = see(rule, looped, *frame)
    scanned = jax.lax.scan(lambda memory, frame: (see(rule, memory, *frame), None), empty(rule), stack(frames))[0]
    same(scanned, looped)
    apart = [see(rule, looped, *frame) for frame in frames]
    assert len({int(memory.size) for memory in apart} | {int(looped.size)}) > 1
    same(jax.vmap(lambda frame: see(rule, looped, *frame))(stack(frames)), stack(apart))


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_rules_are_decided_cell_by_cell_in_whatever_order(seed):
    rng = np.random.default_rng(seed)
    numbers = [np.exp(rng.normal(size=SHAPE)).astype(np.float32) for _ in range(3)]
    same = rng.random(SHAPE) < 0.6
    cells = Comparison(same, ~same & (rng.random(SHAPE) < 0.5), *(jnp.asarray(x) for x in numbers))
    order = rng.permutation(CELLS)
    turned = lambda tree: jax.tree.map(lambda x: jnp.asarray(x).reshape(-1)[order].reshape(SHAPE), tree)  # noqa: E731
    for name, rule in merge.RULES.items():
        jax.tree.map(np.testing.assert_array_equal, rule(turned(cells)), turned(rule(cells)))
        decided = rule(cells)
        assert decided.enters[~(cells.same | cells.hidden)].all(), name  # what is new always enters
        for other in (decided.replaces, decided.replaces_all, decided.blends):
            assert other is None or not other[~cells.same].any(), name


def test_a_memory_that_names_no_points_is_refused():
    view, memory = from_afar(0), empty("newest")
    shown = read(memory, view)
    rendered = Readout(shown.features, shown.visible, shown.depth, scale=shown.scale, index=None)
    with pytest.raises(UserError, match="merge 'newest' compares token with token"):
        merge.apply("newest", memory, shown.features, shown.depth, shown.visible, view, rendered, shown.visible)
