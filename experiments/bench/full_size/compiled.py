"""Benchmark suite `compile`: what memory the full-size programs need on each device, without weights or accelerators.

Every row is one program compiled ahead of time in a process of its own, for TPUs that are described and not there: by
the compiler that would run there (package libtpu), which refuses what does not fit. Rows found in the record of an
earlier run are kept, so a run that was stopped goes on.

A GPU has no compiler here. Its need is stated from the weights, which are the same everywhere, and the temporaries of
the TPU programs, whose attention is tiled as cuDNN's is.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from experiments.bench import records
from experiments.bench.full_size import programs, train_scale
from experiments.shared import loading
from mirage_jax.models import config as model_config

OPTIONS = ("out", "most")
"""What the command hands to `measure`."""

MODEL = "wan22_ti2v_5b"
CHIPS = {
    "v5p": (95, {1: "2x2x1", 8: "2x2x2", 32: "2x4x4", 256: "4x8x8"}),
    "v6e": (32, {1: "1x1", 8: "2x4", 32: "4x8", 256: "16x16"}),
}
"""TPUs: GB of a chip, and by number of chips a topology that there is (of the smallest v5p, one of its four chips)."""
GPUS = (24, 48, 80, 141)
"""GB of the GPUs for which a statement is made."""
SHARES = {0.75: "75 %", 0.92: "92 %"}
"""Of a GPU's memory, what JAX takes unless it is told otherwise, and what `launch/with_flags.sh` tells it."""
TILE = loading.SMALL_TILE
_DECODE = "VAE decode of a segment"
COLUMNS = ("program", "devices", "mesh", "compiled for", "arguments", "temporaries", "output", "fits")
GB = 1e9

MESHES = {1: {"data": 1}, 8: {"tensor": 8}, 32: {"fsdp": 4, "tensor": 8}, 256: {"fsdp": 32, "tensor": 8}}
"""Of a world that is generated, by number of devices; `fsdp` makes as many worlds as it has parts."""

TRAIN_MESHES = {1: ({"data": 1}, 1)} | {
    count: (mesh, train_scale.BATCH // parts) for count, (mesh, parts) in train_scale.MESHES.items()
}
"""Of a train step, and how many clips it takes at once: one on each share of the batch."""


def rows() -> list[dict[str, Any]]:
    """What is compiled, in order. The decoder on one chip alone: on a mesh each has its share of the picture."""
    places = [(count, f"{chip}:{sizes[count]}") for count in MESHES for chip, (_, sizes) in CHIPS.items()]
    alone = [{"mesh": MESHES[1], "topology": place} for count, place in places if count == 1]
    decoded = [{"mesh": MESHES[1], "topology": place} for count, place in places if count == 8]
    trained = [
        {"mesh": TRAIN_MESHES[count][0], "batch": TRAIN_MESHES[count][1], "topology": at} for count, at in places
    ]
    return [
        *({"program": "denoise", "mesh": MESHES[count], "topology": place} for count, place in places),
        *({"program": "denoise", "int8": True, **where} for where in alone),
        *({"program": "decode", **where} for where in decoded),
        *({"program": "decode", "tile": TILE, **where} for where in decoded),
        *({"program": "train", **where} for where in trained),
    ]


def measure(out: pathlib.Path, most: int | None = None, model: str = MODEL) -> dict[str, Any]:
    """Compiles the rows that `out/compile.json` does not have yet, so many at most, one process at a time.

    Raises:
      UserError: if there are some, and no libtpu.
    """
    target, config = pathlib.Path(out) / "compile.json", model_config.PRESETS[model]()
    sizes = json.loads(target.read_text()).get("held", {}) if target.exists() else {}
    for spec in rows():
        if (name := _held_by(spec)) not in sizes:
            sizes[name] = programs.held(spec, config)
    about = {"tokens": programs.tokens(config), "parameters": programs.counts(config), "jax": jax.__version__}
    about |= {"held": sizes}

    def compiled(spec: Mapping[str, Any]) -> dict[str, Any]:
        print(f"compiling {_place(spec)}", flush=True)
        return programs.elsewhere({**spec, "model": model})

    return records.resumed(target, rows(), compiled, same={"model": model}, about=about, most=most)


def markdown(record: dict[str, Any]) -> str:
    """The record as tables: counts, bytes by program, what fits."""
    found = {_key(row["spec"]): row for row in record["rows"]}
    lines = []
    for spec in [*rows(), *(row["spec"] for row in record["rows"] if row["spec"] not in rows())]:
        mesh = " x ".join(f"{axis} {size}" for axis, size in spec["mesh"].items() if size > 1) or "one device"
        row = found.get(_key(spec))
        if row is None:
            numbers = [f"{record['held'][_held_by(spec)] / GB:.2f}", "", "", "not compiled"]
        elif "error" in row:
            numbers = ["", "", "", f"did not compile: {row['error']}"]
        elif row["fits"] is False:
            numbers = ["", "", "", f"no: {row['compiler']}"]
        else:
            sizes = (f"{row[name] / GB:.2f}" for name in ("arguments", "temporaries", "output"))
            numbers = [*sizes, "yes"]
        lines.append([_title(spec), _devices(spec), mesh, spec["topology"], *numbers])
    parameters = ", ".join(f"{name} {count:,}" for name, count in record["parameters"].items())
    text = [
        f"{record['model']}, {record['tokens']:,} tokens a segment, JAX {record['jax']}. Parameters: {parameters}.",
        "",
        "GB per device as the compiler reports them: arguments are weights, state and inputs; temporaries are what a "
        "program needs beside them; output is what it adds to donated arguments. Of a program that is not compiled "
        "yet, arguments are the sum of their shapes (of the VAE with its encoder).",
        "",
        *records.table(COLUMNS, lines),
    ]
    return "\n".join([*text, "", *fits(record), ""])


def fits(record: dict[str, Any]) -> list[str]:
    """What fits a GPU of each size, by sums of those figures for v5p that the record has, as lines of markdown."""
    rows = [row for row in record["rows"] if row.get("arguments") and row["spec"]["topology"].startswith("v5p")]
    found = {(_title(row["spec"]), _devices(row["spec"])): row for row in rows}
    denoise, small, train, tiled = "denoising step", "denoising step, 8-bit weights", "train step", f"{_DECODE}, tiles"
    tiled += f" of {TILE}"
    modes = {
        "generate, as it comes": ((denoise, 1), (_DECODE, 1)),
        f"... with `--vae_tile={TILE}`": ((denoise, 1), (tiled, 1)),
        "... and `--weights=int8`": ((small, 1), (tiled, 1)),
        f"generate on 8, `--mesh=tensor=8 --vae_tile={TILE}`": ((denoise, 8), (tiled, 1)),
        "train step of the side branch, batch 1": ((train, 1),),
        "... on 8, `fsdp` 8, batch 8": ((train, 8),),
    }
    needs = {}
    for name, parts in modes.items():
        if all(part in found for part in parts):
            programs_of = [found[part] for part in parts]
            vae = record["parameters"]["vae"] * 4 if len(parts) > 1 else 0  # beside the weights of the generator
            peak = max(row["temporaries"] + row["output"] for row in programs_of)
            needs[name] = programs_of[0]["arguments"] + vae + peak
    if not needs:
        return []
    sizes = [(size, share) for size in GPUS for share in SHARES]
    return [
        "Sums for a GPU in GB, and whether it has them: JAX takes 75 % of a GPU's memory, and 92 % under "
        "`launch/with_flags.sh`. Resident are the weights of generator (bfloat16 or 8 bits) and VAE (float32); the "
        "peak is the larger of one denoising step and the decoding of a segment. The text encoder is gone by then.",
        "",
        *records.table(
            ["", "GB", *(f"{size} GB, {SHARES[share]}" for size, share in sizes)],
            (
                [name, f"{need / GB:.1f}", *("yes" if need < share * size * GB else "no" for size, share in sizes)]
                for name, need in needs.items()
            ),
        ),
    ]


def _key(spec: Mapping[str, Any]) -> str:
    return json.dumps(spec, sort_keys=True)


def _held_by(spec: Mapping[str, Any]) -> str:
    """Of a row, what its arguments depend on: all but the chip."""
    return _key({name: value for name, value in spec.items() if name not in ("topology", "tile")})


def _devices(spec: Mapping[str, Any]) -> int:
    return math.prod(spec["mesh"].values())


def _title(spec: Mapping[str, Any]) -> str:
    name = {"denoise": "denoising step", "train": "train step", "decode": _DECODE}[spec["program"]]
    return name + (", 8-bit weights" if spec.get("int8") else "") + (f", tiles of {TILE}" if "tile" in spec else "")


def _place(spec: Mapping[str, Any]) -> str:
    return f"{_title(spec)} for {_devices(spec)} of {spec['topology']}"
