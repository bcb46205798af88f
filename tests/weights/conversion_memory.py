"""Peak memory of conversions of growing checkpoints, as JSON; a program that `test_conversion_memory` starts.

python -m tests.weights.conversion_memory FOLDER
"""

import dataclasses
import json
import pathlib
import sys

import ml_dtypes

from experiments.conversion import convert
from mirage_jax.models import config
from tests.weights.full_size_conversion import write_checkpoint
from tests.weights.tiny_wan import tiny_wan

LAYERS = {"warm": 2, "one": 4, "three": 12, "at_once": 12}
GROUP_BYTES, SHARD_BYTES = 1 << 22, 1 << 23


def wide(layers):
    """8 MB of bfloat16 a layer; the largest tensor is of 2 MB."""
    tiny = tiny_wan()
    return dataclasses.replace(tiny, dit=dataclasses.replace(tiny.dit, dim=512, ffn_dim=2048, layers=layers), side=None)


def peak():
    """Most bytes this process held since `forget`."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def forget():
    """Makes what is held now the peak."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def main(folder):
    found = {}
    for name, layers in LAYERS.items():
        model, source = wide(layers), folder / f"{layers}"
        config.PRESETS["wide"] = lambda model=model: model
        if not source.is_dir():
            source.mkdir()
            write_checkpoint(source, model, ml_dtypes.bfloat16, SHARD_BYTES, 1 << 20)
        total = sum(file.stat().st_size for file in source.glob("*.safetensors"))
        group = 1 << 40 if name == "at_once" else GROUP_BYTES
        forget()
        before = peak()
        convert.convert(source, "wan_original", folder / name, "wide", group_bytes=group)
        shards = len(list(source.glob("*.safetensors")))
        found[name] = {"bytes": total, "shards": shards, "grew": peak() - before}
    print("RESULT " + json.dumps(found))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
