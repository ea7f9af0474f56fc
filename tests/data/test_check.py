"""`check` finds what was planted, and `open_source` recognises every kind of data set."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import jaxtl.data as data
from jaxtl.data.check import check
from jaxtl.errors import DataError
from tests.data.made_images import encoded, smooth_image


@pytest.fixture
def two_splits(jpeg_folder):
  """pets/train and pets/test, with a duplicate, an overlap, an unreadable file and an empty class."""
  root = jpeg_folder.parent / "set"
  shutil.move(jpeg_folder, root / "train")
  train = root / "train"
  shutil.copy(train / "cat" / "cat0.jpg", train / "dog" / "copy.jpg")
  (train / "dog" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
  (root / "test" / "cat").mkdir(parents=True)
  (root / "test" / "cat" / "new.png").write_bytes(encoded(smooth_image(30, 30, seed=99), "PNG"))
  shutil.copy(train / "cat" / "cat1.jpg", root / "test" / "cat" / "seen.jpg")
  return root


def test_check_finds_sizes_damage_duplicates_and_overlap(two_splits):
  splits = data.open_source(str(two_splits))
  assert list(splits) == ["train", "test"]
  report = check(splits["train"], others=[splits["test"]])
  assert report.counts == (6, 8)
  assert report.sizes == ((40, 42, 45), (55, 58, 60))
  assert len(report.unreadable) == 1
  assert "dog/broken.jpg" in report.unreadable[0]
  assert report.duplicates == (("example 0 (cat/cat0.jpg) [cat]", "example 7 (dog/copy.jpg) [dog]"),)
  assert report.overlaps == {
    "set/test": (("example 1 (cat/cat1.jpg) [cat]", "example 1 (cat/seen.jpg) [cat]"),)
  }
  assert check(splits["test"]).overlaps == {}


def test_check_source_prints_findings_and_writes_two_pictures(two_splits, tmp_path):
  text = data.check_source("set", data_dir=two_splits.parent, out=tmp_path / "out")
  for said in (
    "0 cat",
    "1 dog",
    "unreadable images: 1",
    "groups of equal images: 1",
    "also in set/test: 1",
    "1 dog",
  ):
    assert said in text
  assert "classes without images: 1" in text
  for name in ("contact_sheet.png", "augmented.png"):
    assert Image.open(tmp_path / "out" / name).width > 200


def test_files_that_are_left_out_because_of_their_suffix_are_counted(jpeg_folder, tmp_path):
  assert "left out" not in data.check_source(str(jpeg_folder), out=tmp_path / "out")
  for number, suffix in enumerate((".heic", ".txt", ".npy", ".eps")):
    (jpeg_folder / "cat" / f"z{number}{suffix}").write_bytes(b"x")
  (jpeg_folder / "cat" / ".hidden.txt").write_bytes(b"x")
  text = data.check_source(str(jpeg_folder), out=tmp_path / "out")
  assert "left out because of their suffix: 4 (cat/z0.heic, cat/z1.txt, cat/z2.npy, ...)" in text


def test_check_source_takes_transforms(two_splits, tmp_path):
  data.check_source(str(two_splits), out=tmp_path / "a")
  gray = [data.to_rgb, lambda example: {**example, "image": example["image"][:20, :20] * 0}]
  data.check_source(str(two_splits), out=tmp_path / "b", transforms=gray)
  shown = [np.asarray(Image.open(tmp_path / name / "augmented.png")) for name in "ab"]
  assert shown[1][:, 110:].mean() < shown[0][:, 110:].mean()


def test_open_source_recognises_what_is_there(tmp_path, shared_data):
  expected = {
    "clothing": ["train", "validation", "test"],
    "clothing/test.parquet": ["test"],
    "gtsrb32": ["train", "test"],
    "emoji32": ["google_noto", "twitter_twemoji"],
    "mnist/mnist_12k_2k.npz": ["train", "test"],
    "glyphs": ["train", "test"],
    "digits": ["train", "test"],
    "photo_patches": ["train", "test"],
    "scene_patches": ["train", "test"],
  }
  for text, splits in expected.items():
    assert list(data.open_source(text, data_dir=shared_data)) == splits
  with pytest.raises(DataError, match=r"there is no .*; give a folder"):
    data.open_source("nothing", data_dir=shared_data)


def test_open_source_of_one_folder_and_of_strange_files(jpeg_folder):
  assert list(data.open_source(str(jpeg_folder))) == ["all"]
  with pytest.raises(DataError, match="is not a data set"):
    data.open_source(str(jpeg_folder / "cat" / "cat0.jpg"))


def test_class_lists_beside_the_splits_are_used(two_splits):
  for split in ("train", "test"):
    (two_splits / split / "classes.json").write_text(json.dumps(["dog", "cat"]))
  assert data.open_source(str(two_splits))["test"].classes == ("dog", "cat")


def test_contact_sheet_shows_every_image_where_it_belongs():
  colours = [np.full((10, 10, 3), value, np.uint8) for value in (10, 90, 200)]
  sheet = np.asarray(data.contact_sheet(colours, columns=2, side=20))
  for number, value in enumerate((10, 90, 200)):
    row, column = divmod(number, 2)
    assert sheet[6 + row * 26 + 10, 6 + column * 26 + 10, 0] == value
  titled = data.contact_sheet(colours, ["a", "a very long title that is cut", "c"], columns=2, side=20)
  assert titled.height > sheet.shape[0]


def test_augmented_preview_undoes_normalisation():
  pixels = np.full((8, 8, 3), 120.0, np.float32)
  normal = (pixels / 255 - np.array(data.IMAGENET_MEAN)) / np.array(data.IMAGENET_STD)
  sheet = data.augmented_preview(
    [pixels], [[normal]], ["x"], mean=data.IMAGENET_MEAN, std=data.IMAGENET_STD, side=20
  )
  np.testing.assert_allclose(np.asarray(sheet)[16, [16, 42]], 120, atol=1)


def test_rows_of_the_augmented_picture_have_noise_of_their_own(tmp_path):
  # Two equal images of two classes: their rows differ only by what was drawn.
  gradient = np.tile(np.arange(64, dtype=np.uint8)[None, None, :, None] * 4, (2, 64, 1, 3))
  np.savez(tmp_path / "d.npz", train_images=gradient, train_labels=[0, 1])
  data.check_source("d.npz", data_dir=tmp_path, out=tmp_path)
  sheet = np.asarray(Image.open(tmp_path / "augmented.png"))
  first, second = sheet[6:102], sheet[126:222]
  np.testing.assert_array_equal(first[:, 6:102], second[:, 6:102])
  assert not np.array_equal(first[:, 108:], second[:, 108:])
