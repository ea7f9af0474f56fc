"""The outputs of a network on fixed images: hand values, and the network's own logits."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import losses, train
from jaxtl.config import parse
from jaxtl.errors import ConfigError
from jaxtl.measure import outputs
from jaxtl.measure.outputs import Outputs
from tests.small_training import tiny_config

MARGIN = 2.0


def settings(**changes):
  data = tiny_config()["evaluation"]["test"]
  return parse(dict(data=data, num_examples=48) | changes, Outputs)


def test_hand_values():
  logits = np.array([[3.0, 0.0], [0.0, 1.0], [0.0, 4.0], [1.0, 1.5]])
  labels = np.array([0, 0, 1, 1])  # gaps 3, -1, 4, 0.5
  found = outputs.summarise(
    features=np.array([[0.0], [2.0], [10.0], [12.0]]),
    logits=logits,
    labels=labels,
    loss=np.array([0.0, 2.0, 0.0, 1.0]),
    is_flat=np.array([True, False, True, False]),
  )
  assert tuple(found) == outputs.NAMES
  assert (found["loss"], found["top1"]) == (0.75, 0.75)
  assert (found["zero_loss"], found["zero_gradient"]) == (0.5, 0.5)
  assert found["gap_p50"] == 1.75
  assert found["gap_p05"] == pytest.approx(-1 + 0.15 * 1.5)
  # The centred logits of a gap g are (g/2, -g/2), of norm |g| / sqrt(2).
  assert found["logit_norm"] == pytest.approx(8.5 / 4 / np.sqrt(2))
  assert found["cross_entropy"] == pytest.approx(np.mean(np.log1p(np.exp([-3, 1, -4, -0.5]))), rel=1e-6)
  assert found["nc1"] == pytest.approx(1 / 25 / 2)  # a variance of 1 within, of 25 between two classes
  assert found["effective_rank"] == pytest.approx(1)


def test_outputs_that_are_not_finite_are_nan_and_no_error():
  broken = np.full((4, 2), np.nan)
  labels, zeros = np.array([0, 0, 1, 1]), np.zeros(4)
  found = outputs.summarise(features=broken, logits=broken, labels=labels, loss=zeros, is_flat=zeros > 0)
  assert np.isnan([found[key] for key in ("calibration_error", "gap_p50", "nc1", "effective_rank")]).all()
  assert found["top1"] == 0


def test_the_observer_sees_the_logits_of_the_network(tiny, runtime):
  """Independently: the network applied to the images, one loss and one gradient at a time."""
  loss = functools.partial(losses.multiclass_smoothed_hinge, margin=MARGIN)
  task = dict(make=".tasks.classification", loss=dict(fn=".losses.multiclass_smoothed_hinge", margin=MARGIN))
  # 48 images in batches of 32: the last batch is padded.
  observers = {"outputs": (None, outputs.observer(settings(), "some", runtime()))}
  trained = train.run(tiny(task=task, epochs=1.0), seed=0, runtime=runtime(), observers=observers)
  found = {key.rpartition("/")[2]: trained.last(key) for key in outputs.keys("some")}
  batches = list(outputs.subset(settings().data, runtime(), num_examples=48, seed=0))
  images = np.concatenate([batch["image"][batch["mask"]] for batch in batches])
  labels = np.concatenate([batch["label"][batch["mask"]] for batch in batches])
  assert len(labels) == 48
  features, _ = trained.program.model.apply(trained.weights.params, trained.weights.batch_stats, images)
  logits = np.asarray(features["logits"])
  gaps = logits[np.arange(48), labels] - np.max(np.where(np.eye(3)[labels] == 1, -np.inf, logits), axis=1)
  # The loss is zero exactly where the gap reaches the margin: the share is a real one here.
  assert 0 < np.mean(gaps >= MARGIN) < 1
  assert found["zero_loss"] == found["zero_gradient"] == np.mean(gaps >= MARGIN)
  assert found["loss"] == pytest.approx(float(jnp.mean(loss(logits, labels))), rel=1e-5)
  assert found["top1"] == np.mean(np.argmax(logits, axis=1) == labels)
  assert found["gap_p50"] == pytest.approx(np.median(gaps), rel=1e-5)


def test_every_setting_matters(tiny, runtime):
  def measured(**changes):
    observers = {"outputs": (2, outputs.observer(settings(**changes), "some", runtime()))}
    trained = train.run(tiny(epochs=0.5), seed=0, runtime=runtime(), observers=observers)
    return trained.last("outputs/some/cross_entropy")

  first = measured()
  assert measured() == first
  assert measured(num_examples=24) != first
  assert measured(seed=1, num_examples=24) != measured(num_examples=24)
  with pytest.raises(ConfigError, match="num_examples"):
    settings(num_examples=0)
  with pytest.raises(ConfigError, match="evaluate_every"):
    settings(evaluate_every=0)
