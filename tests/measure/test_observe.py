"""One pass: the features of the network itself, on any number of devices, and what the network costs."""

import jax
import numpy as np
import pytest

from jaxtl import data
from jaxtl.checkpoints import checkpoint
from jaxtl.errors import ConfigError, DataError, InputError
from jaxtl.measure import observe
from jaxtl.metrics import transferability as t
from tests.inference.saved import NORMALIZE, save
from tests.small_training import quiet_runtime, squares


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  return checkpoint.load(save(tmp_path_factory.mktemp("w") / "w", transforms=[NORMALIZE], size=8))


def network(weights, **changes):
  return observe.feature_network(weights, changes, name="one")


def passed(given, source, *, devices=1, **options):
  options = dict(batch_size=8, seed=0) | options
  return observe.observe(
    given, source, runtime=quiet_runtime(devices), bad_records=data.BadRecords(1), **options
  )


def test_features_and_logits_are_those_of_the_network(weights):
  source = squares(num_examples=30)
  given = network(weights)
  found = passed(given, source)
  batches = data.eval_batches(source, [spec.realize() for spec in given.transforms], batch_size=30)
  [batch] = list(batches)
  expected, _ = given.model.apply(given.params, given.batch_stats, batch["image"])
  np.testing.assert_allclose(found.observed.features, expected["pooled"], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(found.observed.logits, expected["logits"], rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(found.observed.labels, source.labels)
  np.testing.assert_array_equal(found.rows, np.arange(30))
  assert found.milliseconds > 0
  assert found.seconds > 0
  assert not found.pixels


@pytest.mark.parametrize("devices", [2, 8])
def test_the_number_of_devices_and_the_batch_change_nothing(weights, devices):
  source = squares(num_examples=30)
  one = passed(network(weights), source, batch_size=30).observed
  more = passed(network(weights), source, devices=devices).observed
  np.testing.assert_allclose(more.features, one.features, rtol=1e-6, atol=1e-6)
  np.testing.assert_array_equal(more.labels, one.labels)
  scores = [float(t.h_score(observed.statistics)) for observed in (one, more)]
  assert scores[0] == pytest.approx(scores[1], rel=1e-5)


def test_what_a_network_costs(weights):
  given = network(weights)
  about = observe.about(given)
  head = sum(np.size(x) for x in jax.tree.leaves(weights.params["head"]))
  total = sum(np.size(x) for x in jax.tree.leaves(weights.params))
  assert about["parameters"] == total - head
  assert about["features"] == weights.params["head"]["kernel"].shape[0]
  assert about["architecture"] == "resnet8"
  assert about["image_size"] == 8
  # Twice the side, four times the convolutions; the head does not grow.
  larger = observe.about(network(weights, size=16, crop_fraction=None))
  classes = weights.params["head"]["kernel"].size
  assert larger["multiply_accumulates"] - classes == 4 * (about["multiply_accumulates"] - classes)
  assert larger["image_size"] == 16


def test_a_weight_without_a_classifier_has_features_alone(weights, tmp_path):
  config = {**weights.config, "classes": []}
  params = {name: value for name, value in weights.params.items() if name != "head"}
  checkpoint.save_weights(checkpoint.Weights(params, weights.batch_stats, config, "memory"), tmp_path / "w")
  headless = network(checkpoint.load(tmp_path / "w"))
  found = passed(headless, squares(num_examples=16)).observed
  assert found.logits is None
  whole = passed(network(weights), squares(num_examples=16)).observed
  np.testing.assert_allclose(found.features, whole.features, rtol=1e-6, atol=1e-6)


def test_pixels_are_summarised_with_the_pass(weights):
  source = squares(num_examples=12)
  given = network(weights)
  found = passed(given, source, with_pixels=True)
  [batch] = list(data.eval_batches(source, [spec.realize() for spec in given.transforms], batch_size=12))
  np.testing.assert_allclose(found.pixels["pixels"], t.pixel_features(batch["image"]), atol=1e-6)
  np.testing.assert_allclose(found.pixels["colors"], t.color_features(batch["image"]), atol=1e-6)


def test_an_untrained_network_has_the_same_shapes_and_other_numbers(weights):
  given = network(weights)
  fresh = observe.untrained(given)
  assert jax.tree.map(np.shape, fresh.params) == jax.tree.map(np.shape, given.params)
  assert "untrained" in fresh.name
  source = squares(num_examples=16)
  assert not np.allclose(passed(fresh, source).observed.features, passed(given, source).observed.features)
  for leaf, other in zip(jax.tree.leaves(fresh.params), jax.tree.leaves(observe.untrained(given).params)):
    np.testing.assert_array_equal(leaf, other)


def test_images_of_another_size_and_uneven_batches_are_one_line(weights):
  given = network(weights)
  images = np.zeros((8, 12, 12, 3), np.uint8)
  other = data.from_arrays(images=images, labels=np.arange(8) % 2, name="large")
  with pytest.raises(DataError, match=r"large gives images of 12 x 12, .* give --image-size 8"):
    passed(given, other)
  with pytest.raises(ConfigError, match="--batch-size"):
    passed(given, squares(num_examples=16), devices=8, batch_size=12)


def test_a_weight_for_texts_or_without_preprocessing_is_refused(weights, tmp_path):
  text = checkpoint.Weights({}, {}, {**weights.config, "image_shape": [77]}, "tower")
  with pytest.raises(InputError, match="one takes texts, not images"):
    network(text)
  unknown = checkpoint.Weights(
    weights.params, weights.batch_stats, {**weights.config, "transforms": None}, "old"
  )
  with pytest.raises(InputError, match="give --crop-fraction, --mean, --std"):
    network(unknown)
