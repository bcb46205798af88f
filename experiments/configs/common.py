"""Fields that every training stage has; each stage's config starts from here."""

import dataclasses

import ml_collections

from mirage_jax.diffusion import flow
from mirage_jax.models import config as model_config
from mirage_jax.training import posed


def base(stage: str) -> ml_collections.ConfigDict:
    """The common fields with their defaults."""
    config = ml_collections.ConfigDict()
    config.stage = stage
    config.seed = 0
    config.model = ml_collections.ConfigDict(dataclasses.asdict(model_config.default()))

    # Data
    config.split = "train"
    config.workers = 0
    config.bad_samples = 100  # so many that cannot be read are skipped (named, counted) before a run gives up
    config.memory = "latent"  # what the side branch learns to read; "rgb" needs data that was coded with --pixels
    config.fresh = ()  # parts that are not taken over from init_from: ("side", "lora") of a model that has them already
    config.shift = flow.SHIFT  # of the noise levels, towards pure noise; far more for a model that samples in one step
    config.perceptual_weight = 0.0  # of LPIPS in the losses of VAE and generator
    config.perceptual_frames = 2  # that it judges at a time, drawn anew: its network costs as much as the VAE
    config.perceptual_crop = 0  # pixels of a side of the part of them that the generator's stage decodes; 0 for all
    config.adversarial_weight = 0.0  # of a discriminator of what is decoded, in the losses of decoder and generator
    config.unseen_weight = 1.0  # of the error of latents where the memory shows nothing
    config.own_output = 0.0  # share of the steps in which the generator remembers a segment of its own
    config.cuts = ()  # pairs (latent frames of a segment, examples of that length from a clip), one drawn for a step
    config.text_embeddings = ""  # of all captions and the empty prompt (experiments.encode_text), for a model with text
    config.text_dropout = 0.0  # how often the empty prompt stands for a caption

    # Optimizer
    config.steps = 1000
    config.warmup_steps = 100
    config.learning_rate = 1e-3
    config.final_fraction = 0.02
    config.b1 = 0.9
    config.b2 = 0.99
    config.weight_decay = 0.01
    config.clip_norm = 1.0
    config.rate_factors = ()
    config.first_moment_dtype = "float32"  # of Adam; "bfloat16" saves two bytes a parameter
    config.ema_decay = 0.999

    # Devices: axes of the mesh (-1: all that are left); `mirage_jax.models.partition.WAN_RULES` says what they split.
    config.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1})
    config.frozen_dtype = ""  # of the matrices of parts that are not trained: "bfloat16" halves them; "" is float32
    config.remat = ""  # what the generator computes again going back (`dit.REMAT`); "" as its own config says
    config.accumulate = 1  # parts of a batch that go one after the other; 0 is as few as fit in the devices' memory

    # Watching and surviving
    config.log_every = 20
    config.preview_every = 500
    config.validate_every = 0  # steps from one loss on other clips to the next; 0 for none
    config.validation_split = "validation"
    config.validation_batches = 4
    config.checkpoint_every = 200
    config.keep_checkpoints = 2  # the newest,
    config.keep_every = 0  # and every one whose step is a multiple of this
    config.profile = ()  # first and last step to profile; a file PROFILE in the run's folder asks at any time
    return config


def augmentation() -> ml_collections.ConfigDict:
    """The errors of a rollout that training imitates (see `training/posed.py`)."""
    return ml_collections.ConfigDict(dataclasses.asdict(posed.Augmentation()))
