"""The backbone of the default model: first, preceding and reference frames, no memory."""

from experiments.configs import common


def get_config():
    """Stage 3 of 4."""
    config = common.base("generator")
    config.init_from = "runs/heads/model"
    config.data = "data/latents"
    config.trainable = ("dit",)
    config.batch_size = 8
    config.augmentation = common.augmentation()

    config.steps = 6000
    config.learning_rate = 6e-4
    return config
