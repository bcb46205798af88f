"""A whole model from public checkpoints: which files hold which part, each converted, verified and put together."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import shutil
from collections.abc import Sequence
from typing import Any

from experiments.conversion import convert, hub, sizes
from experiments.shared import loading
from experiments.shared.tokens import FILES as TOKENIZERS
from mirage_jax import io, weights
from mirage_jax.errors import UserError
from mirage_jax.models import config as model_config
from mirage_jax.models import depth_anything
from mirage_jax.models.config import ModelConfig
from mirage_jax.weights import formats, model_files, sources
from mirage_jax.weights.sources import Source

_INDEX = ".safetensors.index.json"
_ORDER = ("vae", "dit", "side", "lora", "text", "depth")  # the sizes of a side branch and a LoRA are those of the DiT
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Part:
    """Where a part of the model is.

    Attributes:
      source: the checkpoint.
      layout: that it has there.
      told: what the config.json beside it says.
    """

    source: Source
    layout: str
    told: dict[str, Any]


def get(
    name: str,
    out: pathlib.Path,
    preset: str | None = None,
    *,
    dtype: str | None = None,
    alpha: float | None = None,
    depth: str | None = None,
    mask: str | None = None,
) -> list[str]:
    """Makes a model folder of everything that is found, or adds to it what it lacks.

    Returns:
      The parts that were found.

    Raises:
      UserError: if nothing is recognised, two files hold the same part, a tensor is unknown, missing or misshapen, or
        what was fetched or converted is not what it should be.
    """
    download = out / "download"
    place = pathlib.Path(name)
    if not place.exists():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+(/.+)?", name) or name.startswith("."):
            raise UserError(f"{name}: no such file or folder, and no OWNER/REPOSITORY of the Hugging Face Hub")
        place = hub.fetch(name, download, wanted)
    model = _base(out, preset)
    parts = survey(place, model)
    for part in sorted(parts, key=_ORDER.index):
        model = _add(out, part, parts[part], model, dtype=dtype, alpha=alpha, depth=depth, mask=mask)
    _copy_tokenizer(place, out, parts)
    _keep_ones(out)
    shutil.rmtree(download, ignore_errors=True)
    return list(parts)


def wanted(names: Sequence[str]) -> list[str]:
    """Of the files of a repository those that hold weights, their indexes and configs, and tokenizers."""
    found = [x for x in names if x.endswith((*sources.SUFFIXES, _INDEX)) or pathlib.PurePath(x).name in TOKENIZERS]
    safe = {str(pathlib.PurePath(x).parent) for x in found if x.endswith(".safetensors")}
    # What transformers and diffusers store in both ways is fetched in one.
    found = [x for x in found if not x.endswith(".bin") or str(pathlib.PurePath(x).parent) not in safe]
    if len(quantised := [x for x in found if x.endswith(".gguf")]) > 1:
        some = ", ".join(quantised[:10])
        raise UserError(f"{len(quantised)} GGUF files are there, name one as OWNER/REPOSITORY/FILE: {some}")
    beside = {str(pathlib.PurePath(x).parent) for x in found}
    configs = [
        x for x in names if pathlib.PurePath(x).name == "config.json" and str(pathlib.PurePath(x).parent) in beside
    ]
    return found + configs if found else []


def survey(place: pathlib.Path, model: ModelConfig) -> dict[str, Part]:
    """The parts that a file, or all files of a folder, hold.

    Raises:
      UserError: as `get` does.
    """
    parts: dict[str, Part] = {}
    strange: list[str] = []
    for path in _checkpoints(place):
        source = Source(path)
        layouts, unknown = formats.recognise(source, model)
        some = ", ".join(unknown[:_SHOWN]) + " .." * (len(unknown) > _SHOWN)
        if not layouts:
            strange.append(f"{path} ({some or 'no tensors'})")
            continue
        if unknown:
            raise UserError(f"{path}: holds {', '.join(layouts)}, and {len(unknown)} tensors of nothing known: {some}")
        told = _told(path)
        for part, layout in layouts.items():
            if part in parts:
                raise UserError(f"{parts[part].source.path} and {path} both hold the {part}: name one of them")
            parts[part] = Part(source, layout, told)
    for line in strange:
        print(f"note: not recognised, left alone: {line}")
    if not parts:
        raise UserError(f"{place}: nothing in it is recognised{': ' * bool(strange)}{'; '.join(strange)}")
    return parts


def _checkpoints(place: pathlib.Path) -> list[pathlib.Path]:
    """Files, and indexes in place of their shards."""
    if place.is_file():
        return [place]
    files = sorted(path for path in place.rglob("*") if path.is_file())
    indexes = [path for path in files if path.name.endswith(_INDEX)]
    shards = {path.parent / shard for path in indexes for shard in sources.read_index(path).values()}
    alone = [path for path in files if path.suffix in sources.SUFFIXES and path not in shards]
    if lost := [path for path in alone if _SHARD.search(path.name)]:
        raise UserError(f"{lost[0]}: a shard without its index, expected a file *{_INDEX} beside it")
    return indexes + alone


def _told(path: pathlib.Path) -> dict[str, Any]:
    """What is known of a checkpoint besides its tensors: its config.json, and what names of metric depth say."""
    try:
        told = json.loads((path.parent / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        told = {}
    told = told if isinstance(told, dict) else {}
    for word, reach in (("hypersim", 20.0), ("vkitti", 80.0)):
        if word in path.name.lower() and "depth_estimation_type" not in told:
            told |= {"depth_estimation_type": "metric", "max_depth": reach}
    return told


def _base(out: pathlib.Path, preset: str | None) -> ModelConfig:
    if model_files.is_model(out):
        model = model_files.read_config(out)
        if preset is not None and preset != model.name:
            raise UserError(f"--model={preset}: {out} is a {model.name}; leave the flag out")
        return model
    return model_config.PRESETS[preset or "wan22_ti2v_5b"]()


def _add(
    out: pathlib.Path,
    part: str,
    found: Part,
    model: ModelConfig,
    *,
    dtype: str | None,
    alpha: float | None,
    depth: str | None,
    mask: str | None,
) -> ModelConfig:
    """Converts a part, or finds it converted, and compares it with its source; the model it belongs to."""
    there = model_files.is_model(out) and part in weights.parts_of(out)
    if not there:
        if getattr(model, part) is None:  # the folder's family comes without it
            model = dataclasses.replace(model, **{part: getattr(model_config.PRESETS["wan22_ti2v_5b"](), part)})
        if part == "depth" and depth is not None:
            model = dataclasses.replace(model, depth=depth_anything.PRESETS[depth])
        else:
            model = sizes.of(found.source, formats.FORMATS[found.layout], model, found.told)
        record = convert.convert(
            found.source.path,
            found.layout,
            out,
            model,
            dtype=dtype,
            alpha=alpha if part == "lora" else None,
            mask=mask if part == "side" else None,
        )
        if record["note"]:
            print(f"note: {record['note']}")
    checked = convert.verify(found.source.path, found.layout, out)
    state = "was there already" if there else "converted"
    print(f"{part}: {state} and verified, {checked['parameters']:,} parameters, {found.layout}, {found.source.path}")
    return model_files.read_config(out)


def _copy_tokenizer(place: pathlib.Path, out: pathlib.Path, parts: dict[str, Part]) -> None:
    """The text encoder's tokenizer: a file of the folder, or what lies among its tensors."""
    if "text" not in parts or any((out / name).is_file() for name in TOKENIZERS):
        return
    inside = sorted(place.rglob("*")) if place.is_dir() else []
    if file := next((x for name in TOKENIZERS for x in inside if x.name == name and x.is_file()), None):
        with io.atomic_path(out / file.name) as temporary:
            shutil.copyfile(file, temporary)
    elif data := parts["text"].source.tokenizer:
        with io.atomic_path(out / "spiece.model") as temporary:
            temporary.write_bytes(data)
    else:
        print(f"note: no {' or '.join(TOKENIZERS)} came with the text encoder; generate takes one with --tokenizer")


def _keep_ones(out: pathlib.Path) -> None:
    """The constant that a side branch of the release is given, computed once for all runs."""
    model = model_files.read_config(out)
    if {"vae", "side"} <= set(weights.parts_of(out)) and "ones" in model.segment.control:
        params = weights.load(out, ("vae",))[1]
        print("computing the code of an all-ones video, once; without an accelerator this takes long", flush=True)
        loading.ones_code(model, out, params)
