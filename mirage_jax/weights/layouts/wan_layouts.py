"""Names of the Wan2.2 transformer, its side branch and its LoRA in public checkpoints, as data (`layout`)."""

from __future__ import annotations

from mirage_jax.weights.layout import Rule


def _linear(theirs: str, ours: str, storage: str = "linear") -> tuple[Rule, Rule]:
    return Rule(f"{theirs}.weight", f"{ours}/kernel", storage), Rule(f"{theirs}.bias", f"{ours}/bias")


def _original_block(theirs: str, ours: str) -> tuple[Rule, ...]:
    attentions = (("self_attn", "self_attention"), ("cross_attn", "cross_attention"))
    return (
        Rule(f"{theirs}.modulation", f"{ours}/modulation", "table"),
        *(rule for a, b in attentions for x in "qkvo" for rule in _linear(f"{theirs}.{a}.{x}", f"{ours}/{b}/{x}")),
        *(Rule(f"{theirs}.{a}.norm_{x}.weight", f"{ours}/{b}/norm_{x}/weight") for a, b in attentions for x in "qk"),
        Rule(f"{theirs}.norm3.weight", f"{ours}/cross_norm/scale"),
        Rule(f"{theirs}.norm3.bias", f"{ours}/cross_norm/bias"),
        *_linear(f"{theirs}.ffn.0", f"{ours}/ffn/up"),
        *_linear(f"{theirs}.ffn.2", f"{ours}/ffn/down"),
    )


def _diffusers_block(theirs: str, ours: str) -> tuple[Rule, ...]:
    attentions = (("attn1", "self_attention"), ("attn2", "cross_attention"))
    linears = (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "o"))
    return (
        Rule(f"{theirs}.scale_shift_table", f"{ours}/modulation", "table"),
        *(rule for a, b in attentions for x, y in linears for rule in _linear(f"{theirs}.{a}.{x}", f"{ours}/{b}/{y}")),
        *(Rule(f"{theirs}.{a}.norm_{x}.weight", f"{ours}/{b}/norm_{x}/weight") for a, b in attentions for x in "qk"),
        Rule(f"{theirs}.norm2.weight", f"{ours}/cross_norm/scale"),
        Rule(f"{theirs}.norm2.bias", f"{ours}/cross_norm/bias"),
        *_linear(f"{theirs}.ffn.net.0.proj", f"{ours}/ffn/up"),
        *_linear(f"{theirs}.ffn.net.2", f"{ours}/ffn/down"),
    )


ORIGINAL_DIT = (
    *_linear("patch_embedding", "dit/patch_embedding", "patch"),
    *_linear("time_embedding.0", "dit/time_embedding/up"),
    *_linear("time_embedding.2", "dit/time_embedding/down"),
    *_linear("time_projection.1", "dit/time_embedding/projection"),
    *_linear("text_embedding.0", "dit/text_embedding/up"),
    *_linear("text_embedding.2", "dit/text_embedding/down"),
    *_original_block("blocks.{i}", "dit/blocks_{i}"),
    *_linear("head.head", "dit/head/linear"),
    Rule("head.modulation", "dit/head/modulation", "table"),
)

ORIGINAL_SIDE = (
    *_linear("vace_patch_embedding", "side/patch_embedding", "patch"),
    *_linear("vace_blocks.0.before_proj", "side/blocks_0/join"),
    *_original_block("vace_blocks.{i}", "side/blocks_{i}/block"),
    *_linear("vace_blocks.{i}.after_proj", "side/blocks_{i}/hint"),
)

DIFFUSERS_DIT = (
    *_linear("patch_embedding", "dit/patch_embedding", "patch"),
    *_linear("condition_embedder.time_embedder.linear_1", "dit/time_embedding/up"),
    *_linear("condition_embedder.time_embedder.linear_2", "dit/time_embedding/down"),
    *_linear("condition_embedder.time_proj", "dit/time_embedding/projection"),
    *_linear("condition_embedder.text_embedder.linear_1", "dit/text_embedding/up"),
    *_linear("condition_embedder.text_embedder.linear_2", "dit/text_embedding/down"),
    *_diffusers_block("blocks.{i}", "dit/blocks_{i}"),
    *_linear("proj_out", "dit/head/linear"),
    Rule("scale_shift_table", "dit/head/modulation", "table"),
)

DIFFUSERS_SIDE = (
    *_linear("vace_patch_embedding", "side/patch_embedding", "patch"),
    *_linear("vace_blocks.0.proj_in", "side/blocks_0/join"),
    *_diffusers_block("vace_blocks.{i}", "side/blocks_{i}/block"),
    *_linear("vace_blocks.{i}.proj_out", "side/blocks_{i}/hint"),
)
