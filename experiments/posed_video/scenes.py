"""Scenes in a folder: what a person has of posed video, found and opened whatever its format.

    SOURCE/walk.txt                    RealEstate10K cameras, pictures in SOURCE/walk/ or SOURCE/walk.mp4
    SOURCE/pose/walk.npz               ViPE results, with intrinsics/, rgb/ and, if there, depth/ and mask/
    SOURCE/walk/sparse/0/images.bin    COLMAP model (or .txt), pictures in SOURCE/walk/images/
    SOURCE/walk/transforms.json        nerfstudio, with the pictures, depth and masks that it names
    SOURCE/walk/geometry.npz           of the PyTorch release, pictures in it or in clip.mp4
    SOURCE/walk/w2c.txt                Spatia case, pictures in images/, frames/ or video.mp4
    SOURCE/walk/cameras.json           cameras of ours, pictures likewise

Folders may lie in folders. A caption is `prompt.txt` in the folder of a scene or `walk.prompt.txt` beside the scene.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from experiments.posed_video import pictures, scene_depth
from experiments.posed_video.pictures import Pictures
from experiments.posed_video.scene_depth import Depth
from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera, pose_files
from mirage_jax.geometry.pose_files import PoseFile, colmap, realestate

_SHAPE_TOLERANCE = 0.01  # relative, of width over height: sizes are whole numbers
_USUAL_PLACES = ("images", "frames", "rgb", "video", "clip")


@dataclasses.dataclass(frozen=True)
class Scene:
    """Where a scene is.

    Attributes:
      name: its path below the source, without suffix.
      root: the folder of this scene alone, or the path that its files share but for their suffix.
      cameras: file or folder of its cameras.
      opened_by: reads it.
    """

    name: str
    root: pathlib.Path
    cameras: pathlib.Path
    opened_by: Callable[[Scene], PosedVideo]

    def open(self) -> PosedVideo:
        """Reads the cameras, and finds the pictures and depth.

        Raises:
          UserError: if something is missing, damaged, or does not fit together.
        """
        with io.foreign(self.cameras, "a scene that can be read"):
            return self.opened_by(self)


@dataclasses.dataclass(frozen=True)
class PosedVideo:
    """Cameras and pictures of the same frames.

    Attributes:
      camera: `Camera[T]` of numpy arrays, on the grid of the pictures.
      pictures: `T` of them.
      depth: of the same frames, or None.
      format: of the files, for people to read.
      caption: or "".
    """

    camera: Camera
    pictures: Pictures
    depth: Depth | None
    format: str
    caption: str


def find(source: pathlib.Path) -> list[Scene]:
    """All scenes in a folder and the folders in it, by name.

    Raises:
      UserError: if there is no such folder, or it holds no scene.
    """
    if not source.is_dir():
        raise UserError(f"there is no folder {source}, expected one that holds scenes")
    found = sorted(_below(source, source, set()), key=lambda scene: io.natural(scene.name))
    if not found:
        raise UserError(
            f"{source} holds no scene; expected RealEstate10K text, ViPE results, COLMAP models, transforms.json, "
            "geometry.npz, Spatia cases or cameras.json, with their pictures"
        )
    return found


def _below(folder: pathlib.Path, source: pathlib.Path, seen: set[pathlib.Path]) -> Iterator[Scene]:
    if folder.resolve() in seen:  # a link that leads back
        return
    seen.add(folder.resolve())
    name = folder.relative_to(source).as_posix() if folder != source else source.resolve().name
    results = sorted((folder / "pose").glob("*.npz"))
    if results:
        prefix = f"{name}/" if folder != source else ""
        yield from (Scene(prefix + path.stem, folder / path.stem, path, _open_vipe) for path in results)
        return
    for cameras, opened_by in _KINDS.items():
        if (folder / cameras).exists():
            yield Scene(name, folder, folder / cameras, opened_by)
            return
    if (model := colmap.model_folder(folder)) is not None:
        yield Scene(name, folder, model, _open_colmap)
        return
    for child in sorted(folder.iterdir()):
        if child.is_dir() and not child.name.startswith("."):
            yield from _below(child, source, seen)
        elif child.suffix == ".txt" and _is_realestate(child):
            root = child.with_suffix("")
            yield Scene(root.relative_to(source).as_posix(), root, child, _open_realestate)


def _is_realestate(path: pathlib.Path) -> bool:
    """Whether a text holds such cameras, or lies beside pictures of its name and so ought to."""
    try:
        return realestate.recognised(path) or bool(pictures.find(path.with_suffix("")))
    except UserError:
        return False


def _open_realestate(scene: Scene) -> PosedVideo:
    found = pictures.find(scene.root)
    height, width = found.size
    file = pose_files.load(scene.cameras, height=height, width=width)
    return _posed(scene, file, pictures.in_order(found, len(file.camera), file.names))


def _open_vipe(scene: Scene) -> PosedVideo:
    if scene.cameras.name == "pose.npz":
        depth, mask, rgb = scene.root / "depth.zip", scene.root / "mask.zip", scene.root / "rgb"
    else:
        folder, name = scene.root.parent, scene.root.name
        depth, mask, rgb = folder / "depth" / f"{name}.zip", folder / "mask" / f"{name}.zip", folder / "rgb" / name
    found = pictures.find(rgb, scene.root)
    height, width = found.size
    file = pose_files.load(scene.cameras, height=height, width=width)
    numbers = [int(frame) for frame in file.names]
    if isinstance(found, pictures.Files) and numbers[-1] >= len(found):
        raise UserError(f"{scene.cameras} has a pose of frame {numbers[-1]}, there are {len(found)} pictures")
    return _posed(scene, file, _Chosen(found, numbers), scene_depth.from_vipe(depth, mask, file.names, file.camera))


def _open_colmap(scene: Scene) -> PosedVideo:
    file, folder = pose_files.load(scene.cameras), scene.root
    places = [place for place in (folder / "images", folder) if (place / file.names[0]).is_file()]
    if not places:
        raise UserError(f"there is no picture {folder / 'images' / file.names[0]}, which {scene.cameras} names")
    return _posed(scene, file, pictures.Files([places[0] / name for name in file.names]))


def _open_nerfstudio(scene: Scene) -> PosedVideo:
    folder, content = scene.cameras.parent, io.read_json_object(scene.cameras)
    frames = content.get("frames")
    if (
        not isinstance(frames, list)
        or not all(isinstance(x, dict) and x.get("file_path") for x in frames)
        or not frames
    ):
        raise UserError(f"{scene.cameras}: 'frames' is not a list of objects with 'file_path', one for every picture")
    frames = sorted(frames, key=lambda frame: io.natural(str(frame["file_path"])))
    found = pictures.Files([_with_suffix(folder / str(frame["file_path"])) for frame in frames])
    stated = all("w" in (content | frame) and "h" in (content | frame) for frame in frames)
    height, width = (None, None) if stated else found.size
    file = pose_files.load(scene.cameras, height=height, width=width)
    return _posed(scene, file, found, scene_depth.from_nerfstudio(folder, frames, file.camera))


def _open_release(scene: Scene) -> PosedVideo:
    file, arrays = pose_files.load(scene.cameras), io.Arrays(scene.cameras)
    if "frames" in arrays.names:
        found = pictures.Stack(scene.cameras, arrays["frames"])
    else:
        found = pictures.find(*(scene.cameras.with_name(name) for name in ("clip", "frames", "images")))
    depth = scene_depth.from_arrays(file.depth) if file.depth is not None else None
    return _posed(scene, file, pictures.in_order(found, len(file.camera)), depth)


def _open_other(scene: Scene) -> PosedVideo:
    """A Spatia case or cameras of ours: pictures where they usually are."""
    file, folder = pose_files.load(scene.cameras), scene.cameras.parent
    found = pictures.find(*(folder / name for name in _USUAL_PLACES))
    return _posed(scene, file, pictures.in_order(found, len(file.camera), file.names))


_KINDS: dict[str, Callable[[Scene], PosedVideo]] = {
    "w2c.txt": _open_other,
    "pose.npz": _open_vipe,
    "transforms.json": _open_nerfstudio,
    "geometry.npz": _open_release,
    "cameras.json": _open_other,
}


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """Pictures by frame number."""

    parent: Pictures
    numbers: list[int]

    @property
    def size(self) -> tuple[int, int]:
        return self.parent.size

    def read(self, wanted):
        return self.parent.read([self.numbers[index] for index in wanted])


def _posed(scene: Scene, file: PoseFile, found: Pictures, depth: Depth | None = None) -> PosedVideo:
    height, width = found.size
    camera = file.camera
    if abs(camera.width * height / (camera.height * width) - 1) > _SHAPE_TOLERANCE:
        raise UserError(
            f"{scene.cameras}: its cameras are for pictures of {camera.width}x{camera.height} pixels (width x height), "
            f"the pictures have {width}x{height}; expected the same shape"
        )
    camera = camera.resized(height, width)
    camera = Camera(np.asarray(camera.intrinsics), np.asarray(camera.cam2world), height, width)
    return PosedVideo(camera, found, depth, file.format, _caption(scene) or file.prompt)


def _caption(scene: Scene) -> str:
    """The text of a scene, in one line, or ""."""
    candidates = scene.root / "prompt.txt", scene.root.with_name(f"{scene.root.name}.prompt.txt")
    return next((" ".join(io.read_text(path).split()) for path in candidates if path.is_file()), "")


def _with_suffix(path: pathlib.Path) -> pathlib.Path:
    """The file that a path without suffix means, as Blender writes them."""
    if path.is_file() or path.suffix.lower() in pictures.SUFFIXES:
        return path
    return next((p for s in pictures.SUFFIXES if (p := path.with_name(path.name + s)).is_file()), path)
