"""From one picture and a camera path to a video that remembers.

    python -m experiments.generate --image room.jpg --trajectory "yaw 90; back" --out out/room

A path is words (see mirage_jax/geometry/trajectory.py) or a camera file. `--dry_run` draws the path and runs no model.
"""

from __future__ import annotations

import dataclasses
import operator
import time

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from absl import flags

from experiments import cli, depths, inputs, loading, outputs, prompts
from mirage_jax import viz, weights, world
from mirage_jax.errors import UserError
from mirage_jax.geometry import trajectory
from mirage_jax.memory import kinds, latent
from mirage_jax.weights import world_files

_IMAGE = flags.DEFINE_string("image", None, "Picture to start from.")
_TRAJECTORY = flags.DEFINE_string("trajectory", None, "Camera path in words, or a camera file.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder for the results.", required=True)
_FRAMES = flags.DEFINE_integer("frames", None, "Frames of the video, 4k + 1; default: those of a camera file, else 65.")
_INTRINSICS = flags.DEFINE_list("intrinsics", None, "fx,fy,cx,cy in pixels of the picture as it is in the file.")
_FOV = flags.DEFINE_float("fov", None, f"Degrees across the picture; default {inputs.ASSUMED_FOV:g}.")
_DEPTH = flags.DEFINE_string("depth", None, ".npy [H, W], metres on the picture's grid; default: the model's guess.")
_DEPTHS = flags.DEFINE_string("depths", None, ".npz with depth [T, H, W] of the whole path, and keep [T, H, W] masks.")
_DEPTH_SOURCE = flags.DEFINE_enum(
    "depth_source", None, world.DEPTH_SOURCES, "Where depth comes from; default: given with --depths, else the model."
)
_RECIPE = flags.DEFINE_enum(
    "recipe",
    None,
    tuple(world.RECIPES),
    "How the method is run (mirage_jax/world/recipe.py); default: the model's own.",
)
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Model folder; default: the model that ships with the project.")
_MEMORY = flags.DEFINE_enum("memory", "latent", kinds.names(), "What is remembered.")
_CAPACITY = flags.DEFINE_integer("capacity", None, "Points the memory can hold; default: all that the path can write.")
_PROMPT = flags.DEFINE_string("prompt", None, "Text, for a model trained with text (the one that ships was not).")
_PROMPT_FILE = flags.DEFINE_string("prompt_file", None, "File with one prompt a line, for one segment each.")
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "tokenizer.json, spiece.model or their folder; default: the model's."
)
_TEXT_EMBEDDINGS = flags.DEFINE_string("text_embeddings", None, "File of experiments.encode_text, in place of prompts.")
_WEIGHTS = flags.DEFINE_enum(
    "weights", None, loading.WEIGHTS, "Type of the transformer's weights; default: the one the model computes in."
)
_MESH = flags.DEFINE_list("mesh", None, "Split the model over devices: AXIS=SIZE,.. with fsdp, tensor, sequence.")
_VAE_TILE = flags.DEFINE_integer(
    "vae_tile",
    None,
    "Latent cells of a side of the VAE's tiles; 0: whole clips. Default: frame by frame above 256x256.",
)
_STEPS = flags.DEFINE_integer("steps", 0, "Sampling steps; 0: those of the recipe.")
_SEED = flags.DEFINE_integer("seed", 0, "Decides everything random.")
_SAVE_WORLD = flags.DEFINE_string("save_world", None, "File to save the world in at the end.")
_LOAD_WORLD = flags.DEFINE_string("load_world", None, "World file to go on from, in place of --image.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Draw the camera path and stop.")


def main(_) -> None:
    """Generates."""
    started = time.time()
    out = cli.prepare_output(_OUT.value)
    cli.keep_compiled_programs()
    if (_IMAGE.value is None) == (_LOAD_WORLD.value is None):
        raise UserError("give either --image, to start a world, or --load_world, to go on in one")
    folder = _CHECKPOINT.value or weights.DEFAULT
    model = weights.read_config(folder, _MEMORY.value)
    mesh = loading.parse_mesh(_MESH.value)
    stride = model.vae.stride_time
    if _FRAMES.value is not None and (_FRAMES.value <= stride or _FRAMES.value % stride != 1):
        raise UserError(f"--frames is {_FRAMES.value}, the model makes {stride}k + 1 frames ({stride + 1}, ...)")

    if _IMAGE.value is not None:
        view = inputs.load_view(
            _IMAGE.value,
            model.height,
            model.width,
            intrinsics=_numbers(_INTRINSICS.value),
            fov=_FOV.value,
            depth=_DEPTH.value,
        )
        for note in view.notes:
            print(note)
        start, known_depth = view.camera, view.depth
    else:
        view, known_depth = None, None
        start = world_files.last_camera(_LOAD_WORLD.value).resized(model.height, model.width)
    scene_depth = typical_depth(known_depth, model)
    path, origin = inputs.load_path(_TRAJECTORY.value, start, _FRAMES.value, scene_depth)
    segments, wanted = inputs.whole_segments(path, model.segment_frames)
    print(f"path {origin}: {trajectory.describe(path)}")
    viz.plot_path(out / "path.png", path, title=_TRAJECTORY.value[:80])
    cli.write_run_config(out, cli.flag_values())
    if _DRY_RUN.value:
        print(f"drew {out / 'path.png'}; no model was run (--dry_run)")
        return

    config = world_config(model, len(segments))
    given = None
    if (config.depth_from == "given") != (_DEPTHS.value is not None):
        raise UserError(
            f"depth comes from {config.depth_from!r}: --depths goes with --depth_source=given, and only with it"
        )
    if _DEPTHS.value is not None:
        first_depth, given = depths.load(_DEPTHS.value, model, len(path), len(segments))
        if view is not None and view.depth is None:
            view = dataclasses.replace(view, depth=first_depth)
    text = prompts.for_segments(
        folder,
        model,
        len(segments),
        prompt=_PROMPT.value,
        prompt_file=_PROMPT_FILE.value,
        embeddings_file=_TEXT_EMBEDDINGS.value,
        tokenizer=_TOKENIZER.value,
    )
    params = loading.prepared(config, folder, _WEIGHTS.value, mesh)
    loaded = time.time()
    with loading.on_mesh(mesh):
        config, state = start_world(config, params, view, start, len(segments))
        jax.block_until_ready(state)
        prepared = time.time()
        print(f"generating {wanted} frames in {len(segments)} segments", flush=True)
        state, output = _rollout_with_progress(config, params, state, segments, text, given)
        generated = time.time()

    frames = np.asarray(output.frames).reshape(-1, model.height, model.width, 3)[:wanted]
    cameras = path[1:]
    if view is not None:
        frames, cameras = np.concatenate([view.image[None], frames]), path
    report = {
        "config": cli.flag_values(),
        "segments": outputs.diagnostics(output),
        "notes": list(view.notes) if view is not None else [],
        "seconds": {
            "load": round(loaded - started, 2),
            "init": round(prepared - loaded, 2),
            "rollout_with_compilation": round(generated - prepared, 2),
        },
    }
    outputs.write_results(out, config, frames, cameras, state.memory, report)
    if _SAVE_WORLD.value:
        world_files.save(_SAVE_WORLD.value, config, state)
        print(f"saved the world in {_SAVE_WORLD.value}")
    held, lost = int(state.memory.size), int(state.memory.overflow)
    print(f"wrote {out}/video.mp4 ({len(frames)} frames); the memory holds {held} points, {lost} found no room")


def start_world(config, params, view, start, segments: int):
    """The world of the picture, or the one that is loaded, with room for `segments`; and its config."""
    if view is not None:
        return config, world.init(config, params, view.image, view.depth, start, jax.random.key(_SEED.value))
    size = (config.model.height, config.model.width)
    image, depth = jnp.zeros((*size, 3), jnp.uint8), jnp.zeros(size)
    like = jax.eval_shape(lambda p, k: world.init(config, p, image, depth, start, k), params, jax.random.key(0))
    state = world_files.load(_LOAD_WORLD.value, config, like)
    room = _CAPACITY.value or int(state.memory.size) + world.full_capacity(config.model, config.memory, segments)
    config = dataclasses.replace(config, capacity=max(config.capacity, room))
    return config, state.replace(memory=latent.grown(state.memory, config.capacity))


def _rollout_with_progress(config, params, state, segments, text, given):
    """`world.rollout`, one segment a call: a scan cannot say how far it is."""
    outputs = []
    for index in tqdm.trange(len(segments), unit="segment", disable=len(segments) == 1):
        prompt = None if text is None else text[index]
        known = None if given is None else jax.tree.map(operator.itemgetter(index), given)
        state, output = world.segment(config, params, state, segments[index], prompt, known)
        outputs.append(jax.device_get(output))
    return state, jax.tree.map(lambda *parts: np.stack(parts), *outputs)


def world_config(model, segments: int) -> world.WorldConfig:
    """The static sizes: from the flags, or from the world that is loaded."""
    source = _DEPTH_SOURCE.value or ("given" if _DEPTHS.value is not None else "")
    seen = {
        "depth_source": source,
        "recipe": loading.recipe(model, _RECIPE.value, _STEPS.value),
        "vae_tile": loading.vae_tile(model, _VAE_TILE.value),
    }
    if _LOAD_WORLD.value is not None:
        sizes = world_files.memory_size(_LOAD_WORLD.value)
        if flags.FLAGS["memory"].present and sizes["memory"] != _MEMORY.value:
            raise UserError(f"--memory={_MEMORY.value}: the world in {_LOAD_WORLD.value} has memory {sizes['memory']}")
        return world.WorldConfig(model=model, **sizes, **seen)  # pyright: ignore
    needed = world.full_capacity(model, _MEMORY.value, segments)
    config = world.WorldConfig(
        model=model,
        memory=_MEMORY.value,
        capacity=_CAPACITY.value or needed,
        bank=max(32, 1 + segments * model.segment.latents),
        **seen,
    )
    if config.capacity < needed:
        print(f"note: --capacity={config.capacity} may be too small, the path can write {needed} points")
    return config


def typical_depth(depth, model) -> float:
    """Metres that `1d` in a trajectory stands for: the median of the known depth, else the heads' usual."""
    if depth is None:
        return model.heads.typical_depth if model.heads is not None else 5.0
    return float(np.median(depth[np.isfinite(depth) & (depth > 0)]))


def _numbers(values: list[str] | None) -> list[float] | None:
    try:
        return None if values is None else [float(v) for v in values]
    except ValueError as error:
        raise UserError(f"--intrinsics {','.join(values or [])}: expected four numbers fx,fy,cx,cy") from error


if __name__ == "__main__":
    cli.run(main)
