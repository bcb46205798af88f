"""States of worlds as plain arrays, kept in memory up to a limit and on disk beyond it.

A state is mostly room that is still empty: rows of noughts at the end of an array are left out. What comes back has
the same bits.
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.explorer.engine import Seen
from mirage_jax import io

Key = tuple[str, int]
"""Session and moment."""

_BESIDE = ("frames", "kind", "age")  # beside the leaves of a state, whose names begin with a dot or bracket


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A state, and the frames that led to it.

    Attributes:
      frames, kind, age: as in `engine.Seen`.
      leaves: arrays by path, without the noughts at their ends.
    """

    frames: np.ndarray
    kind: np.ndarray
    age: np.ndarray
    leaves: dict[str, np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in (self.frames, self.kind, self.age, *self.leaves.values()))


def pack(state: Any, seen: Seen) -> Snapshot:
    """A snapshot of a pytree of arrays and random keys, and of what was seen on the way to it."""
    found = jax.tree_util.tree_flatten_with_path(state)[0]
    leaves = {jax.tree_util.keystr(path): _trimmed(np.asarray(_data(leaf))) for path, leaf in found}
    return Snapshot(seen.frames, seen.kind, seen.age, leaves)


def unpack(snapshot: Snapshot, like: Any) -> Any:
    """The state.

    Args:
      snapshot: of it.
      like: a state of the same shapes, or a tree of `jax.ShapeDtypeStruct`; numpy arrays where it has such.
    """

    def whole(path: Any, leaf: Any) -> Any:
        shape, dtype = _data_shape(leaf)
        stored = snapshot.leaves[jax.tree_util.keystr(path)]
        value = np.zeros(shape, dtype)
        if shape:
            value[: len(stored)] = stored
        else:
            value[...] = stored
        if isinstance(leaf, np.ndarray):
            return value
        return jax.random.wrap_key_data(jnp.asarray(value)) if _is_key(leaf) else jnp.asarray(value)

    return jax.tree_util.tree_map_with_path(whole, like)


def write(path: pathlib.Path, snapshot: Snapshot) -> None:
    """Writes a snapshot as `.npz`, atomically."""
    with io.atomic_path(path) as temporary:
        np.savez(temporary, **snapshot.leaves, **{name: getattr(snapshot, name) for name in _BESIDE})


def read(path: pathlib.Path) -> Snapshot:
    """Reads what `write` wrote. Raises `UserError` if it is damaged."""
    with io.foreign(path, "a moment of a session"), np.load(path, allow_pickle=False) as stored:
        leaves = {name: stored[name] for name in stored.files if name not in _BESIDE}
        return Snapshot(*(stored[name] for name in _BESIDE), leaves)


class Store:
    """Snapshots of all sessions: the latest used in memory, the others on disk, the oldest there forgotten at last.

    Only the thread of the worlds uses it.
    """

    def __init__(self, folder: pathlib.Path, memory: int, disk: int):
        """Keeps at most so many bytes in memory, and so many in `folder`."""
        self._folder, self._memory, self._disk = folder, memory, disk
        self._held: collections.OrderedDict[Key, Snapshot] = collections.OrderedDict()
        self._files: collections.OrderedDict[Key, int] = collections.OrderedDict()
        self._pinned: set[Key] = set()
        self.held_bytes, self.file_bytes = 0, 0

    def put(self, key: Key, snapshot: Snapshot) -> None:
        """Keeps a snapshot."""
        self._held[key] = snapshot
        self.held_bytes += snapshot.nbytes
        while self.held_bytes > self._memory and len(self._held) > 1:
            oldest = next(iter(self._held))
            self._spill(oldest)
            self.held_bytes -= self._held.pop(oldest).nbytes

    def pin(self, key: Key) -> None:
        """Never forgets this one: nothing comes before it from which it could be made again."""
        self._pinned.add(key)

    def get(self, key: Key) -> Snapshot | None:
        """A snapshot, or None if it was forgotten."""
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        if key not in self._files:
            return None
        snapshot = read(self.path(key))
        self.put(key, snapshot)
        return snapshot

    def flush(self, session: str) -> None:
        """Writes all of a session that is in memory only."""
        for key in [key for key in self._held if key[0] == session]:
            self._spill(key)

    def release(self, session: str) -> None:
        """Lets go of what is in memory of a session; what is on disk stays."""
        for key in [key for key in self._held if key[0] == session]:
            self.held_bytes -= self._held.pop(key).nbytes

    def adopt(self, session: str) -> None:
        """Finds what an earlier run left on disk of a session."""
        for path in self.path((session, 0)).parent.glob("*.npz"):
            if path.stem.isdigit():
                self._add_file((session, int(path.stem)), path.stat().st_size)

    def remove(self, session: str) -> None:
        """Forgets a session altogether."""
        self.release(session)
        for key in [key for key in self._files if key[0] == session]:
            self.file_bytes -= self._files.pop(key)
        shutil.rmtree(self.path((session, 0)).parent, ignore_errors=True)

    def path(self, key: Key) -> pathlib.Path:
        """The file of a snapshot."""
        return self._folder / key[0] / f"{key[1]}.npz"

    def _spill(self, key: Key) -> None:
        if key in self._files:
            return
        path = self.path(key)
        write(path, self._held[key])
        self._add_file(key, path.stat().st_size)

    def _add_file(self, key: Key, size: int) -> None:
        self._files[key] = size
        self.file_bytes += size
        if self.file_bytes > self._disk:  # what is forgotten is made again from the moment before it when it is needed
            for old in [key for key in self._files if key[1] % _KEPT and key not in self._pinned]:
                self.path(old).unlink(missing_ok=True)
                self.file_bytes -= self._files.pop(old)
                if self.file_bytes <= self._disk:
                    break


_KEPT = 16  # every so many moments stay, so that none is far from one


def _trimmed(array: np.ndarray) -> np.ndarray:
    """A copy without the rows of noughts at its end, bit for bit."""
    if array.ndim == 0 or len(array) < 64:
        return array.copy()
    rows = array.reshape(len(array), -1)
    bits = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    used = np.flatnonzero(bits.any(axis=1))
    return array[: used[-1] + 1 if used.size else 0].copy()


def _is_key(leaf: Any) -> bool:
    return not isinstance(leaf, np.ndarray) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _data_shape(leaf: Any) -> tuple[tuple[int, ...], Any]:
    if not _is_key(leaf):
        return leaf.shape, leaf.dtype
    data = jax.eval_shape(jax.random.key_data, leaf)
    return data.shape, data.dtype
