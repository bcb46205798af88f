"""The backbone of the default model: first, preceding and reference frames, no memory."""

from experiments.configs import common


def get_config():
    """Stage 3 of 5."""
    config = common.base("generator")
    config.init_from = "runs/heads/model"
    config.data = "data/latents"
    config.trainable = ("dit",)
    config.batch_size = 4
    config.augmentation = common.augmentation()
    config.augmentation.drop_reference = 0.5  # it must also do without: it is the model without a memory

    config.steps = 2000
    config.learning_rate = 1e-3
    config.ema_decay = 0.99
    return config
