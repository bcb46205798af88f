"""Prompts on the host: what cleaning does, and tokens from both kinds of file, on a vocabulary trained here."""

import io
import json

import numpy as np
import pytest
import sentencepiece
import tokenizers

from experiments.shared import tokens as text
from mirage_jax.errors import UserError

WORDS = "a the camera moves slowly through an old stone hall with light and water".split()


def spiece_model(**options):
    """A toy sentencepiece model with umT5's padding and end mark."""
    rng, out = np.random.default_rng(0), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(rng.choice(WORDS, 8)) for _ in range(300)]),
        model_writer=out,
        **{"vocab_size": 60, "hard_vocab_limit": False, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1} | options,
        minloglevel=2,
    )
    return out.getvalue()


def tokenizer_json(end="</s>"):
    """A toy tokenizer.json of whole words; its own truncation and padding must not count."""
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {word: i + 3 for i, word in enumerate(WORDS)}
    toy = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    toy.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    toy.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, vocabulary[end])]
    )
    toy.enable_truncation(3)
    toy.enable_padding(length=7, pad_id=2)
    return toy.to_str().encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizers")
    (path / "spiece.model").write_bytes(spiece_model())
    (path / "tokenizer.json").write_bytes(tokenizer_json())
    return path


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("  a\t stone \r\n\n hall\u00a0", "a stone hall"),
        ("light &amp;amp; water &lt;3", "light & water <3"),
        ("< &amp;amp;amp;", "< &amp;"),  # twice, not for ever (and once more by ftfy in a text without "<")
        ("schÃ¶n", "schön"),  # UTF-8 that was read as Latin-1
        ("\u201cold\u201d hall", '"old" hall'),
        ("stone\ud800 hall\x00", "stone\ufffd hall"),
        ("&nbsp;", ""),
    ],
)
def test_clean(raw, cleaned):
    assert text.clean(raw) == cleaned


@pytest.mark.parametrize("name", text.FILES)
def test_tokens_are_padded_and_cut_with_the_end_mark_kept(folder, name):
    tokenizer = text.Tokenizer(folder / name)
    ids, mask = tokenizer("the   camera moves", 32)
    count = tokenizer.count("the   camera moves")
    assert (ids.dtype, mask.dtype, ids.shape, mask.shape) == (np.int32, bool, (32,), (32,))
    assert ids[count - 1] == text.END and (ids[:count] != text.PAD).all()
    assert mask.sum() == count and mask[:count].all() and (ids[count:] == text.PAD).all()
    cut, cut_mask = tokenizer("the   camera moves", 3)
    np.testing.assert_array_equal(cut, [*ids[:2], text.END])
    assert cut_mask.all()
    assert ids.max() < tokenizer.vocabulary
    assert tokenizer("")[0].tolist() == [text.END] + [text.PAD] * 511


def test_both_kinds_of_file_spell_the_text_they_were_given(folder):
    words = "old stone hall with light".split()
    ids, mask = text.Tokenizer(folder / "tokenizer.json")(" ".join(words), 16)
    assert ids[mask].tolist() == [*(WORDS.index(word) + 3 for word in words), text.END]
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    ids, mask = text.Tokenizer(folder / "spiece.model")(" ".join(words), 64)
    assert pieces.decode(ids[mask][:-1].tolist()) == " ".join(words)


def test_a_folder_stands_for_the_tokenizer_in_it(folder):
    assert text.Tokenizer(folder).path == folder / "tokenizer.json"


def without_end():
    return json.dumps(json.loads(tokenizer_json()) | {"post_processor": None}).encode()


BAD = {
    "empty.json": (b"", "empty"),
    "list.json": (b"[]", "damaged or not a tokenizer.json"),
    "cut.json": (tokenizer_json()[:-40], "damaged or not a tokenizer.json"),
    "endless.json": (without_end(), r"an empty text the tokens \[\]"),
    "other.json": (tokenizer_json(end="a"), r"an empty text the tokens \[3\]"),
    "empty.model": (b"", "empty"),
    "junk.model": (b"junk", "damaged or not a sentencepiece model"),
    "cut.model": (spiece_model()[:-40], "damaged or not a sentencepiece model"),
    "other.model": (spiece_model(eos_id=2, unk_id=1), "end mark has id 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_the_tokenizer_is_refused(tmp_path, name):
    data, message = BAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        text.Tokenizer(tmp_path / name)


@pytest.mark.parametrize("name", ["nowhere.json", "."])
def test_a_missing_tokenizer_is_named(tmp_path, name):
    with pytest.raises(UserError, match=r"expected tokenizer\.json or spiece\.model"):
        text.Tokenizer(tmp_path / name)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ftfy", None)
    with pytest.raises(UserError, match=r"package ftfy: pip install 'mirage-jax\[text\]'"):
        text.clean("a hall")
