"""Runs one command of `experiments` several times in this process: JSON lists of arguments in, JSON results out.

A process a call would spend most of its time on imports. It is a process of its own, because absl's flags are global:
two commands that both define --out cannot be imported side by side.
"""

import contextlib
import importlib
import io
import json
import logging
import re
import runpy
import sys
import traceback
from unittest import mock

from absl.testing import flagsaver

from experiments.shared import cli


def load(command):
    """What the command calls `cli.run` with, its flags defined as those of the running program."""
    with mock.patch.object(cli, "run") as run:
        runpy.run_module(f"experiments.{command}", run_name="__main__")
    return run.call_args


def call(program, arguments):
    """(exit code, stdout, stderr) of one call, as the shell would see them, and the programs compiled for it."""
    out, err, code, compiled = io.StringIO(), io.StringIO(), 0, []
    caught = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with flagsaver.flagsaver(), compilations(compiled), caught[0], caught[1]:
        sys.argv = [sys.argv[0], *arguments]
        try:
            cli.run(*program.args, **program.kwargs)
        except SystemExit as stopped:
            code = stopped.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
    return code, out.getvalue(), err.getvalue(), compiled


@contextlib.contextmanager
def compilations(found):
    """Adds the names of the programs that JAX compiles, or takes from its cache on disk, to `found`."""
    compiler = logging.getLogger("jax._src.interpreters.pxla")
    before = compiler.level, compiler.propagate

    def note(record):
        if match := re.match(r"Compiling (?:jit\()?(\w+|<lambda>)\)? with global shapes", record.getMessage()):
            found.append(match[1])
        return False

    compiler.addFilter(note)
    compiler.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        compiler.removeFilter(note)
        compiler.level, compiler.propagate = before


if __name__ == "__main__":
    program = load(sys.argv[1])
    # It defines flags, which flagsaver would take away again after the first call.
    importlib.import_module("array_record.python.array_record_data_source")
    results = [call(program, arguments) for arguments in json.load(sys.stdin)]
    json.dump(results, sys.stdout)
