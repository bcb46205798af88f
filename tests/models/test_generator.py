"""The generator: side branch neutral at the start, masks, layout, full-size parameter count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.models.dit import WAN22_TI2V_5B, DiTConfig
from mirage_jax.models.generator import Generator
from mirage_jax.models.side_branch import WAN22_TI2V_5B_SIDE, SideBranchConfig, side_params_from_dit

DIT = DiTConfig(dim=24, ffn_dim=32, heads=2, layers=3, in_channels=4, freq_dim=16)
SIDE = SideBranchConfig(control_channels=5, output_hint=True)
GENERATOR = Generator(DIT, SIDE)
TARGET, PRECEDING, REFERENCE, GRID = 3, 2, 2, (4, 6)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def segment():
    return {
        "target": normal(1, TARGET, *GRID, 4),
        "timesteps": jnp.array([0.0, 500.0, 700.0]),
        "preceding": normal(2, PRECEDING, *GRID, 4),
        "reference": normal(3, REFERENCE, *GRID, 4),
        "control": normal(4, TARGET + PRECEDING, *GRID, 5),
    }


@functools.cache
def initial():
    return jax.jit(GENERATOR.init)(jax.random.key(0), **segment())["params"]


def randomised(params, seed=5):
    """The same tree, noise added to every leaf, so that nothing is zero by initialisation."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return tree.unflatten([x + 0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])


@functools.partial(jax.jit, static_argnames="generator")
def apply(params, inputs, generator=GENERATOR):
    return generator.apply({"params": params}, **inputs)


def test_side_branch_at_initialisation_changes_not_one_bit():
    params = {"dit": randomised(initial()["dit"]), "side": initial()["side"]}
    params["side"] = side_params_from_dit(params["dit"], params["side"])
    without = {name: value for name, value in segment().items() if name != "control"}
    expected = apply(params, without)
    assert np.asarray(expected).any()
    np.testing.assert_array_equal(apply(params, segment()), expected)
    # Not because the branch were cut off: with its ways out open, it matters.
    assert jnp.abs(apply(randomised(params), segment()) - apply(randomised(params), without)).max() > 0.01


def test_a_fresh_side_branch_learns():
    """At the start gradients reach every way out of the branch."""
    params = {"dit": randomised(initial()["dit"]), "side": initial()["side"]}
    gradient = jax.grad(lambda p: jnp.sum(apply(p, segment()) ** 2))(params)["side"]
    for part in (*(gradient[f"blocks_{i}"]["hint"] for i in range(2)), gradient["output_hint"]):
        assert jnp.abs(part["kernel"]).max() > 0


def test_side_parameters_are_copies_of_every_second_block():
    params = initial()
    copied = side_params_from_dit(params["dit"], params["side"])
    assert jax.tree.structure(copied) == jax.tree.structure(params["side"])
    for ours, theirs in ((0, 0), (1, 2)):
        jax.tree.map(
            np.testing.assert_array_equal, copied[f"blocks_{ours}"]["block"], params["dit"][f"blocks_{theirs}"]
        )
    assert not np.asarray(copied["blocks_1"]["hint"]["kernel"]).any()


def test_output_hint_passes_the_control_of_target_cells_through():
    params = jax.tree.map(jnp.zeros_like, initial())
    kernel = np.zeros((2 * 2 * 5, 2 * 2 * 4), np.float32)
    for cell in range(4):
        kernel[5 * cell : 5 * cell + 4, 4 * cell : 4 * cell + 4] = np.eye(4)
    params["side"]["output_hint"]["kernel"] = jnp.asarray(kernel)
    np.testing.assert_array_equal(apply(params, segment()), segment()["control"][:TARGET, ..., :4])


@pytest.mark.parametrize("garbage", [100.0, np.nan, np.inf])
def test_frames_marked_invalid_have_no_influence(garbage):
    params = randomised(initial())
    masks = {"preceding_valid": jnp.array([True, False]), "reference_valid": jnp.array([False, True])}
    inputs = {**segment(), **masks}
    spoiled = {
        **inputs,
        "preceding": inputs["preceding"].at[1].set(garbage),
        "reference": inputs["reference"].at[0].set(garbage),
        "control": inputs["control"].at[TARGET + 1].set(garbage),
    }
    expected = apply(params, inputs)
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(apply(params, spoiled), expected)
    # The masks do something, and an invalid frame is the same as one that is not there.
    assert jnp.abs(apply(params, segment()) - expected).max() > 1e-3
    absent = {
        **segment(),
        "preceding": inputs["preceding"][:1],
        "reference": inputs["reference"][1:],
        "control": inputs["control"][: TARGET + 1],
    }
    np.testing.assert_allclose(apply(params, absent), expected, atol=1e-5)


def test_gradients_stay_finite_with_invalid_frames():
    inputs = {**segment(), "preceding_valid": jnp.zeros(2, bool), "reference_valid": jnp.zeros(2, bool)}
    gradient = jax.grad(lambda p: jnp.sum(apply(p, inputs) ** 2))(randomised(initial()))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_no_preceding_and_no_reference_frames():
    params = randomised(initial())
    alone = {"target": segment()["target"], "timesteps": segment()["timesteps"]}
    empty = {**alone, "preceding": jnp.zeros((0, *GRID, 4)), "reference": jnp.zeros((0, *GRID, 4))}
    assert apply(params, alone).shape == (TARGET, *GRID, 4)
    np.testing.assert_array_equal(apply(params, empty), apply(params, alone))
    assert apply(params, {**alone, "control": segment()["control"][:TARGET]}).shape == (TARGET, *GRID, 4)


def test_every_input_matters():
    params = randomised(initial())
    expected = apply(params, segment())
    for name, value in segment().items():
        for frame in range(len(value)):
            changed = {**segment(), name: value.at[frame].add(1.0)}
            assert jnp.abs(apply(params, changed) - expected).max() > 1e-6, (name, frame)


def test_timestep_of_a_frame_reaches_others_only_through_attention():
    """With self-attention silenced, a frame's output depends on its own timestep alone."""
    params = randomised(initial())
    for name in [name for name in params["dit"] if name.startswith("blocks_")]:
        params["dit"][name]["self_attention"]["o"] = jax.tree.map(
            jnp.zeros_like, params["dit"][name]["self_attention"]["o"]
        )
    without = {name: value for name, value in segment().items() if name != "control"}
    changed = {**without, "timesteps": without["timesteps"].at[1].set(20.0)}
    difference = jnp.abs(apply(params, changed) - apply(params, without)).max(axis=(1, 2, 3))
    assert difference[1] > 1e-3
    np.testing.assert_array_equal(difference[np.array([0, 2])], 0)


def test_vmap_is_the_batch():
    params = randomised(initial())
    batch = jax.tree.map(lambda x: jnp.stack([x, x[::-1] if x.ndim > 1 else x]), segment())
    together = jax.vmap(lambda inputs: apply(params, inputs))(batch)
    for index in range(2):
        alone = apply(params, jax.tree.map(lambda x, i=index: x[i], batch))
        np.testing.assert_allclose(together[index], alone, atol=2e-5)


def test_remat_and_text_change_no_interface():
    config = DiTConfig(**{**vars(DIT), "layers": 1, "text_dim": 6, "text_tokens": 3})
    generator = Generator(config, SIDE)
    inputs = {**segment(), "text": normal(9, 3, 6)}
    params = randomised(jax.jit(generator.init)(jax.random.key(0), **inputs)["params"])
    expected = apply(params, inputs, generator)
    assert jnp.abs(apply(params, {**inputs, "text": inputs["text"] + 1}, generator) - expected).max() > 1e-3

    recomputing = Generator(DiTConfig(**{**vars(config), "remat": True}), SIDE)
    gradients = [jax.grad(lambda p, g=g: jnp.sum(apply(p, inputs, g) ** 2))(params) for g in (generator, recomputing)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), *gradients)


def test_wrong_inputs_are_named():
    params = initial()
    with pytest.raises(ValueError, match="without a side branch"):
        Generator(DIT).apply({"params": {"dit": params["dit"]}}, **segment())
    with pytest.raises(ValueError, match=r"text embedding has shape \(3, 6\), the model takes None"):
        GENERATOR.apply({"params": params}, **segment(), text=normal(9, 3, 6))
    with pytest.raises(AssertionError):
        GENERATOR.apply({"params": params}, **{**segment(), "control": segment()["control"][:-1]})


def test_wan22_ti2v_5b_is_a_config():
    """The full-size model has exactly the published number of parameters."""
    generator = Generator(WAN22_TI2V_5B, WAN22_TI2V_5B_SIDE)
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
