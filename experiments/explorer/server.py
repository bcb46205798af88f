"""The web server of the explorer: the page, a socket for each tab, uploads and downloads."""

from __future__ import annotations

import asyncio
import importlib.resources
import logging
import pathlib
import re
import secrets
import shutil
from collections.abc import Callable
from typing import Any

from aiohttp import WSCloseCode, web

from experiments.explorer import downloads, protocol, snapshots, uploads
from experiments.explorer.engine import Begun, Engine, Engines, Settings
from experiments.explorer.guard import Guard
from experiments.explorer.seat import Seat
from experiments.explorer.session import Session
from experiments.explorer.uploads import Upload
from experiments.explorer.worker import Worker
from mirage_jax.errors import UserError

MOST_TABS = 32
"""Tabs at a time."""
MOST_MESSAGE = 2**16
"""Bytes of a message of a page."""

_SESSION = re.compile(r"[0-9a-f]{16}")
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_KEY: web.AppKey[Explorer] = web.AppKey("explorer")  # pyright: ignore

First = Callable[[Engines, protocol.Start], tuple[Engine, Begun]]
"""Begins the world that the command was given."""


class Explorer:
    """All tabs, and the worlds' threads."""

    def __init__(
        self,
        engines: list[Engines],
        workers: list[Worker],
        first: First,
        folder: pathlib.Path,
        guard: Guard,
        *,
        memory: int = 2**30,
        disk: int = 8 * 2**30,
        most_tabs: int = MOST_TABS,
    ):
        """A server that is not started.

        Args:
          engines, workers: one of each for every device; tabs take turns.
          first: begins the world that a new tab shows.
          folder: for what does not fit into memory, and sessions from run to run.
          guard: checks every request.
          memory, disk: bytes that moments may take, for each device.
          most_tabs: at a time.
        """
        self._lanes = list(zip(engines, workers, strict=True))
        self.stores = [snapshots.Store(folder, memory, disk) for _ in self._lanes]
        self._first, self._folder, self._guard, self._most = first, folder, guard, most_tabs
        self._seats: dict[str, Seat] = {}
        self._ready, self._busy = asyncio.Event(), protocol.Busy("starting", 0.0)
        self._failed: str | None = None
        self._files = _page()

    def app(self) -> web.Application:
        """The application."""
        app = web.Application(middlewares=[_guarded], client_max_size=MOST_MESSAGE)
        app[_KEY] = self
        app.router.add_get("/", self._index)
        app.router.add_get("/page/{name}", self._asset)
        app.router.add_get("/socket", self._socket)
        app.router.add_post("/upload", self._upload)
        app.router.add_get("/download/{kind}", self._download)
        app.router.add_get("/thumbnail/{moment}", self._thumbnail)
        app.on_startup.append(self._start)
        app.on_shutdown.append(self._stop)
        return app

    def check(self, request: web.Request) -> None:
        """Raises `HTTPForbidden` for who may not."""
        self._guard.check(request)

    async def _start(self, app: web.Application) -> None:
        self._warming = asyncio.create_task(self._warm())

    async def _warm(self) -> None:
        """Loads and compiles, and tells the pages that wait."""

        def progress(what: str, done: float) -> None:
            self._busy = protocol.Busy(what, done)
            print(f"{what} ({100 * done:.0f} %)\n", end="", flush=True)

        try:
            for engines, worker in self._lanes:
                await worker.run(lambda engines=engines: engines.warm(progress))
        except UserError as error:
            self._failed = str(error)
        except Exception:
            logging.exception("explorer: the model could not be started")
            self._failed = "the model could not be started, by a defect of the program"
        if self._failed:
            print(f"error: {self._failed}", flush=True)
        self._busy = protocol.Busy("", 1.0)
        self._ready.set()

    async def _stop(self, app: web.Application) -> None:
        """Says goodbye and writes every session, so that the next run goes on with them."""
        self._warming.cancel()
        for name, seat in list(self._seats.items()):
            await seat.close("the explorer ends; your worlds are kept, start it again to go on")
            try:
                await seat.worker.run(lambda seat=seat, name=name: seat.session.write(self._folder / name))
            except Exception:
                logging.exception("explorer: session %s could not be kept", name)
        for _, worker in self._lanes:
            worker.close()

    async def _index(self, request: web.Request) -> web.Response:
        response = web.Response(body=self._files["index.html"], content_type="text/html", charset="utf-8")
        self._guard.remember(response)
        return response

    async def _asset(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._files:
            raise web.HTTPNotFound(text="there is no such file")
        kind = _TYPES[pathlib.PurePosixPath(name).suffix]
        return web.Response(body=self._files[name], content_type=kind, charset="utf-8")

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=MOST_MESSAGE, heartbeat=30.0)
        await socket.prepare(request)
        while not self._ready.is_set():
            await socket.send_str(protocol.to_json(self._busy))
            try:
                await asyncio.wait_for(self._ready.wait(), 0.5)
            except TimeoutError:
                if socket.closed:
                    return socket
        await socket.send_str(protocol.to_json(self._busy))
        try:
            if self._failed:
                raise UserError(self._failed)
            seat = await self._seat(request.query.get("session", ""))
        except UserError as error:
            await socket.send_str(protocol.to_json(protocol.Said("error", str(error))))
            await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"no seat")
            return socket
        await seat.serve(socket, self._welcome(seat))
        return socket

    def _welcome(self, seat: Seat) -> protocol.Welcome:
        facts = self._lanes[0][0].facts
        return protocol.Welcome(
            session=seat.session.name,
            name=facts.name,
            height=facts.height,
            width=facts.width,
            fps=facts.fps,
            segment_frames=facts.segment_frames,
            text=facts.text,
            memories=list(facts.memories),
            steps=facts.steps,
            note=facts.note,
            uploads={"bytes": uploads.MOST_BYTES, "pixels": uploads.MOST_PIXELS, "files": uploads.MOST_FILES},
        )

    async def _seat(self, name: str) -> Seat:
        """The seat of a session: one that is here, one that was put away, or a new one."""
        if name in self._seats:
            return self._seats[name]
        if len(self._seats) >= self._most:
            await self._put_one_away()
        lane = len(self._seats) % len(self._lanes)
        engines, worker = self._lanes[lane]
        store, session = self.stores[lane], None
        if _SESSION.fullmatch(name):
            try:
                session = await worker.run(lambda: Session.read(self._folder / name, name, engines, store))
            except UserError as error:
                logging.warning("explorer: session %s is not gone on with: %s", name, error)
        if session is None:
            name = secrets.token_hex(8)
            session = Session(name, engines, store)

        def start(message: protocol.Start, upload: Upload | None) -> tuple[Engine, Begun]:
            return self._begin(engines, message, upload)

        self._seats[name] = Seat(session, worker, start)
        return self._seats[name]

    async def _put_one_away(self) -> None:
        """Writes the session that was not used for longest, and lets go of it. Raises `UserError` if all are in use."""
        idle = [(seat.used, name) for name, seat in self._seats.items() if not seat.taken]
        if not idle:
            raise UserError(f"{self._most} tabs are open already; close one and reload this page")
        _, name = min(idle)
        seat = self._seats.pop(name)
        store = self.stores[next(i for i, (_, worker) in enumerate(self._lanes) if worker is seat.worker)]

        def put_away() -> None:
            seat.session.write(self._folder / name)
            store.release(name)

        await seat.worker.run(put_away)

    def _begin(self, engines: Engines, message: protocol.Start, upload: Upload | None) -> tuple[Engine, Begun]:
        if upload is None:
            return self._first(engines, message)
        try:
            if upload.kind == "world":
                return engines.load(upload.path)
            engine = engines.get(Settings(message.memory, message.steps))
            if upload.kind == "scene":
                return engine, engine.pictures(upload.path, message.seed)
            return engine, engine.picture(upload.path, message.fov, message.seed)
        except UserError as error:  # where it lies here is nobody's business
            text = str(error).replace(f"{upload.path.parent}/", "").replace(str(upload.path.parent), "the upload")
            raise UserError(text.removeprefix("--image: ")) from error

    def _known(self, request: web.Request) -> Seat:
        seat = self._seats.get(request.query.get("session", ""))
        if seat is None:
            raise web.HTTPNotFound(text="there is no such session")
        return seat

    async def _upload(self, request: web.Request) -> web.Response:
        seat = self._known(request)
        folder = self._folder / seat.session.name / "uploads"
        try:
            name, upload = await uploads.receive(request, folder)
        except UserError as error:
            return web.json_response({"error": str(error)}, status=400)
        seat.uploads[name] = upload
        for old in list(seat.uploads)[: -uploads.MOST_KEPT]:
            del seat.uploads[old]
            shutil.rmtree(folder / old, ignore_errors=True)
        return web.json_response({"upload": name, "kind": upload.kind})

    async def _download(self, request: web.Request) -> web.StreamResponse:
        seat, kind = self._known(request), request.match_info["kind"]
        if kind not in downloads.KINDS or not seat.session.moments:
            raise web.HTTPNotFound(text="there is nothing of that kind to download")
        folder = self._folder / seat.session.name / "downloads" / secrets.token_hex(8)
        folder.mkdir(parents=True)
        try:
            path = await seat.worker.run(lambda: downloads.make(seat.session, kind, folder))
            response = web.FileResponse(path)
            response.headers["Content-Disposition"] = f'attachment; filename="{path.name}"'
            await response.prepare(request)
            await response.write_eof()
            return response
        except UserError as error:
            return web.Response(text=str(error), status=400)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _thumbnail(self, request: web.Request) -> web.Response:
        seat, number = self._known(request), request.match_info["moment"]
        moment = seat.session.moments.get(int(number)) if re.fullmatch(r"[0-9]{1,9}", number) else None
        if moment is None:
            raise web.HTTPNotFound(text="there is no such moment")
        return web.Response(body=moment.thumbnail, content_type="image/jpeg")


@web.middleware
async def _guarded(request: web.Request, handler: Any) -> web.StreamResponse:
    """Checks who asks, and says in every answer what a page of ours may load."""
    request.app[_KEY].check(request)
    response = await handler(request)
    if not response.prepared:
        response.headers.update(_HEADERS)
    return response


def _page() -> dict[str, bytes]:
    """The files of the page by name: the only ones that are ever served."""
    folder = importlib.resources.files("experiments.explorer") / "page"
    return {
        file.name: file.read_bytes() for file in folder.iterdir() if pathlib.PurePosixPath(file.name).suffix in _TYPES
    }
