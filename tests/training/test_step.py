"""One step: parts of a batch add up to the whole, and only what is trained has a state."""

import jax
import numpy as np
import pytest
import test_loop
from jax.extend.core import ClosedJaxpr, Jaxpr
from mesh_runs import config, prepare

from mirage_jax.errors import UserError
from mirage_jax.models import dit, partition
from mirage_jax.training import optimizer, stages, step


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("step")
    prepare(path)
    return path


def _one_step(accumulate, **changes):
    """Of the small regression, on 8 examples."""
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(8, 3)).astype(np.float32), "y": rng.normal(size=8).astype(np.float32)}
    stage, chosen = test_loop._stage(), test_loop._config(accumulate=accumulate, **changes)
    transform, mesh = optimizer.make(chosen), partition.make_mesh({"data": 1}, jax.devices()[:1])
    create = jax.jit(lambda key: step.create(stage, transform, key, stage.frozen, stage.start))
    state = create(jax.random.key(0))
    state = state.replace(step=jax.numpy.int32(9))  # past the zero learning rate
    layout, _, _ = step.shardings(stage, transform, mesh)
    return step.make_step(stage, chosen, transform, mesh, layout)(state, stage.frozen, batch, jax.random.key(3))


def test_accumulated_parts_give_what_the_whole_batch_gives():
    (whole, expected), (state, metrics) = _one_step(1), _one_step(4)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, err_msg=name)
    first = [x.optimizer[1][0].mu for x in (state, whole)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *first)
    assert all(np.abs(x).max() > 0.01 for x in jax.tree.leaves(first))


def test_the_first_moment_may_take_half_the_memory_and_moves_the_same():
    (half, found), (whole, expected) = _one_step(1, first_moment_dtype="bfloat16"), _one_step(1)
    moments = half.optimizer[1][0]
    assert {x.dtype.name for x in jax.tree.leaves(moments.mu)} == {"bfloat16"}
    assert {x.dtype.name for x in jax.tree.leaves((moments.nu, half.params))} == {"float32"}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.01), half.params, whole.params)
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-6)


def test_other_types_of_moments_are_refused():
    with pytest.raises(UserError, match="first_moment_dtype must be float32 or bfloat16, found 'int8'"):
        optimizer.make(test_loop._config(first_moment_dtype="int8"))


def test_accumulate_must_divide():
    with pytest.raises(UserError, match="accumulate=3 does not divide the batch of 8"):
        _one_step(3)


def _batch(stage, size):
    return {name: np.asarray(value)[:size] for name, value in next(iter(stage.batches())).items()}


def test_the_loss_of_a_batch_is_the_mean_of_those_of_its_examples(folder):
    """Each with its own key: what accumulation and meshes rest on."""
    stage = stages.make(config(folder, {"data": 1}))
    batch, keys = _batch(stage, 2), jax.random.split(jax.random.key(0), 2)

    @jax.jit
    def losses(start, frozen, batch, keys):
        one_by_one = jax.tree.map(lambda x: x[:, None], (batch, keys))
        whole = stage.loss(start, frozen, batch, keys)
        return whole, jax.lax.map(lambda example: stage.loss(start, frozen, *example), one_by_one)

    whole, apart = losses(stage.start, stage.frozen, batch, keys)
    assert abs(apart[0][0] / apart[0][1] - 1) > 0.01
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b.mean(0), rtol=2e-5), whole, apart)


def _policies(jaxpr):
    """What the backward pass may keep, at every place of a program that says so."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if "policy" in equation.params:
            yield equation.params["policy"]
        for value in equation.params.values():
            if isinstance(value, Jaxpr | ClosedJaxpr):
                yield from _policies(value)


def test_what_is_computed_again_is_the_configs_choice_and_not_the_models(folder):
    def traced(**changes):
        stage = stages.make(config(folder, {"data": 1}, **changes))
        keys = jax.random.split(jax.random.key(0), 1)
        program = jax.make_jaxpr(stage.loss)(stage.start, stage.frozen, _batch(stage, 1), keys)
        return stage, set(_policies(program))

    policy = dit.REMAT["dots_no_batch"]
    assert policy not in traced()[1]
    stage, policies = traced(remat="dots_no_batch")
    assert policy in policies
    assert stage.finish(stage.start, stage.frozen, None)[0].dit.remat == "none"


def test_unknown_remat(folder):
    with pytest.raises(UserError, match="DiT remat must be one of none, full, dots_no_batch, found 'everything'"):
        stages.make(config(folder, {"data": 1}, remat="everything"))


def test_state_holds_only_what_is_trained(folder):
    chosen = config(folder, {"data": 1}, trainable=("side",))
    made, transform = stages.make(chosen), optimizer.make(chosen)
    state = jax.eval_shape(lambda key: step.create(made, transform, key, made.frozen, made.start), jax.random.key(0))
    size = {part: sum(x.size for x in jax.tree.leaves(tree)) for part, tree in made.frozen.items()}
    size["side"] = sum(x.size for x in jax.tree.leaves(state.params["side"]))
    assert set(state.params) == {"side"} and {"dit", "vae", "lora"} <= set(made.frozen)
    held = sum(x.size for x in jax.tree.leaves(state))
    assert 4 * size["side"] <= held < 4 * size["side"] + 8  # parameters, average, two moments, and counters
