"""The default model, stage 2 of the paper's two: LoRA on the backbone, the side branch of stage 1 frozen."""

from experiments.configs import default_side


def get_config():
    """Stage 2 of 2, ten times the learning rate of the large model's."""
    config = default_side.get_config()
    config.init_from = "runs/side/model"
    config.trainable = ("lora",)
    config.steps = 800
    config.rate_factors = ()
    return config
