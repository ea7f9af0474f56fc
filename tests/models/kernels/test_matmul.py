"""Against JAX's own products and attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.models.kernels.matmul import attention, dot_general

RNG = np.random.default_rng(0)


def assert_close(ours, theirs):
  np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * float(jnp.max(jnp.abs(theirs))))


def everything(function, arguments):
  """Value, gradients, their forward derivative and that of the value."""
  directions = jax.tree.map(jnp.cos, arguments)
  loss = lambda *a: jnp.sum(jnp.sin(function(*a)))  # noqa: E731
  gradient = jax.grad(loss, argnums=tuple(range(len(arguments))))
  return jax.jvp(gradient, arguments, directions), jax.jvp(function, arguments, directions)


@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 4), (2, 3, 1, 4)], ids=str)
def test_a_dense_layer_s_product(shape):
  x, kernel = (jnp.asarray(RNG.standard_normal(s), jnp.float32) for s in (shape, (4, 6)))
  numbers = (((x.ndim - 1,), (0,)), ((), ()))
  ours = everything(lambda x, kernel: dot_general(x, kernel, numbers), (x, kernel))
  theirs = everything(lambda x, kernel: jax.lax.dot_general(x, kernel, numbers), (x, kernel))
  jax.tree.map(assert_close, ours, theirs)


@pytest.mark.parametrize("causal", [False, True])
def test_attention(causal):
  qkv = jnp.asarray(RNG.standard_normal((2, 7, 3, 4, 8)), jnp.float32)

  def plain(qkv):
    query, key, value = (qkv[:, :, i] for i in range(3))
    return jax.nn.dot_product_attention(query, key, value, is_causal=causal, implementation="xla")

  ours = everything(lambda qkv: attention(qkv, causal=causal), (qkv,))
  jax.tree.map(assert_close, ours, everything(plain, (qkv,)))


def test_images_split_over_devices_stay_there():
  qkv = jnp.asarray(RNG.standard_normal((16, 7, 3, 4, 8)), jnp.float32)
  kernel = jnp.asarray(RNG.standard_normal((8, 8)), jnp.float32)
  mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  split = jax.device_put(qkv, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))

  def loss(kernel, qkv):
    mixed = attention(qkv, causal=False)
    return jnp.sum(jnp.sin(dot_general(mixed, kernel, (((3,), (0,)), ((), ())))))

  gradient = jax.jit(jax.grad(loss))
  assert_close(gradient(kernel, split), gradient(kernel, qkv))
  text = gradient.lower(kernel, split).compile().as_text()
  assert "all-gather" not in text
  assert "all-to-all" not in text
