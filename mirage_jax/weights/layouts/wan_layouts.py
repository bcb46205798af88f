"""Names of the Wan2.2 transformer, its side branch and its LoRA in public checkpoints, as data (`layout`)."""

from __future__ import annotations

from typing import Any

from mirage_jax.weights.layout import Rule


def _linear(theirs: str, ours: str, storage: str = "linear") -> tuple[Rule, Rule]:
    return Rule(f"{theirs}.weight", f"{ours}/kernel", storage), Rule(f"{theirs}.bias", f"{ours}/bias")


# Names inside a block: modulation, the attentions and their four matrices, the norm before text, the feed-forward part.
_ORIGINAL = ("modulation", ("self_attn", "cross_attn"), "qkvo", "norm3", ("ffn.0", "ffn.2"))
_DIFFUSERS = (
    "scale_shift_table",
    ("attn1", "attn2"),
    ("to_q", "to_k", "to_v", "to_out.0"),
    "norm2",
    ("ffn.net.0.proj", "ffn.net.2"),
)


def _block(theirs: str, ours: str, names: Any) -> tuple[Rule, ...]:
    modulation, attentions, matrices, norm, (up, down) = names
    pairs = [(f"{theirs}.{a}", f"{ours}/{b}_attention") for a, b in zip(attentions, ("self", "cross"), strict=True)]
    return (
        Rule(f"{theirs}.{modulation}", f"{ours}/modulation", "table"),
        *(r for a, b in pairs for x, y in zip(matrices, "qkvo", strict=True) for r in _linear(f"{a}.{x}", f"{b}/{y}")),
        *(Rule(f"{a}.norm_{x}.weight", f"{b}/norm_{x}/weight") for a, b in pairs for x in "qk"),
        Rule(f"{theirs}.{norm}.weight", f"{ours}/cross_norm/scale"),
        Rule(f"{theirs}.{norm}.bias", f"{ours}/cross_norm/bias"),
        *_linear(f"{theirs}.{up}", f"{ours}/ffn/up"),
        *_linear(f"{theirs}.{down}", f"{ours}/ffn/down"),
    )


ORIGINAL_DIT = (
    *_linear("patch_embedding", "dit/patch_embedding", "patch"),
    *_linear("time_embedding.0", "dit/time_embedding/up"),
    *_linear("time_embedding.2", "dit/time_embedding/down"),
    *_linear("time_projection.1", "dit/time_embedding/projection"),
    *_linear("text_embedding.0", "dit/text_embedding/up"),
    *_linear("text_embedding.2", "dit/text_embedding/down"),
    *_block("blocks.{i}", "dit/blocks_{i}", _ORIGINAL),
    *_linear("head.head", "dit/head/linear"),
    Rule("head.modulation", "dit/head/modulation", "table"),
)

ORIGINAL_SIDE = (
    *_linear("vace_patch_embedding", "side/patch_embedding", "patch"),
    *_linear("vace_blocks.0.before_proj", "side/blocks_0/join"),
    *_block("vace_blocks.{i}", "side/blocks_{i}/block", _ORIGINAL),
    *_linear("vace_blocks.{i}.after_proj", "side/blocks_{i}/hint"),
)

DIFFUSERS_DIT = (
    *_linear("patch_embedding", "dit/patch_embedding", "patch"),
    *_linear("condition_embedder.time_embedder.linear_1", "dit/time_embedding/up"),
    *_linear("condition_embedder.time_embedder.linear_2", "dit/time_embedding/down"),
    *_linear("condition_embedder.time_proj", "dit/time_embedding/projection"),
    *_linear("condition_embedder.text_embedder.linear_1", "dit/text_embedding/up"),
    *_linear("condition_embedder.text_embedder.linear_2", "dit/text_embedding/down"),
    *_block("blocks.{i}", "dit/blocks_{i}", _DIFFUSERS),
    *_linear("proj_out", "dit/head/linear"),
    Rule("scale_shift_table", "dit/head/modulation", "table"),
)

DIFFUSERS_SIDE = (
    *_linear("vace_patch_embedding", "side/patch_embedding", "patch"),
    *_linear("vace_blocks.0.proj_in", "side/blocks_0/join"),
    *_block("vace_blocks.{i}", "side/blocks_{i}/block", _DIFFUSERS),
    *_linear("vace_blocks.{i}.proj_out", "side/blocks_{i}/hint"),
)
