"""The profiler on demand: a range of steps from the config, or a file that appears while the run goes on."""

from __future__ import annotations

import pathlib
from typing import Any

import jax

from mirage_jax.errors import UserError

_STEPS = 5


class Profiler:
    """Writes traces for TensorBoard and Perfetto to `workdir/profile/step_N`, of process 0, from step N on.

    Args:
      workdir: of the run; a file `PROFILE` in it profiles the next steps, as many as the number in it or 5, and is
        removed.
      steps: first and last step to profile, or nothing.

    Raises:
      UserError: if `steps` is not such a pair.
    """

    def __init__(self, workdir: pathlib.Path, steps: Any = ()):
        pair = tuple(steps)
        if pair and (len(pair) != 2 or not 1 <= pair[0] <= pair[1]):
            raise UserError(f"--config.profile={pair}: expected two steps, the first and the last to profile")
        self._folder, self._request = workdir / "profile", workdir / "PROFILE"
        self._first, self._last = pair or (0, 0)
        self._until = 0  # last step of the trace under way,
        self._trace = self._folder  # and where it goes

    def before(self, step: int) -> None:
        """To be called before a step; starts what is due."""
        if self._until or jax.process_index() != 0:
            return
        if self._request.exists():
            text = self._request.read_text().strip()
            self._request.unlink()
            self._until = step - 1 + (int(text) if text.isdecimal() and int(text) else _STEPS)
        elif step == self._first:
            self._until = self._last
        if self._until:
            self._trace = self._folder / f"step_{step}"  # JAX names a trace by its second, in which two may begin
            jax.profiler.start_trace(str(self._trace))

    def after(self, step: int, state: Any) -> None:
        """To be called after a step, with its result; ends what is due."""
        if self._until and step >= self._until:
            jax.block_until_ready(state)
            self.close()
            print(f"profiled up to step {step}: {self._trace}", flush=True)

    def close(self) -> None:
        """Ends a trace that is under way."""
        if self._until:
            jax.profiler.stop_trace()
            self._until = 0
