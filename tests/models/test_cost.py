"""The count of the arithmetic against hand counts, and against published numbers of whole networks."""

import jax
import jax.numpy as jnp
import pytest

from jaxtl.errors import ConfigError
from jaxtl.models.cost import multiply_accumulates
from jaxtl.models.kernels.backend import is_cpu, portable
from jaxtl.models.kernels.convolution import conv_general_dilated


def image(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.mark.parametrize(
  ("channels", "features", "groups", "stride"), [(3, 8, 1, 1), (16, 4, 1, 2), (8, 8, 8, 1), (8, 8, 8, 2)]
)
def test_a_convolution_has_kernel_times_outputs(channels, features, groups, stride):
  def run(x, kernel):
    return conv_general_dilated(x, kernel, (stride, stride), "SAME", feature_group_count=groups)

  kernel = image(3, 3, channels // groups, features)
  outputs = 2 * (12 // stride) ** 2 * features
  expected = outputs * 9 * channels // groups
  assert multiply_accumulates(run, image(2, 12, 12, channels), kernel) == expected


def test_a_product_has_rows_times_inner_times_columns():
  assert multiply_accumulates(jnp.matmul, image(5, 7, 3), image(5, 3, 2)) == 5 * 7 * 3 * 2
  assert multiply_accumulates(lambda x: x * x + 1, image(5, 7)) == 0


def test_a_loop_counts_every_step_and_a_choice_its_longer_branch():
  def chain(x, kernel):
    return jax.lax.scan(lambda h, _: (h @ kernel, None), x, length=4)[0]

  def choose(x, kernel):
    return jax.lax.cond(x[0, 0] > 0, lambda: x @ kernel, lambda: x @ kernel @ kernel)

  one = 2 * 3 * 3
  assert multiply_accumulates(chain, image(2, 3), image(3, 3)) == 4 * one
  assert multiply_accumulates(choose, image(2, 3), image(3, 3)) == 2 * one
  assert multiply_accumulates(jax.checkpoint(jax.jit(jnp.dot)), image(2, 3), image(3, 3)) == one


def test_a_loop_of_unknown_length_is_refused():
  def run(x):
    return jax.lax.while_loop(lambda h: h[0, 0] < 9, lambda h: h @ h, x)

  with pytest.raises(ConfigError, match="without a fixed number of steps"):
    multiply_accumulates(run, image(2, 2))


def test_portable_ends_with_its_block():
  before = is_cpu()
  with portable():
    assert not is_cpu()
  assert is_cpu() == before
