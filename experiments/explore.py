"""Walk a generated world in a browser, see its memory, fork it.

    python -m experiments.explore                             the model that ships, and a picture that ships with it
    python -m experiments.explore --image photo.jpg           your picture
    python -m experiments.explore --images scene/             several posed pictures (COLMAP, nerfstudio, ...)
    python -m experiments.explore --load_world w.safetensors  a world that generate or the explorer saved

Prints the address of the page, and opens it where there is a browser. Only this machine is answered, unless --host says
otherwise, and then only with the token. Ctrl-C or SIGTERM keeps all worlds; the next start goes on with them.
"""

from __future__ import annotations

import asyncio
import functools
import os
import pathlib
import secrets
import signal
import sys
import webbrowser

import jax
import PIL.Image
from absl import flags

from experiments.posed_video import posed_images
from experiments.shared import cli, inputs, loading
from mirage_jax.data import clip as clips
from mirage_jax.errors import UserError
from mirage_jax.weights import world_files

try:
    from aiohttp import web
except ImportError:  # said as a sentence in `main`
    web = None

_IMAGE = flags.DEFINE_string("image", None, "Picture that new tabs start from; default: one that ships.")
_IMAGES = flags.DEFINE_string("images", None, "Folder or pose file of several posed pictures to start from.")
_PATH_SCALE = flags.DEFINE_float("path_scale", None, "Metres that a unit of the scene of --images stands for.")
_LOAD_WORLD = flags.DEFINE_string("load_world", None, "World file to start from.")
_FOV = flags.DEFINE_float("fov", None, "Degrees across the picture of --image; default 64.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Model folder; default: the model that ships with the project.")
_RECIPE = flags.DEFINE_string("recipe", None, "How the method is run, as in generate; default: the model's own.")
_WEIGHTS = flags.DEFINE_enum("weights", None, loading.WEIGHTS, "Type of the transformer's weights.")
_CAPACITY = flags.DEFINE_integer("capacity", 65_536, "Points the memory of a world can hold.", lower_bound=256)
_MOCK = flags.DEFINE_bool("mock", False, "A painted room in place of a model, to try the page.")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; any but this machine's own needs --token.")
_PORT = flags.DEFINE_integer("port", 8000, "Port; 0: any that is free.", lower_bound=0, upper_bound=65535)
_TOKEN = flags.DEFINE_string("token", None, "What a page must know to be answered; 'new' makes one.")
_OUT = flags.DEFINE_string("out", "out/explore", "Folder for sessions, and for moments that memory has no room for.")
_MEMORY_MB = flags.DEFINE_integer("memory_mb", 1024, "MiB of moments in memory, for each device.", lower_bound=16)
_DISK_MB = flags.DEFINE_integer("disk_mb", 8192, "MiB of moments on disk, for each device.", lower_bound=16)
_BROWSER = flags.DEFINE_bool("browser", True, "Open the page where there is a browser.")

_SHORTEST_TOKEN = 12


def main(_) -> None:
    """Serves until it is told to stop."""
    if web is None:
        raise UserError("the explorer needs aiohttp: pip install -c constraints.txt -e '.[explore]'")
    from experiments.explorer import guard

    starts = [flag.name for flag in (_IMAGE, _IMAGES, _LOAD_WORLD) if flag.value is not None]
    if len(starts) > 1:
        raise UserError(f"--{' and --'.join(starts)} exclude each other: give one")
    if _FOV.value is not None and (_IMAGE.value is None or not 5 <= _FOV.value <= 150):
        raise UserError("--fov is of the picture of --image, in degrees between 5 and 150")
    if _PATH_SCALE.value is not None and _IMAGES.value is None:
        raise UserError("--path_scale is of the scene of --images")
    if _MOCK.value and any(flag.value is not None for flag in (_CHECKPOINT, _RECIPE, _WEIGHTS)):
        raise UserError("--mock runs no model: leave --checkpoint, --recipe and --weights out")
    token = secrets.token_urlsafe(24) if _TOKEN.value == "new" else _TOKEN.value
    if token is not None and len(token) < _SHORTEST_TOKEN:
        raise UserError(f"--token: expected at least {_SHORTEST_TOKEN} letters, or the word new")
    if not guard.is_loopback(_HOST.value) and token is None:
        raise UserError(
            f"--host {_HOST.value} can be reached from other machines: give --token (--token=new makes one)"
        )
    for flag in (_IMAGE, _IMAGES, _LOAD_WORLD):
        if flag.value is not None and not pathlib.Path(flag.value).exists():
            raise UserError(f"--{flag.name}: no file {flag.value}")
    folder = cli.prepare_output(_OUT.value)
    cli.keep_compiled_programs()
    asyncio.run(_serve(folder, guard.Guard(_HOST.value, token), token))


async def _serve(folder: pathlib.Path, door, token: str | None) -> None:
    from experiments.explorer.server import Explorer
    from experiments.explorer.worker import Worker

    devices = [None] if _MOCK.value else jax.local_devices()
    engines = [_engines() for _ in devices]
    _check_start(engines[0].facts)
    explorer = Explorer(
        engines,
        [Worker(device) for device in devices],
        functools.partial(_first, folder),
        folder,
        door,
        memory=_MEMORY_MB.value * 2**20,
        disk=_DISK_MB.value * 2**20,
    )
    runner = web.AppRunner(explorer.app(), access_log=None, shutdown_timeout=5.0)
    await runner.setup()
    site = web.TCPSite(runner, _HOST.value, _PORT.value)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise UserError(f"--host {_HOST.value} --port {_PORT.value}: cannot listen there ({error.strerror})") from error
    port = runner.addresses[0][1]
    name = f"[{_HOST.value}]" if ":" in _HOST.value else _HOST.value
    address = f"http://{name}:{port}/" + (f"?token={token}" if token else "")
    print(f"the explorer is at {address}\n", end="", flush=True)  # in one piece: others print meanwhile
    if _BROWSER.value and _has_browser():
        webbrowser.open(address)
    told_to_stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_stop.set)
    try:
        await told_to_stop.wait()
    finally:
        await runner.cleanup()
        print("the explorer ended; its worlds are kept", flush=True)


def _engines():
    if _MOCK.value:
        from experiments.explorer.mock import MockEngines

        return MockEngines()
    from experiments.explorer.model_engine import ModelEngines

    return ModelEngines(_CHECKPOINT.value, capacity=_CAPACITY.value, recipe=_RECIPE.value, kind=_WEIGHTS.value)


def _check_start(facts) -> None:
    """Reads what every new tab will begin with, so that what cannot be read is said here and at once."""
    if _IMAGE.value is not None:
        inputs.load_view(_IMAGE.value, facts.height, facts.width, fov=_FOV.value)
    if _IMAGES.value is not None:
        posed_images.load(pathlib.Path(_IMAGES.value), facts.height, facts.width, _PATH_SCALE.value)
    if _LOAD_WORLD.value is not None and not _MOCK.value:
        world_files.read(pathlib.Path(_LOAD_WORLD.value))


def _first(folder: pathlib.Path, engines, message):
    """The world of a new tab."""
    from experiments.explorer.engine import Settings

    settings = Settings(message.memory, message.steps)
    if _LOAD_WORLD.value is not None:
        return engines.load(pathlib.Path(_LOAD_WORLD.value))
    engine = engines.get(settings)
    if _IMAGES.value is not None:
        return engine, engine.pictures(pathlib.Path(_IMAGES.value), message.seed, _PATH_SCALE.value)
    if _IMAGE.value is not None:
        return engine, engine.picture(pathlib.Path(_IMAGE.value), _FOV.value or 0.0, message.seed)
    picture = folder / "first.png"
    if not picture.exists():
        PIL.Image.fromarray(clips.load(clips.DEMO).frames[0]).save(picture)
    return engine, engine.picture(picture, 0.0, message.seed)


def _has_browser() -> bool:
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


if __name__ == "__main__":
    cli.run(main)
