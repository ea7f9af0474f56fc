"""The baseline losses against their definitions in float64, and each option flipped."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtl import losses
from jaxtl.errors import ConfigError

RNG = np.random.default_rng(0)
LOGITS = (3 * RNG.standard_normal((8, 5))).astype(np.float32)
LABELS = RNG.integers(0, 5, 8)
ROWS = np.arange(8)
ONE_HOT = np.eye(5)[LABELS]
SOFT = RNG.dirichlet(np.ones(5), 8).astype(np.float32)


def log_softmax(x):
  x = x.astype(np.float64)
  return x - np.log(np.sum(np.exp(x), axis=1, keepdims=True))


def cross_entropy(logits, distribution):
  return -np.sum(distribution * log_softmax(logits), axis=1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_spreads_its_smoothing_over_all_classes(smoothing, soft):
  t = (1 - smoothing) * (SOFT if soft else ONE_HOT) + smoothing / 5
  loss = losses.softmax_cross_entropy(LOGITS, SOFT if soft else LABELS, label_smoothing=smoothing)
  chex.assert_trees_all_close(loss, cross_entropy(LOGITS, t), rtol=1e-5, atol=1e-6)


def test_cross_entropy_at_equal_logits_is_log_k():
  loss = losses.softmax_cross_entropy(np.zeros((2, 1000), np.float32), np.array([0, 999]))
  chex.assert_trees_all_close(loss, np.full(2, 6.907755), rtol=1e-6)


def test_multiclass_hinge_is_crammer_and_singer():
  wrong = np.where(ONE_HOT > 0, -np.inf, LOGITS).max(axis=1)
  expected = np.maximum(0, 1 + wrong - LOGITS[ROWS, LABELS])
  chex.assert_trees_all_close(losses.multiclass_hinge(LOGITS, LABELS), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("margin", [1.0, 2.5])
def test_squared_hinge_is_one_against_rest(margin):
  sign = 2 * ONE_HOT - 1
  expected = np.sum(np.maximum(0, margin - sign * LOGITS) ** 2, axis=1)
  chex.assert_trees_all_close(losses.squared_hinge(LOGITS, LABELS, margin=margin), expected, rtol=1e-5)


@pytest.mark.parametrize("penalty", [6e-4, 0.5])
def test_logit_penalty_adds_half_the_squared_norm(penalty):
  expected = cross_entropy(LOGITS, ONE_HOT) + penalty / 2 * np.sum(np.float64(LOGITS) ** 2, axis=1)
  chex.assert_trees_all_close(losses.logit_penalty(LOGITS, LABELS, penalty=penalty), expected, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.04, 1.0])
def test_logit_norm_is_cross_entropy_of_the_direction(temperature):
  direction = LOGITS / np.linalg.norm(LOGITS, axis=1, keepdims=True)
  loss = losses.logit_norm(LOGITS, LABELS, temperature=temperature)
  chex.assert_trees_all_close(loss, cross_entropy(direction / temperature, ONE_HOT), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e3, 1e37])
def test_logit_norm_does_not_see_the_length(scale):
  expected = losses.logit_norm(LOGITS, LABELS)
  chex.assert_trees_all_close(
    losses.logit_norm(LOGITS * np.float32(scale), LABELS), expected, rtol=1e-5, atol=1e-5
  )


def test_logit_norm_of_zeros_is_log_k_with_no_gradient():
  zeros = jnp.zeros((8, 5))
  loss, pullback = jax.vjp(lambda s: losses.logit_norm(s, LABELS), zeros)
  chex.assert_trees_all_close(loss, np.log(5), rtol=1e-6)
  chex.assert_tree_all_finite(pullback(jnp.ones(8)))


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_cosine_softmax_is_cross_entropy_at_a_temperature(temperature):
  cosines = np.tanh(LOGITS)
  loss = losses.cosine_softmax(cosines, LABELS, temperature=temperature)
  chex.assert_trees_all_close(loss, cross_entropy(cosines / temperature, ONE_HOT), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [0.0, float(np.log(5))])
def test_sigmoid_cross_entropy_sums_binary_ones(shift):
  s = np.float64(LOGITS) - shift
  expected = np.sum(ONE_HOT * np.log1p(np.exp(-s)) + (1 - ONE_HOT) * np.log1p(np.exp(s)), axis=1)
  chex.assert_trees_all_close(
    losses.sigmoid_cross_entropy(LOGITS, LABELS, logit_shift=shift), expected, rtol=1e-5
  )


@pytest.mark.parametrize("epsilon", [2.0, -1.0, 0.0])
@pytest.mark.parametrize("soft", [False, True])
def test_poly1_adds_the_first_polynomial_term(epsilon, soft):
  t = SOFT if soft else ONE_HOT
  expected = cross_entropy(LOGITS, t) + epsilon * np.sum(t * (1 - np.exp(log_softmax(LOGITS))), axis=1)
  loss = losses.poly1(LOGITS, SOFT if soft else LABELS, epsilon=epsilon)
  chex.assert_trees_all_close(loss, expected, rtol=1e-5, atol=1e-6)


def test_poly1_keeps_its_digits_where_the_true_class_is_nearly_certain():
  logits = np.float32([[0.0, -40.0, -50.0]])
  missing = np.exp(-40.0)
  gradient = jax.grad(lambda s: losses.poly1(s, np.zeros(1, np.int32))[0])(logits)
  chex.assert_trees_all_close(gradient[0, 1], 3 * missing, rtol=1e-5)  # cross-entropy's and twice the term's


@pytest.mark.parametrize("gamma", [2.0, 0.0, 0.5])
@pytest.mark.parametrize("alpha", [0.25, None])
def test_focal_is_the_one_of_optax_summed_over_classes(gamma, alpha):
  expected = optax.sigmoid_focal_loss(
    LOGITS, jnp.asarray(ONE_HOT, jnp.float32), alpha=alpha, gamma=gamma
  ).sum(-1)
  loss = losses.focal(LOGITS, LABELS, gamma=gamma, alpha=alpha)
  chex.assert_trees_all_close(loss, expected, rtol=1e-4, atol=1e-6)


def test_focal_without_focus_or_weights_is_sigmoid_cross_entropy():
  loss = losses.focal(LOGITS, SOFT, gamma=0.0, alpha=None)
  chex.assert_trees_all_close(loss, losses.sigmoid_cross_entropy(LOGITS, SOFT), rtol=1e-5)


@pytest.mark.parametrize(
  ("name", "option", "value"),
  [
    ("softmax_cross_entropy", "label_smoothing", 1.5),
    ("squared_hinge", "margin", 0.0),
    ("logit_penalty", "penalty", -1.0),
    ("logit_norm", "temperature", 0.0),
    ("cosine_softmax", "temperature", float("inf")),
    ("sigmoid_cross_entropy", "logit_shift", float("nan")),
    ("poly1", "epsilon", float("inf")),
    ("focal", "gamma", -1.0),
    ("focal", "alpha", 2.0),
  ],
)
def test_a_bad_hyperparameter_is_named(name, option, value):
  with pytest.raises(ConfigError, match=option):
    getattr(losses, name)(LOGITS, LABELS, **{option: value})


def test_a_group_is_a_task_of_its_own():
  """Value and gradient are those of the group's own columns, and other columns get no gradient."""
  rng = np.random.default_rng(0)
  logits = jnp.asarray(rng.normal(size=(6, 7)), jnp.float32)
  labels = jnp.array([0, 1, 2, 4, 5, 6])
  sizes, edges = (2, 1, 4), [0, 2, 3, 7]
  found, pullback = jax.vjp(lambda z: losses.grouped_cross_entropy(z, labels, sizes=sizes), logits)
  gradient = pullback(jnp.ones(6))[0]
  for row, label in enumerate(labels):
    group = next(i for i in range(3) if edges[i] <= label < edges[i + 1])
    own = slice(edges[group], edges[group + 1])
    alone = lambda z, o=own, y=label: losses.softmax_cross_entropy(z[None, o], jnp.array([y - o.start]))[0]  # noqa: E731
    chex.assert_trees_all_close(found[row], alone(logits[row]), rtol=1e-6)
    chex.assert_trees_all_close(gradient[row], jax.grad(alone)(logits[row]), rtol=1e-6, atol=1e-7)


def test_sizes_of_groups_must_add_up_to_the_classes():
  with pytest.raises(ConfigError, match=r"sizes are \(2, 2\); write positive numbers with the sum 5"):
    losses.grouped_cross_entropy(jnp.zeros((1, 5)), jnp.array([0]), sizes=(2, 2))
