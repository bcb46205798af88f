"""The generator of the default model, from its readout on: against truth, then also against a discriminator."""

from experiments.configs import common


def get_config(step: str = "first"):
    """Stage 3 of 3: `default_generator.py` trains from nothing, `default_generator.py:second` goes on from there.

    A step takes 2 to 3 seconds of a CPU core.
    """
    config = common.base("generator")
    config.data = "data/latents"
    config.trainable = ("dit", "side")
    config.batch_size = 2
    config.cuts = ((4, 2), (8, 1), (16, 1))
    config.shift = 1000.0  # it samples in one step: all but pure noise is seldom
    config.augmentation = common.augmentation()
    config.augmentation.feature_noise = 0.1
    config.augmentation.context_noise = 0.1
    config.augmentation.drop_memory = 0.15  # what nobody has seen must look good too
    config.perceptual_weight = 0.4
    config.perceptual_frames = 2
    config.perceptual_crop = 80

    config.learning_rate = 7e-4
    config.ema_decay = 0.99
    config.rate_factors = (("refine|paint", 2.0),)
    config.checkpoint_every = 100
    config.preview_every = 100
    if step == "first":
        config.init_from = "runs/heads/model"
        config.steps = 1200
        config.warmup_steps = 50
        return config
    config.init_from = "runs/generator/model"
    config.adversarial_weight = 0.1
    config.unseen_weight = 0.2
    config.own_output = 0.3
    config.b1 = 0.5
    config.rate_factors = (("^discriminator", 2.0),)
    config.learning_rate = 2e-4
    config.steps = 1100
    config.warmup_steps = 50
    config.seed = 1
    return config
