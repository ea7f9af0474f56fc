"""Which example stands where."""

import numpy as np

from jaxtl.data import order


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
