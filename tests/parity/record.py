"""What parity tests share: the error they report, and the row they leave in the report.

Rows travel with the reports of pytest (`conftest.py`), so that they survive its parallel workers and none outlives its
run; `report.py` gathers them.
"""

from __future__ import annotations

import math

import numpy as np

rows: list[dict] = []
"""Rows of the test that is running; emptied by `conftest.py`."""


def record(what: str, oracle: str, error: float, bound: float = 1e-4, section: str = "fp32") -> None:
    """Leaves a row in the report and asserts that the error is within its bound; NaN is not.

    Args:
      what: the part of this project and what of it was compared.
      oracle: the public implementation it was compared with.
      error: measured, relative unless `what` says otherwise.
      bound: the largest error that passes.
      section: of the report: 'fp32', the claim of parity, or 'bf16'.
    """
    error = float(error)
    ok = error <= bound
    shown = error if math.isfinite(error) else None
    rows.append({"what": what, "oracle": oracle, "error": shown, "bound": bound, "ok": ok, "section": section})
    assert ok, f"{what}: error {error:.3g} against {oracle}, bound {bound:.3g}"


def relative_error(found, expected) -> float:
    """`|found - expected| / |expected|` in L2 over all entries, in float64; shapes must agree."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, f"shapes {found.shape} and {expected.shape}"
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
