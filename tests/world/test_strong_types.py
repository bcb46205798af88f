"""States have types of their own in every leaf: one that comes back from a file runs the program that is compiled."""

import dataclasses

import jax
import pytest
import tiny_world as tiny

from mirage_jax import world
from mirage_jax.world.segment import _segment


@pytest.mark.parametrize("memory, entities", [("latent", 2), ("latent", 0), ("none", 0)])
def test_no_leaf_takes_its_type_from_what_it_meets(memory, entities):
    model = tiny.quick()
    recipe = dataclasses.replace(tiny.RECIPE, entities=entities)
    config = world.WorldConfig(model=model, memory=memory, capacity=1024, bank=4, recipe=recipe)
    params, camera = tiny.parameters(model), tiny.camera()
    begin = lambda params, key: world.init(config, params, tiny.image(), None, camera, key)  # noqa: E731
    begun = jax.eval_shape(begin, params, jax.random.key(0))
    cameras = jax.tree.map(lambda x: x[0, : model.segment_frames], tiny.path("yaw 10", 1))
    go_on = lambda params, state: _segment(config, params, state, cameras, None, None)[0]  # noqa: E731
    for state in (begun, jax.eval_shape(go_on, params, begun)):
        leaves = jax.tree_util.tree_flatten_with_path(state)[0]
        assert not [jax.tree_util.keystr(path) for path, leaf in leaves if getattr(leaf, "weak_type", False)]
