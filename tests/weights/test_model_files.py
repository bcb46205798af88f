"""Model folders: what was saved comes back; damaged and misfitting ones are refused by name."""

import dataclasses
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest

from mirage_jax import weights
from mirage_jax.errors import UserError
from mirage_jax.models import config as model_config
from mirage_jax.models import parameters

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "world"))
import tiny_world


@pytest.fixture(scope="module")
def model():
    base = model_config.default()
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


def test_a_side_branch_for_an_rgb_memory_lies_inside_the_model(tmp_path):
    model = tiny_world.model()
    params = tiny_world.random_parameters(model)
    weights.save(tmp_path / "model", model, params)
    path = tmp_path / "model"
    assert weights.side_folder(path, "rgb") == path
    other = {part: jax.tree.map(lambda x: x + 1, params[part]) for part in ("side", "lora")}
    weights.save(path / "rgb", model, other)

    parts = ["vae", "dit", "side", "lora"]
    own = {part: params[part] for part in parts}
    for memory in ("latent", "none"):
        jax.tree.map(np.testing.assert_array_equal, weights.load(path, parts, memory=memory)[1], own)
    jax.tree.map(np.testing.assert_array_equal, weights.load(path, parts, memory="rgb")[1], own | other)
    assert set(weights.load(path, ["vae"], memory="rgb")[1]) == {"vae"}

    weights.save(path / "rgb", model, {"side": other["side"]})
    with pytest.raises(UserError, match="lora"):
        weights.load(path, parts, memory="rgb")
    weights.save(path / "rgb", dataclasses.replace(model, height=64), other)
    with pytest.raises(UserError, match=r"rgb: not for the model in .*: height is 64, expected 32"):
        weights.load(path, parts, memory="rgb")


def test_weights_of_any_size_lie_in_files_that_a_repository_takes(model, tmp_path):
    rng = np.random.default_rng(0)
    params = {"vae": {f"layer{i}": rng.standard_normal((256, 1024), np.float32) for i in range(24)}}  # 24 MiB
    weights.save(tmp_path / "model", model, params)
    sizes = [file.stat().st_size for file in (tmp_path / "model").rglob("*") if file.is_file()]
    assert sum(sizes) > 20 * 2**20 and max(sizes) < 12 * 2**20
