"""The `posed` data set: clips cut from the scenes that a person has, of whatever format `scenes` opens.

Pictures are scaled to cover the size of the data set and cut evenly, intrinsics with them. Clips are windows of frames,
each `stride` after the one before, that do not overlap. Depth is 0 where it is not known; where it is, it must
explain the pictures. Lengths stay in the units of the scene: metres for ViPE, arbitrary for COLMAP.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps

from experiments.posed_video import scenes
from experiments.posed_video.scenes import PosedVideo, Scene
from experiments.worlds import builder, verify
from mirage_jax import io
from mirage_jax.data.clip import PosedClip, check, load, save
from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera, crop

SPLITS = ("train", "validation")
BOUNDS = verify.Bounds(photometric=0.15, depth=0.02, contradiction=0.3, overlap=0.2)
"""What depth from real pictures must reach: estimated depth, light that changes, and rolling shutters pass."""

_LICENCE = "That of the scenes that the clips were cut from."
_LEAST = 16  # pixels a side


@dataclasses.dataclass
class _Tally:
    """What became of scenes and clips, for the report."""

    written: int = 0
    with_depth: int = 0
    scenes: dict[str, int] = dataclasses.field(default_factory=dict)  # clips by scene
    formats: collections.Counter = dataclasses.field(default_factory=collections.Counter)  # scenes by format
    bad: dict[str, str] = dataclasses.field(default_factory=dict)  # reason by scene
    rejected: dict[str, str] = dataclasses.field(default_factory=dict)  # reason by clip
    residuals: list[dict[str, float]] = dataclasses.field(default_factory=list)  # of the clips with depth


def in_split(name: str, split: str, validation_share: float) -> bool:
    """Whether a scene belongs to a split: a matter of its name alone, so that scenes can be added."""
    place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    return (place < validation_share) == (split == "validation")


def build_posed(
    source: str | pathlib.Path,
    out: str | pathlib.Path,
    split: str,
    *,
    frames: int = 65,
    height: int = 128,
    width: int = 128,
    stride: int = 1,
    part: int = 0,
    bad_scenes: int = 10,
    validation_share: float = 0.05,
    bounds: verify.Bounds = BOUNDS,
    progress: Callable[[Sequence[Scene]], Iterable[Scene]] = iter,
) -> pathlib.Path:
    """Builds one part of one split; the part appears under its name only when it is whole.

    A scene that cannot be read, or is too short, is skipped and named in `report.json` with the reason; so is a clip
    whose depth does not explain its pictures.

    Args:
      source: folder of scenes (see `scenes`).
      out: folder of the data set.
      split: train or validation.
      frames: of a clip, 4k + 1.
      height, width: of the clips, in pixels.
      stride: from one frame of a clip to the next, in frames of the scene.
      part: number of the part.
      bad_scenes: more than so many end the build.
      validation_share: share of the scenes, by the hash of their names, that are for validation.
      bounds: of the check of depth and poses against the pictures.
      progress: wraps the scenes as they are read.

    Returns:
      The folder of the part.

    Raises:
      UserError: if a number is not usable, the part exists, too many scenes are bad, or there is no clip.
    """
    if split not in SPLITS:
        raise UserError(f"--split is {split!r}, expected one of {', '.join(SPLITS)} for scenes of one's own")
    if frames < 5 or frames % 4 != 1:
        raise UserError(f"--frames is {frames}, expected 4k + 1 and at least 5 (for example 65)")
    if min(height, width) < _LEAST or stride < 1 or bad_scenes < 0 or part < 0:
        raise UserError(
            f"--height {height}, --width {width} (at least {_LEAST}), --stride {stride} (at least 1), "
            f"--bad_scenes {bad_scenes}, --seed {part} (at least 0): too small"
        )
    if not 0 <= validation_share <= 1:
        raise UserError(f"--validation_share is {validation_share:g}, expected 0 to 1")
    found = scenes.find(pathlib.Path(source))
    chosen = [scene for scene in found if in_split(scene.name, split, validation_share)]
    if not chosen:
        raise UserError(
            f"none of the {len(found)} scenes in {source} falls into split {split!r}; change --validation_share"
        )
    tally = _Tally()
    config = {
        "split": split,
        "frames": frames,
        "height": height,
        "width": width,
        "stride": stride,
        "bad_scenes": bad_scenes,
        "validation_share": validation_share,
    }

    def clips(scratch: pathlib.Path) -> Iterator[tuple[str, PosedClip]]:
        for scene in progress(chosen):
            kept, reason = [], None
            try:
                video = scene.open()
                # A scene counts only when all of it could be read, so its clips wait on disk until then.
                found_clips = _windows(scene.name, video, frames, stride, height, width)
                while (clip := _next_of(scene, found_clips)) is not None:
                    reason = _fault(clip, bounds, tally)
                    if reason is None:
                        kept.append(scratch / f"{len(kept):06d}.npz")
                        save(kept[-1], clip)
                if not kept:
                    raise UserError(f"none of its clips is usable, the last for: {reason}")
            except ValueError as error:  # UserError among them
                tally.bad[scene.name] = " ".join(str(error).split())
                if len(tally.bad) > bad_scenes:
                    raise UserError(_too_many(tally.bad, bad_scenes)) from error
                kept = []
            else:
                tally.formats[video.format] += 1
                tally.scenes[scene.name] = len(kept)
            for path in kept:
                clip = load(path)
                path.unlink()
                tally.written += 1
                tally.with_depth += bool(clip.valid.any())
                yield clip.source, clip
        if not tally.written:
            raise UserError(f"no clip of split {split!r} could be cut from the scenes in {source}: {_named(tally.bad)}")

    def report(seconds: float) -> dict[str, Any]:
        return _report(config, bounds, len(found), len(chosen), tally) | {"seconds": round(seconds, 1)}

    return builder.write_part(
        out,
        split,
        part,
        "posed",
        (frames, height, width),
        clips,
        report,
        _LICENCE,
        "Posed video of a person's own scenes.",
    )


def _next_of(scene: Scene, found: Iterator[PosedClip]) -> PosedClip | None:
    """The next clip, or None; whatever reading its files raises is one sentence."""
    with io.foreign(scene.cameras, "a scene that can be read"):
        return next(found, None)


def _windows(name: str, video: PosedVideo, frames: int, stride: int, height: int, width: int) -> Iterator[PosedClip]:
    """The clips of a scene, checked. Raises `ValueError` where something in it is bad."""
    span = stride * (frames - 1) + 1
    total = len(video.camera)
    if total < span:
        raise UserError(f"it has {total} frames, a clip takes {span} (--frames={frames} --stride={stride})")
    windows = [range(start, start + span, stride) for start in range(0, total - span + 1, stride * frames)]
    cropped = crop.centre_cropped(video.camera, height, width)
    camera = Camera(np.asarray(cropped.intrinsics), np.asarray(cropped.cam2world), height, width)
    shown = video.pictures.read([frame for window in windows for frame in window])
    fitted = (np.asarray(PIL.ImageOps.fit(picture, (width, height), PIL.Image.Resampling.LANCZOS)) for picture in shown)
    for window in windows:
        pixels = np.stack(list(itertools.islice(fitted, frames)))
        if video.depth is None:
            depth, moving = np.zeros(pixels.shape[:3], np.float32), np.zeros(pixels.shape[:3], bool)
        else:
            depth, moving = map(np.stack, zip(*(video.depth.on(camera[t], t) for t in window), strict=True))
        here = camera[np.asarray(window)]
        clip = PosedClip(
            frames=pixels,
            depth=depth,
            intrinsics=here.intrinsics,
            cam2world=here.cam2world,
            dynamic=moving,
            caption=video.caption,
            source=f"posed/{name}/frame{window[0]:06d}",
        )
        check(clip)
        yield clip
    for _ in fitted:  # nothing is left; a video is read to its end, which says whether it is whole
        pass


def _fault(clip: PosedClip, bounds: verify.Bounds, tally: _Tally) -> str | None:
    """Why a clip is not to be used, or None. A clip without depth has nothing that could be checked."""
    if not clip.valid.any():
        return None
    reason, residuals = verify.verify(clip, bounds)
    if reason is None:
        tally.residuals.append(residuals)
    else:
        tally.rejected[clip.source] = reason
    return reason


def _report(config: dict[str, Any], bounds: verify.Bounds, found: int, chosen: int, tally: _Tally) -> dict[str, Any]:
    return {
        "config": config,
        "scenes": {
            "found": found,
            "in_split": chosen,
            "used": len(tally.scenes),
            "bad": tally.bad,
            "by_format": dict(sorted(tally.formats.items())),
            "clips": tally.scenes,
        },
        "clips": {"written": tally.written, "with_depth": tally.with_depth, "rejected": tally.rejected},
        "residual_percentiles": verify.percentiles(tally.residuals),
        "bounds": dataclasses.asdict(bounds),
        "licence": _LICENCE,
    }


def _too_many(bad: dict[str, str], limit: int) -> str:
    return f"{len(bad)} bad scenes, more than --bad_scenes={limit}: {_named(bad)}"


def _named(bad: dict[str, str]) -> str:
    """The first few."""
    more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
    return "; ".join(f"{name} ({reason})" for name, reason in list(bad.items())[:3]) + more
