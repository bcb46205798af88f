"""Worlds that a model makes, as the explorer asks for them (`engine`)."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.explorer.engine import AHEAD, Begun, Facts, Seen, Settings, Thing
from experiments.explorer.protocol import NEW, REMEMBERED, THING
from experiments.posed_video import posed_images
from experiments.shared import inputs, likeness, loading, prompts, world_pictures
from mirage_jax import io, weights, world
from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera, crop
from mirage_jax.memory import latent
from mirage_jax.memory.things import slots
from mirage_jax.weights import world_files
from mirage_jax.world import recipe as recipes
from mirage_jax.world import sound

CAPACITY = 65_536
"""Points of the memory, unless the command says otherwise."""
_BANK = 64
_SWITCHES = ("weights",)
"""Of `loading.SWITCHES`, those that the command has."""


class ModelEngine:
    """See `engine.Engine`."""

    def __init__(self, config: world.WorldConfig, folder: str, params: Any, facts: Facts, digest: str):
        """A model with one config; `params` are those of `loading.prepared`."""
        self.config, self.facts = config, facts
        recipe = json.dumps(dataclasses.asdict(config.recipe))
        self.settings = Settings(config.memory, config.recipe.steps, config.capacity, config.bank, recipe)
        self._folder, self._params, self._digest = folder, params, digest
        self._chart = world_pictures.Chart()

    @functools.cached_property
    def like(self) -> Any:
        """See `engine.Engine`."""
        return loading.shapes_of_state(self.config, self._params)

    def picture(self, path: pathlib.Path, fov: float, seed: int) -> Begun:
        """See `engine.Engine`."""
        model = self.config.model
        view = inputs.load_view(str(path), model.height, model.width, fov=fov or None)
        state = world.init(self.config, self._params, view.image, view.depth, view.camera, jax.random.key(seed))
        unlike = likeness.note(model, self._params, view.image) if self._folder == str(weights.DEFAULT) else None
        notes = (*view.notes, *([unlike] if unlike else []))
        return self._begun(state, view.image[None], _host(view.camera), notes)

    def pictures(self, path: pathlib.Path, seed: int, scale: float | None = None) -> Begun:
        """See `engine.Engine`."""
        model = self.config.model
        posed = posed_images.load(path, model.height, model.width, scale)
        state = posed_images.observe(self.config, self._params, posed, jax.random.key(seed))
        self._learn(state, posed.frames, posed.camera)
        return self._begun(state, posed.frames[-1:], posed.camera[-1], posed.notes)

    def _begun(self, state: Any, frames: np.ndarray, camera: Camera, notes: tuple[str, ...]) -> Begun:
        sound.check_state(state)
        one = Camera(camera.intrinsics[None], camera.cam2world[None], camera.height, camera.width)
        self._learn(state, frames, one)
        cells = (1, *self.config.grid)
        seen = Seen(frames, one, np.full(cells, NEW, np.uint8), np.zeros(cells, np.float32), **self._counts(state))
        return Begun(state, dataclasses.replace(seen, notes=notes), camera)

    def step(self, state: Any, cameras: Camera, prompt: str) -> tuple[Any, Seen]:
        """See `engine.Engine`."""
        text = self._text(prompt)
        following, output = world.segment(self.config, self._params, state, cameras, text)
        output = jax.device_get(output)
        notes = sound.check_output(output, "the segment")
        kind, age = self._overlay(state, output.readout)
        frames = np.asarray(output.frames)
        every = slice(self.facts.stride - 1, None, self.facts.stride)
        self._learn(following, frames[every], cameras[every])
        return following, Seen(frames, cameras, kind, age, notes=tuple(notes), **self._counts(following))

    def _text(self, prompt: str) -> Any:
        """The embedding of a prompt, or None for a model without text."""
        if not self.facts.text:
            return None
        return _embedded(self._folder, self.config.model, prompt)

    def _overlay(self, before: Any, readout: Any) -> tuple[np.ndarray, np.ndarray]:
        """Kind and age of the cells of a segment's latent frames."""
        visible = np.asarray(readout.visible)
        kind = np.where(visible, REMEMBERED, NEW).astype(np.uint8)
        age = np.zeros(visible.shape, np.float32)
        segment = self.facts.segment_frames / self.facts.fps
        if readout.index is not None:
            index = np.asarray(readout.index)
            index = index.reshape(*visible.shape, -1).max(axis=-1)
            seen = np.asarray(before.memory.last_seen)[np.maximum(index, 0)]
            since = int(before.memory.clock) - seen
            age = np.where(index >= 0, np.maximum(since - 1, 0) * segment, 0.0).astype(np.float32)
        if readout.moving is not None:
            moving = np.asarray(readout.moving)
            kind[moving] = THING
            age = np.where(moving, np.asarray(readout.age) * self.facts.stride / self.facts.fps, age)
        return kind, age.astype(np.float32)

    def _counts(self, state: Any) -> dict[str, Any]:
        memory = state.memory
        return {"points": int(memory.size), "overflow": int(memory.overflow), "things": self._things(state.entities)}

    def _things(self, entities: Any) -> tuple[Thing, ...]:
        if entities is None:
            return ()
        held = np.asarray(entities.held)
        if not held.any():
            return ()
        paths, now = np.asarray(_predicted(entities)), int(entities.clock) - 1
        age = (now - np.asarray(entities.time)) * self.facts.stride / self.facts.fps
        sizes = np.asarray(entities.size)
        return tuple(Thing(paths[:, k], float(sizes[k]), float(age[k])) for k in np.flatnonzero(held))

    def _learn(self, state: Any, frames: np.ndarray, cameras: Camera) -> None:
        if self.config.memory != "rgb":
            self._chart.learn(world_pictures.places(state.memory)[0], frames, cameras, self.config.grid)

    def points(self, state: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """See `engine.Engine`."""
        points, slot = world_pictures.places(state.memory)
        if self.config.memory == "rgb":
            return points, world_pictures.pixel_colours(state.memory, slot)
        return points, self._chart.colours(points)[0]

    def save(self, path: pathlib.Path, state: Any) -> None:
        """See `engine.Engine`."""
        world_files.save(path, self.config, state, self._digest)

    def save_colours(self, path: pathlib.Path) -> None:
        """See `engine.Engine`."""
        self._chart.save(path)

    def load_colours(self, path: pathlib.Path) -> None:
        """See `engine.Engine`."""
        self._chart.load(path)

    def goes_on(self, state: Any) -> Begun:
        """A world that was loaded: its pictures are decoded from the latents that it keeps."""
        frames, cameras = world_pictures.kept(self.config, self._params, state)
        self._learn(state, frames, cameras)
        return self._begun(state, frames[-1:], cameras[-1], ())


class ModelEngines:
    """See `engine.Engines`."""

    def __init__(
        self, folder: str | None, *, capacity: int = CAPACITY, recipe: str | None = None, kind: str | None = None
    ):
        """Of a model folder, None for the model that ships.

        Args:
          folder: of the model.
          capacity: points of a memory.
          recipe: name, or None for the model's own.
          kind: type of the transformer's weights, of `loading.WEIGHTS`.
        """
        self._folder = str(folder or weights.DEFAULT)
        self._capacity, self._recipe, self._kind = capacity, recipe, kind
        self._engines: dict[Any, ModelEngine] = {}
        self._params: dict[str, Any] = {}
        model = weights.read_config(self._folder).at_any_length()  # the shortest segments: keys are answered soonest
        self._model = model
        own = loading.recipe(model, recipe, 0)
        text = bool(model.dit is not None and model.dit.text_dim)
        self.facts = Facts(
            name=model.name,
            height=model.height,
            width=model.width,
            fps=model.fps,
            segment_frames=model.segment_frames,
            stride=model.vae.stride_time,
            text=text,
            memories=("latent", "rgb", "none"),
            steps=own.steps,
            scene_depth=model.heads.typical_depth if model.heads is not None else 5.0,
            note=_SHIPPED if folder is None else "",
        )

    def get(self, settings: Settings) -> ModelEngine:
        """See `engine.Engines`."""
        memory = settings.memory or "latent"
        if memory not in self.facts.memories:
            raise UserError(f"memory must be one of {', '.join(self.facts.memories)}, found {io.shown(repr(memory))}")
        model = self._model
        room = max(self._capacity, 4 * world.config.frame_points(model, memory))
        if settings.recipe:
            recipe = recipes.from_values(json.loads(settings.recipe), "the session")
        else:
            recipe = loading.recipe(model, self._recipe, settings.steps)
        return self._engine(memory, recipe, settings.capacity or world.bucket(room), settings.bank or _BANK)

    def _engine(self, memory: str, recipe: world.Recipe, capacity: int, bank: int) -> ModelEngine:
        name = memory, recipe, capacity, bank
        if name not in self._engines:
            model = self._model
            config = world.WorldConfig(model=model, memory=memory, capacity=capacity, bank=bank, recipe=recipe)
            if config.depth_from == "given":
                raise UserError(
                    f"the model {model.name!r} guesses no depth, so that nothing could be remembered: add Depth "
                    "Anything to it (python -m experiments.get_model)"
                )
            if memory not in self._params:
                loading.check_room(config, self._folder, self._kind, None, donate=False, switches=_SWITCHES)
                self._params[memory] = loading.prepared(config, self._folder, self._kind, None)
            digest = loading.digest(self._folder, config)
            self._engines[name] = ModelEngine(config, self._folder, self._params[memory], self.facts, digest)
        return self._engines[name]

    def load(self, path: pathlib.Path) -> tuple[ModelEngine, Begun]:
        """See `engine.Engines`."""
        saved = world_files.read(path)
        if saved.memory not in self.facts.memories:
            raise UserError(f"{path}: its memory is {io.shown(saved.memory)}, this model runs no such memory")
        model = self._model
        recipe = loading.recipe(model, self._recipe, 0, saved)
        small = self._engine(saved.memory, recipe, saved.capacity, saved.bank)
        state = saved.restored(small.config, small.like, small._digest)
        engine = self._engine(saved.memory, recipe, max(saved.capacity, world.bucket(self._capacity)), saved.bank)
        state = state.replace(memory=latent.grown(state.memory, engine.config.capacity))
        return engine, engine.goes_on(state)

    def warm(self, progress: Callable[[str, float], None]) -> None:
        """See `engine.Engines`."""
        progress("loading the model", 0.0)
        engine = self.get(Settings())
        model = engine.config.model
        progress("compiling the first view", 0.2)
        grey = np.tile(np.linspace(60, 190, model.width)[None, :, None], (model.height, 1, 3)).astype(np.uint8)
        _, camera, _ = crop.fit_view(grey, model.height, model.width)
        state = world.init(engine.config, engine._params, grey, None, camera, jax.random.key(0))
        jax.block_until_ready(state)
        progress("compiling the segment", 0.4)
        path = Camera(
            np.tile(np.asarray(camera.intrinsics)[None], (model.segment_frames, 1, 1)),
            np.tile(np.asarray(camera.cam2world)[None], (model.segment_frames, 1, 1)),
            model.height,
            model.width,
        )
        for _ in range(2):  # the state of a picture, and that of a segment
            state, output = world.segment(engine.config, engine._params, state, path, engine._text(""))
            jax.block_until_ready(output)
        progress("ready", 1.0)

    @functools.cached_property
    def digest(self) -> str:
        """See `engine.Engines`."""
        engine = self.get(Settings())
        return f"{engine._digest}-{engine.config.recipe}-{self._capacity}"


_SHIPPED = (
    "The model that ships was trained on rooms of a computer game, 128x128 pixels: photographs come out soft and stray."
)


@functools.lru_cache(maxsize=32)
def _embedded(folder: str, model: Any, prompt: str) -> Any:
    return prompts.for_segments(folder, model, 1, prompt=prompt or None)[0]


@jax.jit
def _predicted(entities: Any) -> jax.Array:
    """`[AHEAD + 1, K, 3]` where things are now and later."""
    times = entities.clock - 1 + jnp.arange(AHEAD + 1)
    return jax.lax.map(lambda time: slots.predicted(entities, time), times)


def _host(camera: Camera) -> Camera:
    return jax.tree.map(lambda x: np.asarray(x, np.float32), camera)
