"""One training step as a compiled function, and the state that it moves."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from mirage_jax.errors import UserError
from mirage_jax.models import partition
from mirage_jax.training import optimizer
from mirage_jax.training.stage import Stage


@struct.dataclass
class TrainState:
    """All that changes from step to step; what is frozen has no place in it."""

    step: jax.Array  # int32 []
    params: Any  # trainable parameters, float32
    average: Any  # their exponential moving average
    optimizer: Any


def create(
    stage: Stage, transform: optax.GradientTransformation, key: jax.Array, frozen: Any, start: Any
) -> TrainState:
    """The state before the first step, from `stage.frozen` and `stage.start` as they lie on the devices."""
    params = stage.init(key, frozen, start)
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, average=params, optimizer=transform.init(params))


def shardings(stage: Stage, transform: optax.GradientTransformation, mesh: Mesh) -> tuple[Any, Any, Any]:
    """How state, frozen parameters and those to start from lie on a mesh: by `partition.WAN_RULES`.

    What no rule matches is replicated.
    """
    # The key is made inside, for meshes of devices that are only described.
    make = functools.partial(create, stage, transform)
    state = jax.eval_shape(lambda frozen, start: make(jax.random.key(0), frozen, start), stage.frozen, stage.start)
    parts = [name for name in (*state.params, *stage.frozen) if name in partition.WAN_RULES]
    trees = {"state": state, "frozen": stage.frozen, "start": stage.start}
    found = partition.tree_shardings(partition.rules_for(*parts), trees, mesh)
    return found["state"], found["frozen"], found["start"]


def make_step(
    stage: Stage,
    config: Any,
    transform: optax.GradientTransformation,
    mesh: Mesh,
    layout: Any,
    accumulate: int | None = None,
):
    """The compiled `(state, frozen, batch, key) -> (state, metrics)`; a step that is not finite changes nothing.

    Args:
      stage: whose loss to descend.
      config: has `accumulate`, into how many parts the batch is split that go one after the other, and `ema_decay`.
      transform: the optimizer.
      mesh: what the step runs on.
      layout: of the state, as `shardings` gives it; the next state lies as the one before, so that one program serves
        all steps.
      accumulate: parts, where `preflight` found how many; None is `config.accumulate`.
    """
    parts = config.accumulate if accumulate is None else accumulate

    def step(state: TrainState, frozen, batch, key):
        noise_key = jax.random.fold_in(key, state.step)
        loss, metrics, gradients = _gradients(stage, parts, state.params, frozen, batch, noise_key)
        norm = optax.tree.norm(gradients)
        updates, moments = transform.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        moved = TrainState(
            step=state.step + 1,
            params=params,
            average=optimizer.ema(state.average, params, config.ema_decay, state.step),
            optimizer=moments,
        )
        good = jnp.isfinite(loss) & jnp.isfinite(norm)
        state = jax.tree.map(lambda new, old: jnp.where(good, new, old), moved, state)
        return state, {**metrics, "loss": loss, "grad_norm": norm}

    compiled = jax.jit(step, donate_argnums=0, out_shardings=(layout, None))

    @functools.wraps(compiled)
    def on_mesh(*arguments):
        with jax.set_mesh(mesh):
            return compiled(*arguments)

    return on_mesh


def _gradients(stage: Stage, parts: int, params: Any, frozen: Any, batch: Any, key: jax.Array):
    """Loss, metrics and gradients of a batch, as means over `parts` equal parts of it.

    Every example has a random key of its own, so that the parts see what the whole batch would.
    """
    size = len(next(iter(batch.values())))
    if parts < 1 or size % parts:
        raise UserError(f"accumulate={parts} does not divide the batch of {size}")
    keys = jax.random.split(key, size)
    gradient_of = jax.value_and_grad(stage.loss, has_aux=True)
    if parts == 1:
        (loss, metrics), gradients = gradient_of(params, frozen, batch, keys)
        return loss, metrics, gradients

    # Part i takes every `parts`-th example, so that each device splits what it holds and nothing moves.
    split = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(size // parts, parts, *x.shape[1:]), 0, 1), (batch, keys))

    def add(total, part):
        # The barrier keeps the gathering of split weights in the loop: before it, all would be held at once.
        weights, part = jax.lax.optimization_barrier(((params, frozen), part))
        return jax.tree.map(jnp.add, total, gradient_of(*weights, *part)), None

    first = jax.tree.map(lambda x: x[0], split)
    shapes = jax.eval_shape(gradient_of, params, frozen, *first)
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total, _ = jax.lax.scan(add, zero, split)
    (loss, metrics), gradients = jax.tree.map(lambda x: x / parts, total)
    return loss, metrics, gradients
