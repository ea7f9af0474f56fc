"""Data sets that TensorFlow Datasets has prepared on disk; nothing is downloaded here."""

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
from jaxtl.data.sources.source import (
  LABEL,
  DataDir,
  Source,
  TargetSpec,
  checked_labels,
  describe,
  read_encoded,
)
from jaxtl.data.sources.storage import Encoded, sampled
from jaxtl.errors import DataError, printable

# Records in the shuffle buffer of a stream; for ImageNet, about 1.5 GB of undecoded images.
_BUFFER = 16_384
# Files that are interleaved.
_FILES_AT_ONCE = 16
# A record of a stream has the index (file number) * _PER_FILE + (record number).
_PER_FILE = 2**32
# Number of blocks sampled from a file of records. They reveal a replaced file, but a single replaced record
# of a large file may lie between them.
_SAMPLED_BLOCKS = 64


@dataclasses.dataclass(frozen=True, eq=False)
class RecordSource:
  """Random access to ArrayRecord files; like a `Source` whose labels are in the records.

  Attributes:
    name, classes, kind: as in `Source`.
    records: TFDS's data source, which returns one mapping per index and leaves images encoded.
    keys: (image, label), the names of the two features in a record.
    identity: text that `fingerprint` hashes instead of the images: version, split, and samples of the files.
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
    """Labels int32 [N]; reads every record, which is slow for a large data set.

    Raises:
      DataError: a label is not the index of a class.
    """
    parts = np.array_split(np.arange(len(self)), 1 + len(self) // 1024)
    labels = np.concatenate([self.fetch(part)[1]["label"] for part in parts])
    return checked_labels(labels, images=self.images, num_classes=len(self.classes), name=self.name)

  @property
  def target_specs(self) -> dict[str, TargetSpec]:
    """As in `Source`."""
    return LABEL

  def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the encoded images [b] and the labels [b], as `Source.fetch` does."""
    chosen = indices if self.indices is None else self.indices[indices]
    records = self.records.__getitems__([int(index) for index in chosen])
    image, label = self.keys
    images = np.empty(len(records), object)
    images[:] = [record[image] for record in records]
    # Clip, since a label beyond int32 would wrap to another class; a clipped one is refused later.
    labels = np.array([int(record[label]) for record in records], np.int64)
    return images, {"label": np.clip(labels, -1, np.iinfo(np.int32).max).astype(np.int32)}

  def where(self, index: int) -> str:
    return describe(index, None)

  def file_name(self, index: int) -> None:
    """Returns None, because a record is not a file."""

  def read(self, index: int) -> np.ndarray:
    """Returns one decoded image, uint8 [H, W, 3]; raises DataError if it cannot be decoded."""
    return read_encoded(self.images[index], name=self.name, where=self.where(index))

  def take(self, indices: np.ndarray, *, name: str | None = None) -> RecordSource:
    """Returns a source of the examples at `indices`, in that order."""
    chosen = np.asarray(indices, np.int64) if self.indices is None else self.indices[indices]
    return dataclasses.replace(self, indices=chosen, name=name or self.name)

  def fingerprint(self) -> str:
    chosen = b"all" if self.indices is None else np.ascontiguousarray(self.indices, "<i8").tobytes()
    return _short_hash(self.classes, self.identity.encode() + chosen)


@dataclasses.dataclass(frozen=True, eq=False)
class StreamSource:
  """Sequential access to TFRecord files; every epoch shuffles the order of files and a buffer of records.

  To start inside an epoch, the preceding records are read and discarded without being decoded. Every process
  reads all records and keeps its own rows; for many processes, prepare the data set as ArrayRecord.

  Attributes:
    name, classes, kind: as in `Source`.
    num_examples: number of records in one epoch.
    files: (path, records to skip, records to take) of each file.
    parse: serialized record -> (label, encoded image).
    identity: text that `fingerprint` hashes.
    buffer: number of records in the shuffle buffer.
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
  def target_specs(self) -> dict[str, TargetSpec]:
    """As in `Source`."""
    return LABEL

  @property
  def pixels(self) -> None:
    return None

  def where(self, index: int) -> str:
    file, record = divmod(index, _PER_FILE)
    return f"record {record} of {Path(self.files[file][0]).name}"

  def file_name(self, index: int) -> None:
    """Returns None, because a record is not a file."""

  def fingerprint(self) -> str:
    return _short_hash(self.classes, self.identity.encode())

  def in_order(self) -> tf.data.Dataset:
    """Returns one pass of (index, label, image) in the order of the files."""
    return self._read(self._files()).map(no_autograph(self._parsed), num_parallel_calls=2, deterministic=True)

  def shuffled(self, *, seed: int, start: int = 0) -> tf.data.Dataset:
    """Returns the endless stream of (index, label, image) from position `start` on, epoch after epoch."""
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
    """Reads all records into memory and returns a source with random access; meant for small data sets."""
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
    # As in `RecordSource.fetch`: a label beyond int32 must not wrap to a valid class.
    return index, tf.cast(tf.clip_by_value(tf.cast(label, tf.int64), -1, tf.int32.max), tf.int32), image


class _Images(Sequence):
  """The encoded images of a `RecordSource`, one by one."""

  def __init__(self, source: RecordSource) -> None:
    self._source = source

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: Any) -> bytes:
    return self._source.fetch(np.array([index]))[0][0]


def from_tfds(
  *,
  name: str,
  split: str,
  data_dir: DataDir = None,
  label_key: str = "label",
  image_key: str = "image",
) -> RecordSource | StreamSource:
  """Opens a data set that TensorFlow Datasets has prepared.

  Prepared as ArrayRecord (`tfds build NAME --file_format=array_record`), it has random access; as TFRecord,
  TFDS's default, it is a shuffled stream. A data set made from archives that the user has to fetch, such as
  ImageNet, is prepared here once if the archives are in `downloads/manual` below `data_dir`. No other data
  set is prepared here. Images stay encoded until the pipeline needs their pixels.

  Args:
    name: name of the data set, with an optional config and version: `imagenet2012`, `imagenette/320px-v2`.
    split: the split in TFDS's notation, for example `train[:99%]`.
    data_dir: the folder of TFDS's prepared data sets; None means its default, `~/tensorflow_datasets`.
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
  """Returns TFDS's builder of a prepared data set.

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
  """Prepares a data set from archives that the user put into `manual`, and returns its builder."""
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
  """Returns the name of a file of records and a digest of its size and sampled bytes."""
  return f"{file.name} {hashlib.sha256(sampled(os.fsencode(file), blocks=_SAMPLED_BLOCKS)).hexdigest()}"


def _short_hash(classes: Sequence[str], content: bytes) -> str:
  return hashlib.sha256(json.dumps(classes).encode() + content).hexdigest()[:16]
