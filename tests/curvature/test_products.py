"""Hessian products against dense Hessians in float64 and against closed forms."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxtl import losses, models, tree
from jaxtl.curvature import (
  empirical_fisher,
  empirical_fisher_over_batches,
  fisher,
  fisher_over_batches,
  ggn,
  ggn_over_batches,
  gradient_over_batches,
  hvp,
  hvp_over_batches,
  loss_over_batches,
  restrict,
)
from jaxtl.errors import ConfigError
from jaxtl.train import make_mesh, sharding
from tests.curvature import networks

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


def dense_jacobian(network, params, data):
  flat, unravel = ravel_pytree(params)
  return np.asarray(jax.jacobian(lambda x: network(unravel(x), data["image"]))(flat))  # [B, K, n]


def columns(matvec, params):
  flat, unravel = ravel_pytree(params)
  return np.stack([ravel_pytree(matvec(unravel(row)))[0] for row in jnp.eye(flat.size)])


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_gauss_newton_and_fisher_are_the_dense_ones(name):
  """Both at once: the Gauss-Newton matrix of the cross-entropy is the Fisher matrix, for any labels."""
  with jax.enable_x64(True):
    network, shapes = networks.NETWORKS[name]
    params, data = networks.initial(shapes), networks.examples()
    jacobian = dense_jacobian(network, params, data)
    p = np.asarray(jax.nn.softmax(network(params, data["image"])))
    of_logits = np.einsum("bk,kl->bkl", p, np.eye(3)) - np.einsum("bk,bl->bkl", p, p)
    truth = np.einsum("bkn,bkl,blm->nm", jacobian, of_logits, jacobian) / len(p)
    predict = lambda params: network(params, data["image"])  # noqa: E731
    vector = tree.random_like(jax.random.key(0), params)
    expected = truth @ ravel_pytree(vector)[0]
    ours = ggn(predict, lambda logits: jnp.mean(networks.cross_entropy(logits, data["label"])), params)
    for matvec in (ours, fisher(predict, params)):
      np.testing.assert_allclose(ravel_pytree(matvec(vector))[0], expected, rtol=1e-9, atol=1e-12)
    assert np.linalg.eigvalsh(truth).min() > -1e-12
    gradients = np.einsum("bkn,bk->bn", jacobian, p - np.eye(3)[data["label"]])
    losses_of = lambda params: networks.cross_entropy(predict(params), data["label"])  # noqa: E731
    found = ravel_pytree(empirical_fisher(losses_of, params)(vector))[0]
    expected = gradients.T @ (gradients @ ravel_pytree(vector)[0]) / len(p)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", [networks.cross_entropy, networks.smoothed_hinge])
def test_gauss_newton_of_a_linear_model_is_the_hessian(loss):
  with jax.enable_x64(True):
    data = networks.examples()
    predict = lambda w: data["image"].reshape(networks.BATCH, -1) @ w  # noqa: E731
    params = networks.initial((32, 3))
    of_logits = lambda logits: jnp.mean(loss(logits, data["label"]))  # noqa: E731
    hessian = columns(hvp(lambda w: of_logits(predict(w)), params), params)
    np.testing.assert_allclose(columns(ggn(predict, of_logits, params), params), hessian, atol=1e-14)
    p = np.asarray(jax.nn.softmax(predict(params)))
    x = np.asarray(data["image"]).reshape(networks.BATCH, -1)
    if loss is networks.cross_entropy:  # logistic regression in closed form
      of = np.einsum("bk,kl->bkl", p, np.eye(3)) - np.einsum("bk,bl->bkl", p, p)
      closed = np.einsum("bi,bkl,bj->ikjl", x, of, x).reshape(96, 96) / len(x)
      np.testing.assert_allclose(hessian, closed, atol=1e-14)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_gauss_newton_is_positive_where_the_hessian_is_not(name):
  with jax.enable_x64(True):
    network, shapes = networks.NETWORKS[name]
    params, data = networks.initial(shapes), networks.examples()
    loss = lambda logits: jnp.mean(networks.cross_entropy(logits, data["label"]))  # noqa: E731
    predict = lambda params: network(params, data["image"])  # noqa: E731
    matrix = columns(ggn(predict, loss, params), params)
    hessian = dense_hessian(lambda params: loss(predict(params)), params)
  np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
  assert np.linalg.eigvalsh(matrix).min() > -1e-10 * np.abs(matrix).max()
  assert np.linalg.eigvalsh(hessian).min() < -1e-4


@pytest.mark.parametrize("size", [5, 24])
def test_means_over_batches_are_those_over_all_examples(size):
  network, shapes = networks.NETWORKS["conv_net"]
  with jax.enable_x64(True):
    params, data = networks.initial(shapes), networks.examples()
    batches = batches_of(data, size)
    vector = tree.random_like(jax.random.key(0), params)
    predict = lambda params, batch: network(params, batch["image"])  # noqa: E731
    each = lambda logits, batch: networks.cross_entropy(logits, batch["label"])  # noqa: E731
    all_true = lambda batch: jnp.ones(len(batch["label"]), bool)  # noqa: E731
    loss_fn = lambda logits, batch: (each(logits, batch).sum(), len(batch["label"]))  # noqa: E731
    pairs = [
      (
        ggn_over_batches(predict, loss_fn, params, batches),
        ggn(lambda w: predict(w, data), lambda z: each(z, data).mean(), params),
      ),
      (
        fisher_over_batches(lambda w, b: (predict(w, b), all_true(b)), params, batches),
        fisher(lambda w: predict(w, data), params),
      ),
      (
        empirical_fisher_over_batches(lambda w, b: (each(predict(w, b), b), all_true(b)), params, batches),
        empirical_fisher(lambda w: each(predict(w, data), data), params),
      ),
    ]
    for streamed, at_once in pairs:
      chex.assert_trees_all_close(streamed(vector), at_once(vector), rtol=1e-9, atol=1e-14)
    summed = lambda w, b: (each(predict(w, b), b).sum(), len(b["label"]))  # noqa: E731
    loss, gradient = gradient_over_batches(summed, batches)(params)
    np.testing.assert_allclose(loss_over_batches(summed, batches)(params), loss, rtol=1e-12)
    value, expected = jax.value_and_grad(lambda w: each(predict(w, data), data).mean())(params)
    np.testing.assert_allclose(loss, value, rtol=1e-12)
    chex.assert_trees_all_close(gradient, expected, rtol=1e-9, atol=1e-14)


def test_padding_does_not_count_in_either_fisher():
  network, shapes = networks.NETWORKS["mlp"]
  params, data = networks.initial(shapes), networks.examples()
  mask = jnp.arange(networks.BATCH) < 10
  vector = tree.random_like(jax.random.key(0), params)
  whole = {**data, "mask": mask}
  part = {key: value[:10] for key, value in whole.items()}
  each = lambda w, b: networks.cross_entropy(network(w, b["image"]), b["label"])  # noqa: E731
  for over_batches, function in (
    (fisher_over_batches, lambda w, b: (network(w, b["image"]), b["mask"])),
    (empirical_fisher_over_batches, lambda w, b: (each(w, b), b["mask"])),
  ):
    padded, alone = (over_batches(function, params, [batch])(vector) for batch in (whole, part))
    chex.assert_trees_all_close(padded, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("where", ["^first/", "kernel$", "^second/bias$"])
def test_a_restricted_product_is_the_diagonal_block(where):
  with jax.enable_x64(True):
    loss, params = networks.mean_loss("conv_net", networks.cross_entropy)
    dense = dense_hessian(loss, params)
    marked = jax.tree.map(lambda x, kept: jnp.full(x.shape, kept), params, tree.matches(params, where))
    kept = np.asarray(ravel_pytree(marked)[0], bool)
    part = tree.select(params, where)
    block = columns(restrict(hvp(loss, params), params, where=where), part)
  np.testing.assert_allclose(block, dense[np.ix_(kept, kept)], atol=1e-12)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_by_some_leaves_alone_the_product_is_the_restricted_one(name):
  """For every leaf, and for leaves that are no neighbours."""
  with jax.enable_x64(True):
    _, params = networks.mean_loss(name, networks.cross_entropy)
    loss_fn = networks.sum_and_count(name, networks.cross_entropy)
    batches = batches_of(networks.examples(), 8)
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
      matvec = hvp_over_batches(loss_fn, params, batches_of(examples(), 4), where=where)
      for key in range(3):
        matvec(tree.random_like(jax.random.key(key), tree.select(params, where)))
      assert len(traces) == (2 if seed else number)


@pytest.mark.parametrize(
  "of_block",
  [
    lambda params, where: restrict(lambda v: v, params, where=where),
    lambda params, where: hvp_over_batches(lambda p, b: (0.0, 1.0), params, [1], where=where),
  ],
)
def test_a_restriction_to_nothing_is_refused(of_block):
  with pytest.raises(ConfigError, match="matches no parameter") as error:
    of_block({"kernel": jnp.ones(2)}, "^stage9")
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

  where = "^(stem|stage2_block1)/"
  of_block = tree.select(vector, where)
  found = {}
  for devices in (1, 8):
    mesh = make_mesh(devices)
    batches = [
      {**sharding.put_batch(b, mesh), "stats": sharding.put_replicated(stats, mesh)}
      for b in batches_of(data, 24)
    ]
    weights = sharding.put_replicated(params, mesh)
    whole = hvp_over_batches(summed, weights, batches)
    found[devices] = [
      jax.device_get(matvec(sharding.put_replicated(v, mesh)))
      for matvec, v in (
        (whole, vector),
        (ggn_over_batches(predict, loss_fn, weights, batches), vector),
        (hvp_over_batches(summed, weights, batches, where=where), of_block),
      )
    ]
    restricted = restrict(whole, weights, where=where)(of_block)
    assert float(tree.norm(tree.sub(found[devices][-1], restricted))) <= 1e-6 * float(tree.norm(restricted))
  for one, eight in zip(found[1], found[8]):
    distance = float(tree.norm(tree.sub(one, eight)))
    assert distance <= 1e-5 * float(tree.norm(one))


def test_gauss_newton_goes_through_the_models_own_gradients_and_is_positive():
  """A plain `jax.jvp` of these models is refused: their convolutions have custom gradients."""
  model = models.resnet8(num_classes=3, width=4)
  images = jax.random.normal(jax.random.key(0), (6, 8, 8, 3))
  params, stats = model.init(jax.random.key(0), images)
  predict = lambda params: model.apply(params, stats, images)[0]["logits"]  # noqa: E731
  logits, pullback = jax.vjp(predict, params)
  rows = jnp.eye(logits.size).reshape(-1, *logits.shape)
  jacobian = np.stack([ravel_pytree(pullback(row)[0])[0] for row in rows]).reshape(*logits.shape, -1)
  p = np.asarray(jax.nn.softmax(logits))
  of_logits = np.einsum("bk,kl->bkl", p, np.eye(3)) - np.einsum("bk,bl->bkl", p, p)
  vector = tree.random_like(jax.random.key(1), params)
  expected = np.einsum(
    "bkn,bkl,blm,m->n", jacobian, of_logits, jacobian, ravel_pytree(vector)[0], optimize=True
  )
  product = fisher(predict, params)(vector)
  np.testing.assert_allclose(
    ravel_pytree(product)[0], expected / len(images), atol=1e-5 * np.abs(expected).max()
  )
  assert float(tree.dot(vector, product)) > 0
