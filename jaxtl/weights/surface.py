"""The loss along one direction in weight space, or over the plane of two."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import tree
from jaxtl.errors import ConfigError, DataError
from jaxtl.types import Array, Params
from jaxtl.weights.perturb import check_alike, moved


def surface(
  loss_fn: Callable[[Params, Any], tuple[Array, Array]],
  params: Params,
  batches: Iterable[Any] | Callable[[], Iterable[Any]],
  directions: Sequence[Params],
  coordinates: Sequence[Any],
  *,
  points_per_call: int = 1,
) -> np.ndarray:
  """Computes the mean loss at w + c d, or at w + c_1 d_1 + c_2 d_2, on a grid of coordinates.

  Li, Xu, Taylor, Studer, Goldstein, "Visualizing the Loss Landscape of Neural Nets", 2018, arXiv 1712.09913;
  `weights.perturb` makes the directions. The data are read once: each batch is evaluated at all points of the
  grid. The memory is that of `points_per_call` evaluations of the loss. The call is compiled once for a
  `loss_fn`, also across surfaces.

  Args:
    loss_fn: (params, batch) -> (sum of the losses over the batch's examples, their number), two scalars.
    params: the weights w, a tree of float arrays, at coordinate 0.
    batches: a list, or a function that returns the batches on each call. Pad the last batch to the shape of
      the others, or the call is compiled again for it.
    directions: a list of one or two trees like `params`.
    coordinates: for each direction its coordinates, [n] or [n] and [m].
    points_per_call: points in one compiled call. More points save call overhead if one evaluation takes well
      below a millisecond on an accelerator; the compile time grows in proportion.

  Returns:
    [n] or [n, m] mean losses, float64. Infinite or NaN where the loss is: a surface may leave the region in
    which it is defined.

  Raises:
    ConfigError: there are not one or two directions, the number of lists of coordinates differs, a list is
      empty, has several axes or is not finite, `points_per_call` is below 1, or `batches` is an iterator.
    InputError: a direction differs from the parameters in names, shapes or types.
    DataError: there are no batches, or no examples in them.
  """
  axes = _axes(params, directions, coordinates)
  if isinstance(batches, Iterator):
    raise ConfigError(
      "batches is an iterator, used up after one surface; give a list or a function that returns it"
    )
  if points_per_call < 1:
    raise ConfigError(f"points_per_call is {points_per_call}; write at least 1")
  calls = _calls(axes, points_per_call)

  total, count = np.zeros(points_per_call * len(calls)), 0.0
  for batch in batches() if callable(batches) else batches:
    # Put once, not at every call; arrays that are already on the devices may be spread over processes.
    batch = jax.tree.map(lambda x: x if isinstance(x, jax.Array) else jax.device_put(x), batch)
    found = [_sums(params, tuple(directions), call, batch, loss_fn=loss_fn) for call in calls]
    with np.errstate(invalid="ignore"):  # inf - inf, in a region where the loss is not defined
      total += np.concatenate([np.asarray(sums, np.float64) for sums, _ in found])
    count += float(found[0][1])
  if not count > 0:
    raise DataError(f"the batches hold {count:g} examples; a mean loss needs at least one")
  shape = [len(axis) for axis in axes]
  return (total[: math.prod(shape)] / count).reshape(shape)


# Points are unrolled. Under vmap, kernels that differ among points make grouped convolutions, which are slow
# on XLA:CPU; in a rolled loop, a convolution loses its fast path there (jax-ml/jax#12868).
@functools.partial(jax.jit, static_argnames="loss_fn")
def _sums(
  params: Params, directions: tuple[Params, ...], points: Array, batch: Any, *, loss_fn: Callable[..., Any]
) -> tuple[Array, Array]:
  found = [loss_fn(moved(params, directions, point), batch) for point in points]
  return jnp.stack([tree.wide(jnp.asarray(total)) for total, _ in found]), jnp.asarray(found[0][1])


def _axes(params: Params, directions: Sequence[Params], coordinates: Sequence[Any]) -> list[np.ndarray]:
  """Returns the coordinates as arrays, after all checks."""
  if not isinstance(directions, (list, tuple)) or len(directions) not in (1, 2):
    raise ConfigError("directions is not a list of one or two trees like the parameters")
  if len(coordinates) != len(directions):
    raise ConfigError(
      f"{len(coordinates)} lists of coordinates for {len(directions)} directions; write one list for each"
    )
  for number, direction in enumerate(directions):
    check_alike(params, direction, names=("the parameters", f"direction {number}"))
  axes = [np.asarray(axis, np.float64) for axis in coordinates]
  for number, axis in enumerate(axes):
    if axis.ndim != 1 or not axis.size or not np.isfinite(axis).all():
      raise ConfigError(
        f"coordinates {number} have shape {axis.shape}; write a list of at least one number, all finite"
      )
  return axes


def _calls(axes: Sequence[np.ndarray], points_per_call: int) -> list[np.ndarray]:
  """Splits the grid into calls of [points_per_call, axes]; the last point is repeated until the call is full.

  A last call of another size would be compiled again.
  """
  points = np.array(list(itertools.product(*axes)))
  spare = np.repeat(points[-1:], -len(points) % points_per_call, axis=0)
  return list(np.concatenate([points, spare]).reshape(-1, points_per_call, len(axes)))
