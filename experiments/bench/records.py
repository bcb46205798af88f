"""What benchmarks write: records that a stopped run goes on with, and tables."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import tqdm

from experiments.evaluation.statistics import Interval
from mirage_jax.errors import UserError
from mirage_jax.io import write_json


def resumed(
    target: pathlib.Path,
    specs: Iterable[Mapping[str, Any]],
    make: Callable[[Mapping[str, Any]], dict[str, Any]],
    *,
    same: Mapping[str, Any],
    about: Mapping[str, Any] | None = None,
    most: int | None = None,
) -> dict[str, Any]:
    """A record with a row for every spec; rows that the file has are kept, and each new one is written at once.

    Args:
      target: its file.
      specs: what the rows are of, as JSON has it.
      make: gives a row without its `spec`.
      same: name -> what an earlier record must say too, if it says it.
      about: name -> what is said anew.
      most: how many rows to make at most, the first that are missing; None for all.

    Raises:
      UserError: if the earlier record is of something else.
    """
    record = json.loads(target.read_text()) if target.exists() else {"rows": []}
    for name, value in same.items():
        if record.get(name, value) != value:
            raise UserError(f"{target}: rows are of {name} {record[name]!r}, now it is {value!r}; give another --out")
    record |= {**same, **(about or {})}
    done = [row["spec"] for row in record["rows"]]
    left = [spec for spec in specs if spec not in done][:most]
    for spec in tqdm.tqdm(left, unit="row", dynamic_ncols=True):
        record["rows"].append({"spec": spec, **make(spec)})
        write_json(target, record)
    return record


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    return [*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)]


def interval(found: Interval, digits: int, *, signed: bool = False) -> str:
    """A mean or median and its interval as text, with a plus sign where they are `signed`."""
    sign = "+" if signed else ""
    return f"{found.mean:{sign}.{digits}f} [{found.low:{sign}.{digits}f}, {found.high:{sign}.{digits}f}]"
