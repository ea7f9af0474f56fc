"""Opens the splits of a data set given by a path or a name, whose kind is inferred."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtl.data.names import shown, split_kind, split_rank, splits_of_kind
from jaxtl.data.sources.bundled import digits, photo_patches, scene_patches
from jaxtl.data.sources.files import from_npz, from_sheets, npz_splits, sheet_splits
from jaxtl.data.sources.folder import (
  class_folders,
  from_folder,
  given_names,
  refuse_numbers,
  refuse_one_class,
)
from jaxtl.data.sources.glyphs import glyphs
from jaxtl.data.sources.parquet import from_parquet, parquet_splits
from jaxtl.data.sources.source import DataDir, Source
from jaxtl.data.sources.tfds import builder_of, from_tfds
from jaxtl.data.stream import AnySource
from jaxtl.errors import DataError


def open_source(
  text: str, *, data_dir: DataDir = None, label_column: str | None = None, image_column: str | None = None
) -> Mapping[str, AnySource]:
  """Opens the splits of the data set that a user names on the command line.

  Args:
    text: a folder of class folders, or of train / val / test folders that hold them (also valid, dev,
      testing, ...); a Parquet file, or a folder of Parquet files; a folder of sheets; an npz file;
      `tfds:NAME`; `glyphs`, `digits`, `photo_patches` or `scene_patches`.
    data_dir: the folder that paths are relative to, and the data folder of TFDS.
    label_column, image_column: columns of Parquet files, as in `from_parquet`.

  Returns:
    Split name -> source; a data set without splits has the single split "all". Parquet files are read when
    their split is first used.

  Raises:
    DataError: the data set does not exist or is empty, a column is given for something other than Parquet
      files, or a folder has the name of a built-in data set.
  """
  drawn: dict[str, Callable[..., Source]] = {
    "glyphs": functools.partial(glyphs, num_examples=2000),
    "digits": digits,
    "photo_patches": photo_patches,
    "scene_patches": scene_patches,
  }
  columns: dict[str, Any] = {"label_column": label_column, "image_column": image_column}
  columns = {name: column for name, column in columns.items() if column is not None}
  place = Path(os.path.expanduser(Path(data_dir or ".") / text))
  if text in drawn and place.is_dir():
    raise DataError(
      f"{text} is a built-in data set and the folder {shown(place)}; write ./{text} for the folder"
    )
  tables = {} if text in drawn or text.startswith("tfds:") else _tables(place)
  if tables:
    return _Splits(
      {split: functools.partial(from_parquet, **tables[split], **columns) for split in _sorted_splits(tables)}
    )
  if columns:
    raise DataError(f"{next(iter(columns))} is for Parquet files, and {text} is not one; leave it out")
  if text in drawn:
    return {split: drawn[text](split=split) for split in ("train", "test")}
  if text.startswith("tfds:"):
    name = text.removeprefix("tfds:")
    return {
      split: from_tfds(name=name, split=split, data_dir=data_dir)
      for split in builder_of(name, data_dir).info.splits
    }
  if not place.exists():
    raise DataError(
      f"there is no {shown(place)}; give a folder, a .parquet or .npz file, tfds:NAME, or {', '.join(drawn)}"
    )
  return _open_file(place) if place.is_file() else _open_folder(place)


def from_name(
  *,
  name: str,
  split: str | None = None,
  data_dir: DataDir = None,
  label_column: str | None = None,
  image_column: str | None = None,
) -> AnySource:
  """Opens one split of a data set that `open_source` can open.

  Args:
    name: the data set, as the `text` of `open_source`.
    split: the split, as in `choose_split`.
    data_dir: the folder that paths are relative to, and the data folder of TFDS.
    label_column, image_column: columns of Parquet files, as in `from_parquet`.

  Raises:
    DataError: the data set or the split does not exist, or there are several splits to choose from.
  """
  splits = open_source(name, data_dir=data_dir, label_column=label_column, image_column=image_column)
  return splits[choose_split(splits, split)]


def choose_split(splits: Collection[str], split: str | None) -> str:
  """Returns the requested split; if None, the only split, else the test split, else the validation split.

  Raises:
    DataError: the split does not exist, or there are several to choose from.
  """
  if split is not None:
    if split not in splits:
      raise DataError(f"no split {split!r}; expected one of {', '.join(splits)}")
    return split
  if len(splits) == 1:
    return next(iter(splits))
  for kind in ("test", "val"):
    # Among several splits of a kind, like test and test2, prefer the plain name.
    names = splits_of_kind(splits, kind)
    plain = [name for name in names if name in ("test", "val", "validation")]
    if len(names) == 1 or plain:
      return (plain or names)[0]
  raise DataError(f"which split? Give --split, one of {', '.join(splits)}")


class _Splits(Mapping[str, AnySource]):
  """Sources opened on first use, so that evaluating on the test set does not read the training set."""

  def __init__(self, openers: Mapping[str, Callable[[], AnySource]]) -> None:
    self._openers = openers
    self._opened: dict[str, AnySource] = {}

  def __getitem__(self, split: str) -> AnySource:
    if split not in self._opened:
      self._opened[split] = self._openers[split]()
    return self._opened[split]

  def __iter__(self) -> Iterator[str]:
    return iter(self._openers)

  def __len__(self) -> int:
    return len(self._openers)


def _tables(place: Path) -> dict[str, dict[str, str]]:
  """Returns split name -> keywords of `from_parquet`; {} if there are no Parquet files."""
  if place.suffix == ".parquet" and place.is_file():
    return {place.stem: {"path": str(place)}}
  if not place.is_dir() or (place / "sheet_000.webp").is_file():
    return {}
  return {split: {"path": str(place), "split": split} for split in parquet_splits(place)}


def _open_file(file: Path) -> dict[str, AnySource]:
  openers: dict[str, Callable[[], dict[str, AnySource]]] = {
    ".npz": lambda: {split: from_npz(path=str(file), split=split) for split in npz_splits(file)},
  }
  found = openers[file.suffix]() if file.suffix in openers else {}
  if not found:
    raise DataError(
      f"{file} is not a data set; expected a .parquet file, or an .npz file with train_images, train_labels"
    )
  return found


def _open_folder(folder: Path) -> dict[str, AnySource]:
  if (folder / "sheet_000.webp").is_file():
    return {split: from_sheets(folder=str(folder), split=split) for split in sheet_splits(folder)}
  parts = class_folders(folder)
  if parts and all(map(split_kind, parts)) and not set(parts) <= set(given_names(folder) or ()):
    classes = _classes_of_splits(folder, parts)
    return {
      part: from_folder(folder=str(folder / part), classes=classes, name=f"{folder.name}/{part}")
      for part in _sorted_splits(parts)
    }
  source = from_folder(folder=str(folder))
  refuse_one_class(folder, source.classes)
  return {"all": source}


def _classes_of_splits(folder: Path, parts: Sequence[str]) -> list[str]:
  """Returns one class list for all splits, so that labels agree even if a split lacks a class."""
  given = {
    place: names for place in (folder, *(folder / part for part in parts)) if (names := given_names(place))
  }
  for place, names in given.items():
    first = next(iter(given))
    if names != given[first]:
      raise DataError(
        f"{shown(first / 'classes.json')} and {shown(place / 'classes.json')} differ; keep one of them"
      )
  if given:
    return next(iter(given.values()))
  names = sorted({name for part in parts for name in class_folders(folder / part)})
  refuse_one_class(folder / parts[0], names)
  refuse_numbers(folder, names)
  return names


def _sorted_splits(names: Collection[str]) -> list[str]:
  return sorted(names, key=lambda name: (split_rank(name), name))
