"""What is asked of the arguments of a segment or a rollout, on the host, before anything is compiled."""

from __future__ import annotations

import chex

from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera
from mirage_jax.world.config import WorldConfig
from mirage_jax.world.frame_geometry import KnownGeometry


def check(
    config: WorldConfig, cameras: Camera, text: chex.Array | None, known: KnownGeometry | None, leading: tuple[int, ...]
) -> None:
    """Checks shapes: `leading` is `()` for a segment, `(S,)` for a rollout.

    Raises:
      UserError: naming what does not fit the model.
    """
    _cameras(config, cameras, len(leading) + 1)
    _text(config, text, leading)
    _known(config, known, leading)


def _text(config: WorldConfig, text: chex.Array | None, leading: tuple[int, ...]) -> None:
    dit = config.model.dit
    both = (2,) if config.guided else ()  # the prompt and the negative one
    wanted = (*leading, *both, dit.text_tokens, dit.text_dim) if dit.text_dim else None
    found = None if text is None else tuple(text.shape)
    if found != wanted:
        takes = "no text" if wanted is None else f"embedded text of shape {list(wanted)} (of the empty prompt, say)"
        given = "none" if found is None else f"shape {list(found)}"
        raise UserError(f"model {config.model.name!r} takes {takes}, found {given}")


def _known(config: WorldConfig, known: KnownGeometry | None, leading: tuple[int, ...]) -> None:
    model = config.model
    if (config.depth_from == "given") != (known is not None):
        found = "no depth" if known is None else "depth"
        raise UserError(f"depth source is {config.depth_from!r}, but {found} was given with the segment")
    if known is None:
        return
    size = (*leading, model.segment_frames, model.height, model.width)
    for name, value in (("depth", known.depth), ("keep masks", known.keep)):
        if value is not None and tuple(value.shape) != size:
            raise UserError(f"given {name} have shape {list(value.shape)}, expected {list(size)}")


def _cameras(config: WorldConfig, cameras: Camera, rank: int) -> None:
    model = config.model
    if len(cameras.shape) != rank or cameras.shape[-1] != model.segment_frames:
        wanted = f"[{model.segment_frames}]" if rank == 1 else f"[segments, {model.segment_frames}]"
        raise UserError(f"cameras have shape {list(cameras.shape)}, a segment of {model.name!r} takes {wanted}")
    if (cameras.height, cameras.width) != (model.height, model.width):
        raise UserError(
            f"cameras are for {cameras.height}x{cameras.width} pixels, the model works at {model.height}x{model.width}"
        )
