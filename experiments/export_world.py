"""A world for other programs: COLMAP and nerfstudio folders, PLY, camera paths, video.

    python -m experiments.export_world --run out/room --out out/room_export                what generate left there
    python -m experiments.export_world --world world.safetensors --out out/world_export    what a world file holds

Of a run, pictures are those of its video. A world file has none: the latent frames that it keeps are decoded (64 at
most, the latest), and points take the colours of the pictures that they were first seen in.
"""

from __future__ import annotations

import pathlib

from absl import flags

from experiments.shared import cli, exports, loading, world_pictures
from mirage_jax import viz, weights, world
from mirage_jax.errors import UserError
from mirage_jax.geometry import pose_files
from mirage_jax.weights import world_files

_RUN = flags.DEFINE_string("run", None, "Folder that generate wrote.")
_WORLD = flags.DEFINE_string("world", None, "World file that generate or the explorer saved.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Model that made --world; default: the one that ships.")
_FORMATS = flags.DEFINE_list("formats", ",".join(exports.WRITERS), "What to write, of these.")
_OUT = flags.DEFINE_string("out", None, "Folder for the results.", required=True)


def main(_) -> None:
    """Exports."""
    if (_RUN.value is None) == (_WORLD.value is None):
        raise UserError("give either --run, a folder that generate wrote, or --world, a world file")
    if _CHECKPOINT.value is not None and _WORLD.value is None:
        raise UserError("--checkpoint goes with --world: of a run, no model is needed")
    if unknown := sorted(set(_FORMATS.value) - set(exports.WRITERS)):
        raise UserError(f"--formats: {unknown[0]!r} is none of {', '.join(exports.WRITERS)}")
    out = cli.prepare_output(_OUT.value)
    walk = _of_run(pathlib.Path(_RUN.value)) if _RUN.value is not None else _of_world(_WORLD.value)
    for name in _FORMATS.value:
        made, write = exports.WRITERS[name]
        write(walk, out)
        print(f"wrote {out / made}")
    cli.write_run_config(out, cli.flag_values())


def _of_run(folder: pathlib.Path) -> exports.Walk:
    for name in ("video.mp4", "cameras.json", "memory.ply"):
        if not (folder / name).is_file():
            raise UserError(f"--run {folder}: there is no {name}, expected a folder that generate wrote")
    frames, cameras = viz.read_video(folder / "video.mp4"), pose_files.load(folder / "cameras.json").camera
    if len(frames) != len(cameras):
        raise UserError(f"--run {folder}: {len(frames)} frames and {len(cameras)} cameras; expected as many")
    points, colours = viz.read_ply(folder / "memory.ply")
    fps = viz.frame_rate(folder / "video.mp4")
    return exports.Walk(frames[:, : cameras.height, : cameras.width], cameras, points, colours, fps)


def _of_world(path: str) -> exports.Walk:
    try:
        saved = world_files.read(path)
    except UserError as error:
        raise UserError(f"--world: {error}") from error
    folder = _CHECKPOINT.value or weights.DEFAULT
    model = weights.read_config(folder)
    config = world.WorldConfig(model=model, recipe=loading.recipe(model, None, 0, saved), **saved.sizes)
    cli.keep_compiled_programs()
    params = loading.prepared(config, folder, None, None)
    state = saved.restored(config, loading.shapes_of_state(config, params), loading.digest(folder, config))
    frames, cameras = world_pictures.kept(config, params, state)
    points, colours = world_pictures.coloured_points(config, state, frames, cameras)
    return exports.Walk(frames, cameras, points, colours, model.fps / model.vae.stride_time)


if __name__ == "__main__":
    cli.run(main)
