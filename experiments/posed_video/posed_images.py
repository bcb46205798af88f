"""Several posed pictures that a world starts from: any scene that `posed_video.scenes` opens, fitted to the model."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps

from experiments.posed_video import scenes
from mirage_jax import io, world
from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera, crop

MOST = 64
"""Pictures of a start; of more, so many are taken, spread evenly, the first and the last among them."""

_INSIDE_A_SCENE = (("sparse", "0"), ("sparse",), ("pose",))  # folders of a scene in which its poses lie


@dataclasses.dataclass(frozen=True)
class Posed:
    """Posed pictures at the model's size.

    Attributes:
      frames: uint8 `[T, H, W, 3]`.
      camera: `Camera[T]` of numpy arrays, in the scene's own world; the last is where one goes on from.
      depth: float32 `[T, H, W]`, inf the sky, 0 unknown; None where the scene has none.
      moving: bool `[T, H, W]`, what is not to be remembered; None where the scene does not tell.
      format: of the files.
      notes: sentences on what was done.
    """

    frames: np.ndarray
    camera: Camera
    depth: np.ndarray | None
    moving: np.ndarray | None
    format: str
    notes: tuple[str, ...]


def load(path: str | pathlib.Path, height: int, width: int, scale: float | None = None) -> Posed:
    """Reads the one scene of a folder, or the scene that a pose file belongs to.

    Pictures are scaled to cover the model's size and cut evenly, cameras and depth with them.

    Args:
      path: folder, or pose file in it.
      height, width: of the model.
      scale: metres that a unit of the scene stands for; None is 1.

    Raises:
      UserError: if there is no scene or more than one, something in it is damaged, or a pose is not finite.
    """
    path = pathlib.Path(path)
    if scale is not None and not 1e-6 <= scale <= 1e6:
        raise UserError(f"--path_scale {scale:g}: expected metres a unit of the scene, from 1e-6 to 1e6")
    scene = _scene(path)
    video = scene.open()
    with io.foreign(scene.cameras, "a scene that can be read"):
        return _fitted(scene.cameras, video, height, width, scale)


def _fitted(source: pathlib.Path, video: scenes.PosedVideo, height: int, width: int, scale: float | None) -> Posed:
    count = len(video.camera)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MOST)).round().astype(int))
    cropped = crop.centre_cropped(video.camera[chosen], height, width)
    poses = np.array(cropped.cam2world, np.float32)
    poses[:, :3, 3] *= 1.0 if scale is None else scale
    camera = Camera(np.asarray(cropped.intrinsics, np.float32), poses, height, width)
    fit = lambda picture: PIL.ImageOps.fit(picture, (width, height), PIL.Image.Resampling.LANCZOS)  # noqa: E731
    frames = np.stack([np.asarray(fit(picture)) for picture in video.pictures.read(chosen.tolist())])
    notes = [f"{len(chosen)} posed pictures ({video.format})" + (f" of {count}" if len(chosen) < count else "")]
    rows, columns = video.pictures.size
    if (rows, columns) != (height, width):
        notes.append(f"pictures of {columns}x{rows} scaled and centre-cropped to {width}x{height}")
    if scale is not None:
        notes.append(f"poses and depth of the scene are scaled by {scale:g}")
    depth = moving = None
    if video.depth is not None:
        pairs = [video.depth.on(crop.centre_cropped(video.camera[t], height, width), int(t)) for t in chosen]
        depth, moving = map(np.stack, zip(*pairs, strict=True))
        depth = depth * np.float32(1.0 if scale is None else scale)
        known = [bool((np.isfinite(d) & (d > 0)).any()) for d in depth]
        if not all(known):
            raise UserError(
                f"{source}: {known.count(False)} of {len(known)} pictures have no depth, the others have; expected "
                "depth of all, or of none"
            )
        notes.append("depth is that of the scene")
    return Posed(frames, camera, depth, moving, video.format, tuple(notes))


def repeated(posed: Posed, stride: int) -> Posed:
    """The pictures as a video `[1 + r (T - 1), ..]` in which each stands still for a latent frame.

    A latent frame has the camera of its last picture, and its code is of all of them: of different views it would be a
    code of a jump.
    """
    index = np.concatenate([[0], np.repeat(np.arange(1, len(posed.frames)), stride)]).astype(int)
    take = lambda values: None if values is None else values[index]  # noqa: E731
    return dataclasses.replace(
        posed,
        frames=posed.frames[index],
        camera=posed.camera[index],
        depth=take(posed.depth),
        moving=take(posed.moving),
    )


def _scene(path: pathlib.Path) -> scenes.Scene:
    if not path.exists():
        raise UserError(f"no file or folder {io.shown(path)}")
    folder = (path if path.is_dir() else path.parent).resolve()
    for parts in _INSIDE_A_SCENE:
        if folder.parts[-len(parts) :] == parts:
            folder = folder.parents[len(parts) - 1]
            break
    try:
        found = scenes.find(folder)
    except UserError:
        if path.is_dir():
            raise
        found = []
    if not path.is_dir():
        found = [scene for scene in found if path.resolve() in (scene.cameras.resolve(), *_inside(scene.cameras))]
    if not found:
        raise UserError(f"{path} is no pose file with its pictures beside it, as they lie in a scene's folder")
    if len(found) > 1:
        names = ", ".join(scene.name for scene in found[:3])
        raise UserError(f"{path} holds {len(found)} scenes ({names}, ..); expected one: name its folder or its file")
    return found[0]


def _inside(cameras: pathlib.Path) -> list[pathlib.Path]:
    return [path.resolve() for path in cameras.iterdir()] if cameras.is_dir() else []


def observe(config: world.WorldConfig, params: Any, posed: Posed, key: Any) -> Any:
    """The world that has seen the pictures; see `world.observe`.

    Raises:
      UserError: if the model can neither guess their depth nor was given it.
    """
    if config.depth_from == "given" and posed.depth is None:
        raise UserError(f"the model {config.model.name!r} guesses no depth, and the scene has none")
    still = repeated(posed, config.model.vae.stride_time)
    moving = None if still.moving is None or not still.moving.any() else still.moving
    return world.observe(config, params, still.frames, still.depth, still.camera, key, moving)
