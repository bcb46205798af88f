"""How many parts a batch is split into, by what the compiled step needs of the device's memory."""

import jax
import jax.numpy as jnp
import pytest

from mirage_jax.errors import UserError
from mirage_jax.models import partition
from mirage_jax.training.measures import preflight
from mirage_jax.world import device_memory

BATCH, WIDTH = 8, 64


@pytest.fixture(scope="module")
def mesh():
    return partition.make_mesh({"data": 1}, jax.devices()[:1])


@pytest.fixture(scope="module")
def compiled_with():
    """A program whose arguments stay and whose temporaries shrink as the batch is split, compiled once a size."""
    known = {}

    def compiled(parts):
        if parts not in known:
            x = jax.ShapeDtypeStruct((parts, BATCH // parts * WIDTH, WIDTH), jnp.float32)
            total = jax.jit(lambda x: jax.lax.map(lambda part: jnp.sort(part @ part.T, axis=0).sum(), x).sum())
            known[parts] = total.lower(x).compile()
        return known[parts]

    return compiled


def test_as_few_parts_as_fit(mesh, compiled_with):
    sizes = {parts: device_memory.needed(compiled_with(parts)) for parts in (1, 2, 4, 8)}
    assert sizes[1] > sizes[2] > sizes[4] > sizes[8] > BATCH * WIDTH * WIDTH * 4
    for parts, size in sizes.items():
        assert preflight.accumulation(compiled_with, 0, BATCH, mesh, size) == parts
    assert preflight.accumulation(compiled_with, 4, BATCH, mesh, sizes[1]) == 4  # asked for


def test_what_does_not_fit_is_told_with_the_switch_that_mends_it(mesh, compiled_with):
    size = device_memory.needed(compiled_with(2))
    with pytest.raises(UserError, match=r"accumulate=2 needs 0\.\d GB .* mends it: --config\.accumulate=4"):
        preflight.accumulation(compiled_with, 2, BATCH, mesh, size - 1)
    with pytest.raises(UserError, match=r"accumulate=8 needs .* mends it: --config\.remat=full"):
        preflight.accumulation(compiled_with, 0, BATCH, mesh, 1)


def test_a_compiler_without_room_is_one_that_does_not_fit(mesh, compiled_with):
    def refuses(parts):
        if parts < 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM")
        return compiled_with(parts)

    assert preflight.accumulation(refuses, 0, BATCH, mesh, 1 << 40) == 4
    with pytest.raises(UserError, match=r"accumulate=1 needs more than the compiler can place"):
        preflight.accumulation(refuses, 1, BATCH, mesh, 1 << 40)


def test_devices_that_do_not_tell_are_not_asked(mesh):
    def never(parts):
        raise AssertionError("compiled for nothing")

    assert device_memory.limit(mesh.local_devices) is None  # a CPU
    assert [preflight.accumulation(never, asked, BATCH, mesh, None) for asked in (0, 4)] == [1, 4]
