"""The diagonal of the Fisher information: how much each parameter matters for the predictions of a model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl import tree
from jaxtl.curvature.finite import check_loss, check_params
from jaxtl.curvature.streaming import Batches
from jaxtl.errors import DataError, InputError
from jaxtl.types import Array, Params


def fisher_diagonal(
  predict: Callable[[Params, Any], tuple[Array, Array]], params: Params, batches: Batches, key: Array
) -> Params:
  """Estimates the mean over all examples of the squared gradient of -log p(y), y drawn from the model.

  `weights.fisher_average` weighs models by it (Matena and Raffel, "Merging Models with Fisher-Weighted
  Averaging", 2021, arXiv 2111.09832, equation 3, with one label for each example). With labels drawn from the
  model it is the diagonal of the Fisher matrix. With the labels of the data it would be that of the empirical
  one, which vanishes where the model fits the data.

  Args:
    predict: (params, batch) -> (logits [B, K], mask [B], False for padding); examples must not depend on each
      other. `batch` is a dictionary of arrays: those with a first axis of B are split into examples.
    params: a tree of float arrays.
    batches: a list, or a function that returns them on each call. Memory holds one copy of the parameters for
      each example of a batch, so batches should be small.
    key: for the labels.

  Returns:
    A tree like `params`, with entries of zero or above.

  Raises:
    InputError: a parameter or its squared gradients are not finite.
    NonFiniteLossError: -log p of a label is not finite.
    DataError: the batches hold no examples.
  """
  check_params(params)
  total, count = tree.zeros_like(params), 0.0
  for number, batch in enumerate(batches() if callable(batches) else batches):
    part, loss, examples = _summed_squares(predict, params, batch, jax.random.fold_in(key, number))
    check_loss(loss, params)
    total, count = tree.add(total, part), count + float(examples)
  if not count > 0:
    raise DataError("the batches hold no examples; a mean over them needs at least one")
  if path := tree.first_nonfinite(total):
    raise InputError(f"the squared gradients of {path!r} are not finite; check the model at these parameters")
  return tree.scale(1 / count, total)


@functools.partial(jax.jit, static_argnames=("predict",))
def _summed_squares(
  predict: Callable[[Params, Any], tuple[Array, Array]], params: Params, batch: Any, key: Array
) -> tuple[Params, Array, Array]:
  logits, mask = predict(params, batch)
  labels = jax.random.categorical(key, logits, axis=-1)
  splits = {name: jnp.ndim(x) > 0 and jnp.shape(x)[0] == len(mask) for name, x in batch.items()}

  def gradient(one: Any, label: Array) -> Params:
    example = {name: one[name][None] if splits[name] else x for name, x in batch.items()}
    return jax.grad(lambda p: -jax.nn.log_softmax(predict(p, example)[0])[0, label])(params)

  examples = {name: x for name, x in batch.items() if splits[name]}
  gradients = jax.vmap(gradient)(examples, labels)
  squares = jax.tree.map(lambda g: jnp.einsum("b,b...->...", mask.astype(g.dtype), g**2), gradients)
  surprise = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]
  return squares, jnp.sum(surprise, where=mask), jnp.sum(mask, dtype=jnp.float32)
