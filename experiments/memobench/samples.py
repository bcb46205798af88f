"""The clips of MemoBench on disk, their cameras, and results laid out as its scorer reads them.

What is followed here, of MemoBench-Team/MemoBench:
  data, inputs, results  README.md ("Data Preparation", "Inference Protocol", "Output Directory Structure")
  lists of clips         data/sam3_metadata/synthetic_metadata.csv, real_metadata.csv
  poses, their choice    evaluation/automated/metrics/camera_controllability.py
  frames that are found  evaluation/run_eval.py, evaluation/compute_ors.py

A clip starts from its first true frame and follows the true camera, camera to world with OpenCV axes: `poses.npy` of a
rendered clip, `cam_c2w` of a real one, of which as many poses are taken as the video has frames, spread evenly, as the
scorer does. A result is `Synthetic/SCENE/SCENE_001/frames/00000.png`, ... or `Real/001/frames/00001.png`, ...; beside
`frames/` lies `cameras.json`, which is ours. There is no video beside them: the scorer would read it in their place.

The sources leave two things open. On which grid of pixels the intrinsics are: only the angle of view is taken from
them, through the principal point, which is put into the middle of the picture; the scorer does not use them. And the
unit of positions: `UNITS` says what is taken, `--path_scale` says otherwise; the scorer compares rotations only.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from experiments.bench.adapters import sample as base
from experiments.posed_video import photos
from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.geometry import crop, pose_files
from mirage_jax.geometry.pose_files import checks
from mirage_jax.models.config import ModelConfig

UNITS = {"synthetic": 0.01, "real": 1.0}
"""Metres of a unit of position by split: Unreal Engine's centimetre ("UE5 world units"), MapAnything's metre."""

FRAMES = 81
"""Frames of a video, as of most models that were scored; the scorer takes any number."""

LEAST_FRAMES = 6
"""With fewer, the scorer's three phases overlap (`map_keyframes`)."""

_LISTS = "data/sam3_metadata"
_FIELDS = {
    "synthetic": ("scene", "video_id", "subject", "exr_path", "prompt"),
    "real": ("video_id", "subject", "full_image_path", "prompt"),
}


@dataclasses.dataclass(frozen=True)
class Sample(base.Sample):
    """One clip.

    Attributes:
      split: 'synthetic' or 'real'.
      place: line of the split's list, from 2: the first one names the columns.
      entry: of that line, by column.
      root: folder that holds `data`.
      frames: of its video.
      scale: metres of a unit of its positions.
      fault: a sentence, for a line that cannot be used.
    """

    split: str
    place: int
    entry: dict[str, str]
    root: Path
    frames: int
    scale: float
    fault: str | None = None

    @property
    def label(self) -> str:
        """Where its result goes; of a line with a fault, what to call it."""
        if self.fault is not None:
            return f"{self.split}_metadata.csv, line {self.place}"
        if self.split == "real":
            return f"Real/{self._number:03d}"
        return f"Synthetic/{self.entry['scene']}/{self.entry['scene']}_{self._number:03d}"

    @property
    def prompts(self) -> list[str]:
        """One."""
        return [self.entry["prompt"]]

    def missing(self) -> list[Path]:
        """Its first frame and the files of its camera, where they are not there."""
        return [file for file in (self._picture, *self._cameras) if not file.is_file()]

    def views(self, model: ModelConfig) -> base.Views:
        """The first true frame, cut to the model's shape, and the true camera's path."""
        photo = photos.read(self._picture)
        rows, columns = photo.pixels.shape[:2]
        poses, (fx, fy, cx, cy) = self._true_cameras()
        intrinsics = fx / cx * columns / 2, fy / cy * rows / 2, columns / 2, rows / 2
        image, camera, _ = crop.fit_view(photo.pixels, model.height, model.width, intrinsics=np.array(intrinsics))
        path = camera.replace(
            intrinsics=jnp.broadcast_to(camera.intrinsics, (self.frames, 3, 3)),
            cam2world=jnp.asarray(poses, jnp.float32),
        )
        return base.Views(image, path, (model.height, model.width))

    def lacks(self, out: Path) -> str | None:
        """Frames that the scorer would miss."""
        if not (out / self.label).is_dir():
            return base.NOT_MADE
        return base.lacking_pictures(out / self.label / "frames", self.frames)

    def damaged(self, out: Path) -> list[str]:
        """Frames that are no whole PNG files."""
        return base.damaged_pictures(out / self.label / "frames")

    def save(self, out: Path, views: base.Views, frames: np.ndarray, fps: float) -> None:
        """Its folder is there when all is in it, and not before."""
        with base.whole_folder(out, out / self.label) as work:
            base.write_pictures(work / "frames", frames, digits=5, first=int(self.split == "real"))
            pose_files.write_json(work / "cameras.json", views.path)

    @property
    def _number(self) -> int:
        return int(self.entry["video_id"])

    @property
    def _picture(self) -> Path:
        """The first true frame."""
        return self.root / self.entry["full_image_path" if self.split == "real" else "exr_path"]

    @property
    def _cameras(self) -> list[Path]:
        """Files of the true camera."""
        if self.split == "real":
            clip = f"{self._number:03d}"
            return [self.root / "data" / "Real_Raw" / clip / "raw" / f"{clip}_mapanything.npz"]
        scene = self.entry["scene"]
        folder = self.root / "data" / "Synthetic_processed" / scene / f"{scene}_{self._number:03d}" / str(self._number)
        return [folder / "poses.npy", folder / "intrinsics.npy"]

    def _true_cameras(self) -> tuple[np.ndarray, np.ndarray]:
        """`[frames, 4, 4]` camera to world in metres, relative to the first; and `fx, fy, cx, cy` of that one."""
        files = self._cameras
        if self.split == "real":
            arrays = io.Arrays(files[0])
            source, name, poses, lens = str(files[0]), "cam_c2w", arrays["cam_c2w"], arrays["intrinsic"]
        else:
            source, name, poses, lens = str(files[0]), "poses", io.read_array(files[0]), io.read_array(files[1])
        poses = checks.array(source, name, poses, (None, 4, 4))
        with io.foreign(source, "the poses of a camera"):
            relative = np.linalg.inv(poses[0]) @ poses  # and so right where the world is left-handed, as Unreal's is
        relative = checks.rigid(source, f"{name} relative to the first", relative)
        steps = self.frames - 1
        chosen = relative[[round(frame * (len(relative) - 1) / steps) for frame in range(self.frames)]]  # `_resample`
        chosen[:, :3, 3] *= self.scale
        return chosen, _focal_and_centre(str(files[-1]), lens)


def _focal_and_centre(source: str, lens: np.ndarray) -> np.ndarray:
    """`fx, fy, cx, cy` of the first frame, of what `load_intrinsics_npz` takes: `[3, 3]`, `[4]`, or as many a frame."""
    found = lens[0] if lens.shape[1:] in ((3, 3), (4,)) and len(lens) else lens
    if found.shape == (3, 3):
        found = found[[0, 1, 0, 1], [0, 1, 2, 2]]
    found = checks.array(source, "intrinsics", found, (4,))
    if not (found > 0).all():
        raise UserError(f"{source}: intrinsics fx,fy,cx,cy are {found.tolist()}; expected numbers above 0")
    return found


def read(dataset: str | Path, split: str, frames: int, scale: float | None) -> list[Sample]:
    """The clips of a split, in the order of its list; those that cannot be used say why.

    Args:
      dataset: a checkout of MemoBench with its data, or the folder `data` in it.
      split: of `UNITS`.
      frames: of every video.
      scale: metres of a unit of position; None is that of `UNITS`.

    Raises:
      UserError: if the list is missing, damaged, empty or lacks a column.
    """
    given = Path(dataset)
    root = given.absolute().parent if given.absolute().name == "data" else given
    file = root / _LISTS / f"{split}_metadata.csv"
    base.require(file, dataset, "a checkout of MemoBench with its data, or its folder data")
    with io.foreign(file, "a list of clips"):
        reader = csv.DictReader(io.read_text(file).splitlines(), strict=True)
        entries = [(reader.line_num, entry) for entry in reader]
    if lost := [name for name in _FIELDS[split] if name not in (reader.fieldnames or ())]:
        raise UserError(f"{file}: no column {lost[0]!r}; found {', '.join(reader.fieldnames or ()) or 'none'}")
    if not entries:
        raise UserError(f"{file}: expected a list of clips, found none")
    scale = UNITS[split] if scale is None else scale
    samples = [Sample(split, line, entry, root, frames, scale, _fault(entry, split)) for line, entry in entries]
    return base.without_doubles(samples)


def _fault(entry: dict[str, str], split: str) -> str | None:
    """What makes an entry unusable."""
    if wrong := base.texts_of(entry, _FIELDS[split]):
        return wrong
    if not (entry["video_id"].isascii() and entry["video_id"].isdigit()):
        return f"expected a number 'video_id', found {entry['video_id']!r}"
    if split == "synthetic" and (wrong := base.unfit_name([entry["scene"]])):
        return wrong
    return base.outside([entry["full_image_path" if split == "real" else "exr_path"]])


def write_sample_dataset(folder: Path) -> None:
    """Writes two clips, one of each split, as `data` of a checkout holds them, each with a camera that comes back."""
    rng, data = np.random.default_rng(0), folder / "data"
    angles = np.deg2rad(40) * np.sin(np.linspace(0, np.pi, 20))
    poses = np.tile(np.eye(4), (20, 1, 1))
    poses[:, 0, 0], poses[:, 0, 2] = np.cos(angles), np.sin(angles)
    poses[:, 2, 0], poses[:, 2, 2] = -np.sin(angles), np.cos(angles)
    prompt = "The observer turns to the right, the subject leaves the view, and is seen again."
    picture = "Synthetic_processed/Barnyard/Barnyard_005/RGB5/NewLevelSequence5.0000.jpg"
    _write_list(data, "synthetic", ("Barnyard", "5", "pig", f"data/{picture}", prompt))
    base.write_stand_in(data / picture, rng)
    for name, values in (("poses", poses), ("intrinsics", np.tile([100.0, 100.0, 60.0, 30.0], (20, 1)))):
        with io.atomic_path(data / f"Synthetic_processed/Barnyard/Barnyard_005/5/{name}.npy") as temporary:
            np.save(temporary, values, allow_pickle=False)
    picture = "Real_Raw/001/FRAMES/frame_0001.jpg"
    _write_list(data, "real", ("1", "a glass of water", f"data/{picture}", prompt))
    base.write_stand_in(data / picture, rng)
    with io.atomic_path(data / "Real_Raw/001/raw/001_mapanything.npz") as temporary:
        np.savez(temporary, cam_c2w=poses, intrinsic=np.array([[100.0, 0, 60], [0, 100.0, 30], [0, 0, 1]]))


def _write_list(data: Path, split: str, entry: Sequence[str]) -> None:
    lines = (",".join(_FIELDS[split]), ",".join(f'"{value}"' for value in entry))
    io.write_text(data / "sam3_metadata" / f"{split}_metadata.csv", "\n".join(lines) + "\n")
