"""Batches of coded clips, the same for every stage that trains on latents."""

from __future__ import annotations

from typing import Any

from mirage_jax.data import joined, latents
from mirage_jax.data.text_embeddings import TextEmbeddings
from mirage_jax.data.tolerance import Skipped
from mirage_jax.errors import UserError
from mirage_jax.models import partition
from mirage_jax.models.dit import DiTConfig


def batches(
    config: Any,
    skipped: Skipped,
    stride_time: int,
    dit: DiTConfig | None = None,
    *,
    pixels: bool = False,
    split: str,
) -> Any:
    """The batches of a split of `config.data` for this process.

    Args:
      config, skipped: of the run, and what counts the samples that cannot be read.
      stride_time: video frames a latent frame of the model, whose cameras all must be there.
      dit: where it reads text, the batches have that of `config.text_embeddings`.
      pixels: whether they have the frames, which an RGB memory is made of and the perceptual term compares with.
      split: of which clips.

    Raises:
      UserError: if a model with text has no such file, or it does not fit; if a data set has no pixels, is of before
        version 2, or has clips of another size than the first.
    """
    source = _source(config, split)
    firsts = [source[start] for start in source.starts]
    for folder, first in zip(joined.folders(config.data, "--config.data"), firsts, strict=True):
        named = f"--config.data={folder}"
        if pixels and "frames" not in first:
            raise UserError(f"{named} was coded without --pixels, which an RGB memory and the perceptual term need")
        if len(first["intrinsics"]) < stride_time * (len(first["latents"]) - 1) + 1:
            raise UserError(f"{named} was coded by an older version, without cameras of all frames; build it again")
        if first["latents"].shape != firsts[0]["latents"].shape:
            raise UserError(
                f"{named} has clips of {_size(first)}, other than the first folder's, which have {_size(firsts[0])}"
            )
    parts, count = partition.batch_parts(partition.make_mesh(dict(config.mesh)), config.batch_size)
    return latents.clips(
        source,
        fields=None if pixels else latents.CELLS,
        batch_size=config.batch_size,
        seed=config.seed,
        parts=parts,
        count=count,
        workers=config.workers,
        skipped=skipped,
        texts=_texts(config, dit),
        text_dropout=config.text_dropout,
    )


def _source(config: Any, split: str) -> joined.Joined:
    folders = joined.folders(config.data, "--config.data")
    return joined.Joined([latents.load_source(folder, split) for folder in folders])


def _size(sample: dict[str, Any]) -> str:
    return "x".join(map(str, sample["latents"].shape)) + " tokens and channels"


def _texts(config: Any, dit: DiTConfig | None) -> TextEmbeddings | None:
    if dit is None or not dit.text_dim:
        return None
    if not config.text_embeddings:
        raise UserError(
            "--config.text_embeddings: a model with text needs the file that experiments.encode_text writes"
        )
    texts = TextEmbeddings(config.text_embeddings)
    texts.require(dit.text_tokens, dit.text_dim)
    return texts
