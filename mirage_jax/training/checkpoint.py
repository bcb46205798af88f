"""Checkpoints of a run: train state and data position together, whole or not at all.

    checkpoints/200/state/          Orbax, every process writes its shards
    checkpoints/200/data/           position of every process in its data
    checkpoints/200/run/            how many processes and workers read the data
    checkpoints/200/manifest.json   size and checksum of every file
    checkpoints/refused_400/        the newest checkpoint that was found damaged, kept for inspection

A checkpoint has its name only once everything in it is written, manifest included. Arrays are restored into the
shardings of the run that asks, so mesh and number of processes may change in between.
"""

from __future__ import annotations

import contextlib
import errno
import json
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from mirage_jax.errors import UserError
from mirage_jax.training import manifest, position


class Manager:
    """Saves in the background and restores `(state, data iterator)`.

    Args:
      folder: of the checkpoints; the same for all processes.
      keep: how many of the newest checkpoints are kept.
      keep_every: also those whose step is a multiple of it; 0 keeps none for longer.
      workers: processes that read data for each process of the run.
    """

    def __init__(self, folder: pathlib.Path, *, keep: int, keep_every: int = 0, workers: int = 0):
        self._folder = folder.absolute()
        self._run = {"processes": jax.process_count(), "workers": workers}
        self._saving: int | None = None
        policies: list[Any] = [checkpoint_managers.LatestN(max(keep, 1))]
        if keep_every:
            policies.append(checkpoint_managers.EveryNSteps(keep_every))
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._complete),
            ),
        )

    def latest(self) -> int | None:
        """Step of the newest whole checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, batches: Any) -> None:
        """Starts writing, after waiting for the checkpoint before; does nothing if `step` is saved already.

        Raises `UserError` if the disk is full; also for the checkpoint that was being written.
        """
        if step in (self._saving, self.latest()):
            return
        with self._clear_about_disk():
            self._manager.wait_until_finished()
            self._saving = step
            arguments = ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=grain.checkpoint.CheckpointSave(batches),  # pyright: ignore
                run=ocp.args.JsonSave(self._run),
            )
            self._manager.save(step, args=arguments, force=True)

    def check(self) -> None:
        """Raises what went wrong in the background, as `save` does."""
        with self._clear_about_disk():
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Blocks until everything is on disk. Raises as `save` does."""
        with self._clear_about_disk():
            self._manager.wait_until_finished()

    def end_writing(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """The exit of a `with`: a failed run alone still completes what it is writing; peers it cannot wait for."""
        if error is not None and jax.process_count() == 1:
            with contextlib.suppress(Exception):  # the error that is on its way matters more
                self._manager.wait_until_finished()

    def restore(self, state: Any, batches: Any) -> Any | None:
        """The newest whole checkpoint, in the shardings of `state`; sets `batches` to its position.

        A checkpoint that is damaged or not whole is named and set aside, and the one before it is used. Raises
        `UserError` if there are checkpoints and none is whole, or the newest whole one does not fit this config.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        step = next((step for step in steps if self._is_whole(step)), None)
        if step is None:
            if steps:
                raise UserError(f"{self._folder}: none of the checkpoints {steps} is whole; see above what is wrong")
            return None
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target)))
        except Exception as error:  # storage layers raise many kinds; the bytes are right, so the config is not
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            raise UserError(f"{self._folder / str(step)}: does not fit this config ({reason})") from error
        self._restore_position(step, batches)
        return restored.state

    def _restore_position(self, step: int, batches: Any) -> None:
        was = json.loads((self._folder / str(step) / "run" / "metadata").read_text())
        if was == self._run:
            name = f"process_{jax.process_index()}-of-{jax.process_count()}.json"
            batches.set_state(json.loads((self._folder / str(step) / "data" / name).read_text()))
            return
        _say(
            f"checkpoint {step} was saved by {was['processes']} processes with {was['workers']} data workers each, now "
            f"there are {self._run['processes']} with {self._run['workers']}: data position derived from the step"
        )
        position.seek(batches, step)

    def _is_whole(self, step: int) -> bool:
        """Whether a checkpoint is what was written; if not, it is set aside. The processes share the reading."""
        folder = self._folder / str(step)
        fault = manifest.first_fault(folder, jax.process_index(), jax.process_count())
        if fault:
            print(f"checkpoint {folder} is refused: {fault}; trying the one before it", file=sys.stderr, flush=True)
        faults = multihost_utils.process_allgather(np.array(bool(fault)))
        if not faults.any():
            return True
        if jax.process_index() == 0:
            for old in self._folder.glob("refused_*"):
                shutil.rmtree(old)
            folder.rename(folder.with_name(f"refused_{step}"))
        multihost_utils.sync_global_devices(f"refused {step}")
        self._manager.reload()
        return False

    def _complete(self) -> None:
        """Last act on a checkpoint before it gets its name, in process 0 after all others have written."""
        (temporary,) = self._folder.glob(f"{self._saving}.*")
        manifest.write(temporary)

    @contextlib.contextmanager
    def _clear_about_disk(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not disk_full(error):
                raise
            last = self._manager.latest_step()  # counts only what got its name
            good = f"the last whole checkpoint is step {last}" if last is not None else "there is no checkpoint yet"
            raise UserError(
                f"{self._folder}: the disk is full, checkpoint {self._saving} could not be written; {good}. "
                "Make room and give the same command again"
            ) from error


def disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that no room is left; storage layers say it in their text only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left" in str(error) or "Disk quota exceeded" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)
