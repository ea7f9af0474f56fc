"""Normalisation statistics, estimated anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import models, train
from jaxtl.errors import ConfigError
from jaxtl.train.batch_stats import reestimated
from jaxtl.train.step import init_model


@pytest.fixture
def network():
  model = models.resnet8(num_classes=3, width=4)
  params, stats = init_model(model, jax.random.key(0), (8, 8, 3))
  return model, params, stats


def images(number, size=16, seed=0):
  rng = np.random.default_rng(seed)
  return [rng.normal(1, 3, (size, 8, 8, 3)).astype(np.float32) for _ in range(number)]


def test_the_first_layers_statistics_are_those_of_all_images_together(network):
  model, params, stats = network
  batches = images(3)
  found = reestimated(model, params, stats, batches, mesh=train.make_mesh(1))
  # Nothing is normalised before the stem's own normalisation, so its input is that of any batch.
  kernel = params["stem"]["conv1"]["kernel"]
  maps = jax.lax.conv_general_dilated(
    jnp.concatenate(batches), kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  [norm] = [part for part in found["stem"].values() if "mean" in part]
  np.testing.assert_allclose(norm["mean"], jnp.mean(maps, (0, 1, 2)), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(norm["var"], jnp.var(maps, (0, 1, 2)), rtol=1e-4)


def stem_norm(found):
  [norm] = [part for part in found["stem"].values() if "mean" in part]
  return norm


def stem_maps(params, batches):
  """What enters the stem's normalisation, in float64: it is that of any batch."""
  kernel = np.asarray(params["stem"]["conv1"]["kernel"], np.float64)
  images = np.pad(np.concatenate(batches).astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))
  return np.einsum("nhwcij,ijco->nhwo", windows, kernel)


@pytest.mark.parametrize("momentum", [0.9, 0.99, 0.999])
@pytest.mark.parametrize("sizes", [(40, 40, 10), (1, 30), (7, 7)])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (128.0, 74.0), (1000.0, 3.0)])
def test_batches_count_by_their_images_and_variances_keep_their_digits(sizes, momentum, mean, std):
  """Each batch has a mean of its own, so that equal weights would be far off."""
  model = models.resnet8(num_classes=3, width=4, bn_momentum=momentum)
  params, stats = init_model(model, jax.random.key(0), (8, 8, 3))
  rng = np.random.default_rng(0)
  batches = [
    rng.normal(mean + number * std, std, (size, 8, 8, 3)).astype(np.float32)
    for number, size in enumerate(sizes)
  ]
  found = stem_norm(reestimated(model, params, stats, batches, mesh=train.make_mesh(1)))
  maps = stem_maps(params, batches)
  # A batch's own variance is float32's, a mean of squares less a squared mean.
  lost = 1e-6 * (1 + maps.mean((0, 1, 2)) ** 2 / maps.var((0, 1, 2)))
  np.testing.assert_allclose(found["mean"], maps.mean((0, 1, 2)), rtol=1e-5, atol=1e-5 * std)
  assert np.all(np.abs(found["var"] / maps.var((0, 1, 2)) - 1) < 1e-5 + lost)
  assert found["var"].dtype == np.float32


def test_one_batch_gives_what_training_normalises_with(network):
  """In evaluation with the new statistics, the batch comes out as in training."""
  model, params, stats = network
  [batch] = images(1)
  found = reestimated(model, params, stats, [batch], mesh=train.make_mesh(1))
  stored = model.apply(params, found, jnp.asarray(batch))[0]["logits"]
  trained = model.apply(params, stats, jnp.asarray(batch), train=True, key=jax.random.key(0))[0]["logits"]
  np.testing.assert_allclose(stored, trained, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("momentum", [0.9, 0.99, 0.0])
def test_the_networks_momentum_and_the_stored_statistics_do_not_matter(network, momentum):
  model, params, stats = network
  other = models.resnet8(num_classes=3, width=4, bn_momentum=momentum)
  moved = jax.tree.map(lambda x: 3 * x + 2, stats)
  a = reestimated(model, params, stats, images(2), mesh=train.make_mesh(1))
  b = reestimated(other, params, moved, images(2), mesh=train.make_mesh(1))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5), a, b)


def test_eight_devices_are_one(network):
  model, params, stats = network
  one, eight = (reestimated(model, params, stats, images(2), mesh=train.make_mesh(n)) for n in (1, 8))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), one, eight)


def test_a_network_without_statistics_needs_no_images():
  model = models.vit_ti16(num_classes=3, image_size=16, depth=1)
  params, stats = init_model(model, jax.random.key(0), (16, 16, 3))
  assert reestimated(model, params, stats, [], mesh=train.make_mesh(1)) == stats


def test_no_images_and_statistics_that_stay_are_refused(network):
  model, params, stats = network
  with pytest.raises(ConfigError, match="there are no images to estimate statistics from"):
    reestimated(model, params, stats, [], mesh=train.make_mesh(1))
  stubborn = models.resnet8(num_classes=3, width=4, batch_norm="stored")
  with pytest.raises(ConfigError, match="never updates its statistics"):
    reestimated(stubborn, params, stats, images(1), mesh=train.make_mesh(1))
