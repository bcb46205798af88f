"""The server: who may talk to it, what it does with rubbish, and that no fault costs a world."""

import asyncio
import io
import signal

import aiohttp
import numpy as np
import PIL.Image
import pytest

from experiments.explorer import uploads
from experiments.explorer.mock import MockEngines
from mirage_jax import viz
from mirage_jax.geometry import pose_files
from tests.explorer.explorers import Page, command, serving


def png(width=32, height=32):
    stream = io.BytesIO()
    PIL.Image.fromarray(np.full((height, width, 3), 120, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def talk(conversation, folder, **options):
    async def run(address, explorer):
        async with aiohttp.ClientSession() as client:
            return await conversation(client, address, explorer)

    with serving(folder, **options) as (address, explorer):
        return asyncio.run(run(address, explorer))


async def sent(client, page, files):
    form = aiohttp.FormData()
    for name, data in files.items():
        form.add_field("file", data, filename=name, content_type="application/octet-stream")
    async with client.post(f"{page.address}/upload?session={page.session}", data=form) as answer:
        return answer.status, await answer.json()


def test_walks_undoes_and_shows_the_same_bytes_again(tmp_path):
    async def conversation(client, address, _):
        async with Page(client, address) as page:
            await page.begin()
            steps = [await page.step(forward=1) for _ in range(3)]
            assert [moment["moment"] for moment, _ in steps] == [1, 2, 3]
            assert all(len(pictures) == 4 for _, pictures in steps)
            assert [picture[2] for picture in steps[0][1]] == [0, 1, 2, 3]
            await page.send("undo")
            await page.until("timeline", cursor=2)
            again = await page.until(1)
            last = steps[1][1][-1]
            assert again[94:] == last[94:]  # what is laid over it, and the picture
            await page.send("fork", moment=1)
            timeline = await page.until("timeline", cursor=1)
            assert len(timeline["branches"]) == 2
            session = page.session
        async with Page(client, address, session) as page:  # a reload
            assert (await page.until("welcome"))["session"] == session
            assert (await page.until("timeline"))["cursor"] == 1

    talk(conversation, tmp_path)


def test_held_keys_walk_until_they_are_let_go_or_the_page_is_gone(tmp_path):
    async def conversation(client, address, explorer):
        async with Page(client, address) as page:
            await page.begin()
            await page.send("move", forward=1, tap=True)
            for _ in range(4):
                await page.until("moment")
            await page.send("move")
            await asyncio.sleep(0.5)
            count = len(explorer._seats[page.session].session.moments)
            await asyncio.sleep(0.5)
            session = explorer._seats[page.session].session
            assert len(session.moments) == count >= 5
            await page.send("move", forward=1, tap=True)
            await page.until("moment")
        await asyncio.sleep(0.5)  # cut while it walks
        count = len(session.moments)
        await asyncio.sleep(0.5)
        assert len(session.moments) == count

    talk(conversation, tmp_path)


def test_rubbish_is_a_sentence_and_the_server_lives(tmp_path):
    async def conversation(client, address, _):
        async with Page(client, address) as page:
            await page.begin()
            for text in ("rubbish", "[]", '{"type": "jump", "moment": 99}', '{"type": "switch", "branch": 7}'):
                await page.socket.send_str(text)
                assert (await page.until("said"))["kind"] == "error"
            await page.socket.send_bytes(b"\0" * 100)
            assert "expected text" in (await page.until("said"))["sentence"]
            await page.step(forward=1)
            await page.socket.send_str("x" * 100_000)
            assert (await page.socket.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
            session = page.session
        async with Page(client, address, session) as page:  # and nothing is lost
            await page.until("welcome", session=session)
            assert (await page.until("timeline"))["cursor"] == 1
            for _ in range(200):
                await page.socket.send_str("{")
            with pytest.raises(AssertionError, match="1008"):
                await page.until("never")

    talk(conversation, tmp_path)


def test_twenty_tabs_walk_and_one_too_many_is_told(tmp_path):
    async def conversation(client, address, _):
        pages = [Page(client, address) for _ in range(20)]
        for page in pages:
            await page.__aenter__()
            await page.begin()
        assert len({page.session for page in pages}) == 20
        await asyncio.gather(*(page.step(forward=1) for page in pages))
        async with Page(client, address) as late:
            said = await late.until("said")
            assert "20 tabs are open already" in said["sentence"]
        await pages[0].__aexit__()
        async with Page(client, address) as late:  # the one that left is put away, not lost
            await late.begin()
        await pages[1].__aexit__()
        async with Page(client, address, pages[0].session) as back:
            await back.until("welcome", session=pages[0].session)
            assert (await back.until("timeline"))["cursor"] == 1
        for page in pages[2:]:
            await page.__aexit__()

    talk(conversation, tmp_path, most_tabs=20)


def test_a_second_page_of_a_session_takes_its_place(tmp_path):
    async def conversation(client, address, _):
        async with Page(client, address) as page:
            await page.begin()
            async with Page(client, address, page.session) as other:
                await other.until("timeline")
                message = await page.socket.receive()
                while message.type != aiohttp.WSMsgType.CLOSE:
                    message = await page.socket.receive()
                assert message.data == 4001
                await other.step(yaw=1)

    talk(conversation, tmp_path)


def test_worlds_begin_from_uploads_and_go_on(tmp_path):
    async def conversation(client, address, _):
        async with Page(client, address) as page:
            await page.begin()
            status, answer = await sent(client, page, {"photo.png": png()})
            assert status == 200 and answer["kind"] == "picture"
            await page.send("start", upload=answer["upload"], memory="none", seed=5)
            assert len((await page.until("timeline", cursor=1))["branches"]) == 2
            await page.step(forward=1)
            url = f"{address}/download/world?session={page.session}"
            world = await (await client.get(url)).read()
            wanted = (await page.step(forward=1))[1]
            status, answer = await sent(client, page, {"w.safetensors": world})
            assert answer["kind"] == "world"
            await page.send("start", upload=answer["upload"])
            await page.until("timeline", cursor=4)
            again = (await page.step(forward=1))[1]
            assert len(again) == len(wanted) == 4
            await page.send("start", upload="nothing")
            assert "is gone" in (await page.until("said"))["sentence"]

    talk(conversation, tmp_path)


BAD = {
    "no picture": ({"a.png": b"text"}, "no picture that can be read"),
    "cut picture": ({"a.png": png()[:40]}, "picture"),
    "world of nothing": ({"w.safetensors": b"no world"}, "w.safetensors"),
    "no scene": ({"a.png": png(), "b.png": png()}, "holds no scene"),
}


def test_bad_uploads_are_one_sentence_and_cost_nothing(tmp_path):
    async def conversation(client, address, _):
        async with Page(client, address) as page:
            await page.begin()
            for files, said in BAD.values():
                _, answer = await sent(client, page, files)
                await page.send("start", upload=answer["upload"])
                sentence = (await page.until("said", kind="error"))["sentence"]
                assert said in sentence and str(tmp_path) not in sentence, sentence
            await page.step(forward=1)

    talk(conversation, tmp_path)


@pytest.mark.parametrize(
    "name",
    ["../x.png", "/etc/passwd", "a/../../x.png", "..\\x.png", "a\0.png", "~/x", "a/b/c/d/e/f.png", ".ssh", "x" * 200],
)
def test_no_name_of_a_browser_leads_out_of_its_folder(tmp_path, name):
    with pytest.raises(uploads.UserError, match="no file name"):
        uploads._safe(name)


def test_paths_of_requests_lead_nowhere(tmp_path):
    async def conversation(client, address, _):
        host, port = address.removeprefix("http://").split(":")
        async with Page(client, address) as page:
            await page.begin()
            (tmp_path / "secret.txt").write_text("secret")
            for path in (
                "/page/../server.py",
                "/page/..%2fserver.py",
                "/page/%2e%2e/server.py",
                "/page//etc/passwd",
                f"/download/..%2f..%2fsecret.txt?session={page.session}",
                f"/thumbnail/..%2fsecret.txt?session={page.session}",
                "/thumbnail/0?session=../..",
                f"/download/world?session=..%2f{page.session}",
            ):
                reader, writer = await asyncio.open_connection(host, int(port))  # a client would tidy the path
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
                answer = await reader.read()
                writer.close()
                assert answer.split()[1] in (b"404", b"403", b"400"), (path, answer[:200])
                assert b"secret" not in answer and b"import" not in answer
            form = aiohttp.FormData()
            form.add_field("file", png(), filename="../../out.png")
            async with client.post(f"{address}/upload?session={page.session}", data=form) as answer:
                assert answer.status == 400
            assert not list(tmp_path.rglob("out.png"))

    talk(conversation, tmp_path / "sessions")


def test_uploads_have_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MOST_BYTES", 5000)
    monkeypatch.setattr(uploads, "MOST_PIXELS", 2000)
    monkeypatch.setattr(uploads, "MOST_FILES", 3)

    async def conversation(client, address, _):
        async with Page(client, address) as page:
            await page.begin()
            for files, said in (
                ({"a.png": png() + b"\0" * 6000}, "MiB"),
                ({"a.png": png(50, 50)}, "megapixels"),
                ({f"{i}.png": png() for i in range(4)}, "more than 3 files"),
                ({}, "form"),
            ):
                status, answer = await sent(client, page, files)
                assert status == 400 and said in answer["error"]
            folder = tmp_path / page.session / "uploads"
            assert not list(folder.iterdir())

    talk(conversation, tmp_path)


def test_other_origins_and_hosts_are_refused(tmp_path):
    async def conversation(client, address, _):
        for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"Origin": "null"}):
            async with client.get(f"{address}/", headers=headers) as answer:
                assert answer.status == 403
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await client.ws_connect(f"{address}/socket", headers=headers)
            async with client.post(f"{address}/upload", headers=headers) as answer:
                assert answer.status == 403
        async with client.get(f"{address}/", headers={"Origin": address}) as answer:
            assert answer.status == 200
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]

    talk(conversation, tmp_path)


def test_with_a_token_only_who_knows_it_is_answered(tmp_path):
    token = "a-long-enough-token"

    async def conversation(client, address, _):
        for path in ("/", "/page/app.js", "/?token=wrong", "/socket", "/download/world"):
            async with client.get(address + path) as answer:
                assert answer.status == 403, path
        async with client.get(f"{address}/?token={token}", headers={"Host": "a-name-of-mine.example"}) as answer:
            assert answer.status == 200
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=jar) as browser:
            async with browser.get(f"{address}/?token={token}") as answer:
                cookie = answer.headers["Set-Cookie"]
                assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
            async with browser.get(f"{address}/page/app.js") as answer:
                assert answer.status == 200
            async with Page(browser, address) as page:
                await page.begin()

    talk(conversation, tmp_path, host="0.0.0.0", token=token)


def test_downloads_are_read_back(tmp_path):
    async def conversation(client, address, _):
        async with Page(client, address) as page:
            await page.begin()
            for _ in range(2):
                await page.step(forward=1)
            got = {}
            for kind in ("world", "picture", "cameras", "video", "path", "ply", "colmap", "nerfstudio"):
                async with client.get(f"{address}/download/{kind}?session={page.session}") as answer:
                    assert answer.status == 200, kind
                    name = answer.headers["Content-Disposition"].split('"')[1]
                    got[kind] = tmp_path / name
                    got[kind].write_bytes(await answer.read())
            return got

    got = talk(conversation, tmp_path / "sessions")
    assert len(viz.read_video(got["video"])) == 9
    assert len(pose_files.load(got["cameras"]).camera) == 9
    assert PIL.Image.open(got["picture"]).size == (128, 128)
    assert not list((tmp_path / "sessions").rglob("downloads/*"))


def test_a_defect_of_a_world_is_a_sentence(tmp_path):
    class Breaking(MockEngines):
        def get(self, settings):
            engine = super().get(settings)
            whole = engine.step
            engine.step = lambda state, cameras, prompt: whole(state, cameras, prompt) if len(cameras) == 1 else 1 / 0
            return engine

    async def conversation(client, address, _):
        async with Page(client, address) as page:
            await page.begin()
            await page.send("move", forward=1, tap=True)
            assert "defect" in (await page.until("said"))["sentence"]
            await page.send("undo")
            assert "begins" in (await page.until("said"))["sentence"]

    talk(conversation, tmp_path, engines=Breaking())


def test_told_to_stop_it_keeps_all_worlds_and_goes_on_with_them(tmp_path):
    async def walk(address):
        async with aiohttp.ClientSession() as client, Page(client, address) as page:
            await page.begin()
            await page.step(forward=1)
            _, pictures = await page.step(yaw=1)
            process.send_signal(signal.SIGTERM)
            assert "your worlds are kept" in (await page.until("said"))["sentence"]
            return page.session, pictures

    async def come_back(address, session):
        async with aiohttp.ClientSession() as client, Page(client, address, session) as page:
            await page.until("welcome", session=session)
            assert (await page.until("timeline"))["cursor"] == 2
            return await page.until(1)

    with command(tmp_path) as (address, process):
        session, pictures = asyncio.run(walk(address))
        assert process.wait(30) == 0
    with command(tmp_path) as (address, process):
        again = asyncio.run(come_back(address, session))
    assert again[94:] == pictures[-1][94:]


def test_a_start_that_cannot_be_read_is_said_by_the_command(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with (
        pytest.raises(AssertionError, match=r"error: .*text\.png: no picture that can be read"),
        command(tmp_path / "out", f"--image={tmp_path}/text.png"),
    ):
        pass
