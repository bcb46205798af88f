"""Benchmark suite `compile`: what memory the full-size programs need on each device, without weights or accelerators.

Every row is one program compiled ahead of time in a process of its own, for virtual CPU devices and, where the package
libtpu is installed, for TPUs that are described and not there: by the compiler that would run there, which refuses what
does not fit. Rows found in the record of an earlier run are kept, so a run that was stopped goes on.

A GPU has no compiler here. Its need is stated from the weights, which are the same everywhere, and the temporaries of
the TPU programs, whose attention is tiled as cuDNN's is.
"""

from __future__ import annotations

import importlib.util
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from experiments.bench import records
from experiments.bench.full_size import programs
from mirage_jax.models import config as model_config

OPTIONS = ("out",)
"""What the command hands to `measure`."""

MODEL = "wan22_ti2v_5b"
CHIPS = {"v5p": (95, "2x2x2", "4x4x4"), "v5e": (16, "2x4", "8x8"), "v6e": (32, "2x4", "8x8")}
"""TPUs: GB of a chip, topologies of 8 and of 64."""
GPUS = (24, 48, 80, 141)
"""GB of the GPUs for which a statement is made."""
TILE = 24
COLUMNS = ("program", "devices", "mesh", "compiled for", "arguments", "temporaries", "output", "fits")
GB = 1e9

DENOISE_MESHES = {1: {"data": 1}, 8: {"tensor": 8}, 64: {"fsdp": 8, "tensor": 8}}
CUBE_MESH = {"fsdp": 16, "tensor": 4}
"""Of 64: an axis of the mesh must be a product of sides of the cube."""
TRAIN_MESHES = {1: {"data": 1}, 8: {"fsdp": 8}, 64: {"fsdp": 64}}
DECODE_MESHES = {1: {"data": 1}, 8: {"fsdp": 8}, 64: {"fsdp": 64}}


def rows() -> list[dict[str, Any]]:
    """What is compiled, in order."""
    wanted = []
    for chip, topology, pod in [(chip, *sizes[1:]) for chip, sizes in CHIPS.items()]:
        for count, place in ((1, topology), (8, topology), (64, pod)):
            where = {"topology": f"{chip}:{place}"}
            if count > 1 or chip != "v5e":  # 15 GB of weights leave a 16 GB chip no room
                mesh = CUBE_MESH if place == "4x4x4" else DENOISE_MESHES[count]
                wanted.append({"program": "denoise", "mesh": mesh, **where})
            if count == 1:
                wanted.append({"program": "denoise", "mesh": DENOISE_MESHES[count], "int8": True, **where})
                wanted.append({"program": "decode", "mesh": {"data": 1}, "tile": TILE, **where})
            if count > 1 or chip == "v5p":
                wanted.append({"program": "train", "mesh": TRAIN_MESHES[count], "batch": count, **where})
    v5p = {"topology": f"v5p:{CHIPS['v5p'][1]}"}
    wanted.append({"program": "decode", "mesh": {"data": 1}, **v5p})
    wanted.append({"program": "denoise", "mesh": {"sequence": 8}, **v5p})
    for count in (1, 8, 64):
        wanted.append({"program": "denoise", "mesh": DENOISE_MESHES[count]})
        wanted.append({"program": "train", "mesh": TRAIN_MESHES[count], "batch": count})
        wanted.append({"program": "decode", "mesh": DECODE_MESHES[count]})
    return sorted(wanted, key=lambda spec: (_devices(spec), "topology" in spec))


def measure(out: pathlib.Path, model: str = MODEL) -> dict[str, Any]:
    """Compiles the rows that `out/compile.json` does not have yet, one process at a time.

    Rows for TPUs are left for another run where libtpu is not installed.
    """
    config = model_config.PRESETS[model]()
    parameters = programs.counts(config)
    if config.text is not None:
        parameters["text"] = _text_parameters(config)
    about = {"tokens": programs.tokens(config), "parameters": parameters, "jax": jax.__version__}
    have_tpu = importlib.util.find_spec("libtpu") is not None
    wanted = [spec for spec in rows() if have_tpu or "topology" not in spec]

    def compiled(spec: Mapping[str, Any]) -> dict[str, Any]:
        print(f"compiling {_name(spec)}", flush=True)
        return programs.elsewhere({**spec, "model": model})

    target = pathlib.Path(out) / "compile.json"
    return records.resumed(target, wanted, compiled, same={"model": model}, about=about)


def markdown(record: dict[str, Any]) -> str:
    """The record as tables: counts, bytes by program, what fits."""
    order = {json.dumps(spec, sort_keys=True): i for i, spec in enumerate(rows())}
    lines = []
    for row in sorted(record["rows"], key=lambda row: order.get(json.dumps(row["spec"], sort_keys=True), len(order))):
        spec = row["spec"]
        mesh = " x ".join(f"{axis} {size}" for axis, size in spec["mesh"].items() if size > 1) or "one device"
        if "error" in row:
            numbers = ["", "", "", f"did not compile: {row['error']}"]
        elif row["fits"] is False:
            numbers = ["", "", "", f"no: {row['compiler']}"]
        else:
            sizes = (f"{row[name] / GB:.2f}" for name in ("arguments", "temporaries", "output"))
            numbers = [*sizes, "yes" if row["fits"] else ""]
        lines.append([_title(spec), _devices(spec), mesh, spec.get("topology", "virtual CPU devices"), *numbers])
    parameters = ", ".join(f"{name} {count:,}" for name, count in record["parameters"].items())
    text = [
        f"{record['model']}, {record['tokens']:,} tokens a segment, JAX {record['jax']}. Parameters: {parameters}.",
        "",
        "GB per device as the compiler reports them: arguments are weights, state and inputs; temporaries are what a "
        "program needs beside them; output is what it adds to donated arguments.",
        "",
        *records.table(COLUMNS, lines),
    ]
    return "\n".join([*text, "", *fits(record), ""])


def fits(record: dict[str, Any]) -> list[str]:
    """What fits one GPU of each size, by sums of the record's own figures, as lines of markdown."""
    single = [row for row in record["rows"] if _devices(row["spec"]) == 1 and row.get("arguments")]
    found = {_title(row["spec"]): row for row in single if "topology" in row["spec"]}
    wanted = [
        "denoising step",
        "denoising step, 8-bit weights",
        "train step",
        "VAE decode",
        f"VAE decode of a segment, tiles of {TILE}",
    ]
    if any(title not in found for title in wanted):
        return []
    full, small, train, decode, tiled = (found[title] for title in wanted)
    text = record["parameters"].get("text", 0) * 2
    vae = record["parameters"]["vae"] * 4
    modes = {
        "everything on the device, bfloat16": full["arguments"] + vae + text + _peak(full, decode),
        "text encoder off the device": full["arguments"] + vae + _peak(full, decode),
        "... and tiled decode": full["arguments"] + vae + _peak(full, tiled),
        "... and 8-bit weights": small["arguments"] + vae + _peak(small, tiled),
        "train step of the side branch, batch 1, remat": train["arguments"] + train["temporaries"] + train["output"],
    }
    return [
        "Sums for one device in GB, with one tenth of the device left for the runtime and fragments. Resident are the "
        "weights of generator and VAE (the latter float32); the peak is the larger of one denoising step and the "
        "decoding of one latent frame.",
        "",
        *records.table(
            ["", "GB", *(f"{size} GB" for size in GPUS)],
            (
                [name, f"{need / GB:.1f}", *("yes" if need < 0.9 * size * GB else "no" for size in GPUS)]
                for name, need in modes.items()
            ),
        ),
    ]


def _peak(*compiled: dict[str, Any]) -> float:
    return max(row["temporaries"] + row["output"] for row in compiled)


def _text_parameters(config: model_config.ModelConfig) -> int:
    from mirage_jax.models import umt5

    module = umt5.UMT5Encoder(config.text)
    ids = jax.ShapeDtypeStruct((8,), "int32")
    shapes = jax.eval_shape(module.init, jax.random.key(0), ids, jax.ShapeDtypeStruct((8,), bool))
    return sum(x.size for x in jax.tree.leaves(shapes))


def _devices(spec: Mapping[str, Any]) -> int:
    return math.prod(spec["mesh"].values())


def _title(spec: Mapping[str, Any]) -> str:
    name = {"denoise": "denoising step", "train": "train step", "decode": "VAE decode"}[spec["program"]]
    if spec.get("batch", 1) > 1:
        name += f", batch {spec['batch']}"
    return (
        name
        + (", 8-bit weights" if spec.get("int8") else "")
        + (f" of a segment, tiles of {spec['tile']}" if "tile" in spec else "")
    )


def _name(spec: Mapping[str, Any]) -> str:
    return f"{_title(spec)} on {_devices(spec)} x {spec.get('topology', 'cpu')}"
