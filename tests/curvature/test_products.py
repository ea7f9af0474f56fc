"""Hessian products against dense Hessians in float64 and against closed forms."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxtl import curvature, losses, models, tree
from jaxtl.curvature import (
  empirical_fisher_over_batches,
  fisher_over_batches,
  ggn_over_batches,
  hvp,
  hvp_over_batches,
  restrict,
)
from jaxtl.errors import ConfigError, InputError
from jaxtl.train import make_mesh, sharding
from tests.curvature import networks

pytestmark = pytest.mark.slow

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
  flat, unravel = ravel_pytree(params)
  return jax.jit(jax.hessian(lambda x: loss(unravel(x))))(flat)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_product_is_that_of_the_dense_hessian(name, dtype):
  with jax.enable_x64(True):
    network, shapes = NETWORKS[name]
    params, data = initial(shapes), examples()
    direction = tree.random_like(jax.random.key(0), params)
    dense = dense_hessian(functools.partial(mean_loss, network, cross_entropy, data), params)
    expected = dense @ ravel_pytree(direction)[0]
    cast = lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x  # noqa: E731
    params, data, direction = (jax.tree.map(cast, x) for x in (params, data, direction))
    product = hvp(functools.partial(mean_loss, network, cross_entropy, data), params)(direction)
    assert jax.tree.map(jnp.dtype, product) == jax.tree.map(jnp.dtype, params)
    rtol = 1e-10 if dtype == "float64" else 1e-4
    flat = ravel_pytree(product)[0]
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
  flat, unravel = ravel_pytree(params)
  direction = jax.random.normal(jax.random.key(0), flat.shape)
  expected = dense_hessian(loss, params) @ direction
  product = ravel_pytree(hvp(loss, params)(unravel(direction)))[0]
  np.testing.assert_allclose(product, expected, rtol=1e-3, atol=1e-4 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("size", [3, 5, 12])
@pytest.mark.parametrize("as_factory", [False, True])
def test_over_batches_equals_the_product_over_all_examples(size, as_factory):
  network, shapes = NETWORKS["mlp"]
  params, data = initial(shapes), examples()
  direction = tree.random_like(jax.random.key(0), params)
  expected = hvp(functools.partial(mean_loss, network, cross_entropy, data), params)(direction)
  batches = networks.batches_of(data, size)
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

  batches = networks.batches_of(examples(), 4)
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


@pytest.mark.parametrize("where", ["^first/", "kernel$", "^second/bias$"])
def test_a_restricted_product_is_the_diagonal_block(where):
  with jax.enable_x64(True):
    loss, params = networks.mean_loss("conv_net", networks.cross_entropy)
    dense = dense_hessian(loss, params)
    marked = jax.tree.map(lambda x, kept: jnp.full(x.shape, kept), params, tree.matches(params, where))
    kept = np.asarray(ravel_pytree(marked)[0], bool)
    part = tree.select(params, where)
    block = networks.columns(restrict(hvp(loss, params), params, where=where), part)
  np.testing.assert_allclose(block, dense[np.ix_(kept, kept)], atol=1e-12)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_by_some_leaves_alone_the_product_is_the_restricted_one(name):
  """For every leaf, and for leaves that are no neighbours."""
  with jax.enable_x64(True):
    _, params = networks.mean_loss(name, networks.cross_entropy)
    loss_fn = networks.sum_and_count(name, networks.cross_entropy)
    batches = networks.batches_of(networks.examples(), 8)
    whole = hvp_over_batches(loss_fn, params, batches)
    for where in [*(f"^{path}$" for path in tree.paths(params)), "^(hidden|first|query|out)", "."]:
      vector = tree.random_like(jax.random.key(0), tree.select(params, where))
      product = hvp_over_batches(loss_fn, params, batches, where=where)(vector)
      expected = restrict(whole, params, where=where)(vector)
      chex.assert_trees_all_close(product, expected, rtol=1e-6, atol=1e-12)
      assert float(tree.norm(expected)) > 1e-6


def test_by_some_leaves_alone_the_others_are_not_differentiated():
  @jax.custom_jvp
  def first_layer(x):
    return jnp.tanh(x)

  @first_layer.defjvp
  def _(primals, tangents):
    raise AssertionError("the first layer was differentiated")

  def loss_fn(params, batch):
    return jnp.sum(jnp.exp(params["second"] * first_layer(params["first"] * batch))), jnp.float32(len(batch))

  params, batches = {"first": jnp.ones(3), "second": jnp.full(3, 0.5)}, [jnp.arange(3.0)]
  product = hvp_over_batches(loss_fn, params, batches, where="second")({"second": jnp.ones(3)})["second"]
  x = np.tanh(np.arange(3))
  np.testing.assert_allclose(product, x**2 * np.exp(0.5 * x) / 3, rtol=1e-6)
  with pytest.raises(AssertionError, match="the first layer was differentiated"):
    hvp_over_batches(loss_fn, params, batches)(params)


def test_a_block_compiles_once_for_all_batches_products_and_parameters():
  network, shapes = NETWORKS["mlp"]
  traces = []

  def loss_fn(params, batch):
    traces.append(1)
    return sum_and_count(network, cross_entropy, params, batch)

  for seed in range(2):
    params = initial(shapes, seed)
    for number, where in enumerate(("hidden", "out"), 1):
      matvec = hvp_over_batches(loss_fn, params, networks.batches_of(examples(), 4), where=where)
      for key in range(3):
        matvec(tree.random_like(jax.random.key(key), tree.select(params, where)))
      assert len(traces) == (2 if seed else number)


@pytest.mark.parametrize(
  "of_block",
  [
    lambda params, where: restrict(lambda v: v, params, where=where),
    lambda params, where: hvp_over_batches(lambda p, b: (0.0, 1.0), params, [1], where=where),
    lambda params, where: ggn_over_batches(lambda p, b: p, lambda z, b: (0.0, 1.0), params, [1], where=where),
  ],
)
@pytest.mark.parametrize(
  ("where", "message"), [("^stage9", "matches no parameter"), ("", "where is an empty text; write a regex")]
)
def test_a_restriction_to_nothing_is_refused(of_block, where, message):
  with pytest.raises(ConfigError, match=message) as error:
    of_block({"kernel": jnp.ones(2)}, where)
  assert "\n" not in str(error.value)


def test_products_over_a_mesh_are_those_of_one_device():
  model = models.resnet8(num_classes=3, width=4)
  rng = np.random.default_rng(0)
  data = {
    "image": rng.standard_normal((48, 8, 8, 3)).astype(np.float32),
    "label": rng.integers(0, 3, 48).astype(np.int32),
  }
  params, stats = model.init(jax.random.key(0), jnp.asarray(data["image"][:1]))
  vector = tree.random_like(jax.random.key(1), params)

  def predict(params, batch):
    return model.apply(params, batch["stats"], batch["image"])[0]["logits"]

  def loss_fn(logits, batch):
    return losses.softmax_cross_entropy(logits, batch["label"]).sum(), jnp.float32(len(batch["label"]))

  def summed(params, batch):
    return loss_fn(predict(params, batch), batch)

  def masked(params, batch):
    return predict(params, batch), jnp.arange(24) < 20

  def each(params, batch):
    return losses.softmax_cross_entropy(predict(params, batch), batch["label"]), jnp.arange(24) < 20

  where = "^(stem|stage2_block1)/"
  of_block = tree.select(vector, where)
  found = {}
  for devices in (1, 8):
    mesh = make_mesh(devices)
    batches = [
      {**sharding.put_batch(b, mesh), "stats": sharding.put_replicated(stats, mesh)}
      for b in networks.batches_of(data, 24)
    ]
    weights = sharding.put_replicated(params, mesh)
    whole = hvp_over_batches(summed, weights, batches)
    found[devices] = [
      jax.device_get(matvec(sharding.put_replicated(v, mesh)))
      for matvec, v in (
        (whole, vector),
        (ggn_over_batches(predict, loss_fn, weights, batches), vector),
        (fisher_over_batches(masked, weights, batches), vector),
        (empirical_fisher_over_batches(each, weights, batches), vector),
        (ggn_over_batches(predict, loss_fn, weights, batches, where=where), of_block),
        (hvp_over_batches(summed, weights, batches, where=where), of_block),
      )
    ]
    restricted = restrict(whole, weights, where=where)(of_block)
    assert float(tree.norm(tree.sub(found[devices][-1], restricted))) <= 1e-6 * float(tree.norm(restricted))
  for one, eight in zip(found[1], found[8]):
    distance = float(tree.norm(tree.sub(one, eight)))
    assert distance <= 1e-5 * float(tree.norm(one))


@pytest.mark.parametrize(
  "make",
  [
    lambda p: curvature.hvp(lambda p: jnp.sum(p["w"] ** 2), p),
    lambda p: curvature.ggn(lambda p: p["w"], lambda z: jnp.sum(z**2), p),
    lambda p: curvature.fisher(lambda p: p["w"][None], p),
    lambda p: curvature.empirical_fisher(lambda p: p["w"] ** 2, p),
    lambda p: curvature.hvp_over_batches(lambda p, b: (jnp.sum(p["w"] ** 2), 1), p, [0]),
    lambda p: curvature.hvp_over_batches(lambda p, b: (jnp.sum(p["w"] ** 2), 1), p, [0], where="count"),
    lambda p: curvature.ggn_over_batches(lambda p, b: p["w"], lambda z, b: (jnp.sum(z**2), 1), p, [0]),
    lambda p: curvature.fisher_over_batches(lambda p, b: (p["w"][None], jnp.ones(1, bool)), p, [0]),
    lambda p: curvature.empirical_fisher_over_batches(lambda p, b: (p["w"], jnp.ones(2, bool)), p, [0]),
    lambda p: curvature.gradient_over_batches(lambda p, b: (jnp.sum(p["w"] ** 2), 1), [0])(p),
    lambda p: curvature.fisher_diagonal(
      lambda p, b: (p["w"][None], jnp.ones(1, bool)), p, [{}], jax.random.key(0)
    ),
  ],
)
def test_a_leaf_of_integers_is_refused_in_one_line(make):
  with pytest.raises(InputError, match="expected float parameters, got int32 in 'count'") as caught:
    make({"count": jnp.ones(2, jnp.int32), "w": jnp.ones(2)})
  assert "\n" not in str(caught.value)
