"""Names of the Wan2.2 transformer and its side branch in public checkpoints, as data.

A layout is a table of rules `(pattern of their name, our path, how the array is stored)`. Our paths are
those of `Generator` parameters, parts joined by '/'. The arrays themselves differ only in the order
of their axes (`from_public`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from mirage_jax.errors import UserError


class Rule(NamedTuple):
    """One line of a layout.

    Attributes:
      theirs: regular expression that a public name matches in full; groups are block numbers.
      ours: our path, with the groups as `\\1`.
      storage: 'same'; 'linear', `[out, in]` for our `[in, out]`; 'patch', a convolution `[out, C, 1, rows, columns]`
        for our `[rows * columns * C, out]`; 'table', a leading axis of length 1.
    """

    theirs: str
    ours: str
    storage: str


def _linear(theirs: str, ours: str, storage: str = "linear") -> tuple[Rule, Rule]:
    return Rule(rf"{theirs}\.weight", f"{ours}/kernel", storage), Rule(rf"{theirs}\.bias", f"{ours}/bias", "same")


def _original_block(theirs: str, ours: str) -> tuple[Rule, ...]:
    attentions = (("self_attn", "self_attention"), ("cross_attn", "cross_attention"))
    return (
        Rule(rf"{theirs}\.modulation", f"{ours}/modulation", "table"),
        *(rule for a, b in attentions for x in "qkvo" for rule in _linear(rf"{theirs}\.{a}\.{x}", f"{ours}/{b}/{x}")),
        *(
            Rule(rf"{theirs}\.{a}\.norm_{x}\.weight", f"{ours}/{b}/norm_{x}/weight", "same")
            for a, b in attentions
            for x in "qk"
        ),
        Rule(rf"{theirs}\.norm3\.weight", f"{ours}/cross_norm/scale", "same"),
        Rule(rf"{theirs}\.norm3\.bias", f"{ours}/cross_norm/bias", "same"),
        *_linear(rf"{theirs}\.ffn\.0", f"{ours}/ffn/up"),
        *_linear(rf"{theirs}\.ffn\.2", f"{ours}/ffn/down"),
    )


def _diffusers_block(theirs: str, ours: str) -> tuple[Rule, ...]:
    attentions = (("attn1", "self_attention"), ("attn2", "cross_attention"))
    linears = (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), (r"to_out\.0", "o"))
    return (
        Rule(rf"{theirs}\.scale_shift_table", f"{ours}/modulation", "table"),
        *(
            rule
            for a, b in attentions
            for x, y in linears
            for rule in _linear(rf"{theirs}\.{a}\.{x}", f"{ours}/{b}/{y}")
        ),
        *(
            Rule(rf"{theirs}\.{a}\.norm_{x}\.weight", f"{ours}/{b}/norm_{x}/weight", "same")
            for a, b in attentions
            for x in "qk"
        ),
        Rule(rf"{theirs}\.norm2\.weight", f"{ours}/cross_norm/scale", "same"),
        Rule(rf"{theirs}\.norm2\.bias", f"{ours}/cross_norm/bias", "same"),
        *_linear(rf"{theirs}\.ffn\.net\.0\.proj", f"{ours}/ffn/up"),
        *_linear(rf"{theirs}\.ffn\.net\.2", f"{ours}/ffn/down"),
    )


ORIGINAL_DIT = (
    *_linear("patch_embedding", "dit/patch_embedding", "patch"),
    *_linear(r"time_embedding\.0", "dit/time_embedding/up"),
    *_linear(r"time_embedding\.2", "dit/time_embedding/down"),
    *_linear(r"time_projection\.1", "dit/time_embedding/projection"),
    *_linear(r"text_embedding\.0", "dit/text_embedding/up"),
    *_linear(r"text_embedding\.2", "dit/text_embedding/down"),
    *_original_block(r"blocks\.(\d+)", r"dit/blocks_\1"),
    *_linear(r"head\.head", "dit/head/linear"),
    Rule(r"head\.modulation", "dit/head/modulation", "table"),
)

ORIGINAL_SIDE = (
    *_linear("vace_patch_embedding", "side/patch_embedding", "patch"),
    *_linear(r"vace_blocks\.(0)\.before_proj", r"side/blocks_\1/join"),
    *_original_block(r"vace_blocks\.(\d+)", r"side/blocks_\1/block"),
    *_linear(r"vace_blocks\.(\d+)\.after_proj", r"side/blocks_\1/hint"),
)

DIFFUSERS_DIT = (
    *_linear("patch_embedding", "dit/patch_embedding", "patch"),
    *_linear(r"condition_embedder\.time_embedder\.linear_1", "dit/time_embedding/up"),
    *_linear(r"condition_embedder\.time_embedder\.linear_2", "dit/time_embedding/down"),
    *_linear(r"condition_embedder\.time_proj", "dit/time_embedding/projection"),
    *_linear(r"condition_embedder\.text_embedder\.linear_1", "dit/text_embedding/up"),
    *_linear(r"condition_embedder\.text_embedder\.linear_2", "dit/text_embedding/down"),
    *_diffusers_block(r"blocks\.(\d+)", r"dit/blocks_\1"),
    *_linear("proj_out", "dit/head/linear"),
    Rule("scale_shift_table", "dit/head/modulation", "table"),
)

DIFFUSERS_SIDE = (
    *_linear("vace_patch_embedding", "side/patch_embedding", "patch"),
    *_linear(r"vace_blocks\.(0)\.proj_in", r"side/blocks_\1/join"),
    *_diffusers_block(r"vace_blocks\.(\d+)", r"side/blocks_\1/block"),
    *_linear(r"vace_blocks\.(\d+)\.proj_out", r"side/blocks_\1/hint"),
)


def our_path(name: str, layout: tuple[Rule, ...]) -> tuple[str, str]:
    """Our path and the storage of a public name.

    Raises:
      UserError: if no rule of the layout knows the name.
    """
    for rule in layout:
        match = re.fullmatch(rule.theirs, name)
        if match:
            return match.expand(rule.ours), rule.storage
    raise UserError(f"tensor {name} is not part of this checkpoint layout")


def from_public(array: np.ndarray, storage: str) -> np.ndarray:
    """A public array with its axes in our order (`Rule.storage`)."""
    match storage:
        case "linear":
            return array.T
        case "patch":
            return array.transpose(2, 3, 4, 1, 0).reshape(-1, len(array))
        case "table":
            return array[0]
        case _:
            return array


def params_from_public(tensors: Mapping[str, np.ndarray], layout: tuple[Rule, ...]) -> dict[str, Any]:
    """Parameters `{'dit': .., 'side': ..}` (what of them is in `tensors`) from public arrays by name.

    Raises:
      UserError: if a name is not in the layout.
    """
    flat = {}
    for name, array in tensors.items():
        path, storage = our_path(name, layout)
        flat[path] = from_public(array, storage)
    return traverse_util.unflatten_dict(flat, sep="/")
