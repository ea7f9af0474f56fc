"""Pictures of data: where each image is, and that nothing runs over."""

import numpy as np

from jaxtl.data import from_arrays, gallery


def test_a_gallery_has_one_row_for_each_group_and_at_most_so_many_columns():
  red = np.zeros((4, 4, 3), np.uint8)
  red[..., 0] = 255
  many = [
    ("first", [red] * 5, ["a\n1"] * 5),
    ("a heading that is far too long for the picture" * 9, [red], ["b"]),
  ]
  sheet = np.asarray(gallery(many, columns=3, side=20))
  pure = (sheet == [255, 0, 0]).all(axis=-1)
  assert pure.sum() == 4 * 20 * 20
  assert sheet.shape[1] == 6 + 3 * 26
  one = np.asarray(gallery(many[:1], columns=3, side=20))
  assert sheet.shape[0] - 6 == 2 * (one.shape[0] - 6)


def test_no_groups_are_an_empty_picture():
  assert (np.asarray(gallery([])) == 255).all()


def test_pixels_in_memory_have_no_file_name():
  assert from_arrays(images=np.zeros((1, 2, 2, 3), np.uint8), labels=[0]).file_name(0) is None
