"""Conversion: there and back bit for bit, every bad file refused by name, and resumed after a kill."""

import dataclasses
import json
import pathlib
import shutil
import signal
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from experiments.conversion import convert, export
from mirage_jax import weights
from mirage_jax.errors import UserError
from mirage_jax.models import config as model_config
from mirage_jax.weights import formats, model_files
from tests.weights.tiny_wan import tensors_of, tiny_wan

MODEL = tiny_wan()
LAYOUTS = sorted(name for name, form in formats.FORMATS.items() if form.written)
ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def preset(monkeypatch):
    monkeypatch.setitem(model_config.PRESETS, "tiny", lambda: MODEL)


def write(path, tensors):
    safetensors.numpy.save_file(tensors, path)
    return path


def make(tmp_path, layout="lora_release", change=lambda tensors: None, **options):
    """Converts a checkpoint after a change to its tensors; the model folder."""
    tensors = tensors_of(layout, MODEL)
    change(tensors)
    convert.convert(write(tmp_path / "source.safetensors", tensors), layout, tmp_path / "model", "tiny", **options)
    return tmp_path / "model"


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back_bit_for_bit(layout, tmp_path):
    folder = make(tmp_path, layout, group_bytes=40_000)
    expected = tensors_of(layout, MODEL)
    export.export(folder, layout, tmp_path / "back.safetensors")
    found = safetensors.numpy.load_file(tmp_path / "back.safetensors")
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name
    assert convert.verify(tmp_path / "source.safetensors", layout, folder)["tensors"] == len(expected)
    assert sorted(x.name for x in folder.iterdir()) == [
        "model.json",
        f"params.{formats.FORMATS[layout].part}",
        f"params.{formats.FORMATS[layout].part}.sha256",
        "verify.json",
    ]


def test_original_and_diffusers_give_the_same_parameters(tmp_path):
    make(tmp_path, "wan_original")
    export.export(tmp_path / "model", "wan_diffusers", tmp_path / "diffusers.safetensors")
    convert.convert(tmp_path / "diffusers.safetensors", "wan_diffusers", tmp_path / "other", "tiny")
    one, two = (flat(weights.load(tmp_path / name, parts=("dit",))[1]) for name in ("model", "other"))
    assert one.keys() == two.keys() and all(np.array_equal(one[path], two[path]) for path in one)
    assert (tmp_path / "diffusers.safetensors").read_bytes() != (tmp_path / "source.safetensors").read_bytes()


def test_parts_come_together_in_one_folder_and_are_loaded_apart(tmp_path):
    folder = make(tmp_path, "lora_release", alpha=3.0)
    make(tmp_path, "side_release")
    model, params = weights.load(folder, parts=("side",), dtype=ml_dtypes.bfloat16)
    assert model.lora == model_config.LoRAConfig(2, 3.0, cross_attention=True) and list(params) == ["side"]
    kinds = {path.split("/")[-1]: str(x.dtype) for path, x in flat(params).items()}
    assert kinds == {
        "kernel": "bfloat16",
        "bias": "float32",
        "modulation": "float32",
        "weight": "float32",
        "scale": "float32",
    }
    assert set(weights.parts_of(folder)) == {"side", "lora"}
    with pytest.raises(UserError, match=r"has no part 'vae', which .*convert_weights --layout vae_original --out"):
        weights.load(folder)
    with pytest.raises(UserError, match="has a part 'side' already"):
        make(tmp_path, "side_release")
    with pytest.raises(UserError, match="not of model wan22_ti2v_5b: height is 32, expected 704"):
        convert.convert(tmp_path / "source.safetensors", "side_release", folder, "wan22_ti2v_5b")
    shutil.copytree(folder / "params.side", folder / "params.again")
    with pytest.raises(UserError, match=r"part 'side' is both in params\.again/ and in params\.side/"):
        weights.load(folder)
    shutil.rmtree(folder / "params.again")
    (folder / "model.json").write_text(dataclasses.replace(model, side=None).to_json())
    with pytest.raises(UserError, match=r"params\.side: holds a part 'side', expected those that model\.json names"):
        weights.load(folder)


def test_only_the_parts_asked_for_are_read(tmp_path):
    folder = make(tmp_path, "side_release")
    make(tmp_path, "lora_release")
    for file in (folder / "params.side").rglob("d/*"):
        file.write_bytes(b"")
    assert list(weights.load(folder, parts=("lora",))[1]) == ["lora"]
    with pytest.raises(UserError, match=r"params\.side/\S+: damaged, its SHA-256 is .*, params\.side\.sha256 has"):
        weights.load(folder, parts=("side",))
    (folder / "params.side.sha256").unlink()
    with pytest.raises(UserError, match=r"params\.side: damaged or incomplete"):
        weights.load(folder, parts=("side",))


def test_names_of_the_release_with_prefixes_and_peft_adapters(tmp_path):
    def wrap(tensors):
        for name in list(tensors):
            tensors["module." + name.replace(".weight", ".default.weight")] = tensors.pop(name)

    plain, wrapped = (
        weights.load(make(tmp_path / str(i), change=c), ("lora",))[1] for i, c in prepared(tmp_path, wrap)
    )
    assert all(np.array_equal(a, b) for a, b in zip(flat(plain).values(), flat(wrapped).values(), strict=True))

    def vace(tensors):
        for index, name in enumerate(list(tensors)):
            tensors[("pipe.vace.", "module.model.vace.")[index % 2] + name] = tensors.pop(name)

    make(tmp_path, "side_release", change=vace)


def prepared(tmp_path, change):
    for index, one in enumerate((lambda tensors: None, change)):
        (tmp_path / str(index)).mkdir()
        yield index, one


def test_tensors_of_another_part_in_the_same_file_are_left_alone(tmp_path):
    folder = make(tmp_path, "side_release", change=lambda tensors: tensors.update(tensors_of("wan_original", MODEL)))
    assert json.loads((folder / "verify.json").read_text())["side"]["left_alone"] == 96


Q = "pipe.dit.blocks.1.self_attn.q.lora_A.weight"


def replaced(value):
    return lambda tensors: tensors.update({Q: value})


BAD = {
    "missing": (lambda t: t.pop(Q), rf"source\.safetensors: tensor {Q} is missing"),
    "extra": (replaced(np.ones((2, 24), np.float32)), None),
    "unknown": (lambda t: t.update(wheel=t[Q]), r"source\.safetensors: tensor wheel is not part of this layout"),
    "too many": (
        lambda t: t.update({Q.replace("1", "7"): t[Q]}),
        rf"source\.safetensors: tensor {Q.replace('1', '7')} is one too many",
    ),
    "shape": (
        replaced(np.ones((2, 9), np.float32)),
        rf"safetensors: tensor {Q} has shape \(2, 9\), .*expects \(2, 24\)",
    ),
    "rank": (replaced(np.ones((2, 24, 1), np.float32)), rf"tensor {Q} has shape \(2, 24, 1\)"),
    "integers": (replaced(np.ones((2, 24), np.int32)), rf"safetensors: tensor {Q} is of type int32, expected float32"),
    "NaN": (replaced(np.full((2, 24), np.nan, ml_dtypes.bfloat16)), rf"safetensors: tensor {Q} holds NaN or infinity"),
    "infinity": (replaced(np.full((2, 24), np.inf, np.float16)), rf"safetensors: tensor {Q} holds NaN or infinity"),
    "twice": (lambda t: t.update({"module." + Q: t[Q]}), rf"tensors module\.{Q} and {Q} are the same one"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tensors_are_named_and_nothing_is_left(case, tmp_path):
    change, message = BAD[case]
    if message is None:  # the control: a good replacement is accepted
        assert make(tmp_path, change=change).is_dir()
        return
    with pytest.raises(UserError, match=message):
        make(tmp_path, change=change, group_bytes=1000)
    assert [path.name for path in tmp_path.iterdir()] == ["source.safetensors"]


def test_a_bad_tensor_leaves_the_other_parts_of_a_folder(tmp_path):
    folder = make(tmp_path, "side_release")
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    with pytest.raises(UserError, match="NaN"):
        make(tmp_path, change=BAD["NaN"][0], group_bytes=1000)
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before


def test_bad_files_are_named(tmp_path):
    convert_it = lambda path: convert.convert(path, "lora_release", tmp_path / "model", "tiny")  # noqa: E731
    whole = write(tmp_path / "a.safetensors", tensors_of("lora_release", MODEL))
    for name, content in (("cut", whole.read_bytes()[:-10]), ("head", whole.read_bytes()[:50]), ("empty", b"")):
        (tmp_path / f"{name}.safetensors").write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}\.safetensors: truncated or not a safetensors file"):
            convert_it(tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match="no such file or folder"):
        convert_it(tmp_path / "nothing")
    with pytest.raises(UserError, match="expected one"):
        convert_it(tmp_path)
    index = tmp_path / "x.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {Q: "b.safetensors"}}))
    with pytest.raises(UserError, match=r"names the shard 'b\.safetensors', which is not there"):
        convert_it(index)
    index.write_text(json.dumps({"weight_map": {"ghost": "a.safetensors"}}))
    with pytest.raises(UserError, match=r"a\.safetensors: tensor ghost, which x\.\S+ names, is missing"):
        convert_it(index)
    index.write_text("{}")
    with pytest.raises(UserError, match="not an index of shards"):
        convert_it(index)
    assert not (tmp_path / "model").exists()


def test_the_same_tensor_in_two_shards_is_refused_and_good_shards_are_joined(tmp_path):
    tensors = tensors_of("lora_release", MODEL)
    names = list(tensors)
    one = write(tmp_path / "1.safetensors", {name: tensors[name] for name in names[:30]})
    two = write(tmp_path / "2.safetensors", {name: tensors[name] for name in names[30:]})
    weight_map = {name: (one if name in names[:30] else two).name for name in names}
    index = tmp_path / "x.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    convert.convert(tmp_path, "lora_release", tmp_path / "model", "tiny")
    write(two, {name: tensors[name] for name in names[29:]})
    with pytest.raises(UserError, match=rf"2\.safetensors: tensor {names[29]} is in 1\.safetensors too"):
        convert.convert(tmp_path, "lora_release", tmp_path / "other", "tiny")


def test_tied_embeddings_may_be_stored_twice_if_equal(tmp_path):
    table = tensors_of("umt5_transformers", MODEL)["shared.weight"]
    make(tmp_path, "umt5_transformers", lambda t: t.update({"encoder.embed_tokens.weight": table}))
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="should be equal and differ"):
        make(tmp_path / "b", "umt5_transformers", lambda t: t.update({"encoder.embed_tokens.weight": table * 2}))


def test_another_dtype_on_request(tmp_path):
    folder = make(tmp_path, dtype="float32")
    expected = tensors_of("lora_release", MODEL)[Q].astype(np.float32).T
    stored = model_files.restore(folder / "params.lora", model_files.read_shapes(folder / "params.lora"))
    found = np.asarray(flat(stored)["lora/blocks_1/self_attention/q/kernel/A"])
    assert found.dtype == np.float32 and np.array_equal(found, expected)
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match=rf"tensor {Q} does not fit float16"):
        make(tmp_path / "b", change=replaced(np.full((2, 24), 1e6, np.float32)), dtype="float16")


def test_verify_finds_a_changed_weight_and_a_changed_source(tmp_path):
    folder = make(tmp_path)
    other = tensors_of("lora_release", MODEL)
    other[Q] = other[Q].copy()
    other[Q][0, 0] += 1
    with pytest.raises(UserError, match=r"tensor lora/blocks_1/self_attention/q/kernel/A is not that of .*other"):
        convert.verify(write(tmp_path / "other.safetensors", other), "lora_release", folder)
    record = json.loads((folder / "verify.json").read_text())
    record["lora"]["forward"]["block 1"][1] *= 1.01
    (folder / "verify.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="a forward pass gives other numbers at block 1"):
        convert.verify(tmp_path / "source.safetensors", "lora_release", folder)


KILLED = """
import sys
from mirage_jax.models import config
from experiments.conversion import convert
from tests.weights.tiny_wan import tiny_wan
import os, signal
config.PRESETS["tiny"] = tiny_wan
saves, at = 0, sys.argv[3]
save, finalize = convert.ocp.partial.save, convert.ocp.partial.finalize
def counted(*arguments):
    global saves
    saves += 1
    if at == "between" and saves == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return save(*arguments)
def torn(*arguments):
    if at == "finalize":
        first = sorted((arguments[0].parent / (arguments[0].name + ".partial_save")).iterdir())[0]
        (first / "state" / "_METADATA").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    finalize(*arguments)
    if at == "whole":
        os.kill(os.getpid(), signal.SIGKILL)
convert.ocp.partial.save, convert.ocp.partial.finalize = counted, torn
convert.convert(sys.argv[1], "lora_release", sys.argv[2], "tiny", group_bytes=1000)
"""


@pytest.mark.parametrize("moment", ["between", "finalize", "whole"])
def test_a_killed_conversion_goes_on(moment, tmp_path, monkeypatch):
    source = write(tmp_path / "source.safetensors", tensors_of("lora_release", MODEL))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, source, tmp_path / "model", moment], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    with pytest.raises(UserError, match="not a model folder"):
        weights.load(tmp_path / "model")
    reads = []
    read = formats.read
    monkeypatch.setattr(formats, "read", lambda source, match: reads.append(match.names[0]) or read(source, match))
    convert.convert(source, "lora_release", tmp_path / "model", "tiny", group_bytes=1000)
    again = {"between": range(30, 60), "finalize": [60], "whole": [0]}[moment]
    assert len(reads) in again, len(reads)
    convert.verify(source, "lora_release", tmp_path / "model")
    left = ["model.json", "params.lora", "params.lora.sha256", "verify.json"]
    assert sorted(x.name for x in (tmp_path / "model").iterdir()) == left


def test_work_for_another_source_is_thrown_away(tmp_path):
    source = write(tmp_path / "source.safetensors", tensors_of("lora_release", MODEL))
    subprocess.run([sys.executable, "-c", KILLED, source, tmp_path / "model", "between"], cwd=ROOT, capture_output=True)
    other = {name: array + 1 for name, array in tensors_of("lora_release", MODEL).items()}
    convert.convert(write(source, other), "lora_release", tmp_path / "model", "tiny")
    convert.verify(source, "lora_release", tmp_path / "model")
