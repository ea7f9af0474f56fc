"""Order, determinism, sharding, and exact evaluation."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pytest

import jaxtl.data as data
from jaxtl.data.lazy_tensorflow import tf
from jaxtl.errors import ConfigError, DataError
from tests.data.made_images import CROP, assert_same, loop_from, take

pytestmark = pytest.mark.slow

ERASED = [partial(data.random_erasing, probability=1.0)]


def indices(batch):
  image = batch["image"]
  return (image[:, 0, 0, 0] + 256 * image[:, 0, 0, 1]).astype(int)


@pytest.fixture(params=["pixels in a loop", "pixels in rows", "encoded", "files"])
def source(request, numbered, jpeg_folder, monkeypatch):
  if request.param.startswith("pixels"):
    if request.param == "pixels in rows":
      loop_from(10**9, monkeypatch)
    return numbered(12)
  files = data.from_folder(folder=str(jpeg_folder))
  if request.param == "files":
    return files
  return data.Source(
    name="e", classes=files.classes, labels=files.labels, images=data.Encoded(list(files.images))
  )


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


BOTH = dict(mixup_alpha=0.8, cutmix_alpha=1.0)


@pytest.mark.parametrize(
  "mix",
  [
    partial(data.one_of_batch, transforms=[data.cutmix, partial(data.mixup, alpha=1.0)]),
    partial(data.timm_mix, **BOTH),
    partial(data.timm_mix, **BOTH, mode="pair"),
    partial(data.timm_mix, **BOTH, mode="element", smoothing=0.1, num_classes=7),
  ],
  ids=["one of", "batch", "pair", "element"],
)
def test_mixing_is_a_function_of_the_position(numbered, mix):
  """Resumed, and on two processes."""
  options = dict(batch_size=8, seed=1, batch_transforms=[mix])
  whole = take(6, numbered(40), [data.normalize], **options)
  assert_same(whole[4:], take(2, numbered(40), [data.normalize], start_step=4, **options))
  assert not np.array_equal(whole[0]["image"], whole[1]["image"])
  shards = [take(6, numbered(40), [data.normalize], shard=(k, 2), **options) for k in range(2)]
  joined = [{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*shards, strict=True)]
  assert_same(whole, joined)


@pytest.mark.parametrize(
  "policy", [data.aug_mix, data.trivial_augment, partial(data.auto_augment, policy="cifar10")]
)
def test_policies_are_functions_of_the_position(numbered, policy):
  whole = take(3, numbered(20), [policy, data.normalize], batch_size=4, seed=1)
  assert_same(whole[2:], take(1, numbered(20), [policy, data.normalize], batch_size=4, seed=1, start_step=2))
  halves = [
    take(1, numbered(20), [policy, data.normalize], batch_size=4, seed=1, shard=(part, 2)) for part in (0, 1)
  ]
  joined = [{key: np.concatenate([half[0][key] for half in halves]) for key in whole[0]}]
  assert_same(whole[:1], joined)


def test_views_come_with_their_image(jpeg_folder):
  source = data.from_folder(folder=str(jpeg_folder))
  chain = [partial(data.random_resized_crop, size=16), partial(data.aug_mix_jsd, severity=5), data.normalize]
  whole = take(3, source, chain, batch_size=4, seed=1)
  assert whole[0]["views"].shape == (4, 2, 16, 16, 3)
  assert whole[0]["views"].dtype == np.float32
  assert_same(whole[2:], take(1, source, chain, batch_size=4, seed=1, start_step=2))
  clean = take(1, source, [chain[0], data.normalize], batch_size=4, seed=1)[0]["image"]
  np.testing.assert_allclose(whole[0]["image"], clean, atol=1e-5)
  assert not np.allclose(whole[0]["views"][:, 0], whole[0]["views"][:, 1], atol=0.01)


def test_what_cannot_work_is_refused_before_the_first_batch(numbered):
  options = dict(batch_size=5, seed=0)
  for transforms, mix, said in (
    ([partial(data.aug_mix, severity=11)], [], "severity is 11"),
    ([data.aug_mix_jsd, data.flip_left_right], [], "comes after aug_mix_jsd"),
    ([], [data.mixup, data.cutmix], "would mix the labels twice"),
    ([], [data.timm_mix], "gets 5 rows; expected an even number"),
  ):
    with pytest.raises(ConfigError, match=said):
      data.train_batches(numbered(20), transforms, batch_transforms=mix, **options)


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


def draw(count, source, *, batch_size, seed, start_step=0, transforms=(), **keywords):
  stream = data.resampled_batches(
    source, transforms, batch_size=batch_size, seed=seed, start_step=start_step, **keywords
  )
  return [next(stream) for _ in range(count)]


def test_draws_are_uniform_with_replacement_and_of_their_own_seed(numbered):
  rows = np.concatenate([indices(b) for b in draw(100, numbered(20), batch_size=50, seed=4)])
  counts = np.bincount(rows, minlength=20)
  # 19 degrees of freedom: beyond 43.8 in one of a thousand.
  assert ((counts - 250) ** 2 / 250).sum() < 43.8
  pairs = np.bincount(20 * rows[:-1] + rows[1:], minlength=400)
  assert ((pairs - 4999 / 400) ** 2 / (4999 / 400)).sum() < 487
  epochs = rows[:4980].reshape(-1, 20)
  assert min(len(set(epoch)) for epoch in epochs) < 12
  other = np.concatenate([indices(b) for b in draw(100, numbered(20), batch_size=50, seed=5)])
  assert np.mean(other == rows) < 0.1


def test_draws_are_a_function_of_the_position(source):
  whole = draw(6, source, batch_size=8, seed=1, transforms=CROP)
  assert_same(draw(3, source, batch_size=8, seed=1, start_step=3, transforms=CROP), whole[3:])
  halves = [draw(2, source, batch_size=8, seed=1, transforms=CROP, shard=(i, 2)) for i in range(2)]
  joined = [{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*halves)]
  assert_same(joined, whole[:2])


def test_the_order_can_be_told_without_the_images(numbered):
  source = numbered(50)
  for batches, order in (
    (take(9, source, [], batch_size=8, seed=2), data.train_order),
    (draw(9, source, batch_size=8, seed=2), data.resampled_order),
  ):
    for step, batch in enumerate(batches):
      positions, examples = order(50, batch_size=8, seed=2, step=step)
      np.testing.assert_array_equal(positions, 8 * step + np.arange(8))
      np.testing.assert_array_equal(examples, indices(batch))
      part = order(50, batch_size=8, seed=2, step=step, shard=(1, 2))[1]
      np.testing.assert_array_equal(part, examples[4:])


def test_transforms_that_draw_are_known_by_their_seed():
  assert data.draws([data.normalize, partial(data.random_resized_crop, size=8)])
  assert not data.draws([data.normalize, partial(data.center_crop, size=8)])


def test_large_sources_are_transformed_in_a_loop_and_small_ones_in_rows(numbered, monkeypatch):
  """The two forms give the same bytes, and each is taken where it is meant to be."""
  loops = []
  whole = data.stream.Stream._all_rows
  monkeypatch.setattr(
    data.stream.Stream, "_all_rows", property(lambda stream: loops.append(1) or whole.fget(stream))
  )
  transforms = [partial(data.pad_crop, size=8, padding=2), data.flip_left_right, data.normalize]
  source, found = numbered(40), []
  for fewest, expected in ((40, 2), (41, 0)):
    loops.clear()
    loop_from(fewest, monkeypatch)
    found.append(take(6, source, transforms, batch_size=16, seed=1, batch_transforms=[data.mixup]))
    found[-1] += list(data.eval_batches(source, [data.normalize], batch_size=16))
    assert len(loops) == expected
  assert_same(*found)


def test_the_shape_of_images_is_that_of_the_first_batch(source, numbered):
  def halved(batch):
    return {**batch, "image": batch["image"][:, ::2]}

  for batch_transforms in ([], [data.mixup], [halved]):
    (batch,) = take(1, source, CROP, batch_size=8, seed=0, batch_transforms=batch_transforms)
    found = data.image_shape(source, CROP, batch_size=8, batch_transforms=batch_transforms)
    assert found == batch["image"].shape[1:]
  failing = [partial(data.pad_crop, size=80, padding=2)]
  with pytest.raises(DataError, match="the transform pad_crop fails on example"):
    data.image_shape(numbered(12), failing, batch_size=4)


def test_the_shape_of_images_is_found_behind_unreadable_ones(jpeg_folder):
  for path in sorted(jpeg_folder.rglob("*.jpg"))[:11]:
    path.write_bytes(b"junk")
  bad = data.BadRecords(11)
  source = data.from_folder(folder=str(jpeg_folder))
  assert data.image_shape(source, CROP, batch_size=4, bad_records=bad) == (16, 16, 3)
  with pytest.raises(DataError, match="cannot be read"):
    data.image_shape(source, CROP, batch_size=4)


def test_the_first_batches_are_those_of_the_stream_and_can_be_read_again(source):
  options = dict(batch_size=5, seed=1, batch_transforms=[data.mixup])
  first = data.first_batches(source, [*CROP, *ERASED], num_batches=3, **options)
  assert len(first) == 3
  for _ in range(3):
    assert_same(list(first), take(3, source, [*CROP, *ERASED], **options))


def test_a_pass_that_is_broken_off_begins_at_its_start_again(source):
  images = data.eval_batches(source, CROP, batch_size=5)
  whole = list(images)
  next(iter(images))
  assert_same(list(images), whole)


def test_a_pass_is_traced_once(numbered):
  traces = []

  def counted(example):
    traces.append(1)
    return example

  images = data.eval_batches(numbered(12), [counted], batch_size=5)
  for _ in range(3):
    list(images)
  assert len(traces) == 1
