"""Against Flax's max pooling: values and gradients, also where values are equal, infinite or not numbers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.models.kernels.pooling import max_pool

# window, stride, padding, height, width
CASES = [
  (3, 2, ((1, 1), (1, 1)), 8, 7),
  (3, 2, "SAME", 8, 7),
  (3, 1, "VALID", 5, 6),
  (2, 2, "VALID", 7, 6),
  (1, 2, ((0, 0), (0, 0)), 4, 4),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_and_gradients_are_flax_s_own_and_the_first_of_equals_has_the_gradient(case, dtype):
  window, stride, padding, height, width = case
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.integers(0, 3, (4, height, width, 5)), dtype)  # many equal values
  ours, backward = jax.vjp(lambda x: max_pool(x, window=window, stride=stride, padding=padding), x)
  theirs, flax_backward = jax.vjp(lambda x: nn.max_pool(x, (window,) * 2, (stride,) * 2, padding), x)
  np.testing.assert_array_equal(ours, theirs)
  grad = jnp.asarray(rng.integers(-4, 5, ours.shape), dtype)
  np.testing.assert_array_equal(backward(grad)[0], flax_backward(grad)[0])


@pytest.mark.parametrize("place", [(0, 0), (1, 2), (2, 1)])
def test_a_value_that_is_no_number_comes_through(place):
  x = jnp.ones((1, 3, 3, 1)).at[0, *place].set(jnp.nan)
  assert jnp.isnan(max_pool(x, window=3, stride=1, padding="VALID")).all()


def test_a_forward_derivative_goes_through():
  x = jnp.arange(16.0).reshape(1, 4, 4, 1)
  pool = lambda x: max_pool(x, window=2, stride=2, padding="VALID")  # noqa: E731
  np.testing.assert_array_equal(jax.jvp(pool, (x,), (x,))[1], pool(x))
