"""Names of the umT5 encoder in public checkpoints, as data (`layout`)."""

from __future__ import annotations

from mirage_jax.weights.layout import Rule

# models_t5_umt5-xxl-enc-bf16.pth
ORIGINAL_UMT5 = (
    Rule("token_embedding.weight", "text/token_embedding"),
    Rule("blocks.{i}.norm1.weight", "text/blocks_{i}/attention_norm/weight"),
    *(Rule(f"blocks.{{i}}.attn.{x}.weight", f"text/blocks_{{i}}/attention/{x}/kernel", "linear") for x in "qkvo"),
    Rule("blocks.{i}.pos_embedding.embedding.weight", "text/blocks_{i}/attention/relative_bias"),
    Rule("blocks.{i}.norm2.weight", "text/blocks_{i}/ffn_norm/weight"),
    Rule("blocks.{i}.ffn.gate.0.weight", "text/blocks_{i}/ffn/gate/kernel", "linear"),
    Rule("blocks.{i}.ffn.fc1.weight", "text/blocks_{i}/ffn/up/kernel", "linear"),
    Rule("blocks.{i}.ffn.fc2.weight", "text/blocks_{i}/ffn/down/kernel", "linear"),
    Rule("norm.weight", "text/norm/weight"),
)

_ATTENTION = "encoder.block.{i}.layer.0"
_FFN = "encoder.block.{i}.layer.1"

# The token embedding has two names, which a file may hold both of; the first is the one written.
TRANSFORMERS_UMT5 = (
    Rule("shared.weight", "text/token_embedding"),
    Rule("encoder.embed_tokens.weight", "text/token_embedding"),
    Rule(f"{_ATTENTION}.layer_norm.weight", "text/blocks_{i}/attention_norm/weight"),
    *(
        Rule(f"{_ATTENTION}.SelfAttention.{x}.weight", f"text/blocks_{{i}}/attention/{x}/kernel", "linear")
        for x in "qkvo"
    ),
    Rule(f"{_ATTENTION}.SelfAttention.relative_attention_bias.weight", "text/blocks_{i}/attention/relative_bias"),
    Rule(f"{_FFN}.layer_norm.weight", "text/blocks_{i}/ffn_norm/weight"),
    Rule(f"{_FFN}.DenseReluDense.wi_0.weight", "text/blocks_{i}/ffn/gate/kernel", "linear"),
    Rule(f"{_FFN}.DenseReluDense.wi_1.weight", "text/blocks_{i}/ffn/up/kernel", "linear"),
    Rule(f"{_FFN}.DenseReluDense.wo.weight", "text/blocks_{i}/ffn/down/kernel", "linear"),
    Rule("encoder.final_layer_norm.weight", "text/norm/weight"),
)

# As llama.cpp names an encoder of the family.
GGUF_UMT5 = (
    Rule("token_embd.weight", "text/token_embedding"),
    Rule("enc.blk.{i}.attn_norm.weight", "text/blocks_{i}/attention_norm/weight"),
    *(Rule(f"enc.blk.{{i}}.attn_{x}.weight", f"text/blocks_{{i}}/attention/{x}/kernel", "linear") for x in "qkvo"),
    Rule("enc.blk.{i}.attn_rel_b.weight", "text/blocks_{i}/attention/relative_bias"),
    Rule("enc.blk.{i}.ffn_norm.weight", "text/blocks_{i}/ffn_norm/weight"),
    *(
        Rule(f"enc.blk.{{i}}.ffn_{x}.weight", f"text/blocks_{{i}}/ffn/{x}/kernel", "linear")
        for x in ("gate", "up", "down")
    ),
    Rule("enc.output_norm.weight", "text/norm/weight"),
)
