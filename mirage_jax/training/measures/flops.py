"""How much a training step computes, and what the devices could: for FLOP/s and the share of peak.

Counted on the traced step, where shapes are those of the whole batch and loops have their lengths; XLA's own cost
analysis counts the body of a loop once and cannot look into the kernels of cuDNN and Pallas.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr

# Dense peak of bfloat16 matrix products per device, FLOP/s, from the vendors' data sheets; the first name that is found
# in the device's kind counts.
_PEAKS = (
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("TPU v6 lite", 918e12),
    ("TPU v6e", 918e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5e", 197e12),
    ("TPU v5", 459e12),
    ("TPU v4", 275e12),
)


def peak(device_kind: str) -> float | None:
    """Peak FLOP/s of one device in bfloat16, or None where it is not known."""
    return next((value for name, value in _PEAKS if name.lower() in device_kind.lower()), None)


@dataclasses.dataclass(frozen=True)
class Flops:
    """FLOPs of one call, matrix products and convolutions alone, a multiply-add as two.

    Attributes:
      model: what the model takes: of it, divided by time and peak, is the model FLOPs utilisation (MFU; PaLM, appendix
        B, counts so).
      hardware: what is computed, with all that rematerialisation computes again (HFU).
    """

    model: float
    hardware: float


def of_jitted(function: Any, *arguments: Any) -> Flops:
    """FLOPs of one call of a `jax.jit` function; of the branches of a condition, the larger one counts."""
    jaxpr = function.trace(*arguments).jaxpr
    return Flops(model=_count(jaxpr, False), hardware=_count(jaxpr, True))


def _count(jaxpr: Jaxpr | ClosedJaxpr, again: bool) -> float:
    """`again`: whether what `jax.checkpoint` computes a second time counts; JAX names the scope of it."""
    inner = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    counted = (e for e in inner.eqns if again or "rematted_computation" not in str(e.source_info.name_stack))
    return sum(_of_equation(equation, again) for equation in counted)


def _of_equation(equation: Any, again: bool) -> float:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2.0 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, spec = equation.invars[1].aval, parameters["dimension_numbers"].rhs_spec
        # spec[0] is the axis of output channels: every other entry of the kernel takes part in each output.
        return 2.0 * equation.outvars[0].aval.size * kernel.size / kernel.shape[spec[0]]
    if name.startswith("dot_product_attention"):
        return _attention(name, equation)
    if name == "cond":
        return max(_count(branch, again) for branch in parameters["branches"])
    times = parameters["length"] if name == "scan" else 1
    if name == "pallas_call":
        times = math.prod(size for size in parameters["grid_mapping"].grid if isinstance(size, int))
    if name == "shard_map":
        times = parameters["mesh"].size
    inner = (value for value in parameters.values() if isinstance(value, Jaxpr | ClosedJaxpr))
    return times * sum(_count(value, again) for value in inner)


def _attention(name: str, equation: Any) -> float:
    """cuDNN's attention: two products forward, five backward; query, key `[batch, length, heads, size]`."""
    query, key = (variable.aval.shape for variable in equation.invars[:2])
    product = 2.0 * math.prod(query) * key[-3]
    return product * (5 if "bwd" in name else 2)
