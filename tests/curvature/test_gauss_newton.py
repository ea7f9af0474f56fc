"""Gauss-Newton and Fisher products against dense matrices in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxtl import models, tree
from jaxtl.curvature import (
  empirical_fisher,
  empirical_fisher_over_batches,
  fisher,
  fisher_over_batches,
  ggn,
  ggn_over_batches,
  gradient_over_batches,
  hvp,
  loss_over_batches,
  restrict,
)
from tests.curvature import networks


def dense_jacobian(network, params, data):
  flat, unravel = ravel_pytree(params)
  return np.asarray(jax.jacobian(lambda x: network(unravel(x), data["image"]))(flat))  # [B, K, n]


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
    hessian = networks.columns(hvp(lambda w: of_logits(predict(w)), params), params)
    np.testing.assert_allclose(networks.columns(ggn(predict, of_logits, params), params), hessian, atol=1e-14)
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
    matrix = networks.columns(jax.jit(ggn(predict, loss, params)), params)
    hessian = networks.dense_hessian(lambda params: loss(predict(params)), params)
  np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
  assert np.linalg.eigvalsh(matrix).min() > -1e-10 * np.abs(matrix).max()
  assert np.linalg.eigvalsh(hessian).min() < -1e-4


@pytest.mark.parametrize("size", [5, 24])
def test_means_over_batches_are_those_over_all_examples(size):
  network, shapes = networks.NETWORKS["conv_net"]
  with jax.enable_x64(True):
    params, data = networks.initial(shapes), networks.examples()
    batches = networks.batches_of(data, size)
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


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_by_some_leaves_alone_the_product_is_the_block(name):
  network, shapes = networks.NETWORKS[name]
  with jax.enable_x64(True):
    params, batches = networks.initial(shapes), networks.batches_of(networks.examples(), 8)
    predict = lambda params, batch: network(params, batch["image"])  # noqa: E731
    loss_fn = lambda z, b: (networks.cross_entropy(z, b["label"]).sum(), len(b["label"]))  # noqa: E731
    whole = ggn_over_batches(predict, loss_fn, params, batches)
    for where in ("^(hidden|first|query)", "out"):
      vector = tree.random_like(jax.random.key(0), tree.select(params, where))
      product = ggn_over_batches(predict, loss_fn, params, batches, where=where)(vector)
      expected = restrict(whole, params, where=where)(vector)
      chex.assert_trees_all_close(product, expected, rtol=1e-6, atol=1e-12)
      assert float(tree.norm(expected)) > 1e-6
