"""Post-training through the one step and loop: what moves, what stays, kept hidden states, refusals."""

import dataclasses
import inspect
import io

import jax
import numpy as np
import pytest

from jaxtl import data, losses, optim, train, tree
from jaxtl.config import parse
from jaxtl.errors import CheckpointError, ConfigError, DataError, Restart
from jaxtl.host.progress import Progress
from jaxtl.tasks.classify import image_and_label
from jaxtl.train import PostTraining, PrefixCache, device_memory, experiment, feed
from tests.small_training import squares, tiny_config

pytestmark = pytest.mark.slow

FIXED = [dict(fn=".data.normalize")]
DRAWN = [dict(fn=".data.flip_left_right"), *FIXED]


POL = dict(make=".optim.pol", update="stage3_block1", weak_batch_size=48)


def noisy():
  """The squares with every third label wrong, so that no weak batch of 48 is separable by 16 features."""
  source = squares()
  labels = np.where(np.arange(96) % 3 == np.arange(96) // 3 % 3, (source.labels + 1) % 3, source.labels)
  return data.from_arrays(images=source.images, labels=labels, classes=source.classes)


def settings(transforms=FIXED, **changes):
  source = dict(make="tests.train.test_post_training.noisy")
  test = dict(source=dict(make="tests.small_training.squares", seed=1), transforms=FIXED, batch_size=32)
  made = dict(
    task=dict(make=".tasks.classification", loss=dict(fn=".losses.softmax_cross_entropy")),
    data=dict(source=source, transforms=transforms, batch_size=16),
    optimizer=dict(make=".optim.sgd", peak_rate=0.05, nesterov=True, weight_decay=5e-4),
    epochs=1.0,
    gradient=POL,
    evaluation=dict(test=test),
    cache=dict(where="none"),
    log_every=1,
  )
  return parse(made | changes, PostTraining)


@pytest.fixture(scope="module")
def base():
  """A trained network of four blocks, in memory."""
  config = parse(tiny_config(epochs=1.0, evaluation={}), train.Experiment)
  runtime = train.Runtime(train.make_mesh(1), progress=Progress(stream=io.StringIO()))
  return train.run(config, seed=0, runtime=runtime).weights


def post_train(base, made, runtime, **keywords):
  return train.post_train(made, base, **{"seed": 0, "runtime": runtime, **keywords})


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def close(a, b, **tolerance):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, **({"rtol": 1e-4, "atol": 1e-6} | tolerance)), a, b
  )


def blocks_that_moved(found, base):
  return {
    path.split("/")[0]
    for path, a, b in zip(tree.paths(base), jax.tree.leaves(found), jax.tree.leaves(base), strict=True)
    if np.any(a != b)
  }


@pytest.mark.parametrize(
  ("gradient", "named", "moving"),
  [
    (dict(make=".optim.pof"), {}, {"stem", "stage1_block1", "stage2_block1", "stage3_block1"}),
    (dict(make=".optim.pol", update="stage3_block1"), {}, {"stage3_block1"}),
    (
      dict(make=".optim.pol", update="stem"),
      dict(perturb="stage1_block1", update=("stage2_block1", "head")),
      {"stage2_block1", "head"},
    ),
    (dict(make=".optim.pol", update="stage2_block1", gamma_range=0.0), {}, {"stage2_block1"}),
  ],
)
def test_only_the_named_layers_move(base, runtime, gradient, named, moving):
  trained = post_train(base, settings(gradient=gradient), runtime(), **named)
  assert blocks_that_moved(trained.weights.params, base.params) == moving
  equal(trained.weights.batch_stats, base.batch_stats)
  assert trained.total_steps == 6
  assert np.isfinite(trained.last("eval/test/cross_entropy"))
  logged = {
    "train/eta",
    "train/gamma",
    "train/reject",
    "train/rejects",
    "train/perturbation",
    "train/weak_loss",
  }
  assert logged <= set(trained.history[0]) or gradient.get("gamma_range") == 0.0


def test_a_moving_average_and_any_optimiser_leave_the_rest_alone(base, runtime):
  for optimizer in (
    dict(make=".optim.adamw", peak_rate=0.01, weight_decay=0.1, ema_decay=0.9),
    dict(make="optax.adamw", learning_rate=0.01, weight_decay=0.1),
  ):
    trained = post_train(base, settings(optimizer=optimizer), runtime())
    assert blocks_that_moved(trained.weights.params, base.params) == {"stage3_block1"}


def test_another_rule_moves_everything_and_takes_no_layers(base, runtime):
  made = settings(gradient=dict(make=".optim.sam", rho=0.05), cache=dict(where="auto"))
  trained = post_train(base, made, runtime())
  assert blocks_that_moved(trained.weights.params, base.params) == set(base.params)
  with pytest.raises(ConfigError, match=r"\.optim\.sam has no 'update'"):
    post_train(base, made, runtime(), update="stem")


def states_of(found):
  return found.weights.params, found.weights.batch_stats


def comparable(history):
  return [
    {k: v for k, v in record.items() if "images_per" not in k and "wait" not in k} for record in history
  ]


@pytest.mark.parametrize(
  "cache", [dict(where="none"), dict(where="host", views=3), dict(where="memmap", views=2)]
)
def test_stopped_and_resumed_is_uninterrupted_bit_for_bit(base, runtime, tmp_path, cache):
  """Order, weak batches, gamma, and the memory of the search, where refresh_every makes the most of it."""
  gradient = POL | dict(refresh_every=4)
  made = settings(transforms=DRAWN, gradient=gradient, checkpoint_every=1, cache=cache, epochs=2.0)
  whole = post_train(base, made, runtime(), workdir=tmp_path / "whole")

  class Stop:
    def due(self, step):
      return step in (3, 6)

  for _ in range(2):
    interrupted = runtime()
    interrupted.interruption = Stop()
    with pytest.raises(Restart):
      post_train(base, made, interrupted, workdir=tmp_path / "parts")
  parts = post_train(base, made, runtime(), workdir=tmp_path / "parts")
  equal(states_of(parts), states_of(whole))
  assert comparable(parts.history) == comparable(whole.history)
  assert whole.median("train/reject") == 0
  assert not list(tmp_path.rglob("*.tmp"))


def test_a_run_with_other_views_is_another_run(base, runtime, tmp_path):
  made = settings(transforms=DRAWN, cache=dict(where="host", views=2))
  post_train(base, made, runtime(), workdir=tmp_path)
  more = dataclasses.replace(made, cache=PrefixCache("host", views=3))
  with pytest.raises(CheckpointError, match=r"prefix_cache\.views: 2 -> 3"):
    post_train(base, more, runtime(), workdir=tmp_path)
  elsewhere = dataclasses.replace(made, cache=PrefixCache("memmap", views=2))
  post_train(base, elsewhere, runtime(), workdir=tmp_path)  # where numbers are is no matter


def series(trained, name):
  return [record[name] for record in trained.history if name in record]


@pytest.mark.parametrize("perturb", ["head", "stage2_block1"])
def test_kept_hidden_states_train_as_images_do(base, runtime, perturb):
  gradient = POL | dict(perturb=perturb)
  expected = post_train(base, settings(gradient=gradient), runtime())
  for where in ("device", "host", "memmap", "auto"):
    found = post_train(base, settings(gradient=gradient, cache=dict(where=where)), runtime())
    close(found.weights.params, expected.weights.params)
    assert min(series(found, "train/eta")) > 0
    for name in ("train/eta", "train/weak_loss", "train/loss"):
      assert len(series(found, name)) == 6
      np.testing.assert_allclose(series(found, name), series(expected, name), rtol=1e-3)


def test_the_evaluation_is_of_the_head_that_the_base_had(base, runtime):
  """And of what is returned, though every step saw another head."""
  trained = post_train(base, settings(gradient=dict(make=".optim.pof", weak_batch_size=48)), runtime())
  assert min(series(trained, "train/perturbation")) > 0.1
  model = base.model_spec().realize(num_classes=3)
  (batch,) = runtime().eval_batches(dataclasses.replace(settings().evaluation["test"], batch_size=96))

  def loss(head):
    logits = model.apply({**trained.weights.params, "head": head}, base.batch_stats, batch["image"])[0][
      "logits"
    ]
    return float(losses.softmax_cross_entropy(logits, batch["label"]).mean())

  evaluated = trained.last("eval/test/cross_entropy")
  assert evaluated == pytest.approx(loss(base.params["head"]), rel=1e-5)
  # Another head's is another.
  away = tree.scale(0.1 / float(tree.norm(base.params["head"])), base.params["head"])
  assert evaluated != pytest.approx(loss(tree.add(base.params["head"], away)), rel=1e-3)


def test_half_precision_keeps_the_gradient_to_a_hundredth(base, runtime):
  rates = dict(optimizer=dict(make=".optim.sgd", peak_rate=0.05, momentum=0.0), epochs=16 / 96)
  steps = {
    dtype: post_train(
      base, settings(cache=dict(where="host", dtype=dtype), **rates), runtime()
    ).weights.params
    for dtype in ("float32", "bfloat16")
  }
  moves = {dtype: tree.sub(params, base.params) for dtype, params in steps.items()}
  error = float(tree.norm(tree.sub(moves["bfloat16"], moves["float32"])) / tree.norm(moves["float32"]))
  assert 0 < error < 1e-2


def test_the_devices_do_not_matter(base, runtime):
  for cache in (dict(where="none"), dict(where="device"), dict(where="host")):
    one, eight = (
      post_train(base, settings(cache=cache, epochs=0.5), runtime(n)).weights.params for n in (1, 8)
    )
    close(eight, one, rtol=1e-3, atol=2e-6)


def test_classes_must_be_those_of_the_start(base, runtime):
  other = dict(
    source=dict(make="tests.small_training.squares", names="xyzuvw"), transforms=FIXED, batch_size=16
  )
  with pytest.raises(DataError, match="data has other classes than the model"):
    post_train(base, settings(data=other, evaluation={}), runtime())


def test_a_layer_that_is_not_there_is_refused_before_anything_runs(base, runtime):
  with pytest.raises(ConfigError, match=r"has no block 'stage3_block'; did you mean 'stage3_block1'"):
    post_train(base, settings(), runtime(), update="stage3_block")


def test_a_weak_batch_splits_over_the_devices(base, runtime):
  gradient = dict(make=".optim.pof", weak_batch_size=12)
  with pytest.raises(ConfigError, match=r"gradient\.weak_batch_size is 12, which 8 devices do not divide"):
    post_train(base, settings(gradient=gradient), runtime(8))


def test_settings_are_an_experiment_without_a_model(base):
  """What an experiment has, these have, with the same defaults, but for what the start and the rule say."""
  ours = {field.name: field for field in dataclasses.fields(PostTraining)}
  theirs = {field.name: field for field in dataclasses.fields(train.Experiment)}
  assert set(theirs) - set(ours) == {"model", "start", "spike_factor", "select"}
  assert set(ours) - set(theirs) == {"cache"}
  for name in set(ours) & set(theirs) - {"epochs", "gradient"}:
    assert ours[name].default == theirs[name].default, name
  assert ours["epochs"].default == 10.0
  made = settings().experiment(base.model_spec(), perturb="stem", image_size=8)
  assert made.gradient.keywords == {"update": "stage3_block1", "perturb": "stem", "weak_batch_size": 48}
  assert made.optimizer == settings().optimizer
  assert "perturb" in inspect.signature(optim.pol).parameters


def test_the_length_is_said_in_epochs_or_in_steps(base):
  made = settings(epochs=None, steps=3).experiment(base.model_spec())
  assert [experiment.total_steps(each, 96) for each in (made, settings().experiment(base.model_spec()))] == [
    3,
    6,
  ]
  with pytest.raises(ConfigError, match=r"epochs is 1\.0 and steps is 3; give one of them"):
    settings(steps=3)


def test_a_rehearsal_and_the_memory_know_the_weak_batch(base):
  made = settings(gradient=dict(make=".optim.pof", weak_batch_size=48)).experiment(base.model_spec())
  mesh = train.make_mesh(1)
  program, state = experiment.rehearse(made, num_classes=3, num_examples=96, image_size=8, mesh=mesh)
  found = device_memory.predict(program, state, batch_size=16, image_size=8, mesh=mesh, compiled=False)
  assert found.batch == (16 + 48) * (8 * 8 * 3 * 4 + 4 + 1)
  assert feed.shapes(optim.plain(), image_and_label(8), batch_size=4).keys() == {"image", "label", "mask"}
