import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import metrics
from jaxtl.errors import DataError

# Classes 0, 1, 2, and void; the second image only fills the batch.
SEGMENTS = np.array([[[0, 0, 1], [1, 2, 255]], [[0, 1, 2], [0, 1, 2]]], np.uint8)
PREDICTED = np.array([[[0, 1, 1], [1, 0, 2]], [[2, 2, 2], [1, 1, 1]]], np.int32)
BY_HAND = [[1, 1, 0], [0, 2, 0], [1, 0, 0]]


def test_confusion_by_hand():
  found = metrics.pixel_confusion(PREDICTED, SEGMENTS, jnp.array([True, False]), num_classes=3)
  assert found.tolist() == BY_HAND
  assert found.dtype == jnp.int32


def test_measures_by_hand():
  confusion = np.array(BY_HAND)
  np.testing.assert_allclose(metrics.class_iou(confusion), [1 / 3, 2 / 3, 0])
  assert metrics.mean_iou(confusion) == pytest.approx(1 / 3)
  assert metrics.pixel_accuracy(confusion) == pytest.approx(3 / 5)


def test_a_class_that_never_occurs_is_left_out():
  confusion = np.pad(np.array(BY_HAND), ((0, 1), (0, 1)))
  assert np.isnan(metrics.class_iou(confusion)).tolist() == [False, False, False, True]
  assert metrics.mean_iou(confusion) == pytest.approx(1 / 3)
  confusion[0, 3] = 1  # predicted once: its intersection over union is 0
  assert metrics.class_iou(confusion)[3] == 0


def test_without_pixels_measures_are_nan():
  empty = np.zeros((3, 3), int)
  assert np.isnan(metrics.mean_iou(empty))
  assert np.isnan(metrics.pixel_accuracy(empty))


def test_confusion_is_that_of_numpy_over_the_whole_set():
  rng = np.random.default_rng(0)
  segments, predicted = rng.integers(0, 5, (2, 6, 8, 8))
  segments[:, :2] = 255
  total = np.zeros((5, 5), np.int64)
  count = jax.jit(lambda p, s, m: metrics.pixel_confusion(p, s, m, num_classes=5))
  for start in (0, 2, 4):
    part = slice(start, start + 2)
    total += np.asarray(count(predicted[part], segments[part], np.ones(2, bool)), np.int64)
  real = segments != 255
  np.testing.assert_array_equal(
    total, metrics.confusion_matrix(segments[real], predicted[real], num_classes=5)
  )
  masks = [(segments == k, (predicted == k) & real) for k in range(5)]
  expected = [np.sum(a & b) / np.sum(a | b) for a, b in masks]
  np.testing.assert_allclose(metrics.class_iou(total), expected)


def test_the_mean_over_a_set_is_not_the_mean_over_images():
  """Of two images, one all right and one all wrong, the classes decide."""
  counts = np.array([[3, 0], [0, 0]]), np.array([[0, 0], [1, 0]])
  assert metrics.mean_iou(sum(counts)) == pytest.approx(3 / 8)  # IoU 3 / 4 and 0


def test_class_means_merge_to_the_intersection_over_union():
  parts = [jnp.array(BY_HAND), jnp.array([[4, 0, 1], [1, 1, 1], [0, 0, 2]])]
  merged = metrics.merge(*(metrics.class_means(part) for part in parts))
  whole = metrics.class_iou(np.asarray(parts[0] + parts[1]))
  assert metrics.compute(merged) == pytest.approx({f"iou/{k}": whole[k] for k in range(3)})


def test_void_may_be_a_class():
  found = metrics.pixel_confusion(PREDICTED, SEGMENTS, jnp.array([True, False]), num_classes=3, void=0)
  assert found.tolist() == [[0, 0, 0], [0, 2, 0], [1, 0, 0]]


def test_prediction_interpolates_logits_and_not_classes():
  logits = jnp.zeros((1, 1, 2, 3)).at[0, 0, 0, 0].set(4.0).at[0, 0, 1, 2].set(4.0).at[..., 1].set(1.9)
  found = metrics.segments_of(logits, (2, 8))
  assert found.shape == (1, 2, 8)
  assert found.dtype == jnp.int32
  # Pixel centres lie at (i + 1/2) / 4 - 1/2 positions: the weights of the right one are 0, 0, 1/8, 3/8, ...
  # Never are both outer classes below 1.9, that is, at a weight between 0.475 and 0.525.
  assert found[0, 0].tolist() == [0, 0, 0, 0, 2, 2, 2, 2]
  assert metrics.segments_of(logits.at[..., 1].set(2.6), (2, 8))[0, 1].tolist() == [0, 0, 0, 1, 1, 2, 2, 2]


def test_shapes_that_do_not_fit_are_refused():
  with pytest.raises(DataError, match=r"predictions have shape \[1, 2, 3\], segments \[2, 2, 3\]"):
    metrics.pixel_confusion(PREDICTED[:1], SEGMENTS, jnp.ones(2, bool), num_classes=3)
