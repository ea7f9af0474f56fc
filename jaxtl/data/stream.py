"""The implementation of `pipeline`: one stream of batches for one process.

A stream has two forms. The fast form runs entirely in TensorFlow. When an image cannot be decoded, the fast
form ends and the stream continues in the careful form, which omits failing rows and replaces them in Python.
A row is the same in both forms.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxtl.data import order
from jaxtl.data.bad_records import BadRecords
from jaxtl.data.lazy_tensorflow import no_autograph, tf
from jaxtl.data.sources.source import Source
from jaxtl.data.sources.storage import Files
from jaxtl.data.sources.tfds import RecordSource, StreamSource
from jaxtl.data.transforms import images as images_lib
from jaxtl.data.transforms.declared import Transform, check_transforms, function_of
from jaxtl.errors import DataError

AnySource = Source | RecordSource | StreamSource
NumpyBatch = dict[str, np.ndarray]
Finish = Callable[[dict[str, Any]], dict[str, Any]]

# Keys of an unfinished row that are not part of a batch.
_INTERNAL = ("position", "index")
_ENDLESS = 2**62
# A loop that makes a whole batch in one call saves about 40 us per row and takes 0.1 to 0.3 s to set up. An
# evaluation pass sets it up for one pass over the source, a training stream once for many epochs.
_FEWEST_FOR_LOOP, _FEWEST_FOR_LOOP_IN_TRAINING = 4096, 128


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
  """Everything that determines the batches; `batches(start)` yields them."""

  source: AnySource
  transforms: tuple[Transform, ...]
  batch_transforms: tuple[Transform, ...]
  batch_size: int
  seed: int
  shard: tuple[int, int]
  num_threads: int | None
  bad_records: BadRecords
  training: bool
  drawn: bool = False

  def __post_init__(self) -> None:
    process, count = self.shard
    if not 0 <= process < count:
      raise DataError(
        f"shard {self.shard}: expected (process, number of processes) with process below the number"
      )
    if self.batch_size < 1 or self.batch_size % count:
      raise DataError(
        f"batch_size {self.batch_size} cannot be divided among {count} processes; give a multiple"
      )
    if not len(self.source):
      raise DataError(f"{self.source.name} is empty")
    if self.drawn and isinstance(self.source, StreamSource):
      raise DataError(
        f"single draws need random access, and {self.source.name} is a stream of records; prepare it as "
        "array_record"
      )
    check_transforms(self.transforms, self.batch_transforms, rows=self.rows)

  @property
  def rows(self) -> int:
    """Rows of each batch on this process."""
    return self.batch_size // self.shard[1]

  @property
  def stop(self) -> int:
    """The number of batches."""
    return _ENDLESS if self.training else -(-len(self.source) // self.batch_size)

  @property
  def threads(self) -> int:
    if self.num_threads:
      return self.num_threads
    # The affinity mask, where the system reports it, excludes cores that this process may not use.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

  # ---- the two forms of the stream

  def batches(self, start: int) -> Iterator[NumpyBatch]:
    # A local name, because a stream still open at Python's exit outlives the module's names.
    step, failure = start, tf.errors.OpError
    try:
      for batch in (self._from_first if start == 0 else self._fast(start)).as_numpy_iterator():
        yield self._public(batch)
        step += 1
      return
    except failure:
      # The careful form meets the failure again and reports it.
      pass
    yield from self._careful(step)

  @functools.cached_property
  def _from_first(self) -> tf.data.Dataset:
    """The stream from its first batch on, traced once: a pass over a test set is repeated many times."""
    return self._fast(0)

  def _fast(self, start: int) -> tf.data.Dataset:
    raw = self._raw(start)
    fewest = _FEWEST_FOR_LOOP_IN_TRAINING if self.training else _FEWEST_FOR_LOOP
    if self.source.pixels is not None and len(self.source) >= fewest:
      # For small images, one call per batch reduces the overhead between operations.
      batches = raw.map(self._all_rows, num_parallel_calls=self.threads)
    else:
      rows = raw.unbatch().map(self._row, num_parallel_calls=self.threads)
      batches = rows.batch(self.rows, drop_remainder=True, num_parallel_calls=2)
    if self.batch_transforms:
      batches = batches.map(self._mixed)
    return self._with_options(batches.prefetch(2))

  def _careful(self, start: int) -> Iterator[NumpyBatch]:
    """Continues the stream after a failure, row by row, so that failing rows can be replaced."""
    rows = self._raw(start).unbatch().map(self._row, num_parallel_calls=self.threads)
    rows = self._with_options(rows.prefetch(self.rows)).as_numpy_iterator()
    row, like = None, None
    for step in range(start, self.stop):
      batch: list[NumpyBatch | None] = []
      for position in self._positions(step).numpy():
        row = _next(rows) if row is None else row
        if row is not None and row["position"] == position:
          batch.append(row)
          like, row = row, None
        else:
          batch.append(self._replacement(int(position)))
      yield self._finished([self._blank(like) if found is None else found for found in batch])

  def _finished(self, rows: list[NumpyBatch]) -> NumpyBatch:
    shapes = sorted({row["image"].shape for row in rows})
    if len(shapes) > 1:
      sizes = " and ".join(f"{height} x {width}" for height, width, _ in shapes[:2])
      raise DataError(
        f"{self.source.name}: the transforms leave images of different sizes, {sizes}; "
        "add .data.random_resized_crop, or .data.resize and .data.center_crop"
      )
    batch = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    if self.batch_transforms:
      try:
        batch = {key: value.numpy() for key, value in self._mixed(batch).items()}
      except tf.errors.OpError as error:
        raise DataError(f"{self.source.name}: the batch transforms fail: {_essence(error)}") from error
    return self._public(batch)

  def _public(self, batch: NumpyBatch) -> NumpyBatch:
    """Returns the batch without internal keys, after checking its labels, which records reveal only here.

    Raises:
      DataError: a label is not the index of a class.
    """
    label, count = batch.get("label", np.zeros(0, np.int32)), len(self.source.classes)
    if label.dtype.kind in "iu" and label.size and (label.min() < 0 or label.max() >= count):
      wrong = label.min() if label.min() < 0 else label.max()
      raise DataError(
        f"{self.source.name}: an example has the label {wrong}; expected 0 to {count - 1} for the {count} "
        "classes; use a split that has labels (-1 often means that they are withheld), or another label_key"
      )
    return {key: value for key, value in batch.items() if key not in _INTERNAL}

  def image_shape(self) -> tuple[int, ...]:
    """Returns (H, W, 3) of the images of a training stream, from its first row or its first batch."""
    if self.source.pixels is not None and not self.batch_transforms:
      row = self._replacement(0, finish=self._finish)
      assert row is not None  # in training, `_replacement` returns a row or raises
      return tuple(row["image"].shape)
    # Encoded images differ in size, and batch transforms may change the size.
    return tuple(next(self.batches(0))["image"].shape[1:])

  # ---- unreadable images

  def _replacement(self, position: int, *, finish: Finish | None = None) -> NumpyBatch | None:
    """Returns the first readable row from `position` on; in evaluation, tries this position alone.

    `finish` replaces `_row` for a single row that does not justify tracing.

    Returns:
      The row; None in evaluation if it cannot be read.

    Raises:
      DataError: the records are damaged, a transform fails, too many images are unreadable, or, in training,
        no image can be read.
    """
    finish = self._row if finish is None else finish
    tried = range(position, position + len(self.source) + 1) if self.training else (position,)
    for candidate in tried:
      try:
        raw = self._raw_row(candidate)
      except tf.errors.OpError as error:
        raise DataError(
          f"{self.source.name}: the records cannot be read: {_essence(error)}; prepare the data set again"
        ) from error
      raw = {**raw, "position": tf.constant(position, tf.int64)}
      try:
        return {key: value.numpy() for key, value in finish(raw).items()}
      except tf.errors.OpError as error:
        self._blame(raw, error)
    if self.training:
      raise DataError(f"{self.source.name}: no image can be read")
    return None

  def _blame(self, raw: dict[str, tf.Tensor], problem: Exception) -> None:
    index, image = int(raw["index"]), raw["image"]
    where = self.source.where(index)
    reason: str | None = None
    if image.dtype == tf.string:
      try:
        reason = images_lib.damage(self._contents(image).numpy())
      except tf.errors.OpError:
        reason = "the file cannot be opened"
    if reason is None:
      # The image is intact, so a transform is at fault.
      raise DataError(
        f"{self.source.name}: {self._failing(raw)} fails on {where}, {self._size(image)} pixels: "
        f"{_essence(problem)}; change its options, or put .data.resize before it"
      ) from problem
    self.bad_records.add(self.source.name, index, where=where, reason=reason)

  def _failing(self, raw: dict[str, tf.Tensor]) -> str:
    """Returns the name of the transform that fails on this row."""
    for count in range(1, len(self.transforms) + 1):
      try:
        self._transformed(raw, self.transforms[:count])
      except tf.errors.OpError:
        function = function_of(self.transforms[count - 1])
        return f"the transform {getattr(function, '__name__', function)}"
    return "a transform"

  def _size(self, image: tf.Tensor) -> str:
    height, width, _ = images_lib.to_rgb({"image": self._contents(image)})["image"].shape
    return f"{height} x {width}"

  def _blank(self, like: NumpyBatch | None) -> NumpyBatch:
    if like is None:
      raise DataError(f"{self.source.name}: no image of the first batch can be read")
    return {**{key: np.zeros_like(value) for key, value in like.items()}, "mask": np.array(False)}

  def _raw_row(self, position: int) -> dict[str, tf.Tensor]:
    if isinstance(self.source, StreamSource):
      raw = next(iter(self._records(self.source, position)))
    else:
      raw = self._fetched(tf.constant([position], tf.int64))
      raw = {key: value[0] for key, value in raw.items()}
    return raw

  # ---- order and records

  @property
  def _random_access(self) -> Source | RecordSource:
    assert not isinstance(self.source, StreamSource)
    return self.source

  def _positions(self, step: tf.Tensor | int) -> tf.Tensor:
    return order.positions_of(step, batch_size=self.batch_size, shard=self.shard)

  def _raw(self, start: int) -> tf.data.Dataset:
    """Returns batches of {position, index, mask, image} with unprocessed images, and the targets."""
    if isinstance(self.source, StreamSource):
      process, rows, size = self.shard[0], self.rows, self.batch_size
      mine = no_autograph(lambda raw: raw["position"] % size // rows == process)
      return self._records(self.source, start * size).filter(mine).batch(rows, drop_remainder=True)
    fetch = no_autograph(lambda step: self._fetched(self._positions(step)))
    # One call at a time: the fetch is Python code, and parallel calls would only wait for each other.
    return (
      tf.data.Dataset.range(start, self.stop).map(fetch, num_parallel_calls=1, deterministic=True).prefetch(2)
    )

  def _fetched(self, positions: tf.Tensor) -> dict[str, tf.Tensor]:
    count = tf.constant(len(self.source), tf.int64)
    if self.training:
      index = self._example_at(positions, count)
      mask = tf.fill(tf.shape(positions), True)
    else:
      index, mask = tf.minimum(positions, count - 1), positions < count
    pixels = self.source.pixels
    kind = tf.string if pixels is None else tf.uint8
    specs = self.source.target_specs

    def fetch(index: np.ndarray) -> list[np.ndarray]:
      images, found = self._random_access.fetch(index)
      return [images, *(found[name] for name in specs)]

    types = [kind, *(dtype for _, dtype in specs.values())]
    image, *found = tf.numpy_function(fetch, [index], types)
    image.set_shape(positions.shape if pixels is None else positions.shape + pixels.shape[1:])
    for target, (shape, _) in zip(found, specs.values(), strict=True):
      target.set_shape(positions.shape + shape)
    targets = dict(zip(specs, found, strict=True))
    return {"position": positions, "index": index, **targets, "mask": mask, "image": image}

  def _example_at(self, positions: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    if self.drawn:
      return order.drawn(positions, count=count, seed=self.seed, batch_size=self.batch_size)
    return order.shuffled(positions, count=count, seed=self.seed)

  def _records(self, source: StreamSource, start: int) -> tf.data.Dataset:
    """Returns a stream's rows from `start` on; in evaluation, the first record pads the last batch."""
    if self.training:
      records = source.shuffled(seed=self.seed, start=start)
    else:
      records = source.in_order()
      padding = self.stop * self.batch_size - len(self.source)
      records = records.concatenate(records.take(1).repeat(padding)).skip(start)
    total = _ENDLESS if self.training else len(self.source)

    @no_autograph
    def row(position: tf.Tensor, record: tuple[tf.Tensor, ...]) -> dict[str, tf.Tensor]:
      index, label, image = record
      return {"position": position, "index": index, "label": label, "mask": position < total, "image": image}

    return records.enumerate(start).map(row)

  # ---- transforms

  @functools.cached_property
  def _row(self) -> Finish:
    """`_finish`, traced once for both forms of the stream."""
    row = tf.function(self._finish, autograph=False, reduce_retracing=True)
    return no_autograph(lambda raw: row(raw))

  def _finish(self, raw: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Turns a raw row into a finished row."""
    example = self._transformed(raw, self.transforms)
    image = tf.cast(images_lib.to_rgb(example)["image"], tf.float32)
    targets = {name: example[name] for name in self.source.target_specs}
    views = {"views": example["views"]} if "views" in example else {}
    return {"position": raw["position"], "image": image, **views, **targets, "mask": raw["mask"]}

  def _transformed(self, raw: dict[str, tf.Tensor], transforms: tuple[Transform, ...]) -> images_lib.Example:
    seed = tf.stack([tf.constant(self.seed, tf.int64), raw["position"]])
    targets = {name: raw[name] for name in self.source.target_specs}
    example: images_lib.Example = {"image": self._contents(raw["image"]), **targets}
    for number, transform in enumerate(transforms):
      own = tf.random.experimental.stateless_fold_in(seed, tf.constant(number, tf.int64))
      example = transform(example, own) if takes_seed(transform) else transform(example)
    return example

  @property
  def _all_rows(self) -> Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]:
    pixels = np.asarray(self.source.pixels)
    image = tf.TensorSpec(pixels.shape[1:], tf.uint8)
    scalars = {"position": tf.int64, "index": tf.int64, "mask": tf.bool}
    raw = {key: tf.TensorSpec((), dtype) for key, dtype in scalars.items()} | {"image": image}
    raw |= {key: tf.TensorSpec(shape, dtype) for key, (shape, dtype) in self.source.target_specs.items()}
    row = tf.function(self._row, autograph=False).get_concrete_function(raw)
    signature = {key: tf.TensorSpec.from_tensor(value) for key, value in row.structured_outputs.items()}
    return no_autograph(lambda batch: tf.map_fn(self._row, batch, fn_output_signature=signature))

  def _contents(self, image: tf.Tensor) -> tf.Tensor:
    on_disk = isinstance(self.source, Source) and isinstance(self.source.images, Files)
    return tf.io.read_file(image) if on_disk else image

  @functools.cached_property
  def _mixed(self) -> Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]:
    seeded_ones = [takes_seed(transform) for transform in self.batch_transforms]

    @tf.function(autograph=False)
    def mixed(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
      # Any position of the batch gives its number, so the seed is the same on every process.
      seed = tf.stack([tf.constant(self.seed, tf.int64), batch["position"][0] // self.batch_size])
      for number, (transform, seeded) in enumerate(zip(self.batch_transforms, seeded_ones, strict=True)):
        # Numbers from 2 ** 20 on keep these draws separate from those of single examples.
        own = tf.random.experimental.stateless_fold_in(seed, tf.constant(2**20 + number, tf.int64))
        batch = transform(batch, own) if seeded else transform(batch)
      return dict(batch)

    return no_autograph(lambda batch: mixed(batch))

  def _with_options(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.threading.private_threadpool_size = self.threads
    options.threading.max_intra_op_parallelism = 1
    return dataset.with_options(options)


def _next(rows: Iterator[NumpyBatch]) -> NumpyBatch | None:
  """Returns the next row, or None if it failed or none is left; the iterator survives a failing row."""
  try:
    return next(rows, None)
  except tf.errors.OpError:
    return None


def takes_seed(transform: Transform) -> bool:
  """Returns whether a transform is random, which means that its second argument is a seed."""
  parameters = list(inspect.signature(transform).parameters.values())[1:2]
  return any(p.name == "seed" and p.kind is not p.KEYWORD_ONLY for p in parameters)


def _essence(error: Exception) -> str:
  """Returns the line of TensorFlow's message that states the cause, without the names of nodes."""
  # The cause is the last line before the list of nodes, "[[{{node Slice}}]] [Op:...]".
  lines = [line.strip() for line in str(error).split("[[")[0].splitlines() if line.strip()]
  return re.sub(r"\{\{.*?\}\}\s*", "", lines[-1]) if lines else type(error).__name__
