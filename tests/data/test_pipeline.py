"""Order, determinism, sharding, exact evaluation, and unreadable images."""

from __future__ import annotations

import itertools
import time
from functools import partial

import numpy as np
import pytest

import jaxtl.data as data
from jaxtl.data.runtime import tf
from jaxtl.errors import DataError
from tests.data.made_images import encoded, smooth_image

ERASED = [partial(data.random_erasing, probability=1.0)]


def indices(batch):
  image = batch["image"]
  return (image[:, 0, 0, 0] + 256 * image[:, 0, 0, 1]).astype(int)


def take(count, source, transforms, **options):
  return list(itertools.islice(data.train_batches(source, transforms, **options), count))


def assert_same(left, right):
  assert len(left) == len(right)
  for a, b in zip(left, right, strict=True):
    assert a.keys() == b.keys()
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])


@pytest.fixture(params=["pixels", "encoded", "files"])
def source(request, numbered, jpeg_folder):
  if request.param == "pixels":
    return numbered(12)
  files = data.from_folder(folder=str(jpeg_folder))
  if request.param == "files":
    return files
  return data.Source(
    name="e", classes=files.classes, labels=files.labels, images=data.Encoded(list(files.images))
  )


CROP = [partial(data.random_resized_crop, size=16), data.flip_left_right, data.normalize]


def test_batches_keep_the_contract(source):
  (batch,) = take(1, source, CROP, batch_size=8, seed=0, batch_transforms=[data.mixup])
  assert {key: (value.dtype, value.shape) for key, value in batch.items()} == {
    "image": (np.float32, (8, 16, 16, 3)),
    "label": (np.int32, (8,)),
    "mask": (np.bool_, (8,)),
    "label_b": (np.int32, (8,)),
    "weight": (np.float32, (8,)),
  }
  assert batch["mask"].all()


def test_every_epoch_shows_every_example_once_in_its_own_order(numbered):
  epochs = np.concatenate([indices(b) for b in take(30, numbered(50), [], batch_size=10, seed=3)]).reshape(
    6, 50
  )
  for epoch in epochs:
    np.testing.assert_array_equal(np.sort(epoch), np.arange(50))
  assert len({tuple(epoch) for epoch in epochs}) == 6


def test_epochs_need_not_be_multiples_of_the_batch(numbered):
  stream = np.concatenate([indices(b) for b in take(14, numbered(10), [], batch_size=7, seed=0)])
  for epoch in stream[:90].reshape(9, 10):
    np.testing.assert_array_equal(np.sort(epoch), np.arange(10))
  (wide,) = take(1, numbered(3), [], batch_size=7, seed=0)
  assert set(indices(wide)) == {0, 1, 2}


def test_a_stream_is_a_function_of_its_seed(source):
  first = take(3, source, CROP, batch_size=5, seed=1)
  assert_same(first, take(3, source, CROP, batch_size=5, seed=1, num_threads=1))
  assert not np.array_equal(first[0]["image"], take(1, source, CROP, batch_size=5, seed=2)[0]["image"])


def test_starting_at_a_step_continues_the_stream(source):
  mixed = dict(batch_size=4, seed=1, batch_transforms=[data.cutmix])
  assert_same(take(6, source, CROP, **mixed)[4:], take(2, source, CROP, start_step=4, **mixed))


@pytest.mark.parametrize(("count", "mix"), [(4, []), (2, [data.mixup]), (2, [data.cutmix])])
def test_shards_together_are_the_global_batch(source, count, mix):
  options = dict(batch_size=8, seed=1, batch_transforms=mix)
  whole = take(3, source, CROP, **options)
  shards = [take(3, source, CROP, shard=(k, count), **options) for k in range(count)]
  joined = [
    {key: np.concatenate([b[key] for b in parts]) for key in parts[0]} for parts in zip(*shards, strict=True)
  ]
  assert_same(whole, joined)


def test_repeated_transforms_and_repeated_examples_draw_anew(numbered):
  jitter = partial(data.random_erasing, probability=1.0, area=(0.1, 0.1), noise=1.0)
  once = take(1, numbered(1), [jitter], batch_size=4, seed=0)[0]["image"]
  assert len({row.tobytes() for row in once}) == 4
  twice = take(1, numbered(1), [jitter, jitter], batch_size=4, seed=0)[0]["image"]
  changed = [np.any(a != numbered(1).images[0], -1).sum() for a in (once[0], twice[0])]
  assert changed[1] > changed[0]


def test_far_steps_are_reached_at_once(numbered):
  count = 1_281_167
  one = np.zeros((1, 8, 8, 3), np.uint8)
  images = data.Deferred(lambda: np.broadcast_to(one, (count, 8, 8, 3)), count)
  source = data.Source(name="big", classes=("a",), labels=np.zeros(count), images=images)
  next(data.train_batches(source, [], batch_size=8, seed=0))
  times = []
  for step in (0, 10**6):
    start = time.perf_counter()
    next(data.train_batches(source, [], batch_size=8, seed=0, start_step=step))
    times.append(time.perf_counter() - start)
  # Both build the same graph; reaching the step may add nothing that grows with it.
  assert times[1] < times[0] + 0.25


def test_transforms_without_a_seed_and_with_one_are_told_apart(numbered):
  def negative(example):
    return {**example, "image": -tf.cast(example["image"], tf.float32)}

  def draw(example, seed, *, shift=0.0):
    return {**example, "image": example["image"] + tf.random.stateless_uniform([], seed) + shift}

  batch = take(1, numbered(5), [negative, partial(draw, shift=5.0)], batch_size=5, seed=0)[0]["image"][..., 2]
  assert (batch >= 5).all()
  assert (batch < 6).all()


def test_evaluation_shows_each_example_once_in_order(numbered):
  batches = data.eval_batches(numbered(23), [], batch_size=5)
  assert len(batches) == 5
  for _ in range(2):
    passed = list(batches)
    assert {b["image"].shape for b in passed} == {(5, 8, 8, 3)}
    seen = np.concatenate([indices(b)[b["mask"]] for b in passed])
    np.testing.assert_array_equal(seen, np.arange(23))
    np.testing.assert_array_equal(np.concatenate([b["label"][b["mask"]] for b in passed]), np.arange(23) % 7)
  np.testing.assert_array_equal(passed[-1]["mask"], [True] * 3 + [False] * 2)


def test_evaluation_shards_have_equal_lengths_and_no_common_rows(numbered):
  shards = [list(data.eval_batches(numbered(9), [], batch_size=8, shard=(k, 4))) for k in range(4)]
  assert [len(shard) for shard in shards] == [2] * 4
  seen = sorted(int(i) for shard in shards for b in shard for i in indices(b)[b["mask"]])
  assert seen == list(range(9))


def test_evaluation_seed_reaches_transforms_that_draw(numbered):
  images = [
    next(iter(data.eval_batches(numbered(9), ERASED, batch_size=9, seed=seed)))["image"] for seed in (0, 0, 1)
  ]
  np.testing.assert_array_equal(images[0], images[1])
  assert not np.array_equal(images[0], images[2])


@pytest.mark.parametrize(
  ("options", "said"),
  [
    (dict(batch_size=7, shard=(0, 2)), "divided among 2"),
    (dict(batch_size=0), "batch_size 0"),
    (dict(batch_size=4, shard=(2, 2)), "shard"),
  ],
)
def test_arguments_that_do_not_fit_are_refused_at_once(numbered, options, said):
  with pytest.raises(DataError, match=said):
    data.train_batches(numbered(9), [], seed=0, **options)
  with pytest.raises(DataError, match=said):
    data.eval_batches(numbered(9), [], **options)


def test_images_of_different_sizes_are_named(jpeg_folder):
  with pytest.raises(DataError, match=r"different sizes, .* x .* and .*random_resized_crop"):
    take(1, data.from_folder(folder=str(jpeg_folder)), [], batch_size=8, seed=0)


def test_errors_of_a_transform_stay_errors(source):
  def broken(example):
    with tf.control_dependencies([tf.debugging.assert_equal(tf.size(example["label"]), 2)]):
      return {**data.to_rgb(example), "label": tf.identity(example["label"])}

  with pytest.raises(tf.errors.InvalidArgumentError):
    take(1, source, [broken, *CROP], batch_size=4, seed=0)


# ---- unreadable images

DAMAGED = {
  "truncated.jpg": encoded(smooth_image(64, 64))[:600],
  "empty.jpg": b"",
  "text.jpg": b"this is not an image",
}
ODD = {
  "cmyk.jpg": lambda image: encoded(image.convert("CMYK")),
  "gray.jpg": lambda image: encoded(image.convert("L")),
  "one.png": lambda image: encoded(image.resize((1, 1)), "PNG"),
  "moving.gif": lambda image: encoded(image, "GIF"),
}


@pytest.fixture
def damaged(jpeg_folder):
  """14 readable files and 3 unreadable ones in class cat."""
  from PIL import Image

  for name, contents in DAMAGED.items():
    (jpeg_folder / "cat" / name).write_bytes(contents)
  for name, write in ODD.items():
    (jpeg_folder / "dog" / name).write_bytes(write(Image.fromarray(smooth_image(50, 50))))
  return data.from_folder(folder=str(jpeg_folder))


def test_unusual_but_sound_images_are_read(damaged):
  sound = damaged.take(np.flatnonzero(damaged.labels == 1))
  batches = list(data.eval_batches(sound, [partial(data.resize, size=(16, 16))], batch_size=4))
  assert sum(b["mask"].sum() for b in batches) == len(sound)
  assert len(take(5, sound, CROP, batch_size=8, seed=0)) == 5


def test_the_first_unreadable_image_stops_the_run_with_its_name(damaged):
  with pytest.raises(
    DataError, match=r"1 unreadable images, 0 allowed: pets: example \d+ \(cat/(empty|text|trunc)"
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
    DataError, match=r"3 unreadable images, 2 allowed: pets: .*; pets: .*; pets: .*BadRecords"
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


def test_nothing_readable_is_an_error():
  images = data.Encoded([b"x"] * 3)
  source = data.Source(name="junk", classes=("a",), labels=np.zeros(3), images=images)
  with pytest.raises(DataError, match="no image"):
    take(1, source, CROP, batch_size=2, seed=0, bad_records=data.BadRecords(9))
  with pytest.raises(DataError, match="no image"):
    list(data.eval_batches(source, CROP, batch_size=2, bad_records=data.BadRecords(9)))
