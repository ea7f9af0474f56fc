"""ImageNet as people have it: what TFDS prepared, or the class folders of the original archives."""

from __future__ import annotations

import os
from pathlib import Path

from jaxtl.data.sources.folder import class_folders, from_folder
from jaxtl.data.sources.source import DataDir, Source
from jaxtl.data.sources.tfds import RecordSource, StreamSource, from_tfds
from jaxtl.errors import DataError

_TFDS = {"train": "train", "val": "validation"}


def imagenet(*, split: str, data_dir: DataDir = None) -> Source | RecordSource | StreamSource:
  """ILSVRC 2012: 1,281,167 training and 50,000 validation images of 1,000 classes.

  Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", 2015, arXiv 1409.0575. Where
  `data_dir` has the folders `train` and `val` of class folders, those are read; else TFDS's `imagenet2012`.
  Labels are the same: both sort the WordNet ids.

  Args:
    split: "train" or "val".
    data_dir: where they are; None is the working folder for class folders, TFDS's own place for the other.

  Raises:
    DataError: another split, or neither form is there; says what was looked for.
  """
  if split not in _TFDS:
    raise DataError(f"imagenet has no split {split!r}; write 'train' or 'val'")
  root = Path(os.path.expanduser(data_dir or "."))
  folders = {name: root / name for name in _TFDS if (root / name).is_dir()}
  if split in folders and class_folders(folders[split]):
    # The classes of both splits, so that labels agree where one lacks a class.
    classes = sorted({name for folder in folders.values() for name in class_folders(folder)})
    return from_folder(folder=str(folders[split].absolute()), classes=classes, name=f"imagenet/{split}")
  try:
    return from_tfds(name="imagenet2012", split=_TFDS[split], data_dir=data_dir)
  except DataError as error:
    raise DataError(f"{root.absolute() / split} has no class folders, and {error}") from error
