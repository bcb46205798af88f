"""Prompts to embeddings: one encoding a prompt, files of them, the empty prompt, the encoder gone afterwards."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest
import safetensors.numpy
import tokenizers
from commands import run

from experiments.shared import prompts
from experiments.shared import tokens as text
from mirage_jax import weights
from mirage_jax.data import text_embeddings
from mirage_jax.errors import UserError
from mirage_jax.models import config as model_config
from mirage_jax.models import umt5

TOKENS, DIM = 40, 16
WORDS = "a the camera moves slowly through an old stone hall".split()


def text_model():
    """The default model's numbers with text; only the text part is given weights."""
    base = model_config.default()
    return dataclasses.replace(
        base,
        name="tiny text",
        dit=dataclasses.replace(base.dit, text_dim=DIM, text_tokens=TOKENS),
        text=umt5.UMT5Config(vocabulary=20, dim=DIM, ffn_dim=24, heads=2, head_dim=4, layers=2),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model folder with a text part, and a tokenizer in it."""
    path, model = tmp_path_factory.mktemp("text") / "model", text_model()
    params = jax.jit(umt5.UMT5Encoder(model.text).init)(jax.random.key(0), np.zeros(3, np.int32), np.ones(3, bool))
    weights.save(path, model, {"text": params["params"]})
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {word: i + 3 for i, word in enumerate(WORDS)}
    toy = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    toy.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    toy.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    toy.save(str(path / "tokenizer.json"))
    return path, model, params["params"]


@pytest.fixture
def folder(made):
    """The same folder, without what earlier tests left in it."""
    (made[0] / prompts.EMPTY_PROMPT).unlink(missing_ok=True)
    return made[0]


def encoded(made, prompt):
    """The embedding at full length, by the model alone."""
    path, model, params = made
    return np.asarray(umt5.encode(model.text, params, *text.Tokenizer(path)(prompt, TOKENS)))


def count_encodings(monkeypatch):
    calls, encode = [], umt5.encode
    monkeypatch.setattr(umt5, "encode", lambda *arguments: calls.append(0) or encode(*arguments))
    return calls


def test_each_different_prompt_is_encoded_once_and_the_encoder_goes(made, folder, monkeypatch):
    calls, given = count_encodings(monkeypatch), ["a hall", "the camera moves", "a hall"]
    before = {id(array) for array in jax.live_arrays()}
    values = prompts.embeddings(folder, None, given)
    left = [array.shape for array in jax.live_arrays() if id(array) not in before]
    assert (20, DIM) not in left and (DIM, 24) not in left
    assert len(calls) == 2
    assert values.shape == (3, TOKENS, DIM)
    for value, prompt in zip(values, given, strict=True):
        np.testing.assert_allclose(value, encoded(made, prompt), rtol=1e-4, atol=1e-5)


def test_a_long_prompt_is_cut_and_said_to_be(made, folder, capsys):
    prompt = "slowly " * TOKENS
    values = prompts.embeddings(folder, None, [prompt])
    np.testing.assert_allclose(values[0], encoded(made, prompt), rtol=1e-4, atol=1e-5)
    assert np.all(values[0].any(axis=1))
    assert f"{TOKENS + 1} tokens, of which the model reads {TOKENS}" in capsys.readouterr().out


def test_the_last_prompt_goes_on(folder, tmp_path):
    (tmp_path / "walk.txt").write_text("a hall\n\nthe camera moves\n\n")
    model = text_model()
    values = prompts.for_segments(folder, model, 5, prompt_file=str(tmp_path / "walk.txt"))
    expected = prompts.embeddings(folder, None, ["a hall", "", "the camera moves"])
    np.testing.assert_array_equal(values, expected[[0, 1, 2, 2, 2]])
    one = prompts.for_segments(folder, model, 2, prompt="a hall")
    np.testing.assert_array_equal(one, expected[[0, 0]])


def test_saved_embeddings_take_the_place_of_the_encoder(folder, tmp_path, monkeypatch):
    given = ["a hall", "the camera moves"]
    values, file, model = prompts.embeddings(folder, None, given), tmp_path / "out" / "walk.safetensors", text_model()
    text_embeddings.save(file, model.name, given, values)
    found, again = prompts.load(file, model)
    assert found == given
    np.testing.assert_array_equal(again, values)
    assert file.stat().st_size < values.nbytes / 2  # what is zero after the prompts is not stored
    monkeypatch.setattr(weights, "load", None)
    np.testing.assert_array_equal(
        prompts.for_segments(tmp_path, model, 3, embeddings_file=str(file)), values[[0, 1, 1]]
    )


def test_the_empty_prompt_is_encoded_once_a_model(made, folder, tmp_path, monkeypatch):
    calls, model = count_encodings(monkeypatch), text_model()
    (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")  # it takes none
    try:
        first = prompts.for_segments(folder, model, 2)
    finally:
        (tmp_path / "tokenizer.json").rename(folder / "tokenizer.json")
    np.testing.assert_allclose(first, np.stack([encoded(made, "")] * 2), rtol=1e-4, atol=1e-5)
    assert len(calls) == 2  # ours, and the one to compare with
    assert (folder / prompts.EMPTY_PROMPT).is_file()
    monkeypatch.setattr(weights, "load", None)
    np.testing.assert_array_equal(prompts.for_segments(folder, dataclasses.replace(model, text=None), 2), first)


def test_the_empty_prompt_is_encoded_anew_for_another_encoder(made, folder):
    path, model, _ = made
    first = prompts.for_segments(folder, model, 1)
    text_embeddings.save(folder / prompts.EMPTY_PROMPT, model.name, [""], 2 * first)
    np.testing.assert_array_equal(prompts.for_segments(folder, model, 1), 2 * first)
    (path / "params").rename(path / "params.text")  # as a converter leaves it
    try:
        later = (folder / prompts.EMPTY_PROMPT).stat().st_mtime + 10
        os.utime(path / "params.text", (later, later))
        np.testing.assert_allclose(prompts.for_segments(folder, model, 1), first, rtol=1e-5, atol=1e-6)
    finally:
        (path / "params.text").rename(path / "params")


def test_the_negative_prompt_is_that_of_wan_and_kept_or_ones_own(folder, tmp_path, monkeypatch):
    model = text_model()
    first = prompts.negative(folder, model, None)
    np.testing.assert_array_equal(first, prompts.embeddings(folder, None, [prompts.WAN_NEGATIVE])[0])
    assert prompts.load(folder / prompts.NEGATIVE_PROMPT, model)[0] == [prompts.WAN_NEGATIVE]
    own = prompts.negative(folder, model, "a hall")
    np.testing.assert_array_equal(own, prompts.embeddings(folder, None, ["a hall"])[0])
    monkeypatch.setattr(weights, "load", None)
    np.testing.assert_array_equal(prompts.negative(folder, dataclasses.replace(model, text=None), None), first)
    (tmp_path / "model.json").write_text(dataclasses.replace(model, text=None).to_json())
    with pytest.raises(UserError, match=rf"negative prompt .*, and no {prompts.NEGATIVE_PROMPT} in the model folder"):
        prompts.negative(tmp_path, model, None)


def test_a_folder_that_cannot_be_written_only_loses_the_file(folder, monkeypatch, capsys):
    def refuse(*_):
        raise UserError("cannot write there")

    monkeypatch.setattr(text_embeddings, "save", refuse)
    assert prompts.for_segments(folder, text_model(), 1).shape == (1, TOKENS, DIM)
    assert "not kept for the next run: cannot write there" in capsys.readouterr().out


def test_a_model_without_text_takes_none(tmp_path):
    model = model_config.default()
    assert prompts.for_segments(tmp_path, model, 3) is None
    for flag, shown in (("prompt",) * 2, ("prompt_file",) * 2, ("embeddings_file", "text_embeddings")):
        with pytest.raises(UserError, match=f"--{shown}: the model 'default' was trained without text"):
            prompts.for_segments(tmp_path, model, 3, **{flag: ""})


def test_without_an_encoder_the_way_out_is_named(tmp_path):
    model = dataclasses.replace(text_model(), text=None)
    (tmp_path / "model.json").write_text(model.to_json())
    with pytest.raises(UserError, match=rf"no prompt given, and no {prompts.EMPTY_PROMPT}.*has no text encoder"):
        prompts.for_segments(tmp_path, model, 1)


def stored(path, values=None, **changes):
    """A file of embeddings with something wrong."""
    header = {"format": "mirage-jax text embeddings", "version": "1", "model": "m", "prompts": '["a"]'}
    header |= {"tokens": str(TOKENS), "dim": str(DIM)} | changes
    values = np.ones((1, 2, DIM), np.float32) if values is None else values
    path.write_bytes(safetensors.numpy.save({"embeddings": values}, metadata=header))


BAD_EMBEDDINGS = {
    "version": ({"version": "2"}, "not a file of text embeddings of version 1"),
    "format": ({"format": "mirage-jax world"}, "not a file of text embeddings of version 1"),
    "dim": ({"dim": "7"}, rf"embeddings of shape \[1, 2, {DIM}\] for 1 prompts, damaged"),
    "tokens": ({"tokens": "512"}, f"512 tokens of {DIM} numbers"),
    "header": ({"tokens": "many"}, "damaged header"),
    "prompts": ({"prompts": '["a", "b"]'}, "for 2 prompts"),
    "shape": ({"values": np.ones((1, TOKENS + 1, DIM), np.float32)}, "damaged"),
    "none": ({"values": np.ones((0, 2, DIM), np.float32), "prompts": "[]"}, "holds no prompt"),
    "nan": ({"values": np.full((1, 2, DIM), np.nan, np.float32)}, "NaN"),
}


@pytest.mark.parametrize("case", BAD_EMBEDDINGS)
def test_embeddings_that_do_not_fit_are_refused(tmp_path, case):
    changes, message = BAD_EMBEDDINGS[case]
    stored(tmp_path / "bad.safetensors", **changes)
    with pytest.raises(UserError, match=message):
        prompts.load(tmp_path / "bad.safetensors", text_model())


def test_files_that_are_missing_or_damaged_are_named(tmp_path):
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"junk\.safetensors: damaged"):
        prompts.load(tmp_path / "junk.safetensors", text_model())
    with pytest.raises(UserError, match=r"no file .*nowhere"):
        prompts.load(tmp_path / "nowhere", text_model())


@pytest.mark.parametrize(
    ("data", "message"),
    [(None, "no file"), (b" \n\n", "blank"), (b"\xff\xfea", "not UTF-8"), (b"a\nb\nc", "3 prompts for 2")],
)
def test_prompt_files_that_do_not_fit_are_refused(folder, tmp_path, data, message):
    file = tmp_path / "prompts.txt"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(UserError, match=f"--prompt_file.*{message}"):
        prompts.for_segments(folder, text_model(), 2, prompt_file=str(file))


def test_flags_that_exclude_each_other(folder):
    with pytest.raises(UserError, match="--prompt and --text_embeddings exclude each other"):
        prompts.for_segments(folder, text_model(), 2, prompt="a", embeddings_file="b")


def test_another_models_tokenizer_is_refused(folder, tmp_path):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] |= {f"word{i}": 100 + i for i in range(9)}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"22 tokens, the text encoder knows 20"):
        prompts.embeddings(folder, tmp_path, ["a hall"])


def test_encode_text(folder, tmp_path):
    (tmp_path / "walk.txt").write_text("a hall\nthe camera moves\n")
    base = [f"--checkpoint={folder}"]
    good, both, neither, suffix, model = run(
        "encode_text",
        [
            [*base, f"--prompt_file={tmp_path}/walk.txt", f"--out={tmp_path}/new/walk.safetensors"],
            [*base, "--prompt=a", "--prompt_file=b", f"--out={tmp_path}/no.safetensors"],
            [*base, f"--out={tmp_path}/no.safetensors"],
            [*base, "--prompt=a", f"--out={tmp_path}/no.pt"],
            ["--checkpoint=nowhere", "--prompt=a", f"--out={tmp_path}/no.safetensors"],
        ],
    )
    assert (good.code, good.err.count("Traceback")) == (0, 0), good.err
    assert f"2 prompts, {TOKENS} tokens of {DIM} numbers each" in good.out
    found, values = prompts.load(tmp_path / "new" / "walk.safetensors", text_model())
    assert found == ["a hall", "the camera moves"]
    np.testing.assert_allclose(values, prompts.embeddings(folder, None, found), rtol=1e-5, atol=1e-6)
    record = json.loads((tmp_path / "new" / "walk.json").read_text())
    assert record["config"]["prompt_file"].endswith("walk.txt") and "jax" in record["versions"]["packages"]
    messages = ["give either", "give either", "ends in .safetensors", "not a model folder"]
    for result, message in zip((both, neither, suffix, model), messages, strict=True):
        assert (result.code, message in result.err, "Traceback" in result.err) == (2, True, False), result.err
    assert not list(tmp_path.glob("no.*"))
