"""The pipeline from a source to numpy batches: order, distribution over processes, and transforms.

Order and noise are functions of (seed, position). Position p of the endless training stream is row p mod B of
batch p div B. It shows one example of epoch p div N, found by a keyed permutation, and its transforms draw
from (seed, p). Therefore batch n depends only on the seed and n, and not on where the stream was started or
on how many processes share it.

Handling unreadable images costs nothing if there are none. Images are decoded inside TensorFlow; only after a
failure does the stream continue in a second form, which omits failing rows and replaces them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from jaxtl.data import order
from jaxtl.data.bad_records import BadRecords
from jaxtl.data.stream import AnySource, NumpyBatch, Stream, Transform, takes_seed


def train_batches(
  source: AnySource,
  transforms: Sequence[Transform],
  *,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  batch_transforms: Sequence[Transform] = (),
  shard: tuple[int, int] = (0, 1),
  num_threads: int | None = None,
  bad_records: BadRecords | None = None,
) -> Iterator[NumpyBatch]:
  """Returns the endless training stream; every epoch shows each example once, in its own order.

  Epochs follow each other without a break, so a batch can hold the end of one epoch and the start of the
  next.

  Args:
    source: the training data.
    transforms: functions `(example, *, ...)` or `(example, seed, *, ...)` with their keywords already bound;
      TensorFlow operations only.
    batch_size: rows of the global batch, over all processes.
    seed: seed of the order and the noise.
    start_step: number of the first batch to return; costs nothing with random access.
    batch_transforms: transforms of a whole batch, for example `mixup`.
    shard: (this process, number of processes); each gets batch_size / processes consecutive rows.
    num_threads: threads that decode and transform; None uses every core available to this process.
    bad_records: the budget of unreadable images; None stops at the first. An allowed one is replaced by the
      example of the next position.

  Returns:
    Batches as in `jaxtl.types`, as read-only arrays: image float32 [b, H, W, 3], label int32 [b], mask bool
    [b], and label_b, weight from mixup and cutmix.

  Raises:
    DataError: the arguments do not fit together; while iterating, too many images are unreadable, or the
      transforms leave images of different sizes.
  """
  return _endless(
    source, transforms, batch_size, seed, batch_transforms, shard, num_threads, bad_records, drawn=False
  ).batches(start_step)


def resampled_batches(
  source: AnySource,
  transforms: Sequence[Transform],
  *,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  batch_transforms: Sequence[Transform] = (),
  shard: tuple[int, int] = (0, 1),
  num_threads: int | None = None,
  bad_records: BadRecords | None = None,
) -> Iterator[NumpyBatch]:
  """Returns an endless stream whose rows are drawn independently, uniformly and with replacement.

  Args, Returns and Raises: as in `train_batches`; DataError also for a stream of records. When used together
  with a training stream, give it another seed: equal seeds draw the same noise for the same position.
  """
  return _endless(
    source, transforms, batch_size, seed, batch_transforms, shard, num_threads, bad_records, drawn=True
  ).batches(start_step)


def _endless(
  source: AnySource,
  transforms: Sequence[Transform],
  batch_size: int,
  seed: int,
  batch_transforms: Sequence[Transform],
  shard: tuple[int, int],
  num_threads: int | None,
  bad_records: BadRecords | None,
  *,
  drawn: bool,
) -> Stream:
  return Stream(
    source,
    tuple(transforms),
    tuple(batch_transforms),
    batch_size,
    seed,
    shard,
    num_threads,
    BadRecords() if bad_records is None else bad_records,
    True,
    drawn,
  )


def train_order(
  num_examples: int, *, batch_size: int, seed: int, step: int, shard: tuple[int, int] = (0, 1)
) -> tuple[np.ndarray, np.ndarray]:
  """Returns (positions, examples) int64 [b] of this process's rows of batch `step` of `train_batches`."""
  positions = order.positions_of(step, batch_size=batch_size, shard=shard)
  return positions.numpy(), order.shuffled(positions, count=num_examples, seed=seed).numpy()


def resampled_order(
  num_examples: int, *, batch_size: int, seed: int, step: int, shard: tuple[int, int] = (0, 1)
) -> tuple[np.ndarray, np.ndarray]:
  """Returns (positions, examples) int64 [b] of this process's rows of batch `step` of `resampled_batches`."""
  positions = order.positions_of(step, batch_size=batch_size, shard=shard)
  return positions.numpy(), order.drawn(
    positions, count=num_examples, seed=seed, batch_size=batch_size
  ).numpy()


def image_shape(
  source: AnySource,
  transforms: Sequence[Transform],
  *,
  batch_size: int,
  batch_transforms: Sequence[Transform] = (),
  shard: tuple[int, int] = (0, 1),
  bad_records: BadRecords | None = None,
) -> tuple[int, ...]:
  """Returns the shape (H, W, 3) of the images of `train_batches`.

  Produces one image if the source holds pixels in memory and there are no batch transforms, else one batch.

  Args and Raises: as in `train_batches`.
  """
  return _endless(
    source, transforms, batch_size, 0, batch_transforms, shard, None, bad_records, drawn=False
  ).image_shape()


def draws(transforms: Sequence[Transform]) -> bool:
  """Returns whether one of the transforms is random, which means that it takes a seed."""
  return any(map(takes_seed, transforms))


def eval_batches(
  source: AnySource,
  transforms: Sequence[Transform],
  *,
  batch_size: int,
  shard: tuple[int, int] = (0, 1),
  num_threads: int | None = None,
  seed: int = 0,
  bad_records: BadRecords | None = None,
) -> Iterable[NumpyBatch]:
  """Returns one exact pass in the order of the source; it can be iterated repeatedly and has a length.

  Every process gets ceil(N / batch_size) batches of the same shape. Rows beyond the last example and rows of
  allowed unreadable images have mask False and do not count.

  Args, Returns and Raises: as in `train_batches`. The seed matters only to random transforms.
  """
  stream = Stream(
    source,
    tuple(transforms),
    (),
    batch_size,
    seed,
    shard,
    num_threads,
    BadRecords() if bad_records is None else bad_records,
    False,
  )
  return _Pass(stream, stream.stop)


def first_batches(
  source: AnySource,
  transforms: Sequence[Transform],
  *,
  num_batches: int,
  batch_size: int,
  seed: int,
  batch_transforms: Sequence[Transform] = (),
  shard: tuple[int, int] = (0, 1),
  num_threads: int | None = None,
  bad_records: BadRecords | None = None,
) -> Iterable[NumpyBatch]:
  """Returns the first batches of `train_batches`; they can be iterated repeatedly and have a length.

  Args, Returns and Raises: as in `train_batches`.
  """
  stream = _endless(
    source, transforms, batch_size, seed, batch_transforms, shard, num_threads, bad_records, drawn=False
  )
  return _Pass(stream, num_batches)


@dataclasses.dataclass(frozen=True)
class _Pass:
  stream: Stream
  length: int

  def __len__(self) -> int:
    return self.length

  def __iter__(self) -> Iterator[NumpyBatch]:
    return itertools.islice(self.stream.batches(0), self.length)
