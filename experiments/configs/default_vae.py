"""The video VAE of the default model."""

from experiments.configs import common


def get_config():
    """Stage 1 of 5."""
    config = common.base("vae")
    config.init_from = ""  # a model folder whose VAE to go on from
    config.trains = "all"  # or "decoder": the encoder, and with it every latent, stays as in init_from
    config.data = "data/doom"
    config.frames = 17  # 5 is not enough: the third latent frame would meet a past that training never showed
    config.crop = 64
    config.batch_size = 4
    config.windows_per_clip = 1
    config.l1_weight = 0.05
    config.chroma_weight = 0.0  # of what is wrong in colour apart from brightness
    config.kl_weight = 1e-5
    config.perceptual_frames = 4  # of a window
    config.statistics_batches = 50

    config.steps = 4000
    config.warmup_steps = 150
    config.clip_norm = 0.5
    config.learning_rate = 3e-4  # 1e-3 and above stay at the mean colour for a thousand steps
    return config
