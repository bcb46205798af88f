"""The WorldScore data set on disk, and results laid out as its scorer reads them.

The data set is the folder `WorldScore-Dataset` that the benchmark's `download.py` unpacks: lists `static/static.json`
and `dynamic/dynamic.json`, whose entries name pictures and masks relative to that folder (`dataloader.py`,
`dataloaders/dataloader_general.py`). The Parquet files of the same hub page hold neither file names nor masks (its data
card lists the fields), and the scorer needs both, so they cannot take its place.

A result is a folder `worldscore_output/static/STYLE/SCENE_TYPE/CATEGORY/NAME` or `.../dynamic/STYLE/MOTION_TYPE/NAME`
(`world_generators/README.md`, `dataloader.py`) with `input_image.png`, `image_data.json` (the entry, `num_scenes`,
`total_frames`, and `anchor_frame_idx` if static), `camera_data.json` if static, `frames/000.png`, ... and
`videos/output.mp4`. The scorer wants as many cameras as frames and `total_frames` of both (`evaluator.py`), and reads
frames in the order of their names.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from experiments.bench.adapters import sample as base
from experiments.worldscore import paths
from mirage_jax import io, viz
from mirage_jax.errors import UserError
from mirage_jax.models.config import ModelConfig

DATASET, OUTPUT = "WorldScore-Dataset", "worldscore_output"

_LISTS = {"static": ("content_list", "prompt_list"), "dynamic": ("objects", "masks")}
_WORDS = {"static": ("scene_type", "prompt_list"), "dynamic": ("motion_type", "prompt")}


@dataclasses.dataclass(frozen=True)
class Settings:
    """How all samples are made.

    Attributes:
      frames: of one move of the camera, first and last included.
      speed: scene units of a push.
      resolution: (rows, columns) of the frames that are scored; None is what suits the model.
    """

    frames: int = paths.FRAMES
    speed: float = 1.0
    resolution: tuple[int, int] | None = None

    def size(self, model: ModelConfig) -> tuple[int, int]:
        """Rows and columns of the frames that are scored."""
        return self.resolution or paths.scored_size(model.height, model.width)


@dataclasses.dataclass(frozen=True)
class Sample(base.Sample):
    """One entry of the data set.

    Attributes:
      split: 'static' or 'dynamic'.
      place: in the split's list.
      entry: as in the list.
      root: folder that its file names start from.
      settings: how it is made.
      fault: a sentence, for an entry that cannot be used.
    """

    split: str
    place: int
    entry: dict[str, Any]
    root: Path
    settings: Settings
    fault: str | None = None

    @property
    def label(self) -> str:
        """Where its result goes, relative to `worldscore_output`; of an entry with a fault, what to call it."""
        if self.fault is not None:
            return f"{self.split}.json, entry {self.place}"
        kind = self.entry[_WORDS[self.split][0]]
        *_, category, file = ("", *Path(self.entry["image"]).parts)
        kinds = [kind, category] if self.split == "static" else [kind]
        return "/".join([self.split, self.entry["visual_style"], *kinds, file.split(".")[0]])

    @property
    def moves(self) -> list[str]:
        """Of the camera."""
        return self.entry["camera_path"]

    @property
    def frames(self) -> int:
        """Of all moves together."""
        return paths.total_frames(self.moves, self.settings.frames)

    @property
    def prompts(self) -> list[str]:
        """One a move."""
        static = self.split == "static"
        scenes = self.entry["prompt_list"] if static else [self.entry["prompt"]]
        return paths.prompts(self.moves, scenes, self.entry["style"], static=static)

    def prompt_of_segments(self, segments: int, segment_frames: int) -> np.ndarray:
        """That of the move which most of a segment lies in."""
        return paths.scene_of_segments(segments, segment_frames, len(self.moves), self.settings.frames)

    def missing(self) -> list[Path]:
        """Its picture and masks, where they are not there."""
        names = [self.entry["image"], *(self.entry["masks"] if self.split == "dynamic" else ())]
        return [self.root / name for name in names if not (self.root / name).is_file()]

    def views(self, model: ModelConfig) -> base.Views:
        """The middle of the picture, and the path of its moves with the benchmark's lens."""
        size = self.settings.size(model)
        image = self._picture(size).resize((model.width, model.height), PIL.Image.Resampling.LANCZOS)
        path = paths.cameras(self.moves, self.settings.frames, size, (model.height, model.width), self.settings.speed)
        return base.Views(np.asarray(image), path, size)

    def lacks(self, out: Path) -> str | None:
        """What `evaluator.py` would miss."""
        folder, static = self._folder(out), self.split == "static"
        if not folder.is_dir():
            return base.NOT_MADE
        for name in ["input_image.png", "image_data.json", *(["camera_data.json"] if static else [])]:
            if not (folder / name).is_file():
                return f"no {name}"
        try:
            about = json.loads((folder / "image_data.json").read_text("utf-8"))
            poses = json.loads((folder / "camera_data.json").read_text("utf-8"))["cameras_interp"] if static else None
            if about["total_frames"] != self.frames or (poses is not None and len(poses) != self.frames):
                told = f"{about['total_frames']} frames and {len(poses or ())} cameras"
                return f"{told} are told of, expected {self.frames}"
        except (ValueError, KeyError, TypeError) as error:
            return f"image_data.json or camera_data.json is damaged ({type(error).__name__}: {error})"
        return base.lacking_pictures(folder / "frames", self.frames)

    def damaged(self, out: Path) -> list[str]:
        """Frames that are no whole PNG files."""
        return base.damaged_pictures(self._folder(out) / "frames")

    def save(self, out: Path, views: base.Views, frames: np.ndarray, fps: float) -> None:
        """Its folder is there when all is in it, and not before."""
        if len(frames) != self.frames:
            raise ValueError(f"{len(frames)} frames for a path of {self.frames}")
        with base.whole_folder(out, self._folder(out)) as work:
            base.write_pictures(work / "frames", frames, digits=3)
            viz.write_video(work / "videos" / "output.mp4", frames, fps=fps)
            self._picture(views.size).save(work / "input_image.png")
            about = self.entry | {"num_scenes": len(self.moves), "total_frames": self.frames}
            if self.split == "static":
                about["anchor_frame_idx"] = paths.anchors(self.moves, self.settings.frames)
                cameras = paths.camera_data(self.moves, self.settings.frames, self.settings.speed)
                io.write_json(work / "camera_data.json", cameras)
            io.write_json(work / "image_data.json", about)

    def _folder(self, out: Path) -> Path:
        return out / OUTPUT / self.label

    def _picture(self, size: tuple[int, int]) -> PIL.Image.Image:
        """The middle of the picture to start from, RGB, as it lies in the file, at the size that is scored."""
        file = self.root / self.entry["image"]
        if not file.is_file():
            raise UserError(f"no file {file}")
        try:
            with PIL.Image.open(file) as opened:
                return paths.centre_crop(opened.convert("RGB"), *size)
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"{file}: damaged or no picture ({error})") from error


def read(dataset: str | Path, split: str, settings: Settings) -> list[Sample]:
    """The samples of a split, in order; those that cannot be used say why.

    Args:
      dataset: the folder `WorldScore-Dataset`, or the one that it is in.
      split: of `paths.SPLITS`.
      settings: how they are made.

    Raises:
      UserError: if the list is missing, damaged or no list of entries.
    """
    root = base.existing(Path(dataset), DATASET)
    file = root / split / f"{split}.json"
    parquet = root.is_dir() and not file.is_file() and any(root.rglob("*.parquet"))
    hint = " (Parquet files, which are there, lack file names and masks)" if parquet else ""
    entries = io.read_json(base.require(file, dataset, f"the unpacked {DATASET}.zip{hint}"))
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{file}: expected a list of entries, found {'an empty one' if entries == [] else 'no list'}")
    samples = [Sample(split, place, entry, root, settings, _fault(entry, split)) for place, entry in enumerate(entries)]
    return base.without_doubles(samples)


def write_sample_dataset(folder: Path) -> None:
    """Writes two samples, one of each split, as `WorldScore-Dataset.zip` holds them."""
    rng = np.random.default_rng(0)
    common = {"visual_style": "stylized", "style": "Ink"}
    entries = {
        "static": common
        | {
            "visual_movement": "static",
            "scene_type": "indoor",
            "category": "halls",
            "camera_path": ["pan_left", "push_in", "move_right"],
            "content_list": ["hall", "door", "stair", "roof"],
            "prompt_list": ["A hall.", "A door.", "A stair.", "A roof."],
            "image": "./static/stylized/images/halls/004.png",
        },
        "dynamic": common
        | {
            "visual_movement": "dynamic",
            "motion_type": "articulated",
            "camera_path": ["fixed"],
            "objects": ["cat"],
            "prompt": "A cat runs.",
            "image": "./dynamic/stylized/images/articulated/001.png",
            "masks": ["./dynamic/stylized/masks/articulated/001/001-1.png"],
        },
    }
    for split, entry in entries.items():
        for name in [entry["image"], *entry.get("masks", ())]:
            base.write_stand_in(folder / name, rng)
        io.write_json(folder / split / f"{split}.json", [entry])


def _fault(entry: Any, split: str) -> str | None:
    """What makes an entry unusable."""
    kind, text = _WORDS[split]
    texts = ("image", "visual_style", "style", kind, *([text] if split == "dynamic" else []))
    if wrong := base.texts_of(entry, texts):
        return wrong
    for name in ("camera_path", *_LISTS[split]):
        if not isinstance(entry.get(name), list) or not entry[name]:
            return f"expected a list {name!r}, found {entry.get(name)!r}"
    if entry.get("visual_movement") != split:
        return f"visual_movement is {entry.get('visual_movement')!r}, expected {split!r}"
    if unknown := [move for move in entry["camera_path"] if move not in paths.MOVES]:
        return f"unknown move {unknown[0]!r} in camera_path, expected some of {', '.join(paths.MOVES)}"
    for name in _LISTS["static"] if split == "static" else ():
        if len(entry[name]) < len(entry["camera_path"]) + 1:
            return f"{len(entry[name])} entries in {name!r} for {len(entry['camera_path'])} moves, expected one more"
    names = [entry["image"], *(entry["masks"] if split == "dynamic" else entry["prompt_list"])]
    if not all(isinstance(name, str) for name in names):
        return "expected texts in its lists"
    if wrong := base.outside([entry["image"], *(entry["masks"] if split == "dynamic" else ())]):
        return wrong
    category, file = ("", *Path(entry["image"]).parts)[-2:]
    return base.unfit_name([entry["visual_style"], entry[kind], category, file.split(".")[0]])


def write_model_config(out: Path, settings: Settings, model: ModelConfig) -> Path:
    """Writes the file that registers the model with the scorer (its `config/model_configs/NAME.yaml`)."""
    file = out / f"{base.NAME}.yaml"
    height, width = settings.size(model)
    lines = {
        "model": base.NAME,
        "runs_root": json.dumps(str(out.absolute())),
        "resolution": [width, height],
        "generate_type": "i2v",
        "frames": settings.frames,
        "fps": f"{model.fps:g}",
        "camera_speed": f"{settings.speed:g}",
    }
    io.write_text(file, "".join(f"{key}: {value}\n" for key, value in lines.items()))
    return file
