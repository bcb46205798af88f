"""Parts of a model folder as public checkpoints: one safetensors file in the public names, written tensor by tensor."""

from __future__ import annotations

import json
import pathlib

import jax
import numpy as np
import tqdm
from flax import traverse_util

from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.weights import formats, model_files
from mirage_jax.weights import layout as layouts
from mirage_jax.weights.formats import FORMATS

_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def export(model_folder: str | pathlib.Path, layout: str, out: str | pathlib.Path) -> int:
    """Writes a part in a public layout, in the dtypes it is stored in.

    Args:
      model_folder: with the part.
      layout: a key of `FORMATS`.
      out: the `.safetensors` file.

    Returns:
      The number of tensors.

    Raises:
      UserError: if the folder has no such part, or it does not fit the folder's config.
    """
    folder, form = pathlib.Path(model_folder).absolute(), FORMATS[layout]
    if not form.written:
        raise UserError(f"layout {layout} is read, not written")
    if pathlib.Path(out).suffix != ".safetensors":
        raise UserError(f"{out}: expected the name of a .safetensors file to write")
    model = model_files.read_config(folder)
    tree, shapes = model_files.find_part(folder, model, form.part)
    table, patch = form.layout(model), formats.patch_shape(model)
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}  # type: ignore[type-arg]
    order, offset = [], 0
    for path, leaf in traverse_util.flatten_dict({form.part: shapes}, sep="/").items():
        name, storage = layouts.to_theirs(path, table)
        size = int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        header[name] = {
            "dtype": _DTYPES[np.dtype(leaf.dtype).name],
            "shape": layouts.public_shape(leaf.shape, storage, patch),
            "data_offsets": (offset, offset + size),
        }
        order.append((path, leaf, storage))
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with io.atomic_path(out) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for path, leaf, storage in tqdm.tqdm(order, desc="writing", unit="tensor"):
            target = traverse_util.unflatten_dict({path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)}, sep="/")
            array = np.asarray(jax.tree.leaves(model_files.restore(tree, target))[0])
            public = np.ascontiguousarray(layouts.to_public(array, storage, patch))
            file.write(public.reshape(-1).view(np.uint8))
    return len(order)
