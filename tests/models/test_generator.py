"""The generator: side branch neutral at the start, masks, layout, full-size parameter count."""

import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.errors import UserError
from mirage_jax.models.dit import WAN22_TI2V_5B, DiTConfig
from mirage_jax.models.generator import Generator
from mirage_jax.models.side_branch import Refine, SideBranchConfig, hinted_blocks, side_params_from_dit

DIT = DiTConfig(dim=24, ffn_dim=32, heads=2, layers=1, in_channels=4, freq_dim=16)
SIDE = SideBranchConfig(control_channels=5, refine=8)
SMALL = Generator(DIT, SIDE)
DEEP = Generator(dataclasses.replace(DIT, layers=3), SIDE)
TARGET, PRECEDING, REFERENCE, GRID = 3, 2, 2, (4, 6)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def segment(**changes):
    return {
        "target": normal(1, TARGET, *GRID, 4),
        "timesteps": jnp.array([0.0, 500.0, 700.0]),
        "preceding": normal(2, PRECEDING, *GRID, 4),
        "reference": normal(3, REFERENCE, *GRID, 4),
        "preceding_valid": jnp.ones(PRECEDING, bool),
        "reference_valid": jnp.ones(REFERENCE, bool),
        "control": normal(4, TARGET + PRECEDING, *GRID, 5),
        **changes,
    }


@functools.cache
def initial(generator=SMALL):
    return jax.jit(generator.init)(jax.random.key(0), **segment())["params"]


def randomised(params, seed=5):
    """The same tree, noise added to every leaf, so that nothing is zero by initialisation."""
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    return tree.unflatten([x + np.float32(0.3) * rng.standard_normal(x.shape, np.float32) for x in leaves])


@functools.partial(jax.jit, static_argnames="generator")
def apply(params, inputs, generator=SMALL):
    return generator.apply({"params": params}, **inputs)


@functools.partial(jax.jit, static_argnames="generator")
def gradient(params, inputs, generator=SMALL):
    return jax.grad(lambda p: jnp.sum(generator.apply({"params": p}, **inputs) ** 2))(params)


@pytest.mark.skipif(
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1", reason="a test of last bits: end of `make test` runs it"
)
def test_side_branch_at_initialisation_changes_not_one_bit():
    dit = randomised(initial(DEEP)["dit"])
    params = {"dit": dit, "side": side_params_from_dit(dit, initial(DEEP)["side"], every=2)}
    without = segment()
    del without["control"]
    expected = apply(params, without, DEEP)
    assert np.asarray(expected).any()
    np.testing.assert_array_equal(apply(params, segment(), DEEP), expected)
    # Not because the branch were cut off: with its ways out open, it matters.
    opened = {"dit": dit, "side": randomised(params["side"])}
    assert jnp.abs(apply(opened, segment(), DEEP) - expected).max() > 0.01


def test_a_fresh_side_branch_learns():
    """At the start gradients reach every way out of the branch."""
    found = gradient({"dit": randomised(initial()["dit"]), "side": initial()["side"]}, segment())["side"]
    assert jnp.abs(found["blocks_0"]["hint"]["kernel"]).max() > 0


def test_side_parameters_are_copies_of_every_second_block():
    params = initial(DEEP)
    copied = side_params_from_dit(params["dit"], params["side"], every=2)
    assert jax.tree.structure(copied) == jax.tree.structure(params["side"])
    for ours, theirs in ((0, 0), (1, 2)):
        jax.tree.map(
            np.testing.assert_array_equal, copied[f"blocks_{ours}"]["block"], params["dit"][f"blocks_{theirs}"]
        )
    assert not np.asarray(copied["blocks_1"]["hint"]["kernel"]).any()


def test_a_hint_goes_to_every_nth_block():
    side = dataclasses.replace(DEEP.side, every=3)
    assert list(hinted_blocks(dataclasses.replace(DEEP.dit, layers=10), side)) == [0, 3, 6, 9]
    params = initial(Generator(dataclasses.replace(DEEP.dit, layers=4), side))
    assert {name for name in params["side"] if name.startswith("blocks_")} == {"blocks_0", "blocks_1"}
    copied = side_params_from_dit(params["dit"], params["side"], every=3)
    jax.tree.map(np.testing.assert_array_equal, copied["blocks_1"]["block"], params["dit"]["blocks_3"])
    with pytest.raises(UserError, match="every must be at least 1, found 0"):
        dataclasses.replace(side, every=0)


def test_refining_changes_the_readout_alone_frame_by_frame_and_sees_all_channels():
    module, control = Refine(8, 4, jnp.float32), segment()["control"]
    fresh = module.init(jax.random.key(0), control)
    np.testing.assert_array_equal(module.apply(fresh, control)[0], control)
    params = randomised(fresh)
    refined, features = module.apply(params, control)
    assert features.shape == (*control.shape[:3], 8)
    np.testing.assert_array_equal(refined[..., 4:], control[..., 4:])
    assert (np.abs(refined - control)[..., :4].max((1, 2, 3)) > 0.01).all()
    other, _ = module.apply(params, control.at[1, ..., 4].add(1.0))
    assert [bool((a != b).any()) for a, b in zip(refined, other, strict=True)] == [False, True, False, False, False]


BEGINS = Generator(
    dataclasses.replace(DIT, layers=2, prediction="sample", paint=8),
    SideBranchConfig(control_channels=5, refine=8, identity=True),
)


def test_a_fresh_generator_with_identity_gives_the_readout_itself():
    inputs = segment()
    params = initial(BEGINS)
    np.testing.assert_array_equal(apply(params, inputs, BEGINS), inputs["control"][:TARGET, ..., :4])
    # And every part that is added to it learns.
    found = gradient(params, inputs, BEGINS)
    for part in (
        found["dit"]["head"]["linear"],
        found["dit"]["paint"]["conv_out"],
        found["side"]["refine"]["conv_out"],
    ):
        assert jnp.abs(part["kernel"]).max() > 0
    moved = randomised(params)
    found = gradient(moved, inputs, BEGINS)
    assert all(jnp.abs(found["side"][part]["kernel"]).max() > 0 for part in ("patch_embedding", "paint_hint"))


def test_paint_finishes_each_frame_with_its_own_noise_and_hint():
    params, inputs = randomised(initial(BEGINS)), segment()
    whole = apply(params, inputs, BEGINS)
    without = {"dit": params["dit"], "side": {**params["side"], "paint_hint": initial(BEGINS)["side"]["paint_hint"]}}
    assert (jnp.abs(whole - apply(without, inputs, BEGINS)).max((1, 2, 3)) > 0.01).all()
    alone = {key: value for key, value in inputs.items() if key != "control"}
    unpainted = {"dit": {**params["dit"], "paint": initial(BEGINS)["dit"]["paint"]}, "side": params["side"]}
    assert (jnp.abs(apply(params, alone, BEGINS) - apply(unpainted, alone, BEGINS)).max((1, 2, 3)) > 0.01).all()


def test_identity_needs_what_it_stands_on():
    with pytest.raises(UserError, match="identity needs refine"):
        dataclasses.replace(SIDE, refine=0, identity=True)


@pytest.mark.parametrize("garbage", [100.0, np.nan, np.inf])
def test_frames_marked_invalid_have_no_influence(garbage):
    params = randomised(initial())
    masks = {"preceding_valid": jnp.array([True, False]), "reference_valid": jnp.array([False, True])}
    inputs = segment(**masks)
    spoiled = segment(
        **masks,
        preceding=inputs["preceding"].at[1].set(garbage),
        reference=inputs["reference"].at[0].set(garbage),
        control=inputs["control"].at[TARGET + 1].set(garbage),
    )
    expected = apply(params, inputs)
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(apply(params, spoiled), expected)
    assert jnp.abs(apply(params, segment()) - expected).max() > 1e-3


def test_an_invalid_frame_is_the_same_as_one_that_is_not_there():
    params, inputs = randomised(initial()), segment()
    # The last preceding frame and the earliest reference: what remains keeps its place in time.
    masks = {"preceding_valid": jnp.array([True, False]), "reference_valid": jnp.array([False, True])}
    absent = segment(
        preceding=inputs["preceding"][:1],
        reference=inputs["reference"][1:],
        control=inputs["control"][: TARGET + 1],
        preceding_valid=None,
        reference_valid=None,
    )
    np.testing.assert_allclose(apply(params, absent), apply(params, segment(**masks)), atol=1e-5)


def test_gradients_stay_finite_with_nothing_but_invalid_frames():
    inputs = segment(preceding_valid=jnp.zeros(2, bool), reference_valid=jnp.zeros(2, bool))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient(randomised(initial()), inputs)))


def test_no_preceding_and_no_reference_frames():
    params = randomised(initial())
    alone = {"target": segment()["target"], "timesteps": segment()["timesteps"]}
    empty = {**alone, "preceding": jnp.zeros((0, *GRID, 4)), "reference": jnp.zeros((0, *GRID, 4))}
    masked = segment(preceding_valid=jnp.zeros(2, bool), reference_valid=jnp.zeros(2, bool))
    del masked["control"]
    assert apply(params, alone).shape == (TARGET, *GRID, 4)
    np.testing.assert_array_equal(apply(params, empty), apply(params, alone))
    np.testing.assert_allclose(apply(params, masked), apply(params, alone), atol=1e-5)


def test_every_frame_of_every_input_matters():
    params = randomised(initial())
    expected = apply(params, segment())
    for name in ("target", "timesteps", "preceding", "reference", "control"):
        value = segment()[name]
        for frame in range(len(value)):
            changed = segment(**{name: value.at[frame].add(1.0)})
            assert jnp.abs(apply(params, changed) - expected).max() > 1e-6, (name, frame)


def test_timestep_of_a_frame_reaches_others_only_through_attention():
    """With self-attention silenced, a frame's output depends on its own timestep alone."""
    params = randomised(initial())
    for block in (params["dit"]["blocks_0"], params["side"]["blocks_0"]["block"]):
        block["self_attention"]["o"] = jax.tree.map(jnp.zeros_like, block["self_attention"]["o"])
    changed = segment(timesteps=segment()["timesteps"].at[1].set(20.0))
    difference = jnp.abs(apply(params, changed) - apply(params, segment())).max(axis=(1, 2, 3))
    assert difference[1] > 1e-3
    np.testing.assert_array_equal(difference[np.array([0, 2])], 0)


def test_vmap_is_the_batch():
    params = randomised(initial())
    samples = [segment(), segment(target=normal(7, TARGET, *GRID, 4), reference_valid=jnp.array([True, False]))]
    together = jax.vmap(lambda inputs: apply(params, inputs))(jax.tree.map(lambda *x: jnp.stack(x), *samples))
    for found, sample in zip(together, samples, strict=True):
        np.testing.assert_allclose(found, apply(params, sample), atol=2e-5)


def test_text_and_recomputation():
    config = dataclasses.replace(DIT, text_dim=6, text_tokens=3)
    inputs = {"target": segment()["target"], "timesteps": segment()["timesteps"], "text": normal(9, 3, 6)}
    generator = Generator(config)
    params = randomised(jax.jit(generator.init)(jax.random.key(0), **inputs)["params"])
    found = gradient(params, inputs, generator)
    changed = gradient(params, {**inputs, "text": inputs["text"] + 1}, generator)
    kernel = ("dit", "head", "linear", "kernel")
    assert np.abs(np.subtract(*(functools.reduce(dict.get, kernel, tree) for tree in (found, changed)))).max() > 1e-3
    for remat in ("full", "dots_no_batch"):
        again = gradient(params, inputs, Generator(dataclasses.replace(config, remat=remat)))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), found, again)


def test_wrong_inputs_are_named():
    params = {"params": initial()}
    with pytest.raises(ValueError, match="without a side branch"):
        Generator(DIT).apply({"params": {"dit": initial()["dit"]}}, **segment())
    with pytest.raises(ValueError, match=r"text embedding has shape \(3, 6\), the model takes None"):
        SMALL.apply(params, **segment(text=normal(9, 3, 6)))
    with pytest.raises(AssertionError):
        SMALL.apply(params, **segment(control=segment()["control"][:-1]))


def test_wan22_ti2v_5b_is_a_config():
    """The full-size model has exactly the published number of parameters."""
    generator = Generator(WAN22_TI2V_5B, SideBranchConfig(control_channels=96))
    inputs = {
        "target": jax.ShapeDtypeStruct((1, 2, 2, 48), jnp.float32),
        "timesteps": jax.ShapeDtypeStruct((1,), jnp.float32),
        "control": jax.ShapeDtypeStruct((1, 2, 2, 96), jnp.float32),
        "text": jax.ShapeDtypeStruct((512, 4096), jnp.float32),
    }
    params = jax.eval_shape(generator.init, jax.random.key(0), **inputs)["params"]
    count = {part: sum(leaf.size for leaf in jax.tree.leaves(tree)) for part, tree in params.items()}
    assert count["dit"] == 4_999_787_712
    block = sum(leaf.size for leaf in jax.tree.leaves(params["dit"]["blocks_0"]))
    square = 3072 * 3072 + 3072
    assert count["side"] == 15 * (block + square) + square + (4 * 96 * 3072 + 3072)
