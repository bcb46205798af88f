"""How far a picture is from what the model that ships was trained on, in the error of its own VAE."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from mirage_jax.data import clip as clips
from mirage_jax.models.codec import Codec
from mirage_jax.models.config import ModelConfig

_REFERENCES = 4  # frames of the clip that ships, which is of a map that no training saw
_UNLIKE = 1.25  # times the worst of their errors


def note(model: ModelConfig, params: Any, image: np.ndarray) -> str | None:
    """A sentence on a picture that the VAE gives back much worse than views of the kind it was trained on, or None.

    Args:
      model: the one that ships.
      params: its parameters; of them, the VAE's.
      image: uint8 `[H, W, 3]` at the model's size.
    """
    clip = clips.load(clips.DEMO).frames
    usual = max(_error(model, params, frame) for frame in clip[:: max(1, len(clip) // _REFERENCES)][:_REFERENCES])
    found = _error(model, params, image)
    if found <= _UNLIKE * usual:
        return None
    return (
        f"note: the model was trained on views of computer-game maps at {model.width}x{model.height}; its VAE gives "
        f"this picture back {found / usual:.1f} times worse than a view of such a map ({found:.0f} against "
        f"{usual:.0f} of 255 grey levels): expect a video that is soft and strays from it"
    )


def _error(model: ModelConfig, params: Any, image: np.ndarray) -> float:
    """Root mean square difference, in grey levels, of a picture and what comes back of it."""
    codec = Codec(model.vae)
    latents = codec.encode(params["vae"], jnp.asarray(image, jnp.float32)[None] / 127.5 - 1.0)
    back = (np.asarray(codec.decode(params["vae"], latents), np.float64) + 1.0) * 127.5
    return float(np.sqrt(np.mean((back - image) ** 2)))
