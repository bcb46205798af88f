"""The scenes and events of WRBench (Natural-25) on disk, its cameras, and results laid out as its scorer reads them.

What is followed here, of JinPLu/WRBench, where stored sources lack a file as lhurr/WRBench carries it:
  prompts, first frames  src/wrbench/data/natural25/README.md, datasets.py, releases/paper_main_20260608/README.md
  cameras of the paper   releases/paper_main_20260608/camera_scopes/local_dual_angle.json, local_static.json
  names of videos        scripts/run_natural25_generation.py, src/wrbench/benchmark.py
  poses, lens            src/wrbench/presets.py, builder.py, actions.py (lhurr)
  files beside a video   src/wrbench/trajectory.py, eval/d1/d1_sidecar_contract.py, eval/d1/d1_camera.py (lhurr)
  the list of videos     docs/eval/README.md, scripts/eval/score_runtime_v2_d3d6.sh, src/wrbench/eval/runtime.py (lhurr)

Of the 400 rows of `variants.local_ti2v_tv2v.jsonl`, models that are given a camera path make the 100 with `oov_gap`
"none", whose prompts leave the camera out; each starts from `first_frames/FAMILY.png`. A result is
`OUT/mirage_jax/videos/VARIANT__CAMERA.mp4` with the path that was asked for beside it: `.target_c2w.npy` (`[T, 4, 4]`,
camera to world, OpenCV axes), `.camera_trajectory.json` and `.camera.json`, which names the other two by full paths.
`OUT/videos.json` lists all that is finished.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.bench.adapters import sample as base
from experiments.posed_video import photos
from mirage_jax import io, viz
from mirage_jax.errors import UserError
from mirage_jax.geometry import crop
from mirage_jax.models.config import ModelConfig

CAMERAS = {
    "static": ("static", 0.0),
    "yaw_LR_30": ("yaw_LR", -30.0),
    "yaw_RL_30": ("yaw_RL", 30.0),
    "yaw_LR_60": ("yaw_LR", -60.0),
    "yaw_RL_60": ("yaw_RL", 60.0),
}
"""Cameras of the paper by label: type, and degrees of the turn at its middle (to the right is positive)."""

FRAMES = 81
"""Frames of a video, unless a model has its own number (`default_frames` of `registry.py`)."""

FOV = 60.0
"""Degrees across every video (`default_intrinsics` of `builder.py`)."""

_INSIDE = ("src/wrbench/data/natural25", "data/natural25")
_RELEASE = "releases/paper_main_20260608"
_VARIANTS = f"{_RELEASE}/variants.local_ti2v_tv2v.jsonl"
_TEXTS = ("variant_id", "family_id", "oov_gap", "ti2v_prompt", "world_state_prompt", "expected_state")
_TOLD = ("reasoning_tier", "event_delta", "divergence_id")  # passed on to the scorer
_SCOPES = {"static": "paper_main_20260608.local_static", "yaw": "paper_main_20260608.local_dual_angle"}


@dataclasses.dataclass(frozen=True)
class Sample(base.Sample):
    """One event in one scene, seen by one camera.

    Attributes:
      place: line of the list, from 1.
      entry: of that line.
      camera: of `CAMERAS`.
      root: the folder `natural25`.
      frames: of its video.
      fault: a sentence, for a line that cannot be used.
    """

    place: int
    entry: dict[str, Any]
    camera: str
    root: Path
    frames: int
    fault: str | None = None

    @property
    def label(self) -> str:
        """`video_id` of the benchmark."""
        if self.fault is not None:
            return f"{Path(_VARIANTS).name}, line {self.place}, camera {self.camera}"
        return f"{self.entry['variant_id']}__{self.camera}"

    @property
    def prompts(self) -> list[str]:
        """One: the event, without the camera."""
        return [self.entry["ti2v_prompt"]]

    def missing(self) -> list[Path]:
        """Its first frame, where it is not there."""
        return [] if self._picture.is_file() else [self._picture]

    def views(self, model: ModelConfig) -> base.Views:
        """The first frame, cut to the model's shape, and the camera's path with the benchmark's lens."""
        height, width = model.height, model.width
        image, camera, _ = crop.fit_view(photos.read(self._picture).pixels, height, width)
        poses = cam2world(self.camera, self.frames)
        path = camera.replace(
            intrinsics=jnp.broadcast_to(jnp.asarray(lens(height, width)), (self.frames, 3, 3)),
            cam2world=jnp.asarray(poses),
        )
        return base.Views(image, path, (height, width))

    def lacks(self, out: Path) -> str | None:
        """What the scorer would miss; without a video nothing counts."""
        there = [file for file in self._files(out) if file.is_file()]
        if not there:
            return base.NOT_MADE
        if absent := [file.name for file in self._files(out) if file not in there]:
            return f"no {absent[0]}"
        try:
            told = io.read_json_object(self._files(out)[2]).get("num_frames")
        except UserError as error:
            return str(error)
        return None if told == self.frames else f"{told} frames, expected {self.frames}"

    def damaged(self, out: Path) -> list[str]:
        """A video that cannot be read to its end, and poses of another number."""
        *sidecars, video = self._files(out)
        bad = []
        try:
            if len(viz.read_video(video)) != self.frames:
                bad.append(video.name)
        except UserError:
            bad.append(video.name)
        try:
            if io.read_array(sidecars[0]).shape != (self.frames, 4, 4):
                bad.append(sidecars[0].name)
        except UserError:
            bad.append(sidecars[0].name)
        return bad

    def save(self, out: Path, views: base.Views, frames: np.ndarray, fps: float) -> None:
        """The video comes last."""
        target, trajectory, sidecar, video = self._files(out)
        video.unlink(missing_ok=True)  # what lies beside it is of another one from here on
        poses, kind = np.asarray(views.path.cam2world, np.float32), CAMERAS[self.camera][0]
        with io.atomic_path(target) as temporary:
            np.save(temporary, poses, allow_pickle=False)
        io.write_json(
            trajectory,
            {
                "coordinate_convention": "opencv_c2w",
                "camera_type": kind,
                "fps": fps,
                "source": "camera_action_script",
                "conversion_mode": "direct_pose",
                "frame_count": len(poses),
                "c2w": poses.tolist(),
                "intrinsics": np.asarray(views.path.intrinsics, np.float32).tolist(),
            },
        )
        io.write_json(sidecar, self._control(out, views.size, fps))
        viz.write_video(video, frames, fps=fps)

    def row(self, out: Path) -> dict[str, Any]:
        """The entry of a finished result in the scorer's list of videos."""
        kind, turn = CAMERAS[self.camera]
        axis = "static" if kind == "static" else "yaw"
        control = io.read_json_object(self._files(out)[2])
        return {
            "video_id": self.label,
            "path": str(self._files(out)[3].absolute()),
            "model": base.NAME,
            **{name: self.entry.get(name) for name in (*_TEXTS, *_TOLD)},
            "prompt": self.entry["ti2v_prompt"],
            "prompt_profile_id": "ti2v_active",
            "input_kind": "image",
            "model_input": "TI2V",
            "camera": self.camera,
            "camera_type": kind,
            "camera_preset": kind,
            "camera_scope_id": _SCOPES[axis],
            "stress_axis": axis,
            "stress_yaw_deg": None if axis == "static" else abs(turn),
            **control,
            **self._named(out),
        }

    def _control(self, out: Path, size: tuple[int, int], fps: float) -> dict[str, Any]:
        """What `.camera.json` holds: what the scorer checks before it compares cameras."""
        kind, turn = CAMERAS[self.camera]
        profile = "canonical_static" if kind == "static" else f"diagnostic_{abs(turn):g}deg"
        profile = "canonical_60deg" if abs(turn) == 60 else profile
        return {
            **self._named(out),
            "target_coordinate_convention": "opencv_c2w",
            "target_role": "benchmark_intended_control",
            "target_source": "camera_action_script",
            "target_certification_status": "compiled",
            "target_certification_basis": "the path that the model was given",
            "control_family": "static" if kind == "static" else "rotation",
            "control_direction": kind,
            "control_profile": profile,
            "evidence_level": "benchmark_intent",
            "adapter_provenance": "deterministic_adapter",
            "camera_type": kind,
            "yaw_peak_deg": abs(turn),
            "num_frames": self.frames,
            "fps": fps,
            "image_size": [size[1], size[0]],
            "fov": FOV,
            "trajectory_sampling_rule": "one pose a frame, out over the first half and back over the rest",
        }

    def _named(self, out: Path) -> dict[str, str]:
        """Where the path lies: by full names, since the scorer looks from the folder that it is started in."""
        target, trajectory = (str(file.absolute()) for file in self._files(out)[:2])
        return {"target_pose_path": target, "trajectory_c2w_path": target, "camera_trajectory_path": trajectory}

    @property
    def _picture(self) -> Path:
        return self.root / "first_frames" / f"{self.entry['family_id']}.png"

    def _files(self, out: Path) -> list[Path]:
        """Poses, trajectory, control and, written last, the video."""
        name = out / base.NAME / "videos" / f"{self.label}.mp4"
        ends = (".target_c2w.npy", ".camera_trajectory.json", ".camera.json", "")
        return [name.with_name(name.name + end) for end in ends]


def cam2world(camera: str, frames: int) -> np.ndarray:
    """Poses of a camera of `CAMERAS`: it turns away over the first half of the frames, and back over the others.

    The turn is at its largest both in the last frame of the first half and in the first one of the second
    (`build_camera_trajectory`).

    Returns:
      `[frames, 4, 4]` float32, camera to world, OpenCV axes (x right, y down, z forward), the first one the identity.
    """
    half = frames // 2
    turn = math.radians(CAMERAS[camera][1])
    angles = turn * np.concatenate([np.linspace(0, 1, half), np.linspace(1, 0, frames - half)])
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, 0, 0], poses[:, 0, 2] = np.cos(angles), np.sin(angles)
    poses[:, 2, 0], poses[:, 2, 2] = -np.sin(angles), np.cos(angles)
    return poses.astype(np.float32)


def lens(height: int, width: int) -> np.ndarray:
    """`[3, 3]` intrinsics of frames of this size: `FOV` degrees across, square pixels."""
    focal = width / (2 * math.tan(math.radians(FOV) / 2))
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], np.float32)


def read(dataset: str | Path, cameras: Sequence[str], frames: int) -> list[Sample]:
    """Every event with every camera, in the order of the list; those that cannot be used say why.

    Args:
      dataset: a checkout of WRBench, its package, or the folder `natural25` in it.
      cameras: of `CAMERAS`.
      frames: of every video.

    Raises:
      UserError: if the list is missing, or holds no event to make.
    """
    root = base.existing(Path(dataset), *_INSIDE)
    file = base.require(root / _VARIANTS, dataset, "a checkout of WRBench, or its folder natural25")
    lines = [(place, line) for place, line in enumerate(io.read_lines(file), 1) if line.strip()]
    samples = []
    for place, line in lines:
        entry, fault = _entry(line, f"{file}, line {place}")
        if fault is not None or entry["oov_gap"] == "none":
            samples += [Sample(place, entry, camera, root, frames, fault) for camera in cameras]
    if not samples:
        raise UserError(f"{file}: no event with oov_gap 'none' among {len(lines)} lines")
    return base.without_doubles(samples)


def _entry(line: str, source: str) -> tuple[dict[str, Any], str | None]:
    """A line of the list, and what makes it unusable."""
    try:
        entry = io.parse_json(line, source)
    except UserError as error:
        return {}, str(error)
    if wrong := base.texts_of(entry, _TEXTS):
        return {}, wrong
    if empty := [name for name in _TEXTS if not entry[name].strip()]:
        return {}, f"its {empty[0]!r} is empty"
    return entry, base.unfit_name([entry["variant_id"], entry["family_id"]])


def write_list(out: Path, samples: Sequence[Sample]) -> tuple[Path, int]:
    """Writes `videos.json`, the scorer's list of all results that are finished; returns it and their number."""
    rows = [sample.row(out) for sample in samples if sample.fault is None and sample.lacks(out) is None]
    io.write_json(out / "videos.json", rows)
    return out / "videos.json", len(rows)


def write_sample_dataset(folder: Path) -> None:
    """Writes a scene with two events in the layout of `natural25`, and a row that is for other models."""
    base.write_stand_in(folder / "first_frames" / "bedroom_cat_bed_jump.png", np.random.default_rng(0))
    still, jump = "A house cat waits on the floor.", "The cat jumps onto the bed."
    kinds = [("T0", "none", still, "none"), ("T2_div_b", "div_b", jump, "none"), ("T0", "none", still, "fixed")]
    rows = [
        {
            "variant_id": f"bedroom_cat_bed_jump__{tier}__{gap}",
            "family_id": "bedroom_cat_bed_jump",
            "reasoning_tier": tier.split("_")[0],
            "oov_gap": gap,
            "event_delta": "full" if text == jump else "none",
            "divergence_id": None if divergence == "none" else divergence,
            "world_state_prompt": text,
            "expected_state": text,
            "ti2v_prompt": f"In a bedroom. {text}",
        }
        for tier, divergence, text, gap in kinds
    ]
    io.write_text(folder / _VARIANTS, "".join(f"{json.dumps(row)}\n" for row in rows))
