"""Side branch and LoRA of the default model, on top of its frozen backbone: what makes it remember."""

from experiments.configs import common


def get_config():
    """Stage 4 of 5."""
    config = common.base("generator")
    config.init_from = "runs/backbone/model"
    config.data = "data/latents"
    config.trainable = ("side", "lora")
    config.batch_size = 4
    config.augmentation = common.augmentation()
    config.channel_weights = "decoder"

    config.steps = 1800
    config.learning_rate = 1e-3
    config.ema_decay = 0.995
    # From zero to a pass-through within a few hundred steps; convolutions bear more than the transformer.
    config.rate_factors = (("output_hint", 2.0), ("refine", 2.0))
    return config
