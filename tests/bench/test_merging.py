import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.memory import merging
from mirage_jax.geometry import Camera
from mirage_jax.memory import merge
from mirage_jax.models import config
from mirage_jax.training.posed import PosedLatents


def test_all_grows_by_the_walk_and_first_does_not_and_both_show_every_view():
    frames, size, channels = 2, 4, 3
    k = np.array([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]], np.float32)
    cameras = Camera(np.tile(k, (frames, 1, 1)), np.tile(np.eye(4, dtype=np.float32), (frames, 1, 1)), size, size)
    tokens = jnp.tile(jax.random.normal(jax.random.key(0), (1, size, size, channels)), (frames, 1, 1, 1))
    shape = (frames, size, size)
    sample = PosedLatents(
        latents=tokens, depth=jnp.full(shape, 3.0), dynamic=jnp.zeros(shape, bool), frame_cameras=cameras
    )
    rows, points = [], {"all": frames * merging.WALKS, "first": 1}
    for rule, held in points.items():
        memory, shown = merging.walked(rule, config.default(), sample, jax.random.key(1), 0.0)
        assert int(memory.size) == held * size**2
        assert shown.visible.all() and jnp.array_equal(shown.features, tokens)
    for clip in range(8):  # clips differ by much more than rules do
        found = [
            {"rule": rule, "token_error": 0.0, **dict.fromkeys(merging.FIGURES, 10.0 * clip + number)}
            for number, rule in enumerate(merge.RULES)
        ]
        rows.append({"clip": f"{clip}", "found": found})
    table = merging.markdown({"model": "m", "walks": 3, "frames_apart": 4, "rows": rows})
    assert table.count("\n| ") == 2 + len(merge.RULES) + len(merge.RULES) - 1
    assert "| first | 36.00 [" in table
    assert "| newest | +1.00 [+1.00, +1.00] |" in table and "| all | -1.00 [-1.00, -1.00] |" in table
