"""What all commands share: errors as sentences, and a record of what was run beside its results."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import app, flags, logging

import mirage_jax
from mirage_jax.errors import LostPeer, UserError
from mirage_jax.io import write_json

_BAD_INPUT = 2
_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_BROKEN_PIPE = 141  # 128 + SIGPIPE
LARGEST_SEED = 2**32 - 1
"""JAX's random keys are made of 32 bits: larger seeds would be others in disguise."""
STOPPED = 75
"""Exit code of a run that was told to stop and saved: EX_TEMPFAIL, the same command goes on from there."""

# What a person can act on; any other OSError is a defect and keeps its traceback.
_USER_OS_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
    | {errno.EEXIST, errno.ENAMETOOLONG}
)

_PACKAGES = (
    "array-record",
    "av",
    "chex",
    "flax",
    "grain",
    "jax",
    "jaxlib",
    "numpy",
    "optax",
    "orbax-checkpoint",
    "tensorflow-datasets",
    "vizdoom",
)


def run(main: Callable[[Sequence[str]], int | None], words: str = "") -> None:
    """Runs `main` as an absl program in which a person's mistake is one sentence, not a traceback.

    Use it in place of `absl.app.run`. A wrong flag, a word that no flag takes, `UserError`, and an OSError that a
    person can act on (disk full, permission denied, no such file) print `error: ...` to stderr and exit with 2;
    Ctrl-C exits with 130. Everything else is a defect in the program and keeps its traceback (exit 1).

    Args:
      main: called with the command's name and the words in a list; what it returns is the exit code (None is 0).
      words: that the command takes besides its flags, as in NAME OTHER.
    """

    def quietly(argv: Sequence[str]) -> int | None:
        if not flags.FLAGS["verbosity"].present:  # libraries report every file they touch at the default level
            logging.set_verbosity(logging.WARNING)
        return main(argv)

    try:
        app.run(
            lambda argv: _guarded(lambda: quietly(argv)),
            flags_parser=lambda argv: _guarded(lambda: _parse(argv, words)),
        )
    finally:
        _flush_output()


_made: list[Path] = []
"""Folders for results that this program made."""


def prepare_output(path: str | Path) -> Path:
    """Makes the folder `path` with its parents and checks, by writing, that results can go there.

    Raises:
      UserError: if the folder cannot be made, is a file, or cannot be written to.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"output folder {path}: found a file of that name, expected a folder or nothing")
    try:
        if not path.exists():
            path.mkdir(parents=True)
            _made.append(path)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"output folder {path}: cannot write there ({error.strerror})") from error
    return path


def check_writable(flag: str, path: str | Path) -> None:
    """Checks, by writing beside it, that a file can be written at the end of a long job.

    Raises:
      UserError: naming the flag, if it is a folder or cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{flag} {path}: found a folder of that name, expected a file name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name[:200]}."):
            pass
    except OSError as error:
        raise UserError(f"{flag} {path}: cannot write there ({error.strerror})") from error


def keep_compiled_programs() -> None:
    """Keeps what XLA compiles in `.jax_cache/` of the current folder, unless JAX_COMPILATION_CACHE_DIR says where.

    The second call of a command then starts in seconds.
    """
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(Path(".jax_cache").absolute()))
    jax.config.update("jax_compilation_cache_dir", folder)


def write_run_config(out_dir: str | Path, config: Any, *, device: bool = True) -> None:
    """Writes `config.json` (everything that was asked for) and `versions.json` (what ran it) into `out_dir`.

    Args:
      out_dir: an existing folder.
      config: a ConfigDict, mapping or dataclass of plain values; `flag_values()` for a command without a config file.
      device: as in `versions`.
    """
    write_json(Path(out_dir) / "config.json", _plain(config))
    write_json(Path(out_dir) / "versions.json", versions(device=device))


def versions(*, device: bool = True) -> dict[str, Any]:
    """The code, packages and device that a result came from; no host name, user or path.

    Args:
      device: also name JAX's backend and device, which starts the backend: pass False in a program that forks later.

    Returns:
      `mirage_jax`, `commit` (None outside a git checkout), `modified` (tracked files differ from the commit), `python`,
      `platform`, `packages` {name: version}, and `backend`, `device`, `device_count`.
    """
    commit, modified = _git_state(Path(mirage_jax.__file__).resolve().parent.parent)
    record: dict[str, Any] = {
        "mirage_jax": mirage_jax.__version__,
        "commit": commit,
        "modified": modified,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: version for name in _PACKAGES if (version := _installed(name))},
    }
    if device:
        record |= {
            "backend": jax.default_backend(),
            "device": jax.devices()[0].device_kind,
            "device_count": jax.device_count(),
        }
    return record


def flag_values() -> dict[str, Any]:
    """The values of all flags that the running command itself defines, by name: its config."""
    return {flag.name: flag.value for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])}


def exit_code(error: BaseException) -> int:
    """The code with which `run` ends the program when `main` raises this."""
    if isinstance(error, KeyboardInterrupt):
        return _INTERRUPTED
    bad_input = isinstance(error, UserError) or (isinstance(error, OSError) and error.errno in _USER_OS_ERRORS)
    return _BAD_INPUT if bad_input else 1


def _parse(argv: Sequence[str], words: str) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        raise UserError(f"{error} (--help lists the flags)") from error
    except (AttributeError, KeyError) as error:  # what ml_collections raises for --config.KEY=... without such a key
        overrides = [word for word in argv[1:] if "." in word.partition("=")[0]]
        if not overrides:
            raise
        raise UserError(f"no key {error.args[0]} in the config, asked for by {' '.join(overrides)}") from error
    allowed = len(words.split())
    if len(rest) > 1 + allowed:
        raise UserError(f"{rest[1 + allowed]!r} belongs to no flag: expected --flag=value (--help lists the flags)")
    if len(rest) < 1 + allowed:
        raise UserError(f"expected {words} (--help lists the flags)")
    for name in flags.FLAGS:
        try:
            getattr(flags.FLAGS[name].value, "lock", None)  # a config file that was not found raises when first used
        except OSError as error:
            raise UserError(f"--{name}: {error.__cause__}") from error
    return rest


def _guarded(body: Callable[[], Any]) -> Any:
    try:
        return body()
    except UserError as error:
        for folder in _made:  # one that a refused run made, and left empty, would only puzzle
            with contextlib.suppress(OSError):
                folder.rmdir()
        _leave(str(error), _BAD_INPUT)
    except BrokenPipeError:  # whoever read our output (`| head`) has seen enough
        sys.exit(_BROKEN_PIPE)
    except OSError as error:
        if error.errno not in _USER_OS_ERRORS:
            raise
        _leave(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror), _BAD_INPUT)
    except LostPeer as error:
        _leave(str(error), exit_code(error))
    except KeyboardInterrupt:
        _leave("interrupted", _INTERRUPTED)


def _flush_output() -> None:
    """Sends off what was printed; says nothing when nobody reads it any more, which Python would at its end."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave(message: str, code: int) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    sys.exit(code)


def _plain(value: Any) -> Any:
    """`value` as JSON types. Raises TypeError for what has no plain form, rather than write its repr."""
    if isinstance(value, ml_collections.ConfigDict | ml_collections.FrozenConfigDict):
        return _plain(value.to_dict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a config cannot hold {type(value).__name__}: {value!r}")


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_state(root: Path) -> tuple[str | None, bool | None]:
    """Commit of the checkout at `root` and whether tracked files differ from it; (None, None) if `root` is none."""
    if not (root / ".git").exists():  # else git would find a checkout that merely surrounds an installed copy
        return None, None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit, bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()


def most_of(texts: Sequence[str] | None, splits: int) -> list[int | None]:
    """The most clips of each split: of one number for all, or one for each; None without any.

    Raises:
      UserError: if they are not like that.
    """
    if texts is None:
        return [None] * splits
    if len(texts) not in (1, splits) or not all(text.isdecimal() and int(text) for text in texts):
        raise UserError(
            f"--clips {','.join(texts)}: expected a number of clips from 1 on, or one for each of the {splits} splits"
        )
    return [int(text) for text in texts] * (splits if len(texts) == 1 else 1)


def part_of(text: str | None) -> tuple[int, int]:
    """`i/n` as numbers; `0/1` is everything.

    Raises:
      UserError: if it is not like that.
    """
    if text is None:
        return 0, 1
    first, slash, second = text.partition("/")
    if not (slash and first.isdigit() and second.isdigit() and int(first) < int(second)):
        raise UserError(f"--part {text}: expected i/n, part i of n, counted from 0 to n - 1")
    return int(first), int(second)
