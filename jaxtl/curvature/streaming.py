"""Means over batches that are streamed once per call, with one compiled call for each batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxtl import tree
from jaxtl.config import first_few
from jaxtl.errors import ConfigError, DataError, InputError
from jaxtl.types import Array, Params

Batches = Iterable[Any] | Callable[[], Iterable[Any]]


def stream_of(batches: Batches) -> Callable[[], Iterable[Any]]:
  """Returns a function that returns the batches on each call.

  Raises:
    ConfigError: the batches are an iterator, which the first call would use up.
  """
  if isinstance(batches, Iterator):
    raise ConfigError(
      "batches is an iterator, used up after one product; give a list or a function that returns it"
    )
  return batches if callable(batches) else lambda: batches


def mean(
  product: Callable[..., Any],
  functions: tuple[Callable[..., Any], ...],
  like: Any,
  params: Params,
  stream: Callable[[], Iterable[Any]],
  *,
  vector: Params,
) -> Any:
  """Divides the sums of `product(*functions, params, batch, vector)` by their count, in the types of `like`.

  Args:
    product: (*functions, params, batch, vector) -> (sums, a tree like `like`; number of examples).
    functions: hashable; with the same ones and shapes nothing is compiled again.
    like: a tree with the shapes, types and placement of the result.
    params: a tree of arrays.
    stream: returns the batches.
    vector: the last argument of the product.

  Raises:
    DataError: there are no batches, or no examples in them.
  """
  total, count = jax.tree.map(_wide_zeros, like), scalar(params, jnp.float32)
  for batch in stream():
    # The next batch is made while the last is computed; programs further ahead would hold memory already.
    jax.block_until_ready(count)
    total, count = _add(total, count, params, batch, vector, product=product, functions=functions)
  if not float(count) > 0:
    raise DataError(f"the batches hold {float(count):g} examples; a mean over them needs at least one")
  return jax.tree.map(lambda x, p: (x / count).astype(p.dtype), total, like)


def wide_scalar(params: Params) -> Array:
  """Returns zero on the devices of the parameters, in float32 or wider."""
  return scalar(params, jnp.promote_types(jnp.result_type(*jax.tree.leaves(params)), jnp.float32))


def placed(vector: Params, like: Params) -> Params:
  """Places a vector where the leaves of `like` are: in another place it would compile another program.

  Raises:
    InputError: their leaves are not the same.
  """
  given, expected = tree.paths(vector), tree.paths(like)
  if given != expected:
    raise InputError(f"the vector has the leaves {first_few(given)}; the product takes {first_few(expected)}")
  wanted = [_sharding(x) for x in jax.tree.leaves(like)]
  if None in wanted or wanted == [_sharding(x) for x in jax.tree.leaves(vector)]:
    return vector
  return jax.jit(_same, out_shardings=jax.tree.unflatten(jax.tree.structure(vector), wanted))(vector)


# Called from a Python loop: inside a rolled scan, convolutions lose their fast path on CPU.
@functools.partial(jax.jit, static_argnames=("product", "functions"), donate_argnums=(0, 1))
def _add(
  total: Any,
  count: Array,
  params: Params,
  batch: Any,
  vector: Params,
  *,
  product: Callable[..., Any],
  functions: tuple[Callable[..., Any], ...],
) -> tuple[Any, Array]:
  part, examples = product(*functions, params, batch, vector)
  return tree.add(total, jax.tree.map(tree.wide, part)), count + jnp.asarray(examples, count.dtype)


def _wide_zeros(x: Array) -> Array:
  return jnp.zeros_like(x, jnp.promote_types(x.dtype, jnp.float32))


def scalar(params: Params, dtype: Any) -> Array:
  """Returns zero on the devices of the parameters."""
  sharding = _sharding(jax.tree.leaves(params)[0])
  if isinstance(sharding, NamedSharding):
    sharding = NamedSharding(sharding.mesh, PartitionSpec())
  return jnp.zeros((), dtype, device=sharding)


def _same(vector: Params) -> Params:
  return vector


def _sharding(x: Any) -> Any:
  """Returns the sharding of an array; None if it is not committed and follows others."""
  return x.sharding if isinstance(x, jax.Array) and x.committed else None
