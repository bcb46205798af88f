"""The heads of the default model: depth, keep and sky, in as many views as can be."""

from experiments.configs import common


def get_config():
    """Stage 2 of 3: twelve clips of two frames a step, about 0.2 seconds of a CPU core."""
    config = common.base("heads")
    config.init_from = "runs/vae/model"
    config.data = "data/latents_views"  # short clips from many places; frames of a long one look much the same
    config.batch_size = 12
    config.frames_per_clip = 2
    config.feature_noise = 0.2
    config.dynamic_weight = 2.5

    config.steps = 41000
    config.learning_rate = 1e-3
    config.ema_decay = 0.99
    return config
