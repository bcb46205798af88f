"""The public checkpoints that can be converted, and how each matches a model: which tensor becomes which parameter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from mirage_jax.errors import UserError
from mirage_jax.models import parameters
from mirage_jax.models.config import LoRAConfig, ModelConfig
from mirage_jax.weights import depth_layouts, umt5_layouts, vae_layouts, wan_layouts
from mirage_jax.weights import layout as layouts
from mirage_jax.weights.layout import Layout
from mirage_jax.weights.sources import Source

_WRAPPERS = ("module.", "model.")  # of distributed training and of pipelines, in front of any name


@dataclasses.dataclass(frozen=True)
class Format:
    """A public layout of one part of a model.

    Attributes:
      part: of the model.
      layout: its table, for a model (a VAE's depends on its number of levels).
      prefixes: what may stand before a name, any number of times, and is dropped.
      root: what a name of the table begins with, added after the prefixes are dropped.
      neighbours: tensors that may be in the same file and belong to another part of the model.
    """

    part: str
    layout: Callable[[ModelConfig], Layout]
    prefixes: tuple[str, ...] = ()
    root: str = ""
    neighbours: Layout = ()

    def canonical(self, name: str) -> str:
        """A name as the table has it."""
        while prefix := next((p for p in self.prefixes if name.startswith(p)), None):
            name = name.removeprefix(prefix)
        return self.root + name.replace(".default.", ".") if self.root else name


def _fixed(layout: Layout) -> Callable[[ModelConfig], Layout]:
    return lambda model: layout


FORMATS: Mapping[str, Format] = {
    "wan_original": Format("dit", _fixed(wan_layouts.ORIGINAL_DIT), neighbours=wan_layouts.ORIGINAL_SIDE),
    "wan_diffusers": Format("dit", _fixed(wan_layouts.DIFFUSERS_DIT), neighbours=wan_layouts.DIFFUSERS_SIDE),
    "side_release": Format(
        "side",
        _fixed(wan_layouts.ORIGINAL_SIDE),
        prefixes=(*_WRAPPERS, "pipe.vace.", "vace."),
        neighbours=wan_layouts.ORIGINAL_DIT,
    ),
    "side_diffusers": Format("side", _fixed(wan_layouts.DIFFUSERS_SIDE), neighbours=wan_layouts.DIFFUSERS_DIT),
    "lora_release": Format(
        "lora", _fixed(wan_layouts.RELEASE_LORA), prefixes=(*_WRAPPERS, "pipe.dit.", "dit."), root="pipe.dit."
    ),
    "vae_original": Format("vae", lambda model: vae_layouts.original_vae(len(model.vae.multipliers), model.vae.blocks)),
    "vae_diffusers": Format("vae", lambda model: vae_layouts.diffusers_vae(len(model.vae.multipliers))),
    "umt5_original": Format("text", _fixed(umt5_layouts.ORIGINAL_UMT5)),
    "umt5_transformers": Format("text", _fixed(umt5_layouts.TRANSFORMERS_UMT5)),
    "depth_anything": Format("depth", _fixed(depth_layouts.TRANSFORMERS_DEPTH)),
}


def patch_shape(model: ModelConfig) -> tuple[int, ...] | None:
    """The sides of a patch where `to_public` looks for them."""
    return None if model.dit is None else (0, 0, *model.dit.patch)


class Match(NamedTuple):
    """Where a parameter comes from.

    Attributes:
      names: public names of its tensor; more than one where a file stores a tied tensor twice.
      storage: of its rule.
    """

    names: tuple[str, ...]
    storage: str


def lora_config(source: Source, model: ModelConfig, alpha: float | None) -> ModelConfig:
    """`model` with the rank and targets of a LoRA file; neither is written in it, nor is alpha (default: the rank).

    Raises:
      UserError: if the file holds no LoRA tensor.
    """
    form = FORMATS["lora_release"]
    downs = {name: e for name, e in source.entries.items() if form.canonical(name).endswith(".lora_A.weight")}
    if not downs:
        raise UserError(f"{source.path}: found no tensor *.lora_A.weight, expected a LoRA of the PyTorch release")
    rank = int(next(iter(downs.values())).shape[0])
    crossing = any(".cross_attn." in name for name in downs)
    return dataclasses.replace(model, lora=LoRAConfig(rank, float(rank if alpha is None else alpha), crossing))


def match(source: Source, form: Format, model: ModelConfig) -> tuple[dict[str, Match], int]:
    """Pairs every parameter of a part with its tensor, before anything is read.

    Returns:
      By our path, in the order of the file; and how many tensors belong to another part and are left alone.

    Raises:
      UserError: naming the tensor and the file, if one is unknown, doubled, missing or of the wrong shape.
    """
    if getattr(model, form.part, None) is None:
        raise UserError(f"model {model.name!r} has no part {form.part!r}, which this layout is of")
    table = form.layout(model)
    wanted = {path: shape for path, shape in parameters.shapes(model).items() if path.split("/")[0] == form.part}
    found: dict[str, Match] = {}
    seen: dict[str, str] = {}
    left = 0
    for name, entry in source.entries.items():
        known = form.canonical(name)
        try:
            path, storage = layouts.to_ours(known, table)
        except UserError as error:
            if any(layouts.matches(known, rule) for rule in form.neighbours):
                left += 1
                continue
            raise UserError(f"{entry.file}: tensor {name} is not part of this layout") from error
        if known in seen:
            raise UserError(f"{entry.file}: tensors {seen[known]} and {name} are the same one, {known}")
        if path not in wanted:
            raise UserError(f"{entry.file}: tensor {name} is one too many, model {model.name!r} has no {path}")
        seen[known] = name
        shape = layouts.public_shape(wanted[path], storage, patch_shape(model))
        if entry.shape != shape:
            raise UserError(
                f"{entry.file}: tensor {name} has shape {entry.shape}, model {model.name!r} expects {shape}"
            )
        found[path] = Match((*found[path].names, name) if path in found else (name,), storage)
    for path in wanted:
        if path not in found:
            raise UserError(f"{source.path}: tensor {layouts.to_theirs(path, table)[0]} is missing (it is {path})")
    return found, left


def read(source: Source, match: Match) -> np.ndarray:
    """The array of a parameter, axes in our order.

    Raises:
      UserError: if it cannot be read, is not finite, or a tied tensor differs from its twin.
    """
    array: Any = None
    for name in match.names:
        other = source.read(name)
        if array is not None and array.tobytes() != other.tobytes():
            raise UserError(f"{source.path}: tensors {' and '.join(match.names)} should be equal and differ")
        array = other
    return layouts.from_public(array, match.storage)
