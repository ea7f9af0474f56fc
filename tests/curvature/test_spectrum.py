"""Eigenpairs of operators with known spectra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxtl import tree
from jaxtl.curvature import extreme_eigenpairs, hvp, spectral_density, top_eigenpair, top_eigenpairs
from jaxtl.errors import ConfigError, InputError
from tests.curvature.networks import NETWORKS, cross_entropy, dense_hessian, mean_loss, smoothed_hinge

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
LIKE = {"dense": {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}, "scale": jnp.zeros(1)}


def operator(eigenvalues, seed=0):
  """A symmetric matrix of the given spectrum as a function on trees like LIKE, and its eigenvectors."""
  basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((7, 7)))
  matrix = jnp.asarray(basis * np.asarray(eigenvalues) @ basis.T, jnp.float32)
  _, unravel = ravel_pytree(LIKE)
  return lambda v: unravel(matrix @ ravel_pytree(v)[0]), [unravel(jnp.float32(b)) for b in basis.T]


@pytest.mark.parametrize("top", [5.0, -5.0])
def test_largest_in_magnitude_is_found_with_its_sign(top):
  matvec, vectors = operator([top, 2, 1, 0.5, 0, -1, -3])
  pair = top_eigenpair(matvec, LIKE, KEY)
  assert pair.converged
  assert pair.residual <= 1e-3
  assert pair.num_products < 100
  np.testing.assert_allclose(pair.value, top, rtol=1e-5)
  np.testing.assert_allclose(tree.norm(pair.vector), 1, rtol=1e-6)
  np.testing.assert_allclose(abs(tree.dot(pair.vector, vectors[0])), 1, rtol=1e-5)


def test_residual_is_that_of_the_returned_pair():
  matvec, _ = operator([5, 4.5, 1, 0.5, 0, -1, -3])
  pair = top_eigenpair(matvec, LIKE, KEY, num_iters=5)
  difference = tree.sub(matvec(pair.vector), tree.scale(pair.value, pair.vector))
  np.testing.assert_allclose(pair.residual, tree.norm(difference) / abs(pair.value), rtol=1e-3)


def test_too_few_products_are_told():
  matvec, _ = operator([5, 4.9, 1, 0.5, 0, -1, -3])
  few = top_eigenpair(matvec, LIKE, KEY, num_iters=3)
  enough = top_eigenpair(matvec, LIKE, KEY, num_iters=1000)
  assert (few.converged, few.num_products) == (False, 3)
  assert few.residual > 1e-3
  assert enough.converged


def test_tighter_tolerance_takes_more_products_and_is_closer():
  matvec, _ = operator([5, 4, 1, 0.5, 0, -1, -3])
  loose, tight = (top_eigenpair(matvec, LIKE, KEY, tolerance=t) for t in (1e-1, 1e-4))
  assert loose.num_products < tight.num_products
  assert abs(tight.value - 5) < abs(loose.value - 5)


def test_warm_start_takes_fewer_products():
  matvec, _ = operator([5, 4, 1, 0.5, 0, -1, -3])
  cold = top_eigenpair(matvec, LIKE, KEY)
  nearby, _ = operator([5.1, 4, 1, 0.5, 0, -1, -3])
  warm = top_eigenpair(nearby, LIKE, KEY, start=cold.vector)
  assert warm.num_products <= cold.num_products // 2
  np.testing.assert_allclose(warm.value, 5.1, rtol=1e-4)


def test_start_of_zeros_is_replaced():
  matvec, _ = operator([5, 2, 1, 0.5, 0, -1, -3])
  np.testing.assert_allclose(top_eigenpair(matvec, LIKE, KEY, start=LIKE).value, 5, rtol=1e-5)


def test_two_keys_find_one_value():
  matvec, _ = operator([5, 2, 1, 0.5, 0, -1, -3])
  values = [top_eigenpair(matvec, LIKE, jax.random.key(seed)).value for seed in range(3)]
  np.testing.assert_allclose(values, 5, rtol=1e-5)


@pytest.mark.parametrize(
  ("spectrum", "expected"),
  [([-5, 2, 1, 0.5, 0, -1, -3], 2), ([5, 2, 1, 0.5, 0, -1, -3], 5), ([-5, -4, -3, -2, -2, -2, -1], -1)],
)
def test_largest_algebraic_eigenvalue(spectrum, expected):
  matvec, _ = operator(spectrum)
  pair = extreme_eigenpairs(matvec, LIKE, KEY, num_iters=300).algebraic
  assert pair.converged
  np.testing.assert_allclose(pair.value, expected, rtol=1e-4)
  difference = tree.sub(matvec(pair.vector), tree.scale(pair.value, pair.vector))
  assert float(tree.norm(difference)) <= 1.1e-3 * abs(expected)


def test_both_extremes_are_told_and_their_products_counted():
  matvec, _ = operator([-5, 2, 1, 0.5, 0, -1, -3])
  calls = []
  found = extreme_eigenpairs(lambda v: calls.append(1) or matvec(v), LIKE, KEY, num_iters=100)
  np.testing.assert_allclose([found.by_magnitude.value, found.algebraic.value], [-5, 2], rtol=1e-4)
  assert found.num_products == len(calls) == found.by_magnitude.num_products + found.algebraic.num_products
  assert not extreme_eigenpairs(matvec, LIKE, KEY, num_iters=7).algebraic.converged


def test_a_positive_extreme_is_both_and_found_once():
  matvec, _ = operator([5, 2, 1, 0.5, 0, -1, -3])
  found = extreme_eigenpairs(matvec, LIKE, KEY)
  assert found.algebraic is found.by_magnitude
  assert found.num_products == found.algebraic.num_products


@pytest.mark.parametrize(
  "find",
  [
    top_eigenpair,
    lambda *given: extreme_eigenpairs(*given).algebraic,
    lambda *given: top_eigenpairs(*given)[0],
  ],
)
def test_zero_operator_has_converged_at_once(find):
  pair = find(tree.zeros_like, LIKE, KEY)
  assert (pair.value, pair.residual, pair.num_products, pair.converged) == (0.0, 0.0, 1, True)


def test_opposite_eigenvalues_do_not_pretend_to_converge():
  matvec, _ = operator([5, -5, 1, 0.5, 0, -1, -3])
  assert not top_eigenpair(matvec, LIKE, KEY).converged


def test_quadratic_form_through_its_hessian_product():
  matrix = jnp.diag(jnp.array([3.0, -7.0, 1.0])) + 0.1
  params = jnp.ones(3)
  pair = top_eigenpair(hvp(lambda x: 0.5 * x @ matrix @ x, params), params, KEY)
  eigenvalues = np.linalg.eigvalsh(np.asarray(matrix, np.float64))
  np.testing.assert_allclose(pair.value, eigenvalues[0], rtol=1e-4)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_product_that_is_not_finite_names_its_leaf(bad):
  matvec, _ = operator([5, 2, 1, 0.5, 0, -1, -3])

  def broken(v):
    product = matvec(v)
    product["dense"]["kernel"] = product["dense"]["kernel"].at[0, 1].set(bad)
    return product

  with pytest.raises(InputError, match="'dense/kernel'") as error:
    top_eigenpair(broken, LIKE, KEY)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_lanczos_finds_the_largest_with_true_residuals(k):
  spectrum = [5, 2, 1, 0.5, 0.2, -1, -8]
  matvec, vectors = operator(spectrum)
  pairs = top_eigenpairs(matvec, LIKE, KEY, k=k, tolerance=1e-4)
  np.testing.assert_allclose([pair.value for pair in pairs], sorted(spectrum)[::-1][:k], atol=1e-5)
  for pair, vector in zip(pairs, [vectors[i] for i in np.argsort(spectrum)[::-1]]):
    assert pair.converged
    np.testing.assert_allclose(abs(tree.dot(pair.vector, vector)), 1, rtol=1e-4)


def test_lanczos_states_the_residual_of_what_it_returns():
  matvec, _ = operator([5, 4.5, 1, 0.5, 0, -1, -3])
  for pair in top_eigenpairs(matvec, LIKE, KEY, k=2, max_products=4):
    rest = tree.sub(matvec(pair.vector), tree.scale(pair.value, pair.vector))
    np.testing.assert_allclose(pair.residual, tree.norm(rest) / abs(pair.value), rtol=1e-3)
    assert (pair.num_products, pair.converged) == (4, False)


def test_lanczos_goes_on_behind_an_exhausted_krylov_space():
  matvec, _ = operator([5, 5, 5, 1, 1, 1, 1])
  values = [pair.value for pair in top_eigenpairs(matvec, LIKE, KEY, k=7)]
  np.testing.assert_allclose(values, [5, 5, 5, 1, 1, 1, 1], rtol=1e-4)


def test_a_looser_tolerance_takes_fewer_products():
  matvec, _ = operator([5, 4.9, 1, 0.5, 0, -1, -3])
  loose, tight = (top_eigenpairs(matvec, LIKE, KEY, tolerance=t)[0].num_products for t in (0.3, 1e-5))
  assert loose < tight


def test_lanczos_from_a_start_looks_where_that_points():
  matvec, vectors = operator([5, 4.9, 1, 0.5, 0, -1, -3])
  start = tree.add(vectors[0], vectors[2])
  found = top_eigenpairs(matvec, LIKE, KEY, tolerance=1e-3, start=start)[0]
  assert found.num_products == 2 < top_eigenpairs(matvec, LIKE, KEY, tolerance=1e-3)[0].num_products
  np.testing.assert_allclose(found.value, 5, rtol=1e-5)
  blind = top_eigenpairs(matvec, LIKE, KEY, max_products=2, start=tree.add(vectors[1], vectors[2]))[0]
  np.testing.assert_allclose(blind.value, 4.9, rtol=1e-5)


def test_lanczos_replaces_a_start_of_zeros():
  matvec, _ = operator([5, 2, 1, 0.5, 0, -1, -3])
  np.testing.assert_allclose(top_eigenpairs(matvec, LIKE, KEY, start=LIKE)[0].value, 5, rtol=1e-3)


@pytest.mark.parametrize("find", [top_eigenpair, lambda *given, **more: top_eigenpairs(*given, **more)[0]])
def test_a_start_that_is_not_finite_is_refused(find):
  matvec, _ = operator([5, 2, 1, 0.5, 0, -1, -3])
  start = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), LIKE)
  with pytest.raises(InputError, match="dense/bias"):
    find(matvec, LIKE, KEY, start=start)


@pytest.mark.parametrize(("k", "most"), [(0, 100), (8, 100), (3, 2)])
def test_impossible_numbers_of_eigenvalues_are_refused(k, most):
  with pytest.raises(ConfigError, match=f"{k}") as error:
    top_eigenpairs(tree.zeros_like, LIKE, KEY, k=k, max_products=most)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("loss", [cross_entropy, smoothed_hinge])
def test_eigenvalues_are_those_of_the_dense_hessian(name, loss):
  with jax.enable_x64(True):
    function, params = mean_loss(name, loss)
    truth = np.linalg.eigvalsh(dense_hessian(function, params))
    matvec = hvp(function, params)
    largest = top_eigenpairs(matvec, params, KEY, k=3, max_products=200, tolerance=1e-7)
    np.testing.assert_allclose([pair.value for pair in largest], truth[::-1][:3], rtol=1e-6)
    smallest = top_eigenpairs(
      lambda v: tree.scale(-1, matvec(v)), params, KEY, max_products=300, tolerance=1e-6
    )
    np.testing.assert_allclose(-smallest[0].value, truth[0], rtol=1e-6)
    by_power = extreme_eigenpairs(matvec, params, KEY, num_iters=3000, tolerance=1e-4)
    np.testing.assert_allclose(by_power.algebraic.value, truth[-1], rtol=1e-6)
    np.testing.assert_allclose(by_power.by_magnitude.value, truth[np.argmax(np.abs(truth))], rtol=1e-6)


def test_no_iterations_are_refused():
  with pytest.raises(ConfigError, match="num_iters"):
    top_eigenpair(tree.zeros_like, LIKE, KEY, num_iters=0)


def residual_of(matvec, pair):
  """|H v - value v| / |value|, with the sums in float64."""
  vector = np.float64(ravel_pytree(pair.vector)[0])
  product = np.float64(ravel_pytree(matvec(pair.vector))[0])
  return np.linalg.norm(product - pair.value * vector) / abs(pair.value)


def test_bfloat16_operators_do_not_end_early_with_residuals_of_zero():
  """Its rounding of 0.8 % of the largest eigenvalue is no sign that the Krylov space is exhausted."""
  rng = np.random.default_rng(0)
  eigenvalues = np.geomspace(1, 1e-2, 60)
  basis, _ = np.linalg.qr(rng.standard_normal((60, 60)))
  matrix = jnp.asarray(basis * eigenvalues @ basis.T, jnp.float32)
  like = jnp.zeros(60, jnp.bfloat16)
  matvec = lambda v: (matrix @ v.astype(jnp.float32)).astype(jnp.bfloat16)  # noqa: E731
  pairs = top_eigenpairs(matvec, like, KEY, k=10, max_products=60)
  np.testing.assert_allclose([pair.value for pair in pairs], eigenvalues[:10], rtol=0.02)
  for pair in pairs:
    assert pair.vector.dtype == jnp.bfloat16
    assert residual_of(matvec, pair) < 3 * pair.residual + 0.02
    assert pair.residual > 0
  density = spectral_density(matvec, like, KEY, num_samples=2, num_steps=30)
  assert density.num_products == 60


def test_a_spectrum_of_1e6_range_states_residuals_that_hold():
  """In float32 the smallest eigenvalues are lost in the rounding of the largest; their residuals say so."""
  rng = np.random.default_rng(1)
  eigenvalues = np.geomspace(1e6, 1e-1, 40)
  basis, _ = np.linalg.qr(rng.standard_normal((40, 40)))
  matrix = jnp.asarray(basis * eigenvalues @ basis.T, jnp.float32)
  pairs = top_eigenpairs(lambda v: matrix @ v, jnp.zeros(40), KEY, k=40)
  dense = np.linalg.eigvalsh(np.float64(matrix))
  for pair in pairs:
    assert np.min(np.abs(dense - pair.value)) <= 10 * pair.residual * abs(pair.value)
  assert all(pair.converged for pair in pairs[:20])
  assert not pairs[-1].converged


def test_copies_of_an_eigenvalue_are_found_behind_an_exhausted_krylov_space():
  matvec, _ = operator([5, 5, 1, 1, 1, 1, 1])
  values = [pair.value for pair in top_eigenpairs(matvec, LIKE, KEY, k=2)]
  np.testing.assert_allclose(values, [5, 5], rtol=1e-5)


def test_a_zero_operator_has_as_many_zeros_as_asked_for():
  pairs = top_eigenpairs(tree.zeros_like, LIKE, KEY, k=3)
  assert [(pair.value, pair.residual, pair.converged) for pair in pairs] == [(0.0, 0.0, True)] * 3
