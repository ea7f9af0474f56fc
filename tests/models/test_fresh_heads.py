"""A fresh head of any size is a guess among its classes, and learns at the pace of one."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import losses
from tests.models.test_every_model import FAMILIES, FUNCTIONS, make_small

pytestmark = pytest.mark.slow

IMAGES = 16


@pytest.fixture(scope="module")
def hidden(filled):
  """name -> (pooled features, what enters the head) of a small network in training.

  Normalisation makes them as large as fresh weights do, whatever the kernels are.
  """
  found = {}

  def hidden_of(name):
    if name not in found:
      model = make_small(name, num_classes=2)
      size = side(name, small=True)
      x = np.random.default_rng(7).standard_normal((IMAGES, size, size, 3)).astype(np.float32)
      params, batch_stats = filled(model, (1, size, size, 3))
      run = functools.partial(model.apply, train=True, stop=model.head)
      features, _ = jax.jit(run)(params, batch_stats, x, key=jax.random.key(1))
      found[name] = features["hidden"]
    return found[name]

  return hidden_of


@pytest.mark.parametrize("num_classes", [2, 10, 37, 1000])
@pytest.mark.parametrize("name", [*FAMILIES, "resnet50"])
def test_the_first_loss_is_that_of_a_guess_and_the_first_gradient_of_its_size(hidden, name, num_classes):
  """Beside a head as torch draws it, U(+-1/sqrt(D)), and beside one of zeros, which guesses exactly.

  Torch's own first loss is above that of a guess where features are large, as those of deep residual networks
  are, and so is its gradient: ours is never more than three times that, and never less than a third of the
  gradient of a guess.
  """
  model, params = fresh_head(make_small(name, num_classes=num_classes), side(name, small=True))
  labels = np.random.default_rng(8).integers(0, num_classes, IMAGES)

  def loss(params):
    features, _ = model.apply({model.head: params}, {}, hidden(name), start=model.head)
    return jnp.mean(losses.softmax_cross_entropy(features["logits"], labels)), features["pooled"]

  (value, pooled), gradient = jax.value_and_grad(loss, has_aux=True)(params)
  assert value == pytest.approx(np.log(num_classes), rel=0.2)

  def linear_loss(kernel):
    return jnp.mean(losses.softmax_cross_entropy(pooled @ kernel, labels))

  bound = pooled.shape[1] ** -0.5
  shape = (pooled.shape[1], num_classes)
  torch = jax.random.uniform(jax.random.key(3), shape, minval=-bound, maxval=bound)
  assert norm(gradient["kernel"]) < 3 * norm(jax.grad(linear_loss)(torch))
  assert norm(gradient["kernel"]) > norm(jax.grad(linear_loss)(jnp.zeros(shape))) / 3


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_full_size_head_has_the_spread_of_its_width_whatever_the_classes(name):
  """Torch's linear layer is U(+-1/sqrt(D)), with a standard deviation of 1/sqrt(3 D): never above, and never
  below a third of it."""
  for num_classes in (2, 1000) if name in FAMILIES else (2,):
    _, params = fresh_head(FUNCTIONS[name](num_classes=num_classes), side(name, small=False))
    width = params["kernel"].shape[0]
    assert 0.3 < np.std(params["kernel"]) * (3 * width) ** 0.5 < 1.1


def side(name, *, small):
  """Of the images: a network with positions is made for one size, others have strides down to 1 of 32."""
  size = inspect.signature(FUNCTIONS[name]).parameters.get("image_size")
  return 64 if size is None else 8 if small else size.default


def fresh_head(model, size):
  """The head's fresh parameters; the compiler leaves the rest of the network out."""
  one = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  return model, jax.jit(lambda key: model.init(key, one)[0][model.head])(jax.random.key(2))


def norm(x):
  return float(jnp.linalg.norm(x))
