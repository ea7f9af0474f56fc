"""The search in one layer on functions whose minimum is known, and the choice among layers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from jaxtl import weights
from jaxtl.errors import ConfigError, NonFiniteError
from jaxtl.weights import Finding, Group

HESSIAN, OFFSET = np.diag([1.0, 5.0]), np.array([0.8, 1.3])
GRADIENT = HESSIAN @ OFFSET


class Counted:
  """A function that counts its calls."""

  def __init__(self, function):
    self.function, self.calls = function, []

  def __call__(self, t):
    self.calls.append(t)
    return float(self.function(t))


def quadratic(t):
  """The loss of the quadratic at distance t along its gradient."""
  place = OFFSET - t * GRADIENT / np.linalg.norm(GRADIENT)
  return place @ HESSIAN @ place / 2


@pytest.mark.parametrize("scale", [0.1, np.linalg.norm(OFFSET), 50.0])
def test_a_quadratic_has_its_curvature_and_its_fall_whatever_the_scale(scale):
  found = weights.descend(Counted(quadratic), scale=scale, longest=30.0)
  g, curvature = np.linalg.norm(GRADIENT), GRADIENT @ HESSIAN @ GRADIENT
  np.testing.assert_allclose(found.step, g**3 / curvature, rtol=1e-8)
  np.testing.assert_allclose(found.delta, g**4 / (2 * curvature), rtol=1e-12)
  np.testing.assert_allclose([found.delta, found.delta / found.step**2], [4.3408186, 2.4701562], rtol=1e-7)
  assert (found.unbounded, found.unimodal) == (False, True)


def test_nine_evaluations_find_a_minimum_within_a_few_per_cent_of_the_weights():
  function = Counted(lambda t: (t - 0.03) ** 2)
  found = weights.descend(function, scale=1.0)
  assert found.num_evaluations == len(function.calls) == len(set(function.calls)) <= 9
  np.testing.assert_allclose(found.step, 0.03, rtol=1e-6)


def test_a_loss_that_is_no_parabola_is_minimised_to_a_thousandth_of_its_fall():
  """A softmax regression along its gradient, against scipy's minimum."""
  excess, counts = [], []
  for seed in range(40):
    rng = np.random.default_rng(seed)
    x, w, teacher = rng.standard_normal((40, 6)), rng.standard_normal((6, 4)), rng.standard_normal((6, 4))
    y = np.where(rng.random(40) < 0.7, np.argmax(x @ teacher, axis=1), rng.integers(0, 4, 40))
    hot, z = np.eye(4)[y], x @ w
    gradient = x.T @ (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) - hot)
    gradient /= np.linalg.norm(gradient)

    def loss(t, x=x, w=w, y=y, gradient=gradient):
      logits = x @ (w - t * gradient)
      return np.mean(np.logaddexp.reduce(logits, axis=1) - logits[np.arange(40), y])

    found = weights.descend(loss, scale=np.linalg.norm(w))
    bounds = (0.5 * found.step, 2 * found.step)
    best = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options=dict(xatol=1e-9)).fun
    excess.append((found.start - found.delta - best) / found.delta)
    counts.append(found.num_evaluations - math.ceil(math.log2(100 * found.step / np.linalg.norm(w))))
  assert max(excess) < 1e-3
  assert np.median(excess) < 1e-4
  assert np.mean(counts) < 8  # beside the doublings


@pytest.mark.parametrize("step", [1e-5, 3e-4, 0.004])
def test_a_minimum_far_below_the_first_step_is_found(step):
  found = weights.descend(lambda t: (t - step) ** 2, scale=1.0)
  np.testing.assert_allclose(found.step, step, rtol=1e-6)
  assert found.num_evaluations <= 13


@given(st.floats(-4, 0), st.floats(0.2, 5), st.floats(-1, 1))
@settings(max_examples=60, deadline=None)
def test_the_fall_is_never_negative_and_never_less_than_that_of_a_grid_by_much(place, power, tilt):
  """phi(t) = |t / t* - 1|^(1 + p) with a cubic: one valley, not symmetric."""
  best = 10.0**place
  phi = lambda t: abs(t / best - 1) ** (1 + power) * (1 + 0.3 * tilt * math.tanh(t / best - 1))  # noqa: E731
  found = weights.descend(phi, scale=1.0)
  assert found.delta >= 0
  assert found.delta == phi(0.0) - phi(found.step)
  assert phi(found.step) <= 0.05 * phi(0.0) or phi(found.step) <= min(map(phi, np.geomspace(1e-3, 3, 40)))


def test_a_loss_that_falls_without_end_is_unbounded_at_the_longest_step():
  found = weights.descend(lambda t: -t, scale=2.0)
  assert (found.step, found.delta, found.unbounded) == (6.0, 6.0, True)
  shorter = weights.descend(lambda t: -t, scale=2.0, longest=0.5)
  assert (shorter.step, shorter.unbounded) == (1.0, True)


def test_the_first_step_is_where_the_search_begins():
  calls = Counted(quadratic)
  weights.descend(calls, scale=1.0, first=0.5)
  assert calls.calls[:3] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("function", [lambda t: t, lambda t: 1.0, lambda t: 1 + t**2])
def test_nothing_better_is_a_step_of_zero(function):
  found = weights.descend(function, scale=1.0)
  assert (found.step, found.delta, found.unbounded) == (0.0, 0.0, False)
  assert found.num_evaluations <= 8


def test_a_fall_within_rounding_counts_as_none():
  """The noise of an evaluation must not become a curvature."""
  noisy = lambda t: 1.0 - 1e-8 * (0 < t < 1e-4) + max(0.0, t - 1e-4)  # noqa: E731
  assert weights.descend(noisy, scale=1.0).step > 0
  assert weights.descend(noisy, scale=1.0, resolution=1e-6).step == 0


def test_a_loss_that_is_infinite_far_away_is_a_rise():
  found = weights.descend(lambda t: (t - 0.7) ** 2 if t < 1 else math.nan, scale=1.0)
  np.testing.assert_allclose(found.step, 0.7, atol=0.1)
  assert not found.unbounded
  found = weights.descend(lambda t: (t - 0.003) ** 2 if t < 0.004 else math.inf, scale=1.0)
  np.testing.assert_allclose(found.step, 0.003, rtol=0.2)


def test_a_second_valley_is_told():
  found = weights.descend(lambda t: math.cos(40 * t) - t, scale=1.0, first=0.1, longest=2.0)
  assert found.delta > 0
  assert not found.unimodal


@pytest.mark.parametrize(
  ("keywords", "message"),
  [
    (dict(scale=0.0), "scale is 0.0"),
    (dict(scale=math.nan), "scale is nan"),
    (dict(first=0.0), "first is 0.0"),
    (dict(first=4.0), "longest is 3.0"),
    (dict(longest=math.inf), "longest is inf"),
    (dict(resolution=1.0), "resolution is 1.0"),
  ],
)
def test_impossible_keywords_of_a_descent_are_refused(keywords, message):
  with pytest.raises(ConfigError, match=message):
    weights.descend(quadratic, **({"scale": 1.0} | keywords))


def test_a_start_that_is_not_finite_is_refused():
  with pytest.raises(NonFiniteError, match="the loss is nan at the weights"):
    weights.descend(lambda t: math.nan, scale=1.0)


def layer(name, count=100, delta=1.0, step=1.0, norm=2.0, **rest):
  found = dict(unbounded=False, unimodal=True, num_evaluations=8) | rest
  return Finding(Group(name, (name,), count), norm, 1.0, 5.0, delta, step, **found)


def test_the_curvature_of_a_finding():
  found = layer("a", delta=3.0, step=0.5, norm=4.0)
  assert (found.kappa, found.kappa_rel, found.relative_step) == (12.0, 192.0, 0.125)
  nothing = layer("a", delta=0.0, step=0.0)
  assert (nothing.kappa, nothing.kappa_rel, nothing.relative_step) == (None, None, 0.0)
  assert layer("a", norm=0.0).relative_step is None


def test_the_layer_to_perturb_has_the_largest_curvature_and_the_one_to_update_the_most_room():
  layers = [layer("a", delta=2.0), layer("b", delta=1.0, step=0.1), layer("c", delta=0.5, norm=100.0)]
  choice = weights.choose(layers)
  assert (choice.perturb, choice.update, choice.small) == ("b", "a", frozenset())
  assert weights.choose(layers, by="kappa_rel").perturb == "c"


def test_small_layers_are_left_out_of_the_choice():
  layers = [layer("a"), layer("norm", count=10, delta=9.0, step=0.1), layer("b", delta=0.5), layer("c", 2000)]
  median = 100
  assert weights.choose(layers, smallest=11 / median).small == {"norm"}
  assert weights.choose(layers, smallest=10 / median).perturb == "norm"
  assert weights.choose(layers).update == "norm"  # 10 of a median of 100 is not below 1 %
  tiny = [layer("a", 10_000), layer("norm", 99, delta=9.0, step=0.1), layer("b", 10_000, delta=0.5)]
  choice = weights.choose(tiny)
  assert (choice.perturb, choice.update, choice.small) == ("a", "a", {"norm"})


def test_what_is_unbounded_may_be_updated_and_is_not_perturbed():
  choice = weights.choose([layer("a", delta=9.0, step=0.1, unbounded=True), layer("b")])
  assert (choice.perturb, choice.update) == ("b", "a")


def test_where_nothing_is_better_nothing_is_chosen():
  choice = weights.choose([layer("a", delta=0.0, step=0.0), layer("b", delta=0.0, step=0.0)])
  assert (choice.perturb, choice.update) == (None, None)


def test_of_equal_layers_the_last_is_chosen_and_what_is_not_finite_is_not():
  choice = weights.choose([layer("a"), layer("b"), layer("c", delta=math.nan)])
  assert (choice.perturb, choice.update) == ("b", "b")
  assert weights.choose([layer("c", delta=math.inf), layer("a")]).update == "a"


def test_impossible_choices_are_refused():
  with pytest.raises(ConfigError, match="by is 'delta'"):
    weights.choose([layer("a")], by="delta")
  with pytest.raises(ConfigError, match="smallest is 2"):
    weights.choose([layer("a")], smallest=2)
  with pytest.raises(ConfigError, match="no layers to choose from"):
    weights.choose([])
