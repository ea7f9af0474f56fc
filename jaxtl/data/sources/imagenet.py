"""ImageNet in its two usual forms: prepared by TFDS, or as the class folders of the original archives."""

from __future__ import annotations

import os
from pathlib import Path

from jaxtl.data.sources.folder import class_folders, from_folder
from jaxtl.data.sources.source import DataDir, Source
from jaxtl.data.sources.tfds import RecordSource, StreamSource, from_tfds
from jaxtl.errors import DataError

_TFDS = {"train": "train", "val": "validation"}


def imagenet(*, split: str, data_dir: DataDir = None) -> Source | RecordSource | StreamSource:
  """Opens ILSVRC 2012: 1,281,167 training and 50,000 validation images of 1,000 classes.

  Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", 2015, arXiv 1409.0575. If
  `data_dir` has a folder `train` or `val` with class folders for the split, it is read; otherwise TFDS's
  `imagenet2012` is used. The labels are the same, since both forms sort the WordNet ids.

  Args:
    split: "train" or "val".
    data_dir: the folder that holds the data; None means the working directory for class folders, and the
      default folder of TFDS otherwise.

  Raises:
    DataError: the split is unknown, or neither form is found; the message names both.
  """
  if split not in _TFDS:
    raise DataError(f"imagenet has no split {split!r}; write 'train' or 'val'")
  root = Path(os.path.expanduser(data_dir or "."))
  folders = {name: root / name for name in _TFDS if (root / name).is_dir()}
  if split in folders and class_folders(folders[split]):
    # Take the classes of both splits, so that labels agree even if one lacks a class.
    classes = sorted({name for folder in folders.values() for name in class_folders(folder)})
    return from_folder(folder=str(folders[split].absolute()), classes=classes, name=f"imagenet/{split}")
  try:
    return from_tfds(name="imagenet2012", split=_TFDS[split], data_dir=data_dir)
  except DataError as error:
    raise DataError(f"{root.absolute() / split} has no class folders, and {error}") from error
