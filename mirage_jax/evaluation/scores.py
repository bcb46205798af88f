"""What a protocol says of one video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Scores(NamedTuple):
    """What a protocol says of one video.

    Attributes:
      values: metric -> number.
      curves: name -> `[T]` or `[n]`, for plots; NaN where there is nothing to compare.
    """

    values: dict[str, float]
    curves: dict[str, np.ndarray]


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers of a nested mapping under joined names; what is None or not finite is left out."""
    values: dict[str, float] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{name}_")
        elif value is not None and np.isfinite(value):
            values[f"{prefix}{name}"] = float(value)
    return values
