"""The VAE of the default model: one latent a frame, a quarter of the resolution, where all convolutions run."""

from experiments.configs import common


def get_config():
    """Stage 1 of 3: eight crops of 64x64 a step; small batches learn more in the same time than large ones.

    About 1,500 seconds of two CPU cores.
    """
    config = common.base("vae")
    config.init_from = ""  # a model folder whose VAE to go on from
    config.trains = "all"  # or "decoder": the encoder, and with it every latent, stays as in init_from
    config.data = "data/doom"
    config.frames = 1  # of a window; of a VAE with a past at least 17, or the third latent frame meets one never shown
    config.crop = 64
    config.batch_size = 8
    config.windows_per_clip = 2
    config.l1_weight = 0.05
    config.chroma_weight = 0.5  # of what is wrong in colour apart from brightness
    config.kl_weight = 1e-5
    config.perceptual_weight = 0.04
    config.perceptual_frames = 1  # of a window
    config.statistics_batches = 100

    config.steps = 3800
    config.warmup_steps = 100
    config.clip_norm = 0.5
    config.learning_rate = 6e-4
    config.ema_decay = 0.998
    return config
