"""The public checkpoints that can be converted, and how each matches a model: which tensor becomes which parameter."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from mirage_jax.errors import UserError
from mirage_jax.models import parameters
from mirage_jax.models.config import ModelConfig
from mirage_jax.weights import layout as layouts
from mirage_jax.weights.layout import Layout
from mirage_jax.weights.layouts import depth_layouts, lora_layouts, umt5_layouts, vae_layouts, wan_layouts
from mirage_jax.weights.sources import Source

# Of distributed training, adapters, pipelines and training checkpoints, in front of any name.
_WRAPPERS = (
    "module.",
    "model.",
    "base_model.",
    "diffusion_model.",
    "generator.",
    "state_dict.",
    "model_state.",
    "pipe.",
)
_ANYWHERE = re.compile(r"(?<![^.])(_fsdp_wrapped_module|_orig_mod|_checkpoint_wrapped_module|base_layer)\.")


@dataclasses.dataclass(frozen=True)
class Format:
    """A public layout of one part of a model.

    Attributes:
      part: of the model.
      layout: its table, for a model (a VAE's depends on its number of levels).
      prefixes: what may stand before a name besides `_WRAPPERS`, any number of times, and is dropped.
      name: brings what is left to the spelling of the table.
      written: whether `export` writes it too.
    """

    part: str
    layout: Callable[[ModelConfig], Layout]
    prefixes: tuple[str, ...] = ()
    name: Callable[[str], str] = str
    written: bool = True

    def canonical(self, name: str) -> str:
        """A name as the table has it."""
        name = _ANYWHERE.sub("", name)
        while prefix := next((p for p in (*_WRAPPERS, *self.prefixes) if name.startswith(p)), None):
            name = name.removeprefix(prefix)
        return self.name(name)

    def knows(self, name: str, model: ModelConfig) -> bool:
        """Whether a tensor of that name is of this layout."""
        known = lora_layouts.update_of(self.canonical(name))
        return any(layouts.matches(known, rule) for rule in self.layout(model))


def _fixed(layout: Layout) -> Callable[[ModelConfig], Layout]:
    return lambda model: layout


def _side(layout: Layout) -> Format:
    return Format("side", _fixed(layout), prefixes=("vace.",))


def _lora(layout: Layout, name: Callable[[str], str]) -> Format:
    return Format("lora", _fixed(layout), ("dit.", "transformer.", "lora."), name)


FORMATS: Mapping[str, Format] = {
    "wan_original": Format("dit", _fixed(wan_layouts.ORIGINAL_DIT), prefixes=("dit.",)),
    "wan_diffusers": Format("dit", _fixed(wan_layouts.DIFFUSERS_DIT), prefixes=("transformer.",)),
    "side_release": _side(wan_layouts.ORIGINAL_SIDE),
    "side_diffusers": _side(wan_layouts.DIFFUSERS_SIDE),
    "lora_release": _lora(lora_layouts.ORIGINAL_LORA, lora_layouts.canonical_release),
    "lora_diffusers": _lora(lora_layouts.DIFFUSERS_LORA, lora_layouts.canonical),
    "vae_original": Format(
        "vae",
        lambda model: vae_layouts.original_vae(len(model.vae.multipliers), model.vae.blocks),
        prefixes=("vae.", "first_stage_model."),
    ),
    "vae_diffusers": Format(
        "vae", lambda model: vae_layouts.diffusers_vae(len(model.vae.multipliers)), prefixes=("vae.",)
    ),
    "umt5_original": Format("text", _fixed(umt5_layouts.ORIGINAL_UMT5), prefixes=("text_encoder.",)),
    "umt5_transformers": Format(
        "text",
        _fixed(umt5_layouts.TRANSFORMERS_UMT5),
        prefixes=("text_encoder.", "text_encoders.umt5xxl.", "transformer."),
    ),
    "umt5_gguf": Format("text", _fixed(umt5_layouts.GGUF_UMT5)),
    "depth_anything": Format("depth", _fixed(depth_layouts.TRANSFORMERS_DEPTH)),
    "depth_anything_original": Format("depth", _fixed(depth_layouts.ORIGINAL_DEPTH), written=False),
}


def patch_shape(model: ModelConfig) -> tuple[int, ...] | None:
    """The sides of a patch where `to_public` looks for them."""
    return None if model.dit is None else (0, 0, *model.dit.patch)


class Match(NamedTuple):
    """Where a parameter comes from.

    Attributes:
      names: public names of its tensor: more than one where a file stores a tied tensor twice, none where it is zero.
      storage: of its rule.
      shape: ours.
      dtype: that it is read in.
      factor: that it is multiplied by.
    """

    names: tuple[str, ...]
    storage: str
    shape: tuple[int, ...]
    dtype: np.dtype
    factor: float = 1.0


def recognise(source: Source, model: ModelConfig) -> tuple[dict[str, str], list[str]]:
    """The layouts in which a checkpoint holds parts of a model, by part, and the names that none of them knows.

    The names of tensors tell; `model` is a config of the family, for the levels of its VAE.
    """
    known = {key: {name for name in source.entries if form.knows(name, model)} for key, form in FORMATS.items()}
    found: dict[str, str] = {}
    left = set(source.entries)
    for key in sorted(known, key=lambda key: -len(known[key])):
        if FORMATS[key].part not in found and known[key] & left:
            found[FORMATS[key].part] = key
            left -= known[key]
    return found, [name for name in source.entries if name in left]


def match(source: Source, form: Format, model: ModelConfig) -> tuple[dict[str, Match], int]:
    """Pairs every parameter of a part with its tensor, before anything is read.

    Returns:
      By our path, in the order of the file; and how many tensors belong to another part and are left alone.

    Raises:
      UserError: naming the tensor and the file, if one is unknown, doubled, missing or of the wrong shape.
    """
    if getattr(model, form.part, None) is None:
        raise UserError(f"model {model.name!r} has no part {form.part!r}, which this layout is of")
    table, others = form.layout(model), [other for other in FORMATS.values() if other.part != form.part]
    wanted = {path: shape for path, shape in parameters.shapes(model).items() if path.split("/")[0] == form.part}
    factors = lora_layouts.factors(source, form, model.lora) if form.part == "lora" else {}
    found: dict[str, Match] = {}
    seen: dict[str, str] = {}
    foreign: list[str] = []
    for name, entry in source.entries.items():
        known = form.canonical(name)
        try:
            path, storage = layouts.to_ours(known, table)
        except UserError as error:
            if form.part == "lora" and form.knows(name, model):
                continue  # an alpha
            if any(other.knows(name, model) for other in others):
                foreign.append(name)
                continue
            raise UserError(f"{entry.file}: tensor {name} is not part of this layout") from error
        if known in seen:
            raise UserError(f"{entry.file}: tensors {seen[known]} and {name} are the same one, {known}")
        if path not in wanted:
            raise UserError(f"{entry.file}: tensor {name} is one too many, model {model.name!r} has no {path}")
        seen[known] = name
        shape = layouts.public_shape(wanted[path], storage, patch_shape(model))
        if entry.shape != shape and not (form.part == "lora" and lora_layouts.fits(path, entry.shape, shape)):
            raise UserError(
                f"{entry.file}: tensor {name} has shape {entry.shape}, model {model.name!r} expects {shape}"
            )
        factor = factors.get(path, 1.0)
        dtype = entry.dtype if factor == 1 else np.dtype(np.float32)
        names = (*found[path].names, name) if path in found else (name,)
        found[path] = Match(names, storage, wanted[path], dtype, factor)
    if foreign and not found:
        raise UserError(f"{source.path}: tensor {foreign[0]} is not part of this layout, nor is any other of the file")
    absent = [path for path in wanted if path not in found]
    for path in absent:
        if not (form.part == "lora" and lora_layouts.may_be_absent(path, found)):
            raise UserError(f"{source.path}: tensor {layouts.to_theirs(path, table)[0]} is missing (it is {path})")
    for path in absent:
        found[path] = Match((), "same", wanted[path], next(iter(found.values())).dtype)
    return found, len(foreign)


def read(source: Source, match: Match) -> np.ndarray:
    """The array of a parameter, axes in our order.

    Raises `UserError` if it cannot be read, is not finite, or a tied tensor differs from its twin.
    """
    if not match.names:
        return np.zeros(match.shape, match.dtype)
    array: Any = None
    for name in match.names:
        other = source.read(name)
        if array is not None and array.tobytes() != other.tobytes():
            raise UserError(f"{source.path}: tensors {' and '.join(match.names)} should be equal and differ")
        array = other
    array = layouts.from_public(array, match.storage)
    if match.factor != 1:
        array = array.astype(np.float32) * np.float32(match.factor)
    if array.shape != match.shape:  # a LoRA's update of a smaller rank than others
        array = np.pad(array, [(0, wide - own) for own, wide in zip(array.shape, match.shape, strict=True)])
    return array
