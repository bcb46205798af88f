"""`worldscore` as a person meets it: two samples made as the scorer reads them, resumed, checked, shared, refused."""

import dataclasses
import json
import pathlib
import shutil
import sys

import numpy as np
import PIL.Image
import pytest
import tokenizers
from commands import run

from experiments.worldscore import samples
from mirage_jax import viz, weights
from mirage_jax.data import text_embeddings
from mirage_jax.models import umt5

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "world"))
import tiny_world

REFUSED = 2
FRAMES, SIZE = 5, (48, 32)  # of a move; width and height of what is scored
HALL, CAT = "static/stylized/indoor/halls/004", "dynamic/stylized/articulated/001"
SPLITS = ("static", "dynamic")


def entries_of(folder):
    """The entry of each split's list."""
    return {split: json.loads((folder / "data" / split / f"{split}.json").read_text())[0] for split in SPLITS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data sets, whole and not, and a tiny model that reads text, with a tokenizer of few words."""
    path = tmp_path_factory.mktemp("worldscore")
    samples.write_sample_dataset(path / "data")
    entries = entries_of(path)
    for copy in ("cut", "bare", "odd", "turned", "many"):
        shutil.copytree(path / "data", path / copy)
    (path / "cut" / "static" / "static.json").write_text(json.dumps([entries["static"]])[:-30])
    (path / "bare" / entries["static"]["image"]).unlink()
    (path / "bare" / entries["dynamic"]["masks"][0]).unlink()
    (path / "odd" / "static" / "static.json").write_text(json.dumps([entries["static"] | {"camera_path": ["dive"]}]))
    other = entries["static"] | {"camera_path": ["pan_left", "push_in", "pan_right"]}
    (path / "turned" / "static" / "static.json").write_text(json.dumps([other]))
    many = [entries["static"] | {"image": f"./static/stylized/images/halls/{name}.png"} for name in "abcdef"]
    (path / "many" / "static" / "static.json").write_text(json.dumps(many))
    picture = path / "odd" / entries["dynamic"]["image"]
    picture.write_bytes(picture.read_bytes()[:100])

    model = tiny_world.quick()
    model = dataclasses.replace(
        model,
        dit=dataclasses.replace(model.dit, text_dim=16, text_tokens=12),
        text=umt5.UMT5Config(vocabulary=20, dim=16, ffn_dim=24, heads=2, head_dim=4, layers=1),
    )
    weights.save(path / "model", model, tiny_world.random_parameters(model))
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2, "door.": 3, "stair.": 4, "roof.": 5, "cat": 6}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    words.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    words.save(str(path / "model" / "tokenizer.json"))
    blind = dataclasses.replace(model, heads=None)
    weights.save(path / "blind", blind, {"vae": {"x": np.zeros(1)}})
    return path


def arguments(folder, out, data="data", *more):
    common = [f"--frames={FRAMES}", f"--resolution={SIZE[0]},{SIZE[1]}", "--steps=1", f"--checkpoint={folder}/model"]
    return [f"--dataset={folder}/{data}", f"--out={folder}/{out}", *common, *more]


CASES = {
    "no data set": (["--dataset={}/nowhere"], "expected the unpacked WorldScore-Dataset.zip"),
    "truncated list": (["--dataset={}/cut"], "static.json: cannot be read as JSON"),
    "unknown split": (["--split=statics"], "unknown 'statics'"),
    "one frame": (["--frames=1"], "expected at least 2"),
    "no samples": (["--samples=0"], "expected at least 1"),
    "no speed": (["--camera_speed=nan"], "expected a number above 0"),
    "one size": (["--resolution=512"], "expected W,H"),
    "tiny size": (["--resolution=512,4"], "at least 16"),
    "no part": (["--part=2/2"], "expected i/n"),
    "no model": (["--checkpoint={}"], "not a model folder"),
    "no depth": (["--checkpoint={}/blind"], "guesses no depth"),
    "other results": (["--out={}/whole", "--seed=1"], "holds results of another evaluation: seed was 0, now 1"),
    "lost embeddings": (["--text_embeddings={}/nowhere"], "no file"),
    "embeddings of nothing": (["--text_embeddings={}/x", "--prompts=empty"], "goes with --prompts=benchmark"),
}


@pytest.fixture(scope="module")
def first(folder):
    """Runs from nothing, all from one process, by name."""
    calls = {
        "check before": arguments(folder, "whole", "data", "--check"),
        "whole": arguments(folder, "whole"),
        "part 0": arguments(folder, "parts", "data", "--part=0/2"),
        "part 1": arguments(folder, "parts", "data", "--part=1/2"),
        "bare": arguments(folder, "bare_out", "bare"),
        "odd": arguments(folder, "odd_out", "odd"),
        "check bare": arguments(folder, "nothing", "bare", "--check"),
        "check many": arguments(folder, "nothing", "many", "--check", "--samples=2"),
        "empty": arguments(folder, "empty", "data", "--prompts=empty"),
        "turned": arguments(folder, "turned_out", "turned", "--prompts=empty", "--split=static"),
    }
    for name, (given, _) in CASES.items():
        given = [argument.replace("{}", str(folder)) for argument in given]
        calls[name] = [*arguments(folder, "refused"), *given]
    return dict(zip(calls, run("worldscore", list(calls.values())), strict=True))


@pytest.fixture(scope="module")
def second(folder, first):
    """Runs in a folder where a frame was lost and another one damaged, and with changed embeddings."""
    again = folder / "again"
    shutil.copytree(folder / "whole", again)
    (again / "worldscore_output" / HALL / "frames" / "003.png").unlink()
    (again / "worldscore_output" / CAT / "frames" / "002.png").write_bytes(b"\x89PNG")
    (encoded,) = (folder / "whole" / "prompts").glob("*.safetensors")
    given = text_embeddings.TextEmbeddings(encoded)
    prompts = [prompt for prompt in given.prompts if "cat" not in prompt]
    changed = np.stack([given[prompt] + ("roof" in prompt) for prompt in prompts])
    text_embeddings.save(folder / "changed.safetensors", "tiny", prompts, changed)
    calls = {
        "changed": arguments(folder, "changed", "data", f"--text_embeddings={folder}/changed.safetensors"),
        "check": arguments(folder, "again", "data", "--check"),
        "resume": arguments(folder, "again"),
        "check whole": arguments(folder, "whole", "data", "--check"),
    }
    return dict(zip(calls, run("worldscore", list(calls.values())), strict=True))


def frames(out, sample):
    files = sorted((out / "worldscore_output" / sample / "frames").iterdir())
    return np.stack([np.asarray(PIL.Image.open(file)) for file in files])


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_is_one_sentence(first, case):
    result = first[case]
    assert result.code == REFUSED, result.err
    assert result.err.splitlines()[-1].startswith("error: ") and "Traceback" not in result.err
    assert CASES[case][1] in result.err


def test_results_are_what_the_scorer_reads(folder, first):
    """The checks of `evaluator.py`: files, counts, and what it takes from them."""
    assert first["whole"].code == 0, first["whole"].err
    assert "2 of 2 samples" in first["whole"].out
    out = folder / "whole" / "worldscore_output"
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("image_data.json")) == [
        f"{CAT}/image_data.json",
        f"{HALL}/image_data.json",
    ]
    for name, moves in ((HALL, 3), (CAT, 1)):
        place, total = out / name, moves * (FRAMES - 1) + 1
        about = json.loads((place / "image_data.json").read_text())
        entry = entries_of(folder)[name.split("/")[0]]
        assert {key: about[key] for key in entry} == entry
        assert (about["total_frames"], about["num_scenes"]) == (total, moves)
        images = sorted(p.name for p in (place / "frames").iterdir() if p.suffix in (".jpg", ".png"))
        assert images == [f"{index:03d}.png" for index in range(total)]
        assert frames(folder / "whole", name).shape == (total, SIZE[1], SIZE[0], 3)
        assert PIL.Image.open(place / "input_image.png").size == SIZE
        assert len(viz.read_video(place / "videos" / "output.mp4")) == total
    assert json.loads((out / HALL / "image_data.json").read_text())["anchor_frame_idx"] == [0, 4, 8, 12]
    cameras = json.loads((out / HALL / "camera_data.json").read_text())
    assert np.shape(cameras["cameras_interp"]) == (13, 4, 4) and np.shape(cameras["cameras"]) == (4, 4, 4)
    assert not (out / CAT / "camera_data.json").exists()
    assert not (folder / "whole" / ".unfinished").exists()
    registered = (folder / "whole" / "mirage_jax.yaml").read_text()
    assert "resolution: [48, 32]\n" in registered and f"frames: {FRAMES}\n" in registered


def test_the_first_frame_is_the_middle_of_the_picture(folder, first):
    given = PIL.Image.open(folder / "data" / entries_of(folder)["static"]["image"]).crop((15, 0, 105, 60)).resize(SIZE)
    found = PIL.Image.open(folder / "whole" / "worldscore_output" / HALL / "input_image.png")
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(given, float), atol=1)
    seen = found.resize((tiny_world.SIZE, tiny_world.SIZE), PIL.Image.Resampling.LANCZOS)
    seen = seen.resize(SIZE, PIL.Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(frames(folder / "whole", HALL)[0], np.asarray(seen))


def test_parts_make_together_what_one_run_makes(folder, first):
    assert first["part 0"].code == first["part 1"].code == 0, first["part 0"].err + first["part 1"].err
    assert "1 of 1 samples" in first["part 0"].out and "1 of 1 samples" in first["part 1"].out
    for sample in (HALL, CAT):
        np.testing.assert_array_equal(frames(folder / "parts", sample), frames(folder / "whole", sample))


def test_prompts_reach_the_model(folder, first):
    assert first["empty"].code == 0, first["empty"].err
    for sample in (HALL, CAT):
        assert np.any(frames(folder / "empty", sample) != frames(folder / "whole", sample))


def test_the_camera_follows_the_path_segment_by_segment(folder, first):
    """Two paths that part at their third move, which the last segment lies in."""
    assert first["turned"].code == 0, first["turned"].err
    found, other = frames(folder / "turned_out", HALL), frames(folder / "empty", HALL)
    np.testing.assert_array_equal(found[:9], other[:9])
    assert np.any(found[9:] != other[9:])
    assert not (folder / "turned_out" / "worldscore_output" / "dynamic").exists()


def test_fewer_samples_are_spread_over_a_split(first):
    assert "3 samples:" in first["check many"].out  # two of the static ones and the dynamic one
    missing = [line for line in first["check many"].err.splitlines() if "no file" in line]
    assert [line.split("/halls/")[1][0] for line in missing] == ["a", "d"]


def test_a_segment_is_made_with_the_prompt_of_its_move(folder, second):
    """The last segment lies in the third move, whose embedding was changed."""
    found, before = frames(folder / "changed", HALL), frames(folder / "whole", HALL)
    np.testing.assert_array_equal(found[:9], before[:9])
    assert np.any(found[9:] != before[9:])
    assert second["changed"].code == REFUSED
    assert f"not made: {CAT}: " in second["changed"].err and "holds no embedding" in second["changed"].err


def test_a_sample_that_cannot_be_made_is_named_and_the_others_go_on(folder, first):
    assert first["bare"].code == REFUSED
    assert f"not made: {HALL}: no file" in first["bare"].err
    assert "error: 1 of 2 samples could not be made" in first["bare"].err
    np.testing.assert_array_equal(frames(folder / "bare_out", CAT), frames(folder / "whole", CAT))
    assert not (folder / "bare_out" / "worldscore_output" / HALL).exists()
    assert first["odd"].code == REFUSED
    assert "not made: static.json, entry 0: unknown move 'dive'" in first["odd"].err
    assert f"not made: {CAT}: " in first["odd"].err and "001.png: damaged" in first["odd"].err
    assert "error: 2 of 2 samples could not be made" in first["odd"].err


def test_check_says_what_is_wrong_and_what_is_finished(first, second):
    assert first["check before"].code == 0 and "2 samples: 0 finished, 2 left to make" in first["check before"].out
    assert first["check bare"].code == REFUSED
    assert f"{HALL}: no file" in first["check bare"].err and f"{CAT}: no file" in first["check bare"].err
    result = second["check"]
    assert result.code == REFUSED
    assert f"{HALL}: its result is not whole and will be made again: 12 frames, expected 13" in result.err
    assert f"{CAT}: damaged files in its result" in result.err and "002.png" in result.err
    assert "1 finished, 1 left" in result.out
    assert second["check whole"].code == 0 and "2 finished, 0 left" in second["check whole"].out


def test_the_same_command_goes_on_and_leaves_what_is_finished(folder, second):
    assert second["resume"].code == 0, second["resume"].err
    np.testing.assert_array_equal(frames(folder / "again", HALL), frames(folder / "whole", HALL))
    cat = folder / "again" / "worldscore_output" / CAT / "frames" / "002.png"
    assert cat.read_bytes() == b"\x89PNG"  # not made again
