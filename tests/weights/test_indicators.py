"""Gradient similarity and backward transfer: closed forms, limits by JVP, and where there is no number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import tree, weights
from jaxtl.errors import ConfigError, InputError

C = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
ALPHAS = np.linspace(0, 1, 21)


@pytest.mark.parametrize(
  ("direction", "expected"),
  [(C, 1.0), (tree.scale(-0.2, C), -1.0), ({"a": jnp.array([4.0, 5.0]), "b": jnp.array([[-3.0]])}, 0.0)],
)
def test_similarity_of_a_linear_loss(direction, expected):
  gradient = jax.grad(lambda w: -tree.dot(C, w))(tree.zeros_like(C))
  found = weights.gradient_similarity(gradient, direction)
  np.testing.assert_allclose(found.value, expected, atol=1e-6)
  assert found.defined
  assert -1 <= found.value <= 1


@pytest.mark.parametrize("nothing", ["gradient", "direction"])
def test_similarity_with_nothing_is_not_defined(nothing):
  trees = {"gradient": C, "direction": C} | {nothing: tree.zeros_like(C)}
  found = weights.gradient_similarity(**trees)
  assert found == (0.0, False, None)


def test_frozen_leaves_and_counters_are_left_out():
  gradient = {"tower": C, "head": jnp.full(5, 100.0), "steps": jnp.int32(7)}
  direction = {"tower": tree.scale(-1.0, C), "head": jnp.zeros(5), "steps": jnp.int32(9)}
  found = weights.gradient_similarity(gradient, direction, where="^(tower|steps)")
  np.testing.assert_allclose(found.value, 1.0, rtol=1e-6)
  assert weights.gradient_similarity(gradient, direction).value < 0.1
  slope, distance = weights.slope_along(gradient, direction, where="^tower")
  np.testing.assert_allclose([slope, distance], [-25.0, 5.0], rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_limit_at_zero_is_the_jvp_and_bounds_the_transfer(seed):
  keys = jax.random.split(jax.random.key(seed), 4)
  x, target = jax.random.normal(keys[0], (20, 3)), jax.random.normal(keys[1], (20, 2))
  before, after = ({"w": jax.random.normal(key, (3, 2))} for key in keys[2:])

  def loss(params):
    return jnp.mean((jnp.tanh(x @ params["w"]) - target) ** 2)

  direction, gradient = weights.between(before, after), jax.grad(loss)(before)
  slope, distance = weights.slope_along(gradient, direction)
  np.testing.assert_allclose(slope, jax.jvp(loss, (before,), (direction,))[1], rtol=1e-5, atol=1e-7)
  at = weights.line(before, after)
  found = weights.backward_transfer(
    {float(a): float(loss(at(a))) for a in ALPHAS}, distance=distance, slope=slope
  )
  similarity = weights.gradient_similarity(gradient, direction).value
  limit = similarity * float(tree.norm(gradient))
  np.testing.assert_allclose(limit, -slope / distance, rtol=1e-5)
  assert found.value >= limit - 1e-6


@pytest.mark.parametrize(("h", "expected", "where"), [(3.0, 0.7, 0.0), (0.0, 0.7, None), (-3.0, 2.2, 1.0)])
def test_transfer_along_a_parabola(h, expected, where):
  # s = 0.7; the secant at alpha is s - h alpha / 2
  losses = {float(a): 2.0 - 0.7 * a + h * a**2 / 2 for a in ALPHAS}
  found = weights.backward_transfer(losses, distance=4.0, slope=-0.7)
  np.testing.assert_allclose(found.value, expected / 4, rtol=1e-12)
  assert where is None or found.alpha == where
  assert found.defined


def test_a_loss_that_only_rises_has_negative_transfer():
  found = weights.backward_transfer({0.0: 1.0, 1.0: 2.0}, distance=2.0, slope=0.5)
  assert found == (-0.25, True, 0.0)


def test_without_a_gradient_the_secants_count():
  found = weights.backward_transfer({0.0: 1.0, 0.5: 0.75, 1.0: 2.0}, distance=1.0, slope=0.0)
  assert found == (0.5, True, 0.5)


def test_alphas_near_zero_and_beyond_one_do_not_count():
  losses = {0.0: 1.0, 1e-6: 0.5, 0.5: 1.0, 1.2: -9.0}
  assert weights.backward_transfer(losses, distance=1.0, slope=0.1).value == 0.0


def test_transfer_without_a_way_is_not_defined():
  assert weights.backward_transfer({0.0: 1.0, 1.0: 1.0}, distance=0.0, slope=0.0) == (0.0, False, None)


@pytest.mark.parametrize(
  ("call", "error", "message"),
  [
    (lambda: weights.gradient_similarity(C, {"a": C["a"]}), InputError, "b is only in the gradient"),
    (lambda: weights.gradient_similarity(tree.scale(jnp.nan, C), C), InputError, "a of the gradient is not"),
    (lambda: weights.gradient_similarity(C, C, where="head"), ConfigError, "'head' matches no parameter"),
    (lambda: weights.backward_transfer({0.5: 1.0}, distance=1.0, slope=0.0), ConfigError, "no alpha 0"),
    (lambda: weights.backward_transfer({0.0: 1.0}, distance=-1.0, slope=0.0), InputError, "distance -1.0"),
    (lambda: weights.backward_transfer({0.0: 1.0}, distance=1.0, slope=np.nan), InputError, "slope nan"),
    (lambda: weights.backward_transfer({0.0: np.inf}, distance=1.0, slope=0.0), InputError, "inf at alpha 0"),
  ],
)
def test_bad_input_is_one_line(call, error, message):
  with pytest.raises(error, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)
