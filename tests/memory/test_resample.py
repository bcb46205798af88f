import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_jax.geometry import Camera, lift
from mirage_jax.memory.resample import depth_to_grid, mask_to_grid

# (old height, old width, new height, new width); few, since each compiles anew.
RATIOS = st.sampled_from([(16, 24, 2, 3), (17, 13, 5, 4), (3, 4, 7, 6), (5, 1, 2, 1)])
WHOLE_RATIOS = st.sampled_from([(16, 24, 2, 3), (6, 4, 2, 2), (9, 8, 3, 2)])

to_grid = jax.jit(depth_to_grid, static_argnums=(1, 2))
masked = jax.jit(mask_to_grid, static_argnums=(1, 2), static_argnames="least")


@given(RATIOS, st.integers(0, 10**6))
def test_all_valid_is_plain_bilinear_resampling(sizes, seed):
    height, width, new_height, new_width = sizes
    depth = np.random.default_rng(seed).uniform(0.5, 20, (height, width)).astype(np.float32)
    plain = jax.image.resize(depth, (new_height, new_width), "bilinear", antialias=False)
    np.testing.assert_allclose(to_grid(depth, new_height, new_width), plain, rtol=2e-5)


@given(RATIOS, st.integers(0, 10**6))
def test_invalid_depth_is_never_blended_in(sizes, seed):
    height, width, new_height, new_width = sizes
    rng = np.random.default_rng(seed)
    valid = rng.random((height, width)) < 0.5
    junk = rng.choice(np.array([0, -3, np.nan, -np.inf], np.float32), valid.shape)
    depth = np.where(valid, rng.uniform(5, 6, valid.shape), junk).astype(np.float32)
    grid = np.asarray(to_grid(depth, new_height, new_width))
    assert np.isfinite(grid).all()
    assert (((grid >= 4.9999) & (grid <= 6.0001)) | (grid == 0)).all()


@given(WHOLE_RATIOS, st.integers(0, 10**6))
def test_a_cell_with_valid_depth_is_known_and_one_without_is_not(sizes, seed):
    rows, columns, height, width = sizes
    depth = np.where(np.random.default_rng(seed).random((rows, columns)) < 0.2, 3, np.nan).astype(np.float32)
    known = (depth == 3).reshape(height, rows // height, width, columns // width).any(axis=(1, 3))
    np.testing.assert_array_equal(np.asarray(to_grid(depth, height, width)) == 3, known)


def test_neighbours_of_the_centre_decide_and_the_rest_of_the_cell_stands_in():
    depth = np.full((4, 4), np.nan, np.float32)
    depth[0, 0] = 7
    assert depth_to_grid(depth, 1, 1) == 7
    depth[1, 1] = 2
    assert depth_to_grid(depth, 1, 1) == 2
    depth[1, 2] = 4
    assert depth_to_grid(depth, 1, 1) == 3


def test_sky_wins_where_it_covers_more():
    depth = np.full((4, 4), np.inf, np.float32)
    depth[:2] = 5
    assert depth_to_grid(depth, 1, 1) == 5
    depth[1, 0] = np.inf
    assert np.isinf(depth_to_grid(depth, 1, 1))
    depth[:2], depth[2:] = np.nan, np.inf  # what is unknown has no vote
    assert np.isinf(depth_to_grid(depth, 1, 1))
    assert depth_to_grid(np.full((4, 4), np.nan, np.float32), 1, 1) == 0


def test_same_size_is_the_identity():
    depth = np.random.default_rng(0).uniform(1, 2, (2, 5, 7)).astype(np.float32)
    depth[0, 0, 0], depth[1, 2, 3] = 0, np.inf
    np.testing.assert_array_equal(depth_to_grid(depth, 5, 7), depth)


@pytest.mark.parametrize("height,width", [(16, 16), (13, 10)])
def test_points_of_the_grid_lie_on_the_surface_the_pixels_saw(height, width):
    """Half a cell: a tilted wall resampled and lifted on the grid is the wall, through its very middle."""
    k = np.array([[[100, 0, 64], [0, 100, 60], [0, 0, 1]]], np.float32)
    camera = Camera(k, np.eye(4, dtype=np.float32)[None], 120, 128)
    u, v = np.meshgrid(np.arange(128) + 0.5, np.arange(120) + 0.5)
    normal = np.array([0.03, 0.02, 1.0])
    depth = 5 / ((u - 64) / 100 * normal[0] + (v - 60) / 100 * normal[1] + normal[2])
    points = jax.jit(lift)(camera.resized(height, width), to_grid(depth[None], height, width))
    np.testing.assert_allclose(np.asarray(points) @ normal, 5, rtol=1e-5)


def test_gradient_is_finite_with_invalid_depth():
    depth = np.array([[1, np.nan, np.inf, 0], [2, 0, -1, 4]], np.float32)
    gradient = jax.jit(jax.grad(lambda d: jnp.sum(jnp.where(jnp.isinf(x := depth_to_grid(d, 1, 2)), 0, x))))(depth)
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient) != 0).sum() >= 2


@given(WHOLE_RATIOS, st.integers(0, 10**6))
def test_masks_by_share_of_the_area(sizes, seed):
    rows, columns, height, width = sizes
    mask = np.random.default_rng(seed).random((rows, columns)) < 0.7
    cells = mask.reshape(height, rows // height, width, columns // width)
    np.testing.assert_array_equal(masked(mask, height, width), cells.mean(axis=(1, 3)) >= 0.5)
    np.testing.assert_array_equal(masked(mask, height, width, least=1), cells.all(axis=(1, 3)))


def test_masks_with_cells_that_share_pixels():
    mask = np.array([[True, True, False]])
    np.testing.assert_array_equal(mask_to_grid(mask, 1, 2), [[True, False]])
    np.testing.assert_array_equal(mask_to_grid(mask, 1, 2, least=0.3), [[True, True]])
    np.testing.assert_array_equal(mask_to_grid(np.ones((7, 5), bool), 3, 3, least=1), np.ones((3, 3), bool))


def test_leading_axes_and_empty_grids():
    assert to_grid(np.ones((2, 3, 8, 8)), 4, 2).shape == (2, 3, 4, 2)
    assert masked(np.ones((2, 3, 8, 8), bool), 4, 2).shape == (2, 3, 4, 2)
    for function in (depth_to_grid, mask_to_grid):
        with pytest.raises(ValueError, match="rows and columns"):
            function(np.ones((4, 4)), 0, 2)
