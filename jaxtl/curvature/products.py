"""Products of the Hessian with a vector: functions from tree to tree, never a matrix."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl import tree
from jaxtl.errors import ConfigError, DataError
from jaxtl.types import Array, Params

Matvec = Callable[[Params], Params]


def hvp(loss: Callable[[Params], Array], params: Params) -> Matvec:
  """v -> H v, the Hessian of `loss` at `params`, as the derivative of the gradient along v.

  Forward over reverse: about twice the cost of a gradient, and the memory of one.

  Args:
    loss: params -> scalar.
    params: a tree of float arrays.

  Returns:
    A function from a tree like `params` to a tree like `params`, compiled at its first call.
  """

  @jax.jit
  def product(params: Params, vector: Params) -> Params:
    return jax.jvp(jax.grad(loss), (params,), (vector,))[1]

  return lambda vector: product(params, vector)


def hvp_over_batches(
  loss_fn: Callable[[Params, Any], tuple[Array, Array]],
  params: Params,
  batches: Iterable[Any] | Callable[[], Iterable[Any]],
) -> Matvec:
  """v -> H v, the Hessian of the mean loss over all examples of all batches.

  One compiled call for each batch, with the sum on the device in float32 (or wider, where the parameters
  are): memory does not grow with the number of batches. The call is compiled once for a `loss_fn` and the
  shapes, also across several `params`. Batches of other shapes compile again: pad the last one, and leave its
  padding out of sum and count.

  Args:
    loss_fn: (params, batch) -> (sum of the losses over the batch's examples, their number), two scalars.
    params: a tree of float arrays.
    batches: the same batches for each product: a list, or a function that returns them afresh.

  Returns:
    A function from a tree like `params` to a tree like `params`.

  Raises:
    ConfigError: `batches` is an iterator, which the first product would use up.
    DataError: at the product: there are no batches, or no examples in them.
  """
  if isinstance(batches, Iterator):
    raise ConfigError(
      "batches is an iterator, used up after one product; give a list or a function that returns it"
    )

  def matvec(vector: Params) -> Params:
    total, count = jax.tree.map(_wide_zeros, params), jnp.float32(0)
    for batch in batches() if callable(batches) else batches:
      # The next batch was made while the last was computed; programs further ahead would hold memory already.
      jax.block_until_ready(count)
      total, count = _add_product(total, count, params, batch, vector, loss_fn=loss_fn)
    if not float(count) > 0:
      raise DataError(
        f"the batches hold {float(count):g} examples; a mean Hessian product needs at least one"
      )
    return jax.tree.map(lambda x, p: (x / count).astype(p.dtype), total, params)

  return matvec


# Called from a Python loop: inside a rolled scan, convolutions lose their fast path on CPU.
@functools.partial(jax.jit, static_argnames="loss_fn", donate_argnums=(0, 1))
def _add_product(
  total: Params, count: Array, params: Params, batch: Any, vector: Params, *, loss_fn: Callable[..., Any]
) -> tuple[Params, Array]:
  def gradient(params: Params) -> tuple[Params, Array]:
    return jax.grad(loss_fn, has_aux=True)(params, batch)

  _, product, examples = jax.jvp(gradient, (params,), (vector,), has_aux=True)
  return tree.add(total, jax.tree.map(_widen, product)), count + jnp.asarray(examples, count.dtype)


def _widen(x: Array) -> Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _wide_zeros(x: Array) -> Array:
  return jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))
