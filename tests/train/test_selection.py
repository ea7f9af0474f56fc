"""The weights of the best evaluation: which they are, when training ends, and that a kill changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import train
from jaxtl.checkpoints import checkpoint
from jaxtl.checkpoints.checkpointer import Checkpointer
from jaxtl.errors import CheckpointError, ConfigError, StorageError
from jaxtl.train.loop import RATES
from jaxtl.train.selection import MOST_COPIES, BestWeights, Select
from jaxtl.types import TrainState

pytestmark = pytest.mark.slow

LOSS = "eval/test/cross_entropy"


def config(select=None, *, rate=0.3, steps=24, ema=None, **changes):
  """A run whose test loss rises and falls: the rate is large and constant."""
  optimizer = dict(make=".optim.sgd", peak_rate=rate, schedule=dict(make=".optim.constant"))
  return (
    dict(
      optimizer=optimizer | ({"ema_decay": ema} if ema else {}),
      epochs=None,
      steps=steps,
      evaluate_every=2,
      checkpoint_every=5,
      select=dict(evaluation="test") | (select or {}),
    )
    | changes
  )


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def evaluations(trained, key=LOSS):
  return {int(record["step"]): record[key] for record in trained.history if key in record}


def learned(trained):
  return [{k: v for k, v in record.items() if k not in RATES} for record in trained.history]


def kill_at(number):
  def make(program):
    def observe(state):
      if int(state.step) == number:
        raise KeyboardInterrupt
      return {}

    return observe

  return {"kill": (1, make)}


@pytest.mark.parametrize(("ema", "rate"), [(None, 0.3), (0.5, 1.0)])
def test_the_weights_are_those_of_the_least_loss(tiny, runtime, tmp_path, ema, rate):
  trained = train.run(tiny(**config(ema=ema, rate=rate)), seed=0, runtime=runtime(), workdir=tmp_path)
  values = evaluations(trained)
  best = min(values, key=values.get)
  assert 2 < best < 24  # the case is a real one: neither the first nor the last
  assert trained.weights.config["step"] == best == trained.last("step")
  # The same weights, measured again, and those of a run that ends there.
  assert trained.last(LOSS) == pytest.approx(values[best], rel=1e-6)
  ended = train.run(
    tiny(**config(ema=ema, rate=rate, steps=best) | {"select": None}), seed=0, runtime=runtime()
  )
  equal(trained.weights.params, ended.weights.params)
  equal(trained.weights.batch_stats, ended.weights.batch_stats)
  # The folder stands for the selected weights; its `checkpoints` are those of the end.
  equal(checkpoint.load(tmp_path).params, ended.weights.params)
  assert checkpoint.find(tmp_path) == tmp_path / "selected" / str(best)
  assert checkpoint.find(tmp_path / "checkpoints").name == "24"


def test_the_largest_accuracy_is_selected_by_its_name(tiny, runtime):
  trained = train.run(tiny(**config(dict(measure="top1"))), seed=0, runtime=runtime())
  values = evaluations(trained, "eval/test/top1")
  assert trained.weights.config["step"] == max(values, key=values.get)
  assert (Select("test", "top1").sign, Select("test", "loss").sign) == (1, -1)
  assert (Select("test", "ap", best="largest").sign, Select("test", "top1", best="least").sign) == (1, -1)


def test_patience_ends_the_training(tiny, runtime, tmp_path):
  whole = train.run(tiny(**config()), seed=0, runtime=runtime())
  values = list(evaluations(whole).items())
  trained = train.run(tiny(**config(dict(patience=1))), seed=0, runtime=runtime(), workdir=tmp_path)
  expected, best = [], None
  for step, value in values:
    expected.append(step)
    best = step if best is None or value < dict(values)[best] else best
    if sum(later > best for later in expected) >= 1:
      break
  assert list(evaluations(trained)) == expected
  assert expected[-1] < 24
  assert trained.weights.config["step"] == best
  again = train.run(
    tiny(**config(dict(patience=1))),
    seed=0,
    runtime=runtime(),
    workdir=tmp_path,
    observers=kill_at(expected[-1] + 1),
  )
  assert again.history == trained.history
  equal(again.weights.params, trained.weights.params)


@pytest.mark.parametrize("killed", [3, 9, 12, 23])
@pytest.mark.parametrize("patience", [None, 3])
def test_a_killed_run_selects_the_same_weights(tiny, runtime, tmp_path, killed, patience):
  experiment = tiny(**config(dict(patience=patience)))
  whole = train.run(experiment, seed=0, runtime=runtime(), workdir=tmp_path / "whole")
  end = whole.history[-1]["step"]
  if killed < end:
    with pytest.raises(KeyboardInterrupt):
      train.run(experiment, seed=0, runtime=runtime(), workdir=tmp_path / "cut", observers=kill_at(killed))
  resumed = train.run(experiment, seed=0, runtime=runtime(), workdir=tmp_path / "cut")
  assert learned(resumed) == learned(whole)
  equal(resumed.weights.params, whole.weights.params)
  assert resumed.weights.config["step"] == whole.weights.config["step"]


def test_a_run_that_rolled_back_selects_weights_of_the_way_it_took(tmp_path):
  def selection(start, records=()):
    return BestWeights(Select("test"), tmp_path, start, records, {"classes": []}, notes.append)

  def weights(value, step):
    return TrainState(jnp.int32(step), {"w": jnp.full(3, value)}, {}, ())

  notes = []
  first = selection(0)
  for step, loss in ((2, 2.0), (4, 1.0), (6, 0.5)):
    first.observe(weights(float(step), step), {LOSS: loss})
    if step == 2:
      first.forget(2)  # its checkpoint is on disk
  first.close()
  # From step 2 on, other batches lead to other weights, of which those of step 4 are the best.
  second = selection(2, [{"step": 2, LOSS: 2.0}])
  for step, loss in ((4, 1.5), (6, 1.7)):
    second.observe(weights(10.0 * step, step), {LOSS: loss})
  assert second.weights().config["step"] == 4
  np.testing.assert_array_equal(second.weights().params["w"], 40.0)
  second.close()
  assert sorted(path.name for path in (tmp_path / "selected").iterdir()) == ["2", "4"]
  assert checkpoint.find(tmp_path).name == "4"
  assert notes == []


@pytest.mark.parametrize("failed", [8, 24])
def test_an_evaluation_that_failed_is_made_up_for(tiny, runtime, tmp_path, monkeypatch, failed):
  experiment = tiny(**config())
  whole = train.run(experiment, seed=0, runtime=runtime(), workdir=tmp_path / "whole")
  observe = BestWeights.observe

  def failing(selection, state, values):
    if int(state.step) == failed:
      raise StorageError("the disk is full")
    observe(selection, state, values)

  with monkeypatch.context() as patch:
    patch.setattr(BestWeights, "observe", failing)
    with pytest.raises(StorageError):
      train.run(experiment, seed=0, runtime=runtime(), workdir=tmp_path / "cut")
  resumed = train.run(experiment, seed=0, runtime=runtime(), workdir=tmp_path / "cut")
  assert evaluations(resumed) == evaluations(whole)
  equal(resumed.weights.params, whole.weights.params)


def test_weights_that_no_resume_can_need_are_removed(tiny, runtime, tmp_path):
  trained = train.run(tiny(**config()), seed=0, runtime=runtime(), workdir=tmp_path)
  assert len(list((tmp_path / "selected").iterdir())) <= 2
  assert (tmp_path / "selected" / str(trained.weights.config["step"])).is_dir()


def test_weights_between_two_checkpoints_take_the_space_that_was_asked_for(tmp_path, monkeypatch):
  """Every evaluation is better than the last: the most copies that there can be."""
  counts, save = [], Checkpointer.save

  def counted(saver, *given, **options):
    save(saver, *given, **options)
    counts.append(len(list((tmp_path / "selected").iterdir())))

  monkeypatch.setattr(Checkpointer, "save", counted)
  selection = BestWeights(Select("test"), tmp_path, 0, (), {"classes": []}, pytest.fail)
  for step in range(1, 41):
    state = TrainState(jnp.int32(step), {"w": jnp.full(3, float(step))}, {}, ())
    selection.observe(state, {LOSS: 1.0 / step})
    if step % 10 == 0:
      selection.forget(step)
  selection.close()
  assert max(counts) == MOST_COPIES
  # Those of a run that resumes from either of the newest two checkpoints.
  assert sorted(path.name for path in (tmp_path / "selected").iterdir()) == ["30", "40"]


def test_the_space_for_selected_weights_is_asked_for_before_the_first_step(
  tiny, runtime, tmp_path, monkeypatch
):
  asked, check = [], Checkpointer.check_space

  def counted(saver, like, **options):
    asked.append(options)
    check(saver, like, **options)

  monkeypatch.setattr(Checkpointer, "check_space", counted)
  train.run(tiny(**config(steps=2)), seed=0, runtime=runtime(), workdir=tmp_path / "selecting")
  train.run(tiny(**config(steps=2) | {"select": None}), seed=0, runtime=runtime(), workdir=tmp_path / "last")
  assert asked == [{"copies": MOST_COPIES}, {"copies": 0}]


def test_bad_input_is_one_line(tiny, runtime, tmp_path):
  with pytest.raises(ConfigError, match=r"select\.evaluation is 'val'; the run evaluates on test"):
    tiny(**config(dict(evaluation="val")))
  with pytest.raises(ConfigError, match="'least' or 'largest' for the measure 'ap'"):
    tiny(**config(dict(measure="ap")))
  with pytest.raises(ConfigError, match="patience"):
    tiny(**config(dict(patience=0)))
  with pytest.raises(
    ConfigError, match=r"select\.measure is 'ap'; the evaluation measures cross_entropy, loss, top1"
  ):
    train.run(tiny(**config(dict(measure="ap", best="largest"))), seed=0, runtime=runtime())
  trained = train.run(tiny(**config()), seed=0, runtime=runtime(), workdir=tmp_path)
  with pytest.raises(CheckpointError, match="evaluate_every"):
    train.run(tiny(**config(evaluate_every=3)), seed=0, runtime=runtime(), workdir=tmp_path)
  (tmp_path / "selected" / str(trained.weights.config["step"])).rename(tmp_path / "elsewhere")
  with pytest.raises(StorageError, match=r"the selected weights .* are missing"):
    train.run(tiny(**config()), seed=0, runtime=runtime(), workdir=tmp_path)
