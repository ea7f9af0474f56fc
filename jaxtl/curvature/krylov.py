"""Orthonormal bases of trees, and the Lanczos recursion on top of them.

Lanczos in libraries such as matfree runs its recursion inside one compiled loop. Such a loop cannot call a
mean over data that are streamed from the host, and convolutions in a rolled loop lose their fast path on
XLA:CPU (jax-ml/jax#12868). So the recursion is a Python loop here; the tests compare it with matfree.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import tree
from jaxtl.curvature.finite import check_product
from jaxtl.curvature.products import Matvec
from jaxtl.types import Array, Params

_BLOCK = 8  # vectors that are stored and projected on together


class Basis:
  """Orthonormal trees, stored on the devices in blocks of equal shape, so that few programs are compiled.

  They are stored in float32 or wider: vectors in bfloat16 would be orthogonal to two digits only.

  Args:
    like: a tree with the shapes of the vectors.
  """

  def __init__(self, like: Params):
    self._like = _widened(like)
    self._blocks: list[Params] = []
    self._size = 0

  def __len__(self) -> int:
    return self._size

  def append(self, vector: Params) -> None:
    """Adds a vector that is orthonormal to the others."""
    block, place = divmod(self._size, _BLOCK)
    if place == 0:
      self._blocks.append(jax.tree.map(lambda x: jnp.zeros((_BLOCK, *x.shape), x.dtype), self._like))
    self._blocks[block] = _put(self._blocks[block], vector, place)
    self._size += 1

  def project_out(self, vector: Params) -> Params:
    """Returns the part of a vector that is orthogonal to the whole basis, in the types of the basis."""
    vector = _widened(vector)
    for _ in range(2):  # one pass leaves rounding errors of the size of what it removes
      for block in self._blocks:
        vector = _project_out(block, vector)
    return vector

  def orthonormal(self, vector: Params) -> Params | None:
    """Returns the unit vector along `project_out(vector)`; None if it lies in the span, up to rounding."""
    vector = _widened(vector)
    before, rest = float(tree.norm(vector)), self.project_out(vector)
    after = float(tree.norm(rest))
    if not after > before * len(self) ** 0.5 * 10 * _precision(vector):
      return None
    return tree.scale(1 / after, rest)

  def combine(self, coefficients: np.ndarray) -> Params:
    """Returns sum_i coefficients[i] * vector i, for as many vectors as there are coefficients."""
    total = tree.zeros_like(self._like)
    for number, block in enumerate(self._blocks):
      part = np.zeros(_BLOCK)
      given = coefficients[number * _BLOCK : (number + 1) * _BLOCK]
      part[: len(given)] = given
      total = _add_combination(total, block, part)
    return total


class Tridiagonal(NamedTuple):
  """H in the basis Q of m Lanczos vectors: H Q - Q T = beta_m r e_m^T + E with a unit vector r.

  In exact arithmetic E is zero. E holds what rounding in the products adds and what a random restart drops.

  Attributes:
    diagonal: float64 [m].
    off_diagonal: float64 [m - 1].
    beta: the measured length of the last product's part outside the basis.
    basis: Q.
    lost: float64 [m], the lengths of the columns of E.
    exhausted: beta is within the rounding of the products, or the basis spans the whole space.
  """

  diagonal: np.ndarray
  off_diagonal: np.ndarray
  beta: float
  basis: Basis
  lost: np.ndarray
  exhausted: bool

  def rest(self, vectors: np.ndarray) -> np.ndarray:
    """Returns the lengths [k] of H y - value y for the Ritz vectors y = Q s, s a column of `vectors` [m, k].

    They combine beta |s_m| with what rounding has added, E, whose columns count as independent.
    """
    return np.hypot(self.beta * vectors[-1], np.sqrt(self.lost**2 @ vectors**2))

  def eigh(self) -> tuple[np.ndarray, np.ndarray]:
    return eigh_tridiagonal(self.diagonal, self.off_diagonal)


def eigh_tridiagonal(diagonal: np.ndarray, off_diagonal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the eigenvalues [m] of T in ascending order and its eigenvectors in the columns of [m, m]."""
  return np.linalg.eigh(np.diag(diagonal) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1))


def tridiagonalize(matvec: Matvec, start: Params, key: Array | None = None) -> Iterator[Tridiagonal]:
  """Yields T after each product of the Lanczos recursion with full reorthogonalisation.

  The Krylov space of `start` is exhausted if a product has nothing but rounding outside the basis. Then `key`
  gives another random vector orthogonal to the basis, and the recursion continues: a matrix with few distinct
  eigenvalues has a small Krylov space. The recursion ends when the basis spans the whole space or, without
  `key`, when the Krylov space is exhausted. Lanczos, "An iteration method for the solution of the eigenvalue
  problem of linear differential and integral operators", 1950.

  Args:
    matvec: v -> H v, symmetric; it receives vectors in the types of `start`.
    start: the first vector, of any length but 0.
    key: for new vectors.

  Raises:
    InputError: a product has a NaN or an infinity; the message names its first leaf.
  """
  basis, size = Basis(start), tree.size(start)
  vector: Params | None = _unit(start)
  before = tree.zeros_like(vector)
  diagonal: list[float] = []
  off_diagonal: list[float] = []
  lost: list[float] = []
  scale = coupling = 0.0
  while vector is not None:
    basis.append(vector)
    product = matvec(like(vector, start))
    value, length, unexplained = _split(product, vector, before, coupling)
    length = float(length)
    check_product(product, length)
    diagonal.append(float(value))
    scale = max(scale, length)
    rest = basis.project_out(unexplained)
    beta = float(tree.norm(rest))
    lost.append(float(_distance(unexplained, rest)))
    # A rest above the rounding of the wide type is used as a direction, with the length that was measured.
    exhausted = len(basis) == size or beta <= 2 * scale * _precision(rest)
    yield Tridiagonal(np.array(diagonal), np.array(off_diagonal), beta, basis, np.array(lost), exhausted)
    before, coupling = vector, beta
    if len(basis) == size or (exhausted and key is None):
      vector = None
    elif not exhausted:
      vector = tree.scale(1 / beta, rest)
    else:
      lost[-1], coupling = float(np.hypot(lost[-1], beta)), 0.0
      assert key is not None  # without one the loop has ended above
      key, now = jax.random.split(key)
      vector = basis.orthonormal(tree.random_like(now, rest))
    off_diagonal.append(coupling)


def like(vector: Params, other: Params) -> Params:
  """Casts a vector to the types of another."""
  return jax.tree.map(lambda x, y: x.astype(y.dtype), vector, other)


def narrowing(vector: Params) -> float:
  """Returns the relative rounding error from the basis to the types of a vector: 0 for float32 or wider."""
  return 0.0 if _precision(vector) <= float(jnp.finfo(jnp.float32).eps) else _precision(vector) / 2


def _widened(vector: Params) -> Params:
  return jax.tree.map(tree.wide, vector)


def _precision(a: Params) -> float:
  """Returns the relative rounding error of the coarsest type in the tree."""
  return max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(a))


@jax.jit
def _unit(vector: Params) -> Params:
  """Normalises a vector in wide types: rounded to bfloat16, its length would not be 1."""
  wide = _widened(vector)
  return tree.scale(1 / tree.norm(wide), wide)


@jax.jit
def _split(
  product: Params, vector: Params, before: Params, coupling: Array | float
) -> tuple[Array, Array, Params]:
  """Returns (<v, H v>, |H v|, the part of H v that T does not explain)."""
  product = _widened(product)
  value = tree.dot(vector, product)
  explained = tree.add(tree.scale(value, vector), tree.scale(coupling, before))
  return value, tree.norm(product), tree.sub(product, explained)


@jax.jit
def _distance(a: Params, b: Params) -> Array:
  return tree.norm(tree.sub(a, b))


def _put_into(block: Params, vector: Params, place: Array) -> Params:
  return jax.tree.map(lambda b, x: b.at[place].set(x), block, vector)


_put = jax.jit(_put_into, donate_argnums=0)


@jax.jit
def _project_out(block: Params, vector: Params) -> Params:
  products = jax.tree.map(lambda b, x: jnp.sum(_flat(b) * _flat(x[None]), axis=-1), block, vector)
  coefficients = sum(jax.tree.leaves(products), start=jnp.float32(0))
  return jax.tree.map(lambda b, x: x - _combined(coefficients, b).astype(x.dtype), block, vector)


@jax.jit
def _add_combination(total: Params, block: Params, coefficients: Array) -> Params:
  return jax.tree.map(lambda x, b: x + _combined(coefficients, b).astype(x.dtype), total, block)


def _combined(coefficients: Array, block: Array) -> Array:
  wide = tree.wide(block)
  return jnp.sum(coefficients.reshape(-1, *[1] * (block.ndim - 1)).astype(wide.dtype) * wide, axis=0)


def _flat(x: Array) -> Array:
  return tree.wide(x).reshape(x.shape[0], -1)
