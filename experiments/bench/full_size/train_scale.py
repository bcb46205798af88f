"""Benchmark suite `train_scale`: the full-size train step on 8, 32 and 256 devices, compiled and never run.

The step is that of stage 1 (side branch trained, DiT frozen in bfloat16, everything rematerialised, global batch 64),
memory and example built on the way. It is compiled with two and with four DiT blocks for TPUs that are described and
not there (package libtpu), so that what is exchanged is counted in the types that run; every figure for all blocks
follows in a straight line, since blocks are alike. Rows in the record of an earlier run are kept. The memory of a step
with all blocks is in the rows of suite `compile`.
"""

from __future__ import annotations

import math
import pathlib
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import jax

from experiments.bench import records
from experiments.bench.full_size import programs
from experiments.bench.full_size.collectives import Collective
from mirage_jax.errors import UserError
from mirage_jax.models import config as model_config

OPTIONS = ("out", "most")
"""What the command hands to `measure`."""

MODEL, BATCH = "wan22_ti2v_5b", 64
MESHES = {
    8: ({"fsdp": 8}, 8),
    32: ({"data": 4, "fsdp": 8}, 2),
    256: ({"data": 8, "sequence": 4, "fsdp": 8}, 1),
}
"""Mesh and accumulation by number of devices: one clip at a time on each device, at 256 on four of them together.

The last axis lies within a node: gathering weights moves more than trading heads for tokens.
"""
TOPOLOGIES = {8: "v5p:2x2x2", 32: "v5p:2x4x4", 256: "v5p:4x8x8"}
"""TPUs whose compiler lays out the exchanges."""
LAYERS = (2, 4)
"""Few enough for `blocks` to write them out, so that every exchange of a block stands in the program."""
NODE = 8
"""Neighbouring devices that share the fast links of a GPU node."""

CHIPS = {
    "H100, NVLink and InfiniBand": (989e12, 450e9, 50e9),
    "TPU v5p": (459e12, 200e9, 200e9),
    "TPU v6e": (918e12, 224e9, 224e9),
}
"""By chip: peak FLOP/s in bfloat16, bytes/s one device sends within and between nodes.

Data sheets: NVLink 4 is 900 GB/s both ways together, an NDR adapter per GPU 400 Gb/s; v5p has 4,800 Gb/s over six links
and v6e 3,584 Gb/s over four, of which a ring along one axis of the torus uses two.
"""
SHARE = 0.4
"""Share of the peak that matrix products and attention reach together: an assumption, not a measurement."""


SIZES = ("devices", "mesh", "compiled for", "accumulated parts", "arguments GB", "PFLOP per device")
SENT = ("devices", "collective", "among", "where", "times", "GB")
TIMES = ("chip", "devices", "computing", "exchanging", "step, from", "to", "efficiency")


def rows() -> list[dict[str, Any]]:
    """What is compiled, in order."""
    return [
        {"mesh": mesh, "layers": layers, "batch": BATCH, "accumulate": accumulate, "topology": TOPOLOGIES[devices]}
        for devices, (mesh, accumulate) in MESHES.items()
        for layers in LAYERS
    ]


def measure(out: pathlib.Path, most: int | None = None) -> dict[str, Any]:
    """Compiles the rows that `out/train_scale.json` does not have yet, so many at most, one process at a time."""
    target, about = pathlib.Path(out) / "train_scale.json", {"layers": model_config.PRESETS[MODEL]().dit.layers}
    about |= {"jax": jax.__version__}
    return records.resumed(target, rows(), _compiled, same={"model": MODEL}, about=about, most=most)


def _compiled(spec: Mapping[str, Any]) -> dict[str, Any]:
    found = programs.elsewhere({**spec, "program": "train", "model": MODEL, "exchanges": True})
    if "error" in found:
        raise UserError(f"compiling {spec} failed: {found['error']}")
    return summary({name: found[name] for name in ("arguments", "flops", "collectives", "seconds")})


def summary(compiled: dict[str, Any]) -> dict[str, Any]:
    """What `programs` gives, with the collectives summed by kind, group size, and whether they leave a node."""
    traffic: dict[tuple[str, int, bool], list[float]] = defaultdict(lambda: [0, 0.0])
    for fields in compiled["collectives"]:
        exchange = Collective(**fields)
        leaves = len({member // NODE for member in exchange.members}) > 1
        entry = traffic[exchange.kind, len(exchange.members), leaves]
        entry[0] += exchange.times
        entry[1] += exchange.wire_bytes
    summed = [
        {"kind": kind, "group": group, "between_nodes": leaves, "times": times, "bytes": sent}
        for (kind, group, leaves), (times, sent) in sorted(traffic.items())
    ]
    return {name: value for name, value in compiled.items() if name != "collectives"} | {"traffic": summed}


def whole(record: dict[str, Any], devices: int) -> dict[str, Any] | None:
    """The figures of one mesh for all blocks, on the line through those of two and four; None if they are not there."""
    found = {row["spec"]["layers"]: row for row in record["rows"] if _devices(row["spec"]) == devices}
    if set(found) != set(LAYERS):
        return None
    few, more = (found[layers] for layers in LAYERS)
    blocks = (record["layers"] - LAYERS[0]) / (LAYERS[1] - LAYERS[0])

    def line(a: float, b: float) -> float:
        return a + (b - a) * blocks

    keys = {(x["kind"], x["group"], x["between_nodes"]) for row in (few, more) for x in row["traffic"]}
    traffic = []
    for key in sorted(keys):
        ends = [_traffic(row, key) for row in (few, more)]
        times, sent = (max(0.0, line(ends[0][i], ends[1][i])) for i in range(2))
        traffic.append(
            {**dict(zip(("kind", "group", "between_nodes"), key, strict=True)), "times": times, "bytes": sent}
        )
    sizes = {name: line(few[name], more[name]) for name in ("arguments", "flops")}
    return sizes | {"traffic": traffic, "mesh": few["spec"]["mesh"], "accumulate": few["spec"]["accumulate"]}


def step_time(figures: dict[str, Any], devices: int, chip: str) -> tuple[float, float]:
    """Seconds of computing and of exchanging, by the cost model."""
    peak, inside, between = CHIPS[chip]
    sent = sum(x["bytes"] / (between if x["between_nodes"] else inside) for x in figures["traffic"])
    return figures["flops"] / devices / (peak * SHARE), sent


def markdown(record: dict[str, Any]) -> str:
    """Tables: memory, exchanges, expected time, and what grows too large first."""
    compiled = {devices: figures for devices in MESHES if (figures := whole(record, devices))}
    sizes, sent, times = [], [], []
    for devices, x in compiled.items():
        mesh = " x ".join(f"{axis} {size}" for axis, size in x["mesh"].items())
        numbers = f"{x['arguments'] / 1e9:.1f}", f"{x['flops'] / devices / 1e15:.2f}"
        sizes.append([devices, mesh, TOPOLOGIES[devices], x["accumulate"], *numbers])
        for t in x["traffic"]:
            if t["bytes"] >= 1e6:
                where = "between nodes" if t["between_nodes"] else "within a node"
                sent.append([devices, t["kind"], t["group"], where, f"{t['times']:.0f}", f"{t['bytes'] / 1e9:.3f}"])
    first = min(compiled)
    for chip in CHIPS:
        base = sum(step_time(compiled[first], first, chip)) * first
        for devices, x in compiled.items():
            compute, exchange = step_time(x, devices, chip)
            total = compute + exchange
            numbers = [f"{seconds:.2f}" for seconds in (compute, exchange, max(compute, exchange), total)]
            times.append([chip, devices, *numbers, f"{base / (devices * total):.0%}"])
    lines = [
        f"{record['model']}, stage 1 (side branch trained in float32, DiT frozen in bfloat16, full rematerialisation), "
        f"global batch {BATCH}, clips of {programs.CLIP_LATENTS} latent frames, JAX {record['jax']}.",
        "",
        f"Compiled ahead of time with {LAYERS[0]} and {LAYERS[1]} DiT blocks; figures for {record['layers']} blocks "
        "are on the straight line through the two. Exchanges are those of the TPU program, in the types that run.",
        "",
        *records.table(SIZES, sizes),
        *(f"\nNot compiled yet: {devices} devices." for devices in MESHES if devices not in compiled),
        "",
        f"What one device sends in a step, by ring algorithms; groups within {NODE} neighbours are within a node.",
        "",
        *records.table(SENT, sent),
        "",
        f"Expected seconds of a step. Computing: FLOP / (peak x {SHARE:g}). Exchanging: bytes / link. The step lies "
        "between the larger of the two (all exchanges hidden) and their sum (none hidden). Efficiency is against "
        f"{first} devices, from the sums.",
        "",
        *records.table(TIMES, times),
    ]
    return "\n".join([*lines, "", *_first_to_break(compiled), ""])


def _first_to_break(compiled: dict[int, dict[str, Any]]) -> list[str]:
    """What stands in the way at the largest mesh, by chip, in words and the record's numbers."""
    devices = max(compiled)
    largest = compiled[devices]
    lines = [f"What breaks first on the way to {devices} devices:", ""]
    for chip, (_, inside, between) in CHIPS.items():
        compute, exchange = step_time(largest, devices, chip)
        slowest = max(largest["traffic"], key=lambda x: x["bytes"] / (between if x["between_nodes"] else inside))
        seconds = slowest["bytes"] / (between if slowest["between_nodes"] else inside)
        what = f"{slowest['kind']} among {slowest['group']} devices ({slowest['bytes'] / 1e9:.1f} GB, {seconds:.2f} s)"
        verdict = "more than" if exchange > compute else "less than"
        lines.append(
            f"- {chip}: exchanging takes {verdict} computing ({exchange:.2f} s and {compute:.2f} s); most of it {what}."
        )
    lines += [
        f"- The batch: {BATCH} clips are {BATCH} shares of `data` x `fsdp`; beyond that only `sequence` and `tensor` "
        "grow, whose exchanges are in every block and cannot be put off.",
    ]
    return lines


def _traffic(row: dict[str, Any], key: tuple[str, int, bool]) -> tuple[float, float]:
    for x in row["traffic"]:
        if (x["kind"], x["group"], x["between_nodes"]) == key:
            return x["times"], x["bytes"]
    return 0.0, 0.0


def _devices(spec: dict[str, Any]) -> int:
    return math.prod(spec["mesh"].values())
