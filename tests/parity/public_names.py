"""Whole trees of parameters in public names: the way back, which the product goes tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from mirage_jax.weights import layout


def params_to_public(params: Mapping[str, Any], table: layout.Layout) -> dict[str, np.ndarray]:
    """Public arrays by name from parameters `{part: ..}`; the inverse of `layout.params_from_public`."""
    tensors = {}
    for path, array in traverse_util.flatten_dict(params, sep="/").items():
        name, storage = layout.to_theirs(path, table)
        tensors[name] = layout.to_public(np.asarray(array), storage)
    return tensors
