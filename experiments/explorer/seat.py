"""One tab: its session, its socket while it is there, and the loop that walks while keys are held."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from aiohttp import WSMsgType, web

from experiments.explorer import protocol
from experiments.explorer.engine import Seen
from experiments.explorer.motion import Keys
from experiments.explorer.session import Session, jpeg
from experiments.explorer.uploads import Upload
from experiments.explorer.worker import Worker
from mirage_jax.errors import UserError

_MOST_RUBBISH = 50
_MOST_WISHES = 100  # undo and the like that wait for their turn
_PATIENCE = 30.0  # seconds to wait for a page to say that it shows what it was sent


class Seat:
    """A tab and its session."""

    def __init__(self, session: Session, worker: Worker, start: Callable[[protocol.Start, Upload | None], Any]):
        """A seat without a page.

        Args:
          session: of the tab.
          worker: in whose thread its worlds run.
          start: begins a world, in that thread: `(message, upload) -> (engine, Begun)`.
        """
        self.session, self.worker = session, worker
        self.uploads: dict[str, Upload] = {}
        self.used = time.monotonic()
        self._start = start
        self._keys, self._prompt = Keys(), ""
        self._socket: web.WebSocketResponse | None = None
        self._wake, self._shown = asyncio.Event(), asyncio.Event()
        self._last_sent = -1
        self._points = np.zeros((0, 3), np.float32)  # that the page has
        self._turn = asyncio.Lock()  # one thing at a time, in the order it was asked for

    @property
    def taken(self) -> bool:
        """Whether a page is there."""
        return self._socket is not None and not self._socket.closed

    async def serve(self, socket: web.WebSocketResponse, welcome: protocol.Welcome) -> None:
        """Talks to a page until it goes. A page that comes while another is there takes its place."""
        if self._socket is not None:
            await self._socket.close(code=4001, message=b"opened in another tab")
        self._socket = socket
        self._keys.release()
        await self.send(welcome)
        if not self.session.moments:
            await self._do(protocol.Start())
        else:
            async with self._turn:
                await self._show_here()
        wishes: asyncio.Queue[Any] = asyncio.Queue()
        tasks = [asyncio.create_task(self._walk()), asyncio.create_task(self._grant(wishes))]
        rubbish = 0
        try:
            async for message in socket:
                self.used = time.monotonic()
                try:
                    if message.type != WSMsgType.TEXT:
                        raise UserError("message: expected text")
                    self._take(protocol.parse(message.data), wishes)
                except UserError as error:
                    rubbish += str(error).startswith("message")
                    await self.say("error", str(error))
                    if rubbish > _MOST_RUBBISH:
                        await socket.close(code=1008, message=b"too many messages that mean nothing")
        finally:
            for task in tasks:
                task.cancel()
            if self._socket is socket:
                self._socket = None
                self._keys.release()

    async def send(self, message: Any) -> None:
        """Sends a message, or binary data, if a page is there."""
        socket = self._socket
        if socket is None or socket.closed:
            return
        try:
            if isinstance(message, bytes):
                await socket.send_bytes(message)
            else:
                await socket.send_str(protocol.to_json(message))
        except (ConnectionError, RuntimeError):  # it went while we spoke
            pass

    async def say(self, kind: str, sentence: str) -> None:
        """Tells the person a sentence."""
        await self.send(protocol.Said(kind, " ".join(sentence.split())))

    async def close(self, sentence: str) -> None:
        """Says why, and hangs up."""
        if self._socket is not None:
            await self.say("warning", sentence)
            await self._socket.close(code=1001, message=b"the explorer ends")

    def _take(self, message: Any, wishes: asyncio.Queue[Any]) -> None:
        match message:
            case protocol.Move():
                self._keys.move(**dataclasses.asdict(message))
                self._wake.set()
            case protocol.Look():
                self._keys.look(message.yaw, message.pitch)
                self._wake.set()
            case protocol.Shown():
                if message.moment == self._last_sent:
                    self._shown.set()
            case protocol.Prompt():
                if not self.session.moments or not self.session.world.engine.facts.text:
                    raise UserError("this model was trained without text")
                self._prompt = message.text
            case _:
                if wishes.qsize() < _MOST_WISHES:
                    wishes.put_nowait(message)

    async def _grant(self, wishes: asyncio.Queue[Any]) -> None:
        while True:
            await self._do(await wishes.get())

    async def _do(self, message: Any) -> None:
        """Undo, jump and the like, or a new world; then shows where we are."""
        session = self.session
        try:
            async with self._turn:
                if isinstance(message, protocol.Start):
                    await self._begin(message)
                elif not session.moments:
                    raise UserError("there is no world yet: start one first")
                else:
                    act = {
                        protocol.Undo: lambda: session.undo(),
                        protocol.Redo: lambda: session.redo(),
                        protocol.Jump: lambda: session.jump(message.moment),
                        protocol.Fork: lambda: session.fork(message.moment),
                        protocol.Switch: lambda: session.switch(message.branch),
                    }[type(message)]
                    await self.worker.run(act)
                await self._show_here()
        except UserError as error:
            await self.say("error", str(error))
        except Exception:  # a defect costs this one wish, not the server
            logging.exception("explorer: %s failed", type(message).__name__)
            await self.say("error", "that failed by a defect of the program; the world is as it was")

    async def _begin(self, message: protocol.Start) -> None:
        upload = self.uploads.get(message.upload)
        if message.upload and upload is None:
            raise UserError("what was uploaded is gone: choose it again")
        await self.send(protocol.Busy("making the first view", 0.1))
        try:
            engine, begun = await self.worker.run(lambda: self._start(message, upload))
            await self.worker.run(lambda: self.session.begin(engine, begun))
            for note in begun.seen.notes:
                await self.say("note", note)
        finally:
            await self.send(protocol.Busy("", 1.0))

    async def _show_here(self) -> None:
        """The whole timeline, the last picture of the moment we are at, and the memory there."""
        session = self.session
        if not session.moments:
            return
        self._shown.set()  # what was on its way is shown no more
        await self.send(self._timeline())

        def gathered() -> tuple[int, Seen, Any]:
            return session.cursor, session.last(), session.points()

        moment, seen, points = await self.worker.run(gathered)
        await self._send_pictures(moment, seen)
        self._points = np.zeros((0, 3), np.float32)
        await self._send_points(points)

    async def _send_points(self, found: tuple[np.ndarray, np.ndarray]) -> None:
        """The points that the page does not have: a memory mostly grows at its end."""
        xyz, colours = found
        first = len(self._points)
        if first > len(xyz) or not np.array_equal(xyz[:first], self._points):
            first = 0
        self._points = xyz
        await self.send(protocol.points(first, xyz[first:], colours[first:]))

    def _timeline(self) -> protocol.Timeline:
        session = self.session
        branches = []
        for number, branch in session.branches.items():
            way = session.way(branch.tip)
            at = [np.asarray(session.moments[m].cameras.cam2world[-1][:3, 3]).round(4).tolist() for m in way]
            moments = [[m, *place] for m, place in zip(way, at, strict=True)]
            branches.append({"branch": number, "name": branch.name, "moments": moments})
        return protocol.Timeline(session.cursor, session.branch, branches, session.cursor)

    async def _walk(self) -> None:
        """Makes segments while anything is asked for, each when the page has begun to show the one before."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._keys.wanted and self.taken and self.session.moments:
                try:
                    await self._step()
                except UserError as error:
                    self._keys.release()
                    await self.say("error", str(error))
                except Exception:
                    self._keys.release()
                    logging.exception("explorer: a step failed")
                    await self.say("error", "the step failed by a defect of the program; the world is as it was")

    async def _step(self) -> None:
        async with self._turn:
            facts = self.session.world.engine.facts
            motion = self._keys.take(facts.segment_frames / facts.fps, facts.scene_depth)
            if not motion:
                return
            branch, parent = self.session.branch, self.session.cursor
            moment, seen, waited, took = await self.worker.timed(lambda: self.session.walk(motion, self._prompt))
            self._shown.clear()
            self._last_sent = moment.number
            if self.session.branch != branch:
                await self.send(dataclasses.replace(self._timeline(), shown=-1))
            things = [
                {"path": thing.path.round(3).tolist(), "size": round(thing.size, 3), "age": round(thing.age, 2)}
                for thing in seen.things
            ]
            await self.send(
                protocol.Moment(
                    moment=moment.number,
                    parent=parent,
                    branch=self.session.branch,
                    points=moment.points,
                    overflow=moment.overflow,
                    remembered=round(moment.remembered, 4),
                    things=things,
                    seconds={"model": round(took, 4), "wait": round(waited, 4)},
                )
            )
            await self._send_pictures(moment.number, seen)
            for note in seen.notes:
                await self.say("warning", note)
            await self._send_points(await self.worker.run(self.session.points))
        try:
            await asyncio.wait_for(self._shown.wait(), _PATIENCE)
        except TimeoutError:
            self._keys.release()  # nobody looks: a hidden tab, or one that hangs

    async def _send_pictures(self, moment: int, seen: Seen) -> None:
        """Each frame as soon as it is coded, in order."""
        loop, count, stride = asyncio.get_running_loop(), len(seen.frames), len(seen.frames) // len(seen.kind)
        for index, frame in enumerate(seen.frames):
            coded = await loop.run_in_executor(None, jpeg, frame)
            camera, cell = seen.cameras[index], min(index // max(stride, 1), len(seen.kind) - 1)
            k = np.asarray(camera.intrinsics)
            lens = k[[0, 1, 0, 1], [0, 1, 2, 2]] / np.array([camera.width, camera.height] * 2)
            await self.send(
                protocol.picture(moment, index, count, (camera.cam2world, lens), coded, seen.kind[cell], seen.age[cell])
            )
