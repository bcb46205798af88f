"""From one picture and a camera path to a video that remembers.

    python -m experiments.generate --image room.jpg --trajectory "yaw 90; back" --out out/room

`--trajectory` is a path in words, a text file of such words, or a camera file: cameras.json or npz of ours,
RealEstate10K text, a Spatia case, a COLMAP model, nerfstudio (transforms.json, the viewer's camera_path.json, exported
cameras), ViPE results, geometry.npz of the PyTorch release, TUM or KITTI poses, .npy of [N, 4, 4]. The lens of such a
file, fitted to the model's frames, is that of picture and path, unless --fov or --intrinsics say otherwise.

`--dry_run` checks all that can be checked without running the model, draws the path and stops.

A long video is saved every `--save_every` segments. After a crash, the same command with `--resume` goes on from the
last save and makes the same frames as if nothing had happened.

The words:

"""

from __future__ import annotations

import dataclasses
import hashlib
import operator
import pathlib
import time
from typing import Any

import jax
import numpy as np
import tqdm
from absl import flags

from experiments.posed_video import depths, posed_images
from experiments.shared import cli, drawings, inputs, likeness, loading, lora_files, outputs, prompts
from experiments.shared.recording import Recording
from mirage_jax import weights, world
from mirage_jax.errors import UserError
from mirage_jax.geometry import crop, trajectory_text
from mirage_jax.memory import kinds, latent
from mirage_jax.models import codec
from mirage_jax.weights import world_files
from mirage_jax.world import sound
from mirage_jax.world.state import placed

__doc__ += trajectory_text.GRAMMAR  # for --help

_IMAGE = flags.DEFINE_string("image", None, "Picture to start from.")
_IMAGES = flags.DEFINE_string(
    "images", None, "Folder of a scene, or pose file in it: several posed pictures to start from, in place of --image."
)
_BACKGROUND = flags.DEFINE_string(
    "background", None, "Colour behind transparent parts of the picture, by name; default: white."
)
_TRAJECTORY = flags.DEFINE_string("trajectory", None, "Camera path in words, or a camera file.", required=True)
_PATH_SCALE = flags.DEFINE_float(
    "path_scale",
    None,
    "Metres that a unit of the camera file, or of the scene of --images, stands for (COLMAP's are arbitrary); "
    "default: 1.",
)
_OUT = flags.DEFINE_string("out", None, "Folder for the results.", required=True)
_FRAMES = flags.DEFINE_integer(
    "frames",
    None,
    "Frames of the video, 4k + 1 for a model of four frames a latent; default: those of a camera file, else 65.",
)
_SEGMENT = flags.DEFINE_integer(
    "segment", None, "Latent frames of a segment, one of the lengths that the model was trained for; default: its own."
)
_INTRINSICS = flags.DEFINE_list("intrinsics", None, "fx,fy,cx,cy in pixels of the picture as it is in the file.")
_FOV = flags.DEFINE_float("fov", None, f"Degrees across the picture; default {crop.ASSUMED_FOV:g}.")
_DEPTH = flags.DEFINE_string("depth", None, ".npy [H, W], metres on the picture's grid; default: the model's guess.")
_DEPTHS = flags.DEFINE_string(
    "depths",
    None,
    ".npz with depth [T, H, W] of the whole path, and keep [T, H, W] masks; or geometry.npz of the PyTorch release.",
)
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
_MEMORY = flags.DEFINE_enum(
    "memory",
    "latent",
    kinds.names(),
    "What is remembered. The model that ships was trained with latent: with rgb it reads the encoded pictures of "
    "coloured points instead, with none an empty memory. One trained with rgb or none is a checkpoint of its own.",
)
_CAPACITY = flags.DEFINE_integer(
    "capacity",
    None,
    "Points the memory can hold; default: room for all that the path can write, up to 4,194,304.",
    lower_bound=1,
)
_PROMPT = flags.DEFINE_string("prompt", None, "Text, for a model trained with text (the one that ships was not).")
_PROMPT_FILE = flags.DEFINE_string("prompt_file", None, "File with one prompt a line, for one segment each.")
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "tokenizer.json, spiece.model or their folder; default: the model's."
)
_TEXT_EMBEDDINGS = flags.DEFINE_string("text_embeddings", None, "File of experiments.encode_text, in place of prompts.")
_WEIGHTS = flags.DEFINE_enum(
    "weights", None, loading.WEIGHTS, "Type of the transformer's weights; default: the one the model computes in."
)
_LORA = flags.DEFINE_multi_string(
    "lora",
    [],
    "LoRA of the transformer to add, FILE or FILE=STRENGTH (1); give the flag again for more. The memory's own, which "
    "is part of the model, stays.",
)
_MESH = flags.DEFINE_list("mesh", None, "Split the model over devices: AXIS=SIZE,.. with fsdp, tensor, sequence.")
_VAE_TILE = flags.DEFINE_integer(
    "vae_tile",
    None,
    "Latent cells of a side of the VAE's tiles; 0: whole clips. Default: frame by frame above 256x256.",
)
_VAE_DTYPE = flags.DEFINE_enum("vae_dtype", "float32", codec.DTYPES, "In which the VAE computes.")
_STEPS = flags.DEFINE_integer(
    "steps", 0, "Sampling steps; 0: those of the recipe.", lower_bound=0, upper_bound=world.recipe.MOST_STEPS
)
_SAMPLING = flags.DEFINE_enum(
    "sampling",
    None,
    tuple(world.recipe.SAMPLINGS),
    "How a Wan model is sampled: wan (50 steps, guidance 5), or as models or LoRAs distilled from it to few steps were "
    "trained: fastwan (3 steps), turbo (4); default: that of the recipe.",
)
_GUIDANCE = flags.DEFINE_float(
    "guidance", None, "Scale of classifier-free guidance, twice the work of a step; 1 is none. Default: the recipe's."
)
_NEGATIVE_PROMPT = flags.DEFINE_string(
    "negative_prompt", None, "Text that guidance leads away from; default: that of Wan's own code."
)
_STEP_CACHE = flags.DEFINE_float(
    "step_cache",
    None,
    "Relative change up to which sampling steps take the transformer's output of the step before, say 0.06; 0 is none. "
    "Default: the recipe's.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Decides everything random.", lower_bound=0, upper_bound=cli.LARGEST_SEED)
_SAVE_WORLD = flags.DEFINE_string("save_world", None, "File to save the world in at the end.")
_LOAD_WORLD = flags.DEFINE_string("load_world", None, "World file to go on from, in place of --image.")
_SAVE_EVERY = flags.DEFINE_integer(
    "save_every", 10, "Segments between saves of an unfinished video, from which --resume goes on.", lower_bound=1
)
_RESUME = flags.DEFINE_bool(
    "resume", False, "Go on with the unfinished video in --out; starts a new one where none was saved."
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Check the flags and files, draw the camera path and stop.")


def main(_) -> None:
    """Generates."""
    started = time.time()
    _check_flags()
    out = cli.prepare_output(_OUT.value)
    cli.keep_compiled_programs()
    folder = _CHECKPOINT.value or weights.DEFAULT
    model = weights.read_config(folder)
    model = model if _SEGMENT.value is None else model.with_segments_of(_SEGMENT.value)
    mesh, loras = loading.parse_mesh(_MESH.value), lora_files.parse(_LORA.value, model)
    stride = model.vae.stride_time
    if _FRAMES.value is not None and (_FRAMES.value <= stride or (_FRAMES.value - 1) % stride):
        wanted = f"{stride}k + 1 frames ({stride + 1}, ...)" if stride > 1 else "2 frames or more"
        raise UserError(f"--frames is {_FRAMES.value}, the model makes {wanted}")

    own_lens = _FOV.value is None and _INTRINSICS.value is None
    source = inputs.read_trajectory(_TRAJECTORY.value, model.height, model.width, own_lens)
    saved = None if _LOAD_WORLD.value is None else _read_world(_LOAD_WORLD.value)
    view, start, notes = _first_view(model, source, saved)
    scale = None if isinstance(source, inputs.Words) and _IMAGES.value is not None else _PATH_SCALE.value
    depth = typical_depth(None if view is None else view.depth, model)
    path, origin = inputs.lay_path(source, start, _FRAMES.value, depth, scale)
    segments, wanted = inputs.whole_segments(path, model.segment_frames)
    for note in notes:
        print(note)
    print(f"path {origin}: {drawings.describe(path)}")

    config = world_config(model, len(segments), saved, view)
    view, given = _known_depth(config, view, path, len(segments), notes)
    prompts.check(model, len(segments), **_prompt_flags())
    frames = wanted + (view is not None)
    recording = None if _DRY_RUN.value else Recording(out, frames=frames, fps=model.fps, resume=_RESUME.value)
    outputs.clear(out)
    drawings.plot_path(out / "path.png", path, title=_TRAJECTORY.value[:80])
    cli.write_run_config(out, cli.flag_values())
    if recording is None:
        print(f"drew {out / 'path.png'}; no model was run (--dry_run)")
        return

    first = None if given is None else jax.tree.map(operator.itemgetter(0), given)
    loading.check_room(config, folder, _WEIGHTS.value, mesh, first)
    text = prompts.for_segments(folder, model, len(segments), **_prompt_flags(), tokenizer=_TOKENIZER.value)
    away = prompts.negative(folder, model, _NEGATIVE_PROMPT.value, _TOKENIZER.value) if config.guided else None
    recording.begin(_run(saved, view, path, (text, away), given))
    saves = saved is not None or _SAVE_WORLD.value is not None or len(segments) > _SAVE_EVERY.value
    digest = loading.digest(folder, config, loras) if saves else ""  # which reads all weights
    params = loading.prepared(config, folder, _WEIGHTS.value, mesh, loras)
    loaded, resumed = time.time(), recording.made
    with loading.on_mesh(mesh), recording:
        if view is not None and _CHECKPOINT.value is None:
            unlike = likeness.note(model, params, view.image)
            notes += [unlike] if unlike else []
            print(unlike or "", end="\n" if unlike else "")
        if recording.saved is None:
            state = start_world(config, params, view, saved, start, digest)
            sound.check_state(state)
            recording.add(view.image[None] if view is not None else np.zeros((0,)))
        else:
            state = start_world(config, params, None, recording.saved, start, digest)
            print(f"going on after {resumed} of {len(segments)} segments, which were saved")
        jax.block_until_ready(state)
        prepared = time.time()
        print(f"generating {wanted} frames in {len(segments)} segments", flush=True)
        state = _rollout(config, params, state, segments, (text, away), given, wanted, recording, digest)
        generated = time.time()

    recording.finish(out / "video.mp4", out / "contact_sheet.png")
    report = {
        "config": cli.flag_values(),
        "path": origin,
        "segments": recording.rows,
        "resumed_after_segments": resumed,
        "notes": notes + recording.notes,
        "seconds": {
            "load": round(loaded - started, 2),
            "init": round(prepared - loaded, 2),
            "rollout_with_compilation": round(generated - prepared, 2),
        },
    }
    outputs.write_results(out, config, path if view is not None else path[1:], state, report)
    if _SAVE_WORLD.value:
        world_files.save(_SAVE_WORLD.value, config, state, digest)
        print(f"saved the world in {_SAVE_WORLD.value}")
    recording.discard()
    held, lost = int(state.memory.size), int(state.memory.overflow)
    print(f"wrote {out}/video.mp4 ({frames} frames); the memory holds {held} points, {lost} had to go for others")


def _check_flags() -> None:
    """Refuses flags that would have no effect, or that cannot work whatever the files hold."""
    if sum(flag.value is not None for flag in (_IMAGE, _IMAGES, _LOAD_WORLD)) != 1:
        raise UserError("give either --image or --images, to start a world, or --load_world, to go on in one")
    for flag in (_INTRINSICS, _FOV, _DEPTH, _BACKGROUND):
        if flag.value is not None and _LOAD_WORLD.value is not None:
            raise UserError(f"--{flag.name} is of the picture of --image; a world of --load_world has seen its own")
        if flag.value is not None and _IMAGES.value is not None:
            raise UserError(f"--{flag.name} is of the picture of --image; the scene of --images tells its own")
    if _FOV.value is not None and not 5 <= _FOV.value <= 150:  # NaN is not
        raise UserError(f"--fov {_FOV.value:g}: expected degrees between 5 and 150")
    if _RESUME.value and _DRY_RUN.value:
        raise UserError("--resume goes on with a video, --dry_run makes none: give one of them")
    if _SAVE_WORLD.value:
        cli.check_writable("--save_world", _SAVE_WORLD.value)
        if pathlib.Path(_SAVE_WORLD.value).resolve().parent == pathlib.Path(_OUT.value).resolve() and (
            pathlib.Path(_SAVE_WORLD.value).name in outputs.RESULTS
        ):
            raise UserError(
                f"--save_world {_SAVE_WORLD.value}: that is the name of a result in --out; expected another"
            )


def _prompt_flags() -> dict[str, str | None]:
    return {"prompt": _PROMPT.value, "prompt_file": _PROMPT_FILE.value, "embeddings_file": _TEXT_EMBEDDINGS.value}


def _read_world(path: str) -> world_files.SavedWorld:
    try:
        return world_files.read(path)
    except UserError as error:
        raise UserError(f"--load_world: {error}") from error


def _first_view(model, source, saved):
    """The picture fitted to the model, or None for a world that goes on; the camera that the path starts at; notes."""
    lens = None if isinstance(source, inputs.Words) else source.intrinsics
    notes = [] if isinstance(source, inputs.Words) else list(source.notes)
    if saved is not None:
        return None, saved.last_camera.resized(model.height, model.width), notes
    if _IMAGES.value is not None:
        view = inputs.load_views(_IMAGES.value, model.height, model.width, _PATH_SCALE.value)
        return view, view.camera, [*notes, *view.notes]
    view = inputs.load_view(
        _IMAGE.value,
        model.height,
        model.width,
        intrinsics=_numbers(_INTRINSICS.value),
        fov=_FOV.value,
        lens=None if lens is None else lens[0],
        depth=_DEPTH.value,
        background=_BACKGROUND.value,
    )
    if not isinstance(source, inputs.Words) and (_FOV.value is not None or _INTRINSICS.value is not None):
        flag = "--fov" if _FOV.value is not None else "--intrinsics"
        notes.append(f"the lens of {flag} is used for the whole path; that of the camera file, if it has one, is not")
    return view, view.camera, [*notes, *view.notes]


def _known_depth(config, view, path, segments: int, notes: list[str]):
    """The view with the first depth of `--depths`, and what is given with the segments, or None."""
    if config.depth_from == "given" and _DEPTHS.value is None:
        raise UserError(
            "depth comes from 'given': --depths goes with --depth_source=given"
            if _DEPTH_SOURCE.value
            else f"the model {config.model.name!r} guesses no depth, so that nothing could be remembered: give the "
            "depth of the whole path (--depths), or add Depth Anything to the model once: python -m "
            "experiments.convert_weights --source Depth-Anything-V2 --layout depth_anything --depth large_outdoor "
            f"--out {_CHECKPOINT.value}"
        )
    if _DEPTHS.value is None:
        return view, None
    if config.depth_from != "given":
        raise UserError(
            f"depth comes from {config.depth_from!r}: --depths goes with --depth_source=given, and only with it"
        )
    said: list[str] = []
    first_depth, given = depths.load(_DEPTHS.value, config.model, len(path), segments, _PATH_SCALE.value, said)
    notes += said
    for note in said:
        print(note)
    if view is not None and view.depth is None:
        view = dataclasses.replace(view, depth=first_depth)
    return view, given


def _run(saved, view, path, texts, given) -> dict[str, Any]:
    """What decides the frames: the flags, and what was read from the files that they name."""
    apart, (text, away) = ("out", "save_world", "resume", "dry_run"), texts
    read = {
        "the picture": None if view is None else (view.image, view.depth),
        "the posed pictures": _arrays_of(view.posed) if view is not None and view.posed is not None else None,
        "the camera path": path,
        "the text": (text if text is None or text.strides[0] else text[:1], away),  # the first may be that of all
        "the given depth": given,
    }
    return {
        **{f"--{name}": value for name, value in cli.flag_values().items() if name not in apart},
        **{name: _digest(arrays) for name, arrays in read.items()},
        "begun": 0 if saved is None else saved.segments,
    }


def _arrays_of(posed: posed_images.Posed) -> tuple:
    return posed.frames, posed.camera, posed.depth, posed.moving


def _digest(arrays: Any) -> str:
    found = hashlib.sha256()
    for array in jax.tree.leaves(arrays):
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()[:16]


def start_world(config, params, view, saved, start, digest: str):
    """The world of the picture, or the one that was saved, with room for `config.capacity`."""
    if view is not None and view.posed is not None:
        return posed_images.observe(config, params, view.posed, jax.random.key(_SEED.value))
    if view is not None:
        return world.init(config, params, view.image, view.depth, start, jax.random.key(_SEED.value))
    own = dataclasses.replace(config, **saved.sizes)
    state = saved.restored(own, loading.shapes_of_state(own, params), digest)
    return placed(state.replace(memory=latent.grown(state.memory, config.capacity)))


def _rollout(config, params, state, segments, texts, given, wanted: int, recording: Recording, digest: str):
    """`world.rollout` from where the recording is, one segment a call: each is checked and recorded, then let go of."""
    count, every, (text, away) = len(segments), config.model.segment_frames, texts
    for index in tqdm.trange(
        recording.made, count, unit="segment", disable=count == 1, initial=recording.made, total=count
    ):
        prompt = None if text is None else text[index] if away is None else np.stack([text[index], away])
        known = None if given is None else jax.tree.map(operator.itemgetter(index), given)
        state, output = world.segment(config, params, state, segments[index], prompt, known, donate=True)
        output = jax.device_get(output)
        warnings = sound.check_output(output, f"segment {index + 1} of {count}")
        for warning in warnings:
            print(warning)
        recording.add_segment(output.frames[: wanted - index * every], outputs.diagnostics(output), warnings)
        if (index + 1) % _SAVE_EVERY.value == 0 and index + 1 < count:
            recording.save(config, state, digest)
    return state


def world_config(
    model, segments: int, saved: world_files.SavedWorld | None, view: inputs.View | None = None
) -> world.WorldConfig:
    """The static sizes: from the flags, or from the world that is loaded, with room for what is to come."""
    source = _DEPTH_SOURCE.value or ("given" if _DEPTHS.value is not None else "")
    seen = {
        "depth_source": source,
        "recipe": _recipe(model, saved),
        "vae_tile": _VAE_TILE.value,
        "vae_dtype": _VAE_DTYPE.value,
    }
    if saved is not None:
        if flags.FLAGS["memory"].present and saved.memory != _MEMORY.value:
            raise UserError(f"--memory={_MEMORY.value}: the world in {saved.path} has memory {saved.memory}")
        if _CAPACITY.value is not None and _CAPACITY.value < saved.capacity:
            raise UserError(
                f"--capacity={_CAPACITY.value}: the world in {saved.path} has room for {saved.capacity} points"
            )
        needed = saved.points + world.full_capacity(model, saved.memory, segments)
        sizes = saved.sizes | {"capacity": max(saved.capacity, _CAPACITY.value or loading.capacity_for(needed))}
        return world.WorldConfig(model=model, **sizes, **seen)  # pyright: ignore
    before = 0 if view is None or view.posed is None else -(-(len(view.posed.frames) - 1) // model.segment.latents)
    room = loading.room(model, _MEMORY.value, before + segments, _CAPACITY.value)
    return world.WorldConfig(model=model, memory=_MEMORY.value, **room, **seen)


def _recipe(model, saved: world_files.SavedWorld | None) -> world.Recipe:
    asked = {"sampling": _SAMPLING.value, "guidance": _GUIDANCE.value, "step_cache": _STEP_CACHE.value}
    chosen = loading.recipe(model, _RECIPE.value, _STEPS.value, saved, **asked)
    if _NEGATIVE_PROMPT.value is not None and chosen.guidance == 1.0:
        raise UserError("--negative_prompt is what guidance leads away from, and there is none (--guidance)")
    return chosen


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
