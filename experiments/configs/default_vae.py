"""The video VAE of the default model."""

from experiments.configs import common


def get_config():
    """Stage 1 of 4."""
    config = common.base("vae")
    config.data = "data/doom"
    config.frames = 9
    config.crop = 96
    config.batch_size = 2
    config.windows_per_clip = 4
    config.l1_weight = 0.1
    config.kl_weight = 2e-4
    config.statistics_batches = 50

    config.steps = 6000
    config.learning_rate = 1.5e-3
    return config
