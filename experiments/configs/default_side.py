"""The default model, stage 1 of the paper's two: the side branch alone on the frozen backbone.

The small twin of `wan22_side`: same stages, same code, sizes that two CPU cores manage. The weights that ship come from
`default_memory`, which trains both parts at once.
"""

from experiments.configs import common


def get_config():
    """Stage 1 of 2."""
    config = common.base("generator")
    config.init_from = "runs/backbone/model"
    config.data = "data/latents"
    config.trainable = ("side",)
    config.batch_size = 4
    config.augmentation = common.augmentation()
    config.channel_weights = "decoder"

    config.steps = 1500
    config.learning_rate = 1e-3
    config.ema_decay = 0.995
    config.rate_factors = (("output_hint", 2.0), ("refine", 2.0))
    return config
