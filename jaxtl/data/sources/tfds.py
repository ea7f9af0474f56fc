"""Data sets that TensorFlow Datasets has prepared on disk. Nothing is downloaded here."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.data.lazy_tensorflow import no_autograph, tf
from jaxtl.data.names import shown
from jaxtl.data.sources.source import DataDir, Source, checked_labels, describe, read_encoded
from jaxtl.data.sources.storage import Encoded, sampled
from jaxtl.errors import DataError, printable

# Records that the buffer shuffle of a stream holds; undecoded, about 1.5 GB of ImageNet.
_BUFFER = 16_384
# Files that are read in turns.
_FILES_AT_ONCE = 16
# A record of a stream is named by (file number) * _PER_FILE + (record number).
_PER_FILE = 2**32
# Blocks of a file that stand for its records. They show a replaced file; one replaced record of a large file
# may lie between them.
_SAMPLED_BLOCKS = 64


@dataclasses.dataclass(frozen=True, eq=False)
class RecordSource:
  """Random access to ArrayRecord files; a `Source` whose labels are in the records.

  Attributes:
    name, classes, kind: as in `Source`.
    records: TFDS's data source, which gives a mapping for each index and leaves images encoded.
    keys: (image, label), the names of the two features in a record.
    identity: what `fingerprint` hashes in place of the images: version, split, and samples of its files.
    indices: the chosen records; None for all.
  """

  name: str
  classes: tuple[str, ...]
  records: Any
  keys: tuple[str, str]
  identity: str
  indices: np.ndarray | None = None
  kind: str = "real"

  def __len__(self) -> int:
    return len(self.records) if self.indices is None else len(self.indices)

  @property
  def pixels(self) -> None:
    return None

  @property
  def images(self) -> _Images:
    return _Images(self)

  @functools.cached_property
  def labels(self) -> np.ndarray:
    """int32 [N]; reads every record, which is slow for a large set. Raises DataError for a label that is the
    index of no class."""
    parts = np.array_split(np.arange(len(self)), 1 + len(self) // 1024)
    labels = np.concatenate([self.fetch(part)[0] for part in parts])
    return checked_labels(labels, images=self.images, num_classes=len(self.classes), name=self.name)

  def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([b] labels, [b] encoded images)."""
    chosen = indices if self.indices is None else self.indices[indices]
    records = self.records.__getitems__([int(index) for index in chosen])
    image, label = self.keys
    images = np.empty(len(records), object)
    images[:] = [record[image] for record in records]
    # A label beyond int32 is refused later, as the label of no class; cut off, it might be another class's.
    labels = np.array([int(record[label]) for record in records], np.int64)
    return np.clip(labels, -1, np.iinfo(np.int32).max).astype(np.int32), images

  def where(self, index: int) -> str:
    return describe(index, None)

  def file_name(self, index: int) -> None:
    """None: a record is no file."""

  def read(self, index: int) -> np.ndarray:
    """One image, decoded: uint8 [H, W, 3]. Raises DataError if it cannot be."""
    return read_encoded(self.images[index], name=self.name, where=self.where(index))

  def take(self, indices: np.ndarray, *, name: str | None = None) -> RecordSource:
    """The examples at `indices`, in that order."""
    chosen = np.asarray(indices, np.int64) if self.indices is None else self.indices[indices]
    return dataclasses.replace(self, indices=chosen, name=name or self.name)

  def fingerprint(self) -> str:
    chosen = b"all" if self.indices is None else np.ascontiguousarray(self.indices, "<i8").tobytes()
    return _short_hash(self.classes, self.identity.encode() + chosen)


@dataclasses.dataclass(frozen=True, eq=False)
class StreamSource:
  """TFRecord files, read from front to back: every epoch shuffles the order of the files and a buffer of
  records.

  To start inside an epoch, the records before are read and thrown away without being decoded. Every process
  reads all records and keeps its rows; for many processes, prepare the data set as ArrayRecord.

  Attributes:
    name, classes, kind: as in `Source`.
    num_examples: records of one epoch.
    files: (path, records to skip, records to take) of each file.
    parse: serialized record -> (label, encoded image).
    identity: what `fingerprint` hashes.
    buffer: records that the shuffle holds.
  """

  name: str
  classes: tuple[str, ...]
  num_examples: int
  files: tuple[tuple[str, int, int], ...]
  parse: Any
  identity: str
  buffer: int = _BUFFER
  kind: str = "real"

  def __len__(self) -> int:
    return self.num_examples

  @property
  def pixels(self) -> None:
    return None

  def where(self, index: int) -> str:
    file, record = divmod(index, _PER_FILE)
    return f"record {record} of {Path(self.files[file][0]).name}"

  def file_name(self, index: int) -> None:
    """None: a record is no file."""

  def fingerprint(self) -> str:
    return _short_hash(self.classes, self.identity.encode())

  def in_order(self) -> tf.data.Dataset:
    """One pass: (index, label, image) in the order of the files."""
    return self._read(self._files()).map(no_autograph(self._parsed), num_parallel_calls=2, deterministic=True)

  def shuffled(self, *, seed: int, start: int = 0) -> tf.data.Dataset:
    """The endless stream from position `start` on: (index, label, image), epoch after epoch."""
    first, inside = divmod(start, self.num_examples)

    @no_autograph
    def epoch(number: tf.Tensor) -> tf.data.Dataset:
      pair = tf.stack([tf.constant(seed, tf.int64), number])
      seeds = tf.random.stateless_uniform([2], pair, 0, 2**62, tf.int64)
      files = self._files().shuffle(len(self.files), seed=seeds[0], reshuffle_each_iteration=False)
      records = self._read(files).shuffle(self.buffer, seed=seeds[1], reshuffle_each_iteration=False)
      return records.skip(tf.where(number == first, tf.constant(inside, tf.int64), 0))

    epochs = tf.data.Dataset.range(first, 2**62).flat_map(epoch)
    return epochs.map(no_autograph(self._parsed), num_parallel_calls=2, deterministic=True)

  def gather(self) -> Source:
    """All records in memory, as a source with random access; for small sets."""
    indices, labels, images = zip(*self.in_order().as_numpy_iterator(), strict=True)
    names = [self.where(int(index)) for index in indices]
    return Source(
      name=self.name, classes=self.classes, labels=np.array(labels), images=Encoded(images, names)
    )

  def _files(self) -> tf.data.Dataset:
    paths, skips, takes = (list(column) for column in zip(*self.files, strict=True))
    numbers = np.arange(len(paths), dtype=np.int64)
    return tf.data.Dataset.from_tensor_slices(
      (numbers, paths, np.array(skips, np.int64), np.array(takes, np.int64))
    )

  def _read(self, files: tf.data.Dataset) -> tf.data.Dataset:
    @no_autograph
    def records(number: tf.Tensor, path: tf.Tensor, skip: tf.Tensor, take: tf.Tensor) -> tf.data.Dataset:
      numbered = tf.data.TFRecordDataset(path).enumerate().skip(skip).take(take)
      return numbered.map(no_autograph(lambda i, r: (number * _PER_FILE + i, r)))

    return files.interleave(
      records, cycle_length=_FILES_AT_ONCE, block_length=16, num_parallel_calls=4, deterministic=True
    )

  def _parsed(self, index: tf.Tensor, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    label, image = self.parse(record)
    # As in `RecordSource.fetch`: a label beyond int32 stays the label of no class.
    return index, tf.cast(tf.clip_by_value(tf.cast(label, tf.int64), -1, tf.int32.max), tf.int32), image


class _Images(Sequence):
  """The encoded images of a `RecordSource`, one by one."""

  def __init__(self, source: RecordSource) -> None:
    self._source = source

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: Any) -> bytes:
    return self._source.fetch(np.array([index]))[1][0]


def from_tfds(
  *,
  name: str,
  split: str,
  data_dir: DataDir = None,
  label_key: str = "label",
  image_key: str = "image",
) -> RecordSource | StreamSource:
  """A data set that TensorFlow Datasets has prepared.

  Prepared as ArrayRecord (`tfds build NAME --file_format=array_record`) it has random access; as TFRecord,
  TFDS's default, it is a shuffled stream. One that is made of archives which the user has to fetch, ImageNet
  among them, is prepared here, once, where they lie in `downloads/manual` below `data_dir`; nothing else is.
  Images stay encoded until the pipeline needs their pixels.

  Args:
    name: of the data set, with a config and version where wanted: `imagenet2012`, `imagenette/320px-v2`.
    split: in TFDS's notation, `train[:99%]`.
    data_dir: where TFDS keeps prepared data sets; None means its default, `~/tensorflow_datasets`.
    label_key, image_key: names of the features.

  Raises:
    DataError: the data set is unknown or not prepared, or has no such split or feature.
  """
  import tensorflow_datasets as tfds

  builder = builder_of(name, data_dir)
  features = builder.info.features
  for key in (label_key, image_key):
    if key not in features:
      raise DataError(f"TFDS {name} has no feature {key!r}; it has {', '.join(features)}")
  try:
    info = builder.info.splits[split]
  except (KeyError, ValueError) as error:
    known = ", ".join(builder.info.splits)
    raise DataError(
      f"TFDS {name} has no split {split!r}; it has {known}, and parts like train[:90%]"
    ) from error
  label = features[label_key]
  if not getattr(label, "num_classes", None):
    raise DataError(f"TFDS {name}: the feature {label_key!r} has no classes; name a ClassLabel in label_key")
  classes = getattr(label, "names", None) or [str(number) for number in range(label.num_classes)]
  instructions = info.file_instructions
  described = [builder.info.full_name, split, info.num_examples, builder.info.dataset_size]
  files = [Path(part.filename) for part in instructions]
  common: dict[str, Any] = {
    "name": f"{builder.name}/{split}",
    "classes": tuple(map(shown, classes)),
    "identity": json.dumps([*described, *(_identity(file) for file in files)]),
  }
  decoders = {image_key: tfds.decode.SkipDecoding()}
  if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
    records = builder.as_data_source(split, decoders=decoders)
    return RecordSource(records=records, keys=(image_key, label_key), **common)

  def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    example = features.deserialize_example(record, decoders=decoders)
    return example[label_key], example[image_key]

  parts = tuple((str(part.filename), part.skip, part.take) for part in instructions)
  return StreamSource(num_examples=info.num_examples, files=parts, parse=parse, **common)


def builder_of(name: str, data_dir: DataDir) -> Any:
  """TFDS's builder of a prepared data set.

  Raises:
    DataError: the data set is unknown, or not prepared in `data_dir`.
  """
  import tensorflow_datasets as tfds

  place = Path(os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR))
  try:
    builder = tfds.builder(name, data_dir=str(place), try_gcs=False)
  except tfds.core.DatasetNotFoundError as error:
    raise DataError(f"TFDS has no data set {name!r}, and {place} holds none of that name") from error
  manual = place / "downloads" / "manual"
  if not builder.data_path.exists() and builder.MANUAL_DOWNLOAD_INSTRUCTIONS and manual.is_dir():
    builder = _prepared(name, place, manual)
  if not builder.data_path.exists():
    command = f"tfds build {name} --data_dir {place} --file_format=array_record"
    archive = manual / "ILSVRC2012_img_train.tar"
    first = f" (first put the archive at {archive})" if name.startswith("imagenet2012") else ""
    raise DataError(f"TFDS {name} is not prepared: there is no {builder.data_path}; run `{command}`{first}")
  return builder


def _prepared(name: str, place: Path, manual: Path) -> Any:
  """The builder, after it has prepared its data set from archives that the user put into `manual`."""
  import tensorflow_datasets as tfds

  builder = tfds.builder(name, data_dir=str(place), try_gcs=False, file_format="array_record")
  config = tfds.download.DownloadConfig(manual_dir=str(manual), max_examples_per_split=None)
  print(printable(f"preparing {name} from {manual} in {builder.data_path}"), file=sys.stderr, flush=True)
  try:
    builder.download_and_prepare(download_config=config)
  except (AssertionError, ValueError, OSError, tf.errors.OpError) as error:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise DataError(f"TFDS {name} cannot be prepared from {manual}: {first}") from error
  return builder


def _identity(file: Path) -> str:
  """The name of a file of records, its size, and a digest of bytes that are spread over it."""
  return f"{file.name} {hashlib.sha256(sampled(os.fsencode(file), blocks=_SAMPLED_BLOCKS)).hexdigest()}"


def _short_hash(classes: Sequence[str], content: bytes) -> str:
  return hashlib.sha256(json.dumps(classes).encode() + content).hexdigest()[:16]
