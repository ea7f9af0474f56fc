"""Every baseline loss against float64, over all logits that training meets, in value and gradient."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxtl import losses
from tests.losses import reference

PATTERNS = ["gaussian", "ties", "leading", "trailing", "bfloat16"]


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradient(loss, logits, labels):
  value, pullback = jax.vjp(lambda s: loss(s, labels), logits)
  return value, pullback(jnp.ones_like(value))[0]


def draw_case(seed, num_classes, scale, pattern, batch=4):
  """Logits [B, K] and labels [B] that stress one regime of a loss."""
  rng = np.random.default_rng(seed)
  logits = (scale * rng.standard_normal((batch, num_classes))).astype(np.float32)
  labels = rng.integers(0, num_classes, batch)
  gaps = rng.choice([0.5, 5, 10, 17, 40, 80, 86, 200, 1e3], batch).astype(np.float32)
  if pattern == "ties":
    logits = np.round(logits / np.float32(scale)).clip(-1, 1) * np.float32(scale)
  if pattern == "leading":
    logits[np.arange(batch), labels] = logits.max(axis=1) + gaps
  if pattern == "trailing":
    logits[np.arange(batch), labels] = logits.min(axis=1) - gaps
  if pattern == "bfloat16":
    logits = np.asarray(jnp.asarray(logits, jnp.bfloat16).astype(jnp.float32))
  return logits, labels


def assert_agrees(found, expected, *, rtol, value_floor=0.0, gradient_floor=0.0):
  """Relative agreement class by class; a floor is in units of what its caller says is being subtracted."""
  (loss, gradient), (true_loss, true_gradient) = found, expected
  tiny = 1e-37 * np.shape(true_gradient)[-1]  # float32's smallest numbers are lost, once for each class
  assert np.all(np.abs(np.float64(loss) - true_loss) <= rtol * np.abs(true_loss) + value_floor + tiny)
  error = np.abs(np.float64(gradient) - true_gradient)
  assert np.all(error <= rtol * np.abs(true_gradient) + gradient_floor + tiny)


def over_cases(check, num_classes, patterns=PATTERNS, examples=60):
  """Calls check(logits, labels) on what hypothesis draws: scales 1e-3 to 1e3, every pattern."""

  @hypothesis.settings(max_examples=examples if num_classes < 21841 else 20, deadline=None, database=None)
  @hypothesis.given(
    seed=st.integers(0, 2**32 - 1), exponent=st.floats(-3, 3), pattern=st.sampled_from(patterns)
  )
  def run(seed, exponent, pattern):
    check(*draw_case(seed, num_classes, 10**exponent, pattern))

  run()


def over_cases_agree(loss, truth, num_classes, *, rtol, gradient_floor=0.0):
  """`loss` is `truth` (logits, labels) -> (loss, gradient) on everything that `over_cases` draws."""

  def check(logits, labels):
    found = value_and_gradient(loss, logits, labels)
    assert_agrees(found, truth(logits, labels), rtol=rtol, gradient_floor=gradient_floor)

  over_cases(check, num_classes)


at_each_size = pytest.mark.parametrize("num_classes", [2, 3, 10, 1000, 21841])
at_some_sizes = pytest.mark.parametrize("num_classes", [2, 10, 1000])


@at_each_size
def test_cross_entropy(num_classes):
  loss = losses.softmax_cross_entropy

  def check(logits, labels):
    found = value_and_gradient(loss, logits, labels)
    assert_agrees(found, reference.cross_entropy(logits, labels), rtol=1e-5)

  over_cases(check, num_classes, examples=150)


@pytest.mark.parametrize("epsilon", [0.1, 0.9])
@pytest.mark.parametrize("num_classes", [2, 10])
def test_smoothed_cross_entropy(num_classes, epsilon):
  loss = functools.partial(losses.softmax_cross_entropy, label_smoothing=epsilon)
  truth = functools.partial(reference.smoothed_cross_entropy, epsilon=epsilon)
  # Two parts of size 1 make the gradient, and cancel where p is near the smoothed target.
  over_cases_agree(loss, truth, num_classes, rtol=1e-5, gradient_floor=3e-7)


@at_some_sizes
def test_poly1(num_classes):
  loss = functools.partial(losses.poly1, epsilon=2.0)
  over_cases_agree(loss, functools.partial(reference.poly1, epsilon=2.0), num_classes, rtol=1e-5)


@at_some_sizes
def test_logit_penalty(num_classes):
  loss = functools.partial(losses.logit_penalty, penalty=6e-4)

  def check(logits, labels):
    # Cross-entropy's slope, at most 1, and the penalty's cancel where they balance.
    expected = reference.logit_penalty(logits, labels, 6e-4)
    found = value_and_gradient(loss, logits, labels)
    assert_agrees(found, expected, rtol=1e-5, gradient_floor=3e-7 * (1 + 6e-4 * np.abs(logits)))

  over_cases(check, num_classes)


@at_some_sizes
def test_logit_norm(num_classes):
  loss = functools.partial(losses.logit_norm, temperature=0.04)

  def check(logits, labels):
    # The direction is rounded before 1 / temperature multiplies it by 25: an exponent of up to 50 is off by
    # some 1e-5. The gradient is a difference, of parts as large as the largest slope before projection.
    length = np.linalg.norm(np.float64(logits), axis=1, keepdims=True)
    expected = reference.logit_norm(logits, labels, 0.04)
    _, slope = reference.cross_entropy(logits / (0.04 * length), labels)
    floor = 3e-6 * np.abs(slope).max(axis=1, keepdims=True) / (0.04 * length)
    assert_agrees(value_and_gradient(loss, logits, labels), expected, rtol=5e-5, gradient_floor=floor)

  over_cases(check, num_classes, patterns=["gaussian", "leading", "trailing", "bfloat16"])  # no zero rows


@at_some_sizes
def test_cosine_softmax(num_classes):
  loss = functools.partial(losses.cosine_softmax, temperature=0.05)
  truth = functools.partial(reference.cosine_softmax, temperature=0.05)
  # The quotient by the temperature is a second rounding of an exponent of up to 87.
  over_cases_agree(loss, truth, num_classes, rtol=2e-5)


@at_some_sizes
def test_multiclass_hinge(num_classes):
  def check(logits, labels):
    expected = reference.multiclass_hinge(logits, labels)
    # optax takes 1 + s_k and s_y apart before it subtracts: their roundings stay.
    floor = 3e-7 * (1 + np.abs(logits).max(axis=1))
    found = value_and_gradient(losses.multiclass_hinge, logits, labels)
    off_the_kink = np.abs(expected[0]) > floor
    np.testing.assert_array_less(np.abs(found[0] - expected[0]), 1e-6 * expected[0] + floor)
    np.testing.assert_array_equal(found[1][off_the_kink], expected[1][off_the_kink])

  over_cases(check, num_classes, patterns=["gaussian", "leading", "trailing"])  # ties share the slope


@at_some_sizes
def test_squared_hinge(num_classes):
  loss = functools.partial(losses.squared_hinge, margin=1.0)
  truth = functools.partial(reference.squared_hinge, margin=1.0)
  # margin - s rounds once, which is all that is left where the score is next to the margin.
  over_cases_agree(loss, truth, num_classes, rtol=1e-5, gradient_floor=3e-7)


@at_some_sizes
@pytest.mark.parametrize("shift", [0.0, 6.9])
def test_sigmoid_cross_entropy(num_classes, shift):
  loss = functools.partial(losses.sigmoid_cross_entropy, logit_shift=shift)
  truth = functools.partial(reference.sigmoid_cross_entropy, shift=shift)
  over_cases_agree(loss, truth, num_classes, rtol=2e-5)


@at_some_sizes
def test_focal(num_classes):
  loss = functools.partial(losses.focal, gamma=2.0, alpha=0.25)
  truth = functools.partial(reference.focal, gamma=2.0, alpha=0.25)
  # The exponent -gamma softplus(x) reaches -87, where one rounding is 4e-6, and its terms round apart.
  over_cases_agree(loss, truth, num_classes, rtol=5e-5)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("num_classes", [2, 10, 1000])
def test_hessian_products_of_cross_entropy(num_classes, pattern):
  def product(logits, labels, direction):
    gradient = jax.grad(lambda s: losses.softmax_cross_entropy(s, labels).sum())
    return jax.jvp(gradient, (logits,), (direction,))[1]

  compiled = jax.jit(product)
  for seed, scale in enumerate([1e-3, 1.0, 30.0, 1e3]):
    logits, labels = draw_case(seed, num_classes, scale, pattern)
    direction = np.random.default_rng(seed).standard_normal(logits.shape).astype(np.float32)
    found, expected = (
      np.float64(compiled(logits, labels, direction)),
      hessian_product(logits, labels, direction),
    )
    # Where the true class leads, to the last digit; where another does, curvature far below 1 is a difference
    # of slopes near 1, and right to their roundings.
    leads = logits.argmax(axis=1) == labels
    floor = np.where(leads, 1e-6 * np.abs(expected).max(axis=1) + 1e-35, 1e-5)[:, None]
    assert np.all(np.isfinite(found))
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
  logits, labels = draw_case(0, 10, 10.0, "leading")
  rounded = jnp.asarray(logits, jnp.bfloat16)
  expected, _ = reference.cross_entropy(np.asarray(rounded.astype(jnp.float32)), labels)
  np.testing.assert_allclose(losses.softmax_cross_entropy(rounded, labels), expected, rtol=1e-5, atol=1e-36)
