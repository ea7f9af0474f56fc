"""The statistics that a moving average of weights is evaluated and saved with."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import optim, tree
from jaxtl.checkpoints import checkpoint, checkpointer
from jaxtl.config import parse
from jaxtl.errors import Restart
from jaxtl.train import Experiment, TrainState, averages, make_mesh, run
from jaxtl.train.batch_stats import reestimated
from jaxtl.train.evaluate import evaluate
from tests.small_training import tiny_config

AVERAGED = dict(optimizer=dict(make=".optim.sgd", peak_rate=0.1, ema_decay=0.9))


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def own_statistics(folder):
  """Those that training goes on from."""
  return checkpoint.read_item(checkpoint.find(folder) / "optimizer")["batch_stats"]


def test_evaluated_and_saved_are_statistics_of_the_averaged_weights(tiny, runtime, tmp_path):
  experiment, place = tiny(**AVERAGED, checkpoint_every=5, keep=9), runtime()
  seen = {}
  observers = dict(look=(5, lambda program: lambda state: seen.setdefault(int(state.step), state) and {}))
  trained = run(experiment, seed=3, runtime=place, workdir=tmp_path, observers=observers)
  for step in (5, 10, 12):
    saved = checkpoint.load(tmp_path / "checkpoints" / str(step))
    # An epoch is 6 batches.
    first = itertools.islice(place.train_batches(experiment.data, seed=3, start_step=0), 6)
    images = [batch["image"] for batch in first]
    expected = reestimated(trained.program.model, saved.params, saved.batch_stats, images, mesh=make_mesh(1))
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), saved.batch_stats, expected
    )
    equal(seen[step].batch_stats, saved.batch_stats)
  equal(trained.weights.batch_stats, saved.batch_stats)
  test = place.eval_batches(experiment.evaluation["test"])
  measured = evaluate(trained.program.measure, saved.params, saved.batch_stats, test, mesh=place.mesh)
  assert measured["loss"] == trained.last("eval/test/loss")
  assert float(tree.norm(tree.sub(own_statistics(tmp_path), saved.batch_stats))) > 1e-3


class Stop:
  def due(self, step):
    return step == 7


def test_a_resumed_run_goes_on_from_its_own_statistics_bit_for_bit(tiny, runtime, tmp_path):
  experiment = tiny(**AVERAGED, evaluate_every=4)
  whole = run(experiment, seed=0, runtime=runtime(), workdir=tmp_path / "whole")
  place = runtime()
  place.interruption = Stop()
  with pytest.raises(Restart):
    run(experiment, seed=0, runtime=place, workdir=tmp_path / "parts")
  # There was no time to estimate any, and the step is none that was evaluated.
  equal(checkpoint.load(tmp_path / "parts").batch_stats, own_statistics(tmp_path / "parts"))
  parts = run(experiment, seed=0, runtime=runtime(), workdir=tmp_path / "parts")
  equal(parts.weights.params, whole.weights.params)
  equal(parts.weights.batch_stats, whole.weights.batch_stats)
  equal(own_statistics(tmp_path / "parts"), own_statistics(tmp_path / "whole"))
  assert parts.last("eval/test/loss") == whole.last("eval/test/loss")


def test_the_average_changes_nothing_of_the_training(tiny, runtime, tmp_path):
  run(tiny(**AVERAGED, evaluate_every=1), seed=0, runtime=runtime(), workdir=tmp_path / "average")
  plain = run(tiny(evaluate_every=1), seed=0, runtime=runtime(), workdir=tmp_path / "plain")
  equal(own_statistics(tmp_path / "average"), plain.weights.batch_stats)
  equal(checkpoint.load(tmp_path / "plain").batch_stats, plain.weights.batch_stats)


@pytest.mark.parametrize(
  "change",
  [
    dict(model=dict(make=".models.resnet8", width=4, batch_norm="stored")),
    dict(
      task=dict(
        make=".tasks.classification", loss=dict(fn=".losses.softmax_cross_entropy"), frozen_stats=True
      )
    ),
  ],
)
def test_statistics_that_training_keeps_are_kept(tiny, runtime, tmp_path, change):
  experiment = tiny(**AVERAGED, **change, epochs=0.5)
  trained = run(experiment, seed=0, runtime=runtime(), workdir=tmp_path)
  equal(trained.weights.batch_stats, own_statistics(tmp_path))


def test_a_network_without_statistics_is_averaged_as_ever(tiny, runtime, tmp_path):
  model = dict(make=".models.vit_ti16", image_size=8, patch_size=4, width=8, num_heads=2, depth=1)
  trained = run(tiny(**AVERAGED, model=model, epochs=0.5), seed=0, runtime=runtime(), workdir=tmp_path)
  assert jax.tree.leaves(trained.weights.batch_stats) == []
  equal(checkpoint.load(tmp_path).params, trained.weights.params)


@pytest.mark.parametrize(("size", "count"), [(16, 6), (96, 1), (7, 13)])
def test_the_number_of_batches(tiny, runtime, size, count, monkeypatch):
  place = runtime()
  data = tiny(data=tiny_config()["data"] | dict(batch_size=size)).data
  assert len(list(averages.batches(data, place, seed=0))) == count
  monkeypatch.setattr(averages, "IMAGES", 20)
  assert len(list(averages.batches(data, place, seed=0))) == min(count, -(-20 // size))


def digits(split, batch_size):
  return dict(source=dict(make=".data.digits", split=split), batch_size=batch_size)


def test_digits_early_in_training(runtime, tmp_path):
  """ResNet-8, 20 steps, an average of decay 0.99: with the last weights' statistics most are wrong."""
  normalize = [dict(fn=".data.resize", size=(16, 16)), dict(fn=".data.normalize")]
  config = tiny_config(
    model=dict(make=".models.resnet8"),
    data=digits("train", 64) | dict(transforms=normalize),
    evaluation=dict(test=digits("test", 128) | dict(transforms=normalize)),
    optimizer=dict(make=".optim.sgd", peak_rate=0.1, ema_decay=0.99, schedule=dict(make=".optim.constant")),
  )
  config = {**config, "epochs": None, "steps": 20, "log_every": 20}
  experiment, place = parse(config, Experiment), runtime()
  trained = run(experiment, seed=0, runtime=place, workdir=tmp_path)
  test = place.eval_batches(experiment.evaluation["test"])
  # All training images, whole and in one order, for the 1,398 that the run sees in batches of 64.
  everything = [batch["image"] for batch in place.eval_batches(experiment.data) if batch["mask"].all()]
  used = trained.weights.params
  exact = reestimated(trained.program.model, used, trained.weights.batch_stats, everything, mesh=place.mesh)
  by_last, by_all = (
    evaluate(trained.program.measure, used, stats, test, mesh=place.mesh)["top1"]
    for stats in (own_statistics(tmp_path), exact)
  )
  assert trained.last("eval/test/top1") > by_last + 0.2
  assert abs(trained.last("eval/test/top1") - by_all) < 0.03


def test_a_checkpoint_without_statistics_of_its_own_for_the_average_is_gone_on_from(tmp_path, monkeypatch):
  """As older versions wrote it: the model item had the last weights' statistics."""
  tx = optim.ema(decay=0.9)
  params, stats = {"w": jnp.ones(3)}, {"norm": {"mean": jnp.arange(2.0), "var": jnp.ones(2)}}
  state = TrainState(jnp.int32(4), params, stats, tx.init({"w": jnp.zeros(3)}))
  items = checkpointer._items

  def old(state, statistics=None):
    found = items(state)
    del found["optimizer"]["batch_stats"]
    return found

  with monkeypatch.context() as patched:
    patched.setattr(checkpointer, "_items", old)
    saver = checkpointer.Checkpointer(tmp_path / "c")
    saver.save(state, {"classes": ["a"]}, last=True)
    saver.close()
  saver = checkpointer.Checkpointer(tmp_path / "c")
  equal(saver.restore(jax.tree.map(jnp.zeros_like, state)), state)
  saver.close()
