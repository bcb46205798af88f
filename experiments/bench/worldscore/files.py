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
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from experiments.bench.worldscore import paths
from mirage_jax import io, viz
from mirage_jax.errors import UserError

DATASET, OUTPUT = "WorldScore-Dataset", "worldscore_output"

_LISTS = {"static": ("content_list", "prompt_list"), "dynamic": ("objects", "masks")}
_WORDS = {"static": ("scene_type", "prompt_list"), "dynamic": ("motion_type", "prompt")}


@dataclasses.dataclass(frozen=True)
class Sample:
    """One entry of the data set.

    Attributes:
      split: 'static' or 'dynamic'.
      place: in the split's list.
      entry: as in the list.
      root: folder that its file names start from.
      fault: a sentence, for an entry that cannot be used.
    """

    split: str
    place: int
    entry: dict[str, Any]
    root: Path
    fault: str | None = None

    @property
    def folder(self) -> str:
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
    def prompts(self) -> list[str]:
        """One a move."""
        static = self.split == "static"
        scenes = self.entry["prompt_list"] if static else [self.entry["prompt"]]
        return paths.prompts(self.moves, scenes, self.entry["style"], static=static)

    def missing(self) -> list[str]:
        """Files it names that are not there."""
        names = [self.entry["image"], *(self.entry["masks"] if self.split == "dynamic" else ())]
        return [name for name in names if not (self.root / name).is_file()]

    def picture(self) -> PIL.Image.Image:
        """The picture to start from, RGB, as it lies in the file.

        Raises:
          UserError: if it is missing or damaged.
        """
        file = self.root / self.entry["image"]
        if not file.is_file():
            raise UserError(f"no file {file}")
        try:
            with PIL.Image.open(file) as opened:
                return opened.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"{file}: damaged or no picture ({error})") from error


def read(dataset: str | Path, split: str) -> list[Sample]:
    """The samples of a split, in order; those that cannot be used say why.

    Args:
      dataset: the folder `WorldScore-Dataset`, or the one that it is in.
      split: of `paths.SPLITS`.

    Raises:
      UserError: if the list is missing, damaged or no list of entries.
    """
    root = Path(dataset)
    root = root / DATASET if (root / DATASET).is_dir() else root
    file = root / split / f"{split}.json"
    if not file.is_file():
        parquet = root.is_dir() and any(root.rglob("*.parquet"))
        hint = " (Parquet files, which are there, lack file names and masks)" if parquet else ""
        raise UserError(f"--dataset {dataset}: no file {file}; expected the unpacked {DATASET}.zip{hint}")
    entries = io.read_json(file)
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{file}: expected a list of entries, found {'an empty one' if entries == [] else 'no list'}")
    taken: dict[str, int] = {}
    samples = []
    for place, entry in enumerate(entries):
        sample = Sample(split, place, entry, root, _fault(entry, split))
        if sample.fault is None and (other := taken.setdefault(sample.folder, place)) != place:
            sample = dataclasses.replace(sample, fault=f"its result would take the place of entry {other}'s")
        samples.append(sample)
    return samples


def _fault(entry: Any, split: str) -> str | None:
    """What makes an entry unusable."""
    if not isinstance(entry, dict):
        return f"expected an object, found {type(entry).__name__}"
    kind, text = _WORDS[split]
    for name in ("image", "visual_style", "style", kind, *([text] if split == "dynamic" else [])):
        if not isinstance(entry.get(name), str):
            return f"expected a text {name!r}, found {entry.get(name)!r}"
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
    named = [entry["image"], *(entry["masks"] if split == "dynamic" else ())]
    if away := [name for name in named if Path(name).is_absolute() or ".." in Path(name).parts]:
        return f"{away[0]!r} leads out of the data set"
    category, file = ("", *Path(entry["image"]).parts)[-2:]
    parts = [entry["visual_style"], entry[kind], category, file.split(".")[0]]
    if bad := [part for part in parts if part in ("", ".", "..") or "/" in part]:
        return f"{bad[0]!r} cannot be the name of a folder"
    return None


def lacks(out: Path, sample: Sample, frames: int) -> str | None:
    """What a result lacks of what the scorer asks for, as a sentence; None for a finished one.

    Args:
      out: that holds `worldscore_output`.
      sample: without fault.
      frames: of one move.
    """
    folder, total = out / OUTPUT / sample.folder, paths.total_frames(sample.moves, frames)
    if not folder.is_dir():
        return "not made yet"
    static = sample.split == "static"
    for name in ["input_image.png", "image_data.json", *(["camera_data.json"] if static else [])]:
        if not (folder / name).is_file():
            return f"no {name}"
    try:
        about = json.loads((folder / "image_data.json").read_text("utf-8"))
        poses = json.loads((folder / "camera_data.json").read_text("utf-8"))["cameras_interp"] if static else None
        if about["total_frames"] != total or (poses is not None and len(poses) != total):
            return f"{about['total_frames']} frames and {len(poses or ())} cameras are told of, expected {total}"
    except (ValueError, KeyError, TypeError) as error:
        return f"image_data.json or camera_data.json is damaged ({type(error).__name__}: {error})"
    there = sum(1 for _ in (folder / "frames").glob("*.png"))
    return None if there == total else f"{there} frames, expected {total}"


def damaged_frames(out: Path, sample: Sample) -> list[str]:
    """Names of frames of a finished result that are no whole PNG files. Reads them all."""
    bad = []
    for file in sorted((out / OUTPUT / sample.folder / "frames").glob("*.png")):
        try:
            with PIL.Image.open(file) as opened:
                opened.verify()
        except (OSError, SyntaxError, ValueError):
            bad.append(file.name)
    return bad


def save(
    out: Path,
    sample: Sample,
    picture: PIL.Image.Image,
    frames: np.ndarray,
    *,
    move_frames: int,
    speed: float,
    fps: float,
) -> None:
    """Writes the result of a sample: its folder is there when all is in it, and not before.

    Args:
      out: that holds `worldscore_output`.
      sample: without fault.
      picture: as it was given to the model, at the size of the frames.
      frames: uint8 `[T, H, W, 3]`.
      move_frames, speed: of the camera path.
      fps: of the video.
    """
    total = paths.total_frames(sample.moves, move_frames)
    if len(frames) != total:
        raise ValueError(f"{len(frames)} frames for a path of {total}")
    final = out / OUTPUT / sample.folder
    work = out / ".unfinished" / sample.folder.replace("/", "-")  # outside, as the scorer takes all folders for results
    shutil.rmtree(work, ignore_errors=True)
    (work / "frames").mkdir(parents=True)
    digits = max(3, len(str(total - 1)))
    for index, frame in enumerate(frames):
        PIL.Image.fromarray(frame).save(work / "frames" / f"{index:0{digits}d}.png")
    viz.write_video(work / "videos" / "output.mp4", frames, fps=fps)
    picture.save(work / "input_image.png")
    about = sample.entry | {"num_scenes": len(sample.moves), "total_frames": total}
    if sample.split == "static":
        about["anchor_frame_idx"] = paths.anchors(sample.moves, move_frames)
        io.write_json(work / "camera_data.json", paths.camera_data(sample.moves, move_frames, speed))
    io.write_json(work / "image_data.json", about)
    for file in work.rglob("*.png"):
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())
    final.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(final, ignore_errors=True)
    work.rename(final)


def write_model_config(
    out: Path, name: str, scored: tuple[int, int], *, move_frames: int, speed: float, fps: float
) -> Path:
    """Writes the file that registers the model with the scorer (its `config/model_configs/NAME.yaml`)."""
    file = out / f"{name}.yaml"
    lines = {
        "model": name,
        "runs_root": json.dumps(str(out.absolute())),
        "resolution": [scored[1], scored[0]],
        "generate_type": "i2v",
        "frames": move_frames,
        "fps": f"{fps:g}",
        "camera_speed": f"{speed:g}",
    }
    io.write_text(file, "".join(f"{key}: {value}\n" for key, value in lines.items()))
    return file
