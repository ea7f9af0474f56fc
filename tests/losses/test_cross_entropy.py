"""Cross-entropy against float64, where log Z - s_y would have no digits left."""

import functools

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxtl import losses
from tests.losses import reference


@functools.partial(jax.jit, static_argnums=2)  # compiled once for the examples of one shape
@functools.partial(jax.value_and_grad, has_aux=True)
def value_and_gradient(logits, labels, smoothing):
  values = losses.softmax_cross_entropy(logits, labels, label_smoothing=smoothing)
  return jnp.sum(values), values


def assert_exact(logits, labels, smoothing=0.0):
  logits = np.asarray(logits, np.float32)

  (_, values), gradient = value_and_gradient(jnp.asarray(logits), labels, smoothing)
  truth = functools.partial(reference.smoothed_cross_entropy, epsilon=smoothing)
  loss, slope = (truth if smoothing else reference.cross_entropy)(logits, labels)
  # Below 1e-37 float32 has no full precision, and nothing to lose.
  chex.assert_trees_all_close(values, loss, rtol=1e-5, atol=1e-37)
  row = np.abs(slope).max(1, keepdims=True)
  np.testing.assert_array_less(np.abs(gradient - slope), 1e-5 * np.abs(slope) + 1e-7 * row + 1e-37)


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.example(
  seed=271, classes=100, scale=0.5, lead=80.0
)  # terms that are 0 in float32, their sum is not
@hypothesis.given(
  seed=st.integers(0, 2**32 - 1),
  classes=st.sampled_from([2, 3, 10, 100]),
  scale=st.floats(-3, 3),
  lead=st.sampled_from([0.0, 1.0, 10.0, 17.0, 40.0, 80.0, 200.0, -30.0, -500.0]),
)
def test_value_and_gradient_are_those_of_float64(seed, classes, scale, lead):
  rng = np.random.default_rng(seed)
  logits = (rng.standard_normal((4, classes)) * 10**scale).astype(np.float32)
  labels = rng.integers(0, classes, 4).astype(np.int32)
  logits[:2, 0] = logits[:2, -1]  # ties
  logits[np.arange(4), labels] += np.float32(lead)
  assert_exact(logits, labels)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_many_classes(scale):
  rng = np.random.default_rng(0)
  logits = (rng.standard_normal((8, 21_841)) * scale).astype(np.float32)
  labels = rng.integers(0, 21_841, 8).astype(np.int32)
  logits[:4, labels[:4]] += 10 * scale
  assert_exact(logits, labels)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_smoothing_is_exact_too(scale):
  rng = np.random.default_rng(0)
  logits = (rng.standard_normal((8, 10)) * scale).astype(np.float32)
  assert_exact(logits, rng.integers(0, 10, 8).astype(np.int32), smoothing=0.1)


def test_a_lead_of_twenty_is_not_zero():
  logits = jnp.asarray([[20.0, 0.0]])
  value, slope = jax.value_and_grad(lambda x: losses.softmax_cross_entropy(x, jnp.asarray([0]))[0])(logits)
  chex.assert_trees_all_close(value, np.exp(-20.0), rtol=1e-6)
  chex.assert_trees_all_close(slope, np.exp(-20.0) * np.array([[-1.0, 1.0]]), rtol=1e-6)


def test_hessian_products_are_those_of_the_softmax():
  rng = np.random.default_rng(0)
  x, v = rng.standard_normal((2, 5)).astype(np.float32)
  loss = lambda x: losses.softmax_cross_entropy(x[None], jnp.asarray([2]))[0]  # noqa: E731
  p = np.exp(x.astype(np.float64)) / np.exp(x.astype(np.float64)).sum()
  expected = p * v - p * (p @ v)
  for product in (
    jax.jvp(jax.grad(loss), (x,), (v,))[1],
    jax.grad(lambda x: jnp.vdot(jax.grad(loss)(x), v))(x),
  ):
    chex.assert_trees_all_close(product, expected, rtol=1e-5, atol=1e-7)
