"""Against Flax's own normalisation: values, statistics, gradients, and products of the second derivative."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.models.kernels.norms import BatchNorm, LayerNorm

X = jnp.asarray(np.random.default_rng(0).standard_normal((8, 5, 6, 7)) * 2 + 0.5, jnp.float32)
DIRECTION = jnp.cos(3 * X)


def scales(variables):
  """The variables with scales and biases that are not 1 and 0."""
  return jax.tree.map(lambda leaf: leaf + jnp.linspace(0.1, 0.4, leaf.size), variables)


def assert_close(ours, theirs):
  np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5 * float(jnp.max(jnp.abs(theirs))))


def everything(layer, variables):
  """Gradients for parameters and input, value and statistics, and the forward derivatives of both."""

  def loss(params, x):
    y, moved = layer.apply({**variables, "params": params}, x, mutable=["batch_stats"])
    return jnp.sum(jnp.sin(y)), (y, moved)

  gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
  at = (variables["params"], X)
  along = (jax.tree.map(jnp.cos, variables["params"]), DIRECTION)
  bare = jax.jvp(lambda *a: loss(*a)[1], at, along)
  return jax.jvp(lambda *a: gradient(*a)[0], at, along), bare


@pytest.mark.parametrize(
  ("ours", "theirs"),
  [
    (BatchNorm(use_running_average=False), nn.BatchNorm(use_running_average=False)),
    (BatchNorm(use_running_average=False, momentum=0.5, epsilon=0.1), None),
    (BatchNorm(use_running_average=True), nn.BatchNorm(use_running_average=True)),
    (LayerNorm(epsilon=1e-6), nn.LayerNorm(epsilon=1e-6, use_fast_variance=False)),
    (LayerNorm(epsilon=0.1), nn.LayerNorm(epsilon=0.1, use_fast_variance=False)),
  ],
  ids=["batch", "batch-epsilon", "stored", "layer", "layer-epsilon"],
)
def test_all_derivatives_are_those_of_flax(ours, theirs):
  theirs = theirs or nn.BatchNorm(use_running_average=False, momentum=0.5, epsilon=0.1)
  variables = scales(theirs.init(jax.random.key(0), X))
  jax.tree.map(
    assert_close, *(jax.jit(everything, static_argnums=0)(layer, variables) for layer in (ours, theirs))
  )
  fresh = ours.init(jax.random.key(0), X)
  jax.tree.map(np.testing.assert_array_equal, fresh, theirs.init(jax.random.key(0), X))


def test_bfloat16_is_left_to_flax():
  x = X.astype(jnp.bfloat16)
  ours, theirs = (cls(use_running_average=False, dtype=jnp.bfloat16) for cls in (BatchNorm, nn.BatchNorm))
  variables = theirs.init(jax.random.key(0), x)
  both = (layer.apply(variables, x, mutable=["batch_stats"]) for layer in (ours, theirs))
  jax.tree.map(np.testing.assert_array_equal, *both)


def test_a_constant_channel_has_no_gradient_that_is_not_finite():
  x = jnp.full((4, 3, 3, 2), 7.0)
  layer = BatchNorm(use_running_average=False)
  variables = layer.init(jax.random.key(0), x)
  loss = lambda x: jnp.sum(jnp.sin(layer.apply(variables, x, mutable=["batch_stats"])[0]))  # noqa: E731
  assert jnp.isfinite(jax.grad(loss)(x)).all()
