"""Wan2.2-TI2V-5B, stage 1 of 2: the side branch on the frozen DiT (the paper's settings)."""

import dataclasses

from experiments.configs import common
from mirage_jax.models import config as model_config


def get_config():
    """Set where the converted model and the coded clips are: `--config.init_from=.. --config.data=..`."""
    config = common.base("generator")
    config.model = dataclasses.asdict(model_config.wan22_ti2v_5b())
    config.init_from = "models/wan22"  # DiT and VAE of experiments.convert_weights; a side branch there is gone on from
    config.data = "data/latents"
    config.text_embeddings = "data/captions.safetensors"
    config.text_dropout = 0.15  # the paper: 0.1 to 0.2
    config.workers = 4
    config.trainable = ("side",)
    config.augmentation = common.augmentation()

    # Paper: AdamW, global batch 64, learning rate 1e-5, gradient clipping 1, fp32 masters (bf16 would round such steps
    # away). It does not say how many steps, nor the schedule: constant after a warm-up.
    config.batch_size = 64
    config.steps = 20_000
    config.warmup_steps = 500
    config.learning_rate = 1e-5
    config.final_fraction = 1.0
    config.b2 = 0.999
    config.clip_norm = 1.0

    config.mesh = {"data": 1, "fsdp": -1, "tensor": 1, "sequence": 1}
    config.accumulate = 0  # as few parts of a batch as fit in the memory of the devices
    config.frozen_dtype = "bfloat16"
    config.log_every = 10
    config.preview_every = 500
    config.checkpoint_every = 250
    config.keep_every = 5_000
    return config
