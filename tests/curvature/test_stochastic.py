"""Random estimates beside the truth: their stated errors hold, and polynomials are exact on average."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy import stats

from jaxtl import tree
from jaxtl.curvature import (
  Estimate,
  diagonal,
  frobenius,
  hvp,
  spectral_density,
  trace,
  trace_hutch_plus_plus,
)
from jaxtl.errors import ConfigError, InputError
from tests.curvature.networks import NETWORKS, cross_entropy, dense_hessian, mean_loss

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
SEEDS = range(100)


@functools.cache
def dense(name):
  with jax.enable_x64(True):
    return dense_hessian(*mean_loss(name, cross_entropy))


def held(estimate, truth):
  return abs(estimate.value - truth) <= estimate.error()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
  "method",
  [
    functools.partial(trace, num_samples=16),
    functools.partial(trace_hutch_plus_plus, num_products=48),
    functools.partial(frobenius, num_samples=32),
  ],
)
def test_stated_errors_hold_in_95_of_100_seeds(name, method):
  with jax.enable_x64(True):
    matrix = jnp.asarray(dense(name))
    truth = np.linalg.norm(dense(name)) if method.func is frobenius else np.trace(dense(name))
    product = jax.jit(lambda v: matrix @ v)
    found = [method(product, matrix[0], jax.random.key(seed)) for seed in SEEDS]
  assert sum(held(estimate, truth) for estimate in found) >= 95
  errors = [estimate.value - truth for estimate in found]
  # The stated errors are those that occur, not merely large ones.
  stated = np.median([estimate.standard_error for estimate in found])
  assert 0.5 < np.std(errors) / stated < 2


@pytest.mark.parametrize("name", NETWORKS)
def test_density_moments_hold_in_95_of_100_seeds(name):
  found, eigenvalues = densities_of(name), np.linalg.eigvalsh(dense(name))
  for order in (1, 2, 3):
    truth = np.mean(eigenvalues**order)
    assert sum(held(density.moment(order), truth) for density in found) >= 95
  assert sum(held(density.trace(), eigenvalues.sum()) for density in found) >= 95


@functools.cache
def densities_of(name):
  with jax.enable_x64(True):
    matrix = jnp.asarray(dense(name))
    product = jax.jit(lambda v: matrix @ v)
    keys = [jax.random.key(seed) for seed in SEEDS]
    return [spectral_density(product, matrix[0], key, num_samples=24, num_steps=3) for key in keys]


def of_each(density, count):
  """The densities of `count` probes each that this one has: independent ones."""
  return [
    dataclasses.replace(density, nodes=nodes, weights=weights)
    for nodes, weights in zip(np.split(density.nodes, 24 // count), np.split(density.weights, 24 // count))
  ]


def is_rarer(found, rate):
  """Whether of so many draws a `rate` would have had this few once in 100 times."""
  return sum(found) < stats.binom.ppf(0.01, len(found), rate)


@pytest.mark.parametrize("probes", [4, 6])
def test_one_standard_error_of_few_probes_is_too_small_and_students_t_is_not(probes):
  within = []
  for name in NETWORKS:
    truth = np.trace(dense(name))
    found = [part.trace() for density in densities_of(name) for part in of_each(density, probes)]
    within += [abs(estimate.value - truth) <= estimate.standard_error for estimate in found]
    assert np.mean([held(estimate, truth) for estimate in found]) >= 0.95
  assert is_rarer(within, stats.norm.cdf(1) - stats.norm.cdf(-1))


def test_third_moments_need_many_probes():
  """Few eigenvalues make them: the samples are skewed, and few of them hold less than Student's t states."""
  few = []
  for name in NETWORKS:
    truth = np.mean(np.linalg.eigvalsh(dense(name)) ** 3)
    densities = densities_of(name)
    few += [held(part.moment(3), truth) for density in densities for part in of_each(density, 8)]
    assert np.mean([held(density.moment(3), truth) for density in densities]) >= 0.95
  assert is_rarer(few, 0.99)


def test_a_density_of_all_steps_has_the_true_functions_of_the_spectrum():
  """Enough steps leave only the error of the probes, which more probes bring down."""
  eigenvalues = np.concatenate([np.linspace(-0.1, 0.1, 20), [1.0, 2, 5, 20]])
  rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((24, 24)))
  with jax.enable_x64(True):
    matrix = jnp.asarray(rotation * eigenvalues @ rotation.T)
    found = spectral_density(lambda v: matrix @ v, matrix[0], KEY, num_samples=100, num_steps=24)
  positive = eigenvalues[eigenvalues > 0]
  effective = found.effective_dimension(alpha=0.5)
  truth = np.sum(positive / (positive + 0.5))
  assert held(effective, truth)
  assert effective.standard_error < 0.1 * truth
  grid = np.linspace(-3, 25, 561)
  curve = found.smoothed(grid, width=0.3)
  np.testing.assert_allclose(np.sum(curve) * (grid[1] - grid[0]), 1, rtol=1e-6)
  expected = np.mean(np.exp(-(((grid[:, None] - eigenvalues) / 0.3) ** 2) / 2), axis=1) / (
    0.3 * np.sqrt(2 * np.pi)
  )
  np.testing.assert_allclose(curve, expected, atol=0.1 * expected.max())


@pytest.mark.parametrize(("signs", "resolved"), [((1, 1), True), ((-1, 1), False)])
def test_shorter_rules_tell_an_effective_dimension_that_is_not_resolved(signs, resolved):
  """Few steps resolve x / (x + alpha) beside a bulk of small eigenvalues, but no kink amid them."""
  bulk = np.random.default_rng(0).uniform(0, 0.05, 280) * np.resize(signs, 280)
  eigenvalues = np.concatenate([bulk, np.geomspace(0.5, 30, 8)])
  rotation, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((288, 288)))
  with jax.enable_x64(True):
    matrix = jnp.asarray(rotation * eigenvalues @ rotation.T)
    densities = [spectral_density(lambda v: matrix @ v, matrix[0], KEY, num_steps=m) for m in (10, 288)]
  found, truth = (density.effective_dimension().value for density in densities)
  change = abs(found - densities[0].shorter.effective_dimension().value)
  assert (abs(found - truth) < 1e-4 * truth) == resolved
  assert (change < 0.02 * truth) == resolved


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_effective_dimension_needs_a_positive_curvature(alpha):
  with pytest.raises(ConfigError, match="alpha"):
    spectral_density(lambda v: v, jnp.ones(3), KEY).effective_dimension(alpha=alpha)


def test_effective_dimension_falls_with_alpha():
  found = spectral_density(lambda v: 2 * v, jnp.ones(30), KEY)
  values = [found.effective_dimension(alpha=alpha).value for alpha in (1e-6, 2.0, 1e6)]
  np.testing.assert_allclose(values, [30, 15, 0], atol=1e-3)


def test_the_trace_of_a_diagonal_matrix_is_exact():
  scale = jnp.arange(1.0, 8.0)
  found = trace(lambda v: scale * v, scale, KEY, num_samples=2)
  np.testing.assert_allclose([found.value, found.standard_error], [28, 0], atol=1e-5)


def test_hutch_plus_plus_is_exact_for_a_low_rank_and_better_for_a_decaying_spectrum():
  rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((100, 100)))
  with jax.enable_x64(True):
    low = jnp.asarray(rotation[:, :5] * np.arange(1.0, 6) @ rotation[:, :5].T)
    exact = trace_hutch_plus_plus(lambda v: low @ v, low[0], KEY, num_products=30)
    np.testing.assert_allclose([exact.value, exact.standard_error], [15, 0], atol=1e-10)
    decaying = jnp.asarray(rotation * 0.7 ** np.arange(100) @ rotation.T)
    errors = {}
    for method in (
      functools.partial(trace, num_samples=60),
      functools.partial(trace_hutch_plus_plus, num_products=60),
    ):
      found = [method(lambda v: decaying @ v, decaying[0], jax.random.key(seed)) for seed in range(20)]
      assert {estimate.num_evaluations for estimate in found} == {60}
      errors[method.func] = np.sqrt(np.mean([(x.value - np.trace(decaying)) ** 2 for x in found]))
  assert errors[trace_hutch_plus_plus] < errors[trace] / 20


@pytest.mark.parametrize("name", NETWORKS)
def test_the_diagonal_of_a_network(name):
  with jax.enable_x64(True):
    loss, params = mean_loss(name, cross_entropy)
    found = diagonal(hvp(loss, params), params, KEY, num_samples=200)
    flat = lambda x: np.asarray(ravel_pytree(x)[0])  # noqa: E731
    value, error = flat(found.value), flat(found.standard_error)
  truth = np.diag(dense(name))
  distance = np.abs(value - truth) / np.maximum(error, 1e-12)
  assert np.mean(distance <= 2.6) > 0.97  # 99 % of a normal distribution
  row = np.sqrt((np.sum(dense(name) ** 2, axis=1) - truth**2) / 200)
  np.testing.assert_allclose(np.median(error / np.maximum(row, 1e-12)), 1, rtol=0.1)


def test_the_frobenius_norm_of_zero_is_zero_with_no_error():
  found = frobenius(jnp.zeros_like, jnp.ones(4), KEY)
  assert (found.value, found.standard_error) == (0.0, 0.0)


def test_more_probes_make_smaller_errors():
  matrix = jnp.asarray(np.random.default_rng(0).standard_normal((50, 50)))
  matrix = matrix + matrix.T
  few, many = (trace(lambda v: matrix @ v, matrix[0], KEY, num_samples=n) for n in (10, 1000))
  assert many.standard_error < few.standard_error / 5
  assert (few.num_evaluations, many.num_evaluations) == (10, 1000)


@pytest.mark.parametrize(
  "call",
  [
    functools.partial(trace, num_samples=1),
    functools.partial(diagonal, num_samples=1),
    functools.partial(frobenius, num_samples=1),
    functools.partial(spectral_density, num_samples=1),
    functools.partial(spectral_density, num_steps=0),
    functools.partial(trace_hutch_plus_plus, num_products=5),
  ],
)
def test_too_few_samples_are_refused_in_one_line(call):
  with pytest.raises(ConfigError, match="num_") as error:
    call(lambda v: v, jnp.ones(3), KEY)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", [trace, trace_hutch_plus_plus, diagonal, frobenius, spectral_density])
def test_a_product_that_is_not_finite_names_its_leaf(method):
  broken = lambda v: {"a": v["a"], "b": v["b"] * jnp.inf}  # noqa: E731
  with pytest.raises(InputError, match="'b'"):
    method(broken, {"a": jnp.ones(3), "b": jnp.ones(2)}, KEY)


def test_probes_are_those_of_their_key():
  matrix = jnp.asarray(np.random.default_rng(0).standard_normal((20, 20)))
  values = [trace(lambda v: matrix @ v, matrix[0], jax.random.key(seed)).value for seed in (0, 0, 1)]
  assert values[0] == values[1] != values[2]
  assert tree.size(matrix[0]) == 20


@pytest.mark.parametrize(("share", "count"), [(0.18, 4), (0.18, 8), (0.5, 8), (0.9, 32)])
def test_the_coverage_of_an_interval_is_that_of_simulated_probes(share, count):
  """Signs on a matrix of one dense eigenvector and a bulk of 200 equal eigenvalues; 10^4 intervals."""
  rng = np.random.default_rng(0)
  signs = rng.choice(np.array([-1.0, 1.0]), (10_000, count, 64))
  bulk = rng.chisquare(200, (10_000, count)) / 200
  samples = share * np.sum(signs, axis=2) ** 2 / 64 + (1 - share) * bulk
  errors = np.std(samples, axis=1, ddof=1) / count**0.5
  held = np.abs(np.mean(samples, axis=1) - 1) <= errors * stats.t.ppf(0.975, count - 1)
  exact = (2 * share**2 + 2 * (1 - share) ** 2 / 200) ** 0.5
  estimate = Estimate(1.0, exact / count**0.5, count, count)
  assert abs(estimate.coverage(share) - np.mean(held)) < 0.02
  assert estimate.coverage(share) < 0.92
  assert estimate.coverage(share, 0.99) > estimate.coverage(share)
  assert abs(estimate.coverage(0.0) - 0.95) < 0.006


def test_the_negative_share_is_that_of_the_spectrum():
  eigenvalues = np.array([-3.0, -1, 2, 4])
  with jax.enable_x64(True):
    matrix = jnp.diag(jnp.asarray(eigenvalues))
    found = spectral_density(lambda v: matrix @ v, jnp.zeros(4), KEY, num_samples=2, num_steps=4)
    assert abs(found.negative_share() - 0.4) < 1e-9
  assert spectral_density(lambda v: 2 * v, jnp.ones(3), KEY).negative_share() == 0
  assert spectral_density(jnp.zeros_like, jnp.ones(3), KEY).negative_share() == 0
