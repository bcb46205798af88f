"""Converts a checkpoint of the size of the 5B DiT, kills it half way, goes on, and reports memory and time.

    python -m tests.weights.full_size_conversion [FOLDER]       (make test-conversion; 30 GB of disk, minutes)

Fails if any of the three processes (killed, resumed, verifying) held 6 GiB or more.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import ml_dtypes
import numpy as np

from mirage_jax.models import config, parameters
from mirage_jax.weights import formats, layout

BOUND_GIB = 6
SHARD_BYTES = 4 << 30


def write_checkpoint(folder, model, dtype, shard_bytes=SHARD_BYTES, pool=1 << 26):
    """Shards with an index in the original names, a tensor at a time; returns the bytes of all tensors."""
    form, patch = formats.FORMATS["wan_original"], formats.patch_shape(model)
    pool = np.random.default_rng(0).standard_normal(pool, np.float32).astype(dtype)
    shards, held = [[]], 0
    for path, shape in parameters.shapes(model).items():
        if path.startswith("dit/"):
            name, storage = layout.to_theirs(path, form.layout(model))
            shape = layout.public_shape(shape, storage, patch)
            size = int(np.prod(shape)) * pool.itemsize
            if held + size > shard_bytes and shards[-1]:
                shards, held = [*shards, []], 0
            shards[-1].append((name, shape, size))
            held += size
    index = {}
    for number, shard in enumerate(shards, 1):
        file = folder / f"diffusion_pytorch_model-{number:05}-of-{len(shards):05}.safetensors"
        header, offset = {}, 0
        for name, shape, size in shard:
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
            offset += size
            index[name] = file.name
        text = json.dumps(header).encode()
        with file.open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            for position, (_, shape, _) in enumerate(shard):
                flat = np.resize(np.roll(pool, position), int(np.prod(shape)))
                stream.write(flat.view(np.uint8))
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return sum(size for shard in shards for _, _, size in shard)


def bytes_under(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def run(what, arguments, kill_when=None):
    """Runs the command; returns whether it ended by itself, after reporting its peak memory."""
    started = time.time()
    process = subprocess.Popen([sys.executable, "-m", "experiments.convert_weights", *arguments])
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        if kill_when is not None and kill_when():
            process.send_signal(signal.SIGKILL)
            kill_when = None
        time.sleep(0.2)
    process.returncode = os.waitstatus_to_exitcode(status)
    peak = usage.ru_maxrss / 2**20
    print(f"{what}: exit {process.returncode}, {time.time() - started:.0f} s, peak {peak:.2f} GiB", flush=True)
    assert peak < BOUND_GIB
    return process.returncode


def main(parent):
    folder = pathlib.Path(tempfile.mkdtemp(dir=parent))
    try:
        source, out = folder / "source", folder / "model"
        source.mkdir()
        total = write_checkpoint(source, config.wan22_ti2v_5b(), ml_dtypes.bfloat16)
        print(f"checkpoint: {total / 2**30:.2f} GiB in {len(list(source.glob('*.safetensors')))} shards", flush=True)
        call = [f"--source={source}", "--layout=wan_original", f"--out={out}"]
        half = lambda: out.is_dir() and bytes_under(out) > total * 0.4  # noqa: E731
        assert run("killed half way", call, half) == -signal.SIGKILL
        print(f"on disk after the kill: {bytes_under(out) / 2**30:.2f} GiB", flush=True)
        assert run("resumed", call) == 0
        assert sorted(x.name for x in out.iterdir()) == [
            "model.json",
            "params.dit",
            "params.dit.sha256",
            "verify.json",
        ]
        print(f"model folder: {bytes_under(out) / 2**30:.2f} GiB", flush=True)
        assert run("verified", [*call, "--verify"]) == 0
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
