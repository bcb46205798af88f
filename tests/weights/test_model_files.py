"""Model folders: what was saved comes back; damaged and misfitting ones are refused by name."""

import dataclasses
import json
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

from mirage_jax import weights
from mirage_jax.errors import UserError
from mirage_jax.models import config as model_config
from mirage_jax.models import parameters

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "world"))
import tiny_world


@pytest.fixture(scope="module")
def model():
    base = tiny_world.video()
    tiny = dataclasses.replace(base.vae, latent_channels=4, encoder_dim=4, decoder_dim=4, multipliers=(1, 2, 4))
    return dataclasses.replace(base, height=32, width=32, vae=tiny, dit=None, side=None, heads=None, lora=None)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    weights.save(path, model, tiny_world.parameters(model))
    return path


def test_what_was_saved_comes_back(model, folder):
    config, params = weights.load(folder)
    assert config == model
    jax.tree.map(np.testing.assert_array_equal, params, tiny_world.parameters(model))


def test_a_digest_knows_every_number_and_every_weight(model, folder):
    config, params = weights.load(folder)
    assert weights.digest(config, params) == weights.digest(model, jax.tree.map(lambda x: np.array(x), params))
    leaves, shape = jax.tree.flatten(params)
    for index in (0, len(leaves) // 2, len(leaves) - 1):
        other = np.array(leaves[index])
        other.flat[-1] = np.nextafter(other.flat[-1], np.float32(9))
        changed = jax.tree.unflatten(shape, [*leaves[:index], other, *leaves[index + 1 :]])
        assert weights.digest(config, changed) != weights.digest(config, params)
    assert weights.digest(dataclasses.replace(config, fps=14), params) != weights.digest(config, params)


def test_half_precision_on_disk_is_single_in_memory(model, folder, tmp_path):
    _, params = weights.load(folder)
    weights.save(tmp_path / "half", model, params, dtype=np.float16)
    _, again = weights.load(tmp_path / "half")
    assert {x.dtype for x in jax.tree.leaves(again)} == {np.dtype("float32")}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), params, again)


def test_a_model_folder_does_not_name_the_place_where_it_was_made(folder):
    for file in folder.rglob("*"):
        assert file.is_dir() or str(folder.parent).encode() not in file.read_bytes(), file


def test_saving_replaces_the_old_model(model, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    weights.save(tmp_path / "model", dataclasses.replace(model, fps=3), weights.load(folder)[1])
    assert weights.load(tmp_path / "model")[0].fps == 3
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_weights_of_another_config_are_refused_with_the_first_misfit(model, folder, tmp_path):
    wider = dataclasses.replace(model, vae=dataclasses.replace(model.vae, encoder_dim=8))
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "model.json").write_text(wider.to_json())
    with pytest.raises(UserError, match=r"tensor vae/encoder/.* is of shape .*, the config asks for shape"):
        weights.load(tmp_path / "model")


def test_damaged_model_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="not a model folder"):
        weights.load(tmp_path)
    shutil.copytree(folder, tmp_path / "model")
    data = [
        path for path in (tmp_path / "model" / "params").rglob("*") if path.is_file() and path.stat().st_size > 10000
    ]
    for path in data:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert data
    with pytest.raises(UserError, match="damaged or incomplete"):
        weights.load(tmp_path / "model")


def test_config_survives_json_and_names_what_differs(model):
    full = model_config.default()
    assert model_config.from_json(full.to_json(), "here") == full
    other = dataclasses.replace(full, dit=dataclasses.replace(full.dit, layers=9))
    assert model_config.first_mismatch(other, full) == f"dit.layers is 9, expected {full.dit.layers}"
    assert model_config.first_mismatch(full, full) is None
    assert full.digest() != other.digest()
    with pytest.raises(UserError, match="here: not a model config"):
        model_config.from_json('{"name": "x", "wheels": 4}', "here")


def test_full_size_model_is_only_a_config():
    wan = model_config.wan22_ti2v_5b()
    shapes = jax.eval_shape(lambda key: parameters.init(key, wan), jax.random.key(0))
    counts = {part: sum(x.size for x in jax.tree.leaves(tree)) for part, tree in shapes.items()}
    assert counts["dit"] == 4_999_787_712 and counts["vae"] == 704_688_668


def test_weights_of_any_size_lie_in_files_that_a_repository_takes(model, tmp_path):
    rng = np.random.default_rng(0)
    params = {"vae": {f"layer{i}": rng.standard_normal((256, 1024), np.float32) for i in range(24)}}  # 24 MiB
    weights.save(tmp_path / "model", model, params)
    sizes = [file.stat().st_size for file in (tmp_path / "model").rglob("*") if file.is_file()]
    assert sum(sizes) > 20 * 2**20 and max(sizes) < 12 * 2**20


@pytest.fixture(scope="module")
def one_file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    weights.save(path, model, tiny_world.parameters(model), dtype=np.float16)
    return path


def test_a_model_in_one_file(model, one_file, tmp_path):
    config, params = weights.load(one_file)
    assert config == model and weights.parts_of(one_file) == ("vae",) and weights.read_config(one_file) == model
    half = jax.tree.map(lambda x: np.asarray(x, np.float16).astype(np.float32), tiny_world.parameters(model))
    jax.tree.map(np.testing.assert_array_equal, params, half)
    assert [path.name for path in one_file.parent.iterdir()] == ["tiny.safetensors"]
    (tmp_path / "new").touch()
    assert one_file.stat().st_mode == (tmp_path / "new").stat().st_mode  # as readable as any file
    with pytest.raises(UserError, match="has no part 'dit'"):
        weights.load(one_file, ("dit",))
    with pytest.raises(UserError, match=r"not a model folder, .* or a \.safetensors file"):
        weights.load(tmp_path / "none.safetensors")
    (tmp_path / "x.safetensors").write_bytes(one_file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"x\.safetensors: damaged or not a safetensors file"):
        weights.load(tmp_path / "x.safetensors")
    safetensors.numpy.save_file({"a": np.zeros(2, np.float32)}, tmp_path / "y.safetensors")
    with pytest.raises(UserError, match=r"y\.safetensors: not a model of this project in version 1"):
        weights.load(tmp_path / "y.safetensors")


def test_what_ships_is_one_file_that_fits_its_digests():
    assert weights.DEFAULT.is_file() and weights.DEFAULT.stat().st_size < 40 * 2**20
    config, params = weights.load()
    own = dataclasses.replace(config.vae, latent_mean=(), latent_std=())
    assert dataclasses.replace(config, vae=own) == model_config.default()
    assert set(params) == {"vae", "dit", "side", "heads"}


def flipped(path, position, bit):
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def same(found, wanted):
    return found[0] == wanted[0] and all(
        jax.tree.leaves(jax.tree.map(lambda a, b: np.array_equal(a, b), found[1], wanted[1]))
    )


@pytest.mark.parametrize("form", ["folder", "one_file"])
def test_no_flipped_bit_gives_another_model(form, request, tmp_path):
    source = request.getfixturevalue(form)
    wanted = weights.load(source)
    files = sorted(x for x in source.rglob("*") if x.is_file()) if source.is_dir() else [source]
    rng, refused = np.random.default_rng(0), 0
    for trial in range(60):
        copy = tmp_path / source.name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, copy)
        sizes = np.array([file.stat().st_size for file in files])
        # Half of the trials anywhere, half in the small files, and in the header.
        at = rng.choice(len(files), p=sizes / sizes.sum()) if trial % 2 else rng.integers(len(files))
        limit = sizes[at] if trial % 2 or source.is_dir() else 4000
        target = copy / files[at].relative_to(source) if source.is_dir() else copy
        flipped(target, rng.integers(limit), rng.integers(8))
        try:
            assert same(weights.load(copy), wanted), f"{target}, trial {trial}"
        except UserError as error:
            refused += 1
            assert str(copy) in str(error) and "\n" not in str(error)
        (shutil.rmtree if source.is_dir() else pathlib.Path.unlink)(copy)
    assert refused > 50  # but for spaces in a header, all


def test_a_missing_file_and_a_list_with_anything_in_it(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "m")
    listed = tmp_path / "m" / "params.sha256"
    text = listed.read_text()
    for content in ("", "x", text[:-90], text + text.replace("params/", "../"), "\xff"):
        listed.write_bytes(content.encode("latin-1"))
        with pytest.raises(UserError, match=r"params\.sha256: (damaged|cannot be read)|missing, params\\.sha256 lists"):
            weights.load(tmp_path / "m")
    listed.write_text(text + f"{'0' * 64}  params/more\n")
    with pytest.raises(UserError, match=r"params/more: missing, params\.sha256 lists it"):
        weights.load(tmp_path / "m")
    listed.unlink()  # as older versions wrote it
    assert weights.load(tmp_path / "m")


BAD_CONFIGS = {
    "height 0": (lambda c: c.update(height=0), "height is '0', expected 1 to 16,384"),
    "height huge": (lambda c: c.update(height=10**400), "height is '1000.*, expected 1 to 16,384"),
    "height between": (lambda c: c.update(height=33), "pictures of 33x32, expected multiples of 8"),
    "patch of heads": (lambda c: c.update(heads={"in_channels": 4, "patch": 5}), "32x32, expected multiples of 40"),
    "height true": (lambda c: c.update(height=True), "height is 'True', expected int"),
    "height text": (lambda c: c.update(height="128"), "height is '128', expected int"),
    "height float": (lambda c: c.update(height=128.0), r"height is '128\.0', expected int"),
    "fps null": (lambda c: c.update(fps=None), "fps is 'None', expected int"),
    "fps negative": (lambda c: c.update(fps=-1), "fps is '-1', expected 1 to"),
    "name list": (lambda c: c.update(name=[]), r"name is '\[\]', expected str"),
    "vae list": (lambda c: c.update(vae=[1]), r"vae is '\[1\]', expected fields by name"),
    "no vae": (lambda c: c.pop("vae"), "not a model config of this version"),
    "multipliers": (lambda c: c["vae"].update(multipliers=3), r"vae\.multipliers is '3', expected a list"),
    "multipliers of text": (lambda c: c["vae"].update(multipliers=["a"]), r"vae\.multipliers is 'a', expected int"),
    "mean NaN": (lambda c: c["vae"].update(latent_mean=[float("nan")] * 4), r"vae\.latent_mean is 'nan', expected a n"),
    "latents": (lambda c: c["segment"].update(latents=10**9), r"segment\.latents is '1000000000', expected 1 to 1,000"),
    "control": (lambda c: c["segment"].update(control=["x" * 5000]), "segment config: unknown control"),
    "unknown": (lambda c: c["vae"].update({"w" * 5000: 4}), r"unknown field vae\.www"),
    "whole": (lambda c: [1], r"the whole is '\[1\]', expected fields by name"),
    "deep": (lambda c: c.update(vae=json.loads("[" * 900 + "]" * 900)), "vae is '.*, expected fields by name"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_config_with_anything_in_it_is_one_sentence(case, model, tmp_path):
    change, message = BAD_CONFIGS[case]
    values = json.loads(model.to_json())
    changed = change(values)
    (tmp_path / "model.json").write_text(json.dumps(changed if isinstance(changed, list) else values))
    with pytest.raises(UserError, match=f"^{tmp_path}/model.json: .*{message}") as caught:
        weights.read_config(tmp_path)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\xf0\x69\xe8\x37\x08", b"", b"[" * 100_000, b"9" * 10_000, b"{", b"null"])
def test_a_config_that_is_no_json_is_one_sentence(content, tmp_path):
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(UserError, match=f"^{tmp_path}/model.json: [^\n]*$"):
        weights.read_config(tmp_path)


def test_a_config_changed_by_hand_says_so(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "m")
    file = tmp_path / "m" / "model.json"
    file.write_text(file.read_text().replace('"fps": 15', '"fps": 14'))
    with pytest.raises(UserError, match=r"model\.json: is not what its 'digest' says; after a change by hand, leave"):
        weights.load(tmp_path / "m")
    values = json.loads(file.read_text())
    del values["digest"]
    file.write_text(json.dumps(values))
    assert weights.load(tmp_path / "m")[0].fps == 14


def test_numbers_that_no_module_takes_are_one_sentence(folder, monkeypatch):
    def raises(*_):
        raise ValueError("dim 3 and dim 4 differ")

    monkeypatch.setattr(parameters, "first_misfit", raises)
    with pytest.raises(UserError, match=r"model\.json describes no model that can be made \(dim 3 and dim 4 differ"):
        weights.load(folder)
