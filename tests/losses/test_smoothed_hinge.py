"""The smoothed hinge: its published facts, and agreement with float64 over all logits that training meets."""

import functools

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxtl import losses
from jaxtl.errors import ConfigError, DataError
from tests.losses import reference

MARGIN, QUADRATIC = 7.0, 0.3
smoothed_hinge = functools.partial(losses.multiclass_smoothed_hinge, margin=MARGIN)


def value_and_gradient(logits, labels, margin=MARGIN, quadratic=QUADRATIC):
  def loss(logits):
    return losses.multiclass_smoothed_hinge(logits, labels, margin=margin, quadratic=quadratic)

  value, pullback = jax.vjp(loss, logits)
  return value, pullback(jnp.ones_like(value))[0]


compiled = jax.jit(value_and_gradient, static_argnums=(2, 3))


def draw_case(seed, num_classes, scale, pattern, batch=4):
  """Logits [B, K] and labels [B] that stress one regime of the loss."""
  rng = np.random.default_rng(seed)
  logits = (scale * rng.standard_normal((batch, num_classes))).astype(np.float32)
  labels = rng.integers(0, num_classes, batch)
  rows = np.arange(batch)
  if pattern == "ties":
    logits = np.round(logits).clip(-1, 1) * np.float32(scale)
  if pattern == "edge":  # the true class leads by the margin, up to a few roundings
    logits[rows, labels] = logits.max(axis=1) + np.float32(MARGIN)
    logits[rows, labels] *= 1 + rng.integers(-3, 4, batch).astype(np.float32) * np.float32(2**-23)
  if pattern == "solved":
    logits[rows, labels] = logits.max(axis=1) + rng.choice([0.0, 3.0, 6.99, 7.0, 8.0], batch).astype(
      np.float32
    )
  if pattern == "hopeless":  # one wrong class far above, where exp(h) overflows many times over
    logits[rows, (labels + 1) % num_classes] += np.float32(100 * scale + 30)
  if pattern == "bfloat16":
    logits = np.asarray(jnp.asarray(logits, jnp.bfloat16).astype(jnp.float32))
  return logits, labels


def assert_agrees(found, expected, rtol=1e-5):
  (loss, gradient), (true_loss, true_gradient) = found, expected
  chex.assert_trees_all_close(loss, true_loss, rtol=rtol, atol=1e-35)
  # Class by class, down to where exp in float32 has no digits left beside the largest term.
  largest = np.abs(true_gradient).max(axis=1, keepdims=True)
  error = np.abs(np.asarray(gradient, np.float64) - true_gradient)
  assert np.all(error <= rtol * np.abs(true_gradient) + 1e-16 * largest + 1e-35)


@pytest.mark.parametrize("num_classes", [2, 3, 10, 101, 1000, 21841])
def test_agrees_with_float64(num_classes):
  @hypothesis.settings(max_examples=250 if num_classes < 21841 else 40, deadline=None, database=None)
  @hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    exponent=st.floats(-3, 3),
    pattern=st.sampled_from(["gaussian", "ties", "edge", "solved", "hopeless", "bfloat16"]),
  )
  def agrees(seed, exponent, pattern):
    logits, labels = draw_case(seed, num_classes, 10**exponent, pattern)
    assert_agrees(compiled(logits, labels), reference.smoothed_hinge(logits, labels, MARGIN, QUADRATIC))

  agrees()


@pytest.mark.parametrize(
  ("margin", "quadratic"), [(0.1, 0.3), (1.0, 1.0), (30.0, 0.3), (7.0, 0.05), (2.5, 3.0)]
)
def test_agrees_with_float64_for_other_margins_and_coefficients(margin, quadratic):
  for seed, exponent in enumerate(np.linspace(-3, 3, 13)):
    logits, labels = draw_case(seed, 10, 10**exponent, "gaussian")
    found = compiled(logits, labels, margin, quadratic)
    assert_agrees(found, reference.smoothed_hinge(logits, labels, margin, quadratic))


def at_the_edge(offset, ulps):
  """One row: the true class leads one other by the margin, up to some roundings, and two more by far."""
  true = np.float32(offset) + np.float32(MARGIN)
  for _ in range(abs(ulps)):
    true = np.nextafter(true, np.float32(np.copysign(np.inf, ulps)))
  return np.array([true, offset, offset - 20, offset - 3 * MARGIN], np.float32)


@hypothesis.settings(max_examples=300, deadline=None, database=None)
@hypothesis.given(offset=st.floats(-1e3, 1e3, width=32), ulps=st.integers(-4, 4))
def test_edge_of_the_margin_keeps_its_digits(offset, ulps):
  """A violation of a few roundings of the logits is computed to 1e-5: XLA leaves the error-free sum alone."""
  logits, labels = at_the_edge(offset, ulps)[None], np.zeros(1, np.int64)
  assert_agrees(compiled(logits, labels), reference.smoothed_hinge(logits, labels, MARGIN, QUADRATIC))


class TestEdgeOfTheMargin(chex.TestCase):
  @chex.all_variants
  def test_keeps_its_digits(self):
    offsets = np.random.default_rng(0).standard_normal(40) * np.logspace(-3, 3, 40)
    logits = np.stack([at_the_edge(offset, ulps) for offset in offsets for ulps in (-1, 0, 1)])
    labels = np.zeros(len(logits), np.int64)
    found = self.variant(value_and_gradient)(jnp.asarray(logits), labels)
    assert_agrees(found, reference.smoothed_hinge(logits, labels, MARGIN, QUADRATIC))


@pytest.mark.parametrize("num_classes", [2, 1000])
def test_zero_exactly_where_the_margin_is_kept(num_classes):
  logits = np.zeros((3, num_classes), np.float32)
  logits[:, 0] = [MARGIN, MARGIN + 1, np.nextafter(np.float32(MARGIN), np.float32(0))]
  loss, gradient = compiled(logits, np.zeros(3, np.int32))
  assert not np.any(loss[:2])
  assert not np.any(gradient[:2])
  assert loss[2] > 0
  assert np.all(gradient[2] != 0)


def test_value_that_the_clamped_form_gets_wrong():
  logits = np.zeros((1, 1000), np.float32)
  logits[0, 0] = 6.99
  gap = MARGIN - float(np.float32(6.99))
  expected = np.log1p(999 * np.expm1(QUADRATIC * gap**2))
  chex.assert_trees_all_close(smoothed_hinge(logits, np.zeros(1, np.int32)), np.array([expected]), rtol=1e-6)


@pytest.mark.parametrize("num_classes", [2, 10, 1000, 21841])
def test_equal_logits_have_the_closed_form(num_classes):
  expected = np.log1p((num_classes - 1) * np.expm1(QUADRATIC * MARGIN**2))
  for level in (0.0, -3.5, 1e3):
    loss = smoothed_hinge(np.full((2, num_classes), level, np.float32), np.array([0, num_classes - 1]))
    chex.assert_trees_all_close(loss, np.full(2, expected), rtol=1e-6)
  if num_classes == 1000:
    assert abs(expected - 21.607) < 5e-4


def test_invariant_to_a_constant_and_gradient_sums_to_zero():
  rng = np.random.default_rng(0)
  # Multiples of 1/8 below 2^17 stay exact under the shift, so that the results must be the same bits.
  logits, labels = np.float32(rng.integers(-200, 200, (16, 10)) / 8), rng.integers(0, 10, 16)
  loss, gradient = compiled(logits, labels)
  for shift in (-1024.0, 0.5, 65536.0):
    shifted_loss, shifted_gradient = compiled(logits + np.float32(shift), labels)
    chex.assert_trees_all_equal(shifted_loss, loss)
    chex.assert_trees_all_equal(shifted_gradient, gradient)
  chex.assert_trees_all_close(gradient.sum(axis=1), 0, atol=2e-6)


def test_permuting_the_classes_permutes_the_gradient():
  logits, labels = draw_case(0, 10, 5.0, "gaussian")
  order = np.random.default_rng(1).permutation(10)
  loss, gradient = compiled(logits, labels)
  permuted_loss, permuted_gradient = compiled(logits[:, order], np.argsort(order)[labels])
  chex.assert_trees_all_close(permuted_loss, loss, rtol=1e-6)
  chex.assert_trees_all_close(permuted_gradient, gradient[:, order], rtol=1e-5, atol=1e-7)


def test_convex():
  logits, labels = draw_case(3, 6, 6.0, "gaussian", batch=64)

  def loss(row, label):
    return smoothed_hinge(row[None], label[None])[0]

  hessians = jax.jit(jax.vmap(jax.hessian(loss)))(logits, labels)
  chex.assert_trees_all_close(hessians, np.swapaxes(hessians, 1, 2), rtol=1e-7, atol=1e-5)
  assert np.linalg.eigvalsh(np.asarray(hessians, np.float64)).min() > -1e-5


@pytest.mark.parametrize(("margin", "beyond"), [(2.0, 0.5), (2.0, 3.0), (3.0, 0.1)])
def test_two_wrong_classes_beyond_the_corner_make_it_not_quite_convex(margin, beyond):
  """f(t) = log(2 exp(h(t)) - 1), t the violation of both: f'' = -(2 a m)^2 2 exp(h) / (2 exp(h) - 1)^2."""
  logits = jnp.array([beyond, beyond, 0.0])
  loss = lambda s: losses.multiclass_smoothed_hinge(s[None], jnp.array([2]), margin=margin)[0]  # noqa: E731
  direction = np.array([1.0, 1.0, -2.0]) / np.sqrt(6)  # both violations grow at the rate 3 / sqrt(6)
  slope = 2 * QUADRATIC * margin
  h = slope * (beyond + margin) - QUADRATIC * margin**2
  expected = -1.5 * slope**2 * 2 * np.exp(h) / (2 * np.exp(h) - 1) ** 2
  found = direction @ np.asarray(jax.hessian(loss)(logits), np.float64) @ direction
  chex.assert_trees_all_close(found, expected, rtol=1e-3, atol=1e-6)
  assert expected < 0


def test_continuously_differentiable_at_both_joints():
  for joint in (-MARGIN, 0.0):
    gaps = np.float32(joint) + np.array([-1e-4, 0, 1e-4], np.float32)
    logits = np.stack([np.zeros(3, np.float32), gaps], axis=1)
    loss, gradient = compiled(logits, np.zeros(3, np.int32))
    # No jump: over a width of 2e-4 the loss changes at a rate of at most 2 a m, the gradient at most 2 a.
    assert np.ptp(loss) <= 2 * QUADRATIC * MARGIN * 2e-4 + 1e-5
    assert np.ptp(gradient[:, 1]) <= 2 * QUADRATIC * 2e-4 + 1e-5


@pytest.mark.parametrize("num_classes", [2, 1000])
def test_far_violation_is_linear_with_slope_twice_the_coefficient_times_the_margin(num_classes):
  gaps = np.float32([50, 100, 1e4, 1e20, 1e37])
  logits = np.zeros((5, num_classes), np.float32)
  logits[:, 1] = gaps
  loss, gradient = compiled(logits, np.zeros(5, np.int32))
  slope = 2 * QUADRATIC * MARGIN
  chex.assert_trees_all_close(loss, slope * (np.float64(gaps) + MARGIN) - QUADRATIC * MARGIN**2, rtol=1e-6)
  chex.assert_trees_all_close(gradient[:, 1], slope, rtol=1e-6)
  chex.assert_trees_all_close(gradient[:, 0], -slope, rtol=1e-6)


def test_largest_finite_logits_saturate_with_finite_value_and_exact_slope():
  largest = np.finfo(np.float32).max
  logits = np.array(
    [[-largest, largest, 0], [largest, -largest, 0], [largest, largest, -largest]], np.float32
  )
  loss, gradient = compiled(logits, np.zeros(3, np.int32))
  chex.assert_tree_all_finite((loss, gradient))
  chex.assert_trees_all_close(gradient[0], np.array([-4.2, 4.2, 0]), rtol=1e-6)
  assert not np.any(gradient[1])
  chex.assert_trees_all_close(loss[2], QUADRATIC * MARGIN**2, rtol=1e-6)


def test_two_classes_reduce_to_the_smoothed_hinge():
  violation = np.linspace(0, 40, 81)
  logits = np.stack([np.zeros(81), violation - MARGIN], axis=1).astype(np.float32)
  expected = np.where(
    violation < MARGIN, QUADRATIC * violation**2, QUADRATIC * MARGIN * (2 * violation - MARGIN)
  )
  chex.assert_trees_all_close(smoothed_hinge(logits, np.zeros(81, np.int32)), expected, rtol=1e-6)


def test_one_class_has_nothing_to_violate():
  loss, gradient = compiled(np.float32([[3.0], [-1e3]]), np.zeros(2, np.int32))
  assert not np.any(loss)
  assert not np.any(gradient)


def test_derivatives_of_second_order():
  # Away from the two joints, where the second derivative jumps.
  logits = jnp.float32([[0.0, -5.0, 3.0, 1.0], [2.0, -3.0, -8.0, -1.0], [0.0, 20.0, 19.0, -2.0]])
  labels = jnp.array([0, 1, 0])
  loss = jax.jit(lambda s: smoothed_hinge(s, labels))
  check_grads(loss, (logits,), order=2, modes=["fwd", "rev"], eps=1e-2, rtol=3e-2)


def test_hessian_products_agree_forward_over_reverse_and_reverse_over_reverse():
  logits, labels = draw_case(5, 10, 3.0, "gaussian")
  direction = jax.random.normal(jax.random.key(0), logits.shape)
  gradient = jax.grad(lambda s: smoothed_hinge(s, labels).sum())
  forward = jax.jit(lambda s: jax.jvp(gradient, (s,), (direction,))[1])(logits)
  reverse = jax.jit(lambda s: jax.vjp(gradient, s)[1](direction)[0])(logits)
  chex.assert_trees_all_close(forward, reverse, rtol=1e-4, atol=1e-5)


def test_distribution_is_the_expected_loss_over_its_classes():
  logits, _ = draw_case(7, 5, 4.0, "gaussian")
  weights = jax.nn.softmax(jax.random.normal(jax.random.key(1), (4, 5)))

  def dense(s):
    return smoothed_hinge(s, weights).sum()

  def by_class(s):
    return sum(weights[:, c] * smoothed_hinge(s, jnp.full(4, c)) for c in range(5)).sum()

  (loss, gradient), (true_loss, true_gradient) = (
    jax.jit(jax.value_and_grad(f))(logits) for f in (dense, by_class)
  )
  chex.assert_trees_all_close(loss, true_loss, rtol=1e-5)
  chex.assert_trees_all_close(gradient, true_gradient, rtol=1e-4, atol=1e-5)


def test_distribution_keeps_no_array_of_batch_by_classes_by_classes():
  batch, classes = 4, 64
  logits, weights = jnp.zeros((batch, classes)), jnp.full((batch, classes), 1 / classes)
  backward = jax.jit(jax.grad(lambda s: smoothed_hinge(s, weights).sum()))
  memory = backward.lower(logits).compile().memory_analysis()
  if memory is None:
    pytest.skip("this backend does not report its memory")
  assert memory.temp_size_in_bytes < 4 * batch * classes**2 / 4


@pytest.mark.parametrize(
  ("name", "value"), [("margin", 0.0), ("margin", -1.0), ("quadratic", 0.0), ("margin", np.nan)]
)
def test_a_bad_hyperparameter_is_named(name, value):
  with pytest.raises(ConfigError, match=name):
    losses.multiclass_smoothed_hinge(
      jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32), **{"margin": 7.0, name: value}
    )


def test_margin_must_be_given():
  with pytest.raises(TypeError, match="margin"):
    losses.multiclass_smoothed_hinge(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32))


def test_labels_that_do_not_fit_are_refused_in_one_line():
  with pytest.raises(DataError, match=r"labels are float32 \[2\]; write int \[2\] or float \[2, 3\]"):
    smoothed_hinge(jnp.zeros((2, 3)), jnp.zeros(2))


@pytest.mark.parametrize(("classes", "least"), [(6, 0.0), (7, -0.032), (10, -0.31), (100, -7.1)])
def test_it_is_not_convex_with_many_classes(classes, least):
  """The least eigenvalue of the Hessian where all violations are equal and below the corner, in float64.

  With p = exp(h) / (1 + (K - 1) (exp(h) - 1)), the Hessian at equal violations has the eigenvalues
  p (h'' + h'^2) on differences of wrong classes, 0 for a constant added to all scores, and, for the true
  score against all others, K (p (h'' + h'^2) - (K - 1) p^2 h'^2).
  """
  x = np.linspace(1e-3, 7, 20_001)[:-1]
  h, slope, curved = 0.3 * x**2, 0.6 * x, 0.6
  part = np.exp(h) / (1 + (classes - 1) * np.expm1(h))
  values = classes * (part * (curved + slope**2) - (classes - 1) * part**2 * slope**2)
  chex.assert_trees_all_close(min(np.min(values), 0.0), least, rtol=0.03, atol=1e-3)
  worst = x[np.argmin(values)]
  logits = jnp.full((1, classes), np.float32(worst - 7)).at[0, 0].set(0.0)
  loss = lambda z: losses.multiclass_smoothed_hinge(z, jnp.zeros(1, int), margin=7.0)[0]  # noqa: E731
  ours = np.linalg.eigvalsh(np.float64(jax.hessian(loss)(logits)[0, :, 0]))[0]
  chex.assert_trees_all_close(min(ours, 0.0), least, rtol=0.03, atol=1e-3)


@pytest.mark.parametrize(("classes", "steepest"), [(1000, 17.3), (21_841, 80.9)])
def test_its_slope_grows_with_the_number_of_classes(classes, steepest):
  x = jnp.geomspace(1e-3, 7, 200)
  logits = lambda x: jnp.full((1, classes), x - 7).at[0, 0].set(0.0)  # noqa: E731
  loss = lambda z: losses.multiclass_smoothed_hinge(z, jnp.zeros(1, int), margin=7.0)[0]  # noqa: E731
  slopes = jax.lax.map(lambda x: jnp.abs(jax.grad(loss)(logits(x))[0, 0]), x)
  chex.assert_trees_all_close(jnp.max(slopes), steepest, rtol=0.01)
