"""The `doom` data set as a TFDS builder that writes ArrayRecord and never loads TensorFlow.

A data set on disk is a folder of splits, each a folder of parts; a part is one TFDS
data set with its report. Parts can be added at any time.

    data/doom/train/part-0000/doom/1.0.0/...      records of one build
    data/doom/train/part-0000/report.json         what was built, rejected, with which versions
"""

from __future__ import annotations

import collections
import dataclasses
import importlib.metadata
import pathlib
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from mirage_jax.data import verify
from mirage_jax.data.clip import PosedClip
from mirage_jax.data.doom import batch, paths
from mirage_jax.errors import UserError
from mirage_jax.io import write_json

LICENCE = (
    "Frames are rendered from Freedoom (https://freedoom.github.io), copyright the Freedoom contributors, under the "
    "3-clause BSD licence; the engine is ViZDoom (MIT)."
)
_VERSIONS = ("vizdoom", "tensorflow-datasets", "array-record", "numpy", "pillow")
_CONFIG_FIELDS = ("split", "clips", "frames", "size", "seed", "kinds", "workers")
_UNUSABLE_SHARE = 0.1  # a build that loses more of its clips than this fails


@dataclasses.dataclass
class DoomConfig(tfds.core.BuilderConfig):
    """What to render."""

    split: str = "train"
    clips: int = 1
    frames: int = 65
    size: int = 128
    seed: int = 0
    kinds: tuple[str, ...] = paths.KINDS
    workers: int = 1


def features(frames: int, height: int, width: int) -> tfds.features.FeaturesDict:
    """How a `PosedClip` is stored. Depth keeps 11 bits (float16), the mask one bit a pixel."""

    def packed(shape: tuple[int, ...], dtype: Any) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="zlib")

    return tfds.features.FeaturesDict(
        {
            "frames": packed((frames, height, width, 3), np.uint8),
            "depth": packed((frames, height, width), np.float16),
            "dynamic": packed((frames, height, (width + 7) // 8), np.uint8),
            "intrinsics": tfds.features.Tensor(shape=(frames, 3, 3), dtype=np.float32),
            "cam2world": tfds.features.Tensor(shape=(frames, 4, 4), dtype=np.float32),
            "caption": tfds.features.Text(),
            "source": tfds.features.Text(),
        }
    )


def encode(clip: PosedClip) -> dict[str, Any]:
    """A clip as the values that `features` stores."""
    return {
        "frames": clip.frames,
        "depth": clip.depth.astype(np.float16),
        "dynamic": np.packbits(clip.dynamic, axis=-1),
        "intrinsics": clip.intrinsics,
        "cam2world": clip.cam2world,
        "caption": clip.caption,
        "source": clip.source,
    }


class Doom(tfds.core.GeneratorBasedBuilder):
    """Posed video of Freedoom maps with exact depth, one split a build."""

    VERSION = tfds.core.Version("1.0.0")
    name = "doom"
    url_infos: ClassVar[dict] = {}  # nothing is downloaded; TFDS would look for a checksum file with a package we lack

    def __init__(self, config: DoomConfig, *, data_dir: str, on_clip: Callable[[batch.Rendered], None]):
        """Args: what to render, where to write, and what to call with the outcome of each clip."""
        self._on_clip = on_clip
        super().__init__(config=config, data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        return tfds.core.DatasetInfo(
            builder=self,
            description="Posed video of Freedoom maps with exact depth.",
            features=features(config.frames, config.size, config.size),
            license=LICENCE,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterable]:
        del dl_manager
        return {self.builder_config.split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        config = self.builder_config
        listed = batch.jobs(
            config.split,
            config.clips,
            seed=config.seed,
            frames=config.frames,
            size=config.size,
            kinds=config.kinds,
        )
        for rendered in batch.render_all(listed, workers=config.workers):
            self._on_clip(rendered)
            if rendered.clip is not None:
                yield f"{rendered.job.index:06d}", encode(rendered.clip)


def build_doom(
    out: str | pathlib.Path,
    split: str,
    *,
    clips: int,
    seed: int,
    frames: int = 65,
    size: int = 128,
    kinds: Sequence[str] = paths.KINDS,
    workers: int = 1,
    progress: Callable[[batch.Rendered], None] = lambda rendered: None,
) -> pathlib.Path:
    """Renders one part of one split; the part appears under its name only when it is whole.

    Returns:
      The folder of the part.

    Raises:
      UserError: if the sizes are not usable, the part exists, or too many clips failed.
    """
    if frames < 9 or frames % 4 != 1:
        raise UserError(f"--frames is {frames}, expected 4k + 1 and at least 9 (for example 65)")
    if clips < 1 or workers < 1 or size < 16 or seed < 0:
        raise UserError(f"--clips {clips}, --workers {workers}, --size {size}, --seed {seed}: too small")
    batch.jobs(split, 1, seed=seed, frames=frames, size=size, kinds=kinds)  # what is unknown fails before any writing
    part = pathlib.Path(out) / split / f"part-{seed:04d}"
    if part.exists():
        raise UserError(f"{part} exists already; give another --seed to add a part, or remove it")
    unfinished = part.with_name(f".{part.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a build that was killed
    outcomes: list[batch.Rendered] = []

    def record(rendered: batch.Rendered) -> None:
        outcomes.append(_without_pixels(rendered))
        progress(rendered)

    begin = time.time()
    config = DoomConfig(
        name="freedoom",
        split=split,
        clips=clips,
        frames=frames,
        size=size,
        seed=seed,
        kinds=tuple(kinds),
        workers=workers,
    )
    try:
        Doom(config, data_dir=str(unfinished), on_clip=record).download_and_prepare()
        report = _report(config, outcomes, time.time() - begin)
        if report["clips"]["failed"] > _UNUSABLE_SHARE * clips:
            reasons = ", ".join(f"{count} x {reason}" for reason, count in report["rejected"].items())
            raise UserError(f"{report['clips']['failed']} of {clips} clips failed every try: {reasons}")
        write_json(unfinished / "report.json", report)
        unfinished.rename(part)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return part


def _without_pixels(rendered: batch.Rendered) -> batch.Rendered:
    """The outcome with an empty clip in place of its megabytes: enough for the report."""
    return dataclasses.replace(rendered, clip=None if rendered.clip is None else rendered.clip[:0])


def _report(config: DoomConfig, outcomes: list[batch.Rendered], seconds: float) -> dict[str, Any]:
    """What a build did, as JSON."""
    good = [o for o in outcomes if o.clip is not None]
    rejected = sum((collections.Counter(o.rejected) for o in outcomes), collections.Counter())
    tries = len(good) + rejected.total()
    fields = [field.name for field in dataclasses.fields(DoomConfig)]
    residuals = {
        name: {str(q): round(float(np.percentile([o.residuals[name] for o in good], q)), 6) for q in (50, 90, 100)}
        for name in (good[0].residuals if good else ())
    }
    return {
        "config": {name: getattr(config, name) for name in fields if name in _CONFIG_FIELDS},
        "clips": {
            "written": len(good),
            "failed": len(outcomes) - len(good),
            "tries": tries,
            "by_kind": _count(o.job.kind for o in good),
            "by_map": _count(o.clip.source.split("/")[1] for o in good),
            "with_monsters": sum(o.job.moving for o in good),
        },
        "rejected": dict(rejected.most_common()),
        "rejected_share": round(rejected.total() / max(tries, 1), 4),
        "residual_percentiles": residuals,
        "bounds": dataclasses.asdict(verify.Bounds()),
        "seconds": round(seconds, 1),
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in _VERSIONS},
        "licence": LICENCE,
    }


def _count(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(collections.Counter(values).items()))
