"""The order of an endless training stream: maps (seed, position) to an example."""

from __future__ import annotations

from jaxtl.data.lazy_tensorflow import tf

# Incremented when `shuffled` changes, so that a run started with another order is refused, not resumed.
# Version 1 had four rounds: in sets below about 8,000 examples, the class counts of its batches had up to ten
# times the variance of a fair shuffle.
ORDER_VERSION = 2
# The key is nearly all zeros, which four rounds of the cipher do not mix. From eight rounds on, no statistic
# in tests/data/test_order.py differs from that of a fair shuffle; sixteen rounds leave a margin.
_ROUNDS = 16


def positions_of(step: tf.Tensor | int, *, batch_size: int, shard: tuple[int, int]) -> tf.Tensor:
  """Returns the positions int64 [b] of this process's rows of a batch.

  Args:
    step: number of the batch.
    batch_size: rows of the global batch.
    shard: (this process, number of processes).
  """
  rows = batch_size // shard[1]
  first = tf.cast(step, tf.int64) * batch_size + shard[0] * rows
  return first + tf.range(rows, dtype=tf.int64)


def shuffled(positions: tf.Tensor, *, count: tf.Tensor | int, seed: int) -> tf.Tensor:
  """Returns the examples int64 [b] at these positions; every epoch is a fair shuffle of `count` examples.

  A block cipher on [0, count) with the key (seed, epoch) maps position p of an epoch to its example, so a
  stream can start at any position at no cost.
  """
  count = tf.cast(count, tf.int64)
  epoch = positions // count
  seeds = tf.stack(
    [tf.fill(tf.shape(epoch), tf.constant(seed, tf.int64)), epoch, tf.zeros_like(epoch)], axis=1
  )
  return tf.raw_ops.RandomIndexShuffle(
    index=positions % count, seed=seeds, max_index=count - 1, rounds=_ROUNDS
  )


def drawn(positions: tf.Tensor, *, count: tf.Tensor | int, seed: int, batch_size: int) -> tf.Tensor:
  """Returns the examples int64 [b] at positions of one batch, drawn independently, with replacement.

  Each draw is uniform. `shuffled` with one key per position cannot replace this, because neighbouring keys
  give numbers that depend on each other.
  """
  step = positions[0] // batch_size
  seeds = tf.stack([tf.constant(seed, tf.int64), step])
  batch = tf.random.stateless_uniform(
    [batch_size], seeds, maxval=tf.cast(count, tf.int64), dtype=tf.int64, alg="philox"
  )
  return tf.gather(batch, positions - step * batch_size)
