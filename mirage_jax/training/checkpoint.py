"""Checkpoints of a run: train state and data position together, written atomically by Orbax."""

from __future__ import annotations

import pathlib
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from absl import logging

from mirage_jax.errors import UserError


class Manager:
    """Saves and restores `(state, data iterator)`; asynchronous, the newest `keep` are kept."""

    def __init__(self, folder: pathlib.Path, keep: int):
        self._folder = folder.absolute()
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=True),
        )

    def latest(self) -> int | None:
        """Step of the newest whole checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, batches: Any) -> None:
        """Starts writing; a half-written checkpoint is never taken for a whole one."""
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=grain.checkpoint.CheckpointSave(batches),  # pyright: ignore
        )
        self._manager.save(step, args=arguments)

    def restore(self, state: Any, batches: Any) -> Any | None:
        """The newest checkpoint that can be read, in the shardings of `state`; sets `batches` to its position.

        A damaged checkpoint is named and the one before it is used.

        Raises:
          UserError: if there are checkpoints and none can be read.
        """
        self._manager.wait_until_finished()
        steps = sorted(self._manager.all_steps(), reverse=True)
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        for step in steps:
            try:
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(target),
                        data=grain.checkpoint.CheckpointRestore(batches),  # pyright: ignore
                    ),
                )
            except Exception as error:  # storage layers raise many kinds
                logging.warning("checkpoint of step %d cannot be read, trying the one before it: %s", step, error)
                continue
            return restored.state
        if steps:
            raise UserError(f"{self._folder}: none of the checkpoints {steps} can be read with this config")
        return None

    def wait(self) -> None:
        """Blocks until everything is on disk."""
        self._manager.wait_until_finished()
