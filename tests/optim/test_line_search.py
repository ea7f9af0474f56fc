"""Line searches against functions whose minimum is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize

from jaxtl.optim import line_search

SEARCHES = {
  "newton": lambda loss, start, cap=1e4: line_search.newton(loss, jnp.float32(start), cap=cap),
  "equispaced": lambda loss, start, cap=1e4: line_search.equispaced(
    loss, jnp.float32(start), cap=cap, num_trials=16
  ),
  "geometric": lambda loss, start, cap=1e4: line_search.geometric(
    loss, jnp.float32(start), at_zero=loss(jnp.float32(0)), cap=cap
  ),
}


def parabola(at):
  return lambda eta: (eta / at - 1) ** 2


def cross_entropy(seed=0, rows=20, classes=4):
  """Of logits that are affine in eta, along minus their gradient's direction in a random linear layer."""
  rng = np.random.default_rng(seed)
  features, kernel = rng.normal(size=(rows, 6)), rng.normal(size=(6, classes))
  labels = jnp.asarray(rng.integers(0, classes, rows))
  z = jnp.asarray(features @ kernel, jnp.float32)
  errors = jax.nn.softmax(z) - jax.nn.one_hot(labels, classes)
  dz = jnp.asarray(features @ (features.T @ np.asarray(errors)) / rows, jnp.float32)
  return lambda eta: jnp.mean(optax.softmax_cross_entropy_with_integer_labels(z - eta * dz, labels))


@pytest.mark.parametrize("start", [1e-5, 0.01, 1.0, 300.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_newton_finds_the_minimum_of_a_cross_entropy_from_anywhere(seed, start):
  loss = cross_entropy(seed)
  found = jax.jit(lambda: SEARCHES["newton"](loss, start))()
  slope = jax.grad(loss)
  expected = optimize.brentq(lambda eta: float(slope(jnp.float32(eta))), 1e-4, 1e3, xtol=1e-7)
  assert float(found.eta) == pytest.approx(expected, rel=2e-5)
  assert not found.unbounded
  assert float(found.start) == float(found.eta)


@pytest.mark.parametrize("at", [1e-3, 0.013, 0.7, 1.0, 37.0, 5000.0])
def test_newton_finds_the_minimum_of_a_parabola(at):
  assert float(SEARCHES["newton"](parabola(at), 1.0).eta) == pytest.approx(at, rel=1e-5)


@pytest.mark.parametrize("start", [1e-2, 1.0, 64.0])
@pytest.mark.parametrize("at", [0.01, 0.3, 40.0])
def test_equispaced_trials_reach_from_zero_to_the_first_that_is_worse(at, start):
  found = SEARCHES["equispaced"](parabola(at), start)
  # Twice the minimum is as good as 0: the grid ends at most at twice that, and has sixteenths of it.
  assert abs(float(found.eta) - at) <= 4 * at / 16 / 2 * 1.01
  assert not found.unbounded


def test_equispaced_trials_are_those_of_the_released_code():
  """Doubled from 1 while no worse than the start, then sixteen points up to the first that is worse."""
  loss = cross_entropy(2)
  eta = 1.0
  while float(loss(eta)) <= float(loss(0.0)):
    eta *= 2
  points = eta * np.arange(1, 17) / 16
  expected = points[np.argmin([float(loss(float(point))) for point in points])]
  assert float(SEARCHES["equispaced"](loss, 1.0).eta) == pytest.approx(expected, rel=1e-6)


def test_more_trials_come_closer():
  loss = parabola(0.61)
  few, many = (line_search.equispaced(loss, jnp.float32(1), cap=1e4, num_trials=n).eta for n in (3, 300))
  assert abs(float(many) - 0.61) < 0.01 < abs(float(few) - 0.61)


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("at", [1e-6, 0.01, 1 / 17])
def test_no_search_is_worse_than_no_step(name, at):
  """The released code takes 1/16 where the minimum is at 0.01."""
  loss = parabola(at)
  assert float(loss(SEARCHES[name](loss, 1.0).eta)) <= float(loss(0.0))


@pytest.mark.parametrize("name", SEARCHES)
def test_a_loss_that_only_rises_is_left_at_zero(name):
  found = SEARCHES[name](lambda eta: eta**2 + 0.1 * eta, 1.0)
  assert float(found.eta) <= 1e-11
  assert not found.unbounded


@pytest.mark.parametrize("name", ["newton", "equispaced"])
@pytest.mark.parametrize("cap", [100.0, 1e4])
def test_a_loss_that_falls_for_ever_is_unbounded_at_the_cap(name, cap):
  """Also where float32 has long since rounded its slope to zero."""
  found = SEARCHES[name](lambda eta: jnp.log1p(jnp.exp(-3 * eta)), 1.0, cap)
  assert found.unbounded
  assert float(found.start) == 1.0
  found = SEARCHES[name](lambda eta: -eta, 1.0, cap)
  assert (float(found.eta), bool(found.unbounded)) == (pytest.approx(cap), True)


@pytest.mark.parametrize("name", ["newton", "equispaced"])
def test_a_flat_loss_is_unbounded(name):
  assert SEARCHES[name](lambda eta: 0.0 * eta, 1.0).unbounded


def test_geometric_follows_a_minimum_that_is_far_away():
  for at in (1e-3, 500.0):
    start, loss = jnp.float32(1), parabola(at)
    for _ in range(8):
      found = SEARCHES["geometric"](loss, start)
      start = found.start
    assert float(found.eta) == pytest.approx(at, rel=1e-4)


def test_geometric_finds_a_parabola_in_one_call_and_six_evaluations():
  calls = []

  def loss(eta):
    calls.append(eta)
    return (eta - 0.8) ** 2

  found = line_search.geometric(loss, jnp.float32(1), at_zero=jnp.float32(0.64), cap=1e4)
  assert float(found.eta) == pytest.approx(0.8, rel=1e-5)
  assert len(calls) == 6


def test_geometric_is_unbounded_when_it_reaches_the_cap():
  start, flags = jnp.float32(1), []
  for _ in range(6):
    found = SEARCHES["geometric"](lambda eta: -eta, start, 100.0)
    start = found.start
    flags.append(bool(found.unbounded))
  assert flags[-1]
  assert not flags[0]
  assert float(found.eta) == pytest.approx(100.0)


def test_a_function_is_affine_where_its_derivative_reads_no_point():
  x = jnp.ones((2, 3))
  at = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
  assert line_search.is_affine(lambda p: x @ p["w"] + p["b"][None], at)
  assert line_search.is_affine(lambda p: jnp.tanh(x).astype(jnp.bfloat16) @ p["w"].astype(jnp.bfloat16), at)
  assert not line_search.is_affine(lambda p: x @ p["w"] * p["b"][None], at)
  assert not line_search.is_affine(lambda p: jnp.tanh(x @ p["w"]), at)
  assert line_search.is_affine(lambda p: x, at)
