"""A stored parameter is read without its initialiser, and an initialiser is traced once per shape."""

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.models.parameters import Dense, traced_once

NORMAL = nn.initializers.normal(0.5)


def counted():
  """An initialiser, and the shapes at which it was called."""
  calls = []

  def init(key, shape, dtype):
    calls.append(shape)
    return NORMAL(key, shape, dtype)

  return init, calls


def test_the_layer_is_that_of_flax():
  x, key = jnp.ones((2, 3)), jax.random.key(0)
  ours, theirs = Dense(4, kernel_init=NORMAL), nn.Dense(4, kernel_init=NORMAL)
  variables = theirs.init(key, x)
  jax.tree.map(np.testing.assert_array_equal, ours.init(key, x), variables)
  np.testing.assert_array_equal(ours.apply(variables, x), theirs.apply(variables, x))


def test_a_stored_parameter_is_not_drawn_again():
  init, calls = counted()
  layer, x = Dense(4, kernel_init=init), jnp.ones((2, 3))
  variables = layer.init(jax.random.key(0), x)
  assert calls == [(3, 4)]
  layer.apply(variables, x)
  assert calls == [(3, 4)]


def test_a_stored_parameter_of_another_shape_is_refused():
  layer = Dense(4)
  variables = layer.init(jax.random.key(0), jnp.ones((2, 3)))
  with pytest.raises(flax.errors.ScopeParamShapeError, match="kernel"):
    layer.apply(variables, jnp.ones((2, 5)))


def test_an_initialiser_is_traced_once_per_shape():
  init, calls = counted()
  once = traced_once(init)
  for seed in (0, 1):
    for shape in ((2, 3), [4, 5]):
      key = jax.random.key(seed)
      np.testing.assert_array_equal(once(key, shape), NORMAL(key, shape, jnp.float32))
  assert calls == [(2, 3), (4, 5)]
