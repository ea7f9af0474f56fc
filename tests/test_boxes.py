"""Box geometry: hand values, and agreement with boxes painted on a grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import boxes as geometry
from jaxtl.errors import DataError


def drawn(rng, *shape, size=24, integer=False):
  """Random boxes inside a square."""
  a, b = rng.uniform(0, size, (2, *shape, 2))
  corners = np.concatenate([np.minimum(a, b), np.maximum(a, b)], -1)
  return np.round(corners) if integer else corners.astype(np.float32)


def painted(box, size=24):
  y, x = np.mgrid[:size, :size]
  return (y >= box[0]) & (y < box[2]) & (x >= box[1]) & (x < box[3])


def test_iou_by_hand():
  found = geometry.iou(
    jnp.array([[0, 0, 32, 32]]), jnp.array([[8, 8, 40, 40], [32, 0, 64, 32], [0, 0, 32, 16]])
  )
  np.testing.assert_allclose(found, [[576 / 1472, 0, 0.5]], rtol=1e-6)
  assert round(float(found[0, 0]), 6) == 0.391304


def test_iou_counts_painted_pixels():
  """Boxes with whole corners cover whole pixels, since they are half open."""
  rng = np.random.default_rng(0)
  one, other = drawn(rng, 20, integer=True), drawn(rng, 30, integer=True)
  masks, others = np.array([painted(x) for x in one]), np.array([painted(x) for x in other])
  shared = np.einsum("iyx,jyx->ij", masks.astype(int), others.astype(int))
  union = np.einsum("iyx->i", masks.astype(int))[:, None] + np.einsum("jyx->j", others.astype(int)) - shared
  np.testing.assert_allclose(geometry.iou(one, other), shared / np.maximum(union, 1), atol=1e-6)
  np.testing.assert_array_equal(geometry.area(one), masks.sum((1, 2)))


def test_iou_of_a_batch_is_that_of_its_images():
  rng = np.random.default_rng(1)
  one, other = drawn(rng, 3, 5), drawn(rng, 3, 7)
  found = geometry.iou(one, other)
  assert found.shape == (3, 5, 7)
  for image in range(3):
    np.testing.assert_allclose(found[image], geometry.iou(one[image], other[image]), rtol=1e-6)


def test_empty_boxes_overlap_nothing():
  empty = jnp.array([[3.0, 3, 3, 3], [5, 5, 2, 2]])
  np.testing.assert_array_equal(geometry.iou(empty, empty), np.zeros((2, 2)))
  gradient = jax.grad(lambda x: jnp.sum(geometry.iou(x, x)))(empty)
  assert np.all(np.isfinite(gradient))


def test_decoding_inverts_encoding():
  rng = np.random.default_rng(2)
  boxes, anchors = drawn(rng, 500, size=640), drawn(rng, 500, size=640)
  boxes[:, 2:] += 1
  anchors[:, 2:] += 32  # a ratio of sides within the clip of `decode`
  back = geometry.decode(geometry.encode(boxes, anchors), anchors)
  np.testing.assert_allclose(back, boxes, atol=2e-4)


def test_code_by_hand():
  code = geometry.encode(jnp.array([0.0, 16, 16, 80]), jnp.array([0.0, 0, 32, 32]))
  np.testing.assert_allclose(code, [-0.25, 1.0, np.log(0.5), np.log(2)], rtol=1e-6)


def test_legacy_decoding_adds_a_pixel():
  """The values of a 32-pixel anchor, as the released detectors decode what they encode without a pixel."""
  anchor = jnp.array([0.0, 0, 32, 32])
  code = geometry.encode(jnp.array([0.0, 10, 16, 42]), anchor)
  np.testing.assert_allclose(
    geometry.decode(code, anchor, legacy=True), [0, 10.3125, 15.5, 42.3125], atol=1e-4
  )


def test_a_wild_code_stays_finite():
  anchor = jnp.array([0.0, 0, 32, 32])
  box = geometry.decode(jnp.array([0.0, 0, 1e4, 1e30]), anchor)
  np.testing.assert_allclose(box[2:] - box[:2], [2000, 2000], rtol=1e-5)  # 32 * 1000 / 16


def test_clip_reaches_the_end_of_the_image():
  found = geometry.clip(jnp.array([[-5.0, 3, 700, 50]]), jnp.array([[640.0, 40.0]]))
  np.testing.assert_array_equal(found, [[0, 3, 640, 40]])


@pytest.mark.parametrize("dtype", ["bfloat16", "int32"])
def test_everything_is_float32(dtype):
  boxes = jnp.array([[0, 0, 32, 32]]).astype(dtype)
  results = geometry.iou(boxes, boxes), geometry.encode(boxes, boxes), geometry.decode(boxes, boxes)
  assert all(x.dtype == jnp.float32 for x in (*results, geometry.area(boxes), geometry.clip(boxes, [9, 9])))


def test_other_shapes_are_refused():
  with pytest.raises(DataError, match=r"boxes have shape \[2, 5\]; expected \[..., 4\]"):
    geometry.area(jnp.zeros((2, 5)))
