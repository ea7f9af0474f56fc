"""What a run does about a loss that is not finite or leaps, and about an observer that fails."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import data, losses, train
from jaxtl.checkpoints import checkpoint
from jaxtl.errors import ConfigError, NonFiniteError
from jaxtl.train import loop
from jaxtl.train.training import Detours
from tests.small_training import squares, tiny_config

pytestmark = pytest.mark.slow

POISONED = 37  # the image that is white, and becomes NaN


def with_white() -> data.Source:
  """The squares, one of them white."""
  source = squares()
  images = np.array(source.images)
  images[POISONED] = 255
  return data.from_arrays(images=images, labels=source.labels, classes=source.classes, name="with white")


def poison(example):
  """A transform: an image that is white all over is none any more."""
  from jaxtl.data.lazy_tensorflow import tf

  image = example["image"]
  white = tf.reduce_min(image) >= 1.0
  return {**example, "image": tf.where(white, np.float32(np.nan), image)}


@pytest.fixture
def poisoned(tiny):
  def make(**changes):
    source = dict(make="tests.train.test_policies.with_white")
    transforms = [
      dict(fn=".data.normalize", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
      dict(fn="tests.train.test_policies.poison"),
    ]
    sharing = dict(source=source, transforms=transforms, batch_size=16)
    return tiny(**{"data": sharing, "evaluation": {}, "epochs": 2.0, "checkpoint_every": 2, **changes})

  return make


def bad_steps(experiment, runtime, *, steps=12):
  """The steps whose batch has the white image."""
  batches = runtime.train_batches(experiment.data, seed=0, start_step=0)
  return [step for step in range(1, steps + 1) if np.isnan(next(batches)["image"]).any()]


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_abort_leaves_a_checkpoint_from_before(poisoned, runtime, tmp_path):
  experiment = poisoned()
  first = bad_steps(experiment, runtime())[0]
  with pytest.raises(NonFiniteError, match=f"is nan at step {first}; lower the learning rate") as caught:
    train.run(experiment, seed=0, runtime=runtime(), workdir=tmp_path)
  assert (caught.value.code, caught.value.step) == (4, first)
  if checkpoint.steps_in(tmp_path / "checkpoints"):
    weights = checkpoint.load(tmp_path)
    assert weights.config["step"] < first
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(weights.params))


def test_skip_is_as_if_the_batch_had_not_been_seen(poisoned, runtime):
  experiment = poisoned(
    on_nonfinite="skip",
    gradient=dict(make=".optim.looksam", rho=0.05, every=3),
    optimizer=dict(make=".optim.adam", peak_rate=0.01, ema_decay=0.9),
  )
  bad = bad_steps(experiment, runtime())
  states = {}

  def keep(state):
    states[int(state.step)] = jax.tree.map(np.asarray, state)
    return {}

  notes = []
  place = runtime()
  place.progress.note = notes.append
  train.run(experiment, seed=0, runtime=place, observers={"keep": (1, lambda program: keep)})
  assert len(bad) == 2
  for step in bad:
    before, after = states[step - 1], states[step]
    for part in ("params", "batch_stats", "opt_state", "memory"):
      equal(getattr(after, part), getattr(before, part))
    assert f"step {step} is skipped: its loss or gradient is not finite" in notes
  good = next(step for step in range(2, 12) if step not in bad)
  with pytest.raises(AssertionError):
    equal(states[good].params, states[good - 1].params)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(states[12].params))


def test_a_run_that_would_skip_for_ever_gives_up(poisoned, runtime):
  experiment = poisoned(on_nonfinite="skip", optimizer=dict(make=".optim.sgd", peak_rate=1e30), epochs=10.0)
  with pytest.raises(NonFiniteError, match="20 steps in a row are not finite"):
    train.run(experiment, seed=0, runtime=runtime())


def test_rolling_back_goes_around_the_batch_and_a_resumed_run_does_too(poisoned, runtime, tmp_path):
  experiment = poisoned(on_nonfinite="roll_back")
  bad = bad_steps(experiment, runtime())
  whole = train.run(experiment, seed=0, runtime=runtime(), workdir=tmp_path / "whole")
  detours = json.loads((tmp_path / "whole" / "detours.json").read_text())
  assert detours[0]["step"] < bad[0]
  assert detours[0]["step"] + detours[0]["offset"] == bad[0]
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(whole.weights.params))
  assert [record["step"] for record in whole.history] == list(range(1, 13))

  def stop(_):
    def observe(state):
      raise KeyboardInterrupt

    return observe

  late = detours[-1]["step"] + 3
  for _ in range(2):  # once killed, and once more from what that left
    with pytest.raises(KeyboardInterrupt):
      train.run(
        experiment, seed=0, runtime=runtime(), workdir=tmp_path / "cut", observers={"stop": (late, stop)}
      )
  resumed = train.run(experiment, seed=0, runtime=runtime(), workdir=tmp_path / "cut")
  equal(whole.weights.params, resumed.weights.params)


def test_detours_add_up(tmp_path):
  detours = Detours(tmp_path)
  detours.add(step=4, beyond=6)  # step 5 reads batch 7
  assert [detours.offset(step) for step in (3, 4, 5)] == [0, 2, 2]
  detours.add(step=8, beyond=9)  # batch 11 was bad: step 9 reads batch 12
  assert [detours.offset(step) for step in (3, 4, 7, 8)] == [0, 2, 2, 3]
  assert Detours(tmp_path).offset(8) == 3
  assert Detours(None).count == 0


def test_rolling_back_ends_somewhere(poisoned, runtime, tmp_path):
  experiment = poisoned(on_nonfinite="roll_back", optimizer=dict(make=".optim.sgd", peak_rate=1e30))
  experiment = train.Experiment(**{**vars(experiment), "checkpoint_every": 1})
  with pytest.raises(NonFiniteError):
    train.run(experiment, seed=0, runtime=runtime(), workdir=tmp_path)
  assert len(json.loads((tmp_path / "detours.json").read_text())) <= 3


def test_a_leap_of_the_loss_counts_as_not_finite():
  health = loop._Health(3.0, print)
  for step in range(1, 41):
    health.look(step, {"loss": 1.0 + 0.01 * step, "grad_norm": 1.0})
  health.look(41, {"loss": 3.7, "grad_norm": 1.0})
  with pytest.raises(NonFiniteError, match=r"the loss is 3.7 at step 41, above 3 times its median 1\.2"):
    health.settle()


def test_the_first_losses_of_a_run_are_no_leap():
  health = loop._Health(3.0, print)
  for step in range(1, loop.ENOUGH + 1):
    health.look(step, {"loss": 100.0 if step == loop.ENOUGH else 1.0, "grad_norm": 1.0})
  health.settle()


def with_one_d() -> data.Source:
  """The squares, one of them of a class that no other has."""
  source = squares()
  labels = np.array(source.labels)
  labels[POISONED] = 3
  return data.from_arrays(images=source.images, labels=labels, classes=list("abcd"), name="with one d")


def leaping(logits, labels):
  """Cross-entropy, a thousand times as much for the class d."""
  return losses.softmax_cross_entropy(logits, labels) * jnp.where(labels == 3, 1000.0, 1.0)


@pytest.fixture
def leaping_run(tiny, runtime, tmp_path):
  """Trains for eight epochs of six steps in which one batch has the d, as a config would have it."""
  sharing = dict(source=dict(make="tests.train.test_policies.with_one_d"), transforms=[], batch_size=16)
  task = dict(make=".tasks.classification", loss=dict(fn="tests.train.test_policies.leaping"))
  optimizer = dict(make=".optim.sgd", peak_rate=1e-5)

  def make(policy, *, workdir=None, observers=None, **changes):
    same = dict(data=sharing, task=task, optimizer=optimizer, evaluation={}, epochs=8.0, checkpoint_every=2)
    experiment = tiny(**{**same, "on_nonfinite": policy, "spike_factor": 3.0, **changes})
    return train.run(
      experiment, seed=0, runtime=runtime(), workdir=workdir or tmp_path / "run", observers=observers
    )

  return make


def leaps(trained):
  """The steps whose loss is above three times the usual one."""
  found = {record["step"]: record["train/loss"] for record in trained.history}
  return [step for step, loss in found.items() if loss > 3 * np.median(list(found.values()))]


@pytest.mark.parametrize("policy", ["abort", "skip"])
def test_a_leap_ends_a_run_that_can_only_skip(leaping_run, tmp_path, policy):
  """Whether a loss leaps is known to the host alone, when the step is taken: there is no skipping it."""
  seen = leaps(leaping_run(policy, workdir=tmp_path / "without", spike_factor=None))
  assert len(seen) == 8  # one an epoch, and no policy without a factor
  first = next(step for step in seen if step > loop.ENOUGH)
  with pytest.raises(NonFiniteError, match=f"at step {first}, above 3 times its median") as caught:
    leaping_run(policy)
  assert (caught.value.code, caught.value.step) == (4, first)
  assert checkpoint.load(tmp_path / "run").config["step"] < first


def test_a_leap_is_gone_around_and_a_resumed_run_takes_the_same_for_leaps(leaping_run, tmp_path):
  """Also one that comes sooner after the start of a session than a median takes."""
  first = next(step for step in leaps(leaping_run("abort", spike_factor=None)) if step > loop.ENOUGH)
  whole = leaping_run("roll_back", workdir=tmp_path / "whole", epochs=6.0)
  detours = json.loads((tmp_path / "whole" / "detours.json").read_text())
  assert detours[0]["step"] + detours[0]["offset"] == first
  assert not [step for step in leaps(whole) if step > loop.ENOUGH]
  assert len(detours) > 1
  assert [record["step"] for record in whole.history] == list(range(1, 37))

  def stop(_):
    def observe(state):
      raise KeyboardInterrupt

    return observe

  for period in (first - 1, detours[-1]["step"] + 1):  # before the first leap, and behind the last detour
    with pytest.raises(KeyboardInterrupt):
      leaping_run("roll_back", workdir=tmp_path / "cut", epochs=6.0, observers={"stop": (period, stop)})
  resumed = leaping_run("roll_back", workdir=tmp_path / "cut", epochs=6.0)
  assert json.loads((tmp_path / "cut" / "detours.json").read_text()) == detours
  equal(whole.weights.params, resumed.weights.params)


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(poisoned, runtime, tmp_path):
  experiment = poisoned(on_nonfinite="roll_back", checkpoint_every=None)
  with pytest.raises(NonFiniteError, match="there is no checkpoint to roll back to yet"):
    train.run(experiment, seed=0, runtime=runtime(), workdir=tmp_path)


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (dict(on_nonfinite="ignore"), "on_nonfinite is 'ignore'; expected one of abort, skip, roll_back"),
    (dict(spike_factor=0.5), "spike_factor is 0.5; expected above 1, or None"),
    (dict(keep=0), "keep is 0; expected at least 1"),
  ],
)
def test_policies_that_cannot_be_are_refused(tiny, change, said):
  with pytest.raises(ConfigError, match=said):
    tiny(**change)


def test_what_was_learned_is_saved_before_a_failing_observer_ends_the_run(tiny, runtime, tmp_path):
  def fail(_):
    def observe(state):
      raise MemoryError("evaluation does not fit")

    return observe

  with pytest.raises(MemoryError):
    train.run(tiny(evaluation={}), seed=0, runtime=runtime(), workdir=tmp_path, observers={"fail": (5, fail)})
  assert checkpoint.load(tmp_path).config["step"] == 5


def test_half_precision_that_overflows_is_skipped_or_told(tiny, runtime):
  """bfloat16 has float32's range: what overflows is the loss itself, by a rate that is far too large."""
  model = dict(make=".models.resnet8", width=4, dtype="bfloat16")
  config = tiny_config(model=model, optimizer=dict(make=".optim.sgd", peak_rate=1e20), evaluation={})
  with pytest.raises(NonFiniteError, match="at step"):
    train.run(tiny(**config), seed=0, runtime=runtime())
