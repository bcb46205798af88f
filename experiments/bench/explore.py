"""Benchmark suite `explore`: from a key to its picture, frames a second, and a thousand keys in a row.

The explorer runs as a server in this process, and a client walks in it as the page does: it answers a moment when its
first picture is there. Where there is a browser, the page itself walks too, which adds the drawing. `--scale tiny` is
the mock in place of the model that ships.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import resource
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import numpy as np
import PIL.Image
from aiohttp import web

from experiments.bench import records, timing
from experiments.explorer import protocol
from experiments.explorer.engine import Settings
from experiments.explorer.guard import Guard
from experiments.explorer.mock import MockEngines
from experiments.explorer.model_engine import ModelEngines
from experiments.explorer.server import Explorer
from experiments.explorer.worker import Worker
from mirage_jax.data import clip as clips

OPTIONS = ("scale",)
TAPS, KEYS = 60, 1000
AIMS = {"p95": 250.0, "fps": 8.0}
_MEMORY, _DISK = 2**28, 2**30
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def measure(scale: str = "full", taps: int = TAPS, keys: int = KEYS) -> dict[str, Any]:
    """Walks and times; the record that `markdown` prints."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measured(pathlib.Path(folder), scale, taps, keys)) | {
            "scale": scale,
            "device": timing.device(),
            "cores": timing.cores(),
            "load": round(os.getloadavg()[0], 1),
        }


def markdown(record: dict[str, Any]) -> str:
    """The page."""
    tap, hold, long = record["tap"], record["hold"], record["long"]
    rows = [
        ["key to picture, ms", f"{tap['total']['p50']:.0f}", f"{tap['total']['p95']:.0f}"],
        *([f"- {part}", f"{tap[part]['p50']:.0f}", f"{tap[part]['p95']:.0f}"] for part in ("model", "wait", "rest")),
    ]
    if record["browser"]:
        rows.append(["key to picture on the screen, ms", *(f"{record['browser'][p]:.0f}" for p in ("p50", "p95"))])
    lines = [
        f"# The explorer, {record['device']}, {record['cores']} cores (load {record['load']})",
        "",
        f"A step makes {record['segment_frames']} frames of {record['size']}x{record['size']}. {record['taps']} single "
        "keys; `rest` is coding to JPEG and the socket on this machine.",
        "",
        *records.table(["", "median", "95th percentile"], rows),
        "",
        f"Held keys: {hold['fps']:.1f} frames a second. {long['keys']} keys in a row: {long['out_of_order']} pictures "
        f"out of order; memory {long['mib_before']:.0f} MiB after the first tenth, {long['mib_after']:.0f} MiB at the "
        f"end, of which {long['held_mib']:.0f} are moments kept in memory (at most {_MEMORY / 2**20:.0f}).",
    ]
    return "\n".join(lines) + "\n"


async def _measured(folder: pathlib.Path, scale: str, taps: int, keys: int) -> dict[str, Any]:
    engines = MockEngines() if scale == "tiny" else ModelEngines(None)
    async with _serving(folder, engines) as (address, explorer):
        async with aiohttp.ClientSession() as session, _Walker.at(session, address) as walker:
            parts = [await walker.tap(index) for index in range(taps)]
            tap = {name: _percentiles([1000 * part[name] for part in parts]) for name in parts[0]}
            fps = await walker.hold(max(2, taps // 6))
            long = await _long_walk(walker, explorer, keys)
        browser = await asyncio.to_thread(_in_browser, address, min(taps, 30))
    facts = engines.facts
    about = {"segment_frames": facts.segment_frames, "size": facts.width, "taps": taps, "aims": AIMS}
    return about | {"tap": tap, "hold": {"fps": fps}, "long": long, "browser": browser}


@contextlib.asynccontextmanager
async def _serving(folder: pathlib.Path, engines: Any) -> AsyncIterator[tuple[str, Explorer]]:
    picture = folder / "first.png"
    PIL.Image.fromarray(clips.load(clips.DEMO).frames[0]).save(picture)

    def first(engines: Any, message: protocol.Start) -> Any:
        engine = engines.get(Settings())
        return engine, engine.picture(picture, 0.0, 0)

    explorer = Explorer([engines], [Worker()], first, folder, Guard("127.0.0.1", None), memory=_MEMORY, disk=_DISK)
    runner = web.AppRunner(explorer.app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", explorer
    finally:
        await runner.cleanup()


class _Walker:
    """A client that walks as the page does, and takes times."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse):
        self._socket, self.last, self.out_of_order = socket, (0, 0), 0

    @classmethod
    @contextlib.asynccontextmanager
    async def at(cls, session: aiohttp.ClientSession, address: str) -> AsyncIterator[_Walker]:
        async with session.ws_connect(f"{address}/socket", max_msg_size=0) as socket:
            walker = cls(socket)
            while await walker.hear() != protocol.POINTS:  # of the first view, when everything is compiled
                pass
            yield walker

    async def hear(self) -> Any:
        """The next message: of text its values, of binary data its first byte; a moment is answered at once."""
        message = await self._socket.receive()
        if message.type == aiohttp.WSMsgType.TEXT:
            return json.loads(message.data)
        assert message.type == aiohttp.WSMsgType.BINARY, message
        if message.data[0] == protocol.PICTURE:
            place = int.from_bytes(message.data[4:8], "little"), int.from_bytes(message.data[2:4], "little")
            self.out_of_order += place < self.last
            self.last = place
            if place[1] == 0:
                await self._socket.send_json({"type": "shown", "moment": place[0]})
        return message.data[0]

    async def say(self, **move: Any) -> None:
        """Keys are held, or let go."""
        await self._socket.send_json({"type": "move", **move})

    async def until_step(self) -> tuple[dict[str, Any], float]:
        """Hears a whole step; its moment, and when its first picture came."""
        moment, first = {}, 0.0
        while (heard := await self.hear()) != protocol.POINTS:
            if isinstance(heard, dict):
                assert heard["type"] != "said" or heard["kind"] != "error", heard
                moment = heard if heard["type"] == "moment" else moment
            elif heard == protocol.PICTURE and not first:
                first = time.perf_counter()
        return moment, first

    async def tap(self, index: int) -> dict[str, float]:
        """Seconds from a single key to its first picture, by part."""
        began = time.perf_counter()
        await self.say(**_key(index), tap=True)
        await self.say()
        moment, first = await self.until_step()
        total, seconds = first - began, moment["seconds"]
        return {"total": total, **seconds, "rest": total - seconds["model"] - seconds["wait"]}

    async def hold(self, steps: int) -> float:
        """Frames a second while a key is held."""
        await self.say(yaw=0.4, tap=True)
        await self.until_step()
        began, before = time.perf_counter(), self.last
        for _ in range(steps):
            await self.until_step()
        seconds = time.perf_counter() - began
        await self.say()
        await self._drain()
        return steps * (before[1] + 1) / seconds

    async def _drain(self) -> None:
        with contextlib.suppress(TimeoutError):
            while True:
                await asyncio.wait_for(self.until_step(), 3.0)


async def _long_walk(walker: _Walker, explorer: Explorer, keys: int) -> dict[str, Any]:
    """Many keys, one after the other."""
    before = 0.0
    for index in range(keys):
        if index == keys // 10:
            before = _resident()
        await walker.say(**_key(index), tap=True)
        await walker.say()
        await walker.until_step()
    held = sum(store.held_bytes for store in explorer.stores) / 2**20
    return {
        "keys": keys,
        "out_of_order": walker.out_of_order,
        "mib_before": before,
        "mib_after": _resident(),
        "held_mib": held,
    }


def _key(index: int) -> dict[str, float]:
    """A walk that goes round and does not leave: forward and back, and turning."""
    return [{"forward": 0.4}, {"yaw": 0.5}, {"forward": -0.4}, {"yaw": 0.5}][index % 4]


def _resident() -> float:
    """MiB of memory that this process has now."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _in_browser(address: str, taps: int) -> dict[str, float] | None:
    """Milliseconds from a key to its picture on the screen, as the page takes them; None without a browser."""
    path = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if path is None:
        return None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector('body[data-ready][data-moment="0"]', timeout=60_000)
        found = []
        for index in range(taps):
            page.keyboard.press("wdsa"[index % 4])
            page.wait_for_selector(f'body[data-moment="{index + 1}"]', timeout=60_000)
            page.wait_for_timeout(1500)
            found.append(float(page.evaluate("document.body.dataset.latency")))
        browser.close()
    return _percentiles(found)


def _percentiles(values: list[float]) -> dict[str, float]:
    return {"p50": float(np.percentile(values, 50)), "p95": float(np.percentile(values, 95))}
