"""Files as strangers leave them, by the hundred: a reader gives finite values or one sentence, never a traceback.

Each input is a good file with something in the wrong place: a value of another type, numbers without end, bits flipped,
bytes cut off. What is drawn depends on its number alone. `make test-fuzz` tries 10,000.
"""

import copy
import hashlib
import io as bytes_io
import json
import os
import pathlib
import random
import sys

import numpy as np
import PIL.Image
import pytest

from experiments.posed_video import depths, photos, scenes
from experiments.shared import drawings, inputs
from mirage_jax import viz, weights
from mirage_jax.data import clip as clips
from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera, pose_files
from mirage_jax.models import config as model_config
from mirage_jax.weights import world_files
from mirage_jax.world import WorldConfig

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "geometry"))
import pose_samples as samples

JUNK = [
    *(None, True, False, {}, [], [1], [[[]]], {"a": 1}, "", "x", "640", "x" * 5000, "\0", "../../..", "\u0662"),
    *(0, -1, 1, 0.5, -0.0, 1e-320, 1e30, 1e308, 10**400, -(10**400), float("nan"), float("inf"), float("-inf")),
]
NUMBERS = [
    b"0",
    b"-1",
    b"nan",
    b"inf",
    b"1e400",
    b"1" + b"0" * 400,
    b"9" * 5000,
    b"",
    b"x",
    b"1e-320",
    b"\xff\xfe",
    b"#",
]
MODEL = model_config.default()


def bent_bytes(data, rng):
    """Bytes with something wrong: bits, a cut, a hole, a run of the same, or a number in a text."""
    data = bytearray(data)
    way = rng.randrange(6)
    if way == 0:
        for _ in range(rng.choice([1, 3, 100])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif way == 1:
        del data[rng.randrange(len(data)) :]
    elif way == 2:
        start = rng.randrange(len(data))
        del data[start : start + rng.randrange(1, 40)]
    elif way == 3:
        start = rng.randrange(len(data))
        data[start : start + 16] = rng.choice([b"\0", b"\xff", b"9"]) * 16
    else:
        words = bytes(data).split(b" ")
        words[rng.randrange(len(words))] = rng.choice(NUMBERS)
        data = b" ".join(words)
    return bytes(data)


def bent_json(value, rng):
    """A JSON value with one of its nodes replaced, lost, doubled or renamed."""
    value = copy.deepcopy(value)
    nodes = []

    def walk(node):
        places = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for place in places:
            nodes.append((node, place))
            walk(node[place])

    walk(value)
    # Most nodes are entries of matrices: all others are tried as often as all of these.
    others = [(node, place) for node, place in nodes if isinstance(node, dict)]
    node, place = rng.choice(rng.choice([nodes, others or nodes]))
    way = rng.randrange(4)
    if way == 1 and isinstance(node, dict):
        node[rng.choice(["", "x" * 5000, "frames"])] = node.pop(place)
    elif way == 2:
        del node[place]
    elif way == 3 and isinstance(node, list):
        node.append(node[place])
    else:
        node[place] = rng.choice(JUNK)
    return value


def bent_arrays(arrays, rng):
    """Named arrays with one of another type, shape or content, or lost."""
    arrays = dict(arrays)
    name = rng.choice(sorted(arrays))
    value, way = arrays[name], rng.randrange(8)
    if way == 0:
        del arrays[name]
    elif way == 1:
        arrays[rng.choice(["", "x" * 200, "depths"])] = arrays.pop(name)
    elif way == 2:
        arrays[name] = value.astype(rng.choice(["U3", "S2", "c8", "bool", "int8", "uint16", "float16", "M8[s]"]))
    elif way == 3:
        arrays[name] = rng.choice([value[..., None], value[None], value[:0], value.ravel(), np.float64(3), value[:1]])
    elif way == 4:
        arrays[name] = np.full(value.shape, rng.choice([0, 1, -1, -2.5])).astype(rng.choice(["f4", "f8", "i4"]))
    elif value.size and value.dtype.kind == "f":
        value = value.copy()
        value.flat[rng.randrange(value.size)] = rng.choice([np.nan, np.inf, -np.inf, 1e30, -1e30, 0])
        arrays[name] = value
    else:
        arrays[name] = np.array(rng.choice(["text", -5, 2**40, 0.5]))
    return arrays


def packed(arrays):
    stream = bytes_io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def finite_path(path):
    """Both doors: a path for other frames, and the cameras of pictures."""
    errors = []
    for read in (
        lambda: pose_files.load_path(path, 64, 48),
        lambda: pose_files.load(path, height=96, width=128).camera,
    ):
        try:
            found = read()
            assert np.isfinite(found.cam2world).all()
            assert found.intrinsics is None or np.isfinite(found.intrinsics).all()
        except UserError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def bend_some_file(folder, rng):
    """Bends one of the files of a folder, JSON and arrays in their own ways half of the time."""
    file = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    whole = file.read_bytes()
    if file.suffix == ".json" and rng.random() < 0.7:
        file.write_text(json.dumps(bent_json(json.loads(whole), rng)))
    elif file.suffix == ".npz" and rng.random() < 0.7:
        with np.load(file) as arrays:
            file.write_bytes(packed(bent_arrays(arrays, rng)))
    else:
        file.write_bytes(bent_bytes(whole, rng))
    return file, whole


def viewer(folder):
    keys = [{"camera_to_world": pose.ravel().tolist(), "fov": 50, "aspect": 1.5} for pose in samples.OPENGL]
    content = {"camera_type": "perspective", "render_height": 96, "render_width": 128, "camera_path": keys}
    (folder / "camera_path.json").write_text(json.dumps(content))
    return folder


def ours(folder):
    intrinsics = np.tile(samples.INTRINSICS, (2, 1, 1)).astype(np.float32)
    camera = Camera(intrinsics, samples.CAM2WORLD.astype(np.float32), samples.HEIGHT, samples.WIDTH)
    pose_files.write_json(folder / "cameras.json", camera)
    return folder


def kitti(folder):
    rows = (" ".join(map(str, pose[:3].ravel())) for pose in samples.CAM2WORLD)
    (folder / "poses.txt").write_text("\n".join(rows))
    return folder / "poses.txt"


def tum(folder):
    (folder / "poses.txt").write_text("# t\n0.1 1 2 3 0 0 0 1\n0.2 1 2 3.5 0 0 0 1\n")
    return folder / "poses.txt"


CAMERAS = {**samples.FORMATS, "viewer": viewer, "ours": ours, "KITTI": kitti, "TUM": tum}


def cameras(folder, rng):
    """A camera file or folder of any format."""
    path = CAMERAS[rng.choice(sorted(CAMERAS))](folder)
    bend_some_file(folder, rng)
    finite_path(path)


def words(folder, rng):
    """A path in words."""
    text = "forward 2 & yaw 90 @ 2; zoom 1.5; orbit 40 0.5d; pause; back; linear; corridor x0.5; dolly -1"
    text = bent_bytes(text.encode(), rng).decode(errors="replace")
    start = Camera(samples.INTRINSICS, np.eye(4), samples.HEIGHT, samples.WIDTH)
    source = inputs.read_trajectory(text, samples.HEIGHT, samples.WIDTH, True)
    path, _ = inputs.lay_path(source, start, rng.choice([65, 17, 5]), rng.choice([4.0, 1e-3, 1e5]), None)
    assert np.isfinite(path.cam2world).all() and np.isfinite(path.intrinsics).all()
    assert np.isfinite(drawings.describe(path).length)


def pictures(folder, rng):
    """A picture of any kind."""
    values = np.linspace(0, 255, 48 * 64 * 4).reshape(48, 64, 4)
    kind = rng.choice(["a.png", "a.jpg", "a.gif", "deep.png", "float.tif", "alpha.png", "a.webp", "a.bmp"])
    if kind == "deep.png":
        picture = PIL.Image.fromarray((values[..., 0] * 257).astype(np.uint16))
    elif kind == "float.tif":
        picture = PIL.Image.fromarray(values[..., 0].astype(np.float32))
    else:
        picture = PIL.Image.fromarray(values[..., : 4 if kind == "alpha.png" else 3].astype(np.uint8))
    exif = PIL.Image.Exif()
    exif[0x0112] = rng.randrange(1, 9)
    picture.save(folder / kind, **({"exif": exif} if kind in ("a.jpg", "a.png", "a.webp") else {}))
    (folder / kind).write_bytes(bent_bytes((folder / kind).read_bytes(), rng))
    photo = photos.read(folder / kind)
    assert photo.pixels.dtype == np.uint8 and photo.pixels.ndim == 3


def videos(folder, rng):
    """A video, as systems leave them for evaluation."""
    frames = np.linspace(0, 255, 5 * 32 * 48 * 3).reshape(5, 32, 48, 3).astype(np.uint8)
    viz.write_video(folder / "a.mp4", frames)
    (folder / "a.mp4").write_bytes(bent_bytes((folder / "a.mp4").read_bytes(), rng))
    assert viz.read_video(folder / "a.mp4").ndim == 4


def world(folder, rng):
    """The header and the bytes of a world; half of them with a checksum that is right."""
    state = {"context": np.ones((2, 4, 4, 3), np.float32), "points": np.ones((9, 4), np.float32)}
    config = WorldConfig(model=MODEL, capacity=9999)
    world_files.save(folder / "a.world", config, state, "1")
    data = (folder / "a.world").read_bytes()
    if rng.random() < 0.5:
        length = int.from_bytes(data[:8], "little")
        header = bent_json(json.loads(data[8 : 8 + length]), rng)
        text = json.dumps(header).encode()
        data = len(text).to_bytes(8, "little") + text + data[8 + length :]
        found = header.get("__metadata__") if isinstance(header, dict) else None
        if isinstance(found, dict) and isinstance(found.get("checksum"), str) and len(found["checksum"]) == 64:
            blank = data.replace(found["checksum"].encode(), b"0" * 64, 1)
            data = data.replace(found["checksum"].encode(), hashlib.sha256(blank).hexdigest().encode(), 1)
    else:
        data = bent_bytes(data, rng)
    (folder / "a.world").write_bytes(data)
    read = world_files.read(folder / "a.world")
    assert all(np.isfinite(value).all() for value in read.tensors.values())


def model(folder, rng):
    """The numbers of a model."""
    if rng.random() < 0.7:
        text = json.dumps(bent_json(json.loads(MODEL.to_json()), rng))
        (folder / "model.json").write_text(text)
    else:
        (folder / "model.json").write_bytes(bent_bytes(MODEL.to_json().encode(), rng))
    found = weights.read_config(folder)
    assert found.height >= 1 and found.width >= 1 and np.isfinite(found.vae.latent_mean).all()


def depth(folder, rng):
    """Depth and masks of a path."""
    arrays = {"depth": np.full((3, MODEL.height, MODEL.width), 2.0, np.float32)}
    arrays["keep"] = arrays["depth"] > 0
    if rng.random() < 0.3:
        samples.release(folder)
        (folder / "geometry.npz").rename(folder / "a.npz")
        with np.load(folder / "a.npz") as found:
            arrays = dict(found)
    data = packed(bent_arrays(arrays, rng)) if rng.random() < 0.7 else bent_bytes(packed(arrays), rng)
    (folder / "a.npz").write_bytes(data)
    first, given = depths.load(str(folder / "a.npz"), MODEL, 3 if "keep" in arrays else 2, 1)
    assert not np.isnan(first).any() and not np.isnan(given.depth).any()


def clip(folder, rng):
    """A clip that was set aside."""
    data = clips.DEMO.read_bytes() if rng.random() < 0.05 else None
    if data is None:
        camera = np.tile(np.eye(4, dtype=np.float32), (5, 1, 1))
        shape = (5, 16, 16)
        whole = clips.PosedClip(
            frames=np.zeros((*shape, 3), np.uint8),
            depth=np.ones(shape, np.float32),
            intrinsics=np.tile(np.diag([16.0, 16, 1]).astype(np.float32), (5, 1, 1)),
            cam2world=camera,
            dynamic=np.zeros(shape, bool),
            caption="",
            source="a",
        )
        clips.save(folder / "a.npz", whole)
        data = (folder / "a.npz").read_bytes()
    (folder / "a.npz").write_bytes(bent_bytes(data, rng))
    assert np.isfinite(clips.load(folder / "a.npz").cam2world).all()


def scene(folder, rng):
    """A scene of one's own: cameras, pictures, depth and masks."""
    make = rng.choice([samples.nerfstudio, samples.release, samples.colmap_text, samples.spatia])
    make(folder)
    picture = PIL.Image.new("RGB", (samples.WIDTH, samples.HEIGHT))
    (folder / "images").mkdir()
    for number in (9, 10):
        for name in (f"frame_{number}.png", f"images/walk {number}.jpg"):
            picture.save(folder / name)
    bend_some_file(folder, rng)
    video = scenes.find(folder)[0].open()
    for shown in video.pictures.read(range(len(video.camera))):
        assert shown.mode == "RGB"
    if video.depth is not None:
        for frame in range(len(video.camera)):
            assert not np.isnan(video.depth.on(video.camera[frame], frame)[0]).any()


KINDS = {  # and their share of all inputs
    cameras: 0.3,
    words: 0.1,
    pictures: 0.15,
    videos: 0.08,
    world: 0.09,
    model: 0.1,
    depth: 0.06,
    clip: 0.04,
    scene: 0.08,
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_strangers_files_are_read_or_one_sentence(kind, tmp_path):
    count = max(1, round(KINDS[kind] * int(os.environ.get("FUZZ_INPUTS", "500"))))
    refused = 0
    for number in range(count):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            kind(folder, random.Random(f"{kind.__name__} {number}"))
        except UserError as error:
            refused += 1
            text = str(error)
            assert "\n" not in text.strip() and len(text) < 2000, f"input {number}: {text}"
        except Exception as error:
            raise AssertionError(f"input {number}: {type(error).__name__}: {error}") from error
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()
    assert refused  # some of what is drawn is surely wrong
