"""A source from a folder with one sub-folder of image files for each class."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxtl.data.files import class_names, locate
from jaxtl.data.sources import DataDir, Source
from jaxtl.data.storage import Files
from jaxtl.errors import DataError

# What Pillow opens besides images: documents, films, and formats that it only recognises.
_NOT_IMAGES = frozenset(
  [".pdf", ".eps", ".ps", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr", ".wmf", ".emf"]
)


def from_folder(
  *,
  folder: str,
  data_dir: DataDir = None,
  classes: str | Sequence[str] | None = None,
  name: str | None = None,
) -> Source:
  """Image files in class folders, of any depth and of every format that TensorFlow or Pillow reads.

  Files with other suffixes, and folders whose name starts with "." or "__", are left out. Whether a file can
  be decoded is found out when it is used: see `BadRecords`, or run `jaxtl data check`, which also counts the
  files that are left out.

  Args:
    folder: holds the class folders.
    data_dir: the folder that `folder` is relative to.
    classes: the folder names in the order of their labels, or the name of a JSON list of them in the folder.
      None means `classes.json` in the folder, else the sorted folder names. A class that is given needs no
      folder.
    name: shown in reports; None takes the folder's name.

  Raises:
    DataError: the folder or its class folders are missing, one holds no image or is not among the classes, or
      the folder names are numbers that sort differently as text.
  """
  root = locate(folder, data_dir)
  found = class_folders(root)
  if not found:
    raise DataError(f"{root} has no class folders; expected {root.name}/<class>/<image files>")
  listed = classes is not None or (root / "classes.json").is_file()
  names = class_names(classes, beside=root / "classes.json") if listed else found
  if not listed:
    _refuse_numbers(root, found)
  unknown = [entry for entry in found if entry not in names]
  if unknown:
    raise DataError(
      f"{root / unknown[0]} is not one of the {len(names)} classes; add it to the list, or move it away"
    )
  paths, labels = [], []
  for entry in found:
    files = _image_files(root / entry)
    if not files:
      raise DataError(f"{root / entry} holds no image files; remove the folder or fill it")
    paths += [str(file.relative_to(root)) for file in files]
    labels += [names.index(entry)] * len(files)
  return Source(
    name=name or root.name,
    classes=tuple(names),
    labels=np.array(labels),
    images=Files(root.absolute(), paths),
  )


def class_folders(root: Path) -> list[str]:
  """The sorted names of the class folders in a folder."""
  if not root.is_dir():
    raise DataError(f"{root} is a file; give the folder that holds the class folders")
  entries = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
  return [entry for entry in entries if not entry.startswith((".", "__"))]


def left_out(root: Path) -> list[str]:
  """The files in the class folders that `from_folder` leaves out because of their suffix."""
  found = [file for entry in class_folders(root) for file in _files(root / entry)]
  return [str(file.relative_to(root)) for file in found if file.suffix.lower() not in image_suffixes()]


@functools.cache
def image_suffixes() -> frozenset[str]:
  """Suffixes, in lower case, of the formats that can be decoded; Pillow knows TensorFlow's too."""
  from PIL import Image

  Image.init()
  known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
  return frozenset(known) - _NOT_IMAGES


def _image_files(folder: Path) -> list[Path]:
  return [file for file in _files(folder) if file.suffix.lower() in image_suffixes()]


def _files(folder: Path) -> list[Path]:
  """All files that are not hidden, of any depth."""
  return sorted(file for file in folder.rglob("*") if not file.name.startswith(".") and file.is_file())


def _refuse_numbers(root: Path, names: list[str]) -> None:
  # Sorted as text, folder "10" would become label 2: right in itself, wrong for whoever reads labels as
  # numbers.
  if all(name.isdecimal() for name in names) and names != sorted(names, key=int):
    raise DataError(
      f"the class folders of {root} are numbers that sort as {', '.join(names[:3])}, ...; "
      "write classes=[...] to say which label each has"
    )
