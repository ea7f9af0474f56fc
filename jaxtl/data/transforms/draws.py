"""Random draws that are functions of a seed int [2], shared by the transforms."""

from __future__ import annotations

from jaxtl.data.lazy_tensorflow import tf


def fold(seed: tf.Tensor, number: tf.Tensor | int) -> tf.Tensor:
  """Returns the seed of another, independent draw."""
  return tf.random.experimental.stateless_fold_in(seed, number)


def happens(seed: tf.Tensor, probability: float | tf.Tensor) -> tf.Tensor:
  """Draws a bool [] that is True with the given probability."""
  return tf.random.stateless_uniform([], seed) < probability


def signs(seed: tf.Tensor, *, shape: tuple[int, ...] = ()) -> tf.Tensor:
  """Draws float32 of the shape: -1 or 1, with equal probability."""
  return tf.where(tf.random.stateless_uniform(shape, seed) < 0.5, -1.0, 1.0)


def dirichlet(seed: tf.Tensor, *, alpha: float, count: int) -> tf.Tensor:
  """Draws float32 [count] weights with the sum 1 from the symmetric Dirichlet distribution."""
  # Gamma(alpha) variables divided by their sum have this distribution. In float64, since a small alpha gives
  # tiny numbers.
  gammas = tf.random.stateless_gamma([count], seed, alpha=tf.constant(alpha, tf.float64), dtype=tf.float64)
  return tf.cast(tf.math.divide_no_nan(gammas, tf.reduce_sum(gammas)), tf.float32)


def beta(seed: tf.Tensor, *, alpha: float) -> tf.Tensor:
  """Draws a float32 [] from Beta(alpha, alpha)."""
  return dirichlet(seed, alpha=alpha, count=2)[0]
