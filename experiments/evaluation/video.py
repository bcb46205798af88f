"""The protocols that need only a video and the truth, so that they score videos of any system.

Each is a pure function of frames (uint8 `[T, H, W, 3]`, the first of which was given to the system), the cameras that
were asked for, and the truth. What a path does not allow (a return on a path that does not return) is left out of
the result rather than guessed.
"""

from __future__ import annotations

import numpy as np

from experiments.evaluation import camera_control as cameras_recovered
from experiments.evaluation import objects, revisit
from mirage_jax.data.clip import PosedClip
from mirage_jax.evaluation import metrics
from mirage_jax.evaluation.scores import Scores, flat
from mirage_jax.evaluation.truth import camera_of
from mirage_jax.geometry import Camera

METRICS = {"psnr": (metrics.psnr, True), "ssim": (metrics.ssim, True), "lpips": (metrics.lpips, False)}
"""name -> metric, and whether higher is closer."""

PROTOCOLS = ("reconstruction", "closed_loop", "revisit", "camera_control", "objects")


def reconstruction(frames: np.ndarray, truth: np.ndarray) -> Scores:
    """Protocol 1: every frame after the first against the true frame.

    Args:
      frames, truth: uint8 `[T, H, W, 3]`.

    Returns:
      Means `psnr`, `ssim`, `lpips`, and the curves, NaN at the first frame.
    """
    scored = metrics.all_metrics(frames[1:], truth[1:])
    curves = {name: np.concatenate([[np.nan], curve]) for name, curve in scored.items()}
    return Scores({name: float(curve.mean()) for name, curve in scored.items()}, curves)


def return_to_start(cam2world: np.ndarray) -> int | None:
    """The latest frame, in the last fifth of a path, that has the view of the first one, or None.

    The same view is as in `revisit.select_pairs`; in between the path must have left that view.
    """
    count = len(cam2world)
    steps = np.stack([np.arange(count - 1), np.arange(1, count)], axis=1)
    reach, turn = revisit.view_tolerance(*revisit.pose_differences(cam2world, steps))
    offset, angle = revisit.pose_differences(cam2world, np.stack([np.zeros(count, int), np.arange(count)], axis=1))
    same = (offset <= reach) & (angle <= turn)
    late = np.flatnonzero(same[int(0.8 * count) :]) + int(0.8 * count)
    return int(late[-1]) if len(late) and not same[: late[-1]].all() else None


def closed_loop(frames: np.ndarray, cam2world: np.ndarray) -> Scores | None:
    """Protocol 2: the frame in which the camera is back at its start, against the first frame.

    Args:
      frames: uint8 `[T, H, W, 3]`.
      cam2world: `[T, 4, 4]`, metres.

    Returns:
      `psnr_c`, `ssim_c`, `lpips_c` of that frame; for paths that retrace themselves also the means
      `psnr_there_and_back` and so on of frame T-1-i against frame i, with the curves by i. None if the path does not
      return.
    """
    values: dict[str, float] = {}
    curves: dict[str, np.ndarray] = {}
    back = return_to_start(cam2world)
    if back is not None:
        for name, metric in metrics.all_metrics(frames[back : back + 1], frames[:1]).items():
            values[f"{name}_c"] = float(metric[0])
    try:
        pairs = revisit.closed_loop_pairs(cam2world)
    except ValueError:
        pairs = None
    if pairs is not None and back is not None:  # a camera that stands still returns to nothing
        for name, (metric, _) in METRICS.items():
            curves[name] = revisit.compare_pairs(frames, pairs, metric)
            values[f"{name}_there_and_back"] = float(curves[name].mean())
    return Scores(values, curves) if values else None


def revisit_memory(frames: np.ndarray, cam2world: np.ndarray, *, seed: int = 0) -> Scores | None:
    """Protocol 3: likeness of revisited views relative to unrelated views and to slow motion (R2M-Bench).

    Args:
      frames: uint8 `[T, H, W, 3]`.
      cam2world: `[T, 4, 4]`, metres.
      seed: of the drawn pairs.

    Returns:
      For each metric the means `_revisit`, `_baseline`, `_short` over pairs, the memory gain `_gain` and the dynamic
      range `_range`; None if the path revisits nothing or has nothing to compare with. The normalised score NMR is a
      ratio of means over videos, which is taken over the clips of a run.
    """
    try:
        pairs = revisit.select_pairs(cam2world, seed=seed)
    except ValueError:
        return None
    values: dict[str, float] = {}
    for name, (metric, higher) in METRICS.items():
        found = revisit.score(frames, pairs, metric, higher_is_closer=higher)
        values |= {f"{name}_{key}": value for key, value in found.items()}
    return Scores(values, {})


def camera_control(
    frames: np.ndarray, truth: np.ndarray, depth: np.ndarray, dynamic: np.ndarray, cameras: Camera
) -> Scores:
    """Protocol 4: the camera that each frame shows, found by aligning it with the true render, against the command.

    Args:
      frames, truth: uint8 `[T, H, W, 3]`.
      depth: `[T, H, W]` true z-depth; 0 or inf is not used.
      dynamic: bool `[T, H, W]`, what moves and is not used.
      cameras: `Camera[T]` that were asked for.

    Returns:
      Medians over the found frames after the first: `rotation` (degrees), `translation` (scene units),
      `relative_translation` (over the median depth). `found`, the share of frames that could be aligned, without which
      the medians say little; `worldscore`, the mean score of all frames, 0 for those not found (higher is better).
      Curves of the errors.
    """
    errors = cameras_recovered.pose_errors(frames, truth, depth, ~dynamic, cameras)
    found = np.asarray(errors.found, bool)[1:]
    values = {"found": float(found.mean())}
    names = ("rotation", "translation", "relative_translation")
    curves = {name: np.where(errors.found, getattr(errors, name), np.nan) for name in names}
    if found.any():
        values |= {name: float(np.median(curve[1:][found])) for name, curve in curves.items()}
    score = np.asarray(cameras_recovered.worldscore(errors.rotation, errors.relative_translation))
    values["worldscore"] = float(np.where(errors.found, score, 0.0)[1:].mean())
    return Scores(values, curves)


def object_motion(frames: np.ndarray, clip: PosedClip) -> Scores:
    """Protocol 5: background and moving objects apart, all together and by phase (see `objects`).

    Args:
      frames: uint8 `[T, H, W, 3]`.
      clip: the truth; what needs the scene without objects, or to know objects apart, is left out without them.
    """
    found = objects.score(
        frames,
        clip.frames,
        clip.dynamic,
        clip.background,
        instances=clip.instances,
        depth=clip.depth,
        cameras=camera_of(clip),
    )
    return Scores(flat(found), {})


def motion_class(clip: PosedClip) -> str:
    """The class of a clip by its share of moving pixels."""
    return objects.motion_class(clip.dynamic)


def path_kind(clip: PosedClip) -> str:
    """The kind of path that a clip's name tells, for means by kind."""
    parts = [part for part in clip.source.split("/") if part != "monsters"]
    return parts[-1] if parts else "path"


def score(frames: np.ndarray, clip: PosedClip) -> dict[str, Scores]:
    """Protocols 1 to 5 of one video.

    Args:
      frames: uint8 `[T, H, W, 3]`, made for the cameras of `clip`, of its length and size.
      clip: the truth.

    Returns:
      protocol -> scores, for those of `PROTOCOLS` that the clip allows.

    Raises:
      ValueError: if the video has another length or size than the clip.
    """
    if frames.shape != clip.frames.shape or frames.dtype != np.uint8:
        raise ValueError(f"video is {frames.dtype} {frames.shape}, the clip {clip.source} uint8 {clip.frames.shape}")
    found = {
        "reconstruction": reconstruction(frames, clip.frames),
        "closed_loop": closed_loop(frames, clip.cam2world),
        "revisit": revisit_memory(frames, clip.cam2world),
        "camera_control": camera_control(frames, clip.frames, clip.depth, clip.dynamic, camera_of(clip)),
        "objects": object_motion(frames, clip),
    }
    return {name: scores for name, scores in found.items() if scores is not None and scores.values}
