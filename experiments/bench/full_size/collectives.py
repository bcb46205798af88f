"""Collectives of a compiled program, read from its optimised HLO text: what is exchanged, how often, among whom."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_BITS = {"pred": 8, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "f16": 16, "bf16": 16, "s32": 32, "u32": 32, "f32": 32}
_BITS |= {"s64": 64, "u64": 64, "f64": 64, "c64": 64, "f8e4m3fn": 8, "f8e5m2": 8}
_INSTRUCTION = re.compile(rf" = (.+?) ({'|'.join(KINDS)})(-start)?\(")
_CALLED = re.compile(r"(?:to_apply|calls|body|condition|branch_computations)=\{?([^,}\s]+(?:, ?%[^,}\s]+)*)\}?")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, ?device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_PAIRS = re.compile(r"source_target_pairs=\{(.*?\})\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One instruction of the program that every device runs.

    Attributes:
      kind: one of `KINDS`.
      result_bytes: of what it gives one device.
      members: the devices that exchange with device 0's group, in order.
      times: how often a run of the program executes it.
    """

    kind: str
    result_bytes: int
    members: tuple[int, ...]
    times: int

    @property
    def wire_bytes(self) -> float:
        """Bytes that one device sends in all its executions, by the ring algorithms."""
        size = len(self.members)
        factor = {
            "all-gather": (size - 1) / size,
            "all-reduce": 2 * (size - 1) / size,
            "reduce-scatter": size - 1,
            "all-to-all": (size - 1) / size,
            "collective-permute": 1,
        }[self.kind]
        return self.times * self.result_bytes * factor


def of_program(text: str, unknown_trips: int | None = None) -> list[Collective]:
    """Every collective of an optimised HLO module, those in loops with the number of iterations.

    Args:
      text: of the module.
      unknown_trips: iterations to take for a loop whose number depends on data.

    Raises:
      ValueError: if a collective is in such a loop and `unknown_trips` is None.
    """
    computations = _computations(text)
    entry = next(name for name, (is_entry, _) in computations.items() if is_entry)
    return list(_walk(computations, entry, 1, unknown_trips))


def _computations(text: str) -> dict[str, tuple[bool, list[str]]]:
    found: dict[str, tuple[bool, list[str]]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if head and not line.startswith(" "):
            lines = []
            found[head.group(2)] = (head.group(1) is not None, lines)
        elif line.startswith(" "):
            lines.append(line)
    return found


def _walk(
    computations: dict[str, tuple[bool, list[str]]], name: str, times: int, unknown: int | None
) -> Iterator[Collective]:
    for line in computations[name][1]:
        match = _INSTRUCTION.search(line)
        if match:
            shape, kind, start = match.groups()
            members = _members(line)
            if times and len(members) > 1:
                yield Collective(kind, _result_bytes(shape, kind, start is not None), members, times)
        stated = _TRIPS.search(line)
        trips = int(stated.group(1)) if stated else (unknown or 1) if " while(" in line else 1
        for called in _CALLED.findall(line):
            for inner in called.replace("%", "").split(","):
                if inner.strip() not in computations:
                    continue
                below = list(_walk(computations, inner.strip(), times * trips, unknown))
                if below and " while(" in line and not stated and unknown is None:
                    raise ValueError(f"{below[0].kind} in a loop of unknown length: {line.strip()[:120]}")
                yield from below


def _result_bytes(shape: str, kind: str, started: bool) -> int:
    sizes = [
        _BITS[kind_of] // 8 * math.prod(int(n) for n in dims.split(",") if n)
        for kind_of, dims in re.findall(r"(\w+)\[([\d,]*)\]", shape)
        if kind_of in _BITS
    ]
    # The tuple of an asynchronous start holds operands and results.
    if started and kind != "all-reduce" and len(sizes) > 1:
        sizes = sizes[len(sizes) // 2 :]
    return sum(sizes)


def _members(line: str) -> tuple[int, ...]:
    iota, mesh, listed, pairs = (pattern.search(line) for pattern in (_IOTA, _MESH, _LISTED, _PAIRS))
    if iota:
        shape, dims, order = (_numbers(part) for part in iota.groups())
        return tuple(int(i) for i in _ids(dims, order).reshape(shape)[0])
    if mesh:
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh.group(1))}
        dims, order = _numbers(mesh.group(2)) or tuple(sizes.values()), _numbers(mesh.group(3))
        return _along(_ids(dims, order).reshape(tuple(sizes.values())), list(sizes), mesh.group(4))
    if listed:
        return tuple(int(i) for i in listed.group(1).split(","))
    if pairs:  # the pair that spans most devices stands for all
        spans = [tuple(int(i) for i in pair.split(",")) for pair in re.findall(r"\{([\d,]+)", "{" + pairs.group(1))]
        return max(spans, key=lambda pair: abs(pair[0] - pair[1]))
    return ()


def _along(ids: np.ndarray, names: list[str], axes: str) -> tuple[int, ...]:
    """Device 0's group: `'a','b':(2)4` goes along axis a and, of axis b, the middle part of 2 x 4 x rest."""
    picked = ids
    for name in names:
        part = re.search(rf"'{name}'(?::\((\d+)\)(\d+))?", axes)
        if part is None:
            picked = picked[:1]
        elif part.group(1):
            before, size = int(part.group(1)), int(part.group(2))
            picked = picked.reshape(before, size, -1, *picked.shape[1:])[0, :, 0]
        picked = np.moveaxis(picked, 0, -1)
    return tuple(int(i) for i in picked.reshape(-1))


def _ids(dims: tuple[int, ...] | None, order: tuple[int, ...] | None) -> np.ndarray:
    ids = np.arange(math.prod(dims or ())).reshape(dims or ())
    return ids if order is None else ids.transpose(order)


def _numbers(text: str | None) -> tuple[int, ...] | None:
    return tuple(int(n) for n in text.split(",")) if text else None
