"""Feature moments: sums that add over any split of the images, and from which exact statistics follow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxtl import metrics
from jaxtl.errors import ConfigError
from jaxtl.metrics import transferability
from jaxtl.metrics.transferability import ScoreError

FIELDS = metrics.Moments._fields


def data(num=200, dim=7, classes=3, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(num, dim)) * 3 + 2, rng.integers(0, classes, num)


def by_definition(features, labels, shift, num_classes):
  """Image after image."""
  dim = features.shape[1]
  sums = metrics.Moments(
    shift,
    *(np.zeros(s) for s in ((num_classes,), (num_classes, dim), (num_classes, dim), (dim, dim), (), (dim,))),
  )
  for feature, label in zip(features, labels):
    g = feature - shift
    sums.count[label] += 1
    sums.total[label] += g
    sums.squares[label] += g**2
    sums.second[:] += np.outer(g, g)
    sums.norm4[()] += (g @ g) ** 2
    sums.norm2_total[:] += (g @ g) * g
  return sums


def assert_close(a, b, rtol):
  for name, x, y in zip(FIELDS, a, b):
    np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * np.abs(y).max(), err_msg=name)


def test_host_moments_are_their_definition():
  features, labels = data()
  moments = metrics.moments_of(features, labels)
  assert_close(moments, by_definition(features, labels, moments.shift, 3), 1e-12)


def test_a_weight_is_a_number_of_copies():
  features, labels = data(num=50)
  weights = np.random.default_rng(1).integers(0, 4, 50)
  shift = np.zeros(7)
  copies = metrics.moments_of(features.repeat(weights, axis=0), labels.repeat(weights), shift=shift)
  assert_close(metrics.moments_of(features, labels, weights=weights, shift=shift), copies, 1e-12)


@pytest.mark.parametrize("parts", [1, 2, 8])
def test_moments_add_over_any_split_of_the_images(parts):
  features, labels = data()
  whole = metrics.moments_of(features, labels)
  split = np.random.default_rng(parts).integers(0, parts, len(labels))
  sums = [
    metrics.moments_of(features[split == part], labels[split == part], num_classes=3, shift=whole.shift)
    for part in range(parts)
  ]
  total = sums[0]
  for other in sums[1:]:
    total = metrics.add(total, other)
  assert_close(total, whole, 1e-12)


def test_rows_beyond_a_block_are_summed(monkeypatch):
  features, labels = data()
  whole = metrics.moments_of(features, labels, shift=np.ones(7))
  monkeypatch.setattr(metrics.moments, "ROWS", 16)
  assert_close(metrics.moments_of(features, labels, shift=np.ones(7)), whole, 1e-12)


def test_moments_by_fold_sum_to_the_whole_and_leave_one_out():
  features, labels = data()
  folds = np.arange(len(labels)) % 5
  by_fold = metrics.moments_of(features, labels, folds=folds)
  whole = metrics.moments_of(features, labels)
  assert by_fold.second.shape == (5, 7, 7)
  assert_close(metrics.over_folds(by_fold), whole, 1e-12)
  rest = metrics.moments_of(features[folds != 2], labels[folds != 2], shift=whole.shift)
  assert_close(metrics.over_folds(by_fold, without=2), rest, 1e-9)


def test_moments_with_another_shift_do_not_add():
  features, labels = data()
  with pytest.raises(ConfigError, match="shift"):
    metrics.add(metrics.moments_of(features, labels), metrics.moments_of(features, labels, shift=np.ones(7)))


def padded(features, labels, size):
  """The rows in a batch of `size`; the rest is NaN."""
  batch = np.full((size, features.shape[1]), np.nan, np.float32)
  batch[: len(features)] = features
  target = np.zeros(size, np.int32)
  target[: len(labels)] = labels
  return batch, target, np.arange(size) < len(labels)


def test_padding_does_not_count_on_a_device():
  features, labels = data()
  batch, target, mask = padded(features, labels, 256)
  shift = features[:10].mean(axis=0)
  summed = jax.jit(metrics.batch_moments, static_argnames="num_classes")(
    batch, target, mask, jnp.asarray(shift, jnp.float32), num_classes=3
  )
  reference = metrics.moments_of(features, labels, shift=np.float32(shift).astype(float))
  assert_close(metrics.on_host(summed), reference, 1e-5)
  assert metrics.on_host(summed).second.dtype == np.float64


@pytest.mark.parametrize("num_devices", [1, 2, 8])
def test_sharded_batches_have_the_same_moments(num_devices):
  """Each device sums its own rows; the sums meet once, at the end, in float64."""
  features, labels = data(num=256)
  mesh = jax.make_mesh((num_devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  rows = NamedSharding(mesh, PartitionSpec("data"))
  shift = jnp.asarray(features[:10].mean(axis=0), jnp.float32)

  def local(features, labels, mask):
    sums = metrics.batch_moments(features, labels, mask, shift, num_classes=3)
    return jax.tree.map(lambda leaf: leaf[None], sums)

  per_device = jax.jit(
    jax.shard_map(local, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data"))
  )
  total = None
  for first in range(0, 256, 64):
    part = slice(first, first + 64)
    arrays = (np.float32(features[part]), np.int32(labels[part]), np.ones(64, bool))
    sums = metrics.on_host(per_device(*(jax.device_put(array, rows) for array in arrays)))
    summed = metrics.over_folds(sums)._replace(shift=sums.shift[0])
    total = summed if total is None else metrics.add(total, summed)
  reference = metrics.moments_of(np.float32(features), labels, shift=np.asarray(shift, np.float64))
  assert_close(total, reference, 1e-6)


def test_device_moments_by_fold_are_those_of_the_host():
  features, labels = data()
  folds = np.arange(len(labels)) % 5
  batch, target, mask = padded(features, labels, 256)
  masks = metrics.fold_masks(jnp.asarray(np.pad(folds, (0, 56))), jnp.asarray(mask))
  shift = jnp.zeros(7)
  summed = metrics.on_host(metrics.batch_moments(batch, target, masks, shift, num_classes=3))
  assert_close(summed, metrics.moments_of(features, labels, folds=folds, shift=np.zeros(7)), 1e-5)


@pytest.mark.parametrize("shift", [0.0, 1.9, -40.0])
def test_statistics_do_not_depend_on_the_shift_and_are_direct_sums(shift):
  features, labels = data()
  moments = metrics.moments_of(features, labels, shift=np.full(7, shift))
  found = transferability.class_statistics(moments)
  mean = features.mean(axis=0)
  np.testing.assert_allclose(found.mean, mean, rtol=1e-12)
  np.testing.assert_allclose(found.covariance, np.cov(features.T, bias=True), rtol=1e-9, atol=1e-9)
  np.testing.assert_allclose(found.fourth, np.sum(np.sum((features - mean) ** 2, axis=1) ** 2), rtol=1e-9)
  for number in range(3):
    own = features[labels == number]
    np.testing.assert_allclose(found.deviations[number], own.mean(axis=0) - mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.variances[number], own.var(axis=0), rtol=1e-9)
  within = sum(np.sum(labels == c) * np.cov(features[labels == c].T, bias=True) for c in range(3)) / 200
  np.testing.assert_allclose(found.within, within, rtol=1e-9, atol=1e-9)


def test_a_class_without_images_is_dropped_and_named():
  features, labels = data()
  found = transferability.class_statistics(metrics.moments_of(features, 2 * labels, num_classes=6))
  np.testing.assert_array_equal(found.classes, [0, 2, 4])
  np.testing.assert_array_equal(found.dropped, [1, 3, 5])
  np.testing.assert_array_equal(transferability.statistics_of(features, 2 * labels).classes, [0, 2, 4])


def test_other_labels_share_the_eigenvectors():
  features, labels = data()
  statistics = transferability.statistics_of(features, labels)
  vectors = statistics.spectrum[1]
  permuted = np.random.default_rng(0).permutation(labels)
  other = transferability.relabelled(statistics, features, permuted)
  direct = transferability.statistics_of(features, permuted)
  assert other.spectrum[1] is vectors
  np.testing.assert_allclose(other.deviations, direct.deviations, atol=1e-12)
  np.testing.assert_allclose(other.variances, direct.variances, rtol=1e-9)
  np.testing.assert_array_equal(other.count, direct.count)


def test_a_random_projection_keeps_lengths_on_average():
  features = np.random.default_rng(0).normal(size=(100, 3000)).astype(np.float32)
  projected = metrics.random_projection(features, dim=500)
  assert projected.shape == (100, 500)
  assert projected.dtype == np.float32
  ratios = np.sum(projected**2, axis=1) / np.sum(features**2, axis=1)
  assert ratios.mean() == pytest.approx(1, abs=4 * np.sqrt(2 / 500 / 100) + 0.05)
  assert metrics.random_projection(features, dim=3000) is features
  assert not np.array_equal(projected, metrics.random_projection(features, dim=500, seed=1))


def test_bad_moments_are_refused():
  features, labels = data()
  with pytest.raises(ConfigError, match="random_projection"):
    metrics.moments_of(np.zeros((2, 5000)), np.zeros(2, int))
  with pytest.raises(ConfigError, match=r"expected \[N, D\]"):
    metrics.moments_of(features[0], labels)
  with pytest.raises(ScoreError, match="at least 2 classes, got 1"):
    transferability.class_statistics(metrics.moments_of(features, np.zeros(200, int)))
  features[3, 2] = np.inf
  with pytest.raises(ScoreError, match="NaN"), np.errstate(invalid="ignore"):
    transferability.class_statistics(metrics.moments_of(features, labels, shift=np.zeros(7)))


def test_resampled_images_have_the_statistics_of_their_copies():
  """A bootstrap of a score needs weights, and no copies of features."""
  features, labels = data(num=60)
  weights = np.random.default_rng(2).multinomial(60, np.full(60, 1 / 60))
  copies = transferability.statistics_of(features.repeat(weights, axis=0), labels.repeat(weights))
  weighted = transferability.statistics_of(features, labels, weights=weights)
  for score in (transferability.h_score, transferability.lfc, transferability.logme, transferability.gbc):
    assert float(score(weighted)) == pytest.approx(float(score(copies)), rel=1e-9), score
