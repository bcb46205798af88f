"""The page in a real browser: Debian's Chromium, driven by Playwright; all with the mock, one walk with the model."""

import base64
import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile

import numpy as np
import PIL.Image
import pytest
from playwright.sync_api import expect, sync_playwright

from tests.explorer.explorers import ROOT, command, serving

_BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(
    _BROWSER is None and "CI" not in os.environ,
    reason="there is no browser here, in which the page could be tried: sudo apt-get install chromium",
)
_FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-dev-shm-usage"]


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=_BROWSER, args=_FLAGS)
        yield chromium
        chromium.close()


@contextlib.contextmanager
def opened(browser, address, **context):
    """A page on which nothing goes wrong that nobody asked for."""
    found = browser.new_context(**context)
    found.set_default_timeout(30_000)
    page = found.new_page()
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: message.type == "error" and faults.append(message.text))
    page.goto(address)
    yield page
    found.close()
    ours = [fault for fault in faults if not re.search("WebSocket|ERR_CONNECTION|Failed to load resource", fault)]
    assert not ours


@pytest.fixture
def page(browser, tmp_path):
    with serving(tmp_path) as (address, _), opened(browser, address) as page:
        at(page, 0)
        yield page


def at(page, moment):
    """Waits until that moment is on the screen, and the timeline stands there."""
    page.wait_for_selector(f'body[data-ready][data-moment="{moment}"][data-cursor="{moment}"][data-last="yes"]')


def until(page, expression):
    """Waits until it is true; the page itself may evaluate no text, which is what Playwright's own waiting does."""
    for _ in range(300):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    state = page.evaluate("JSON.stringify(document.body.dataset)")
    raise AssertionError(f"never: {expression}; {state} {page.inner_text('#status')} {page.inner_text('#said')}")


def seen(page, canvas="picture"):
    """What a canvas shows, as bytes."""
    return page.evaluate(f"document.getElementById('{canvas}').toDataURL()")


def pixels(url):
    """Of a canvas, as numbers."""
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")).astype(int)


def tap(page, key):
    """A step; the moment it leads to."""
    before = int(page.evaluate("document.body.dataset.cursor"))
    page.keyboard.press(key)
    until(page, f"+document.body.dataset.cursor > {before}")
    return settled(page)


def settled(page):
    """The moment that is on the screen once nothing moves any more."""
    last = None
    for _ in range(100):
        now = page.evaluate("(({moment, cursor, last}) => [moment, cursor, last])(document.body.dataset)")
        if now == last and now[0] == now[1] and now[2] == "yes":
            return int(now[0])
        last = now
        page.wait_for_timeout(350)
    raise AssertionError(f"it does not come to rest: {last}")


def test_walks_turns_undoes_and_redoes(page):
    first = seen(page)
    assert tap(page, "w") == 1
    walked = seen(page)
    assert walked != first
    assert tap(page, "ArrowRight") == 2
    assert seen(page) != walked
    page.keyboard.press("Control+z")
    at(page, 1)
    assert seen(page) == walked
    page.click("#undo")
    at(page, 0)
    assert seen(page) == first
    page.click("#redo")
    at(page, 1)
    assert seen(page) == walked
    page.keyboard.press("Control+y")
    at(page, 2)


def test_held_keys_walk_and_a_drag_turns(page):
    page.keyboard.down("w")
    until(page, "+document.body.dataset.cursor >= 4")
    page.keyboard.up("w")
    assert settled(page) >= 4
    before, count = seen(page), int(page.evaluate("document.body.dataset.cursor"))
    box = page.locator("#view").bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 80, box["y"] + 190, steps=4)
    page.mouse.up()
    until(page, f"+document.body.dataset.cursor > {count}")
    settled(page)
    assert seen(page) != before
    assert "fps" in page.inner_text("#hud") and "key to picture" in page.inner_text("#hud")


def test_forks_jumps_and_comes_back(page):
    for _ in range(3):
        tap(page, "w")
    tip = seen(page)
    page.click('.moments button[data-moment="1"]')
    at(page, 1)
    assert tap(page, "ArrowLeft") == 4
    assert page.locator(".branch").count() == 2
    forked = seen(page)
    page.click(".branch:nth-child(1) > button")
    at(page, 3)
    assert seen(page) == tip
    page.click("#fork")
    page.wait_for_selector('body[data-branches="3"]')
    assert tap(page, "d") == 5
    page.click(".branch:nth-child(2) > button")
    at(page, 4)
    assert seen(page) == forked


def test_a_reload_keeps_the_session_and_two_tabs_are_two(browser, tmp_path):
    with serving(tmp_path) as (address, _), opened(browser, address) as page:
        at(page, 0)
        tap(page, "w")
        before = seen(page)
        page.reload()
        at(page, 1)
        assert seen(page) == before
        other = page.context.new_page()
        other.goto(address)
        at(other, 0)
        tap(other, "s")
        assert seen(page) == before
        assert page.evaluate("document.body.dataset.cursor") == "1"


def test_what_is_remembered_is_laid_over_the_picture(page):
    tap(page, "w")
    blank = seen(page, "overlay")
    page.select_option("#mode", "memory")
    memory = seen(page, "overlay")
    page.select_option("#mode", "age")
    assert len({blank, memory, seen(page, "overlay")}) == 3
    page.keyboard.press("o")
    expect(page.locator("#mode")).to_have_value("off")
    page.uncheck("#things")
    assert seen(page, "overlay") != blank  # the path of the ball is gone
    blank = seen(page, "overlay")
    page.select_option("#mode", "memory")
    memory = seen(page, "overlay")
    assert memory != blank
    page.click("#undo")
    at(page, 0)
    page.click("#redo")
    at(page, 1)
    assert seen(page, "overlay") == memory  # of a moment that one comes back to, too


def test_the_map_grows_and_turns(page):
    points = lambda: int(page.inner_text("#points").split()[0].replace(",", ""))  # noqa: E731
    first, picture = points(), seen(page, "map")
    tap(page, "w")
    tap(page, "ArrowRight")
    page.wait_for_timeout(200)
    assert points() > first and seen(page, "map") != picture
    page.click("input[value=space]")
    page.wait_for_timeout(200)
    before = seen(page, "map")
    box = page.locator("#map").bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 120, box["y"] + 60, steps=3)
    page.mouse.up()
    page.wait_for_timeout(200)
    assert seen(page, "map") != before
    lit = page.evaluate(
        """() => { const c = document.getElementById('map'), d = document.createElement('canvas'); d.width = c.width;
        d.height = c.height; const x = d.getContext('2d'); x.drawImage(c, 0, 0);
        return x.getImageData(0, 0, c.width, c.height).data.reduce((n, v, i) => n + (i % 4 < 3 && v > 60), 0); }"""
    )
    assert lit > 200


def test_a_world_is_saved_and_loaded_and_goes_on_alike(page, tmp_path):
    tap(page, "w")
    tap(page, "ArrowRight")
    page.click("text=Take home")
    with page.expect_download() as waiting:
        page.click("#downloads >> text=world file")
    waiting.value.save_as(tmp_path / "mine.safetensors")
    tap(page, "w")
    wanted = seen(page)
    page.click("text=New world")
    page.set_input_files("#file", tmp_path / "mine.safetensors")
    at(page, 4)
    tap(page, "w")
    assert page.locator(".branch").count() == 2
    assert np.abs(pixels(seen(page)) - pixels(wanted)).mean() < 0.5  # poses are put together anew: last bits differ


def picture_file(path, colour=(200, 30, 30)):
    PIL.Image.new("RGB", (80, 60), colour).save(path)
    return path


def test_a_picture_is_dropped_or_chosen_and_what_is_none_is_said(page, tmp_path):
    first = seen(page)
    data = picture_file(tmp_path / "red.png").read_bytes().hex()
    page.evaluate(
        """(hex) => { const data = new DataTransfer();
        const bytes = Uint8Array.from(hex.match(/../g), (x) => parseInt(x, 16));
        data.items.add(new File([bytes], 'red.png', {type: 'image/png'}));
        dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})); }""",
        data,
    )
    at(page, 1)
    assert seen(page) != first
    page.click("text=New world")
    page.select_option("#memory", "none")
    page.fill("#seed", "7")
    page.set_input_files("#file", picture_file(tmp_path / "green.png", (0, 160, 0)))
    at(page, 2)
    (tmp_path / "text.png").write_text("no picture")
    page.set_input_files("#file", tmp_path / "text.png")
    expect(page.locator("#said .error")).to_contain_text("no picture that can be read")
    tap(page, "w")
    page.click("#again")
    at(page, 4)
    assert page.locator(".branch").count() == 4


def test_downloads_arrive(page, tmp_path):
    tap(page, "w")
    page.click("text=Take home")
    for words, name in (("COLMAP", "colmap.zip"), ("memory (PLY)", "memory.ply"), ("video", "video.mp4")):
        with page.expect_download() as waiting:
            page.click(f"#downloads >> text={words}")
        assert waiting.value.suggested_filename == name
        waiting.value.save_as(tmp_path / name)
    names = zipfile.ZipFile(io.BytesIO((tmp_path / "colmap.zip").read_bytes())).namelist()
    assert "colmap/sparse/0/points3D.bin" in names and "colmap/images/00004.png" in names


def test_prompts_count_from_the_next_step_on(page):
    page.fill("#text", "a stone hall")
    page.keyboard.press("Enter")
    expect(page.locator("#said .note").last).to_contain_text("from the next step on")
    page.focus("#text")
    page.keyboard.press("Enter")
    page.fill("#text", "")
    page.keyboard.press("Enter")
    expect(page.locator("#said .note").last).to_contain_text("no prompt from here on")
    expect(page.locator("#said .note")).to_have_count(2)  # what is said again stands there once
    page.focus("#view")
    tap(page, "w")


def test_keyboard_alone_reaches_everything(page):
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.id || document.activeElement.textContent.trim().slice(0, 12)")
        )
    assert {"view", "mode", "things", "pace", "text", "undo", "redo", "fork", "New world", "Take home"} <= reached
    page.focus("#mode")
    page.keyboard.press("w")  # a letter typed into a control walks nowhere
    page.wait_for_timeout(500)
    assert page.evaluate("document.body.dataset.cursor") == "0"


def test_a_phone_walks_with_the_stick(browser, tmp_path):
    with (
        serving(tmp_path) as (address, _),
        opened(browser, address, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as page,
    ):
        at(page, 0)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        stick = page.locator("#stick")
        expect(stick).to_be_visible()
        box = stick.bounding_box()
        page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + 8)
        until(page, "+document.body.dataset.cursor >= 1")
        settled(page)


def test_killed_and_started_again_the_page_says_so_and_goes_on(browser, tmp_path):
    with command(tmp_path) as (address, process), opened(browser, address) as page:
        at(page, 0)
        tap(page, "w")
        shown = seen(page)
        port = address.rpartition(":")[2]
        process.send_signal(signal.SIGTERM)
        expect(page.locator("#status")).to_contain_text("does not answer")
        process.wait(30)
        with command(tmp_path, f"--port={port}") as (again, second):
            assert again == address
            expect(page.locator("#status")).to_have_text("connected", timeout=20_000)
            at(page, 1)
            assert seen(page) == shown
            assert tap(page, "w") == 2
            second.kill()  # nothing is written: the tab begins anew, and says so
            expect(page.locator("#status")).to_contain_text("does not answer")
            second.wait(30)
        shutil.rmtree(tmp_path)
        with command(tmp_path, f"--port={port}"):
            expect(page.locator("#said .warning").last).to_contain_text("knows nothing of the worlds", timeout=20_000)
            at(page, 0)


def test_the_model_that_ships_is_walked_and_its_world_goes_on_in_generate(browser, tmp_path):
    """One walk of all parts: the model compiles behind a progress bar, walks, is undone, saved and gone on with."""
    environment, module = os.environ | {"PYTHONPATH": str(ROOT)}, [sys.executable, "-m"]
    started = subprocess.Popen(
        [*module, "experiments.explore", "--port=0", f"--out={tmp_path}/out", "--nobrowser", "--capacity=4096"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    try:
        address = next(line.split()[-1] for line in started.stdout if line.startswith("the explorer is at "))
        with opened(browser, address) as page:
            page.set_default_timeout(400_000)
            expect(page.locator("#busy")).to_be_visible()
            at(page, 0)
            page.set_default_timeout(60_000)
            expect(page.locator("#prompt")).to_be_hidden()  # a model without text takes none
            first = seen(page)
            assert tap(page, "w") == 1
            assert tap(page, "ArrowRight") == 2
            page.click("#undo")
            page.click("#undo")
            at(page, 0)
            assert seen(page) == first
            page.click("#redo")
            page.click("#redo")
            at(page, 2)
            page.click("text=Take home")
            for words, name in (("world file", "w.safetensors"), ("path (JSON)", "path.json")):
                with page.expect_download() as waiting:
                    page.click(f"#downloads >> text={words}")
                waiting.value.save_as(tmp_path / name)
            tap(page, "w")
            with page.expect_download() as waiting:
                page.click("#downloads >> text=video")
            waiting.value.save_as(tmp_path / "whole.mp4")
            with page.expect_download() as waiting:
                page.click("#downloads >> text=path (JSON)")
            waiting.value.save_as(tmp_path / "whole.json")
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(60)
        started.stdout.close()
    last = last_cameras(tmp_path / "whole.json", tmp_path / "path.json", tmp_path / "rest.json")
    given = {"load_world": "w.safetensors", "trajectory": "rest.json", "out": "on"}
    done = subprocess.run(
        [*module, "experiments.generate", *(f"--{name}={tmp_path}/{file}" for name, file in given.items())],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    from mirage_jax import viz

    made, walked = viz.read_video(tmp_path / "on" / "video.mp4"), viz.read_video(tmp_path / "whole.mp4")[-last:]
    assert made.shape == walked.shape
    assert np.abs(made.astype(int) - walked).mean() < 3  # two codings of the same frames


def last_cameras(whole, before, out):
    """Writes the cameras that `whole` has after `before`, the last of `before` first; how many there are."""
    from mirage_jax.geometry import pose_files

    cameras, seen_before = pose_files.load(whole).camera, len(pose_files.load(before).camera)
    pose_files.write_json(out, cameras[seen_before - 1 :])
    return len(cameras) - seen_before
