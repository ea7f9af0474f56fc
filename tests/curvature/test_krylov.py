"""The Lanczos recursion beside matfree's, and the bases that it keeps."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from matfree import decomp

from jaxtl import tree
from jaxtl.curvature import Basis, hvp, tridiagonalize
from jaxtl.errors import InputError
from tests.curvature.networks import NETWORKS, cross_entropy, mean_loss

KEY = jax.random.key(0)


def flat(vector):
  return ravel_pytree(vector)[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_recursion_is_matfrees(name):
  with jax.enable_x64(True):
    loss, params = mean_loss(name, cross_entropy)
    start, steps = tree.random_like(KEY, params), 12
    found = next(itertools.islice(tridiagonalize(hvp(loss, params), start), steps - 1, None))
    unravel = ravel_pytree(params)[1]
    product = lambda v: flat(jax.jvp(jax.grad(loss), (params,), (unravel(v),))[1])  # noqa: E731
    _, theirs, rest, _ = decomp.tridiag_sym(steps)(product, flat(start))
    np.testing.assert_allclose(found.diagonal, np.diag(theirs), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found.off_diagonal, np.diag(theirs, 1), rtol=1e-8)
    np.testing.assert_allclose(found.beta, jnp.linalg.norm(rest), rtol=1e-8)


def test_the_basis_stays_orthonormal_in_float32():
  """Without reorthogonalisation it loses that as soon as the largest eigenvalue has converged."""
  rng = np.random.default_rng(0)
  rotation, _ = np.linalg.qr(rng.standard_normal((200, 200)))
  matrix = jnp.asarray(rotation * np.geomspace(1e-4, 1e3, 200) @ rotation.T, jnp.float32)
  found = next(itertools.islice(tridiagonalize(lambda v: matrix @ v, jnp.ones(200)), 59, None))
  rows = np.stack([found.basis.combine(row) for row in np.eye(60)])
  np.testing.assert_allclose(rows @ rows.T, np.eye(60), atol=2e-6)


def test_the_krylov_space_of_a_short_spectrum_ends_without_a_key_and_goes_on_with_one():
  matrix = jnp.diag(jnp.array([2.0, 2, 2, 5, 5]))
  start = jnp.ones(5)
  assert len(list(tridiagonalize(lambda v: matrix @ v, start))) == 2
  all_of_it = list(tridiagonalize(lambda v: matrix @ v, start, KEY))
  assert len(all_of_it) == 5
  np.testing.assert_allclose(all_of_it[-1].eigh()[0], [2, 2, 2, 5, 5], rtol=1e-5)


def test_a_vector_in_the_span_has_no_orthonormal_part():
  basis = Basis({"a": jnp.zeros(3), "b": jnp.zeros(1)})
  basis.append({"a": jnp.array([1.0, 0, 0]), "b": jnp.zeros(1)})
  assert basis.orthonormal({"a": jnp.array([-3.0, 0, 0]), "b": jnp.zeros(1)}) is None
  rest = basis.orthonormal({"a": jnp.array([-3.0, 0, 0]), "b": jnp.array([2.0])})
  np.testing.assert_allclose(flat(rest), [0, 0, 0, 1], atol=1e-6)


def test_products_that_are_not_finite_name_their_leaf():
  broken = lambda v: {"a": v["a"], "b": v["b"] * jnp.nan}  # noqa: E731
  with pytest.raises(InputError, match="'b'"):
    next(tridiagonalize(broken, {"a": jnp.ones(3), "b": jnp.ones(1)}))
