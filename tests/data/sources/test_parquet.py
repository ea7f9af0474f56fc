"""Data sets of the Hugging Face Hub: folders of Parquet files with what their schema says."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jaxtl.data as data
from jaxtl import cli
from jaxtl.errors import DataError
from tests.data.made_images import encoded, smooth_image

NAMES = ["airplane", "ship", "truck"]


def class_label(names=NAMES):
  return {"names": list(names), "_type": "ClassLabel"}


def picture(number):
  return smooth_image(12, 10, seed=number)


def write_hub(file, numbers, *, image="img", labels=None, features=None, paths=True, **columns):
  """One file as the Hub's library writes it: image structs, and features in the metadata of the schema."""
  labels = {"label": [number % 3 for number in numbers]} if labels is None else labels
  features = {name: class_label() for name in labels} if features is None else features
  images = [{"bytes": encoded(picture(n), "PNG"), "path": f"{n}.png" if paths else None} for n in numbers]
  table = pa.table(
    {image: images, **{name: pa.array(v, pa.int64()) for name, v in labels.items()}, **columns}
  )
  features = {image: {"_type": "Image"}, **features}
  metadata = {"huggingface": json.dumps({"info": {"features": features}})}
  file.parent.mkdir(parents=True, exist_ok=True)
  pq.write_table(table.replace_schema_metadata(metadata), file)


@pytest.fixture
def hub(tmp_path):
  """Seven training images in three files and four test images in one, as CIFAR-10 is stored."""
  folder = tmp_path / "cifar"
  for shard, numbers in enumerate([[0, 1, 2], [3, 4], [5, 6]]):
    write_hub(folder / "data" / f"train-{shard:05d}-of-00003.parquet", numbers)
  write_hub(folder / "data" / "test-00000-of-00001.parquet", [7, 8, 9, 10])
  (folder / "README.md").write_text("---\nconfigs: []\n---\n")
  return folder


def test_a_data_set_of_the_hub_opens_by_its_folder(hub):
  splits = data.open_source(str(hub))
  assert list(splits) == ["train", "test"]
  train = splits["train"]
  assert train.classes == tuple(NAMES)
  assert train.name == "cifar/train"
  np.testing.assert_array_equal(train.labels, np.arange(7) % 3)
  for number in range(7):
    np.testing.assert_array_equal(train.read(number), picture(number))
  assert train.where(4) == "example 4 (4.png)"
  assert len(splits["test"]) == 4
  same = data.from_parquet(path="cifar", split="train", data_dir=hub.parent)
  assert same.fingerprint() == train.fingerprint()
  one = data.from_parquet(path="cifar/data/train-00001-of-00003.parquet", data_dir=hub.parent)
  np.testing.assert_array_equal(one.labels, [0, 1])


def test_a_split_is_read_when_it_is_used(hub):
  file = hub / "data" / "train-00000-of-00003.parquet"
  file.write_bytes(b"junk")
  splits = data.open_source(str(hub))
  assert len(splits["test"]) == 4
  with pytest.raises(DataError, match="cannot be read as Parquet"):
    splits["train"]


@pytest.mark.parametrize(
  ("files", "splits"),
  [
    (["train.parquet", "validation.parquet"], {"train": 1, "validation": 1}),
    (["plain_text/train-00000-of-00001.parquet"], {"train": 1}),
    (
      ["data/train-00000-of-00002-1a2b3c4d5e6f7a8b.parquet", "data/train-00001-of-00002-0a.parquet"],
      {"train": 2},
    ),
    (["train/0000.parquet", "train/0001.parquet", "test/0000.parquet"], {"train": 2, "test": 1}),
    (["default/train/0000.parquet", "default/test/0000.parquet"], {"train": 1, "test": 1}),
    (["0000.parquet", "0001.parquet"], {"all": 2}),
    (["data/train_0.parquet", "data/train_1.parquet", "data/val_0.parquet"], {"train": 2, "val": 1}),
    (["data/fine-tune-00000-of-00001.parquet"], {"fine-tune": 1}),
    (["data/train-00000-of-00001.parquet", ".cache/x/train-00000-of-00001.parquet"], {"train": 1}),
    (["train.parquet", ".train.parquet"], {"train": 1}),
  ],
)
def test_splits_come_from_the_names_of_files_and_folders(tmp_path, files, splits):
  for number, file in enumerate(files):
    write_hub(tmp_path / file, [number])
  found = data.open_source(str(tmp_path))
  assert {split: len(source) for split, source in found.items()} == splits


def test_shards_are_in_the_order_of_their_numbers(tmp_path):
  for number in range(11):
    write_hub(tmp_path / f"train_{number}.parquet", [number])
  source = data.open_source(str(tmp_path))["train"]
  np.testing.assert_array_equal(source.read(10), picture(10))
  np.testing.assert_array_equal(source.labels, np.arange(11) % 3)


@pytest.mark.parametrize(
  ("files", "said"),
  [
    (
      ["data/train-00000-of-00003.parquet", "data/train-00002-of-00003.parquet"],
      "has 2 of the 3 files of train; add the rest, as train-00001-of-00003.parquet",
    ),
    (
      ["data/train-00000-of-00001.parquet", "data/train-00000-of-00002.parquet"],
      "holds train more than once",
    ),
    (
      ["data/train-00000-of-00001-aa.parquet", "data/train-00000-of-00001-bb.parquet"],
      "holds train more than once",
    ),
    (["fine/train-00000-of-00001.parquet", "coarse/train-00000-of-00001.parquet"], "data sets: coarse, fine"),
    (["fine/train/0000.parquet", "coarse/train/0000.parquet"], "data sets: coarse, fine; give one folder"),
  ],
)
def test_files_that_are_missing_or_too_many_are_named(tmp_path, files, said):
  for file in files:
    write_hub(tmp_path / file, [0])
  with pytest.raises(DataError, match=said) as caught:
    data.open_source(str(tmp_path))
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("image", ["img", "image", "picture"])
@pytest.mark.parametrize("label", ["label", "labels", "fine_label", "y"])
def test_columns_are_known_by_the_schema(tmp_path, image, label):
  file = tmp_path / "train-00000-of-00001.parquet"
  write_hub(
    file, [0, 1], image=image, labels={label: [2, 0]}, size=[5, 6], text=["a", "b"], mask=[b"1", b"2"]
  )
  source = data.open_source(str(tmp_path))["train"]
  np.testing.assert_array_equal(source.labels, [2, 0])
  np.testing.assert_array_equal(source.read(1), picture(1))


def test_columns_without_features_are_known_by_name_and_type(tmp_path):
  images = [encoded(picture(0), "PNG")]
  pq.write_table(pa.table({"png": images, "class_id": [1], "width": [3]}), tmp_path / "x.parquet")
  (tmp_path / "classes.json").write_text(json.dumps(NAMES))
  assert data.from_parquet(path="x.parquet", data_dir=tmp_path).labels == [1]


def test_several_columns_are_listed_and_one_is_chosen(tmp_path):
  labels = {"fine_label": [2, 0], "coarse_label": [1, 1]}
  features = {"fine_label": class_label(), "coarse_label": class_label("xy")}
  write_hub(tmp_path / "data" / "train-00000-of-00001.parquet", [0, 1], labels=labels, features=features)
  said = r"several label columns: fine_label, coarse_label; choose one with label_column \(--label-column\)"
  with pytest.raises(DataError, match=said):
    data.open_source(str(tmp_path))["train"]
  for column, names in (("fine_label", tuple(NAMES)), ("coarse_label", ("x", "y"))):
    for source in (
      data.open_source(str(tmp_path), label_column=column)["train"],
      data.from_name(name=str(tmp_path), label_column=column),
    ):
      np.testing.assert_array_equal(source.labels, labels[column])
      assert source.classes == names
  two = pa.table({"a": [b"x"], "b": [b"y"], "label": [0]})
  pq.write_table(two, tmp_path / "two.parquet")
  with pytest.raises(DataError, match=r"several image columns: a, b; choose one with image_column"):
    data.from_parquet(path="two.parquet", data_dir=tmp_path, classes=["x"])
  assert data.open_source(str(tmp_path / "two.parquet"), image_column="b", label_column="label")
  pq.write_table(pa.table({"a": [b"x"], "text": ["t"]}), tmp_path / "none.parquet")
  with pytest.raises(DataError, match="has no column 'label'; it has a, text; name one with label_column"):
    data.from_parquet(path="none.parquet", data_dir=tmp_path, classes=["x"])


def test_columns_mean_nothing_to_other_sources(jpeg_folder):
  for text in (str(jpeg_folder), "digits"):
    with pytest.raises(DataError, match="label_column is for Parquet files"):
      data.open_source(text, label_column="label")


def test_class_names_come_from_the_call_then_the_schema_then_a_file(hub, tmp_path):
  (hub / "classes.json").write_text(json.dumps(["p", "q", "r"]))
  open_ = lambda **options: data.from_parquet(path=str(hub), split="test", **options).classes  # noqa: E731
  assert open_(classes=["u", "v", "w"]) == ("u", "v", "w")
  assert open_(classes="classes.json") == ("p", "q", "r")
  assert open_() == tuple(NAMES)
  bare = tmp_path / "bare" / "data" / "test-00000-of-00001.parquet"
  write_hub(bare, [0, 1], features={"label": {"dtype": "int64", "_type": "Value"}})
  with pytest.raises(DataError, match=r"there is no .*classes.json"):
    data.from_parquet(path=str(tmp_path / "bare"))
  (tmp_path / "bare" / "classes.json").write_text(json.dumps(["p", "q"]))
  assert data.from_parquet(path=str(tmp_path / "bare")).classes == ("p", "q")
  write_hub(bare, [0, 1], features={"label": {"num_classes": 4, "_type": "ClassLabel"}})
  assert data.from_parquet(path=str(tmp_path / "bare")).classes == ("0", "1", "2", "3")


def test_files_of_one_split_with_other_classes_are_refused(tmp_path):
  write_hub(tmp_path / "train-00000-of-00002.parquet", [0])
  write_hub(tmp_path / "train-00001-of-00002.parquet", [1], features={"label": class_label("abc")})
  with pytest.raises(DataError, match=r"00001-of-00002\.parquet has other class names than the first file"):
    data.from_parquet(path=str(tmp_path))


@pytest.mark.parametrize("metadata", [b"", b"{", b"[]", b'{"info": 3}', b'{"info": {"features": [1]}}'])
def test_metadata_that_cannot_be_read_say_nothing(tmp_path, metadata):
  table = pa.table({"image": [encoded(picture(0), "PNG")], "label": [0]})
  pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), tmp_path / "x.parquet")
  assert data.from_parquet(path="x.parquet", data_dir=tmp_path, classes=["a"]).classes == ("a",)


def test_the_commands_open_a_data_set_of_the_hub(hub, tmp_path, capsys):
  out = tmp_path / "out"
  assert cli.main(["data", "check", str(hub), "--out", str(out)]) == 0
  printed = capsys.readouterr().out
  assert "train: cifar/train, 7 real images" in printed
  assert "2 truck" in printed
  labels = {"fine_label": [2, 0], "coarse_label": [1, 1]}
  write_hub(tmp_path / "two" / "data" / "train-00000-of-00001.parquet", [0, 1], labels=labels)
  command = ["data", "check", str(tmp_path / "two"), "--out", str(out)]
  assert cli.main(command) == 3
  assert "choose one with label_column (--label-column)" in capsys.readouterr().err
  assert cli.main([*command, "--label-column", "coarse_label", "--image-column", "img"]) == 0
  assert "1 ship" in capsys.readouterr().out
