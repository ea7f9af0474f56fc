"""The contract of a run: the same numbers on any devices, after any interruption, from any start."""

import dataclasses
import io

import jax
import numpy as np
import pytest
from PIL import Image

from jaxtl import data, train, tree
from jaxtl.checkpoints import checkpoint
from jaxtl.errors import CheckpointError, ConfigError, DataError, RunError
from jaxtl.train.experiment import total_steps, work_per_image
from jaxtl.train.loop import RATES
from jaxtl.train.training import same_run

pytestmark = pytest.mark.slow

GRADIENTS = {
  "plain": dict(make=".optim.plain"),
  "sam": dict(make=".optim.sam", rho=0.05),
  "looksam": dict(make=".optim.looksam", rho=0.05, every=3),
  "accumulate": dict(make=".optim.accumulate", steps=2),
}


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_run_learns(tiny, runtime):
  trained = train.run(tiny(epochs=6.0), seed=0, runtime=runtime())
  assert trained.last("eval/test/top1") > 0.9
  assert trained.last("train/loss") < trained.history[0]["train/loss"]


def test_one_device_and_eight_give_the_same_parameters_after_five_steps(tiny, runtime):
  experiment = tiny(epochs=5 * 16 / 96)
  found = [train.run(experiment, seed=0, runtime=runtime(n)).weights for n in (1, 8)]
  # Sums over the batch are taken in another order: equal to float32 rounding, amplified by five steps.
  for part in ("params", "batch_stats"):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
      getattr(found[0], part),
      getattr(found[1], part),
    )


@pytest.mark.parametrize("rule", GRADIENTS)
def test_seven_steps_and_resumed_to_twenty_equals_twenty_bit_for_bit(tiny, runtime, tmp_path, rule):
  config = dict(gradient=GRADIENTS[rule], epochs=20 * 16 / 96)
  config["optimizer"] = dict(make=".optim.sgd", peak_rate=0.1, ema_decay=0.9)
  whole = train.run(tiny(**config), seed=3, runtime=runtime(), workdir=tmp_path / "whole")
  cut = tiny(**config, checkpoint_every=7)
  with pytest.raises(KeyboardInterrupt):
    train.run(cut, seed=3, runtime=runtime(), workdir=tmp_path / "cut", observers={"kill": (9, _kill)})
  assert checkpoint.find(tmp_path / "cut").name == "7"
  resumed = train.run(cut, seed=3, runtime=runtime(), workdir=tmp_path / "cut")
  assert checkpoint.find(tmp_path / "cut").name == "20"
  equal(whole.weights.params, resumed.weights.params)
  equal(whole.weights.batch_stats, resumed.weights.batch_stats)
  plain = [[{k: v for k, v in r.items() if k not in RATES} for r in t.history] for t in (whole, resumed)]
  assert plain[0] == plain[1]


def _kill(program):
  def observe(state):
    raise KeyboardInterrupt

  return observe


def test_a_finished_run_is_not_run_again(tiny, runtime, tmp_path):
  first = train.run(tiny(), seed=0, runtime=runtime(), workdir=tmp_path)
  again = train.run(tiny(), seed=0, runtime=runtime(), workdir=tmp_path, observers={"kill": (1, _kill)})
  equal(first.weights.params, again.weights.params)
  assert first.history == again.history


def test_seeds_differ(tiny, runtime):
  a, b = (train.run(tiny(epochs=0.2), seed=seed, runtime=runtime()).weights.params for seed in (0, 1))
  assert float(tree.norm(tree.sub(a, b))) > 0.1


def test_zero_epochs_leave_the_start_and_still_measure(tiny, runtime, tmp_path):
  trained = train.run(tiny(epochs=0.0), seed=0, runtime=runtime(), workdir=tmp_path)
  assert trained.total_steps == 0
  assert 0 <= trained.last("eval/test/top1") <= 1
  equal(trained.weights.params, checkpoint.load(tmp_path).params)


def test_a_start_is_matched_by_path_and_the_head_replaced(tiny, runtime):
  source = train.run(tiny(epochs=0.5), seed=0, runtime=runtime()).weights
  other = tiny(epochs=0.0, evaluation={})
  same = train.run(other, seed=9, runtime=runtime(), start=source).weights
  equal(same.params, source.params)
  four = dict(make="tests.small_training.squares", num_classes=4)
  changed = dataclasses.replace(other, data=dataclasses.replace(other.data, source=_spec(four)))
  moved = train.run(changed, seed=9, runtime=runtime(), start=source).weights
  equal(moved.params["stem"], source.params["stem"])
  assert moved.params["head"]["bias"].shape == (4,)
  assert moved.classes == ("a", "b", "c", "d")


def test_an_experiment_may_name_its_start(tiny, runtime, tmp_path):
  source = train.run(tiny(epochs=0.5), seed=0, runtime=runtime(), workdir=tmp_path).weights
  named = train.run(tiny(epochs=0.0, evaluation={}, start=str(tmp_path)), seed=9, runtime=runtime()).weights
  equal(named.params, source.params)


def test_a_start_of_another_architecture_is_refused(tiny, runtime):
  source = train.run(tiny(epochs=0.0), seed=0, runtime=runtime()).weights
  wider = tiny(model=dict(make=".models.resnet8", width=8))
  with pytest.raises(CheckpointError, match="does not fit the model"):
    train.run(wider, seed=0, runtime=runtime(), start=source)


def test_a_checkpoint_of_another_model_is_not_resumed(tiny, runtime, tmp_path):
  train.run(tiny(), seed=0, runtime=runtime(), workdir=tmp_path)
  with pytest.raises(CheckpointError, match="does not fit this run"):
    train.run(tiny(model=dict(make=".models.resnet8", width=8)), seed=0, runtime=runtime(), workdir=tmp_path)


def test_another_class_list_is_refused_with_the_difference(tiny, runtime):
  renamed = dict(make="tests.small_training.squares", names="abz")
  evaluation = dict(test=dict(source=renamed, batch_size=32))
  with pytest.raises(DataError, match=r"evaluation.test has .*only the data has 'z'; only the model has 'c'"):
    train.run(tiny(evaluation=evaluation), seed=0, runtime=runtime())
  more = dict(test=dict(source=dict(make="tests.small_training.squares", num_classes=4), batch_size=32))
  with pytest.raises(DataError, match="has 4 classes, the model 3; only the data has 'd'"):
    train.run(tiny(evaluation=more), seed=0, runtime=runtime())


def test_a_batch_that_the_devices_do_not_divide_is_refused(tiny, runtime):
  twelve = dict(source=dict(make="tests.small_training.squares"), batch_size=12)
  with pytest.raises(ConfigError, match=r"data.batch_size is 12, which 8 devices do not divide; write 16"):
    train.run(tiny(data=twelve), seed=0, runtime=runtime(8))


@pytest.mark.parametrize(("key", "what"), [("num_examples", "examples"), ("num_classes", "classes")])
def test_a_source_that_is_not_what_the_config_says_is_refused(tiny, runtime, key, what):
  wrong = dict(source=dict(make="tests.small_training.squares"), batch_size=16) | {key: 7}
  with pytest.raises(DataError, match=rf"squares holds \d+ {what}; the config says num_{what} = 7"):
    train.run(tiny(data=wrong), seed=0, runtime=runtime())


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tiny, runtime):
  optimizer = dict(make=".optim.sgd", peak_rate=1e30, schedule=dict(make=".optim.constant"))
  with pytest.raises(RunError, match=r"the (loss|gradient's norm) is (nan|inf) at step \d") as caught:
    train.run(tiny(optimizer=optimizer), seed=0, runtime=runtime())
  assert caught.value.code == 4


def test_evaluation_uses_the_moving_average(tiny, runtime):
  optimizer = dict(make=".optim.sgd", peak_rate=0.1, ema_decay=0.999)
  averaged = train.run(tiny(optimizer=optimizer), seed=0, runtime=runtime())
  plain = train.run(tiny(), seed=0, runtime=runtime())
  assert averaged.last("train/loss") == plain.last("train/loss")
  assert averaged.last("eval/test/loss") != plain.last("eval/test/loss")


def test_the_checkpoint_holds_the_average_and_training_goes_on_from_the_weights(tiny, runtime, tmp_path):
  optimizer = dict(make=".optim.sgd", peak_rate=0.1, ema_decay=0.9)
  trained = train.run(tiny(optimizer=optimizer), seed=0, runtime=runtime(), workdir=tmp_path)
  plain = train.run(tiny(), seed=0, runtime=runtime())
  equal(checkpoint.load(tmp_path).params, trained.weights.params)
  assert float(tree.norm(tree.sub(trained.weights.params, plain.weights.params))) > 1e-3


@pytest.mark.parametrize(
  ("change", "seed", "message"),
  [
    (dict(optimizer=dict(make=".optim.sgd", peak_rate=0.2)), 0, "experiment.optimizer.peak_rate: 0.1 -> 0.2"),
    ({}, 1, "seed: 0 -> 1"),
    (
      dict(data=dict(source=dict(make="tests.small_training.squares", names="xyz"), batch_size=16)),
      0,
      "classes",
    ),
  ],
)
def test_a_checkpoint_of_another_run_is_not_resumed(tiny, runtime, tmp_path, change, seed, message):
  same = dict(evaluation={})
  train.run(tiny(**same), seed=0, runtime=runtime(), workdir=tmp_path)
  with pytest.raises(CheckpointError, match="does not fit this run") as caught:
    train.run(tiny(**same, **change), seed=seed, runtime=runtime(), workdir=tmp_path)
  assert message in str(caught.value)


def test_periods_may_change_between_sessions(tiny, runtime, tmp_path):
  first = train.run(tiny(), seed=0, runtime=runtime(), workdir=tmp_path)
  again = train.run(tiny(log_every=3, checkpoint_every=4), seed=0, runtime=runtime(), workdir=tmp_path)
  equal(first.weights.params, again.weights.params)


def test_periods_say_when_things_happen(tiny, runtime, tmp_path):
  trained = train.run(
    tiny(evaluate_every=5, log_every=4, checkpoint_every=5, keep=2),
    seed=0,
    runtime=runtime(),
    workdir=tmp_path,
  )
  evaluated = [r["step"] for r in trained.history if "eval/test/top1" in r]
  logged = [r["step"] for r in trained.history if "train/loss" in r]
  assert evaluated == [5, 10, 12]
  assert logged == [4, 8, 12]
  assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [10, 12]


def test_a_length_in_steps_is_that_many_updates(tiny, runtime):
  experiment = tiny(epochs=None, steps=3, optimizer=dict(make=".optim.sgd", peak_rate=0.1))
  assert [total_steps(experiment, num) for num in (1, 96, 10**6)] == [3, 3, 3]
  trained = train.run(experiment, seed=0, runtime=runtime())
  assert (trained.total_steps, trained.history[-1]["step"]) == (3, 3)


def test_no_steps_leave_the_start_as_it_is(tiny, runtime):
  none, whole = (
    train.run(tiny(**length), seed=0, runtime=runtime()).weights.params
    for length in (dict(epochs=None, steps=0), dict(epochs=0.0))
  )
  jax.tree.map(np.testing.assert_array_equal, none, whole)


@pytest.mark.parametrize(
  ("length", "message"),
  [
    (dict(epochs=1.0, steps=3), "config.epochs is 1.0 and steps is 3; give one of them, and leave the other"),
    (dict(epochs=None), "config.epochs is None and steps is None; give one of them"),
    (dict(epochs=None, steps=-1), "config.steps is -1; expected 0 or more"),
    (dict(epochs=None, steps=2.5), "config.steps is 2.5; expected an integer"),
  ],
)
def test_a_length_is_epochs_or_steps(tiny, length, message):
  with pytest.raises(ConfigError) as error:
    tiny(**length)
  assert message in str(error.value)


def test_a_warm_up_in_epochs_ends_where_that_epoch_ends(tiny, runtime):
  """12 steps in 2 epochs of 96 images; with batches of 40, 2.4 steps an epoch."""
  schedule = dict(make=".optim.constant", warmup_epochs=5.0)
  optimizer = dict(make=".optim.sgd", peak_rate=0.1, schedule=schedule)
  data_of = tiny().data
  experiment = dataclasses.replace(
    tiny(optimizer=optimizer, epochs=10.0, evaluation={}), data=dataclasses.replace(data_of, batch_size=40)
  )
  trained = train.run(experiment, seed=0, runtime=runtime())
  rates = [record["train/rate"] for record in trained.history]
  assert trained.total_steps == len(rates) == 24
  np.testing.assert_allclose(rates, np.minimum(np.arange(1, 25) / 12, 1.0) * 0.1, rtol=1e-6)


def test_a_warm_up_longer_than_the_run_is_refused(tiny, runtime):
  optimizer = dict(make=".optim.sgd", peak_rate=0.1, schedule=dict(make=".optim.cosine", warmup_epochs=3.0))
  with pytest.raises(ConfigError, match="warmup_epochs=3 is 18 steps, but the whole run has 12"):
    train.run(tiny(optimizer=optimizer), seed=0, runtime=runtime())
  # A run without updates never asks for a rate.
  train.run(tiny(optimizer=optimizer, epochs=0.0), seed=0, runtime=runtime())


def test_a_checkpoint_with_another_order_of_the_data_is_not_resumed(tiny, runtime, tmp_path, monkeypatch):
  train.run(tiny(), seed=0, runtime=runtime(), workdir=tmp_path)
  monkeypatch.setattr(data, "ORDER_VERSION", data.ORDER_VERSION + 1)
  with pytest.raises(CheckpointError, match=r"version 2 of the order of the data, .* has version 3; give"):
    train.run(tiny(), seed=0, runtime=runtime(), workdir=tmp_path)


def test_a_checkpoint_of_a_version_without_orders_has_the_first(tiny, runtime, tmp_path):
  about = train.run(tiny(), seed=0, runtime=runtime(), workdir=tmp_path).weights.config
  older = {key: value for key, value in about.items() if key != "order"}
  with pytest.raises(CheckpointError, match="with version 1 of the order of the data"):
    same_run(older, about, at=tmp_path)


def test_a_run_of_a_version_without_steps_goes_on(tiny, runtime, tmp_path):
  experiment = tiny()
  about = train.run(experiment, seed=0, runtime=runtime(), workdir=tmp_path).weights.config
  older = about | {"experiment": {k: v for k, v in about["experiment"].items() if k != "steps"}}
  same_run(older, about, at=tmp_path)
  with pytest.raises(CheckpointError, match=r"experiment\.steps: 3 -> '\(absent\)'"):
    same_run(about | {"experiment": about["experiment"] | {"steps": 3}}, about, at=tmp_path)


def test_steps_are_epochs_of_images(tiny):
  assert total_steps(tiny(epochs=2.0), 96) == 12
  assert total_steps(tiny(epochs=0.01), 96) == 1
  assert total_steps(tiny(epochs=0.0), 96) == 0


def _spec(value):
  from jaxtl.config import spec

  return spec(value)


def corrupt(*, num_examples: int = 32) -> data.Source:
  """PNG files of which number 5 is cut off."""
  rng = np.random.default_rng(0)
  files = []
  for _ in range(num_examples):
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(buffer, "PNG")
    files.append(buffer.getvalue())
  files[5] = files[5][: len(files[5]) // 2]
  labels = np.arange(num_examples) % 2
  return data.Source(name="corrupt", classes=("a", "b"), labels=labels, images=data.Encoded(files))


def test_an_unreadable_image_stops_the_run_or_is_skipped_and_named_within_the_budget(tiny, runtime):
  def with_budget(budget):
    source = dict(make="tests.train.test_experiment.corrupt")
    return tiny(data=dict(source=source, batch_size=16, max_bad_records=budget), evaluation={})

  with pytest.raises(DataError, match="corrupt") as caught:
    train.run(with_budget(0), seed=0, runtime=runtime())
  assert "5" in str(caught.value)
  assert "\n" not in str(caught.value)
  place = runtime()
  notes = []
  place.progress.note = notes.append
  assert train.run(with_budget(1), seed=0, runtime=place).total_steps == 4
  assert len(notes) == 1
  assert "5" in notes[0]


def test_the_work_of_an_image_is_what_its_gradient_rule_costs(tiny):
  assert work_per_image(tiny()) == 1
  for gradient, passes in (
    (dict(make=".optim.sam", rho=0.1), 2),
    (dict(make=".optim.looksam", rho=0.1, every=5), 1.2),
    (dict(make=".optim.accumulate", steps=2, inner=dict(make=".optim.sam", rho=0.1)), 2),
  ):
    assert work_per_image(tiny(gradient=gradient)) == pytest.approx(passes)


def test_another_package_s_optimiser_trains(tiny, runtime):
  started = train.run(tiny(epochs=0.0), seed=0, runtime=runtime()).weights.params
  spec = dict(make="optax.lion", learning_rate=1e-3)
  trained = train.run(tiny(optimizer=spec, epochs=1.0), seed=0, runtime=runtime())
  assert trained.total_steps == 6
  assert (trained.weights.params["head"]["kernel"] != started["head"]["kernel"]).any()
