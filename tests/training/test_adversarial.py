"""The discriminator: each side of the game moves its own parameters, and it learns to tell what differs."""

import jax
import jax.numpy as jnp
import optax

from mirage_jax.training import adversarial


def test_each_loss_moves_its_own_side_only():
    params = adversarial.init(jax.random.key(0), channels=6)
    shown, truth = (jax.random.normal(jax.random.key(i), (1, 16, 16, 6)) for i in (1, 2))

    def moved(name):
        found = jax.grad(lambda p, x: adversarial.losses(p, x, truth)[name], argnums=(0, 1))(params, shown)
        return [sum(float(jnp.abs(x).sum()) for x in jax.tree.leaves(tree)) > 0 for tree in found]

    assert moved("adversarial") == [False, True]
    assert moved("discriminator") == [True, False]


def test_it_learns_to_tell_smooth_from_rough():
    params = adversarial.init(jax.random.key(0))
    rough = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    smooth = jnp.broadcast_to(rough.mean((1, 2), keepdims=True), rough.shape)
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, state):
        loss = lambda p: adversarial.losses(p, smooth, rough)["discriminator"]  # noqa: E731
        value, slope = jax.value_and_grad(loss)(params)
        change, state = optimizer.update(slope, state)
        return optax.apply_updates(params, change), state, value

    state, first = optimizer.init(params), None
    for _ in range(40):
        params, state, value = step(params, state)
        first = value if first is None else first
    assert first > 1.0 and value < 0.3
    found = adversarial.losses(params, smooth, rough)
    assert found["adversarial"] > 0.5  # what is smooth does not pass
