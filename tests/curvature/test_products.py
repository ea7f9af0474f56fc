"""Hessian products against dense Hessians in float64 and against closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import losses, tree
from jaxtl.curvature import hvp, hvp_over_batches
from jaxtl.errors import ConfigError, DataError

smoothed_hinge = functools.partial(losses.multiclass_smoothed_hinge, margin=7.0)


def mlp(params, x):
  return jnp.tanh(x @ params["hidden"] + params["bias"][None, :]) @ params["out"]


def conv_net(params, x):
  x = jax.lax.conv_general_dilated(
    x.reshape(-1, 4, 4, 1), params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  return jnp.mean(jnp.tanh(x), axis=(1, 2)) @ params["out"]


def initial(shapes, seed=0):
  rng = np.random.default_rng(seed)
  return {name: jnp.asarray(0.5 * rng.standard_normal(shape)) for name, shape in shapes.items()}


NETWORKS = {
  "mlp": (mlp, {"hidden": (16, 5), "bias": (5,), "out": (5, 3)}),
  "conv_net": (conv_net, {"kernel": (3, 3, 1, 4), "out": (4, 3)}),
}


def examples(count=12, seed=1):
  rng = np.random.default_rng(seed)
  return {
    "image": jnp.asarray(rng.standard_normal((count, 16))),
    "label": jnp.asarray(rng.integers(0, 3, count)),
  }


def cross_entropy(logits, labels):  # in the type of the logits, for the dense reference in float64
  return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]


def sum_and_count(network, loss, params, batch):
  each = loss(network(params, batch["image"]), batch["label"])
  return each.sum(), jnp.float32(each.size)


def mean_loss(network, loss, batch, params):
  return loss(network(params, batch["image"]), batch["label"]).mean()


def dense_hessian(loss, params):
  flat, unravel = jax.flatten_util.ravel_pytree(params)
  return jax.jit(jax.hessian(lambda x: loss(unravel(x))))(flat)


def batches_of(data, size):
  count = len(data["label"])
  return [jax.tree.map(lambda x, i=i: x[i : i + size], data) for i in range(0, count, size)]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_product_is_that_of_the_dense_hessian(name, dtype):
  with jax.enable_x64(True):
    network, shapes = NETWORKS[name]
    params, data = initial(shapes), examples()
    direction = tree.random_like(jax.random.key(0), params)
    dense = dense_hessian(functools.partial(mean_loss, network, cross_entropy, data), params)
    expected = dense @ jax.flatten_util.ravel_pytree(direction)[0]
    cast = lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x  # noqa: E731
    params, data, direction = (jax.tree.map(cast, x) for x in (params, data, direction))
    product = hvp(functools.partial(mean_loss, network, cross_entropy, data), params)(direction)
    assert jax.tree.map(jnp.dtype, product) == jax.tree.map(jnp.dtype, params)
    rtol = 1e-10 if dtype == "float64" else 1e-4
    flat = jax.flatten_util.ravel_pytree(product)[0]
    np.testing.assert_allclose(flat, expected, rtol=rtol, atol=rtol * float(jnp.abs(expected).max()))


def test_cross_entropy_by_logits_is_the_covariance_of_the_prediction():
  logits = jnp.array([[0.0, 1.0, -2.0, 0.5]])
  for s in (jnp.zeros((1, 4)), logits):
    p = jax.nn.softmax(s[0])
    product = hvp(lambda s: losses.softmax_cross_entropy(s, jnp.array([1])).sum(), s)
    columns = jnp.stack([product(row[None, :])[0] for row in jnp.eye(4)])
    np.testing.assert_allclose(columns, jnp.diag(p) - jnp.outer(p, p), atol=1e-6)


def test_smoothed_hinge_is_flat_beyond_the_margin():
  logits = jnp.array([[9.0, 1.5, -3.0], [0.0, 20.0, 2.0]])
  product = hvp(lambda s: smoothed_hinge(s, jnp.array([0, 1])).sum(), logits)
  assert not np.any(product(jax.random.normal(jax.random.key(0), logits.shape)))


def test_smoothed_hinge_of_a_network_agrees_with_a_dense_hessian():
  network, shapes = NETWORKS["mlp"]
  params, data = initial(shapes), examples()
  loss = functools.partial(mean_loss, network, smoothed_hinge, data)
  flat, unravel = jax.flatten_util.ravel_pytree(params)
  direction = jax.random.normal(jax.random.key(0), flat.shape)
  expected = dense_hessian(loss, params) @ direction
  product = jax.flatten_util.ravel_pytree(hvp(loss, params)(unravel(direction)))[0]
  np.testing.assert_allclose(product, expected, rtol=1e-3, atol=1e-4 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("size", [3, 5, 12])
@pytest.mark.parametrize("as_factory", [False, True])
def test_over_batches_equals_the_product_over_all_examples(size, as_factory):
  network, shapes = NETWORKS["mlp"]
  params, data = initial(shapes), examples()
  direction = tree.random_like(jax.random.key(0), params)
  expected = hvp(functools.partial(mean_loss, network, cross_entropy, data), params)(direction)
  batches = batches_of(data, size)
  loss_fn = functools.partial(sum_and_count, network, cross_entropy)
  matvec = hvp_over_batches(loss_fn, params, (lambda: iter(batches)) if as_factory else batches)
  for _ in range(2):  # the second product sees the batches again
    jax.tree.map(
      lambda found, true: np.testing.assert_allclose(found, true, rtol=1e-4, atol=1e-6),
      matvec(direction),
      expected,
    )


def test_over_batches_compiles_once_for_all_batches_products_and_parameters():
  network, shapes = NETWORKS["mlp"]
  traces = []

  def loss_fn(params, batch):
    traces.append(1)
    return sum_and_count(network, cross_entropy, params, batch)

  batches = batches_of(examples(), 4)
  for seed in range(2):
    matvec = hvp_over_batches(loss_fn, initial(shapes, seed), batches)
    for key in range(3):
      matvec(tree.random_like(jax.random.key(key), initial(shapes)))
  assert len(traces) == 1


def test_sums_in_float32_for_half_precision_parameters():
  params = {"w": jnp.ones(3, jnp.bfloat16)}
  loss_fn = lambda p, scale: (scale * jnp.sum(p["w"].astype(jnp.float32) ** 2), jnp.float32(1))  # noqa: E731
  # 1 + 1000 / 512 in steps of 1 / 512: bfloat16 would stop growing at 1.
  batches = [jnp.float32(1)] + [jnp.float32(1 / 512)] * 1000
  product = hvp_over_batches(loss_fn, params, batches)({"w": jnp.ones(3, jnp.bfloat16)})
  assert product["w"].dtype == jnp.bfloat16
  np.testing.assert_allclose(np.float32(product["w"]), 2 * (1 + 1000 / 512) / 1001, rtol=1e-2)


def test_an_iterator_is_refused_because_one_product_uses_it_up():
  with pytest.raises(ConfigError, match="iterator"):
    hvp_over_batches(lambda p, b: (0.0, 1.0), {}, iter([1]))


def test_no_examples_are_refused():
  with pytest.raises(DataError, match="0 examples"):
    hvp_over_batches(lambda p, b: (jnp.sum(p), 0.0), jnp.ones(2), [])(jnp.ones(2))
