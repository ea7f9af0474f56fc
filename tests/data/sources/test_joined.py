"""Several data sets as one."""

import numpy as np
import pytest

from jaxtl import data
from jaxtl.errors import DataError


def pixels(number, classes, seed):
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (number, 4 + seed, 5, 3)).astype(np.uint8)
  return data.from_arrays(images=images, labels=np.arange(number) % len(classes), classes=classes, name="p")


def test_examples_come_in_turn_and_classes_lie_side_by_side():
  parts = {"a": pixels(5, ("x", "y"), 0), "b": pixels(2, ("x", "y", "z")[:2], 1)}
  whole = data.joined(sources=parts)
  assert whole.classes == ("a/x", "a/y", "b/x", "b/y")
  assert len(whole) == 10
  for i in range(10):
    part, index = ("a", "b")[i % 2], (i // 2) % (5, 2)[i % 2]
    np.testing.assert_array_equal(whole.read(i), parts[part].read(index))  # nothing is lost on the way
    assert whole.classes[whole.labels[i]] == f"{part}/{parts[part].classes[parts[part].labels[index]]}"


def test_every_source_has_the_same_share():
  whole = data.joined(
    sources={"a": pixels(7, ("x",), 0), "b": pixels(3, ("y",), 1), "c": pixels(1, ("z",), 2)}
  )
  assert list(np.bincount(whole.labels)) == [7, 7, 7]


def test_files_and_pixels_may_be_mixed(tmp_path):
  from PIL import Image

  for name in ("u", "v"):
    (tmp_path / "set" / name).mkdir(parents=True)
    Image.fromarray(np.full((6, 6, 3), 9, np.uint8)).save(tmp_path / "set" / name / "0.png")
  folder = data.from_folder(folder="set", data_dir=tmp_path)
  whole = data.joined(sources={"a": folder, "b": pixels(1, ("x",), 1)}, name="mixed")
  assert whole.name == "mixed"
  assert whole.read(0).shape == (6, 6, 3)
  assert whole.read(1).shape == (5, 5, 3)


def test_a_joined_set_is_drawn_where_one_of_its_parts_is():
  drawn = data.from_arrays(images=np.zeros((1, 4, 4, 3), np.uint8), labels=[0], kind="synthetic")
  assert data.joined(sources={"a": drawn, "b": pixels(1, ("x",), 0)}).kind == "synthetic"
  assert data.joined(sources={"b": pixels(1, ("x",), 0)}).kind == "real"


def test_what_cannot_be_joined_is_one_line():
  with pytest.raises(DataError, match="joined has no sources"):
    data.joined(sources={})
  with pytest.raises(DataError, match=r"needs examples, and 'a' \(p\) has none"):
    data.joined(sources={"a": pixels(0, ("x",), 0)})
