"""What a step will need is known before it runs, and moves the way it must."""

import jax
import pytest

from jaxtl import train
from jaxtl.train import device_memory, experiment, sharding
from tests.small_training import tiny_config


@pytest.fixture
def predicted(tiny):
  def predict(devices=1, **changes):
    mesh = train.make_mesh(devices)
    made = tiny(**changes)
    program, state = experiment.rehearse(made, num_classes=3, num_examples=96, image_size=32, mesh=mesh)
    found = device_memory.predict(
      program, state, batch_size=made.data.batch_size, image_size=32, mesh=mesh, compiled=True
    )
    return found, program, state

  return predict


def test_the_state_is_counted_to_the_byte(predicted):
  found, _, state = predicted(optimizer=dict(make=".optim.adam", peak_rate=0.1))
  size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))  # noqa: E731
  assert found.parameters == size(state.params)
  assert found.statistics == size(state.batch_stats)
  assert found.optimizer == size(state.opt_state) + 4  # and the step
  assert found.optimizer > 2 * found.parameters
  assert found.batch == 16 * (32 * 32 * 3 * 4 + 4 + 1)
  assert found.total == sum((found.parameters, found.statistics, found.optimizer, found.batch, found.scratch))


def test_parts_take_less_on_each_device(predicted):
  one, *_ = predicted(1)
  eight, *_ = predicted(8)
  assert eight.batch == one.batch / 8
  assert eight.scratch < one.scratch / 2
  assert eight.parameters == one.parameters
  parted, program, state = predicted(8, sharding=dict(make=".train.fsdp", min_size=64))
  assert parted.parameters < one.parameters / 4
  assert parted.parameters == sharding.bytes_per_device(state.params, program.placement, train.make_mesh(8))


def test_a_smaller_batch_takes_less(predicted):
  whole, *_ = predicted()
  small, *_ = predicted(data=dict(tiny_config()["data"], batch_size=2))
  assert small.scratch < whole.scratch / 4
