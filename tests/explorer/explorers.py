"""Explorers of the mock for tests: in this process on a free port, or as the command."""

import asyncio
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

import numpy as np
import PIL.Image
from aiohttp import WSMsgType, web

from experiments.explorer.engine import Settings
from experiments.explorer.guard import Guard
from experiments.explorer.mock import MockEngines
from experiments.explorer.server import Explorer
from experiments.explorer.worker import Worker

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def first(folder):
    """The beginning of every tab: a picture of colours."""
    path = pathlib.Path(folder) / "first.png"
    ramp = np.linspace(0, 255, 128).astype(np.uint8)
    PIL.Image.fromarray(np.stack(np.broadcast_arrays(ramp, ramp[:, None], 90), -1).astype(np.uint8)).save(path)

    def begin(engines, message):
        engine = engines.get(Settings(message.memory))
        return engine, engine.picture(path, 0.0, message.seed)

    return begin


@contextlib.contextmanager
def serving(folder, *, host="127.0.0.1", token=None, engines=None, **limits):
    """An explorer in a thread of its own; gives its address and itself."""
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    loop, ready, found = asyncio.new_event_loop(), threading.Event(), {}

    async def start():
        explorer = Explorer(
            [engines or MockEngines()], [Worker()], first(folder), pathlib.Path(folder), Guard(host, token), **limits
        )
        runner = web.AppRunner(explorer.app(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        found.update(runner=runner, explorer=explorer, address=f"http://127.0.0.1:{runner.addresses[0][1]}")
        ready.set()

    def run():
        asyncio.set_event_loop(loop)
        loop.run_until_complete(start())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield found["address"], found["explorer"]
    finally:
        asyncio.run_coroutine_threadsafe(found["runner"].cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


@contextlib.contextmanager
def command(folder, *flags):
    """The command itself, on a free port; gives its address and process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.explore", "--mock", "--port=0", f"--out={folder}", "--nobrowser", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"the explorer is at (http://[\w.]+:\d+)", line):
                yield found[1], process
                return
        raise AssertionError("".join(said))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(30)
        process.stdout.close()


class Page:
    """A page without a browser: sends messages, and keeps what comes."""

    def __init__(self, client, address, session="", headers=None):
        self.client, self.address, self.session, self.headers = client, address, session, headers
        self.heard, self.binary = [], []

    async def __aenter__(self):
        self.socket = await self.client.ws_connect(
            f"{self.address}/socket?session={self.session}", headers=self.headers, max_msg_size=0
        )
        return self

    async def __aexit__(self, *_):
        await self.socket.close()

    async def send(self, kind, **fields):
        await self.socket.send_str(json.dumps({"type": kind} | fields))

    async def until(self, kind, /, **wanted):
        """The next message of that kind with those values; all that comes before is kept."""
        async with asyncio.timeout(30):
            while True:
                message = await self.socket.receive()
                assert message.type in (WSMsgType.TEXT, WSMsgType.BINARY), f"{message.type} {message.data}"
                if message.type == WSMsgType.BINARY:
                    self.binary.append(message.data)
                    if kind == message.data[0]:
                        return message.data
                    continue
                content = json.loads(message.data)
                self.heard.append(content)
                if content["type"] == "welcome":
                    self.session = content["session"]
                if content["type"] == "moment":
                    await self.send("shown", moment=content["moment"])
                if content["type"] == kind and all(content[name] == value for name, value in wanted.items()):
                    return content

    async def begin(self):
        """The first world is there."""
        await self.until("welcome")
        await self.until("timeline")
        return await self.until(2)

    async def step(self, **keys):
        """One tap of keys; the moment, and its pictures as bytes."""
        await self.send("move", tap=True, **keys)
        await self.send("move")
        moment = await self.until("moment")
        self.binary.clear()
        await self.until(2)
        return moment, [data for data in self.binary if data[0] == 1]
