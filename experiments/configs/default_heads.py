"""The heads of the default model: depth, keep and sky of what its memory holds, stills."""

from experiments.configs import common


def get_config():
    """Stage 2 of 5."""
    config = common.base("heads")
    config.init_from = "runs/vae_decoder/model"
    config.data = "data/latents"
    config.batch_size = 8
    config.frames_per_clip = 4
    config.feature_noise = 0.2
    config.dynamic_weight = 4.0

    config.steps = 3500
    config.learning_rate = 1e-3
    config.ema_decay = 0.99
    return config
