"""Eigenpairs of a symmetric operator that is given by its products: power iteration and Lanczos."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtl import tree
from jaxtl.curvature import krylov
from jaxtl.curvature.finite import check_product
from jaxtl.curvature.products import Matvec
from jaxtl.errors import ConfigError
from jaxtl.types import Array, Params


class Eigenpair(NamedTuple):
  """An eigenvalue, its vector, and how far they can be trusted.

  Attributes:
    value: the Rayleigh quotient <v, H v>.
    vector: v, a tree of unit Euclidean norm.
    residual: |H v - value v| / |value|. Some eigenvalue lies within residual * |value| of value.
    num_products: number of products taken.
    converged: whether the residual reached the tolerance.
  """

  value: float
  vector: Params
  residual: float
  num_products: int
  converged: bool


class Extremes(NamedTuple):
  """The two eigenpairs that may be called the largest.

  Attributes:
    by_magnitude: of the largest |eigenvalue|, with its sign.
    algebraic: of the largest eigenvalue.
    num_products: the total of both.
  """

  by_magnitude: Eigenpair
  algebraic: Eigenpair
  num_products: int


def top_eigenpair(
  matvec: Matvec,
  like: Params,
  key: Array,
  *,
  num_iters: int = 100,
  tolerance: float = 1e-3,
  start: Params | None = None,
) -> Eigenpair:
  """Finds the eigenvalue of the largest magnitude, with its sign, by power iteration.

  Its error is about value * residual^2 if the other eigenvalues are far away. Two eigenvalues of the same
  magnitude and opposite signs do not converge; `converged` is then False. The loop runs in Python, since a
  product may itself stream data.

  Args:
    matvec: v -> H v, symmetric.
    like: a tree with the shapes and types of v, such as the parameters.
    key: for the random start.
    num_iters: the largest number of products.
    tolerance: the residual at which to stop.
    start: a first vector, such as the one found a few training steps ago; random where None.

  Returns:
    An `Eigenpair`. A zero operator has value 0, residual 0, and has converged.

  Raises:
    ConfigError: num_iters is below 1.
    InputError: a product has a NaN or an infinity; the message names its first leaf.
  """
  if num_iters < 1:
    raise ConfigError(f"num_iters is {num_iters}; write at least 1")
  return _iterate(matvec, _start(start, like, key), 0.0, num_iters=num_iters, tolerance=tolerance)


def extreme_eigenpairs(
  matvec: Matvec,
  like: Params,
  key: Array,
  *,
  num_iters: int = 100,
  tolerance: float = 1e-3,
  start: Params | None = None,
) -> Extremes:
  """Finds the eigenvalue of the largest magnitude and the largest eigenvalue, by power iteration.

  They are the same pair unless the former is negative, -s. Then the iteration runs again on H + s I, whose
  eigenvalue of largest magnitude belongs to the largest one of H. Arguments and errors are those of
  `top_eigenpair`; each run takes up to `num_iters` products. The residual is relative to the eigenvalue
  itself, so an eigenvalue near zero does not converge if there is a large negative one.
  """
  key, second_key = jax.random.split(key)
  settings: dict[str, Any] = dict(num_iters=num_iters, tolerance=tolerance)
  dominant = top_eigenpair(matvec, like, key, start=start, **settings)
  if dominant.value >= 0:
    return Extremes(dominant, dominant, dominant.num_products)
  largest = _iterate(matvec, tree.random_like(second_key, like), -dominant.value, **settings)
  return Extremes(dominant, largest, dominant.num_products + largest.num_products)


def top_eigenpairs(
  matvec: Matvec,
  like: Params,
  key: Array,
  *,
  k: int = 1,
  max_products: int = 100,
  tolerance: float = 1e-2,
  start: Params | None = None,
) -> list[Eigenpair]:
  """Finds the k largest eigenvalues by Lanczos with full reorthogonalisation; for v -> -H v, the smallest.

  It needs far fewer products than power iteration but stores all its vectors, which take the memory of the
  parameters once per product. A repeated eigenvalue is listed with its multiplicity only if the Krylov space
  is exhausted and restarted at random; otherwise it may be listed once. Lanczos, 1950, see
  `krylov.tridiagonalize`.

  Args:
    matvec: v -> H v, symmetric.
    like: a tree with the shapes and types of v, such as the parameters.
    key: for the random start.
    k: number of eigenvalues.
    max_products: the largest number of products.
    tolerance: of the relative residuals |H v - value v| / |value|; all k must meet it.
    start: a first vector; random if None. The gradient of a trained network lies mostly in the space of the
      largest eigenvalues (Gur-Ari, Roberts and Dyer, Gradient descent happens in a tiny subspace, 2018, arXiv
      1812.04754), so it saves products; an eigenvector that is orthogonal to it is missed.

  Returns:
    k `Eigenpair`s, largest first; `num_products` is the total. Residuals are beta |s_m| / |value|, combined
    with the rounding that was measured on the way, so an eigenvalue that is lost in the rounding of larger
    ones does not converge. An eigenvalue of 0 converges only if its products are exactly 0.

  Raises:
    ConfigError: k is not from 1 to the dimension, or max_products is below k.
    InputError: a product has a NaN or an infinity; the message names its first leaf.
  """
  if not 1 <= k <= tree.size(like):
    raise ConfigError(f"k is {k}; the matrix has {tree.size(like)} eigenvalues, so write 1 to that")
  if max_products < k:
    raise ConfigError(f"max_products is {max_products}; {k} eigenvalues need at least {k} products")
  start_key, more_key = jax.random.split(key)
  seen: np.ndarray | None = None
  rounding = krylov.narrowing(like)
  for found in krylov.tridiagonalize(matvec, _start(start, like, start_key), more_key):
    values, vectors = found.eigh()
    taken = len(values)
    size = np.abs(values)
    # The part of H y outside the Ritz vector y = Q s has the length beta |s_m|, and some rounding.
    # A vector in a type narrower than the basis adds its own rounding.
    rest = np.hypot(found.rest(vectors), rounding * np.max(size))
    residuals = np.divide(rest, size, out=np.where(rest > 0, np.inf, 0.0), where=size > 0)
    if taken == max_products or taken == tree.size(like):
      break
    if taken < k or not np.all(residuals[-k:] <= tolerance):
      continue
    if k == 1 or not found.exhausted:
      break
    # Copies of an eigenvalue lie outside the Krylov space: a random restart must not change the values.
    if seen is not None and np.allclose(values[-k:], seen, rtol=tolerance, atol=0):
      break
    seen = values[-k:]
  return [
    Eigenpair(
      float(values[i]),
      krylov.like(_unit(found.basis.combine(vectors[:, i])), like),
      float(residuals[i]),
      taken,
      bool(residuals[i] <= tolerance),
    )
    for i in range(taken - 1, taken - 1 - k, -1)
  ]


def _start(start: Params | None, like: Params, key: Array) -> Params:
  """Returns the first vector, or a random one if it is None or all zeros."""
  return tree.random_like(key, like) if start is None or float(tree.norm(start)) == 0 else start


def _iterate(matvec: Matvec, start: Params, shift: float, *, num_iters: int, tolerance: float) -> Eigenpair:
  """Runs power iteration on H + shift I, and reports on H."""
  vector = _unit(start)
  for taken in range(1, num_iters + 1):
    product = matvec(vector)
    value, residual = (float(x) for x in _rayleigh(vector, product))
    check_product(product, value + residual)
    if residual <= tolerance * abs(value) or taken == num_iters:
      break
    vector = _next(vector, product, shift)
  relative = residual / abs(value) if value else (float("inf") if residual else 0.0)
  return Eigenpair(value, vector, relative, taken, relative <= tolerance)


@jax.jit
def _rayleigh(vector: Params, product: Params) -> tuple[Array, Array]:
  value = tree.dot(vector, product)
  return value, tree.norm(tree.sub(product, tree.scale(value, vector)))


@jax.jit
def _unit(vector: Params) -> Params:
  return tree.scale(1 / tree.norm(vector), vector)


@jax.jit
def _next(vector: Params, product: Params, shift: Array) -> Params:
  return _unit(tree.add(product, tree.scale(shift, vector)))
