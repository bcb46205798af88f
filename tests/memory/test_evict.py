"""Which points a full memory keeps, and that groups out of view cost nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_latent import CHANNELS, HEIGHT, WIDTH, camera, everything, still, tokens

from mirage_jax.memory import evict, groups, latent, points

CELLS = HEIGHT * WIDTH
SHAPE = (1, HEIGHT, WIDTH)

write = jax.jit(latent.write)
read = jax.jit(latent.read, static_argnames=("max_footprint",))
least_valuable = jax.jit(evict.least_valuable)


def towards(angle, distance=0.0):
    """A camera at the origin, turned about the vertical axis, and that far forward."""
    return camera([[0, angle, 0]], [[distance * np.sin(angle), 0, distance * np.cos(angle)]])


def wall(memory, features, cameras, distance=3.0):
    return write(memory, features, np.full(SHAPE, distance, np.float32), cameras, everything(SHAPE))


def shown(memory, features, cameras):
    """Share of cells that show these tokens."""
    return float((np.asarray(read(memory, cameras).features) == features).all(-1).mean())


def test_a_tenth_of_the_room_holds_the_places_seen_last():
    places = 20
    features = tokens(np.random.default_rng(0), places, *SHAPE)
    views = [camera([[0, 0, 0]], [[50.0 * place, 0, 0]]) for place in range(places)]
    memory = latent.create(places // 10 * CELLS, CHANNELS)
    for new, view in zip(features, views, strict=True):
        memory = wall(memory, new, view)
    assert (int(memory.size), int(memory.overflow)) == (2 * CELLS, (places - 2) * CELLS)
    assert [shown(memory, *place) for place in zip(features, views, strict=True)] == [0.0] * 18 + [1.0] * 2


def test_what_was_read_lately_outlives_what_was_written_later():
    features, views = tokens(np.random.default_rng(0), 3, *SHAPE), [towards(angle) for angle in (0, 1.5, 3)]
    memory = latent.create(2 * CELLS, CHANNELS)
    for place in (0, 1):
        memory = wall(memory, features[place], views[place])
    memory = points.mark_seen(memory, read(memory, views[0]).index)
    memory = wall(memory, features[2], views[2])
    assert [shown(memory, *place) for place in zip(features, views, strict=True)] == [1.0, 0.0, 1.0]
    assert sorted(np.unique(memory.last_seen).tolist()) == [2]


def test_of_what_was_seen_at_once_the_coarse_goes_where_there_is_finer():
    features, views = tokens(np.random.default_rng(0), 3, *SHAPE), [towards(0), towards(0, 6.0), towards(3)]
    memory = latent.create(3 * CELLS, CHANNELS)
    for place, distance in ((0, 8.0), (1, 2.0)):  # one wall, first from afar, and then in its middle from close by
        memory = wall(memory, features[place], views[place], distance)
    memory = memory.replace(last_seen=jnp.zeros_like(memory.last_seen))
    columns = {name: column[: 2 * CELLS] for name, column in memory.columns.items()}
    covered = np.asarray(evict.superseded(*(columns[n] for n in evict.DECIDES[:5]), everything(2 * CELLS)))
    assert 3 <= covered.sum() <= 12 and not covered[CELLS:].any()
    few = np.arange(CELLS).reshape(SHAPE) < covered.sum()
    full = memory.replace(**columns)
    more = write(full, features[2], np.full(SHAPE, 3, np.float32), views[2], few)
    left = set(map(tuple, np.asarray(more.features).tolist()))
    assert [tuple(x) in left for x in np.asarray(full.features).tolist()] == (~covered).tolist()


def test_of_equals_the_farthest_goes_and_sky_before_all():
    features = tokens(np.random.default_rng(0), 2, *SHAPE)
    depth = np.linspace(1, 30, CELLS, dtype=np.float32).reshape(SHAPE)
    sky = np.arange(CELLS).reshape(SHAPE) == 0
    memory = write(latent.create(CELLS, CHANNELS), features[0], depth, still(), ~sky, sky)
    few = np.arange(CELLS).reshape(SHAPE) < 4
    memory = write(memory, features[1], depth * 0 + 2, towards(3), few)
    np.testing.assert_array_equal(memory.features[: CELLS - 4], features[0].reshape(CELLS, -1)[1 : CELLS - 3])


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6))
def test_those_that_go_are_worth_least_in_whatever_order_they_come(seed):
    rng = np.random.default_rng(seed)
    x, y, z = rng.choice(np.array([0, 0.5, 3, 1e30, -7], np.float32), (3, 60))
    w, cell_size = rng.choice(np.array([1, 1, 0], np.float32), 60), rng.choice(np.array([0.1, 0.3, 5], np.float32), 60)
    last_seen, held = rng.integers(0, 3, 60).astype(np.int32), rng.random(60) < 0.8
    centre, count = rng.choice(np.array([0, 2, np.nan], np.float32), 3), rng.integers(0, held.sum() + 1)
    columns = x, y, z, w, cell_size, last_seen, held
    goes = np.asarray(least_valuable(*columns, centre, count))
    assert goes.sum() == count and not (goes & ~held).any()
    coarse = np.asarray(evict.superseded(x, y, z, w, cell_size, held))
    with np.errstate(all="ignore"):
        away = (
            ((np.stack([x, y, z], -1) - centre) ** 2).sum(-1) if np.isfinite(centre).all() else np.zeros(60, np.float32)
        )
    away = np.where(w == 0, np.inf, np.minimum(away, np.finfo(np.float32).max))
    key = np.rec.fromarrays([last_seen, ~coarse, -away], names="seen,fine,near")
    key = np.array([tuple(k) for k in key.tolist()], dtype=[("seen", int), ("fine", int), ("near", float)])
    if 0 < count < held.sum():
        assert max(key[goes].tolist()) <= min(key[held & ~goes].tolist())
    order = rng.permutation(60)
    again = np.asarray(least_valuable(*(column[order] for column in columns), centre, count))
    assert sorted(key[order][again].tolist()) == sorted(key[goes].tolist())


def test_writing_goes_on_for_ever_in_one_capacity_and_what_was_written_last_is_there():
    rng = np.random.default_rng(0)
    memory = latent.create(3 * CELLS + 5, CHANNELS)
    for _ in range(60):
        new, view = tokens(rng, *SHAPE), camera(rng.normal(size=(1, 3)), rng.normal(size=(1, 3)) * 5)
        memory = write(memory, new, rng.uniform(0.5, 9, SHAPE).astype(np.float32), view, everything(SHAPE))
        held = int(memory.size)
        np.testing.assert_array_equal(memory.features[held - CELLS : held], new.reshape(CELLS, -1))
    assert (int(memory.size), int(memory.overflow)) == (3 * CELLS + 5, 57 * CELLS - 5)
    assert np.isfinite(memory.points).all() and (np.diff(memory.last_seen) >= 0).all()


@pytest.mark.parametrize("reach", [0, 1])
def test_a_group_is_in_view_just_if_a_point_between_its_bounds_is(reach):
    """Boxes of one point each, at and beyond the borders of a view: no wider than the margin of a cell."""
    rng = np.random.default_rng(reach)
    cameras = camera([rng.normal(size=3)], [rng.normal(size=3) * 3])
    z = rng.uniform(0.03, 5, 4000)
    uv = np.stack([rng.uniform(-4, WIDTH + 4, 4000), rng.uniform(-4, HEIGHT + 4, 4000)])
    k, pose = cameras.intrinsics[0].astype(float), cameras.cam2world[0].astype(float)
    local = np.linalg.solve(k, np.concatenate([uv, np.ones((1, 4000))])) * z
    x, y, world_z = (pose[:3, :3] @ local + pose[:3, 3:]).astype(np.float32)
    box = jnp.stack([jnp.stack([x, y, world_z])] * 2)
    none = groups.no_bounds(4000 * groups.GROUP)[1, :, :, :4000]
    seen = np.asarray(groups.may_see(cameras[0], jnp.stack([box, none]), reach=reach, near=points.NEAR))
    beyond = np.maximum(np.maximum(-uv[0], uv[0] - WIDTH), np.maximum(-uv[1], uv[1] - HEIGHT))
    in_front = z > points.NEAR
    assert seen[in_front & (beyond <= reach)].all() and not seen[~in_front & (z < 0.999 * points.NEAR)].any()
    assert not seen[beyond > reach + 1.01].any() and 0.2 < seen.mean() < 0.9


def test_a_view_takes_only_the_groups_that_it_may_see(monkeypatch):
    """Of twenty places, each in groups of its own, one is projected."""
    monkeypatch.setattr(groups, "BLOCK", 64)
    monkeypatch.setattr(groups, "GROUP", 8)
    features = tokens(np.random.default_rng(0), 20, *SHAPE)
    memory = latent.create(20 * CELLS, CHANNELS)
    for place, new in enumerate(features):
        memory = wall(memory, new, camera([[0, 0, 0]], [[50.0 * place, 0, 0]]))
    view = camera([[0, 0, 0]], [[50.0 * 7, 0, 0]])[0]
    seen = np.flatnonzero(groups.may_see(view, memory.bounds, reach=1, near=points.NEAR))
    np.testing.assert_array_equal(seen, np.arange(7 * CELLS // 8, -(-8 * CELLS // 8)))
    look = jax.jit(functools.partial(latent.read, max_footprint=3))
    np.testing.assert_array_equal(look(memory, camera([[0, 0, 0]], [[350.0, 0, 0]])).features, features[7])
