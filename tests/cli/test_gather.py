"""What get_model does: model folders from a stand-in for the Hub, from folders and single files of every kind."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments.conversion import forward, gather, sizes
from mirage_jax import weights
from mirage_jax.errors import UserError
from mirage_jax.models import config as model_config
from mirage_jax.models import depth_anything
from mirage_jax.weights import formats, sources
from tests.cli.hub_server import serving
from tests.weights.public_files import in_eight_bits, write_gguf, write_safetensors
from tests.weights.tiny_wan import tensors_of, tiny_wan

ROOT = pathlib.Path(__file__).parent.parent.parent
MODEL = tiny_wan()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The tiny model for the 5B one; the passes through converted parts are tested elsewhere."""
    monkeypatch.setitem(model_config.PRESETS, "wan22_ti2v_5b", lambda: MODEL)
    monkeypatch.setattr(forward, "statistics", lambda *_: {})
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def equal_part(folder, part, tensors, layout, tmp_path):
    """Whether a part of a folder is what a plain file of these tensors gives."""
    (tmp_path / "plain").mkdir(exist_ok=True)
    path = write_safetensors(tmp_path / "plain" / "x.safetensors", tensors)
    source, form, model = sources.Source(path), formats.FORMATS[layout], weights.read_config(folder)
    matches, _ = formats.match(source, form, model)
    params = weights.load(folder, (part,))[1]
    for name, leaf in jax.tree_util.tree_leaves_with_path(params):
        wanted = formats.read(source, matches["/".join(str(key.key) for key in name)])
        np.testing.assert_array_equal(leaf, wanted.astype(np.float32))


def repository(tmp_path):
    """Files of a repository in Wan's own layout: shards with an index, a config, a text encoder with its tokenizer."""
    folder = tmp_path / "repository"
    folder.mkdir()
    dit = tensors_of("wan_original", MODEL)
    names = sorted(dit)
    index = {}
    for number, some in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        shard = f"diffusion_pytorch_model-{number:05}-of-00002.safetensors"
        write_safetensors(folder / shard, {name: dit[name] for name in some})
        index |= dict.fromkeys(some, shard)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps({"num_heads": 2}))
    write_safetensors(folder / "umt5.safetensors", tensors_of("umt5_original", MODEL))
    (folder / "google").mkdir()
    (folder / "google" / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("no weights")
    return folder


def served(folder, name="Wan-AI/Tiny"):
    return {f"{name}/{p.relative_to(folder)}": p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_repository_killed_half_way_goes_on(tmp_path, monkeypatch):
    files = served(repository(tmp_path))
    out = tmp_path / "model"
    with serving(files) as (server, address):
        server.stall = "00002-of-00002.safetensors"
        fetch = (
            "import sys, pathlib; from huggingface_hub import constants; "
            "from experiments.conversion import hub, gather; "
            "constants.DOWNLOAD_CHUNK_SIZE = 4096; "  # these files are small
            "hub.fetch('Wan-AI/Tiny', pathlib.Path(sys.argv[1]), gather.wanted)"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", fetch, str(out / "download")], cwd=ROOT, env=os.environ | {"HF_ENDPOINT": address}
        )
        while not server.stalled.wait(1):
            assert process.poll() is None
        half = len(files["Wan-AI/Tiny/diffusion_pytorch_model-00002-of-00002.safetensors"]) // 2
        partial = lambda: next((out / "download").glob("*00002-of-00002*.incomplete"), None)  # noqa: E731
        while not (partial() and partial().stat().st_size):
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        held, server.stall, server.asked = partial().stat().st_size, None, []
        assert 0 < held <= half
        monkeypatch.setenv("HF_ENDPOINT", address)
        assert set(gather.get("Wan-AI/Tiny", out)) == {"dit", "text"}
        # What was there is not asked for again, what was begun goes on, and pictures and texts are not fetched.
        asked = {name.removeprefix("Wan-AI/Tiny/"): start for name, start in server.asked}
        assert asked["diffusion_pytorch_model-00002-of-00002.safetensors"] == held
        assert "config.json" not in asked and "README.md" not in asked
    equal_part(out, "dit", tensors_of("wan_original", MODEL), "wan_original", tmp_path)
    equal_part(out, "text", tensors_of("umt5_original", MODEL), "umt5_original", tmp_path)
    left = ["model.json", "params.dit", "params.dit.sha256", "params.text", "params.text.sha256"]
    assert sorted(x.name for x in out.iterdir()) == [*left, "tokenizer.json", "verify.json"]


def test_what_the_hub_does_not_hold_or_holds_wrong_is_named(tmp_path, monkeypatch):
    files = served(repository(tmp_path))
    with serving(files) as (server, address):
        monkeypatch.setenv("HF_ENDPOINT", address)
        get = lambda name, out="model": gather.get(name, tmp_path / out)  # noqa: E731
        with pytest.raises(UserError, match=f"^No/Such: no such file or folder here, and {address} says: .*404"):
            get("No/Such")
        with pytest.raises(UserError, match=r"nothing: no such file or folder, and no OWNER/REPOSITORY"):
            get("nothing")
        server.claimed["Wan-AI/Tiny/umt5.safetensors"] = "1" * 64
        with pytest.raises(UserError, match=r"Wan-AI/Tiny/umt5\.safetensors: its hash is \w+\.\., the Hub says 1111"):
            get("Wan-AI/Tiny")
        assert not (tmp_path / "model" / "download" / "umt5.safetensors").exists()
        server.claimed = {"Wan-AI/Tiny/config.json": "2" * 40}
        with pytest.raises(UserError, match=r"config\.json: its hash is \w+\.\., the Hub says 2222"):
            get("Wan-AI/Tiny", "other")
        server.claimed = {}
        shard = "Wan-AI/Tiny/diffusion_pytorch_model-00001-of-00002.safetensors"
        del server.files[shard]
        with pytest.raises(UserError, match=r"index\.json: names the shard 'diffusion_pytorch_model-00001-of-00002"):
            get("Wan-AI/Tiny", "fourth")
        server.files |= {f"Many/Quants/q{n}.gguf": b"x" for n in range(3)} | {"Only/Texts/README.md": b"x"}
        with pytest.raises(UserError, match=r"3 GGUF files are there, name one as OWNER/REPOSITORY/FILE: q0\.gguf"):
            get("Many/Quants", "third")
        with pytest.raises(UserError, match=r"Only/Texts: holds no weights that can be read, its files are README\.md"):
            get("Only/Texts", "third")
        one = get("Wan-AI/Tiny/umt5.safetensors", "text")
        assert one == ["text"] and weights.parts_of(tmp_path / "text") == ("text",)
    with pytest.raises(UserError, match=r"No/Such: no such file or folder here, and http://127"):
        get("No/Such")


def write_kind(kind, folder):
    """A file as the community has it; its layout, and the tensors it means."""
    layout = {"umt5": "umt5_transformers", "LoRA": "lora_release"}.get(kind.split()[0], "wan_original")
    tensors = tensors_of(layout, MODEL)
    if kind == "one file with a prefix":
        write_safetensors(folder / "x.safetensors", {f"model.diffusion_model.{n}": x for n, x in tensors.items()})
    elif kind == "8 bits":
        tensors_8, tensors = in_eight_bits(tensors)
        write_safetensors(folder / "x.safetensors", {f"model.diffusion_model.{n}": x for n, x in tensors_8.items()})
    elif kind == "GGUF":
        tensors = write_gguf(folder / "x.gguf", tensors)
    elif kind == "umt5 with its tokenizer":
        more = {"spiece_model": np.frombuffer(b"pieces", np.uint8)}
        write_safetensors(folder / "x.safetensors", tensors | more)
    elif kind == "LoRA":
        spelled = {
            n.replace("pipe.dit", "diffusion_model").replace("lora_A", "lora_down"): x for n, x in tensors.items()
        }
        spelled = {n.replace("lora_B", "lora_up"): x for n, x in spelled.items()}
        write_safetensors(folder / "x.safetensors", spelled)
    return layout, tensors


@pytest.mark.parametrize("kind", ["one file with a prefix", "8 bits", "GGUF", "umt5 with its tokenizer", "LoRA"])
def test_single_files(kind, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "config.json").write_text('{"num_heads": 2}')
    layout, tensors = write_kind(kind, tmp_path / "in")
    (file,) = (tmp_path / "in").glob("x.*")
    part = formats.FORMATS[layout].part
    assert gather.get(str(file), tmp_path / "model") == [part]
    equal_part(tmp_path / "model", part, tensors, layout, tmp_path)
    if part == "text":
        assert (tmp_path / "model" / "spiece.model").read_bytes() == b"pieces"
    # The folder beside it is the same; what is there is compared, not made again.
    before = (tmp_path / "model" / f"params.{part}").stat().st_mtime_ns
    assert gather.get(str(tmp_path / "in"), tmp_path / "model") == [part]
    assert (tmp_path / "model" / f"params.{part}").stat().st_mtime_ns == before


def test_a_folder_of_diffusers_with_all_parts_and_the_code_of_ones(tmp_path, capsys):
    layouts = {"transformer": "wan_diffusers", "vae": "vae_diffusers", "text_encoder": "umt5_transformers"}
    for name, layout in (layouts | {"vace": "side_release"}).items():
        (tmp_path / "in" / name).mkdir(parents=True)
        write_safetensors(tmp_path / "in" / name / "model.safetensors", tensors_of(layout, MODEL))
    (tmp_path / "in" / "transformer" / "config.json").write_text('{"num_attention_heads": 2}')
    (tmp_path / "in" / "tokenizer").mkdir()
    (tmp_path / "in" / "tokenizer" / "spiece.model").write_bytes(b"pieces")
    write_safetensors(tmp_path / "in" / "clip.safetensors", {f"visual.{i}": np.ones(2, np.float32) for i in range(9)})
    out = tmp_path / "model"
    assert set(gather.get(str(tmp_path / "in"), out)) == {"dit", "vae", "text", "side"}
    assert "clip.safetensors (visual.0, visual.1, visual.2 ..)" in capsys.readouterr().out
    assert weights.read_config(out) == MODEL and (out / "spiece.model").read_bytes() == b"pieces"
    assert (out / "ones.safetensors").is_file()
    for layout in layouts.values():
        equal_part(out, formats.FORMATS[layout].part, tensors_of(layout, MODEL), layout, tmp_path)


def test_what_is_not_recognised_is_told_with_its_first_keys(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write_safetensors(folder / "a.safetensors", {f"wheel.{i}": np.ones(2, np.float32) for i in range(5)})
    with pytest.raises(
        UserError, match=r"in: nothing in it is recognised: \S+a\.safetensors \(wheel\.0, wheel\.1, wheel\.2 \.\.\)"
    ):
        gather.get(str(folder), tmp_path / "model")
    tensors = tensors_of("wan_original", MODEL)
    write_safetensors(folder / "a.safetensors", tensors | {"wheel": np.ones(2, np.float32)})
    with pytest.raises(UserError, match=r"a\.safetensors: holds dit, and 1 tensors of nothing known: wheel"):
        gather.get(str(folder), tmp_path / "model")
    for name in "ab":
        write_safetensors(folder / f"{name}.safetensors", tensors)
    with pytest.raises(UserError, match=r"a\.safetensors and \S+b\.safetensors both hold the dit: name one of them"):
        gather.get(str(folder), tmp_path / "model")
    (folder / "b.safetensors").rename(folder / "m-00001-of-00002.safetensors")
    with pytest.raises(UserError, match=r"m-00001-of-00002\.safetensors: a shard without its index"):
        gather.get(str(folder), tmp_path / "model")
    (folder / "m-00001-of-00002.safetensors").unlink()
    del tensors["blocks.1.ffn.0.weight"]
    write_safetensors(folder / "a.safetensors", tensors)
    (folder / "config.json").write_text('{"num_heads": 2}')
    with pytest.raises(UserError, match=r"a\.safetensors: tensor blocks\.1\.ffn\.0\.weight is missing"):
        gather.get(str(folder), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("layout", sorted(formats.FORMATS))
def test_sizes_are_read_off_the_tensors(layout, tmp_path):
    form = formats.FORMATS[layout]
    wan = model_config.wan22_ti2v_5b()
    if form.part in ("lora", "side"):
        wan = dataclasses.replace(wan, dit=MODEL.dit, side=dataclasses.replace(MODEL.side, every=1))
    source = sources.Source(write_safetensors(tmp_path / "x.safetensors", tensors_of(layout, MODEL)))
    told = {"num_heads": 2, "backbone_config": {"num_attention_heads": 2}}
    found = sizes.of(source, form, wan, told)
    want = getattr(MODEL if form.part != "lora" else wan, form.part)
    if form.part == "dit":
        want = dataclasses.replace(want, text_tokens=wan.dit.text_tokens, dtype=wan.dit.dtype)
    if form.part == "text":
        want = dataclasses.replace(want, dtype=wan.text.dtype)
    if form.part == "depth":
        want = dataclasses.replace(want, short_side=want.patch * want.positions)
    assert getattr(found, form.part) == want
    other = "umt5_original" if form.part == "dit" else "wan_original"
    with pytest.raises(UserError, match=r"x\.safetensors: the tensor that tells the size of the \w+ is missing"):
        sizes.of(source, formats.FORMATS[other], wan, {})


def test_sizes_of_the_released_depth_networks(tmp_path):
    for name, want in depth_anything.PRESETS.items():
        told = {} if want.max_depth is None else {"depth_estimation_type": "metric", "max_depth": want.max_depth}
        assert sizes._reach(told) == want.max_depth, name
    assert gather._told(tmp_path / "depth_anything_v2_metric_hypersim_vits.pth")["max_depth"] == 20
    assert gather._told(tmp_path / "depth_anything_v2_metric_vkitti_vitl.pth")["max_depth"] == 80


def test_files_wanted_of_a_repository():
    names = ["README.md", "a.safetensors", "pytorch_model.bin", "b/model.pth", "b/config.json", "c/config.json"]
    assert set(gather.wanted([*names, "assets/x.png", "google/umt5-xxl/spiece.model"])) == {
        "a.safetensors",
        "b/model.pth",
        "b/config.json",
        "google/umt5-xxl/spiece.model",
    }
