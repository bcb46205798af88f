"""One step: parts of a batch add up to the whole, and only what is trained has a state."""

import jax
import numpy as np
import pytest
from mesh_runs import config, prepare

from mirage_jax.errors import UserError
from mirage_jax.models import partition
from mirage_jax.training import optimizer, stages, step


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("step")
    prepare(path)
    return path


def _one_step(folder, **changes):
    chosen = config(folder, {"data": 1}, **changes)
    made, transform = stages.make(chosen), optimizer.make(chosen)
    mesh = partition.make_mesh({"data": 1}, jax.devices()[:1])
    state = jax.jit(lambda key: step.create(made, transform, key, made.frozen, made.start))(jax.random.key(0))
    state = state.replace(step=jax.numpy.int32(9))  # past the zero learning rate
    batch = {name: np.asarray(value) for name, value in next(iter(made.batches())).items()}
    layout, _, _ = step.shardings(made, chosen, transform, mesh)
    return step.make_step(made, chosen, transform, mesh, layout)(state, made.frozen, batch, jax.random.key(3))


@pytest.fixture(scope="module")
def whole(folder):
    return _one_step(folder)


def test_accumulated_parts_give_what_the_whole_batch_gives(folder, whole):
    state, metrics = _one_step(folder, accumulate=4)
    for name, value in whole[1].items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, err_msg=name)
    first = [x.optimizer[1][0].mu for x in (state, whole[0])]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max() + 1e-9), *first)


def test_what_is_computed_again_is_the_same(folder, whole):
    _, metrics = _one_step(folder, remat="dots_no_batch")
    np.testing.assert_allclose(metrics["grad_norm"], whole[1]["grad_norm"], rtol=1e-5)


def test_state_holds_only_what_is_trained(folder):
    chosen = config(folder, {"data": 1}, trainable=("side",))
    made, transform = stages.make(chosen), optimizer.make(chosen)
    state = jax.eval_shape(lambda key: step.create(made, transform, key, made.frozen, made.start), jax.random.key(0))
    size = {part: sum(x.size for x in jax.tree.leaves(tree)) for part, tree in made.frozen.items()}
    size["side"] = sum(x.size for x in jax.tree.leaves(state.params["side"]))
    assert set(state.params) == {"side"} and {"dit", "vae", "lora"} <= set(made.frozen)
    held = sum(x.size for x in jax.tree.leaves(state))
    assert 4 * size["side"] <= held < 4 * size["side"] + 8  # parameters, average, two moments, and counters


def test_accumulate_must_divide(folder):
    with pytest.raises(UserError, match="accumulate=3 does not divide the batch of 8"):
        _one_step(folder, accumulate=3)


def test_unknown_remat(folder):
    with pytest.raises(UserError, match="DiT remat must be one of none, full, dots_no_batch, found 'everything'"):
        stages.make(config(folder, {"data": 1}, remat="everything"))
