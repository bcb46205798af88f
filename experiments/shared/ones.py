"""The code of an all-ones video, which some side branches are given: a constant that is costly to compute, kept."""

from __future__ import annotations

import hashlib
import pathlib

import numpy as np
import safetensors

from mirage_jax.errors import UserError
from mirage_jax.weights import checksums, model_files, single_file


def load(path: str | pathlib.Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """What `save` kept beside a model, float32 of `shape`; None if there is none of this VAE and shape."""
    at, made_by = _place(path), _vae(path)
    try:
        with safetensors.safe_open(at, framework="numpy") as file:  # pyright: ignore
            header, array = file.metadata() or {}, file.get_tensor("ones")
    except (safetensors.SafetensorError, OSError):
        return None
    whole = header.get("sha256") == hashlib.sha256(array.tobytes()).hexdigest()
    return array if whole and header.get("vae") == made_by and array.shape == shape else None


def save(path: str | pathlib.Path, ones: np.ndarray) -> bool:
    """Keeps the code beside a model; False where the model has no checksums, or its folder cannot be written."""
    if (made_by := _vae(path)) is None:
        return False
    array = np.ascontiguousarray(ones, np.float32)
    header = {"vae": made_by, "sha256": hashlib.sha256(array.tobytes()).hexdigest()}
    try:
        single_file.write(_place(path), {"ones": array}, header)
    except (UserError, OSError):
        return False
    return True


def _place(path: str | pathlib.Path) -> pathlib.Path:
    path = pathlib.Path(path)
    return path.with_suffix(".ones.safetensors") if single_file.is_one(path) else path / "ones.safetensors"


def _vae(path: str | pathlib.Path) -> str | None:
    """What names the VAE of a model: the digest in its file, or that of the checksums of its tree."""
    path = pathlib.Path(path).absolute()
    tree, _ = model_files.find_part(path, model_files.read_config(path), "vae")
    if tree.is_file():
        return single_file.digest(tree, "vae")
    listed = checksums.list_of(tree)
    return hashlib.sha256(listed.read_bytes()).hexdigest() if listed.is_file() else None
