"""Unreadable images: named, counted once, replaced in training, masked in evaluation, within a budget."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

import jaxtl.data as data
from jaxtl.data.lazy_tensorflow import tf
from jaxtl.errors import ConfigError, DataError
from tests.data.made_images import CROP, assert_same, encoded, loop_from, smooth_image, take

DAMAGED = {
  "truncated.jpg": encoded(smooth_image(64, 64))[:600],
  "empty.jpg": b"",
  "text.jpg": b"this is not an image",
}
ODD = {
  "cmyk.jpg": lambda image: encoded(image.convert("CMYK")),
  "gray.jpg": lambda image: encoded(image.convert("L")),
  "one.png": lambda image: encoded(image.resize((1, 1)), "PNG"),
  "moving.gif": lambda image: encoded(image, "GIF", save_all=True, append_images=[image.rotate(90)]),
  "deep.png": lambda image: encoded(deep(image), "PNG"),
  "wide.png": lambda image: encoded(image.resize((20_000, 2)), "PNG"),
}


def deep(image):
  """The same in 16 bits and one channel."""
  return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


@pytest.fixture
def damaged(jpeg_folder):
  """16 readable files and 3 unreadable ones in class cat."""
  for name, contents in DAMAGED.items():
    (jpeg_folder / "cat" / name).write_bytes(contents)
  for name, write in ODD.items():
    (jpeg_folder / "dog" / name).write_bytes(write(Image.fromarray(smooth_image(50, 50))))
  return data.from_folder(folder=str(jpeg_folder))


def test_what_is_left_out_is_listed_once_over_all_sessions(damaged, tmp_path):
  path = tmp_path / "run" / "quarantine.jsonl"
  bad = data.BadRecords(3, quarantine=path)
  take(20, damaged, CROP, batch_size=6, seed=0, bad_records=bad)
  assert not path.parent.exists()  # a run that has no folder yet makes none
  path.parent.mkdir()
  bad.write_list()
  take(20, damaged, CROP, batch_size=6, seed=0, bad_records=data.BadRecords(3, quarantine=path))
  entries = [json.loads(line) for line in path.read_text().splitlines()]
  assert len(entries) == 3
  assert {entry["where"].split("cat/")[1].rstrip(")") for entry in entries} == set(DAMAGED)
  for entry in entries:
    assert entry["source"] == "pets"
    assert damaged.where(entry["index"]) == entry["where"]
    assert entry["reason"]


def test_a_list_that_cannot_be_written_is_told_and_stops_nothing(damaged, tmp_path):
  told = []
  (tmp_path / "quarantine.jsonl").mkdir()
  bad = data.BadRecords(3, told.append, quarantine=tmp_path / "quarantine.jsonl")
  assert len(take(20, damaged, CROP, batch_size=6, seed=0, bad_records=bad)) == 20
  assert any("quarantine.jsonl cannot be written: Is a directory" in line for line in told)


def test_unusual_but_sound_images_are_read(damaged):
  sound = damaged.take(np.flatnonzero(damaged.labels == 1))
  batches = list(data.eval_batches(sound, [partial(data.resize, size=(16, 16))], batch_size=4))
  assert sum(b["mask"].sum() for b in batches) == len(sound)
  assert len(take(5, sound, CROP, batch_size=8, seed=0)) == 5


def test_the_first_unreadable_image_stops_the_run_with_its_name(damaged):
  with pytest.raises(
    DataError, match=r"1 unreadable image, 0 allowed: pets: example \d+ \(cat/(empty|text|trunc)"
  ):
    take(9, damaged, CROP, batch_size=4, seed=0)


def test_training_replaces_unreadable_images_and_counts_each_once(damaged):
  told = []
  bad = data.BadRecords(3, told.append)
  batches = take(20, damaged, CROP, batch_size=6, seed=0, bad_records=bad)
  assert all(b["mask"].all() and b["image"].shape == (6, 16, 16, 3) for b in batches)
  assert len(told) == len(bad) == 3
  assert {line.split("(cat/")[1].split(")")[0] for line in told} == set(DAMAGED)
  assert "truncated or damaged JPEG of 600 bytes" in " ".join(told)


def test_replacement_leaves_all_other_rows_alone(damaged):
  keep = np.array([damaged.images.paths[i].split("/")[1] not in DAMAGED for i in range(len(damaged))])
  transforms = [partial(data.resize, size=(8, 8))]
  images = {}
  for index in np.flatnonzero(keep):
    (one,) = data.eval_batches(damaged.take(np.array([index])), transforms, batch_size=1)
    images[one["image"].tobytes()] = index
  bad = data.BadRecords(3)
  stream = np.concatenate(
    [b["image"] for b in take(10, damaged, transforms, batch_size=5, seed=0, bad_records=bad)]
  )
  shown = [images[row.tobytes()] for row in stream]
  # The order is that of a source of the same length whose every example can be read.
  twin = data.from_arrays(
    images=np.arange(len(damaged), dtype=np.uint8)[:, None, None], labels=[0] * len(damaged)
  )
  planned = np.concatenate([b["image"][:, 0, 0, 0] for b in take(12, twin, [], batch_size=5, seed=0)]).astype(
    int
  )
  for position, index in enumerate(shown):
    expected = next(i for i in planned[position:] if keep[i])
    assert index == expected


def test_replacement_does_not_depend_on_start_or_shards(damaged):
  options = dict(batch_size=6, seed=4)
  whole = take(8, damaged, CROP, bad_records=data.BadRecords(3), **options)
  later = take(3, damaged, CROP, bad_records=data.BadRecords(3), start_step=5, **options)
  assert_same(whole[5:], later)
  halves = [take(8, damaged, CROP, bad_records=data.BadRecords(3), shard=(k, 2), **options) for k in range(2)]
  joined = [{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*halves, strict=True)]
  assert_same(whole, joined)


def test_evaluation_masks_unreadable_images_out(damaged):
  bad = data.BadRecords(3)
  batches = data.eval_batches(damaged, [partial(data.resize, size=(8, 8))], batch_size=5, bad_records=bad)
  for _ in range(2):
    passed = list(batches)
    assert sum(b["mask"].sum() for b in passed) == len(damaged) - 3
    assert all(np.isfinite(b["image"]).all() and b["image"].shape == (5, 8, 8, 3) for b in passed)
  assert len(bad) == 3


def test_beyond_the_budget_the_count_and_the_first_files_are_named(damaged):
  with pytest.raises(
    DataError, match=r"3 unreadable images, 2 allowed: pets: .*; pets: .*; pets: .*max_bad_records"
  ):
    list(
      data.eval_batches(
        damaged, [partial(data.resize, size=(8, 8))], batch_size=5, bad_records=data.BadRecords(2)
      )
    )


def test_a_missing_file_is_an_unreadable_image(jpeg_folder):
  source = data.from_folder(folder=str(jpeg_folder))
  (jpeg_folder / "dog" / "dog3.jpg").unlink()
  with pytest.raises(DataError, match=r"dog3\.jpg\) cannot be read: the file cannot be opened"):
    take(5, source, CROP, batch_size=4, seed=0)


@pytest.mark.parametrize(
  ("options", "said"),
  [
    (dict(size=80, padding=2), r"Expected \w+\[0\] in"),
    (dict(size=4, padding=70), "paddings must be less than the dimension size"),
  ],
)
@pytest.mark.parametrize("fewest", [0, 10**9])  # in a loop, in rows
def test_a_transform_that_fails_on_a_sound_image_is_named_in_one_line(
  jpeg_folder, numbered, options, said, fewest, monkeypatch
):
  loop_from(fewest, monkeypatch)
  transforms = [data.flip_left_right, partial(data.pad_crop, **options), data.normalize]
  for source in (data.from_folder(folder=str(jpeg_folder)), numbered(12)):
    start = rf"{source.name}: the transform pad_crop fails on example \d+.*, \d+ x \d+ pixels: {said}"
    with pytest.raises(DataError, match=start) as caught:
      take(1, source, transforms, batch_size=4, seed=0, bad_records=data.BadRecords(99))
    assert not any(mark in str(caught.value) for mark in ("\n", "{{", "[[", "Op:"))


def test_a_failing_batch_transform_is_one_line(numbered):
  def fail(batch):
    rows = tf.shape(batch["label"])[0]
    return {**batch, "label": tf.gather(batch["label"], tf.range(rows) + 1)}

  with pytest.raises(DataError, match=r"arrays: the batch transforms fail: .*not in") as caught:
    take(1, numbered(12), [], batch_size=4, seed=0, batch_transforms=[fail])
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("options", "said"),
  [
    (dict(mode="wrap"), "no mode 'wrap'; write 'reflect' or 'constant'"),
    (dict(padding=-1), "padding is -1; expected at least 0"),
  ],
)
def test_pad_crop_refuses_impossible_options_before_it_runs(numbered, options, said):
  with pytest.raises(ConfigError, match=said):
    take(1, numbered(4), [partial(data.pad_crop, size=8, **options)], batch_size=4, seed=0)


def test_nothing_readable_is_an_error():
  images = data.Encoded([b"x"] * 3)
  source = data.Source(name="junk", classes=("a",), labels=np.zeros(3), images=images)
  with pytest.raises(DataError, match="no image"):
    take(1, source, CROP, batch_size=2, seed=0, bad_records=data.BadRecords(9))
  with pytest.raises(DataError, match="no image"):
    list(data.eval_batches(source, CROP, batch_size=2, bad_records=data.BadRecords(9)))
