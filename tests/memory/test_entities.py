"""Things that move: found, followed, remembered while nobody looks, and forgotten when they are gone."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import strategies as st
from movers import CHANNELS, away_and_back, film, line

from mirage_jax.memory import latent
from mirage_jax.memory.things import components, entities

SLOTS, CELLS = 4, 48
RADIUS = 0.5


@jax.jit
def run(movie_arrays, cameras):
    """Entities after all frames of a film; the static memory has everything that stands still."""
    features, depth, moving = movie_arrays
    memory = latent.create(8192, CHANNELS)
    memory = latent.write(memory, features[:1], depth[:1], cameras[:1], ~moving[:1])
    things = entities.create(SLOTS, CELLS, CHANNELS)
    return entities.write(things, memory, features, depth, cameras, moving), memory


def after(movie, frames):
    arrays = tuple(x[:frames] for x in (movie.features, movie.depth, movie.moving))
    return run(arrays, movie.cameras[:frames])


def frame(t, x):
    return x[t : t + 1]


def nearest(things, time, place):
    """Distance of the nearest thing held to a place at a time."""
    distance = np.linalg.norm(np.asarray(entities.predicted(things, time)) - place, axis=-1)
    return np.where(np.asarray(things.held), distance, np.inf).min()


@pytest.mark.parametrize(
    "start, velocity",
    [((-1.5, 0.2, 4.0), (0.15, 0, 0)), ((0.5, 0, 3.0), (0, 0, 0.15)), ((1.0, 0.5, 5.0), (-0.12, 0, -0.08))],
)
def test_what_moves_steadily_is_found_again_where_it_has_gone(start, velocity):
    look, away = 8, 8
    movie = film([line(start, velocity, look + away + 4)], away_and_back(look, away, 4), radius=RADIUS)
    things, _ = after(movie, look + away)
    now = look + away
    assert np.asarray(things.held).sum() == 1
    assert nearest(things, now, movie.tracks[0, now]) < 0.5 * 2 * RADIUS
    forgotten = np.linalg.norm(movie.tracks[0, look - 1] - movie.tracks[0, now])
    assert nearest(things, now, movie.tracks[0, now]) < 0.5 * forgotten


def test_a_thing_is_shown_where_it_is_and_hidden_by_a_wall():
    look, away = 8, 6
    track = line((-1.5, 0.0, 4.0), (0.2, 0, 0), look + away + 1)
    movie = film([track], away_and_back(look, away, 1), radius=RADIUS)
    things, memory = after(movie, look + away)
    now = look + away
    camera = movie.cameras[now:]
    static = latent.read(memory, camera, max_footprint=3)
    shown = entities.read(things, static, camera, jnp.array([now]))
    truth = movie.ball[now] == 0
    found = np.asarray(shown.moving[0])
    assert (found & truth).sum() > 0.6 * (found | truth).sum()
    np.testing.assert_array_equal(np.asarray(shown.features[0])[found & truth], movie.features[now][found & truth])
    np.testing.assert_array_equal(np.asarray(shown.age[0])[found], now - (look - 1))
    assert not np.asarray(shown.age[0])[~found].any() and (np.asarray(shown.index[0])[found] == -1).all()
    np.testing.assert_array_equal(np.asarray(shown.features)[~found[None]], np.asarray(static.features)[~found[None]])
    earlier = entities.read(things, static, camera, jnp.array([look - 3]))  # a frame before it was seen last
    assert np.asarray(earlier.moving).any() and not np.asarray(earlier.age).any()
    # The same, with a wall of points in front of it.
    near = jnp.full((1, 32, 32), 2.0)
    behind = latent.write(memory, jnp.ones((1, 32, 32, CHANNELS)), near, camera, jnp.ones((1, 32, 32), bool))
    hidden = entities.read(things, latent.read(behind, camera, max_footprint=3), camera, jnp.array([now]))
    assert not np.asarray(hidden.moving).any()


@pytest.mark.parametrize(("nearer", "shown"), [(1.0, True), (2.3, False)])
def test_from_much_nearer_it_is_not_known_how_a_thing_looks(nearer, shown):
    movie = film([np.tile([0.0, 0.0, 4.0], (6, 1))], np.zeros(6), radius=RADIUS)
    things, _ = after(movie, 5)
    camera = movie.cameras[5:]
    pose = np.array(camera.cam2world)
    pose[:, 2, 3] += nearer
    close = camera.replace(cam2world=jnp.asarray(pose))
    static = latent.read(latent.create(1, CHANNELS), close)
    assert np.asarray(entities.read(things, static, close, jnp.array([5])).moving).any() == shown


def test_behind_a_wall_and_out_again():
    frames = 30
    movie = film(
        [line((-2.4, 0.0, 5.0), (0.16, 0, 0), frames)],
        np.zeros(frames),
        radius=RADIUS,
        wall=[[-0.8, -1.5, 3.0], [0.8, 1.5, 3.2]],
    )
    behind = [t for t in range(frames) if not movie.moving[t].any()]
    assert len(behind) >= 4
    back = behind[-1] + 3
    things, _ = after(movie, behind[-1] + 1)
    assert np.asarray(things.held).sum() == 1
    assert nearest(things, back, movie.tracks[0, back]) < RADIUS
    things, _ = after(movie, frames)
    assert np.asarray(things.held).sum() == 1, "it is the same thing that comes out"
    assert int(things.sightings.max()) > behind[0]


def test_two_that_cross_keep_their_looks():
    look, away = 10, 8
    tracks = [line((-1.8, 0, 4.0), (0.2, 0, 0), look + away + 1), line((1.8, 0, 5.5), (-0.2, 0, 0), look + away + 1)]
    movie = film(tracks, away_and_back(look, away, 1), radius=RADIUS)
    things, _ = after(movie, look + away)
    now = look + away
    place = np.asarray(entities.predicted(things, now))
    held = np.asarray(things.held)
    assert held.sum() == 2
    for number, track in enumerate(movie.tracks):
        at = np.argmin(np.where(held, np.linalg.norm(place - track[now], axis=-1), np.inf))
        assert np.linalg.norm(place[at] - track[now]) < RADIUS
        token = np.asarray(things.features)[at][np.asarray(things.valid)[at]].mean(0)
        ours, other = (movie.features[0][movie.ball[0] == n][0] for n in (number, 1 - number))
        assert np.linalg.norm(token - ours) < np.linalg.norm(token - other)


@pytest.mark.parametrize("fate", ["stopped", "left"])
def test_what_stopped_or_left_while_unseen_is_gone_within_a_segment(fate):
    look, away, back = 8, 8, 4
    track = line((-1.5, 0.0, 4.0), (0.15, 0, 0), look + away + back)
    track[look + 1 :] = np.nan if fate == "left" else track[look + 1]
    movie = film([track], away_and_back(look, away, back), radius=RADIUS)
    if fate == "stopped":  # it stands still: the mask says so
        movie.moving[look + away :] = False
    things, _ = after(movie, look + away)
    assert np.asarray(things.held).sum() == 1
    things, _ = after(movie, look + away + back)
    assert np.asarray(things.held).sum() == 0
    assert int(things.refuted) == 1


def test_what_runs_into_a_wall_of_the_memory_stops_there():
    look, away = 6, 40
    movie = film([line((1.0, 0.0, 4.0), (0, 0, 0.3), look + away)], away_and_back(look, 1, 0), radius=RADIUS)
    things, _ = after(movie, look)
    place = np.asarray(entities.predicted(things, look + away))[np.argmax(np.asarray(things.held))]
    assert 7.0 < place[2] <= 9.0, "the far wall is at 9 m"


@pytest.mark.parametrize("period, look", [(24, 36), (36, 48), (48, 72)])
def test_what_swings_is_expected_where_it_swings(period, look):
    """Whenever it is looked for again, it is expected well within its reach of the middle of its swing."""
    phase = 2 * np.pi * (np.arange(look) + 3) / period
    track = np.array([0.0, 0.0, 4.5]) + np.sin(phase)[:, None] * [0.9, 0, 0] + np.cos(phase)[:, None] * [0, 0, 0.3]
    movie = film([track], np.zeros(look), radius=0.4)
    things, _ = after(movie, look)
    assert np.asarray(things.held).sum() == 1
    for away in (10, 20, 40):
        assert nearest(things, look + away, [0.0, 0.0, 4.5]) < 0.6, away


def test_what_goes_straight_is_believed_for_long_and_then_expected_back():
    look = 10
    movie = film([line((-1.8, 0.0, 5.0), (0.12, 0, 0), look)], np.zeros(look), radius=0.4)
    things, _ = after(movie, look)
    for away in range(look):
        assert nearest(things, look - 1 + away, [-1.8 + 0.12 * (look - 1 + away), 0.0, 5.0]) < 0.4, away
    assert nearest(things, look + 10 * look, movie.tracks[0].mean(0)) < 0.4


def test_static_memory_is_never_touched_and_hidden_only_where_a_thing_is_in_front():
    movie = film([line((-1.0, 0.0, 4.0), (0.1, 0, 0), 8)], np.zeros(8), radius=RADIUS)
    things, memory = after(movie, 8)
    static = latent.read(memory, movie.cameras[7:8], max_footprint=3)
    shown = entities.read(things, static, movie.cameras[7:8], jnp.array([7]))
    moving = np.asarray(shown.moving)
    assert moving.any()
    assert (np.asarray(shown.visible) >= np.asarray(static.visible)).all()
    seen = np.asarray(static.visible) & moving
    assert (np.asarray(shown.depth)[seen] < np.asarray(static.depth)[seen]).all()


def test_a_film_at_once_equals_frame_by_frame_and_vmap():
    movie = film([line((-1.5, 0.2, 4.0), (0.15, 0, 0), 6)], np.zeros(6), radius=RADIUS)
    arrays = movie.features, movie.depth, movie.cameras, movie.moving
    memory, empty = latent.create(64, CHANNELS), entities.create(SLOTS, CELLS, CHANNELS)
    step = jax.jit(entities.write)
    whole = step(empty, memory, *arrays)
    single = empty
    for t in range(6):
        single = step(single, memory, *jax.tree.map(functools.partial(frame, t), arrays))
    several = jax.jit(jax.vmap(entities.write, in_axes=(None, None, 0, 0, 0, 0)))(
        empty, memory, *jax.tree.map(lambda x: np.stack([x, x]), arrays)
    )
    for other in (single, jax.tree.map(lambda x: x[1], several)):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), whole, other)


def test_frames_that_are_not_valid_only_let_time_pass():
    movie = film([line((-1.5, 0.2, 4.0), (0.15, 0, 0), 6)], np.zeros(6), radius=RADIUS)
    memory, empty = latent.create(64, CHANNELS), entities.create(SLOTS, CELLS, CHANNELS)
    arrays = movie.features, movie.depth, movie.cameras, movie.moving
    none = entities.write(empty, memory, *arrays, np.zeros(6, bool))
    assert not np.asarray(none.held).any() and int(none.clock) == 6


def test_more_things_than_slots_keep_the_largest():
    tracks = [line((x, 0.0, z), (0.0, 0, 0), 2) for x, z in ((-2, 4), (-0.6, 6), (0.9, 7), (2.0, 5), (3.5, 8))]
    movie = film(tracks, np.zeros(2), radius=0.45)
    things, _ = after(movie, 2)
    assert np.asarray(things.held).sum() == SLOTS
    seen = sorted(range(5), key=lambda n: -(movie.ball[1] == n).sum())
    for number in seen[:SLOTS]:
        assert nearest(things, 1, movie.tracks[number, 1]) < 0.5


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="need a slot"):
        entities.create(0, 1, 1)


def rubbish(seed, frames=3, grid=(8, 8)):
    """Random tokens, masks, poses, and depth that is unknown, infinite or no number in places."""
    rng = np.random.default_rng(seed)
    depth = np.exp(rng.normal(1, 0.7, (frames, *grid))).astype(np.float32)
    for value in (0.0, np.inf, np.nan, -1.0):
        depth[rng.random(depth.shape) < 0.05] = value
    movie = film(np.full((1, frames, 3), np.nan), rng.uniform(-30, 30, frames), grid=grid)
    moving = rng.random(depth.shape) < rng.uniform(0, 1)
    features = rng.normal(size=(*depth.shape, CHANNELS)).astype(np.float32)
    return features, depth, movie.cameras, moving


write_jit, read_jit = jax.jit(entities.write), jax.jit(entities.read)


@hypothesis.given(st.integers(0, 10**6))
@hypothesis.settings(max_examples=25, deadline=None)
def test_whatever_is_written_stays_sound(seed):
    features, depth, cameras, moving = rubbish(seed)
    memory = latent.write(latent.create(256, CHANNELS), features, depth, cameras, ~moving)
    things = write_jit(entities.create(SLOTS, CELLS, CHANNELS), memory, features, depth, cameras, moving)
    for name, value in vars(things).items():
        assert not np.isnan(np.asarray(value, np.float32)).any(), name
    assert ((np.asarray(things.confidence) >= 0) & (np.asarray(things.confidence) <= 1)).all()
    assert (np.asarray(things.room) >= 0).all()
    static = latent.read(memory, cameras, max_footprint=3)
    shown = read_jit(things, static, cameras, jnp.arange(len(depth)) + 5)
    assert (np.asarray(shown.visible) >= np.asarray(static.visible)).all(), "nothing static is lost to a thing"
    there = np.asarray(shown.moving)
    for name in ("features", "depth", "scale", "index"):
        np.testing.assert_array_equal(
            np.asarray(getattr(shown, name))[~there], np.asarray(getattr(static, name))[~there]
        )
        assert not np.isnan(np.asarray(getattr(shown, name))).any()


@hypothesis.given(st.integers(0, 10**6), st.permutations(range(SLOTS)))
@hypothesis.settings(max_examples=15, deadline=None)
def test_the_order_of_slots_does_not_matter(seed, order):
    features, depth, cameras, moving = rubbish(seed)
    memory = latent.create(64, CHANNELS)
    first = write_jit(entities.create(SLOTS, CELLS, CHANNELS), memory, features, depth, cameras, moving)
    first = first.replace(confidence=first.confidence * (1 - 0.01 * jnp.arange(SLOTS)))  # of equals, the first is taken
    order = np.array(order)
    other = jax.tree.map(lambda x: x[order] if x.ndim else x, first)
    after = [write_jit(start, memory, features, depth, cameras, moving) for start in (first, other)]
    places = [np.asarray(entities.predicted(x, 9))[np.asarray(x.held)] for x in after]
    assert len(places[0]) == len(places[1])
    places = [x[np.lexsort(x.T.round(3))] for x in places]
    np.testing.assert_allclose(*places, rtol=1e-4, atol=1e-4)


def spiral(size):
    """A path one cell wide that winds inwards, and all else."""
    there, row, column, step = np.zeros((size, size), bool), 0, 0, (0, 1)
    there[0, 0] = True
    for length in [size - 1, *(n for k in range(size - 1, 1, -2) for n in (k, k))][: size - 2]:
        for _ in range(length):
            row, column = row + step[0], column + step[1]
            there[row, column] = True
        step = (step[1], -step[0])
    return there


@pytest.mark.parametrize("shape", [np.ones((32, 32), bool), np.tri(32, dtype=bool), spiral(32)])
def test_what_touches_is_one_whatever_its_shape(shape):
    labels = np.asarray(jax.jit(components.label)(shape, np.ones(shape.shape, np.float32)))
    _, count = scipy.ndimage.label(shape, np.ones((3, 3)))
    assert count == 1 and set(labels[shape]) == {np.flatnonzero(shape)[0]}
    assert (labels[~shape] == shape.size).all()


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
def test_groups_are_those_of_scipy(share):
    there = np.random.default_rng(0).random((44, 80)) < share
    labels = np.asarray(jax.jit(components.label)(there, np.ones(there.shape, np.float32)))
    expected, count = scipy.ndimage.label(there, np.ones((3, 3)))
    pairs = set(zip(labels[there].tolist(), expected[there].tolist(), strict=True))
    assert len(pairs) == count == len(set(labels[there]))
