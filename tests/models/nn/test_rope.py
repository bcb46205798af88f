"""Rotary positions against a complex-number twin that walks over every token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.models.nn import rope


def test_axis_widths():
    assert rope.axis_widths(128) == (44, 42, 42)
    assert rope.axis_widths(64) == (24, 20, 20)
    assert rope.axis_widths(32) == (12, 10, 10)
    assert rope.axis_widths(12) == (4, 4, 4)


def positions(reference, target, preceding, rows, columns):
    """(time, row, column) of every token, as wan22 words it."""
    found = []
    for i in range(reference):
        found += [(i - reference, rows + r, c) for r in range(rows) for c in range(columns)]
    for i in range(target + preceding):
        found += [(i, r, c) for r in range(rows) for c in range(columns)]
    return found


@pytest.mark.parametrize("counts", [(2, 3, 1), (0, 2, 0), (1, 1, 2)])
@pytest.mark.parametrize("head_dim", [12, 32])
def test_rotation_of_every_token(counts, head_dim):
    rows, columns, heads = 2, 3, 2
    places = positions(*counts, rows, columns)
    x = jax.random.normal(jax.random.key(0), (len(places), heads, head_dim))
    found = rope.rotate_pairs(x, *rope.segment_rotary(*counts, rows, columns, head_dim))
    for token, place in enumerate(places):
        for head in range(heads):
            pairs = np.asarray(x[token, head], np.float64).reshape(-1, 2)
            turned, offset = [], 0
            for position, width in zip(place, rope.axis_widths(head_dim), strict=True):
                for i in range(width // 2):
                    angle = position * 10_000.0 ** (-2 * i / width)
                    turned.append(complex(*pairs[offset + i]) * np.exp(1j * angle))
                offset += width // 2
            expected = np.stack([np.real(turned), np.imag(turned)], axis=-1).ravel()
            np.testing.assert_allclose(found[token, head], expected, atol=2e-6)


def test_products_depend_on_differences_of_position_only():
    query, key = jax.random.normal(jax.random.key(1), (2, 1, 1, 32))
    cosine, sine = rope.segment_rotary(0, 8, 0, 1, 1, 32)

    def product(i, j):
        turned = [rope.rotate_pairs(x, cosine[t : t + 1], sine[t : t + 1]) for x, t in ((query, i), (key, j))]
        return float(jnp.sum(turned[0] * turned[1]))

    assert product(2, 1) == pytest.approx(product(7, 6), abs=1e-4)
    assert product(2, 1) != pytest.approx(product(3, 1), abs=1e-2)
