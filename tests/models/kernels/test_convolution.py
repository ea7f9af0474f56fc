"""Against JAX's own convolution: values, both gradients, and products of the second derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.models.kernels.convolution import conv_general_dilated

pytestmark = pytest.mark.slow

# kernel, channels in and out, stride, low and high padding, height, width, batch
CASES = [
  (3, 4, 5, 1, (1, 1), 6, 7, 3),
  (3, 4, 5, 2, (1, 1), 6, 7, 3),
  (3, 4, 5, 2, (0, 1), 6, 6, 3),  # TensorFlow's SAME
  (7, 3, 4, 2, (3, 3), 12, 12, 2),
  (7, 3, 4, 2, (3, 3), 5, 9, 2),  # a map smaller than the kernel
  (3, 4, 5, 1, (1, 1), 2, 2, 3),
  (3, 4, 5, 1, (1, 1), 1, 1, 3),
  (3, 4, 5, 2, (1, 1), 3, 3, 3),
  (5, 4, 3, 3, (2, 2), 8, 8, 2),  # rows at the edge that no window reaches
  (2, 4, 3, 1, (0, 0), 4, 4, 2),
  (1, 4, 5, 1, (0, 0), 4, 3, 2),
  (1, 4, 5, 2, (0, 0), 5, 4, 2),
  (1, 4, 5, 1, (1, 1), 3, 3, 2),
  (3, 32, 8, 1, (1, 1), 8, 8, 32),  # summed over parts of the batch
  (3, 32, 8, 1, (1, 1), 8, 8, 24),  # and not: 16 does not divide it
  (3, 12, 16, 1, (1, 1), 6, 7, 3),  # a channel more than asked for
  (3, 16, 8, 2, (1, 1), 7, 6, 3),
  (1, 6, 4, 2, (0, 0), 5, 4, 2),  # fewer channels come out than go in
]


def plain(x, kernel, strides, padding):
  return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def problem(case):
  width, inputs, outputs, stride, edges, *size, batch = case
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((batch, *size, inputs)), jnp.float32)
  # Values about 1: the sine of a large one would magnify its rounding.
  kernel = jnp.asarray(rng.standard_normal((width, width, inputs, outputs)), jnp.float32)
  kernel = kernel / (width * inputs**0.5)

  def loss(convolve):
    return lambda x, kernel: jnp.sum(jnp.sin(convolve(x, kernel, (stride, stride), (edges, edges))))

  return x, kernel, loss


def assert_close(ours, theirs):
  scale = float(jnp.max(jnp.abs(theirs)))
  np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_value_gradients_and_hessian_products_are_jax_s_own(case):
  x, kernel, loss = problem(case)
  directions = (jnp.cos(x), jnp.sin(kernel))

  def everything(convolve):
    grad = jax.grad(loss(convolve), argnums=(0, 1))
    return loss(convolve)(x, kernel), *jax.jvp(grad, (x, kernel), directions)

  for ours, theirs in zip(
    jax.tree.leaves(jax.jit(everything, static_argnums=0)(conv_general_dilated)),
    jax.tree.leaves(jax.jit(everything, static_argnums=0)(plain)),
    strict=True,
  ):
    assert_close(ours, theirs)


def test_groups_dilation_and_bfloat16_are_left_to_jax():
  x, kernel, _ = problem(CASES[0])
  grouped = dict(feature_group_count=2, dimension_numbers=("NHWC", "HWIO", "NHWC"))
  for arguments, keywords in (
    ((x, kernel[:, :, :2, :4], (1, 1), ((1, 1), (1, 1))), grouped),
    ((x, kernel, (1, 1), ((2, 2), (2, 2))), dict(rhs_dilation=(2, 2))),
    ((x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), (1, 1), "SAME"), {}),
  ):
    theirs = jax.lax.conv_general_dilated(
      *arguments, **{"dimension_numbers": ("NHWC", "HWIO", "NHWC"), **keywords}
    )
    np.testing.assert_array_equal(conv_general_dilated(*arguments, **keywords), theirs)


def test_a_forward_derivative_is_had_by_transposing_the_backward_one():
  x, kernel, _ = problem(CASES[1])
  ours = lambda kernel: conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)))  # noqa: E731
  value, backward = jax.vjp(ours, kernel)
  (tangent,) = jax.linear_transpose(lambda u: backward(u)[0], value)(jnp.sin(kernel))
  expected = jax.jvp(lambda k: plain(x, k, (2, 2), ((1, 1), (1, 1))), (kernel,), (jnp.sin(kernel),))[1]
  assert_close(tangent, expected)


def test_images_split_over_devices_give_the_same_gradient():
  x, kernel, loss = problem((3, 32, 8, 1, (1, 1), 8, 8, 64))
  mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  split = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
  gradient = jax.jit(jax.grad(loss(conv_general_dilated), argnums=1))
  assert_close(gradient(split, kernel), gradient(x, kernel))
  text = gradient.lower(split, kernel).compile().as_text()
  assert "all-gather" not in text  # no image leaves its device
  assert "all-to-all" not in text
