"""TFDS data sets in both record formats, built here from nothing."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from functools import partial

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import jaxtl.data as data
from jaxtl.errors import DataError
from tests.data.made_images import encoded, smooth_image

COUNT = 30


class TinySquares(tfds.core.GeneratorBasedBuilder):
  """Thirty PNGs whose first pixel tells their number."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    features = tfds.features.FeaturesDict(
      {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["a", "b", "c"])}
    )
    return self.dataset_info_from_configs(features=features)

  def _split_generators(self, manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    for number in range(COUNT):
      image = smooth_image(8, 8, seed=number).copy()
      image[0, 0] = number
      yield number, {"image": image, "label": number % 3}


@pytest.fixture(scope="module", params=["array_record", "tfrecord"])
def prepared(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp(request.param)
  TinySquares(data_dir=folder, file_format=request.param).download_and_prepare()
  return request.param, folder


@pytest.fixture
def source(prepared):
  return data.from_tfds(name="tiny_squares", split="train", data_dir=prepared[1])


def numbers(batches):
  return np.concatenate([b["image"][b["mask"]][:, 0, 0, 0] for b in batches]).astype(int)


def take(count, source, transforms=(), **options):
  return list(itertools.islice(data.train_batches(source, list(transforms), **options), count))


def test_format_decides_the_kind_of_source(prepared, source):
  assert type(source) is {"array_record": data.RecordSource, "tfrecord": data.StreamSource}[prepared[0]]
  assert (len(source), source.classes, source.name) == (COUNT, ("a", "b", "c"), "tiny_squares/train")
  assert len(source.fingerprint()) == 16


def test_evaluation_is_exact(source):
  batches = list(data.eval_batches(source, [], batch_size=8))
  assert [b["mask"].sum() for b in batches] == [8, 8, 8, 6]
  seen = numbers(batches)
  np.testing.assert_array_equal(np.sort(seen), np.arange(COUNT))
  np.testing.assert_array_equal(np.concatenate([b["label"][b["mask"]] for b in batches]), seen % 3)
  halves = [list(data.eval_batches(source, [], batch_size=8, shard=(k, 2))) for k in range(2)]
  assert [len(half) for half in halves] == [4, 4]
  np.testing.assert_array_equal(np.sort(numbers(halves[0] + halves[1])), np.arange(COUNT))


def test_epochs_are_complete_and_differently_ordered(source):
  epochs = numbers(take(9, source, batch_size=10, seed=0)).reshape(3, COUNT)
  for epoch in epochs:
    np.testing.assert_array_equal(np.sort(epoch), np.arange(COUNT))
  assert len({tuple(epoch) for epoch in epochs}) == 3
  assert not np.array_equal(epochs[0], numbers(take(3, source, batch_size=10, seed=1)))


def test_resume_and_shards_equal_the_whole_stream(source):
  transforms = [partial(data.pad_crop, size=8, padding=1), data.flip_left_right]
  whole = take(9, source, transforms, batch_size=8, seed=0)
  for batch, other in zip(
    whole[5:], take(4, source, transforms, batch_size=8, seed=0, start_step=5), strict=True
  ):
    np.testing.assert_array_equal(batch["image"], other["image"])
  shards = [take(9, source, transforms, batch_size=8, seed=0, shard=(k, 2)) for k in range(2)]
  for batch, *parts in zip(whole, *shards, strict=True):
    np.testing.assert_array_equal(batch["image"], np.concatenate([part["image"] for part in parts]))


def test_a_replaced_file_of_records_is_other_data(prepared, tmp_path):
  folder = tmp_path / "copy"
  shutil.copytree(prepared[1], folder)
  opened = lambda: data.from_tfds(name="tiny_squares", split="train", data_dir=folder)  # noqa: E731
  before = opened().fingerprint()
  assert before == data.from_tfds(name="tiny_squares", split="train", data_dir=prepared[1]).fingerprint()
  file = max(
    (path for path in folder.rglob("*train*") if path.is_file()), key=lambda path: path.stat().st_size
  )
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)
  assert opened().fingerprint() != before


def test_a_feature_without_classes_is_refused(prepared):
  with pytest.raises(DataError, match="the feature 'image' has no classes; name a ClassLabel in label_key"):
    data.from_tfds(name="tiny_squares", split="train", data_dir=prepared[1], label_key="image")


def test_a_label_beyond_int32_is_the_label_of_no_class():
  for label in (2**32 + 1, -(2**40), 2**31):
    records = data.RecordSource("x", ("a", "b"), _Records(label), ("image", "label"), identity="")
    assert records.fetch(np.array([0]))[1]["label"][0] not in (0, 1)
    with pytest.raises(DataError, match="expected an integer from 0 to 1"):
      _ = records.labels
    stream = data.StreamSource("x", ("a", "b"), 1, (("f", 0, 1),), lambda record: (record, b""), identity="")
    assert int(stream._parsed(0, tf.constant(label, tf.int64))[1]) not in (0, 1)


class _Records:
  """One record with a label."""

  def __init__(self, label):
    self.label = label

  def __len__(self):
    return 1

  def __getitems__(self, indices):
    return [{"image": b"", "label": self.label} for _ in indices]


def test_part_of_a_split(prepared):
  half = data.from_tfds(name="tiny_squares", split="train[:50%]", data_dir=prepared[1])
  assert len(half) == 15
  assert len(set(numbers(data.eval_batches(half, [], batch_size=4)))) == 15


def test_records_can_be_read_one_by_one(source):
  gathered = source.gather() if isinstance(source, data.StreamSource) else source
  assert gathered.read(3).shape == (8, 8, 3)
  np.testing.assert_array_equal(gathered.labels, [gathered.read(i)[0, 0, 0] % 3 for i in range(COUNT)])
  part = data.part_of(source=gathered, stop=0.5)
  assert len(part) == 15
  assert part.fingerprint() != gathered.fingerprint()
  np.testing.assert_array_equal(part.labels, [part.read(i)[0, 0, 0] % 3 for i in range(15)])


def test_a_damaged_record_of_a_stream_is_replaced(source):
  if not isinstance(source, data.StreamSource):
    pytest.skip("records with random access share the path of encoded images")
  from jaxtl.data.lazy_tensorflow import tf

  def parse(record):
    label, image = source.parse(record)
    return label, tf.where(tf.strings.to_hash_bucket_fast(image, 5) == 0, b"junk", image)

  damaged = dataclasses.replace(source, parse=parse)
  bad = data.BadRecords(COUNT)
  whole = take(8, damaged, batch_size=5, seed=0, bad_records=bad)
  assert 0 < len(bad) < COUNT
  assert "tfrecord" in next(iter(bad.found.values()))
  later = take(3, damaged, batch_size=5, seed=0, start_step=5, bad_records=data.BadRecords(COUNT))
  for batch, other in zip(whole[5:], later, strict=True):
    np.testing.assert_array_equal(batch["image"], other["image"])


def test_labels_that_are_no_class_are_refused_in_both_forms_of_the_stream(source):
  # As in the test splits of TFDS whose labels are withheld, -1; and as with a class too many.
  for wrong in (-1, 3):
    twin = with_label(source, wrong)
    said = f"tiny_squares/train: an example has the label {wrong}; expected 0 to 2 for the 3 classes"
    with pytest.raises(DataError, match=said):
      list(data.eval_batches(twin, [], batch_size=8))
    with pytest.raises(DataError, match=said):
      next(data.pipeline.Stream(twin, (), (), 8, 0, (0, 1), 1, data.BadRecords(), True)._careful(0))
    with pytest.raises(DataError, match=f"has the label {wrong}"):
      assert len((twin.gather() if isinstance(twin, data.StreamSource) else twin).labels)


def with_label(source, label):
  if isinstance(source, data.StreamSource):
    return dataclasses.replace(source, parse=lambda record: (label, source.parse(record)[1]))

  class Relabelled:
    def __len__(self):
      return len(source.records)

    def __getitems__(self, indices):
      return [{**record, "label": label} for record in source.records.__getitems__(indices)]

  return dataclasses.replace(source, records=Relabelled())


def test_a_stream_of_damaged_records_is_one_line(source, tmp_path):
  if not isinstance(source, data.StreamSource):
    pytest.skip("only streams read TFRecord files")
  path = tmp_path / "junk.tfrecord"
  path.write_bytes(b"junk" * 100)
  damaged = dataclasses.replace(source, files=((str(path), 0, COUNT),))
  with pytest.raises(
    DataError, match=r"tiny_squares/train: the records cannot be read: .*corrupted"
  ) as caught:
    take(1, damaged, batch_size=4, seed=0)
  assert "\n" not in str(caught.value)


def test_what_is_not_there_is_said(prepared, tmp_path):
  open_ = partial(data.from_tfds, name="tiny_squares", split="train", data_dir=prepared[1])
  for options, said in (
    (dict(data_dir=tmp_path), r"not prepared: there is no .*; run `tfds build tiny_squares --data_dir"),
    (dict(name="no_such_set_at_all"), "has no data set"),
    (dict(split="val"), "no split 'val'; it has train"),
    (dict(label_key="y"), "no feature 'y'; it has image, label"),
    (dict(image_key="x"), "no feature 'x'"),
    (dict(name="imagenet2012", data_dir=tmp_path), "ILSVRC2012_img_train.tar"),
  ):
    with pytest.raises(DataError, match=said):
      open_(**options)


def test_open_source_lists_the_splits(prepared):
  assert list(data.open_source("tfds:tiny_squares", data_dir=prepared[1])) == ["train"]


def test_encoded_images_survive_as_they_are(source):
  gathered = source.gather() if isinstance(source, data.StreamSource) else source
  assert gathered.images[0].startswith(encoded(smooth_image(2, 2), "PNG")[:8])


class FetchedByHand(TinySquares):
  """A set whose archive the user has to put into the manual folder, as ImageNet's."""

  MANUAL_DOWNLOAD_INSTRUCTIONS = "put squares.txt there"

  def _split_generators(self, manager):
    archive = manager.manual_dir / "squares.txt"
    if not archive.exists():
      raise AssertionError(f"{archive} must exist")
    return {"train": self._generate_examples()}


def test_a_set_is_prepared_from_its_manual_folder_once(tmp_path, monkeypatch):
  open_it = partial(data.from_tfds, name="fetched_by_hand", split="train", data_dir=tmp_path)
  with pytest.raises(DataError, match="is not prepared: there is no"):
    open_it()
  manual = tmp_path / "downloads" / "manual"
  manual.mkdir(parents=True)
  (manual / "of_another_set.txt").write_text("")
  with pytest.raises(DataError, match=r"cannot be prepared from .*squares.txt must exist"):
    open_it()
  (manual / "squares.txt").write_text("squares")
  source = open_it()
  assert isinstance(source, data.RecordSource)
  assert len(source) == COUNT
  monkeypatch.setattr(FetchedByHand, "download_and_prepare", None)  # not again
  assert len(open_it()) == COUNT


def test_records_are_joined_like_any_source(source):
  whole = data.joined(sources={"records": source})
  assert len(whole) == len(source)
  assert whole.classes == tuple(f"records/{name}" for name in source.classes)
  held = source.gather() if isinstance(source, data.StreamSource) else source
  for index in (0, len(source) - 1):
    np.testing.assert_array_equal(whole.read(index), held.read(index))
    assert whole.labels[index] == held.labels[index]
