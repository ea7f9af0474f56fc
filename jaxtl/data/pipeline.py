"""From a source to numpy batches: which example comes when, on which process, and what happens to it on the
way.

Order and noise are functions of (seed, position). Position p of the endless training stream is row p mod B of
batch p div B; it shows one example of epoch p div N, found by a keyed permutation, and its transforms draw
from (seed, p). So batch n depends on nothing but the seed and n: not on where the stream was started, not on
how many processes share it.

Unreadable images cost nothing where there are none: images are decoded inside TensorFlow, and only when that
fails does the stream continue in a second form that leaves failing rows out and lets this module fill the
gaps.
"""

from __future__ import annotations

import dataclasses
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
  """The endless training stream; every epoch shows each example once, in an order of its own.

  Epochs follow each other without a break, so a batch can hold the end of one and the start of the next.

  Args:
    source: what to train on.
    transforms: `(example, *, ...)` or `(example, seed, *, ...)`, keywords already bound; TensorFlow
      operations only.
    batch_size: rows of the global batch, over all processes.
    seed: of order and noise.
    start_step: the first batch to give; for random access it costs nothing.
    batch_transforms: the same for a batch, for example `mixup`.
    shard: (this process, number of processes); each gets batch_size / processes consecutive rows.
    num_threads: threads that decode and transform; None takes every core that this process may use.
    bad_records: how many unreadable images are allowed; None stops at the first. One that is allowed is
      replaced by the example of the next position.

  Returns:
    Batches as in `jaxtl.types`, as read-only arrays: image float32 [b, H, W, 3], label int32 [b], mask bool
    [b], and label_b, weight from mixup and cutmix.

  Raises:
    DataError: the arguments do not fit together; while iterating, too many unreadable images, or images that
      the transforms leave at different sizes.
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
  """The endless stream in which every row is a draw of its own, uniform and with replacement.

  Args, Returns and Raises: as in `train_batches`; DataError also for a stream of records. Beside a training
  stream, give it another seed: equal ones draw the same noise for the same position.
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
  """(positions, examples) int64 [b] of this process's rows of batch `step` of `train_batches`."""
  positions = order.positions_of(step, batch_size=batch_size, shard=shard)
  return positions.numpy(), order.shuffled(positions, count=num_examples, seed=seed).numpy()


def resampled_order(
  num_examples: int, *, batch_size: int, seed: int, step: int, shard: tuple[int, int] = (0, 1)
) -> tuple[np.ndarray, np.ndarray]:
  """The same of `resampled_batches`."""
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
  """(H, W, 3) of the images of `train_batches`.

  Makes one image if the source holds them in memory and there are no batch transforms, else one batch.

  Args and Raises: as in `train_batches`.
  """
  return _endless(
    source, transforms, batch_size, 0, batch_transforms, shard, None, bad_records, drawn=False
  ).image_shape()


def draws(transforms: Sequence[Transform]) -> bool:
  """Whether one of the transforms draws at random: it takes a seed."""
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
  """One exact pass in the order of the source; can be iterated again, and has a length.

  Every process gets ceil(N / batch_size) batches of the same shape. Rows beyond the last example, and rows of
  unreadable images that are allowed, have mask False and count for nothing.

  Args, Returns and Raises: as in `train_batches`. The seed matters only to transforms that draw.
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
  return _Pass(stream)


@dataclasses.dataclass(frozen=True)
class _Pass:
  stream: Stream

  def __len__(self) -> int:
    return self.stream.stop

  def __iter__(self) -> Iterator[NumpyBatch]:
    return self.stream.batches(0)
