"""Every baseline loss against float64, over all logits that training meets, in value and gradient."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import losses
from jaxtl.testing.claims import Claim, name_of
from jaxtl.testing.reference import PATTERNS, check_against, draw_logits, over_logits
from tests.losses import reference


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradient(loss, logits, labels):
  value, pullback = jax.vjp(lambda s: loss(s, labels), logits)
  return value, pullback(jnp.ones_like(value))[0]


def agrees(loss, truth, *, rtol, gradient_floor=0.0):
  """(logits, labels, where) -> fails unless `loss` is `truth`, class by class.

  Args:
    truth: (logits, labels) -> (loss, gradient) in float64.
    gradient_floor: a number, or (logits, labels) -> [B, 1] or [B, K], in units of what is being subtracted.
  """
  claim = Claim(name_of(loss), "float64 reference")

  def check(logits, labels, where):
    floor = gradient_floor(logits, labels) if callable(gradient_floor) else gradient_floor
    found = value_and_gradient(loss, logits, labels)
    check_against(claim, found, truth(logits, labels), where, rtol=rtol, gradient_floor=floor)

  return check


def over_cases(check, num_classes, patterns=PATTERNS, examples=60):
  """Calls check(logits, labels, where) on what hypothesis draws: scales 1e-3 to 1e3, every pattern."""
  over_logits(
    check, num_classes=num_classes, patterns=patterns, examples=examples if num_classes < 21841 else 20
  )


at_each_size = pytest.mark.parametrize("num_classes", [2, 3, 10, 1000, 21841])
at_some_sizes = pytest.mark.parametrize("num_classes", [2, 10, 1000])


@at_each_size
def test_cross_entropy(num_classes):
  check = agrees(losses.softmax_cross_entropy, reference.cross_entropy, rtol=1e-5)
  over_cases(check, num_classes, examples=150)


@pytest.mark.parametrize("epsilon", [0.1, 0.9])
@pytest.mark.parametrize("num_classes", [2, 10])
def test_smoothed_cross_entropy(num_classes, epsilon):
  loss = functools.partial(losses.softmax_cross_entropy, label_smoothing=epsilon)
  truth = functools.partial(reference.smoothed_cross_entropy, epsilon=epsilon)
  # Two parts of size 1 make the gradient, and cancel where p is near the smoothed target.
  over_cases(agrees(loss, truth, rtol=1e-5, gradient_floor=3e-7), num_classes)


@at_some_sizes
def test_poly1(num_classes):
  loss = functools.partial(losses.poly1, epsilon=2.0)
  over_cases(agrees(loss, functools.partial(reference.poly1, epsilon=2.0), rtol=1e-5), num_classes)


@at_some_sizes
def test_logit_penalty(num_classes):
  loss = functools.partial(losses.logit_penalty, penalty=6e-4)
  truth = functools.partial(reference.logit_penalty, beta=6e-4)

  def floor(logits, labels):
    # Cross-entropy's slope, at most 1, and the penalty's cancel where they balance.
    return 3e-7 * (1 + 6e-4 * np.abs(logits))

  over_cases(agrees(loss, truth, rtol=1e-5, gradient_floor=floor), num_classes)


@at_some_sizes
def test_logit_norm(num_classes):
  loss = functools.partial(losses.logit_norm, temperature=0.04)
  truth = functools.partial(reference.logit_norm, temperature=0.04)

  def floor(logits, labels):
    # The direction is rounded before 1 / temperature multiplies it by 25: an exponent of up to 50 is off by
    # some 1e-5. The gradient is a difference, of parts as large as the largest slope before projection.
    length = np.linalg.norm(np.float64(logits), axis=1, keepdims=True)
    _, slope = reference.cross_entropy(logits / (0.04 * length), labels)
    return 3e-6 * np.abs(slope).max(axis=1, keepdims=True) / (0.04 * length)

  check = agrees(loss, truth, rtol=5e-5, gradient_floor=floor)
  over_cases(check, num_classes, patterns=["gaussian", "leading", "trailing", "bfloat16"])  # no zero rows


@at_some_sizes
def test_cosine_softmax(num_classes):
  loss = functools.partial(losses.cosine_softmax, temperature=0.05)
  truth = functools.partial(reference.cosine_softmax, temperature=0.05)
  # The quotient by the temperature is a second rounding of an exponent of up to 87.
  over_cases(agrees(loss, truth, rtol=2e-5), num_classes)


@at_some_sizes
def test_multiclass_hinge(num_classes):
  def check(logits, labels, where):
    expected = reference.multiclass_hinge(logits, labels)
    # optax takes 1 + s_k and s_y apart before it subtracts: their roundings stay.
    floor = 3e-7 * (1 + np.abs(logits).max(axis=1))
    found = value_and_gradient(losses.multiclass_hinge, logits, labels)
    off_the_kink = np.abs(expected[0]) > floor
    np.testing.assert_array_less(np.abs(found[0] - expected[0]), 1e-6 * expected[0] + floor, where)
    chex.assert_trees_all_equal(np.asarray(found[1])[off_the_kink], expected[1][off_the_kink])

  over_cases(check, num_classes, patterns=["gaussian", "leading", "trailing"])  # ties share the slope


@at_some_sizes
def test_squared_hinge(num_classes):
  loss = functools.partial(losses.squared_hinge, margin=1.0)
  truth = functools.partial(reference.squared_hinge, margin=1.0)
  # margin - s rounds once, which is all that is left where the score is next to the margin.
  over_cases(agrees(loss, truth, rtol=1e-5, gradient_floor=3e-7), num_classes)


@at_some_sizes
@pytest.mark.parametrize("shift", [0.0, 6.9])
def test_sigmoid_cross_entropy(num_classes, shift):
  loss = functools.partial(losses.sigmoid_cross_entropy, logit_shift=shift)
  truth = functools.partial(reference.sigmoid_cross_entropy, shift=shift)
  over_cases(agrees(loss, truth, rtol=2e-5), num_classes)


@at_some_sizes
def test_focal(num_classes):
  loss = functools.partial(losses.focal, gamma=2.0, alpha=0.25)
  truth = functools.partial(reference.focal, gamma=2.0, alpha=0.25)
  # The exponent -gamma softplus(x) reaches -87, where one rounding is 4e-6, and its terms round apart.
  over_cases(agrees(loss, truth, rtol=5e-5), num_classes)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("num_classes", [2, 10, 1000])
def test_hessian_products_of_cross_entropy(num_classes, pattern):
  def product(logits, labels, direction):
    gradient = jax.grad(lambda s: losses.softmax_cross_entropy(s, labels).sum())
    return jax.jvp(gradient, (logits,), (direction,))[1]

  compiled = jax.jit(product)
  for seed, scale in enumerate([1e-3, 1.0, 30.0, 1e3]):
    logits, labels = draw_logits(seed, num_classes=num_classes, scale=scale, pattern=pattern)
    direction = np.random.default_rng(seed).standard_normal(logits.shape).astype(np.float32)
    found, expected = (
      np.float64(compiled(logits, labels, direction)),
      hessian_product(logits, labels, direction),
    )
    # Where the true class leads, to the last digit; where another does, curvature far below 1 is a difference
    # of slopes near 1, and right to their roundings.
    leads = logits.argmax(axis=1) == labels
    floor = np.where(leads, 1e-6 * np.abs(expected).max(axis=1) + 1e-35, 1e-5)[:, None]
    chex.assert_tree_all_finite(found)
    assert np.all(np.abs(found - expected) <= 3e-5 * np.abs(expected) + floor)


def hessian_product(logits, labels, direction):
  """p_k (v_k - v_y - sum_j p_j (v_j - v_y)) in float64."""
  rows = np.arange(len(labels))
  p = reference.cross_entropy(logits, labels)[1]
  p[rows, labels] = 0.0
  lead = np.float64(direction) - direction[rows, labels][:, None]
  product = p * (lead - np.sum(p * lead, axis=1, keepdims=True))
  product[rows, labels] = -product.sum(axis=1)
  return product


def test_bfloat16_logits_lose_nothing_beyond_their_own_rounding():
  logits, labels = draw_logits(0, num_classes=10, scale=10.0, pattern="leading")
  rounded = jnp.asarray(logits, jnp.bfloat16)
  expected, _ = reference.cross_entropy(np.asarray(rounded.astype(jnp.float32)), labels)
  found = losses.softmax_cross_entropy(rounded, labels)
  chex.assert_shape(found, (4,))
  chex.assert_type(found, jnp.float32)
  chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-36)
