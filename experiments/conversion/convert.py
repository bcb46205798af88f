"""Conversion of public checkpoints, in memory for a few tensors at a time, whatever the size of the file.

Groups of tensors are added to a hidden Orbax tree in the model folder, which becomes `params.PART/` when it is whole.
A conversion that was killed goes on after the last group; one that met a bad tensor leaves nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np
import tqdm
from flax import traverse_util
from orbax.checkpoint.experimental import v1 as ocp

from experiments.conversion import forward
from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.models import config as model_config
from mirage_jax.models import depth_anything
from mirage_jax.models.config import ModelConfig
from mirage_jax.weights import checksums, formats, model_files
from mirage_jax.weights.formats import FORMATS, Format, Match
from mirage_jax.weights.layouts import lora_layouts
from mirage_jax.weights.sources import Source, not_finite

DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
GROUP_BYTES = 1 << 28
_COMMITTED = "commit_success.txt"  # Orbax writes it last


def convert(
    source: str | pathlib.Path,
    layout: str,
    out: str | pathlib.Path,
    preset: str | ModelConfig | None = None,
    *,
    dtype: str | None = None,
    alpha: float | None = None,
    depth: str | None = None,
    mask: str | None = None,
    group_bytes: int = GROUP_BYTES,
) -> dict[str, Any]:
    """Adds a part to a model folder, which is made if there is none.

    Args:
      source: the public checkpoint, as `Source` takes it.
      layout: a key of `FORMATS`.
      out: the model folder.
      preset: the model or its name; None is that of the folder, or wan22_ti2v_5b for a new one.
      dtype: to store tensors in; None keeps those of the source.
      alpha: of a LoRA whose file does not tell it; None is its rank.
      depth: for a depth network, which of `depth_anything.PRESETS` it is; None if the model says.
      mask: of a side branch whose last control channel is one, 'hole' (1 where the memory shows nothing) or 'visible';
        None is 'hole', as in the PyTorch release.
      group_bytes: what is converted and written at a time.

    Returns:
      The record of the part that `verify.json` keeps.

    Raises:
      UserError: naming tensor and file, if a tensor is unknown, missing, doubled, misshapen, not of floats or not
        finite; if the folder is of another model or has the part already; if the disk is too small.
    """
    out, form = pathlib.Path(out).absolute(), FORMATS[layout]
    model = _model_of(out, preset)
    final = out / f"params.{form.part}"
    if form.part in (model_files.parts_of(out) if (out / "model.json").is_file() else ()):
        raise UserError(f"{out}: has a part {form.part!r} already; remove {final} to convert it again")
    opened = Source(source)
    note = None
    if form.part == "lora":
        model = lora_layouts.config(opened, form, model, alpha)
    if form.part == "side":
        before = model.segment.control if (out / "model.json").is_file() else None
        model, note = side_control(opened, form, model, mask)
        if mask is None and before == ("readout", "visible") and model.segment.control != before:
            raise UserError(
                f"{out}/model.json: its mask is 1 where the memory shows something; say with --mask which "
                f"{opened.path} has"
            )
    if depth is not None:
        model = dataclasses.replace(model, depth=depth_anything.PRESETS[depth])
    matches, left = formats.match(opened, form, model)
    made = not out.exists()
    work = _Work(out, form.part, _fingerprint(opened, layout, dtype, model))
    try:
        out.mkdir(parents=True, exist_ok=True)
        tree = _write_groups(opened, matches, work, None if dtype is None else DTYPES[dtype], group_bytes)
        record = {
            "layout": layout,
            "note": note,
            "tensors": len(matches),
            "left_alone": left,
            "dtypes": sorted(
                {str(x.dtype) for x in traverse_util.flatten_dict(model_files.read_shapes(tree)).values()}
            ),
            "forward": forward.statistics(model, form.part, _reader(tree, form.part)),
            "checksums": {path: work.checksums[path] for path in sorted(matches)},
        }
    except UserError:
        work.remove()
        if made:
            shutil.rmtree(out, ignore_errors=True)
        raise
    _update_record(out, form.part, record)
    model_files.write_config(out, model)
    checksums.write(tree, final)
    tree.rename(final)  # the part is there from here on
    work.remove()
    return record


def side_control(source: Source, form: Format, model: ModelConfig, mask: str | None) -> tuple[ModelConfig, str | None]:
    """`model` with the control channels that a side branch's file is made for, and what is to be said about it.

    Files of C + 1 channels end with a mask, and the PyTorch release's is 1 where the memory shows nothing ('hole').

    Args:
      source: the checkpoint.
      form: of the side branch.
      model: the model it is converted for.
      mask: 'hole' or 'visible' if the caller knows better.

    Raises:
      UserError: if a mask is asked for and the file has none.
    """
    name = next((name for name in source.entries if form.canonical(name) == "vace_patch_embedding.weight"), None)
    shape = () if name is None else source.entries[name].shape
    channels, latent = shape[1] if len(shape) == 5 else 0, model.vae.latent_channels
    note = None
    if channels == latent + 1:
        control = ("readout", mask or "hole")
        what = {
            "hole": "1 where the memory shows nothing, as in the PyTorch release",
            "visible": "1 where it shows something",
        }
        note = f"the last of its {channels} control channels is read as a mask that is {what[control[1]]} (--mask)"
    elif mask is not None:
        raise UserError(f"--mask: {source.path} has {channels} control channels, a mask comes with {latent + 1}")
    elif channels == 2 * latent:
        control = ("readout", "ones")
    else:
        return model, None
    segment = dataclasses.replace(model.segment, control=control)
    return dataclasses.replace(
        model, segment=segment, side=dataclasses.replace(model.side, control_channels=channels)
    ), note


def verify(source: str | pathlib.Path, layout: str, out: str | pathlib.Path) -> dict[str, Any]:
    """Compares a converted part with its source, tensor by tensor, and its outputs with those stored at conversion.

    Returns:
      `tensors` and `parameters` compared, and `dtypes`.

    Raises:
      UserError: naming the first tensor, or the block, that differs.
    """
    out, form, opened = pathlib.Path(out).absolute(), FORMATS[layout], Source(source)
    model = model_files.read_config(out)
    matches, _ = formats.match(opened, form, model)
    tree = out / f"params.{form.part}"
    record = _record(out).get(form.part)
    if record is None or not tree.is_dir():
        raise UserError(f"{out}: no part {form.part!r} was converted into it")
    shapes = traverse_util.flatten_dict(model_files.read_shapes(tree), sep="/")
    if difference := sorted({*shapes} ^ {*matches}):
        raise UserError(f"{tree}: tensor {difference[0]} is only in one of the model and {opened.path}")
    total = 0
    for paths in tqdm.tqdm(_by_bytes(matches, GROUP_BYTES), desc="verifying", unit="group"):
        target = {path: shapes[path] for path in paths}
        stored = traverse_util.flatten_dict(
            model_files.restore(tree, traverse_util.unflatten_dict(target, sep="/")), sep="/"
        )
        for path in paths:
            expected = np.ascontiguousarray(formats.read(opened, matches[path]).astype(shapes[path].dtype, copy=False))
            sums = {checksum(np.asarray(stored[path])), checksum(expected), record["checksums"].get(path)}
            if expected.shape != shapes[path].shape or len(sums) > 1:
                raise UserError(
                    f"{tree}: tensor {path} is not that of {opened.path} ({', '.join(matches[path].names)})"
                )
            total += expected.size
    found = forward.statistics(model, form.part, _reader(tree, form.part))
    if difference := forward.first_difference(found, record["forward"]):
        raise UserError(f"{tree}: a forward pass gives other numbers at {difference}")
    return {"tensors": len(matches), "parameters": total, "dtypes": record["dtypes"]}


def checksum(array: np.ndarray) -> str:
    """Of dtype, shape and every bit of an array."""
    array = np.ascontiguousarray(array)
    digest = hashlib.blake2b(f"{array.dtype.name} {array.shape}".encode(), digest_size=16)
    digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


class _Work:
    """The hidden tree a conversion adds to, and what is known of its tensors; kept when the process is killed.

    Orbax collects additions in `PATH.partial_save/`, each in a folder of its own that counts once it is whole, and
    `finalize` makes `PATH` of them, in several steps: one that was cut off there starts anew.
    """

    def __init__(self, out: pathlib.Path, part: str, fingerprint: str):
        self.path = out / f"converting.{part}"
        self._additions = out / f"converting.{part}.partial_save"
        self._notes = out / f"converting.{part}.json"
        self._fingerprint = fingerprint
        self.checksums: dict[str, str] = {}
        try:
            notes = json.loads(self._notes.read_text())
            usable = notes["fingerprint"] == fingerprint and (not notes["finalizing"] or self.whole)
        except (OSError, ValueError, KeyError):
            usable = False
        if usable:
            self.checksums = notes["checksums"]
        else:
            self.remove()

    @property
    def whole(self) -> bool:
        """Whether all additions have become one tree."""
        return self.path.is_dir() and not self._additions.exists()

    def done(self) -> set[str]:
        """Paths of the tensors that are written."""
        found: set[str] = set()
        for folder in self._additions.iterdir() if self._additions.is_dir() else ():
            if (folder / _COMMITTED).is_file():
                found |= model_files.tree_paths(folder / "state")
            else:
                shutil.rmtree(folder)
        return found

    def add(self, arrays: dict[str, np.ndarray]) -> None:
        self.checksums |= {path: checksum(array) for path, array in arrays.items()}
        self._note(finalizing=False)
        context = ocp.Context()
        # Weights hardly compress, and trying takes most of the time. Chunks let each device of a mesh read its share.
        context.array.saving.use_compression = False
        context.array.saving.storage_options.chunk_byte_size = 1 << 25
        with context:
            ocp.partial.save(self.path, traverse_util.unflatten_dict(arrays, sep="/"))

    def finalize(self) -> pathlib.Path:
        """The folder of the tree."""
        if not self.whole:
            self._note(finalizing=True)
            ocp.partial.finalize(self.path)
        return self.path / "state"

    def remove(self) -> None:
        for folder in (self.path, self._additions):
            shutil.rmtree(folder, ignore_errors=True)
        self._notes.unlink(missing_ok=True)

    def _note(self, finalizing: bool) -> None:
        notes = {"fingerprint": self._fingerprint, "finalizing": finalizing, "checksums": self.checksums}
        io.write_json(self._notes, notes)


def _write_groups(
    source: Source, matches: dict[str, Match], work: _Work, dtype: np.dtype | None, group_bytes: int
) -> pathlib.Path:
    if work.whole:
        return work.finalize()
    done = work.done()
    sizes = {path: _bytes(match) for path, match in matches.items()}
    left = {path: match for path, match in matches.items() if path not in done}
    free, needed = shutil.disk_usage(work.path.parent).free, sum(sizes[path] for path in left)
    if free < needed:
        raise UserError(f"{work.path.parent}: {needed / 1e9:.1f} GB are to be written, the disk has {free / 1e9:.1f}")
    total = sum(sizes.values())
    with tqdm.tqdm(total=total, initial=total - needed, unit="B", unit_scale=True, desc="converting") as bar:
        for paths in _by_bytes(left, group_bytes):
            arrays = {}
            for path in paths:
                array = formats.read(source, matches[path])
                if dtype is not None and array.dtype != dtype:
                    with np.errstate(over="ignore"):
                        array = array.astype(dtype)
                    if not_finite(np.ascontiguousarray(array)):
                        raise UserError(
                            f"{source.path}: tensor {', '.join(matches[path].names)} does not fit {dtype.name}"
                        )
                arrays[path] = np.ascontiguousarray(array)
            work.add(arrays)
            bar.update(sum(sizes[path] for path in paths))
    return work.finalize()


def _by_bytes(matches: dict[str, Match], limit: int) -> Iterator[Sequence[str]]:
    """Paths in groups of about `limit` bytes; a tensor that is larger is alone."""
    group, held = [], 0
    for path, match in matches.items():
        size = _bytes(match)
        if group and held + size > limit:
            yield group
            group, held = [], 0
        group.append(path)
        held += size
    if group:
        yield group


def _bytes(match: Match) -> int:
    return int(np.prod(match.shape, dtype=np.int64)) * match.dtype.itemsize


def _reader(tree: pathlib.Path, part: str) -> forward.Reader:
    shapes = traverse_util.flatten_dict(model_files.read_shapes(tree)[part], sep="/")

    def read(wanted: Any) -> Any:
        # The token table of a text encoder is gigabytes: it is read as it is stored, the rest in float32.
        target = {
            f"{part}/{path}": x if path == "token_embedding" else jax.ShapeDtypeStruct(x.shape, np.float32)
            for path, x in shapes.items()
            if wanted(path)
        }
        return model_files.restore(tree, traverse_util.unflatten_dict(target, sep="/"))[part]

    return read


def _model_of(out: pathlib.Path, preset: str | ModelConfig | None) -> ModelConfig:
    """The model of the folder, or the preset for a new folder."""
    if isinstance(preset, ModelConfig):
        return preset
    if not (out / "model.json").is_file():
        return model_config.PRESETS[preset or "wan22_ti2v_5b"]()
    found = model_files.read_config(out)
    if preset is not None:
        wanted = dataclasses.replace(model_config.PRESETS[preset](), lora=None, depth=None)
        if mismatch := model_config.first_mismatch(dataclasses.replace(found, lora=None, depth=None), wanted):
            raise UserError(f"{out}/model.json: is not of model {preset}: {mismatch}")
    return found


def _fingerprint(source: Source, layout: str, dtype: str | None, model: ModelConfig) -> str:
    """Changes whenever another conversion would give another tree."""
    files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in source.files]
    return hashlib.sha256(repr((files, layout, dtype, model.to_json())).encode()).hexdigest()


def _record(out: pathlib.Path) -> dict[str, Any]:
    file = out / "verify.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _update_record(out: pathlib.Path, part: str, record: dict[str, Any]) -> None:
    io.write_json(out / "verify.json", _record(out) | {part: record})
