"""Random access to the clips of a data set on disk."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any, SupportsIndex

import tensorflow_datasets as tfds

from mirage_jax.data.clip import OBJECT_FIELDS, PosedClip, unpacked
from mirage_jax.data.joined import Joined
from mirage_jax.errors import UserError

FIELDS = ("frames", "depth", "intrinsics", "cam2world", "dynamic", "valid", "caption", "source")
"""What every data set has; some have `clip.OBJECT_FIELDS` too."""

_STORED = {"valid": "depth"}  # fields that are computed from a stored one
_TEXTS = ("caption", "source")


class Source:
    """Clips of one split: `source[i]` is a dict of the fields asked for (of `OBJECT_FIELDS`, where its part has them).

    Arrays are those of `PosedClip` (and its `valid`); `caption` and `source` are str. Only what is asked for is
    decompressed. Pickles as its folders, so that worker processes open the files themselves.
    """

    def __init__(self, parts: Sequence[pathlib.Path], split: str, fields: Sequence[str] = FIELDS):
        """Args: TFDS folders of the parts, in order; the split's name; the fields to read."""
        self._parts, self._split, self.fields = tuple(parts), split, tuple(fields)
        stored = {_STORED.get(name, name) for name in fields}
        records, self._features, self._widths = [], [], []
        for part in self._parts:
            builder = tfds.builder_from_directory(str(part))
            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            records.append(builder.as_data_source(split, deserialize_method=raw))
            known = builder.info.features
            # tfds.decode.PartialDecoding would do this, but imports TensorFlow.
            self._features.append(
                tfds.features.FeaturesDict({n: known[n] for n in stored if n in known or n not in OBJECT_FIELDS})
            )
            self._widths.append(builder.info.features["frames"].shape[2])
        self._records = Joined(records)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        part, _ = self._records.locate(index)
        stored = self._features[part].deserialize_example_np(self._records[index])
        held = [name for name in self.fields if _STORED.get(name, name) in stored]
        return {
            name: stored[name].decode() if name in _TEXTS else unpacked(name, stored, self._widths[part])
            for name in held
        }

    def clip(self, index: int) -> PosedClip:
        """One clip as a `PosedClip`; needs a source of all fields."""
        values = self[index]
        del values["valid"]
        return PosedClip(**values)

    def __repr__(self) -> str:
        return f"Source({len(self)} clips, split={self._split!r}, fields={self.fields})"  # Grain prints it on resume

    def __reduce__(self):
        return Source, (self._parts, self._split, self.fields)


def load_source(path: str | pathlib.Path, split: str, fields: Sequence[str] | None = None) -> Source:
    """Opens all parts of one split of a data set.

    Args:
      path: the folder given to `build_dataset --out`.
      split: train, validation or test.
      fields: what to read, of `FIELDS` and `clip.OBJECT_FIELDS`; everything if None.

    Raises:
      UserError: if there is no such split there, or a field is unknown.
    """
    known = (*FIELDS, *OBJECT_FIELDS)
    fields = known if fields is None else tuple(fields)
    if unknown := set(fields) - set(known):
        raise UserError(f"unknown fields {sorted(unknown)}, expected some of {', '.join(known)}")
    parts = sorted(file.parent for file in pathlib.Path(path).glob(f"{split}/part-*/*/*/*/dataset_info.json"))
    if not parts:
        raise UserError(
            f"no data of split {split!r} in {path}; build it with: python -m experiments.build_dataset "
            f"--dataset doom --out {path} --split {split} (or --dataset posed for videos of your own)"
        )
    return Source(parts, split, fields)
