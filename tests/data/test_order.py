"""Which example stands where: as a fair shuffle would have it.

The statistics of the shuffle are compared with what a uniformly drawn permutation gives: exact means, and
standard deviations of numpy's permutations. Each is a mean over 21 seeds and 8 epochs and so nearly normal. A
fair shuffle exceeds 7 standard deviations with a probability below 1e-8 (for a chi-squared value with some
hundred degrees of freedom, the worst case), and there are 72 bounds: fewer than one in a million fair
shuffles fails these tests.
"""

import functools

import numpy as np
import pytest

from jaxtl.data import order
from jaxtl.data.lazy_tensorflow import tf

SIZES = (10, 32, 300, 840, 1000, 3000, 50_000, 100_000)
SEEDS, EPOCHS = range(21), range(8)
CLASSES = 10
BOUND = 7.0  # standard deviations


def batch_size(count: int) -> int:
  return 5 if count < 100 else 32


@functools.cache
def orders(count: int) -> np.ndarray:
  """[seeds, epochs, count]: the examples in the order in which the epochs show them."""
  positions = tf.range(len(EPOCHS) * count, dtype=tf.int64)
  found = [order.shuffled(positions, count=count, seed=seed).numpy() for seed in SEEDS]
  return np.reshape(found, (len(SEEDS), len(EPOCHS), count)).astype(np.int32)


def class_count_variance(shuffled: np.ndarray) -> float:
  """The variance of class counts in the batches of one epoch over the hypergeometric one: 1 on average.

  The examples are sorted by class, as a folder of class folders has them.
  """
  (count,) = shuffled.shape
  size = batch_size(count)
  labels = np.arange(count) * CLASSES // count
  batches = labels[shuffled[: count // size * size]].reshape(-1, size)
  counts = (batches[:, :, None] == np.arange(CLASSES)).sum(axis=1)
  share = np.bincount(labels, minlength=CLASSES) / count
  fair = size * share * (1 - share) * (count - size) / (count - 1)
  return float(np.mean((counts - size * share) ** 2 / fair))


def neighbours(shuffled: np.ndarray) -> float:
  """How often an example is followed by its neighbour in the source: 2 (n - 1) / n on average."""
  return float(np.sum(np.abs(np.diff(shuffled)) == 1))


def distance(shuffled: np.ndarray) -> float:
  """The mean distance in the source of two examples that follow each other: (n + 1) / 3 on average."""
  return float(np.abs(np.diff(shuffled)).mean())


def positions_of(shuffled: np.ndarray) -> np.ndarray:
  return np.argsort(shuffled)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
  """Of the examples' positions in two epochs: mean 0, variance 1 / (n - 1)."""
  return float(np.corrcoef(positions_of(one), positions_of(other))[0, 1])


@functools.cache
def fair_spread(statistic, count: int) -> float:
  """The standard deviation of a statistic of one of numpy's permutations."""
  rng = np.random.default_rng(0)
  trials = 400 if count < 10_000 else 60
  return float(np.std([statistic(rng.permutation(count)) for _ in range(trials)]))


@pytest.mark.parametrize("count", SIZES)
def test_every_epoch_shows_each_example_once(count):
  found = np.sort(orders(count), axis=-1)
  np.testing.assert_array_equal(found, np.broadcast_to(np.arange(count), found.shape))


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize(
  ("statistic", "expected"),
  [
    (class_count_variance, lambda n: 1.0),
    (neighbours, lambda n: 2 * (n - 1) / n),
    (distance, lambda n: (n + 1) / 3),
  ],
  ids=["class counts", "neighbours", "distance"],
)
def test_an_epoch_is_a_fair_shuffle(statistic, expected, count):
  values = [statistic(epoch) for seed in orders(count) for epoch in seed]
  # Where a batch is half of the set, its class counts hardly vary: rounding is all there is.
  error = fair_spread(statistic, count) / len(values) ** 0.5 + 1e-9
  assert abs(np.mean(values) - expected(count)) < BOUND * error


@pytest.mark.parametrize("count", SIZES)
def test_an_example_stands_anywhere(count):
  """The places of the first and the last example, in ten bins: a chi-squared value each."""
  for example in (0, count - 1):
    places = np.argmax(orders(count) == example, axis=-1).ravel()
    found = np.bincount(places * 10 // count, minlength=10)
    fair = np.bincount(np.arange(count) * 10 // count, minlength=10) / count * places.size
    chi_squared = np.sum((found - fair) ** 2 / fair)
    assert chi_squared < 80  # 9 degrees of freedom: 1.6e-13


@pytest.mark.parametrize("count", SIZES)
def test_epochs_and_seeds_do_not_depend_on_each_other(count):
  found = orders(count)
  epochs = [correlation(seed[e], seed[e + 1]) for seed in found for e in range(len(EPOCHS) - 1)]
  seeds = [correlation(found[s, e], found[s + 1, e]) for s in range(len(SEEDS) - 1) for e in EPOCHS]
  for values in (np.array(epochs), np.array(seeds)):
    normal = values * (count - 1) ** 0.5
    assert abs(normal.mean()) < BOUND / len(values) ** 0.5
    assert abs(np.mean(normal**2) - 1) < BOUND * (2 / len(values)) ** 0.5


def test_these_tests_find_four_rounds_of_the_cipher(monkeypatch):
  """The order of version 1 fails them: up to ten times the variance of class counts."""
  monkeypatch.setattr(order, "_ROUNDS", 4)
  shuffled = order.shuffled(tf.range(300, dtype=tf.int64), count=300, seed=0).numpy()
  error = fair_spread(class_count_variance, 300)
  assert class_count_variance(shuffled) - 1 > BOUND * error


def test_positions_of_all_processes_are_the_whole_batch():
  whole = order.positions_of(3, batch_size=8, shard=(0, 1)).numpy()
  np.testing.assert_array_equal(whole, np.arange(24, 32))
  parts = [order.positions_of(3, batch_size=8, shard=(i, 4)).numpy() for i in range(4)]
  np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_single_position_has_the_example_that_it_has_in_its_batch():
  positions = order.positions_of(5, batch_size=8, shard=(0, 1))
  for function, rest in ((order.shuffled, {}), (order.drawn, {"batch_size": 8})):
    whole = function(positions, count=100, seed=2, **rest).numpy()
    alone = [int(function(positions[i : i + 1], count=100, seed=2, **rest)[0]) for i in range(8)]
    assert alone == whole.tolist()


def test_draws_with_replacement_are_uniform_and_do_not_depend_on_each_other():
  """Counts of each example, and pairs of rows that follow each other, over 21 seeds."""
  count, size, steps = 50, 32, 40
  draw = functools.partial(order.drawn, count=count, batch_size=size)
  found = np.array(
    [
      [
        draw(order.positions_of(step, batch_size=size, shard=(0, 1)), seed=seed).numpy()
        for step in range(steps)
      ]
      for seed in SEEDS
    ]
  ).reshape(len(SEEDS), -1)
  fair = found.size / count
  chi_squared = np.sum((np.bincount(found.ravel(), minlength=count) - fair) ** 2 / fair)
  assert chi_squared < (count - 1) + BOUND * (2 * (count - 1)) ** 0.5
  same = np.mean(found[:, 1:] == found[:, :-1])
  assert abs(same - 1 / count) < BOUND * (1 / count / found.size) ** 0.5
