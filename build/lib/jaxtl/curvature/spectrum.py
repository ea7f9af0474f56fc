"""Eigenpairs of a symmetric operator that is known by its products: power iteration."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxtl import tree
from jaxtl.curvature.products import Matvec
from jaxtl.errors import ConfigError, InputError
from jaxtl.types import Array, Params


class Eigenpair(NamedTuple):
  """An eigenvalue, its vector, and how far they can be trusted.

  Attributes:
    value: the Rayleigh quotient <v, H v>.
    vector: v, a tree of unit Euclidean norm.
    residual: |H v - value v| / |value|. Some eigenvalue lies within residual * |value| of value.
    num_products: how many products were taken.
    converged: whether the residual came down to the tolerance.
  """

  value: float
  vector: Params
  residual: float
  num_products: int
  converged: bool


def top_eigenpair(
  matvec: Matvec,
  like: Params,
  key: Array,
  *,
  num_iters: int = 100,
  tolerance: float = 1e-3,
  start: Params | None = None,
) -> Eigenpair:
  """The eigenvalue that is largest in magnitude, with its sign, by power iteration.

  Its error is about value * residual^2 where the other eigenvalues are far. Two eigenvalues of the same
  magnitude and opposite signs do not converge; `converged` says so. The loop runs in Python, since a product
  may itself stream data.

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
  if start is None or not float(tree.norm(start)) > 0:
    start = tree.random_like(key, like)
  return _iterate(matvec, start, 0.0, num_iters=num_iters, tolerance=tolerance)


def top_algebraic_eigenpair(
  matvec: Matvec,
  like: Params,
  key: Array,
  *,
  num_iters: int = 100,
  tolerance: float = 1e-3,
  start: Params | None = None,
) -> Eigenpair:
  """The largest eigenvalue, also where a negative one is larger in magnitude.

  Where power iteration finds a negative eigenvalue -s, it is run again on H + s I, whose eigenvalue of
  largest magnitude belongs to the largest one of H. Arguments, result and errors are those of
  `top_eigenpair`; up to `num_iters` products are taken each time, and `num_products` counts both. The
  residual is relative to the eigenvalue itself: one near zero beside a large negative one does not converge.
  """
  key, second_key = jax.random.split(key)
  settings: dict[str, Any] = dict(num_iters=num_iters, tolerance=tolerance)
  dominant = top_eigenpair(matvec, like, key, start=start, **settings)
  if dominant.value >= 0:
    return dominant
  largest = _iterate(matvec, tree.random_like(second_key, like), -dominant.value, **settings)
  return largest._replace(num_products=largest.num_products + dominant.num_products)


def _iterate(matvec: Matvec, start: Params, shift: float, *, num_iters: int, tolerance: float) -> Eigenpair:
  """Power iteration on H + shift I, reporting on H."""
  vector = _unit(start)
  for taken in range(1, num_iters + 1):
    product = matvec(vector)
    value, residual = (float(x) for x in _rayleigh(vector, product))
    _check_finite(product, value + residual)
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


def _check_finite(product: Params, size: float) -> None:
  if jnp.isfinite(size):
    return
  for path, leaf in zip(tree.paths(product), jax.tree.leaves(product), strict=True):
    if not bool(jnp.all(jnp.isfinite(leaf))):
      raise InputError(
        f"the product is not finite in {path!r}; check the loss and its gradient at these parameters"
      )
  raise InputError(
    "the product is finite, but its norm exceeds the floating-point range; scale the loss down"
  )
