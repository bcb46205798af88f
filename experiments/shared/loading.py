"""The parts of a model that a rollout runs, in the type and on the devices that the flags ask for."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import pathlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.shared import lora_files, ones
from experiments.shared.lora_files import LoRAFile
from mirage_jax import weights, world
from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera
from mirage_jax.models import partition, quantize
from mirage_jax.models.config import ModelConfig
from mirage_jax.weights import world_files
from mirage_jax.world import conditioning, device_memory
from mirage_jax.world import recipe as recipes
from mirage_jax.world.state import shardings as state_places

WEIGHTS = ("float32", "bfloat16", "int8")
SWITCHES = ("weights", "vae_tile", "vae_dtype", "mesh")
"""Flags that make a world take less of a device."""


def recipe(
    model: ModelConfig,
    name: str | None,
    steps: int,
    saved: world_files.SavedWorld | None = None,
    *,
    sampling: str | None = None,
    guidance: float | None = None,
    step_cache: float | None = None,
) -> world.Recipe:
    """The recipe of `--recipe`, else that of a saved world, else that of the model, sampled as other flags say.

    Args:
      model: whose recipe it is where nothing else says.
      name: of a recipe, or None.
      steps: of the sampler; 0 for its own.
      saved: the world to go on with, if there is one.
      sampling: one of `recipe.SAMPLINGS`, or None for its own.
      guidance: scale of guidance, or None for its own.
      step_cache: error up to which steps are reused, or None for its own.

    Raises:
      UserError: if the world was made by a recipe that there is not, or what is asked for does not go together.
    """
    if name is not None:
        chosen = world.RECIPES[name]
    else:
        chosen = recipes.of(model) if saved is None else recipes.from_values(saved.recipe, str(saved.path))
    changes = dict(recipes.SAMPLINGS[sampling]) if sampling is not None else {}
    changes |= {"steps": steps} if steps else {}
    changes |= {"guidance": guidance} if guidance is not None else {}
    changes |= {"step_cache": step_cache} if step_cache is not None else {}
    return dataclasses.replace(chosen, **changes)


MOST_POINTS = 1 << 22
"""Capacity of a world at most, unless another is asked for: however long its path, what it takes stays the same."""


def capacity_for(points: int) -> int:
    """The capacity of a memory that so many points can be written to."""
    return world.bucket(min(points, MOST_POINTS))


def room(model: ModelConfig, memory: str, segments: int, capacity: int | None = None) -> dict[str, int]:
    """`capacity` and `bank` of the world of a path of so many segments; says so where a given capacity is short.

    Sizes are powers of two, so that a path of about the same length compiles nothing anew.
    """
    needed = world.full_capacity(model, memory, segments)
    if capacity is not None and capacity < needed:
        print(f"note: the path can write {needed} points; of more than {capacity}, those worth least will go")
    bank = max(32, 1 + segments * model.segment.latents)
    return {"capacity": capacity or capacity_for(needed), "bank": world.bucket(bank)}


def parse_mesh(words: Sequence[str] | None) -> jax.sharding.Mesh | None:
    """The mesh of `--mesh tensor=4,fsdp=2`; None where the flag is not given.

    Raises:
      UserError: if a word is not AXIS=SIZE, or the mesh does not fit the devices.
    """
    if not words:
        return None
    axes = {}
    for word in words:
        name, _, size = word.partition("=")
        if not size.lstrip("-").isdigit() or name in axes:
            raise UserError(f"--mesh {','.join(words)}: {word!r} is not AXIS=SIZE, each axis once")
        axes[name] = int(size)
    return partition.make_mesh(axes)


def shapes_of_state(config: world.WorldConfig, params: Any) -> world.RolloutState:
    """The `jax.ShapeDtypeStruct`s of a world's state, by which a saved one is read; nothing is computed."""
    size = (config.model.height, config.model.width)
    camera = Camera(jnp.eye(3), jnp.eye(4), *size)

    def begin(params: Any, key: jax.Array) -> world.RolloutState:
        return world.init(config, params, jnp.zeros((*size, 3), jnp.uint8), jnp.zeros(size), camera, key)

    return jax.eval_shape(begin, params, jax.random.key(0))


def on_mesh(mesh: jax.sharding.Mesh | None) -> contextlib.AbstractContextManager:
    """Where what is compiled runs on the mesh; does nothing without one."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def digest(folder: str | pathlib.Path, config: world.WorldConfig, loras: Sequence[LoRAFile] = ()) -> str:
    """A short hash of the files with the weights that a world is made by, to recognise one made by others.

    Args:
      folder: of the model, or its one file.
      config: of the world.
      loras: added to its weights.
    """
    found = hashlib.sha256(config.model.at_any_length().to_json().encode())
    for lora in loras:
        found.update(repr(lora.strength).encode())
        with lora.path.open("rb") as content:
            found.update(hashlib.file_digest(content, "sha256").digest())
    root = pathlib.Path(folder)
    files = [root] if root.is_file() else sorted(path for path in root.glob("params*/**/*") if path.is_file())
    for file in files:
        if not root.is_file():
            name = file.relative_to(root)
            if name.parts[0] == "params.text":
                continue
            found.update(name.as_posix().encode())
        with file.open("rb") as content:
            found.update(hashlib.file_digest(content, "sha256").digest())
    return found.hexdigest()[:16]


def prepared(
    config: world.WorldConfig,
    folder: str | pathlib.Path,
    kind: str | None,
    mesh: jax.sharding.Mesh | None,
    loras: Sequence[LoRAFile] = (),
) -> Any:
    """Parameters for `world.segment`, LoRA merged; parts that the world does not run are not read.

    Args:
      config: of the world.
      folder: of the model.
      kind: one of `WEIGHTS`, of the DiT's and the side branch's matrices; None is the type the DiT computes in.
      mesh: to split them over, by the rules of `partition.WAN_RULES`; None is the default device.
      loras: to add to the DiT, whatever is remembered; that of the memory comes on top.

    Raises:
      UserError: if a part is missing, damaged or does not fit.
    """
    model, parts, kind = config.model, _parts(config, folder), kind or config.model.dit.dtype
    if config.runs_side and model.lora is not None and "lora" not in parts:
        print(f"note: {folder} holds no LoRA; the side branch runs on the backbone as it is")

    def read(names: Sequence[str], dtype: str | None) -> Any:
        rules = partition.rules_for(*(name for name in names if name in partition.WAN_RULES))
        split = None if mesh is None else lambda tree: partition.tree_shardings(rules, tree, mesh)
        return weights.load(folder, names, dtype, shardings=split)[1]

    large = [part for part in parts if part in quantize.PARTS]
    params = read([part for part in parts if part not in large], None)
    if config.runs_side and "ones" in model.segment.control:
        params["ones"] = ones_code(model, folder, params, config.vae_tile)
    # What is merged, or made smaller, is so on the host: the device never holds it twice.
    with weights.on_host() if mesh is None else contextlib.nullcontext():
        params |= read(large, _read_in(kind))
        for file in loras:
            params["dit"] = lora_files.add(params["dit"], model, file)
        params = world.prepare(config, params)
        params = quantize.int8(params) if kind == "int8" else params
    return jax.device_put(params, _places(params, mesh)) if mesh is not None else jax.tree.map(_to_device, params)


def shapes(
    config: world.WorldConfig, folder: str | pathlib.Path, kind: str | None, mesh: jax.sharding.Mesh | None
) -> Any:
    """What `prepared` gives, as shapes with their places on the mesh; no weights are read. LoRAs change no shape."""
    parts, kind = _parts(config, folder), kind or config.model.dit.dtype

    def made(params: Any) -> Any:
        if config.runs_side and "ones" in config.model.segment.control:
            params["ones"] = conditioning.ones_code(config.model, params, config.vae_tile)
        params = world.prepare(config, params)
        return quantize.int8(params) if kind == "int8" else params

    read = {part: _read_in(kind) if part in quantize.PARTS else None for part in parts}
    found = {part: weights.shapes(folder, [part], dtype)[part] for part, dtype in read.items()}
    found = jax.eval_shape(made, found)
    return found if mesh is None else _on(found, _places(found, mesh))


def check_room(
    config: world.WorldConfig,
    folder: str | pathlib.Path,
    kind: str | None,
    mesh: jax.sharding.Mesh | None,
    known: world.KnownGeometry | None = None,
    *,
    donate: bool = True,
    switches: Collection[str] = SWITCHES,
) -> None:
    """Compiles the program of a segment, if devices tell their memory, before any weights are read.

    Args:
      config, folder, kind, mesh: as for `prepared`.
      known, donate: of a segment, for `world.segment`.
      switches: flags that the command has of those that make it fit.

    Raises:
      UserError: in one sentence what is needed, what there is, and what fits, if it is too large for a device.
    """
    devices = jax.devices()[:1] if mesh is None else mesh.local_devices
    if (room := device_memory.limit(devices)) is None:
        return
    dit = config.model.dit
    shape = (*((2,) if config.guided else ()), dit.text_tokens, dit.text_dim)
    text = np.zeros(shape, np.float32) if dit.text_dim else None
    model = config.model
    poses = (jax.ShapeDtypeStruct((model.segment_frames, n, n), np.float32) for n in (3, 4))
    cameras = Camera(*poses, model.height, model.width)

    def size(config: world.WorldConfig, kind: str) -> tuple[int | None, bool]:
        """Bytes, and whether a segment fits them; None where the compiler found no room."""
        with on_mesh(mesh):
            params = shapes(config, folder, kind, mesh)
            state = shapes_of_state(config, params)
            if mesh is not None:
                state = _on(state, state_places(state, mesh))
            if (least := device_memory.held((params, state))) > room:
                return least, False
            found = device_memory.placeable(
                lambda: device_memory.of_segment(config, params, state, cameras, text, known, donate=donate)
            )
        return found, found is not None and found <= room

    kind = kind or dit.dtype
    needs, fits = size(config, kind)
    if fits:
        return
    found = "no switch of this command is enough"
    found += ": --mesh splits it over more devices" if "mesh" in switches else ""
    for flags, smaller, smaller_kind in _smaller(config, kind, switches):
        less, fits = size(smaller, smaller_kind)
        if fits and less is not None:
            found = f"what fits is {flags}, {less / 1e9:.3g} GB"
            break
    needs = "more than the compiler can place" if needs is None else f"{needs / 1e9:.3g} GB"
    raise UserError(
        f"a segment of the model {model.name!r} needs {needs} of a device, of which JAX may use "
        f"{room / 1e9:.3g} GB (XLA_PYTHON_CLIENT_MEM_FRACTION); {found}"
    )


SMALL_TILE = 24
"""Latent cells of a side of the VAE's tiles where memory is short."""


def _smaller(
    config: world.WorldConfig, kind: str, switches: Collection[str]
) -> Iterator[tuple[str, world.WorldConfig, str]]:
    """What takes less memory, the switches that change the pictures least first: flags, config, kind of weights."""
    flags = []
    if kind == "float32" and "weights" in switches:
        kind = "bfloat16"
        flags.append("--weights=bfloat16")
        yield " ".join(flags), config, kind
    if not config.vae_tile and max(config.grid) > SMALL_TILE and "vae_tile" in switches:
        config = dataclasses.replace(config, vae_tile=SMALL_TILE)
        flags.append(f"--vae_tile={SMALL_TILE}")
        yield " ".join(flags), config, kind
    if config.vae_dtype == "float32" and "vae_dtype" in switches:
        config = dataclasses.replace(config, vae_dtype="bfloat16")
        flags.append("--vae_dtype=bfloat16")
        yield " ".join(flags), config, kind
    if kind != "int8" and "weights" in switches and importlib.util.find_spec("qwix") is not None:
        yield " ".join([*(f for f in flags if "weights" not in f), "--weights=int8"]), config, "int8"


def _on(tree: Any, places: Any) -> Any:
    """Shapes with their places on a mesh."""
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree, places)


def _parts(config: world.WorldConfig, folder: str | pathlib.Path) -> list[str]:
    """The parts of the model that a world runs."""
    parts = ["vae", "dit"]
    parts += ["heads"] if config.model.heads is not None else []
    parts += ["depth"] if config.depth_from == "pixels" else []
    if config.runs_side:
        parts += ["side", *(["lora"] if "lora" in weights.parts_of(folder) else [])]
    return parts


def _read_in(kind: str) -> str:
    """The type that matrices are read in, of a kind of `WEIGHTS`."""
    return "float32" if kind == "float32" else "bfloat16"


def _places(params: Any, mesh: jax.sharding.Mesh) -> Any:
    """How prepared parameters, or their shapes, lie on a mesh."""
    rules = partition.rules_for(*(name for name in params if name in partition.WAN_RULES))
    return quantize.shardings(rules, params, mesh)


def ones_code(model: ModelConfig, folder: str | pathlib.Path, params: Any, tile: int | None = None) -> jax.Array:
    """`conditioning.ones_code`, computed where the VAE's parameters are and kept beside the model from then on."""
    compute = functools.partial(conditioning.ones_code, model, tile=tile)
    if (kept := ones.load(folder, jax.eval_shape(compute, params).shape)) is not None:
        return jax.device_put(kept)
    made = compute(params)
    if jax.process_index() == 0:
        ones.save(folder, np.asarray(made))
    return made


def _to_device(x: jax.Array) -> jax.Array:
    """On the default device, committed to none."""
    return jax.device_put(np.asarray(x)) if x.is_fully_addressable else x
