"""Files of a repository on the Hugging Face Hub, fetched so that a stop costs nothing, and compared with its hashes."""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

from mirage_jax.errors import UserError

_CHUNK = 1 << 20


def fetch(name: str, into: pathlib.Path, wanted: Callable[[Sequence[str]], list[str]]) -> pathlib.Path:
    """Fetches files of a repository; what is there already, or a part of it, is not fetched again.

    The server is that of the environment variable HF_ENDPOINT, if it is set.

    Args:
      name: OWNER/REPOSITORY, or OWNER/REPOSITORY/PATH of one file or folder in it.
      into: the folder to put them in, under the names they have in the repository.
      wanted: chooses from the names of all files.

    Returns:
      `into`, or PATH in it.

    Raises:
      UserError: if the repository or file does not exist or cannot be reached, or a file is not what the Hub says.
    """
    try:
        from huggingface_hub import HfApi, constants
    except ImportError as error:
        raise UserError(
            f"{name}: fetching needs the package huggingface_hub: pip install 'mirage-jax[text]'"
        ) from error
    owner, _, rest = name.partition("/")
    repository, _, inside = rest.partition("/")
    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    try:
        api = HfApi(endpoint=endpoint)
        info = api.model_info(f"{owner}/{repository}", files_metadata=True)
    except Exception as error:  # of the hub, of its HTTP library, and of the network
        raise UserError(f"{name}: no such file or folder here, and {endpoint} says: {_reason(error)}") from error
    files = {file.rfilename: file for file in info.siblings or ()}
    chosen = [x for x in files if x == inside or x.startswith(f"{inside}/")] if inside else list(files)
    chosen = chosen if inside in files else wanted(chosen)
    if not chosen:
        some = ", ".join(sorted(files)[:10])
        raise UserError(f"{name}: holds no weights that can be read, its files are {some}{' ..' * (len(files) > 10)}")
    missing = sum(max(0, (files[x].size or 0) - _held(into / x)) for x in chosen)
    into.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(into).free < missing:
        raise UserError(f"{into}: {missing / 1e9:.1f} GB are to be fetched, the disk has less")
    print(f"fetching {len(chosen)} files of {owner}/{repository}, {missing / 1e9:.2f} GB", flush=True)
    for file in sorted(chosen):
        _fetch_one(f"{owner}/{repository}", info.sha, files[file], into / file, endpoint)
    return into / inside if inside else into


def _fetch_one(repository: str, revision: str | None, file: Any, to: pathlib.Path, endpoint: str) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    hashed = file.lfs.sha256 if file.lfs else file.blob_id
    if to.is_file() and to.stat().st_size == file.size:  # it was compared before it got its name
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    # Named by content: another revision of the file does not go on from this one.
    partial = to.with_name(f"{to.name}.{(hashed or 'unknown')[:16]}.incomplete")
    url = hf_hub_url(repository, file.rfilename, revision=revision, endpoint=endpoint)
    try:
        with partial.open("ab") as stream:  # the library's own cache starts a file anew after a kill
            http_get(
                url,
                stream,
                resume_size=stream.tell(),
                headers=build_hf_headers(),
                expected_size=file.size,
                displayed_filename=file.rfilename,
            )
    except Exception as error:
        raise UserError(
            f"{repository}/{file.rfilename}: not fetched, the same command goes on ({_reason(error)})"
        ) from error
    found = _sha256(partial) if file.lfs else _git_blob(partial)
    if hashed is not None and found != hashed:
        partial.unlink()
        raise UserError(
            f"{repository}/{file.rfilename}: its hash is {found[:16]}.., the Hub says {hashed[:16]}..; it is removed, "
            "the same command fetches it again"
        )
    partial.rename(to)


def _held(path: pathlib.Path) -> int:
    return sum(file.stat().st_size for file in (path, *path.parent.glob(f"{path.name}.*.incomplete")) if file.is_file())


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _git_blob(path: pathlib.Path) -> str:
    """The hash by which git names a small file's content."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return " ".join(line.strip() for line in lines if line.strip())[:300] if lines else type(error).__name__
