"""Where `generate` takes depth and masks from: files of a whole path, and a relative network aligned to the memory."""

import dataclasses
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy
from commands import run

from experiments.posed_video import depths
from mirage_jax import weights
from mirage_jax.errors import UserError
from mirage_jax.models import depth_anything
from mirage_jax.models.depth_anything import DepthAnythingConfig

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "world"))
import tiny_world

SIZE, CELLS = 64, 8
RELATIVE = DepthAnythingConfig(16, 1, 2, (1, 1, 1, 1), (4, 4, 4, 4), 8, short_side=28, positions=2)
TINY = tiny_world.model()
MODEL = dataclasses.replace(
    TINY,
    height=SIZE,
    width=SIZE,
    dit=dataclasses.replace(TINY.dit, layers=1),
    heads=None,
    depth=RELATIVE,
    lora=None,
    recipe="default",
)
REFUSED = 2


def blind(params, low, high):
    """Makes a depth network say the same of every picture, between two values; returns what it says `[H, W]`."""
    params["backbone"]["patch_embedding"]["kernel"] *= 0
    last, black = params["head_out"], jnp.zeros((SIZE, SIZE, 3))
    say = jax.jit(lambda params: depth_anything.predict(RELATIVE, params, black))
    last["bias"] += 1000  # far from the cut at zero
    said = np.asarray(say(params)) - last["bias"]
    factor = (high - low) / (said.max() - said.min())
    last["kernel"], last["bias"] = factor * last["kernel"], low - factor * said.min() + 0 * last["bias"]
    return np.asarray(say(params))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A picture, a model with a network that sees nothing, and depth that goes with it or does not."""
    path = tmp_path_factory.mktemp("depths")
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(path / "room.png")
    params = tiny_world.random_parameters(MODEL)
    inverse = blind(params["depth"], 1.0, 3.0)
    assert inverse.std() > 0.2 and abs(inverse.min() - 1) < 0.01 and abs(inverse.max() - 3) < 0.01
    weights.save(path / "model", MODEL, params)
    np.save(path / "fits.npy", (1 / (0.1 * inverse + 0.05)).astype(np.float32))
    np.save(path / "upside_down.npy", (1 / (0.4 - 0.1 * inverse)).astype(np.float32))
    return path


def path_depth():
    """Depth and masks of 17 frames of a wall at 4 m: part of it goes back to 6 m, at last all is said to be far off."""
    depth, keep = np.full((17, SIZE, SIZE), 4.0, np.float32), np.ones((17, SIZE, SIZE), bool)
    depth[1:9, 8:48, 8:48] = 6.0  # 5x5 cells, the inner 3x3 of which have nothing else around them
    depth[9:] = 160.0
    keep[1:9, :, :16] = False  # 16 cells
    return depth, keep


@pytest.fixture(scope="module")
def runs(folder):
    """The segments of the report and the memory's points of four runs, all from one process."""
    depth, keep = path_depth()
    np.savez(folder / "path.npz", depth=depth, keep=keep)
    calls = {
        "given": ["--frames=17", f"--depths={folder}/path.npz", "--recipe=release"],
        "fits": ["--frames=9", f"--depth={folder}/fits.npy", "--depth_source=pixels", "--recipe=release"],
        "upside down": ["--frames=9", f"--depth={folder}/upside_down.npy", "--depth_source=pixels", "--recipe=release"],
        "alone": ["--frames=9", "--depth_source=pixels", "--recipe=release"],
        "what is new": ["--frames=9", "--depth_source=pixels"],
    }
    common = [f"--image={folder}/room.png", f"--checkpoint={folder}/model", "--trajectory=pause", "--steps=1"]
    calls = {
        name: [*common, f"--out={folder}/{name}", f"--save_world={folder}/{name}.safetensors", *more]
        for name, more in calls.items()
    }
    with pytest.MonkeyPatch.context() as environment:  # compiling takes far longer than running
        environment.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        results = run("generate", list(calls.values()))
    found = {}
    for name, result in zip(calls, results, strict=True):
        assert result.code == 0, result.err
        world = safetensors.numpy.load_file(folder / f"{name}.safetensors")
        points = np.stack([world[f".memory.{c}"] for c in "xyzw"], axis=-1)[: world[".memory.size"]]
        found[name] = json.loads((folder / name / "report.json").read_text())["segments"], points
    return found


def test_given_depth_and_masks_write_retire_and_are_refused(runs):
    (first, second), points = runs["given"]
    assert first["frames_refused"] == 0 and first["points_retired"] == 9
    assert first["points_added"] == 2 * (CELLS**2 - 16) and first["kept"] == 0.75
    assert abs(first["depth_scale"] - 1) < 1e-3 and first["depth_residual"] < 1e-3
    # The wall at 4 m stays where it is although what was said last, if believed, would show it to be gone.
    assert second["frames_refused"] == 1 and second["points_added"] == 0 and second["points_retired"] == 0
    assert second["depth_residual"] > 1
    at = {z: int((np.abs(points[:, 2] - z) < 1e-3).sum()) for z in (4, 6)}
    assert at == {4: CELLS**2 - 9 + 2 * (48 - 20), 6: 2 * 20} and len(points) == sum(at.values())


def test_relative_depth_is_brought_to_the_memory(runs):
    (segment,), points = runs["fits"]
    assert segment["frames_refused"] == 0 and segment["points_added"] == 2 * CELLS**2
    assert abs(segment["depth_scale"] - 0.1) < 0.003 and abs(segment["depth_shift"] - 0.05) < 0.005
    new = points[CELLS**2 :, 2].reshape(2, -1)
    np.testing.assert_allclose(new, [points[: CELLS**2, 2]] * 2, rtol=0.01)
    assert np.ptp(new) > 1


def test_relative_depth_that_does_not_fit_writes_nothing(runs):
    (segment,), points = runs["upside down"]
    assert segment["frames_refused"] == 1 and segment["points_added"] == 0 and len(points) == CELLS**2


def test_relative_depth_alone_makes_a_world_of_a_usual_size(runs):
    (segment,), points = runs["alone"]
    assert abs(np.median(points[: CELLS**2, 2]) - 5) < 0.1 and np.ptp(points[:, 2]) > 1
    assert segment["frames_refused"] == 0 and segment["points_added"] == 2 * CELLS**2 and segment["depth_shift"] < 0.01


def test_a_camera_at_rest_adds_nothing_where_only_what_is_new_is_written(runs):
    (segment,), points = runs["what is new"]
    assert segment["frames_refused"] == 0 and segment["points_added"] == 0 and len(points) == CELLS**2


def test_depth_of_a_path_goes_to_its_segments(tmp_path):
    depth = np.broadcast_to(np.arange(12, dtype=np.float64)[:, None, None] + 1, (12, SIZE, SIZE)).copy()
    depth[:, 0, 0], depth[:, 0, 1] = np.inf, -1.0
    np.savez(tmp_path / "path.npz", depth=depth)
    first, given = depths.load(str(tmp_path / "path.npz"), MODEL, 12, 2)
    assert first[1, 1] == 1 and np.isinf(first[0, 0]) and first[0, 1] == 0 and given.keep is None
    # Frame by frame after the first view; the last one is repeated to fill the segment.
    np.testing.assert_array_equal(given.depth[:, :, 1, 1], [[*range(2, 10)], [10, 11, 12, 12, 12, 12, 12, 12]])
    assert given.depth.dtype == np.float32 and np.isinf(given.depth[:, :, 0, 0]).all()
    keep = np.arange(12)[:, None, None] * np.ones((SIZE, SIZE)) < 3
    np.savez(
        tmp_path / "masks.npz", depth=(10 * depth[:, :, :, None][..., 0]).clip(0, 1e4).astype(np.uint16), keep=keep
    )
    first, given = depths.load(str(tmp_path / "masks.npz"), MODEL, 12, 2)
    assert first[1, 1] == 10 and given.keep[0, :, 1, 1].tolist() == [True, True] + 6 * [False]


def test_depth_of_the_release_is_cut_to_what_the_model_sees(tmp_path):
    """Frames of 32x64, of which the model's square sees the middle half; depth is known in all of them."""
    columns = np.broadcast_to(np.arange(64, dtype=np.float32) + 1, (9, 32, 64)).copy()
    arrays = {"poses_c2w": np.tile(np.eye(4), (9, 1, 1)), "depths": columns, "masks": columns < 40}
    lens = np.tile(np.array([[40.0, 0, 32], [0, 40, 16], [0, 0, 1]]), (9, 1, 1))
    np.savez(tmp_path / "geometry.npz", **arrays, intrinsics=lens, original_size=np.array([32, 64]))
    notes = []
    first, given = depths.load(str(tmp_path / "geometry.npz"), MODEL, 9, 1, 2.0, notes)
    np.testing.assert_array_equal(first[5], 2 * np.repeat(np.arange(17, 49), 2))
    assert given.keep[0, 0, 0].tolist() == [True] * 46 + [False] * 18
    assert any("in the units of its poses: scaled by 2" in note for note in notes)
    with pytest.raises(UserError, match="holds depth of 9 frames; expected 13"):
        depths.load(str(tmp_path / "geometry.npz"), MODEL, 13, 2)


GOOD = {"depth": np.ones((9, SIZE, SIZE), np.float32)}
BAD = {
    "too few frames": ({"depth": np.ones((8, SIZE, SIZE))}, r"depth is float64 \[8, 64, 64\], expected numbers \[9, "),
    "no numbers": ({"depth": np.full((9, SIZE, SIZE), "far")}, "expected numbers"),
    "masks of numbers": (GOOD | {"keep": np.ones((9, SIZE, SIZE))}, r"keep is float64 \[9, 64, 64\], expected bool"),
    "masks of another size": (GOOD | {"keep": np.ones((9, 8, 8), bool)}, r"keep is bool \[9, 8, 8\]"),
    "no depth": ({"keep": np.ones((9, SIZE, SIZE), bool)}, r"holds \['keep'\], expected 'depth'"),
    "something else": (GOOD | {"mask": np.ones(3)}, r"holds \['depth', 'mask'\]"),
    "NaN": ({"depth": np.full((9, SIZE, SIZE), np.nan)}, "holds NaN"),
    "nothing in the first view": ({"depth": np.arange(9)[:, None, None] * np.ones((SIZE, SIZE))}, "no positive depth"),
    "objects": ({"depth": np.array([{}], dtype=object)}, "not an .npz of numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_named(case, tmp_path):
    arrays, message = BAD[case]
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError, match=rf"^--depths .*bad\.npz: .*{message}"):
        depths.load(str(tmp_path / "bad.npz"), MODEL, 9, 1)


def test_what_is_no_archive_is_named(tmp_path):
    np.savez(tmp_path / "whole.npz", **GOOD)
    np.save(tmp_path / "array.npy", np.ones(3))
    (tmp_path / "text.npz").write_text("far")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:5000])
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("array.npy", "text.npz", "cut.npz", "empty.npz"):
        with pytest.raises(UserError, match=rf"{name}: not an \.npz of numbers"):
            depths.load(str(tmp_path / name), MODEL, 9, 1)
    for name in ("nothing.npz", "."):
        with pytest.raises(UserError, match="--depths: no file"):
            depths.load(str(tmp_path / name), MODEL, 9, 1)


def test_flags_that_do_not_go_together_are_one_sentence(folder):
    np.savez(folder / "nine.npz", **GOOD)
    relative, shipped, blind_model = [f"--checkpoint={folder}/model"], [], [f"--checkpoint={folder}/blind"]
    (folder / "blind").mkdir()
    (folder / "blind" / "model.json").write_text(dataclasses.replace(MODEL, depth=None).to_json())
    cases = [
        (relative, ["--depths=nowhere.npz"], "--depths: no file nowhere.npz"),
        (relative, [f"--depths={folder}/nine.npz", "--frames=13"], "expected numbers [13, 64, 64]"),
        (relative, ["--depth_source=given"], "depth comes from 'given': --depths goes with --depth_source=given"),
        (relative, [f"--depths={folder}/nine.npz", "--depth_source=pixels"], "depth comes from 'pixels'"),
        (relative, ["--depth_source=heads"], "has no heads"),
        (shipped, [f"--depths={folder}/nine.npz"], "expected numbers [9, 128, 128]"),
        (shipped, ["--depth_source=pixels"], "model 'default' has no depth"),
        (shipped, ["--depth_source=stereo"], "--depth_source=stereo"),
        (blind_model, [], "or add Depth Anything to the model once: python -m experiments.convert_weights --source"),
    ]
    common = [f"--image={folder}/room.png", "--trajectory=pause", f"--out={folder}/no", "--frames=9"]
    for (_, _, message), result in zip(cases, run("generate", [common + a + b for a, b, _ in cases]), strict=True):
        assert result.code == REFUSED and message in result.err, result.err
        assert result.err.startswith("error: ") and result.err.count("\n") == 1
    assert not (folder / "no" / "video.mp4").exists()
