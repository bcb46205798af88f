"""Checkpoints as they are met: wrapped, renamed, in one file, in 8 bits; each gives the parameters of the plain one."""

import dataclasses
import re

import ml_dtypes
import numpy as np
import pytest

from experiments.conversion import convert
from mirage_jax.errors import UserError
from mirage_jax.models.config import LoRAConfig
from mirage_jax.models.nn import lora as low_rank
from mirage_jax.weights import formats, model_files, sources
from mirage_jax.weights.formats import FORMATS
from mirage_jax.weights.layouts import lora_layouts
from tests.weights.public_files import in_eight_bits, write_gguf, write_safetensors
from tests.weights.tiny_wan import tensors_of, tiny_wan

MODEL = tiny_wan()


def params_of(path, layout, model=MODEL):
    source, form = sources.Source(path), FORMATS[layout]
    matches, _ = formats.match(source, form, model)
    return {name: formats.read(source, match) for name, match in matches.items()}


def expected(tensors, layout, tmp_path, model=MODEL):
    return params_of(write_safetensors(tmp_path / "plain.safetensors", tensors), layout, model)


def equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(found[name].astype(np.float32), wanted[name].astype(np.float32), err_msg=name)


def before(*prefixes):
    return lambda name, index: prefixes[index % len(prefixes)] + name


def replaced(*pairs):
    def renamed(name, index):
        for old, new in pairs:
            name = re.sub(old, new, name)
        return name

    return renamed


DOWN_UP = (("lora_A", "lora_down"), ("lora_B", "lora_up"))
ROOT = r"^pipe\.dit\."
WRAPPED = {
    "PEFT": ("lora_release", replaced((ROOT, "base_model.model."), (r"\.weight$", ".default.weight"))),
    "LoRA of a V3 checkpoint": ("lora_release", replaced((ROOT, "generator.lora.base_model.model."))),
    "LoRA spelled down and up": ("lora_release", replaced((ROOT, "diffusion_model."), *DOWN_UP)),
    "LoRA with underscores": (
        "lora_release",
        replaced((ROOT + r"blocks\.(\d+)\.(\w+)\.(\w)", r"lora_unet_blocks_\1_\2_\3"), *DOWN_UP),
    ),
    "diffusers' LoRA": ("lora_diffusers", before("transformer.", "")),
    "FSDP": ("wan_original", replaced(("^|self_attn", r"_fsdp_wrapped_module.\g<0>"))),
    "compiled": ("wan_original", before("_orig_mod.", "generator.model.")),
    "one file of the community": ("wan_original", before("model.diffusion_model.")),
    "vace": ("side_release", before("vace.", "generator.vace.", "module.pipe.vace.", "model.", "state_dict.")),
    "VAE": ("vae_original", before("model.", "model_state.", "first_stage_model.")),
    "diffusers' VAE": ("vae_diffusers", before("vae.", "")),
    "text encoder of a pipeline": ("umt5_transformers", before("text_encoder.", "text_encoders.umt5xxl.transformer.")),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_prefixes_and_spellings(case, tmp_path):
    layout, renamed = WRAPPED[case]
    tensors = tensors_of(layout, MODEL)
    wrapped = {renamed(name, index): array for index, (name, array) in enumerate(tensors.items())}
    assert not wrapped.keys() & tensors.keys() or case.startswith("diffusers")
    found = params_of(write_safetensors(tmp_path / "wrapped.safetensors", wrapped), layout)
    equal(found, expected(tensors, layout, tmp_path))
    parts, unknown = formats.recognise(sources.Source(tmp_path / "wrapped.safetensors"), MODEL)
    assert parts == {FORMATS[layout].part: layout} and not unknown


def test_dicts_in_dicts_are_unwrapped():
    one, two = np.ones(2), np.zeros(3)
    is_array = lambda value: isinstance(value, np.ndarray)  # noqa: E731
    found = lambda value: dict(sources.tensors_of(value, "x.pt", is_array))  # noqa: E731
    v3 = {
        "format_version": 3,
        "generator": {"vace": {"vace_blocks.0.modulation": one}, "lora": {"blocks.0.x": two}},
        "meta": {"step": 7, "seen": two, "loss": [1.0]},
    }
    assert found(v3) == {"generator.vace.vace_blocks.0.modulation": one, "generator.lora.blocks.0.x": two}
    for wrapper in ("vace", "generator", "state_dict", "model_state"):
        assert list(found({wrapper: {"a": one}, "step": 3})) == [f"{wrapper}.a"]
    with pytest.raises(UserError, match=r"x\.pt: b is a int, expected a tensor"):
        found({"a": one, "b": 3})
    with pytest.raises(UserError, match=r"x\.pt: holds a list, expected tensors by name"):
        found([one])


def test_side_branch_and_lora_of_one_file(tmp_path):
    side, lora = tensors_of("side_release", MODEL), tensors_of("lora_release", MODEL)
    names = lambda tensors, prefix: {prefix + name: array for name, array in tensors.items()}  # noqa: E731
    both = names(side, "generator.vace.") | names(lora, "generator.lora.")
    path = write_safetensors(tmp_path / "both.safetensors", both)
    equal(params_of(path, "side_release"), expected(side, "side_release", tmp_path))
    equal(params_of(path, "lora_release"), expected(lora, "lora_release", tmp_path))
    assert formats.recognise(sources.Source(path), MODEL) == ({"side": "side_release", "lora": "lora_release"}, [])
    path = write_safetensors(tmp_path / "more.safetensors", both | {"generator.critic.x": np.ones(2, np.float32)})
    with pytest.raises(UserError, match=r"more\.safetensors: tensor generator\.critic\.x is not part of this layout"):
        params_of(path, "side_release")


def lora_of(path, layout="lora_release", alpha=None):
    model = lora_layouts.config(sources.Source(path), FORMATS[layout], MODEL, alpha)
    return model.lora, params_of(path, layout, model)


def test_a_lora_may_adapt_less_than_it_could(tmp_path):
    tensors = tensors_of("lora_release", MODEL)
    kept = {n: x for n, x in tensors.items() if ".self_attn.q." in n and ".blocks.2." not in n}
    config, found = lora_of(write_safetensors(tmp_path / "few.safetensors", kept))
    assert config == LoRAConfig(2, 2.0)
    whole = expected(tensors, "lora_release", tmp_path)
    for path, array in found.items():
        there = "self_attention/q" in path and "blocks_2" not in path
        np.testing.assert_array_equal(array, whole[path] if there else np.zeros_like(array), err_msg=path)
    kept.pop("pipe.dit.blocks.1.self_attn.q.lora_B.weight")
    with pytest.raises(UserError, match=r"tensor pipe\.dit\.blocks\.1\.self_attn\.q\.lora_B\.weight is missing"):
        lora_of(write_safetensors(tmp_path / "half.safetensors", kept))


def updates(config, found):
    """What each kernel is changed by."""
    bases = {path.removesuffix("/A") for path in found if path.endswith("/A")}
    return {path: config.alpha / config.rank * (found[f"{path}/A"] @ found[f"{path}/B"]) for path in bases}


def test_alphas_and_ranks_of_the_file_count(tmp_path):
    rng, tensors, wanted = np.random.default_rng(0), {}, {}
    for block, (rank, alpha) in enumerate([(2, 1.0), (3, 6.0), (1, 1.0)]):
        down, up = rng.standard_normal((rank, 24), np.float32), rng.standard_normal((24, rank), np.float32)
        base = f"lora_unet_blocks_{block}_self_attn_q"
        tensors |= {f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": up, f"{base}.alpha": np.float32(alpha)}
        wanted[f"lora/blocks_{block}/self_attention/q/kernel"] = alpha / rank * (up @ down).T
    path = write_safetensors(tmp_path / "x.safetensors", tensors)
    config, found = lora_of(path)
    assert config.rank == 3
    for name, update in updates(config, found).items():
        np.testing.assert_allclose(update, wanted.get(name, 0 * update), rtol=1e-5, atol=1e-6, err_msg=name)
    with pytest.raises(UserError, match=r"--alpha: .* has an alpha or a rank for each update"):
        lora_of(path, alpha=4.0)
    same = {n: (np.float32(1) if n.endswith("alpha") else x) for n, x in tensors.items() if "blocks_0" in n}
    config, found = lora_of(write_safetensors(tmp_path / "y.safetensors", same))
    assert config == LoRAConfig(2, 1.0)
    down = tensors["lora_unet_blocks_0_self_attn_q.lora_down.weight"]
    np.testing.assert_array_equal(found["lora/blocks_0/self_attention/q/kernel/A"], down.T)
    uneven = tensors | {"lora_unet_blocks_0_self_attn_q.lora_up.weight": np.ones((24, 1), np.float32)}
    with pytest.raises(UserError, match="its other half has another rank"):
        lora_of(write_safetensors(tmp_path / "z.safetensors", uneven))


def test_changes_of_biases_and_of_layers_outside_the_blocks(tmp_path):
    rng = np.random.default_rng(0)
    bias, norm = rng.standard_normal(32).astype(np.float32), rng.standard_normal(24).astype(np.float32)
    down, up = rng.standard_normal((2, 24), np.float32), rng.standard_normal((16, 2), np.float32)
    tensors = {
        "diffusion_model.blocks.1.ffn.0.diff_b": bias,
        "diffusion_model.blocks.0.self_attn.norm_q.diff": norm,
        "diffusion_model.head.head.lora_down.weight": down,
        "diffusion_model.head.head.lora_up.weight": up,
        "diffusion_model.blocks.2.cross_attn.o.lora_down.weight": down,
        "diffusion_model.blocks.2.cross_attn.o.lora_up.weight": np.zeros((24, 2), np.float32),
    }
    config, found = lora_of(write_safetensors(tmp_path / "x.safetensors", tensors))
    assert config.cross_attention and config.targets == ("head/linear/kernel",)
    assert config.added == ("blocks/ffn/up/bias", "blocks/self_attention/norm_q/weight")
    dit = expected(tensors_of("wan_original", MODEL, np.float32), "wan_original", tmp_path)
    nested = lambda flat: _tree({path.split("/", 1)[1]: x for path, x in flat.items()})  # noqa: E731
    merged = low_rank._flat(low_rank.merge(nested(dit), nested(found), config.alpha))
    changed = {name for name, x in merged.items() if not np.array_equal(x, dit[f"dit/{name}"])}
    assert changed == {"blocks_1/ffn/up/bias", "blocks_0/self_attention/norm_q/weight", "head/linear/kernel"}
    np.testing.assert_allclose(merged["blocks_1/ffn/up/bias"], dit["dit/blocks_1/ffn/up/bias"] + bias, rtol=1e-6)
    np.testing.assert_allclose(merged["head/linear/kernel"], dit["dit/head/linear/kernel"] + (up @ down).T, rtol=1e-5)
    both = tensors | {"diffusion_model.head.head.diff": np.zeros((16, 24), np.float32)}
    with pytest.raises(UserError, match="changes lora/head/linear/kernel both by an update of low rank and as it is"):
        lora_of(write_safetensors(tmp_path / "y.safetensors", both))


def _tree(flat):
    tree = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


@pytest.mark.parametrize("names", [(".scale_weight", "scaled_fp8"), (".weight_scale", None)])
@pytest.mark.parametrize("layout", ["wan_original", "umt5_transformers"])
def test_eight_bit_floats_come_with_their_scales(layout, names, tmp_path):
    stored, meant = in_eight_bits(tensors_of(layout, MODEL), *names)
    path = write_safetensors(tmp_path / "x.safetensors", stored)
    equal(params_of(path, layout), expected(meant, layout, tmp_path))
    assert formats.recognise(sources.Source(path), MODEL)[1] == []


def test_eight_bit_floats_without_their_scale_are_refused_and_unscaled_ones_read(tmp_path):
    tensors = {"a.weight": np.ones((2, 2), ml_dtypes.float8_e4m3fn), "b.weight": np.ones((2, 2), np.float16)}
    plain = sources.Source(write_safetensors(tmp_path / "x.safetensors", tensors))
    assert plain.read("a.weight").tolist() == [[1, 1], [1, 1]] and plain.entries["a.weight"].dtype == np.float32
    scaled = tensors | {"scaled_fp8": np.zeros(0, ml_dtypes.float8_e4m3fn)}
    for change, message in (
        ({}, "tensor a.weight is of 8 bits, and its scale is missing"),
        ({"c.scale_weight": np.float32(1)}, "tensor a.weight is of 8 bits, and its scale is missing"),
        ({"a.scale_weight": np.ones(3, np.float32)}, r"3 scales for a\.weight of shape \(2, 2\)"),
        (
            {"a.scale_weight": np.float32(2), "b.scale_weight": np.float32(2)},
            r"b\.scale_weight scales b\.weight, which",
        ),
        ({"a.scale_weight": np.float32(2), "c.scale_weight": np.float32(1)}, "scales a tensor that is not there"),
    ):
        with pytest.raises(UserError, match=message):
            sources.Source(write_safetensors(tmp_path / "y.safetensors", scaled | change)).read("a.weight")


def test_a_tokenizer_among_the_tensors_of_a_text_encoder(tmp_path):
    tensors = tensors_of("umt5_transformers", MODEL)
    model = np.frombuffer(b"sentencepiece", np.uint8)
    source = sources.Source(write_safetensors(tmp_path / "x.safetensors", tensors | {"spiece_model": model}))
    assert source.tokenizer == b"sentencepiece" and source.entries.keys() == tensors.keys()


@pytest.mark.parametrize("layout", ["wan_original", "umt5_gguf"])
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "BF16"])
def test_gguf(layout, kind, tmp_path):
    wide = dataclasses.replace(MODEL, dit=dataclasses.replace(MODEL.dit, dim=32, ffn_dim=64, text_dim=32))
    wide = dataclasses.replace(wide, text=dataclasses.replace(MODEL.text, dim=32, ffn_dim=64, head_dim=16))
    meant = write_gguf(tmp_path / "x.gguf", tensors_of(layout, wide), kind)
    equal(params_of(tmp_path / "x.gguf", layout, wide), expected(meant, layout, tmp_path, wide))
    assert formats.recognise(sources.Source(tmp_path / "x.gguf"), wide)[0] == {FORMATS[layout].part: layout}
    (tmp_path / "y.gguf").write_bytes((tmp_path / "x.gguf").read_bytes()[:5000])
    with pytest.raises(UserError, match=r"y\.gguf: truncated or not a GGUF file"):
        sources.Source(tmp_path / "y.gguf")


def test_depth_anything_by_its_original_names(tmp_path):
    apart = tensors_of("depth_anything_original", MODEL)
    joined = {}
    for name, array in apart.items():
        if ".attn.q." in name:
            stacked = [apart[name.replace(".attn.q.", f".attn.{x}.")] for x in "qkv"]
            joined[name.replace(".attn.q.", ".attn.qkv.")] = np.concatenate(stacked)
        elif not re.search(r"\.attn\.[kv]\.", name):
            joined[name] = array
    path = write_safetensors(tmp_path / "x.safetensors", joined)
    assert "pretrained.blocks.0.attn.qkv.weight" in joined and "depth_head.scratch.refinenet4.out_conv.bias" in joined
    equal(params_of(path, "depth_anything_original"), expected(apart, "depth_anything_original", tmp_path))
    assert formats.recognise(sources.Source(path), MODEL) == ({"depth": "depth_anything_original"}, [])


def test_unknown_tensors_are_told_from_those_of_a_part(tmp_path):
    tensors = tensors_of("wan_diffusers", MODEL) | {"wheel.weight": np.ones(2, np.float32)}
    source = sources.Source(write_safetensors(tmp_path / "x.safetensors", tensors))
    assert formats.recognise(source, MODEL) == ({"dit": "wan_diffusers"}, ["wheel.weight"])


def with_mask(tensors):
    """The patch embedding of one channel of a mask, in place of the code of ones."""
    name = "vace_patch_embedding.weight"
    return tensors | {name: np.ascontiguousarray(tensors[name][:, :5])}


def control_of(path, layout, mask=None):
    model, note = convert.side_control(sources.Source(path), FORMATS[layout], MODEL, mask)
    assert formats.match(sources.Source(path), FORMATS[layout], model)
    return model.segment.control, model.side.control_channels, note


@pytest.mark.parametrize("layout", ["side_release", "side_diffusers"])
def test_a_mask_is_that_of_the_release_unless_told_otherwise(layout, tmp_path):
    path = write_safetensors(tmp_path / "x.safetensors", with_mask(tensors_of(layout, MODEL)))
    control, channels, note = control_of(path, layout)
    assert control == ("readout", "hole") and channels == 5 and "1 where the memory shows nothing" in note
    control, channels, note = control_of(path, layout, "visible")
    assert control == ("readout", "visible") and channels == 5 and "1 where it shows something" in note
    plain = write_safetensors(tmp_path / "y.safetensors", tensors_of(layout, MODEL))
    assert control_of(plain, layout) == (("readout", "ones"), 8, None)
    with pytest.raises(UserError, match=r"--mask: .* has 8 control channels, a mask comes with 5"):
        control_of(plain, layout, "hole")


def test_a_converted_side_branch_runs_on_the_mask_it_was_made_for(tmp_path, monkeypatch):
    monkeypatch.setitem(convert.model_config.PRESETS, "tiny", lambda: MODEL)
    path = write_safetensors(tmp_path / "x.safetensors", with_mask(tensors_of("side_release", MODEL)))
    record = convert.convert(path, "side_release", tmp_path / "model", "tiny")
    assert "(--mask)" in record["note"]
    assert model_files.read_config(tmp_path / "model").segment.control == ("readout", "hole")
    segment = dataclasses.replace(MODEL.segment, control=("readout", "visible"))
    seen = dataclasses.replace(MODEL, segment=segment, side=dataclasses.replace(MODEL.side, control_channels=5))
    (tmp_path / "seen").mkdir()
    (tmp_path / "seen" / "model.json").write_text(seen.to_json())
    with pytest.raises(UserError, match=r"its mask is 1 where the memory shows something; say with --mask"):
        convert.convert(path, "side_release", tmp_path / "seen")


INDEXES = {
    '{"weight_map":{"a":3}}': "says that tensor a is in '3', expected the name of a file by it",
    '{"weight_map":{"a":"../b.safetensors"}}': r"says that tensor a is in '\.\./b\.safetensors', expected the name",
    '{"weight_map":{"a":null}}': "says that tensor a is in 'None'",
    '{"weight_map":{"a":["b"]}}': "says that tensor a is in",
    '{"weight_map":[1, 2]}': "not an index of shards",
    '{"weight_map":3}': "not an index of shards",
    "[]": "not an index of shards",
    "3": "not an index of shards",
    "[" * 100_000: "not an index of shards",
    "\xff\xfe": "not an index of shards",
    '{"weight_map":{"a":"%s"}}' % ("b" * 5000): "names the shard 'b",
}


@pytest.mark.parametrize("text", INDEXES, ids=range(len(INDEXES)))
def test_indexes_with_anything_in_them(text, tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(text.encode("latin-1"))
    for given in (path, tmp_path):
        with pytest.raises(UserError, match=f"index.json: {INDEXES[text]}"):
            sources.Source(given)
