import jax
import numpy as np
from test_latent import camera

from mirage_jax.memory import latent, rgb


def test_frames_written_are_frames_rendered():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (1, 24, 32, 3)).astype(np.float32) / 127.5 - 1
    depth = rng.uniform(1, 9, (1, 24, 32)).astype(np.float32)
    cameras = camera([[0.1, 0.2, 0.3]], [[1, 2, 3]], 24, 32, focal=20.0)
    memory = jax.jit(rgb.write)(rgb.create(capacity=24 * 32), frames, depth, cameras, depth < 8)
    readout = jax.jit(rgb.read)(memory, cameras)
    np.testing.assert_array_equal(readout.visible, depth < 8)
    np.testing.assert_array_equal(readout.features, np.where((depth < 8)[..., None], frames, 0))


def test_it_is_the_latent_memory_with_three_channels():
    assert (rgb.write, rgb.read, rgb.nbytes) == (latent.write, latent.read, latent.nbytes)
    jax.tree.map(np.testing.assert_array_equal, rgb.create(capacity=5), latent.create(capacity=5, channels=3))
