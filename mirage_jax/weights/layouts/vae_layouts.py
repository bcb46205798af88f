"""Names of the Wan2.2 VAE in public checkpoints, as layout tables: the original `Wan2.2_VAE.pth` and diffusers.

Public decoders count their levels from the coarsest, ours from the finest, so that a table holds for one number of
levels; the original also numbers a resampling step after the residual blocks of its level.
"""

from __future__ import annotations

from mirage_jax.weights.layout import Rule


def _conv(theirs: str, ours: str, storage: str = "conv") -> tuple[Rule, ...]:
    return Rule(f"{theirs}.weight", f"vae/{ours}/kernel", storage), Rule(f"{theirs}.bias", f"vae/{ours}/bias")


def _norm(theirs: str, ours: str, storage: str = "video_norm") -> Rule:
    return Rule(f"{theirs}.gamma", f"vae/{ours}/weight", storage)


def _attention(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        _norm(f"{theirs}.norm", f"{ours}/norm", "image_norm"),
        *_conv(f"{theirs}.to_qkv", f"{ours}/qkv", "frame_conv"),
        *_conv(f"{theirs}.proj", f"{ours}/out", "frame_conv"),
    )


# Names inside a residual block (two norms and convolutions, the shortcut), and the parts of encoder and decoder.
_ORIGINAL = (
    ("residual.0", "residual.2", "residual.3", "residual.6", "shortcut"),
    ("conv1", "middle.0", "middle.1", "middle.2", "head.0", "head.2"),
)
_DIFFUSERS = (
    ("norm1", "conv1", "norm2", "conv2", "conv_shortcut"),
    ("conv_in", "mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1", "norm_out", "conv_out"),
)
_Names = tuple[tuple[str, ...], tuple[str, ...]]


def _block(theirs: str, ours: str, names: _Names) -> tuple[Rule, ...]:
    norm1, conv1, norm2, conv2, shortcut = names[0]
    return (
        _norm(f"{theirs}.{norm1}", f"{ours}/norm1"),
        *_conv(f"{theirs}.{conv1}", f"{ours}/conv1"),
        _norm(f"{theirs}.{norm2}", f"{ours}/norm2"),
        *_conv(f"{theirs}.{conv2}", f"{ours}/conv2"),
        *_conv(f"{theirs}.{shortcut}", f"{ours}/shortcut"),
    )


def _half(half: str, names: _Names) -> tuple[Rule, ...]:
    begin, block1, attention, block2, norm, end = names[1]
    return (
        *_conv(f"{half}.{begin}", f"{half}/conv_in"),
        *_block(f"{half}.{block1}", f"{half}/middle/block1", names),
        *_attention(f"{half}.{attention}", f"{half}/middle/attention"),
        *_block(f"{half}.{block2}", f"{half}/middle/block2", names),
        _norm(f"{half}.{norm}", f"{half}/norm_out"),
        *_conv(f"{half}.{end}", f"{half}/conv_out"),
    )


def original_vae(levels: int = 4, blocks: int = 2) -> tuple[Rule, ...]:
    """The layout of `Wan2.2_VAE.pth` for a VAE of so many levels, with so many residual blocks a level."""
    down = "encoder.downsamples.{i}.downsamples"
    rules = [
        *_conv("conv1", "encoder/moments"),
        *_conv("conv2", "decoder/latents"),
        *_half("encoder", _ORIGINAL),
        *_half("decoder", _ORIGINAL),
        *_block(f"{down}.{{j}}", "encoder/level{i}_block{j}", _ORIGINAL),
        *_conv(f"{down}.{blocks}.resample.1", "encoder/level{i}_down/space"),
        *_conv(f"{down}.{blocks}.time_conv", "encoder/level{i}_down/time"),
    ]
    for index in range(levels):
        up, level = f"decoder.upsamples.{index}.upsamples", f"decoder/level{levels - 1 - index}"
        rules += _block(f"{up}.{{j}}", f"{level}_block{{j}}", _ORIGINAL)
        rules += _conv(f"{up}.{blocks + 1}.resample.1", f"{level}_up/space")
        rules += _conv(f"{up}.{blocks + 1}.time_conv", f"{level}_up/time/conv")
    return tuple(rules)


def diffusers_vae(levels: int = 4) -> tuple[Rule, ...]:
    """The layout of diffusers' `AutoencoderKLWan` (with residual shortcuts) for a VAE of so many levels."""
    down = "encoder.down_blocks.{i}"
    rules = [
        *_conv("quant_conv", "encoder/moments"),
        *_conv("post_quant_conv", "decoder/latents"),
        *_half("encoder", _DIFFUSERS),
        *_half("decoder", _DIFFUSERS),
        *_block(f"{down}.resnets.{{j}}", "encoder/level{i}_block{j}", _DIFFUSERS),
        *_conv(f"{down}.downsampler.resample.1", "encoder/level{i}_down/space"),
        *_conv(f"{down}.downsampler.time_conv", "encoder/level{i}_down/time"),
    ]
    for index in range(levels):
        up, level = f"decoder.up_blocks.{index}", f"decoder/level{levels - 1 - index}"
        rules += _block(f"{up}.resnets.{{j}}", f"{level}_block{{j}}", _DIFFUSERS)
        rules += _conv(f"{up}.upsampler.resample.1", f"{level}_up/space")
        rules += _conv(f"{up}.upsampler.time_conv", f"{level}_up/time/conv")
    return tuple(rules)


ORIGINAL_VAE = original_vae()
DIFFUSERS_VAE = diffusers_vae()
