"""Names of Depth Anything in public checkpoints, as data (`layout`)."""

from __future__ import annotations

from mirage_jax.weights.layout import Rule


def _weights(theirs: str, ours: str, storage: str = "conv") -> tuple[Rule, Rule]:
    kernel = "scale" if storage == "same" else "kernel"
    return Rule(f"{theirs}.weight", f"depth/{ours}/{kernel}", storage), Rule(f"{theirs}.bias", f"depth/{ours}/bias")


def _resizes(theirs: str) -> tuple[Rule, ...]:
    """Steps to the resolutions of the neck; `theirs` has the place of a level's number."""
    storages = {0: "conv_transpose", 1: "conv_transpose", 3: "conv"}
    return tuple(r for i, kind in storages.items() for r in _weights(theirs.format(i), f"neck/resize_{i}", kind))


def _fusion(theirs: str, unit: str, ours: str) -> tuple[Rule, ...]:
    """Both residual units of a fusion; `unit` has the places of the numbers of unit and convolution."""
    return tuple(
        rule
        for number, name in ((1, "skip"), (2, "out"))
        for step, place in ((1, "first"), (2, "second"))
        for rule in _weights(f"{theirs}.{unit.format(number, step)}", f"neck/fuse_{ours}_{name}/{place}")
    )


_EMBEDDINGS, _LAYER, _BLOCK = "backbone.embeddings", "backbone.encoder.layer.{i}", "backbone/blocks_{i}"

# As published, and as the library has renamed them in memory since version 5, which it also writes.
_PUBLISHED = (("query", "q"), ("key", "k"), ("value", "v"))
_ATTENTION = (
    *(r for a, b in _PUBLISHED for r in _weights(f"{_LAYER}.attention.attention.{a}", f"{_BLOCK}/{b}", "linear")),
    *_weights(f"{_LAYER}.attention.output.dense", f"{_BLOCK}/o", "linear"),
)
_RENAMED = tuple(r for x in "qkvo" for r in _weights(f"{_LAYER}.attention.{x}_proj", f"{_BLOCK}/{x}", "linear"))

_REST = (
    Rule(f"{_EMBEDDINGS}.cls_token", "depth/backbone/class_token", "table"),
    Rule(f"{_EMBEDDINGS}.mask_token", "depth/backbone/mask_token"),
    Rule(f"{_EMBEDDINGS}.position_embeddings", "depth/backbone/positions", "table"),
    *_weights(f"{_EMBEDDINGS}.patch_embeddings.projection", "backbone/patch_embedding"),
    *_weights(f"{_LAYER}.norm1", f"{_BLOCK}/norm1", "same"),
    Rule(f"{_LAYER}.layer_scale1.lambda1", f"depth/{_BLOCK}/scale1"),
    *_weights(f"{_LAYER}.norm2", f"{_BLOCK}/norm2", "same"),
    *_weights(f"{_LAYER}.mlp.fc1", f"{_BLOCK}/up", "linear"),
    *_weights(f"{_LAYER}.mlp.fc2", f"{_BLOCK}/down", "linear"),
    Rule(f"{_LAYER}.layer_scale2.lambda1", f"depth/{_BLOCK}/scale2"),
    *_weights("backbone.layernorm", "backbone/norm", "same"),
    *_weights("neck.reassemble_stage.layers.{i}.projection", "neck/project_{i}"),
    *_resizes("neck.reassemble_stage.layers.{}.resize"),
    Rule("neck.convs.{i}.weight", "depth/neck/level_{i}/kernel", "conv"),
    *_weights("neck.fusion_stage.layers.{i}.projection", "neck/fuse_{i}_project"),
    *_fusion("neck.fusion_stage.layers.{i}", "residual_layer{}.convolution{}", "{i}"),
    *_weights("head.conv1", "head_in"),
    *_weights("head.conv2", "head_hidden"),
    *_weights("head.conv3", "head_out"),
)

# Both are read by either; the first names of a table are the ones it writes.
TRANSFORMERS_DEPTH = (*_ATTENTION, *_RENAMED, *_REST)
TRANSFORMERS_DEPTH_V5 = (*_RENAMED, *_ATTENTION, *_REST)

_ORIGINAL_BLOCK, _SCRATCH = "pretrained.blocks.{i}", "depth_head.scratch"

# depth_anything_v2_vit*.pth, with queries, keys and values apart (`sources` takes them apart). Its finest level is 1.
ORIGINAL_DEPTH = (
    Rule("pretrained.cls_token", "depth/backbone/class_token", "table"),
    Rule("pretrained.mask_token", "depth/backbone/mask_token"),
    Rule("pretrained.pos_embed", "depth/backbone/positions", "table"),
    *_weights("pretrained.patch_embed.proj", "backbone/patch_embedding"),
    *_weights(f"{_ORIGINAL_BLOCK}.norm1", f"{_BLOCK}/norm1", "same"),
    *(rule for x in "qkv" for rule in _weights(f"{_ORIGINAL_BLOCK}.attn.{x}", f"{_BLOCK}/{x}", "linear")),
    *_weights(f"{_ORIGINAL_BLOCK}.attn.proj", f"{_BLOCK}/o", "linear"),
    Rule(f"{_ORIGINAL_BLOCK}.ls1.gamma", f"depth/{_BLOCK}/scale1"),
    *_weights(f"{_ORIGINAL_BLOCK}.norm2", f"{_BLOCK}/norm2", "same"),
    *_weights(f"{_ORIGINAL_BLOCK}.mlp.fc1", f"{_BLOCK}/up", "linear"),
    *_weights(f"{_ORIGINAL_BLOCK}.mlp.fc2", f"{_BLOCK}/down", "linear"),
    Rule(f"{_ORIGINAL_BLOCK}.ls2.gamma", f"depth/{_BLOCK}/scale2"),
    *_weights("pretrained.norm", "backbone/norm", "same"),
    *_weights("depth_head.projects.{i}", "neck/project_{i}"),
    *_resizes("depth_head.resize_layers.{}"),
    *(Rule(f"{_SCRATCH}.layer{i + 1}_rn.weight", f"depth/neck/level_{i}/kernel", "conv") for i in range(4)),
    *(rule for i in range(4) for rule in _weights(f"{_SCRATCH}.refinenet{4 - i}.out_conv", f"neck/fuse_{i}_project")),
    *(r for i in range(4) for r in _fusion(f"{_SCRATCH}.refinenet{4 - i}", "resConfUnit{}.conv{}", str(i))),
    *_weights(f"{_SCRATCH}.output_conv1", "head_in"),
    *_weights(f"{_SCRATCH}.output_conv2.0", "head_hidden"),
    *_weights(f"{_SCRATCH}.output_conv2.2", "head_out"),
)
