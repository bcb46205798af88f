"""What all readers share: numbers from a file become poses and lenses that are sound, or one clear sentence.

Everything here runs in float64 numpy on the host. `source` names the file in messages.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from mirage_jax.errors import UserError

# Text with three decimals is that far from a rotation; a scale of 1.01 is four times as far.
_ROTATION_TOLERANCE = 5e-3
# Float32 rotations that were multiplied a few times are that far; they keep their bits.
_ROTATION_EXACT = 1e-5
_LARGEST = 1e30  # well inside float32
FIELD_OF_VIEW = (1.0, 170.0)
"""Degrees that a camera may see across an axis."""


def array(source: str, name: str, value: npt.ArrayLike, shape: tuple[int | None, ...]) -> np.ndarray:
    """`value` as finite float64 numbers of the given shape, None standing for any length of at least 1.

    Raises `UserError` for another shape, for what is not a number, and for NaN, infinity and numbers that float32
    cannot hold (naming the frame, where the first axis is of frames).
    """
    wanted = "x".join("T" if n is None else str(n) for n in shape)
    try:
        if isinstance(value, np.ndarray) and value.dtype.kind not in "fiub":
            raise TypeError
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{source}: '{name}' is not an array of numbers; expected {wanted} numbers") from None
    if numbers.ndim != len(shape) or any(
        have < 1 if want is None else have != want for have, want in zip(numbers.shape, shape, strict=True)
    ):
        found = "x".join(map(str, numbers.shape)) or "a single number"
        raise UserError(f"{source}: '{name}' has shape {found}; expected {wanted}")
    bad = ~(np.abs(numbers) < _LARGEST)
    if bad.any():
        frame = f" of frame {np.argwhere(bad)[0][0]}" if shape[:1] == (None,) else ""
        raise UserError(f"{source}: '{name}'{frame} holds NaN, infinity or a number past {_LARGEST:g}; expected others")
    return numbers


def rigid(source: str, name: str, value: npt.ArrayLike) -> np.ndarray:
    """`[T, 4, 4]` float64 rigid transforms from `[T, 4, 4]` or `[T, 3, 4]` numbers.

    Rotations that are off by rounding are replaced by the nearest rotation. Raises `UserError` if a matrix is not
    rigid: NaN, singular, mirrored, scaled, or with a wrong last row.
    """
    rows = 3 if _shape(value)[1:2] == (3,) else 4
    matrices = array(source, name, value, (None, rows, 4))
    bottom = np.broadcast_to([0.0, 0.0, 0.0, 1.0], (len(matrices), 1, 4))
    if rows == 4:
        wrong = np.abs(matrices[:, 3:] - bottom).max(axis=(1, 2)) > 1e-6
        if wrong.any():
            frame = int(np.argmax(wrong))
            found = " ".join(f"{x:g}" for x in matrices[frame, 3])
            raise UserError(f"{source}: the last row of '{name}' of frame {frame} is {found}; expected 0 0 0 1")
    rotations = matrices[:, :3, :3]
    errors = np.abs(rotations.transpose(0, 2, 1) @ rotations - np.eye(3)).max(axis=(1, 2))
    wrong = (errors > _ROTATION_TOLERANCE) | (np.linalg.det(rotations) < 0)
    if wrong.any():
        frame = int(np.argmax(wrong))
        raise UserError(
            f"{source}: the rotation in '{name}' of frame {frame} {_fault(rotations[frame])}; "
            f"expected a rotation matrix, orthonormal with determinant 1"
        )
    left, _, right = np.linalg.svd(rotations)
    rotations = np.where((errors > _ROTATION_EXACT)[:, None, None], left @ right, rotations)
    return np.concatenate([np.concatenate([rotations, matrices[:, :3, 3:]], axis=2), bottom], axis=1)


def inverse(transforms: np.ndarray) -> np.ndarray:
    """Inverse of `[T, 4, 4]` rigid transforms in float64."""
    result = np.tile(np.eye(4), (len(transforms), 1, 1))
    result[:, :3, :3] = transforms[:, :3, :3].transpose(0, 2, 1)
    result[:, :3, 3] = -(result[:, :3, :3] @ transforms[:, :3, 3:])[..., 0]
    return result


def pinhole(fx: npt.ArrayLike, fy: npt.ArrayLike, cx: npt.ArrayLike, cy: npt.ArrayLike) -> np.ndarray:
    """`[..., 3, 3]` intrinsics of focal lengths and principal points `[...]`."""
    fx, fy, cx, cy = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (fx, fy, cx, cy)))
    zero, one = np.zeros_like(fx), np.ones_like(fx)
    rows = [(fx, zero, cx), (zero, fy, cy), (zero, zero, one)]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def rotations(source: str, name: str, quaternions: npt.ArrayLike) -> np.ndarray:
    """`[T, 3, 3]` rotations of quaternions `[T, 4]`, `w x y z`, of about unit length.

    Raises `UserError` naming the frame whose quaternion is not.
    """
    values = array(source, name, quaternions, (None, 4))
    length = np.linalg.norm(values, axis=1)
    wrong = ~((length > 0.5) & (length < 2.0))
    if wrong.any():
        frame = int(np.argmax(wrong))
        raise UserError(
            f"{source}: '{name}' of frame {frame} is a quaternion of length {length[frame]:.3g}; expected 1"
        )
    w, x, y, z = (values / length[:, None]).T
    rows = [
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def lenses(source: str, intrinsics: npt.ArrayLike, sizes: np.ndarray) -> np.ndarray:
    """Checked `[T, 3, 3]` intrinsics, pixels of frames of `sizes` `[T, 2]` (height, width), from these or `[3, 3]`.

    Raises `UserError` if they are not those of a pinhole camera for pictures of this size.
    """
    if np.shape(intrinsics) == (3, 3):
        intrinsics = np.broadcast_to(np.asarray(intrinsics), (len(sizes), 3, 3))
    k = array(source, "intrinsics", intrinsics, (None, 3, 3))
    if len(k) != len(sizes):
        raise UserError(f"{source}: there are {len(k)} intrinsics for {len(sizes)} poses; expected as many")
    for frame, (matrix, (height, width)) in enumerate(zip(k, sizes, strict=True)):
        _check_intrinsics(f"{source}: frame {frame}", matrix, height, width)
    return k


def _shape(value: npt.ArrayLike) -> tuple[int, ...]:
    """The shape of nested lists, () where they are ragged."""
    try:
        return np.shape(value)
    except ValueError:
        return ()


def _fault(rotation: np.ndarray) -> str:
    """What is wrong with a matrix that is not a rotation."""
    scales = np.linalg.svd(rotation, compute_uv=False)
    if scales[2] < 1e-6 * max(scales[0], 1.0):
        return "is singular"
    if np.linalg.det(rotation) < 0:
        return f"is mirrored (determinant {np.linalg.det(rotation):.3g})"
    if scales[0] - scales[2] < 1e-2 * scales[0]:
        return f"is scaled by {scales.mean():.4g}"
    return f"is not orthonormal (its axes are stretched by {scales[0]:.4g}, {scales[1]:.4g} and {scales[2]:.4g})"


def _check_intrinsics(where: str, k: np.ndarray, height: float, width: float) -> None:
    if k[1, 0] != 0 or not np.array_equal(k[2], [0, 0, 1]):
        raise UserError(f"{where} has intrinsics {k.tolist()}; expected [[fx, s, cx], [0, fy, cy], [0, 0, 1]]")
    for axis, focal, centre, extent in (("x", k[0, 0], k[0, 2], width), ("y", k[1, 1], k[1, 2], height)):
        view = 2.0 * math.degrees(math.atan2(extent, 2.0 * focal))
        low, high = FIELD_OF_VIEW
        if not low <= view <= high:
            raise UserError(
                f"{where} has focal length f{axis} = {focal:.4g} pixels, a field of view of {view:.4g} degrees "
                f"over {extent:g} pixels; expected {low:g} to {high:g} degrees (are the intrinsics normalised, or for "
                f"another image size?)"
            )
        if not 0.0 < centre < extent:
            raise UserError(
                f"{where} has its principal point at c{axis} = {centre:.4g} pixels; expected a point inside the image, "
                f"0 to {extent:g} (are the intrinsics for another image size?)"
            )
