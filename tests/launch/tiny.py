"""Makes what a training run of seconds needs: `tests/launch/tiny.py FOLDER` writes coded clips and a small VAE."""

import pathlib
import sys

import numpy as np

from experiments.worlds import coded
from mirage_jax import weights
from mirage_jax.models import config as model_config
from mirage_jax.models import vae

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "world"))
import tiny_world

CHANNELS = 12


def make(folder):
    """Random coded clips in `data/`, and a model folder `model/`."""
    rng = np.random.default_rng(0)

    def sample(i):
        return {
            "latents": rng.normal(size=(5, 4, 4, CHANNELS)).astype(np.float16),
            "depth": rng.uniform(1, 9, (5, 4, 4)).astype(np.float16),
            "dynamic": rng.integers(0, 2, (5, 4, 4), np.uint8),
            "intrinsics": np.tile(np.array([[3, 0, 2], [0, 3, 2], [0, 0, 1]], np.float32), (17, 1, 1)),
            "cam2world": np.tile(np.eye(4, dtype=np.float32), (17, 1, 1)),
            "caption": "",
            "source": f"clip {i}",
        }

    coded.write(folder / "data", "train", (5, 4, 4, CHANNELS), (sample(i) for i in range(8)))
    coder = vae.VAEConfig(
        latent_channels=CHANNELS,
        encoder_dim=4,
        decoder_dim=4,
        multipliers=(1, 1, 1),
        blocks=1,
        time_downsample=(True, True),
        time_kernels=(1, 1, 1),
    )
    model = model_config.ModelConfig(name="tiny", height=32, width=32, fps=15, vae=coder, recipe="paper")
    weights.save(folder / "model", model, tiny_world.parameters(model))


def settings(folder, steps):
    """What of the heads' config a run on them has otherwise, one log line a step."""
    return {
        **{"data": f"{folder}/data", "init_from": f"{folder}/model", "warmup_steps": 5, "steps": steps},
        **{"batch_size": 2, "log_every": 1, "checkpoint_every": 5, "preview_every": 0},
    }


def flags(folder, steps):
    """Flags of `experiments.train` for the heads' stage on them."""
    root = pathlib.Path(__file__).resolve().parent.parent.parent
    changes = (f"--config.{name}={value}" for name, value in settings(folder, steps).items())
    return [f"--config={root}/experiments/configs/default_heads.py", *changes]


if __name__ == "__main__":
    make(pathlib.Path(sys.argv[1]))
