import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import losses, models, tasks
from jaxtl.errors import ConfigError
from jaxtl.metrics import compute

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def setup():
  model = models.resnet8(num_classes=7, width=4)
  images = jax.random.normal(KEY, (6, 8, 8, 3))
  params, batch_stats = model.init(KEY, images)
  labels = jnp.array([0, 1, 2, 3, 4, 5])
  return model, params, batch_stats, {"image": images, "label": labels, "mask": jnp.ones(6, bool)}


def test_the_loss_is_the_mean_over_unmasked_rows(setup):
  model, params, batch_stats, batch = setup
  task = tasks.classification(loss=losses.softmax_cross_entropy, frozen_stats=True)
  batch = batch | {"mask": jnp.array([1, 1, 1, 1, 0, 0], bool)}
  loss, aux = task.loss_fn(model)(params, batch_stats, batch, KEY)
  logits = model.apply(params, batch_stats, batch["image"])[0]["logits"]
  expected = losses.softmax_cross_entropy(logits, batch["label"])[:4].mean()
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  np.testing.assert_allclose(
    aux.metrics["accuracy"], (logits.argmax(-1) == batch["label"])[:4].mean(), rtol=1e-6
  )


def test_frozen_statistics_stay_and_live_ones_move(setup):
  model, params, batch_stats, batch = setup
  for frozen in (True, False):
    task = tasks.classification(loss=losses.softmax_cross_entropy, frozen_stats=frozen)
    _, aux = task.loss_fn(model)(params, batch_stats, batch, KEY)
    same = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), aux.batch_stats, batch_stats)
    assert all(jax.tree.leaves(same)) is frozen


def test_two_labels_and_a_weight_are_two_losses_weighed(setup):
  model, params, batch_stats, batch = setup
  task = tasks.classification(loss=losses.softmax_cross_entropy, frozen_stats=True)
  other, weight = jnp.flip(batch["label"]), jnp.linspace(0, 1, 6)
  mixed, _ = task.loss_fn(model)(params, batch_stats, batch | {"label_b": other, "weight": weight}, KEY)
  logits = model.apply(params, batch_stats, batch["image"])[0]["logits"]
  a, b = (losses.softmax_cross_entropy(logits, y) for y in (batch["label"], other))
  np.testing.assert_allclose(mixed, jnp.mean(weight * a + (1 - weight) * b), rtol=1e-5)


def test_a_distribution_as_label_is_the_mixed_loss(setup):
  model, params, batch_stats, batch = setup
  task = tasks.classification(loss=losses.softmax_cross_entropy, frozen_stats=True)
  other, weight = jnp.flip(batch["label"]), jnp.linspace(0, 1, 6)
  hot = weight[:, None] * jax.nn.one_hot(batch["label"], 7)
  hot += (1 - weight[:, None]) * jax.nn.one_hot(other, 7)
  two, _ = task.loss_fn(model)(params, batch_stats, batch | {"label_b": other, "weight": weight}, KEY)
  soft, _ = task.loss_fn(model)(params, batch_stats, batch | {"label": hot}, KEY)
  np.testing.assert_allclose(soft, two, rtol=1e-5)


def test_no_accuracy_of_mixed_images_is_reported(setup):
  model, params, batch_stats, batch = setup
  loss_fn = tasks.classification(loss=losses.softmax_cross_entropy).loss_fn(model)
  mixed = {"label_b": batch["label"], "weight": jnp.ones(6)}
  for changes, expected in (({}, {"accuracy"}), (mixed, set()), ({"label": jnp.ones((6, 7)) / 7}, set())):
    _, aux = loss_fn(params, batch_stats, batch | changes, KEY)
    assert set(aux.metrics) == expected


def test_consistency_adds_the_divergence_between_an_image_and_its_views(setup):
  model, params, batch_stats, batch = setup
  views = jax.random.normal(jax.random.key(1), (6, 2, 8, 8, 3))
  mask = jnp.array([1, 1, 1, 1, 0, 0], bool)
  task = tasks.classification(loss=losses.softmax_cross_entropy, frozen_stats=True, consistency=12.0)
  found, aux = task.loss_fn(model)(params, batch_stats, batch | {"views": views, "mask": mask}, KEY)
  images = [batch["image"], views[:, 0], views[:, 1]]
  logits = [model.apply(params, batch_stats, x)[0]["logits"] for x in images]
  expected = losses.softmax_cross_entropy(logits[0], batch["label"])
  expected += 12 * losses.jensen_shannon(jnp.concatenate(logits))
  np.testing.assert_allclose(found, expected[:4].mean(), rtol=1e-5)
  hits = logits[0].argmax(-1) == batch["label"]
  np.testing.assert_allclose(aux.metrics["accuracy"], hits[:4].mean(), rtol=1e-6)
  inputs = task.inputs(8)
  assert inputs["views"][0] == (2, 8, 8, 3)
  assert task.reads == ("mixed_labels", "views")
  off = tasks.classification(loss=losses.softmax_cross_entropy)
  assert set(off.inputs(8)) == {"image", "label"}
  assert off.reads == ("mixed_labels",)


def test_batch_statistics_are_those_of_the_images_and_their_views(setup):
  model, params, batch_stats, batch = setup
  views = jnp.stack([batch["image"] + 1, batch["image"] - 1], axis=1)
  task = tasks.classification(loss=losses.softmax_cross_entropy, consistency=1.0)
  _, aux = task.loss_fn(model)(params, batch_stats, batch | {"views": views}, KEY)
  images = jnp.concatenate([batch["image"], views[:, 0], views[:, 1]])
  _, expected = model.apply(params, batch_stats, images, train=True, key=KEY)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), aux.batch_stats, expected)


def test_consistency_out_of_range_or_of_hidden_states_is_refused(setup):
  model, params, batch_stats, batch = setup
  with pytest.raises(ConfigError, match="consistency is -1; expected 0"):
    tasks.classification(loss=losses.softmax_cross_entropy, consistency=-1.0)
  task = tasks.classification(loss=losses.softmax_cross_entropy, consistency=1.0)
  inside = batch | {"image": jnp.zeros((6, 4, 4, 16)), "views": jnp.zeros((6, 2, 8, 8, 3))}
  with pytest.raises(ConfigError, match="needs images as the network's input"):
    task.loss_fn(model)(params, batch_stats, inside, KEY)


def test_measures_are_the_training_loss_and_what_compares_losses(setup):
  model, params, batch_stats, batch = setup
  task = tasks.classification(loss=lambda logits, labels: jnp.full(labels.shape, 3.0))
  found = compute(task.measure(model)(params, batch_stats, batch))
  logits = model.apply(params, batch_stats, batch["image"])[0]["logits"]
  assert found["loss"] == 3.0
  assert found["cross_entropy"] == pytest.approx(
    float(losses.softmax_cross_entropy(logits, batch["label"]).mean()), rel=1e-5
  )
  assert found["top1"] == pytest.approx(float((logits.argmax(-1) == batch["label"]).mean()))
  assert set(found) == {"loss", "cross_entropy", "top1", "top5"}


def test_top5_needs_more_than_five_classes():
  model = models.resnet8(num_classes=5, width=4)
  batch = {"image": jnp.zeros((2, 8, 8, 3)), "label": jnp.zeros(2, jnp.int32), "mask": jnp.ones(2, bool)}
  params, batch_stats = model.init(KEY, batch["image"])
  measures = tasks.classification(loss=losses.softmax_cross_entropy).measure(model)(
    params, batch_stats, batch
  )
  assert "top5" not in measures


def test_the_loss_says_its_model_and_can_be_taken_of_another(setup):
  model, params, batch_stats, batch = setup
  loss_fn = tasks.classification(loss=losses.softmax_cross_entropy, frozen_stats=True).loss_fn(model)
  assert loss_fn.model is model
  logits = model.apply(params, batch_stats, batch["image"])[0]["logits"]
  given = dataclasses.replace(model, apply=lambda x, stats, images, **_: ({"logits": x}, stats))
  expected, _ = loss_fn(params, batch_stats, batch, KEY)
  np.testing.assert_allclose(loss_fn.of(given)(logits, {}, batch, KEY)[0], expected, rtol=1e-6)
