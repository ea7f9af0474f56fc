"""Data sets that a user names: their splits, and the classes that splits share."""

from __future__ import annotations

import json

import pytest

import jaxtl.data as data
from jaxtl.errors import DataError
from tests.data.sources.test_folder import GA, GA_APART, write_images


def refused(root, said):
  with pytest.raises(DataError, match=said) as caught:
    data.open_source(str(root))
  assert "\n" not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize(
  ("first", "second"),
  [
    *[("train", name) for name in ("val", "valid", "validation", "dev", "eval", "test", "testing", "Test")],
    *[("training", "testing"), ("Train", "Valid"), ("train2017", "val2017"), ("train_set", "test_set")],
    *[("TrainImages", "test images"), ("trainset", "testset"), ("val", "test")],
  ],
)
def test_splits_are_recognised(tmp_path, first, second):
  write_images(tmp_path, f"{first}/cat/a.png", f"{first}/dog/b.png", f"{second}/dog/a.png")
  splits = data.open_source(str(tmp_path))
  assert list(splits) == [first, second]
  assert {source.classes for source in splits.values()} == {("cat", "dog")}
  assert splits[second].labels.tolist() == [1]
  assert data.choose_split(splits, None) == second
  assert data.from_name(name=str(tmp_path)).name == f"{tmp_path.name}/{second}"


@pytest.mark.parametrize(
  ("splits", "chosen"),
  [
    (("train", "valid", "test"), "test"),
    (("train", "validation", "testing"), "testing"),
    (("train", "dev"), "dev"),
    (("test", "test2"), "test"),
    (("train", "val", "val2"), "val"),
    (("train", "testA", "testB"), None),
    (("train", "extra"), None),
  ],
)
def test_the_split_that_is_meant(splits, chosen):
  if chosen:
    assert data.choose_split(splits, None) == chosen
  else:
    with pytest.raises(DataError, match="which split"):
      data.choose_split(splits, None)


@pytest.mark.parametrize(
  ("paths", "said"),
  [
    (["train/cat/a.png", "valid/cat/b.png", "extra/cat/c.png"], "the splits train, valid, next to extra"),
    (["train/images/cat/a.png", "train/images/dog/b.png"], "train/images has the folders cat, dog"),
    (
      ["train/images/cat/a.png", "train/images/dog/b.png", "val/images/cat/c.png"],
      "train/images has the folders cat, dog",
    ),
    (["set/cat/a.png", "set/dog/a.png"], "set has the folders cat, dog"),
    (["cat/a.png"], "has the single class 'cat'; expected at least 2"),
    (["train/cat/a.png", "val/cat/a.png"], "has the single class 'cat'; expected at least 2"),
    (["train/a.png", "val/b.png"], "train has no class folders"),
  ],
)
def test_what_is_no_classification_is_refused(tmp_path, paths, said):
  refused(write_images(tmp_path, *paths), said)


def test_splits_share_a_class_in_any_normal_form(tmp_path):
  write_images(tmp_path, f"train/{GA}/a.png", "train/x/a.png", f"val/{GA_APART}/b.png")
  splits = data.open_source(str(tmp_path))
  assert splits["train"].classes == splits["val"].classes == ("x", GA)
  assert splits["val"].labels.tolist() == [1]


def test_a_class_list_above_the_splits_holds_for_all(tmp_path):
  write_images(tmp_path, *(f"train/{name}/a.png" for name in ("1", "2", "10")), "val/10/b.png")
  assert f"{tmp_path}/classes.json" in refused(tmp_path, "are numbers that sort as 1, 10, 2")
  (tmp_path / "classes.json").write_text(json.dumps(["1", "2", "10"]))
  splits = data.open_source(str(tmp_path))
  assert {source.classes for source in splits.values()} == {("1", "2", "10")}
  assert splits["val"].labels.tolist() == [2]
  (tmp_path / "val" / "classes.json").write_text(json.dumps(["10", "2", "1"]))
  refused(tmp_path, r"classes.json and .*/val/classes.json differ; keep one of them")


def test_a_class_list_in_one_split_holds_for_all(tmp_path):
  write_images(tmp_path, "train/cat/a.png", "train/dog/a.png", "val/cat/b.png")
  for split in ("val", "train"):
    file = tmp_path / split / "classes.json"
    file.write_text(json.dumps(["dog", "cat"]))
    splits = data.open_source(str(tmp_path))
    assert {source.classes for source in splits.values()} == {("dog", "cat")}
    assert splits["val"].labels.tolist() == [1]
    file.unlink()


def test_a_class_list_makes_classes_of_folders_with_splits_names(tmp_path):
  write_images(tmp_path, "train/a.png", "test/b.png")
  refused(tmp_path, "train has no class folders")
  (tmp_path / "classes.json").write_text(json.dumps(["train", "test"]))
  assert data.open_source(str(tmp_path))["all"].classes == ("train", "test")


def test_hidden_parquet_files_are_no_splits(tmp_path, shared_data):
  for name in ("train.parquet", "._train.parquet"):
    content = (shared_data / "clothing" / "test.parquet").read_bytes() if name[0] != "." else b"junk"
    (tmp_path / name).write_bytes(content)
  (tmp_path / "classes.json").write_bytes((shared_data / "clothing" / "classes.json").read_bytes())
  assert list(data.open_source(str(tmp_path))) == ["train"]


def test_a_folder_with_the_name_of_a_built_in_data_set_is_ambiguous(tmp_path):
  (tmp_path / "digits").mkdir()
  with pytest.raises(DataError, match=r"digits is a built-in data set and the folder .*; write \./digits"):
    data.open_source("digits", data_dir=tmp_path)
  with pytest.raises(DataError, match=r"no class folders|no image|empty"):
    data.open_source("./digits", data_dir=tmp_path)
  assert len(data.open_source("digits", data_dir=tmp_path / "elsewhere")["train"])
