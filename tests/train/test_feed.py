"""A step reads its batch, and beside it what its gradient rule asks for."""

import numpy as np
import pytest

from jaxtl import optim, train
from jaxtl.errors import ConfigError
from jaxtl.train import feed, sharding


def read(runtime, experiment, rule, count, *, seed=0, start_step=0):
  stream = feed.batches(experiment.data, rule, runtime, seed=seed, start_step=start_step)
  return [next(stream) for _ in range(count)]


def same(a, b):
  return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_a_rule_without_a_weak_batch_reads_the_training_batches(tiny, runtime):
  experiment, place = tiny(), runtime()
  expected = place.train_batches(experiment.data, seed=0, start_step=0)
  for found in read(place, experiment, optim.sam(rho=0.1), 2):
    assert same(found, next(expected))


def test_the_weak_batch_is_a_function_of_seed_and_step_and_not_of_the_batch_beside_it(tiny, runtime):
  experiment, place = tiny(), runtime()
  rule = optim.pof(weak_batch_size=24)
  whole = read(place, experiment, rule, 5)
  for batch, plain in zip(whole, read(place, experiment, optim.plain(), 5), strict=True):
    weak = batch.pop("weak")
    assert same(batch, plain)
    assert len(weak["label"]) == 24
    assert not same({"image": weak["image"][:16]}, {"image": batch["image"]})
    batch["weak"] = weak
  for later, batch in zip(read(place, experiment, rule, 2, start_step=3), whole[3:], strict=True):
    assert same(later["weak"], batch["weak"])
  other = read(place, experiment, rule, 1, seed=1)[0]
  assert not same(other["weak"], whole[0]["weak"])
  size = read(place, experiment, optim.pof(), 1)[0]
  assert len(size["weak"]["label"]) == 16


def test_a_batch_within_the_batch_is_put_on_the_devices_alike(tiny, runtime):
  place = runtime(8)
  (batch,) = read(place, tiny(), optim.pof(weak_batch_size=24), 1)
  there = sharding.put_batch(batch, place.mesh)
  for given, found in ((batch, there), (batch["weak"], there["weak"])):
    np.testing.assert_array_equal(found["image"], given["image"])
    assert found["image"].sharding.shard_shape(found["image"].shape)[0] == len(given["label"]) // 8
  again = sharding.put_batch(there, place.mesh)
  assert again["image"] is there["image"]


def test_a_weak_batch_must_split_over_the_devices():
  mesh = train.make_mesh(8)
  feed.check(optim.pof(weak_batch_size=24), 16, mesh)
  feed.check(optim.plain(), 12, mesh)
  with pytest.raises(ConfigError, match=r"gradient\.weak_batch_size is 12"):
    feed.check(optim.pof(weak_batch_size=12), 16, mesh)
