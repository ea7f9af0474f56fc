import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.models.anchors import PER_CELL, octave_anchors, rounded_anchors


def test_the_first_cell_of_level_3():
  expected = [
    (-12.0, -12.0, 20.0, 20.0),
    (-7.3137, -18.6274, 15.3137, 26.6274),
    (-18.6274, -7.3137, 26.6274, 15.3137),
    (-16.1587, -16.1587, 24.1587, 24.1587),
    (-21.3984, -21.3984, 29.3984, 29.3984),
  ]
  found = octave_anchors(80, 80, 3)
  np.testing.assert_allclose(found[jnp.array([0, 1, 2, 3, 6])], expected, atol=1e-4)
  np.testing.assert_allclose(octave_anchors(5, 5, 7)[0], (-192, -192, 320, 320))
  assert found.dtype == jnp.float32


def test_the_number_at_640_pixels():
  assert sum(len(octave_anchors(640 // 2**level, 640 // 2**level, level)) for level in range(3, 8)) == 76_725


@pytest.mark.parametrize("anchors", [octave_anchors, rounded_anchors])
def test_cells_are_in_row_major_order(anchors):
  found = np.asarray(anchors(2, 3, 4)).reshape(2, 3, PER_CELL, 4)
  np.testing.assert_allclose(found[1, 2] - found[0, 0], np.broadcast_to([16, 32, 16, 32], (9, 4)), 1e-6)
  np.testing.assert_allclose(found[0, 1] - found[0, 0], np.broadcast_to([0, 16, 0, 16], (9, 4)), 1e-6, 1e-5)


def test_areas_and_ratios():
  sides = np.asarray(octave_anchors(1, 1, 5))
  height, width = (sides[:, 2:] - sides[:, :2]).T
  np.testing.assert_allclose(np.sqrt(height * width), np.repeat(128 * 2 ** (np.arange(3) / 3), 3), rtol=1e-5)
  np.testing.assert_allclose(width / height, np.tile([1, 2, 0.5], 3), rtol=1e-5)


def test_torchvision_rounds_to_whole_pixels():
  """The nine shapes of the first level of its RetinaNet, around the corner of the image, as half sides.

  Written from its rule: sizes 32, int(32 * 2^(1/3)) = 40 and int(32 * 2^(2/3)) = 50; ratios h / w 0.5, 1, 2
  outermost; the halves of w = s / sqrt(r) and h = s sqrt(r) are rounded.
  """
  halves = [(11, 23), (14, 28), (18, 35), (16, 16), (20, 20), (25, 25), (23, 11), (28, 14), (35, 18)]
  expected = [(-h, -w, h, w) for h, w in halves]
  found = rounded_anchors(2, 2, 3)
  np.testing.assert_array_equal(found[:9], expected)
  np.testing.assert_array_equal(found[9:18], np.add(expected, [0, 8, 0, 8]))
