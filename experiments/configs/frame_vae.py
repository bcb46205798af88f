"""A video VAE of one latent a frame, at a quarter of the resolution: all convolutions run on the latent grid."""

import dataclasses

import ml_collections

from experiments.configs import default_vae
from mirage_jax.models import config as model_config
from mirage_jax.models.vae import VAEConfig

VAE = VAEConfig(
    latent_channels=12,
    encoder_dim=96,
    decoder_dim=128,
    multipliers=(1,),
    blocks=2,
    time_downsample=(),
    time_kernels=(1,),
    patch=4,
)


def get_config():
    """Eight crops of 64x64 a step; small batches learn more in the same time than large ones.

    About 1,500 seconds of two CPU cores.
    """
    config = default_vae.get_config()
    model = model_config.ModelConfig(name="default", height=128, width=128, fps=15, vae=VAE)
    config.model = ml_collections.ConfigDict(dataclasses.asdict(model))
    config.frames = 1
    config.batch_size = 8
    config.windows_per_clip = 2
    config.chroma_weight = 0.5
    config.perceptual_weight = 0.04
    config.perceptual_frames = 1
    config.statistics_batches = 100

    config.steps = 3800
    config.warmup_steps = 100
    config.learning_rate = 6e-4
    config.ema_decay = 0.998
    return config
