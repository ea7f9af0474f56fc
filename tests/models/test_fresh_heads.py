"""A fresh head of any size is a guess among its classes, and learns at the pace of torch's linear layer."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import losses
from tests.models.test_every_model import FUNCTIONS, make_small

IMAGES = 16


@functools.cache
def images(name):
  """Of the smallest size that the network's strides leave something of."""
  size = 8 if "image_size" in inspect.signature(FUNCTIONS[name]).parameters else 64
  return np.random.default_rng(7).standard_normal((IMAGES, size, size, 3)).astype(np.float32)


@functools.cache
def hidden(name):
  """What enters the head of a fresh network in training."""
  model = make_small(name, num_classes=2)

  @jax.jit
  def run(key):
    x = images(name)
    params, batch_stats = model.init(key, x)
    features, _ = model.apply(params, batch_stats, x, train=True, key=jax.random.key(1), stop=model.head)
    return features["hidden"]

  return run(jax.random.key(0))


@functools.cache
def head_of(name, num_classes):
  """The head's fresh parameters; the compiler leaves the rest of the network out."""
  model = make_small(name, num_classes=num_classes)
  return model, jax.jit(lambda key: model.init(key, images(name))[0][model.head])(jax.random.key(2))


@pytest.mark.parametrize("num_classes", [2, 10, 37, 1000])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_first_loss_is_that_of_a_guess_and_the_gradient_that_of_a_head_bounded_by_fan_in(
  name, num_classes
):
  model, params = head_of(name, num_classes)
  labels = jnp.arange(IMAGES) % num_classes
  x = hidden(name)

  def loss(params):
    features, _ = model.apply({model.head: params}, {}, x, start=model.head)
    return jnp.mean(losses.softmax_cross_entropy(features["logits"], labels)), features["pooled"]

  (value, pooled), gradient = jax.value_and_grad(loss, has_aux=True)(params)
  assert value == pytest.approx(np.log(num_classes), rel=0.2)

  bound = pooled.shape[1] ** -0.5
  keys = jax.random.split(jax.random.key(3))
  torch = {
    "kernel": jax.random.uniform(keys[0], (pooled.shape[1], num_classes), minval=-bound, maxval=bound),
    "bias": jax.random.uniform(keys[1], (1, num_classes), minval=-bound, maxval=bound),
  }

  def torch_loss(params):
    logits = pooled @ params["kernel"] + params["bias"]
    return jnp.mean(losses.softmax_cross_entropy(logits, labels))

  ratio = norm(gradient["kernel"]) / norm(jax.grad(torch_loss)(torch)["kernel"])
  assert 1 / 3 < ratio < 3


@pytest.mark.parametrize("num_classes", [2, 1000])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_full_size_head_has_the_spread_of_its_width_whatever_the_classes(name, num_classes):
  """Torch's linear layer is U(+-1/sqrt(D)), with a standard deviation of 1/sqrt(3 D): never above, and never
  below a third of it."""
  model = FUNCTIONS[name](num_classes=num_classes)
  one = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  kernel = jax.jit(lambda key: model.init(key, one)[0][model.head]["kernel"])(jax.random.key(0))
  assert 0.3 < np.std(kernel) * (3 * kernel.shape[0]) ** 0.5 < 1.1


def norm(x):
  return float(jnp.linalg.norm(x))
