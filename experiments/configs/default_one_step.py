"""Side branch and LoRA of the default model once more, near pure noise: from there it samples in one step."""

from experiments.configs import default_memory


def get_config():
    """Stage 5 of 5, after `default_memory`."""
    config = default_memory.get_config()
    config.init_from = "runs/memory/model"
    config.shift = 50.0  # five levels in six above 0.9, where default_memory has one in three
    config.seed = 2

    config.steps = 200
    config.warmup_steps = 20
    config.learning_rate = 5e-4
    return config
