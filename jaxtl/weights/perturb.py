"""Directions in weight space, and weights moved along them.

Li, Xu, Taylor, Studer, Goldstein, "Visualizing the Loss Landscape of Neural Nets", 2018, arXiv 1712.09913: a
random direction compares the sharpness of two networks only if it is scaled like their filters. A direction
with its own meaning (between two checkpoints, along an eigenvector) is not rescaled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl import tree
from jaxtl.config import first_few
from jaxtl.errors import ConfigError, InputError
from jaxtl.types import Array, Params


@jax.jit
def filter_normalized(key: Array, params: Params) -> Params:
  """Draws a Gaussian direction whose filters have the norms of the weights' filters: d_j |w_j| / |d_j|.

  A filter is a slice along the last axis, the incoming weights of one output. Leaves with a single axis, such
  as biases and the parameters of normalisation, get zero, as in the paper.

  Multiplying a filter also multiplies its direction. So the loss along the direction does not change if a
  normalisation undoes the factor of each filter, nor, in a network of ReLUs, if one layer is multiplied by c
  and the next by 1 / c. It does change if factors differ among units without a normalisation: the next layer
  then divides its inputs by them, inside its filters.

  Args:
    key: for the Gaussian.
    params: a tree of float arrays; kernels [..., in, out].

  Returns:
    A tree like `params`; coordinate 1 along it is a relative change of 100 %.
  """

  def like_filters(noise: Array, w: Array) -> Array:
    if w.ndim < 2:
      return jnp.zeros_like(w)
    return (noise * (_filter_norms(w) / _filter_norms(noise))).astype(w.dtype)

  return jax.tree.map(like_filters, tree.random_like(key, params), params)


def between(a: Params, b: Params) -> Params:
  """Returns b - a: coordinate 0 along it is the checkpoint `a`, and coordinate 1 is `b` up to rounding.

  Raises:
    InputError: the trees differ in names, shapes or types.
  """
  check_alike(a, b, names=("the first checkpoint", "the second"))
  return tree.sub(b, a)


def along(vector: Params, params: Params, *, length: float = 1.0) -> Params:
  """Scales `vector` to a Euclidean norm of `length`, in the types of `params`.

  It is for eigenvectors. With length 1, coordinates are distances, and along the eigenvector of lambda the
  loss is L + t <g, v> + lambda t^2 / 2 to second order, so that the plot shows the eigenvalue. With
  `length=float(tree.norm(params))`, coordinates are relative to the weights. Filters are not normalised,
  since the result would no longer be the eigenvector.

  Raises:
    ConfigError: `length` is not positive and finite.
    InputError: the trees differ in names or shapes, or the vector has no direction: it is zero or not finite.
  """
  if not (math.isfinite(length) and length > 0):
    raise ConfigError(f"length is {length}; write a positive number")
  check_alike(params, vector, names=("the parameters", "the vector"), types=False)
  norm = float(tree.norm(vector))
  if not (math.isfinite(norm) and norm > 0):
    raise InputError(f"the vector has norm {norm}; a direction needs one that is finite and not zero")
  return jax.tree.map(lambda v, w: (v * (length / norm)).astype(w.dtype), vector, params)


def orthogonalized(second: Params, first: Params) -> Params:
  """Returns `second` without its part along `first`: s - <s, f> / <f, f> f. Its norm shrinks by that part.

  Raises:
    InputError: the trees differ in names or shapes, `first` is zero, or the two are parallel up to rounding.
  """
  check_alike(first, second, names=("the first direction", "the second"), types=False)
  rest = second
  for _ in range(2):  # the second pass removes what rounding has left
    rest = _without(rest, first)
  left, whole = float(tree.norm(rest)), float(tree.norm(second))
  if not left > 1e-4 * whole:
    raise InputError("the second direction is zero or parallel to the first; two axes need two directions")
  return rest


def moved(params: Params, directions: Sequence[Params], coefficients: Sequence[float] | Array) -> Params:
  """Returns w + sum_i c_i d_i, each leaf in its own type; exactly w if all c_i are 0.

  The sum is taken in float32 or wider.

  Args:
    params: the weights w.
    directions: k trees d_i like `params`.
    coefficients: [k] numbers c_i.

  Raises:
    ConfigError: there are not as many coefficients as directions.
  """
  if len(directions) != len(coefficients):
    raise ConfigError(
      f"{len(coefficients)} coefficients for {len(directions)} directions; write one for each"
    )

  numbers = list(coefficients)

  def leaf(w: Array, *ds: Array) -> Array:
    wide = jnp.promote_types(w.dtype, jnp.float32)
    step = sum(jnp.asarray(c, wide) * d.astype(wide) for c, d in zip(numbers, ds, strict=True))
    return (w.astype(wide) + step).astype(w.dtype)

  return jax.tree.map(leaf, params, *directions)


def check_alike(a: Params, b: Params, *, names: tuple[str, str], types: bool = True) -> None:
  """Raises an InputError of one line if two trees differ in names, shapes or (if `types`) types.

  Args:
    a, b: trees of arrays.
    names: what to call the two in the message.
    types: whether types count.
  """
  ours, theirs = (dict(zip(tree.paths(x), jax.tree.leaves(x), strict=True)) for x in (a, b))
  first, second = names
  problems = [f"{path} is only in {first}" for path in ours if path not in theirs]
  problems += [f"{path} is only in {second}" for path in theirs if path not in ours]
  for path in (path for path in ours if path in theirs):
    x, y = jnp.shape(ours[path]), jnp.shape(theirs[path])
    if x != y:
      problems.append(f"{path} has shape {x} in {first} and {y} in {second}")
    elif types and jnp.result_type(ours[path]) != jnp.result_type(theirs[path]):
      kinds = [jnp.result_type(x[path]).name for x in (ours, theirs)]
      problems.append(f"{path} is {kinds[0]} in {first} and {kinds[1]} in {second}")
  structures: list[Any] = [jax.tree.structure(x) for x in (a, b)]
  if not problems and structures[0] != structures[1]:
    problems = ["their leaves have the same names, but lie in containers of other types or another order"]
  if problems:
    raise InputError(f"{first} and {second} do not match: {first_few(problems)}")


@jax.jit
def _without(second: Params, first: Params) -> Params:
  part = tree.dot(second, first) / tree.dot(first, first)
  return jax.tree.map(lambda s, f: (s - part * f).astype(s.dtype), second, first)


def _filter_norms(w: Array) -> Array:
  wide = tree.wide(w)
  return jnp.sqrt(jnp.sum(wide**2, axis=tuple(range(w.ndim - 1)), keepdims=True))
