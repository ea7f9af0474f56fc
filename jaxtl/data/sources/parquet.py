"""Sources from Parquet files: a single file, or a folder of files in the layout of the Hugging Face Hub.

Such a folder holds the files of every split in `data/` or in one folder per split, with names like
`train-00000-of-00003.parquet`. The schema specifies which columns are images and labels, and names the
classes.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxtl.data.names import split_kind
from jaxtl.data.sources.files import class_names, enumerated, locate, reading
from jaxtl.data.sources.source import DataDir, Source
from jaxtl.data.sources.storage import Encoded
from jaxtl.errors import DataError

if TYPE_CHECKING:
  import pyarrow

# train-00000-of-00003, sometimes followed by a hash.
_SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(-[0-9a-f]+)?")
_NUMBERED = re.compile(r"(?P<split>[A-Za-z]+)[-_.]\d+")


def from_parquet(
  *,
  path: str,
  split: str | None = None,
  data_dir: DataDir = None,
  label_column: str | None = None,
  image_column: str | None = None,
  classes: str | Sequence[str] | None = None,
  name: str | None = None,
) -> Source:
  """Opens the encoded images in a column of Parquet files.

  Args:
    path: a file, or a folder as read by `parquet_splits`.
    split: the split of a folder; None takes the only one.
    data_dir: the folder that `path` is relative to; None means the working directory.
    label_column: a column of integers; None takes `label`, else the only column of labels by schema, name or
      type.
    image_column: a column with the bytes of image files, or structs with a field `bytes`; None takes `image`,
      else the only column of images by schema or type.
    classes: class names, or the name of a JSON list of them next to the files; None takes the names in
      the schema, else `classes.json` next to the files or in the folder.
    name: shown in reports; None uses `folder/file` or `folder/split`.

  Raises:
    DataError: a file or column is missing, damaged or ambiguous, or the labels do not fit the classes.
  """
  place = locate(path, data_dir)
  if place.is_dir():
    splits = parquet_splits(place)
    if split is None and len(splits) != 1:
      raise DataError(
        f"{place} has the splits: {enumerated(splits)}; choose one with split"
        if splits
        else f"{place} is a folder without Parquet files; give a file, or the folder that holds them"
      )
    if split is not None and split not in splits:
      raise DataError(f"{place} has no split {split!r}; it has {', '.join(splits)}")
    split = split or next(iter(splits))
    files, shown = splits[split], f"{place.absolute().name}/{split}"
  elif split is not None:
    raise DataError(f"split is {split!r}, and {place} is one file; give its folder, or leave split out")
  else:
    files, shown = [place], f"{place.parent.name}/{place.stem}"
  schema = _schema(files[0])
  image_column = image_column or _choose(files[0], schema, "image", _image_columns(schema))
  label_column = label_column or _choose(files[0], schema, "label", _label_columns(schema))
  names = _class_names(classes, schema, label_column, files[0], place)
  parts = [_read(file, image_column, label_column, like=schema) for file in files]
  images, labels, filenames = zip(*parts, strict=True)
  return Source(
    name=name or shown,
    classes=tuple(names),
    labels=np.concatenate(labels),
    images=Encoded(_joined(images), None if None in filenames else _joined(filenames)),
  )


def parquet_splits(folder: Path) -> dict[str, list[Path]]:
  """Returns split name -> its ordered Parquet files, found in a folder or up to two levels below.

  A file belongs to the split at the start of its name, or to the split that its folder is named after. Hidden
  files are skipped.

  Raises:
    DataError: a file of a split is missing or duplicated, or the folder holds several data sets.
  """
  for pattern in ("*.parquet", "*/*.parquet", "*/*/*.parquet"):
    files = [
      file
      for file in sorted(folder.glob(pattern))
      if not any(part.startswith((".", "__")) for part in file.relative_to(folder).parts)
    ]
    if files:
      break
  places = sorted({file.parent for file in files})
  by_folder = bool(places) and folder not in places and all(split_kind(place.name) for place in places)
  sets = sorted({place.parent for place in places}) if by_folder else places
  if len(sets) > 1:
    raise DataError(f"{folder} holds several data sets: {enumerated(s.name for s in sets)}; give one folder")
  splits: dict[str, list[Path]] = {}
  for file in files:
    splits.setdefault(file.parent.name if by_folder else _split_of(file), []).append(file)
  return {split: _complete(splits[split], split) for split in splits}


def _split_of(file: Path) -> str:
  if matched := _SHARD.fullmatch(file.stem):
    return matched["split"]
  if (matched := _NUMBERED.fullmatch(file.stem)) and split_kind(matched["split"]):
    return matched["split"]
  return "all" if file.stem.isdecimal() else file.stem


def _complete(files: list[Path], split: str) -> list[Path]:
  """Returns the files of a split in the order of their numbers.

  Raises:
    DataError: a file is missing or duplicated.
  """
  shards = [matched for file in files if (matched := _SHARD.fullmatch(file.stem))]
  if len(shards) < len(files):
    # Names without a total are sorted by their numbers: 0000, 0001, ..., train_9, train_10.
    return sorted(files, key=lambda file: [int(n) for n in re.findall(r"\d+", file.stem)] or [-1])
  totals = sorted({int(shard["total"]) for shard in shards})
  numbers = [int(shard["number"]) for shard in shards]
  place = files[0].parent
  if len(totals) > 1 or len(set(numbers)) < len(numbers):
    raise DataError(
      f"{place} holds {split} more than once: {files[0].name}, {files[-1].name}; keep one set of files"
    )
  missing = sorted(set(range(totals[0])) - set(numbers))
  if missing:
    first = f"{split}-{missing[0]:05d}-of-{totals[0]:05d}.parquet"
    raise DataError(f"{place} has {len(files)} of the {totals[0]} files of {split}; add the rest, as {first}")
  return [file for _, file in sorted(zip(numbers, files, strict=True))]


# ---- columns


def _schema(file: Path) -> pyarrow.Schema:
  import pyarrow.parquet as parquet

  with reading(file, "Parquet"):
    return parquet.read_schema(file)


def _features(schema: pyarrow.Schema) -> Mapping[str, Any]:
  """Returns the features that the Hub's library stored per column, or {} if missing or unreadable."""
  try:
    features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
  except (KeyError, TypeError, ValueError):
    return {}
  if not isinstance(features, dict):
    return {}
  return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _of_type(schema: pyarrow.Schema, kind: str) -> list[str]:
  return [name for name, feature in _features(schema).items() if feature.get("_type") == kind]


def _image_columns(schema: pyarrow.Schema) -> list[str]:
  from pyarrow import types

  def holds_bytes(kind: Any) -> bool:
    struct = types.is_struct(kind) and any(field.name == "bytes" for field in kind)
    return struct or types.is_binary(kind) or types.is_large_binary(kind)

  return _of_type(schema, "Image") or [field.name for field in schema if holds_bytes(field.type)]


def _label_columns(schema: pyarrow.Schema) -> list[str]:
  from pyarrow import types

  integers = [field.name for field in schema if types.is_integer(field.type)]
  named = [name for name in integers if re.search("label|class|target|category", name.lower())]
  return _of_type(schema, "ClassLabel") or named or integers


def _choose(file: Path, schema: pyarrow.Schema, kind: str, candidates: Sequence[str]) -> str:
  """Returns the column named `kind`, else the only candidate; raises DataError if there is neither."""
  if kind in schema.names:
    return kind
  if len(candidates) == 1:
    return candidates[0]
  option = f"{kind}_column (--{kind}-column)"
  if candidates:
    raise DataError(f"{file} has several {kind} columns: {enumerated(candidates)}; choose one with {option}")
  raise DataError(f"{file} has no column {kind!r}; it has {enumerated(schema.names)}; name one with {option}")


def _class_names(
  classes: str | Sequence[str] | None, schema: pyarrow.Schema, label_column: str, file: Path, place: Path
) -> list[str]:
  feature = _features(schema).get(label_column, {})
  if classes is None and feature.get("_type") == "ClassLabel":
    names, count = feature.get("names"), feature.get("num_classes")
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
      return names
    if isinstance(count, int):
      return [str(number) for number in range(count)]
  above = place / (classes if isinstance(classes, str) else "classes.json")
  return class_names(classes, beside=above if place.is_dir() and above.is_file() else file)


def _read(
  file: Path, image_column: str, label_column: str, *, like: pyarrow.Schema
) -> tuple[list[bytes], np.ndarray, list[str] | None]:
  """Reads (images, labels, names of the images or None) from one file."""
  import pyarrow.parquet as parquet

  schema = _schema(file)
  for column in (image_column, label_column):
    if column not in schema.names:
      raise DataError(f"{file} has no column {column!r}; it has {enumerated(schema.names)}")
  if (own := _features(schema).get(label_column)) != _features(like).get(label_column):
    raise DataError(f"{file} has other class names than the first file of its split: {str(own)[:80]}")
  named = "filename" in schema.names
  with reading(file, "Parquet"):
    table = parquet.read_table(file, columns=[image_column, label_column] + ["filename"] * named)
    values = table[image_column].to_pylist()
    # Text that is not UTF-8 raises only here.
    names: list[Any] = table["filename"].to_pylist() if named else [_path(value) for value in values]
    labels = table[label_column].to_numpy()
  return _bytes(values, file, image_column), labels, None if None in names else names


def _path(value: Any) -> str | None:
  return value.get("path") if isinstance(value, dict) else None


def _bytes(values: Sequence[Any], file: Path, column: str) -> list[bytes]:
  images: list[Any] = [value.get("bytes") if isinstance(value, dict) else value for value in values]
  for index, image in enumerate(images):
    if image is None:
      raise DataError(f"{file}: example {index} has no image in column {column!r}")
    if not isinstance(image, bytes):
      raise DataError(
        f"{file}: example {index} has {type(image).__name__} in column {column!r}; "
        "expected the bytes of an image file; name the column that holds them in image_column"
      )
  return images


def _joined(lists: Iterable[Any]) -> list[Any]:
  return list(itertools.chain.from_iterable(lists))
