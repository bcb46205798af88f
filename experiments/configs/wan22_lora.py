"""Wan2.2-TI2V-5B, stage 2 of 2: LoRA of rank 32 on the DiT, the side branch of stage 1 frozen."""

from experiments.configs import wan22_side


def get_config():
    """Goes on from the model that stage 1 wrote."""
    config = wan22_side.get_config()
    config.init_from = "runs/wan22_side/model"
    config.trainable = ("lora",)
    config.steps = 5_000
    config.learning_rate = 1e-4  # the paper's
    return config
