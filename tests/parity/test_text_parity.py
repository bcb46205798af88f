"""The text encoder, its tokens and the cleaning of prompts against the public implementations."""

import dataclasses
import html
import io
import re

import ftfy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from diffusers.pipelines.wan import pipeline_wan
from public_names import params_to_public
from record import record, relative_error

from experiments.shared import tokens as text
from mirage_jax.models import umt5
from mirage_jax.weights import layout
from mirage_jax.weights.layouts import umt5_layouts

ORACLE = "transformers.UMT5EncoderModel"
TOKENS = 300  # more than max_distance, so that the last bucket is reached
CASES = {  # heads * head_dim equal to dim, and not
    "square": umt5.UMT5Config(vocabulary=256, dim=32, ffn_dim=64, heads=4, head_dim=8, layers=3),
    "wide attention": umt5.UMT5Config(vocabulary=256, dim=32, ffn_dim=64, heads=3, head_dim=16, layers=3),
}


def oracle(config):
    """The public model with noise on every weight, so that norms are not one; positions weigh as in trained models."""
    torch.manual_seed(0)
    model = transformers.UMT5EncoderModel(
        transformers.UMT5Config(
            vocab_size=config.vocabulary,
            d_model=config.dim,
            d_kv=config.head_dim,
            d_ff=config.ffn_dim,
            num_layers=config.layers,
            num_heads=config.heads,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight += (1.0 if "relative_attention_bias" in name else 0.1) * torch.randn_like(weight)
    return model.float().eval()


def tensors_of(model):
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def ours_from(model):
    return layout.params_from_public(tensors_of(model), umt5_layouts.TRANSFORMERS_UMT5)["text"]


def prompt_tokens(length):
    ids = np.random.default_rng(0).integers(2, 256, TOKENS).astype(np.int32)
    ids[length - 1], ids[length:] = text.END, text.PAD
    return ids, np.arange(TOKENS) < length


@pytest.mark.parametrize("length", [TOKENS, 20], ids=["full", "padded"])
@pytest.mark.parametrize("case", CASES)
def test_encoder(case, length):
    config = CASES[case]
    model, (ids, mask) = oracle(config), prompt_tokens(length)
    with torch.no_grad():
        expected = model(torch.from_numpy(ids)[None].long(), torch.from_numpy(mask)[None].long()).last_hidden_state[0]
    found = np.asarray(umt5.encode(config, ours_from(model), ids, mask))
    error = relative_error(found[:length], expected.numpy()[:length])
    record(f"umT5 encoder, {case}, {length} of {TOKENS} tokens", ORACLE, error)
    assert not found[length:].any()


def test_gradients():
    config = CASES["wide attention"]
    model, (ids, mask) = oracle(config), prompt_tokens(20)
    weight = np.random.default_rng(1).standard_normal((20, config.dim), dtype=np.float32)
    output = model(torch.from_numpy(ids)[None].long(), torch.from_numpy(mask)[None].long()).last_hidden_state[0]
    (output[:20] * torch.from_numpy(weight)).sum().backward()
    expected = layout.params_from_public(
        {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}, umt5_layouts.TRANSFORMERS_UMT5
    )["text"]
    found = jax.jit(jax.grad(lambda params: jnp.sum(umt5.encode(config, params, ids, mask)[:20] * weight)))(
        ours_from(model)
    )
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    worst = max(jax.tree.leaves(jax.tree.map(relative_error, found, expected)))
    record("umT5 encoder, gradients, worst parameter", ORACLE, worst)


def test_position_buckets():
    attention = oracle(CASES["square"]).encoder.block[0].layer[0].SelfAttention
    distances = torch.arange(-511, 512)
    expected = attention._relative_position_bucket(distances).numpy()
    found = umt5.position_buckets(umt5.UMT5_XXL, 512)
    record("umT5 position buckets, distances to 511, differing", ORACLE, np.sum(found != expected), 0)


def test_bfloat16_is_no_further_from_float32_than_the_public_one():
    config = dataclasses.replace(CASES["wide attention"], dtype="bfloat16")
    model, (ids, mask) = oracle(config), prompt_tokens(TOKENS)
    arguments = torch.from_numpy(ids)[None].long(), torch.from_numpy(mask)[None].long()
    params = ours_from(model)
    with torch.no_grad():
        exact = model(*arguments).last_hidden_state[0].numpy()
        public = model.bfloat16()(*arguments).last_hidden_state[0].float().numpy()
    error = relative_error(umt5.encode(config, params, ids, mask), exact)
    allowed = relative_error(public, exact)
    record("umT5 encoder, bfloat16, against float32; bound: the oracle's own", ORACLE, error, allowed, section="bf16")


def test_transformers_names_and_back():
    tensors = tensors_of(oracle(CASES["wide attention"]))
    table = umt5_layouts.TRANSFORMERS_UMT5
    again = params_to_public(layout.params_from_public(tensors, table), table)
    again["encoder.embed_tokens.weight"] = again["shared.weight"]  # tied
    assert again.keys() == tensors.keys()
    differing = sum(not np.array_equal(again[name], tensors[name]) for name in tensors)
    record("umT5 transformers names -> ours -> transformers names, tensors differing", ORACLE, differing, 0)


def test_original_names_through_ours_give_the_public_model():
    """Our parameters written under the original names, read back, and given to the public model by its names."""
    config = CASES["wide attention"]
    model, (ids, mask) = oracle(config), prompt_tokens(20)
    original = params_to_public({"text": ours_from(model)}, umt5_layouts.ORIGINAL_UMT5)
    params = layout.params_from_public(original, umt5_layouts.ORIGINAL_UMT5)
    again = params_to_public(params, umt5_layouts.ORIGINAL_UMT5)
    differing = sum(not np.array_equal(again[name], original[name]) for name in original)
    record("umT5 original names -> ours -> original names, tensors differing", ORACLE, differing, 0)
    public = params_to_public(params, umt5_layouts.TRANSFORMERS_UMT5)
    public["encoder.embed_tokens.weight"] = public["shared.weight"]  # tied
    other = transformers.UMT5EncoderModel(model.config).eval()
    other.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in public.items()})
    with torch.no_grad():
        expected = other(torch.from_numpy(ids)[None].long(), torch.from_numpy(mask)[None].long()).last_hidden_state[0]
    found = umt5.encode(config, params["text"], ids, mask)
    record("umT5 encoder, weights under original names", ORACLE, relative_error(found[:20], expected[:20]))


SENTENCES = (
    "the camera moves slowly through an old stone hall",
    "water and light over the wide river, with trees",
    "a schöne naïve façade №5 ½ ﬁre",
    "世界の日本 камера движется медленно",
)
PROMPTS = (
    *SENTENCES,
    "",
    "   ",
    "  the   camera\tmoves\n\nslowly  ",
    "Words never seen: QUIXOTIC zzyzx 🎥 \u200b \u3000 wide",
    "ﬁre ½ Ⅷ \uff46\uff55\uff4c\uff4c ﾊﾝｶｸ e\u0301 ö o\u0308",
    "&lt;b&gt;the &amp;amp;amp; light&lt;/b&gt;",
    "water " * 90,
    "a" * 400,
)


@pytest.fixture(scope="module")
def spiece(tmp_path_factory):
    """A folder with a toy spiece.model that was trained as T5's are (unigram, NFKC)."""
    out, rng = io.BytesIO(), np.random.default_rng(0)
    words = [word for sentence in SENTENCES for word in sentence.split()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(rng.choice(words, 9)) for _ in range(500)]),
        model_writer=out,
        vocab_size=160,
        hard_vocab_limit=False,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    folder = tmp_path_factory.mktemp("spiece")
    (folder / "spiece.model").write_bytes(out.getvalue())
    return folder


def differing_tokens(tokenizer, public):
    """Prompts whose ids or mask differ; the public one gets what Wan's code gives it, the cleaned text."""
    count = 0
    for prompt in PROMPTS:
        ids, mask = tokenizer(prompt, 64)
        expected = public(
            pipeline_wan.prompt_clean(prompt), padding="max_length", truncation=True, max_length=64, return_tensors="np"
        )
        same_mask = np.array_equal(mask, expected["attention_mask"][0])
        count += not (same_mask and np.array_equal(ids, expected["input_ids"][0]))
    return count


def test_spiece_model(spiece):
    public = transformers.T5TokenizerFast.from_pretrained(spiece, extra_ids=0)
    tokenizer = text.Tokenizer(spiece / "spiece.model")
    assert max(map(tokenizer.count, PROMPTS)) > 64  # some are cut
    differing = differing_tokens(tokenizer, public)
    record("tokens of spiece.model, prompts differing", "transformers.T5TokenizerFast", differing, 0)


def test_tokenizer_json(spiece, tmp_path):
    transformers.T5TokenizerFast.from_pretrained(spiece).save_pretrained(tmp_path)
    public = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    differing = differing_tokens(text.Tokenizer(tmp_path), public)
    record("tokens of tokenizer.json, prompts differing", "transformers.PreTrainedTokenizerFast", differing, 0)


NASTY = (
    *PROMPTS,
    "schÃ¶n cafÃ©, itâ€™s \u201cquoted\u201d",
    "< &amp;lt;twice&amp;gt;",  # ftfy resolves entities itself, but not beside a "<"
    "&amp;lt;script&amp;gt; &#233; &#x41; &notit; &nbsp;x&nbsp;",
    "a\u00a0b\u2003c\u2028d\x1fe\x85f\ufeffg",
    "lone \ud800 surrogate, pair \ud83d\ude00, null \x00, bell \x07",
    "\x1b[31mred\x1b[0m \uff46\uff55\uff4c\uff4c width ﬂ ĳ",
    "Ω\u0301\u0302 \u202eright to left\u202c",
)


def test_cleaning():
    def formula(raw):
        return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(raw))).strip()).strip()

    differing = sum(text.clean(raw) != pipeline_wan.prompt_clean(raw) for raw in NASTY)
    record("cleaned prompts differing", "diffusers pipeline_wan.prompt_clean", differing, 0)
    assert [text.clean(raw) for raw in NASTY] == [formula(raw) for raw in NASTY]
