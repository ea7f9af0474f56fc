"""Labels in classification losses: checks, the true class, and expectations over the classes."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxtl.errors import ConfigError, DataError
from jaxtl.types import Array

IntegerLoss = Callable[[Array, Array], Array]


def prepare(logits: Array, labels: Array) -> tuple[Array, Array]:
  """Casts logits to float32, and labels to int32 if they are integers, else to float32.

  Raises:
    DataError: these are not `[B, K]` logits with `[B]` integers or `[B, K]` distributions.
  """
  logits, labels = jnp.asarray(logits), jnp.asarray(labels)
  if logits.ndim != 2 or not jnp.issubdtype(logits.dtype, jnp.floating):
    raise DataError(f"logits are {_describe(logits)}; a classification loss needs float [B, K]")
  if jnp.issubdtype(labels.dtype, jnp.integer) and labels.shape == logits.shape[:1]:
    return logits.astype(jnp.float32), labels.astype(jnp.int32)
  if jnp.issubdtype(labels.dtype, jnp.floating) and labels.shape == logits.shape:
    return logits.astype(jnp.float32), labels.astype(jnp.float32)
  batch, classes = logits.shape
  raise DataError(f"labels are {_describe(labels)}; write int [{batch}] or float [{batch}, {classes}]")


def are_classes(labels: Array) -> bool:
  """Returns True for integer labels, False for distributions over the classes."""
  return labels.ndim == 1


def valid(labels: Array, num_classes: int) -> Array:
  """Returns bool [B]: which integer labels are one of the classes."""
  return (labels >= 0) & (labels < num_classes)


def is_label(labels: Array, num_classes: int) -> Array:
  """Returns bool [B, K], True at the true class, by comparison: the transpose of a gather is a scatter."""
  return labels[:, None] == jnp.arange(num_classes)[None, :]


def true_score(logits: Array, labels: Array) -> Array:
  """Returns [B, 1]: the logit of the true class; 0 for an integer that is not a class."""
  return jnp.sum(jnp.where(is_label(labels, logits.shape[-1]), logits, 0.0), axis=-1, keepdims=True)


def distribution(labels: Array, num_classes: int) -> Array:
  """Returns float32 [B, K]: the distribution over classes; NaN rows for integers that are not classes."""
  if not are_classes(labels):
    return labels
  one_hot = is_label(labels, num_classes).astype(jnp.float32)
  return jnp.where(valid(labels, num_classes)[:, None], one_hot, jnp.nan)


def expectation(weights: Array, values: Array) -> Array:
  """Returns [B]: sum_k weights_k values_k, where a weight of zero masks an infinite value."""
  return jnp.sum(weights * jnp.where(weights == 0, 0.0, values), axis=-1)


def over_classes(loss: IntegerLoss, logits: Array, weights: Array) -> Array:
  """Returns [B]: sum_c weights_c loss(logits, c), computed one class at a time.

  It takes the time of K evaluations and the memory of one: the body is recomputed in the backward pass, so
  that nothing of size [K, B, K] is stored.
  """

  @jax.checkpoint
  def add_class(total: Array, class_and_weight: tuple[Array, Array]) -> tuple[Array, None]:
    label, weight = class_and_weight
    value = loss(logits, jnp.full(logits.shape[:1], label))
    return total + weight * jnp.where(weight == 0, 0.0, value), None

  classes = jnp.arange(logits.shape[-1], dtype=jnp.int32)
  total, _ = jax.lax.scan(add_class, jnp.zeros(logits.shape[:1], jnp.float32), (classes, weights.T))
  return total


def positive(name: str, value: float) -> float:
  """Returns the hyperparameter as a float.

  Raises:
    ConfigError: it is not a finite number above zero.
  """
  if not 0 < value < float("inf"):
    raise ConfigError(f"{name} is {value}; write a finite number above 0")
  return float(value)


def _describe(x: Array) -> str:
  return f"{x.dtype} {list(x.shape)}"
