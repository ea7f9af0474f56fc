"""Against JAX's own grouped convolution: values, both gradients, and products of the second derivative."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.models.kernels.convolution import conv_general_dilated

# height and width of the kernel, channels, strides, low and high padding, height, width, batch
CASES = [
  (3, 3, 4, (1, 1), (1, 1), 6, 7, 3),
  (3, 3, 4, (2, 2), (1, 1), 6, 7, 3),
  (3, 3, 4, (2, 2), (0, 1), 6, 6, 3),  # TensorFlow's SAME
  (5, 5, 4, (1, 1), (2, 2), 8, 7, 2),
  (5, 5, 4, (2, 2), (2, 2), 7, 8, 2),
  (5, 5, 4, (2, 2), (2, 2), 2, 1, 2),  # a map smaller than the kernel
  (5, 3, 4, (3, 1), (2, 1), 8, 8, 2),
  (1, 2, 4, (3, 3), (0, 0), 8, 7, 2),  # rows and columns that no window reaches
  (2, 2, 1, (1, 1), (0, 0), 4, 4, 2),
]


def plain(x, kernel, strides, padding):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    strides,
    padding,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=x.shape[-1],
  )


def ours(x, kernel, strides, padding):
  return conv_general_dilated(x, kernel, strides, padding, feature_group_count=x.shape[-1])


def problem(case):
  *sizes, channels, strides, edges, height, width, batch = case
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((batch, height, width, channels)), jnp.float32)
  kernel = jnp.asarray(rng.standard_normal((*sizes, 1, channels)), jnp.float32)

  def loss(convolve):
    return lambda x, kernel: jnp.sum(jnp.sin(convolve(x, kernel, strides, (edges, edges))))

  return x, kernel, loss


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_it_is_exported_for_any_batch(strides):
  """The batch is a symbol while a program is exported: it has a shape, and no length."""
  kernel = jnp.ones((3, 3, 1, 4))
  program = jax.jit(lambda x: ours(x, kernel, strides, ((1, 1), (1, 1))))
  (batch,) = jax.export.symbolic_shape("b")
  exported = jax.export.export(program)(jax.ShapeDtypeStruct((batch, 6, 6, 4), jnp.float32))
  for size in (1, 5):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((size, 6, 6, 4)), jnp.float32)
    np.testing.assert_allclose(exported.call(x), program(x), rtol=1e-6)


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

  for mine, theirs in zip(
    jax.tree.leaves(jax.jit(everything, static_argnums=0)(ours)),
    jax.tree.leaves(jax.jit(everything, static_argnums=0)(plain)),
    strict=True,
  ):
    assert_close(mine, theirs)


def test_named_padding_is_jax_s_own():
  x, kernel, _ = problem(CASES[1])
  assert_close(ours(x, kernel, (2, 2), "SAME"), plain(x, kernel, (2, 2), "SAME"))
  assert_close(ours(x, kernel, (2, 2), "VALID"), plain(x, kernel, (2, 2), "VALID"))


def test_images_split_over_devices_give_the_same_gradients():
  x, kernel, loss = problem((3, 3, 8, (2, 2), (1, 1), 8, 8, 64))
  mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  split = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
  gradient = jax.jit(jax.grad(loss(ours), argnums=(0, 1)))
  jax.tree.map(assert_close, gradient(split, kernel), gradient(x, kernel))
  text = gradient.lower(split, kernel).compile().as_text()
  assert "all-gather" not in text  # no image leaves its device
  assert "all-to-all" not in text
