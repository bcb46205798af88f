"""Calls commands as a person would, many in one process."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

_HERE = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Result:
    """What the shell sees of one call."""

    code: int
    out: str
    err: str
    compiled: list[str]  # names of the programs that it compiled


def run(command, calls):
    """Runs `python -m experiments.COMMAND` with each list of arguments, one after the other, in one process."""
    done = subprocess.run(
        [sys.executable, str(_HERE / "run_command.py"), command],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        cwd=_HERE.parent.parent,
        env=os.environ | {"PYTHONPATH": str(_HERE.parent.parent)},
    )
    assert done.returncode == 0, done.stderr
    return [Result(*row) for row in json.loads(done.stdout.splitlines()[-1])]
